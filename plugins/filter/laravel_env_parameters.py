"""Which parameters of AWS SSM an application gets."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: laravel_env_parameters
short_description: Which parameters of AWS SSM an application gets
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns the same as the filter laravel_env_plan as parameters of AWS SSM, for an application that has no .env.
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
    msg: "{{ {'laravel_env_environment': 'stg'} | spotcache.redis.laravel_env_parameters(application) }}"
  vars:
    application: {name: shop, parameter_path: /stg/shop}
"""

RETURN = r"""
_value:
  description: Parameters with name, value, type and state.
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import laravel_plan


def laravel_env_parameters(value: Mapping[str, Any], application: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameters with name, value, type and state."""
    return laravel_plan.parameters(value, application)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"laravel_env_parameters": laravel_env_parameters}
