"""The metadata service over real sockets, as instances on several addresses of the loopback see it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sandbox import imds
from sandbox.imds import InstanceView, Server, Tokens, dnat_rules, parse_ttl, read_path, resolver_rules

ONE, TWO, UNKNOWN = "127.0.0.11", "127.0.0.12", "127.0.0.13"
LAUNCHED = datetime(2026, 11, 22, 0, 15, 3, tzinfo=UTC)
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"

VIEW = InstanceView(
    instance_id="i-0123456789abcdef0",
    image_id="ami-0aa",
    instance_type="t3.small",
    account_id="123456789012",
    region="eu-west-1",
    zone="eu-west-1b",
    private_ip="10.0.0.5",
    launch_time=LAUNCHED,
    vpc_id="vpc-1",
    vpc_cidr="10.0.0.0/16",
    subnet_id="subnet-1",
    subnet_cidr="10.0.0.0/24",
    zone_id="euw1-az2",
    interface_id="eni-1",
    security_groups=(("sg-1", "host"), ("sg-2", "clients")),
    key_name="operator",
    public_key="ssh-ed25519 AAAA operator",
    user_data=b"#!/bin/sh\n\x00\xff",
    life_cycle="spot",
    tags={"Name": "spotcache-stg", "spotcache:environment": "stg", "a/b": "slash"},
    tags_enabled=True,
    profile_arn="arn:aws:iam::123456789012:instance-profile/p",
    profile_id="AIPA1",
    role_name="host-role",
    credentials=lambda: {"Code": "Success", "AccessKeyId": "ASIA1", "SecretAccessKey": "s3cr3t", "Token": "t0k3n"},
    target_lifecycle_state="InService",
)


class Service:
    """The server, and what it believes about its callers."""

    def __init__(self) -> None:
        self.views: dict[str, InstanceView] = {}
        self.server = Server("127.0.0.1", 0, self.views.get)
        self.reset()

    def reset(self) -> None:
        self.views[ONE] = VIEW
        self.views[TWO] = replace(VIEW, instance_id="i-2", private_ip="10.0.0.6", http_tokens="optional")

    def call(
        self, method: str, path: str, headers: dict[str, str] | None = None, caller: str = ONE
    ) -> tuple[int, bytes, dict[str, str]]:
        link = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5, source_address=(caller, 0))
        try:
            link.request(method, path, headers=headers or {})
            answer = link.getresponse()
            return answer.status, answer.read(), {key.lower(): value for key, value in answer.getheaders()}
        finally:
            link.close()

    def token(self, caller: str = ONE, ttl: str = "60") -> str:
        status, body, headers = self.call("PUT", "/latest/api/token", {TTL: ttl}, caller)
        assert status == 200
        assert headers[TTL.lower()] == ttl
        return body.decode()

    def get(self, path: str, caller: str = ONE) -> str:
        status, body, _ = self.call("GET", path, {TOKEN: self.token(caller)}, caller)
        assert status == 200, (path, body)
        return body.decode()

    def status(self, path: str, caller: str = ONE) -> int:
        return self.call("GET", path, {TOKEN: self.token(caller)}, caller)[0]


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    made = Service()
    made.server.start()
    yield made
    made.server.stop()


@pytest.fixture
def service(running: Service) -> Service:
    running.reset()
    return running


# -- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [None, "", "0", "21601", "-1", "1.5", "abc", "999999999"])
def test_a_token_needs_a_time_to_live_within_six_hours(service: Service, ttl: str | None) -> None:
    status, body, headers = service.call("PUT", "/latest/api/token", {} if ttl is None else {TTL: ttl})
    assert status == 400
    assert b"<title>400 - Bad Request</title>" in body
    assert headers["content-type"] == "text/html"


@pytest.mark.parametrize("ttl", ["1", "21600"])
def test_the_limits_of_the_time_to_live(service: Service, ttl: str) -> None:
    assert service.token(ttl=ttl)
    assert parse_ttl(ttl) == int(ttl)


def test_without_a_token(service: Service) -> None:
    status, body, _ = service.call("GET", "/latest/meta-data/instance-id")
    assert status == 401
    assert b"401 - Unauthorized" in body
    status, body, _ = service.call("GET", "/latest/meta-data/instance-id", caller=TWO)
    assert (status, body) == (200, b"i-2")


@pytest.mark.parametrize("caller", [ONE, TWO])
def test_a_wrong_token_is_refused_even_where_none_is_needed(service: Service, caller: str) -> None:
    assert service.call("GET", "/latest/meta-data/instance-id", {TOKEN: "AQAE-made-up=="}, caller)[0] == 401
    assert service.call("GET", "/latest/meta-data/instance-id", {TOKEN: ""}, caller)[0] == 401


def test_a_token_is_good_only_in_its_owners_hands(service: Service) -> None:
    token = service.token(ONE)
    assert service.call("GET", "/latest/meta-data/instance-id", {TOKEN: token}, ONE)[0] == 200
    assert service.call("GET", "/latest/meta-data/instance-id", {TOKEN: token}, TWO)[0] == 401


def test_a_token_ends() -> None:
    now = [100.0]
    tokens = Tokens(lambda: now[0])
    token = tokens.issue("i-1", 60)
    assert tokens.remaining("i-1", token) == 60
    now[0] += 59.5
    assert tokens.remaining("i-1", token) == 1
    now[0] += 0.5
    assert tokens.remaining("i-1", token) == 0
    tokens.issue("i-1", 60)
    assert len(tokens._known) == 1


def test_a_forwarded_request_gets_no_token(service: Service) -> None:
    assert service.call("PUT", "/latest/api/token", {TTL: "60", "X-Forwarded-For": "192.0.2.1"})[0] == 403


def test_answers_say_how_long_the_token_is_still_good(service: Service) -> None:
    _, _, headers = service.call("GET", "/latest/meta-data/instance-id", {TOKEN: service.token()})
    assert 58 <= int(headers[TTL.lower()]) <= 60


# -- who may ask what ------------------------------------------------------------------------------------------------


def test_an_unknown_caller_finds_nothing(service: Service) -> None:
    assert service.call("PUT", "/latest/api/token", {TTL: "60"}, UNKNOWN)[0] == 404
    assert service.call("GET", "/latest/meta-data/", caller=UNKNOWN)[0] == 404


def test_a_disabled_endpoint_is_forbidden(service: Service) -> None:
    token = service.token()
    service.views[ONE] = replace(VIEW, http_endpoint="disabled")
    assert service.call("PUT", "/latest/api/token", {TTL: "60"})[0] == 403
    assert service.call("GET", "/latest/meta-data/", {TOKEN: token})[0] == 403


def test_other_methods_and_paths(service: Service) -> None:
    for method in ("POST", "DELETE", "HEAD", "OPTIONS"):
        assert service.call(method, "/latest/meta-data/")[0] == 405
    assert service.call("PUT", "/latest/meta-data/", {TTL: "60"})[0] == 405
    assert service.status("/latest/api/token") == 404


def test_one_connection_carries_many_requests(service: Service) -> None:
    link = http.client.HTTPConnection("127.0.0.1", service.server.port, timeout=5, source_address=(ONE, 0))
    link.request("PUT", "/latest/api/token", body=b"ignored", headers={TTL: "60"})
    token = link.getresponse().read().decode()
    for _ in range(3):
        link.request("GET", "/latest/meta-data/instance-id", headers={TOKEN: token})
        assert link.getresponse().read() == b"i-0123456789abcdef0"
    link.close()


def test_a_token_travels_only_the_hops_allowed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(imds._Handler, "_set_hops", lambda _handler, hops: seen.append(hops))
    token = service.token()
    service.call("GET", "/latest/meta-data/instance-id", {TOKEN: token})
    service.views[ONE] = replace(VIEW, hop_limit=2)
    service.token()
    assert seen == [64, 1, 64, 64, 2]


# -- the tree --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("instance-id", "i-0123456789abcdef0"),
        ("instance-type", "t3.small"),
        ("instance-life-cycle", "spot"),
        ("ami-id", "ami-0aa"),
        ("local-ipv4", "10.0.0.5"),
        ("mac", "02:42:0a:00:00:05"),
        ("hostname", "ip-10-0-0-5.eu-west-1.compute.internal"),
        ("local-hostname", "ip-10-0-0-5.eu-west-1.compute.internal"),
        ("placement/availability-zone", "eu-west-1b"),
        ("placement/availability-zone-id", "euw1-az2"),
        ("placement/region", "eu-west-1"),
        ("security-groups", "host\nclients"),
        ("public-keys/", "0=operator"),
        ("public-keys/0/", "openssh-key"),
        ("public-keys/0/openssh-key", "ssh-ed25519 AAAA operator\n"),
        ("tags/instance/Name", "spotcache-stg"),
        ("tags/instance/spotcache:environment", "stg"),
        ("tags/instance/a/b", "slash"),
        ("tags/instance", "Name\na/b\nspotcache:environment"),
        ("autoscaling/target-lifecycle-state", "InService"),
        ("iam/", "info\nsecurity-credentials/"),
        ("iam/security-credentials/", "host-role"),
        ("events/", "maintenance/"),
        ("events/maintenance/scheduled", "[]"),
        ("network/interfaces/macs/", "02:42:0a:00:00:05/"),
        ("network/interfaces/macs/02:42:0a:00:00:05/subnet-ipv4-cidr-block", "10.0.0.0/24"),
        ("network/interfaces/macs/02:42:0a:00:00:05/vpc-ipv4-cidr-block", "10.0.0.0/16"),
        ("network/interfaces/macs/02:42:0a:00:00:05/security-group-ids", "sg-1\nsg-2"),
        ("services/partition", "aws"),
    ],
)
def test_values(service: Service, path: str, expected: str) -> None:
    assert service.get(f"/latest/meta-data/{path}") == expected
    assert service.get(f"/2021-03-23/meta-data/{path}") == expected


def test_listings(service: Service) -> None:
    assert service.get("/latest/") == "dynamic/\nmeta-data/\nuser-data"
    assert "latest" in service.get("/").splitlines()
    top = service.get("/latest/meta-data").splitlines()
    for entry in ("iam/", "instance-id", "network/", "placement/", "public-keys/", "tags/", "autoscaling/"):
        assert entry in top
    assert "spot/" not in top
    assert top == service.get("//latest//meta-data//").splitlines()


@pytest.mark.parametrize(
    "path",
    [
        "spot/instance-action",
        "spot/termination-time",
        "events/recommendations/rebalance",
        "nothing",
        "instance-id/below",
        "iam/security-credentials/other-role",
        "tags/instance/Missing",
        "public-keys/1/openssh-key",
    ],
)
def test_what_is_not_there(service: Service, path: str) -> None:
    status, body, headers = service.call("GET", f"/latest/meta-data/{path}", {TOKEN: service.token()})
    assert status == 404
    assert b"<h1>404 - Not Found</h1>" in body
    assert headers["content-type"] == "text/html"


def test_what_an_instance_does_not_have(service: Service) -> None:
    service.views[ONE] = InstanceView(
        instance_id="i-1",
        image_id="ami-1",
        instance_type="t3.nano",
        account_id="1",
        region="us-east-1",
        zone="us-east-1a",
        private_ip="10.0.0.9",
        launch_time=LAUNCHED,
        tags={"Name": "hidden"},
    )
    for path in ("tags/instance/Name", "tags/", "iam/info", "iam/", "public-keys/", "autoscaling/", "spot/"):
        assert service.status(f"/latest/meta-data/{path}") == 404
    assert service.status("/latest/user-data") == 404
    assert service.get("/latest/") == "dynamic/\nmeta-data/"
    assert service.get("/latest/meta-data/hostname") == "ip-10-0-0-9.ec2.internal"


def test_the_signs_of_an_interruption(service: Service) -> None:
    at = datetime(2026, 11, 22, 0, 17, 3, tzinfo=UTC)
    service.views[ONE] = replace(VIEW, spot_action="terminate", spot_time=at, rebalance_time=LAUNCHED)
    notice = json.loads(service.get("/latest/meta-data/spot/instance-action"))
    assert notice == {"action": "terminate", "time": "2026-11-22T00:17:03Z"}
    assert service.get("/latest/meta-data/spot/termination-time") == "2026-11-22T00:17:03Z"
    assert service.get("/latest/meta-data/events/") == "maintenance/\nrecommendations/"
    recommendation = json.loads(service.get("/latest/meta-data/events/recommendations/rebalance"))
    assert recommendation == {"noticeTime": "2026-11-22T00:15:03Z"}
    # A stop has no termination time.
    service.views[ONE] = replace(VIEW, spot_action="stop", spot_time=at)
    assert service.status("/latest/meta-data/spot/termination-time") == 404


def test_scheduled_maintenance(service: Service) -> None:
    event = imds.MaintenanceEvent(
        "instance-event-1", "system-reboot", "scheduled reboot", LAUNCHED, LAUNCHED.replace(hour=2)
    )
    service.views[ONE] = replace(VIEW, maintenance=(event,))
    (found,) = json.loads(service.get("/latest/meta-data/events/maintenance/scheduled"))
    assert found["NotBefore"] == "22 Nov 2026 00:15:03 GMT"
    assert found["Code"] == "system-reboot"


def test_documents(service: Service) -> None:
    document = json.loads(service.get("/latest/dynamic/instance-identity/document"))
    assert document["instanceId"] == VIEW.instance_id
    assert document["region"] == "eu-west-1"
    assert document["pendingTime"] == "2026-11-22T00:15:03Z"
    assert json.loads(service.get("/latest/meta-data/iam/info"))["InstanceProfileArn"] == VIEW.profile_arn
    credentials = json.loads(service.get("/latest/meta-data/iam/security-credentials/host-role"))
    assert credentials["SecretAccessKey"] == "s3cr3t"


def test_user_data_comes_back_byte_for_byte(service: Service) -> None:
    assert service.call("GET", "/latest/user-data", {TOKEN: service.token()})[1] == VIEW.user_data


def test_secrets_are_not_part_of_a_representation() -> None:
    assert VIEW.user_data.decode("latin-1") not in repr(VIEW)
    assert "credentials" not in repr(VIEW)


def test_credentials_are_asked_for_only_when_wanted() -> None:
    asked: list[int] = []

    def credentials() -> dict[str, str]:
        asked.append(1)
        return {"AccessKeyId": str(len(asked))}

    view = replace(VIEW, credentials=credentials)
    assert read_path(view, "/latest/meta-data/iam/security-credentials/") == b"host-role"
    assert not asked
    first = read_path(view, "/latest/meta-data/iam/security-credentials/host-role")
    assert first != read_path(view, "/latest/meta-data/iam/security-credentials/host-role")


# -- faults ----------------------------------------------------------------------------------------------------------


def test_down(service: Service) -> None:
    service.views[ONE] = replace(VIEW, fault="down")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        service.call("PUT", "/latest/api/token", {TTL: "60"})
    assert service.token(TWO)


def test_slow(service: Service) -> None:
    service.views[ONE] = replace(VIEW, fault="slow", fault_seconds=0.3)
    begun = time.monotonic()
    service.token()
    assert time.monotonic() - begun >= 0.3


def test_unauthorized(service: Service) -> None:
    token = service.token()
    service.views[ONE] = replace(VIEW, fault="401")
    assert service.call("PUT", "/latest/api/token", {TTL: "60"})[0] == 401
    assert service.call("GET", "/latest/meta-data/instance-id", {TOKEN: token})[0] == 401


def test_garbage(service: Service) -> None:
    service.views[ONE] = replace(VIEW, fault="garbage")
    status, body, _ = service.call("GET", "/latest/meta-data/spot/instance-action", {TOKEN: "x"})
    assert status == 200
    with pytest.raises(ValueError, match=r"codec|Expecting"):
        json.loads(body)


def test_a_caller_that_goes_away_does_no_harm(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.server.port), 5, source_address=(ONE, 0)) as link:
        link.sendall(b"GET /latest/meta-data/ HTTP/1.1\r\nHost: x\r\n")
    with socket.create_connection(("127.0.0.1", service.server.port), 5, source_address=(ONE, 0)) as link:
        link.sendall(b"\x16\x03\x01nonsense\r\n\r\n")
    assert service.get("/latest/meta-data/instance-id") == VIEW.instance_id


# -- the way to the service ------------------------------------------------------------------------------------------


def test_rules_carry_the_mark_and_nothing_link_local_passes() -> None:
    rules = dnat_rules("br-1", "10.0.0.1", 8169, "mark")
    assert all("mark" in rule for rule in rules)
    assert rules[0][:6] == ("nat", "PREROUTING", "-i", "br-1", "-d", "169.254.169.254/32")
    assert rules[0][-1] == "10.0.0.1:8169"
    assert rules[-1][:6] == ("filter", "DOCKER-USER", "-i", "br-1", "-d", "169.254.0.0/16")
    assert rules[-1][-1] == "REJECT"
    both = [rule for rule in resolver_rules("br-1", "10.0.0.1", 5300, "mark") if rule[0] == "nat"]
    assert {(rule[5], rule[7]) for rule in both} == {
        (address, protocol) for address in ("169.254.169.253/32", "10.0.0.1/32") for protocol in ("udp", "tcp")
    }


@pytest.mark.parametrize(
    ("comment", "found"),
    [("a/demo", True), ("a", True), ("a/demo/br", True), ("a/dem", False), ("a/demo/br/x", False), ("b", False)],
)
def test_a_mark_covers_what_is_below_it(comment: str, found: bool) -> None:
    words = ["-A", "PREROUTING", "-m", "comment", "--comment", "a/demo/br", "-j", "DNAT"]
    assert imds._is_marked(words, comment) is found
