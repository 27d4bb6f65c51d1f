# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook that gives up: the lease is released, and what to do goes by what failed, not by its words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dev.work import ROOT, tool

FAILING = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(argument_spec={"result": {"type": "dict", "required": True}})
module.fail_json(**module.params["result"])
"""
DENIED = "User: u is not authorized to perform: ec2:CreateVpc on resource: vpc"
ADVICE = "The AWS credentials lack ec2:CreateVpc: give them the policies of docs/iam."


def give_up(folder: Path, task: dict[str, Any], facts: dict[str, Any]) -> str:
    """What is said after a task has failed; a stub releases the lease."""
    (folder / "library").mkdir()
    (folder / "library" / "failing.py").write_text(FAILING)
    for name in ("held.yml", "give_up.yml"):
        shutil.copy(ROOT / "playbooks" / "tasks" / name, folder)
    (folder / "step.yml").write_text(json.dumps([{"name": "The step", **task}]))
    released = {"name": "Release", "ansible.builtin.debug": {"msg": "the lease is released"}}
    (folder / "release.yml").write_text(json.dumps([released]))
    held = {
        "name": "Try",
        "ansible.builtin.include_tasks": str(folder / "held.yml"),
        "vars": {"spotcache__held": "step"},
    }
    playbook = folder / "play.json"
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "vars": facts, "tasks": [held]}]))
    done = subprocess.run(
        [tool("ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
    )
    assert done.returncode == 2
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("result", "facts", "told", "advice"),
    [
        ({"msg": DENIED, "error": {"code": "UnauthorizedOperation"}}, {}, f"The step: {DENIED}. {ADVICE}", True),
        (
            {"msg": f"ssh: An error occurred (AccessDeniedException) when calling StartSession: {DENIED}"},
            {},
            ADVICE,
            True,
        ),
        # A sentence that only looks like it, such as a page that somebody quotes.
        ({"msg": DENIED}, {}, f"The step: {DENIED}", False),
        (
            {"msg": "it is blank"},
            {"redis_refusal": "blank_volume"},
            "run the restore playbook, or, to start with",
            True,
        ),
        ({"msg": "it is blank"}, {}, "The step: it is blank", False),
    ],
)
def test_what_to_do_goes_by_what_failed(
    tmp_path: Path, result: dict[str, Any], facts: dict[str, Any], told: str, advice: bool
) -> None:
    said = give_up(tmp_path, {"failing": {"result": result}}, facts)
    assert told in said
    assert ("give them the policies" in said or "run the restore playbook" in said) is advice
    assert "the lease is released" in said


def test_of_a_loop_what_failed_is_said(tmp_path: Path) -> None:
    denied = {"msg": DENIED, "error": {"code": "AccessDenied"}}
    task = {"failing": {"result": "{{ item }}"}, "loop": [denied, {"msg": "no room"}]}
    said = give_up(tmp_path, task, {})
    assert f"{DENIED}; no room. {ADVICE}" in said
