"""How many hours of a month something runs."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Sequence

from spotcache_cost.errors import CostError

# As AWS's own calculator has it: 365 days of 24 hours, in twelve months.
MONTH = 730.0
WEEK = 168.0
WEEKS = MONTH / WEEK
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)|24:00")


def _clock(name: str, text: str) -> float:
    """Hours since midnight."""
    if not _TIME.fullmatch(text):
        raise CostError(f"{name} is {text!r}. Give a time of day such as 09:00.")
    hours, minutes = text.split(":")
    return int(hours) + int(minutes) / 60


def of_schedule(start: str, stop: str, days: Sequence[str]) -> float:
    """Hours a week of a schedule, as the role schedule has it: from `start` to `stop` on each of the days.

    A stop before the start is on the next day.

    Raises:
        CostError: a time or a day is none.
    """
    unknown = [day for day in days if day not in DAYS]
    if unknown or not days:
        raise CostError(f"schedule_days has {', '.join(unknown) or 'no day'}. Give some of {', '.join(DAYS)}.")
    length = _clock("schedule_stop", stop) - _clock("schedule_start", start)
    return (length if length > 0 else length + 24) * len(set(days))


def of_week(hours: float) -> float:
    """Hours a month of so many hours a week.

    Raises:
        CostError: a week has fewer, or they are none.
    """
    if not 0 < hours <= WEEK:
        raise CostError(
            f"{hours:g} hours a week cannot be: a week has {WEEK:g}, and some of them must be left to run in."
        )
    return hours * WEEKS
