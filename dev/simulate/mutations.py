# SPDX-License-Identifier: GPL-3.0-or-later
"""Old faults, put back one at a time: each has to be found by a run that breaks an invariant.

python -m dev.simulate.mutations [--runs 20000] [NAME ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from spotcache_keeper import lease as leases
from spotcache_keeper.backup import create, entitlement, restore, retain
from spotcache_keeper.backup.serving import read_serving
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import FinalRecord
from spotcache_keeper.node import acquire, boot, crash, drain, renew, watch
from spotcache_keeper.stores import retention, source
from spotcache_keeper.stores.base import Retention

from dev.simulate import cloud, host, run, world

Patch = tuple[Any, str, Any]


@contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """With these names bound to something else."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def _unjudged(sources: Any, _takeovers: Any) -> list[Any]:
    return list(sources)


def _unchecked(ctx: Any, **_how: bool) -> entitlement.Entitlement:
    """A host backs up whatever it holds, whoever serves, as it did before there were terms."""
    return entitlement.Entitlement(term=0)


def _anybody(ctx: Any, **_how: bool) -> entitlement.Entitlement:
    """A host backs up whoever serves, in the term that it knows."""
    served = read_serving(ctx)
    return entitlement.Entitlement(served.term if served is not None else 0)


def _backed_up(original: Callable[..., None]) -> Callable[..., None]:
    def backed_up(self: Any, state: Any, result: Any, *, held: bool) -> None:
        state.run = result.run
        original(self, state, result, held=True)

    return backed_up


def _withdraw(self: Any, state: Any, why: str) -> bool:
    """The lease first, the record afterwards."""
    try:
        if self._take_lease_back(state) is not None:
            return bool(self._leave_to(state, "x", why))
        self._let_through()
        self.lease.closed = False
        self.lease.renew()
        record = self.outside.leases.final(state.host)
        if record is not None:
            self.outside.leases.write_final(replace(record, withdrawn=True))
    except KeeperError:
        return False
    state.withdrawn, state.withdrawn_in = True, self.outside.boot_id
    self.checkpoint(state, "withdrawn")
    return True


def _renew_late(original: Callable[..., None]) -> Callable[..., None]:
    """The proof counts from when the renewal ended."""

    def renewed(self: Any) -> None:
        was = self.proved_until
        original(self)
        if self.proved_until != was:
            self.proved_until = self.ctx.clock() + self.ctx.config.timeouts.lease - leases.MARGIN
            if self.ctx.host.open_until:
                self.ctx.host.open_until = self.ctx.host.world.now + self.ctx.config.timeouts.lease - leases.MARGIN
                self.ctx.host.open_end = 1e12

    return renewed


def _open_for_ever(self: Any, until: float) -> None:
    self.host.open_until = self.host.open_end = 1e12


def _open_late(self: Any, until: float) -> None:
    """What is open counts only from when the kernel was told."""
    seconds = until - self.host.clock()
    self.host.world.wait(0.001)
    self.host.open_until, self.host.open_end = self.host.world.now + int(seconds), 1e12


def _not_found_is_gone(original: Callable[..., str]) -> Callable[..., str]:
    def state_of(self: Any, instance: str) -> str:
        return original(self, instance) or "terminated"

    return state_of


def _says_no_wait(original: Callable[..., Any]) -> Callable[..., Any]:
    """The lease does not say for how long its holder waits."""

    def write(self: Any, over: Any, _left: float = 0.0) -> Any:
        return original(self, over)

    return write


def _served_already(original: Callable[..., None]) -> Callable[..., None]:
    """Where the engine has started Redis again there is nothing to tell, whatever it lacks."""

    def notify(self: Any, result: Any) -> None:
        if result.what != "served already" or result.before:
            original(self, result)

    return notify


def _forgets_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    """What an earlier boot found to be lost, and told nobody."""

    def before(self: Any, held: Any) -> Any:
        return replace(original(self, held), lost="")

    return before


def _by_time(items: Any, **named: Any) -> Any:
    """Retention that goes by time, and takes every backup for a good one."""
    return retention.given_up([replace(item, term=0, good=True) for item in items], **named)


def _asks_first(original: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    """The word on takeovers is older than the list."""

    def prune(self: Any, asked: Retention) -> Iterator[str]:
        known = asked.takeovers([])
        return original(self, replace(asked, takeovers=lambda _: known))

    return prune


def _unsettled(held: Any, _listed: Any) -> Any:
    """How the environment changed hands, be it settled or not."""
    found = held.lease()
    return found.lease.history if found is not None else ()


def _release_open(self: Any, state: Any) -> bool:
    """The lease is given back, and the gate stays as it is."""
    self.checkpoint(state, "shut")
    return True


def _always(*_arguments: Any, **_named: Any) -> bool:
    return True


def _nothing(*_arguments: Any, **_named: Any) -> None:
    return None


def _newest_by_time(sources: Any) -> Any:
    return sorted(sources, key=lambda one: (one.created, one.id), reverse=True)


MUTATIONS: dict[str, tuple[str, list[Patch]]] = {
    "superseded backups count": (
        "1, a host that lost the lease backs up, and its backups count as the newest",
        [
            (create, "entitlement", _unchecked),
            (restore, "judge", _unjudged),
            (world, "judge", _unjudged),
            (cloud, "judge", _unjudged),
        ],
    ),
    "superseded backups are judged by nobody": (
        "1, the second line only: the host looks first, and what it wrote too late counts",
        [
            (create, "_still_entitled", _nothing),
            (restore, "judge", _unjudged),
            (world, "judge", _unjudged),
            (cloud, "judge", _unjudged),
        ],
    ),
    "complete whatever happened": (
        "2, a final backup is complete although Redis was started anew",
        [(drain.Drainer, "_backed_up", _backed_up(drain.Drainer._backed_up))],
    ),
    "no fence of its own": (
        "3, the gate does not close by itself",
        [(host.SimGuard, "open", _open_for_ever), (watch.Watch, "_hold_back", _nothing)],
    ),
    "a restarted watcher does not fence": (
        "4, a foreign lease means nothing to a watcher that has just begun, which opens the gate for whatever runs",
        [(renew.LeaseHolder, "_served_before", lambda *_: False), (renew.LeaseHolder, "_may_serve", _always)],
    ),
    "given back unfenced": (
        "5, the lease is given back although clients still get in",
        [(drain.Drainer, "_shut", _release_open), (drain.Drainer, "fence", lambda *_: "run")],
    ),
    "a record is never taken back": (
        "6, a host that was only started anew serves, and its record still says that it is over",
        [(acquire.Acquirer, "_take_record_back", _nothing), (watch.Watch, "_withdraw_past", _nothing)],
    ),
    "record after lease": ("9, a withdrawal in the wrong order", [(drain.Drainer, "withdraw", _withdraw)]),
    "InService is enough": (
        "11, the fallback ends although the Spot host cannot boot",
        [(world, "serves_by", _always)],
    ),
    "a restore is not backed up": ("14, a forced restore is undone", [(host, "_back_up_restored", _nothing)]),
    "not found is gone": (
        "low, EC2 does not find the holder",
        [(acquire.Acquirer, "state_of", _not_found_is_gone(acquire.Acquirer.state_of))],
    ),
    "taken without waiting": (
        "the lease of a host that EC2 is ending is taken, and what it may still go by is not waited for",
        [(acquire.Acquirer, "_outlived", lambda *_: 0.0)],
    ),
    "a killed boot forgets to wait": (
        "what the host before may still go by is not waited for by the boot after one that was killed",
        [(acquire.Acquirer, "_outlast_again", _nothing)],
    ),
    "a lost host's wait is forgotten": (
        "what a host waited for that was lost meanwhile is not waited for by the next one",
        [(acquire.Acquirer, "_write", _says_no_wait(acquire.Acquirer._write))],
    ),
    "served already is no news": (
        "what a crash took is told to nobody where the engine has started Redis again",
        [(boot.Boot, "_notify", _served_already(boot.Boot._notify))],
    ),
    "a killed boot's loss is forgotten": (
        "what a boot found to be lost that was killed before it told anybody",
        [(acquire.Acquirer, "_before", _forgets_loss(acquire.Acquirer._before))],
    ),
    "proved too long": (
        "the holder counts longer than the others",
        [(renew, "MARGIN", -20.0), (boot, "MARGIN", -20.0)],
    ),
    "proved from the end of a renewal": (
        "a slow answer makes the lease longer",
        [(renew.LeaseHolder, "renew", _renew_late(renew.LeaseHolder.renew))],
    ),
    "opened late": ("a machine that stands still before the kernel is told", [(host.SimGuard, "open", _open_late)]),
    "a record of any term": (
        "a final record of an earlier term counts",
        [(FinalRecord, "of", lambda self, name, _term: self.host == name and not self.withdrawn)],
    ),
    "retention by time": ("retention takes what a superseded host made for good", [(cloud, "given_up", _by_time)]),
    "retention asks first": (
        "how the environment changed hands is asked before the backups are listed",
        [(cloud.SimS3Store, "prune", _asks_first(cloud.SimS3Store.prune))],
    ),
    "retention in between": (
        "backups are given up while a host takes over and has not looked",
        [(retain, "takeovers_of", _unsettled)],
    ),
    "newest by time": (
        "a clock decides which backup is the newest",
        [(restore, "newest_first", _newest_by_time), (source, "newest_first", _newest_by_time)],
    ),
    "backups while it boots": ("a host backs up before it serves", [(create, "entitlement", _anybody)]),
    "a crash is not noted": (
        "what a crash of the machine took is told by the age of a file",
        [(crash, "note_crash", _nothing), (host, "note_crash", _nothing)],
    ),
    "a crash is noted on the host alone": (
        "what a crash took of a host is not known to whoever takes its volume over",
        [(boot.Boot, "_lost_on_volume", lambda _self, _before: "")],
    ),
    "old data on the volume": (
        "a superseded host goes on with what lies on its volume",
        [(boot.Boot, "stale", property(lambda _self: False, lambda _self, _value: None))],
    ),
}


def main(arguments: Sequence[str]) -> int:
    """The command line: prints a table, and ends non-zero when one was not found."""
    parser = argparse.ArgumentParser(prog="python -m dev.simulate.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--runs", type=int, default=20_000, help="within how many one must be found (default: 20000)")
    asked = parser.parse_args(arguments)
    survived = 0
    for name, (what, patches) in MUTATIONS.items():
        if asked.names and name not in asked.names:
            continue
        with patched(patches):
            outcome = run.many(range(1, asked.runs + 1))
        found = f"run {outcome.runs}: {outcome.violations[0][1][:110]}" if outcome.violations else "NOT FOUND"
        survived += not outcome.violations
        print(f"{name} | {what} | {found}", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
