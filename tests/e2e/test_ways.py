# SPDX-License-Identifier: GPL-3.0-or-later
"""The other ways to the same Redis: an existing VPC, a host on demand, TLS, and each way to reach it."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev import permissions
from dev.sandboxes import Sandbox
from dev.work import ROOT
from tests.e2e.conftest import JOB, LOGS
from tests.e2e.test_sandbox import wait


class Existing:
    """A VPC that somebody else made, with two subnets and a host to jump through."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.state, self.ec2 = sandbox, sandbox.state, sandbox.client("ec2")
        self.vpc = self.ec2.create_vpc(CidrBlock=self.state["cidr"])["Vpc"]["VpcId"]
        self.ec2.modify_vpc_attribute(VpcId=self.vpc, EnableDnsHostnames={"Value": True})
        second = self.state["cidr"].split(".")[1]
        self.subnets = [
            self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=f"10.{second}.{16 * number}.0/20", AvailabilityZone=zone)[
                "Subnet"
            ]["SubnetId"]
            for number, zone in enumerate(self.state["zones"][:2])
        ]
        self._ways_out(f"10.{second}.32.0/24")
        group = self.ec2.create_security_group(GroupName="bastion", Description="d", VpcId=self.vpc)["GroupId"]
        access = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": self.state["cidr"]}]}
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[access])
        self.ec2.import_key_pair(KeyName="bastion", PublicKeyMaterial=Path(f"{self.state['ssh_key']}.pub").read_bytes())
        [made] = self.ec2.run_instances(
            ImageId=self.state["images"]["debian"],
            InstanceType="t3.small",
            MinCount=1,
            MaxCount=1,
            KeyName="bastion",
            SubnetId=self.subnets[0],
            SecurityGroupIds=[group],
        )["Instances"]
        self.bastion = made["InstanceId"]
        self.address = made["PrivateIpAddress"]
        self.kept = sandbox.resources()

    def _ways_out(self, cidr: str) -> None:
        """A NAT gateway in a public subnet, which the private ones use."""
        public = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr, AvailabilityZone=self.state["zones"][0])
        internet = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=internet, VpcId=self.vpc)
        address = self.ec2.allocate_address(Domain="vpc")["AllocationId"]
        nat = self.ec2.create_nat_gateway(SubnetId=public["Subnet"]["SubnetId"], AllocationId=address)["NatGateway"]
        ways = [
            ([public["Subnet"]["SubnetId"]], {"GatewayId": internet}),
            (self.subnets, {"NatGatewayId": nat["NatGatewayId"]}),
        ]
        for subnets, way in ways:
            table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
            self.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **way)
            for subnet in subnets:
                self.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)

    @property
    def open(self) -> dict[str, Any]:
        """An inventory of somebody to whom the VPC's addresses are routed."""
        return {"spot_host_connection": "ssh", "network_ssh_cidrs": [self.state["cidr"]]}

    def play(self, playbook: str, *words: str, log: str, **more: Any) -> Any:
        """Run a playbook in this VPC."""
        given = {"network_vpc_id": self.vpc, "network_subnet_ids": self.subnets, "spotcache_backend": "ec2", **more}
        given |= {"spot_host_wait_timeout": 60, "redis_tls": True}
        # Where the session-manager-plugin is. The keys stand in the inventory, and come to no way's arguments.
        environment = {"PATH": f"{ROOT / 'sandbox' / 'bin'}:{os.environ['PATH']}"}
        code, done = self.sandbox.attempt(playbook, *words, "-e", json.dumps(given), log=log, environment=environment)
        assert code == 0, done.text[-3000:]
        return done


@pytest.fixture(scope="module")
def existing() -> Iterator[Existing]:
    with Sandbox(f"t-ways{JOB}", LOGS / f"ways{JOB}", swift=True).running(*permissions.also("ssm")) as running:
        made = Existing(running)
        made.play("provision", log="provision")
        yield made


def test_a_host_on_demand_in_an_existing_vpc(existing: Existing) -> None:
    host = existing.sandbox.host()
    row = existing.ec2.describe_instances(InstanceIds=[host.id])["Reservations"][0]["Instances"][0]
    assert row["VpcId"] == existing.vpc
    assert row["SubnetId"] in existing.subnets
    assert "InstanceLifecycle" not in row
    assert existing.sandbox.on_host(host, "spotcache-keeper backup --json").returncode == 0
    assert existing.play("provision", log="again").changed == 0


def test_its_redis_speaks_tls_and_nothing_else(existing: Existing) -> None:
    def asked(options: str) -> str:
        # Of the engine's own name.
        server = "docker inspect --format '{{index .Config.Cmd 0}}' spotcache-redis"
        cli = f"docker exec spotcache-redis $({server} | sed s/-server/-cli/) -h 127.0.0.1 {options} ping"
        done = existing.sandbox.on_host(existing.sandbox.host(), f"{cli} 2>&1 || true")
        return str(done.stdout).strip()

    # The password is not what is asked about. Who does not have the authority's certificate believes nobody.
    assert asked("--tls --cacert /etc/redis/ca.crt").startswith("NOAUTH")
    assert "certificate verify failed" in asked("--tls")
    assert asked("") != "PONG"
    assert not asked("").startswith("NOAUTH")
    # The authority's key stays where no host reads it.
    look = existing.sandbox.on_host(
        existing.sandbox.host(), "grep -rl 'PRIVATE KEY' /etc/spotcache /etc/ssl/private | sort"
    )
    assert look.stdout.split() == ["/etc/spotcache/redis.last-known-good/tls.key", "/etc/spotcache/redis/tls.key"]


def seen_from(existing: Existing, host: Any) -> list[str]:
    """Addresses from which the host was logged in to, the latest last."""
    log = existing.sandbox.on_host(host, "journalctl -u ssh --no-pager | grep Accepted").stdout
    return re.findall(r" from (\S+) port", log)


def endpoints(existing: Existing) -> list[Any]:
    rows: list[Any] = existing.ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"]
    return [row for row in rows if row["State"] == "create-complete"]


def test_through_the_endpoint_and_nobody_else(existing: Existing) -> None:
    host = existing.sandbox.host()
    [endpoint] = endpoints(existing)
    assert endpoint["VpcId"] == existing.vpc
    [interface] = existing.ec2.describe_network_interfaces(NetworkInterfaceIds=endpoint["NetworkInterfaceIds"])[
        "NetworkInterfaces"
    ]
    assert set(seen_from(existing, host)) == {interface["PrivateIpAddress"]}
    # This machine stands at the VPC's gateway, and is not let in.
    with pytest.raises(OSError, match="timed out"):
        socket.create_connection((host.ip, 22), 3)


def test_over_session_manager(existing: Existing) -> None:
    host = existing.sandbox.host()
    over = existing.play(
        "backup",
        "-vvv",
        log="ssm",
        spot_host_connection="ssm",
    )
    ways = [line for line in over.text.splitlines() if "aws ssm start-session" in line]
    assert ways
    # ssh's arguments are visible to everybody on this machine.
    assert not [line for line in ways if existing.state["operator"]["secret_access_key"] in line]
    # The agent knocks from inside the host; the security group need not let anybody in. The first time is a look
    # whether the host answers, the second one is Ansible's, which does not go on with a connection of the way before.
    assert seen_from(existing, host)[-2:] == ["127.0.0.1"] * 2


def test_directly_where_addresses_are_routed(existing: Existing) -> None:
    existing.play("provision", log="direct", **existing.open)
    # Nobody goes through it any more.
    assert endpoints(existing) == []
    host = existing.sandbox.host()
    here = existing.state["cidr"].replace(".0.0/16", ".0.1")
    # Not over what is left of Session Manager's connection, either.
    assert seen_from(existing, host)[-2:] == [here] * 2
    existing.play("backup", log="ssh", **existing.open)
    assert seen_from(existing, host)[-1] == here


def test_through_a_host_to_jump_through(existing: Existing) -> None:
    # What a person has in ~/.ssh/config for the host to jump through.
    settings = Path("/etc/ssh/ssh_config.d/t-ways.conf")
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(
        f"Host {existing.address}\n  IdentityFile {existing.state['ssh_key']}\n  StrictHostKeyChecking no\n"
        "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    try:
        through = existing.play(
            "backup",
            "-vvv",
            log="jump",
            **{**existing.open, "spot_host_connection": "jump"},
            spot_host_jump_host=f"debian@{existing.address}",
        )
    finally:
        settings.unlink()
    assert f"ProxyJump=debian@{existing.address}" in through.text
    # The host saw the jump host knock, and not this machine.
    log = existing.sandbox.on_host(existing.sandbox.host(), "journalctl -u ssh --no-pager | grep Accepted").stdout
    assert f"from {existing.address} port" in log


def test_destroy_leaves_the_vpc_and_what_else_is_in_it(existing: Existing) -> None:
    existing.play("destroy", log="destroy", destroy_confirm="sandbox", destroy_backups=True, **existing.open)
    wait(lambda: True if not existing.sandbox.hosts() else None, 60, "the host's end")
    assert existing.sandbox.resources() == existing.kept
