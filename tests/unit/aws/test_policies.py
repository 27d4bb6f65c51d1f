# SPDX-License-Identifier: GPL-3.0-or-later
"""Every policy that is shipped says only what AWS knows: held against the Service Authorization Reference."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from ansible_collections.spotcache.redis.plugins.filter.partition import partition as partition_of

from sandbox import reference
from sandbox.iam import Target, decide, listed
from tests.templates.render import ROOT, render

ACCOUNT = "123456789012"
REGIONS = {"aws": "ap-northeast-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}
DOCUMENTS = sorted((ROOT / "docs" / "iam").glob("*.json"))
# What a role's templates are rendered with, everything on; {} stands for the beginning of an ARN.
SCENARIOS: dict[str, dict[str, Any]] = {
    "apcu": {
        "apcu_group": "shop-web",
        "apcu_slack_parameter": "/shop/slack",
        "apcu_slack_kms_key": "{}:kms:{region}:{account}:key/01234567-89ab-cdef-0123-456789abcdef",
        "apcu_dead_letter_arn": "{}:sqs:{region}:{account}:shop-dead",
    },
    "fallback_controller": {
        "fallback_controller_return_volume": True,
        "fallback_controller_superseded_days": 7,
        "fallback_controller_bucket": "spotcache-backups",
    },
    "drill": {},
    "keeper": {"keeper_bucket": "spotcache-backups"},
    "notify": {"notify_to": "slack"},
    "spot_host": {
        "spot_host_bucket": "spotcache-backups",
        "spot_host_topic_arn": "{}:sns:{region}:{account}:spotcache-stg",
        "spot_host_dns_zone_id": "Z0123456789ABCDEFGHIJ",
        "spot_host_dns_zone_name": "spotcache.internal",
        "spot_host_dns_name": "redis.stg.spotcache.internal",
        "spot_host_data_volume_kms_key": "{}:kms:{region}:{account}:key/01234567-89ab-cdef-0123-456789abcdef",
        "spot_host_connection": "ssm",
        "spot_host_bake": True,
    },
}
# The same with what can be left out or chosen otherwise.
PLAIN: dict[str, dict[str, Any]] = {
    "apcu": {"apcu_group": "shop-web", "apcu_slack_parameter": "", "apcu_dead_letter_arn": ""},
    "fallback_controller": {
        "fallback_controller_return_volume": False,
        "fallback_controller_superseded_days": 0,
        "fallback_controller_bucket": "",
    },
    "keeper": {"keeper_bucket": "spotcache-backups", "keeper_lock_days": 0},
    "notify": {"notify_to": "mail"},
    "spot_host": {
        "spot_host_bucket": "spotcache-backups",
        "spot_host_topic_arn": "",
        "spot_host_dns_zone_id": "",
        "spot_host_data_volume_kms_key": "",
        "spot_host_connection": "eice",
        "spot_host_bake": False,
    },
}
TEMPLATES = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "roles").glob("*/templates/*.j2")
    if re.search(r"policy|trust", path.name)
)
# A managed policy may have this many characters, a role's own ones this many together; white space does not count.
MANAGED_MAX, INLINE_MAX = 6144, 10240


def line_of(text: str, sid: str, pattern: str) -> int:
    """Where a statement names an action; 0 where the text does not show it."""
    lines = text.splitlines()
    begin = next((number for number, line in enumerate(lines) if sid and f'"{sid}"' in line), 0)
    return next((number for number, line in enumerate(lines[begin:], begin + 1) if f'"{pattern}"' in line), 0)


def faults(name: str, document: dict[str, Any], text: str = "") -> Iterator[str]:
    """What AWS does not know of what a policy says, or what it says in vain; each names file, line and statement."""
    statements = listed(document["Statement"])
    # A resource policy, or one of trust: it names who, and is about the thing that it is attached to.
    attached = any("Principal" in statement for statement in statements)
    for number, statement in enumerate(statements, 1):
        for pattern in listed(statement.get("Action", [])):
            sid = str(statement.get("Sid", ""))
            place = f"{name}:{line_of(text, sid, pattern)}: statement {sid or number}, {pattern}"
            meant = [reference.action(one) for one in reference.expand(pattern)]
            if not meant:
                yield f"{place}: there is no such action"
            for action in meant:
                yield from (f"{place}: {fault}" for fault in _faults(action, statement, attached))
    if not attached:
        yield from (f"{name}: {fault}" for fault in missing(statements))


def _faults(action: reference.Action, statement: dict[str, Any], attached: bool) -> Iterator[str]:
    resources = [str(one) for one in listed(statement.get("Resource", "*"))]
    kinds = [kind for kind in action.kinds if any(reference.fits(resource, kind.arn) for resource in resources)]
    if not attached and not action.kinds and "*" not in resources:
        yield "it has no resource types, so that only the resource * means it"
    elif action.kinds and not kinds:
        yield f"its resource types are {', '.join(kind.name for kind in action.kinds)}, and no resource here is one"
    keys = set(action.keys).union(*(kind.keys for kind in kinds))
    # Amazon EventBridge user guide, "Using resource-based policies": no condition ever holds for it there.
    by_rule = action.name.lower() == "sns:publish" and "events.amazonaws.com" in services(statement)
    if by_rule and statement.get("Condition"):
        yield "EventBridge publishes to no topic whose policy has a condition"
    for operator, pairs in (statement.get("Condition") or {}).items():
        for key in pairs:
            if not reference.known(key, keys):
                yield f"{operator} {key}: neither it nor its resource types have this key"


def services(statement: dict[str, Any]) -> list[str]:
    """The services that a statement lets in."""
    who = statement.get("Principal")
    return [str(one) for one in listed(who.get("Service", []))] if isinstance(who, dict) else []


def missing(statements: list[dict[str, Any]]) -> Iterator[str]:
    """Actions of which no statement allows a resource type that they always touch."""
    allowed = [statement for statement in statements if statement["Effect"] == "Allow"]
    for name in sorted({n for s in allowed for p in listed(s.get("Action", [])) for n in reference.expand(p)}):
        action = reference.action(name)
        # What tags things of several types is told one of them, although the reference calls each required.
        for kind in () if re.search("Tags?(For|From|To|Of)?", name) else action.kinds:
            mine = [s for s in allowed if name in {n for p in listed(s.get("Action", [])) for n in reference.expand(p)}]
            if kind.required and not any(_covers(statement, action, kind) for statement in mine):
                yield f"{name}: it always touches a {kind.name}, and no statement allows it one"


def _covers(statement: dict[str, Any], action: reference.Action, kind: reference.Kind) -> bool:
    if not any(reference.fits(str(one), kind.arn) for one in listed(statement.get("Resource", "*"))):
        return False
    return all(
        reference.known(key, action.keys | kind.keys)
        for operator, pairs in (statement.get("Condition") or {}).items()
        if "Not" not in operator and not operator.startswith("ForAllValues") and not operator.endswith("IfExists")
        for key in pairs
    )


@cache
def rendered(template: Path, partition: str, plain: bool = False) -> str:
    role, region = template.parts[1], REGIONS[partition]

    def filled(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.replace("{}", f"arn:{partition}").replace("{region}", region).replace("{account}", ACCOUNT)

    caller = {"account": ACCOUNT, "arn": f"arn:{partition}:iam::{ACCOUNT}:user/me", "changed": False}
    scenario = {key: filled(value) for key, value in (PLAIN if plain else SCENARIOS)[role].items()}
    scenario |= {f"{role}_environment": "stg", f"{role}_region": region, f"{role}__caller": caller}
    return render(role, template.name, scenario)


def shipped() -> Iterator[Any]:
    for path in DOCUMENTS:
        yield pytest.param(str(path.relative_to(ROOT)), path.read_text(), id=path.name)
    for template in TEMPLATES:
        for partition in REGIONS:
            yield pytest.param(
                str(template), (template, partition), id=f"{template.parts[1]}-{template.name}-{partition}"
            )
        if template.parts[1] in PLAIN:
            yield pytest.param(str(template), (template, "aws", True), id=f"{template.parts[1]}-{template.name}-plain")


def text_of(source: Any) -> str:
    return source if isinstance(source, str) else rendered(*source)


@pytest.mark.parametrize(("name", "source"), list(shipped()))
def test_a_policy_says_only_what_aws_knows(name: str, source: Any) -> None:
    assert list(faults(name, json.loads(text_of(source)), (ROOT / name).read_text())) == []


@pytest.mark.parametrize("partition", list(REGIONS))
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: f"{path.parts[1]}-{path.name}")
def test_an_arn_is_of_the_partition_that_the_region_is_in(template: Path, partition: str) -> None:
    assert set(re.findall(r"\barn:([a-z-]+):", rendered(template, partition))) <= {partition}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_no_longer_than_a_managed_policy_may_be(path: Path) -> None:
    assert len(re.sub(r"\s", "", path.read_text())) <= MANAGED_MAX


@pytest.mark.parametrize("template", [one for one in TEMPLATES if one.name.endswith("policy.json.j2")], ids=str)
def test_a_roles_policy_is_no_longer_than_it_may_be(template: Path) -> None:
    assert len(re.sub(r"\s", "", rendered(template, "aws-us-gov"))) <= INLINE_MAX


BAD = [
    ({"Action": "ec2:DescribeVolume", "Resource": "*"}, "there is no such action"),
    ({"Action": "ec2:Glance*", "Resource": "*"}, "there is no such action"),
    ({"Action": "dlm:CreateLifecyclePolicy", "Resource": "arn:aws:dlm:*:*:policy/*"}, "only the resource *"),
    ({"Action": "s3:GetObject", "Resource": "arn:aws:s3:::backups"}, "no resource here is one"),
    ({"Action": "s3:ListBucket", "Resource": "arn:aws:s3:::backups/*"}, "no resource here is one"),
    ({"Action": "ec2:DeleteVolume", "Resource": "arn:aws:ec2:*::snapshot/*"}, "no resource here is one"),
    (
        {"Action": "ec2:CreateVpc", "Resource": "*", "Condition": {"StringEquals": {"aws:ResourceTag/team": "a"}}},
        "always touches a vpc",
    ),
    (
        {"Action": "iam:PassRole", "Resource": "*", "Condition": {"ArnLike": {"iam:PermissionsBoundary": "*"}}},
        "have this key",
    ),
    (
        {"Action": "route53:GetHostedZone", "Resource": "*", "Condition": {"Null": {"aws:ResourceTag/team": "true"}}},
        "have this key",
    ),
    ({"Action": "ec2:AttachVolume", "Resource": "arn:aws:ec2:*:*:volume/*"}, "always touches a instance"),
    (
        {
            "Principal": {"Service": ["events.amazonaws.com", "ssm.amazonaws.com"]},
            "Action": "sns:Publish",
            "Resource": "arn:aws:sns:*:*:told",
            "Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}},
        },
        "EventBridge publishes to no topic",
    ),
    (
        {"Action": "ec2:CreateVpcEndpoint", "Resource": "*", "Condition": {"StringEquals": {"aws:ResourceTag/a": "b"}}},
        "always touches a vpc-endpoint",
    ),
]


@pytest.mark.parametrize(("statement", "fault"), BAD, ids=[one[1] for one in BAD])
def test_a_fault_is_named_with_its_place(statement: dict[str, Any], fault: str) -> None:
    document = {"Statement": [{"Sid": "There", "Effect": "Allow", **statement}]}
    text = json.dumps(document, indent=2)
    line = next(number for number, line in enumerate(text.splitlines(), 1) if '"Action"' in line)
    found = list(faults("here.json", document, text))
    assert [one for one in found if fault in one and one.startswith((f"here.json:{line}: ", "here.json: "))]
    assert all(statement["Action"] in one for one in found)


def test_the_partition_of_every_region_is_as_botocore_has_it() -> None:
    session = botocore.session.Session()
    known = {
        region: name
        for name in session.get_available_partitions()
        for region in session.get_available_regions("ec2", name)
    }
    assert len(known) > 30
    assert {region: partition_of(region) for region in known} == known


@pytest.mark.parametrize(
    ("role", "decision"), [("spotcache-stg-lifecycle", "allowed"), ("spotcache-stg", "boundary"), ("x", "boundary")]
)
def test_lifecycle_manager_alone_tags_a_snapshot_that_has_no_tag_yet(role: str, decision: str) -> None:
    boundary = json.loads((ROOT / "docs" / "iam" / "spotcache-boundary.json").read_text())
    own = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    snapshot = Target(f"arn:aws:ec2:ap-northeast-1::snapshot/snap-{17 * '0'}", {})
    context: dict[str, str | list[str]] = {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/{role}"}
    tags = {"spotcache:environment": "stg"}
    assert decide([own], "ec2:CreateTags", snapshot, tags, boundary=boundary, context=context) == decision


HOST = Path("roles/spot_host/templates/policy.json.j2")
RETENTION = Path("roles/keeper/templates/retention_policy.json.j2")
BACKUP = "arn:aws:s3:::spotcache-backups/stg/backups/20261122T001503Z-3f9a1c/dump.rdb"


def allowed(template: Path, service: str, arn: str, tags: dict[str, str] | None = None, **context: str) -> set[str]:
    """Which of a service's actions a role may do to one thing that is there."""
    policy = json.loads(rendered(template, "aws"))
    target = Target(
        arn, tags or {}, context={key.replace("__", ":").replace("_", "-"): v for key, v in context.items()}
    )
    # To describe is to look, and EC2 knows no resources for it.
    names = [f"{service}:{name}" for name in reference.services_actions(service) if not name.startswith("Describe")]
    return {name for name in names if decide([policy], name, target, {}) == "allowed"}


def test_a_host_adds_backups_and_takes_none_away() -> None:
    """Of all that S3 and EC2 know, and whatever they will know that the reference has."""
    reads = {"s3:GetObject", "s3:AbortMultipartUpload"}
    assert allowed(HOST, "s3", BACKUP) == reads
    assert allowed(HOST, "s3", BACKUP, s3__if_match="x") == reads
    assert allowed(HOST, "s3", BACKUP, s3__if_none_match="*") == reads | {"s3:PutObject"}
    assert allowed(HOST, "s3", BACKUP, s3__ObjectCreationOperation="false") == reads | {"s3:PutObject"}
    assert allowed(HOST, "s3", BACKUP, s3__ObjectCreationOperation="true") == reads
    assert allowed(HOST, "s3", "arn:aws:s3:::spotcache-backups") == set()
    own = {"spotcache:environment": "stg", "spotcache:backup": "1"}
    snapshot = f"arn:aws:ec2:ap-northeast-1::snapshot/snap-{17 * '0'}"
    assert allowed(HOST, "ec2", snapshot, own) == {"ec2:CreateVolume"}
    # Nor another's.
    assert allowed(HOST, "s3", BACKUP.replace("/stg/", "/prod/"), s3__if_none_match="*") == set()


@pytest.mark.parametrize(
    ("names", "decision"),
    [
        (["redis.stg.spotcache.internal"], "allowed"),
        (["redis.prod.spotcache.internal"], "implicitDeny"),
        (["redis.stg.spotcache.internal", "redis.prod.spotcache.internal"], "implicitDeny"),
        ([], "implicitDeny"),
    ],
)
def test_a_host_moves_its_own_environments_name_alone(names: list[str], decision: str) -> None:
    """The zone may be one that environments share."""
    zone = "arn:aws:route53:::hostedzone/Z0123456789ABCDEFGHIJ"
    key = "route53:ChangeResourceRecordSetsNormalizedRecordNames"
    target = Target(zone, {}, context={key: names} if names else {})
    policy = json.loads(rendered(HOST, "aws"))
    assert decide([policy], "route53:ChangeResourceRecordSets", target, {}) == decision


def test_what_gives_backups_up_may_not_get_past_a_lock_nor_write_one() -> None:
    manifest = BACKUP.replace("dump.rdb", "manifest.json")
    assert allowed(RETENTION, "s3", BACKUP) == {"s3:DeleteObjectVersion", "s3:PutObjectRetention"}
    assert allowed(RETENTION, "s3", manifest) - allowed(RETENTION, "s3", BACKUP) == {"s3:GetObject"}
    lease = "arn:aws:s3:::spotcache-backups/stg/keeper/lease.json"
    assert allowed(RETENTION, "s3", lease) == {"s3:GetObject"}
    snapshot = f"arn:aws:ec2:ap-northeast-1::snapshot/snap-{17 * '0'}"
    assert allowed(RETENTION, "ec2", snapshot, {"spotcache:environment": "stg", "spotcache:backup": "1"}) == {
        "ec2:DeleteSnapshot"
    }
    # Those of Data Lifecycle Manager carry no backup's id.
    assert allowed(RETENTION, "ec2", snapshot, {"spotcache:environment": "stg"}) == set()
