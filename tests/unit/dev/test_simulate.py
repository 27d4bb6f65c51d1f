# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulation of the keeper: one seed is one run, and faults that are put back are found."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from spotcache_keeper.lease import Lease, Takeover

from dev.simulate import __main__ as program
from dev.simulate import run
from dev.simulate.cloud import Stored, source_of
from dev.simulate.host import Host
from dev.simulate.mutations import MUTATIONS, patched
from dev.simulate.world import Violation, World
from tests.unit.keeper.examples import MANIFEST


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


def test_what_a_crash_took_is_known_to_whoever_takes_the_volume_over() -> None:
    """Four faults after each other: so rare that the seed which had them is kept."""
    seed = range(9022494, 9022495)
    assert run.many(seed).violations == []
    with patched(MUTATIONS["a crash is noted on the host alone"][1]):
        [(_seed, what)] = run.many(seed).violations
    assert "reports to have lost what was written after" in what


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("superseded backups count", ("(c)", "(d)")),
        ("no fence of its own", "(a)"),
        ("given back unfenced", "(a)"),
        ("not found is gone", "(a)"),
        ("a crash is not noted", "(b)"),
        ("served already is no news", "(b)"),
        ("retention in between", "(d)"),
        ("old data on the volume", "(b)"),
    ],
)
def test_an_old_fault_is_found(name: str, broken: str | tuple[str, ...]) -> None:
    with patched(MUTATIONS[name][1]):
        outcome = run.many(range(1, 201))
    assert outcome.violations, name
    assert outcome.violations[0][1].startswith(broken)
    # The seed tells the same again.
    assert outcome.trace[-1].endswith(outcome.violations[0][1])


def test_what_a_host_goes_on_with_is_not_to_be_deleted() -> None:
    """A younger backup that came too late for it does not take its place, be that known already or not."""
    world = World(1, run.configuration(), {})
    found = replace(MANIFEST, term=1)
    late = replace(found, id="20261122T130000Z-3f9a1c", created=found.created + timedelta(hours=1))
    world.bucket.backups = {found.id: Stored((), found, at=1.0), late.id: Stored((), late, at=9.0)}
    function = Host(world, "retention", 0.0)
    takeover = Takeover("i-2", 2, looked=False)
    lease = Lease("i-2", term=2, takeovers=[vars(takeover)])
    world.check_deletion(found.id, function)
    world.bucket.write("keeper/lease.json", vars(lease), None, new=True)
    world.bucket.taken_at = 5.0
    with pytest.raises(Violation, match="may go on with"):
        world.check_deletion(found.id, function)
    looked = replace(takeover, looked=True, newest=found.id, newest_term=1)
    world.bucket.write("keeper/lease.json", vars(replace(lease, takeovers=[vars(looked)])), None, new=False)
    with pytest.raises(Violation, match="the newest of the line that serves"):
        world.check_deletion(found.id, function)


def test_what_a_host_takes_that_lost_its_lease_meanwhile_is_no_choice() -> None:
    """It stood still while it booted; nobody is let in with what it gives its Redis."""
    world = World(1, run.configuration(), {})
    later = replace(MANIFEST, term=3)
    world.bucket.backups[later.id] = Stored((), later)
    place: Any = SimpleNamespace(name="s3", nearness=1)
    chosen = source_of(replace(MANIFEST, term=1), place)
    host = Host(world, "i-2", 0.0)
    world.bucket.write("keeper/lease.json", {"host": "i-3", "term": 3}, None, new=True)
    world.check_choice(host, chosen, 1.0)
    world.bucket.write("keeper/lease.json", {"host": "i-2", "term": 4}, None, new=False)
    with pytest.raises(Violation, match=r"\(c\) i-2 takes .* of term 1, and there is one of 3"):
        world.check_choice(host, chosen, 1.0)


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
