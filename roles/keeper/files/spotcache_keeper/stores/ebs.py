"""EBS snapshots of the data volume, each holding the backup it was made for.

A snapshot is ours by its tags: `spotcache:environment`, `spotcache:backup` (the backup's id) and `spotcache:verified`.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.aws.machine import Machine
from spotcache_keeper.aws.settle import known
from spotcache_keeper.aws.volumes import Volumes
from spotcache_keeper.errors import DamagedError, KeeperError
from spotcache_keeper.stores.base import Retention, StoreBusyError
from spotcache_keeper.stores.local import check_free_space
from spotcache_keeper.stores.manifest import MANIFEST_NAME, RDB_NAME, Manifest
from spotcache_keeper.stores.retention import given_up
from spotcache_keeper.stores.source import Source, State, judge, kept_of
from spotcache_keeper.system.files import readable_errors, sync
from spotcache_keeper.system.times import created_of, is_id

TAG_ENVIRONMENT = "spotcache:environment"
TAG_BACKUP = "spotcache:backup"
TAG_VERIFIED = "spotcache:verified"
TAG_KEYS = "spotcache:keys"
TAG_BYTES = "spotcache:bytes"
TAG_REASON = "spotcache:reason"
TAG_TERM = "spotcache:term"
TAG_TEMPORARY = "spotcache:temporary"
TAG_HOST = "spotcache:host"

# One snapshot per 15 s and five pending ones per volume is all EBS takes ("Create Amazon EBS snapshots").
_TOO_MANY = {
    "SnapshotCreationPerVolumeRateExceeded": "the last one was asked for less than 15 s ago",
    "ConcurrentSnapshotLimitExceeded": "five are still pending",
}
_GONE = frozenset({"InvalidSnapshot.NotFound", "InvalidSnapshotID.Malformed", "InvalidVolume.NotFound"})
# What a copy may take beside the RDB itself.
_MARGIN_BYTES = 16 * 1024 * 1024
_DEVICES = tuple(f"/dev/sd{letter}" for letter in "fghijklmnop")


@dataclass(frozen=True)
class Tags:
    """Tags of an AWS object, as a mapping."""

    values: Mapping[str, str]

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Tags:
        """The tags in one entry of a Describe call's answer."""
        return cls({tag["Key"]: tag["Value"] for tag in described.get("Tags", [])})

    def text(self, key: str) -> str:
        """A tag's value, empty where it is missing."""
        return self.values.get(key, "")

    def number(self, key: str) -> int | None:
        """A tag's value as a number, None where it is none."""
        value = self.text(key)
        return int(value) if value.isdigit() else None


_NAME, _NEARNESS = "ebs", 2


def source_of(described: Mapping[str, Any], environment: str) -> Source | None:
    """A snapshot as DescribeSnapshots tells it, or None when it holds no backup of the keeper's."""
    tags = Tags.of(described)
    backup_id = tags.text(TAG_BACKUP)
    if not is_id(backup_id):
        return None
    states: dict[str, State] = {"completed": "complete", "pending": "pending"}
    state = states.get(str(described.get("State")), "error")
    note = {"pending": f"{described.get('Progress') or '0%'} done", "error": f"EBS says {described.get('State')}"}.get(
        state, ""
    )
    owner = tags.text(TAG_ENVIRONMENT)
    if owner != environment:
        state, note = "foreign", f"belongs to environment {owner or '(none)'}"
    return Source(
        backup_id,
        created_of(backup_id),
        _NAME,
        _NEARNESS,
        state=state,
        verified=tags.text(TAG_VERIFIED) == "true" and state != "foreign",
        environment=owner,
        keys=tags.number(TAG_KEYS),
        bytes=tags.number(TAG_BYTES),
        reason=tags.text(TAG_REASON),
        snapshot_id=str(described["SnapshotId"]),
        note=note,
        term=tags.number(TAG_TERM) or 0,
    )


class EbsStore:
    """EBS snapshots of one environment.

    Args:
        client: makes the SDK's EC2 client when it is first needed.
        environment: whose snapshots.
        volume: where the data volume is mounted.
        backups: the directory of the backups on it.
        machine: the host, to attach and mount at.
        timeout: seconds for EC2 to make, attach or detach a volume.
        sleep: waits that many seconds.
    """

    name = _NAME
    nearness = _NEARNESS
    lacks = "no EBS snapshot"
    at_once = False

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
        self._make_client = client
        self._made: Any = None
        self._environment = environment
        self._volume = volume
        self._backups = backups
        self._machine = machine
        self._timeout = timeout
        self._sleep = sleep
        self._volumes = Volumes(self._client, timeout, sleep)

    def label(self, copy: str | None) -> str:
        """The place for a person, with the snapshot's id."""
        return f"EBS snapshot {copy}" if copy else "an EBS snapshot"

    def ids(self) -> list[str]:
        """Ids of the backups in snapshots that were verified when they were made."""
        return [source.id for source in self.sources() if source.verified]

    def sources(self) -> list[Source]:
        """Every snapshot of the environment that holds a backup."""
        found = []
        with aws_errors("listing EBS snapshots"):
            pages = (
                self._client()
                .get_paginator("describe_snapshots")
                .paginate(
                    OwnerIds=["self"],
                    Filters=[
                        {"Name": f"tag:{TAG_ENVIRONMENT}", "Values": [self._environment]},
                        {"Name": "tag-key", "Values": [TAG_BACKUP]},
                    ],
                )
            )
            for page in pages:
                found += [source_of(described, self._environment) for described in page["Snapshots"]]
        return [source for source in found if source is not None]

    def find(self, snapshot_id: str) -> Source | None:
        """One snapshot, of whichever environment; None when there is no such snapshot.

        Raises:
            KeeperError: it exists but was not made by the keeper.
        """
        try:
            with aws_errors(f"looking up {snapshot_id}"):
                answer = self._client().describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"]
        except AwsError as error:
            if error.code in _GONE:
                return None
            raise
        if not answer:
            return None
        source = source_of(answer[0], self._environment)
        if source is None:
            raise KeeperError(
                f"{snapshot_id} holds no backup: it has no tag {TAG_BACKUP}, so the keeper did not make it"
            )
        return source

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

    def prune(self, retention: Retention) -> Iterator[str]:
        """Delete the snapshots that retention gives up."""
        items = [
            kept_of(source, source.snapshot_id)
            for source in judge(self.sources(), retention.takeovers)
            if source.snapshot_id is not None and source.state != "foreign"
        ]
        for item in given_up(items, now=retention.now, policy=retention.policy):
            self.remove(item.key)
            yield item.key

    def remove(self, snapshot_id: str) -> None:
        """Delete a snapshot; one that is gone already is fine."""
        try:
            with aws_errors(f"deleting {snapshot_id}"):
                self._client().delete_snapshot(SnapshotId=snapshot_id)
        except AwsError as error:
            if error.code not in _GONE:
                raise

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

    def _client(self) -> Any:
        """The SDK's client."""
        if self._made is None:
            self._made = self._make_client()
        return self._made

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
            if error.code in _GONE:
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
