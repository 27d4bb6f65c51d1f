# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine: how a child is started on it, with which rights, and how long it takes."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dev.setup import paths

# What a child run by sudo keeps of the caller's environment. Names only: no value ever stands in a command line.
KEPT_PREFIXES = ("PIP_", "SPOTCACHE_", "ANSIBLE_", "MOLECULE_", "PYTEST_", "LC_")
KEPT_NAMES = {"CI", "TERM", "LANG", "NO_COLOR", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"} | {
    name for proxy in ("http_proxy", "https_proxy", "no_proxy") for name in (proxy, proxy.upper())
}

UNWRITTEN = "PYTHONDONTWRITEBYTECODE"


class Stop(Exception):
    """A sentence for the person at the keyboard: what is wrong, and the fix."""


@dataclass(frozen=True)
class Machine:
    """This machine, as far as set-up must know it."""

    environment: Mapping[str, str]
    uid: int

    @property
    def path(self) -> str:
        """The search path of every child: the virtual environment first, then what only root's path usually has."""
        return os.pathsep.join(
            [str(paths.VENV / "bin"), self.environment.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
        )

    def child_environment(self) -> dict[str, str]:
        """The environment of every child."""
        own = {"PATH": self.path, "VIRTUAL_ENV": str(paths.VENV), "PYTHONPATH": str(paths.ROOT)}
        own["PYTHONUNBUFFERED"] = "1"
        # Named outright: Ansible ignores the configuration of a world-writable directory (a shared folder, say).
        own["ANSIBLE_CONFIG"] = self.environment.get("ANSIBLE_CONFIG", str(paths.ROOT / "ansible.cfg"))
        # Thousands of processes import the same packages: what one has compiled, the next one is to find.
        return {**{name: value for name, value in self.environment.items() if name != UNWRITTEN}, **own}

    def as_root(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` as root, with what it needs of the environment."""
        if self.uid == 0:
            return list(command)
        environment = self.child_environment()
        kept = sorted(name for name in environment if name in KEPT_NAMES or name.startswith(KEPT_PREFIXES))
        given = [f"{name}={environment[name]}" for name in ("PATH", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONUNBUFFERED")]
        return ["sudo", "-H", f"--preserve-env={','.join(kept)}", "env", *given, *command]


def say(text: str) -> None:
    """One line for the person."""
    print(text, flush=True)


@contextlib.contextmanager
def ticking(title: str) -> Iterator[None]:
    """Show that a long step lives: a running clock in a terminal, a line every 15 seconds in a log."""
    started, done, terminal = time.monotonic(), threading.Event(), sys.stdout.isatty()

    def tick() -> None:
        while not done.wait(1 if terminal else 15):
            seconds = time.monotonic() - started
            print(
                f"\r  {title} ... {seconds:.0f} s" if terminal else f"  {title} ... {seconds:.0f} s",
                end="" if terminal else "\n",
                flush=True,
            )

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        yield
    finally:
        done.set()
        clock.join()
        print(f"{chr(13) if terminal else ''}  {title}: {time.monotonic() - started:.0f} s", flush=True)


def step(title: str, command: Sequence[str], machine: Machine, fix: str) -> None:
    """Run one step of the set-up quietly; its output goes to a log, whose end is shown when the step fails."""
    log = paths.CACHE / "setup.log"
    with log.open("a") as out, ticking(title):
        out.write(f"+ {shlex.join(command)}\n")
        out.flush()
        code = subprocess.run(
            command, stdin=None, stdout=out, stderr=subprocess.STDOUT, env=machine.child_environment()
        ).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Stop(f"{title} failed: {fix} (whole log: {log})\n{tail}")
