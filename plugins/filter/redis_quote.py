"""A text as one argument of redis.conf."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: redis_quote
short_description: Quote a text as one argument of redis.conf
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Redis reads the result back as exactly this text, whatever is in it.
positional: _input
options:
  _input:
    description: The text.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Write a password into a template
  ansible.builtin.debug:
    msg: requirepass {{ 'p"q' | spotcache.redis.redis_quote }}
"""

RETURN = r"""
_value:
  description: The quoted text.
  type: str
"""

from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils.redis_conf import quote


def redis_quote(value: Any) -> str:
    """The text of a value, quoted."""
    return quote(str(value))


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"redis_quote": redis_quote}
