# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job, rehearsed: provision, fill, back up, lose the host, compare on the next one, restore, compare, destroy.

The environment is stg as it is shipped. A Laravel application with people in it goes along: it follows Redis, and they
must not notice. Those who look after it are told, in a Slack of the rehearsal's own.

With --slow everything takes as long as on AWS, about half an hour; a Spot notice comes as well, and the report has the
times that a user would see.

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
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from dev import keys
from dev.sample_app import shop
from dev.sample_app.laravel import image
from dev.sample_app.slack import Slack
from dev.sandboxes import Host, Sandbox
from dev.work import BUILD, Failed, Journal, Step, end_on_sigterm, table

FOLDER = BUILD / "demo"


class Modules(StrEnum):
    """How the playbooks' modules are run: in memory, in half the time, or each as a program, as on a user's machine."""

    IN_MEMORY = "in memory"
    FIRST_AS_PROGRAMS = "the first provision's as programs"
    AS_PROGRAMS = "as programs"


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
    lost_to_serving_s: float | None = None
    # With AWS's own times: from a Spot notice, and from the end of the host, until the next one serves.
    notice_to_serving_s: float | None = None
    end_to_serving_s: float | None = None
    told: int = 0
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
        if self.zone_after:
            after = f"{self.lost_to_serving_s:.0f} s later the next one served in {self.zone_after}, by itself"
            lines.append(f"The host was lost in {self.zone_before}; {after}.")
        if self.second_provision_changed is not None:
            changed = f"{self.second_provision_changed} changed; in check mode {self.check_mode_changed}"
            lines.append(f"Provisioned again: {changed}.")
        if self.session_survived is not None:
            told = "same cookies, sessions and caches as before" if self.session_survived else "NOT as before"
            met = f"{self.visits} visits meanwhile, {self.visits_without_redis} of them without Redis"
            lines.append(f"The Laravel application after the loss: {told} ({met}).")
            batches = ", ".join(f"{name} {state}" for name, state in self.lost_batches.items()) or "none"
            lines.append(f"Its .env, set again: {self.env_second_run_changed} changed. Lost batches: {batches}.")
        if self.told:
            lines.append(f"People were told {self.told} times in Slack.")
        if self.notice_to_serving_s is not None and self.end_to_serving_s is not None:
            times = [
                ["from the Spot notice until the next host serves", f"{self.notice_to_serving_s:.0f}"],
                ["from the end of the host until the next one serves", f"{self.end_to_serving_s:.0f}"],
            ]
            lines += ["", table(["with AWS's own times", "seconds"], times)]
        lines += [f"Problem: {problem}" for problem in self.problems]
        return "\n".join([*lines, "", f"Verdict: {self.verdict}"])


def compare(
    report: Report, before: dict[int, keys.DatabasePrint], after: dict[int, keys.DatabasePrint], when: str
) -> None:
    """Put the comparison of every database into the report; the last one is what its table shows."""
    report.problems += [f"{when}: {problem}" for problem in keys.differences(before, after)]
    report.databases = []
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


def rehearse(
    sandbox: Sandbox,
    journal: Journal,
    report: Report,
    count: int,
    slack: Slack,
    slow: bool,
    modules: Modules,
) -> None:
    """The steps, one after the other; what is wrong goes into the report, what does not work at all is raised."""
    sandbox.swift = modules is Modules.IN_MEMORY
    with journal.step("Sandbox up"):
        sandbox.up(*(["--slow"] if slow else []))
    # The images that an account is offered have snapshots, which nobody here has made.
    empty, offered = sandbox.resources(), set(sandbox.paid())
    sandbox.given = dict(slack.variables)
    web = shop.Shop(image.ensure(), sandbox.logs.resolve(), sandbox.name, sandbox.state["cidr"])
    # The application's own inventory, beside the environment's.
    also = ("-i", str(web.inventory))
    with ThreadPoolExecutor(1) as beside, journal.step("Provision, and an application on files"):
        opened = beside.submit(web.open)
        sandbox.play("provision", *also, log="1-provision")
        report.problems += opened.result()
    sandbox.swift = modules is not Modules.AS_PROGRAMS
    host = sandbox.host()
    with ThreadPoolExecutor(1) as beside, journal.step(f"Load {count:,} keys, and customers of the application"):
        customers = shop.Customers(web)
        come = beside.submit(customers.come)
        sandbox.load(host, count)
        report.problems += come.result()
    with shop.Watch(shop.Person("witness", web)).going_on() as watch:
        before = backup(sandbox, journal, report, count)
        backed_up = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        successor = lose(sandbox, journal, report, before, customers, also)
        restore(sandbox, journal, report, before, backed_up, successor, web, also)
    report.visits, report.visits_without_redis = watch.asked, watch.failed
    report.problems += [f"the witness was answered from the session of {one or 'nobody'}" for one in watch.strangers]
    for name, changed in (("again", report.second_provision_changed), ("in check mode", report.check_mode_changed)):
        if changed:
            report.problems.append(f"provision {name} changed {changed} things instead of none")
    if slow:
        interrupt(sandbox, journal, report)
    web.stop()
    with journal.step("Destroy"):
        sandbox.play("destroy", *DESTROY_ALL, log="6-destroy")
    report.told = len(slack.heard)
    report.problems += untold(slack, host, successor)
    left = sorted(f"{kind} {name}" for kind, name in sandbox.resources() - empty)
    left += [f"container {name}" for name in sandbox.containers()]
    left += [
        f"{thing.kind} {thing.id}, which is paid for" for thing in sandbox.paid() if thing.paid and thing not in offered
    ]
    if left:
        report.problems.append(f"destroy left behind: {', '.join(left)}")
    report.finished = True


def backup(sandbox: Sandbox, journal: Journal, report: Report, count: int) -> dict[int, keys.DatabasePrint]:
    """A verified backup, and what the data is."""
    # Reading changes nothing, and neither does what runs beside it: a machine has two cores.
    with ThreadPoolExecutor(1) as beside, journal.step("Snapshot, while every key is read"):
        reading = beside.submit(sandbox.fingerprint, sandbox.host(), shop.DATABASES)
        sandbox.play("backup", log="2-backup")
        before = reading.result()
    report.keys_before = sum(one.keys for one in before.values())
    if report.keys_before != count:
        report.problems.append(f"{count} keys were sent, and Redis holds {report.keys_before}")
    return before


def lose(
    sandbox: Sandbox,
    journal: Journal,
    report: Report,
    before: dict[int, keys.DatabasePrint],
    customers: shop.Customers,
    also: Sequence[str],
) -> Host:
    """Lose the host, see the next one serve by itself, and compare keys and customers."""
    lost = sandbox.host()
    with journal.step("Lose the host; the next one serves by itself"):
        begun = time.monotonic()
        sandbox.verb("kill", lost.id)
        successor = sandbox.successor(lost, patience=PATIENCE_S)
        report.lost_to_serving_s = round(time.monotonic() - begun, 1)
    report.zone_before, report.zone_after = lost.zone, successor.zone
    if lost.zone == successor.zone:
        report.problems.append(f"the successor came up in {lost.zone} again, not in the other zone")
    missed = customers.come_back()
    report.session_survived = not missed
    report.problems += missed
    with ThreadPoolExecutor(1) as beside, journal.step("Provision again, while every key is read"):
        reading = beside.submit(sandbox.fingerprint, successor, shop.DATABASES)
        again = sandbox.play("provision", *also, log="3-provision-again")
        report.second_provision_changed = again.changed
        report.env_second_run_changed = again.recap[shop.HOST]["changed"]
        compare(report, before, reading.result(), "on the next host")
    return successor


def restore(
    sandbox: Sandbox,
    journal: Journal,
    report: Report,
    before: dict[int, keys.DatabasePrint],
    backed_up: str,
    host: Host,
    web: shop.Shop,
    also: Sequence[str],
) -> None:
    """Bring the backup of a time back over data that is wrong, and compare once more."""
    with journal.step("Lose a database by mistake, restore"):
        sandbox.connect(host, max(before)).flushdb()
        wanted = {"restore_from": backed_up, "restore_force": True, "restore_batches": True}
        sandbox.play("restore", *also, "-e", json.dumps(wanted), log="4-restore")
    report.lost_batches = web.batches()
    if set(report.lost_batches.values()) != {"done"}:
        report.problems.append(f"the restore should have run the lost batches: {report.lost_batches}")
    with ThreadPoolExecutor(1) as beside, journal.step("Provision in check mode, while every key is read"):
        reading = beside.submit(sandbox.fingerprint, host, shop.DATABASES)
        report.check_mode_changed = sandbox.play("provision", "--check", "--diff", *also, log="5-check-mode").changed
        compare(report, before, reading.result(), "after the restore")


def untold(slack: Slack, *hosts: Host) -> list[str]:
    """What people should have been told and were not."""
    return [f"people were not told that {host.id} was launched" for host in hosts if not slack.count(host.id)]


def interrupt(sandbox: Sandbox, journal: Journal, report: Report) -> None:
    """A Spot notice, and how long it takes until the next host serves the same."""
    host = sandbox.host()
    before = sandbox.fingerprint(host, shop.DATABASES)
    with ThreadPoolExecutor(1) as beside, journal.step("Spot notice; the next host serves by itself"):
        told = time.monotonic()
        sandbox.verb("spot-notice", host.id, "--name", sandbox.name)
        coming = beside.submit(sandbox.successor, host, PATIENCE_S)
        while any(one.id == host.id for one in sandbox.hosts()):
            if time.monotonic() - told > PATIENCE_S:
                raise Failed(f"{host.id} still runs {PATIENCE_S:.0f} s after its Spot notice")
            time.sleep(0.2)
        ended = time.monotonic()
        successor = coming.result()
        served = time.monotonic()
    report.notice_to_serving_s, report.end_to_serving_s = round(served - told, 1), round(served - ended, 1)
    after = sandbox.fingerprint(successor, shop.DATABASES)
    report.problems += [f"after the Spot notice: {one}" for one in keys.differences(before, after)]


PATIENCE_S = 600.0
# A rehearsal keeps nothing; a person's `destroy` keeps the backups.
DESTROY_ALL = ("-e", "destroy_confirm=sandbox", "-e", "destroy_backups=true")


def run(
    name: str,
    count: int,
    folder: Path,
    keep: bool = False,
    slow: bool = False,
    modules: Modules = Modules.IN_MEMORY,
) -> Report:
    """Rehearse in a sandbox of that name, write the report, and leave nothing behind."""
    report, journal, slack = Report(), Journal(), Slack()
    sandbox = Sandbox(name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rehearse(sandbox, journal, report, count, slack, slow, modules)
    except (Failed, keys.LoadError) as error:
        report.problems.append(str(error))
    finally:
        if not keep:
            with journal.step("Sandbox down"):
                sandbox.down()
        slack.down()
        report.steps = journal.steps
        (folder / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return report


def main(arguments: Sequence[str]) -> int:
    """The command line of the demo."""
    parser = argparse.ArgumentParser(prog="./spotcache demo", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000, help="how many keys (default: a million)")
    parser.add_argument("--name", default=os.environ.get("SPOTCACHE_SANDBOX", "demo"), help="the sandbox's name")
    parser.add_argument("--keep", action="store_true", help="leave the sandbox running, to look at")
    parser.add_argument(
        "--slow", action="store_true", help="take AWS's own times, and tell what a user would see there"
    )
    parser.add_argument(
        "--programs",
        action="store_const",
        const=Modules.AS_PROGRAMS,
        default=Modules.IN_MEMORY,
        help="start each module as a program of its own, as ansible-playbook does: the same runs in twice the time",
    )
    asked = parser.parse_args(arguments)
    end_on_sigterm()
    report = run(asked.name, asked.keys, FOLDER, asked.keep, asked.slow, asked.programs)
    print(f"\n{report.as_text()}\nLogs and report: {FOLDER}", flush=True)
    return 0 if report.verdict == "equal" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
