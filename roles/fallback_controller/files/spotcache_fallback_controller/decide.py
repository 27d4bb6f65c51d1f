# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done, from what AWS says there is. Nothing here talks to anybody."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

# A failure counts for so long: Auto Scaling tries again more often than that for as long as it wants a host.
FAILURE_COUNTS = timedelta(hours=1)
ENDING = "Terminating EC2 instance"
# A host that could serve and waits for its turn says so every 20 s; what is older says nothing.
WAITING_SECONDS = 90
# A volume's tag: since when another one has been in its place. Its value is a time as datetime.isoformat writes it.
SUPERSEDED = "spotcache:superseded-since"


@dataclass(frozen=True)
class Group:
    """An Auto Scaling group.

    Attributes:
        desired: how many hosts it wants.
        serves: whether it has one in service.
        hosts: how many it has at all.
        ids: of those in service.
    """

    desired: int
    serves: bool
    hosts: int
    ids: tuple[str, ...] = ()


def group_of(described: dict[str, Any]) -> Group:
    """A group as Auto Scaling describes it."""
    instances = described.get("Instances") or []
    serving = [
        one for one in instances if one["LifecycleState"] == "InService" and one["HealthStatus"].lower() == "healthy"
    ]
    return Group(
        int(described["DesiredCapacity"]), bool(serving), len(instances), tuple(one["InstanceId"] for one in serving)
    )


def failing(activities: list[dict[str, Any]], now: datetime) -> bool:
    """Whether the newest launch that a group tried has failed. `activities` begin with the newest."""
    launches = [one for one in activities if not str(one.get("Description", "")).startswith(ENDING)]
    if not launches:
        return False
    newest = launches[0]
    when = newest.get("EndTime") or newest["StartTime"]
    return newest["StatusCode"] in ("Failed", "Cancelled") and now - when < FAILURE_COUNTS


def fallback_hosts(spot: Group, fallback: Group, failed: bool, serves: bool) -> int:
    """How many hosts on demand there should be: one while the Spot group wants one and none of its hosts serves.

    Args:
        spot: the group of Spot hosts.
        fallback: that of hosts on demand.
        failed: the newest launch in the Spot group has failed.
        serves: a host of the Spot group says itself that it serves, or that it could and waits for its turn. That
            Auto Scaling calls it InService does not say so: it may be unable to boot.
    """
    if spot.desired < 1 or (spot.serves and serves):
        return 0
    # While a Spot host boots, the one on demand stays; a launch that fails brings it.
    return 1 if failed and not spot.serves else min(fallback.desired, 1)


def serves_by(lease: Mapping[str, Any], age: float, hosts: Collection[str]) -> bool:
    """Whether one of these hosts serves by its own word, the environment's lease.

    Args:
        lease: the object, as the keeper writes it: who holds it names its volume when it lets clients in.
        age: seconds since it was written.
        hosts: instance ids.
    """
    seconds = lease.get("seconds")
    lasts = isinstance(seconds, int) and age < seconds
    return lasts and lease.get("host") in hosts and bool(lease.get("volume")) and not lease.get("released")


def at_rest(groups: list[Group], activities: list[dict[str, Any]]) -> datetime | None:
    """Since when nothing runs and nothing is to run, or None: the time at which the last host began to end."""
    if any(group.desired or group.hosts for group in groups):
        return None
    ends = [one["StartTime"] for one in activities if str(one.get("Description", "")).startswith(ENDING)]
    return max(ends) if ends else None


@dataclass(frozen=True)
class Superseded:
    """Ids of volumes: whose term begins, whose term ends because a host uses them again, and whose term is over."""

    marked: list[str]
    unmarked: list[str]
    over: list[str]


def tag_of(thing: dict[str, Any], key: str) -> str:
    """The value of a tag, empty without it."""
    return next((str(tag["Value"]) for tag in thing.get("Tags") or [] if tag["Key"] == key), "")


def since_of(volume: dict[str, Any]) -> datetime | None:
    """Since when another volume has been in its place; None when that is not known, or was written by somebody else."""
    try:
        since = datetime.fromisoformat(tag_of(volume, SUPERSEDED))
    except ValueError:
        return None
    return since if since.tzinfo else None


def is_verified(snapshot: dict[str, Any]) -> bool:
    """Whether a snapshot is complete and holds a verified backup."""
    return bool(snapshot["State"] == "completed") and tag_of(snapshot, "spotcache:verified") == "true"


@dataclass(frozen=True)
class Backup:
    """A whole, verified backup in S3: which host took it, and a moment at which the data was as in it, or older."""

    host: str
    created: datetime


def backup_of(manifest: Any, environment: str) -> Backup | None:
    """What a manifest says, or None where it vouches for no backup of this environment."""
    if not isinstance(manifest, dict) or manifest.get("verified") is not True:
        return None
    try:
        created = datetime.fromisoformat(str(manifest["created"]))
    except (KeyError, ValueError):
        return None
    if manifest.get("environment") != environment or created.tzinfo is None or not manifest.get("host"):
        return None
    return Backup(str(manifest["host"]), created)


def superseded(
    volumes: list[dict[str, Any]],
    snapshots: list[dict[str, Any]],
    now: datetime,
    term: timedelta,
    backups: Iterable[Backup] = (),
) -> Superseded:
    """Volumes in whose place another one is, from all volumes and snapshots of the environment.

    A host that is replaced leaves its volume, and one that takes over its predecessor's leaves the blank one it came
    with. The term begins when another volume, which a host uses, has a verified snapshot that is younger than anything
    that is known of this one; it ends when a host uses this one again. A volume is given up only after the term, and
    only as long as there is such a snapshot.

    Where there are no snapshots (a host without a way to EC2 takes none), a verified backup in S3 does as well: taken
    by a host that runs, and younger than anything known of the volume. At the end of the term it must be younger than
    the term's beginning, before which the volume may have been written to by somebody of whom nothing is known.

    `backups` is gone through only where it decides: S3 bills each question, and at night this is asked for hours.
    """
    known = {
        volume["VolumeId"]: max(
            [volume["CreateTime"], *(one["StartTime"] for one in snapshots if one["VolumeId"] == volume["VolumeId"])]
        )
        for volume in volumes
    }
    in_use = {volume["VolumeId"] for volume in volumes if volume["State"] == "in-use" or volume.get("Attachments")}
    hosts = {one["InstanceId"] for volume in volumes for one in volume.get("Attachments") or []}
    good = [one for one in snapshots if is_verified(one)]
    found = Superseded([], [], [])
    for volume in volumes:
        name, since = volume["VolumeId"], since_of(volume)
        younger = {one["VolumeId"] for one in good if one["VolumeId"] != name and one["StartTime"] > known[name]}
        if name in in_use:
            if tag_of(volume, SUPERSEDED):
                found.unmarked.append(name)
        elif volume["State"] != "available":
            continue
        elif since is None or since < known[name]:
            if younger & in_use or (hosts and any(one.host in hosts and one.created > known[name] for one in backups)):
                found.marked.append(name)
        elif now - since >= term and (younger or any(one.created > since for one in backups)):
            found.over.append(name)
    return found


def to_return(volumes: list[dict[str, Any]], snapshots: list[dict[str, Any]], since: datetime) -> list[tuple[str, str]]:
    """Volumes that need not be paid any longer, each with the snapshot that holds what was on it.

    That is a snapshot of this very volume, completed, verified, and taken after the last host had begun to end: only
    then does it hold the final backup. Anything else keeps the volume.
    """
    found = []
    for volume in volumes:
        if volume["State"] != "available" or volume.get("Attachments"):
            continue
        good = [
            one
            for one in snapshots
            if one["VolumeId"] == volume["VolumeId"] and is_verified(one) and one["StartTime"] >= since
        ]
        if good:
            found.append((volume["VolumeId"], max(good, key=lambda one: one["StartTime"])["SnapshotId"]))
    return found
