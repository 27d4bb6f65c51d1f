# SPDX-License-Identifier: GPL-3.0-or-later
"""Random .env files, merged and then read by the real phpdotenv: nothing misread, no foreign byte changed.

Every file is put together from portions: foreign ones (comments, entries in all quotings, duplicates, junk) and ones of
the keys that are set. What comes out is compared with what PHP reads before and after. A file that is refused does not
count; what it was refused for is. Writes build/bench/dotenv.json.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dev.sample_app.laravel.phpdotenv import Answer, PhpDotenv
from dev.work import BUILD, ROOT, table

sys.path.append(str(ROOT / "collections"))
from ansible_collections.spotcache.redis.plugins.module_utils import dotenv_text

RESULT: Final = BUILD / "bench" / "dotenv.json"
KEYS: Final = ("REDIS_HOST", "REDIS_PASSWORD", "SESSION_DRIVER", "SESSION_REDIS_PASSWORD", "CACHE_PREFIX", "NEW_ONE")
WORDS: Final = ("null", "NULL", "true", "False", "(empty)", "empty", "(null)", "0", "1", "")
PIECES: Final = (
    *"abcXYZ019_.:/@%+,-",
    *"\"'\\#$ =\t\n\r`!*()[]{}<>?;&|^~",
    "${HOME}",
    "${A}",
    "$x",
    '\\"',
    "\\n",
    "\\\\",
    " #",
    '="',
    "\x0b",
    "\x0c",
    "\x01",
    "\x85",
    "é",
    "日本",
    "☃",
    "\U0001f511",
    "\ufeff",
    "\u2028",
)
# Portions that a person or a program could have written; some are traps that must be refused.
FOREIGN: Final = (
    "# a comment{end}",
    "{end}",
    "   {end}",
    "#COMMENTED={plain}{end}",
    "{name}={plain}{end}",
    "{name}={plain} # why{end}",
    "{name}={plain}#why{end}",
    "{name}= {plain}  {end}",
    "  {name} ={plain}{end}",
    "{name}={end}",
    "{name}{end}",
    "{name}='{single}'{end}",
    "{name}='{single}' # it's{end}",
    '{name}="{double}"{end}',
    '{name}="{double}"# say "hi"{end}',
    '{name}="{double}{end}{double}"{end}',
    "{name}=${{OTHER_1}}/x{end}",
    '{name}="${{OTHER_2}}:${{NOPE}}"{end}',
    "export EXPORTED_{name}={plain}{end}",
    "{junk}{end}",
)
MANAGED: Final = (
    "{name}=|{old}|{end}",
    "{name}=|{old}| # kept {end}",
    "  {name} = |{old}|#kept{end}",
    '{name}=|"{old}"|{end}',
)


def text(dice: random.Random, longest: int = 24) -> str:
    """A value: a word that means something to Laravel, or anything at all."""
    if dice.random() < 0.1:
        return dice.choice(WORDS)
    found = "".join(dice.choice(PIECES) for _ in range(dice.randint(0, longest)))
    if dice.random() < 0.1:
        quote = dice.choice("\"'")
        found = f"{quote}{found}{quote}"
    return found * 60 if dice.random() < 0.01 else found


@dataclass(frozen=True)
class Sample:
    """A file in portions: (before the value, value, after it) of an entry that is to be set, or foreign as it is."""

    portions: list[tuple[str, str, str, str]]
    values: dict[str, str]

    @property
    def content(self) -> bytes:
        """The file."""
        return "".join(before + value + after for _, before, value, after in self.portions).encode()

    def keeps(self, result: bytes) -> bool:
        """Whether the result is the file with other values in their places, and new entries behind it."""
        last = {name: number for number, (name, *_) in enumerate(self.portions) if name in self.values}
        pattern = b""
        for number, (name, before, value, after) in enumerate(self.portions):
            changing = last.get(name) == number
            pattern += re.escape(before.encode())
            pattern += rb"[^\r\n]*" if changing else re.escape(value.encode())
            pattern += re.escape(after.encode())
        new = b"|".join(name.encode() for name in self.values if name not in last) or b"(?!)"
        return re.fullmatch(pattern + rb"(?:\r\n|\n|\r)?(?:(?:%b)=[^\r\n]*(?:\r\n|\n|\r))*" % new, result) is not None


def sample(dice: random.Random) -> Sample:
    """A random file and what is to be set in it."""
    end = dice.choice(("\n", "\n", "\r\n", "\r"))
    portions = [("", "\ufeff", "", "")] if dice.random() < 0.05 else []
    for _ in range(dice.randint(0, 10)):
        if dice.random() < 0.25:
            name = dice.choice(KEYS)
            old = re.sub(r"[^a-z]", "", text(dice)) or "x"
            before, value, after = dice.choice(MANAGED).format(name=name, old=old, end=end).split("|")
            portions.append((name, before, value, after))
            continue
        piece = text(dice)
        # Junk is rare: most of it is refused, and refused files do not count.
        shape = dice.choice(FOREIGN if dice.random() < 0.15 else FOREIGN[:-1])
        foreign = shape.format(
            name=f"OTHER_{dice.randint(0, 4)}",
            plain=re.sub(r"[^\w.:/$-]", "", piece, flags=re.ASCII),
            single=re.sub(r"['\r\n]", "", piece) if dice.random() < 0.3 else re.sub(r"['\"\r\n]", "", piece),
            double=re.sub(r'(["\\$])', r"\\\1", re.sub(r"[\r\n]", "", piece)),
            # PHP's own arrays count on for a name of digits only, which is no fault of the parser's.
            junk=re.sub(r"\d", "", piece, flags=re.ASCII),
            end=end,
        )
        portions.append(("", foreign, "", ""))
    if portions and dice.random() < 0.2 and portions[-1][3].endswith(end):
        name, before, value, after = portions[-1]
        portions[-1] = (name, before, value, after.removesuffix(end))
    values = {name: text(dice) for name in dice.sample(KEYS, dice.randint(1, 4))}
    # The parser can hold neither; both are refused, with tests of their own.
    values = {name: "x" if name.endswith("PASSWORD") and value == "0" else value for name, value in values.items()}
    return Sample(portions, values)


@dataclass
class Outcome:
    """What has been found so far."""

    files: int = 0
    values: int = 0
    misread: int = 0
    foreign_bytes_changed: int = 0
    refused: int = 0
    examples: list[str] = field(default_factory=list)

    def bad(self, what: str, one: Sample) -> None:
        """Keep the first few for a person to look at."""
        if len(self.examples) < 5:
            self.examples.append(f"{what}: {one.content!r} with {one.values!r}")


def foreign(answer: Answer, one: Sample) -> dict[str, object]:
    """What PHP reads of the keys that were not set."""
    return {name: value for name, value in answer.dotenv.items() if name not in one.values}


def own_reading(content: str) -> dict[str, bytes | None] | None:
    """What the module's own parser makes of a file; None when it refuses it."""
    try:
        found = dotenv_text.load(dotenv_text.parse(content))
    except dotenv_text.Misread:
        return None
    return {name: None if value is None else value.encode() for name, value in found.items()}


def examine(php: PhpDotenv, one: Sample, outcome: Outcome) -> None:
    """Merge one file and let PHP judge."""
    before = php.read(one.content)
    try:
        merged = dotenv_text.merge(dotenv_text.decode(one.content), one.values)
    except dotenv_text.Misread:
        outcome.refused += 1
        return
    result = dotenv_text.encode(merged.text)
    after = php.read(result)
    outcome.files += 1
    outcome.values += len(one.values)
    wrong = [name for name, value in one.values.items() if after.env.get(name) != value.encode()]
    if before.error or after.error or wrong or foreign(after, one) != foreign(before, one):
        outcome.misread += 1
        outcome.bad(f"misread ({before.error or after.error or wrong or 'foreign keys'})", one)
    if own_reading(merged.text) != after.dotenv:
        outcome.misread += 1
        outcome.bad("read here otherwise than by PHP", one)
    if not one.keeps(result):
        outcome.foreign_bytes_changed += 1
        outcome.bad("foreign bytes changed", one)


def bench(files: int, seed: int) -> Outcome:
    """As many files as asked for that are not refused."""
    dice, outcome = random.Random(seed), Outcome()
    with PhpDotenv() as php:
        while outcome.files < files:
            examine(php, sample(dice), outcome)
    return outcome


def main(arguments: Sequence[str], result: Path = RESULT) -> int:
    """The command line of this bench."""
    parser = argparse.ArgumentParser(prog="./spotcache bench dotenv", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000, help="how many files (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="0 for other files every time, which is the default")
    asked = parser.parse_args(arguments)
    seed = asked.seed or random.SystemRandom().randrange(1, 2**31)
    started = time.monotonic()
    try:
        outcome = bench(asked.files, seed)
    except RuntimeError as error:
        print(f"bench dotenv: {error}", file=sys.stderr)
        return 1
    numbers = {
        name: getattr(outcome, name) for name in ("files", "misread", "foreign_bytes_changed", "values", "refused")
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    written = {**numbers, "seed": seed, "seconds": round(time.monotonic() - started, 1), "examples": outcome.examples}
    result.write_text(json.dumps(written, indent=2) + "\n")
    print("\n".join(outcome.examples), file=sys.stderr)
    print(f"{table(['dotenv', 'count'], [[name, str(number)] for name, number in numbers.items()])}\n{result}")
    return 0 if outcome.misread == outcome.foreign_bytes_changed == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
