"""Redis' container, by way of the docker command.

`Engine` is all that backing up and restoring need of it; `DockerEngine` is the one used on a host.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spotcache_keeper.errors import KeeperError
from spotcache_keeper.server.engines import REDIS, engine_of
from spotcache_keeper.system.commands import Commands, Completed

SCRATCH_NAME = "spotcache-keeper-scratch"
SCRATCH_SOCKET = "keeper.sock"
# The docker command's own work beside what it is asked to do; seconds.
_DOCKER_TIMEOUT = 60.0
_STATE = "{{json .State}}\t{{.Image}}\t{{json .Config.Cmd}}"
# Codes of `docker run` itself (125 to 127), and of a process that the kernel killed for its memory.
_NOT_RUN = frozenset({125, 126, 127, 137})


@dataclass(frozen=True)
class ContainerState:
    """What Docker says about Redis' container.

    Attributes:
        status: Docker's word, such as `running`, `exited`, `restarting`, `created`.
        image: id of the image it was made from.
        exit_code: of its last end.
        engine: what it runs, `redis` or `valkey`.
    """

    status: str
    image: str
    exit_code: int
    engine: str = REDIS

    @property
    def running(self) -> bool:
        """Whether it runs and stays so."""
        return self.status == "running"


class Engine(Protocol):
    """What the keeper needs of the program that runs Redis."""

    def state(self) -> ContainerState | None:
        """The container's state, or None when it does not exist."""

    def start(self) -> None:
        """Start it; nothing happens when it runs.

        Raises:
            KeeperError: it cannot be started.
        """

    def stop(self, timeout: int) -> None:
        """Ask it to end and wait `timeout` seconds before it is killed; nothing happens when it does not run."""

    def kill(self) -> None:
        """End it at once, so that it saves nothing; nothing happens when it does not run.

        Raises:
            KeeperError: it goes on.
        """

    def last_words(self) -> str:
        """The end of its log, on one line, for a message."""

    def check_rdb(self, path: Path, *, timeout: float) -> Completed:
        """The server's own check (redis-check-rdb, valkey-check-rdb) on one file."""

    def scratch(self, directory: Path, options: Sequence[str]) -> AbstractContextManager[Path]:
        """A second server without a network on `directory`; gives the path of its socket, and is gone afterwards."""

    def remove_scratch(self) -> None:
        """Remove what a killed run left of `scratch`."""


class DockerEngine:
    """`Engine` by the docker command.

    Files are checked in a container of their own rather than by `docker exec` in Redis': there, a single huge value
    would count against Redis' memory limit, and the kernel would kill the larger process, which is Redis.
    """

    def __init__(self, run: Commands, container: str, image: str) -> None:
        self._run = run
        self._container = container
        self._image = image

    def state(self) -> ContainerState | None:
        """See `Engine`."""
        done = self._run(
            ["docker", "container", "inspect", "--format", _STATE, self._container],
            timeout=_DOCKER_TIMEOUT,
        )
        if done.returncode != 0:
            if "no such container" in done.stderr.lower():
                return None
            raise KeeperError(f"docker cannot say how {self._container} is: {done.complaint}")
        try:
            text, image, command = done.stdout.strip().split("\t")
            state = json.loads(text)
            return ContainerState(str(state["Status"]), image, int(state["ExitCode"]), engine_of(json.loads(command)))
        except (ValueError, KeyError, TypeError) as error:
            said = done.stdout[:80]
            raise KeeperError(f"docker says something unexpected about {self._container}: {said!r}") from error

    def start(self) -> None:
        """See `Engine`."""
        done = self._run(["docker", "start", self._container], timeout=_DOCKER_TIMEOUT)
        if done.returncode != 0:
            raise KeeperError(f"docker cannot start {self._container}: {done.complaint}")

    def stop(self, timeout: int) -> None:
        """See `Engine`."""
        done = self._run(
            ["docker", "stop", "-t", str(timeout), self._container],
            timeout=timeout + _DOCKER_TIMEOUT,
        )
        if done.returncode != 0:
            raise KeeperError(f"docker cannot stop {self._container}: {done.complaint}")

    def kill(self) -> None:
        """See `Engine`."""
        done = self._run(["docker", "kill", self._container], timeout=_DOCKER_TIMEOUT)
        if done.returncode == 0:
            return
        if "is not running" not in done.stderr:
            raise KeeperError(f"docker cannot kill {self._container}: {done.complaint}")
        state = self.state()
        if state is not None and state.status == "restarting":
            # Between two tries nothing runs that could save, and it would be started again.
            self.stop(0)

    def last_words(self) -> str:
        """See `Engine`."""
        done = self._run(["docker", "logs", "--tail", "5", self._container], timeout=_DOCKER_TIMEOUT)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return " | ".join(lines[-3:])[-400:]

    def check_rdb(self, path: Path, *, timeout: float) -> Completed:
        """See `Engine`."""
        owner = path.stat()
        image, engine = self._image_in_use()
        done = self._run(
            [
                *("docker", "run", "--rm", "--pull", "never", "--network", "none", "--read-only", "--cap-drop", "ALL"),
                *("--user", f"{owner.st_uid}:{owner.st_gid}"),
                *("--mount", f"type=bind,source={path},target=/check.rdb,readonly"),
                *("--entrypoint", f"{engine}-check-rdb", image, "/check.rdb"),
            ],
            timeout=timeout,
        )
        if done.returncode in _NOT_RUN:
            # Says nothing about the file: nobody may take it for damaged and choose an older backup.
            raise KeeperError(f"{engine}-check-rdb of Redis' image could not be run: {done.complaint}")
        return done

    @contextmanager
    def scratch(self, directory: Path, options: Sequence[str]) -> Iterator[Path]:
        """See `Engine`."""
        self.remove_scratch()
        owner = directory.stat()
        image, engine = self._image_in_use()
        try:
            done = self._run(
                [
                    *("docker", "run", "--detach", "--name", SCRATCH_NAME, "--pull", "never", "--network", "none"),
                    *("--read-only", "--cap-drop", "ALL", "--user", f"{owner.st_uid}:{owner.st_gid}"),
                    *("--mount", f"type=bind,source={directory},target=/data"),
                    *("--entrypoint", f"{engine}-server", image),
                    *("--dir", "/data", "--port", "0", "--unixsocket", f"/data/{SCRATCH_SOCKET}", *options),
                ],
                timeout=_DOCKER_TIMEOUT,
            )
            if done.returncode != 0:
                raise KeeperError(f"docker cannot start a scratch server: {done.complaint}")
            yield directory / SCRATCH_SOCKET
        finally:
            self.remove_scratch()

    def remove_scratch(self) -> None:
        """See `Engine`."""
        done = self._run(["docker", "rm", "--force", SCRATCH_NAME], timeout=_DOCKER_TIMEOUT)
        if done.returncode != 0 and "no such container" not in done.stderr.lower():
            raise KeeperError(f"docker cannot remove the scratch server {SCRATCH_NAME}: {done.complaint}")

    def _image_in_use(self) -> tuple[str, str]:
        """What Redis' container was made from, whose name may have moved on to a newer image, and what it runs."""
        state = self.state()
        if state is not None:
            return state.image, state.engine
        done = self._run(
            ["docker", "image", "inspect", "--format", "{{json .Config.Cmd}}", self._image], timeout=_DOCKER_TIMEOUT
        )
        # Without an image either, whoever wants to use it says so.
        return self._image, engine_of(json.loads(done.stdout)) if done.returncode == 0 and done.stdout else REDIS
