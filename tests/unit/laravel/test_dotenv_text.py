"""The text of .env files: what is read, refused and written, without PHP."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import dotenv_text as dotenv


def read(text: str) -> dict[str, dotenv.EnvValue]:
    return {name: dotenv.env(value) for name, value in dotenv.load(dotenv.parse(text)).items()}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("redis", "redis"),
        ("10.0.0.4:6379/x@y%+,-", "10.0.0.4:6379/x@y%+,-"),
        ("", ""),
        ("two words", '"two words"'),
        ("pa#ss", '"pa#ss"'),
        ("a${HOME}b", '"a\\${HOME}b"'),
        ("back\\slash", '"back\\\\slash"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("null", '"\\"null\\""'),
        ("'wrapped'", '"\\"\'wrapped\'\\""'),
        ("a\nb", '"a\\nb"'),
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (6379, "6379"),
    ],
)
def test_a_value_is_written_so_that_it_reads_back(value: dotenv.EnvValue, written: str) -> None:
    assert dotenv.written(value) == written
    assert dotenv.same(read(f"K={written}\n")["K"], value)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("A=1\nB=two words\n", 2, "text after a blank"),
        ("A=it's\nB='it's'\n", 2, "closing quote"),
        ('A=1\n\nB="\\x"\n', 3, "backslash"),
        ("A=1\nB='x\n", 2, "no closing quote"),
        ("=x\n", 1, "begins with ="),
        ("A-B=1\n", 1, "a name"),
        ("export A=1\n", 1, "a name"),
        # Silent in phpdotenv: it answers with an empty list of entries, or one entry fewer.
        ('# set A="foo\nB=1\n', 1, "nothing closes"),
        ("A='x=\"y'\nB=1\n", 1, "nothing closes"),
        ('A=1\nB="open\nC=1\nD=2\n', 2, "nothing closes"),
        ('# set A="foo\nB="1"\n', 1, "line 2 is lost"),
        ('A="\nB="#x"\n', 1, "opens a quote"),
        ('A=\'x="y\'\n# one\nB=1\nC="2"\n', 1, "line 4 is lost"),
    ],
)
def test_a_file_that_would_be_misread_is_refused_with_its_line(text: str, line: int, why: str) -> None:
    with pytest.raises(dotenv.Misread, match=rf"^line {line} .*{why}") as refused:
        dotenv.merge(text, {"K": "v"})
    assert refused.value.line == line


def test_bytes_that_are_no_utf8_are_refused_in_an_entry_and_kept_in_a_comment() -> None:
    with pytest.raises(dotenv.Misread, match=r"^line 2 is not UTF-8"):
        dotenv.merge(dotenv.decode(b"A=1\nB=caf\xe9\n"), {"A": "2"})
    kept = dotenv.merge(dotenv.decode(b"# caf\xe9\nA=1\n"), {"A": "2"})
    assert dotenv.encode(kept.text) == b"# caf\xe9\nA=2\n"


def test_a_refusal_does_not_show_the_value() -> None:
    with pytest.raises(dotenv.Misread) as refused:
        dotenv.parse("REDIS_PASSWORD=hush hush\n")
    assert "hush" not in str(refused.value)
    assert "REDIS_PASSWORD" in str(refused.value)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"K": "a\0b"}, "the value of K contains a NUL"),
        ({"REDIS_PASSWORD": "0"}, "no password at all"),
        ({"SESSION_REDIS_PASSWORD": 0}, "no password at all"),
        ({"K": 1.5}, "is a float"),
        ({"K": ["x"]}, "is a list"),
        ({"A B": "x"}, 'the key "A B"'),
        ({"1A": "x"}, 'the key "1A"'),
        ({"K": "\udcff"}, "not UTF-8"),
    ],
)
def test_what_cannot_be_written_is_refused(values: dict[str, dotenv.EnvValue], why: str) -> None:
    with pytest.raises(dotenv.Unwritable, match=why):
        dotenv.merge("A=1\n", values)


@pytest.mark.parametrize(
    ("before", "values", "after"),
    [
        ("A=1 # why\nB=2\n", {"A": "x y"}, 'A="x y" # why\nB=2\n'),
        ("A= # why\n", {"A": "x"}, "A=x # why\n"),
        ("A=x#why\n", {"A": ""}, "A=#why\n"),
        ("A=1\r\nB=2\r\n", {"C": "3"}, "A=1\r\nB=2\r\nC=3\r\n"),
        ("A=1\rB=2", {"C": "3"}, "A=1\rB=2\rC=3\r"),
        ("A=1\nB=2\nA=3\n", {"A": "4"}, "A=1\nB=2\nA=4\n"),
        ('A="one\r\ntwo"\r\nB=2\r\n', {"A": "x"}, "A=x\r\nB=2\r\n"),
        ("A\nB=2\n", {"A": "x"}, "A=x\nB=2\n"),
        ("export LONGNAME = 'x' # c\n", {"LONGNAME": "y"}, "export LONGNAME = y # c\n"),
        ("\ufeffA=1\n", {"A": "2"}, "\ufeffA=2\n"),
        ("\ufeff", {"A": "2"}, "\ufeffA=2\n"),
        ("", {"A": "2"}, "A=2\n"),
        ("A='same'\n", {"A": "same"}, "A='same'\n"),
        ('A="6379"\n', {"A": 6379}, 'A="6379"\n'),
        ("A=null\n", {"A": None}, "A=null\n"),
        ("A=null\n", {"A": "null"}, 'A="\\"null\\""\n'),
    ],
)
def test_everything_else_stays(before: str, values: dict[str, dotenv.EnvValue], after: str) -> None:
    merged = dotenv.merge(before, values)
    assert merged.text == after
    assert merged.set == ([] if before == after else list(values))
    assert dotenv.merge(after, values) == dotenv.Merged(after)


def test_every_entry_of_a_removed_key_goes() -> None:
    merged = dotenv.merge("A=1\n# a\nB=2\nA='x'\nC=\"l1\nl2\"\n", {}, ["A", "C", "NONE"])
    assert merged == dotenv.Merged("# a\nB=2\n", [], ["A", "C"])


def test_variables_are_resolved_as_far_as_they_are_known() -> None:
    text = "X=${LATER}\nA=1\nB=${A}2\nC='${A}'\nD=\"\\${A}-${B}\"\nLATER=x\n"
    assert read(text) == {"X": "${LATER}", "A": "1", "B": "12", "C": "${A}", "D": "${A}-12", "LATER": "x"}


def test_a_comment_with_an_open_quote_is_fine_before_comments_only() -> None:
    assert read('# A="x\n# "\nB=1\n') == {"B": "1"}


def test_what_is_hardly_meant_is_said() -> None:
    text = "A=pa#ss\nB=x # c\nC\nD='x'#c\nE=#fff\n"
    assert dotenv.doubts(dotenv.parse(text), text) == [
        "line 1 (A) is read only as far as its #: quote the value",
        "line 3 (C) has no =, and is read as null",
        "line 5 (E) is read only as far as its #: quote the value",
    ]


NEWEST = dotenv.Grammar(multiline=True, unicode=True, comments=True)


@pytest.mark.parametrize(
    ("text", "missing", "read"),
    [
        # A key in base64 over lines, whose last line ends in padding.
        ('JWT_KEY="LS0t\nQUJDRA=="\nB=1\n', "multiline", {"JWT_KEY": "LS0t\nQUJDRA==", "B": "1"}),
        ("ÜBER=1\nnäh_e.1=2\n", "unicode", {"ÜBER": "1", "näh_e.1": "2"}),
        ('# A="\nB=1\n', "comments", {"B": "1"}),
        ('B=1\n  # use A="x, or\nC=2\n', "comments", {"B": "1", "C": "2"}),
    ],
)
def test_what_newer_phpdotenvs_read(text: str, missing: str, read: dict[str, str]) -> None:
    assert dotenv.load(dotenv.parse(text, NEWEST)) == read
    merged = dotenv.merge(text, {"NEW": "x"}, grammar=NEWEST)
    assert merged.text == text + "NEW=x\n"
    # One that does not read it is not given it.
    with pytest.raises(dotenv.Misread):
        dotenv.parse(text, replace(NEWEST, **{missing: False}))


def test_what_no_phpdotenv_reads_stays_refused() -> None:
    for text in ('A="x\nB=1\n', "ª=1\n", "A B=1\n", "é-=1\n"):
        with pytest.raises(dotenv.Misread):
            dotenv.parse(text, NEWEST)
