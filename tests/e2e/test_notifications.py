# SPDX-License-Identifier: GPL-3.0-or-later
"""People are told once each, a fallback serves, and the night costs nothing: with the playbooks, in one sandbox.

The functions really run, and a web server stands in Slack's place. What needs no host is tried while `provision` still
makes one.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from dev import keys
from dev.sample_app.slack import SECRET, Slack
from dev.sandboxes import Host, Play, Sandbox
from tests.e2e.conftest import JOB, LOGS
from tests.e2e.test_sandbox import wait

SPOT, FALLBACK = "spotcache-sandbox", "spotcache-sandbox-on-demand"
NOTIFY, CONTROLLER = f"{SPOT}-notify", f"{SPOT}-fallback-controller"
OWN = [{"Name": "tag:spotcache:environment", "Values": ["sandbox"]}]
LOCKS = "sandbox/locks/"
# A second environment in the same account, which has mail instead of Slack.
MAIL = """
- name: Mail
  hosts: localhost
  gather_facts: false
  environment: "{{ spotcache_aws_environment }}"
  tasks:
    - name: Mail
      ansible.builtin.include_role:
        name: spotcache.redis.notify
      vars:
        notify_environment: other
        notify_region: "{{ spotcache_region }}"
        notify_permissions_boundary: "arn:aws:iam::{{ sandbox__state.account }}:policy/spotcache-boundary"
"""


class Place:
    """The sandbox, Slack, and a `provision` that runs beside the first tests."""

    def __init__(self, sandbox: Sandbox, slack: Slack) -> None:
        self.sandbox, self.slack = sandbox, slack
        self.sns, self.sqs, self.functions, self.groups, self.ec2 = (
            sandbox.client(s) for s in ("sns", "sqs", "lambda", "autoscaling", "ec2")
        )
        self.empty = sandbox.resources()
        self.options = {
            **slack.variables,
            "notify_email_addresses": ["ops@example.com"],
            # Those of the shipped inventory are past one day.
            "schedule_holidays": [],
            "spotcache_return_volume": True,
        }
        self.provisioning: Future[Play] | None = None

    def play(self, playbook: str, *words: str, **more: Any) -> Play:
        """Run a playbook with the options of this environment."""
        given = json.dumps({**self.options, **more})
        return self.sandbox.play(playbook, *words, "-e", given, log=f"{Path(playbook).stem}-{uuid.uuid4().hex[:4]}")

    def provisioned(self) -> Play:
        """What the first provision came to, once it has ended."""
        assert self.provisioning is not None
        return self.provisioning.result(timeout=900)

    def arn(self, service: str, name: str) -> str:
        """ARN of something of this account's."""
        return f"arn:aws:{service}:{self.sandbox.state['region']}:{self.sandbox.state['account']}:{name}"

    def publish(self, text: str, environment: str = SPOT, **more: Any) -> None:
        """What the keeper does."""
        message = json.dumps({"text": text, **more})
        self.sns.publish(TopicArn=self.arn("sns", environment), Message=message, Subject="keeper")

    def control(self, verb: str, body: dict[str, Any]) -> Any:
        """A verb of the control interface."""
        state = self.sandbox.state
        headers = {"Authorization": f"Bearer {state['control_token']}"}
        request = urllib.request.Request(f"{state['control']}/{verb}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def mailed(self, subject: str) -> list[dict[str, str]]:
        """Mails that begin so."""
        return [mail for mail in self.control("mail", {})["mail"] if mail["subject"].startswith(subject)]

    def confirm_mail(self) -> None:
        """What whoever has the mailbox does with AWS's questions."""
        for mail in self.mailed("AWS Notification - Subscription Confirmation"):
            topic, token = mail["text"].split("--topic-arn ")[1].split(" --token ")
            with contextlib.suppress(self.sns.exceptions.InvalidParameterException):  # of a topic that is gone
                self.sns.confirm_subscription(TopicArn=topic, Token=token.strip())

    def put(self, kind: str, detail: dict[str, Any], event_id: str) -> None:
        """An event of AWS's."""
        state = self.sandbox.state
        event = {"version": "0", "id": event_id, "detail-type": kind, "source": "aws.ec2", "account": state["account"]}
        event |= {"time": "2026-11-22T03:00:00Z", "region": state["region"], "resources": [], "detail": detail}
        self.control("put-event", {"event": event})

    def waiting(self, queue: str) -> int:
        """Messages of a queue, seen or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(value) for value in found.values())

    def idle(self, patience: float = 60) -> None:
        """Wait until all was told."""
        wait(lambda: True if self.waiting(NOTIFY) == 0 else None, patience, "an empty queue")

    def told_once(self, words: str) -> None:
        """Wait until people are told something, and see that they are told it no second time."""
        wait(lambda: self.slack.count(words) or None, 60, words)
        self.idle()
        assert self.slack.count(words) == 1

    def serving(self, group: str) -> list[str]:
        """The hosts of a group that are in service, as Auto Scaling has it."""
        found = self.groups.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
        rows = found[0]["Instances"] if found else []
        return [row["InstanceId"] for row in rows if row["LifecycleState"] == "InService"]

    def redis(self, host: Host) -> Any:
        """A client of the Redis on a host."""
        return redis.Redis(
            host=host.ip,
            username=keys.USERNAME,
            password=self.sandbox.password,
            socket_timeout=2,
            socket_connect_timeout=2,
            decode_responses=True,
        )

    def name_points_to(self) -> str:
        """Where clients are sent."""
        route53 = self.sandbox.client("route53")
        [zone] = route53.list_hosted_zones()["HostedZones"]
        rows = route53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]
        return next(str(row["ResourceRecords"][0]["Value"]) for row in rows if row["Name"].startswith("redis."))

    def server(self, group: str, patience: float) -> Host:
        """The host of a group, once clients are sent to it and it takes writes."""

        def look() -> Host | None:
            mine = self.serving(group)
            for host in self.sandbox.hosts():
                with suppress(redis.RedisError, OSError):
                    if host.id in mine and self.name_points_to() == host.ip and self.redis(host).set("served", host.id):
                        return host
            return None

        return wait(look, patience, f"a host of {group} that serves")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    slack = Slack()
    with (
        Sandbox(f"t-people{JOB}", LOGS / f"people{JOB}", swift=True).running("--snapshot-seconds", "0.5") as running,
        ThreadPoolExecutor(1) as beside,
    ):
        made = Place(running, slack)
        made.provisioning = running_now = beside.submit(made.play, "provision", "--diff")
        fed = made.functions.list_event_source_mappings
        wait(lambda: fed()["EventSourceMappings"] or running_now.done() or None, 900, "a function that is fed")
        yield made
        (LOGS / f"people{JOB}" / "slack.txt").write_text("\n".join(slack.heard))
    slack.down()


@pytest.fixture
def slack(place: Place) -> Iterator[Slack]:
    yield place.slack
    place.slack.mood = "well"
    if place.slack.server is None:
        place.slack.up()


def test_a_slack_that_is_down_and_then_busy_loses_nothing_and_doubles_nothing(place: Place, slack: Slack) -> None:
    topic = place.arn("sns", SPOT)
    known = place.sns.list_subscriptions
    wait(lambda: [one for one in known()["Subscriptions"] if one["TopicArn"] == topic] or None, 60, "the topic")
    texts = [f"<{n}> & {uuid.uuid4()}" for n in range(4)]
    slack.down()
    for text in texts:
        place.publish(text)
    time.sleep(4)
    asked = len(slack.asked)
    slack.mood = "busy"
    slack.up()
    wait(lambda: len(slack.asked) - asked >= len(texts) or None, 40, "every message to be refused once")
    assert slack.heard == []
    slack.mood = "well"
    told = [text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for text in texts]
    wait(lambda: all(slack.count(text) for text in told) or None, 60, "every message")
    place.idle()
    assert [slack.count(text) for text in told] == [1, 1, 1, 1]
    assert place.waiting(f"{NOTIFY}-dead") == 0


def test_what_cannot_be_told_ends_in_the_dead_letter_queue_which_has_an_alarm(place: Place, slack: Slack) -> None:
    url = place.sqs.get_queue_url(QueueName=NOTIFY)["QueueUrl"]
    kept = place.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]["RedrivePolicy"]
    # A day of tries, in one.
    once = json.dumps({**json.loads(kept), "maxReceiveCount": 1})
    place.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": once})
    place.confirm_mail()
    slack.mood, text = "busy", str(uuid.uuid4())
    place.publish(text)
    wait(lambda: place.waiting(f"{NOTIFY}-dead") or None, 40, "the dead letter")
    wait(lambda: place.mailed(f'ALARM: "{NOTIFY}-dead"') or None, 20, "the alarm's mail")
    place.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": kept})
    dead = place.sqs.get_queue_url(QueueName=f"{NOTIFY}-dead")["QueueUrl"]
    assert text in place.sqs.receive_message(QueueUrl=dead)["Messages"][0]["Body"]
    place.sqs.purge_queue(QueueUrl=dead)
    [alarm] = place.sandbox.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": f"{NOTIFY}-dead"}]
    # By mail: what Slack did not take, Slack need not be told.
    assert alarm["AlarmActions"] == [place.arn("sns", f"{SPOT}-people")]


def test_mail_in_slacks_place_and_nobody_told_leaves_nothing(place: Place, tmp_path: Path) -> None:
    playbook = tmp_path / "mail.yml"
    playbook.write_text(MAIL)
    more = {"notify_to": "email", "notify_slack_webhook": ""}
    assert place.play(str(playbook), **more).changed > 0
    place.confirm_mail()
    # What is still to be confirmed, or was, is no change.
    assert place.play(str(playbook), **more).changed == 0
    place.publish("mailed", "spotcache-other", title="other: told by mail", fields={"keys": 3})
    [found] = wait(lambda: place.mailed("other: told by mail") or None, 20, "the mail")
    assert (found["to"], found["text"]) == ("ops@example.com", "mailed\n\nkeys: 3")
    assert place.play(str(playbook), **{**more, "notify_to": "none"}).changed > 0
    assert "other" not in str(everything(place))
    # Without the function nothing of it is there, and there is nothing to fail on.
    assert place.play(str(playbook), **{**more, "notify_to": "none"}).changed == 0


def test_provision_tells_that_there_is_a_host_and_shows_the_webhook_nowhere(place: Place, slack: Slack) -> None:
    done = place.provisioned()
    assert SECRET not in done.text
    assert slack.count(f"{place.sandbox.host().id} was launched") == 1
    ssm, logs = place.sandbox.client("ssm"), place.sandbox.client("logs")
    kept = ssm.get_parameter(Name="/spotcache/sandbox/slack-webhook", WithDecryption=False)["Parameter"]
    assert kept["Type"] == "SecureString"
    assert SECRET not in json.dumps(place.functions.get_function(FunctionName=NOTIFY), default=str)
    said = logs.filter_log_events(logGroupName=f"/aws/lambda/{NOTIFY}")["events"]
    assert any("delivered" in line["message"] for line in said)
    assert SECRET not in json.dumps(said)


def test_the_host_may_publish_there_and_nowhere_else(place: Place, slack: Slack) -> None:
    iam = place.sandbox.client("iam")
    document = iam.get_role_policy(RoleName=SPOT, PolicyName=SPOT)["PolicyDocument"]
    [statement] = [one for one in document["Statement"] if "sns:Publish" in str(one["Action"])]
    assert statement["Resource"] == place.arn("sns", SPOT)


def test_the_same_notice_is_told_once_however_often_it_comes(place: Place, slack: Slack) -> None:
    host = place.sandbox.host().id
    warning = "EC2 Spot Instance Interruption Warning"
    for event in ("first", "first", "second"):
        place.put(warning, {"instance-id": host, "instance-action": "terminate"}, event)
    # Another team's instance in the same account is none of ours.
    place.put(warning, {"instance-id": "i-0123456789abcdef0", "instance-action": "terminate"}, "theirs")
    wait(lambda: slack.count(f"takes back {host}") or None, 60, "the notice")
    place.idle()
    assert slack.count(f"takes back {host}") == 1
    assert "12:00:00 JST" in next(text for text in slack.heard if f"takes back {host}" in text)
    assert slack.count("i-0123456789abcdef0") == 0


def test_without_spot_capacity_a_host_on_demand_stands_in(place: Place, slack: Slack) -> None:
    old = place.sandbox.host()
    assert place.redis(old).set("before", "the loss")
    assert place.sandbox.on_host(old, "spotcache-keeper backup --json").returncode == 0
    for zone in place.sandbox.state["zones"]:
        place.sandbox.verb("no-spot-capacity", "--name", place.sandbox.name, zone, "*")
    place.sandbox.verb("kill", "--name", place.sandbox.name, old.id)
    new = place.server(FALLBACK, 300)
    row = place.ec2.describe_instances(InstanceIds=[new.id])["Reservations"][0]["Instances"][0]
    assert "InstanceLifecycle" not in row
    assert place.redis(new).get("before") == "the loss"
    place.told_once("no host could be launched")
    place.told_once(f"{new.id} was launched")
    # From the keeper on the host, by the same way, once it has done what it tells of.
    wait(
        lambda: any(new.id in text and "launched" not in text for text in slack.heard) or None,
        60,
        "the new host's own word",
    )
    # Who asks for the host gets this one.
    assert new.id in place.play("backup").text


def test_the_fallback_goes_when_spot_succeeds_and_hands_over_all_it_has(place: Place, slack: Slack) -> None:
    fallback = place.sandbox.host()
    assert place.redis(fallback).set("during", "the fallback host's time")
    for zone in place.sandbox.state["zones"]:
        place.sandbox.verb("spot-capacity", "--name", place.sandbox.name, zone, "*")
    new = place.server(SPOT, 300)
    assert place.redis(new).mget("before", "during") == ["the loss", "the fallback host's time"]
    # From here on it is alone.
    wait(lambda: True if [one.id for one in place.sandbox.hosts()] == [new.id] else None, 60, "the fallback host's end")
    [group] = place.groups.describe_auto_scaling_groups(AutoScalingGroupNames=[FALLBACK])["AutoScalingGroups"]
    assert group["DesiredCapacity"] == 0
    place.told_once(f"{fallback.id} goes")
    assert [text for text in slack.heard if "NOT backed up" in text] == []


def test_provisioning_a_host_that_came_by_itself_changes_nothing(place: Place) -> None:
    # Once kept, the address need not be given again.
    assert place.play("provision", "--diff", notify_slack_webhook="").changed == 0


def test_the_evening_backs_up_and_gives_the_volume_back_and_the_morning_restores(place: Place, slack: Slack) -> None:
    evening = place.sandbox.host()
    assert place.redis(evening).set("evening", "all is backed up")
    assert place.play("schedule").changed > 0
    actions = place.groups.describe_scheduled_actions()["ScheduledUpdateGroupActions"]
    assert sorted((a["AutoScalingGroupName"], a["ScheduledActionName"], a["Recurrence"]) for a in actions) == [
        (SPOT, "spotcache-start", "0 9 * * 1,2,3,4,5"),
        (SPOT, "spotcache-stop", "0 20 * * 1,2,3,4,5"),
        (FALLBACK, "spotcache-stop", "0 20 * * 1,2,3,4,5"),
    ]
    assert {action["TimeZone"] for action in actions} == {"Asia/Tokyo"}
    attached = [
        {"Name": "attachment.instance-id", "Values": [evening.id]},
        {"Name": "attachment.device", "Values": ["/dev/sdf"]},
    ]
    [volume] = place.ec2.describe_volumes(Filters=attached)["Volumes"]
    # The timer backs up at quarters of an hour and after a boot that missed one: not between this look and the evening.
    quiet = 'until [ "$(systemctl is-active spotcache-backup.service)" != activating ]; do sleep 0.2; done'
    assert place.sandbox.on_host(evening, f"systemctl stop spotcache-backup.timer; {quiet}").returncode == 0
    # EBS takes no more than one snapshot of a volume in 15 seconds, and this one may have come from the fallback.
    held = {"Name": "volume-id", "Values": [volume["VolumeId"]]}
    before = place.ec2.describe_snapshots(OwnerIds=["self"], Filters=[held])["Snapshots"]
    newest = max((row["StartTime"].timestamp() for row in before), default=0.0)
    time.sleep(max(0.0, newest + 16 - time.time()))
    place.sandbox.verb("fire", "--name", place.sandbox.name, SPOT, "spotcache-stop")
    wait(lambda: True if not place.sandbox.hosts() else None, 90, "the end of the day")

    def given_back() -> bool | None:
        # As its rule does every five minutes: when the last event came, the volume may still have been attached.
        place.functions.invoke(FunctionName=CONTROLLER, Payload=b"{}")
        left = {row["VolumeId"] for row in place.ec2.describe_volumes()["Volumes"]}
        return True if volume["VolumeId"] not in left else None

    wait(given_back, 40, "the volume to be given back")
    assert place.play("schedule", schedule_do="start").changed > 0
    assert place.redis(place.server(SPOT, 120)).get("evening") == "all is backed up"


def test_volumes_in_whose_place_another_one_is_are_given_up_after_their_term(place: Place) -> None:
    def volumes(state: str) -> dict[str, list[str]]:
        found = place.ec2.describe_volumes(Filters=OWN)
        rows = [row for row in found["Volumes"] if row["State"] == state]
        return {row["VolumeId"]: [tag["Key"] for tag in row["Tags"]] for row in rows}

    def look() -> None:
        answer = place.functions.invoke(FunctionName=CONTROLLER, Payload=b"{}")
        assert "FunctionError" not in answer, answer["Payload"].read()

    used, left = volumes("in-use"), volumes("available")
    assert used
    assert left, "the hosts that were lost have left volumes"
    assert place.sandbox.on_host(place.sandbox.host(), "spotcache-keeper backup --json").returncode == 0

    def marked() -> bool | None:
        look()
        return all("spotcache:superseded-since" in keys for keys in volumes("available").values()) or None

    wait(marked, 60, "the volumes' term to begin")
    assert set(volumes("available")) == set(left)
    # A week, in a second.
    kept = place.functions.get_function_configuration(FunctionName=CONTROLLER)["Environment"]["Variables"]
    assert kept["SUPERSEDED_DAYS"] == "7"
    short = {"Variables": {**kept, "SUPERSEDED_DAYS": str(1 / 86400)}}
    place.functions.update_function_configuration(FunctionName=CONTROLLER, Environment=short)

    def gone() -> bool | None:
        look()
        return True if not volumes("available") else None

    wait(gone, 40, "the volumes to be given up")
    assert volumes("in-use") == used


def test_a_restore_also_brings_what_the_next_host_needs(place: Place) -> None:
    """As after a destroy that kept the backups: nothing looks after the host, and no image is as it is."""
    before = {image["ImageId"] for image in place.ec2.describe_images(Owners=["self"], Filters=OWN)["Images"]}
    assert before
    place.functions.delete_function(FunctionName=CONTROLLER)
    place.play("restore", restore_force=True, redis_settings={"maxclients": 300}, spot_host_bake_keep=1)
    # Those before are too many now.
    [image] = place.ec2.describe_images(Owners=["self"], Filters=OWN)["Images"]
    assert image["ImageId"] not in before
    template = place.ec2.describe_launch_template_versions(LaunchTemplateName=SPOT, Versions=["$Default"])
    assert template["LaunchTemplateVersions"][0]["LaunchTemplateData"]["ImageId"] == image["ImageId"]
    assert place.functions.get_function(FunctionName=CONTROLLER)["Configuration"]["State"] == "Active"
    # Both leases are given back.
    locks = place.sandbox.client("s3").list_objects_v2(Bucket=f"spotcache-{place.sandbox.name}-backups", Prefix=LOCKS)
    assert locks["KeyCount"] == 0


def everything(place: Place) -> dict[str, Any]:
    """What the roles make besides a host and its network."""
    client = place.sandbox.client
    return {
        "functions": [one["FunctionName"] for one in place.functions.list_functions()["Functions"]],
        "mappings": place.functions.list_event_source_mappings()["EventSourceMappings"],
        "queues": place.sqs.list_queues().get("QueueUrls", []),
        "topics": place.sns.list_topics()["Topics"],
        "rules": client("events").list_rules()["Rules"],
        "tables": client("dynamodb").list_tables()["TableNames"],
        "parameters": [one["Name"] for one in client("ssm").describe_parameters()["Parameters"]],
        "roles": [one["RoleName"] for one in client("iam").list_roles()["Roles"]],
        "alarms": client("cloudwatch").describe_alarms()["MetricAlarms"],
        "logs": [one["logGroupName"] for one in client("logs").describe_log_groups()["logGroups"]],
        "hours": place.groups.describe_scheduled_actions()["ScheduledUpdateGroupActions"],
    }


def test_destroy_leaves_nothing(place: Place) -> None:
    place.play("destroy", destroy_confirm="sandbox", destroy_backups=True)
    assert place.sandbox.resources() == place.empty
    assert not [kind for kind, found in everything(place).items() if found]
