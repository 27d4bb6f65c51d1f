#!/usr/bin/python
"""One run at a time: a lease that is an object in S3."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: lease
short_description: Take, renew and release a lease kept in S3
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Lets only one run at a time change an environment. The lease is an object in S3 that is created and taken over by
    conditional writes only, so that of two runs that start together exactly one gets it.
  - The run of ansible-playbook that calls the module is the owner. Taking a lease that it already holds renews it.
  - A lease can be taken over when it has expired, and at once when its owner ran on the same machine and its process
    is gone.
  - Times are those of S3's clock, so that a control node whose clock is wrong does no harm.
  - A lease is no configuration. Taking, renewing and releasing it never counts as a change, and in check mode nothing
    is read or written.
options:
  state:
    description:
      - V(present) takes or renews the lease; it fails, and says who holds it, when another run does.
      - V(absent) releases it. A lease that another run holds is left alone.
      - V(kept) renews it four times in each O(ttl), until it is released, another run has it, or the run has ended. It
        does not return before, so give the task C(async) and C(poll=0). A lease of a short term then lasts as long as
        its run and no longer, also where a run ends without a word, as in a container that is stopped.
    type: str
    choices: [present, absent, kept]
    default: present
  key:
    description: Key of the object.
    type: str
    required: true
  purpose:
    description: What the run does; others are told.
    type: str
    default: a run
  ttl:
    description: Seconds until the lease expires unless it is renewed.
    type: int
    default: 3600
  bucket_must_exist:
    description: Whether a bucket that does not exist is an error. With V(false) there is then nothing to guard.
    type: bool
    default: true
  token:
    description:
      - Tells runs apart where the process of ansible-playbook cannot be seen (a control node without C(/proc)).
      - Pass the same text to every task of a run.
    type: str
    default: ''
  job:
    description: What a server that runs this calls it. Other runs are told, and that it may have been cancelled.
    type: str
    default: ''
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
  - spotcache.redis.bucket
  - spotcache.redis.attributes.no_diff
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Take the lease, or renew it
  spotcache.redis.lease:
    bucket: example-backups
    key: stg/locks/environment.json
    purpose: provision

- name: Renew it for as long as this run lives
  spotcache.redis.lease:
    bucket: example-backups
    key: stg/locks/environment.json
    state: kept
    ttl: 180
    token: "{{ awx_job_id }}"
  async: 86400
  poll: 0

- name: Release it
  spotcache.redis.lease:
    bucket: example-backups
    key: stg/locks/environment.json
    state: absent
"""

RETURN = r"""
action:
  description: What happened.
  returned: always
  type: str
  sample: taken
  choices: [taken, renewed, taken_over, released, ended, none]
owner:
  description: The run that holds the lease.
  returned: when the lease is held by this run
  type: str
  sample: ops@laptop (ansible-playbook, process 4711)
until:
  description: When it expires, in UTC.
  returned: when the lease is held by this run
  type: str
  sample: '2026-11-22T01:30:00Z'
"""

import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import BotoCoreError, ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.lease import (
    UTC,
    Owner,
    Record,
    is_gone,
    refusal,
    renewed,
    stamp,
    this_run,
    verdict,
)

# The object changed between reading and writing, or two writes met.
LOST = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404"}
ATTEMPTS = 5


class Held(Exception):
    """Another run holds the lease."""


def error_code(error: ClientError) -> str:
    """AWS's code of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def server_time(response: dict[str, Any]) -> datetime:
    """S3's clock, read off an answer."""
    text = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return datetime.now(UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


class Lease:
    """The object, its record and its entity tag."""

    def __init__(self, client: Any, bucket: str, key: str, ttl: int) -> None:
        self.client = client
        self.bucket = bucket
        self.key = key
        self.ttl = ttl

    @property
    def where(self) -> str:
        """For people."""
        return f"s3://{self.bucket}/{self.key}"

    def read(self) -> tuple[Record | None, str, datetime]:
        """Record (None: there is no object), entity tag, and S3's time."""
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key)
        except ClientError as error:
            if error_code(error) in ("NoSuchKey", "404"):
                return None, "", server_time(error.response)
            raise
        text = answer["Body"].read().decode(errors="replace")
        try:
            record = Record.from_json(text)
        except ValueError:
            # Nobody can be asked: it counts as held for one term after it was written.
            nobody = Owner(user="unknown", host="an unknown machine")
            record = renewed(nobody, "an unreadable lease", answer["LastModified"], self.ttl)
        return record, answer["ETag"], server_time(answer)

    def write(self, record: Record, etag: str) -> bool:
        """Write the record if the object is still as it was read; False when another run was faster."""
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            self.client.put_object(
                Bucket=self.bucket,
                Key=self.key,
                Body=record.to_json().encode(),
                ContentType="application/json",
                **condition,
            )
        except ClientError as error:
            if error_code(error) in LOST:
                return False
            raise
        return True

    def take(self, here: Owner, purpose: str) -> tuple[str, Record]:
        """Take or renew the lease; Held when another run has it."""
        record: Record | None = None
        now = datetime.now(UTC)
        for _attempt in range(ATTEMPTS):
            record, etag, now = self.read()
            state = verdict(record, here, now)
            if state == "held":
                break
            wanted = renewed(here, purpose, now, self.ttl, record)
            if self.write(wanted, etag):
                return {"free": "taken", "mine": "renewed"}.get(state, "taken_over"), wanted
        if record is None:
            raise Held(f"The lease {self.where} changes faster than it can be read. Nothing was changed; run again.")
        raise Held(refusal(record, now, self.where))

    def keep(self, here: Owner, pause: Callable[[float], None] = time.sleep) -> str:
        """Renew what this run holds until it no longer does, or is no more; its owner stays as the record has it.

        A service that does not answer is asked again until the lease has expired.
        """
        until: datetime | None = None
        while True:
            try:
                record, etag, now = self.read()
                if record is None or not record.owner.is_same_run(here) or is_gone(record.owner, here):
                    return "ended"
                until = record.until
                # One that another writer was faster with is looked at anew; so is one that was released meanwhile.
                self.write(renewed(record.owner, record.purpose, now, self.ttl, record), etag)
            except (ClientError, BotoCoreError):
                if until is None or datetime.now(UTC) > until:
                    return "ended"
            pause(self.ttl / 4)

    def release(self, here: Owner) -> str:
        """Delete the object if it is this run's."""
        for _attempt in range(ATTEMPTS):
            record, etag, now = self.read()
            if verdict(record, here, now) != "mine":
                return "none"
            if self.delete(etag):
                return "released"
            # Renewed between the two looks, or taken over by another run.
        return "none"

    def delete(self, etag: str) -> bool:
        """Delete the object if it is still as it was read."""
        try:
            self.client.delete_object(Bucket=self.bucket, Key=self.key, IfMatch=etag)
        except ClientError as error:
            if error_code(error) in LOST:
                return False
            if error_code(error) not in ("NotImplemented", "501"):
                raise
            # A store that cannot delete on a condition: it was ours a moment ago.
            self.client.delete_object(Bucket=self.bucket, Key=self.key)
        return True


def explain(error: Exception, lease: Lease) -> str:
    """A sentence for the faults that people meet."""
    code = error_code(error) if isinstance(error, ClientError) else ""
    if code == "NoSuchBucket":
        return f"The bucket {lease.bucket} does not exist: run the provision playbook first, or correct its name"
    if code in ("AccessDenied", "403"):
        return (
            f"The AWS credentials may not use {lease.where}: "
            "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject are needed there"
        )
    return f"The lease {lease.where} cannot be used"


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "kept"], "default": "present"},
            "bucket": {"type": "str", "required": True},
            "key": {"type": "str", "required": True, "no_log": False},
            "purpose": {"type": "str", "default": "a run"},
            "ttl": {"type": "int", "default": 3600},
            "bucket_must_exist": {"type": "bool", "default": True},
            "token": {"type": "str", "default": "", "no_log": False},
            "job": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    module.require_botocore_at_least("1.36.0", reason="for conditional writes to S3")
    if module.params["ttl"] < 1:
        module.fail_json(msg=f"ttl is {module.params['ttl']}: give the seconds of the lease's term, at least 1.")
    if module.check_mode:
        module.exit_json(changed=False, action="none")

    here = this_run(module.params["token"], job=module.params["job"])
    if not here.pid and not here.token:
        module.fail_json(
            msg="ansible-playbook's process cannot be seen here: pass token, the same in every task of a run."
        )
    lease = Lease(module.client("s3"), module.params["bucket"], module.params["key"], module.params["ttl"])
    try:
        if module.params["state"] == "absent":
            module.exit_json(changed=False, action=lease.release(here))
        if module.params["state"] == "kept":
            module.exit_json(changed=False, action=lease.keep(here))
        action, record = lease.take(here, module.params["purpose"])
    except Held as held:
        module.fail_json(msg=str(held))
    except (ClientError, BotoCoreError) as error:
        no_bucket = isinstance(error, ClientError) and error_code(error) == "NoSuchBucket"
        if no_bucket and not module.params["bucket_must_exist"]:
            module.exit_json(changed=False, action="none")
        module.fail_json_aws(error, msg=explain(error, lease))
    module.exit_json(changed=False, action=action, owner=record.owner.describe(), until=stamp(record.until))


if __name__ == "__main__":
    main()
