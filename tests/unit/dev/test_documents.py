# SPDX-License-Identifier: GPL-3.0-or-later
"""The two READMEs say the same, and what the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENGLISH, JAPANESE = ROOT / "README.md", ROOT / "README.ja.md"
PAGES = [ENGLISH, JAPANESE, *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(page: Path) -> list[str]:
    """The fenced blocks."""
    return re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def headings(page: Path) -> list[int]:
    """The depth of every heading, in order."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [len(line.split()[0]) for line in text.splitlines() if line.startswith("#")]


def outside(page: Path, pattern: str) -> list[str]:
    """What a pattern finds, sorted: a translation may order a sentence differently."""
    return sorted(re.findall(pattern, page.read_text()))


def test_both_readmes_have_the_same_headings() -> None:
    assert headings(ENGLISH) == headings(JAPANESE)


def test_both_readmes_have_the_same_code_blocks() -> None:
    assert code_blocks(ENGLISH) == code_blocks(JAPANESE)


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("commands and names", r"`([^`\n]+)`"),
        ("links", r"\]\(((?!README)[^)]+)\)"),
        ("figures", r"\d+\.\d\d\b"),
        ("rows of tables", r"(?m)^\|"),
        ("items of lists", r"(?m)^(?:- |\d\. )"),
    ],
)
def test_both_readmes_say_the_same(what: str, pattern: str) -> None:
    found = outside(ENGLISH, pattern)
    assert found
    assert found == outside(JAPANESE, pattern)


def test_the_first_commands_are_the_two_that_show_it_work() -> None:
    assert code_blocks(ENGLISH)[0].splitlines()[2:] == ["./spotcache demo", "./spotcache test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_that_is_named_exists(page: Path) -> None:
    known = set(re.findall(r'^    "([a-z]+)": (?:Verb|module_verb)\(', (ROOT / "spotcache").read_text(), re.MULTILINE))
    known |= {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    assert {"demo", "provision"} <= known
    assert set(re.findall(r"\./spotcache ([a-z_]+)", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_is_set_on_a_command_line_exists(page: Path) -> None:
    declared = "".join(
        path.read_text()
        for folder in ("roles", "playbooks", "inventories")
        for path in (ROOT / folder).rglob("*.yml")
        if "__pycache__" not in path.parts
    )
    named = set(re.findall(r"-e (?:'\{\")?([a-z_]+)\b", page.read_text()))
    assert [name for name in named if not re.search(rf"\b{name}\b", declared)] == []
