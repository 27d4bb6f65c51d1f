# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules, resource policies and durations of the sandbox, without a sandbox."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core.exceptions import JsonRESTError
from moto.sqs.models import Queue, SQSBackend

from dev.work import ROOT
from sandbox import alarms
from sandbox.events import Bus, permits
from sandbox.fis import Fis, duration
from sandbox.functions import Functions, Worker, check_runtime, command_of
from sandbox.scaling import Clock, Cron, times

TOKYO = ZoneInfo("Asia/Tokyo")
RULE = "arn:aws:events:ap-northeast-1:123456789012:rule/r"


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("0 9 * * MON-FRI", "2026-11-23T09:00", "2026-11-22T09:00"),
        ("0 9 * * 1-5", "2026-11-27T09:00", "2026-11-27T09:01"),
        ("*/15 8-10 * * *", "2026-11-22T10:45", "2026-11-22T11:00"),
        ("0 0 29 2 *", "2028-02-29T00:00", "2028-02-28T00:00"),
        ("30 6 1,15 JAN *", "2027-01-15T06:30", "2027-02-15T06:30"),
        ("0 0 13 * 5", "2026-11-13T00:00", "2026-11-12T00:00"),
        ("0 0 * * 7", "2026-11-22T00:00", "2026-11-21T00:00"),
    ],
)
def test_cron(text: str, yes: str, no: str) -> None:
    assert Cron(text).matches(datetime.fromisoformat(yes))
    assert not Cron(text).matches(datetime.fromisoformat(no))


def test_a_day_and_a_weekday_together_mean_either() -> None:
    either = Cron("0 0 13 * 5")
    assert [d for d in range(1, 31) if either.matches(datetime(2026, 11, d))] == [6, 13, 20, 27]
    assert either.matches(datetime(2026, 12, 13))


@pytest.mark.parametrize("text", ["", "0 9 * *", "60 9 * * *", "0 9 * * MUN", "0 9-8 * * *", "0 9 * * * *"])
def test_what_is_no_cron_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Cron(text)


def action(**given: Any) -> Any:
    return SimpleNamespace(**{"recurrence": None, "time_zone": None, "start_time": None, "end_time": None, **given})


def test_times_of_an_action_follow_its_zone_and_its_span() -> None:
    since = datetime(2026, 11, 23, tzinfo=TOKYO)
    evening = action(recurrence="0 20 * * MON-FRI", time_zone="Asia/Tokyo")
    week = times(evening, since, since + timedelta(days=7))
    assert [when.astimezone(TOKYO).strftime("%a %H:%M") for when in week] == [
        f"{day} 20:00" for day in ("Mon", "Tue", "Wed", "Thu", "Fri")
    ]
    until = action(recurrence="0 20 * * *", time_zone="Asia/Tokyo", end_time="2026-11-25T00:00:00Z")
    assert len(times(until, since, since + timedelta(days=7))) == 2
    once = action(start_time="2026-11-23T01:00:00Z")
    assert times(once, since, since + timedelta(days=1)) == [datetime(2026, 11, 23, 1, tzinfo=UTC)]
    assert times(once, since + timedelta(days=1), since + timedelta(days=2)) == []


def test_summer_time_is_the_zones_matter() -> None:
    since = datetime(2026, 10, 24, 12, tzinfo=UTC)
    berlin = times(action(recurrence="0 9 * * *", time_zone="Europe/Berlin"), since, since + timedelta(days=2))
    assert [when.hour for when in berlin] == [8, 8]
    assert (
        times(action(recurrence="0 9 * * *", time_zone="Europe/Berlin"), since - timedelta(days=1), since)[0].hour == 7
    )


def test_the_clock_goes_forward_only() -> None:
    clock = Clock()
    clock.move(clock.now() + timedelta(days=2))
    assert clock.now() - datetime.now(UTC) > timedelta(days=1, hours=23)
    with pytest.raises(ValueError, match="has passed"):
        clock.move(datetime.now(UTC))


def statement(**more: Any) -> dict[str, Any]:
    one = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage", **more}
    return {"Statement": [one]}


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (statement(), True),
        (statement(Principal={"Service": ["sns.amazonaws.com", "events.amazonaws.com"]}), True),
        (statement(Principal={"Service": "sns.amazonaws.com"}), False),
        (statement(Action=["SQS:*"]), True),
        (statement(Action="sqs:ReceiveMessage"), False),
        (statement(Condition={"ArnEquals": {"aws:SourceArn": RULE}}), True),
        (statement(Condition={"ArnLike": {"aws:SourceArn": "arn:aws:events:*:123456789012:rule/*"}}), True),
        (statement(Condition={"ArnEquals": {"aws:SourceArn": RULE + "2"}}), False),
        (statement(Condition={"StringEquals": {"aws:SourceAccount": "123456789012"}}), True),
        (statement(Condition={"StringEquals": {"aws:SourceAccount": "1"}}), False),
        (statement(Condition={"StringEquals": {"AWS:SourceOwner": "123456789012"}}), False),
        ({"Statement": [statement()["Statement"][0], statement(Effect="Deny")["Statement"][0]]}, False),
        (None, False),
    ],
)
def test_resource_policies(policy: dict[str, Any] | None, allowed: bool) -> None:
    assert permits(policy, "events.amazonaws.com", "sqs:SendMessage", RULE, "123456789012") is allowed


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ({}, True),
        ({"Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}}}, False),
        ({"Condition": {"ArnEquals": {"aws:SourceArn": RULE}}}, False),
    ],
)
def test_a_rule_publishes_to_a_topic_whose_policy_has_no_condition(
    condition: dict[str, Any], told: bool, tmp_path: Path
) -> None:
    functions = Functions(tmp_path, "123456789012", "us-east-1", "http://127.0.0.1:9")
    bus = Bus("123456789012", "us-east-1", functions)
    with mock_aws():
        sns = boto3.client("sns", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        topic = sns.create_topic(Name="t")["TopicArn"]
        policy = statement(Action="sns:Publish", **condition)
        sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=json.dumps(policy))
        refused = bus._to_target(RULE, topic, "{}")
    assert (refused == "") is told, refused


def test_a_queue_keeps_its_policy_when_something_else_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Queue, "_set_attributes", Queue._set_attributes)
    Bus("123456789012", "us-east-1", Functions(tmp_path, "123456789012", "us-east-1", "http://127.0.0.1:9"))._queues()
    with mock_aws():
        sqs = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        url = sqs.create_queue(QueueName="q", Attributes={"VisibilityTimeout": "5"})["QueueUrl"]
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(statement())})
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "7"})
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert json.loads(found["Policy"]) == statement()
    assert found["VisibilityTimeout"] == "7"


def test_a_queues_name_is_free_again_after_a_minute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Queue, "_set_attributes", Queue._set_attributes)
    monkeypatch.setattr(SQSBackend, "create_queue", SQSBackend.create_queue)
    monkeypatch.setattr(SQSBackend, "delete_queue", SQSBackend.delete_queue)
    Bus("123456789012", "us-east-1", Functions(tmp_path, "123456789012", "us-east-1", "http://127.0.0.1:9"))._queues()
    with mock_aws():
        sqs = boto3.client("sqs", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        for name in ("q", "other"):
            sqs.delete_queue(QueueUrl=sqs.create_queue(QueueName=name)["QueueUrl"])
        with pytest.raises(ClientError, match="QueueDeletedRecently"):
            sqs.create_queue(QueueName="q")
        monkeypatch.setattr("sandbox.events.QUEUE_FORGOTTEN_S", 0)
        assert sqs.create_queue(QueueName="q")["QueueUrl"]


IMPORTS = """
import importlib
def handler(event, context):
    found = {}
    for name in event:
        try:
            found[name] = bool(importlib.import_module(name))
        except ImportError:
            found[name] = False
    return found
"""


def test_a_function_finds_the_sdk_and_no_other_package_of_this_checkout(tmp_path: Path) -> None:
    (tmp_path / "it.py").write_text(IMPORTS, encoding="utf-8")
    (tmp_path / "own.py").touch()
    of_lambda = ["boto3", "botocore.session", "dateutil.tz", "urllib3", "json", "sqlite3", "own"]
    of_ours = ["yaml", "redis", "ansible", "moto", "docker", "pip", "sandbox"]
    for name in of_ours[:-2]:
        assert importlib.util.find_spec(name), "the test is to fail where there is nothing to be found"
    named = ("NAME", "VERSION", "MEMORY_SIZE")
    environment = {f"AWS_LAMBDA_FUNCTION_{one}": "1" for one in named}
    environment |= {"AWS_LAMBDA_LOG_GROUP_NAME": "g", "AWS_LAMBDA_LOG_STREAM_NAME": "s", "_HANDLER": "it.handler"}
    environment |= {"LAMBDA_TASK_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    worker = Worker(command_of("arn"), environment, tmp_path, os.pipe())
    try:
        answer = worker.run([*of_lambda, *of_ours], "1", 120)
    finally:
        worker.end()
    assert answer == {"payload": {**dict.fromkeys(of_lambda, True), **dict.fromkeys(of_ours, False)}}, worker.lines


def test_a_runtime_is_one_of_lambdas_and_python() -> None:
    check_runtime("python3.13")
    for wrong, words in (("python3.99", "enum value set"), ("None", "enum value set"), ("nodejs22.x", "runs Python")):
        with pytest.raises(JsonRESTError, match=words):
            check_runtime(wrong)


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ({"StringEquals": {"aws:SourceAccount": "123456789012"}}, True),
        ({"StringEquals": {"aws:SourceAccount": "999999999999"}}, False),
        (None, True),  # the policy that a topic has by itself
    ],
)
def test_an_alarm_on_a_queue_tells_its_topic_once_and_when_it_is_let(
    condition: dict[str, Any] | None, told: bool
) -> None:
    with mock_aws():
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        sqs, sns, watch = (boto3.client(one, region_name="us-east-1", **keys) for one in ("sqs", "sns", "cloudwatch"))
        dead, inbox = (sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("dead", "inbox"))
        topic = sns.create_topic(Name="t")["TopicArn"]
        if condition:
            policy = statement(
                Principal={"Service": "cloudwatch.amazonaws.com"}, Action="sns:Publish", Condition=condition
            )
            sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=json.dumps(policy))
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:inbox")
        watch.put_metric_alarm(
            AlarmName="dead",
            Namespace="AWS/SQS",
            MetricName="ApproximateNumberOfMessagesVisible",
            Dimensions=[{"Name": "QueueName", "Value": "dead"}],
            Statistic="Maximum",
            Period=300,
            EvaluationPeriods=1,
            Threshold=0,
            ComparisonOperator="GreaterThanThreshold",
            AlarmActions=[topic],
        )

        def after(act: Any) -> tuple[str, list[str]]:
            """The alarm's state after two looks, and what its topic was told of."""
            act()
            for _ in range(2):
                alarms.look("123456789012", "us-east-1")
            found = sqs.receive_message(QueueUrl=inbox, MaxNumberOfMessages=10).get("Messages", [])
            messages = [json.loads(json.loads(one["Body"])["Message"]) for one in found]
            state = watch.describe_alarms()["MetricAlarms"][0]["StateValue"]
            return state, [f"{one['AlarmName']} {one['NewStateValue']}" for one in messages]

        assert after(lambda: None) == ("OK", [])
        raised = after(lambda: sqs.send_message(QueueUrl=dead, MessageBody="x"))
        assert raised == ("ALARM", ["dead ALARM"] if told else [])
        assert after(lambda: sqs.purge_queue(QueueUrl=dead)) == ("OK", [])


def test_durations() -> None:
    assert duration("PT2M") == timedelta(minutes=2)
    assert duration("PT1H2M3S") == timedelta(hours=1, minutes=2, seconds=3)
    for wrong in ("PT", "2M", "", "P1D"):
        with pytest.raises(ValueError, match="duration"):
            duration(wrong)


def test_all_actions_of_an_experiment_begin_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fis = Fis(None, None)  # type: ignore[arg-type]
    # Each waits for the other: one after the other, neither would end.
    both = threading.Barrier(2, timeout=10)
    monkeypatch.setattr(fis, "_refuse", lambda experiment: None)
    monkeypatch.setattr(fis, "_permit", lambda experiment, action, found: None)
    monkeypatch.setattr(fis, "resolve", lambda experiment, action: [])
    monkeypatch.setattr(fis, "_act", lambda experiment, action, found: both.wait())
    experiment = SimpleNamespace(id="EXP1", actions={"a": {}, "b": {}}, halt=threading.Event(), status="initiating")
    fis._run(experiment)
    assert experiment.status == "completed"
    assert [action["state"]["status"] for action in experiment.actions.values()] == ["completed", "completed"]


@pytest.mark.parametrize(
    ("action", "needed"),
    [
        ("aws:ec2:terminate-instances", {"ec2:TerminateInstances", "ec2:DescribeInstances"}),
        (
            "aws:ec2:asg-insufficient-instance-capacity-error",
            {"ec2:InjectApiError", "autoscaling:DescribeAutoScalingGroups"},
        ),
        ("aws:ec2:send-spot-instance-interruptions", {"ec2:SendSpotInstanceInterruptions"}),
    ],
)
def test_an_experiments_role_needs_what_the_reference_of_actions_names(action: str, needed: set[str]) -> None:
    may: set[str] = set()
    bus = SimpleNamespace(role_may=lambda role, asked, parameters, context: asked in may)
    fis = Fis(None, bus)  # type: ignore[arg-type]
    experiment = SimpleNamespace(role_arn="arn:aws:iam::123456789012:role/drill")
    for missing in sorted(needed):
        may = needed - {missing}
        with pytest.raises(PermissionError, match=f"may not {missing}"):
            fis._permit(experiment, {"actionId": action}, [])
    may = needed
    fis._permit(experiment, {"actionId": action}, [])
