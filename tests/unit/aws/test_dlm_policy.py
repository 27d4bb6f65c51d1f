"""The lifecycle policy, held against botocore's own model of the service: it checks every request and every answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.modules import dlm_policy as module
from botocore.stub import Stubber

NAME = "spotcache-stg"
POLICY_ID = "policy-0123456789abcdef0"
ARN = f"arn:aws:dlm:ap-northeast-1:123456789012:policy/{POLICY_ID}"
PARAMETERS: dict[str, Any] = {
    "name": NAME,
    "region": "ap-northeast-1",
    "role_arn": "arn:aws:iam::123456789012:role/spotcache-stg-dlm",
    "target_tags": {"spotcache:environment": "stg"},
    "interval_hours": 12,
    "keep": 4,
    "snapshot_tags": {"spotcache:by": "dlm"},
    "tags": {"spotcache:environment": "stg"},
}
DETAILS: dict[str, Any] = {
    "PolicyType": "EBS_SNAPSHOT_MANAGEMENT",
    "ResourceTypes": ["VOLUME"],
    "TargetTags": [{"Key": "spotcache:environment", "Value": "stg"}],
    "Schedules": [
        {
            "Name": "spotcache",
            "CopyTags": True,
            "TagsToAdd": [{"Key": "spotcache:by", "Value": "dlm"}],
            "CreateRule": {"Interval": 12, "IntervalUnit": "HOURS", "Times": ["18:00"]},
            "RetainRule": {"Count": 4},
        }
    ],
}
TAGS = {"spotcache:environment": "stg", "Name": NAME}
REQUEST: dict[str, Any] = {
    "ExecutionRoleArn": PARAMETERS["role_arn"],
    "Description": NAME,
    "State": "ENABLED",
    "PolicyDetails": DETAILS,
}


def described(**more: Any) -> dict[str, Any]:
    """A policy as AWS gives it back: with what it adds by itself."""
    schedule = {**DETAILS["Schedules"][0], "VariableTags": []}
    schedule["CreateRule"] = {**schedule["CreateRule"], "Location": "CLOUD"}
    return {
        "PolicyId": POLICY_ID,
        "PolicyArn": ARN,
        "Description": NAME,
        "State": "ENABLED",
        "StatusMessage": "ENABLED",
        "ExecutionRoleArn": PARAMETERS["role_arn"],
        "DateCreated": datetime(2026, 11, 22),
        "DateModified": datetime(2026, 11, 22),
        "PolicyDetails": {**DETAILS, "ResourceLocations": ["CLOUD"], "Schedules": [schedule]},
        "Tags": {**TAGS, "aws:cloudformation:stack-name": "s"},
        **more,
    }


@pytest.fixture
def dlm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    client = boto3.client("dlm", region_name="ap-northeast-1", aws_access_key_id="a", aws_secret_access_key="b")
    monkeypatch.setattr(AnsibleAWSModule, "client", lambda self, service: {"dlm": client}[service])
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def finds(dlm: Stubber, *policies: dict[str, Any]) -> None:
    """What the search comes to: someone else's policy first, then ours."""
    summary = ("PolicyId", "Description", "State", "Tags")
    rows = [{key: policy[key] for key in summary} for policy in policies]
    other = {"PolicyId": "policy-0", "Description": "other", "State": "ENABLED", "Tags": {"Name": "other"}}
    dlm.add_response("get_lifecycle_policies", {"Policies": [other, *rows]}, {})
    if len(policies) == 1:
        dlm.add_response("get_lifecycle_policy", {"Policy": policies[0]}, {"PolicyId": policies[0]["PolicyId"]})


def run(capsys: pytest.CaptureFixture[str], **more: Any) -> dict[str, Any]:
    with patch_module_args({**PARAMETERS, **more}), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_make_one(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    finds(dlm)
    planned = run(capsys, _ansible_check_mode=True)
    assert planned["changed"]
    assert planned["policy_id"] == ""
    assert planned["diff"]["before"] == {}
    dlm.assert_no_pending_responses()

    finds(dlm)
    dlm.add_response("create_lifecycle_policy", {"PolicyId": POLICY_ID}, {**REQUEST, "Tags": TAGS})
    dlm.add_response("get_lifecycle_policy", {"Policy": described()}, {"PolicyId": POLICY_ID})
    made = run(capsys)
    assert made["changed"]
    assert made["policy_id"] == POLICY_ID
    assert made["policy_arn"] == ARN


@pytest.mark.parametrize("check", [True, False])
def test_again_changes_nothing(dlm: Stubber, capsys: pytest.CaptureFixture[str], check: bool) -> None:
    finds(dlm, described())
    again = run(capsys, _ansible_check_mode=check)
    assert not again["changed"]
    assert again["policy_id"] == POLICY_ID
    assert again["diff"]["before"] == again["diff"]["after"]


def test_change_what_differs(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    finds(dlm, described())
    assert run(capsys, keep=9, _ansible_check_mode=True)["changed"]
    dlm.assert_no_pending_responses()

    finds(dlm, described())
    schedule = {**DETAILS["Schedules"][0], "RetainRule": {"Count": 9}}
    details = {**DETAILS, "Schedules": [schedule]}
    dlm.add_response("update_lifecycle_policy", {}, {**REQUEST, "PolicyDetails": details, "PolicyId": POLICY_ID})
    changed = run(capsys, keep=9)
    assert changed["changed"]
    assert changed["diff"]["before"]["keep"] == 4
    assert changed["diff"]["after"]["keep"] == 9


def test_a_policy_that_aws_stopped_is_enabled_again(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    finds(dlm, described(State="ERROR"))
    dlm.add_response("update_lifecycle_policy", {}, {**REQUEST, "PolicyId": POLICY_ID})
    assert run(capsys)["changed"]


def test_only_tags_differ(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    finds(dlm, described(Tags={"Name": NAME, "spotcache:environment": "dev", "old": "1"}))
    dlm.add_response("untag_resource", {}, {"ResourceArn": ARN, "TagKeys": ["old"]})
    dlm.add_response("tag_resource", {}, {"ResourceArn": ARN, "Tags": {"spotcache:environment": "stg"}})
    assert run(capsys)["changed"]


def test_a_cron_expression_takes_the_place_of_the_interval(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    finds(dlm, described())
    cron = "cron(0 18 ? * MON-FRI *)"
    schedule = {**DETAILS["Schedules"][0], "CreateRule": {"CronExpression": cron}}
    request = {**REQUEST, "PolicyDetails": {**DETAILS, "Schedules": [schedule]}}
    dlm.add_response("update_lifecycle_policy", {}, {**request, "PolicyId": POLICY_ID})
    assert run(capsys, cron=cron)["changed"]


def test_of_instances_without_what_they_booted_from(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    instances = {**DETAILS, "ResourceTypes": ["INSTANCE"], "Parameters": {"ExcludeBootVolume": True}}
    asked = {"resource": "instance", "boot_volumes": False}
    finds(dlm, described())
    dlm.add_response("update_lifecycle_policy", {}, {**REQUEST, "PolicyDetails": instances, "PolicyId": POLICY_ID})
    assert run(capsys, **asked)["changed"]
    finds(dlm, described(PolicyDetails={**described()["PolicyDetails"], **instances}))
    assert not run(capsys, **asked)["changed"]


def test_delete(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    finds(dlm, described())
    assert run(capsys, state="absent", _ansible_check_mode=True)["changed"]
    dlm.assert_no_pending_responses()

    finds(dlm, described())
    dlm.add_response("delete_lifecycle_policy", {}, {"PolicyId": POLICY_ID})
    assert run(capsys, state="absent")["changed"]

    finds(dlm)
    assert not run(capsys, state="absent")["changed"]


def test_two_of_the_same_name_are_told(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    finds(dlm, described(), described(PolicyId="policy-1"))
    told = run(capsys)
    assert told["failed"]
    assert f"{POLICY_ID}, policy-1" in told["msg"]


def test_refused_by_aws(dlm: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    dlm.add_client_error("get_lifecycle_policies", "UnauthorizedException", "not you", 403)
    told = run(capsys)
    assert told["failed"]
    assert "spotcache-stg cannot be managed" in told["msg"]
    assert "not you" in told["msg"]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"target_tags": {}}, "target_tags is empty"),
        ({"time": "25:00"}, "'18:00'"),
        ({"time": "65400"}, "in quotes"),
        ({"cron": "0 18 * * *"}, "MON-FRI"),
        ({"keep": 0}, "between 1 and 1000"),
        ({"description": "a: b"}, "description may have"),
    ],
)
def test_bad_input_is_told_before_anything_is_asked(
    dlm: Stubber, capsys: pytest.CaptureFixture[str], wrong: dict[str, Any], word: str
) -> None:
    told = run(capsys, **wrong)
    assert told["failed"]
    assert word in told["msg"]
