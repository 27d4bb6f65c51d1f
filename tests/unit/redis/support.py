"""A real redis-server on loopback."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.spotcache.redis.plugins.module_utils.redis_wire import Connection, RedisError

from dev.ports import Port
from tests.unit.redis.certificates import Issued


@dataclass
class Server:
    """A redis-server and its files, laid out as on a host."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        """What every configuration of this server begins with."""
        return f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\nloglevel warning\n"

    def start(self, text: str = "", secrets: str = "") -> None:
        """Start with a configuration and wait until it answers."""
        config, more = self.directory / "started.conf", self.directory / "started-secrets.conf"
        config.write_text(self.base + text + f"include {more}\n")
        more.write_text(secrets)
        self.process = subprocess.Popen(["redis-server", str(config)], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 5) as opened:
                    if "tls-port" in text:
                        return  # it speaks TLS
                    opened.close()
                Connection("127.0.0.1", self.port).command("PING")
            except OSError:
                pass
            except RedisError as error:
                if not str(error).startswith("LOADING"):
                    return  # it wants a password
            else:
                return
            assert time.monotonic() < end, "redis-server does not start"
            time.sleep(0.02)

    def start_with_tls(self, issued: Issued, text: str = "") -> None:
        """Start it so that it speaks TLS alone."""
        files = {
            "tls-cert-file": issued.certificate,
            "tls-key-file": issued.private_key,
            "tls-ca-cert-file": issued.authority,
        }
        for name, content in files.items():
            (self.directory / name).write_text(content)
        lines = "".join(f"{name} {self.directory / name}\n" for name in files)
        self.start(f"{text}port 0\ntls-port {self.port}\ntls-auth-clients no\n{lines}")

    def stop(self) -> None:
        """Stop it, without a save."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def connect(self, password: str = "") -> Connection:
        """A connection that is logged in."""
        connection = Connection("127.0.0.1", self.port)
        connection.command("AUTH", "default", password)
        return connection


@contextmanager
def redis_server(directory: Path) -> Iterator[Server]:
    """A server that ends with the test."""
    assert shutil.which("redis-server"), "redis-server is missing: apt-get install redis-server"
    server = Server(directory, Port())
    try:
        yield server
    finally:
        server.stop()
