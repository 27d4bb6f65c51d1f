# SPDX-License-Identifier: GPL-3.0-or-later
"""How busy the machine is with other work: a promise of seconds is one for a machine that has time."""

from __future__ import annotations

import time


def contention(seconds: float = 0.2) -> float:
    """By how much anything here takes longer than it would on an idle machine: time that passes over time on a core.

    Args:
        seconds: of a core's time, which are spent to find that out.
    """
    wall, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu < seconds:
        pass
    return max(1.0, (time.monotonic() - wall) / seconds)
