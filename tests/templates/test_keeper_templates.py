"""What the role keeper writes: a configuration that the program accepts, and units that systemd accepts."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from spotcache_keeper.config import Config, Secret, Timeouts, parse_config

from tests.templates.render import ROOT, render, value
from tests.unit.keeper.support import TIMEOUTS

BASE: dict[str, Any] = {
    "keeper_environment": "stg",
    "keeper_region": "ap-northeast-1",
    "keeper_bucket": "spotcache-stg-backups",
    # As the playbooks hand it over.
    "redis_result": {
        "image": "redis",
        "volume": value("redis", "redis__volume_facts", {}),
        "tls_ca_file": "",
        "keeper_username": "keeper",
        "keeper_password_file": "/etc/spotcache/keeper-password",
    },
}
EVERYTHING: dict[str, Any] = BASE | {
    "keeper_endpoint_url": "http://10.20.0.1:5000",
    "keeper_dualstack": "services",
    "keeper_prefix": "team/",
    "keeper_keep_local_count": 1,
    "keeper_ebs_snapshots": False,
    "keeper_volume": {
        "path": "/data",
        "directory": "/data/redis",
        "filesystem": "xfs",
        "labels": {"ext4": "one", "xfs": "two"},
        "mount_options": {"ext4": "defaults", "xfs": "nouuid"},
        "uid": 1,
        "gid": 2,
    },
    "keeper_require_mount": False,
    "keeper_redis_host": "10.20.0.5",
    "keeper_redis_port": 6390,
    "keeper_container": "other",
    "keeper_redis_image": "redis:7",
    "keeper_dbfilename": "cache.rdb",
    "keeper_appendonly": True,
    "keeper_timeouts": {"backup": 60},
    "keeper_metadata_url": "http://127.0.0.1:1338",
    "keeper_watch_seconds": 2,
    "keeper_guard": False,
    "keeper_boot": False,
    "keeper_topic_arn": "arn:aws:sns:ap-northeast-1:123456789012:spotcache-stg",
    "keeper_hook": "backup",
    "keeper_dns_zone_id": "Z1",
    "keeper_dns_name": "redis.stg.example",
    "keeper_dns_ttl": 5,
    "keeper_allow_empty": True,
    "keeper_data_device": "/dev/sdg",
    "keeper_address": "10.20.0.5",
    "keeper_address_files": ["/etc/spotcache/keeper.json"],
    "keeper_fetched": [{"path": "/etc/x", "parameter": "/spotcache/stg/x", "mode": "0400", "uid": 999, "gid": 999}],
}
SPEC = yaml.safe_load((ROOT / "roles/keeper/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
INTERVALS: list[str] = SPEC["keeper_backup_interval"]["choices"]


def test_the_program_accepts_what_the_role_writes() -> None:
    config = parse_config(json.loads(render("keeper", "keeper.json.j2", BASE)), "test")
    assert (config.environment, config.bucket, config.endpoint_url, config.image) == (
        "stg",
        "spotcache-stg-backups",
        None,
        "redis",
    )
    assert config.redis_password_file == Path("/etc/spotcache/keeper-password")
    assert config.timeouts == TIMEOUTS


def test_every_option_arrives() -> None:
    config = parse_config(json.loads(render("keeper", "keeper.json.j2", EVERYTHING)), "test")
    assert config == Config(
        environment="stg",
        region="ap-northeast-1",
        bucket="spotcache-stg-backups",
        volume_path=Path("/data"),
        redis_directory=Path("/data/redis"),
        container="other",
        image="redis:7",
        endpoint_url="http://10.20.0.1:5000",
        dualstack="services",
        prefix="team/",
        require_mount=False,
        redis_host="10.20.0.5",
        redis_port=6390,
        redis_password_file=Path("/etc/spotcache/keeper-password"),
        dbfilename="cache.rdb",
        appendonly=True,
        ebs_snapshots=False,
        keep_local_count=1,
        metadata_url="http://127.0.0.1:1338",
        watch_seconds=2,
        guard=False,
        boots=False,
        topic_arn="arn:aws:sns:ap-northeast-1:123456789012:spotcache-stg",
        hook="backup",
        dns_zone_id="Z1",
        dns_name="redis.stg.example",
        dns_ttl=5,
        allow_empty=True,
        data_device="/dev/sdg",
        volume_filesystem="xfs",
        volume_labels={"ext4": "one", "xfs": "two"},
        mount_options={"ext4": "defaults", "xfs": "nouuid"},
        redis_uid=1,
        redis_gid=2,
        address="10.20.0.5",
        address_files=(Path("/etc/spotcache/keeper.json"),),
        secrets=(Secret(Path("/etc/x"), "/spotcache/stg/x", 0o400, 999, 999),),
        timeouts=replace(TIMEOUTS, backup=60),
        redis_tls_ca=None,
        redis_username="keeper",
        appendfilename="appendonly.aof",
        appenddirname="appendonlydir",
        state_directory=Path("/var/lib/spotcache"),
    )


def test_the_image_of_the_role_redis_is_taken_over() -> None:
    text = render(
        "keeper",
        "keeper.json.j2",
        BASE | {"redis_result": {**BASE["redis_result"], "image": "spotcache-redis:x"}},
    )
    assert json.loads(text)["image"] == "spotcache-redis:x"


def test_the_timeouts_are_those_that_the_options_name() -> None:
    config = parse_config(json.loads(render("keeper", "keeper.json.j2", BASE)), "test")
    assert set(SPEC["keeper_timeouts"]["options"]) == {item.name for item in fields(Timeouts)}
    for name, option in SPEC["keeper_timeouts"]["options"].items():
        assert option["description"].endswith(f"; {getattr(config.timeouts, name)}."), name


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_the_keeper_knows_of_the_volume_what_the_role_redis_knows(filesystem: str) -> None:
    chosen = {"redis_volume_filesystem": filesystem}
    found = {"redis__volume": {"label": "", "fstype": ""}}
    given = {**BASE["redis_result"], "volume": value("redis", "redis__volume_facts", chosen)}
    config = parse_config(json.loads(render("keeper", "keeper.json.j2", BASE | {"redis_result": given})), "test")
    assert config.volume_filesystem == filesystem
    options = config.mount_options[filesystem]
    line = f"LABEL={config.volume_labels[filesystem]} {config.volume_path} {filesystem} {options} 0 0"
    assert line == value("redis", "redis__fstab_line", chosen | found)
    assert ("nouuid" in options.split(",")) == (filesystem == "xfs")
    assert (config.redis_uid, config.redis_gid) == (value("redis", "redis__uid", {}), value("redis", "redis__gid", {}))


def test_what_the_role_writes() -> None:
    written = value("keeper", "keeper__files", BASE)
    assert [entry["path"] for entry in written] == [
        "/var/lib/spotcache",
        "/etc/spotcache/keeper.json",
        "/etc/systemd/system/spotcache-backup.service",
        "/etc/systemd/system/spotcache-backup.timer",
        "/etc/systemd/system/spotcache-watch.service",
        "/etc/systemd/system/spotcache-boot.service",
        "/etc/systemd/system/spotcache-guard.service",
    ]
    assert [entry["mode"] for entry in written[:2]] == ["0700", "0600"]


@pytest.mark.parametrize("interval", INTERVALS)
def test_every_interval_is_a_calendar_that_fires_that_often(interval: str) -> None:
    timer = render("keeper", "spotcache-backup.timer.j2", BASE | {"keeper_backup_interval": interval})
    (calendar,) = (line.removeprefix("OnCalendar=") for line in timer.splitlines() if line.startswith("OnCalendar="))
    if interval.endswith("min"):
        assert calendar == f"*:0/{interval.removesuffix('min')}"
    else:
        assert calendar == ("00:00" if interval == "24h" else f"0/{interval.removesuffix('h')}:00")
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=2", calendar], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_service_may_write_the_data_volume_and_nothing_else() -> None:
    service = render("keeper", "spotcache-backup.service.j2", EVERYTHING).splitlines()
    assert "ExecStart=/usr/local/sbin/spotcache-keeper backup --reason timer" in service
    fewer = render("keeper", "spotcache-backup.service.j2", EVERYTHING | {"keeper_timer_snapshots": False})
    assert "ExecStart=/usr/local/sbin/spotcache-keeper backup --reason timer --no-snapshot\n" in fewer
    assert [line for line in service if "WritePaths" in line] == ["ReadWritePaths=/data"]
    assert "RequiresMountsFor=/data" in service
    assert "ProtectSystem=strict" in service
    # It would hide the links by which the data volume is known.
    assert not any(line.startswith("PrivateDevices") for line in service)


def test_no_unit_is_ordered_with_the_scopes_of_containers() -> None:
    """Systemd would not start the container that checks the final backup before such a unit has stopped."""
    role = ROOT / "roles" / "keeper"
    templates = sorted(path.name for path in (role / "templates").glob("spotcache-*.j2"))
    assert len(templates) > 3
    for name in templates:
        orders = [
            line for line in render("keeper", name, EVERYTHING).splitlines() if line.startswith(("After=", "Before="))
        ]
        assert not [line for line in orders if ".scope" in line], name
    # Nor by a drop-in for all of them.
    assert not [path for path in role.rglob("*") if "scope" in path.name or path.suffix in (".scope", ".conf")]


def test_the_watcher_is_ended_gently_and_may_write_the_data_volume_and_nothing_else() -> None:
    service = render("keeper", "spotcache-watch.service.j2", EVERYTHING).splitlines()
    assert "ExecStart=/usr/local/sbin/spotcache-keeper watch" in service
    assert [line for line in service if "WritePaths" in line] == ["ReadWritePaths=-/data"]
    # A mount that fails must not keep it from running; at a shutdown it is ended before the volume goes.
    assert "After=data.mount" in service
    assert not any(line.startswith("Requires") for line in service)
    for line in (
        "ProtectSystem=strict",
        "Restart=always",
        "KillMode=mixed",
        "After=docker.service network-online.target",
    ):
        assert line in service
    assert not any(line.startswith("PrivateDevices") for line in service)
