"""The data volume of a host that boots: the one its predecessor left, or the blank one it was launched with."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.aws.settle import found
from spotcache_keeper.aws.volumes import Volumes
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.outside import Outside
from spotcache_keeper.system.commands import Commands, run_command
from spotcache_keeper.system.files import readable_errors, write_atomically

_TIMEOUT = 120.0
_FSTAB = Path("/etc/fstab")


@dataclass
class Disks:
    """EBS volumes of this host, and its mount point.

    Attributes:
        ctx: the host's parts.
        outside: the ways out of it.
        run: runs mount, mkfs and the like.
        fstab: the table of filesystems.
        sleep: waits that many seconds.
    """

    ctx: Context
    outside: Outside
    run: Commands = run_command
    fstab: Path = _FSTAB
    sleep: Callable[[float], None] = time.sleep

    def own(self) -> str:
        """Id of the volume this host was launched with; empty when it has none.

        Raises:
            AwsError: EC2 does not say.
        """
        # It is as new as the host: EC2 may not know it yet.
        return found(self._own, self.sleep)

    def _own(self) -> str:
        me = self.ctx.machine.identity().instance_id
        return self._volumes.attached_to(me).get(self.ctx.config.data_device, "")

    def kept(self, volume_id: str) -> str:
        """Why a predecessor's volume cannot be taken over; empty when it can."""
        if not volume_id:
            return "the host before had no data volume"
        try:
            volume = self._volumes.described(volume_id)
        except AwsError as error:
            return str(error)
        if volume is None:
            return f"the volume {volume_id} of the host before is gone"
        here, there = self.ctx.machine.identity().zone, volume["AvailabilityZone"]
        if there != here:
            return f"the volume {volume_id} of the host before is in {there}, and this host in {here}"
        return self._in_use(volume)

    def _in_use(self, volume: dict[str, Any]) -> str:
        """Which host keeps a volume since it runs; empty when none does. EC2 lets go of one only when its host ends."""
        me = self.ctx.machine.identity().instance_id
        holders = {str(one["InstanceId"]) for one in volume.get("Attachments", [])} - {me}
        if not holders:
            return ""
        try:
            with aws_errors(f"looking at {', '.join(sorted(holders))}"):
                found = self.outside.client("ec2").describe_instances(InstanceIds=sorted(holders))["Reservations"]
        except AwsError:
            # It is waited for, as long as a volume may take.
            return ""
        running = [
            str(item["InstanceId"])
            for reservation in found
            for item in reservation["Instances"]
            if item["State"]["Name"] in ("pending", "running")
        ]
        return (
            f"the volume {volume['VolumeId']} of the host before stays with {running[0]}, which runs" if running else ""
        )

    def change_to(self, volume_id: str, instead_of: str) -> None:
        """Attach a volume in the place of another one, which stays for whoever wants it.

        Raises:
            KeeperError: EC2 does not do it in time.
        """
        me, device = self.ctx.machine.identity().instance_id, self.ctx.config.data_device
        self._volumes.wait(volume_id, "available")
        if instead_of:
            self._volumes.change("detaching", instead_of, "detach_volume", InstanceId=me)
            self._volumes.wait(instead_of, "available")
        self._volumes.attach(volume_id, me, device)

    def mount(self, volume_id: str, *, blank_allowed: bool) -> None:
        """Mount a volume as the data volume; a blank one gets a filesystem first.

        Raises:
            KeeperError: it is blank and must not be, or it cannot be mounted.
        """
        config = self.ctx.config
        device = self.ctx.machine.wait_for_volume(volume_id, config.timeouts.volume)
        found = self.run(["blkid", "-p", "-o", "export", str(device)], timeout=_TIMEOUT)
        holds = dict(line.split("=", 1) for line in found.stdout.splitlines() if "=" in line)
        kind = holds.get("TYPE", "")
        # blkid ends with 2 when it finds nothing; whatever else it says, nothing is known about the device.
        if not kind and found.returncode != 2:
            raise KeeperError(f"nobody can tell what {volume_id} holds: {found.complaint}")
        if not kind:
            if not blank_allowed:
                raise KeeperError(f"{volume_id} holds no filesystem")
            kind = config.volume_filesystem
            label = config.volume_labels[kind]
            self._must([f"mkfs.{kind}", "-L", label, str(device)], f"making a filesystem on {volume_id}")
        elif holds.get("LABEL", "") != config.volume_labels.get(kind):
            # It would be mounted now and not found at the next boot.
            wanted = " or ".join(f"{name} labelled {label}" for name, label in sorted(config.volume_labels.items()))
            raise KeeperError(f"{volume_id} holds {kind} labelled {holds.get('LABEL', '')!r}, and no {wanted}")
        with readable_errors(f"making {config.volume_path}"):
            config.volume_path.mkdir(mode=0o755, parents=True, exist_ok=True)
        options = ",".join(
            option
            for option in config.mount_options[kind].split(",")
            if option != "nofail" and not option.startswith("x-")
        )
        self._save_state(kind)
        self._must(
            ["mount", "-t", kind, "-o", options or "defaults", str(device), str(config.volume_path)],
            f"mounting {volume_id}",
        )
        self.make_directories()

    def unmount(self) -> None:
        """Undo `mount`, as far as it came."""
        if self.ctx.machine.is_mounted(self.ctx.config.volume_path):
            self._must(["umount", str(self.ctx.config.volume_path)], "unmounting the data volume")

    def _save_state(self, kind: str) -> None:
        """Have it mounted at every further boot, with the line that provision writes as well."""
        config = self.ctx.config
        options = config.mount_options[kind]
        line = f"LABEL={config.volume_labels[kind]} {config.volume_path} {kind} {options} 0 0"
        with readable_errors(f"writing {self.fstab}"):
            lines = self.fstab.read_text(encoding="utf-8").splitlines() if self.fstab.exists() else []
            # One line for the mount point: that of another filesystem would be waited for at the next boot, in vain.
            others = [text for text in lines if text.split()[1:2] != [str(config.volume_path)] or text.startswith("#")]
            if lines != (wanted := [*others, line]):
                write_atomically(self.fstab, "".join(f"{text}\n" for text in wanted))
                self.fstab.chmod(0o644)

    def make_directories(self) -> None:
        """What provision makes on a blank volume; files that belonged to another Redis' user become this one's."""
        config = self.ctx.config
        owner = config.redis_uid, config.redis_gid
        with readable_errors(f"making {config.redis_directory}"):
            if not config.redis_directory.exists():
                config.redis_directory.mkdir(mode=0o700)
                self.ctx.machine.give(config.redis_directory, *owner)
            elif self.ctx.machine.owner(config.redis_directory) != owner:
                # The directory last: a run that is killed begins again.
                for path in (*config.redis_directory.rglob("*"), config.redis_directory):
                    self.ctx.machine.give(path, *owner)

    def _must(self, argv: list[str], doing: str) -> None:
        """Run a program that must work."""
        done = self.run(argv, timeout=_TIMEOUT)
        if done.returncode != 0:
            raise KeeperError(f"{doing}: {done.complaint}")

    @property
    def _volumes(self) -> Volumes:
        """EC2's calls about volumes."""
        return Volumes(lambda: self.outside.client("ec2"), self.ctx.config.timeouts.volume, self.sleep)
