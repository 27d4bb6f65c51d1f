#!/usr/bin/python
"""Long-running programs of a Laravel application: found, started anew by who keeps them, and looked at afterwards."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: laravel_processes
short_description: Have the long-running programs of a Laravel application take up a new configuration
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Queue workers, Horizon, C(schedule:work), Octane, Reverb and the like keep the configuration that was there when
    they were started, and so do all that they start themselves. This finds them among the processes of the host or of
    the container, and who starts each of them anew - systemd, supervisor, or the container with a restart policy.
  - Each is asked to end (C(SIGTERM)), which lets a job in hand be finished, and waited for. When whoever keeps it does
    not start it anew by itself, it is told to.
  - Then each is looked at - it must have started after the change, no variable of its own may outdo the C(.env), and
    its connections must lead to the Redis that is wanted.
  - Needs root, for it looks into other users' processes.
options:
  path:
    description: The application's directory as PHP sees it, with C(artisan) in it.
    type: str
    required: true
  container:
    description: Container of this host in which the application lives. Empty means that it lives on the host itself.
    type: str
    default: ''
  state:
    description: V(listed) looks, V(restarted) has them all started anew and looks at them.
    type: str
    choices: [listed, restarted]
    default: listed
  left:
    description: Commands whose processes are left alone, such as C(serve).
    type: list
    elements: str
    default: []
  patience:
    description:
      - Seconds that a job in hand may take to be finished. One that takes longer is named, and never killed.
      - Where no Redis of O(not_connections) answers any more, that is no failure. Such a worker waits for an answer
        that never comes (PHP does so for a minute, and once more after it has connected again) and ends then.
    type: int
    default: 60
  connections:
    description: Redis that they are to use, each with C(host) and C(port).
    type: list
    elements: dict
    default: []
  not_connections:
    description: Redis that they must not use any more.
    type: list
    elements: dict
    default: []
  values:
    description: Variables that must not be other ones in their own environments, where they would outdo the C(.env).
    type: dict
    default: {}
extends_documentation_fragment:
  - spotcache.redis.attributes.no_diff
attributes:
  check_mode:
    description: Looks only.
    support: full
"""

EXAMPLES = r"""
- name: See what runs on
  spotcache.redis.laravel_processes:
    path: /srv/app
  register: running

- name: Have it take up a new configuration
  spotcache.redis.laravel_processes:
    path: /srv/app
    state: restarted
    connections: [{host: 10.0.0.4, port: 6379}]
"""

RETURN = r"""
found:
  description: Those that run on, each as C(command), C(process), C(keeper) and what it is C(connected) to.
  returned: success
  type: list
  elements: dict
words:
  description: The same in sentences.
  returned: success
  type: list
  elements: str
problems:
  description: A sentence for each that nobody would start anew, and for each that is not as it should be.
  returned: success
  type: list
  elements: str
late:
  description: A sentence for each that has been asked to end and still waits for a Redis that does not answer.
  returned: success
  type: list
  elements: str
"""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import laravel_processes as known
from ansible_collections.spotcache.redis.plugins.module_utils import programs

# Seconds for one that ends to be started anew by itself, and for one that is told to start.
BACK = 15
PAUSE = 0.2


# Seconds for a Redis to say anything at all.
ANSWER = 2


class Trouble(Exception):
    """A sentence for the person: what does not work, and the fix."""


class Busy(Trouble):
    """One has been asked to end, and has not ended in time."""


class Place:
    """The host, or a container on it, where an application's processes are."""

    def __init__(self, path: str, container: str, left: Sequence[str]) -> None:
        self.path, self.container, self.left = path, container, left

    def call(self, *words: str, inside: bool = True) -> programs.Done:
        """Run a program there.

        Raises:
            Trouble: it is missing, or does not end.
        """
        argv = ["docker", "exec", self.container, *words] if self.container and inside else list(words)
        try:
            return programs.run(argv, timeout=60)
        except FileNotFoundError:
            raise Trouble(f"{argv[0]} is missing on this host.") from None
        except programs.TimeoutExpired:
            raise Trouble(f"{' '.join(words)} did not end within 60 s.") from None

    def parents(self) -> list[known.Parent]:
        """Those that run on.

        Raises:
            Trouble: the container does not run here, or this is not root.
        """
        if os.geteuid():
            raise Trouble("Processes of other users can be looked at by root alone: run it with become: true.")
        init, restarted, real = 0, False, os.path.realpath(self.path)
        if self.container:
            form = "{{.State.Pid}} {{json .HostConfig.RestartPolicy.Name}}"
            look = self.call("docker", "inspect", "--format", form, self.container, inside=False)
            if look.returncode or look.stdout.startswith("0 "):
                raise Trouble(f"The container {self.container} does not run on this host: start it.")
            init, restarted = int(look.stdout.split()[0]), json.loads(look.stdout.split()[1]) not in ("", "no")
            real = self.call("readlink", "-f", self.path).stdout.strip() or self.path
        namespace = os.readlink(f"/proc/{init or 'self'}/ns/pid")
        found = known.parents(known.read_processes(), self.path, real, namespace, init, restarted)
        return [one for one in found if one.command not in self.left]

    def names(self) -> dict[int, str]:
        """What supervisor calls its processes, by their numbers there."""
        return known.supervised(self.call("supervisorctl", "status").stdout)

    def start(self, keeper: known.Keeper, *, again: bool = False) -> None:
        """Have a process started by who keeps it, or ended and started where it does not end by itself."""
        verb = "restart" if again else "start"
        if keeper.kind == "container":
            self.call("docker", verb, self.container, inside=False)
        elif keeper.kind == "supervisor":
            self.call("supervisorctl", verb, keeper.name)
        else:
            self.call("systemctl", verb, keeper.name)

    def addresses(self, connections: Sequence[dict[str, Any]]) -> set[tuple[str, int]]:
        """The addresses of some Redis, as they are known there."""
        found = set()
        for one in connections:
            host, port = str(one["host"]), int(one["port"])
            if self.container:
                told = self.call("getent", "ahosts", host).stdout.splitlines()
                found |= {(line.split()[0], port) for line in told if line.strip()}
            else:
                try:
                    found |= {(str(info[4][0]), port) for info in socket.getaddrinfo(host, port)}
                except OSError:
                    continue
        return found


def answers(address: str, port: int) -> bool:
    """Whether a Redis says anything, be it that it wants a password, or TLS."""
    try:
        with socket.create_connection((address, port), timeout=ANSWER) as line:
            line.sendall(b"PING\r\n")
            line.recv(1)
    except OSError as error:
        return isinstance(error, ConnectionResetError)
    return True


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait for something, and not for ever."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def ended(process: known.Process) -> bool:
    """Whether a process is gone; one that is only not waited for is."""
    try:
        with open(f"/proc/{process.pid}/stat", encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] in "ZX" or int(fields[19]) != process.started


def restart(place: Place, parent: known.Parent, count: int, patience: int) -> None:
    """Have one started anew, of so many with its command.

    Raises:
        Busy: it does not end.
        Trouble: nobody would, or it does not come back.
    """
    keeper = parent.keeper
    if keeper.kind == "supervisor":
        names: dict[int, str] = {}

        def named() -> bool:
            # One that has just started has no number in its status yet.
            names.update(place.names())
            return parent.process.inner in names

        until(named, BACK)
        keeper = known.Keeper("supervisor", names.get(parent.process.inner, ""))
        if not keeper.name:
            raise Trouble(
                f"{parent} belongs to supervisor, and supervisorctl status does not name it: mend that first."
            )
    with contextlib.suppress(ProcessLookupError):
        os.kill(parent.process.pid, signal.SIGTERM)
    if not until(lambda: ended(parent.process), patience):
        if parent.command in known.PATIENT:
            raise Busy(
                f"{parent} has not ended within {patience} s, since it has a job in hand, and is not killed: it still "
                "uses the configuration of before. Run it again later, or give it more laravel_env_patience."
            )
        place.start(keeper, again=True)

    def back() -> bool:
        try:
            others = [one.process for one in place.parents() if one.command == parent.command]
            return len(others) >= count and parent.process not in others
        except Trouble:
            # A container that is being started.
            return False

    if not until(back, BACK):
        place.start(keeper)
        if not until(back, BACK):
            raise Trouble(f"{parent} has ended, and {keeper} does not start it anew: look at its log, and start it.")


def restart_all(place: Place, params: dict[str, Any], found: Sequence[known.Parent]) -> list[known.Parent]:
    """Have all of them started anew.

    Returns:
        those that have been asked to end and hang on a Redis that answers nobody: what keeps them starts them anew.

    Raises:
        Trouble: one cannot be started anew, or has not ended while its Redis answers.
    """
    before = place.addresses(params["not_connections"])
    hanging = []
    for parent in found:
        if ended(parent.process):
            continue
        try:
            restart(place, parent, [one.command for one in found].count(parent.command), params["patience"])
        except Busy:
            # With a Redis of before that answers, it goes on writing there.
            if not before or any(answers(*one) for one in before):
                raise
            hanging.append(parent)
    return hanging


def looked_at(place: Place, params: dict[str, Any], since: int, hanging: Sequence[known.Parent]) -> list[str]:
    """What is wrong with those that run now, but for some.

    Args:
        place: where.
        params: the module's parameters.
        since: ticks after the machine's start; what started earlier has the configuration of before.
        hanging: those that are on their way to their end.
    """
    wanted, unwanted = place.addresses(params["connections"]), place.addresses(params["not_connections"])
    leaving = {one.process.pid for one in hanging}
    found = [one for one in place.parents() if one.process.pid not in leaving]

    def far_ends(parent: known.Parent) -> set[tuple[str, int]]:
        return known.endpoints(known.family(known.read_processes(), parent.process.pid))

    # A worker asks the cache between two jobs whether it is to end, and so has a connection soon.
    waiting = [one for one in found if one.command == "queue:work"] if wanted else []
    until(lambda: all(far_ends(one) & wanted for one in waiting), BACK)
    problems = []
    for parent in found:
        if parent.process.started < since:
            problems.append(f"{parent} still is the one from before the change.")
        for name, value in params["values"].items():
            own = parent.process.environment.get(name)
            if own is not None and own != str(value):
                problems.append(
                    f"{parent} has {name} in its own environment, which outdoes the .env: take it out there."
                )
        for address, port in sorted((far_ends(parent) & unwanted) - wanted):
            problems.append(f"{parent} is still connected to the Redis of before, {address}:{port}.")
    return problems


def described(parent: known.Parent) -> dict[str, Any]:
    """One, for the result."""
    ends = known.endpoints(known.family(known.read_processes(), parent.process.pid))
    return {
        "command": parent.command,
        "process": parent.process.pid,
        "keeper": str(parent.keeper),
        "connected": sorted(f"{address}:{port}" for address, port in ends),
    }


def orphans(found: Sequence[known.Parent]) -> list[str]:
    """A sentence for each that nobody would start anew."""
    return [
        f"{one} belongs to nobody who would start it anew, and keeps the configuration that it was started with: put "
        f"it under systemd or supervisor, or end it; leave: [{one.command}] leaves it as it is."
        for one in found
        if not one.keeper.kind
    ]


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what the parameters ask for.

    Raises:
        Trouble: with a sentence for the person.
    """
    place = Place(params["path"].rstrip("/"), params["container"], params["left"])
    found = place.parents()
    problems = orphans(found)
    changed = False
    hanging: list[known.Parent] = []
    if params["state"] == "restarted" and not check and not problems:
        with open("/proc/uptime", encoding="ascii") as handle:
            since = int(float(handle.read().split()[0]) * os.sysconf("SC_CLK_TCK"))
        hanging = restart_all(place, params, found)
        problems = looked_at(place, params, since, hanging)
        changed, found = bool(found), place.parents()
    told = [described(one) for one in found]
    words = [f"{one['command']} (process {one['process']}) belongs to {one['keeper']}." for one in told]
    late = [
        f"{one} has been asked to end, and waits for the Redis of before, which does not answer: it ends as soon as it "
        f"gives that up, and {one.keeper} starts it anew."
        for one in hanging
    ]
    return {"changed": changed, "found": told, "words": words, "problems": problems, "late": late}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "container": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["listed", "restarted"], "default": "listed"},
            "left": {"type": "list", "elements": "str", "default": []},
            "patience": {"type": "int", "default": 60},
            "connections": {"type": "list", "elements": "dict", "default": []},
            "not_connections": {"type": "list", "elements": "dict", "default": []},
            "values": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except Trouble as trouble:
        module.fail_json(msg=str(trouble))
    for sentence in result["late"]:
        module.warn(sentence)
    if result["problems"] and module.params["state"] == "restarted":
        module.fail_json(msg=" ".join(result["problems"]), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
