# SPDX-License-Identifier: GPL-3.0-or-later
"""How safe a bucket is, and how one is emptied that keeps every version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from ansible_collections.spotcache.redis.plugins.modules import bucket_info, bucket_versions
from moto import mock_aws

from tests.unit.module_support import ModuleFailed, run_module

REGION, BUCKET = "ap-northeast-1", "backups"
ALL = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
TLS: dict[str, Any] = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": ALL,
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.client("s3", region_name=REGION)


def make(s3: Any, lock: bool = True) -> None:
    s3.create_bucket(
        Bucket=BUCKET,
        CreateBucketConfiguration={"LocationConstraint": REGION},
        ObjectLockEnabledForBucket=lock,
    )


def test_a_bucket_is_told_as_it_is(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def look() -> dict[str, Any]:
        found = run_module(bucket_info.main, capsys, bucket=BUCKET, region=REGION)
        return {key: value for key, value in found.items() if key in bucket_info.NOTHING}

    assert look() == bucket_info.NOTHING
    make(s3, lock=False)
    assert look() == {**bucket_info.NOTHING, "exists": True, "empty": True}
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object_lock_configuration(Bucket=BUCKET, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": [{"Key": "team", "Value": "shop"}]})
    block = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    s3.put_public_access_block(Bucket=BUCKET, PublicAccessBlockConfiguration={**block, "RestrictPublicBuckets": False})
    assert look()["public_access_blocked"] is False
    s3.put_public_access_block(Bucket=BUCKET, PublicAccessBlockConfiguration=block)
    s3.put_object(Bucket=BUCKET, Key="x", Body=b"x")
    s3.delete_object(Bucket=BUCKET, Key="x")
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": TLS}))
    # What was deleted is there still.
    assert look() == {
        "exists": True,
        "empty": False,
        "tags": {"team": "shop"},
        "versioned": True,
        "object_lock": True,
        "public_access_blocked": True,
        "tls_only": True,
        "policy": [TLS],
    }


@pytest.mark.parametrize(
    ("other", "only"),
    [
        ({}, True),
        ({"Principal": {"AWS": "*"}, "Resource": "*", "Action": ["s3:*"]}, True),
        ({"Effect": "Allow"}, False),
        ({"Principal": {"AWS": "arn:aws:iam::1:root"}}, False),
        ({"Action": "s3:PutObject"}, False),
        ({"Resource": ALL[:1]}, False),
        ({"Resource": "arn:aws:s3:::backups/*"}, False),
        ({"Condition": {"Bool": {"aws:SecureTransport": "true"}}}, False),
        # A further condition leaves a way without TLS.
        ({"Condition": {**TLS["Condition"], "StringEquals": {"aws:SourceVpc": "vpc-1"}}}, False),
    ],
)
def test_by_tls_alone_means_everybody_and_everything(other: dict[str, Any], only: bool) -> None:
    assert bucket_info.is_tls_only([{**TLS, **other}], BUCKET) is only


def test_an_emptied_prefix_has_no_version_left(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    make(s3)
    until = datetime.now(UTC) + timedelta(days=3)
    for key in ("stg/a", "stg/a", "stg/b", "stg-2/a"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)
    s3.delete_object(Bucket=BUCKET, Key="stg/a")

    def run(**more: Any) -> dict[str, Any]:
        return run_module(
            bucket_versions.main, capsys, **{"bucket": BUCKET, "prefix": "stg/", "region": REGION, **more}
        )

    def left() -> list[str]:
        answer = s3.list_object_versions(Bucket=BUCKET)
        return [one["Key"] for one in [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]]

    assert {name: run(check=True)[name] for name in ("changed", "deleted", "others")} == {
        "changed": True,
        "deleted": 4,
        "others": True,
    }
    assert len(left()) == 5
    assert run()["deleted"] == 4
    assert left() == ["stg-2/a"]
    assert run()["changed"] is False
    assert run(prefix="stg-2/")["others"] is False
    assert run(bucket="none")["deleted"] == 0
    with pytest.raises(ModuleFailed, match="must end with a slash"):
        run(prefix="stg")


def test_what_nobody_may_delete_is_named(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    make(s3)
    until = datetime.now(UTC) + timedelta(days=3)
    s3.put_object(Bucket=BUCKET, Key="stg/a", Body=b"x", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until)
    s3.put_object(Bucket=BUCKET, Key="stg/b", Body=b"x")
    with pytest.raises(ModuleFailed, match=r"1 versions below s3://backups/stg/ could not be deleted.*stg/a"):
        run_module(bucket_versions.main, capsys, bucket=BUCKET, prefix="stg/", region=REGION)
    assert "Contents" in s3.list_objects_v2(Bucket=BUCKET)
