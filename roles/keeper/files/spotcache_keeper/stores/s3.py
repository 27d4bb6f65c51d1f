"""Backups in S3: `<prefix><environment>/backups/<id>/dump.rdb` and, written last and deleted first, `manifest.json`.

Without a manifest a backup does not exist.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError  # another one than the builtin until Python 3.11
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.errors import DamagedError, KeeperError
from spotcache_keeper.stores.base import Retention
from spotcache_keeper.stores.manifest import MANIFEST_NAME, RDB_NAME, Manifest, parse_manifest
from spotcache_keeper.stores.retention import firsts, given_up
from spotcache_keeper.stores.source import Source, describe, judge, kept_of
from spotcache_keeper.system.files import readable_errors, sync
from spotcache_keeper.system.times import created_of, is_id

_MIB = 1024 * 1024
# Parts of this size from this size on: S3 takes at most 10,000 parts, so an RDB may have 312 GiB.
_MULTIPART_BYTES = 32 * _MIB
# What is younger may be an upload that goes on.
_ORPHAN_SECONDS = 24 * 3600
_GONE = frozenset({"NoSuchKey", "404", "NotFound"})
# S3's word for an object that is not there, too, to whoever may not list the whole bucket (API reference, GetObject).
_DENIED = frozenset({"AccessDenied", "403", "Forbidden"})
# Something lies there already.
_TAKEN = frozenset({"PreconditionFailed", "412"})


@dataclass(frozen=True)
class Stored:
    """What a listing says about one backup.

    Attributes:
        rdb_bytes: of its RDB, None where that is missing.
        has_manifest: whether the backup exists.
        modified: when the younger of its two objects was written.
    """

    rdb_bytes: int | None
    has_manifest: bool
    modified: datetime


class S3Store:
    """The backups of one environment in a bucket.

    Args:
        client: makes the SDK's S3 client when it is first needed.
        bucket: its name.
        prefix: `<prefix><environment>/backups/`.
        environment: whose backups they should be.
        multipart_bytes: files from this size on are sent in parts of this size.
        deadline: when uploads are waited for no longer, on the monotonic clock; None means however long they take.
        running: the uploads that are under way, by backup.
    """

    name = "s3"
    nearness = 1
    lacks = "not copied to S3"
    at_once = True

    def __init__(
        self,
        client: Callable[[], Any],
        bucket: str,
        prefix: str,
        environment: str,
        multipart_bytes: int = _MULTIPART_BYTES,
        deadline: float | None = None,
        running: dict[str, Future[str]] | None = None,
    ) -> None:
        self._make_client = client
        self._made: Any = None
        self._bucket = bucket
        self._prefix = prefix
        self._environment = environment
        self._multipart_bytes = multipart_bytes
        self._deadline = deadline
        # Shared with those that `within` makes: who comes again waits for what runs and sends nothing twice.
        self._running: dict[str, Future[str]] = {} if running is None else running

    def within(self, seconds: float) -> S3Store:
        """The same store, whose uploads are waited for only so long; they go on in the background."""
        return S3Store(
            self._client,
            self._bucket,
            self._prefix,
            self._environment,
            self._multipart_bytes,
            time.monotonic() + seconds,
            self._running,
        )

    def label(self, copy: str | None) -> str:  # noqa: ARG002
        """The place for a person."""
        return "S3"

    def url(self, backup_id: str) -> str:
        """Where a backup lies."""
        return f"s3://{self._bucket}/{self._prefix}{backup_id}/"

    def stored(self) -> dict[str, Stored]:
        """What there is, by id, from a listing alone."""
        found: dict[str, Stored] = {}
        for entry in self._objects():
            backup_id, _slash, name = entry["Key"][len(self._prefix) :].partition("/")
            if not is_id(backup_id):
                continue
            known = found.get(backup_id, Stored(None, False, entry["LastModified"]))
            known = replace(known, modified=max(known.modified, entry["LastModified"]))
            if name == RDB_NAME:
                known = replace(known, rdb_bytes=int(entry["Size"]))
            elif name == MANIFEST_NAME:
                known = replace(known, has_manifest=True)
            found[backup_id] = known
        return found

    def ids(self) -> list[str]:
        """Ids of the whole backups, from a listing alone."""
        return [backup_id for backup_id, backup in self.stored().items() if backup.has_manifest]

    def sources(self) -> list[Source]:
        """Every backup, with its manifest."""
        stored = self.stored()
        return self._whole(stored) + [
            Source(
                backup_id,
                created_of(backup_id),
                self.name,
                self.nearness,
                state="incomplete",
                verified=False,
                bytes=backup.rdb_bytes,
                note="no manifest: its upload never ended",
                received=backup.modified,
            )
            for backup_id, backup in stored.items()
            if not backup.has_manifest
        ]

    def _whole(self, stored: Mapping[str, Stored]) -> list[Source]:
        """Those of a listing that have a manifest."""
        whole = [backup_id for backup_id, backup in stored.items() if backup.has_manifest]
        self._client()  # One for all threads: clients may be shared, but not made, by several at once.
        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(lambda backup_id: self._source(backup_id, stored[backup_id]), whole))

    def find(self, backup_id: str) -> Source | None:
        """One backup, with its manifest; None when it is not there whole."""
        backup = self.stored().get(backup_id)
        return self._source(backup_id, backup) if backup is not None and backup.has_manifest else None

    def put(self, directory: Path, manifest: Manifest) -> str:
        """Copy a whole backup; S3 compares a checksum of every part, and the size is read back.

        Returns:
            Where it lies now.

        Raises:
            KeeperError: it did not get there, or not within the time that is left.
        """
        if self._deadline is None:
            return self._upload(directory, manifest)
        running = self._running.get(manifest.id)
        if running is None:
            running = self._running[manifest.id] = Future()
            # A daemon: S3 must not keep the keeper from ending either.
            work = threading.Thread(target=self._upload_into, args=(running, directory, manifest), daemon=True)
            work.start()
        try:
            return running.result(max(0.0, self._deadline - time.monotonic()))
        except NotYetError as error:
            raise KeeperError(f"{self.url(manifest.id)} is still being written: S3 is slow") from error
        finally:
            if running.done():
                self._running.pop(manifest.id, None)

    def _upload_into(self, result: Future[str], directory: Path, manifest: Manifest) -> None:
        """One upload, in a thread of its own."""
        try:
            result.set_result(self._upload(directory, manifest))
        # Whatever it is, it belongs to the one who waits.
        except BaseException as error:  # noqa: BLE001
            result.set_exception(error)

    def _upload(self, directory: Path, manifest: Manifest) -> str:
        """Copy a backup, however long it takes."""
        from boto3.s3.transfer import TransferConfig

        key = f"{self._prefix}{manifest.id}/{RDB_NAME}"
        doing = f"writing s3://{self._bucket}/{key}"
        with self._unless_there(), aws_errors(doing), (directory / RDB_NAME).open("rb") as file:
            self._client().upload_fileobj(
                file,
                self._bucket,
                key,
                ExtraArgs={
                    "ServerSideEncryption": "AES256",
                    "ChecksumAlgorithm": "CRC32",
                    "Metadata": {"sha256": manifest.rdb_sha256},
                },
                Config=TransferConfig(
                    multipart_threshold=self._multipart_bytes,
                    multipart_chunksize=self._multipart_bytes,
                    max_concurrency=4,
                ),
            )
        with aws_errors(f"reading back s3://{self._bucket}/{key}"):
            held = self._client().head_object(Bucket=self._bucket, Key=key)
        size, digest = int(held["ContentLength"]), held.get("Metadata", {}).get("sha256")
        if size != manifest.rdb_bytes or digest != manifest.rdb_sha256:
            raise KeeperError(
                f"{doing}: S3 holds {size} bytes with SHA-256 {digest} instead of {manifest.rdb_bytes} with "
                f"{manifest.rdb_sha256}"
            )
        key = f"{self._prefix}{manifest.id}/{MANIFEST_NAME}"
        doing = f"writing s3://{self._bucket}/{key}"
        with self._unless_there(), aws_errors(doing):
            self._client().put_object(
                Bucket=self._bucket,
                Key=key,
                Body=manifest.to_json().encode(),
                ContentType="application/json",
                ServerSideEncryption="AES256",
            )
        # An earlier try may have come so far, or its answer may have been lost.
        with aws_errors(f"reading back s3://{self._bucket}/{key}"):
            text: bytes = self._client().get_object(Bucket=self._bucket, Key=key)["Body"].read()
        if text != manifest.to_json().encode():
            raise KeeperError(f"{doing}: S3 holds the manifest of another backup there")
        return self.url(manifest.id)

    @contextmanager
    def _unless_there(self) -> Iterator[None]:
        """Write on condition that there is nothing yet. What is there is compared afterwards."""
        try:
            yield
        except AwsError as error:
            if error.code not in _TAKEN:
                raise

    def fetch(self, source: Source, directory: Path) -> None:
        """Copy a backup's two files into an existing directory; nothing is verified.

        Raises:
            DamagedError: it is gone, or S3 finds its bytes changed.
        """
        for name in (MANIFEST_NAME, RDB_NAME):
            key = f"{self._prefix}{source.id}/{name}"
            path = directory / name
            try:
                with (
                    aws_errors(f"reading s3://{self._bucket}/{key}"),
                    readable_errors(f"writing {path}"),
                    path.open("wb") as file,
                ):
                    self._client().download_fileobj(self._bucket, key, file)
            except AwsError as error:
                if self._is_gone(error, key):
                    raise DamagedError(f"s3://{self._bucket}/{key} is gone") from error
                raise
            path.chmod(0o600)
            sync(path)

    def prune(self, retention: Retention) -> Iterator[str]:
        """Delete what retention gives up, and what uploads that never ended have left; lock what stays for days.

        A host may not do this: it only adds. What looks after the environment does (`backup.retain`).
        """
        stored = self.stored()
        whole = self._whole(stored)
        # After the list: what was stored later is not in it.
        backups = [kept_of(source, source.id) for source in judge(whole, retention.takeovers(whole))]
        for item in firsts(backups, now=retention.now, policy=retention.policy):
            self.lock(item.key, stored[item.key].modified + timedelta(days=retention.policy.first_days))
        orphans = [
            backup_id
            for backup_id, backup in stored.items()
            if not backup.has_manifest and (retention.now - backup.modified).total_seconds() > _ORPHAN_SECONDS
        ]
        old = given_up(backups, now=retention.now, policy=retention.policy, referred=retention.referred)
        refused: AwsError | None = None
        for backup_id in [item.key for item in old] + orphans:
            try:
                self.remove(backup_id)
            except AwsError as error:
                # Locked by somebody for longer. It keeps nothing else from being deleted.
                if error.code not in _DENIED:
                    raise
                refused = refused or error
                continue
            yield backup_id
        if refused is not None:
            raise refused

    def lock(self, backup_id: str, until: datetime) -> None:
        """Have nobody delete a backup until then, but who may get past a lock; one that is locked so long stays so."""
        manifest = f"{self._prefix}{backup_id}/{MANIFEST_NAME}"
        with aws_errors(f"looking at s3://{self._bucket}/{manifest}"):
            held = self._client().head_object(Bucket=self._bucket, Key=manifest).get("ObjectLockRetainUntilDate")
        if held is not None and held >= until:
            return
        # The manifest last: it is the one that is looked at.
        for key in (f"{self._prefix}{backup_id}/{RDB_NAME}", manifest):
            with aws_errors(f"locking s3://{self._bucket}/{key}"):
                self._client().put_object_retention(
                    Bucket=self._bucket, Key=key, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until}
                )

    def remove(self, backup_id: str) -> None:
        """Delete a backup with all its versions, the manifest first."""
        below = f"{self._prefix}{backup_id}/"
        with aws_errors(f"listing s3://{self._bucket}/{below}"):
            # One list for both, since S3 bills each.
            answer = self._client().list_object_versions(Bucket=self._bucket, Prefix=below)
        found = [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]
        for name in (MANIFEST_NAME, RDB_NAME):
            key = f"{below}{name}"
            with aws_errors(f"deleting s3://{self._bucket}/{key}"):
                for one in [one for one in found if one["Key"] == key]:
                    self._client().delete_object(Bucket=self._bucket, Key=key, VersionId=one["VersionId"])

    def _client(self) -> Any:
        """The SDK's client."""
        if self._made is None:
            self._made = self._make_client()
        return self._made

    def _objects(self) -> Iterator[dict[str, Any]]:
        """Every object below the prefix."""
        with aws_errors(f"listing s3://{self._bucket}/{self._prefix}"):
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                yield from page.get("Contents", [])

    def _is_gone(self, error: AwsError, key: str) -> bool:
        """Whether an object is not there any more, and not only out of reach."""
        if error.code not in _DENIED:
            return error.code in _GONE
        # What is listed is there, and may not be read.
        with aws_errors(f"listing s3://{self._bucket}/{key}"):
            answer = self._client().list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
        return all(entry["Key"] != key for entry in answer.get("Contents", []))

    def _source(self, backup_id: str, stored: Stored) -> Source:
        """One backup that has a manifest."""
        key = f"{self._prefix}{backup_id}/{MANIFEST_NAME}"
        try:
            with aws_errors(f"reading s3://{self._bucket}/{key}"):
                text = self._client().get_object(Bucket=self._bucket, Key=key)["Body"].read()
            found = describe(parse_manifest(text), backup_id, self, self._environment, stored.rdb_bytes)
            return replace(found, received=stored.modified)
        except (DamagedError, AwsError) as error:
            if isinstance(error, AwsError) and not self._is_gone(error, key):
                raise
            return Source(
                backup_id,
                created_of(backup_id),
                self.name,
                self.nearness,
                state="damaged",
                verified=False,
                bytes=stored.rdb_bytes,
                note=str(error),
                received=stored.modified,
            )


def adding(client: Any) -> Any:
    """The same client of S3, which writes an object only where there is none: a host may do no more.

    The distribution's SDK is too old to have a parameter for it.
    """

    def only_new(params: dict[str, Any], **_: Any) -> None:
        params["headers"]["If-None-Match"] = "*"

    for operation in ("PutObject", "CompleteMultipartUpload"):
        client.meta.events.register(f"before-call.s3.{operation}", only_new)
    return client
