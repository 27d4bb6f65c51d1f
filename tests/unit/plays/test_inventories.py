# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox is stg: what its inventory says otherwise is on a short list, each with its reason."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.work import ROOT, tool

SANDBOX, STG = (ROOT / "inventories" / name for name in ("sandbox", "stg"))
GROUP_VARS = Path("group_vars") / "all"
# What may differ, and why. Anything else is as a user of stg has it: a rehearsal that needs less says so itself.
REASONS = {
    "spotcache_environment": "its name",
    "spotcache_bucket": "its name",
    "spotcache_state_dir": "a checkout has a folder for it",
    "spotcache_region": "where the sandbox is",
    "spotcache_aws_environment": "address and credentials of the sandbox",
    "network_cidr": "a network that this machine does not use otherwise",
    "network_redis_client_cidrs": "the rehearsals' own client runs on this machine",
    "spot_host_image_id": "an image of this machine",
    "spot_host_ssh_user": "the user of that image",
    "spot_host_ssh_private_key_file": "a key of this machine",
    "redis_password": "a password of this sandbox",
    "redis_image_source": "no registry is reached",
}


def variables(folder: Path, name: str) -> dict[str, Any]:
    """The variables of one file for all hosts."""
    found: dict[str, Any] = yaml.safe_load((folder / GROUP_VARS / name).read_text())
    return found


def test_the_sandbox_reads_the_shipped_stg_itself() -> None:
    assert (SANDBOX / GROUP_VARS / "from-stg.yml").resolve() == STG / GROUP_VARS / "main.yml"
    assert (SANDBOX / "hosts.yml").resolve() == STG / "hosts.yml"
    assert sorted(path.name for path in (SANDBOX / GROUP_VARS).iterdir()) == ["from-stg.yml", "main.yml"]


def test_what_the_sandbox_says_otherwise_has_a_reason() -> None:
    assert set(variables(SANDBOX, "main.yml")) == set(REASONS)


def test_without_a_sandbox_a_sentence_says_how_to_have_one() -> None:
    done = subprocess.run(
        [str(SANDBOX / "state.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "SPOTCACHE_SANDBOX": "no-such-one"},
    )
    assert done.returncode == 1
    assert "The sandbox no-such-one does not run" in done.stderr
    assert done.stderr.endswith("./spotcache sandbox up no-such-one\n")


def seen_by_ansible(inventory: Path) -> dict[str, Any]:
    """The variables of the control node, as Ansible merges them, untemplated."""
    done = subprocess.run(
        [tool("ansible-inventory"), "-i", str(inventory), "--host", "localhost"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.plays
def test_to_ansible_all_else_is_as_in_stg() -> None:
    sandbox, stg = seen_by_ansible(SANDBOX), seen_by_ansible(STG)
    other = {name for name in sandbox.keys() | stg.keys() if sandbox.get(name) != stg.get(name)}
    assert {name for name in other if not name.startswith("sandbox__")} <= set(REASONS)
    # The sandbox's own file is read last.
    assert sandbox["spotcache_environment"] == "sandbox"
    assert sandbox["schedule_days"] == stg["schedule_days"]
