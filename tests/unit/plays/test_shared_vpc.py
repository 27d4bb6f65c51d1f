# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments in one VPC share its EC2 Instance Connect Endpoint, of which EC2 allows one; the last one deletes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dev import kills

pytestmark = pytest.mark.plays

PLAY = """
- hosts: localhost
  gather_facts: false
  environment: "{{ aws }}"
  tasks:
    - ansible.builtin.include_role:
        name: spotcache.redis.network
        tasks_from: "{{ entry }}"
"""


class Vpc:
    """A VPC that somebody else looks after, with environments in it."""

    def __init__(self, stage: kills.Stage) -> None:
        self.stage, self.account = stage, stage.empty
        self.ec2 = self.account.client("ec2")
        self.id = self.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        self.subnets = [
            self.ec2.create_subnet(VpcId=self.id, CidrBlock=f"10.9.{n}.0/24", AvailabilityZone=f"{kills.REGION}{zone}")
            for n, zone in enumerate("ac")
        ]
        self.play = stage.folder / "network.yml"
        self.play.write_text(PLAY)

    def run(self, entry: str, environment: str, **more: Any) -> str:
        """The role's entry point for one of the environments; what it said."""
        given = {
            "entry": entry,
            "aws": self.stage.variables(self.account)["spotcache_aws_environment"],
            "network_environment": environment,
            "network_region": kills.REGION,
            "network_vpc_id": self.id,
            "network_subnet_ids": [subnet["Subnet"]["SubnetId"] for subnet in self.subnets],
            "network_egress": "none",
            "network_instance_connect_endpoint": "present",
            "network_dns_zone": "",
            **more,
        }
        log = self.stage.folder / f"{entry}-{environment}.log"
        code = self.stage.ansible.run([str(self.play), "-i", "localhost,", "-c", "local", "-e", json.dumps(given)], log)
        assert code == 0, log.read_text()[-3000:]
        return log.read_text()

    def endpoints(self) -> list[dict[str, Any]]:
        """Those that are there."""
        found = self.ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"]
        return [one for one in found if one["State"] != "delete-complete"]

    def groups(self) -> dict[str, dict[str, Any]]:
        """The security groups of the VPC, by name."""
        found = self.ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [self.id]}])["SecurityGroups"]
        return {one["GroupName"]: one for one in found if one["GroupName"] != "default"}


@pytest.fixture(scope="module")
def vpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vpc]:
    with kills.staged(tmp_path_factory.mktemp("shared"), side_by_side=1) as stage:
        yield Vpc(stage)


def test_two_environments_share_the_endpoint_and_the_last_one_deletes_it(vpc: Vpc) -> None:
    vpc.run("main", "one")
    [endpoint] = vpc.endpoints()
    vpc.run("main", "two")
    assert [one["InstanceConnectEndpointId"] for one in vpc.endpoints()] == [endpoint["InstanceConnectEndpointId"]]
    for environment in ("one", "two"):
        assert "changed=0" in vpc.run("main", environment)
    # Both hosts are reached: what the endpoint may reach is nobody's group, and each host's group lets it in.
    groups = vpc.groups()
    gate = groups["spotcache-endpoint"]
    assert [rule["IpRanges"][0]["CidrIp"] for rule in gate["IpPermissionsEgress"]] == ["10.9.0.0/16"]
    for environment in ("one", "two"):
        rules = groups[f"spotcache-{environment}-host"]["IpPermissions"]
        [ssh] = [rule for rule in rules if rule["FromPort"] == 22]
        assert [pair["GroupId"] for pair in ssh["UserIdGroupPairs"]] == [gate["GroupId"]]

    # Whoever is reached another way leaves it to the other.
    asked = {"network_instance_connect_endpoint": "absent", "network_ssh_cidrs": ["10.9.0.0/16"]}
    vpc.run("main", "one", **asked)
    assert len(vpc.endpoints()) == 1
    vpc.run("main", "one")
    vpc.run("destroy", "one")
    assert len(vpc.endpoints()) == 1
    assert set(vpc.groups()) == {"spotcache-endpoint", "spotcache-two-client", "spotcache-two-host"}
    assert "changed=0" in vpc.run("main", "two")
    vpc.run("destroy", "two")
    assert vpc.endpoints() == []
    assert vpc.groups() == {}
