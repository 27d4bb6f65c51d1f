"""What `list` and `status` say, as data and as tables for a person."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from spotcache_keeper.backup.restore import gather
from spotcache_keeper.backup.switch_data import read_journal
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.node.drain import read_drain
from spotcache_keeper.server.engines import NAMES
from spotcache_keeper.stores.local import mib
from spotcache_keeper.stores.manifest import databases_json
from spotcache_keeper.stores.source import Source, default_order, newest_first
from spotcache_keeper.system.lock import holder_of, is_held
from spotcache_keeper.system.state import BOOT, WATCH, recall
from spotcache_keeper.system.times import age_text, from_epoch, from_text, to_text


@dataclass(frozen=True)
class Listing:
    """Every source.

    Attributes:
        environment: the host's.
        sources: newest first.
        unreadable: places that could not be read, and why.
    """

    environment: str
    sources: list[Source]
    unreadable: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The listing as `list --json` prints it, without what every command adds."""
        return {
            "environment": self.environment,
            "sources": [source.to_json() for source in self.sources],
            "unreadable": self.unreadable,
        }


def make_listing(ctx: Context) -> Listing:
    """Read every place."""
    ctx.check_volume()
    sources, unreadable = gather(ctx)
    return Listing(ctx.config.environment, newest_first(sources), unreadable)


def listing_table(listing: Listing, now: datetime) -> str:
    """The listing for a person."""
    rows = [
        (
            source.id,
            to_text(source.created),
            local_text(source.created),
            age_text((now - source.created).total_seconds()),
            source.where,
            source.state,
            "yes" if source.verified else "no",
            "-" if source.keys is None else f"{source.keys:,}",
            "-" if source.bytes is None else mib(source.bytes),
            " ".join(filter(None, (source.snapshot_id, source.note))),
        )
        for source in listing.sources
    ]
    head = ("ID", "CREATED (UTC)", "LOCAL", "AGE", "WHERE", "STATE", "VERIFIED", "KEYS", "RDB", "NOTE")
    lines = [table(head, rows, right=(3, 7, 8))] if rows else [f"There is no backup of {listing.environment} yet."]
    lines += [f"{place} could not be read: {reason}" for place, reason in listing.unreadable.items()]
    return "\n".join(lines)


def make_status(ctx: Context) -> dict[str, Any]:
    """Everything a person asks when something seems wrong; what cannot be found out is said, never an error."""
    remembered = recall(ctx.config.state_directory)
    try:
        listing = make_listing(ctx)
    except KeeperError as error:
        listing = Listing(ctx.config.environment, [], {"volume": str(error)})
    usable = [source for source in listing.sources if source.usable]
    newest = next(iter(default_order(usable)), None)
    journal = read_journal(ctx)
    identity = ctx.machine.identity()
    return {
        "environment": ctx.config.environment,
        "host": identity.instance_id,
        "zone": identity.zone,
        "redis": _redis_status(ctx),
        "newest": newest.to_json() if newest else None,
        "newest_age_seconds": int((ctx.now() - newest.created).total_seconds()) if newest else None,
        "sources": _summary(ctx, listing),
        "last_backup": remembered.get("last_backup"),
        "last_restore": remembered.get("last_restore"),
        "last_error": remembered.get("last_error"),
        "drain": _drain(ctx),
        "boot": recall(ctx.config.state_directory, BOOT),
        "watch": recall(ctx.config.state_directory, WATCH),
        "running": holder_of(ctx.lock_path) if is_held(ctx.lock_path) else None,
        "interrupted_restore": journal.id if journal and not is_held(ctx.lock_path) else None,
    }


def status_table(status: dict[str, Any], now: datetime) -> str:
    """The status for a person."""
    redis, newest, error = status["redis"], status["newest"], status["last_error"]
    rows = [
        (
            "Environment",
            f"{status['environment']} on {status['host']} {status['zone'] and '(' + status['zone'] + ')'}".strip(),
        ),
        ("Redis", _redis_line(redis)),
    ]
    if newest:
        created = from_text(newest["created"])
        age = age_text((now - created).total_seconds())
        keys = "?" if newest["keys"] is None else f"{newest['keys']:,}"
        text = f"{newest['id']} ({newest['where']}), {age} old, {keys} keys"
        rows.append(("Newest backup", f"{text}, {newest['created']} = {local_text(created)}"))
    else:
        rows.append(("Newest backup", "none"))
    for place, entry in status["sources"].items():
        text = (
            entry["unreadable"]
            or f"{entry['verified']} verified of {entry['count']}, newest {entry['newest'] or 'none'}"
        )
        rows.append((f"  {place}", text))
    for key, name in (("last_backup", "Last backup"), ("last_restore", "Last restore")):
        if status[key]:
            rows.append((name, f"{status[key]['id']} at {status[key]['at']}"))
    rows.append(("Last error", f"{error['at']} {error['command']}: {error['message']}" if error else "none"))
    rows += _watch_rows(status)
    if status["running"]:
        rows.append(("Running", status["running"]))
    if status["interrupted_restore"]:
        rows.append(
            (
                "Unfinished",
                f"the restore of {status['interrupted_restore']} was killed; the next backup or restore ends it",
            )
        )
    width = max(len(name) for name, _text in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _drain(ctx: Context) -> dict[str, Any] | None:
    """How far this host's end has come; None while it goes on."""
    drain = read_drain(ctx.config.state_directory)
    return None if drain is None else asdict(drain) | {"over": drain.over}


def _watch_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """What the watcher knows, for a person."""
    watch, drain = status["watch"], status["drain"]
    rows = []
    if sentence := (watch.get("budget") or {}).get("sentence"):
        rows.append(("Spot notice", sentence))
    if drain and drain["host"] == status["host"]:
        text = "taken back" if drain["withdrawn"] else "done" if drain["over"] else "at work"
        steps = ", ".join(drain["steps"]) or "nothing yet"
        rows.append(("End of host", f"{drain['cause']}, due {drain['due']}: {text} ({steps})"))
    boot = [f"{line['at']} {line['line']}" for line in _last(status["boot"])[-4:]]
    rows += list(zip(["Boot", *[""] * len(boot)], boot, strict=False))
    lines = [f"{line['at']} {line['line']}" for line in _last(watch)]
    return rows + list(zip(["Watch", *[""] * len(lines)], lines, strict=False))


def _last(watch: dict[str, Any]) -> list[dict[str, str]]:
    """The watcher's last lines."""
    lines: list[dict[str, str]] = watch.get("lines") or []
    return lines[-8:]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """An aligned table; the columns numbered in `right` are aligned to the right."""
    cells = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            text.rjust(widths[column]) if column in right else text.ljust(widths[column])
            for column, text in enumerate(row)
        ).rstrip()
        for row in cells
    )


def local_text(moment: datetime) -> str:
    """A moment in the host's own time zone."""
    return moment.astimezone().strftime("%m-%d %H:%M %Z")


def _redis_status(ctx: Context) -> dict[str, Any]:
    """How Redis is."""
    try:
        container = ctx.engine.state()
    except KeeperError as error:
        return {"state": "unknown", "note": str(error)}
    if container is None:
        return {"state": "absent", "note": f"there is no container {ctx.config.container}"}
    if not container.running:
        return {"state": container.status, "note": ctx.engine.last_words()}
    try:
        with ctx.redis() as server:
            state = server.state()
    except KeeperError as error:
        return {"state": "not answering", "note": str(error)}
    return {
        "state": "loading" if state.loading else "ready",
        "note": "" if state.save_ok else "its last background save failed",
        "engine": state.engine,
        "version": state.version,
        "keys": state.keys,
        "databases": databases_json(state.databases),
        "changes_since_save": state.changes,
        "last_rdb": to_text(from_epoch(state.last_save)),
        "append_only": state.aof_enabled,
    }


def _redis_line(redis: dict[str, Any]) -> str:
    """How Redis is, for a person."""
    if "version" not in redis:
        return f"{redis['state']}: {redis['note']}"
    text = f"{redis['state']}, {NAMES[redis['engine']]} {redis['version']}, {redis['keys']:,} keys"
    text += f", {redis['changes_since_save']:,} changes since its last RDB"
    return f"{text}; {redis['note']}" if redis["note"] else text


def _summary(ctx: Context, listing: Listing) -> dict[str, dict[str, Any]]:
    """Each place in numbers."""
    summary: dict[str, dict[str, Any]] = {}
    for place in [store.name for store in ctx.stores]:
        here = [source for source in listing.sources if source.where == place]
        usable = [source for source in here if source.usable]
        summary[place] = {
            "count": len(here),
            "verified": len(usable),
            "pending": sum(source.state == "pending" for source in here),
            "newest": usable[0].id if usable else None,
            "unreadable": listing.unreadable.get(place),
        }
    return summary
