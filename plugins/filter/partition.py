"""The partition that a region is in."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: partition
short_description: The partition that an AWS region is in
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - The second part of every ARN. It is V(aws) in most regions, V(aws-cn) in China and V(aws-us-gov) in GovCloud.
positional: _input
options:
  _input:
    description: The region.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Name a bucket as policies do
  ansible.builtin.debug:
    msg: "arn:{{ 'cn-north-1' | spotcache.redis.partition }}:s3:::example-backups"
"""

RETURN = r"""
_value:
  description: The partition.
  type: str
"""

from typing import Any

# By how the names of its regions begin; a test compares with what botocore knows.
PARTITIONS = {
    "cn-": "aws-cn",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
}


def partition(region: Any) -> str:
    """The partition of a region."""
    return next((name for start, name in PARTITIONS.items() if str(region).startswith(start)), "aws")


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"partition": partition}
