# SPDX-License-Identifier: GPL-3.0-or-later
"""Of the snapshots of an environment that is gone: which go, which stay, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from ansible_collections.spotcache.redis.plugins.modules import kept_backups
from moto import mock_aws

from tests.unit.module_support import ModuleFailed, run_module

REGION = "ap-northeast-1"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
KEEPER = {"spotcache:backup": "20261128T120000Z-000001", "spotcache:verified": "true"}
LIFECYCLE = {"aws:dlm:lifecycle-policy-id": "policy-1"}


def snapshot(name: str, hours: float, tags: dict[str, str], state: str = "completed") -> dict[str, Any]:
    tagged = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"SnapshotId": name, "StartTime": NOW - timedelta(hours=hours), "State": state, "Tags": tagged}


def test_the_newest_good_ones_of_each_kind_stay() -> None:
    keeper = [snapshot(f"k{n}", n, KEEPER) for n in range(5)]
    lifecycle = [snapshot(f"d{n}", n + 0.5, LIFECYCLE) for n in range(3)]
    assert kept_backups.to_delete([*keeper, *lifecycle], set(), 2) == ["k4", "k3", "d2", "k2"]
    assert kept_backups.to_delete(keeper, set(), 1) == ["k4", "k3", "k2", "k1"]
    assert kept_backups.to_delete(keeper[:2], set(), 2) == []


@pytest.mark.parametrize(
    "doubtful",
    [{"state": "pending"}, {"state": "error"}, {"tags": {**KEEPER, "spotcache:verified": "false"}}],
)
def test_what_is_not_good_counts_for_none_that_is(doubtful: dict[str, Any]) -> None:
    newest = snapshot("new", 0, doubtful.get("tags", KEEPER), doubtful.get("state", "completed"))
    older = snapshot("old", 9, doubtful.get("tags", KEEPER), doubtful.get("state", "completed"))
    good = [snapshot("g1", 1, KEEPER), snapshot("g2", 2, KEEPER), snapshot("g3", 3, KEEPER)]
    # Younger than the newest good one it may become good; older, it is of no use any more.
    assert kept_backups.to_delete([newest, *good, older], set(), 2) == ["old", "g3"]
    # Where nothing is good, nothing goes.
    assert kept_backups.to_delete([newest, older], set(), 1) == []


def test_what_an_image_has_left_goes_and_what_an_image_is_made_of_stays() -> None:
    left, used = (snapshot(name, 1, {"spotcache:fingerprint": "f"}) for name in ("left", "used"))
    assert kept_backups.to_delete([left, used, snapshot("other", 1, {})], {"used"}, 2) == ["left"]


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.client("ec2", region_name=REGION)


def made(ec2: Any, environment: str, tags: dict[str, str]) -> str:
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8)["VolumeId"]
    tagged = [{"Key": key, "Value": value} for key, value in {"spotcache:environment": environment, **tags}.items()]
    found = ec2.create_snapshot(VolumeId=volume, TagSpecifications=[{"ResourceType": "snapshot", "Tags": tagged}])
    return str(found["SnapshotId"])


def test_the_module(ec2: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3 = boto3.client("s3", region_name=REGION)
    s3.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="backups", Key="stg/backups/1/dump.rdb", Body=b"x" * 1000)
    s3.put_object(Bucket="backups", Key="prod/backups/1/dump.rdb", Body=b"x")
    own = [made(ec2, "stg", KEEPER) for _ in range(3)]
    other = [made(ec2, "prod", KEEPER) for _ in range(3)]

    def run(**more: Any) -> dict[str, Any]:
        asked = {"environment": "stg", "bucket": "backups", "prefix": "stg/backups/", "region": REGION, **more}
        return run_module(kept_backups.main, capsys, **asked)

    def there() -> set[str]:
        return {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}

    before = there()
    seen = run(check=True)
    assert there() == before
    done = run()
    assert seen["changed"] is done["changed"] is True
    assert len(done["deleted"]) == 1
    assert there() == before - set(done["deleted"])
    assert set(own) - set(done["deleted"]) == {one["id"] for one in done["snapshots"]}
    assert set(other) <= there()
    assert done["summary"].startswith("2 EBS snapshots of volumes of 16 GiB together (at most 0.80 USD a month)")
    assert (done["objects"], done["bytes"]) == (1, 1000)
    again = run(bucket="there-is-none")
    assert again["changed"] is False
    assert again["objects"] == 0
    with pytest.raises(ModuleFailed, match="keep is 0: keep at least one"):
        run(keep=0)
