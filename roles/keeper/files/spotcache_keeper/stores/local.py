"""Backups on the data volume: `backups/<id>/` with an RDB and its manifest.

A directory with a backup's name is a whole backup; everything unfinished is called `<id>.partial` and is removed by the
next run.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spotcache_keeper.errors import DamagedError, KeeperError
from spotcache_keeper.server.container import Engine
from spotcache_keeper.server.counts import Databases
from spotcache_keeper.server.rdb import databases_of
from spotcache_keeper.stores.base import Retention
from spotcache_keeper.stores.manifest import MANIFEST_NAME, RDB_NAME, Manifest, parse_manifest
from spotcache_keeper.stores.retention import given_up
from spotcache_keeper.stores.source import Source, describe, judge, kept_of
from spotcache_keeper.system.files import readable_errors, sha256_of, sync, write_atomically
from spotcache_keeper.system.times import created_of, is_id

_PARTIAL = ".partial"


class VolumeStore:
    """The backups below one directory.

    Args:
        directory: `backups` on the data volume.
        environment: whose backups they should be.
    """

    name = "volume"
    nearness = 0
    lacks = "not on the volume"
    at_once = True

    def __init__(self, directory: Path, environment: str) -> None:
        self.directory = directory
        self._environment = environment

    def label(self, copy: str | None) -> str:  # noqa: ARG002
        """The place for a person."""
        return "the kept volume"

    def prepare(self) -> None:
        """Make the directory, and remove what killed runs left unfinished."""
        with readable_errors("preparing the backups' directory"):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            for path in self.directory.glob(f"*{_PARTIAL}"):
                shutil.rmtree(path)

    def path(self, backup_id: str) -> Path:
        """Where a whole backup lies."""
        return self.directory / backup_id

    def new_partial(self, backup_id: str) -> Path:
        """An empty directory for a backup that is being put together."""
        path = self.directory / f"{backup_id}{_PARTIAL}"
        with readable_errors(f"making {path}"):
            if path.exists():
                shutil.rmtree(path)
            path.mkdir(mode=0o700)
        return path

    def ids(self) -> list[str]:
        """Ids of the whole backups, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(path.name for path in self.directory.iterdir() if is_id(path.name) and path.is_dir())

    def sources(self) -> list[Source]:
        """Every backup, by its manifest and its RDB's size; the RDB itself is not read."""
        return [self._source(backup_id) for backup_id in self.ids()]

    def manifest(self, backup_id: str) -> Manifest | None:
        """A backup's manifest, or None when the backup is missing or its manifest unreadable."""
        return self._source(backup_id).manifest

    def complete(self, partial: Path, manifest: Manifest) -> Path:
        """Make a whole backup of a partial one, on the disk when this returns.

        A damaged backup of the same id gives way.
        """
        target = self.path(manifest.id)
        with readable_errors(f"completing {target}"):
            write_atomically(partial / MANIFEST_NAME, manifest.to_json())
            sync(partial / RDB_NAME)
            sync(partial)
            if target.exists():
                self.remove(manifest.id)
            partial.rename(target)
            sync(self.directory)
        return target

    def link(self, rdb: Path, partial: Path) -> Path:
        """Have Redis' present RDB in a backup that is being put together.

        Redis replaces its file by rename, so this link stays the same bytes whatever Redis saves next.
        """
        with readable_errors("linking Redis' RDB into the backups"):
            os.link(rdb, partial / RDB_NAME)
        return partial / RDB_NAME

    def discard(self, partial: Path) -> None:
        """Give up a backup that was being put together."""
        shutil.rmtree(partial, ignore_errors=True)

    def put(self, directory: Path, manifest: Manifest) -> str:
        """Copy a backup from elsewhere; one that is here already stays as it is."""
        target = self.path(manifest.id)
        if directory != target:
            partial = self.new_partial(manifest.id)
            with readable_errors(f"writing {partial}"):
                shutil.copyfile(directory / RDB_NAME, partial / RDB_NAME)
                (partial / RDB_NAME).chmod(0o600)
            self.complete(partial, manifest)
        return str(target)

    def fetch(self, source: Source, directory: Path) -> None:
        """Copy a backup's two files into an existing directory; nothing is verified."""
        for name in (MANIFEST_NAME, RDB_NAME):
            held, target = self.path(source.id) / name, directory / name
            if not held.is_file():
                raise DamagedError(f"{held} is gone")
            with readable_errors(f"writing {target}"):
                shutil.copyfile(held, target)
                target.chmod(0o600)
                sync(target)

    def prune(self, retention: Retention) -> Iterator[str]:
        """Delete what retention gives up."""
        listed = self.sources()
        sources = judge(listed, retention.takeovers(listed))
        items = [kept_of(source, source.id) for source in sources if source.state != "foreign"]
        for item in given_up(items, now=retention.now, policy=retention.policy, referred=retention.referred):
            self.remove(item.key)
            yield item.key

    def remove(self, backup_id: str) -> None:
        """Delete a backup; half a deletion leaves nothing that looks like one."""
        path = self.path(backup_id)
        doomed = self.directory / f"{backup_id}.removed{_PARTIAL}"
        with readable_errors(f"removing {path}"):
            if path.exists():
                path.rename(doomed)
                shutil.rmtree(doomed)

    def _source(self, backup_id: str) -> Source:
        """One backup as a source."""
        path = self.path(backup_id)
        created = created_of(backup_id)
        try:
            manifest = read_manifest(path)
        except DamagedError as error:
            return Source(
                backup_id, created, self.name, self.nearness, state="damaged", verified=False, note=str(error)
            )
        return describe(manifest, backup_id, self, self._environment, _size(path / RDB_NAME))


def read_manifest(directory: Path) -> Manifest:
    """The manifest in a backup's directory.

    Raises:
        DamagedError: it is missing or wrong.
    """
    try:
        text = (directory / MANIFEST_NAME).read_bytes()
    except OSError as error:
        raise DamagedError(f"its manifest cannot be read: {error.strerror}") from error
    return parse_manifest(text)


def examine(rdb: Path, engine: Engine, timeout: float) -> tuple[str, Databases]:
    """SHA-256 and keys per database of an RDB that the server's own check accepts.

    Both run at once: on a small host each takes about as long as reading the file.

    Raises:
        DamagedError: it does not accept it.
    """
    with ThreadPoolExecutor(max_workers=1) as pool, readable_errors(f"reading {rdb}"):
        digest = pool.submit(sha256_of, rdb)
        databases = databases_of(rdb, engine.check_rdb(rdb, timeout=timeout))
        return digest.result(), databases


def verify(directory: Path, backup_id: str, environment: str, engine: Engine, timeout: float) -> Manifest:
    """Prove that a backup is what its manifest says: size, SHA-256, the server's check, keys per database, environment.

    Returns:
        The manifest.

    Raises:
        DamagedError: names the first difference.
    """
    manifest = read_manifest(directory)
    rdb = directory / RDB_NAME
    source = describe(manifest, backup_id, VolumeStore, environment, _size(rdb))
    if not source.usable:
        raise DamagedError(source.note or "it was never verified")
    digest, databases = examine_against(rdb, manifest, engine, timeout)
    if digest != manifest.rdb_sha256:
        raise DamagedError(f"its RDB's SHA-256 is {digest[:12]}... instead of {manifest.rdb_sha256[:12]}...")
    if dict(databases) != dict(manifest.databases):
        raise DamagedError("its RDB's keys per database differ from the manifest")
    return manifest


def examine_against(rdb: Path, manifest: Manifest, engine: Engine, timeout: float) -> tuple[str, Databases]:
    """As `examine`, but a wrong SHA-256 is reported before what the check says about the wrong bytes."""
    with ThreadPoolExecutor(max_workers=1) as pool, readable_errors(f"reading {rdb}"):
        digest = pool.submit(sha256_of, rdb)
        check = engine.check_rdb(rdb, timeout=timeout)
        if (found := digest.result()) != manifest.rdb_sha256:
            return found, {}
        return found, databases_of(rdb, check)


def check_free_space(directory: Path, needed: int, what: str) -> None:
    """Refuse to begin what would fill the disk.

    Args:
        directory: on the filesystem in question.
        needed: bytes.
        what: what they are for.

    Raises:
        KeeperError: there is less.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise KeeperError(
            f"not enough room on {directory}: {mib(needed)} needed for {what}, {mib(free)} free; "
            "enlarge the data volume or lower keep_local_count"
        )


def mib(count: int) -> str:
    """Bytes for a sentence."""
    return f"{count / 1024 / 1024:.1f} MiB"


def _size(path: Path) -> int | None:
    """Bytes of a file, None where it is missing."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None
