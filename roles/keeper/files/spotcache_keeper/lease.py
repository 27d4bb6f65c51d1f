"""Whose turn it is to serve an environment, and what the last host left: two kinds of small objects in S3.

The lease is only ever written on condition, so that of two hosts exactly one gets it. Its age is told by S3's own
clock. Whoever holds it renews it; it can be taken over once it was released, has ended, or EC2 says that its holder is
gone.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from spotcache_keeper.aws.signed import Objects

_Record = TypeVar("_Record", "Lease", "FinalRecord")


@dataclass(frozen=True)
class Lease:
    """The object `lease.json`.

    Attributes:
        host: instance id of the holder.
        zone: where it is.
        volume: id of its data volume; empty where it has none.
        since: when it took the lease, as text.
        renewed: when it last did, as text, by its own clock: for people.
        seconds: how long the lease lasts without being renewed.
        released: its holder has given it back.
        before: the host that held it before; kept until this one serves, since a boot may be killed and begin again.
        before_zone: where that host was.
        before_volume: id of that host's data volume.
        mark: differs at every write, so that no two writes have the same ETag.
    """

    host: str
    zone: str = ""
    volume: str = ""
    since: str = ""
    renewed: str = ""
    seconds: int = 90
    released: bool = False
    before: str = ""
    before_zone: str = ""
    before_volume: str = ""
    mark: str = ""


@dataclass(frozen=True)
class FinalRecord:
    """The object `final/<instance id>.json`: the last a host did.

    Attributes:
        host: its instance id.
        zone: where it was.
        volume: id of its data volume.
        cause: what ended it: `spot`, `group` or `shutdown`.
        backup: id of its final backup; of its newest verified one where `complete` is false; empty without any.
        created: when that backup was made, as text.
        keys: in it.
        complete: nothing that was acknowledged is missing in it.
        off_host: it lies in S3.
        withdrawn: the host was not ended after all, and goes on.
        written: when, as text.
        note: for a person.
    """

    host: str
    zone: str = ""
    volume: str = ""
    cause: str = ""
    backup: str = ""
    created: str = ""
    keys: int = 0
    complete: bool = False
    off_host: bool = False
    withdrawn: bool = False
    written: str = ""
    note: str = ""


@dataclass(frozen=True)
class Held:
    """The lease as it is.

    Attributes:
        lease: what it says.
        etag: to write over exactly this one.
        age: seconds since it was written, by S3's clock.
    """

    lease: Lease
    etag: str
    age: float

    @property
    def ended(self) -> bool:
        """Whether its holder has had its time."""
        return self.lease.released or self.age >= self.lease.seconds


class LeaseStore:
    """The lease and the final records of one environment.

    Args:
        objects: of the bucket.
        prefix: what their keys begin with.
    """

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix

    def lease(self) -> Held | None:
        """The lease, or None when there was never one."""
        found = self._objects.get(f"{self._prefix}lease.json")
        if found is None:
            return None
        # One that cannot be read has no holder who could be asked: it ends like any other.
        lease = _read(Lease, found.data) or Lease(host="an unknown host")
        return Held(lease, found.etag, found.age)

    def write_lease(self, lease: Lease, over: Held | None) -> None:
        """Write the lease in the place of the one that was read, or where there was none.

        Raises:
            ConflictError: another host was faster.
        """
        data = asdict(lease) | {"mark": secrets.token_hex(8)}
        self._objects.put(
            f"{self._prefix}lease.json", data, etag=over.etag if over is not None else None, new=over is None
        )

    def final(self, host: str) -> FinalRecord | None:
        """What a host left, or None."""
        found = self._objects.get(f"{self._prefix}final/{host}.json")
        return _read(FinalRecord, found.data) if found is not None else None

    def write_final(self, final: FinalRecord) -> None:
        """Leave a record."""
        self._objects.put(f"{self._prefix}final/{final.host}.json", asdict(final))


def _read(kind: type[_Record], data: Mapping[str, Any]) -> _Record | None:
    """A record, or None when the object holds something else; what a newer keeper added is left out."""
    types = {item.name: type(item.default) if item.name != "host" else str for item in fields(kind)}
    if not isinstance(data.get("host"), str):
        return None
    known: dict[str, Any] = {
        name: value for name, value in data.items() if name in types and type(value) is types[name]
    }
    return kind(**known)
