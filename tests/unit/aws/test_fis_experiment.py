"""An experiment of FIS, held against botocore's own model of the service: it checks every request and every answer."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.modules import fis_experiment as module
from botocore.stub import Stubber

NAME = "spotcache-stg-drill"
ROLE = f"arn:aws:iam::123456789012:role/{NAME}"
BEGUN = datetime(2026, 11, 22, 7, 0, 0, 250_000, tzinfo=UTC)
ACTIONS: dict[str, Any] = {
    "interrupt": {
        "actionId": "aws:ec2:send-spot-instance-interruptions",
        "parameters": {"durationBeforeInterruption": "PT120S"},
        "targets": {"SpotInstances": "host"},
    }
}
TARGETS: dict[str, Any] = {
    "host": {
        "resourceType": "aws:ec2:spot-instance",
        "resourceArns": ["arn:aws:ec2:ap-northeast-1:123456789012:instance/i-0123456789abcdef0"],
        "selectionMode": "ALL",
    }
}
PARAMETERS: dict[str, Any] = {
    "name": NAME,
    "region": "ap-northeast-1",
    "role_arn": ROLE,
    "actions": ACTIONS,
    "targets": TARGETS,
    "tags": {"spotcache:environment": "stg"},
}
TAGS = {"spotcache:environment": "stg", "Name": NAME}


def experiment(status: str, action: str = "pending", reason: str = "", name: str = "EXP1") -> dict[str, Any]:
    """An experiment as FIS describes it."""
    acting = {"startTime": BEGUN} if action not in ("pending", "initiating") else {}
    return {
        "experiment": {
            "id": name,
            "experimentTemplateId": "EXT1",
            "roleArn": ROLE,
            "state": {"status": status, "reason": reason},
            "actions": {
                "interrupt": {"actionId": ACTIONS["interrupt"]["actionId"], "state": {"status": action}, **acting}
            },
        }
    }


@pytest.fixture
def fis(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    client = boto3.client("fis", region_name="ap-northeast-1", aws_access_key_id="a", aws_secret_access_key="b")
    monkeypatch.setattr(AnsibleAWSModule, "client", lambda self, service: {"fis": client}[service])
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "ROLE_PAUSE", 0.0)
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def run(capsys: pytest.CaptureFixture[str], check: bool = False, **parameters: Any) -> dict[str, Any]:
    """The module's answer."""
    arguments = {**PARAMETERS, **parameters, "_ansible_check_mode": check}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def listed(fis: Stubber, *names: tuple[str, str]) -> None:
    """The account has these templates (id and name), on two pages."""
    rows = [{"id": one, "tags": {"Name": name}} for one, name in names]
    fis.add_response("list_experiment_templates", {"experimentTemplates": rows[:1], "nextToken": "more"}, {})
    fis.add_response("list_experiment_templates", {"experimentTemplates": rows[1:]}, {"nextToken": "more"})


def created(fis: Stubber) -> None:
    """A template is asked for as it should be."""
    asked = {
        "description": NAME,
        "roleArn": ROLE,
        "stopConditions": [{"source": "none"}],
        "actions": ACTIONS,
        "targets": TARGETS,
        "tags": TAGS,
    }
    fis.add_response("create_experiment_template", {"experimentTemplate": {"id": "EXT1"}}, asked)


def started(fis: Stubber, answer: dict[str, Any]) -> None:
    """An experiment is started."""
    asked = {"experimentTemplateId": "EXT1", "tags": TAGS}
    fis.add_response("start_experiment", answer, asked)


def test_it_is_started_and_waited_for_until_aws_acts(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis, ("EXT9", "another"), ("EXT8", NAME))
    fis.add_response("delete_experiment_template", {}, {"id": "EXT8"})
    created(fis)
    started(fis, experiment("initiating"))
    fis.add_response("get_experiment", experiment("running"), {"id": "EXP1"})
    fis.add_response("get_experiment", experiment("running", "running"), {"id": "EXP1"})
    answer = run(capsys)
    assert answer["changed"]
    assert answer["deleted"] == ["EXT8"]
    assert (answer["experiment_id"], answer["template_id"], answer["status"]) == ("EXP1", "EXT1", "running")
    # To the millisecond: a drill's times count from it.
    assert answer["actions"] == {"interrupt": {"status": "running", "started": BEGUN.timestamp(), "ended": None}}


def test_it_can_be_waited_for_to_its_end(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis)
    created(fis)
    started(fis, experiment("running", "running"))
    fis.add_response("get_experiment", experiment("completed", "completed"), {"id": "EXP1"})
    assert run(capsys, wait="ended")["status"] == "completed"


def test_a_role_that_is_not_known_yet_is_tried_again(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis)
    created(fis)
    started(fis, experiment("failed", "pending", f"Unable to assume role {ROLE}"))
    started(fis, experiment("running", "running", name="EXP2"))
    assert run(capsys)["experiment_id"] == "EXP2"


def test_a_role_that_is_refused_at_first_is_asked_for_again(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis)
    new = f"Unable to assume role {ROLE}"
    fis.add_client_error("create_experiment_template", "ValidationException", new)
    created(fis)
    fis.add_client_error("start_experiment", "ValidationException", new)
    started(fis, experiment("running", "running"))
    assert run(capsys)["experiment_id"] == "EXP1"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDeniedException", "User: arn:aws:sts::1:assumed-role/admin/me is not authorized to perform: fis:x"),
        ("ValidationException", "Action interrupt: its duration is none"),
    ],
)
def test_any_other_refusal_is_told_at_once(
    fis: Stubber, capsys: pytest.CaptureFixture[str], code: str, message: str
) -> None:
    listed(fis)
    fis.add_client_error("create_experiment_template", code, message)
    assert message in run(capsys)["msg"]


def test_one_that_fails_leaves_no_template(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis)
    created(fis)
    started(fis, experiment("failed", "failed", "Target resolution returned empty set for host"))
    fis.add_response("delete_experiment_template", {}, {"id": "EXT1"})
    answer = run(capsys)
    assert answer["failed"]
    assert answer["msg"] == "The experiment EXP1 failed: Target resolution returned empty set for host."


def test_one_that_never_acts_is_given_up(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis)
    created(fis)
    started(fis, experiment("pending"))
    fis.add_response("delete_experiment_template", {}, {"id": "EXT1"})
    assert "is pending after -1 s" in run(capsys, wait_timeout=-1)["msg"]


def test_one_that_cannot_be_started_leaves_no_template(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis)
    created(fis)
    fis.add_client_error("start_experiment", "ServiceQuotaExceededException", "too many")
    fis.add_response("delete_experiment_template", {}, {"id": "EXT1"})
    assert "cannot be managed" in run(capsys)["msg"]


def test_check_mode_makes_and_starts_nothing(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis, ("EXT8", NAME))
    answer = run(capsys, check=True)
    assert (answer["changed"], answer["experiment_id"]) == (True, "")


def running(fis: Stubber) -> None:
    """One experiment runs, one has ended, and one is another template's."""
    rows = [("EXP1", "EXT8", "running"), ("EXP2", "EXT8", "completed"), ("EXP3", "EXT9", "running")]
    found = [{"id": one, "experimentTemplateId": of, "state": {"status": status}} for one, of, status in rows]
    fis.add_response("list_experiments", {"experiments": found[:1], "nextToken": "more"}, {})
    fis.add_response("list_experiments", {"experiments": found[1:]}, {"nextToken": "more"})


def test_nothing_is_left(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis, ("EXT9", "another"), ("EXT8", NAME))
    running(fis)
    # It ends in the very moment.
    fis.add_client_error("stop_experiment", "ValidationException", "it has ended")
    fis.add_response("delete_experiment_template", {}, {"id": "EXT8"})
    answer = run(capsys, state="absent")
    assert (answer["changed"], answer["deleted"], answer["stopped"]) == (True, ["EXT8"], ["EXP1"])


def test_nothing_to_remove_is_no_change(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis, ("EXT9", "another"))
    assert not run(capsys, state="absent")["changed"]


def test_check_mode_removes_nothing(fis: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    listed(fis, ("EXT8", NAME))
    running(fis)
    answer = run(capsys, check=True, state="absent")
    assert (answer["changed"], answer["stopped"]) == (True, ["EXP1"])


def test_what_would_be_refused_is_refused_before_anything_is_asked(
    fis: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "actions['interrupt'] has no actionId" in run(capsys, actions={"interrupt": {}})["msg"]
    lost = {"interrupt": {**ACTIONS["interrupt"], "targets": {"SpotInstances": "hosts"}}}
    assert "has the target hosts, and targets names host" in run(capsys, actions=lost)["msg"]
    assert "role_arn is empty" in run(capsys, role_arn="")["msg"]
    assert "actions is empty" in run(capsys, actions={})["msg"]
    assert "targets is empty" in run(capsys, targets={})["msg"]
