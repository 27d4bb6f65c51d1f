"""Artisan where an application lives: what is refused, what is shown while it runs, what its end comes to."""

from __future__ import annotations

import base64
import getpass
import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.action import artisan as action
from ansible_collections.spotcache.redis.plugins.modules import artisan as module

# Stands in for Docker's client, whose daemon need not run here.
DOCKER = """#!/bin/sh
echo "Error response from daemon: No such container" >&2
exit 1
"""
# Stands in for PHP with an artisan: it is called as `php artisan --no-ansi COMMAND ...`.
PHP = r"""#!/bin/sh
shift 2
[ "$1" = --no-interaction ] && shift
command=$1; shift
case "$command" in
list) [ -e broken ] && { echo "The environment file is invalid!" >&2; exit 1; }
  printf 'batch:fail   Fails\nbatch:long   Long\nbatch:slow   Slow\nbatch:warm   Fills\nlist   Lists\n' ;;
help) [ "$1" = batch:hidden ] ;;
batch:warm) echo "in $(pwd)"; for word; do echo "[$word]"; done ;;
batch:slow) for i in 1 2 3 4; do echo "item $i"; sleep 0.3; done ;;
batch:long) echo begun; exec sleep 30 ;;
batch:fail) echo "the password is s3cret" >&2; exit 3 ;;
*) exit 1 ;;
esac
"""


@pytest.fixture
def application(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "artisan").write_text("#!/usr/bin/env php\n")
    php = tmp_path / "php"
    php.write_text(PHP)
    php.chmod(0o755)
    return {
        "application": "shop",
        "path": str(folder),
        "php": str(php),
        "user": getpass.getuser(),
        "directory": str(tmp_path / "state"),
    }


def run(capsys: pytest.CaptureFixture[str], parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    with patch_module_args({**parameters, **more}), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def of_session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(ProcessLookupError):
            if os.getsid(int(name)) == leader:
                found.append(int(name))
    return found


class Here(action.ActionModule):  # type: ignore[misc,unused-ignore] # Ansible has no type hints
    """The action plugin with this machine's shell for its connection."""

    def __init__(self) -> None:
        self.fails = 0

    def _low_level_execute_command(self, cmd: str) -> dict[str, Any]:
        if self.fails:
            self.fails -= 1
            raise AnsibleConnectionFailure("the connection is gone")
        return {"stdout": subprocess.run(["sh", "-c", cmd], capture_output=True, text=True, check=True).stdout}


def follow(
    started: dict[str, Any], limit: int = 60, hidden: list[str] | None = None, fails: int = 0
) -> tuple[dict[str, Any], list[tuple[float, str]]]:
    shown: list[tuple[float, str]] = []
    lines = action.Lines(lambda line: shown.append((time.monotonic(), line)), hidden or [])
    here = Here()
    here.fails = fails
    return here.follow(started, limit, lines, "shop batch"), shown


def test_a_command_runs_and_its_words_arrive_as_they_are(
    application: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--chunk=5", "a b", "it's $HOME", ";exit 1"]
    started = run(capsys, application, command="batch:warm", arguments=words)
    assert started["changed"], started
    told, shown = follow(started)
    assert told["code"] == 0
    assert [line for _, line in shown] == [f"in {application['path']}", *(f"[{word}]" for word in words)]
    assert told["lines"] == [line for _, line in shown]
    assert 0 < told["seconds"] < 30
    assert oct(Path(told["log"]).stat().st_mode & 0o777) == "0o600"


def test_lines_are_shown_while_it_runs(application: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    told, shown = follow(run(capsys, application, command="batch:slow"))
    assert [line for _, line in shown] == ["item 1", "item 2", "item 3", "item 4"]
    assert shown[-1][0] - shown[0][0] > 0.3
    assert told["code"] == 0


def test_a_failure_says_its_last_line_without_secrets(
    application: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    told, shown = follow(run(capsys, application, command="batch:fail"), hidden=["s3cret", ""])
    assert told["failed"]
    assert told["code"] == 3
    assert told["msg"] == "shop batch ended with exit code 3: the password is ********"
    assert "s3cret" not in json.dumps(told) + str(shown)


def test_a_time_limit_ends_it(application: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    told, _ = follow(run(capsys, application, command="batch:long", timeout=1), limit=1)
    assert told["code"] == 124
    assert "was ended after its 1 s: begun" in told["msg"]
    assert time.monotonic() - begun < 20


def test_one_run_at_a_time(application: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, application, command="batch:slow", by="alice@laptop", timeout=60)
    refused = run(capsys, application, command="batch:slow", by="bob@desk")
    assert refused["failed"]
    assert "shop: batch:slow runs already: started by alice@laptop, since 20" in refused["msg"]
    checked = run(capsys, application, state="checked", commands=["batch:slow", "batch:warm"])
    assert checked["problems"] == [refused["msg"]]
    # Another command of the same application may run meanwhile.
    assert follow(run(capsys, application, command="batch:warm"))[0]["code"] == 0
    assert follow(first)[0]["code"] == 0
    assert run(capsys, application, state="checked", commands=["batch:slow"])["problems"] == []
    assert follow(run(capsys, application, command="batch:slow"))[0]["code"] == 0


def test_a_dead_run_holds_no_lock(application: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    started = run(capsys, application, command="batch:long")
    os.kill(started["pid"], 9)
    os.waitpid(started["pid"], 0)
    # `timeout` has a process group of its own, so what the dead one has left is known by its session.
    while left := of_session(started["pid"]):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        time.sleep(0.05)
    told, _ = follow(started)
    assert told["failed"]
    assert "has no exit code: it was killed from outside, or the host restarted" in told["msg"]
    deadline = time.monotonic() + 20
    while problems := run(capsys, application, state="checked", commands=["batch:long"])["problems"]:
        assert time.monotonic() < deadline, problems
    assert run(capsys, application, command="batch:long", timeout=1)["changed"]


def test_a_connection_that_breaks_is_tried_again(
    application: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action, "POLL_S", (0.05, 0.1))
    told, shown = follow(run(capsys, application, command="batch:slow"), fails=3)
    assert told["code"] == 0
    assert len(shown) == 4
    monkeypatch.setattr(action, "PATIENCE_S", 0.2)
    lost, _ = follow(run(capsys, application, command="batch:slow"), fails=99)
    assert "has no exit code: the connection is gone" in lost["msg"]


def test_check_mode_starts_nothing(application: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, application, command="batch:warm", _ansible_check_mode=True)["changed"]
    assert run(capsys, application, state="checked", commands=["batch:warm"])["problems"] == []
    assert not Path(application["directory"]).exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"path": "/nowhere"}, "path is /nowhere, and there is no artisan in it"),
        ({"php": "no-such-php"}, "has no no-such-php: correct php"),
        ({"container": "no-such-container"}, "The container no-such-container does not run on this host"),
        (
            {"commands": ["batch:nope"]},
            "has no artisan command batch:nope; it has batch:fail, batch:long, batch:slow, batch:warm.",
        ),
    ],
)
def test_what_cannot_run_is_said_in_a_sentence(
    application: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    expected: str,
) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    told = run(capsys, {**application, "commands": ["batch:warm", "batch:hidden"], **change}, state="checked")
    assert len(told["problems"]) == 1, told
    assert expected in told["problems"][0]


@pytest.mark.parametrize(
    ("state", "knows", "expected"),
    [
        ("paused", 0, "The container php does not run on this host"),
        ("exited", 0, "The container php does not run on this host"),
        ("running", 1, "user is www-data, and the container php has no such user"),
        ("running", 0, "artisan does not start"),
        # A container without `id` says nothing about its users.
        ("running", 127, "artisan does not start"),
    ],
)
def test_why_a_container_gives_no_answer_is_asked_of_docker(
    application: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    knows: int,
    expected: str,
) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'"container inspect"*) echo {state} ;;\n"exec php id -u www-data") exit {knows} ;;\n'
        "*) echo said in whatever words >&2; exit 1 ;;\nesac\n"
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    asked = {**application, "container": "php", "user": "www-data", "commands": ["batch:warm"]}
    (problem,) = run(capsys, asked, state="checked")["problems"]
    assert expected in problem


def test_an_application_that_does_not_start_says_why(
    application: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(application["path"]) / "broken").touch()
    (problem,) = run(capsys, application, state="checked", commands=["batch:warm"])["problems"]
    assert "artisan does not start" in problem
    assert "The environment file is invalid!" in problem


def test_in_a_container_it_runs_as_the_php_user() -> None:
    parameters = {"container": "php", "user": "www-data", "path": "/srv/app"}
    argv = module.inside(parameters, ["timeout", "5", "php"], 0)
    assert argv[:5] == ["docker", "exec", "--user", "www-data", "php"]
    assert argv[-4:] == ["/srv/app", "timeout", "5", "php"]
    on_host = module.inside({**parameters, "container": ""}, ["php"], 0)
    assert on_host[:4] == ["runuser", "-u", "www-data", "--"]
    assert module.inside({**parameters, "container": ""}, ["php"], 1000)[0] == "sh"


# The watching alone


def test_lines_that_come_in_pieces() -> None:
    shown: list[str] = []
    lines = action.Lines(shown.append, ["pass"])
    for piece in (b"on", b"e\ntwo\r", b"3%\rpa", b"ss \xe2\x98", b"\x83 \x1b[31m\n\n", b"end"):
        lines.feed(piece)
    assert shown == ["one", "two", "3%", "******** ☃  [31m"]
    lines.feed(b"", end=True)
    assert shown[-1] == "end"
    assert lines.offset == sum(map(len, (b"one\ntwo\r3%\rpass \xe2\x98\x83 \x1b[31m\n\nend",)))
    lines.feed(b"x" * 1000 + b"\n")
    assert len(shown[-1]) == action.LINE_LENGTH
    for number in range(50):
        lines.feed(f"{number}\n".encode())
    assert list(lines.last) == [str(number) for number in range(35, 50)]


def test_what_a_look_says() -> None:
    assert action.seen(f"alive \n{base64.b64encode(b'hello').decode()}\n") == (True, None, b"hello")
    assert action.seen("gone 3 12.5\n\n") == (False, (3, 12.5), b"")
    assert action.seen("gone 0 12.N\n\n") == (False, (0, 12.0), b"")
    for text in ("", "sudo: no", "alive \nnot base64!"):
        with pytest.raises(ValueError, match="no answer"):
            action.seen(text)
