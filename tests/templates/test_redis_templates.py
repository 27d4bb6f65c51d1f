"""redis.conf and its companions as rendered, and as a real redis-server reads them."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.spotcache.redis.plugins.module_utils import redis_conf
from ansible_collections.spotcache.redis.plugins.modules import redis_config

from tests.templates.render import FACTS, ROOT, render, value

PASSWORD = "Pa\"ss'wo\\rd#{with}everything"
BASE: dict[str, Any] = {"redis_password": PASSWORD}
EVERYTHING: dict[str, Any] = BASE | {
    "redis_profile": "queue",
    "redis_bind": ["127.0.0.1", "-::1"],
    "redis_port": 6390,
    "redis_protected_mode": False,
    "redis_save": ["900 1", "60 1000"],
    "redis_dbfilename": "cache.rdb",
    "redis_maxmemory": "512mb",
    "redis_maxmemory_policy": "volatile-ttl",
    "redis_appendonly": False,
    "redis_settings": {
        "client-output-buffer-limit": ["normal 0 0 0", "pubsub 32mb 8mb 60"],
        "lazyfree-lazy-expire": True,
        "maxclients": 500,
        "unixsocket": "",
    },
    "redis_secret_settings": {"masterauth": "of-the-master"},
    "redis_acl_users": [{"name": "app", "password": "the-app's-own-password", "rules": "~app:* +@read"}],
}


def conf(scenario: dict[str, Any]) -> dict[str, str]:
    """redis.conf as directives and values."""
    parsed = redis_conf.parse(render("redis", "redis.conf.j2", scenario))
    return {name: redis_conf.value_of(lines) for name, lines in parsed.items()}


def test_the_default_profile() -> None:
    assert conf(BASE) == {
        "bind": "127.0.0.1 -::1 10.20.0.5",
        "port": "6379",
        "protected-mode": "yes",
        "dir": "/data",
        "dbfilename": "dump.rdb",
        "save": "900 1 300 10 60 10000",
        "appendonly": "no",
        "maxmemory": "990mb",
        "maxmemory-policy": "volatile-lru",
        "daemonize": "no",
        "supervised": "no",
        "logfile": "",
        "user": "health on nopass -@all +ping",
        "include": "/etc/redis/secrets.conf",
    }


@pytest.mark.parametrize(
    ("profile", "policy", "appendonly", "save"),
    [
        ("cache", "allkeys-lru", "no", "3600 1"),
        ("session", "volatile-lru", "no", "900 1 300 10 60 10000"),
        ("queue", "noeviction", "yes", "900 1 300 10 60 10000"),
    ],
)
def test_profiles(profile: str, policy: str, appendonly: str, save: str) -> None:
    found = conf(BASE | {"redis_profile": profile})
    assert (found["maxmemory-policy"], found["appendonly"], found["save"]) == (policy, appendonly, save)


def test_everything_that_can_be_set() -> None:
    found = conf(EVERYTHING)
    expected = {
        "bind": "127.0.0.1 -::1",
        "port": "6390",
        "protected-mode": "no",
        "save": "900 1 60 1000",
        "dbfilename": "cache.rdb",
        "maxmemory": "512mb",
        "maxmemory-policy": "volatile-ttl",
        "appendonly": "no",
        "client-output-buffer-limit": "normal 0 0 0 pubsub 32mb 8mb 60",
        "lazyfree-lazy-expire": "yes",
        "maxclients": "500",
        "unixsocket": "",
    }
    assert {name: found[name] for name in expected} == expected


def test_no_saves_at_all() -> None:
    assert conf(BASE | {"redis_save": []})["save"] == ""


@pytest.mark.parametrize("scenario", [BASE, EVERYTHING], ids=["default", "everything"])
def test_secrets_are_in_their_own_file_only(scenario: dict[str, Any]) -> None:
    text = render("redis", "redis.conf.j2", scenario)
    assert PASSWORD not in text
    assert redis_conf.quote(PASSWORD) not in text
    for word in ("of-the-master", "the-app's-own-password"):
        assert word not in text


def test_the_secrets() -> None:
    text = render("redis", "secrets.conf.j2", EVERYTHING)
    found = redis_conf.parse(text)
    assert found["requirepass"] == [[PASSWORD]]
    assert found["masterauth"] == [["of-the-master"]]
    hashed = hashlib.sha256(b"the-app's-own-password").hexdigest()
    assert found["user"] == [["app", "on", f"#{hashed}", "~app:*", "+@read"]]
    assert "the-app's-own-password" not in text


@pytest.mark.parametrize("scenario", [BASE, EVERYTHING], ids=["default", "everything"])
def test_the_server_accepts_it(scenario: dict[str, Any], tmp_path: Path) -> None:
    text = redis_config.without_includes(render("redis", "redis.conf.j2", scenario)).replace("/data", str(tmp_path))
    text += render("redis", "secrets.conf.j2", scenario)
    server = ["redis-server", *redis_config.SERVER_ARGUMENTS]
    done = subprocess.run(server, input=text, capture_output=True, text=True, check=False)
    assert redis_config.verdict(done.stdout + done.stderr, done.returncode) == ""


@pytest.mark.parametrize(
    ("memory", "maxmemory", "limit"), [(1906, "990mb", "1746m"), (940, "410mb", "780m"), (256, "64mb", "96m")]
)
def test_memory_is_derived_from_the_hosts(memory: int, maxmemory: str, limit: str) -> None:
    facts = FACTS | {"memtotal_mb": memory}
    assert value("redis", "redis__maxmemory", BASE, facts) == maxmemory
    assert value("redis", "redis__memory_limit", BASE, facts) == limit


@pytest.mark.parametrize(
    ("bind", "address"),
    [([], "127.0.0.1"), (["*"], "127.0.0.1"), (["10.0.0.5"], "10.0.0.5"), (["-::1", "127.0.0.1"], "127.0.0.1")],
)
def test_the_health_check_asks_where_the_server_listens(bind: list[str], address: str) -> None:
    command = value("redis", "redis__health_command", BASE | {"redis_bind": bind, "redis_port": 7000})
    assert command[command.index("-h") + 1] == address
    assert command[command.index("-p") + 1] == "7000"


def test_kernel_settings() -> None:
    assert render("redis", "sysctl.conf.j2", BASE).splitlines()[1:] == [
        "vm.overcommit_memory = 1",
    ]
    assert " - - - - madvise\n" in render("redis", "huge-pages.conf.j2", BASE)


def test_the_images_name_tells_what_goes_in() -> None:
    name = value("redis", "redis__image", BASE)
    assert name.startswith("spotcache-redis:bookworm-")
    assert value("redis", "redis__image", BASE | {"redis_package_version": "5:7.0.15-1"}) != name
    assert value("redis", "redis__image", BASE | {"redis_image": "redis:7.2"}) == "redis:7.2"


def test_what_is_undefined_is_an_error() -> None:
    with pytest.raises(AnsibleError, match="has no attribute"):
        render("redis", "redis.conf.j2", BASE, facts={})


def test_every_template_is_rendered_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "roles/redis/templates").iterdir() if path.name not in text] == []


def docker_packages(distribution: str, version: str, **given: Any) -> list[str]:
    """The packages of the role docker on a distribution."""
    host = {"docker__host": {"distribution": {"id": distribution, "version": version, "release": "any"}}}
    return list(value("docker", "docker__packages", {**host, **given}))


def test_docker_packages_follow_the_distribution() -> None:
    assert docker_packages("debian", "12") == ["docker.io", "python3-requests"]
    assert docker_packages("ubuntu", "24.04") == ["docker.io", "python3-requests"]
    assert "docker-cli" in docker_packages("debian", "13")
    assert docker_packages("debian", "12", docker_source="vendor")[0] == "docker-ce"
    for source in ("distribution", "vendor"):
        asked = value("docker", "docker__possible_packages", {"docker_source": source})
        for distribution, version in (("debian", "12"), ("debian", "13"), ("ubuntu", "24.04")):
            assert set(docker_packages(distribution, version, docker_source=source)) <= set(asked)


def test_docker_settings() -> None:
    assert value("docker", "docker__daemon_settings", {}) == {
        "log-driver": "json-file",
        "live-restore": True,
        "log-opts": {"max-size": "10m", "max-file": "3"},
    }
    journal = value("docker", "docker__daemon_settings", {"docker_daemon_settings": {"log-driver": "journald"}})
    assert journal == {"log-driver": "journald", "live-restore": True}


def test_of_what_is_mounted_one_over_the_other_the_last_counts() -> None:
    lines = (
        "29 1 259:0 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n"
        "61 29 259:5 / /srv/redis rw,noatime shared:30 - ext4 /dev/nvme1n1 rw\n"
        "62 61 259:6 / /srv/redis rw,noatime shared:31 - ext4 /dev/nvme2n1 rw\n"
        "63 62 259:7 / /srv/redis-other rw - ext4 /dev/nvme3n1 rw\n"
    )
    seen = BASE | {"redis__host": {"contents": {"/proc/self/mountinfo": lines}}}
    assert value("redis", "redis__mounts", seen) == ["259:5", "259:6"]
