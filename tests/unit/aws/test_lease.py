"""The lease: who owns it, when it may be taken over, and that of two runs only one gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils import lease as rules
from ansible_collections.spotcache.redis.plugins.modules import lease as module
from botocore.exceptions import ClientError
from moto import mock_aws

BUCKET, KEY = "example-backups", "stg/locks/environment.json"
NOW = datetime(2026, 11, 22, 1, 0, tzinfo=rules.UTC)
ALICE = rules.Owner("alice", "laptop", "boot-1", "pid:[1]", 4711, "100")
BOB = rules.Owner("bob", "desk", "boot-2", "pid:[2]", 4711, "100")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


@pytest.fixture
def proc(tmp_path: Path) -> Callable[..., None]:
    """Adds a process to a /proc of its own."""

    def add(pid: int, parent: int, *arguments: str, started: int = 100, state: str = "S") -> None:
        folder = tmp_path / str(pid)
        folder.mkdir()
        filler = " ".join(["0"] * 17)
        (folder / "stat").write_text(f"{pid} (odd ) name) {state} {parent} {filler} {started} 0 0\n")
        (folder / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in arguments))

    return add


def held(owner: rules.Owner, until: datetime = NOW + timedelta(hours=1)) -> rules.Record:
    return rules.Record(owner, "provision", NOW - timedelta(minutes=7), until)


def lease(client: Any, ttl: int = 600) -> module.Lease:
    return module.Lease(client, BUCKET, KEY, ttl)


def stored(client: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(client.get_object(Bucket=BUCKET, Key=KEY)["Body"].read())
    return fields


# Whose turn it is


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, "free"),
        (held(ALICE), "mine"),
        (held(ALICE, until=NOW), "mine"),
        (held(BOB), "held"),
        (held(BOB, until=NOW), "expired"),
        (held(replace(ALICE, pid=4712)), "dead"),
        (held(replace(ALICE, started="99")), "dead"),
        (held(replace(ALICE, pid=4712, namespace="pid:[9]")), "held"),
        (held(replace(ALICE, pid=4712, boot="boot-9")), "held"),
        (held(replace(ALICE, pid=0)), "held"),
    ],
)
def test_verdict(record: rules.Record | None, expected: str, tmp_path: Path, proc: Callable[..., None]) -> None:
    proc(4711, 1, "ansible-playbook")
    # No process has this number: the kernel's limit is lower.
    record = record and replace(record, owner=_without_namesake(record.owner))
    assert rules.verdict(record, ALICE, NOW, tmp_path) == expected


def _without_namesake(owner: rules.Owner) -> rules.Owner:
    return replace(owner, pid=2**22 + 1) if owner.pid == 4712 else owner


def test_a_zombie_is_gone_and_an_unreadable_process_is_not(tmp_path: Path, proc: Callable[..., None]) -> None:
    proc(4711, 1, "ansible-playbook", state="Z")
    assert rules.is_gone(ALICE, ALICE, tmp_path)
    alive = replace(ALICE, pid=os.getpid())
    assert not rules.is_gone(alive, ALICE, tmp_path)


def test_tokens_tell_runs_apart_where_processes_cannot_be_seen() -> None:
    one = rules.Owner("alice", "mac", token="a")
    assert one.is_same_run(replace(one, host="other"))
    assert not one.is_same_run(replace(one, token="b"))
    assert not replace(one, token="").is_same_run(replace(one, token=""))
    assert not rules.is_gone(one, one)


# The run's process


def test_the_run_is_the_last_of_a_row_of_forks(tmp_path: Path, proc: Callable[..., None]) -> None:
    playbook = ("/usr/bin/python3", "/venv/bin/ansible-playbook", "provision.yml")
    proc(10, 1, "bash", "-c", "ansible-playbook provision.yml")
    proc(11, 10, "/usr/bin/python3", "./spotcache", "provision")
    proc(12, 11, *playbook, started=500)
    proc(13, 12, *playbook, started=600)
    proc(14, 13, "/bin/sh", "-c", "python AnsiballZ_lease.py")
    assert rules.playbook_process(14, tmp_path) == (12, "500")


def test_a_run_inside_a_run_is_the_inner_one(tmp_path: Path, proc: Callable[..., None]) -> None:
    proc(20, 1, "python3", "-m", "ansible", "playbook", "outer.yml")
    proc(21, 20, "python3", "-m", "ansible", "playbook", "inner.yml", started=700)
    proc(22, 21, "sh")
    assert rules.playbook_process(22, tmp_path) == (21, "700")
    assert rules.playbook_process(99, tmp_path) == (0, "")


def test_in_a_container_the_run_may_be_the_first_process(tmp_path: Path, proc: Callable[..., None]) -> None:
    playbook = ("/usr/bin/python3", "/usr/bin/ansible-playbook", "-u", "root", "provision.yml")
    proc(1, 0, *playbook, started=500)
    proc(7, 1, *playbook, started=600)
    proc(8, 7, "/bin/sh", "-c", "python AnsiballZ_lease.py")
    assert rules.playbook_process(8, tmp_path) == (1, "500")


def test_what_starts_the_run_in_a_container_is_not_the_run(tmp_path: Path, proc: Callable[..., None]) -> None:
    proc(1, 0, "/usr/bin/dumb-init", "--", "ansible-playbook", "provision.yml")
    proc(6, 1, "/usr/bin/python3", "/usr/bin/ansible-playbook", "provision.yml", started=500)
    proc(9, 6, "/usr/bin/python3", "/usr/bin/ansible-playbook", "provision.yml", started=600)
    assert rules.playbook_process(9, tmp_path) == (6, "500")


def test_this_machine_is_recognised() -> None:
    name = "import time; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", name, "x"], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        me = rules.this_run()
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        owner = replace(me, pid=child.pid, started=stat[19], boot=me.boot or "x")
        here = replace(me, boot=me.boot or "x")
        assert not rules.is_gone(owner, here)
        child.kill()
        child.wait()
        assert rules.is_gone(owner, here)


# The object


def test_record_survives_json() -> None:
    record = held(ALICE)
    assert rules.Record.from_json(record.to_json()) == record
    for text in ("", "[]", "{}", '{"owner": {"pid": "x"}}', "null", '"text"'):
        with pytest.raises(ValueError, match=r".*"):
            rules.Record.from_json(text)


def test_take_renew_release(s3: Any) -> None:
    action, first = lease(s3).take(ALICE, "provision")
    assert action == "taken"
    action, second = lease(s3, ttl=1200).take(ALICE, "restore")
    assert action == "renewed"
    assert second.since == first.since
    assert second.until > first.until
    assert stored(s3)["purpose"] == "restore"
    assert lease(s3).release(BOB) == "none"
    assert lease(s3).release(ALICE) == "released"
    assert lease(s3).release(ALICE) == "none"
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


def test_another_run_is_refused_and_told_by_whom(s3: Any) -> None:
    lease(s3).take(ALICE, "provision")
    with pytest.raises(module.Held) as refused:
        lease(s3).take(BOB, "destroy")
    text = str(refused.value)
    for part in (
        "provision by alice@laptop",
        "process 4711",
        "until 20",
        "Nothing was changed",
        f"s3://{BUCKET}/{KEY}",
    ):
        assert part in text
    assert stored(s3)["owner"]["user"] == "alice"


def test_a_dead_run_cannot_hold_it_for_ever(s3: Any) -> None:
    lease(s3, ttl=-1).take(ALICE, "provision")
    action, record = lease(s3).take(BOB, "provision")
    assert (action, record.owner) == ("taken_over", BOB)
    me = replace(rules.this_run(), pid=os.getpid(), started="long ago", boot="b", namespace="n")
    s3.delete_object(Bucket=BUCKET, Key=KEY)
    lease(s3).take(me, "provision")
    action, _ = lease(s3).take(replace(me, started="now"), "provision")
    assert action == "taken_over"


def test_what_cannot_be_read_is_held_for_one_term(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"{truncated")
    with pytest.raises(module.Held, match="an unreadable lease"):
        lease(s3).take(ALICE, "provision")
    assert lease(s3, ttl=-60).take(ALICE, "provision")[0] == "taken_over"


class Interleaved:
    """An S3 client that lets somebody else act between this one's read and its write."""

    def __init__(self, client: Any, between: Callable[[], object]) -> None:
        self._client = client
        self._between: Callable[[], object] | None = between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _others(self) -> None:
        between, self._between = self._between, None
        if between:
            between()

    def put_object(self, **kwargs: Any) -> Any:
        self._others()
        return self._client.put_object(**kwargs)

    def delete_object(self, **kwargs: Any) -> Any:
        self._others()
        return self._client.delete_object(**kwargs)


@pytest.mark.parametrize("before", ["free", "expired"])
def test_of_two_that_start_together_one_gets_it(s3: Any, before: str) -> None:
    if before == "expired":
        lease(s3, ttl=-1).take(replace(BOB, pid=1), "provision")
    slow = Interleaved(s3, lambda: lease(s3).take(BOB, "provision"))
    with pytest.raises(module.Held, match="bob@desk"):
        lease(slow).take(ALICE, "provision")
    assert stored(s3)["owner"]["user"] == "bob"


def test_renewal_and_release_of_a_lease_that_was_taken_over(s3: Any) -> None:
    lease(s3, ttl=-1).take(ALICE, "provision")
    slow = Interleaved(s3, lambda: lease(s3).take(BOB, "provision"))
    assert lease(slow).release(ALICE) == "none"
    assert stored(s3)["owner"]["user"] == "bob"
    s3.delete_object(Bucket=BUCKET, Key=KEY)
    lease(s3).take(ALICE, "provision")
    slow = Interleaved(s3, lambda: s3.delete_object(Bucket=BUCKET, Key=KEY))
    assert lease(slow).take(ALICE, "provision")[0] == "taken"


def test_a_store_that_cannot_delete_on_a_condition(s3: Any) -> None:
    class Old(Interleaved):
        def delete_object(self, **kwargs: Any) -> Any:
            if "IfMatch" in kwargs:
                raise ClientError({"Error": {"Code": "NotImplemented"}}, "DeleteObject")
            return self._client.delete_object(**kwargs)

    lease(s3).take(ALICE, "provision")
    assert lease(Old(s3, lambda: None)).release(ALICE) == "released"
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


# A lease that is renewed for as long as its run lives


JOB = replace(ALICE, pid=0, started="", token="1", job="job 4711")


def test_a_jobs_lease_lasts_while_it_is_kept_and_no_longer(s3: Any) -> None:
    """Kept through many terms; it ends a term after whatever kept it was stopped, as a container is."""
    began = lease(s3, ttl=60).take(JOB, "restore")[1]
    writes: list[float] = []

    class Killed(BaseException):
        pass

    def pause(seconds: float) -> None:
        writes.append(seconds)
        if len(writes) == 9:
            raise Killed

    with pytest.raises(Killed):
        lease(s3, ttl=600).keep(replace(JOB, job=""), pause)
    assert set(writes) == {150}
    kept = rules.Record.from_json(json.dumps(stored(s3)))
    assert (kept.owner, kept.purpose, kept.since) == (began.owner, "restore", began.since)
    assert kept.until > began.until
    with pytest.raises(module.Held, match=r"restore by job 4711 .*A job that was cancelled holds it no longer"):
        lease(s3).take(BOB, "provision")
    assert rules.verdict(kept, BOB, kept.until) == "expired"


@pytest.mark.parametrize("end", ["released", "taken over", "dead"])
def test_a_lease_that_its_run_no_longer_holds_is_not_kept(s3: Any, end: str) -> None:
    owner = JOB if end != "dead" else replace(rules.this_run("1"), pid=2**22 + 1, started="0", boot="b", namespace="n")
    lease(s3, ttl=-1).take(owner, "provision")
    if end == "released":
        lease(s3).release(owner)
    if end == "taken over":
        lease(s3).take(BOB, "destroy")
    before = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    here = replace(owner, pid=0)
    assert lease(s3).keep(here, lambda seconds: pytest.fail("it is kept")) == "ended"
    assert s3.list_objects_v2(Bucket=BUCKET).get("Contents", []) == before


def test_one_that_is_released_while_it_is_renewed_stays_released(s3: Any) -> None:
    lease(s3).take(JOB, "provision")
    slow = Interleaved(s3, lambda: lease(s3).release(JOB))
    assert lease(slow).keep(JOB, lambda seconds: None) == "ended"
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)
    lease(s3).take(JOB, "provision")
    slow = Interleaved(s3, lambda: lease(s3, ttl=700).take(JOB, "provision"))
    assert lease(slow).release(JOB) == "released"


def test_a_service_that_does_not_answer_is_asked_until_the_lease_has_expired(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Interleaved):
        def put_object(self, **_kwargs: Any) -> Any:
            raise ClientError({"Error": {"Code": "SlowDown"}}, "PutObject")

    passed = timedelta()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls.fromtimestamp((datetime.now(tz) + passed).timestamp(), tz)

    def pause(seconds: float) -> None:
        nonlocal passed
        passed += timedelta(seconds=seconds)

    lease(s3).take(JOB, "provision")
    monkeypatch.setattr(module, "datetime", Clock)
    assert lease(Silent(s3, lambda: None)).keep(JOB, pause) == "ended"
    assert timedelta(seconds=600) <= passed <= timedelta(seconds=900)


# The module


def run_module(capsys: pytest.CaptureFixture[str], **parameters: Any) -> dict[str, Any]:
    with patch_module_args({"bucket": BUCKET, "key": KEY, **parameters}), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_module(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    taken = run_module(capsys, token="run-1", purpose="provision")
    assert (taken["changed"], taken["action"]) == (False, "taken")
    assert taken["until"].endswith("Z")
    assert run_module(capsys, token="run-1")["action"] == "renewed"
    refused = run_module(capsys, token="run-2")
    assert refused["failed"]
    assert "Another run holds the lease" in refused["msg"]
    assert run_module(capsys, token="run-2", _ansible_check_mode=True)["action"] == "none"
    assert run_module(capsys, token="run-1", state="absent")["action"] == "released"
    assert "at least 1" in run_module(capsys, ttl=0)["msg"]
    missing = run_module(capsys, token="run-1", bucket="no-such-bucket")
    assert "The bucket no-such-bucket does not exist" in missing["msg"]
    nothing = run_module(capsys, token="run-1", bucket="no-such-bucket", bucket_must_exist=False)
    assert (nothing["action"], nothing["changed"]) == ("none", False)
