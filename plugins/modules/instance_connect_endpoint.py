#!/usr/bin/python
"""The EC2 Instance Connect Endpoint of a VPC."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: instance_connect_endpoint
short_description: The EC2 Instance Connect Endpoint of a VPC
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Makes an EC2 Instance Connect Endpoint, through which hosts without a public address are reached by SSH with AWS
    credentials alone, or deletes it. It costs nothing.
  - EC2 allows one in a VPC. One that does not carry O(name) belongs to somebody else; it is returned and never changed.
    One that does may have been made for another environment in the VPC, which shares it.
  - The collection amazon.aws has no module for it.
options:
  state:
    description: Whether there is to be one.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Its tag C(Name), by which it is known to be ours.
    type: str
    required: true
  vpc_id:
    description: The VPC.
    type: str
    required: true
  subnet_id:
    description: The subnet in which it is made. One that is there stays where it is.
    type: str
  security_group_ids:
    description: Its security groups.
    type: list
    elements: str
  tags:
    description: Further tags. Those that it has already stay as they are, for others may have made it.
    type: dict
    default: {}
  wait:
    description: Whether to wait until it can be used, or is gone.
    type: bool
    default: true
  wait_timeout:
    description: For how many seconds at the longest. AWS takes a few minutes.
    type: int
    default: 900
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Says what would be changed.
    support: full
  diff_mode:
    description: Shows subnet, groups and tags.
    support: full
"""

EXAMPLES = r"""
- name: Reach the hosts of a VPC with AWS credentials alone
  spotcache.redis.instance_connect_endpoint:
    name: spotcache-stg
    vpc_id: vpc-0123456789abcdef0
    subnet_id: subnet-0aaaaaaaaaaaaaaa1
    security_group_ids: [sg-0123456789abcdef0]
    tags:
      spotcache:environment: stg

- name: Have it no longer
  spotcache.redis.instance_connect_endpoint:
    name: spotcache-stg
    vpc_id: vpc-0123456789abcdef0
    state: absent
"""

RETURN = r"""
endpoint:
  description: The VPC's endpoint; empty without one.
  returned: always
  type: dict
  contains:
    id:
      description: Its id.
      type: str
    state:
      description: EC2's word for its state.
      type: str
      sample: create-complete
    state_message:
      description: What EC2 says about the state.
      type: str
    usable:
      description: Whether tunnels can be opened.
      type: bool
    dns_name:
      description: Where tunnels are opened.
      type: str
    subnet_id:
      description: Its subnet.
      type: str
    zone:
      description: Its zone.
      type: str
    security_group_ids:
      description: Its security groups.
      type: list
      elements: str
    preserve_client_ip:
      description: Whether hosts see the client's address in place of the endpoint's.
      type: bool
    tags:
      description: Its tags.
      type: dict
    managed:
      description: Whether it is ours.
      type: bool
"""

import contextlib
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble, finish
from ansible_collections.spotcache.redis.plugins.module_utils.instance_connect import (
    BROKEN,
    LEAVING,
    described,
    find,
    is_ours,
    wait_until,
)
from ansible_collections.spotcache.redis.plugins.module_utils.questions import tags_of

KIND = "instance-connect-endpoint"


def wanted_tags(params: dict[str, Any]) -> dict[str, str]:
    """All tags that it carries."""
    return {**{str(key): str(value) for key, value in params["tags"].items()}, "Name": params["name"]}


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """Tags as AWS takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def shown(record: dict[str, Any] | None) -> dict[str, Any]:
    """One side of the diff."""
    if record is None:
        return {}
    return {
        "subnet_id": record.get("SubnetId") or "",
        "security_group_ids": sorted(record.get("SecurityGroupIds") or []),
        "tags": tags_of(record),
    }


def wait_gone(ec2: Any, params: dict[str, Any], endpoint_id: str) -> None:
    """Wait until EC2 no longer shows it."""

    def gone() -> bool:
        record = find(ec2, params["vpc_id"])
        if record is not None and record["InstanceConnectEndpointId"] == endpoint_id and record["State"] in BROKEN:
            raise Trouble(f"EC2 could not delete {endpoint_id}: {record.get('StateMessage') or 'it gives no reason'}")
        return record is None or record["InstanceConnectEndpointId"] != endpoint_id

    wait_until(gone, params["wait_timeout"], f"The EC2 Instance Connect Endpoint {endpoint_id} was not deleted")


def remove(ec2: Any, endpoint_id: str) -> None:
    """Begin to delete it. One that has gone by itself is no error."""
    try:
        ec2.delete_instance_connect_endpoint(InstanceConnectEndpointId=endpoint_id)
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidInstanceConnectEndpointId.NotFound":
            raise


def make(ec2: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Make one, with its tags from the beginning, and wait if that is asked for."""
    record: dict[str, Any] = ec2.create_instance_connect_endpoint(
        SubnetId=params["subnet_id"],
        SecurityGroupIds=params["security_group_ids"],
        PreserveClientIp=False,
        TagSpecifications=[{"ResourceType": KIND, "Tags": tag_list(wanted_tags(params))}],
    )["InstanceConnectEndpoint"]
    latest = [record]

    def complete() -> bool:
        # What was made a moment ago may not be shown yet.
        latest[0] = find(ec2, params["vpc_id"]) or latest[0]
        if latest[0]["State"] == "create-failed":
            raise Trouble(
                f"EC2 could not make {record['InstanceConnectEndpointId']}: "
                f"{latest[0].get('StateMessage') or 'it gives no reason'}"
            )
        return bool(latest[0]["State"] != "create-in-progress")

    if params["wait"]:
        what = f"The EC2 Instance Connect Endpoint {record['InstanceConnectEndpointId']} was not ready"
        wait_until(complete, params["wait_timeout"], what)
    return latest[0]


def change(ec2: Any, record: dict[str, Any], params: dict[str, Any]) -> None:
    """Bring one that is there to what is asked for."""
    endpoint_id = record["InstanceConnectEndpointId"]
    missing = {key: value for key, value in wanted_tags(params).items() if key not in tags_of(record)}
    if missing:
        ec2.create_tags(Resources=[endpoint_id], Tags=tag_list(missing))
    if set(record.get("SecurityGroupIds") or []) != set(params["security_group_ids"]):
        ec2.modify_instance_connect_endpoint(
            InstanceConnectEndpointId=endpoint_id, SecurityGroupIds=params["security_group_ids"]
        )


def ensure_present(module: AnsibleAWSModule, ec2: Any) -> dict[str, Any]:
    """The task's result for state=present."""
    params = module.params
    record = find(ec2, params["vpc_id"])
    before = shown(record)
    if record is not None and record["State"] != LEAVING and not is_ours(record, params["name"]):
        return {"changed": False, "endpoint": described(record, params["name"])}
    if record is not None and (record["State"] == LEAVING or record["State"] in BROKEN):
        # It makes room for a new one.
        if not module.check_mode:
            if record["State"] in BROKEN:
                remove(ec2, record["InstanceConnectEndpointId"])
            wait_gone(ec2, params, record["InstanceConnectEndpointId"])
        record, before = None, {}
    after = {
        "subnet_id": before.get("subnet_id") or params["subnet_id"],
        "security_group_ids": sorted(params["security_group_ids"]),
        "tags": {**wanted_tags(params), **before.get("tags", {})},
    }
    changed = before != after
    if changed and not module.check_mode:
        if record is None:
            record = make(ec2, params)
        else:
            change(ec2, record, params)
            record = find(ec2, params["vpc_id"]) or record
    return {
        "changed": changed,
        "endpoint": described(record, params["name"]),
        "diff": {"before": before, "after": after},
    }


def ensure_absent(module: AnsibleAWSModule, ec2: Any) -> dict[str, Any]:
    """The task's result for state=absent."""
    params = module.params
    record = find(ec2, params["vpc_id"])
    if record is None or not is_ours(record, params["name"]):
        return {"changed": False, "endpoint": described(record, params["name"])}
    leaving = record["State"] == LEAVING
    if not module.check_mode:
        if not leaving:
            remove(ec2, record["InstanceConnectEndpointId"])
        if params["wait"]:
            wait_gone(ec2, params, record["InstanceConnectEndpointId"])
    return {"changed": not leaving, "endpoint": {}, "diff": {"before": shown(record), "after": {}}}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str", "required": True},
            "vpc_id": {"type": "str", "required": True},
            "subnet_id": {"type": "str"},
            "security_group_ids": {"type": "list", "elements": "str"},
            "tags": {"type": "dict", "default": {}},
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 900},
        },
        required_if=[("state", "present", ["subnet_id", "security_group_ids"])],
        supports_check_mode=True,
    )
    ensure = ensure_present if module.params["state"] == "present" else ensure_absent
    finish(
        module,
        lambda: ensure(module, module.client("ec2")),
        f"The EC2 Instance Connect Endpoint of {module.params['vpc_id']} cannot be managed",
    )


if __name__ == "__main__":
    main()
