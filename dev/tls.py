# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of a Redis that speaks TLS alone: they know it by its authority, and by the name that clients go by."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import redis

# What speaks TLS over a connection that is open. It raises ssl.SSLError, an OSError, where it believes nobody.
Secure = Callable[[socket.socket], socket.socket]


def secured(authority: str, name: str) -> Secure:
    """What believes a server whose certificate is of that authority (as PEM) and has that name, and no other."""
    context = ssl.create_default_context(cadata=authority)
    return lambda opened: context.wrap_socket(opened, server_hostname=name)


class Connection(redis.Connection):
    """A connection to an address. redis-py's own looks for that in the certificate, whose name moves between hosts."""

    def __init__(self, *, secure: Secure, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._secure = secure

    def _connect(self) -> socket.socket:
        return self._secure(super()._connect())  # type: ignore[no-untyped-call]


def redis_client(host: str, port: int, secure: Secure | None = None, **options: Any) -> redis.Redis:
    """A client, over TLS where a way to speak it is given."""
    client = redis.Redis(host=host, port=port, **options)
    if secure:
        # Nothing is connected yet, and all else stays as the library has it.
        client.connection_pool.connection_class = Connection
        client.connection_pool.connection_kwargs["secure"] = secure
    return client
