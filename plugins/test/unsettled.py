"""Whether a task failed only because AWS does not know everywhere yet what was made a moment ago."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: unsettled
short_description: Whether a task failed over AWS's eventual consistency
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - EC2 and IAM tell all their parts of a new object only after a while, seconds as a rule. A module that makes one and
    looks at it, or a service that is given a new role, may be told meanwhile that it is not there.
  - True for the result of a failed task whose message says so, in the words of EC2, IAM, Lambda, Auto Scaling or Data
    Lifecycle Manager, and for a module that broke without a message, as some do when they find nothing where they have
    just made something. Such a task is tried again.
  - False for anything else, so that a denial or a wrong value is said at once.
positional: _input
options:
  _input:
    description: The result of a task.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Make a subnet
  amazon.aws.ec2_vpc_subnet:
    vpc_id: "{{ vpc_id }}"
    cidr: 10.0.0.0/20
  register: made
  until: made is not spotcache.redis.unsettled
  retries: 8
  delay: 3
"""

RETURN = r"""
_value:
  description: Whether the task is to be tried again.
  type: bool
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

WORDS = re.compile(
    r"\.NotFound"  # EC2: InvalidSubnetID.NotFound, InvalidLaunchTemplateName.NotFoundException, ...
    r"|NoSuchEntity"  # IAM
    r"|Invalid IAM Instance Profile"  # RunInstances and Auto Scaling
    r"|cannot be assumed"  # Lambda
    r"|execution role does not have permissions to call"  # Lambda, of a role whose policy it does not know yet
    r"|role\b.{0,200}(does not exist|not found|is missing|unable to assume)"  # Data Lifecycle Manager, FIS
    r"|Could not find IAM instance profile"  # ec2_launch_template
    r"|VPC with Id \S+ not found"  # ec2_vpc_igw
    r"|Failed to describe newly created",  # ec2_vpc_subnet
    re.IGNORECASE,
)


def unsettled(result: Mapping[str, Any]) -> bool:
    """Whether the result of a task is a failure that passes by itself."""
    if not result.get("failed"):
        return False
    # A denial may name the caller's own role, and waiting does not help.
    if "not authorized" in str(result.get("msg", "")):
        return False
    # A module that breaks over an empty answer has no message yet when `until` looks: Ansible adds it at the end.
    return "msg" not in result or WORDS.search(str(result["msg"])) is not None


class TestModule:
    """Ansible's entry point."""

    def tests(self) -> dict[str, Callable[..., bool]]:
        """Names and functions of the tests in this file."""
        return {"unsettled": unsettled}
