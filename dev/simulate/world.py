# SPDX-License-Identifier: GPL-3.0-or-later
"""One environment on simulated time: its hosts, its clients, the faults that meet it, and what must always be true."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError
from spotcache_fallback_controller.decide import WAITING_SECONDS, Group, fallback_hosts, serves_by
from spotcache_keeper.backup.retain import prune
from spotcache_keeper.config import Config
from spotcache_keeper.lease import LeaseStore
from spotcache_keeper.node.boot import BootResult
from spotcache_keeper.stores.base import Pruned
from spotcache_keeper.stores.retention import Policy
from spotcache_keeper.stores.source import Source, default_order, judge, newest_first
from spotcache_keeper.system.times import from_text, to_text

from dev.simulate.cloud import Bucket, SimObjects, SimS3Store, moment, source_of
from dev.simulate.host import Host, Volume
from dev.simulate.scheduler import Process, Scheduler

LEASE_SECONDS = 24
NOTICE_SECONDS = 60.0
FAULT_SECONDS = 110.0
HEAL_SECONDS = 600.0
# What is kept in S3, in one run or another. None is spared for being young: all of a run is.
KEPT = (Policy(1, 0), Policy(2, 0))


class Violation(AssertionError):
    """An invariant does not hold."""


class World:
    """One run.

    Args:
        seed: everything that chance decides follows from it.
        config: of the keeper.
        faults: how often each kind was injected so far, in all runs.
        verbose: whether the trace is kept.
    """

    def __init__(self, seed: int, config: Config, faults: dict[str, int], *, verbose: bool = False) -> None:
        self.seed, self.config, self.faults, self.verbose = seed, config, faults, verbose
        self.random = Random(seed)
        self.scheduler = Scheduler(self.random)
        self.scheduler.interrupt, self.scheduler.after = self._interrupt, self._after
        self.bucket = Bucket(self)
        self.hosts: dict[str, Host] = {}
        self.volumes: dict[str, Volume] = {}
        self.lines: list[str] = []
        self.points_to = ""
        self.steps = 0
        self.runs_of_redis = 0
        self.line: dict[int, float] = {}
        # Writes that a crash of Redis alone took, which its keeper reports.
        self.crashed: set[int] = set()
        # The host that lost some while it was being ended: its successor has to report that something is missing.
        self.untold: Host | None = None
        # A loss that is known, until people were told.
        self.to_tell = ""
        # What a person gave up by restoring an older backup: it must not come back.
        self.gone_for_good: set[int] = set()
        self._given_up: set[int] = set()
        self.written = 0
        self.broken = False
        self.capacity_from = 0.0
        self.failed_launch = -1e9
        self.fallback_desired = 0
        self.serving: Host | None = None
        self.calm = False
        self.forgiving = False
        self.skewed = self.random.random() < 0.2
        self._plan: list[tuple[float, str]] = []
        self._at_moment: dict[int, str] = {}
        self._served_since: float | None = None
        self._s3 = SimS3Store(Host(self, "nobody", 0.0))

    # --- time and chance

    @property
    def now(self) -> float:
        return self.scheduler.now

    @property
    def true_time(self) -> datetime:
        return moment(self.now)

    def wait(self, seconds: float) -> None:
        self.scheduler.wait(seconds)

    def perhaps(self, seconds: float) -> None:
        """A moment that mostly passes at once: something on the host itself."""
        if self.random.random() < 0.3:
            self.scheduler.wait(seconds)

    def doze(self, seconds: float) -> None:
        """Wait as a busy host does: for longer than it was asked to."""
        # Never less than what can be added to a clock that has come far.
        self.scheduler.wait(seconds * (1.0 + 2.0 * self.random.random()) if seconds >= 1.0 else max(seconds, 1e-6))

    def latency(self) -> float:
        """Of a request, one way; seconds."""
        return 0.002 + 0.02 * self.random.random()

    def start(self, name: str, host: Host, work: Callable[[], Any], delay: float = 0.0, group: str = "") -> Process:
        return self.scheduler.start(name, host, work, delay, group)

    def start_outside(self, name: str, work: Callable[[], Any], delay: float = 0.0) -> Process:
        return self.scheduler.start(name, None, work, delay)

    def next_run(self) -> int:
        self.runs_of_redis += 1
        return self.runs_of_redis

    def trace(self, who: str, what: str) -> None:
        if self.verbose:
            self.lines.append(f"{self.now:9.3f}  {who:8} {what}")

    def brief(self, data: Mapping[str, Any]) -> str:
        """An object for the trace."""
        wanted = ("host", "term", "released", "before", "backup", "complete", "off_host", "fenced", "withdrawn")
        return ", ".join(f"{key}={data[key]}" for key in wanted if data.get(key) not in (None, "", False))

    @property
    def not_found(self) -> ClientError:
        return ClientError({"Error": {"Code": "InvalidInstanceID.NotFound", "Message": ""}}, "DescribeInstances")

    @property
    def unreachable(self) -> EndpointConnectionError:
        return EndpointConnectionError(endpoint_url="ec2")

    # --- the run

    def run(self) -> None:
        """Let it happen.

        Raises:
            Violation: says which invariant, and how.
        """
        self._draw()
        self.launch(first=True)
        self.start_outside("Auto Scaling", self._auto_scaling, 5.0)
        self.start_outside("the fallback controller", self._controller, 11.0)
        self.start_outside("retention", self._retention, 13.0)
        for at, kind in self._plan:
            self.start_outside(f"fault {kind}", lambda kind=kind: self.inject(kind), at)  # type: ignore[misc]
        self.scheduler.run(FAULT_SECONDS, lambda: False)
        self._heal()
        self.scheduler.run(FAULT_SECONDS + HEAL_SECONDS, self._is_well)
        if self.to_tell and self._served_since is not None:
            raise Violation(f"(b) {self.to_tell}, and nobody was told")
        if not self._is_well():
            raise Violation(f"(e) nobody serves {HEAL_SECONDS:.0f} s after the last fault")
        self._check_newest()

    def _draw(self) -> None:
        """Which faults there will be, and when: at a time, or at one of the moments at which some process waits."""
        kinds = list(FAULTS)
        for _ in range(self.random.choice((1, 2, 2, 3, 4, 5))):
            kind = self.random.choice(kinds)
            if kind in AT_MOMENTS and self.random.random() < 0.6:
                self._at_moment[self.random.randrange(10, 200)] = kind
            else:
                self._plan.append((self.random.uniform(8.0, FAULT_SECONDS - 10.0), kind))
        # By dice of their own, so that a seed without one stays what it was.
        combined = Random(f"combined {self.seed}")
        if combined.random() < 0.15:
            self._plan.append((combined.uniform(8.0, FAULT_SECONDS - 50.0), combined.choice(list(COMBINED))))

    def _heal(self) -> None:
        """No fault from here on, and none goes on."""
        self.calm = True
        self._at_moment.clear()
        self.capacity_from = 0.0
        for host in self.hosts.values():
            host.cut.clear()
            host.lose, host.delay, host.late, host.upload, host.disk_full_until = "", 0.0, 0.0, 0.0, 0.0
            host.server.fate = ""
            host.server.hung_until = min(host.server.hung_until, self.now)
            host.paused_until = min(host.paused_until, self.now)

    def _is_well(self) -> bool:
        """Whether one host has served for a while, after the faults, and people know all that is to be told."""
        if not self.calm:
            return False
        accepting = self.serving
        if accepting is None or not accepting.accepts:
            self._served_since = None
            return False
        self._served_since = self._served_since if self._served_since is not None else self.now
        return self.now - self._served_since > 15.0 and not self.to_tell

    # --- EC2 and Auto Scaling

    def launch(self, *, first: bool = False, fallback: bool = False) -> Host:
        """A host, with a blank volume."""
        number = len(self.hosts) + 1
        skew = self.random.uniform(-600.0, 600.0) if self.skewed else 0.0
        host = Host(self, f"i-{number}", self.now, skew=skew, unseen=self.random.choice((0.0, 0.0, 5.0, 30.0)))
        host.fallback = fallback
        if not fallback and self.broken:
            host.broken, self.broken = True, False
        blank = Volume(f"vol-{number}", holder=host.id)
        self.volumes[blank.id] = blank
        self.hosts[host.id] = host
        self.trace("ec2", f"{host.id} is launched{' on demand' if fallback else ''}, its clock off by {skew:.0f} s")
        host.power_on(0.5 if first else self.random.uniform(3.0, 15.0))
        return host

    def terminate(self, host: Host, *, lingering: float = 0.0) -> None:
        """End a host: it may run on for a while although EC2 calls it `shutting-down`."""
        if host.state == "terminated" or host.gone:
            return
        host.state = "shutting-down"
        self.trace("ec2", f"{host.id} is shutting-down for {lingering:.0f} s")

        def end() -> None:
            host.power_off()
            host.gone = True
            self.wait(self.random.uniform(0.0, 3.0))
            host.state = "terminated"
            self.trace("ec2", f"{host.id} is terminated")
            for volume in self.volumes.values():
                if volume.holder == host.id:
                    volume.holder = ""

        self.start_outside(f"the end of {host.id}", end, lingering)

    def alive(self, *, fallback: bool | None = None) -> list[Host]:
        """Hosts that EC2 has not begun to end."""
        return [
            host
            for host in self.hosts.values()
            if host.state == "running" and not host.gone and fallback in (None, host.fallback)
        ]

    def _auto_scaling(self) -> None:
        """One Spot host, as long as there is capacity; as many on demand as the controller wants."""
        while True:
            if not self.alive(fallback=False):
                if self.now >= self.capacity_from:
                    self.launch()
                else:
                    self.failed_launch = self.now
            running = self.alive(fallback=True)
            if self.fallback_desired and not running:
                self.launch(fallback=True)
            elif not self.fallback_desired and running:
                self._notify_group_end(running[0])
            self.wait(self.random.uniform(6.0, 18.0))

    def _notify_group_end(self, host: Host) -> None:
        """Auto Scaling ends a host, which learns of it from the metadata service."""
        if "autoscaling/target-lifecycle-state" not in host.imds.values:
            host.imds.values["autoscaling/target-lifecycle-state"] = "Terminated"
            self.start_outside(f"the hook of {host.id}", lambda: self.terminate(host, lingering=3.0), 45.0)

    def _controller(self) -> None:
        """The function that has an on-demand host take the place of a Spot host: its own decision."""
        while True:
            spot, on_demand = self.alive(fallback=False), self.alive(fallback=True)
            written = self.bucket.objects.get("keeper/lease.json")
            names = {one.id for one in spot}
            serves = written is not None and serves_by(written.data, self.now - written.at, names)
            for name in names:
                waits = self.bucket.objects.get(f"keeper/waiting/{name}.json")
                serves = serves or (waits is not None and self.now - waits.at < WAITING_SECONDS)
            wanted = fallback_hosts(
                Group(1, bool(spot), len(spot)),
                Group(self.fallback_desired, bool(on_demand), len(on_demand)),
                self.now - self.failed_launch < 60.0,
                serves,
            )
            if wanted != self.fallback_desired:
                self.trace("lambda", f"{wanted} hosts on demand are wanted")
            self.fallback_desired = wanted
            if not wanted:
                # Only beside one that serves: where no host can boot nobody is to be blamed.
                self.broken = False
            self.wait(20.0)

    def _retention(self) -> None:
        """The function that gives up older backups, which no host may do: its own code, as far from S3 as a host is."""
        function = Host(self, "retention", 0.0)
        objects: Any = SimObjects(function)
        leases = LeaseStore(objects, "keeper/")
        # By dice of its own, for as far as a seed stays what it was.
        dice = Random(f"retention {self.seed}")
        stores: dict[Pruned, Policy] = {SimS3Store(function): dice.choice(KEPT)}
        while True:
            if not self.calm:
                function.delay = self.random.choice((0.0, 0.0, 0.0, 3.0, 20.0))
                # The world may change between one question and the next.
                function.late = dice.choice((0.0, 0.0, 3.0, 20.0))
                function.lose = self.random.choice(("", "", "", "request", "answer", "twice"))
            prune(stores, leases, self.true_time, [])
            self.wait(self.random.uniform(4.0, 20.0))

    # --- faults

    def inject(self, kind: str, process: Process | None = None) -> None:
        """Let a fault happen, to the host of that process or to any."""
        host = process.host if process is not None and process.host is not None else None
        if host is None or host.gone:
            alive = [one for one in self.hosts.values() if not one.gone]
            if not alive:
                return
            host = self.random.choice(alive)
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self.trace("fault", f"{kind} on {host.id}" + (f" in {process.name}" if process is not None else ""))
        (FAULTS | COMBINED)[kind](self, host, process)

    def _interrupt(self, process: Process) -> None:
        """Called whenever a process goes on."""
        kind = self._at_moment.pop(self.scheduler.moments, None)
        if kind is not None:
            self.inject(kind, process)

    # --- clients, and what must be true

    def _after(self) -> None:
        """After every step: at most one host acknowledges; whoever does has what was acknowledged before."""
        now = self.scheduler.now
        # Looked at first, since it decides for most: this is called after every step.
        accepting = [host for host in self.hosts.values() if now < host.open_until and host.accepts]
        if not accepting:
            return
        if len(accepting) > 1:
            names = " and ".join(host.id for host in accepting)
            raise Violation(f"(a) {names} acknowledge writes at the same moment")
        host = accepting[0]
        if host is not self.serving or host.accepted != (host.boots, host.server.run):
            self._begins(host)
            self.serving, host.accepted = host, (host.boots, host.server.run)
        self.steps += 1
        if self.steps % 4 == 0:
            self.written += 1
            host.server.data.append(self.written)
            self.line[self.written] = self.now

    def _begins(self, host: Host) -> None:
        """A host begins to acknowledge: all that was acknowledged before is there, or its loss was reported."""
        held = set(host.server.data)
        if held & self.gone_for_good:
            raise Violation(f"(b) {host.id} serves what a person had replaced by an older backup")
        missing = {number: at for number, at in self.line.items() if number not in held}
        self.trace("clients", f"{host.id} acknowledges; {len(missing)} of {len(self.line)} earlier writes are missing")
        taken = {number: at for number, at in missing.items() if number not in self.crashed}
        if self.untold is not None and self.untold is not host:
            if missing and not self.forgiving and not (host.boot_result and host.boot_result.lost):
                raise Violation(f"(b) Redis on {self.untold.id} was killed while it was ended; {host.id} says nothing")
            self.untold = None
        if taken and not self.forgiving:
            result = host.boot_result
            if result is None or not result.lost:
                raise Violation(
                    f"(b) {host.id} serves without {len(taken)} writes that were acknowledged, and reports no loss "
                    f"({result.what if result is not None else 'no boot'})"
                )
            self._check_report(host, result, taken)
            self.to_tell = f"{host.id} began to serve without {len(taken)} writes"
        for number in missing:
            del self.line[number]
        self.forgiving = False

    def reported(self, host: Host, result: BootResult) -> None:
        """People were told what a host lacks, which it may do without having served anybody."""
        if self.bucket.lease.get("host") != host.id:
            # Another one has taken over, and tells them itself.
            return
        if result.lost:
            self.to_tell = ""
            if self.forgiving:
                self.line = {number: at for number, at in self.line.items() if number in host.held}
                return
            self._check_report(
                host, result, {number: at for number, at in self.line.items() if number not in host.held}
            )
            self.line = {number: at for number, at in self.line.items() if number in host.held}

    def _check_report(self, host: Host, result: BootResult, missing: Mapping[int, float]) -> None:
        """What is missing was written after the moment that the report names."""
        bounds = [from_text(text) for text in re.findall(r"after (\S+Z)(?=;|$)", result.lost)]
        if not bounds or self.skewed:
            return
        since = min(bounds)
        early = [
            at
            for number, at in missing.items()
            if moment(at) < since - timedelta(seconds=1) and number not in self.crashed
        ]
        if early:
            raise Violation(
                f"(b) {host.id} reports to have lost what was written after {to_text(since)}, and lacks a write of "
                f"{to_text(moment(early[0]))}"
            )

    def redis_lost(self, host: Host) -> None:
        """Redis alone loses what it had not written to its disk: its keeper sees that, and says so itself.

        Not so while the host is being ended: its record must not call the final backup complete then.
        """
        if host is not self.serving:
            return
        held = set(host.volume.rdb or ())
        taken = {number for number in host.server.data if number not in held}
        self.crashed |= taken
        if host.watcher is not None and host.watcher.drain is not None and taken & self.line.keys():
            self.untold = host

    def restoring(self, host: Host, backup_id: str) -> None:
        """A person gives up what is newer than a backup."""
        self.trace("person", f"restores {backup_id} on {host.id}")
        self.forgiving = True
        stored = self.bucket.backups.get(backup_id)
        wanted = set(stored.data if stored is not None else ())
        self._given_up = host.held - wanted
        # What an earlier restore had given up may be asked for again.
        self.gone_for_good -= wanted

    def restored(self, host: Host) -> None:
        """From here on what was restored is what must not be lost, and nothing that it took the place of."""
        self.trace("person", f"is told that {host.id} has it")
        self.gone_for_good |= self._given_up

    def check_deletion(self, backup_id: str, host: Host) -> None:
        """Retention removes a backup: not the newest good one of the line that serves."""
        newest = self._newest_good()
        if newest is not None and newest == backup_id:
            raise Violation(f"(d) {host.id} deletes {backup_id}, the newest good backup")
        lease = self.bucket.objects.get("keeper/lease.json")
        history = lease_history(lease.data) if lease is not None else ()
        sources = [source_of(one.manifest, self._s3) for one in self.bucket.backups.values() if one.manifest]
        line = [one for one in newest_first(judge(sources, history)) if not one.superseded]
        if line and line[0].id == backup_id:
            raise Violation(f"(d) {host.id} deletes {backup_id}, the newest of the line that serves")
        if any(one.term == self.bucket.lease["term"] and not one.looked for one in history):
            # What is there when it takes over is what it finds: it may have looked without having said so yet.
            newest = self._newest_good(self.bucket.taken_at)
            if newest == backup_id:
                raise Violation(f"(d) {host.id} deletes {backup_id}, which the host that takes over may go on with")

    def check_choice(self, host: Host, chosen: Source, before: float) -> None:
        """A boot takes no backup of an earlier term than the latest of which there was a good one.

        One that stood still while another host took over may: it has no lease any more, and lets nobody in with that.
        """
        if self.bucket.lease.get("host") != host.id:
            return
        good = [
            one.manifest.term
            for one in self.bucket.backups.values()
            if one.manifest and one.entitled and one.at < before
        ]
        if chosen.term < max(good, default=0) and not chosen.superseded:
            raise Violation(f"(c) {host.id} takes {chosen.id} of term {chosen.term}, and there is one of {max(good)}")

    def _newest_good(self, before: float = 1e12) -> str | None:
        """The newest backup that is the environment's in truth, of those that were there before a moment."""
        good = [
            one.manifest
            for one in self.bucket.backups.values()
            if one.manifest is not None and one.entitled and one.at < before
        ]
        return max(good, key=lambda one: (one.term, one.created, one.id)).id if good else None

    def _check_newest(self) -> None:
        """What a restore would take is a backup that its writer was entitled to make, and the newest of those."""
        sources = [source_of(one.manifest, self._s3) for one in self.bucket.backups.values() if one.manifest]
        lease = self.bucket.objects.get("keeper/lease.json")
        history = lease_history(lease.data) if lease is not None else ()
        if not sources:
            return
        first = default_order(newest_first(judge(sources, history)))[0]
        if first.superseded:
            # There is no other.
            return
        if not self.bucket.backups[first.id].entitled:
            raise Violation(f"(c) {first.id} of term {first.term} counts as the newest, and its writer did not serve")
        best = self._newest_good()
        later = next((one for one in judge(sources, history) if one.id == best and not one.superseded), None)
        if later is not None and first.term < later.term:
            raise Violation(f"(c) {first.id} counts as the newest, and {best} is of a later term")


def lease_history(data: Mapping[str, Any]) -> Any:
    """The takeovers in a lease."""
    from spotcache_keeper.lease import Lease

    return replace(Lease("x"), takeovers=list(data.get("takeovers", []))).history


# --- the faults: what each of them does to a host


def _kill(world: World, host: Host, process: Process | None) -> None:
    """A process of the keeper is killed; systemd starts it again."""
    if process is None or process.host is None or process.group not in ("watch", "boot", "backup"):
        running = [one for one in world.scheduler.processes if one.host is host and not one.dead]
        chosen = [one for one in running if one.group in ("watch", "boot", "backup")]
        if not chosen:
            return
        process = world.random.choice(chosen)
    group = process.group
    for one in list(world.scheduler.processes):
        if one.host is host and one.group == group and not one.dead:
            world.scheduler.kill(one)
    if group == "watch":
        world.start("watch", host, host.run_watch, 1.0)
    elif group == "boot":
        world.start("boot", host, host.run_boot, 10.0)


def _announce(world: World, host: Host) -> None:
    """The metadata service tells of an interruption."""
    due = to_text(moment(world.now + NOTICE_SECONDS))
    host.imds.values["spot/instance-action"] = f'{{"action": "terminate", "time": "{due}"}}'


def _notice(world: World, host: Host, _process: Process | None) -> None:
    """A Spot notice, which EC2 carries out; sometimes with a replacement that comes before."""
    _announce(world, host)
    world.start_outside(
        "EC2", lambda: world.terminate(host, lingering=world.random.choice((0.0, 5.0, 30.0))), NOTICE_SECONDS
    )
    if world.random.random() < 0.3:
        world.launch()


def _cancelled(world: World, host: Host, _process: Process | None) -> None:
    """A Spot notice that is taken back."""
    _announce(world, host)
    world.start_outside(
        "EC2", lambda: host.imds.values.pop("spot/instance-action", None), world.random.uniform(2.0, 50.0)
    )
    if world.random.random() < 0.5:
        world.launch()


def _cut(*services: str) -> Callable[[World, Host, Process | None], None]:
    def cut(world: World, host: Host, _process: Process | None) -> None:
        for service in services:
            host.cut[service] = world.now + world.random.choice((5.0, 40.0, 120.0))

    return cut


def _pause(world: World, host: Host, _process: Process | None) -> None:
    """The whole machine stands still; its clocks do not."""
    host.paused_until = world.now + world.random.choice((1.0, 10.0, 35.0, 120.0))
    if world.random.random() < 0.5:
        world.launch()


def _lose(what: str) -> Callable[[World, Host, Process | None], None]:
    def lose(_world: World, host: Host, _process: Process | None) -> None:
        host.lose = what

    return lose


def _delay(world: World, host: Host, _process: Process | None) -> None:
    host.delay = world.random.choice((3.0, 20.0, 60.0))


def _end(world: World, host: Host, _process: Process | None) -> None:
    """A host is lost without a notice."""
    world.terminate(host, lingering=world.random.choice((0.0, 0.0, 20.0)))


def _ended_slowly(world: World, host: Host, _process: Process | None) -> None:
    """EC2 calls a host `shutting-down` for longer than its successor waits, and it goes on without having noticed."""
    successor = world.launch()

    def end() -> None:
        for service in ("imds", "ec2"):
            host.cut[service] = world.now + 120.0
        world.terminate(host, lingering=45.0)
        # About when the successor takes the lease, its boot may be killed, and is started again.
        world.wait(world.random.uniform(18.0, 32.0))
        if world.random.random() < 0.6:
            running = [one for one in world.scheduler.processes if one.host is successor and not one.dead]
            boot = next((one for one in running if one.group == "boot"), None)
            if boot is not None:
                _kill(world, successor, boot)

    world.start_outside("EC2", end, world.random.uniform(10.0, 25.0))


def _taken_back_beside_another(world: World, host: Host, _process: Process | None) -> None:
    """A Spot notice is taken back; in the middle of that S3 becomes slow, and another host begins to wait."""
    _announce(world, host)

    def back() -> None:
        host.imds.values.pop("spot/instance-action", None)
        # The host believes it when its time is past, and then has its lease back first of all, or last.
        world.wait(NOTICE_SECONDS / 2)
        for _ in range(1500):
            lease = world.bucket.objects.get("keeper/lease.json")
            if lease is None or lease.data.get("host") != host.id:
                return
            if not lease.data.get("released"):
                host.delay = world.random.choice((3.0, 8.0))
                world.launch(first=True)
                return
            world.wait(0.05)

    world.start_outside("EC2", back, world.random.uniform(20.0, 40.0))


def _saves_what_is_superseded(world: World, host: Host, _process: Process | None) -> None:
    """A host stands still until another one serves, saves what it held at its restart, and has its turn again."""
    successor = world.launch(first=True)
    host.paused_until = world.now + 1.5 * LEASE_SECONDS

    def restart() -> None:
        for _ in range(60):
            if world.serving is successor and host.paused_until <= world.now:
                break
            world.wait(1.0)
        else:
            return
        world.wait(world.random.uniform(3.0, 15.0))
        host.shut_down()
        world.wait(world.random.uniform(3.0, 15.0))
        world.terminate(successor)

    world.start_outside("EC2", restart)


def _arrives_late(world: World, host: Host, _process: Process | None) -> None:
    """A backup is on its way to S3 while another host takes over: while that waits, or when it serves already."""
    slowly = world.random.random() < 0.5
    host.start_backup("timer")

    def take_over() -> None:
        world.wait(5.0)
        host.upload = world.random.uniform(20.0, 45.0) if slowly else 2.0
        host.start_backup("timer")
        for _ in range(100):
            if not host.upload:
                break
            world.wait(0.1)
        else:
            host.upload = 0.0
            return
        successor = world.launch(first=True)
        if slowly:
            for service in ("imds", "ec2"):
                host.cut[service] = world.now + 120.0
            world.terminate(host, lingering=45.0)
            return
        for _ in range(60):
            if world.serving is successor:
                break
            host.paused_until = world.now + 1.0
            world.wait(0.9)
        host.paused_until = world.now + world.random.uniform(0.0, 5.0)

    world.start_outside("EC2", take_over)


def _ended_by_group(world: World, host: Host, _process: Process | None) -> None:
    world._notify_group_end(host)


def _reboot(_world: World, host: Host, _process: Process | None) -> None:
    _world.start_outside("a crash of the kernel", host.reboot)


def _restart(_world: World, host: Host, _process: Process | None) -> None:
    host.shut_down()


def _disk_full(world: World, host: Host, _process: Process | None) -> None:
    host.disk_full_until = world.now + world.random.choice((10.0, 60.0))


def _crash_redis(_world: World, host: Host, _process: Process | None) -> None:
    host.crash_redis()


def _hang_redis(world: World, host: Host, _process: Process | None) -> None:
    host.server.hung_until = world.now + world.random.choice((3.0, 15.0, 60.0))


def _fate(fate: str) -> Callable[[World, Host, Process | None], None]:
    def doom(_world: World, host: Host, _process: Process | None) -> None:
        host.server.fate = fate

    return doom


def _clock(world: World, host: Host, _process: Process | None) -> None:
    """The clock is set: nothing is measured by it that must be right."""
    world.skewed = True
    host.skew += world.random.choice((-300.0, -5.0, 5.0, 300.0))


def _second(world: World, _host: Host, _process: Process | None) -> None:
    """Another host is launched beside the one that serves."""
    world.launch()


def _no_capacity(world: World, host: Host, _process: Process | None) -> None:
    world.capacity_from = world.now + world.random.choice((40.0, 120.0))
    world.terminate(host)


def _cannot_boot(world: World, _host: Host, _process: Process | None) -> None:
    """The next Spot host cannot boot, while one on demand serves."""
    if world.fallback_desired:
        world.broken = True


def _restore(_world: World, host: Host, _process: Process | None) -> None:
    host.start_restore()


FAULTS: dict[str, Callable[[World, Host, Process | None], None]] = {
    "process killed": _kill,
    "host lost": _end,
    "host rebooted by a crash": _reboot,
    "host restarted": _restart,
    "machine paused": _pause,
    "Spot notice": _notice,
    "Spot notice taken back": _cancelled,
    "ended by Auto Scaling": _ended_by_group,
    "S3 cut off": _cut("s3"),
    "EC2 cut off": _cut("ec2"),
    "metadata cut off": _cut("imds"),
    "everything cut off": _cut("s3", "ec2", "route53"),
    "request lost": _lose("request"),
    "answer lost": _lose("answer"),
    "request sent twice": _lose("twice"),
    "request delayed": _delay,
    "clock set": _clock,
    "disk full": _disk_full,
    "Redis killed": _crash_redis,
    "Redis hangs": _hang_redis,
    "BGSAVE fails": _fate("failed"),
    "BGSAVE kills Redis": _fate("killed"),
    "another host": _second,
    "no Spot capacity": _no_capacity,
    "Spot host cannot boot": _cannot_boot,
    "a person restores": _restore,
}
# What chance alone brings together too seldom.
COMBINED: dict[str, Callable[[World, Host, Process | None], None]] = {
    "ended slowly and unnoticed": _ended_slowly,
    "notice taken back beside another host": _taken_back_beside_another,
    "what is superseded is saved again": _saves_what_is_superseded,
    "a backup arrives when another host has taken over": _arrives_late,
}
# What may hit any process at any of its moments; the others come at a time.
AT_MOMENTS = frozenset(
    {
        "process killed",
        "host rebooted by a crash",
        "machine paused",
        "request lost",
        "answer lost",
        "request sent twice",
        "request delayed",
        "Redis killed",
        "host lost",
        "BGSAVE kills Redis",
    }
)
