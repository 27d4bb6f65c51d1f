# SPDX-License-Identifier: GPL-3.0-or-later
"""What gives up backups off the host, and what it makes of what somebody writes who has stolen a host's credentials."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from spotcache_keeper.backup import retain
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import Held, Lease, Takeover
from spotcache_keeper.stores.base import Retention
from spotcache_keeper.stores.manifest import MANIFEST_NAME, RDB_NAME, Manifest
from spotcache_keeper.stores.retention import Kept, Policy, firsts, given_up
from spotcache_keeper.stores.s3 import S3Store, adding
from spotcache_keeper.system.times import UTC

from dev.work import ROOT
from tests.unit.keeper.examples import MANIFEST, NOON

REGION, BUCKET, PREFIX = "ap-northeast-1", "locked", "stg/backups/"
POLICY = Policy(count=2, days=0, weeks=0, spared_hours=6, first_days=14)
HOURS = st.integers(0, 24 * 20).map(lambda hours: NOON - timedelta(hours=hours))
# Whatever a host may say of a backup, and when it really came.
CLAIMED = st.builds(
    Kept,
    st.uuids().map(str),
    st.integers(-9000, 9000).map(lambda hours: NOON + timedelta(hours=hours)),
    st.booleans(),
    st.integers(0, 10**6),
    HOURS,
    st.booleans(),
)


@given(st.lists(CLAIMED, max_size=40))
def test_nothing_that_a_host_says_takes_what_the_place_knows(items: list[Kept]) -> None:
    gone = {item.key for item in given_up(items, now=NOON, policy=POLICY)}
    for item in items:
        assert item.received is not None
        if item.received > NOON - timedelta(hours=6):
            assert item.key not in gone
    for number in range(14):
        day = (NOON - timedelta(days=number)).date()
        whole = [(item.received, item.key) for item in items if item.whole and item.received]
        first = min((received for received, _ in whole if received.date() == day), default=None)
        if first is not None and first > NOON - timedelta(days=14):
            assert {key for received, key in whole if received == first} - gone


def test_a_flood_takes_no_more_than_was_received_later_the_same_day() -> None:
    """A thief writes a hundred backups of any term, and says that all before had been superseded."""
    own = [
        Kept(f"own-{n:04}", at, good=False, term=1, received=at, whole=True)
        for n in range(10 * 24)
        for at in [NOON - timedelta(hours=n)]
    ]
    late = NOON - timedelta(minutes=1)
    flood = [Kept(f"flood-{n}", NOON, good=True, term=9999, received=late, whole=True) for n in range(100)]
    left = {item.key for item in own} - {item.key for item in given_up([*own, *flood], now=NOON, policy=POLICY)}
    assert {f"own-{n:04}" for n in range(6)} <= left
    # What might still become good stays for a day; beyond it the first of each day.
    assert len(left) == 25 + 10
    days = {item.received.date() for item in firsts([*own, *flood], now=NOON, policy=POLICY) if item.received}
    assert len(days) == 11


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name=REGION)
        client.create_bucket(
            Bucket=BUCKET,
            CreateBucketConfiguration={"LocationConstraint": REGION},
            ObjectLockEnabledForBucket=True,
        )
        yield client


@pytest.fixture
def store(s3: Any) -> S3Store:
    return S3Store(lambda: s3, BUCKET, PREFIX, "stg")


def put(s3: Any, at: datetime, number: int, **more: Any) -> str:
    """A whole backup that S3 has received at that time."""
    manifest = replace(MANIFEST, id=f"{at:%Y%m%dT%H%M%SZ}-{number:06x}", created=at, rdb_bytes=3, **more)
    for name, body in ((RDB_NAME, b"rdb"), (MANIFEST_NAME, manifest.to_json().encode())):
        key = f"{PREFIX}{manifest.id}/{name}"
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(BUCKET, key).last_modified = at.replace(tzinfo=None)
    return manifest.id


def lease(*takeovers: Takeover, term: int = 1) -> Any:
    held = Held(Lease("i-1", term=term, takeovers=[dict(vars(one)) for one in takeovers]), "e", 1.0)
    return SimpleNamespace(lease=lambda: held)


def test_the_first_of_a_day_is_locked_and_stays(s3: Any, store: S3Store) -> None:
    now = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    hours = [put(s3, now - timedelta(hours=hour), hour, term=1) for hour in range(60)]
    warnings: list[str] = []
    pruned = retain.prune({store: POLICY}, lease(), now, warnings)["s3"]
    assert warnings == []
    # Twelve hours ago it was midnight: the firsts of three days, and what came in the last six hours.
    kept = {*hours[:6], hours[12], hours[36], hours[59]}
    assert set(hours) - set(pruned) == kept
    assert set(store.stored()) == kept
    # Nothing is left of the others but what is theirs: no older version, and no marker.
    versions = s3.list_object_versions(Bucket=BUCKET)
    assert {one["Key"].split("/")[2] for one in versions["Versions"]} == kept
    assert "DeleteMarkers" not in versions
    for backup_id in (hours[12], hours[36], hours[59]):
        for name in (RDB_NAME, MANIFEST_NAME):
            held = s3.head_object(Bucket=BUCKET, Key=f"{PREFIX}{backup_id}/{name}")
            assert held["ObjectLockMode"] == "GOVERNANCE"
            assert held["ObjectLockRetainUntilDate"] == held["LastModified"] + timedelta(days=14)
            with pytest.raises(ClientError, match="AccessDenied"):
                s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}{backup_id}/{name}", VersionId=held["VersionId"])
    assert "ObjectLockMode" not in s3.head_object(Bucket=BUCKET, Key=f"{PREFIX}{hours[0]}/{RDB_NAME}")
    # What is locked for longer than is wanted now is left alone, and said, and keeps nothing else.
    gone = retain.prune({store: Policy(1, 0)}, lease(), now, warnings)["s3"]
    assert set(gone) == set(hours[1:6])
    assert [one for one in warnings if "s3:DeleteObject" in one]


def test_nothing_goes_while_it_is_not_settled_who_serves(s3: Any, store: S3Store) -> None:
    now = datetime.now(UTC)
    ids = [put(s3, now - timedelta(days=20, hours=n), n, term=2) for n in range(4)]

    def pruned(leases: Any) -> tuple[list[str], list[str]]:
        warnings: list[str] = []
        return retain.prune({store: replace(POLICY, first_days=0)}, leases, now, warnings)["s3"], warnings

    gone, warnings = pruned(lease(Takeover("i-2", term=3), term=3))
    assert gone == []
    assert "i-2 is taking over (term 3) and has not looked yet" in warnings[0]
    gone, warnings = pruned(SimpleNamespace(lease=lambda: None))
    assert gone == []
    assert "there is no lease to be seen" in warnings[0]
    # One that never came so far is over with the next.
    over = (Takeover("i-2", term=3), Takeover("i-3", term=4, looked=True, newest=ids[0], newest_term=2))
    assert pruned(lease(*over, term=4)) == ([ids[3], ids[2]], [])


def test_the_word_on_takeovers_is_no_older_than_the_list(s3: Any, store: S3Store) -> None:
    put(s3, datetime.now(UTC), 1)
    asked: list[Any] = []

    def takeovers(listed: Any) -> tuple[Takeover, ...]:
        asked.append([source.id for source in listed])
        return ()

    assert list(store.prune(Retention(datetime.now(UTC), POLICY, takeovers=takeovers))) == []
    assert [len(one) for one in asked] == [1]


def whole(directory: Path, data: bytes = b"rdb") -> Manifest:
    (directory / RDB_NAME).write_bytes(data)
    return replace(MANIFEST, rdb_bytes=len(data), rdb_sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("parts", [False, True])
def test_a_host_writes_a_backup_once(tmp_path: Path, s3: Any, parts: bool) -> None:
    """Its second try finds what the first has written; somebody else's object there is no backup of its."""
    seen: list[tuple[str, bytes | None]] = []
    s3.meta.events.register(
        "before-send.s3", lambda request, **_: seen.append((request.method, request.headers.get("If-None-Match")))
    )
    data = b"x" * (6 * 1024 * 1024)
    host = S3Store(lambda: adding(s3), BUCKET, PREFIX, "stg", multipart_bytes=5 * 1024 * 1024 if parts else 1 << 30)
    manifest = whole(tmp_path, data)
    host.put(tmp_path, manifest)
    conditions = [condition for method, condition in seen if method in ("PUT", "POST")]
    assert [bytes(one) for one in conditions if one is not None] == [b"*", b"*"]
    host.put(tmp_path, manifest)
    versions = s3.list_object_versions(Bucket=BUCKET)["Versions"]
    assert len(versions) == 2
    with pytest.raises(KeeperError, match="S3 holds 6291456 bytes with SHA-256"):
        host.put(tmp_path, whole(tmp_path, data[::-1].replace(b"x", b"y")))
    with pytest.raises(KeeperError, match="the manifest of another backup"):
        host.put(tmp_path, replace(manifest, term=7))


def test_the_function_needs_nothing_but_python_and_the_sdk(tmp_path: Path) -> None:
    """Lambda has no redis-py: what the function imports must do without."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for path in (ROOT / "roles" / "keeper" / "files" / "spotcache_keeper").rglob("*.py"):
            packed.write(path, path.relative_to(ROOT / "roles" / "keeper" / "files"))
    (tmp_path / "function.zip").write_bytes(archive.getvalue())
    code = (
        "import sys; sys.modules['redis'] = None; sys.path.insert(0, sys.argv[1]);"
        "from spotcache_keeper.backup import retain; print(retain.handle, retain.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "function.zip")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "/usr/bin"},
    )
    assert "function.zip" in done.stdout, done.stderr


def test_the_function_is_told_everything_by_its_variables(s3: Any) -> None:
    variables = {
        "SPOTCACHE_ENVIRONMENT": "stg",
        "BUCKET": BUCKET,
        "PREFIX": "team/",
        "KEEP_COUNT": "24",
        "KEEP_SNAPSHOT_COUNT": "0",
        "KEEP_DAYS": "7",
        "KEEP_WEEKS": "4",
        "SPARED_HOURS": "6",
        "LOCK_DAYS": "14",
        "AWS_REGION": REGION,
    }
    stores, _ = retain.build(variables, s3, None)
    assert {store.name: policy for store, policy in stores.items()} == {
        "s3": Policy(24, 7, 4, 6, 14),
        "ebs": Policy(24, 7, 4, 6, 0),
    }
    stores, _ = retain.build(variables | {"KEEP_SNAPSHOT_COUNT": "2"}, s3, None)
    assert {store.name: policy for store, policy in stores.items()} == {
        "s3": Policy(24, 7, 4, 6, 14),
        "ebs": Policy(2, 0, 0, 6, 0),
    }
