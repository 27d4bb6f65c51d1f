"""What S3 does about versions and locks and moto does not, and what a request to S3 asks permission for.

A bucket that has Object Lock stays versioned; a lock that governs is lifted only by whoever may, and says so; a bucket
that holds something already can be given Object Lock. The policies of buckets are decided in `iam`, with the rest.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import unescape

from moto.iam.access_control import PermissionResult
from moto.s3.exceptions import AccessDeniedByLock, InvalidBucketState
from moto.s3.models import FakeBucket, S3Backend, s3_backends
from moto.s3.responses import ACTION_MAP, S3Response
from moto.utilities.utils import get_partition

# What S3 asks permission for where moto asks for something else, or for nothing, by the request's method and its query.
BUCKET_ACTIONS = {
    "HEAD": {"DEFAULT": "ListBucket"},
    "GET": {
        "encryption": "GetEncryptionConfiguration",
        "object-lock": "GetBucketObjectLockConfiguration",
        "ownershipControls": "GetBucketOwnershipControls",
        "publicAccessBlock": "GetBucketPublicAccessBlock",
        "requestPayment": "GetBucketRequestPayment",
    },
    "PUT": {
        "encryption": "PutEncryptionConfiguration",
        "object-lock": "PutBucketObjectLockConfiguration",
        "ownershipControls": "PutBucketOwnershipControls",
        "publicAccessBlock": "PutBucketPublicAccessBlock",
    },
    "DELETE": {
        "encryption": "PutEncryptionConfiguration",
        "ownershipControls": "PutBucketOwnershipControls",
        "publicAccessBlock": "PutBucketPublicAccessBlock",
    },
}
# The last one that is in the query counts.
KEY_ACTIONS = {
    "HEAD": {"versionId": "GetObjectVersion"},
    "GET": {"legal-hold": "GetObjectLegalHold", "retention": "GetObjectRetention"},
    "PUT": {"legal-hold": "PutObjectLegalHold", "retention": "PutObjectRetention"},
    "DELETE": {"tagging": "DeleteObjectTagging"},
}
# Of objects that are not the newest version, where the query names one.
OF_VERSIONS = {
    "s3:DeleteObjectTagging": "s3:DeleteObjectVersionTagging",
    "s3:GetObjectAcl": "s3:GetObjectVersionAcl",
    "s3:GetObjectTagging": "s3:GetObjectVersionTagging",
    "s3:PutObjectAcl": "s3:PutObjectVersionAcl",
    "s3:PutObjectTagging": "s3:PutObjectVersionTagging",
}
# What a header of a request asks permission for besides.
BY_HEADER = {
    "x-amz-object-lock-legal-hold": "s3:PutObjectLegalHold",
    "x-amz-object-lock-mode": "s3:PutObjectRetention",
    "x-amz-tagging": "s3:PutObjectTagging",
}
# The headers of which conditions can ask, by the name that they have there.
CONDITIONS = {
    "if-match": "s3:if-match",
    "if-none-match": "s3:if-none-match",
    "x-amz-acl": "s3:x-amz-acl",
    "x-amz-copy-source": "s3:x-amz-copy-source",
    "x-amz-metadata-directive": "s3:x-amz-metadata-directive",
    "x-amz-object-lock-legal-hold": "s3:object-lock-legal-hold",
    "x-amz-object-lock-mode": "s3:object-lock-mode",
    "x-amz-object-lock-retain-until-date": "s3:object-lock-retain-until-date",
    "x-amz-object-ownership": "s3:x-amz-object-ownership",
    "x-amz-server-side-encryption": "s3:x-amz-server-side-encryption",
    "x-amz-storage-class": "s3:x-amz-storage-class",
}
QUERY = ("prefix", "delimiter", "max-keys")
BYPASS = "x-amz-bypass-governance-retention"


def asked(
    action: str, resource: str, method: str, path: str, headers: Mapping[str, str], body: str
) -> list[tuple[str, dict[str, str]]]:
    """Every permission that a request needs, each as an action and its parameters: `arn`, and what conditions ask of.

    Args:
        action: what the request is about, such as `s3:PutObject`.
        resource: ARN of the bucket or the object that its path names.
        method: of HTTP.
        path: with the query.
        headers: as they came.
        body: a list of objects to delete is sent to their bucket, and each of them is asked for.
    """
    query = {name: values[0] for name, values in parse_qs(urlsplit(path).query, keep_blank_values=True).items()}
    said = {name.lower(): value for name, value in headers.items()}
    known = {name: query[name] for name in QUERY if name in query}
    known |= {name: said[header] for header, name in CONDITIONS.items() if said.get(header)}
    if action == "s3:PutObject":
        # Parts, and the beginning of an upload that has some, make no object and take no condition (S3's user guide,
        # "Enforce conditional writes on Amazon S3 buckets").
        parts = "uploads" in query or (method == "PUT" and "uploadId" in query)
        known["s3:ObjectCreationOperation"] = str(not parts).lower()
    found = [(action, {"arn": resource, **known})]
    if action == "s3:DeleteObject" and "/" not in resource:
        found = []
        for one in re.findall(r"<Object>(.*?)</Object>", body, re.DOTALL):
            key, version = (
                re.search(r"<Key>(.*?)</Key>", one, re.DOTALL),
                re.search("<VersionId>(.*?)</VersionId>", one),
            )
            name = "s3:DeleteObjectVersion" if version else "s3:DeleteObject"
            more = {"s3:versionid": unescape(version[1])} if version else {}
            found.append((name, {"arn": f"{resource}/{unescape(key[1]) if key else ''}", **known, **more}))
    elif "versionId" in query:
        found = [(OF_VERSIONS.get(action, action), {"arn": resource, **known, "s3:versionid": query["versionId"]})]
    if action == "s3:CreateBucket":
        more_actions = ["s3:PutBucketOwnershipControls"] if said.get("x-amz-object-ownership") else []
        if said.get("x-amz-bucket-object-lock-enabled", "").lower() == "true":
            more_actions += ["s3:PutBucketObjectLockConfiguration", "s3:PutBucketVersioning"]
        found += [(name, {"arn": resource}) for name in more_actions]
    elif action in ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectRetention"):
        found += [(name, {"arn": resource, **known}) for header, name in BY_HEADER.items() if said.get(header)]
        if said.get("x-amz-acl", "private") != "private":
            found.append(("s3:PutObjectAcl", {"arn": resource, **known}))
        if said.get(BYPASS, "").lower() == "true":
            found += [("s3:BypassGovernanceRetention", {"arn": one["arn"]}) for _, one in list(found)]
    return found


def policy_of(account: str, region: str, resource: str) -> Any:
    """The policy of the bucket that an ARN is of or in; None without a bucket, or a policy."""
    name = resource.partition(":::")[2].partition("/")[0]
    bucket = s3_backends[account][get_partition(region)].buckets.get(name)
    policy = getattr(bucket, "policy", None)
    return policy.decode() if isinstance(policy, bytes) else policy or None


def until(text: str | None) -> datetime:
    """Until when a version is locked; long ago where it is not."""
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)


def weakens(key: Any, mode: str | None, moment: str | None, bypass: bool, now: datetime) -> bool:
    """Whether a new retention takes away from one that holds, without being allowed to."""
    held = until(key.lock_until) if key.lock_mode else until(None)
    if held <= now or (key.lock_mode == "GOVERNANCE" and bypass):
        return False
    return mode not in (key.lock_mode, "COMPLIANCE") or until(moment) < held


def close_gaps() -> None:
    """Have moto's S3 keep versions and locks as S3 does."""
    for method, actions in BUCKET_ACTIONS.items():
        ACTION_MAP["BUCKET"][method].update(actions)
    for method, actions in KEY_ACTIONS.items():
        ACTION_MAP["KEY"][method].update(actions)
    retain, version = S3Response.put_object_retention, S3Backend.put_bucket_versioning

    def put_object_retention(response: Any) -> Any:
        key = response.backend.get_object(
            response.bucket_name, response.parse_key_name(), version_id=response._get_param("versionId")
        )
        bypass = response.headers.get(BYPASS, "").lower() == "true"
        mode, moment = response._mode_until_from_body()
        if key is not None and weakens(key, mode, moment, bypass, datetime.now(UTC)):
            raise AccessDeniedByLock
        return retain(response)

    def put_bucket_versioning(backend: Any, bucket_name: str, status: str) -> None:
        if status != "Enabled" and backend.get_bucket(bucket_name).object_lock_enabled:
            raise InvalidBucketState(
                "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed."
            )
        version(backend, bucket_name, status)

    def put_object_lock_configuration(
        backend: Any,
        bucket_name: str,
        lock_enabled: bool,
        mode: str | None = None,
        days: int | None = None,
        years: int | None = None,
    ) -> None:
        bucket = backend.get_bucket(bucket_name)
        if not bucket.is_versioned:
            raise InvalidBucketState("Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration")
        bucket.object_lock_enabled = bucket.object_lock_enabled or lock_enabled
        bucket.default_lock_mode, bucket.default_lock_days, bucket.default_lock_years = mode, days, years

    S3Response.put_object_retention = put_object_retention
    S3Backend.put_bucket_versioning = put_bucket_versioning
    S3Backend.put_object_lock_configuration = put_object_lock_configuration
    # Decided with the caller's own policies, conditions and all; moto looks at actions and resources alone.
    FakeBucket.get_permission = lambda bucket, action, resource: PermissionResult.NEUTRAL
