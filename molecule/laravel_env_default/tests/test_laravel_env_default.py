"""One application on its web server: caches and sessions in Redis, and nothing else of its .env touched."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

ENV = "/srv/app/.env"


def page(host: Any, path: str) -> dict[str, Any]:
    """What php-fpm answers through nginx."""
    answer: dict[str, Any] = json.loads(host.check_output(f"curl -sf -m 10 localhost/{path}"))
    return answer


def test_php_fpm_and_artisan_use_redis(host: Any) -> None:
    found = page(host, "diag")
    assert (found["method"], found["batch"], found["session"]) == ("redis", "redis", "redis")
    assert [one["ping"] for one in found["connections"].values()] == ["true", "true"]
    warmed = json.loads(host.check_output("cd /srv/app && runuser -u www-data -- php artisan batch:warm --items=1"))
    assert page(host, "batch/1")["value"] == {"i": 1, "run": warmed["run"]}


def test_the_file_keeps_its_lines_and_its_secret(host: Any) -> None:
    lines = host.file(ENV).content_string.splitlines()
    assert lines[:2] == ["# Mine, and it stays.", "APP_NAME=app"]
    assert (host.file(ENV).mode, host.file(ENV).group) == (0o640, "www-data")


def test_a_password_that_is_wrong_changes_nothing(host: Any, converge: Callable[..., Any]) -> None:
    before = host.file(ENV).content_string
    run = converge(laravel_env_redis_password="not-the-one")
    assert run.code != 0
    assert "WRONGPASS" in run.why
    assert "Its .env is as it was." in run.why
    assert "not-the-one" not in run.output
    assert host.file(ENV).content_string == before
