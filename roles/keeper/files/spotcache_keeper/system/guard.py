"""The gate before Redis: a set of the kernel's packet filter that lets clients through for as long as it was last told.

What the gate holds has a time-out, which the kernel counts. A keeper that is dead, stopped or cut off does not renew
it, and then no client reaches Redis and no answer of Redis reaches a client, whatever either of them does. Only the
keeper and the health check, on this host itself, always get through.

The time-out counts from when the kernel is told, and a machine may stand still just before that. So the rules name the
end as a time of day as well: told too late, they open nothing. A clock may be set back at that very moment, so it is
looked afterwards whether the kernel was told in time, and a gate that would be open for too long is told again.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from spotcache_keeper.errors import KeeperError
from spotcache_keeper.system.commands import Commands
from spotcache_keeper.system.times import since_boot

_TIMEOUT = 10.0
# Seconds by which a gate may be open for longer than was meant: much less than the lease leaves between two hosts.
_LATE = 1.0
_TABLE = "inet spotcache"
# The instance metadata service (EC2 user guide, "Access instance metadata").
_METADATA = "169.254.169.254"
_METADATA_6 = "fd00:ec2::254"


class Guard(Protocol):
    """What lets clients in to Redis, and keeps them out."""

    @property
    def holds(self) -> bool:
        """Whether nobody gets in while it is closed; without that, only Redis itself can hold writes back."""

    def prepare(self) -> None:
        """Have the gate; whether it is open does not change.

        Raises:
            KeeperError: the kernel does not take it.
        """

    def open(self, until: float) -> None:
        """Let clients in until then, by the keeper's clock, and no longer, however late the kernel is told.

        Raises:
            KeeperError: the kernel does not take it.
        """

    def close(self) -> None:
        """Let nobody in any more.

        Raises:
            KeeperError: the kernel does not take it.
        """


class KernelGuard:
    """`Guard` by nftables.

    Args:
        run: runs nft.
        port: of Redis.
        uid: under which it runs: nothing of that user reaches the metadata service, nor the host's credentials in it.
        clock: the keeper's: seconds that only ever grow.
        time_of_day: Unix time.
    """

    holds = True

    def __init__(
        self,
        run: Commands,
        port: int,
        uid: int,
        clock: Callable[[], float] = since_boot,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self._run = run
        self._port = port
        self._uid = uid
        self._clock = clock
        self._time_of_day = time_of_day

    def _gate(self, end: int) -> list[str]:
        """Makes the gate where it is missing, and its rules anew: in one transaction with whatever follows.

        A reset, which the filter itself sends or which ends a connection, always goes out: clients should come to know.

        Args:
            end: the Unix time from which on nobody gets in, whatever the set holds.
        """
        port = self._port
        return [
            f"add table {_TABLE}",
            f"add set {_TABLE} serving {{ type inet_service; flags timeout; }}",
            f"add chain {_TABLE} input {{ type filter hook input priority -5; policy accept; }}",
            f"add chain {_TABLE} output {{ type filter hook output priority -5; policy accept; }}",
            f"flush chain {_TABLE} input",
            f"flush chain {_TABLE} output",
            f"add rule {_TABLE} input iif lo accept",
            f"add rule {_TABLE} input tcp dport {port} tcp dport != @serving reject with tcp reset",
            f"add rule {_TABLE} input tcp dport {port} meta time >= {end} reject with tcp reset",
            f"add rule {_TABLE} output meta skuid {self._uid} ip daddr {_METADATA} reject",
            f"add rule {_TABLE} output meta skuid {self._uid} ip6 daddr {_METADATA_6} reject",
            f"add rule {_TABLE} output oif lo tcp dport {port} meta skuid {{ 0, {self._uid} }} accept",
            f"add rule {_TABLE} output oif lo tcp dport {port} tcp dport != @serving reject with tcp reset",
            f"add rule {_TABLE} output oif lo accept",
            f"add rule {_TABLE} output tcp sport {port} tcp flags & rst == 0 tcp sport != @serving drop",
            f"add rule {_TABLE} output tcp sport {port} tcp flags & rst == 0 meta time >= {end} drop",
        ]

    def prepare(self) -> None:
        """See `Guard`."""
        # Whether it is open does not change: only a missing table is made.
        if self._run(["nft", "list", "table", *_TABLE.split()], timeout=_TIMEOUT).returncode:
            self._filter(self._gate(0), "made")

    def open(self, until: float) -> None:
        """See `Guard`."""
        # In this order: whatever happens between the two, the end is not too late.
        now = self._time_of_day()
        seconds = until - self._clock()
        if seconds < 1.0:
            self.close()
            return
        # Deleted and added: the time-out of what is there already does not change. In one transaction nobody sees it.
        element = f"{_TABLE} serving {{ {self._port} }}"
        lasting = f"{_TABLE} serving {{ {self._port} timeout {int(seconds)}s }}"
        self._filter(
            [
                *self._gate(int(now + seconds)),
                f"add element {element}",
                f"delete element {element}",
                f"add element {lasting}",
            ],
            "opened",
        )
        if self._clock() + int(seconds) > until + _LATE:
            self.open(until)

    def close(self) -> None:
        """See `Guard`."""
        self._filter([*self._gate(0), f"flush set {_TABLE} serving"], "closed")

    def _filter(self, statements: list[str], doing: str) -> None:
        """One transaction."""
        done = self._run(["nft", "; ".join(statements)], timeout=_TIMEOUT)
        if done.returncode:
            raise KeeperError(
                f"the gate before Redis could not be {doing}: nft says {done.complaint}; without the kernel's packet "
                "filter set keeper_guard to false, and a keeper that hangs no longer stops writes"
            )


class NoGuard:
    """`Guard` for a host that may not use the packet filter.

    Args:
        run: runs nft, to remove a gate that there was before: nobody would open it any more.
    """

    holds = False

    def __init__(self, run: Commands | None = None) -> None:
        self._run = run

    def prepare(self) -> None:
        """Remove a gate that is left from before; that there is none, nor a packet filter, is no error."""
        if self._run is not None:
            with contextlib.suppress(KeeperError):
                self._run(["nft", "delete", "table", *_TABLE.split()], timeout=_TIMEOUT)

    def open(self, until: float) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
