"""Watching for the end of a host: a real redis-server, a small metadata service, moto's server in place of AWS."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from botocore.exceptions import EndpointConnectionError
from spotcache_keeper import config as config_module
from spotcache_keeper.aws.imds import SOURCES, TARGET_STATE, Imds, ImdsError, poll
from spotcache_keeper.aws.signed import Objects, Signed, role_credentials
from spotcache_keeper.backup import create as create_module
from spotcache_keeper.backup.budget import estimate, measured
from spotcache_keeper.errors import KeeperError, RefusedError
from spotcache_keeper.lease import Lease, LeaseStore
from spotcache_keeper.node import drain as drain_module
from spotcache_keeper.node.drain import Drainer, read_drain
from spotcache_keeper.node.renew import LeaseHolder
from spotcache_keeper.node.watch import system_is_stopping
from spotcache_keeper.outside import Outside
from spotcache_keeper.overview import make_status, status_table
from spotcache_keeper.server.client import Redis
from spotcache_keeper.stores.s3 import S3Store
from spotcache_keeper.system.commands import Completed
from spotcache_keeper.system.files import sha256_of
from spotcache_keeper.system.lock import only_run
from spotcache_keeper.system.state import CRASH, SERVING, recall, save_state
from spotcache_keeper.system.times import to_text

from tests.unit.keeper.support import PASSWORD, REGION, ZONE, NoS3
from tests.unit.keeper.watch_support import HOST, TOPIC, World, made_world, moto_server, slow_way_to

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def world(tmp_path: Path, moto: str) -> Iterator[World]:
    with made_world(tmp_path / "host", moto) as made:
        yield made


# --- what the metadata service says


def test_one_token_serves_many_questions_and_is_renewed_before_it_ends(world: World) -> None:
    now = 0.0
    imds = Imds(world.imds.url, clock=lambda: now)
    for _ in range(5):
        assert imds.get("instance-id") is not None
        assert imds.get("spot/instance-action") is None
    assert world.imds.tokens == 1
    now = 21600 - 59
    imds.get("instance-id")
    assert world.imds.tokens == 2


def test_a_token_that_is_refused_is_asked_for_anew(world: World) -> None:
    imds = Imds(world.imds.url)
    imds.get("instance-id")
    world.imds.tokens = 7
    answer = imds.get("instance-id")
    assert answer is not None
    assert answer.text == HOST


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("down", "breaks off|does not answer"),
        ("slow", "does not answer: timed out"),
        ("401", r"refuses its own token .*\(401\)"),
        ("500", "answers 500"),
        ("garbage", "garbage instead of a token"),
    ],
)
def test_a_faulty_metadata_service_is_said_and_hides_no_later_notice(world: World, fault: str, words: str) -> None:
    watch = world.watch()
    watch.step()
    world.imds.fault = fault
    with pytest.raises(ImdsError, match=words):
        poll(Imds(world.imds.url, timeout=0.3))
    pauses = [watch.step() for _ in range(4)]
    assert pauses == sorted(pauses)
    assert pauses[0] >= 2
    assert pauses[-1] <= 10
    world.line("a notice would not be seen meanwhile")
    world.imds.fault = ""
    world.imds.notice()
    assert watch.step() <= 2
    world.line("the metadata service answers again")
    world.line("Spot notice: EC2 will terminate this host")
    assert world.backups_in_s3


@pytest.mark.parametrize(
    "text", ["no JSON", "[]", '{"action": "terminate"}', '{"action": "dance", "time": "2026-11-22T08:00:00Z"}', ""]
)
def test_garbage_in_place_of_a_notice_ends_nothing(world: World, text: str) -> None:
    world.imds.values["spot/instance-action"] = text
    watch = world.watch()
    for _ in range(3):
        watch.step()
    assert watch.drain is None
    assert world.writes()
    assert any("garbage" in line or "that is none" in line for line in world.said)


# --- a rebalance recommendation


def test_a_rebalance_makes_one_early_backup_and_nothing_else(world: World) -> None:
    world.imds.rebalance()
    watch = world.watch()
    for _ in range(3):
        watch.step()
    world.watch().step()
    assert world.early.started == 1
    assert watch.drain is None
    assert world.writes()
    world.line("an early backup is taken, and nothing else")
    world.early.result = (True, "backed_up 20261122T001503Z-3f9a1c")
    watch.step()
    world.line("early backup: backed_up 20261122T001503Z-3f9a1c")


# --- a notice


def test_a_notice_backs_up_everything_that_was_acknowledged(world: World) -> None:
    world.host.fill("one")
    acknowledged: list[int] = []
    stop = threading.Event()

    def write() -> None:
        with redis.Redis(port=world.host.port, password=PASSWORD, socket_timeout=1) as client:
            number = 0
            while not stop.is_set():
                with suppress(redis.TimeoutError):
                    client.set(f"n:{number}", number)
                    acknowledged.append(number)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.2)
    world.imds.notice()
    watch = world.watch()
    watch.step()
    stop.set()
    writer.join()
    assert watch.drain is not None
    assert watch.drain.over
    final = world.final
    assert final is not None
    assert (final.complete, final.off_host, final.cause, final.withdrawn) == (True, True, "spot", False)
    assert world.backups_in_s3 == [final.backup]
    assert world.host.context().volume.manifest(final.backup).reason == "final"  # type: ignore[union-attr]
    assert not world.writes()
    # What the backup holds, and not what Redis holds now.
    world.host.engine.kill()
    world.host.engine.start()
    world.host.restore(final.backup, force=True)
    held = set(world.host.content())
    assert {f"0/n:{number}" for number in acknowledged} <= held
    assert len(acknowledged) > 20
    [message] = world.told()
    assert message["level"] == "good"
    assert message["fields"]["Backup"] == final.backup
    assert set(message) == {"text", "title", "level", "key", "window", "fields"}


@pytest.fixture
def image_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """image-secrets.sh itself, in this test's directory, and nothing that puts the files back by itself."""
    text = (ROOT / "roles/keeper/files/image-secrets.sh").read_text()
    (tmp_path / "fstab").write_text("LABEL=spotcache-data /srv/redis ext4 noatime 0 2\n")
    text = text.replace("/run/spotcache-image", str(tmp_path / "aside")).replace("/etc/fstab", str(tmp_path / "fstab"))
    (tmp_path / "image-secrets.sh").write_text(text)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("systemd-run", "systemctl"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(config_module, "ASIDE", tmp_path / "aside" / "files")

    def run(*words: str | Path) -> None:
        subprocess.run(["/bin/sh", tmp_path / "image-secrets.sh", *words], check=True)

    return run


def test_a_notice_while_an_image_is_made_fences_and_backs_up(world: World, image_secrets: Callable[..., None]) -> None:
    world.host.fill("one")
    password = world.host.config.redis_password_file
    assert password is not None
    image_secrets("scrub", password)
    assert not password.exists()
    world.imds.notice()
    world.watch().step()
    final = world.final
    assert final is not None
    assert (final.complete, final.off_host) == (True, True)
    assert not world.writes()
    image_secrets("unscrub")
    assert (password.read_text(), password.stat().st_mode & 0o777) == (PASSWORD + "\n", 0o600)
    assert not config_module.ASIDE.parent.exists()


def test_the_same_notice_again_changes_nothing(world: World) -> None:
    world.host.fill("one")
    world.imds.notice()
    watch = world.watch()
    watch.step()
    backups, lines = world.backups_in_s3, list(world.said)
    # Also when its time slides, as one emulator has it.
    world.imds.notice(130)
    for _ in range(4):
        watch.step()
        world.clock += 11
    again = world.watch()
    for _ in range(3):
        again.step()
    assert world.backups_in_s3 == backups
    assert world.said == [*lines, "the keeper was started again while this host ends (spot): it goes on"]
    assert len(world.told()) == 1
    assert not world.writes()


def test_a_fence_that_redis_forgot_is_put_up_again(world: World) -> None:
    world.host.fill("one")
    world.imds.notice()
    watch = world.watch()
    watch.step()
    with world.host.client() as client:
        client.execute_command("CLIENT", "UNPAUSE")
    assert world.writes()
    world.clock += 11
    watch.step()
    assert not world.writes()


def test_the_time_left_goes_by_awss_clock(world: World) -> None:
    for ahead in (timedelta(minutes=-7), timedelta(minutes=7)):
        world.said.clear()
        world.imds.values.pop("spot/instance-action", None)
        (world.host.config.state_directory / "drain.json").unlink(missing_ok=True)
        world.imds.ahead = ahead
        world.imds.notice(100)
        watch = world.watch()
        watch.step()
        assert watch.drain is not None
        assert watch.drain.over
        assert re.search(r"this host's clock is (419|42\d) s (ahead|behind)", world.line("this host's clock is"))
        assert any("99 s are left" in line or "100 s are left" in line for line in world.said)


def test_a_notice_whose_time_is_over_is_no_notice(world: World) -> None:
    world.imds.notice(-90)
    watch = world.watch()
    for _ in range(3):
        watch.step()
    assert watch.drain is None
    assert world.writes()
    assert world.early.started == 1
    world.line("which has passed")


def test_a_group_ends_a_host_that_a_passed_notice_still_names(world: World) -> None:
    world.host.fill("one")
    world.imds.notice(-90)
    watch = world.watch()
    watch.step()
    assert watch.drain is None
    world.imds.values["autoscaling/target-lifecycle-state"] = "Terminated"
    watch.step()
    world.line("Auto Scaling ends this host (target state Terminated)")
    assert not world.writes()
    assert world.final is not None
    assert (world.final.cause, world.final.complete) == ("group", True)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source[1].name)
def test_every_kind_of_interruption_is_heeded(world: World, source: Any) -> None:
    path, kind, _ = source
    world.host.fill("one")
    time_text = to_text(datetime.now(UTC) + timedelta(seconds=100))
    said = {"action": "terminate", "time": time_text, "noticeTime": time_text}
    world.imds.values[path] = "Terminated" if kind.has_hook else json.dumps(said)
    [interruption] = poll(Imds(world.imds.url)).interruptions
    assert interruption.kind is kind
    watch = world.watch()
    watch.step()
    world.line(interruption.told(100).split(";")[0])
    assert world.writes() is not kind.ends_host
    assert world.early.started == (0 if kind.ends_host else 1)
    noted = read_drain(world.host.config.state_directory)
    assert (noted is not None and noted.kind is kind) is kind.ends_host


def test_what_an_unknown_program_noted_ends_nothing(world: World) -> None:
    world.imds.notice(100)
    watch = world.watch()
    watch.step()
    noted = world.host.config.state_directory / "drain.json"
    noted.write_text(noted.read_text().replace('"spot"', '"strike"'))
    assert read_drain(noted.parent) is None


def test_no_answer_hides_nothing_that_was_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.imds.notice(100)
    imds = Imds(world.imds.url)
    get = imds.get

    def broken(path: str) -> Any:
        if path == TARGET_STATE:
            raise ImdsError("the metadata service does not answer")
        return get(path)

    monkeypatch.setattr(imds, "get", broken)
    assert [found.kind.name for found in poll(imds).interruptions] == ["spot"]
    del world.imds.values["spot/instance-action"]
    with pytest.raises(ImdsError):
        poll(imds)


def test_a_host_that_is_spared_goes_on(world: World) -> None:
    world.host.fill("one")
    world.imds.notice(100)
    watch = world.watch()
    watch.step()
    assert not world.writes()
    world.imds.ahead = timedelta(seconds=450)
    watch.step()
    world.line("EC2 did not end the host")
    assert world.writes()
    final = world.final
    assert final is not None
    assert final.withdrawn
    # The notice that was not carried out still stands there.
    for run in (watch, world.watch()):
        run.step()
        assert run.drain is None
    assert world.writes()


def test_a_spared_host_does_not_go_on_when_another_one_serves(world: World) -> None:
    world.host.fill("one")
    world.imds.notice(100)
    watch = world.watch()
    watch.step()
    leases = world.outside.leases
    leases.write_lease(Lease("i-another"), leases.lease())
    world.imds.ahead = timedelta(seconds=450)
    watch.step()
    world.line("i-another serves now: writes here stay held back")
    assert not world.writes()


def test_auto_scaling_is_told_once_all_is_backed_up(world: World) -> None:
    world.host.config = replace(world.host.config, hook="backup")
    world.host.fill("one")
    world.imds.values["autoscaling/target-lifecycle-state"] = "InService"
    watch = world.watch()
    watch.step()
    assert not world.backups_in_s3
    world.imds.values["autoscaling/target-lifecycle-state"] = "Terminated"
    asked: list[tuple[str, bool]] = []

    def query(service: str, version: str, action: str, **parameters: str) -> bytes:
        if action == "DescribeAutoScalingInstances":
            return b"<AutoScalingGroupName>spotcache-stg</AutoScalingGroupName>"
        if service == "autoscaling":
            asked.append((action, bool(world.backups_in_s3)))
            assert parameters["AutoScalingGroupName"] == "spotcache-stg"
            assert parameters["InstanceId"] == HOST
            assert version == "2011-01-01"
        return b""

    watch._outside.aws.query = query  # type: ignore[method-assign]
    watch.step()
    watch.step()
    assert asked == [("CompleteLifecycleAction", True)]
    final = world.final
    assert final is not None
    assert (final.cause, final.complete) == ("group", True)


# --- bad things


def test_s3_refused_keeps_the_backup_and_goes_on_trying(world: World) -> None:
    world.host.fill("one")
    good = world.host.s3
    world.host.s3 = S3Store(lambda: world.client("s3"), "nowhere", world.host.config.s3_prefix, "stg")
    world.imds.notice()
    watch = world.watch()
    watch.step()
    assert watch.drain is not None
    assert "recorded" not in watch.drain.steps
    world.line("the bucket does not exist")
    watch._ctx.s3 = good
    watch.step()
    assert watch.drain.over
    world.line("is in S3 now")
    final = world.final
    assert final is not None
    assert final.complete
    assert final.off_host


def test_s3_that_stays_away_is_told_with_what_there_is(world: World) -> None:
    world.host.fill("one")
    world.host.s3 = S3Store(lambda: world.client("s3"), "nowhere", world.host.config.s3_prefix, "stg")
    world.imds.notice(8)
    watch = world.watch()
    watch.step()
    final = world.final
    assert final is not None
    assert (final.complete, final.off_host) == (True, False)
    [message] = world.told()
    assert message["level"] == "error"
    assert "NOT backed up" in message["title"]
    assert "the bucket does not exist" in message["text"]


def test_a_slow_s3_costs_no_last_words(world: World) -> None:
    """The record says where the data is while the upload still runs, and so it does once that has ended."""
    with world.host.client() as client:
        client.set("large", os.urandom(200_000))
    with slow_way_to(world.endpoint, bytes_per_second=40_000) as way:
        slow = boto3.client("s3", region_name=REGION, endpoint_url=way)
        world.host.s3 = S3Store(lambda: slow, "backups", world.host.config.s3_prefix, "stg")
        world.imds.notice(12)
        watch = world.watch()
        begun = time.monotonic()
        watch.step()
        assert time.monotonic() - begun < 6
        world.line("S3 is slow")
        final = world.final
        assert final is not None
        assert (final.complete, final.off_host) == (True, False)
        deadline = time.monotonic() + 60
        while final is None or not final.off_host:
            assert time.monotonic() < deadline
            watch.step()
            final = world.final
        assert final.complete
        assert world.backups_in_s3 == [final.backup]
    puts = [line for line in world.said if "is in S3 now" in line]
    assert len(puts) == 1


def test_half_an_upload_is_no_backup(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.host.fill("one")
    client = world.host.s3._client()
    real, calls = client.upload_fileobj, []

    def breaks_off(_file: Any, bucket: str, key: str, **_how: Any) -> None:
        calls.append(key)
        if len(calls) > 1:
            real(_file, bucket, key, **_how)
            return
        client.put_object(Bucket=bucket, Key=key, Body=b"REDIS")
        raise EndpointConnectionError(endpoint_url=world.endpoint)

    monkeypatch.setattr(client, "upload_fileobj", breaks_off)
    world.imds.notice()
    watch = world.watch()
    watch.step()
    assert world.backups_in_s3 == []
    watch.step()
    final = world.final
    assert final is not None
    assert world.backups_in_s3 == [final.backup]
    body = world.client("s3").get_object(Bucket="backups", Key=f"stg/backups/{final.backup}/dump.rdb")["Body"].read()
    assert len(body) == world.host.rdb(final.backup).stat().st_size


def test_a_refused_bgsave_is_taken_in_the_foreground(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.host.fill("one")

    def refuses(_server: Redis) -> bool:
        raise KeeperError("Redis refuses BGSAVE: Can't backup in background: fork: Cannot allocate memory")

    monkeypatch.setattr(Redis, "background_save", refuses)
    world.imds.notice()
    watch = world.watch()
    watch.step()
    world.line("fork: Cannot allocate memory")
    watch.step()
    final = world.final
    assert final is not None
    assert final.complete
    assert sha256_of(world.host.rdb(final.backup))
    assert final.keys == 900


def test_a_full_disk_leaves_the_newest_verified_backup(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.host.fill("one")
    s3, world.host.s3 = world.host.s3, NoS3()
    before = world.host.backup().manifest.id
    world.host.s3 = s3
    usage = type("Usage", (), {"free": 1024})
    monkeypatch.setattr("spotcache_keeper.stores.local.shutil.disk_usage", lambda _path: usage)
    world.imds.notice(9)
    watch = world.watch()
    for _ in range(3):
        watch.step()
    assert any("not enough room on" in line for line in world.said)
    # It had not reached S3 before.
    assert world.backups_in_s3 == [before]
    final = world.final
    assert final is not None
    assert (final.complete, final.backup) == (False, before)
    [message] = world.told()
    assert "not enough room" in message["text"]
    # Once there is room again, the final backup is made up for.
    monkeypatch.undo()
    watch.step()
    later = world.final
    assert later is not None
    assert later.complete
    assert [entry["level"] for entry in world.told()] == ["error", "good"]


def test_a_stopped_redis_is_started_for_the_final_backup(world: World) -> None:
    world.host.fill("one")
    world.host.backup()
    world.host.engine.stop(5)
    world.imds.notice()
    watch = world.watch()
    watch.step()
    world.line("it was started for the final backup")
    with world.host.context().redis() as server:
        server.wait_until_ready(10)
    watch.step()
    final = world.final
    assert final is not None
    assert final.keys == 900


def test_a_redis_that_hangs_costs_seconds_not_minutes(world: World) -> None:
    world.host.fill("one")
    before = world.host.backup().manifest.id
    pid = int(world.host.engine.pid_file.read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        world.imds.notice(20)
        watch = world.watch()
        begun = time.monotonic()
        watch.step()
        assert time.monotonic() - begun < 19
    finally:
        os.kill(pid, signal.SIGCONT)
    assert any("Redis could not be told to hold writes back" in line for line in world.said)
    # Nobody is answered any more, whatever it does when it goes on.
    assert world.guard.open_until is None
    assert any("the final backup failed (try 1)" in line for line in world.said)
    assert before in world.backups_in_s3


def test_a_topic_that_is_gone_keeps_nothing_from_being_backed_up(world: World) -> None:
    world.client("sns").delete_topic(TopicArn=TOPIC)
    world.host.fill("one")
    world.imds.notice()
    watch = world.watch()
    for _ in range(6):
        watch.step()
    world.line("does not exist; provision makes it")
    assert watch.drain is not None
    assert watch.drain.over
    assert world.final is not None
    assert world.backups_in_s3


def test_a_host_that_serves_nobody_has_nothing_to_backup(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_arguments: Any, **_named: Any) -> None:
        raise RefusedError("this volume is new and nothing was restored onto it")

    monkeypatch.setattr(drain_module, "backup", refuses)
    world.imds.notice()
    watch = world.watch()
    watch.step()
    assert watch.drain is not None
    assert watch.drain.over
    [message] = world.told()
    assert message["level"] == "info"


def test_a_notice_during_a_restore_waits_for_it(world: World) -> None:
    world.host.fill("one")
    restoring, go = threading.Event(), threading.Event()

    def restore() -> None:
        context = world.host.context()
        with only_run(context.lock_path, "restore", 1, context.now()):
            restoring.set()
            go.wait(5)

    thread = threading.Thread(target=restore)
    thread.start()
    restoring.wait(5)
    world.imds.notice()
    watch = world.watch()
    threading.Timer(0.5, go.set).start()
    watch.step()
    thread.join()
    world.line("a restore of the keeper is at work")
    final = world.final
    assert final is not None
    assert final.complete


def test_a_shutdown_backs_up_and_a_host_that_was_only_started_anew_goes_on(world: World) -> None:
    world.host.fill("one")
    watch = world.watch()
    watch.step()
    watch.shut_down()
    final = world.final
    assert final is not None
    assert (final.cause, final.complete, final.off_host) == ("shutdown", True, True)
    # The same run of the kernel: it goes on ending.
    assert world.watch().drain is not None
    again = world.watch(boot_id="boot-2")
    assert again.drain is None
    assert world.writes()
    taken_back = world.final
    assert taken_back is not None
    assert taken_back.withdrawn
    # The next end is known to a watcher that is started anew, and not only that the one before was taken back.
    world.imds.notice()
    again.step()
    assert world.watch(boot_id="boot-2").drain is not None


# --- killed


def step_until_killed(world: World, count: int) -> bool:
    """The watcher in a process that is killed with SIGKILL at moment `count`; False when it was over before that."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            reached = 0

            def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
                def call(*arguments: Any, **named: Any) -> Any:
                    nonlocal reached
                    for run in (lambda: None, lambda: function(*arguments, **named)):
                        if reached == count:
                            os.kill(os.getpid(), signal.SIGKILL)
                        reached += 1
                        result = run()
                    return result

                return call

            for owner, name in (
                (Drainer, "fence"),
                (Drainer, "checkpoint"),
                (drain_module, "backup"),
                (drain_module, "write_atomically"),
                (S3Store, "put"),
                (LeaseStore, "write_final"),
                (LeaseStore, "write_lease"),
                (Outside, "notify"),
            ):
                setattr(owner, name, wrapped(getattr(owner, name)))
            watch = world.watch()
            for _ in range(3):
                watch.step()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def test_a_watcher_killed_at_every_step_still_backs_up_all(world: World) -> None:
    world.host.fill("one", keys=3)
    holder = LeaseHolder(world.host.context(), world.outside)
    killed = 0
    while True:
        # Each time a host of its own, whose notice is new.
        (world.host.config.state_directory / "drain.json").unlink(missing_ok=True)
        with world.host.client() as client:
            client.execute_command("CLIENT", "UNPAUSE")
            client.set(f"before-kill:{killed}", "x")
        leases = world.outside.leases
        held = leases.lease()
        leases.write_lease(Lease(HOST, zone=ZONE, mark=str(killed)), held)
        world.imds.notice(100 + killed)
        was_killed = step_until_killed(world, killed)
        watch = world.watch()
        for _ in range(3):
            watch.step()
        drain = read_drain(world.host.config.state_directory)
        assert drain is not None
        assert drain.over, (killed, world.said[-6:])
        final = world.final
        assert final is not None
        assert final.complete
        assert final.backup in world.backups_in_s3
        assert final.keys == world.host.context().volume.manifest(final.backup).keys  # type: ignore[union-attr]
        assert final.keys == len(world.host.content())
        lease = leases.lease()
        assert lease is not None
        assert lease.lease.released
        if not was_killed:
            break
        killed += 1
    assert killed >= 14
    assert holder.held is None


# --- the lease


def test_the_lease_is_renewed_and_never_taken_from_a_living_host(world: World) -> None:
    holder = LeaseHolder(world.host.context(), world.outside)
    holder.renew()
    first = world.outside.leases.lease()
    assert first is not None
    assert (first.lease.host, first.lease.zone, first.lease.volume) == (HOST, ZONE, "vol-0123456789abcdef0")
    holder.renew()
    second = world.outside.leases.lease()
    assert second is not None
    assert second.etag != first.etag
    assert second.lease.since == first.lease.since
    # Another one takes it: this one never takes it back, and holds writes back.
    world.outside.leases.write_lease(Lease("i-another"), second)
    watch = world.watch()
    watch._lease.held = True
    watch._lease.renew()
    assert watch._lease.lost_to == "i-another"
    world.clock = 100.0
    watch.step()
    world.line("i-another serves this environment now: writes here are held back")
    assert not world.writes()
    later = world.watch()
    assert later._lease.lost_to == "i-another"
    later._lease.renew()
    now = world.outside.leases.lease()
    assert now is not None
    assert now.lease.host == "i-another"


def test_a_dead_hosts_lease_is_taken_only_when_it_has_ended(world: World) -> None:
    leases = world.outside.leases
    leases.write_lease(Lease("i-dead", seconds=2), None)
    holder = LeaseHolder(world.host.context(), world.outside)
    holder.renew()
    assert holder.held is False
    time.sleep(3.1)
    holder.renew()
    assert holder.held is True


def test_what_the_host_before_told_nobody_is_told_by_whoever_goes_on(world: World) -> None:
    # No boot tells people on this host.
    world.host.config = replace(world.host.config, boots=False)
    watch = world.watch()
    leases = world.outside.leases
    leases.write_lease(Lease("i-dead", released=True, lost="everything since 10:00"), None)
    watch._lease.renew()
    watch.step()
    world.line("this host took over from one that told nobody; lost: everything since 10:00")
    [message] = world.told()
    assert message["level"] == "warning"
    held = leases.lease()
    assert held is not None
    # Should this one be lost as well before it has told them, the next one does.
    assert held.lease.lost == "everything since 10:00"
    watch._lease.renew()
    watch.step()
    held = leases.lease()
    assert held is not None
    assert (held.lease.host, held.lease.lost) == (watch._ctx.machine.identity().instance_id, "")
    assert world.told() == [message]


def test_the_holder_says_again_where_clients_find_redis(world: World) -> None:
    route53 = world.client("route53")
    zone = route53.create_hosted_zone(Name="stg.example", CallerReference="x")["HostedZone"]["Id"].split("/")[-1]
    world.host.config = replace(world.host.config, dns_zone_id=zone, dns_name="redis.stg.example")
    watch = world.watch()

    def address() -> str:
        records = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
        return str(next(one for one in records if one["Type"] == "A")["ResourceRecords"][0]["Value"])

    watch._lease.renew()
    here = address()
    # What a host says that is late.
    late = {"Name": "redis.stg.example", "Type": "A", "TTL": 10, "ResourceRecords": [{"Value": "10.0.0.99"}]}
    route53.change_resource_record_sets(
        HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": late}]}
    )
    watch._lease.renew()
    assert address() == "10.0.0.99"
    world.clock += 61.0
    watch._lease.renew()
    assert address() == here != "10.0.0.99"


def test_a_lease_that_cannot_be_renewed_is_said_once(world: World) -> None:
    watch = world.watch()
    nowhere = Signed(REGION, "http://127.0.0.1:9", lambda: role_credentials(Imds()))
    watch._lease.outside = replace(world.outside, leases=LeaseStore(Objects(nowhere, "backups"), ""))
    watch._lease.renew()
    for _ in range(3):
        watch.step()
    world.line("the lease is not renewed")


# --- the budget


def test_too_much_data_for_a_notice_is_said_beforehand(world: World) -> None:
    slow = {"bgsave": 300.0, "check": 90.0, "s3": 200.0}
    size = 4 * 1024**3

    def backed_up(number: int, seconds: dict[str, float]) -> None:
        backup = {"id": f"backup-{number}", "at": "2026-11-22T00:00:00Z", "seconds": seconds}
        backup |= {"rdb": {"bytes": size}, "stored": {"s3": "s3://x"}}
        (world.host.config.state_directory / "status.json").write_text(json.dumps({"last_backup": backup}))

    watch = world.watch()
    for number in range(3):
        backed_up(number, slow)
        os.utime(world.host.config.state_directory / "status.json", (number, number))
        watch.step()
    world.line("but a Spot notice leaves 100 s")
    [message] = world.told()
    assert message["level"] == "warning"
    status = make_status(world.host.context())
    assert status["watch"]["budget"]["fits"] is False
    assert "but a Spot notice leaves" in status_table(status, world.host.context().now())


def test_the_expectation_is_that_of_the_middle_backup() -> None:
    speeds = [{"bytes": 200e6, "seconds": 2 + s} for s in (10.0, 90.0, 12.0)]
    budget = estimate(speeds, int(400e6))
    assert budget.seconds == pytest.approx(2 + 24)
    assert budget.fits
    assert not estimate(speeds, int(4000e6)).fits
    assert estimate([], 5).fits
    assert measured({"rdb": {"bytes": 1}, "stored": {"s3": None}}) is None


@pytest.mark.parametrize(
    ("answers", "stops"),
    [
        # As systemd says it of a shutdown, also of one before the start was over, and of a unit that is only restarted.
        (["ActiveState=inactive\nJob=4711\n"], True),
        (["ActiveState=active\nJob=\n"], True),
        (["ActiveState=inactive\nJob=\n"], False),
        (["ActiveState=inactive\nJob=0\n"], False),
        # A busy system: no answer in time, or none at all, is asked for again.
        ([KeeperError("did not end within 45 s"), "", "ActiveState=inactive\nJob=4711\n"], True),
        ([KeeperError("did not end within 45 s")] * 100, False),
    ],
)
def test_whether_the_system_goes_down_is_asked_until_systemd_says_so(
    answers: list[str | KeeperError], stops: bool
) -> None:
    now, given = [0.0], iter(answers)

    def run(argv: Sequence[str], *, timeout: float) -> Completed:
        assert argv[:2] == ["systemctl", "show"]
        answer = next(given)
        if isinstance(answer, KeeperError):
            now[0] += 5
            raise answer
        return Completed(0, answer, "")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert system_is_stopping(run, lambda: now[0], sleep) is stops
    # What is left of the unit's time is the final backup's.
    assert now[0] < 60


def test_several_threads_may_ask_the_metadata_service(world: World) -> None:
    """The watch asks it every second, and the thread that renews the lease for its credentials."""
    imds = Imds(world.imds.url)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _number: imds.get("instance-id"), range(200)))
    assert {answer.text if answer else None for answer in answers} == {HOST}


def test_a_watcher_started_anew_lets_writes_through_that_the_one_before_held_back(world: World) -> None:
    watch = world.watch()
    watch._lease.renew()
    world.clock = 1000.0
    watch.step()
    world.line("the lease could not be renewed in time: nobody is served until it is")
    assert not world.writes()
    later = world.watch()
    later._lease.renew()
    later.step()
    assert world.writes()


@pytest.mark.parametrize("serving", ["", "unknown to Redis"])
def test_a_final_backup_of_a_run_that_nobody_knows_is_not_called_complete(world: World, serving: str) -> None:
    watch = world.watch()
    state = world.host.config.state_directory
    save_state(state, SERVING, **(recall(state, SERVING) | {"run": serving}))
    watch.step()
    world.imds.notice()
    watch.step()
    final = world.final
    assert final is not None
    assert (final.complete, final.fenced) == (False, True)
    assert final.lost_since


def test_a_host_that_has_not_served_lets_redis_save_nothing_when_it_ends(world: World) -> None:
    """What it saved would look younger than it is, to whoever takes its volume over."""
    world.host.fill("one")
    with world.host.client() as client:
        client.save()
        client.set("more", "x")
        # As on a host: whoever asks it to end has it save.
        client.config_set("save", "3600 1")
    before = world.host.context().rdb_path.stat().st_mtime_ns
    world.watch()
    state = world.host.config.state_directory
    save_state(state, SERVING, **(recall(state, SERVING) | {"boot": "an earlier boot"}))
    world.host.config = replace(world.host.config, boots=True)
    watch = world.watch()
    watch._lease.renew()
    watch.shut_down()
    assert world.host.engine.state() is not None
    assert not world.host.engine.state().running  # type: ignore[union-attr]
    assert world.host.context().rdb_path.stat().st_mtime_ns == before
    final = world.final
    assert final is not None
    assert final.lost_since == recall(state, CRASH)["since"]


def test_a_redis_that_is_started_anew_before_the_fork_is_fenced_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_anew(_context: Any) -> None:
        world.host.engine.stop(5)
        world.host.start()

    real, took = create_module.backup, []

    def backup(*arguments: Any, **named: Any) -> Any:
        took.append(world.writes())
        return real(*arguments, **named)

    watch = world.watch()
    watch.step()
    monkeypatch.setattr(drain_module, "recover", start_anew)
    monkeypatch.setattr(drain_module, "backup", backup)
    world.imds.notice()
    watch.step()
    assert took == [False]
    final = world.final
    assert final is not None
    assert (final.complete, final.off_host) == (False, True)
