"""One connection to one Redis, by redis-py, on which nothing is sent twice.

redis-py's clients and pools connect anew and ask again by themselves, and a drill has to know which write was
confirmed, and when none was. So it uses redis-py's connection alone, which sends a command once and reads one answer.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import socket
from collections.abc import Callable

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# For redis-py some of these are errors of the connection, although Redis has answered.
_ANSWERS = (redis.ResponseError, redis.InvalidResponse, redis.AuthenticationError, redis.BusyLoadingError)


class RedisError(Exception):
    """Redis answered with an error, or with something that is no answer."""


class Opened(redis.Connection):
    """redis-py's connection over a socket that is open already; host and port are what its errors name."""

    def __init__(self, opened: socket.socket, host: str, port: int) -> None:
        # RESP2, and no name of the driver: each would send the first answer there and back once more.
        super().__init__(host=host, port=port, protocol=2, driver_info=None, retry=Retry(NoBackoff(), 0))
        self._opened = opened

    def _connect(self) -> socket.socket:
        return self._opened


class Connection:
    """One connection to one Redis, logged in.

    Args:
        opened: what leads to it.
        leave: closes what carries it. It is the caller's to call when this raises.
        login: user and password. Without a user it is the default user's; without a password nobody logs in.
        database: number of the database.

    Raises:
        OSError: nobody answers there.
        RedisError: the login or the database is refused.
    """

    def __init__(self, opened: Opened, leave: Callable[[], None], login: tuple[str, str], database: int) -> None:
        self._opened, self._leave = opened, leave
        opened.connect()
        username, password = (word.encode() for word in login)
        if password:
            self.ask(b"AUTH", *([username] if username else []), password)
        self.ask(b"SELECT", b"%d" % database)

    def ask(self, *words: bytes) -> object:
        """One command and its answer: bytes, int, None or a list of such.

        Raises:
            OSError: the connection ended, or no answer came in time; there is no use in it any more.
            RedisError: the answer is an error, or none of Redis' answers.
        """
        try:
            self._opened.send_command(*words)
            answer: object = self._opened.read_response()
        except _ANSWERS as error:
            raise RedisError(f"{error.status_code or ''} {error}".strip()) from error
        except redis.TimeoutError as error:
            raise TimeoutError(str(error)) from error
        except redis.ConnectionError as error:
            raise ConnectionError(str(error)) from error
        return answer

    def close(self) -> None:
        """Leave."""
        self._opened.disconnect()
        self._leave()
