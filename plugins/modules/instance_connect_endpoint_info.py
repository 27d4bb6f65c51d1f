#!/usr/bin/python
"""What EC2 Instance Connect Endpoint a VPC has."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: instance_connect_endpoint_info
short_description: What EC2 Instance Connect Endpoint a VPC has
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Looks up the EC2 Instance Connect Endpoint of a VPC, whoever has made it.
options:
  vpc_id:
    description: The VPC.
    type: str
    required: true
  name:
    description: The tag C(Name) by which one is known to be ours.
    type: str
    default: ''
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: Wait until the endpoint can be used
  spotcache.redis.instance_connect_endpoint_info:
    vpc_id: vpc-0123456789abcdef0
  register: answer
  until: answer.endpoint.usable | default(false)
  retries: 60
  delay: 5
"""

RETURN = r"""
endpoint:
  description: The VPC's endpoint, as M(spotcache.redis.instance_connect_endpoint) returns it; empty without one.
  returned: always
  type: dict
"""

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import finish
from ansible_collections.spotcache.redis.plugins.module_utils.instance_connect import described, find


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={"vpc_id": {"type": "str", "required": True}, "name": {"type": "str", "default": ""}},
        supports_check_mode=True,
    )
    vpc_id, name = module.params["vpc_id"], module.params["name"]
    finish(
        module,
        lambda: {"changed": False, "endpoint": described(find(module.client("ec2"), vpc_id), name)},
        f"The EC2 Instance Connect Endpoint of {vpc_id} cannot be looked up",
    )


if __name__ == "__main__":
    main()
