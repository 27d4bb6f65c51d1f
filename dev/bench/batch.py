# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role adds to an artisan command: the time until it starts, and all in all, against the bare command.

The application is the real Laravel in a container of this machine. Rounds alternate. Writes build/bench/batch.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from dev.sample_app.batch_app import BatchApp
from dev.sandboxes import COLOR, Sandbox
from dev.work import BUILD, ROOT, Failed, Journal, end_on_sigterm, stream, table, tail, tool

RESULT = BUILD / "bench" / "batch.json"
GOAL_S = 2.0
COMMAND = "batch:warm"


def bare(app: BatchApp) -> float:
    """Seconds of the bare command."""
    begun = time.monotonic()
    done = app.artisan(COMMAND)
    if done.returncode:
        raise Failed(f"{COMMAND} fails by itself: {done.stdout}{done.stderr}")
    return time.monotonic() - begun


def by_role(sandbox: Sandbox, app: BatchApp) -> dict[str, float]:
    """The same by the role: from its first task until the command starts, and until the role has ended."""
    seen: dict[str, float] = {}

    def show(line: str) -> None:
        plain = COLOR.sub("", line)
        if "laravel_batch : " in plain and plain.startswith("TASK ["):
            seen.setdefault("begun", time.time())
        if plain.startswith("PLAY RECAP"):
            seen["ended"] = time.time()

    command = [tool("ansible-playbook"), "playbooks/batch.yml", "-i", str(ROOT / "inventories" / "sandbox")]
    log = sandbox.logs / "batch.log"
    started = time.monotonic()
    asked = [*command, *app.variables(app.application({"command": COMMAND}))]
    code, _ = stream(asked, log, show=show, environment=sandbox.environment)
    if code:
        raise Failed(f"the playbook failed (exit {code}); the end of {log}:\n{tail(log)}")
    (run,) = app.last()["runs"]
    return {
        "start": float(run["started"]) - seen["begun"],
        "command": float(run["seconds"]),
        "role": seen["ended"] - seen["begun"],
        "playbook": time.monotonic() - started,
    }


def bench(sandbox: Sandbox, rounds: int) -> dict[str, Any]:
    """Measure both in turn."""
    journal = Journal()
    bares: list[float] = []
    roles: list[dict[str, float]] = []
    with BatchApp(sandbox, sandbox.logs / "batch").running() as app:
        for number in range(rounds + 1):
            with journal.step(f"Round {number} of {rounds}" if number else "A round that does not count"):
                one, other = bare(app), by_role(sandbox, app)
            if number:
                bares.append(one)
                roles.append(other)
    median = {key: round(statistics.median(row[key] for row in roles), 3) for key in roles[0]}
    bare_median = round(statistics.median(bares), 3)
    return {
        "start_overhead_seconds": median["start"],
        "total_overhead_seconds": round(median["role"] - bare_median, 3),
        "goal": GOAL_S,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "bare_seconds": bare_median,
        "medians": median,
        "bare": bares,
        "role": roles,
    }


def main(arguments: Sequence[str]) -> int:
    """The command line of this bench."""
    parser = argparse.ArgumentParser(prog="./spotcache bench batch", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how many rounds (at least 3; default 7)")
    asked = parser.parse_args(arguments)
    end_on_sigterm()
    if asked.rounds < 3:
        parser.error(f"--rounds is {asked.rounds}, and a median of fewer than 3 says little: use 3 or more")
    try:
        with Sandbox("bench-batch", BUILD / "bench" / "logs").running() as sandbox:
            result = bench(sandbox, asked.rounds)
    except Failed as error:
        print(f"bench batch: {error}", file=sys.stderr)
        return 1
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    rows = [
        ["until the command starts", f"{result['start_overhead_seconds']:.2f} s", f"at most {GOAL_S:.0f} s"],
        ["the whole role", f"{result['total_overhead_seconds']:.2f} s", ""],
        ["(the bare command takes)", f"{result['bare_seconds']:.2f} s", ""],
    ]
    print(f"\n{table(['overhead of the role', 'median', 'goal'], rows)}\n{RESULT}", flush=True)
    return 0 if result["start_overhead_seconds"] <= GOAL_S else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
