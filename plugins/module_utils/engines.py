"""The two servers that may hold the data, Redis and Valkey: their programs, their versions, and whose RDB they read."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

REDIS = "redis"
VALKEY = "valkey"
NAMES = {REDIS: "Redis", VALKEY: "Valkey"}

# Nine bytes begin an RDB. Valkey has its own since its version 9.
_MAGIC = re.compile(rb"(?:REDIS(\d{4})|VALKEY(\d{3}))")
# Of its fields, the one that says who wrote it: a name and a short text, each after its length.
_WRITER = re.compile(rb"\xfa(?:\x09(redis)|\x0a(valkey))-ver([\x01-\x3f])")
# What Redis wrote by its version, newest first, where a backup does not say it.
_REDIS_RDB = (((7, 4), 12), ((7, 2), 11), ((7, 0), 10), ((5, 0), 9))
# Redis counts on from 12. Valkey took over at 11 and goes on at 80: what lies between it refuses, whatever its version.
_REDIS_ALONE = range(12, 80)


@dataclass(frozen=True)
class Package:
    """What a release of Debian has of an engine.

    Attributes:
        version: of the server, as far as the RDB depends on it.
        rdb: the newest version of RDB that it reads, and the one that it writes.
    """

    version: str
    rdb: int


# By Debian's release: what its own packages are.
PACKAGES: Mapping[str, Mapping[str, Package]] = {
    "12": {REDIS: Package("7.0", 10)},
    "13": {REDIS: Package("8.0", 12), VALKEY: Package("8.1", 11)},
}


@dataclass(frozen=True)
class Written:
    """Who wrote an RDB.

    Attributes:
        rdb: version of the format; 0 where nothing is known.
        engine: `redis` or `valkey`; empty where it does not say.
        version: of that server; empty where it does not say.
    """

    rdb: int = 0
    engine: str = ""
    version: str = ""

    @property
    def writer(self) -> str:
        """For a person."""
        return f"{NAMES[self.engine]} {self.version}".strip() if self.engine in NAMES else "another server"


def other(engine: str) -> str:
    """The other one."""
    return REDIS if engine == VALKEY else VALKEY


def engine_of(command: Sequence[str] | None) -> str:
    """The engine that a container's command starts; its programs are called by that name."""
    first = (command or [""])[0].rpartition("/")[2]
    return VALKEY if first.startswith(f"{VALKEY}-") else REDIS


def version_of(info: Mapping[str, str]) -> tuple[str, str]:
    """Engine and version of a server, from its INFO: `redis_version` is, in Valkey's, the Redis that it answers as."""
    if "valkey_version" in info:
        return VALKEY, info["valkey_version"]
    return REDIS, info.get("redis_version", "")


def written(data: bytes) -> Written:
    """What the first bytes of a file say; nothing of what is no RDB."""
    magic = _MAGIC.match(data)
    if magic is None:
        return Written()
    found = Written(int(magic[1] or magic[2]))
    field = _WRITER.search(data)
    if field is None:
        return found
    version = data[field.end() : field.end() + field[3][0]].decode("ascii", "replace")
    return Written(found.rdb, REDIS if field[1] else VALKEY, version)


def way_round(engine: str, wrote: Written) -> str:
    """What to do where an engine does not read what was written."""
    if wrote.engine in NAMES and wrote.engine != engine:
        keep = f"Keep redis_engine: {wrote.engine}"
        begin = (
            f"To go to {NAMES[engine]} all the same, begin with nothing: destroy, then provision with "
            f"-e provision_empty=true and redis_engine: {engine}, then backup"
        )
        return f"{keep}. {begin}."
    return "Run a server of at least that version: another redis_package_version or redis_image, or a newer release."


def another(engine: str, wrote: Written) -> str:
    """What to do where an older backup is asked for that an engine does not read."""
    instead = f", or set redis_engine: {wrote.engine}" if wrote.engine in NAMES and wrote.engine != engine else ""
    return f"Restore another one{instead}."


def rdb_of_redis(version: str) -> int:
    """The version of RDB that a Redis of some version writes; 0 where that is not known."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return next((rdb for first, rdb in _REDIS_RDB if numbers >= first), 0) if numbers else 0


def reads(engine: str, rdb: int, newest: int = 0) -> bool:
    """Whether an engine reads a version of RDB, as far as is known.

    Args:
        engine: the engine.
        rdb: the version; 0 where it is not known.
        newest: that the server at hand reads; 0 where it is not known which one that is.
    """
    if not rdb:
        return True
    foreign = rdb in _REDIS_ALONE if engine == VALKEY else rdb >= _REDIS_ALONE.stop
    return not foreign and (not newest or rdb <= newest)
