# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that stay in memory and run playbooks one after the other: what dev/swift.py is asked through."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.work import ROOT, Failed

LOOK_S = 0.2  # between two looks at what a run has printed


@dataclass
class Program:
    """One of them, which runs one playbook at a time."""

    process: subprocess.Popen[str]
    errors: Path

    @classmethod
    def start(cls, environment: Mapping[str, str], errors: Path) -> Program:
        """Start one with that environment; what it complains of goes to the file."""
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "dev.swift"],
                cwd=ROOT,
                env={name: value for name, value in environment.items() if not name.startswith("AWS_")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        return cls(process, errors)

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        show: Callable[[str], None] | None = None,
        cwd: Path = ROOT,
    ) -> int:
        """Run ansible-playbook with the arguments; its output goes to the log and by lines to `show`.

        Raises:
            Failed: the program itself has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        asked = {"arguments": list(arguments), "environment": dict(environment), "log": str(log), "cwd": str(cwd)}
        # One that has ended takes nothing more, and gives no answer below.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        with log.open(errors="replace") as printed:
            ended, rest = False, ""
            while not ended:
                ended = bool(select.select([self.process.stdout], [], [], LOOK_S)[0])
                *lines, rest = (rest + printed.read()).split("\n")
                if show:
                    for line in lines:
                        show(line)
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(f"the program that runs playbooks has ended: {self.errors.read_text()[-2000:]}")
        return int(json.loads(answer)["code"])

    def close(self) -> None:
        """End it, and with it a run that is going on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Pool:
    """As many programs as are asked at once; each is used again."""

    free: list[Program] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, **more: Any) -> tuple[int, str]:
        """Run a playbook; its exit code and what it printed."""
        with self.lock:
            program = self.free.pop() if self.free else None
        program = program or self._start(environment)
        try:
            code = program.run(arguments, {**os.environ, **environment}, log, **more)
        except BaseException:
            program.close()
            raise
        with self.lock:
            self.free.append(program)
        return code, log.read_text(errors="replace")

    def _start(self, environment: Mapping[str, str]) -> Program:
        descriptor, errors = tempfile.mkstemp(prefix="spotcache-swift-", suffix=".log")
        os.close(descriptor)
        program = Program.start({**os.environ, **environment}, Path(errors))
        atexit.register(Path(errors).unlink, missing_ok=True)
        atexit.register(program.close)
        return program


POOL = Pool()
