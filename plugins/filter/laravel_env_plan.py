"""Which keys an application's .env gets."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: laravel_env_plan
short_description: Which keys an application's .env gets
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns the keys to set and to remove, what the application must use once they are in place, and the same in words.
  - The plan is made from what the applications say of themselves; the databases are shared out among all of them.
positional: _input, application, asked, host
options:
  _input:
    description: The public variables of the role laravel_env by name.
    type: dict
    required: true
  application:
    description: One of the applications.
    type: dict
    required: true
  asked:
    description: By host and application, what M(spotcache.redis.laravel_app) returned as the configuration.
    type: dict
    required: true
  host:
    description: The host that the plan is for.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Use it
  ansible.builtin.debug:
    msg: "{{ inputs | spotcache.redis.laravel_env_plan({'name': 'shop'}, asked, 'web1') }}"
  vars:
    asked: {web1: {shop: "{{ app.configuration }}"}}
    inputs: {laravel_env_environment: stg, laravel_env_redis_host: 10.0.0.4, laravel_env_redis_port: 6379}
"""

RETURN = r"""
_value:
  description: The keys in values and secrets, those to remove, what to expect, the plan in words, and problems.
  type: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import laravel_plan


def laravel_env_plan(
    value: Mapping[str, Any], application: Mapping[str, Any], asked: Mapping[str, Any], host: str
) -> dict[str, Any]:
    """Keys, expectations and words."""
    return laravel_plan.planned_for(value, application, asked, host)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"laravel_env_plan": laravel_env_plan}
