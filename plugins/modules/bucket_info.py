#!/usr/bin/python
"""How safe a bucket for backups is: versions, locks, TLS, public access."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: bucket_info
short_description: How safe a bucket for backups is
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Says of one bucket whether it is there, and of one that is what M(amazon.aws.s3_bucket_info) says of it as well, and
    whether it has Object Lock, which that module does not tell.
  - Lists no other buckets, so it needs no permission to.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.attributes.read_only
  - spotcache.redis.bucket
"""

EXAMPLES = r"""
- name: Look at the bucket
  spotcache.redis.bucket_info:
    bucket: spotcache-stg-backups-example
    region: ap-northeast-1
  register: found

- name: Check that nothing in it can be lost
  ansible.builtin.assert:
    that: found.exists and found.versioned and found.object_lock
"""

RETURN = r"""
exists:
  description: Whether there is such a bucket. Without one, everything else is empty or false.
  returned: always
  type: bool
empty:
  description: Whether it holds nothing, not even older versions.
  returned: always
  type: bool
tags:
  description: Its tags.
  returned: always
  type: dict
versioned:
  description: Whether what is overwritten or deleted stays as an older version.
  returned: always
  type: bool
object_lock:
  description: Whether versions in it can be locked.
  returned: always
  type: bool
public_access_blocked:
  description: Whether all four kinds of public access are blocked.
  returned: always
  type: bool
tls_only:
  description: Whether its policy refuses everybody who asks without TLS.
  returned: always
  type: bool
policy:
  description: Its policy's statements.
  returned: always
  type: list
  elements: dict
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

NOTHING: dict[str, Any] = {
    "exists": False,
    "empty": False,
    "tags": {},
    "versioned": False,
    "object_lock": False,
    "public_access_blocked": False,
    "tls_only": False,
    "policy": [],
}
# What S3 says of a bucket that has none of what is asked for.
UNSET = (
    "NoSuchBucketPolicy",
    "NoSuchPublicAccessBlockConfiguration",
    "NoSuchTagSet",
    "ObjectLockConfigurationNotFoundError",
)


def listed(value: Any) -> list[Any]:
    """A policy's element, which may be one thing or a list."""
    return value if isinstance(value, list) else [value]


def is_tls_only(statements: Sequence[Mapping[str, Any]], bucket: str) -> bool:
    """Whether a statement refuses everybody everything in the bucket without TLS."""
    for one in statements:
        condition = {
            operator: {key.lower(): [str(value).lower() for value in listed(values)] for key, values in pairs.items()}
            for operator, pairs in (one.get("Condition") or {}).items()
        }
        everybody = one.get("Principal") in ("*", {"AWS": "*"}, {"AWS": ["*"]})
        resources = {str(arn).rpartition(":::")[2] for arn in listed(one.get("Resource", []))}
        everything = "*" in resources or {bucket, f"{bucket}/*"} <= resources or f"{bucket}*" in resources
        if (
            one.get("Effect") == "Deny"
            and everybody
            and everything
            and {"s3:*", "*"} & {str(action).lower() for action in listed(one.get("Action", []))}
            and condition == {"Bool": {"aws:securetransport": ["false"]}}
        ):
            return True
    return False


def described(client: Any, bucket: str) -> dict[str, Any]:
    """What there is to say of a bucket that exists."""

    def asked(call: Callable[..., Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = call(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in UNSET:
                raise
            return {}
        return answer

    policy = json.loads(asked(client.get_bucket_policy).get("Policy") or '{"Statement": []}')
    block = asked(client.get_public_access_block).get("PublicAccessBlockConfiguration", {})
    versions = client.list_object_versions(Bucket=bucket, MaxKeys=1)
    kinds = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    lock = asked(client.get_object_lock_configuration).get("ObjectLockConfiguration", {})
    return {
        "exists": True,
        "empty": not versions.get("Versions") and not versions.get("DeleteMarkers"),
        "tags": {tag["Key"]: tag["Value"] for tag in asked(client.get_bucket_tagging).get("TagSet", [])},
        "versioned": client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled",
        "object_lock": lock.get("ObjectLockEnabled") == "Enabled",
        "public_access_blocked": all(block.get(kind) for kind in kinds),
        "tls_only": is_tls_only(listed(policy["Statement"]), bucket),
        "policy": listed(policy["Statement"]),
    }


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(argument_spec={"bucket": {"type": "str", "required": True}}, supports_check_mode=True)
    bucket, client = module.params["bucket"], module.client("s3")
    found = NOTHING
    try:
        client.head_bucket(Bucket=bucket)
        found = described(client, bucket)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "403":
            module.fail_json(
                msg=f"The bucket {bucket} may not be looked at: either it is another account's, since a bucket's name "
                "is unique in all of AWS, or these credentials lack s3:ListBucket. Choose another name, or give them "
                "that permission."
            )
        if code not in ("404", "NoSuchBucket"):
            module.fail_json_aws(error, msg=f"The bucket {bucket} cannot be looked at")
    except BotoCoreError as error:
        module.fail_json_aws(error, msg=f"The bucket {bucket} cannot be looked at")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
