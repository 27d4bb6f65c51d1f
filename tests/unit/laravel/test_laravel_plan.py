"""What is planned for an application, from what it says of itself, and what is refused beforehand."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.filter.laravel_env_parameters import FilterModule as Parameters
from ansible_collections.spotcache.redis.plugins.filter.laravel_env_plan import FilterModule as Plan
from ansible_collections.spotcache.redis.plugins.filter.laravel_env_problems import FilterModule as Problems

from tests.unit.laravel.support import LAYOUTS, after, configuration

SHOP: dict[str, Any] = {"name": "shop", "path": "/srv/shop"}
SECRET = "a-long-enough-password"
INPUTS: dict[str, Any] = {
    "laravel_env_environment": "stg",
    "laravel_env_applications": [SHOP],
    "laravel_env_driver": "auto",
    "laravel_env_fallback": "",
    "laravel_env_stores": {},
    "laravel_env_redis_host": "10.0.0.4",
    "laravel_env_redis_port": 6379,
    "laravel_env_redis_username": "",
    "laravel_env_redis_password": SECRET,
    "laravel_env_redis_tls": False,
    "laravel_env_redis_users": [],
    "laravel_env_session_redis_host": "",
    "laravel_env_session_redis_port": None,
    "laravel_env_session_redis_username": "",
    "laravel_env_session_redis_password": "",
    "laravel_env_session_redis_tls": False,
    "laravel_env_session_connection": "",
}


def plan(found: dict[str, Any], application: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    """The plan for one application that is alone on its Redis."""
    own = {**SHOP, **(application or {})}
    given = {**INPUTS, "laravel_env_applications": [own], **inputs}
    made: dict[str, Any] = Plan().filters()["laravel_env_plan"](given, own, {"web": {"shop": found}}, "web")
    return made


def good(found: dict[str, Any], application: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    """The same, of one that can be made."""
    made = plan(found, application, **inputs)
    assert made["problems"] == []
    return made


def problems(application: dict[str, Any] | None = None, **inputs: Any) -> list[str]:
    applications = inputs.pop("applications", [{**SHOP, **(application or {})}])
    given = {**INPUTS, "laravel_env_applications": applications, **inputs}
    found: list[str] = Problems().filters()["laravel_env_problems"](given)
    return found


@pytest.mark.parametrize(
    ("layout", "values"),
    [
        (
            "skeleton",
            {"CACHE_STORE": "redis", "SESSION_DRIVER": "redis", "REDIS_HOST": "10.0.0.4", "REDIS_PORT": 6379},
        ),
        (
            "skeleton_to_10",
            {"CACHE_DRIVER": "redis", "SESSION_DRIVER": "redis", "REDIS_HOST": "10.0.0.4", "REDIS_PORT": 6379},
        ),
        (
            "stores",
            {
                "METHOD_CACHE_DRIVER": "redis",
                "BATCH_CACHE_DRIVER": "redis",
                "CACHE_DRIVER": "redis",
                "SESSION_DRIVER": "redis",
                "SESSION_CONNECTION": "session",
                "REDIS_HOST": "10.0.0.4",
                "REDIS_PORT": 6379,
                "SESSION_REDIS_HOST": "10.0.0.4",
                "SESSION_REDIS_PORT": 6379,
                # Both begin with database 0, and caches are cleared by emptying theirs.
                "SESSION_REDIS_DB": 1,
            },
        ),
    ],
)
def test_known_layouts_need_no_configuration(layout: str, values: dict[str, Any]) -> None:
    found = configuration(layout)
    made = good(found)
    assert made["values"] == values
    assert set(made["secrets"].values()) == {SECRET}
    numbers = {name: one["database"] for name, one in made["expect"]["connections"].items()}
    sessions = made["expect"]["session_connection"]
    assert numbers[sessions] not in [number for name, number in numbers.items() if name != sessions]
    assert made["expect"]["kept"] == [sessions]
    assert SECRET not in str(made["values"]) + str(made["expect"]) + str(made["words"])
    # Made once, it asks for nothing else.
    again = good(after(found, made))
    assert {key: made["values"].get(key, value) for key, value in again["values"].items()} == again["values"]
    assert again["expect"] == made["expect"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_need_no_redis_and_come_back(layout: str) -> None:
    found = configuration(layout)
    made = good(found)
    there = after(found, made)
    ways: list[dict[str, Any]] = [{"laravel_env_fallback": "file"}, {"laravel_env_driver": "file"}]
    for inputs in ways:
        fallback = good(there, **inputs)
        assert set(fallback["values"].values()) == {"file"}
        assert fallback["secrets"] == fallback["passwords"] == fallback["expect"]["connections"] == {}
        gone = after(there, fallback)
        assert (gone["default_store"], gone["session"]["driver"]) == ("file", "file")
        # As it was, although not one key of Redis' was touched.
        assert after(gone, good(gone)) == there
    assert problems(laravel_env_fallback="file", laravel_env_redis_host="") == []


def test_sessions_and_caches_never_meet_in_a_database() -> None:
    # REDIS_DB=1 is where the skeleton's own default for REDIS_CACHE_DB is as well.
    trap = configuration("skeleton", {"REDIS_DB": "1"})
    made = good(trap)
    numbers = {name: one["database"] for name, one in made["expect"]["connections"].items()}
    assert numbers["cache"] != numbers["default"]
    assert {"REDIS_DB", "REDIS_CACHE_DB"} & set(made["values"])
    assert any("database 1 has the" in word for word in made["words"])
    # With people logged in there, nothing is moved behind their backs.
    lived = configuration("skeleton", {"REDIS_DB": "1", "SESSION_DRIVER": "redis", "CACHE_STORE": "redis"})
    [sentence] = plan(lived)["problems"]
    assert "share database 1 of 10.0.0.4:6379, and Laravel clears a cache by emptying its whole database" in sentence
    assert "say database: 0 for shop" in sentence
    assert good(lived, {"database": 0})["values"]["REDIS_CACHE_DB"] == 0
    # Said so on purpose, it is refused all the same.
    [sentence] = plan(configuration("skeleton"), {"database": 3, "session_database": 3})["problems"]
    assert "share database 3" in sentence


def test_a_session_connection_on_which_a_store_is_cleared_is_refused() -> None:
    [sentence] = plan(configuration("stores"), {"session_connection": "default"})["problems"]
    assert 'session_connection is "default", on which there is a store as well (batch, method, redis)' in sentence
    [sentence] = plan(configuration("stores"), {"session_connection": "nope"})["problems"]
    assert 'session_connection is "nope", and config/database.php defines no such Redis connection' in sentence
    lonely = configuration("stores")
    del lonely["connections"]["session"]
    [sentence] = plan(lonely)["problems"]
    assert "on each of its Redis connections there is a store as well" in sentence
    assert "define one more connection, such as session" in sentence


def test_the_key_of_the_default_store_is_no_stores_driver() -> None:
    [sentence] = plan(configuration("skeleton"), {"stores": {"redis": "CACHE_STORE"}})["problems"]
    assert sentence.startswith(
        "laravel_env_applications, shop: stores has CACHE_STORE for 'redis', and that key chooses"
    )
    for stores, said in (
        ({"nope": "X"}, "stores has 'nope', and config/cache.php defines no such store"),
        ({"redis": "X"}, "reads no key for its driver: take it out"),
    ):
        assert said in plan(configuration("skeleton"), {"stores": stores})["problems"][0]
    wrong = plan(configuration("stores"), {"stores": {"method": "BATCH_CACHE_DRIVER"}})["problems"]
    assert "config/cache.php reads METHOD_CACHE_DRIVER there: correct it" in wrong[0]


def test_an_application_says_what_it_wants() -> None:
    own = {
        "drivers": {"batch": "file", "default": "keep"},
        "database": 4,
        "session_database": 5,
        "redis_prefix": "shop_",
        "cache_prefix": "c",
        "values": {"CDN": "x"},
        "secrets": {"API_TOKEN": "t"},
        "remove": ["OLD"],
    }
    made = good(configuration("stores"), own)
    assert made["expect"]["stores"] == {"method": "redis", "batch": "file"}
    assert "CACHE_DRIVER" not in made["values"]
    assert (made["values"]["REDIS_DB"], made["values"]["SESSION_REDIS_DB"]) == (4, 5)
    assert (made["values"]["REDIS_PREFIX"], made["values"]["CACHE_PREFIX"]) == ("shop_", "c")
    assert made["values"]["CDN"] == "x"
    assert made["secrets"]["API_TOKEN"] == "t"
    assert made["remove"] == ["OLD"]
    only = good(configuration("stores"), {"stores": {"method": "METHOD_CACHE_DRIVER"}})
    assert only["expect"]["stores"] == {"method": "redis"}
    for kind, value in (("values", {"CACHE_STORE": "redis"}), ("secrets", {"REDIS_PASSWORD": "x"})):
        [sentence] = plan(configuration("skeleton"), {kind: value})["problems"]
        assert f"{kind} contains {next(iter(value))}, which the plan decides: take it out." in sentence
    [sentence] = plan(configuration("skeleton"), {"drivers": {"nope": "redis"}})["problems"]
    assert "drivers has 'nope', and no key of the .env chooses the driver of such a store" in sentence


def test_what_stands_in_the_way_of_the_host_goes() -> None:
    found = configuration(
        "skeleton", {"REDIS_URL": "redis://old", "REDIS_USERNAME": "old", "SESSION_STORE": "database"}
    )
    found["connections"]["default"]["database"] = "7"
    made = good(found)
    assert made["remove"] == ["REDIS_URL"]
    assert any(word.startswith("REDIS_URL is removed") for word in made["words"])
    # What the URL said about the database is taken over.
    assert made["values"]["REDIS_DB"] == 7
    assert made["values"]["REDIS_USERNAME"] is None
    assert made["values"]["SESSION_STORE"] == "redis"
    # The connection of a database is none of Redis'.
    mysql = good(configuration("skeleton", {"SESSION_CONNECTION": "mysql"}))
    assert mysql["values"]["SESSION_CONNECTION"] == "default"


def test_users_and_tls() -> None:
    there: dict[str, Any] = {"laravel_env_redis_username": "app", "laravel_env_redis_tls": True}
    made = good(configuration("skeleton"), **there)
    # phpredis takes the scheme with the host; the skeleton has no key for it.
    assert (made["values"]["REDIS_HOST"], made["values"]["REDIS_USERNAME"]) == ("tls://10.0.0.4", "app")
    assert made["expect"]["connections"]["cache"]["tls"] is True
    assert made["expect"]["connections"]["cache"]["host"] == "10.0.0.4"
    predis = {**configuration("skeleton"), "client": "predis"}
    assert "predis speaks TLS only with one: add 'scheme'" in plan(predis, **there)["problems"][0]
    predis["keys"] |= {f"database.redis.{name}.scheme": "REDIS_SCHEME" for name in predis["connections"]}
    assert good(predis, **there)["values"]["REDIS_SCHEME"] == "tls"
    assert good(predis, **there)["values"]["REDIS_HOST"] == "10.0.0.4"
    old = configuration("stores")
    # Laravel before 9.6 has one way for phpredis, a list in the place of the password.
    assert old["keys"]["database.redis.default.password.1"] == "REDIS_PASSWORD"
    mute = configuration("stores")
    del mute["keys"]["database.redis.default.password.0"]
    said = plan(mute, laravel_env_redis_username="app")["problems"]
    assert "the Redis connection default gives Redis no user's name, and 'app' is to log in there" in said[0]
    own = {"redis_user": "shop"}
    users = [{"name": "shop", "password": "another"}]
    made = good(old, own, laravel_env_redis_username="app", laravel_env_redis_users=users)
    assert made["values"]["REDIS_USERNAME"] == made["values"]["SESSION_REDIS_USERNAME"] == "shop"
    assert made["secrets"]["REDIS_PASSWORD"] == "another"
    [wrong] = problems(own)
    assert 'redis_user is "shop", and redis_users has no such user' in wrong


def test_sessions_of_their_own() -> None:
    elsewhere: dict[str, Any] = {"laravel_env_session_redis_host": "sessions", "laravel_env_session_redis_port": 6380}
    made = good(configuration("stores"), **elsewhere)
    assert (made["values"]["SESSION_REDIS_HOST"], made["values"]["SESSION_REDIS_PORT"]) == ("sessions", 6380)
    # The other Redis' password is not this one's: none is none, not the neighbour's.
    assert made["secrets"]["SESSION_REDIS_PASSWORD"] is None
    assert "SESSION_REDIS_DB" not in made["values"]
    shared = plan(configuration("skeleton"), **elsewhere)["problems"]
    assert any("REDIS_HOST is to have two values at once" in sentence for sentence in shared)
    assert SECRET not in str(shared)


def test_queues_and_broadcasts_are_followed_and_moved_only_when_told() -> None:
    assert "QUEUE_CONNECTION" not in good(configuration("skeleton"))["values"]
    told = {"drivers": {"queue": "redis", "broadcast": "redis"}}
    made = good(configuration("skeleton"), told)
    assert (made["values"]["QUEUE_CONNECTION"], made["values"]["BROADCAST_CONNECTION"]) == ("redis", "redis")
    fallback = good(after(configuration("skeleton"), made), told, laravel_env_fallback="file")
    assert (fallback["values"]["QUEUE_CONNECTION"], fallback["values"]["BROADCAST_CONNECTION"]) == ("sync", "null")
    own = configuration("skeleton", {"QUEUE_CONNECTION": "redis"})
    assert good(own)["expect"]["queue"] == ""
    assert any("stays in Redis" in word for word in good(own, laravel_env_fallback="file")["words"])
    # A Redis that is not the environment's, or that is gone, is nobody's to write over.
    ways: list[dict[str, Any]] = [{"laravel_env_fallback": "file"}, {"laravel_env_environment": "dev"}]
    for inputs in ways:
        made = good(own, laravel_env_redis_host="", **inputs)
        assert set(made["values"]) == {"CACHE_STORE", "SESSION_DRIVER"}
        assert (made["secrets"], made["expect"]["connections"], made["expect"]["kept"]) == ({}, {}, [])
        assert "default" in made["stays"]
    # The older layout has its queue on the connection of its stores, and says so in its code.
    jobs = configuration("stores", {"QUEUE_CONNECTION": "redis"})
    assert any("clearing one of these deletes the jobs as well" in word for word in good(jobs)["words"])
    jobs["keys"]["queue.connections.redis.connection"] = "REDIS_QUEUE_CONNECTION"
    assert good(jobs)["values"]["REDIS_QUEUE_CONNECTION"] == "session"


def test_locks_that_can_be_cleared_are_not_beside_sessions() -> None:
    newest = {**configuration("skeleton"), "flushes_locks": True}
    assert good(newest)["values"]["REDIS_CACHE_LOCK_CONNECTION"] == "cache"
    fixed = {**configuration("skeleton_to_10"), "flushes_locks": True}
    assert any("cache:clear --locks would empty the database of default" in word for word in good(fixed)["words"])


def test_a_default_store_of_another_kind_stays() -> None:
    kept = configuration("skeleton", {"CACHE_STORE": "failover"})
    made = good(kept)
    assert "CACHE_STORE" not in made["values"]
    assert "the default store stays failover, whose driver is failover." in made["words"]
    none = configuration("skeleton")
    del none["stores"]["redis"]
    sentences = " ".join(plan(none)["problems"])
    assert "config/cache.php has no store with the driver redis" in sentences
    assert "sessions cannot be in Redis without a cache store whose driver is redis" in sentences


def test_what_is_written_into_the_code_is_said() -> None:
    fixed = configuration("skeleton")
    del fixed["keys"]["session.driver"], fixed["keys"]["database.redis.cache.host"]
    sentences = " ".join(plan(fixed)["problems"])
    assert "the sessions is 'database', written into config/session.php, and 'redis' is wanted" in sentences
    assert "the Redis connection cache has no key of the .env for its host, which is '127.0.0.1'" in sentences
    cluster = {**configuration("skeleton"), "clusters": ["cache"]}
    del cluster["connections"]["cache"]
    assert "as one of a cluster, which is no layout that is known" in plan(cluster)["problems"][0]


def several(*applications: tuple[dict[str, Any], dict[str, Any] | None], **inputs: Any) -> list[dict[str, Any]]:
    """The plans of several applications on one Redis; one without an answer was not reached."""
    listed = [application for application, _found in applications]
    given = {**INPUTS, "laravel_env_applications": listed, **inputs}
    asked = {f"web-{one['name']}": {one["name"]: found} for one, found in applications if found}
    filtered = Plan().filters()["laravel_env_plan"]
    return [filtered(given, one, asked, f"web-{one['name']}") for one, found in applications if found]


def numbers(made: dict[str, Any]) -> set[int]:
    return {one["database"] for one in made["expect"]["connections"].values()}


def test_databases_are_shared_out_among_all_applications() -> None:
    blog = {"name": "blog", "path": "/srv/blog"}
    fresh, lived = (
        configuration("skeleton"),
        configuration("skeleton", {"SESSION_DRIVER": "redis", "CACHE_STORE": "redis"}),
    )
    # Whoever has data there stays, wherever it stands in the list.
    first, second = several((SHOP, fresh), (blog, lived))
    assert numbers(second) == {0, 1}
    assert numbers(first) == {2, 3}
    assert first["problems"] == second["problems"] == []
    assert any("blog" in word and "database" in word for word in first["words"])
    # Both have: one of them has to say so.
    for made in several((SHOP, lived), (blog, lived)):
        assert any("share database 0 of 10.0.0.4:6379" in sentence for sentence in made["problems"])
    # Another part of the same application has the same databases.
    workers = {"name": "workers", "path": "/srv/shop", "part_of": "shop"}
    first, second = several((SHOP, lived), (workers, fresh))
    assert numbers(first) == numbers(second) == {0, 1}
    # What nobody could ask may have any database.
    [made] = several((SHOP, fresh), (blog, None))
    assert "nobody could ask blog for its databases in the same Redis" in made["problems"][0]
    [made] = several((SHOP, fresh), ({**blog, "database": 0, "session_database": 1}, None))
    assert made["problems"] == []
    assert numbers(made) == {2, 3}
    [made] = several((SHOP, fresh), ({**blog, "driver": "file"}, None))
    assert numbers(made) == {0, 1}


def test_a_redis_that_is_full_is_said() -> None:
    apps = [({"name": f"app{number}", "path": "/srv/x"}, configuration("skeleton")) for number in range(9)]
    made = several(*apps)
    assert all(numbers(one) for one in made[:8])
    assert any("share database" in sentence for sentence in made[8]["problems"])


def test_parameters_are_what_env_reads_without_phpdotenv() -> None:
    application: dict[str, Any] = {"name": "shop", "place": "ssm", "parameter_path": "/stg/shop/", "remove": ["OLD"]}
    application |= {"values": {"EMPTY": "", "WORD": "null", "BLANKS": "a b"}}

    def made(**more: Any) -> dict[str, Any]:
        own = {**application, **more}
        given = {**INPUTS, "laravel_env_applications": [own]}
        return {one["name"]: one for one in Parameters().filters()["laravel_env_parameters"](given, own)}

    found = made()
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
    assert found["/stg/shop/CACHE_STORE"]["value"] == "redis"
    assert (found["/stg/shop/REDIS_DB"]["value"], found["/stg/shop/REDIS_CACHE_DB"]["value"]) == ("0", "1")
    assert made(layout="skeleton_to_10")["/stg/shop/CACHE_DRIVER"]["value"] == "redis"
    stores = made(stores={"method": "METHOD_CACHE_DRIVER"})
    assert stores["/stg/shop/METHOD_CACHE_DRIVER"]["value"] == "redis"
    assert (stores["/stg/shop/REDIS_DB"]["value"], stores["/stg/shop/SESSION_REDIS_DB"]["value"]) == ("0", "1")
    assert stores["/stg/shop/SESSION_CONNECTION"]["value"] == "session"
    assert not {"/stg/shop/CACHE_STORE", "/stg/shop/CACHE_DRIVER"} & set(stores)


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
        ({"layout": "modern"}, {}, 'layout is "modern", which is unknown: use skeleton or skeleton_to_10 or stores'),
        ({"driver": "reddis"}, {}, 'driver is "reddis", which is unknown: use redis or file or auto'),
        (
            {"drivers": {"method": "apc"}},
            {},
            'the driver of method is "apc", which is unknown: use redis or file or keep',
        ),
        ({"database": -1}, {}, 'database is "-1"'),
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


def test_names_are_given_once() -> None:
    assert problems(applications=[SHOP, SHOP]) == [
        'laravel_env_applications contains the name "shop" twice: give each application a name of its own.'
    ]
    lost = problems(applications=[SHOP, {**SHOP, "name": "workers", "part_of": "shoop"}])
    assert lost == [
        'laravel_env_applications, workers: part_of is "shoop", and no application has that name: correct it.'
    ]
