# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request touches follows from its parameters, for every action that a shipped policy speaks of."""

from __future__ import annotations

import json
import re
from typing import Any

import boto3
import pytest

from sandbox import reference
from sandbox.iam import listed
from sandbox.targets import IDS, OPERATIONS, Request, Target, Underivable, targets, touched
from tests.unit.aws.test_policies import DOCUMENTS, TEMPLATES, rendered

ACCOUNT, REGION = "123456789012", "ap-northeast-1"
VALUES = {"Partition": "aws", "Region": REGION, "Account": ACCOUNT}
BEGINNINGS = {kind: start for start, kind in IDS.items()}
# Asked by no operation of a service's model: S3 tells its actions otherwise, and agents speak to these themselves.
ELSEWHERE = re.compile(
    r"^(s3|ssmmessages|kms|ec2-instance-connect):|^iam:PassRole$|^ec2:(InjectApiError|SendSpot)|^ssm:UpdateInst"
)


FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:spotcache-x"
# What callers always say although the model does not demand it.
OPTIONAL: dict[str, dict[str, Any]] = {
    r"autoscaling:DeleteTags": {"Tags": [{"ResourceId": "spotcache-x", "Key": "a"}]},
    r"ec2:.*LaunchTemplate(Versions)?": {"LaunchTemplateId": "lt-0123456789abcdef0"},
    r"ec2:.*SecurityGroup(Ingress|Egress|RuleDescriptions.*)?": {"GroupId": "sg-0123456789abcdef0"},
    r"ec2:DeleteKeyPair": {"KeyName": "spotcache-x"},
    r"lambda:(ListTags|(Unt|T)agResource)": {"Resource": FUNCTION},
    r"sns:Publish": {"TopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:spotcache-x"},
    r"ssm:StartSession": {"Target": "i-0123456789abcdef0"},
}


def shipped_actions() -> list[str]:
    texts = [path.read_text() for path in DOCUMENTS]
    texts += [rendered(template, "aws") for template in TEMPLATES if template.name.endswith("policy.json.j2")]
    patterns = {
        p for t in texts for s in json.loads(t)["Statement"] if "Principal" not in s for p in listed(s["Action"])
    }
    names = {name for pattern in patterns for name in reference.expand(pattern)}
    return sorted(name for name in names if not ELSEWHERE.search(name))


def sample(shape: Any, name: str, action: reference.Action) -> Any:
    """Some value of a shape, an id of the first type that fits where EC2 wants one."""
    if shape.type_name == "structure":
        return {
            key: sample(member, key, action) for key, member in shape.members.items() if key in shape.required_members
        }
    if shape.type_name == "list":
        return [sample(shape.member, name, action)]
    if shape.type_name == "map":
        return {"a": sample(shape.value, name, action)}
    if shape.type_name != "string":
        return True
    if shape.metadata.get("enum"):
        return shape.metadata["enum"][0]
    plain = re.sub(r"s$", "", name)
    for kind in action.kinds:
        if (
            action.name.startswith("ec2:")
            and kind.name in BEGINNINGS
            and plain.lower()
            in (
                f"{kind.name.replace('-', '')}id",
                "resource",
                "groupid",
                "gatewayid",
                "egressonlyinternetgatewayid",
            )
        ):
            return f"{BEGINNINGS[kind.name]}-0123456789abcdef0"
        if name.lower().endswith("arn") and kind.arn.startswith("arn:${Partition}:" + action.name.partition(":")[0]):
            return reference.VARIABLE.sub(lambda match: VALUES.get(match[1], "spotcache-x"), kind.arn)
    return "spotcache-x"


@pytest.mark.parametrize("name", shipped_actions())
def test_every_shipped_action_tells_its_resource(name: str) -> None:
    action = reference.action(name)
    service = name.partition(":")[0]
    operation = {value: key for key, value in OPERATIONS.items()}.get(name, name).partition(":")[2]
    model = boto3.client(service, region_name=REGION).meta.service_model
    shape = model.operation_model(operation).input_shape
    parameters = sample(shape, "", action) if shape is not None else {}
    for pattern, more in OPTIONAL.items():
        if re.fullmatch(pattern, name):
            parameters |= more
    related = {"ec2:DisassociateRouteTable": ["rtb-0123456789abcdef0"], "ec2:DetachVolume": ["i-0123456789abcdef0"]}
    found = touched(Request(name, parameters, ACCOUNT, REGION, related=lambda asked, _: related.get(asked, [])))
    assert all(target.arn == "*" or target.arn.startswith("arn:aws:") for target in found)
    assert all((target.arn == "*") == (not action.kinds) for target in found)


def asked(action: str, **parameters: Any) -> list[tuple[str, str]]:
    request = Request(action, parameters, ACCOUNT, REGION)
    return [(target.action or action, target.arn.replace(f"{REGION}:{ACCOUNT}", "~")) for target in targets(request)]


def test_what_is_tagged_while_it_is_made_must_be_allowed_to_be_tagged() -> None:
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "1"}]}]
    assert asked("ec2:CreateVolume", SnapshotId="snap-0123456789abcdef0", TagSpecifications=tags) == [
        ("ec2:CreateVolume", "arn:aws:ec2:~:volume/*"),
        ("ec2:CreateVolume", f"arn:aws:ec2:{REGION}::snapshot/snap-0123456789abcdef0"),
        ("ec2:CreateTags", "arn:aws:ec2:~:volume/*"),
    ]
    assert asked("logs:CreateLogGroup", logGroupName="/aws/lambda/x", tags={"a": "1"}) == [
        ("logs:CreateLogGroup", "arn:aws:logs:~:log-group:/aws/lambda/x:log-stream:"),
        ("logs:TagResource", "arn:aws:logs:~:log-group:/aws/lambda/x"),
    ]
    assert asked("sqs:CreateQueue", QueueName="q") == [("sqs:CreateQueue", "arn:aws:sqs:~:q")]


def test_whoever_hands_a_role_to_a_service_must_be_allowed_to_pass_it() -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/r"
    found = targets(Request("lambda:CreateFunction", {"FunctionName": "f", "Role": role}, ACCOUNT, REGION))
    assert found[-1] == Target(role, None, "iam:PassRole", {"iam:PassedToService": "lambda.amazonaws.com"}, "role")
    assert asked("dlm:CreateLifecyclePolicy", ExecutionRoleArn=role) == [
        ("dlm:CreateLifecyclePolicy", "*"),
        ("iam:PassRole", role),
    ]
    assert ("iam:PassRole", role) in asked("iam:AddRoleToInstanceProfile", InstanceProfileName="p", RoleName="r")


def test_an_action_whose_resource_cannot_be_told_is_an_error() -> None:
    with pytest.raises(Underivable, match="ec2:DeleteVolume"):
        asked("ec2:DeleteVolume", VolumeId="the big one")
    with pytest.raises(Underivable, match="instance"):
        asked("ec2:AttachVolume", VolumeId="vol-0123456789abcdef0")
    with pytest.raises(KeyError, match="ec2:DeleteEverything"):
        asked("ec2:DeleteEverything")
