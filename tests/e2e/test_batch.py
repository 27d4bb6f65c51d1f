# SPDX-License-Identifier: GPL-3.0-or-later
"""Batches of the real Laravel in a container: in order, watched, one at a time, and again only when data was lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dev.sample_app.batch_app import BatchApp
from dev.sample_app.web_fleet import until
from dev.sandboxes import COLOR, Play, Sandbox
from dev.work import BUILD, ROOT, stream, tool
from tests.e2e.conftest import JOB

LOGS = BUILD / "test" / "e2e" / "batch"
WARM = {"command": "batch:warm", "arguments": ["--items=20"]}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchApp]:
    with (
        Sandbox(f"t-batch{JOB}", LOGS, swift=True).running() as sandbox,
        BatchApp(sandbox, tmp_path_factory.mktemp("batch")).running() as running,
    ):
        yield running


def slow(steps: int, **more: Any) -> dict[str, Any]:
    return {"command": "batch:slow", "arguments": [f"--steps={steps}", "--pause=0.5"], **more}


def processes(app: BatchApp, word: str) -> list[int]:
    """Processes in the application's container whose command line has this word, by this machine's numbers."""
    top = ["docker", "top", app.name, "-eo", "pid,args"]
    lines = subprocess.run(top, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    return [int(line.split()[0]) for line in lines if word in line]


def run(app: BatchApp, *arguments: str, log: str = "batch") -> tuple[int, str]:
    code, play = app.sandbox.attempt("batch", *arguments, log=log)
    # Ansible breaks long lines in YAML; a sentence is looked for without its breaks.
    return code, " ".join(COLOR.sub("", play.text).split())


def good(app: BatchApp, *arguments: str) -> tuple[Play, dict[str, str]]:
    code, play = app.sandbox.attempt("batch", *arguments)
    assert code == 0, play.text
    return play, {one["id"]: one["state"] for one in app.last()["runs"]}


def test_batches_run_in_order_as_the_php_user_and_are_reported(app: BatchApp) -> None:
    play, states = good(app, *app.variables(app.application(WARM, slow(3))))
    assert states == {"shop/batch:warm": "done", "shop/batch:slow": "done"}
    assert play.changed == 2
    lines = [line.strip() for line in play.text.splitlines() if " | " in line]
    assert lines[-3:] == [f"shop batch:slow | step {n} of 3" for n in (1, 2, 3)]
    warm, other = app.last()["runs"]
    told = json.loads(warm["lines"][-1])
    assert (told["items"], warm["code"]) == (20, 0)
    assert 1.5 <= other["seconds"] < 30
    # What artisan wrote belongs to the user that php-fpm runs as.
    find = [
        "docker",
        "exec",
        app.name,
        "find",
        "/srv/app/storage",
        "/srv/app/bootstrap/cache",
        "-user",
        "root",
        "-type",
        "f",
    ]
    assert subprocess.run(find, capture_output=True, text=True, check=True).stdout.split() == []


def test_lines_arrive_while_the_batch_runs(app: BatchApp) -> None:
    seen: list[tuple[float, str]] = []
    command = [tool("ansible-playbook"), "playbooks/batch.yml", "-i", str(ROOT / "inventories" / "sandbox")]

    def show(line: str) -> None:
        if " | step " in line:
            seen.append((time.monotonic(), line))

    arguments = app.variables(app.application(slow(20)))
    code, _ = stream([*command, *arguments], LOGS / "live.log", show=show, environment=app.sandbox.environment)
    assert code == 0
    assert len(seen) == 20
    # The batch takes ten seconds. All its lines at once at the end would be no progress.
    assert seen[-1][0] - seen[0][0] > 2


def test_a_failure_stops_the_rest_and_says_how_to_resume(app: BatchApp) -> None:
    failing = {"command": "batch:slow", "arguments": ["--steps=3", "--pause=0", "--fail-at=2"]}
    code, text = run(app, *app.variables(app.application(failing, WARM)))
    assert code == 2
    assert "shop batch:slow ended with exit code 3: step 2 of 3 failed" in text
    assert "To go on from there: -e batch_from=shop/batch:slow" in text
    report = app.last()
    assert [one["state"] for one in report["runs"]] == ["failed", "not reached"]
    assert (report["ok"], report["resume"]) == (False, "batch_from=shop/batch:slow")
    mended = app.variables(app.application(slow(1), WARM))
    _, states = good(app, *mended, "-e", "batch_from=shop/batch:warm")
    assert states == {"shop/batch:slow": "left out", "shop/batch:warm": "done"}


def test_a_time_limit_ends_the_command_in_its_container_too(app: BatchApp) -> None:
    code, text = run(app, *app.variables(app.application(slow(100, timeout=2))))
    assert code == 2
    assert "shop batch:slow was ended after its 2 s: step" in text
    assert processes(app, "batch:slow") == []


def test_a_second_run_is_told_by_whom_and_since_when(app: BatchApp, tmp_path: Path) -> None:
    command = [tool("ansible-playbook"), "playbooks/batch.yml", "-i", str(ROOT / "inventories" / "sandbox")]
    # Long enough for a busy machine; it is ended below.
    arguments = app.variables(app.application(slow(2000)))
    with subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, **app.sandbox.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as first:
        assert first.stdout
        for line in first.stdout:
            if " | step 1 of 2000" in line:
                break
        else:
            pytest.fail("the first run did not start")
        code, text = run(app, *arguments, log="second")
        assert code == 2
        assert "shop: batch:slow runs already: started by" in text
        assert "(ansible-playbook, process" in text
        assert "since 20" in text
        # Another control node does not see the host's lock: its own directory stands for that here.
        elsewhere = app.variables(app.application(slow(1)), laravel_batch_directory=str(tmp_path))
        code, text = run(app, *elsewhere, log="elsewhere")
        assert code == 2
        assert "the batch shop/batch:slow by" in text
        # The first run dies, and its batch goes on: nobody may start a second one beside it.
        first.kill()
        first.stdout.close()
    code, text = run(app, *arguments, log="third")
    assert code == 2
    assert "shop: batch:slow runs already" in text
    for pid in processes(app, "batch:slow"):
        # What only passed it on has perhaps ended with it.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until(lambda: not processes(app, "batch:slow"), "the end of the batch", 30)
    # Once it has ended, a run that died holds nothing.
    _, states = good(app, *app.variables(app.application(slow(1))))
    assert states == {"shop/batch:slow": "done"}


def lost(app: BatchApp, created: str) -> None:
    """A restore of a backup of that time, as the restore playbook notes it."""
    play = app.folder / "loss.yml"
    play.write_text(
        json.dumps(
            [
                {
                    "hosts": "localhost",
                    "gather_facts": False,
                    "tasks": [
                        {
                            "ansible.builtin.include_role": {
                                "name": "spotcache.redis.laravel_batch",
                                "tasks_from": "record_loss",
                            },
                            "vars": {
                                "laravel_batch_environment": "{{ spotcache_environment }}",
                                "laravel_batch_region": "{{ spotcache_region }}",
                                "laravel_batch_bucket": "{{ spotcache_bucket }}",
                                "laravel_batch_aws_environment": "{{ spotcache_aws_environment }}",
                                "laravel_batch_restored": {"created": created, "changed": True},
                            },
                        }
                    ],
                }
            ]
        )
    )
    app.sandbox.play(str(play), log="loss")


def test_data_lost_runs_only_what_a_restore_lost(app: BatchApp) -> None:
    both = app.variables(app.application(WARM, slow(1)))
    good(app, *both)
    _, states = good(app, *both, "-e", "batch_when=data_lost")
    assert set(states.values()) == {"left out"}
    # A backup of before the batches came back.
    lost(app, "2020-01-01T00:00:00Z")
    _, states = good(app, *both, "-e", "batch_when=data_lost", "-e", "batch_only=shop/batch:warm")
    assert states == {"shop/batch:warm": "done", "shop/batch:slow": "left out"}


def test_check_mode_starts_nothing(app: BatchApp) -> None:
    arguments = app.variables(app.application(WARM), laravel_batch_directory=str(app.folder / "unused"))
    code, text = run(app, *arguments, "--check")
    assert code == 0, text
    assert "would run" in text
    assert not (app.folder / "unused").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"path": "/srv"}, "path is /srv, and there is no artisan in it"),
        ({"batches": [{"command": "batch:nope"}]}, "has no artisan command batch:nope; it has batch:slow, batch:warm"),
        ({"container": "no-such"}, "The container no-such does not run on this host"),
        ({"user": "nobody-there"}, "has no such user"),
        ({"hosts": "no_such_group"}, "shop has no hosts"),
        ({"place": "ecs"}, "batches cannot be run as ECS tasks"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(app: BatchApp, change: dict[str, Any], expected: str) -> None:
    first = app.application(WARM, name="first")
    wrong = {**app.application(WARM), **change}
    app.report.unlink(missing_ok=True)
    code, text = run(app, *app.variables(first, wrong))
    assert code == 2
    assert expected in text
    assert "first batch:warm | " not in text  # not even the application without fault was begun
    assert not app.report.exists()
