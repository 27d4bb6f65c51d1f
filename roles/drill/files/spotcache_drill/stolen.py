"""What somebody can do to the backups who has stolen a host's credentials: tried, on the host, with AWS's answers.

Runs on the host, by its own Python, with the keeper's program in PYTHONPATH, whose configuration says which AWS is
asked. Everything that is tried here must be refused. What should not be would meet the one backup that was taken for
it, and settings of the bucket that `provision` puts right. Prints a JSON document: every try with its permission, its
target and AWS's word.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# AWS's words for: you may not, and for: something is there already.
DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "PreconditionFailed",
        "UnauthorizedOperation",
        "UnauthorizedAccess",
    }
)
# Rules and policies that would do no harm.
RULE = {"ID": "stolen", "Status": "Disabled", "Filter": {"Prefix": "stolen/"}, "Expiration": {"Days": 1}}


@dataclass(frozen=True)
class Try:
    """One attempt.

    Attributes:
        what: in words.
        action: the permission that it needs.
        on: what it would change.
        answer: AWS's code; `done` where it was carried out; the client's own word where AWS was not reached.
        refused: AWS said no.
    """

    what: str
    action: str
    on: str
    answer: str
    refused: bool


Call = Callable[[], Any]


def attempt(what: str, action: str, on: str, call: Call) -> Try:
    """Try it, and note the answer. What does not reach AWS is no refusal."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = call()
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
        return Try(what, action, on, code, code in DENIED or code == "403")
    except BotoCoreError as error:
        return Try(what, action, on, f"not asked: {error}", refused=False)
    errors = answer.get("Errors") if isinstance(answer, Mapping) else None
    if errors:
        # DeleteObjects answers for each object.
        return Try(what, action, on, str(errors[0]["Code"]), errors[0]["Code"] in DENIED)
    return Try(what, action, on, "done", refused=False)


def on_backup(fresh: Callable[[], Any], plain: Any, bucket: str, key: str) -> list[tuple[str, str, str, Call]]:
    """What would destroy one object of a backup, or hide it.

    Args:
        fresh: makes a client of S3 with the host's credentials.
        plain: one without TLS.
        bucket: its name.
        key: of the object.
    """
    s3, of = fresh(), {"Bucket": bucket, "Key": key}
    head = s3.head_object(**of)
    one, on = {**of, "VersionId": head.get("VersionId", "null")}, f"{bucket}/{key}"
    versions = {"Objects": [{"Key": key, "VersionId": one["VersionId"]}]}

    def written(**headers: str) -> Call:
        client = fresh()
        # Older SDKs know no such parameter.
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        client.meta.events.register("before-call.s3.PutObject", lambda params, **_: params["headers"].update(given))
        return lambda: client.put_object(**of, Body=b"stolen")

    def in_parts() -> Any:
        upload = s3.create_multipart_upload(**of)["UploadId"]
        try:
            part = s3.upload_part(**of, UploadId=upload, PartNumber=1, Body=b"stolen")
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            return s3.complete_multipart_upload(**of, UploadId=upload, MultipartUpload=parts)
        finally:
            s3.abort_multipart_upload(**of, UploadId=upload)

    source = {"Bucket": bucket, "Key": key}
    grants = {"ACL": "public-read"}
    tags = {"Tagging": {"TagSet": [{"Key": "stolen", "Value": "yes"}]}}
    legal = {"LegalHold": {"Status": "OFF"}}
    return [
        ("delete it", "s3:DeleteObject", on, lambda: s3.delete_object(**of)),
        ("delete its version", "s3:DeleteObjectVersion", on, lambda: s3.delete_object(**one)),
        (
            "delete its version in spite of a lock",
            "s3:BypassGovernanceRetention",
            on,
            lambda: s3.delete_object(**one, BypassGovernanceRetention=True),
        ),
        (
            "delete it among others",
            "s3:DeleteObjectVersion",
            on,
            lambda: s3.delete_objects(Bucket=bucket, Delete=versions),
        ),
        ("overwrite it", "s3:PutObject", on, written()),
        ("overwrite it where it is the same", "s3:PutObject", on, written(If_Match=head["ETag"])),
        ("write it where there is none", "s3:PutObject", on, written(If_None_Match="*")),
        ("overwrite it in parts", "s3:PutObject", on, in_parts),
        (
            "overwrite it by a copy",
            "s3:PutObject",
            on,
            lambda: s3.copy_object(**of, CopySource=source, MetadataDirective="REPLACE"),
        ),
        ("change its tags", "s3:PutObjectTagging", on, lambda: s3.put_object_tagging(**of, **tags)),
        ("open it to everybody", "s3:PutObjectAcl", on, lambda: s3.put_object_acl(**of, **grants)),
        ("end a legal hold", "s3:PutObjectLegalHold", on, lambda: s3.put_object_legal_hold(**of, **legal)),
        ("end its lock", "s3:PutObjectRetention", on, lambda: s3.put_object_retention(**of, Retention={})),
        ("read it without TLS", "s3:GetObject", on, lambda: plain.get_object(**of)),
    ]


def on_bucket(s3: Any, bucket: str) -> list[tuple[str, str, str, Call]]:
    """What would have the bucket lose something by itself, or let others in."""
    of = {"Bucket": bucket}
    rule = {"LifecycleConfiguration": {"Rules": [RULE]}}
    nothing = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutBucketWebsite",
        "Resource": f"arn:{s3.meta.partition}:s3:::{bucket}",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [nothing]})
    no_lock = {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}
    suspended = {"VersioningConfiguration": {"Status": "Suspended"}}
    return [
        (
            "let a rule delete what is old",
            "s3:PutLifecycleConfiguration",
            bucket,
            lambda: s3.put_bucket_lifecycle_configuration(**of, **rule),
        ),
        ("write its policy", "s3:PutBucketPolicy", bucket, lambda: s3.put_bucket_policy(**of, Policy=policy)),
        ("delete its policy", "s3:DeleteBucketPolicy", bucket, lambda: s3.delete_bucket_policy(**of)),
        (
            "keep no more versions",
            "s3:PutBucketVersioning",
            bucket,
            lambda: s3.put_bucket_versioning(**of, **suspended),
        ),
        (
            "end its locks",
            "s3:PutBucketObjectLockConfiguration",
            bucket,
            lambda: s3.put_object_lock_configuration(**of, **no_lock),
        ),
        (
            "open it to the public",
            "s3:PutBucketPublicAccessBlock",
            bucket,
            lambda: s3.delete_public_access_block(**of),
        ),
        ("delete it", "s3:DeleteBucket", bucket, lambda: s3.delete_bucket(**of)),
    ]


def on_snapshots(ec2: Any, snapshot: str, volume: str) -> list[tuple[str, str, str, Call]]:
    """What would destroy an EBS snapshot and the data volume, or have somebody else do it."""
    tries: list[tuple[str, str, str, Call]] = []
    if snapshot:
        wrong = {"Resources": [snapshot], "Tags": [{"Key": "spotcache:verified", "Value": "false"}]}
        none = {"Resources": [snapshot], "Tags": [{"Key": "spotcache:environment"}]}
        tries += [
            ("delete a snapshot", "ec2:DeleteSnapshot", snapshot, lambda: ec2.delete_snapshot(SnapshotId=snapshot)),
            ("call it unverified", "ec2:CreateTags", snapshot, lambda: ec2.create_tags(**wrong)),
            ("take it from the environment", "ec2:DeleteTags", snapshot, lambda: ec2.delete_tags(**none)),
        ]
    if volume:
        temporary = {"Resources": [volume], "Tags": [{"Key": "spotcache:temporary", "Value": "restore"}]}
        tries += [
            ("call the volume temporary", "ec2:CreateTags", volume, lambda: ec2.create_tags(**temporary)),
            ("delete the data volume", "ec2:DeleteVolume", volume, lambda: ec2.delete_volume(VolumeId=volume)),
        ]
    return tries


def on_functions(client: Callable[[str], Any], environment: str) -> list[tuple[str, str, str, Call]]:
    """What would have that deleted, disabled or rewritten which looks after the backups."""
    name, function, rules = f"spotcache-{environment}-retention", client("lambda"), client("events")
    return [
        (
            "delete what gives up backups",
            "lambda:DeleteFunction",
            name,
            lambda: function.delete_function(FunctionName=name),
        ),
        (
            "have it keep nothing",
            "lambda:UpdateFunctionConfiguration",
            name,
            lambda: function.update_function_configuration(FunctionName=name, Timeout=300),
        ),
        ("have it called no more", "events:DisableRule", name, lambda: rules.disable_rule(Name=name)),
    ]


def main() -> int:
    """Try everything against the backup that standard input names, with its EBS snapshot where it has one."""
    from spotcache_keeper.aws.clients import make_client
    from spotcache_keeper.aws.machine import LinuxMachine
    from spotcache_keeper.config import load_config
    from spotcache_keeper.stores.manifest import MANIFEST_NAME, RDB_NAME
    from spotcache_keeper.system.commands import run_command

    asked = json.loads(sys.stdin.read())
    config = load_config(Path("/etc/spotcache/keeper.json"))

    def client(service: str) -> Any:
        return make_client(service, config.region, config.endpoint_url, config.dualstack, 10)

    def fresh() -> Any:
        return client("s3")

    s3 = fresh()
    plain = make_client("s3", config.region, s3.meta.endpoint_url.replace("https://", "http://"), "none", 10)
    volume = LinuxMachine(run_command).volume_id(config.volume_path)
    tries = [
        *on_backup(fresh, plain, config.bucket, f"{config.s3_prefix}{asked['backup']}/{RDB_NAME}"),
        *on_backup(fresh, plain, config.bucket, f"{config.s3_prefix}{asked['backup']}/{MANIFEST_NAME}"),
        *on_bucket(s3, config.bucket),
        *on_snapshots(client("ec2"), asked["snapshot"], volume),
        *on_functions(client, config.environment),
    ]
    print(json.dumps({"tries": [asdict(attempt(*one)) for one in tries]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
