# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys into a Redis that speaks TLS alone, and out of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dev import keys
from dev.tls import Secure, redis_client, secured
from tests.unit.redis.certificates import NAME, Authority
from tests.unit.redis.support import redis_server

HERE, PASSWORD = "127.0.0.1", "a-password-for-a-test-only"
COUNT = 20_000


class Served:
    """A server, and who vouches for it."""

    def __init__(self, port: int, authority: Authority) -> None:
        self.port, self.authority = port, authority

    def ping(self, secure: Secure | None) -> object:
        """What a client is answered that tries once."""
        login = {"username": keys.USERNAME, "password": PASSWORD}
        with redis_client(HERE, self.port, secure, **login, retry=Retry(NoBackoff(), 0), socket_timeout=5) as client:
            return client.ping()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    authority = Authority()
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        server.start_with_tls(authority.issue(), f"user {keys.USERNAME} on >{PASSWORD} ~* +@all\nsave ''\n")
        yield Served(server.port, authority)


def test_whoever_is_not_of_the_authority_or_goes_by_another_name_is_not_believed(served: Served) -> None:
    assert served.ping(secured(served.authority.pem, NAME)) is True
    for pem, name in ((Authority().pem, NAME), (served.authority.pem, "redis.elsewhere.internal")):
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            served.ping(secured(pem, name))
    with pytest.raises(redis.ConnectionError):
        served.ping(None)


def test_keys_are_loaded_and_read_over_it(served: Served) -> None:
    secure = secured(served.authority.pem, NAME)
    keys.load(HERE, served.port, PASSWORD, keys.load_commands(COUNT, 10**13), secure)
    found = keys.fingerprint(HERE, served.port, PASSWORD, secure=secure)
    assert sum(one.keys for one in found.values()) == COUNT
    with pytest.raises(keys.LoadError, match="refused a key: -ERR"):
        keys.load(HERE, served.port, PASSWORD, [keys.command(b"SET", b"only a key")], secure)
    with pytest.raises(OSError, match="certificate verify failed"):
        keys.load(HERE, served.port, PASSWORD, [], secured(Authority().pem, NAME))
