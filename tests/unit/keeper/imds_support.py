"""A small metadata service for the watcher's tests: it announces what a test wants, and fails as a test wants."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "token-{}"


@dataclass
class FakeImds:
    """One host's metadata service, on the loopback.

    Attributes:
        values: by path below `/latest/meta-data/`.
        fault: `down`, `slow`, `401`, `garbage`, `500` or nothing.
        ahead: by how much its clock is ahead of this machine's.
        tokens: how many were given out; only the last one is taken.
        asked: paths in the order in which they were asked for.
    """

    values: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    ahead: timedelta = field(default_factory=timedelta)
    tokens: int = 0
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> FakeImds:  # noqa: PYI034 - typing.Self came with Python 3.11
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def date_time_string(self, timestamp: Any = None) -> str:  # noqa: ARG002
                return format_datetime(datetime.now(UTC) + fake.ahead, usegmt=True)

            def reply(self, code: int, text: str = "") -> None:
                body = text.encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def faulty(self) -> bool:
                if fake.fault == "down":
                    self.close_connection = True
                    self.connection.close()
                elif fake.fault == "slow":
                    time.sleep(1.0)
                    return False
                elif fake.fault == "401":
                    self.reply(401)
                elif fake.fault == "500":
                    self.reply(500)
                elif fake.fault == "garbage":
                    self.reply(200, "<html>\x00 not what was asked for")
                else:
                    return False
                return True

            def do_PUT(self) -> None:
                fake.asked.append("token")
                if fake.fault == "401" or not self.faulty():
                    fake.tokens += 1
                    self.reply(200, TOKEN.format(fake.tokens))

            def do_GET(self) -> None:
                path = self.path.removeprefix("/latest/meta-data/")
                fake.asked.append(path)
                if self.faulty():
                    return
                if self.headers["X-aws-ec2-metadata-token"] != TOKEN.format(fake.tokens):
                    self.reply(401)
                else:
                    self.reply(200 if path in fake.values else 404, fake.values.get(path, ""))

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def notice(self, seconds: float = 120, action: str = "terminate") -> str:
        """Announce an interruption; gives the text of its time."""
        due = datetime.now(UTC) + self.ahead + timedelta(seconds=seconds)
        text = due.strftime("%Y-%m-%dT%H:%M:%SZ")
        self.values["spot/instance-action"] = json.dumps({"action": action, "time": text})
        return text

    def rebalance(self) -> None:
        """Announce a rebalance recommendation."""
        text = (datetime.now(UTC) + self.ahead).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.values["events/recommendations/rebalance"] = json.dumps({"noticeTime": text})
