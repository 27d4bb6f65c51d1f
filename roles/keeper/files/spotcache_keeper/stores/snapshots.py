"""EBS snapshots as EC2 lists them: which hold a backup, and which are given up. What a host does with them is in `ebs`.

A snapshot is ours by its tags: `spotcache:environment`, `spotcache:backup` (the backup's id) and `spotcache:verified`.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.stores.base import Retention
from spotcache_keeper.stores.retention import given_up
from spotcache_keeper.stores.source import Source, State, judge, kept_of
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

GONE = frozenset({"InvalidSnapshot.NotFound", "InvalidSnapshotID.Malformed", "InvalidVolume.NotFound"})


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
        received=described.get("StartTime"),
    )


class Snapshots:
    """EBS snapshots of one environment.

    Args:
        client: makes the SDK's EC2 client when it is first needed.
        environment: whose snapshots.
    """

    name = _NAME
    nearness = _NEARNESS
    lacks = "no EBS snapshot"
    at_once = False

    def __init__(self, client: Callable[[], Any], environment: str) -> None:
        self._make_client = client
        self._made: Any = None
        self._environment = environment

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
            if error.code in GONE:
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

    def prune(self, retention: Retention) -> Iterator[str]:
        """Delete the snapshots that retention gives up."""
        listed = self.sources()
        items = [
            kept_of(source, source.snapshot_id)
            for source in judge(listed, retention.takeovers(listed))
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
            if error.code not in GONE:
                raise

    def _client(self) -> Any:
        """The SDK's client."""
        if self._made is None:
            self._made = self._make_client()
        return self._made
