"""What AWS refuses and moto does not: deletions while something is needed, launches of what does not fit."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dev.kills import REGION, Account, Stage
from dev.work import ROOT
from sandbox import moto_gaps, subscriptions

ZONE = f"{REGION}a"


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """An AWS on paper, where Auto Scaling looks after its groups and hosts end at once."""
    environment = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "MOTO_EC2_LOAD_DEFAULT_AMIS": "true"}
    command = [sys.executable, "-m", "dev.paper"]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    ) as paper:
        assert paper.stdout is not None
        yield Account(int(paper.stdout.readline()), ("", ""))
        paper.kill()


@pytest.fixture(scope="module")
def ec2(account: Account) -> Any:
    return account.client("ec2")


@pytest.fixture(scope="module")
def groups(account: Account) -> Any:
    return account.client("autoscaling")


@pytest.fixture(scope="module")
def image(account: Account) -> str:
    return Stage.image(account)


@pytest.fixture
def network(ec2: Any) -> dict[str, str]:
    """A VPC with a subnet and nothing else."""
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24", AvailabilityZone=ZONE)["Subnet"]["SubnetId"]
    return {"vpc": vpc, "subnet": subnet}


def refused(call: Callable[..., Any], code: str, words: str, **parameters: Any) -> None:
    with pytest.raises(ClientError, match=words) as error:
        call(**parameters)
    assert error.value.response["Error"]["Code"] == code


def until(seen: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 60
    while not (found := seen()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def launch(ec2: Any, **more: Any) -> str:
    asked = {"MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small", **more}
    return str(ec2.run_instances(**asked)["Instances"][0]["InstanceId"])


# -- deletions -------------------------------------------------------------------------------------------------------


def test_a_subnet_stays_while_an_interface_is_in_it(ec2: Any, image: str, network: dict[str, str]) -> None:
    subnet = network["subnet"]
    words = f"The subnet '{subnet}' has dependencies and cannot be deleted"
    host = launch(ec2, ImageId=image, SubnetId=subnet)
    refused(ec2.delete_subnet, "DependencyViolation", words, SubnetId=subnet)
    ec2.terminate_instances(InstanceIds=[host])
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    refused(ec2.delete_subnet, "DependencyViolation", words, SubnetId=subnet)
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    ec2.delete_subnet(SubnetId=subnet)


def test_an_internet_gateway_stays_while_an_address_is_mapped(ec2: Any, image: str, network: dict[str, str]) -> None:
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    pair = {"InternetGatewayId": gateway, "VpcId": network["vpc"]}
    ec2.attach_internet_gateway(**pair)
    interface = {"DeviceIndex": 0, "SubnetId": network["subnet"], "AssociatePublicIpAddress": True}
    host = launch(ec2, ImageId=image, NetworkInterfaces=[interface])
    words = "has some mapped public address"
    refused(ec2.detach_internet_gateway, "DependencyViolation", words, **pair)
    ec2.terminate_instances(InstanceIds=[host])
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=network["subnet"], AllocationId=address)["NatGateway"]["NatGatewayId"]
    refused(ec2.detach_internet_gateway, "DependencyViolation", words, **pair)
    refused(ec2.delete_subnet, "DependencyViolation", "has dependencies", SubnetId=network["subnet"])
    ec2.delete_nat_gateway(NatGatewayId=nat)
    ec2.detach_internet_gateway(**pair)
    ec2.delete_subnet(SubnetId=network["subnet"])
    ec2.release_address(AllocationId=address)


def test_a_vpc_stays_while_anything_of_its_own_is_in_it(ec2: Any, network: dict[str, str]) -> None:
    vpc = network["vpc"]

    def stays() -> None:
        words = f"The vpc '{vpc}' has dependencies and cannot be deleted"
        refused(ec2.delete_vpc, "DependencyViolation", words, VpcId=vpc)

    stays()
    ec2.delete_subnet(SubnetId=network["subnet"])
    group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="g")["GroupId"]
    stays()
    ec2.delete_security_group(GroupId=group)
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    stays()
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    outward = ec2.create_egress_only_internet_gateway(VpcId=vpc)["EgressOnlyInternetGateway"]
    stays()
    ec2.delete_egress_only_internet_gateway(EgressOnlyInternetGatewayId=outward["EgressOnlyInternetGatewayId"])
    made = ec2.create_vpc_endpoint(VpcId=vpc, VpcEndpointType="Gateway", ServiceName=f"com.amazonaws.{REGION}.s3")
    stays()
    ec2.delete_vpc_endpoints(VpcEndpointIds=[made["VpcEndpoint"]["VpcEndpointId"]])
    # Its own group and route table go with it.
    ec2.delete_vpc(VpcId=vpc)
    refused(ec2.describe_vpcs, "InvalidVpcID.NotFound", vpc, VpcIds=[vpc])


def test_a_route_whose_gateway_is_detached_leads_nowhere(ec2: Any, network: dict[str, str]) -> None:
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=network["vpc"])
    table = ec2.create_route_table(VpcId=network["vpc"])["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)

    def state() -> str:
        [found] = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
        return next(str(one["State"]) for one in found["Routes"] if one.get("GatewayId") == gateway)

    assert state() == "active"
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=network["vpc"])
    assert state() == "blackhole"


def test_a_private_zone_needs_a_vpc_that_is_there(account: Account, network: dict[str, str]) -> None:
    dns = account.client("route53")
    asked = {"Name": "t.internal", "CallerReference": "1", "HostedZoneConfig": {"PrivateZone": True}}
    missing = {"VPCId": "vpc-0123456789abcdef0", "VPCRegion": REGION}
    refused(dns.create_hosted_zone, "InvalidVPCId", "VPC ID that you specified", VPC=missing, **asked)
    refused(dns.create_hosted_zone, "InvalidInput", "VPCId and VPCRegion", **asked)
    own = {"VPCId": network["vpc"], "VPCRegion": REGION}
    zone = dns.create_hosted_zone(VPC=own, **asked)["HostedZone"]["Id"]
    refused(dns.associate_vpc_with_hosted_zone, "InvalidVPCId", "VPC ID", HostedZoneId=zone, VPC=missing)
    dns.delete_hosted_zone(Id=zone)


def test_a_mail_address_is_subscribed_only_once_it_is_confirmed(account: Account) -> None:
    sns = account.client("sns")
    topic = sns.create_topic(Name="people")["TopicArn"]
    asked = {"TopicArn": topic, "Protocol": "email", "Endpoint": "ops@example.com"}
    assert sns.subscribe(**asked)["SubscriptionArn"] == "pending confirmation"
    arn = sns.subscribe(**asked, ReturnSubscriptionArn=True)["SubscriptionArn"]
    [shown] = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert {**asked, "SubscriptionArn": "PendingConfirmation", "Owner": shown["Owner"]} == shown
    assert "PendingConfirmation" in [one["SubscriptionArn"] for one in sns.list_subscriptions()["Subscriptions"]]
    assert sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]["PendingConfirmation"] == "true"
    for one in (shown["SubscriptionArn"], arn):
        refused(sns.unsubscribe, "InvalidParameter", "SubscriptionArn Reason", SubscriptionArn=one)
    refused(sns.confirm_subscription, "InvalidParameter", "Token", TopicArn=topic, Token="wrong")
    # What is no mail is confirmed by AWS itself.
    queue = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:123456789012:q")
    sns.unsubscribe(SubscriptionArn=queue["SubscriptionArn"])
    sns.delete_topic(TopicArn=topic)
    assert topic not in [one["TopicArn"] for one in sns.list_subscriptions()["Subscriptions"]]


def test_what_nobody_confirms_is_forgotten_after_three_days() -> None:
    waiting, taken = (SimpleNamespace(protocol="email", confirmed=confirmed) for confirmed in (False, True))
    records = {"waiting": waiting, "taken": taken}
    for now in (0.0, 3 * 86400):
        subscriptions.forget(records, now)
        assert set(records) == {"waiting", "taken"}
    subscriptions.forget(records, 3 * 86400 + 1)
    assert set(records) == {"taken"}


# -- groups ----------------------------------------------------------------------------------------------------------


def template(ec2: Any, name: str, **data: Any) -> str:
    made = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)["LaunchTemplate"]
    return str(made["LaunchTemplateId"])


def group(groups: Any, name: str, template_id: str, subnet: str, types: tuple[str, ...] = ("t3.small",)) -> None:
    specification = {"LaunchTemplateId": template_id, "Version": "$Latest"}
    overrides = [{"InstanceType": one} for one in types]
    policy = {"LaunchTemplate": {"LaunchTemplateSpecification": specification, "Overrides": overrides}}
    groups.create_auto_scaling_group(
        AutoScalingGroupName=name, MixedInstancesPolicy=policy, MinSize=1, MaxSize=1, VPCZoneIdentifier=subnet
    )


def described(groups: Any, name: str) -> dict[str, Any] | None:
    found = groups.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    return dict(found[0]) if found else None


def test_a_group_with_instances_is_deleted_only_by_force(
    ec2: Any, groups: Any, image: str, network: dict[str, str]
) -> None:
    group(groups, "kept", template(ec2, "kept", ImageId=image), network["subnet"])
    refused(
        groups.create_auto_scaling_group,
        "AlreadyExists",
        "AutoScalingGroup by this name already exists",
        AutoScalingGroupName="kept",
        MinSize=0,
        MaxSize=0,
        VPCZoneIdentifier=network["subnet"],
        LaunchTemplate={"LaunchTemplateName": "kept"},
    )
    until(lambda: (described(groups, "kept") or {}).get("Instances"), "the instance")
    words = "while there are instances or pending Spot instance request"
    refused(groups.delete_auto_scaling_group, "ResourceInUse", words, AutoScalingGroupName="kept")
    groups.delete_auto_scaling_group(AutoScalingGroupName="kept", ForceDelete=True)
    going = described(groups, "kept")
    assert going is None or going["Status"] == "Delete in progress"
    until(lambda: described(groups, "kept") is None, "the group's end")
    ec2.delete_subnet(SubnetId=network["subnet"])


def test_a_group_that_is_being_deleted_launches_nothing_and_goes_with_its_last_instance() -> None:
    # Records alone, whose ends are told by hand: on paper hosts end too quickly to look on.
    ended: list[str] = []
    ec2 = SimpleNamespace(terminate_instances=ended.extend)
    backend = SimpleNamespace(autoscaling_groups={})
    instance = SimpleNamespace(id="i-1", state="running", placement=SimpleNamespace(zone=ZONE))
    state = SimpleNamespace(instance=instance, lifecycle_state="Terminating:Wait")
    going = SimpleNamespace(
        name="g",
        arn="arn",
        region=REGION,
        account_id="1",
        status=moto_gaps.DELETING,
        instance_states=[state],
        desired_capacity=1,
        ec2_backend=ec2,
        autoscaling_backend=backend,
    )
    backend.autoscaling_groups["g"] = going
    machine: Any = SimpleNamespace(hooks=SimpleNamespace(forget=lambda _: None), put_event=lambda *_: None)
    moto_gaps.tend(going, machine)
    assert (ended, state.lifecycle_state) == (["i-1"], "Terminating")
    instance.state = "shutting-down"
    moto_gaps.tend(going, machine)
    assert ended == ["i-1"]
    assert backend.autoscaling_groups
    instance.state = "terminated"
    moto_gaps.tend(going, machine)
    assert not backend.autoscaling_groups


@pytest.mark.parametrize("seconds", [29, 7201])
def test_a_hooks_time_has_limits(ec2: Any, groups: Any, image: str, network: dict[str, str], seconds: int) -> None:
    name = f"hook-{seconds}"
    group(groups, name, template(ec2, name, ImageId=image), network["subnet"])
    hook = {
        "AutoScalingGroupName": name,
        "LifecycleHookName": "h",
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
    }
    refused(groups.put_lifecycle_hook, "ValidationError", "30 and 7200", **hook, HeartbeatTimeout=seconds)
    groups.put_lifecycle_hook(**hook, HeartbeatTimeout=min(max(seconds, 30), 7200))
    groups.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)


# -- launches --------------------------------------------------------------------------------------------------------

TOO_LONG = "#" * 16385


def test_a_type_must_fit_the_image_and_the_zone(ec2: Any, image: str, network: dict[str, str]) -> None:
    asked = {"MinCount": 1, "MaxCount": 1, "ImageId": image, "SubnetId": network["subnet"]}
    words = "architecture 'arm64' of the specified instance type does not match the architecture 'x86_64'"
    refused(ec2.run_instances, "InvalidParameterValue", words, InstanceType="t4g.small", **asked)
    refused(ec2.run_instances, "InvalidParameterValue", "for InstanceType", InstanceType="t9.small", **asked)
    zones = {
        kind: {
            one["Location"]
            for one in ec2.describe_instance_type_offerings(
                LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [kind]}]
            )["InstanceTypeOfferings"]
        }
        for kind in ("t3.small", "t3a.small")
    }
    [without] = zones["t3.small"] - zones["t3a.small"]
    other = ec2.create_subnet(VpcId=network["vpc"], CidrBlock="10.9.1.0/24", AvailabilityZone=without)["Subnet"]
    asked["SubnetId"] = other["SubnetId"]
    refused(
        ec2.run_instances, "Unsupported", f"requested Availability Zone .{without}", InstanceType="t3a.small", **asked
    )
    assert launch(ec2, ImageId=image, SubnetId=other["SubnetId"])


def test_user_data_is_at_most_16_kilobytes_before_it_is_encoded(ec2: Any, image: str, network: dict[str, str]) -> None:
    place = {"ImageId": image, "SubnetId": network["subnet"]}
    with pytest.raises(ClientError, match="User data is limited to 16384 bytes"):
        launch(ec2, UserData=TOO_LONG, **place)
    assert launch(ec2, UserData=TOO_LONG[1:], **place)


@pytest.mark.parametrize(
    ("name", "types", "text", "words"),
    [("arm", ("t4g.small",), "", "architecture 'arm64'"), ("long", ("t3.small",), TOO_LONG, "limited to 16384 bytes")],
)
def test_a_groups_launch_that_does_not_fit_is_a_failed_activity(
    ec2: Any, groups: Any, image: str, network: dict[str, str], name: str, types: tuple[str, ...], text: str, words: str
) -> None:
    data = {"UserData": base64.b64encode(text.encode()).decode()} if text else {}
    group(groups, name, template(ec2, name, ImageId=image, **data), network["subnet"], types)
    tried = until(
        lambda: groups.describe_scaling_activities(AutoScalingGroupName=name)["Activities"], "a scaling activity"
    )
    assert tried[0]["StatusCode"] == "Failed"
    assert words in tried[0]["StatusMessage"]
    groups.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)
    until(lambda: described(groups, name) is None, "the group's end")
