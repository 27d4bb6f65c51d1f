# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that stays in memory runs one playbook after the other as ansible-playbook would."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.program import Program
from dev.work import ROOT, Failed

pytestmark = pytest.mark.plays

PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {"name": "Show where it runs", "ansible.builtin.debug": {"msg": "{{ lookup('pipe', 'pwd') }} {{ given }}"}},
            {"name": "Show what is set", "ansible.builtin.debug": {"msg": "TOLD {{ lookup('env', 'TOLD') }}"}},
            {"name": "Fail where that is asked for", "ansible.builtin.fail": {"msg": "asked"}, "when": "given == 'no'"},
        ],
    }
]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_LOCALHOST_WARNING": "false"}
    made = Program.start(environment, tmp_path / "errors")
    yield made
    made.close()


def test_each_run_is_one_of_its_own(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "play.yml").write_text(json.dumps(PLAY))
    for given, code in (("one", 0), ("no", 2), ("two", 0)):
        shown: list[str] = []
        told = {**os.environ, "TOLD": f"of {given}"}
        log = tmp_path / "logs" / "run.log"
        words = ["play.yml", "-i", "localhost,", "-e", f"given={given}"]
        assert program.run(words, told, log, show=shown.append, cwd=folder) == code, log.read_text()
        assert "\n".join(shown) == log.read_text().removesuffix("\n")
        assert f"{folder} {given}" in log.read_text()
        assert f"TOLD of {given}" in log.read_text()


def test_one_that_has_ended_says_so(program: Program, tmp_path: Path) -> None:
    program.process.kill()
    program.process.wait()
    with pytest.raises(Failed, match="has ended"):
        program.run(["play.yml"], {}, tmp_path / "run.log")
