"""Settings from YAML as lines of redis.conf."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: redis_lines
short_description: Write a mapping of directives as lines of redis.conf
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - A boolean becomes yes or no, a list a line for each of its items, and an empty text an empty argument. Any other
    value is written as it is, since a directive may have several arguments.
positional: _input
options:
  _input:
    description: Directives and their values.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the lines
  ansible.builtin.debug:
    msg: "{{ {'maxclients': 500, 'lazyfree-lazy-expire': true} | spotcache.redis.redis_lines }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils.redis_conf import arguments_of


def redis_lines(value: Mapping[str, Any]) -> list[str]:
    """A line for each value of each directive."""
    return [f"{name} {line or chr(34) * 2}" for name, lines in value.items() for line in arguments_of(lines)]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"redis_lines": redis_lines}
