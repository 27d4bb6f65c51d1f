#!/usr/bin/python
"""A shell command on every host of a fleet, through Systems Manager."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ssm_command
short_description: Run a shell command on every host of a fleet through Systems Manager, and check the answers
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Finds the running instances of an Auto Scaling group or of a tag, runs a shell script on each of them by Systems
    Manager's Run Command (no SSH), waits for all of them and checks what they answered.
  - It fails, and names each host and its trouble, unless every running host answered well and as many did as are
    wanted. Nobody to ask is a failure as well, though Systems Manager calls that a success.
  - Terminated instances are not counted, also when they end while the command runs. Instances that do not serve yet are
    not asked, but explain a shortage.
  - Instances that Systems Manager cannot reach are named at once and not waited for.
  - Needs C(ssm:SendCommand) on the document C(AWS-RunShellScript) and on the instances, and on all resources
    C(ssm:DescribeInstanceInformation), C(ssm:ListCommandInvocations), C(ssm:GetCommandInvocation),
    C(ec2:DescribeInstances) and, with O(group), C(autoscaling:DescribeAutoScalingGroups).
options:
  group:
    description: Name of an Auto Scaling group. Exactly one of O(group) and O(tags) must be given.
    type: str
    default: ''
  tags:
    description: Tags that an instance must carry, all of them.
    type: dict
    default: {}
  commands:
    description: Lines of the script. They stand in Systems Manager's history, so they must not hold secrets.
    type: list
    elements: str
    required: true
  working_directory:
    description: Directory in which the script runs. Empty means the agent's.
    type: str
    default: ''
  timeout:
    description: Seconds that the script may take on a host.
    type: int
    default: 60
  delivery_timeout:
    description: Seconds in which a host must take up the command; Systems Manager wants at least 30.
    type: int
    default: 30
  wanted:
    description:
      - How many hosts must answer well. V(0) means the desired capacity of the Auto Scaling group, or the number of
        running instances that carry the tags.
    type: int
    default: 0
  expect:
    description:
      - What every answer must hold. With this, a host's output must consist of JSON objects, and each must hold these
        keys with these values. An empty dictionary demands JSON only. Without this option any output is good.
    type: dict
  expect_count:
    description: How many JSON objects a host must answer with at least, with O(expect).
    type: int
    default: 1
  exit_meanings:
    description: What an exit code of the script means, for the sentence that names a failed host.
    type: dict
    default: {}
  comment:
    description: Comment that Systems Manager keeps with the command.
    type: str
    default: ''
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.attributes.no_diff
attributes:
  check_mode:
    description: Looks up who would be asked, and sends nothing.
    support: full
"""

EXAMPLES = r"""
- name: Ask every web host for its uptime
  spotcache.redis.ssm_command:
    group: shop-web
    commands: [uptime]

- name: Clear a cache, and believe it only when the answer says so
  spotcache.redis.ssm_command:
    tags:
      Role: web
    commands:
      - docker exec nginx curl -sf -m 5 localhost/apcu.php
    timeout: 15
    expect:
      cleared: true
    exit_meanings:
      "22": the web server answered with an error
"""

RETURN = r"""
fleet:
  description: Who was asked, for people.
  returned: when there is somebody to ask
  type: str
  sample: the Auto Scaling group shop-web
wanted:
  description: How many hosts must answer well.
  returned: when there is somebody to ask
  type: int
answered:
  description: How many answered well.
  returned: when there is somebody to ask
  type: int
command_ids:
  description: Systems Manager's ids of the commands, one for each fifty hosts.
  returned: when there is somebody to ask
  type: list
  elements: str
seconds:
  description: From sending to the last answer.
  returned: when there is somebody to ask
  type: float
hosts:
  description: One entry for each host.
  returned: when there is somebody to ask
  type: list
  elements: dict
  contains:
    instance_id:
      description: The instance.
      type: str
    ok:
      description: Whether it answered well.
      type: bool
    status:
      description:
        - Systems Manager's word, or V(NotRegistered), V(ConnectionLost), V(NotSent) (check mode).
      type: str
    code:
      description: Exit code of the script; null when it did not run.
      type: int
    output:
      description: Standard output, up to 24,000 characters.
      type: str
    error:
      description: Standard error.
      type: str
    seconds:
      description: How long the script took.
      type: float
    answers:
      description: The JSON objects of the output, with O(expect).
      type: list
      elements: dict
    problem:
      description: What is wrong, for people; empty when nothing is.
      type: str
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils import fleet as rules

DOCUMENT = "AWS-RunShellScript"
POLL_S = (0.15, 2.0)  # the first wait, and the longest
SLACK_S = 10  # Systems Manager's own time to tell that a limit has passed


def send(ssm: Any, ids: list[str], params: dict[str, Any]) -> str:
    """Send the script to up to fifty instances; returns the command's id."""
    parameters = {"commands": params["commands"], "executionTimeout": [str(params["timeout"])]}
    if params["working_directory"]:
        parameters["workingDirectory"] = [params["working_directory"]]
    sent = ssm.send_command(
        DocumentName=DOCUMENT,
        InstanceIds=ids,
        Parameters=parameters,
        TimeoutSeconds=params["delivery_timeout"],
        Comment=params["comment"][:100],
        MaxConcurrency="100%",
        # Without this the first host that fails keeps the command from the others.
        MaxErrors="100%",
    )
    return str(sent["Command"]["CommandId"])


def wait(
    ssm: Any,
    commands: dict[str, dict[str, rules.Answer]],
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until every host of every command has ended, or patience has."""
    deadline, pause = clock() + patience, POLL_S[0]
    open_commands = dict(commands)
    while open_commands:
        open_commands = {i: hosts for i, hosts in open_commands.items() if not rules.collect(ssm, i, hosts)}
        if not open_commands or clock() >= deadline:
            return
        sleep(pause)
        pause = min(pause * 1.5, POLL_S[1])


def ask(ssm: Any, ec2: Any, found: rules.Fleet, params: dict[str, Any]) -> tuple[dict[str, rules.Answer], list[str]]:
    """Send, wait and judge. Returns the answers by instance, and the ids of the commands."""
    answers = rules.reachable(ssm, found.running)
    online = [instance_id for instance_id, answer in answers.items() if answer.status == "Pending"]
    commands: dict[str, dict[str, rules.Answer]] = {}
    for some in rules.chunks(online, rules.TARGETS_A_COMMAND):
        commands[send(ssm, some, params)] = {instance_id: answers[instance_id] for instance_id in some}
    wait(ssm, commands, params["timeout"] + params["delivery_timeout"] + SLACK_S)
    expected = rules.Expectation(
        values=params["expect"],
        count=params["expect_count"],
        limit=params["timeout"],
        meanings={str(key): str(value) for key, value in params["exit_meanings"].items()},
    )
    for answer in answers.values():
        rules.judge(answer, expected)
    bad = [instance_id for instance_id, answer in answers.items() if answer.problem]
    # One that ended meanwhile has no cache to clear and no traffic: it is not counted.
    now = rules.states(ec2, bad) if bad else {}
    gone = [instance_id for instance_id in bad if now.get(instance_id) not in ("running", "pending")]
    return {i: answer for i, answer in answers.items() if i not in gone}, list(commands)


def wrong_input(params: dict[str, Any]) -> str:
    """What is wrong with the parameters, or nothing."""
    if bool(params["group"]) == bool(params["tags"]):
        return "Give exactly one of group (an Auto Scaling group's name) and tags (tags that the instances carry)."
    if not any(line.strip() for line in params["commands"]):
        return "commands is empty: give at least one line of shell script."
    if params["timeout"] < 1 or params["delivery_timeout"] < 30:
        return (
            f"timeout is {params['timeout']} and delivery_timeout is {params['delivery_timeout']}: "
            "give at least 1 and at least 30 seconds."
        )
    if params["wanted"] < 0:
        return f"wanted is {params['wanted']}: give a number of hosts, or 0 for as many as the group wants."
    return ""


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "group": {"type": "str", "default": ""},
            "tags": {"type": "dict", "default": {}},
            "commands": {"type": "list", "elements": "str", "required": True},
            "working_directory": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 60},
            "delivery_timeout": {"type": "int", "default": 30},
            "wanted": {"type": "int", "default": 0},
            "expect": {"type": "dict"},
            "expect_count": {"type": "int", "default": 1},
            "exit_meanings": {"type": "dict", "default": {}},
            "comment": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    problem = wrong_input(params)
    if problem:
        module.fail_json(msg=problem)
    try:
        ec2 = module.client("ec2")
        if params["group"]:
            found = rules.find_group(module.client("autoscaling"), ec2, params["group"], params["wanted"])
        else:
            found = rules.find_tagged(ec2, params["tags"], params["wanted"])
        told = {"fleet": found.name, "wanted": found.wanted}
        if module.check_mode:
            hosts = [rules.Answer(instance_id, "NotSent").to_json() for instance_id in found.running]
            module.exit_json(changed=True, **told, answered=0, command_ids=[], seconds=0.0, hosts=hosts)
        begun = time.monotonic()
        answers, command_ids = ask(module.client("ssm"), ec2, found, params)
    except rules.NoFleet as nobody:
        module.fail_json(msg=str(nobody))
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg="The hosts could not be asked")
    told |= {
        "answered": sum(not answer.problem for answer in answers.values()),
        "command_ids": command_ids,
        "seconds": round(time.monotonic() - begun, 3),
        "hosts": [answer.to_json() for answer in answers.values()],
    }
    problem = rules.verdict(found, answers)
    if problem:
        module.fail_json(msg=problem[0].upper() + problem[1:], changed=bool(command_ids), **told)
    module.exit_json(changed=True, **told)


if __name__ == "__main__":
    main()
