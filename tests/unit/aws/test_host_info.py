"""The look at a host's role, key and template; what there is to choose from; which permissions are missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from ansible.errors import AnsibleFilterError
from ansible.module_utils.testing import patch_module_args
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.filter.cidr_split import cidr_split
from ansible_collections.spotcache.redis.plugins.filter.public_cidrs import public_cidrs
from ansible_collections.spotcache.redis.plugins.module_utils import permissions
from ansible_collections.spotcache.redis.plugins.modules import ec2_instance_type_info, permissions_info, spot_host_info
from botocore.exceptions import ClientError
from moto import mock_aws

from dev.work import ROOT

REGION = "ap-northeast-1"
NAME = "spotcache-t"
TAGS = {"spotcache:environment": "t"}
TRUST = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}}]}
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}
HOST: dict[str, Any] = {
    "name": NAME,
    "description": "a host",
    "trust": TRUST,
    "policy": POLICY,
    "key_name": f"{NAME}-1",
    "template_description": "mark",
    "tags": TAGS,
    "region": REGION,
}
LISTED = [{"Key": key, "Value": value} for key, value in TAGS.items()]


def run(module: Any, capsys: pytest.CaptureFixture[str], **parameters: Any) -> dict[str, Any]:
    with patch_module_args(parameters), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield {service: boto3.client(service, region_name=REGION) for service in ("iam", "ec2", "sts")}


@pytest.fixture
def made(aws: dict[str, Any]) -> dict[str, Any]:
    """A host's parts as the role makes them."""
    iam, ec2 = aws["iam"], aws["ec2"]
    iam.create_role(RoleName=NAME, AssumeRolePolicyDocument=json.dumps(TRUST), Description="a host", Tags=LISTED)
    iam.put_role_policy(RoleName=NAME, PolicyName=NAME, PolicyDocument=json.dumps(POLICY))
    iam.create_instance_profile(InstanceProfileName=NAME, Tags=LISTED)
    iam.add_role_to_instance_profile(InstanceProfileName=NAME, RoleName=NAME)
    key = [{"ResourceType": "key-pair", "Tags": LISTED}]
    ec2.create_key_pair(KeyName=f"{NAME}-1", TagSpecifications=key)
    template = [{"ResourceType": "launch-template", "Tags": LISTED}]
    ec2.create_launch_template(
        LaunchTemplateName=NAME,
        VersionDescription="mark",
        LaunchTemplateData={"ImageId": "ami-1"},
        TagSpecifications=template,
    )
    return aws


def test_an_empty_account_lacks_everything(aws: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(spot_host_info, capsys, **HOST)["differing"] == ["profile", "key", "template"]


def test_what_is_as_it_should_be(made: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(spot_host_info, capsys, **HOST)["differing"] == []


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"description": "another"}, ["profile"]),
        ({"trust": {**TRUST, "Id": "x"}}, ["profile"]),
        ({"policy": {**POLICY, "Id": "x"}}, ["profile"]),
        ({"boundary": "arn:aws:iam::1:policy/b"}, ["profile"]),
        ({"key_name": f"{NAME}-2"}, ["key"]),
        ({"template_description": "other"}, ["template"]),
        ({"tags": {**TAGS, "team": "a"}}, ["profile", "key", "template"]),
    ],
)
def test_other_wishes(
    made: dict[str, Any], capsys: pytest.CaptureFixture[str], change: dict[str, Any], differing: list[str]
) -> None:
    assert run(spot_host_info, capsys, **{**HOST, **change})["differing"] == differing


def test_drift_is_seen(made: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    iam, ec2 = made["iam"], made["ec2"]
    # A version made by hand: the latest one is not ours, and then not the default one either.
    ec2.create_launch_template_version(LaunchTemplateName=NAME, LaunchTemplateData={"ImageId": "ami-2"})
    assert run(spot_host_info, capsys, **HOST)["differing"] == ["template"]
    iam.remove_role_from_instance_profile(InstanceProfileName=NAME, RoleName=NAME)
    ec2.delete_key_pair(KeyName=f"{NAME}-1")
    assert run(spot_host_info, capsys, **HOST)["differing"] == ["profile", "key", "template"]


def test_what_the_types_are(aws: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    names = ["t3.small", "t9.huge", "t3.small"]
    seen = run(ec2_instance_type_info, capsys, region=REGION, instance_types=names, image_id="ami-0")
    assert seen["unknown"] == ["t9.huge"]
    (small,) = seen["instance_types"]
    assert (small["name"], small["memory_mib"], small["burstable"], small["spot"]) == ("t3.small", 2048, True, True)
    assert small["architectures"] == ["x86_64"]
    assert small["hypervisor"] == "nitro"
    assert f"{REGION}a" in small["zones"]
    assert seen["image"] == {}
    seen = run(ec2_instance_type_info, capsys, region=REGION, instance_types=["t2.small", "m5.metal"], image_id="ami-0")
    assert [kind["hypervisor"] for kind in seen["instance_types"]] == ["xen", ""]


class Images:
    """EC2 with three images."""

    asked: dict[str, Any]

    def describe_images(self, **arguments: Any) -> dict[str, Any]:
        self.asked = arguments
        days = ("2026-10-01", "2026-11-01", "2026-09-01")
        common = {"Architecture": "arm64", "RootDeviceName": "/dev/xvda"}
        return {"Images": [{"ImageId": f"ami-{day}", "CreationDate": day, **common} for day in days]}


def test_the_newest_image_of_a_name() -> None:
    client = Images()
    wanted = {"image_id": "", "image_owner": "1", "image_name": "debian-12-{architecture}-*"}
    found = ec2_instance_type_info.find_image(client, wanted, [{"architectures": ["arm64"]}])
    assert (found["image_id"], found["root_device_name"]) == ("ami-2026-11-01", "/dev/xvda")
    assert client.asked["Owners"] == ["1"]
    assert client.asked["Filters"][0] == {"Name": "name", "Values": ["debian-12-arm64-*"]}


@pytest.mark.parametrize(
    ("architectures", "fits"), [([["arm64"]], True), ([["x86_64"]], False), ([["arm64"], ["x86_64"]], False)]
)
def test_an_image_fits_all_types_or_none(architectures: list[list[str]], fits: bool) -> None:
    wanted = {"image_id": "ami-2026-10-01", "image_owner": "", "image_name": ""}
    types = [{"architectures": listed} for listed in architectures]
    assert bool(ec2_instance_type_info.find_image(Images(), wanted, types)) is fits


# Permissions


def test_what_the_simulator_is_asked() -> None:
    policy = {
        "Statement": [
            {"Effect": "Allow", "Action": ["ec2:DescribeVpcs", "ec2:Get*"], "Resource": "*"},
            {"Effect": "Deny", "Action": "*", "Resource": "*"},
            {
                "Effect": "Allow",
                "Action": "iam:PassRole",
                "Resource": "arn:aws:iam::*:role/spotcache-*",
                "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            },
            {
                "Effect": "Allow",
                "Action": "ec2:DeleteVpc",
                "Resource": ["arn:aws:ec2:*:*:vpc/*", "arn:aws:s3:::spotcache-*"],
                "Condition": {"StringLike": {"aws:ResourceTag/spotcache:environment": "*"}},
            },
        ]
    }
    samples = {"*": "stg", "region": REGION, "arn:aws:s3:::spotcache-*": "arn:aws:s3:::mine"}
    first, second, third = permissions.questions(policy, samples, "123")
    assert (first.actions, first.resources) == (("ec2:DescribeVpcs",), ("*",))
    assert second.resources == ("arn:aws:iam::123:role/spotcache-stg",)
    assert second.context[0]["ContextKeyValues"] == ["ec2.amazonaws.com"]
    assert third.resources == (f"arn:aws:ec2:{REGION}:123:vpc/stg", "arn:aws:s3:::mine")
    assert third.context == (
        {
            "ContextKeyName": "aws:ResourceTag/spotcache:environment",
            "ContextKeyValues": ["stg"],
            "ContextKeyType": "string",
        },
    )


def test_the_simulator_is_told_what_is_so_of_every_request() -> None:
    def told(temporary: bool) -> dict[str, tuple[list[str], str]]:
        entries = permissions.circumstances(REGION, temporary)
        return {one["ContextKeyName"]: (one["ContextKeyValues"], one["ContextKeyType"]) for one in entries}

    always = {"aws:RequestedRegion": ([REGION], "string"), "aws:SecureTransport": (["true"], "boolean")}
    # A user's own keys never are of a session with multi-factor authentication.
    assert told(temporary=False) == always
    assert told(temporary=True) == {**always, "aws:MultiFactorAuthPresent": (["true"], "boolean")}
    policy = {"Statement": [{"Effect": "Allow", "Action": "ec2:DescribeVpcs", "Resource": "*"}]}
    [question] = permissions.questions(policy, {}, "123", always=permissions.circumstances(REGION, temporary=True))
    assert [one["ContextKeyName"] for one in question.context] == [*always, "aws:MultiFactorAuthPresent"]


@pytest.mark.parametrize(
    ("answer", "decision", "uncertain"),
    [
        ({"EvalDecision": "implicitDeny"}, "implicitDeny", False),
        ({"EvalDecision": "explicitDeny"}, "explicitDeny", True),
        (
            {"EvalDecision": "implicitDeny", "MissingContextValues": ["aws:sourceIp", "aws:ResourceTag/x"]},
            "depends on aws:SourceIp",
            True,
        ),
        # What the request itself would say is told by the question: it is missing for good.
        ({"EvalDecision": "implicitDeny", "MissingContextValues": ["aws:ResourceTag/x"]}, "implicitDeny", False),
        (
            {
                "EvalDecision": "implicitDeny",
                "MissingContextValues": ["aws:SourceIp"],
                "OrganizationsDecisionDetail": {"AllowedByOrganizations": False},
            },
            "implicitDeny by the organisation",
            False,
        ),
    ],
)
def test_what_depends_on_something_that_only_aws_sees_is_uncertain(
    answer: dict[str, Any], decision: str, uncertain: bool
) -> None:
    [found] = permissions.refused([{"EvalActionName": "ec2:CreateVpc", **answer}])
    assert found["decision"] == decision
    assert permissions.is_uncertain(found["decision"]) is uncertain


@pytest.mark.parametrize(
    ("conditions", "entries"),
    [
        (
            {"NumericEquals": {"ec2-instance-connect:remotePort": "22"}},
            [("ec2-instance-connect:remotePort", ["22"], "numeric")],
        ),
        (
            {"ForAllValues:StringEquals": {"aws:TagKeys": ["Name", "team"]}},
            [("aws:TagKeys", ["Name", "team"], "stringList")],
        ),
        ({"Null": {"aws:RequestTag/a": "false"}}, [("aws:RequestTag/a", ["stg"], "string")]),
        ({"Null": {"aws:RequestTag/a": "true"}}, []),
    ],
)
def test_conditions_become_what_a_request_would_say(
    conditions: dict[str, Any], entries: list[tuple[str, list[str], str]]
) -> None:
    found = permissions.context_entries(conditions, {"*": "stg"})
    assert [(one["ContextKeyName"], one["ContextKeyValues"], one["ContextKeyType"]) for one in found] == entries


@pytest.mark.parametrize(
    ("arn", "source"),
    [
        ("arn:aws:iam::1:user/ops/alice", "arn:aws:iam::1:user/ops/alice"),
        ("arn:aws:sts::1:assumed-role/ops/session", "arn:aws:iam::1:role/ops"),
        ("arn:aws-cn:sts::1:assumed-role/ops/session", "arn:aws-cn:iam::1:role/ops"),
        ("arn:aws:sts::1:federated-user/alice", ""),
    ],
)
def test_whose_policies_decide(arn: str, source: str) -> None:
    assert permissions.principal(arn) == source


def test_what_is_denied() -> None:
    answers: list[dict[str, Any]] = [
        {"EvalActionName": "a:b", "EvalDecision": "allowed"},
        {"EvalActionName": "c:d", "EvalDecision": "implicitDeny", "EvalResourceName": "arn:x"},
        {
            "EvalActionName": "e:f",
            "EvalDecision": "implicitDeny",
            "OrganizationsDecisionDetail": {"AllowedByOrganizations": False},
        },
    ]
    assert [(one["action"], one["decision"]) for one in permissions.refused(answers)] == [
        ("c:d", "implicitDeny"),
        ("e:f", "implicitDeny by the organisation"),
    ]


def test_root_may_everything(aws: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    class Root:
        def get_caller_identity(self) -> dict[str, str]:
            return {"Arn": "arn:aws:iam::1:root", "Account": "1"}

    monkeypatch.setattr(AnsibleAWSModule, "client", lambda *_: Root())
    said = run(permissions_info, capsys, policy={"Statement": []}, region=REGION)
    assert (said["checked"], said["denied"]) == (True, [])


def test_which_roles_there_are(aws: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    class Iam:
        def get_caller_identity(self) -> dict[str, str]:
            return {"Arn": "arn:aws:iam::1:root", "Account": "1"}

        def get_role(self, RoleName: str) -> dict[str, Any]:  # noqa: N803 - boto3's name
            code = {"gone": "NoSuchEntity", "secret": "AccessDenied"}.get(RoleName)
            if code:
                raise ClientError({"Error": {"Code": code, "Message": "no"}}, "GetRole")
            return {"Role": {"RoleName": RoleName}}

    monkeypatch.setattr(AnsibleAWSModule, "client", lambda *_: Iam())
    asked = ["there", "gone", "secret"]
    said = run(permissions_info, capsys, policy={"Statement": []}, roles=asked, region=REGION)
    # One that may not be looked at is looked for all the same: what removes it says what is not allowed.
    assert said["roles"] == ["there", "secret"]


@pytest.mark.parametrize("name", ["operator-policy", "operator-roles-policy", "operator-automation-policy"])
def test_an_operators_policy_names_each_action_once(name: str) -> None:
    policy = json.loads((ROOT / "docs" / "iam" / f"{name}.json").read_text())
    # A managed policy holds no more.
    assert len("".join(json.dumps(policy).split())) <= 6144
    listed = [(s["Sid"], a) for s in policy["Statement"] for a in permissions.as_list(s["Action"])]
    # What makes something touches things of several kinds, each with a condition of its own.
    actions = [
        action
        for sid, action in listed
        if not re.match(r"FirstUseOf|NewLifecycle|.*:(Create|RunInst)", f"{sid} :{action.partition(':')[2]}")
    ]
    assert sorted(actions) == sorted(set(actions))
    assert not [action for action in actions if "*" in action]
    for statement in policy["Statement"]:
        assert permissions.as_list(statement["Action"]) == sorted(permissions.as_list(statement["Action"]))


# Filters


def test_public_ranges() -> None:
    private = ["10.0.0.0/8", "172.16.5.4", "192.168.1.0/24", "100.64.0.0/10", "fd00::/8", "169.254.1.1/32"]
    assert public_cidrs(private) == []
    public = ["0.0.0.0/0", "::/0", "8.8.8.8", "172.0.0.0/8", "2001:db8::/32"]
    assert public_cidrs([*private, *public]) == public
    assert public_cidrs(["203.0.113.0/25"], within=["203.0.113.0/24"]) == []
    with pytest.raises(AnsibleFilterError, match="is no address range"):
        public_cidrs(["10.0.0/8"])
    with pytest.raises(AnsibleFilterError, match="expects a list"):
        public_cidrs("10.0.0.0/8")


def test_cidr_split() -> None:
    assert cidr_split("10.20.0.0/16", 2, prefix=20) == ["10.20.0.0/20", "10.20.16.0/20"]
    with pytest.raises(AnsibleFilterError, match="cannot be split"):
        cidr_split("10.20.0.0/16", 2, prefix=8)
