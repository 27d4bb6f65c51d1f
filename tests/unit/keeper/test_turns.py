# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is: the lease that is renewed, what that lets in, and how long the next one waits. No network."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from spotcache_keeper import cli
from spotcache_keeper.aws.signed import ConflictError
from spotcache_keeper.backup.entitlement import SupersededError, entitlement
from spotcache_keeper.backup.serving import note_serving, read_serving
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError, NotServingError
from spotcache_keeper.lease import FinalRecord, Held, Lease
from spotcache_keeper.node.acquire import Acquirer
from spotcache_keeper.node.crash import note_crash, note_crash_after_withdrawal
from spotcache_keeper.node.renew import LeaseHolder
from spotcache_keeper.outside import Outside
from spotcache_keeper.system.state import BOOT, CRASH, recall, save_state

from tests.unit.keeper.support import NoS3, TestHost
from tests.unit.keeper.watch_support import Gate

ME, OTHER = "i-0123456789abcdef0", "i-other"


@dataclass
class Memory:
    """`Leases` in memory, with S3's clock."""

    clock: Any
    held: Lease | None = None
    written: float = 0.0
    count: int = 0
    finals: dict[str, FinalRecord] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    def lease(self) -> Held | None:
        return Held(self.held, str(self.count), self.clock() - self.written) if self.held is not None else None

    def write_lease(self, lease: Lease, over: Held | None) -> None:
        if (over.etag if over is not None else None) != (str(self.count) if self.held is not None else None):
            raise ConflictError("changed")
        self.held, self.written, self.count = lease, self.clock(), self.count + 1

    def put(self, lease: Lease) -> None:
        """Another host writes."""
        self.held, self.written, self.count = lease, self.clock(), self.count + 1

    def final(self, host: str) -> FinalRecord | None:
        return self.finals.get(host)

    def write_final(self, final: FinalRecord) -> None:
        self.finals[final.host] = final

    def write_waiting(self, host: str, written: str) -> None:
        assert written
        self.waiting.append(host)


class Backups(NoS3):
    """S3 with one backup in it."""

    def ids(self) -> list[str]:
        return ["20261122T001503Z-3f9a1c"]


@dataclass
class Turn:
    """A host whose Redis only seems to run, its clock, and the lease."""

    host: TestHost
    now: float = 1000.0
    gate: Gate = field(default_factory=Gate)
    state: str = ""

    def __post_init__(self) -> None:
        self.leases = Memory(lambda: self.now)
        (self.host.directory / "redis.pid").write_text("1")

    def wait(self, seconds: float) -> None:
        self.now += seconds

    @property
    def context(self) -> Context:
        return self.host.context(
            clock=lambda: self.now, sleep=self.wait, guard=self.gate, leases=self.leases, boot_id="boot-1"
        )

    @property
    def outside(self) -> Outside:
        nothing: Any = None
        return Outside(nothing, nothing, self.leases, None, lambda _service: nothing, "boot-1")

    def holder(self) -> LeaseHolder:
        return LeaseHolder(self.context, self.outside)

    def acquirer(self) -> Acquirer:
        made = Acquirer(self.context, self.outside, lambda _line: None)
        setattr(made, "state_of", lambda _host: self.state)  # noqa: B010 - a method of this one only
        return made


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    host = TestHost(tmp_path / "host")
    host.config = replace(host.config, boots=True, dns_name=None)
    return Turn(host)


# --- what a renewal lets in


def test_clients_get_in_for_as_long_as_the_lease_is_proved_from_when_the_renewal_began(turn: Turn) -> None:
    holder = turn.holder()
    slow, write = 7.0, turn.leases.write_lease

    def write_slowly(lease: Lease, over: Held | None) -> None:
        turn.now += slow
        write(lease, over)

    turn.leases.write_lease = write_slowly  # type: ignore[method-assign]
    holder.renew()
    assert holder.trouble == ""
    assert turn.gate.open_until == 1000.0 + 90 - 5
    assert holder.proved
    turn.now = 1000.0 + 85
    assert not holder.proved


def test_a_host_that_lost_its_lease_never_takes_it_again_by_itself(turn: Turn) -> None:
    holder = turn.holder()
    holder.renew()
    turn.leases.put(Lease(OTHER, term=2))
    holder.renew()
    assert holder.lost_to == OTHER
    # Nor does a watcher that has just begun, whatever becomes of the other's lease.
    turn.leases.put(Lease(OTHER, term=2, released=True))
    turn.gate.open_until = 1.0
    later = turn.holder()
    later.renew()
    assert later.lost_to == OTHER
    assert turn.leases.held is not None
    assert turn.leases.held.host == OTHER


def test_after_a_start_redis_is_not_reached_before_a_boot_has_given_it_its_data(turn: Turn) -> None:
    note_serving(turn.context, 1, "an earlier boot")
    turn.leases.put(Lease(ME, term=1))
    turn.holder().renew()
    assert turn.gate.open_until is None
    note_serving(turn.context, 1, "boot-1")
    turn.holder().renew()
    assert turn.gate.open_until is not None


def test_a_new_host_serves_nobody_before_the_backups_are_restored(turn: Turn) -> None:
    turn.host.s3 = Backups()
    holder = turn.holder()
    holder.renew()
    assert (holder.held, turn.gate.open_until) == (True, None)
    # Looked at again soon, since that is over at any moment.
    assert holder.pause() < 10
    turn.context.restored_path.write_text("{}")
    holder.renew()
    assert turn.gate.open_until is not None


def test_a_lease_that_was_lost_goes_on_in_the_same_term(turn: Turn) -> None:
    note_serving(turn.context, 7, "boot-1")
    turn.holder().renew()
    assert turn.leases.held is not None
    assert turn.leases.held.term == 7
    assert turn.gate.open_until is not None


def test_what_was_shut_no_renewal_opens_again(turn: Turn) -> None:
    holder = turn.holder()
    holder.renew()
    holder.shut()
    holder.renew()
    assert turn.gate.open_until is None


# --- how long the next one waits


def test_what_the_host_before_may_still_go_by_is_waited_for(turn: Turn) -> None:
    turn.leases.put(Lease(OTHER, term=3, seconds=90))
    turn.host.config = replace(turn.host.config, timeouts=replace(turn.host.config.timeouts, handover=10))
    turn.state = "shutting-down"
    before = turn.acquirer().acquire()
    assert before.term == 4
    assert turn.now >= 1090.0
    assert turn.leases.waiting == [] or set(turn.leases.waiting) == {ME}


def test_a_boot_after_one_that_was_killed_waits_as_well(turn: Turn) -> None:
    turn.leases.put(Lease(OTHER, term=3, seconds=90))
    turn.host.config = replace(turn.host.config, timeouts=replace(turn.host.config.timeouts, handover=10))
    turn.state = "shutting-down"

    class Kill(BaseException):
        pass

    acquirer = turn.acquirer()

    def killed(_until: float, _host: str) -> None:
        raise Kill

    setattr(acquirer, "_wait_until", killed)  # noqa: B010 - a method of this one only
    with pytest.raises(Kill):
        acquirer.acquire()
    assert turn.leases.held is not None
    assert turn.leases.held.host == ME
    assert turn.now < 1030.0
    turn.acquirer().acquire()
    assert turn.now >= 1090.0


@pytest.mark.parametrize("released", [False, True])
def test_what_a_lost_host_had_waited_for_the_next_one_waits_for(turn: Turn, released: bool) -> None:
    """The host that was lost never served; one before it may still go by its lease."""
    turn.leases.put(Lease(OTHER, term=4, seconds=90, outlast=40, before="i-first", released=released))
    turn.state = "running" if released else "terminated"
    turn.now += 10
    before = turn.acquirer().acquire()
    assert before.term == 5
    assert turn.now >= 1040.0
    # So would one that comes next, should this one be lost in turn.
    assert turn.leases.held is not None
    assert 30 <= turn.leases.held.outlast <= 32


def test_a_loss_that_nobody_was_told_of_is_left_to_the_next_host(turn: Turn) -> None:
    turn.leases.put(Lease(OTHER, term=3, released=True, lost="what was written after 2026-11-22T00:15:00Z"))
    assert turn.acquirer().acquire().lost == "what was written after 2026-11-22T00:15:00Z"


def test_a_host_that_waits_says_in_the_lease_for_how_long(turn: Turn) -> None:
    turn.leases.put(Lease(OTHER, term=3, seconds=90))
    turn.host.config = replace(turn.host.config, timeouts=replace(turn.host.config.timeouts, handover=10))
    turn.state = "shutting-down"
    written: list[tuple[float, Lease]] = []
    put = turn.leases.write_lease

    def write(lease: Lease, over: Held | None) -> None:
        put(lease, over)
        written.append((turn.now, lease))

    turn.leases.write_lease = write  # type: ignore[method-assign]
    turn.acquirer().acquire()
    ((at, lease),) = written
    # The lease that was taken was written at 1000; the age of this one is told in whole seconds.
    assert 1091.0 <= at + lease.outlast <= 1093.0


@pytest.mark.parametrize(("age", "taken"), [(20.0, False), (40.0, True)])
def test_the_watcher_takes_no_released_lease_while_a_host_further_back_may_go_by_its_own(
    turn: Turn, age: float, taken: bool
) -> None:
    turn.host.config = replace(turn.host.config, boots=False)
    turn.leases.put(Lease(OTHER, term=4, released=True, outlast=40))
    turn.context.restored_path.write_text("{}")
    turn.now += age
    turn.holder().renew()
    assert turn.leases.held is not None
    assert (turn.leases.held.host == ME) is taken
    assert (turn.gate.open_until is not None) is taken


@pytest.mark.parametrize(
    ("final", "waits"),
    [
        (FinalRecord(OTHER, term=3, fenced=True, off_host=True), False),
        (FinalRecord(OTHER, term=2, fenced=True, off_host=True), True),  # of an earlier term
        (FinalRecord(OTHER, term=3, fenced=False, off_host=True), True),
        (FinalRecord(OTHER, term=3, fenced=True, off_host=True, withdrawn=True), True),
    ],
)
def test_which_record_lets_the_next_host_begin_at_once(turn: Turn, final: FinalRecord, waits: bool) -> None:
    turn.leases.put(Lease(OTHER, term=3, seconds=90))
    turn.leases.write_final(final)
    turn.state = "running"
    before = turn.acquirer().acquire()
    assert (turn.now >= 1090.0) is waits
    assert (before.final is None) is (final.term != 3 or final.withdrawn)


@pytest.mark.parametrize(("state", "waits"), [("terminated", False), ("stopped", True), ("", True)])
def test_what_ec2_says_of_the_holder(turn: Turn, state: str, waits: bool) -> None:
    """One that was stopped may run again by now; that EC2 does not know it says nothing."""
    turn.leases.put(Lease(OTHER, term=3, seconds=90))
    turn.state = state
    turn.acquirer().acquire()
    assert (turn.now > 1030.0) is waits


# --- who may back up


def test_only_a_host_that_serves_backs_up(turn: Turn) -> None:
    assert entitlement(turn.context).term == 0
    turn.leases.put(Lease(OTHER, term=3))
    with pytest.raises(SupersededError, match=r"i-other serves stg .term 3., and not this host") as refused:
        entitlement(turn.context)
    assert refused.value.exit_code == 5
    assert entitlement(turn.context, by_hand=True).holds is False
    turn.leases.put(Lease(ME, term=4, before=OTHER))
    with pytest.raises(NotServingError, match="has not begun to serve"):
        entitlement(turn.context)
    note_serving(turn.context, 4, "boot-1")
    assert entitlement(turn.context).term == 4
    note_serving(turn.context, 4, "an earlier boot")
    with pytest.raises(NotServingError, match="has not begun to serve"):
        entitlement(turn.context)
    assert read_serving(turn.context, "i-of-another-image") is None


def test_the_watcher_takes_no_lease_while_a_boot_is_due(turn: Turn) -> None:
    """Redis may run by then, with what the boot began with before others served."""
    context = turn.context
    save_state(context.config.state_directory, BOOT, began="boot-1")
    turn.leases.put(Lease(OTHER, term=2, released=True))
    turn.holder().renew()
    assert turn.leases.held is not None
    assert turn.leases.held.host == OTHER
    # Without a boot in this run of the kernel a playbook has set Redis up, and the watcher takes it.
    save_state(context.config.state_directory, BOOT, began="an earlier boot")
    turn.holder().renew()
    assert turn.leases.held.host == ME


def test_a_restore_that_was_superseded_meanwhile_is_no_success(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    turn.leases.put(Lease(ME, term=4))
    note_serving(turn.context, 4, "boot-1")
    monkeypatch.setattr(cli, "backup", lambda *_arguments, **_named: SimpleNamespace(problems=[]))
    cli._back_up_restored(turn.context, "20261122T001503Z-3f9a1c")

    def slow(*_arguments: Any, **_named: Any) -> SimpleNamespace:
        turn.leases.put(Lease(OTHER, term=5))
        return SimpleNamespace(problems=[])

    monkeypatch.setattr(cli, "backup", slow)
    with pytest.raises(KeeperError, match="i-other serves"):
        cli._back_up_restored(turn.context, "20261122T001503Z-3f9a1c")


def test_a_host_that_gave_its_lease_back_makes_its_final_backup_and_no_other(turn: Turn) -> None:
    turn.leases.put(Lease(ME, term=4, released=True))
    note_serving(turn.context, 4, "boot-1")
    with pytest.raises(NotServingError, match="has given its lease back"):
        entitlement(turn.context)
    assert entitlement(turn.context, final=True).term == 4


def test_an_end_that_was_withdrawn_while_the_disk_was_full_hides_no_crash(turn: Turn) -> None:
    context = turn.context
    state = context.config.state_directory
    note_serving(context, 4, "an earlier boot")
    drain = {"host": ME, "cause": "spot", "mark": "", "due": "2026-11-22T00:00:00Z", "seen": ""}
    drain_more = {"boot": "an earlier boot", "backup": {"complete": True}}
    (state / "drain.json").write_text(json.dumps(drain | drain_more))
    note_crash(context)
    # As far as the disk knows it ended with all it had.
    assert recall(state, CRASH) == {}
    turn.leases.write_final(FinalRecord(ME, term=4, withdrawn=True, withdrawn_in="boot-1"))
    note_crash_after_withdrawal(context, turn.leases)
    assert recall(state, CRASH) == {}
    turn.leases.write_final(FinalRecord(ME, term=4, withdrawn=True, withdrawn_in="an earlier boot"))
    note_crash_after_withdrawal(context, turn.leases)
    assert recall(state, CRASH)["boot"] == "an earlier boot"
    # The volume says it as well, to another host; until this one serves again.
    noted = json.loads(context.crashed_path.read_text())
    assert noted == {"host": ME, "boot": "an earlier boot", "since": recall(state, CRASH)["since"]}
    note_serving(context, 4, "boot-1")
    assert not context.crashed_path.exists()


def test_what_is_backed_up_while_s3_does_not_say_who_serves(turn: Turn) -> None:
    def silent() -> Held | None:
        raise KeeperError("S3 does not answer")

    turn.leases.lease = silent  # type: ignore[method-assign]
    with pytest.raises(KeeperError, match="S3 does not answer"):
        entitlement(turn.context)
    note_serving(turn.context, 3, "an earlier boot")
    with pytest.raises(KeeperError, match="S3 does not answer"):
        entitlement(turn.context)
    note_serving(turn.context, 3, "boot-1")
    assert (entitlement(turn.context).term, entitlement(turn.context).holds) == (3, False)
    # A host that does not boot by the keeper never notes that it serves; a person starts its Redis.
    turn.host.config = replace(turn.host.config, boots=False, state_directory=turn.host.directory / "other")
    assert (entitlement(turn.context).term, entitlement(turn.context).holds) == (0, False)


def test_a_host_that_never_served_is_known_without_asking_who_it_is(turn: Turn) -> None:
    context = turn.context

    class Nobody:
        def identity(self) -> Any:
            raise KeeperError("the metadata service does not answer")

    context.machine = Nobody()  # type: ignore[assignment]
    assert read_serving(context) is None
