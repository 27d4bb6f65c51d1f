"""Which keys an application's .env gets, what it must then use, and the same in words."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import dotenv_text
from ansible_collections.spotcache.redis.plugins.module_utils.laravel_databases import (
    Claim,
    share_out,
)
from ansible_collections.spotcache.redis.plugins.module_utils.laravel_layouts import assumed
from ansible_collections.spotcache.redis.plugins.module_utils.laravel_wishes import (
    DEFAULT,
    KEEP,
    SESSION,
    Configuration,
    Endpoint,
    Inputs,
    Wishes,
    Wishing,
    as_number,
    claims,
    endpoints,
    group,
    of,
    wants_redis,
)


def plan(
    inputs: Inputs, application: Inputs, configuration: Configuration, databases: Mapping[str, int]
) -> dict[str, Any]:
    """Keys to set and to remove, what the application must then use, and the same in words.

    Args:
        inputs: the role's public variables by name.
        application: one of the applications.
        configuration: what it says of itself.
        databases: a number for each of its Redis connections, by `laravel_databases.share_out`.
    """
    wishes, places = Wishing(inputs, application, configuration).make(), endpoints(inputs, application)
    connecting = Connecting(configuration, wishes)
    # Without a Redis that is to be used, what an application keeps in one of its own is nobody else's.
    connected = sorted(wishes.used) if wants_redis(inputs, application) else []
    for name in connected:
        place = places[SESSION if name == wishes.session_connection else "cache"]
        connecting.connect(name, place, databases.get(name))
    if connected:
        for name, path in (("redis_prefix", "database.redis.options.prefix"), ("cache_prefix", "cache.prefix")):
            connecting.prefix(name, path, str(of(inputs, application, name)))
    values, secrets = application.get("values") or {}, application.get("secrets") or {}
    removed = application.get("remove") or []
    owned = {*wishes.owned, *connecting.owned, *connecting.removed}
    for kind, keys in (("values", values), ("secrets", secrets), ("remove", removed)):
        for key in sorted(owned & set(keys)):
            if kind != "remove" or key not in connecting.removed:
                wishes.problems.append(f"{kind} contains {key}, which the plan decides: take it out.")
    return {
        "values": {**wishes.values, **connecting.values, **values},
        "secrets": {**connecting.secrets, **secrets},
        "remove": [*dict.fromkeys([*connecting.removed, *removed])],
        "expect": {
            "default_store": wishes.default_store,
            "stores": wishes.stores,
            "session_driver": wishes.session,
            "session_connection": wishes.session_connection if wishes.session == "redis" else "",
            "queue": wishes.queue,
            "broadcast": wishes.broadcast,
            "connections": connecting.expected,
            "kept": sorted(set(wishes.kept) - set(wishes.cleared)) if connected else [],
        },
        "passwords": connecting.passwords,
        "names": sorted({*owned, *values, *secrets}),
        # Connections that stay where they are.
        "stays": sorted(wishes.used - {*connected}),
        "words": [*wishes.words, *connecting.words],
        "problems": [*wishes.problems, *connecting.problems],
    }


class Connecting:
    """Brings Redis connections to where they are to lead."""

    def __init__(self, configuration: Configuration, wishes: Wishes) -> None:
        self.configuration, self.wishes = configuration, wishes
        self.values: dict[str, Any] = {}
        self.secrets: dict[str, Any] = {}
        self.removed: list[str] = []
        self.owned: set[str] = set()
        self.expected: dict[str, dict[str, Any]] = {}
        self.passwords: dict[str, str] = {}
        self.words: list[str] = []
        self.problems: list[str] = []

    def connect(self, name: str, place: Endpoint, database: int | None) -> None:
        """Have one of them lead to a Redis."""
        found = self.configuration["connections"].get(name)
        if found is None:
            known = ", ".join(self.configuration["connections"]) or "none"
            cluster = " as one of a cluster, which is no layout that is known" if self._clustered(name) else ""
            self.problems.append(
                f"it uses the Redis connection {name}, and config/database.php does not define it{cluster} (there is "
                f"{known}): define it there."
            )
            return
        own = found["own"]
        if found["url"]:
            self._without_url(name)
        scheme = self._key(name, "scheme")
        host = place.host
        if place.tls and not scheme:
            host = f"tls://{host}"
            if self.configuration["client"] != "phpredis":
                self.problems.append(
                    f"the Redis connection {name} has no scheme, and {self.configuration['client']} speaks TLS only "
                    "with one: add 'scheme' => env('REDIS_SCHEME', 'tcp') to it in config/database.php."
                )
        elif scheme and (place.tls or own["tls"]):
            self._put(scheme, "tls" if place.tls else "tcp")
        self._set(name, "host", host, own["host"])
        self._set(name, "port", place.port, own["port"])
        number = as_number(found["database"]) if database is None else database
        if number != as_number(own["database"]):
            self._set(name, "database", number, own["database"])
        elif self._key(name, "database"):
            self.owned.add(self._key(name, "database"))
        self._log_in(name, place)
        self.expected[name] = {"host": place.host, "port": place.port, "database": number}
        self.expected[name] |= {"username": place.username, "tls": place.tls}
        self.passwords[name] = place.password
        self._tell(name, place, number)

    def _log_in(self, name: str, place: Endpoint) -> None:
        """The user and the password, which is a list of both where phpredis knows no other way."""
        found = self.configuration["connections"][name]["own"]
        key = self._key(name, "username") or self._key(name, "password.0")
        if place.username and not (self._key(name, "password.0") or (key and self.configuration["username_key"])):
            self.problems.append(
                f"the Redis connection {name} gives Redis no user's name, and {place.username!r} is to log in there: "
                "add 'username' => env('REDIS_USERNAME') to it in config/database.php. With phpredis before Laravel "
                "9.6 write 'password' => [env('REDIS_USERNAME'), env('REDIS_PASSWORD')] instead, and where neither can "
                "be done set redis_default_user to true."
            )
        elif place.username:
            self._put(key, place.username)
        elif key and found["username"]:
            self._put(key, None)
        password = self._key(name, "password") or self._key(name, "password.1")
        if password:
            self._put(password, place.password or None, secret=True)

    def prefix(self, option: str, path: str, wanted: str) -> None:
        """Set a prefix, where one is given."""
        if not wanted:
            return
        key = self.configuration["keys"].get(path)
        if key:
            self._put(key, wanted)
        else:
            self.problems.append(
                f'{option} is "{wanted}", and no key of the .env reaches {path}: let it come from the .env there, by '
                "env()."
            )

    def _clustered(self, name: str) -> bool:
        return name in self.configuration["clusters"]

    def _key(self, name: str, setting: str) -> str:
        return str(self.configuration["keys"].get(f"database.redis.{name}.{setting}", ""))

    def _put(self, key: str, value: Any, *, secret: bool = False) -> None:
        target = self.secrets if secret else self.values
        if key in target and target[key] != value:
            shown = "" if secret else f" ({target[key]} and {value})"
            self.problems.append(
                f"{key} is to have two values at once{shown}: caches and sessions take theirs from the same key of the "
                ".env. Give their Redis connections keys of their own in config/database.php, or one Redis to both."
            )
        target[key] = value
        self.owned.add(key)

    def _set(self, name: str, setting: str, wanted: Any, now: Any) -> None:
        key = self._key(name, setting)
        if key:
            self._put(key, wanted)
        elif str(now or "") != str(wanted or "").removeprefix("tls://"):
            example = {"host": "REDIS_HOST", "port": "REDIS_PORT", "database": "REDIS_DB"}
            self.problems.append(
                f"the Redis connection {name} has no key of the .env for its {setting}, which is {now!r} and should be "
                f"{wanted!r}: write '{setting}' => env('{example[setting]}') in config/database.php."
            )

    def _without_url(self, name: str) -> None:
        key = self._key(name, "url")
        if not key:
            self.problems.append(
                f"the Redis connection {name} has a URL that is written into config/database.php, and it outdoes host, "
                "port and password: take it out there."
            )
        elif key not in self.removed:
            self.removed.append(key)
            self.words.append(f"{key} is removed: what it says goes into the keys for host, port and password.")

    def _tell(self, name: str, place: Endpoint, number: int) -> None:
        there = self.configuration["connections"][name]
        holds = [f"the stores {', '.join(self.wishes.cleared[name])}"] if name in self.wishes.cleared else []
        holds += dict.fromkeys(self.wishes.kept.get(name, []))
        before = f"{there['host']}:{there['port']} database {there['database']}"
        after = f"{place.host}:{place.port} database {number}"
        moved = after if before == after else f"{before} -> {after}"
        self.words.append(f"the Redis connection {name}: {moved} ({' and '.join(holds) or 'locks'}).")


Asked = Mapping[str, Mapping[str, Configuration]]


def _everyones_claims(inputs: Inputs, asked: Asked) -> tuple[list[Claim], list[str]]:
    """The databases that the applications want, and the names of those that nobody could ask."""
    found: dict[tuple[str, str], Claim] = {}
    unasked = []
    place = endpoints(inputs, {})
    for given in inputs.get("laravel_env_applications") or []:
        if not wants_redis(inputs, given):
            continue
        application = _layout_said(inputs, given) if given.get("place") == "ssm" else given
        name = str(application.get("name"))
        answers = [asked[host][name] for host in sorted(asked) if name in asked[host]]
        if application.get("place") == "ssm":
            answers = [assumed(inputs, application)]
        own = [one for answer in answers for one in claims(inputs, application, answer)]
        if not answers:
            numbers = {"caches": application.get("database"), "sessions": application.get("session_database")}
            if None in numbers.values():
                unasked.append(name)
            at = f"{place['cache'].host}:{place['cache'].port}"
            own = [
                Claim(group(application), kind, "", kind, "", as_number(number), None, True, at)
                for kind, number in numbers.items()
                if number is not None
            ]
        # Where hosts of one application do not agree, the one counts that has its data there.
        for claim in sorted(own, key=lambda one: not one.in_place):
            found.setdefault((claim.group, claim.connection), claim)
    return list(found.values()), unasked


def _layout_said(inputs: Inputs, application: Inputs) -> Inputs:
    """With stores that are named, the default store of an application in ECS is not known and stays."""
    layout = application.get("layout") or ("stores" if of(inputs, application, "stores", {}) else "")
    if layout == "stores":
        return {**application, "drivers": {DEFAULT: KEEP, **(application.get("drivers") or {})}}
    return application


def planned_for(inputs: Inputs, application: Inputs, asked: Asked, host: str) -> dict[str, Any]:
    """The plan of one application, with the databases shared out among all of them.

    Args:
        inputs: the role's public variables by name.
        application: one of the applications.
        asked: what each host of the run has been told by each of its applications.
        host: the host that the plan is for; for ECS it does not matter.
    """
    everyones, unasked = _everyones_claims(inputs, asked)
    shares = share_out(everyones)
    if application.get("place") == "ssm":
        application = _layout_said(inputs, application)
        configuration = assumed(inputs, application)
    else:
        configuration = asked[host][str(application["name"])]
    own = group(application)
    planned = plan(inputs, application, configuration, shares.numbers.get(own, {}))
    where = f"laravel_env_applications, {application.get('name')}: "
    planned["problems"] = [where + one for one in planned["problems"]] + shares.problems
    others = [name for name in unasked if name != application.get("name")]
    if others and planned["expect"]["connections"]:
        planned["problems"].append(
            f"{where}nobody could ask {', '.join(others)} for its databases in the same Redis (a host that is not "
            "reached, or --limit): run it for all hosts, or say database and session_database for it."
        )
    planned["words"] += shares.words.get(own, [])
    return planned


def parameters(inputs: Inputs, application: Inputs) -> list[dict[str, Any]]:
    """The same as parameters of AWS SSM. They become variables of a container: env() reads them, phpdotenv does not."""
    planned = planned_for(inputs, application, {}, "")
    path = str(application.get("parameter_path") or "").rstrip("/")

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
