# SPDX-License-Identifier: GPL-3.0-or-later
"""With the policies of docs/iam, and nothing more, an operator can tell people, set hours and have a caretaker."""

from __future__ import annotations

import json
from pathlib import Path

from rehearsal.sandboxes import Sandbox
from rehearsal.work import ROOT
from tests.e2e.conftest import LOGS
from tests.pending.test_caretaker import PLAYBOOK, House

NOTIFY = """    notify_environment: "{{ spotcache_environment }}"
    notify_region: "{{ spotcache_region }}"
"""


def test_the_policies_suffice(tmp_path: Path) -> None:
    statements = [
        statement
        for name in ("operator-policy", "operator-people-policy")
        for statement in json.loads((ROOT / "docs" / "iam" / f"{name}.json").read_text())["Statement"]
    ]
    # The sandbox's IAM leaves conditions aside, and refuses what has some it cannot know.
    for statement in statements:
        statement.pop("Condition", None)
    policy, playbook = tmp_path / "policy.json", tmp_path / "play.yml"
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": statements}))
    playbook.write_text(PLAYBOOK.replace("  tasks:\n", f"{NOTIFY}  tasks:\n"))
    with Sandbox("t-people", LOGS / "people").running("--operator-policy", str(policy)) as running:
        house = House(running, playbook)
        webhook = "http://127.0.0.1:9/services/x"
        steps = (
            ("notify", {"notify_to": "email", "notify_email_addresses": ["ops@example.com"]}),
            ("notify", {"notify_to": "slack", "notify_slack_webhook": webhook}),
            ("caretaker", {"caretaker_return_volume": True}),
            ("schedule", {"schedule_do": "start"}),
        )
        for role, variables in steps:
            assert house.play(role, **variables).changed > 0
        assert house.play("notify", notify_to="slack").changed == 0
        for role in ("schedule", "caretaker", "notify"):
            assert house.play(role, entry="destroy").changed > 0
