"""Which saves are given up: a pure planner, the same for every place."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Policy:
    """What is kept: the `count` newest good saves, and everything younger than `days` days."""

    count: int
    days: int


@dataclass(frozen=True)
class Kept:
    """One thing that could be deleted.

    Attributes:
        key: what the place calls it.
        created: when it was made.
        good: verified, and complete now.
    """

    key: str
    created: datetime
    good: bool


def given_up(items: Iterable[Kept], *, now: datetime, policy: Policy) -> list[Kept]:
    """What may be deleted, oldest first.

    The newest good one never is, whatever the policy says; nor is anything as young as it, since that may still become
    good; and where nothing is good, nothing is deleted.
    """
    ordered = sorted(items, key=lambda item: (item.created, item.key), reverse=True)
    good = [item for item in ordered if item.good]
    if not good:
        return []
    kept = {item.key for item in good[: max(1, policy.count)]}
    oldest_by_age = now - timedelta(days=policy.days)
    return [
        item
        for item in reversed(ordered)
        if item.key not in kept and item.created < oldest_by_age and (item.good or item.created < good[0].created)
    ]
