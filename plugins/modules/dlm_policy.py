#!/usr/bin/python
"""A Data Lifecycle Manager policy that takes EBS snapshots of volumes."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: dlm_policy
short_description: A Data Lifecycle Manager policy that takes EBS snapshots of volumes
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Makes, changes and deletes an Amazon Data Lifecycle Manager policy with one schedule, which takes EBS snapshots of
    every volume, or of the volumes of every instance, that carries one of the tags given, and deletes its own old ones.
  - AWS takes such a snapshot up to an hour after its time and at most once an hour. It comes beside
    snapshots that are taken on purpose, and does not replace them.
  - AWS gives policies no name. The policy is known by its tag C(Name).
options:
  name:
    description: Name of the policy, kept as its tag C(Name).
    type: str
    required: true
  state:
    description:
      - V(present) makes the policy or changes it.
      - V(absent) deletes it. The snapshots it has taken are kept, and are then nobody's to delete.
    type: str
    choices: [present, absent]
    default: present
  enabled:
    description: Whether the policy takes snapshots.
    type: bool
    default: true
  description:
    description:
      - What the policy is for, as AWS shows it. At most 500 letters, digits, blanks, hyphens and underscores.
      - Empty means O(name).
    type: str
    default: ''
  role_arn:
    description: Role (ARN) as which AWS takes and deletes the snapshots. Required for O(state=present).
    type: str
  target_tags:
    description: What has any of these tags is snapshotted. Required for O(state=present).
    type: dict
    default: {}
  resource:
    description:
      - V(volume) snapshots the volumes that have the tags.
      - V(instance) snapshots the volumes that are attached to the instances that have the tags, all at one moment.
    type: str
    choices: [volume, instance]
    default: volume
  boot_volumes:
    description: Whether O(resource=instance) includes the volumes that the instances have booted from.
    type: bool
    default: true
  interval_hours:
    description: Hours between two snapshots. Not together with O(cron).
    type: int
    choices: [1, 2, 3, 4, 6, 8, 12, 24]
    default: 24
  time:
    description: When the first snapshot of a day begins, in UTC, as HH:MM. It may come up to an hour later.
    type: str
    default: '18:00'
  cron:
    description:
      - A cron expression of AWS's, in UTC, in place of O(interval_hours) and O(time), for example
        V(cron(0 18 ? * MON-FRI *)).
      - Empty means none.
    type: str
    default: ''
  keep:
    description: How many snapshots of each volume are kept.
    type: int
    default: 7
  copy_tags:
    description: Whether a snapshot gets the tags of its volume.
    type: bool
    default: true
  snapshot_tags:
    description: Further tags for the snapshots.
    type: dict
    default: {}
  tags:
    description: Tags of the policy itself. Others are removed, but never the one called C(Name).
    type: dict
    default: {}
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Says what would change and changes nothing.
    support: full
  diff_mode:
    description: Shows the settings before and after.
    support: full
"""

EXAMPLES = r"""
- name: Daily snapshots of the data volumes
  spotcache.redis.dlm_policy:
    name: spotcache-stg
    role_arn: arn:aws:iam::123456789012:role/spotcache-stg-dlm
    resource: instance
    boot_volumes: false
    target_tags:
      spotcache:environment: stg
    interval_hours: 12
    keep: 4

- name: None
  spotcache.redis.dlm_policy:
    name: spotcache-stg
    state: absent
"""

RETURN = r"""
policy_id:
  description: Id of the policy; empty while there is none.
  returned: always
  type: str
  sample: policy-0123456789abcdef0
policy_arn:
  description: ARN of the policy; empty while there is none.
  returned: always
  type: str
settings:
  description: The policy's settings.
  returned: for O(state=present)
  type: dict
"""

import re
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble, finish

INTERVALS = [1, 2, 3, 4, 6, 8, 12, 24]
SCHEDULE = "spotcache"
TIME = re.compile(r"^([01]\d|2[0-3]):[0-5]\d$")
DESCRIPTION = re.compile(r"^[0-9A-Za-z _-]{1,500}$")
CRON = re.compile(r"^cron\([^\n]{11,100}\)$")


def checked(params: dict[str, Any]) -> None:
    """Refuse, before anything is changed, what AWS would refuse less clearly.

    Raises Trouble.
    """
    if not params["target_tags"]:
        raise Trouble("target_tags is empty: name at least one tag, for example {'spotcache:environment': 'stg'}.")
    if not params["cron"] and not TIME.match(params["time"]):
        raise Trouble(f"time is '{params['time']}': give hours and minutes in UTC, for example '18:00', in quotes.")
    if params["cron"] and not CRON.match(params["cron"]):
        raise Trouble(f"cron is '{params['cron']}': give it as AWS has it, for example 'cron(0 18 ? * MON-FRI *)'.")
    if not 1 <= params["keep"] <= 1000:
        raise Trouble(f"keep is {params['keep']}: Data Lifecycle Manager keeps between 1 and 1000 snapshots.")
    if not DESCRIPTION.match(params["description"] or params["name"]):
        raise Trouble("description may have up to 500 letters, digits, blanks, hyphens and underscores.")


def texts(tags: dict[str, Any]) -> dict[str, str]:
    """Tags with values as AWS has them."""
    return {str(key): str(value) for key, value in tags.items()}


def wanted_settings(params: dict[str, Any]) -> dict[str, Any]:
    """The settings that the parameters ask for, in one comparable form."""
    cron = params["cron"]
    return {
        "description": params["description"] or params["name"],
        "enabled": params["enabled"],
        "role_arn": params["role_arn"],
        "resource_types": [params["resource"].upper()],
        "boot_volumes": params["boot_volumes"] or params["resource"] == "volume",
        "target_tags": texts(params["target_tags"]),
        "schedules": 1,
        "interval_hours": 0 if cron else params["interval_hours"],
        "time": "" if cron else params["time"],
        "cron": cron,
        "keep": params["keep"],
        "copy_tags": params["copy_tags"],
        "snapshot_tags": texts(params["snapshot_tags"]),
        "tags": {**texts(params["tags"]), "Name": params["name"]},
    }


def tag_dict(tags: list[dict[str, str]] | None) -> dict[str, str]:
    """AWS's list of tags as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in tags or []}


def present_settings(policy: dict[str, Any]) -> dict[str, Any]:
    """The same form of a policy as AWS describes it; what AWS adds by itself is left out."""
    details = policy.get("PolicyDetails") or {}
    schedules = details.get("Schedules") or [{}]
    schedule = schedules[0]
    rule, retain = schedule.get("CreateRule") or {}, schedule.get("RetainRule") or {}
    return {
        "description": policy.get("Description", ""),
        # AWS stops a policy that fails; enabling it again is a change.
        "enabled": policy.get("State") == "ENABLED",
        "role_arn": policy.get("ExecutionRoleArn", ""),
        "resource_types": list(details.get("ResourceTypes") or []),
        "boot_volumes": not (details.get("Parameters") or {}).get("ExcludeBootVolume", False),
        "target_tags": tag_dict(details.get("TargetTags")),
        "schedules": len(details.get("Schedules") or []),
        "interval_hours": int(rule.get("Interval") or 0),
        "time": (rule.get("Times") or [""])[0],
        "cron": rule.get("CronExpression") or "",
        "keep": int(retain.get("Count") or 0),
        "copy_tags": bool(schedule.get("CopyTags")),
        "snapshot_tags": tag_dict(schedule.get("TagsToAdd")),
        "tags": dict(policy.get("Tags") or {}),
    }


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """A mapping of tags as AWS's list."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def request(settings: dict[str, Any]) -> dict[str, Any]:
    """What create and update have in common."""
    of_instances = settings["resource_types"] == ["INSTANCE"]
    every = {"Interval": settings["interval_hours"], "IntervalUnit": "HOURS", "Times": [settings["time"]]}
    return {
        "ExecutionRoleArn": settings["role_arn"],
        "Description": settings["description"],
        "State": "ENABLED" if settings["enabled"] else "DISABLED",
        "PolicyDetails": {
            "PolicyType": "EBS_SNAPSHOT_MANAGEMENT",
            "ResourceTypes": settings["resource_types"],
            "TargetTags": tag_list(settings["target_tags"]),
            "Schedules": [
                {
                    "Name": SCHEDULE,
                    "CopyTags": settings["copy_tags"],
                    "TagsToAdd": tag_list(settings["snapshot_tags"]),
                    "CreateRule": {"CronExpression": settings["cron"]} if settings["cron"] else every,
                    "RetainRule": {"Count": settings["keep"]},
                }
            ],
            **({"Parameters": {"ExcludeBootVolume": not settings["boot_volumes"]}} if of_instances else {}),
        },
    }


def find(dlm: Any, name: str) -> dict[str, Any] | None:
    """The policy called `name`, whole, or None.

    Raises Trouble when there are several, since then none of them can be meant.
    """
    summaries = dlm.get_lifecycle_policies()["Policies"]
    ids = sorted(item["PolicyId"] for item in summaries if (item.get("Tags") or {}).get("Name") == name)
    if len(ids) > 1:
        raise Trouble(f"Several policies have the tag Name={name}: {', '.join(ids)}. Delete or rename all but one.")
    return dict(dlm.get_lifecycle_policy(PolicyId=ids[0])["Policy"]) if ids else None


def change(dlm: Any, policy: dict[str, Any], before: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Change what differs, and nothing else."""
    if {**before, "tags": None} != {**wanted, "tags": None}:
        dlm.update_lifecycle_policy(PolicyId=policy["PolicyId"], **request(wanted))
    surplus = sorted(key for key in before["tags"] if key not in wanted["tags"] and not key.startswith("aws:"))
    if surplus:
        dlm.untag_resource(ResourceArn=policy["PolicyArn"], TagKeys=surplus)
    fresh = {key: value for key, value in wanted["tags"].items() if before["tags"].get(key) != value}
    if fresh:
        dlm.tag_resource(ResourceArn=policy["PolicyArn"], Tags=fresh)


def ensure_present(module: AnsibleAWSModule, dlm: Any) -> dict[str, Any]:
    """The task's result for state=present."""
    checked(module.params)
    wanted = wanted_settings(module.params)
    policy = find(dlm, module.params["name"])
    before = present_settings(policy) if policy else None
    if before is not None:
        # AWS's own tags are nobody's to compare.
        before["tags"] = {key: value for key, value in before["tags"].items() if not key.startswith("aws:")}
    changed = before != wanted
    if changed and not module.check_mode:
        if policy is None or before is None:
            made = dlm.create_lifecycle_policy(**request(wanted), Tags=wanted["tags"])
            policy = dlm.get_lifecycle_policy(PolicyId=made["PolicyId"])["Policy"]
        else:
            change(dlm, policy, before, wanted)
    return {
        "changed": changed,
        "settings": wanted,
        "policy_id": (policy or {}).get("PolicyId", ""),
        "policy_arn": (policy or {}).get("PolicyArn", ""),
        "diff": {"before": before or {}, "after": wanted},
    }


def ensure_absent(module: AnsibleAWSModule, dlm: Any) -> dict[str, Any]:
    """The task's result for state=absent."""
    policy = find(dlm, module.params["name"])
    if policy is None:
        return {"changed": False, "policy_id": "", "policy_arn": ""}
    if not module.check_mode:
        dlm.delete_lifecycle_policy(PolicyId=policy["PolicyId"])
    return {
        "changed": True,
        "policy_id": "",
        "policy_arn": "",
        "diff": {"before": present_settings(policy), "after": {}},
    }


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "enabled": {"type": "bool", "default": True},
            "description": {"type": "str", "default": ""},
            "role_arn": {"type": "str"},
            "target_tags": {"type": "dict", "default": {}},
            "resource": {"type": "str", "choices": ["volume", "instance"], "default": "volume"},
            "boot_volumes": {"type": "bool", "default": True},
            "interval_hours": {"type": "int", "choices": INTERVALS, "default": 24},
            "time": {"type": "str", "default": "18:00"},
            "cron": {"type": "str", "default": ""},
            "keep": {"type": "int", "default": 7},
            "copy_tags": {"type": "bool", "default": True},
            "snapshot_tags": {"type": "dict", "default": {}},
            "tags": {"type": "dict", "default": {}},
        },
        required_if=[("state", "present", ["role_arn", "target_tags"])],
        supports_check_mode=True,
    )
    ensure = ensure_present if module.params["state"] == "present" else ensure_absent
    finish(
        module,
        lambda: ensure(module, module.client("dlm")),
        f"The lifecycle policy {module.params['name']} cannot be managed",
    )


if __name__ == "__main__":
    main()
