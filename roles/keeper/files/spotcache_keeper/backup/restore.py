"""Restoring a backup: picked, fetched, verified, put in place, compared."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spotcache_keeper.backup.create import backup
from spotcache_keeper.backup.current_data import Present, inspect, known_sources, verdict_on
from spotcache_keeper.backup.entitlement import takeovers
from spotcache_keeper.backup.switch_data import Loaded, put_in_place
from spotcache_keeper.context import Context
from spotcache_keeper.errors import ConfigError, DamagedError, KeeperError, NoUsableCopyError, RefusedError
from spotcache_keeper.stores.local import check_free_space, verify
from spotcache_keeper.stores.manifest import RDB_NAME, Manifest, databases_json
from spotcache_keeper.stores.source import (
    BEFORE_RESTORE,
    Source,
    Wanted,
    choose,
    judge,
    newest_first,
    parse_wanted,
    same_backup,
)
from spotcache_keeper.system.times import to_text

_MARGIN_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """What a restore is asked to do.

    Attributes:
        wanted: `--from`, as typed; None for the newest.
        force: go on although Redis holds newer data.
        fallback: take an older backup when the wanted one turns out damaged, and go on when a place cannot be read.
        expect_environment: refuse to work on another environment's host.
        superseded: what lies in Redis' directory is known to hold nothing that the backup lacks, however young its
            files are; it is not kept.
        needed: names of the stores without which nobody can tell which backup is the newest: not even `fallback` does
            without them.
    """

    wanted: str | None = None
    force: bool = False
    fallback: bool = False
    expect_environment: str | None = None
    superseded: bool = False
    needed: frozenset[str] = frozenset()


@dataclass
class RestoreResult:
    """What a restore came to.

    Attributes:
        manifest: of the backup that Redis holds now.
        source: the copy it was read from.
        changed: whether anything was done.
        loaded: what Redis loaded; None when nothing was done.
        skipped: copies that could not be used, and why.
        backed_up_before: id of the backup of the replaced data, made because of `force`.
        parked: where the replaced data still is.
        seconds: how long each part took.
        newest: the newest good backup that there was to choose from.
    """

    manifest: Manifest
    source: Source
    changed: bool
    loaded: Loaded | None = None
    skipped: list[dict[str, str]] = field(default_factory=list)
    backed_up_before: str | None = None
    parked: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    newest: Source | None = None

    def to_json(self) -> dict[str, Any]:
        """The result as `restore --json` prints it, without what every command adds."""
        manifest = self.manifest
        return {
            "id": manifest.id,
            "created": to_text(manifest.created),
            "environment": manifest.environment,
            "source": self.source.where,
            "snapshot_id": self.source.snapshot_id,
            "engine": manifest.engine,
            "redis_version": manifest.redis_version,
            "keys": manifest.keys,
            "databases": databases_json(manifest.databases),
            "rdb": {"bytes": manifest.rdb_bytes, "sha256": manifest.rdb_sha256},
            "keys_loaded": self.loaded.keys if self.loaded else None,
            "keys_expired": self.loaded.expired if self.loaded else None,
            "databases_compared": self.loaded.compared if self.loaded else None,
            "skipped": self.skipped,
            "backed_up_before": self.backed_up_before,
            "parked": self.parked,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def restore(ctx: Context, request: Request) -> RestoreResult:
    """Restore one backup. The caller holds the lock, and `recover` has run.

    Raises:
        ConfigError: the request does not fit this host.
        NoSourceError: there is no such backup.
        RefusedError: Redis holds newer data, and `force` is not set.
        NoUsableCopyError: none can be used; nothing was changed.
        KeeperError: Redis does not come up with it; the old data is in place then.
    """
    begun = time.monotonic()
    _check_environment(ctx, request)
    wanted = parse_wanted(request.wanted)
    ctx.check_volume()
    ctx.volume.prepare()
    ctx.report("looking for backups")
    sources = _gather(ctx, request, wanted)
    candidates = choose(sources, wanted)
    newest = next((source for source in newest_first(sources) if source.usable and not source.superseded), None)
    _mention_pending(ctx, sources, candidates[0])
    ctx.report("looking at what Redis holds")
    present = inspect(ctx, known_sources([sources]))
    skipped: list[dict[str, str]] = []
    for candidate in candidates if request.fallback else same_backup(candidates):
        verdict, why = verdict_on(present, candidate)
        if verdict == "in-place" and (manifest := _manifest_of(candidate, sources)) is not None:
            return RestoreResult(manifest, candidate, changed=False, skipped=skipped, newest=newest)
        if verdict == "newer" and not request.force:
            raise RefusedError(
                f"{why}; nothing was changed. Use --force to replace it all the same (it is backed up first)"
            )
        fetching = time.monotonic()
        try:
            manifest = _obtain(ctx, candidate)
        except DamagedError as error:
            skipped.append({"id": candidate.id, "where": candidate.where, "reason": str(error)})
            ctx.warnings.append(f"backup {candidate.id} ({candidate.where}) cannot be used: {error}")
            continue
        result = RestoreResult(manifest, candidate, changed=True, skipped=skipped, newest=newest)
        result.seconds["fetch"] = time.monotonic() - fetching
        keep_as = None if request.superseded else _keep_present(ctx, present, result, newer=verdict == "newer")
        swapping = time.monotonic()
        result.loaded = put_in_place(ctx, manifest, ctx.volume.path(manifest.id) / RDB_NAME, keep_as=keep_as)
        result.parked = str(keep_as) if keep_as else None
        result.seconds["swap"] = time.monotonic() - swapping
        result.seconds["total"] = time.monotonic() - begun
        return result
    raise _nothing_good(candidates, skipped)


def gather(ctx: Context) -> tuple[list[Source], dict[str, str]]:
    """Every source, and why a place could not be read."""
    sources: list[Source] = []
    unreadable: dict[str, str] = {}
    for store in ctx.stores:
        try:
            sources += store.sources()
        except KeeperError as error:
            unreadable[store.name] = str(error)
    try:
        return judge(sources, takeovers(ctx)), unreadable
    except KeeperError as error:
        ctx.warnings.append(f"which backups a superseded host made is not known: {error}")
        return sources, unreadable


def _check_environment(ctx: Context, request: Request) -> None:
    """Refuse the wrong host.

    Raises:
        ConfigError: it is that of another environment.
    """
    expected = request.expect_environment
    if expected is not None and expected != ctx.config.environment:
        raise ConfigError(
            f"this host belongs to environment {ctx.config.environment!r}, not to {expected!r}: check the inventory"
        )


def _gather(ctx: Context, request: Request, wanted: Wanted) -> list[Source]:
    """Every source there is to choose from.

    Raises:
        KeeperError: a place cannot be read, so that nobody can tell which backup is the newest.
    """
    if ctx.ebs is not None:
        try:
            for volume_id in ctx.ebs.remove_left_overs():
                ctx.warnings.append(f"{volume_id}, left behind by an interrupted restore, was deleted")
        except KeeperError as error:
            ctx.warnings.append(f"volumes that an interrupted restore may have left were not looked for: {error}")
    sources, unreadable = gather(ctx)
    for place, reason in unreadable.items():
        found = any(source.usable and wanted.backup_id == source.id for source in sources)
        if not found and (not request.fallback or place in request.needed):
            raise KeeperError(
                f"{reason}; without it nobody can tell which backup is the newest. Mend it, name a backup with --from, "
                "or take the best that can be read with --fallback"
            )
        ctx.warnings.append(f"{place} could not be read: {reason}")
    if wanted.snapshot_id is not None and all(source.snapshot_id != wanted.snapshot_id for source in sources):
        if ctx.ebs is None:
            raise ConfigError(
                f"--from {wanted.snapshot_id}: EBS snapshots are switched off on this host (ebs_snapshots)"
            )
        extra = ctx.ebs.find(wanted.snapshot_id)
        sources += [extra] if extra is not None else []
    return sources


def _mention_pending(ctx: Context, sources: Sequence[Source], chosen: Source) -> None:
    """Say that a newer backup exists but cannot be read yet."""
    for source in sources:
        if source.state == "pending" and source.verified and source.created > chosen.created:
            ctx.warnings.append(f"{source.snapshot_id} holds a newer backup, {source.id}, but is still pending")


def _manifest_of(candidate: Source, sources: Sequence[Source]) -> Manifest | None:
    """The manifest of a backup, from whichever copy has it at hand."""
    return next((source.manifest for source in sources if source.id == candidate.id and source.manifest), None)


def _obtain(ctx: Context, source: Source) -> Manifest:
    """A verified copy of the backup on the volume.

    Raises:
        DamagedError: this copy cannot be used.
    """
    environment, timeout = ctx.config.environment, ctx.config.timeouts.check
    ctx.report(f"fetching and verifying {source.id} ({source.where})")
    if source.where == ctx.volume.name:
        return verify(ctx.volume.path(source.id), source.id, environment, ctx.engine, timeout)
    if source.bytes is not None:
        check_free_space(ctx.config.volume_path, source.bytes + _MARGIN_BYTES, f"backup {source.id}")
    partial = ctx.volume.new_partial(source.id)
    try:
        ctx.store(source).fetch(source, partial)
        manifest = verify(partial, source.id, environment, ctx.engine, timeout)
        ctx.volume.complete(partial, manifest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _keep_present(ctx: Context, present: Present, result: RestoreResult, *, newer: bool) -> Path | None:
    """Back up the data that is about to be replaced, if it is newer than what replaces it.

    Returns:
        Where its files are to be kept because no verified backup of it can be had; None when they need not be.
    """
    parked = ctx.config.volume_path / f"replaced-{ctx.now().strftime('%Y%m%dT%H%M%SZ')}"
    if newer and present.state is not None:
        if present.settled and present.held is not None and ctx.volume.manifest(present.held) is not None:
            result.backed_up_before = present.held
            return None
        ctx.report("backing up the present data first")
        try:
            before = backup(ctx, BEFORE_RESTORE, snapshot=False, prune=False)
        except KeeperError as error:
            ctx.warnings.append(f"the present data could not be backed up ({error}); its files are kept in {parked}")
            return parked
        result.backed_up_before = before.manifest.id
        ctx.warnings += before.problems
        return None
    if newer or present.loose_data:
        ctx.warnings.append(f"the replaced data is no backup that is known; its files are kept in {parked}")
        return parked
    return None


def _nothing_good(candidates: Sequence[Source], skipped: Sequence[dict[str, str]]) -> NoUsableCopyError:
    """What to say when no copy could be used."""
    reasons = "; ".join(f"backup {entry['id']} ({entry['where']}): {entry['reason']}" for entry in skipped)
    tried = {entry["id"] for entry in skipped}
    older = next((source for source in candidates if source.id not in tried), None)
    offer = (
        f" The next older good one is {older.id} of {to_text(older.created)}: take it with --from {older.id}, "
        "or let the keeper do so with --fallback"
        if older
        else " There is no older one"
    )
    return NoUsableCopyError(f"no usable copy: {reasons}; nothing was changed.{offer}")
