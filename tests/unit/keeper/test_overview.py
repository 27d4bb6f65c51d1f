# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line shows to people."""

from __future__ import annotations

from spotcache_keeper.overview import table


def test_a_table_is_aligned() -> None:
    text = table(("NAME", "KEYS", "NOTE"), [("a", "1,000", ""), ("long name", "2", "x")], right=(1,))
    assert text.splitlines() == ["NAME        KEYS  NOTE", "a          1,000", "long name      2  x"]
