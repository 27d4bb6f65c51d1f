# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host reaches, by real packets, in each of the networks that the role makes or finds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.sandboxes import Host, Sandbox
from tests.e2e.conftest import JOB, LOGS
from tests.e2e.test_sandbox import wait

REGION = "ap-northeast-1"
MIRROR = "http://deb.debian.org/debian/dists/bookworm/InRelease"
# What curl is asked for. An answer of any kind is a way; what AWS says to a stranger is 403.
PROBES = {
    "s3": f"https://s3.{REGION}.amazonaws.com/",
    "bucket": f"https://backups.s3.{REGION}.amazonaws.com/",
    "s3 dual-stack": f"https://s3.dualstack.{REGION}.amazonaws.com/",
    "ec2": f"https://ec2.{REGION}.amazonaws.com/",
    "ec2 dual-stack": f"https://ec2.{REGION}.api.aws/",
    "ssm": f"https://ssm.{REGION}.amazonaws.com/",
    "ssm dual-stack": f"https://ssm.{REGION}.api.aws/",
    "autoscaling dual-stack": f"https://autoscaling.{REGION}.api.aws/",
    "route53": "https://route53.amazonaws.com/",
    "route53 dual-stack": "https://route53.global.api.aws/",
    "sns": f"https://sns.{REGION}.amazonaws.com/",
    "mirror by IPv4": f"-4 {MIRROR}",
    "mirror by IPv6": f"-6 {MIRROR}",
    "this machine": "http://{gateway}:{port}/",
    "the internet": "http://192.0.2.1/",
    "a name that is not": f"https://route53.{REGION}.amazonaws.com/",
}
S3 = {"s3", "bucket", "s3 dual-stack"}
IPV6 = {probe for probe in PROBES if probe.endswith(("dual-stack", "IPv6"))} | {"sns"}
IPV4 = set(PROBES) - {"mirror by IPv6", "this machine", "the internet", "a name that is not"}
REACHED = {
    "ipv6": S3 | IPV6,
    "none": S3,
    "public_ipv4": IPV4,
    "existing": IPV4,  # by its NAT gateway
    "existing, without a way": set[str](),
}


@dataclass
class Place:
    """A subnet with one bare host."""

    host: Host
    vpc: str
    subnet: str
    group: str
    table: str


class Networks:
    """A sandbox with one host in each network."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.state, self.ec2 = sandbox, sandbox.state, sandbox.client("ec2")
        self.second = self.state["cidr"].split(".")[1]
        key = Path(f"{self.state['ssh_key']}.pub").read_bytes()
        self.ec2.import_key_pair(KeyName="probe", PublicKeyMaterial=key)
        made = self._by_the_role(folder)
        made["existing"], made["existing, without a way"] = self._by_hand()
        self.places = {name: self._host(name, **found) for name, found in made.items()}
        for place in self.places.values():
            wait(partial(self._answers, place), 60, "SSH")

    def _answers(self, place: Place) -> bool | None:
        return True if self.run(place, "true").returncode == 0 else None

    def cidr(self, third: int) -> str:
        """A network of the sandbox's, of 16 that do not overlap."""
        return f"10.{self.second}.{third * 16}.0/20"

    def _by_the_role(self, folder: Path) -> dict[str, dict[str, str]]:
        tasks: list[dict[str, Any]] = []
        for number, egress in enumerate(("ipv6", "none", "public_ipv4")):
            given = {
                "network_environment": egress.replace("_", "-"),
                "network_region": REGION,
                "network_egress": egress,
                "network_cidr": self.cidr(number),
                "network_dns_zone": "",
            }
            result = {"content": "{{ network_result | to_json }}", "dest": f"{folder}/{egress}.json", "mode": "0600"}
            tasks += [
                {"ansible.builtin.include_role": {"name": "spotcache.redis.network"}, "vars": given},
                {"ansible.builtin.copy": result},
            ]
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "environment": "{{ spotcache_aws_environment }}",
            "tasks": tasks,
        }
        playbook = folder / "networks.yml"
        playbook.write_text(yaml.safe_dump([play], sort_keys=False))
        self.sandbox.play(str(playbook), log="networks")
        made = {}
        for egress in ("ipv6", "none", "public_ipv4"):
            found = json.loads((folder / f"{egress}.json").read_text())
            made[egress] = {
                "vpc": found["vpc_id"],
                "subnet": found["subnets"][0]["id"],
                "group": found["host_security_group_id"],
            }
        return made

    def _by_hand(self) -> list[dict[str, str]]:
        """Two private subnets of a VPC with an internet gateway: one has a NAT gateway's way, one only the other's."""
        ec2, zone = self.ec2, self.state["zones"][0]
        vpc = ec2.create_vpc(CidrBlock=self.cidr(3))["Vpc"]["VpcId"]
        cidrs = [f"10.{self.second}.{48 + number}.0/24" for number in range(3)]
        public, behind, without = (
            ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, AvailabilityZone=zone)["Subnet"]["SubnetId"] for cidr in cidrs
        )
        group = ec2.create_security_group(VpcId=vpc, GroupName="probe", Description="probe")["GroupId"]
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": self.cidr(3)}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
        internet = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=internet, VpcId=vpc)
        address = ec2.allocate_address(Domain="vpc")["AllocationId"]
        nat = ec2.create_nat_gateway(SubnetId=public, AllocationId=address)["NatGateway"]["NatGatewayId"]
        ways = {public: {"GatewayId": internet}, behind: {"NatGatewayId": nat}, without: {"GatewayId": internet}}
        for subnet, way in ways.items():
            table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
            ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **way)
        return [{"vpc": vpc, "subnet": subnet, "group": group} for subnet in (behind, without)]

    def _host(self, name: str, vpc: str, subnet: str, group: str) -> Place:
        interface: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group]}
        interface |= {"AssociatePublicIpAddress": True} if name == "public_ipv4" else {}
        interface |= {"Ipv6AddressCount": 1} if name == "ipv6" else {}
        template = f"probe-{len(self.ec2.describe_launch_templates()['LaunchTemplates'])}"
        data = {
            "ImageId": self.state["images"]["debian"],
            "InstanceType": "t3.small",
            "KeyName": "probe",
            "NetworkInterfaces": [interface],
        }
        self.ec2.create_launch_template(LaunchTemplateName=template, LaunchTemplateData=data)
        [made] = self.ec2.run_instances(
            LaunchTemplate={"LaunchTemplateName": template}, MinCount=1, MaxCount=1, SubnetId=subnet
        )["Instances"]
        tied = [{"Name": "association.subnet-id", "Values": [subnet]}]
        [table] = self.ec2.describe_route_tables(Filters=tied)["RouteTables"]
        host = Host(made["InstanceId"], made["Placement"]["AvailabilityZone"], made["PrivateIpAddress"])
        return Place(host, vpc, subnet, group, table["RouteTableId"])

    def run(self, place: Place, command: str) -> subprocess.CompletedProcess[str]:
        """A shell command on a host."""
        return self.sandbox.on_host(place.host, command)

    def reached(self, place: Place, *probes: str) -> set[str]:
        """What curl reaches from a host; all at once, because what has no way is not told so."""
        port = self.state["endpoint"].rpartition(":")[2]
        gateway = ".".join([*self.ec2.describe_vpcs(VpcIds=[place.vpc])["Vpcs"][0]["CidrBlock"].split(".")[:3], "1"])
        lines = [
            f"( curl -s -m 5 -o /dev/null {PROBES[probe].format(gateway=gateway, port=port)} && echo '{probe}' ) &"
            for probe in probes or PROBES
        ]
        return set(self.run(place, "\n".join([*lines, "wait"])).stdout.splitlines())


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networks]:
    with Sandbox(f"t-paths{JOB}", LOGS / f"paths{JOB}", swift=True).running() as running:
        yield Networks(running, tmp_path_factory.mktemp("networks"))


@pytest.mark.parametrize("network", REACHED)
def test_a_host_reaches_what_its_network_gives_it_and_nothing_else(networks: Networks, network: str) -> None:
    assert networks.reached(networks.places[network]) == REACHED[network]


def test_packages_are_fetched_over_ipv6(networks: Networks) -> None:
    place = networks.places["ipv6"]
    apt = (
        "cd /tmp && apt-get -o Acquire::ForceIPv6=true -o Acquire::Retries=0 -q download hostname && ls hostname_*.deb"
    )
    done = networks.run(place, apt)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_route_that_goes_takes_its_way_along(networks: Networks) -> None:
    place = networks.places["ipv6"]
    mirror = "mirror by IPv6"
    [gateway] = [
        route["EgressOnlyInternetGatewayId"]
        for route in networks.ec2.describe_route_tables(RouteTableIds=[place.table])["RouteTables"][0]["Routes"]
        if route.get("DestinationIpv6CidrBlock") == "::/0"
    ]
    networks.ec2.delete_route(RouteTableId=place.table, DestinationIpv6CidrBlock="::/0")
    wait(lambda: True if not networks.reached(place, mirror) else None, 30, "the way's end")
    assert networks.reached(place, "s3", mirror) == {"s3"}
    networks.ec2.create_route(
        RouteTableId=place.table, DestinationIpv6CidrBlock="::/0", EgressOnlyInternetGatewayId=gateway
    )
    wait(lambda: True if networks.reached(place, mirror) else None, 30, "the way")


def test_security_groups_hold_for_ipv6(networks: Networks) -> None:
    ec2, place = networks.ec2, networks.places["ipv6"]
    closed = ec2.create_security_group(VpcId=place.vpc, GroupName="closed", Description="closed")["GroupId"]
    [made] = ec2.run_instances(
        ImageId=networks.state["images"]["debian"],
        InstanceType="t3.small",
        MinCount=1,
        MaxCount=1,
        SubnetId=place.subnet,
        SecurityGroupIds=[closed],
        Ipv6AddressCount=1,
    )["Instances"]
    address = made["NetworkInterfaces"][0]["Ipv6Addresses"][0]["Ipv6Address"]
    container = f"sc-{networks.sandbox.name}-{made['InstanceId']}"
    running = ["docker", "exec", container, "systemctl", "is-active", "-q", "ssh"]
    wait(lambda: True if subprocess.run(running, capture_output=True).returncode == 0 else None, 60, "a second host")

    def open_to_the_other() -> bool:
        knock = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{address}/22'"
        return networks.run(place, knock).returncode == 0

    assert not open_to_the_other()
    everybody = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    ec2.authorize_security_group_ingress(GroupId=closed, IpPermissions=[everybody])
    wait(lambda: True if open_to_the_other() else None, 30, "the second host's port")
    ec2.revoke_security_group_ingress(GroupId=closed, IpPermissions=[everybody])
    wait(lambda: True if not open_to_the_other() else None, 30, "its end")
    ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def test_nobody_who_has_not_the_authority_is_believed(networks: Networks) -> None:
    place = networks.places["none"]
    probe = f"curl -s -m 5 -o /dev/null --capath /nowhere --cacert /etc/hostname {PROBES['s3']}; echo $?"
    assert networks.run(place, probe).stdout.strip() != "0"
    assert Path(networks.state["authority"]).read_text() in networks.run(place, "cat /etc/ssl/certs/*.crt").stdout
