"""Which backups are given up: a pure planner, the same for every place."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Policy:
    """What is kept: the `count` newest good ones, the newest of each of `days` days, and of each of `weeks` weeks.

    Attributes:
        spared_hours: nothing goes that its place got in these last hours, whatever is said of it.
        first_days: nor, for so many days, the first whole one that the place got on a day.
    """

    count: int
    days: int
    weeks: int = 0
    spared_hours: int = 0
    first_days: int = 0


@dataclass(frozen=True)
class Kept:
    """One thing that could be deleted.

    Attributes:
        key: what the place calls it.
        created: when it was made.
        good: verified, complete now, and of the environment's own line: not made by a host that was superseded.
        term: of the lease under which it was made.
        received: when the place got it, by the place's own clock.
        whole: verified and complete, whoever made it.
    """

    key: str
    created: datetime
    good: bool
    term: int = 0
    received: datetime | None = None
    whole: bool = False

    @property
    def age(self) -> tuple[int, datetime, str]:
        """What orders it among others: a later term is newer, whatever the clocks of two hosts say."""
        return (self.term, self.created, self.key)


# What is not good may still become so: an EBS snapshot can be pending for hours.
_PATIENCE = timedelta(days=1)


def given_up(
    items: Iterable[Kept], *, now: datetime, policy: Policy, referred: frozenset[str] = frozenset()
) -> list[Kept]:
    """What may be deleted, oldest first.

    The newest good one never is, whatever the policy says; nor is anything as young as it, since that may still become
    good; nor what something refers to; and where nothing is good, nothing is deleted.

    Args:
        items: of one place.
        now: the present moment; days and weeks are those of UTC.
        policy: what is kept.
        referred: keys that something refers to.
    """
    ordered = sorted(items, key=lambda item: item.age, reverse=True)
    good = [item for item in ordered if item.good]
    if not good:
        return []
    kept = {item.key for item in good[: max(1, policy.count)]} | referred
    kept |= {item.key for item in spared(ordered, now=now, policy=policy)}
    kept |= _newest_of_each(good, now - timedelta(days=policy.days), lambda item: item.created.date())
    kept |= _newest_of_each(good, now - timedelta(weeks=policy.weeks), lambda item: item.created.isocalendar()[:2])
    return [
        item
        for item in reversed(ordered)
        if item.key not in kept and (item.good or (item.age < good[0].age and item.created < now - _PATIENCE))
    ]


def spared(items: Iterable[Kept], *, now: datetime, policy: Policy) -> list[Kept]:
    """What stays whatever anybody says of it: of what was received lately everything, of earlier days the first.

    Ids, times, terms and takeovers are written by hosts. Whoever has stolen a host's credentials can flood an
    environment with backups of any term, or call all earlier ones superseded. When a place received something it says
    itself, and nobody comes before what it has received on an earlier day.
    """
    known = [item for item in items if item.received is not None]
    late = [item for item in known if received(item) > now - timedelta(hours=policy.spared_hours)]
    return late + [item for item in firsts(known, now=now, policy=policy) if item not in late]


def firsts(items: Iterable[Kept], *, now: datetime, policy: Policy) -> list[Kept]:
    """The first whole one that was received on each of the last `first_days` days."""
    found: dict[Hashable, Kept] = {}
    for item in sorted((item for item in items if item.received is not None and item.whole), key=received):
        if received(item) > now - timedelta(days=policy.first_days):
            found.setdefault(received(item).date(), item)
    return list(found.values())


def received(item: Kept) -> datetime:
    """When the place got it; of old where it does not say."""
    return item.received or datetime.min.replace(tzinfo=item.created.tzinfo)


def _newest_of_each(good: Iterable[Kept], since: datetime, period: Callable[[Kept], Hashable]) -> set[str]:
    """The newest of each period that is not longer ago than `since`; `good` is ordered, newest first."""
    found: dict[Hashable, str] = {}
    for item in good:
        if item.created >= since:
            found.setdefault(period(item), item.key)
    return set(found.values())
