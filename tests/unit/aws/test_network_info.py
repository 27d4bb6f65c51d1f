"""The look at a network: nothing differs when it is as it should be, and every drift is seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils import cidr
from ansible_collections.spotcache.redis.plugins.modules import network_info as module

from tests.unit.aws.instance_connect_support import endpoints

REGION = "ap-northeast-1"
NAME = "spotcache-t"
TAGS = {"spotcache:environment": "t"}
ZONES = [f"{REGION}a", f"{REGION}c"]
PARAMETERS: dict[str, Any] = {
    "name": NAME,
    "cidr": "10.9.0.0/16",
    "zones": ZONES,
    "egress": "public_ipv4",
    "ingress": [{"port": 6379, "clients": True, "cidrs": ["10.9.0.0/16"]}, {"port": 22, "cidrs": ["10.9.0.0/16"]}],
    "dns_zone": "t.spotcache.internal",
    "tags": TAGS,
    "region": REGION,
}


def tagged(kind: str, suffix: str = "") -> dict[str, Any]:
    tags = [{"Key": key, "Value": value} for key, value in {**TAGS, "Name": NAME + suffix}.items()]
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]}


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for _connect in endpoints(monkeypatch):
        yield boto3.client("ec2", region_name=REGION)


@pytest.fixture
def made(ec2: Any) -> dict[str, Any]:
    """A network as the role makes it."""
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16", **tagged("vpc"))["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    subnets = [
        ec2.create_subnet(
            VpcId=vpc, CidrBlock=one["cidr"], AvailabilityZone=one["zone"], **tagged("subnet", f"-{one['zone']}")
        )["Subnet"]["SubnetId"]
        for one in cidr.plan("10.9.0.0/16", "", ZONES)
    ]
    gateway = ec2.create_internet_gateway(**tagged("internet-gateway"))["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc, **tagged("route-table"))["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    associations = [
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)["AssociationId"] for subnet in subnets
    ]
    endpoint = ec2.create_vpc_endpoint(
        VpcId=vpc,
        VpcEndpointType="Gateway",
        ServiceName=f"com.amazonaws.{REGION}.s3",
        RouteTableIds=[table],
        **tagged("vpc-endpoint"),
    )["VpcEndpoint"]["VpcEndpointId"]
    client, host = (
        ec2.create_security_group(
            VpcId=vpc, GroupName=f"{NAME}-{kind}", Description=kind, **tagged("security-group", f"-{kind}")
        )["GroupId"]
        for kind in ("client", "host")
    )
    port = {"IpProtocol": "tcp", "IpRanges": [{"CidrIp": "10.9.0.0/16", "Description": "any"}]}
    permissions = [
        {**port, "FromPort": 6379, "ToPort": 6379, "UserIdGroupPairs": [{"GroupId": client}]},
        {**port, "FromPort": 22, "ToPort": 22},
    ]
    ec2.authorize_security_group_ingress(GroupId=host, IpPermissions=permissions)
    ec2.authorize_security_group_egress(
        GroupId=host, IpPermissions=[{"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]
    )
    route53 = boto3.client("route53", region_name=REGION)
    zone = route53.create_hosted_zone(
        Name="t.spotcache.internal",
        CallerReference="1",
        HostedZoneConfig={"PrivateZone": True},
        VPC={"VPCRegion": REGION, "VPCId": vpc},
    )["HostedZone"]["Id"].rpartition("/")[2]
    named = [{"Key": key, "Value": value} for key, value in {**TAGS, "Name": NAME}.items()]
    route53.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone, AddTags=named)
    return {
        "vpc": vpc,
        "subnets": subnets,
        "gateway": gateway,
        "table": table,
        "associations": associations,
        "endpoint": endpoint,
        "client": client,
        "host": host,
        "permissions": permissions,
        "zone": zone,
        "route53": route53,
    }


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def run(**change: Any) -> dict[str, Any]:
        with patch_module_args({**PARAMETERS, **change}), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert "msg" not in answer, answer["msg"]
        return answer

    return run


def test_an_empty_account_lacks_everything(ec2: Any, look: Callable[..., dict[str, Any]]) -> None:
    seen = look()
    assert seen["differing"] == ["vpc", "subnets", "egress", "security_groups", "dns"]
    assert (seen["vpc"], seen["subnets"], seen["dns_zone_id"]) == ({}, [], "")
    assert "dns" not in look(dns_zone="")["differing"]


def test_what_is_as_it_should_be(made: dict[str, Any], look: Callable[..., dict[str, Any]]) -> None:
    seen = look()
    assert seen["differing"] == []
    assert seen["vpc"]["vpc_id"] == made["vpc"]
    assert [one["id"] for one in seen["subnets"]] == made["subnets"]
    assert [one["zone"] for one in seen["subnets"]] == ZONES
    assert seen["host_security_group_id"] == made["host"]
    assert seen["client_security_group_id"] == made["client"]
    assert seen["dns_zone_id"] == made["zone"]


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"cidr": "10.8.0.0/16"}, ["vpc", "subnets", "egress"]),
        ({"egress": "ipv6"}, ["vpc", "subnets", "egress"]),
        ({"egress": "none"}, []),
        ({"zones": [f"{REGION}a", f"{REGION}d"]}, ["subnets", "egress"]),
        ({"ingress": [{"port": 6379, "clients": True}]}, ["security_groups"]),
        ({"dns_zone": "other.internal"}, ["dns"]),
        ({"tags": {**TAGS, "team": "a"}}, ["vpc", "subnets", "egress", "security_groups", "dns"]),
    ],
)
def test_other_wishes(
    made: dict[str, Any], look: Callable[..., dict[str, Any]], change: dict[str, Any], differing: list[str]
) -> None:
    assert look(**change)["differing"] == differing


DRIFTS: dict[str, tuple[Callable[[Any, dict[str, Any]], object], list[str]]] = {
    "DNS names off": (
        lambda ec2, made: ec2.modify_vpc_attribute(VpcId=made["vpc"], EnableDnsHostnames={"Value": False}),
        ["vpc", "subnets", "egress"],
    ),
    "public addresses": (
        lambda ec2, made: ec2.modify_subnet_attribute(SubnetId=made["subnets"][0], MapPublicIpOnLaunch={"Value": True}),
        ["subnets", "egress"],
    ),
    "route gone": (
        lambda ec2, made: ec2.delete_route(RouteTableId=made["table"], DestinationCidrBlock="0.0.0.0/0"),
        ["egress"],
    ),
    "subnet's table gone": (
        lambda ec2, made: ec2.disassociate_route_table(AssociationId=made["associations"][1]),
        ["egress"],
    ),
    "endpoint gone": (lambda ec2, made: ec2.delete_vpc_endpoints(VpcEndpointIds=[made["endpoint"]]), ["egress"]),
    "opened by hand": (
        lambda ec2, made: ec2.authorize_security_group_ingress(
            GroupId=made["host"], IpProtocol="tcp", FromPort=6379, ToPort=6379, CidrIp="0.0.0.0/0"
        ),
        ["security_groups"],
    ),
    "closed by hand": (
        lambda ec2, made: ec2.revoke_security_group_ingress(
            GroupId=made["host"], IpPermissions=[made["permissions"][1]]
        ),
        ["security_groups"],
    ),
    "nothing gets out": (
        lambda ec2, made: ec2.revoke_security_group_egress(
            GroupId=made["host"], IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
        ),
        ["security_groups"],
    ),
    "tag gone": (
        lambda ec2, made: ec2.delete_tags(Resources=[made["client"]], Tags=[{"Key": "spotcache:environment"}]),
        ["security_groups"],
    ),
    "zone gone": (lambda ec2, made: made["route53"].delete_hosted_zone(Id=made["zone"]), ["dns"]),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_seen(ec2: Any, made: dict[str, Any], look: Callable[..., dict[str, Any]], drift: str) -> None:
    happens, differing = DRIFTS[drift]
    happens(ec2, made)
    assert look()["differing"] == differing


def test_two_of_the_same_name_are_not_guessed_between(
    ec2: Any, made: dict[str, Any], look: Callable[..., dict[str, Any]]
) -> None:
    ec2.create_vpc(CidrBlock="10.9.0.0/16", **tagged("vpc"))
    assert "vpc" in look()["differing"]


def test_an_existing_vpc_is_not_judged(ec2: Any, made: dict[str, Any], look: Callable[..., dict[str, Any]]) -> None:
    ec2.delete_route(RouteTableId=made["table"], DestinationCidrBlock="0.0.0.0/0")
    ec2.delete_tags(Resources=[made["vpc"], *made["subnets"]])
    existing = {"vpc_id": made["vpc"], "egress": "existing", "zones": []}
    seen = look(**existing, subnet_ids=made["subnets"])
    assert seen["differing"] == []
    assert [one["id"] for one in seen["subnets"]] == made["subnets"]
    assert look(**existing, subnet_ids=made["subnets"][:1])["differing"] == ["subnets"]
    assert look(**existing, subnet_ids=["subnet-0123456789abcdef0"])["differing"] == ["subnets"]


def test_subnets_are_planned_without_overlap() -> None:
    assert [one["cidr"] for one in cidr.plan("10.9.0.0/24", "", ZONES)] == ["10.9.0.0/28", "10.9.0.16/28"]
    assert [one["ipv6_cidr"] for one in cidr.plan("10.9.0.0/16", "2001:db8:1:ff00::/56", ZONES)] == [
        "2001:db8:1:ff00::/64",
        "2001:db8:1:ff01::/64",
    ]
    with pytest.raises(ValueError, match="cannot be split"):
        cidr.split("10.9.0.0/30", 2, 29)
    with pytest.raises(ValueError, match="holds only 2"):
        cidr.split("10.9.0.0/31", 3, 32)


def test_subnets_that_lead_nowhere_are_named(ec2: Any, look: Callable[..., dict[str, Any]]) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    first, second = (
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.8.{index}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        for index, zone in enumerate(ZONES)
    )
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.associate_route_table(RouteTableId=table, SubnetId=first)
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)

    def stranded(egress: str) -> list[str]:
        found: list[str] = look(vpc_id=vpc, subnet_ids=[first, second], egress=egress)["stranded"]
        return found

    assert stranded("existing") == stranded("ipv6") == stranded("public_ipv4") == [first, second]
    assert stranded("none") == []
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    assert stranded("public_ipv4") == [second]
    # The gateway is of no use to a host that the subnet gives no public address.
    assert stranded("existing") == [first, second]
    ec2.modify_subnet_attribute(SubnetId=first, MapPublicIpOnLaunch={"Value": True})
    assert stranded("existing") == [second]
    ec2.create_vpc_endpoint(
        VpcId=vpc, VpcEndpointType="Interface", ServiceName=f"com.amazonaws.{REGION}.ssm", SubnetIds=[second]
    )
    assert stranded("existing") == []


def test_private_zones_are_asked_only_with_both_dns_attributes(ec2: Any, look: Callable[..., dict[str, Any]]) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]

    def resolves() -> bool:
        return bool(look(vpc_id=vpc, subnet_ids=[])["resolves"])

    assert not resolves()
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    assert resolves()
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsSupport={"Value": False})
    assert not resolves()


def test_ipv6_needs_a_range_and_a_route() -> None:
    state = {"Ipv6CidrBlockState": {"State": "associated"}}
    subnet = {"Ipv6CidrBlockAssociationSet": [{"Ipv6CidrBlock": "2001:db8::/64", **state}]}
    route = {"DestinationIpv6CidrBlock": "::/0", "EgressOnlyInternetGatewayId": "eigw-1", "State": "active"}
    assert module.gets_out(subnet, [route], "ipv6", endpoints=False)
    assert not module.gets_out({}, [route], "ipv6", endpoints=False)
    assert not module.gets_out(subnet, [], "ipv6", endpoints=False)
    assert not module.gets_out(subnet, [{**route, "State": "blackhole"}], "ipv6", endpoints=False)


# The endpoint through which hosts are reached.

GATE = "spotcache-endpoint"
PRESENT: dict[str, Any] = {
    "instance_connect_endpoint": "present",
    "endpoint_name": GATE,
    "ingress": [
        {"port": 6379, "clients": True, "cidrs": ["10.9.0.0/16"]},
        {"port": 22, "cidrs": ["10.9.0.0/16"], "endpoint": True},
    ],
}


def ssh(*groups: str, **more: Any) -> list[dict[str, Any]]:
    pairs = [{"GroupId": group} for group in groups]
    return [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "UserIdGroupPairs": pairs, **more}]


def shared(kind: str, maker: str = "t") -> dict[str, Any]:
    tags = {"spotcache:environment": maker, "Name": GATE}
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": listed}]}


def reachable(ec2: Any, made: dict[str, Any], maker: str) -> dict[str, Any]:
    """The network with an endpoint as the role makes it for an environment."""
    gate = ec2.create_security_group(
        VpcId=made["vpc"], GroupName=GATE, Description="e", **shared("security-group", maker)
    )["GroupId"]
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.revoke_security_group_egress(GroupId=gate, IpPermissions=everything)
    ec2.authorize_security_group_egress(GroupId=gate, IpPermissions=ssh(IpRanges=[{"CidrIp": "10.9.0.0/16"}]))
    ec2.authorize_security_group_ingress(GroupId=made["host"], IpPermissions=ssh(gate))
    endpoint = ec2.create_instance_connect_endpoint(
        SubnetId=made["subnets"][0], SecurityGroupIds=[gate], **shared("instance-connect-endpoint", maker)
    )["InstanceConnectEndpoint"]["InstanceConnectEndpointId"]
    return {**made, "gate": gate, "reached": endpoint}


@pytest.fixture
def reached(ec2: Any, made: dict[str, Any]) -> dict[str, Any]:
    """The network with an endpoint as the role makes it."""
    return reachable(ec2, made, "t")


def test_an_endpoint_that_is_asked_for_is_missing(made: dict[str, Any], look: Callable[..., dict[str, Any]]) -> None:
    seen = look(**PRESENT)
    assert seen["differing"] == ["security_groups", "instance_connect_endpoint"]
    assert (seen["instance_connect_endpoint"], seen["endpoint_security_group_id"]) == ({}, "")


def test_an_endpoint_as_it_should_be(reached: dict[str, Any], look: Callable[..., dict[str, Any]]) -> None:
    seen = look(**PRESENT)
    assert seen["differing"] == []
    assert seen["endpoint_security_group_id"] == reached["gate"]
    # It is being made, and whoever goes through it waits for that.
    assert (seen["instance_connect_endpoint"]["id"], seen["instance_connect_endpoint"]["managed"]) == (
        reached["reached"],
        True,
    )
    assert look(endpoint_name=GATE)["differing"] == ["security_groups", "instance_connect_endpoint"]


def test_an_endpoint_of_another_environment_in_the_vpc_is_shared(
    ec2: Any, made: dict[str, Any], look: Callable[..., dict[str, Any]]
) -> None:
    of_others = reachable(ec2, made, "others")
    seen = look(**PRESENT)
    assert seen["differing"] == []
    assert (seen["instance_connect_endpoint"]["managed"], seen["cidrs"]) == (True, ["10.9.0.0/16"])
    # As long as another environment lets it in, it is none of ours to delete.
    theirs = ec2.create_security_group(VpcId=made["vpc"], GroupName="spotcache-others-host", Description="h")["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=theirs, IpPermissions=ssh(of_others["gate"]))
    assert look(endpoint_name=GATE)["differing"] == ["security_groups"]
    ec2.revoke_security_group_ingress(GroupId=made["host"], IpPermissions=ssh(of_others["gate"]))
    ec2.revoke_security_group_ingress(GroupId=theirs, IpPermissions=ssh(of_others["gate"]))
    assert look(endpoint_name=GATE)["differing"] == ["instance_connect_endpoint"]


OPENED: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "lets out to everybody": lambda ec2, made: ec2.authorize_security_group_egress(
        GroupId=made["gate"], IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ),
    "lets out to Redis": lambda ec2, made: ec2.authorize_security_group_egress(
        GroupId=made["gate"], IpPermissions=[{**ssh(made["host"])[0], "FromPort": 6379, "ToPort": 6379}]
    ),
    "lets in": lambda ec2, made: ec2.authorize_security_group_ingress(
        GroupId=made["gate"], IpPermissions=ssh(made["client"])
    ),
    "tag gone": lambda ec2, made: ec2.delete_tags(Resources=[made["reached"]], Tags=[{"Key": "spotcache:environment"}]),
    "other group": lambda ec2, made: ec2.modify_instance_connect_endpoint(
        InstanceConnectEndpointId=made["reached"], SecurityGroupIds=[made["client"]]
    ),
    "leaving": lambda ec2, made: ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=made["reached"]),
}


@pytest.mark.parametrize("drift", OPENED)
def test_what_was_done_to_the_endpoint_is_seen(
    ec2: Any, reached: dict[str, Any], look: Callable[..., dict[str, Any]], drift: str
) -> None:
    OPENED[drift](ec2, reached)
    assert look(**PRESENT)["differing"] == ["instance_connect_endpoint"]


@pytest.mark.parametrize("wish", ["present", "existing"])
def test_somebody_elses_endpoint_will_do(
    ec2: Any, made: dict[str, Any], look: Callable[..., dict[str, Any]], wish: str
) -> None:
    theirs = ec2.create_security_group(VpcId=made["vpc"], GroupName="theirs", Description="t")["GroupId"]
    ec2.create_instance_connect_endpoint(SubnetId=made["subnets"][0], SecurityGroupIds=[theirs])
    asked = {**PRESENT, "instance_connect_endpoint": wish}
    # Only the host's group must let it in.
    assert look(**asked)["differing"] == ["security_groups"]
    ec2.authorize_security_group_ingress(GroupId=made["host"], IpPermissions=ssh(theirs))
    assert look(**asked)["differing"] == []
