"""What is wrong with the inputs of the role awx."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: awx_problems
short_description: What is wrong with the inputs of the role awx
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns a sentence for each problem; each names the variable, its value and the fix. Secrets are never in them.
  - Schedules are read by the rules of AWX 24.6.1, which refuses rules that others take.
positional: _input
options:
  _input:
    description: Public variables of the role awx by name, with the C(surveys) and C(verbs) of its templates.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Use it
  ansible.builtin.debug:
    msg: "{{ awx__inputs | spotcache.redis.awx_problems }}"
"""

RETURN = r"""
_value:
  description: The sentences; empty when all is well.
  type: list
  elements: str
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import awx_rules


def awx_problems(value: Mapping[str, Any]) -> list[str]:
    """A sentence for each problem."""
    return list(awx_rules.problems(value))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"awx_problems": awx_problems}
