"""Putting an RDB in the place of Redis' data, so that a kill at any moment leaves either the old data or the new.

Everything is prepared in `restore/new` on the data volume; then that directory and Redis' own are exchanged in one step
of the filesystem. A journal in `restore/` says what was going on; `recover` reads it at the beginning of every run.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from spotcache_keeper.backup.current_data import record_restored
from spotcache_keeper.context import Context
from spotcache_keeper.errors import InterruptedRunError, KeeperError
from spotcache_keeper.server.client import NotAnsweringError, Redis, ServerState, pauses
from spotcache_keeper.server.counts import Databases
from spotcache_keeper.stores.local import check_free_space
from spotcache_keeper.stores.manifest import Manifest
from spotcache_keeper.system.files import exchange, read_json, readable_errors, sync, write_atomically
from spotcache_keeper.system.times import to_text

Phase = Literal["stopping", "starting", "undoing"]
_MARGIN_BYTES = 16 * 1024 * 1024
_RUNS = frozenset({"running", "restarting", "paused"})


@dataclass(frozen=True)
class Journal:
    """What a run that is killed must leave behind.

    Attributes:
        id: of the backup that is being restored.
        begun: when, as text.
        phase: `stopping` until the directories are exchanged, `starting` from then on, `undoing` when it went wrong.
        status: of Redis' container before, in Docker's words.
        keep_as: where the replaced data is to stay; None deletes it at the end.
        new_inode: of the prepared directory: where it is tells whether the exchange happened.
    """

    id: str
    begun: str
    phase: Phase
    status: str
    keep_as: str | None
    new_inode: int


@dataclass(frozen=True)
class Loaded:
    """What Redis said after the start.

    Attributes:
        keys: read from the RDB, or from the append-only file built of it.
        expired: left out since their time to live had ended.
        compared: databases were compared one by one; not possible once clients have written.
    """

    keys: int
    expired: int
    compared: bool


def work_directory(ctx: Context) -> Path:
    """Where a restore is prepared."""
    return ctx.config.volume_path / "restore"


def read_journal(ctx: Context) -> Journal | None:
    """What an unfinished restore left, or None."""
    data: dict[str, Any] | None = read_json(work_directory(ctx) / "journal.json")
    if data is None:
        return None
    try:
        return Journal(**data)
    except TypeError:
        return None


def recover(ctx: Context) -> None:
    """End an interrupted restore: forwards if its data is in place and Redis starts with it, else backwards.

    Forwards, since clients may have written to the restored Redis meanwhile. What was done is added to the warnings.

    Raises:
        KeeperError: Redis starts with neither.
    """
    work = work_directory(ctx)
    if not work.exists():
        return
    ctx.engine.remove_scratch()
    journal = read_journal(ctx)
    if journal is None:
        # Killed before it touched Redis, or after all was done.
        _remove(work)
        return
    ctx.report(f"ending the interrupted restore of {journal.id}")
    if not _is_exchanged(ctx, journal) or journal.phase == "undoing":
        _undo(ctx, journal)
        ctx.warnings.append(f"an interrupted restore of {journal.id} (begun {journal.begun}) was undone")
        return
    try:
        _start(ctx)
    except KeeperError as error:
        _undo(ctx, journal)
        ctx.warnings.append(
            f"an interrupted restore of {journal.id} (begun {journal.begun}) was undone, "
            f"since Redis does not start with it: {error}"
        )
        return
    _finish(ctx, journal)
    ctx.warnings.append(f"an interrupted restore of {journal.id} (begun {journal.begun}) was completed")


def put_in_place(ctx: Context, manifest: Manifest, rdb: Path, *, keep_as: Path | None) -> Loaded:
    """Replace Redis' data by a verified RDB, start Redis and compare what it loaded.

    Args:
        ctx: the host's parts; no other restore is unfinished.
        manifest: of the backup.
        rdb: its verified RDB, on the data volume.
        keep_as: where the replaced data is to stay; None deletes it at the end.

    Raises:
        KeeperError: it did not work; the old data is in place again, and Redis runs if it ran before.
    """
    container = ctx.engine.state()
    work = work_directory(ctx)
    append_only = _append_only(ctx)
    if append_only:
        # It begins as another copy of the RDB.
        check_free_space(ctx.config.volume_path, manifest.rdb_bytes + _MARGIN_BYTES, "the append-only file")
    with readable_errors("preparing the restore"):
        new = _prepare(ctx, work, manifest, rdb)
        journal = Journal(
            id=manifest.id,
            begun=to_text(ctx.now()),
            phase="stopping",
            status=container.status if container else "absent",
            keep_as=str(keep_as) if keep_as else None,
            new_inode=new.stat().st_ino,
        )
    _write(ctx, journal)
    try:
        ctx.report("stopping Redis")
        if container is not None and container.status in _RUNS:
            ctx.engine.stop(ctx.config.timeouts.stop)
        built: tuple[Loaded, tuple[int, int]] | None = None
        with readable_errors("preparing the restore"):
            _carry_over(ctx, ctx.config.redis_directory, new)
            if append_only:
                ctx.report("building the append-only file")
                built = _build_append_only(ctx, manifest, new)
            for path in (new, *(found for found in new.rglob("*") if not found.is_symlink())):
                sync(path)
        ctx.report("putting the backup in place")
        _write(ctx, replace(journal, phase="starting"))
        _must_be_stopped(ctx)
        exchange(new, ctx.config.redis_directory)
        ctx.report("starting Redis")
        state = _start(ctx)
        ctx.report("comparing what Redis loaded")
        loaded = _compare_appended(*built, state) if built else compare(manifest, state)
    except (Exception, InterruptedRunError) as error:
        try:
            _undo(ctx, journal)
        except KeeperError as second:
            raise KeeperError(f"{error}; and putting the old data back failed as well: {second}") from error
        if isinstance(error, KeeperError):
            raise type(error)(f"{error}; the old data is in place again") from error
        raise
    _finish(ctx, journal)
    return loaded


def compare(manifest: Manifest, state: ServerState) -> Loaded:
    """Compare what Redis loaded with the manifest.

    Redis leaves out keys whose time to live ended while they lay in the RDB, and says how many. Once clients have
    written, only its own count of the load can be compared.

    Raises:
        KeeperError: something is missing or too much.
    """
    missing = manifest.keys - state.keys
    expired = state.loaded_expired
    if state.loaded is not None and expired is not None:
        if state.loaded + expired != manifest.keys:
            raise KeeperError(
                f"Redis loaded {state.loaded} keys and left out {expired} expired ones; the backup has {manifest.keys}"
            )
    else:
        expired = max(0, missing - state.gone)
    if state.changes:
        return Loaded(manifest.keys - expired, expired, compared=False)
    if state.loaded is not None and missing != expired + state.gone:
        raise KeeperError(
            f"Redis holds {state.keys} keys; the backup has {manifest.keys}, "
            f"and only {expired + state.gone} expired meanwhile"
        )
    _compare_databases(manifest.databases, state.databases, evicted=state.gone > 0)
    return Loaded(manifest.keys - expired, expired, compared=True)


def _compare_appended(loaded: Loaded, expected: tuple[int, int], state: ServerState) -> Loaded:
    """Compare what Redis read from an append-only file with what the second server held when it wrote it.

    Raises:
        KeeperError: it read fewer or more keys.
    """
    least, most = expected
    if state.loaded is not None and not least <= state.loaded <= most:
        raise KeeperError(f"Redis read {state.loaded} keys from its append-only file instead of {most}")
    return loaded


def _compare_databases(backed_up: Databases, held: Databases, *, evicted: bool) -> None:
    """Each database must hold its keys; only those with a time to live may be gone.

    Raises:
        KeeperError: names the first database that differs.
    """
    for number in sorted({*backed_up, *held}):
        before = backed_up.get(number)
        now = held[number].keys if number in held else 0
        most = before.keys if before else 0
        # An eviction policy may drop keys without a time to live as soon as Redis runs.
        least = 0 if evicted or before is None else before.keys - before.expires
        if not least <= now <= most:
            raise KeeperError(
                f"database {number} holds {now} keys; the backup has {most}, of which {most - least} may have expired"
            )


def _prepare(ctx: Context, work: Path, manifest: Manifest, rdb: Path) -> Path:
    """The directory that will be Redis' own: the backup's RDB under Redis' name, owned like the present one."""
    config = ctx.config
    owner = config.redis_directory.stat()
    if work.exists():
        _remove(work)
    work.mkdir(mode=0o700)
    new = work / "new"
    new.mkdir()
    os.chown(new, owner.st_uid, owner.st_gid)
    new.chmod(owner.st_mode & 0o7777)
    target = new / config.dbfilename
    # A link costs neither time nor room, and Redis replaces its file by rename: the backup stays what it is.
    os.link(rdb, target)
    os.chown(target, owner.st_uid, owner.st_gid)
    # What a file's age says must be the data's age, not that of the copy.
    os.utime(target, (manifest.created.timestamp(), manifest.created.timestamp()))
    return new


def _carry_over(ctx: Context, old: Path, new: Path) -> None:
    """Bring along what lies in Redis' directory and is neither its data nor left over from a broken save."""
    config = ctx.config
    data = {config.dbfilename, config.appendfilename, config.appenddirname}
    for path in old.iterdir():
        if path.name in data or path.name.startswith("temp-") or path.is_socket():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=os.link)
            for copied in (new / path.name, *(new / path.name).rglob("*")):
                if copied.is_dir():
                    original = (old / copied.relative_to(new)).stat()
                    os.chown(copied, original.st_uid, original.st_gid)
        else:
            os.link(path, new / path.name, follow_symlinks=False)


def _append_only(ctx: Context) -> bool:
    """Whether Redis loads an append-only file at its start: its configuration or the running server says so."""
    if ctx.config.appendonly:
        return True
    try:
        with ctx.redis() as server:
            return server.setting("appendonly") == "yes"
    except NotAnsweringError:
        return False


def _build_append_only(ctx: Context, manifest: Manifest, new: Path) -> tuple[Loaded, tuple[int, int]]:
    """Build the append-only file from the RDB, by a second server without a network.

    Redis ignores the RDB while its append-only file is on ("Redis persistence", "How I can switch to AOF"): so the
    second server loads the RDB with it off, and is then told to switch it on.

    Returns:
        What it loaded, and the least and most keys the real server may read from the file.
    """
    config = ctx.config
    options = ["--dbfilename", config.dbfilename, "--appendonly", "no", "--save", "", "--unixsocketperm", "700"]
    options += ["--appendfilename", config.appendfilename] if config.appendfilename != "appendonly.aof" else []
    options += ["--appenddirname", config.appenddirname] if config.appenddirname != "appendonlydir" else []
    with ctx.engine.scratch(new, options) as socket, Redis(socket=socket, timeout=config.timeouts.answer) as server:
        state = server.wait_until_ready(config.timeouts.start)
        loaded = compare(manifest, state)
        most = state.keys
        server.set_setting("appendonly", "yes")
        deadline = time.monotonic() + config.timeouts.backup
        for pause in pauses():
            state = server.state()
            if not state.aof_rewriting:
                break
            if time.monotonic() >= deadline:
                raise KeeperError(f"the append-only file was not written within {config.timeouts.backup} s")
            time.sleep(pause)
        if not (state.aof_enabled and state.aof_rewrite_ok):
            raise KeeperError("the second server could not write the append-only file (a full disk?)")
        server.shut_down()
        _wait_until_gone(server, config.timeouts.stop)
    socket.unlink(missing_ok=True)
    return loaded, (state.keys, most)


def _wait_until_gone(server: Redis, timeout: float) -> None:
    """Wait until a server that was told to end has ended."""
    deadline = time.monotonic() + timeout
    for pause in pauses():
        try:
            server.state()
        except NotAnsweringError:
            return
        if time.monotonic() >= deadline:
            raise KeeperError(f"the second server did not end within {timeout:.0f} s")
        time.sleep(pause)


def _start(ctx: Context) -> ServerState:
    """Start Redis and wait until it has loaded its data.

    Raises:
        KeeperError: it ends, restarts over and over, or is not ready in time.
    """
    ctx.engine.start()
    with ctx.redis() as server:
        return ctx.wait_for_redis(server)


def _undo(ctx: Context, journal: Journal) -> None:
    """Put the old data back, and start Redis if it ran before.

    Raises:
        KeeperError: Redis does not start with it; the data is in place nevertheless.
    """
    ctx.report("putting the old data back")
    _write(ctx, replace(journal, phase="undoing"))
    if _is_exchanged(ctx, journal):
        ctx.engine.stop(ctx.config.timeouts.stop)
        exchange(work_directory(ctx) / "new", ctx.config.redis_directory)
    try:
        if journal.status == "running":
            _start(ctx)
        elif journal.status in _RUNS:
            # It never came up before, so nobody waits for it now.
            ctx.engine.start()
    finally:
        _remove(work_directory(ctx))


def _finish(ctx: Context, journal: Journal) -> None:
    """Note what was restored, and give up the old data."""
    work = work_directory(ctx)
    with readable_errors("ending the restore"):
        record_restored(ctx, journal.id)
        if journal.keep_as is not None and (work / "new").exists():
            (work / "new").rename(journal.keep_as)
        _remove(work)


def _must_be_stopped(ctx: Context) -> None:
    """Refuse to move a directory that a running Redis would go on writing to.

    Raises:
        KeeperError: something started it again.
    """
    container = ctx.engine.state()
    if container is not None and container.running:
        raise KeeperError(f"{ctx.config.container} was started by something else during the restore")


def _is_exchanged(ctx: Context, journal: Journal) -> bool:
    """Whether the prepared directory is Redis' own now."""
    try:
        return ctx.config.redis_directory.stat().st_ino == journal.new_inode
    except FileNotFoundError:
        return False


def _write(ctx: Context, journal: Journal) -> None:
    """Bring the journal onto the disk."""
    with readable_errors("writing the restore's journal"):
        write_atomically(work_directory(ctx) / "journal.json", json.dumps(asdict(journal), indent=2) + "\n")


def _remove(work: Path) -> None:
    """Delete the work directory, the journal first: without one, what is left of it means nothing."""
    with readable_errors(f"removing {work}"):
        (work / "journal.json").unlink(missing_ok=True)
        if work.exists():
            sync(work)
            shutil.rmtree(work)
