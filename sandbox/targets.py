"""What a request to AWS touches: resources of the Service Authorization Reference, by the request's parameters.

For every resource type that the reference gives an action, the ARN is found in this order: an ARN among the parameters
that has the type's format; for EC2 an id whose beginning tells the type; a parameter that `NAMES` says to hold the
name. What a request makes and AWS names is `*`, as AWS puts it. An action of which nothing can be derived is an error,
and never a permission.

Besides the action itself a request may need further ones: to tag what it makes, to pass a role, to use a launch
template. `targets` names them all.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sandbox import reference

# How EC2's ids begin, for the types that their beginning alone does not spell.
IDS = {
    "ami": "image",
    "eice": "instance-connect-endpoint",
    "eigw": "egress-only-internet-gateway",
    "eni": "network-interface",
    "i": "instance",
    "igw": "internet-gateway",
    "lt": "launch-template",
    "rtb": "route-table",
    "sg": "security-group",
    "sgr": "security-group-rule",
    "snap": "snapshot",
    "subnet": "subnet",
    "vol": "volume",
    "vpc": "vpc",
    "vpce": "vpc-endpoint",
}
ID = re.compile(rf"^({'|'.join(IDS)})-[0-9a-f]{{8,17}}$")
# Which parameters name a resource of a type, by service and type.
NAMES: Mapping[str, tuple[str, ...]] = {
    "autoscaling:autoScalingGroup": ("AutoScalingGroupName",),
    "cloudwatch:alarm": ("AlarmName", "AlarmNames"),
    "dlm:policy": ("PolicyId",),
    "dynamodb:table": ("TableName",),
    "ec2:key-pair": ("KeyName",),
    "events:rule-on-default-event-bus": ("Name", "Rule"),
    "fis:experiment": ("id", "experimentId"),
    "fis:experiment-template": ("id", "experimentTemplateId"),
    "iam:instance-profile": ("InstanceProfileName",),
    "iam:policy": ("PolicyName",),
    "iam:role": ("RoleName",),
    "iam:user": ("UserName",),
    "kms:key": ("KeyId",),
    "lambda:eventSourceMapping": ("UUID",),
    "lambda:function": ("FunctionName",),
    "logs:log-group": ("logGroupName",),
    "logs:log-stream": ("logStreamName",),
    "route53:hostedzone": ("Id", "HostedZoneId", "ResourceId"),
    "sns:topic": ("Name",),
    "sqs:queue": ("QueueName", "QueueUrl"),
    "ssm:document": ("DocumentName",),
    "ssm:parameter": ("Name", "Names", "ResourceId"),
}
# Actions of which two types have the same parameter, or the parameter means another type: only these types count.
ONLY: Mapping[str, tuple[str, ...]] = {
    "fis:CreateExperimentTemplate": ("action", "experiment-template"),
    "fis:GetExperiment": ("experiment",),
    "fis:StopExperiment": ("experiment",),
    "fis:DeleteExperimentTemplate": ("experiment-template",),
    "fis:GetExperimentTemplate": ("experiment-template",),
    "iam:PutRolePolicy": ("role",),
    "iam:GetRolePolicy": ("role",),
    "iam:DeleteRolePolicy": ("role",),
    "route53:ChangeTagsForResource": ("hostedzone",),
    "route53:ListTagsForResource": ("hostedzone",),
}
# Where an operation is not called what the permission is.
OPERATIONS = {"lambda:Invoke": "lambda:InvokeFunction"}
# Where the name in a request's signature is not the one in policies.
PREFIXES = {"monitoring": "cloudwatch"}
# What makes something that AWS names, and so nobody can name in the request.
MAKES = re.compile(r"^(Create|Run|Import|Allocate|Start|Copy|Register)")
# What a service asks permission for besides when what is made gets tags.
TAGGING = {
    "autoscaling": "CreateOrUpdateTags",
    "cloudwatch": "TagResource",
    "dlm": "TagResource",
    "dynamodb": "TagResource",
    "ec2": "CreateTags",
    "events": "TagResource",
    "fis": "TagResource",
    "lambda": "TagResource",
    "logs": "TagResource",
    "sns": "TagResource",
    "sqs": "TagQueue",
    "ssm": "AddTagsToResource",
}
TAGS_OF_IAM = {"CreateRole": "TagRole", "CreateInstanceProfile": "TagInstanceProfile", "CreateUser": "TagUser"}
# Which service a role is passed to, by action and the parameter that names it.
PASSED: Mapping[str, tuple[str, str]] = {
    "autoscaling:PutLifecycleHook": ("RoleARN", "autoscaling.amazonaws.com"),
    "dlm:CreateLifecyclePolicy": ("ExecutionRoleArn", "dlm.amazonaws.com"),
    "dlm:UpdateLifecyclePolicy": ("ExecutionRoleArn", "dlm.amazonaws.com"),
    "events:PutRule": ("RoleArn", "events.amazonaws.com"),
    "fis:CreateExperimentTemplate": ("roleArn", "fis.amazonaws.com"),
    "fis:UpdateExperimentTemplate": ("roleArn", "fis.amazonaws.com"),
    "iam:AddRoleToInstanceProfile": ("RoleName", "ec2.amazonaws.com"),
    "lambda:CreateFunction": ("Role", "lambda.amazonaws.com"),
    "lambda:UpdateFunctionConfiguration": ("Role", "lambda.amazonaws.com"),
    "ssm:SendCommand": ("ServiceRoleArn", "ssm.amazonaws.com"),
}
# The roles that AWS makes for a service, by its name.
LINKED = {
    "autoscaling.amazonaws.com": "AWSServiceRoleForAutoScaling",
    "ec2-instance-connect.amazonaws.com": "AWSServiceRoleForEc2InstanceConnect",
    "fis.amazonaws.com": "AWSServiceRoleForFIS",
    "spot.amazonaws.com": "AWSServiceRoleForEC2Spot",
}
TAG_ACTION = re.compile(r"Tags?(For|From|To|Of)?|TagResource|TagLogGroup|TagQueue|TagRole")


class Underivable(Exception):
    """A request whose resource this sandbox cannot tell. It must be taught, not allowed."""


@dataclass(frozen=True)
class Target:
    """One resource that an action touches, and what is known about it.

    Attributes:
        arn: of the resource, or `*` where the action knows no resources.
        tags: of the resource as it is now; None when they are looked up only where a condition asks.
        action: the action itself, where it is not the request's own.
        context: further keys for conditions, such as `s3:prefix`.
        kind: the resource type; empty where the ARN tells it.
        wanted: tags that the request gives to it; None for those of the whole request.
    """

    arn: str
    tags: Mapping[str, str] | None = field(default_factory=dict)
    action: str = ""
    context: Mapping[str, str | list[str]] = field(default_factory=dict)
    kind: str = ""
    wanted: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Request:
    """A request as its service's model has it.

    Attributes:
        action: `service:Name` as policies have it.
        parameters: the operation's parameters by the names of the model.
        account, region, partition: where it is asked.
        roles: IAM's ARN of a role by its name, with the role's path.
        groups: Auto Scaling's ARN of a group by its name; empty when there is none.
        launches: what a launch template of the parameters launches; None without one.
        related: further ids of EC2 that an action touches by what the parameters name.
        known: condition keys that what is there tells, such as iam:PermissionsBoundary of the role that is named.
    """

    action: str
    parameters: Mapping[str, Any]
    account: str
    region: str
    partition: str = "aws"
    roles: Callable[[str], str] = lambda name: ""
    groups: Callable[[str], str] = lambda name: ""
    launches: Callable[[Mapping[str, Any]], Launch | None] = lambda parameters: None
    related: Callable[[str, Mapping[str, Any]], list[str]] = lambda action, parameters: []
    known: Callable[[str, Mapping[str, Any]], Mapping[str, str]] = lambda action, parameters: {}

    @property
    def service(self) -> str:
        """The service's prefix in policies."""
        return self.action.partition(":")[0]

    @property
    def name(self) -> str:
        """The action without its service."""
        return self.action.partition(":")[2]


@dataclass(frozen=True)
class Launch:
    """What a group's launch template would launch: the request RunInstances, and the role of its profile."""

    template: str
    parameters: Mapping[str, Any]
    role: str = ""


def action_of(service: str, operation: str) -> str:
    """The action in policies for an operation, by the service's name in a signature."""
    name = f"{PREFIXES.get(service, service)}:{operation}"
    return OPERATIONS.get(name, name)


def targets(request: Request) -> list[Target]:
    """Everything that a request needs to be allowed. Raises Underivable, and KeyError for an unknown action."""
    own = touched(request)
    return [*own, *_tagging(request, own), *_passing(request), *_launching(request)]


def touched(request: Request) -> list[Target]:
    """The resources of a request's own action."""
    action = reference.action(request.action)
    context = _context(request)
    if not action.kinds:
        return [Target("*", {}, context=context, wanted=request_tags(request))]
    only = ONLY.get(request.action)
    kinds = [kind for kind in action.kinds if only is None or kind.name in only]
    found = [
        Target(
            arn, {} if arn.endswith("*") else None, context=context, kind=kind.name, wanted=_wanted(request, kind.name)
        )
        for kind in kinds
        for arn in _arns(request, kind)
    ]
    if not found:
        raise Underivable(
            f"{request.action}: no parameter of {sorted(request.parameters)} names a "
            f"{' or a '.join(kind.name for kind in kinds)}; teach sandbox/targets.py"
        )
    missing = {kind.name for kind in kinds if kind.required} - {target.kind for target in found}
    if missing and not TAG_ACTION.search(request.name):
        raise Underivable(f"{request.action}: no parameter names the {', '.join(sorted(missing))} that it touches")
    return found


# -- ARNs --------------------------------------------------------------------------------------------------------------


def _arns(request: Request, kind: reference.Kind) -> list[str]:
    """The resources of one type that a request names, or `*` for one that it makes."""
    given = [text for text in _texts(request.parameters) if text.startswith("arn:") and reference.fits(text, kind.arn)]
    names = given or _named(request, kind)
    if names:
        return list(dict.fromkeys(names))
    if kind.required and (MAKES.match(request.name) or re.match(r"(Describe|List)", request.name)):
        return [_filled(request, kind, "*")]
    return []


def _texts(value: Any) -> Iterator[str]:
    """The texts among a request's own parameters, and in lists of them; not those inside of what it describes."""
    for one in value.values():
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            yield from (item for item in one if isinstance(item, str))


def _named(request: Request, kind: reference.Kind) -> list[str]:
    service, parameters = request.service, request.parameters
    if service == "ec2" or kind.arn.split(":")[2] == "ec2":
        texts = [*_texts(parameters), *request.related(request.action, parameters)]
        found = [text for text in texts if (match := ID.match(text)) and IDS[match[1]] == kind.name]
        if kind.name == "volume" and request.name == "RunInstances":
            found = ["*"]  # every instance has one
        if kind.name == "launch-template" and not found and parameters.get("LaunchTemplateName"):
            found = [_template_id(request)]
        if found:
            return [_filled(request, kind, one) for one in found]
    if request.action == "fis:CreateExperimentTemplate" and kind.name == "action":
        return [_filled(request, kind, one["actionId"]) for one in (parameters.get("actions") or {}).values()]
    if request.action == "ce:GetCostAndUsage":
        # Without a view of one's own it is the account's first.
        return [_filled(request, kind, "primary")]
    if request.action == "iam:CreateServiceLinkedRole":
        service_name = parameters["AWSServiceName"]
        return [_filled(request, kind, f"aws-service-role/{service_name}/{LINKED.get(service_name, '*')}")]
    if service == "autoscaling" and kind.name == "autoScalingGroup":
        names = [
            parameters.get("AutoScalingGroupName"),
            *(tag.get("ResourceId") for tag in parameters.get("Tags") or []),
        ]
        return [request.groups(name) or _group(request, kind, name) for name in dict.fromkeys(filter(None, names))]
    if service == "s3":
        return [parameters["arn"]] if reference.fits(parameters["arn"], kind.arn) else []
    return [
        _filled(request, kind, _short(str(one)))
        for name in NAMES.get(f"{service}:{kind.name}", ())
        for one in _listed(parameters.get(name))
        if one
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _short(name: str) -> str:
    """A name without what stands before it in a queue's address, a hosted zone's id, a function's ARN."""
    if name.startswith(("http://", "https://", "/hostedzone/")):
        return name.rsplit("/", 1)[1]
    return name.split(":")[6] if name.startswith("arn:") and len(name.split(":")) > 6 else name


def _template_id(request: Request) -> str:
    launch = request.launches(request.parameters)
    return launch.template if launch else "*"


def _group(request: Request, kind: reference.Kind, name: str) -> str:
    arn = _filled(request, kind, "*")
    return re.sub(r"autoScalingGroupName/\*$", f"autoScalingGroupName/{name}", arn)


def _filled(request: Request, kind: reference.Kind, name: str) -> str:
    """The ARN of a resource of a type by its name: what AWS checks where this is not what the reference says, too."""
    if name.startswith("arn:"):
        return name
    service = f"{request.service}:{kind.name}"
    if service == "iam:role" and (known := request.roles(name)):
        return known
    if service == "ssm:parameter":
        name = name.removeprefix("/")
    values = {"Partition": request.partition, "Region": request.region, "Account": request.account}
    if service == "ssm:document" and name.startswith("AWS"):
        values["Account"] = ""  # AWS's own belong to no account
    if service == "logs:log-stream":
        values["LogGroupName"] = str(request.parameters.get("logGroupName", "*"))
    arn = reference.VARIABLE.sub(lambda match: values.get(match[1], name), kind.arn)
    if service == "autoscaling:autoScalingGroup":
        arn = re.sub(r"autoScalingGroup:[^:]*:", "autoScalingGroup:*:", arn)
    if service == "logs:log-group" and not TAG_ACTION.search(request.name):
        # CloudWatch Logs asks for a group by the ARN of all its streams, but where it is about tags.
        arn = f"{arn}:log-stream:"
    return arn


# -- what conditions can ask -------------------------------------------------------------------------------------------


def request_tags(request: Request) -> dict[str, str]:
    """The tags that a request names, whatever for; a tag that it takes away has no value."""
    found: dict[str, str] = {}
    for name, value in request.parameters.items():
        if name.lower() in ("tags", "addtags"):
            found |= _pairs(value)
        elif name.lower() in ("tagkeys", "removetagkeys"):
            found |= dict.fromkeys(map(str, value or []), "")
        elif name == "TagSpecifications":
            for one in value or []:
                found |= _pairs(one.get("Tags") or [])
    return found


def _pairs(tags: Any) -> dict[str, str]:
    if isinstance(tags, Mapping):
        return {str(key): str(value) for key, value in tags.items()}
    pairs = [{str(key).lower(): value for key, value in tag.items()} for tag in tags or [] if isinstance(tag, Mapping)]
    return {
        str(pair.get("key", pair.get("tagkey"))): str(pair.get("value", pair.get("tagvalue")) or "") for pair in pairs
    }


def _wanted(request: Request, kind: str) -> dict[str, str]:
    """The tags that a request gives to what it makes of a type."""
    specifications = request.parameters.get("TagSpecifications")
    if specifications is None:
        return request_tags(request)
    return {
        key: value
        for one in specifications
        if one.get("ResourceType") == kind
        for key, value in _pairs(one.get("Tags")).items()
    }


def _context(request: Request) -> dict[str, str | list[str]]:
    """Keys of a service's own that the parameters tell."""
    given = {
        "iam:AWSServiceName": "AWSServiceName",
        "iam:PermissionsBoundary": "PermissionsBoundary",
        "iam:PolicyARN": "PolicyArn",
        "lambda:Principal": "Principal",
        "s3:delimiter": "delimiter",
        "s3:max-keys": "max-keys",
        "s3:prefix": "prefix",
        "sns:Endpoint": "Endpoint",
        "sns:Protocol": "Protocol",
    }
    context: dict[str, str | list[str]] = {
        key: str(request.parameters[name])
        for key, name in given.items()
        if key.startswith(f"{request.service}:") and request.parameters.get(name) is not None
    }
    if request.service == "s3":
        context |= {name: str(value) for name, value in request.parameters.items() if name.startswith("s3:")}
    if request.service == "route53":
        context |= _names_and_networks(request.parameters)
    context = {**request.known(request.action, request.parameters), **context}
    if request.action.endswith("EventSourceMapping") and request.parameters.get("FunctionName"):
        context["lambda:FunctionArn"] = _function(request, str(request.parameters["FunctionName"]))
    if request.parameters.get("is_template"):
        context["ec2:IsLaunchTemplateResource"] = "true"
        context["ec2:LaunchTemplate"] = str(request.parameters["is_template"])
    return context


def _names_and_networks(parameters: Mapping[str, Any]) -> dict[str, list[str]]:
    """What Route 53 tells of a request: the networks of a zone, and the records that change, normalized."""
    found: dict[str, list[str]] = {}
    vpc = parameters.get("VPC")
    if vpc:
        found["route53:VPCs"] = [f"VPCId={vpc.get('VPCId')},VPCRegion={vpc.get('VPCRegion')}"]
    changes = (parameters.get("ChangeBatch") or {}).get("Changes") or []
    if changes:
        records = [one["ResourceRecordSet"] for one in changes]
        key = "route53:ChangeResourceRecordSets"
        found[f"{key}Actions"] = [one["Action"] for one in changes]
        found[f"{key}NormalizedRecordNames"] = [one["Name"].lower().rstrip(".") for one in records]
        found[f"{key}RecordTypes"] = [one["Type"] for one in records]
    return found


def _function(request: Request, name: str) -> str:
    if name.startswith("arn:"):
        return ":".join(name.split(":")[:7])
    return f"arn:{request.partition}:lambda:{request.region}:{request.account}:function:{name}"


# -- what is needed besides --------------------------------------------------------------------------------------------


def _tagging(request: Request, own: list[Target]) -> Iterator[Target]:
    """What is made with tags must be allowed to be tagged as well."""
    name = TAGS_OF_IAM.get(request.name) if request.service == "iam" else TAGGING.get(request.service)
    if name is None or TAG_ACTION.search(request.name) or not re.match(r"(Create|Put|Run|Import|Start)", request.name):
        return
    action = reference.action(f"{request.service}:{name}")
    if request.service == "ec2":
        for one in request.parameters.get("TagSpecifications") or []:
            kind = action.kind(one["ResourceType"])
            if kind is None:
                raise Underivable(f"{request.action}: the reference knows no tags of {one['ResourceType']}")
            arn = _filled(request, kind, "*")
            context = {"ec2:CreateAction": request.name}
            yield Target(arn, {}, action.name, context, kind.name, _pairs(one.get("Tags")))
        return
    if not request_tags(request):
        return
    kinds = {kind.name for kind in action.kinds}
    made = [target for target in own if target.kind in kinds]
    for target in made or [Target(_filled(request, action.kinds[0], "*"), {}, kind=action.kinds[0].name)]:
        arn = target.arn.removesuffix(":log-stream:")
        yield replace(target, arn=arn, action=action.name, wanted=request_tags(request), context={})


def _passing(request: Request) -> Iterator[Target]:
    """A role that a request hands to a service."""
    parameter, service = PASSED.get(request.action, ("", ""))
    given = request.parameters.get(parameter)
    if given:
        yield _passed(request, str(given), service)
    if request.action == "events:PutTargets":
        for target in request.parameters.get("Targets") or []:
            if target.get("RoleArn"):
                yield _passed(request, target["RoleArn"], "events.amazonaws.com")


def _passed(request: Request, role: str, service: str) -> Target:
    arn = role if role.startswith("arn:") else request.roles(role) or _role(request, role)
    return Target(arn, None, "iam:PassRole", {"iam:PassedToService": service}, "role")


def _role(request: Request, name: str) -> str:
    return f"arn:{request.partition}:iam::{request.account}:role/{name}"


def _launching(request: Request) -> Iterator[Target]:
    """Whoever gives a group a launch template must be allowed to launch what it says and to pass its role."""
    if request.action not in (
        "autoscaling:CreateAutoScalingGroup",
        "autoscaling:UpdateAutoScalingGroup",
        "ec2:RunInstances",
    ):
        return
    launch = request.launches(request.parameters)
    if launch is None:
        return
    if request.service == "autoscaling":
        run = replace(request, action="ec2:RunInstances", parameters=launch.parameters, launches=lambda _: None)
        yield from (target if target.action else replace(target, action="ec2:RunInstances") for target in targets(run))
    if launch.role:
        yield _passed(request, launch.role, "ec2.amazonaws.com")
