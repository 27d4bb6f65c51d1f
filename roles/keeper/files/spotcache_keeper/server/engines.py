"""The two servers that may hold the data, and how they are told apart."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

REDIS = "redis"
VALKEY = "valkey"
NAMES = {REDIS: "Redis", VALKEY: "Valkey"}


def engine_of(command: Sequence[str] | None) -> str:
    """The engine that a container's command or an image's starts; its programs are called by that name."""
    first = (command or [""])[0].rpartition("/")[2]
    return VALKEY if first.startswith(f"{VALKEY}-") else REDIS


def version_of(info: Mapping[str, Any]) -> tuple[str, str]:
    """Engine and version of a server, from its INFO: `redis_version` is, in Valkey's, the Redis that it answers as."""
    if "valkey_version" in info:
        return VALKEY, str(info["valkey_version"])
    return REDIS, str(info.get("redis_version", "unknown"))
