# SPDX-License-Identifier: GPL-3.0-or-later
"""The Redis password is nowhere that another user, a log or a process list could show it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import redis

from dev import keys
from dev.sandboxes import Host, Sandbox
from dev.work import ROOT, tool
from tests.watched import Watched

# Looks on the host, as root, for files that other users may read and that hold the password.
FIND_READABLE = """
grep -rlsF --devices=skip --binary-files=text -f /dev/stdin \
  $(for d in /etc /srv /var /opt /usr/local /home /root /tmp /run; do [ -e "$d" ] && echo "$d"; done) 2>/dev/null \
  | grep -v '^/var/lib/docker/overlay2/' | while read -r file; do
    [ -n "$(find "$file" -maxdepth 0 -perm /o=r 2>/dev/null)" ] && runuser -u nobody -- test -r "$file" && echo "$file"
  done
true
"""


@pytest.fixture(scope="module")
def run(provisioned: Sandbox, watched: Watched) -> tuple[Sandbox, Host, str]:
    """Everything a person does, as talkative as it can be: after provision change a setting, back up, restore."""
    watched.play(provisioned, "provision", "--diff", "-e", '{"redis_settings": {"maxclients": 200}}')
    watched.play(provisioned, "backup")
    # Which also takes the setting back.
    watched.play(provisioned, "restore", "--diff", "-e", "restore_force=true")
    return provisioned, provisioned.host(), watched.said


def pieces(password: str) -> list[str]:
    """The password as it is, and as the formats on the way would write it."""
    return [password, password.replace("\\", "\\\\"), password.split("'")[0]]


def test_redis_really_uses_it(run: tuple[Sandbox, Host, str], password: str) -> None:
    _, host, _ = run
    with redis.Redis(host=host.ip, username=keys.USERNAME, password=password) as client:
        assert client.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.config_get("*")
    for given in (None, password):
        with redis.Redis(host=host.ip, password=given) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()


def test_no_log_and_no_diff_shows_it(run: tuple[Sandbox, Host, str], password: str) -> None:
    sandbox, _, said = run
    assert len(said) > 10_000
    for piece in pieces(password):
        assert piece not in said
        for log in sandbox.logs.rglob("*"):
            assert piece not in log.read_text(errors="replace"), log


def test_no_process_list_showed_it(run: tuple[Sandbox, Host, str], password: str, watched: Watched) -> None:
    assert any(re.search("(redis|valkey)-server", line) for line in watched.process_lists)
    for piece in pieces(password):
        assert not [line for line in watched.process_lists if piece in line]


def test_the_hosts_journal_and_docker_do_not_show_it(run: tuple[Sandbox, Host, str], password: str) -> None:
    sandbox, host, _ = run
    for command in (
        "docker inspect $(docker ps -aq) $(docker images -q)",
        "docker history --no-trunc $(docker images -q | head -1)",
        "docker logs spotcache-redis 2>&1",
        "journalctl --no-pager",
        "ps -eo args",
        "systemctl show '*' --property=Environment --property=ExecStart --no-pager",
        "cat /proc/*/environ | tr '\\0' '\\n'",
    ):
        done = sandbox.on_host(host, command)
        assert done.stdout.strip(), command
        for piece in pieces(password):
            assert piece not in done.stdout + done.stderr, command


def test_no_file_on_the_host_that_others_may_read_holds_it(run: tuple[Sandbox, Host, str], password: str) -> None:
    sandbox, host, _ = run
    plant = "install -m 0644 /dev/stdin /var/tmp/planted"
    look = FIND_READABLE.replace("-f /dev/stdin", f"-e '{password.split(chr(39))[0]}'")
    assert sandbox.on_host(host, f"printf '%s' '{password.split(chr(39))[0]}' | {plant}").returncode == 0
    assert sandbox.on_host(host, look).stdout.split() == ["/var/tmp/planted"]  # the search itself finds what there is
    sandbox.on_host(host, "rm /var/tmp/planted")
    assert sandbox.on_host(host, look).stdout.split() == []


def test_no_file_on_the_control_node_that_others_may_read_holds_it(
    run: tuple[Sandbox, Host, str], password: str
) -> None:
    needle = pieces(password)[2].encode()
    # The password is younger than this sandbox, and so is every file that can hold it.
    began = Path(run[0].state["ssh_key"]).stat().st_mtime
    folders = [
        ROOT / "build",
        ROOT / ".ansible",
        ROOT / ".cache",
        Path.home() / ".ansible",
        Path("/tmp"),
        Path("/var/tmp"),
    ]
    # os.walk, since other tests run beside this one: a directory of theirs may be gone before it is looked into.
    files = [Path(directory, name) for folder in folders for directory, _, names in os.walk(folder) for name in names]
    assert len(files) > 100
    for path in files:
        try:
            found = path.lstat()
            readable = stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH
            if found.st_ctime < began or not readable or found.st_size > 50_000_000:
                continue
            assert needle not in path.read_bytes(), path
        except (FileNotFoundError, PermissionError):
            continue  # somebody else's temporary file
    state = Path(run[0].state["redis_password_file"])
    assert stat.S_IMODE(state.stat().st_mode) == 0o600


def test_the_inventory_shows_it_only_where_it_must(run: tuple[Sandbox, Host, str], password: str) -> None:
    # `ansible-inventory --list` prints variables as they are written: a lookup, not its result.
    done = subprocess.run(
        [tool("ansible-inventory"), "-i", str(ROOT / "inventories/sandbox"), "--list"],
        env={**os.environ, **run[0].environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert pieces(password)[2] not in done.stdout


def test_the_next_host_has_the_setting_that_was_taken_back(run: tuple[Sandbox, Host, str], password: str) -> None:
    sandbox, host, _ = run
    sandbox.lose_host()
    with sandbox.connect_as_keeper(sandbox.successor(host)) as client:
        assert client.config_get("maxclients") != {"maxclients": "200"}
