# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server in Slack's place, on this machine: what people would be told is heard here."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dev.ports import Port

# The part of a webhook's address that nobody may read.
SECRET = "T0/B0/nobody-may-read-this"


class Slack:
    """A web server in Slack's place; `mood` says how it behaves."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.asked: list[float] = []
        self.mood = "well"
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                slack.asked.append(time.monotonic())
                busy = slack.mood == "busy"
                if not busy:
                    slack.heard.append(f"{body['text']} {body['attachments'][0]['text']}")
                self.send_response(429 if busy else 200)
                if busy:
                    self.send_header("Retry-After", "2")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
                pass

        self.handler = Handler
        self.server: ThreadingHTTPServer | None = None
        self.port = Port()
        self.up()

    def up(self) -> None:
        """Begin to answer, on the same port as before."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def down(self) -> None:
        """Refuse every connection."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def count(self, words: str) -> int:
        """How often people were told something."""
        return sum(words in text for text in self.heard)

    @property
    def variables(self) -> dict[str, str]:
        """What an inventory says so that people are told here."""
        return {"spotcache_notify": "slack", "notify_slack_webhook": f"http://127.0.0.1:{self.port}/services/{SECRET}"}
