# SPDX-License-Identifier: GPL-3.0-or-later
"""Which server reads what which one has written."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.filter.engine_problems import engine_problems
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


def backup(engine: str, version: str, rdb: int, name: str = "20261122T001503Z-3f9a1c") -> dict[str, Any]:
    return {"id": name, "redis_engine": engine, "server_version": version, "rdb_version": rdb}


REDIS_8, VALKEY_8 = backup(REDIS, "8.0.2", 12), backup(VALKEY, "8.1.1", 11)


@pytest.mark.parametrize(
    ("backups", "engine", "release", "expected"),
    [
        ([], VALKEY, "13", []),
        ([REDIS_8], "", "13", []),
        ([REDIS_8], REDIS, "13", []),
        ([VALKEY_8], REDIS, "13", []),
        ([backup(REDIS, "7.0.15", 10)], VALKEY, "13", []),
        (
            [REDIS_8],
            VALKEY,
            "13",
            [
                'redis_engine is "valkey"',
                "the newest backup, 20261122T001503Z-3f9a1c, has RDB version 12 (Redis 8.0.2 wrote it)",
                "which Valkey 8.1, which Debian 13 has, cannot read",
                "Keep redis_engine: redis",
                "-e provision_empty=true",
            ],
        ),
        # An image of another one: no Valkey reads it.
        ([REDIS_8], VALKEY, "", ["which Valkey cannot read"]),
        ([VALKEY_8], REDIS, "12", ["Redis 7.0, which Debian 12 has, cannot read", "Keep redis_engine: valkey"]),
        # Nobody has said anything, and the host would be older than the data.
        ([REDIS_8], "", "12", ["redis_engine is empty, which keeps Redis", "a newer release"]),
        (
            [VALKEY_8, backup(REDIS, "8.0.2", 12, "20261101T000000Z-000000")],
            "",
            "13",
            ["the backup that is to be restored, 20261101T000000Z-000000", "another one, or set redis_engine: redis"],
        ),
    ],
)
def test_an_engine_that_cannot_read_what_there_is_is_refused(
    backups: list[dict[str, Any]], engine: str, release: str, expected: list[str]
) -> None:
    said = engine_problems(backups, engine=engine, release=release)
    assert len(said) == (1 if expected else 0)
    assert [words for words in expected if words not in said[0]] == []
