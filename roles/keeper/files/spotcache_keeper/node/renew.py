"""The lease of the host that serves is renewed for as long as it does."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from spotcache_keeper.aws.clients import AwsError
from spotcache_keeper.aws.signed import ConflictError
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import Lease
from spotcache_keeper.outside import Outside
from spotcache_keeper.system.lock import is_held
from spotcache_keeper.system.times import to_text


@dataclass
class LeaseHolder:
    """Renews this host's lease; in a thread of its own, since S3 may be slow while a notice comes.

    Attributes:
        ctx: the host's parts.
        outside: the ways out.
        held: it was this host's at the last look; None before the first.
        lost_to: the host that took it from this one.
        trouble: why it could not be renewed; empty when it could.
    """

    ctx: Context
    outside: Outside
    held: bool | None = None
    lost_to: str = ""
    trouble: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)

    def renew(self) -> None:
        """Renew the lease, or take one that nobody has; never one that another host may still use.

        A host that lost it once does not take it back: what it holds is older than what was served elsewhere.
        """
        if self.lost_to:
            return
        host = self.ctx.machine.identity()
        if not host.zone:
            self.trouble = "the lease is not renewed: the metadata service does not say who this host is"
            return
        try:
            held = self.outside.leases.lease()
            mine = held is not None and held.lease.host == host.instance_id
            if held is not None and not mine:
                if self.held:
                    self.lost_to = held.lease.host
                    return
                self.held = False
                if not held.ended or not self._serves():
                    return
            if (held is None and not self._serves()) or (mine and held is not None and held.lease.released):
                return
            now = to_text(self.ctx.now())
            seconds = self.ctx.config.timeouts.lease
            if held is not None and mine:
                # What a boot that is at work has noted stays.
                lease = replace(held.lease, renewed=now, seconds=seconds)
            else:
                lease = Lease(host.instance_id, host.zone, self._volume(), since=now, renewed=now, seconds=seconds)
            self.outside.leases.write_lease(lease, held)
            self.held, self.trouble = True, ""
        except ConflictError:
            # Seen at the next look.
            return
        except AwsError as error:
            self.trouble = f"the lease is not renewed: {error}"

    def run(self) -> None:
        """Renew until told to stop."""
        self.renew()
        while not self.stopped.wait(self.ctx.config.timeouts.lease / 3):
            self.renew()

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
