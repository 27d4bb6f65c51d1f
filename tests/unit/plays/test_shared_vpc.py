# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments share what need not be there twice, the VPC's endpoint and a zone; the last one deletes it."""

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
        self.ec2.modify_vpc_attribute(VpcId=self.id, EnableDnsHostnames={"Value": True})
        self.subnets = [
            self.ec2.create_subnet(VpcId=self.id, CidrBlock=f"10.9.{n}.0/24", AvailabilityZone=f"{kills.REGION}{zone}")
            for n, zone in enumerate("ac")
        ]
        self.play = stage.folder / "network.yml"
        self.play.write_text(PLAY)

    def run(self, entry: str, environment: str, **more: Any) -> str:
        """The role's entry point for one of the environments, which ends well; what it said."""
        return self.attempt(entry, environment, 0, **more)

    def attempt(self, entry: str, environment: str, ends: int, /, **more: Any) -> str:
        """The same, with another exit code."""
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
        assert code == ends, log.read_text()[-3000:]
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


def zones(vpc: Vpc) -> dict[str, list[str]]:
    """The VPC's zones, and what stands in them."""
    route53 = vpc.account.client("route53")
    found = {}
    for zone in route53.list_hosted_zones_by_vpc(VPCId=vpc.id, VPCRegion=kills.REGION)["HostedZoneSummaries"]:
        rows = route53.list_resource_record_sets(HostedZoneId=zone["HostedZoneId"])["ResourceRecordSets"]
        found[zone["Name"]] = [row["Name"] for row in rows if row["Type"] == "A"]
    return found


def name_redis(vpc: Vpc, environment: str, action: str = "UPSERT") -> None:
    """What a host does at its boot, and spot_host at the environment's end."""
    route53 = vpc.account.client("route53")
    [zone] = route53.list_hosted_zones()["HostedZones"]
    record = {
        "Name": f"redis.{environment}.spotcache.internal",
        "Type": "A",
        "TTL": 10,
        "ResourceRecords": [{"Value": "10.9.0.5"}],
    }
    change = {"Changes": [{"Action": action, "ResourceRecordSet": record}]}
    route53.change_resource_record_sets(HostedZoneId=zone["Id"], ChangeBatch=change)


def test_environments_share_a_zone_and_the_last_one_deletes_it(vpc: Vpc) -> None:
    shared: dict[str, Any] = {"network_dns_zone": "spotcache.internal", "network_dns_zone_shared": True}
    for environment in ("one", "two"):
        vpc.run("main", environment, **shared)
        name_redis(vpc, environment)
    # One zone is paid, and nothing is changed again.
    names = [f"redis.{one}.spotcache.internal." for one in ("one", "two")]
    assert zones(vpc) == {"spotcache.internal.": names}
    assert "changed=0" in vpc.run("main", "two", **shared)

    # Its name would be looked for in a zone of its own, where it is not yet.
    said = vpc.attempt("main", "two", 2, network_dns_zone="spotcache.internal")
    assert "network_dns_zone_shared is false, and two has its name in the zone spotcache.internal" in said
    assert len(vpc.account.client("route53").list_hosted_zones()["HostedZones"]) == 1

    name_redis(vpc, "one", "DELETE")
    vpc.run("destroy", "one", **shared)
    assert zones(vpc) == {"spotcache.internal.": names[1:]}
    name_redis(vpc, "two", "DELETE")
    vpc.run("destroy", "two", **shared)
    assert zones(vpc) == {}


def test_who_has_a_zone_of_its_own_is_not_answered_from_a_shared_one(vpc: Vpc) -> None:
    vpc.run("main", "one", network_dns_zone="spotcache.internal")
    said = vpc.attempt("main", "one", 2, network_dns_zone="spotcache.internal", network_dns_zone_shared=True)
    assert "one has its name in the zone one.spotcache.internal" in said
    vpc.run("destroy", "one", network_dns_zone="spotcache.internal")
    assert zones(vpc) == {}
