"""What an account pays for each month, and what else is left in it: asked of AWS's own API, so it holds there as here.

Prices are list prices of Tokyo (ap-northeast-1) of autumn 2026 in USD, for 730 hours, without tax and free tier; their
sources stand in docs/costs.md. Sizes of EBS snapshots are those of their volumes: EBS charges for changed blocks, of
which the API does not tell, so the figure is the most that it can be.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

HOURS = 730
INSTANCE_HOUR = {
    "t3.nano": 0.0068,
    "t3.micro": 0.0136,
    "t3.small": 0.0272,
    "t3.medium": 0.0544,
    "t3a.micro": 0.0122,
    "t3a.small": 0.0245,
    "t3a.medium": 0.0490,
    "t4g.nano": 0.0054,
    "t4g.micro": 0.0108,
    "t4g.small": 0.0216,
    "t4g.medium": 0.0432,
}
VOLUME_GB, SNAPSHOT_GB, OBJECT_GB, LOG_GB, REGISTRY_GB = 0.096, 0.05, 0.025, 0.033, 0.10
ADDRESS = 0.005 * HOURS
NAT_GATEWAY = 0.062 * HOURS
INTERFACE_ENDPOINT_ZONE = 0.014 * HOURS
ZONE, SECRET, KEY, ALARM, ADVANCED_PARAMETER = 0.50, 0.40, 1.00, 0.10, 0.05
GIB = 2**30

Client = Callable[[str], Any]


@dataclass(frozen=True)
class Thing:
    """One thing in the account.

    Attributes:
        kind: what it is, in AWS's word.
        id: AWS's id or name of it.
        usd_month: what it costs a month while it lies idle; None where the price is not known here.
        note: what the price comes from.
    """

    kind: str
    id: str
    usd_month: float | None
    note: str = ""

    @property
    def paid(self) -> bool:
        """Whether it costs anything, as far as is known."""
        return self.usd_month is None or self.usd_month > 0


def inventory(client: Client) -> list[Thing]:
    """Everything of the account and region that is paid, and what costs nothing idle and is left all the same.

    What AWS itself gives every account is left out: the default VPC with its parts, and service-linked roles.

    Args:
        client: makes the SDK's client for a service.
    """
    parts = (_compute, _disks, _network, _names, _buckets, _logs, _kept, _functions, _scaling, _roles)
    return sorted((one for part in parts for one in part(client)), key=lambda one: (one.kind, one.id))


def paid(client: Client) -> list[Thing]:
    """Only what is paid."""
    return [one for one in inventory(client) if one.paid]


def month(things: list[Thing]) -> float:
    """What they cost a month together, as far as prices are known, in USD."""
    return sum(one.usd_month or 0.0 for one in things)


def _pages(client: Any, action: str, key: str, **arguments: Any) -> Iterator[Any]:
    """All rows of an answer, however many pages it has."""
    if client.can_paginate(action):
        for page in client.get_paginator(action).paginate(**arguments):
            yield from page.get(key) or []
    else:
        yield from getattr(client, action)(**arguments).get(key) or []


def _compute(client: Client) -> Iterator[Thing]:
    for reservation in _pages(client("ec2"), "describe_instances", "Reservations"):
        for one in reservation["Instances"]:
            if one["State"]["Name"] != "terminated":
                hour = INSTANCE_HOUR.get(one["InstanceType"])
                price = None if hour is None else hour * HOURS
                yield Thing("instance", one["InstanceId"], price, f"{one['InstanceType']}, the on-demand price")


def _disks(client: Client) -> Iterator[Thing]:
    ec2 = client("ec2")
    for one in _pages(ec2, "describe_volumes", "Volumes"):
        yield Thing("volume", one["VolumeId"], one["Size"] * VOLUME_GB, f"{one['Size']} GiB, {one['State']}")
    for one in _pages(ec2, "describe_snapshots", "Snapshots", OwnerIds=["self"]):
        size, of = one["VolumeSize"], one.get("Description", "")
        yield Thing("snapshot", one["SnapshotId"], size * SNAPSHOT_GB, f"at most {size} GiB; {of}")
    for one in _pages(ec2, "describe_images", "Images", Owners=["self"]):
        yield Thing("image", one["ImageId"], 0.0, "its snapshots are paid")


def _network(client: Client) -> Iterator[Thing]:
    ec2 = client("ec2")
    default = {one["VpcId"] for one in _pages(ec2, "describe_vpcs", "Vpcs") if one["IsDefault"]}
    for one in _pages(ec2, "describe_addresses", "Addresses"):
        yield Thing("address", one.get("AllocationId", one["PublicIp"]), ADDRESS)
    for one in _pages(ec2, "describe_nat_gateways", "NatGateways"):
        if one["State"] not in ("deleted", "deleting"):
            yield Thing("NAT gateway", one["NatGatewayId"], NAT_GATEWAY, "without traffic")
    for one in _pages(ec2, "describe_vpc_endpoints", "VpcEndpoints"):
        if one["State"] not in ("deleted", "deleting"):
            zones = len(one.get("SubnetIds") or [])
            price = 0.0 if one["VpcEndpointType"] == "Gateway" else zones * INTERFACE_ENDPOINT_ZONE
            yield Thing("VPC endpoint", one["VpcEndpointId"], price, one["ServiceName"])
    free = [
        ("VPC", "describe_vpcs", "Vpcs", "VpcId"),
        ("subnet", "describe_subnets", "Subnets", "SubnetId"),
        ("security group", "describe_security_groups", "SecurityGroups", "GroupId"),
        ("route table", "describe_route_tables", "RouteTables", "RouteTableId"),
        ("network interface", "describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId"),
    ]
    for kind, action, rows, key in free:
        yield from (Thing(kind, one[key], 0.0) for one in _pages(ec2, action, rows) if one.get("VpcId") not in default)
    gateways = [
        ("internet gateway", "describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
        (
            "egress-only internet gateway",
            "describe_egress_only_internet_gateways",
            "EgressOnlyInternetGateways",
            "EgressOnlyInternetGatewayId",
        ),
    ]
    for kind, action, rows, key in gateways:
        for one in _pages(ec2, action, rows):
            if not {attachment.get("VpcId") for attachment in one.get("Attachments") or []} & default:
                yield Thing(kind, one[key], 0.0)


def _names(client: Client) -> Iterator[Thing]:
    for one in _pages(client("route53"), "list_hosted_zones", "HostedZones"):
        yield Thing("hosted zone", one["Id"].rpartition("/")[2], ZONE, one["Name"])


def _buckets(client: Client) -> Iterator[Thing]:
    s3 = client("s3")
    for bucket in s3.list_buckets()["Buckets"]:
        name = bucket["Name"]
        sizes = [one["Size"] for one in _pages(s3, "list_object_versions", "Versions", Bucket=name)]
        uploads = list(_pages(s3, "list_multipart_uploads", "Uploads", Bucket=name))
        for upload in uploads:
            parts = _pages(s3, "list_parts", "Parts", Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
            sizes += [one["Size"] for one in parts]
        note = f"{len(sizes)} objects and parts, {sum(sizes)} bytes, {len(uploads)} unfinished uploads"
        yield Thing("bucket", name, sum(sizes) / GIB * OBJECT_GB, note)


def _logs(client: Client) -> Iterator[Thing]:
    for one in _pages(client("logs"), "describe_log_groups", "logGroups"):
        note = f"{one.get('storedBytes', 0)} bytes, kept for {one.get('retentionInDays', 'ever')} days"
        # One that is never emptied only grows: whatever it costs today.
        price = one.get("storedBytes", 0) / GIB * LOG_GB if "retentionInDays" in one else None
        yield Thing("log group", one["logGroupName"], price, note)


def _kept(client: Client) -> Iterator[Thing]:
    for one in _pages(client("ssm"), "describe_parameters", "Parameters"):
        advanced = one.get("Tier") == "Advanced"
        yield Thing("parameter", one["Name"], ADVANCED_PARAMETER if advanced else 0.0, one.get("Tier") or "Standard")
    for one in _pages(client("secretsmanager"), "list_secrets", "SecretList"):
        yield Thing("secret", one["Name"], SECRET)
    kms = client("kms")
    own = {
        one.get("TargetKeyId")
        for one in _pages(kms, "list_aliases", "Aliases")
        if one["AliasName"].startswith("alias/aws/")
    }
    for one in _pages(kms, "list_keys", "Keys"):
        if one["KeyId"] in own:
            continue
        key = kms.describe_key(KeyId=one["KeyId"])["KeyMetadata"]
        if key["KeyManager"] == "CUSTOMER" and key["KeyState"] != "PendingDeletion":
            yield Thing("KMS key", one["KeyId"], KEY)
    for name in _pages(client("dynamodb"), "list_tables", "TableNames"):
        yield Thing("table", name, 0.0, "by request, and by what is stored")
    for one in _pages(client("ecr"), "describe_repositories", "repositories"):
        images = _pages(client("ecr"), "describe_images", "imageDetails", repositoryName=one["repositoryName"])
        size = sum(image.get("imageSizeInBytes", 0) for image in images)
        yield Thing("repository", one["repositoryName"], size / GIB * REGISTRY_GB, f"{size} bytes")
    for one in _pages(client("cloudwatch"), "describe_alarms", "MetricAlarms"):
        yield Thing("alarm", one["AlarmName"], ALARM)


def _functions(client: Client) -> Iterator[Thing]:
    for one in _pages(client("lambda"), "list_functions", "Functions"):
        yield Thing("function", one["FunctionName"], 0.0)
    for one in _pages(client("lambda"), "list_event_source_mappings", "EventSourceMappings"):
        yield Thing("event source mapping", one["UUID"], 0.0)
    for one in _pages(client("sns"), "list_topics", "Topics"):
        yield Thing("topic", one["TopicArn"], 0.0)
    for url in _pages(client("sqs"), "list_queues", "QueueUrls"):
        yield Thing("queue", url, 0.0)
    for one in _pages(client("dlm"), "get_lifecycle_policies", "Policies"):
        yield Thing("lifecycle policy", one["PolicyId"], 0.0, "what it takes is paid")
    for one in _pages(client("events"), "list_rules", "Rules"):
        yield Thing("rule", one["Name"], 0.0)


def _scaling(client: Client) -> Iterator[Thing]:
    for one in _pages(client("autoscaling"), "describe_auto_scaling_groups", "AutoScalingGroups"):
        yield Thing("Auto Scaling group", one["AutoScalingGroupName"], 0.0, f"{one['DesiredCapacity']} wanted")
    for one in _pages(client("ec2"), "describe_launch_templates", "LaunchTemplates"):
        yield Thing("launch template", one["LaunchTemplateName"], 0.0)
    for one in _pages(client("ec2"), "describe_key_pairs", "KeyPairs"):
        yield Thing("key pair", one["KeyName"], 0.0)


def _roles(client: Client) -> Iterator[Thing]:
    iam = client("iam")
    for one in _pages(iam, "list_roles", "Roles"):
        if not one["Path"].startswith("/aws-service-role/"):
            yield Thing("role", one["RoleName"], 0.0)
    for one in _pages(iam, "list_instance_profiles", "InstanceProfiles"):
        yield Thing("instance profile", one["InstanceProfileName"], 0.0)
