"""A size of redis.conf in bytes."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: redis_bytes
short_description: Read a size as redis.conf writes it
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - C(1k) is 1000 bytes and C(1kb) is 1024, as for Redis.
positional: _input
options:
  _input:
    description: The size.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Half of it
  ansible.builtin.debug:
    msg: "{{ ('512mb' | spotcache.redis.redis_bytes) // 2 }}"
"""

RETURN = r"""
_value:
  description: Bytes.
  type: int
"""

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.spotcache.redis.plugins.module_utils.redis_conf import parse_size


def redis_bytes(value: Any) -> int:
    """Bytes of a size."""
    size = parse_size(str(value))
    if size is None:
        raise AnsibleFilterError(f'"{value}" is no size: write it as 512mb')
    return size


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"redis_bytes": redis_bytes}
