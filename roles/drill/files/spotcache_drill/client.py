"""The client of a drill: numbered keys, whose acknowledgements are noted, while the host under it is lost.

Its accounts are plain data; `loss` and `Accounts.outage` say what they come to and need no Redis.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from spotcache_drill.wire import RedisError

# What was written vanishes by itself where a drill could not remove it.
KEEP_SECONDS = 24 * 3600
_PAGE = 500


class Asks(Protocol):
    """A connection to a Redis."""

    def ask(self, *words: bytes) -> object:
        """One command and its answer."""

    def close(self) -> None:
        """Leave."""


@dataclass(frozen=True)
class Names:
    """What a key is called, and which value belongs to it.

    Attributes:
        mark: of this drill; no other one's keys are met.
    """

    mark: str

    def key(self, number: int) -> bytes:
        """The name of a key."""
        return f"spotcache-drill:{self.mark}:{number}".encode()

    def value(self, number: int) -> bytes:
        """Its value, which follows from the number: another value is a wrong one."""
        return f"{number}:{hashlib.sha256(f'{self.mark}:{number}'.encode()).hexdigest()}".encode()


@dataclass(frozen=True)
class Target:
    """Where clients are sent.

    Attributes:
        address: of the host; empty when nobody knows.
        host: the instance that has it; empty where it is not known.
        public: its public address; empty without one.
    """

    address: str
    host: str = ""
    public: str = ""


@dataclass(frozen=True)
class Service:
    """What the client got from one host.

    Attributes:
        address: of the host.
        host: its instance id; empty where it is not known.
        first_read: Unix time in seconds of the first answer to a read; None before.
        first_write: Unix time of the first acknowledged write; None before.
    """

    address: str
    host: str = ""
    first_read: float | None = None
    first_write: float | None = None

    def is_at(self, target: Target) -> bool:
        """Whether it is the same host's. A new host may get the address of the one before."""
        return self.address == target.address and (not self.host or not target.host or self.host == target.host)


@dataclass
class Accounts:
    """What the client knows. All times are Unix times in seconds.

    Attributes:
        written: how many keys were tried; their numbers are 0 up to this.
        acknowledged: for each number that Redis confirmed, when.
        refused_at: when the first write began that was not confirmed, after one that was.
        refused: how many writes were not confirmed.
        services: what each host gave, in order.
        error: the last thing that went wrong, for a person.
    """

    written: int = 0
    acknowledged: dict[int, float] = field(default_factory=dict)
    refused_at: float | None = None
    refused: int = 0
    services: list[Service] = field(default_factory=list)
    error: str = ""

    def outage(self, since: float) -> float | None:
        """Seconds of the longest time without an acknowledged write that ended after `since`; None without any."""
        times = sorted(self.acknowledged.values())
        gaps = [later - earlier for earlier, later in itertools.pairwise(times) if later >= since]
        return max(gaps, default=None)

    def last_before(self, moment: float) -> float | None:
        """When the last write was acknowledged before a moment."""
        return max((at for at in self.acknowledged.values() if at <= moment), default=None)


@dataclass(frozen=True)
class Loss:
    """What is not as it was acknowledged.

    Attributes:
        missing: number and time of acknowledgement of each key that is not there.
        altered: the numbers of keys with another value.
    """

    missing: Sequence[tuple[int, float]]
    altered: Sequence[int]


def loss(names: Names, acknowledged: Mapping[int, float], found: Mapping[int, bytes | None]) -> Loss:
    """Compare what was acknowledged with what there is, value by value."""
    missing = [(number, at) for number, at in sorted(acknowledged.items()) if found.get(number) is None]
    altered = [
        number
        for number in sorted(acknowledged)
        if (value := found.get(number)) is not None and value != names.value(number)
    ]
    return Loss(missing, altered)


def pages(numbers: Iterable[int]) -> Iterable[list[int]]:
    """Numbers, some at a time."""
    ordered = sorted(numbers)
    return [ordered[at : at + _PAGE] for at in range(0, len(ordered), _PAGE)]


def read_back(connection: Asks, names: Names, numbers: Iterable[int]) -> dict[int, bytes | None]:
    """The values that Redis has; None where there is none.

    Raises:
        OSError: Redis does not answer.
        RedisError: it refuses.
    """
    found: dict[int, bytes | None] = {}
    for page in pages(numbers):
        answer = connection.ask(b"MGET", *(names.key(number) for number in page))
        if not isinstance(answer, list) or len(answer) != len(page):
            raise RedisError(f"MGET of {len(page)} keys was answered with {answer!r:.60}")
        found |= dict(zip(page, answer, strict=True))
    return found


def remove(connection: Asks, names: Names, numbers: Iterable[int]) -> None:
    """Take the keys away again.

    Raises:
        OSError: Redis does not answer.
        RedisError: it refuses.
    """
    for page in pages(numbers):
        connection.ask(b"UNLINK", *(names.key(number) for number in page))


class Client:
    """Writes until it is told to stop, wherever the name leads.

    Args:
        names: of the keys.
        target: where to find Redis now.
        connect: opens a connection to it.
        pause: seconds between two writes.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        names: Names,
        target: Callable[[], Target],
        connect: Callable[[Target], Asks],
        pause: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.names, self.accounts = names, Accounts()
        self._target, self._connect, self._pause, self._clock = target, connect, pause, clock
        self._connection: Asks | None = None
        self.stopped = threading.Event()

    def run(self) -> None:
        """Write until stopped."""
        while not self.stopped.is_set():
            self.step()
            self.stopped.wait(self._pause)
        self._leave()

    def step(self) -> None:
        """One write, after a read where the connection is new."""
        began = self._clock()
        try:
            if self._connection is None:
                self._arrive()
            connection = self._connection
            assert connection is not None
            number = self.accounts.written
            self.accounts.written += 1
            answer = connection.ask(
                b"SET", self.names.key(number), self.names.value(number), b"EX", b"%d" % KEEP_SECONDS
            )
            if answer != b"OK":
                raise RedisError(f"SET was answered with {answer!r:.60}")
            at = self._clock()
            self.accounts.acknowledged[number] = at
            self._served(first_write=at)
        except (OSError, RedisError) as error:
            self._failed(began, error)

    def _arrive(self) -> None:
        """Connect to where the name leads, and read."""
        target = self._target()
        if not target.address:
            raise ConnectionError("the name leads nowhere")
        self._connection = self._connect(target)
        if not self.accounts.services or not self.accounts.services[-1].is_at(target):
            self.accounts.services.append(Service(target.address, target.host))
        # Whatever it holds: a server that still loads answers with an error.
        self._connection.ask(b"GET", self.names.key(max(0, self.accounts.written - 1)))
        self._served(first_read=self._clock())

    def _served(self, first_read: float | None = None, first_write: float | None = None) -> None:
        """Note what came first from this host."""
        last = self.accounts.services[-1]
        if (first_write is not None and last.first_write is None) or (
            first_read is not None and last.first_read is None
        ):
            self.accounts.services[-1] = replace(
                last,
                first_read=last.first_read if last.first_read is not None else first_read,
                first_write=last.first_write if last.first_write is not None else first_write,
            )

    def _failed(self, began: float, error: Exception) -> None:
        """A write was not confirmed: begin anew, perhaps elsewhere."""
        self.accounts.refused += 1
        self.accounts.error = f"{type(error).__name__}: {error}"
        if self.accounts.refused_at is None and self.accounts.acknowledged:
            self.accounts.refused_at = began
        self._leave()

    def _leave(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
