"""What applications of known layouts say of themselves, as the verification application has said it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "configurations"
# Which `.env` key is which setting's, so that a changed .env can be told as the application would tell it.
LAYOUTS = ("stores", "skeleton_to_10", "skeleton")


def configuration(layout: str, env: dict[str, Any] | None = None) -> dict[str, Any]:
    """What an application of that layout says, with these keys in its .env."""
    found: dict[str, Any] = json.loads((HERE / f"{layout}.json").read_text())
    for path, key in found["keys"].items():
        if key in (env or {}):
            put(found, path, (env or {})[key])
    return found


def put(found: dict[str, Any], path: str, value: Any) -> None:
    """Have a setting be something else, by its path in Laravel's configuration."""
    part, _dot, rest = path.partition(".")
    if path == "cache.default":
        found["default_store"] = value
    elif part == "cache" and rest.startswith("stores."):
        _, name, setting = rest.split(".")
        if setting in found["stores"][name]:
            found["stores"][name][setting] = value
    elif part == "session" and rest in found["session"]:
        found["session"][rest] = value or ""
    elif path == "queue.default":
        found["queue"]["default"] = value
    elif path == "broadcasting.default":
        found["broadcast"]["default"] = value
    elif path.startswith("database.redis."):
        name, _, setting = path.removeprefix("database.redis.").partition(".")
        if name not in found["connections"]:
            return
        if setting == "url":
            found["connections"][name]["url"] = bool(value)
        elif setting in found["connections"][name]:
            found["connections"][name][setting] = found["connections"][name]["own"][setting] = value or ""


def after(found: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """What the same application says once the plan is made."""
    changed = copy.deepcopy(found)
    for path, key in found["keys"].items():
        if key in plan["values"]:
            put(changed, path, plan["values"][key])
        if key in plan["remove"]:
            put(changed, path, None)
    return changed
