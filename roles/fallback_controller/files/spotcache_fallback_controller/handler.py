# SPDX-License-Identifier: GPL-3.0-or-later
"""What Lambda calls, on every event and every few minutes: it looks at what there is, and not at what it was told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from spotcache_fallback_controller.decide import (
    SUPERSEDED,
    WAITING_SECONDS,
    Backup,
    Group,
    at_rest,
    backup_of,
    failing,
    fallback_hosts,
    group_of,
    serves_by,
    superseded,
    to_return,
)

# So many backups in S3 are looked at; the newest may be half written.
NEWEST_BACKUPS = 5
CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"max_attempts": 4, "mode": "standard"})


def log(text: str, **more: Any) -> None:
    """A line for the log."""
    print(json.dumps({"message": text, **more}))


class Asked:
    """What is asked for once, and not before somebody wants to know."""

    def __init__(self, ask: Callable[[], list[Backup]]) -> None:
        self._ask = ask
        self._answer: list[Backup] | None = None

    def __iter__(self) -> Iterator[Backup]:
        if self._answer is None:
            self._answer = self._ask()
        return iter(self._answer)


class FallbackController:
    """Looks after one environment."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.environment = variables["SPOTCACHE_ENVIRONMENT"]
        self.spot, self.fallback_group = variables["GROUP"], variables["FALLBACK_GROUP"]
        self.fallback = variables["FALLBACK"] == "true"
        self.returns = variables["RETURN_VOLUME"] == "true"
        self.term = timedelta(days=float(variables["SUPERSEDED_DAYS"]))
        self.scaling = boto3.client("autoscaling", config=CONFIG)
        self.ec2 = boto3.client("ec2", config=CONFIG)
        self.bucket, self.prefix = variables.get("BUCKET", ""), variables.get("PREFIX", "")

    def reconcile(self) -> dict[str, Any]:
        """Do what is to be done; says what that was."""
        names = [self.spot, self.fallback_group]
        rows = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=names)["AutoScalingGroups"]
        groups = {row["AutoScalingGroupName"]: group_of(row) for row in rows}
        done: dict[str, Any] = {}
        if self.spot not in groups:
            log("there is no group to look after", group=self.spot)
            return done
        if self.fallback and self.fallback_group in groups:
            done["on_demand"] = self.switch(groups[self.spot], groups[self.fallback_group])
        if self.returns:
            done["returned"] = self.give_back(list(groups.values()), list(groups))
        if self.term:
            done["superseded"] = self.give_up()
        return done

    def activities(self, name: str) -> list[dict[str, Any]]:
        """What a group tried lately, the newest first."""
        answer = self.scaling.describe_scaling_activities(AutoScalingGroupName=name, MaxRecords=50)
        return sorted(answer["Activities"], key=lambda one: one["StartTime"], reverse=True)

    def switch(self, spot: Group, fallback: Group) -> int:
        """Have a host on demand exactly while there is none to be had on the Spot market."""
        # Asked only where it decides.
        serves = bool(spot.serves and fallback.desired) and self.ready(spot)
        wanted = fallback_hosts(spot, fallback, failing(self.activities(self.spot), datetime.now(UTC)), serves)
        if wanted != fallback.desired:
            self.scaling.set_desired_capacity(AutoScalingGroupName=self.fallback_group, DesiredCapacity=wanted)
            log("an on-demand host takes its place" if wanted else "the host on demand goes", group=self.fallback_group)
        return wanted

    def ready(self, spot: Group) -> bool:
        """Whether a Spot host serves, or could and waits for the one on demand to go: by their own word in S3."""
        if not self.bucket:
            # Nothing tells: then it counts that Auto Scaling calls it healthy.
            return True
        lease = self.read("lease.json")
        if lease is not None and serves_by(*lease, spot.ids):
            return True
        waits = [self.read(f"waiting/{host}.json") for host in spot.ids]
        return any(one is not None and one[1] < WAITING_SECONDS for one in waits)

    def read(self, name: str) -> tuple[dict[str, Any], float] | None:
        """What the hosts tell each other in an object, and how many seconds ago it was written; None without one."""
        s3, key = boto3.client("s3", config=CONFIG), f"{self.prefix}{self.environment}/keeper/{name}"
        try:
            answer = s3.get_object(Bucket=self.bucket, Key=key)
            data = json.loads(answer["Body"].read())
        except (ClientError, ValueError) as error:
            log("what a host says could not be read", key=key, because=str(error))
            return None
        age = (datetime.now(UTC) - answer["LastModified"]).total_seconds()
        return (data, age) if isinstance(data, dict) else None

    def give_back(self, groups: list[Group], names: list[str]) -> list[str]:
        """Delete data volumes whose every byte stands in a verified snapshot, while nothing runs."""
        since = at_rest(groups, [one for name in names for one in self.activities(name)])
        if since is None:
            return []
        returned = []
        for volume, snapshot in to_return(*self.volumes_and_snapshots(), since):
            if self.delete(volume):
                log("the volume is given back", volume=volume, snapshot=snapshot)
                returned.append(volume)
        return returned

    def give_up(self) -> list[str]:
        """Delete data volumes in whose place another one has been for long."""
        now = datetime.now(UTC)
        volumes, snapshots = self.volumes_and_snapshots()
        found = superseded(volumes, snapshots, now, self.term, Asked(self.backups))
        if found.marked:
            since = now.isoformat(timespec="seconds")
            self.ec2.create_tags(Resources=found.marked, Tags=[{"Key": SUPERSEDED, "Value": since}])
            log("another volume is in the place of these", volumes=found.marked, deleted_after_days=self.term.days)
        if found.unmarked:
            self.ec2.delete_tags(Resources=found.unmarked, Tags=[{"Key": SUPERSEDED}])
            log("a host uses these again", volumes=found.unmarked)
        for volume in found.over:
            if self.delete(volume):
                log("the superseded volume is deleted", volume=volume)
        return found.over

    def backups(self) -> list[Backup]:
        """The newest backups in S3; none where nobody said where they are, and none that is not whole."""
        if not self.bucket:
            return []
        s3, below = boto3.client("s3", config=CONFIG), f"{self.prefix}{self.environment}/backups/"
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below, Delimiter="/")
        # Their names begin with their time.
        names = sorted(one["Prefix"] for page in pages for one in page.get("CommonPrefixes", []))
        found = []
        for name in names[-NEWEST_BACKUPS:]:
            try:
                manifest = json.loads(s3.get_object(Bucket=self.bucket, Key=f"{name}manifest.json")["Body"].read())
            except (ClientError, ValueError) as error:
                # The manifest comes last: without it the backup is not whole, or is being removed.
                log("a backup does not count", backup=name, because=str(error))
                continue
            found.append(backup_of(manifest, self.environment))
        return [one for one in found if one is not None]

    def delete(self, volume: str) -> bool:
        """Delete a volume; one that cannot be deleted now is seen again, and does not keep the others."""
        try:
            self.ec2.delete_volume(VolumeId=volume)
        except ClientError as error:
            log("a volume could not be deleted", volume=volume, reason=str(error))
            return False
        return True

    def volumes_and_snapshots(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """All volumes of the environment, and all their snapshots."""
        own = [{"Name": "tag:spotcache:environment", "Values": [self.environment]}]
        volumes = self.ec2.get_paginator("describe_volumes").paginate(Filters=own)
        snapshots = self.ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=own)
        return (
            [one for page in volumes for one in page["Volumes"]],
            [one for page in snapshots for one in page["Snapshots"]],
        )


controller: FallbackController | None = None


def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Look after the environment once."""
    global controller
    if controller is None:
        controller = FallbackController(dict(os.environ))
    log("reconciling", because=str(event.get("detail-type", "asked")))
    return controller.reconcile()
