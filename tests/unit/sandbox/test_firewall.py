"""Security groups become exactly the packet filter that AWS describes."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.firewall import Group, Rule, rules

VPC = "10.0.0.0/16"


def chain(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"-A {name} ")]


def ingress(*entries: Rule, members: dict[str, list[str]] | None = None) -> list[str]:
    """What the entries add to the incoming chain, without the fixed first and last rules."""
    text = rules([Group("sg-1", tuple(entries))], members or {}, vpc_cidr=VPC)
    return [
        line.removeprefix("-A SPOTCACHE-IN").removesuffix(" -j RETURN") for line in chain(text, "SPOTCACHE-IN")[2:-1]
    ]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (Rule("tcp", 6379, 6379, ("10.0.0.0/16",)), [" -s 10.0.0.0/16 -p tcp --dport 6379:6379"]),
        (Rule("tcp", 22, 22, ("0.0.0.0/0",)), [" -p tcp --dport 22:22"]),
        (Rule("udp", 1000, 2000, ("10.0.0.5/32",)), [" -s 10.0.0.5/32 -p udp --dport 1000:2000"]),
        (Rule("tcp", 0, 65535, ("10.0.0.0/8",)), [" -s 10.0.0.0/8 -p tcp"]),
        (Rule("tcp", None, None, ("10.0.0.0/8",)), [" -s 10.0.0.0/8 -p tcp"]),
        (Rule("tcp", -1, -1, ("10.0.0.0/8",)), [" -s 10.0.0.0/8 -p tcp"]),
        (Rule("6", 80, 80, ("10.0.0.0/8",)), [" -s 10.0.0.0/8 -p tcp --dport 80:80"]),
        (Rule("-1", None, None, ("10.0.0.0/8",)), [" -s 10.0.0.0/8"]),
        (Rule("-1", 5, 6, ("0.0.0.0/0",)), [""]),
        (Rule("icmp", 8, -1, ("0.0.0.0/0",)), [" -p icmp --icmp-type 8"]),
        (Rule("icmp", 3, 4, ("0.0.0.0/0",)), [" -p icmp --icmp-type 3/4"]),
        (Rule("icmp", -1, -1, ("0.0.0.0/0",)), [" -p icmp"]),
        (Rule("47", None, None, ("10.1.0.0/16",)), [" -s 10.1.0.0/16 -p 47"]),
        # A host part that EC2 would cut off as well.
        (Rule("tcp", 80, 80, ("10.0.0.7/16",)), [" -s 10.0.0.0/16 -p tcp --dport 80:80"]),
        # Nothing of IPv6 can reach a host that has no such address.
        (Rule("tcp", 80, 80, ("::/0",)), []),
        (Rule("icmpv6", -1, -1, ("0.0.0.0/0",)), []),
    ],
)
def test_one_permission(entry: Rule, expected: list[str]) -> None:
    assert ingress(entry) == expected


def test_a_group_means_its_members_addresses() -> None:
    entry = Rule("tcp", 6379, 6379, (), ("sg-app", "sg-empty", "sg-unknown"))
    assert ingress(entry, members={"sg-app": ["10.0.1.9", "10.0.0.4"], "sg-empty": []}) == [
        " -s 10.0.0.4/32 -p tcp --dport 6379:6379",
        " -s 10.0.1.9/32 -p tcp --dport 6379:6379",
    ]


def test_several_groups_add_up_and_repeat_nothing() -> None:
    first = Group("sg-1", (Rule("tcp", 22, 22, ("10.0.0.0/16",)),))
    second = Group("sg-2", (Rule("tcp", 22, 22, ("10.0.0.0/16",)), Rule("tcp", 6379, 6379, ("10.0.0.0/16",))))
    assert len(chain(rules([first, second], {}, vpc_cidr=VPC), "SPOTCACHE-IN")) == 2 + 2 + 1
    assert rules([first, second], {}, vpc_cidr=VPC) == rules([second, first], {}, vpc_cidr=VPC)


def test_nothing_passes_without_a_permission() -> None:
    text = rules([], {}, vpc_cidr=VPC)
    incoming = chain(text, "SPOTCACHE-IN")
    assert incoming[0].endswith("--ctstate RELATED,ESTABLISHED -j RETURN")
    assert incoming[-1] == "-A SPOTCACHE-IN -j DROP"
    assert len(incoming) == 3  # answers, DHCP, nothing else


def test_what_aws_never_filters_may_leave() -> None:
    outgoing = "\n".join(chain(rules([Group("sg-1")], {}, vpc_cidr=VPC), "SPOTCACHE-OUT"))
    for allowed in (
        "-d 169.254.169.254/32 -p tcp --dport 80 -j RETURN",
        "-d 169.254.169.253/32 -p udp --dport 53 -j RETURN",
        "-d 169.254.169.253/32 -p tcp --dport 53 -j RETURN",
        "-d 10.0.0.2/32 -p udp --dport 53 -j RETURN",
        "-d 10.0.0.2/32 -p tcp --dport 53 -j RETURN",
        "-d 169.254.169.123/32 -p udp --dport 123 -j RETURN",
        "-p udp --sport 68 --dport 67 -j RETURN",
    ):
        assert allowed in outgoing
    assert outgoing.endswith("-A SPOTCACHE-OUT -j DROP")


def test_egress_matches_destinations() -> None:
    group = Group("sg-1", egress=(Rule("tcp", 443, 443, ("10.9.0.0/24",), ("sg-2",)),))
    outgoing = chain(rules([group], {"sg-2": ["10.0.0.8"]}, vpc_cidr=VPC), "SPOTCACHE-OUT")
    assert "-A SPOTCACHE-OUT -d 10.0.0.8/32 -p tcp --dport 443:443 -j RETURN" in outgoing
    assert "-A SPOTCACHE-OUT -d 10.9.0.0/24 -p tcp --dport 443:443 -j RETURN" in outgoing


@pytest.mark.parametrize(
    "entry",
    [
        Rule("tcp", 80, 70, ("0.0.0.0/0",)),
        Rule("tcp", 1, 65536, ("0.0.0.0/0",)),
        Rule("tcp", 80, 80, ("10.0.0.0/33",)),
        Rule("tcp", 80, 80, ("; reboot",)),
        Rule("sctp -j ACCEPT", None, None, ("0.0.0.0/0",)),
        Rule("256", None, None, ("0.0.0.0/0",)),
    ],
)
def test_nonsense_is_refused(entry: Rule) -> None:
    with pytest.raises(ValueError, match=r"security group|does not appear"):
        rules([Group("sg-1", (entry,))], {}, vpc_cidr=VPC)


addresses = st.ip_addresses(v=4).map(str)
networks = st.builds(
    lambda address, prefix: str(ipaddress.ip_network(f"{address}/{prefix}", strict=False)),
    addresses,
    st.integers(0, 32),
)
ports = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted)


@given(st.lists(st.tuples(st.sampled_from(["tcp", "udp"]), ports, st.lists(networks, max_size=3)), max_size=6))
def test_every_rule_is_narrower_than_its_permission(entries: list[tuple[str, list[int], list[str]]]) -> None:
    group = Group("sg-1", tuple(Rule(name, low, high, tuple(cidrs)) for name, (low, high), cidrs in entries))
    text = rules([group], {}, vpc_cidr=VPC)
    added = chain(text, "SPOTCACHE-IN")[2:-1]
    wanted = {(name, low, high, cidr) for name, (low, high), cidrs in entries for cidr in cidrs}
    assert len(added) <= len(wanted)
    assert bool(added) == bool(wanted)
    # One table, committed once, both chains closed at the end.
    assert text.splitlines()[0] == "*mangle"
    assert text.count("COMMIT") == 1
    assert text.count("-j DROP") == 2


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (Rule("tcp", 443, 443, ("::/0",)), [" -p tcp --dport 443:443"]),
        (Rule("tcp", 22, 22, ("2001:db8:1::/48", "10.0.0.0/8")), [" -s 2001:db8:1::/48 -p tcp --dport 22:22"]),
        (Rule("icmpv6", 128, -1, ("::/0",)), [" -p icmpv6 --icmpv6-type 128"]),
        (Rule("58", None, None, ("::/0",)), [" -p icmpv6"]),
        (Rule("-1", None, None, ("::/0",)), [""]),
        # Nothing of IPv4 comes in this way, and everybody there is nobody here.
        (Rule("-1", None, None, ("0.0.0.0/0",)), []),
        (Rule("icmp", -1, -1, ("::/0",)), []),
        (Rule("tcp", 6379, 6379, (), ("sg-app",)), [" -s 2001:db8::9/128 -p tcp --dport 6379:6379"]),
    ],
)
def test_one_permission_for_ipv6(entry: Rule, expected: list[str]) -> None:
    members = {"sg-app": ["10.0.1.9", "2001:db8::9"]}
    text = rules([Group("sg-1", (entry,))], members, vpc_cidr=VPC, version=6)
    allowed = [line for line in chain(text, "SPOTCACHE-IN")[1:-1] if "icmpv6-type 13" not in line]
    assert [line.removeprefix("-A SPOTCACHE-IN").removesuffix(" -j RETURN") for line in allowed] == expected
    assert chain(text, "SPOTCACHE-IN")[-1] == "-A SPOTCACHE-IN -j DROP"


def test_neighbours_find_each_other_whatever_a_group_says() -> None:
    text = rules([], {}, vpc_cidr=VPC, version=6)
    for name in ("SPOTCACHE-IN", "SPOTCACHE-OUT"):
        assert [line.split("--icmpv6-type ")[1][:3] for line in chain(text, name)[1:-1]] == [
            "133",
            "134",
            "135",
            "136",
            "137",
        ]
    assert "169.254" not in text
