"""The manifest beside every RDB: what it must be, byte for byte and key for key."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spotcache_keeper.errors import DamagedError
from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.system.times import from_text, is_id, to_text

SCHEMA = 1
RDB_NAME = "dump.rdb"
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """One backup.

    Attributes:
        id: of the backup.
        environment: it belongs to.
        created: a moment at which the data was already as in the RDB, or older.
        reason: `timer`, `manual`, `final`, or `before-restore`.
        redis_version: of the server that wrote it, as its own engine counts.
        rdb_bytes: size of the RDB.
        rdb_sha256: its SHA-256, in hexadecimal.
        databases: keys per database, as they stand in the RDB.
        host: id of the instance.
        zone: its availability zone; empty where unknown.
        verified: the server's own check passed.
        term: of the lease under which it was made; 0 where there was none.
        restored_from: id of the backup that was restored just before, and whose data this is; empty otherwise.
        engine: of the server that wrote it, `redis` or `valkey`; empty in manifests of a time that knew Redis alone.
        rdb_version: of the RDB's format; 0 in those manifests.
    """

    id: str
    environment: str
    created: datetime
    reason: str
    redis_version: str
    rdb_bytes: int
    rdb_sha256: str
    databases: Mapping[int, DatabaseCount]
    host: str
    zone: str
    verified: bool
    term: int = 0
    restored_from: str = ""
    engine: str = ""
    rdb_version: int = 0

    @property
    def keys(self) -> int:
        """Keys in all databases."""
        return sum(count.keys for count in self.databases.values())

    def to_json(self) -> str:
        """The manifest's file."""
        return (
            json.dumps(
                {
                    "schema": SCHEMA,
                    "id": self.id,
                    "environment": self.environment,
                    "created": to_text(self.created),
                    "reason": self.reason,
                    "engine": self.engine,
                    "redis_version": self.redis_version,
                    "rdb": {"bytes": self.rdb_bytes, "sha256": self.rdb_sha256, "version": self.rdb_version},
                    "databases": databases_json(self.databases),
                    "keys": self.keys,
                    "host": self.host,
                    "zone": self.zone,
                    "verified": self.verified,
                    "term": self.term,
                    "restored_from": self.restored_from,
                },
                indent=2,
            )
            + "\n"
        )


def databases_json(databases: Mapping[int, DatabaseCount]) -> dict[str, dict[str, int]]:
    """Counts per database as JSON has them: names are texts there."""
    return {str(number): {"keys": count.keys, "expires": count.expires} for number, count in sorted(databases.items())}


def parse_manifest(text: str | bytes) -> Manifest:
    """The reverse of `Manifest.to_json`.

    Raises:
        DamagedError: names what is wrong in it.
    """
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise DamagedError(f"the manifest is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise DamagedError("the manifest is not a JSON object")
    if data.get("schema") != SCHEMA:
        raise DamagedError(f"the manifest has schema {data.get('schema')!r}; this keeper reads {SCHEMA}")
    try:
        databases = {
            int(number): DatabaseCount(_count(entry["keys"]), _count(entry["expires"]))
            for number, entry in data["databases"].items()
        }
        manifest = Manifest(
            id=str(data["id"]),
            environment=str(data["environment"]),
            created=from_text(data["created"]),
            reason=str(data["reason"]),
            redis_version=str(data["redis_version"]),
            rdb_bytes=_count(data["rdb"]["bytes"]),
            rdb_sha256=str(data["rdb"]["sha256"]),
            databases=databases,
            host=str(data["host"]),
            zone=str(data["zone"]),
            verified=data["verified"] is True,
            term=_count(data["term"]),
            restored_from=str(data["restored_from"]),
            engine=str(data.get("engine", "")),
            rdb_version=_count(data["rdb"].get("version", 0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"the manifest lacks or misstates {error}") from error
    if not is_id(manifest.id):
        raise DamagedError(f"the manifest's id {manifest.id!r} is no backup's id")
    if not re.fullmatch(r"[0-9a-f]{64}", manifest.rdb_sha256):
        raise DamagedError(f"the manifest's SHA-256 {manifest.rdb_sha256!r} is none")
    if data.get("keys") != manifest.keys:
        raise DamagedError(f"the manifest's databases hold {manifest.keys} keys, but it says {data.get('keys')!r}")
    return manifest


def _count(value: object) -> int:
    """A number of keys or bytes."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a count: {value!r}")
    return value
