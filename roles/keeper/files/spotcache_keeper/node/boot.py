"""A host that boots becomes the one that serves: `spotcache-keeper boot`.

Secrets, the lease, the best source there is, verified; then Redis, the DNS name, and a word to people. Started again
after a failure or a kill, it goes on from what it finds.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.aws.name import point_here
from spotcache_keeper.aws.notify import Level, Message
from spotcache_keeper.aws.signed import ConflictError
from spotcache_keeper.backup.current_data import append_only_files, identify, known_sources
from spotcache_keeper.backup.restore import Request, RestoreResult, gather, restore
from spotcache_keeper.backup.serving import end_redis, note_serving, read_serving
from spotcache_keeper.backup.switch_data import recover
from spotcache_keeper.config import Secret
from spotcache_keeper.context import Context
from spotcache_keeper.errors import DamagedError, KeeperError, NoSourceError, NoUsableCopyError, UnreadableError
from spotcache_keeper.lease import MARGIN, Lease, Takeover
from spotcache_keeper.node.acquire import Acquirer, Predecessor
from spotcache_keeper.node.crash import missing_since, note_crash_after_withdrawal, note_crash_or_kill
from spotcache_keeper.node.data_volume import Disks
from spotcache_keeper.node.drain import read_drain
from spotcache_keeper.outside import Outside
from spotcache_keeper.server.rdb import beginning_of, databases_of, written_at
from spotcache_keeper.stores.source import Source, newest_first, superseded_at
from spotcache_keeper.system.files import read_json, readable_errors, replace_secret, write_atomically
from spotcache_keeper.system.lock import only_run
from spotcache_keeper.system.state import BOOT, CRASH, recall, save_state
from spotcache_keeper.system.times import age_text, from_epoch, from_text, to_text

_IDENTITY_SECONDS = 60.0
_DNS_TRIES = 5
_LEASE_TRIES = 10
# Every host backs up there, and no lease is had without it: while it does not answer, a boot is tried again.
_NEEDED = frozenset({"s3"})
# What a host lacks that had nothing to begin with.
_EVERYTHING = "everything"


@dataclass
class BootResult:
    """What a boot came to.

    Attributes:
        what: `served already`, `went on with its own data`, `took over the volume`, `restored` or `began empty`.
        source: where the data came from, for a person.
        backup: id of the backup; empty where it is none.
        created: when the data was last written, as text; empty where unknown.
        keys: that Redis holds.
        lost: what is missing, for a person; empty when nothing is.
        before: the host that served before; empty without one.
        skipped: sources that could not be used, and why.
        problems: what failed although Redis serves.
        seconds: how long each part took.
    """

    what: str
    source: str = ""
    backup: str = ""
    created: str = ""
    keys: int = 0
    lost: str = ""
    before: str = ""
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """For a person."""
        text = f"{self.what}: {self.keys:,} keys"
        text += f" from {self.source}" if self.source else ""
        text += f", last written {self.created}" if self.created else ""
        text += f"; lost: {self.lost}" if self.lost else "; nothing was lost" if self.before else ""
        return text + "".join(f"; BUT {problem}" for problem in self.problems)


@dataclass
class Boot:
    """Brings a host up.

    Attributes:
        ctx: the host's parts.
        outside: the ways out of it.
        say: tells a person one line.
        acquirer: waits for the lease.
        disks: finds and mounts the data volume.
        newest: the newest good backup that was there when this host looked.
        stale: what is on the volume is older than what another host has served since.
    """

    ctx: Context
    outside: Outside
    say: Callable[[str], None]
    acquirer: Acquirer
    disks: Disks
    newest: Source | None = None
    stale: bool = False

    def run(self) -> BootResult:
        """Become the host that serves.

        Raises:
            KeeperError: Redis does not serve; says why.
        """
        seconds: dict[str, float] = {}
        begun = self.ctx.clock()

        def mark(part: str) -> None:
            nonlocal begun
            seconds[part] = round(self.ctx.clock() - begun, 3)
            begun = self.ctx.clock()

        try:
            self.ctx.guard.prepare()
        except KeeperError:
            # Nobody would be kept out of a Redis that the engine has started.
            end_redis(self.ctx)
            raise
        note_crash_or_kill(self.ctx)
        save_state(self.ctx.config.state_directory, BOOT, began=self.outside.boot_id)
        self._know_oneself()
        self._fetch_secrets()
        self._change_address()
        mark("secrets")
        before = self.acquirer.acquire()
        note_crash_after_withdrawal(self.ctx, self.outside.leases)
        mark("lease")
        kept = self._have_volume(before)
        mark("volume")
        with only_run(self.ctx.lock_path, "boot", self.ctx.config.timeouts.lock, self.ctx.now()):
            recover(self.ctx)
            note_crash_or_kill(self.ctx)
            result = self._have_data(before, kept)
            mark("data")
            result.before = before.lease.host if before.lease is not None else before.unfinished
            result.lost = _both(result.lost, before.lost)
            # Before the lock is let go of: whoever ends the host meanwhile ends a Redis that does not serve yet.
            self._let_clients_in(before.term, result)
        self._move_name(result)
        mark("name")
        result.seconds = seconds
        self.say(result.line)
        self._notify(result)
        if result.before or result.lost:
            self._change_lease(
                before.term,
                lambda lease: replace(lease, before="", before_zone="", before_volume="", before_term=0, lost=""),
            )
        return result

    # --- who and with what

    def _know_oneself(self) -> None:
        """Wait until the metadata service says who this host is."""
        deadline = self.ctx.clock() + _IDENTITY_SECONDS
        while not self.ctx.machine.identity().zone:
            if self.ctx.clock() >= deadline:
                raise KeeperError("the metadata service does not say who this host is")
            self.ctx.sleep(1.0)

    def _fetch_secrets(self) -> None:
        """Fetch what the image does not hold, at every boot: a password may have been changed since the last one.

        Raises:
            AwsError: a file is missing and cannot be fetched.
        """
        for secret in self.ctx.config.secrets:
            try:
                self._fetch(secret)
            except AwsError as error:
                if not secret.path.exists():
                    raise
                # Without SSM a host that was only started anew goes on with what it has.
                if error.code != "ParameterNotFound":
                    self.say(f"{secret.path} stays as it is: {error}")
            else:
                self.say(f"{secret.path} was fetched from {secret.parameter}")

    def _fetch(self, secret: Secret) -> None:
        """One secret file."""
        with aws_errors(f"reading {secret.parameter}"):
            answer = self.outside.client("ssm").get_parameter(Name=secret.parameter, WithDecryption=True)
        text = answer["Parameter"]["Value"]
        with readable_errors(f"writing {secret.path}"):
            if secret.path.exists() and secret.path.read_text(encoding="utf-8") == text:
                self.ctx.machine.give(secret.path, secret.uid, secret.gid)
                secret.path.chmod(secret.mode)
                return
            secret.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = secret.path.with_name(f".{secret.path.name}.new")
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self.ctx.machine.give(temporary, secret.uid, secret.gid)
            temporary.chmod(secret.mode)
            replace_secret(secret.path, temporary)

    def _change_address(self) -> None:
        """Put this host's address in the place of that of the host the image was made from."""
        config = self.ctx.config
        answer = self.outside.imds.get("local-ipv4") if config.address else None
        if answer is None or not config.address or answer.text == config.address:
            return
        # Digits and dots around it would make it another address.
        old = re.compile(rf"(?<![\d.]){re.escape(config.address)}(?![\d.])")
        for path in config.address_files:
            with readable_errors(f"writing this host's address into {path}"):
                if not path.exists():
                    continue
                status, text = path.stat(), path.read_text(encoding="utf-8")
                if (changed := old.sub(answer.text, text)) == text:
                    continue
                temporary = path.with_name(f".{path.name}.new")
                temporary.write_text(changed, encoding="utf-8")
                self.ctx.machine.give(temporary, status.st_uid, status.st_gid)
                temporary.chmod(status.st_mode & 0o7777)
                temporary.replace(path)

    # --- the volume

    def _have_volume(self, before: Predecessor) -> bool:
        """Mount the best data volume there is.

        Returns:
            Whether it is one with data: this host's own from before, or its predecessor's.
        """
        config, disks = self.ctx.config, self.disks
        if not config.require_mount or self.ctx.machine.is_mounted(config.volume_path):
            # A boot that was killed may not have come to it.
            disks.make_directories()
            self.stale = before.lease is not None and self._mounted() != before.lease.volume
            return bool(self.ctx.volume.ids()) or self.ctx.restored_path.exists() or self.ctx.rdb_path.exists()
        own = disks.own()
        if before.lease is not None and own and self._is_off_host(before):
            # It would have to be let go of first, which takes as long as the old host takes to end; it holds no more.
            self.say(f"the complete final backup of {before.lease.host} is in S3: its volume is not waited for")
        elif self._take_over(before, own):
            return True
        self.stale = before.lease is not None
        if not own:
            raise KeeperError(f"this host has no data volume at {config.data_device}; the launch template attaches one")
        disks.mount(own, blank_allowed=True)
        return bool(self.ctx.volume.ids()) or self.ctx.rdb_path.exists()

    def _mounted(self) -> str:
        """Id of the volume that is mounted; empty where that cannot be told."""
        try:
            return self.ctx.machine.volume_id(self.ctx.config.volume_path)
        except KeeperError:
            return ""

    def _take_over(self, before: Predecessor, own: str) -> bool:
        """Mount the volume of the host before in the place of this host's own; False, with a word why, if not."""
        if before.lease is None:
            return False
        volume = before.lease.volume or (before.final.volume if before.final is not None else "")
        why = self.disks.kept(volume)
        if not why:
            try:
                if volume != own:
                    self.disks.change_to(volume, own)
                self.disks.mount(volume, blank_allowed=False)
            except KeeperError as error:
                why = f"the volume {volume} of the host before cannot be taken over: {error}"
                self._go_back(volume, own)
            else:
                self.say(f"took over the volume {volume} of {before.lease.host}")
                return True
        self.say(f"{why}: the data comes from a backup")
        return False

    def _is_off_host(self, before: Predecessor) -> bool:
        """Whether everything the host before acknowledged can be had from S3."""
        final = before.final
        if final is None or not final.complete or not final.off_host:
            return False
        try:
            copy = self.ctx.s3.find(final.backup)
        except KeeperError as error:
            self.say(str(error))
            return False
        return copy is not None and copy.usable

    def _fall_back_on_volume(self, before: Predecessor) -> bool:
        """Have the volume that was not waited for after all: the copy in S3 is of no use."""
        own = self.disks.own()
        end_redis(self.ctx)
        self.disks.unmount()
        if self._take_over(before, own):
            self.stale = False
            return True
        if not self.ctx.machine.is_mounted(self.ctx.config.volume_path):
            self.disks.mount(own, blank_allowed=True)
        return False

    def _go_back(self, volume: str, own: str) -> None:
        """Have the host's own volume again."""
        self.disks.unmount()
        attached = self.disks.own()
        if own and attached != own:
            self.disks.change_to(own, volume if attached == volume else "")

    def _let_clients_in(self, term: int, result: BootResult) -> None:
        """Say in the lease which volume the data is on, for whoever comes next, and which backups count; then serve.

        Writing it renews it, which is what proves that it is this host's: clients are let in by that, for so long.
        """
        try:
            volume = self.ctx.machine.volume_id(self.ctx.config.volume_path)
        except KeeperError as error:
            self.ctx.warnings.append(str(error))
            volume = "none"
        newest = self.newest
        began = self._change_lease(
            term,
            lambda lease: replace(
                lease,
                volume=volume,
                # Whom this host waited for has nothing to go by any more, and it serves itself from here on.
                outlast=0,
                lost=result.lost,
                renewed=to_text(self.ctx.now()),
                seconds=self.ctx.config.timeouts.lease,
                takeovers=lease.with_takeover(
                    Takeover(
                        lease.host, term, True, newest.id if newest else "", newest.term if newest else 0, lease.since
                    )
                )
                if any(entry.term == term for entry in lease.history)
                else lease.takeovers,
            ),
        )
        self._must_not_end()
        note_serving(self.ctx, term, self.outside.boot_id)
        self._must_not_end()
        self.ctx.guard.open(began + self.ctx.config.timeouts.lease - MARGIN)

    def _must_not_end(self) -> None:
        """Let nobody in on a host that is being ended.

        Raises:
            KeeperError: it is.
        """
        drain = read_drain(self.ctx.config.state_directory)
        if drain is not None and drain.in_force(self.ctx.machine.identity().instance_id, self.outside.boot_id):
            raise KeeperError(f"this host is being ended itself ({drain.cause}) and does not begin to serve")

    def _change_lease(self, term: int, change: Callable[[Lease], Lease]) -> float:
        """Change this host's own lease, which the watcher renews at the same time.

        Returns:
            When the write began that went well, by the context's clock.

        Raises:
            KeeperError: it is not this host's any more.
        """
        me = self.ctx.machine.identity().instance_id
        for _try in range(_LEASE_TRIES):
            began = self.ctx.clock()
            held = self.outside.leases.lease()
            if held is None or held.lease.host != me or held.lease.term != term or held.lease.released:
                end_redis(self.ctx, term)
                raise KeeperError("the lease was lost while the data was restored: another host serves")
            try:
                self.outside.leases.write_lease(change(held.lease), held)
            except ConflictError:
                self.ctx.sleep(0.2)
            else:
                return began
        raise KeeperError("the lease could not be written: it is changed over and over")

    # --- the data

    def _have_data(self, before: Predecessor, kept: bool) -> BootResult:
        """Redis, running with the best data there is."""
        container = self.ctx.engine.state()
        if container is None:
            raise KeeperError(f"there is no container {self.ctx.config.container} in this image; run provision")
        if kept and not self.stale:
            if container.running and before.lease is None:
                with self.ctx.redis() as server:
                    state = self.ctx.wait_for_redis(server)
                return BootResult("served already", keys=state.keys, lost=before.lost or self._lost_by_crash())
            adopted = self._adopt(before)
            if adopted is not None:
                return adopted
        final = before.final if before.final is not None and before.final.complete else None
        try:
            # What a complete final backup lacks was never acknowledged: files that look younger hold nothing more.
            wanted = final.backup if final is not None and self._is_there(final.backup) else None
            # Redis saves once more when it is stopped after the final backup.
            outdated = self.stale or (kept and wanted is not None)
            request = Request(wanted, force=kept, fallback=wanted is None, superseded=outdated, needed=_NEEDED)
            try:
                result = restore(self.ctx, request)
            except UnreadableError:
                # Whatever else there is, is older.
                raise
            except KeeperError as error:
                if wanted is None:
                    raise
                self.say(f"the final backup {wanted} cannot be used: {error}")
                if not kept and self._fall_back_on_volume(before):
                    return self._have_data(before, kept=True)
                request = Request(None, force=kept, fallback=True, superseded=self.stale, needed=_NEEDED)
                result = restore(self.ctx, request)
        except NoSourceError as error:
            return self._begin_empty(str(error), [])
        except NoUsableCopyError as error:
            return self._begin_empty(str(error), [str(error)])
        return self._restored(before, result)

    def _is_there(self, backup_id: str) -> bool:
        """Whether a backup can be read somewhere."""
        return any(source.id == backup_id and source.usable for source in gather(self.ctx)[0])

    def _adopt(self, before: Predecessor) -> BootResult | None:
        """Go on with what Redis itself has on the volume, where it is newer than every backup; None when it is not."""
        sources = newest_first(gather(self.ctx)[0])
        newest = self.newest = next((source for source in sources if source.usable and not source.superseded), None)
        files = append_only_files(self.ctx) if self.ctx.config.appendonly else []
        if before.final is not None and before.final.complete:
            return None
        if not files and self.ctx.rdb_path.exists():
            files = [] if identify(self.ctx, known_sources([sources])) is not None else [self.ctx.rdb_path]
        if before.lease is not None and not self._was_there(before, bool(files)):
            return None
        if not files:
            return None
        append_only = self.ctx.rdb_path not in files
        as_of = from_epoch(max(path.stat().st_mtime for path in files)) if append_only else self._written(None)
        as_of = self._first_seen(before, as_of)
        if newest is not None and as_of <= newest.created:
            return None
        try:
            keys = self._start_with(files, newest)
        except KeeperError as error:
            end_redis(self.ctx)
            self._refuse_unreadable(files)
            self.say(f"what Redis left on the volume cannot be used: {error}")
            return None
        return BootResult(
            "took over the volume" if before.lease is not None else "went on with its own data",
            source="the append-only file on the kept volume" if append_only else "Redis' own file on the kept volume",
            created=to_text(as_of),
            keys=keys,
            lost=(self._lost_before(before, as_of, append_only=append_only))
            if before.lease is not None
            else self._lost_by_crash(),
        )

    def _lost_before(self, before: Predecessor, as_of: datetime, *, append_only: bool = False) -> str:
        """What of the host before is missing in data of that moment, for a person."""
        noted = [before.final.lost_since if before.final is not None else "", self._lost_on_volume(before)]
        since = [from_text(text) for text in noted if text]
        if since:
            return missing_since(min(as_of, *since))
        return "at most the last second before the host was lost" if append_only else missing_since(as_of)

    def _lost_on_volume(self, before: Predecessor) -> str:
        """Since when the host before had lost what was written, should it have gone down and not served since; as text.

        Its Redis began with what was on the disk, and may have saved that when the host was ended in its turn.
        """
        note = read_json(self.ctx.crashed_path) or {}
        if self.ctx.config.appendonly or before.lease is None or note.get("host") != before.lease.host:
            return ""
        return str(note.get("since", ""))

    def _was_there(self, before: Predecessor, there: bool) -> bool:
        """Whether the host before left something on the volume: as the first boot found it, should this be another.

        A Redis that an earlier boot had started with nothing may have saved that since.
        """
        mark = f"{before.lease.host}/{before.lease.term}" if before.lease is not None else ""
        found = recall(self.ctx.config.state_directory, BOOT).get("found") or {}
        if found.get("from") == mark:
            return bool(found["there"])
        save_state(self.ctx.config.state_directory, BOOT, found={"from": mark, "there": there})
        return there

    def _first_seen(self, before: Predecessor, as_of: datetime) -> datetime:
        """When what the host before left was written: as the first boot found it, should this be another one.

        A Redis that an earlier boot had started has saved the same data again since.
        """
        directory = self.ctx.config.state_directory
        if before.lease is None:
            return as_of
        mark = f"{before.lease.host}/{before.lease.term}"
        found = recall(directory, BOOT).get("took_over") or {}
        if found.get("from") == mark:
            return min(as_of, from_text(str(found["written"])))
        save_state(directory, BOOT, took_over={"from": mark, "written": to_text(as_of)})
        return as_of

    def _written(self, known: Source | None) -> datetime:
        """When what is in Redis' own RDB was in its memory: `known` is the backup that it is, if it is one."""
        return known.created if known is not None else written_at(self.ctx.rdb_path)

    def _lost_by_crash(self) -> str:
        """What this host itself lost when it went down without a shutdown; empty when it did not."""
        crash = recall(self.ctx.config.state_directory, CRASH)
        serving = read_serving(self.ctx)
        if serving is None or crash.get("boot") != serving.boot or serving.boot == self.outside.boot_id:
            return ""
        if self.ctx.config.appendonly:
            return "at most the last second before the host went down"
        since = str(crash.get("since", ""))
        return missing_since(from_text(since)) if since else "what Redis had not saved itself"

    def _start_with(self, files: list[Path], newest: Source | None) -> int:
        """Start Redis with its own files, and see that it holds something."""
        for path in files:
            if path == self.ctx.rdb_path:
                databases_of(path, self.ctx.engine.check_rdb(path, timeout=self.ctx.config.timeouts.check))
        self.ctx.engine.start()
        with self.ctx.redis() as server:
            state = self.ctx.wait_for_redis(server)
        if state.keys == 0 and newest is not None and newest.keys:
            raise KeeperError(f"Redis is empty with it, but the newest backup has {newest.keys:,} keys")
        return state.keys

    def _refuse_unreadable(self, files: list[Path]) -> None:
        """Pass nothing over for an older backup that another server could read: an append-only file begins with an RDB.

        Raises:
            UnreadableError: one of Redis' own files is whole, and of a version that this host's server cannot read.
        """
        for path in files:
            if beginning_of(path).version:
                # Of what is damaged, the files cannot be used, and a backup is taken.
                with suppress(DamagedError):
                    databases_of(path, self.ctx.engine.check_rdb(path, timeout=self.ctx.config.timeouts.check))

    def _restored(self, before: Predecessor, result: RestoreResult) -> BootResult:
        """A restore, for a person."""
        manifest, final = result.manifest, before.final
        self.newest = result.newest
        if result.changed:
            entry = {**result.to_json(), "at": to_text(self.ctx.now()), "warnings": self.ctx.warnings}
            save_state(self.ctx.config.state_directory, last_restore=entry)
        whole = final is not None and final.complete and final.backup == manifest.id
        history = before.lease.history if before.lease is not None else ()
        # Of what others served since it holds nothing, however late it was made.
        left = superseded_at(result.source, history)
        lost = "" if whole else self._lost_before(before, min(manifest.created, left or manifest.created))
        keys = result.loaded.keys if result.loaded is not None else manifest.keys
        where = self.ctx.store(result.source).label(result.source.snapshot_id)
        kind = "final backup" if manifest.reason == "final" else "backup"
        return BootResult(
            "restored",
            source=f"{kind} {manifest.id} ({where})",
            backup=manifest.id,
            created=to_text(manifest.created),
            keys=keys,
            lost=lost if before.lease is not None else self._lost_by_crash(),
            skipped=[f"backup {entry['id']} ({entry['where']}): {entry['reason']}" for entry in result.skipped],
        )

    def _begin_empty(self, why: str, skipped: list[str]) -> BootResult:
        """Start with nothing, if that is allowed."""
        if not self.ctx.config.allow_empty:
            raise KeeperError(
                f"{why}. Redis is not started. Restore by hand, or set keeper_allow_empty to true to begin with nothing"
            )
        self.ctx.engine.start()
        with self.ctx.redis() as server:
            state = self.ctx.wait_for_redis(server)
        note = {"id": "", "at": to_text(self.ctx.now()), "append_only": {}}
        write_atomically(self.ctx.restored_path, json.dumps(note, indent=2) + "\n")
        return BootResult("began empty", keys=state.keys, lost=f"{_EVERYTHING} ({why})", skipped=skipped)

    # --- the world

    def _move_name(self, result: BootResult) -> None:
        """Send clients here."""
        problem = ""
        for _try in range(_DNS_TRIES):
            try:
                address = point_here(self.ctx.config.name, self.outside.imds, self.outside.aws)
            except KeeperError as error:
                problem = str(error)
                self.ctx.sleep(2.0)
            else:
                if address:
                    self.say(f"{self.ctx.config.dns_name} points to {address}")
                return
        result.problems.append(f"clients are not sent here: {problem}")

    def _notify(self, result: BootResult) -> None:
        """Tell people what this host serves now."""
        if result.what == "served already" and not result.before and not result.lost:
            return
        environment, me = self.ctx.config.environment, self.ctx.machine.identity()
        fields = {"Host": f"{me.instance_id} ({me.zone})", "Source": result.source, "Keys": f"{result.keys:,}"}
        if result.created:
            age = age_text((self.ctx.now() - from_text(result.created)).total_seconds())
            fields |= {"Data of": result.created, "Age": age}
        if result.before or result.lost:
            fields["Lost"] = result.lost or "nothing"
        level: Level = "good" if not (result.lost or result.problems or result.skipped) else "warning"
        text = f"{me.instance_id} {result.line}."
        if result.skipped:
            text += f" Set aside: {'; '.join(result.skipped)}."
        self.notify(Message(f"{environment}: Redis is back", text, level, self._key("boot"), fields=fields))

    def notify_failure(self, error: str) -> None:
        """Tell people that Redis does not come up by itself."""
        me = self.ctx.machine.identity().instance_id
        title = f"{self.ctx.config.environment}: Redis does not come back by itself"
        self.notify(Message(title, f"{me}: {error}", "error", f"boot-failed/{me}/{hash_of(error)}", window=3600))

    def notify(self, message: Message) -> None:
        """Tell people; that they could not be told is said, and changes nothing."""
        try:
            self.outside.notify(message)
        except (KeeperError, OSError) as error:
            self.say(str(error))

    def _key(self, what: str) -> str:
        """What a message is about: this boot of this host."""
        return f"{what}/{self.ctx.machine.identity().instance_id}/{self.outside.boot_id}"


def hash_of(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _both(lost: str, before: str) -> str:
    """What is missing of two hosts' data; nothing is left to say beside everything."""
    everything = next((text for text in (lost, before) if text.startswith(_EVERYTHING)), "")
    return everything or "; ".join(dict.fromkeys(filter(None, (lost, before))))
