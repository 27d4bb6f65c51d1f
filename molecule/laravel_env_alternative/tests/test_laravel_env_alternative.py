"""Two applications with nearly everything set, one Redis for their caches and one for their sessions."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

SHOP = "/srv/app"
BLOG = "/srv/blog"


def read_env(host: Any, folder: str) -> dict[str, str]:
    """The keys of an application's .env."""
    lines = host.file(f"{folder}/.env").content_string.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def artisan(host: Any, folder: str, *words: str) -> str:
    """What an artisan command prints."""
    return str(host.check_output(f"cd {folder} && runuser -u www-data -- php artisan {' '.join(words)}"))


def keys(host: Any, port: int, database: int, password: str) -> int:
    """How many keys a database holds."""
    login = f"REDISCLI_AUTH={password}"
    return int(host.check_output(f"{login} redis-cli -p {port} -n {database} dbsize").split()[-1])


def test_caches_and_sessions_go_to_a_redis_each(host: Any) -> None:
    found = json.loads(host.check_output("curl -sf -m 10 localhost/diag"))
    there = [(one["host"], int(one["port"]), int(one["database"])) for one in found["connections"].values()]
    assert there == [("localhost", 6390, 0), ("127.0.0.1", 6391, 0)]
    assert [one["ping"] for one in found["connections"].values()] == ["true", "true"]


def test_the_other_application_has_databases_a_prefix_and_a_driver_of_its_own(host: Any) -> None:
    blog = read_env(host, BLOG)
    assert (blog["REDIS_DB"], blog["SESSION_REDIS_DB"], blog["REDIS_PREFIX"]) == ("2", "3", "blog:")
    assert blog["METHOD_CACHE_DRIVER"] == "redis"
    # Its own configuration says so already.
    assert "BATCH_CACHE_DRIVER" not in blog
    before = keys(host, 6390, 2, "correct-horse-battery-staple")
    assert json.loads(artisan(host, BLOG, "batch:warm", "--items=3"))["driver"] == "file"
    assert keys(host, 6390, 2, "correct-horse-battery-staple") == before


def test_databases_are_not_shared(host: Any, converge: Callable[..., Any]) -> None:
    before = [host.file(f"{folder}/.env").content_string for folder in (SHOP, BLOG)]
    both = [{"name": name, "path": path, "database": 0} for name, path in (("shop", SHOP), ("blog", BLOG))]
    run = converge(laravel_env_applications=both)
    assert run.code != 0
    assert "share database 0" in run.why
    assert [host.file(f"{folder}/.env").content_string for folder in (SHOP, BLOG)] == before


def test_a_cached_configuration_follows(host: Any, converge: Callable[..., Any]) -> None:
    artisan(host, SHOP, "config:cache")
    mode = host.file(f"{SHOP}/bootstrap/cache/config.php").mode
    run = converge(laravel_env_redis_host="127.0.0.1")
    assert run.code == 0, run.why
    found = json.loads(host.check_output("curl -sf -m 10 localhost/diag"))
    assert (found["cached"], found["connections"]["default"]["host"]) == (True, "127.0.0.1")
    assert host.file(f"{SHOP}/bootstrap/cache/config.php").mode == mode
    assert converge(laravel_env_redis_host="127.0.0.1").changed == []
