"""Layouts of applications in ECS, which no run reaches before their parameters are there: the keys that they read."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils.laravel_wishes import (
    Configuration,
    Inputs,
    of,
)

# Layouts for applications that nobody can ask, by the keys of the .env that their configuration reads.
LAYOUTS = ("skeleton", "skeleton_to_10", "stores")


def assumed(inputs: Inputs, application: Inputs) -> Configuration:
    """What is taken for the configuration of an application in ECS, which nobody can ask beforehand.

    Everything that it says is the opposite of what may be wanted, so that every key is written.
    """
    stores = of(inputs, application, "stores", {}) or {}
    layout = str(application.get("layout") or ("stores" if stores else "skeleton"))
    second = "session" if layout == "stores" else "cache"
    prefixes = {"default": "REDIS_", second: "SESSION_REDIS_" if layout == "stores" else "REDIS_"}
    unknown = {"host": "", "port": "", "database": -1, "username": "", "tls": False}
    keys = {
        f"database.redis.{name}.{setting}": f"{prefix}{word}"
        for name, prefix in prefixes.items()
        for setting, word in (("host", "HOST"), ("port", "PORT"), ("password", "PASSWORD"), ("database", "DB"))
    }
    keys |= {"session.driver": "SESSION_DRIVER", "session.connection": "SESSION_CONNECTION"}
    keys |= {"queue.default": "QUEUE_CONNECTION", "database.redis.options.prefix": "REDIS_PREFIX"}
    keys |= {"cache.prefix": "CACHE_PREFIX"}
    if layout != "stores":
        keys |= {"cache.default": "CACHE_DRIVER" if layout == "skeleton_to_10" else "CACHE_STORE"}
        keys |= {"database.redis.cache.database": "REDIS_CACHE_DB"}
        keys |= {f"database.redis.{name}.username": "REDIS_USERNAME" for name in prefixes}
        keys |= {"broadcasting.default": "BROADCAST_DRIVER" if layout == "skeleton_to_10" else "BROADCAST_CONNECTION"}
    keys |= {f"cache.stores.{name}.driver": key for name, key in stores.items()}
    cache = "default" if layout == "stores" else "cache"
    found = {name: {"driver": "", "connection": "default", "lock_connection": "default"} for name in stores}
    found |= {kind: {"driver": kind, "connection": cache, "lock_connection": "default"} for kind in ("redis", "file")}
    numbers = {cache: 0 if layout == "stores" else 1, "default" if cache != "default" else "session": 0}
    numbers |= {"session": 1} if layout == "stores" else {}
    return {
        "keys": keys,
        "client": "phpredis",
        "username_key": layout != "stores",
        "default_store": "",
        "stores": found,
        "flushes_locks": False,
        "session": {"driver": "", "connection": "", "store": ""},
        "queue": {"default": "", "connections": _kinds("sync", "redis")},
        "broadcast": {"default": "", "connections": _kinds("null", "redis")},
        "horizon": "",
        "clusters": [],
        "connections": {
            name: {**unknown, "database": number, "url": False, "own": dict(unknown)}
            for name, number in numbers.items()
        },
    }


def _kinds(*kinds: str) -> dict[str, dict[str, Any]]:
    return {kind: {"driver": kind, "connection": "default" if kind == "redis" else None} for kind in kinds}
