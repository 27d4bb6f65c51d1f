"""The VPC's resolver over real sockets: our zones, instance names, and everything else handed on."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from dev.ports import Port
from sandbox.resolver import (
    Answer,
    Record,
    Server,
    Silent,
    Zone,
    answer_from_zones,
    internal_answer,
    machine_resolvers,
    vpc_lookup,
)

REGION, CIDR = "eu-west-1", "10.0.0.0/16"
ZONES = [
    Zone(
        "stg.internal",
        (
            Record("redis.stg.internal", "A", 15, "10.0.0.5"),
            Record("many.stg.internal", "A", 30, "10.0.0.6"),
            Record("many.stg.internal", "A", 30, "10.0.0.7"),
            Record("alias.stg.internal", "CNAME", 60, "redis.stg.internal."),
            Record("outside.stg.internal", "CNAME", 60, "www.example.org."),
            Record("dead.stg.internal", "CNAME", 60, "nobody.stg.internal."),
            Record("ring.stg.internal", "CNAME", 60, "ring.stg.internal."),
            Record("deep.below.stg.internal", "A", 15, "10.0.0.8"),
            Record("*.wild.stg.internal", "A", 15, "10.0.0.9"),
            Record("text.stg.internal", "TXT", 15, '"v=1 with spaces"'),
            *(Record("big.stg.internal", "TXT", 15, f'"{index:03d}{"x" * 200}"') for index in range(20)),
        ),
    ),
    Zone("app.stg.internal", (Record("web.app.stg.internal", "A", 15, "10.0.1.5"),)),
]


def outside(name: str, rdtype: str) -> Answer | None:
    """A lookup that plays the machine's own resolver: everything is its own."""
    if name == "www.example.org":
        return Answer("example.org", True, (Record(name, "A", 99, "192.0.2.80"),) if rdtype == "A" else ())
    return Answer("example.org", False)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    upstream = Server("127.0.0.1", 0, outside, upstreams=[])
    resolver = Server(
        "127.0.0.1",
        0,
        vpc_lookup(lambda: ZONES, REGION, CIDR),
        upstreams=["127.0.0.1"],
        upstream_port=upstream.port,
    )
    upstream.start()
    resolver.start()
    yield resolver
    resolver.stop()
    upstream.stop()


def ask(server: Server, name: str, rdtype: str = "A", *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(query, "127.0.0.1", port=server.port, timeout=5)


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    """A port where nobody answers, over TCP or UDP, and which nobody else is given meanwhile."""
    while True:
        held = Port()  # nobody listens
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            try:
                mute.bind(("127.0.0.1", held))
            except OSError:
                continue  # somebody else's over UDP
            # Connected to itself it takes packets from itself alone: whoever else sends one is refused at once.
            mute.connect(("127.0.0.1", held))
            yield held
            return


def values(message: dns.message.Message) -> list[str]:
    return sorted(str(item) for rrset in message.answer for item in rrset)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("redis.stg.internal", "A", ["10.0.0.5"]),
        ("REDIS.Stg.Internal", "A", ["10.0.0.5"]),
        ("many.stg.internal", "A", ["10.0.0.6", "10.0.0.7"]),
        ("alias.stg.internal", "A", ["10.0.0.5", "redis.stg.internal."]),
        ("alias.stg.internal", "CNAME", ["redis.stg.internal."]),
        ("any.wild.stg.internal", "A", ["10.0.0.9"]),
        ("a.b.wild.stg.internal", "A", ["10.0.0.9"]),
        ("text.stg.internal", "TXT", ['"v=1 with spaces"']),
        ("web.app.stg.internal", "A", ["10.0.1.5"]),
        ("ip-10-0-3-4.eu-west-1.compute.internal", "A", ["10.0.3.4"]),
        ("4.3.0.10.in-addr.arpa", "PTR", ["ip-10-0-3-4.eu-west-1.compute.internal."]),
        ("www.example.org", "A", ["192.0.2.80"]),
        ("outside.stg.internal", "A", ["192.0.2.80", "www.example.org."]),
    ],
)
def test_names_that_are_there(server: Server, name: str, rdtype: str, expected: list[str], tcp: bool) -> None:
    message = ask(server, name, rdtype, tcp=tcp)
    assert message.rcode() == dns.rcode.NOERROR
    assert values(message) == expected


def test_our_answers_have_authority_and_ttl(server: Server) -> None:
    message = ask(server, "redis.stg.internal")
    assert message.flags & dns.flags.AA
    assert message.flags & dns.flags.RA
    assert message.answer[0].ttl == 15


@pytest.mark.parametrize(
    "name",
    [
        "nobody.stg.internal",
        "dead.stg.internal",
        "redis.app.stg.internal",  # the more specific zone is the only one asked
        "ip-10-1-0-4.eu-west-1.compute.internal",  # not in this VPC
        "ip-10-0-0-999.eu-west-1.compute.internal",
        "nobody.example.org",
    ],
)
def test_names_that_are_not(server: Server, name: str) -> None:
    message = ask(server, name)
    assert message.rcode() == dns.rcode.NXDOMAIN
    assert message.authority
    assert message.authority[0].ttl <= 5


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        ("redis.stg.internal", "AAAA"),
        ("stg.internal", "A"),
        ("below.stg.internal", "A"),  # only something below it exists
        ("www.example.org", "AAAA"),
        ("ip-10-0-3-4.eu-west-1.compute.internal", "AAAA"),
    ],
)
def test_names_without_such_a_record(server: Server, name: str, rdtype: str) -> None:
    message = ask(server, name, rdtype)
    assert message.rcode() == dns.rcode.NOERROR
    assert not message.answer
    assert message.authority


def test_an_alias_of_itself_ends(server: Server) -> None:
    assert "ring.stg.internal." in values(ask(server, "ring.stg.internal"))


def test_a_long_answer_is_cut_for_udp_and_whole_for_tcp(server: Server) -> None:
    short = ask(server, "big.stg.internal", "TXT")
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert len(values(ask(server, "big.stg.internal", "TXT", tcp=True))) == 20


def test_several_questions_over_one_connection(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as link:
        for _ in range(3):
            wire = dns.message.make_query("redis.stg.internal", "A").to_wire()
            link.sendall(struct.pack("!H", len(wire)) + wire)
            size = struct.unpack("!H", link.recv(2, socket.MSG_WAITALL))[0]
            assert values(dns.message.from_wire(link.recv(size, socket.MSG_WAITALL))) == ["10.0.0.5"]


def test_garbage_gets_a_format_error_and_does_no_harm(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(5)
        link.connect(("127.0.0.1", server.port))
        link.send(b"short")
        link.send(b"\x12\x34" + b"\xff" * 30)
        # What has the "answer" bit set is never answered; this one cannot be read at all.
        link.send(b"\x12\x35\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x3fabc")
        reply = link.recv(512)
    assert reply[:2] in (b"\x12\x34", b"\x12\x35")
    assert reply[3] & 0x0F == dns.rcode.FORMERR
    assert values(ask(server, "redis.stg.internal")) == ["10.0.0.5"]


def test_no_upstream_is_a_server_failure() -> None:
    with nobody() as closed:
        server = Server("127.0.0.1", 0, lambda _name, _type: None, upstreams=["127.0.0.1"], upstream_port=closed)
        server.start()
        try:
            assert ask(server, "www.example.org").rcode() == dns.rcode.SERVFAIL
            assert ask(server, "www.example.org", tcp=True).rcode() == dns.rcode.SERVFAIL
        finally:
            server.stop()


def test_where_nobody_answers_there_is_silence() -> None:
    def lookup(name: str, rdtype: str) -> Answer | None:
        raise Silent

    server = Server("127.0.0.1", 0, lookup, upstreams=[])
    wire = dns.message.make_query("redis.stg.internal", "A").to_wire()
    try:
        assert server.answer(wire, tcp=False) is None
    finally:
        for one in server._servers:
            one.server_close()


def test_a_failing_lookup_is_a_server_failure_and_no_more() -> None:
    def lookup(name: str, rdtype: str) -> Answer | None:
        if name == "bad.internal":
            raise KeyError(name)
        return Answer("internal", True, (Record(name, "A", 5, "10.0.0.1"),))

    server = Server("127.0.0.1", 0, lookup, upstreams=[])
    server.start()
    try:
        assert ask(server, "bad.internal").rcode() == dns.rcode.SERVFAIL
        assert values(ask(server, "good.internal")) == ["10.0.0.1"]
    finally:
        server.stop()


def test_stopping_frees_the_address() -> None:
    first = Server("127.0.0.1", 0, lambda _name, _type: None, upstreams=[])
    first.start()
    first.stop()
    second = Server("127.0.0.1", first.port, lambda _name, _type: None, upstreams=[])
    second.start()
    second.stop()


def test_zones_outside_are_not_ours() -> None:
    assert answer_from_zones(ZONES, "example.org", "A") is None
    assert answer_from_zones(ZONES, "xstg.internal", "A") is None
    assert answer_from_zones([], "stg.internal", "A") is None


def test_the_first_region_has_its_own_suffix() -> None:
    found = internal_answer("ip-10-0-0-4.ec2.internal", "A", "us-east-1", CIDR)
    assert found is not None
    assert found.records[0].value == "10.0.0.4"
    assert internal_answer("ip-10-0-0-4.us-east-1.compute.internal", "A", "us-east-1", CIDR) is None
    assert internal_answer("1.1.1.192.in-addr.arpa", "PTR", "us-east-1", CIDR) is None


def test_resolv_conf() -> None:
    text = "# nameserver 1.1.1.1\nsearch x\nnameserver 127.0.0.53\n nameserver fe80::1%eth0\nnameserver junk\n"
    assert machine_resolvers(text) == ["127.0.0.53", "fe80::1%eth0"]
