"""Talking to Redis, and reading what it says about itself."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from spotcache_keeper.errors import ConfigError, KeeperError
from spotcache_keeper.server.counts import DatabaseCount, Databases
from spotcache_keeper.server.engines import REDIS, version_of


class NotAnsweringError(KeeperError):
    """Redis cannot be reached, or does not answer in time."""


def pauses(first: float = 0.01, longest: float = 0.25) -> Iterator[float]:
    """How long to wait between looking and looking again, without end: short at first, then longer; seconds."""
    pause = first
    while True:
        yield pause
        pause = min(pause * 1.5, longest)


@dataclass(frozen=True)
class ServerState:
    """One answer to INFO: everything in it belongs to the same moment.

    Attributes:
        engine: of the server, `redis` or `valkey`.
        version: of the server, as its own engine counts.
        loading: it still reads its data.
        databases: counts of the databases that are not empty.
        changes: writes since the last successful RDB; after an AOF was loaded, its commands count as well.
        last_save: Unix time of the last RDB; a start counts as one.
        saves: RDB saves begun since the start (Redis 7), or None.
        saving: a background save runs.
        save_ok: the last background save went well.
        aof_enabled: the append-only file is on.
        aof_rewriting: a rewrite of it runs or waits.
        aof_rewrite_ok: the last rewrite went well.
        loaded: keys read from an RDB at the start (Redis 7), or None.
        loaded_expired: keys left out of it since they had expired (Redis 7), or None.
        gone: keys that expired or were evicted since the start.
        data_bytes: memory the data takes.
        started_seconds: time since the start.
        run: names this run of the server; another one after each start.
    """

    version: str
    loading: bool
    databases: Databases
    changes: int
    last_save: int
    saves: int | None
    saving: bool
    save_ok: bool
    aof_enabled: bool
    aof_rewriting: bool
    aof_rewrite_ok: bool
    loaded: int | None
    loaded_expired: int | None
    gone: int
    data_bytes: int
    started_seconds: int
    run: str = ""
    engine: str = REDIS

    @property
    def keys(self) -> int:
        """Keys in all databases."""
        return sum(count.keys for count in self.databases.values())

    @property
    def saved_since_start(self) -> bool:
        """Whether an RDB was written since the start, so that `changes` counts from that RDB."""
        if self.saves is not None:
            return self.saves > 0
        # LASTSAVE is the start itself until the first save; INFO's own uptime is rounded, hence the second.
        return time.time() - self.last_save + 1 < self.started_seconds


def parse_info(info: Mapping[str, Any]) -> ServerState:
    """The parts of INFO that the keeper uses, from redis-py's dictionary of it."""

    def number(key: str) -> int:
        return int(info.get(key, 0))

    def optional(key: str) -> int | None:
        return int(info[key]) if key in info else None

    engine, version = version_of(info)
    return ServerState(
        engine=engine,
        version=version,
        loading=number("loading") != 0 or number("async_loading") != 0,
        databases={
            int(key[2:]): DatabaseCount(int(value["keys"]), int(value["expires"]))
            for key, value in info.items()
            if key.startswith("db") and key[2:].isdigit() and isinstance(value, Mapping)
        },
        changes=number("rdb_changes_since_last_save"),
        last_save=number("rdb_last_save_time"),
        saves=optional("rdb_saves"),
        saving=number("rdb_bgsave_in_progress") != 0,
        save_ok=info.get("rdb_last_bgsave_status", "ok") == "ok",
        aof_enabled=number("aof_enabled") != 0,
        aof_rewriting=number("aof_rewrite_in_progress") != 0 or number("aof_rewrite_scheduled") != 0,
        aof_rewrite_ok=info.get("aof_last_bgrewrite_status", "ok") == "ok",
        loaded=optional("rdb_last_load_keys_loaded"),
        loaded_expired=optional("rdb_last_load_keys_expired"),
        gone=number("expired_keys") + number("evicted_keys"),
        data_bytes=number("used_memory_dataset"),
        started_seconds=number("uptime_in_seconds"),
        run=str(info.get("run_id", "")),
    )


class Redis:
    """One connection, made at the first command.

    Args:
        host: address of the server.
        port: its TCP port.
        tls_ca: certificate of the authority that the server's must be of, where it speaks TLS. Which names stand in it
            does not count: the server is on this host.
        username: ACL user, or None for the default user.
        password: or None.
        socket: path of a Unix socket, in place of host and port.
        timeout: seconds for connecting and for each answer.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 6379,
        tls_ca: Path | None = None,
        username: str | None = None,
        password: str | None = None,
        socket: Path | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._name = str(socket) if socket else f"{host}:{port}"
        options: dict[str, Any] = {"unix_socket_path": str(socket)} if socket else {"host": host, "port": port}
        if tls_ca is not None:
            options |= {
                "ssl": True,
                "ssl_ca_certs": str(tls_ca),
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": False,
            }
        self._client: Any = redis.Redis(
            username=username,
            password=password,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            decode_responses=True,
            # The keeper decides how long to try; newer releases of the library would else do so on their own.
            retry=Retry(NoBackoff(), 0),
            **options,
        )

    def __enter__(self) -> Redis:  # noqa: PYI034 - typing.Self came with Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def state(self) -> ServerState:
        """What INFO says."""
        return parse_info(self._call("INFO"))

    def background_save(self) -> bool:
        """Ask for a BGSAVE; False when another child process is at work and it must be asked for again.

        Raises:
            KeeperError: Redis refuses for another reason, such as a fork that failed.
        """
        try:
            self._call("BGSAVE")
        except NotAnsweringError:
            raise
        except KeeperError:
            # Redis has one code, ERR, for all that it refuses: what runs tells why.
            state = self.state()
            if state.saving or state.aof_rewriting:
                return False
            # It may just have ended. Another reason is said again.
            self._call("BGSAVE")
        return True

    def save(self, timeout: float) -> None:
        """A save in the foreground: it needs no second process, and nobody is served meanwhile.

        Raises:
            KeeperError: it failed, or did not end in time.
        """
        pool = self._client.connection_pool
        before = pool.connection_kwargs.get("socket_timeout")
        pool.disconnect()
        pool.connection_kwargs["socket_timeout"] = timeout
        try:
            self._call("SAVE")
        finally:
            pool.disconnect()
            pool.connection_kwargs["socket_timeout"] = before

    def pause_writes(self, seconds: float) -> None:
        """Hold back every write for so long: clients wait and get no answer, reads go on."""
        self._call("CLIENT PAUSE", str(int(seconds * 1000)), "WRITE")

    def hold_writes(self, seconds: float) -> str:
        """`pause_writes`, and which run of the server does so; on the same connection, hence the same server."""
        self.pause_writes(seconds)
        return self.state().run

    def drop_clients(self) -> None:
        """Close every other connection, so that clients connect again, to where the name points by then."""
        for kind in ("normal", "pubsub"):
            self._call("CLIENT KILL", "TYPE", kind, "SKIPME", "yes")

    def go_on(self) -> None:
        """Undo `pause_writes`."""
        self._call("CLIENT UNPAUSE")

    def setting(self, name: str) -> str | None:
        """A directive as the server has it, or None where CONFIG is not allowed."""
        try:
            answer = self._call("CONFIG GET", name)
        except NotAnsweringError:
            raise
        except KeeperError:
            return None
        pairs = dict(zip(answer[::2], answer[1::2], strict=True)) if isinstance(answer, list) else dict(answer)
        value = pairs.get(name)
        return None if value is None else str(value)

    def set_setting(self, name: str, value: str) -> None:
        """Change a directive of the running server."""
        self._call("CONFIG SET", name, value)

    def shut_down(self) -> None:
        """End the server without a save; its append-only file is written to the end."""
        try:
            self._client.execute_command("SHUTDOWN", "NOSAVE")
        except redis.ConnectionError:
            return
        except redis.RedisError as error:
            raise KeeperError(f"Redis at {self._name} does not shut down: {error}") from error

    def wait_until_ready(
        self, timeout: float, *, alive: Callable[[], None] = lambda: None, sleep: Callable[[float], None] = time.sleep
    ) -> ServerState:
        """Wait until Redis has loaded its data and answers.

        Args:
            timeout: seconds.
            alive: called between the tries; raises when waiting has become pointless.
            sleep: waits that many seconds.

        Raises:
            NotAnsweringError: the time is over.
        """
        deadline = time.monotonic() + timeout
        for pause in pauses():
            try:
                state = self.state()
                if not state.loading:
                    return state
                reason = "it is still loading its data"
            except NotAnsweringError as error:
                reason = str(error)
            if time.monotonic() >= deadline:
                raise NotAnsweringError(f"Redis was not ready within {timeout:.0f} s: {reason}")
            alive()
            sleep(pause)
        raise AssertionError("pauses never end")

    def _call(self, *command: str) -> Any:
        """One command; the library's errors become ours."""
        try:
            return self._client.execute_command(*command)
        except redis.BusyLoadingError as error:
            raise NotAnsweringError(f"Redis at {self._name} is still loading its data") from error
        except redis.RedisError as error:
            # By the text: which class a refused password has differs between releases of the library.
            text = str(error)
            if isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
                raise ConfigError(
                    f"Redis at {self._name} refuses the keeper's password ({text}): redis_password_file does not hold "
                    "the password Redis was started with; run provision"
                ) from error
            if isinstance(error, redis.exceptions.NoPermissionError):
                raise ConfigError(f"Redis at {self._name} does not let the keeper do {command[0]}: {text}") from error
            if isinstance(error, redis.ConnectionError | redis.TimeoutError):
                raise NotAnsweringError(f"Redis at {self._name} does not answer: {text}") from error
            raise KeeperError(f"Redis at {self._name} refuses {command[0]}: {text}") from error


def save_in_foreground(server: Redis, timeout: float) -> ServerState:
    """A save without a fork, for when Redis has no memory for one and nobody is served anyway.

    Raises:
        KeeperError: it was refused, failed, or did not end in time.
    """
    before = server.state()
    if before.saves is None:
        while time.time() < before.last_save + 1:
            time.sleep(0.1)
    server.save(timeout)
    state = _same_run(before, server.state())
    if not state.save_ok or (state.saves == before.saves if state.saves is not None else False):
        raise KeeperError("SAVE was answered, but Redis does not say that it saved")
    return state


def save_in_background(
    server: Redis,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ServerState:
    """A background save that began after this call, seen finished.

    A save or AOF rewrite that runs already is waited for first: what it writes is older than the request.

    Args:
        server: the server.
        timeout: seconds for all of it.
        clock: a monotonic clock, in seconds.
        sleep: waits that many seconds.

    Returns:
        The server's state after the save.

    Raises:
        KeeperError: it was refused, failed, or did not end in time.
    """
    deadline = clock() + timeout
    first: ServerState | None = None

    def poll(what: str) -> ServerState:
        if clock() >= deadline:
            raise KeeperError(f"{what} did not end within {timeout:.0f} s")
        nonlocal first
        state = server.state()
        if state.loading:
            sleep(0.2)
        first = first or state
        return _same_run(first, state)

    before = poll("Redis' loading")
    while before.saving or before.aof_rewriting or before.loading:
        sleep(0.1)
        before = poll("a save or rewrite that already ran")
    if before.saves is None:
        # LASTSAVE counts whole seconds: a save within the same second as the last one would look like none.
        while time.time() < before.last_save + 1:
            sleep(0.1)
            poll("the second of the last save, by Redis' clock,")
    while not server.background_save():
        sleep(0.2)
        poll("another child process of Redis")
    for pause in pauses():
        state = poll("BGSAVE")
        if not state.saving:
            if before.saves is not None and state.saves is not None:
                begun = state.saves != before.saves
            else:
                begun = state.last_save > before.last_save or not state.save_ok
            if begun and state.save_ok:
                return state
            if begun:
                raise KeeperError(
                    "BGSAVE failed (Redis says rdb_last_bgsave_status:err): its log has the reason, mostly a full disk "
                    "or no memory for the fork (vm.overcommit_memory)"
                )
        sleep(pause)
    raise AssertionError("pauses never end")


def _same_run(before: ServerState, after: ServerState) -> ServerState:
    """The later of two answers.

    Raises:
        NotAnsweringError: the server was started anew between them: what it saves now is not what it held then.
    """
    if before.run != after.run:
        raise NotAnsweringError("Redis was started anew while it was to save")
    return after
