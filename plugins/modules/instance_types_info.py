#!/usr/bin/python
"""What EC2 instance types are, and in which zones they can be had."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: instance_types_info
short_description: What EC2 instance types are and in which zones they can be had
version_added: 0.1.0
author: The spotcache team
description:
  - Describes instance types of a region, and says which of the asked names no type has.
  - amazon.aws has such a module from release 11 on; this one also works with release 10, and adds the zones.
options:
  names:
    description: Names of instance types.
    type: list
    elements: str
    required: true
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Look two types up
  spotcache.redis.instance_types_info:
    names: [t3.small, m7g.medium]
    region: ap-northeast-1
"""

RETURN = r"""
instance_types:
  description: The types that exist, in the order asked for.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the type.
      type: str
    memory_mib:
      description: Memory.
      type: int
    vcpus:
      description: Virtual processors.
      type: int
    architectures:
      description: Processor architectures.
      type: list
      elements: str
    burstable:
      description: Whether the type lives on CPU credits.
      type: bool
    spot:
      description: Whether it is sold on the Spot market.
      type: bool
    zones:
      description: Availability zones that offer it.
      type: list
      elements: str
unknown:
  description: The names that no type of the region has.
  returned: always
  type: list
  elements: str
"""

import contextlib
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule


def described(record: dict[str, Any], zones: list[str]) -> dict[str, Any]:
    """AWS's record of a type in this module's words."""
    return {
        "name": record["InstanceType"],
        "memory_mib": int(record["MemoryInfo"]["SizeInMiB"]),
        "vcpus": int(record["VCpuInfo"]["DefaultVCpus"]),
        "architectures": list(record["ProcessorInfo"]["SupportedArchitectures"]),
        "burstable": bool(record.get("BurstablePerformanceSupported")),
        "spot": "spot" in record.get("SupportedUsageClasses", []),
        "zones": sorted(zones),
    }


def look_up(client: Any, names: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The types that exist, in the order asked for, and the names that do not."""
    wanted = list(dict.fromkeys(names))
    filters = [{"Name": "instance-type", "Values": wanted}]
    records: dict[str, dict[str, Any]] = {}
    for page in client.get_paginator("describe_instance_types").paginate(Filters=filters):
        records.update({record["InstanceType"]: record for record in page["InstanceTypes"]})
    zones: dict[str, list[str]] = {}
    offerings = client.get_paginator("describe_instance_type_offerings")
    for page in offerings.paginate(LocationType="availability-zone", Filters=filters):
        for offering in page["InstanceTypeOfferings"]:
            zones.setdefault(offering["InstanceType"], []).append(offering["Location"])
    found = [described(records[name], zones.get(name, [])) for name in wanted if name in records]
    return found, [name for name in wanted if name not in records]


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={"names": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    try:
        found, unknown = look_up(module.client("ec2"), module.params["names"])
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg="The instance types cannot be looked up")
    module.exit_json(changed=False, instance_types=found, unknown=unknown)


if __name__ == "__main__":
    main()
