"""Running other programs: the one place that starts a process."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from spotcache_keeper.errors import KeeperError


@dataclass(frozen=True)
class Completed:
    """What a program left behind."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """The last thing it said, on one line, for a message."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else f"exit code {self.returncode}"


class Commands(Protocol):
    """Runs one program to its end; a code other than 0 is an answer, not an error."""

    def __call__(self, argv: Sequence[str], *, timeout: float) -> Completed:
        """Run `argv` for at most `timeout` seconds.

        Raises:
            KeeperError: the program is not installed, or did not end in time.
        """


def run_command(argv: Sequence[str], *, timeout: float) -> Completed:
    """`Commands` on this machine."""
    try:
        done = subprocess.run(
            list(argv),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except FileNotFoundError as error:
        raise KeeperError(f"{argv[0]} is not installed on this host") from error
    except subprocess.TimeoutExpired as error:
        raise KeeperError(f"`{' '.join(argv[:3])} ...` did not end within {timeout:.0f} s") from error
    return Completed(done.returncode, done.stdout, done.stderr)
