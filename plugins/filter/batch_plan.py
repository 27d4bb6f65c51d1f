"""Which batches run, in which order, and what is wrong with how they are described."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
name: batch_plan
short_description: Which batches run, in which order
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Turns the descriptions of applications into the runs that are due, in order, and says in one sentence each what is
    wrong with the descriptions.
options:
  _input:
    description: Applications, as in C(laravel_batch_applications), with C(hosts) as a list of host names.
    type: list
    elements: dict
    required: true
  known_hosts:
    description: The inventory's hosts.
    type: list
    elements: str
    default: []
  only:
    description: Applications or runs (C(application/batch)) to keep; an empty list keeps all.
    type: list
    elements: str
    default: []
  start:
    description: The run to begin with, as C(application/batch). Empty means the first.
    type: str
    default: ''
  when:
    description: V(always), or V(data_lost) for what a restore has lost.
    type: str
    choices: [always, data_lost]
    default: always
  ledger:
    description: What the module P(spotcache.redis.batch_ledger#module) has read, for V(data_lost).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.debug:
    msg: "{{ laravel_batch_applications | spotcache.redis.batch_plan(known_hosts=groups['all']) }}"
"""

RETURN = r"""
_value:
  description:
    - C(problems), sentences, and C(runs), each with C(id), C(application), C(host), C(skip) (why not) and all it takes.
  type: dict
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
COMMAND = re.compile(r"^[A-Za-z0-9][A-Za-z0-9:._-]*$")
APPLICATION_KEYS = {"name", "hosts", "place", "path", "container", "user", "php", "become", "runs_on", "batches"}
BATCH_KEYS = {"command", "name", "arguments", "timeout"}
# Clocks of the Redis host and of the applications' hosts may differ; in doubt a batch is run.
MARGIN_S = 60.0


def application_problems(one: Mapping[str, Any], known: Sequence[str]) -> Iterable[str]:
    """What is wrong with one application."""
    name = str(one.get("name", ""))
    where = f"laravel_batch_applications: {name or 'an application without a name'}"
    if not NAME.match(name):
        yield f"{where} needs a name of letters, digits, points, hyphens and underscores, such as shop."
    unknown = sorted(set(one) - APPLICATION_KEYS)
    if unknown:
        yield f"{where} has the key {unknown[0]}, which means nothing: use {', '.join(sorted(APPLICATION_KEYS))}."
    place = one.get("place", "host")
    if place == "ecs":
        yield f"{where} has place ecs, and batches cannot be run as ECS tasks: use host or container."
    elif place not in ("host", "container"):
        yield f"{where} has place {place}: use host or container."
    if place == "container" and not one.get("container"):
        yield f"{where} has place container and names none: set container to the name of its php container."
    if not str(one.get("path", "")).startswith("/"):
        yield f"{where} has path '{one.get('path', '')}': give the absolute path of the directory that holds artisan."
    if one.get("runs_on", "first") not in ("first", "all"):
        yield f"{where} has runs_on {one['runs_on']}: use first (one shared cache) or all (a cache on each host)."
    if not one.get("hosts"):
        yield f"{where} has no hosts: hosts must name at least one host of the inventory, or a group with one in it."
    missing = [host for host in one.get("hosts") or [] if known and host not in known]
    if missing:
        yield f"{where} names the host {missing[0]}, which the inventory does not have: correct hosts."


def batch_problems(application: str, batches: Any) -> Iterable[str]:
    """What is wrong with one application's batches."""
    where = f"laravel_batch_applications: {application}"
    if not isinstance(batches, list) or not batches:
        yield f"{where} has no batches: list at least one, such as {{command: 'batch:warm'}}."
        return
    names = []
    for batch in batches:
        command = str(batch.get("command", "")) if isinstance(batch, Mapping) else ""
        if not COMMAND.match(command):
            yield f"{where} has a batch with the command '{command}': give artisan's name of it, such as batch:warm."
            continue
        unknown = sorted(set(batch) - BATCH_KEYS)
        if unknown:
            yield f"{where}, {command} has the key {unknown[0]}: use {', '.join(sorted(BATCH_KEYS))}."
        arguments = batch.get("arguments", [])
        if not isinstance(arguments, list) or any(isinstance(item, (list, dict)) for item in arguments):
            yield f"{where}, {command} has arguments {arguments!r}: give a list of texts, such as ['--chunk=500']."
        timeout = str(batch.get("timeout", 3600))
        if not timeout.isdigit() or int(timeout) < 1:
            yield f"{where}, {command} has timeout {timeout}: give seconds, at least 1."
        names.append(str(batch.get("name", command)))
    for twice in sorted({name for name in names if names.count(name) > 1}):
        yield f"{where} has {twice} twice: give each a name of its own (name: {twice}-2)."


def runs_of(one: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The runs of one application, in order."""
    hosts = one["hosts"] if one.get("runs_on", "first") == "all" else one["hosts"][:1]
    for batch in one["batches"]:
        for host in hosts:
            name = str(batch.get("name", batch["command"]))
            yield {
                "id": f"{one['name']}/{name}" + (f"@{host}" if len(hosts) > 1 else ""),
                "application": str(one["name"]),
                "name": name,
                "command": batch["command"],
                "arguments": [str(item) for item in batch.get("arguments", [])],
                "timeout": int(batch.get("timeout", 3600)),
                "host": host,
                "path": str(one["path"]),
                "container": str(one.get("container", "")) if one.get("place", "host") == "container" else "",
                "user": str(one.get("user", "www-data")),
                "php": str(one.get("php", "php")),
                "become": bool(one.get("become", True)),
                "lock": re.sub(r"[^A-Za-z0-9._-]", "-", f"batch-{one['name']}-{batch['command']}")
                + (f"-{host}" if len(hosts) > 1 else ""),
                "skip": "",
            }


def kept(run: Mapping[str, Any], ledger: Mapping[str, Any]) -> str:
    """Why nothing of a run's data was lost; empty when some was, or when that cannot be known."""
    record = (ledger.get("runs") or {}).get(run["id"])
    if not record:
        return ""
    started, ended = float(record["started"]), float(record["ended"])
    for loss in ledger.get("losses") or []:
        # What was written between the backup that came back and the restore is gone.
        if ended > float(loss["since"]) - MARGIN_S and started < float(loss["until"]) + MARGIN_S:
            return ""
    return "nothing of it was lost"


def batch_plan(
    applications: Sequence[Mapping[str, Any]],
    known_hosts: Sequence[str] = (),
    only: Sequence[str] = (),
    start: str = "",
    when: str = "always",
    ledger: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Problems and runs."""
    problems: list[str] = []
    if not applications:
        problems.append("laravel_batch_applications is empty: describe at least one application with its batches.")
    for one in applications:
        problems += application_problems(one, known_hosts)
        problems += batch_problems(str(one.get("name", "")), one.get("batches"))
    names = [str(one.get("name", "")) for one in applications]
    problems += [
        f"laravel_batch_applications names {name} twice: give each its own name."
        for name in sorted({name for name in names if name and names.count(name) > 1})
    ]
    if when not in ("always", "data_lost"):
        problems.append(f"batch_when is {when}: use always or data_lost.")
    if problems:
        return {"problems": problems, "runs": []}
    runs = [run for one in applications for run in runs_of(one)]
    ids = [run["id"] for run in runs]
    for word in only:
        if word not in names and word not in ids:
            problems.append(f"batch_only names {word}, which there is not: use {', '.join([*names, *ids])}.")
    if start and start not in ids:
        problems.append(f"batch_from is {start}, and there is no such batch: use one of {', '.join(ids)}.")
    if problems:
        return {"problems": problems, "runs": []}
    begun = not start
    for run in runs:
        begun = begun or run["id"] == start
        if not begun:
            run["skip"] = f"before {start}"
        elif only and run["application"] not in only and run["id"] not in only:
            run["skip"] = "not in batch_only"
        elif when == "data_lost":
            run["skip"] = kept(run, ledger or {})
    return {"problems": [], "runs": runs}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"batch_plan": batch_plan}
