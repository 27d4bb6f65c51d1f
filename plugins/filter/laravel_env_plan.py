"""Which keys an application's .env gets."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: laravel_env_plan
short_description: Which keys an application's .env gets
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns the keys to set and to remove, and what the application must use once they are in place.
positional: _input, application
options:
  _input:
    description: The public variables of the role laravel_env by name.
    type: dict
    required: true
  application:
    description: One of the applications.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Use it
  ansible.builtin.debug:
    msg: "{{ {'laravel_env_environment': 'stg'} | spotcache.redis.laravel_env_plan({'name': 'shop'}) }}"
"""

RETURN = r"""
_value:
  description: The keys in values and secrets, those to remove, and what to expect.
  type: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import laravel_plan


def laravel_env_plan(value: Mapping[str, Any], application: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and expectations."""
    return laravel_plan.plan(value, application)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"laravel_env_plan": laravel_env_plan}
