"""What the scenarios' tests share: the host, and another run of the scenario's play with other variables."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Run:
    """What a run of the play did."""

    code: int
    output: str
    failures: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def why(self) -> str:
        """The messages of what failed."""
        return "\n".join(self.failures)


def read_run(code: int, output: str) -> Run:
    """A run from the output of the json callback."""
    start = output.find("{\n")
    if start < 0:
        return Run(code, output)
    answer, _ = json.JSONDecoder().raw_decode(output[start:])
    run = Run(code, output)
    for play in answer["plays"]:
        for task in play["tasks"]:
            for result in task["hosts"].values():
                if result.get("failed"):
                    run.failures.append(str(result.get("msg")))
                if result.get("changed"):
                    run.changed.append(task["task"]["name"].rpartition(" : ")[2])
                if result.get("action") == "ansible.builtin.debug":
                    run.said.append(str(result.get("msg")))
    return run


@pytest.fixture
def converge() -> Callable[..., Run]:
    """Run the scenario's play again, with other variables."""

    def again(*options: str, plain: bool = False, **variables: Any) -> Run:
        environment = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "default" if plain else "ansible.posix.json"}
        scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
        argv = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], *options]
        argv += ["-e", json.dumps(variables), str(scenario / "converge.yml")]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
        return read_run(done.returncode, done.stdout + done.stderr)

    return again


class Redis:
    """The Redis in its container on a host."""

    name = "spotcache-redis"

    def __init__(self, host: Any, password: str, port: int) -> None:
        """Remember how to log in."""
        self.host = host
        self.password = password
        self.port = port

    @property
    def engine(self) -> str:
        """Which server it is, by what its container starts."""
        return str(self.inspect()["Config"]["Cmd"][0]).removesuffix("-server")

    def __call__(self, *command: str, user: str = "app", password: str | None = None) -> str:
        """The answer to a command; an error of the server is returned as its text."""
        secret = self.password if password is None else password
        words = " ".join(shlex.quote(word) for word in command)
        login = f"--user {user} --no-auth-warning" if secret else ""
        environment = f"REDISCLI_AUTH={shlex.quote(secret)}" if secret else "NOTHING=1"
        cli = f"{self.name} {self.engine}-cli -p {self.port}"
        done = self.host.run(f"docker exec -e {environment} {cli} {login} {words}")
        return str(done.stdout + done.stderr).strip()

    def keeper(self, *command: str) -> str:
        """The answer to a command of the keeper's, which no application may give."""
        return self(*command, user="keeper", password=self.keeper_password())

    def keeper_password(self) -> str:
        """What the keeper alone knows."""
        return str(self.host.file("/etc/spotcache/keeper-password").content_string).strip()

    def setting(self, name: str) -> str:
        """A live setting."""
        return self.keeper("CONFIG", "GET", name).removeprefix(name).strip()

    def inspect(self) -> dict[str, Any]:
        """What the engine says of the container."""
        answer: list[dict[str, Any]] = json.loads(self.host.check_output(f"docker inspect {self.name}"))
        return answer[0]

    def started(self) -> str:
        """When the server was started: equal means that it was not restarted."""
        return str(self.inspect()["State"]["StartedAt"])


@pytest.fixture
def redis(host: Any) -> Redis:
    """The Redis of the scenario."""
    inventory = host.ansible.get_variables()
    return Redis(host, inventory["scenario_password"], int(inventory.get("scenario_port", 6379)))


# As whom the keeper asks the S3 below; on EC2 the metadata service says so.
CREDENTIALS = "AWS_EC2_METADATA_DISABLED=true AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x"


class Keeper:
    """The keeper on a host."""

    def __init__(self, host: Any) -> None:
        """Remember the host."""
        self.host = host

    def __call__(self, *words: str, code: int = 0) -> dict[str, Any]:
        """The answer to a command, which has to end with that code."""
        done = self.host.run(f"{CREDENTIALS} spotcache-keeper {' '.join(words)} --json")
        assert done.rc == code, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def backups(self) -> list[tuple[str, str, bool]]:
        """What there is to restore from, the newest first: id, where it lies, whether it is verified."""
        return [(one["id"], one["where"], one["verified"]) for one in self("list")["sources"]]


@pytest.fixture
def keeper(host: Any, s3: str) -> Keeper:
    """The keeper of the scenario, which reaches its bucket."""
    assert s3
    return Keeper(host)


@pytest.fixture(scope="module")
def s3(host: Any) -> Iterator[str]:
    """S3 in the host's network, where the scenario's keeper_endpoint_url is: moto, with the bucket."""
    variables = host.ansible.get_variables()
    find = ["docker", "inspect", "--format", "{{ .State.Pid }}", variables["inventory_hostname"]]
    pid = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    argv = ["nsenter", "--net", "--target", pid, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "4566"]
    url = f"http://127.0.0.1:4566/{variables['scenario_bucket']}"
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + 60
            while host.run(f"curl --silent --fail --request PUT {url}").rc:
                assert server.poll() is None, "moto has ended"
                assert time.monotonic() < end, "moto does not answer"
                time.sleep(0.3)
            yield url
        finally:
            server.terminate()
