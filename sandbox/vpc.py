"""One VPC's network on this machine: bridge, IPv6, what its hosts reach, and what answers them there.

moto's records say what there is; everything here follows them. Doing it again changes nothing.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ipaddress
import itertools
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from sandbox import imds, names, routes
from sandbox.dependents import leads_nowhere
from sandbox.shell import ToolFailed, run

# The sandbox's own part of the documentation range: the machine's side of each bridge stands in it.
GATEWAYS_6: Final = ipaddress.IPv6Network("2001:db8::/48")
# What routers announce themselves with, on every bridge alike.
ROUTER: Final = "fe80::1"
IPV6_IS_THERE: Final = Path("/proc/net/if_inet6")


def check_ipv6(proof: Path = IPV6_IS_THERE) -> None:
    """See that this machine has IPv6 at all.

    Raises:
        ToolFailed: it was switched off when the kernel was started.
    """
    if not proof.exists():
        raise ToolFailed(
            "this machine's kernel has IPv6 switched off (ipv6.disable=1 on its command line), and the sandbox's hosts "
            "need it as they do on AWS: start the kernel without that"
        )


def bridge_of(vpc_id: str) -> str:
    """Name of a VPC's bridge: at most 15 characters, as the kernel wants it."""
    return f"sc{vpc_id[-11:]}"


def gateway_6(vpc_id: str) -> str:
    """The machine's own IPv6 address on a VPC's bridge."""
    return str(GATEWAYS_6[int(vpc_id.rpartition("-")[2][-15:], 16)])


def ipv6_networks(cidr: str) -> Callable[[], str]:
    """Return what hands out IPv6 networks for the VPCs of a sandbox, as Amazon does: /56 each, none of them twice.

    Sandboxes that run at once do not overlap, because their IPv4 networks do not.

    Args:
        cidr: the sandbox's IPv4 network, 10.x.0.0/16.
    """
    own = ipaddress.IPv6Network((0x20010DB8 << 96 | int(cidr.split(".")[1]) << 88, 40))
    subnets = own.subnets(new_prefix=56)
    return lambda: str(next(subnets))


def networks_6(vpc: Any) -> list[str]:
    """The IPv6 networks of a VPC, by moto's record."""
    return [
        str(one["ipv6CidrBlock"])
        for one in vpc.ipv6_cidr_block_association_set
        if one["ipv6CidrBlockState"]["state"] == "associated"
    ]


def addresses_6(instance: Any) -> tuple[str, ...]:
    """The IPv6 addresses of an instance's first interface."""
    return tuple(instance.nics[0].ipv6_addresses) if instance.nics else ()


class Vpcs:
    """What the route tables of moto's EC2 give its instances.

    Args:
        ec2: moto's records.
    """

    def __init__(self, ec2: Any) -> None:
        self.ec2 = ec2

    def table_of(self, subnet: Any) -> Any:
        """The route table of a subnet: its own, else the VPC's main one."""
        tables = [table for table in list(self.ec2.route_tables.values()) if table.vpc_id == subnet.vpc_id]
        own = (table for table in tables if any(one.get("SubnetId") == subnet.id for one in table.associations))
        main = (table for table in tables if table.main_association_id is not None)
        return next(itertools.chain(own, main), None)

    def routes_of(self, subnet: Any) -> list[routes.Route]:
        """What the route table of a subnet holds, gateway endpoints for S3 included."""
        table = self.table_of(subnet)
        if table is None:
            return []
        found = [
            routes.Route(network, "" if leads_nowhere(route) else target)
            for route in table.routes
            if (network := route.destination_cidr_block or route.destination_ipv6_cidr_block)
            and (target := route.gateway_id or route.egress_only_internet_gateway_id or route.nat_gateway_id)
        ]
        endpoints = (
            one
            for one in list(self.ec2.vpc_end_points.values())
            if (one.vpc_endpoint_type or "Gateway") == "Gateway"
            and one.service_name.endswith(".s3")
            and one.state == "available"
            and table.id in one.route_table_ids
        )
        return found + [routes.Route(names.S3_NETWORK, one.id) for one in endpoints]

    def nat_works(self, nat_id: str) -> bool:
        """Whether a NAT gateway reaches the internet."""
        nat = self.ec2.nat_gateways.get(nat_id)
        # Public where the caller did not say, which moto notes as nothing.
        if nat is None or nat.state != "available" or nat.connectivity_type == "private":
            return False
        return routes.target(self.routes_of(self.ec2.get_subnet(nat.subnet_id)), names.MIRROR).startswith("igw-")

    def ways(self, subnet: Any, *, public_ipv4: bool, has_ipv6: bool) -> routes.Ways:
        """What an interface in a subnet reaches beyond the VPC."""
        return routes.ways(self.routes_of(subnet), public_ipv4=public_ipv4, has_ipv6=has_ipv6, nat_works=self.nat_works)

    def guest(self, interface: Any) -> routes.Guest:
        """A network interface as a sender of packets: a host's, or that of something else that stands in a subnet."""
        ipv6 = tuple(interface.ipv6_addresses)
        ways = self.ways(interface.subnet, public_ipv4=bool(interface.public_ip), has_ipv6=bool(ipv6))
        return routes.Guest(interface.private_ip_address, ipv6, ways)

    def guests(self, vpc_id: str) -> list[routes.Guest]:
        """Every network interface of a VPC."""
        return [self.guest(one) for one in list(self.ec2.enis.values()) if one.subnet.vpc_id == vpc_id]


class Edge:
    """This machine's side of one VPC's bridge.

    Args:
        vpc_id: the VPC.
        cidr: its IPv4 network.
        comment: mark of this VPC's iptables rules.
    """

    def __init__(self, vpc_id: str, cidr: str, comment: str) -> None:
        self.vpc_id, self.cidr, self.comment = vpc_id, cidr, comment
        self.bridge = bridge_of(vpc_id)
        self.gateway = str(ipaddress.ip_network(cidr)[1])
        self.gateway_6 = gateway_6(vpc_id)
        self._now: tuple[str, str] = ("", "")
        self._routed: set[str] = set()
        self._lock = threading.Lock()
        # What ends what listens at the bridge's addresses, which the next VPC may have as well.
        self.closing: list[Callable[[], None]] = []

    def close(self) -> None:
        """End what listens here, once the VPC is gone."""
        while self.closing:
            self.closing.pop()()

    def open(self) -> None:
        """Give the bridge its IPv6 addresses and close every way out of it that is not opened later.

        Raises:
            ToolFailed: this machine refuses.
        """
        run("sysctl", "-qw", f"net.ipv6.conf.{self.bridge}.disable_ipv6=0")
        run("ip", "-6", "address", "replace", f"{self.gateway_6}/128", "dev", self.bridge, "nodad")
        run("ip", "-6", "address", "replace", f"{ROUTER}/64", "dev", self.bridge, "nodad")
        mark = ("-m", "comment", "--comment", self.comment)
        # What is let out ends at this machine; nothing is forwarded, whatever the machine's own rules would do with it.
        out = ("-i", self.bridge, "!", "-o", self.bridge, *mark, "-j", "DROP")
        into = ("-o", self.bridge, "!", "-i", self.bridge, *mark, "-j", "DROP")
        imds.install_rules([("filter", "DOCKER-USER", *out)])
        imds.install_rules([("filter", "FORWARD", *out), ("filter", "FORWARD", *into)], "ip6tables")
        self.follow([], [])

    def serve(self, https: int, http: int, https_6: int, http_6: int) -> None:
        """Bring what hosts send to the sandbox's addresses outside of the VPC to these ports of this machine.

        Raises:
            ToolFailed: iptables refused.
        """
        four = [
            rule
            for network in (names.S3_NETWORK, names.PUBLIC_NETWORK)
            for asked, port in ((443, https), (80, http))
            for rule in self._to(network, asked, f"{self.gateway}:{port}", self.gateway, port)
        ]
        six = [
            rule
            for asked, port in ((443, https_6), (80, http_6))
            for rule in self._to(names.PUBLIC_NETWORK_6, asked, f"[{self.gateway_6}]:{port}", self.gateway_6, port)
        ]
        imds.install_rules(four)
        imds.install_rules(six, "ip6tables")

    def _to(self, network: str, asked: int, place: str, address: str, port: int) -> list[tuple[str, ...]]:
        mark = ("-m", "comment", "--comment", self.comment)
        match = ("-i", self.bridge, "-p", "tcp", "-m", "tcp")
        length = 128 if ":" in address else 32
        redirect = (*match, "-d", network, "--dport", str(asked), *mark, "-j", "DNAT", "--to-destination", place)
        accept = (*match, "-d", f"{address}/{length}", "--dport", str(port), *mark, "-j", "ACCEPT")
        return [("nat", "PREROUTING", *redirect), ("filter", "INPUT", *accept)]

    def follow(self, networks: Iterable[str], guests: Iterable[routes.Guest]) -> None:
        """Let out what these senders' ways allow, and nothing else.

        Args:
            networks: the VPC's IPv6 networks.
            guests: who stands in the VPC.

        Raises:
            ToolFailed: iptables or ip refused.
        """
        networks, guests = list(networks), list(guests)
        wanted = (
            routes.filter_4(self.bridge, self.comment, self.cidr, guests),
            routes.filter_6(self.bridge, self.comment, networks, guests),
        )
        with self._lock:
            for network in set(networks) - self._routed:
                run("ip", "-6", "route", "replace", network, "dev", self.bridge)
                self._routed.add(network)
            for text, now, ipv6 in zip(wanted, self._now, (False, True), strict=True):
                if text != now:
                    routes.apply(self.bridge, text, self.comment, ipv6=ipv6)
            self._now = wanted


def give_ipv6(pid: int, addresses: Iterable[str], networks: Iterable[str], interface: str = "eth0") -> None:
    """Give a host its IPv6 addresses and the way to its router, as DHCPv6 and router advertisements do on AWS.

    Args:
        pid: a process in the host's network namespace.
        addresses: of the host; none leaves it without IPv6.
        networks: those of the VPC, in which everything is on the same link.
        interface: the host's.

    Raises:
        ToolFailed: the process is gone, or ip refused.
    """
    addresses = list(addresses)
    if not addresses:
        return
    inside = ("nsenter", "-t", str(pid), "-n")
    # The engine has switched it off in networks that have no IPv6 of the engine's own.
    for place in ("all", "default", "lo", interface):
        run(*inside, "sysctl", "-qw", f"net.ipv6.conf.{place}.disable_ipv6=0")
    for address in addresses:
        run(*inside, "ip", "-6", "address", "replace", f"{address}/128", "dev", interface, "nodad")
    for network in networks:
        run(*inside, "ip", "-6", "route", "replace", network, "dev", interface)
    run(*inside, "ip", "-6", "route", "replace", "default", "via", ROUTER, "dev", interface)
