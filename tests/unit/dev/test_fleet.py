# SPDX-License-Identifier: GPL-3.0-or-later
"""One verb over many environments: which they are, that one which fails stops none, and what is said at the end."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from dev import fleet
from dev.work import ROOT, Failed, stream

PLAYBOOK = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Show the environment
      ansible.builtin.debug:
        msg: "{{ spotcache_environment }} {{ given | default('') }}"
      changed_when: spotcache_environment == 'b'
    - name: Check it
      ansible.builtin.assert:
        that: spotcache_environment != 'c'
        fail_msg: "spotcache_environment is 'c': use another one."
"""


def inventory(folder: Path, text: str = "", hosts: str = "localhost ansible_connection=local\n") -> Path:
    (folder / "group_vars" / "all").mkdir(parents=True)
    (folder / "hosts").write_text(hosts)
    (folder / "group_vars" / "all" / "main.yml").write_text(text or f"spotcache_environment: {folder.name}\n")
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four environments, a playbook for them, and something that is none."""
    for name in ("b", "a", "c", "d"):
        inventory(tmp_path / "inventories" / name)
    inventory(tmp_path / "inventories" / "controller", "controller_host: x\n")
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "look.yml").write_text(PLAYBOOK)
    monkeypatch.setattr(fleet, "ROOT", tmp_path)
    monkeypatch.setattr(fleet, "FOLDER", tmp_path / "build" / "fleet")
    monkeypatch.setattr(fleet, "stream", lambda *one, **more: stream(*one, **more, cwd=tmp_path))
    return tmp_path


def test_one_that_fails_stops_none_and_says_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = fleet.main(["look", "-i", str(place / "inventories"), "--forks", "2", "-e", "given=all"])
    said = capsys.readouterr().out
    assert code == 1
    rows = [line.split() for line in said.splitlines() if line[:2] in ("a ", "b ", "c ", "d ")]
    assert [row[:3] for row in rows] == [["a", "ok", "0"], ["b", "ok", "1"], ["c", "failed", "0"], ["d", "ok", "0"]]
    assert "c: spotcache_environment is 'c': use another one." in said
    assert "3 of 4 environments are done." in said
    written = json.loads((place / "build" / "fleet" / "report.json").read_text())
    assert [(one["name"], bool(one["code"])) for one in written["environments"]] == [
        ("a", False),
        ("b", False),
        ("c", True),
        ("d", False),
    ]
    # What is no option of the fleet's own goes to each of them, and each has a log of its own.
    logs = {path.stem: path.read_text() for path in (place / "build" / "fleet" / "look").glob("*.log")}
    assert set(logs) == {"a", "b", "c", "d"}
    assert all(f"{name} all" in text for name, text in logs.items())


def test_all_that_go_well_are_a_success(place: Path) -> None:
    named = [word for name in ("a", "b") for word in ("-i", str(place / "inventories" / name))]
    assert fleet.main(["look", *named]) == 0


def test_no_more_than_asked_for_run_at_once() -> None:
    running, most, guard = 0, 0, threading.Lock()

    def run(environment: fleet.Environment) -> fleet.Result:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with guard:
            running -= 1
        return fleet.Result(environment.name, 0, 0, 0.05, "", "log")

    found = [fleet.Environment(str(number), Path()) for number in range(9)]
    results = fleet.run_all(found, 3, run, lambda _line: None)
    assert most == 3
    assert [one.name for one in results] == [one.name for one in found]


def test_the_shipped_environments_are_found_without_the_sandbox() -> None:
    names = [one.name for one in fleet.environments([ROOT / "inventories"])]
    assert names == ["dev", "prod", "stg"]
    assert [one.name for one in fleet.environments([ROOT / "inventories" / "sandbox"])] == ["sandbox"]
    # A file of an inventory stands for it, and one that is named twice is one.
    twice = [ROOT / "inventories" / "stg" / "hosts.yml", ROOT / "inventories" / "stg"]
    assert [one.name for one in fleet.environments(twice)] == ["stg"]


def test_folders_that_hold_no_environment_or_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="there is no such folder"):
        fleet.environments([tmp_path / "missing"])
    with pytest.raises(Failed, match="no inventory with a spotcache_environment"):
        fleet.environments([tmp_path])
    inventory(tmp_path / "one" / "stg")
    inventory(tmp_path / "two" / "stg")
    with pytest.raises(Failed, match="Two inventories are called stg"):
        fleet.environments([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "There is no verb fly"),
        (["awx"], "There is no verb awx"),
        (["provision", "--forks", "0"], "--forks is 0"),
    ],
)
def test_bad_arguments_run_nothing(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fleet.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Nothing was run." in error
