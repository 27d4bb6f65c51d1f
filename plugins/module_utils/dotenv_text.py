"""A .env file as phpdotenv 4 to 5.8 and Laravel's env() read it, and edits that keep everything else byte for byte.

Text here is what `decode` makes of a file's bytes; `encode` gives exactly those bytes back.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

# What env() can give. None is written as the word null, a boolean as true or false.
EnvValue: TypeAlias = "str | bool | int | None"

BOM = "\ufeff"
# PHP's trim() and ctype_space(), which do not agree with each other nor with Python.
TRIM = " \t\n\r\0\x0b"
SPACE = " \t\n\r\x0b\x0c"
LINE_END = re.compile(r"\r\n|\n|\r")
TOKEN = re.compile(r"[\r\n]{1,1000}|[ \t\x0b\x0c]{1,1000}|\\|'|\"|#|\$|[^ \t\n\r\x0b\x0c\\'\"#$]{1,1000}")
NAME = re.compile(r"[a-zA-Z0-9_.]+")
# In a pattern of phpdotenv's these are upper and lower case letters, marks and numbers.
UNICODE_CATEGORIES = ("Ll", "Lu", "M", "N")
OWN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VARIABLE = re.compile(r"\$\{([a-zA-Z0-9_.]+)\}")
# A quote that closes a value, although it stands where the next entry's value begins.
NEXT_ENTRY = re.compile(r"[\r\n][ \t]*(?:export[ \t]+)?[A-Z_][A-Z0-9_]*[ \t]*=[ \t]*\Z")
WRAPPED = re.compile(r"([\"'])(.*)\1")
PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+,-]*")
WORDS: dict[str, EnvValue] = {
    word: value
    for name, value in (("true", True), ("false", False), ("empty", ""), ("null", None))
    for word in (name, f"({name})")
}
ESCAPES = {"\\": "\\\\", '"': '\\"', "$": "\\$", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x0b": "\\v", "\x0c": "\\f"}
UNESCAPES = {"n": "\n", "r": "\r", "t": "\t", "v": "\x0b", "f": "\x0c"}
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|(?:^|_)KEY(?:$|_)|CREDENTIAL|PRIVATE", re.IGNORECASE)

INITIAL, UNQUOTED, SINGLE, DOUBLE, ESCAPE, WHITESPACE, COMMENT = range(7)


@dataclass(frozen=True)
class Grammar:
    """What an application's phpdotenv reads that older ones do not; without any of it as 4 to 5.4 do."""

    # A line with =" within a value that goes over lines does not begin another one (such as base64 with padding).
    multiline: bool = False
    # Names of letters other than ASCII's.
    unicode: bool = False
    # A comment never begins a value that goes over lines.
    comments: bool = False


OLDEST = Grammar()


class Misread(ValueError):
    """A file that the application does not read as it is meant, or not at all; says the line, never its value."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line} {why}")
        self.line = line


class Unwritable(ValueError):
    """A name or a value that cannot be written."""


@dataclass(frozen=True)
class Group:
    """Lines that phpdotenv takes together: mostly one, several for a value that goes over lines."""

    first: int
    last: int
    # Offsets in the text: the first character, the one after the last, and the same with the line's end.
    start: int
    end: int
    stop: int
    # The lines joined, as the parser sees them.
    raw: str
    closed: bool = True

    @property
    def is_entry(self) -> bool:
        """Whether it is neither blank nor a comment."""
        stripped = self.raw.strip(TRIM)
        return stripped != "" and not stripped.startswith("#")


@dataclass(frozen=True)
class Value:
    """A value as parsed: its characters, and where a ${NAME} may stand in them."""

    text: str = ""
    variables: tuple[int, ...] = ()
    # Where it begins and ends behind the first equals sign, its quotes included; equal when it is empty.
    begin: int = 0
    end: int = 0


@dataclass(frozen=True)
class Entry:
    """One name and its value, None without an equals sign."""

    name: str
    value: Value | None
    group: Group


def decode(data: bytes) -> str:
    """A file's text; bytes that are no UTF-8 stay recognizable."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes of a text that `decode` made."""
    return text.encode("utf-8", "surrogateescape")


def _broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _stops(line: str, started: bool) -> bool:
    if line == '"':
        return True
    count = len(re.findall(r'(?=[^\\]")', line.replace("\\\\", ""), re.DOTALL))
    return count > 1 if started else count >= 1


def groups(text: str, grammar: Grammar = OLDEST) -> list[Group]:
    """The text in the parser's own portions."""
    found: list[Group] = []
    parts: list[str] = []
    first = start = 0
    position = len(BOM) if text.startswith(BOM) else 0
    for number, (line, ending) in enumerate(_lines(text[position:]), 1):
        end = position + len(line)
        # As the parser sees it: a byte that is no UTF-8 is a question mark.
        seen = re.sub("[\ud800-\udfff]", "?", line)
        begins = '="' in seen and not _stops(seen, True)
        begins = begins and not (grammar.multiline and parts)
        begins = begins and (bool(parts) or not (grammar.comments and seen.strip(TRIM).startswith("#")))
        if not parts:
            first, start = number, position
        if begins or parts:
            parts.append(seen)
            if _stops(seen, begins):
                found.append(Group(first, number, start, end, end + len(ending), "\n".join(parts)))
                parts = []
        else:
            found.append(Group(number, number, position, end, end + len(ending), seen))
        position = end + len(ending)
    if parts:
        found.append(Group(first, first + len(parts) - 1, start, position, position, "\n".join(parts), closed=False))
    return found


def _lines(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    for match in LINE_END.finditer(text):
        yield text[position : match.start()], match[0]
        position = match.end()
    if position < len(text):
        yield text[position:], ""


def _is_name(name: str, grammar: Grammar) -> bool:
    if NAME.fullmatch(name):
        return True
    return (
        grammar.unicode
        and bool(name)
        and all(
            character in "_." or unicodedata.category(character).startswith(UNICODE_CATEGORIES) for character in name
        )
    )


def _parse_name(raw: str, group: Group, grammar: Grammar) -> str:
    name = raw
    if len(name) > 8 and name.startswith("export") and name[6] in SPACE:
        name = name[6:].lstrip(TRIM)
    if len(name) >= 3 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1]
    if not _is_name(name, grammar):
        raise Misread(group.first, "has a name that is not of letters, digits, _ and . only")
    return name


def _parse_value(text: str, group: Group, name: str) -> Value:
    """The value behind an equals sign. A multi-line one may hold \\r\\n where the parser sees \\n."""
    stripped = text.strip(TRIM)
    if not stripped:
        return Value()
    offset = len(text) - len(text.lstrip(TRIM))
    state, characters, variables = INITIAL, "", []
    begin, end, position = offset, offset, offset
    for token in TOKEN.findall(stripped):
        following = position + len(token)
        if state in (INITIAL, UNQUOTED):
            if token == "#":
                state = COMMENT
            elif state == INITIAL and token in "\"'":
                state, end = (SINGLE if token == "'" else DOUBLE), following
            elif state == UNQUOTED and token.strip(SPACE) == "":
                state = WHITESPACE
            else:
                if token == "$":
                    variables.append(len(characters))
                characters, state, end = characters + token, UNQUOTED, following
        elif state in (SINGLE, DOUBLE):
            end = following
            if token == ("'" if state == SINGLE else '"'):
                if text[following:].strip(TRIM) and NEXT_ENTRY.search(text[:position]):
                    raise Misread(group.first, f"({name}) opens a quote that nothing closes before the next entry")
                state = WHITESPACE
            elif state == DOUBLE and token == "\\":
                state = ESCAPE
            else:
                if state == DOUBLE and token == "$":
                    variables.append(len(characters))
                characters += LINE_END.sub("\n", token)
        elif state == ESCAPE:
            end, state = following, DOUBLE
            if token in ('"', "\\", "$"):
                characters += token
            elif token[0] in UNESCAPES:
                characters += UNESCAPES[token[0]] + token[1:]
            else:
                raise Misread(group.first, f"({name}) has a backslash in double quotes before what cannot be escaped")
        elif state == WHITESPACE:
            if token == "#":
                state = COMMENT
            elif token.strip(SPACE) != "":
                raise Misread(group.first, f"({name}) has text after a blank or after the closing quote")
        position = following
    if state in (SINGLE, DOUBLE, ESCAPE):
        raise Misread(group.first, f"({name}) has no closing quote")
    if _content(LINE_END.split(text[end:])[1:]):
        raise Misread(
            group.first, f'({name}) has an odd number of quotes after =", so that line {group.last} is lost with it'
        )
    return Value(characters, tuple(variables), begin, end)


def _content(lines: Sequence[str]) -> bool:
    """Whether there is more than blank lines and comments."""
    return any(line.strip(TRIM) and not line.strip(TRIM).startswith("#") for line in lines)


def parse(text: str, grammar: Grammar = OLDEST) -> list[Entry]:
    """The entries in order, duplicates included.

    Raises:
        Misread: phpdotenv refuses the file, or silently loses a part of it.
    """
    return [entry for group in groups(text, grammar) for entry in _parse_group(text, group, grammar)]


def _parse_group(text: str, group: Group, grammar: Grammar) -> Iterator[Entry]:
    if not group.closed:
        raise Misread(group.first, "has a quote after = that nothing closes: all lines from there on are lost")
    if not group.is_entry:
        if _content(group.raw.split("\n")[1:]):
            raise Misread(
                group.first, f'is a comment with an odd number of quotes after =", so that line {group.last} is lost'
            )
        return
    actual = text[group.start : group.end]
    if _broken(actual):
        raise Misread(group.first, "is not UTF-8, and the application would read question marks")
    raw_name, equals, rest = actual.partition("=")
    # Without an equals sign phpdotenv takes the line as it is.
    raw_name = raw_name.strip(TRIM) if equals else raw_name
    if not raw_name:
        raise Misread(group.first, "begins with =")
    name = _parse_name(raw_name, group, grammar)
    yield Entry(name, _parse_value(rest, group, name) if equals else None, group)


def doubts(entries: Sequence[Entry], text: str) -> list[str]:
    """What is read, but hardly as it is meant. Names and lines, no values."""
    found = []
    for entry in entries:
        value, group = entry.value, entry.group
        if value is None:
            found.append(f"line {group.first} ({entry.name}) has no =, and is read as null")
            continue
        rest = text[group.start : group.end].partition("=")[2]
        if rest[value.end : value.end + 1] == "#" and rest[value.begin : value.begin + 1] not in ("'", '"'):
            found.append(f"line {group.first} ({entry.name}) is read only as far as its #: quote the value")
    return found


def resolve(value: Value, known: Mapping[str, str | None]) -> str:
    """The value with its ${NAME} replaced by what is known so far."""
    text = value.text
    for position in sorted(value.variables, reverse=True):
        match = VARIABLE.match(text, position)
        replacement = known.get(match[1]) if match else None
        if match and replacement is not None:
            text = text[:position] + replacement + text[match.end() :]
    return text


def load(entries: Sequence[Entry]) -> dict[str, str | None]:
    """What phpdotenv gives for a file's entries: the last one of a name counts."""
    known: dict[str, str | None] = {}
    for entry in entries:
        known[entry.name] = None if entry.value is None else resolve(entry.value, known)
    return known


def env(value: str | None) -> EnvValue:
    """What Laravel's env() makes of it."""
    if value is None:
        return None
    if value.isascii() and value.lower() in WORDS:
        return WORDS[value.lower()]
    wrapped = WRAPPED.fullmatch(value)
    return wrapped[2] if wrapped else value


def protected(value: EnvValue) -> str:
    """The text from which env() gives this value: in one more pair of quotes what it would change.

    Raises:
        Unwritable: no text gives it.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if "\0" in text:
        raise Unwritable("contains a NUL character, which no environment variable can hold")
    if _broken(text):
        raise Unwritable("is not UTF-8")
    return f'"{text}"' if env(text) != text else text


def written(value: EnvValue) -> str:
    """A value as it stands in the file."""
    text = protected(value)
    if PLAIN.fullmatch(text):
        return text
    return '"' + "".join(ESCAPES.get(character, character) for character in text) + '"'


def same(found: EnvValue, wanted: EnvValue) -> bool:
    """Whether env() gives what is wanted."""
    wanted = wanted if wanted is None or isinstance(wanted, bool) else str(wanted)
    return type(found) is type(wanted) and found == wanted


def check_names(names: Sequence[str]) -> None:
    """Refuse names that do not mean the same to everyone who reads such files.

    Raises:
        Unwritable: with the name.
    """
    for name in names:
        if not OWN_NAME.fullmatch(name):
            raise Unwritable(f'the key "{name}" is not of letters, digits and _ only')


def check_values(values: Mapping[str, object]) -> None:
    """Refuse values that cannot be written or that the application would not use.

    Raises:
        Unwritable: with the name, never the value.
    """
    check_names(list(values))
    for name, value in values.items():
        if not (value is None or isinstance(value, (str, bool, int))):
            kind = type(value).__name__
            raise Unwritable(f"the value of {name} is a {kind}: write text (in quotes), a whole number or a boolean")
        if name.upper().endswith("PASSWORD") and str(value) == "0":
            raise Unwritable(
                f"the value of {name} is a lone zero, which PHP takes for no password at all: choose another password"
            )
        try:
            written(value)
        except Unwritable as error:
            raise Unwritable(f"the value of {name} {error}") from None


def line_end(text: str) -> str:
    """The line end that most lines have."""
    counts = dict.fromkeys(("\n", "\r\n", "\r"), 0)
    for match in LINE_END.finditer(text):
        counts[match[0]] += 1
    return max(counts, key=lambda ending: counts[ending])


@dataclass(frozen=True)
class Merged:
    """An edited text."""

    text: str
    set: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def merge(text: str, values: Mapping[str, EnvValue], absent: Sequence[str] = (), grammar: Grammar = OLDEST) -> Merged:
    """Set some keys and remove others; whatever else stands in the text stays as it is.

    Of several entries with one name the last is set, since it is the one that counts; all of them are removed.

    Raises:
        Misread: the text is one that the application does not read as it is meant.
        Unwritable: a value that cannot be written.
    """
    check_values(values)
    check_names(list(absent))
    entries = parse(text, grammar)
    known = load(entries)
    last = {entry.name: entry for entry in entries}
    setting = [name for name in values if name not in last or not same(env(known[name]), values[name])]
    edits = [_edit(text, last[name], values[name]) for name in setting if name in last]
    removing = sorted({entry.name for entry in entries} & set(absent))
    edits += [(entry.group.start, entry.group.stop, "") for entry in entries if entry.name in removing]
    result = text
    for start, end, replacement in sorted(edits, reverse=True):
        result = result[:start] + replacement + result[end:]
    missing = [name for name in setting if name not in last]
    if missing:
        ending = line_end(text)
        if result.removeprefix(BOM) and not result.endswith(("\n", "\r")):
            result += ending
        result += "".join(f"{name}={written(values[name])}{ending}" for name in missing)
    merged = Merged(result, setting, removing)
    _prove(entries, merged, values, absent, grammar)
    return merged


def _edit(text: str, entry: Entry, value: EnvValue) -> tuple[int, int, str]:
    """What to put where, so that an entry has another value."""
    group, new = entry.group, written(value)
    if entry.value is None:
        return group.end, group.end, f"={new}"
    behind = text.index("=", group.start, group.end) + 1
    if entry.value.begin == entry.value.end:
        return behind, behind, new
    return behind + entry.value.begin, behind + entry.value.end, new


def _prove(
    before: Sequence[Entry],
    merged: Merged,
    values: Mapping[str, EnvValue],
    absent: Sequence[str],
    grammar: Grammar,
) -> None:
    """The result must read back as wanted, and every other entry exactly as before."""

    def foreign(entries: Sequence[Entry]) -> list[tuple[str, str | None, tuple[int, ...]]]:
        others = [entry for entry in entries if entry.name not in values and entry.name not in absent]
        return [(e.name, e.value.text if e.value else None, e.value.variables if e.value else ()) for e in others]

    after = parse(merged.text, grammar)
    known = load(after)
    for name, value in values.items():
        if name not in known or not same(env(known[name]), value):
            line = next((entry.group.first for entry in reversed(before) if entry.name == name), len(before))
            raise Misread(line, f"({name}) would not read back as what is written there: put the entry on a plain line")
    if foreign(after) != foreign(before):
        raise Misread(1, "and others would be read differently after the change, which must not happen")
