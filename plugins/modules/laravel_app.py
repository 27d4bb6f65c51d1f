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
  - The configuration is cached anew only where a cache is in use, beside the old one, which it replaces in one step.
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
      - V(located) only sees whether there is an application, and who reads its C(.env).
      - V(applied) caches the configuration anew where a cache is in use, lets php-fpm forget the old one, and tells
        queue workers.
      - V(restored) puts back the cached configuration of before, and does the same.
    type: str
    choices: [inspected, located, applied, restored]
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
      cache_redis:
        description: C(host), C(port) and C(database) of the Redis that the stores use.
        type: dict
        default: {}
      session_redis:
        description: The same of the one that the sessions use.
        type: dict
        default: {}
  passwords:
    description: C(cache) and C(session), the passwords of these two.
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
    expect: {stores: {method: redis}, cache_redis: {host: 10.0.0.4, port: 6379, database: 0}}
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
defects:
  description: Those of the problems that no C(.env) can mend, such as a store that the application does not define.
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
from ansible_collections.spotcache.redis.plugins.module_utils import programs
from ansible_collections.spotcache.redis.plugins.module_utils.laravel_program import find_answer, script

# Nothing of Ansible's own environment may reach PHP: a variable that is set there outdoes the .env.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
PATIENCE = 60


class Trouble(Exception):
    """A sentence for the person: what does not work, and the fix."""


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

    def locate(self) -> None:
        """See whether there is an application.

        Raises:
            Trouble: there is none.
        """
        test = "test -f artisan && test -f vendor/autoload.php && test -f bootstrap/app.php"
        found = self.run(self.command("sh", "-c", f'cd "$1" && {test}', "sh", self.path))
        if found.returncode:
            raise self.no_application()

    def no_application(self) -> Trouble:
        """What to say then."""
        return Trouble(
            f"{self.place} is no Laravel application that {self.user} can read (artisan, vendor/autoload.php and "
            "bootstrap/app.php are expected there): deploy it first, or correct the path."
        )

    def question(self, do: str, **more: Any) -> dict[str, Any]:
        """A question with all its parts."""
        common = {"do": do, "path": self.path, "fpm": self.fpm, "timeout": self.timeout, "patience": PATIENCE}
        empty = {"token": secrets.token_hex(8), "env_file": "", "stores": [], "names": [], "ping": False}
        return {**common, **empty, "cache_file": "", "backup": "", "program": "", **more}

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
            raise Trouble(
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
    answer: Mapping[str, Any], name: str, purpose: str, wanted: Mapping[str, Any], password: str | None, token: str
) -> Iterator[str]:
    """What is not as expected with a Redis connection."""
    found = answer["connections"].get(name)
    if found is None:
        # One of the defects, for sessions; a store's connection is not in the role's hands.
        yield f"has no Redis connection {name}, which {purpose} needs: define it in config/database.php"
        return
    hint = " (a URL in the connection's settings, such as REDIS_URL, overrides it)" if found["url"] else ""
    for key in ("host", "port", "database"):
        # Another connection than these two has a database of its own, which no variable here sets.
        known = key in wanted and (key != "database" or name in ("default", wanted.get("connection")))
        if known and str(found[key]) != str(wanted[key]):
            yield f"uses the {key} {found[key]!r} for {purpose} (connection {name}), not {wanted[key]!r}{hint}"
    if password is not None and found["password"] != digest(token, password):
        yield f"uses another password for {purpose} (connection {name}) than the one that is set{hint}"


def defects(answer: Mapping[str, Any], expect: Mapping[str, Any]) -> Iterator[str]:
    """What no .env can mend, each the second half of a sentence."""
    if "failed" in answer:
        return
    for name in expect.get("stores") or {}:
        if answer["stores"].get(name) is None:
            yield f"has no cache store {name}: define it in config/cache.php, or correct the list of stores"
    if expect.get("session_driver") == "redis":
        name = expect.get("session_connection") or "default"
        if name not in answer["connections"]:
            yield f"has no Redis connection {name}: define it in config/database.php, or correct session_connection"
        if answer["session"]["store_missing"]:
            yield (
                f"cannot keep sessions in Redis without the cache store {answer['session']['store']}, which Laravel "
                "needs for that: define it in config/cache.php, or set SESSION_STORE to one that is there"
            )


def problems(
    answer: Mapping[str, Any], expect: Mapping[str, Any], passwords: Mapping[str, str], token: str
) -> Iterator[str]:
    """Everything that is not as expected, each the second half of a sentence."""
    if "failed" in answer:
        yield f"fails: {answer['failed'].rstrip('.')}"
        return
    if not answer["environment_readable"] and not answer["config_cached"]:
        yield f"cannot read {answer['environment_file']}, and so uses its defaults"
    for name, driver in (expect.get("stores") or {}).items():
        store = answer["stores"].get(name)
        if store is None:
            continue
        if store["driver"] != driver:
            yield f"uses the driver {store['driver']!r} for the store {name}, not {driver!r}"
        elif driver == "redis":
            purpose, wanted = f"the store {name}", expect.get("cache_redis") or {}
            yield from connection_problems(answer, store["connection"], purpose, wanted, passwords.get("cache"), token)
    session, driver = answer["session"], expect.get("session_driver")
    if driver and session["driver"] != driver:
        yield f"uses the driver {session['driver']!r} for sessions, not {driver!r}"
    elif driver == "redis":
        name = session["connection"] or "default"
        if expect.get("session_connection") and name != expect["session_connection"]:
            yield f"keeps sessions on the Redis connection {name}, not on {expect['session_connection']}"
        else:
            wanted = {**(expect.get("session_redis") or {}), "connection": name}
            yield from connection_problems(answer, name, "sessions", wanted, passwords.get("session"), token)
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


def inspect(application: Application, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Ask both ways and compare."""
    expect = {name: value for name, value in params["expect"].items() if value}
    more = {
        "stores": list(expect.get("stores") or {}),
        "names": params["names"],
        "ping": params["ping"] and not check,
        "env_file": params["try_env"],
    }
    found: list[str] = []
    beyond: list[str] = []
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
            continue
        lasting = list(defects(answer, expect))
        beyond += [f"{application.place} {sentence}." for sentence in lasting if where == "cli"]
        sentences = lasting + list(problems(answer, expect, params["passwords"], question["token"]))
        if not params["try_env"]:
            sentences.append(file_problem(answer, params["env_file"], question["token"]))
        overridden = ", ".join(answer.get("overridden", []))
        hint = f" ({overridden} stands in the environment and outdoes the .env)" if overridden else ""
        found += [f"{application.place}: {name} {sentence}{hint}." for sentence in sentences if sentence]
        for connection in answer.get("connections", {}).values():
            del connection["password"]
        answer.pop("environment_digest", None)
        answers[where] = answer
    cached = bool(answers["cli"].get("config_cached"))
    return {"changed": False, "problems": found, "defects": beyond, "config_cached": cached, **answers}


def take_up(application: Application, params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Let the application use its new .env, or the old one again."""
    now = application.ask(application.question("describe", env_file=""))
    cache_file, cached = str(now.get("cache_file", "")), bool(now.get("config_cached"))
    # With a .env that does not work nothing more is known; whether there is a cache is decided by the file's backup.
    result: dict[str, Any] = {"changed": False, "problems": [], "config_cached": cached, "config_backup": ""}
    if check:
        return {**result, "changed": cached and params["state"] == "applied"}
    if params["state"] == "restored" and params["config_backup"]:
        target = re.sub(r"\.backup$", "", params["config_backup"])
        question = application.question("restore_config", cache_file=target, backup=params["config_backup"])
        result["changed"] = application.ask(question)["changed"]
        cache_file, cached = target, True
    elif params["state"] == "applied" and cached:
        rebuilt = application.ask(application.question("rebuild_config"))
        if "failed" in rebuilt:
            raise Trouble(f"{application.place}: its configuration cannot be cached: {rebuilt['failed']}.")
        result["changed"], result["config_backup"] = rebuilt["changed"], rebuilt.get("backup", "")
    try:
        tell(application, params, cache_file if cached else "")
        result["changed"] = result["changed"] or params["workers"]
    except Trouble as trouble:
        # What was replaced must be known all the same, to go back.
        result["problems"].append(str(trouble))
    return result


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
                "choices": ["inspected", "located", "applied", "restored"],
                "default": "inspected",
            },
            "env_file": {"type": "path", "default": ""},
            "try_env": {"type": "str", "default": ""},
            "old_env": {"type": "str", "default": ""},
            "config_backup": {"type": "str", "default": ""},
            "workers": {"type": "bool", "default": False},
            "ping": {"type": "bool", "default": True},
            "expect": {
                "type": "dict",
                "default": {},
                "options": {
                    "stores": {"type": "dict", "default": {}},
                    "session_driver": {"type": "str", "default": ""},
                    "session_connection": {"type": "str", "default": ""},
                    "cache_redis": {"type": "dict", "default": {}},
                    "session_redis": {"type": "dict", "default": {}},
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
            application.locate()
            module.exit_json(changed=False, problems=[], reader=reader)
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
