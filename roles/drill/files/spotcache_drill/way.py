"""How the client gets to a Redis: over the network, or through ssh from a machine that is let in.

A way is a list of words of a command line that joins its standard input and output with Redis' port, as `ssh -W` does;
`{address}`, `{public}`, `{host}` and `{port}` in it stand for where Redis is. An empty list is the network itself.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import IO

from spotcache_drill.client import Target
from spotcache_drill.wire import Connection, Opened, RedisError

# ssh may have to open a tunnel, log in and log in once more.
PATIENCE_SECONDS = 20.0


def words_for(way: Sequence[str], target: Target, port: int) -> list[str]:
    """The command line for one target."""
    places = {"{address}": target.address, "{public}": target.public, "{host}": target.host, "{port}": str(port)}

    def filled(word: str) -> str:
        for name, value in places.items():
            word = word.replace(name, value)
        return word

    return [filled(word) for word in way]


class Joined:
    """A socket at whose other end are a command's standard input and output.

    Args:
        words: the command line. It ends when this is closed.

    Raises:
        OSError: there is no such program.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the socket
            try:
                self._child = subprocess.Popen(
                    words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._errors
                )
            except OSError:
                self.socket.close()
                self._errors.close()
                raise

    def said(self) -> str:
        """The last of what the command complained of, which ssh does in two lines; empty without any."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        self._errors.seek(0)
        return "; ".join(self._errors.read().decode(errors="replace").strip().splitlines()[-2:])

    def close(self) -> None:
        """Leave. A command that waits for a host that is gone is not waited for."""
        self.socket.close()
        self._child.kill()
        self._child.wait()
        self._errors.close()


def plain(address: str, port: int, timeout: float) -> socket.socket:
    """A connection over the network."""
    opened = socket.create_connection((address, port), timeout=timeout)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def secured(authority: str, name: str) -> Callable[[socket.socket], socket.socket]:
    """What speaks TLS over a connection that is open, or leaves it as it is without an authority.

    Args:
        authority: certificate as PEM, by which Redis is known; empty where it speaks no TLS.
        name: that clients go by, whichever host serves: it must stand in the certificate.
    """
    if not authority:
        return lambda opened: opened
    context = ssl.create_default_context(cadata=authority)
    return lambda opened: context.wrap_socket(opened, server_hostname=name)


def connector(
    port: int,
    login: tuple[str, str],
    database: int,
    timeout: float,
    way: Sequence[str] = (),
    secure: Callable[[socket.socket], socket.socket] = lambda opened: opened,
) -> Callable[[Target], Connection]:
    """What opens connections. It raises OSError or RedisError, with what the way complained of."""

    def connect(target: Target) -> Connection:
        joined = Joined(words_for(way, target, port)) if way else None
        opened = joined.socket if joined else plain(target.address, port, timeout)
        leave = joined.close if joined else opened.close
        opened.settimeout(PATIENCE_SECONDS if way else timeout)
        try:
            # The one that it was is closed by this, or becomes the other.
            opened = secure(opened)
            if joined:
                joined.socket = opened
            leave = joined.close if joined else opened.close
            connection = Connection(Opened(opened, target.address, port), leave, login, database)
        except OSError as error:
            reason = joined.said() if joined else ""
            leave()
            if reason:
                raise ConnectionError(reason) from error
            raise
        except RedisError:
            leave()
            raise
        opened.settimeout(timeout)
        return connection

    return connect
