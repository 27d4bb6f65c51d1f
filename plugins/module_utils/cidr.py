"""Equal parts of an address range, for the filter and for the module that compares subnets."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ipaddress
import itertools

# A VPC of /16 has subnets of /20, one of /24 has the smallest that AWS allows, /28.
SUBNET_BITS = 4
IPV6_PREFIX = 64


def split(cidr: str, count: int, prefix: int) -> list[str]:
    """The first `count` parts of a range that have a prefix of `prefix` bits.

    Raises:
        ValueError: it is no range, or holds fewer such parts.
    """
    try:
        network = ipaddress.ip_network(str(cidr), strict=False)
        parts = [str(part) for part in itertools.islice(network.subnets(new_prefix=prefix), count)]
    except ValueError as error:
        raise ValueError(f"'{cidr}' cannot be split into ranges of /{prefix}: {error}") from error
    if len(parts) < count:
        raise ValueError(f"'{cidr}' holds only {len(parts)} ranges of /{prefix}, and {count} are wanted")
    return parts


def plan(cidr: str, ipv6_cidr: str, zones: list[str]) -> list[dict[str, str]]:
    """Zone, range and IPv6 range (empty without one) of each subnet of a VPC."""
    ranges = split(cidr, len(zones), int(cidr.rpartition("/")[2]) + SUBNET_BITS)
    ranges6 = split(ipv6_cidr, len(zones), IPV6_PREFIX) if ipv6_cidr else [""] * len(zones)
    return [
        {"zone": zone, "cidr": own, "ipv6_cidr": own6} for zone, own, own6 in zip(zones, ranges, ranges6, strict=True)
    ]
