"""What Redis holds now, and whether a restore may put something else in its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.files import read_json, sha256_of
from spotcache_keeper.manifest import RDB_NAME
from spotcache_keeper.rdb import databases_of
from spotcache_keeper.redisio import NotAnsweringError, ServerState
from spotcache_keeper.source import Source
from spotcache_keeper.times import from_epoch, to_text

Verdict = Literal["in-place", "free", "newer"]


@dataclass(frozen=True)
class Present:
    """The data that a restore would replace.

    Attributes:
        container: Docker's word for Redis' container.
        state: what Redis says, or None when it does not answer.
        held: id of the save that Redis' RDB is, None when it is none that is known.
        as_of: when the files were last written, or that save made; None when there is no data on the disk.
        settled: what Redis holds in memory is that RDB, unchanged.
        loose_data: Redis is empty, but its directory holds an RDB with keys that is no known save.
    """

    container: str
    state: ServerState | None
    held: str | None
    as_of: datetime | None
    settled: bool
    loose_data: bool = False


def judge(present: Present, source: Source) -> tuple[Verdict, str]:
    """Whether a save may replace the present data, and why not.

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
            f"save {source.id}"
        )
    if state.keys == 0 and source.keys != 0:
        return "free", ""
    if present.settled and present.held == source.id:
        return "in-place", ""
    if not present.settled:
        what = f"{state.changes} changes since its last save" if state.changes else "changes in its append-only file"
        return "newer", f"Redis holds {state.keys} keys with {what}, which save {source.id} lacks"
    if present.as_of is not None and present.as_of > source.created:
        which = f"save {present.held}" if present.held else f"the data of {to_text(present.as_of)}"
        return "newer", f"Redis holds {state.keys} keys, {which}, newer than save {source.id}"
    return "free", ""


def look(ctx: Context, known: Iterable[Source]) -> Present:
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
                state = server.wait_until_ready(ctx.config.timeouts.start, alive=lambda: _still_running(ctx))
        except NotAnsweringError as error:
            ctx.warnings.append(f"Redis runs but does not answer: {error}")
    held = identify(ctx, known)
    rdb = ctx.rdb_path
    appended = append_only_files(ctx)
    settled = state is not None and _is_settled(ctx, state, held)
    times = [path.stat().st_mtime for path in ([rdb] if rdb.exists() else []) + ([] if settled else appended)]
    if held is not None and (settled or not appended):
        as_of: datetime | None = held.created
    else:
        as_of = from_epoch(max(times)) if times else None
    loose = state is not None and state.keys == 0 and held is None and rdb.exists() and _holds_keys(ctx, rdb)
    return Present(container.status, state, held.id if held else None, as_of, settled, loose)


def identify(ctx: Context, known: Iterable[Source]) -> Source | None:
    """The save that Redis' RDB is: the same file, or the same bytes."""
    rdb = ctx.rdb_path
    if not rdb.exists():
        return None
    digest: str | None = None
    size = rdb.stat().st_size
    for source in known:
        if source.manifest is None or source.manifest.rdb_bytes != size:
            continue
        copy = ctx.volume.path(source.id) / RDB_NAME
        if copy.exists() and copy.samefile(rdb) and source.where == "volume":
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


def append_only_sizes(ctx: Context) -> dict[str, int]:
    """Bytes of each append-only file, to see later whether anything was written."""
    return {path.name: path.stat().st_size for path in append_only_files(ctx)}


def known_sources(groups: Sequence[Iterable[Source]]) -> list[Source]:
    """Sources whose manifests are at hand, to recognise an RDB by."""
    return [source for group in groups for source in group if source.manifest is not None]


def _is_settled(ctx: Context, state: ServerState, held: Source | None) -> bool:
    """Whether memory and RDB are the same data.

    With the append-only file on, Redis loads that at its start and not the RDB. So until it saves once, only a restore
    by the keeper tells that the two are the same, and only while the log has not grown.
    """
    if state.changes or state.saving or not state.save_ok:
        return False
    if not state.aof_enabled or state.saved_since_start:
        return True
    restored: dict[str, Any] = read_json(ctx.restored_path) or {}
    return held is not None and restored.get("id") == held.id and restored.get("append_only") == append_only_sizes(ctx)


def _holds_keys(ctx: Context, rdb: Path) -> bool:
    """Whether a stray RDB has keys; one that cannot be read may have."""
    try:
        databases = databases_of(rdb, ctx.engine.check_rdb(rdb, timeout=ctx.config.timeouts.check))
    except KeeperError:
        return True
    return any(count.keys for count in databases.values())


def _still_running(ctx: Context) -> None:
    """Stop waiting for a Redis that ended or restarts over and over.

    Raises:
        NotAnsweringError: it does not run any more.
    """
    container = ctx.engine.state()
    if container is None or not container.running:
        status = container.status if container else "gone"
        raise NotAnsweringError(f"its container is {status}: {ctx.engine.last_words() or 'its log is empty'}")
