"""Batches of one application where it lives: in order, as the user of php-fpm, one run at a time."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM = {"command": "batch:warm", "arguments": ["--items=3"]}


def slow(*arguments: str) -> dict[str, Any]:
    """A batch that takes its time."""
    return {"command": "batch:slow", "arguments": list(arguments)}


def shop(*batches: dict[str, Any]) -> list[dict[str, Any]]:
    """The application with these batches."""
    return [{"name": "shop", "hosts": "web", "path": "/srv/app", "batches": list(batches)}]


def report() -> dict[str, Any]:
    """What the last run left."""
    told: dict[str, Any] = json.loads(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "report.json").read_text())
    return told


def states() -> list[tuple[str, str]]:
    """How each batch of the last run went."""
    return [(one["id"], one["state"]) for one in report()["runs"]]


def test_the_cache_is_filled_as_the_user_of_php_fpm(host: Any, converge: Callable[..., Any]) -> None:
    # What is there already keeps its owner when it is written anew.
    host.check_output("find /srv/app/storage/framework/cache -mindepth 2 -delete")
    assert converge().code == 0
    told = report()
    assert (told["ok"], states()) == (True, [("shop/batch:warm", "done")])
    run = json.loads(told["runs"][0]["lines"][-1])["run"]
    page = json.loads(host.check_output("curl -sf -m 10 localhost/batch/1"))
    assert page["value"] == {"i": 1, "run": run}
    # What root writes, php-fpm could not change.
    assert host.check_output("find /srv/app/storage/framework/cache -user root") == ""
    kept = host.file("/var/lib/spotcache-batch/shop.batch-warm")
    assert (kept.mode, host.file(f"{kept.path}/log").mode) == (0o700, 0o600)


def test_the_first_that_fails_stops_the_rest(converge: Callable[..., Any]) -> None:
    last = {**WARM, "name": "last"}
    run = converge(laravel_batch_applications=shop(WARM, slow("--steps=3", "--pause=0", "--fail-at=2"), last))
    assert run.code != 0
    assert "shop batch:slow ended with exit code 3: step 2 of 3 failed" in run.why
    assert "To go on from there: -e batch_from=shop/batch:slow" in run.why
    assert states() == [("shop/batch:warm", "done"), ("shop/batch:slow", "failed"), ("shop/last", "not reached")]
    mended = shop(WARM, slow("--steps=1"), last)
    assert converge(laravel_batch_applications=mended, laravel_batch_from="shop/batch:slow").code == 0
    assert states() == [("shop/batch:warm", "left out"), ("shop/batch:slow", "done"), ("shop/last", "done")]


def test_nothing_begins_where_one_cannot_run(host: Any, converge: Callable[..., Any]) -> None:
    before = host.check_output("curl -sf -m 10 localhost/batch/1")
    run = converge(laravel_batch_applications=shop(WARM, {"command": "batch:nope"}))
    assert run.code != 0
    assert "shop on spotcache-laravel-batch-default" in run.why
    assert "has no artisan command batch:nope; it has batch:slow, batch:warm" in run.why
    assert host.check_output("curl -sf -m 10 localhost/batch/1") == before


def test_a_second_run_is_refused(host: Any, converge: Callable[..., Any]) -> None:
    variables = json.dumps({"laravel_batch_applications": shop(slow("--steps=600", "--pause=0.5"))})
    scenario = os.environ["MOLECULE_SCENARIO_DIRECTORY"]
    argv = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "-e", variables]
    with subprocess.Popen(
        [*argv, f"{scenario}/converge.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        try:
            end = time.monotonic() + 120
            while host.run("pgrep --exact php").rc:
                assert first.poll() is None
                assert time.monotonic() < end
                time.sleep(0.3)
            run = converge(laravel_batch_applications=shop(slow("--steps=1")))
            assert run.code != 0
            assert "shop: batch:slow runs already: started by" in run.why
        finally:
            host.run("pkill --exact php")
    assert first.returncode != 0
    # What has ended holds nothing.
    assert converge(laravel_batch_applications=shop(slow("--steps=1"))).code == 0
