# SPDX-License-Identifier: GPL-3.0-or-later
"""The checkout as AWX sees it: what it offers as a playbook, what becomes of answers, what an old core is told."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from spotcache_keeper.system.times import is_moment, parse_moment

from dev.work import ROOT

PLAYBOOKS = sorted((ROOT / "playbooks").glob("[!_]*.yml"))
# As AWX 24.6.1 has it in awx/main/utils/ansible.py.
LINE = re.compile(r"^\s*?-?\s*?(?:hosts|(ansible\.builtin\.)?include|(ansible\.builtin\.)?import_playbook):\s*?.*?$")
SKIPPED = {"roles", "tasks", "group_vars", "host_vars"}


def offered(path: str, text: str) -> bool:
    """Whether AWX offers a file of a project to whoever makes a job template."""
    folders = Path(path).parent.parts
    if Path(path).suffix not in (".yml", ".yaml") or SKIPPED & set(folders) or any(x.startswith(".") for x in folders):
        return False
    lines = text.splitlines()
    return bool(lines) and (lines[0].startswith("$ANSIBLE_VAULT;") or any(LINE.match(line) for line in lines))


def test_awx_offers_the_playbooks_and_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = [
        name for name in listed.stdout.splitlines() if name.endswith((".yml", ".yaml")) and (ROOT / name).is_file()
    ]
    found = [name for name in names if offered(name, (ROOT / name).read_text(errors="replace"))]
    assert sorted(found) == [str(path.relative_to(ROOT)) for path in PLAYBOOKS]


def first_task(playbook: Path) -> dict[str, Any]:
    """The first task that a playbook runs."""
    first: dict[str, Any] = yaml.safe_load(playbook.read_text())[0]
    if "tasks" in first:
        found: dict[str, Any] = first["tasks"][0]
        return found
    [other] = [value for key, value in first.items() if key.endswith("import_playbook")]
    return first_task(playbook.parent / str(other))


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
def test_every_playbook_first_looks_at_ansible_core(playbook: Path) -> None:
    task, folder = first_task(playbook), playbook.parent
    for _ in range(4):
        file = next((value for key, value in task.items() if key.endswith(("include_tasks", "import_tasks"))), "")
        file = file["file"] if isinstance(file, dict) else file
        path = folder / file
        if path.name == "preflight_core.yml":
            return
        folder, task = path.parent, yaml.safe_load(path.read_text())[0]
    pytest.fail(f"{playbook.name} begins with {task['name']}")


@pytest.mark.parametrize(
    ("version", "good"), [("2.15.13", False), ("2.18.9", False), ("2.19.0", True), ("2.21.5", True)]
)
def test_an_old_ansible_core_is_told_what_is_needed(version: str, good: bool) -> None:
    [task] = yaml.safe_load((ROOT / "playbooks" / "tasks" / "preflight_core.yml").read_text())
    check = task["ansible.builtin.assert"]
    templar = Templar(loader=DataLoader(), variables={"ansible_version": {"full": version}})
    assert templar.evaluate_conditional(trust_as_template(check["that"])) is good
    said = str(templar.template(trust_as_template(check["fail_msg"])))
    assert f"This is ansible-core {version}, and 2.19 or newer is needed" in said
    assert "execution environment" in said


def test_a_time_that_yaml_has_read_is_still_that_time() -> None:
    """Ansible 2.19 reads the text of an extra variable anew: a survey's answer becomes a date."""
    read = yaml.safe_load("2026-11-22T09:15:00+09:00")
    assert not isinstance(read, str)
    assert is_moment(str(read))
    assert parse_moment(str(read)) == parse_moment("2026-11-22T00:15:00Z")


def test_artifacts_are_no_inputs() -> None:
    """A workflow gives artifacts to the jobs that follow, as extra variables: none may be one that something reads."""
    words = r"spotcache_(?:endpoint|backup|backup_id|restored|restored_id|drill|batch|apcu)\b"
    texts = {path: path.read_text() for path in (ROOT / "playbooks").rglob("*.yml")}
    read = {
        str(path.relative_to(ROOT)): found
        for path, text in texts.items()
        if (found := re.findall(rf"^(?!\s*#).*{words}(?!:)", re.sub(r"spotcache_endpoint\.py", "", text), re.MULTILINE))
    }
    assert read == {}


def tasks_of(path: Path) -> list[dict[str, Any]]:
    """All tasks of a file, also those in blocks."""

    def flat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        inner = [flat(row.get(part) or []) for row in rows for part in ("block", "rescue", "always")]
        return [*rows, *(one for part in inner for one in part)]

    return flat(yaml.safe_load(path.read_text()) or [])


def test_who_asks_after_a_secret_task_is_as_silent() -> None:
    """The state of a task that runs on by itself comes with its arguments."""
    tasks = [
        one
        for path in [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/tasks/**/*.yml")]
        for one in tasks_of(path)
    ]
    secret = {one["register"] for one in tasks if one.get("no_log") and "async" in one}
    asks = [one for one in tasks if "ansible.builtin.async_status" in one]
    assert secret
    assert asks
    for one in asks:
        of = re.search(r"(\w+)\.ansible_job_id", one["ansible.builtin.async_status"]["jid"])
        assert of
        assert of[1] not in secret or one.get("no_log") is True, one["name"]
