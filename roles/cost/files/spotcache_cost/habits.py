"""How many billable calls the project's own habits make, as they were counted; `requests.json` says how and when."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spotcache_cost.errors import CostError
from spotcache_cost.hours import MONTH

TABLE = Path(__file__).parent / "data" / "requests.json"
# What is counted: an hour of a host that has nothing to do; a backup, and giving it up later; a look of the function
# that gives backups up, what each one that is kept adds to it, and what each one that is locked; locking one; the end
# of a host, with its final backup; the begin of the next one; a restore that somebody asks for.
ACTS = ("idle", "backup", "given_up", "look", "kept", "locked", "lock", "end", "begin", "restore")
# What the role keeper has the lease last; it was counted with that.
LEASE_SECONDS = 90.0
# A month's working days, for a host that is ended each evening and begun each morning.
NIGHTS = 365 / 12 * 5 / 7


@dataclass(frozen=True)
class Habits:
    """Billable calls by act and by key of their price.

    Attributes:
        counts: of each of `ACTS`.
        date: when they were counted.
    """

    counts: Mapping[str, Mapping[str, float]]
    date: str = ""

    def month(
        self,
        *,
        hours: float,
        backups: float,
        kept: float,
        losses: float,
        firsts: float = 0.0,
        locks: float = 0.0,
        retentions: float = 0.0,
        restores: float = 0.0,
        lease_seconds: float = LEASE_SECONDS,
    ) -> dict[str, float]:
        """Calls of a month.

        Args:
            hours: in which a host runs.
            backups: that are taken; as many are given up.
            kept: how many there are at a time.
            losses: of hosts.
            firsts: how many of those that are kept are locked.
            locks: how many are locked.
            retentions: how often the function looks that gives up backups.
            restores: that somebody asks for.
            lease_seconds: how long the lease lasts; it is renewed three times as often.
        """
        # A host that does not run the whole month is ended each evening, and another one begins in the morning.
        changes = losses + (NIGHTS if hours < MONTH - 1 else 0.0)
        return self._calls(
            idle=hours * LEASE_SECONDS / lease_seconds,
            backup=backups,
            given_up=backups,
            look=retentions,
            kept=retentions * kept,
            locked=retentions * firsts,
            lock=locks,
            restore=restores,
            end=changes,
            begin=changes,
        )

    def day(self, hours: float, backups_per_hour: float, kept: float) -> dict[str, float]:
        """Calls of one day of working hours, from the morning's begin to the evening's end, retention's among them.

        Args:
            hours: of the day.
            backups_per_hour: as many looks of retention are there.
            kept: how many backups there are, one of which is locked.
        """
        backups = hours * backups_per_hour
        return self._calls(
            begin=1.0, idle=hours, backup=backups, look=backups, kept=backups * kept, locked=backups, lock=1.0, end=1.0
        )

    def night(self, hours: float, looks_per_hour: float, kept: float, firsts: float) -> dict[str, float]:
        """Calls of a night without a host: retention looks, and finds nothing to give up."""
        looks = hours * looks_per_hour
        return self._calls(look=looks, kept=looks * kept, locked=looks * firsts)

    def _calls(self, **times: float) -> dict[str, float]:
        """What acts make together, by how often each happens."""
        found: dict[str, float] = {}
        for act, often in times.items():
            for key, calls in self.counts.get(act, {}).items():
                found[key] = found.get(key, 0.0) + calls * often
        return found


def load(path: Path = TABLE) -> Habits:
    """The table of the repository.

    Raises:
        CostError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        counts = {act: {key: float(count) for key, count in data["counts"][act].items()} for act in ACTS}
        return Habits(counts, str(data["date"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CostError(f"The counted requests in {path} cannot be read: {type(error).__name__} {error}.") from error
