# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be done, from what AWS says there is. Nothing here talks to anybody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

# A failure counts for so long: Auto Scaling tries again more often than that for as long as it wants a host.
FAILURE_COUNTS = timedelta(hours=1)
ENDING = "Terminating EC2 instance"


@dataclass(frozen=True)
class Group:
    """An Auto Scaling group: how many hosts it wants, and whether it has one that serves, or any at all."""

    desired: int
    serves: bool
    hosts: int


def group_of(described: dict[str, Any]) -> Group:
    """A group as Auto Scaling describes it."""
    instances = described.get("Instances") or []
    serving = [
        one for one in instances if one["LifecycleState"] == "InService" and one["HealthStatus"].lower() == "healthy"
    ]
    return Group(int(described["DesiredCapacity"]), bool(serving), len(instances))


def failing(activities: list[dict[str, Any]], now: datetime) -> bool:
    """Whether the newest launch that a group tried has failed. `activities` begin with the newest."""
    launches = [one for one in activities if not str(one.get("Description", "")).startswith(ENDING)]
    if not launches:
        return False
    newest = launches[0]
    when = newest.get("EndTime") or newest["StartTime"]
    return newest["StatusCode"] in ("Failed", "Cancelled") and now - when < FAILURE_COUNTS


def stand_in(spot: Group, standby: Group, failed: bool) -> int:
    """How many hosts on demand there should be: one while the Spot group wants one and gets none."""
    if spot.desired < 1 or spot.serves:
        return 0
    # While a Spot host boots, the one on demand stays; a launch that fails brings it.
    return 1 if failed else min(standby.desired, 1)


def at_rest(groups: list[Group], activities: list[dict[str, Any]]) -> datetime | None:
    """Since when nothing runs and nothing is to run, or None: the time at which the last host began to end."""
    if any(group.desired or group.hosts for group in groups):
        return None
    ends = [one["StartTime"] for one in activities if str(one.get("Description", "")).startswith(ENDING)]
    return max(ends) if ends else None


def to_return(volumes: list[dict[str, Any]], snapshots: list[dict[str, Any]], since: datetime) -> list[tuple[str, str]]:
    """Volumes that need not be paid any longer, each with the snapshot that holds what was on it.

    That is a snapshot of this very volume, completed, verified, and taken after the last host had begun to end: only
    then does it hold the final save. Anything else keeps the volume.
    """
    found = []
    for volume in volumes:
        if volume["State"] != "available" or volume.get("Attachments"):
            continue
        good = [
            one
            for one in snapshots
            if one["VolumeId"] == volume["VolumeId"]
            and one["State"] == "completed"
            and {"Key": "spotcache:verified", "Value": "true"} in one.get("Tags", [])
            and one["StartTime"] >= since
        ]
        if good:
            found.append((volume["VolumeId"], max(good, key=lambda one: one["StartTime"])["SnapshotId"]))
    return found
