#!/usr/bin/python
"""A running Redis made to agree with its configuration file, without a restart where the server allows it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_runtime_config
short_description: Apply redis.conf to a running Redis, live where the server allows it
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Waits until the server answers, compares its live settings with a configuration and sets those that differ with
    C(CONFIG SET). What the server sets only at its start is named in RV(restart_required); restarting is left to the
    caller.
  - Values are compared by what they mean, so C(100mb) equals C(104857600).
  - A directive that the configuration no longer has goes back to the server's own default, which is learnt from a
    scratch server of the same image without a network.
  - Passwords are read from files on the host and never appear in arguments, results or diffs.
  - The users of an ACL file are loaded all at once (C(ACL LOAD)), or none of them. Redis 7.0 closes the connections of
    all users then, which clients open again.
  - Where the configuration has a C(tls-port), the server is reached there. Certificates that have changed are loaded
    anew without a restart; turning TLS on or off needs one.
  - When the server refuses one value, those that were already set are set back, and the task fails with the server's
    reason.
  - Turning C(appendonly) on is finished only when the append-only file is complete, since from then on a start reads
    nothing else. Turning it off ends with a save, since from then on a start reads only what was saved.
options:
  config:
    description: Text of the configuration, without secrets. C(include) lines are not followed.
    type: str
    required: true
  secrets_file:
    description: File on the host with the directives that hold secrets, C(requirepass) among them.
    type: path
    default: ''
  users_file:
    description: File on the host with the users, which C(aclfile) of the configuration names as the server sees it.
    type: path
    default: ''
  username:
    description: User to log in as.
    type: str
    default: default
  password_file:
    description: File on the host with that user's password. Without it the password is that of C(requirepass).
    type: path
    default: ''
  tls_directory:
    description:
      - Directory on the host with C(ca.crt), C(tls.crt) and C(tls.key). The server's certificate must be one of that
        authority, or of the one before. Without it there is no TLS.
    type: path
    default: ''
  last_known_good_dir:
    description:
      - Directory on the host with the C(redis.conf), C(secrets.conf) and C(users.acl) that the server last ran with,
        and the password. They tell which directives are gone and which users have changed, and hold the address and the
        password of a server that has the new ones not yet. If a later configuration fails, they are what to go back to.
      - As soon as the server agrees with the new configuration, that one is recorded there.
    type: path
    default: ''
  container:
    description:
      - Container that the server runs in. When it ends, the task fails at once with the reason from its log.
      - Without it the server's defaults cannot be learnt, and a directive that is gone needs a restart.
    type: str
    default: ''
  just_started:
    description: The server was started with this configuration, so what only a start reads is in force.
    type: bool
    default: false
  timeout:
    description: Seconds until the server must answer. While it loads its data it counts as answering.
    type: int
    default: 60
  save:
    description: Save the data to disk and wait for it, as is right before files of the data directory are removed.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports what would be set, and what would need a restart.
    support: full
  diff_mode:
    description: Shows the settings that differ.
    support: full
"""

EXAMPLES = r"""
- name: Let the running server follow its file
  spotcache.redis.redis_runtime_config:
    config: "{{ lookup('ansible.builtin.template', 'redis.conf.j2') }}"
    secrets_file: /etc/spotcache/redis/secrets.conf
    users_file: /etc/spotcache/redis/users.acl
    username: keeper
    password_file: /etc/spotcache/keeper-password
    container: spotcache-redis
  register: live

- name: Restart for the rest
  community.docker.docker_container:
    name: spotcache-redis
    restart: true
  when: live.restart_required | length > 0
"""

RETURN = r"""
applied:
  description: Directives that were set, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [maxmemory]
users:
  description: Users that came, went or changed.
  returned: success
  type: list
  elements: str
certificates:
  description: Whether certificates were loaded anew, or would be in check mode.
  returned: success
  type: bool
restart_required:
  description: Directives whose values count only after a restart.
  returned: success
  type: list
  elements: str
  sample: [databases]
recorded:
  description: Whether the configuration was recorded in O(last_known_good_dir), or would be in check mode.
  returned: success
  type: bool
saved:
  description: Whether the data was saved to disk on request.
  returned: success
  type: bool
engine:
  description: Which server it is, V(redis) or V(valkey).
  returned: success
  type: str
  sample: redis
version:
  description: The server's version, as its own engine counts.
  returned: success
  type: str
  sample: 7.0.15
uptime:
  description: Seconds since the server started.
  returned: success
  type: int
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import engines, redis_conf
from ansible_collections.spotcache.redis.plugins.module_utils.docker_engine import Engine, EngineError, reason
from ansible_collections.spotcache.redis.plugins.module_utils.host_state import replace_file
from ansible_collections.spotcache.redis.plugins.module_utils.programs import TimeoutExpired, run
from ansible_collections.spotcache.redis.plugins.module_utils.redis_wire import Connection, RedisError, trusting

Directives = dict[str, list[list[str]]]

# What CONFIG SET refuses although it concerns a live setting, in Redis 7 and 8 and in Valkey 8: for the prediction in
# check mode only.
STATIC = frozenset(
    (
        "aclfile",
        "always-show-logo",
        "aof_rewrite_cpulist",
        "aof-rewrite-cpulist",
        "appenddirname",
        "appendfilename",
        "bgsave_cpulist",
        "bgsave-cpulist",
        "bio_cpulist",
        "bio-cpulist",
        "cluster-config-file",
        "cluster-enabled",
        "cluster-port",
        "daemonize",
        "databases",
        "dbfilename",
        "dir",
        "disable-thp",
        "enable-debug-command",
        "enable-module-command",
        "enable-protected-configs",
        "io-threads",
        "io-threads-do-reads",
        "logfile",
        "pidfile",
        "rdbchecksum",
        "rdma-completion-vector",
        "rdma-rx-size",
        "replicaof",
        "server_cpulist",
        "server-cpulist",
        "set-proc-title",
        "slaveof",
        "socket-mark-id",
        "supervised",
        "syslog-enabled",
        "syslog-facility",
        "syslog-ident",
        "tcp-backlog",
        "unixsocket",
        "unixsocketgroup",
        "unixsocketperm",
    )
)
# A server that loads for longer than this is no longer starting, whatever it says.
LOADING_LIMIT = 3600
# How long another server may answer in our server's place before that is taken for the truth.
STRANGER_LIMIT = 3
# So long a child of the server's may take to write all data down: minutes for many GiB on a slow disk.
CHILD_LIMIT = 1800.0
WAIT_STEP = 0.1
OLDEST = 7
SCRATCH_SOCKET = "/tmp/redis.sock"
# Directives that no single setting stands for.
NOT_SETTINGS = frozenset(("user", "include"))
# What is kept of a configuration: its files by the names that they have there.
CONFIG = "redis.conf"
SECRETS = "secrets.conf"
USERS = "users.acl"
PASSWORD = "keeper-password"
AUTHORITY = "ca.crt"
CERTIFICATES = (AUTHORITY, "tls.crt", "tls.key")
# A server loads its certificates anew when it is told once more which they are.
RELOADED = ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
Place = tuple[str, int, bool]


class LiveError(Exception):
    """The server cannot be brought to agree; the message says why."""


class StrangerError(Exception):
    """Another server answers, or ours with another password."""


def read(path: str) -> str:
    """A file's text; empty without the file."""
    if not path or not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="surrogateescape") as handle:
        return handle.read()


def endpoint(directives: Directives) -> Place | None:
    """Where a server with this configuration listens, as seen from its own host, and whether through TLS."""
    tls = int(redis_conf.value_of(directives.get("tls-port", [])) or 0)
    port = tls or int(redis_conf.value_of(directives.get("port", [["6379"]])) or 6379)
    if port == 0:
        return None
    encrypted = tls > 0
    addresses = [address.lstrip("-") for address in redis_conf.value_of(directives.get("bind", [])).split()]
    if not addresses or {"*", "0.0.0.0", "127.0.0.1"} & set(addresses):
        return "127.0.0.1", port, encrypted
    if "::*" in addresses or "::" in addresses:
        return "::1", port, encrypted
    return addresses[0], port, encrypted


def password_of(directives: Directives) -> str:
    """The default user's password."""
    return redis_conf.value_of(directives.get("requirepass", []))


class Server:
    """The server, found at one of several addresses, where one of several users is let in."""

    def __init__(
        self,
        places: list[Place],
        logins: list[tuple[str, str]],
        container: str,
        authorities: list[str],
    ) -> None:
        """Remember where to look, as whom, and whose certificates are believed."""
        self.authorities = authorities
        self.places = places
        self.logins = logins
        self.container = container
        self.connection: Connection | None = None

    def ended(self) -> str:
        """Why the container is not running; empty while it is, or when nobody can say."""
        if not self.container:
            return ""
        engine = Engine()
        try:
            found = engine.container(self.container)
            if found is None:
                return f"there is no container {self.container}"
            state = found["State"]
            if state["Running"] and not state["Restarting"]:
                return ""
            told = reason(engine.logs(self.container)) or state.get("Error") or f"exit code {state['ExitCode']}"
        except EngineError as error:
            return str(error)
        return f"{self.container} does not stay up: {told}"

    def connect(self) -> Connection:
        """A connection that is logged in.

        Raises:
            OSError: nobody answers yet.
            StrangerError: somebody does, but is not the server looked for.
        """
        failure: OSError = ConnectionRefusedError("no address to connect to")
        for host, port, encrypted in self.places:
            try:
                connection = Connection(host, port, tls=trusting(self.authorities) if encrypted else None)
            except OSError as error:
                failure = error
                continue
            if not self._log_in(connection):
                connection.close()
                raise StrangerError(
                    f"the server at {host}:{port} accepts neither the new password nor the last one: "
                    "is it another Redis, or was the password changed by hand?"
                )
            # In its container the server is process 1; one that runs beside the container is not.
            if self.container and connection.info("server").get("process_id") != "1":
                connection.close()
                raise StrangerError(
                    f"another Redis than {self.container} listens at {host}:{port}: stop it or choose another port"
                )
            return connection
        raise failure

    def _log_in(self, connection: Connection) -> bool:
        for name, password in self.logins:
            try:
                # Without a password of its own a server lets the default user in with any.
                connection.command("AUTH", name, password)
            except RedisError:
                continue
            return True
        return False

    def wait(self, timeout: float) -> Connection:
        """A connection to the server, as soon as it has loaded its data.

        Raises:
            LiveError: its container ended, or it does not answer in time.
        """
        start = time.monotonic()
        deadline = start + timeout
        while True:
            why = self.ended()
            if why:
                raise LiveError(why)
            try:
                connection = self.connect()
                connection.command("PING")
            except RedisError as error:
                if not str(error).startswith("LOADING"):
                    raise LiveError(f"the server answers PING with: {error}") from error
                connection.close()
                if time.monotonic() < start + LOADING_LIMIT:
                    deadline = time.monotonic() + timeout
                last: Exception = error
            except StrangerError as error:
                if time.monotonic() > start + min(STRANGER_LIMIT, timeout):
                    raise LiveError(str(error)) from error
                last = error
            except OSError as error:
                last = error
            else:
                return connection
            if time.monotonic() > deadline:
                places = " or ".join(f"{host}:{port}" for host, port, _tls in self.places)
                raise LiveError(f"the server does not answer at {places} within {timeout:g} s: {last}")
            time.sleep(WAIT_STEP)


class Live:
    """One comparison of a server with what it should be."""

    def __init__(self, connection: Connection, wanted: Directives, known_good: Directives, container: str) -> None:
        """Read the live settings, and the defaults of those that are no longer wanted to be anything else."""
        self.connection = connection
        self.wanted = wanted
        self.known_good = known_good
        self.live = connection.settings()
        self.undo: list[tuple[str, str]] = []
        self.gone = [name for name in redis_conf.names_removed(known_good, wanted) if name not in NOT_SETTINGS]
        # A server that has its default user's password taken away lets everybody in until it reads its ACL file.
        visible = [name for name in self.gone if name in self.live and name != "requirepass"]
        self.defaults = defaults_of(container, visible) if container and visible else {}

    def differing(self) -> dict[str, tuple[str, str]]:
        """(live, wanted) of each setting that differs."""
        found = {}
        for name, lines in self.wanted.items():
            value = redis_conf.value_of(lines)
            if name in self.live and not redis_conf.is_equal(name, value, self.live[name]):
                found[name] = (self.live[name], value)
        for name, value in self.defaults.items():
            if not redis_conf.is_equal(name, value, self.live[name]):
                found[name] = (self.live[name], value)
        return found

    def unseen(self) -> list[str]:
        """Directives that only a start reads and that are not what the server last started with."""
        if not self.known_good:
            return []
        hidden = {name for name in self.wanted if name not in self.live} - NOT_SETTINGS
        changed = {name for name in hidden if self.wanted[name] != self.known_good.get(name)}
        return sorted(changed | {name for name in self.gone if name not in self.defaults})

    def set(self, name: str, value: str) -> bool:
        """Set one setting; False when only a start can.

        Raises:
            LiveError: the server refuses the value.
        """
        try:
            self.connection.command("CONFIG", "SET", name, value)
        except RedisError as error:
            # Redis has one code, ERR, for all that it refuses, and does not list which settings only a start reads.
            if "immutable" in str(error) or "protected config" in str(error):
                return False
            why = str(error).removeprefix("ERR ")
            raise LiveError(f"Redis refuses {name} = {redis_conf.shown(name, value)}: {why}") from error
        self.undo.append((name, self.live[name]))
        return True

    def apply(self, differing: dict[str, tuple[str, str]]) -> tuple[list[str], list[str]]:
        """Set what differs; the names that were set and those that need a restart.

        Raises:
            LiveError: the server refuses a value; all others are as they were.
        """
        applied: list[str] = []
        static: list[str] = []
        if "tls-port" in differing:
            static = [name for name in differing if waits_for_tls(name)]
            differing = {name: values for name, values in differing.items() if not waits_for_tls(name)}
        for name, (_old, value) in differing.items():
            (applied if self.set(name, value) else static).append(name)
        return applied, static

    def roll_back(self) -> None:
        """Set back what was set, the last one first."""
        for name, value in reversed(self.undo):
            self.connection.command("CONFIG", "SET", name, value)

    def load_certificates(self) -> None:
        """Have the server read its certificates again; connections that there are go on with the old ones.

        Raises:
            LiveError: the server refuses them.
        """
        words = [word for name in RELOADED if name in self.wanted for word in (name, self.live[name])]
        try:
            self.connection.command("CONFIG", "SET", *words)
        except RedisError as error:
            raise LiveError(f"Redis refuses its certificates: {str(error).removeprefix('ERR ')}") from error

    def load_users(self) -> None:
        """Have the server read its ACL file, as a whole or not at all. It may close the connection afterwards.

        Raises:
            LiveError: the server refuses a rule.
        """
        try:
            self.connection.command("ACL", "LOAD")
        except RedisError as error:
            raise LiveError(f"Redis refuses its users: {str(error).removeprefix('ERR ')}") from error


def waits_for_tls(name: str) -> bool:
    """Whether a directive waits for the restart that turns TLS on or off: the port is the same for both."""
    return name == "port" or name.startswith("tls-")


def defaults_of(container: str, names: list[str]) -> dict[str, str]:
    """The server's own defaults of some settings, from a scratch server that nobody can reach.

    Raises:
        LiveError: no scratch server can be started.
    """
    found = Engine().container(container)
    if found is None:
        return {}
    options = ["--rm", "--detach", "--network", "none", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp:mode=1777"]
    server = ["--port", "0", "--unixsocket", SCRATCH_SOCKET, "--dir", "/tmp", "--save", ""]
    user = ["--user", found["Config"]["User"]] if found["Config"].get("User") else []
    engine = engines.engine_of(found["Config"].get("Cmd"))
    scratch = docker("run", *options, *user, "--entrypoint", f"{engine}-server", found["Image"], *server).strip()
    try:
        cli = ["exec", scratch, f"{engine}-cli", "-s", SCRATCH_SOCKET]
        end = time.monotonic() + 10
        while "PONG" not in docker(*cli, "ping", check=False) and time.monotonic() < end:
            time.sleep(WAIT_STEP)
        lines = docker(*cli, "config", "get", *names).splitlines()
    finally:
        docker("rm", "--force", scratch, check=False)
    answer = dict(zip(lines[::2], lines[1::2], strict=False))
    # What the scratch server was told is no default of its own.
    return {
        name: answer[name] for name in names if name in answer and name not in ("save", "port", "dir", "unixsocket")
    }


def docker(*arguments: str, check: bool = True) -> str:
    """Run the engine's client and return what it printed.

    Raises:
        LiveError: it failed.
    """
    done = run(["docker", *arguments], timeout=60)
    if check and done.returncode != 0:
        raise LiveError(f"docker {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def persistence(connection: Connection, busy: Callable[[Mapping[str, str]], bool], what: str) -> Mapping[str, str]:
    """What the server says of its files, once it is no longer busy with them.

    Raises:
        LiveError: it is, for CHILD_LIMIT seconds.
    """
    deadline = time.monotonic() + CHILD_LIMIT
    while busy(state := connection.info("persistence")):
        if time.monotonic() > deadline:
            raise LiveError(f"{what} did not end within {CHILD_LIMIT:.0f} s: see the server's log")
        time.sleep(WAIT_STEP)
    return state


def finish_rewrite(connection: Connection) -> None:
    """Wait until the append-only file is complete.

    Raises:
        LiveError: the server could not write it.
    """
    parts = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
    state = persistence(connection, lambda now: any(now.get(part) != "0" for part in parts), "The rewrite of the AOF")
    if state.get("aof_last_bgrewrite_status") != "ok" or state.get("aof_last_write_status") != "ok":
        raise LiveError("Redis could not write its append-only file: is the disk full?")


def save(connection: Connection) -> None:
    """Save the data to disk and wait until it is there.

    Raises:
        LiveError: the server could not save.
    """
    # Another save, or a rewrite of the append-only file, has to end first.
    children = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress")
    deadline = time.monotonic() + CHILD_LIMIT
    saving = False
    while not saving:
        persistence(connection, lambda now: any(now.get(child) == "1" for child in children), "A child of Redis")
        try:
            connection.command("BGSAVE")
            saving = True
        except RedisError:
            # Redis has one code, ERR, for all that it refuses. What has begun meanwhile is waited for as well.
            begun = connection.info("persistence")
            if all(begun.get(child) != "1" for child in children) or time.monotonic() > deadline:
                raise
    state = persistence(connection, lambda now: now.get("rdb_bgsave_in_progress") == "1", "The save")
    if state.get("rdb_last_bgsave_status") != "ok":
        raise LiveError("Redis could not save its data: is the disk full?")


def record(directory: str, texts: dict[str, str], *, pretend: bool) -> bool:
    """Keep what the server runs with, readable by root only; whether there was anything new."""
    differing = {name: text for name, text in texts.items() if read(os.path.join(directory, name)) != text}
    if differing and not pretend:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for name, text in differing.items():
            data = text.encode("utf-8", "surrogateescape")
            replace_file(os.path.join(directory, name), data, 0o600, os.geteuid(), os.getegid())
    return bool(differing)


def fail(module: AnsibleModule, message: str) -> NoReturn:
    """End with a sentence."""
    module.fail_json(msg=message)
    raise AssertionError("fail_json does not return")


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "str", "required": True},
            "secrets_file": {"type": "path", "default": "", "no_log": False},
            "users_file": {"type": "path", "default": ""},
            "username": {"type": "str", "default": "default"},
            "password_file": {"type": "path", "default": "", "no_log": False},
            "tls_directory": {"type": "path", "default": ""},
            "last_known_good_dir": {"type": "path", "default": ""},
            "container": {"type": "str", "default": ""},
            "just_started": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 60},
            "save": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    last_known_good_dir = params["last_known_good_dir"]
    try:
        files = {SECRETS: params["secrets_file"], USERS: params["users_file"], PASSWORD: params["password_file"]}
        tls = params["tls_directory"]
        files |= {name: os.path.join(tls, name) for name in CERTIFICATES} if tls else {}
        texts = {CONFIG: params["config"], **{name: read(path) for name, path in files.items() if path}}
        last = {name: read(os.path.join(last_known_good_dir, name)) for name in texts} if last_known_good_dir else {}
        wanted, known_good = configuration(texts), configuration(last)
    except (OSError, ValueError) as error:
        fail(module, f"the configuration cannot be read: {error}")

    places = [place for place in (endpoint(wanted), endpoint(known_good) if known_good else None) if place]
    logins = [(params["username"], one[PASSWORD].strip()) for one in (texts, last) if one.get(PASSWORD)]
    # A server that has no such user yet.
    logins += [("default", password_of(wanted)), *([("default", password_of(known_good))] if known_good else [])]
    authorities = [os.path.join(directory, AUTHORITY) for directory in (tls, last_known_good_dir) if directory]
    server = Server(list(dict.fromkeys(places)), list(dict.fromkeys(logins)), params["container"], authorities)
    recorded = saved = False
    try:
        connection = server.wait(params["timeout"])
        news = News(
            redis_conf.users_changed(last.get(USERS, ""), texts.get(USERS, "")),
            # Without a configuration of before to compare with, they are loaded again where there are any.
            certificates=RELOADED[0] in wanted and any(last.get(name) != texts.get(name) for name in CERTIFICATES),
        )
        result = converge(module, Live(connection, wanted, known_good, params["container"]), news)
        if params["save"] and not module.check_mode:
            save(connection)
            saved = True
        if last_known_good_dir and not result["restart_required"]:
            recorded = record(last_known_good_dir, texts, pretend=module.check_mode)
            result["changed"] = result["changed"] or recorded
    except (LiveError, EngineError, RedisError, OSError, TimeoutExpired) as error:
        fail(module, str(error))
    module.exit_json(recorded=recorded, saved=saved, **result)


def configuration(texts: Mapping[str, str]) -> Directives:
    """The directives of the two files that have such; empty without any.

    Raises:
        ValueError: a line's quoting is broken.
    """
    return redis_conf.parse("\n".join(texts.get(name, "") for name in (CONFIG, SECRETS)))


@dataclass(frozen=True)
class News:
    """What differs from what the server last loaded, of what no setting tells.

    A server that has just started has loaded it, and one that gets another ACL file, or TLS, needs a restart for it.
    """

    users: list[str]
    certificates: bool


def converge(module: AnsibleModule, live: Live, news: News) -> dict[str, Any]:
    """Compare, apply unless in check mode, and report.

    Raises:
        LiveError: the server refuses a value; what was set before is set back.
    """
    about = live.connection.info("server")
    engine, version = engines.version_of(about)
    # Valkey began where Redis 7.2 was.
    if engine == engines.REDIS and int(version.split(".")[0]) < OLDEST:
        raise LiveError(f"the server is Redis {version}, older than {OLDEST}.0: choose an image with a newer one")
    differing = live.differing()
    static = [] if module.params["just_started"] else live.unseen()
    started = module.params["just_started"]
    users = [] if started or "aclfile" in differing else news.users
    certificates = news.certificates and not started and "tls-port" not in differing
    switched = "tls-port" in differing
    late = [name for name in differing if name in STATIC or (switched and waits_for_tls(name))]
    applied = [name for name in differing if name not in late]
    if not module.check_mode:
        try:
            applied, late = live.apply(differing)
            if "appendonly" in applied and differing["appendonly"][1] == "yes":
                finish_rewrite(live.connection)
            elif "appendonly" in applied:
                save(live.connection)
            if certificates:
                live.load_certificates()
            if users:
                # The last of all: it may close this connection.
                live.load_users()
        except LiveError:
            live.roll_back()
            raise
    shown = [(name, redis_conf.shown(name, old), redis_conf.shown(name, new)) for name, (old, new) in differing.items()]
    return {
        "changed": bool(applied or users or certificates),
        "applied": sorted(applied),
        "users": users,
        "certificates": certificates,
        "restart_required": sorted({*late, *static}),
        "engine": engine,
        "version": version,
        "uptime": int(about.get("uptime_in_seconds", 0)),
        "diff": {
            "before": "".join(f"{name} {old}\n" for name, old, _new in sorted(shown)),
            "after": "".join(f"{name} {new}\n" for name, _old, new in sorted(shown)),
            "before_header": "running server",
            "after_header": "configuration",
        },
    }


if __name__ == "__main__":
    main()
