# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts for the keeper's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tests.unit.keeper.support import REGION, ZONE, TestHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[TestHost]:
    """A host with a running, empty Redis and no AWS."""
    made = TestHost(tmp_path / "host")
    made.start()
    yield made
    made.engine.kill()


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Any]]:
    """The SDK's clients, made once since that takes longer than most tests; moto answers them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # moto's own images take longer to load than all the rest of a test.
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        yield {service: boto3.client(service, region_name=REGION) for service in ("s3", "ec2")}


@pytest.fixture
def aws(clients: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The clients with a fresh account that has a bucket."""
    with mock_aws():
        clients["s3"].create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
        yield clients


@pytest.fixture
def in_aws(host: TestHost, aws: dict[str, Any]) -> TestHost:
    """A host with S3 and EC2."""
    ec2 = aws["ec2"]
    image = ec2.register_image(Name="host", RootDeviceName="/dev/xvda")["ImageId"]
    instance = ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.small", Placement={"AvailabilityZone": ZONE}
    )["Instances"][0]["InstanceId"]
    host.machine.instance_id = instance
    host.moto_volume = ec2.create_volume(AvailabilityZone=ZONE, Size=8, VolumeType="gp3")["VolumeId"]
    ec2.attach_volume(VolumeId=host.moto_volume, InstanceId=instance, Device="/dev/sdf")
    host.use_aws(aws["s3"], ec2)
    return host
