#!/usr/bin/python
"""Which permissions of a policy document the caller lacks."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: permissions_info
short_description: Which permissions of a policy document the caller lacks
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Asks IAM's policy simulator, for each statement of a policy document, whether the credentials in use may do what it
    allows. Nothing is changed, and none of the actions is tried.
  - Needs C(iam:SimulatePrincipalPolicy) on the caller itself. Where that is missing, RV(checked) is false and
    RV(reason) says why; the caller may still have every permission.
  - The simulator knows identity policies, permission boundaries and service control policies; bucket and key policies
    are not asked.
  - It is told the region, that the request is encrypted and, of temporary credentials, that they are of a session with
    multi-factor authentication. From which address AWS sees a request come cannot be told. What an explicit denial
    refuses is therefore not certain, and stands in RV(uncertain) and not in RV(denied).
options:
  policy:
    description: The policy document. Actions with a wildcard are not asked about.
    type: dict
    required: true
  samples:
    description:
      - What to put for patterns, since the simulator is asked about single resources. A key is a whole resource pattern
        or condition value of the document, V(region), or V(*) for every other wildcard.
    type: dict
    default: {}
  boundary:
    description:
      - A permissions boundary, a managed policy's ARN or its name in this account, of which is to be told whether it is
        there. Empty for none.
    type: str
    default: ""
  roles:
    description:
      - Names of IAM roles that may be there or not. It is asked along with the rest whether they are, so that a play
        need not look for everything that was made together with one.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: See what is missing
  spotcache.redis.permissions_info:
    policy: "{{ lookup('ansible.builtin.file', 'operator-policy.json') | ansible.builtin.from_json }}"
    samples:
      "*": stg
      "arn:aws:s3:::spotcache-*": arn:aws:s3:::example-backups
"""

RETURN = r"""
caller:
  description: ARN of the caller.
  returned: always
  type: str
account:
  description: Number of the account.
  returned: always
  type: str
checked:
  description: Whether the simulator could be asked.
  returned: always
  type: bool
reason:
  description: Why it could not be asked.
  returned: always
  type: str
roles:
  description:
    - Those of O(roles) that there are. One that the caller may not ask about is taken to be there.
  returned: always
  type: list
  elements: str
boundary:
  description: The ARN of O(boundary); empty for none.
  returned: always
  type: str
boundary_there:
  description: Whether there is that policy, or it may not be asked.
  returned: always
  type: bool
uncertain:
  description:
    - What an explicit denial refuses, perhaps only under conditions that the simulator was not told of.
    - What may be allowed from where the requests come, which only AWS sees (C(aws:SourceIp) and its like).
  returned: always
  type: list
  elements: dict
denied:
  description: What nothing allows.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: The action.
      type: str
    resource:
      description: The resource asked about.
      type: str
    decision:
      description: The simulator's word.
      type: str
"""

import contextlib
import functools
import os
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
    from botocore.parsers import ResponseParserError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.permissions import (
    Question,
    circumstances,
    is_uncertain,
    principal,
    questions,
    refused,
)
from ansible_collections.spotcache.redis.plugins.module_utils.questions import ask_all


def source_arn(client: Any, arn: str) -> str:
    """ARN of the user or role whose policies decide; a role's path is not in its session's ARN."""
    source = principal(arn)
    if ":assumed-role/" in arn and source:
        with contextlib.suppress(ClientError):
            return str(client.get_role(RoleName=source.rsplit("/", 1)[1])["Role"]["Arn"])
    return source


def ask(client: Any, source: str, question: Question) -> list[dict[str, str]]:
    """What of a question is denied."""
    pages = client.get_paginator("simulate_principal_policy").paginate(
        PolicySourceArn=source,
        ActionNames=list(question.actions),
        ResourceArns=list(question.resources),
        ContextEntries=list(question.context),
    )
    return [denial for page in pages for denial in refused(page["EvaluationResults"])]


def there(client: Any, role: str) -> bool:
    """Whether there is a role of that name, or it cannot be told."""
    try:
        client.get_role(RoleName=role)
    except ClientError as error:
        return error.response.get("Error", {}).get("Code") not in ("NoSuchEntity", "NoSuchEntityException")
    return True


def boundary_arn(boundary: str, caller: str, account: str) -> str:
    """The ARN of a managed policy of the caller's account that is given by ARN or by name."""
    if not boundary or boundary.startswith("arn:"):
        return boundary
    return f"arn:{caller.split(':')[1]}:iam::{account}:policy/{boundary}"


def policy_there(client: Any, arn: str) -> bool:
    """Whether there is a managed policy, or it cannot be told."""
    try:
        client.get_policy(PolicyArn=arn)
    except ClientError as error:
        return error.response.get("Error", {}).get("Code") not in ("NoSuchEntity", "NoSuchEntityException")
    return True


def temporary(module: Any, arn: str) -> bool:
    """Whether the credentials are of a session: a role's, or a user's with a token."""
    token = module.params.get("session_token") or os.environ.get("AWS_SESSION_TOKEN")
    return ":user/" not in arn or bool(token)


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "policy": {"type": "dict", "required": True},
            "samples": {"type": "dict", "default": {}},
            "boundary": {"type": "str", "default": ""},
            "roles": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        identity = module.client("sts").get_caller_identity()
    except (NoCredentialsError, PartialCredentialsError) as error:
        module.fail_json_aws(
            error,
            msg=(
                "There are no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the "
                "environment or in spotcache_aws_environment, or run where an instance role gives them"
            ),
        )
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg="AWS does not accept the credentials, or cannot be reached")
    arn, account = str(identity["Arn"]), str(identity["Account"])
    boundary = boundary_arn(module.params["boundary"], arn, account)
    result: dict[str, Any] = {"caller": arn, "account": account, "checked": True, "reason": "", "denied": []}
    result |= {"uncertain": [], "boundary": boundary, "boundary_there": True}
    client = module.client("iam")
    try:
        looks = {role: functools.partial(there, client, role) for role in module.params["roles"]}
        if boundary:
            looks[boundary] = functools.partial(policy_there, client, boundary)
        found = ask_all(looks)
    except BotoCoreError as error:
        module.fail_json_aws(error, msg="IAM cannot be reached")
    result["roles"] = [role for role in module.params["roles"] if found[role]]
    result["boundary_there"] = found.get(boundary, True)
    if arn.endswith(":root"):
        module.exit_json(changed=False, **result)

    source = source_arn(client, arn)
    samples = {str(key): str(value) for key, value in module.params["samples"].items()}
    try:
        if not source:
            raise ValueError(f"the policies of {arn} cannot be simulated")
        always = circumstances(samples.get("region", ""), temporary(module, arn))
        refusals = []
        for question in questions(module.params["policy"], samples, account, arn.split(":")[1], always):
            refusals += ask(client, source, question) if question.actions else []
        for refusal in refusals:
            result["uncertain" if is_uncertain(refusal["decision"]) else "denied"].append(refusal)
    except KeyError as error:
        module.fail_json(msg=f"policy is no policy document: it has no {error}")
    except ResponseParserError:
        result.update(checked=False, reason="the endpoint in use has no policy simulator")
    except (ValueError, ClientError, BotoCoreError) as error:
        result.update(checked=False, reason=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
