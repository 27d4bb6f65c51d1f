"""The host itself: who it is, which EBS volume carries the data, and mounting another one for a moment."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spotcache_keeper.aws.imds import Imds, ImdsError
from spotcache_keeper.errors import DamagedError, KeeperError
from spotcache_keeper.system.commands import Commands

# The link udev makes from the NVMe controller's serial number, which is the volume's id without its dash.
_LINK_PREFIX = "nvme-Amazon_Elastic_Block_Store_vol"
_LINK = re.compile(_LINK_PREFIX + r"([0-9a-f]{8,17})(?:[-_].*)?$")
_MOUNT_TIMEOUT = 120.0


@dataclass(frozen=True)
class Identity:
    """Which host this is.

    Attributes:
        instance_id: EC2's id; the host name where the metadata service does not answer.
        zone: availability zone; empty where it does not.
    """

    instance_id: str
    zone: str


class Machine(Protocol):
    """What the keeper needs of the host besides files."""

    def identity(self) -> Identity:
        """Who this host is; never fails."""

    def is_mounted(self, path: Path) -> bool:
        """Whether a filesystem of its own is mounted there."""

    def volume_id(self, path: Path) -> str:
        """Id of the EBS volume mounted there.

        Raises:
            KeeperError: none is.
        """

    def wait_for_volume(self, volume_id: str, timeout: float) -> Path:
        """The device of an attached volume, once it is there.

        Raises:
            KeeperError: the time is over.
        """

    def mounted(self, device: Path) -> AbstractContextManager[Path]:
        """A device's filesystem, readable; unmounted afterwards."""

    def unmount_left_overs(self) -> None:
        """Unmount what a killed run left mounted."""

    def give(self, path: Path, uid: int, gid: int) -> None:
        """Make a file or directory somebody's own."""

    def owner(self, path: Path) -> tuple[int, int]:
        """Whose a file or directory is, user and group by number."""


def metadata(path: str, base: str | None = None, timeout: float = 2.0) -> str:
    """One value of the instance metadata service, version 2 (Amazon EC2 User Guide, "Use IMDSv2").

    Args:
        path: below `/latest/meta-data/`.
        base: address of the service; see `Imds`.
        timeout: seconds for each of the two requests.

    Raises:
        OSError: it does not answer, or has no such value.
    """
    answer = Imds(base, timeout, ttl=60).get(path)
    if answer is None:
        raise ImdsError(f"the metadata service has no {path} (404)")
    return answer.text


class LinuxMachine:
    """`Machine` on a real host.

    Args:
        run: runs mount and the like.
        links: where udev keeps its links to disks.
        mounts: where filesystems are mounted for a moment.
        read_metadata: reads one value of the metadata service.
    """

    def __init__(
        self,
        run: Commands,
        links: Path = Path("/dev/disk/by-id"),
        mounts: Path = Path("/run/spotcache-keeper"),
        read_metadata: Callable[[str], str] = metadata,
    ) -> None:
        self._run = run
        self._links = links
        self._mounts = mounts
        self._read_metadata = read_metadata
        self._identity: Identity | None = None

    def identity(self) -> Identity:
        """See `Machine`. Once known it is not asked for again: a host stays who it is."""
        if self._identity is None:
            try:
                self._identity = Identity(
                    self._read_metadata("instance-id"), self._read_metadata("placement/availability-zone")
                )
            except OSError:
                return Identity(socket.gethostname(), "")
        return self._identity

    def is_mounted(self, path: Path) -> bool:
        """See `Machine`."""
        return path.is_mount()

    def volume_id(self, path: Path) -> str:
        """See `Machine`.

        The mounted device's number is compared with that of every link: names such as /dev/nvme1n1 change by boot.
        """
        number = path.stat().st_dev
        for link in sorted(self._links.glob(f"{_LINK_PREFIX}*")):
            match = _LINK.match(link.name)
            try:
                found = link.stat().st_rdev
            except OSError:
                continue
            if match and found == number:
                return f"vol-{match.group(1)}"
        raise KeeperError(
            f"{path} is not on an EBS volume: none of {self._links}/{_LINK_PREFIX}* is its device; "
            "set ebs_snapshots to false to do without EBS snapshots"
        )

    def wait_for_volume(self, volume_id: str, timeout: float) -> Path:
        """See `Machine`."""
        link = self._links / f"{_LINK_PREFIX}{volume_id.removeprefix('vol-')}"
        deadline = time.monotonic() + timeout
        while not link.exists():
            if time.monotonic() >= deadline:
                raise KeeperError(f"{volume_id} is attached, but {link} did not appear within {timeout:.0f} s")
            time.sleep(0.2)
        return link.resolve()

    @contextmanager
    def mounted(self, device: Path) -> Iterator[Path]:
        """See `Machine`."""
        kind = self._run(["blkid", "-p", "-o", "value", "-s", "TYPE", str(device)], timeout=_MOUNT_TIMEOUT)
        filesystem = kind.stdout.strip()
        if kind.returncode != 0 or not filesystem:
            raise DamagedError(f"the EBS snapshot holds no filesystem ({device}: {kind.complaint})")
        # The copy has the UUID of the volume it was made from, which may be mounted; xfs minds that, ext4 does not.
        options = "ro,nodev,nosuid,noexec" + (",nouuid" if filesystem == "xfs" else "")
        target = self._mounts / device.name
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = self._run(["mount", "-t", filesystem, "-o", options, str(device), str(target)], timeout=_MOUNT_TIMEOUT)
        if done.returncode != 0:
            raise DamagedError(f"the EBS snapshot's filesystem cannot be mounted: {done.complaint}")
        try:
            yield target
        finally:
            self._unmount(target)

    def unmount_left_overs(self) -> None:
        """See `Machine`."""
        if self._mounts.is_dir():
            for target in self._mounts.iterdir():
                if target.is_mount():
                    self._unmount(target)

    def give(self, path: Path, uid: int, gid: int) -> None:
        """See `Machine`."""
        os.chown(path, uid, gid, follow_symlinks=False)

    def owner(self, path: Path) -> tuple[int, int]:
        """See `Machine`."""
        status = path.lstat()
        return status.st_uid, status.st_gid

    def _unmount(self, target: Path) -> None:
        """Unmount one of our own mounts."""
        done = self._run(["umount", str(target)], timeout=_MOUNT_TIMEOUT)
        if done.returncode != 0:
            raise KeeperError(f"{target} cannot be unmounted: {done.complaint}")
        target.rmdir()
