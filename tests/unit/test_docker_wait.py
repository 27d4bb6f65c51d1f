# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages that are installed in the background: the role docker waits for them, and says how it went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rehearsal.work import ROOT, tool

RUNNING = {"started": 1, "finished": 0, "ansible_job_id": "j1.2"}


def wait(results: Path, patience: int = 30) -> tuple[int, str]:
    """Run the role's own tasks against a background job's file of results."""
    playbook = results.with_name("play.json")
    job = {"results_file": str(results)}
    task = {
        "name": "Wait",
        "ansible.builtin.include_tasks": str(ROOT / "roles" / "docker" / "tasks" / "wait.yml"),
        "vars": {"docker__job": job, "docker__patience_seconds": patience},
    }
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
    done = subprocess.run(
        [tool("ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
    )
    return done.returncode, " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("ended", "code", "words"),
    [
        # Words of apt's own that look like the file's: the job has ended all the same.
        ({"changed": True, "stdout": 'it said "finished": 0 and "failed": true', "finished": 1}, 0, "changed=0"),
        ({"failed": True, "msg": "No package matching 'dokcer.io' is available"}, 2, "No package matching 'dokcer.io'"),
    ],
)
def test_a_job_that_has_ended_counts_as_it_ended(tmp_path: Path, ended: dict[str, Any], code: int, words: str) -> None:
    results = tmp_path / "results"
    results.write_text(json.dumps(ended))
    ended_with, said = wait(results)
    assert ended_with == code
    assert words in said


def test_a_job_that_runs_is_waited_for(tmp_path: Path) -> None:
    results = tmp_path / "results"
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
    results = tmp_path / "results"
    results.write_text(json.dumps(RUNNING))
    code, said = wait(results, patience=1)
    assert code == 2
    assert "apt did not end within 1 s: it is still at work" in said
    # A host that was restarted has no such job any more.
    code, said = wait(tmp_path / "missing")
    assert code == 2
    assert "apt did not end" in said
