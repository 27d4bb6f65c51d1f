"""Everything a backup or a restore works with, put together once."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from spotcache_keeper.aws.clients import make_client
from spotcache_keeper.aws.machine import LinuxMachine, Machine, metadata
from spotcache_keeper.config import Config
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import Leases
from spotcache_keeper.outside import boot_id, build_outside
from spotcache_keeper.server.client import NotAnsweringError, Redis, ServerState
from spotcache_keeper.server.container import DockerEngine, Engine
from spotcache_keeper.stores.base import Store
from spotcache_keeper.stores.ebs import EbsStore
from spotcache_keeper.stores.local import VolumeStore
from spotcache_keeper.stores.s3 import S3Store, adding
from spotcache_keeper.stores.source import Source
from spotcache_keeper.system.commands import run_command
from spotcache_keeper.system.guard import Guard, KernelGuard, NoGuard
from spotcache_keeper.system.times import since_boot, utc_now


def no_report(_step: str) -> None:
    """Tell nobody what is being done."""


@dataclass
class Context:
    """One host's parts.

    Attributes:
        config: the configuration.
        engine: Redis' container.
        machine: the host.
        volume: backups on the data volume.
        s3: backups in S3.
        ebs: backups in EBS snapshots, or None where the configuration does without.
        guard: lets clients in to Redis.
        leases: whose turn it is to serve; None where nobody else could.
        boot_id: names this run of the host's kernel.
        now: the present moment.
        clock: seconds that only ever grow.
        sleep: waits that many seconds.
        report: told what is about to be done, step by step.
        warnings: what a person should know although the work went on.
    """

    config: Config
    engine: Engine
    machine: Machine
    volume: VolumeStore
    s3: S3Store
    ebs: EbsStore | None
    guard: Guard = field(default_factory=NoGuard)
    leases: Leases | None = None
    boot_id: str = ""
    now: Callable[[], datetime] = utc_now
    clock: Callable[[], float] = since_boot
    sleep: Callable[[float], None] = time.sleep
    report: Callable[[str], None] = no_report
    warnings: list[str] = field(default_factory=list)

    @property
    def stores(self) -> tuple[Store, ...]:
        """Every place that holds backups, the nearest first."""
        return (self.volume, *self.off_host)

    @property
    def off_host(self) -> tuple[Store, ...]:
        """Those that outlive the host and its volume."""
        return (self.s3, self.ebs) if self.ebs is not None else (self.s3,)

    def store(self, source: Source) -> Store:
        """The place that holds a copy."""
        return next(store for store in self.stores if store.name == source.where)

    @property
    def lock_path(self) -> Path:
        """The lock that backups and restores hold."""
        return self.config.state_directory / "lock"

    @property
    def restored_path(self) -> Path:
        """What the last restore onto this volume was."""
        return self.config.volume_path / "restored.json"

    @property
    def crashed_path(self) -> Path:
        """What a host whose volume this was lost when it went down, for whoever takes the volume over."""
        return self.config.volume_path / "crashed.json"

    @property
    def rdb_path(self) -> Path:
        """Redis' own RDB."""
        return self.config.redis_directory / self.config.dbfilename

    def redis(self) -> Redis:
        """A connection to Redis."""
        config = self.config
        return Redis(
            host=config.redis_host,
            port=config.redis_port,
            tls_ca=config.redis_tls_ca,
            username=config.redis_username,
            password=config.password(),
            timeout=config.timeouts.answer,
        )

    def wait_for_redis(self, server: Redis) -> ServerState:
        """Wait until Redis has loaded its data, as long as its container runs.

        Raises:
            NotAnsweringError: the container is gone, ended or restarts over and over, or the time is over.
        """

        def alive() -> None:
            container = self.engine.state()
            if container is None:
                raise NotAnsweringError(f"there is no container {self.config.container}; run provision first")
            if not container.running:
                words = self.engine.last_words() or "its log is empty"
                raise NotAnsweringError(f"Redis' container {self.config.container} is {container.status}: {words}")

        return server.wait_until_ready(self.config.timeouts.start, alive=alive)

    def check_volume(self) -> None:
        """Refuse to work on the root disk because the data volume is not there.

        Raises:
            KeeperError: it is not mounted, or Redis' directory is missing.
        """
        config = self.config
        if config.require_mount and not self.machine.is_mounted(config.volume_path):
            raise KeeperError(f"the data volume is not mounted at {config.volume_path}; run provision, or mount it")
        if not config.redis_directory.is_dir():
            raise KeeperError(f"Redis' directory {config.redis_directory} does not exist; run provision first")


def build_context(config: Config, report: Callable[[str], None] = no_report, *, read_timeout: int = 60) -> Context:
    """The parts of a real host; `read_timeout` is how many seconds AWS may be silent."""
    machine = LinuxMachine(run_command, read_metadata=lambda path: metadata(path, config.metadata_url))
    return Context(
        config=config,
        engine=DockerEngine(run_command, config.container, config.image),
        machine=machine,
        volume=VolumeStore(config.backups_directory, config.environment),
        s3=S3Store(
            lambda: adding(make_client("s3", config.region, config.endpoint_url, config.dualstack, read_timeout)),
            config.bucket,
            config.s3_prefix,
            config.environment,
        ),
        ebs=EbsStore(
            lambda: make_client("ec2", config.region, config.endpoint_url, config.dualstack, read_timeout),
            config.environment,
            config.volume_path,
            config.backups_directory,
            machine,
            config.timeouts.volume,
        )
        if config.ebs_snapshots
        else None,
        guard=KernelGuard(run_command, config.redis_port, config.redis_uid) if config.guard else NoGuard(run_command),
        leases=build_outside(config).leases,
        boot_id=boot_id(),
        report=report,
    )
