"""Identity policies as IAM evaluates them: resources, tags of request and resource, wildcards, explicit denial.

moto compares actions only and knows no resource of EC2, so a policy that names volumes by their tags would be refused
whole. A host's role and the operator's policy are proven here by running under them. For services other than EC2 and
S3 the resource is not known: a statement for any resource of theirs counts, and its conditions are not looked at.
Passing a role and the policies of buckets, keys and organizations are not checked.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote_plus
from xml.sax.saxutils import unescape

from moto.core.responses import ActionResult
from moto.ec2.models import ec2_backends
from moto.iam.access_control import IAMRequestBase
from moto.iam.responses import IamResponse
from moto.s3.responses import ACTION_MAP

ANY = "?"  # a resource whose ARN is not known here
KINDS = {
    "i": "instance",
    "vol": "volume",
    "snap": "snapshot",
    "sg": "security-group",
    "subnet": "subnet",
    "vpc": "vpc",
    "lt": "launch-template",
    "rtb": "route-table",
    "igw": "internet-gateway",
    "eigw": "egress-only-internet-gateway",
    "vpce": "vpc-endpoint",
    "ami": "image",
    "eni": "network-interface",
}
MADE = {"CreateSnapshot": "snapshot", "CreateVolume": "volume"}
OWNERLESS = ("snapshot", "image")  # their ARNs have no account
# What S3 asks permission for where moto asks for something else, or for nothing, by the request's method and its query.
S3_ACTIONS = {
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
        "ownershipControls": "PutBucketOwnershipControls",
        "publicAccessBlock": "PutBucketPublicAccessBlock",
    },
    "DELETE": {
        "encryption": "PutEncryptionConfiguration",
        "ownershipControls": "PutBucketOwnershipControls",
        "publicAccessBlock": "PutBucketPublicAccessBlock",
    },
}
# Where the name in a request's signature is not the one in policies.
PREFIXES = {"monitoring": "cloudwatch"}
ID = re.compile(rf"^({'|'.join(KINDS)})-[0-9a-f]{{8,17}}$")
TAG = re.compile(r"^TagSpecification\.\d+\.Tag\.(\d+)\.(Key|Value)$|^Tag\.(\d+)\.(Key|Value)$")


@dataclass(frozen=True)
class Target:
    """One resource that an action touches, and what is known about it.

    Attributes:
        arn: of the resource, `*` where the action knows no resources, or `ANY`.
        tags: of the resource as it is now.
        action: the action itself; tagging what is being made is one of its own.
        context: further keys for conditions, such as `s3:prefix`.
    """

    arn: str
    tags: Mapping[str, str] = field(default_factory=dict)
    action: str = ""
    context: Mapping[str, str] = field(default_factory=dict)


def listed(value: Any) -> list[Any]:
    """A policy's element, which may be one thing or a list."""
    return value if isinstance(value, list) else [value]


def statements(policies: Iterable[Any]) -> list[dict[str, Any]]:
    """All statements of policy documents, given as text or decoded."""
    documents = [json.loads(p) if isinstance(p, str) else p for p in policies]
    return [statement for document in documents for statement in listed(document["Statement"])]


def decide(policies: Sequence[Any], action: str, target: Target, request_tags: Mapping[str, str]) -> str:
    """What IAM decides about one action on one resource: `allowed`, `implicitDeny` or `explicitDeny`."""
    context: dict[str, str | list[str]] = {
        "aws:tagkeys": list(request_tags),
        **{f"aws:requesttag/{key}".lower(): value for key, value in request_tags.items()},
        **{f"aws:resourcetag/{key}".lower(): value for key, value in target.tags.items()},
        **{f"ec2:resourcetag/{key}".lower(): value for key, value in target.tags.items()},
        **{key.lower(): value for key, value in target.context.items()},
    }
    found = {s["Effect"] for s in statements(policies) if _applies(s, action, target, context)}
    return "explicitDeny" if "Deny" in found else "allowed" if "Allow" in found else "implicitDeny"


def _applies(statement: Mapping[str, Any], action: str, target: Target, context: Mapping[str, str | list[str]]) -> bool:
    if "NotAction" in statement:
        if any(fnmatchcase(action.lower(), str(a).lower()) for a in listed(statement["NotAction"])):
            return False
    elif not any(fnmatchcase(action.lower(), str(a).lower()) for a in listed(statement.get("Action", []))):
        return False
    if target.arn == ANY:
        return statement["Effect"] == "Allow" or not statement.get("Condition")
    resources = [str(r) for r in listed(statement.get("Resource", "*"))]
    if not any(r == "*" or fnmatchcase(target.arn, r) or target.arn == r for r in resources):
        return False
    return all(
        _holds(operator, key, [str(v) for v in listed(wanted)], context)
        for operator, pairs in (statement.get("Condition") or {}).items()
        for key, wanted in pairs.items()
    )


def _holds(operator: str, key: str, wanted: Sequence[str], context: Mapping[str, str | list[str]]) -> bool:
    many, _, name = operator.rpartition(":")
    actual = context.get(key.lower())
    if many:
        # Of several values, of which there may be none.
        each = [_matches(name, value, wanted) for value in listed(actual)] if actual is not None else []
        return any(each) if many == "ForAnyValue" else all(each)
    if name == "Null":
        return (actual is None) == (wanted[0].lower() == "true")
    if actual is None:
        return name.endswith("IfExists") or "Not" in name
    return _matches(name.removesuffix("IfExists"), str(actual), wanted)


def _matches(operator: str, actual: str, wanted: Sequence[str]) -> bool:
    if operator in ("StringEquals", "Bool", "ArnEquals"):
        return actual in wanted
    if operator == "StringNotEquals":
        return actual not in wanted
    if operator in ("StringLike", "ArnLike"):
        return any(fnmatchcase(actual, pattern) for pattern in wanted)
    if operator == "StringNotLike":
        return not any(fnmatchcase(actual, pattern) for pattern in wanted)
    raise ValueError(f"condition operator {operator} is not known to this sandbox")


def request_tags(data: Mapping[str, Any]) -> dict[str, str]:
    """The tags that an EC2 request gives to what it makes."""
    parts: dict[str, dict[str, str]] = {}
    for name, value in data.items():
        if (match := TAG.match(name)) is not None:
            number = name.rsplit(".", 1)[0]
            parts.setdefault(number, {})[match[2] or match[4]] = _one(value)
    return {part["Key"]: part.get("Value", "") for part in parts.values() if "Key" in part}


def text(body: Any) -> str:
    """A request's body, which may be missing."""
    return body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")


def _one(value: Any) -> str:
    return str(value[0] if isinstance(value, list) else value)


def ec2_targets(action: str, data: Mapping[str, Any], account: str, region: str) -> list[Target]:
    """The resources that an EC2 request touches, each of which its caller must be allowed to touch."""
    if action.startswith("Describe"):
        return [Target("*")]
    backend = ec2_backends[account][region]
    # A tag's value may look like an id and is none; what a template names is touched only when it is launched.
    names = [name for name in data if not TAG.match(name) and not name.startswith("LaunchTemplateData.")]
    texts = [str(text) for name in names for text in listed(data[name])]
    matches = [match for match in map(ID.match, texts) if match is not None]
    found = [Target(arn_of(KINDS[m[1]], m[0], account, region), _tags(backend, m[0])) for m in matches]
    tags = request_tags(data)
    if action in MADE:
        made = arn_of(MADE[action], "*", account, region)
        found.append(Target(made))
        if tags:
            found.append(Target(made, action="ec2:CreateTags", context={"ec2:CreateAction": action}))
    elif not found or (action != "CreateTags" and action.startswith(("Create", "Run", "Import", "Allocate"))):
        found.append(Target(ANY))
    return found


def arn_of(kind: str, name: str, account: str, region: str) -> str:
    """ARN of an EC2 resource."""
    return f"arn:aws:ec2:{region}:{'' if kind in OWNERLESS else account}:{kind}/{name}"


def _tags(backend: Any, resource_id: str) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in backend.describe_tags(filters={"resource-id": [resource_id]})}


def documents_of(iam: Any, arn: str) -> list[Any]:
    """The policy documents of a user or a role, inline and attached.

    Raises ValueError for any other principal.
    """
    kind, _, name = arn.split(":")[5].partition("/")
    if kind == "user":
        inline = [iam.get_user_policy(name, p)["policy_document"] for p in iam.list_user_policies(name)]
        attached = iam.list_attached_user_policies(name)[0]
    elif kind in ("role", "assumed-role"):
        name = name.split("/")[0] if kind == "assumed-role" else name.rsplit("/", 1)[-1]
        inline = [iam.get_role_policy(name, p)[1] for p in iam.list_role_policies(name)]
        attached = iam.list_attached_role_policies(name)[0]
    else:
        raise ValueError(f"{arn} is neither a user nor a role")
    return [*inline, *(next(v for v in p.versions if v.is_default).document for p in attached)]


def close_gaps() -> None:
    """Let moto's servers decide as IAM does."""

    def check_action_permitted(request: Any, resource: str) -> None:
        service, _, name = request._action.partition(":")
        action = request._action = f"{PREFIXES.get(service, service)}:{name}"
        if action == "sts:GetCallerIdentity":
            return
        tags: Mapping[str, str] = {}
        if service == "ec2":
            targets = ec2_targets(name, request._data, request.account_id, request._region)
            tags = request_tags(request._data)
        elif service == "s3":
            prefix = re.search(r"[?&]prefix=([^&]*)", request._path)
            context = {"s3:prefix": unquote_plus(prefix[1])} if prefix else {}
            # A list of objects to delete is sent to the bucket, and each of them is asked for.
            keys = re.findall(r"<Key>(.*?)</Key>", text(request._body)) if name == "DeleteObject" else []
            objects = [f"{resource}/{unescape(key)}" for key in keys if "/" not in resource]
            targets = [Target(arn, context=context) for arn in objects or [resource]]
        else:
            targets = [Target(ANY)]
        policies = documents_of(request.backend, request._access_key.arn)
        for target in targets:
            if decide(policies, target.action or action, target, tags) != "allowed":
                request._action = target.action or action
                request._raise_access_denied()

    def simulate_principal_policy(response: Any) -> Any:
        policies = documents_of(response.backend, response._get_param("PolicySourceArn"))
        context = {
            entry["ContextKeyName"]: entry["ContextKeyValues"][0]
            for entry in response._get_param("ContextEntries", []) or []
            if entry.get("ContextKeyValues")
        }
        results = [
            {
                "EvalActionName": action,
                "EvalResourceName": resource,
                "EvalDecision": decide(policies, action, Target(resource, context=context), {}),
                "MatchedStatements": [],
                "MissingContextValues": [],
            }
            for action in response._get_param("ActionNames", [])
            for resource in response._get_param("ResourceArns", []) or ["*"]
        ]
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})

    original = IAMRequestBase._create_aws_request

    def create_aws_request(request: Any) -> Any:
        made = original(request)
        if request._method in ("GET", "HEAD", "DELETE"):
            # Signed without a body; moto would put the parsed parameters of the query there.
            made.data = request._body or b""
        return made

    for method, actions in S3_ACTIONS.items():
        ACTION_MAP["BUCKET"][method].update(actions)
    IAMRequestBase.check_action_permitted = check_action_permitted
    IAMRequestBase._create_aws_request = create_aws_request
    IamResponse.simulate_principal_policy = simulate_principal_policy
