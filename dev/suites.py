# SPDX-License-Identifier: GPL-3.0-or-later
"""Every test: check; then awx, sanity and molecule beside each other; then e2e. Ends with a line that counts."""

from __future__ import annotations

import concurrent.futures
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dev import sanity
from dev.work import BUILD, ROOT, end_on_sigterm, stream, table, tail, tool

RESULTS = BUILD / "test"
SANDBOX_PREFIX = (
    "t-"  # every sandbox that a test brings up is called t-something, so that none of a person's own is ever touched
)


@dataclass(frozen=True)
class Count:
    """What a suite counted."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")


@dataclass(frozen=True)
class Job:
    """One command of a suite. With a junit file its tests are counted one by one, else the whole counts as one."""

    name: str
    command: Sequence[str]
    junit: bool = False
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a job went."""

    name: str
    code: int
    seconds: float
    count: Count

    @property
    def good(self) -> bool:
        """Whether nothing failed; a test runner that ran no test has failed."""
        return self.code == 0 and self.count.failed == 0 and self.count.passed > 0


def count_junit(report: Path, code: int) -> Count:
    """The counts of a pytest run, from its report. One that ended badly has at least one failure, whatever it wrote."""
    try:
        suites = list(ET.parse(report).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):
        return Count(failed=1)

    def total(name: str) -> int:
        return sum(int(suite.get(name, "0")) for suite in suites)

    failed = total("failures") + total("errors")
    skipped = total("skipped")
    passed = total("tests") - failed - skipped
    return Count(passed, max(failed, 1) if code else failed, skipped)


def run_job(job: Job, out: Callable[[str], None], folder: Path | None = None) -> Outcome:
    """Run one job; its output is in the folder's NAME.log, and shown only when it fails."""
    log = (folder or RESULTS) / f"{job.name.replace(' ', '-').replace('/', '-')}.log"
    report = log.with_suffix(".xml")
    report.unlink(missing_ok=True)
    command = [*job.command, f"--junitxml={report}"] if job.junit else list(job.command)
    started = time.monotonic()
    code, _ = stream(command, log, environment=dict(job.environment))
    count = count_junit(report, code) if job.junit else Count(passed=int(code == 0), failed=int(code != 0))
    outcome = Outcome(job.name, code, time.monotonic() - started, count)
    if not outcome.good:
        out(f"--- {job.name} failed (exit {code}); the end of {log.relative_to(ROOT)}:\n{tail(log)}\n---")
    out(f"  {'ok    ' if outcome.good else 'FAILED'} {job.name}: {outcome.count}, {outcome.seconds:.0f} s")
    return outcome


def run_jobs(jobs: Sequence[Job], side_by_side: int, folder: Path | None = None) -> list[Outcome]:
    """Run jobs, a few at a time; what is still running stands in the last line, or in a log every half minute."""
    running: dict[str, float] = {}
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)

    def one(job: Job) -> Outcome:
        running[job.name] = time.monotonic()
        try:
            return run_job(job, console.print, folder)
        finally:
            running.pop(job.name, None)

    status = console.status("")
    tell, pause = (status.update, 1) if console.is_terminal else (console.print, 30)
    with concurrent.futures.ThreadPoolExecutor(side_by_side) as pool, status:
        waiting = {pool.submit(one, job) for job in jobs}
        ordered: list[Outcome] = []
        try:
            while waiting:
                done, waiting = concurrent.futures.wait(
                    waiting, timeout=pause, return_when=concurrent.futures.FIRST_COMPLETED
                )
                ordered += [future.result() for future in done]
                if not done:
                    now = time.monotonic()
                    tell("  ... " + ", ".join(f"{name} {now - since:.0f} s" for name, since in sorted(running.items())))
        except BaseException:
            # Whoever ends this run wants no further job to begin.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return ordered


def pytest(*arguments: str) -> list[str]:
    """A pytest command line."""
    return [sys.executable, "-m", "pytest", "-q", *arguments]


def unit_folders() -> list[str]:
    """Where tests are that need no sandbox."""
    return [folder for folder in ("tests/unit", "tests/templates") if (ROOT / folder).is_dir()]


def check_jobs() -> list[Job]:
    """Linters, generated documents and everything that needs no Docker; the slowest first."""
    python = sys.executable
    paths = [
        "sandbox",
        "dev",
        "tests",
        "roles",
        "molecule",
        "inventories",
        "collections/ansible_collections/spotcache/redis/plugins",
        "spotcache",
    ]
    existing = [path for path in paths if path == "spotcache" or any((ROOT / path).rglob("*.py"))]
    return [
        Job("ansible-lint", [tool("ansible-lint"), "--offline", "--nocolor", "-q"]),
        Job(
            "unit and templates",
            pytest(*unit_folders(), "-m", "not docker and not e2e and not plays", "-n", "6", "--dist", "worksteal"),
            junit=True,
        ),
        Job("simulation", [python, "-m", "dev.simulate", "--runs", "3000"]),
        Job("mypy", [tool("mypy"), *existing]),
        Job("yamllint", [tool("yamllint"), "--strict", "."]),
        Job("documents", [python, "-m", "dev.reference", "--check"]),
        Job("ruff", [tool("ruff"), "check", "."]),
        Job("format", [tool("ruff"), "format", "--check", "."]),
    ]


def sanity_jobs() -> list[Job]:
    """What reviewers of collections run, each by itself; the slowest first."""
    return [Job(name, [sys.executable, "-m", "dev.sanity", name]) for name in sanity.CHECKS]


def molecule_jobs() -> list[Job]:
    """Every molecule scenario of every role, as found on disk."""
    found = sorted(
        path.parent for path in [*ROOT.glob("molecule/*/molecule.yml"), *ROOT.glob("roles/*/molecule/*/molecule.yml")]
    )
    return [Job(f"molecule {path.name}", [tool("molecule"), "test", "-s", path.name]) for path in found]


def awx_jobs() -> list[Job]:
    """What configures AWX, against a controller's API."""
    return [Job("awx", pytest("-v", "--durations=10", "tests/awx"), junit=True)]


# Tests of moments and of what is on the whole machine: nothing may run beside them.
ALONE = ("test_sandbox.py", "test_sandbox_events.py")
# Files that share a sandbox, and with it the minutes that provisioning takes, run in one process. What is named here
# comes first, the longest at the top, so that two processes end at about the same time; any other file runs by itself.
TOGETHER = (
    ("test_drill.py", "test_keeper_watch.py"),
    ("test_egress.py", "test_front_door.py", "test_installed_collection.py", "test_secrets.py"),
    ("test_notifications.py",),
    ("test_main_job.py",),
    ("test_ways.py",),
    ("test_laravel_env.py",),
)


def e2e_groups(files: Sequence[str]) -> list[tuple[str, ...]]:
    """The files of the tests that go through a sandbox, by the process that runs them, in the order of their start."""
    named = {file for group in TOGETHER for file in group}
    return [*TOGETHER, *((file,) for file in sorted(set(files) - named - set(ALONE)))]


def e2e_jobs() -> list[list[Job]]:
    """The tests that go through the sandbox, and those of whole playbooks; what stands together runs side by side."""
    files = [path.name for path in (ROOT / "tests" / "e2e").glob("test_*.py")]

    def job(files: Sequence[str], number: int = 0) -> Job:
        # The sandboxes that its tests share are its own.
        own = (("SPOTCACHE_TEST_JOB", str(number)),)
        return Job(
            " ".join(["e2e", *(file.removeprefix("test_").removesuffix(".py") for file in files)]),
            pytest("-v", "--durations=30", *(f"tests/e2e/{file}" for file in files)),
            junit=True,
            environment=own,
        )

    groups = [job(group, number) for number, group in enumerate(e2e_groups(files), start=1)]
    return [
        [job(ALONE)],
        [
            *groups[: len(TOGETHER)],
            Job("whole playbooks", pytest(*unit_folders(), "-m", "plays", "-n", "2", "--dist", "loadfile"), junit=True),
            *groups[len(TOGETHER) :],
            Job("with Docker", pytest(*unit_folders(), "-m", "docker"), junit=True),
        ],
    ]


# Every job waits now and then, for a host that boots or a module that sleeps: three share two cores best.
SIDE_BY_SIDE = 3


def run_check() -> list[Outcome]:
    """The suite `check`."""
    return run_jobs(check_jobs(), SIDE_BY_SIDE)


def run_beside(names: Sequence[str]) -> list[tuple[str, Outcome]]:
    """Some of the suites whose jobs may run beside any other, as one heap of jobs: a few at a time, until all are done.

    Returns:
        the outcomes, each with its suite.
    """
    jobs = {job.name: (name, job) for name in names for job in BESIDE[name]()}
    outcomes = run_jobs([job for _name, job in jobs.values()], SIDE_BY_SIDE)
    return [(jobs[outcome.name][0], outcome) for outcome in outcomes]


def run_e2e() -> list[Outcome]:
    """The suite `e2e`. Whatever a test left is removed, also after a failure."""
    try:
        return [outcome for jobs in e2e_jobs() for outcome in run_jobs(jobs, SIDE_BY_SIDE)]
    finally:
        remove_test_sandboxes()


def remove_test_sandboxes() -> None:
    """Remove the tests' own sandboxes, and no other."""
    root = Path("/var/lib/spotcache-sandbox")
    for home in sorted(root.glob(f"{SANDBOX_PREFIX}*/")) if root.is_dir() else []:
        subprocess.run([sys.executable, "-m", "sandbox", "down", home.name], cwd=ROOT, stdin=subprocess.DEVNULL)


# The one with the longest job comes first, so that a run does not end with one job by itself.
BESIDE: dict[str, Callable[[], list[Job]]] = {"awx": awx_jobs, "sanity": sanity_jobs, "molecule": molecule_jobs}
SUITES = ("check", *BESIDE, "e2e")


def run_suites(names: Sequence[str]) -> list[tuple[str, Outcome]]:
    """Run suites, in their own order: what may run beside each other does."""
    outcomes: list[tuple[str, Outcome]] = []
    beside = [name for name in BESIDE if name in names]
    steps: list[tuple[list[str], Callable[[], list[tuple[str, Outcome]]]]] = [
        (["check"], lambda: [("check", one) for one in run_check()]),
        (beside, lambda: run_beside(beside)),
        (["e2e"], lambda: [("e2e", one) for one in run_e2e()]),
    ]
    for step, run in steps:
        here = [name for name in step if name in names]
        if not here:
            continue
        print(f"==> {', '.join(here)}", flush=True)
        ran = run()
        # A suite that found nothing to run has not passed.
        nothing = [name for name in here if name not in {suite for suite, _one in ran}]
        outcomes += [*ran, *((name, Outcome("nothing to run", 1, 0.0, Count(failed=1))) for name in nothing)]
    return outcomes


def report(outcomes: Sequence[tuple[str, Outcome]], seconds: float) -> str:
    """The table of suites, and the counting line that ends every run."""
    rows = [[f"{suite}: {one.name}", str(one.count), f"{one.seconds:.0f} s"] for suite, one in outcomes]
    total = Count()
    for _, one in outcomes:
        total += one.count
    return f"\n{table(['suite', 'count', 'time'], [*rows, ['all', str(total), f'{seconds:.0f} s']])}\n\n{total}"


def main(arguments: Sequence[str]) -> int:
    """Run the suites that are named, or all."""
    unknown = [name for name in arguments if name not in SUITES]
    if unknown:
        print(f"There is no suite {unknown[0]}: the suites are {', '.join(SUITES)}.", file=sys.stderr)
        return 2
    end_on_sigterm()
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    started = time.monotonic()
    outcomes = run_suites(arguments or SUITES)
    print(report(outcomes, time.monotonic() - started), flush=True)
    return 0 if outcomes and all(outcome.good for _, outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
