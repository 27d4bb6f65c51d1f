"""Removing a sandbox by its marks alone: Docker labels, iptables comments, its directory. Also after a kill -9."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import docker
from docker.errors import APIError, NotFound

from sandbox import container, imds
from sandbox.paths import LABEL, ROOT, Home, known
from sandbox.pool import Pool, loops_of
from sandbox.shell import run

OF_A_POOL = re.compile(r"^/(vol|docker-i|root-i)-[0-9a-f]{17}\.img$")


def process_of(home: Home) -> int | None:
    """The pid of the sandbox's process, when it is alive and really is one."""
    try:
        pid = int(json.loads(home.state.read_text())["pid"])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, KeyError):
        return None
    return pid if b"sandbox" in command and home.name.encode() in command else None


def end_process(home: Home, patience_s: float = 10) -> None:
    """Ask the sandbox's process to end, then make it."""
    pid = process_of(home)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while process_of(home) is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    if process_of(home) is not None:
        os.kill(pid, signal.SIGKILL)


def mounts_under(directory: Path) -> list[str]:
    """Mount points below a directory, innermost first."""
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((p for p in points if Path(p).is_relative_to(directory)), key=len, reverse=True)


def orphans() -> list[str]:
    """Loop devices that hold a file of a pool which is mounted no more: the kernel shows the path inside the pool."""
    return [device for device, file in loops_of(Path("/")).items() if OF_A_POOL.match(str(file))]


def remove(home: Home) -> None:
    """Remove everything that a sandbox made on this machine."""
    end_process(home)
    client = docker.from_env(timeout=120)
    mark = {"label": f"{LABEL}={home.name}"}
    for host in client.containers.list(all=True, filters=mark, ignore_removed=True):
        container.remove_host(client, host)
    for network in client.networks.list(filters=mark):
        try:
            network.remove()
        except (NotFound, APIError) as error:
            raise RuntimeError(f"Docker network {network.name} cannot be removed: {error}") from error
    for volume in client.volumes.list(filters=mark):
        volume.remove(force=True)
    for image in client.images.list(filters={"label": f"{LABEL}.image={home.name}"}):
        client.images.remove(image.id, force=True)
    imds.remove_rules(home.comment)
    for point in mounts_under(home.hosts):
        run("umount", "-l", point, check=False)
    # Before the pool is unmounted: afterwards a device no longer tells whose file it holds, and it holds the pool.
    for _round in ("the volumes", "the pool itself"):
        for device in loops_of(home.directory):
            Pool.loop_down(int(device.removeprefix("/dev/loop")))
        for point in mounts_under(home.directory):
            run("umount", "-l", point, check=False)
    shutil.rmtree(home.directory, ignore_errors=True)
    home.lock.unlink(missing_ok=True)


def remove_all() -> list[str]:
    """Remove every sandbox of this machine, also those whose directory is gone. Returns their names."""
    client = docker.from_env(timeout=120)
    names = {home.name for home in known()}
    for host in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        names.add(host.labels[LABEL])
    for network in client.networks.list(filters={"label": LABEL}):
        names.add(network.attrs["Labels"][LABEL])
    for volume in client.volumes.list(filters={"label": LABEL}):
        names.add(volume.attrs["Labels"][LABEL])
    for name in sorted(names):
        remove(Home(name))
    imds.remove_rules(LABEL)
    for device in orphans():
        Pool.loop_down(int(device.removeprefix("/dev/loop")))
    shutil.rmtree(ROOT, ignore_errors=True)
    return sorted(names)
