# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's own path, as a test: nothing is rehearsed here that `./spotcache demo` does not show."""

from __future__ import annotations

import json

import pytest

from dev import demo
from dev.work import BUILD

FOLDER = BUILD / "test" / "e2e" / "main-job"
KEYS = 1_000_000


@pytest.fixture(scope="module")
def report() -> demo.Report:
    return demo.run("t-main", KEYS, FOLDER, modules=demo.Modules.FIRST_AS_PROGRAMS)


def test_every_step_was_reached(report: demo.Report) -> None:
    assert report.finished, report.problems


def test_a_million_keys_come_back_equal_in_every_database(report: demo.Report) -> None:
    assert report.keys_before == KEYS
    assert report.keys_after == KEYS
    assert len(report.databases) > 1
    assert all(row["equal"] for row in report.databases)
    assert all(row["expiring"] > 0 for row in report.databases)
    assert report.values_equal


def test_the_successor_runs_in_the_other_zone(report: demo.Report) -> None:
    assert report.zone_after
    assert report.zone_after != report.zone_before


def test_provisioning_again_changes_nothing(report: demo.Report) -> None:
    assert report.second_provision_changed == 0
    assert report.check_mode_changed == 0


def test_people_in_the_application_do_not_notice_the_loss(report: demo.Report) -> None:
    # The same cookies count on, both caches hold what they held, and nobody saw another's session.
    assert report.session_survived
    assert report.env_second_run_changed == 0
    assert report.visits > 10
    # Without Redis there were errors: the watch looked while it mattered.
    assert 0 < report.visits_without_redis < report.visits


def test_the_restore_runs_what_it_could_not_bring_back(report: demo.Report) -> None:
    assert report.lost_batches == {"shop/batch:slow": "done"}


def test_nothing_is_left_and_nothing_was_wrong(report: demo.Report) -> None:
    assert report.problems == []
    assert report.verdict == "equal"


def test_the_written_report_says_the_same(report: demo.Report) -> None:
    written = json.loads((FOLDER / "report.json").read_text())
    assert written["verdict"] == report.verdict
    assert [step["name"] for step in written["steps"]] == [step.name for step in report.steps]
