"""What the module laravel_app makes of an application's answers. The end-to-end tests ask a real one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils import dotenv_text as dotenv
from ansible_collections.spotcache.redis.plugins.module_utils import laravel_program as program
from ansible_collections.spotcache.redis.plugins.modules import laravel_app as module

from dev.sample_app.laravel.phpdotenv import PhpDotenv

TOKEN = "token"
SECRET = "p@ss w0rd"
URL = " (a URL in the connection's settings, such as REDIS_URL, overrides it)"
EXPECT: dict[str, Any] = {
    "default_store": "redis",
    "stores": {"method": "redis", "batch": "file"},
    "session_driver": "redis",
    "session_connection": "session",
    "queue": "",
    "broadcast": "null",
    "connections": {
        "default": {"host": "new", "port": 6379, "database": 0, "username": "", "tls": False},
        "session": {"host": "new", "port": 6379, "database": 1, "username": "", "tls": False},
    },
}


def connection(**more: Any) -> dict[str, Any]:
    common = {"url": False, "host": "new", "port": "6379", "database": "0", "username": "", "tls": False}
    return {**common, "password": module.digest(TOKEN, SECRET), **more}


def answer(**more: Any) -> dict[str, Any]:
    good = {
        "environment_readable": True,
        "environment_file": "/srv/app/.env",
        "config_cached": False,
        "default_store": "redis",
        "stores": {
            "method": {"driver": "redis", "connection": "default"},
            "batch": {"driver": "file", "connection": "default"},
        },
        "session": {"driver": "redis", "connection": "session", "store": ""},
        "queue": {"default": "database"},
        "broadcast": {"default": "null"},
        "connections": {"default": connection(), "session": connection(database=1)},
        "errors": [],
    }
    return {**good, **more}


def found(given: dict[str, Any]) -> list[str]:
    return list(module.problems(given, EXPECT, {"default": SECRET, "session": SECRET}, TOKEN))


def test_all_as_expected() -> None:
    assert found(answer()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"failed": "RuntimeException: no"}, "fails: RuntimeException: no"),
        ({"environment_readable": False}, "cannot read /srv/app/.env, and so uses its defaults"),
        ({"default_store": "database"}, "uses 'database' as its default store, not 'redis'"),
        ({"broadcast": {"default": "redis"}}, "uses 'redis' for the broadcast, not 'null'"),
        ({"errors": [{"what": "the store method", "error": "NOAUTH."}]}, "fails with the store method: NOAUTH"),
        (
            {"connections": {"default": connection(host="old"), "session": connection(database=1)}},
            "uses the host 'old' for the Redis connection default, not 'new'",
        ),
        (
            {"connections": {"default": connection(host="old", url=True), "session": connection(database=1)}},
            "uses the host 'old' for the Redis connection default, not 'new'" + URL,
        ),
        (
            {"connections": {"default": connection(password="x"), "session": connection(database=1)}},
            "uses another password for the Redis connection default than the one that is set",
        ),
        (
            {"connections": {"default": connection(), "session": connection()}},
            "uses the database '0' for the Redis connection session, not 1",
        ),
        (
            {"connections": {"default": connection(username="left"), "session": connection(database=1)}},
            "uses the username 'left' for the Redis connection default, not ''",
        ),
        (
            {"connections": {"session": connection(database=1)}},
            "has no Redis connection default: define it in config/database.php",
        ),
        (
            {"stores": {"batch": {"driver": "file", "connection": "default"}}},
            "has no cache store method: define it in config/cache.php",
        ),
        (
            {"session": {"driver": "redis", "connection": "", "store": ""}},
            "keeps sessions on the Redis connection default, not on session",
        ),
    ],
)
def test_what_is_not_as_expected(change: dict[str, Any], sentence: str) -> None:
    assert found(answer(**change)) == [sentence]


def test_where_php_fpm_is_another_than_artisan() -> None:
    own = module.uses(answer())
    assert module.disagreements(answer(errors=[{"what": "x", "error": "y"}]), own) == []
    other = answer(stores={**answer()["stores"], "batch": {"driver": "array", "connection": "default"}})
    assert module.disagreements(other, own) == ["uses the driver 'array' for the store batch, not 'file'"]
    assert module.disagreements({}, own) == module.disagreements(other, {}) == []


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


def test_an_application_that_cannot_be_asked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    application = module.Application("/srv/app", "www-data", "php", "", "auto", 1)
    said = {"artisan": True, "failed": "Error: Class config does not exist."}
    monkeypatch.setattr(module.Application, "ask", lambda *_: dict(said))
    with pytest.raises(
        module.Trouble, match=r"/srv/app cannot be asked for its configuration: Error: Class config"
    ) as told:
        module.describe(application)
    assert str(told.value).endswith(
        "Nothing is assumed instead: mend that first, as `php artisan about` there shows it."
    )


def test_the_grammar_is_what_the_applications_own_phpdotenv_reads(tmp_path: Path) -> None:
    for name, text in (
        ("artisan", ""),
        ("bootstrap/app.php", ""),
        ("vendor/autoload.php", "<?php require 'Dotenv/autoload.php';"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    grammar = module.Application(str(tmp_path), "root", "php", "", "none", 1).locate()
    with PhpDotenv() as php:
        for name, text in (("multiline", 'A="x\ny="\nB=1\n'), ("unicode", "É=1\nB=1\n"), ("comments", '# A="\nB=1\n')):
            found = php.read(text.encode())
            assert (found.error is None and found.dotenv.get("B") == b"1") is (name in grammar)
            # What it reads is read in the same way, and what it does not is refused.
            if name in grammar:
                assert dotenv.load(dotenv.parse(text, dotenv.Grammar(**{name: True}))).get("B") == "1"
            else:
                with pytest.raises(dotenv.Misread):
                    dotenv.parse(text)
