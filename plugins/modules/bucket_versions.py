#!/usr/bin/python
"""Everything below a prefix of a bucket, with every older version and whatever is locked."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: bucket_versions
short_description: Deletes everything below a prefix of a bucket, with every version, also what is locked
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Deletes all versions and delete markers below a prefix. In a bucket with Object Lock M(amazon.aws.s3_bucket) and
    M(amazon.aws.s3_object) cannot, since neither asks to get past a lock.
  - Locks in governance mode are passed, which needs C(s3:BypassGovernanceRetention). Those in compliance mode are
    nobody's to pass; such a version makes the module fail, after everything else is gone.
options:
  bucket:
    description: S3 bucket. One that does not exist holds nothing.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.bucket
  - spotcache.redis.bucket.prefix
  - spotcache.redis.attributes.no_diff
attributes:
  check_mode:
    description: Says how much would be deleted.
    support: full
"""

EXAMPLES = r"""
- name: Delete what is an environment's
  spotcache.redis.bucket_versions:
    bucket: spotcache-stg-backups-example
    prefix: stg/
    region: ap-northeast-1
"""

RETURN = r"""
deleted:
  description: How many versions and delete markers were deleted, or would be in check mode.
  returned: always
  type: int
others:
  description: Whether the bucket holds something, be it an older version, that does not lie below the prefix.
  returned: always
  type: bool
"""

import contextlib
from collections.abc import Iterator
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

MISSING_BUCKET = ("NoSuchBucket", "404")


def versions(client: Any, bucket: str, prefix: str) -> Iterator[list[dict[str, str]]]:
    """What lies below a prefix, up to a thousand versions and delete markers at a time."""
    try:
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            yield [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]
    except ClientError as error:
        if error.response["Error"]["Code"] not in MISSING_BUCKET:
            raise


def has_others(client: Any, bucket: str, prefix: str) -> bool:
    """Whether anything does not lie below the prefix; looked for only until something is found."""
    return any(not one["Key"].startswith(prefix) for page in versions(client, bucket, "") for one in page)


def delete(client: Any, bucket: str, found: list[dict[str, str]]) -> list[dict[str, str]]:
    """Delete versions; returns S3's word on those that stay."""
    if not found:
        return []
    answer = client.delete_objects(
        Bucket=bucket, Delete={"Objects": found, "Quiet": True}, BypassGovernanceRetention=True
    )
    return list(answer.get("Errors", []))


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={"bucket": {"type": "str", "required": True}, "prefix": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    bucket, prefix, client = module.params["bucket"], module.params["prefix"], module.client("s3")
    if not prefix.endswith("/"):
        module.fail_json(
            msg=f"prefix is '{prefix}': it must end with a slash, so that stg/ does not mean stg-2/ as well."
        )
    deleted, stay = 0, list[dict[str, str]]()
    try:
        for page in versions(client, bucket, prefix):
            stay += [] if module.check_mode else delete(client, bucket, page)
            deleted += len(page)
        others = has_others(client, bucket, prefix)
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg=f"s3://{bucket}/{prefix} cannot be emptied")
    if stay:
        module.fail_json(
            msg=f"{len(stay)} versions below s3://{bucket}/{prefix} could not be deleted, the first one "
            f"{stay[0].get('Key')} ({stay[0].get('VersionId')}): {stay[0].get('Code')}, {stay[0].get('Message')}. "
            "A lock in compliance mode, or a legal hold, ends by itself or is taken away by whoever put it there."
        )
    module.exit_json(changed=deleted > 0, deleted=deleted, others=others)


if __name__ == "__main__":
    main()
