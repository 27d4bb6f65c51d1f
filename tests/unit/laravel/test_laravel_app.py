"""What the module laravel_app makes of an application's answers. The end-to-end tests ask a real one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils import laravel_program as program
from ansible_collections.spotcache.redis.plugins.modules import laravel_app as module

TOKEN = "token"
SECRET = "p@ss w0rd"
URL = " (a URL in the connection's settings, such as REDIS_URL, overrides it)"
EXPECT: dict[str, Any] = {
    "stores": {"method": "redis", "batch": "file"},
    "session_driver": "redis",
    "session_connection": "session",
    "cache_redis": {"host": "new", "port": 6379, "database": 0},
    "session_redis": {"host": "new", "port": 6379, "database": 1},
}


def connection(**more: Any) -> dict[str, Any]:
    common = {"url": False, "host": "new", "port": "6379", "database": "0"}
    return {**common, "password": module.digest(TOKEN, SECRET), **more}


def answer(**more: Any) -> dict[str, Any]:
    good = {
        "environment_readable": True,
        "environment_file": "/srv/app/.env",
        "config_cached": False,
        "stores": {
            "method": {"driver": "redis", "connection": "default"},
            "batch": {"driver": "file", "connection": "default"},
        },
        "session": {"driver": "redis", "connection": "session", "store": "redis", "store_missing": False},
        "connections": {"default": connection(), "session": connection(database=1)},
        "errors": [],
    }
    return {**good, **more}


def found(given: dict[str, Any]) -> list[str]:
    passwords = {"cache": SECRET, "session": SECRET}
    return [*module.defects(given, EXPECT), *module.problems(given, EXPECT, passwords, TOKEN)]


def test_all_as_expected() -> None:
    assert found(answer()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"failed": "RuntimeException: no"}, "fails: RuntimeException: no"),
        ({"environment_readable": False}, "cannot read /srv/app/.env, and so uses its defaults"),
        ({"errors": [{"what": "the store method", "error": "NOAUTH."}]}, "fails with the store method: NOAUTH"),
        (
            {"connections": {"default": connection(host="old"), "session": connection(database=1)}},
            "uses the host 'old' for the store method (connection default), not 'new'",
        ),
        (
            {"connections": {"default": connection(host="old", url=True), "session": connection(database=1)}},
            "uses the host 'old' for the store method (connection default), not 'new'" + URL,
        ),
        (
            {"connections": {"default": connection(password="x"), "session": connection(database=1)}},
            "uses another password for the store method (connection default) than the one that is set",
        ),
        (
            {"connections": {"default": connection(), "session": connection()}},
            "uses the database '0' for sessions (connection session), not 1",
        ),
    ],
)
def test_what_is_not_as_expected(change: dict[str, Any], sentence: str) -> None:
    assert found(answer(**change)) == [sentence]


def test_sessions_that_silently_go_elsewhere() -> None:
    session = {"driver": "redis", "connection": None, "store": "redis", "store_missing": False}
    assert found(answer(session=session)) == ["keeps sessions on the Redis connection default, not on session"]


def test_what_no_env_can_mend() -> None:
    session = {"driver": "file", "connection": None, "store": "redis", "store_missing": True}
    given = answer(stores={"method": None, "batch": None}, session=session, connections={})
    lasting = list(module.defects(given, EXPECT))
    assert [sentence.partition(":")[0] for sentence in lasting] == [
        "has no cache store method",
        "has no cache store batch",
        "has no Redis connection session",
        "cannot keep sessions in Redis without the cache store redis, which Laravel needs for that",
    ]


def test_another_file_is_noticed(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("A=1\n")
    same = {**answer(), "environment_digest": module.digest(TOKEN, "A=1\n")}
    assert module.file_problem(same, str(env), TOKEN) == ""
    assert "that is not" in module.file_problem({**same, "environment_digest": "x"}, str(env), TOKEN)
    assert module.file_problem({**same, "environment_digest": "x", "config_cached": True}, str(env), TOKEN) == ""


def test_only_the_answer_to_this_question_counts() -> None:
    line = f"{program.MARK}{TOKEN} eyJhIjogMX0="
    assert program.find_answer(f"noise\n{program.MARK}other e30=\n{line}\n", TOKEN) == {"a": 1}
    assert program.find_answer("noise", TOKEN) is None


def test_last_words_show_no_value_of_the_env() -> None:
    text = "Status: 500\nThe environment file is invalid!\nFailed to parse dotenv file. Encountered x at [hush hush].\n"
    words = module.Application.last_words(text)
    assert words == "The environment file is invalid! Failed to parse dotenv file. Encountered x"


def test_the_program_is_php(tmp_path: Path) -> None:
    php = shutil.which("php")
    assert php, "php is missing: apt-get install php-cli php-vlucas-phpdotenv"
    application = module.Application("/nowhere", "root", php, "", "auto", 1)
    question = application.question("describe")
    done = subprocess.run([php, "-l"], input=program.script(question), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    asked = subprocess.run([php], input=program.script(question), capture_output=True, text=True, timeout=60)
    assert program.find_answer(asked.stdout, question["token"]) == {"artisan": False}


def test_no_application_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for state in ("located", "inspected"):
        given = {"path": str(tmp_path), "user": "root", "state": state}
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        message = json.loads(capsys.readouterr().out)["msg"]
        assert message.startswith(f"{tmp_path} is no Laravel application that root can read")


def test_an_unknown_user_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({"path": "/srv", "user": "no-such-user"}), pytest.raises(SystemExit):
        module.main()
    assert 'user is "no-such-user", and this host has no such user' in json.loads(capsys.readouterr().out)["msg"]


def test_commands_never_run_as_root_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    host = module.Application("/srv", "www-data", "php", "", "auto", 1)
    assert host.command("php") == ["runuser", "-u", "www-data", "--", "php"]
    inside = module.Application("/srv", "www-data", "php", "shop", "auto", 1)
    assert inside.command("php") == ["docker", "exec", "-i", "-u", "www-data", "shop", "php"]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert host.command("php") == ["php"]
