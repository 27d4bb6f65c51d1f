"""The keeper and a Redis that speaks TLS alone."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from pathlib import Path

import pytest
from spotcache_keeper.server.client import NotAnsweringError, Redis, save_in_background

from tests.unit.redis.certificates import Authority
from tests.unit.redis.support import redis_server


def test_it_believes_its_authority_alone(tmp_path: Path) -> None:
    authority, own, strange = Authority(), tmp_path / "ca.crt", tmp_path / "strange.crt"
    own.write_text(authority.pem)
    strange.write_text(Authority().pem)
    with redis_server(tmp_path) as running:
        running.start_with_tls(authority.issue())
        # Its address on the host need not stand in the certificate.
        with Redis(host="localhost", port=running.port, tls_ca=own) as server:
            assert save_in_background(server, 30).save_ok
        with (
            Redis(port=running.port, tls_ca=strange) as server,
            pytest.raises(NotAnsweringError, match="verify failed"),
        ):
            server.state()
        with Redis(port=running.port) as server, pytest.raises(NotAnsweringError):
            server.state()
