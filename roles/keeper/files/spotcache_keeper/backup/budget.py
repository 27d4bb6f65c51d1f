"""Whether a final backup fits into a Spot notice, by how long earlier backups took: pure functions."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

# EC2 promises two minutes; agents have seen 108 s of them. Finding out and the last words take some more.
NOTICE_SECONDS = 100
REMEMBERED = 8
_PARTS = ("bgsave", "check", "s3")
# What a backup takes whatever its size; rates of very small backups say nothing.
_FIXED_SECONDS = 2.0
_SMALLEST = 8 * 1024 * 1024


@dataclass(frozen=True)
class Budget:
    """What a final backup is expected to take.

    Attributes:
        bytes: of the data, as an RDB.
        seconds: expected; None before any backup was measured.
        limit: what there is.
    """

    bytes: int
    seconds: float | None
    limit: float = NOTICE_SECONDS

    @property
    def fits(self) -> bool:
        """Whether it fits, as far as anybody knows."""
        return self.seconds is None or self.seconds <= self.limit

    @property
    def sentence(self) -> str:
        """For a person."""
        if self.seconds is None:
            return "not measured yet"
        size = f"{self.bytes / 1024 / 1024:,.0f} MiB"
        if self.fits:
            return f"a final backup of {size} takes about {self.seconds:.0f} s of {self.limit:.0f} s"
        return (
            f"a final backup of {size} takes about {self.seconds:.0f} s, but a Spot notice leaves {self.limit:.0f} s: "
            "with a notice, changes since the last backup would be lost. Use a larger instance type, keep less data, "
            "or back up more often"
        )


def measured(backup: Mapping[str, Any]) -> dict[str, float] | None:
    """What one backup teaches: its bytes, and the seconds until it was off the host; None when it never was."""
    seconds, size = backup.get("seconds") or {}, (backup.get("rdb") or {}).get("bytes")
    if not isinstance(size, int) or not (backup.get("stored") or {}).get("s3"):
        return None
    return {"bytes": float(size), "seconds": sum(float(seconds.get(part, 0.0)) for part in _PARTS)}


def estimate(speeds: Iterable[Mapping[str, float]], size: int) -> Budget:
    """The expectation for `size` bytes.

    Args:
        speeds: of the latest backups, as `measured` gives them.
        size: of the data.
    """
    rates = [
        max(0.0, float(speed["seconds"]) - _FIXED_SECONDS) / max(float(speed["bytes"]), _SMALLEST) for speed in speeds
    ]
    return Budget(size, _FIXED_SECONDS + median(rates) * size if rates else None)
