# SPDX-License-Identifier: GPL-3.0-or-later
"""A port that a server is told is its own: nobody else is given it, before its first start and between two starts."""

from __future__ import annotations

import errno
import gc
import socket
import struct
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dev.ports import Port

# ip(7): the range from which the kernel chooses a port for this socket. Since Linux 6.3.
IP_LOCAL_PORT_RANGE = 51


def given(port: int, choose: Callable[[socket.socket], None]) -> bool:
    """Whether the kernel gives somebody this port, when it may choose no other."""
    with socket.socket() as chooser:
        chooser.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            chooser.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port << 16 | port))
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            pytest.skip("only Linux 6.3 and newer can be told from which ports to choose")
        try:
            choose(chooser)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
            return False
        return int(chooser.getsockname()[1]) == port


def given_to_a_server(port: int) -> bool:
    return given(port, lambda server: server.bind(("127.0.0.1", 0)))


def given_to_a_client(port: int) -> bool:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return given(port, lambda client: client.connect(server.getsockname()))


def test_nobody_else_is_given_a_port_that_is_held() -> None:
    port = Port()
    number = int(port)
    assert f"{port}" == str(port) == str(number)
    assert not given_to_a_server(number)
    assert not given_to_a_client(number)
    del port
    gc.collect()
    assert given_to_a_server(number)
    assert given_to_a_client(number)


def test_the_server_that_is_told_it_has_it_at_every_start() -> None:
    port = Port()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)
        with HTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler) as server:
            client = socket.create_connection(("127.0.0.1", port), 1)
            accepted, _address = server.socket.accept()
            # The server's side closes first, so its port has to wait for the other's last words.
            accepted.close()
        assert not given_to_a_server(port)
        client.close()
