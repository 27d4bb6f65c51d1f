"""Security groups that really filter: iptables rules in a host's own network namespace.

A security group sits on the network interface: it sees a packet before the host does anything to it. The rules
therefore stand in the mangle table, PREROUTING for what arrives and POSTROUTING for what leaves, on that interface
only. There they also hold for ports that the host's own Docker engine publishes (with the port the client dialled, as
on AWS) and for the traffic of containers, and they are in nobody's way: the engine keeps its rules in filter and nat,
and may rewrite those at any time.

What AWS never filters is never filtered here: DNS at the VPC's resolver, the metadata service, the time service, DHCP,
and the messages by which IPv6 neighbours find each other.
One difference remains: a program that sends a UDP packet nobody lets out is told "operation not permitted".
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox.shell import run, succeeds

CHAIN_IN: Final = "SPOTCACHE-IN"
CHAIN_OUT: Final = "SPOTCACHE-OUT"
# Which packets come in and which go out, where the namespace is the host's own.
HOOKS: Final = (
    (CHAIN_IN, "PREROUTING", "-i {interface}"),
    (CHAIN_OUT, "POSTROUTING", "-o {interface}"),
)
METADATA: Final = "169.254.169.254"
RESOLVER: Final = "169.254.169.253"
TIME_SERVICE: Final = "169.254.169.123"
_PROTOCOLS: Final = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
# Router and neighbour solicitations and advertisements, redirects (RFC 4861).
_NEIGHBOURS: Final = (133, 134, 135, 136, 137)


@dataclass(frozen=True)
class Rule:
    """One entry of a security group, as EC2's IpPermissions are.

    `protocol` is tcp, udp, icmp, icmpv6, a protocol number, or -1 for all. For tcp and udp the ports are a range, for
    icmp they are type and code; None and -1 mean any. Peers are IPv4 and IPv6 networks and security groups.
    """

    protocol: str
    from_port: int | None = None
    to_port: int | None = None
    cidrs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """What one group lets in and out."""

    id: str
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()


def rules(
    groups: Sequence[Group],
    members: Mapping[str, Sequence[str]],
    *,
    vpc_cidr: str,
    interface: str = "eth0",
    version: int = 4,
) -> str:
    """Return the rules of a host with these groups, for `iptables-restore --noflush` (or `ip6tables-restore`).

    A host in several groups gets what any of them allows. Equal input gives equal text.

    Args:
        groups: the groups of the host's network interface; without one nothing gets in or out.
        members: addresses of the members of each group, by its id; a group that is not there has none.
        vpc_cidr: the VPC's network; its third address is the resolver's.
        interface: the host's network interface.
        version: 4 for IPv4 packets, 6 for IPv6 ones.

    Raises:
        ValueError: a CIDR or a port range makes no sense.
    """
    resolver = str(ipaddress.ip_network(vpc_cidr)[2])
    ingress, egress = (
        sorted({rule for entry in entries for rule in _matches(entry, members, side, version)})
        for entries, side in (
            ([entry for group in groups for entry in group.ingress], "-s"),
            ([entry for group in groups for entry in group.egress], "-d"),
        )
    )
    dhcp = [" -p udp --sport 67 --dport 68"] if version == 4 else []
    always = list(_never_filtered(resolver)) if version == 4 else []
    neighbours = [f" -p icmpv6 --icmpv6-type {kind}" for kind in _NEIGHBOURS] if version == 6 else []
    lines = [
        "*mangle",
        f":{CHAIN_IN} - [0:0]",
        f":{CHAIN_OUT} - [0:0]",
        # An answer belongs to a connection that was allowed when it began, even if the rules have changed since.
        f"-A {CHAIN_IN} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        *(f"-A {CHAIN_IN}{rule} -j RETURN" for rule in [*dhcp, *neighbours]),
        *(f"-A {CHAIN_IN}{rule} -j RETURN" for rule in ingress),
        f"-A {CHAIN_IN} -j DROP",
        f"-A {CHAIN_OUT} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        *(f"-A {CHAIN_OUT}{rule} -j RETURN" for rule in [*always, *neighbours]),
        *(f"-A {CHAIN_OUT}{rule} -j RETURN" for rule in egress),
        f"-A {CHAIN_OUT} -j DROP",
        "COMMIT",
        f"# interface {interface}",
    ]
    return "\n".join(lines) + "\n"


def _never_filtered(resolver: str) -> Iterator[str]:
    yield f" -d {METADATA}/32 -p tcp --dport 80"
    yield f" -d {TIME_SERVICE}/32 -p udp --dport 123"
    yield " -p udp --sport 68 --dport 67"
    for address in (RESOLVER, resolver):
        for protocol in ("tcp", "udp"):
            yield f" -d {address}/32 -p {protocol} --dport 53"


def _matches(entry: Rule, members: Mapping[str, Sequence[str]], side: str, version: int) -> Iterator[str]:
    """Yield one rule's match for every peer of a permission."""
    protocol = _protocol(entry, version)
    if protocol is None:
        return
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in entry.cidrs]
    networks += [ipaddress.ip_network(address) for group in entry.groups for address in members.get(group, ())]
    for network in networks:
        if network.version == version:
            peer = "" if network.prefixlen == 0 else f" {side} {network}"
            yield peer + protocol


def _protocol(entry: Rule, version: int) -> str | None:
    """Return the part of a rule that matches protocol and ports; None for one that cannot occur with this version."""
    name = _PROTOCOLS.get(str(entry.protocol).lower(), str(entry.protocol).lower())
    first = -1 if entry.from_port is None else entry.from_port
    last = -1 if entry.to_port is None else entry.to_port
    if name in ("-1", "all"):
        return ""
    if name == ("icmpv6" if version == 4 else "icmp"):
        return None
    if name in ("tcp", "udp"):
        if first == -1 and last in (-1, 65535):
            return f" -p {name}"
        if not 0 <= first <= last <= 65535:
            raise ValueError(f"security group: ports {first} to {last} are no range within 0 to 65535")
        return f" -p {name}" if (first, last) == (0, 65535) else f" -p {name} --dport {first}:{last}"
    if name in ("icmp", "icmpv6"):
        if first == -1:
            return f" -p {name}"
        return f" -p {name} --{name}-type {first}" + ("" if last == -1 else f"/{last}")
    if not name.isdecimal() or int(name) > 255:
        raise ValueError(f"security group: protocol {entry.protocol!r} is neither a known name nor a number up to 255")
    return f" -p {name}"


def apply(pid: int, text: str, tool: str = "iptables", hooks: Sequence[tuple[str, str, str]] = HOOKS) -> None:
    """Put rules made by `rules` into force in the network namespace of a process.

    The chains are replaced in one step, so there is no moment without them; doing it again changes nothing.

    Args:
        pid: the process.
        text: the rules.
        tool: iptables, or ip6tables for those of version 6.
        hooks: (chain of the rules, chain of the kernel, match) of the packets that come in, and of those that go out.

    Raises:
        ToolFailed: the process is gone, or iptables refused.
    """
    interface = text.rstrip().rpartition("# interface ")[2]
    inside = ("nsenter", "-t", str(pid), "-n")
    run(*inside, f"{tool}-restore", "-w", "10", "--noflush", stdin=text)
    for chain, hook, match in hooks:
        jump = (hook, *match.format(interface=interface).split(), "-j", chain)
        if not succeeds([*inside, tool, "-w", "10", "-t", "mangle", "-C", *jump]):
            run(*inside, tool, "-w", "10", "-t", "mangle", "-I", *jump)


def clear(pid: int) -> None:
    """Take all rules out again, as on a host that has no security group to obey. Nothing to take out is no error."""
    inside = ("nsenter", "-t", str(pid), "-n", "iptables", "-w", "10", "-t", "mangle")
    for line in run(*inside, "-S").splitlines():
        words = line.split()
        if words[0] == "-A" and words[1] in ("PREROUTING", "POSTROUTING") and words[-1] in (CHAIN_IN, CHAIN_OUT):
            run(*inside, "-D", *words[1:])
    for chain in (CHAIN_IN, CHAIN_OUT):
        if succeeds([*inside, "-F", chain]):
            run(*inside, "-X", chain)
