# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways to host Redis: a further one is a file in tasks/backends, and nothing else has to know of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.work import ROOT, tool

PLAYBOOKS = ROOT / "playbooks"
STEPS = {"inputs", "preflight", "present", "find", "locate", "next", "absent"}
ELSEWHERE: dict[str, Any] = {
    "name": "Return where Redis is",
    "ansible.builtin.set_fact": {
        "redis_endpoint": {
            "backend": "{{ spotcache__backend }}",
            "name": "",
            "address": "stg.abc.cache.example",
            "port": 6380,
            "tls": True,
            "username": "app",
            "host": "",
            "runs_on": "cache.t4g.micro",
            "clients": "members of sg-1",
            "login": "",
            "outdated": "",
            "zone_id": "",
            "backups": ["s3"],
        }
    },
}
CAN = (
    "{{ spotcache__from_image | ternary('image', '') }} {{ spotcache__falls_back | ternary('fallback', '') }}"
    " {{ spotcache__lifecycle | ternary('net', '') }} {{ spotcache__automation_statements | length }}"
)


def steps_in(path: Path) -> set[str]:
    return set(re.findall(r"spotcache__step: (\w+)", path.read_text()))


def test_every_part_that_is_asked_for_is_there() -> None:
    asked = set().union(*(steps_in(path) for path in PLAYBOOKS.rglob("*.yml")))
    assert asked == STEPS
    assert {path.stem for path in (PLAYBOOKS / "tasks" / "ec2").glob("*.yml")} >= STEPS


def test_what_is_tried_says_what_a_host_says() -> None:
    [located] = yaml.safe_load((PLAYBOOKS / "tasks" / "ec2" / "endpoint.yml").read_text())
    [_, described] = yaml.safe_load((PLAYBOOKS / "tasks" / "ec2" / "endpoint_described.yml").read_text())
    told = [*located["ansible.builtin.set_fact"]["redis_endpoint"], *described["vars"]["spotcache__description"]]
    # Each key has one place in which it is said.
    assert sorted(ELSEWHERE["ansible.builtin.set_fact"]["redis_endpoint"]) == sorted(told)
    contract = (PLAYBOOKS / "tasks" / "backend.yml").read_text()
    assert [key for key in told if not re.search(rf"\b{key}\b", contract)] == []


def test_what_a_backend_can_do_is_said_in_its_own_file() -> None:
    names = [path.stem for path in (PLAYBOOKS / "tasks" / "backends").iterdir()]
    own = {path for folder in ("tasks", "vars") for path in (PLAYBOOKS / folder / "backends").iterdir()}
    asking = [
        f"{path.relative_to(PLAYBOOKS)}: {line.strip()}"
        for path in sorted({*PLAYBOOKS.rglob("*.yml")} - own)
        for line in path.read_text().splitlines()
        if re.search(rf"""spotcache_+backend (==|!=|in \[)|['"]({"|".join(names)})['"]""", line)
    ]
    # What an inventory that says nothing gets.
    assert asking == ["vars/common.yml: spotcache__backend: \"{{ spotcache_backend | default('ec2_spot') }}\""]


def test_nobody_else_knows_what_it_runs_on() -> None:
    # What is on a host is for hosts; the plays about it have none to run on elsewhere.
    free = {PLAYBOOKS / "vars" / "roles.yml", *(PLAYBOOKS / "tasks" / "ec2").iterdir()}
    knowing = [
        str(path.relative_to(PLAYBOOKS))
        for path in sorted(PLAYBOOKS.rglob("*.yml"))
        if path not in free
        and re.search(r"spot_host_result|network_result|redis\.spot_host$|redis\.network$", path.read_text(), re.M)
    ]
    assert knowing == []


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the playbooks' own tasks say of a backend that is one file."""
    folder = tmp_path_factory.mktemp("backends")
    for name in ("roles", "docs"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(PLAYBOOKS, folder / "playbooks")
    (folder / "playbooks" / "tasks" / "backends" / "elsewhere.yml").write_text(yaml.safe_dump([ELSEWHERE]))
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.include_tasks": f"tasks/{name}.yml"}
        for name in ("preflight_environment", "find", "dns", "summary", "laravel_env_find")
    ]
    tasks.append({"ansible.builtin.debug": {"msg": "applications go to {{ spotcache__redis_address }}"}})
    # Another one has a file that says what it can do.
    (folder / "playbooks" / "vars" / "backends" / "rented.yml").write_text("images: true\non_demand_fallback: true\n")
    tasks += [
        {"ansible.builtin.debug": {"msg": f"{name}: {CAN}."}, "vars": {"spotcache__backend": name}}
        for name in ("ec2_spot", "ec2", "elsewhere", "rented")
    ]
    given = {
        "spotcache_environment": "stg",
        "spotcache_region": "ap-northeast-1",
        "spotcache_bucket": "b",
        "spotcache_backend": "elsewhere",
        "network_dns_zone": "",
        "laravel_env_applications": [],
    }
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": ["vars/common.yml", "vars/roles.yml"],
        "vars": given,
        "tasks": [{"name": f"Step {number}", **task} for number, task in enumerate(tasks)],
    }
    playbook = folder / "playbooks" / "try.yml"
    playbook.write_text(json.dumps([play]))
    done = subprocess.run(
        [tool("ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
    )
    assert done.returncode == 0, done.stdout
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        "Host: cache.t4g.micro",
        "REDIS_HOST=stg.abc.cache.example",
        "REDIS_PORT=6380",
        "Who may connect: members of sg-1",
        "applications go to stg.abc.cache.example",
        "ec2_spot: image fallback net 7.",
        "ec2: image net 7.",
        # It needs no right to anything that looks after hosts.
        "elsewhere: 0.",
        "rented: image fallback 5.",
    ],
)
def test_a_backend_is_one_file(said: str, words: str) -> None:
    assert words in said
