# SPDX-License-Identifier: GPL-3.0-or-later
"""Many runs, one after the other, and what came of them."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import spotcache_keeper
from spotcache_keeper import lease as lease_module
from spotcache_keeper.aws import imds
from spotcache_keeper.backup import create, serving, switch_data
from spotcache_keeper.config import Config, parse_config
from spotcache_keeper.node import boot, crash, drain
from spotcache_keeper.server import rdb
from spotcache_keeper.system import files, lock, state, times
from spotcache_keeper.system.times import from_epoch

from dev.keeper_json import KEEPER_JSON
from dev.simulate import host
from dev.simulate.cloud import EPOCH
from dev.simulate.world import LEASE_SECONDS, Violation, World

CONFIG: dict[str, Any] = {
    **KEEPER_JSON,
    "environment": "sim",
    "bucket": "backups",
    "ebs_snapshots": False,
    "watch_seconds": 7,
    "guard": True,
    "dns_zone_id": "Z1",
    "dns_name": "redis.sim",
    "allow_empty": True,
    # In proportion to a lease of a few seconds, so that a run is short.
    "timeouts": {
        "lock": 5,
        "answer": 2,
        "backup": 20,
        "check": 20,
        "start": 20,
        "stop": 5,
        "volume": 120,
        "lease": LEASE_SECONDS,
        "handover": 20,
        "drain": 30,
    },
}


class Dice:
    """`secrets`, from the run's own seed."""

    def __init__(self) -> None:
        self.random = Random(0)

    def token_hex(self, count: int) -> str:
        return f"{self.random.getrandbits(8 * count):0{2 * count}x}"


DICE = Dice()
_SECOND = timedelta(seconds=1)


class Now:
    """The true time of the run that goes on."""

    world: World | None = None

    def __call__(self) -> datetime:
        assert self.world is not None
        return self.world.true_time


NOW = Now()


class Records:
    """`lease._read`, which is pure: each object that was written is read once in a run."""

    def __init__(self) -> None:
        # What was read is kept beside its record, so that no other object gets its id.
        self.known: dict[tuple[str, int], tuple[Any, Any]] = {}

    def __call__(self, kind: type[Any], data: Any) -> Any:
        found = self.known.get((kind.__name__, id(data)))
        if found is None:
            found = self.known[kind.__name__, id(data)] = data, READ(kind, data)
        return found[1]


# As they are outside of a simulation.
READ, WHOLE = lease_module._read, times.to_text
RECORDS = Records()


class Plain:
    """`json` for a disk that is none: the same text without the white space, which only people need."""

    @staticmethod
    def dumps(data: Any, **_layout: Any) -> str:
        return _PLAIN.encode(data)


_PLAIN = json.JSONEncoder()


@lru_cache(4096)
def _text_of(second: int) -> str:
    return WHOLE(EPOCH + timedelta(seconds=second))


def to_text(moment: datetime) -> str:
    """`times.to_text`, which knows whole seconds only: the same second is the same text in every run."""
    return _text_of((moment - EPOCH) // _SECOND)


def _modules() -> list[Any]:
    """The keeper's own."""
    return [module for name, module in sys.modules.items() if name.startswith(spotcache_keeper.__name__)]


@contextmanager
def simulated() -> Iterator[None]:
    """The keeper's modules without a disk and without Redis' files: what they call there is the model's."""
    stand_ins: list[tuple[Any, str, Any]] = []
    taken = {
        state.recall: host.recall,
        state.save_state: host.save_state,
        files.write_atomically: host.write_atomically,
        files.read_json: host.read_json,
        lock.only_run: host.only_run,
        lock.is_held: host.is_held,
        rdb.written_at: lambda path: from_epoch(path.forked),
        rdb.beginning_of: lambda _path: rdb.Beginning(),
        # They are pure: the same text is the same moment in every run.
        times.from_text: lru_cache(4096)(times.from_text),
        times.to_text: to_text,
        times.created_of: lru_cache(4096)(times.created_of),
    }
    for module in _modules():
        for name, value in list(vars(module).items()):
            if callable(value) and getattr(value, "__module__", "").startswith("spotcache_keeper"):
                replacement = next((new for old, new in taken.items() if old is value), None)
                if replacement is not None:
                    stand_ins.append((module, name, replacement))
    nothing: Callable[..., Any] = lambda *_arguments, **_named: None  # noqa: E731
    stand_ins += [
        (boot, "restore", host.restore),
        (boot, "identify", host.identify),
        (boot, "append_only_files", lambda _ctx: []),
        (boot, "databases_of", nothing),
        (boot, "recover", nothing),
        (drain, "recover", nothing),
        # Written as it is: `write_atomically` takes a text apart again, and this one is written after every step.
        (drain, "asdict", vars),
        (drain, "json", Plain),
        (switch_data, "recover", nothing),
        (create, "examine", host.examine),
        (create, "check_free_space", nothing),
        (imds, "utc_now", NOW),
        (times, "secrets", DICE),
        (lease_module, "_read", RECORDS),
        (crash, "known_host", lambda path: path.host.id),
        (serving, "known_host", lambda path: path.host.id),
        (lease_module, "secrets", DICE),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in stand_ins]
    try:
        for module, name, value in stand_ins:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in reversed(before):
            setattr(module, name, value)


@dataclass
class Outcome:
    """What came of many runs.

    Attributes:
        runs: how many there were.
        steps: moments at which something could go wrong, in all of them.
        faults: how often each kind happened.
        violations: the seed and what did not hold.
        trace: of the first of them.
        seconds: that it took.
    """

    runs: int = 0
    steps: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[tuple[int, str]] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """As it is written to the disk."""
        return {
            "runs": self.runs,
            "steps": self.steps,
            "faults": dict(sorted(self.faults.items())),
            "violations": [{"seed": seed, "what": what} for seed, what in self.violations],
            "seconds": round(self.seconds, 3),
        }


def configuration() -> Config:
    """The keeper's, of every simulated host."""
    return parse_config(CONFIG, "the simulation")


def one(seed: int, config: Config, outcome: Outcome, *, verbose: bool = False) -> World:
    """One run of that seed; what does not hold goes into the outcome."""
    DICE.random = Random(seed)
    RECORDS.known.clear()
    NOW.world = world = World(seed, config, outcome.faults, verbose=verbose)
    try:
        world.run()
    except Violation as violation:
        outcome.violations.append((seed, str(violation)))
        world.trace("!", str(violation))
    except Exception as error:  # noqa: BLE001 - whatever the keeper's own code did not expect
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"(x) {type(error).__name__}: {error} at {Path(where.filename).name}:{where.lineno}"
        outcome.violations.append((seed, text))
        world.trace("!", "".join(traceback.format_exception(error)))
    finally:
        world.scheduler.end()
    outcome.runs += 1
    outcome.steps += world.scheduler.moments
    return world


def many(seeds: range, *, stop_at_first: bool = True, progress: Callable[[Outcome], None] | None = None) -> Outcome:
    """Runs of all these seeds; of the first that fails once more with its trace."""
    outcome, config = Outcome(), configuration()
    begun = time.perf_counter()
    gc.disable()
    # What is there so far stays: only what the runs leave is looked through.
    gc.freeze()
    with simulated():
        for seed in seeds:
            one(seed, config, outcome)
            if outcome.runs % 500 == 0:
                gc.collect()
                outcome.seconds = time.perf_counter() - begun
                if progress is not None:
                    progress(outcome)
            if outcome.violations and stop_at_first:
                break
        outcome.seconds = time.perf_counter() - begun
        if outcome.violations:
            again = one(outcome.violations[0][0], config, Outcome(), verbose=True)
            outcome.trace = again.lines
    gc.unfreeze()
    gc.enable()
    return outcome
