#!/usr/bin/python
"""What there is of a host's role, key and launch template, and which of them are not as they should be."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: spot_host_info
short_description: What of a host's role, key and launch template is not as it should be
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Looks at the IAM role with its profile, the key pair and the launch template of a host, at once, and says which of
    them differ from what is wanted.
  - The role spot_host then runs only the steps for those.
  - When in doubt a part counts as differing. The steps themselves change only what has to be changed.
options:
  name:
    description: Name of the role, its policy, the instance profile and the launch template.
    type: str
    required: true
  description:
    description: Description of the role.
    type: str
    default: ''
  trust:
    description: The role's trust policy.
    type: dict
    required: true
  policy:
    description: The role's inline policy.
    type: dict
    required: true
  boundary:
    description: ARN of its permissions boundary; empty means that whatever there is stays.
    type: str
    default: ''
  key_name:
    description: Name of the key pair.
    type: str
    required: true
  template_description:
    description:
      - Description of the launch template's latest version. Versions never change, so one that tells what went in is
        all that has to be compared.
    type: str
    required: true
  tags:
    description: Tags that all of them carry.
    type: dict
    required: true
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: See what has to be done
  spotcache.redis.spot_host_info:
    name: spotcache-stg
    trust: "{{ lookup('ansible.builtin.file', 'trust.json') | ansible.builtin.from_json }}"
    policy: "{{ lookup('ansible.builtin.file', 'policy.json') | ansible.builtin.from_json }}"
    key_name: spotcache-stg-0123456789ab
    template_description: 8f3c2d
    tags:
      spotcache:environment: stg
"""

RETURN = r"""
differing:
  description: The parts that are missing or different.
  returned: always
  type: list
  elements: str
  sample: [template]
  choices: [profile, key, template]
"""

import contextlib
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.questions import ask_all, has_tags, only

PARTS = ("profile", "key", "template")


class Inspection:
    """The questions, each answered with whether the part is right."""

    def __init__(self, iam: Any, ec2: Any, params: dict[str, Any]) -> None:
        self.iam = iam
        self.ec2 = ec2
        self.params = params
        self.name = str(params["name"])
        self.tags = {str(key): str(value) for key, value in params["tags"].items()}

    def role(self) -> bool:
        """The role itself."""
        role = self.iam.get_role(RoleName=self.name)["Role"]
        boundary = (role.get("PermissionsBoundary") or {}).get("PermissionsBoundaryArn", "")
        return (
            role["AssumeRolePolicyDocument"] == self.params["trust"]
            and role.get("Description", "") == self.params["description"]
            and self.params["boundary"] in ("", boundary)
            and has_tags(role, self.tags)
        )

    def policy(self) -> bool:
        """Its inline policy."""
        found = self.iam.get_role_policy(RoleName=self.name, PolicyName=self.name)
        return bool(found["PolicyDocument"] == self.params["policy"])

    def profile(self) -> bool:
        """The instance profile with the role in it."""
        profile = self.iam.get_instance_profile(InstanceProfileName=self.name)["InstanceProfile"]
        return [role["RoleName"] for role in profile["Roles"]] == [self.name] and has_tags(profile, self.tags)

    def key(self) -> bool:
        """The key pair."""
        filters = [{"Name": "key-name", "Values": [self.params["key_name"]]}]
        pair = only(self.ec2.describe_key_pairs(Filters=filters)["KeyPairs"])
        return pair is not None and has_tags(pair, self.tags)

    def template(self) -> bool:
        """The launch template and its latest version, which is also the default one."""
        filters = [{"Name": "launch-template-name", "Values": [self.name]}]
        template = only(self.ec2.describe_launch_templates(Filters=filters)["LaunchTemplates"])
        if template is None or not has_tags(template, self.tags):
            return False
        if template["LatestVersionNumber"] != template["DefaultVersionNumber"]:
            return False
        latest = self.ec2.describe_launch_template_versions(
            LaunchTemplateId=template["LaunchTemplateId"], Versions=["$Latest"]
        )["LaunchTemplateVersions"]
        return [version.get("VersionDescription") for version in latest] == [self.params["template_description"]]

    def differing(self) -> list[str]:
        """The parts that are not right."""
        right = ask_all(
            {
                "role": lambda: there(self.role),
                "policy": lambda: there(self.policy),
                "profile": lambda: there(self.profile),
                "key": self.key,
                "template": self.template,
            }
        )
        right["profile"] = right["role"] and right["policy"] and right["profile"]
        return [part for part in PARTS if not right[part]]


def there(question: Any) -> bool:
    """The answer of IAM; what it does not know is not right."""
    try:
        return bool(question())
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "NoSuchEntity":
            return False
        raise


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "description": {"type": "str", "default": ""},
            "trust": {"type": "dict", "required": True},
            "policy": {"type": "dict", "required": True},
            "boundary": {"type": "str", "default": ""},
            "key_name": {"type": "str", "required": True, "no_log": False},
            "template_description": {"type": "str", "required": True},
            "tags": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    look = Inspection(module.client("iam"), module.client("ec2"), module.params)
    try:
        differing = look.differing()
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg=f"The host {look.name} cannot be looked at")
    module.exit_json(changed=False, differing=differing)


if __name__ == "__main__":
    main()
