# SPDX-License-Identifier: GPL-3.0-or-later
"""The counting of tests."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dev import sanity, suites
from dev.work import ROOT

JUNIT = '<testsuites><testsuite tests="9" failures="{failures}" errors="{errors}" skipped="1"/></testsuites>'


@pytest.mark.parametrize(
    ("failures", "errors", "code", "count"),
    [
        (0, 0, 0, suites.Count(8, 0, 1)),
        (2, 1, 1, suites.Count(5, 3, 1)),
        (0, 0, 2, suites.Count(8, 1, 1)),  # interrupted: nothing failed in the report, and yet it did not end well
    ],
)
def test_tests_are_counted_from_the_report(
    tmp_path: Path, failures: int, errors: int, code: int, count: suites.Count
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(JUNIT.format(failures=failures, errors=errors))
    assert suites.count_junit(report, code) == count


def test_a_missing_report_is_a_failure(tmp_path: Path) -> None:
    assert suites.count_junit(tmp_path / "none.xml", 0) == suites.Count(failed=1)


def test_a_runner_that_ran_nothing_has_not_passed() -> None:
    assert not suites.Outcome("unit", 0, 1.0, suites.Count()).good
    assert suites.Outcome("unit", 0, 1.0, suites.Count(passed=1)).good
    assert not suites.Outcome("unit", 1, 1.0, suites.Count(passed=1)).good


def test_the_closing_line_counts_everything() -> None:
    outcomes = [
        ("check", suites.Outcome("ruff", 0, 1.0, suites.Count(passed=1))),
        ("e2e", suites.Outcome("e2e", 1, 9.0, suites.Count(passed=7, failed=2))),
    ]
    assert suites.report(outcomes, 10.0).splitlines()[-1] == "8 passed, 2 failed"


def test_a_failing_job_shows_the_end_of_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suites, "RESULTS", tmp_path)
    monkeypatch.setattr(suites, "ROOT", tmp_path)
    jobs = [suites.Job("good", ["true"]), suites.Job("bad", ["sh", "-c", "echo the reason; exit 4"])]
    outcomes = {one.name: one for one in suites.run_jobs(jobs, side_by_side=2)}
    assert outcomes["good"].count == suites.Count(passed=1)
    assert (outcomes["bad"].code, outcomes["bad"].count) == (4, suites.Count(failed=1))
    assert "the reason" in capsys.readouterr().out


def test_a_run_that_is_ended_begins_no_further_job(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [suites.Job(str(number), []) for number in range(5)]
    begun: list[str] = []

    def run_job(job: suites.Job, *rest: object) -> suites.Outcome:
        begun.append(job.name)
        time.sleep(0.3)
        return suites.Outcome(job.name, 0, 0.0, suites.Count(passed=1))

    def ended(*arguments: object, **more: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(suites, "run_job", run_job)
    monkeypatch.setattr("concurrent.futures.wait", ended)
    with pytest.raises(SystemExit):
        suites.run_jobs(jobs, side_by_side=1)
    assert len(begun) == 1


def test_every_file_of_end_to_end_tests_runs_once() -> None:
    asked = [
        word for jobs in suites.e2e_jobs() for one in jobs for word in one.command if word.startswith("tests/e2e/")
    ]
    assert sorted(asked) == sorted(f"tests/e2e/{path.name}" for path in (ROOT / "tests" / "e2e").glob("test_*.py"))


def test_ansible_tests_installer_of_pip_is_named_as_the_one_that_is_installed_here_asks_for_it() -> None:
    spec = importlib.util.find_spec("ansible_test")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    name = sanity.bootstrap_name((folder / "_internal" / "python_requirements.py").read_text())
    # What is to be there instead of a download.
    installer = (folder / "_util" / "target" / "setup" / "requirements.py").read_text()
    assert "~/.ansible/test/cache/get_pip_%s.py" in installer
    assert re.fullmatch(r"get_pip_\d+_\d+(_\d+)?\.py", name)
    with pytest.raises(ValueError, match="which pip"):
        sanity.bootstrap_name("nothing")


def test_what_may_run_beside_each_other_is_one_heap_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    heaps: list[tuple[list[str], int]] = []

    def run_jobs(jobs: Sequence[suites.Job], side_by_side: int) -> list[suites.Outcome]:
        heaps.append(([job.name for job in jobs], side_by_side))
        return [suites.Outcome(job.name, 0, 1.0, suites.Count(passed=1)) for job in jobs]

    beside = {"awx": lambda: [suites.Job("awx", [])], "sanity": lambda: [suites.Job("docs", [])], "molecule": list}
    monkeypatch.setattr(suites, "run_jobs", run_jobs)
    monkeypatch.setattr(suites, "BESIDE", beside)
    monkeypatch.setattr(suites, "check_jobs", lambda: [suites.Job("ruff", [])])
    outcomes = suites.run_suites(["molecule", "awx", "sanity", "check"])
    assert heaps == [(["ruff"], suites.SIDE_BY_SIDE), (["awx", "docs"], suites.SIDE_BY_SIDE)]
    assert [(suite, one.name, one.good) for suite, one in outcomes] == [
        ("check", "ruff", True),
        ("awx", "awx", True),
        ("sanity", "docs", True),
        # What found nothing to run has not passed.
        ("molecule", "nothing to run", False),
    ]
