# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's own code on simulated time, under faults drawn from a seed: at no moment may an invariant be broken.

Prints the seed and a trace of the first run that breaks one, and writes build/simulation/report.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from dev.simulate.run import Outcome, many
from dev.work import BUILD

FOLDER = BUILD / "simulation"


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./spotcache simulate", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
    parser.add_argument("--all", action="store_true", help="go on after the first run that breaks an invariant")
    asked = parser.parse_args(arguments)

    def progress(outcome: Outcome) -> None:
        if outcome.runs % 5000 == 0:
            print(f"  {outcome.runs} runs, {outcome.runs / outcome.seconds:.0f} a second", flush=True)

    outcome = many(range(asked.seed, asked.seed + asked.runs), stop_at_first=not asked.all, progress=progress)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "report.json").write_text(json.dumps(outcome.as_json(), indent=2) + "\n")
    for line in outcome.trace:
        print(line)
    for seed, what in outcome.violations[:20]:
        print(f"seed {seed}: {what}")
    rate = outcome.runs / outcome.seconds if outcome.seconds else 0.0
    print(
        f"{outcome.runs} runs, {sum(outcome.faults.values())} faults, {outcome.steps} steps, "
        f"{len(outcome.violations)} violations, {outcome.seconds:.1f} s ({rate:.0f} runs a second)"
    )
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
