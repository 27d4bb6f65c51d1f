"""A host that went down without a shutdown: what it lost is noted before Redis saves what it began with again."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib

from spotcache_keeper.backup.serving import read_serving
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.node.drain import read_drain
from spotcache_keeper.server.rdb import created_at
from spotcache_keeper.system.state import CRASH, known_host, recall, save_state
from spotcache_keeper.system.times import NEVER, from_epoch, to_text


def note_crash_or_kill(ctx: Context) -> None:
    """Note it as `note_crash` does; where that cannot be, Redis is ended before it saves anything.

    It runs by now, with what was on the disk. Nobody can have written to it: clients are let in after a boot.

    Raises:
        KeeperError: it cannot be noted.
    """
    try:
        note_crash(ctx)
    except (KeeperError, OSError):
        with contextlib.suppress(KeeperError, OSError):
            ctx.engine.kill()
        raise


def note_crash(ctx: Context) -> None:
    """Note what this host lost, should it have gone down without a shutdown: before Redis is started again.

    A Redis that the engine starts later may save what it began with, and the file would look younger than it is.

    Raises:
        KeeperError: it cannot be noted.
    """
    directory = ctx.config.state_directory
    # Before there is a network, nobody says which host this is: what it knew of itself does.
    serving, drain = read_serving(ctx, known_host(directory)), read_drain(directory)
    if serving is None or serving.boot == ctx.boot_id or recall(directory, CRASH).get("boot") == serving.boot:
        return
    since = ""
    if drain is not None and drain.boot == serving.boot:
        if drain.complete and drain.withdrawn_in != drain.boot:
            return
        since = drain.lost_since
    if not since:
        there = ctx.rdb_path.exists()
        written = (created_at(ctx.rdb_path) or from_epoch(ctx.rdb_path.stat().st_mtime)) if there else NEVER
        since = to_text(written)
    save_state(directory, CRASH, boot=serving.boot, since=since)
