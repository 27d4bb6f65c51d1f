"""The VPC's resolver: private zones and instance names answered here, the rest by the machine's own resolvers."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ipaddress
import logging
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

LOG = logging.getLogger(__name__)

UPSTREAM_TIMEOUT: Final = 3.0
NEGATIVE_TTL: Final = 5
INTERNAL_TTL: Final = 60
MAX_CHAIN: Final = 8
MAX_UDP: Final = 1232


@dataclass(frozen=True)
class Record:
    """A record: `name` without the final dot, `rdtype` such as A, `ttl` in seconds, `value` as zone files have it."""

    name: str
    rdtype: str
    ttl: int
    value: str


@dataclass(frozen=True)
class Answer:
    """What a private zone says about a name. `exists` without records of the asked type is an empty, good answer."""

    zone: str
    exists: bool
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Zone:
    """A private zone and its records."""

    name: str
    records: tuple[Record, ...] = field(default=())


class Silent(Exception):
    """Nobody answers here: a lookup raises it, and the client waits in vain."""


# Given a name (lower case, no final dot) and a type; None when the name is in no zone of ours.
Lookup = Callable[[str, str], Answer | None]


def answer_from_zones(zones: Sequence[Zone], name: str, rdtype: str) -> Answer | None:
    """Return what the most specific of these zones says about a name, with wildcards; None outside all of them."""
    owners = [zone for zone in zones if name == zone.name or name.endswith("." + zone.name)]
    if not owners:
        return None
    zone = max(owners, key=lambda candidate: len(candidate.name))
    here = [record for record in zone.records if record.name == name]
    exists = bool(here) or name == zone.name or any(record.name.endswith("." + name) for record in zone.records)
    if not exists:
        wildcard = _wildcard(zone, name)
        here = [Record(name, record.rdtype, record.ttl, record.value) for record in wildcard]
        exists = bool(here)
    records = tuple(record for record in here if record.rdtype in (rdtype, "CNAME") or rdtype == "ANY")
    return Answer(zone.name, exists, records)


def _wildcard(zone: Zone, name: str) -> list[Record]:
    """Return the records of the closest wildcard above a name that does not exist itself."""
    labels = name.split(".")
    for start in range(1, len(labels)):
        parent = ".".join(labels[start:])
        found = [record for record in zone.records if record.name == f"*.{parent}"]
        if found or parent == zone.name:
            return found
    return []


def internal_suffix(region: str) -> str:
    """Return the domain of the names that AWS gives to private addresses in a region."""
    return "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"


def internal_answer(name: str, rdtype: str, region: str, cidr: str) -> Answer | None:
    """Answer the names AWS gives to private addresses, both ways; None for any other name.

    ``ip-10-0-0-5.eu-west-1.compute.internal`` has the address 10.0.0.5 if that lies in the VPC.
    """
    suffix = internal_suffix(region)
    network = ipaddress.ip_network(cidr, strict=False)
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.in-addr\.arpa", name)
    if match:
        address = _address(".".join(reversed(match.groups())))
        if address is None or address not in network:
            return None
        value = f"ip-{str(address).replace('.', '-')}.{suffix}."
        records = (Record(name, "PTR", INTERNAL_TTL, value),) if rdtype in ("PTR", "ANY") else ()
        return Answer(name, True, records)
    if name != suffix and not name.endswith("." + suffix):
        return None
    match = re.fullmatch(r"ip-(\d{1,3})-(\d{1,3})-(\d{1,3})-(\d{1,3})", name.removesuffix("." + suffix))
    address = _address(".".join(match.groups())) if match else None
    if address is None or address not in network:
        return Answer(suffix, name == suffix)
    records = (Record(name, "A", INTERNAL_TTL, str(address)),) if rdtype in ("A", "ANY") else ()
    return Answer(suffix, True, records)


def _address(text: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None


def machine_resolvers(text: str) -> list[str]:
    """Return the name servers of a resolv.conf text."""
    found = re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)
    return [address for address in found if _is_address(address)]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def respond(query: dns.message.Message, lookup: Lookup) -> dns.message.Message | None:
    """Return the answer to a query from our own zones, or None when it has to be forwarded.

    An alias is followed as far as our zones go; where it leads out, the caller completes the answer (`open_end`).
    """
    if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        refused = dns.message.make_response(query, recursion_available=True)
        refused.set_rcode(dns.rcode.NOTIMP)
        return refused
    question = query.question[0]
    rdtype = dns.rdatatype.to_text(question.rdtype)
    name = _plain(question.name)
    answer = lookup(name, rdtype)
    if answer is None:
        return None
    response = dns.message.make_response(query, recursion_available=True)
    response.flags |= dns.flags.AA
    for _ in range(MAX_CHAIN):
        for rrset in _rrsets(answer.records):
            response.answer.append(rrset)
        target = _alias(answer.records, name, rdtype)
        if target is None:
            break
        following = lookup(target, rdtype)
        if following is None:
            return response
        name, answer = target, following
    if not answer.exists:
        response.set_rcode(dns.rcode.NXDOMAIN)
    if not answer.records:
        response.authority.append(_soa(answer.zone))
    return response


def open_end(response: dns.message.Message) -> str | None:
    """Return the name outside our zones at which an answer's chain of aliases ends, if it does."""
    if not response.question or response.authority or not response.answer:
        return None
    wanted, last = response.question[0].rdtype, response.answer[-1]
    if last.rdtype != dns.rdatatype.CNAME or wanted in (dns.rdatatype.CNAME, dns.rdatatype.ANY):
        return None
    return str(last[0]).rstrip(".")


def _plain(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _alias(records: Sequence[Record], name: str, rdtype: str) -> str | None:
    if rdtype in ("CNAME", "ANY"):
        return None
    targets = [record.value for record in records if record.name == name and record.rdtype == "CNAME"]
    return targets[0].rstrip(".").lower() if targets else None


def _rrsets(records: Sequence[Record]) -> Iterator[dns.rrset.RRset]:
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        grouped.setdefault((record.name, record.rdtype), []).append(record)
    for (name, rdtype), group in grouped.items():
        ttl = min(record.ttl for record in group)
        yield dns.rrset.from_text(name + ".", ttl, "IN", rdtype, *(record.value for record in group))


def _soa(zone: str) -> dns.rrset.RRset:
    # How long "there is no such name" may be believed; short, because a rehearsal makes names all the time.
    text = f"ns-0.awsdns-00.com. awsdns-hostmaster.amazon.com. 1 7200 900 1209600 {NEGATIVE_TTL}"
    return dns.rrset.from_text(zone + ".", NEGATIVE_TTL, "IN", "SOA", text)


def forward(
    wire: bytes, upstreams: Sequence[str], *, tcp: bool, timeout: float = UPSTREAM_TIMEOUT, port: int = 53
) -> bytes | None:
    """Send a query on as it is and return the answer as it is; None when no upstream answers.

    Args:
        wire: the query's message.
        upstreams: addresses, asked in order.
        tcp: ask over TCP, as the client did.
        timeout: seconds for each of them.
        port: their port.
    """
    for address in upstreams:
        try:
            answer = _ask_tcp(wire, address, port, timeout) if tcp else _ask_udp(wire, address, port, timeout)
        except OSError as error:
            LOG.info("resolver %s: %s", address, error)
            continue
        if answer is not None:
            return answer
    return None


def _ask_udp(wire: bytes, address: str, port: int, timeout: float) -> bytes | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        link.settimeout(timeout)
        # Connected: the kernel drops what others send.
        link.connect((address, port))
        link.send(wire)
        answer = link.recv(65535)
    return answer if answer[:2] == wire[:2] else None


def _ask_tcp(wire: bytes, address: str, port: int, timeout: float) -> bytes | None:
    with socket.create_connection((address, port), timeout) as link:
        link.sendall(struct.pack("!H", len(wire)) + wire)
        header = _read(link, 2)
        return _read(link, struct.unpack("!H", header)[0]) if header else None


def _read(link: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes, or none at all when the other side ends before."""
    data = b""
    while len(data) < size:
        chunk = link.recv(size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


def vpc_lookup(
    zones: Callable[[], Sequence[Zone]], region: str, cidr: str, outside: Lookup = lambda _name, _rdtype: None
) -> Lookup:
    """Return the lookup of a VPC: its private zones as they are at each query, then the names of private addresses.

    `outside` is asked last; where it too says None, the query is handed on.
    """

    def lookup(name: str, rdtype: str) -> Answer | None:
        own = answer_from_zones(zones(), name, rdtype) or internal_answer(name, rdtype, region, cidr)
        return own or outside(name, rdtype)

    return lookup


class Server:
    """A DNS server on UDP and TCP at one address.

    Args:
        address: address to bind, usually that of the VPC's resolver on the machine's side of the hosts' network.
        port: 0 for any free one; `port` then says which.
        lookup: asked first, for every query.
        upstreams: resolvers for everything else; those of /etc/resolv.conf when not given.
        upstream_port: their port.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        address: str,
        port: int,
        lookup: Lookup,
        *,
        upstreams: Sequence[str] | None = None,
        upstream_port: int = 53,
    ) -> None:
        self._lookup = lookup
        self._upstreams = upstreams
        self._upstream_port = upstream_port
        self._servers = _bind_both(address, port, self)
        self.port: int = self._servers[0].server_address[1]
        self._threads = [
            threading.Thread(target=server.serve_forever, name=f"resolver-{index}", daemon=True, args=(0.2,))
            for index, server in enumerate(self._servers)
        ]

    def start(self) -> None:
        """Begin to answer, in threads of its own."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop answering and free the address."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def answer(self, wire: bytes, *, tcp: bool) -> bytes | None:
        """Return the answer to a message, or None for one that deserves none."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return _format_error(wire)
        if query.flags & dns.flags.QR:
            return None
        try:
            response = respond(query, self._lookup)
            if response is None:
                return self._forward(wire, tcp) or _failure(query)
            target = open_end(response)
            if target is not None:
                self._complete(response, target)
        except Silent:
            return None
        except Exception:
            # Whatever a lookup meets must not take the resolver away from every other host.
            LOG.exception("resolver: %s", query.question)
            return _failure(query)
        return _to_wire(response, query, tcp=tcp)

    def _forward(self, wire: bytes, tcp: bool) -> bytes | None:
        upstreams = self._upstreams
        if upstreams is None:
            # Read each time: a laptop's resolvers change with its network.
            upstreams = machine_resolvers(Path("/etc/resolv.conf").read_text(encoding="utf-8"))
        return forward(wire, upstreams, tcp=tcp, port=self._upstream_port)

    def _complete(self, response: dns.message.Message, target: str) -> None:
        """Add what the outside says about the name an alias leads to."""
        query = dns.message.make_query(target + ".", response.question[0].rdtype)
        wire = self._forward(query.to_wire(), tcp=False)
        if wire is None:
            response.set_rcode(dns.rcode.SERVFAIL)
            return
        outside = dns.message.from_wire(wire)
        response.answer.extend(outside.answer)
        response.set_rcode(outside.rcode())


def _format_error(wire: bytes) -> bytes | None:
    """Return "format error" for a message that cannot be read, if at least its id can be."""
    if len(wire) < 12:
        return None
    return wire[:2] + struct.pack("!HHHHH", dns.flags.QR | dns.rcode.FORMERR, 0, 0, 0, 0)


def _failure(query: dns.message.Message) -> bytes:
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(dns.rcode.SERVFAIL)
    return response.to_wire()


def _to_wire(response: dns.message.Message, query: dns.message.Message, *, tcp: bool) -> bytes:
    limit = 65535 if tcp else min(query.payload or 512, MAX_UDP) if query.edns >= 0 else 512
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        # The client asks again over TCP.
        short = dns.message.make_response(query, recursion_available=True)
        short.flags |= dns.flags.TC | dns.flags.AA
        return short.to_wire()


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True
    max_packet_size = 65535
    resolver: Server


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    resolver: Server


class _UdpHandler(socketserver.BaseRequestHandler):
    server: _Udp

    def handle(self) -> None:
        wire, link = self.request
        answer = self.server.resolver.answer(wire, tcp=False)
        if answer is not None:
            link.sendto(answer, self.client_address)


class _TcpHandler(socketserver.BaseRequestHandler):
    server: _Tcp

    def handle(self) -> None:
        self.request.settimeout(10)
        try:
            while header := _read(self.request, 2):
                answer = self.server.resolver.answer(_read(self.request, struct.unpack("!H", header)[0]), tcp=True)
                if answer is None:
                    return
                self.request.sendall(struct.pack("!H", len(answer)) + answer)
        except OSError as error:
            LOG.debug("resolver: %s went away: %s", self.client_address[0], error)


def _bind_both(address: str, port: int, resolver: Server) -> tuple[_Udp, _Tcp]:
    """Bind the same port for UDP and TCP; with port 0 a few tries, because a free one for UDP may be taken for TCP."""
    for attempt in range(20):
        udp = _Udp((address, port), _UdpHandler)
        try:
            tcp = _Tcp((address, udp.server_address[1]), _TcpHandler)
        except OSError:
            udp.server_close()
            if port != 0 or attempt == 19:
                raise
            continue
        udp.resolver = tcp.resolver = resolver
        return udp, tcp
    raise OSError("no port is free for both UDP and TCP")
