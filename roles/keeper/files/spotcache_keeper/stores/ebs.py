"""EBS snapshots of the data volume, each holding the backup it was made for."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.aws.machine import Machine
from spotcache_keeper.aws.settle import known
from spotcache_keeper.aws.volumes import Volumes
from spotcache_keeper.errors import DamagedError, KeeperError
from spotcache_keeper.stores.base import StoreBusyError
from spotcache_keeper.stores.local import check_free_space
from spotcache_keeper.stores.manifest import MANIFEST_NAME, RDB_NAME, Manifest
from spotcache_keeper.stores.snapshots import (
    GONE,
    TAG_BACKUP,
    TAG_BYTES,
    TAG_ENVIRONMENT,
    TAG_HOST,
    TAG_KEYS,
    TAG_REASON,
    TAG_TEMPORARY,
    TAG_TERM,
    TAG_VERIFIED,
    Snapshots,
)
from spotcache_keeper.stores.source import Source
from spotcache_keeper.system.files import readable_errors, sync

# One snapshot per 15 s and five pending ones per volume is all EBS takes ("Create Amazon EBS snapshots").
_TOO_MANY = {
    "SnapshotCreationPerVolumeRateExceeded": "the last one was asked for less than 15 s ago",
    "ConcurrentSnapshotLimitExceeded": "five are still pending",
}
# What a copy may take beside the RDB itself.
_MARGIN_BYTES = 16 * 1024 * 1024
_DEVICES = tuple(f"/dev/sd{letter}" for letter in "fghijklmnop")


class EbsStore(Snapshots):
    """EBS snapshots of one environment, as a host takes and reads them.

    Args:
        client: makes the SDK's EC2 client when it is first needed.
        environment: whose snapshots.
        volume: where the data volume is mounted.
        backups: the directory of the backups on it.
        machine: the host, to attach and mount at.
        timeout: seconds for EC2 to make, attach or detach a volume.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        client: Callable[[], Any],
        environment: str,
        volume: Path,
        backups: Path,
        machine: Machine,
        timeout: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(client, environment)
        self._volume = volume
        self._backups = backups
        self._machine = machine
        self._timeout = timeout
        self._sleep = sleep
        self._volumes = Volumes(self._client, timeout, sleep)

    def put(self, directory: Path, manifest: Manifest) -> str:  # noqa: ARG002
        """Ask for a snapshot of the data volume, which holds the backup; it is not waited for.

        Returns:
            The snapshot's id.

        Raises:
            StoreBusyError: EBS takes none at the moment.
        """
        volume_id = self._machine.volume_id(self._volume)
        try:
            with aws_errors(f"snapshotting {volume_id}"):
                answer = self._client().create_snapshot(
                    VolumeId=volume_id,
                    Description=f"spotcache {self._environment}: backup {manifest.id}",
                    TagSpecifications=[
                        _tagged(
                            "snapshot",
                            {
                                "Name": f"spotcache-{self._environment}",
                                TAG_ENVIRONMENT: self._environment,
                                TAG_BACKUP: manifest.id,
                                TAG_VERIFIED: "true",
                                TAG_KEYS: str(manifest.keys),
                                TAG_BYTES: str(manifest.rdb_bytes),
                                TAG_REASON: manifest.reason,
                                TAG_TERM: str(manifest.term),
                            },
                        )
                    ],
                )
        except AwsError as error:
            if error.code in _TOO_MANY:
                raise StoreBusyError(f"no EBS snapshot this time: {_TOO_MANY[error.code]} ({error.code})") from error
            raise
        return str(answer["SnapshotId"])

    def fetch(self, source: Source, directory: Path) -> None:
        """Copy a backup's two files out of a snapshot, by way of a temporary volume."""
        if source.snapshot_id is None:
            raise DamagedError(f"backup {source.id} names no EBS snapshot")
        with self.opened(source.snapshot_id) as mounted:
            held = mounted / self._backups.relative_to(self._volume) / source.id
            if not held.is_dir():
                raise DamagedError(f"{source.snapshot_id} does not contain it")
            for name in (MANIFEST_NAME, RDB_NAME):
                target = directory / name
                try:
                    needed = (held / name).stat().st_size + _MARGIN_BYTES
                    check_free_space(directory, needed, f"backup {source.id}")
                    shutil.copyfile(held / name, target)
                except FileNotFoundError as error:
                    raise DamagedError(f"{source.snapshot_id} lacks its {name}") from error
                with readable_errors(f"writing {target}"):
                    target.chmod(0o600)
                    sync(target)

    @contextmanager
    def opened(self, snapshot_id: str) -> Iterator[Path]:
        """The filesystem in a snapshot, by way of a temporary volume that is gone afterwards.

        Raises:
            DamagedError: the snapshot is gone, or holds no filesystem.
        """
        identity = self._machine.identity()
        if not identity.zone:
            raise KeeperError(
                "this host's zone is unknown (its metadata service does not answer), so no volume can be made in it"
            )
        volume_id = self._create_volume(snapshot_id, identity.instance_id, identity.zone)
        try:
            self._volumes.wait(volume_id, "available")
            self._attach(volume_id, identity.instance_id)
            device = self._machine.wait_for_volume(volume_id, self._timeout)
            with self._machine.mounted(device) as path:
                yield path
        finally:
            self._volumes.discard(volume_id)

    def remove_left_overs(self) -> list[str]:
        """Delete temporary volumes that a killed run of this host left behind.

        Returns:
            Their ids.
        """
        with aws_errors("looking for left-over volumes"):
            volumes = self._client().describe_volumes(
                Filters=[
                    {"Name": f"tag:{TAG_ENVIRONMENT}", "Values": [self._environment]},
                    {"Name": f"tag:{TAG_TEMPORARY}", "Values": ["restore"]},
                    {"Name": f"tag:{TAG_HOST}", "Values": [self._machine.identity().instance_id]},
                ]
            )["Volumes"]
        if volumes:
            self._machine.unmount_left_overs()
        for volume in volumes:
            self._volumes.discard(str(volume["VolumeId"]))
        return [str(volume["VolumeId"]) for volume in volumes]

    def _create_volume(self, snapshot_id: str, instance_id: str, zone: str) -> str:
        """Make the temporary volume."""
        tags = {
            "Name": f"spotcache-{self._environment}-restore",
            TAG_ENVIRONMENT: self._environment,
            TAG_TEMPORARY: "restore",
            TAG_HOST: instance_id,
        }

        def make() -> Any:
            with aws_errors(f"making a volume of {snapshot_id}"):
                return self._client().create_volume(
                    SnapshotId=snapshot_id,
                    AvailabilityZone=zone,
                    VolumeType="gp3",
                    TagSpecifications=[_tagged("volume", tags)],
                )

        try:
            answer = known(make, self._sleep)
        except AwsError as error:
            if error.code in GONE:
                raise DamagedError(f"{snapshot_id} is gone") from error
            raise
        return str(answer["VolumeId"])

    def _attach(self, volume_id: str, instance_id: str) -> None:
        """Attach under the first free device name; the name means nothing to an NVMe host."""
        used = self._volumes.attached_to(instance_id)
        free = [name for name in _DEVICES if name not in used]
        if not free:
            raise KeeperError(f"{instance_id} has no free device name between {_DEVICES[0]} and {_DEVICES[-1]}")
        self._volumes.attach(volume_id, instance_id, free[0])


def _tagged(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Tags for an object that is being made."""
    return {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
