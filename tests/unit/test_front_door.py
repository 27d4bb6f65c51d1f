# SPDX-License-Identifier: GPL-3.0-or-later
"""./spotcache refuses in one sentence before anything is changed, and prepares only what a verb needs."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import io
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "spotcache"


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The front door of a fresh checkout in a temporary folder, on a machine where every refused call is seen."""
    loader = importlib.machinery.SourceFileLoader("front_door", str(SCRIPT))
    spec = importlib.util.spec_from_loader("front_door", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "front_door", module)
    loader.exec_module(module)
    for name, path in {"ROOT": ".", "VENV": ".venv", "CACHE": ".cache", "STAMP": ".venv/.spotcache"}.items():
        monkeypatch.setattr(module, name, tmp_path / path)
    monkeypatch.setattr(module, "SANDBOX_STATE", tmp_path / "state")
    for pins in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / pins).write_text("ansible==1\n")
    return module


@pytest.fixture
def commands(door: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every command line that the front door starts; nothing is really started."""
    started: list[list[str]] = []

    def run(command: list[str], **rest: Any) -> subprocess.CompletedProcess[str]:
        started.append(list(command))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(door.subprocess, "run", run)
    return started


def machine(door: ModuleType, programs: Path, uid: int = 0, **environment: str) -> Any:
    """A machine whose whole search path is one folder."""
    return door.Machine({"PATH": str(programs), **environment}, uid)


@pytest.fixture
def ran(door: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every tool that a verb ends in; each ends well without having run."""
    found: list[list[str]] = []

    def run(command: list[str], *_: Any, **__: Any) -> int:
        found.append(command)
        return 0

    monkeypatch.setattr(door, "run", run)
    return found


@pytest.fixture
def programs(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with the named programs in it."""

    def make(*names: str) -> Path:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
        return folder

    return make


def only_path(door: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for programs in the machine's own PATH only, not in this machine's /usr/sbin."""
    monkeypatch.setattr(door.Machine, "path", property(lambda self: self.environment["PATH"]))


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
        "sandbox",
        "clean",
        "help",
    ):
        assert f"\n  {verb}" in said


@pytest.mark.parametrize("verb", ["test", "check", "bench", "clean", "setup", "provision", "docs", "demo"])
def test_help_for_a_verb_prepares_nothing(
    door: ModuleType, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(door, "prepare", lambda *_: pytest.fail("something was prepared"))
    monkeypatch.setattr(door, "venv_ready", lambda _pins: False)
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
    assert [path.name for path in read[1:]].count("permissions.py") == 1


def test_an_old_python_still_understands_it_far_enough_to_say_what_is_wrong() -> None:
    # The oldest grammar that the standard library checks; the version check comes before imports an old Python lacks.
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
    first = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.If)][:3]
    assert [ast.unparse(node).splitlines()[0] for node in first] == [
        "import os",
        "import sys",
        "if sys.version_info < (3, 11):",
    ]


def test_without_apt_the_missing_program_is_named(
    door: ModuleType, programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(door, monkeypatch)
    with pytest.raises(door.Stop, match=r"^ssh missing, and this system has no apt-get"):
        door.prepare(door.AWS, machine(door, programs()))


def test_without_root_and_sudo_it_says_so(door: ModuleType, programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only_path(door, monkeypatch)
    with pytest.raises(
        door.Stop, match=r"Root's rights are needed to install openssh-client, and there is no sudo here"
    ):
        door.prepare(door.AWS, machine(door, programs("apt-get"), uid=1000))


def test_a_sudo_that_wants_a_password_is_refused_without_a_terminal(
    door: ModuleType, programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(door, monkeypatch)
    monkeypatch.setattr(door.sys, "stdin", io.StringIO())
    monkeypatch.setattr(door.subprocess, "run", lambda command, **rest: subprocess.CompletedProcess(command, 1))
    with pytest.raises(door.Stop, match="sudo wants a password here"):
        door.prepare(door.AWS, machine(door, programs("apt-get", "sudo"), uid=1000))


def test_a_full_disk_is_refused(door: ModuleType, programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only_path(door, monkeypatch)
    monkeypatch.setattr(door.shutil, "disk_usage", lambda where: types.SimpleNamespace(free=door.GIB))
    with pytest.raises(door.Stop, match=r"has 1\.0 GB free, and 2 GB are needed for the Python environment"):
        door.prepare(door.AWS, machine(door, programs("apt-get", "ssh")))


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [({"DOCKER_HOST": "tcp://elsewhere:2375"}, "DOCKER_HOST is tcp://elsewhere:2375, .*: unset DOCKER_HOST")],
)
def test_a_remote_docker_is_refused(door: ModuleType, environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(door.Stop, match=sentence):
        door.refuse_without_hosts(door.Machine({"PATH": os.environ["PATH"], **environment}, 0))


def test_a_small_machine_is_refused(door: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "memory_gib", lambda text: 1.9)
    with pytest.raises(door.Stop, match="less than 4 GB of memory"):
        door.refuse_without_hosts(door.Machine({"PATH": os.environ["PATH"]}, 0))


def test_an_unprivileged_container_is_refused(door: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "lacking_capabilities", lambda text, which: ["CAP_SYS_ADMIN"])
    with pytest.raises(door.Stop, match="Root lacks CAP_SYS_ADMIN here"):
        door.refuse_without_hosts(door.Machine({"PATH": os.environ["PATH"]}, 0))


def test_another_system_is_refused(door: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door.sys, "platform", "darwin")
    with pytest.raises(door.Stop, match="runs on Linux, and this is darwin"):
        door.prepare(door.CHECK, door.Machine(dict(os.environ), 0))


@pytest.mark.parametrize(
    ("effective", "lacking"),
    [
        ("000001ffffffffff", []),
        ("00000000a80425fb", ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]),  # what Docker gives a container
        ("0000000000000000", ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_MKNOD"]),
    ],
)
def test_capabilities_are_read_from_the_kernel(door: ModuleType, effective: str, lacking: list[str]) -> None:
    status = f"Name:\tx\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\n"
    assert door.lacking_capabilities(status, "CapEff") == lacking
    assert door.lacking_capabilities(status, "CapBnd") == []


def test_refusing_changes_nothing(
    door: ModuleType, commands: list[list[str]], programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(door, monkeypatch)
    monkeypatch.setattr(door, "memory_gib", lambda text: 1.0)
    path = programs("apt-get")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(door.Stop):
        door.prepare(door.HOSTS, machine(door, path))
    assert commands == []
    assert sorted(tmp_path.rglob("*")) == before


def test_check_needs_no_docker_and_aws_needs_only_ssh(door: ModuleType) -> None:
    assert {tool.program for tool in door.CHECK.tools} == {
        "redis-cli",
        "redis-check-rdb",
        "php",
        "/usr/share/php/Dotenv/autoload.php",
    }
    assert {tool.program for tool in door.AWS.tools} == {"ssh"}
    assert not door.CHECK.sandbox
    assert not door.AWS.sandbox


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
    words = [word.format(root=door.ROOT) for word in arguments]
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


def test_only_what_rehearses_the_application_needs_its_image(door: ModuleType) -> None:
    with_laravel = {name for name, verb in door.VERBS.items() if verb.need([]).laravel}
    assert with_laravel == {"demo", "test", "bench", "setup"}
    assert not door.VERBS["bench"].need(["dotenv"]).sandbox
    assert door.VERBS["bench"].need(["dotenv", "redis"]).sandbox


def test_images_are_made_once_docker_answers(
    door: ModuleType, commands: list[list[str]], programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "venv_ready", lambda _pins: True)
    monkeypatch.setattr(door, "refuse_unsuitable", lambda *_: None)
    monkeypatch.setattr(door, "start_docker", lambda _: commands.append(["docker"]))
    door.prepare(door.Need(sandbox=True, laravel=True), machine(door, programs("ssh")))
    assert [command[-1] for command in commands] == ["docker", "sandbox.image", "dev.sample_app.laravel.image"]
    commands.clear()
    door.prepare(door.Need(sandbox=True), machine(door, programs("ssh")))
    assert [command[-1] for command in commands] == ["docker", "sandbox.image"]


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
    assert door.is_sandbox([word.format(root=door.ROOT) for word in arguments]) is sandbox
    need = door.VERBS["provision"].need([word.format(root=door.ROOT) for word in arguments])
    assert need == (door.HOSTS if sandbox else door.AWS)


def test_the_environment_is_made_anew_when_the_pins_change(door: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("#!/bin/sh\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    assert not door.venv_ready(door.RUNS)  # a broken-off installation has no stamp
    door.STAMP.write_text(door.fingerprint(door.RUNS))
    assert door.venv_ready(door.RUNS)
    assert not door.venv_ready(door.DEVELOPS)
    door.STAMP.write_text(door.fingerprint(door.DEVELOPS))
    # What tests need has all that runs.
    assert door.venv_ready(door.RUNS)
    assert door.venv_ready(door.DEVELOPS)
    for pins in (door.RUNS, door.DEVELOPS):
        (tmp_path / pins).write_text("ansible==2\n")
    assert not door.venv_ready(door.RUNS)
    assert not door.venv_ready(door.DEVELOPS)


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
    assert {door.VERBS[name].need(["-i", "inventories/stg"]).python for name in playbooks} == {door.RUNS}
    assert door.VERBS["check"].need([]).python == door.VERBS["test"].need([]).python == door.DEVELOPS


def test_a_second_run_prepares_nothing(
    door: ModuleType, commands: list[list[str]], programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(door, monkeypatch)
    monkeypatch.setattr(door, "venv_ready", lambda _pins: True)
    door.prepare(door.AWS, machine(door, programs("ssh")))
    assert commands == []


def test_missing_packages_are_installed_before_the_environment_is_made(
    door: ModuleType, commands: list[list[str]], programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(door, monkeypatch)
    path = programs("apt-get")
    whole = door.install_packages

    def install(missing: Any, on: Any) -> None:
        programs("ssh")
        whole(missing, on)

    monkeypatch.setattr(door, "install_packages", install)
    monkeypatch.setattr(door, "make_venv", lambda _pins, _on: commands.append(["venv"]))
    door.prepare(door.AWS, machine(door, path))
    assert [command[-2:] for command in commands if "apt-get" in command] == [
        ["Acquire::Retries=3", "update"],
        ["--no-install-recommends", "openssh-client"],
    ]
    assert commands[-1] == ["venv"]


def test_a_root_owned_child_gets_names_not_values(door: ModuleType) -> None:
    on = door.Machine(
        {"PATH": "/bin", "PIP_INDEX_URL": "https://user:secret@example.org", "AWS_SECRET_ACCESS_KEY": "hush"}, 1000
    )
    command = on.as_root(["true"])
    assert command[:2] == ["sudo", "-H"]
    assert "PIP_INDEX_URL" in command[2].partition("=")[2].split(",")
    assert "secret" not in " ".join(command)
    assert "hush" not in " ".join(command)
    assert "AWS_SECRET_ACCESS_KEY" not in " ".join(command)
    assert door.Machine({}, 0).as_root(["true"]) == ["true"]


def test_a_signal_ends_in_the_usual_exit_code(door: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    on = door.Machine(dict(os.environ), 0)
    assert door.run(["sh", "-c", "exit 7"], on) == 7
    assert door.run(["sh", "-c", "kill -KILL $$"], on) == 137
    assert "+ sh -c 'exit 7'" in capfd.readouterr().out


def test_what_is_shown_can_be_typed(door: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(door.ROOT)
    command = [
        str(door.VENV / "bin/ansible-playbook"),
        str(door.ROOT / "playbooks/provision.yml"),
        "-i",
        "inventories/stg",
    ]
    assert door.shown(command) == ".venv/bin/ansible-playbook playbooks/provision.yml -i inventories/stg"
    assert door.shown(door.Machine({}, 1000).as_root(command)).startswith("sudo .venv/bin/ansible-playbook")


def test_an_unknown_bench_is_named(door: ModuleType) -> None:
    with pytest.raises(door.Stop, match="There is no bench convergence"):
        door.bench(["convergence"], door.Machine({}, 0))


def test_ci_calls_the_front_door_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "exec ./spotcache test"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
