"""Looks at AWS while a drill runs: which instances there are, where the name points, what was backed up.

One thread a question, so that a slow answer to one does not date another one's.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from spotcache_drill.client import Target


@dataclass
class Instance:
    """One instance of the environment. Times are Unix times in seconds, of the first look that showed it.

    Attributes:
        id: its instance id.
        zone: where it is.
        address: its private address.
        public: its public address; empty without one.
        states: for each of EC2's states, when it was first seen in it.
    """

    id: str
    zone: str = ""
    address: str = ""
    public: str = ""
    states: dict[str, float] = field(default_factory=dict)

    @property
    def gone_at(self) -> float | None:
        """When EC2 was first seen to have ended it, or to be about to; None while it runs."""
        ended = [at for state, at in self.states.items() if state not in ("pending", "running")]
        return min(ended, default=None)


@dataclass
class Seen:
    """What was seen of AWS.

    Attributes:
        instances: by id.
        addresses: each address that the name had, and when it was first seen.
        final: the last record that the host under drill left, and when it was seen; None before.
        backups: each backup's id, and when its manifest was first seen.
        trouble: the last error of each question.
    """

    instances: dict[str, Instance] = field(default_factory=dict)
    addresses: list[tuple[str, float]] = field(default_factory=list)
    final: tuple[dict[str, Any], float] | None = None
    backups: dict[str, float] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """What is looked at.

    Attributes:
        environment: its name, the value of the tag `spotcache:environment`.
        bucket: where the backups are.
        prefix: what comes before the environment's folders in the bucket, with the environment's name.
        name: the DNS name that follows Redis; empty without one.
        host: instance id of the host under drill.
    """

    environment: str
    bucket: str
    prefix: str
    name: str
    host: str


def instances_of(answer: dict[str, Any]) -> list[Instance]:
    """The instances that EC2 describes, with their present state and no time."""
    found = [one for reservation in answer.get("Reservations", []) for one in reservation.get("Instances", [])]
    return [
        Instance(
            one["InstanceId"],
            one.get("Placement", {}).get("AvailabilityZone", ""),
            one.get("PrivateIpAddress") or "",
            one.get("PublicIpAddress") or "",
            {one["State"]["Name"]: 0.0},
        )
        for one in found
    ]


def record_instances(seen: Seen, now: float, instances: list[Instance]) -> None:
    """Merge one look at EC2. One that is not described any more has ended; one that had ended before is left out."""
    for one in instances:
        if one.id not in seen.instances and not set(one.states) & {"pending", "running"}:
            continue
        kept = seen.instances.setdefault(one.id, Instance(one.id))
        kept.zone, kept.address = one.zone or kept.zone, one.address or kept.address
        kept.public = one.public or kept.public
        for state in one.states:
            kept.states.setdefault(state, now)
    here = {one.id for one in instances}
    for kept in seen.instances.values():
        if kept.id not in here:
            kept.states.setdefault("terminated", now)


class Observer:
    """Asks AWS again and again.

    Args:
        place: what is looked at.
        client: makes an AWS client for a service.
        pause: seconds between two polls at the name.
        clock: Unix time in seconds.
    """

    def __init__(
        self, place: Place, client: Callable[[str], Any], pause: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.seen = Seen()
        self.stopped = threading.Event()
        self._place, self._client, self._pause, self._clock = place, client, pause, clock
        self._zone_id = ""
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Look once at everything, and from then on in the background."""
        # The name decides where the client goes; what else is looked at may be known a little later.
        polls = [(self.poll_instances, 2), (self.poll_backups, 2)]
        polls += [(self.poll_name, 1)] if self._place.name else []
        for look, pauses in polls:
            look()
            thread = threading.Thread(target=self._again, args=(look, pauses * self._pause), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Look no more."""
        self.stopped.set()
        for thread in self._threads:
            thread.join(30)

    def target(self) -> Target:
        """Where clients are sent: by the name, or without one to the newest instance that runs."""
        running = [one for one in list(self.seen.instances.values()) if "running" in one.states and one.gone_at is None]
        if self._place.name:
            address = self.seen.addresses[-1][0] if self.seen.addresses else ""
            return next(
                (Target(address, one.id, one.public) for one in running if one.address == address), Target(address)
            )
        newest = max(running, key=lambda one: one.states["running"], default=None)
        return Target(newest.address, newest.id, newest.public) if newest is not None else Target("")

    def poll_instances(self) -> None:
        """Which instances there are."""
        filters = [{"Name": "tag:spotcache:environment", "Values": [self._place.environment]}]
        # A page may be empty although there are more: what a filter leaves out counts as well.
        pages = self._client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        record_instances(self.seen, self._clock(), [one for page in pages for one in instances_of(page)])

    def poll_name(self) -> None:
        """Where the name points. The record itself is asked for: resolvers would tell what it was a minute ago."""
        route53 = self._client("route53")
        if not self._zone_id:
            self._zone_id = self._find_zone(route53)
        answer = route53.list_resource_record_sets(
            HostedZoneId=self._zone_id, StartRecordName=self._place.name, StartRecordType="A", MaxItems="1"
        )
        for record in answer["ResourceRecordSets"]:
            if record["Name"].rstrip(".") == self._place.name.rstrip(".") and record["Type"] == "A":
                address = record["ResourceRecords"][0]["Value"]
                if not self.seen.addresses or self.seen.addresses[-1][0] != address:
                    self.seen.addresses.append((address, self._clock()))

    def poll_backups(self) -> None:
        """Which backups are in S3, and whether the host has left its last words."""
        s3 = self._client("s3")
        answer = s3.list_objects_v2(Bucket=self._place.bucket, Prefix=f"{self._place.prefix}backups/")
        for one in answer.get("Contents", []):
            folder, _slash, name = one["Key"].rpartition("/")
            if name == "manifest.json":
                self.seen.backups.setdefault(folder.rpartition("/")[2], self._clock())
        if self.seen.final is None or not self.seen.final[0].get("off_host"):
            # A host that gets its backup away only after it left a record leaves another one.
            key = f"{self._place.prefix}keeper/final/{self._place.host}.json"
            if s3.list_objects_v2(Bucket=self._place.bucket, Prefix=key).get("KeyCount"):
                record = json.loads(s3.get_object(Bucket=self._place.bucket, Key=key)["Body"].read())
                if self.seen.final is None or self.seen.final[0] != record:
                    self.seen.final = (record, self._clock())

    def _find_zone(self, route53: Any) -> str:
        """The zone that has the name; with the longest name, where several have."""
        name = self._place.name.rstrip(".") + "."
        zones = [
            zone
            for page in route53.get_paginator("list_hosted_zones").paginate()
            for zone in page["HostedZones"]
            if name.endswith(f".{zone['Name']}")
        ]
        if not zones:
            raise LookupError(f"no zone of Route 53 has the name {self._place.name}")
        return str(max(zones, key=lambda zone: len(zone["Name"]))["Id"])

    def _again(self, look: Callable[[], None], pause: float) -> None:
        """Look until stopped; what AWS refuses once is asked again."""
        while not self.stopped.wait(pause):
            try:
                look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the client must go on, and the report says it
                self.seen.trouble[look.__name__] = f"{type(error).__name__}: {error}"
