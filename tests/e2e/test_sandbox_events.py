# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens by itself on AWS happens in the sandbox: events, functions, hooks, schedules, experiments."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from dev.sandboxes import Host, Sandbox
from tests.e2e.conftest import LOGS
from tests.e2e.test_sandbox import Account, wait

# Hands on what it was invoked with, says something for the log, and fails when the event says so.
HANDLER = """
import json, os, time
import boto3
def handler(event, context):
    print("invoked", context.aws_request_id, context.get_remaining_time_in_millis() > 0)
    boto3.client("sqs").send_message(QueueUrl=os.environ["SEEN"], MessageBody=json.dumps(event))
    text = json.dumps(event)
    if "please fail" in text:
        raise RuntimeError("as asked")
    if "please look" in text:
        return [os.getuid(), os.access(event["please look"], os.R_OK | os.X_OK)]
    if "please hang" in text:
        time.sleep(60)
    if "please list" in text:
        boto3.client("ec2").describe_instances()
    bad = [r["messageId"] for r in event.get("Records", []) if "bad" in r.get("body", "")]
    return {"batchItemFailures": [{"itemIdentifier": one} for one in bad]}
"""
WARNING = "EC2 Spot Instance Interruption Warning"


class Events:
    """A function, its queue, and clients."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.events, self.functions, self.sns, self.sqs, self.iam, self.logs = (
            sandbox.client(s) for s in ("events", "lambda", "sns", "sqs", "iam", "logs")
        )
        self.account = sandbox.state["account"]
        self.seen = self.queue("seen")
        policy = {"Effect": "Allow", "Action": ["sqs:*"], "Resource": f"arn:aws:sqs:*:{self.account}:*"}
        logs = {"Effect": "Allow", "Action": ["logs:*"], "Resource": f"arn:aws:logs:*:{self.account}:log-group:*"}
        self.role = self.make_role("function", "lambda.amazonaws.com", [policy, logs])
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("it.py", HANDLER)
        self.function = self.functions.create_function(
            FunctionName="it",
            Runtime="python3.12",
            Role=self.role,
            Handler="it.handler",
            Code={"ZipFile": code.getvalue()},
            Timeout=5,
            Environment={"Variables": {"SEEN": self.seen}},
            DeadLetterConfig={"TargetArn": self.arn(self.queue("dead"))},
        )["FunctionArn"]

    def make_role(self, name: str, service: str, statements: list[dict[str, Any]]) -> str:
        """A role that a service may assume."""
        allow = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        trust = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        arn = str(self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"])
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=document)
        return arn

    def queue(self, name: str, **attributes: str) -> str:
        """A queue's URL."""
        return str(self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def arn(self, url: str) -> str:
        """A queue's ARN."""
        return str(self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])

    def allow(self, url: str, service: str) -> None:
        """Let a service send to a queue."""
        statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sqs:SendMessage", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})

    def take(self, url: str, patience: float = 15) -> Any:
        """The next message of a queue, taken out of it."""

        def one() -> Any:
            for message in self.sqs.receive_message(QueueUrl=url).get("Messages", []):
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                return json.loads(message["Body"])
            return None

        return wait(one, patience, f"a message in {url}")

    def none(self, url: str, seconds: float = 1.0) -> bool:
        """Whether nothing comes for a while."""
        time.sleep(seconds)
        return not self.sqs.receive_message(QueueUrl=url).get("Messages")

    def invoke(self, event: Any) -> tuple[str, Any]:
        """Run the function and wait."""
        answer = self.functions.invoke(FunctionName="it", Payload=json.dumps(event))
        return answer.get("FunctionError", ""), json.load(answer["Payload"])

    def rule(self, name: str, pattern: dict[str, Any], arn: str, **target: Any) -> str:
        """A rule with one target."""
        rule = str(self.events.put_rule(Name=name, EventPattern=json.dumps(pattern))["RuleArn"])
        self.events.put_targets(Rule=name, Targets=[{"Id": "1", "Arn": arn, **target}])
        return rule


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with Sandbox("t-events", LOGS / "events").running("--snapshot-seconds", "1") as running:
        yield Account(running)


@pytest.fixture(scope="module")
def it(account: Account) -> Events:
    return Events(account.sandbox)


@pytest.fixture
def host(account: Account) -> Host:
    return account.ready()


def test_a_function_runs_with_its_roles_rights_and_no_others(it: Events) -> None:
    assert it.invoke({"hello": 1}) == ("", {"batchItemFailures": []})
    assert it.take(it.seen) == {"hello": 1}
    kind, told = it.invoke("please list")
    assert kind == "Unhandled"
    assert "DescribeInstances" in told["errorMessage"]
    assert it.invoke("please fail")[1]["errorType"] == "RuntimeError"
    begun = time.monotonic()
    assert "timed out after 5.00 seconds" in it.invoke("please hang")[1]["errorMessage"]
    assert time.monotonic() - begun < 7
    for _ in range(3):
        it.take(it.seen)
    said = it.logs.filter_log_events(logGroupName="/aws/lambda/it")["events"]
    assert any(line["message"].startswith("invoked ") for line in said)


def test_a_function_is_nobody_on_this_machine(it: Events) -> None:
    user, sees_state = it.invoke({"please look": str(Path(it.sandbox.state["log"]).parent)})[1]
    assert user != 0
    assert sees_state is False
    it.take(it.seen)


def test_the_account_is_shown_to_nobody_who_has_no_keys(it: Events) -> None:
    for path in ("/moto-api/data.json", "//moto-api/data.json", "/moto-api/reset"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{it.sandbox.state['endpoint']}{path}", timeout=10)
        assert refused.value.code in (403, 404)


def test_a_warm_function_answers_quickly(it: Events) -> None:
    it.invoke("warm up")
    begun = time.monotonic()
    for _ in range(5):
        it.invoke("again")
    assert (time.monotonic() - begun) / 5 < 0.5
    for _ in range(6):
        it.take(it.seen)


def test_events_reach_a_function_only_with_its_permission(it: Events, host: Host) -> None:
    dead = it.queue("undelivered")
    it.allow(dead, "events.amazonaws.com")
    pattern = {"source": ["aws.ec2"], "detail-type": ["EC2 Instance Rebalance Recommendation"]}
    rule = it.rule("rebalance", pattern, it.function, DeadLetterConfig={"Arn": it.arn(dead)})
    it.sandbox.verb("rebalance", "--name", it.sandbox.name, host.id)
    assert it.take(dead)["detail"] == {"instance-id": host.id}
    assert it.none(it.seen)
    it.functions.add_permission(
        FunctionName="it",
        StatementId="rule",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=rule,
    )
    it.sandbox.verb("rebalance", "--name", it.sandbox.name, host.id)
    event = it.take(it.seen)
    assert event["resources"] == [f"arn:aws:ec2:{host.zone}:instance/{host.id}"]
    assert event["account"] == it.account
    it.events.disable_rule(Name="rebalance")
    it.sandbox.verb("rebalance", "--name", it.sandbox.name, host.id)
    assert it.none(it.seen)


def test_an_event_that_a_function_cannot_take_is_tried_three_times_and_kept(it: Events) -> None:
    it.sandbox.verb("retry-seconds", "--name", it.sandbox.name, "0.1")
    it.functions.invoke(FunctionName="it", InvocationType="Event", Payload=json.dumps("please fail"))
    assert it.take(it.queue("dead")) == "please fail"
    assert [it.take(it.seen) for _ in range(3)] == 3 * ["please fail"]
    assert it.none(it.seen)


def test_own_events_match_rules_and_those_of_aws_are_refused(it: Events) -> None:
    own = it.queue("own")
    it.allow(own, "events.amazonaws.com")
    it.rule(
        "own", {"source": ["rehearsal"], "detail": {"n": [{"numeric": [">", 1]}]}}, it.arn(own), InputPath="$.detail"
    )
    entry = {"Source": "rehearsal", "DetailType": "x"}
    answers = it.events.put_events(
        Entries=[{**entry, "Detail": f'{{"n": {n}}}'} for n in (1, 2)]
        + [{"Source": "aws.ec2", "DetailType": WARNING, "Detail": "{}"}]
    )
    assert answers["FailedEntryCount"] == 1
    assert answers["Entries"][2]["ErrorCode"] == "NotAuthorizedForSourceException"
    assert it.take(own) == {"n": 2}
    assert it.none(own)


def test_a_topic_reaches_functions_queues_that_let_it_and_mailboxes(it: Events) -> None:
    topic = it.sns.create_topic(Name="topic")["TopicArn"]
    inbox = it.queue("inbox")
    it.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=it.arn(inbox))
    it.sns.subscribe(TopicArn=topic, Protocol="lambda", Endpoint=it.function)
    it.sns.subscribe(TopicArn=topic, Protocol="email", Endpoint="ops@example.com")
    it.sns.publish(TopicArn=topic, Subject="s", Message="too early")
    [asked] = json.loads(it.sandbox.verb("mail", "--name", it.sandbox.name))["mail"]
    it.sns.confirm_subscription(TopicArn=topic, Token=asked["text"].split("--token ")[1].strip())
    it.sns.publish(TopicArn=topic, Subject="s", Message="one")
    assert it.none(inbox)
    assert it.none(it.seen)
    it.allow(inbox, "sns.amazonaws.com")
    it.functions.add_permission(
        FunctionName="it",
        StatementId="topic",
        Action="lambda:InvokeFunction",
        Principal="sns.amazonaws.com",
        SourceArn=topic,
    )
    published = it.sns.publish(TopicArn=topic, Subject="s", Message="two")["MessageId"]
    notice = it.take(inbox)
    assert (notice["Message"], notice["MessageId"], notice["TopicArn"]) == ("two", published, topic)
    assert it.take(it.seen)["Records"][0]["Sns"]["Message"] == "two"
    mail = json.loads(it.sandbox.verb("mail", "--name", it.sandbox.name))["mail"][1:]
    assert [(m["to"], m["subject"], m["text"]) for m in mail] == [("ops@example.com", "s", t) for t in ("one", "two")]


def test_a_queue_feeds_a_function_and_what_it_fails_at_ends_in_the_dead_letter_queue(it: Events) -> None:
    last = it.queue("last")
    redrive = json.dumps({"deadLetterTargetArn": it.arn(last), "maxReceiveCount": "2"})
    work = it.queue("work", VisibilityTimeout="3", RedrivePolicy=redrive)
    mapping = {"EventSourceArn": it.arn(work), "FunctionName": "it", "BatchSize": 10}
    with pytest.raises(ClientError, match="visibility timeout: 3 seconds is less than Function timeout: 5"):
        it.functions.create_event_source_mapping(**mapping)
    it.sqs.set_queue_attributes(QueueUrl=work, Attributes={"VisibilityTimeout": "5"})
    for body in ('"good"', '"bad"'):
        it.sqs.send_message(QueueUrl=work, MessageBody=body)
    made = it.functions.create_event_source_mapping(**mapping, FunctionResponseTypes=["ReportBatchItemFailures"])
    assert {record["body"] for record in it.take(it.seen)["Records"]} == {'"good"', '"bad"'}
    again = it.take(it.seen)["Records"]
    assert [(r["body"], r["attributes"]["ApproximateReceiveCount"]) for r in again] == [('"bad"', "2")]
    assert it.take(last) == "bad"
    it.functions.delete_event_source_mapping(UUID=made["UUID"])
    it.sqs.send_message(QueueUrl=work, MessageBody='"later"')
    assert it.none(it.seen)


def told(sandbox: Sandbox, kind: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    found: list[dict[str, Any]] = json.loads(sandbox.verb("events", "--name", sandbox.name, "--kind", kind))["events"]
    return found


def test_snapshots_and_launches_are_told(account: Account, host: Host) -> None:
    sandbox = account.sandbox
    assert host.id in [e["detail"]["EC2InstanceId"] for e in told(sandbox, "EC2 Instance Launch Successful")]
    sandbox.verb("snapshot-result", "--name", sandbox.name, "failed")
    taken = account.ec2.create_snapshot(VolumeId=account.volume(host)["VolumeId"])["SnapshotId"]
    event = wait(lambda: newest(sandbox, "EBS Snapshot Notification"), 10, "the snapshot's result")
    assert event["detail"]["result"] == "failed"
    assert event["detail"]["snapshot_id"].endswith(taken)
    assert account.ec2.describe_snapshots(SnapshotIds=[taken])["Snapshots"][0]["State"] == "error"


def newest(sandbox: Sandbox, kind: str) -> dict[str, Any] | None:
    """The newest event of one kind."""
    found = told(sandbox, kind)
    return found[-1] if found else None


def state_of(account: Account, host: Host) -> str:
    """An instance's state in its group; empty when it has left."""
    found = account.groups.describe_auto_scaling_instances(InstanceIds=[host.id])["AutoScalingInstances"]
    return str(found[0]["LifecycleState"]) if found else ""


def test_a_hook_holds_an_instance_until_it_is_let_go(account: Account, host: Host) -> None:
    hook = {"AutoScalingGroupName": "a", "LifecycleHookName": "h"}
    account.groups.put_lifecycle_hook(
        **hook,
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
        HeartbeatTimeout=30,
        DefaultResult="CONTINUE",
    )
    account.groups.terminate_instance_in_auto_scaling_group(InstanceId=host.id, ShouldDecrementDesiredCapacity=False)
    wait(lambda: state_of(account, host) == "Terminating:Wait" or None, 5, "the wait")
    other = account.ready(not_id=host.id)
    assert account.sandbox.on_host(host, "true").returncode == 0
    said = account.run(
        host,
        "T=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token); "
        'curl -s -H "X-aws-ec2-metadata-token: $T" '
        "http://169.254.169.254/latest/meta-data/autoscaling/target-lifecycle-state",
    )
    assert said.strip() == "Terminated"
    token = told(account.sandbox, "EC2 Instance-terminate Lifecycle Action")[-1]["detail"]["LifecycleActionToken"]
    account.groups.record_lifecycle_action_heartbeat(**hook, LifecycleActionToken=token)
    with pytest.raises(ClientError, match="No active Lifecycle Action"):
        account.groups.complete_lifecycle_action(**hook, InstanceId=other.id, LifecycleActionResult="CONTINUE")
    account.groups.complete_lifecycle_action(**hook, InstanceId=host.id, LifecycleActionResult="CONTINUE")
    wait(lambda: state_of(account, host) == "" or None, 30, "the end")

    account.groups.put_lifecycle_hook(**hook, HeartbeatTimeout=30)
    account.groups.delete_lifecycle_hook(**hook)
    account.groups.put_lifecycle_hook(
        **hook,
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
        HeartbeatTimeout=30,
        DefaultResult="CONTINUE",
    )
    account.groups.terminate_instance_in_auto_scaling_group(InstanceId=other.id, ShouldDecrementDesiredCapacity=False)
    wait(lambda: state_of(account, other) == "" or None, 90, "the end after the hook's time")
    account.groups.delete_lifecycle_hook(**hook)
    account.ready(not_id=other.id)


def sizes(account: Account) -> tuple[int, int, int]:
    """Minimum, desired and maximum of the group."""
    group = account.groups.describe_auto_scaling_groups(AutoScalingGroupNames=["a"])["AutoScalingGroups"][0]
    return group["MinSize"], group["DesiredCapacity"], group["MaxSize"]


def test_scheduled_actions_fire_by_the_clock_in_their_own_zone(account: Account) -> None:
    sandbox = account.sandbox

    def clock(*words: str) -> datetime:
        return datetime.fromisoformat(json.loads(sandbox.verb("clock", "--name", sandbox.name, *words))["time"])

    plan = {"AutoScalingGroupName": "a", "TimeZone": "Asia/Tokyo"}
    zero, one = ({"MinSize": n, "MaxSize": 1, "DesiredCapacity": n} for n in (0, 1))
    put = account.groups.put_scheduled_update_group_action
    put(**plan, ScheduledActionName="evening", Recurrence="0 20 * * MON-FRI", **zero)
    put(**plan, ScheduledActionName="morning", Recurrence="0 9 * * 1-5", **one)
    for wrong in ({"Recurrence": "0 20 * *"}, {"Recurrence": "0 9 * * *", "TimeZone": "Asia/Edo"}, {}):
        with pytest.raises(ClientError, match="ValidationError"):
            put(**{**plan, "ScheduledActionName": "wrong", **zero, **wrong})
    now = clock()
    # The next Monday at noon in Tokyo.
    noon = (now + timedelta(days=7 - now.weekday())).replace(hour=3, minute=0, second=0, microsecond=0)
    clock("--to", noon.isoformat())
    assert sizes(account) == (1, 1, 1)
    clock("--to", (noon + timedelta(hours=7, minutes=59)).isoformat())
    assert sizes(account) == (1, 1, 1)
    clock("--seconds", "120")
    assert sizes(account) == (0, 0, 1)
    clock("--to", (noon + timedelta(days=1)).isoformat())
    assert sizes(account) == (1, 1, 1)
    sandbox.verb("fire", "--name", sandbox.name, "a", "evening")
    assert sizes(account) == (0, 0, 1)
    once = (noon + timedelta(days=1, hours=1)).isoformat()
    put(**plan, ScheduledActionName="once", StartTime=once, **one)
    clock("--seconds", "3700")
    assert sizes(account) == (1, 1, 1)
    left = account.groups.describe_scheduled_actions(AutoScalingGroupName="a")["ScheduledUpdateGroupActions"]
    assert sorted(action["ScheduledActionName"] for action in left) == ["evening", "morning"]
    for name in ("evening", "morning"):
        account.groups.delete_scheduled_action(AutoScalingGroupName="a", ScheduledActionName=name)


class Experiments:
    """FIS as a client sees it."""

    def __init__(self, sandbox: Sandbox, it: Events) -> None:
        self.client = sandbox.client("fis")
        may = {
            "Effect": "Allow",
            "Action": [
                "ec2:SendSpotInstanceInterruptions",
                "ec2:InjectApiError",
                "autoscaling:DescribeAutoScalingGroups",
            ],
            "Resource": "*",
        }
        self.role = it.make_role("experiments", "fis.amazonaws.com", [may])

    def template(self, action: str, target: tuple[str, str], where: dict[str, Any], **parameters: str) -> str:
        """A template's id."""
        made = self.client.create_experiment_template(
            description="rehearsal",
            roleArn=self.role,
            stopConditions=[{"source": "none"}],
            targets={"t": {"resourceType": target[1], "selectionMode": "ALL", **where}},
            actions={"a": {"actionId": action, "parameters": parameters, "targets": {target[0]: "t"}}},
        )
        return str(made["experimentTemplate"]["id"])

    def run(self, template: str, patience: float = 60) -> dict[str, Any]:
        """Run an experiment to its end."""
        begun = self.client.start_experiment(experimentTemplateId=template)["experiment"]["id"]

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = self.client.get_experiment(id=begun)["experiment"]
            return found if found["state"]["status"] in ("completed", "stopped", "failed") else None

        return wait(ended, patience, "the experiment's end")


@pytest.fixture(scope="module")
def experiments(account: Account, it: Events) -> Experiments:
    return Experiments(account.sandbox, it)


SPOT = ("SpotInstances", "aws:ec2:spot-instance")
INTERRUPT = "aws:ec2:send-spot-instance-interruptions"


def test_an_experiment_interrupts_a_spot_instance(account: Account, host: Host, experiments: Experiments) -> None:
    tagged = {"resourceTags": {"spotcache:environment": "sandbox"}}
    with pytest.raises(ClientError, match="between PT2M and PT15M"):
        experiments.template(INTERRUPT, SPOT, tagged, durationBeforeInterruption="PT1M")
    account.sandbox.verb("fis-scale", "--name", account.sandbox.name, "0.05")
    template = experiments.template(INTERRUPT, SPOT, tagged, durationBeforeInterruption="PT3M")
    begun = time.monotonic()
    ended = experiments.run(template)
    assert ended["state"]["status"] == "completed"
    assert ended["actions"]["a"]["state"]["status"] == "completed"
    # A minute until the notice and two more until the end, one twentieth of it.
    assert 8 <= time.monotonic() - begun <= 14
    rows = account.ec2.describe_instances(InstanceIds=[host.id])["Reservations"][0]["Instances"]
    assert rows[0]["State"]["Name"] in ("shutting-down", "terminated")
    notice = told(account.sandbox, WARNING)[-1]
    assert notice["detail"] == {"instance-id": host.id, "instance-action": "terminate"}
    account.ready(not_id=host.id)
    experiments.client.delete_experiment_template(id=template)


def test_an_experiment_without_targets_or_rights_fails(experiments: Experiments, it: Events) -> None:
    nowhere = {"resourceTags": {"spotcache:environment": "nowhere"}}
    template = experiments.template(INTERRUPT, SPOT, nowhere, durationBeforeInterruption="PT2M")
    ended = experiments.run(template)
    assert ended["state"]["status"] == "failed"
    assert "empty set" in ended["state"]["reason"]
    # Whom an action strikes is found before the right to strike is asked for.
    tagged = {"resourceTags": {"spotcache:environment": "sandbox"}}
    template = experiments.template(INTERRUPT, SPOT, tagged, durationBeforeInterruption="PT2M")
    it.iam.delete_role_policy(RoleName="experiments", PolicyName="experiments")
    assert "SendSpotInstanceInterruptions" in experiments.run(template)["state"]["reason"]
    looks = "autoscaling:DescribeAutoScalingGroups"
    may = {"Effect": "Allow", "Action": ["ec2:*", looks], "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    it.iam.put_role_policy(RoleName="experiments", PolicyName="experiments", PolicyDocument=document)


def test_an_experiment_leaves_a_group_without_capacity_for_a_while(
    account: Account, host: Host, experiments: Experiments
) -> None:
    account.sandbox.verb("fis-scale", "--name", account.sandbox.name, "0.05")
    group = account.groups.describe_auto_scaling_groups(AutoScalingGroupNames=["a"])["AutoScalingGroups"][0]
    template = experiments.template(
        "aws:ec2:asg-insufficient-instance-capacity-error",
        ("AutoScalingGroups", "aws:ec2:autoscaling-group"),
        {"resourceArns": [group["AutoScalingGroupARN"]]},
        duration="PT4M",
        availabilityZoneIdentifiers=",".join(account.state["zones"][:2]),
    )
    running = experiments.client.start_experiment(experimentTemplateId=template)["experiment"]["id"]
    wait(
        lambda: experiments.client.get_experiment(id=running)["experiment"]["state"]["status"] == "running" or None,
        5,
        "the experiment",
    )
    account.sandbox.verb("kill", "--name", account.sandbox.name, host.id)
    failed = wait(lambda: newest(account.sandbox, "EC2 Instance Launch Unsuccessful"), 10, "a failed launch")
    assert failed["detail"]["AutoScalingGroupName"] == "a"
    assert "no capacity" in failed["detail"]["StatusMessage"]
    account.ready(not_id=host.id)
    assert experiments.client.get_experiment(id=running)["experiment"]["state"]["status"] == "completed"
