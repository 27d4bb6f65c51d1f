# SPDX-License-Identifier: GPL-3.0-or-later
"""People are told, once each, whatever becomes of Slack: the role, the function really run, a web server as Slack."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rehearsal.sandboxes import Play, Sandbox
from tests.e2e.conftest import LOGS
from tests.e2e.test_sandbox import wait

PLAYBOOK = """
- name: Notifications
  hosts: localhost
  gather_facts: false
  environment: "{{ spotcache_aws_environment }}"
  vars:
    notify_environment: "{{ spotcache_environment }}"
    notify_region: "{{ spotcache_region }}"
  tasks:
    - name: Notifications
      ansible.builtin.include_role:
        name: spotcache.redis.notify
        tasks_from: "{{ entry | default('main') }}"
"""
SECRET = "T0/B0/nobody-may-read-this"


class Slack:
    """A web server in Slack's place; `mood` says how it behaves."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.asked: list[float] = []
        self.mood = "well"
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                slack.asked.append(time.monotonic())
                mood = slack.mood
                if mood == "slow":
                    time.sleep(4)
                code = {"busy": 429, "broken": 500}.get(mood, 200)
                if code == 200:
                    slack.heard.append(f"{body['text']} {body['attachments'][0]['text']}")
                self.send_response(code)
                if mood == "busy":
                    self.send_header("Retry-After", "3")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
                pass

        self.handler = Handler
        self.server: ThreadingHTTPServer | None = None
        self.port = 0
        self.up()

    def up(self) -> None:
        """Begin to answer, on the same port as before."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def down(self) -> None:
        """Refuse every connection."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def count(self, words: str) -> int:
        """How often people were told something."""
        return sum(words in text for text in self.heard)


class Desk:
    """The role in a sandbox, and Slack."""

    def __init__(self, sandbox: Sandbox, slack: Slack, playbook: Path) -> None:
        self.sandbox, self.slack, self.playbook = sandbox, slack, playbook
        self.sns, self.sqs, self.ssm, self.functions, self.logs, self.iam = (
            sandbox.client(s) for s in ("sns", "sqs", "ssm", "lambda", "logs", "iam")
        )

    def play(self, *words: str, **variables: Any) -> Play:
        """Run the role."""
        return self.sandbox.play(
            str(self.playbook), *words, "-e", json.dumps(variables), log=f"notify-{uuid.uuid4().hex[:6]}"
        )

    def slack_play(self, *words: str, **variables: Any) -> Play:
        """Run the role with Slack as the place to tell."""
        webhook = f"http://127.0.0.1:{self.slack.port}/services/{SECRET}"
        return self.play(*words, notify_to="slack", notify_slack_webhook=webhook, **variables)

    def publish(self, text: str, **more: Any) -> None:
        """What the host does."""
        topic = f"arn:aws:sns:{self.sandbox.state['region']}:{self.sandbox.state['account']}:spotcache-sandbox"
        self.sns.publish(TopicArn=topic, Message=json.dumps({"text": text, **more}), Subject="keeper")

    def put(self, kind: str, detail: dict[str, Any], event_id: str = "", source: str = "aws.ec2") -> str:
        """An event of AWS's."""
        event = {
            "version": "0",
            "id": event_id or str(uuid.uuid4()),
            "detail-type": kind,
            "source": source,
            "account": self.sandbox.state["account"],
            "time": "2026-11-22T03:00:00Z",
            "region": self.sandbox.state["region"],
            "resources": [],
            "detail": detail,
        }
        self.control("put-event", event=event)
        return str(event["id"])

    def control(self, verb: str, **body: Any) -> Any:
        """A verb of the control interface that the command line does not have."""
        import urllib.request

        state = self.sandbox.state
        headers = {"Authorization": f"Bearer {state['control_token']}"}
        request = urllib.request.Request(f"{state['control']}/{verb}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def waiting(self, queue: str) -> int:
        """Messages of a queue, seen or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(value) for value in found.values())

    def idle(self, patience: float = 60) -> None:
        """Wait until all was told."""
        wait(lambda: True if self.waiting("spotcache-sandbox-notify") == 0 else None, patience, "an empty queue")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    playbook = tmp_path_factory.mktemp("play") / "notify.yml"
    playbook.write_text(PLAYBOOK)
    slack = Slack()
    with Sandbox("t-notify", LOGS / "notify").running() as running:
        yield Desk(running, slack, playbook)
    slack.down()


@pytest.fixture
def slack(desk: Desk) -> Iterator[Slack]:
    yield desk.slack
    desk.slack.mood = "well"
    if desk.slack.server is None:
        desk.slack.up()


def test_check_mode_on_an_empty_account_then_made_then_unchanged(desk: Desk) -> None:
    planned = desk.slack_play("--check", "--diff")
    assert planned.changed > 0
    assert desk.functions.list_functions()["Functions"] == []
    made = desk.slack_play("--diff")
    assert made.changed > 0
    assert desk.slack_play("--diff").changed == 0
    assert desk.slack_play("--check").changed == 0
    # Once kept, the address need not be given again.
    assert desk.play(notify_to="slack").changed == 0
    for run in (planned, made):
        assert SECRET not in run.text


def test_a_message_of_the_host_is_told(desk: Desk, slack: Slack) -> None:
    desk.publish("restored <200 MB> & served", title="sandbox: back", level="good")
    wait(lambda: slack.count("*sandbox: back* restored &lt;200 MB&gt; &amp; served") or None, 20, "the message")
    desk.idle()


def test_the_webhook_is_nowhere_but_in_ssm(desk: Desk) -> None:
    kept = desk.ssm.get_parameter(Name="/spotcache/sandbox/slack-webhook", WithDecryption=False)["Parameter"]
    assert kept["Type"] == "SecureString"
    described = desk.functions.get_function(FunctionName="spotcache-sandbox-notify")
    assert SECRET not in json.dumps(described, default=str)
    said = desk.logs.filter_log_events(logGroupName="/aws/lambda/spotcache-sandbox-notify")["events"]
    assert any("delivered" in line["message"] for line in said)
    assert SECRET not in json.dumps(said)


def test_the_same_notice_is_told_once_however_often_it_comes(desk: Desk, slack: Slack) -> None:
    ec2 = desk.sandbox.client("ec2")
    image = desk.sandbox.state["images"]["debian"]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "spotcache:environment", "Value": "sandbox"}]}]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    made = [
        ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet, **more)["Instances"][0]["InstanceId"]
        for more in ({"TagSpecifications": tags}, {})
    ]
    detail = {"instance-id": made[0], "instance-action": "terminate"}
    warning = "EC2 Spot Instance Interruption Warning"
    first = desk.put(warning, detail)
    desk.put(warning, detail, first)
    desk.put(warning, detail)
    # Another team's instance in the same account is none of ours.
    desk.put(warning, {**detail, "instance-id": made[1]})
    wait(lambda: slack.count(made[0]) or None, 20, "the notice")
    desk.idle()
    assert slack.count(made[0]) == 1
    assert slack.count(made[1]) == 0
    assert "12:00:00 JST" in next(text for text in slack.heard if made[0] in text)
    ec2.terminate_instances(InstanceIds=made)


def test_launches_of_our_groups_are_told_and_failures_once_an_hour(desk: Desk, slack: Slack) -> None:
    failed = {"AutoScalingGroupName": "spotcache-sandbox", "StatusMessage": "There is no Spot capacity, i-0123."}
    for detail in (failed, {**failed, "StatusMessage": "There is no Spot capacity, i-0456."}):
        desk.put("EC2 Instance Launch Unsuccessful", detail, source="aws.autoscaling")
    desk.put("EC2 Instance Launch Unsuccessful", {**failed, "AutoScalingGroupName": "theirs"}, source="aws.autoscaling")
    launched = {"AutoScalingGroupName": "spotcache-sandbox", "EC2InstanceId": "i-0789", "Details": {}}
    desk.put("EC2 Instance Launch Successful", launched, source="aws.autoscaling")
    wait(lambda: slack.count("i-0789") or None, 20, "the launch")
    desk.idle()
    assert slack.count("no Spot capacity") == 1
    assert slack.count("theirs") == 0


@pytest.mark.parametrize("mood", ["down", "busy", "slow", "broken"])
def test_a_slack_in_trouble_loses_nothing_and_doubles_nothing(desk: Desk, slack: Slack, mood: str) -> None:
    texts = [f"{mood} {n} {uuid.uuid4()}" for n in range(4)]
    if mood == "down":
        slack.down()
    slack.mood = mood
    asked = len(slack.asked)
    for text in texts:
        desk.publish(text)
    time.sleep(6)
    if mood != "slow":
        assert not any(slack.count(text) for text in texts)
    if mood == "busy":
        # Retry-After is three seconds: nobody asked more often than that.
        assert len(slack.asked) - asked <= 2 * len(texts)
    if mood == "down":
        slack.up()
    slack.mood = "well"
    wait(lambda: all(slack.count(text) for text in texts) or None, 60, f"the messages after Slack was {mood}")
    desk.idle()
    assert [slack.count(text) for text in texts] == [1, 1, 1, 1]
    assert desk.waiting("spotcache-sandbox-notify-dead") == 0


def test_what_cannot_be_told_ends_in_the_dead_letter_queue(desk: Desk, slack: Slack) -> None:
    desk.slack_play(notify_tries=1)
    slack.mood = "broken"
    text = str(uuid.uuid4())
    desk.publish(text)
    wait(lambda: desk.waiting("spotcache-sandbox-notify-dead") or None, 40, "the dead letter")
    url = desk.sqs.get_queue_url(QueueName="spotcache-sandbox-notify-dead")["QueueUrl"]
    assert text in desk.sqs.receive_message(QueueUrl=url)["Messages"][0]["Body"]
    desk.sqs.purge_queue(QueueUrl=url)
    desk.slack_play()


def test_mail_in_slacks_place(desk: Desk, slack: Slack) -> None:
    heard = len(slack.heard)
    assert desk.play(notify_to="email", notify_email_addresses=["ops@example.com"]).changed > 0
    assert desk.play(notify_to="email", notify_email_addresses=["ops@example.com"]).changed == 0
    desk.publish("mailed", title="sandbox: told by mail", fields={"keys": 3})
    found = wait(lambda: desk.control("mail")["mail"] or None, 20, "the mail")
    assert (found[-1]["to"], found[-1]["subject"]) == ("ops@example.com", "sandbox: told by mail")
    assert found[-1]["text"] == "mailed\n\nkeys: 3"
    assert len(slack.heard) == heard


def test_nobody_told_leaves_nothing(desk: Desk) -> None:
    assert desk.play("--check", notify_to="none").changed > 0
    assert desk.play(notify_to="none").changed > 0
    assert desk.play(notify_to="none").changed == 0
    assert desk.functions.list_functions()["Functions"] == []
    assert desk.functions.list_event_source_mappings()["EventSourceMappings"] == []
    assert desk.sqs.list_queues().get("QueueUrls", []) == []
    assert desk.sns.list_topics()["Topics"] == []
    assert desk.sandbox.client("events").list_rules()["Rules"] == []
    assert desk.sandbox.client("dynamodb").list_tables()["TableNames"] == []
    assert [p["Name"] for p in desk.ssm.describe_parameters()["Parameters"]] == []
    assert [r["RoleName"] for r in desk.iam.list_roles()["Roles"] if "notify" in r["RoleName"]] == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"notify_to": "slack", "notify_slack_webhook": "hooks.slack.com/x"}, "notify_slack_webhook is no address"),
        ({"notify_to": "slack", "notify_slack_webhook": "http://example.com/x"}, "if it is a private one"),
        ({"notify_to": "slack"}, "SSM has no parameter /spotcache/sandbox/slack-webhook"),
        ({"notify_to": "email"}, "give at least one address"),
        ({"notify_to": "email", "notify_email_addresses": ["ops"]}, "give at least one address"),
        ({"notify_to": "none", "notify_environment": "Stg"}, "notify_environment is 'Stg'"),
    ],
)
def test_bad_input_is_told_and_nothing_is_made(desk: Desk, wrong: dict[str, Any], words: str) -> None:
    code, run = desk.sandbox.attempt(str(desk.playbook), "-e", json.dumps(wrong), log=f"wrong-{uuid.uuid4().hex[:6]}")
    assert code != 0
    assert words in " ".join(run.text.split())
    assert desk.functions.list_functions()["Functions"] == []
