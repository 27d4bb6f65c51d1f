"""Which term this host serves in: noted when its Redis holds the environment's data, and believed by no other boot."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.system.state import SERVING, known_host, recall, save_state


@dataclass(frozen=True)
class Serving:
    """What is noted in `serving.json`.

    Attributes:
        host: instance id.
        term: of the lease under which Redis was given its data.
        boot: the run of the kernel in which that was.
        run: the run of the server that holds it; empty when it did not say.
    """

    host: str
    term: int
    boot: str
    run: str = ""


def read_serving(ctx: Context, me: str = "") -> Serving | None:
    """What this host has noted; None where it never served, or an image brought another host's word along.

    Args:
        ctx: the host's parts.
        me: the host's id, where it is known; the metadata service is asked otherwise.
    """
    data = recall(ctx.config.state_directory, SERVING)
    host, term, boot = data.get("host"), data.get("term"), data.get("boot")
    if not isinstance(host, str) or not isinstance(term, int) or not isinstance(boot, str):
        # Nothing to compare, so the metadata service is not asked: there may be none.
        return None
    if host != (me or ctx.machine.identity().instance_id):
        return None
    return Serving(host, term, boot, str(data.get("run", "")))


def note_serving(ctx: Context, term: int, boot: str) -> None:
    """Note that Redis here holds the environment's data.

    Raises:
        KeeperError: it cannot be noted.
    """
    run = ""
    quick = replace(ctx, config=replace(ctx.config, timeouts=replace(ctx.config.timeouts, answer=2)))
    with suppress(KeeperError, OSError), quick.redis() as server:
        run = server.state().run
    host = ctx.machine.identity().instance_id
    save_state(ctx.config.state_directory, SERVING, host=host, term=term, boot=boot, run=run)
    # What a crash took stands in the lease by now, until people were told.
    with suppress(OSError):
        ctx.crashed_path.unlink(missing_ok=True)


def end_redis(ctx: Context, term: int | None = None) -> None:
    """End Redis. One that may have served saves first; any other one must not.

    It has nothing that was not on the disk before, and what it saved would look younger than it is: to one that takes
    the volume over as well.

    Args:
        ctx: the host's parts.
        term: in which it is to have served; None for any in this run of the kernel.

    Raises:
        KeeperError: it goes on.
    """
    serving = read_serving(ctx, known_host(ctx.config.state_directory))
    served = serving is not None and serving.boot == ctx.boot_id and term in (None, serving.term)
    # Without a gate anybody may have written to it.
    if served or not ctx.guard.holds:
        ctx.engine.stop(ctx.config.timeouts.stop)
    else:
        ctx.engine.kill()
