"""The keeper with nothing set but what must be: by hand and by its timer's unit, on the host's own disk and in S3."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CONFIG = "/etc/spotcache/keeper.json"
STATE = "/var/lib/spotcache"
BACKUPS = "/srv/redis/backups"
PROGRAM = "/usr/local/sbin/spotcache-keeper"


def shown(host: Any, unit: str, *names: str) -> dict[str, str]:
    """What systemd knows of a unit."""
    lines = host.check_output(f"systemctl show {unit} --property={','.join(names)}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_the_timer_runs_and_the_rest_waits(host: Any) -> None:
    timer = shown(host, "spotcache-backup.timer", "ActiveState", "UnitFileState", "TimersCalendar", "Persistent")
    assert (timer["ActiveState"], timer["UnitFileState"], timer["Persistent"]) == ("active", "enabled", "yes")
    assert "OnCalendar=*-*-* *:00/15:00" in timer["TimersCalendar"]
    for unit in ("spotcache-watch", "spotcache-boot", "spotcache-guard"):
        other = shown(host, f"{unit}.service", "ActiveState", "UnitFileState", "LoadState")
        assert other == {"ActiveState": "inactive", "UnitFileState": "disabled", "LoadState": "loaded"}


def test_a_backup_comes_back(redis: Any, keeper: Any) -> None:
    assert redis("SET", "kept", "value") == "OK"
    done = keeper("backup")
    assert (done["ok"], done["verified"], done["keys"]) == (True, True, 1)
    assert keeper.backups() == [(done["id"], "volume", True), (done["id"], "s3", True)]
    assert redis("FLUSHDB") == "OK"
    restored = keeper("restore", "--from", done["id"], "--force")
    assert (restored["changed"], restored["source"], restored["keys_loaded"]) == (True, "volume", 1)
    assert redis("GET", "kept") == "value"
    assert keeper("restore", "--from", done["id"])["changed"] is False


def test_s3_has_it_when_the_disk_does_not(host: Any, redis: Any, keeper: Any) -> None:
    kept = keeper.backups()[0][0]
    host.check_output(f"rm -r {BACKUPS}/{kept}")
    assert redis("FLUSHDB") == "OK"
    assert keeper("restore", "--from", kept, "--force")["source"] == "s3"
    assert redis("GET", "kept") == "value"


def test_the_timers_unit_may_all_that_a_backup_needs(host: Any, redis: Any, keeper: Any) -> None:
    assert redis("SET", "by", "the timer") == "OK"
    # By systemd, with all that the unit forbids its process.
    assert host.run("systemctl start spotcache-backup.service").rc == 0
    last = keeper("status")["last_backup"]
    assert (last["reason"], last["keys"]) == ("timer", 2)
    assert {(last["id"], "volume", True), (last["id"], "s3", True)} <= set(keeper.backups())


def test_newer_data_is_not_replaced_unasked(redis: Any, keeper: Any) -> None:
    oldest = keeper.backups()[-1][0]
    assert redis("SET", "later", "value") == "OK"
    assert "--force" in keeper("restore", "--from", oldest, code=3)["error"]
    assert redis("GET", "later") == "value"


def test_nobody_else_reads_it(host: Any, keeper: Any) -> None:
    newest = keeper("backup")["id"]
    wanted = {CONFIG: 0o600, STATE: 0o700, f"{STATE}/status.json": 0o600, PROGRAM: 0o755, BACKUPS: 0o700}
    for path, mode in {**wanted, f"{BACKUPS}/{newest}": 0o700, f"{BACKUPS}/{newest}/manifest.json": 0o600}.items():
        there = host.file(path)
        assert (path, there.mode, there.user, there.group) == (path, mode, "root", "root")
    keepers = host.file("/etc/spotcache/keeper-password").content_string.strip()
    for secret in (keepers, "a-password-of-the-scenario"):
        places = f"{CONFIG} {STATE} {BACKUPS}/{newest}/manifest.json /etc/systemd/system"
        assert host.run(f"grep --recursive --files-with-matches --fixed-strings -e {secret} {places}").stdout == ""
        assert secret not in host.check_output("journalctl --identifier spotcache-keeper --output cat")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"keeper_bucket": "Not_A_Bucket"}, "keeper_bucket 'Not_A_Bucket'"),
        ({"keeper_keep_local_count": 0}, "keeper_keep_local_count is 0: keep at least one backup"),
        ({"keeper_backup_interval": "7min"}, "value of keeper_backup_interval must be one of"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    host: Any, converge: Callable[..., Any], variables: dict[str, Any], expected: str
) -> None:
    before = host.file(CONFIG).content_string
    run = converge(**variables)
    assert run.code != 0
    assert expected in run.why
    assert run.changed == []
    assert host.file(CONFIG).content_string == before
