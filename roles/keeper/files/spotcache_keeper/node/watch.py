"""Watching for the end of the host, for as long as it lives: `spotcache-keeper watch`.

One look every second or two at what the metadata service announces. What is announced once is acted on once, whatever
is announced afterwards and however often the keeper is started anew.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from spotcache_keeper.aws.imds import Announced, ImdsError, poll
from spotcache_keeper.aws.notify import Message
from spotcache_keeper.backup.budget import REMEMBERED, Budget, estimate, measured
from spotcache_keeper.backup.serving import read_serving
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.interruption import SHUTDOWN, Interruption
from spotcache_keeper.node.crash import missing_since, note_crash_or_kill
from spotcache_keeper.node.drain import UNKNOWN_RUN, Drain, Drainer, begin, read_drain
from spotcache_keeper.node.journal import Lines
from spotcache_keeper.node.renew import LeaseHolder
from spotcache_keeper.outside import Outside
from spotcache_keeper.system.commands import Commands
from spotcache_keeper.system.files import read_json
from spotcache_keeper.system.lock import is_held
from spotcache_keeper.system.state import WATCH, recall, save_state
from spotcache_keeper.system.times import from_text, since_boot, to_text

_LONGEST_PAUSE = 10.0
# A notice whose time is over by more than this is what is left of one that EC2 did not carry out.
_STALE_SECONDS = 60.0
# So long after its announced end a host that still runs was not ended.
_SPARED_SECONDS = 300.0
# So long nothing may be announced before a notice counts as taken back: one answer of 404 is none.
_CALLED_OFF_SECONDS = 30.0
_FENCE_SECONDS = 10.0
_AGAIN_SECONDS = 2.0
# Another recommendation within this time is the same risk.
_REBALANCE_SECONDS = 3600.0
# How often Redis is asked which run of it serves.
_RUN_SECONDS = 10.0
# So long systemd is asked whether the system shuts down. With the final backup it is less than the TimeoutStopSec.
_SYSTEMD_SECONDS = 45.0


class EarlyBackup:
    """A backup in a process of its own: the watcher goes on watching, and stays as small as it is.

    Args:
        argv: of the backup.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = list(argv)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin one, unless one runs."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )

    def ended(self) -> tuple[bool, str] | None:
        """Whether it went well and its last words, once it has ended."""
        if self._process is None or self._process.poll() is None:
            return None
        words = (self._process.stderr.read() if self._process.stderr else "").strip().splitlines()
        result = self._process.returncode == 0, words[-1] if words else ""
        self._process = None
        return result


class Watch:
    """The watcher.

    Args:
        ctx: the host's parts.
        outside: the ways out of it.
        say: writes a line to the journal.
        early: takes the early backup after a rebalance recommendation.
        lease: renews the lease.
        boot_again: has the boot run once more, which waits until this host may serve again.
    """

    def __init__(
        self,
        ctx: Context,
        outside: Outside,
        say: Callable[[str], None],
        early: EarlyBackup,
        lease: LeaseHolder,
        boot_again: Callable[[], None],
    ) -> None:
        self._ctx, self._outside, self._early, self._lease, self._clock = ctx, outside, early, lease, ctx.clock
        self.say = Lines(ctx, say)
        self._boot_again = boot_again
        # By how much AWS's clock is ahead of this host's.
        self._ahead = timedelta()
        self.drainer = Drainer(ctx, outside, self.say, self.now, lease)
        self.drain: Drain | None = None
        self._failures = 0
        self._blind_since: float | None = None
        self._quiet_since: float | None = None
        self._fenced_at = float("-inf")
        self._inspected_at = float("-inf")
        # Writes are held back since the lease could not be renewed, and not for good. An earlier run of the keeper may
        # have begun that and come to its end before it could end it: not known.
        self._held_back: bool | None = None
        self._dropped = False
        self._at_work = False
        self._lost = False
        known = recall(ctx.config.state_directory, WATCH)
        self._run = str(known.get("run", "")) if known.get("boot") == outside.boot_id else ""
        self._measured_at = 0.0
        self._restored: Any = None
        self._trouble = ""
        self._stale = ""
        self._rebalance = ""
        self._past: Drain | None = None
        self._past_again = 0.0
        self._unsaved: Drain | None = None
        host = ctx.machine.identity().instance_id
        lost = known.get("lost") or {}
        if lost.get("host") == host:
            lease.lost_to = str(lost.get("to", ""))
        self._resume()

    def now(self) -> datetime:
        """The present moment by AWS's clock."""
        return self._ctx.now() + self._ahead

    def step(self) -> float:
        """One look, and what follows from it.

        Returns:
            Seconds until the next one.
        """
        announced = self._poll()
        if announced is not None:
            self._heed(announced)
        pause = self._carry_on()
        # A boot waits for as long as the disk says that this host ends. Another end has taken that place.
        if self._unsaved is not None and (self.drain is not None or self.drainer.checkpoint(self._unsaved)):
            self._unsaved = None
        if self.drain is None:
            self._withdraw_past()
            self._early_backup_ended()
            self._check_budget()
            self._check_run()
        self._check_lease()
        return max(pause, self._back_off()) if announced is None else pause

    def shut_down(self) -> None:
        """The host's system shuts down: do all that can be done, now."""
        if self.drain is None:
            self._begin(Interruption(SHUTDOWN, ""))
        deadline = self._clock() + self._ctx.config.timeouts.drain
        while self.drain is not None and self._clock() < deadline:
            if self.drainer.carry_on(self.drain):
                return
            self._ctx.sleep(1.0)

    # --- looking

    def _poll(self) -> Announced | None:
        """What is announced, or None when it cannot be known."""
        try:
            announced = poll(self._outside.imds)
        except ImdsError as error:
            self._failures += 1
            self._blind_since = self._blind_since if self._blind_since is not None else self._clock()
            if self._failures == 3:
                self.say(f"{error}; a notice would not be seen meanwhile")
            return None
        if self._failures >= 3 and self._blind_since is not None:
            self.say(f"the metadata service answers again, after {self._clock() - self._blind_since:.0f} s")
        self._failures, self._blind_since = 0, None
        ahead = announced.at - self._ctx.now()
        # To the second, and an answer takes a moment: less than that is no difference.
        ahead = ahead if abs(ahead.total_seconds()) > 5 else timedelta()
        if abs((ahead - self._ahead).total_seconds()) > 30:
            off = f"{abs(ahead.total_seconds()):.0f} s {'behind' if ahead > timedelta() else 'ahead'}"
            self.say(
                f"this host's clock is {off}: notices go by AWS's own" if ahead else "this host's clock is right again"
            )
        self._ahead = ahead
        return announced

    def _back_off(self) -> float:
        """How long to wait after failures: the service throttles whoever asks too often."""
        return min(_LONGEST_PAUSE, self._ctx.config.watch_seconds * 2.0 ** min(self._failures, 8))

    def _heed(self, announced: Announced) -> None:
        """Act on what is announced, unless that was done."""
        for interruption in announced.interruptions:
            if self.drain is None:
                if interruption.kind.ends_host:
                    self._heed_end(interruption, announced.at)
                else:
                    self._heed_warning(interruption)
        if self.drain is None:
            return
        if announced.hook_waits and self.drain.over:
            self.drainer.release_hook(self.drain)
        self._consider_withdrawal(announced)

    def _heed_end(self, interruption: Interruption, at: datetime) -> None:
        """What ends the host, unless its time has passed."""
        mark, due = interruption.mark, interruption.due
        if due is not None and mark == self._stale:
            return
        if due is not None and (at - due).total_seconds() > _STALE_SECONDS:
            self._stale = mark
            self.say(
                f"a Spot notice for {mark}, which has passed, is what is left of an earlier one: a backup is taken"
            )
            self._early.start()
            return
        self._begin(interruption)

    def _heed_warning(self, interruption: Interruption) -> None:
        """What only warns, as a rebalance recommendation does: one early backup, and nothing else."""
        notice = interruption.mark
        if notice == self._rebalance:
            return
        self._rebalance = notice
        seen = recall(self._ctx.config.state_directory, WATCH).get("rebalance") or {}
        try:
            recent = (self.now() - from_text(str(seen.get("at", "")))).total_seconds() < _REBALANCE_SECONDS
        except ValueError:
            recent = False
        host = self._ctx.machine.identity().instance_id
        if seen.get("host") == host and (seen.get("notice") == notice or recent):
            return
        self.say(interruption.told(0))
        self._save_state(rebalance={"host": host, "notice": notice, "at": to_text(self.now())})
        self._early.start()

    def _early_backup_ended(self) -> None:
        """Say how an early backup went."""
        if (ended := self._early.ended()) is not None:
            self.say(f"early backup: {ended[1]}" if ended[0] else f"the early backup failed: {ended[1]}")

    # --- drain

    def _begin(self, interruption: Interruption) -> None:
        """Begin to end the host."""
        run, serving = self._run, read_serving(self._ctx)
        if serving is None or serving.boot != self._outside.boot_id:
            # It has not served since it was started: what Redis holds, whichever run of it, is what was on the disk.
            run = UNKNOWN_RUN
            with contextlib.suppress(KeeperError, OSError):
                # A boot may not have come to it; Redis saves once more when it is stopped.
                note_crash_or_kill(self._ctx)
        elif not run:
            # It has not been looked at yet. Where nobody knows, whatever is saved now may lack something.
            run = serving.run or UNKNOWN_RUN
        drain = begin(self._ctx, self._outside, interruption, self.now(), run)
        # Before anything is said or noted: each moment may bring another write.
        self.drainer.fence(drain)
        self.drain = drain
        self.say(interruption.told(self.drainer.remaining(drain)))
        self.drainer.checkpoint(drain)

    def _carry_on(self) -> float:
        """Do what is left to do at the end.

        Returns:
            Seconds until the next look.
        """
        usual = float(self._ctx.config.watch_seconds)
        drain = self.drain
        if drain is None:
            return usual
        if not drain.over:
            done = self.drainer.carry_on(drain)
            self._fenced_at = self._clock()
            return usual if done else _AGAIN_SECONDS
        if self._clock() - self._fenced_at >= _FENCE_SECONDS:
            self.drainer.fence(drain)
            self._close_gate()
            self._fenced_at = self._clock()
        return usual

    def _consider_withdrawal(self, announced: Announced) -> None:
        """Let the host go on when EC2 does not end it after all."""
        drain = self.drain
        # What is left to do when its time has passed, such as a copy to S3, is done by a host that goes on as well.
        if drain is None or not (drain.over or self.drainer.remaining(drain) < 0):
            return
        if not announced.ends_host:
            if not drain.kind.outlives_reboot:
                return
            self._quiet_since = self._quiet_since if self._quiet_since is not None else self._clock()
            why = "the notice was taken back" if self._clock() - self._quiet_since > _CALLED_OFF_SECONDS else ""
        else:
            self._quiet_since = None
            spared = drain.kind.may_pass and -self.drainer.remaining(drain) > _SPARED_SECONDS
            why = "EC2 did not end the host" if spared and not announced.hook_waits else ""
        if why and (self.drainer.withdraw(drain, why) or drain.withdrawn):
            self._stale, self.drain, self._quiet_since = drain.mark, None, None
            self._unsaved = drain

    def _resume(self) -> None:
        """Go on where an earlier run of the keeper was."""
        drain = read_drain(self._ctx.config.state_directory)
        if drain is None or drain.host != self._ctx.machine.identity().instance_id:
            return
        if drain.withdrawn:
            self._stale = drain.mark
            return
        # Until that is over or taken back, whoever asks for the lease sees that it was given back.
        self._lease.closed = "shut" in drain.steps or "recorded" in drain.steps
        if not drain.in_force(drain.host, self._outside.boot_id):
            self._past = drain
            self._withdraw_past()
            return
        self.drain = drain
        self.say(f"the keeper was started again while this host ends ({drain.cause}): it goes on")

    def _withdraw_past(self) -> None:
        """Take back what was recorded at a shutdown that is over; tried again until it is done."""
        if self._past is None or self._clock() < self._past_again:
            return
        self._past_again = self._clock() + _FENCE_SECONDS
        if self.drainer.withdraw(self._past, "the host was only started anew") or self._past.withdrawn:
            self._unsaved, self._past = self._past, None

    # --- what else is to be looked after

    def _check_budget(self) -> None:
        """Find out after each backup whether a final one would fit into a notice, and say so when it does not."""
        directory = self._ctx.config.state_directory
        try:
            changed = (directory / "status.json").stat().st_mtime
        except OSError:
            return
        if changed == self._measured_at:
            return
        self._measured_at = changed
        last = read_json(directory / "status.json") or {}
        backup = last.get("last_backup") or {}
        before = recall(directory, WATCH)
        speeds = [speed for speed in before.get("speeds", []) if isinstance(speed, dict)]
        if backup.get("id") == before.get("measured") or (speed := measured(backup)) is None:
            return
        speeds = [*speeds, speed][-REMEMBERED:]
        budget = estimate(speeds, int(speed["bytes"]))
        self._save_state(
            speeds=speeds, measured=backup.get("id"), budget={"fits": budget.fits, "sentence": budget.sentence}
        )
        if budget.fits != (before.get("budget") or {}).get("fits", True):
            self.say(budget.sentence)
            self._notify_budget(budget)

    def _notify_budget(self, budget: Budget) -> None:
        """Tell people that a notice would not do, or does again."""
        environment = self._ctx.config.environment
        host = self._ctx.machine.identity().instance_id
        enough = "leave enough time again" if budget.fits else "not leave enough time"
        self._notify(
            Message(
                f"{environment}: a Spot notice would {enough}",
                f"On {host} {budget.sentence}.",
                "good" if budget.fits else "warning",
                f"budget/{host}/{'fits' if budget.fits else 'short'}",
            )
        )

    def _check_run(self) -> None:
        """Find out which run of the server serves, and say when it is another one: what it had not saved is lost."""
        if not self._lease.held or self._clock() - self._inspected_at < _RUN_SECONDS:
            return
        self._inspected_at = self._clock()
        directory = self._ctx.config.state_directory
        if is_held(self._ctx.lock_path) or is_held(directory / "boot.lock"):
            # A restore starts it anew, and says itself what it has now.
            self._at_work = True
            return
        try:
            with self.drainer.quick().redis() as server:
                state = server.state()
        except (KeeperError, OSError):
            return
        if state.loading:
            return
        expected, self._at_work = self._at_work, False
        if state.run == self._run:
            return
        serving = read_serving(self._ctx)
        served = serving.run if serving is not None and serving.boot == self._outside.boot_id else ""
        before, self._run = "" if expected else self._run or served, state.run
        self._save_state(run=state.run, boot=self._outside.boot_id)
        if before not in ("", state.run):
            since = "its append-only file" if state.aof_enabled else "its last own save"
            host = self._ctx.machine.identity().instance_id
            line = f"Redis was started anew: it has {state.keys:,} keys, and what it held beyond {since} is lost"
            self.say(line)
            title = f"{self._ctx.config.environment}: Redis was started anew"
            self._notify(Message(title, f"On {host}, {line}.", "warning", f"restarted/{host}/{state.run}"))

    def _check_lease(self) -> None:
        """Hold writes back when another host has taken over, or may; say what is wrong with the lease, once."""
        lease = self._lease
        if lease.lost_to:
            if self.drain is None:
                self._begin_lost(lease.lost_to)
            return
        if self._lost:
            # Its boot has given Redis other data, and started it anew for that.
            self._lost, self._dropped, self._run = False, False, ""
            self._save_state(lost=None)
            self.say("this host serves again")
            self._hold_back(False)
        if lease.lost_since:
            self._notify_crash(lease.lost_since)
            lease.lost_since = ""
        if lease.untold:
            self._notify_loss(f"this host took over from one that told nobody; lost: {lease.untold}", "taken-over")
            lease.told, lease.untold = lease.untold, ""
        if lease.waits and (restored := recall(self._ctx.config.state_directory).get("last_restore")) != self._restored:
            # What clients waited for, perhaps.
            self._restored = restored
            lease.woken.set()
        if lease.trouble != self._trouble:
            self._trouble = lease.trouble
            self.say(self._trouble or "the lease is renewed again")
        if self.drain is None and lease.held and self._held_back is not (not lease.proved):
            self._hold_back(not lease.proved)

    def _notify_crash(self, since: str) -> None:
        """Tell people what a crash took of a host that no boot brings back."""
        lost = missing_since(from_text(since))
        self._notify_loss(
            f"this host went down and serves again with what was on its disk; lost: {lost}", f"crashed/{since}"
        )

    def _notify_loss(self, line: str, event: str) -> None:
        """Tell people that something is missing, once for each event."""
        host = self._ctx.machine.identity().instance_id
        self.say(line)
        kind, _slash, which = event.partition("/")
        title = f"{self._ctx.config.environment}: Redis lost data"
        self._notify(Message(title, f"On {host}, {line}.", "warning", "/".join(filter(None, (kind, host, which)))))

    def _hold_back(self, held_back: bool) -> None:
        """Hold writes back while the lease is not proved, by Redis as well: it answers what it was sent before."""
        try:
            with self.drainer.quick().redis() as server:
                if held_back:
                    server.pause_writes(600)
                else:
                    server.go_on()
        except (KeeperError, OSError) as error:
            if held_back and not self._ctx.guard.holds:
                self.say(f"the lease is not renewed, and writes could not be held back: {error}")
            return
        before, self._held_back = self._held_back, held_back
        if held_back:
            self.say("the lease could not be renewed in time: nobody is served until it is")
        elif before:
            self.say("the lease is this host's again: writes are let through")

    def _begin_lost(self, host: str) -> None:
        """Another host serves: hold writes back, again and again."""
        if self._clock() - self._fenced_at < _FENCE_SECONDS:
            return
        self._fenced_at = self._clock()
        try:
            with self.drainer.quick().redis() as server:
                server.pause_writes(600)
                if not self._dropped:
                    # They would wait for an answer for as long as this host lives; the name leads elsewhere by now.
                    server.drop_clients()
                    self._dropped = True
        except (KeeperError, OSError) as error:
            self._close_gate()
            self.say(f"{host} serves this environment now, and writes here could not be held back: {error}")
            return
        self._close_gate()
        self._lost = True
        line = f"{host} serves this environment now: writes here are held back"
        if line != self._trouble:
            self._trouble = line
            self.say(line)
            self._save_state(lost={"host": self._ctx.machine.identity().instance_id, "to": host})
            if self._ctx.config.boots:
                self._boot_again()

    def _close_gate(self) -> None:
        """Shut clients out."""
        try:
            self._ctx.guard.close()
        except (KeeperError, OSError) as error:
            self.say(str(error))

    def _notify(self, message: Message) -> None:
        """Tell people; that they could not be told is said, and changes nothing."""
        try:
            self._outside.notify(message)
        except (KeeperError, OSError) as error:
            self.say(str(error))

    def _save_state(self, **parts: Any) -> None:
        """Note something for `status` and for the next run."""
        try:
            save_state(self._ctx.config.state_directory, WATCH, **parts)
        except KeeperError as error:
            self.say(str(error))


def system_is_stopping(
    run: Commands, clock: Callable[[], float] = since_boot, sleep: Callable[[float], None] = time.sleep
) -> bool:
    """Whether the whole system shuts down, and not just this unit.

    Told by the job of shutdown.target, which is there from the first moment of a shutdown; `is-system-running` says
    "starting" of a system that goes down before its start was over. systemd is busy then, and a host may be slow: it is
    asked again, for without an answer there would be no final backup.

    Args:
        run: runs systemctl.
        clock: seconds, ever growing.
        sleep: waits for so many seconds.
    """
    deadline = clock() + _SYSTEMD_SECONDS
    question = ["systemctl", "show", "--property=ActiveState", "--property=Job", "shutdown.target"]
    while (left := deadline - clock()) > 0:
        with contextlib.suppress(KeeperError):
            answer = dict(
                line.partition("=")[::2] for line in run(question, timeout=max(1.0, left)).stdout.splitlines()
            )
            if "ActiveState" in answer:
                return answer["ActiveState"] in ("active", "activating") or answer.get("Job", "") not in ("", "0")
        sleep(1.0)
    return False
