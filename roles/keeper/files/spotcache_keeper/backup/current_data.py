"""What Redis holds now, and whether a restore may put something else in its place."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.server.client import NotAnsweringError, ServerState
from spotcache_keeper.server.rdb import databases_of
from spotcache_keeper.stores.manifest import RDB_NAME
from spotcache_keeper.stores.source import Source
from spotcache_keeper.system.files import read_json, sha256_of, write_atomically
from spotcache_keeper.system.times import from_epoch, to_text

Verdict = Literal["in-place", "free", "newer"]


@dataclass(frozen=True)
class Present:
    """The data that a restore would replace.

    Attributes:
        container: Docker's word for Redis' container.
        state: what Redis says, or None when it does not answer.
        held: id of the backup that Redis' RDB is, None when it is none that is known.
        as_of: when the files were last written, or that backup made; None when there is no data on the disk.
        settled: what Redis holds in memory is that RDB, unchanged.
        origin: id of the backup whose data that is, where it was made right after a restore.
        loose_data: Redis is empty, but its directory holds an RDB with keys that is no known backup.
    """

    container: str
    state: ServerState | None
    held: str | None
    as_of: datetime | None
    settled: bool
    loose_data: bool = False
    origin: str = ""


def verdict_on(present: Present, source: Source) -> tuple[Verdict, str]:
    """Whether a backup may replace the present data, and why not.

    Returns:
        `in-place` when it is the present data, `free` when nothing newer would be lost, `newer` otherwise; with a
        sentence in the last case.
    """
    state = present.state
    if state is None:
        if present.as_of is None or present.held == source.id or present.as_of <= source.created:
            return "free", ""
        return "newer", (
            f"Redis does not answer ({present.container}), and its files of {to_text(present.as_of)} are newer than "
            f"backup {source.id}"
        )
    # An empty Redis beside that backup's RDB never read it, unless the backup is empty as well.
    if present.settled and source.id in (present.held, present.origin) and (state.keys > 0 or source.keys == 0):
        return "in-place", ""
    if state.keys == 0:
        return "free", ""
    if not present.settled:
        since = f"{state.changes} changes since its last save"
        what = since if state.changes else "an append-only file of unknown content"
        return "newer", f"Redis holds {state.keys} keys with {what}, which backup {source.id} lacks"
    if present.as_of is not None and present.as_of > source.created:
        which = f"backup {present.held}" if present.held else f"the data of {to_text(present.as_of)}"
        return "newer", f"Redis holds {state.keys} keys, {which}, newer than backup {source.id}"
    return "free", ""


def inspect(ctx: Context, known: Iterable[Source]) -> Present:
    """Find out what Redis holds.

    Args:
        ctx: the host's parts.
        known: sources with manifests, to recognise an RDB by.

    Raises:
        KeeperError: there is no container to restore into.
    """
    container = ctx.engine.state()
    if container is None:
        raise KeeperError(f"there is no container {ctx.config.container} on this host; run provision first")
    state: ServerState | None = None
    if container.running:
        try:
            with ctx.redis() as server:
                state = ctx.wait_for_redis(server)
        except NotAnsweringError as error:
            ctx.warnings.append(str(error))
    rdb = ctx.rdb_path
    held: Source | None = None
    quiet = state is not None and not state.changes and not state.saving and state.save_ok
    if state is not None and state.aof_enabled and not state.saved_since_start:
        # It loaded its append-only file, and nothing tells what that holds but the keeper's note of having built it.
        settled = quiet and (held := _restored(ctx, known)) is not None
    else:
        held = identify(ctx, known)
        settled = quiet
    if settled and held is not None:
        as_of: datetime | None = held.created
    else:
        times = [path.stat().st_mtime for path in [rdb, *append_only_files(ctx)] if path.exists()]
        as_of = from_epoch(max(times)) if times else None
    loose = (
        state is not None and state.keys == 0 and rdb.exists() and not identify(ctx, known) and _holds_keys(ctx, rdb)
    )
    origin = held.manifest.restored_from if held is not None and held.manifest is not None else ""
    return Present(container.status, state, held.id if held else None, as_of, settled, loose, origin)


def identify(ctx: Context, known: Iterable[Source]) -> Source | None:
    """The backup that Redis' RDB is: the same file, or the same bytes."""
    rdb = ctx.rdb_path
    if not rdb.exists():
        return None
    digest: str | None = None
    size = rdb.stat().st_size
    for source in known:
        if source.manifest is None or source.manifest.rdb_bytes != size:
            continue
        copy = ctx.volume.path(source.id) / RDB_NAME
        if copy.exists() and copy.samefile(rdb) and source.where == ctx.volume.name:
            return source
        digest = digest or sha256_of(rdb)
        if digest == source.manifest.rdb_sha256:
            return source
    return None


def append_only_files(ctx: Context) -> list[Path]:
    """Files of the append-only log, whichever layout: one file (Redis 6) or a directory (Redis 7)."""
    config = ctx.config
    single = config.redis_directory / config.appendfilename
    directory = config.redis_directory / config.appenddirname
    return ([single] if single.is_file() else []) + (
        sorted(path for path in directory.iterdir() if path.is_file()) if directory.is_dir() else []
    )


def record_restored(ctx: Context, backup_id: str) -> None:
    """Note which backup was restored, and how large the append-only file was then."""
    record = {"id": backup_id, "at": to_text(ctx.now()), "append_only": _append_only_sizes(ctx)}
    write_atomically(ctx.restored_path, json.dumps(record, indent=2) + "\n")


def known_sources(groups: Sequence[Iterable[Source]]) -> list[Source]:
    """Sources whose manifests are at hand, to recognise an RDB by."""
    return [source for group in groups for source in group if source.manifest is not None]


def _append_only_sizes(ctx: Context) -> dict[str, int]:
    """Bytes of each append-only file, to see later whether anything was written."""
    return {path.name: path.stat().st_size for path in append_only_files(ctx)}


def _restored(ctx: Context, known: Iterable[Source]) -> Source | None:
    """The backup that the append-only file was built from, while nothing was written to it since."""
    restored: dict[str, Any] = read_json(ctx.restored_path) or {}
    if restored.get("append_only") != _append_only_sizes(ctx):
        return None
    return next((source for source in known if source.id == restored.get("id")), None)


def _holds_keys(ctx: Context, rdb: Path) -> bool:
    """Whether a stray RDB has keys; one that cannot be read may have."""
    try:
        databases = databases_of(rdb, ctx.engine.check_rdb(rdb, timeout=ctx.config.timeouts.check))
    except KeeperError:
        return True
    return any(count.keys for count in databases.values())
