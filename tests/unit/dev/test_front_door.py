# SPDX-License-Identifier: GPL-3.0-or-later
"""./spotcache: its verbs, what each needs, and the command line that it comes to."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dev.setup import launch, needs
from dev.work import ROOT

SCRIPT = ROOT / "spotcache"


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The front door as a module."""
    loader = importlib.machinery.SourceFileLoader("front_door", str(SCRIPT))
    spec = importlib.util.spec_from_loader("front_door", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "front_door", module)
    loader.exec_module(module)
    return module


@pytest.fixture
def ran(door: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every tool that a verb ends in; each ends well without having run."""
    found: list[list[str]] = []

    def run(command: list[str], *_: Any, **__: Any) -> int:
        found.append(command)
        return 0

    monkeypatch.setattr(launch, "run", run)
    return found


def test_every_verb_is_in_the_help() -> None:
    said = subprocess.run([sys.executable, str(SCRIPT), "help"], capture_output=True, text=True, check=True).stdout
    for verb in (
        "demo",
        "test",
        "check",
        "bench",
        "provision",
        "backup",
        "restore",
        "destroy",
        "drill",
        "cost",
        "sandbox",
        "release",
        "clean",
        "help",
    ):
        assert f"\n  {verb}" in said


@pytest.mark.parametrize("verb", ["test", "check", "bench", "clean", "setup", "provision", "docs", "demo"])
def test_help_for_a_verb_prepares_nothing(
    door: ModuleType, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(door, "prepare", lambda *_: pytest.fail("something was prepared"))
    monkeypatch.setattr(needs, "venv_ready", lambda _pins: False)
    assert door.main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Use: ./spotcache {verb}")
    assert ("after ./spotcache setup" in said) is (verb == "demo")
    assert ("provision_empty" in said) is (verb == "provision")


def test_a_part_of_a_playbook_is_no_verb(door: ModuleType) -> None:
    assert (ROOT / "playbooks" / "_next_host.yml").exists()
    assert not [name for name in door.VERBS if name.startswith("_") or "next_host" in name]


def test_an_unknown_verb_gets_a_sentence() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "porvision"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "spotcache: there is no verb porvision: ./spotcache help lists them.\n"


def test_it_uses_the_standard_library_only() -> None:
    read = [SCRIPT]
    for script in read:  # which grows: a module of the project's own is read as well
        for node in ast.walk(ast.parse(script.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names] + [str(node.module)]
            for name in names:
                parts = name.split(".")
                own = [SCRIPT.parent.joinpath(*parts).with_suffix(".py"), SCRIPT.parent.joinpath(*parts, "__init__.py")]
                here = [path for path in own if path.exists()]
                assert here or parts[0] in {*sys.stdlib_module_names, "dev", "sandbox"}, f"{script}: {name}"
                read += [path for path in here if path not in read]
    assert {"permissions.py", *(path.name for path in (ROOT / "dev" / "setup").glob("*.py"))} <= {
        one.name for one in read
    }


def test_an_old_python_still_understands_it_far_enough_to_say_what_is_wrong() -> None:
    # The oldest grammar that the standard library checks; the version check comes before imports an old Python lacks.
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
    first = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.If)][:3]
    assert [ast.unparse(node).splitlines()[0] for node in first] == [
        "import os",
        "import sys",
        "if sys.version_info < (3, 11):",
    ]


@pytest.mark.parametrize(
    ("arguments", "sandbox", "program"),
    [
        ([], True, "dev.drill.runs"),
        (["--kind", "kill", "--runs", "3"], True, "dev.drill.runs"),
        (["-i", "{root}/inventories/stg", "-e", "drill_confirm=stg"], False, "drill.yml"),
        (["-i", "{root}/inventories/sandbox"], True, "drill.yml"),
    ],
)
def test_a_drill_is_a_rehearsal_unless_an_inventory_is_named(
    door: ModuleType, ran: list[list[str]], arguments: list[str], sandbox: bool, program: str
) -> None:
    words = [word.format(root=ROOT) for word in arguments]
    assert door.VERBS["drill"].need(words).sandbox is sandbox
    assert door.VERBS["drill"].run(words, door.Machine({}, 0)) == 0
    assert any(word.endswith(program) for word in ran[0])
    assert ran[0][-len(words) :] == words if words else ran[0][-1] == program


@pytest.mark.parametrize(
    ("arguments", "documents"),
    [
        (["up"], ["operator", "operator-roles", "operator-automation"]),
        (["up", "mine", "--slow"], ["operator", "operator-roles", "operator-automation"]),
        (["up", "--operator-policy", "everything"], []),
        (["status"], []),
    ],
)
def test_whoever_acts_in_a_sandbox_may_do_what_the_documents_say(
    door: ModuleType, ran: list[list[str]], arguments: list[str], documents: list[str]
) -> None:
    assert door.VERBS["sandbox"].run(arguments, door.Machine({}, 0)) == 0
    [command] = ran
    at = command.index("sandbox") + 1
    assert command[at : at + len(arguments)] == arguments
    policies = [Path(word).name for word in command[at + len(arguments) :] if not word.startswith("--")]
    boundary = ["spotcache-boundary.json"] if documents else []
    assert policies == [f"{name}-policy.json" for name in documents] + boundary
    # They are those that a person is told to attach.
    told = (SCRIPT.parent / "docs" / "iam" / "README.md").read_text()
    assert not documents or f"for name in {' '.join(f'{name}-policy' for name in documents)}; do" in told


@pytest.mark.parametrize(
    ("arguments", "programs"),
    [
        (["0.2.0", "--check"], {"git"}),
        (["0.2.0", "--sign", "KEYID"], {"git", "gpg", "gpg-agent"}),
        (["--sign=KEYID", "0.2.0"], {"git", "gpg", "gpg-agent"}),
    ],
)
def test_a_release_needs_what_builds_and_signs_it_and_no_root(
    door: ModuleType, ran: list[list[str]], arguments: list[str], programs: set[str]
) -> None:
    need = door.VERBS["release"].need(arguments)
    assert {tool.program for tool in need.tools} == programs
    assert (need.sandbox, need.python) == (False, needs.DEVELOPS)
    assert door.VERBS["release"].run(arguments, door.Machine({}, 0)) == 0
    assert ran[0][1:] == ["-m", "dev.release", *arguments]


def test_only_what_rehearses_the_application_needs_its_image(door: ModuleType) -> None:
    with_laravel = {name for name, verb in door.VERBS.items() if verb.need([]).laravel}
    assert with_laravel == {"demo", "test", "bench", "setup"}
    assert not door.VERBS["bench"].need(["dotenv"]).sandbox
    assert door.VERBS["bench"].need(["dotenv", "redis"]).sandbox


@pytest.mark.parametrize(
    ("arguments", "sandbox"),
    [
        ([], True),
        (["-i", "{root}/inventories/sandbox"], True),
        (["-i", "{root}/inventories/sandbox/hosts.yml"], True),
        (["--inventory={root}/inventories/sandbox", "-v"], True),
        (["-i", "{root}/inventories/stg"], False),
        (["-i{root}/inventories/stg", "-e", "x=1"], False),
        (["--inventory", "/elsewhere/hosts"], False),
    ],
)
def test_only_the_sandbox_inventory_needs_a_sandbox(door: ModuleType, arguments: list[str], sandbox: bool) -> None:
    assert door.is_sandbox([word.format(root=ROOT) for word in arguments]) is sandbox
    need = door.VERBS["provision"].need([word.format(root=ROOT) for word in arguments])
    assert need == (door.HOSTS if sandbox else door.AWS)


def test_who_runs_a_playbook_on_aws_installs_nothing_that_only_tests_need(door: ModuleType) -> None:
    playbooks = (
        "provision",
        "backup",
        "restore",
        "destroy",
        "drill",
        "schedule",
        "laravel_env",
        "batch",
        "cache_clear",
    )
    assert {door.VERBS[name].need(["-i", "inventories/stg"]).python for name in playbooks} == {needs.RUNS}
    assert door.VERBS["check"].need([]).python == door.VERBS["test"].need([]).python == door.DEVELOPS


def test_an_unknown_bench_is_named(door: ModuleType) -> None:
    with pytest.raises(door.Stop, match="There is no bench convergence"):
        door.bench(["convergence"], door.Machine({}, 0))


def test_ci_calls_the_front_door_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "exec ./spotcache test"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
