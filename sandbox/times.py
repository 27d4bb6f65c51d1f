"""AWS's own times: what was made is not known everywhere at once, calls are refused when there are too many.

EC2 and IAM promise that a change is seen in the end, not at once ("Ensuring eventual consistency" in EC2's and "Changes
that I make are not always immediately visible" in IAM's guide). Here a new object stays unknown to some of the looks at
it for a while, a few calls in a thousand are throttled, and S3 tells nobody who may not list a bucket that an object is
missing. Every choice follows from a seed, object by object and look by look, so that a run can be had again whatever
else runs beside it. What the sandbox itself asks of the records is not affected, and neither is its owner, who looks
on.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import copy
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import uuid4

from moto.autoscaling.exceptions import AutoscalingClientError
from moto.autoscaling.responses import AutoScalingResponse
from moto.awslambda.exceptions import InvalidParameterValueException, UnknownFunctionException
from moto.awslambda.responses import LambdaResponse
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.ec2 import models as ec2_models
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.fis.responses import FISResponse
from moto.iam.exceptions import NotFoundException
from moto.iam.models import InstanceProfile, Role
from moto.iam.responses import IamResponse
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.s3.exceptions import BucketAccessDeniedError, MissingKey, S3AccessDeniedError
from moto.s3.responses import S3Response
from werkzeug.exceptions import HTTPException

from sandbox import dlm

log = logging.getLogger("sandbox")

Span = tuple[float, float]


@dataclass(frozen=True)
class Times:
    """How long things take, in seconds from and to.

    Attributes:
        unseen: how long a new object may be unknown to a look at it.
        iam: how long other services may not know a new role or instance profile.
        launch: from a launch to a host that boots.
        end: from the end of an instance to `terminated`, with its volumes still attached.
        plug: to attach or to detach a volume.
        image_point: from CreateImage's answer to the moment of which the image is.
        image_ready: from that moment to an image that can be used.
        snapshot: how long an EBS snapshot is pending.
        throttled: the share of calls that are refused.
    """

    unseen: Span = (0.0, 0.8)
    iam: Span = (0.0, 1.0)
    launch: Span = (0.0, 0.0)
    end: Span = (0.0, 0.0)
    plug: Span = (0.1, 0.4)
    image_point: Span = (1.0, 3.0)
    image_ready: Span = (0.3, 1.0)
    snapshot: Span = (1.0, 1.0)
    throttled: float = 0.004


# As a user of AWS sees them; docs/sandbox.md says where each is from.
SLOW = Times(
    unseen=(0.0, 5.0),
    iam=(5.0, 12.0),
    launch=(40.0, 60.0),
    end=(30.0, 150.0),
    plug=(10.0, 20.0),
    image_point=(5.0, 30.0),
    image_ready=(90.0, 180.0),
    snapshot=(60.0, 100.0),
)
# How often a look within that time misses: AWS's answers come from more than one place.
MISSED = 0.75
# What one look has seen and the next may miss again; anything else stays seen.
FLICKERS = ("i", "vol", "snap", "ami")
KINDS = {
    "i": ("InvalidInstanceID.NotFound", "The instance ID '{}' does not exist"),
    "vol": ("InvalidVolume.NotFound", "The volume '{}' does not exist."),
    "snap": ("InvalidSnapshot.NotFound", "The snapshot '{}' does not exist."),
    "ami": ("InvalidAMIID.NotFound", "The image id '[{}]' does not exist"),
    "sg": ("InvalidGroup.NotFound", "The security group '{}' does not exist"),
    "subnet": ("InvalidSubnetID.NotFound", "The subnet ID '{}' does not exist"),
    "vpc": ("InvalidVpcID.NotFound", "The vpc ID '{}' does not exist"),
    "lt": ("InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID {}, does not exist."),
    "rtb": ("InvalidRouteTableID.NotFound", "The routeTable ID '{}' does not exist"),
    "igw": ("InvalidInternetGatewayID.NotFound", "The internetGateway ID '{}' does not exist"),
    "eigw": ("InvalidGatewayID.NotFound", "The eigw ID '{}' does not exist"),
    "vpce": ("InvalidVpcEndpointId.NotFound", "The Vpc Endpoint Id '{}' does not exist"),
    "eni": ("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '{}' does not exist"),
}
IAM_KINDS = (
    ("Role", "RoleName", "The role with name {} cannot be found."),
    ("InstanceProfile", "InstanceProfileName", "Instance Profile {} cannot be found."),
)
# Who is handed a role, each of which hears of a new one in its own time.
HANDED = ("for lambda", "for queues", "for dlm", "for fis", "for experiments")
ID = re.compile(rf"^({'|'.join(KINDS)})-[0-9a-f]{{8,17}}$")
# An id in a filter's value or in a tag selects or says something; it does not name an object that must be there.
NO_NAME = re.compile(r"^(Filter\.|Tag|LaunchTemplateData\.)")
MODELS: dict[str, Any] = {
    "i": ec2_models.instances.Instance,
    "vol": ec2_models.elastic_block_store.Volume,
    "snap": ec2_models.elastic_block_store.Snapshot,
    "ami": ec2_models.amis.Ami,
    "sg": ec2_models.security_groups.SecurityGroup,
    "subnet": ec2_models.subnets.Subnet,
    "vpc": ec2_models.vpcs.VPC,
    "lt": ec2_models.launch_templates.LaunchTemplate,
    "rtb": ec2_models.route_tables.RouteTable,
    "igw": ec2_models.internet_gateways.InternetGateway,
    "eigw": ec2_models.internet_gateways.EgressOnlyInternetGateway,
    "vpce": ec2_models.vpcs.VPCEndPoint,
    "eni": ec2_models.elastic_network_interfaces.NetworkInterface,
}


class Chance:
    """Choices that follow from a seed and from what they are about."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.counts: dict[str, int] = {}
        self.lock = threading.Lock()

    def number(self, about: str) -> int:
        """How often this was asked about."""
        with self.lock:
            self.counts[about] = self.counts.get(about, 0) + 1
            return self.counts[about]

    def between(self, about: str, span: Span) -> float:
        """A length within a span; the next one about the same thing is another."""
        return Random(f"{self.seed}/{about}/{self.number(about)}").uniform(*span)

    def happens(self, about: str, share: float) -> bool:
        """Whether something that happens to a share of all happens this time."""
        return Random(f"{self.seed}/{about}/{self.number(about)}").random() < share


@dataclass
class Unseen:
    """What is new, and who does not know it yet.

    Attributes:
        times: how long that lasts.
        chance: decides about each object and each look.
        clock: monotonic seconds.
        until: for each name, when it is known to everybody, and to which number of its kind it belongs.
    """

    times: Times
    chance: Chance
    clock: Callable[[], float] = time.monotonic
    until: dict[str, tuple[float, str]] = field(default_factory=dict)

    def born(self, name: str, kind: str, span: Span | None = None) -> None:
        """An object of a kind was made. Names are random, so what happens to it goes by its number within its kind."""
        label = f"{kind} {self.chance.number(kind)}"
        seconds = self.chance.between(label, self.times.unseen if span is None else span)
        self.until[name] = self.clock() + seconds, label

    def missed(self, name: str) -> bool:
        """Whether this look at an object misses it."""
        until, label = self.until.get(name, (0.0, ""))
        if self.clock() >= until:
            return False
        missed = self.chance.happens(f"{label} looked at", MISSED)
        if not missed and label.partition(" ")[0] not in FLICKERS:
            self.until[name] = 0.0, label
        return missed

    def any_missed(self, names: Iterable[str]) -> str:
        """The first of several that this look misses; empty when all are seen."""
        return next((name for name in names if self.missed(name)), "")


def named(data: Mapping[str, Any]) -> list[str]:
    """The ids of EC2 that a request names."""
    texts = (
        str(text)
        for key, value in data.items()
        if not NO_NAME.match(key)
        for text in (value if isinstance(value, list) else [value])
    )
    return [text for text in texts if ID.match(text)]


def seen_of(rows: list[Any], missed: Callable[[str], bool]) -> list[Any]:
    """What a list shows of EC2's or IAM's records."""
    shown = []
    for row in rows:
        instances = getattr(row, "instances", None)
        if instances is not None:
            left = [instance for instance in instances if not missed(instance.id)]
            if len(left) != len(instances):
                row = copy.copy(row)  # noqa: PLW2901 - the record itself stays whole
                row.instances = left
            if left:
                shown.append(row)
        elif isinstance(row, Role | InstanceProfile):
            if not missed(f"{type(row).__name__} {row.name}"):
                shown.append(row)
        elif not missed(str(getattr(row, "id", "") or "")):
            shown.append(row)
    return shown


class Slowness:
    """Puts AWS's times into moto's servers."""

    def __init__(self, times: Times, seed: str, exempt: Callable[[], set[str]]) -> None:
        self.times, self.chance = times, Chance(seed)
        self.unseen = Unseen(times, self.chance)
        self.exempt = exempt

    def close_gaps(self) -> None:
        """Install every patch, once in a process."""
        self._births()
        self._describe()
        self._iam()
        self._groups()
        self._roles()
        self._s3()
        self._throttle()

    def _births(self) -> None:
        unseen = self.unseen

        def watch(model: Any, name_of: Callable[[Any], Iterable[tuple[str, str, Span | None]]]) -> None:
            begin = model.__init__

            def begin_noted(one: Any, *args: Any, **kwargs: Any) -> None:
                begin(one, *args, **kwargs)
                for name, kind, span in name_of(one):
                    unseen.born(name, kind, span)

            model.__init__ = begin_noted

        for kind, model in MODELS.items():
            watch(model, _ec2_object(kind))
        watch(MODELS["lt"], lambda one: [(f"template {one.name}", "template", None)])
        for model in (Role, InstanceProfile):
            watch(model, self._new_identity)

    def _new_identity(self, one: Any) -> list[tuple[str, str, Span | None]]:
        kind = type(one).__name__
        places = HANDED if isinstance(one, Role) else ("elsewhere",)
        others = [(f"{kind} {one.name} {place}", f"{kind} {place}", self.times.iam) for place in places]
        return [(f"{kind} {one.name}", kind, None), *others]

    def _free(self, response: Any) -> bool:
        return response.access_key in self.exempt()

    def _describe(self) -> None:
        slowness, unseen = self, self.unseen
        call, serialize = EC2BaseResponse.call_action, EC2BaseResponse.serialized

        def call_action(response: Any) -> Any:
            error = None if slowness._free(response) else slowness._unknown(response)
            return call(response) if error is None else refuse(response, error, call)

        def serialized(response: Any, result: Any) -> Any:
            looks = response._get_action().startswith("Describe") and not slowness._free(response)
            if looks and isinstance(result.result, dict):
                result = ActionResult(
                    {
                        key: seen_of(value, unseen.missed) if isinstance(value, list) and not _ids(response) else value
                        for key, value in result.result.items()
                    }
                )
            return serialize(response, result)

        EC2BaseResponse.call_action = call_action
        EC2BaseResponse.serialized = serialized

    def _unknown(self, response: Any) -> Any:
        """EC2's refusal of a request that names something which this look misses."""
        action = response._get_action()
        names = _ids(response)
        if not action.startswith("Describe"):
            # What is new is unknown to calls that change it as well.
            names = [name for name in names if name.partition("-")[0] in FLICKERS]
        if name := self.unseen.any_missed(names):
            code, text = KINDS[name.partition("-")[0]]
            return EC2ClientError(code, text.format(name))
        templates = [str(_one(v)) for k, v in response.data.items() if k.startswith("LaunchTemplateName")]
        if action == "DescribeLaunchTemplateVersions" or (action == "DescribeLaunchTemplates" and templates):
            for template in templates:
                if self.unseen.missed(f"template {template}"):
                    return EC2ClientError(
                        "InvalidLaunchTemplateName.NotFoundException",
                        f"At least one of the launch templates specified in the request does not exist: {template}",
                    )
        profile = str(_one(response.data.get("IamInstanceProfile.Name", "")))
        if profile and self.unseen.missed(f"InstanceProfile {profile} elsewhere"):
            return EC2ClientError(
                "InvalidParameterValue",
                f"Value ({profile}) for parameter iamInstanceProfile.name is invalid. "
                "Invalid IAM Instance Profile name",
            )
        return None

    def _iam(self) -> None:
        slowness, unseen = self, self.unseen
        call, serialize = IamResponse.call_action, IamResponse.serialized

        def call_action(response: Any) -> Any:
            if slowness._free(response) or not response._get_action().startswith(("Get", "List")):
                return call(response)
            for kind, key, text in IAM_KINDS:
                name = str(_one(response.data.get(key, "")))
                if name and unseen.missed(f"{kind} {name}"):
                    return refuse(response, NotFoundException(text.format(name)), call)
            return call(response)

        def serialized(response: Any, result: Any) -> Any:
            listing = response._get_action() in ("ListRoles", "ListInstanceProfiles") and not slowness._free(response)
            if listing and isinstance(result.result, dict):
                rows = {k: seen_of(v, unseen.missed) if isinstance(v, list) else v for k, v in result.result.items()}
                result = ActionResult(rows)
            return serialize(response, result)

        IamResponse.call_action = call_action
        IamResponse.serialized = serialized

    def _groups(self) -> None:
        slowness, unseen = self, self.unseen
        call = AutoScalingResponse.call_action

        def call_action(response: Any) -> Any:
            if slowness._free(response) or response._get_action() != "CreateAutoScalingGroup":
                return call(response)
            names = [str(_one(value)) for key, value in response.data.items() if key.endswith("LaunchTemplateName")]
            ids = [str(_one(value)) for key, value in response.data.items() if key.endswith("LaunchTemplateId")]
            why = ""
            if unseen.any_missed([*ids, *(f"template {name}" for name in names)]):
                why = f"The specified launch template, with template ID {(ids or names)[0]}, does not exist."
            for name in names:
                backend = ec2_backends[response.current_account][response.region]
                profile = _profile_of(backend, name)
                if not why and profile and unseen.missed(f"InstanceProfile {profile} elsewhere"):
                    why = (
                        f"Value ({profile}) for parameter iamInstanceProfile.name is invalid. "
                        "Invalid IAM Instance Profile name"
                    )
            if not why:
                return call(response)
            words = f"You must use a valid fully-formed launch template. {why}"
            return refuse(response, AutoscalingClientError("ValidationError", words), call)

        AutoScalingResponse.call_action = call_action

    def _roles(self) -> None:
        """A service refuses a role that it does not know yet, in the words it has for one that does not trust it."""
        slowness, unseen = self, self.unseen

        def check(response: Any, method: str, place: str, role_of: Callable[[Any], Any], error: Any) -> None:
            act = getattr(response, method)

            def checked(asked: Any) -> Any:
                role = str(role_of(asked) or "")
                if role and not slowness._free(asked) and unseen.missed(f"Role {role.rpartition('/')[2]} {place}"):
                    raise error(role)
                return act(asked)

            setattr(response, method, checked)

        def of_template(asked: Any) -> str:
            template = asked.fis_backend.experiment_templates.get(asked._get_param("experimentTemplateId"))
            return str(getattr(template, "role_arn", ""))

        def of_function(asked: Any) -> str:
            try:
                return str(asked.backend.get_function(asked.json_body.get("FunctionName")).role)
            except UnknownFunctionException:
                return ""

        for method in ("create_function", "update_function_configuration"):
            check(LambdaResponse, method, "for lambda", lambda asked: asked.json_body.get("Role"), _not_for_lambda)
        check(LambdaResponse, "create_event_source_mapping", "for queues", of_function, _not_for_queues)
        for method in ("create_lifecycle_policy", "update_lifecycle_policy"):
            check(
                dlm.DLMResponse, method, "for dlm", lambda asked: asked.asked().get("ExecutionRoleArn"), dlm.untrusted
            )
        for method in ("create_experiment_template", "update_experiment_template"):
            check(FISResponse, method, "for fis", lambda asked: asked._get_param("roleArn"), _not_for_fis)
        check(FISResponse, "start_experiment", "for experiments", of_template, _not_for_fis)

    def _s3(self) -> None:
        """S3 says 403 of an object that is missing to whoever may not list its bucket."""
        get, head = S3Response._get_key, S3Response.head_object

        def may_list(response: Any) -> bool:
            action = response.data.get("Action")
            response.data["Action"] = "ListBucket"
            try:
                response._authenticate_and_authorize_s3_action(bucket_name=response.bucket_name)
            except (S3AccessDeniedError, BucketAccessDeniedError):
                return False
            finally:
                response.data["Action"] = action
            return True

        def get_key(response: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return get(response, *args, **kwargs)
            except MissingKey:
                if may_list(response):
                    raise
                raise S3AccessDeniedError from None

        def head_object(response: Any, *args: Any, **kwargs: Any) -> Any:
            answer = head(response, *args, **kwargs)
            if answer[0] == 404 and not may_list(response):
                return 403, {}, ""
            return answer

        S3Response._get_key = get_key
        S3Response.head_object = head_object

    def _throttle(self) -> None:
        """A few calls are refused because there are too many, whichever they are."""
        slowness, serve = self, DomainDispatcherApplication.__call__

        def call(application: Any, environ: dict[str, Any], start: Any) -> Any:
            authorization = environ.get("HTTP_AUTHORIZATION", "")
            scope = re.search(r"Credential=([^/]+)/\d{8}/[^/]+/([^/]+)/aws4_request", authorization)
            if scope is None or scope[1] in slowness.exempt():
                return serve(application, environ, start)
            service = scope[2]
            answer = refusal(service, environ)
            if answer is None or not slowness.chance.happens(f"call of {service}", slowness.times.throttled):
                return serve(application, environ, start)
            log.info("throttled a call of %s", service)
            status, more, body = answer
            # The connection is closed: what the caller sent has not been read.
            headers = [("Content-Length", str(len(body))), ("Connection", "close"), ("x-amzn-RequestId", str(uuid4()))]
            start(status, [*more.items(), *headers])
            return [body]

        DomainDispatcherApplication.__call__ = call


def _not_for_lambda(_role: str) -> Any:
    return InvalidParameterValueException("The role defined for the function cannot be assumed by Lambda.")


def _not_for_queues(_role: str) -> Any:
    return InvalidParameterValueException(
        "The provided execution role does not have permissions to call ReceiveMessage on SQS"
    )


def _not_for_fis(role: str) -> Any:
    error = JsonRESTError("ValidationException", f"Unable to assume role {role}")
    error.code = 400
    return error


# How services whose errors are JSON without an X-Amz-Target name it: status and code. From botocore's models of them,
# and where these have nothing, from the errors that AWS documents as common to all actions of the service.
REST_JSON = {
    "dlm": ("400 Bad Request", "ThrottlingException"),
    "fis": ("400 Bad Request", "ThrottlingException"),
    "lambda": ("429 Too Many Requests", "TooManyRequestsException"),
    "scheduler": ("429 Too Many Requests", "ThrottlingException"),
}
# The same of those whose errors are XML.
QUERY = {
    "autoscaling": ("400 Bad Request", "Throttling"),
    "iam": ("400 Bad Request", "Throttling"),
    "route53": ("400 Bad Request", "Throttling"),
    "sns": ("429 Too Many Requests", "Throttled"),
    "sqs": ("403 Forbidden", "RequestThrottled"),
    "sts": ("400 Bad Request", "Throttling"),
}


def refusal(service: str, environ: Mapping[str, Any]) -> tuple[str, dict[str, str], bytes] | None:
    """How a service refuses a call when there are too many: status, headers and body; None for one not known here.

    From botocore's models of the services and its list of what is tried again, and EC2's and S3's lists of error codes.
    """
    if "HTTP_SMITHY_PROTOCOL" in environ:
        return None
    if service == "ec2":
        text = "<Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message></Error>"
        body = f"<Response><Errors>{text}</Errors><RequestID>{uuid4()}</RequestID></Response>"
        return "503 Service Unavailable", {"Content-Type": "text/xml"}, body.encode()
    if service == "s3":
        text = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        body = "" if environ.get("REQUEST_METHOD") == "HEAD" else text
        return "503 Slow Down", {"Content-Type": "application/xml"}, body.encode()
    if "HTTP_X_AMZ_TARGET" in environ:
        status, code = QUERY["sqs"] if service == "sqs" else ("400 Bad Request", "ThrottlingException")
        body = json.dumps({"__type": code, "message": "Rate exceeded"})
        return status, {"Content-Type": "application/x-amz-json-1.1"}, body.encode()
    if service in REST_JSON:
        status, code = REST_JSON[service]
        body = json.dumps({"message": "Rate exceeded"})
        return status, {"Content-Type": "application/json", "x-amzn-ErrorType": code}, body.encode()
    if service in QUERY:
        status, code = QUERY[service]
        text = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>Rate exceeded</Message></Error>"
        body = f"<ErrorResponse>{text}<RequestId>{uuid4()}</RequestId></ErrorResponse>"
        return status, {"Content-Type": "text/xml"}, body.encode()
    return None


def refuse(response: Any, error: Exception, call: Callable[[Any], Any]) -> Any:
    """The answer to a request that is allowed and cannot be met; one that is not allowed hears that instead."""
    try:
        response._authenticate_and_authorize_normal_action()
    except HTTPException:
        return call(response)
    status, headers, body = response.serialized(ActionResult(error))
    answer = body, {**headers, "status": status}
    status, headers, body = response._transform_response(response.response_headers, answer)
    return status, *response._enrich_response(headers, body)


def _ec2_object(kind: str) -> Callable[[Any], list[tuple[str, str, Span | None]]]:
    return lambda one: [(one.id, kind, None)]


def _ids(response: Any) -> list[str]:
    return named(response.data)


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _profile_of(backend: Any, template: str) -> str:
    """The instance profile that a launch template's newest version names; empty without one."""
    found = backend.launch_template_name_to_ids.get(template)
    data = backend.launch_templates[found].latest_version().data if found else {}
    return str((data.get("IamInstanceProfile") or {}).get("Name") or "")
