# SPDX-License-Identifier: GPL-3.0-or-later
"""./spotcache as a person uses it, on a machine that has all it needs."""

from __future__ import annotations

import os
import re
import subprocess
import time

from dev.sandboxes import Play, Sandbox
from dev.work import ROOT


def door(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the front door as CI does: without a terminal and without a standard input."""
    return subprocess.run(
        [str(ROOT / "spotcache"), *words],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_what_is_prepared_is_used_again_at_once() -> None:
    assert door("setup").returncode == 0
    started = time.monotonic()
    again = door("setup")
    assert again.returncode == 0, again.stderr
    # Each thing that is prepared says so; what is there already is only named.
    assert not re.search(r": \d+ s$|Python packages|Debian packages", again.stdout, re.MULTILINE), again.stdout
    assert time.monotonic() - started < 30


def test_a_playbook_runs_by_the_command_line_that_is_printed(provisioned: Sandbox) -> None:
    arguments = ["-i", "inventories/sandbox", "--check"]
    done = door("backup", *arguments, SPOTCACHE_SANDBOX=provisioned.name)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert " ".join(["+ .venv/bin/ansible-playbook playbooks/backup.yml", *arguments]) in done.stdout.splitlines()
    assert Play(done.stdout, 0).changed == 0


def test_without_an_inventory_it_is_the_sandbox(provisioned: Sandbox) -> None:
    done = door("provision", "--list-hosts", SPOTCACHE_SANDBOX=provisioned.name)
    assert done.returncode == 0, done.stderr
    assert "localhost" in done.stdout


def test_an_error_of_ansible_is_the_front_doors_error(provisioned: Sandbox) -> None:
    done = door("destroy", "-i", "inventories/sandbox", SPOTCACHE_SANDBOX=provisioned.name)
    assert done.returncode != 0
    assert "destroy_confirm" in done.stdout + done.stderr
    assert len(provisioned.hosts()) == 1


def test_another_environment_needs_no_sandbox_and_is_refused_with_what_to_set() -> None:
    done = door("provision", "-i", "inventories/stg", "-e", "spotcache_bucket=")
    assert done.returncode != 0
    assert "spotcache_bucket is not set" in done.stdout
    assert "sandbox" not in done.stdout.lower().partition("play recap")[0].replace("inventories/sandbox", "")
