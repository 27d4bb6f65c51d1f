"""redis.conf as data: reading, quoting and comparing directives. Knows neither Ansible nor a running server."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Directives whose value must never be shown.
# primaryauth is Valkey's name of masterauth.
SECRET = frozenset(
    {"requirepass", "masterauth", "primaryauth", "tls-key-file-pass", "tls-client-key-file-pass", "user"}
)

# A directive that may stand more than once; each line adds to the others.
ADDING = frozenset({"save", "client-output-buffer-limit", "user", "rename-command", "loadmodule", "include"})

_SIZE = re.compile(r"^(\d+)(b|k|kb|m|mb|g|gb)?$", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 2**10, "m": 10**6, "mb": 2**20, "g": 10**9, "gb": 2**30}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}
_KEYSPACE_ALL = "g$lshzxetd"


def parse_size(text: str) -> int | None:
    """Bytes of a size as redis.conf writes it (`100mb`), or None for anything else."""
    match = _SIZE.match(text.strip())
    return int(match[1]) * _UNITS[(match[2] or "").lower()] if match else None


def quote(text: str) -> str:
    """One argument as redis.conf reads it back, whatever is in it."""
    if re.fullmatch(r"[A-Za-z0-9_./:*+,@%=#~&|<>-]+", text):
        return text
    pieces = []
    for char in text:
        if char in '"\\':
            pieces.append("\\" + char)
        elif char in "\n\r\t\b\a":
            pieces.append("\\" + next(name for name, meant in _ESCAPES.items() if meant == char))
        elif ord(char) < 32 or ord(char) == 127:
            pieces.append(f"\\x{ord(char):02x}")
        else:
            pieces.append(char)
    return f'"{"".join(pieces)}"'


def split_args(line: str) -> list[str]:
    """The arguments of a line of redis.conf, by the server's own quoting rules.

    Raises:
        ValueError: a quote is not closed, or something stands right behind a closing one.
    """
    arguments: list[str] = []
    position = 0
    while True:
        while position < len(line) and line[position].isspace():
            position += 1
        if position >= len(line):
            return arguments
        argument, position = _argument(line, position)
        arguments.append(argument)


def _argument(line: str, position: int) -> tuple[str, int]:
    """One argument that starts at `position`, and where it ends."""
    text: list[str] = []
    while position < len(line) and not line[position].isspace():
        if line[position] not in "\"'":
            text.append(line[position])
            position += 1
            continue
        piece, position = _quoted(line, position)
        text.append(piece)
        if position < len(line) and not line[position].isspace():
            raise ValueError("something stands right behind a closing quote")
    return "".join(text), position


def _quoted(line: str, position: int) -> tuple[str, int]:
    """The text between the quote at `position` and its end, and the place behind it."""
    mark = line[position]
    text: list[str] = []
    position += 1
    while position < len(line):
        char = line[position]
        if char == mark:
            return "".join(text), position + 1
        if char == "\\" and position + 1 < len(line):
            hexadecimal = re.match(r"\\x([0-9a-fA-F]{2})", line[position:]) if mark == '"' else None
            if hexadecimal:
                text.append(chr(int(hexadecimal[1], 16)))
                position += 4
                continue
            if mark == '"' or line[position + 1] == "'":
                following = line[position + 1]
                text.append(_ESCAPES.get(following, following) if mark == '"' else following)
                position += 2
                continue
        text.append(char)
        position += 1
    raise ValueError("a quote is not closed")


def parse(text: str) -> dict[str, list[list[str]]]:
    """The directives of a configuration: for each name (in lower case) the argument lists of its lines.

    Of a directive that cannot be repeated only the last line counts, as for the server.

    Raises:
        ValueError: a line's quoting is broken; the message has the line's number.
    """
    found: dict[str, list[list[str]]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            name, *arguments = split_args(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        lines = found.setdefault(name.lower(), [])
        if name.lower() not in ADDING:
            lines.clear()
        lines.append(arguments)
    return found


def value_of(lines: Iterable[Iterable[str]]) -> str:
    """The value as CONFIG SET takes it and CONFIG GET returns it: all arguments of all lines."""
    return " ".join(argument for line in lines for argument in line if argument)


def arguments_of(value: Any) -> list[str]:
    """What a setting from YAML means as lines of redis.conf: a list is a line for each, a boolean yes or no."""
    if isinstance(value, (list, tuple)):
        return [line for item in value for line in arguments_of(item)]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return ["" if value is None else str(value)]


def _pairs(value: str, size: int) -> list[list[str]]:
    words = value.split()
    return [words[index : index + size] for index in range(0, len(words), size)]


def _normal(name: str, value: str) -> Any:
    if name == "notify-keyspace-events":
        return frozenset(value.replace("A", _KEYSPACE_ALL))
    if name == "bind" and value in ("*", ""):
        return value or "*"
    numbers = [parse_size(word) for word in value.split()]
    words = [word.lower() if number is None else number for word, number in zip(value.split(), numbers, strict=True)]
    if len(words) == 1 and isinstance(words[0], str):
        # Case counts in names of files and in passwords, not in yes, no and the like.
        return words[0] if words[0].isalpha() else value.strip()
    return words


def _limits(value: str) -> dict[str, list[Any]]:
    return {
        ("replica" if words[0].lower() == "slave" else words[0].lower()): [parse_size(word) for word in words[1:]]
        for words in _pairs(value, 4)
    }


def is_equal(name: str, wanted: str, live: str) -> bool:
    """Whether two values of a directive mean the same to the server, however they are written."""
    if wanted == live:
        return True
    if name == "client-output-buffer-limit":
        # The classes that the wanted value does not name keep what they have.
        present = _limits(live)
        return all(present.get(kind) == limits for kind, limits in _limits(wanted).items())
    return bool(_normal(name, wanted) == _normal(name, live))


def names_removed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The directives that a configuration no longer has."""
    return sorted(set(before) - set(after))


def shown(name: str, value: str) -> str:
    """The value, or a word in its place where it must not be shown."""
    return "(secret)" if name in SECRET and value else value


def user_lines(text: str) -> dict[str, str]:
    """The lines of an ACL file by the names of their users."""
    lines = [line.split(maxsplit=2) for line in text.splitlines()]
    return {words[1]: " ".join(words[2:]) for words in lines if len(words) > 1 and words[0] == "user"}


def users_changed(before: str, after: str) -> list[str]:
    """Names of the users that come, go or change from one ACL file to another."""
    old, new = user_lines(before), user_lines(after)
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def users_shown(before: str, after: str) -> tuple[str, str]:
    """What a person may see of two ACL files: no rules, and no hashes, which a password can be guessed from."""
    old, new = user_lines(before), user_lines(after)
    marked = {name: f"user {name} (changed)\n" for name in users_changed(before, after) if name in old and name in new}
    return (
        "".join(f"user {name}\n" for name in old),
        "".join(marked.get(name, f"user {name}\n") for name in new),
    )


def config_error(output: str) -> dict[str, str]:
    """What a server that refuses its configuration says: `line`, `directive` and `reason`; empty if it says nothing.

    The text of a line with a secret is left out.
    """
    match = re.search(r"Reading the configuration file, at line (\d+)\s*\n>>> '(.*)'\s*\n(.*)", output)
    if not match:
        # Redis 8 takes what it does not know for a module's, and finds out when it has loaded the modules.
        match = re.search(r"Unresolved Configuration\(s\) Detected:()\s*\n.*>>> '(.*)'\s*\n()", output)
    if not match:
        return {}
    line = match[2].strip()
    name = line.split(maxsplit=1)[0].lower() if line else ""
    # Of a user's rules it quotes one, which may be that with the hash.
    reason = re.sub(r"'[#<>!][^']*'", "'(secret)'", match[3].strip())
    return {
        "line": match[1],
        "directive": name,
        "text": name if name in SECRET else line,
        "reason": "" if name in SECRET - {"user"} else reason or "unknown directive",
    }
