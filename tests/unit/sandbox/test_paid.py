# SPDX-License-Identifier: GPL-3.0-or-later
"""What an account pays for: every kind of thing that costs something is seen, with its price."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from sandbox.paid import ADDRESS, NAT_GATEWAY, Thing, inventory, month, paid

REGION = "ap-northeast-1"


class NoPolicies:
    """Data Lifecycle Manager, which moto alone does not know."""

    def can_paginate(self, name: str) -> bool:  # noqa: ARG002
        return False

    def get_lifecycle_policies(self) -> dict[str, Any]:
        return {"Policies": []}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield lambda service: NoPolicies() if service == "dlm" else boto3.client(service, region_name=REGION)


def bucket(client: Callable[[str], Any]) -> Any:
    s3 = client("s3")
    s3.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
    return s3


def test_an_account_in_which_nothing_was_made_pays_nothing(client: Callable[[str], Any]) -> None:
    assert inventory(client) == []


def test_what_lies_in_a_bucket_counts_also_before_an_upload_is_finished(client: Callable[[str], Any]) -> None:
    s3 = bucket(client)
    assert paid(client) == []
    upload = s3.create_multipart_upload(Bucket="backups", Key="dump.rdb")["UploadId"]
    s3.upload_part(Bucket="backups", Key="dump.rdb", UploadId=upload, PartNumber=1, Body=b"x" * 2**20)
    (one,) = paid(client)
    assert (one.kind, one.id) == ("bucket", "backups")
    assert "1048576 bytes, 1 unfinished uploads" in one.note


def test_disks_addresses_zones_and_what_is_kept_elsewhere(client: Callable[[str], Any]) -> None:
    ec2 = client("ec2")
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8)["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    gateway = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)["NatGateway"]["NatGatewayId"]
    client("route53").create_hosted_zone(Name="stg.example", CallerReference="1")
    client("secretsmanager").create_secret(Name="s", SecretString="x")
    client("ssm").put_parameter(Name="plain", Value="x", Type="SecureString")
    client("ssm").put_parameter(Name="long", Value="x", Type="String", Tier="Advanced")
    client("logs").create_log_group(logGroupName="for ever")
    client("logs").create_log_group(logGroupName="for a while")
    client("logs").put_retention_policy(logGroupName="for a while", retentionInDays=30)
    key = client("kms").create_key()["KeyMetadata"]["KeyId"]
    found = {(one.kind, one.id): one.usd_month for one in paid(client)}
    zone = next(name for kind, name in found if kind == "hosted zone")
    assert found == {
        ("volume", volume): pytest.approx(0.768),
        ("snapshot", snapshot): pytest.approx(0.40),
        ("address", address): pytest.approx(ADDRESS),
        ("NAT gateway", gateway): pytest.approx(NAT_GATEWAY),
        ("hosted zone", zone): 0.50,
        ("secret", "s"): 0.40,
        ("parameter", "long"): 0.05,
        # It only ever grows.
        ("log group", "for ever"): None,
        ("KMS key", key): 1.00,
    }
    assert ("parameter", "plain") in {(one.kind, one.id) for one in inventory(client)}


def test_a_price_that_is_not_known_is_not_nothing() -> None:
    assert Thing("instance", "i-1", None).paid
    assert not Thing("VPC", "vpc-1", 0.0).paid
    assert month([Thing("instance", "i-1", None), Thing("alarm", "a", 0.1)]) == pytest.approx(0.1)
