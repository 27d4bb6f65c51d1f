#!/usr/bin/python
"""Whether SSM keeps a parameter, and on request its value."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: ssm_parameter_info
short_description: Whether SSM keeps a parameter
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Says whether the Parameter Store has a parameter and of which type. Its value is asked for and returned only where
    O(value) says so.
options:
  name:
    description: Name of the parameter.
    type: str
    required: true
  value:
    description: Return the value as well, in clear text. Hide the task then (C(no_log)).
    type: bool
    default: false
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Look whether a webhook was stored
  spotcache.redis.ssm_parameter_info:
    name: /spotcache/stg/slack-webhook
"""

RETURN = r"""
exists:
  description: Whether there is such a parameter.
  returned: always
  type: bool
type:
  description: Its type, empty without one.
  returned: always
  type: str
  sample: SecureString
value:
  description: Its value, empty without one.
  returned: when O(value) is true
  type: str
"""

import contextlib

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={"name": {"type": "str", "required": True}, "value": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )
    name, wanted = module.params["name"], module.params["value"]
    client = module.client("ssm")
    kind = value = ""
    try:
        found = client.get_parameter(Name=name, WithDecryption=wanted)["Parameter"]
        kind, value = found["Type"], found["Value"]
    except client.exceptions.ParameterNotFound:
        pass
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg=f"The parameter {name} cannot be looked up")
    module.exit_json(changed=False, exists=bool(kind), type=kind, **({"value": value} if wanted else {}))


if __name__ == "__main__":
    main()
