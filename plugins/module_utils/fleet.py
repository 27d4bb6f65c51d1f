"""Asking every host of a fleet the same thing, and judging the answers.

It needs boto3's clients and nothing else, so that a function in AWS Lambda makes the very check that the module makes.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Members of a group that serve, or may serve again without a new start.
SERVING = ("InService", "Standby", "EnteringStandby")
ENDED = ("Success", "Failed", "TimedOut", "Cancelled", "Undeliverable")
TARGETS_A_COMMAND = 50  # SendCommand takes no more instances
FILTER_VALUES = 100  # DescribeInstances takes up to 200 values, DescribeInstanceInformation up to 100
ELAPSED = re.compile(r"^P(?:(\d+)D)?T?(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?$")


class NoFleet(Exception):
    """There is nobody to ask; the text says why."""


@dataclass(frozen=True)
class Fleet:
    """The hosts that are to answer.

    Attributes:
        name: for people.
        wanted: how many must answer well.
        running: ids of the instances that run and serve.
        waiting: members that do not serve yet, with their state; they are not asked, and explain a shortage.
    """

    name: str
    wanted: int
    running: tuple[str, ...]
    waiting: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Answer:
    """What one host said."""

    instance_id: str
    status: str = "Pending"
    code: int | None = None
    output: str = ""
    error: str = ""
    seconds: float | None = None
    answers: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """For a result or a report."""
        return {
            "instance_id": self.instance_id,
            "ok": not self.problem,
            "status": self.status,
            "code": self.code,
            "output": self.output,
            "error": self.error,
            "seconds": self.seconds,
            "answers": self.answers,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Expectation:
    """When an answer is a good one.

    Attributes:
        values: what every JSON object in the output must hold; None when the output is any text.
        count: how many JSON objects there must be at least.
        limit: seconds the command may take, for the sentence about one that took longer.
        meanings: what an exit code means, for people.
    """

    values: Mapping[str, Any] | None = None
    count: int = 1
    limit: int = 0
    meanings: Mapping[str, str] = field(default_factory=dict)


def chunks(items: Sequence[str], size: int) -> Iterable[list[str]]:
    """A list in pieces."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def states(ec2: Any, ids: Sequence[str]) -> dict[str, str]:
    """What EC2 says of instances. One that it no longer knows is left out."""
    found: dict[str, str] = {}
    for some in chunks(ids, FILTER_VALUES):
        pages = ec2.get_paginator("describe_instances").paginate(Filters=[{"Name": "instance-id", "Values": some}])
        for page in pages:
            for reservation in page["Reservations"]:
                found.update({item["InstanceId"]: item["State"]["Name"] for item in reservation["Instances"]})
    return found


def find_group(autoscaling: Any, ec2: Any, group: str, wanted: int = 0) -> Fleet:
    """The members of an Auto Scaling group that run and serve.

    Raises:
        NoFleet: there is no such group, or nobody in it runs.
    """
    groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
    if not groups:
        raise NoFleet(f"There is no Auto Scaling group called {group} in this region: correct its name or the region.")
    members = {item["InstanceId"]: item["LifecycleState"] for item in groups[0].get("Instances") or []}
    known = states(ec2, sorted(members))
    running = tuple(sorted(i for i, state in members.items() if state in SERVING and known.get(i) == "running"))
    waiting = {i: state for i, state in members.items() if i not in running and known.get(i) in ("running", "pending")}
    desired = int(groups[0]["DesiredCapacity"])
    if not running:
        rest = "".join(f" {i} is {state}." for i, state in sorted(waiting.items()))
        raise NoFleet(
            f"No instance of the Auto Scaling group {group} runs and is in service (it wants {desired}): nobody was "
            f"asked.{rest} Wait for its instances, or raise its desired capacity."
        )
    return Fleet(f"the Auto Scaling group {group}", wanted or desired, running, waiting)


def find_tagged(ec2: Any, tags: Mapping[str, str], wanted: int = 0) -> Fleet:
    """The running instances that carry all these tags.

    Raises:
        NoFleet: there is none.
    """
    name = ", ".join(f"{key}={value}" for key, value in tags.items())
    filters = [{"Name": f"tag:{key}", "Values": [str(value)]} for key, value in tags.items()]
    pages = ec2.get_paginator("describe_instances").paginate(
        Filters=[*filters, {"Name": "instance-state-name", "Values": ["running"]}]
    )
    found = [item["InstanceId"] for page in pages for one in page["Reservations"] for item in one["Instances"]]
    if not found:
        raise NoFleet(
            f"No running instance carries the tag {name}: nobody was asked. Correct the tag, or start the instances."
        )
    return Fleet(f"the instances with the tag {name}", wanted or len(found), tuple(sorted(found)))


def reachable(ssm: Any, ids: Sequence[str]) -> dict[str, Answer]:
    """An answer for each instance; one that Systems Manager cannot reach has a status that says so."""
    found: dict[str, str] = {}
    for some in chunks(ids, FILTER_VALUES):
        pages = ssm.get_paginator("describe_instance_information").paginate(
            Filters=[{"Key": "InstanceIds", "Values": some}]
        )
        for page in pages:
            found.update({item["InstanceId"]: item["PingStatus"] for item in page["InstanceInformationList"]})
    return {i: Answer(i, "Pending" if found.get(i) == "Online" else found.get(i, "NotRegistered")) for i in ids}


def seconds_of(text: str) -> float | None:
    """An ISO 8601 duration (PT1M2.5S) in seconds."""
    match = ELAPSED.match(text or "")
    if not match or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def listed(ssm: Any, command_id: str) -> dict[str, str]:
    """Each host's state in a command, all pages."""
    pages = ssm.get_paginator("list_command_invocations").paginate(CommandId=command_id)
    return {item["InstanceId"]: item["Status"] for page in pages for item in page["CommandInvocations"]}


def collect(ssm: Any, command_id: str, answers: Mapping[str, Answer]) -> bool:
    """Bring the answers up to date; True when every host of the command has ended.

    The list of a new command is empty for a moment, so hosts that are not in it count as pending.
    """
    for instance_id, status in listed(ssm, command_id).items():
        answer = answers.get(instance_id)
        if answer is None or answer.status in ENDED:
            continue
        if status in ENDED:
            # The list cuts the output off and mixes errors into it; this call does neither.
            told = ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
            answer.code = int(told["ResponseCode"])
            answer.output, answer.error = told["StandardOutputContent"], told["StandardErrorContent"]
            answer.seconds = seconds_of(told.get("ExecutionElapsedTime", ""))
            details = told.get("StatusDetails", "").replace(" ", "")
            answer.status = "Undeliverable" if details in ("DeliveryTimedOut", "Undeliverable") else status
        else:
            answer.status = status
    return all(answer.status in ENDED for answer in answers.values())


def json_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that a text consists of, one after the other.

    Raises:
        ValueError: it holds something else.
    """
    decoder, found, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        if not isinstance(value, dict):
            raise ValueError(f"{rest[:end]} is no JSON object")
        found.append(value)
        rest = rest[end:].lstrip()
    return found


def shortened(text: str, length: int = 200) -> str:
    """A text on one line, for a sentence."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def judge(answer: Answer, expected: Expectation) -> None:
    """Say in `problem` what is wrong with an answer, and read its JSON."""
    said = shortened(answer.error or answer.output)
    said = f" ({said})" if said else ""
    if answer.status == "NotRegistered":
        answer.problem = "is not registered with Systems Manager (no agent, no role for it, or no way to its service)"
    elif answer.status in ("ConnectionLost", "Inactive"):
        answer.problem = "has lost its connection to Systems Manager (it hangs, or its agent is dead)"
    elif answer.status == "NotAsked":
        answer.problem = "was not asked"
    elif answer.status == "TimedOut":
        limit = f" within {expected.limit} s" if expected.limit else " in time"
        answer.problem = f"did not end{limit}{said}"
    elif answer.status == "Undeliverable":
        answer.problem = "did not take up the command in time"
    elif answer.status not in ENDED:
        answer.problem = f"gave no answer in time (its state is still {answer.status})"
    elif answer.status != "Success" or answer.code != 0:
        meaning = expected.meanings.get(str(answer.code), "")
        meaning = f": {meaning}" if meaning else ""
        answer.problem = f"ended with {answer.status}, exit code {answer.code}{meaning}{said}"
    elif expected.values is not None:
        answer.problem = _read(answer, expected)


def _read(answer: Answer, expected: Expectation) -> str:
    try:
        answer.answers = json_objects(answer.output)
    except ValueError:
        return f"answered with something that is no JSON: {shortened(answer.output)}"
    if len(answer.answers) < expected.count:
        return f"gave {len(answer.answers)} answers of {expected.count}"
    for one in answer.answers:
        for key, value in (expected.values or {}).items():
            # In Python 1 equals True; in JSON it does not.
            if key not in one or type(one[key]) is not type(value) or one[key] != value:
                told = json.dumps(one[key]) if key in one else "missing"
                return f"answered {key} {told} where {json.dumps(value)} is expected: {shortened(json.dumps(one))}"
    return ""


def verdict(fleet: Fleet, answers: Mapping[str, Answer]) -> str:
    """Empty when the fleet answered well, else what is wrong, host by host."""
    bad = [answer for answer in answers.values() if answer.problem]
    good = len(answers) - len(bad)
    if not bad and good >= fleet.wanted:
        return ""
    said = [f"{answer.instance_id} {answer.problem}" for answer in sorted(bad, key=lambda one: one.instance_id)]
    said += [f"{i} is {state} and was not asked" for i, state in sorted(fleet.waiting.items())]
    if not said:
        said = [f"only {len(answers)} run"]
    return f"{good} of {fleet.wanted} hosts of {fleet.name} answered well: {'; '.join(said)}."
