"""The lease of the host that serves is renewed for as long as it does; clients get in only while that is proved."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from spotcache_keeper.aws.name import point_here
from spotcache_keeper.aws.signed import ConflictError
from spotcache_keeper.backup.entitlement import latest_term
from spotcache_keeper.backup.serving import note_serving, read_serving
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import MARGIN, Held, Lease, Takeover
from spotcache_keeper.outside import Outside
from spotcache_keeper.system.lock import is_held
from spotcache_keeper.system.state import BOOT, CRASH, recall
from spotcache_keeper.system.times import to_text

# How often the holder says again where clients find Redis, so that what a host said too late is soon undone; seconds.
_NAME_SECONDS = 60.0


@dataclass
class LeaseHolder:
    """Renews this host's lease; in a thread of its own, since S3 may be slow while a notice comes.

    What proves the lease is a renewal that went well, and it does so from the moment at which that *began*: whoever
    waits for the lease to end counts from when it was written, which is later.

    Attributes:
        ctx: the host's parts.
        outside: the ways out.
        held: it was this host's at the last look; None before the first.
        lost_to: the host that took it from this one.
        closed: clients are kept out, whatever the lease says: this host ends.
        proved_until: until when the lease is this host's for sure, by the context's clock.
        trouble: why it could not be renewed; empty when it could.
        lost_since: since when what was written is missing after a crash, as text, until people were told; else empty.
        untold: what the lease says is missing, on a host where no boot tells people; until they were told.
        told: the last of that which people were told of.
        stopped: no renewal follows.
        woken: the next renewal is due at once.
    """

    ctx: Context
    outside: Outside
    held: bool | None = None
    lost_to: str = ""
    closed: bool = False
    proved_until: float = float("-inf")
    trouble: str = ""
    lost_since: str = ""
    untold: str = ""
    told: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)
    woken: threading.Event = field(default_factory=threading.Event)
    _opened: bool = False
    _gate: threading.Lock = field(default_factory=threading.Lock)
    _named_at: float = float("-inf")

    @property
    def proved(self) -> bool:
        """Whether the lease is this host's now, whatever anybody else does."""
        return self.ctx.clock() < self.proved_until

    def renew(self) -> None:
        """Renew the lease, or take one that nobody has; never one that another host may still use.

        A host that served before another one did never takes it back: what it holds is older than what was served
        elsewhere.
        """
        host = self.ctx.machine.identity()
        if not host.zone:
            self.trouble = "the lease is not renewed: the metadata service does not say who this host is"
            return
        began = self.ctx.clock()
        try:
            held = self.outside.leases.lease()
            lease = self._next(held)
            if lease is None:
                return
            self.outside.leases.write_lease(lease, held)
        except ConflictError:
            # Seen at the next look.
            return
        except (KeeperError, OSError) as error:
            self.trouble = f"the lease is not renewed: {error}"
            return
        self.held, self.proved_until = True, began + lease.seconds - MARGIN
        if lease.lost and not self.ctx.config.boots:
            self.untold = lease.lost
        try:
            self._let_in(lease)
            self.trouble = ""
        except (KeeperError, OSError) as error:
            self.trouble = str(error)

    @property
    def waits(self) -> bool:
        """Whether the lease is this host's, and clients are not let in yet."""
        return bool(self.held) and not self._opened and not self.closed

    def pause(self) -> float:
        """Seconds until the next renewal: sooner after one that failed."""
        # Soon again also while it does not serve yet: what keeps it from that may be over at any moment.
        soon = bool(self.trouble) or self.waits
        return self.ctx.config.timeouts.lease / (10 if soon else 3)

    def shut(self) -> None:
        """Keep clients out for good; no renewal lets them in again, not even one that is under way.

        Raises:
            KeeperError: the kernel does not take it.
        """
        with self._gate:
            self.closed, self._opened = True, False
            self.ctx.guard.close()

    def run(self) -> None:
        """Renew until told to stop, whatever goes wrong meanwhile."""
        while True:
            try:
                self.renew()
            except Exception as error:  # noqa: BLE001 - nothing but the end of the watcher ends this thread
                self.trouble = f"the lease is not renewed: {type(error).__name__}: {error}"
            self.woken.wait(self.pause())
            self.woken.clear()
            if self.stopped.is_set():
                return

    def stop(self) -> None:
        """Have `run` end."""
        self.stopped.set()
        self.woken.set()

    def _next(self, held: Held | None) -> Lease | None:
        """The lease as it is to be written now; None when there is nothing for this host to write."""
        host = self.ctx.machine.identity()
        now, seconds = to_text(self.ctx.now()), self.ctx.config.timeouts.lease
        if held is not None and held.lease.host == host.instance_id:
            # What a boot that is at work has noted stays. One that was given back is taken again by whoever gave it.
            if self.lost_to and self._may_serve(held.lease):
                # Its boot had its turn again, and gave Redis what was served elsewhere meanwhile.
                self.lost_to, self.closed = "", False
            lost = "" if held.lease.lost == self.told else held.lease.lost
            return None if held.lease.released else replace(held.lease, renewed=now, seconds=seconds, lost=lost)
        if held is not None and (self.held or self.lost_to or self._served_before(held)):
            self.lost_to, self.held = held.lease.host, False
            return None
        self.held = False
        if held is not None:
            # Redis may run here all the same, with what lay on the disk.
            self.ctx.guard.close()
        if (held is not None and not held.ended) or self._boots_now() or not self._serves():
            return None
        fresh = Lease(host.instance_id, host.zone, self._volume(), since=now, renewed=now, seconds=seconds, term=1)
        if held is None:
            # Should it have been lost, terms go on where they were; a host that serves goes on in its own.
            serving = read_serving(self.ctx)
            here = serving is not None and serving.boot == self.outside.boot_id
            return replace(fresh, term=serving.term if here and serving is not None else latest_term(self.ctx) + 1)
        term = (held.lease.term or latest_term(self.ctx)) + 1
        takeover = Takeover(host.instance_id, term, at=now)
        # What nobody has been told of yet is missing here as well.
        return replace(fresh, term=term, lost=held.lease.lost, takeovers=held.lease.with_takeover(takeover))

    def _boots_now(self) -> bool:
        """Whether a boot was begun that has not come to its end: it takes the lease, and gives Redis what is newest.

        A Redis that it has started, and then could not go on with, is nothing to serve.
        """
        serving = read_serving(self.ctx)
        if serving is not None and serving.boot == self.outside.boot_id:
            return False
        begun = recall(self.ctx.config.state_directory, BOOT).get("began") == self.outside.boot_id
        return self.ctx.config.boots and begun

    def _served_before(self, held: Held) -> bool:
        """Whether this host served in an earlier term than that of the lease, which is another host's."""
        serving = read_serving(self.ctx)
        return serving is not None and serving.term < held.lease.term

    def _let_in(self, lease: Lease) -> None:
        """Let clients in until the lease is no longer proved, where Redis has its data."""
        self._opened = False
        if not self._may_serve(lease):
            return
        with self._gate:
            if self.closed:
                return
            self.ctx.guard.open(self.proved_until)
            self._opened = True
        if self.ctx.clock() - self._named_at >= _NAME_SECONDS:
            self._named_at = self.ctx.clock()
            try:
                point_here(self.ctx.config.name, self.outside.imds, self.outside.aws)
            except KeeperError as error:
                self.trouble = str(error)

    def _may_serve(self, lease: Lease) -> bool:
        """Whether Redis here was given its data under this lease since the host was started.

        A boot notes that. On a host that a playbook has set up, where no boot will, Redis' running says it.
        """
        serving = read_serving(self.ctx)
        if serving is not None and serving.term == lease.term and serving.boot == self.outside.boot_id:
            return True
        # The host before stands in the lease for as long as a boot has not come to its end.
        unfinished = self.ctx.config.boots and (bool(lease.before) or serving is not None)
        booting = bool(self.lost_to) or unfinished or self._boots_now()
        if booting or not self._serves() or self._has_nothing_yet():
            return False
        crash = recall(self.ctx.config.state_directory, CRASH)
        if serving is not None and crash.get("boot") == serving.boot:
            # Where a boot serves, it says so itself.
            self.lost_since = str(crash.get("since", "")) or self.lost_since
        note_serving(self.ctx, lease.term, self.outside.boot_id)
        return True

    def _has_nothing_yet(self) -> bool:
        """Whether Redis is new here although the environment has backups: whoever set it up restores them next.

        Raises:
            KeeperError: S3 does not say.
        """
        if self.ctx.volume.ids() or self.ctx.restored_path.exists():
            return False
        return any(store.ids() for store in self.ctx.off_host if store.at_once)

    def _serves(self) -> bool:
        """Whether Redis runs here on its volume, and not just because a boot has not come to it yet."""
        if is_held(self.ctx.config.state_directory / "boot.lock"):
            return False
        try:
            self.ctx.check_volume()
            state = self.ctx.engine.state()
        except KeeperError:
            return False
        return state is not None and state.running

    def _volume(self) -> str:
        """Id of the data volume, empty without one."""
        try:
            return self.ctx.machine.volume_id(self.ctx.config.volume_path)
        except (KeeperError, OSError):
            return ""
