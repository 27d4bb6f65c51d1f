"""Tunnels through an EC2 Instance Connect Endpoint: our program against the sandbox's server, with real sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import spotcache_tunnel
from botocore.credentials import Credentials
from moto import mock_aws
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends

from sandbox import iam, instance_connect

ACCOUNT, REGION = "123456789012", "ap-northeast-1"
PROGRAM = Path(spotcache_tunnel.__file__)
OPEN = {"Effect": "Allow", "Action": "ec2-instance-connect:OpenTunnel", "Resource": "*"}


class Echo:
    """Stands for a host's sshd: says what it is told, in capitals."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                peer, _from = self.server.accept()
            except OSError:
                return
            with peer:
                peer.sendall(b"SSH-2.0-here\r\n")
                while chunk := peer.recv(65536):
                    peer.sendall(chunk.upper())


class Place:
    """One VPC with an endpoint, an operator, and what stands behind the endpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend = ec2_backends[ACCOUNT][REGION]
        self.echo = Echo()
        home = SimpleNamespace(prefix="sc-t-")
        self.connect = instance_connect.InstanceConnect(SimpleNamespace(account=ACCOUNT, home=home))  # type: ignore[arg-type]
        for name in ("plug", "unplug"):
            monkeypatch.setattr(self.connect, name, lambda endpoint: None)
        monkeypatch.setattr(self.connect, "dial", self.dial)
        self.connect.seconds = 0.0
        self.dialled: list[tuple[str, int]] = []
        self.vpc = self.backend.create_vpc("10.9.0.0/16")
        self.subnet = self.backend.create_subnet(self.vpc.id, "10.9.0.0/20")
        self.endpoint = self.connect.create(self.backend, self.subnet.id, [], {"spotcache:environment": "t"}, False)
        self.endpoint.state = "create-complete"
        self.users = iam_backends[ACCOUNT]["aws"]
        self.users.create_user(region_name=REGION, user_name="operator", path="/", tags=None)
        self.key = self.users.create_access_key("operator")
        self.may(OPEN)
        self.url = f"http://127.0.0.1:{self.connect.listen()}"

    def may(self, *statements: Mapping[str, Any]) -> None:
        self.users.put_user_policy("operator", "p", json.dumps({"Version": "2012-10-17", "Statement": statements}))

    def dial(self, endpoint: Any, address: str, port: int) -> socket.socket:
        assert endpoint is self.endpoint
        self.dialled.append((address, port))
        if address.endswith(".66"):
            raise OSError("no route")
        return socket.create_connection(self.echo.server.getsockname())

    def credentials(self) -> Credentials:
        return Credentials(self.key.access_key_id, self.key.secret_access_key)

    def run(self, said: bytes, *, secret: str = "", address: str = "10.9.0.5", port: int = 22) -> Any:
        """The program as ssh calls it."""
        environment = {
            "PATH": os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": self.key.access_key_id,
            "AWS_SECRET_ACCESS_KEY": secret or self.key.secret_access_key,
            "AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT": self.url,
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        words = ["--region", REGION, "--endpoint-id", self.endpoint.id, "--dns-name", "eice.invalid"]
        words += ["--address", address, "--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *words],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        answer = process.stdout.readline()
        if answer:
            process.stdin.write(said)
            process.stdin.flush()
            answer += process.stdout.read(len(said))
        process.stdin.close()
        error = process.stderr.read().decode()
        return SimpleNamespace(code=process.wait(timeout=30), out=answer, error=error)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with mock_aws():
        made = Place(monkeypatch)
        yield made
        made.connect.server.shutdown()
        made.echo.server.close()


def test_bytes_go_both_ways_and_the_end_of_input_is_the_end(place: Place) -> None:
    # More than one message, and nothing that is text.
    said = bytes(range(97, 123)) * 8000 + b"\x00\xff"
    done = place.run(said)
    assert done.error == ""
    assert done.code == 0
    assert done.out == b"SSH-2.0-here\r\n" + said.upper()
    assert place.dialled == [("10.9.0.5", 22)]


@pytest.mark.parametrize(
    ("statements", "port", "allowed"),
    [
        ([OPEN], 22, True),
        ([{**OPEN, "Action": "ec2-instance-connect:SendSSHPublicKey"}], 22, False),
        ([{**OPEN, "Resource": f"arn:aws:ec2:*:*:{instance_connect.KIND}/eice-0"}], 22, False),
        ([{**OPEN, "Condition": {"NumericEquals": {"ec2-instance-connect:remotePort": "22"}}}], 22, True),
        ([{**OPEN, "Condition": {"NumericEquals": {"ec2-instance-connect:remotePort": "22"}}}], 3389, False),
        ([{**OPEN, "Condition": {"StringLike": {"aws:ResourceTag/spotcache:environment": "*"}}}], 22, True),
        ([{**OPEN, "Condition": {"StringLike": {"aws:ResourceTag/team": "*"}}}], 22, False),
        ([OPEN, {**OPEN, "Effect": "Deny"}], 22, False),
    ],
)
def test_the_permission_is_asked_for(place: Place, statements: list[Any], port: int, allowed: bool) -> None:
    place.may(*statements)
    done = place.run(b"x", port=port)
    assert bool(place.dialled) == allowed
    assert done.code == (0 if allowed else 1)
    if not allowed:
        assert "not authorized to perform: ec2-instance-connect:OpenTunnel on resource: arn:aws:ec2:" in done.error
        assert "HTTP 403" in done.error


def test_a_wrong_key_opens_nothing_and_no_secret_is_told(place: Place) -> None:
    done = place.run(b"x", secret="wrong" * 8)
    assert (done.code, done.out, place.dialled) == (1, b"", [])
    assert "signature does not match" in done.error
    assert place.key.access_key_id not in done.error
    assert "Signature=" not in done.error


def test_a_host_that_nobody_lets_through_is_said_with_what_to_do(place: Place) -> None:
    done = place.run(b"x", address="10.9.0.66")
    assert done.code == 1
    assert "Unable to connect to target" in done.error
    assert "security group" in done.error


@pytest.mark.parametrize("port", [80, 6379])
def test_other_ports_are_not_carried(place: Place, port: int) -> None:
    done = place.run(b"x", port=port)
    assert (done.code, place.dialled) == (1, [])
    assert "HTTP 400" in done.error


def test_no_endpoint_listens(place: Place) -> None:
    place.url = "http://127.0.0.1:1"
    done = place.run(b"x")
    assert done.code == 1
    assert "127.0.0.1:1 cannot be reached" in done.error


def path_of(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}", parts.netloc


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "another address": (lambda path: path.replace("10.9.0.5", "10.9.0.6"), "does not match"),
    "no signature": (lambda path: path.partition("&X-Amz-Signature")[0], "no signature"),
    "unknown key": (lambda path: path.replace("X-Amz-Credential=AKIA", "X-Amz-Credential=AKIB"), "not known"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_signature_holds_for_what_was_signed(place: Place, change: str) -> None:
    url = spotcache_tunnel.tunnel_url("eice.example", place.endpoint.id, "10.9.0.5", 22)
    path, host = path_of(spotcache_tunnel.signed(url, place.credentials(), REGION))
    assert instance_connect.signer(path, host, ACCOUNT).arn.endswith("user/operator")
    alter, why = CHANGES[change]
    with pytest.raises(instance_connect.Refused, match=why):
        instance_connect.signer(alter(path), host, ACCOUNT)
    late = datetime.now(UTC) + timedelta(seconds=spotcache_tunnel.VALID_S + 5)
    with pytest.raises(instance_connect.Refused, match="expired"):
        instance_connect.signer(path, host, ACCOUNT, now=late)


def test_a_session_of_a_role_is_known_by_its_token(place: Place) -> None:
    from moto.sts.models import sts_backends

    made = sts_backends[ACCOUNT]["aws"].assume_role(
        region_name=REGION,
        role_session_name="s",
        role_arn=f"arn:aws:iam::{ACCOUNT}:role/r",
        policy="",
        duration=900,
        external_id="",
    )
    url = spotcache_tunnel.tunnel_url("eice.example", place.endpoint.id, "10.9.0.5", 22)
    for token, known in ((made.session_token, True), ("another", False)):
        credentials = Credentials(made.access_key_id, made.secret_access_key, token)
        path, host = path_of(spotcache_tunnel.signed(url, credentials, REGION))
        if known:
            assert ":assumed-role/r/s" in instance_connect.signer(path, host, ACCOUNT).arn
        else:
            with pytest.raises(instance_connect.Refused):
                instance_connect.signer(path, host, ACCOUNT)


def test_where_a_tunnel_is_opened() -> None:
    url = spotcache_tunnel.tunnel_url("eice-1.x.amazonaws.com", "eice-1", "10.0.0.4", 22)
    assert url == (
        "wss://eice-1.x.amazonaws.com/openTunnel?instanceConnectEndpointId=eice-1&remotePort=22&privateIpAddress=10.0.0.4"
    )
    assert spotcache_tunnel.tunnel_url("http://[::1]:5/", "e", "10.0.0.4", 22).startswith("ws://[::1]:5/openTunnel?")


def test_what_an_endpoint_may_say() -> None:
    assert "no capacity." in spotcache_tunnel.refusal(HTTPStatus.BAD_GATEWAY, b"no capacity")
    assert "OpenTunnel" in spotcache_tunnel.refusal(HTTPStatus.FORBIDDEN, b"")


def test_one_endpoint_for_a_vpc_and_its_interface_holds_what_it_needs(place: Place) -> None:
    from moto.ec2.exceptions import EC2ClientError

    with pytest.raises(EC2ClientError, match="maximum number"):
        place.connect.create(place.backend, place.subnet.id, [], {}, False)
    assert place.endpoint.address in [eni.private_ip_address for eni in place.backend.enis.values()]
    assert iam.arn_of(instance_connect.KIND, place.endpoint.id, ACCOUNT, REGION) == place.endpoint.arn
