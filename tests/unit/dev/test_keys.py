# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading and comparing keys, against a real redis-server."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import redis

from dev import keys
from dev.ports import Port

PASSWORD = "a-password-for-a-test-only"
COUNT = 20_000


class Server:
    """A redis-server of this test's own, which can be stopped and started on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = Port()
        self.start()

    def start(self) -> None:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        words += ["--user", keys.USERNAME, "on", f">{PASSWORD}", "~*", "+@all"]
        self.process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if self.client().ping():
                    return
            except redis.exceptions.ConnectionError:
                time.sleep(0.05)
        raise AssertionError("redis-server did not start")

    def client(self, database: int = 0) -> redis.Redis:
        return redis.Redis(port=self.port, username=keys.USERNAME, password=PASSWORD, db=database)

    def restart(self) -> None:
        self.client().save()
        self.process.terminate()
        self.process.wait(20)
        self.start()

    def fingerprint(self) -> dict[int, keys.DatabasePrint]:
        return keys.fingerprint("127.0.0.1", self.port, PASSWORD)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("redis"))
    keys.load("127.0.0.1", running.port, PASSWORD, keys.load_commands(COUNT, int(time.time() * 1000)))
    yield running
    running.process.kill()
    running.process.wait()


def test_every_kind_lands_in_every_database_with_and_without_an_expiry(server: Server) -> None:
    found = server.fingerprint()
    assert found.keys() == keys.DATABASES.keys()
    assert sum(one.keys for one in found.values()) == COUNT
    for number, one in found.items():
        client = server.client(number)
        kinds = {kind: sum(1 for _ in client.scan_iter(_type=kind, count=5000)) for kind in keys.KINDS}
        assert all(kinds.values()), kinds
        assert sum(kinds.values()) == one.keys
        assert 0.3 * one.keys < one.expiring < 0.4 * one.keys


def test_the_compact_and_the_full_encoding_of_each_kind_occur(server: Server) -> None:
    client = server.client()
    seen = {cast("bytes", client.object("encoding", key)).decode() for key in client.scan_iter(count=5000)}
    assert {"int", "embstr", "raw", "listpack", "hashtable", "skiplist", "quicklist", "intset"} <= seen


def test_a_reloaded_server_is_equal_although_it_keeps_its_keys_in_another_order(server: Server) -> None:
    before, order = server.fingerprint(), list(server.client().scan_iter(count=5000))
    server.restart()
    assert list(server.client().scan_iter(count=5000)) != order
    assert keys.differences(before, server.fingerprint()) == []


@pytest.mark.parametrize(
    "harm",
    [
        ["SET", "app:string:0:1", "another value"],
        ["DEL", "app:string:0:1"],
        ["SET", "one more", "x"],
        ["PERSIST", "app:string:0:0"],
        ["RPUSH", "app:list:0:7", "one more"],
        ["HSET", "app:hash:0:6", "field0", "other"],
        ["SADD", "app:set:0:8", "one more"],
        ["ZINCRBY", "app:zset:0:9", "0.5", "0:x"],
    ],
    ids=lambda harm: " ".join(harm[:2]),
)
def test_the_smallest_harm_is_seen(server: Server, harm: list[str]) -> None:
    before = server.fingerprint()
    client = server.client()
    backed_up = {key: (client.dump(key), client.pexpiretime(key)) for key in [harm[1]]}
    client.execute_command(*harm)  # type: ignore[no-untyped-call]
    try:
        said = keys.differences(before, server.fingerprint())
        assert len(said) == 1
        assert said[0].startswith("database 0: ")
    finally:
        client.delete(harm[1])
        for key, (dump, expires) in backed_up.items():
            if dump is not None:
                client.restore(key, max(expires, 0), dump, absttl=True)
    assert keys.differences(before, server.fingerprint()) == []


def test_a_database_that_vanishes_is_named(server: Server) -> None:
    before = server.fingerprint()
    after = {number: one for number, one in before.items() if number != 9}
    assert keys.differences(before, after) == ["database 9 exists only before the restore"]
    assert keys.differences(after, before) == ["database 9 exists only after the restore"]


def test_a_key_that_redis_refuses_stops_the_loading(server: Server) -> None:
    with pytest.raises(keys.LoadError, match="refused a key: -ERR"):
        keys.load("127.0.0.1", server.port, PASSWORD, [keys.command(b"SET", b"only a key")])
    with pytest.raises(keys.LoadError, match="WRONGPASS"):
        keys.load("127.0.0.1", server.port, "not it", [keys.command(b"SET", b"a", b"b")])
