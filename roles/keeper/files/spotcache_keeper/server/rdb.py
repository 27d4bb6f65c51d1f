"""What an RDB file holds, from the report of the server's own check and a few bytes of the file.

redis-check-rdb 7.0.15 and valkey-check-rdb 8.1.1 print, for each database, `[offset N] Selecting DB ID n`; N is where
the database's own header goes on, and there every server since Redis 3.2 writes opcode 0xFB (RESIZEDB), the number of
keys and the number of keys with a time to live, each as a length (rdb.c: rdbSaveDb, rdbSaveLen). So the counts per
database cost two reads, whatever the file's size; `[info] N keys read` is what their sum must be.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from spotcache_keeper.errors import DamagedError, UnreadableError
from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.server.engines import NAMES, REDIS, VALKEY
from spotcache_keeper.system.commands import Completed
from spotcache_keeper.system.times import from_epoch

_SELECTING = re.compile(r"^\[offset (\d+)\] Selecting DB ID (\d+)$", re.MULTILINE)
_KEYS_READ = re.compile(r"^\[info\] (\d+) keys read$", re.MULTILINE)
_PROBLEM = re.compile(r"^\[offset \d+\] (?!Checking RDB|AUX FIELD|Selecting DB)(.*)$", re.MULTILINE)
# What is said of a file whose first nine bytes name a version that this server does not know. Valkey 9 says the second,
# looks on, and would not load it; a server that does not know Valkey 9's RDB says the third.
_UNREADABLE = re.compile(r"Can't handle RDB format version|(?:Foreign|Future) RDB version|Wrong signature trying")
# Nine bytes: Valkey's own since its version 9, whose RDB is version 80, which others take for no RDB at all.
_MAGIC = re.compile(rb"(?:REDIS(\d{4})|VALKEY(\d{3}))")
_WRITER = {b"redis-ver": REDIS, b"valkey-ver": VALKEY}
_RESIZEDB = 0xFB
_AUX = 0xFA


def read_length(file: BinaryIO) -> int:
    """A length as an RDB writes it: 6, 14, 32 or 64 bits.

    Raises:
        DamagedError: the file ends, or the bytes are no length.
    """

    def take(count: int) -> bytes:
        data = file.read(count)
        if len(data) != count:
            raise DamagedError("the RDB ends within a database's header")
        return data

    first = take(1)[0]
    if first >> 6 == 0:
        return first & 0x3F
    if first >> 6 == 1:
        return (first & 0x3F) << 8 | take(1)[0]
    if first == 0x80:
        return int.from_bytes(take(4), "big")
    if first == 0x81:
        return int.from_bytes(take(8), "big")
    raise DamagedError(f"the RDB has byte 0x{first:02x} where a database's size should stand")


@dataclass(frozen=True)
class Beginning:
    """What the first bytes of an RDB say.

    Attributes:
        version: of the format; 0 where it is no RDB.
        engine: of the server that wrote it, `redis` or `valkey`; empty where it does not say.
        server: that server's own version; empty where it does not say.
        created: when it began to save, so when the data was as it stands there; None where it does not say.
    """

    version: int = 0
    engine: str = ""
    server: str = ""
    created: datetime | None = None

    @property
    def writer(self) -> str:
        """Who wrote it, for a person."""
        return f"{NAMES[self.engine]} {self.server}" if self.engine else "another server"


def beginning_of(path: Path) -> Beginning:
    """What the first bytes of a file say; of one that is missing or no RDB, nothing.

    The fields are written when a save begins (rdb.c: rdbSaveInfoAuxFields), each as opcode 0xFA and two strings.
    """
    found = Beginning()
    try:
        with path.open("rb") as file:
            magic = _MAGIC.fullmatch(file.read(9))
            if magic is None:
                return found
            found = replace(found, version=int(magic.group(1) or magic.group(2)))
            while file.read(1) == bytes([_AUX]):
                name, value = _read_string(file), _read_string(file)
                if name in _WRITER:
                    found = replace(found, engine=_WRITER[name], server=value.decode("ascii", "replace"))
                elif name == b"ctime":
                    found = replace(found, created=from_epoch(int(value)))
    except (OSError, DamagedError, ValueError):
        return found
    return found


def written_at(path: Path) -> datetime:
    """When the data in an RDB was in Redis' memory. A file's own time is that of the last byte, or of a copy.

    Raises:
        OSError: there is no such file.
    """
    return beginning_of(path).created or from_epoch(path.stat().st_mtime)


def _read_string(file: BinaryIO) -> bytes:
    """A string, or a number that stands in for one.

    Raises:
        DamagedError: it is neither.
    """
    first = file.read(1)
    if first and first[0] >> 6 == 3:
        width = {0xC0: 1, 0xC1: 2, 0xC2: 4}.get(first[0])
        if width is None:
            raise DamagedError("the RDB has a compressed string among its first fields")
        return str(int.from_bytes(file.read(width), "little", signed=True)).encode()
    file.seek(-len(first), 1)
    return file.read(read_length(file))


def read_counts(file: BinaryIO, offset: int) -> DatabaseCount:
    """The counts of the database whose header goes on at `offset`.

    Raises:
        DamagedError: no such header stands there.
    """
    file.seek(offset)
    opcode = file.read(1)
    if opcode != bytes([_RESIZEDB]):
        raise DamagedError(f"the RDB has {opcode.hex() or 'nothing'} at offset {offset}, not a database's size")
    keys = read_length(file)
    return DatabaseCount(keys, read_length(file))


def unreadable(beginning: Beginning) -> str:
    """Why a file of that version is not read here, and who could."""
    # Whoever wrote it reads it, whatever else does.
    said = f": {beginning.engine}" if beginning.engine else ""
    return (
        f"the data has RDB version {beginning.version}, which this host's server cannot read: {beginning.writer} wrote "
        "it. Nothing is wrong with it, and nothing older is taken in its place. Run that server or a newer one of its "
        f"kind (redis_engine{said}; redis_image, where one is named), or restore an older backup by its id (--from)"
    )


def databases_of(path: Path, check: Completed) -> Mapping[int, DatabaseCount]:
    """Keys per database of a checked file.

    Args:
        path: the RDB file.
        check: what the server's own check said about it.

    Raises:
        UnreadableError: it is of a version that this host's server cannot read.
        DamagedError: the check failed, or its total differs from the databases' own counts.
    """
    beginning = beginning_of(path)
    # A file that is no RDB at all is damaged.
    if beginning.version and _UNREADABLE.search(check.stdout + check.stderr) is not None:
        raise UnreadableError(unreadable(beginning))
    if check.returncode != 0:
        found = _PROBLEM.search(check.stdout)
        raise DamagedError(f"the server's own check refuses the RDB: {found.group(1) if found else check.complaint}")
    total = _KEYS_READ.search(check.stdout)
    if total is None:
        raise DamagedError(f"the server's own check ended well but did not count the keys: {check.complaint}")
    with path.open("rb") as file:
        counts = {int(number): read_counts(file, int(offset)) for offset, number in _SELECTING.findall(check.stdout)}
    if (summed := sum(count.keys for count in counts.values())) != int(total.group(1)):
        raise DamagedError(f"the RDB's databases claim {summed} keys, but the server's own check read {total.group(1)}")
    return counts
