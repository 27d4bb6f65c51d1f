"""A host that went down without a shutdown: what it lost is noted before Redis saves what it began with again."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import json
from datetime import datetime

from spotcache_keeper.backup.serving import Serving, read_serving
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import Leases
from spotcache_keeper.node.drain import read_drain
from spotcache_keeper.server.rdb import written_at
from spotcache_keeper.system.files import write_atomically
from spotcache_keeper.system.state import CRASH, known_host, recall, save_state
from spotcache_keeper.system.times import NEVER, to_text


def note_crash_or_kill(ctx: Context) -> None:
    """Note it as `note_crash` does; where that cannot be, Redis is ended before it saves anything.

    Raises:
        KeeperError: it cannot be noted.
    """
    try:
        note_crash(ctx)
    except (KeeperError, OSError):
        with contextlib.suppress(KeeperError, OSError):
            # Without a gate anybody may have written to it.
            if ctx.guard.holds:
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
    if ctx.config.require_mount and not ctx.machine.is_mounted(ctx.config.volume_path):
        # Nothing can be seen of it yet: a boot comes here again when it has the volume.
        return
    since = ""
    if drain is not None and drain.boot == serving.boot:
        if drain.complete and drain.withdrawn_in != drain.boot:
            return
        since = drain.lost_since
    _note(ctx, serving, since or _written(ctx))


def note_crash_after_withdrawal(ctx: Context, leases: Leases) -> None:
    """Note it also where the host was to be ended, went on, and could not write that down: S3 has it.

    Raises:
        KeeperError: S3 does not say, or it cannot be noted.
    """
    directory = ctx.config.state_directory
    serving, drain = read_serving(ctx), read_drain(directory)
    if serving is None or drain is None or serving.boot == ctx.boot_id or drain.boot != serving.boot:
        return
    if not drain.complete or recall(directory, CRASH).get("boot") == serving.boot:
        return
    record = leases.final(serving.host)
    if record is not None and record.withdrawn_in == serving.boot:
        _note(ctx, serving, _written(ctx))


def _note(ctx: Context, serving: Serving, since: str) -> None:
    """Note it among the keeper's own files, and on the volume, which another host may take over.

    Raises:
        KeeperError: it cannot be noted.
    """
    if not ctx.config.require_mount or ctx.machine.is_mounted(ctx.config.volume_path):
        # On a volume that takes nothing more Redis saves nothing that would look younger, either.
        with contextlib.suppress(OSError):
            note = {"host": serving.host, "boot": serving.boot, "since": since}
            write_atomically(ctx.crashed_path, json.dumps(note, indent=2) + "\n")
    save_state(ctx.config.state_directory, CRASH, boot=serving.boot, since=since)


def _written(ctx: Context) -> str:
    """When Redis' own RDB was in its memory, as text."""
    if not ctx.rdb_path.exists():
        return to_text(NEVER)
    return to_text(written_at(ctx.rdb_path))


def missing_since(moment: datetime) -> str:
    """What is missing after a moment, for a person."""
    return "all that Redis held" if moment == NEVER else f"what was written after {to_text(moment)}"
