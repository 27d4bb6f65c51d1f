"""Redis on a data volume, with nearly everything set."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import pytest

DATA = "/srv/redis/redis"
APPEND_ONLY = f"{DATA}/appendonlydir"
UID = 6379


def test_the_volume_is_mounted_by_its_label(host: Any) -> None:
    source, kind, label = host.check_output("findmnt --noheadings --output SOURCE,FSTYPE,LABEL /srv/redis").split()[:3]
    assert (source, kind, label) == ("/dev/nvme1n1", "xfs", "spotcache")
    line = next(line for line in host.file("/etc/fstab").content_string.splitlines() if "/srv/redis" in line)
    assert line.startswith("LABEL=spotcache /srv/redis xfs ")
    assert {"nofail", "nouuid", "x-systemd.before=docker.service"} <= set(line.split()[3].split(","))
    assert host.file(DATA).mode == 0o700
    assert host.file(f"{APPEND_ONLY}/appendonly.aof.manifest").uid == UID


def test_the_settings_are_in_force(redis: Any) -> None:
    assert redis.setting("appendonly") == "yes"
    assert redis.setting("maxmemory-policy") == "noeviction"
    assert redis.setting("save") == "600 1"
    assert redis.setting("dbfilename") == "cache.rdb"
    assert redis.setting("lazyfree-lazy-expire") == "yes"
    assert redis.setting("masterauth") == "the-secret-of-a-replica"
    assert "pubsub 33554432 8388608 60" in redis.setting("client-output-buffer-limit")
    assert "unknown command" in redis("FLUSHALL")
    assert redis.inspect()["HostConfig"]["Memory"] == 256 * 2**20
    assert redis.inspect()["Config"]["StopTimeout"] == 30


def test_further_users_may_do_what_they_may(redis: Any) -> None:
    reader = {"user": "reports", "password": "only-reads-nothing-else"}
    redis("SET", "report:1", "ready")
    assert redis("GET", "report:1", **reader) == "ready"
    assert "NOPERM" in redis("SET", "report:1", "x", **reader)
    assert "NOPERM" in redis("GET", "other", **reader)


def test_the_health_check_passes(redis: Any) -> None:
    end = time.monotonic() + 20
    while redis.inspect()["State"]["Health"]["Status"] != "healthy" and time.monotonic() < end:
        time.sleep(0.5)
    assert redis.inspect()["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize(
    ("volume", "device", "variables", "expected"),
    [
        ("vol-00000000000000f3", "/dev/nvme3n1", {}, 'a filesystem (ext4) labelled "photos"'),
        ("vol-00000000000000b2", "/dev/nvme2n1", {"redis_volume_format": "never"}, "redis_volume_format=blank"),
        ("vol-00000000000000aa", "", {"redis_volume_wait": 1}, "did not appear within 1 s"),
    ],
)
def test_a_volume_that_is_not_for_this_is_refused(
    host: Any, converge: Callable[..., Any], volume: str, device: str, variables: dict[str, Any], expected: str
) -> None:
    def content() -> str:
        return hashlib.sha256(host.run(f"head -c 4194304 {device}").stdout_bytes).hexdigest() if device else ""

    before = content()
    run = converge(redis_volume_id=volume, **variables)
    assert run.code != 0
    assert expected in run.why
    assert volume in run.why
    assert run.changed == []
    assert content() == before


def test_a_static_setting_restarts_once_and_keeps_the_data(redis: Any, converge: Callable[..., Any]) -> None:
    redis("SET", "before", "restart")
    started = redis.started()
    run = converge(redis_settings={"databases": 20})
    assert run.code == 0, run.why
    restarted = redis.started()
    assert restarted != started
    assert redis.setting("databases") == "20"
    assert redis("GET", "before") == "restart"
    assert converge(redis_settings={"databases": 20}).changed == []
    assert redis.started() == restarted


def test_passwords_and_users_change_without_a_restart(redis: Any, converge: Callable[..., Any]) -> None:
    wanted: dict[str, Any] = {"redis_settings": {"databases": 20}}
    started = redis.started()
    users = [{"name": "writer", "password": "another-long-password", "commands": "-get"}]
    run = converge(redis_password="a-new-password-for-all", redis_users=users, redis_default_user=True, **wanted)
    assert run.code == 0, run.why
    assert redis.started() == started
    assert "WRONGPASS" in redis("PING")
    assert redis("PING", password="a-new-password-for-all") == "PONG"
    assert redis("PING", user="default", password="a-new-password-for-all") == "PONG"
    assert redis("SET", "by", "writer", user="writer", password="another-long-password") == "OK"
    assert "NOPERM" in redis("GET", "by", user="writer", password="another-long-password")
    assert "WRONGPASS" in redis("PING", user="reports", password="only-reads-nothing-else")
    # A command that there is not is found when the users are loaded, of which none changes then.
    bad = converge(redis_users=[{**users[0], "commands": "+no-such-command"}], redis_default_user=False, **wanted)
    assert "Redis refuses its users" in bad.why
    assert "last good configuration is back" in bad.why
    assert redis("PING", user="default", password="a-new-password-for-all") == "PONG"
    back = converge(**wanted)
    assert back.code == 0, back.why
    assert (redis("PING"), redis.started()) == ("PONG", started)


def test_switching_the_append_only_file_loses_nothing(host: Any, redis: Any, converge: Callable[..., Any]) -> None:
    redis("SET", "switched", "off")
    started = redis.started()
    off = converge(redis_profile="session", redis_settings={"databases": 20})
    assert off.code == 0, off.why
    assert redis.started() == started
    assert redis.setting("appendonly") == "no"
    assert not host.file(APPEND_ONLY).exists

    # On again while it is down: a start with appendonly would read an append-only file that is not there.
    redis("SET", "switched", "on")
    host.check_output(f"docker rm --force --volumes $(docker stop {redis.name})")
    on = converge(redis_settings={"databases": 20})
    assert on.code == 0, on.why
    assert redis.setting("appendonly") == "yes"
    assert redis("GET", "switched") == "on"
    assert redis.inspect()["Config"]["Cmd"] == ["redis-server", "/etc/redis/redis.conf"]
    assert converge(redis_settings={"databases": 20}).changed == []


def test_another_image_from_a_file_replaces_the_container_once(
    host: Any, redis: Any, converge: Callable[..., Any], tmp_path: Any
) -> None:
    archive = tmp_path / "image.tar"
    host.check_output("docker tag example/redis:alternative example/redis:loaded")
    archive.write_bytes(host.run("docker save example/redis:loaded").stdout_bytes)
    host.check_output("docker rmi example/redis:loaded")
    wanted = {
        "redis_image_source": "load",
        "redis_image": "example/redis:loaded",
        "redis_image_archive": str(archive),
        "redis_settings": {"databases": 20},
    }
    redis("SET", "image", "old")
    run = converge(**wanted)
    assert run.code == 0, run.why
    assert redis.inspect()["Config"]["Image"] == "example/redis:loaded"
    assert redis("GET", "image") == "old"
    assert converge(**wanted).changed == []
    wrong = converge(**{**wanted, "redis_image": "example/redis:other"})
    assert "redis_image_archive" in wrong.why
    assert "example/redis:loaded" in wrong.why
