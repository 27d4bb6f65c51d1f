"""Which failures of a task pass by themselves."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.test.unsettled import unsettled

NEW = (
    "Error retrieving image by image_id: An error occurred (InvalidAMIID.NotFound) when calling the DescribeImages",
    "An error occurred (NoSuchEntity) when calling the GetRole operation: The role with name x cannot be found.",
    "(InvalidParameterValueException): The role defined for the function cannot be assumed by Lambda.",
    "The provided execution role does not have permissions to call ReceiveMessage on SQS",
    "Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
    "Could not find IAM instance profile spotcache-stg",
    "VPC with Id vpc-0f1e2d3c4b5a69788 not found, aborting",
    "(InvalidLaunchTemplateName.NotFoundException) when calling the DescribeLaunchTemplateVersions operation",
)
FINAL = (
    "(UnauthorizedOperation): User: arn:aws:sts::1:assumed-role/admin is not authorized to perform: ec2:CreateVpc",
    "(VpcLimitExceeded) when calling the CreateVpc operation: The maximum number of VPCs has been reached.",
    "(AccessDenied): User: assumed-role/x is not authorized to perform: iam:GetRole on: role y does not exist",
    "value of state must be one of: present, absent, got: there",
)


@pytest.mark.parametrize("message", NEW)
def test_what_aws_does_not_know_yet_is_tried_again(message: str) -> None:
    assert unsettled({"failed": True, "msg": message})
    assert not unsettled({"failed": False, "msg": message})


@pytest.mark.parametrize("message", FINAL)
def test_anything_else_is_said_at_once(message: str) -> None:
    assert not unsettled({"failed": True, "msg": message})


def test_a_module_that_breaks_over_an_empty_answer_is_tried_again() -> None:
    result: dict[str, Any] = {"failed": True, "exception": "(traceback unavailable)"}
    assert unsettled(result)
    assert not unsettled({"changed": True})
