"""Equal parts of an address range."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: cidr_split
short_description: The first equal parts of an address range
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Splits a range into parts with a longer prefix and returns the first ones.
positional: _input, count
options:
  _input:
    description: An address range in CIDR notation.
    type: str
    required: true
  count:
    description: How many parts are wanted.
    type: int
    required: true
  prefix:
    description: Length of the parts' prefix.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Two subnets of a VPC
  ansible.builtin.debug:
    msg: "{{ '10.20.0.0/16' | spotcache.redis.cidr_split(2, prefix=20) }}"  # ['10.20.0.0/20', '10.20.16.0/20']
"""

RETURN = r"""
_value:
  description: The parts, in order of address.
  type: list
  elements: str
"""

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.spotcache.redis.plugins.module_utils.cidr import split


def cidr_split(value: str, count: int, prefix: int) -> list[str]:
    """The first `count` parts of the range `value` that have a prefix of `prefix` bits."""
    try:
        return split(value, int(count), int(prefix))
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions of the filters in this file."""
        return {"cidr_split": cidr_split}
