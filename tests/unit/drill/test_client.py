"""The client of a drill: what it counts as acknowledged, where it goes, and what it finds lost."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import io
import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from spotcache_drill import cli
from spotcache_drill.client import Accounts, Client, Names, Service, Target, loss, read_back, remove
from spotcache_drill.observer import Instance, Observer, Place, Seen, instances_of, record_instances
from spotcache_drill.record import record
from spotcache_drill.way import connector, secured, words_for
from spotcache_drill.wire import RedisError

from dev.ports import Port
from tests.unit.redis.certificates import NAME, Authority
from tests.unit.redis.support import redis_server

NAMES = Names("t")
HERE = Target("127.0.0.1", "i-1")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


class Hosts:
    """Hosts that answer, refuse or hold writes back."""

    def __init__(self) -> None:
        self.data: dict[str, dict[bytes, bytes]] = {"10.0.0.1": {}, "10.0.0.2": {}}
        self.state = {"10.0.0.1": "up", "10.0.0.2": "down"}
        self.target = Target("10.0.0.1", "i-1")
        self.closed = 0

    def connect(self, target: Target) -> Any:
        address = target.address
        if self.state[address] == "down":
            raise ConnectionRefusedError(f"{address} refuses")
        return Line(self, address)


class Line:
    """A connection to one of them."""

    def __init__(self, hosts: Hosts, address: str) -> None:
        self.hosts, self.address = hosts, address

    def ask(self, *words: bytes) -> object:
        state, data = self.hosts.state[self.address], self.hosts.data[self.address]
        if state == "down":
            raise ConnectionResetError("gone")
        if state == "loading":
            raise RedisError("LOADING Redis is loading the dataset in memory")
        if words[0] == b"SET":
            if state == "fenced":
                raise TimeoutError("timed out")
            data[words[1]] = words[2]
            return b"OK"
        if words[0] == b"MGET":
            return [data.get(key) for key in words[1:]]
        if words[0] == b"UNLINK":
            return sum(data.pop(key, None) is not None for key in words[1:])
        return data.get(words[1])

    def close(self) -> None:
        self.hosts.closed += 1


def client_of(hosts: Hosts) -> Client:
    return Client(NAMES, lambda: hosts.target, hosts.connect, 0.0, Clock())


def test_only_what_was_confirmed_is_acknowledged() -> None:
    hosts = Hosts()
    client = client_of(hosts)
    for state in ("up", "up", "fenced", "fenced", "down"):
        hosts.state["10.0.0.1"] = state
        client.step()
    accounts = client.accounts
    assert sorted(accounts.acknowledged) == [0, 1]
    assert accounts.refused == 3
    # The first write that was held back counts as the moment from which on there was no service.
    assert accounts.refused_at is not None
    assert max(accounts.acknowledged.values()) < accounts.refused_at < max(accounts.acknowledged.values()) + 1


def test_it_follows_the_name_and_notes_what_came_first_from_whom() -> None:
    hosts = Hosts()
    client = client_of(hosts)
    client.step()
    hosts.state["10.0.0.1"] = "down"
    client.step()
    hosts.target = Target("10.0.0.2", "i-2")
    client.step()
    hosts.state["10.0.0.2"] = "loading"
    client.step()
    hosts.state["10.0.0.2"] = "fenced"
    client.step()
    hosts.state["10.0.0.2"] = "up"
    client.step()
    client.step()
    first, second = client.accounts.services
    assert (first.address, second.address) == ("10.0.0.1", "10.0.0.2")
    assert first.first_read is not None
    assert first.first_write is not None
    # Loading is no service; a held-back write comes after a read that was answered.
    assert second.first_read is not None
    assert second.first_write is not None
    assert first.first_write < second.first_read < second.first_write
    assert client.accounts.outage(0.0) == pytest.approx(second.first_write - first.first_write)


def test_a_new_host_with_the_address_of_the_one_before_is_another_one() -> None:
    assert not Service("10.0.0.1", "i-1").is_at(Target("10.0.0.1", "i-2"))
    assert Service("10.0.0.1", "i-1").is_at(Target("10.0.0.1", ""))
    assert not Service("10.0.0.1", "").is_at(Target("10.0.0.2", ""))


def test_the_longest_time_without_a_write_is_the_one_after_the_strike() -> None:
    accounts = Accounts(acknowledged={0: 1.0, 1: 9.0, 2: 9.5, 3: 12.0})
    assert accounts.outage(9.2) == 2.5
    assert accounts.outage(0.0) == 8.0
    assert accounts.outage(13.0) is None
    assert accounts.last_before(10.0) == 9.5


def test_loss_is_told_value_by_value() -> None:
    acknowledged = {0: 5.0, 1: 6.0, 2: 7.0, 3: 8.0}
    found = {0: NAMES.value(0), 1: None, 2: b"another", 4: b"never acknowledged"}
    told = loss(NAMES, acknowledged, found)
    assert told.missing == [(1, 6.0), (3, 8.0)]
    assert told.altered == [2]
    assert loss(NAMES, {0: 5.0}, {0: NAMES.value(0)}).missing == []


def test_every_key_has_a_value_of_its_own_in_every_drill() -> None:
    values = {Names(mark).value(number) for mark in ("a", "b") for number in range(100)}
    assert len(values) == 200


# What ssh -W does, without ssh; it takes its time to end, as one does whose host is gone.
RELAY = """
import os, socket, sys, threading, time
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while chunk := os.read(0, 65536):
        far.sendall(chunk)
    time.sleep(5)
    os._exit(0)
threading.Thread(target=up, daemon=True).start()
while chunk := far.recv(65536):
    os.write(1, chunk)
"""
JOIN = f"{sys.executable} -c {shlex.quote(RELAY)} {{address}} {{port}}"
SELECT = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n"


@contextmanager
def answering(answer: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server that takes SELECT, answers what comes then and hangs up (None: says nothing more).

    What it was sent comes with it, an item a connection.
    """
    sent: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            sent.append(b"")
            with link:
                while chunk := link.recv(65536):
                    sent[-1] += chunk
                    if sent[-1] == SELECT:
                        link.sendall(b"+OK\r\n")
                    elif answer is not None:
                        link.sendall(answer)
                        break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1], sent
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"-ERR no\r\n", RedisError, "^ERR no$"),
        (b"-LOADING Redis is loading\r\n", RedisError, "^LOADING Redis is loading$"),
        (b"-NOAUTH who are you\r\n", RedisError, "^NOAUTH who are you$"),
        (b"HTTP/1.1 400\r\n", RedisError, "HTTP/1.1 400"),
        (b"$9\r\nab", ConnectionError, "closed"),
        (b"", ConnectionError, "closed"),
        (None, TimeoutError, "^Timeout reading"),
    ],
)
def test_a_write_that_is_not_confirmed_is_sent_once(answer: bytes | None, error: type[Exception], words: str) -> None:
    with answering(answer) as (port, sent):
        connection = connector(port, ("", ""), 0, 0.5)(HERE)
        began = time.monotonic()
        with pytest.raises(error, match=words):
            connection.ask(b"SET", b"a b", b"1")
        assert time.monotonic() - began < 10
        connection.close()
        time.sleep(0.2)
        # Nothing besides goes there and back before the first answer, either.
        assert sent == [SELECT + b"*3\r\n$3\r\nSET\r\n$3\r\na b\r\n$1\r\n1\r\n"]


def test_only_the_first_answer_may_take_as_long_as_the_way_does() -> None:
    with answering(None) as (port, _):
        connection = connector(port, ("", ""), 0, 0.2, ["sh", "-c", f"sleep 1; exec {JOIN}"])(HERE)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.ask(b"PING")
        assert time.monotonic() - began < 10
        connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """A Redis with a password."""
    port = Port()
    settings = {"port": str(port), "bind": "127.0.0.1", "save": "", "requirepass": "secret", "dir": str(tmp_path)}
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    with subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    connector(port, ("", "secret"), 0, 1.0)(HERE).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield port
        finally:
            process.kill()


def test_it_writes_to_a_real_redis_and_takes_its_keys_away_again(server: int) -> None:
    connect = connector(server, ("default", "secret"), 3, 1.0)
    client = Client(NAMES, lambda: HERE, connect, 0.0)
    for _ in range(1200):
        client.step()
    client.accounts.acknowledged[5000] = 1.0
    connection = connect(HERE)
    found = read_back(connection, NAMES, client.accounts.acknowledged)
    assert [number for number, _ in loss(NAMES, client.accounts.acknowledged, found).missing] == [5000]
    assert connection.ask(b"DBSIZE") == 1200
    # What a drill cannot remove vanishes by itself.
    assert 0 < int(str(connection.ask(b"TTL", NAMES.key(7)))) <= 24 * 3600
    remove(connection, NAMES, range(client.accounts.written))
    assert connection.ask(b"DBSIZE") == 0
    with pytest.raises(RedisError, match="WRONGPASS"):
        connector(server, ("", "wrong"), 0, 1.0)(HERE)
    with pytest.raises(RedisError, match="WRONGPASS"):
        connector(server, ("other", "secret"), 0, 1.0)(HERE)


def test_it_goes_another_way_where_the_network_has_none(server: int) -> None:
    words = shlex.split(JOIN)
    connect = connector(server, ("", "secret"), 0, 1.0, words)
    client = Client(NAMES, lambda: HERE, connect, 0.0)
    for _ in range(20):
        client.step()
    assert len(client.accounts.acknowledged) == 20
    connection = connect(HERE)
    child = connection._leave.__self__._child  # type: ignore[attr-defined]
    connection.close()
    assert child.returncode == -signal.SIGKILL, "its program ends with it"
    with pytest.raises(ConnectionError, match="no way there"):
        connector(server, ("", "secret"), 0, 1.0, ["sh", "-c", "echo no way there >&2; exit 255"])(HERE)
    assert words_for(["a", "-o{host}={address}", "{public}:{port}"], Target("10.0.0.1", "i-1", "1.2.3.4"), 6379) == [
        "a",
        "-oi-1=10.0.0.1",
        "1.2.3.4:6379",
    ]


def checked(aws: Any, server: int, *ways: tuple[str, str], patience: float = 0.0, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"environment": "stg", "bucket": "b", "prefix": "p/stg/", "host": "i-1"}
    settings |= {"username": "", "tls_ca": ""}
    settings.update(dns_name="redis.stg.internal", password="secret", database=0, timeout=1.0, poll=1.0, port=server)
    settings.update(more)
    tried = [{"name": name, "command": command} for name, command in ways]
    return cli.check({**settings, "ways": tried}, aws, patience)


def test_before_anything_is_struck_the_way_and_the_name_are_tried(server: int) -> None:
    aws = Aws(at="127.0.0.1")
    found = checked(aws, server, ("directly", ""), ("through ssh", JOIN))
    assert (found["by"], found["command"]) == ("directly", "")
    found = checked(aws, server, ("through a", "sh -c 'echo shut >&2; exit 1'"), ("through b", JOIN))
    assert (found["by"], found["command"]) == ("through b", JOIN)
    with pytest.raises(
        cli.Failed, match=r"does not reach port \d+ of 127.0.0.1 \(through a: shut\).*drill_client_host"
    ):
        checked(aws, server, ("through a", "sh -c 'echo shut >&2; exit 1'"))
    with pytest.raises(cli.Failed, match="refuses the client: WRONGPASS"):
        checked(aws, server, ("directly", ""), password="wrong")
    aws.address = "127.0.0.9"
    with pytest.raises(cli.Failed, match=r"redis.stg.internal leads to 127.0.0.9. Run provision"):
        checked(aws, server, ("directly", ""))


def test_a_way_that_is_shut_for_a_moment_is_tried_again(server: int, tmp_path: Path) -> None:
    once = f"test -e {tmp_path}/tried || {{ touch {tmp_path}/tried; echo shut >&2; exit 1; }}"
    way = ("through ssh", f"sh -c {shlex.quote(f'{once}; exec {JOIN}')}")
    assert checked(Aws(at="127.0.0.1"), server, way, patience=30.0)["by"] == "through ssh"


def described(*rows: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "Reservations": [
            {
                "Instances": [
                    {
                        "InstanceId": name,
                        "State": {"Name": state},
                        "PrivateIpAddress": address,
                        "Placement": {"AvailabilityZone": "a"},
                    }
                ]
            }
            for name, state, address in rows
        ]
    }


def test_instances_are_noted_from_their_first_sight() -> None:
    seen = Seen()
    record_instances(seen, 1.0, instances_of(described(("i-0", "terminated", ""), ("i-1", "running", "10.0.0.1"))))
    record_instances(
        seen, 2.0, instances_of(described(("i-0", "terminated", ""), ("i-1", "shutting-down", "10.0.0.1")))
    )
    record_instances(seen, 3.0, instances_of(described(("i-1", "terminated", ""), ("i-2", "pending", "10.0.0.2"))))
    record_instances(seen, 4.0, instances_of(described(("i-2", "running", "10.0.0.2"))))
    # One that had ended before the drill is none of it.
    assert sorted(seen.instances) == ["i-1", "i-2"]
    assert seen.instances["i-1"].gone_at == 2.0
    assert seen.instances["i-1"].address == "10.0.0.1"
    assert seen.instances["i-2"].states == {"pending": 3.0, "running": 4.0}
    assert seen.instances["i-2"].gone_at is None


class Aws:
    """Route 53, S3 and EC2, as far as an observer asks."""

    def __init__(self, at: str = "10.0.0.1") -> None:
        self.address = self.at = at
        self.keys = ["p/stg/backups/one/dump.rdb", "p/stg/backups/one/manifest.json", "p/stg/backups/two/dump.rdb"]
        self.asked: list[str] = []

    def __call__(self, service: str) -> Any:  # noqa: ARG002
        return self

    def get_paginator(self, name: str) -> Any:
        zones = [
            {"Id": "short", "Name": "internal."},
            {"Id": "long", "Name": "stg.internal."},
            {"Id": "x", "Name": "y."},
        ]

        at = self.at

        class Pages:
            def paginate(self, **more: Any) -> list[dict[str, Any]]:  # noqa: ARG002
                if name == "list_hosted_zones":
                    return [{"HostedZones": zones}]
                return [described(), described(("i-1", "running", at))]

        return Pages()

    def list_resource_record_sets(self, HostedZoneId: str, **more: str) -> dict[str, Any]:  # noqa: ARG002, N803
        self.asked.append(HostedZoneId)
        record = {"Name": "redis.stg.internal.", "Type": "A", "ResourceRecords": [{"Value": self.address}]}
        return {"ResourceRecordSets": [record]}

    def list_objects_v2(self, Bucket: str, Prefix: str) -> dict[str, Any]:  # noqa: ARG002, N803
        found = [{"Key": key} for key in self.keys if key.startswith(Prefix)]
        return {"Contents": found, "KeyCount": len(found)}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: ARG002, N803
        return {"Body": io.BytesIO(b'{"backup": "one", "off_host": true}')}


def test_the_observer_follows_the_name_and_counts_whole_backups() -> None:
    aws, clock = Aws(), Clock()
    observer = Observer(Place("stg", "b", "p/stg/", "redis.stg.internal", "i-1"), aws, 1.0, clock)
    observer.poll_instances()
    observer.poll_name()
    observer.poll_name()
    assert observer.target() == Target("10.0.0.1", "i-1")
    aws.address = "10.0.0.2"
    observer.poll_name()
    assert observer.target() == Target("10.0.0.2", "")
    assert [address for address, _ in observer.seen.addresses] == ["10.0.0.1", "10.0.0.2"]
    # The zone with the longest name is the one that answers for it.
    assert set(aws.asked) == {"long"}
    observer.poll_backups()
    assert list(observer.seen.backups) == ["one"]
    before = observer.seen.final
    aws.keys.append("p/stg/keeper/final/i-1.json")
    observer.poll_backups()
    after = observer.seen.final
    assert before is None
    assert after is not None
    assert after[0] == {"backup": "one", "off_host": True}


def test_without_a_name_the_newest_instance_is_followed() -> None:
    observer = Observer(Place("stg", "b", "", "", "i-1"), Aws(), 1.0)
    assert observer.target() == Target("")
    observer.seen.instances = {
        "i-1": Instance("i-1", address="10.0.0.1", states={"running": 1.0, "terminated": 5.0}),
        "i-2": Instance("i-2", address="10.0.0.2", states={"pending": 5.0, "running": 6.0}),
        "i-3": Instance("i-3", address="10.0.0.3", states={"pending": 7.0}),
    }
    assert observer.target() == Target("10.0.0.2", "i-2")


def test_a_drill_is_over_when_another_host_has_taken_a_write() -> None:
    seen, struck = Seen(), {"last": 100.0}
    accounts = Accounts(services=[Service("10.0.0.1", "i-1", 1.0, 1.1)])
    assert not cli.is_over("successor", struck, accounts, seen)
    accounts.services.append(Service("10.0.0.2", "i-2", 130.0, None))
    assert not cli.is_over("successor", struck, accounts, seen)
    accounts.services[-1] = Service("10.0.0.2", "i-2", 130.0, 131.0)
    assert cli.is_over("successor", struck, accounts, seen)
    seen.backups = {"old": 50.0}
    assert not cli.is_over("backup", struck, accounts, seen)
    seen.backups["new"] = 101.0
    assert cli.is_over("backup", struck, accounts, seen)


def test_a_client_that_was_left_behind_takes_no_other_drills_strike(tmp_path: Path) -> None:
    path = tmp_path / "fault.json"
    assert cli.read_fault(path, "a") is None
    path.write_text('{"mark": "a", "at"')
    assert cli.read_fault(path, "a") is None
    path.write_text(json.dumps({"mark": "a", "at": 1.0, "last": 1.0}))
    assert cli.read_fault(path, "a") == {"mark": "a", "at": 1.0, "last": 1.0}
    with pytest.raises(cli.Failed, match="broken off"):
        cli.read_fault(path, "b")
    path.write_text('{"stop": true}')
    with pytest.raises(cli.Failed, match="broken off"):
        cli.read_fault(path, "a")


def test_a_client_that_gets_no_answer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_FIRST_SECONDS", 0.2)
    port = Port()
    aws = Aws()
    aws.address = "127.0.0.1"
    settings = {
        "mark": "t",
        "host": "i-1",
        "environment": "stg",
        "bucket": "b",
        "prefix": "p/stg/",
        "region": "x",
        "dns_name": "redis.stg.internal",
        "port": port,
        "tls_ca": "",
        "username": "",
        "password": "secret",
        "database": 0,
        "timeout": 0.2,
        "pause": 0.01,
        "poll": 0.1,
        "settle": 0.1,
        "patience": 1.0,
        "until": "successor",
        "command": "",
        "folder": str(tmp_path / "drill"),
    }
    monkeypatch.setattr(cli, "aws_client", lambda region: aws)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(settings)))
    assert cli.main(["run"]) == 1
    said = capsys.readouterr().err
    assert f"at 127.0.0.1, port {port}" in said
    assert "Nothing was interrupted" in said
    assert "secret" not in said
    assert cli.main(["walk"]) == 2


def test_the_record_holds_what_the_report_is_made_of() -> None:
    accounts = Accounts(3, {0: 10.0, 1: 11.0, 2: 20.0}, 11.5, 4, [Service("10.0.0.1", "i-1", 9.0, 10.0)])
    seen = Seen({"i-1": Instance("i-1", "a", "10.0.0.1", states={"running": 1.0, "terminated": 15.0})})
    told = record("i-1", accounts, seen, loss(NAMES, accounts.acknowledged, {0: NAMES.value(0)}), 11.2, "")
    assert told["missing"] == [[1, 11.0], [2, 20.0]]
    assert (told["host_gone"], told["last_write_before"], told["outage_s"]) == (15.0, 11.0, 9.0)
    assert json.loads(json.dumps(told)) == told
    assert record("i-1", accounts, seen, None, 11.2, "in vain")["missing"] is None


def test_it_knows_a_redis_that_speaks_tls_by_the_name_that_clients_go_by(tmp_path: Path) -> None:
    authority = Authority()
    with redis_server(tmp_path) as running:
        running.start_with_tls(authority.issue(), "requirepass secret\n")

        def tried(pem: str, name: str, *way: str) -> object:
            connect = connector(running.port, ("default", "secret"), 0, 2.0, way, secured(pem, name))
            connection = connect(HERE)
            try:
                return connection.ask(b"PING")
            finally:
                connection.close()

        assert tried(authority.pem, NAME) == b"PONG"
        assert tried(authority.pem, NAME, *shlex.split(JOIN)) == b"PONG"
        for pem, name in ((Authority().pem, NAME), (authority.pem, "redis.elsewhere.internal")):
            with pytest.raises(OSError, match="certificate verify failed"):
                tried(pem, name)
        with pytest.raises((OSError, RedisError)):
            tried("", "")
