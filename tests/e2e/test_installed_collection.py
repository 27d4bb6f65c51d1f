# SPDX-License-Identifier: GPL-3.0-or-later
"""Both ways that people run spotcache: from a checkout, and as an installed collection somewhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dev.sandboxes import INVENTORY, Play, Sandbox
from dev.work import ROOT, tool

# What there is of the collection when a play runs, with what ansible-galaxy keeps its books in.
AT_RUN_TIME = {"meta", "plugins", "roles", "playbooks", "docs/iam", "MANIFEST.json", "FILES.json"}
# What people read and copy besides.
TO_READ = {
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.ja.md",
    "README.md",
    "SECURITY.md",
    "changelogs",
    "collections",
    "docs",
    "inventories",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    subprocess.run(
        [tool("ansible-galaxy"), "collection", "build", "--output-path", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return next(folder.glob("spotcache-redis-*.tar.gz"))


@pytest.fixture(scope="module")
def elsewhere(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed collection and knows nothing of the checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    # The dependencies come with Ansible's community package; nothing is fetched.
    command = [
        tool("ansible-galaxy"),
        "collection",
        "install",
        "--offline",
        "--no-deps",
        str(archive),
        "-p",
        str(folder),
    ]
    (folder / "ansible.cfg").write_text(
        "[defaults]\ninject_facts_as_vars = False\n\n[ssh_connection]\npipelining = True\n"
    )
    # With the checkout's own settings the collection would count as installed already.
    environment = {**os.environ, **settings(folder)}
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, cwd=folder, env=environment)
    leave_only(AT_RUN_TIME, folder / "ansible_collections" / "spotcache" / "redis")
    return folder


def leave_only(names: set[str], folder: Path, below: str = "") -> None:
    """Remove all that a folder holds but these, so that what runs there can have used nothing else."""
    for path in folder.iterdir():
        name = f"{below}{path.name}"
        if name in names:
            continue
        if any(one.startswith(f"{name}/") for one in names):
            leave_only(names, path, f"{name}/")
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def settings(folder: Path) -> dict[str, str]:
    """What makes Ansible look for the collection in that folder only."""
    return {
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(folder),
        "ANSIBLE_ROLES_PATH": str(folder),
        # As a shell sets it that has gone there: known hosts are kept below it.
        "PWD": str(folder),
    }


def run_elsewhere(sandbox: Sandbox, folder: Path, playbook: str, *arguments: str, log: str) -> Play:
    code, play = sandbox.attempt(
        f"spotcache.redis.{playbook}",
        *arguments,
        log=log,
        environment=settings(folder),
        # As its user runs it: with nothing of the checkout in memory.
        command="ansible-playbook",
        cwd=folder,
    )
    assert code == 0, play.text[-4000:]
    # The inventory and the Python that Ansible runs in are the checkout's, and nothing else.
    assert str(ROOT) not in play.text.replace(str(INVENTORY), "").replace(sys.executable, "")
    return play


def test_the_archive_holds_what_a_user_needs_and_nothing_else(archive: Path) -> None:
    with tarfile.open(archive) as opened:
        names = set(opened.getnames())
    wanted = {
        "LICENSE",
        "changelogs/changelog.yaml",
        "meta/runtime.yml",
        "playbooks/provision.yml",
        "plugins/modules/lease.py",
        "docs/iam/operator-policy.json",
        "inventories/stg/group_vars/all/main.yml",
    }
    assert wanted <= names
    # Nothing else: no tests, no sandbox, no hidden folder, nothing that a developer runs.
    assert {name.partition("/")[0] for name in names} - {"docs"} == (AT_RUN_TIME - {"docs/iam"}) | TO_READ - {"docs"}
    unwanted = ("collections/ansible_collections", "inventories/sandbox", "changelogs/.")
    assert [name for name in names if name.startswith(unwanted) or "__pycache__" in name] == []
    assert archive.stat().st_size < 2_000_000


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (ROOT / "playbooks").glob("[!_]*.yml")))
def test_every_playbook_is_found_by_its_full_name(elsewhere: Path, playbook: str) -> None:
    done = subprocess.run(
        [tool("ansible-playbook"), f"spotcache.redis.{playbook}", "-i", "localhost,", "--syntax-check"],
        cwd=elsewhere,
        env={**os.environ, **settings(elsewhere)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr


def test_what_the_checkout_provisioned_the_installed_collection_finds_as_it_should_be(
    provisioned: Sandbox, elsewhere: Path
) -> None:
    assert run_elsewhere(provisioned, elsewhere, "provision", log="installed-provision").changed == 0


def test_the_installed_collection_backs_up_and_lists(provisioned: Sandbox, elsewhere: Path) -> None:
    run_elsewhere(provisioned, elsewhere, "backup", log="installed-backup")
    listed = run_elsewhere(provisioned, elsewhere, "restore", "--tags", "list", log="installed-list")
    assert listed.changed == 0
