# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook awx against a controller's API, by awx.awx: made once, changed by nothing, and removed again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev import awx_collection, kills
from dev.work import ROOT
from tests.awx import server

PASSWORD, TOKEN, KEY = "correct-horse-battery-staple", "xoxb-nobody-may-read-this", "a private key of nobody's"
VARIABLES: dict[str, Any] = {
    "ansible_connection": "local",
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    "awx_execution_environment_image": "registry.example.com/spotcache-ee:1",
    "awx_environments": [
        {
            "name": "stg",
            "inventory": "inventories/stg/hosts.yml",
            "credentials": ["aws"],
            "secrets": {"redis_password": PASSWORD, "host_key": KEY},
        }
    ],
    "awx_notifications": [
        {
            "name": "ops",
            "notification_type": "slack",
            "notification_configuration": {"token": TOKEN, "channels": ["#ops"]},
        }
    ],
}


@dataclass
class Stage:
    """A controller, and what runs the playbook against it."""

    folder: Path
    controller: server.Controller
    ansible: kills.Ansible
    runs: int = 0

    def play(self, *arguments: str, **more: Any) -> tuple[int, str]:
        """Exit code, and what was said."""
        self.runs += 1
        log = self.folder / f"{self.runs}.log"
        given = ["-e", json.dumps({**VARIABLES, **more}), *arguments]
        code = self.ansible.run(["playbooks/awx.yml", "-i", "localhost,", *given], log)
        return code, log.read_text(errors="replace")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("awx")
    playbooks = {f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("[!_]*.yml")}
    collections = f"{awx_collection.ensure().parents[2]}:{ROOT / 'collections'}"
    ansible = kills.Ansible(folder)
    with server.running(playbooks) as (url, controller), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTROLLER_HOST", url)
        patch.setenv("CONTROLLER_OAUTH_TOKEN", server.TOKEN)
        patch.setenv("ANSIBLE_COLLECTIONS_PATH", f"{collections}:{os.environ.get('ANSIBLE_COLLECTIONS_PATH', '')}")
        ansible.start(1)
        try:
            yield Stage(folder, controller, ansible)
        finally:
            ansible.close()


def changed(text: str) -> int:
    """The recap's number."""
    return int(text.rpartition("changed=")[2].split()[0])


@pytest.fixture(scope="module")
def made(stage: Stage) -> str:
    """What the first run said."""
    stage.controller.writes.clear()
    code, text = stage.play()
    assert code == 0, text[-4000:]
    return text


def test_check_mode_on_a_bare_server_makes_nothing(stage: Stage) -> None:
    before = stage.controller.names()
    code, text = stage.play("--check")
    assert code == 0, text[-4000:]
    assert changed(text) > 0
    assert stage.controller.writes == []
    assert stage.controller.names() == before


def test_everything_is_made(stage: Stage, made: str) -> None:
    names = stage.controller.names()
    verbs = [
        "provision",
        "provision check",
        "backup",
        "list",
        "restore",
        "schedule",
        "drill",
        "laravel_env",
        "batch",
        "cache_clear",
        "destroy",
    ]
    assert {f"job_template spotcache stg {verb}" for verb in verbs} <= names
    assert {
        "organization spotcache",
        "execution_environment spotcache",
        "credential_type spotcache secrets",
        "credential_type spotcache host key",
        "credential spotcache stg secrets",
        "credential spotcache stg host key",
        "notification_template ops",
        "project spotcache",
        "inventory spotcache stg",
        "inventory_source spotcache stg",
        "schedule spotcache stg backup every night",
        "schedule spotcache stg provision check every Monday",
        "workflow_job_template spotcache stg restore with approval",
        "workflow_approval_template Restore stg?",
    } <= names


def test_a_restore_waits_for_an_approval_and_is_backed_up(stage: Stage, made: str) -> None:
    nodes = {one["identifier"]: one for one in stage.controller.objects["workflow_job_template_nodes"].values()}

    def follows(name: str) -> list[int]:
        return stage.controller.linked["workflow_job_template_nodes", nodes[name]["id"], "success_nodes"]

    assert set(nodes) == {"approve", "restore", "backup"}
    assert follows("approve") == [nodes["restore"]["id"]]
    assert follows("restore") == [nodes["backup"]["id"]]


def test_a_job_gets_its_credentials(stage: Stage, made: str) -> None:
    templates = stage.controller.objects["job_templates"].values()
    names = {one["id"]: one["name"] for one in stage.controller.objects["credentials"].values()}
    for one in templates:
        linked = stage.controller.linked["job_templates", one["id"], "credentials"]
        assert {names[number] for number in linked} == {"aws", "spotcache stg secrets", "spotcache stg host key"}
        assert (one["allow_simultaneous"], one["job_slice_count"]) == (False, 1)


def test_a_second_run_changes_nothing(stage: Stage, made: str) -> None:
    stage.controller.writes.clear()
    code, text = stage.play()
    assert code == 0, text[-4000:]
    assert changed(text) == 0
    assert stage.controller.writes == []


def test_what_somebody_changed_by_hand_is_put_back(stage: Stage, made: str) -> None:
    [schedule] = [one for one in stage.controller.objects["schedules"].values() if "night" in one["name"]]
    schedule["enabled"] = False
    [told] = stage.controller.objects["notification_templates"].values()
    told["notification_configuration"] = {**told["notification_configuration"], "channels": ["#random"]}
    [secrets] = [one for one in stage.controller.objects["credentials"].values() if "secrets" in one["name"]]
    secrets["inputs"]["redis_password"] = "another"
    code, text = stage.play()
    assert code == 0, text[-4000:]
    assert schedule["enabled"] is True
    assert told["notification_configuration"]["channels"] == ["#ops"]
    # No server tells a secret, so that nobody can see whether it is another one; it is given again when that is asked.
    assert secrets["inputs"]["redis_password"] == "another"
    code, text = stage.play(awx_update_secrets=True)
    assert code == 0, text[-4000:]
    assert secrets["inputs"]["redis_password"] == PASSWORD


def test_what_the_server_refuses_is_told_by_name(stage: Stage, made: str) -> None:
    code, text = stage.play(awx_galaxy_credential="Nobody's")
    assert code != 0
    said = " ".join(text.split())
    assert "organization spotcache: Request to /api/v2/credentials/" in said
    assert "returned 0 items, expected 1" in said


def test_a_collection_that_is_not_there_is_told(stage: Stage, made: str) -> None:
    code, text = stage.play(awx_collection="nobody.nothing")
    assert code != 0
    said = " ".join(text.split())
    assert "There is no module nobody.nothing.organization here. Install the collection" in said


def test_it_is_all_removed_again_and_nothing_else(stage: Stage, made: str) -> None:
    before = {name for name in stage.controller.names() if name.endswith(("aws", "Ansible Galaxy"))}
    code, text = stage.play(awx_state="absent")
    assert code == 0, text[-4000:]
    left = stage.controller.names()
    assert before <= left
    assert not [name for name in left if "spotcache" in name or name.endswith(("ops", "Restore stg?"))]
    stage.controller.writes.clear()
    code, text = stage.play(awx_state="absent")
    assert code == 0, text[-4000:]
    assert changed(text) == 0
    assert stage.controller.writes == []


def test_no_secret_was_said(stage: Stage, made: str) -> None:
    """Comes last: of all runs before."""
    said = "".join(path.read_text(errors="replace") for path in stage.folder.glob("*.log"))
    assert stage.runs > 8
    for secret in (PASSWORD, TOKEN, KEY, server.TOKEN):
        assert secret not in said
