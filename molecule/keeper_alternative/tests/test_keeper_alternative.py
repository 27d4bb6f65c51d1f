"""The keeper with nearly everything set: an XFS data volume, an append-only file, a watch that comes and goes."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

GUARD = "nft list table inet spotcache"


def test_the_timer_has_its_hours_and_its_condition(host: Any) -> None:
    unit = "systemctl show spotcache-backup.timer --property=TimersCalendar"
    assert "OnCalendar=*-*-* 00/6:00:00" in host.check_output(unit)
    service = host.file("/etc/systemd/system/spotcache-backup.service").content_string
    assert "ConditionPathExists=/etc/spotcache/redis/redis.conf\n" in service


def test_the_configuration_has_what_was_said(host: Any) -> None:
    told = json.loads(host.file("/etc/spotcache/keeper.json").content_string)
    assert (told["prefix"], told["dbfilename"], told["redis_port"]) == ("team/", "cache.rdb", 6390)
    assert (told["require_mount"], told["keep_local_count"]) == (True, 1)
    # What is not said keeps its default.
    assert (told["timeouts"]["lock"], told["timeouts"]["answer"], told["timeouts"]["stop"]) == (5, 5, 120)
    assert host.check_output("findmnt --noheadings --output FSTYPE /srv/redis") == "xfs"


def test_the_volume_keeps_one_and_s3_all(host: Any, redis: Any, keeper: Any) -> None:
    assert redis("SET", "first", "1") == "OK"
    first = keeper("backup")["id"]
    assert redis("SET", "second", "2") == "OK"
    second = keeper("backup")["id"]
    assert keeper.backups() == [(second, "volume", True), (second, "s3", True), (first, "s3", True)]
    assert host.file("/srv/redis/backups").listdir() == [second]


def test_an_older_backup_comes_back_into_the_append_only_file(host: Any, redis: Any, keeper: Any) -> None:
    older = keeper.backups()[-1][0]
    restored = keeper("restore", "--from", older, "--force")
    assert (restored["source"], restored["keys_loaded"]) == ("s3", 1)
    assert (redis("GET", "first"), redis("GET", "second")) == ("1", "")
    # A start reads the append-only file and nothing else.
    assert redis.setting("appendonly") == "yes"
    host.check_output(f"docker restart {redis.name}")
    end = time.monotonic() + 30
    while "1" not in redis("GET", "first") and time.monotonic() < end:
        time.sleep(0.5)
    assert (redis("GET", "first"), redis("GET", "second")) == ("1", "")


def test_without_the_volume_nothing_is_backed_up(host: Any, keeper: Any) -> None:
    # In a namespace of its own it is not mounted, and this host's goes on.
    hidden = "unshare --mount sh -c 'umount --lazy /srv/redis; spotcache-keeper backup --json'"
    done = host.run(f"AWS_EC2_METADATA_DISABLED=true AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x {hidden}")
    assert done.rc != 0
    assert "/srv/redis" in json.loads(done.stdout)["error"]
    assert keeper("status")["redis"]["state"] == "ready"


def test_the_watch_and_the_gate_come_and_go(
    host: Any, redis: Any, converge: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("s3")
    on = converge(keeper_watch=True)
    assert on.code == 0, on.why
    watch, guard = host.service("spotcache-watch.service"), host.service("spotcache-guard.service")
    assert (watch.is_running, watch.is_enabled, guard.is_enabled) == (True, True, True)
    end = time.monotonic() + 30
    while host.run(GUARD).rc and time.monotonic() < end:
        time.sleep(0.5)
    assert host.run(GUARD).rc == 0
    assert "keeper_watch" not in converge(keeper_watch=True).changed
    off = converge()
    assert off.code == 0, off.why
    assert (watch.is_running, watch.is_enabled, guard.is_enabled) == (False, False, False)
    # Nobody would open it any more.
    assert host.run(GUARD).rc != 0
    assert redis("SET", "after", "the gate") == "OK"
    assert converge().changed == []
