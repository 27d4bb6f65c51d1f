# SPDX-License-Identifier: GPL-3.0-or-later
"""AWS on paper: the sandbox's records without its hosts, so that a playbook's AWS part is quick, and can be forked.

A fork is a server of its own with exactly the records there were: what a run leaves that is killed at a moment is what
a fork of that moment holds. Run as a program it prints its port and serves for as long as its parent lives.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, cast
from urllib.parse import parse_qs

TICK_S = 0.25
# How often a fork that waits for its first request looks whether its parent still lives.
LOOK_S = 5.0
# What changes nothing, by the name of the action or, where there is none, by the method.
READS = re.compile(r"^(Describe|List|Get|Head|Batch ?Get|Lookup|Simulate|Filter|Assume|Search|Query|Scan|Receive)")
READING_METHODS = ("GET", "HEAD", "OPTIONS")


def action_of(method: str, path: str, headers: dict[str, str], body: bytes) -> str:
    """What a request asks for, as service and action, or as method and path where the service is a REST one."""
    service = re.search(r"Credential=[^/]+/[^/]+/[^/]+/([^/]+)/", headers.get("authorization", ""))
    name = service[1] if service else "?"
    target = headers.get("x-amz-target", "").rpartition(".")[2]
    if (not target and body.startswith(b"Action=")) or b"&Action=" in body:
        target = parse_qs(body.decode(errors="replace")).get("Action", [""])[0]
    return f"{name}:{target}" if target else f"{name}:{method} {path}"


def changes(action: str, method: str) -> bool:
    """Whether a request may change something."""
    name = action.partition(":")[2]
    if " " in name:
        return method not in READING_METHODS
    return READS.match(name) is None


class Machines:
    """`Machine` of the sandbox without a machine: a host runs, ends and has its disks on paper only."""

    snapshot_seconds = 0.0
    snapshot_result = "succeeded"

    def __init__(self) -> None:
        from sandbox.scaling import Hooks
        from sandbox.times import Times

        self.hooks: Any = Hooks(self.put_event)
        self.times = Times()

    def takes(self, what: str, span: tuple[float, float]) -> float:
        """Nothing takes any time: a fork has none of its parent's timers."""
        return 0.0

    def later(self, seconds: float, act: Callable[[], None], about: str) -> None:
        """At once."""
        act()

    def launch(self, instance: Any) -> None:
        """It runs."""
        instance._state.name, instance._state.code = "running", 16

    def shut_down(self, instance: Any, gone: Callable[[], None]) -> None:
        """It has ended."""
        gone()

    def stop(self, instance: Any) -> None:
        """Its record says so."""

    def start(self, instance: Any) -> None:
        """Its record says so."""

    def reboot(self, instance: Any) -> None:
        """There is nothing to start anew."""

    def attach(self, volume: Any, instance: Any, device: str) -> None:
        """There are no disks."""

    def detach(self, volume: Any, instance: Any) -> None:
        """There are no disks."""

    def fill(self, volume: Any, snapshot_id: str) -> None:
        """There are no bytes."""

    def copy(self, volume: Any, snapshot: Any) -> None:
        """There are no bytes."""

    def forget(self, object_id: str) -> None:
        """There is nothing behind its record."""

    def bake(self, instance: Any, image: Any) -> None:
        """There is nothing to bake."""

    def capacity(self, zone: str, instance_type: str, market: str) -> bool:
        """There is always some."""
        return True

    def refuses(self, group_name: str, zone: str) -> bool:
        """Nobody is refused."""
        return False

    def at_risk(self, instance: Any) -> str:
        """Nobody is."""
        return ""

    def scored(self, pools: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """As they come."""
        return pools

    def put_event(self, source: str, kind: str, detail: dict[str, Any], resources: list[str]) -> None:
        """Nobody listens."""


class Paper:
    """One server; its forks are others."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.calls: list[str] = []
        self.forks: list[dict[str, Any]] = []
        self.recording = False
        # A fork that nobody asks yet has nobody to look after its groups for.
        self.asked = threading.Event()

    def open(self) -> None:
        """Make moto behave, without anybody's hosts."""
        # Only the server's own process loads moto; whoever starts one has no use for it.
        from moto import settings
        from moto.autoscaling.models import autoscaling_backends
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        from sandbox import dlm, iam, instance_connect, moto_gaps, subscriptions, tables, zones
        from sandbox.scaling import Clock

        self.machines = Machines()
        # A backup every quarter of a minute is all that EBS takes, and nobody here has the time.
        moto_gaps.SNAPSHOT_INTERVAL_S = 0
        moto_gaps.Gaps(self.machines).close()
        self.machines.hooks.close_gaps()
        tables.close_gaps()
        zones.close_gaps()
        subscriptions.close_gaps(lambda subscription: None)
        dlm.register(Clock())
        # Everybody may do everything until there is somebody to ask about.
        self.settings: Any = settings
        settings.INITIAL_NO_AUTH_ACTION_COUNT = sys.maxsize
        iam.close_gaps()

        class Endpoints(instance_connect.InstanceConnect):
            """Without a network: one is there, or gone, at once, for a fork has none of its parent's timers."""

            def plug(self, endpoint: Any) -> None:
                """Nothing to plug into."""

            def unplug(self, endpoint: Any) -> None:
                """Nothing to unplug from."""

            def _later(self, act: Callable[[Any], None], endpoint: Any) -> None:
                act(endpoint)

        Endpoints(cast("Any", None)).close_gaps()
        self.groups = autoscaling_backends
        self.moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """One request, one at a time: nobody is in the middle of anything when the process is forked."""
        self.asked.set()
        path = environ.get("PATH_INFO", "/")
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        if path.startswith("/_paper/"):
            answer = json.dumps(self.command(path.removeprefix("/_paper/"))).encode()
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
            return [answer]
        environ["wsgi.input"] = io.BytesIO(body)
        headers = {k[5:].replace("_", "-").lower(): v for k, v in environ.items() if k.startswith("HTTP_")}
        method = environ["REQUEST_METHOD"]
        action = action_of(method, path, headers, body)
        counted = self.recording and changes(action, method)
        with self.lock:
            told: list[Any] = []
            said: list[bytes] = list(self.moto(environ, lambda *words: told.append(words)))
            if counted:
                self.calls.append(action)
                self.forks.append({"moment": len(self.calls), "action": action, **self.fork()})
        start_response(*told[-1])
        return said

    def command(self, name: str) -> Any:
        """What the test asks of it."""
        with self.lock:
            if name == "record":
                self.calls, self.forks, self.recording = [], [], True
                return {}
            if name == "recorded":
                self.recording = False
                return self.forks
            if name == "fork":
                return self.fork()
            if name == "authorize":
                # From now on each call is decided by its caller's policies; forks inherit it.
                self.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
                return {}
        raise KeyError(name)

    def fork(self) -> dict[str, Any]:
        """Another server with the same records."""
        reading, writing = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(writing)
            with os.fdopen(reading) as answer:
                return {"port": int(answer.readline()), "pid": pid}
        os.close(reading)
        self.lock = threading.RLock()
        self.forks, self.recording, self.asked = [], False, threading.Event()
        try:
            self.serve(lambda port: os.write(writing, f"{port}\n".encode()), parent)
        finally:
            os._exit(0)

    def serve(self, tell: Callable[[int], object], parent: int) -> None:
        """Serve on a port of the kernel's choice, for as long as the process lives that asked for it."""
        from werkzeug.serving import make_server

        server = make_server("127.0.0.1", 0, self, threaded=True)
        threading.Thread(target=self.tick, args=(parent,), daemon=True).start()
        tell(server.server_port)
        server.serve_forever()

    def tick(self, parent: int) -> None:
        """Auto Scaling looks after its groups."""
        from sandbox.moto_gaps import tend

        try:
            while os.getppid() == parent:
                time.sleep(TICK_S)
                if not self.asked.wait(LOOK_S):
                    continue
                with self.lock:
                    for regions in list(self.groups.values()):
                        for backend in list(regions.values()):
                            for group in list(backend.autoscaling_groups.values()):
                                tend(group, self.machines)
        except Exception:
            # Records that nobody looks after would only make every wait end in vain.
            traceback.print_exc()
        os._exit(0)


def main() -> int:
    """Serve until the process that started this one has gone."""
    # Before anything that takes a while: whoever ends meanwhile would leave this server to somebody who never does.
    parent = os.getppid()
    argparse.ArgumentParser(description=__doc__).parse_args()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    paper = Paper()
    paper.open()
    paper.serve(lambda port: print(port, flush=True), parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
