"""What a restore can read, and which of it is taken: pure functions."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, Protocol

from spotcache_keeper.errors import ConfigError, KeeperError, NoSourceError, NoUsableCopyError
from spotcache_keeper.lease import Takeover
from spotcache_keeper.stores.manifest import Manifest
from spotcache_keeper.stores.retention import Kept
from spotcache_keeper.system.times import NEVER, from_text, is_id, is_moment, parse_moment, to_text

State = Literal["complete", "pending", "incomplete", "damaged", "foreign", "error"]

BEFORE_RESTORE = "before-restore"


@dataclass(frozen=True)
class Source:
    """One copy of a backup.

    Attributes:
        id: of the backup.
        created: when it was made.
        where: the name of the store that holds it.
        nearness: of that store: the smaller, the sooner a copy of the same backup is taken from there.
        state: `complete`; `pending` (an EBS snapshot that is still being made); `incomplete` (no manifest);
            `damaged`; `foreign` (of another environment); `error` (an EBS snapshot that failed).
        verified: it was found good when it was made.
        environment: it belongs to; empty where unknown.
        keys: in all databases, or None where unknown.
        bytes: of the RDB, or None where unknown.
        reason: why it was made; empty where unknown.
        snapshot_id: of the EBS snapshot, or None.
        note: for a person.
        manifest: where it is at hand.
        term: of the lease under which it was made; 0 where there was none, or nobody knows.
        superseded: a host made it that did not serve any more: it is taken only when it is asked for.
        received: when its place got it, by the place's own clock, which no host can set; None where no place says so.
    """

    id: str
    created: datetime
    where: str
    nearness: int
    state: State = "complete"
    verified: bool = True
    environment: str = ""
    keys: int | None = None
    bytes: int | None = None
    reason: str = ""
    snapshot_id: str | None = None
    note: str = ""
    manifest: Manifest | None = None
    term: int = 0
    superseded: bool = False
    received: datetime | None = None

    @property
    def age(self) -> tuple[int, datetime, str]:
        """What orders it among others: a later term is newer, whatever the clocks of two hosts say."""
        return (self.term, self.created, self.id)

    @property
    def usable(self) -> bool:
        """Whether a restore may try it."""
        return self.verified and self.state == "complete"

    def to_json(self) -> dict[str, Any]:
        """One row of `list --json`."""
        return {
            "id": self.id,
            "created": to_text(self.created),
            "where": self.where,
            "state": self.state,
            "verified": self.verified,
            "environment": self.environment,
            "keys": self.keys,
            "bytes": self.bytes,
            "reason": self.reason,
            "snapshot_id": self.snapshot_id,
            "note": self.note,
            "term": self.term,
            "superseded": self.superseded,
        }


class Place(Protocol):
    """Of a store, what a source says of it."""

    @property
    def name(self) -> str:
        """As sources call it."""

    @property
    def nearness(self) -> int:
        """The smaller, the sooner it is read."""


def describe(manifest: Manifest, backup_id: str, place: Place, environment: str, size: int | None) -> Source:
    """A source by its manifest.

    Args:
        manifest: of the backup.
        backup_id: the id its place gives it.
        place: the store that holds it.
        environment: the host's.
        size: of the RDB in bytes, None where it is missing.
    """
    state: State = "complete"
    note = ""
    if manifest.id != backup_id:
        state, note = "damaged", f"its manifest is that of backup {manifest.id}"
    elif manifest.environment != environment:
        state, note = "foreign", f"belongs to environment {manifest.environment}"
    elif size is None:
        state, note = "damaged", "its RDB is missing"
    elif size != manifest.rdb_bytes:
        state, note = "damaged", f"its RDB has {size} bytes instead of {manifest.rdb_bytes}"
    return Source(
        backup_id,
        manifest.created,
        place.name,
        place.nearness,
        state=state,
        verified=manifest.verified and state == "complete",
        environment=manifest.environment,
        keys=manifest.keys,
        bytes=manifest.rdb_bytes,
        reason=manifest.reason,
        term=manifest.term,
        note=note,
        manifest=manifest,
    )


@dataclass(frozen=True)
class Wanted:
    """What `--from` asks for: at most one of these, and the newest verified backup when all are None."""

    backup_id: str | None = None
    snapshot_id: str | None = None
    moment: datetime | None = None


def parse_wanted(text: str | None) -> Wanted:
    """The meaning of `--from`.

    Raises:
        ConfigError: it is none of `newest`, a backup's id, an EBS snapshot's id, or a date and time.
    """
    if text is None or text in ("", "newest"):
        return Wanted()
    if is_id(text):
        return Wanted(backup_id=text)
    if text.startswith("snap-"):
        return Wanted(snapshot_id=text)
    if is_moment(text):
        return Wanted(moment=parse_moment(text))
    raise ConfigError(
        f"--from {text!r} is none of: newest, a backup's id (20261122T001503Z-3f9a1c), "
        f"an EBS snapshot's id (snap-...), "
        "a date and time (2026-11-22T09:15Z)"
    )


def newest_first(sources: Iterable[Source]) -> list[Source]:
    """By age, and the nearer copy of the same backup first."""
    return sorted(sorted(sources, key=lambda s: s.nearness), key=lambda s: s.age, reverse=True)


def judge(sources: Iterable[Source], takeovers: Sequence[Takeover]) -> list[Source]:
    """The same sources, of which those are marked that a host made which was superseded by then.

    Such a one is of a lower term than a takeover, and newer than the newest backup that the new host found when it
    looked. A host may be slow, cut off or stopped between its last look at the lease and its upload: nothing could keep
    it from writing, so what it wrote is judged afterwards.
    """
    return [
        replace(
            source,
            superseded=True,
            note=source.note or f"made in term {source.term} after {after.host} had taken over (term {after.term})",
        )
        if (after := _superseded_by(source, takeovers)) is not None
        else source
        for source in sources
    ]


def _superseded_by(source: Source, takeovers: Sequence[Takeover]) -> Takeover | None:
    """The takeover after which a backup was made by a host of an earlier term; None without one."""
    return next(
        (
            takeover
            for takeover in takeovers
            if source.term < takeover.term
            and takeover.looked
            and (source.term, source.id) > (takeover.newest_term, takeover.newest)
        ),
        None,
    )


def superseded_at(source: Source, takeovers: Sequence[Takeover]) -> datetime | None:
    """When another host took over, of whose line a backup is not; None where it is of the line that serves."""
    after = _superseded_by(source, takeovers)
    if after is None:
        return None
    try:
        return from_text(after.at)
    except ValueError:
        return NEVER


def kept_of(source: Source, key: str) -> Kept:
    """What retention needs to know of a copy; `key` is what its place calls it."""
    return Kept(
        key, source.created, source.usable and not source.superseded, source.term, source.received, whole=source.usable
    )


def choose(sources: Sequence[Source], wanted: Wanted) -> list[Source]:
    """The copies to try, best first: all of the wanted backup, then all of every older verified one.

    Backups made just before a forced restore are what somebody chose to leave: they are taken only when asked for, or
    when there is nothing else.

    Raises:
        NoSourceError: there is no such backup.
        NoUsableCopyError: there is one, but it cannot be used.
        KeeperError: it cannot be used yet.
        ConfigError: it belongs to another environment.
    """
    ordered = newest_first(sources)
    if wanted.snapshot_id is not None:
        asked = [source for source in ordered if source.snapshot_id == wanted.snapshot_id]
        if not asked:
            raise NoSourceError(f"there is no EBS snapshot {wanted.snapshot_id}{_offer(ordered)}")
        first = _must_be_usable(asked)
        copies = [source for source in ordered if source.id == first.id and source.usable and source != first]
        return [first, *copies, *_older(ordered, first)]
    if wanted.backup_id is not None:
        asked = [source for source in ordered if source.id == wanted.backup_id]
        if not asked:
            raise NoSourceError(
                f"there is no backup {wanted.backup_id} on the volume, in S3 or in an EBS snapshot{_offer(ordered)}"
            )
        _must_be_usable(asked)
        return [source for source in asked if source.usable] + _older(ordered, asked[0])
    usable = [source for source in ordered if source.usable]
    if wanted.moment is not None:
        taken = [source for source in usable if source.created <= wanted.moment]
        if not taken:
            oldest = f"; the oldest is {usable[-1].id}" if usable else ""
            raise NoSourceError(f"there is no verified backup at or before {to_text(wanted.moment)}{oldest}")
        return default_order(taken)
    if not usable:
        if ordered:
            _must_be_usable(ordered)
        raise NoSourceError("there is no backup of this environment on the volume, in S3 or in an EBS snapshot")
    return default_order(usable)


def same_backup(candidates: Sequence[Source]) -> list[Source]:
    """The first candidate and the other copies of the same backup."""
    return [source for source in candidates if source.id == candidates[0].id]


def default_order(usable: Sequence[Source]) -> list[Source]:
    """Backups made before a forced restore, or by a superseded host, last."""
    return sorted(usable, key=lambda source: source.superseded or source.reason == BEFORE_RESTORE)


def _older(ordered: Sequence[Source], than: Source) -> list[Source]:
    """What may stand in for a backup that turns out damaged."""
    return default_order([source for source in ordered if source.usable and source.age < than.age])


def _must_be_usable(asked: Sequence[Source]) -> Source:
    """The first usable copy.

    Raises:
        NoUsableCopyError: none is; says why not.
        KeeperError: none is yet.
        ConfigError: it belongs to another environment.
    """
    usable = [source for source in asked if source.usable]
    if usable:
        return usable[0]
    first = asked[0]
    name = f"{first.snapshot_id} (backup {first.id})" if first.snapshot_id else f"backup {first.id}"
    if first.state == "foreign":
        raise ConfigError(
            f"{name} belongs to environment {first.environment!r}, not to this host's: it is never restored here"
        )
    if any(source.state == "pending" for source in asked):
        raise KeeperError(f"{name} is an EBS snapshot that is still pending: try again once it is completed")
    why = first.note or {
        "incomplete": "it has no manifest, so its upload never ended",
        "error": "EBS says it failed",
    }.get(first.state, "it was never verified")
    raise NoUsableCopyError(f"{name} cannot be used: {why}")


def _offer(ordered: Sequence[Source]) -> str:
    """The end of a sentence about a backup that does not exist."""
    usable = [source for source in ordered if source.usable]
    return f"; the newest is {usable[0].id} (spotcache-keeper list shows all)" if usable else "; there is none at all"
