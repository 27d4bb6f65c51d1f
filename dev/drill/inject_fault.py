# SPDX-License-Identifier: GPL-3.0-or-later
"""Interrupts a sandbox's host in ways that AWS FIS has no action for; the drill playbook names the host."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from sandbox.__main__ import main as sandbox

VERBS: dict[str, Callable[[str, str], list[str]]] = {
    "kill": lambda instance, zone: ["kill", instance],
    "rebalance": lambda instance, zone: ["rebalance", instance],
    "zone_lost": lambda instance, zone: ["fail-zone", zone],
}


def words(kind: str, environment: Mapping[str, str]) -> list[str]:
    """The sandbox's verb. Raises KeyError with what is missing."""
    verb = VERBS[kind](environment["SPOTCACHE_DRILL_INSTANCE"], environment["SPOTCACHE_DRILL_ZONE"])
    return [*verb, "--name", environment["SPOTCACHE_SANDBOX"]]


def main(arguments: Sequence[str]) -> int:
    """The command line: one kind."""
    try:
        return sandbox(words(arguments[0], os.environ))
    except (KeyError, IndexError) as error:
        print(
            f"usage: python -m dev.drill.inject_fault {'|'.join(VERBS)}, told by the drill playbook: {error}",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
