# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole environments in the networks that the other tests do not use: with a public address, and with no way out."""

from __future__ import annotations

import json
from typing import Any

from dev import keys
from dev.sandboxes import Host, Play, Sandbox
from tests.e2e.conftest import network_of
from tests.e2e.test_sandbox import wait

KEYS = 5_000


class Closed:
    """A second environment in the account, in a network of its own that has no way out but the one to S3."""

    def __init__(self, sandbox: Sandbox, image: str) -> None:
        self.sandbox = sandbox
        self.given = {
            "spotcache_environment": "closed",
            # They share a bucket, whose tags are then the same for both.
            "keeper_bucket_tags": {"spotcache:environment": "sandbox"},
            **network_of(sandbox, 16),
            "network_egress": "none",
            # Everything is on it, as preflight wants it.
            "spot_host_image_id": image,
            "spotcache_launch_from_image": False,
            "keeper_ebs_snapshots": False,
        }

    def play(self, playbook: str, **more: Any) -> Play:
        """Run a playbook on it."""
        return self.sandbox.play(playbook, "-e", json.dumps({**self.given, **more}), log=f"closed-{playbook}")

    def host(self, not_id: str = "") -> Host | None:
        """Its one host, or the one in another's place."""
        filters = [
            {"Name": "tag:spotcache:environment", "Values": ["closed"]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
        found = self.sandbox.client("ec2").describe_instances(Filters=filters)["Reservations"]
        for row in (one for reservation in found for one in reservation["Instances"]):
            if row["InstanceId"] != not_id:
                return Host(row["InstanceId"], row["Placement"]["AvailabilityZone"], row["PrivateIpAddress"])
        return None


def filled(sandbox: Sandbox, host: Host) -> dict[int, keys.DatabasePrint]:
    """Have something to lose, and a verified backup of it."""
    sandbox.load(host, KEYS)
    done = sandbox.on_host(host, "spotcache-keeper backup --json")
    assert done.returncode == 0, done.stdout + done.stderr
    return sandbox.fingerprint(host)


def reaches(sandbox: Sandbox, host: Host, name: str) -> bool:
    """Whether somebody answers the host there."""
    return sandbox.on_host(host, f"curl -s -o /dev/null -m 4 https://{name}/").returncode == 0


def test_with_a_public_address_the_next_host_serves_by_itself(provisioned: Sandbox) -> None:
    host = provisioned.host()
    [found] = provisioned.client("ec2").describe_instances(InstanceIds=[host.id])["Reservations"]
    [row] = found["Instances"]
    assert row["PublicIpAddress"]
    assert not [one for interface in row["NetworkInterfaces"] for one in interface.get("Ipv6Addresses", [])]
    assert reaches(provisioned, host, "ec2.ap-northeast-1.amazonaws.com")
    before = filled(provisioned, host)
    provisioned.lose_host(90)
    served = provisioned.successor(host)
    assert keys.differences(before, provisioned.fingerprint(served)) == []
    for number in before:
        provisioned.connect(served, number).flushdb()


def test_without_a_way_out_a_person_brings_it_back_from_s3(provisioned: Sandbox) -> None:
    mark = [{"Name": "tag-key", "Values": ["spotcache:fingerprint"]}]
    [image] = provisioned.client("ec2").describe_images(Owners=["self"], Filters=mark)["Images"]
    closed = Closed(provisioned, image["ImageId"])
    closed.play("provision")
    host = closed.host()
    assert host is not None
    assert not reaches(provisioned, host, "ec2.ap-northeast-1.amazonaws.com")
    assert not reaches(provisioned, host, "ec2.ap-northeast-1.api.aws")
    before = filled(provisioned, host)
    provisioned.verb("kill", host.id)
    wait(lambda: closed.host(not_id=host.id), 90, "the group's next host")
    closed.play("restore")
    after = closed.host(not_id=host.id)
    assert after is not None
    assert keys.differences(before, provisioned.fingerprint(after)) == []
    closed.play("destroy", destroy_confirm="closed", destroy_backups=True)
