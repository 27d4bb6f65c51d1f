# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies decide as IAM does, so that running under one proves it."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.iam import ANY, Target, decide, request_tags

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
            [allow("s3:ListBucket", "arn:aws:s3:::b", StringLike={"s3:prefix": "stg/saves/*"})],
            "s3:ListBucket",
            Target("arn:aws:s3:::b", context={"s3:prefix": "stg/saves/"}),
            "allowed",
        ),
        (
            [allow("s3:ListBucket", "arn:aws:s3:::b", StringLike={"s3:prefix": "stg/saves/*"})],
            "s3:ListBucket",
            Target("arn:aws:s3:::b", context={"s3:prefix": "prod/saves/"}),
            "implicitDeny",
        ),
        (
            [allow("s3:GetObject", "arn:aws:s3:::b/stg/*")],
            "s3:GetObject",
            Target("arn:aws:s3:::b/prod/x"),
            "implicitDeny",
        ),
        ([allow("iam:*", "arn:aws:iam::*:role/x")], "iam:GetRole", Target(ANY), "allowed"),
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


def test_tags_are_read_from_a_request() -> None:
    data = {
        "Action": ["CreateVolume"],
        "TagSpecification.1.ResourceType": ["volume"],
        "TagSpecification.1.Tag.1.Key": ["a"],
        "TagSpecification.1.Tag.1.Value": ["1"],
        "TagSpecification.1.Tag.2.Key": ["b"],
        "TagSpecification.1.Tag.2.Value": [""],
    }
    assert request_tags(data) == {"a": "1", "b": ""}
    assert request_tags({"Tag.1.Key": ["c"], "Tag.1.Value": ["3"]}) == {"c": "3"}


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
