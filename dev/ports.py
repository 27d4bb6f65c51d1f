# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for servers that are told theirs, such as redis-server."""

from __future__ import annotations

import socket
from typing import Self


class Port(int):
    """A TCP port of 127.0.0.1 that no other program is given for as long as this object lives.

    It is bound, and nobody listens: connections are refused until the server that was told the port is up, and again
    when it is down. Linux gives a bound port neither to a server that asks for any port nor to a client that connects.
    Whoever names it can have it all the same, at every start, if it sets SO_REUSEADDR as this does: two may then be
    bound while the other does not listen (socket(7)). redis-server, nginx and Python's servers do.
    """

    _held: socket.socket

    def __new__(cls) -> Self:
        """Have the kernel choose one."""
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = super().__new__(cls, held.getsockname()[1])
        port._held = held
        return port

    def __del__(self) -> None:
        """Let others have it."""
        self._held.close()
