# SPDX-License-Identifier: GPL-3.0-or-later
"""Which servers an environment's backups are of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from ansible_collections.spotcache.redis.plugins.modules import backup_server_info
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws

from tests.unit.module_support import ModuleFailed, run_module

REGION, BUCKET, PREFIX = "ap-northeast-1", "backups", "stg/backups/"
OLD, MIDDLE, NEW, BAD = (f"202611{day}T120000Z-3f9a1c" for day in ("01", "02", "03", "04"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.client("s3", region_name=REGION)


def put(s3: Any, backup: str, **manifest: Any) -> None:
    """A backup's two files."""
    text = json.dumps({"verified": True, **manifest})
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}{backup}/dump.rdb", Body=b"REDIS0000")
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}{backup}/manifest.json", Body=text.encode())


def test_the_newest_good_backup_and_the_wanted_one_say_who_wrote_them(
    s3: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(wanted: str = "") -> list[tuple[str, str, int]]:
        given: dict[str, Any] = {"bucket": BUCKET, "prefix": PREFIX, "region": REGION, "wanted": wanted}
        found = run_module(backup_server_info.main, capsys, **given)["backups"]
        return [(one["id"], f"{one['redis_engine']} {one['server_version']}", one["rdb_version"]) for one in found]

    # Neither a bucket nor a backup is an empty environment.
    assert look() == []
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}{NEW}/dump.rdb", Body=b"without a manifest it is no backup")
    assert look() == []
    # As manifests were before there was Valkey.
    put(s3, OLD, redis_version="8.0.2", rdb={"bytes": 1})
    put(s3, MIDDLE, redis_version="7.0.15", rdb={"bytes": 1})
    put(s3, NEW, engine="valkey", redis_version="8.1.1", rdb={"bytes": 1, "version": 11})
    put(s3, BAD, engine="redis", redis_version="8.0.2", rdb={"bytes": 1, "version": 12}, verified=False)
    newest, old, middle = (NEW, "valkey 8.1.1", 11), (OLD, "redis 8.0.2", 12), (MIDDLE, "redis 7.0.15", 10)
    assert look() == [newest]
    assert look(NEW) == [newest]
    assert look(OLD) == [newest, old]
    assert look("2026-11-02T12:00Z") == [newest, middle]
    assert look("2026-11-02 11:59:59") == [newest, old]
    assert look("snap-0123456789abcdef0") == [newest]


def test_a_bucket_that_may_not_be_looked_into_is_no_empty_one(
    s3: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_client: Any, operation: str, _arguments: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, operation)

    monkeypatch.setattr(BaseClient, "_make_api_call", refuse)
    # Taken for empty, it would let another engine be chosen than the one that the data is of.
    with pytest.raises(
        ModuleFailed, match="Which server wrote the backups below stg/backups/ in backups cannot be told"
    ):
        run_module(backup_server_info.main, capsys, bucket=BUCKET, prefix=PREFIX, region=REGION)
