# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's configuration: what follows from it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spotcache_keeper.config import load_config, parse_config
from spotcache_keeper.errors import ConfigError

from dev.keeper_json import KEEPER_JSON


def test_what_follows_from_a_configuration() -> None:
    config = parse_config(KEEPER_JSON, "test")
    assert str(config.backups_directory) == "/srv/redis/backups"
    assert config.s3_prefix == "stg/backups/"
    assert config.password() is None


@pytest.mark.parametrize("key", sorted(KEEPER_JSON))
def test_the_program_has_no_defaults_of_its_own(key: str) -> None:
    """What the roles say and what the program believes cannot differ: it believes nothing that it was not told."""
    with pytest.raises(ConfigError, match=f"test: '{key}' is missing; the keeper role writes every key"):
        parse_config({name: value for name, value in KEEPER_JSON.items() if name != key}, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "Stg"}, "test: environment is 'Stg'; it must be a lower-case name such as stg"),
        ({"environment": None}, "'environment' is missing"),
        ({"region": "tokyo"}, "region is 'tokyo'; it must be an AWS region such as ap-northeast-1"),
        ({"bucket": "B"}, "bucket is 'B'"),
        ({"endpoint_url": "10.0.0.1:5000"}, "endpoint_url is '10.0.0.1:5000'; it must be an http or https address"),
        ({"redis_port": "6379"}, "redis_port is '6379'; it must be a whole number"),
        ({"redis_port": 70000}, "a TCP port, at most 65535"),
        ({"keep_local_count": 0}, "keep_local_count is 0; it must be a whole number of at least 1"),
        ({"keep_local_count": True}, "keep_local_count is True"),
        ({"appendonly": "yes"}, "appendonly is 'yes'; it must be true or false"),
        ({"volume_path": "srv/redis"}, "volume_path is 'srv/redis'; it must be an absolute path"),
        ({"redis_directory": "/var/redis"}, "redis_directory /var/redis must lie below volume_path /srv/redis"),
        ({"dbfilename": "../dump.rdb"}, "a file name without a directory"),
        ({"container": 5}, "container is 5; it must be a text"),
        ({"buckett": "x"}, "unknown key 'buckett'; known are address, address_files, allow_empty, "),
        ({"volume_labels": {"ext4": "data"}}, "volume_labels must be an object with ext4 and xfs"),
        (
            {"volume_labels": {"ext4": "spotcache-data", "xfs": "spotcache-data"}},
            "volume_labels.xfs is 'spotcache-data'; it must be a label of at most 12 characters",
        ),
        ({"mount_options": {"ext4": "a b", "xfs": "nouuid"}}, "mount_options.ext4 is 'a b'; it must be mount options"),
        (
            {"timeouts": {**KEEPER_JSON["timeouts"], "stop": 0}},
            "timeouts.stop is 0; it must be a whole number of seconds, at least 1",
        ),
        ({"timeouts": {"stop": 5}}, "timeouts.answer is missing"),
        ({"timeouts": {**KEEPER_JSON["timeouts"], "sleep": 5}}, "unknown timeout 'sleep'; known are answer, backup"),
        ({"timeouts": 5}, "timeouts must be an object"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**KEEPER_JSON, **change}, "test")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_configuration_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "keeper.json"
    with pytest.raises(ConfigError, match=r"keeper\.json cannot be read: .*the keeper role writes it"):
        load_config(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"keeper\.json is not JSON"):
        load_config(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="must hold one JSON object, not list"):
        load_config(path)


def test_the_password_file_must_be_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "password"
    config = parse_config({**KEEPER_JSON, "redis_password_file": str(path)}, "test")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.password()
    path.write_text(" pass word\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"is open to every user \(mode 0644\): chmod 600 it"):
        config.password()
    path.chmod(0o600)
    assert config.password() == " pass word"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        config.password()
