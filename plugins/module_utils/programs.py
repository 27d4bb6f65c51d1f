"""Programs that modules run where AnsibleModule.run_command does not do.

It knows no time limit, gives a program the module's own standard input, and waits for the end of what is to outlive it.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

Done = subprocess.CompletedProcess[str]
TimeoutExpired = subprocess.TimeoutExpired


def run(
    argv: Sequence[str],
    given: bytes = b"",
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    directory: str | None = None,
) -> Done:
    """Run a program to its end; it reads `given` and nothing else. What it prints is read as UTF-8, damaged or not.

    Args:
        argv: the program and its arguments.
        given: its standard input.
        timeout: seconds after which it is killed.
        environment: its whole environment; None is this process's own.
        directory: where it runs; None is where this process does.

    Raises:
        OSError: it cannot be started.
        TimeoutExpired: it did not end.
    """
    done = subprocess.run(  # pylint: disable=ansible-bad-function
        argv,
        input=given,
        capture_output=True,
        check=False,
        timeout=timeout,
        env=environment,
        cwd=directory,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return subprocess.CompletedProcess(argv, done.returncode, out, err)


def start_detached(argv: Sequence[str], output: int, kept: int) -> int:
    """Start a program in a session of its own and return its process id.

    Its output goes to the descriptor `output`; it inherits the descriptor `kept` as well, and no other.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(  # pylint: disable=ansible-bad-function
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        pass_fds=(kept,),
        cwd="/",
    ).pid
