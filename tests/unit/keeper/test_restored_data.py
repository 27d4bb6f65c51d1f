# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore may replace, and whether what was loaded is what was backed up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from spotcache_keeper.backup.current_data import Present, verdict_on
from spotcache_keeper.backup.switch_data import compare
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.server.client import parse_info
from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.stores.manifest import Manifest

from tests.unit.keeper.examples import MANIFEST, NOON, source


def info(**more: Any) -> Any:
    """INFO of a server with ten keys."""
    base = {
        "redis_version": "7.0.15",
        "db0": {"keys": 10, "expires": 2},
        "rdb_changes_since_last_save": 0,
        "rdb_saves": 1,
        "rdb_last_bgsave_status": "ok",
        "rdb_last_load_keys_loaded": 10,
        "rdb_last_load_keys_expired": 0,
    }
    return parse_info({**base, **more})


def test_what_a_restore_may_replace() -> None:
    backup = source(1, keys=10)

    def verdict(state: Any, held: str | None, hours: float | None, *, settled: bool) -> str:
        as_of = None if hours is None else NOON + timedelta(hours=hours)
        return verdict_on(Present("running", state, held, as_of, settled), backup)[0]

    assert verdict(info(), backup.id, 1, settled=True) == "in-place"
    assert verdict(info(), None, 0.9, settled=True) == "free"
    assert verdict(info(), None, 1.1, settled=True) == "newer"
    assert verdict(info(), backup.id, 1, settled=False) == "newer"
    assert verdict(info(db0={"keys": 0, "expires": 0}), backup.id, 1, settled=True) == "free"
    assert verdict(info(db0={"keys": 0, "expires": 0}), None, 5, settled=False) == "free"
    assert verdict(None, None, None, settled=False) == "free"
    assert verdict(None, None, 0.5, settled=False) == "free"
    assert verdict(None, None, 1.5, settled=False) == "newer"
    assert verdict(None, backup.id, 1.5, settled=False) == "free"


def test_loaded_data_is_compared_with_the_manifest() -> None:
    backed_up = {0: DatabaseCount(10, 2), 4: DatabaseCount(5, 5)}
    manifest = Manifest(**{**MANIFEST.__dict__, "databases": backed_up})
    four = {"keys": 5, "expires": 5}
    good = info(db4=four, rdb_last_load_keys_loaded=15)
    assert (compare(manifest, good).keys, compare(manifest, good).compared) == (15, True)
    expired = info(
        db0={"keys": 8, "expires": 0},
        db4=four,
        rdb_last_load_keys_loaded=14,
        rdb_last_load_keys_expired=1,
        expired_keys=1,
    )
    assert (compare(manifest, expired).keys, compare(manifest, expired).expired) == (14, 1)
    written = info(db0={"keys": 99, "expires": 0}, rdb_last_load_keys_loaded=15, rdb_changes_since_last_save=3)
    assert compare(manifest, written).compared is False
    old = {"redis_version": "6.2", "db0": {"keys": 10, "expires": 0}, "db4": {"keys": 1, "expires": 1}}
    assert compare(manifest, parse_info(old)).expired == 4
    for wrong, message in (
        (info(db4=four, rdb_last_load_keys_loaded=14), "loaded 14 keys and left out 0 expired ones; the backup has 15"),
        (info(rdb_last_load_keys_loaded=15), "holds 10 keys; the backup has 15, and only 0 expired"),
        (
            info(db0={"keys": 7, "expires": 0}, db4=four, rdb_last_load_keys_loaded=12, rdb_last_load_keys_expired=3),
            "database 0 holds 7 keys; the backup has 10, of which 2 may have expired",
        ),
        (
            info(db0={"keys": 11, "expires": 0}, db4={"keys": 4, "expires": 4}, rdb_last_load_keys_loaded=15),
            "database 0 holds 11 keys",
        ),
    ):
        with pytest.raises(KeeperError) as caught:
            compare(manifest, wrong)
        assert message in str(caught.value)
