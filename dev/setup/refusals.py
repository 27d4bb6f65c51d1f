# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold before any change: one sentence says what stands in the way, and the fix."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dev.setup import needs, paths
from dev.setup.machine import Machine, Stop
from dev.setup.needs import Need, Tool

GIB = 1024**3
# Capabilities a sandbox cannot do without, by their bit in /proc/self/status: mount, make device nodes, shape networks.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27}


def refuse_unsuitable(need: Need, machine: Machine, missing: Sequence[Tool]) -> None:
    """Say in one sentence what stands in the way. Looks only; nothing is changed before this has passed."""
    if not sys.platform.startswith("linux"):
        raise Stop(
            f"spotcache runs on Linux, and this is {sys.platform}: use a Debian or Ubuntu machine or virtual machine."
        )
    if missing and shutil.which("apt-get", path=machine.path) is None:
        programs = ", ".join(tool.program for tool in missing)
        raise Stop(
            f"{programs} missing, and this system has no apt-get to bring it: install it, or use Debian or Ubuntu."
        )
    if (missing or need.sandbox) and machine.uid != 0:
        refuse_without_sudo(
            machine, "to rehearse EC2 hosts" if need.sandbox else f"to install {missing[0].packages[0]}"
        )
    if need.python and not needs.venv_ready(need.python):
        refuse_full_disk(paths.ROOT, 2, "the Python environment")
    if need.sandbox:
        refuse_without_hosts(machine)


def refuse_without_sudo(machine: Machine, purpose: str) -> None:
    """Root's rights are needed."""
    if shutil.which("sudo", path=machine.path) is None:
        raise Stop(f"Root's rights are needed {purpose}, and there is no sudo here: run the same command as root.")
    # Without a terminal sudo cannot ask for a password, and would fail in the middle of the work.
    if not sys.stdin.isatty() and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode != 0:
        raise Stop(
            f"Root's rights are needed {purpose}, and sudo wants a password here: run it in a terminal, or as root."
        )


def refuse_without_hosts(machine: Machine) -> None:
    """What rehearsed EC2 hosts ask of a machine."""
    docker_host = machine.environment.get("DOCKER_HOST", "")
    if docker_host and not docker_host.startswith("unix://"):
        raise Stop(
            f"DOCKER_HOST is {docker_host}, and the sandbox needs the Docker daemon of this machine: unset DOCKER_HOST."
        )
    if (
        not Path("/dev/loop-control").exists()
        and not Path("/sys/module/loop").exists()
        and shutil.which("modprobe", path=machine.path) is None
    ):
        raise Stop(
            "The loop devices that hold the sandbox's volumes are missing (/dev/loop-control): "
            "run modprobe loop, or use a virtual machine."
        )
    # What sudo can give is bounded by the same set that bounds this process.
    lacking = lacking_capabilities(Path("/proc/self/status").read_text(), "CapEff" if machine.uid == 0 else "CapBnd")
    if lacking:
        raise Stop(
            f"Root lacks {', '.join(lacking)} here, as in an unprivileged container: "
            "use a virtual machine, or docker run --privileged."
        )
    if memory_gib(Path("/proc/meminfo").read_text()) < 3:
        raise Stop("This machine has less than 4 GB of memory, too little for rehearsed hosts: use a larger one.")
    refuse_full_disk(
        Path("/var/lib"), 8 if not paths.SANDBOX_STATE.exists() else 3, "the host image and the sandbox's volumes"
    )


def lacking_capabilities(status: str, which: str) -> list[str]:
    """Which of CAPABILITIES are not in the set `which`, from the text of /proc/self/status."""
    held = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith(f"{which}:")), 0)
    return [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]


def memory_gib(meminfo: str) -> float:
    """The machine's memory, from the text of /proc/meminfo."""
    return next((int(line.split()[1]) / 1024**2 for line in meminfo.splitlines() if line.startswith("MemTotal:")), 0.0)


def refuse_full_disk(where: Path, gib: int, purpose: str) -> None:
    """Room is checked before it is needed."""
    free = shutil.disk_usage(where).free / GIB
    if free < gib:
        raise Stop(
            f"{where} has {free:.1f} GB free, and {gib} GB are needed for {purpose}: free some space and run it again."
        )
