# SPDX-License-Identifier: GPL-3.0-or-later
"""What the headers of an RDB say."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotcache_keeper.errors import DamagedError
from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.server.rdb import databases_of, read_counts, read_length
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
    with pytest.raises(DamagedError, match="claim 20003 keys, but redis-check-rdb read 20002"):
        databases_of(path, Completed(0, REPORT.replace("20003", "20002"), ""))
    with pytest.raises(DamagedError, match="did not count the keys"):
        databases_of(path, Completed(0, "", ""))
    with pytest.raises(DamagedError, match="refuses the RDB: RDB CRC error"):
        databases_of(path, Completed(1, REPORT.replace("[offset 40] Checksum OK", "[offset 40] RDB CRC error"), ""))
