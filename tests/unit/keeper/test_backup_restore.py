"""Backs up and restores against a real redis-server, with moto in place of AWS."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from spotcache_keeper.backup import retain, switch_data
from spotcache_keeper.backup.create import backup
from spotcache_keeper.backup.current_data import identify
from spotcache_keeper.backup.restore import Request, restore
from spotcache_keeper.backup.switch_data import work_directory
from spotcache_keeper.errors import ConfigError, DamagedError, KeeperError, NoSourceError, RefusedError
from spotcache_keeper.overview import listing_table, make_listing, make_status, status_table
from spotcache_keeper.stores.manifest import parse_manifest
from spotcache_keeper.stores.retention import Policy
from spotcache_keeper.stores.s3 import S3Store
from spotcache_keeper.stores.source import Source
from spotcache_keeper.system.files import sha256_of
from spotcache_keeper.system.times import created_of

from tests.unit.keeper.support import REGION, ZONE, TestHost, flip_bit, replace_bytes

# How long short-lived keys live: a busy machine backs them up before they end.
LIFE_MS = 5000


@pytest.fixture
def appending(tmp_path: Path) -> Iterator[TestHost]:
    """The same with the append-only file on."""
    made = TestHost(tmp_path / "appending", appendonly=True)
    made.start()
    yield made
    made.engine.kill()


def lose_volume(host: TestHost) -> None:
    """The host and its volume are gone; a new host with an empty Redis on a new volume takes over."""
    host.engine.kill()
    shutil.rmtree(host.volume_path)
    host.redis_directory.mkdir(parents=True)
    host.start()


# --- backing up


def test_a_backup_is_what_redis_holds(host: TestHost) -> None:
    host.fill("one")
    result = host.backup()
    manifest = result.manifest
    assert {number: (count.keys, count.expires) for number, count in manifest.databases.items()} == {
        0: (300, 35),
        3: (300, 35),
        15: (300, 35),
    }
    assert manifest.keys == 900
    assert manifest.rdb_sha256 == sha256_of(host.rdb(manifest.id))
    with host.client() as client:
        about = client.info("server")
    engine = "valkey" if "valkey_version" in about else "redis"
    assert (manifest.engine, manifest.redis_version) == (engine, about[f"{engine}_version"])
    assert manifest.rdb_version == int(host.rdb(manifest.id).read_bytes()[5:9])
    assert (manifest.environment, manifest.reason, manifest.verified) == ("stg", "manual", True)
    assert parse_manifest((host.backups / manifest.id / "manifest.json").read_text()) == manifest
    assert (host.backups.stat().st_mode & 0o777, (host.backups / manifest.id).stat().st_mode & 0o777) == (0o700, 0o700)


def test_databases_of_every_size_are_counted(host: TestHost) -> None:
    # Their sizes take 6, 14 and 32 bits in the RDB.
    sizes = {0: 70_000, 3: 300, 15: 3}
    for database, keys in sizes.items():
        with host.client(database) as client:
            client.eval(f"for i = 1, {keys} do redis.call('set', 'key:' .. i, i) end", 0)
    assert {number: count.keys for number, count in host.backup().manifest.databases.items()} == sizes


def test_a_backup_costs_no_second_copy_and_outlives_the_next(host: TestHost) -> None:
    host.fill("one")
    first = host.backup().manifest
    assert host.rdb(first.id).samefile(host.redis_directory / "dump.rdb")
    host.fill("two")
    second = host.backup().manifest
    assert second.id > first.id
    assert sha256_of(host.rdb(first.id)) == first.rdb_sha256
    assert (first.keys, second.keys) == (900, 1800)


def test_backups_within_one_second_keep_their_order(host: TestHost) -> None:
    moment = host.context().now()
    ids = [backup(host.context(now=lambda: moment), "manual").manifest.id for _ in range(3)]
    assert ids == sorted(ids)
    assert len({backup_id[:16] for backup_id in ids}) == 3


def test_an_empty_redis_can_be_backed_up_and_restored(host: TestHost) -> None:
    empty = host.backup().manifest
    assert (empty.keys, dict(empty.databases)) == (0, {})
    assert host.restore(empty.id)[0].changed is False


def test_a_backup_waits_for_a_rewrite_of_the_append_only_file(appending: TestHost) -> None:
    appending.fill("one")
    with appending.client() as client:
        client.config_set("rdb-key-save-delay", 500)
        client.bgrewriteaof()
        result = appending.backup()
        assert client.info("persistence")["aof_rewrite_in_progress"] == 0
    assert result.manifest.keys == 900
    assert result.seconds["bgsave"] > 0.9  # The rewrite took 0.45 s, and the backup another 0.45 s.


def test_what_keeps_redis_from_a_save_is_what_runs_and_not_what_it_says(appending: TestHost) -> None:
    appending.fill("one")
    with appending.client() as client, appending.context().redis() as server:
        client.config_set("rdb-key-save-delay", 500)
        client.bgrewriteaof()
        assert server.background_save() is False
        # No child runs: a reason that waiting does not mend.
        client.config_set("rdb-key-save-delay", 0)
        while client.info("persistence")["aof_rewrite_in_progress"]:
            pass
        client.acl_setuser("keeper", enabled=True, commands=["-bgsave"])
        with pytest.raises(KeeperError, match="does not let the keeper do BGSAVE"):
            server.background_save()


def test_a_failed_bgsave_leaves_no_save(host: TestHost) -> None:
    host.fill("one")
    good = host.backup().manifest.id
    # Redis cannot put its finished file under a name that a directory has.
    (host.redis_directory / "dump.rdb").unlink()
    (host.redis_directory / "dump.rdb").mkdir()
    with pytest.raises(KeeperError, match="BGSAVE failed"):
        host.backup()
    assert [path.name for path in host.backups.iterdir()] == [good]


def test_another_directory_than_redis_own_is_noticed(host: TestHost) -> None:
    (host.directory / "elsewhere").mkdir()
    with host.client() as client:
        client.config_set("dir", str(host.directory / "elsewhere"))
    with pytest.raises(KeeperError, match=r"did not change: `dir` or `dbfilename` in redis\.conf"):
        host.backup()
    assert list(host.backups.iterdir()) == []


def test_a_damaged_rdb_is_never_a_backup(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.fill("one")
    real = host.engine.check_rdb

    def after_damage(path: Path, *, timeout: float) -> Any:
        flip_bit(path, path.stat().st_size // 2)
        return real(path, timeout=timeout)

    monkeypatch.setattr(host.engine, "check_rdb", after_damage)
    with pytest.raises(KeeperError, match="own check refuses the RDB"):
        host.backup()
    assert list(host.backups.iterdir()) == []


def test_a_killed_backup_leaves_nothing_that_looks_like_one(host: TestHost) -> None:
    host.fill("one")
    child = os.fork()
    if child == 0:
        host.engine.check_rdb = lambda *_arguments, **_named: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]
        try:
            host.backup()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert [path.suffix for path in host.backups.iterdir()] == [".partial"]
    assert make_listing(host.context()).sources == []
    backed_up = host.backup().manifest.id
    assert [path.name for path in host.backups.iterdir()] == [backed_up]


def test_a_full_disk_stops_a_backup_before_it_begins(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.fill("one")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(100, 99, 1))
    words = r"not enough room on .*volume: 1\d\.\d MiB needed for a backup, 0\.0 MiB free"
    with pytest.raises(KeeperError, match=words):
        host.backup()
    with host.client() as client:
        assert client.info("persistence")["rdb_saves"] == 0


def test_older_backups_that_s3_has_give_way_to_a_new_one(in_aws: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    old, kept = in_aws.backup().manifest.id, in_aws.backup().manifest.id
    real = shutil.disk_usage

    def short(path: Any) -> Any:
        usage = real(path)
        return usage._replace(free=0) if (in_aws.backups / old).exists() else usage

    monkeypatch.setattr(shutil, "disk_usage", short)
    in_aws.backup()
    assert not (in_aws.backups / old).exists()
    assert (in_aws.backups / kept).exists()
    assert old in in_aws.s3.stored()


def test_a_wrong_password_is_named(host: TestHost) -> None:
    (host.directory / "password").write_text("another")
    with pytest.raises(ConfigError, match="refuses the keeper's password"):
        host.backup()


def test_a_stopped_redis_is_named(host: TestHost) -> None:
    host.engine.kill()
    with pytest.raises(KeeperError, match="Redis' container spotcache-redis is exited: "):
        host.backup()


def test_an_unmounted_volume_is_never_written_to(host: TestHost) -> None:
    host.machine.mounted_volume = False
    for work in (host.backup, host.restore):
        with pytest.raises(KeeperError, match="the data volume is not mounted at"):
            work()
    assert not host.backups.exists()


# --- S3 and EBS


def test_a_backup_reaches_s3_and_ebs(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    result = in_aws.backup("timer")
    backup_id = result.manifest.id
    head = aws["s3"].head_object(Bucket="backups", Key=f"stg/backups/{backup_id}/dump.rdb")
    assert head["ServerSideEncryption"] == "AES256"
    assert head["ContentLength"] == result.manifest.rdb_bytes
    assert result.stored["s3"] == f"s3://backups/stg/backups/{backup_id}/"
    snapshot = aws["ec2"].describe_snapshots(SnapshotIds=[result.stored["ebs"]])["Snapshots"][0]
    assert {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]} == {
        "Name": "spotcache-stg",
        "spotcache:environment": "stg",
        "spotcache:backup": backup_id,
        "spotcache:verified": "true",
        "spotcache:keys": "900",
        "spotcache:bytes": str(result.manifest.rdb_bytes),
        "spotcache:reason": "timer",
        "spotcache:term": "0",
    }
    assert "snap-" not in str(in_aws.backup("manual", snapshot=False).stored)


class MayNotList:
    """An S3 client as S3 is to whoever may not list the whole bucket: what is not there is denied."""

    def __init__(self, client: Any, denied: set[str]) -> None:
        self._client = client
        self.denied = denied

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_object(self, **arguments: Any) -> Any:
        denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "GetObject")
        if arguments["Key"] in self.denied:
            raise denied
        try:
            return self._client.get_object(**arguments)
        except self._client.exceptions.NoSuchKey:
            raise denied from None


def test_a_backup_that_is_pruned_between_the_list_and_the_look_hides_no_other(
    in_aws: TestHost, aws: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_aws.fill("one")
    first, second = in_aws.backup().manifest.id, in_aws.backup(snapshot=False).manifest.id
    client = MayNotList(aws["s3"], set())
    store = S3Store(lambda: client, "backups", in_aws.config.s3_prefix, "stg")
    listed = store.stored()
    monkeypatch.setattr(store, "stored", lambda: listed)
    aws["s3"].delete_object(Bucket="backups", Key=f"stg/backups/{first}/manifest.json")
    found = {source.id: source for source in store.sources()}
    assert found[second].usable
    assert not found[first].usable
    (in_aws.directory / "copy").mkdir()
    with pytest.raises(DamagedError, match="is gone"):
        store.fetch(Source(first, created_of(first), "s3", 1), in_aws.directory / "copy")
    # What is there and may not be read is a denial, which nobody takes for an empty bucket.
    client.denied.add(f"stg/backups/{second}/manifest.json")
    with pytest.raises(KeeperError, match="AWS denies s3:GetObject"):
        store.sources()


def test_a_large_rdb_goes_up_in_parts_and_comes_back_whole(in_aws: TestHost, aws: dict[str, Any]) -> None:
    with in_aws.client() as client:
        client.config_set("rdbcompression", "no")
        for number in range(12):
            client.set(f"large:{number}", "x" * 1024 * 1024)
    in_aws.use_aws(aws["s3"], aws["ec2"], multipart_bytes=5 * 1024 * 1024)
    before = in_aws.content()
    backup_id = in_aws.backup().manifest.id
    assert aws["s3"].head_object(Bucket="backups", Key=f"stg/backups/{backup_id}/dump.rdb")["ETag"].endswith('-3"')
    lose_volume(in_aws)
    result, _ = in_aws.restore()
    assert (result.manifest.id, result.source.where) == (backup_id, "s3")
    assert in_aws.content() == before


def test_without_the_manifest_a_backup_in_s3_does_not_exist(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    older = in_aws.backup().manifest.id
    newer = in_aws.backup(snapshot=False).manifest.id
    aws["s3"].delete_object(Bucket="backups", Key=f"stg/backups/{newer}/manifest.json")
    lose_volume(in_aws)
    with pytest.raises(KeeperError, match=f"backup {newer} cannot be used: no manifest"):
        in_aws.restore(newer)
    assert in_aws.restore()[0].manifest.id == older


class Refusing:
    """A client that is denied one operation."""

    def __init__(self, client: Any, operation: str, code: str) -> None:
        self._client = client
        self._operation = operation
        self._code = code

    def __getattr__(self, name: str) -> Any:
        from botocore.exceptions import ClientError

        if name == self._operation:
            called = "".join(part.capitalize() for part in name.split("_"))

            def refuse(*_arguments: Any, **_named: Any) -> Any:
                raise ClientError({"Error": {"Code": self._code, "Message": "no"}}, called)

            return refuse
        return getattr(self._client, name)


def test_a_denied_upload_keeps_the_backup_and_names_the_permission(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    in_aws.use_aws(Refusing(aws["s3"], "put_object", "AccessDenied"), aws["ec2"])
    result = backup(in_aws.context(), "manual")
    assert len(result.problems) == 1
    assert "AWS denies s3:PutObject; add it to the policy" in result.problems[0]
    assert result.stored["s3"] is None
    assert result.stored["ebs"] is not None
    assert result.manifest.id not in {key for key, stored in in_aws.s3.stored().items() if stored.has_manifest}
    lose_volume(in_aws)
    assert in_aws.restore()[0].source.where == "ebs"


def test_a_denied_snapshot_names_the_permission(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.use_aws(aws["s3"], Refusing(aws["ec2"], "create_snapshot", "UnauthorizedOperation"))
    result = backup(in_aws.context(), "manual")
    assert "ec2:CreateSnapshot" in result.problems[0]


@pytest.mark.parametrize("code", ["SnapshotCreationPerVolumeRateExceeded", "ConcurrentSnapshotLimitExceeded"])
def test_too_many_snapshots_are_no_failure(in_aws: TestHost, aws: dict[str, Any], code: str) -> None:
    in_aws.use_aws(aws["s3"], Refusing(aws["ec2"], "create_snapshot", code))
    context = in_aws.context()
    result = backup(context, "manual")
    assert (result.problems, result.stored["ebs"]) == ([], None)
    assert any(code in warning for warning in context.warnings)


def retained(host: TestHost, policy: Policy, now: datetime, leases: Any = None) -> dict[str, list[str]]:
    """What the function gives up that looks after the backups."""
    assert host.ebs is not None
    warnings: list[str] = []
    nobody = SimpleNamespace(lease=lambda: None)
    pruned = retain.prune({host.s3: policy, host.ebs: policy}, leases or nobody, now, warnings)
    assert warnings == []
    return pruned


def test_a_host_gives_up_only_what_is_its_own_and_the_function_the_rest(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.config = replace(in_aws.config, keep_local_count=2)
    # Another environment's backup and snapshot, and a snapshot of somebody else's.
    aws["s3"].put_object(Bucket="backups", Key="prod/backups/20200101T000000Z-aaaaaa/manifest.json", Body=b"{}")
    foreign = aws["ec2"].create_snapshot(VolumeId=in_aws.moto_volume)["SnapshotId"]
    begun = in_aws.context().now()
    results = []
    for hour in range(6):
        context = in_aws.context(now=lambda hour=hour: begun + timedelta(hours=hour))
        results.append(backup(context, "timer"))
        assert context.warnings == []
    ids = [result.manifest.id for result in results]
    assert in_aws.context().volume.ids() == ids[-2:]
    assert results[-1].pruned == {"volume": [ids[-3]]}
    assert sorted(in_aws.s3.stored()) == ids
    assert in_aws.ebs is not None
    assert sorted(source.id for source in in_aws.ebs.sources()) == ids
    assert retained(in_aws, Policy(3, 0), begun + timedelta(hours=6))["s3"] == ids[:3]
    assert sorted(in_aws.s3.stored()) == ids[-3:]
    assert in_aws.ebs is not None
    assert sorted(source.id for source in in_aws.ebs.sources()) == ids[-3:]
    assert aws["ec2"].describe_snapshots(SnapshotIds=[foreign])["Snapshots"]
    assert aws["s3"].head_object(Bucket="backups", Key="prod/backups/20200101T000000Z-aaaaaa/manifest.json")


def test_an_upload_that_never_ended_is_removed_after_a_day(in_aws: TestHost, aws: dict[str, Any]) -> None:
    orphan = "20260101T000000Z-aaaaaa"
    aws["s3"].put_object(Bucket="backups", Key=f"stg/backups/{orphan}/dump.rdb", Body=b"half")
    in_aws.backup()
    now = in_aws.context().now()
    assert retained(in_aws, Policy(1, 0), now)["s3"] == []
    assert retained(in_aws, Policy(1, 0), now + timedelta(hours=25))["s3"] == [orphan]
    assert "Contents" not in aws["s3"].list_objects_v2(Bucket="backups", Prefix=f"stg/backups/{orphan}/")


def test_a_new_volume_does_not_overtake_the_backups_of_the_old_one(in_aws: TestHost) -> None:
    in_aws.fill("one")
    newest = in_aws.backup().manifest.id
    lose_volume(in_aws)
    with pytest.raises(RefusedError, match=f"has backups \\(newest {newest}\\): restore first"):
        in_aws.backup("timer")
    with pytest.raises(RefusedError):
        in_aws.backup("final")
    assert in_aws.restore()[0].manifest.id == newest
    assert in_aws.backup("timer").manifest.keys == 900


def test_a_person_may_go_on_with_what_a_new_volume_holds(in_aws: TestHost) -> None:
    in_aws.fill("one")
    in_aws.backup()
    lose_volume(in_aws)
    with in_aws.client() as client:
        client.set("begun", "anew")
    assert in_aws.backup("manual").manifest.keys == 1
    assert in_aws.backup("timer").manifest.keys == 1


# --- restoring


@pytest.mark.parametrize("where", ["volume", "s3", "ebs"])
def test_a_restore_brings_every_key_and_value_back(in_aws: TestHost, aws: dict[str, Any], where: str) -> None:
    in_aws.fill("one")
    before = in_aws.content()
    backed_up = in_aws.backup().manifest
    if where == "volume":
        with in_aws.client() as client:
            client.flushall()
    else:
        lose_volume(in_aws)
    if where == "ebs":
        aws["s3"].delete_object(Bucket="backups", Key=f"stg/backups/{backed_up.id}/manifest.json")
    result, _ = in_aws.restore()
    assert (result.manifest.id, result.source.where, result.changed) == (backed_up.id, where, True)
    assert result.loaded is not None
    assert (result.loaded.keys, result.loaded.expired, result.loaded.compared) == (900, 0, True)
    assert in_aws.content() == before
    assert in_aws.rdb(backed_up.id).samefile(in_aws.redis_directory / "dump.rdb")
    assert not work_directory(in_aws.context()).exists()
    volumes = aws["ec2"].describe_volumes(Filters=[{"Name": "tag-key", "Values": ["spotcache:temporary"]}])["Volumes"]
    assert volumes == []


def test_other_bytes_of_the_same_size_are_no_known_backup(in_aws: TestHost) -> None:
    in_aws.fill("one")
    manifest = in_aws.backup().manifest
    source = Source(manifest.id, manifest.created, "s3", 1, manifest=manifest)
    ctx = in_aws.context()
    assert identify(ctx, [source]) is source
    changed = bytearray(ctx.rdb_path.read_bytes())
    changed[len(changed) // 2] ^= 1
    # A new file, so that the backup's own copy keeps its bytes.
    other = ctx.rdb_path.with_name("other.rdb")
    other.write_bytes(changed)
    other.replace(ctx.rdb_path)
    assert identify(ctx, [source]) is None


def test_what_is_in_place_is_left_alone(in_aws: TestHost) -> None:
    in_aws.fill("one")
    backed_up = in_aws.backup().manifest.id
    assert in_aws.restore()[0].changed is False
    lose_volume(in_aws)
    assert in_aws.restore()[0].changed is True
    stops = in_aws.engine.stops
    result, warnings = in_aws.restore()
    assert (result.changed, result.manifest.id, warnings) == (False, backed_up, [])
    assert in_aws.engine.stops == stops
    # The same after Redis started anew with it.
    in_aws.engine.stop(10)
    in_aws.start()
    assert in_aws.restore(backed_up)[0].changed is False


def test_keys_that_expire_meanwhile_are_accounted_for(host: TestHost) -> None:
    with host.client(2) as client:
        client.mset({f"stays:{number}": "x" for number in range(10)})
        for number in range(5):
            client.set(f"goes:{number}", "x", px=LIFE_MS)
        gone = time.monotonic() + LIFE_MS / 1000
        backed_up = host.backup().manifest
        assert backed_up.keys == 15
        client.flushall()
        client.connection_pool.disconnect()
    time.sleep(max(0.0, gone + 0.1 - time.monotonic()))
    result, _ = host.restore()
    assert result.loaded is not None
    assert (result.loaded.keys, result.loaded.expired) == (10, 5)


def test_a_chosen_id_and_a_chosen_time(host: TestHost) -> None:
    begun = host.context().now()
    ids = []
    for hour in range(3):
        host.fill(f"mark{hour}", keys=2)
        ids.append(
            backup(host.context(now=lambda hour=hour: begun + timedelta(hours=hour)), "manual", prune=False).manifest.id
        )
    moment = (begun + timedelta(hours=1, minutes=30)).isoformat()
    result, _ = host.restore(moment, force=True)
    assert result.manifest.id == ids[1]
    assert len(host.content()) == 60
    assert host.restore(ids[0], force=True)[0].manifest.id == ids[0]
    with pytest.raises(NoSourceError, match=f"no verified backup at or before .*; the oldest is {ids[0]}"):
        host.restore("2001-01-01T00:00Z")
    with pytest.raises(ConfigError, match="is none of: newest, a backup's id"):
        host.restore("yesterday")


def test_newer_data_is_never_overwritten_unasked(host: TestHost) -> None:
    host.fill("one")
    first = host.backup().manifest.id
    host.fill("two", keys=3)
    before = host.content()
    with pytest.raises(RefusedError, match=r"945 keys with \d+ changes since its last save"):
        host.restore()
    second = host.backup().manifest.id
    with pytest.raises(RefusedError, match=f"945 keys, backup {second}, newer than backup {first}"):
        host.restore(first)
    assert host.engine.stops == 0
    assert host.content() == before


def test_force_backs_up_the_present_data_first(host: TestHost) -> None:
    host.fill("one")
    first = host.backup().manifest.id
    one = host.content()
    host.fill("two", keys=3)
    two = host.content()
    result, _ = host.restore(first, force=True)
    assert host.content() == one
    assert result.backed_up_before is not None
    manifest = host.context().volume.manifest(result.backed_up_before)
    assert manifest is not None
    assert (manifest.reason, manifest.keys) == ("before-restore", 945)
    # What was left on purpose is not taken for the newest, but can be asked for.
    assert host.restore()[0].changed is False
    host.restore(result.backed_up_before, force=True)
    assert host.content() == two


def test_force_needs_no_second_backup_of_what_is_backed_up(host: TestHost) -> None:
    host.fill("one")
    first = host.backup().manifest.id
    host.fill("two", keys=3)
    second = host.backup().manifest.id
    result, _ = host.restore(first, force=True)
    assert result.backed_up_before == second


def test_force_keeps_the_files_of_a_redis_that_cannot_be_backed_up(host: TestHost) -> None:
    host.fill("one")
    first = host.backup().manifest.id
    one = host.content()
    host.engine.stop(10)
    replace_bytes(host.redis_directory / "dump.rdb", b"REDIS0010 and then nothing Redis can read")
    with pytest.raises(RefusedError, match=r"Redis does not answer \(exited\), and its files of"):
        host.restore(first)
    result, _ = host.restore(first, force=True)
    assert host.content() == one
    assert result.parked is not None
    assert (Path(result.parked) / "dump.rdb").read_bytes().startswith(b"REDIS0010 and then")


def test_an_rdb_that_a_redis_with_append_only_file_never_read_is_kept(tmp_path: Path, host: TestHost) -> None:
    host.fill("one")
    backed_up = host.backup().manifest.id
    host.fill("two", keys=3)
    with host.client() as client:
        client.save()
    host.engine.kill()
    # The append-only file was switched on by hand: Redis begins empty beside an RDB that no backup knows.
    host.appendonly = True
    host.__post_init__()
    host.start()
    result, _ = host.restore(backed_up)
    assert result.parked is not None
    assert (Path(result.parked) / "dump.rdb").stat().st_size > host.rdb(backed_up).stat().st_size


# --- with the append-only file


def test_a_restore_builds_the_append_only_file(appending: TestHost) -> None:
    appending.fill("one")
    with appending.client() as client:
        client.set("short", "lived", px=LIFE_MS)
    gone = time.monotonic() + LIFE_MS / 1000
    before = {key: value for key, value in appending.content().items() if key != "0/short"}
    backed_up = appending.backup().manifest
    assert backed_up.keys == 901
    with appending.client() as client:
        client.flushall()
    time.sleep(max(0.0, gone + 0.1 - time.monotonic()))
    result, _ = appending.restore()
    assert result.loaded is not None
    assert (result.loaded.keys, result.loaded.expired) == (900, 1)
    assert appending.content() == before
    with appending.client() as client:
        assert client.info("persistence")["aof_enabled"] == 1
    assert appending.restore()[0].changed is False
    # It survives a start, and what was written after it is noticed even then.
    appending.engine.stop(10)
    appending.start()
    assert appending.content() == before
    assert appending.restore()[0].changed is False
    with appending.client() as client:
        client.set("written", "later")
        client.config_set("auto-aof-rewrite-percentage", 0)
    appending.engine.stop(10)
    appending.start()
    with pytest.raises(RefusedError):
        appending.restore()
    with appending.client() as client:
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.02)
    appending.engine.stop(10)
    appending.start()
    with appending.client() as client:
        assert client.info("persistence")["rdb_changes_since_last_save"] == 0
    with pytest.raises(RefusedError, match="with an append-only file of unknown content"):
        appending.restore()


def test_a_restored_append_only_file_is_known_after_a_stop_that_backed_up(appending: TestHost) -> None:
    appending.fill("one")
    appending.backup()
    with appending.client() as client:
        client.flushall()
        client.config_set("save", "900 1")
    appending.restore()
    with appending.client() as client:
        client.config_set("save", "900 1")
    appending.engine.stop(10)
    assert not (appending.redis_directory / "dump.rdb").samefile(appending.rdb(appending.context().volume.ids()[0]))
    appending.start()
    assert appending.restore()[0].changed is False


def test_an_append_only_file_that_only_the_running_server_has_on_is_built_too(host: TestHost) -> None:
    host.fill("one")
    before = host.content()
    host.backup()
    with host.client() as client:
        client.flushall()
        client.config_set("appendonly", "yes")
        # A Redis that still writes its first append-only file does not end when it is told to.
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.02)
    host.restore()
    assert host.content() == before
    assert (host.redis_directory / "appendonlydir").is_dir()


def test_a_stale_append_only_file_does_not_come_along(host: TestHost) -> None:
    host.fill("one")
    host.backup()
    (host.redis_directory / "appendonlydir").mkdir()
    (host.redis_directory / "users.acl").write_text("kept")
    (host.redis_directory / "temp-123.rdb").write_text("half a backup")
    with host.client() as client:
        client.flushall()
    host.restore()
    assert sorted(path.name for path in host.redis_directory.iterdir()) == ["dump.rdb", "users.acl"]


# --- bad sources


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "manifest", "missing"])
def test_a_damaged_copy_is_noticed_and_the_older_one_offered_or_taken(host: TestHost, damage: str) -> None:
    host.fill("one")
    one = host.content()
    older = host.backup().manifest.id
    host.fill("two")
    newer = host.backup().manifest.id
    rdb = host.rdb(newer)
    if damage == "truncated":
        replace_bytes(rdb, rdb.read_bytes()[:-20])
    elif damage == "altered":
        flip_bit(rdb, rdb.stat().st_size // 3)
    elif damage == "empty":
        replace_bytes(rdb, b"")
    elif damage == "manifest":
        path = host.backups / newer / "manifest.json"
        path.write_text(path.read_text().replace('"keys": 1800', '"keys": 1801'))
    else:
        rdb.unlink()
    with host.client() as client:
        client.flushall()
    if damage == "altered":
        with pytest.raises(
            KeeperError, match=f"SHA-256 is .* instead of .*; nothing was changed. The next older good one is {older}"
        ):
            host.restore()
    with pytest.raises(KeeperError, match=f"backup {newer}"):
        host.restore(newer)
    assert host.engine.stops == 0
    result, warnings = host.restore(fallback=True)
    assert result.manifest.id == older
    assert host.content() == one
    if damage == "altered":
        assert [entry["id"] for entry in result.skipped] == [newer]
        assert any(newer in warning for warning in warnings)


def test_every_altered_byte_is_noticed(host: TestHost) -> None:
    host.fill("one", keys=2)
    backed_up = host.backup().manifest.id
    rdb = host.rdb(backed_up)
    good = rdb.read_bytes()
    with host.client() as client:
        client.flushall()
    for position in range(0, len(good), max(1, len(good) // 12)):
        flip_bit(rdb, position)
        with pytest.raises(KeeperError, match="SHA-256"):
            host.restore(backed_up)
        replace_bytes(rdb, good)
    assert host.restore(backed_up)[0].changed is True


def test_the_same_backup_elsewhere_stands_in_for_a_damaged_copy(in_aws: TestHost) -> None:
    in_aws.fill("one")
    before = in_aws.content()
    backed_up = in_aws.backup().manifest
    flip_bit(in_aws.rdb(backed_up.id), 100)
    with in_aws.client() as client:
        client.flushall()
    result, _ = in_aws.restore()
    assert (result.manifest.id, result.source.where) == (backed_up.id, "s3")
    assert in_aws.content() == before
    assert sha256_of(in_aws.rdb(backed_up.id)) == backed_up.rdb_sha256


def test_altered_bytes_in_s3_are_noticed(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    backed_up = in_aws.backup(snapshot=False).manifest.id
    key = f"stg/backups/{backed_up}/dump.rdb"
    data = bytearray(aws["s3"].get_object(Bucket="backups", Key=key)["Body"].read())
    data[500] ^= 1
    aws["s3"].put_object(Bucket="backups", Key=key, Body=bytes(data))
    lose_volume(in_aws)
    with pytest.raises(KeeperError, match=r"SHA-256 is .*There is no older one"):
        in_aws.restore()
    assert not (in_aws.backups / backed_up).exists()
    assert in_aws.content() == {}


def test_unknown_pending_failed_and_vanished_snapshots(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    result = in_aws.backup()
    snapshot = str(result.stored["ebs"])
    aws["s3"].delete_object(Bucket="backups", Key=f"stg/backups/{result.manifest.id}/manifest.json")
    lose_volume(in_aws)
    with pytest.raises(NoSourceError, match=f"no EBS snapshot snap-0123; the newest is {result.manifest.id}"):
        in_aws.restore("snap-0123")
    with pytest.raises(NoSourceError, match="there is no backup 20200101T000000Z-abcdef"):
        in_aws.restore("20200101T000000Z-abcdef")
    record = ec2_backends[DEFAULT_ACCOUNT_ID][REGION].snapshots[snapshot]
    record.status = "pending"
    for wanted in (snapshot, result.manifest.id):
        with pytest.raises(KeeperError, match="still pending: try again") as caught:
            in_aws.restore(wanted)
        assert caught.value.exit_code == 1
    record.status = "error"
    with pytest.raises(KeeperError, match="EBS says error"):
        in_aws.restore(snapshot)
    record.status = "completed"
    assert in_aws.ebs is not None
    sources = in_aws.ebs.sources()
    aws["ec2"].delete_snapshot(SnapshotId=snapshot)
    in_aws.ebs.sources = lambda: sources  # type: ignore[method-assign]
    with pytest.raises(KeeperError, match=f"{snapshot} is gone"):
        in_aws.restore()


def test_a_newer_pending_snapshot_is_mentioned(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    older = in_aws.backup().manifest.id
    result = in_aws.backup()
    aws["s3"].delete_object(Bucket="backups", Key=f"stg/backups/{result.manifest.id}/manifest.json")
    ec2_backends[DEFAULT_ACCOUNT_ID][REGION].snapshots[result.stored["ebs"]].status = "pending"
    lose_volume(in_aws)
    restored, warnings = in_aws.restore()
    assert restored.manifest.id == older
    assert any(f"{result.stored['ebs']} holds a newer backup" in warning for warning in warnings)


def test_another_environments_backups_are_never_restored(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    result = in_aws.backup()
    snapshot, backed_up = str(result.stored["ebs"]), result.manifest.id
    aws["ec2"].create_tags(Resources=[snapshot], Tags=[{"Key": "spotcache:environment", "Value": "prod"}])
    manifest = in_aws.backups / backed_up / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"stg"', '"prod"'))
    aws["s3"].put_object(Bucket="backups", Key=f"stg/backups/{backed_up}/manifest.json", Body=manifest.read_bytes())
    for wanted in (snapshot, backed_up):
        with pytest.raises(ConfigError, match="belongs to environment 'prod'"):
            in_aws.restore(wanted)
    with pytest.raises(ConfigError, match="belongs to environment 'prod'"):
        in_aws.restore()
    with pytest.raises(ConfigError, match="belongs to environment 'stg', not to 'prod'"):
        in_aws.restore(expect_environment="prod")
    untagged = aws["ec2"].create_snapshot(VolumeId=in_aws.moto_volume)["SnapshotId"]
    with pytest.raises(KeeperError, match="holds no backup: it has no tag spotcache:backup"):
        in_aws.restore(untagged)


def test_nothing_at_all_has_an_exit_code_of_its_own(in_aws: TestHost) -> None:
    with pytest.raises(NoSourceError, match="there is no backup of this environment") as caught:
        in_aws.restore()
    assert caught.value.exit_code == 4


def test_a_place_that_cannot_be_read_stops_a_guess(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    backed_up = in_aws.backup().manifest.id
    with in_aws.client() as client:
        client.flushall()
    in_aws.use_aws(Refusing(aws["s3"], "get_paginator", "AccessDenied"), aws["ec2"])
    with pytest.raises(KeeperError, match="nobody can tell which backup is the newest"):
        in_aws.restore()
    assert in_aws.restore(backed_up)[0].changed is True
    with in_aws.client() as client:
        client.flushall()
    assert in_aws.restore(fallback=True)[0].manifest.id == backed_up


def test_left_over_volumes_of_a_killed_restore_are_deleted(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    result = in_aws.backup()
    assert in_aws.ebs is not None
    left = in_aws.ebs._create_volume(str(result.stored["ebs"]), in_aws.machine.instance_id, ZONE)
    in_aws.ebs._attach(left, in_aws.machine.instance_id)
    other = in_aws.ebs._create_volume(str(result.stored["ebs"]), "i-0aaaaaaaaaaaaaaaa", ZONE)
    _, warnings = in_aws.restore()
    assert [
        volume["VolumeId"]
        for volume in aws["ec2"].describe_volumes(Filters=[{"Name": "tag-key", "Values": ["spotcache:temporary"]}])[
            "Volumes"
        ]
    ] == [other]
    assert any(left in warning for warning in warnings)
    assert in_aws.machine.left_overs_unmounted == 1


def test_a_snapshot_without_the_backup_leaves_no_volume(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.fill("one")
    result = in_aws.backup()
    shutil.rmtree(in_aws.machine.snapshots / str(result.stored["ebs"]) / "backups" / result.manifest.id)
    aws["s3"].delete_object(Bucket="backups", Key=f"stg/backups/{result.manifest.id}/manifest.json")
    lose_volume(in_aws)
    with pytest.raises(KeeperError, match="does not contain it"):
        in_aws.restore(str(result.stored["ebs"]))
    volumes = aws["ec2"].describe_volumes(Filters=[{"Name": "tag-key", "Values": ["spotcache:temporary"]}])["Volumes"]
    assert volumes == []


# --- a restore that goes wrong half way


def test_a_redis_that_does_not_start_gets_its_old_data_back(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.fill("one")
    backed_up = host.backup().manifest.id
    host.fill("two", keys=3)
    before = host.content()
    real = host.engine.start
    calls = []

    def first_fails() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeeperError("docker cannot start spotcache-redis: no")
        real()

    monkeypatch.setattr(host.engine, "start", first_fails)
    with pytest.raises(KeeperError, match=r"docker cannot start .*; the old data is in place again"):
        host.restore(backed_up, force=True)
    assert host.content() == before
    assert not work_directory(host.context()).exists()


def test_a_difference_after_the_start_brings_the_old_data_back(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.fill("one")
    older = host.backup().manifest.id
    host.fill("two", keys=3)
    newer = host.backup().manifest.id
    before = host.content()
    real = switch_data.compare
    monkeypatch.setattr(
        switch_data, "compare", lambda manifest, state: real(manifest, replace(state, loaded=(state.loaded or 0) - 1))
    )
    with pytest.raises(KeeperError, match="Redis loaded 899 keys and left out 0 expired ones; the backup has 900"):
        host.restore(older, force=True)
    assert host.content() == before
    assert (host.redis_directory / "dump.rdb").samefile(host.rdb(newer))


# --- what a person sees


def test_list_and_status(in_aws: TestHost) -> None:
    in_aws.fill("one")
    result = in_aws.backup()
    context = in_aws.context()
    listing = make_listing(context)
    rows = listing.to_json()["sources"]
    assert [row["where"] for row in rows] == ["volume", "s3", "ebs"]
    assert {(row["id"], row["keys"], row["verified"], row["state"]) for row in rows} == {
        (result.manifest.id, 900, True, "complete")
    }
    table = listing_table(listing, context.now())
    assert table.splitlines()[0].split()[:3] == ["ID", "CREATED", "(UTC)"]
    assert len({line.index("complete") for line in table.splitlines()[1:]}) == 1
    status = make_status(context)
    assert status["redis"]["state"] == "ready"
    assert status["redis"]["keys"] == 900
    assert status["sources"]["ebs"] == {
        "count": 1,
        "verified": 1,
        "pending": 0,
        "newest": result.manifest.id,
        "unreadable": None,
    }
    text = status_table(status, context.now())
    assert f"Newest backup  {result.manifest.id} (volume)" in text


def test_status_says_what_it_cannot_find_out(in_aws: TestHost, aws: dict[str, Any]) -> None:
    in_aws.engine.kill()
    in_aws.use_aws(Refusing(aws["s3"], "get_paginator", "AccessDenied"), aws["ec2"])
    status = make_status(in_aws.context())
    assert status["redis"]["state"] == "exited"
    assert "s3:" in status["sources"]["s3"]["unreadable"] or "AWS denies" in status["sources"]["s3"]["unreadable"]
    assert status["newest"] is None
    assert "none" in status_table(status, in_aws.context().now())


def test_an_empty_listing_says_so(host: TestHost) -> None:
    context = host.context()
    assert listing_table(make_listing(context), context.now()) == "There is no backup of stg yet."


def test_the_request_is_checked_before_anything_else(host: TestHost) -> None:
    with pytest.raises(ConfigError):
        restore(host.context(), Request("tomorrow"))
    assert not host.backups.exists()
