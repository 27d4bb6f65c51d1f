"""The Auto Scaling group of one: what it compares, what it tells, what it waits for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble
from ansible_collections.spotcache.redis.plugins.module_utils.lease import UTC
from ansible_collections.spotcache.redis.plugins.modules import autoscaling_host as module
from botocore.exceptions import ClientError
from moto import mock_aws

NAME = "spotcache-stg"
PARAMETERS: dict[str, Any] = {
    "name": NAME,
    "launch_template": NAME,
    "instance_types": ["t3.small", "t3a.small"],
    "max_price": "0.01",
    "tags": {"Name": NAME, "spotcache:environment": "stg"},
}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    with mock_aws():
        ec2 = boto3.client("ec2", region_name="us-east-1")
        subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
        # An id of its own: whether moto brings images depends on what else the process has imported.
        image = "ami-0123456789abcdef0"
        ec2.create_launch_template(LaunchTemplateName=NAME, LaunchTemplateData={"ImageId": image})
        yield {
            "ec2": ec2,
            "autoscaling": boto3.client("autoscaling", region_name="us-east-1"),
            "parameters": {**PARAMETERS, "subnet_ids": subnets},
        }


def run(capsys: pytest.CaptureFixture[str], parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    with patch_module_args({**parameters, **more}), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_create_again_change_delete(aws: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    parameters = aws["parameters"]
    planned = run(capsys, parameters, _ansible_check_mode=True)
    assert planned["changed"]
    assert planned["instance_id"] == ""
    assert planned["diff"]["before"] == {}
    assert not aws["autoscaling"].describe_auto_scaling_groups()["AutoScalingGroups"]

    made = run(capsys, parameters)
    assert made["changed"]
    assert made["instance_id"].startswith("i-")
    assert made["latest_version"] == "1"
    group = aws["autoscaling"].describe_auto_scaling_groups()["AutoScalingGroups"][0]
    assert module.present_settings(group) == made["settings"]

    for check in (True, False):
        again = run(capsys, parameters, _ansible_check_mode=check)
        assert not again["changed"]
        assert again["instance_id"] == made["instance_id"]

    other = {"tags": {"Name": "else"}, "market": "on_demand"}
    changed = run(capsys, parameters, **other)
    assert changed["changed"]
    assert changed["diff"]["before"]["on_demand_percentage"] == 0
    assert changed["settings"]["max_price"] == ""
    assert not run(capsys, parameters, **other)["changed"]

    assert run(capsys, {"name": NAME}, state="absent", _ansible_check_mode=True)["changed"]
    assert run(capsys, {"name": NAME}, state="absent")["changed"]
    assert not run(capsys, {"name": NAME}, state="absent")["changed"]
    states = [i["State"]["Name"] for r in aws["ec2"].describe_instances()["Reservations"] for i in r["Instances"]]
    assert states == ["terminated"]


def test_a_missing_template_is_named(aws: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    missing = run(capsys, aws["parameters"], launch_template="nothing")
    assert missing["msg"] == "There is no launch template called nothing."


def test_a_new_template_that_ec2_does_not_list_yet_is_waited_for(
    aws: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 60)
    answers = ["", ""]
    known = module.AutoscalingHost.latest_version
    monkeypatch.setattr(
        module.AutoscalingHost, "latest_version", lambda group, name: answers.pop() if answers else known(group, name)
    )
    assert run(capsys, aws["parameters"])["latest_version"] == "1"
    assert answers == []


def test_a_fallback_will_do_while_there_is_no_host(aws: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    parameters, other = aws["parameters"], f"{NAME}-on-demand"
    asked = {**parameters, "fallback_group": other}
    own = run(capsys, asked)
    assert own["group_name"] == NAME
    run(capsys, {**parameters, "name": other, "max_price": ""}, market="on_demand")
    # Its own host comes first.
    assert run(capsys, asked)["instance_id"] == own["instance_id"]
    aws["autoscaling"].update_auto_scaling_group(
        AutoScalingGroupName=NAME, MinSize=0, DesiredCapacity=0, MixedInstancesPolicy=mixed(aws)
    )
    found = run(capsys, asked, _ansible_check_mode=True)
    assert found["group_name"] == other
    assert found["instance_id"] != own["instance_id"]
    assert run(capsys, parameters, _ansible_check_mode=True)["instance_id"] == ""


def mixed(aws: dict[str, Any]) -> dict[str, Any]:
    """The group's policy, since moto forgets it when an update leaves it out."""
    [group] = aws["autoscaling"].describe_auto_scaling_groups(AutoScalingGroupNames=[NAME])["AutoScalingGroups"]
    policy: dict[str, Any] = group["MixedInstancesPolicy"]
    policy["LaunchTemplate"]["LaunchTemplateSpecification"].pop("LaunchTemplateId", None)
    return policy


class Described:
    """Answers of Auto Scaling and EC2, written down."""

    def __init__(self, states: dict[str, str], activities: list[dict[str, str]] | None = None) -> None:
        self.states = states
        self.activities = activities or []

    def describe_auto_scaling_groups(self, **_: Any) -> dict[str, Any]:
        listed = [
            {"InstanceId": name, "LifecycleState": "InService", "HealthStatus": "Healthy"} for name in self.states
        ]
        return {"AutoScalingGroups": [{"Instances": listed}]}

    def describe_scaling_activities(self, **_: Any) -> dict[str, Any]:
        return {"Activities": self.activities}

    def get_paginator(self, _: str) -> Described:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        known = [
            {
                "InstanceId": name,
                "State": {"Name": state},
                "LaunchTime": datetime(2026, 1, 1, int(name[-1]), tzinfo=UTC),
            }
            for name, state in self.states.items()
            if state in module.RUNNING
        ]
        return [{"Reservations": [{"Instances": known}]}]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"i-1": "running"}, "i-1"),
        ({"i-1": "terminated"}, None),
        ({"i-1": "shutting-down", "i-2": "pending"}, "i-2"),
        ({"i-1": "running", "i-2": "running"}, "i-2"),
        ({}, None),
    ],
)
def test_the_host_is_the_newest_that_is_not_ending(states: dict[str, str], expected: str | None) -> None:
    api = Described(states)
    group = module.AutoscalingHost(api, api, NAME)
    found = group.host(group.describe())
    assert (found["InstanceId"] if found else None) == expected


def test_when_none_comes_it_says_what_was_tried() -> None:
    failed = {"StatusCode": "Failed", "StatusMessage": "There is no Spot capacity available."}
    api = Described({}, [failed, failed, {"StatusCode": "Successful", "StatusMessage": "no matter"}])
    with pytest.raises(Trouble) as trouble:
        module.AutoscalingHost(api, api, NAME).wait_for_host(0)
    assert str(trouble.value) == (
        f"The Auto Scaling group {NAME} has no running instance after 0 s. "
        "Auto Scaling says: There is no Spot capacity available."
    )


@pytest.mark.parametrize(
    "message",
    [
        "Value (x) for parameter iamInstanceProfile is invalid.",
        "You must use a valid launch template. The specified launch template, with template ID lt-0, does not exist.",
    ],
    ids=["profile", "template"],
)
def test_what_is_new_is_given_time(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    class Slow:
        tries = 0

        def create_auto_scaling_group(self, **_: Any) -> None:
            self.tries += 1
            if self.tries < 3:
                error = {"Code": "ValidationError", "Message": message}
                raise ClientError({"Error": error}, "CreateAutoScalingGroup")

    monkeypatch.setattr("time.sleep", lambda _: None)
    slow = Slow()
    wanted = module.wanted_settings(
        {
            **PARAMETERS,
            "subnet_ids": ["s"],
            "market": "spot",
            "capacity_rebalance": False,
            "health_check_grace_period": 1,
        }
    )
    module.AutoscalingHost(slow, None, NAME).apply(None, wanted)
    assert slow.tries == 3


def test_a_fallback_has_no_host_until_something_asks_for_one(
    aws: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = {**aws["parameters"], "market": "on_demand", "fallback": True}
    made = run(capsys, parameters)
    assert made["changed"]
    assert made["instance_id"] == ""
    assert not run(capsys, parameters)["changed"]
    aws["autoscaling"].set_desired_capacity(AutoScalingGroupName=NAME, DesiredCapacity=1)
    again = run(capsys, parameters)
    assert not again["changed"]
    assert again["instance_id"].startswith("i-")
    changed = run(capsys, parameters, tags={"Name": "else"}, health_check_grace_period=60)
    assert changed["changed"]
    group = aws["autoscaling"].describe_auto_scaling_groups()["AutoScalingGroups"][0]
    assert (group["MinSize"], group["DesiredCapacity"], group["MaxSize"]) == (0, 1, 1)


def test_a_host_that_the_group_ends_is_held(aws: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    held = {**aws["parameters"], "termination_hook": "backup"}
    assert run(capsys, aws["parameters"])["changed"]
    assert run(capsys, held, _ansible_check_mode=True)["changed"]
    assert run(capsys, held)["changed"]
    for check in (True, False):
        assert not run(capsys, held, _ansible_check_mode=check)["changed"]
    changed = run(capsys, held, termination_hook_timeout=120)
    assert changed["diff"]["before"]["termination_hook"] == {"backup": 300}
    [hook] = aws["autoscaling"].describe_lifecycle_hooks(AutoScalingGroupName=NAME)["LifecycleHooks"]
    assert (hook["LifecycleTransition"], hook["HeartbeatTimeout"], hook["DefaultResult"]) == (
        "autoscaling:EC2_INSTANCE_TERMINATING",
        120,
        "CONTINUE",
    )
