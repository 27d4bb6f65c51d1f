"""What a host of the sandbox finds outside of its VPC: names, ways, filters, certificates."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.ec2.models import ec2_backends
from moto.route53.models import route53_backends

from sandbox import names, vpc, zones
from sandbox.authority import Authority
from sandbox.front import Front, Mirrors, proxies
from sandbox.image import AptSource
from sandbox.routes import Guest, Route, Ways, filter_4, filter_6, target, ways

REGION = "ap-northeast-1"
LOCAL = [Route("10.0.0.0/16", "local"), Route("2001:db8:4d00::/56", "local")]
S3 = Route(names.S3_NETWORK, "vpce-1")


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("ec2.ap-northeast-1.amazonaws.com", "A"),
        ("ec2.ap-northeast-1.api.aws", "A AAAA"),
        ("ssm.ap-northeast-1.amazonaws.com", "A"),
        ("autoscaling.ap-northeast-1.api.aws", "A AAAA"),
        ("route53.amazonaws.com", "A"),
        ("route53.global.api.aws", "A AAAA"),
        ("sns.ap-northeast-1.amazonaws.com", "A AAAA"),
        ("s3.ap-northeast-1.amazonaws.com", "A"),
        ("bucket.s3.ap-northeast-1.amazonaws.com", "A"),
        ("s3.dualstack.ap-northeast-1.amazonaws.com", "A AAAA"),
        ("bucket.s3.dualstack.ap-northeast-1.amazonaws.com", "A AAAA"),
        ("deb.debian.org", "A AAAA"),
        ("route53.ap-northeast-1.amazonaws.com", ""),
        ("ec2.eu-west-1.amazonaws.com", ""),
        ("nobody.ap-northeast-1.api.aws", ""),
        ("www.example.org", ""),
    ],
)
def test_a_name_has_the_addresses_that_aws_publishes(front: Front, name: str, kinds: str) -> None:
    found = {kind: front.answer(name, kind) for kind in ("A", "AAAA")}
    assert " ".join(kind for kind, answer in found.items() if answer.records) == kinds
    assert all(answer.exists == bool(kinds) for answer in found.values())


def test_s3_stands_apart_and_nothing_has_an_address_that_is_somebodys() -> None:
    for name, service in names.table(REGION).items():
        four, six = ipaddress.ip_address(service.ipv4_address), service.ipv6_address
        assert (four in ipaddress.ip_network(names.S3_NETWORK)) == (service.service == "s3"), name
        assert not six or ipaddress.ip_address(six) in ipaddress.ip_network(names.PUBLIC_NETWORK_6)
    assert len(names.table(REGION)) > 500


# -- ways ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "public", "ipv6", "expected"),
    [
        ([], False, True, Ways()),
        ([S3], False, False, Ways(s3=True)),
        ([Route("::/0", "eigw-1"), S3], False, True, Ways(s3=True, ipv6=True)),
        ([Route("::/0", "eigw-1")], False, False, Ways()),
        ([Route("0.0.0.0/0", "igw-1")], False, False, Ways()),
        ([Route("0.0.0.0/0", "igw-1")], True, False, Ways(s3=True, ipv4=True)),
        ([Route("0.0.0.0/0", "igw-1"), Route("::/0", "igw-1")], False, True, Ways(ipv6=True)),
        ([Route("0.0.0.0/0", "nat-good")], False, False, Ways(s3=True, ipv4=True)),
        ([Route("0.0.0.0/0", "nat-blind")], True, False, Ways()),
        ([Route("0.0.0.0/0", "igw-1"), Route(names.PUBLIC_NETWORK, "eni-1")], True, False, Ways(s3=True)),
        ([Route("0.0.0.0/0", "vgw-1")], True, False, Ways()),
    ],
)
def test_a_route_table_gives_ways(routes: list[Route], public: bool, ipv6: bool, expected: Ways) -> None:
    found = ways([*LOCAL, *routes], public_ipv4=public, has_ipv6=ipv6, nat_works=lambda gateway: gateway == "nat-good")
    assert found == expected


@pytest.mark.parametrize(("kind", "works"), [({}, True), ({"ConnectivityType": "private"}, False)])
def test_motos_records_are_followed(monkeypatch: pytest.MonkeyPatch, kind: dict[str, str], works: bool) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        ec2 = boto3.client("ec2", region_name=REGION, **keys)
        one = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        public, private, alone = (
            ec2.create_subnet(VpcId=one, CidrBlock=f"10.9.{third}.0/24")["Subnet"]["SubnetId"] for third in range(3)
        )
        internet = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=internet, VpcId=one)
        address = {} if kind else {"AllocationId": ec2.allocate_address(Domain="vpc")["AllocationId"]}
        nat = ec2.create_nat_gateway(SubnetId=public, **address, **kind)["NatGateway"]["NatGatewayId"]
        for subnet, way in ((public, {"GatewayId": internet}), (private, {"NatGatewayId": nat})):
            table = ec2.create_route_table(VpcId=one)["RouteTable"]["RouteTableId"]
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
            ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **way)
        main = ec2.describe_route_tables(Filters=[{"Name": "association.main", "Values": ["true"]}])["RouteTables"]
        [table] = [found["RouteTableId"] for found in main if found["VpcId"] == one]
        ec2.create_vpc_endpoint(
            VpcId=one, VpcEndpointType="Gateway", ServiceName=f"com.amazonaws.{REGION}.s3", RouteTableIds=[table]
        )
        records = ec2_backends["123456789012"][REGION]
        found = {
            name: vpc.Vpcs(records).ways(records.get_subnet(subnet), public_ipv4=False, has_ipv6=True)
            for name, subnet in (("public", public), ("private", private), ("alone", alone))
        }
    assert found == {"public": Ways(), "private": Ways(s3=works, ipv4=works), "alone": Ways(s3=True)}


def test_a_route_to_a_gateway_that_is_not_attached_leads_nowhere() -> None:
    with mock_aws():
        ec2 = boto3.client("ec2", region_name=REGION, aws_access_key_id="testing", aws_secret_access_key="testing")
        one = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=one, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=one)
        main = [{"Name": "vpc-id", "Values": [one]}, {"Name": "association.main", "Values": ["true"]}]
        [table] = ec2.describe_route_tables(Filters=main)["RouteTables"]
        outward = ec2.create_egress_only_internet_gateway(VpcId=one)["EgressOnlyInternetGateway"]
        outward = outward["EgressOnlyInternetGatewayId"]
        for way in (
            {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway},
            {"DestinationIpv6CidrBlock": "::/0", "EgressOnlyInternetGatewayId": outward},
        ):
            ec2.create_route(RouteTableId=table["RouteTableId"], **way)
        records = ec2_backends["123456789012"][REGION]

        def reached() -> Ways:
            return vpc.Vpcs(records).ways(records.get_subnet(subnet), public_ipv4=True, has_ipv6=True)

        assert reached() == Ways(s3=True, ipv4=True, ipv6=True)
        ec2.delete_egress_only_internet_gateway(EgressOnlyInternetGatewayId=outward)
        assert reached() == Ways(s3=True, ipv4=True)
        ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=one)
        assert reached() == Ways()
        other = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=other)
        assert reached() == Ways()


def test_a_private_zone_answers_only_in_its_vpcs_and_only_with_both_dns_attributes() -> None:
    with mock_aws():
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        ec2, dns = (boto3.client(service, region_name=REGION, **keys) for service in ("ec2", "route53"))
        own, other = (ec2.create_vpc(CidrBlock=f"10.{n}.0.0/16")["Vpc"]["VpcId"] for n in (8, 9))
        for one in (own, other):
            ec2.modify_vpc_attribute(VpcId=one, EnableDnsHostnames={"Value": True})
        place = {"VPCId": own, "VPCRegion": REGION}
        config = {"PrivateZone": True}
        zone = dns.create_hosted_zone(Name="t.internal", CallerReference="1", VPC=place, HostedZoneConfig=config)
        dns.create_hosted_zone(Name="public.example", CallerReference="2")
        records = ec2_backends["123456789012"][REGION]

        def answered(vpc_id: str) -> list[str]:
            hosted = route53_backends["123456789012"]["aws"].zones.values()
            return [one.name for one in zones.of_vpc(hosted, records.get_vpc(vpc_id), REGION)]

        assert (answered(own), answered(other)) == (["t.internal"], [])
        dns.associate_vpc_with_hosted_zone(
            HostedZoneId=zone["HostedZone"]["Id"], VPC={"VPCId": other, "VPCRegion": REGION}
        )
        assert answered(other) == ["t.internal"]
        for attribute in ("EnableDnsHostnames", "EnableDnsSupport"):
            ec2.modify_vpc_attribute(VpcId=own, **{attribute: {"Value": False}})
            assert answered(own) == []
            ec2.modify_vpc_attribute(VpcId=own, **{attribute: {"Value": True}})
            assert answered(own) == ["t.internal"]


def test_the_most_specific_route_counts() -> None:
    table = [Route("0.0.0.0/0", "igw-1"), Route("203.0.113.0/25", "vgw-1"), Route("203.0.113.0/24", "nat-1")]
    assert target(table, names.MIRROR) == "vgw-1"
    assert target(table, "192.0.2.1") == "igw-1"
    assert target(table, names.MIRROR_6) == ""


def test_the_filter_lets_out_what_the_ways_allow_and_drops_the_rest() -> None:
    guests = [
        Guest("10.0.0.5", ("2001:db8:4d00::5",), Ways(s3=True, ipv6=True)),
        Guest("10.0.0.4", ("2001:db8:4d00::4",), Ways(s3=True, ipv4=True)),
        Guest("10.0.0.6", (), Ways()),
    ]
    four = filter_4("scx", "mark", "10.0.0.0/16", guests).splitlines()
    assert [line for line in four if " -s " in line] == [
        f"-A SPOTCACHE-scx -s 10.0.0.4/32 -d {names.S3_NETWORK} -j RETURN",
        f"-A SPOTCACHE-scx -s 10.0.0.4/32 -d {names.PUBLIC_NETWORK} -j RETURN",
        f"-A SPOTCACHE-scx -s 10.0.0.5/32 -d {names.S3_NETWORK} -j RETURN",
    ]
    # Nothing of this machine itself is open to hosts but the resolver, although it stands inside of the VPC's range.
    machine = next(index for index, line in enumerate(four) if "-d 10.0.0.1/32" in line)
    assert four[machine].endswith("-j DROP")
    assert machine < four.index("-A SPOTCACHE-scx -d 10.0.0.0/16 -j RETURN")
    six = filter_6("scx", "mark", ["2001:db8:4d00::/56"], guests).splitlines()
    assert [line for line in six if " -s " in line] == [
        f"-A SPOTCACHE-scx -s 2001:db8:4d00::5/128 -d {names.PUBLIC_NETWORK_6} -j RETURN"
    ]
    for text in (four, six):
        assert text[-2] == "-A SPOTCACHE-scx -m comment --comment mark -j DROP"
        # Only what this machine began may be answered: a connection of a host's ends with its route.
        assert all("--ctdir REPLY" in line for line in text if "ESTABLISHED" in line)


def test_the_networks_of_two_sandboxes_differ() -> None:
    first, second = vpc.ipv6_networks("10.77.0.0/16"), vpc.ipv6_networks("10.78.0.0/16")
    given = [ipaddress.IPv6Network(make()) for make in (first, first, second)]
    assert all(one.prefixlen == 56 for one in given)
    assert not any(a.overlaps(b) for index, a in enumerate(given) for b in given[index + 1 :])
    services = ipaddress.IPv6Network(names.PUBLIC_NETWORK_6)
    last = ipaddress.IPv6Network(vpc.ipv6_networks("10.254.0.0/16")())
    assert not last.overlaps(services)
    assert not last.overlaps(vpc.GATEWAYS_6)
    assert vpc.gateway_6("vpc-0123456789abcdef0") != vpc.gateway_6("vpc-0123456789abcdef1")


# -- what answers there ----------------------------------------------------------------------------------------------


def echo(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Stands in for moto: says which host was asked for."""
    body = f"{environ['HTTP_HOST']}{environ['PATH_INFO']}".encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture(scope="module")
def upstream() -> Iterable[int]:
    """A mirror on this machine, which says what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"{self.path} {self.headers.get('Range', '')}".strip().encode()
            self.send_response(404 if "missing" in self.path else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("unit")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, upstream: int, authority: Authority) -> Front:
    base = f"http://127.0.0.1:{upstream}"
    sources = [
        AptSource(f"{base}/pool/debian/", ("bookworm", "bookworm-updates"), ("main",)),
        AptSource(f"{base}/pool/sec", ("bookworm-security",), ("main",)),
    ]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return Front(REGION, authority, Mirrors(sources, opener), tmp_path_factory.mktemp("front"), aws=echo)


@pytest.fixture(scope="module")
def ports(front: Front) -> tuple[int, int]:
    return front.listen("127.0.0.1", tls=True), front.listen("127.0.0.1", tls=False)


def ask(port: int, host: str, path: str = "/", **headers: str) -> tuple[int, str]:
    """What a plain HTTP request for a host comes to."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link.request("GET", path, headers={"Host": host, **headers})
    answer = link.getresponse()
    return answer.status, answer.read().decode()


def scope(service: str, region: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential=AKID/20261128/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0"


def test_the_name_that_is_asked_for_decides(ports: tuple[int, int]) -> None:
    ec2 = f"ec2.{REGION}.amazonaws.com"
    assert ask(ports[1], ec2, Authorization=scope("ec2", REGION)) == (200, f"{ec2}/")
    assert ask(ports[1], "www.example.org", Authorization=scope("ec2", REGION))[0] == 421
    assert ask(ports[1], "10.0.0.1", Authorization=scope("ec2", REGION))[0] == 421
    assert ask(ports[1], ec2, "/moto-api/data.json", Authorization=scope("ec2", REGION))[0] == 421
    assert ask(ports[1], ec2)[0] == 403


def test_a_signature_for_the_wrong_region_is_refused(ports: tuple[int, int]) -> None:
    status, text = ask(ports[1], "route53.global.api.aws", Authorization=scope("route53", REGION))
    assert (status, "us-east-1" in text) == (403, True)
    assert ask(ports[1], "route53.global.api.aws", Authorization=scope("route53", "us-east-1"))[0] == 200
    assert ask(ports[1], f"ec2.{REGION}.api.aws", Authorization=scope("ec2", "us-east-1"))[0] == 403


def test_a_mirror_is_this_machines_own(ports: tuple[int, int]) -> None:
    assert ask(ports[1], "deb.debian.org", "/debian/dists/x%2Bb/InRelease") == (
        200,
        "/pool/debian/dists/x%2Bb/InRelease",
    )
    assert ask(ports[1], "security.debian.org", "/debian-security/pool/a.deb", Range="bytes=5-") == (
        200,
        "/pool/sec/pool/a.deb bytes=5-",
    )
    assert ask(ports[1], "deb.debian.org", "/debian/missing")[0] == 404


def test_apts_proxies() -> None:
    dump = (
        'Acquire::http::Proxy "http://cache.example:3142";\nAcquire::https::Proxy "DIRECT";\n'
        'Acquire::http::Proxy::mirror.example "DIRECT";\n'
    )
    assert proxies(dump) == {"http": "http://cache.example:3142"}


def handshake(port: int, name: str, trusted: bytes) -> None:
    context = ssl.create_default_context(cadata=trusted.decode())
    with socket.create_connection(("127.0.0.1", port), 10) as link, context.wrap_socket(link, server_hostname=name):
        pass


@pytest.mark.parametrize(
    "name",
    [
        f"ec2.{REGION}.api.aws",
        f"s3.{REGION}.amazonaws.com",
        f"bucket.s3.{REGION}.amazonaws.com",
        f"bucket.s3.dualstack.{REGION}.amazonaws.com",
        "deb.debian.org",
    ],
)
def test_who_trusts_the_authority_is_shown_a_fitting_certificate(
    ports: tuple[int, int], authority: Authority, name: str
) -> None:
    handshake(ports[0], name, authority.pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(ports[0], name, Authority("other").pem)


def test_no_certificate_for_what_is_not_there(ports: tuple[int, int], authority: Authority) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        handshake(ports[0], "www.example.org", authority.pem)
    # As on AWS: the certificate's star stands for one label.
    with pytest.raises(ssl.SSLError):
        handshake(ports[0], f"a.b.s3.{REGION}.amazonaws.com", authority.pem)


def test_a_client_that_says_nothing_keeps_nobody_waiting(ports: tuple[int, int], authority: Authority) -> None:
    with socket.create_connection(("127.0.0.1", ports[0]), 10):
        handshake(ports[0], f"ec2.{REGION}.api.aws", authority.pem)


def test_no_key_is_left_behind(front: Front, ports: tuple[int, int], authority: Authority, tmp_path: Path) -> None:
    fresh = Front(REGION, authority, Mirrors([], urllib.request.build_opener()), tmp_path, aws=echo)
    handshake(fresh.listen("127.0.0.1", tls=True), "deb.debian.org", authority.pem)
    assert list(tmp_path.iterdir()) == []
