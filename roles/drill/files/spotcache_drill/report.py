"""What a drill came to: from the client's record, the keeper's words and the interruption's time. Pure functions.

All times are Unix times in seconds, of whichever clock noted them: host and control node keep theirs by NTP.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

PASSED, NOT_PASSED = "passed", "NOT passed"
FIGURES = ("notice_to_seen_s", "seen_to_safe_s", "gone_to_serving_s", "acknowledged_lost", "oldest_lost_s", "outage_s")
_SEEN = re.compile(
    r"^(Spot notice:|Auto Scaling ends this host|this host shuts down|writes are held back|EC2 recommends)"
)
_SAFE = re.compile(r"^final backup \S+(: .*verified; .*\bS3\b| is in S3 now)")
_TEXT = "%Y-%m-%dT%H:%M:%SZ"
_ID = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        name: for a person.
        at: when.
        by: who noted it.
    """

    name: str
    at: float
    by: str


@dataclass(frozen=True)
class Words:
    """What the keeper of one host said, and what it keeps in a file.

    Attributes:
        lines: when and what.
        kept: `drain.json` or `boot.json`.
    """

    lines: Sequence[tuple[float, str]] = ()
    kept: Mapping[str, Any] | None = None

    def first(self, pattern: re.Pattern[str], since: float = 0.0) -> float | None:
        """When a line was said first."""
        return min((at for at, line in self.lines if at >= since and pattern.search(line)), default=None)


def words_of(text: str) -> Words:
    """The keeper's words, from `journalctl -o json` and a JSON file after it; whatever else is in it is left out."""
    lines, kept = [], None
    journal, _line, rest = text.partition("\n---\n")
    for row in journal.splitlines():
        try:
            entry = json.loads(row)
            lines.append((int(entry["__REALTIME_TIMESTAMP"]) / 1e6, str(entry["MESSAGE"])))
        except (ValueError, KeyError, TypeError):
            continue
    try:
        kept = json.loads(rest)
    except ValueError:
        kept = None
    return Words(tuple(lines), kept if isinstance(kept, dict) else None)


def epoch(text: object, form: str = _TEXT) -> float | None:
    """The Unix time of a text such as 2026-11-22T00:15:03Z; None when it is none."""
    try:
        return datetime.strptime(str(text), form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def newest_backup(backups: Iterable[Mapping[str, Any]], injected: float) -> float | None:
    """When the newest backup was begun that was whole before the host was hit by the fault; None without one.

    By its id, such as 20261122T001503Z-3f9a1c: what a backup of this name holds is at least as old as that.
    """
    begun = [epoch(str(backup["id"]).partition("-")[0], _ID) for backup in backups if float(backup["at"]) <= injected]
    return max((at for at in begun if at is not None), default=None)


def clock_text(at: float) -> str:
    """A moment for a person, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def rounded(value: float | None) -> float | None:
    """To the millisecond; more was not measured."""
    return None if value is None else round(value, 3)


def between(start: float | None, end: float | None) -> float | None:
    """Seconds from one moment to another, never less than none; None where one of them is not known."""
    return None if start is None or end is None else rounded(max(0.0, end - start))


def at_of(rows: Iterable[Mapping[str, Any]], key: str, value: object) -> float | None:
    """When the first row with that value was seen."""
    return next((float(row["at"]) for row in rows if row[key] == value), None)


@dataclass(frozen=True)
class Times:
    """When each thing of a drill happened; None for what did not, or is not known."""

    injected: float
    notice: float | None
    seen: float | None
    fenced: float | None
    verified: float | None
    safe: float | None
    gone: float | None
    new_host: float | None
    restored: float | None
    moved: float | None
    first_read: float | None
    first_write: float | None


def times_of(settings: Mapping[str, Any], kept: Mapping[str, Any], old: Words, new: Words) -> Times:
    """Put together what the client, AWS and the keepers know."""
    injected, noticed, replaced = (
        float(settings["injected"]),
        bool(settings["notice"]),
        settings["until"] == "successor",
    )
    drain = old.kept if old.kept and epoch(old.kept.get("seen")) and _recent(old.kept, injected) else {}
    final = (kept.get("final") or {}) if noticed else {}
    safe = old.first(_SAFE, injected)
    if safe is None and (final.get("record") or {}).get("off_host"):
        safe = float(final["at"])
    seconds = ((drain.get("backup") or {}).get("seconds") or {}) if noticed else {}
    service = kept["services"][-1] if replaced and len(kept["services"]) > 1 else {}
    hosts = [host for host in kept["hosts"] if host["id"] != kept["host"]]
    serving = next((host for host in hosts if host["address"] == service.get("address")), None)
    return Times(
        injected=injected,
        notice=injected if noticed else None,
        # A look by the keeper, or the first write that it held back.
        seen=(old.first(_SEEN, injected) or kept["refused_at"]) if noticed or not replaced else None,
        fenced=kept["refused_at"] if noticed else None,
        verified=safe - max(seconds.get("s3", 0.0), seconds.get("ebs", 0.0)) if safe and "s3" in seconds else None,
        safe=safe if noticed else None,
        gone=_gone(settings, kept, drain) if replaced else None,
        new_host=min(serving["states"].values()) if serving else None,
        restored=_restored(new) if replaced else None,
        # A successor with the address of the host before needs no move.
        moved=at_of([row for row in kept["addresses"] if row["at"] >= injected], "address", service.get("address")),
        first_read=service.get("first_read"),
        first_write=service.get("first_write"),
    )


def _recent(drain: Mapping[str, Any], injected: float) -> bool:
    """Whether it is this drill's end; its time is cut to the second."""
    return (epoch(drain.get("seen")) or 0.0) >= injected - 1.0


def _gone(settings: Mapping[str, Any], kept: Mapping[str, Any], drain: Mapping[str, Any]) -> float | None:
    """When the host was gone, at the earliest: where in doubt, the time without it is told as longer.

    With a notice at the announced time, if EC2 was seen to end it later; without one when the last write was
    acknowledged that any client can have got from it.
    """
    looked = kept["host_gone"]
    if looked is None:
        return None
    if settings["notice"]:
        due = epoch(drain.get("due"))
        return float(min(looked, due)) if due is not None else float(looked)
    return float(min(looked, kept["last_write_before"])) if kept["last_write_before"] is not None else float(looked)


def _restored(new: Words) -> float | None:
    """When Redis had its data on the new host: the boot's own last line, without what came after."""
    boot = ((new.kept or {}).get("last_boot") or {}) if new.kept else {}
    said = [at for at, line in new.lines if boot.get("what") and line.startswith(f"{boot['what']}: ")]
    return said[-1] - float((boot.get("seconds") or {}).get("name", 0.0)) if said else None


def events_of(times: Times) -> list[Event]:
    """The timeline, in order."""
    named = [
        ("notice published" if times.notice is not None else "interruption", times.injected, "AWS"),
        ("notice seen", times.seen, "keeper"),
        ("writes fenced", times.fenced, "client"),
        ("backup verified", times.verified, "keeper"),
        ("off the host", times.safe, "keeper"),
        ("host gone", times.gone, "AWS"),
        ("new host", times.new_host, "AWS"),
        ("restored", times.restored, "keeper"),
        ("DNS moved", times.moved, "AWS"),
        ("first read", times.first_read, "client"),
        ("first write", times.first_write, "client"),
    ]
    return sorted((Event(name, at, by) for name, at, by in named if at is not None), key=lambda event: event.at)


def run_of(settings: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """One drill, as it stands in report.json.

    Args:
        settings: of the report: kind, notice, until, injected, how the client got through (`way`), and what the keepers
            said (`old_words`, `new_words`).
        kept: the client's record.
    """
    old, new = words_of(settings.get("old_words") or ""), words_of(settings.get("new_words") or "")
    times = times_of(settings, kept, old, new)
    boot = ((new.kept or {}).get("last_boot") or {}) if settings["until"] == "successor" else {}
    missing = kept["missing"]
    backed_up = newest_backup(kept["backups"], times.injected) if settings["until"] == "successor" else None
    one = {
        "kind": settings["kind"],
        "notice_to_seen_s": between(times.notice, times.seen),
        "seen_to_safe_s": between(times.seen, times.safe) if times.notice is not None else None,
        "floor_backup_s": None,
        "gone_to_serving_s": between(times.gone, times.first_read),
        "floor_restore_s": None,
        "acknowledged_lost": None if missing is None else len(missing) + len(kept["altered"]),
        "oldest_lost_s": _oldest(missing, times.gone),
        "outage_s": rounded(kept["outage_s"]),
        "values_equal": missing is not None and not kept["altered"],
        "lost_older_than_backup": None
        if missing is None or backed_up is None
        else sum(at < backed_up for _number, at in missing),
        "keys_acknowledged": kept["keys_acknowledged"],
        "host": kept["host"],
        "successor": kept["services"][-1]["host"] if times.first_read is not None else None,
        "source": boot.get("source"),
        "boot_seconds": boot.get("seconds"),
        "client_way": (settings.get("way") or {}).get("by"),
        "client_connect_s": (settings.get("way") or {}).get("seconds"),
        "injected_at": rounded(times.injected),
        "said": [
            {"at": rounded(at), "host": host, "line": line}
            for host, words in ((kept["host"], old), (kept["services"][-1]["host"], new))
            for at, line in words.lines
            if at >= times.injected
        ],
        "timeline": [{**asdict(event), "at": rounded(event.at)} for event in events_of(times)],
    }
    return {**one, "problems": problems_of(one, bool(settings["notice"]), kept)}


def _oldest(missing: Sequence[Sequence[float]] | None, gone: float | None) -> float | None:
    """How old the oldest lost write was when the host was gone, in seconds; 0 when none was lost."""
    if missing is None:
        return None
    return 0.0 if not missing else between(min(at for _number, at in missing), gone)


def problems_of(one: Mapping[str, Any], noticed: bool, kept: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, in sentences."""
    said = [f"{kept['ended']}; the client's last error: {kept['last_error'] or 'none'}"] if kept["ended"] else []
    if not kept["hosts"]:
        why = kept["trouble"].get("poll_instances") or "it answered, and named none"
        said.append(f"EC2 showed no instance of the environment, so that nothing is known of when it was gone: {why}")
    if one["acknowledged_lost"] is None:
        return [*said, f"the acknowledged keys could not be read back: {kept['last_error']}"]
    if kept["altered"]:
        said.append(f"{len(kept['altered'])} keys have another value than the one that was acknowledged")
    if noticed and one["acknowledged_lost"]:
        said.append(f"{one['acknowledged_lost']} acknowledged writes were lost although there was a notice")
    if not noticed and one["lost_older_than_backup"]:
        said.append(f"{one['lost_older_than_backup']} writes were lost that are older than the newest verified backup")
    return said


def report_of(runs: Sequence[Mapping[str, Any]], problems: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """report.json: the runs, what else is known, and the verdict."""
    good = bool(runs) and not problems and not any(run["problems"] for run in runs)
    return {"runs": list(runs), **more, "problems": list(problems), "verdict": PASSED if good else NOT_PASSED}


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The median of each figure over the runs that have it."""
    found: dict[str, float | None] = {}
    for name in FIGURES:
        values = [float(run[name]) for run in runs if run.get(name) is not None]
        found[name] = rounded(median(values)) if values else None
    return found


def as_text(one: Mapping[str, Any]) -> str:
    """One drill as a person reads it."""
    start = float(one["injected_at"])
    rows = [
        (event["name"], f"{event['at'] - start:+.1f} s", clock_text(event["at"]), event["by"])
        for event in one["timeline"]
    ]
    head = ("what", "after", "UTC", "noted by")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(4)]
    lines = [
        "  ".join(
            cell.rjust(width) if column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, tuple("-" * width for width in widths), *rows]
    ]
    lost = one["acknowledged_lost"]
    told = "unknown" if lost is None else f"{lost} of {one['keys_acknowledged']:,}"
    if lost and one["oldest_lost_s"] is not None:
        told += f", the oldest {one['oldest_lost_s']:.1f} s before the host was gone"
    out = "unknown" if one["outage_s"] is None else f"{one['outage_s']:.1f}"
    lines += ["", f"Acknowledged writes lost: {told}", f"Seconds without service: {out}"]
    if one.get("client_way"):
        lines.append(f"The client wrote {one['client_way']}; a connection took {one['client_connect_s']:.1f} s")
    lines += [f"Problem: {problem}" for problem in one["problems"]]
    return "\n".join([*lines, f"Verdict: {NOT_PASSED if one['problems'] else PASSED}"])
