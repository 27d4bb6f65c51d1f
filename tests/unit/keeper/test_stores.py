# SPDX-License-Identifier: GPL-3.0-or-later
"""What every place for backups keeps to, whichever it is; a new store is named in STORES and passes the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from spotcache_keeper.errors import DamagedError
from spotcache_keeper.stores.base import Retention, Store
from spotcache_keeper.stores.local import VolumeStore
from spotcache_keeper.stores.manifest import MANIFEST_NAME, RDB_NAME, Manifest, parse_manifest
from spotcache_keeper.stores.retention import Policy
from spotcache_keeper.stores.source import Source

from tests.unit.keeper.support import TestHost

STORES: dict[str, Callable[[TestHost], Store]] = {
    "volume": lambda host: VolumeStore(host.directory / "another volume" / "backups", host.environment),
    "s3": lambda host: host.s3,
    "ebs": lambda host: host.context().ebs,  # type: ignore[dict-item,return-value]
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, in_aws: TestHost) -> Store:
    made = STORES[request.param](in_aws)
    if isinstance(made, VolumeStore):
        made.prepare()
    return made


def taken(host: TestHost, text: str) -> tuple[Manifest, Path]:
    """A verified backup, and where it lies on the host's own volume."""
    host.fill(text)
    # Copies elsewhere are what the tests make.
    s3, ebs, host.ebs = host.s3, host.ebs, None
    try:
        manifest = host.backup(prune=False).manifest
    finally:
        host.ebs = ebs
    s3.remove(manifest.id)
    return manifest, host.backups / manifest.id


def copies(store: Store, backup_id: str) -> list[Source]:
    return [source for source in store.sources() if source.id == backup_id]


def test_places_are_told_apart(in_aws: TestHost) -> None:
    stores = in_aws.context().stores
    assert [store.name for store in stores] == list(STORES)
    assert [store.nearness for store in stores] == sorted({store.nearness for store in stores})
    assert len({store.label("x") for store in stores}) == len({store.lacks for store in stores}) == len(STORES)


def test_what_is_put_there_is_found_and_fetched_as_it_was(store: Store, in_aws: TestHost, tmp_path: Path) -> None:
    manifest, directory = taken(in_aws, "one")
    assert store.ids() == []
    assert store.sources() == []
    copy = store.put(directory, manifest)
    assert copy
    assert store.ids() == [manifest.id]
    [source] = store.sources()
    assert source.usable
    assert (source.id, source.where, source.nearness) == (manifest.id, store.name, store.nearness)
    assert (source.created, source.environment) == (manifest.created, manifest.environment)
    assert (source.keys, source.bytes) == (manifest.keys, manifest.rdb_bytes)
    assert store.label(source.snapshot_id)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    store.fetch(source, fetched)
    assert (fetched / RDB_NAME).read_bytes() == (directory / RDB_NAME).read_bytes()
    assert parse_manifest((fetched / MANIFEST_NAME).read_bytes()) == manifest
    assert {path.stat().st_mode & 0o777 for path in fetched.iterdir()} == {0o600}


def test_a_copy_that_is_gone_is_damage_and_no_failure_of_the_place(
    store: Store, in_aws: TestHost, tmp_path: Path
) -> None:
    manifest, directory = taken(in_aws, "one")
    store.put(directory, manifest)
    [source] = store.sources()
    later = manifest.created + timedelta(days=300)
    second, there = taken(in_aws, "two")
    store.put(there, second)
    none = Policy(1, 0)
    assert list(store.prune(Retention(later, none))) != []
    with pytest.raises(DamagedError):
        store.fetch(source, tmp_path)


def test_retention_deletes_the_older_and_never_the_newest_good_one(store: Store, in_aws: TestHost) -> None:
    backups = [taken(in_aws, text) for text in ("one", "two", "three")]
    for manifest, directory in backups:
        store.put(directory, manifest)
    now = backups[-1][0].created
    one, all_of_them = Policy(1, 0), Policy(9, 0)
    assert list(store.prune(Retention(now, all_of_them))) == []
    assert len(list(store.prune(Retention(now, one)))) == 2
    assert store.ids() == [backups[-1][0].id]
    assert list(store.prune(Retention(now, one))) == []


def test_what_is_of_another_environment_is_not_usable_and_stays(store: Store, in_aws: TestHost) -> None:
    manifest, directory = taken(in_aws, "one")
    foreign = replace(manifest, environment="prod")
    (directory / MANIFEST_NAME).write_text(foreign.to_json())
    if store.at_once:
        store.put(directory, foreign)
        found: list[Any] = copies(store, manifest.id)
        assert [source.state for source in found] == ["foreign"]
    assert list(store.prune(Retention(manifest.created + timedelta(days=300), Policy(1, 0)))) == []
