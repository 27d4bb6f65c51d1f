"""Waiting for one's turn to serve an environment: never beside a host that may still take a write."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.aws.signed import ConflictError
from spotcache_keeper.backup.entitlement import latest_term
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import FinalRecord, Held, Lease, Takeover
from spotcache_keeper.node.drain import read_drain
from spotcache_keeper.outside import Outside
from spotcache_keeper.system.state import BOOT, recall, save_state
from spotcache_keeper.system.times import to_text

_POLL_SECONDS = 1.0
# How often a host says that it waits. What is older than a few of these says nothing.
_WAITING_SECONDS = 20.0
# EC2 may say for so long that a host is stopped which was started again; meanwhile it would renew its lease.
_STOPPED_SECONDS = 40.0
_ENDING = frozenset({"shutting-down", "stopping"})


@dataclass(frozen=True)
class Predecessor:
    """The host that served before this one.

    Attributes:
        lease: as it was when it was taken over; None when nobody ever had it, or this host itself.
        final: what that host left; None when it left nothing.
        unfinished: the host before, when a boot that was killed served already but had not told anybody.
        lost: what it lacked, when nobody has been told yet.
        term: of this host's lease.
    """

    lease: Lease | None = None
    final: FinalRecord | None = None
    unfinished: str = ""
    lost: str = ""
    term: int = 0


@dataclass
class Acquirer:
    """Waits for the lease and takes it.

    Attributes:
        ctx: the host's parts.
        outside: the ways out of it.
        say: tells a person one line.
    """

    ctx: Context
    outside: Outside
    say: Callable[[str], None]
    _waited_at: float = float("-inf")

    def acquire(self) -> Predecessor:
        """Wait for the lease as long as another host may still serve, and take it.

        Raises:
            KeeperError: S3 does not let this host see or write the lease.
        """
        me = self.ctx.machine.identity()
        said = ""
        ending_since: float | None = None
        while True:
            drain = read_drain(self.ctx.config.state_directory)
            if drain is not None and drain.in_force(me.instance_id, self.outside.boot_id):
                why = f"waiting: this host is being ended itself ({drain.cause}) and does not begin to serve"
                if why != said:
                    said = why
                    self.say(why)
                self.ctx.sleep(_POLL_SECONDS)
                continue
            held = self.outside.leases.lease()
            if held is None or held.lease.host == me.instance_id:
                self._take_record_back(me.instance_id)
                if held is not None and self._outlast_again(held):
                    # Renewed by this host's own watcher meanwhile.
                    continue
                if (term := self._write(held)) is not None:
                    return replace(self._before(held), term=term)
                continue
            final = self.outside.leases.final(held.lease.host)
            if final is not None and not final.of(held.lease.host, held.lease.term):
                final = None
            state = self.state_of(held.lease.host)
            if state in _ENDING and ending_since is None:
                ending_since = self.ctx.clock()
            waited = self.ctx.clock() - ending_since if ending_since is not None else 0.0
            why = self._why_wait(held, final, state, waited)
            if not why:
                until = self._outlived(held, final, state)
                save_state(
                    self.ctx.config.state_directory,
                    BOOT,
                    outlast={"after": held.lease.host, "boot": self.outside.boot_id, "until": until},
                )
                if (term := self._write(held, until - self.ctx.clock())) is not None:
                    self._wait_until(until, held.lease.host)
                    # What nobody has been told of yet is missing in what this host will serve as well.
                    return Predecessor(held.lease, final, lost=held.lease.lost, term=term)
                continue
            if why != said:
                said = why
                self.say(why)
            self._say_that_it_waits()
            self.ctx.sleep(_POLL_SECONDS)

    def _say_that_it_waits(self) -> None:
        """For the function that ends an on-demand host when another one could serve: this one could.

        Said only where that is so: Redis' container is there, and a backup to begin with can be read.
        """
        if self.ctx.clock() - self._waited_at < _WAITING_SECONDS:
            return
        self._waited_at = self.ctx.clock()
        try:
            if self.ctx.engine.state() is None or not (self.ctx.config.allow_empty or self.ctx.s3.ids()):
                return
            self.outside.leases.write_waiting(self.ctx.machine.identity().instance_id, to_text(self.ctx.now()))
        except (KeeperError, OSError) as error:
            self.ctx.warnings.append(f"that this host waits could not be said: {error}")

    def _outlived(self, held: Held, final: FinalRecord | None, state: str) -> float:
        """When the host before cannot take its lease for its own any more, by the context's clock; 0 when now.

        It cannot renew it once it was taken, but it may go by its last renewal for as long as that lasts. So may one
        further back, when the host that took over from it was lost while it waited.
        """
        left = held.lease.outlast - held.age
        if not (held.lease.released or self._is_gone(held, state) or (final is not None and final.fenced)):
            left = max(left, held.lease.seconds - held.age)
        return self.ctx.clock() + left if left > 0 else 0.0

    def _outlast_again(self, held: Held) -> bool:
        """Wait for what an earlier boot waited for, should it have been killed meanwhile; whether it was to be."""
        lease, directory = held.lease, self.ctx.config.state_directory
        if not lease.before or lease.volume:
            return False
        found = recall(directory, BOOT).get("outlast") or {}
        if found.get("after") != lease.before:
            return False
        until = float(found["until"])
        if until and found.get("boot") != self.outside.boot_id:
            # That clock began anew.
            until = self.ctx.clock() + lease.seconds
            save_state(directory, BOOT, outlast={**found, "boot": self.outside.boot_id, "until": until})
        if self.ctx.clock() >= until:
            return False
        self._wait_until(until, lease.before)
        return True

    def _wait_until(self, until: float, host: str) -> None:
        """Let that moment pass."""
        if self.ctx.clock() < until:
            left = until - self.ctx.clock()
            self.say(f"took the lease; {host} may still go by it for {left:.0f} s, which are waited for")
        while (left := until - self.ctx.clock()) > 0:
            self.ctx.sleep(min(_POLL_SECONDS, left))

    @staticmethod
    def _is_gone(held: Held, state: str) -> bool:
        """Whether the holder can write nothing any more. One that was stopped may have been started again since."""
        return state == "terminated" or (state == "stopped" and held.age >= _STOPPED_SECONDS)

    def _take_record_back(self, me: str) -> None:
        """Before this host serves again: whoever reads that its final backup is complete may take over at once."""
        final = self.outside.leases.final(me)
        if final is not None and not final.withdrawn:
            note = "the host was only started anew"
            self.outside.leases.write_final(
                replace(
                    final, withdrawn=True, complete=False, off_host=False, written=to_text(self.ctx.now()), note=note
                )
            )

    def _before(self, held: Held | None) -> Predecessor:
        """Whom a boot that was killed was about to follow."""
        if held is None or not held.lease.before:
            return Predecessor(lost=held.lease.lost if held is not None else "")
        if held.lease.volume:
            # It came so far that clients may have written here since.
            return Predecessor(unfinished=held.lease.before, lost=held.lease.lost)
        lease = held.lease
        old = Lease(
            lease.before,
            zone=lease.before_zone,
            volume=lease.before_volume,
            term=lease.before_term,
            takeovers=lease.takeovers,
        )
        final = self.outside.leases.final(old.host)
        return Predecessor(old, final if final is not None and final.of(old.host, old.term) else None)

    def state_of(self, host: str) -> str:
        """What EC2 says of a host: its state, or empty when it does not say.

        That EC2 finds no such host says nothing: it may not know it yet, and forgets it an hour after its end. A host
        that lives renews its lease, and one that is gone lets it end.
        """
        if not host.startswith("i-"):
            return ""
        try:
            with aws_errors(f"looking at {host}"):
                found = self.outside.client("ec2").describe_instances(InstanceIds=[host])["Reservations"]
        except AwsError as error:
            self.ctx.warnings.append(f"EC2 does not say how {host} is: {error}")
            return ""
        states = [str(item["State"]["Name"]) for reservation in found for item in reservation["Instances"]]
        return states[0] if states else ""

    def _why_wait(self, held: Held, final: FinalRecord | None, state: str, waited: float) -> str:
        """Why the lease is not taken now; empty when it may be."""
        host = held.lease.host
        if self._is_gone(held, state) or held.lease.released or (final is not None and final.fenced and final.off_host):
            return ""
        if state in _ENDING:
            if waited >= self.ctx.config.timeouts.handover:
                return ""
            return f"waiting for the last words of {host}, which EC2 ends"
        if held.age >= held.lease.seconds:
            return ""
        if state:
            return f"waiting: {host} serves this environment (EC2 says {state})"
        return f"waiting until the lease of {host} ends, since EC2 does not say how it is"

    def _write(self, over: Held | None, left: float = 0.0) -> int | None:
        """Take the lease; its term, or None when another host was faster.

        `left` is for how many seconds a host before may still go by its own: should this one be lost while it waits,
        nothing else tells the next one.
        """
        me = self.ctx.machine.identity()
        now = to_text(self.ctx.now())
        lease = Lease(me.instance_id, me.zone, since=now, renewed=now, seconds=self.ctx.config.timeouts.lease, term=1)
        if over is not None and over.lease.host == me.instance_id:
            # The same term: nobody else has served in between.
            lease = replace(over.lease, renewed=now, released=False, seconds=lease.seconds)
        elif over is None:
            lease = replace(lease, term=latest_term(self.ctx) + 1)
        else:
            old, term = over.lease, (over.lease.term or latest_term(self.ctx)) + 1
            lease = replace(
                lease,
                term=term,
                before=old.host,
                before_zone=old.zone,
                before_volume=old.volume,
                before_term=old.term,
                # One more, since the next host tells the age of this in whole seconds.
                outlast=math.ceil(left) + 1 if left > 0 else 0,
                takeovers=old.with_takeover(Takeover(me.instance_id, term, at=now)),
            )
        try:
            self.outside.leases.write_lease(lease, over)
        except ConflictError:
            self.say("another host was faster to take the lease")
            return None
        return lease.term
