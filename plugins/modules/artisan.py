#!/usr/bin/python
"""Artisan commands where a Laravel application lives."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: artisan
short_description: Check and run a Laravel application's artisan commands, with live progress
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Runs an artisan command on a host, or in a container of it, as the user that PHP has there, and shows its lines
    while it runs.
  - The command runs apart from Ansible's connection and goes on when that breaks. It writes to a log on the host, and
    holds a lock there that the kernel lets go of when it ends, however it ends.
  - Comes with an action plugin of the same name, which does the waiting.
options:
  state:
    description:
      - V(run) starts the command and waits for its end. A command that ends badly is a failure.
      - V(checked) starts nothing. It says in RV(problems) what would stand in the way of O(commands).
    type: str
    choices: [run, checked]
    default: run
  application:
    description: Name of the application; with the command it tells locks and logs apart.
    type: str
    required: true
  command:
    description: The artisan command. Required for O(state=run).
    type: str
    default: ''
  commands:
    description: The artisan commands that O(state=checked) is about.
    type: list
    elements: str
    default: []
  arguments:
    description: Its arguments and options. They stand in process lists, so they must not hold secrets.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that the command may take. After that it is asked to end, and ten seconds later it is killed.
    type: int
    default: 3600
  directory:
    description: Where locks, logs and results are kept on the host.
    type: path
    default: /var/lib/spotcache-batch
  hidden:
    description: Texts that are not to be shown, such as passwords. They are replaced in all that is shown or returned.
    type: list
    elements: str
    default: []
  shared:
    description:
      - Where other control nodes can see that the command runs, an S3 C(bucket) in a C(region). C(lease) is the key of
        the lease, as of M(spotcache.redis.lease); C(ledger) the prefix of the ledger, as of
        M(spotcache.redis.batch_ledger); C(id) the command's name there; C(environment) the AWS SDK's variables.
      - Used on the control node alone, and never sent to the host. Empty means that only the host keeps a second run
        away.
    type: dict
    default: {}
  by:
    description: Who runs it; the action plugin fills it in.
    type: str
    default: ''
extends_documentation_fragment:
  - spotcache.redis.application
  - spotcache.redis.attributes.no_diff
attributes:
  check_mode:
    description: Starts nothing. O(state=checked) only reads.
    support: full
"""

EXAMPLES = r"""
- name: Fill the batch cache
  spotcache.redis.artisan:
    application: shop
    path: /srv/app
    container: php
    command: batch:warm
    arguments: ["--chunk=500"]
    timeout: 600
    shared:
      bucket: example-backups
      region: ap-northeast-1
      lease: stg/locks/batch-shop-batch-warm.json
      ledger: stg/batches/
      id: shop/batch:warm
"""

RETURN = r"""
problems:
  description: What stands in the way, one sentence each.
  returned: for O(state=checked)
  type: list
  elements: str
code:
  description: The exit code; 124 when the time limit ended it.
  returned: for O(state=run), when it ran
  type: int
seconds:
  description: How long the command took.
  returned: for O(state=run), when it ran
  type: float
started:
  description: When it started, in seconds since 1970 by the host's clock.
  returned: for O(state=run), when it ran
  type: float
ended:
  description: When it ended.
  returned: for O(state=run), when it ran
  type: float
lines:
  description: Its last lines.
  returned: for O(state=run), when it ran
  type: list
  elements: str
log:
  description: The whole output, on the host.
  returned: for O(state=run), when it ran
  type: str
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils.programs import Done, run, start_detached

NO_ARTISAN = 97
KILL_AFTER_S = 10
# Runs apart from the connection; the exit code appears in one step.
SUPERVISOR = (
    'out=$1; shift; "$@"; code=$?; printf "%s %s\\n" "$code" "$(date +%s.%N)" > "$out.new"; mv "$out.new" "$out"'
)
ENTER = 'cd "$1" 2>/dev/null && test -f artisan || exit 97; shift; exec "$@"'


class Refused(Exception):
    """A sentence for the person."""


def inside(params: dict[str, Any], words: list[str], uid: int) -> list[str]:
    """The command line that runs `words` in the application's directory, where it lives, as its user."""
    entered = ["sh", "-c", ENTER, "sh", params["path"], *words]
    if params["container"]:
        return ["docker", "exec", "--user", params["user"], params["container"], *entered]
    return ["runuser", "-u", params["user"], "--", *entered] if uid == 0 else entered


def runs(container: str) -> bool:
    """Whether a container is there, and neither stopped nor paused."""
    done = run(["docker", "container", "inspect", "--format", "{{.State.Status}}", container])
    return done.returncode == 0 and done.stdout.strip() == "running"


def has_user(params: dict[str, Any]) -> bool:
    """Whether there is such a user where the application lives. A number needs no name, and who is not root stays."""
    if params["user"].isdecimal() or not (params["container"] or os.geteuid() == 0):
        return True
    asked = ["id", "-u", params["user"]]
    done = run(["docker", "exec", params["container"], *asked] if params["container"] else asked)
    # Where nobody can say, nobody is blamed.
    return done.returncode != 1


def ask(params: dict[str, Any], words: list[str]) -> Done:
    """Run artisan for an answer. Raises Refused where the application cannot be reached at all."""
    argv = inside(params, ["timeout", "60", params["php"], "artisan", "--no-ansi", *words], os.geteuid())
    try:
        done = run(argv)
    except FileNotFoundError as error:
        raise Refused(f"There is no {argv[0]} on this host: install it, or correct container.") from error
    place = f"the container {params['container']}" if params["container"] else "this host"
    if done.returncode == NO_ARTISAN:
        raise Refused(
            f"path is {params['path']}, and there is no artisan in it (seen by {params['user']} in {place}): give the "
            "directory of the Laravel application that holds artisan."
        )
    if done.returncode:
        if params["container"] and not runs(params["container"]):
            raise Refused(
                f"The container {params['container']} does not run on this host: start it, or correct container."
            )
        if not has_user(params):
            raise Refused(f"user is {params['user']}, and {place} has no such user: give the one that php-fpm runs as.")
    if done.returncode == 127:
        raise Refused(f"{place} has no {params['php']}: correct php.")
    return done


def slug(text: str) -> str:
    """A command's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)


class Place:
    """The directory of one application's command on the host."""

    def __init__(self, params: dict[str, Any], command: str) -> None:
        self.command = f"{params['application']}: {command}"
        self.directory = Path(params["directory"]) / f"{slug(params['application'])}.{slug(command)}"
        self.log = self.directory / "log"
        self.exit = self.directory / "exit"
        self.state = self.directory / "state.json"
        self.lock = self.directory / "lock"

    def take(self) -> int:
        """The lock's descriptor, which every process of the run inherits. Raises Refused when a run holds it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise Refused(self.busy()) from error
        return descriptor

    def is_free(self) -> bool:
        """Whether nobody runs it here. Makes nothing."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def busy(self) -> str:
        """Who runs it, and since when."""
        told: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(self.state.read_text())
        since = float(told.get("since", 0))
        limit = since + float(told.get("timeout", 0))
        return (
            f"{self.command} runs already: started by {told.get('by') or 'somebody'}, since {stamp(since)}, until "
            f"{stamp(limit)} at the latest. Its log is {self.log}. Nothing was started; wait for its end."
        )


def stamp(when: float) -> str:
    """A moment for people, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def problems(params: dict[str, Any]) -> list[str]:
    """What stands in the way of running `commands`."""
    try:
        listed = ask(params, ["list", "--raw"])
    except Refused as refused:
        return [str(refused)]
    if listed.returncode:
        said = " ".join((listed.stderr + listed.stdout).split())[-400:]
        return [f"artisan does not start in {params['path']} (exit code {listed.returncode}): {said}"]
    known = {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
    found = []
    for command in dict.fromkeys(params["commands"]):
        # A hidden command is not listed, and yet it can be asked for help.
        if command not in known and ask(params, ["help", command]).returncode:
            near = sorted(name for name in known if name.split(":")[0] == command.split(":")[0])
            hint = f"; it has {', '.join(near[:8])}" if near else ""
            found.append(f"The application in {params['path']} has no artisan command {command}{hint}.")
        place = Place(params, command)
        if not place.is_free():
            found.append(place.busy())
    return found


def start(params: dict[str, Any]) -> dict[str, Any]:
    """Start the command apart from this process; returns where to look."""
    place = Place(params, params["command"])
    descriptor = place.take()
    place.exit.unlink(missing_ok=True)
    limits = ["timeout", "-k", str(KILL_AFTER_S), str(params["timeout"])]
    words = [*limits, params["php"], "artisan", "--no-ansi", "--no-interaction", params["command"]]
    argv = inside(params, [*words, *params["arguments"]], os.geteuid())
    if shutil.which(argv[0]) is None:
        raise Refused(f"There is no {argv[0]} on this host.")
    if place.log.exists():
        os.replace(place.log, place.log.with_suffix(".1"))
    since = time.time()
    place.state.write_text(json.dumps({"by": params["by"], "since": since, "timeout": params["timeout"]}))
    place.state.chmod(0o600)
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    pid = start_detached(["sh", "-c", SUPERVISOR, "sh", str(place.exit), *argv], log, descriptor)
    # From here on only the run's own processes hold the lock.
    os.close(descriptor)
    os.close(log)
    return {"started": since, "pid": pid, "log": str(place.log), "exit": str(place.exit)}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["run", "checked"], "default": "run"},
            "application": {"type": "str", "required": True},
            "path": {"type": "str", "required": True},
            "command": {"type": "str", "default": ""},
            "commands": {"type": "list", "elements": "str", "default": []},
            "arguments": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 3600},
            "container": {"type": "str", "default": ""},
            "user": {"type": "str", "default": "www-data"},
            "php": {"type": "str", "default": "php"},
            "directory": {"type": "path", "default": "/var/lib/spotcache-batch"},
            "hidden": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "shared": {"type": "dict", "default": {}, "no_log": True},
            "by": {"type": "str", "default": ""},
        },
        required_if=[("state", "run", ["command"])],
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["state"] == "checked":
            module.exit_json(changed=False, problems=problems(params))
        if not params["command"] or params["timeout"] < 1:
            raise Refused(f"command is '{params['command']}' and timeout is {params['timeout']}: give both.")
        if module.check_mode:
            module.exit_json(changed=True)
        module.exit_json(changed=True, **start(params))
    except (Refused, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
