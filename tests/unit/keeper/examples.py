# SPDX-License-Identifier: GPL-3.0-or-later
"""A moment, a manifest, backups and a docker command, as the tests of the keeper's parts need them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.stores.manifest import Manifest
from spotcache_keeper.stores.source import Source, State
from spotcache_keeper.system.commands import Completed
from spotcache_keeper.system.times import UTC

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
MANIFEST = Manifest(
    id="20261122T120000Z-3f9a1c",
    environment="stg",
    created=NOON,
    reason="timer",
    redis_version="7.0.15",
    rdb_bytes=1234,
    rdb_sha256="ab" * 32,
    databases={0: DatabaseCount(10, 3), 5: DatabaseCount(1, 0)},
    host="i-0123456789abcdef0",
    zone="ap-northeast-1a",
    verified=True,
    engine="redis",
    rdb_version=10,
)
NEARNESS = {"volume": 0, "s3": 1, "ebs": 2}


def source(hours: int, where: str = "s3", *, state: State = "complete", **more: Any) -> Source:
    """A backup made some hours after noon."""
    created = NOON + timedelta(hours=hours)
    usable = state == "complete"
    snapshot = {"snapshot_id": f"snap-{hours:08x}"} if where == "ebs" else {}
    values = {"verified": usable, "environment": "stg", **snapshot, **more}
    return Source(f"{created:%Y%m%dT%H%M%SZ}-{hours:06x}", created, where, NEARNESS[where], state=state, **values)


class Docker:
    """A docker command that answers as told and remembers what it was asked."""

    def __init__(self, answers: Sequence[tuple[str, Completed]]) -> None:
        self._answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, argv: Sequence[str], *, timeout: float) -> Completed:  # noqa: ARG002
        self.asked.append(list(argv))
        text = " ".join(argv)
        return next((answer for begin, answer in self._answers if text.startswith(begin)), Completed(0, "", ""))
