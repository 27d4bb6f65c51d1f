"""Taking a backup: asked for, seen finished, checked, and only then copied off the host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError, RefusedError
from spotcache_keeper.server.client import ServerState, save_in_background, save_in_foreground
from spotcache_keeper.stores.base import Retention, Store, StoreBusyError
from spotcache_keeper.stores.local import check_free_space, examine
from spotcache_keeper.stores.manifest import RDB_NAME, Manifest, databases_json
from spotcache_keeper.stores.retention import Policy
from spotcache_keeper.system.files import read_json, readable_errors
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
    """

    manifest: Manifest
    stored: dict[str, str | None]
    places: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pruned: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The result as `backup --json` prints it, without what every command adds."""
        manifest = self.manifest
        return {
            "id": manifest.id,
            "created": to_text(manifest.created),
            "reason": manifest.reason,
            "environment": manifest.environment,
            "verified": manifest.verified,
            "redis_version": manifest.redis_version,
            "keys": manifest.keys,
            "databases": databases_json(manifest.databases),
            "rdb": {"bytes": manifest.rdb_bytes, "sha256": manifest.rdb_sha256},
            "stored": self.stored,
            "pruned": self.pruned,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def backup(
    ctx: Context, reason: str, *, snapshot: bool = True, prune: bool = True, foreground: bool = False
) -> BackupResult:
    """Take a verified backup and copy it off the host. The caller holds the lock.

    Args:
        ctx: the host's parts.
        reason: written into the manifest.
        snapshot: also ask for an EBS snapshot.
        prune: also apply retention.
        foreground: let Redis save without a fork; nobody is served meanwhile.

    Returns:
        The verified backup. Copies that failed are in `problems`: the backup itself is good then, on this volume only.

    Raises:
        RefusedError: this volume's data would pass for the newest although the environment's data is elsewhere.
        KeeperError: there is no verified backup.
    """
    ctx.check_volume()
    ctx.volume.prepare()
    seconds: dict[str, float] = {}
    manifest, directory = _backup_on_volume(ctx, reason, seconds, foreground=foreground)
    result = BackupResult(manifest, {store.name: None for store in ctx.stores}, seconds=seconds)
    result.stored[ctx.volume.name] = str(directory)
    first, *others = [store for store in ctx.off_host if snapshot or store.at_once]
    # All at once: asking EBS takes a moment, and a slow S3 must not keep it from being asked.
    with ThreadPoolExecutor(max_workers=len(others) or 1) as pool:
        asked = [pool.submit(_copy, ctx, store, directory, result) for store in others]
        _copy(ctx, first, directory, result)
        for one in asked:
            one.result()
    result.places = [store.label(copy) for store in ctx.off_host if (copy := result.stored[store.name])]
    if prune:
        ctx.report("pruning older backups")
        with _timed(seconds, "prune"):
            result.pruned = _prune(ctx)
    return result


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
    ctx: Context, reason: str, seconds: dict[str, float], *, foreground: bool
) -> tuple[Manifest, Path]:
    """The verified backup on the data volume."""
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
            save_now = save_in_foreground if foreground else save_in_background
            state = save_now(server, config.timeouts.backup)
    if _mark(ctx.rdb_path) == before:
        raise KeeperError(
            f"Redis says it saved, but {ctx.rdb_path} did not change: `dir` or `dbfilename` in redis.conf is not what "
            "redis_directory and dbfilename in keeper.json say; run provision"
        )
    partial = ctx.volume.new_partial(new_id(created))
    try:
        return _complete(ctx, partial, created, reason, state.version, seconds)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _complete(
    ctx: Context, partial: Path, created: datetime, reason: str, version: str, seconds: dict[str, float]
) -> tuple[Manifest, Path]:
    """A whole backup of Redis' present RDB, put together in `partial`."""
    rdb = partial / RDB_NAME
    with readable_errors("linking Redis' RDB into the backups"):
        # Redis replaces its file by rename, so this link stays the same bytes whatever Redis saves next.
        os.link(ctx.rdb_path, rdb)
    ctx.report("checking the RDB")
    with _timed(seconds, "check"):
        digest, databases = examine(rdb, ctx.engine, ctx.config.timeouts.check)
    identity = ctx.machine.identity()
    if not identity.zone:
        ctx.warnings.append("the metadata service does not answer: the manifest has the host's name and no zone")
    manifest = Manifest(
        id=partial.stem,
        environment=ctx.config.environment,
        created=created,
        reason=reason,
        redis_version=version,
        rdb_bytes=rdb.stat().st_size,
        rdb_sha256=digest,
        databases=databases,
        host=identity.instance_id,
        zone=identity.zone,
        verified=True,
    )
    return manifest, ctx.volume.complete(partial, manifest)


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


def _prune(ctx: Context) -> dict[str, list[str]]:
    """Apply retention everywhere; what fails is a warning, and tried again after the next backup."""
    config = ctx.config
    # What this volume's data was restored from stays: Redis' own files are recognised by it.
    restored = str((read_json(ctx.restored_path) or {}).get("id") or "")
    retention = Retention(
        now=ctx.now(),
        local=Policy(config.keep_local_count, 0),
        policy=Policy(config.keep_count, config.keep_days, config.keep_weeks),
        referred=frozenset({restored} if restored else ()),
    )
    pruned: dict[str, list[str]] = {store.name: [] for store in ctx.stores}
    for store in ctx.stores:
        try:
            pruned[store.name].extend(store.prune(retention))
        except KeeperError as error:
            ctx.warnings.append(f"older backups were not pruned ({store.name}): {error}")
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
