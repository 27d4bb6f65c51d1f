# SPDX-License-Identifier: GPL-3.0-or-later
"""What Docker is asked, and what becomes of its answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from spotcache_keeper.errors import DamagedError, KeeperError
from spotcache_keeper.server.container import SCRATCH_NAME, DockerEngine
from spotcache_keeper.system.commands import Completed

from tests.unit.keeper.examples import Docker

RUNNING = Completed(0, '{"Status":"running","ExitCode":0}\tsha256:abc\t["redis-server","/etc/redis/redis.conf"]\n', "")
VALKEY = Completed(0, RUNNING.stdout.replace("redis-server", "valkey-server"), "")


def test_the_state_of_the_container() -> None:
    state = DockerEngine(Docker([("docker container inspect", RUNNING)]), "r", "i").state()
    assert state is not None
    assert (state.running, state.image, state.engine) == (True, "sha256:abc", "redis")
    missing = Completed(1, "", "Error: No such container: r")
    assert DockerEngine(Docker([("docker container inspect", missing)]), "r", "i").state() is None
    down = Completed(1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
    with pytest.raises(KeeperError, match="docker cannot say how r is: Cannot connect"):
        DockerEngine(Docker([("docker container inspect", down)]), "r", "i").state()
    with pytest.raises(KeeperError, match="something unexpected"):
        DockerEngine(Docker([("docker container inspect", Completed(0, "{}", ""))]), "r", "i").state()


def test_a_check_runs_apart_from_redis_with_its_own_image(tmp_path: Path) -> None:
    rdb = tmp_path / "dump.rdb"
    rdb.touch()
    docker = Docker([("docker container inspect", RUNNING), ("docker run", Completed(0, "fine", ""))])
    assert DockerEngine(docker, "r", "i").check_rdb(rdb, timeout=5).stdout == "fine"
    command = " ".join(docker.asked[-1])
    assert command.startswith("docker run --rm --pull never --network none --read-only --cap-drop ALL")
    assert f"--user {os.getuid()}:{os.getgid()}" in command
    assert f"source={rdb},target=/check.rdb,readonly" in command
    assert command.endswith("--entrypoint redis-check-rdb sha256:abc /check.rdb")


@pytest.mark.parametrize(("found", "engine"), [(RUNNING, "redis"), (VALKEY, "valkey")])
def test_checks_and_scratch_servers_are_the_containers_own_engine(
    tmp_path: Path, found: Completed, engine: str
) -> None:
    docker = Docker([("docker container inspect", found)])
    DockerEngine(docker, "r", "i").check_rdb(tmp_path, timeout=5)
    assert f"--entrypoint {engine}-check-rdb sha256:abc" in " ".join(docker.asked[-1])
    with DockerEngine(docker, "r", "i").scratch(tmp_path, []):
        assert f"--entrypoint {engine}-server sha256:abc" in " ".join(docker.asked[-1])


@pytest.mark.parametrize(
    ("image", "program"),
    [
        (Completed(1, "", "No such image"), "redis-check-rdb"),
        (Completed(0, "null\n", ""), "redis-check-rdb"),
        (Completed(0, '["valkey-server"]\n', ""), "valkey-check-rdb"),
    ],
)
def test_without_a_container_the_configured_image_is_used(tmp_path: Path, image: Completed, program: str) -> None:
    missing = Completed(1, "", "Error: No such container: r")
    docker = Docker([("docker container inspect", missing), ("docker image inspect", image)])
    DockerEngine(docker, "r", "my/image:1").check_rdb(tmp_path, timeout=5)
    assert docker.asked[-1][-3:-1] == [program, "my/image:1"]


@pytest.mark.parametrize("code", [125, 126, 127, 137])
def test_a_check_that_could_not_run_says_nothing_about_the_file(tmp_path: Path, code: int) -> None:
    refused = Completed(code, "", "docker: Error response from daemon: No such image: my/image:1.")
    docker = Docker([("docker container inspect", RUNNING), ("docker run", refused)])
    with pytest.raises(KeeperError, match=r"could not be run: .*No such image: my/image:1") as caught:
        DockerEngine(docker, "r", "i").check_rdb(tmp_path, timeout=5)
    assert not isinstance(caught.value, DamagedError)


def test_a_scratch_server_is_removed_whatever_happens(tmp_path: Path) -> None:
    docker = Docker([("docker container inspect", RUNNING)])
    engine = DockerEngine(docker, "r", "i")

    def use() -> None:
        with engine.scratch(tmp_path, ["--appendonly", "no"]) as socket:
            assert socket == tmp_path / "keeper.sock"
            started = " ".join(docker.asked[-1])
            assert f"--name {SCRATCH_NAME} --pull never --network none" in started
            assert started.endswith("--port 0 --unixsocket /data/keeper.sock --appendonly no")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert docker.asked[-1] == ["docker", "rm", "--force", SCRATCH_NAME]


def test_docker_that_refuses_is_quoted() -> None:
    no = Completed(1, "", "Error response from daemon: no")
    engine = DockerEngine(
        Docker([("docker start", no), ("docker stop", no), ("docker kill", no), ("docker rm", no)]), "r", "i"
    )
    for call, words in (
        (engine.start, "cannot start r"),
        (lambda: engine.stop(5), "cannot stop r"),
        (engine.kill, "cannot kill r"),
        (engine.remove_scratch, "cannot remove"),
    ):
        with pytest.raises(KeeperError, match=words + ".*: Error response from daemon: no"):
            call()
