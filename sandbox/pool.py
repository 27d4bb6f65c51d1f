"""Block devices with real bytes: volumes, snapshots and the hosts' /var/lib/docker as files of one XFS pool.

A reflink copy inside XFS is a point in time, takes milliseconds whatever the size, and needs no quiet source:
exactly what an EBS snapshot promises.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.paths import ROOT, Home
from sandbox.shell import run

GIB = 1024**3
POOL_GIB = 200  # sparse: only what hosts write is ever used
DOCKER_DISK_GIB = 20


@contextmanager
def loop_lock() -> Iterator[None]:
    """Let one process of this machine take a loop device at a time."""
    # `losetup -f` looks for a free device and takes it in two steps: two sandboxes must not do so at once.
    ROOT.mkdir(parents=True, exist_ok=True)
    with open(ROOT / "losetup.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def loops_of(directory: Path) -> dict[str, Path]:
    """Loop devices whose backing file lies under the directory: device -> file (also files already deleted)."""
    listing = run("losetup", "--json", "--list", "--output", "NAME,BACK-FILE")
    devices = json.loads(listing)["loopdevices"] if listing else []
    found = {}
    for device in devices:
        backing = Path(str(device["back-file"]).removesuffix(" (deleted)"))
        if directory in backing.parents:
            found[str(device["name"])] = backing
    return found


class Pool:
    """The files behind one sandbox's volumes and snapshots."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def open(self) -> None:
        """Make the pool where there is none, and mount it."""
        self.home.pool.mkdir(parents=True, exist_ok=True)
        if os.path.ismount(self.home.pool):
            return
        if not self.home.pool_image.exists():
            with open(self.home.pool_image, "wb") as image:
                image.truncate(POOL_GIB * GIB)
            run("mkfs.xfs", "-q", "-m", "reflink=1", str(self.home.pool_image))
        with loop_lock():
            run("mount", "-o", "loop,discard,noatime", str(self.home.pool_image), str(self.home.pool))
        blank = self.home.pool / "docker-blank.img"
        if not blank.exists():
            with open(blank, "wb") as image:
                image.truncate(DOCKER_DISK_GIB * GIB)
            # Lazy tables: a host's disk is there in milliseconds; no journal: the disk dies with its host.
            options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
            run("mkfs.ext4", "-q", "-F", "-E", options, "-O", "^has_journal", str(blank))

    def file(self, object_id: str) -> Path:
        """The file behind a volume or a snapshot."""
        return self.home.pool / f"{object_id}.img"

    def ensure(self, volume_id: str, size_gib: int) -> Path:
        """The volume's file, made blank and sparse at its first use."""
        path = self.file(volume_id)
        if not path.exists():
            with open(path, "wb") as image:
                image.truncate(size_gib * GIB)
        return path

    def clone(self, source: Path, target: Path, size_gib: int | None = None) -> None:
        """A point-in-time copy that shares its blocks with the source; grown to the size given."""
        run("cp", "--reflink=always", str(source), str(target))
        if size_gib is not None and target.stat().st_size < size_gib * GIB:
            os.truncate(target, size_gib * GIB)

    def forget(self, object_id: str) -> None:
        """Remove the file of a volume or a snapshot."""
        self.file(object_id).unlink(missing_ok=True)

    def loop_up(self, path: Path) -> int:
        """Attach a file to a loop device and return the device's minor number."""
        with loop_lock():
            return int(run("losetup", "--find", "--show", str(path)).removeprefix("/dev/loop"))

    @staticmethod
    def loop_down(minor: int) -> None:
        """Detach a loop device; one that is still mounted somewhere goes with its last user."""
        run("losetup", "--detach", f"/dev/loop{minor}", check=False)

    def docker_disk(self, instance_id: str, source: Path | None = None) -> Path:
        """A mounted /var/lib/docker for one host: blank, or a clone of an AMI's. Returns the mount point."""
        image = self.file(f"docker-{instance_id}")
        self.clone(source or self.home.pool / "docker-blank.img", image)
        mount = self.home.hosts / instance_id / "docker"
        mount.mkdir(parents=True, exist_ok=True)
        with loop_lock():
            run("mount", "-o", "loop,noatime", str(image), str(mount))
        return mount

    def drop_docker_disk(self, instance_id: str) -> None:
        """Give back a host's /var/lib/docker."""
        mount = self.home.hosts / instance_id / "docker"
        if os.path.ismount(mount):
            run("umount", "-l", str(mount), check=False)
        self.file(f"docker-{instance_id}").unlink(missing_ok=True)
