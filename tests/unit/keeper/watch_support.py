"""A host, what it sees and whom it talks to: for the tests of the watcher and of a boot."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import redis
import requests
from moto.backends import get_backend
from moto.server import ThreadedMotoServer
from spotcache_keeper.aws.imds import Imds
from spotcache_keeper.aws.signed import Objects, Signed, role_credentials
from spotcache_keeper.backup.serving import note_serving
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import FinalRecord, LeaseStore
from spotcache_keeper.node.renew import LeaseHolder
from spotcache_keeper.node.watch import Watch
from spotcache_keeper.outside import Outside
from spotcache_keeper.overview import make_status
from spotcache_keeper.stores.s3 import S3Store
from spotcache_keeper.system.state import SERVING, recall

from tests.unit.keeper.imds_support import FakeImds
from tests.unit.keeper.support import PASSWORD, REGION, ZONE, TestHost

TOPIC = f"arn:aws:sns:{REGION}:123456789012:spotcache-stg"
HOST = "i-0123456789abcdef0"


@contextmanager
def moto_server() -> Iterator[str]:
    """Moto's server: the watcher signs requests itself, so they must really travel."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        yield f"http://{address}:{port}"
    server.stop()


@contextmanager
def slow_way_to(endpoint: str, bytes_per_second: int) -> Iterator[str]:
    """A way to an endpoint on which what is sent moves slowly, and what comes back at once."""
    target = urlsplit(endpoint)

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((str(target.hostname), int(target.port or 80)), timeout=30) as there:
                back = threading.Thread(target=self.forward, args=(there, self.request, 0.0), daemon=True)
                back.start()
                self.forward(self.request, there, 1 / bytes_per_second)
                with suppress(OSError):
                    there.shutdown(socket.SHUT_WR)
                back.join(5)

        @staticmethod
        def forward(here: socket.socket, there: socket.socket, seconds_per_byte: float) -> None:
            with suppress(OSError):
                while data := here.recv(16384):
                    time.sleep(len(data) * seconds_per_byte)
                    there.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Way) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Early:
    """In place of the process that takes an early backup."""

    def __init__(self) -> None:
        self.started = 0
        self.result: tuple[bool, str] | None = None

    def start(self) -> None:
        self.started += 1

    def ended(self) -> tuple[bool, str] | None:
        result, self.result = self.result, None
        return result


@dataclass
class Gate:
    """`Guard` that says what it was told: until when it was opened last, None while it is closed."""

    holds: bool = True
    open_until: float | None = None
    broken: bool = False

    def prepare(self) -> None:
        self._tell(self.open_until)

    def open(self, until: float) -> None:
        self._tell(until)

    def close(self) -> None:
        self._tell(None)

    def _tell(self, until: float | None) -> None:
        if self.broken:
            raise KeeperError("the kernel takes nothing")
        self.open_until = until


@dataclass
class World:
    """A host, what it sees and whom it talks to."""

    host: TestHost
    imds: FakeImds
    endpoint: str
    clock: float = 0.0
    said: list[str] = field(default_factory=list)
    early: Early = field(default_factory=Early)
    booted_again: list[float] = field(default_factory=list)
    guard: Gate = field(default_factory=lambda: Gate())

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=REGION, endpoint_url=self.endpoint)

    @property
    def outside(self) -> Outside:
        imds = Imds(self.imds.url, timeout=0.3)
        aws = Signed(REGION, self.endpoint, lambda: role_credentials(imds), timeout=2)
        leases = LeaseStore(Objects(aws, "backups"), self.host.config.shared_prefix)
        return Outside(imds, aws, leases, self.host.config.topic_arn, self.client, "boot-1")

    def watch(self, **changes: Any) -> Watch:
        """The watcher, started (again)."""
        outside = replace(self.outside, **changes)
        context = self.host.context(
            clock=lambda: self.clock, guard=self.guard, leases=outside.leases, boot_id=outside.boot_id
        )
        if not recall(context.config.state_directory, SERVING):
            # It serves, as its first renewal would say.
            note_serving(context, 0, outside.boot_id)
        return Watch(
            context,
            outside,
            self.said.append,
            self.early,  # type: ignore[arg-type]
            LeaseHolder(context, outside),
            lambda: self.booted_again.append(self.clock),
        )

    def told(self) -> list[dict[str, Any]]:
        """The messages that went to the topic."""
        topic = get_backend("sns")["123456789012"][REGION].topics.get(TOPIC)
        return [json.loads(entry[1]) for entry in (topic.sent_notifications if topic else [])]

    @property
    def final(self) -> FinalRecord | None:
        return self.outside.leases.final(HOST)

    @property
    def backups_in_s3(self) -> list[str]:
        return [backup_id for backup_id, backup in self.host.s3.stored().items() if backup.has_manifest]

    def writes(self) -> bool:
        """Whether Redis takes a write."""
        with redis.Redis(port=self.host.port, password=PASSWORD, socket_timeout=0.2) as client:
            try:
                return bool(client.set("probe", "x"))
            except redis.TimeoutError:
                return False

    def line(self, part: str) -> str:
        """The one line that a person was told with these words."""
        found = [line for line in self.said if part in line]
        assert len(found) == 1, self.said
        assert part in json.dumps(make_status(self.host.context())["watch"]["lines"])
        return found[0]


@contextmanager
def made_world(directory: Path, moto: str) -> Iterator[World]:
    """A fresh account, and a host in it whose Redis runs."""
    requests.post(f"{moto}/moto-api/reset", timeout=5)
    host = TestHost(directory)
    host.start()
    with FakeImds({"instance-id": HOST, "placement/availability-zone": ZONE, "local-ipv4": "10.0.0.7"}) as imds:
        made = World(host, imds, moto)
        s3 = made.client("s3")
        s3.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION})
        made.client("sns").create_topic(Name="spotcache-stg")
        host.s3 = S3Store(lambda: s3, "backups", host.config.s3_prefix, host.environment)
        host.config = replace(host.config, topic_arn=TOPIC)
        yield made
    host.engine.kill()
