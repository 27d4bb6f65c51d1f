# SPDX-License-Identifier: GPL-3.0-or-later
"""AWS as the keeper meets it: S3 with its conditional writes, EC2 with its delays, notices, and ways that break."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from spotcache_keeper.aws.clients import AwsError
from spotcache_keeper.aws.imds import Answer, ImdsError
from spotcache_keeper.aws.signed import ConflictError, Found
from spotcache_keeper.stores.base import Retention
from spotcache_keeper.stores.manifest import Manifest
from spotcache_keeper.stores.retention import given_up
from spotcache_keeper.stores.source import Source, judge, kept_of
from spotcache_keeper.system.times import UTC

if TYPE_CHECKING:
    from dev.simulate.host import Host
    from dev.simulate.world import World

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
Data = tuple[int, ...]


@dataclass
class Written:
    """An object in S3."""

    data: Mapping[str, Any]
    etag: str
    at: float


@dataclass
class Stored:
    """A backup in S3: the manifest comes last.

    Attributes:
        data: what its RDB holds.
        manifest: None while it is not whole.
        at: when it became whole.
        entitled: its writer held the lease, or had fenced itself under it, when Redis forked.
    """

    data: Data
    manifest: Manifest | None = None
    entitled: bool = True
    at: float = 0.0


class Bucket:
    """The environment's objects and backups, strongly consistent."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.objects: dict[str, Written] = {}
        self.backups: dict[str, Stored] = {}
        self._etags = 0
        # When the environment last changed hands, as S3 saw it.
        self.taken_at = 0.0

    def write(self, key: str, data: Mapping[str, Any], etag: str | None, new: bool) -> str:
        """One PUT as S3 takes it, at this moment."""
        found = self.objects.get(key)
        if (new and found is not None) or (etag is not None and (found is None or found.etag != etag)):
            raise ConflictError(f"{key} was changed")
        self._etags += 1
        if key == "keeper/lease.json" and (found is None or found.data.get("term") != data.get("term")):
            self.taken_at = self.world.now
        self.objects[key] = Written(data, f"e{self._etags}", self.world.now)
        return f"e{self._etags}"

    @property
    def lease(self) -> dict[str, Any]:
        """The lease as it is in truth; empty without one."""
        found = self.objects.get("keeper/lease.json")
        return dict(found.data) if found is not None else {}


class Way:
    """One host's way to a service: it takes time, and may be cut, lose, delay and repeat."""

    def __init__(self, host: Host, service: str) -> None:
        self.host, self.service = host, service

    def cross(self) -> bool:
        """One request there; whether it is sent twice.

        Raises:
            AwsError: it does not arrive.
        """
        host, world = self.host, self.host.world
        if world.now < host.cut.get(self.service, 0.0):
            world.wait(2.0)
            raise AwsError(f"{self.service} is not reached")
        delay, host.delay = host.delay, 0.0
        world.wait(world.latency() + delay)
        if host.lose == "request":
            host.lose = ""
            raise AwsError(f"{self.service}: the request was lost")
        if host.lose == "twice":
            host.lose = ""
            return True
        return False

    def back(self) -> None:
        """The answer's way, which mostly takes no time of its own; what was asked for is done before.

        Raises:
            AwsError: it is lost; what was asked for is done all the same.
        """
        world = self.host.world
        late, self.host.late = self.host.late, 0.0
        if late or world.random.random() < 0.25:
            world.wait(world.latency() + late)
        if self.host.lose == "answer":
            self.host.lose = ""
            raise AwsError(f"{self.service}: the answer was lost")


class SimObjects:
    """`Objects` of one host."""

    def __init__(self, host: Host) -> None:
        self.host, self.way = host, Way(host, "s3")

    def get(self, key: str) -> Found | None:
        world = self.host.world
        self.way.cross()
        found = world.bucket.objects.get(key)
        # Both of S3's times are whole seconds.
        answer = None if found is None else Found(found.data, found.etag, float(int(world.now) - int(found.at)))
        self.way.back()
        return answer

    def put(self, key: str, data: Mapping[str, Any], *, etag: str | None = None, new: bool = False) -> str:
        world = self.host.world
        twice = self.way.cross()
        written = world.bucket.write(key, data, etag, new)
        if world.verbose:
            world.trace("s3", f"{self.host.id} wrote {key}: {world.brief(data)}")
        if twice:
            written = world.bucket.write(key, data, etag, new)
        self.way.back()
        return written


class SimS3Store:
    """Backups in S3, as one host sees them."""

    name, nearness, lacks, at_once = "s3", 1, "not copied to S3", True

    def __init__(self, host: Host) -> None:
        self.host, self.way = host, Way(host, "s3")

    def label(self, copy: str | None) -> str:
        return "S3"

    def within(self, seconds: float) -> SimS3Store:
        return self

    def ids(self) -> list[str]:
        self.way.cross()
        return [backup_id for backup_id, one in self.host.world.bucket.backups.items() if one.manifest is not None]

    def sources(self) -> list[Source]:
        self.way.cross()
        found = [source_of(one.manifest, self) for one in self.host.world.bucket.backups.values() if one.manifest]
        # The answer may take as long as the machine stands still.
        self.host.listed = self.host.world.now
        self.way.back()
        return found

    def find(self, backup_id: str) -> Source | None:
        return next((source for source in self.sources() if source.id == backup_id), None)

    def put(self, directory: Any, manifest: Manifest) -> str:
        world = self.host.world
        self.way.cross()
        stored = world.bucket.backups.setdefault(manifest.id, Stored(directory.data, entitled=directory.entitled))
        upload, self.host.upload = self.host.upload, 0.0
        if upload:
            world.wait(upload)
        self.way.cross()
        stored.manifest, stored.at = manifest, world.now
        world.trace("s3", f"{self.host.id} stored {manifest.id} of term {manifest.term}, {len(stored.data)} writes")
        self.way.back()
        return f"s3://{manifest.id}"

    def fetch(self, source: Source, directory: Any) -> None:
        raise NotImplementedError

    def prune(self, retention: Retention) -> Iterator[str]:
        """As the store itself does: the listing is old when the last backup is deleted."""
        listed = self.sources()
        items = [kept_of(source, source.id) for source in judge(listed, retention.takeovers(listed))]
        for item in given_up(items, now=retention.now, policy=retention.policy, referred=retention.referred):
            self.way.cross()
            self.host.world.check_deletion(item.key, self.host)
            self.host.world.bucket.backups.pop(item.key, None)
            yield item.key


def source_of(manifest: Manifest, place: Any) -> Source:
    """A whole backup as a source."""
    return Source(
        manifest.id,
        manifest.created,
        place.name,
        place.nearness,
        keys=manifest.keys,
        bytes=manifest.rdb_bytes,
        reason=manifest.reason,
        manifest=manifest,
        term=manifest.term,
    )


class SimEc2:
    """DescribeInstances, which may lag behind, and forgets."""

    def __init__(self, host: Host) -> None:
        self.host, self.way = host, Way(host, "ec2")

    def describe_instances(self, InstanceIds: list[str]) -> dict[str, Any]:  # noqa: N803
        world = self.host.world
        try:
            self.way.cross()
        except AwsError as error:
            raise world.unreachable from error
        found = world.hosts.get(InstanceIds[0])
        if found is None or world.now - found.launched < found.unseen:
            raise world.not_found
        return {"Reservations": [{"Instances": [{"State": {"Name": found.state}}]}]}


@dataclass
class SimImds:
    """What the metadata service announces to a host."""

    host: Host
    values: dict[str, str] = field(default_factory=dict)

    def get(self, path: str) -> Answer | None:
        world = self.host.world
        if world.now < self.host.cut.get("imds", 0.0):
            world.wait(1.0)
            raise ImdsError("the metadata service does not answer")
        if path == "local-ipv4":
            return Answer(self.host.id, world.true_time)
        text = self.values.get(path)
        return Answer(text, world.true_time) if text is not None else None


class SimSigned:
    """`Signed`: the name in Route 53 is all that is left of it."""

    def __init__(self, host: Host) -> None:
        self.host, self.way = host, Way(host, "route53")

    def rest(self, *_arguments: Any) -> bytes:
        self.way.cross()
        self.host.world.points_to = self.host.id
        return b""

    def query(self, *_arguments: Any, **_named: Any) -> bytes:
        raise AwsError("no group", "ValidationError")


def moment(seconds: float) -> datetime:
    """A simulated moment as a date."""
    return EPOCH + timedelta(seconds=seconds)
