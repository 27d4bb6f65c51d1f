# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing what a verb needs and this machine lacks."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dev.setup import docker, needs, paths, refusals
from dev.setup.machine import Machine, Stop, say, step
from dev.setup.needs import REDIS, Need, Tool, fingerprint


def prepare(need: Need, machine: Machine) -> None:
    """Bring what is missing. What is there already costs no more than a look."""
    missing = needs.missing_tools(need, machine)
    refusals.refuse_unsuitable(need, machine, missing)
    if not need.python and not missing and not need.sandbox:
        return
    with one_setup_at_a_time():
        if missing:
            install_packages(missing, machine)
        if need.python and not needs.venv_ready(need.python):
            make_venv(need.python, machine)
        if any(tool in need.tools for tool in REDIS):
            link_redis_server(machine)
        if need.sandbox:
            if machine.uid != 0:
                say("Root's rights are needed to rehearse EC2 hosts: sudo is used.")
            docker.start(machine)
            make_image("sandbox.image", "host image", machine)
            if need.laravel:
                make_image("dev.sample_app.laravel.image", "image of the Laravel application", machine)


@contextlib.contextmanager
def one_setup_at_a_time() -> Iterator[None]:
    """Two runs in one checkout must not build the same environment at once."""
    paths.CACHE.mkdir(exist_ok=True)
    with (paths.CACHE / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another run's set-up in this folder ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install_packages(missing: Sequence[Tool], machine: Machine) -> None:
    """Debian packages, without what they merely recommend."""
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    apt += ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    if machine.uid != 0:
        say("  sudo is used to install packages.")
    # One unreachable source of many is no reason to stop; installing says what is really missing.
    with contextlib.suppress(Stop):
        step("Package lists", machine.as_root([*apt, "update"]), machine, "")
    names = sorted({available(tool, machine) for tool in missing})
    step(
        f"Packages {' '.join(names)}",
        machine.as_root([*apt, "install", "-y", "--no-install-recommends", *names]),
        machine,
        "apt-get could not install them; put the package sources in order and run it again",
    )
    still = [tool for tool in missing if not tool.present(machine.path)]
    if still:
        raise Stop(f"{still[0].program} is still missing after installing {' '.join(names)}: install it by hand.")


def available(tool: Tool, machine: Machine) -> str:
    """The first of the tool's packages that this release has."""
    for name in tool.packages:
        shown = subprocess.run(["apt-cache", "show", name], capture_output=True, env=machine.child_environment())
        if shown.returncode == 0:
            return name
    return tool.packages[-1]


def make_venv(pins: str, machine: Machine) -> None:
    """The virtual environment, from the pins; the stamp comes last, so that a broken-off one is made anew."""
    shutil.rmtree(paths.VENV, ignore_errors=True)
    venv = [sys.executable, "-m", "venv", str(paths.VENV)]
    step("Python environment", venv, machine, "python3 -m venv does not work here")
    pip = [paths.program("python"), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    # Compiling 30,000 files of which a run needs 500 costs more than it ever gives back.
    pip += ["--no-compile", "--require-hashes", "-r", str(paths.ROOT / pins)]
    about = "Python packages (Ansible and its collections, 350 to 600 MB)"
    step(about, pip, machine, "is the package index reachable?")
    paths.STAMP.write_text(fingerprint(pins))


def link_redis_server(machine: Machine) -> None:
    """A redis-server for the unit tests, which start their own; no daemon is installed."""
    own = paths.VENV / "bin" / "redis-server"
    if shutil.which("redis-server", path=machine.path) is None:
        checker = shutil.which("redis-check-rdb", path=machine.path)
        if checker is None:
            raise Stop("redis-check-rdb is missing: apt-get install redis-tools")
        own.unlink(missing_ok=True)
        own.symlink_to(Path(checker).resolve())


def make_image(builder: str, what: str, machine: Machine) -> None:
    """An image that rehearsals start from; the builder itself knows whether there is one already."""
    command = machine.as_root([paths.program("python"), "-m", builder])
    code = subprocess.run(command, cwd=paths.ROOT, env=machine.child_environment()).returncode
    if code:
        raise Stop(f"The {what} could not be built: the lines above say why; mend that and run it again.")
