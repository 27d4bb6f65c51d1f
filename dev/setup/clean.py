# SPDX-License-Identifier: GPL-3.0-or-later
"""Undoing it: sandboxes, and what was prepared."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from dev.setup import docker, launch, needs, paths, refusals
from dev.setup.machine import Machine, Stop, say
from dev.setup.needs import DEVELOPS, Need
from dev.setup.prepare import prepare


def clean(arguments: Sequence[str], machine: Machine) -> int:
    """Remove every sandbox, also one whose run was killed."""
    unknown = [word for word in arguments if word != "--all"]
    if unknown:
        raise Stop(f"clean does not know {unknown[0]}: say ./spotcache clean, or ./spotcache clean --all.")
    code = 0
    installed = shutil.which("docker", path=machine.path) is not None
    if installed and (paths.SANDBOX_STATE.exists() or (needs.venv_ready(DEVELOPS) and docker.answers(machine))):
        if machine.uid != 0:
            refusals.refuse_without_sudo(machine, "to remove sandboxes")
        prepare(Need(), machine)
        # What a run left is in the daemon's books, so a stopped daemon (after a reboot, say) has to be asked as well.
        docker.start(machine)
        code = launch.python_module("sandbox", ["clean"], machine, root=True)
    else:
        say("No sandbox has run here: nothing to remove.")
    if "--all" in arguments and code == 0:
        launch.hand_back(machine)
        for folder in (paths.VENV, paths.CACHE, paths.ROOT / "build", paths.ROOT / ".ansible"):
            shutil.rmtree(folder, ignore_errors=True)
        say("Removed .venv, .cache and build.")
    return code
