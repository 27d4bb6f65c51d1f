"""Moments and the ids made of them. All moments are aware and in UTC; texts have a resolution of one second."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
import secrets
import time
from datetime import datetime, timedelta, timezone

from spotcache_keeper.errors import ConfigError

UTC = timezone.utc  # noqa: UP017 - datetime.UTC came with Python 3.11, the keeper also runs on 3.10

_ID = re.compile(r"^(\d{8}T\d{6}Z)-[0-9a-f]{6}$")
_ID_TIME = "%Y%m%dT%H%M%SZ"
_TEXT = "%Y-%m-%dT%H:%M:%SZ"
_MOMENT = re.compile(
    r"^(?P<date>\d{4}-\d{2}-\d{2})[T ](?P<time>\d{2}:\d{2}(?::\d{2})?)(?:\.\d+)?\s*(?P<zone>Z|[+-]\d{2}:?\d{2})?$"
)


# Before anything was written.
NEVER = datetime.fromtimestamp(0, UTC)


def utc_now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def since_boot() -> float:
    """Seconds that only ever grow, also while the host is suspended; what was measured by it ends in time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def from_epoch(seconds: float) -> datetime:
    """The moment of a Unix time in seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def to_text(moment: datetime) -> str:
    """A moment as `2026-11-22T00:15:03Z`."""
    return moment.astimezone(UTC).strftime(_TEXT)


def from_text(text: str) -> datetime:
    """The reverse of `to_text`.

    Raises:
        ValueError: the text has another form.
    """
    return datetime.strptime(text, _TEXT).replace(tzinfo=UTC)


def new_id(created: datetime) -> str:
    """A backup's id, such as `20261122T001503Z-3f9a1c`: it sorts by time, and no two hosts make the same."""
    return f"{created.astimezone(UTC).strftime(_ID_TIME)}-{secrets.token_hex(3)}"


def is_id(text: str) -> bool:
    """Whether the text has the form of a backup's id."""
    match = _ID.match(text)
    if match is None:
        return False
    try:
        datetime.strptime(match.group(1), _ID_TIME)
    except ValueError:
        return False
    return True


def created_of(backup_id: str) -> datetime:
    """The moment an id was made.

    Raises:
        ValueError: the text is no id.
    """
    if not is_id(backup_id):
        raise ValueError(f"{backup_id!r} is not a backup's id")
    return datetime.strptime(backup_id.split("-", maxsplit=1)[0], _ID_TIME).replace(tzinfo=UTC)


def next_moment(now: datetime, newest: datetime | None) -> datetime:
    """The moment a new backup is dated: now, but always after the newest one, even if the clock went back."""
    now = now.replace(microsecond=0)
    return now if newest is None or now > newest else newest + timedelta(seconds=1)


def is_moment(text: str) -> bool:
    """Whether the text looks like a date with a time."""
    return _MOMENT.match(text) is not None


def parse_moment(text: str) -> datetime:
    """A moment a person typed: `2026-11-22T09:15`, with seconds and a zone (`Z`, `+09:00`) if wanted; UTC without one.

    Raises:
        ConfigError: the text is no such moment.
    """
    match = _MOMENT.match(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a date and time; write it like 2026-11-22T09:15Z or 2026-11-22T18:15+09:00")
    zone = match["zone"] or "Z"
    try:
        return datetime.fromisoformat(
            f"{match['date']}T{match['time']}" + ("+00:00" if zone == "Z" else f"{zone[:3]}:{zone[-2:]}")
        ).astimezone(UTC)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a date and time: {error}") from error


def age_text(seconds: float) -> str:
    """A duration for a table: `45s`, `12m`, `3h 20m`, `6d 4h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 24:
        return f"{hours}h {minutes % 60}m"
    return f"{hours // 24}d {hours % 24}h"
