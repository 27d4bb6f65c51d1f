"""Running the machine's own tools (losetup, mount, nsenter, iptables) with errors a person can read."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import subprocess
from collections.abc import Sequence


class ToolFailed(RuntimeError):
    """A tool of the machine ended with an error; the text says which and why."""


def run(*argv: str, check: bool = True, stdin: str | None = None, timeout: float = 60) -> str:
    """Run a command and return its standard output, stripped.

    Raises ToolFailed with the command and its own words when it ends non-zero and ``check`` is true.
    """
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise ToolFailed(f"{argv[0]} is not installed; `./spotcache demo` installs what the sandbox needs") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"`{' '.join(argv)}` gave no answer within {timeout:g} s") from error
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip() or "no message"
        raise ToolFailed(f"`{' '.join(argv)}` failed ({done.returncode}): {words}")
    return done.stdout.strip()


def succeeds(argv: Sequence[str]) -> bool:
    """Whether a command ends with 0; its output is dropped."""
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
