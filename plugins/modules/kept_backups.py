#!/usr/bin/python
"""What stays of an environment that is gone: snapshots that nobody prunes any more, and what is kept costs."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: kept_backups
short_description: Prunes the EBS snapshots of an environment without a host, and says what is kept and what that costs
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - While an environment stands, a function prunes the snapshots that its keeper takes, and Data Lifecycle Manager its
    own. Afterwards nobody does. This module keeps the newest good ones of each kind and deletes the rest, as well as
    what an image of the host that is deleted already has left.
  - A kind without a good snapshot is left as it is, and nothing that is as young as the newest good one is deleted,
    since it may still become good.
  - Backups in S3 are counted, with every older version that is paid for, and never deleted.
options:
  environment:
    description: Name of the environment; its snapshots carry it in their tag C(spotcache:environment).
    type: str
    required: true
  keep:
    description: How many good snapshots of each kind, the keeper's and Data Lifecycle Manager's, are kept.
    type: int
    default: 2
  bucket:
    description: S3 bucket with the backups. One that does not exist holds nothing.
  prefix:
    description: What the environment's keys in the bucket begin with, C(stg/backups/) for example.
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.bucket
  - spotcache.redis.bucket.prefix
attributes:
  check_mode:
    description: Says what would be deleted.
    support: full
  diff_mode:
    description: Shows the snapshots there are before and after.
    support: full
notes:
  - Prices are list prices of Tokyo. EBS charges for the blocks that differ between snapshots, of which its API does not
    tell, so the figure for snapshots is the most that they can cost.
"""

EXAMPLES = r"""
- name: Keep two snapshots of each kind, and say what is kept
  spotcache.redis.kept_backups:
    environment: stg
    bucket: spotcache-stg-backups-example
    prefix: stg/backups/
    region: ap-northeast-1
"""

RETURN = r"""
deleted:
  description: Ids of the snapshots that were deleted, or would be in check mode.
  returned: always
  type: list
  elements: str
snapshots:
  description: The snapshots that are kept, the newest first.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: Id of the snapshot.
      type: str
    kind:
      description: C(keeper), C(lifecycle) or C(other).
      type: str
    created:
      description: When it was asked for, in UTC.
      type: str
    gib:
      description: Size of its volume, the most that it can hold.
      type: int
objects:
  description: Number of objects in S3, older versions among them.
  returned: always
  type: int
bytes:
  description: Their bytes.
  returned: always
  type: int
usd_month:
  description: What all of it costs a month at most, in USD.
  returned: always
  type: float
summary:
  description: All of it in a sentence.
  returned: always
  type: str
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

# USD a GiB and month in Tokyo; docs/costs.md names the sources.
SNAPSHOT_GIB = 0.05
OBJECT_GIB = 0.025
GIB = 2**30
MISSING_SNAPSHOT = ("InvalidSnapshot.NotFound",)
MISSING_BUCKET = ("NoSuchBucket", "404")


def tags_of(snapshot: Mapping[str, Any]) -> dict[str, str]:
    """A snapshot's tags."""
    return {tag["Key"]: tag["Value"] for tag in snapshot.get("Tags") or []}


def kind_of(snapshot: Mapping[str, Any]) -> str:
    """Who took it: the keeper, Data Lifecycle Manager, an image of the host, or somebody else."""
    tags = tags_of(snapshot)
    if "spotcache:backup" in tags:
        return "keeper"
    if any(key.startswith(("aws:dlm:", "dlm:")) for key in tags):
        return "lifecycle"
    return "image" if "spotcache:fingerprint" in tags else "other"


def is_good(snapshot: Mapping[str, Any]) -> bool:
    """Whether it is complete and, where it is the keeper's, holds a verified backup."""
    verified = kind_of(snapshot) != "keeper" or tags_of(snapshot).get("spotcache:verified") == "true"
    return bool(snapshot["State"] == "completed") and verified


def to_delete(snapshots: Sequence[Mapping[str, Any]], used: set[str], keep: int) -> list[str]:
    """Ids of the snapshots that nobody needs any more, the oldest first.

    Args:
        snapshots: of the environment, as DescribeSnapshots has them.
        used: ids of those that an image is made of.
        keep: how many good ones of each kind stay.
    """
    found = [one for one in snapshots if kind_of(one) == "image"]
    for kind in ("keeper", "lifecycle"):
        own = sorted((one for one in snapshots if kind_of(one) == kind), key=lambda one: one["StartTime"], reverse=True)
        good = [one for one in own if is_good(one)]
        if good:
            kept = {one["SnapshotId"] for one in good[: max(keep, 1)]}
            newest = good[0]["StartTime"]
            found += [
                one for one in own if one["SnapshotId"] not in kept and (is_good(one) or one["StartTime"] < newest)
            ]
    ordered = sorted(found, key=lambda one: one["StartTime"])
    return [one["SnapshotId"] for one in ordered if one["SnapshotId"] not in used]


def summary(snapshots: Sequence[Mapping[str, Any]], objects: int, size: int) -> str:
    """What is kept and what it costs, in a sentence."""
    gib = sum(one["gib"] for one in snapshots)
    many = "" if len(snapshots) == 1 else "s"
    return (
        f"{len(snapshots)} EBS snapshot{many} of volumes of {gib} GiB together (at most {gib * SNAPSHOT_GIB:.2f} USD a "
        f"month) and {objects} objects in S3, {size / GIB:.2f} GiB ({size / GIB * OBJECT_GIB:.2f} USD a month)"
    )


def in_bucket(client: Any, bucket: str, prefix: str) -> tuple[int, int]:
    """Number and bytes of the objects below a prefix, older versions among them."""
    count = size = 0
    try:
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for one in page.get("Versions", []):
                count, size = count + 1, size + one["Size"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in MISSING_BUCKET:
            raise
    return count, size


def delete(client: Any, snapshot_id: str) -> None:
    """Delete a snapshot; one that is gone already is fine."""
    try:
        client.delete_snapshot(SnapshotId=snapshot_id)
    except ClientError as error:
        if error.response["Error"]["Code"] not in MISSING_SNAPSHOT:
            raise


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "environment": {"type": "str", "required": True},
            "keep": {"type": "int", "default": 2},
            "bucket": {"type": "str", "required": True},
            "prefix": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    asked, ec2 = module.params, module.client("ec2")
    if asked["keep"] < 1:
        module.fail_json(msg=f"keep is {asked['keep']}: keep at least one, or delete all backups with the environment.")
    own = [{"Name": "tag:spotcache:environment", "Values": [asked["environment"]]}]
    try:
        pages = ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=own)
        there = [one for page in pages for one in page["Snapshots"]]
        images = ec2.describe_images(Owners=["self"], Filters=own)["Images"]
        mappings = [mapping for image in images for mapping in image.get("BlockDeviceMappings", [])]
        used = {mapping["Ebs"].get("SnapshotId") for mapping in mappings if "Ebs" in mapping}
        gone = to_delete(there, used, asked["keep"])
        if not module.check_mode:
            for snapshot_id in gone:
                delete(ec2, snapshot_id)
        objects, size = in_bucket(module.client("s3"), asked["bucket"], asked["prefix"])
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(error, msg=f"The backups of {asked['environment']} cannot be looked through")
    kept = [
        {
            "id": one["SnapshotId"],
            "kind": kind_of(one),
            "created": one["StartTime"].strftime("%Y-%m-%dT%H:%M:%SZ"),
            "gib": one["VolumeSize"],
        }
        for one in sorted(there, key=lambda one: one["StartTime"], reverse=True)
        if one["SnapshotId"] not in gone
    ]
    gib = sum(one["gib"] for one in kept)
    module.exit_json(
        changed=bool(gone),
        deleted=gone,
        snapshots=kept,
        objects=objects,
        bytes=size,
        usd_month=round(gib * SNAPSHOT_GIB + size / GIB * OBJECT_GIB, 2),
        summary=summary(kept, objects, size),
        diff={
            "before": {"snapshots": sorted(one["SnapshotId"] for one in there)},
            "after": {"snapshots": sorted(one["id"] for one in kept)},
        },
    )


if __name__ == "__main__":
    main()
