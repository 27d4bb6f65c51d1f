"""One backup or restore at a time on a host: a lock that the kernel lets go of when its holder dies."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from spotcache_keeper.errors import KeeperError
from spotcache_keeper.system.files import read_json, readable_errors
from spotcache_keeper.system.times import to_text


@contextmanager
def only_run(path: Path, command: str, timeout: float, now: datetime) -> Iterator[None]:
    """Hold the lock while the body runs.

    Args:
        path: of the lock file.
        command: what this run does, for whoever has to wait.
        timeout: seconds to wait for another run.
        now: the present moment.

    Raises:
        KeeperError: another run still holds it; says which.
    """
    with readable_errors(f"opening the lock {path}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise KeeperError(f"{holder_of(path)}; waited {timeout:.0f} s for it to end") from None
                time.sleep(0.1)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "command": command, "since": to_text(now)}).encode(), 0)
        yield
        # Emptied only after a regular end: what a killed run leaves here is never read, since nobody holds the lock.
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def holder_of(path: Path) -> str:
    """Who holds the lock, as a sentence's beginning."""
    holder = read_json(path) or {}
    return (
        f"another run of the keeper is at work: {holder.get('command', 'unknown')}, process {holder.get('pid', '?')}, "
        f"since {holder.get('since', '?')}"
    )


def is_held(path: Path) -> bool:
    """Whether a run is at work now."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
