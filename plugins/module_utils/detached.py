"""Programs that outlive the module that starts them."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import subprocess
from collections.abc import Sequence


def start_detached(argv: Sequence[str], output: int, kept: int) -> int:
    """Start a program in a session of its own and return its process id; AnsibleModule.run_command waits for the end.

    Its output goes to the descriptor `output`; it inherits the descriptor `kept` as well, and no other.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        pass_fds=(kept,),
        cwd="/",
    ).pid
