"""Redis with nothing set but its password."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

CONF = "/etc/spotcache/redis/redis.conf"
SECRETS = "/etc/spotcache/redis/secrets.conf"
USERS = "/etc/spotcache/redis/users.acl"
UID = 6379  # and its group's id


def hash_of(password: str) -> str:
    """What an ACL file has of a password."""
    return hashlib.sha256(password.encode()).hexdigest()


def test_it_answers_with_the_password_and_refuses_without(redis: Any) -> None:
    assert redis("PING") == "PONG"
    assert redis("PING", password="") == "NOAUTH Authentication required."
    assert "WRONGPASS" in redis("PING", password="not-the-password-at-all")
    # Nobody is let in without a name.
    assert "WRONGPASS" in redis("PING", user="default")


def test_it_is_the_distributions_own_valkey(host: Any, redis: Any) -> None:
    assert redis.inspect()["Config"]["Cmd"] == ["valkey-server", "/etc/redis/redis.conf"]
    about = redis("INFO", "server")
    # What asks for a version of Redis is told one that Valkey answers as.
    assert "server_name:valkey" in about
    assert "redis_version:7.2.4" in about
    assert " v=8." in host.check_output(f"docker exec {redis.name} valkey-check-rdb --version")
    assert host.check_output("ps -o comm= -u 6379").split() == ["valkey-server"]


def test_the_application_and_the_keeper_may_do_their_own_work_and_no_other(redis: Any) -> None:
    assert redis("SET", "one", "1") == "OK"
    for command in ("CONFIG GET *", "ACL LIST", "FLUSHALL", "SAVE", "CLIENT UNPAUSE", "SHUTDOWN"):
        assert "NOPERM" in redis(*command.split()), command
    assert redis.keeper("CLIENT", "UNPAUSE") == "OK"
    for command in ("GET one", "FLUSHDB", "ACL SETUSER me on nopass +@all"):
        assert "NOPERM" in redis.keeper(*command.split()), command
    assert redis("FLUSHDB") == "OK"


def test_the_health_check_needs_no_secret_and_may_do_nothing_else(host: Any, redis: Any) -> None:
    check = redis.inspect()["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    assert host.check_output(f"docker exec {redis.name} {' '.join(check[1:])}") == "PONG"
    assert redis("PING", user="health", password="x") == "PONG"
    for command in (("GET", "key"), ("INFO",), ("CONFIG", "GET", "requirepass"), ("SHUTDOWN",)):
        assert "NOPERM" in redis(*command, user="health", password="x")


def test_the_container_can_do_no_more_than_it_must(redis: Any) -> None:
    found = redis.inspect()
    settings = found["HostConfig"]
    assert found["Config"]["User"] == "6379:6379"
    assert settings["ReadonlyRootfs"] is True
    assert settings["CapDrop"] == ["ALL"]
    assert settings["Privileged"] is False
    assert settings["NetworkMode"] == "host"
    assert settings["SecurityOpt"] == ["no-new-privileges:true"]
    assert settings["Memory"] > 2**26
    assert settings["RestartPolicy"]["Name"] == "unless-stopped"
    assert settings["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}
    assert found["Config"]["StopTimeout"] == 120
    mounts = {mount["Destination"]: (mount["Source"], mount["RW"]) for mount in found["Mounts"]}
    assert mounts == {"/data": ("/srv/redis/redis", True), "/etc/redis": ("/etc/spotcache/redis", False)}


def test_owners_and_modes_are_tight(host: Any) -> None:
    expected = {
        "/srv/redis/redis": (0o700, UID, UID),
        "/etc/spotcache/redis": (0o750, 0, UID),
        CONF: (0o640, 0, UID),
        SECRETS: (0o400, UID, UID),
        USERS: (0o400, UID, UID),
        "/etc/spotcache/keeper-password": (0o600, 0, 0),
        "/etc/spotcache/redis.last-known-good": (0o700, 0, 0),
        "/etc/spotcache/redis.last-known-good/secrets.conf": (0o600, 0, 0),
        "/etc/spotcache/redis.last-known-good/users.acl": (0o600, 0, 0),
        "/etc/spotcache/redis.last-known-good/keeper-password": (0o600, 0, 0),
    }
    found = {path: (host.file(path).mode, host.file(path).uid, host.file(path).gid) for path in expected}
    assert found == expected


def test_the_profile_is_in_force(redis: Any) -> None:
    assert redis.setting("maxmemory-policy") == "volatile-lru"
    assert redis.setting("save") == "900 1 300 10 60 10000"
    assert redis.setting("appendonly") == "no"
    assert redis.setting("protected-mode") == "yes"
    assert int(redis.setting("maxmemory")) > 2**26


def test_the_kernel_is_told(host: Any) -> None:
    text = host.file("/etc/sysctl.d/60-spotcache-redis.conf").content_string
    assert "vm.overcommit_memory = 1" in text
    # Since Linux 5.4 the kernel's own is 4096, and Redis asks for 511.
    assert "somaxconn" not in text
    assert "madvise" in host.file("/etc/tmpfiles.d/spotcache-redis.conf").content_string


def test_the_password_is_nowhere_to_be_seen(host: Any, redis: Any, converge: Callable[..., Any]) -> None:
    # A run that writes all files again, with everything that Ansible can say.
    user = {"name": "other", "password": "of-the-other-user-alone"}
    old = redis.keeper_password()
    run = converge(
        *("-vvv", "--diff"),
        plain=True,
        redis_settings={"slowlog-max-len": 64},
        redis_users=[user],
        redis_renew_keeper_password=True,
    )
    assert run.code == 0, run.output[-2000:]
    assert "slowlog-max-len" in run.output
    assert "user other" in run.output
    new = redis.keeper_password()
    assert new != old
    hidden = [redis.password, redis.password[-20:], old, new, *(hash_of(one) for one in (redis.password, old, new))]
    pieces = [*hidden, redis.password.replace("\\", "\\\\"), hash_of(user["password"])]
    assert [piece for piece in pieces if piece in run.output] == []
    seen = {
        "inspect": host.check_output(f"docker inspect {redis.name}"),
        "logs": host.check_output(f"docker logs {redis.name} 2>&1"),
        "processes": host.check_output("ps axeww"),
        "journal": host.check_output("journalctl --no-pager"),
        "image": host.check_output("docker history --no-trunc $(docker inspect --format '{{.Image}}' spotcache-redis)"),
        "files": host.check_output(
            "find /etc /srv /tmp /root /var/lib/spotcache /var/log /usr/local -xdev -type f -perm /o=r -size -1024k"
            " -exec cat {} + 2>/dev/null | tr -cd '[:print:]\\n'"
        ),
    }
    assert [(place, piece) for place, text in seen.items() for piece in hidden[1:] if piece in text] == []


def test_a_dynamic_setting_is_applied_without_a_restart(redis: Any, converge: Callable[..., Any]) -> None:
    before = redis.started()
    wanted = {"redis_maxmemory": "100mb", "redis_settings": {"notify-keyspace-events": "Ex", "timeout": 300}}
    run = converge(**wanted)
    assert run.code == 0, run.why
    assert redis.started() == before
    assert redis.setting("maxmemory") == str(100 * 2**20)
    assert sorted(redis.setting("notify-keyspace-events")) == ["E", "x"]
    assert converge(**wanted).changed == []
    # What is no longer set goes back to the server's own default, live as well.
    again = converge(redis_maxmemory="100mb")
    assert again.code == 0, again.why
    assert redis.started() == before
    assert (redis.setting("timeout"), redis.setting("notify-keyspace-events")) == ("0", "")
    wanted = {"redis_maxmemory": "100mb"}
    assert converge("--check", "--diff", **wanted).changed == []


def test_an_unknown_directive_is_refused_and_the_old_file_stays(
    host: Any, redis: Any, converge: Callable[..., Any]
) -> None:
    before = redis.started(), host.file(CONF).content_string
    run = converge(redis_settings={"max-clients": 500})
    assert run.code != 0
    assert "'max-clients 500'" in run.why
    assert "redis_settings" in run.why
    assert (redis.started(), host.file(CONF).content_string) == before
    assert redis("PING") == "PONG"
    # Also before anything is done at all.
    checked = converge("--check", redis_settings={"max-clients": 500})
    assert "'max-clients 500'" in checked.why


def test_a_value_that_the_running_server_refuses_changes_nothing(
    host: Any, redis: Any, converge: Callable[..., Any]
) -> None:
    before = redis.started(), host.file(CONF).content_string, redis.setting("timeout")
    # An address of another machine.
    run = converge(redis_bind=["127.0.0.1", "203.0.113.7"], redis_settings={"timeout": 7})
    assert run.code != 0
    assert "bind = 127.0.0.1 203.0.113.7" in run.why
    assert "last good configuration is back" in run.why
    assert (redis.started(), host.file(CONF).content_string, redis.setting("timeout")) == before


def test_a_failed_start_puts_the_last_good_file_back(host: Any, redis: Any, converge: Callable[..., Any]) -> None:
    before = host.file(CONF).content_string
    redis("SET", "kept", "yes")
    # Known to the server, so it passes the check, but it cannot be done.
    run = converge(redis_settings={"unixsocket": "/nowhere/redis.sock"})
    assert run.code != 0
    assert "Failed opening Unix socket" in run.why
    assert "last good configuration is back" in run.why
    assert host.file(CONF).content_string == before
    assert redis("GET", "kept") == "yes"


def test_pruning_loses_nothing(host: Any, redis: Any, converge: Callable[..., Any]) -> None:
    redis("SET", "pruned", "no")
    host.check_output("docker system prune --all --volumes --force")
    assert redis("GET", "pruned") == "no"
    host.check_output(f"docker stop {redis.name}")
    host.check_output("docker system prune --all --volumes --force")
    assert host.check_output("docker ps --all --quiet; docker images --quiet") == ""
    run = converge()
    assert run.code == 0, run.why
    assert redis("GET", "pruned") == "no"
    assert converge().changed == []


def test_bad_input_is_refused_before_anything_is_changed(converge: Callable[..., Any]) -> None:
    run = converge(redis_password="short", redis_maxmemory="9999gb", redis_save=["often"])
    assert run.code != 0
    assert "redis_password has only 5 characters" in run.why
    assert "redis_maxmemory is 9999gb" in run.why
    assert 'redis_save contains "often"' in run.why
    assert run.changed == []


def dump_of(host: Any) -> tuple[int, str]:
    """The version of the RDB on the disk, and its writer."""
    beginning = host.check_output("head -c 60 /srv/redis/redis/dump.rdb | tr -c '[:print:]' ' '")
    return int(beginning[5:9]), "valkey" if "valkey-ver" in beginning else "redis"


def test_another_engine_gets_the_data_where_it_reads_it_and_is_refused_where_not(
    host: Any, redis: Any, converge: Callable[..., Any]
) -> None:
    """Valkey 8 writes RDB version 11, which Redis 8 reads; that writes version 12, which no Valkey reads."""
    for number in range(100):
        assert redis("SET", f"key:{number}", f"value {number}") == "OK"
    before, started = redis("DBSIZE"), redis.started()
    planned = converge("--check", redis_engine="redis")
    assert planned.code == 0, planned.why
    assert redis.started() == started
    changed = converge(redis_engine="redis")
    assert changed.code == 0, changed.why
    assert (redis.engine, redis("DBSIZE"), redis("GET", "key:99")) == ("redis", before, "value 99")
    assert "redis_version:8." in redis("INFO", "server")
    assert converge(redis_engine="redis").changed == []
    # The default is another one, and switches nothing.
    started = redis.started()
    assert converge().changed == []
    assert (redis.engine, redis.started()) == ("redis", started)

    redis("SET", "after", "the change")
    back = converge(redis_engine="valkey")
    assert back.code != 0
    assert "redis_engine is valkey here, and /srv/redis/redis/dump.rdb has RDB version 12 (Redis 8." in back.why
    assert "Keep redis_engine: redis" in back.why
    # The server that has the data runs on, as if nobody had asked; it has only saved.
    assert (redis.engine, redis.started(), redis("GET", "after")) == ("redis", started, "the change")
    assert dump_of(host) == (12, "redis")
    assert converge().changed == []


def test_an_engine_that_does_not_start_gives_the_data_back(host: Any, redis: Any, converge: Callable[..., Any]) -> None:
    """What the other one has saved by then the last one may not be able to read."""
    host.check_output(
        f"docker rm --force {redis.name} && rm -rf /srv/redis/redis/* /etc/spotcache/redis.last-known-good"
    )
    fresh = converge(redis_engine="valkey")
    assert fresh.code == 0, fresh.why
    assert redis("SET", "kept", "yes") == "OK"
    failed = converge(redis_engine="redis", redis_settings={"unixsocket": "/nowhere/redis.sock"})
    assert failed.code != 0
    assert "last good configuration is back" in failed.why
    assert (redis.engine, redis("GET", "kept")) == ("valkey", "yes")
    assert dump_of(host) == (11, "valkey")
