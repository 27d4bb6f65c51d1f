#!/usr/bin/python
"""An Auto Scaling group that keeps one host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: autoscaling_host
short_description: An Auto Scaling group that keeps one host
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Makes, changes and deletes an Auto Scaling group of one instance, bought on one market, in any of several subnets
    and of any of several instance types, and waits until the instance runs.
  - Differs from M(amazon.aws.autoscaling_group) in what a single host needs. In check mode it says what would really
    change; it knows capacity rebalancing; when no instance comes it says what Auto Scaling tried; and an instance that
    EC2 knows to be ending does not count, although the group may still list it.
options:
  name:
    description: Name of the group.
    type: str
    required: true
  state:
    description:
      - V(present) makes the group or changes it.
      - V(absent) deletes the group with its instances and waits until both are gone.
    type: str
    choices: [present, absent]
    default: present
  launch_template:
    description:
      - Name of the launch template; instances are launched from its latest version. Required for O(state=present).
      - It must not ask for Spot itself, since Auto Scaling refuses that together with a list of instance types.
    type: str
  instance_types:
    description: Instance types that will do. Required for O(state=present).
    type: list
    elements: str
    default: []
  subnet_ids:
    description: Subnets that will do. Required for O(state=present).
    type: list
    elements: str
    default: []
  market:
    description: Where the instance is bought.
    type: str
    choices: [spot, on_demand]
    default: spot
  max_price:
    description: Highest price per hour for a Spot instance, in USD. Empty means the on-demand price.
    type: str
    default: ''
  capacity_rebalance:
    description: Whether a replacement is launched when EC2 recommends it, before the Spot instance is reclaimed.
    type: bool
    default: false
  fallback:
    description:
      - Whether the group has no host by itself. It may have one, when something else asks for it, for example while
        there is none to be had on the Spot market; how many it has is then left as it is, and not waited for.
    type: bool
    default: false
  fallback_group:
    description:
      - Name of another group whose instance will do for as long as this one has none, for example one on demand while
        there is none to be had on the Spot market. Empty means none.
    type: str
    default: ''
  termination_hook:
    description:
      - Name of a lifecycle hook that holds an instance which the group ends, until the instance itself says that it is
        ready, for example since it has backed up. Empty means none. What Spot takes back is not held.
    type: str
    default: ''
  termination_hook_timeout:
    description: Seconds that it holds an instance at the longest.
    type: int
    default: 300
  health_check_grace_period:
    description: Seconds after launch in which a failed health check does not count.
    type: int
    default: 120
  tags:
    description: Tags of the group and of the instances it launches. Others are removed.
    type: dict
    default: {}
  wait:
    description: Whether to wait for the instance to run, or to end.
    type: bool
    default: true
  wait_timeout:
    description: Seconds to wait.
    type: int
    default: 300
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
- name: One Spot host, in two zones, of two types
  spotcache.redis.autoscaling_host:
    name: spotcache-stg
    launch_template: spotcache-stg
    instance_types: [t3.small, t3a.small]
    subnet_ids: [subnet-0aaa, subnet-0bbb]
    tags:
      Name: spotcache-stg

- name: None at all
  spotcache.redis.autoscaling_host:
    name: spotcache-stg
    state: absent
"""

RETURN = r"""
instance_id:
  description: The instance that runs; empty while there is none.
  returned: always
  type: str
  sample: i-0123456789abcdef0
group_name:
  description: The group that the instance belongs to, which is O(name) or O(fallback_group).
  returned: when there is an instance
  type: str
instance:
  description: The same as EC2 describes it, with keys in snake case.
  returned: for O(state=present)
  type: dict
template_version:
  description: Version of the launch template that the instance was launched from.
  returned: when there is an instance
  type: str
latest_version:
  description: Version of the launch template that the next instance gets.
  returned: for O(state=present), when the launch template exists
  type: str
settings:
  description: The group's settings.
  returned: for O(state=present)
  type: dict
"""

import contextlib
import time
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import ClientError

from ansible.module_utils.common.dict_transformations import camel_dict_to_snake_dict
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble, finish

POLL_S = 1.5
# A new instance profile or launch template is known to Auto Scaling, and to a look at it, only after a while.
PATIENCE_S = 60
RUNNING = ("pending", "running")


TERMINATING = "autoscaling:EC2_INSTANCE_TERMINATING"


def wanted_settings(params: dict[str, Any]) -> dict[str, Any]:
    """The settings that the parameters ask for, in one comparable form."""
    spot = params["market"] == "spot"
    return {
        "launch_template": params["launch_template"],
        "version": "$Latest",
        "instance_types": list(dict.fromkeys(params["instance_types"])),
        "on_demand_percentage": 0 if spot else 100,
        "spot_strategy": "price-capacity-optimized",
        "max_price": params["max_price"] if spot else "",
        "subnet_ids": sorted(set(params["subnet_ids"])),
        "size": [0, None, 1] if params.get("fallback") else [1, 1, 1],
        "capacity_rebalance": params["capacity_rebalance"],
        "health_check_grace_period": params["health_check_grace_period"],
        "termination_hook": {params["termination_hook"]: params["termination_hook_timeout"]}
        if params.get("termination_hook")
        else {},
        "tags": {str(key): str(value) for key, value in params["tags"].items()},
    }


def present_settings(group: dict[str, Any], hooks: dict[str, int] | None = None) -> dict[str, Any]:
    """The same form of a group as Auto Scaling describes it."""
    policy = group.get("MixedInstancesPolicy") or {}
    template = policy.get("LaunchTemplate") or {}
    specification = template.get("LaunchTemplateSpecification") or group.get("LaunchTemplate") or {}
    distribution = policy.get("InstancesDistribution") or {}
    return {
        "launch_template": specification.get("LaunchTemplateName", ""),
        "version": specification.get("Version", ""),
        "instance_types": [item.get("InstanceType", "") for item in template.get("Overrides") or []],
        "on_demand_percentage": int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100)),
        "spot_strategy": distribution.get("SpotAllocationStrategy", ""),
        "max_price": distribution.get("SpotMaxPrice") or "",
        "subnet_ids": sorted(filter(None, (group.get("VPCZoneIdentifier") or "").split(","))),
        "size": [int(group["MinSize"]), int(group["DesiredCapacity"]), int(group["MaxSize"])],
        "capacity_rebalance": bool(group.get("CapacityRebalance")),
        "health_check_grace_period": int(group.get("HealthCheckGracePeriod") or 0),
        "termination_hook": hooks or {},
        "tags": {
            tag["Key"]: tag["Value"]
            for tag in group.get("Tags") or []
            if tag.get("PropagateAtLaunch") and not tag["Key"].startswith("aws:")
        },
    }


def request(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What create and update have in common."""
    low, desired, high = settings["size"]
    return {
        "AutoScalingGroupName": name,
        "MixedInstancesPolicy": {
            "LaunchTemplate": {
                "LaunchTemplateSpecification": {
                    "LaunchTemplateName": settings["launch_template"],
                    "Version": settings["version"],
                },
                "Overrides": [{"InstanceType": item} for item in settings["instance_types"]],
            },
            "InstancesDistribution": {
                "OnDemandBaseCapacity": 0,
                "OnDemandPercentageAboveBaseCapacity": settings["on_demand_percentage"],
                "SpotAllocationStrategy": settings["spot_strategy"],
                "SpotMaxPrice": settings["max_price"],
            },
        },
        "MinSize": low,
        **({} if desired is None else {"DesiredCapacity": desired}),
        "MaxSize": high,
        "VPCZoneIdentifier": ",".join(settings["subnet_ids"]),
        "CapacityRebalance": settings["capacity_rebalance"],
        "HealthCheckType": "EC2",
        "HealthCheckGracePeriod": settings["health_check_grace_period"],
    }


def is_unsettled(message: str) -> bool:
    """Whether Auto Scaling refuses a template only because it, or its profile, is not known everywhere yet."""
    words = message.lower().replace(" ", "")
    return "iaminstanceprofile" in words or ("launchtemplate" in words and "doesnotexist" in words)


def group_tags(name: str, tags: dict[str, str]) -> list[dict[str, Any]]:
    """Tags as Auto Scaling takes them."""
    return [
        {
            "ResourceType": "auto-scaling-group",
            "ResourceId": name,
            "Key": key,
            "Value": value,
            "PropagateAtLaunch": True,
        }
        for key, value in tags.items()
    ]


class AutoscalingHost:
    """The group called `name`."""

    def __init__(self, autoscaling: Any, ec2: Any, name: str, fallback_group: str = "") -> None:
        self.autoscaling = autoscaling
        self.ec2 = ec2
        self.name = name
        self.fallback_group = fallback_group

    def describe(self, name: str = "") -> dict[str, Any] | None:
        """The group, or None. One that is being deleted is still described."""
        names = [name or self.name]
        groups = self.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=names)["AutoScalingGroups"]
        return dict(groups[0]) if groups else None

    def latest_version(self, template: str) -> str:
        """Number of the launch template's latest version, empty when there is no such template."""
        filters = [{"Name": "launch-template-name", "Values": [template]}]
        found = self.ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"]
        return str(found[0]["LatestVersionNumber"]) if found else ""

    def apply(self, before: dict[str, Any] | None, wanted: dict[str, Any]) -> None:
        """Create the group, or change what differs."""
        if before is None:
            self._create(wanted)
            self._hold(wanted["termination_hook"])
            return
        apart = {"tags": None, "termination_hook": None}
        if before["termination_hook"] != wanted["termination_hook"]:
            self._hold(wanted["termination_hook"])
        if {**before, **apart} != {**wanted, **apart}:
            self.autoscaling.update_auto_scaling_group(**request(self.name, wanted))
        surplus = {key: value for key, value in before["tags"].items() if key not in wanted["tags"]}
        if surplus:
            self.autoscaling.delete_tags(Tags=group_tags(self.name, surplus))
        if before["tags"] != wanted["tags"]:
            self.autoscaling.create_or_update_tags(Tags=group_tags(self.name, wanted["tags"]))

    def hooks(self, name: str) -> dict[str, int]:
        """The termination hook of that name and its seconds; empty when there is none."""
        found = self.autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=self.name, LifecycleHookNames=[name])
        return {
            hook["LifecycleHookName"]: int(hook["HeartbeatTimeout"])
            for hook in found["LifecycleHooks"]
            if hook["LifecycleTransition"] == TERMINATING
        }

    def _hold(self, hooks: dict[str, int]) -> None:
        """Have the termination hook."""
        for name, seconds in hooks.items():
            self.autoscaling.put_lifecycle_hook(
                AutoScalingGroupName=self.name,
                LifecycleHookName=name,
                LifecycleTransition=TERMINATING,
                HeartbeatTimeout=seconds,
                DefaultResult="CONTINUE",
            )

    def _create(self, wanted: dict[str, Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.autoscaling.create_auto_scaling_group(
                    **request(self.name, wanted), Tags=group_tags(self.name, wanted["tags"])
                )
            except ClientError as error:
                if not is_unsettled(str(error)) or time.monotonic() > deadline:
                    raise
                time.sleep(3)
            else:
                return

    def host(self, group: dict[str, Any] | None) -> dict[str, Any] | None:
        """The newest instance that is in service and, as far as EC2 knows, not ending."""
        serving = {
            item["InstanceId"]: item
            for item in (group or {}).get("Instances") or []
            if item["LifecycleState"] == "InService" and item["HealthStatus"].lower() == "healthy"
        }
        if not serving:
            return None
        filters = [
            {"Name": "instance-id", "Values": sorted(serving)},
            {"Name": "instance-state-name", "Values": list(RUNNING)},
        ]
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
        running = [item for page in pages for reservation in page["Reservations"] for item in reservation["Instances"]]
        if not running:
            return None
        newest = max(running, key=lambda item: (item["LaunchTime"], item["InstanceId"]))
        return {
            **serving[newest["InstanceId"]],
            "Group": (group or {}).get("AutoScalingGroupName", self.name),
            "Running": newest["State"]["Name"] == "running",
            "Described": newest,
        }

    def host_or_fallback(self, group: dict[str, Any] | None) -> dict[str, Any] | None:
        """The group's own instance, or else its fallback."""
        return self.host(group) or (self.host(self.describe(self.fallback_group)) if self.fallback_group else None)

    def wait_for_host(self, timeout: int) -> dict[str, Any]:
        """The host, once it runs."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.host_or_fallback(self.describe())
            if found and found["Running"]:
                return found
            if time.monotonic() >= deadline:
                raise Trouble(self.why_none(timeout))
            time.sleep(POLL_S)

    def why_none(self, timeout: int) -> str:
        """What Auto Scaling tried, for people."""
        activities = self.autoscaling.describe_scaling_activities(AutoScalingGroupName=self.name, MaxRecords=20)
        tried = [
            str(activity.get("StatusMessage") or activity.get("Description") or "")
            for activity in activities["Activities"]
            if activity.get("StatusCode") in ("Failed", "Cancelled")
        ]
        said = " ".join(dict.fromkeys(text for text in tried[:3] if text)) or "It gives no reason."
        return (
            f"The Auto Scaling group {self.name} has no running instance after {timeout} s. Auto Scaling says: {said}"
        )

    def delete(self) -> list[str]:
        """Delete the group and its instances; returns the instances."""
        group = self.describe() or {}
        if group.get("Status") is None:
            self.autoscaling.delete_auto_scaling_group(AutoScalingGroupName=self.name, ForceDelete=True)
        return [item["InstanceId"] for item in group.get("Instances") or []]

    def wait_for_end(self, instances: list[str], timeout: int) -> None:
        """Wait until the group and its instances are gone."""
        deadline = time.monotonic() + timeout
        while self.describe() is not None or self._living(instances):
            if time.monotonic() >= deadline:
                raise Trouble(
                    f"The Auto Scaling group {self.name} is still there {timeout} s after its deletion began."
                )
            time.sleep(POLL_S)

    def _living(self, instances: list[str]) -> bool:
        if not instances:
            return False
        states = ["pending", "running", "shutting-down", "stopping", "stopped"]
        filters = [{"Name": "instance-id", "Values": instances}, {"Name": "instance-state-name", "Values": states}]
        return bool(self.ec2.describe_instances(Filters=filters)["Reservations"])


def ensure_present(module: AnsibleAWSModule, group: AutoscalingHost) -> dict[str, Any]:
    """The task's result for state=present."""
    wanted = wanted_settings(module.params)
    latest = group.latest_version(wanted["launch_template"])
    deadline = time.monotonic() + PATIENCE_S
    while not latest and not module.check_mode and time.monotonic() < deadline:
        time.sleep(POLL_S)
        latest = group.latest_version(wanted["launch_template"])
    if not latest and not module.check_mode:
        raise Trouble(f"There is no launch template called {wanted['launch_template']}.")
    described = group.describe()
    if described and described.get("Status") and not module.check_mode:
        # It is being deleted: only once that has ended can there be a new one of the same name.
        group.wait_for_end([], module.params["wait_timeout"])
        described = None
    hook = module.params["termination_hook"]
    before = present_settings(described, group.hooks(hook) if hook else None) if described else None
    if before and module.params["fallback"]:
        before["size"][1] = None
    changed = before != wanted
    if changed and not module.check_mode:
        group.apply(before, wanted)
    if module.params["wait"] and not module.params["fallback"] and not module.check_mode:
        host: dict[str, Any] | None = group.wait_for_host(module.params["wait_timeout"])
    else:
        host = group.host_or_fallback(described)
    result: dict[str, Any] = {"changed": changed, "settings": wanted, "instance_id": host["InstanceId"] if host else ""}
    result["diff"] = {"before": before or {}, "after": wanted}
    if latest:
        result["latest_version"] = latest
    result["instance"] = camel_dict_to_snake_dict(host["Described"], ignore_list=["Tags"]) if host else {}
    if host:
        result["group_name"] = host["Group"]
        result["template_version"] = str((host.get("LaunchTemplate") or {}).get("Version", ""))
    return result


def ensure_absent(module: AnsibleAWSModule, group: AutoscalingHost) -> dict[str, Any]:
    """The task's result for state=absent."""
    described = group.describe()
    if described is None:
        return {"changed": False, "instance_id": ""}
    if not module.check_mode:
        instances = group.delete()
        if module.params["wait"]:
            group.wait_for_end(instances, module.params["wait_timeout"])
    return {"changed": True, "instance_id": "", "diff": {"before": present_settings(described), "after": {}}}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "launch_template": {"type": "str"},
            "instance_types": {"type": "list", "elements": "str", "default": []},
            "subnet_ids": {"type": "list", "elements": "str", "default": []},
            "market": {"type": "str", "choices": ["spot", "on_demand"], "default": "spot"},
            "max_price": {"type": "str", "default": ""},
            "capacity_rebalance": {"type": "bool", "default": False},
            "health_check_grace_period": {"type": "int", "default": 120},
            "fallback": {"type": "bool", "default": False},
            "fallback_group": {"type": "str", "default": ""},
            "termination_hook": {"type": "str", "default": ""},
            "termination_hook_timeout": {"type": "int", "default": 300},
            "tags": {"type": "dict", "default": {}},
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 300},
        },
        required_if=[("state", "present", ["launch_template", "instance_types", "subnet_ids"])],
        supports_check_mode=True,
    )
    params = module.params
    group = AutoscalingHost(
        module.client("autoscaling"), module.client("ec2"), params["name"], params["fallback_group"]
    )
    ensure = ensure_present if params["state"] == "present" else ensure_absent
    finish(module, lambda: ensure(module, group), f"The Auto Scaling group {group.name} cannot be managed")


if __name__ == "__main__":
    main()
