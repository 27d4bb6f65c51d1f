#!/usr/bin/python
"""A Laravel application asked what it really uses, by artisan's way in and in php-fpm itself."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: laravel_app
short_description: Ask a Laravel application what it really uses, and let it take up a new .env
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - What stands in a C(.env) is not what an application uses - a cached configuration, a variable of the container, a
    URL that overrides a host or PHP's opcache may stand between them. This starts the application as artisan does, and
    again by a request to php-fpm itself, without a web server, and compares what both say with what is expected.
  - Each Redis connection in use is pinged, and each store is written to and read, so that a wrong password, an unknown
    driver or a directory that PHP may not write to shows with Laravel's own error.
  - The configuration is cached anew only where a cache is in use. It takes the old one's place in one step, and is as
    that was in owner, group, mode, ACL and SELinux context.
  - Runs PHP as the application's user, never as root, whose files that user could not write to later.
options:
  fpm:
    description:
      - Where php-fpm listens, as a socket's path or C(address:port), as seen from where PHP runs. V(auto) tries
        Debian's sockets and port 9000; V(none) is for an application without php-fpm, such as a worker.
    type: str
    default: auto
  state:
    description:
      - V(inspected) looks.
      - V(located) only sees whether there is an application, who reads its C(.env), and by which grammar.
      - V(described) returns the whole configuration that the application makes of its C(.env), cached or not, and the
        keys of the C(.env) that decide it. Nothing is reached for that.
      - V(applied) caches the configuration anew where a cache is in use, lets php-fpm forget the old one, and tells
        queue workers.
      - V(restored) puts back the cached configuration of before, and does the same.
    type: str
    choices: [inspected, located, described, applied, restored]
    default: inspected
  env_file:
    description: The application's C(.env) on this host. When given, the application must be reading that very file.
    type: path
    default: ''
  try_env:
    description:
      - Name of a file beside the C(.env) to start the application with instead, before it is put in place. A cached
        configuration and php-fpm are left out then.
    type: str
    default: ''
  old_env:
    description: Name of the file of before, beside the C(.env). Queue workers that still look there are told as well.
    type: str
    default: ''
  config_backup:
    description: What RV(config_backup) was when the state was applied, for O(state=restored).
    type: str
    default: ''
  config_before:
    description: What RV(config_before) was when the state was applied, for O(state=restored).
    type: dict
    default: {}
  workers:
    description: Whether the application has queue workers, which keep the configuration they were started with.
    type: bool
    default: false
  ping:
    description: Whether to reach the stores and the Redis connections. Never in check mode.
    type: bool
    default: true
  expect:
    description: What the application must use. What is left out is not compared.
    type: dict
    default: {}
    suboptions:
      default_store:
        description: The store that is used where none is named.
        type: str
        default: ''
      stores:
        description: Cache stores and their drivers.
        type: dict
        default: {}
      session_driver:
        description: Driver of the sessions.
        type: str
        default: ''
      session_connection:
        description: Redis connection of the sessions. Laravel silently takes C(default) for one that is not set.
        type: str
        default: ''
      queue:
        description: Connection of the queue.
        type: str
        default: ''
      broadcast:
        description: Connection of the broadcasts.
        type: str
        default: ''
      connections:
        description: Redis connections, each with C(host), C(port), C(database), C(username) and C(tls).
        type: dict
        default: {}
      kept:
        description:
          - Redis connections with what must outlive the clearing of a cache. A key is put there, and a session, and
            both must be out of reach of every store; a store whose database is empty is really cleared.
        type: list
        elements: str
        default: []
  passwords:
    description: The passwords of these Redis connections.
    type: dict
    default: {}
  names:
    description: Variables that a C(.env) cannot set when the environment has them already; those found are named.
    type: list
    elements: str
    default: []
  must_match:
    description: Whether to fail when anything is not as expected.
    type: bool
    default: false
  timeout:
    description: Seconds for a server to answer.
    type: int
    default: 5
extends_documentation_fragment:
  - spotcache.redis.application
  - spotcache.redis.attributes.no_diff
attributes:
  check_mode:
    description: Asks artisan's way in only, and writes nothing.
    support: full
"""

EXAMPLES = r"""
- name: See what the application uses
  spotcache.redis.laravel_app:
    path: /srv/app
    expect: {stores: {method: redis}, connections: {default: {host: 10.0.0.4, port: 6379, database: 0}}}
  register: app

- name: Let the application in a container take up its new .env
  spotcache.redis.laravel_app:
    path: /srv/app
    container: shop-php
    state: applied
"""

RETURN = r"""
problems:
  description: A sentence for everything that is not as expected, and for everything that the application fails in.
  returned: success
  type: list
  elements: str
cli:
  description: What the application says when it is started as artisan does.
  returned: O(state=inspected)
  type: dict
fpm:
  description: What it says in php-fpm. Empty when that was not asked.
  returned: O(state=inspected)
  type: dict
configuration:
  description:
    - What the application makes of its C(.env) - C(default_store), C(stores), C(session), C(queue), C(broadcast),
      C(horizon), C(prefix), C(client), C(connections) and C(flushes_locks).
    - C(keys) has the key of the C(.env) that decides a setting, by the setting's path.
    - C(config_cached), C(cache_file) and C(cache_owner) say whether and where it is cached, and whose that file is.
  returned: O(state=described)
  type: dict
grammar:
  description: What the application's phpdotenv reads that older versions do not, as M(spotcache.redis.dotenv) wants it.
  returned: O(state=located)
  type: list
  elements: str
uses:
  description: What O(expect) would have to be for the application to be as it is. Empty when it does not say.
  returned: O(state=inspected)
  type: dict
unreachable:
  description: A sentence when nobody listens where php-fpm was looked for, else empty.
  returned: O(state=inspected)
  type: str
apart:
  description: A sentence for everything in which php-fpm is another than artisan.
  returned: O(state=inspected)
  type: list
  elements: str
config_cached:
  description: Whether the application uses a cached configuration.
  returned: O(state=inspected) or O(state=applied)
  type: bool
config_backup:
  description: Where the cached configuration of before is kept, as PHP sees it. Empty when none was replaced.
  returned: O(state=applied)
  type: str
config_before:
  description: Owner, group, mode, ACL and SELinux context of the cached configuration before it was replaced.
  returned: O(state=applied)
  type: dict
config_restored:
  description: The cached configuration that was put back, with its mode, owner and group.
  returned: O(state=restored)
  type: str
reader:
  description: The application's user, as M(spotcache.redis.dotenv) wants it.
  returned: success
  type: str
"""

import base64
import hashlib
import hmac
import json
import os
import pwd
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import file_attributes, programs
from ansible_collections.spotcache.redis.plugins.module_utils.laravel_program import find_answer, script

# Nothing of Ansible's own environment may reach PHP: a variable that is set there outdoes the .env.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
PATIENCE = 60


class Trouble(Exception):
    """A sentence for the person: what does not work, and the fix."""


class Unreachable(Trouble):
    """Nobody listens where php-fpm was looked for."""


@dataclass(frozen=True)
class Application:
    """Where the application lives, and how to run its PHP there."""

    path: str
    user: str
    php: str
    container: str
    fpm: str
    timeout: int

    @property
    def place(self) -> str:
        """For a sentence."""
        return f"{self.path} in the container {self.container}" if self.container else self.path

    def command(self, *words: str) -> list[str]:
        """The command line that runs something as the application's user."""
        if self.container:
            return ["docker", "exec", "-i", "-u", self.user, self.container, *words]
        if os.geteuid() == 0 and self.user != "root":
            return ["runuser", "-u", self.user, "--", *words]
        return list(words)

    def run(self, words: list[str], text: str = "") -> programs.Done:
        """Run it; PHP that does not end is ended.

        Raises:
            Trouble: it did not end, or the program is missing.
        """
        try:
            return programs.run(
                words, text.encode(), timeout=PATIENCE + 6 * self.timeout, environment=ENVIRONMENT, directory="/"
            )
        except programs.TimeoutExpired:
            raise Trouble(f"{self.place}: PHP did not end within {PATIENCE + 6 * self.timeout} s.") from None
        except FileNotFoundError:
            raise Trouble(f"{words[0]} is missing on this host: install it, or correct container and php.") from None

    def reader(self) -> str:
        """The user, by name on the host and by numbers in a container.

        Raises:
            Trouble: there is no such user, or no such container.
        """
        if not self.container:
            try:
                pwd.getpwnam(self.user)
            except KeyError:
                raise Trouble(
                    f'user is "{self.user}", and this host has no such user: name the one php-fpm runs as.'
                ) from None
            return self.user
        look = self.run(["docker", "inspect", "--format", "{{.State.Running}} {{json .Mounts}}", self.container])
        if look.returncode or not look.stdout.startswith("true "):
            state = "is not there" if look.returncode else "does not run"
            raise Trouble(f"The container {self.container} {state} on this host: start it, or correct container.")
        for mount in json.loads(look.stdout.partition(" ")[2]):
            if mount.get("Destination") == f"{self.path}/.env":
                raise Trouble(
                    f"{self.path}/.env is mounted into the container {self.container} as a single file: what replaces "
                    f"it stays invisible there until the container starts anew. Mount its directory, and let "
                    f"{self.path}/.env be a symbolic link into it."
                )
        numbers = self.run(["docker", "exec", "-u", self.user, self.container, "sh", "-c", "id -u && id -g"])
        found = numbers.stdout.split()
        if numbers.returncode or len(found) != 2:
            raise Trouble(f'user is "{self.user}", and the container {self.container} has no such user.')
        return ":".join(found)

    def locate(self) -> list[str]:
        """See whether there is an application. Returns what its phpdotenv reads that older ones do not.

        Raises:
            Trouble: there is none.
        """
        found: list[str] = self.ask(self.question("grammar"))["grammar"]
        return found

    def no_application(self) -> Trouble:
        """What to say then."""
        return Trouble(
            f"{self.place} is no Laravel application that {self.user} can read (artisan, vendor/autoload.php and "
            "bootstrap/app.php are expected there): deploy it first, or correct the path."
        )

    def on_host(self, path: str) -> str:
        """Where a file of the application's is on this host; in a container it is below that one's own root.

        Raises:
            Trouble: the container does not run here.
        """
        if not self.container:
            return path
        look = self.run(["docker", "inspect", "--format", "{{.State.Pid}}", self.container])
        process = look.stdout.strip()
        if look.returncode or not os.path.isdir(f"/proc/{process}/root") or process == "0":
            raise Trouble(f"The container {self.container} does not run on this host: start it, or correct container.")
        return f"/proc/{process}/root{path}"

    def question(self, do: str, **more: Any) -> dict[str, Any]:
        """A question with all its parts."""
        common = {"do": do, "path": self.path, "fpm": self.fpm, "timeout": self.timeout, "patience": PATIENCE}
        empty = {"token": secrets.token_hex(8), "env_file": "", "stores": [], "names": [], "ping": False}
        empty |= {"connections": [], "kept": [], "uncached": False}
        return {**common, **empty, "cache_file": "", "program": "", **more}

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Ask by artisan's way in.

        Raises:
            Trouble: PHP gave no answer, or there is no application.
        """
        done = self.run(self.command(self.php), script(question))
        answer = find_answer(done.stdout, question["token"])
        if answer is None:
            raise Trouble(f"{self.place}: {self.last_words(done.stdout + done.stderr) or 'PHP says nothing'}.")
        if answer.get("artisan") is False:
            raise self.no_application()
        return answer

    def ask_fpm(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Ask in php-fpm.

        Raises:
            Trouble: it cannot be asked.
        """
        packed = base64.b64encode(script(question).encode()).decode()
        done = self.ask({**self.question("fpm", program=packed), "token": question["token"]})
        if "unwritable" in done:
            raise Trouble(f"{self.place}: {self.user} cannot write to {done['unwritable']}: give the directory to it.")
        if "tried" in done:
            raise Unreachable(
                f"{self.place}: php-fpm does not answer at {' or '.join(done['tried'])}: start it, or say in fpm where "
                "it listens (none when the application has no php-fpm)."
            )
        answer = find_answer(str(done["out"]), question["token"])
        if answer is None:
            said = self.last_words(f"{done['out']}\n{done['errors']}")
            why = said or (
                "no answer in time" if done["late"] else "an empty answer, as with a .env that does not parse"
            )
            raise Trouble(f"{self.place}: php-fpm ({done['address']}) gives {why}.")
        return {**answer, "address": done["address"]}

    @staticmethod
    def last_words(text: str) -> str:
        """The end of what was printed, without the value that phpdotenv quotes and without headers."""
        lines = [re.sub(r" at \[.*", "", line.strip()) for line in text.splitlines()]
        spoken = [line for line in lines if line and not re.match(r"(Status|Content-type|X-Powered-By):", line, re.I)]
        return " ".join(spoken[-4:])[-600:].rstrip(".")


def digest(token: str, text: str) -> str:
    """As the program makes it of a password."""
    return hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()


def connection_problems(
    answer: Mapping[str, Any], name: str, wanted: Mapping[str, Any], password: str | None, token: str
) -> Iterator[str]:
    """What is not as expected with a Redis connection."""
    found = answer["connections"].get(name)
    if found is None:
        yield f"has no Redis connection {name}: define it in config/database.php"
        return
    hint = " (a URL in the connection's settings, such as REDIS_URL, overrides it)" if found["url"] else ""
    for key, value in wanted.items():
        if str(found[key]) != str(value):
            yield f"uses the {key} {found[key]!r} for the Redis connection {name}, not {value!r}{hint}"
    if password is not None and found["password"] != digest(token, password):
        yield f"uses another password for the Redis connection {name} than the one that is set{hint}"


def problems(
    answer: Mapping[str, Any], expect: Mapping[str, Any], passwords: Mapping[str, str], token: str
) -> Iterator[str]:
    """Everything that is not as expected, each the second half of a sentence."""
    if "failed" in answer:
        yield f"fails: {answer['failed'].rstrip('.')}"
        return
    if not answer["environment_readable"] and not answer["config_cached"]:
        yield f"cannot read {answer['environment_file']}, and so uses its defaults"
    default = expect.get("default_store")
    if default and answer["default_store"] != default:
        yield f"uses {answer['default_store']!r} as its default store, not {default!r}"
    for name, driver in (expect.get("stores") or {}).items():
        store = answer["stores"].get(name)
        if store is None:
            yield f"has no cache store {name}: define it in config/cache.php"
        elif store["driver"] != driver:
            yield f"uses the driver {store['driver']!r} for the store {name}, not {driver!r}"
    session, driver = answer["session"], expect.get("session_driver")
    if driver and session["driver"] != driver:
        yield f"uses the driver {session['driver']!r} for sessions, not {driver!r}"
    elif driver == "redis":
        name = session["connection"] or "default"
        if expect.get("session_connection") and name != expect["session_connection"]:
            yield f"keeps sessions on the Redis connection {name}, not on {expect['session_connection']}"
    for what in ("queue", "broadcast"):
        wanted = expect.get(what)
        if wanted and answer[what]["default"] != wanted:
            yield f"uses {answer[what]['default']!r} for the {what}, not {wanted!r}"
    for name, there in (expect.get("connections") or {}).items():
        yield from connection_problems(answer, name, there, passwords.get(name), token)
    for error in answer["errors"]:
        yield f"fails with {error['what']}: {error['error'].rstrip('.')}"


def file_problem(answer: Mapping[str, Any], env_file: str, token: str) -> str:
    """Whether the application reads the file that was written."""
    if not env_file or answer.get("config_cached") or not answer.get("environment_digest"):
        return ""
    with open(env_file, "rb") as handle:
        own = hmac.new(token.encode(), handle.read(), hashlib.sha256).hexdigest()
    if own == answer["environment_digest"]:
        return ""
    return (
        f"reads {answer['environment_file']}, and that is not {env_file}: APP_ENV may select another file, or the "
        "directory that is mounted is another one"
    )


def describe(application: Application) -> dict[str, Any]:
    """The configuration that the application makes of its .env, and which keys of that decide it.

    Raises:
        Trouble: it cannot be asked.
    """
    found = application.ask(application.question("describe", uncached=True))
    keys = {} if "failed" in found else application.ask(application.question("keys", uncached=True))
    for answer in (found, keys):
        if "failed" in answer:
            raise Trouble(
                f"{application.place} cannot be asked for its configuration: {answer['failed'].rstrip('.')}. Nothing "
                "is assumed instead: mend that first, as `php artisan about` there shows it."
            )
    now = application.ask(application.question("cache_file"))
    without_passwords(found)
    # An empty array of PHP's is a list in JSON.
    found["keys"] = keys["keys"] or {}
    for part in (found, found["queue"], found["broadcast"]):
        part.update({name: part[name] or {} for name in ("stores", "connections") if name in part})
    return {**found, **{name: now[name] for name in ("config_cached", "cache_file", "cache_owner")}}


def without_passwords(answer: dict[str, Any]) -> None:
    """Nobody needs what the passwords are compared by."""
    for connection in answer.get("connections", {}).values():
        connection.pop("password", None)
        connection.get("own", {}).pop("password", None)
    answer.pop("environment_digest", None)


def tried_stores(expect: Mapping[str, Any]) -> list[str]:
    """The stores that are written to and read."""
    default = expect.get("default_store")
    return list(dict.fromkeys([*(expect.get("stores") or {}), *([default] if default else [])]))


def inspect(application: Application, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Ask both ways and compare."""
    expect = {name: value for name, value in params["expect"].items() if value}
    more = {
        "stores": tried_stores(expect),
        "connections": list(expect.get("connections") or {}),
        "kept": list(expect.get("kept") or []),
        "names": params["names"],
        "ping": params["ping"] and not check,
        "env_file": params["try_env"],
    }
    found: list[str] = []
    unreachable = ""
    answers: dict[str, dict[str, Any]] = {"cli": {}, "fpm": {}}
    for where, name in (("cli", "artisan"), ("fpm", "php-fpm")):
        if where == "fpm" and (check or application.fpm == "none" or params["try_env"]):
            continue
        question = application.question("describe", **more)
        try:
            answer = application.ask(question) if where == "cli" else application.ask_fpm(question)
        except Trouble as trouble:
            # Without artisan there is nothing to compare; php-fpm is one of the things that are looked at.
            if where == "cli":
                raise
            found.append(str(trouble))
            unreachable = str(trouble) if isinstance(trouble, Unreachable) else ""
            continue
        sentences = list(problems(answer, expect, params["passwords"], question["token"]))
        if not params["try_env"]:
            sentences.append(file_problem(answer, params["env_file"], question["token"]))
        overridden = ", ".join(answer.get("overridden", []))
        hint = f" ({overridden} stands in the environment and outdoes the .env)" if overridden else ""
        found += [f"{application.place}: {name} {sentence}{hint}." for sentence in sentences if sentence]
        without_passwords(answer)
        answers[where] = answer
    cached, own = bool(answers["cli"].get("config_cached")), uses(answers["cli"])
    apart = [f"{application.place}: php-fpm {sentence}." for sentence in disagreements(answers["fpm"], own)]
    result: dict[str, Any] = {"changed": False, "problems": found, "config_cached": cached, "unreachable": unreachable}
    return {**result, "uses": own, "apart": apart, **answers}


def disagreements(answer: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """In what php-fpm is another than artisan, as second halves of sentences; nothing where either does not say."""
    return list(problems({**answer, "errors": []}, own, {}, "")) if "connections" in answer and own else []


def uses(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What would have to be expected of the application for it to be as it is."""
    if "connections" not in answer:
        return {}
    session = answer["session"]
    settings = ("host", "port", "database", "username", "tls")
    return {
        "default_store": answer["default_store"],
        "stores": {name: one["driver"] for name, one in dict(answer["stores"] or {}).items()},
        "session_driver": session["driver"],
        "session_connection": (session["connection"] or "default") if session["driver"] == "redis" else "",
        "queue": answer["queue"]["default"],
        "broadcast": answer["broadcast"]["default"],
        "connections": {
            name: {setting: one[setting] for setting in settings}
            for name, one in dict(answer["connections"] or {}).items()
        },
    }


def take_up(application: Application, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Let the application use its new .env, or the old one again."""
    now = application.ask(application.question("describe", env_file=""))
    cache_file, cached = str(now.get("cache_file", "")), bool(now.get("config_cached"))
    # With a .env that does not work nothing more is known; whether there is a cache is decided by the file's backup.
    result: dict[str, Any] = {"changed": False, "problems": [], "config_cached": cached, "config_backup": ""}
    result |= {"config_restored": "", "config_before": {}}
    if check:
        return {**result, "changed": cached and params["state"] == "applied"}
    if params["state"] == "restored" and params["config_backup"]:
        target = re.sub(r"\.backup$", "", params["config_backup"])
        result["changed"], result["config_restored"] = put_back(application, target, params["config_before"])
        cache_file, cached = target, True
    elif params["state"] == "applied" and cached:
        rebuilt = application.ask(application.question("rebuild_config"))
        if "failed" in rebuilt:
            raise Trouble(f"{application.place}: its configuration cannot be cached: {rebuilt['failed']}.")
        result |= put_in_place(application, rebuilt)
    try:
        tell(application, params, cache_file if cached else "")
        result["changed"] = result["changed"] or params["workers"]
    except Trouble as trouble:
        # What was replaced must be known all the same, to go back.
        result["problems"].append(str(trouble))
    return result


def put_in_place(application: Application, rebuilt: Mapping[str, Any]) -> dict[str, Any]:
    """Have a new cached configuration take the place of the old one, and be as that is in owner, mode and all.

    Returns:
        `changed`; `config_backup`, its path as PHP sees it; and `config_before`, what the file was like.

    Raises:
        Trouble: it cannot be replaced.
    """
    inside, content = str(rebuilt["cache_file"]), base64.b64decode(rebuilt["content"])
    path = application.on_host(inside)
    with open(path, "rb") as handle:
        before = handle.read()
    if before == content:
        return {"changed": False}
    attributes = file_attributes.Attributes.of(path)
    try:
        # It is read by nobody but who puts it back.
        file_attributes.replace(f"{path}.backup", before, file_attributes.Attributes(0o600, 0, 0))
        file_attributes.replace(path, content, attributes)
    except OSError as error:
        raise Trouble(
            f"{application.place}: {inside} ({attributes}) cannot be replaced: {error.strerror}. It is as it was; run "
            "it as root (become: true)."
        ) from None
    return {"changed": True, "config_backup": f"{inside}.backup", "config_before": attributes.packed()}


def put_back(application: Application, inside: str, before: Mapping[str, Any]) -> tuple[bool, str]:
    """Have the cached configuration of before again, in every respect.

    Returns:
        whether there was one, and what it is now, for a sentence.
    """
    path = application.on_host(inside)
    if not os.path.isfile(f"{path}.backup"):
        return False, ""
    with open(f"{path}.backup", "rb") as handle:
        content = handle.read()
    attributes = file_attributes.Attributes.unpacked(before) if before else file_attributes.Attributes.of(path)
    file_attributes.replace(path, content, attributes)
    os.unlink(f"{path}.backup")
    return True, f"{inside} ({attributes})"


def tell(application: Application, params: Mapping[str, Any], cache_file: str) -> None:
    """Tell those who keep the configuration of before: php-fpm's opcache, and queue workers.

    Raises:
        Trouble: they cannot be told.
    """
    if cache_file and application.fpm != "none":
        application.ask_fpm(application.question("forget", cache_file=cache_file))
    if params["workers"]:
        # The signal lies in the cache, and workers look where the cache was when they were started.
        signals = [application.question("restart_workers")]
        if params["old_env"]:
            signals.append(application.question("restart_workers", env_file=params["old_env"]))
        told = [application.ask(signal) for signal in signals]
        if "failed" in told[0]:
            raise Trouble(f"{application.place}: queue workers cannot be told: {told[0]['failed']}.")


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "user": {"type": "str", "default": "www-data"},
            "php": {"type": "str", "default": "php"},
            "container": {"type": "str", "default": ""},
            "fpm": {"type": "str", "default": "auto"},
            "state": {
                "type": "str",
                "choices": ["inspected", "located", "described", "applied", "restored"],
                "default": "inspected",
            },
            "env_file": {"type": "path", "default": ""},
            "try_env": {"type": "str", "default": ""},
            "old_env": {"type": "str", "default": ""},
            "config_backup": {"type": "str", "default": ""},
            "config_before": {"type": "dict", "default": {}},
            "workers": {"type": "bool", "default": False},
            "ping": {"type": "bool", "default": True},
            "expect": {
                "type": "dict",
                "default": {},
                "options": {
                    "default_store": {"type": "str", "default": ""},
                    "stores": {"type": "dict", "default": {}},
                    "session_driver": {"type": "str", "default": ""},
                    "session_connection": {"type": "str", "default": ""},
                    "queue": {"type": "str", "default": ""},
                    "broadcast": {"type": "str", "default": ""},
                    "connections": {"type": "dict", "default": {}},
                    "kept": {"type": "list", "elements": "str", "default": []},
                },
            },
            "passwords": {"type": "dict", "default": {}, "no_log": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "must_match": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    params = module.params
    application = Application(
        params["path"].rstrip("/"),
        params["user"],
        params["php"],
        params["container"],
        params["fpm"],
        params["timeout"],
    )
    try:
        reader = application.reader()
        if params["state"] == "located":
            module.exit_json(changed=False, problems=[], reader=reader, grammar=application.locate())
        if params["state"] == "described":
            module.exit_json(changed=False, problems=[], reader=reader, configuration=describe(application))
        act = inspect if params["state"] == "inspected" else take_up
        result = act(application, params, module.check_mode)
    except Trouble as trouble:
        module.fail_json(msg=str(trouble))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}.")
    result["reader"] = reader
    if result["problems"] and (params["must_match"] or params["state"] != "inspected"):
        module.fail_json(msg=" ".join(dict.fromkeys(result["problems"])), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
