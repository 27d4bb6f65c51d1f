"""The engine from a vendor's repository, without live restore: what happens to containers that run."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PENDING = "/run/spotcache-docker-restart-pending"
# An image without a registry: one program and what it loads.
SLEEPER = """
set -eu
tar -C / -ch bin/sleep lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6 | docker import - sleeper:1
docker run --detach --stop-signal KILL --name sleeper sleeper:1 /bin/sleep 1000000
"""


def engine(host: Any) -> str:
    return str(host.check_output("systemctl show --property MainPID --value docker"))


def started(host: Any) -> str:
    """When the container started, and whether it runs."""
    return str(host.check_output("docker inspect --format '{{.State.StartedAt}} {{.State.Running}}' sleeper"))


@pytest.fixture
def sleeper(host: Any) -> Iterator[None]:
    """A container that runs."""
    host.check_output(f"sh -c '{SLEEPER}'")
    yield
    host.check_output("docker rm --force sleeper")


def test_the_vendors_packages_are_installed_from_a_signed_source(host: Any) -> None:
    assert host.package("docker-ce").version == "1:99.0"
    assert host.package("containerd.io").is_installed
    source = host.file("/etc/apt/sources.list.d/docker.sources").content_string
    assert "Signed-By: /srv/vendor/key.asc" in source
    assert "Trusted" not in source
    assert host.service("docker").is_running


def test_settings_are_in_force(host: Any) -> None:
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert info["LiveRestoreEnabled"] is False
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert settings["log-opts"] == {"max-file": "5", "max-size": "1m"}


@pytest.mark.usefixtures("sleeper")
def test_running_containers_are_not_stopped_by_surprise(host: Any, converge: Callable[..., Any]) -> None:
    engine_before, container_before = engine(host), started(host)
    run = converge(docker_log_max_files=7)
    assert run.code == 0, run.why
    assert (engine(host), started(host)) == (engine_before, container_before)
    assert any("docker_restart_allowed=true" in text and "log-opts" in text for text in run.said)

    # It is remembered, and said again, until somebody allows it.
    later = converge(docker_log_max_files=7)
    assert later.changed == []
    assert any("docker_restart_allowed=true" in text for text in later.said)
    assert (engine(host), started(host)) == (engine_before, container_before)

    allowed = converge(docker_log_max_files=7, docker_restart_allowed=True)
    assert allowed.code == 0, allowed.why
    assert engine(host) != engine_before
    assert not host.file(PENDING).exists
    assert converge(docker_log_max_files=7).changed == []


@pytest.mark.usefixtures("sleeper")
def test_with_live_restore_containers_outlive_a_restart(host: Any, converge: Callable[..., Any]) -> None:
    engine_before, container_before = engine(host), started(host)
    run = converge(docker_live_restore=True, docker_log_max_files=8)
    assert run.code == 0, run.why
    assert engine(host) != engine_before
    assert started(host) == container_before


def test_without_containers_the_engine_is_restarted(host: Any, converge: Callable[..., Any]) -> None:
    before = engine(host)
    run = converge(docker_log_max_files=9)
    assert run.code == 0, run.why
    assert engine(host) != before
