"""A Redis connection in a few lines, so that a host needs no client library."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterable
from typing import Any


class RedisError(Exception):
    """The server answered with an error; the text is the server's own."""


def trusting(authorities: Iterable[str]) -> ssl.SSLContext:
    """What a server on this host is believed by: a certificate of one of these authorities, given as files.

    Not its name, since the host's own address need not stand in it; whoever could answer there instead is on this host.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    for path in authorities:
        if os.path.exists(path):
            context.load_verify_locations(path)
    return context


class Connection:
    """One connection over TCP, through TLS where a context is given.

    Raises:
        OSError: nobody listens there, the certificate is not believed, or the connection broke.
    """

    def __init__(self, host: str, port: int, timeout: float = 5.0, tls: ssl.SSLContext | None = None) -> None:
        """Connect."""
        self._socket = socket.create_connection((host, port), timeout=timeout)
        if tls:
            try:
                self._socket = tls.wrap_socket(self._socket)
            except OSError:
                self._socket.close()
                raise
        self._reader = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
        self._socket.close()

    def command(self, *arguments: str) -> Any:
        """Send a command and return its answer: str, int, None or a list of them.

        Raises:
            RedisError: the server refused it.
            OSError: the connection broke.
        """
        encoded = [argument.encode("utf-8", "surrogateescape") for argument in arguments]
        parts = [b"*%d\r\n" % len(encoded)]
        parts += [b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in encoded]
        self._socket.sendall(b"".join(parts))
        return self._answer()

    def _line(self) -> bytes:
        line = self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        return line[:-2]

    def _answer(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:].decode("utf-8", "surrogateescape")
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RedisError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._bulk(int(rest))
        if kind == b"*":
            # An error inside a list would leave the rest unread; no command used here gives one.
            return None if rest == "-1" else [self._answer() for _element in range(int(rest))]
        raise ConnectionError("that is no Redis server: its answer makes no sense")

    def _bulk(self, size: int) -> str | None:
        if size < 0:
            return None
        data = self._reader.read(size + 2)
        if len(data) != size + 2:
            raise ConnectionError("the server closed the connection")
        return data[:-2].decode("utf-8", "surrogateescape")

    def info(self, section: str) -> dict[str, str]:
        """One section of INFO as a mapping."""
        lines = str(self.command("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))

    def settings(self) -> dict[str, str]:
        """All live settings."""
        answer = self.command("CONFIG", "GET", "*")
        return dict(zip(answer[::2], answer[1::2], strict=True))
