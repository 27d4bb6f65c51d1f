"""Taking a backup: asked for, seen finished, checked, and only then copied off the host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from spotcache_keeper.backup.entitlement import Entitlement, SupersededError, entitlement
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError, NotServingError, RefusedError
from spotcache_keeper.server.client import ServerState, save_in_background, save_in_foreground
from spotcache_keeper.server.rdb import beginning_of
from spotcache_keeper.stores.base import Retention, Store, StoreBusyError
from spotcache_keeper.stores.local import check_free_space, examine
from spotcache_keeper.stores.manifest import Manifest, databases_json
from spotcache_keeper.stores.retention import Policy
from spotcache_keeper.system.files import read_json
from spotcache_keeper.system.times import created_of, new_id, next_moment, to_text

# What a backup may take beside the RDB itself: manifest, directories, the filesystem's own blocks.
_MARGIN_BYTES = 16 * 1024 * 1024


@dataclass
class BackupResult:
    """What a backup came to.

    Attributes:
        manifest: of the backup.
        stored: where it lies, by place; None for a place it did not reach.
        places: where else than on the volume it lies, for a person.
        problems: what failed after the backup itself was verified.
        pruned: what retention deleted, by place.
        seconds: how long each part took.
        run: of the server that saved.
    """

    manifest: Manifest
    stored: dict[str, str | None]
    places: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pruned: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    run: str = ""

    def to_json(self) -> dict[str, Any]:
        """The result as `backup --json` prints it, without what every command adds."""
        manifest = self.manifest
        return {
            "id": manifest.id,
            "created": to_text(manifest.created),
            "reason": manifest.reason,
            "term": manifest.term,
            "environment": manifest.environment,
            "verified": manifest.verified,
            "engine": manifest.engine,
            "redis_version": manifest.redis_version,
            "keys": manifest.keys,
            "databases": databases_json(manifest.databases),
            "rdb": {"bytes": manifest.rdb_bytes, "sha256": manifest.rdb_sha256},
            "stored": self.stored,
            "pruned": self.pruned,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def backup(
    ctx: Context,
    reason: str,
    *,
    snapshot: bool = True,
    prune: bool = True,
    foreground: bool = False,
    restored_from: str = "",
) -> BackupResult:
    """Take a verified backup and copy it off the host. The caller holds the lock.

    Args:
        ctx: the host's parts.
        reason: written into the manifest.
        snapshot: also ask for an EBS snapshot.
        prune: also apply retention.
        foreground: let Redis save without a fork; nobody is served meanwhile.
        restored_from: id of the backup that was restored just before.

    Returns:
        The verified backup. Copies that failed are in `problems`: the backup itself is good then, on this volume only.

    Raises:
        SupersededError: another host serves the environment.
        RefusedError: this volume's data would pass for the newest although the environment's data is elsewhere.
        KeeperError: there is no verified backup.
    """
    seconds: dict[str, float] = {}
    # First: a host that does not serve may have no volume yet.
    entitled = entitlement(ctx, by_hand=reason == "manual", final=reason == "final")
    ctx.check_volume()
    ctx.volume.prepare()
    manifest, directory, run = _backup_on_volume(
        ctx, reason, seconds, entitled, foreground=foreground, restored_from=restored_from
    )
    result = BackupResult(manifest, {store.name: None for store in ctx.stores}, seconds=seconds, run=run)
    result.stored[ctx.volume.name] = str(directory)
    # A save may take long. What is copied after another host has taken over is found out, but better not made at all.
    known = _still_entitled(ctx, entitled, reason)
    first, *others = [store for store in ctx.off_host if snapshot or store.at_once]
    if others:
        # All at once: asking EBS takes a moment, and a slow S3 must not keep it from being asked.
        with ThreadPoolExecutor(max_workers=len(others)) as pool:
            asked = [pool.submit(_copy, ctx, store, directory, result) for store in others]
            _copy_to_s3(ctx, first, directory, result, known)
            for one in asked:
                one.result()
    else:
        _copy_to_s3(ctx, first, directory, result, known)
    result.places = [store.label(copy) for store in ctx.off_host if (copy := result.stored[store.name])]
    if prune and entitled.holds:
        ctx.report("pruning older backups")
        with _timed(seconds, "prune"):
            result.pruned = {ctx.volume.name: _prune(ctx)}
    return result


def _still_entitled(ctx: Context, before: Entitlement, reason: str) -> str:
    """Stop before anything leaves the host when it was superseded meanwhile.

    Returns:
        Why that cannot be told; empty when it can.

    Raises:
        SupersededError: another host serves, or this one in a later term.
        NotServingError: this one has given its lease back.
    """
    try:
        now = entitlement(ctx, by_hand=reason == "manual", final=reason == "final")
    except NotServingError:
        raise
    except KeeperError as error:
        ctx.warnings.append(f"who serves could not be read again: {error}")
        # A host that ends has given nothing back yet, and its final backup is tried until the last moment.
        return "" if reason == "final" else str(error)
    if before.holds and now.holds and now.term != before.term:
        raise SupersededError(f"the lease changed hands while a backup was taken (from term {before.term} on)")
    return "" if reason in ("final", "manual") or now.holds else "who serves could not be read"


def _copy_to_s3(ctx: Context, store: Store, directory: Path, result: BackupResult, unknown: str) -> None:
    """A copy where the next host looks first: only of what is known to be the environment's."""
    if unknown:
        result.problems.append(f"{store.lacks}: {unknown}")
    else:
        _copy(ctx, store, directory, result)


def _copy(ctx: Context, store: Store, directory: Path, result: BackupResult) -> None:
    """A copy off the host; that there is none is said in the result."""
    ctx.report(f"copying {result.manifest.id} to {store.label(None)}")
    with _timed(result.seconds, store.name):
        try:
            result.stored[store.name] = store.put(directory, result.manifest)
        except StoreBusyError as error:
            ctx.warnings.append(str(error))
        except (KeeperError, OSError) as error:
            result.problems.append(f"{store.lacks}: {error}")


def _backup_on_volume(
    ctx: Context,
    reason: str,
    seconds: dict[str, float],
    entitled: Entitlement,
    *,
    foreground: bool,
    restored_from: str,
) -> tuple[Manifest, Path, str]:
    """The verified backup on the data volume, and which run of the server saved it."""
    config = ctx.config
    with ctx.redis() as server:
        state = ctx.wait_for_redis(server)
        _refuse_to_overtake(ctx, reason, state)
        _check_room(ctx, state)
        before = _mark(ctx.rdb_path)
        local = ctx.volume.ids()
        created = next_moment(ctx.now(), created_of(local[-1]) if local else None)
        ctx.report(f"asking Redis to save {state.keys} keys")
        with _timed(seconds, "bgsave"):
            if foreground:
                state = save_in_foreground(server, config.timeouts.backup)
            else:
                state = save_in_background(server, config.timeouts.backup, clock=ctx.clock, sleep=ctx.sleep)
    if _mark(ctx.rdb_path) == before:
        raise KeeperError(
            f"Redis says it saved, but {ctx.rdb_path} did not change: `dir` or `dbfilename` in redis.conf is not what "
            "redis_directory and dbfilename in keeper.json say; run provision"
        )
    partial = ctx.volume.new_partial(new_id(created))
    try:
        found = _examined(ctx, partial, created, reason, state, seconds)
        manifest = replace(found, term=entitled.term, restored_from=restored_from)
        return manifest, ctx.volume.complete(partial, manifest), state.run
    except BaseException:
        ctx.volume.discard(partial)
        raise


def _examined(
    ctx: Context, partial: Path, created: datetime, reason: str, state: ServerState, seconds: dict[str, float]
) -> Manifest:
    """Redis' present RDB in `partial`, checked; what is known of it."""
    rdb = ctx.volume.link(ctx.rdb_path, partial)
    ctx.report("checking the RDB")
    with _timed(seconds, "check"):
        digest, databases = examine(rdb, ctx.engine, ctx.config.timeouts.check)
    identity = ctx.machine.identity()
    if not identity.zone:
        ctx.warnings.append("the metadata service does not answer: the manifest has the host's name and no zone")
    return Manifest(
        id=partial.stem,
        environment=ctx.config.environment,
        created=created,
        reason=reason,
        engine=state.engine,
        redis_version=state.version,
        rdb_version=beginning_of(rdb).version,
        rdb_bytes=rdb.stat().st_size,
        rdb_sha256=digest,
        databases=databases,
        host=identity.instance_id,
        zone=identity.zone,
        verified=True,
    )


def _refuse_to_overtake(ctx: Context, reason: str, state: ServerState) -> None:
    """Keep an automatic backup of a host that was never restored from becoming the environment's newest.

    A replacement host begins with an empty Redis. Were that backed up by the timer before somebody restores, "the
    newest verified backup" would be an empty one. A backup that a person asks for says that this is the data to go on
    with.
    """
    if reason == "manual" or (reason != "timer" and state.keys > 0):
        return
    if ctx.volume.ids() or ctx.restored_path.exists():
        return
    elsewhere = next(filter(None, (store.ids() for store in ctx.off_host)), [])
    if elsewhere:
        raise RefusedError(
            f"this volume is new and nothing was restored onto it, but {ctx.config.environment} has backups (newest "
            f"{max(elsewhere)}): restore first, or run `spotcache-keeper backup` by hand to go on with the "
            f"{state.keys} keys that Redis holds now"
        )


def _check_room(ctx: Context, state: ServerState) -> None:
    """Refuse to begin a backup that could fill the disk; older backups that S3 has as well give way first.

    Redis writes the new RDB beside the old one, which an older backup may still hold; it may have grown meanwhile.
    """
    last = ctx.rdb_path.stat().st_size if ctx.rdb_path.exists() else 0
    needed = max(2 * last, state.data_bytes) + _MARGIN_BYTES
    try:
        check_free_space(ctx.config.volume_path, needed, "a backup")
    except KeeperError:
        older = ctx.volume.ids()[:-1]
        if not older:
            raise
        for store in [one for one in ctx.off_host if one.at_once]:
            held = set(store.ids())
            for backup_id in [one for one in older if one in held]:
                older.remove(backup_id)
                ctx.volume.remove(backup_id)
                ctx.warnings.append(
                    f"backup {backup_id} was removed from the volume to make room; {store.label(None)} has it"
                )
        check_free_space(ctx.config.volume_path, needed, "a backup")


def _prune(ctx: Context) -> list[str]:
    """Apply retention to the volume; what fails is a warning, and tried again after the next backup.

    A host takes nothing away anywhere else: `retain` does, under a role that no host has.
    """
    config = ctx.config
    try:
        # Once more: from here on backups are deleted.
        held = entitlement(ctx)
    except KeeperError as error:
        ctx.warnings.append(f"older backups were not pruned: {error}")
        return []
    # What this volume's data was restored from stays: Redis' own files are recognised by it.
    restored = str((read_json(ctx.restored_path) or {}).get("id") or "")
    retention = Retention(
        now=ctx.now(),
        policy=Policy(config.keep_local_count, 0),
        referred=frozenset({restored} if restored else ()),
        takeovers=lambda _: held.takeovers,
    )
    pruned: list[str] = []
    try:
        pruned.extend(ctx.volume.prune(retention))
    except KeeperError as error:
        ctx.warnings.append(f"older backups were not pruned ({ctx.volume.name}): {error}")
    return pruned


def _mark(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced: its inode and its time of change."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the body takes."""
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = time.monotonic() - begun
