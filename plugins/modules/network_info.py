#!/usr/bin/python
"""What there is of an environment's network, and which parts of it are not as they should be."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: network_info
short_description: What of an environment's network is not as it should be
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Looks at the VPC of an environment and all that belongs to it, at once, and says which parts differ from what is
    wanted.
  - The role network then runs only the steps for those parts, so that a network that is as it should be costs one look
    instead of ten.
  - When in doubt a part counts as differing. The steps themselves change only what has to be changed.
options:
  name:
    description: Name of the VPC; the names of its parts begin with it.
    type: str
    required: true
  vpc_id:
    description: An existing VPC. Empty means the VPC that carries O(name) and O(tags).
    type: str
    default: ''
  cidr:
    description: Address range of the VPC that is made.
    type: str
    default: ''
  zones:
    description: Zones of the subnets that are made.
    type: list
    elements: str
    default: []
  subnet_ids:
    description: Subnets of an existing VPC.
    type: list
    elements: str
    default: []
  egress:
    description: How a host gets out.
    type: str
    choices: [existing, ipv6, public_ipv4, none]
    required: true
  ingress:
    description: What the host's security group lets in.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: TCP port.
        type: int
        required: true
      cidrs:
        description: Address ranges that may connect.
        type: list
        elements: str
        default: []
      group_ids:
        description: Security groups whose members may connect.
        type: list
        elements: str
        default: []
      clients:
        description: Whether members of the clients' group may connect.
        type: bool
        default: false
      endpoint:
        description: Whether the groups of the VPC's EC2 Instance Connect Endpoint may connect.
        type: bool
        default: false
  instance_connect_endpoint:
    description:
      - Whether the VPC is to have an EC2 Instance Connect Endpoint. Somebody else's is as good as ours with V(present),
        and the only one that will do with V(existing); with V(absent) ours is to go, unless other groups let it in.
    type: str
    choices: [present, existing, absent]
    default: absent
  endpoint_name:
    description:
      - Name of our endpoint and of its security group, whichever environment has made them.
      - EC2 allows one endpoint in a VPC, so environments in the same VPC share it.
    type: str
    default: ''
  dns_zone:
    description: Name of the private DNS zone. Empty means none.
    type: str
    default: ''
  dns_zone_shared:
    description: Whether other VPCs may ask that zone as well, whoever has made it.
    type: bool
    default: false
  dns_other_zone:
    description: Name of the zone that the environment would have with the other choice of O(dns_zone_shared).
    type: str
    default: ''
  dns_record:
    description: Name by which clients find Redis, in either zone.
    type: str
    default: ''
  tags:
    description: Tags that everything carries, besides a name.
    type: dict
    required: true
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: See what has to be done
  spotcache.redis.network_info:
    name: spotcache-stg
    cidr: 10.72.0.0/16
    zones: [ap-northeast-1a, ap-northeast-1c]
    egress: ipv6
    ingress:
      - port: 6379
        clients: true
    dns_zone: stg.spotcache.internal
    tags:
      spotcache:environment: stg
"""

RETURN = r"""
differing:
  description: The parts that are missing or different, in the order in which they are made.
  returned: always
  type: list
  elements: str
  sample: [security_groups]
vpc:
  description: The VPC as EC2 describes it, with keys in snake case; empty when there is none.
  returned: always
  type: dict
subnets:
  description: C(id), C(zone) and C(cidr) of each subnet that a host may use.
  returned: always
  type: list
  elements: dict
stranded:
  description:
    - Subnets of an existing VPC from which a host would not get out the way O(egress) says.
    - With V(existing) that is a subnet without a default route over IPv4, or with one to an internet gateway but
      without public addresses, in a VPC without interface endpoints.
  returned: always
  type: list
  elements: str
resolves:
  description:
    - Whether hosts in the VPC are answered from private DNS zones.
    - For that both its attributes C(enableDnsSupport) and C(enableDnsHostnames) must be on.
  returned: always
  type: bool
host_security_group_id:
  description: The host's security group; empty when there is none.
  returned: always
  type: str
client_security_group_id:
  description: The clients' security group; empty when there is none.
  returned: always
  type: str
cidrs:
  description: The VPC's IPv4 ranges; empty when there is no VPC.
  returned: always
  type: list
  elements: str
endpoint_security_group_id:
  description: The security group of our own EC2 Instance Connect Endpoint; empty when there is none.
  returned: always
  type: str
instance_connect_endpoint:
  description: The VPC's endpoint, as M(spotcache.redis.instance_connect_endpoint) returns it; empty when there is none.
  returned: always
  type: dict
dns_zone_id:
  description: The private DNS zone; empty when there is none.
  returned: always
  type: str
dns_answered_by:
  description:
    - Name of another private zone from which the VPC is answered for O(dns_record), after a change of
      O(dns_zone_shared); empty without one.
  returned: always
  type: str
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible.module_utils.common.dict_transformations import camel_dict_to_snake_dict
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.cidr import plan
from ansible_collections.spotcache.redis.plugins.module_utils.instance_connect import USABLE, described, find, is_ours
from ansible_collections.spotcache.redis.plugins.module_utils.questions import ask_all, has_tags, only, tags_of
from ansible_collections.spotcache.redis.plugins.module_utils.shared_zone import SHARED, needed_by

PARTS = ("vpc", "subnets", "egress", "security_groups", "instance_connect_endpoint", "dns")
SSH = 22
EVERYWHERE = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}


def ipv6_of(vpc: dict[str, Any]) -> str:
    """The VPC's IPv6 range, empty without one."""
    for association in vpc.get("Ipv6CidrBlockAssociationSet") or []:
        if association["Ipv6CidrBlockState"]["State"] in ("associated", "associating"):
            return str(association["Ipv6CidrBlock"])
    return ""


def permissions(listed: Iterable[dict[str, Any]]) -> set[tuple[str, Any, Any, str]]:
    """A group's permissions as EC2 describes them: protocol, first and last port, and one source."""
    found = set()
    for entry in listed:
        ports = (str(entry["IpProtocol"]), entry.get("FromPort"), entry.get("ToPort"))
        sources = [source["CidrIp"] for source in entry.get("IpRanges") or []]
        sources += [source["CidrIpv6"] for source in entry.get("Ipv6Ranges") or []]
        sources += [source["GroupId"] for source in entry.get("UserIdGroupPairs") or []]
        sources += [source["PrefixListId"] for source in entry.get("PrefixListIds") or []]
        found |= {(*ports, str(source)) for source in sources}
    return found


def cidrs_of(vpc: Mapping[str, Any]) -> list[str]:
    """The IPv4 ranges that a VPC has."""
    listed = vpc.get("CidrBlockAssociationSet") or []
    return sorted(str(one["CidrBlock"]) for one in listed if one["CidrBlockState"]["State"] == "associated")


def lets_in(gate: Mapping[str, Any], groups: Iterable[dict[str, Any]], besides: Mapping[str, Any]) -> bool:
    """Whether a group besides our host's lets the endpoint in: another environment is reached through it."""
    others = (group for group in groups if group["GroupId"] != besides.get("GroupId"))
    return bool(gate) and any(
        gate["GroupId"] == entry[3] for group in others for entry in permissions(group["IpPermissions"])
    )


def default_route(routes: Iterable[dict[str, Any]], version: str) -> str:
    """What a route table's default route leads to; empty without one that works."""
    key = {"ipv4": "DestinationCidrBlock", "ipv6": "DestinationIpv6CidrBlock"}[version]
    targets = ("GatewayId", "NatGatewayId", "EgressOnlyInternetGatewayId", "TransitGatewayId", "NetworkInterfaceId")
    for route in routes:
        if route.get(key) == EVERYWHERE[version] and route.get("State") != "blackhole":
            return next(
                (str(route[target]) for target in (*targets, "VpcPeeringConnectionId") if route.get(target)), ""
            )
    return ""


def gets_out(subnet: dict[str, Any], routes: list[dict[str, Any]], egress: str, endpoints: bool) -> bool:
    """Whether a host in an existing subnet gets out the way it is meant to."""
    four, six = default_route(routes, "ipv4"), default_route(routes, "ipv6")
    if egress == "ipv6":
        return bool(ipv6_of(subnet)) and six.startswith(("igw-", "eigw-"))
    if egress == "public_ipv4":
        return four.startswith("igw-")
    if egress == "existing":
        return endpoints or (bool(four) and (not four.startswith("igw-") or bool(subnet.get("MapPublicIpOnLaunch"))))
    return True


def wanted_permissions(
    ingress: Iterable[dict[str, Any]], client_group: str, endpoint_groups: Sequence[str] = ()
) -> set[tuple[str, Any, Any, str]]:
    """The same of what is asked for."""
    wanted = set()
    for rule in ingress:
        sources = [*rule["cidrs"], *rule["group_ids"], *([client_group] if rule["clients"] else [])]
        sources += endpoint_groups if rule["endpoint"] else ()
        wanted |= {("tcp", rule["port"], rule["port"], str(source)) for source in sources}
    return wanted


class Network:
    """The answers of AWS about one VPC, compared with the parameters."""

    def __init__(self, ec2: Any, route53: Any, params: dict[str, Any]) -> None:
        self.ec2 = ec2
        self.route53 = route53
        self.params = params
        self.name = str(params["name"])
        self.endpoint_name = str(params["endpoint_name"])
        self.tags = {str(key): str(value) for key, value in params["tags"].items()}

    def pages(self, operation: str, key: str, filters: dict[str, str]) -> list[dict[str, Any]]:
        """All records of one of EC2's Describe operations."""
        asked = [{"Name": name, "Values": [value]} for name, value in filters.items()]
        pages = self.ec2.get_paginator(operation).paginate(Filters=asked)
        return [record for page in pages for record in page[key]]

    def named(self, suffix: str = "") -> dict[str, str]:
        """Tags of a part."""
        return {**self.tags, "Name": self.name + suffix}

    def find_vpc(self) -> dict[str, Any] | None:
        """The VPC."""
        if self.params["vpc_id"]:
            return only(self.pages("describe_vpcs", "Vpcs", {"vpc-id": self.params["vpc_id"]}))
        return only(self.pages("describe_vpcs", "Vpcs", {f"tag:{key}": value for key, value in self.named().items()}))

    def attribute(self, vpc_id: str, name: str) -> bool:
        """Whether one of the VPC's DNS attributes is on."""
        answer = self.ec2.describe_vpc_attribute(VpcId=vpc_id, Attribute=name)
        return bool(answer[f"{name[0].upper()}{name[1:]}"]["Value"])

    def zones_of(self, vpc_id: str, region: str) -> dict[str, Any]:
        """The zone of that name which the VPC, and no other unless it is shared, asks; and who else would answer."""
        wanted, other = str(self.params["dns_zone"]), str(self.params["dns_other_zone"])
        found: list[dict[str, Any]] = []
        besides: list[dict[str, Any]] = []
        for page in self.route53.get_paginator("list_hosted_zones").paginate() if wanted else ():
            for zone in page["HostedZones"]:
                if zone["Name"] not in (f"{wanted}.", f"{other}.") or not zone["Config"].get("PrivateZone"):
                    continue
                vpcs = self.route53.get_hosted_zone(Id=zone["Id"])["VPCs"]
                asking = [(vpc["VPCId"], vpc["VPCRegion"]) for vpc in vpcs]
                if zone["Name"] != f"{wanted}.":
                    besides += [zone] if (vpc_id, region) in asking else []
                elif asking == [(vpc_id, region)] or (self.params["dns_zone_shared"] and (vpc_id, region) in asking):
                    found.append(zone)
        match = only(found)
        # The longer name answers for all below it, whatever it holds; the shorter one for what it holds.
        answers = [one for one in besides if self.params["dns_zone_shared"] or (not match and self.holds(one))]
        if match is not None:
            short = match["Id"].rpartition("/")[2]
            asked = self.route53.list_tags_for_resource(ResourceType="hostedzone", ResourceId=short)
            match = {**match, "Tags": asked["ResourceTagSet"]["Tags"]}
        return {"zone": match, "answered_by": answers[0]["Name"].rstrip(".") if answers else ""}

    def holds(self, zone: dict[str, Any]) -> bool:
        """Whether a zone has the name by which clients find Redis."""
        record = str(self.params["dns_record"])
        rows = self.route53.list_resource_record_sets(
            HostedZoneId=zone["Id"], StartRecordName=record, StartRecordType="A", MaxItems="1"
        )["ResourceRecordSets"]
        return bool(record) and any(row["Name"].rstrip(".") == record for row in rows)

    def zone_is_right(self, zone: dict[str, Any]) -> bool:
        """There, with its tags where it is this environment's alone; one that we share says that this one needs it."""
        if not self.params["dns_zone_shared"]:
            return has_tags(zone, self.named())
        tags = tags_of(zone)
        return bool(zone) and (
            SHARED not in tags or self.params["tags"].get("spotcache:environment") in needed_by(tags)
        )

    def look(self, region: str) -> dict[str, Any]:
        """What there is, and what differs."""
        vpc = self.find_vpc()
        asked_for = {"dns": self.params["dns_zone"], "instance_connect_endpoint": self.makes_endpoint(None)}
        if vpc is None:
            return result({}, differing=[part for part in PARTS if asked_for.get(part, True)])
        vpc_id = vpc["VpcId"]
        inside = {"vpc-id": vpc_id}
        attached = {"attachment.vpc-id": vpc_id}
        answers = ask_all(
            {
                "support": lambda: self.attribute(vpc_id, "enableDnsSupport"),
                "hostnames": lambda: self.attribute(vpc_id, "enableDnsHostnames"),
                "subnets": lambda: self.pages("describe_subnets", "Subnets", inside),
                "internet": lambda: self.pages("describe_internet_gateways", "InternetGateways", attached),
                "egress_only": self.egress_gateways,
                "tables": lambda: self.pages("describe_route_tables", "RouteTables", inside),
                "endpoints": lambda: self.pages("describe_vpc_endpoints", "VpcEndpoints", inside),
                "groups": lambda: self.pages("describe_security_groups", "SecurityGroups", inside),
                "zones": lambda: self.zones_of(vpc_id, region),
                "endpoint": lambda: find(self.ec2, vpc_id),
            }
        )
        own = not self.params["vpc_id"]
        usable = self.usable_subnets(vpc, answers["subnets"]) if own else self.given_subnets(answers["subnets"])
        groups = {group["GroupName"]: group for group in answers["groups"]}
        client, host = (groups.get(f"{self.name}-{part}", {}) for part in ("client", "host"))
        gate = groups.get(self.endpoint_name, {})
        zone = answers["zones"]["zone"] or {}
        endpoint = answers["endpoint"]
        # What is made later may depend on what is changed earlier.
        vpc_differs = own and not self.vpc_is_right(vpc, answers["support"] and answers["hostnames"])
        enough = max(2, len(self.params["zones"] if own else self.params["subnet_ids"]))
        subnets_differ = vpc_differs or len(usable) < enough
        differing = {
            "vpc": vpc_differs,
            "subnets": subnets_differ,
            "egress": own and (subnets_differ or not self.egress_is_right(vpc_id, region, usable, answers)),
            "security_groups": not self.groups_are_right(client, host, self.endpoint_groups(endpoint, gate)),
            "instance_connect_endpoint": not self.endpoint_is_right(
                endpoint, gate, cidrs_of(vpc), shared=lets_in(gate, answers["groups"], besides=host)
            ),
            "dns": bool(self.params["dns_zone"]) and not self.zone_is_right(zone),
        }
        stranded = [] if own else self.stranded(usable, answers["tables"], answers["endpoints"])
        return result(
            vpc,
            subnets=usable,
            groups={"host": host, "client": client, "endpoint": gate},
            zone=zone,
            answered_by=answers["zones"]["answered_by"],
            endpoint=described(endpoint, self.endpoint_name),
            stranded=stranded,
            resolves=answers["support"] and answers["hostnames"],
            differing=[part for part in PARTS if differing[part]],
        )

    def egress_gateways(self) -> list[dict[str, Any]]:
        """All egress-only internet gateways; they cannot be asked for by VPC."""
        pages = self.ec2.get_paginator("describe_egress_only_internet_gateways").paginate()
        return [record for page in pages for record in page["EgressOnlyInternetGateways"]]

    def vpc_is_right(self, vpc: dict[str, Any], dns: bool) -> bool:
        """Range, DNS, IPv6 and tags."""
        ipv6 = self.params["egress"] != "ipv6" or bool(ipv6_of(vpc))
        return vpc["CidrBlock"] == self.params["cidr"] and dns and ipv6 and has_tags(vpc, self.named())

    def usable_subnets(self, vpc: dict[str, Any], subnets: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the planned subnets that are as planned."""
        right = []
        for planned in plan(vpc["CidrBlock"], ipv6_of(vpc), self.params["zones"]):
            for subnet in subnets:
                is_right = (
                    subnet["CidrBlock"] == planned["cidr"]
                    and subnet["AvailabilityZone"] == planned["zone"]
                    and ipv6_of(subnet) == planned["ipv6_cidr"]
                    and not subnet.get("MapPublicIpOnLaunch")
                    and has_tags(subnet, self.named(f"-{planned['zone']}"))
                )
                if is_right:
                    right.append(subnet)
        return right

    def given_subnets(self, subnets: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of the existing subnets that were named."""
        named = [subnet for subnet in subnets if subnet["SubnetId"] in self.params["subnet_ids"]]
        zones = {subnet["AvailabilityZone"] for subnet in named}
        return (
            sorted(named, key=lambda subnet: (subnet["AvailabilityZone"], subnet["SubnetId"])) if len(zones) > 1 else []
        )

    def stranded(
        self, subnets: list[dict[str, Any]], tables: list[dict[str, Any]], endpoints: list[dict[str, Any]]
    ) -> list[str]:
        """Those of the existing subnets from which a host would not get out as it is meant to."""
        tied = {one.get("SubnetId"): table for table in tables for one in table.get("Associations") or []}
        main = next((t for t in tables if any(one.get("Main") for one in t.get("Associations") or [])), {})
        inside = any(endpoint.get("VpcEndpointType") == "Interface" for endpoint in endpoints)
        return [
            str(subnet["SubnetId"])
            for subnet in subnets
            if not gets_out(
                subnet, tied.get(subnet["SubnetId"], main).get("Routes") or [], str(self.params["egress"]), inside
            )
        ]

    def egress_is_right(self, vpc_id: str, region: str, subnets: list[dict[str, Any]], answers: dict[str, Any]) -> bool:
        """Gateway, route, the subnets' table, and the endpoint for S3."""
        tables = [table for table in answers["tables"] if has_tags(table, self.named())]
        table = only(tables)
        if table is None:
            return False
        associated = {entry.get("SubnetId") for entry in table.get("Associations") or []}
        if not {subnet["SubnetId"] for subnet in subnets} <= associated:
            return False
        endpoints = [
            endpoint
            for endpoint in answers["endpoints"]
            if endpoint["ServiceName"] == f"com.amazonaws.{region}.s3"
            and str(endpoint.get("State")).lower() in ("available", "pending")
            and endpoint.get("RouteTableIds") == [table["RouteTableId"]]
            and has_tags(endpoint, self.named())
        ]
        if not endpoints:
            return False
        routes = table.get("Routes") or []
        if self.params["egress"] == "ipv6":
            gateways = self.attached(answers["egress_only"], vpc_id, "EgressOnlyInternetGatewayId")
            return any(
                route.get("DestinationIpv6CidrBlock") == EVERYWHERE["ipv6"]
                and route.get("EgressOnlyInternetGatewayId") in gateways
                for route in routes
            )
        if self.params["egress"] == "public_ipv4":
            gateways = self.attached(answers["internet"], vpc_id, "InternetGatewayId")
            return any(
                route.get("DestinationCidrBlock") == EVERYWHERE["ipv4"] and route.get("GatewayId") in gateways
                for route in routes
            )
        return True

    def attached(self, gateways: list[dict[str, Any]], vpc_id: str, key: str) -> set[str]:
        """Ids of the gateways that belong to the VPC and are tagged."""
        return {
            str(gateway[key])
            for gateway in gateways
            if any(attachment.get("VpcId") == vpc_id for attachment in gateway.get("Attachments") or [])
            and has_tags(gateway, self.named())
        }

    def makes_endpoint(self, endpoint: dict[str, Any] | None) -> bool:
        """Whether the endpoint is to be our own: EC2 allows no second one beside somebody else's."""
        free = endpoint is None or is_ours(endpoint, self.endpoint_name)
        return bool(self.params["instance_connect_endpoint"] == "present") and free

    def endpoint_groups(self, endpoint: dict[str, Any] | None, gate: dict[str, Any]) -> list[str]:
        """Security groups from which tunnels come."""
        if self.params["instance_connect_endpoint"] == "absent":
            return []
        if self.makes_endpoint(endpoint):
            # Without one the host's group cannot be right.
            return [gate.get("GroupId", "")]
        return list((endpoint or {}).get("SecurityGroupIds") or [])

    def endpoint_is_right(
        self, endpoint: dict[str, Any] | None, gate: dict[str, Any], cidrs: Sequence[str], *, shared: bool
    ) -> bool:
        """Our own is there with its tags, and with its group, which lets out to SSH in the VPC only; or neither is.

        One that other environments use as well stays, and has the tags of the one that made it.
        """
        if self.params["instance_connect_endpoint"] == "absent":
            return shared or (not gate and (endpoint is None or not is_ours(endpoint, self.endpoint_name)))
        if not self.makes_endpoint(endpoint):
            return True
        if endpoint is None or not gate:
            return False
        return (
            (endpoint["State"] in USABLE or endpoint["State"] == "create-in-progress")
            and all(set(self.tags) <= set(tags_of(record)) for record in (endpoint, gate))
            and endpoint.get("SecurityGroupIds") == [gate["GroupId"]]
            and not permissions(gate["IpPermissions"])
            and permissions(gate["IpPermissionsEgress"]) == {("tcp", SSH, SSH, cidr) for cidr in cidrs}
        )

    def groups_are_right(self, client: dict[str, Any], host: dict[str, Any], endpoint_groups: Sequence[str]) -> bool:
        """Both groups with their tags, and the host's with exactly the permissions asked for."""
        if not client or not host:
            return False
        out = {("-1", None, None, EVERYWHERE["ipv4"]), ("-1", None, None, EVERYWHERE["ipv6"])}
        let_out = {
            ("-1", None, None, entry[3]) for entry in permissions(host["IpPermissionsEgress"]) if entry[0] == "-1"
        }
        return (
            has_tags(client, self.named("-client"))
            and has_tags(host, self.named("-host"))
            and permissions(host["IpPermissions"])
            == wanted_permissions(self.params["ingress"], client["GroupId"], endpoint_groups)
            and let_out == out
            and all(entry[0] == "-1" for entry in permissions(host["IpPermissionsEgress"]))
        )


def result(
    vpc: dict[str, Any],
    *,
    differing: list[str],
    stranded: Iterable[str] = (),
    resolves: bool = False,
    subnets: Sequence[dict[str, Any]] = (),
    groups: Mapping[str, dict[str, Any]] | None = None,
    zone: Mapping[str, Any] | None = None,
    answered_by: str = "",
    endpoint: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The task's result."""
    record = camel_dict_to_snake_dict(vpc, ignore_list=["Tags"])
    if record:
        record["tags"] = tags_of(vpc)
        record["ipv6_cidr"] = ipv6_of(vpc)
    ids = {part: group.get("GroupId", "") for part, group in (groups or {}).items()}
    return {
        "differing": differing,
        "vpc": record,
        "cidrs": cidrs_of(vpc),
        "subnets": [
            {"id": subnet["SubnetId"], "zone": subnet["AvailabilityZone"], "cidr": subnet["CidrBlock"]}
            for subnet in subnets
        ],
        "stranded": list(stranded),
        "resolves": resolves,
        "host_security_group_id": ids.get("host", ""),
        "client_security_group_id": ids.get("client", ""),
        "endpoint_security_group_id": ids.get("endpoint", ""),
        "instance_connect_endpoint": endpoint or {},
        "dns_zone_id": (zone or {}).get("Id", "").rpartition("/")[2],
        "dns_answered_by": answered_by,
    }


def main() -> None:
    """Ansible's entry point."""
    rule = {
        "port": {"type": "int", "required": True},
        "cidrs": {"type": "list", "elements": "str", "default": []},
        "group_ids": {"type": "list", "elements": "str", "default": []},
        "clients": {"type": "bool", "default": False},
        "endpoint": {"type": "bool", "default": False},
    }
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "vpc_id": {"type": "str", "default": ""},
            "cidr": {"type": "str", "default": ""},
            "zones": {"type": "list", "elements": "str", "default": []},
            "subnet_ids": {"type": "list", "elements": "str", "default": []},
            "egress": {"type": "str", "choices": ["existing", "ipv6", "public_ipv4", "none"], "required": True},
            "ingress": {"type": "list", "elements": "dict", "default": [], "options": rule},
            "instance_connect_endpoint": {
                "type": "str",
                "choices": ["present", "existing", "absent"],
                "default": "absent",
            },
            "endpoint_name": {"type": "str", "default": ""},
            "dns_zone": {"type": "str", "default": ""},
            "dns_zone_shared": {"type": "bool", "default": False},
            "dns_other_zone": {"type": "str", "default": ""},
            "dns_record": {"type": "str", "default": ""},
            "tags": {"type": "dict", "required": True},
        },
        required_if=[("instance_connect_endpoint", "present", ["endpoint_name"])],
        supports_check_mode=True,
    )
    network = Network(module.client("ec2"), module.client("route53"), module.params)
    try:
        found = network.look(module.region)
    except ValueError as error:
        module.fail_json(msg=str(error))
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg=f"The network of {network.name} cannot be looked at")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
