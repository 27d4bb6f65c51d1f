# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as AWS's refusal where everything is tried with a host's credentials."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws

from dev.work import ROOT

sys.path.insert(0, str(ROOT / "roles" / "drill" / "files"))
from spotcache_drill import stolen

REGION, BUCKET, KEY = "ap-northeast-1", "backups", "stg/backups/1/dump.rdb"


def fails(error: Exception) -> Any:
    def call() -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "answer", "refused"),
    [
        (fails(ClientError({"Error": {"Code": "AccessDenied", "Message": ""}}, "x")), "AccessDenied", True),
        (fails(ClientError({"Error": {"Code": "PreconditionFailed", "Message": ""}}, "x")), "PreconditionFailed", True),
        # Whatever else stood in the way this time: it was let in.
        (fails(ClientError({"Error": {"Code": "VolumeInUse", "Message": ""}}, "x")), "VolumeInUse", False),
        (fails(ClientError({"Error": {"Code": "MalformedPolicy", "Message": ""}}, "x")), "MalformedPolicy", False),
        (dict, "done", False),
        (lambda: {"Errors": [{"Code": "AccessDenied"}]}, "AccessDenied", True),
        (lambda: {"Errors": [{"Code": "InternalError"}]}, "InternalError", False),
    ],
)
def test_only_aws_own_no_is_a_refusal(call: Any, answer: str, refused: bool) -> None:
    assert stolen.attempt("try", "s3:X", "it", call) == stolen.Try("try", "s3:X", "it", answer, refused)


def test_who_was_not_asked_has_not_refused() -> None:
    tried = stolen.attempt("try", "s3:X", "it", fails(EndpointConnectionError(endpoint_url="http://s3")))
    assert tried.answer.startswith("not asked: ")
    assert not tried.refused


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield lambda service: boto3.client(service, region_name=REGION)


def test_where_nobody_refuses_everything_is_let_in(account: Any) -> None:
    """So a refusal is the policy's, and not a fault of the call."""
    s3 = account("s3")
    s3.create_bucket(
        Bucket=BUCKET,
        CreateBucketConfiguration={"LocationConstraint": REGION},
        ObjectLockEnabledForBucket=True,
    )
    tries = []
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"good")
    for what, action, on, call in stolen.on_backup(lambda: account("s3"), s3, BUCKET, KEY):
        # Each meets the backup as it was.
        s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"good")
        tries.append(stolen.attempt(what, action, on, call))
    let_in = {one.what for one in tries if not one.refused}
    assert let_in == {one.what for one in tries} - {"write it where there is none"}
    assert not any(stolen.attempt(*one).refused for one in stolen.on_bucket(s3, BUCKET))
