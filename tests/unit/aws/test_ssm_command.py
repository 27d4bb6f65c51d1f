"""A command on every host of a fleet: who is asked, what counts as an answer, and what a person is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils import fleet as rules
from ansible_collections.spotcache.redis.plugins.modules import ssm_command as module
from botocore.stub import Stubber
from moto import mock_aws

GROUP = "shop-web"
CLEARED = '{"cleared": true, "before": 3, "after": 0}'


class Agents:
    """Systems Manager with agents that say what a test tells them to."""

    def __init__(self) -> None:
        self.says: dict[str, tuple[str, int, str, str]] = {}
        self.ping: dict[str, str] = {}
        self.sent: list[dict[str, Any]] = []
        self.asked_after = 0
        self.page = 2

    def send_command(self, **asked: Any) -> dict[str, Any]:
        self.sent.append(asked)
        return {"Command": {"CommandId": f"command-{len(self.sent)}"}}

    def get_paginator(self, operation: str) -> Any:
        agents = self

        class Pages:
            def paginate(self, **asked: Any) -> Iterator[dict[str, Any]]:
                return getattr(agents, operation)(**asked)  # type: ignore[no-any-return]

        return Pages()

    def describe_instance_information(self, Filters: Any) -> Iterator[dict[str, Any]]:  # noqa: N803
        for instance_id in Filters[0]["Values"]:
            status = self.ping.get(instance_id, "Online")
            if status:
                yield {"InstanceInformationList": [{"InstanceId": instance_id, "PingStatus": status}]}

    def list_command_invocations(self, CommandId: str) -> Iterator[dict[str, Any]]:  # noqa: N803
        self.asked_after += 1
        if self.asked_after == 1:
            return  # a new command is not listed at once
        ids = self.sent[int(CommandId.rpartition("-")[2]) - 1]["InstanceIds"]
        for start in range(0, len(ids), self.page):
            some = [(i, self.says.get(i, ("Success", 0, CLEARED, ""))[0]) for i in ids[start : start + self.page]]
            yield {"CommandInvocations": [{"InstanceId": i, "Status": status} for i, status in some]}

    def get_command_invocation(self, CommandId: str, InstanceId: str) -> dict[str, Any]:  # noqa: N803
        status, code, out, err = self.says.get(InstanceId, ("Success", 0, CLEARED, ""))
        return {
            "CommandId": CommandId,
            "Status": status,
            "StatusDetails": status,
            "ResponseCode": code,
            "StandardOutputContent": out,
            "StandardErrorContent": err,
            "ExecutionElapsedTime": "PT1M0.25S",
        }


class Running:
    """EC2 with instances in these states."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known

    def get_paginator(self, _: str) -> Running:
        return self

    def paginate(self, Filters: list[Mapping[str, Any]]) -> list[dict[str, Any]]:  # noqa: N803
        asked = [i for i in Filters[0]["Values"] if i in self.known]
        return [{"Reservations": [{"Instances": [{"InstanceId": i, "State": {"Name": self.known[i]}} for i in asked]}]}]


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agents]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    found = Agents()
    monkeypatch.setattr(module, "POLL_S", (0.001, 0.002))
    monkeypatch.setattr(module, "SLACK_S", 0)

    def client(_: Any, service: str, **__: Any) -> Any:
        return found if service == "ssm" else boto3.client(service, region_name="us-east-1")

    monkeypatch.setattr(AnsibleAWSModule, "client", client)
    with mock_aws():
        yield found


def launch(count: int, role: str = "web") -> list[str]:
    ec2 = boto3.client("ec2", region_name="us-east-1")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Role", "Value": role}]}]
    image = "ami-0123456789abcdef0"
    made = ec2.run_instances(ImageId=image, MinCount=count, MaxCount=count, TagSpecifications=tags)
    return sorted(item["InstanceId"] for item in made["Instances"])


def make_group(count: int) -> list[str]:
    ec2, autoscaling = (boto3.client(name, region_name="us-east-1") for name in ("ec2", "autoscaling"))
    image = "ami-0123456789abcdef0"
    ec2.create_launch_template(LaunchTemplateName=GROUP, LaunchTemplateData={"ImageId": image})
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=GROUP,
        LaunchTemplate={"LaunchTemplateName": GROUP},
        MinSize=0,
        MaxSize=200,
        DesiredCapacity=count,
        VPCZoneIdentifier=ec2.describe_subnets()["Subnets"][0]["SubnetId"],
    )
    groups = autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    return sorted(item["InstanceId"] for item in groups[0]["Instances"])


def run(capsys: pytest.CaptureFixture[str], **parameters: Any) -> dict[str, Any]:
    with (
        patch_module_args({"commands": ["true"], "expect": {"cleared": True}, **parameters}),
        pytest.raises(SystemExit),
    ):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_every_host_of_a_group_is_asked_and_answers(agents: Agents, capsys: pytest.CaptureFixture[str]) -> None:
    ids = make_group(5)
    told = run(capsys, group=GROUP, working_directory="/srv", timeout=7)
    assert not told.get("failed"), told["msg"]
    assert (told["changed"], told["wanted"], told["answered"]) == (True, 5, 5)
    assert [host["instance_id"] for host in told["hosts"]] == ids
    assert told["hosts"][0]["answers"] == [{"cleared": True, "before": 3, "after": 0}]
    assert told["hosts"][0]["seconds"] == 60.25
    (sent,) = agents.sent
    assert sent["InstanceIds"] == ids
    assert sent["Parameters"] == {"commands": ["true"], "executionTimeout": ["7"], "workingDirectory": ["/srv"]}
    # One host that fails must not keep the command from the others.
    assert (sent["MaxConcurrency"], sent["MaxErrors"]) == ("100%", "100%")


def test_the_request_is_one_that_aws_takes() -> None:
    ssm = boto3.client("ssm", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    parameters = {
        "commands": ["a"],
        "timeout": 5,
        "delivery_timeout": 30,
        "working_directory": "",
        "comment": "c" * 150,
    }
    with Stubber(ssm) as stub:
        stub.add_response("send_command", {"Command": {"CommandId": "8" * 36}})
        assert module.send(ssm, ["i-0123456789abcdef0"], parameters) == "8" * 36
        for token in ("more", None):
            listed: dict[str, Any] = {
                "CommandInvocations": [{"InstanceId": f"i-{token}", "Status": "Success"}],
                **({"NextToken": token} if token else {}),
            }
            stub.add_response("list_command_invocations", listed)
        assert rules.listed(ssm, "8" * 36) == {"i-more": "Success", "i-None": "Success"}
        stub.add_response(
            "describe_instance_information",
            {"InstanceInformationList": [{"InstanceId": "i-1", "PingStatus": "ConnectionLost"}]},
        )
        found = rules.reachable(ssm, ["i-1", "i-2"])
        assert {key: one.status for key, one in found.items()} == {"i-1": "ConnectionLost", "i-2": "NotRegistered"}


def test_more_than_fifty_hosts_are_asked_in_pieces(agents: Agents, capsys: pytest.CaptureFixture[str]) -> None:
    make_group(120)
    told = run(capsys, group=GROUP)
    assert told["answered"] == 120
    assert [len(sent["InstanceIds"]) for sent in agents.sent] == [50, 50, 20]
    assert len(told["command_ids"]) == 3


def test_check_mode_sends_nothing(agents: Agents, capsys: pytest.CaptureFixture[str]) -> None:
    ids = make_group(2)
    told = run(capsys, group=GROUP, _ansible_check_mode=True)
    assert (told["changed"], told["answered"], agents.sent) == (True, 0, [])
    assert [(host["instance_id"], host["status"]) for host in told["hosts"]] == [(i, "NotSent") for i in ids]


def test_nobody_to_ask_is_a_failure(agents: Agents, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no Auto Scaling group called shop-web" in run(capsys, group=GROUP)["msg"]
    make_group(0)
    empty = run(capsys, group=GROUP)
    assert empty["failed"]
    assert "No instance of the Auto Scaling group shop-web runs" in empty["msg"]
    nobody = run(capsys, tags={"Role": "web"})
    assert "No running instance carries the tag Role=web" in nobody["msg"]
    assert agents.sent == []


def test_terminated_instances_are_not_counted(agents: Agents, capsys: pytest.CaptureFixture[str]) -> None:
    ids = launch(3)
    boto3.client("ec2", region_name="us-east-1").terminate_instances(InstanceIds=ids[:1])
    told = run(capsys, tags={"Role": "web"})
    assert (told["wanted"], told["answered"]) == (2, 2)
    assert agents.sent[0]["InstanceIds"] == ids[1:]
    short = run(capsys, tags={"Role": "web"}, wanted=3)
    assert short["msg"] == "2 of 3 hosts of the instances with the tag Role=web answered well: only 2 run."


def test_one_that_ends_while_it_is_asked_is_not_counted_either(
    agents: Agents, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = launch(2)
    agents.says[ids[0]] = ("Failed", -1, "", "")
    send = Agents.send_command

    def lose_one(self: Agents, **asked: Any) -> dict[str, Any]:
        boto3.client("ec2", region_name="us-east-1").terminate_instances(InstanceIds=ids[:1])
        return send(self, **asked)

    monkeypatch.setattr(Agents, "send_command", lose_one)
    told = run(capsys, tags={"Role": "web"}, wanted=1)
    assert not told.get("failed"), told["msg"]
    assert [host["instance_id"] for host in told["hosts"]] == ids[1:]


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (("Failed", 22, "", ""), "ended with Failed, exit code 22: the web server answered with an error"),
        (("Failed", 1, "", "No such container: nginx\n"), "exit code 1 (No such container: nginx)"),
        (("TimedOut", -1, "", ""), "did not end within 2 s"),
        (("InProgress", -1, "", ""), "gave no answer in time (its state is still InProgress)"),
        (("Success", 0, "<html>", ""), "answered with something that is no JSON: <html>"),
        (("Success", 0, "[1]", ""), "answered with something that is no JSON"),
        (("Success", 0, "", ""), "gave 0 answers of 1"),
        (("Success", 0, '{"cleared": false}', ""), "answered cleared false where true is expected"),
        (("Success", 0, '{"cleared": 1}', ""), "answered cleared 1 where true is expected"),
        (("Success", 0, "{}", ""), "answered cleared missing where true is expected"),
        (("Success", 0, CLEARED + '{"cleared": null}', ""), "answered cleared null"),
    ],
)
def test_one_bad_host_is_named_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch, says: tuple[str, int, str, str], expected: str
) -> None:
    monkeypatch.setattr(module, "POLL_S", (0.001, 0.002))
    monkeypatch.setattr(module, "SLACK_S", -31.9)  # a host that never ends is waited for 0.1 s
    agents, ids = Agents(), ("i-1", "i-2", "i-3")
    agents.says["i-2"] = says
    found = rules.Fleet("the fleet", 3, ids)
    asked = {"commands": ["true"], "timeout": 2, "delivery_timeout": 30, "working_directory": "", "comment": ""}
    asked |= {"expect": {"cleared": True}, "expect_count": 1}
    asked["exit_meanings"] = {"22": "the web server answered with an error"}
    answers, _ = module.ask(agents, Running(dict.fromkeys(ids, "running")), found, asked)
    assert [not one.problem for one in answers.values()] == [True, False, True]
    text = rules.verdict(found, answers)
    assert "2 of 3 hosts" in text
    assert "i-2 " in text
    assert expected in text
    assert "i-1" not in text
    assert "i-3" not in text


def test_a_host_that_cannot_be_reached_is_named_and_not_waited_for(
    agents: Agents, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = launch(3)
    agents.ping = {ids[0]: "ConnectionLost", ids[2]: ""}
    told = run(capsys, tags={"Role": "web"})
    assert agents.sent[0]["InstanceIds"] == [ids[1]]
    assert f"{ids[0]} has lost its connection to Systems Manager" in told["msg"]
    assert f"{ids[2]} is not registered with Systems Manager" in told["msg"]
    assert told["answered"] == 1


def test_a_member_that_does_not_serve_yet_explains_a_shortage() -> None:
    class Group:
        def describe_auto_scaling_groups(self, **_: Any) -> dict[str, Any]:
            states = {"i-1": "InService", "i-2": "Pending:Wait", "i-3": "Terminating", "i-4": "InService"}
            listed = [{"InstanceId": key, "LifecycleState": value} for key, value in states.items()]
            return {"AutoScalingGroups": [{"DesiredCapacity": 3, "Instances": listed}]}

    known = {"i-1": "running", "i-2": "running", "i-3": "shutting-down", "i-4": "terminated"}
    found = rules.find_group(Group(), Running(known), GROUP)
    assert (found.running, found.waiting, found.wanted) == (("i-1",), {"i-2": "Pending:Wait"}, 3)
    answer = rules.Answer("i-1", "Success", 0, CLEARED)
    rules.judge(answer, rules.Expectation({"cleared": True}))
    text = rules.verdict(found, {"i-1": answer})
    assert text == (
        "1 of 3 hosts of the Auto Scaling group shop-web answered well: i-2 is Pending:Wait and was not asked."
    )


def test_waiting_has_an_end(agents: Agents) -> None:
    agents.sent = [{"InstanceIds": ["i-1"]}]
    agents.says["i-1"] = ("InProgress", -1, "", "")
    now = [0.0]
    answers = {"i-1": rules.Answer("i-1")}
    module.wait(
        agents, {"command-1": answers}, 30, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    assert 30 <= now[0] < 33
    assert answers["i-1"].status == "InProgress"


@pytest.mark.parametrize(
    ("text", "seconds"), [("PT0.25S", 0.25), ("PT2M1S", 121.0), ("P1DT1H", 90000.0), ("", None), ("soon", None)]
)
def test_durations(text: str, seconds: float | None) -> None:
    assert rules.seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, "exactly one of group"),
        ({"group": "a", "tags": {"b": "c"}}, "exactly one of group"),
        ({"group": "a", "commands": [" "]}, "commands is empty"),
        ({"group": "a", "timeout": 0}, "timeout is 0"),
        ({"group": "a", "delivery_timeout": 5}, "at least 30 seconds"),
        ({"group": "a", "wanted": -1}, "wanted is -1"),
    ],
)
def test_wrong_input_is_refused(
    agents: Agents, capsys: pytest.CaptureFixture[str], parameters: dict[str, Any], expected: str
) -> None:
    assert expected in run(capsys, **parameters)["msg"]
    assert agents.sent == []
