"""Tells Slack how clearing APCu went, whoever started it: a function of AWS Lambda behind an SNS topic.

The check is the one that the role makes: as many hosts must have answered well as the Auto Scaling group wants.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import functools
import json
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from ansible_collections.spotcache.redis.plugins.module_utils import fleet as rules

SLACK_TIMEOUT_S = 10
# Systems Manager's words for a command that has ended; SNS and EventBridge spell some of them differently.
FINAL = {"Success", "Failed", "TimedOut", "Cancelled", "DeliveryTimedOut", "ExecutionTimedOut", "Incomplete"}


@dataclass(frozen=True)
class Settings:
    """What the deployment wrote into the function's environment. The address of Slack's webhook is not in it."""

    name: str
    group: str
    tags: Mapping[str, str]
    wanted: int
    expected: rules.Expectation
    marker: str
    slack_parameter: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """From the environment's variable SPOTCACHE_APCU."""
        told = json.loads(environment["SPOTCACHE_APCU"])
        expected = rules.Expectation(told["expect"], int(told["count"]), int(told["limit"]), told["meanings"])
        return cls(
            told["name"],
            told["group"],
            told["tags"],
            int(told["wanted"]),
            expected,
            told["marker"],
            told["slack_parameter"],
        )


def command_of(message: str) -> str:
    """The id of the command that a message says has ended; empty when it says something else.

    Messages come from Systems Manager itself (a run with a NotificationConfig) or from EventBridge (every run).
    """
    try:
        told = json.loads(message)
    except ValueError:
        return ""
    if not isinstance(told, dict):
        return ""
    detail = told.get("detail", told)
    if not isinstance(detail, dict):
        return ""
    status = str(detail.get("status", "")).replace(" ", "")
    command_id = detail.get("command-id") or detail.get("commandId") or ""
    return str(command_id) if status in FINAL else ""


def is_clear(ssm: Any, command_id: str, marker: str) -> bool:
    """Whether a command is one that clears APCu."""
    commands = ssm.list_commands(CommandId=command_id)["Commands"]
    lines = [line for command in commands for line in command.get("Parameters", {}).get("commands", [])]
    return any(marker in line for line in lines)


def check(ssm: Any, ec2: Any, autoscaling: Any, command_id: str, settings: Settings) -> tuple[bool, str]:
    """Whether the fleet answered well, and a sentence about it."""
    try:
        if settings.group:
            fleet = rules.find_group(autoscaling, ec2, settings.group, settings.wanted)
        else:
            fleet = rules.find_tagged(ec2, settings.tags, settings.wanted)
    except rules.NoFleet as nobody:
        return False, str(nobody)
    asked = set(rules.listed(ssm, command_id))
    answers = {i: rules.Answer(i, "Pending" if i in asked else "NotAsked") for i in fleet.running}
    rules.collect(ssm, command_id, {i: answer for i, answer in answers.items() if i in asked})
    for answer in answers.values():
        rules.judge(answer, settings.expected)
    problem = rules.verdict(fleet, answers)
    return not problem, problem or f"{len(answers)} of {fleet.wanted} hosts of {fleet.name} answered well."


def slack_text(good: bool, said: str, command_id: str, name: str) -> str:
    """The message. Slack's three special characters are written as it wants them."""
    mark = ":white_check_mark: APCu is cleared" if good else ":x: APCu is NOT cleared everywhere"
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        said = said.replace(character, escaped)
    return f"{mark} ({name}): {said} Command {command_id}."


def post(address: str, text: str) -> None:
    """Send to Slack's webhook. An error is left to Lambda, which tries again."""
    if not address.startswith(("https://", "http://127.0.0.1:")):
        raise ValueError("the parameter with Slack's webhook holds no https address")
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SLACK_TIMEOUT_S) as answer:
        answer.read()


@functools.cache
def client(service: str) -> Any:
    """One client for each service as long as the function stays warm."""
    return boto3.client(service)


def handle(
    event: Mapping[str, Any],
    settings: Settings,
    clients: Callable[[str], Any],
    send: Callable[[str, str], None] = post,
) -> list[dict[str, Any]]:
    """Check every command that the event says has ended, and tell Slack."""
    found = []
    ssm = clients("ssm")
    messages = [str(record["Sns"]["Message"]) for record in event.get("Records", [])]
    for command_id in dict.fromkeys(filter(None, map(command_of, messages))):
        if not is_clear(ssm, command_id, settings.marker):
            continue
        good, said = check(ssm, clients("ec2"), clients("autoscaling"), command_id, settings)
        if settings.slack_parameter:
            told = ssm.get_parameter(Name=settings.slack_parameter, WithDecryption=True)
            send(told["Parameter"]["Value"], slack_text(good, said, command_id, settings.name))
        found.append({"command_id": command_id, "ok": good, "said": said})
    return found


def handler(event: Mapping[str, Any], context: object) -> list[dict[str, Any]]:  # noqa: ARG001 - Lambda's signature
    """Lambda's entry point. What it returns stands in no log; the sentence is printed into one."""
    found = handle(event, Settings.read(os.environ), client)
    for one in found:
        print(json.dumps(one))
    return found
