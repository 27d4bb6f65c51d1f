"""What keeps the configuration that it was started with: found, restarted by who keeps it, and looked at. As root."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import laravel_processes as known
from ansible_collections.spotcache.redis.plugins.modules import laravel_processes as module

SHOP, HERE = "/srv/shop", "pid:[1]"


def process(pid: int, parent: int, *arguments: str, **more: Any) -> known.Process:
    common: dict[str, Any] = {
        "inner": pid,
        "directory": SHOP,
        "namespace": HERE,
        "user": 33,
        "started": pid,
        "unit": "",
    }
    return known.Process(pid=pid, parent=parent, arguments=arguments, **{**common, "environment": {}, **more})


def found(
    *processes: known.Process, init: int = 0, restarted: bool = False, real: str = SHOP
) -> list[tuple[str, int, str]]:
    listed = {one.pid: one for one in processes}
    told = known.parents(listed, SHOP, real, HERE, init, restarted)
    return [(one.command, one.process.pid, str(one.keeper)) for one in told]


def test_who_runs_on_and_who_keeps_it() -> None:
    supervisord = process(5, 1, "/usr/bin/python3", "/usr/bin/supervisord", "-n", directory="/")
    master = process(10, 5, "php", "artisan", "horizon")
    assert found(
        process(1, 0, "/sbin/init", directory="/"),
        supervisord,
        master,
        # What came from it is restarted with it.
        process(11, 10, "php", "artisan", "horizon:supervisor", "x"),
        process(12, 11, "php", "artisan", "horizon:work", "redis"),
        process(
            20, 1, "php", "/srv/shop/artisan", "queue:work", "--sleep=1", directory="/", unit="shop-worker.service"
        ),
        process(30, 1, "php", "-d", "memory_limit=1G", "artisan", "schedule:work"),
        process(31, 30, "php", "artisan", "schedule:run"),
        process(40, 1, "/usr/bin/frankenphp", "run", unit="web.service"),
        # None of this application's, or none that runs on.
        process(50, 1, "php", "artisan", "queue:work", directory="/srv/blog"),
        process(51, 1, "php", "artisan", "queue:work", namespace="pid:[2]"),
        process(52, 1, "php", "artisan", "batch:warm"),
        process(53, 1, "vim", "artisan"),
    ) == [
        ("horizon", 10, "supervisor"),
        ("queue:work", 20, "systemd (shop-worker.service)"),
        ("schedule:work", 30, "nobody"),
        ("frankenphp", 40, "systemd (web.service)"),
    ]


def test_a_container_keeps_its_first_process_where_it_is_started_anew() -> None:
    first = process(100, 1, "php", "artisan", "octane:start", "--server=swoole")
    assert found(first, init=100, restarted=True) == [("octane:start", 100, "container")]
    assert found(first, init=100) == [("octane:start", 100, "nobody")]
    behind = process(101, 100, "php", "artisan", "reverb:start")
    assert found(process(100, 1, "tini", "--"), behind, init=100, restarted=True) == [
        ("reverb:start", 101, "container")
    ]
    # What somebody has started beside it comes back with nobody.
    assert found(process(100, 1, "nginx"), behind, init=100, restarted=True) == [("reverb:start", 101, "nobody")]


def test_workers_of_a_release_of_before_are_the_applications() -> None:
    old = process(7, 1, "php", "artisan", "queue:work", directory="/srv/releases/1 (deleted)", unit="w.service")
    assert found(old, real="/srv/releases/2") == [("queue:work", 7, "systemd (w.service)")]
    assert found(old, real=SHOP) == []


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/shop-worker.service\n", "shop-worker.service"),
        ("0::/system.slice/docker-abc.scope/system.slice/worker.service\n", "worker.service"),
        ("0::/system.slice/docker-abc.scope\n", ""),
        ("0::/user.slice/user-0.slice/session-3.scope\n", ""),
        ("0::/system.slice/ssh.service\n", ""),
        ("0::/system.slice/cron.service\n", ""),
        ("12:pids:/x.service\n1:name=systemd:/system.slice/w.service\n", "w.service"),
        ("0::/\n", ""),
    ],
)
def test_the_unit_of_a_process(cgroup: str, unit: str) -> None:
    assert known.unit_of(cgroup) == unit


def test_connections_are_read_as_the_kernel_writes_them() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1\n"
        "   1: 0200000A:C350 0400000A:18EB 01 00000000:00000000 00:00000000 00000000    33        0 12 1\n"
    )
    assert known.established(table) == [("12", ("10.0.0.4", 6379))]
    mapped = "head\n 0: 0 0000000000000000FFFF00000400000A:18EB 01 0 0 0 0 0 13 1\n"
    assert known.established(mapped) == [("13", ("10.0.0.4", 6379))]
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        assert server.getsockname() in known.endpoints([os.getpid()])


def test_names_that_supervisor_gives() -> None:
    status = "shop-worker:shop-worker_00   RUNNING   pid 41, uptime 0:00:09\nshop-cron   STOPPED   Nov 30 08:00 AM\n"
    assert known.supervised(status) == {41: "shop-worker:shop-worker_00"}


# Ends as a worker does: with the job in hand, which takes as long as the file `busy` is there.
WORKER = """
import os, signal, socket, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
where = os.path.dirname(os.path.abspath(__file__))
redis = open(where + "/redis").read().split()
line = socket.create_connection((redis[0], int(redis[1])))
open(where + "/" + {"queue:work": "started"}.get(sys.argv[1], "other"), "a").write(str(os.getpid()) + "\\n")
while not stop or os.path.exists(where + "/busy"):
    time.sleep(0.02)
"""


class Shop:
    """An application whose worker is kept by a small supervisord, which is told by its supervisorctl."""

    def __init__(self, folder: Path, server: socket.socket) -> None:
        self.folder = folder
        self.place = module.Place(str(folder), "", [])
        self.lead_to(server)
        (folder / "artisan").write_text(WORKER)
        work = f"env $(cat {folder}/own) {sys.executable} {folder}/artisan queue:work"
        keeper = f"while [ ! -e {folder}/gone ]; do {work}; done\n"
        (folder / "supervisord").write_text(
            f"{keeper}while :; do sleep 0.05; [ -e {folder}/gone ] || exec sh $0; done\n"
        )
        (folder / "own").write_text("")
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        control = bin_folder / "supervisorctl"
        control.write_text(
            f"#!/bin/sh\nworker=$(tail -1 {folder}/started)\n"
            'case "$1" in status) echo "shop:worker_00  RUNNING  pid $worker, uptime 0:00";;\n'
            f'start) echo "$2" >> {folder}/told; rm -f {folder}/gone;; esac\n'
        )
        control.chmod(0o755)
        self.keeper = subprocess.Popen(["sh", str(folder / "supervisord")], start_new_session=True)

    def lead_to(self, server: socket.socket) -> None:
        host, port = server.getsockname()
        (self.folder / "redis").write_text(f"{host} {port}")

    def started(self) -> list[int]:
        """The numbers of all workers that there have been."""
        path = self.folder / "started"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def run(self, **more: Any) -> dict[str, Any]:
        empty: dict[str, Any] = {"connections": [], "not_connections": [], "values": {}, "left": [], "container": ""}
        return module.run({"path": str(self.folder), "state": "restarted", "patience": 5, **empty, **more}, False)


@pytest.fixture
def servers() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as old, socket.create_server(("127.0.0.1", 0)) as new:
        yield old, new


@pytest.fixture
def shop(
    tmp_path: Path, servers: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    monkeypatch.setattr(module, "BACK", 4)
    made = Shop(tmp_path, servers[0])
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    try:
        assert until(lambda: len(made.started()) == 1)
        yield made
    finally:
        os.killpg(made.keeper.pid, signal.SIGKILL)
        made.keeper.wait()


def until(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def at(server: socket.socket) -> list[dict[str, Any]]:
    host, port = server.getsockname()
    return [{"host": host, "port": port}]


def test_a_worker_is_restarted_and_must_use_the_new_redis(
    shop: Shop, servers: tuple[socket.socket, socket.socket]
) -> None:
    old, new = servers
    [first] = shop.started()
    shop.lead_to(new)
    done = shop.run(connections=at(new), not_connections=at(old))
    assert done["problems"] == []
    assert done["changed"]
    assert first != shop.started()[-1] == done["found"][0]["process"]
    assert done["found"][0]["connected"] == [":".join(map(str, new.getsockname()))]
    # One that goes on using the Redis of before is not taken for done.
    shop.lead_to(old)
    [sentence] = shop.run(connections=at(new), not_connections=at(old))["problems"]
    assert "is still connected to the Redis of before, 127.0.0.1:" in sentence


def test_a_variable_of_its_own_is_named(shop: Shop) -> None:
    (shop.folder / "own").write_text("REDIS_HOST=elsewhere")
    [sentence] = shop.run(values={"REDIS_HOST": "new"})["problems"]
    assert "has REDIS_HOST in its own environment, which outdoes the .env" in sentence


def test_a_job_in_hand_is_waited_for_and_never_killed(shop: Shop) -> None:
    (shop.folder / "busy").touch()
    with pytest.raises(module.Trouble, match=r"queue:work \(process \d+\) has not ended within 1 s.*is not killed"):
        shop.run(patience=1)
    assert Path(f"/proc/{shop.started()[-1]}").exists()


def reply(server: socket.socket) -> None:
    """Answer those who have asked and those who ask, as a Redis that wants a password."""
    for _ in range(4):
        server.accept()[0].sendall(b"-NOAUTH Authentication required.\r\n")


def test_one_that_hangs_on_a_redis_that_is_gone_holds_nobody_up(
    shop: Shop, servers: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER", 0.5)
    (shop.folder / "busy").touch()
    old, new = servers
    gone = {"connections": at(new), "not_connections": at(old)}
    # The old one takes connections, and says nothing.
    done = shop.run(patience=1, **gone)
    assert done["problems"] == []
    [sentence] = done["late"]
    assert "which does not answer: it ends as soon as it gives that up, and supervisor starts it anew" in sentence
    # One that answers would still be written to.
    threading.Thread(target=reply, args=(old,), daemon=True).start()
    with pytest.raises(module.Trouble, match=r"has not ended within 1 s"):
        shop.run(patience=1, **gone)


def test_one_that_does_not_come_back_is_started(shop: Shop) -> None:
    (shop.folder / "gone").touch()
    assert shop.run()["problems"] == []
    assert (shop.folder / "told").read_text() == "shop:worker_00\n"
    assert len(shop.started()) == 2


def test_nothing_that_belongs_to_nobody_is_touched(shop: Shop) -> None:
    own = subprocess.Popen([sys.executable, str(shop.folder / "artisan"), "schedule:work"], start_new_session=True)
    try:
        assert until((shop.folder / "other").exists)
        before = shop.started()
        done = shop.run()
        [sentence] = done["problems"]
        assert f"schedule:work (process {own.pid}) belongs to nobody who would start it anew" in sentence
        assert "put it under systemd or supervisor, or end it; leave: [schedule:work] leaves it as it is." in sentence
        assert not done["changed"]
        assert shop.started() == before
        assert own.poll() is None
        assert shop.run(left=["schedule:work"])["problems"] == []
        assert own.poll() is None
    finally:
        own.kill()
        own.wait()
