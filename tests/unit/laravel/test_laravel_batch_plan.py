"""Which batches run, what is wrong with how they are described, and what a restore has lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.filter.batch_plan import batch_plan
from ansible_collections.spotcache.redis.plugins.filter.text_table import text_table
from ansible_collections.spotcache.redis.plugins.modules import batch_ledger
from moto import mock_aws

SHOP: dict[str, Any] = {
    "name": "shop",
    "hosts": ["web-1", "web-2"],
    "path": "/srv/shop",
    "batches": [{"command": "batch:warm"}, {"command": "batch:slow", "arguments": ["--steps=3"], "timeout": 60}],
}
BLOG: dict[str, Any] = {**SHOP, "name": "blog", "place": "container", "container": "php", "runs_on": "all"}
KNOWN = ["web-1", "web-2", "localhost"]


def due(plan: dict[str, Any]) -> list[str]:
    assert plan["problems"] == []
    return [run["id"] for run in plan["runs"] if not run["skip"]]


def test_applications_batches_and_hosts_keep_their_order() -> None:
    plan = batch_plan([SHOP, BLOG], KNOWN)
    assert due(plan) == [
        "shop/batch:warm",
        "shop/batch:slow",
        "blog/batch:warm@web-1",
        "blog/batch:warm@web-2",
        "blog/batch:slow@web-1",
        "blog/batch:slow@web-2",
    ]
    first, second, third = plan["runs"][:3]
    assert (first["host"], first["container"], first["timeout"], first["user"]) == ("web-1", "", 3600, "www-data")
    assert (second["arguments"], second["timeout"]) == (["--steps=3"], 60)
    assert third["container"] == "php"
    locks = [run["lock"] for run in plan["runs"]]
    assert len(set(locks)) == len(locks)
    assert locks[0] == "batch-shop-batch-warm"


def test_the_same_command_under_two_names_has_one_lock() -> None:
    batches = [{"command": "batch:warm"}, {"command": "batch:warm", "name": "again", "arguments": ["--items=1"]}]
    plan = batch_plan([{**SHOP, "batches": batches}], KNOWN)
    assert due(plan) == ["shop/batch:warm", "shop/again"]
    assert {run["lock"] for run in plan["runs"]} == {"batch-shop-batch-warm"}


def test_a_run_goes_on_where_it_stopped() -> None:
    plan = batch_plan([SHOP, BLOG], KNOWN, start="shop/batch:slow", only=["shop"])
    assert due(plan) == ["shop/batch:slow"]
    assert plan["runs"][0]["skip"] == "before shop/batch:slow"
    assert plan["runs"][2]["skip"] == "not in batch_only"
    assert due(batch_plan([SHOP, BLOG], KNOWN, only=["shop/batch:warm"])) == ["shop/batch:warm"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hosts": []}, "shop has no hosts"),
        ({"hosts": ["web-9"]}, "names the host web-9, which the inventory does not have"),
        ({"place": "ecs"}, "place ecs, and batches cannot be run as ECS tasks: use host or container"),
        ({"place": "moon"}, "place moon: use host or container"),
        ({"place": "container"}, "names none: set container"),
        ({"path": "srv/shop"}, "give the absolute path"),
        ({"name": "a b"}, "needs a name of letters"),
        ({"runs_on": "some"}, "use first"),
        ({"hots": []}, "has the key hots, which means nothing"),
        ({"batches": []}, "has no batches"),
        ({"batches": [{"command": "batch:warm; rm -rf /"}]}, "give artisan's name of it"),
        ({"batches": [{"command": "--env=x"}]}, "give artisan's name of it"),
        ({"batches": [{"command": "a", "timeout": 0}]}, "has timeout 0"),
        ({"batches": [{"command": "a", "arguments": "--x"}]}, "give a list of texts"),
        ({"batches": [{"command": "a", "argument": []}]}, "has the key argument"),
        ({"batches": [{"command": "a"}, {"command": "a"}]}, "has a twice"),
    ],
)
def test_each_wrong_description_is_one_sentence(change: dict[str, Any], expected: str) -> None:
    plan = batch_plan([{**SHOP, **change}], KNOWN)
    assert plan["runs"] == []
    assert len(plan["problems"]) == 1, plan["problems"]
    assert expected in plan["problems"][0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"only": ["shop/batch:no"]}, "batch_only names shop/batch:no"),
        (
            {"start": "shop/batch:no"},
            "batch_from is shop/batch:no, and there is no such batch: use one of shop/",
        ),
        ({"when": "sometimes"}, "batch_when is sometimes"),
    ],
)
def test_a_wrong_choice_names_the_right_ones(arguments: dict[str, Any], expected: str) -> None:
    (problem,) = batch_plan([SHOP], KNOWN, **arguments)["problems"]
    assert expected in problem


def test_no_and_equal_applications() -> None:
    assert "is empty" in batch_plan([])["problems"][0]
    assert "names shop twice" in batch_plan([SHOP, SHOP], KNOWN)["problems"][0]


# What was lost. The batch ran from 1000 to 2000.


@pytest.mark.parametrize(
    ("losses", "lost"),
    [
        ([], False),
        ([(2500, 3000)], False),  # backed_up after it had ended
        ([(1500, 3000)], True),  # backed_up while it ran
        ([(500, 3000)], True),  # backed_up before it began
        ([(0, 3000)], True),  # nothing came back
        ([(100, 500)], False),  # it began after the restore
        ([(100, 1500)], True),  # the restore came while it ran
        ([(500, 3000), (3500, 4000)], True),  # a later restore of a backup without it brings nothing back
        ([(2030, 3000)], True),  # within the margin for clocks that differ
        ([(100, 950)], True),
    ],
)
def test_data_lost(losses: list[tuple[int, int]], lost: bool) -> None:
    ledger = {
        "runs": {"shop/batch:warm": {"started": 1000, "ended": 2000}},
        "losses": [{"since": since, "until": until} for since, until in losses],
    }
    plan = batch_plan([SHOP], KNOWN, when="data_lost", ledger=ledger)
    # batch:slow is not known to have run, so it is due in any case.
    assert due(plan) == (["shop/batch:warm"] if lost else []) + ["shop/batch:slow"]


# The ledger


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="backups")
        yield client


def ledger(capsys: pytest.CaptureFixture[str], **parameters: Any) -> dict[str, Any]:
    with patch_module_args({"bucket": "backups", "prefix": "stg/batches/", **parameters}), pytest.raises(SystemExit):
        batch_ledger.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_ledger(bucket: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger(capsys) == {**ledger(capsys), "changed": False, "runs": {}, "losses": []}
    run = {"id": "shop/batch:warm", "started": "1000.5", "ended": 2000}
    assert not ledger(capsys, run=run, _ansible_check_mode=True)["changed"]
    assert "Contents" not in bucket.list_objects_v2(Bucket="backups")
    ledger(capsys, run=run)
    ledger(capsys, run={**run, "id": "shop/batch-warm", "ended": 3000})
    ledger(capsys, loss={"created": "1970-01-01T00:16:40Z", "at": "1970-01-01T00:50:00Z"})
    ledger(capsys, loss={"created": "", "at": "1970-01-01T00:40:00+00:00"})
    told = ledger(capsys)
    assert told["runs"]["shop/batch:warm"] == {"id": "shop/batch:warm", "started": 1000.5, "ended": 2000.0}
    assert told["runs"]["shop/batch-warm"]["ended"] == 3000.0
    assert told["losses"] == [{"since": 0.0, "until": 2400.0}, {"since": 1000.0, "until": 3000.0}]
    assert "at is empty" in ledger(capsys, loss={"created": "", "at": ""})["msg"]
    assert "cannot be used" in ledger(capsys, bucket="nothing")["msg"]


def test_table() -> None:
    lines = text_table([["web-1", 3, None], ["web-10", 12, "a\nb"]], ["host", "n", "said"])
    assert lines == ["host     n  said", "------  --  ----", "web-1    3", "web-10  12  a b"]
    with pytest.raises(ValueError, match="a row has 1 cells"):
        text_table([["x"]], ["a", "b"])
