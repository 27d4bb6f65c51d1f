#!/usr/bin/python
"""An experiment of AWS Fault Injection Service: made, started, and taken away again."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: fis_experiment
short_description: An experiment of AWS Fault Injection Service
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Makes an experiment template, starts an experiment from it and waits until AWS has begun to act, or has ended.
  - Every start is a new experiment, so O(state=started) always changes something.
  - A template is known by its tag C(Name). One that cannot be started is deleted again.
options:
  name:
    description: Name of the template, kept as its tag C(Name).
    type: str
    required: true
  state:
    description:
      - V(started) makes a template in the place of one of the same name, and starts an experiment.
      - V(absent) stops the experiments of the templates with that name that still run, and deletes the templates.
    type: str
    choices: [started, absent]
    default: started
  description:
    description: What the experiment is for, as AWS shows it. Empty means O(name).
    type: str
    default: ''
  role_arn:
    description: Role (ARN) as which AWS acts. Required for O(state=started).
    type: str
  actions:
    description:
      - What is done, by name, in the form of AWS's API, for example C(actionId), C(parameters) and C(targets).
      - Required for O(state=started).
    type: dict
    default: {}
  targets:
    description: To what it is done, by name, in the form of AWS's API. Required for O(state=started).
    type: dict
    default: {}
  wait:
    description:
      - V(acting) waits until each action runs or has ended; V(ended) until the experiment has.
      - V(no) does not wait.
    type: str
    choices: ['no', acting, ended]
    default: acting
  wait_timeout:
    description: Seconds to wait at most.
    type: int
    default: 300
  role_timeout:
    description: Seconds for which a start is tried again that fails because AWS does not know a new role yet.
    type: int
    default: 60
  tags:
    description: Tags of the template and the experiment, beside C(Name).
    type: dict
    default: {}
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Says what it would do, and makes and starts nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
"""

EXAMPLES = r"""
- name: Interrupt a Spot instance, two minutes after its notice
  spotcache.redis.fis_experiment:
    name: spotcache-stg-drill
    role_arn: arn:aws:iam::123456789012:role/spotcache-stg-drill
    actions:
      interrupt:
        actionId: aws:ec2:send-spot-instance-interruptions
        parameters: {durationBeforeInterruption: PT2M}
        targets: {SpotInstances: host}
    targets:
      host:
        resourceType: aws:ec2:spot-instance
        resourceArns: [arn:aws:ec2:ap-northeast-1:123456789012:instance/i-0123456789abcdef0]
        selectionMode: ALL

- name: Leave nothing behind
  spotcache.redis.fis_experiment:
    name: spotcache-stg-drill
    state: absent
"""

RETURN = r"""
experiment_id:
  description: Id of the experiment; empty in check mode.
  returned: for O(state=started)
  type: str
  sample: EXPabcdefghijklmnop
template_id:
  description: Id of the template; empty in check mode.
  returned: for O(state=started)
  type: str
status:
  description: How far the experiment is, as AWS says it.
  returned: for O(state=started)
  type: str
  sample: running
actions:
  description: For each action its C(status), and C(started) and C(ended) as Unix times in seconds (or null).
  returned: for O(state=started)
  type: dict
deleted:
  description: The templates that were deleted.
  returned: always
  type: list
  elements: str
stopped:
  description: The experiments that were stopped.
  returned: for O(state=absent)
  type: list
  elements: str
"""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble, finish

ENDED = {"completed", "stopped", "failed", "cancelled"}
BAD = {"failed", "cancelled"}
WAITING = {"pending", "initiating"}
PAUSE = 0.5
ROLE_PAUSE = 2.0


def checked(params: dict[str, Any]) -> None:
    """Refuse what AWS would refuse less clearly. Raises Trouble."""
    for name in ("role_arn", "actions", "targets"):
        if not params[name]:
            raise Trouble(f"{name} is empty: an experiment needs a role, at least one action and its target.")
    for name, action in params["actions"].items():
        if not isinstance(action, dict) or not action.get("actionId"):
            raise Trouble(f"actions['{name}'] has no actionId: name one, for example aws:ec2:terminate-instances.")
        unknown = sorted(set((action.get("targets") or {}).values()) - set(params["targets"]))
        if unknown:
            raise Trouble(
                f"actions['{name}'] has the target {unknown[0]}, and targets names "
                f"{', '.join(sorted(params['targets']))}: use one of these."
            )


def request(params: dict[str, Any]) -> dict[str, Any]:
    """What is asked of AWS."""
    return {
        "description": params["description"] or params["name"],
        "roleArn": params["role_arn"],
        "stopConditions": [{"source": "none"}],
        "actions": params["actions"],
        "targets": params["targets"],
        "tags": tags_of(params),
    }


def tags_of(params: dict[str, Any]) -> dict[str, str]:
    """All tags, as text."""
    return {**{str(key): str(value) for key, value in params["tags"].items()}, "Name": params["name"]}


def moment(value: Any) -> float | None:
    """A time of AWS's as Unix time in seconds."""
    return value.timestamp() if value is not None else None


def actions_of(experiment: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How far each action is."""
    return {
        name: {
            "status": (action.get("state") or {}).get("status", ""),
            "started": moment(action.get("startTime")),
            "ended": moment(action.get("endTime")),
        }
        for name, action in (experiment.get("actions") or {}).items()
    }


def status_of(experiment: dict[str, Any]) -> str:
    """How far the experiment is."""
    return str((experiment.get("state") or {}).get("status", ""))


def has_come(experiment: dict[str, Any], wait: str) -> bool:
    """Whether what is waited for has come: `acting` or `ended`."""
    if status_of(experiment) in ENDED:
        return True
    actions = actions_of(experiment).values()
    return wait == "acting" and bool(actions) and all(one["status"] not in {"", *WAITING} for one in actions)


def is_about_the_role(reason: str) -> bool:
    """Whether an experiment failed because its role is not known everywhere yet."""
    return "assume" in reason.lower()


def known(call: Callable[[], Any], params: dict[str, Any], clock: Callable[[], float]) -> Any:
    """What a call of FIS answers; one that it refuses because the role is too new is made again.

    Raises botocore's ClientError for any other refusal, and for this one when the time is over.
    """
    begun = clock()
    while True:
        try:
            return call()
        except ClientError as error:
            refused = error.response["Error"]
            # A denial names the caller, who may have assumed a role.
            about_the_role = "Denied" not in refused["Code"] and is_about_the_role(refused.get("Message", ""))
            if not about_the_role or clock() - begun > params["role_timeout"]:
                raise
        time.sleep(ROLE_PAUSE)


def named(fis: Any, name: str) -> list[str]:
    """The ids of the templates with that name."""
    found: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = fis.list_experiment_templates(**more)
        found += [one["id"] for one in page["experimentTemplates"] if (one.get("tags") or {}).get("Name") == name]
        if not page.get("nextToken"):
            return sorted(found)
        more = {"nextToken": page["nextToken"]}


def running(fis: Any, templates: list[str]) -> list[str]:
    """The ids of the experiments of these templates that have not ended."""
    found: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = fis.list_experiments(**more)
        found += [
            one["id"]
            for one in page["experiments"]
            if one["experimentTemplateId"] in templates and status_of(one) not in {*ENDED, "stopping"}
        ]
        if not page.get("nextToken"):
            return sorted(found)
        more = {"nextToken": page["nextToken"]}


def start(fis: Any, template: str, params: dict[str, Any], clock: Callable[[], float]) -> dict[str, Any]:
    """Start an experiment and wait for it; one that fails for want of its new role is started again.

    Raises Trouble when it fails, or when the time is over.
    """
    begun = clock()
    while True:
        begin = functools.partial(fis.start_experiment, experimentTemplateId=template, tags=tags_of(params))
        experiment: dict[str, Any] = known(begin, params, clock)["experiment"]
        while params["wait"] != "no" and not has_come(experiment, params["wait"]):
            if clock() - begun > params["wait_timeout"]:
                raise Trouble(
                    f"The experiment {experiment['id']} is {status_of(experiment)} after {params['wait_timeout']} s: "
                    "look at it in the console of FIS, or give wait_timeout more."
                )
            time.sleep(PAUSE)
            experiment = fis.get_experiment(id=experiment["id"])["experiment"]
        if status_of(experiment) not in BAD:
            return experiment
        reason = (experiment.get("state") or {}).get("reason", "it gives no reason")
        if not is_about_the_role(reason) or clock() - begun > params["role_timeout"]:
            raise Trouble(f"The experiment {experiment['id']} {status_of(experiment)}: {reason}.")
        time.sleep(ROLE_PAUSE)


def ensure_started(module: AnsibleAWSModule, fis: Any) -> dict[str, Any]:
    """The task's result for state=started."""
    params = module.params
    checked(params)
    before = named(fis, params["name"])
    if module.check_mode:
        return {
            "changed": True, "deleted": before, "experiment_id": "", "template_id": "", "status": "", "actions": {}
        }  # fmt: skip
    for one in before:
        fis.delete_experiment_template(id=one)
    create = functools.partial(fis.create_experiment_template, **request(params))
    template = known(create, params, time.monotonic)["experimentTemplate"]["id"]
    try:
        experiment = start(fis, template, params, time.monotonic)
    except BaseException:
        with contextlib.suppress(ClientError, BotoCoreError):
            fis.delete_experiment_template(id=template)
        raise
    return {
        "changed": True,
        "deleted": before,
        "experiment_id": experiment["id"],
        "template_id": template,
        "status": status_of(experiment),
        "actions": actions_of(experiment),
    }


def ensure_absent(module: AnsibleAWSModule, fis: Any) -> dict[str, Any]:
    """The task's result for state=absent."""
    templates = named(fis, module.params["name"])
    going = running(fis, templates) if templates else []
    if not module.check_mode:
        for one in going:
            # It may have ended in this moment.
            with contextlib.suppress(fis.exceptions.ValidationException, fis.exceptions.ResourceNotFoundException):
                fis.stop_experiment(id=one)
        for one in templates:
            fis.delete_experiment_template(id=one)
    return {"changed": bool(templates), "deleted": templates, "stopped": going}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
            "description": {"type": "str", "default": ""},
            "role_arn": {"type": "str"},
            "actions": {"type": "dict", "default": {}},
            "targets": {"type": "dict", "default": {}},
            "wait": {"type": "str", "choices": ["no", "acting", "ended"], "default": "acting"},
            "wait_timeout": {"type": "int", "default": 300},
            "role_timeout": {"type": "int", "default": 60},
            "tags": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    ensure = ensure_started if module.params["state"] == "started" else ensure_absent
    finish(
        module,
        lambda: ensure(module, module.client("fis")),
        f"The experiment {module.params['name']} cannot be managed",
    )


if __name__ == "__main__":
    main()
