"""The last a host does: hold writes back, back up, bring that away, shut clients out, leave a record, tell people.

Every step is noted on the disk when it is done, may be done twice, and is tried again until it succeeds or the host is
gone. A keeper that is killed and started again goes on where it was.

The backup is complete when one run of the server held writes back before, while and after it saved, and that was the
run which had served. The lease is given back only when nobody can be answered here any more.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from spotcache_keeper.aws.clients import AwsError
from spotcache_keeper.aws.notify import Message
from spotcache_keeper.aws.signed import ConflictError
from spotcache_keeper.backup.create import BackupResult, backup
from spotcache_keeper.backup.entitlement import SupersededError
from spotcache_keeper.backup.serving import end_redis, read_serving
from spotcache_keeper.backup.switch_data import recover
from spotcache_keeper.config import Timeouts
from spotcache_keeper.context import Context
from spotcache_keeper.errors import ConfigError, KeeperError, NotServingError, RefusedError
from spotcache_keeper.interruption import KINDS, Interruption, Kind
from spotcache_keeper.lease import FinalRecord, Lease
from spotcache_keeper.node.renew import LeaseHolder
from spotcache_keeper.outside import Outside
from spotcache_keeper.server.client import NotAnsweringError
from spotcache_keeper.server.rdb import written_at
from spotcache_keeper.stores.local import mib
from spotcache_keeper.stores.s3 import S3Store
from spotcache_keeper.stores.source import newest_first
from spotcache_keeper.system.files import read_json, write_atomically
from spotcache_keeper.system.lock import is_held, only_run
from spotcache_keeper.system.state import CRASH, recall, save_state
from spotcache_keeper.system.times import NEVER, age_text, from_text, to_text

_SCALING_VERSION = "2011-01-01"
# Writes stay held back for so long beyond the end that was announced, unless the keeper lets go before.
_PAUSE_SECONDS = 600.0
# With less time than this left, what there is counts as all there will be.
_LAST_SECONDS = 10.0
# So long an upload is waited for at least, each time.
_AGAIN_SECONDS = 2.0
_LEASE_TRIES = 10
_TELL_TRIES = 5

# Of which run of the server nobody knows which it was: no run's id.
UNKNOWN_RUN = "unknown"
# No lease has it.
_NO_TERM = -1


@dataclass
class Drain:
    """How far the end of this host has come; kept in `drain.json`.

    Attributes:
        host: instance id.
        boot: the run of the kernel it belongs to.
        run: of the server that served when it began; empty where that is not known.
        lost_since: when the data was in memory with which another run of the server began since, as text.
        cause: the name of the interruption's kind.
        mark: what tells it from another one of its kind.
        seen: when it was first seen, as text.
        due: when the host ends, as text, by AWS's clock; what is assumed where nobody says.
        steps: what is done, and when.
        backup: the final backup, as `backup --json` has it.
        refused: why there is nothing to back up; empty when there is.
        tries: to back up.
        failed_notifications: how often people could not be told.
        problems: what went wrong, newest last.
        withdrawn: the host was not ended after all.
        withdrawn_in: the run of the kernel in which that became known: the same means that the host went on.
    """

    host: str
    boot: str
    cause: str
    mark: str
    seen: str
    due: str
    run: str = ""
    lost_since: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    backup: dict[str, Any] | None = None
    refused: str = ""
    tries: int = 0
    failed_notifications: int = 0
    problems: list[str] = field(default_factory=list)
    withdrawn: bool = False
    withdrawn_in: str = ""

    @property
    def kind(self) -> Kind:
        """The kind of interruption that ends it."""
        return KINDS[self.cause]

    @property
    def off_host(self) -> bool:
        """Whether the final backup lies in S3."""
        return bool(self.backup and (self.backup.get("stored") or {}).get("s3"))

    def in_force(self, host: str, boot: str) -> bool:
        """Whether it ends this run of this host's kernel.

        A shutdown is over when the host has been started anew, whatever could not be done since: nobody waits for that
        to be noted. A notice outlives a reboot.
        """
        return self.host == host and not self.withdrawn and (self.boot == boot or self.kind.outlives_reboot)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do but to hold writes back."""
        return {"recorded", "released", "told"} <= set(self.steps) and (self.off_host or bool(self.refused))

    @property
    def complete(self) -> bool:
        """Whether the final backup lacks nothing that was acknowledged."""
        return bool(self.backup and self.backup.get("complete"))


def read_drain(directory: Path) -> Drain | None:
    """What an earlier run of the keeper noted, or None."""
    data = read_json(directory / "drain.json")
    try:
        drain = Drain(**data) if data is not None else None
    except TypeError:
        return None
    return drain if drain is not None and drain.cause in KINDS else None


@dataclass
class Drainer:
    """Ends this host.

    Attributes:
        ctx: the host's parts.
        outside: the ways out of it.
        say: tells a person one line, in the journal and in `status`.
        now: the present moment by AWS's clock.
        lease: of this host; it opens the gate no more once that was shut here.
    """

    ctx: Context
    outside: Outside
    say: Callable[[str], None]
    now: Callable[[], datetime]
    lease: LeaseHolder
    _quick: Context | None = None

    def remaining(self, drain: Drain) -> float:
        """Seconds until the host ends."""
        return (from_text(drain.due) - self.now()).total_seconds()

    def checkpoint(self, drain: Drain, *steps: str) -> bool:
        """Note steps as done. A disk that takes nothing more keeps no step from being done.

        Returns:
            Whether it is on the disk.
        """
        for step in steps:
            drain.steps.setdefault(step, to_text(self.now()))
        try:
            directory = self.ctx.config.state_directory
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(directory / "drain.json", json.dumps(asdict(drain), indent=2) + "\n")
        except OSError as error:
            self._problem(drain, f"how far the end has come cannot be noted: {error.strerror or error}")
            return False
        return True

    def carry_on(self, drain: Drain) -> bool:
        """Do what is left to do, each step once; True when all of it is done.

        Never raises: what fails is said, and tried again with the next call.
        """
        run = self.fence(drain)
        if drain.backup is not None and "shut" not in drain.steps and run not in ("", drain.backup.get("run")):
            self._problem(drain, "Redis was started anew after the final backup: another one is taken")
            drain.backup = None
        if drain.backup is None and not drain.refused:
            self._backup(drain)
        elif drain.backup is not None and not drain.off_host:
            self._bring_away(drain)
        if drain.off_host or drain.refused or self.remaining(drain) < _LAST_SECONDS:
            self._record(drain)
            self.release_hook(drain)
            self._notify(drain)
        else:
            self._heartbeat(drain)
        return drain.over

    def fence(self, drain: Drain) -> str:
        """Hold back every write, from now until the host is gone; reads go on.

        A Redis that cannot be told is cut off from its clients, reads and all.

        Returns:
            The run of the server that holds writes back; empty when none says so.
        """
        try:
            with self.quick().redis() as server:
                run = server.hold_writes(max(0.0, self.remaining(drain)) + _PAUSE_SECONDS)
        except (KeeperError, OSError) as error:
            if "fenced" not in drain.steps:
                self._problem(drain, f"Redis could not be told to hold writes back: {error}")
                self._shut(drain)
            return ""
        drain.run = drain.run or run
        if run != drain.run and not drain.lost_since:
            # Before the next save takes the place of what it began with.
            with contextlib.suppress(OSError):
                drain.lost_since = self._began_with()
        if "fenced" not in drain.steps:
            self.checkpoint(drain, "fenced")
            self.say(f"writes are held back; {self.remaining(drain):.0f} s are left")
        return run

    def _began_with(self) -> str:
        """When that was written with which Redis began its present run, as text; empty where its own log has more."""
        path = self.ctx.rdb_path
        if path.exists():
            return to_text(written_at(path))
        return "" if self.ctx.config.appendonly else to_text(NEVER)

    def _lost_by_crash(self) -> str:
        """Since when what was written is missing, as text, where this host went down and has not served again."""
        crash, serving = recall(self.ctx.config.state_directory, CRASH), read_serving(self.ctx)
        if serving is None or serving.boot == self.outside.boot_id or crash.get("boot") != serving.boot:
            return ""
        # With an append-only file that is a second, whatever is in the other one.
        return "" if self.ctx.config.appendonly else str(crash.get("since", ""))

    def _shut(self, drain: Drain) -> bool:
        """Shut clients out for good; whether nobody can be answered here any more."""
        guard = self.ctx.guard
        if "shut" not in drain.steps and guard.holds:
            # Told to Redis first: what it closes itself reaches the clients, which then connect to where they should.
            with contextlib.suppress(KeeperError, OSError), self.quick().redis() as server:
                server.drop_clients()
        try:
            self.lease.shut()
        except (KeeperError, OSError) as error:
            self._problem(drain, str(error))
            return False
        if guard.holds and "shut" not in drain.steps:
            self.checkpoint(drain, "shut")
            self.say("clients are shut out")
        return guard.holds

    def withdraw(self, drain: Drain, why: str) -> bool:
        """The host goes on after all: take the record back, then the lease, and then let writes through.

        In this order: whoever has read the record before it was taken back finds the lease changed. Whoever was faster
        to take the lease has what it needs, and the record stands again.

        Returns:
            Whether it does; False when another host serves by now.
        """
        try:
            if (serving := self._another(drain)) is not None:
                return self._leave_to(drain, serving, why)
            record = self.outside.leases.final(drain.host)
            if record is not None and not record.withdrawn:
                taken_back = replace(
                    record,
                    withdrawn=True,
                    withdrawn_in=self.outside.boot_id,
                    complete=False,
                    off_host=False,
                    written=to_text(self.now()),
                    note=why,
                )
                self.outside.leases.write_final(taken_back)
            if (serving := self._take_lease_back(drain)) is not None:
                if record is not None and not record.withdrawn:
                    self.outside.leases.write_final(record)
                return self._leave_to(drain, serving, why)
            self._let_through()
        except (KeeperError, OSError) as error:
            self._problem(drain, f"{why}, but writes could not be let through again: {error}")
            return False
        drain.withdrawn, drain.withdrawn_in = True, self.outside.boot_id
        self.checkpoint(drain, "withdrawn")
        self.lease.closed = False
        self.lease.renew()
        self.say(f"{why}: this host goes on, and takes writes again")
        return True

    def _leave_to(self, drain: Drain, serving: str, why: str) -> bool:
        """Another host serves: this end is over, and this host waits like any other that was superseded."""
        self._problem(drain, f"{why}, but {serving} serves now: writes here stay held back")
        drain.withdrawn, drain.withdrawn_in = True, self.outside.boot_id
        self.checkpoint(drain)
        self.lease.lost_to = serving
        return False

    def _take_lease_back(self, drain: Drain) -> str | None:
        """Have the lease again that was given back; the host that has it, when it is another one.

        Raises:
            KeeperError: it could not be written.
        """
        for _try in range(_LEASE_TRIES):
            held = self.outside.leases.lease()
            if held is None:
                return None
            if held.lease.host != drain.host:
                return held.lease.host
            # By the condition: a host that takes the lease at this moment gets it, or this one does.
            renewed = replace(held.lease, released=False, renewed=to_text(self.now()))
            try:
                self.outside.leases.write_lease(renewed, held)
            except ConflictError:
                # This host's own boot may have been faster, and then all is well.
                continue
            return None
        raise KeeperError("the lease is changed over and over")

    def _let_through(self) -> None:
        """Let writes through; a Redis that does not run holds none back, and forgets that it did: it is started.

        Raises:
            KeeperError: it runs and does not do it.
        """
        try:
            with self.quick().redis() as server:
                server.go_on()
        except (KeeperError, OSError):
            container = self.ctx.engine.state()
            if container is not None and container.running:
                raise
            serving = read_serving(self.ctx)
            if container is not None and serving is not None and serving.boot == self.outside.boot_id:
                # It was ended here, or stopped by somebody; no boot will come to it.
                self.ctx.engine.start()

    def release_hook(self, drain: Drain) -> None:
        """Tell Auto Scaling that it need not wait any longer; without a waiting hook there is nothing to tell."""
        config = self.ctx.config
        if not config.hook or "hook" in drain.steps:
            return
        try:
            self._scaling(drain, "CompleteLifecycleAction", LifecycleActionResult="CONTINUE")
        except AwsError as error:
            if error.code == "ValidationError":
                # No hook waits (yet): Auto Scaling may still begin to end the host.
                return
            self._problem(drain, f"Auto Scaling was not told that the host is ready to go: {error}")
            return
        self.checkpoint(drain, "hook")
        self.say(f"Auto Scaling was told that {drain.host} is ready to go")

    def quick(self) -> Context:
        """The parts with little patience for Redis: a server that hangs must not use up the time."""
        if self._quick is None:
            timeouts = replace(self.ctx.config.timeouts, answer=2, start=5)
            self._quick = replace(self.ctx, config=replace(self.ctx.config, timeouts=timeouts))
        return self._quick

    def _backup(self, drain: Drain) -> None:
        """The final backup, by the one implementation there is."""
        drain.tries += 1
        left = max(_LAST_SECONDS, self.remaining(drain))
        running = is_held(self.ctx.lock_path)
        if running and "waited" not in drain.steps:
            self.checkpoint(drain, "waited")
            holder = (read_json(self.ctx.lock_path) or {}).get("command", "another run")
            self.say(f"a {holder} of the keeper is at work: the final backup begins when it has ended")
        timeouts = _limited(self.ctx.config.timeouts, left)
        ctx = replace(self.ctx, config=replace(self.ctx.config, timeouts=timeouts), s3=self._s3(drain))
        try:
            with only_run(ctx.lock_path, "final backup", max(1.0, left / 3), ctx.now()):
                recover(ctx)
                self._know_run(drain)
                # Redis may have been started anew by that; a backup must not be overtaken by a write.
                before = self.fence(drain)
                try:
                    result = backup(ctx, "final", prune=False, foreground=drain.tries > 1)
                except NotServingError as error:
                    if not isinstance(error, SupersededError):
                        # Redis saves once more when the host goes down. A boot that is at work waits for the lock.
                        with contextlib.suppress(KeeperError, OSError):
                            end_redis(self.ctx, _NO_TERM)
                    raise
                after = self.fence(drain)
        except RefusedError as error:
            drain.refused = str(error)
            self.checkpoint(drain)
            self.say(f"there is nothing to back up: {error}")
            return
        except (KeeperError, OSError) as error:
            if (serving := self._another(drain)) is not None:
                drain.refused = f"{serving} serves this environment, and not this host"
                self.checkpoint(drain)
                self.say(f"there is nothing to back up: {drain.refused}")
                return
            self._problem(drain, f"the final backup failed (try {drain.tries}): {error}")
            if isinstance(error, NotAnsweringError):
                # Whatever answers next holds less than this one did: nobody is to go on with that here.
                self._shut(drain)
                self._start_redis(drain)
            if isinstance(error, ConfigError) or drain.tries >= 3:
                self._rescue(drain)
            return
        finally:
            self.ctx.warnings.clear()
        held = "shut" in drain.steps or before == result.run == after
        if not held and self.remaining(drain) >= _LAST_SECONDS:
            self._problem(drain, f"writes were not held back throughout backup {result.manifest.id}: another is taken")
            return
        self._backed_up(drain, result, held=held)

    def _know_run(self, drain: Drain) -> None:
        """The run of the server that a boot has let clients to, which was at work when the end was announced."""
        serving = read_serving(self.ctx)
        if drain.run == UNKNOWN_RUN and serving is not None and serving.run and serving.boot == self.outside.boot_id:
            drain.run, drain.lost_since = serving.run, ""

    def _s3(self, drain: Drain) -> S3Store:
        """S3, with time left for a record: a slow upload must not take the words out of this host's mouth."""
        return self.ctx.s3.within(max(_AGAIN_SECONDS, self.remaining(drain) - _LAST_SECONDS))

    def _another(self, drain: Drain) -> str | None:
        """The host that serves, when it is another one."""
        try:
            held = self.outside.leases.lease()
        except (KeeperError, OSError):
            return None
        return held.lease.host if held is not None and held.lease.host != drain.host else None

    def _start_redis(self, drain: Drain) -> None:
        """Start a Redis that was stopped: only a running one can say what it holds."""
        try:
            container = self.ctx.engine.state()
            if container is None or container.running:
                return
            self.ctx.engine.start()
            serving = read_serving(self.ctx)
            if container.exit_code == 0 and (serving is None or serving.boot == self.outside.boot_id):
                # It ended as it was told to, which includes to save: nothing is missing in what it begins with now.
                drain.run = drain.lost_since = ""
        except KeeperError as error:
            self._problem(drain, f"Redis is stopped and could not be started for the final backup: {error}")
            return
        self.say("Redis was stopped: it was started for the final backup")

    def _backed_up(self, drain: Drain, result: BackupResult, *, held: bool) -> None:
        """Note a verified final backup; `held` says whether writes were held back for as long as it took."""
        same = result.run == drain.run
        drain.backup = result.to_json() | {"run": result.run, "complete": held and same}
        if not same:
            since = "its append-only file" if self.ctx.config.appendonly else "its last own save"
            self._problem(drain, f"Redis was started anew since this host served: what it held beyond {since} is lost")
        for step in ("recorded", "told"):
            drain.steps.pop(step, None)
        self.checkpoint(drain, "backed-up", *(["off-host"] if result.stored["s3"] else []))
        manifest = result.manifest
        places = ", ".join(["on the volume", *result.places])
        self.say(
            f"final backup {manifest.id}: {manifest.keys:,} keys, {mib(manifest.rdb_bytes)}, verified; {places}; "
            f"{self.remaining(drain):.0f} s were left"
        )
        for problem in result.problems:
            self._problem(drain, f"final backup {manifest.id}: {problem}")
        try:
            at = to_text(self.ctx.now())
            save_state(self.ctx.config.state_directory, last_backup={**drain.backup, "at": at, "warnings": []})
        except KeeperError as error:
            self._problem(drain, str(error))

    def _bring_away(self, drain: Drain) -> None:
        """Try again to copy the final backup to S3."""
        if drain.backup is None:
            return
        backup_id = str(drain.backup["id"])
        manifest = self.ctx.volume.manifest(backup_id)
        if manifest is None:
            # Somebody removed it, or the note is of another volume: there is none, then.
            self._problem(drain, f"the final backup {backup_id} is not on the volume any more; another one is taken")
            drain.backup = None
            return
        try:
            drain.backup["stored"]["s3"] = self._s3(drain).put(self.ctx.volume.path(backup_id), manifest)
        except (KeeperError, OSError) as error:
            self._problem(drain, f"final backup {backup_id}: not copied to S3: {error}")
            return
        for step in ("recorded", "told"):
            drain.steps.pop(step, None)
        self.checkpoint(drain, "off-host")
        self.say(f"final backup {backup_id} is in S3 now; {self.remaining(drain):.0f} s are left")

    def _rescue(self, drain: Drain) -> None:
        """Without a final backup, see that the newest verified one is off the host."""
        newest = next((source for source in newest_first(self.ctx.volume.sources()) if source.usable), None)
        if newest is None or newest.manifest is None:
            return
        try:
            if newest.id not in self.ctx.s3.ids():
                self._s3(drain).put(self.ctx.volume.path(newest.id), newest.manifest)
                self.say(f"the newest verified backup, {newest.id}, is in S3 now")
        except (KeeperError, OSError) as error:
            self._problem(drain, f"the newest verified backup, {newest.id}, could not be copied to S3: {error}")

    def _record(self, drain: Drain) -> None:
        """Leave a record for the next host, and give the lease back."""
        if {"recorded", "released"} <= set(drain.steps):
            return
        fenced = self._shut(drain) or (not self.ctx.guard.holds and bool(self.fence(drain)))
        if not fenced and self.remaining(drain) >= _LAST_SECONDS:
            # Tried again: whoever serves next must be able to rely on it.
            return
        try:
            held = self.outside.leases.lease()
            mine = held is None or held.lease.host == drain.host
            if mine:
                final = self._final(drain, held.lease if held is not None else Lease(drain.host), fenced=fenced)
                self.outside.leases.write_final(final)
                if fenced and held is not None and not held.lease.released:
                    self.outside.leases.write_lease(replace(held.lease, released=True), held)
                self.say(f"record left for the next host: {final.note}")
        except ConflictError:
            # Renewed meanwhile by this host itself, or taken by another one: seen at the next look.
            return
        except (KeeperError, OSError) as error:
            self._problem(drain, f"no record was left for the next host: {error}")
            return
        if not fenced and mine:
            self._problem(drain, "writes could not be held back: the lease is not given back, and ends by itself")
        self.checkpoint(drain, "recorded", "released")

    def _final(self, drain: Drain, lease: Lease, *, fenced: bool = False) -> FinalRecord:
        """What the record says."""
        volume, serving = "", read_serving(self.ctx)
        # Without a volume of its own there is none to take over.
        with contextlib.suppress(KeeperError, OSError):
            volume = self.ctx.machine.volume_id(self.ctx.config.volume_path)
        superseded = serving is not None and lease.term and serving.term != lease.term
        if superseded and volume != lease.before_volume:
            # What lies on it is older than what others have served since.
            volume = ""
        common = FinalRecord(
            drain.host,
            zone=self.ctx.machine.identity().zone,
            volume=volume,
            cause=drain.cause,
            term=lease.term,
            fenced=fenced,
            lost_since="" if drain.complete else drain.lost_since or self._lost_by_crash(),
            written=to_text(self.now()),
        )
        if drain.backup is not None:
            return replace(
                common,
                backup=str(drain.backup["id"]),
                created=str(drain.backup["created"]),
                keys=int(drain.backup["keys"]),
                complete=drain.complete and fenced,
                off_host=drain.off_host,
                note=f"final backup {drain.backup['id']}" + ("" if drain.off_host else ", on the volume only"),
            )
        newest = next((source for source in newest_first(self.ctx.volume.sources()) if source.usable), None)
        if newest is None:
            return replace(common, note=drain.refused or "there is no verified backup")
        return replace(
            common,
            backup=newest.id,
            created=to_text(newest.created),
            keys=newest.keys or 0,
            note=f"no final backup; the newest verified one is {newest.id}",
        )

    def _notify(self, drain: Drain) -> None:
        """Tell people, once; the topic is tried again a few times."""
        if "told" in drain.steps or drain.failed_notifications >= _TELL_TRIES:
            self.checkpoint(drain, "told")
            return
        try:
            self.outside.notify(self._message(drain))
        except (KeeperError, OSError) as error:
            drain.failed_notifications += 1
            self._problem(drain, str(error))
            return
        self.checkpoint(drain, "told")

    def _message(self, drain: Drain) -> Message:
        """What people are told."""
        environment = self.ctx.config.environment
        why = drain.kind.reason
        left = f"{max(0.0, self.remaining(drain)):.0f} s"
        if drain.off_host and drain.backup is not None:
            fields = {
                "Backup": str(drain.backup["id"]),
                "Keys": f"{drain.backup['keys']:,}",
                "SHA-256": str(drain.backup["rdb"]["sha256"])[:16],
                "EBS snapshot": str(drain.backup["stored"].get("ebs") or "none"),
                "Time left": left,
            }
            return Message(
                f"{environment}: backed up before the host goes",
                f"{drain.host} goes ({why}). Its data is backed up, verified and off the host; a successor restores "
                "it.",
                "good",
                f"final/{drain.host}/{drain.mark}",
                fields=fields,
            )
        if drain.refused:
            return Message(
                f"{environment}: a host goes that served nobody",
                f"{drain.host} goes ({why}). Nothing had to be backed up: {drain.refused}",
                "info",
                f"final/{drain.host}/{drain.mark}",
            )
        problem = drain.problems[-1] if drain.problems else "no reason is known"
        final = self._final(drain, Lease(drain.host))
        age = (
            f" Its newest verified backup is {age_text((self.now() - from_text(final.created)).total_seconds())} old."
            if final.created
            else ""
        )
        return Message(
            f"{environment}: NOT backed up before the host goes",
            f"{drain.host} goes ({why}), and its last changes could not be brought away: {problem}.{age}",
            "error",
            f"final/{drain.host}/{drain.mark}/failed",
            fields={"Backup": final.backup or "none", "Time left": left},
        )

    def _heartbeat(self, drain: Drain) -> None:
        """Ask Auto Scaling for more time, where a hook waits."""
        config = self.ctx.config
        if config.hook and drain.kind.has_hook:
            try:
                self._scaling(drain, "RecordLifecycleActionHeartbeat")
            except AwsError as error:
                if error.code != "ValidationError":
                    self._problem(drain, f"Auto Scaling was not asked for more time: {error}")

    def _scaling(self, drain: Drain, action: str, **parameters: str) -> None:
        """One action on the lifecycle hook."""
        config = self.ctx.config
        self.outside.aws.query(
            "autoscaling",
            _SCALING_VERSION,
            action,
            AutoScalingGroupName=self._group(drain),
            LifecycleHookName=config.hook or "",
            InstanceId=drain.host,
            **parameters,
        )

    def _group(self, drain: Drain) -> str:
        """The host's group: it may be the one for Spot or its fallback.

        Raises:
            AwsError: Auto Scaling does not say; `ValidationError` when the host belongs to none.
        """
        answer = self.outside.aws.query(
            "autoscaling",
            _SCALING_VERSION,
            "DescribeAutoScalingInstances",
            **{"InstanceIds.member.1": drain.host},
        )
        found = re.search(r"<AutoScalingGroupName>([^<]+)<", answer.decode("utf-8", "replace"))
        if found is None:
            raise AwsError(f"{drain.host} belongs to no Auto Scaling group", "ValidationError")
        return found.group(1)

    def _problem(self, drain: Drain, text: str) -> None:
        """Something went wrong: said once, and kept for `status`."""
        if text not in drain.problems:
            drain.problems.append(text)
            self.say(text)


def begin(ctx: Context, outside: Outside, interruption: Interruption, now: datetime, run: str = "") -> Drain:
    """The beginning of an end; `run` is that of the server that serves, where it is known."""
    assumed = now + timedelta(seconds=ctx.config.timeouts.drain)
    end = interruption.due if interruption.due is not None else assumed
    return Drain(
        host=ctx.machine.identity().instance_id,
        boot=outside.boot_id,
        cause=interruption.kind.name,
        mark=interruption.mark,
        seen=to_text(now),
        due=to_text(end),
        run=run,
    )


def _limited(timeouts: Timeouts, left: float) -> Timeouts:
    """Timeouts that fit into the time that is left, with room for a second try."""
    most = max(3, int(left * 0.7))
    return replace(
        timeouts,
        answer=min(timeouts.answer, 5),
        backup=min(timeouts.backup, most),
        check=min(timeouts.check, most),
        start=min(timeouts.start, max(3, int(left / 4))),
        stop=min(timeouts.stop, most),
        volume=min(timeouts.volume, most),
    )
