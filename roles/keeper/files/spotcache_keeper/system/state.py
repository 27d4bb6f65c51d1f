"""What the keeper remembers from run to run, for `status`: the last backup, restore and error."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spotcache_keeper.system.files import read_json, readable_errors, write_atomically

_NAME = "status.json"
# Files of their own: the watcher and a backup write at the same time.
WATCH = "watch.json"
BOOT = "boot.json"
SERVING = "serving.json"
CRASH = "crash.json"


def recall(directory: Path, name: str = _NAME) -> dict[str, Any]:
    """What was remembered; empty at first, or when the file cannot be read."""
    return read_json(directory / name) or {}


def save_state(directory: Path, name: str = _NAME, /, **parts: Any) -> None:
    """Replace some parts of what is remembered.

    Raises:
        KeeperError: the file cannot be written.
    """
    with readable_errors(f"writing {directory / name}"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(directory / name, json.dumps({**recall(directory, name), **parts}, indent=2) + "\n")


def known_host(directory: Path) -> str:
    """The id of the host to which the keeper's files belong; empty where they are new."""
    try:
        return (directory / "host").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def begin_anew(directory: Path, host: str) -> None:
    """Forget what an image brought along of the host it was made from.

    Args:
        directory: of the keeper's own files.
        host: id of this one.
    """
    mark = directory / "host"
    try:
        known = mark.read_text(encoding="utf-8").strip() if mark.exists() else ""
        if known == host:
            return
        if known:
            for name in (_NAME, WATCH, BOOT, SERVING, CRASH, "drain.json"):
                (directory / name).unlink(missing_ok=True)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(mark, host + "\n")
    except OSError:
        # A disk that takes nothing is said by whoever writes next.
        return


def save_end(directory: Path, command: str, error: str | None, at: str) -> None:
    """Note how a command ended: an error stays until the same command goes well.

    Args:
        directory: of the keeper's own files.
        command: `backup` or `restore`.
        error: what failed, or None.
        at: when, as text.

    Raises:
        KeeperError: the file cannot be written.
    """
    if error is not None:
        save_state(directory, last_error={"at": at, "command": command, "message": error})
    elif (recall(directory).get("last_error") or {}).get("command") == command:
        save_state(directory, last_error=None)
