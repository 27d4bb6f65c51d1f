# SPDX-License-Identifier: GPL-3.0-or-later
"""What the headers of an RDB say."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotcache_keeper.errors import DamagedError, UnreadableError
from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.server.engines import engine_of, version_of
from spotcache_keeper.server.rdb import Beginning, beginning_of, databases_of, read_counts, read_length
from spotcache_keeper.system.commands import Completed


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_lengths_as_an_rdb_writes_them(number: int) -> None:
    if number < 1 << 6:
        data = bytes([number])
    elif number < 1 << 14:
        data = bytes([0x40 | number >> 8, number & 0xFF])
    elif number < 1 << 32:
        data = b"\x80" + struct.pack(">I", number)
    else:
        data = b"\x81" + struct.pack(">Q", number)
    assert read_length(io.BytesIO(data)) == number
    for cut in range(len(data)):
        with pytest.raises(DamagedError, match="ends within"):
            read_length(io.BytesIO(data[:cut]))


def test_other_bytes_are_no_length() -> None:
    with pytest.raises(DamagedError, match="byte 0xc0 where a database's size should stand"):
        read_length(io.BytesIO(b"\xc0"))
    with pytest.raises(DamagedError, match="has fe at offset 1, not a database's size"):
        read_counts(io.BytesIO(b"\x00\xfe\x01\x02"), 1)


REPORT = """\
[offset 0] Checking RDB file /check.rdb
[offset 27] AUX FIELD redis-ver = '7.0.15'
[offset 3] Selecting DB ID 0
[offset 9] Selecting DB ID 12
[offset 40] Checksum OK
[offset 40] \\o/ RDB looks OK! \\o/
[info] 20003 keys read
[info] 1 expires
[info] 0 already expired
"""


def test_counts_come_from_the_databases_own_headers(tmp_path: Path) -> None:
    path = tmp_path / "dump.rdb"
    path.write_bytes(b"\0\0\0" + b"\xfb\x03\x01" + b"\0\0\0" + b"\xfb\x80" + struct.pack(">I", 20000) + b"\x00")
    assert databases_of(path, Completed(0, REPORT, "")) == {0: DatabaseCount(3, 1), 12: DatabaseCount(20000, 0)}
    with pytest.raises(DamagedError, match="claim 20003 keys, but the server's own check read 20002"):
        databases_of(path, Completed(0, REPORT.replace("20003", "20002"), ""))
    with pytest.raises(DamagedError, match="did not count the keys"):
        databases_of(path, Completed(0, "", ""))
    with pytest.raises(DamagedError, match="refuses the RDB: RDB CRC error"):
        databases_of(path, Completed(1, REPORT.replace("[offset 40] Checksum OK", "[offset 40] RDB CRC error"), ""))


def field(name: str, value: str) -> bytes:
    """One of an RDB's first fields."""
    return b"\xfa" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"REDIS0012" + field("redis-ver", "8.0.2"), Beginning(12, "redis", "8.0.2")),
        (b"REDIS0011" + field("valkey-ver", "8.1.1") + field("redis-bits", "64"), Beginning(11, "valkey", "8.1.1")),
        (b"VALKEY080" + field("valkey-ver", "9.0.0"), Beginning(80, "valkey", "9.0.0")),
        (b"REDIS0010\xfa\x09redis-ver", Beginning(10)),
        (b"VALKEYx80", Beginning()),
        (b"REDIS001", Beginning()),
        (b"*2\r\n$6\r\nSELECT", Beginning()),
    ],
)
def test_the_first_bytes_say_who_wrote_an_rdb_and_of_which_version(
    tmp_path: Path, data: bytes, expected: Beginning
) -> None:
    path = tmp_path / "dump.rdb"
    path.write_bytes(data)
    assert beginning_of(path) == expected
    assert beginning_of(tmp_path / "missing") == Beginning()


# As redis-check-rdb, valkey-check-rdb 8.1.1 and that of Valkey 9 say it of a version that the server does not load.
REFUSALS = {
    b"REDIS0012": (1, "--- RDB ERROR DETECTED ---\n[offset 9] Can't handle RDB format version 12\n"),
    b"VALKEY080": (1, "--- RDB ERROR DETECTED ---\n[offset 9] Wrong signature trying to load DB from file\n"),
    b"REDIS0013": (0, "[offset 9] Foreign RDB version 13 detected\n[info] 0 keys read\n"),
}


@pytest.mark.parametrize("magic", REFUSALS)
def test_what_another_server_could_read_is_not_taken_for_damaged(tmp_path: Path, magic: bytes) -> None:
    code, said = REFUSALS[magic]
    path = tmp_path / "dump.rdb"
    path.write_bytes(magic + field("valkey-ver", "9.0.0"))
    version = int(magic[-3:])
    with pytest.raises(
        UnreadableError, match=rf"RDB version {version},.*Valkey 9\.0\.0 wrote it.*redis_engine: valkey"
    ):
        databases_of(path, Completed(code, said, ""))
    # What is no RDB at all is damaged.
    path.write_bytes(b"\0" * 9)
    with pytest.raises(DamagedError):
        databases_of(path, Completed(1, said, ""))


def test_engines_are_told_apart_by_their_programs_and_by_info() -> None:
    assert [
        engine_of(one) for one in (["valkey-server", "x"], ["/usr/bin/valkey-server"], ["redis-server"], [], None)
    ] == [
        *("valkey", "valkey"),
        *("redis", "redis", "redis"),
    ]
    # INFO of Valkey 8.1.1.
    assert version_of({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.1.1"}) == (
        "valkey",
        "8.1.1",
    )
    assert version_of({"redis_version": "8.0.2"}) == ("redis", "8.0.2")
