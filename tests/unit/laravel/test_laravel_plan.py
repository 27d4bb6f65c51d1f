"""Which keys an application gets, and what is refused beforehand."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.filter.laravel_env_parameters import FilterModule as Parameters
from ansible_collections.spotcache.redis.plugins.filter.laravel_env_plan import FilterModule as Plan
from ansible_collections.spotcache.redis.plugins.filter.laravel_env_problems import FilterModule as Problems
from ansible_collections.spotcache.redis.plugins.module_utils import laravel_plan

SHOP: dict[str, Any] = {"name": "shop", "path": "/srv/shop"}
SECRET = "a-long-enough-password"
INPUTS: dict[str, Any] = {
    "laravel_env_environment": "stg",
    "laravel_env_applications": [SHOP],
    "laravel_env_driver": "auto",
    "laravel_env_fallback": "",
    "laravel_env_stores": {"method": "METHOD_CACHE_DRIVER", "batch": "BATCH_CACHE_DRIVER"},
    "laravel_env_redis_host": "10.0.0.4",
    "laravel_env_redis_port": 6379,
    "laravel_env_redis_password": SECRET,
    "laravel_env_session_redis_host": "",
    "laravel_env_session_redis_port": None,
    "laravel_env_session_redis_password": "",
    "laravel_env_session_connection": "session",
}
DRIVERS = ("METHOD_CACHE_DRIVER", "BATCH_CACHE_DRIVER", "SESSION_DRIVER")


def plan(application: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    found: dict[str, Any] = Plan().filters()["laravel_env_plan"]({**INPUTS, **inputs}, {**SHOP, **(application or {})})
    return found


def problems(application: dict[str, Any] | None = None, **inputs: Any) -> list[str]:
    applications = inputs.pop("applications", [{**SHOP, **(application or {})}])
    given = {**INPUTS, "laravel_env_applications": applications, **inputs}
    found: list[str] = Problems().filters()["laravel_env_problems"](given)
    return found


@pytest.mark.parametrize(
    ("environment", "driver"),
    [("stg", "redis"), ("prod", "redis"), ("production", "redis"), ("dev", "file"), ("sandbox", "file")],
)
def test_the_environment_decides(environment: str, driver: str) -> None:
    values = plan(laravel_env_environment=environment)["values"]
    assert [values[key] for key in DRIVERS] == [driver] * 3
    assert ("REDIS_HOST" in values) is (driver == "redis")


def test_what_redis_needs() -> None:
    found = plan()
    assert found["values"] == {
        **dict.fromkeys(DRIVERS, "redis"),
        "REDIS_HOST": "10.0.0.4",
        "REDIS_PORT": 6379,
        "REDIS_DB": 0,
        "SESSION_CONNECTION": "session",
        "SESSION_REDIS_HOST": "10.0.0.4",
        "SESSION_REDIS_PORT": 6379,
        "SESSION_REDIS_DB": 1,
    }
    assert found["secrets"] == {"REDIS_PASSWORD": SECRET, "SESSION_REDIS_PASSWORD": SECRET}
    assert found["passwords"] == {"cache": SECRET, "session": SECRET}
    assert found["names"] == sorted({*found["values"], *found["secrets"]})
    assert found["expect"]["session_redis"] == {"host": "10.0.0.4", "port": 6379, "database": 1}
    assert SECRET not in str(found["values"]) + str(found["expect"])


def test_files_need_no_redis() -> None:
    for found in (plan(laravel_env_driver="file"), plan({"driver": "file"}), plan(laravel_env_fallback="file")):
        assert found["values"] == dict.fromkeys(DRIVERS, "file")
        assert found["secrets"] == found["passwords"] == {}
    assert problems(laravel_env_fallback="file", laravel_env_redis_host="") == []


def test_a_fallback_outdoes_what_an_application_says() -> None:
    assert plan({"driver": "redis", "drivers": {"batch": "redis"}}, laravel_env_fallback="file")["values"] == (
        dict.fromkeys(DRIVERS, "file")
    )


def test_an_application_says_what_it_wants() -> None:
    own = {
        "drivers": {"batch": "file"},
        "database": 4,
        "session_database": 5,
        "redis_prefix": "shop_",
        "cache_prefix": "c",
        "values": {"CDN": "x"},
        "secrets": {"API_TOKEN": "t"},
        "remove": ["REDIS_URL"],
    }
    found = plan(own)
    assert found["expect"]["stores"] == {"method": "redis", "batch": "file"}
    assert (found["values"]["REDIS_DB"], found["values"]["SESSION_REDIS_DB"]) == (4, 5)
    assert (found["values"]["REDIS_PREFIX"], found["values"]["CACHE_PREFIX"]) == ("shop_", "c")
    assert found["values"]["CDN"] == "x"
    assert found["secrets"]["API_TOKEN"] == "t"
    assert found["remove"] == ["REDIS_URL"]
    assert problems(own) == []


def test_sessions_of_their_own() -> None:
    elsewhere: dict[str, Any] = {"laravel_env_session_redis_host": "sessions", "laravel_env_session_redis_port": 6380}
    found = plan(**elsewhere)
    assert found["values"]["SESSION_REDIS_HOST"] == "sessions"
    assert found["values"]["SESSION_REDIS_PORT"] == 6380
    # The other Redis' password is not this one's: none is none, not the neighbour's.
    assert found["secrets"]["SESSION_REDIS_PASSWORD"] is None
    assert problems({"session_database": 0}, **elsewhere) == []
    only = plan({"driver": "file", "drivers": {"session": "redis"}}, laravel_env_session_connection="default")
    assert only["values"]["SESSION_CONNECTION"] == "default"
    assert only["values"]["REDIS_DB"] == 1
    assert "SESSION_REDIS_HOST" not in only["values"]


def test_parameters_are_what_env_reads_without_phpdotenv() -> None:
    application: dict[str, Any] = {"name": "shop", "place": "ssm", "parameter_path": "/stg/shop/", "remove": ["OLD"]}
    application |= {"values": {"EMPTY": "", "WORD": "null", "BLANKS": "a b"}}
    found = {one["name"]: one for one in Parameters().filters()["laravel_env_parameters"](INPUTS, application)}
    assert found["/stg/shop/EMPTY"]["value"] == "(empty)"
    assert found["/stg/shop/WORD"]["value"] == '"null"'
    assert found["/stg/shop/BLANKS"]["value"] == "a b"
    assert found["/stg/shop/REDIS_PASSWORD"] == {
        "name": "/stg/shop/REDIS_PASSWORD",
        "value": SECRET,
        "type": "SecureString",
        "state": "present",
    }
    assert found["/stg/shop/OLD"]["state"] == "absent"
    assert found["/stg/shop/REDIS_PORT"]["value"] == "6379"


def test_all_is_well() -> None:
    assert problems() == []
    assert problems(applications=[]) == []


@pytest.mark.parametrize(
    ("application", "inputs", "message"),
    [
        ({}, {"laravel_env_environment": ""}, "laravel_env_environment is empty"),
        ({}, {"laravel_env_fallback": "memory"}, 'laravel_env_fallback is "memory": use file'),
        ({}, {"laravel_env_redis_host": ""}, "provision the environment first"),
        ({}, {"laravel_env_redis_host": "redis:6379"}, 'is "redis:6379", which has a port in it'),
        ({}, {"laravel_env_redis_host": "[::1]:6379"}, "which has a port in it"),
        ({}, {"laravel_env_session_redis_host": "x:1"}, "put that into laravel_env_session_redis_port"),
        ({}, {"laravel_env_redis_host": "tcp://redis"}, "without tcp://"),
        ({}, {"laravel_env_redis_port": 0}, 'laravel_env_redis_port is "0"'),
        ({}, {"laravel_env_redis_port": ""}, 'laravel_env_redis_port is ""'),
        ({}, {"laravel_env_redis_password": "0"}, "laravel_env_redis_password: it is a lone zero"),
        ({}, {"laravel_env_redis_password": "a\0b"}, "laravel_env_redis_password: it contains a NUL"),
        ({"name": "a b"}, {}, 'name is "a b"'),
        ({"place": "cloud"}, {}, 'place is "cloud"'),
        ({"path": ""}, {}, "path is missing, which place host needs"),
        ({"path": "srv"}, {}, 'path is "srv": write it from the root on'),
        ({"place": "container", "container": "c"}, {}, "env_file is missing"),
        ({"place": "container", "env_file": "/e"}, {}, "container is missing"),
        ({"place": "ssm"}, {}, "parameter_path is missing"),
        ({"driver": "reddis"}, {}, 'driver is "reddis", which is unknown: use redis or file'),
        ({"drivers": {"method": "apc"}}, {}, 'the driver of method is "apc", which is unknown'),
        ({"drivers": {"nope": "redis"}}, {}, 'drivers has "nope", which is no store'),
        ({"database": -1}, {}, 'database is "-1"'),
        ({"session_database": 0}, {}, "share database 0"),
        ({"values": {"REDIS_HOST": "x"}}, {}, "values contains REDIS_HOST, which comes from the environment's Redis"),
        ({"remove": ["SESSION_DRIVER"]}, {}, "remove contains SESSION_DRIVER"),
        ({"values": {"A": "1"}, "secrets": {"A": "2"}}, {}, "A stands in more than one of"),
        ({"values": {"A": "1"}, "remove": ["A"]}, {}, "A stands in more than one of"),
        ({"values": {"A B": "1"}}, {}, 'the key "A B"'),
        ({"secrets": {"MAIL_PASSWORD": "0"}}, {}, "the value of MAIL_PASSWORD is a lone zero"),
        ({"remove": ["A-B"]}, {}, 'the key "A-B"'),
    ],
)
def test_what_cannot_work_is_said(application: dict[str, Any], inputs: dict[str, Any], message: str) -> None:
    found = problems(application, **inputs)
    assert len(found) == 1, found
    assert message in found[0]
    assert found[0].endswith(".")
    assert SECRET not in found[0]


def test_names_and_databases_are_given_once() -> None:
    two = [SHOP, {**SHOP, "database": 2, "session_database": 3}]
    assert problems(applications=two) == [
        'laravel_env_applications contains the name "shop" twice: give each application a name of its own.'
    ]
    workers = {**SHOP, "name": "workers", "part_of": "shop"}
    assert problems(applications=[SHOP, workers]) == []
    lost = problems(applications=[SHOP, {**workers, "part_of": "shoop"}])
    assert lost == [
        'laravel_env_applications, workers: part_of is "shoop", and no application has that name: correct it.'
    ]
    shared = problems(applications=[SHOP, {**SHOP, "name": "other", "database": 2}])
    assert len(shared) == 1
    assert shared[0].startswith("the sessions of other and the sessions of shop share database 1 of 10.0.0.4:6379")


def test_every_public_variable_is_looked_at() -> None:
    assert laravel_plan.drivers(INPUTS, {**SHOP, "driver": "auto"})["session"] == "redis"
    assert laravel_plan.uses_redis({"method": "file", "session": "redis"}) == (False, True)
