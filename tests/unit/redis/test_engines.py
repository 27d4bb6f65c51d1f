# SPDX-License-Identifier: GPL-3.0-or-later
"""Which server reads what which one has written."""

from __future__ import annotations

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import engines
from ansible_collections.spotcache.redis.plugins.module_utils.engines import PACKAGES, REDIS, VALKEY


@pytest.mark.parametrize(
    ("engine", "rdb", "newest", "expected"),
    [
        # Valkey 8.1 writes 11, which Redis reads from 7.2 on, and not Redis 7.0.
        (REDIS, 11, 12, True),
        (REDIS, 11, 11, True),
        (REDIS, 11, 10, False),
        # Redis 8.0 writes 12, which no Valkey reads, Valkey 9 neither.
        (VALKEY, 12, 11, False),
        (VALKEY, 12, 0, False),
        (VALKEY, 12, 80, False),
        (VALKEY, 11, 80, True),
        (VALKEY, 10, 11, True),
        # Valkey 9 writes 80, which Redis does not read, nor Valkey 8.
        (VALKEY, 80, 0, True),
        (VALKEY, 80, 11, False),
        (REDIS, 80, 0, False),
        (REDIS, 13, 0, True),
        (REDIS, 0, 10, True),
    ],
)
def test_whose_rdb_is_read_by_whom(engine: str, rdb: int, newest: int, expected: bool) -> None:
    assert engines.reads(engine, rdb, newest) is expected


def test_what_redis_wrote_is_known_by_its_version() -> None:
    versions = ("8.0.2", "7.4.1", "7.2.4", "7.0.15", "6.2.1", "4.0", "unknown")
    assert [engines.rdb_of_redis(version) for version in versions] == [12, 12, 11, 10, 9, 0, 0]


def test_debians_packages_read_what_they_write() -> None:
    for packages in PACKAGES.values():
        for engine, package in packages.items():
            assert engines.reads(engine, package.rdb, package.rdb)
            if engine == REDIS:
                assert engines.rdb_of_redis(package.version) == package.rdb
