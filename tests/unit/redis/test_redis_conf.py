"""redis.conf as data: what is read and written is what the server reads."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import docker_engine, redis_conf
from ansible_collections.spotcache.redis.plugins.modules import redis_config
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.redis.support import redis_server

FATAL = """
*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***
Reading the configuration file, at line {line}
>>> '{text}'
{reason}
"""


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_what_is_quoted_is_read_back(text: str) -> None:
    assert redis_conf.split_args(f"requirepass {redis_conf.quote(text)}") == ["requirepass", text]


@settings(max_examples=8, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=40))
def test_the_server_reads_the_same_password(text: str) -> None:
    check = ["redis-server", *redis_config.SERVER_ARGUMENTS]
    given_text = f"requirepass {redis_conf.quote(text)}\n"
    done = subprocess.run(check, input=given_text, capture_output=True, text=True, check=False)
    assert redis_config.verdict(done.stdout + done.stderr, done.returncode) == ""


def test_a_password_of_every_printable_character_logs_in(tmp_path: Path) -> None:
    password = "".join(chr(code) for code in range(33, 127)) + "äöü漢字"
    with redis_server(tmp_path) as server:
        server.start(secrets=f"requirepass {redis_conf.quote(password)}\n")
        assert server.connect(password).command("PING") == "PONG"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("save 900 1", ["save", "900", "1"]),
        ('save ""', ["save", ""]),
        (r'requirepass "a\"b\\c\x41"', ["requirepass", 'a"b\\cA']),
        (r"requirepass 'a\'b\n'", ["requirepass", r"a'b\n"]),
        ("  port\t6379  ", ["port", "6379"]),
    ],
)
def test_lines_are_split_as_the_server_does(line: str, expected: list[str]) -> None:
    assert redis_conf.split_args(line) == expected


@pytest.mark.parametrize("line", ['a "b', 'a "b"c', "a 'b"])
def test_broken_quotes_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="quote"):
        redis_conf.split_args(line)


def test_the_last_line_counts_unless_lines_add_up() -> None:
    found = redis_conf.parse("# no\nPort 1\nport 2\nsave 900 1\nsave 300 10\n")
    assert found == {"port": [["2"]], "save": [["900", "1"], ["300", "10"]]}
    assert redis_conf.value_of(found["save"]) == "900 1 300 10"
    assert redis_conf.value_of(redis_conf.parse('save ""')["save"]) == ""


@pytest.mark.parametrize(
    ("text", "size"), [("1k", 1000), ("1kb", 1024), ("2GB", 2**31), ("7", 7), ("0", 0), ("x", None), ("1 mb", None)]
)
def test_sizes(text: str, size: int | None) -> None:
    assert redis_conf.parse_size(text) == size


@pytest.mark.parametrize(
    ("name", "wanted", "live", "equal"),
    [
        ("maxmemory", "100mb", "104857600", True),
        ("maxmemory", "100m", "104857600", False),
        ("appendonly", "YES", "yes", True),
        ("notify-keyspace-events", "KEA", "AKE", True),
        ("notify-keyspace-events", "Ex", "xE", True),
        ("notify-keyspace-events", "Ex", "x", False),
        ("client-output-buffer-limit", "replica 256mb 64mb 60", "normal 0 0 0 slave 268435456 67108864 60", True),
        ("client-output-buffer-limit", "pubsub 1mb 1mb 60", "normal 0 0 0 pubsub 33554432 8388608 60", False),
        ("bind", "127.0.0.1 -::1", "127.0.0.1 -::1", True),
        ("logfile", "/Data/log", "/data/log", False),
        ("requirepass", "Secret-One", "secret-one", False),
        ("requirepass", "", "x", False),
        ("save", "", "900 1", False),
    ],
)
def test_values_are_compared_by_what_they_mean(name: str, wanted: str, live: str, equal: bool) -> None:
    assert redis_conf.is_equal(name, wanted, live) is equal


@pytest.mark.parametrize(
    ("value", "lines"), [(True, ["yes"]), (False, ["no"]), (5, ["5"]), (["a b", 1], ["a b", "1"]), (None, [""])]
)
def test_settings_from_yaml(value: Any, lines: list[str]) -> None:
    assert redis_conf.arguments_of(value) == lines


def check(text: str) -> str:
    """What a real server's check says."""
    done = subprocess.run(
        ["redis-server", *redis_config.SERVER_ARGUMENTS], input=text, capture_output=True, text=True, check=False
    )
    return redis_config.verdict(done.stdout + done.stderr, done.returncode)


def test_the_check_by_a_real_server() -> None:
    good = (
        'port 6379\nbind 10.255.255.1\nsave 900 1\nuser joe on nopass +get\nrename-command FLUSHALL ""\nunixsocket /x\n'
    )
    assert check(good) == ""
    assert "Redis does not accept 'max-clients 5' (" in check(good + "max-clients 5\n")
    assert "correct or remove maxclients in redis_settings" in check(good + "maxclients many\n")


def test_the_check_by_redis_8_which_takes_the_unknown_for_a_modules() -> None:
    log = (
        "7:M 22 Nov 2026 02:29:49.005 # Unresolved Configuration(s) Detected:\n"
        "7:M 22 Nov 2026 02:29:49.005 # >>> 'max-clients 5'\n"
        "7:M 22 Nov 2026 02:29:49.005 # Module Configuration detected without loadmodule directive: aborting\n"
    )
    said = redis_config.verdict(log, 1)
    assert said.startswith("Redis does not accept 'max-clients 5' (unknown directive): correct or remove max-clients")


def test_the_check_of_users_names_the_rule() -> None:
    log = "7:M 22 Nov 2026 02:29:48.791 # Error loading ACL rule '+@x' for the user named 'bob': Unknown category\n"
    assert "'+@x' for the user named 'bob'" in redis_config.verdict(log, 1)


def test_the_check_names_directive_reason_and_variable() -> None:
    said = redis_config.verdict(FATAL.format(line=9, text="max-clients 500", reason="Bad directive"), 1)
    assert "'max-clients 500' (Bad directive), line 9" in said
    assert "correct or remove max-clients in redis_settings" in said


@pytest.mark.parametrize(
    ("text", "variable"),
    [("masterauth the-secret-itself", "redis_secret_settings"), ("user joe on #the-secret-itself", "redis_users")],
)
def test_the_check_never_shows_a_secret(text: str, variable: str) -> None:
    said = redis_config.verdict(FATAL.format(line=3, text=text, reason="Error in user declaration 'joe'"), 1)
    assert variable in said
    assert "the-secret-itself" not in said


def test_a_check_that_did_not_happen_is_no_approval() -> None:
    assert "ended with 125" in redis_config.verdict("docker: Error response from daemon: oh no", 125)


def test_includes_are_left_out_of_the_check_without_moving_lines() -> None:
    assert redis_config.without_includes("port 1\ninclude /x\nbind *") == "port 1\n\nbind *\n"


LOG = [
    "1:C 22 Nov 2026 01:26:19.558 # oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo",
    "1:M 22 Nov 2026 01:26:19.558 * monotonic clock: POSIX clock_gettime",
    "1:M 22 Nov 2026 01:26:19.559 # Warning: Could not create server TCP listening socket 10.9.9.9:6379: bind: x",
    "1:M 22 Nov 2026 01:26:19.559 # Failed listening on port 6379 (TCP), aborting.",
]


def test_the_reason_of_an_end_is_told_once_and_without_noise() -> None:
    told = docker_engine.reason(LOG * 3)
    assert told == (
        "Warning: Could not create server TCP listening socket 10.9.9.9:6379: bind: x"
        " / Failed listening on port 6379 (TCP), aborting."
    )


def test_the_reason_of_an_end_shows_no_secret() -> None:
    lines = ["*** FATAL CONFIG FILE ERROR ***", ">>> 'requirepass \"hunter2hunter2\" x'", "wrong number of arguments"]
    told = docker_engine.reason(lines)
    assert "hunter2" not in told
    assert "requirepass ..." in told


def test_log_streams_are_unframed() -> None:
    framed = b"\x01\0\0\0\0\0\0\x03ab\n\x02\0\0\0\0\0\0\x02c\n"
    assert docker_engine.unframe(framed) == b"ab\nc\n"
    assert docker_engine.unframe(b"plain\n") == b"plain\n"
