# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the real tools and showing a person how far they are: used by the demo, the benches and the checks."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.box import Box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
SCRIPTS = Path(sys.executable).parent
# A rule below the head and nothing else, in characters that every log and terminal has.
RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


# Children that still run, so that a run which is told to end can tell them.
CHILDREN: set[subprocess.Popen[str]] = set()


class Failed(Exception):
    """A sentence for the person: what did not work, and where to look."""


def tool(name: str) -> str:
    """The path of a program of this Python environment, or the bare name when the system has to bring it."""
    return str(SCRIPTS / name) if (SCRIPTS / name).exists() else name


def stream(
    command: Sequence[str],
    log: Path,
    *,
    show: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float | None = None,
) -> tuple[int, str]:
    """Run a command without a standard input; its output goes to the log, by lines to `show`, and to the caller."""
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with log.open("w") as out:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert child.stdout is not None
        CHILDREN.add(child)
        clock = threading.Timer(timeout, child.kill) if timeout else None
        if clock:
            clock.start()
        try:
            for line in child.stdout:
                out.write(line)
                out.flush()
                lines.append(line)
                if show:
                    show(line.rstrip("\n"))
            code = child.wait()
        except BaseException:
            # Ctrl-C has reached the child as well; its own cleaning up is waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(30)
            child.kill()
            raise
        finally:
            CHILDREN.discard(child)
            if clock:
                clock.cancel()
    return code, "".join(lines)


def end_on_sigterm() -> None:
    """Make SIGTERM (a CI that loses patience) an exception here and an interrupt in the children: all clean up then."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for child in list(CHILDREN):
            child.send_signal(signal.SIGINT)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)


def tail(log: Path, lines: int = 120) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True)
class Step:
    """Something that was done, and how long it took."""

    name: str
    seconds: float


@dataclass
class Journal:
    """The steps of a run as they happen."""

    steps: list[Step] = field(default_factory=list)
    out: Callable[[str], None] = lambda text: print(text, flush=True)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step, and say when it starts and ends."""
        self.out(f"==> {name}")
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self.out(f"    {name}: failed after {time.monotonic() - started:.1f} s")
            raise
        self.steps.append(Step(name, round(time.monotonic() - started, 2)))
        self.out(f"    {name}: {self.steps[-1].seconds:.1f} s")

    @property
    def seconds(self) -> float:
        """All steps together."""
        return sum(step.seconds for step in self.steps)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as text; every column but the first is set to the right."""
    drawn = Table(box=RULE, show_edge=False, pad_edge=False)
    for number, name in enumerate(head):
        drawn.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    # A log has no width, and what stands in brackets is no colour.
    console = Console(file=io.StringIO(), width=10_000, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
