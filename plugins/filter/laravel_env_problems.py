"""What is wrong with the inputs of the role laravel_env."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: laravel_env_problems
short_description: What is wrong with the inputs of the role laravel_env
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns a sentence for each problem; each names the variable, its value and the fix. Secrets are never in them.
positional: _input
options:
  _input:
    description: The public variables of the role laravel_env by name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Use it
  ansible.builtin.debug:
    msg: "{{ {'laravel_env_environment': 'stg'} | spotcache.redis.laravel_env_problems }}"
"""

RETURN = r"""
_value:
  description: The sentences; empty when all is well.
  type: list
  elements: str
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import laravel_inputs


def laravel_env_problems(value: Mapping[str, Any]) -> list[str]:
    """A sentence for each problem."""
    return list(laravel_inputs.problems(value))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"laravel_env_problems": laravel_env_problems}
