# SPDX-License-Identifier: GPL-3.0-or-later
"""Set-up refuses in one sentence before anything is changed, and prepares only what is needed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dev.setup import docker, launch, needs, paths, prepare, refusals
from dev.setup.machine import Machine, Stop

pytestmark = pytest.mark.usefixtures("checkout")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every command line that the front door starts; nothing is really started."""
    started: list[list[str]] = []

    def run(command: list[str], **rest: Any) -> subprocess.CompletedProcess[str]:
        started.append(list(command))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return started


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


def only_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for programs in the machine's own PATH only, not in this machine's /usr/sbin."""
    monkeypatch.setattr(Machine, "path", property(lambda self: self.environment["PATH"]))


def machine(programs: Path, uid: int = 0, **environment: str) -> Any:
    """A machine whose whole search path is one folder."""
    return Machine({"PATH": str(programs), **environment}, uid)


def test_without_apt_the_missing_program_is_named(programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only_path(monkeypatch)
    with pytest.raises(Stop, match=r"^ssh missing, and this system has no apt-get"):
        prepare.prepare(needs.AWS, machine(programs()))


def test_without_root_and_sudo_it_says_so(programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only_path(monkeypatch)
    with pytest.raises(Stop, match=r"Root's rights are needed to install openssh-client, and there is no sudo here"):
        prepare.prepare(needs.AWS, machine(programs("apt-get"), uid=1000))


def test_a_sudo_that_wants_a_password_is_refused_without_a_terminal(
    programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(monkeypatch)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(subprocess, "run", lambda command, **rest: subprocess.CompletedProcess(command, 1))
    with pytest.raises(Stop, match="sudo wants a password here"):
        prepare.prepare(needs.AWS, machine(programs("apt-get", "sudo"), uid=1000))


def test_a_full_disk_is_refused(programs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    only_path(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda where: types.SimpleNamespace(free=refusals.GIB))
    with pytest.raises(Stop, match=r"has 1\.0 GB free, and 2 GB are needed for the Python environment"):
        prepare.prepare(needs.AWS, machine(programs("apt-get", "ssh")))


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [({"DOCKER_HOST": "tcp://elsewhere:2375"}, "DOCKER_HOST is tcp://elsewhere:2375, .*: unset DOCKER_HOST")],
)
def test_a_remote_docker_is_refused(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(Stop, match=sentence):
        refusals.refuse_without_hosts(Machine({"PATH": os.environ["PATH"], **environment}, 0))


def test_a_small_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "memory_gib", lambda text: 1.9)
    with pytest.raises(Stop, match="less than 4 GB of memory"):
        refusals.refuse_without_hosts(Machine({"PATH": os.environ["PATH"]}, 0))


def test_an_unprivileged_container_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "lacking_capabilities", lambda text, which: ["CAP_SYS_ADMIN"])
    with pytest.raises(Stop, match="Root lacks CAP_SYS_ADMIN here"):
        refusals.refuse_without_hosts(Machine({"PATH": os.environ["PATH"]}, 0))


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Stop, match="runs on Linux, and this is darwin"):
        prepare.prepare(needs.CHECK, Machine(dict(os.environ), 0))


@pytest.mark.parametrize(
    ("effective", "lacking"),
    [
        ("000001ffffffffff", []),
        ("00000000a80425fb", ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]),  # what Docker gives a container
        ("0000000000000000", ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_MKNOD"]),
    ],
)
def test_capabilities_are_read_from_the_kernel(effective: str, lacking: list[str]) -> None:
    status = f"Name:\tx\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\n"
    assert refusals.lacking_capabilities(status, "CapEff") == lacking
    assert refusals.lacking_capabilities(status, "CapBnd") == []


def test_refusing_changes_nothing(
    commands: list[list[str]], programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(monkeypatch)
    monkeypatch.setattr(refusals, "memory_gib", lambda text: 1.0)
    path = programs("apt-get")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Stop):
        prepare.prepare(needs.HOSTS, machine(path))
    assert commands == []
    assert sorted(tmp_path.rglob("*")) == before


def test_check_needs_no_docker_and_aws_needs_only_ssh() -> None:
    assert {tool.program for tool in needs.CHECK.tools} == {
        "redis-cli",
        "redis-check-rdb",
        "php",
        "/usr/share/php/Dotenv/autoload.php",
        "gpg",
        "gpg-agent",
    }
    assert {tool.program for tool in needs.AWS.tools} == {"ssh"}
    assert not needs.CHECK.sandbox
    assert not needs.AWS.sandbox


def test_images_are_made_once_docker_answers(
    commands: list[list[str]], programs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "venv_ready", lambda _pins: True)
    monkeypatch.setattr(refusals, "refuse_unsuitable", lambda *_: None)
    monkeypatch.setattr(docker, "start", lambda _: commands.append(["docker"]))
    prepare.prepare(needs.Need(sandbox=True, laravel=True), machine(programs("ssh")))
    assert [command[-1] for command in commands] == ["docker", "sandbox.image", "dev.sample_app.laravel.image"]
    commands.clear()
    prepare.prepare(needs.Need(sandbox=True), machine(programs("ssh")))
    assert [command[-1] for command in commands] == ["docker", "sandbox.image"]


def test_the_environment_is_made_anew_when_the_pins_change(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("#!/bin/sh\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    assert not needs.venv_ready(needs.RUNS)  # a broken-off installation has no stamp
    paths.STAMP.write_text(needs.fingerprint(needs.RUNS))
    assert needs.venv_ready(needs.RUNS)
    assert not needs.venv_ready(needs.DEVELOPS)
    paths.STAMP.write_text(needs.fingerprint(needs.DEVELOPS))
    # What tests need has all that runs.
    assert needs.venv_ready(needs.RUNS)
    assert needs.venv_ready(needs.DEVELOPS)
    for pins in (needs.RUNS, needs.DEVELOPS):
        (tmp_path / pins).write_text("ansible==2\n")
    assert not needs.venv_ready(needs.RUNS)
    assert not needs.venv_ready(needs.DEVELOPS)


def test_a_second_run_prepares_nothing(
    commands: list[list[str]], programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(monkeypatch)
    monkeypatch.setattr(needs, "venv_ready", lambda _pins: True)
    prepare.prepare(needs.AWS, machine(programs("ssh")))
    assert commands == []


def test_missing_packages_are_installed_before_the_environment_is_made(
    commands: list[list[str]], programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_path(monkeypatch)
    path = programs("apt-get")
    whole = prepare.install_packages

    def install(missing: Any, on: Any) -> None:
        programs("ssh")
        whole(missing, on)

    monkeypatch.setattr(prepare, "install_packages", install)
    monkeypatch.setattr(prepare, "make_venv", lambda _pins, _on: commands.append(["venv"]))
    prepare.prepare(needs.AWS, machine(path))
    assert [command[-2:] for command in commands if "apt-get" in command] == [
        ["Acquire::Retries=3", "update"],
        ["--no-install-recommends", "openssh-client"],
    ]
    assert commands[-1] == ["venv"]


def test_a_root_owned_child_gets_names_not_values() -> None:
    on = Machine(
        {"PATH": "/bin", "PIP_INDEX_URL": "https://user:secret@example.org", "AWS_SECRET_ACCESS_KEY": "hush"}, 1000
    )
    command = on.as_root(["true"])
    assert command[:2] == ["sudo", "-H"]
    assert "PIP_INDEX_URL" in command[2].partition("=")[2].split(",")
    assert "secret" not in " ".join(command)
    assert "hush" not in " ".join(command)
    assert "AWS_SECRET_ACCESS_KEY" not in " ".join(command)
    assert Machine({}, 0).as_root(["true"]) == ["true"]


def test_children_keep_what_they_compile() -> None:
    environment = {"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C"}
    assert "PYTHONDONTWRITEBYTECODE" not in Machine(environment, 0).child_environment()


def test_a_signal_ends_in_the_usual_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    on = Machine(dict(os.environ), 0)
    assert launch.run(["sh", "-c", "exit 7"], on) == 7
    assert launch.run(["sh", "-c", "kill -KILL $$"], on) == 137
    assert "+ sh -c 'exit 7'" in capfd.readouterr().out


def test_what_is_shown_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(paths.ROOT)
    command = [
        str(paths.VENV / "bin/ansible-playbook"),
        str(paths.ROOT / "playbooks/provision.yml"),
        "-i",
        "inventories/stg",
    ]
    assert launch.shown(command) == ".venv/bin/ansible-playbook playbooks/provision.yml -i inventories/stg"
    assert launch.shown(Machine({}, 1000).as_root(command)).startswith("sudo .venv/bin/ansible-playbook")
