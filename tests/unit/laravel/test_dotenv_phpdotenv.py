"""The real phpdotenv reads what is written, and is read as it reads: packages php-cli and php-vlucas-phpdotenv."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import dotenv_text as dotenv
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.bench import dotenv as bench_dotenv
from dev.sample_app.laravel.phpdotenv import PhpDotenv

TRICKY = st.text(st.sampled_from("\"'\\#$ {}=\n\r\t\v\f()[]aAn0rtvf%é☃\U0001f511\x01\x7f\x85\u2028\ufeff"), max_size=30)
WORDS = st.sampled_from(["null", "NULL", "(null)", "true", "False", "(empty)", "empty", "'x'", '"x"', "${HOME}", "0"])
ANYTHING = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
VALUES = st.one_of(TRICKY, WORDS, ANYTHING)


def examples(number: int) -> settings:
    return settings(max_examples=number, deadline=None, database=None)


@pytest.fixture(scope="module")
def php() -> Iterator[PhpDotenv]:
    with PhpDotenv() as process:
        yield process


@examples(1500)
@given(values=st.lists(VALUES, min_size=1, max_size=6))
def test_every_value_reads_back(php: PhpDotenv, values: list[str]) -> None:
    wanted = {f"KEY_{number}": value for number, value in enumerate(values)}
    merged = dotenv.merge("# first\nOTHER='kept # here'\n", dict(wanted))
    found = php.read(dotenv.encode(merged.text))
    assert found.error is None
    assert found.env == {"OTHER": b"kept # here", **{name: value.encode() for name, value in wanted.items()}}
    assert dotenv.merge(merged.text, dict(wanted)).text == merged.text


@examples(1500)
@given(text=st.text(st.sampled_from("AB=\"'\\#$ {}\n\r\tnx"), max_size=40))
def test_any_text_is_read_as_php_reads_it_or_refused(php: PhpDotenv, text: str) -> None:
    found = php.read(text.encode())
    try:
        entries = dotenv.parse(text)
    except dotenv.Misread:
        return
    assert found.error is None
    own = {name: None if value is None else value.encode() for name, value in dotenv.load(entries).items()}
    assert own == found.dotenv


@examples(500)
@given(text=st.text(st.sampled_from("AB=\"'\\#$ \nx"), max_size=40))
def test_a_refused_file_is_one_that_php_refuses_or_loses_lines_of(php: PhpDotenv, text: str) -> None:
    try:
        dotenv.parse(text)
    except dotenv.Misread:
        # With a line of our own behind it, as a merge would add one.
        text += "\nNEW=1"
        found = php.read(text.encode())
        lines = [line for line in text.split("\n") if line.strip() and not line.strip().startswith("#")]
        several = any(group.last > group.first for group in dotenv.groups(text))
        assert found.error or several or "NEW" not in found.dotenv or len(found.dotenv) < len(lines)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("null", None), ("(TRUE)", True), ("false", False), ("empty", ""), ("'q'", "q"), ('"q"', "q"), ("x", "x")],
)
def test_the_words_of_env_are_known(php: PhpDotenv, value: str, expected: dotenv.EnvValue) -> None:
    found = php.read(f'K="{value.replace(chr(34), chr(92) + chr(34))}"'.encode()).env["K"]
    assert (found.decode() if isinstance(found, bytes) else found) == expected
    assert dotenv.env(value) == expected


@pytest.mark.parametrize("size", [999, 1000, 1001, 5000, 70_000])
@pytest.mark.parametrize("character", ["x", "☃", "\\", '"', " ", "\n"])
def test_long_values_read_back(php: PhpDotenv, size: int, character: str) -> None:
    text = dotenv.merge("", {"K": character * size}).text
    assert php.read(dotenv.encode(text)).env == {"K": (character * size).encode()}


def test_the_bench_counts_what_goes_wrong(
    php: PhpDotenv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "bench" / "dotenv.json"
    assert bench_dotenv.main(["--files", "300"], result) == 0
    good = json.loads(result.read_text())
    assert (good["files"], good["misread"], good["foreign_bytes_changed"]) == (300, 0, 0)

    merge = dotenv.merge
    # A writer that escapes nothing, and one that tidies blanks away.
    monkeypatch.setattr(dotenv, "merge", lambda text, values: dotenv.Merged(text + '\nREDIS_HOST="wrong"'))
    assert bench_dotenv.main(["--files", "50"], result) == 1
    assert json.loads(result.read_text())["misread"] > 0
    monkeypatch.setattr(
        dotenv, "merge", lambda text, values: dotenv.Merged(merge(text, values).text.replace("# a comment", "#"))
    )
    assert bench_dotenv.main(["--files", "100", "--seed", str(random.randrange(1, 999))], result) == 1
    bad = json.loads(result.read_text())
    assert bad["misread"] == 0
    assert bad["foreign_bytes_changed"] > 0
    assert bad["examples"]
