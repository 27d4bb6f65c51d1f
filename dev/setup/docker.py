# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker's daemon."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

from dev.setup.machine import Machine, Stop, say, step, ticking

DOCKER_LOG = Path("/var/log/spotcache-dockerd.log")


def answers(machine: Machine) -> bool:
    """Whether a daemon listens."""
    command = machine.as_root(["docker", "version", "--format", "{{.Server.Version}}"])
    return subprocess.run(command, capture_output=True, env=machine.child_environment()).returncode == 0


def lives(pid: str) -> bool:
    """Whether the process still runs; one that ended and waits to be collected has no command line any more."""
    with contextlib.suppress(OSError):
        return bool(Path("/proc", pid, "cmdline").read_bytes())
    return False


def start(machine: Machine) -> None:
    """Docker's daemon, by systemd where that runs, else by hand."""
    if answers(machine):
        return
    pid = "self"
    if Path("/run/systemd/system").is_dir():
        why = "journalctl -u docker says why"
        step("Docker daemon", machine.as_root(["systemctl", "start", "docker"]), machine, why)
    else:
        why = f"{DOCKER_LOG} says why"
        say(f"  Starting dockerd by hand, since no systemd runs here (log: {DOCKER_LOG}).")
        script = f"setsid dockerd >>{DOCKER_LOG} 2>&1 </dev/null & echo $!"
        command = machine.as_root(["sh", "-c", script])
        started = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=machine.child_environment()
        )
        pid = started.stdout.strip()
    with ticking("Docker daemon answers"):
        for _ in range(120):
            if answers(machine):
                return
            if not lives(pid):
                break
            time.sleep(0.5)
    raise Stop(f"Docker's daemon does not run: {why}; mend that and run it again.")
