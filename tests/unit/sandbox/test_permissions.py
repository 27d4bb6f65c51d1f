# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator under the documents of docs/iam, against an AWS that decides every call as IAM does: no Docker.

What it needs is allowed, and the ways out of its fence are closed: whoever has these policies is no administrator.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import boto3
import botocore.config
import pytest
from botocore.exceptions import ClientError

from dev.work import ROOT

REGION, ACCOUNT = "ap-northeast-1", "123456789012"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/spotcache-boundary"
# The account's owner and the operator, made before anybody is asked for permissions.
SERVER = """
import json, os, sys
from pathlib import Path
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "true"
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.iam.models import iam_backends
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from sandbox import dlm, iam
from sandbox.scaling import Clock
iam.close_gaps()
dlm.register(Clock())
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
here = iam_backends["123456789012"]["aws"]
def policy(path):
    return here.create_policy("", "/", path.read_text(), path.stem, []).arn
docs = Path("docs/iam")
policy(docs / "spotcache-boundary.json")
keys = {}
for name in ("owner", "operator"):
    here.create_user(region_name="us-east-1", user_name=name, path="/", tags=None)
    key = here.create_access_key(name)
    keys[name] = [key.access_key_id, key.secret_access_key]
for path in sorted(docs.glob("operator-*.json")):
    here.attach_user_policy(policy(path), "operator")
everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
here.put_user_policy("owner", "owner", json.dumps(everything))
settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
ActionAuthenticatorMixin.request_count = 0
print(json.dumps({"port": server.get_host_and_port()[1], "keys": keys}), flush=True)
sys.stdin.read()
"""


class Aws:
    """Clients of one account."""

    def __init__(self, port: int, keys: dict[str, list[str]]) -> None:
        self.port, self.keys = port, keys
        self.client = cache(self._client)

    def _client(self, service: str, user: str = "operator") -> Any:
        key, secret = self.keys[user]
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        said = json.loads(server.stdout.readline())
        yield Aws(said["port"], said["keys"])
        server.kill()


def denied(call: Any, action: str, **parameters: Any) -> str:
    """A call that is refused for an action; the whole sentence."""
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    text = str(refused.value)
    assert f"is not authorized to perform: {action} on resource:" in text, text
    return text


EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
TAG = {"Key": "spotcache:environment", "Value": "stg"}


def tagged(kind: str, **more: Any) -> dict[str, Any]:
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": [TAG]}], **more}


@pytest.fixture(scope="module")
def network(aws: Aws) -> dict[str, str]:
    """What `provision` makes of a network."""
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16", **tagged("vpc"))["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.20.1.0/24", **tagged("subnet"))["Subnet"]["SubnetId"]
    table = ec2.create_route_table(VpcId=vpc, **tagged("route-table"))["RouteTable"]["RouteTableId"]
    gateway = ec2.create_internet_gateway(**tagged("internet-gateway"))["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    group = ec2.create_security_group(
        GroupName="spotcache-stg", Description="x", VpcId=vpc, **tagged("security-group")
    )["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 6379, "ToPort": 6379, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    ec2.create_vpc_endpoint(
        VpcId=vpc, ServiceName=f"com.amazonaws.{REGION}.s3", RouteTableIds=[table], **tagged("vpc-endpoint")
    )
    association = ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)["AssociationId"]
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": "Name", "Value": "spotcache-stg"}])
    return {"vpc": vpc, "subnet": subnet, "group": group, "association": association}


def role(aws: Aws, name: str, service: str) -> str:
    """A role as the playbooks make one."""
    iam = aws.client("iam")
    allow = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust, PermissionsBoundary=BOUNDARY, Tags=[TAG])[
        "Role"
    ]["Arn"]
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "ec2:DescribeVolumes", "Resource": "*"}],
    }
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(document))
    return str(made)


def test_a_network_and_a_group_are_made_changed_and_removed(aws: Aws, network: dict[str, str]) -> None:
    ec2, iam, groups = aws.client("ec2"), aws.client("iam"), aws.client("autoscaling")
    role(aws, "spotcache-stg", "ec2.amazonaws.com")
    iam.create_instance_profile(InstanceProfileName="spotcache-stg", Tags=[TAG])
    iam.add_role_to_instance_profile(InstanceProfileName="spotcache-stg", RoleName="spotcache-stg")
    image = ec2.describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}])["Images"][0]["ImageId"]
    data = {
        "ImageId": image,
        "InstanceType": "t3.small",
        "SecurityGroupIds": [network["group"]],
        "IamInstanceProfile": {"Name": "spotcache-stg"},
        "TagSpecifications": [{"ResourceType": kind, "Tags": [TAG]} for kind in ("instance", "volume")],
    }
    template = ec2.create_launch_template(
        LaunchTemplateName="spotcache-stg", LaunchTemplateData=data, **tagged("launch-template")
    )["LaunchTemplate"]["LaunchTemplateId"]
    size = {"MinSize": 0, "MaxSize": 1, "DesiredCapacity": 0, "VPCZoneIdentifier": network["subnet"]}
    tags = [{**TAG, "ResourceId": "spotcache-stg", "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}]
    used = {"LaunchTemplateId": template, "Version": "$Default"}
    groups.create_auto_scaling_group(AutoScalingGroupName="spotcache-stg", LaunchTemplate=used, Tags=tags, **size)
    groups.update_auto_scaling_group(AutoScalingGroupName="spotcache-stg", MaxSize=1)
    denied(
        groups.update_auto_scaling_group, "autoscaling:UpdateAutoScalingGroup", AutoScalingGroupName="other", MaxSize=9
    )
    # A template whose hosts would not carry the tag is nothing that a group may use.
    data.pop("TagSpecifications")
    bare = ec2.create_launch_template(
        LaunchTemplateName="spotcache-bare", LaunchTemplateData=data, **tagged("launch-template")
    )["LaunchTemplate"]["LaunchTemplateId"]
    using = {"LaunchTemplateId": bare, "Version": "$Default"}
    denied(
        groups.create_auto_scaling_group, "ec2:RunInstances",
        AutoScalingGroupName="spotcache-bare", LaunchTemplate=using, **size,
    )  # fmt: skip
    groups.delete_auto_scaling_group(AutoScalingGroupName="spotcache-stg", ForceDelete=True)
    for one in (template, bare):
        ec2.delete_launch_template(LaunchTemplateId=one)
    ec2.disassociate_route_table(AssociationId=network["association"])


def test_what_has_no_tag_is_neither_made_nor_changed(aws: Aws, network: dict[str, str]) -> None:
    ec2, owner = aws.client("ec2"), aws.client("ec2", "owner")
    said = denied(ec2.create_vpc, "ec2:CreateVpc", CidrBlock="10.21.0.0/16")
    assert "UnauthorizedOperation" in said
    assert "because no identity-based policy allows the ec2:CreateVpc action" in said
    foreign = owner.create_vpc(CidrBlock="10.22.0.0/16")["Vpc"]["VpcId"]
    denied(ec2.delete_vpc, "ec2:DeleteVpc", VpcId=foreign)
    # Giving it the tag would open the fence.
    denied(ec2.create_tags, "ec2:CreateTags", Resources=[foreign], Tags=[TAG])
    denied(ec2.create_tags, "ec2:CreateTags", Resources=[network["vpc"], foreign], Tags=[TAG])


def test_no_role_is_made_or_changed_without_the_boundary(aws: Aws) -> None:
    iam, owner = aws.client("iam"), aws.client("iam", "owner")
    trust = json.dumps(TRUST)
    new = {"RoleName": "spotcache-evil", "AssumeRolePolicyDocument": trust}
    denied(iam.create_role, "iam:CreateRole", **new)
    other = owner.create_policy(PolicyName="other", PolicyDocument=json.dumps(EVERYTHING))["Policy"]["Arn"]
    denied(iam.create_role, "iam:CreateRole", **new, PermissionsBoundary=other)
    denied(iam.create_role, "iam:CreateRole", **{**new, "RoleName": "evil"}, PermissionsBoundary=BOUNDARY)
    role(aws, "spotcache-good", "lambda.amazonaws.com")
    denied(
        iam.put_role_permissions_boundary, "iam:PutRolePermissionsBoundary",
        RoleName="spotcache-good", PermissionsBoundary=other,
    )  # fmt: skip
    denied(iam.delete_role_permissions_boundary, "iam:DeleteRolePermissionsBoundary", RoleName="spotcache-good")
    denied(
        iam.attach_role_policy, "iam:AttachRolePolicy",
        RoleName="spotcache-good", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess",
    )  # fmt: skip
    version = {"PolicyArn": BOUNDARY, "PolicyDocument": json.dumps(EVERYTHING), "SetAsDefault": True}
    denied(iam.create_policy_version, "iam:CreatePolicyVersion", **version)
    denied(iam.delete_policy, "iam:DeletePolicy", PolicyArn=BOUNDARY)
    # A role that somebody made without: it may be bounded, and until then nothing of it may be changed.
    owner.create_role(RoleName="spotcache-old", AssumeRolePolicyDocument=trust)
    policy = {"PolicyName": "all", "PolicyDocument": json.dumps(EVERYTHING)}
    denied(iam.put_role_policy, "iam:PutRolePolicy", RoleName="spotcache-old", **policy)
    iam.put_role_permissions_boundary(RoleName="spotcache-old", PermissionsBoundary=BOUNDARY)
    iam.put_role_policy(RoleName="spotcache-old", **policy)
    iam.delete_role_policy(RoleName="spotcache-old", PolicyName="all")
    iam.delete_role(RoleName="spotcache-old")


def test_a_role_with_every_right_is_held_by_its_boundary(aws: Aws) -> None:
    owner = aws.client("iam", "owner")
    allow = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    owner.create_role(RoleName="spotcache-wide", AssumeRolePolicyDocument=trust, PermissionsBoundary=BOUNDARY)
    owner.put_role_policy(RoleName="spotcache-wide", PolicyName="all", PolicyDocument=json.dumps(EVERYTHING))
    given = aws.client("sts", "owner").assume_role(
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/spotcache-wide", RoleSessionName="session"
    )["Credentials"]
    session = boto3.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], REGION)
    endpoint = f"http://127.0.0.1:{aws.port}"
    session.client("ec2", endpoint_url=endpoint).describe_volumes()
    said = denied(session.client("iam", endpoint_url=endpoint).list_users, "iam:ListUsers")
    assert "because no permissions boundary allows the iam:ListUsers action" in said


def test_functions_queues_and_topics_are_made_and_only_own_ones(aws: Aws) -> None:
    arn = role(aws, "spotcache-stg-notify", "lambda.amazonaws.com")
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("it.py", "def handler(event, context): pass")
    functions, events, logs = aws.client("lambda"), aws.client("events"), aws.client("logs")
    new = {"Runtime": "python3.12", "Handler": "it.handler", "Code": {"ZipFile": code.getvalue()}}
    tags = {"spotcache:environment": "stg"}
    functions.create_function(FunctionName="spotcache-stg-notify", Role=arn, Tags=tags, **new)
    aws.client("iam", "owner").create_role(RoleName="admin", AssumeRolePolicyDocument=json.dumps(TRUST))
    foreign = f"arn:aws:iam::{ACCOUNT}:role/admin"
    denied(functions.create_function, "iam:PassRole", FunctionName="spotcache-x", Role=foreign, **new)
    denied(functions.create_function, "lambda:CreateFunction", FunctionName="other", Role=arn, **new)
    logs.create_log_group(logGroupName="/aws/lambda/spotcache-stg-notify", tags=tags)
    logs.put_retention_policy(logGroupName="/aws/lambda/spotcache-stg-notify", retentionInDays=30)
    queue = aws.client("sqs").create_queue(QueueName="spotcache-stg-notify", tags=tags)["QueueUrl"]
    aws.client("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "360"})
    feed = {"EventSourceArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:spotcache-stg-notify"}
    mapping = functions.create_event_source_mapping(FunctionName="spotcache-stg-notify", **feed)
    functions.delete_event_source_mapping(UUID=mapping["UUID"])
    topic = aws.client("sns").create_topic(Name="spotcache-stg", Tags=[TAG])["TopicArn"]
    endpoint = f"arn:aws:sqs:{REGION}:{ACCOUNT}:spotcache-stg-notify"
    made = aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=endpoint, ReturnSubscriptionArn=True)
    aws.client("sns").unsubscribe(SubscriptionArn=made["SubscriptionArn"])
    denied(aws.client("sns").create_topic, "sns:CreateTopic", Name="other")
    events.put_rule(Name="spotcache-stg-notice", EventPattern=json.dumps({"source": ["aws.ec2"]}))
    events.put_targets(Rule="spotcache-stg-notice", Targets=[{"Id": "q", "Arn": endpoint}])
    denied(events.put_rule, "events:PutRule", Name="other", EventPattern=json.dumps({"source": ["aws.ec2"]}))


def test_only_private_zones_and_names_of_redis(aws: Aws, network: dict[str, str]) -> None:
    names = aws.client("route53")
    denied(names.create_hosted_zone, "route53:CreateHostedZone", Name="example.com", CallerReference="1")
    vpc = {"VPCRegion": REGION, "VPCId": network["vpc"]}
    zone = names.create_hosted_zone(Name="spotcache.internal", CallerReference="2", VPC=vpc)["HostedZone"]["Id"]

    def change(name: str) -> dict[str, Any]:
        record = {"Name": name, "Type": "A", "TTL": 5, "ResourceRecords": [{"Value": "10.20.1.5"}]}
        return {"HostedZoneId": zone, "ChangeBatch": {"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}}

    names.change_resource_record_sets(**change("redis.stg.spotcache.internal"))
    denied(names.change_resource_record_sets, "route53:ChangeResourceRecordSets", **change("www.spotcache.internal"))


def test_buckets_and_secrets_are_own_ones(aws: Aws) -> None:
    s3, ssm = aws.client("s3"), aws.client("ssm")
    where = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
    s3.create_bucket(Bucket="spotcache-backups", **where)
    s3.put_object(Bucket="spotcache-backups", Key="stg/locks/environment.json", Body=b"{}")
    s3.list_objects_v2(Bucket="spotcache-backups", Prefix="stg/")
    with pytest.raises(ClientError, match=r"s3:CreateBucket on resource: arn:aws:s3:::payroll"):
        s3.create_bucket(Bucket="payroll", **where)
    ssm.put_parameter(Name="/spotcache/stg/host/redis-password", Value="x", Type="SecureString", Tags=[TAG])
    denied(ssm.get_parameter, "ssm:GetParameter", Name="/payroll/password")


def test_a_call_that_cannot_be_decided_is_an_error(aws: Aws) -> None:
    with pytest.raises(ClientError, match=r"UndecidedBySandbox.*ec2:DeleteVpc cannot be decided here: .*names a vpc"):
        aws.client("ec2").delete_vpc(VpcId="the-old-one")


def test_lifecycle_policies_are_made_with_the_tag(aws: Aws) -> None:
    arn = role(aws, "spotcache-stg-lifecycle", "dlm.amazonaws.com")
    schedule = {"Name": "daily", "CreateRule": {"Interval": 24, "IntervalUnit": "HOURS"}, "RetainRule": {"Count": 3}}
    details = {"ResourceTypes": ["INSTANCE"], "TargetTags": [TAG], "Schedules": [schedule]}
    new: dict[str, Any] = {"ExecutionRoleArn": arn, "Description": "x", "State": "ENABLED", "PolicyDetails": details}
    client = aws.client("dlm")
    denied(client.create_lifecycle_policy, "dlm:CreateLifecyclePolicy", **new)
    made = client.create_lifecycle_policy(**new, Tags={"spotcache:environment": "stg"})["PolicyId"]
    client.delete_lifecycle_policy(PolicyId=made)
