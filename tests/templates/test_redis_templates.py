"""redis.conf and its companions as rendered, and as a real redis-server reads them."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.spotcache.redis.plugins.module_utils import redis_conf
from ansible_collections.spotcache.redis.plugins.module_utils.redis_wire import Connection, RedisError
from ansible_collections.spotcache.redis.plugins.modules import redis_config

from tests.templates.render import FACTS, ROOT, render, value
from tests.unit.redis.support import redis_server

PASSWORD = "Pa\"ss'wo\\rd#{with}everything"
BASE: dict[str, Any] = {"redis_password": PASSWORD}
ADMINISTRATION = (
    *("CONFIG GET *", "CONFIG SET save x", "SHUTDOWN", "SAVE", "BGSAVE", "BGREWRITEAOF", "REPLICAOF h 1", "FLUSHALL"),
    *("ACL LIST", "ACL LOAD", "MONITOR", "CLIENT LIST", "CLIENT KILL ID 1", "CLIENT PAUSE 1", "CLIENT UNPAUSE"),
    *("SWAPDB 0 1", "MIGRATE h 1 k 0 1", "MODULE LIST", "SLOWLOG GET", "PSYNC ? -1", "ROLE"),
)
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
    "redis_username": "shop",
    "redis_users": [
        {
            "name": "reports",
            "password": "the-app's-own-password",
            "keys": ["report:*", "{x}:?[ab]"],
            "commands": "-@write",
        },
        {"name": "other", "password": "the-app's-own-password"},
    ],
    "redis_default_user": True,
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
        "aclfile": "/etc/redis/users.acl",
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
    assert found == {"masterauth": [["of-the-master"]]}


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], int]]:
    """A real server with the users of a scenario; its port."""
    with ExitStack() as stack:

        def start(scenario: dict[str, Any]) -> int:
            server = stack.enter_context(redis_server(tmp_path))
            (tmp_path / "users.acl").write_text(render("redis", "users.acl.j2", scenario))
            server.start(f"aclfile {tmp_path / 'users.acl'}\n")
            return int(server.port)

        yield start


def asked(port: int, name: str, password: str, *command: str) -> str:
    """What the server says to a user's command; an error as its first word."""
    connection = Connection("127.0.0.1", port)
    try:
        if password:
            connection.command("AUTH", *([name] if name else []), password)
        return str(connection.command(*command))
    except RedisError as error:
        return str(error).split()[0]
    finally:
        connection.close()


@pytest.mark.parametrize("default", [False, True])
def test_applications_do_all_that_data_is_for_and_nothing_else(
    users: Callable[[dict[str, Any]], int], default: bool
) -> None:
    port = users(BASE | {"redis_default_user": default})
    assert asked(port, "", "", "PING") == "NOAUTH"
    assert asked(port, "", PASSWORD, "PING") == ("PONG" if default else "WRONGPASS")
    for name in ["app", *([""] if default else [])]:
        for words in ("SET a 1", "GET a", "FLUSHDB", "KEYS *", "INFO", "SELECT 1", "EVAL return(1) 0", "SUBSCRIBE x"):
            assert asked(port, name, PASSWORD, *words.split()) not in ("NOPERM", "ERR"), words
        for words in ADMINISTRATION:
            assert asked(port, name, PASSWORD, *words.split()) == "NOPERM", words


def test_patterns_and_commands_bound_a_user(users: Callable[[dict[str, Any]], int]) -> None:
    port, password = users(EVERYTHING), "the-app's-own-password"
    assert asked(port, "other", password, "SET", "report:1", "x") == "OK"
    assert asked(port, "reports", password, "GET", "report:1") == "x"
    assert asked(port, "reports", password, "GET", "x:1") == "NOPERM"
    assert asked(port, "reports", password, "SET", "report:1", "y") == "NOPERM"
    # No pattern would hold these back.
    for words in ("FLUSHDB", "KEYS *", "PUBLISH other x"):
        assert asked(port, "reports", password, *words.split()) == "NOPERM", words
    assert asked(port, "shop", PASSWORD, "FLUSHDB") == "OK"


def test_the_keeper_and_the_health_check_reach_no_key(users: Callable[[dict[str, Any]], int]) -> None:
    port = users(BASE | {"redis__keeper_secret": {"sha256": hashlib.sha256(b"the keeper's").hexdigest()}})
    for words in (
        "GET a",
        "SET a 1",
        "FLUSHALL",
        "FLUSHDB",
        "ACL SETUSER x on",
        "ACL LIST",
        "REPLICAOF h 1",
        "DEBUG SLEEP 0",
    ):
        for name, password in (("keeper", "the keeper's"), ("health", "x")):
            assert asked(port, name, password, *words.split()) in ("NOPERM", "ERR"), words
    assert asked(port, "health", "x", "INFO") == "NOPERM"
    assert asked(port, "health", "x", "PING") == "PONG"


def test_with_tls_the_plain_port_is_closed() -> None:
    found = conf(BASE | {"redis_tls": True, "redis_port": 6390})
    assert (found["port"], found["tls-port"], found["tls-auth-clients"]) == ("0", "6390", "no")
    command = value("redis", "redis__health_command", BASE | {"redis_tls": True})
    assert command[-4:] == ["--tls", "--cacert", "/etc/redis/ca.crt", "ping"]
    assert value("redis", "redis__health_command", BASE)[-1] == "ping"


@pytest.mark.parametrize(
    "scenario", [BASE, EVERYTHING, EVERYTHING | {"redis_tls": True}], ids=["default", "everything", "TLS"]
)
def test_the_server_accepts_it(scenario: dict[str, Any], tmp_path: Path) -> None:
    text = redis_config.without_includes(render("redis", "redis.conf.j2", scenario)).replace("/data", str(tmp_path))
    text += render("redis", "secrets.conf.j2", scenario) + render("redis", "users.acl.j2", scenario)
    server = ["redis-server", *redis_config.SERVER_ARGUMENTS, *redis_config.without_tls(text)]
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


TRIXIE = FACTS | {"distribution_release": "trixie", "distribution_major_version": "13"}
UBUNTU = FACTS | {"distribution": "Ubuntu", "distribution_release": "noble", "distribution_major_version": "24"}


def looked(**there: Any) -> dict[str, Any]:
    """What a look at the host has found: which engine a container runs, and who wrote the files."""
    containers = {"spotcache-redis": {"redis_engine": there["container"]}} if "container" in there else {}
    databases = {"/srv/redis/redis/dump.rdb": {"redis_engine": there["files"]}} if "files" in there else {}
    return {"redis__host": {"engine": {"containers": containers, "images": {}}, "databases": databases}}


@pytest.mark.parametrize(
    ("scenario", "facts", "expected"),
    [
        ({}, FACTS, "redis"),
        ({}, TRIXIE, "valkey"),
        ({}, UBUNTU, "redis"),
        ({"redis_engine": "redis"}, TRIXIE, "redis"),
        ({"redis_image_source": "pull", "redis_image": "redis:7.2"}, TRIXIE, "redis"),
        # What is there stays, as long as nobody has said otherwise.
        (looked(container="redis"), TRIXIE, "redis"),
        (looked(files="redis"), TRIXIE, "redis"),
        ({"redis_engine_before": "redis"}, TRIXIE, "redis"),
        (looked(container="valkey") | {"redis_engine_before": "redis"}, FACTS, "valkey"),
        (looked(container="redis") | {"redis_engine": "valkey"}, TRIXIE, "valkey"),
        (looked(files=""), TRIXIE, "valkey"),
    ],
)
def test_what_nobody_has_said_stays_as_it_is(scenario: dict[str, Any], facts: dict[str, Any], expected: str) -> None:
    assert value("redis", "redis__program", BASE | scenario, facts) == expected
    assert value("redis", "redis__health_command", BASE | scenario, facts)[1] == f"{expected}-cli"
    if not scenario.get("redis_image"):
        image = value("redis", "redis__image", BASE | scenario, facts)
        assert image.startswith(f"spotcache-{expected}:{facts['distribution_release']}-")
        # The look at the host asks for either: which of them it is, that look tells.
        assert image in value("redis", "redis__images", BASE | scenario, facts)


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
