"""A host for the keeper's tests: a real redis-server in place of the container, moto in place of S3 and EC2."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import redis
import yaml
from spotcache_keeper.aws.machine import Identity
from spotcache_keeper.backup import switch_data
from spotcache_keeper.backup.create import BackupResult, backup
from spotcache_keeper.backup.restore import Request, RestoreResult, restore
from spotcache_keeper.backup.switch_data import recover
from spotcache_keeper.config import Config, Timeouts, parse_config
from spotcache_keeper.context import Context
from spotcache_keeper.errors import DamagedError
from spotcache_keeper.server.container import SCRATCH_SOCKET, ContainerState
from spotcache_keeper.stores import local as volume_module
from spotcache_keeper.stores.ebs import EbsStore
from spotcache_keeper.stores.local import VolumeStore
from spotcache_keeper.stores.s3 import S3Store
from spotcache_keeper.system.commands import Completed, run_command

from dev.keeper_json import KEEPER_JSON
from dev.ports import Port

REGION = "ap-northeast-1"
ZONE = "ap-northeast-1a"
PASSWORD = "a long password for a test"
ROLE = yaml.safe_load((Path(__file__).resolve().parents[3] / "roles/redis/vars/main.yml").read_text())
KEEPER = ROLE["redis__keeper"]
VOLUME = "vol-0123456789abcdef0"


TIMEOUTS = Timeouts(**KEEPER_JSON["timeouts"])


def make_config(**changes: Any) -> Config:
    """A configuration of which only this is special."""
    return replace(parse_config(KEEPER_JSON, "test"), **changes)


class NativeEngine:
    """`Engine` with this machine's own redis-server; its state is in files, so that another process sees the same."""

    def __init__(self, directory: Path, data: Path, port: int, *, appendonly: bool = False) -> None:
        self._directory = directory
        self._data = data
        self.stops = 0
        # The keeper may do here what it may on a host; who fills and compares may do everything.
        digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
        (directory / "users.acl").write_text(
            f"user default on #{digest} ~* &* +@all\nuser {KEEPER} on #{digest} {ROLE['redis__keeper_rules'].strip()}\n"
        )
        (directory / "redis.conf").write_text(
            f'bind 127.0.0.1\nport {port}\ndir {data}\naclfile {directory / "users.acl"}\nsave ""\nhz 100\n'
            f"enable-protected-configs local\nappendonly {'yes' if appendonly else 'no'}\n"
            f"logfile {directory / 'redis.log'}\n"
        )

    @property
    def pid_file(self) -> Path:
        return self._directory / "redis.pid"

    def _pid(self) -> int | None:
        """The server's process, unless it ended; one that nobody waited for has ended as well.

        Its first thread may be gone while others still hold the port.
        """
        try:
            pid = int(self.pid_file.read_text())
            status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except (OSError, ValueError):
            return None
        return None if status == "Z" and threads == 1 else pid

    def state(self) -> ContainerState | None:
        return ContainerState("running" if self._pid() else "exited", "image", 0)

    def start(self) -> None:
        if self._pid():
            return
        started = subprocess.Popen(
            ["redis-server", str(self._directory / "redis.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        self.pid_file.write_text(str(started.pid))

    def stop(self, timeout: int) -> None:
        self.stops += 1
        pid = self._pid()
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self._pid():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a lost host does."""
        if pid := self._pid():
            os.kill(pid, signal.SIGKILL)
            while self._pid():
                time.sleep(0.01)

    def last_words(self) -> str:
        return " | ".join((self._directory / "redis.log").read_text().splitlines()[-2:])

    def check_rdb(self, path: Path, *, timeout: float) -> Completed:
        return run_command(["redis-check-rdb", str(path)], timeout=timeout)

    @contextmanager
    def scratch(self, directory: Path, options: Sequence[str]) -> Iterator[Path]:
        path = directory / SCRATCH_SOCKET
        argv = ["redis-server", "--dir", str(directory), "--port", "0", "--unixsocket", str(path), *options]
        server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (self._directory / "scratch.pid").write_text(str(server.pid))
        try:
            yield path
        finally:
            server.kill()
            server.wait()
            (self._directory / "scratch.pid").unlink(missing_ok=True)

    def remove_scratch(self) -> None:
        path = self._directory / "scratch.pid"
        if path.exists():
            with suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)
            path.unlink()


class FakeMachine:
    """`Machine` whose EBS volumes are directories: a snapshot is a copy of the backups as they were."""

    def __init__(self, snapshots: Path) -> None:
        self.snapshots = snapshots
        self.client: Any = None
        self.mounted_volume = True
        self.instance_id = "i-0123456789abcdef0"
        self.zone = ZONE
        self.mounts: list[str] = []
        self.left_overs_unmounted = 0
        self.given: dict[str, tuple[int, int]] = {}
        # Of what was given to nobody.
        self.owners = (6379, 6379)

    def identity(self) -> Identity:
        return Identity(self.instance_id, self.zone)

    def is_mounted(self, path: Path) -> bool:  # noqa: ARG002
        return self.mounted_volume

    def volume_id(self, path: Path) -> str:  # noqa: ARG002
        return VOLUME

    def wait_for_volume(self, volume_id: str, timeout: float) -> Path:  # noqa: ARG002
        return Path("/dev") / volume_id

    @contextmanager
    def mounted(self, device: Path) -> Iterator[Path]:
        described = self.client.describe_volumes(VolumeIds=[device.name])["Volumes"][0]
        assert described["State"] == "in-use"
        content = self.snapshots / described["SnapshotId"]
        if not content.exists():
            raise DamagedError("the EBS snapshot holds no filesystem")
        self.mounts.append(device.name)
        try:
            yield content
        finally:
            self.mounts.remove(device.name)

    def give(self, path: Path, uid: int, gid: int) -> None:
        self.given[str(path)] = (uid, gid)

    def owner(self, path: Path) -> tuple[int, int]:
        return self.given.get(str(path), self.owners)

    def unmount_left_overs(self) -> None:
        self.left_overs_unmounted += 1


class Ec2WithContent:
    """moto's EC2 client; a snapshot also copies the backups."""

    def __init__(self, client: Any, host: TestHost) -> None:
        self._client = client
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_snapshot(self, **arguments: Any) -> Any:
        answer = self._client.create_snapshot(**{**arguments, "VolumeId": self._host.moto_volume})
        self._host.snapshot_content(answer["SnapshotId"])
        return answer


class NoS3:
    """S3 for tests that have none: it takes everything and holds nothing."""

    name = "s3"
    nearness = 1
    lacks = "not copied to S3"
    at_once = True

    def label(self, copy: str | None) -> str:  # noqa: ARG002
        return "S3"

    def within(self, seconds: float) -> NoS3:  # noqa: ARG002
        return self

    def ids(self) -> list[str]:
        return []

    def sources(self) -> list[Any]:
        return []

    def find(self, backup_id: str) -> None:  # noqa: ARG002
        return None

    def put(self, directory: Path, manifest: Any) -> str:  # noqa: ARG002
        return f"s3://none/{manifest.id}/"

    def prune(self, retention: Any) -> Iterator[str]:  # noqa: ARG002
        yield from ()


@dataclass
class TestHost:
    """One host: a data volume, a Redis, and the keeper's parts.

    Attributes:
        directory: everything of it.
        port: of its Redis.
        appendonly: whether redis.conf switches the append-only file on.
    """

    __test__ = False

    directory: Path
    port: int = field(default_factory=Port)
    appendonly: bool = False
    environment: str = "stg"
    moto_volume: str = ""
    steps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in (self.redis_directory, self.directory / "state"):
            path.mkdir(parents=True, exist_ok=True)
        (self.directory / "password").write_text(PASSWORD + "\n")
        (self.directory / "password").chmod(0o600)
        self.engine = NativeEngine(self.directory, self.redis_directory, self.port, appendonly=self.appendonly)
        self.machine = FakeMachine(self.directory / "snapshots")
        self.s3: Any = NoS3()
        self.ebs: EbsStore | None = None
        self.config = make_config(
            environment=self.environment,
            region=REGION,
            bucket="backups",
            volume_path=self.volume_path,
            redis_directory=self.redis_directory,
            container="spotcache-redis",
            image="redis",
            state_directory=self.directory / "state",
            redis_port=self.port,
            redis_username=KEEPER,
            redis_password_file=self.directory / "password",
            appendonly=self.appendonly,
            ebs_snapshots=False,
            timeouts=replace(TIMEOUTS, lock=1, answer=5, backup=30, check=30, start=20, stop=10, volume=5),
        )

    @property
    def volume_path(self) -> Path:
        return self.directory / "volume"

    @property
    def redis_directory(self) -> Path:
        return self.volume_path / "redis"

    @property
    def backups(self) -> Path:
        return self.volume_path / "backups"

    def use_aws(self, s3: Any, ec2: Any, *, multipart_bytes: int = 32 * 1024 * 1024) -> None:
        """Give the host moto's S3 and EC2."""
        self.s3 = S3Store(lambda: s3, "backups", self.config.s3_prefix, self.environment, multipart_bytes)
        self.machine.client = ec2
        wrapped = Ec2WithContent(ec2, self)
        self.ebs = EbsStore(
            lambda: wrapped,
            self.environment,
            self.volume_path,
            self.backups,
            self.machine,
            5,
            sleep=lambda _seconds: None,
        )
        self.config = replace(self.config, ebs_snapshots=True)

    def snapshot_content(self, snapshot_id: str) -> None:
        """What a snapshot of the volume contains."""
        shutil.copytree(self.backups, self.machine.snapshots / snapshot_id / "backups")

    def context(self, **changes: Any) -> Context:
        """The keeper's parts."""
        self.steps.clear()
        parts: dict[str, Any] = {
            "config": self.config,
            "engine": self.engine,
            "machine": self.machine,
            "volume": VolumeStore(self.config.backups_directory, self.environment),
            "s3": self.s3,
            "ebs": self.ebs,
            "report": self.steps.append,
        }
        return Context(**{**parts, **changes})

    def start(self) -> None:
        """Start Redis and wait until it is ready."""
        self.engine.start()
        with self.context().redis() as server:
            server.wait_until_ready(20)

    def client(self, database: int = 0) -> Any:
        """A client of its Redis."""
        return redis.Redis(port=self.port, password=PASSWORD, db=database, decode_responses=True)

    def fill(self, mark: str, keys: int = 60) -> None:
        """All five classic types, with and without a time to live, in three databases."""
        for database in (0, 3, 15):
            with self.client(database) as client, client.pipeline(transaction=False) as pipe:
                for number in range(keys):
                    name = f"{mark}:{number}"
                    pipe.set(f"s:{name}", f"value {mark} {number}", ex=3600 if number % 3 == 0 else None)
                    pipe.hset(f"h:{name}", mapping={"a": mark, "b": str(number)})
                    pipe.rpush(f"l:{name}", mark, number)
                    pipe.sadd(f"e:{name}", mark, number)
                    pipe.zadd(f"z:{name}", {mark: number, "other": number + 0.5})
                    if number % 4 == 0:
                        pipe.expire(f"h:{name}", 3600)
                pipe.execute()

    def content(self) -> dict[str, Any]:
        """Every key's value and whether it has a time to live."""
        read: dict[str, Callable[[Any, str], Any]] = {
            "string": lambda pipe, key: pipe.get(key),
            "hash": lambda pipe, key: pipe.hgetall(key),
            "list": lambda pipe, key: pipe.lrange(key, 0, -1),
            "set": lambda pipe, key: pipe.smembers(key),
            "zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
        }
        found: dict[str, Any] = {}
        for database in range(16):
            with self.client(database) as client, client.pipeline(transaction=False) as pipe:
                keys = list(client.scan_iter(count=1000))
                for key in keys:
                    pipe.type(key)
                kinds = pipe.execute()
                for key, kind in zip(keys, kinds, strict=True):
                    read[kind](pipe, key)
                    pipe.ttl(key)
                answers = pipe.execute()
                for key, kind, value, seconds in zip(keys, kinds, answers[::2], answers[1::2], strict=True):
                    found[f"{database}/{key}"] = (kind, value, seconds >= 0)
        return found

    def backup(self, reason: str = "manual", **options: Any) -> BackupResult:
        """One backup."""
        context = self.context()
        recover(context)
        result = backup(context, reason, **options)
        assert result.problems == []
        return result

    def restore(self, wanted: str | None = None, **options: Any) -> tuple[RestoreResult, list[str]]:
        """One restore, and its warnings."""
        context = self.context()
        recover(context)
        return restore(context, Request(wanted, **options)), context.warnings

    def rdb(self, backup_id: str) -> Path:
        """A local backup's RDB."""
        return self.backups / backup_id / "dump.rdb"


def replace_bytes(path: Path, data: bytes) -> None:
    """Change a file's content without touching other links to it."""
    path.unlink()
    path.write_bytes(data)


def flip_bit(path: Path, position: int) -> None:
    """Alter one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    replace_bytes(path, bytes(data))


def kill_after(count: int, only: str | None) -> None:
    """Kill this process at the `count`th moment of a restore: before or after each thing it does to files or Redis."""
    reached = 0

    def moment() -> None:
        nonlocal reached
        if reached == count:
            os.kill(os.getpid(), signal.SIGKILL)
        reached += 1

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            moment()
            result = function(*arguments, **named)
            moment()
            return result

        return call

    steps: list[tuple[Any, str]] = [
        *((switch_data, name) for name in ("write_atomically", "exchange", "_prepare", "_carry_over", "_start")),
        (volume_module, "write_atomically"),
        (NativeEngine, "stop"),
        (NativeEngine, "start"),
        (shutil, "rmtree"),
    ]
    for owner, name in steps:
        if only in (None, name):
            setattr(owner, name, wrapped(getattr(owner, name)))


def restore_until_killed(host: TestHost, backup_id: str, count: int, only: str | None = None) -> bool:
    """Restore in a process of its own that is killed at moment `count`; False when it was over before that.

    With `only`, just the moments before and after calls of that name count.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kill_after(count, only)
            host.restore(backup_id, force=True)
            code = 0
        except BaseException:  # noqa: BLE001 - nothing of the parent may run in this copy of it
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False
