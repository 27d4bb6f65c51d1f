"""Whose turn it is to serve an environment, and what the last host left: two kinds of small objects in S3.

The lease is only ever written on condition, so that of two hosts exactly one gets it. Its age is told by S3's own
clock. Whoever holds it renews it; it can be taken over once it was released, has ended, or EC2 says that its holder is
gone. Each time it changes hands its term grows by one. Every backup and every record carries the term in which it was
made, and is judged by that. The protocol as a whole is in docs/protocol.md.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Protocol, TypeVar

from spotcache_keeper.aws.signed import Objects

_Record = TypeVar("_Record", "Lease", "FinalRecord", "Takeover")

# A host counts its lease as over so much earlier than others may take it; seconds. S3's times are whole seconds, and a
# request takes as long as it takes: the host counts from before it was sent.
MARGIN = 5.0
# So many takeovers are remembered: more than there are backups of different terms.
_TAKEOVERS = 50


@dataclass(frozen=True)
class Takeover:
    """That the environment changed hands.

    Attributes:
        host: instance id of the one that took over.
        term: that began then.
        looked: the new host has looked for backups. What a host of an earlier term adds to them after that is not the
            environment's data any more.
        newest: id of the newest backup that it found; empty where it found none.
        newest_term: the term of that backup.
        at: when it took over, as text.
    """

    host: str
    term: int = 0
    looked: bool = False
    newest: str = ""
    newest_term: int = 0
    at: str = ""


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
        term: how often it has changed hands.
        before: the host that held it before; kept until this one serves, since a boot may be killed and begin again.
        before_zone: where that host was.
        before_volume: id of that host's data volume.
        before_term: of that host.
        outlast: for so many seconds after this was written a host of an earlier term may still go by its own lease,
            and whoever takes this one waits for that as well; 0 once this one serves.
        lost: what this host lacks of what was served before, for a person; kept until people were told.
        takeovers: how the environment changed hands, the newest last.
        mark: differs at every write, so that no two writes have the same ETag.
    """

    host: str
    zone: str = ""
    volume: str = ""
    since: str = ""
    renewed: str = ""
    seconds: int = 90
    released: bool = False
    term: int = 0
    before: str = ""
    before_zone: str = ""
    before_volume: str = ""
    before_term: int = 0
    outlast: int = 0
    lost: str = ""
    takeovers: list[dict[str, Any]] = field(default_factory=list)
    mark: str = ""

    @property
    def history(self) -> tuple[Takeover, ...]:
        """The takeovers; what is none is left out."""
        found = (_read(Takeover, entry) for entry in self.takeovers)
        return tuple(entry for entry in found if entry is not None)

    def with_takeover(self, takeover: Takeover) -> list[dict[str, Any]]:
        """`takeovers` with this one, in the place of an earlier word about the same term."""
        others = [dict(vars(entry)) for entry in self.history if entry.term != takeover.term]
        return [*others, dict(vars(takeover))][-_TAKEOVERS:]


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
        lost_since: where it is not complete since Redis was started anew: what was written after that is missing, as
            text; empty otherwise.
        term: of the lease that the host held.
        fenced: the host takes no write any more, and will take none in this term.
        withdrawn: the host was not ended after all, and goes on.
        withdrawn_in: the run of the kernel in which that was found.
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
    lost_since: str = ""
    term: int = 0
    fenced: bool = False
    withdrawn: bool = False
    withdrawn_in: str = ""
    written: str = ""
    note: str = ""

    def of(self, host: str, term: int) -> bool:
        """Whether it is the word of that host's term; an earlier one, or one that was withdrawn, says nothing."""
        return self.host == host and self.term == term and not self.withdrawn


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
        """Whether its holder has had its time, and so has whoever held it before."""
        return (self.lease.released or self.age >= self.lease.seconds) and self.age >= self.lease.outlast


class Leases(Protocol):
    """Where the lease and the final records of one environment are."""

    def lease(self) -> Held | None:
        """The lease, or None when there was never one."""

    def write_lease(self, lease: Lease, over: Held | None) -> None:
        """Write the lease in the place of the one that was read, or where there was none.

        Raises:
            ConflictError: another host was faster.
        """

    def final(self, host: str) -> FinalRecord | None:
        """What a host left, or None."""

    def write_final(self, final: FinalRecord) -> None:
        """Leave a record."""

    def write_waiting(self, host: str, written: str) -> None:
        """Say that a host could serve, and waits until it may; `written` is when, as text."""


class LeaseStore:
    """`Leases` in S3.

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
        data = vars(lease) | {"mark": secrets.token_hex(8)}
        self._objects.put(
            f"{self._prefix}lease.json", data, etag=over.etag if over is not None else None, new=over is None
        )

    def final(self, host: str) -> FinalRecord | None:
        """What a host left, or None."""
        found = self._objects.get(f"{self._prefix}final/{host}.json")
        return _read(FinalRecord, found.data) if found is not None else None

    def write_final(self, final: FinalRecord) -> None:
        """Leave a record."""
        self._objects.put(f"{self._prefix}final/{final.host}.json", vars(final))

    def write_waiting(self, host: str, written: str) -> None:
        """Say that a host could serve, and waits until it may; `written` is when, as text."""
        self._objects.put(f"{self._prefix}waiting/{host}.json", {"host": host, "written": written})


def _read(kind: type[_Record], data: Any) -> _Record | None:
    """A record, or None when the object holds something else; what a newer keeper added is left out."""
    types = _types(kind.__name__)
    if not isinstance(data, Mapping) or not isinstance(data.get("host"), str):
        return None
    known: dict[str, Any] = {name: value for name, value in data.items() if name in types and _fits(value, types[name])}
    return kind(**known)


def _fits(value: Any, kind: type[Any]) -> bool:
    """Whether a value from JSON is of that type, by which true is no number."""
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


@cache
def _types(kind: str) -> dict[str, type[Any]]:
    """The type of each part of a record of that name."""
    kinds: dict[str, Any] = {one.__name__: one for one in (Lease, FinalRecord, Takeover)}
    return {
        item.name: str if item.name == "host" else list if item.name == "takeovers" else type(item.default)
        for item in fields(kinds[kind])
    }
