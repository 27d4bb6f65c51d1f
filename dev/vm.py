# SPDX-License-Identifier: GPL-3.0-or-later
"""The host roles on real virtual machines: kernels, reboots, shutdowns and power cuts of their own.

Each release of Debian has a sandbox of its own whose hosts are run by qemu. Without KVM it is slow;
both run side by side where memory suffices. Not part of the tests. Ends with a table of scenarios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from dev.suites import SANDBOX_PREFIX, Job, pytest, run_jobs
from dev.work import BUILD, ROOT, end_on_sigterm, table
from sandbox import guest_image, image

FOLDER = BUILD / "vm"
# Debian's releases, and the file system that the data volume has there.
FILESYSTEMS = {"13": "ext4", "12": "xfs"}
# What the older release goes without, for time: it is the same on either.
LEFT_OUT = {"12": ("check_mode", "spot_notice")}


def name_of(release: str) -> str:
    """The sandbox of a release's machines."""
    return f"{SANDBOX_PREFIX}vm{release}"


def side_by_side(releases: int, memory_gib: float) -> int:
    """How many releases this machine bears at once: each has two guests of 2 GiB when one follows another."""
    return max(1, min(releases, int((memory_gib - 2) / 4)))


def job_of(release: str, arguments: Sequence[str]) -> Job:
    """The tests of one release; what is not known here is pytest's."""
    fewer = " and ".join(f"not {name}" for name in LEFT_OUT.get(release, ()))
    command = pytest("-v", "-x", "-s", "tests/vm", *(["-k", fewer] if fewer else []), *arguments)
    # A machine without KVM may take a minute to let somebody in.
    environment = (("SPOTCACHE_DEBIAN", release), ("ANSIBLE_TIMEOUT", "180"))
    return Job(f"Debian {release}", command, junit=True, environment=environment)


def scenarios(report: Path) -> list[tuple[str, float, str]]:
    """Name, seconds and outcome of every test in a report of pytest; what its preparations took counts with the first.

    Raises:
        OSError: there is no report.
    """
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "FAILED" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "ok"
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        found.append((name, float(case.get("time", "0")), outcome))
    return found


def ready(releases: Sequence[str]) -> None:
    """Have the disks that machines start from, one after the other: each is made with the whole machine's help.

    Raises:
        ImageError: one cannot be made.
    """
    for release in releases:
        guest_image.ensure(release, progress=lambda line: print(f"  {line}", flush=True))
        image.ensure("debian", release=release, progress=lambda line: print(f"  {line}", flush=True))


def main(arguments: Sequence[str]) -> int:
    """The command line of the suite."""
    parser = argparse.ArgumentParser(prog="./spotcache vm", description=__doc__)
    parser.add_argument(
        "--release",
        action="append",
        choices=sorted(FILESYSTEMS),
        help="only this release of Debian (default: both, side by side)",
    )
    asked, rest = parser.parse_known_args(arguments)
    releases = asked.release or list(FILESYSTEMS)
    end_on_sigterm()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    started = time.monotonic()
    try:
        ready(releases)
        jobs = [job_of(release, rest) for release in releases]
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
        outcomes = run_jobs(jobs, side_by_side(len(jobs), memory_gib), FOLDER)
    except image.ImageError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        for release in releases:
            down = [sys.executable, "-m", "sandbox", "down", name_of(release)]
            subprocess.run(down, cwd=ROOT, stdin=subprocess.DEVNULL, env={**os.environ, "SPOTCACHE_DEBIAN": release})
    rows = [
        [f"Debian {release}, {FILESYSTEMS[release]}: {name}", outcome, f"{seconds:.0f} s"]
        for release in releases
        if (report := FOLDER / f"Debian-{release}.xml").exists()
        for name, seconds, outcome in scenarios(report)
    ]
    rows.append(["all", "", f"{time.monotonic() - started:.0f} s"])
    print(f"\n{table(['scenario', '', 'time'], rows)}\n\nLogs: {FOLDER}", flush=True)
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
