# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages that are installed in the background: the role docker waits for them, and says how it went."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dev.work import ROOT, tool

RUNNING = {"started": 1, "finished": 0}
JOB = "j1.2"
# As ansible-core writes what a module raised: not plain JSON's own types.
RAISED = {"__ansible_type": "ErrorSummary", "event": {"__ansible_type": "Event", "msg": "E:Could not open file"}}


def wait(results: Path, patience: int = 30) -> tuple[int, str]:
    """Run the role's own tasks against a background job's file of results.

    The foreground says only what it would install.
    """
    tasks = results.parent / "tasks"
    tasks.mkdir(exist_ok=True)
    shutil.copy(ROOT / "roles" / "docker" / "tasks" / "wait.yml", tasks)
    say = {"ansible.builtin.debug": {"msg": "in the foreground: {{ docker__wanted | join }}"}}
    (tasks / "foreground.yml").write_text(json.dumps([{"name": "Show", **say}]))
    playbook = results.parent / "play.json"
    given = {
        "docker__job": {"results_file": str(results), "ansible_job_id": JOB},
        "docker__wanted": ["docker.io"],
        "docker__patience_seconds": patience,
        "ansible_async_dir": str(results.parent),
    }
    task = {"name": "Wait", "ansible.builtin.include_tasks": str(tasks / "wait.yml")}
    play = {"hosts": "localhost", "gather_facts": False, "vars": given, "tasks": [task]}
    playbook.write_text(json.dumps([play]))
    done = subprocess.run(
        [tool("ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
    )
    return done.returncode, " ".join(done.stdout.split())


# The last has words of apt's own that look like the file's: the job has ended all the same.
@pytest.mark.parametrize("stdout", ["", 'it said "finished": 0 and "failed": true'])
def test_a_job_that_ended_well_is_done(tmp_path: Path, stdout: str) -> None:
    results = tmp_path / JOB
    results.write_text(json.dumps({"changed": True, "stdout": stdout, "finished": 1}))
    code, said = wait(results)
    assert code == 0
    assert "in the foreground" not in said


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ({"msg": "No package matching 'dokcer.io' is available"}, "No package matching"),
        ({"msg": "E:Could not open file /var/lib/apt/lists/x", "exception": RAISED}, "E:Could not open file /var/lib"),
    ],
)
def test_what_failed_in_the_background_is_tried_again(tmp_path: Path, ended: dict[str, Any], words: str) -> None:
    results = tmp_path / JOB
    results.write_text(json.dumps({"failed": True, "finished": 1, **ended}))
    code, said = wait(results)
    assert code == 0
    assert f"In the background it failed, and is tried again: {words}" in said
    assert "in the foreground: docker.io" in said


def test_a_job_that_runs_is_waited_for(tmp_path: Path) -> None:
    results = tmp_path / JOB
    results.write_text(json.dumps(RUNNING))

    def end() -> None:
        time.sleep(4)
        part = results.with_name("part")
        part.write_text(json.dumps({"changed": True, "finished": 1}))
        part.replace(results)

    threading.Thread(target=end).start()
    begun = time.monotonic()
    assert wait(results)[0] == 0
    assert time.monotonic() - begun >= 4


def test_a_job_that_never_ends_is_said(tmp_path: Path) -> None:
    results = tmp_path / JOB
    results.write_text(json.dumps(RUNNING))
    code, said = wait(results, patience=1)
    assert code == 2
    assert "apt did not end within 1 s: it is still at work" in said


def test_a_host_that_was_restarted_has_no_such_job(tmp_path: Path) -> None:
    code, said = wait(tmp_path / JOB)
    assert code == 0
    assert "in the foreground: docker.io" in said
