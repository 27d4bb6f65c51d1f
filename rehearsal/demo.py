# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job, rehearsed: provision, fill, save, lose the host, restore on the next one, compare, destroy.

A Laravel application with people in it goes along: it follows Redis, and they must not notice.

Prints a table at the end and writes build/demo/report.json. Ends non-zero when anything is not equal.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rehearsal import keys, shop
from rehearsal.sandboxes import Sandbox
from rehearsal.work import BUILD, ROOT, Failed, Journal, Step, end_on_sigterm, table
from tests.laravel import image

FOLDER = BUILD / "demo"
PORT = 6379
# The operator may do what the documents tell a person to allow, and nothing else.
POLICY = ROOT / "docs" / "iam" / "operator-policy.json"


@dataclass
class Report:
    """What the rehearsal found."""

    keys_before: int = 0
    keys_after: int = 0
    values_equal: bool = False
    second_provision_changed: int | None = None
    check_mode_changed: int | None = None
    session_survived: bool | None = None
    env_second_run_changed: int | None = None
    lost_batches: dict[str, str] = field(default_factory=dict)
    visits: int = 0
    visits_without_redis: int = 0
    zone_before: str = ""
    zone_after: str = ""
    databases: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    finished: bool = False

    @property
    def verdict(self) -> str:
        """`equal` only when every step was reached and nothing was found wanting."""
        return "equal" if self.finished and self.values_equal and not self.problems else "NOT equal"

    def as_json(self) -> dict[str, Any]:
        """The report as it is written to the disk."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}

    def as_text(self) -> str:
        """The report as a person reads it."""
        steps = table(["step", "seconds"], [[one.name, f"{one.seconds:.1f}"] for one in self.steps])
        total = sum(one.seconds for one in self.steps)
        rows = [
            [
                f"database {row['number']}",
                f"{row['before']:,}",
                f"{row['after']:,}",
                "equal" if row["equal"] else "NOT equal",
            ]
            for row in self.databases
        ]
        rows.append(
            ["all", f"{self.keys_before:,}", f"{self.keys_after:,}", "equal" if self.values_equal else "NOT equal"]
        )
        lines = [steps, f"all steps: {total:.0f} s", "", table(["keys and values", "before", "after", ""], rows), ""]
        lines += (
            [f"The host was lost in {self.zone_before}; its successor runs in {self.zone_after}."]
            if self.zone_after
            else []
        )
        if self.second_provision_changed is not None:
            changed = f"{self.second_provision_changed} changed; in check mode {self.check_mode_changed}"
            lines.append(f"Provisioned again: {changed}.")
        if self.session_survived is not None:
            told = "same cookies, sessions and caches as before" if self.session_survived else "NOT as before"
            met = f"{self.visits} visits meanwhile, {self.visits_without_redis} of them without Redis"
            lines.append(f"The Laravel application after the loss: {told} ({met}).")
            batches = ", ".join(f"{name} {state}" for name, state in self.lost_batches.items()) or "none"
            lines.append(f"Its .env, set again: {self.env_second_run_changed} changed. Lost batches: {batches}.")
        lines += [f"Problem: {problem}" for problem in self.problems]
        return "\n".join([*lines, "", f"Verdict: {self.verdict}"])


def compare(report: Report, before: dict[int, keys.DatabasePrint], after: dict[int, keys.DatabasePrint]) -> None:
    """Put the comparison of every database into the report."""
    report.problems += keys.differences(before, after)
    for number in sorted(before.keys() | after.keys()):
        old, new = before.get(number), after.get(number)
        row = {"number": number, "before": old.keys if old else 0, "after": new.keys if new else 0}
        row |= {
            "expiring": old.expiring if old else 0,
            "equal": old is not None and new is not None and old.digests == new.digests,
        }
        report.databases.append(row)
    report.keys_after = sum(one.keys for one in after.values())
    report.values_equal = bool(before) and all(row["equal"] for row in report.databases)


def rehearse(sandbox: Sandbox, journal: Journal, report: Report, count: int) -> None:
    """The steps, one after the other; what is wrong goes into the report, what does not work at all is raised."""
    with journal.step("Sandbox up"):
        sandbox.up("--operator-policy", str(POLICY))
    empty = sandbox.resources()
    web = shop.Shop(image.ensure(), sandbox.logs.resolve(), sandbox.name, sandbox.state["cidr"])
    # The application's own inventory, beside the environment's.
    also = ("-i", str(web.inventory))
    with ThreadPoolExecutor(1) as beside, journal.step("Provision, and an application on files"):
        opened = beside.submit(web.open)
        sandbox.play("provision", *also, log="1-provision")
        report.problems += opened.result()
    host, password = sandbox.host(), sandbox.password
    with ThreadPoolExecutor(1) as beside, journal.step(f"Load {count:,} keys, and customers of the application"):
        customers = shop.Customers(web)
        come = beside.submit(customers.come)
        now = int(time.time() * 1000)
        keys.load(host.ip, PORT, password, keys.load_commands(count, now))
        report.problems += come.result()
    with shop.Watch(shop.Person("witness", web)).going_on() as watch:
        lose_and_restore(sandbox, journal, report, count, customers, also)
    report.visits, report.visits_without_redis = watch.asked, watch.failed
    report.problems += [f"the witness was answered from the session of {one or 'nobody'}" for one in watch.strangers]
    with journal.step("Provision in check mode"):
        report.check_mode_changed = sandbox.play("provision", "--check", "--diff", *also, log="5-check-mode").changed
    for name, changed in (("again", report.second_provision_changed), ("in check mode", report.check_mode_changed)):
        if changed:
            report.problems.append(f"provision {name} changed {changed} things instead of none")
    web.stop()
    with journal.step("Destroy"):
        sandbox.play("destroy", *DESTROY_ALL, log="6-destroy")
    left = sorted(f"{kind} {name}" for kind, name in sandbox.resources() - empty)
    left += [f"container {name}" for name in sandbox.containers()]
    if left:
        report.problems.append(f"destroy left behind: {', '.join(left)}")
    report.finished = True


def lose_and_restore(
    sandbox: Sandbox, journal: Journal, report: Report, count: int, customers: shop.Customers, also: Sequence[str]
) -> None:
    """Save, lose the host, restore on the next one, and compare keys and customers."""
    host, password = sandbox.host(), sandbox.password
    # Reading changes nothing, and neither does what runs beside it: a machine has two cores.
    with ThreadPoolExecutor(1) as beside, journal.step("Snapshot, while every key is read"):
        reading = beside.submit(keys.fingerprint, host.ip, PORT, password, shop.DATABASES)
        sandbox.play("snapshot", log="2-snapshot")
        before = reading.result()
    report.keys_before = sum(one.keys for one in before.values())
    if report.keys_before != count:
        report.problems.append(f"{count} keys were sent, and Redis holds {report.keys_before}")
    with journal.step("Lose the host, get another"):
        lost, successor = sandbox.lose_host()
    report.zone_before, report.zone_after = lost.zone, successor.zone
    if lost.zone == successor.zone:
        report.problems.append(f"the successor came up in {lost.zone} again, not in the other zone")
    with journal.step("Restore on the new host"):
        sandbox.play("restore", *also, "-e", "restore_batches=true", log="3-restore")
    report.lost_batches = customers.shop.batches()
    if set(report.lost_batches.values()) != {"done"}:
        report.problems.append(f"the restore should have run the lost batches: {report.lost_batches}")
    missed = customers.come_back()
    report.session_survived = not missed
    report.problems += missed
    with ThreadPoolExecutor(1) as beside, journal.step("Provision again, while every key is read"):
        reading = beside.submit(keys.fingerprint, successor.ip, PORT, password, shop.DATABASES)
        again = sandbox.play("provision", *also, log="4-provision-again")
        report.second_provision_changed = again.changed
        report.env_second_run_changed = again.recap[shop.HOST]["changed"]
        compare(report, before, reading.result())


# A rehearsal keeps nothing; a person's `destroy` keeps the saves.
DESTROY_ALL = ("-e", "destroy_confirm=sandbox", "-e", "destroy_saves=true")


def run(name: str, count: int, folder: Path, keep: bool = False) -> Report:
    """Rehearse in a sandbox of that name, write the report, and leave nothing behind."""
    report, journal = Report(), Journal()
    sandbox = Sandbox(name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rehearse(sandbox, journal, report, count)
    except (Failed, keys.LoadError) as error:
        report.problems.append(str(error))
    finally:
        if not keep:
            with journal.step("Sandbox down"):
                sandbox.down()
        report.steps = journal.steps
        (folder / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return report


def main(arguments: Sequence[str]) -> int:
    """The command line of the demo."""
    parser = argparse.ArgumentParser(prog="./spotcache demo", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000, help="how many keys (default: a million)")
    parser.add_argument("--name", default=os.environ.get("SPOTCACHE_SANDBOX", "demo"), help="the sandbox's name")
    parser.add_argument("--keep", action="store_true", help="leave the sandbox running, to look at")
    asked = parser.parse_args(arguments)
    end_on_sigterm()
    report = run(asked.name, asked.keys, FOLDER, asked.keep)
    print(f"\n{report.as_text()}\nLogs and report: {FOLDER}", flush=True)
    return 0 if report.verdict == "equal" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
