# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playbook shows while it runs: its own words, and the process lists of this machine."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from dev.sandboxes import Sandbox

SETTLED_S = 2.0  # after so long a process calls no other program in its own place


@dataclass
class Watched:
    """All that was seen.

    Attributes:
        said: what the playbooks printed, as talkative as they can be.
        process_lists: command lines of every process on this machine, looked at again and again while they ran.
    """

    said: str = ""
    process_lists: list[str] = field(default_factory=list)

    def play(self, sandbox: Sandbox, playbook: str, *arguments: str, command: str = "") -> None:
        """Run a playbook, by the command if one is given, and see what it shows."""
        done = threading.Event()
        since: dict[str, float] = {}

        def look() -> None:
            while not done.wait(0.05):
                now = time.monotonic()
                for process in filter(str.isdecimal, os.listdir("/proc")):
                    # What has run for a while shows what it showed before: other programs are called at a start.
                    if now - since.setdefault(process, now) > SETTLED_S:
                        continue
                    try:
                        line = Path("/proc", process, "cmdline").read_bytes()
                        self.process_lists.append(line.replace(b"\0", b" ").decode(errors="replace"))
                    except OSError:
                        continue  # it has ended meanwhile

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            log = f"watched-{len(self.said)}-{playbook}"
            self.said += sandbox.play(playbook, *arguments, "-vvv", log=log, command=command).text
        finally:
            done.set()
            watcher.join()
