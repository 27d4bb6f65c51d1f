#!/usr/bin/python
"""Which batches ran when, and what restores have lost: small objects in S3."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: batch_ledger
short_description: Keep a ledger of batches and of what restores have lost
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Keeps, below one prefix of an S3 bucket, when each batch last went well (C(runs/)) and which spans of time restores
    have lost (C(losses/)), one object each, so that any control node can tell what has to be run again.
  - A restore brings back a backup. What was written between that backup and the restore is lost.
  - The ledger is no configuration. Writing to it never counts as a change, and in check mode nothing is written.
options:
  run:
    description: A batch that went well, C(id), C(started) and C(ended) (seconds since 1970).
    type: dict
  loss:
    description:
      - A restore. C(created) is the time of the backup that came back, C(at) that of the restore, both as the keeper's
        JSON has them (C(2026-11-22T01:16:50Z)). An empty C(created) means that nothing came back.
    type: dict
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.bucket
  - spotcache.redis.bucket.prefix
  - spotcache.redis.attributes.no_diff
attributes:
  check_mode:
    description: Reads, and writes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Note what a restore has lost
  spotcache.redis.batch_ledger:
    bucket: example-backups
    prefix: stg/batches/
    loss:
      created: "{{ keeper_result.created }}"
      at: "{{ now(utc=true, fmt='%Y-%m-%dT%H:%M:%SZ') }}"

- name: Read it
  spotcache.redis.batch_ledger:
    bucket: example-backups
    prefix: stg/batches/
  register: ledger
"""

RETURN = r"""
runs:
  description: The last good run of each batch by its id, with C(started) and C(ended).
  returned: when neither O(run) nor O(loss) is given
  type: dict
losses:
  description: Spans of time whose data is lost, with C(since) and C(until).
  returned: when neither O(run) nor O(loss) is given
  type: list
  elements: dict
key:
  description: The object that was written.
  returned: when O(run) or O(loss) is given
  type: str
"""

import contextlib
import hashlib
import json
import re
from datetime import datetime, timezone
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

UTC = timezone.utc  # noqa: UP017 - the control node's Python may be older than datetime.UTC


def seconds(text: str) -> float:
    """A moment in ISO 8601 as seconds since 1970; nothing at all is the beginning of time."""
    if not text:
        return 0.0
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def entry(params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Key and content of what is to be written. Raises KeyError or ValueError for what is no run and no loss."""
    if params["run"]:
        told = params["run"]
        name = str(told["id"])
        record = {"id": name, "started": float(told["started"]), "ended": float(told["ended"])}
        readable = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        # Two ids may look alike without their special characters.
        return f"runs/{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json", record
    told = params["loss"]
    loss = {"since": seconds(str(told.get("created") or "")), "until": seconds(str(told["at"]))}
    if not loss["until"]:
        raise ValueError("at is empty")
    return f"losses/{loss['until']:.0f}-{loss['since']:.0f}.json", loss


def read(client: Any, bucket: str, prefix: str) -> dict[str, Any]:
    """The whole ledger."""
    runs: dict[str, Any] = {}
    losses: list[Any] = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            record = json.loads(client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())
            if item["Key"].startswith(f"{prefix}runs/"):
                runs[record["id"]] = record
            elif item["Key"].startswith(f"{prefix}losses/"):
                losses.append(record)
    return {"runs": runs, "losses": sorted(losses, key=lambda loss: loss["until"])}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "bucket": {"type": "str", "required": True},
            "prefix": {"type": "str", "required": True},
            "run": {"type": "dict"},
            "loss": {"type": "dict"},
        },
        mutually_exclusive=[("run", "loss")],
        supports_check_mode=True,
    )
    params = module.params
    where = f"s3://{params['bucket']}/{params['prefix']}"
    try:
        client = module.client("s3")
        if not params["run"] and not params["loss"]:
            module.exit_json(changed=False, **read(client, params["bucket"], params["prefix"]))
        name, record = entry(params)
        key = params["prefix"] + name
        if not module.check_mode:
            body = (json.dumps(record, sort_keys=True) + "\n").encode()
            client.put_object(Bucket=params["bucket"], Key=key, Body=body, ContentType="application/json")
        module.exit_json(changed=False, key=key)
    except (KeyError, ValueError) as error:
        module.fail_json(msg=f"The ledger {where} cannot be used: {error}")
    except (ClientError, BotoCoreError) as error:
        module.fail_json_aws(
            error, msg=f"The ledger {where} cannot be used (s3:ListBucket, s3:GetObject, s3:PutObject)"
        )


if __name__ == "__main__":
    main()
