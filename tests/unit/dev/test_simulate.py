# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulation of the keeper: one seed is one run, and faults that are put back are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dev.simulate import __main__ as program
from dev.simulate import run
from dev.simulate.mutations import MUTATIONS, patched


def test_one_seed_is_one_run() -> None:
    traces = []
    for _ in range(2):
        outcome = run.Outcome()
        with run.simulated():
            world = run.one(11, run.configuration(), outcome, verbose=True)
        traces.append(world.lines)
        assert outcome.violations == []
    assert traces[0] == traces[1]
    assert any("acknowledges" in line for line in traces[0])


def test_hosts_change_under_load_and_nothing_is_broken() -> None:
    outcome = run.many(range(1, 151))
    assert outcome.violations == [], "\n".join(outcome.trace)
    assert outcome.runs == 150
    assert len(outcome.faults) > 15, outcome.faults


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("superseded backups count", ("(c)", "(d)")),
        ("no fence of its own", "(a)"),
        ("given back unfenced", "(a)"),
        ("not found is gone", "(a)"),
        ("a crash is not noted", "(b)"),
    ],
)
def test_an_old_fault_is_found(name: str, broken: str | tuple[str, ...]) -> None:
    with patched(MUTATIONS[name][1]):
        outcome = run.many(range(1, 201))
    assert outcome.violations, name
    assert outcome.violations[0][1].startswith(broken)
    # The seed tells the same again.
    assert outcome.trace[-1].endswith(outcome.violations[0][1])


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    assert program.main(["--runs", "20", "--seed", "5"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["runs"], report["violations"]) == (20, [])
    assert report["steps"] > 1000
    assert sum(report["faults"].values()) > 10
    assert report["seconds"] > 0
    assert "0 violations" in capsys.readouterr().out
    with patched(MUTATIONS["given back unfenced"][1]):
        assert program.main(["--runs", "100"]) == 1
    said = capsys.readouterr().out
    assert "seed " in said
    assert "(a)" in said
