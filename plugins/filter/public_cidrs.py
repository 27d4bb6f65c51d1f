"""Which of some address ranges reach beyond private networks."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: public_cidrs
short_description: Address ranges that reach beyond private networks
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns those of the given ranges that contain at least one address of the public internet, in the order given.
  - Private are RFC 1918, RFC 6598 (carrier-grade NAT), link-local and loopback addresses, and IPv6's unique local ones.
  - What is no range at all is an error that names it.
positional: _input
options:
  _input:
    description: Address ranges in CIDR notation; a bare address counts as a range of one.
    type: list
    elements: str
    required: true
  within:
    description: Ranges that count as private too, for example those of a VPC.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Refuse a port that is open to the world
  ansible.builtin.assert:
    that: ranges | spotcache.redis.public_cidrs | length == 0
  vars:
    ranges: [10.0.0.0/8, 0.0.0.0/0]
"""

RETURN = r"""
_value:
  description: The public ranges.
  type: list
  elements: str
"""

import ipaddress
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleFilterError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "fc00::/7",
        "fe80::/10",
        "::1/128",
    )
)


def _network(text: Any) -> Network:
    try:
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError as error:
        raise AnsibleFilterError(
            f"'{text}' is no address range: write it as 10.0.0.0/16, or 10.0.0.7/32 for one address"
        ) from error


def _inside(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.network_address in outer and inner.broadcast_address in outer


def public_cidrs(value: Iterable[Any], within: Iterable[Any] = ()) -> list[str]:
    """The ranges of `value` that are not inside a private range or one of `within`."""
    if isinstance(value, str):
        raise AnsibleFilterError(f"public_cidrs expects a list of ranges, not the text '{value}'")
    private = [*PRIVATE, *(_network(text) for text in within)]
    return [str(text) for text in value if not any(_inside(_network(text), range_) for range_ in private)]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions of the filters in this file."""
        return {"public_cidrs": public_cidrs}
