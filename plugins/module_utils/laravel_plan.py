"""Which keys an application's .env gets, and what must be right before that: from the variables of laravel_env."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import dotenv_text

Inputs = Mapping[str, Any]
# Environments that keep their caches and sessions in Redis unless they are told otherwise.
REDIS_ENVIRONMENTS = ("prod", "stg", "production", "staging")
DRIVERS = ("redis", "file")
PLACES = ("host", "container", "ssm")
SESSION = "session"


def _of(inputs: Inputs, application: Inputs, name: str, default: Any = "") -> Any:
    """An application's own setting, or the role's variable of that name."""
    own = application.get(name)
    if own is not None and own != "":
        return own
    value = inputs.get(f"laravel_env_{name}")
    return default if value is None else value


def drivers(inputs: Inputs, application: Inputs) -> dict[str, str]:
    """The driver of each store and of the sessions."""
    fallback = str(inputs.get("laravel_env_fallback") or "")
    common = _of(inputs, application, "driver", "auto")
    if common == "auto":
        common = "redis" if inputs.get("laravel_env_environment") in REDIS_ENVIRONMENTS else "file"
    own = application.get("drivers") or {}
    purposes = [*(_of(inputs, application, "stores", {}) or {}), SESSION]
    return {name: fallback or str(own.get(name) or common) for name in purposes}


def redis(inputs: Inputs, application: Inputs) -> dict[str, dict[str, Any]]:
    """Where the caches are and where the sessions are: host, port, database, password."""
    cache = {
        "host": str(inputs.get("laravel_env_redis_host") or ""),
        "port": inputs.get("laravel_env_redis_port"),
        "database": _of(inputs, application, "database", 0),
        "password": str(inputs.get("laravel_env_redis_password") or ""),
    }
    own = str(inputs.get("laravel_env_session_redis_host") or "")
    session = {
        "host": own or cache["host"],
        "port": inputs.get("laravel_env_session_redis_port") or cache["port"],
        "database": _of(inputs, application, "session_database", 1),
        # A Redis of its own has a password of its own; none at all is possible there.
        "password": str(inputs.get("laravel_env_session_redis_password") or ("" if own else cache["password"])),
    }
    return {"cache": cache, SESSION: session}


def uses_redis(found: Mapping[str, str]) -> tuple[bool, bool]:
    """Whether any store, and whether the sessions are in Redis."""
    return any(driver == "redis" for name, driver in found.items() if name != SESSION), found[SESSION] == "redis"


def plan(inputs: Inputs, application: Inputs) -> dict[str, Any]:
    """Keys to set and to remove, and what the application must then use."""
    found, places = drivers(inputs, application), redis(inputs, application)
    cached, sessions = uses_redis(found)
    values: dict[str, Any] = {key: found[name] for name, key in _of(inputs, application, "stores", {}).items()}
    values["SESSION_DRIVER"] = found[SESSION]
    secrets: dict[str, Any] = {}
    expect: dict[str, Any] = {
        "stores": {name: driver for name, driver in found.items() if name != SESSION},
        "session_driver": found[SESSION],
    }
    passwords: dict[str, str] = {}

    def connect(purpose: str, prefix: str) -> None:
        place = places[purpose]
        values.update(
            {f"{prefix}HOST": place["host"], f"{prefix}PORT": place["port"], f"{prefix}DB": place["database"]}
        )
        secrets[f"{prefix}PASSWORD"] = place["password"] or None
        expect[f"{purpose}_redis"] = {key: place[key] for key in ("host", "port", "database")}
        passwords[purpose] = place["password"]

    if cached:
        connect("cache", "REDIS_")
        for name in ("redis_prefix", "cache_prefix"):
            prefix = _of(inputs, application, name)
            values.update({name.upper(): prefix} if prefix else {})
    if sessions:
        connection = _of(inputs, application, "session_connection", "session")
        values["SESSION_CONNECTION"] = expect["session_connection"] = connection
        connect(SESSION, "REDIS_" if connection == "default" else "SESSION_REDIS_")
    return {
        "values": {**values, **(application.get("values") or {})},
        "secrets": {**secrets, **(application.get("secrets") or {})},
        "remove": list(application.get("remove") or []),
        "expect": expect,
        "passwords": passwords,
        "names": sorted({*values, *secrets}),
    }


def parameters(inputs: Inputs, application: Inputs) -> list[dict[str, Any]]:
    """The same as parameters of AWS SSM. They become variables of a container: env() reads them, phpdotenv does not."""
    planned, path = plan(inputs, application), str(application.get("parameter_path") or "").rstrip("/")

    def text(value: Any) -> str:
        # A parameter cannot be empty; for this word env() gives an empty text.
        return dotenv_text.protected(value) or "(empty)"

    open_ones = [{"name": f"{path}/{key}", "value": text(value)} for key, value in planned["values"].items()]
    hidden = [{"name": f"{path}/{key}", "value": text(value)} for key, value in planned["secrets"].items()]
    gone = [{"name": f"{path}/{key}", "value": ""} for key in planned["remove"]]
    return [
        *({**one, "type": "String", "state": "present"} for one in open_ones),
        *({**one, "type": "SecureString", "state": "present"} for one in hidden),
        *({**one, "type": "String", "state": "absent"} for one in gone),
    ]


def problems(inputs: Inputs) -> Iterator[str]:
    """A sentence for everything that cannot work."""
    applications = inputs.get("laravel_env_applications") or []
    if not str(inputs.get("laravel_env_environment") or ""):
        yield "laravel_env_environment is empty: name the environment, such as stg."
    fallback = inputs.get("laravel_env_fallback") or ""
    if fallback not in ("", "file"):
        yield f'laravel_env_fallback is "{fallback}": use file, or leave it empty.'
    names = [str(application.get("name") or "") for application in applications]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'laravel_env_applications contains the name "{name}" twice: give each application a name of its own.'
    broken = False
    for application in applications:
        for sentence in _application(inputs, application):
            broken = True
            yield f"laravel_env_applications, {application.get('name') or 'without a name'}: {sentence}"
    if not broken:
        yield from _connections(inputs)
        yield from _shared_databases(inputs)


def _application(inputs: Inputs, application: Inputs) -> Iterator[str]:
    place = application.get("place") or "host"
    stores = _of(inputs, application, "stores", {}) or {}
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(application.get("name") or "")):
        yield f'name is "{application.get("name") or ""}": use letters, digits and _ . - only.'
    part_of = application.get("part_of")
    if part_of and part_of not in [one.get("name") for one in inputs.get("laravel_env_applications") or []]:
        yield f'part_of is "{part_of}", and no application has that name: correct it.'
    if place not in PLACES:
        yield f'place is "{place}": use {", ".join(PLACES)}.'
    needed = {"host": ["path"], "container": ["path", "env_file", "container"], "ssm": ["parameter_path"]}
    for name in needed.get(str(place), []):
        value = str(application.get(name) or "")
        if not value:
            yield f"{name} is missing, which place {place} needs."
        elif name != "container" and not value.startswith("/"):
            yield f'{name} is "{value}": write it from the root on, beginning with /.'
    for name, driver in {"driver": application.get("driver"), **(application.get("drivers") or {})}.items():
        if name not in ("driver", SESSION, *stores):
            yield f'drivers has "{name}", which is no store of laravel_env_stores: {", ".join([*stores, SESSION])}.'
        if driver and driver not in (*DRIVERS, *(["auto"] if name == "driver" else [])):
            what = name if name == "driver" else f"the driver of {name}"
            yield f'{what} is "{driver}", which is unknown: use {" or ".join(DRIVERS)}.'
    for name, default in (("database", 0), ("session_database", 1)):
        value = _of(inputs, application, name, default)
        if not re.fullmatch(r"\d{1,5}", str(value)):
            yield f'{name} is "{value}": write the number of a Redis database, 0 to 15 unless Redis has more.'
    yield from _extra(inputs, application)


def _extra(inputs: Inputs, application: Inputs) -> Iterator[str]:
    own = set(plan(inputs, {**application, "values": {}, "secrets": {}, "remove": []})["names"])
    values, secrets = application.get("values") or {}, application.get("secrets") or {}
    removed = application.get("remove") or []
    for kind, keys in (("values", values), ("secrets", secrets), ("remove", removed)):
        for key in sorted(own & set(keys)):
            yield f"{kind} contains {key}, which comes from the environment's Redis: take it out."
    for key in sorted(set(values) & set(secrets) | set(removed) & {*values, *secrets}):
        yield f"{key} stands in more than one of values, secrets and remove: leave it in one."
    for given in (values, secrets, dict.fromkeys(removed)):
        try:
            dotenv_text.check_values(given)
        except dotenv_text.Unwritable as error:
            yield f"{error}."


def _connections(inputs: Inputs) -> Iterator[str]:
    used = [uses_redis(drivers(inputs, one)) for one in inputs.get("laravel_env_applications") or []]
    caches, sessions = any(one[0] for one in used), any(one[1] for one in used)
    if not caches and not sessions:
        return
    own_sessions = bool(inputs.get("laravel_env_session_redis_host"))
    if (caches or not own_sessions) and not inputs.get("laravel_env_redis_host"):
        yield (
            "laravel_env_redis_host is empty, and applications are to use Redis: provision the environment first, or "
            "put it on files (-e laravel_env_fallback=file)."
        )
    for part in ("redis", "session_redis"):
        host, port = str(inputs.get(f"laravel_env_{part}_host") or ""), inputs.get(f"laravel_env_{part}_port")
        if re.fullmatch(r"[^:]+:\d*|\[.*\]:\d*", host):
            yield f'laravel_env_{part}_host is "{host}", which has a port in it: put that into laravel_env_{part}_port.'
        elif host and not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
            yield f'laravel_env_{part}_host is "{host}": write a host name or an address, without tcp:// or blanks.'
        if (port or part == "redis") and not (re.fullmatch(r"\d{1,5}", str(port)) and 0 < int(str(port)) < 65536):
            yield f'laravel_env_{part}_port is "{port}": write a port, such as 6379.'
        try:
            dotenv_text.check_values({"PASSWORD": str(inputs.get(f"laravel_env_{part}_password") or "")})
        except dotenv_text.Unwritable as error:
            yield f"laravel_env_{part}_password: {str(error).replace('the value of PASSWORD', 'it')}."


def _shared_databases(inputs: Inputs) -> Iterator[str]:
    taken: dict[tuple[str, str, str], tuple[str, str]] = {}
    for application in inputs.get("laravel_env_applications") or []:
        cached, sessions = uses_redis(drivers(inputs, application))
        places = redis(inputs, application)
        for purpose, wanted in (("cache", cached), (SESSION, sessions)):
            if not wanted:
                continue
            place = (str(places[purpose]["host"]), str(places[purpose]["port"]), str(places[purpose]["database"]))
            kind = "sessions" if purpose == SESSION else "caches"
            own = (kind, str(application.get("part_of") or application.get("name")))
            other = taken.setdefault(place, own)
            if other != own:
                yield (
                    f"the {own[0]} of {own[1]} and the {other[0]} of {other[1]} share database {place[2]} of "
                    f"{place[0]}:{place[1]}, and Laravel clears a cache by emptying its whole database: give one of "
                    "them another database or session_database."
                )
