# SPDX-License-Identifier: GPL-3.0-or-later
"""Clearing APCu on twenty web hosts against clearing it on one: the playbook's time, in alternating rounds.

The hosts are the sandbox's, with nginx and php-fpm in containers; the command really runs on each. In every round
each host's APCu is filled first, and must be seen empty afterwards. Writes build/bench/apcu.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dev import permissions
from dev.sample_app.laravel import image
from dev.sample_app.web_fleet import GROUP, WebFleet
from dev.sandboxes import Host, Sandbox
from dev.work import BUILD, Failed, Journal, end_on_sigterm, table

RESULT = BUILD / "bench" / "apcu.json"
GOAL = 2.0  # times the time of one host


def put(fleet: WebFleet, host: Host) -> None:
    """Fill a host's APCu."""
    if json.loads(fleet.page(host, "apcu-put/bench/full")) != {"stored": True}:
        raise Failed(f"APCu on {host.id} takes nothing")


def clear(sandbox: Sandbox, fleet: WebFleet, hosts: Sequence[Host], target: Sequence[str]) -> dict[str, float]:
    """One round: fill, clear by the playbook, look. Returns the playbook's seconds and those of the command."""
    report = sandbox.logs / "apcu-report.json"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda host: put(fleet, host), hosts))
    play = sandbox.play("cache_clear", *target, "-e", f"apcu_report={report}")
    told: dict[str, Any] = json.loads(report.read_text())
    if told["answered"] != len(hosts) or any(one["answers"][0]["before"] < 1 for one in told["hosts"]):
        raise Failed(f"{told['answered']} of {len(hosts)} hosts were cleared: {told['hosts']}")
    for host in {hosts[0], hosts[-1]}:
        if json.loads(fleet.page(host, "apcu-get/bench")) != {"value": False}:
            raise Failed(f"APCu on {host.id} still holds what was there before it was cleared")
    return {"playbook_seconds": play.seconds, "command_seconds": float(told["seconds"])}


def bench(sandbox: Sandbox, count: int, rounds: int) -> dict[str, Any]:
    """Measure one host and many in turn."""
    journal = Journal()
    fleet = WebFleet(sandbox, image.ensure(progress=lambda line: print(f"    {line}", flush=True)))
    with journal.step(f"{count} web hosts"):
        fleet.up(count)
    hosts = fleet.hosts()
    single = [{"Key": "Bench", "Value": "one"}]
    fleet.ec2.create_tags(Resources=[hosts[0].id], Tags=single)
    targets: list[tuple[str, Sequence[Host], list[str]]] = [
        ("one", hosts[:1], ["-e", '{"apcu_tags": {"Bench": "one"}}']),
        ("many", hosts, ["-e", f"apcu_group={GROUP}"]),
    ]
    rows: dict[str, list[dict[str, float]]] = {"one": [], "many": []}
    for number in range(rounds + 1):
        with journal.step(f"Round {number} of {rounds}" if number else "A round that does not count"):
            for name, some, target in targets[:: 1 if number % 2 else -1]:
                row = clear(sandbox, fleet, some, target)
                if number:
                    rows[name].append(row)
    medians = {
        name: {key: statistics.median(row[key] for row in some) for key in some[0]} for name, some in rows.items()
    }
    ratios = {key: round(medians["many"][key] / medians["one"][key], 3) for key in medians["one"]}
    return {"hosts": count, "rounds": rounds, "goal": GOAL, "ratio": ratios, "medians": medians, "rows": rows}


def main(arguments: Sequence[str]) -> int:
    """The command line of this bench."""
    parser = argparse.ArgumentParser(prog="./spotcache bench apcu", description=__doc__)
    parser.add_argument("--hosts", type=int, default=20, help="how many web hosts (default 20)")
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds (at least 3; default 5)")
    asked = parser.parse_args(arguments)
    end_on_sigterm()
    if asked.rounds < 3 or asked.hosts < 2:
        parser.error("a ratio needs at least 3 rounds and 2 hosts: raise --rounds or --hosts")
    try:
        with Sandbox("bench-apcu", BUILD / "bench" / "logs").running(*permissions.also("apcu")) as sandbox:
            result = bench(sandbox, asked.hosts, asked.rounds)
    except Failed as error:
        print(f"bench apcu: {error}", file=sys.stderr)
        return 1
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    medians = result["medians"]
    rows = [
        [
            key.removesuffix("_seconds"),
            f"{medians['one'][key]:.2f} s",
            f"{medians['many'][key]:.2f} s",
            f"{ratio}",
            f"at most {GOAL}" if key == "playbook_seconds" else "",
        ]
        for key, ratio in result["ratio"].items()
    ]
    print(f"\n{table(['clearing', 'one host', f'{asked.hosts} hosts', 'ratio', 'goal'], rows)}\n{RESULT}", flush=True)
    return 0 if result["ratio"]["playbook_seconds"] <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
