# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated time, and processes that wait for it.

What runs is ordinary code that calls, sleeps and waits. Each such call is a moment at which time passes, other
processes run, and this one may be killed: the code runs in greenlets, which give way there and nowhere else. One seed
gives one run, whatever machine it is on.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from greenlet import greenlet

if TYPE_CHECKING:
    from dev.simulate.host import Host


class Killed(BaseException):
    """This process ends at once, as by SIGKILL: nothing of it catches this and goes on."""


@dataclass
class Process:
    """Something that runs: a part of a host, or of the world around them.

    Attributes:
        name: for the trace.
        host: on which it runs; None outside of hosts. A host that is paused or gone runs nothing.
        group: what is killed together: the threads of one process have the same.
    """

    name: str
    host: Host | None
    group: str
    work: Callable[[], None]
    thread: Any = None
    dead: bool = False


@dataclass
class Scheduler:
    """Runs one process at a time.

    Attributes:
        random: the one source of chance.
        now: seconds since the beginning.
        moments: how often a process has given way so far.
        interrupt: called at each of those with the process, before it goes on.
    """

    random: Random
    now: float = 0.0
    moments: int = 0
    interrupt: Callable[[Process], None] = lambda _process: None
    after: Callable[[], None] = lambda: None
    running: Process | None = None
    processes: list[Process] = field(default_factory=list)
    _queue: list[tuple[float, int, Process]] = field(default_factory=list)
    _count: int = 0
    _hub: Any = None
    _until: float = 0.0
    _over: Callable[[], bool] = lambda: False
    _ended: bool = False
    _wrong: Exception | None = None

    def start(
        self, name: str, host: Host | None, work: Callable[[], None], delay: float = 0.0, group: str = ""
    ) -> Process:
        """Have something run, from `delay` seconds on."""
        process = Process(name, host, group or name, work)
        process.thread = greenlet(lambda: self._live(process))
        self.processes.append(process)
        self._push(self.now + delay, process)
        return process

    def kill(self, process: Process) -> None:
        """End a process; what it is waiting for never comes."""
        if process.dead:
            return
        process.dead = True
        if process is not self.running and process.thread:
            thread, process.thread = process.thread, None
            # Its `finally` must not run: a killed process cleans nothing up. Greenlets let go of theirs when they are
            # thrown into; the moments in there are passed at once, since the process counts as dead.
            parent = greenlet.getcurrent()
            thread.parent = parent
            thread.throw(Killed)

    def wait(self, seconds: float) -> None:
        """The process that runs gives way for so long.

        Raises:
            Killed: it was killed meanwhile.
        """
        process = self.running
        if process is None or process.dead:
            raise Killed
        at = self.now + seconds
        if not self._goes_on(process, at):
            self._push(at, process)
            self._hub.switch()
            self.running = process
        if process.dead:
            raise Killed
        self.moments += 1
        self.interrupt(process)
        if process.dead:
            raise Killed

    def run(self, until: float, over: Callable[[], bool]) -> None:
        """Let time pass until then, or until it is over."""
        self._hub = greenlet.getcurrent()
        self._until, self._over, self._ended = until, over, False
        while self._queue:
            at, _, process = self._queue[0]
            if at > until:
                self.now = until
                return
            heapq.heappop(self._queue)
            if process.dead or process.thread is None:
                continue
            self.now = max(self.now, at)
            host = process.host
            if host is not None:
                if host.gone:
                    process.dead = True
                    process.thread = None
                    continue
                if host.paused_until > self.now:
                    self._push(host.paused_until, process)
                    continue
            self.running = process
            process.thread.parent = self._hub
            process.thread.switch()
            self.running = None
            if self._wrong is not None:
                raise self._wrong
            if self._ended:
                return
            self.after()
            if over():
                return

    def _goes_on(self, process: Process, at: float) -> bool:
        """Whether the process that gives way is the next one as well: most are, and nothing needs to be switched.

        What follows every step is done here then; what comes of that is for `run`, and not for the process.
        """
        if at > self._until or (self._queue and self._queue[0][0] <= at):
            return False
        host = process.host
        if host is not None and (host.gone or host.paused_until > at):
            return False
        try:
            self.after()
        except Exception as error:  # noqa: BLE001 - whatever it is, `run` raises it
            self._wrong = error
            return False
        if self._over():
            self._ended = True
            return False
        self.now = at
        return True

    def end(self) -> None:
        """Let go of everything that still waits."""
        for process in self.processes:
            process.dead = True
            process.thread = None
        self.processes.clear()
        self._queue.clear()

    def _push(self, at: float, process: Process) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, process))

    def _live(self, process: Process) -> None:
        """The life of a process."""
        try:
            process.work()
        except Killed:
            pass
        finally:
            process.dead = True
