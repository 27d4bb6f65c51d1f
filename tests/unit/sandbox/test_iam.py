# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies decide as IAM does, so that running under one proves it."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID

from sandbox import iam
from sandbox.iam import Account, Principal, Target, decide, not_told, permits, sentence, simulate, unlimited

REGION = "ap-northeast-1"
VOLUME = "arn:aws:ec2:ap-northeast-1:123456789012:volume/vol-0123456789abcdef0"
OWN = {"spotcache:environment": "stg"}


def allow(action: str, resource: Any = "*", **condition: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    if condition:
        statement["Condition"] = dict(condition)
    return {"Version": "2012-10-17", "Statement": [statement]}


TAGGED = allow(
    "ec2:CreateSnapshot",
    "arn:aws:ec2:*:*:volume/*",
    StringEquals={"aws:ResourceTag/spotcache:environment": "stg"},
)
DENY = {"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "ec2:*", "Resource": "*"}}


@pytest.mark.parametrize(
    ("policies", "action", "target", "decision"),
    [
        ([TAGGED], "ec2:CreateSnapshot", Target(VOLUME, OWN), "allowed"),
        ([TAGGED], "ec2:CreateSnapshot", Target(VOLUME, {"spotcache:environment": "prod"}), "implicitDeny"),
        ([TAGGED], "ec2:CreateSnapshot", Target(VOLUME), "implicitDeny"),
        ([TAGGED], "ec2:DeleteVolume", Target(VOLUME, OWN), "implicitDeny"),
        ([TAGGED, DENY], "ec2:CreateSnapshot", Target(VOLUME, OWN), "explicitDeny"),
        ([allow("ec2:Describe*")], "ec2:DescribeVolumes", Target("*"), "allowed"),
        ([allow("ec2:Describe*", "arn:aws:ec2:*:*:volume/*")], "ec2:DescribeVolumes", Target("*"), "implicitDeny"),
        (
            [allow("s3:ListBucket", "arn:aws:s3:::b", StringLike={"s3:prefix": "stg/backups/*"})],
            "s3:ListBucket",
            Target("arn:aws:s3:::b", context={"s3:prefix": "stg/backups/"}),
            "allowed",
        ),
        (
            [allow("s3:ListBucket", "arn:aws:s3:::b", StringLike={"s3:prefix": "stg/backups/*"})],
            "s3:ListBucket",
            Target("arn:aws:s3:::b", context={"s3:prefix": "prod/backups/"}),
            "implicitDeny",
        ),
        (
            [allow("s3:GetObject", "arn:aws:s3:::b/stg/*")],
            "s3:GetObject",
            Target("arn:aws:s3:::b/prod/x"),
            "implicitDeny",
        ),
        ([allow("iam:*", "arn:aws:iam::*:role/x")], "iam:GetRole", Target("arn:aws:iam::1:role/x"), "allowed"),
        ([allow("iam:*", "arn:aws:iam::*:role/x")], "iam:GetRole", Target("arn:aws:iam::1:role/y"), "implicitDeny"),
        ([allow("dlm:*", "arn:aws:dlm:*:*:policy/*")], "dlm:CreateLifecyclePolicy", Target("*"), "implicitDeny"),
        # A key that the reference does not give this action is not there, whatever the resource's tags are.
        (
            [allow("route53:*", "*", StringEquals={"aws:ResourceTag/spotcache:environment": "stg"})],
            "route53:GetHostedZone",
            Target("arn:aws:route53:::hostedzone/Z1", OWN),
            "implicitDeny",
        ),
        (
            [allow("iam:PassRole", "*", StringEquals={"iam:PassedToService": "ec2.amazonaws.com"})],
            "iam:PassRole",
            Target("arn:aws:iam::1:role/x", context={"iam:PassedToService": "lambda.amazonaws.com"}),
            "implicitDeny",
        ),
        (
            [{"Statement": [{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}]}],
            "iam:GetRole",
            Target("*"),
            "implicitDeny",
        ),
    ],
)
def test_a_decision(policies: list[Any], action: str, target: Target, decision: str) -> None:
    assert decide(policies, action, target, {}) == decision


def test_tags_of_the_request_count_only_as_such() -> None:
    policy = allow("ec2:CreateVolume", "*", StringEquals={"aws:RequestTag/spotcache:environment": "stg"})
    target = Target("arn:aws:ec2:ap-northeast-1:123456789012:volume/*")
    assert decide([policy], "ec2:CreateVolume", target, OWN) == "allowed"
    assert decide([policy], "ec2:CreateVolume", Target(target.arn, OWN), {}) == "implicitDeny"


def test_an_unknown_condition_is_an_error_and_not_a_permission() -> None:
    policy = allow("ec2:*", "*", NumericLessThan={"aws:ResourceTag/size": "5"})
    with pytest.raises(ValueError, match="NumericLessThan"):
        decide([policy], "ec2:DeleteVolume", Target(VOLUME, {"size": "4"}), {})


BOUNDARY = "arn:aws:iam::1:policy/spotcache-boundary"


@pytest.mark.parametrize(
    ("boundary", "decision"),
    [
        (None, "allowed"),
        (allow("ec2:CreateSnapshot"), "allowed"),
        (allow("ec2:DeleteVolume"), "boundary"),
        ({"Statement": []}, "boundary"),
        (DENY, "explicitDeny"),
    ],
)
def test_a_boundary_takes_away_and_never_gives(boundary: Any, decision: str) -> None:
    assert decide([TAGGED], "ec2:CreateSnapshot", Target(VOLUME, OWN), {}, boundary) == decision
    if boundary is not None:
        assert decide([], "ec2:CreateSnapshot", Target(VOLUME, OWN), {}, boundary) != "allowed"


def test_a_role_is_made_only_with_the_boundary_that_is_demanded() -> None:
    policy = allow("iam:CreateRole", "*", StringEquals={"iam:PermissionsBoundary": BOUNDARY})
    role = "arn:aws:iam::1:role/spotcache-stg"
    for given, decision in (({"iam:PermissionsBoundary": BOUNDARY}, "allowed"), ({}, "implicitDeny")):
        assert decide([policy], "iam:CreateRole", Target(role, context=given), {}) == decision


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        ({}, True),
        ({"StringEquals": {"aws:SourceAccount": "1"}}, True),
        ({"StringEquals": {"aws:SourceAccount": "2"}}, False),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:events:*:1:rule/spotcache-*"}}, True),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:events:*:1:rule/other-*"}}, False),
        # Each of the six parts of an ARN is compared for itself: a star reaches over no colon but in the last one.
        ({"ArnLike": {"aws:SourceArn": "arn:aws:events:*:*:rule/spotcache-*"}}, True),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:events:*:rule/spotcache-*"}}, False),
        ({"ArnEquals": {"aws:SourceArn": "arn:aws:*:1:rule/spotcache-stg"}}, False),
        ({"ArnEquals": {"aws:SourceArn": "arn:*:events:*:?:*"}}, True),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:events:*"}}, False),
        ({"ArnNotLike": {"aws:SourceArn": "arn:aws:events:*"}}, True),
        ({"StringLike": {"aws:SourceArn": "arn:aws:events:*"}}, True),
    ],
)
def test_a_resource_policy_lets_through_what_it_names(condition: dict[str, Any], allowed: bool) -> None:
    policy = {
        "Statement": {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sns:Publish",
            "Resource": "*",
            "Condition": condition,
        }
    }
    about = {"aws:SourceArn": "arn:aws:events:ap-northeast-1:1:rule/spotcache-stg", "aws:SourceAccount": "1"}
    assert permits(policy, "events.amazonaws.com", "sns:Publish", about) is allowed
    assert not permits(policy, "sns.amazonaws.com", "sns:Publish", about)
    assert not permits(policy, "events.amazonaws.com", "sns:Subscribe", about)


def test_a_star_in_the_last_part_of_an_arn_reaches_over_colons() -> None:
    policy = allow(
        "lambda:CreateEventSourceMapping", ArnLike={"lambda:FunctionArn": "arn:aws:lambda:*:*:function:spotcache-*"}
    )
    for name, decision in (("spotcache-stg:live", "allowed"), ("other:spotcache-stg", "implicitDeny")):
        about = {"lambda:FunctionArn": f"arn:aws:lambda:{REGION}:1:function:{name}"}
        assert decide([policy], "lambda:CreateEventSourceMapping", Target("*", context=about), {}) == decision


def test_the_simulator_names_the_keys_that_it_was_not_told() -> None:
    office = allow("ec2:DeleteVolume", IpAddress={"aws:SourceIp": "203.0.113.0/24"})
    other = allow("ec2:CreateVolume", StringEquals={"aws:RequestTag/a": "b"})
    who = Principal("", [office, other])
    assert simulate(who, "ec2:DeleteVolume", VOLUME, {}) == "implicitDeny"
    assert not_told(who, "ec2:DeleteVolume", VOLUME, {}) == ["aws:SourceIp"]
    assert not_told(who, "ec2:DeleteVolume", VOLUME, {"aws:sourceip": "203.0.113.7"}) == []
    assert simulate(who, "ec2:DeleteVolume", VOLUME, {"aws:SourceIp": "203.0.113.7"}) == "allowed"


def test_a_denial_is_worded_as_aws_words_it() -> None:
    assert sentence("arn:aws:iam::1:user/me", "ec2:DeleteVolume", VOLUME, "implicitDeny") == (
        f"User: arn:aws:iam::1:user/me is not authorized to perform: ec2:DeleteVolume on resource: {VOLUME} "
        "because no identity-based policy allows the ec2:DeleteVolume action"
    )


def test_who_may_do_everything_needs_no_decision() -> None:
    everything = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    assert unlimited(Principal("", [everything]))
    assert not unlimited(Principal("", [everything], {"Statement": []}))
    assert not unlimited(Principal("", [everything, DENY]))
    assert not unlimited(Principal("", [TAGGED]))


@pytest.mark.parametrize(
    ("operator", "keys", "decision"),
    [
        ("ForAllValues:StringEquals", ["size"], "allowed"),
        ("ForAllValues:StringEquals", ["size", "spotcache:environment"], "implicitDeny"),
        ("ForAllValues:StringEquals", [], "allowed"),
        ("ForAnyValue:StringEquals", ["size", "spotcache:environment"], "allowed"),
        ("ForAnyValue:StringEquals", ["spotcache:environment"], "implicitDeny"),
        ("ForAnyValue:StringEquals", [], "implicitDeny"),
    ],
)
def test_which_tags_a_request_may_name(operator: str, keys: list[str], decision: str) -> None:
    allow = {"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*"}
    policy = {"Statement": [{**allow, "Condition": {operator: {"aws:TagKeys": ["size"]}}}]}
    assert decide([policy], "ec2:CreateTags", Target(VOLUME), dict.fromkeys(keys, "x")) == decision


@mock_aws
def test_a_key_pair_is_found_by_its_name_and_by_its_id() -> None:
    """A policy that lets delete what carries a tag is asked for either."""
    ec2 = boto3.client("ec2", region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
    tags = [{"Key": "spotcache:environment", "Value": "stg"}]
    made = ec2.create_key_pair(KeyName="k", TagSpecifications=[{"ResourceType": "key-pair", "Tags": tags}])
    known = Account(DEFAULT_ACCOUNT_ID, REGION)
    for name in ("k", made["KeyPairId"]):
        arn = f"arn:aws:ec2:{REGION}:{DEFAULT_ACCOUNT_ID}:key-pair/{name}"
        assert known.tags(arn) == {"spotcache:environment": "stg"}


def test_a_signature_is_verified_over_the_headers_that_were_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As botocore of Debian 12 signs the upload of a file whose checksum follows it."""
    keys = Credentials("AKIAEXAMPLE", "secret")
    sent = {"Transfer-Encoding": "chunked", "X-Amz-Content-SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    request = AWSRequest("PUT", "https://backups.s3.amazonaws.com/dump.rdb", headers=sent, data=b"")
    with monkeypatch.context() as older:
        older.setattr("botocore.auth.SIGNED_HEADERS_BLACKLIST", ["expect", "user-agent"])
        S3SigV4Auth(keys, "s3", "ap-northeast-1").add_auth(request)
    assert "transfer-encoding" in request.headers["Authorization"]
    verifier = iam._AsSignedForS3(keys, "s3", "ap-northeast-1")
    only = {name: value for name, value in request.headers.items() if name != "Authorization"}
    again = AWSRequest("PUT", request.url, headers=only, data=b"")
    again.context["timestamp"] = request.context["timestamp"]
    again.context["payload_signing_enabled"] = request.context.get("payload_signing_enabled")
    signature = verifier.signature(verifier.string_to_sign(again, verifier.canonical_request(again)), again)
    assert request.headers["Authorization"].endswith(f"Signature={signature}")
