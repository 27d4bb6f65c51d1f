# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the real tool: what the front door ends in."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from dev.setup import paths
from dev.setup.machine import Machine, say


def shown(command: Sequence[str]) -> str:
    """The command line as a person would type it in this folder."""
    at = next((index for index, word in enumerate(command) if word.startswith(str(paths.VENV))), 0)
    sudo = "sudo " if command[0] == "sudo" else ""
    words = [os.path.relpath(word) if word.startswith(f"{paths.ROOT}/") else word for word in command[at:]]
    return sudo + shlex.join(words)


def run(command: Sequence[str], machine: Machine, root: bool = False, cwd: Path | None = None) -> int:
    """Run the real tool, print its command line, pass signals on, and hand back its exit code."""
    whole = machine.as_root(command) if root else list(command)
    say(f"+ {shown(whole)}")
    child = subprocess.Popen(whole, cwd=cwd, env=machine.child_environment())

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        # Ctrl-C reaches the child by itself (same process group); its own cleaning up must be waited for.
        if number != signal.SIGINT:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if root:
            hand_back(machine)
    return code if code >= 0 else 128 - code


def hand_back(machine: Machine) -> None:
    """What root wrote into the checkout belongs to its owner again."""
    owner = paths.ROOT.stat()
    if machine.uid != 0 and owner.st_uid != 0:
        find = ["find", str(paths.ROOT), "-xdev", "-user", "root"]
        find += ["-exec", "chown", "-h", f"{owner.st_uid}:{owner.st_gid}", "{}", "+"]
        subprocess.run(machine.as_root(find), env=machine.child_environment())


def python_module(name: str, arguments: Sequence[str], machine: Machine, root: bool) -> int:
    """One of the project's programs, in the virtual environment and from the checkout's top."""
    return run([paths.program("python"), "-m", name, *arguments], machine, root=root, cwd=paths.ROOT)
