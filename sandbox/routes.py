"""Which ways out of its VPC a host has, by its subnet's route table, and the packet filter that gives it no others.

A VPC's bridge ends on this machine. Here, before anything else is done with a packet of a host, it is held against what
the host's route table, its public IPv4 address and its IPv6 address allow. What has no way is dropped, as on AWS: the
sender learns nothing. Nothing is ever forwarded from a bridge to the rest of this machine's network: what is allowed
out ends at the sandbox's own services, which stand at addresses kept for documentation (see `names`).
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.imds import ADDRESS as METADATA
from sandbox.imds import CHAIN_PREFIX, RESOLVER_ADDRESS
from sandbox.names import MIRROR, MIRROR_6, PUBLIC_NETWORK, PUBLIC_NETWORK_6, S3_NETWORK
from sandbox.shell import run, succeeds

_ANY_S3: Final = str(ipaddress.ip_network(S3_NETWORK)[10])


@dataclass(frozen=True)
class Route:
    """One entry of a route table: a network, IPv4 or IPv6, and the id of what packets for it are given to."""

    network: str
    target: str


@dataclass(frozen=True)
class Ways:
    """What a host reaches beyond its VPC: S3's IPv4 addresses, all other IPv4 addresses, all IPv6 addresses."""

    s3: bool = False
    ipv4: bool = False
    ipv6: bool = False


@dataclass(frozen=True)
class Guest:
    """A sender in a VPC, by its addresses, and the ways it has."""

    ipv4: str
    ipv6: tuple[str, ...]
    ways: Ways


def target(routes: Iterable[Route], address: str) -> str:
    """Return where a route table sends packets for an address: the most specific route's target, or empty."""
    wanted = ipaddress.ip_address(address)
    found = [
        (network.prefixlen, route.target)
        for route in routes
        if (network := ipaddress.ip_network(route.network, strict=False)).version == wanted.version
        and wanted in network
    ]
    return max(found, default=(0, ""))[1]


def ways(
    routes: Sequence[Route],
    *,
    public_ipv4: bool,
    has_ipv6: bool,
    nat_works: Callable[[str], bool] = lambda _nat: False,
) -> Ways:
    """Return what a host reaches by the route table of its subnet.

    An internet gateway serves IPv4 only to who has a public address; an egress-only one, and a gateway endpoint, to
    everybody (Amazon VPC User Guide, "Example routing options"; AWS PrivateLink Guide, "Gateway endpoints").

    Args:
        routes: the table's entries.
        public_ipv4: whether the host has a public IPv4 address.
        has_ipv6: whether it has an IPv6 address.
        nat_works: whether the NAT gateway with this id is a public one in a subnet that has an internet gateway.
    """

    def serves(gateway: str, *, internet: bool) -> bool:
        if gateway.startswith("nat-"):
            return nat_works(gateway)
        return gateway.startswith("vpce-") or (gateway.startswith("igw-") and internet)

    way_6 = target(routes, MIRROR_6)
    return Ways(
        s3=serves(target(routes, _ANY_S3), internet=public_ipv4),
        ipv4=serves(target(routes, MIRROR), internet=public_ipv4),
        ipv6=has_ipv6 and way_6.startswith(("igw-", "eigw-")),
    )


def chain_of(bridge: str) -> str:
    """Name of a bridge's own chain of rules."""
    return f"{CHAIN_PREFIX}{bridge}"


def filter_4(bridge: str, comment: str, cidr: str, guests: Iterable[Guest]) -> str:
    """Return the rules for IPv4 packets that come from a VPC's bridge, for `iptables-restore --noflush`.

    Args:
        bridge: the bridge's name.
        comment: mark by which `imds.remove_rules` finds the chain.
        cidr: the VPC's network; its second address is this machine's, its third the resolver's.
        guests: who is in it; what any other address sends out is dropped.
    """
    network = ipaddress.ip_network(cidr)
    machine, resolver = str(network[1]), str(network[2])
    names = [
        f" -d {address}/32 -p {protocol} --dport 53"
        for address in (resolver, RESOLVER_ADDRESS)
        for protocol in ("udp", "tcp")
    ]
    open_to_all = [
        # An answer to this machine, which stands at the gateway and may have asked.
        " -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY",
        f" -d {METADATA}/32 -p tcp --dport 80",
        *names,
    ]
    lines = [f"{one} -j RETURN" for one in open_to_all]
    lines += [f" -d {machine}/32 -j DROP", f" -d {resolver}/32 -j DROP", f" -d {cidr} -j RETURN"]
    for guest in sorted(guests, key=lambda one: one.ipv4):
        lines += [f" -s {guest.ipv4}/32 -d {S3_NETWORK} -j RETURN"] if guest.ways.s3 else []
        lines += [f" -s {guest.ipv4}/32 -d {PUBLIC_NETWORK} -j RETURN"] if guest.ways.ipv4 else []
    return _text(bridge, comment, lines)


def filter_6(bridge: str, comment: str, cidrs: Iterable[str], guests: Iterable[Guest]) -> str:
    """Return the rules for IPv6 packets that come from a VPC's bridge, for `ip6tables-restore --noflush`.

    Args:
        bridge: the bridge's name.
        comment: mark by which `imds.remove_rules` finds the chain.
        cidrs: the VPC's IPv6 networks.
        guests: who is in it.
    """
    lines = [
        " -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j RETURN",
        # Neighbours find each other, and the gateway, at link-local addresses.
        " -d fe80::/10 -p ipv6-icmp -j RETURN",
        " -d ff02::/16 -p ipv6-icmp -j RETURN",
        *(f" -d {cidr} -j RETURN" for cidr in sorted(cidrs)),
    ]
    for guest in sorted(guests, key=lambda one: one.ipv4):
        if guest.ways.ipv6:
            lines += [f" -s {address}/128 -d {PUBLIC_NETWORK_6} -j RETURN" for address in sorted(guest.ipv6)]
    return _text(bridge, comment, lines)


def _text(bridge: str, comment: str, lines: Iterable[str]) -> str:
    chain = chain_of(bridge)
    rules = [f"-A {chain}{line}" for line in (*lines, f" -m comment --comment {comment} -j DROP")]
    return "\n".join(["*mangle", f":{chain} - [0:0]", *rules, "COMMIT"]) + "\n"


def apply(bridge: str, text: str, comment: str, *, ipv6: bool) -> None:
    """Put rules made by `filter_4` or `filter_6` into force, in one step and so without a moment without them.

    Raises:
        ToolFailed: iptables refused.
    """
    tool = "ip6tables" if ipv6 else "iptables"
    run(f"{tool}-restore", "-w", "10", "--noflush", stdin=text)
    jump = ("-i", bridge, "-m", "comment", "--comment", comment, "-j", chain_of(bridge))
    if not succeeds([tool, "-w", "10", "-t", "mangle", "-C", "PREROUTING", *jump]):
        run(tool, "-w", "10", "-t", "mangle", "-I", "PREROUTING", *jump)
