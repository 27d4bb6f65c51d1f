"""As much of Redis' protocol as a client needs that writes and reads strings."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import BinaryIO


class RedisError(Exception):
    """Redis answered with an error, or with something that is no answer."""


def encoded(words: Sequence[bytes]) -> bytes:
    """One command."""
    return b"*%d\r\n%s" % (len(words), b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))


def decoded(stream: BinaryIO) -> object:
    """One answer: bytes, int, None or a list of such.

    Raises:
        RedisError: it is an error, or none of Redis' answers.
        OSError: the connection ended.
    """
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("Redis closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest
    if kind == b"-":
        raise RedisError(rest.decode(errors="replace"))
    if kind == b":":
        return int(rest)
    if kind == b"$":
        size = int(rest)
        if size < 0:
            return None
        body = stream.read(size + 2)
        if len(body) != size + 2:
            raise ConnectionError("Redis closed the connection in the middle of an answer")
        return body[:-2]
    if kind == b"*":
        return [decoded(stream) for _element in range(int(rest))]
    raise RedisError(f"this is no answer of Redis: {line[:40]!r}")


class Connection:
    """One connection to one Redis.

    Args:
        opened: a socket to it. It is the caller's to close when this raises.
        password: of the default user; empty for none.
        database: number of the database.
        timeout: seconds for each answer.
        patience: seconds for the first answer, where the way itself takes a while.

    Raises:
        OSError: nobody answers there.
        RedisError: the password or the database is refused.
    """

    def __init__(
        self, opened: socket.socket, password: str, database: int, timeout: float, patience: float | None = None
    ) -> None:
        self._socket = opened
        self._socket.settimeout(patience or timeout)
        self._stream = self._socket.makefile("rb")
        if password:
            self.ask(b"AUTH", password.encode())
        self.ask(b"SELECT", b"%d" % database)
        self._socket.settimeout(timeout)

    def ask(self, *words: bytes) -> object:
        """One command and its answer."""
        self._socket.sendall(encoded(words))
        return decoded(self._stream)

    def close(self) -> None:
        """Leave."""
        self._stream.close()
        self._socket.close()
