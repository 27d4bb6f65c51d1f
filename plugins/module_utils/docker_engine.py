"""Questions to the Docker engine over its socket, without any library: nothing here changes anything."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import http.client
import json
import re
import socket
from typing import Any
from urllib.parse import quote

SOCKET = "/var/run/docker.sock"

# What a server says at every start, and what says nothing about why it ended.
_NOISE = re.compile(
    r"oO0OoO0OoO0Oo|(?:Redis|Valkey) version=|Configuration loaded|overcommit|TCP backlog|maximum clients|"
    r"(?:Redis|Valkey) is now ready|User requested|Server initialized|signal-handler|listening socket ::1"
)
_SECRET_LINE = re.compile(r"^>>> '(user|requirepass|masterauth|primaryauth|tls-[a-z-]*pass)\b.*", re.IGNORECASE)


class EngineError(Exception):
    """The engine does not answer, or not as expected."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """The engine behind a socket."""

    def __init__(self, path: str = SOCKET, timeout: float = 20.0) -> None:
        """Remember where the engine listens."""
        self._path = path
        self._timeout = timeout

    def _get(self, target: str) -> bytes | None:
        connection = _Connection(self._path, self._timeout)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the Docker engine does not answer at {self._path}: {error}") from error
        finally:
            connection.close()
        if response.status == 404:
            return None
        if response.status >= 400:
            raise EngineError(f"the Docker engine answered {response.status}: {body.decode(errors='replace').strip()}")
        return body

    def _json(self, target: str) -> dict[str, Any] | None:
        body = self._get(target)
        if body is None:
            return None
        answer: dict[str, Any] = json.loads(body)
        return answer

    def info(self) -> dict[str, Any]:
        """The engine itself.

        Raises:
            EngineError: it does not answer.
        """
        return self._json("/info") or {}

    def image(self, name: str) -> dict[str, Any] | None:
        """An image by name or id, or None.

        Raises:
            EngineError: the engine does not answer.
        """
        return self._json(f"/images/{quote(name, safe='/:@')}/json")

    def container(self, name: str) -> dict[str, Any] | None:
        """A container by name or id, or None.

        Raises:
            EngineError: the engine does not answer.
        """
        return self._json(f"/containers/{quote(name)}/json")

    def logs(self, name: str, lines: int = 60) -> list[str]:
        """The last lines a container wrote.

        Raises:
            EngineError: the engine does not answer.
        """
        body = self._get(f"/containers/{quote(name)}/logs?stdout=1&stderr=1&tail={lines}") or b""
        return unframe(body).decode("utf-8", "replace").splitlines()


def unframe(data: bytes) -> bytes:
    """The text of a log stream: each piece comes with a header of eight bytes, unless the container has a terminal."""
    pieces = []
    position = 0
    while position + 8 <= len(data) and data[position] in (0, 1, 2) and data[position + 1 : position + 4] == b"\0\0\0":
        size = int.from_bytes(data[position + 4 : position + 8], "big")
        pieces.append(data[position + 8 : position + 8 + size])
        position += 8 + size
    pieces.append(data[position:])
    return b"".join(pieces)


def reason(lines: list[str], limit: int = 4) -> str:
    """Why a server ended, from its log: the last telling lines, without times and without secrets."""
    # A server that is started again and again says the same each time; before its last start it may have said more.
    starts = [number for number, line in enumerate(lines) if re.search(r"(?:Redis|Valkey) is starting", line)]
    last = lines[starts[-1] :] if starts else lines
    return _telling(last, limit) or _telling(lines, limit)


def _telling(lines: list[str], limit: int) -> str:
    told: list[str] = []
    for line in lines:
        text = re.sub(r"^\d+:[A-Z] \d\d \w+ \d{4} [\d:.]+ ", "", line).strip()
        notable = text.startswith(("# ", ">>> ", "***")) or "rror" in text or not re.match(r"^\d+:[A-Z] ", line)
        if not text or not notable or _NOISE.search(text):
            continue
        text = _SECRET_LINE.sub(r">>> '\1 ...'", text.removeprefix("# "))
        if text not in told:
            told.append(text)
    return " / ".join(told[-limit:])
