"""What losing a host came to in drills, as the file says that they are written into; and what AWS says of its own."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Any

from spotcache_cost.errors import CostError
from spotcache_cost.prices import DATA

SNAPSHOT = DATA / "drills.json"
NOTICE, KILL = "notice", "kill"
# What AWS gives between a Spot notice and the end. A sandbox can be told to give less, which says nothing of AWS.
NOTICE_SECONDS = 120.0


@dataclass(frozen=True)
class Drill:
    """One kind of loss, measured.

    Attributes:
        outage_s: from the last write that was acknowledged to the first one after it, the middle one of the runs.
        serving_s: of that, from the host's end to the first answer of the next one.
        lost: acknowledged writes that were lost, the most of any run.
        oldest_lost_s: how old the oldest of them was, the most of any run.
        runs: how many there were.
        where: in a sandbox, or on AWS.
        date: of the last of them.
        source: what was run.
    """

    outage_s: float
    serving_s: float
    lost: int
    oldest_lost_s: float
    runs: int
    where: str
    date: date
    source: str


@dataclass(frozen=True)
class Documented:
    """What is not measured here, by AWS's documentation: what is felt of a failure, and what is lost at worst."""

    felt: str
    lost: str
    source: str
    date: date


@dataclass(frozen=True)
class Drills:
    """All of it: by kind of drill, and by way to have a Redis."""

    measured: Mapping[str, Drill]
    documented: Mapping[str, Documented]


def load(path: Path = SNAPSHOT) -> Drills:
    """What the file says; kinds that were never measured are missing.

    Raises:
        CostError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        measured = {
            kind: Drill(
                float(row["outage_s"]),
                float(row["serving_s"]),
                int(row["lost"]),
                float(row["oldest_lost_s"]),
                int(row["runs"]),
                str(row["where"]),
                date.fromisoformat(row["date"]),
                str(row["source"]),
            )
            for kind, row in data["drills"].items()
        }
        documented = {
            way: Documented(str(row["felt"]), str(row["lost"]), str(row["source"]), date.fromisoformat(row["date"]))
            for way, row in data["documented"].items()
        }
        return Drills(measured, documented)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CostError(
            f"What drills measured cannot be read in {path}: {type(error).__name__} {error}. Name another file with "
            "--drills, or take a copy of the project's own."
        ) from error


def _row(name: str, report: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a drill's report comes to."""
    runs = report["runs"]
    kinds = {str(run["kind"]) for run in runs}
    if len(kinds) != 1 or not kinds <= {NOTICE, KILL}:
        raise CostError(
            f"{name} has {', '.join(sorted(kinds)) or 'no drill'}. Give reports of ./spotcache drill --kind {NOTICE} "
            f"or --kind {KILL}."
        )
    kind = kinds.pop()
    if not all(run["values_equal"] for run in runs):
        raise CostError(f"{name}: data was not equal after a drill, and what it measured is none. Mend that first.")
    sandbox = "floors" in report
    given = float(report.get("notice_s") or NOTICE_SECONDS)
    if kind == NOTICE and given != NOTICE_SECONDS:
        raise CostError(
            f"{name}: its notice was {given:g} s, and AWS gives {NOTICE_SECONDS:.0f}. Run the drill with --notice "
            f"{NOTICE_SECONDS:.0f}."
        )
    last = max(float(run["injected_at"]) for run in runs)
    size = f" --size-mb {report['size_mb']}" if sandbox else ""
    more = f" --notice {given:.0f}" if sandbox and kind == NOTICE else ""
    return kind, {
        "outage_s": round(median(float(run["outage_s"]) for run in runs), 1),
        "serving_s": round(median(float(run["gone_to_serving_s"]) for run in runs), 1),
        "lost": max(int(run["acknowledged_lost"]) for run in runs),
        "oldest_lost_s": round(max(float(run["oldest_lost_s"]) for run in runs), 1),
        "runs": len(runs),
        "where": "a sandbox" if sandbox else "AWS",
        "date": datetime.fromtimestamp(last, UTC).date().isoformat(),
        "source": f"./spotcache drill --kind {kind} --runs {len(runs)}{size}{more}"
        if sandbox
        else f"./spotcache drill -i INVENTORY -e drill_kind={kind}",
    }


def renewed(data: Mapping[str, Any], reports: Iterable[Path]) -> dict[str, Any]:
    """The file's content with what these reports measured in the place of what it had of their kinds.

    Raises:
        CostError: one of them is no report, or measured nothing that counts.
    """
    found = dict(data["drills"])
    for path in reports:
        try:
            kind, row = _row(str(path), json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CostError(
                f"{path} is no report of a drill: {type(error).__name__} {error}. Give the report.json that "
                "./spotcache drill names at its end."
            ) from error
        found[kind] = row
    return {**data, "drills": {kind: found[kind] for kind in sorted(found)}}


def update(path: Path, reports: Iterable[Path]) -> None:
    """Write what reports measured into a file, and say so.

    Raises:
        CostError: the file or a report is none.
    """
    load(path)
    data = renewed(json.loads(path.read_text(encoding="utf-8")), reports)
    try:
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CostError(f"{path} cannot be written: {error.strerror}. Name another file with --drills.") from error
    for kind, drill in load(path).measured.items():
        print(f"{kind}: {drill.outage_s:.1f} s without service, {drill.lost} writes lost ({drill.where}, {drill.date})")
