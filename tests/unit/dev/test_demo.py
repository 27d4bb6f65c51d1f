# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's verdict and report."""

from __future__ import annotations

import json
import re

import pytest

from dev import demo, keys
from dev.work import Step


def database(*content: str) -> keys.DatabasePrint:
    return keys.DatabasePrint(len(content), 0, b"".join(f"{text:-<41}".encode() for text in sorted(content)))


def test_the_verdict_is_equal_only_when_all_is() -> None:
    report = demo.Report(keys_before=2, finished=True)
    demo.compare(report, {0: database("a", "b")}, {0: database("a", "b")}, "then")
    assert report.verdict == "equal"
    assert report.keys_after == 2
    report.finished = False
    assert report.verdict == "NOT equal"


@pytest.mark.parametrize(
    "after",
    [
        {0: database("a", "x")},
        {0: database("a")},
        {},
        {0: database("a", "b"), 1: database("c")},
        {1: database("a", "b")},
    ],
)
def test_one_altered_value_is_not_equal(after: dict[int, keys.DatabasePrint]) -> None:
    report = demo.Report(keys_before=2, finished=True)
    demo.compare(report, {0: database("a", "b")}, after, "then")
    assert not report.values_equal
    assert report.verdict == "NOT equal"
    assert report.problems


def test_what_was_wrong_once_stays_wrong() -> None:
    report = demo.Report(keys_before=2, finished=True)
    demo.compare(report, {0: database("a", "b")}, {0: database("a")}, "on the next host")
    demo.compare(report, {0: database("a", "b")}, {0: database("a", "b")}, "after the restore")
    assert report.values_equal
    assert report.verdict == "NOT equal"
    assert any(problem.startswith("on the next host: ") for problem in report.problems)


def test_an_empty_redis_before_is_not_a_success() -> None:
    report = demo.Report(finished=True)
    demo.compare(report, {}, {}, "then")
    assert report.verdict == "NOT equal"


def test_the_report_has_the_named_fields_and_a_table() -> None:
    report = demo.Report(
        keys_before=2,
        finished=True,
        second_provision_changed=0,
        check_mode_changed=0,
        session_survived=True,
        env_second_run_changed=0,
        steps=[Step("Provision", 61.25)],
    )
    demo.compare(report, {0: database("a", "b")}, {0: database("a", "b")}, "then")
    written = json.loads(json.dumps(report.as_json()))
    assert {
        "keys_before": 2,
        "keys_after": 2,
        "values_equal": True,
        "second_provision_changed": 0,
        "session_survived": True,
        "env_second_run_changed": 0,
    }.items() <= written.items()
    assert written["steps"] == [{"name": "Provision", "seconds": 61.25}]
    assert written["verdict"] == "equal"
    text = report.as_text()
    assert re.search(r"^Provision +61\.2$", text, re.MULTILINE)
    assert "The Laravel application after the loss: same cookies, sessions and caches as before" in text
    assert text.endswith("Verdict: equal")
