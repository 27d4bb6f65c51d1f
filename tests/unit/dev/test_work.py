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
    assert (
        table(["step", "s"], [["a", "1.0"], ["longer", "12.5"]])
        == "step       s\n------  ----\na        1.0\nlonger  12.5"
    )


def test_a_child_gets_no_standard_input_and_its_output_is_logged(tmp_path: Path) -> None:
    code, text = stream(["sh", "-c", "cat; echo out; echo err >&2; exit 3"], tmp_path / "log")
    assert (code, text) == (3, "out\nerr\n")
    assert (tmp_path / "log").read_text() == text


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    code, _ = stream(["sleep", "60"], tmp_path / "log", timeout=0.2)
    assert code == -9
