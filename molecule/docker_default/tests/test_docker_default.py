"""The engine on a bare host, with nothing set."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

DAEMON = "/etc/docker/daemon.json"


def settings(host: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(host.file(DAEMON).content_string)
    return answer


def engine(host: Any) -> str:
    """The engine's process, which a restart replaces."""
    return str(host.check_output("systemctl show --property MainPID --value docker"))


def test_the_engine_runs_and_starts_with_the_host(host: Any) -> None:
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled
    assert host.package("docker.io").is_installed


def test_logs_are_rotated_and_containers_survive_a_restart(host: Any) -> None:
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert info["LoggingDriver"] == "json-file"
    assert info["LiveRestoreEnabled"] is True
    assert settings(host)["log-opts"] == {"max-file": "3", "max-size": "10m"}


def test_modules_find_their_library(host: Any) -> None:
    assert host.run("/usr/bin/python3 -c 'import requests'").rc == 0


def test_a_reloadable_setting_is_reloaded_and_other_keys_stay(host: Any, converge: Callable[..., Any]) -> None:
    host.check_output(f"""python3 -c '
import json
path = "{DAEMON}"
settings = json.load(open(path))
settings["registry-mirrors"] = ["https://mirror.example"]
json.dump(settings, open(path, "w"))'""")
    before = engine(host)
    run = converge(docker_daemon_settings={"max-concurrent-downloads": 2})
    assert run.code == 0, run.why
    assert engine(host) == before
    assert "Reload what can be reloaded" in run.changed
    assert settings(host)["registry-mirrors"] == ["https://mirror.example"]
    assert settings(host)["max-concurrent-downloads"] == 2
    assert converge(docker_daemon_settings={"max-concurrent-downloads": 2}).changed == []
    removed = converge(docker_daemon_settings={"max-concurrent-downloads": None, "registry-mirrors": None})
    assert removed.code == 0, removed.why
    assert set(settings(host)) == {"live-restore", "log-driver", "log-opts"}


def test_settings_that_do_not_start_are_taken_back(host: Any, converge: Callable[..., Any]) -> None:
    before = host.file(DAEMON).content_string
    run = converge(docker_daemon_settings={"no-such-setting": True})
    assert run.code != 0
    assert "no-such-setting" in run.why
    assert "docker_daemon_settings" in run.why
    assert host.file(DAEMON).content_string == before
    assert host.service("docker").is_running


def test_an_address_of_its_own_is_refused(converge: Callable[..., Any]) -> None:
    run = converge(docker_daemon_settings={"hosts": ["tcp://0.0.0.0:2375"]})
    assert run.code != 0
    assert 'remove "hosts" from docker_daemon_settings' in run.why


def test_a_broken_file_is_named(host: Any, converge: Callable[..., Any]) -> None:
    before = host.file(DAEMON).content_string
    host.check_output(f"cp -p {DAEMON} /root/daemon.json && echo '{{' > {DAEMON}")
    try:
        run = converge()
        assert run.code != 0
        assert "/etc/docker/daemon.json is not valid JSON" in run.why
        assert host.file(DAEMON).content_string == "{\n"
    finally:
        host.check_output(f"cp -p /root/daemon.json {DAEMON}")
    assert host.file(DAEMON).content_string == before
