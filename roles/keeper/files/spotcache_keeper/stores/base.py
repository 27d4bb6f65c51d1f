"""What a place for backups can do. The data volume, S3 and EBS snapshots are three; another one is a class like them.

A store is added to `Context.stores`; what every store keeps to is in tests/unit/keeper/test_stores.py.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import Takeover
from spotcache_keeper.stores.manifest import Manifest
from spotcache_keeper.stores.retention import Policy
from spotcache_keeper.stores.source import Source


class StoreBusyError(KeeperError):
    """The place takes no further copy at the moment; nothing is wrong with it."""


@dataclass(frozen=True)
class Retention:
    """What is kept, and what must be.

    Attributes:
        now: the present moment.
        policy: how much of it in this place.
        referred: ids of backups that something on this host refers to.
        takeovers: tells how the environment changed hands: what a superseded host made is not good. It is asked with
            what a place has listed: nothing in the list is then younger than what it tells of.
    """

    now: datetime
    policy: Policy
    referred: frozenset[str] = frozenset()
    takeovers: Callable[[Sequence[Source]], tuple[Takeover, ...]] = lambda _: ()


class Pruned(Protocol):
    """A place whose older copies are given up."""

    @property
    def name(self) -> str:
        """As results and sources call it: `volume`, `s3`, `ebs`."""

    def prune(self, retention: Retention) -> Iterator[str]:
        """Delete what retention gives up, and tell of each copy when it is gone."""


class Store(Pruned, Protocol):
    """A place that holds copies of backups."""

    @property
    def nearness(self) -> int:
        """The smaller, the sooner a copy of the same backup is taken from here; no two stores have the same."""

    @property
    def lacks(self) -> str:
        """The beginning of a sentence about a copy that did not get here."""

    @property
    def at_once(self) -> bool:
        """Whether a copy is whole when `put` returns; otherwise it becomes so later, and `sources` says when."""

    def label(self, copy: str | None) -> str:
        """The place for a person, with the name that it gives a copy where that says more."""

    def ids(self) -> list[str]:
        """Ids of the backups that are here and whole, or will be, as far as a listing tells."""

    def sources(self) -> list[Source]:
        """Every copy, also those that cannot be used, and why not."""

    def put(self, directory: Path, manifest: Manifest) -> str:
        """Copy a verified backup, which lies in the directory.

        Returns:
            What the place calls the copy.

        Raises:
            StoreBusyError: not at the moment.
            KeeperError: it did not get here.
        """

    def fetch(self, source: Source, directory: Path) -> None:
        """Copy the two files of a backup into an existing directory; nothing is verified.

        Raises:
            DamagedError: this copy is not what it should be.
            KeeperError: it cannot be read now.
        """
