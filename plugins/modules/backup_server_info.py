#!/usr/bin/python
"""Which servers wrote an environment's backups in S3, by their manifests."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_server_info
short_description: Which servers wrote an environment's backups
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Reads from S3 the manifest of the newest verified backup, and that of the one which is to be restored, if that is
    another one. So it is known before there is a host whether its server could read them.
  - A bucket that does not exist holds nothing. One that may not be looked into is an error, for it may hold backups.
options:
  bucket:
    description: S3 bucket with the backups.
  prefix:
    description: What the environment's keys in the bucket begin with, C(stg/backups/) for example.
  wanted:
    description:
      - What is to be restored, a backup's id or a date and time in UTC, such as V(2026-11-22T00:15:00Z). Of anything
        else, an EBS snapshot's id among them, nothing is known here.
    type: str
    default: ''
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.attributes.read_only
  - spotcache.redis.bucket
  - spotcache.redis.bucket.prefix
"""

EXAMPLES = r"""
- name: Find which server the data is of
  spotcache.redis.backup_server_info:
    bucket: spotcache-stg-backups-example
    prefix: stg/backups/
    region: ap-northeast-1
  register: written
"""

RETURN = r"""
backups:
  description: The newest verified backup, and after it the wanted one where that is another; empty without any.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: Its id.
      type: str
    redis_engine:
      description: Which server wrote it, V(redis) or V(valkey).
      type: str
    server_version:
      description: That server's version.
      type: str
    rdb_version:
      description: Version of its RDB; V(0) where that is not known.
      type: int
"""

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils import engines

ABSENT = ("NoSuchBucket", "404")
ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d))?Z?")


def described(backup_id: str, text: bytes) -> dict[str, Any] | None:
    """What a manifest says of the server; None where it is none, or of a backup that was never verified."""
    try:
        data = json.loads(text)
        version, rdb = str(data["redis_version"]), int(data["rdb"].get("version", 0))
        engine, verified = str(data.get("engine") or engines.REDIS), data["verified"] is True
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not verified or engine not in engines.NAMES:
        return None
    # Before a manifest said it, there was Redis alone.
    rdb = rdb or (engines.rdb_of_redis(version) if engine == engines.REDIS else 0)
    return {"id": backup_id, "redis_engine": engine, "server_version": version, "rdb_version": rdb}


def candidates(ids: Sequence[str], wanted: str) -> list[str]:
    """The ids that `wanted` may mean, the best one first."""
    if ID.fullmatch(wanted):
        return [one for one in ids if one == wanted]
    moment = MOMENT.fullmatch(wanted)
    if moment is None:
        return []
    year, month, day, hour, minute, second = (part or "00" for part in moment.groups())
    latest = f"{year}{month}{day}T{hour}{minute}{second}Z"
    return [one for one in sorted(ids, reverse=True) if one[: len(latest)] <= latest]


def first(ids: Sequence[str], read: Callable[[str], bytes]) -> dict[str, Any] | None:
    """The first one whose manifest is good."""
    return next((found for one in ids if (found := described(one, read(one))) is not None), None)


def ids_in(client: Any, bucket: str, prefix: str) -> list[str]:
    """The ids of the backups that have a manifest; none where there is no bucket."""
    found = []
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for one in page.get("Contents", []):
                backup_id, _slash, name = str(one["Key"]).removeprefix(prefix).partition("/")
                if name == "manifest.json" and ID.fullmatch(backup_id):
                    found.append(backup_id)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ABSENT:
            raise
    return found


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "bucket": {"type": "str", "required": True},
            "prefix": {"type": "str", "required": True},
            "wanted": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    bucket, prefix, wanted = (module.params[name] for name in ("bucket", "prefix", "wanted"))
    client = module.client("s3")

    def read(backup_id: str) -> bytes:
        return bytes(client.get_object(Bucket=bucket, Key=f"{prefix}{backup_id}/manifest.json")["Body"].read())

    try:
        ids = ids_in(client, bucket, prefix)
        found = [first(sorted(ids, reverse=True), read), first(candidates(ids, wanted), read)]
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(
            error,
            msg=f"Which server wrote the backups below {prefix} in {bucket} cannot be told, and nothing was changed",
        )
    backups = [one for one in found if one is not None]
    module.exit_json(changed=False, backups=backups[:1] if backups[1:] == backups[:1] else backups)


if __name__ == "__main__":
    main()
