"""What the role redis refuses, and how it says so."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.spotcache.redis.plugins.filter.docker_daemon import docker_daemon
from ansible_collections.spotcache.redis.plugins.filter.redis_bytes import redis_bytes
from ansible_collections.spotcache.redis.plugins.filter.redis_lines import redis_lines
from ansible_collections.spotcache.redis.plugins.filter.redis_problems import redis_problems

from tests.unit.redis.certificates import Authority

ROOT = Path(__file__).resolve().parents[3]
DEFAULTS: dict[str, Any] = yaml.safe_load((ROOT / "roles/redis/defaults/main.yml").read_text())
GOOD = DEFAULTS | {"redis_password": "correct-horse-battery-staple"}
SECRET = "hunter2 is far too short"
JOE = {"name": "joe", "password": "x" * 16}


def problems(memory_mb: int = 2000, **changes: Any) -> list[str]:
    return redis_problems(GOOD | changes, memory_mb=memory_mb)


def test_defaults_with_a_password_are_fine() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"redis_password": ""}, "redis_password is empty: set it to 16 or more characters"),
        ({"redis_password": None}, "redis_password is empty"),
        ({"redis_password": 0}, "redis_password is 0, which Laravel takes for no password"),
        ({"redis_password": "0"}, "redis_password is 0, which Laravel"),
        ({"redis_password": 1234567890123456}, "redis_password is read as a number or a date and not as text"),
        ({"redis_password": "fifteen-letters"}, "redis_password has only 15 characters"),
        ({"redis_password": "with a blank in the middle"}, "contains a blank"),
        ({"redis_password": "with-a-line-break-at-its-end\n"}, "a line break"),
        ({"redis_password": "x" * 600}, "has 600 characters"),
        ({"redis_profile": "sessions"}, 'redis_profile is "sessions": choose one of cache, queue, session'),
        ({"redis_port": 0}, "redis_port is 0: choose a number from 1 to 65535"),
        ({"redis_port": 65536}, "redis_port is 65536"),
        ({"redis_bind": ["eth0"]}, 'redis_bind contains "eth0", which is no address'),
        ({"redis_save": ["900"]}, 'redis_save contains "900", which is no save policy'),
        ({"redis_save": ["900 one"]}, 'redis_save contains "900 one"'),
        ({"redis_save": ["0 1"]}, 'redis_save contains "0 1"'),
        ({"redis_dbfilename": "../dump.rdb"}, 'redis_dbfilename is "../dump.rdb"'),
        ({"redis_maxmemory": "3gb"}, "redis_maxmemory is 3gb, the host has 2000mb: choose less"),
        ({"redis_maxmemory": "much"}, 'redis_maxmemory is "much": write a size'),
        ({"redis_maxmemory": "0"}, 'redis_maxmemory is "0"'),
        ({"redis_maxmemory": "1gb", "redis_memory_limit": "1gb"}, "redis_memory_limit is 1gb and redis_maxmemory 1gb"),
        ({"redis_memory_limit": "lots"}, 'redis_memory_limit is "lots"'),
        ({"redis_maxmemory_policy": "lru"}, 'redis_maxmemory_policy is "lru": choose one of noeviction'),
        ({"redis_settings": {"requirepass": "x"}}, "redis_settings contains requirepass: use redis_password"),
        ({"redis_settings": {"aclfile": "/x"}}, "redis_settings contains aclfile"),
        ({"redis_settings": {"Bind": "*"}}, "redis_settings contains Bind: use redis_bind"),
        ({"redis_settings": {"masterauth": "x"}}, "put it into redis_secret_settings"),
        ({"redis_settings": {"loglevel": "notice\nrequirepass x"}}, "loglevel contains a line break"),
        ({"redis_settings": {"bad name": 1}}, '"bad name", which is no name of a directive'),
        ({"redis_settings": {"maxclients": {"a": 1}}}, "maxclients is a mapping"),
        ({"redis_secret_settings": {"maxclients": 1}}, "only masterauth, primaryauth, tls-client-key-file-pass"),
        ({"redis_secret_settings": {"requirepass": "x"}}, "contains requirepass: use redis_password"),
        ({"redis_engine": "keydb"}, 'redis_engine is "keydb": choose redis or valkey'),
        (
            {"redis_engine": "valkey", "redis_host_release": "12"},
            'redis_engine is "valkey", redis_image_source is "build", and Debian 12 has no package valkey-server',
        ),
        ({"redis_image_source": "pull"}, 'redis_image is empty, and redis_image_source is "pull"'),
        ({"redis_image_source": "pull", "redis_image": "redis"}, "add a tag or a digest"),
        ({"redis_image_source": "load", "redis_image": "a:1"}, "redis_image_archive is empty"),
        ({"redis_package_version": "newest!"}, 'redis_package_version is "newest!"'),
        ({"redis_volume_id": "/dev/xvdf"}, 'redis_volume_id is "/dev/xvdf": write the id of an EBS volume'),
        ({"redis_stop_timeout": 0}, "redis_stop_timeout is 0"),
        ({"redis_log_max_size": "big"}, 'redis_log_max_size is "big"'),
    ],
)
def test_bad_input_is_named_with_its_value_and_the_fix(changes: dict[str, Any], expected: str) -> None:
    found = problems(**changes)
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"redis_password": "x" * 16},
        {"redis_save": []},
        {"redis_save": ["900 1 300 10"]},
        {"redis_bind": ["*", "-::*"]},
        {"redis_bind": ["10.0.0.5", "-::1"]},
        {"redis_image_source": "pull", "redis_image": "redis:7.2"},
        {"redis_image_source": "pull", "redis_image": "registry.example:5000/redis@sha256:" + "a" * 64},
        {"redis_settings": {"client-output-buffer-limit": ["normal 0 0 0", "pubsub 1mb 1mb 60"]}},
        {"redis_volume_id": "vol-0123456789abcdef0"},
        {"redis_maxmemory": "2000mb"},
    ],
)
def test_good_input_passes(changes: dict[str, Any]) -> None:
    assert problems(**changes) == []


def test_an_open_redis_is_refused() -> None:
    found = problems(redis_password="", redis_bind=["0.0.0.0"], redis_protected_mode=False)
    assert any("which is an open Redis" in sentence for sentence in found)


def test_without_a_host_nothing_is_compared_with_its_memory() -> None:
    assert problems(memory_mb=0, redis_maxmemory="900gb") == []


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"name": "default"}, "which redis_default_user lets in"),
        ({"name": "health"}, "belongs to the health check: choose another name"),
        ({"name": "keeper"}, "belongs to the keeper"),
        ({"name": "app"}, "contains the user app, which redis_username names already"),
        ({"name": "a b"}, 'the name "a b"'),
        ({"password": ""}, "the password of joe is empty"),
        ({"password": "short"}, "the password of joe has only 5 characters"),
        ({"commands": "+get >other"}, "commands of joe has a word that neither gives nor takes"),
        ({"commands": "~*"}, "patterns in keys"),
        ({"keys": "shop:*"}, "keys of joe is no list"),
        ({"keys": ["shop *"]}, 'keys of joe has "shop *", which is no pattern'),
        ({"keys": [""]}, 'keys of joe has "", which is no pattern'),
        ({"keys": ["~shop:*"]}, 'keys of joe has "~shop:*", which is no pattern'),
        ({"keys": ["it's:*"]}, "which is no pattern"),
    ],
)
def test_users(user: dict[str, Any], expected: str) -> None:
    found = problems(redis_users=[{**JOE, **user}])
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize("user", [{}, {"keys": ["shop:*", "{x}:?[ab]"]}, {"commands": "-@write +flushdb +config|get"}])
def test_good_users(user: dict[str, Any]) -> None:
    assert problems(redis_users=[{**JOE, **user}]) == []


def test_a_user_is_there_once() -> None:
    assert problems(redis_users=[JOE, JOE]) == ["redis_users contains the user joe twice."]
    assert problems(redis_username="health", redis_users=[]) == [
        'redis_username names the user "health", which belongs to the health check: choose another name.'
    ]


AUTHORITY, OTHER = Authority(), Authority()
ISSUED = AUTHORITY.issue()
TLS: dict[str, Any] = {
    "redis_tls": True,
    "redis_tls_certificate": ISSUED.certificate,
    "redis_tls_private_key": ISSUED.private_key,
    "redis_tls_ca": ISSUED.authority,
}


def test_a_good_certificate_passes() -> None:
    assert problems(**TLS) == []
    # The one that follows may come along.
    assert problems(**{**TLS, "redis_tls_ca": OTHER.pem + AUTHORITY.pem}) == []
    assert problems(**{**TLS, "redis_tls": False, "redis_tls_certificate": "nothing"}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"redis_tls_private_key": ""}, "redis_tls_private_key is empty"),
        ({name: "" for name in TLS if name != "redis_tls"}, "leave all three to the playbooks"),
        ({"redis_tls_certificate": "nothing"}, "redis_tls_certificate is no certificate as PEM"),
        ({"redis_tls_private_key": AUTHORITY.pem}, "redis_tls_private_key is no private key without a passphrase"),
        ({"redis_tls_private_key": OTHER.issue().private_key}, "is not the key of redis_tls_certificate"),
        ({"redis_tls_ca": OTHER.pem}, "is not of the authority in redis_tls_ca"),
        ({"redis_settings": {"tls-port": 7000}}, "redis_settings contains tls-port: use redis_tls"),
    ],
)
def test_bad_certificates(changes: dict[str, Any], expected: str) -> None:
    [sentence] = problems(**{**TLS, **changes})
    assert expected in sentence
    assert "-----BEGIN PRIV" not in sentence


def test_a_certificate_that_is_made_later_is_not_missed() -> None:
    assert problems(redis_tls=True, redis_tls_pending=True) == []
    [sentence] = problems(redis_tls=True, redis_tls_pending=True, redis_tls_ca="x")
    assert "redis_tls_certificate and redis_tls_private_key are empty" in sentence


def test_a_certificate_that_has_ended() -> None:
    ended = AUTHORITY.issue(timedelta(days=-1))
    given = {"redis_tls_certificate": ended.certificate, "redis_tls_private_key": ended.private_key}
    [sentence] = problems(**{**TLS, **given})
    assert "redis_tls_certificate ended on" in sentence


def test_secrets_are_in_no_sentence() -> None:
    found = problems(
        redis_password=SECRET,
        redis_users=[{"name": "joe", "password": SECRET, "commands": f">{SECRET}"}],
        redis_secret_settings={"masterauth": f"{SECRET}\n"},
    )
    assert len(found) == 4
    assert SECRET not in " ".join(found)


def test_lines_quotes_and_sizes() -> None:
    assert redis_lines({"a": [1, "b c"], "d": True, "e": ""}) == ["a 1", "a b c", "d yes", 'e ""']
    assert redis_bytes("1gb") == 2**30
    with pytest.raises(AnsibleFilterError, match="no size"):
        redis_bytes("huge")


@pytest.mark.parametrize(
    ("text", "settings", "changed", "restart"),
    [
        ("", {"live-restore": True}, ["live-restore"], []),
        ("", {"live-restore": True, "log-driver": "local"}, ["live-restore", "log-driver"], ["log-driver"]),
        ('{"debug": true}', {"debug": True}, [], []),
        ('{"debug":true,"mtu":9000}', {"mtu": None}, ["mtu"], ["mtu"]),
        ('{"log-opts": {"a": "1"}}', {"log-opts": {"b": "2"}}, ["log-opts"], ["log-opts"]),
    ],
)
def test_daemon_json(text: str, settings: dict[str, Any], changed: list[str], restart: list[str]) -> None:
    result = docker_daemon(text, settings)
    assert (result["differing"], result["restart"], result["problem"]) == (changed, restart, "")
    assert docker_daemon(result["text"], settings)["differing"] == []
    if not changed:
        assert result["text"] == text


def test_daemon_json_keeps_what_others_wrote() -> None:
    result = docker_daemon('{"mtu": 9000, "log-opts": {"a": "1"}}', {"log-opts": {"b": "2"}})
    assert yaml.safe_load(result["text"]) == {"mtu": 9000, "log-opts": {"a": "1", "b": "2"}}


@pytest.mark.parametrize("text", ["{", "[1]", "no"])
def test_a_daemon_json_that_is_none_is_a_problem(text: str) -> None:
    result = docker_daemon(text, {"debug": True})
    assert "/etc/docker/daemon.json is not valid JSON" in result["problem"]
    assert result["text"] == text
