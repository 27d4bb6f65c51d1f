"""One run at a time across control nodes: the lease that the task itself holds, and what it notes for later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from ansible_collections.spotcache.redis.plugins.action import artisan as action
from ansible_collections.spotcache.redis.plugins.module_utils.lease import Owner
from ansible_collections.spotcache.redis.plugins.modules import lease as lease_module
from moto import mock_aws

ALICE = Owner("alice", "laptop", "boot-1", "pid:[1]", 4711, "100")
BOB = replace(ALICE, user="bob", host="desk", boot="boot-2")
LEASE = "stg/locks/batch-shop-batch-warm.json"
SHARED = {
    "id": "shop/batch:warm",
    "bucket": "backups",
    "region": "us-east-1",
    "lease": LEASE,
    "ledger": "stg/batches/",
    "environment": {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "hidden-key"},
}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")  # and put back at the end, since the code under test sets it too
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(action, "this_run", lambda: ALICE)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="backups")
        yield client


def keys(s3: Any) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket="backups").get("Contents", [])]


def test_it_is_held_while_the_batch_runs_and_given_back(s3: Any) -> None:
    with action.leased(SHARED, "the batch shop/batch:warm", 60) as client:
        told = json.loads(s3.get_object(Bucket="backups", Key=LEASE)["Body"].read())
        assert (told["purpose"], told["owner"]["user"]) == ("the batch shop/batch:warm", "alice")
        assert client
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hidden-key"
    assert keys(s3) == []
    with pytest.raises(RuntimeError, match="broken"), action.leased(SHARED, "the batch", 60):
        raise RuntimeError("broken")
    assert keys(s3) == []


def test_another_run_is_refused_and_told_by_whom_and_since_when(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lease_module.Lease(s3, "backups", LEASE, 600).take(BOB, "the batch shop/batch:warm")
    with pytest.raises(action.Trouble) as refused, action.leased(SHARED, "the batch", 60):
        pytest.fail("it must not be held by two")
    for part in ("the batch shop/batch:warm by bob@desk", "process 4711", "since 20", "Nothing was changed"):
        assert part in str(refused.value)
    assert keys(s3) == [LEASE]
    # One that has expired is taken over.
    lease_module.Lease(s3, "backups", LEASE, -1).take(BOB, "the batch shop/batch:warm")
    with action.leased(SHARED, "the batch", 60) as client:
        assert client


def test_without_a_bucket_there_is_no_lease() -> None:
    for shared in ({}, {"bucket": ""}):
        with action.leased(shared, "the batch", 60) as client:
            assert client is None


def test_a_missing_bucket_is_a_sentence_without_credentials(s3: Any) -> None:
    with pytest.raises(action.Trouble) as trouble, action.leased({**SHARED, "bucket": "nothing"}, "the batch", 60):
        pytest.fail("there is nothing to hold")
    assert "The bucket nothing does not exist: run the provision playbook first" in str(trouble.value)
    assert "hidden-key" not in str(trouble.value)


def test_a_good_run_is_noted_and_a_note_that_fails_is_a_warning(s3: Any) -> None:
    told: dict[str, Any] = {"started": 1000.5, "ended": 1002.0}
    action.note(s3, SHARED, told)
    (key,) = keys(s3)
    assert key.startswith("stg/batches/runs/shop-batch-warm-")
    written = json.loads(s3.get_object(Bucket="backups", Key=key)["Body"].read())
    assert written == {"id": "shop/batch:warm", "started": 1000.5, "ended": 1002.0}
    assert "warnings" not in told
    action.note(s3, {**SHARED, "bucket": "nothing"}, told)
    assert "could not be noted" in told["warnings"][0]


def test_what_is_shared_never_reaches_the_host(s3: Any) -> None:
    sent: list[dict[str, Any]] = []

    arguments = {"application": "shop", "command": "batch:warm", "path": "/srv", "timeout": 60, "shared": SHARED}

    class Here(action.ActionModule):
        def __init__(self) -> None:
            self._task = SimpleNamespace(args=arguments, check_mode=False, async_val=0)
            self._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/tmp"))

        def _execute_module(self, **asked: Any) -> dict[str, Any]:
            sent.append(asked["module_args"])
            assert keys(s3) == [LEASE]
            return {"failed": True, "msg": "it does not start"}

    told = Here().run(None, {})
    assert told["msg"] == "it does not start"
    assert "shared" not in sent[0]
    assert sent[0]["by"] == "alice@laptop (ansible-playbook, process 4711)"
    assert "hidden-key" not in json.dumps([*sent, told])
    assert keys(s3) == []
