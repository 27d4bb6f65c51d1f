"""What an application is to use, from the role's variables and from what it says of itself.

The configuration is what the module laravel_app returns: every store, every Redis connection, and in `keys` the key of
the .env that decides a setting, by the setting's own path, such as `database.redis.cache.database`.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils.laravel_databases import Claim

Inputs = Mapping[str, Any]
Configuration = Mapping[str, Any]
# Environments that keep their caches and sessions in Redis unless they are told otherwise.
REDIS_ENVIRONMENTS = ("prod", "stg", "production", "staging")
DRIVERS = ("redis", "file")
PLACES = ("host", "container", "ssm")
SESSION = "session"
DEFAULT, QUEUE, BROADCAST = "default", "queue", "broadcast"
KEEP = "keep"
# A default store of another kind, such as memcached or failover, was chosen on purpose and stays.
REPLACED = ("", "file", "database", "array", "null", "redis")
# What does without Redis where files are no driver: jobs are done at once, events are told nobody.
WITHOUT_REDIS = {QUEUE: "sync", BROADCAST: "null"}


def of(inputs: Inputs, application: Inputs, name: str, default: Any = "") -> Any:
    """An application's own setting, or the role's variable of that name."""
    own = application.get(name)
    if own is not None and own != "":
        return own
    value = inputs.get(f"laravel_env_{name}")
    return default if value is None else value


def group(application: Inputs) -> str:
    """The application of which this is a part, or itself."""
    return str(application.get("part_of") or application.get("name"))


def common_driver(inputs: Inputs, application: Inputs) -> str:
    """Where an application keeps what it does not say anything else about."""
    fallback = str(inputs.get("laravel_env_fallback") or "")
    common = str(of(inputs, application, "driver", "auto"))
    if common == "auto":
        common = "redis" if inputs.get("laravel_env_environment") in REDIS_ENVIRONMENTS else "file"
    return fallback or common


def driver(inputs: Inputs, application: Inputs, name: str) -> str:
    """The driver of a store, of `default`, `session`, `queue` or `broadcast`; `keep` for what stays as it is."""
    own = str((application.get("drivers") or {}).get(name) or "")
    if own == KEEP or (name in WITHOUT_REDIS and not own):
        return KEEP
    fallback = str(inputs.get("laravel_env_fallback") or "")
    return fallback or own or common_driver(inputs, application)


@dataclass(frozen=True)
class Endpoint:
    """A Redis: where it is and how to log in."""

    host: str
    port: int
    username: str
    password: str
    tls: bool


def endpoints(inputs: Inputs, application: Inputs) -> dict[str, Endpoint]:
    """The Redis of the caches, and that of the sessions, which is the same one unless something else is said.

    An application logs in as a user of its own there, or as that of all.
    """
    user = application.get("redis_user")
    own_user = next(
        (one for one in inputs.get("laravel_env_redis_users") or [] if user and one.get("name") == user), None
    )

    def one(prefix: str, port: Any) -> Endpoint:
        def given(name: str) -> Any:
            return inputs.get(f"laravel_env_{prefix}_{name}")

        number = given("port") or port
        return Endpoint(
            str(given("host") or ""),
            int(number) if str(number).isdigit() else 0,
            str(given("username") or ""),
            str(given("password") or ""),
            bool(given("tls")),
        )

    cache = one("redis", 0)
    if own_user:
        cache = replace(cache, username=str(user), password=str(own_user.get("password") or ""))
    # A Redis of its own has a user and a password of its own; none at all is possible there.
    own = inputs.get("laravel_env_session_redis_host")
    return {"cache": cache, SESSION: one("session_redis", cache.port) if own else cache}


@dataclass
class Wishes:
    """What an application is to use, before the databases are shared out."""

    stores: dict[str, str] = field(default_factory=dict)
    default_store: str = ""
    session: str = ""
    session_connection: str = ""
    queue: str = ""
    broadcast: str = ""
    # Redis connections: those that a store may be cleared on, those of what must outlive that, and all that are in use.
    cleared: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)
    owned: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Wishing:
    """Makes the wishes of one application from its configuration."""

    def __init__(self, inputs: Inputs, application: Inputs, configuration: Configuration) -> None:
        self.inputs, self.application, self.configuration = inputs, application, configuration
        self.keys: Mapping[str, str] = configuration["keys"]
        self.found = Wishes()

    def make(self) -> Wishes:
        """All of them."""
        self._stores()
        self._default_store()
        after = {name: self.found.stores.get(name) or one["driver"] for name, one in self._all_stores().items()}
        for name, kind in after.items():
            if kind == "redis":
                self.found.cleared.setdefault(self._all_stores()[name]["connection"], []).append(name)
        for name in {*self.found.stores, self.found.default_store or self.configuration["default_store"]}:
            if after.get(name) == "redis":
                one = self._all_stores()[name]
                self.found.used |= {one["connection"], one["lock_connection"]}
        self._sessions(after)
        self._chosen(QUEUE, "queue.default", "queue.connections")
        self._chosen(BROADCAST, "broadcasting.default", "broadcasting.connections")
        if self.configuration["horizon"]:
            self._keep(self.configuration["horizon"], "Horizon")
        self._locks()
        self._jobs_apart()
        self._neighbours()
        return self.found

    def _all_stores(self) -> Mapping[str, Any]:
        return self.configuration["stores"] or {}

    def _keep(self, connection: str, what: str) -> None:
        self.found.kept.setdefault(connection, []).append(what)
        self.found.used.add(connection)

    def _set(self, path: str, wanted: Any, now: Any, what: str) -> None:
        """Have the configuration at a path be something else, if it is not."""
        key = self.keys.get(path)
        if key:
            self.found.owned.add(key)
        if str(now) == str(wanted):
            return
        if not key:
            part = path.partition(".")[0]
            self.found.problems.append(
                f"{what} is {now!r}, written into config/{part}.php, and {wanted!r} is wanted: let it come from the "
                f".env there, by env()."
            )
            return
        self.found.values[key] = wanted
        self.found.words.append(f"{what}: {now or 'nothing'} -> {wanted} ({key}).")

    def _stores(self) -> None:
        given = of(self.inputs, self.application, "stores", {}) or {}
        stores = self._all_stores()
        switched = {name: self.keys[path] for name in stores if (path := f"cache.stores.{name}.driver") in self.keys}
        for name, key in given.items():
            if name not in stores:
                self.found.problems.append(
                    f"stores has {name!r}, and config/cache.php defines no such store: define it there, or take it out."
                )
            elif key == self.keys.get("cache.default"):
                self.found.problems.append(
                    f"stores has {key} for {name!r}, and that key chooses the default store, not the driver of a "
                    "store; the default store is found without it: take it out of stores."
                )
            elif switched.get(name) != key:
                actual = switched.get(name)
                self.found.problems.append(
                    f"stores has {key} for {name!r}, and config/cache.php "
                    + (f"reads {actual} there: correct it." if actual else "reads no key for its driver: take it out.")
                )
        for name in given or switched:
            kind = driver(self.inputs, self.application, name)
            if name in switched and name in stores and kind != KEEP:
                self.found.stores[name] = kind
                self._set(f"cache.stores.{name}.driver", kind, stores[name]["driver"], f"the store {name}")
        for name in self.application.get("drivers") or {}:
            if name not in (DEFAULT, SESSION, QUEUE, BROADCAST, *switched):
                choices = ", ".join([*sorted(switched), DEFAULT, SESSION, QUEUE, BROADCAST])
                self.found.problems.append(
                    f"drivers has {name!r}, and no key of the .env chooses the driver of such a store: use {choices}."
                )

    def _default_store(self) -> None:
        stores, current = self._all_stores(), str(self.configuration["default_store"])
        wanted = driver(self.inputs, self.application, DEFAULT)
        now = str((stores.get(current) or {}).get("driver") or "")
        if wanted == KEEP or (current in stores and now not in REPLACED and current not in self.found.stores):
            if wanted != KEEP:
                self.found.words.append(f"the default store stays {current}, whose driver is {now}.")
            return
        if current in stores and (self.found.stores.get(current) or now) == wanted:
            self.found.default_store = current
        else:
            fitting = [
                name for name, one in stores.items() if one["driver"] == wanted and name not in self.found.stores
            ] + [name for name, kind in self.found.stores.items() if kind == wanted]
            if not fitting:
                self.found.problems.append(
                    f"config/cache.php has no store with the driver {wanted}, which the default store is to be: define "
                    "one, or say drivers: {default: keep}."
                )
                return
            self.found.default_store = wanted if wanted in fitting else fitting[0]
        self._set("cache.default", self.found.default_store, current, "the default store")

    def _sessions(self, after: Mapping[str, str]) -> None:
        wanted, now = driver(self.inputs, self.application, SESSION), self.configuration["session"]
        if wanted == KEEP:
            wanted = now["driver"]
            if wanted == "redis":
                self.found.session_connection = now["connection"] or "default"
                self._keep(self.found.session_connection, "sessions")
            return
        self.found.session = wanted
        if wanted == "redis":
            connection = self._session_connection(now["connection"] or "default")
            if not connection:
                return
            self.found.session_connection = connection
            self._keep(connection, "sessions")
            self._set("session.connection", connection, now["connection"] or "default", "the sessions' connection")
            self._session_store(after, str(now["store"]))
        self._set("session.driver", wanted, now["driver"], "the sessions")

    def _session_connection(self, current: str) -> str:
        """The connection for the sessions: never one that a store is cleared on."""
        connections, cleared = self.configuration["connections"], self.found.cleared
        given = str(of(self.inputs, self.application, "session_connection"))
        if given:
            if given not in connections:
                self.found.problems.append(
                    f'session_connection is "{given}", and config/database.php defines no such Redis connection: '
                    f"define it there, or use one of {', '.join(connections)}."
                )
                return ""
            candidates = [given]
        else:
            candidates = [current, "session", "sessions", "default", *sorted(connections)]
        for name in candidates:
            if name in connections and name not in cleared:
                return name
        stores = ", ".join(sorted({store for names in cleared.values() for store in names}))
        what = f'session_connection is "{given}", on which' if given else "on each of its Redis connections"
        self.found.problems.append(
            f"{what} there is a store as well ({stores}), and Laravel clears a store by emptying its whole database: "
            "define one more connection, such as session, in config/database.php, with a database of its own."
        )
        return ""

    def _session_store(self, after: Mapping[str, str], current: str) -> None:
        """Sessions in Redis are written by a store with that driver: SESSION_STORE, or the one called redis."""
        if after.get(current or "redis") == "redis":
            return
        fitting = [name for name, kind in after.items() if kind == "redis"]
        if not fitting:
            self.found.problems.append(
                "sessions cannot be in Redis without a cache store whose driver is redis: define one in "
                "config/cache.php, best with the name redis."
            )
            return
        wanted = "redis" if "redis" in fitting else fitting[0]
        self._set("session.store", wanted, current or "redis", "the store that writes the sessions")

    def _chosen(self, what: str, path: str, connections_path: str) -> None:
        """The queue and the broadcasts: followed where they are in Redis, and moved only when that is said."""
        now = self.configuration[what]
        wanted, current = driver(self.inputs, self.application, what), str(now["default"])
        chosen = current
        if wanted != KEEP:
            kind = WITHOUT_REDIS[what] if wanted == "file" else wanted
            fitting = [name for name, one in now["connections"].items() if one["driver"] == kind]
            if (now["connections"].get(current) or {}).get("driver") != kind:
                if not fitting:
                    self.found.problems.append(
                        f"drivers has {wanted} for {what}, and config/{connections_path.partition('.')[0]}.php has no "
                        f"connection with the driver {kind}: define one, or take it out."
                    )
                    return
                chosen = kind if kind in fitting else fitting[0]
            self._set(path, chosen, current, f"the {what}")
            setattr(self.found, what, chosen)
        one = now["connections"].get(chosen) or {}
        if one.get("driver") == "redis":
            if what == QUEUE:
                self._keep(str(one["connection"]), "jobs")
            else:
                self.found.used.add(str(one["connection"]))
            if wanted == KEEP and self.inputs.get("laravel_env_fallback"):
                self.found.words.append(
                    f"the {what} stays in Redis, and the fallback does not change that: say drivers: {{{what}: redis}} "
                    "to have it go and come back as well."
                )

    def _neighbours(self) -> None:
        """Connections of stores that nobody is known to use: those that go along, and those that are elsewhere."""
        hosts = {self._host_key(name) for name in self.found.used} - {""}
        for name in set(self.found.cleared) - self.found.used:
            if self._host_key(name) in hosts:
                self.found.used.add(name)

    def _host_key(self, connection: str) -> str:
        return str(self.keys.get(f"database.redis.{connection}.host", ""))

    def _locks(self) -> None:
        """Where Laravel can clear the locks of a store, it empties the database of their connection."""
        if not self.configuration["flushes_locks"]:
            return
        for names in [list(names) for names in self.found.cleared.values()]:
            for name in names:
                one = self._all_stores()[name]
                if one["lock_connection"] in self.found.kept:
                    path = f"cache.stores.{name}.lock_connection"
                    if path in self.keys:
                        what = f"the connection for the locks of the store {name}"
                        self._set(path, one["connection"], one["lock_connection"], what)
                    else:
                        self.found.words.append(
                            f"cache:clear --locks would empty the database of {one['lock_connection']}, where "
                            f"{' and '.join(self.found.kept[one['lock_connection']])} are as well."
                        )

    def _jobs_apart(self) -> None:
        """Jobs on a connection on which a store is cleared: another one where the .env can say so, a word elsewhere."""
        name = self.found.queue or str(self.configuration[QUEUE]["default"])
        one = self.configuration[QUEUE]["connections"].get(name) or {}
        connection = one.get("connection")
        if one.get("driver") != "redis" or connection not in self.found.cleared:
            return
        path = f"queue.connections.{name}.connection"
        free = [other for other in self.found.kept if other not in self.found.cleared]
        if path in self.keys and free:
            self._set(path, free[0], connection, "the Redis connection of the queue")
            self.found.kept[free[0]].append("jobs")
        else:
            self.found.words.append(
                f"jobs are on the Redis connection {connection}, and so are the stores "
                f"{', '.join(self.found.cleared[connection])}: clearing one of these deletes the jobs as well. Another "
                "connection for the queue can be said in config/queue.php only."
            )
        self.found.kept.pop(str(connection), None)


def claims(inputs: Inputs, application: Inputs, configuration: Configuration) -> list[Claim]:
    """The databases that an application wants, for `laravel_databases.share_out`."""
    wishes, places = Wishing(inputs, application, configuration).make(), endpoints(inputs, application)
    found = []
    for name in sorted(wishes.used | set(wishes.cleared)):
        connection = configuration["connections"].get(name)
        if connection is None or not wishes.used:
            continue
        if name not in wishes.used:
            there = f"{connection['host']}:{connection['port']}"
            number = as_number(connection["database"])
            found.append(Claim(group(application), name, "", "caches", "", number, None, False, there))
            continue
        sessions = name == wishes.session_connection
        kind = "caches" if name in wishes.cleared else " and ".join(dict.fromkeys(wishes.kept.get(name, ["locks"])))
        option = "database" if name in wishes.cleared else "session_database" if sessions else ""
        given = of(inputs, application, option, None) if option else None
        place = places[SESSION if sessions else "cache"]
        found.append(
            Claim(
                group=group(application),
                connection=name,
                key=configuration["keys"].get(f"database.redis.{name}.database", ""),
                kind=kind,
                option=option,
                current=as_number(connection["database"]),
                given=None if given is None or given == "" else as_number(given),
                in_place=_in_place(wishes, configuration, name),
                place=f"{place.host}:{place.port}",
            )
        )
    return found


def as_number(value: Any) -> int:
    """A database's number; without one it is 0, as Redis has it."""
    text = str(value).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else 0


def _in_place(wishes: Wishes, configuration: Configuration, connection: str) -> bool:
    """Whether the application keeps there already what it is to keep there."""
    session = configuration["session"]
    if session["driver"] == "redis" and (session["connection"] or "default") == connection:
        return True
    used = {*wishes.stores, configuration["default_store"]}
    on_it = [one for name, one in (configuration["stores"] or {}).items() if name in used]
    queue = configuration[QUEUE]["connections"].get(configuration[QUEUE]["default"]) or {}
    if queue.get("driver") == "redis" and queue["connection"] == connection:
        return True
    return any(one["driver"] == "redis" and one["connection"] == connection for one in on_it)


def wants_redis(inputs: Inputs, application: Inputs) -> bool:
    """Whether an application is to keep anything in Redis, as far as the inputs say."""
    if inputs.get("laravel_env_fallback"):
        return False
    return "redis" in (common_driver(inputs, application), *(application.get("drivers") or {}).values())
