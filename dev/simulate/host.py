# SPDX-License-Identifier: GPL-3.0-or-later
"""One host: a machine that may pause and die, its kernel's gate, its Redis, its volume, and the keeper's processes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from spotcache_keeper.aws.machine import Identity
from spotcache_keeper.backup.create import backup
from spotcache_keeper.cli import _back_up_restored
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError, NoSourceError
from spotcache_keeper.lease import LeaseStore
from spotcache_keeper.node.acquire import Acquirer, Predecessor
from spotcache_keeper.node.boot import Boot, BootResult
from spotcache_keeper.node.crash import note_crash
from spotcache_keeper.node.renew import LeaseHolder
from spotcache_keeper.node.watch import Watch
from spotcache_keeper.outside import Outside
from spotcache_keeper.server.client import NotAnsweringError, ServerState
from spotcache_keeper.server.container import ContainerState
from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.stores.manifest import Manifest
from spotcache_keeper.stores.source import Source, judge
from spotcache_keeper.system.times import to_text

from dev.simulate.cloud import Data, SimEc2, SimImds, SimObjects, SimS3Store, SimSigned, moment, source_of

if TYPE_CHECKING:
    from dev.simulate.scheduler import Process
    from dev.simulate.world import World

ZONE = "ap-northeast-1a"


@dataclass
class Volume:
    """An EBS volume: Redis' own RDB on it, and backups.

    Attributes:
        rdb: what that file holds; None without one.
        at: when it was written.
        holder: id of the host that it is attached to.
    """

    id: str
    rdb: Data | None = None
    at: float = 0.0
    serial: int = 0
    holder: str = ""
    restored: bool = False
    crashed: dict[str, Any] | None = None
    backups: dict[str, tuple[Manifest, Data, bool]] = field(default_factory=dict)


@dataclass
class Server:
    """Redis: what it acknowledged, and what of that is on the disk."""

    run: int = 0
    running: bool = False
    stopped: bool = False
    exit_code: int = 0
    data: list[int] = field(default_factory=list)
    ready_at: float = 0.0
    hung_until: float = 0.0
    paused_until: float = 0.0
    saves: int = 0
    save_ok: bool = True
    last_save: float = 0.0
    saving: tuple[float, Data, bool, float] | None = None
    # How the next BGSAVE ends: well, badly, or with the server killed.
    fate: str = ""


@lru_cache(1024)
def server_state(
    loading: bool, keys: int, last_save: int, saves: int, saving: bool, save_ok: bool, run: int
) -> ServerState:
    """What Redis says of itself: the same as long as nothing happens to it."""
    return ServerState(
        version="7.0.15",
        loading=loading,
        databases={0: DatabaseCount(keys, 0)} if keys else {},
        changes=0,
        last_save=last_save,
        saves=saves,
        saving=saving,
        save_ok=save_ok,
        aof_enabled=False,
        aof_rewriting=False,
        aof_rewrite_ok=True,
        loaded=None,
        loaded_expired=None,
        gone=0,
        data_bytes=0,
        started_seconds=1,
        run=f"run-{run}",
    )


class Connection:
    """`Redis`, one connection of the keeper."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def _ask(self) -> Server:
        host, world = self.host, self.host.world
        world.perhaps(0.001)
        server = host.server
        if world.now < server.hung_until:
            world.wait(2.0)
            raise NotAnsweringError("Redis does not answer")
        if not server.running:
            raise NotAnsweringError("Redis is not reached")
        host.settle()
        if not server.running:
            raise NotAnsweringError("Redis breaks off")
        return server

    def state(self) -> ServerState:
        server = self._ask()
        return server_state(
            self.host.world.now < server.ready_at,
            len(server.data),
            int(server.last_save),
            server.saves,
            server.saving is not None,
            server.save_ok,
            server.run,
        )

    def pause_writes(self, seconds: float) -> None:
        server = self._ask()
        server.paused_until = max(server.paused_until, self.host.world.now + seconds)

    def hold_writes(self, seconds: float) -> str:
        server = self._ask()
        server.paused_until = max(server.paused_until, self.host.world.now + seconds)
        return f"run-{server.run}"

    def go_on(self) -> None:
        self._ask().paused_until = 0.0

    def drop_clients(self) -> None:
        self._ask()

    def background_save(self) -> bool:
        server, world = self._ask(), self.host.world
        if server.saving is not None:
            return False
        fate, server.fate = server.fate, ""
        server.saves += 1
        server.saving = (
            world.now + world.random.choice((0.0, 0.0, 0.0, 0.02, 0.02, 0.08, 3.0)),
            tuple(server.data),
            fate == "",
            world.now,
        )
        self.host.forked_entitled = self.host.entitled
        if fate == "killed":
            world.start("the kernel", self.host, self.host.crash_redis, 0.01)
        return True

    def save(self, timeout: float) -> None:
        server, world = self._ask(), self.host.world
        server.saves += 1
        self.host.forked_entitled = self.host.entitled
        self.host.saved(tuple(server.data))
        server.save_ok = True
        world.wait(0.05)

    def wait_until_ready(self) -> ServerState:
        deadline = self.host.world.now + 20.0
        while True:
            try:
                state = self.state()
                if not state.loading:
                    return state
            except NotAnsweringError:
                if self.host.world.now >= deadline or not self.host.server.running:
                    raise
            self.host.world.wait(0.3)


@dataclass(frozen=True)
class SimFile:
    """A path on a host's disk."""

    host: Host
    name: str = ""

    def __truediv__(self, name: str) -> SimFile:
        return SimFile(self.host, name)

    @property
    def parent(self) -> SimFile:
        return self

    def mkdir(self, **_options: Any) -> None:
        return None

    def exists(self) -> bool:
        return self.name in self.host.disk

    def stat(self) -> Any:
        raise FileNotFoundError(self.name)

    def is_dir(self) -> bool:
        return True


@dataclass(frozen=True)
class RdbFile:
    """Redis' own RDB on the host's volume."""

    host: Host

    def exists(self) -> bool:
        return self.host.volume.rdb is not None

    @property
    def forked(self) -> float:
        """When its data was in memory; Unix time by the host's clock."""
        return moment(self.host.volume.at + self.host.skew).timestamp()

    def stat(self) -> Any:
        volume = self.host.volume
        if volume.rdb is None:
            raise FileNotFoundError("dump.rdb")
        at = moment(self.host.world.now + self.host.skew).timestamp()
        return Stat(volume.serial, int(at * 1e9) + volume.serial, at)


@dataclass(frozen=True)
class CrashedFile:
    """The note on the volume of what a crash took."""

    host: Host

    def unlink(self, missing_ok: bool = False) -> None:
        self.host.volume.crashed = None


@dataclass(frozen=True)
class RestoredFile:
    """The note on the volume of what was restored onto it."""

    host: Host

    def exists(self) -> bool:
        return self.host.volume.restored


@dataclass(frozen=True)
class Stat:
    """Of a file."""

    st_ino: int
    st_mtime_ns: int
    st_mtime: float
    st_size: int = 0


@dataclass(frozen=True)
class Size:
    """Of a file."""

    st_size: int


@dataclass
class Partial:
    """A backup that is being put together, or one that is whole: what the stores copy."""

    stem: str
    data: Data = ()
    entitled: bool = True

    def stat(self) -> Any:
        return Size(len(self.data))


class SimVolumeStore:
    """`VolumeStore` of the host's volume."""

    name, nearness, lacks, at_once = "volume", 0, "not on the volume", True

    def __init__(self, host: Host) -> None:
        self.host = host

    @property
    def _held(self) -> dict[str, tuple[Manifest, Data, bool]]:
        return self.host.volume.backups

    def label(self, copy: str | None) -> str:
        return "the kept volume"

    def prepare(self) -> None:
        self.host.check_disk()

    def ids(self) -> list[str]:
        return sorted(self._held)

    def sources(self) -> list[Source]:
        return [source_of(manifest, self) for manifest, _, _ in self._held.values()]

    def manifest(self, backup_id: str) -> Manifest | None:
        found = self._held.get(backup_id)
        return found[0] if found is not None else None

    def path(self, backup_id: str) -> Partial:
        _, data, entitled = self._held[backup_id]
        return Partial(backup_id, data, entitled)

    def new_partial(self, backup_id: str) -> Partial:
        self.host.check_disk()
        return Partial(backup_id)

    def link(self, rdb: RdbFile, partial: Partial) -> Partial:
        partial.data = rdb.host.volume.rdb or ()
        partial.entitled = self.host.forked_entitled
        return partial

    def discard(self, partial: Partial) -> None:
        return None

    def complete(self, partial: Partial, manifest: Manifest) -> Partial:
        self.host.check_disk()
        self.host.world.wait(0.0)
        self._held[manifest.id] = (manifest, partial.data, partial.entitled)
        return partial

    def put(self, directory: Any, manifest: Manifest) -> str:
        self.complete(directory, manifest)
        return manifest.id

    def remove(self, backup_id: str) -> None:
        self._held.pop(backup_id, None)

    def prune(self, retention: Any) -> Iterator[str]:
        for backup_id in sorted(self._held)[: -retention.policy.count]:
            del self._held[backup_id]
            yield backup_id


class SimEngine:
    """`Engine`: Redis' container, which the engine starts again when it ends by itself."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def state(self) -> ContainerState | None:
        self.host.world.perhaps(0.01)
        server = self.host.server
        return ContainerState("running" if server.running else "exited", "image", server.exit_code)

    def start(self) -> None:
        self.host.world.wait(0.05)
        self.host.start_redis()

    def stop(self, timeout: int) -> None:
        self.host.world.wait(0.05)
        self.host.stop_redis()

    def kill(self) -> None:
        self.host.world.wait(0.05)
        if self.host.server.running:
            self.host.world.redis_lost(self.host)
        self.host.server.running, self.host.server.stopped, self.host.server.exit_code = False, True, 137

    def last_words(self) -> str:
        return "nothing"

    def check_rdb(self, path: Any, *, timeout: float) -> Any:
        return None


class SimLock:
    """A lock between the keeper's threads: whoever waits for it lets the others go on."""

    def __init__(self, world: World) -> None:
        self.world, self.held = world, False

    def __enter__(self) -> None:
        while self.held:
            self.world.wait(0.01)
        self.held = True

    def __exit__(self, *_why: object) -> None:
        self.held = False


class SimGuard:
    """`Guard`: what it holds is the kernel's, and outlives the keeper, but no reboot."""

    holds = True

    def __init__(self, host: Host) -> None:
        self.host = host

    def prepare(self) -> None:
        return None

    def open(self, until: float) -> None:
        host, world = self.host, self.host.world
        now = world.now + host.skew
        seconds = until - host.clock()
        world.perhaps(0.001)
        if seconds < 1.0:
            host.open_until = 0.0
            return
        # Told to the kernel: a time-out that counts from now, in whole seconds, and an end by the host's time of day.
        host.open_until, host.open_end = world.now + int(seconds), float(int(now + seconds))
        if host.clock() + int(seconds) > until + 1.0:
            self.open(until)

    def close(self) -> None:
        self.host.world.perhaps(0.001)
        self.host.open_until = 0.0


class SimMachine:
    """`Machine`."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def identity(self) -> Identity:
        return self.host.identity

    def is_mounted(self, path: Any) -> bool:
        return self.host.mounted

    def volume_id(self, path: Any) -> str:
        return self.host.volume.id

    def give(self, *_arguments: Any) -> None:
        return None


class SimDisks:
    """`Disks`: the blank volume that the host came with, and that of its predecessor."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def make_directories(self) -> None:
        return None

    def own(self) -> str:
        self.host.world.wait(0.01)
        return next((one.id for one in self.host.world.volumes.values() if one.holder == self.host.id), "")

    def kept(self, volume: str) -> str:
        world = self.host.world
        world.wait(0.01)
        found = world.volumes.get(volume)
        if found is None:
            return "there is no such volume"
        holder = world.hosts.get(found.holder)
        if holder is not None and holder is not self.host and holder.state == "running":
            return f"{volume} stays with {holder.id}, which runs"
        return "" if found.holder == self.host.id or world.random.random() < 0.7 else f"{volume} is in another zone"

    def change_to(self, volume: str, own: str) -> None:
        """EC2 lets go of a volume when its host has ended."""
        world = self.host.world
        world.wait(0.5)
        until = world.now + world.config.timeouts.volume
        while world.volumes[volume].holder not in ("", self.host.id):
            if world.now >= until:
                raise KeeperError(f"{volume} is still in-use")
            world.wait(1.0)
        if own:
            world.volumes[own].holder = ""
        world.volumes[volume].holder = self.host.id

    def mount(self, volume: str, *, blank_allowed: bool) -> None:
        self.host.world.wait(0.1)
        self.host.volume, self.host.mounted = self.host.world.volumes[volume], True

    def unmount(self) -> None:
        self.host.mounted = False


@dataclass
class SimContext(Context):
    """`Context`, whose files are a model's."""

    @property
    def host(self) -> Host:
        return self.machine.host  # type: ignore[attr-defined, no-any-return]

    @property
    def rdb_path(self) -> Any:
        return RdbFile(self.host)

    @property
    def restored_path(self) -> Any:
        return RestoredFile(self.host)

    @property
    def crashed_path(self) -> Any:
        return CrashedFile(self.host)

    @property
    def lock_path(self) -> Any:
        return SimFile(self.host, "lock")

    def redis(self) -> Any:
        return Connection(self.host)

    def wait_for_redis(self, server: Any) -> ServerState:
        return server.wait_until_ready()  # type: ignore[no-any-return]

    def check_volume(self) -> None:
        if not self.host.mounted:
            raise KeeperError("the data volume is not mounted")


class SimBoot(Boot):
    """`Boot`, which shows what it found, and told people, to whoever checks that nothing is lost without a word."""

    told = False

    def _fetch_secrets(self) -> None:
        if self.ctx.host.broken:  # type: ignore[attr-defined]
            raise KeeperError("reading /spotcache/sim/host/password: AccessDenied")

    def _have_data(self, before: Predecessor, kept: bool) -> BootResult:
        result = super()._have_data(before, kept)
        self.ctx.host.boot_result = result  # type: ignore[attr-defined]
        return result

    def _notify(self, result: BootResult) -> None:
        super()._notify(result)
        if self.told:
            self.ctx.host.world.reported(self.ctx.host, result)  # type: ignore[attr-defined]

    def notify(self, message: Any) -> None:
        super().notify(message)
        self.told = True


class Early:
    """`EarlyBackup`, in a process of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def start(self) -> None:
        self.host.start_backup("rebalance")

    def ended(self) -> tuple[bool, str] | None:
        return None


@dataclass(eq=False)
class Host:
    """One EC2 instance."""

    world: World
    id: str
    launched: float
    skew: float = 0.0
    unseen: float = 0.0
    state: str = "running"
    fallback: bool = False
    broken: bool = False
    gone: bool = False
    paused_until: float = 0.0
    open_until: float = 0.0
    open_end: float = 0.0
    booted: float = 0.0
    listed: float = 0.0
    boots: int = 0
    mounted: bool = False
    volume: Volume = field(default_factory=lambda: Volume("none"))
    server: Server = field(default_factory=Server)
    disk: dict[str, Any] = field(default_factory=dict)
    disk_full_until: float = 0.0
    locks: dict[str, Process] = field(default_factory=dict)
    cut: dict[str, float] = field(default_factory=dict)
    lose: str = ""
    delay: float = 0.0
    late: float = 0.0
    upload: float = 0.0
    boot_result: BootResult | None = None
    forked_entitled: bool = True
    accepted: tuple[int, int] = (0, 0)
    lines: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    watcher: Watch | None = None

    def __post_init__(self) -> None:
        self.imds = SimImds(self)
        directory: Any = SimFile(self)
        self.config = dataclasses.replace(
            self.world.config, state_directory=directory, volume_path=directory, redis_directory=directory
        )
        self.identity = Identity(self.id, ZONE)

    # --- what is true of it

    @property
    def boot_id(self) -> str:
        return f"{self.id}-boot-{self.boots}"

    @property
    def accepts(self) -> bool:
        """Whether a client that sends a write to it now is answered."""
        server, now = self.server, self.world.now
        return (
            server.running
            and now < self.open_until
            and now + self.skew < self.open_end
            and now >= server.paused_until
            and now >= server.ready_at
            and now >= server.hung_until
            and now >= self.paused_until
            and not self.gone
        )

    @property
    def entitled(self) -> bool:
        """Whether what it backs up now is the environment's: it holds the lease in truth, or nobody served after it."""
        lease = self.world.bucket.lease
        return not lease or lease["host"] == self.id or self.world.serving is self

    @property
    def held(self) -> set[int]:
        """The writes that its Redis has."""
        return set(self.server.data)

    def now(self) -> datetime:
        return moment(self.world.now + self.skew)

    def clock(self) -> float:
        return self.world.now - self.booted

    def check_disk(self) -> None:
        if self.world.now < self.disk_full_until:
            raise KeeperError("No space left on device")

    # --- Redis

    def settle(self) -> None:
        """Let a BGSAVE that is over be over."""
        server = self.server
        if server.saving is not None and self.world.now >= server.saving[0]:
            _, data, well, forked = server.saving
            server.saving = None
            server.save_ok = well and self.world.now >= self.disk_full_until
            if server.save_ok:
                self.saved(data, forked)

    def saved(self, data: Data, forked: float | None = None) -> None:
        self.volume.rdb, self.volume.at = data, self.world.now if forked is None else forked
        self.volume.serial += 1
        self.server.last_save = self.world.now

    def start_redis(self) -> None:
        server = self.server
        if server.running or not self.mounted:
            return
        self.server = Server(
            run=self.world.next_run(),
            running=True,
            data=list(self.volume.rdb or ()),
            ready_at=self.world.now + self.world.random.choice((0.05, 0.3, 3.0)),
            last_save=self.world.now,
        )

    def stop_redis(self) -> None:
        """As it is told to: it saves first."""
        if self.server.running:
            self.settle()
            self.saved(tuple(self.server.data))
            self.server.running, self.server.stopped, self.server.exit_code = False, True, 0

    def crash_redis(self) -> None:
        """It is killed; the engine starts it again a second later, from what is on the disk."""
        if not self.server.running:
            return
        self.world.trace("redis", f"Redis on {self.id} is killed")
        self.world.redis_lost(self)
        self.server.running, self.server.exit_code = False, 137
        self.world.start("the engine", self, lambda: None if self.server.stopped else self.start_redis(), 1.0)

    # --- the keeper

    def context(self) -> SimContext:
        objects: Any = SimObjects(self)
        return SimContext(
            config=self.config,
            engine=SimEngine(self),  # type: ignore[arg-type]
            machine=SimMachine(self),  # type: ignore[arg-type]
            volume=SimVolumeStore(self),  # type: ignore[arg-type]
            s3=SimS3Store(self),  # type: ignore[arg-type]
            ebs=None,
            guard=SimGuard(self),
            leases=LeaseStore(objects, "keeper/"),
            boot_id=self.boot_id,
            now=self.now,
            clock=self.clock,
            sleep=self.world.doze,
        )

    def outside(self, ctx: SimContext) -> Outside:
        imds: Any = self.imds
        aws: Any = SimSigned(self)
        assert ctx.leases is not None
        return SimOutside(imds, aws, ctx.leases, None, lambda _service: SimEc2(self), self.boot_id)

    def power_on(self, delay: float = 0.0) -> None:
        """The host starts: its units, and Redis, which the engine starts again as it was."""
        self.boots += 1
        self.booted, self.open_until = self.world.now + delay, 0.0
        self.server = Server(run=self.server.run, stopped=self.server.stopped)
        self.locks.clear()
        if self.mounted:
            self.world.start("guard", self, self.run_guard, delay)
        else:
            self.world.start("boot", self, self.run_boot, delay + self.world.random.uniform(0.1, 3.0))
        self.world.start("watch", self, self.run_watch, delay + self.world.random.uniform(0.1, 3.0))
        self.world.start("timer", self, self.run_timer, delay + self.world.random.uniform(20.0, 60.0))

    def power_off(self) -> None:
        """Everything in memory is gone."""
        for process in list(self.world.scheduler.processes):
            if process.host is self:
                self.world.scheduler.kill(process)
        self.server.running, self.watcher = False, None
        self.open_until = 0.0
        self.locks.clear()

    def run_guard(self) -> None:
        """The unit before the engine's, the engine, which is up when it has started what runs always, and the boot."""
        try:
            note_crash(self.context())
        except KeeperError as error:
            self.say(f"guard: {error}")
        self.world.wait(self.world.random.uniform(0.1, 4.0))
        if not self.server.stopped:
            self.start_redis()
        self.world.start("boot", self, self.run_boot, self.world.random.uniform(0.1, 1.0))

    def run_boot(self) -> None:
        ctx = self.context()
        outside = self.outside(ctx)
        try:
            with self.only_run("boot.lock"):
                disks: Any = SimDisks(self)
                SimBoot(ctx, outside, self.say, Acquirer(ctx, outside, self.say), disks).run()
        except KeeperError as error:
            self.say(f"Redis does not serve: {error}")
            self.world.start("boot", self, self.run_boot, 10.0)

    def run_watch(self) -> None:
        ctx = self.context()
        outside = self.outside(ctx)
        gate: Any = SimLock(self.world)
        lease = LeaseHolder(ctx, outside, _gate=gate)
        self.watcher = watch = Watch(ctx, outside, self.say, Early(self), lease, self.boot_again)  # type: ignore[arg-type]

        def renew() -> None:
            while not lease.stopped.is_set():
                lease.renew()
                self.world.wait(lease.pause())

        self.world.start("lease", self, renew, group="watch")
        while True:
            pause = watch.step()
            self.world.wait(pause)

    def boot_again(self) -> None:
        """Systemd restarts the unit."""

        def restart() -> None:
            for process in list(self.world.scheduler.processes):
                if process.host is self and process.group == "boot" and not process.dead:
                    self.world.scheduler.kill(process)
            self.world.start("boot", self, self.run_boot, 0.2)

        self.world.start("systemd", self, restart, 0.1)

    def run_timer(self) -> None:
        while True:
            self.start_backup("timer")
            self.world.wait(self.world.random.uniform(25.0, 70.0))

    def start_backup(self, reason: str) -> None:
        """A backup in a process of its own."""

        def work() -> None:
            ctx = self.context()
            try:
                with self.only_run("lock"):
                    backup(ctx, reason)
            except KeeperError as error:
                self.say(f"backup: {error}")

        self.world.start("backup", self, work)

    def start_restore(self) -> None:
        """A person restores an older backup, whatever there is."""

        def work() -> None:
            ctx = self.context()
            try:
                with self.only_run("lock"):
                    sources = [one for one in judge(ctx.s3.sources(), ()) if one.usable]
                    if not sources or not self.accepts:
                        return
                    chosen = self.world.random.choice(sources)
                    self.world.restoring(self, chosen.id)
                    self.load(chosen)
                    with ctx.redis() as server:
                        ctx.wait_for_redis(server)
                    _back_up_restored(ctx, chosen.id)
                    self.world.restored(self)
            except KeeperError as error:
                self.say(f"restore: {error}")

        self.world.start("restore", self, work)

    def shut_down(self) -> None:
        """The system shuts down as it should: the keeper first, then Redis; then it starts again."""

        def work() -> None:
            watch = self.watcher
            for process in list(self.world.scheduler.processes):
                if process.host is self and process is not self.world.scheduler.running and process.name != "backup":
                    self.world.scheduler.kill(process)
            if watch is not None:
                watch.shut_down()
            self.stop_redis()
            self.server.stopped = False
            self.world.start_outside(f"{self.id} starts again", self.reboot, 5.0)

        self.world.start("shutdown", self, work)

    def reboot(self) -> None:
        """It starts anew, with the disk it had."""
        if self.gone:
            return
        self.power_off()
        self.power_on()

    def load(self, source: Source) -> None:
        """Put a backup in the place of what Redis holds."""
        world = self.world
        world.wait(world.latency())
        held = self.volume.backups.get(source.id)
        stored = world.bucket.backups.get(source.id)
        if held is None and (stored is None or stored.manifest is None):
            raise KeeperError(f"{source.id} is gone")
        data = held[1] if held is not None else stored.data  # type: ignore[union-attr]
        if self.server.running:
            self.server.running, self.server.stopped = False, True
        world.wait(0.05)
        self.volume.rdb, self.volume.at, self.volume.restored = data, world.now, True
        self.volume.serial += 1
        self.start_redis()

    # --- the disk

    @contextmanager
    def only_run(self, name: str) -> Iterator[None]:
        """The lock of that name; a killed holder has let go of it."""
        world = self.world
        deadline = world.now + 5.0
        while (holder := self.locks.get(name)) is not None and not holder.dead:
            if world.now >= deadline:
                raise KeeperError("another run is at work")
            world.wait(0.5)
        assert world.scheduler.running is not None
        self.locks[name] = world.scheduler.running
        try:
            yield
        finally:
            self.locks.pop(name, None)

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.world.trace("keeper", f"{self.id}: {line}")


class SimOutside(Outside):
    """`Outside`, whose messages stay here."""

    def notify(self, message: Any) -> None:
        return None


# --- what takes the place of files, in the keeper's modules


def recall(directory: SimFile, name: str = "status.json") -> dict[str, Any]:
    return directory.host.disk.get(name) or {}


def save_state(directory: SimFile, name: str = "status.json", /, **parts: Any) -> None:
    host = directory.host
    host.check_disk()
    host.world.wait(0.0)
    host.disk[name] = {**(host.disk.get(name) or {}), **parts}


def write_atomically(path: Any, text: str, mode: int = 0o600) -> None:
    if isinstance(path, RestoredFile):
        path.host.volume.restored = True
        return
    if path.host.world.now < path.host.disk_full_until:
        raise OSError(28, "No space left on device")
    path.host.world.wait(0.0)
    if isinstance(path, CrashedFile):
        path.host.volume.crashed = json.loads(text)
        return
    path.host.disk[path.name] = json.loads(text)


def read_json(path: Any) -> dict[str, Any] | None:
    if isinstance(path, RestoredFile):
        return None
    if isinstance(path, CrashedFile):
        return path.host.volume.crashed
    found: dict[str, Any] | None = path.host.disk.get(path.name)
    return found


@contextmanager
def only_run(path: SimFile, command: str, timeout: float, now: datetime) -> Iterator[None]:
    with path.host.only_run(path.name):
        yield


def is_held(path: SimFile) -> bool:
    holder = path.host.locks.get(path.name)
    return holder is not None and not holder.dead


def restore(ctx: SimContext, request: Any) -> Any:
    """`restore`, as far as a boot needs it: the real choice among the real sources, and the model's data."""
    from spotcache_keeper.backup.restore import RestoreResult, gather
    from spotcache_keeper.stores.source import choose, newest_first, parse_wanted

    sources, unreadable = gather(ctx)
    if unreadable and (not request.fallback or set(unreadable) & request.needed):
        raise KeeperError("; ".join(unreadable.values()))
    chosen = choose(sources, parse_wanted(request.wanted))[0]
    ctx.host.world.check_choice(ctx.host, chosen, ctx.host.listed - 1.0)
    ctx.host.load(chosen)
    with ctx.redis() as server:
        ctx.wait_for_redis(server)
    assert chosen.manifest is not None
    newest = next((one for one in newest_first(sources) if one.usable and not one.superseded), None)
    return RestoreResult(chosen.manifest, chosen, changed=True, newest=newest)


def identify(ctx: SimContext, known: list[Source]) -> Source | None:
    """The backup that Redis' own RDB is, byte for byte."""
    for source in known:
        held = ctx.host.volume.backups.get(source.id)
        stored = ctx.host.world.bucket.backups.get(source.id)
        data = held[1] if held is not None else stored.data if stored is not None else None
        if data is not None and data == ctx.host.volume.rdb:
            return source
    return None


def examine(rdb: Partial, _engine: Any, _timeout: float) -> tuple[str, dict[int, DatabaseCount]]:
    return f"{hash(rdb.data) & 0xFFFFFFFFFFFFFFFF:064x}", {0: DatabaseCount(len(rdb.data), 0)} if rdb.data else {}


__all__ = ["Host", "NoSourceError", "to_text"]
