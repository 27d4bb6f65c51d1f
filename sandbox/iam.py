"""Policies as IAM evaluates them: every request, by action, resource and condition keys.

What an action touches and which condition keys there are comes from the Service Authorization Reference (`reference`,
`targets`); a key that the reference does not give an action is not there, whoever asks for it. A permissions boundary
is an intersection, an explicit denial wins, what services may do is said by trust and resource policies. An action that
this sandbox cannot tell the resource of is an error.

Left out, since nothing here has them: policies of organizations and of sessions, and the resource policies of keys.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import functools
import ipaddress
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse
from xml.sax.saxutils import escape

from botocore.auth import S3SigV4Auth, SigV4Auth
from moto import settings
from moto.autoscaling.models import autoscaling_backends
from moto.awslambda.models import lambda_backends
from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.exceptions import AccessDeniedError, ServiceException
from moto.core.request import determine_request_protocol
from moto.core.responses import PROTOCOL_PARSERS, ActionResult, get_service_model
from moto.ec2.models import ec2_backends
from moto.iam import access_control
from moto.iam.access_control import IAMRequestBase
from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends
from moto.iam.responses import IamResponse
from moto.s3.exceptions import S3AccessDeniedError
from moto.utilities.utils import get_partition

from sandbox import buckets, reference
from sandbox.targets import Launch, Request, Underivable, action_of, targets
from sandbox.targets import Target as Target  # part of what this module speaks of

log = logging.getLogger("sandbox")

# What IAM lets everybody ask, whatever policies say.
FREE = ("sts:GetCallerIdentity",)
# The error codes of services that do not say AccessDenied.
DENIALS = {"ec2": "UnauthorizedOperation", "sns": "AuthorizationError"}
REASONS = {
    "explicitDeny": "with an explicit deny in an identity-based policy",
    "implicitDeny": "because no identity-based policy allows the {action} action",
    "boundary": "because no permissions boundary allows the {action} action",
    "resourceDeny": "with an explicit deny in a resource-based policy",
}
# By these names hosts ask AWS; whoever asks at an address of this machine stands for somebody who asks by HTTPS.
AWS_NAMES = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


@dataclass(frozen=True)
class Principal:
    """Who asks, and the policies that say what it may.

    Attributes:
        arn: as the caller's identity is told.
        policies: documents of its identity policies.
        boundary: the document of its permissions boundary, or None.
    """

    arn: str
    policies: Sequence[Any]
    boundary: Any = None


def listed(value: Any) -> list[Any]:
    """A policy's element, which may be one thing or a list."""
    return value if isinstance(value, list) else [value]


def statements(policies: Iterable[Any]) -> list[dict[str, Any]]:
    """All statements of policy documents, given as text or decoded."""
    documents = [_read(p) if isinstance(p, str) else p for p in policies]
    return [statement for document in documents for statement in listed(document["Statement"])]


@functools.lru_cache(maxsize=256)
def _read(text: str) -> Any:
    return json.loads(text)


def decide(
    policies: Sequence[Any],
    action: str,
    target: Target,
    request_tags: Mapping[str, str],
    boundary: Any = None,
    context: Mapping[str, str | list[str]] | None = None,
    tags_of: Callable[[str], Mapping[str, str]] | None = None,
) -> str:
    """What IAM decides about one action on one resource: `allowed`, `implicitDeny`, `explicitDeny` or `boundary`.

    `context` has the keys of the whole request, such as aws:SourceIp. `tags_of` tells a resource's tags by its ARN;
    it is asked only when a condition does. Raises KeyError for an action that the reference does not have.
    """
    known = Context(action, target, request_tags, context or {}, tags_of)
    said = _said(policies, action, target, known)
    limit = {"Allow"} if boundary is None else _said([boundary], action, target, known)
    if "Deny" in said | limit:
        return "explicitDeny"
    if "Allow" not in said:
        return "implicitDeny"
    return "allowed" if "Allow" in limit else "boundary"


def simulate(who: Principal, action: str, resource: str, context: Mapping[str, str | list[str]]) -> str:
    """The policy simulator's word: the keys that it is given are there, whether the action has them or not."""
    target = Target(resource, {})
    given = Context(action, target, {}, context, None)
    given.keys = frozenset(reference.plain(key) for key in context)
    said = _said(who.policies, action, target, given)
    limit = {"Allow"} if who.boundary is None else _said([who.boundary], action, target, given)
    return "explicitDeny" if "Deny" in said | limit else "allowed" if "Allow" in said & limit else "implicitDeny"


# What IAM's simulator puts in by itself where nobody gives it.
_SIMULATED = frozenset(
    {"aws:currenttime", "aws:epochtime", "aws:principalarn", "aws:principalaccount", "aws:userid", "aws:username"}
)


def not_told(who: Principal, action: str, resource: str, context: Mapping[str, Any]) -> list[str]:
    """The condition keys of what may decide about an action on a resource that the simulator was not given."""
    policies = [*who.policies, *([] if who.boundary is None else [who.boundary])]
    given = {key.lower() for key in context} | _SIMULATED
    concerned = [s for s in statements(policies) if _is_about(s, action, Target(resource, {}))]
    named = {key for s in concerned for pairs in (s.get("Condition") or {}).values() for key in pairs}
    return sorted(key for key in named if key.lower() not in given)


def _said(policies: Sequence[Any], action: str, target: Target, context: Context) -> set[str]:
    return {s["Effect"] for s in statements(policies) if _applies(s, action, target, context)}


class Context:
    """The condition keys of one action on one resource: those that the reference has for them, and the global ones."""

    def __init__(
        self,
        action: str,
        target: Target,
        request_tags: Mapping[str, str],
        more: Mapping[str, str | list[str]],
        tags_of: Callable[[str], Mapping[str, str]] | None,
    ) -> None:
        entry = reference.action(action)
        kinds = [kind for kind in entry.kinds if kind.name == target.kind] or [
            kind for kind in entry.kinds if target.arn != "*" and reference.fits(target.arn, kind.arn)
        ]
        self.keys = entry.keys.union(*(kind.keys for kind in kinds))
        self.target, self.tags_of = target, tags_of
        wanted = request_tags if target.wanted is None else target.wanted
        self.values: dict[str, str | list[str]] = {key.lower(): value for key, value in more.items()}
        self.values |= {key.lower(): value for key, value in target.context.items()}
        self.values |= {f"aws:requesttag/{key}".lower(): value for key, value in wanted.items()}
        if wanted:
            self.values["aws:tagkeys"] = list(wanted)

    def get(self, key: str) -> str | list[str] | None:
        """The value of a condition key, or None when such a request has none."""
        key = key.lower()
        if not reference.known(key, self.keys):
            return None
        if key not in self.values and re.match(r"^[a-z0-9-]+:resourcetag/", key):
            return self._tags().get(key.partition("/")[2])
        return self.values.get(key)

    def _tags(self) -> dict[str, str]:
        tags = self.target.tags
        if tags is None:
            if self.tags_of is None:
                raise Underivable(f"the tags of {self.target.arn} are not known")
            tags = self.tags_of(self.target.arn)
        return {key.lower(): value for key, value in tags.items()}


def glob(pattern: str, text: str, ignore_case: bool = False) -> bool:
    """Whether a policy's pattern, in which `*` and `?` stand for any characters, matches a text."""
    return (
        _pattern(pattern.lower() if ignore_case else pattern).fullmatch(text.lower() if ignore_case else text)
        is not None
    )


def arn_glob(pattern: str, arn: str) -> bool:
    """Whether a pattern matches an ARN as conditions on ARNs compare them: each of the six parts for itself.

    The last part is all that follows the fifth colon. What has fewer parts is no ARN, and matches none.
    """
    have, may = arn.split(":", 5), pattern.split(":", 5)
    return len(have) == len(may) == 6 and all(glob(one, other) for one, other in zip(may, have, strict=True))


@functools.lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _applies(statement: Mapping[str, Any], action: str, target: Target, context: Context) -> bool:
    return _is_about(statement, action, target) and all(
        _holds(operator, key, [str(v) for v in listed(wanted)], context)
        for operator, pairs in (statement.get("Condition") or {}).items()
        for key, wanted in pairs.items()
    )


def _is_about(statement: Mapping[str, Any], action: str, target: Target) -> bool:
    if "NotAction" in statement:
        if any(glob(str(a), action, True) for a in listed(statement["NotAction"])):
            return False
    elif not any(glob(str(a), action, True) for a in listed(statement.get("Action", []))):
        return False
    if "NotResource" in statement:
        return not any(glob(str(r), target.arn) for r in listed(statement["NotResource"]))
    return any(glob(str(r), target.arn) for r in listed(statement.get("Resource", "*")))


def _holds(operator: str, key: str, wanted: Sequence[str], context: Any) -> bool:
    many, _, name = operator.rpartition(":")
    actual = context.get(key)
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
    if "Not" in operator:
        return not _matches(operator.replace("Not", ""), actual, wanted)
    if operator == "StringEquals":
        return actual in wanted
    if operator in ("Bool", "StringEqualsIgnoreCase"):
        return actual.lower() in [one.lower() for one in wanted]
    if operator == "StringLike":
        return any(glob(pattern, actual) for pattern in wanted)
    if operator in ("ArnLike", "ArnEquals"):
        return any(arn_glob(pattern, actual) for pattern in wanted)
    if operator == "NumericEquals":
        return float(actual) in map(float, wanted)
    if operator == "IpAddress":
        return any(ipaddress.ip_address(actual) in ipaddress.ip_network(one, strict=False) for one in wanted)
    raise ValueError(f"condition operator {operator} is not known to this sandbox")


# -- who ---------------------------------------------------------------------------------------------------------------


def documents_of(iam: Any, arn: str) -> list[Any]:
    """The policy documents of a user or a role, inline and attached.

    Raises ValueError for any other principal.
    """
    kind, _, name = arn.split(":")[5].partition("/")
    if kind == "user":
        name = name.rsplit("/", 1)[-1]
        inline = [iam.get_user_policy(name, p)["policy_document"] for p in iam.list_user_policies(name)]
        attached = iam.list_attached_user_policies(name)[0]
        for group in iam.get_groups_for_user(name):
            inline += [
                iam.get_group_policy(group.name, p)["policy_document"] for p in iam.list_group_policies(group.name)
            ]
            attached = [*attached, *iam.list_attached_group_policies(group.name)[0]]
    elif kind in ("role", "assumed-role"):
        name = name.split("/")[0] if kind == "assumed-role" else name.rsplit("/", 1)[-1]
        inline = [iam.get_role_policy(name, p)[1] for p in iam.list_role_policies(name)]
        attached = iam.list_attached_role_policies(name)[0]
    else:
        raise ValueError(f"{arn} is neither a user nor a role")
    return [*inline, *(document_of(policy) for policy in attached)]


def document_of(policy: Any) -> Any:
    """The document in force of a managed policy."""
    return next(version for version in policy.versions if version.is_default).document


def boundary_of(iam: Any, arn: str) -> Any:
    """The document of a role's permissions boundary, or None; users have none here.

    A boundary whose policy is gone allows nothing, as on AWS.
    """
    kind, _, name = arn.split(":")[5].partition("/")
    if kind == "user":
        return None
    role = iam.get_role(name.split("/")[0] if kind == "assumed-role" else name.rsplit("/", 1)[-1])
    if not role.permissions_boundary_arn:
        return None
    try:
        return document_of(iam.get_policy(role.permissions_boundary_arn))
    except NotFoundException:
        return {"Statement": []}


def principal(iam: Any, arn: str) -> Principal:
    """Who has this ARN. Raises ValueError for neither user nor role, moto's NotFoundException when it is gone."""
    return Principal(arn, documents_of(iam, arn), boundary_of(iam, arn))


def trusts(role: Any, service: str, context: Mapping[str, str]) -> bool:
    """Whether a role's trust policy lets a service assume it."""
    document = role.assume_role_policy_document
    return _attached([document], service, "sts:AssumeRole", context)


def permits(policy: Any, service: str, action: str, context: Mapping[str, str]) -> bool:
    """Whether a resource policy lets a service act; `context` has aws:SourceArn and aws:SourceAccount."""
    return bool(policy) and _attached([policy], service, action, context)


def _attached(policies: Sequence[Any], service: str, action: str, context: Mapping[str, str]) -> bool:
    values = {key.lower(): value for key, value in context.items()}

    class Given:
        """The context, by lower case."""

        def get(self, key: str) -> str | None:
            """The value of a key, or None."""
            return values.get(key.lower())

    said = set()
    for statement in statements(policies):
        who = statement.get("Principal")
        named = listed(who.get("Service", [])) if isinstance(who, Mapping) else []
        if who != "*" and service not in named and not (isinstance(who, Mapping) and who.get("AWS") == "*"):
            continue
        if not any(glob(str(a), action, True) for a in listed(statement.get("Action", []))):
            continue
        if all(
            _holds(operator, key, [str(v) for v in listed(wanted)], Given())
            for operator, pairs in (statement.get("Condition") or {}).items()
            for key, wanted in pairs.items()
        ):
            said.add(statement["Effect"])
    return said == {"Allow"}


def attached(policy: Any, arn: str, action: str, target: Target, context: Mapping[str, str | list[str]]) -> set[str]:
    """What the policy of a resource says about somebody of the same account: `Allow`, `Deny`, both or neither."""
    known = Context(action, target, {}, context, None)
    role = re.sub(r":sts:(.*):assumed-role/([^/]+)/.*", r":iam:\1:role/\2", arn)
    names = {"*", arn, role, arn.split(":")[4], ":".join([*arn.split(":")[:2], "iam", "", arn.split(":")[4], "root"])}
    said = set()
    for statement in statements([policy]):
        who = statement.get("Principal")
        named = listed(who.get("AWS", [])) if isinstance(who, Mapping) else [who]
        if names & set(map(str, named)) and _applies(statement, action, target, known):
            said.add(str(statement["Effect"]))
    return said


def arn_of(kind: str, name: str, account: str, region: str) -> str:
    """ARN of an EC2 resource that belongs to an account."""
    return f"arn:{get_partition(region)}:ec2:{region}:{account}:{kind}/{name}"


# -- what is there -----------------------------------------------------------------------------------------------------


class Account:
    """What a decision must know of an account: tags of resources, ARNs of what requests name otherwise."""

    def __init__(self, account: str, region: str) -> None:
        self.account, self.region, self.partition = account, region, get_partition(region)

    @property
    def iam(self) -> Any:
        """Moto's IAM."""
        return iam_backends[self.account][self.partition]

    @property
    def ec2(self) -> Any:
        """Moto's EC2."""
        return ec2_backends[self.account][self.region]

    def request(self, action: str, parameters: Mapping[str, Any]) -> Request:
        """A request of this account."""
        return Request(
            action,
            parameters,
            self.account,
            self.region,
            self.partition,
            self.role,
            self.group,
            self.launch,
            self.related,
            self.known,
        )

    def known(self, action: str, parameters: Mapping[str, Any]) -> Mapping[str, str]:
        """Condition keys of a service's own that what is there tells."""
        if action.startswith("iam:"):
            named = [one for one in self.iam.roles.values() if one.name == parameters.get("RoleName")]
            bounds = [str(one.permissions_boundary_arn) for one in named if one.permissions_boundary_arn]
            return {"iam:PermissionsBoundary": bounds[0]} if bounds else {}
        if action.endswith("EventSourceMapping"):
            mappings = lambda_backends[self.account][self.region]._event_source_mappings
            mapping = mappings.get(parameters.get("UUID"))
            return {"lambda:FunctionArn": str(mapping.function_arn)} if mapping is not None else {}
        return {}

    def related(self, action: str, parameters: Mapping[str, Any]) -> list[str]:
        """Ids of EC2 that an action touches besides those that the parameters name."""
        if action == "ec2:DisassociateRouteTable":
            wanted = parameters.get("AssociationId")
            tables = [one for one in self.ec2.route_tables.values() if wanted in one._associations]
            return [text for one in tables for text in (one.id, one._associations[wanted])]
        if action == "ec2:DetachVolume":
            volume = self.ec2.volumes.get(parameters.get("VolumeId"))
            return [volume.attachment.instance.id] if volume is not None and volume.attachment else []
        if action == "ec2:CreateSnapshots":
            held_by = (parameters.get("InstanceSpecification") or {}).get("InstanceId", "")
            attached = [one for one in self.ec2.volumes.values() if one.attachment]
            return [held_by, *(one.id for one in attached if one.attachment.instance.id == held_by)]
        return []

    def role(self, name: str) -> str:
        """The ARN of a role, with its path; empty when there is none."""
        found = self.iam.roles.values()
        return next((role.arn for role in found if name in (role.name, role.arn)), "")

    def group(self, name: str) -> str:
        """The ARN of an Auto Scaling group; empty when there is none."""
        group = autoscaling_backends[self.account][self.region].autoscaling_groups.get(name)
        return str(group.arn) if group is not None else ""

    def launch(self, parameters: Mapping[str, Any]) -> Launch | None:
        """What a request with a launch template would launch, or None without one."""
        given = parameters.get("LaunchTemplate") or (
            ((parameters.get("MixedInstancesPolicy") or {}).get("LaunchTemplate") or {}).get(
                "LaunchTemplateSpecification"
            )
        )
        given = given or {key: parameters.get(key) for key in ("LaunchTemplateId", "LaunchTemplateName")}
        wanted = given.get("LaunchTemplateId") or given.get("LaunchTemplateName")
        found = [one for one in self.ec2.launch_templates.values() if wanted in (one.id, one.name)]
        if not found:
            return None
        template = found[0]
        data = template.get_version(given.get("Version") or "$Default").data
        interfaces = data.get("NetworkInterfaces") or []
        profile = data.get("IamInstanceProfile") or {}
        zones = parameters.get("VPCZoneIdentifier") or getattr(
            autoscaling_backends[self.account][self.region].autoscaling_groups.get(
                parameters.get("AutoScalingGroupName")
            ),
            "vpc_zone_identifier",
            "",
        )
        arn = f"arn:{self.partition}:ec2:{self.region}:{self.account}:launch-template/{template.id}"
        run = {
            "ImageId": data.get("ImageId") or "",
            "SecurityGroupIds": [
                *(data.get("SecurityGroupIds") or []),
                *(group for one in interfaces for group in one.get("Groups") or []),
            ],
            "SubnetIds": [one for one in str(zones or "").split(",") if one],
            "KeyName": data.get("KeyName"),
            "LaunchTemplateId": template.id,
            "TagSpecifications": data.get("TagSpecifications") or [],
            "is_template": arn,
        }
        return Launch(template.id, run, self._profile_role(profile))

    def _profile_role(self, profile: Mapping[str, Any]) -> str:
        for one in self.iam.instance_profiles.values():
            if one.name == profile.get("Name") or one.arn == profile.get("Arn"):
                return next((str(role.arn) for role in one.roles), "")
        return ""

    def tags(self, arn: str) -> Mapping[str, str]:
        """The tags that a resource has now. Raises Underivable for services whose tags are not looked up."""
        service, resource = arn.split(":")[2], arn.split(":", 5)[5]
        name = resource.rsplit("/", 1)[-1]
        if service == "ec2":
            if resource.startswith("key-pair/"):
                pair = next((one for one in self.ec2.key_pairs.values() if name in (one.key_name, one.id)), None)
                name = pair.id if pair is not None else name
            rows = self.ec2.describe_tags(filters={"resource-id": [name]})
            return {row["key"]: row["value"] for row in rows}
        if service == "iam" and resource.startswith("role/"):
            return _pairs(getattr(self.iam.roles.get(self._role_id(name)), "tags", {}))
        if service == "autoscaling":
            groups = autoscaling_backends[self.account][self.region].autoscaling_groups
            return {tag["Key"]: tag["Value"] for tag in getattr(groups.get(name), "tags", None) or []}
        return self._generic(service, arn)

    def _generic(self, service: str, arn: str) -> Mapping[str, str]:
        looked = TAGS.get(service)
        if looked is None:
            raise Underivable(
                f"a policy asks for the tags of {arn}: teach sandbox/iam.py to look at those of {service}"
            )
        return looked(self, arn)

    def _role_id(self, name: str) -> str:
        return next((key for key, role in self.iam.roles.items() if role.name == name), "")


# How to look up the tags of a service's resources, by its prefix; a service made for the sandbox puts its own here.
TAGS: dict[str, Callable[[Account, str], Mapping[str, str]]] = {}


def _pairs(tags: Any) -> dict[str, str]:
    rows = tags.values() if isinstance(tags, Mapping) else tags or []
    if isinstance(tags, Mapping) and all(isinstance(value, str) for value in tags.values()):
        return {str(key): str(value) for key, value in tags.items()}
    return {str(row["Key"]): str(row["Value"]) for row in rows}


def role_may(
    account: str,
    region: str,
    role_arn: str,
    action: str,
    parameters: Mapping[str, Any],
    context: Mapping[str, str | list[str]] | None = None,
) -> bool:
    """Whether a role may make a request: what a service asks that acts in its name."""
    here = Account(account, region)
    try:
        who = principal(here.iam, role_arn)
    except NotFoundException:
        return False
    return refusal(here, who, here.request(action, parameters), context or {}) is None


def unlimited(who: Principal) -> bool:
    """Whether everything is allowed, whatever a request touches: the account's owner in a sandbox."""
    return who.boundary is None and statements(who.policies) == [{"Effect": "Allow", "Action": "*", "Resource": "*"}]


def refusal(
    here: Account, who: Principal, request: Request, context: Mapping[str, str | list[str]]
) -> tuple[str, str, str] | None:
    """Why a request is refused: action, resource and IAM's word; None when it is allowed."""
    policy = (
        buckets.policy_of(here.account, here.region, request.parameters["arn"]) if request.service == "s3" else None
    )
    if unlimited(who) and policy is None:
        return None
    common = {
        "aws:RequestedRegion": here.region,
        "aws:PrincipalArn": who.arn,
        "aws:PrincipalAccount": here.account,
        **context,
    }
    for target in targets(request):
        action = target.action or request.action
        word = decide(who.policies, action, target, {}, who.boundary, common, here.tags)
        if policy is not None:
            said = attached(policy, who.arn, action, target, common)
            # Within one account a resource's own policy allows as well as the caller's does.
            word = (
                "resourceDeny" if "Deny" in said else "allowed" if "Allow" in said and word == "implicitDeny" else word
            )
        if word != "allowed":
            return action, target.arn, word
    return None


# -- moto --------------------------------------------------------------------------------------------------------------


class Denied(AccessDeniedError):
    """A request that its caller may not make, in the words of the service that refuses it."""

    def __init__(self, code: str, message: str) -> None:
        super(AccessDeniedError, self).__init__(code, message)


class S3Denied(S3AccessDeniedError):
    """The same from S3."""

    def __init__(self, message: str) -> None:
        ServiceException.__init__(self, "AccessDenied", message)


def sentence(arn: str, action: str, resource: str, word: str) -> str:
    """A denial as AWS words it."""
    return (
        f"User: {arn} is not authorized to perform: {action} on resource: {resource} "
        f"{REASONS[word].format(action=action)}"
    )


def denied(service: str, protocol: str, message: str) -> Exception:
    """The error that a service answers a denial with."""
    if service == "s3":
        return S3Denied(message)
    if service == "ec2":
        message = f"You are not authorized to perform this operation. {message}"
    code = DENIALS.get(service, "AccessDeniedException" if "json" in protocol else "AccessDenied")
    return _error(protocol, code, message)


def _error(protocol: str, code: str, message: str) -> Denied:
    """An error in the form of a protocol."""
    failure = Denied(code, message)
    error = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    if "json" in protocol:
        failure.description = json.dumps({"__type": code, "message": message})
    elif protocol == "ec2":
        failure.description = f"<Response><Errors>{error}</Errors><RequestID>sandbox</RequestID></Response>"
    else:
        failure.description = f"<ErrorResponse>{error}<RequestId>sandbox</RequestId></ErrorResponse>"
    return failure


def parameters_of(response: Any, operation: str) -> tuple[str, dict[str, Any]]:
    """Protocol and parameters of a request, by the model of its service."""
    model = get_service_model(response.boto3_service_name)
    protocol = determine_request_protocol(model, response.normalized_request.content_type)
    asked = response.normalized_request
    uri = response.uri_match
    if not uri and protocol.startswith("rest"):
        response._get_action_from_method_and_request_uri(asked)
        uri = response.uri_match
    parser = PROTOCOL_PARSERS[protocol](model.operation_model(operation))
    return protocol, parser.parse(
        {
            "method": asked.method,
            "values": asked.values,
            "headers": asked.headers,
            "body": asked.data,
            "url_path": asked.path,
            "url_params": uri,
        }
    )


def text(body: Any) -> str:
    """A request's body, which may be missing."""
    return body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")


class _AsSigned(SigV4Auth):
    """Verifies a signature over the headers that its maker has signed, as AWS does.

    moto hands over those headers and no others; botocore leaves out what it does not sign itself, and older ones
    (Debian 12's) sign more, such as Transfer-Encoding.
    """

    def headers_to_sign(self, request: Any) -> Any:
        """Every header of the request."""
        found = super().headers_to_sign(request)
        for name, value in request.headers.items():
            if name.lower() not in found:
                found[name.lower()] = value
        return found


class _AsSignedForS3(_AsSigned, S3SigV4Auth):
    """The same, by S3's rules for paths and payloads."""


def verify_as_signed() -> None:
    """Have moto verify signatures over the headers that were signed."""
    access_control.SigV4Auth, access_control.S3SigV4Auth = _AsSigned, _AsSignedForS3


def close_gaps() -> None:
    """Let moto's servers decide as IAM does."""
    verify_as_signed()

    def authorize(response: Any, kind: type, resource: str = "*") -> None:
        if ActionAuthenticatorMixin.request_count < settings.INITIAL_NO_AUTH_ACTION_COUNT:
            ActionAuthenticatorMixin.request_count += 1
            return
        query = urlparse(response.uri).query
        signed = f"{response.raw_path}?{query}" if query else response.raw_path
        made = kind(
            account_id=response.current_account,
            method=response.method,
            path=signed,
            data=response.data,
            body=response.raw_body,
            headers=response.headers,
            action=response._get_action(),
        )
        made.check_signature()
        check(response, made, resource)

    def check(response: Any, made: Any, resource: str) -> None:
        action = action_of(made._service, made._action.partition(":")[2])
        if action in FREE:
            return
        here = Account(made.account_id, made._region)
        protocol = "rest-xml"
        if made._service == "s3":
            asked = [
                here.request(name, parameters)
                for name, parameters in buckets.asked(
                    action, resource, made._method, made._path, response.headers, text(made._body)
                )
            ]
        else:
            protocol, parameters = parameters_of(response, made._action.partition(":")[2])
            asked = [here.request(action, parameters)]
        who = principal(here.iam, made._access_key.arn)
        came = response.normalized_request
        context = {
            "aws:SecureTransport": str(
                came.scheme == "https" or not came.host.split(":")[0].endswith(AWS_NAMES)
            ).lower(),
            "aws:SourceIp": came.remote_addr or "127.0.0.1",
        }
        for request in asked:
            try:
                refused = refusal(here, who, request, context)
            except (Underivable, KeyError, ValueError) as error:
                log.exception("undecided: %s", request.action)
                said = f"{request.action} cannot be decided here: {error}"
                raise _error(protocol, "UndecidedBySandbox", said) from error
            if refused is not None:
                message = sentence(who.arn, *refused)
                log.info("denied %s", message)
                raise denied(made._service, protocol, message)

    def simulate_principal_policy(response: Any) -> Any:
        source = response._get_param("PolicySourceArn")
        who = principal(response.backend, source)
        context = {
            entry["ContextKeyName"]: entry["ContextKeyValues"]
            if str(entry.get("ContextKeyType", "")).endswith("List")
            else entry["ContextKeyValues"][0]
            for entry in response._get_param("ContextEntries", []) or []
            if entry.get("ContextKeyValues")
        }
        results = [
            {
                "EvalActionName": action,
                "EvalResourceName": resource,
                "EvalDecision": simulate(who, action, resource, context),
                "MatchedStatements": [],
                "MissingContextValues": not_told(who, action, resource, context),
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

    buckets.close_gaps()
    ActionAuthenticatorMixin._authenticate_and_authorize_action = authorize
    IAMRequestBase._create_aws_request = create_aws_request
    IamResponse.simulate_principal_policy = simulate_principal_policy
