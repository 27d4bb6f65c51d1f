# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills in a row, in a sandbox: provision, fill, measure the floors, and then lose the host again and again.

Each drill is a run of playbooks/drill.yml, the same that a person runs on AWS; only who interrupts differs where FIS
has no action of that kind. Every key and value is compared after each. Prints a table and writes
build/drill/report.json and a picture for each drill. Ends non-zero when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev import keys, permissions
from dev.drill import floors, stolen
from dev.sample_app.slack import Slack
from dev.sandboxes import Host, Sandbox
from dev.work import BUILD, ROOT, Failed, Journal, end_on_sigterm, table

sys.path.insert(0, str(ROOT / "roles" / "drill" / "files"))
from spotcache_drill.report import PASSED, medians, report_of

FOLDER = BUILD / "drill"
KINDS = ("notice", "kill", "rebalance", "zone_lost", "no_capacity", "evicted_restoring", "stolen")
NOTICED = ("notice", "no_capacity", "evicted_restoring")
# Of dev.keys' mixture, measured: an RDB of one MiB holds so many.
KEYS_PER_MB = 7000
SEEN_S, SAFE_S, SERVING_S, APPEND_ONLY_S = 2.0, 3.0, 10.0, 1.0
INJECT = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "dev.drill.inject_fault"]


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    kind: str = "notice"
    runs: int = 1
    size_mb: int = 200
    notice: float | None = None
    append_only: bool = False


@dataclass
class State:
    """How far the drills are."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    floor: dict[str, Any] = field(default_factory=dict)
    notice: float | None = None


def settings(plan: Plan, folder: Path, dice: random.Random) -> dict[str, Any]:
    """The playbook's variables for one drill; when it strikes is left to chance."""
    chosen: dict[str, Any] = {
        "drill_kind": plan.kind,
        "drill_confirm": "sandbox",
        "drill_folder": str(folder),
        "drill_lead_seconds": round(dice.uniform(1.0, 6.0), 2),
        "drill_poll_seconds": 0.25,
        # A client that still waits for a host that is gone does not see when the next one serves.
        "drill_timeout_seconds": 0.4,
        "drill_patience": 180,
    }
    if plan.kind in ("kill", "rebalance", "zone_lost"):
        # On AWS terminate-instances shuts a host down in good order; here it can be lost as by a fault.
        chosen["drill_command"] = [*INJECT, plan.kind]
    if plan.kind == "no_capacity":
        # Until the drill is over, however much FIS's durations are shortened.
        chosen["drill_capacity_seconds"] = 43200
    if plan.kind == "evicted_restoring":
        chosen["drill_second_command"] = [*INJECT, "kill"]
        chosen["drill_second_lead_seconds"] = round(dice.uniform(0.5, 4.0), 2)
    return chosen


def notice_for(backup_s: float) -> float:
    """Seconds that stand for AWS's two minutes: a backup fits in, as on AWS, on a machine that is as fast as this one.

    The keeper counts the last ten seconds as lost; a busy machine may take twice as long as it did.
    """
    return round(min(120.0, 12.0 + 2 * backup_s), 1)


def goals(plan: Plan, runs: Sequence[Mapping[str, Any]], floor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each goal with what was reached: medians for times, every single run for losses."""
    middle = medians(runs)
    found: list[dict[str, Any]] = []

    def most(name: str, reached: float | None, limit: float) -> None:
        found.append(
            {
                "goal": name,
                "reached": reached,
                "limit": round(limit, 3),
                "met": reached is not None and reached <= limit,
            }
        )

    if plan.kind in NOTICED:
        most("notice published to seen, s", middle["notice_to_seen_s"], SEEN_S)
        if plan.kind != "evicted_restoring":
            most("seen to a verified backup off the host, s", middle["seen_to_safe_s"], floor["backup_s"] + SAFE_S)
        most("acknowledged writes lost, most of any run", _worst(runs, "acknowledged_lost"), 0)
    elif plan.append_only:
        most("age of the oldest lost write, s, most of any run", _worst(runs, "oldest_lost_s"), APPEND_ONLY_S)
    elif plan.kind != "rebalance":
        most("lost writes older than the last backup, most of any run", _worst(runs, "lost_older_than_backup"), 0)
    if plan.kind in ("notice", "kill", "zone_lost"):
        most("host gone to serving, s", middle["gone_to_serving_s"], floor["restore_s"] + SERVING_S)
    most("runs whose values are not equal", float(sum(not run["values_equal"] for run in runs)), 0)
    return found


def _worst(runs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The highest figure; None when a run has none."""
    values = [run[name] for run in runs]
    return max(values) if values and None not in values else None


def drill_once(sandbox: Sandbox, plan: Plan, number: int, before: Mapping[int, keys.DatabasePrint]) -> dict[str, Any]:
    """One drill, and whether every key and value that was there before is there again."""
    folder = FOLDER / f"run-{number}"
    chosen = settings(plan, folder, random.Random())
    if plan.append_only:
        keep_in_zone(sandbox, sandbox.host())
    code, _ = sandbox.attempt("drill", "-e", json.dumps(chosen), log=f"drill-{number}")
    report = folder / "report.json"
    if not report.exists():
        raise Failed(
            f"drill {number} came to no report (exit {code}); its log is {sandbox.logs / f'drill-{number}.log'}"
        )
    run: dict[str, Any] = json.loads(report.read_text())["runs"][0]
    shutil.copy(folder / "timeline.svg", FOLDER / f"timeline-{number}.svg")
    # A host on demand that stood in hands over what it has once there is Spot capacity again.
    after = sandbox.fingerprint(sandbox.spot_host())
    different = keys.differences(dict(before), after)
    if plan.kind == "no_capacity" and sandbox.is_spot(run["successor"]):
        different.append(f"{run['successor']} is a Spot instance, where one on demand should have stood in")
    run["values_equal"] = bool(run["values_equal"] and before and not different)
    run["problems"] = [*run["problems"], *different]
    run["keys"] = sum(one.keys for one in after.values())
    return run


def keep_in_zone(sandbox: Sandbox, host: Host) -> None:
    """Let only the host's own zone have capacity: its volume can be taken over then."""
    for zone in sandbox.state["zones"]:
        sandbox.verb("spot-capacity" if zone == host.zone else "no-spot-capacity", zone, "*", "--name", sandbox.name)


def steady(sandbox: Sandbox, plan: Plan) -> None:
    """Let a backup stand on the new host, without the client's keys, before it is lost in its turn."""
    if plan.kind == "zone_lost":
        for zone in sandbox.state["zones"]:
            sandbox.verb("restore-zone", zone, "--name", sandbox.name)
    done = sandbox.on_host(sandbox.host(), "spotcache-keeper backup --json --no-snapshot")
    if done.returncode:
        raise Failed(f"no backup stands on the new host: {done.stdout}{done.stderr}")


def prepare(sandbox: Sandbox, journal: Journal, plan: Plan, state: State) -> dict[int, keys.DatabasePrint]:
    """A provisioned sandbox with data and a backup, and the floors; what the data is."""
    with journal.step("Sandbox up"):
        sandbox.up(*permissions.also("drill"))
    with journal.step("Provision, with an image for the next host"):
        more = ["-e", "redis_appendonly=true"] if plan.append_only else []
        sandbox.play("provision", *more, log="provision")
    host = sandbox.host()
    count = plan.size_mb * KEYS_PER_MB
    with journal.step(f"Load {count:,} keys"):
        sandbox.load(host, count)
    with journal.step("Back up, and read every key"):
        steady(sandbox, plan)
        before = sandbox.fingerprint(host)
    with journal.step("Measure the floors"):
        state.floor = floors.measure(sandbox, host)
    state.notice = plan.notice or notice_for(state.floor["backup_s"])
    sandbox.verb("fis-scale", str(state.notice / 120), "--name", sandbox.name)
    return before


def rehearse(sandbox: Sandbox, journal: Journal, plan: Plan, state: State) -> None:
    """All drills of a plan."""
    before = prepare(sandbox, journal, plan, state)
    for number in range(1, plan.runs + 1):
        with journal.step(f"Drill {number} of {plan.runs}: {plan.kind}"):
            run = drill_once(sandbox, plan, number, before)
            state.runs.append(
                run | {"floor_backup_s": state.floor["backup_s"], "floor_restore_s": state.floor["restore_s"]}
            )
        if number < plan.runs:
            with journal.step("Let a backup stand on the new host"):
                steady(sandbox, plan)


def untold(slack: Slack, runs: Sequence[Mapping[str, Any]], patience: float = 60.0) -> list[str]:
    """Of which host that took another's place people were not told, by way of queues and functions."""
    new = [str(run["successor"]) for run in runs if run.get("successor") not in (None, "", run["host"])]
    deadline = time.monotonic() + patience
    while not all(slack.count(host) for host in new) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [f"people were not told that {host} was launched" for host in new if not slack.count(host)]


def whole_report(plan: Plan, state: State) -> dict[str, Any]:
    """report.json."""
    reached = goals(plan, state.runs, state.floor) if state.runs and state.floor else []
    missed = [
        f"missed: {one['goal']}: {one['reached']} instead of at most {one['limit']}"
        for one in reached
        if not one["met"]
    ]
    problems = state.problems + missed
    if len(state.runs) < plan.runs:
        problems.append(f"only {len(state.runs)} of {plan.runs} drills came to their end")
    more = {"size_mb": plan.size_mb, "notice_s": state.notice, "append_only": plan.append_only, "floors": state.floor}
    return report_of(state.runs, problems, **more, medians=medians(state.runs), goals=reached)


def shown(value: object) -> str:
    """A figure for a table."""
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def as_text(report: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    names = (
        "notice_to_seen_s",
        "seen_to_safe_s",
        "gone_to_serving_s",
        "acknowledged_lost",
        "oldest_lost_s",
        "outage_s",
    )
    head = ["drill", "to seen", "to safe", "to serving", "lost", "oldest", "outage", "values"]
    rows = [
        [
            f"{number} {run['kind']}",
            *(shown(run[name]) for name in names),
            "equal" if run["values_equal"] else "NOT equal",
        ]
        for number, run in enumerate(report["runs"], 1)
    ]
    middle = report["medians"]
    rows.append(["median", *(shown(middle.get(name)) for name in names), ""])
    reached = [
        [one["goal"], shown(one["reached"]), f"at most {one['limit']:g}", "met" if one["met"] else "MISSED"]
        for one in report["goals"]
    ]
    lines = [table(head, rows), ""]
    lines += [table(["goal", "reached", "limit", ""], reached), ""] if reached else []
    lines += [f"Problem: {text}" for text in report["problems"]]
    lines += [
        f"Problem of drill {number}: {text}" for number, run in enumerate(report["runs"], 1) for text in run["problems"]
    ]
    return "\n".join([*lines, f"Verdict: {report['verdict']}"])


def run(name: str, plan: Plan, keep: bool = False) -> dict[str, Any]:
    """Rehearse in a sandbox of that name, write the report, and leave nothing behind."""
    state, journal, slack = State(), Journal(), Slack()
    sandbox = Sandbox(name, FOLDER / "logs")
    sandbox.given = dict(slack.variables)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    told: dict[str, Any] = {}
    try:
        if plan.kind == "stolen":
            told = stolen.rehearse(sandbox, journal, FOLDER / "run-1", plan.size_mb * KEYS_PER_MB)
        else:
            rehearse(sandbox, journal, plan, state)
            state.problems += untold(slack, state.runs)
    except (Failed, keys.LoadError) as error:
        state.problems.append(str(error))
    finally:
        if not keep:
            with journal.step("Sandbox down"):
                sandbox.down()
        slack.down()
        report = told or whole_report(plan, state)
        (FOLDER / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def main(arguments: Sequence[str]) -> int:
    """The command line of the drills."""
    parser = argparse.ArgumentParser(prog="./spotcache drill", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="notice", help="what happens to the host (default: notice)")
    parser.add_argument("--runs", type=int, default=1, help="how many drills in a row (default: 1)")
    parser.add_argument("--size-mb", type=int, default=200, help="size of the data as an RDB, in MiB (default: 200)")
    parser.add_argument(
        "--notice", type=float, help="seconds that stand for AWS's two minutes (default: twice a bare backup, and 12)"
    )
    parser.add_argument(
        "--append-only", action="store_true", help="with an append-only file, on a volume that is kept (kind kill)"
    )
    parser.add_argument("--name", default=os.environ.get("SPOTCACHE_SANDBOX", "drill"), help="the sandbox's name")
    parser.add_argument("--keep", action="store_true", help="leave the sandbox running, to look at")
    asked = parser.parse_args(arguments)
    for option, value in (("--runs", asked.runs), ("--size-mb", asked.size_mb)):
        if value < 1:
            parser.error(f"{option} is {value}: give 1 or more")
    if asked.notice is not None and not 5 <= asked.notice <= 120:
        parser.error(f"--notice is {asked.notice:g}: give 5 to 120 seconds")
    if asked.append_only and asked.kind != "kill":
        parser.error(f"--append-only goes with --kind kill, and --kind is {asked.kind}")
    if asked.kind == "stolen" and asked.runs > 1:
        parser.error(f"--runs is {asked.runs}: AWS answers --kind stolen the same each time, so it runs once")
    if asked.kind == "rebalance" and asked.runs > 1:
        parser.error(
            f"--runs is {asked.runs}: a keeper heeds one recommendation an hour, so --kind rebalance runs once"
        )
    end_on_sigterm()
    plan = Plan(asked.kind, asked.runs, asked.size_mb, asked.notice, asked.append_only)
    report = run(asked.name, plan, asked.keep)
    shown_report = stolen.as_text(report) if report["runs"] and plan.kind == "stolen" else as_text(report)
    print(f"\n{shown_report}\nReport, pictures and logs: {FOLDER}", flush=True)
    return 0 if report["verdict"] == PASSED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
