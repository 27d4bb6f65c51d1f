"""What may end this host or warn of it: one type, whoever announces it, and what is to be done for each kind."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Kind:
    """A kind of interruption.

    Attributes:
        name: as it is recorded.
        line: what the journal says; `action`, `mark` and `left` (seconds) are put in.
        reason: why the host goes, for people.
        ends_host: whether the host is fenced and backed up for good; otherwise one early backup is taken.
        outlives_reboot: whether it still counts after the host was started anew.
        has_hook: whether Auto Scaling waits for the host, which asks for more time and says when it is done.
        may_pass: whether a host that lives on long after the announced end was not ended.
    """

    name: str
    line: str
    reason: str = ""
    ends_host: bool = True
    outlives_reboot: bool = True
    has_hook: bool = False
    may_pass: bool = False


SPOT = Kind(
    "spot",
    "Spot notice: EC2 will {action} this host at {mark}; {left:.0f} s are left",
    "Spot takes it back",
    may_pass=True,
)
GROUP = Kind(
    "group",
    "Auto Scaling ends this host (target state {mark}); about {left:.0f} s are left",
    "Auto Scaling ends it",
    has_hook=True,
)
SHUTDOWN = Kind("shutdown", "this host shuts down; about {left:.0f} s are left", "it shuts down", outlives_reboot=False)
REBALANCE = Kind(
    "rebalance", "EC2 recommends a rebalance (of {mark}): an early backup is taken, and nothing else", ends_host=False
)
KINDS = {kind.name: kind for kind in (SPOT, GROUP, SHUTDOWN, REBALANCE)}


@dataclass(frozen=True)
class Interruption:
    """One interruption, as it was announced.

    Attributes:
        kind: what it is.
        mark: what tells it from another one of its kind, such as the text of its time.
        due: when it is carried out, by AWS's clock; None where nobody says.
        action: what is done to the host: terminate, stop or hibernate.
    """

    kind: Kind
    mark: str
    due: datetime | None = None
    action: str = "terminate"

    def told(self, left: float) -> str:
        """The journal's line, when `left` seconds are left."""
        return self.kind.line.format(action=self.action, mark=self.mark, left=left)
