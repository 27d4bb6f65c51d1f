"""Engine, Redis and keeper on one host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from typing import Any

KEEPER = "AWS_EC2_METADATA_DISABLED=true AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x spotcache-keeper"


def test_the_keeper_sees_redis(host: Any) -> None:
    status = json.loads(host.check_output(f"{KEEPER} status --json"))
    assert status["redis"]["state"] == "ready"
    assert host.service("spotcache-backup.timer").is_enabled


def test_a_backup_is_verified_and_comes_back(host: Any, redis: Any) -> None:
    assert redis("SET", "kept", "value") == "OK"
    # S3 does not answer here, which is said, and ends it with 1; on this host the backup is good.
    done = host.run(f"{KEEPER} backup --json")
    result = json.loads(done.stdout)
    assert (done.rc, result["ok"], result["stored"]["s3"]) == (1, False, None)
    assert result["keys"] == 1
    found = json.loads(host.run(f"{KEEPER} list --json").stdout)["sources"]
    assert [(one["id"], one["where"], one["verified"]) for one in found] == [(result["id"], "volume", True)]
    assert redis("FLUSHDB") == "OK"
    restored = host.run(f"{KEEPER} restore --from {result['id']} --force")
    assert redis("GET", "kept") == "value"
    # Off the host there is no backup of what was restored, which is said as well.
    assert restored.rc == 1
    assert "the backup was restored, but what Redis holds now is not backed up" in restored.stderr
