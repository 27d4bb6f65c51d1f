# SPDX-License-Identifier: GPL-3.0-or-later
"""S3 as somebody meets it who has stolen credentials: conditions, policies of buckets, versions and locks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from dev.work import ROOT

REGION, BUCKET = "ap-northeast-1", "backups"
SERVER = """
import json, sys
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.iam.models import iam_backends
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from sandbox import iam
iam.close_gaps()
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
here = iam_backends["123456789012"]["aws"]
keys = {}
for name, statements in json.loads(sys.argv[1]).items():
    here.create_user(region_name="us-east-1", user_name=name, path="/", tags=None)
    here.put_user_policy(name, name, json.dumps({"Version": "2012-10-17", "Statement": statements}))
    key = here.create_access_key(name)
    keys[name] = [key.access_key_id, key.secret_access_key]
settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
ActionAuthenticatorMixin.request_count = 0
print(json.dumps({"port": server.get_host_and_port()[1], "keys": keys}), flush=True)
sys.stdin.read()
"""


def allow(*actions: str, resource: str = f"arn:aws:s3:::{BUCKET}/*", **condition: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource, "Condition": condition}


USERS = {
    "owner": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    # Adds, and takes nothing away.
    "host": [
        allow("s3:PutObject", Null={"s3:if-none-match": "false"}),
        allow("s3:PutObject", Bool={"s3:ObjectCreationOperation": "false"}),
        allow("s3:GetObject"),
    ],
    # May delete, and not get past a lock.
    "pruner": [allow("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectRetention", "s3:GetObjectRetention")],
    "plain": [allow("s3:PutObject", "s3:GetObject")],
}
Client = Callable[..., Any]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, json.dumps(USERS)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        said = json.loads(server.stdout.readline())

        def make(user: str, **more: Any) -> Any:
            key, secret = said["keys"][user]
            return boto3.client(
                "s3",
                region_name=REGION,
                endpoint_url=f"http://127.0.0.1:{said['port']}",
                aws_access_key_id=key,
                aws_secret_access_key=secret,
                config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, **more),
            )

        make("owner").create_bucket(
            Bucket=BUCKET,
            CreateBucketConfiguration={"LocationConstraint": REGION},
            ObjectLockEnabledForBucket=True,
        )
        yield make
        server.kill()


def refused(call: Callable[[], Any], code: str = "AccessDenied") -> str:
    with pytest.raises(ClientError) as error:
        call()
    assert error.value.response["Error"]["Code"] == code, error.value
    return str(error.value)


def test_whoever_may_only_add_overwrites_nothing_and_deletes_nothing(client: Client) -> None:
    host, of = client("host"), {"Bucket": BUCKET, "Key": "b/dump.rdb"}
    assert "s3:PutObject" in refused(partial(host.put_object, **of, Body=b"x"))
    version = host.put_object(**of, Body=b"good", IfNoneMatch="*")["VersionId"]
    refused(partial(host.put_object, **of, Body=b"bad", IfNoneMatch="*"), "PreconditionFailed")
    refused(partial(host.put_object, **of, Body=b"bad"))
    etag = host.get_object(**of)["ETag"]
    refused(partial(host.put_object, **of, Body=b"bad", IfMatch=etag))
    refused(partial(host.copy_object, **of, CopySource=f"{BUCKET}/b/dump.rdb", MetadataDirective="REPLACE"))
    refused(partial(host.delete_object, **of))
    assert "s3:DeleteObjectVersion" in refused(partial(host.delete_object, **of, VersionId=version))
    for one in ({"Key": "b/dump.rdb"}, {"Key": "b/dump.rdb", "VersionId": version}):
        refused(partial(host.delete_objects, Bucket=BUCKET, Delete={"Objects": [one]}))
    assert host.get_object(**of)["Body"].read() == b"good"


def test_an_upload_in_parts_is_on_condition_where_it_is_completed(client: Client) -> None:
    host, of = client("host"), {"Bucket": BUCKET, "Key": "b/large.rdb"}

    def upload(**condition: Any) -> None:
        begun = host.create_multipart_upload(**of)["UploadId"]
        part = host.upload_part(**of, UploadId=begun, PartNumber=1, Body=b"x")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        host.complete_multipart_upload(**of, UploadId=begun, MultipartUpload=parts, **condition)

    refused(upload)
    upload(IfNoneMatch="*")
    refused(partial(upload, IfNoneMatch="*"), "PreconditionFailed")


def test_a_lock_holds_until_somebody_who_may_says_so(client: Client) -> None:
    owner, pruner, of = client("owner"), client("pruner"), {"Bucket": BUCKET, "Key": "b/locked"}
    version = owner.put_object(**of, Body=b"x")["VersionId"]
    until = datetime.now(UTC) + timedelta(days=2)
    one = {**of, "VersionId": version}

    def lock(to: datetime, **more: Any) -> Any:
        return pruner.put_object_retention(**one, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": to}, **more)

    lock(until)
    lock(until + timedelta(days=1))
    refused(partial(lock, until))
    assert "s3:BypassGovernanceRetention" in refused(partial(lock, until, BypassGovernanceRetention=True))
    refused(partial(pruner.delete_object, **one))
    assert "s3:BypassGovernanceRetention" in refused(
        partial(pruner.delete_object, **one, BypassGovernanceRetention=True)
    )
    # The owner of everything has to say so as well.
    refused(partial(owner.delete_object, **one))
    # A delete marker hides the newest version and takes nothing away.
    pruner.delete_object(**of)
    assert owner.get_object(**one)["Body"].read() == b"x"
    owner.delete_object(**one, BypassGovernanceRetention=True)
    refused(partial(owner.get_object, **one), "NoSuchVersion")


def test_a_bucket_with_locks_stays_versioned_and_one_that_holds_something_gets_them(client: Client) -> None:
    owner = client("owner")
    suspend = partial(owner.put_bucket_versioning, VersioningConfiguration={"Status": "Suspended"})
    refused(partial(suspend, Bucket=BUCKET), "InvalidBucketState")
    owner.create_bucket(Bucket="older", CreateBucketConfiguration={"LocationConstraint": REGION})
    owner.put_object(Bucket="older", Key="x", Body=b"x")
    lock = partial(
        owner.put_object_lock_configuration, Bucket="older", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
    )
    refused(lock, "InvalidBucketState")
    owner.put_bucket_versioning(Bucket="older", VersioningConfiguration={"Status": "Enabled"})
    lock()
    refused(partial(suspend, Bucket="older"), "InvalidBucketState")


def test_the_policy_of_a_bucket_counts_beside_the_callers_own(client: Client) -> None:
    owner, plain = client("owner"), client("plain")
    arns = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    everybody = {"Principal": "*", "Resource": arns}
    policy = [
        {**everybody, "Effect": "Deny", "Action": "s3:*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
        {**everybody, "Effect": "Deny", "Action": "s3:PutObject", "Condition": {"Null": {"s3:if-none-match": "true"}}},
        {
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::123456789012:user/plain"},
            "Action": "s3:ListBucket",
            "Resource": arns[0],
        },
    ]
    document = json.dumps({"Version": "2012-10-17", "Statement": policy})
    refused(partial(plain.list_objects_v2, Bucket=BUCKET))
    owner.put_bucket_policy(Bucket=BUCKET, Policy=document)
    try:
        plain.list_objects_v2(Bucket=BUCKET)
        assert "explicit deny in a resource-based policy" in refused(
            partial(plain.put_object, Bucket=BUCKET, Key="p", Body=b"x")
        )
        refused(partial(owner.put_object, Bucket=BUCKET, Key="p", Body=b"x"))
        plain.put_object(Bucket=BUCKET, Key="p", Body=b"x", IfNoneMatch="*")

        def by_http(request: Any, **_: Any) -> None:
            request.headers["Host"] = f"s3.{REGION}.amazonaws.com"

        bare = client("plain")
        bare.meta.events.register("before-sign.s3", by_http)
        refused(partial(bare.get_object, Bucket=BUCKET, Key="p"))
        assert plain.get_object(Bucket=BUCKET, Key="p")["Body"].read() == b"x"
    finally:
        owner.delete_bucket_policy(Bucket=BUCKET)
