"""What an RDB file holds, from redis-check-rdb's report and a few bytes of the file.

redis-check-rdb 7.0.15 prints, for each database, `[offset N] Selecting DB ID n`; N is where the database's own
header goes on, and there every server since Redis 3.2 writes opcode 0xFB (RESIZEDB), the number of keys and the number
of keys with a time to live, each as a length (rdb.c: rdbSaveDb, rdbSaveLen). So the counts per database cost two reads,
whatever the file's size; `[info] N keys read` is what their sum must be.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from spotcache_keeper.errors import DamagedError, TooNewError
from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.system.commands import Completed
from spotcache_keeper.system.times import from_epoch

_SELECTING = re.compile(r"^\[offset (\d+)\] Selecting DB ID (\d+)$", re.MULTILINE)
_KEYS_READ = re.compile(r"^\[info\] (\d+) keys read$", re.MULTILINE)
_PROBLEM = re.compile(r"^\[offset \d+\] (?!Checking RDB|AUX FIELD|Selecting DB)(.*)$", re.MULTILINE)
# rdb.c, of a file whose first nine bytes name a version that this server does not know.
_TOO_NEW = re.compile(r"Can't handle RDB format version (\d+)")
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


def created_at(path: Path) -> datetime | None:
    """When the data in an RDB was as it stands there: the `ctime` among its first fields; None where it has none.

    Redis writes it when it begins to save (rdb.c: rdbSaveInfoAuxFields), each field as opcode 0xFA and two strings.
    """
    try:
        with path.open("rb") as file:
            if not file.read(9).startswith(b"REDIS"):
                return None
            while file.read(1) == bytes([_AUX]):
                name, value = _read_string(file), _read_string(file)
                if name == b"ctime":
                    return from_epoch(int(value))
    except (OSError, DamagedError, ValueError):
        return None
    return None


def written_at(path: Path) -> datetime:
    """When the data in an RDB was in Redis' memory. A file's own time is that of the last byte, or of a copy.

    Raises:
        OSError: there is no such file.
    """
    return created_at(path) or from_epoch(path.stat().st_mtime)


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


def databases_of(path: Path, check: Completed) -> Mapping[int, DatabaseCount]:
    """Keys per database of a checked file.

    Args:
        path: the RDB file.
        check: what redis-check-rdb said about it.

    Raises:
        TooNewError: a newer server wrote it.
        DamagedError: the check failed, or its total differs from the databases' own counts.
    """
    if (newer := _TOO_NEW.search(check.stdout + check.stderr)) is not None:
        raise TooNewError(
            f"the backup has RDB version {newer.group(1)}, which this server cannot read: a newer Redis made it. "
            "Nothing is wrong with it, and nothing older is taken in its place. Run a Redis of at least that version "
            "(redis_image), or restore an older backup by its id (--from)"
        )
    if check.returncode != 0:
        found = _PROBLEM.search(check.stdout)
        raise DamagedError(f"redis-check-rdb refuses the RDB: {found.group(1) if found else check.complaint}")
    total = _KEYS_READ.search(check.stdout)
    if total is None:
        raise DamagedError(f"redis-check-rdb ended well but did not count the keys: {check.complaint}")
    with path.open("rb") as file:
        counts = {int(number): read_counts(file, int(offset)) for offset, number in _SELECTING.findall(check.stdout)}
    if (summed := sum(count.keys for count in counts.values())) != int(total.group(1)):
        raise DamagedError(f"the RDB's databases claim {summed} keys, but redis-check-rdb read {total.group(1)}")
    return counts
