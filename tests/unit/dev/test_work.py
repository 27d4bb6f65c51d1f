# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps, tables and children."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.work import Failed, Journal, stream, table


def test_steps_are_timed_and_a_failing_one_is_said() -> None:
    said: list[str] = []
    journal = Journal(out=said.append)
    with journal.step("One"):
        pass
    with pytest.raises(Failed), journal.step("Two"):
        raise Failed("no")
    assert [step.name for step in journal.steps] == ["One"]
    assert said[-1].startswith("    Two: failed after")


def test_a_table_lines_up() -> None:
    # Brackets are no colour, and no line is ever broken.
    lines = table(["step", "s"], [["a [b]", "1.0"], ["l" * 300, "12.5"]]).splitlines()
    assert [line.split() for line in lines] == [["step", "s"], [lines[1]], ["a", "[b]", "1.0"], ["l" * 300, "12.5"]]
    assert set(lines[1]) == {"-"}
    assert {len(line) for line in lines} == {len(lines[3])}


def test_a_child_gets_no_standard_input_and_its_output_is_logged(tmp_path: Path) -> None:
    code, text = stream(["sh", "-c", "cat; echo out; echo err >&2; exit 3"], tmp_path / "log")
    assert (code, text) == (3, "out\nerr\n")
    assert (tmp_path / "log").read_text() == text


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    code, _ = stream(["sleep", "60"], tmp_path / "log", timeout=0.2)
    assert code == -9
