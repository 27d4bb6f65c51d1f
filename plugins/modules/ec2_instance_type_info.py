#!/usr/bin/python
"""What the instance types are from which a host may be chosen, and the image that fits them."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ec2_instance_type_info
short_description: What instance types and images there are to choose a host from
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Describes instance types of a region, says which of the asked names no type has, and finds an image for them.
options:
  instance_types:
    description: Names of instance types.
    type: list
    elements: str
    required: true
  image_id:
    description: The image. Empty means the newest of O(image_owner) called O(image_name).
    type: str
    default: ''
  image_owner:
    description: Account that publishes images.
    type: str
    default: ''
  image_name:
    description:
      - Name of its images, with C(*) for any text. C({architecture}) stands for C(amd64) or C(arm64), whichever the
        instance types have.
    type: str
    default: ''
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: Look two types up, and Debian's newest image for them
  spotcache.redis.ec2_instance_type_info:
    instance_types: [t3.small, t3a.small]
    image_owner: "136693071363"
    image_name: debian-12-{architecture}-*
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
    hypervisor:
      description: What its instances run on, V(nitro) or V(xen); empty for bare metal.
      type: str
    zones:
      description: Availability zones that offer it.
      type: list
      elements: str
unknown:
  description: The names that no type of the region has.
  returned: always
  type: list
  elements: str
image:
  description: The image that fits all types; empty when there is none.
  returned: always
  type: dict
  contains:
    image_id:
      description: Its id.
      type: str
    architecture:
      description: Processor architecture.
      type: str
    root_device_name:
      description: Device name of the root volume.
      type: str
"""

import contextlib
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.questions import ask_all

# 32-bit x86 is left out: no image of today has it.
NAMES = {"x86_64": "amd64", "arm64": "arm64"}


def described(record: dict[str, Any], zones: list[str]) -> dict[str, Any]:
    """AWS's record of a type in this module's words."""
    return {
        "name": record["InstanceType"],
        "memory_mib": int(record["MemoryInfo"]["SizeInMiB"]),
        "vcpus": int(record["VCpuInfo"]["DefaultVCpus"]),
        "architectures": [name for name in record["ProcessorInfo"]["SupportedArchitectures"] if name in NAMES],
        "burstable": bool(record.get("BurstablePerformanceSupported")),
        "spot": "spot" in record.get("SupportedUsageClasses", []),
        "hypervisor": "" if record.get("BareMetal") else str(record.get("Hypervisor") or ""),
        "zones": sorted(zones),
    }


def look_up_types(client: Any, names: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The types that exist, in the order asked for, and the names that do not."""
    wanted = list(dict.fromkeys(names))
    filters = [{"Name": "instance-type", "Values": wanted}]

    def pages(operation: str, key: str, **arguments: Any) -> list[dict[str, Any]]:
        return [
            item
            for page in client.get_paginator(operation).paginate(Filters=filters, **arguments)
            for item in page[key]
        ]

    answers = ask_all(
        {
            "types": lambda: pages("describe_instance_types", "InstanceTypes"),
            "offerings": lambda: pages(
                "describe_instance_type_offerings", "InstanceTypeOfferings", LocationType="availability-zone"
            ),
        }
    )
    records = {record["InstanceType"]: record for record in answers["types"]}
    zones: dict[str, list[str]] = {}
    for offering in answers["offerings"]:
        zones.setdefault(offering["InstanceType"], []).append(offering["Location"])
    found = [described(records[name], zones.get(name, [])) for name in wanted if name in records]
    return found, [name for name in wanted if name not in records]


def find_image(client: Any, params: dict[str, Any], types: list[dict[str, Any]]) -> dict[str, Any]:
    """The given image, or the newest of that name, if every type can boot it."""
    fits = set(NAMES).intersection(*(kind["architectures"] for kind in types))
    if params["image_id"]:
        # By filter: an unknown id is then an empty list and no error.
        images = client.describe_images(Filters=[{"Name": "image-id", "Values": [params["image_id"]]}])["Images"]
    elif fits:
        name = params["image_name"].replace("{architecture}", NAMES[min(fits)])
        filters = [{"Name": "name", "Values": [name]}, {"Name": "state", "Values": ["available"]}]
        images = client.describe_images(Owners=[params["image_owner"]], Filters=filters)["Images"]
    else:
        images = []
    images = [image for image in images if image.get("Architecture") in fits]
    if not images:
        return {}
    newest = max(images, key=lambda image: (image.get("CreationDate") or "", image["ImageId"]))
    return {
        "image_id": newest["ImageId"],
        "architecture": newest["Architecture"],
        "root_device_name": newest["RootDeviceName"],
    }


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "instance_types": {"type": "list", "elements": "str", "required": True},
            "image_id": {"type": "str", "default": ""},
            "image_owner": {"type": "str", "default": ""},
            "image_name": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    client = module.client("ec2")
    try:
        types, unknown = look_up_types(client, module.params["instance_types"])
        image = find_image(client, module.params, types) if types else {}
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg="The instance types and images cannot be looked up")
    module.exit_json(changed=False, instance_types=types, unknown=unknown, image=image)


if __name__ == "__main__":
    main()
