"""Amazon Data Lifecycle Manager, which moto has not: lifecycle policies, and the snapshots that they take and delete.

Requests are held against botocore's own model of the service (what must be there, patterns, ranges) and against what
the API reference says besides. A policy acts by the sandbox's clock: when a schedule is due it takes snapshots with the
credentials of the policy's execution role, over the sandbox's own API, so that what the role may not do is refused as
everybody else is; only the system tags, which nobody but AWS can set, are put on by hand. A run that came due while
nobody looked is made once. What is not rehearsed is refused: image and event policies, default policies, and copies,
shares, archives, fast restores and scripts of schedules.

Sources: the DLM API reference (CreateRule, RetainRule, Schedule, Parameters) and the EBS user guide's pages on how DLM
works and on monitoring policies with EventBridge.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import logging
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import botocore.config
import botocore.session
from botocore.exceptions import BotoCoreError, ClientError
from moto import backend_index
from moto.core.base_backend import BackendDict, BaseBackend
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from moto.ec2.models import ec2_backends
from moto.sts.models import sts_backends

from sandbox import iam
from sandbox.events import permits
from sandbox.functions import role_of
from sandbox.scaling import Clock, Cron

log = logging.getLogger("sandbox")

SERVICE = "dlm.amazonaws.com"
POLICIES_MAX = 100
INTERVALS = (1, 2, 3, 4, 6, 8, 12, 24)
DAYS = {"DAYS": 1, "WEEKS": 7, "MONTHS": 30, "YEARS": 365}
WINDOW = timedelta(hours=1)  # AWS begins a run within an hour after its time, and so may try until then
PAUSE_S = 2.0  # between two tries of what EC2 refuses for the moment
SOON = (
    "SnapshotCreationPerVolumeRateExceeded",
    "ConcurrentSnapshotLimitExceeded",
    "RequestLimitExceeded",
    "Throttling",
)
GONE = ("InvalidVolume.NotFound", "InvalidInstanceID.NotFound", "InvalidSnapshot.NotFound")
# What AWS has and this sandbox does not rehearse.
UNREHEARSED_OF_SCHEDULES = ("CrossRegionCopyRules", "ShareRules", "FastRestoreRule", "ArchiveRule", "DeprecateRule")
UNREHEARSED_OF_REQUESTS = (
    "DefaultPolicy",
    "CreateInterval",
    "RetainInterval",
    "CopyTags",
    "ExtendDeletion",
    "CrossRegionCopyTargets",
    "Exclusions",
)
VARIABLES = ("$(instance-id)", "$(timestamp)")
BY = "aws:dlm:lifecycle-policy-id"
SCHEDULE = "aws:dlm:lifecycle-schedule-name"
EXPIRES = "aws:dlm:expirationTime"


class Invalid(ServiceException):
    """A request that AWS does not accept."""

    code = "InvalidRequestException"


def untrusted(role: str) -> Invalid:
    """What DLM says of a role that is not there, or does not let it in."""
    return Invalid(f"The execution role {role} cannot be assumed by Amazon Data Lifecycle Manager.")


class Missing(ServiceException):
    """No such policy."""

    code = "ResourceNotFoundException"


class TooMany(ServiceException):
    """More policies than a region has room for."""

    code = "LimitExceededException"


# -- what is asked for -------------------------------------------------------------------------------------------------


def faults(shape: Any, value: Any, path: str) -> Iterator[str]:
    """What of a value is not as botocore's model of its shape has it, each as a sentence."""
    if shape.type_name == "structure":
        for name in shape.required_members:
            if value.get(name) is None:
                yield f"{path}{name} is required"
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from faults(member, value[name], f"{path}{name}.")
        return
    here, rules = path.rstrip("."), shape.metadata
    size = len(value) if shape.type_name in ("list", "map", "string") else value
    if shape.type_name in ("list", "map", "string", "integer"):
        for rule, broken in (("min", size < rules.get("min", size)), ("max", size > rules.get("max", size))):
            if broken:
                yield f"{here} is {value!r}: its {rule} is {rules[rule]}"
    if shape.type_name == "list":
        for number, one in enumerate(value):
            yield from faults(shape.member, one, f"{here}[{number}].")
    elif shape.type_name == "map":
        for key, one in value.items():
            yield from faults(shape.key, key, f"{here}.key.")
            yield from faults(shape.value, one, f"{here}.{key}.")
    elif shape.type_name == "string":
        if rules.get("enum") and value not in rules["enum"]:
            yield f"{here} is {value!r}: use one of {', '.join(rules['enum'])}"
        pattern = rules.get("pattern", "").replace(r"\p{all}", r"\s\S")
        if pattern and not re.fullmatch(pattern, value):
            yield f"{here} is {value!r}, which does not match {rules['pattern']}"


def check_details(details: Mapping[str, Any]) -> None:
    """Refuse policy details that AWS refuses, beyond what the model says. Raises Invalid."""
    if details.get("PolicyType", "EBS_SNAPSHOT_MANAGEMENT") != "EBS_SNAPSHOT_MANAGEMENT":
        raise Invalid(f"this sandbox has no policies of type {details['PolicyType']}")
    if details.get("PolicyLanguage", "STANDARD") != "STANDARD":
        raise Invalid("this sandbox has no default policies")
    for name in ("ResourceTypes", "TargetTags", "Schedules"):
        if not details.get(name):
            raise Invalid(f"PolicyDetails.{name} is required for EBS_SNAPSHOT_MANAGEMENT")
    if details.get("ResourceLocations", ["CLOUD"]) != ["CLOUD"]:
        raise Invalid("this sandbox has neither Outposts nor Local Zones: ResourceLocations is CLOUD")
    of_instances = details["ResourceTypes"] == ["INSTANCE"]
    parameters = details.get("Parameters") or {}
    if parameters and not of_instances:
        raise Invalid("PolicyDetails.Parameters are for policies of instances")
    if parameters.get("NoReboot") is not None:
        raise Invalid("PolicyDetails.Parameters.NoReboot is for policies of images")
    for tags in (details["TargetTags"], *(one.get("TagsToAdd") or [] for one in details["Schedules"])):
        check_tags(tags)
    for schedule in details["Schedules"]:
        check_schedule(schedule, of_instances)


def check_tags(tags: list[dict[str, str]]) -> None:
    """Refuse keys that DLM does not take. Raises Invalid."""
    for tag in tags:
        if tag["Key"].startswith("aws:") or set(tag["Key"]) & set("\\="):
            raise Invalid(f"{tag['Key']} is no tag key: it begins with aws:, or has a \\ or a =")


def check_schedule(schedule: Mapping[str, Any], of_instances: bool) -> None:
    """Refuse a schedule that AWS refuses, or that is not rehearsed. Raises Invalid."""
    for name in UNREHEARSED_OF_SCHEDULES:
        if schedule.get(name):
            raise Invalid(f"this sandbox's schedules have no {name}")
    variable = schedule.get("VariableTags") or []
    if variable and not of_instances:
        raise Invalid("VariableTags are for policies of instances")
    for tag in variable:
        if tag["Value"] not in VARIABLES:
            raise Invalid(f"VariableTags has {tag['Value']}: use one of {', '.join(VARIABLES)}")
    rule, retain = schedule.get("CreateRule"), schedule.get("RetainRule")
    if not rule or not retain:
        raise Invalid("a schedule needs a CreateRule and a RetainRule")
    check_create_rule(rule)
    if bool(retain.get("Count")) == bool(retain.get("Interval")):
        raise Invalid("RetainRule has either Count or Interval, of 1 or more")
    if bool(retain.get("Interval")) != bool(retain.get("IntervalUnit")):
        raise Invalid("RetainRule.Interval and IntervalUnit go together")
    if retain.get("Interval") and retain["Interval"] * DAYS[retain["IntervalUnit"]] > 100 * 365:
        raise Invalid("RetainRule.Interval is at most 100 years")


def check_create_rule(rule: Mapping[str, Any]) -> None:
    """Refuse a rule that says no time, or two. Raises Invalid."""
    if rule.get("Scripts"):
        raise Invalid("this sandbox's schedules have no Scripts")
    if rule.get("Location", "CLOUD") != "CLOUD":
        raise Invalid("this sandbox's snapshots are in the CLOUD")
    if bool(rule.get("CronExpression")) == bool(rule.get("Interval")):
        raise Invalid("CreateRule has either CronExpression or Interval with IntervalUnit and Times")
    if rule.get("CronExpression"):
        try:
            AwsCron(rule["CronExpression"])
        except ValueError as error:
            raise Invalid(f"CreateRule.CronExpression: {error}") from error
        return
    if rule["Interval"] not in INTERVALS:
        raise Invalid(f"CreateRule.Interval is {rule['Interval']}: use one of {', '.join(map(str, INTERVALS))}")
    if rule.get("IntervalUnit") != "HOURS":
        raise Invalid("CreateRule.IntervalUnit is HOURS")


# -- when --------------------------------------------------------------------------------------------------------------


class AwsCron:
    """A cron expression of AWS's, in UTC: `cron(minutes hours day month weekday year)`, not more often than hourly.

    `L`, `W` and `#` are refused. Raises ValueError.
    """

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"cron\((.*)\)", text)
        parts = match[1].split() if match else []
        if len(parts) != 6:
            raise ValueError(f"{text!r} is not as cron(0 18 ? * MON-FRI *)")
        minute, hour, day, month, weekday, year = parts
        self.year: str = year
        if "?" not in (day, weekday):
            raise ValueError(f"{text!r}: either the day of the month or that of the week is ?")
        if not minute.isdigit():
            raise ValueError(f"{text!r}: a policy runs at most once an hour, so minutes are one number")
        if not re.fullmatch(r"\*|\d{4}", self.year):
            raise ValueError(f"{text!r}: this sandbox knows * and one year")
        # AWS counts the days of the week from 1 (Sunday), cron from 0.
        days = re.sub(r"(?<![\w#/])[1-7](?!\w)", lambda number: str(int(number[0]) - 1), weekday)
        self.cron = Cron(" ".join("*" if part == "?" else part for part in (minute, hour, day, month, days)))

    def matches(self, when: datetime) -> bool:
        """Whether a minute is one of the expression's."""
        return self.year in ("*", str(when.year)) and self.cron.matches(when)


def last_due(rule: Mapping[str, Any], since: datetime, now: datetime) -> datetime | None:
    """The newest time of a CreateRule that is after `since` and not after `now`; None without one."""
    if rule.get("CronExpression"):
        cron, when = AwsCron(rule["CronExpression"]), now.replace(second=0, microsecond=0)
        while when > since:
            if cron.matches(when):
                return when
            when -= timedelta(minutes=1)
        return None
    # Where no time is given AWS chooses one within the next 24 hours.
    hour, minute = map(int, (rule.get("Times") or ["00:00"])[0].split(":"))
    step = timedelta(hours=rule["Interval"])
    first = since.replace(hour=hour, minute=minute, second=0, microsecond=0) - timedelta(days=1)
    newest = first + (now - first) // step * step
    return newest if newest > since else None


def expiry(retain: Mapping[str, Any], made: datetime) -> datetime | None:
    """When a snapshot is deleted that is kept by its age; None for one that is kept by count."""
    if not retain.get("Interval"):
        return None
    return made + timedelta(days=retain["Interval"] * DAYS[retain["IntervalUnit"]])


# -- records -----------------------------------------------------------------------------------------------------------


@dataclass
class Policy:
    """One lifecycle policy. Times are the sandbox's.

    Attributes:
        looked: until when its schedules have been looked at.
    """

    id: str
    arn: str
    description: str
    state: str
    role: str
    details: dict[str, Any]
    tags: dict[str, str]
    created: datetime
    modified: datetime
    looked: datetime
    message: str = ""

    def as_summary(self) -> dict[str, Any]:
        """As GetLifecyclePolicies has it."""
        return {
            "PolicyId": self.id,
            "Description": self.description,
            "State": self.state,
            "Tags": dict(self.tags),
            "PolicyType": self.details["PolicyType"],
            "DefaultPolicy": False,
        }

    def as_answer(self) -> dict[str, Any]:
        """As GetLifecyclePolicy has it."""
        more = {
            "StatusMessage": self.message or self.state,
            "ExecutionRoleArn": self.role,
            "DateCreated": self.created,
            "DateModified": self.modified,
            "PolicyDetails": self.details,
            "PolicyArn": self.arn,
        }
        return {key: value for key, value in self.as_summary().items() if key != "PolicyType"} | more


def completed(details: Mapping[str, Any]) -> dict[str, Any]:
    """Policy details with what AWS adds by itself."""
    schedules = [
        {
            "CopyTags": False,
            "TagsToAdd": [],
            "VariableTags": [],
            **schedule,
            "CreateRule": {"Location": "CLOUD", **schedule["CreateRule"]},
        }
        for schedule in details["Schedules"]
    ]
    return {
        "PolicyType": "EBS_SNAPSHOT_MANAGEMENT",
        "ResourceLocations": ["CLOUD"],
        "PolicyLanguage": "STANDARD",
        **details,
        "Schedules": schedules,
    }


class DLMBackend(BaseBackend):
    """The policies of one account and region."""

    clock: Clock = Clock()

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.policies: dict[str, Policy] = {}

    @property
    def _url_module(self) -> Any:
        paths = {"{0}/policies$": DLMResponse.dispatch, "{0}/policies/(?P<policyId>.+)$": DLMResponse.dispatch}
        paths["{0}/tags/(?P<resourceArn>.+)$"] = DLMResponse.dispatch
        return SimpleNamespace(url_bases=[r"https?://dlm\.(.+)\.amazonaws\.com"], url_paths=paths)

    def check_role(self, arn: str) -> None:
        """Refuse a role that is not there or does not let DLM assume it. Raises Invalid."""
        role = role_of(self.account_id, arn)
        document = role.assume_role_policy_document if role is not None else None
        source = f"arn:aws:dlm:{self.region_name}:{self.account_id}:policy/*"
        if role is None or role.arn != arn or not permits(document, SERVICE, "sts:AssumeRole", source, self.account_id):
            raise untrusted(arn)

    def create(self, asked: Mapping[str, Any]) -> Policy:
        """CreateLifecyclePolicy."""
        for name in UNREHEARSED_OF_REQUESTS:
            if asked.get(name) is not None:
                raise Invalid(f"this sandbox has no default policies: {name} is theirs")
        check_details(asked.get("PolicyDetails") or {})
        self.check_role(asked["ExecutionRoleArn"])
        if len(self.policies) >= POLICIES_MAX:
            raise TooMany(f"A region has at most {POLICIES_MAX} policies")
        name, now = f"policy-{secrets.token_hex(8)}0", self.clock.now()
        policy = Policy(
            id=name,
            arn=f"arn:aws:dlm:{self.region_name}:{self.account_id}:policy/{name}",
            description=asked["Description"],
            state=asked["State"],
            role=asked["ExecutionRoleArn"],
            details=completed(asked["PolicyDetails"]),
            tags=dict(asked.get("Tags") or {}),
            created=now,
            modified=now,
            looked=now,
        )
        self.policies[name] = policy
        return policy

    def policy(self, policy_id: str) -> Policy:
        """A policy by its id. Raises Missing."""
        if policy_id not in self.policies:
            raise Missing(f"The policy {policy_id} does not exist")
        return self.policies[policy_id]

    def by_arn(self, arn: str) -> Policy:
        """A policy by its ARN. Raises Missing."""
        return self.policy(arn.rpartition("/")[2])

    def update(self, asked: Mapping[str, Any]) -> None:
        """UpdateLifecyclePolicy: what is given is replaced whole."""
        policy = self.policy(asked["PolicyId"])
        for name in UNREHEARSED_OF_REQUESTS:
            if asked.get(name) is not None:
                raise Invalid(f"{name} is for default policies, and {policy.id} is none")
        if asked.get("PolicyDetails"):
            check_details(asked["PolicyDetails"])
        self.check_role(asked.get("ExecutionRoleArn") or policy.role)
        policy.role = asked.get("ExecutionRoleArn") or policy.role
        policy.description = asked.get("Description") or policy.description
        if asked.get("PolicyDetails"):
            policy.details = completed(asked["PolicyDetails"])
        if asked.get("State"):
            policy.state, policy.message = asked["State"], ""
        policy.modified = policy.looked = self.clock.now()

    def find(self, asked: Mapping[str, Any]) -> list[Policy]:
        """GetLifecyclePolicies, with its filters."""
        for name in asked.get("PolicyIds") or []:
            self.policy(name)

        def tags(given: list[dict[str, str]]) -> set[str]:
            return {f"{tag['Key']}={tag['Value']}" for tag in given}

        def fits(policy: Policy) -> bool:
            added = {one for schedule in policy.details["Schedules"] for one in tags(schedule["TagsToAdd"])}
            return (
                (not asked.get("PolicyIds") or policy.id in asked["PolicyIds"])
                and asked.get("State") in (None, policy.state)
                and asked.get("ResourceTypes") in (None, [], policy.details["ResourceTypes"])
                and set(asked.get("TargetTags") or []) <= tags(policy.details["TargetTags"])
                and set(asked.get("TagsToAdd") or []) <= added
                and asked.get("DefaultPolicyType") is None
            )

        return [policy for policy in self.policies.values() if fits(policy)]


class DLMResponse(BaseResponse):
    """The service's API."""

    def __init__(self) -> None:
        super().__init__(service_name="dlm")
        self.automated_parameter_parsing = True

    @property
    def backend(self) -> DLMBackend:
        """The policies of the caller's account and region."""
        found: DLMBackend = dlm_backends[self.current_account][self.region]
        return found

    def asked(self) -> dict[str, Any]:
        """The request. Raises Invalid where it is not as the model has it."""
        # A list that a query does not have is read as an empty one.
        parameters = {key: value for key, value in self.params.items() if value not in (None, [])}
        shape = MODEL.operation_model(self._get_action()).input_shape
        wrong = list(faults(shape, parameters, ""))
        if wrong:
            raise Invalid("; ".join(wrong))
        return parameters

    def create_lifecycle_policy(self) -> ActionResult:
        """POST /policies."""
        return ActionResult({"PolicyId": self.backend.create(self.asked()).id})

    def get_lifecycle_policies(self) -> ActionResult:
        """GET /policies."""
        return ActionResult({"Policies": [policy.as_summary() for policy in self.backend.find(self.asked())]})

    def get_lifecycle_policy(self) -> ActionResult:
        """GET /policies/ID."""
        return ActionResult({"Policy": self.backend.policy(self.asked()["PolicyId"]).as_answer()})

    def update_lifecycle_policy(self) -> ActionResult:
        """PATCH /policies/ID."""
        self.backend.update(self.asked())
        return EmptyResult()

    def delete_lifecycle_policy(self) -> ActionResult:
        """DELETE /policies/ID: what the policy has taken is kept, and is nobody's to delete any more."""
        self.backend.policies.pop(self.backend.policy(self.asked()["PolicyId"]).id)
        return EmptyResult()

    def list_tags_for_resource(self) -> ActionResult:
        """GET /tags/ARN."""
        return ActionResult({"Tags": dict(self.backend.by_arn(self.asked()["ResourceArn"]).tags)})

    def tag_resource(self) -> ActionResult:
        """POST /tags/ARN."""
        asked = self.asked()
        self.backend.by_arn(asked["ResourceArn"]).tags.update(asked["Tags"])
        return EmptyResult()

    def untag_resource(self) -> ActionResult:
        """DELETE /tags/ARN."""
        asked = self.asked()
        tags = self.backend.by_arn(asked["ResourceArn"]).tags
        for key in asked["TagKeys"]:
            tags.pop(key, None)
        return EmptyResult()


MODEL = botocore.session.get_session().get_service_model("dlm")
dlm_backends = BackendDict(DLMBackend, "dlm")
iam.TAGS["dlm"] = lambda here, arn: dlm_backends[here.account][here.region].by_arn(arn).tags


def register(clock: Clock) -> None:
    """Make the service one of moto's."""
    DLMBackend.clock = clock
    module = ModuleType("moto.dlm")
    module.dlm_backends = dlm_backends  # type: ignore[attr-defined]
    sys.modules["moto.dlm"] = module
    pattern = ("dlm", re.compile(r"https?://dlm\.(.+)\.amazonaws\.com"))
    if pattern not in backend_index.backend_url_patterns:
        backend_index.backend_url_patterns.append(pattern)


# -- acting ------------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """Snapshots of one target that a schedule wants.

    Attributes:
        until: until when it is tried, by the sandbox's clock.
        not_before: when it may be tried (again), by the machine's.
    """

    policy: Policy
    schedule: dict[str, Any]
    target: str
    until: datetime
    not_before: float = field(default_factory=time.monotonic)


class Lifecycle:
    """Carries the policies of one sandbox out.

    Args:
        account: its account.
        region: its region.
        clock: the time by which schedules go.
        endpoint: address of the sandbox's API.
        tell: hands an event to EventBridge.
    """

    def __init__(
        self,
        account: str,
        region: str,
        clock: Clock,
        endpoint: str,
        tell: Callable[[str, str, dict[str, Any], list[str]], None],
    ) -> None:
        self.account, self.region, self.clock, self.endpoint, self.put_event = account, region, clock, endpoint, tell
        self.jobs: list[Job] = []
        self.working = threading.Lock()
        register(clock)

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies that there are."""
        found: dict[str, Policy] = dlm_backends[self.account][self.region].policies
        return found

    @property
    def ec2(self) -> Any:
        """Moto's EC2 records."""
        return ec2_backends[self.account][self.region]

    def tick(self) -> None:
        """Begin what is due, in the background: EC2 may have to be asked twice."""
        self._find_due()
        if self._open() and not self.working.locked():
            threading.Thread(target=self.work, daemon=True, name="dlm").start()

    def catch_up(self) -> None:
        """Do what is due, and return when it is done or refused for the moment."""
        self._find_due()
        self.work()

    def _find_due(self) -> None:
        now = self.clock.now()
        for policy in list(self.policies.values()):
            since, policy.looked = policy.looked, now
            for schedule in policy.details["Schedules"] if policy.state == "ENABLED" else []:
                if last_due(schedule["CreateRule"], since, now) is not None:
                    self.jobs += [Job(policy, schedule, target, now + WINDOW) for target in self.targets(policy)]

    def _open(self) -> bool:
        now = time.monotonic()
        return any(job.not_before <= now for job in self.jobs) or bool(self._surplus())

    def targets(self, policy: Policy) -> list[str]:
        """The ids of the volumes or instances that carry one of the policy's target tags."""
        wanted = {(tag["Key"], tag["Value"]) for tag in policy.details["TargetTags"]}
        if policy.details["ResourceTypes"] == ["VOLUME"]:
            candidates = [one for one in self.ec2.volumes.values() if one.status in ("available", "in-use")]
        else:
            instances = [one for reservation in self.ec2.reservations.values() for one in reservation.instances]
            candidates = [one for one in instances if one.state in ("running", "stopping", "stopped")]
        return [one.id for one in candidates if wanted & {(tag["key"], tag["value"]) for tag in one.get_tags()}]

    def work(self) -> None:
        """Try every job whose time has come, then delete what is kept too many."""
        with self.working:
            now = time.monotonic()
            for job in [job for job in self.jobs if job.not_before <= now]:
                self.jobs.remove(job)
                with self._under(job.policy, job):
                    self._take(job)
            for policy, snapshot_id in self._surplus():
                with self._under(policy, None):
                    self._client(policy).delete_snapshot(SnapshotId=snapshot_id)

    @contextlib.contextmanager
    def _under(self, policy: Policy, job: Job | None) -> Iterator[None]:
        """What a policy does, and what becomes of it when EC2 refuses."""
        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            log.info("lifecycle policy %s: %s", policy.id, error)
            if code in GONE:
                return
            if code in SOON:
                if job is not None and self.clock.now() < job.until:
                    job.not_before = time.monotonic() + PAUSE_S
                    self.jobs.append(job)
                return
            self._fail(
                policy,
                "Role provided does not have sufficient permissions"
                if "nauthorized" in code or "AccessDenied" in code
                else str(error),
            )
        except (BotoCoreError, PermissionError) as error:
            self._fail(policy, str(error))

    def _fail(self, policy: Policy, cause: str) -> None:
        """A policy that cannot do its work is stopped, and its owner is told by an event."""
        policy.state, policy.message = "ERROR", cause[:500]
        self.jobs = [job for job in self.jobs if job.policy is not policy]
        log.warning("lifecycle policy %s: %s", policy.id, cause)
        detail = {"state": "ERROR", "cause": cause, "policy_id": policy.arn}
        self.put_event("aws.dlm", "DLM Policy State Change", detail, [policy.arn])

    def _client(self, policy: Policy) -> Any:
        """EC2 under the policy's role. Raises PermissionError when DLM may not assume it any more."""
        try:
            dlm_backends[self.account][self.region].check_role(policy.role)
        except Invalid as error:
            raise PermissionError(error.message) from error
        assumed = sts_backends[self.account]["aws"].assume_role(
            region_name=self.region,
            role_session_name="dlm",
            role_arn=policy.role,
            policy="",
            duration=3600,
            external_id="",
        )
        return boto3.client(
            "ec2",
            region_name=self.region,
            endpoint_url=self.endpoint,
            aws_access_key_id=assumed.access_key_id,
            aws_secret_access_key=assumed.secret_access_key,
            aws_session_token=assumed.session_token,
            config=botocore.config.Config(retries={"max_attempts": 2}, connect_timeout=5, read_timeout=30),
        )

    def _take(self, job: Job) -> None:
        """The snapshots of one target, with all their tags."""
        ec2, schedule, now = self._client(job.policy), job.schedule, self.clock.now()
        tags = {tag["Key"]: tag["Value"] for tag in schedule["TagsToAdd"]}
        said = f"Created for policy: {job.policy.id} schedule: {schedule.get('Name', 'Default Schedule')}"
        if job.target.startswith("vol-"):
            [volume] = ec2.describe_volumes(VolumeIds=[job.target])["Volumes"]
            copied = tags_to_copy(volume) if schedule["CopyTags"] else {}
            specification = tag_specification({**copied, **tags})
            made = [ec2.create_snapshot(VolumeId=job.target, Description=said, **specification)["SnapshotId"]]
        else:
            ec2.describe_instances(InstanceIds=[job.target])
            values = dict(zip(VARIABLES, (job.target, now.strftime("%Y-%m-%dT%H:%M:%SZ")), strict=True))
            tags |= {tag["Key"]: values[tag["Value"]] for tag in schedule["VariableTags"]}
            made = self._take_all(ec2, job, said, tags)
        expires = expiry(schedule["RetainRule"], now)
        system = {BY: job.policy.id, SCHEDULE: schedule.get("Name", "Default Schedule"), "dlm:managed": "true"}
        system |= {EXPIRES: expires.strftime("%Y-%m-%dT%H:%M:%SZ")} if expires else {}
        for snapshot_id in made:
            self.ec2.snapshots[snapshot_id].add_tags(system)

    def _take_all(self, ec2: Any, job: Job, said: str, tags: dict[str, str]) -> list[str]:
        """Snapshots of an instance's volumes, all of one moment."""
        parameters = job.policy.details.get("Parameters") or {}
        left_out = {(tag["Key"], tag["Value"]) for tag in parameters.get("ExcludeDataVolumeTags") or []}
        specification: dict[str, Any] = {
            "InstanceId": job.target,
            "ExcludeBootVolume": bool(parameters.get("ExcludeBootVolume")),
        }
        if left_out:
            mine = [{"Name": "attachment.instance-id", "Values": [job.target]}]
            rows = ec2.describe_volumes(Filters=mine)["Volumes"]
            specification["ExcludeDataVolumeIds"] = [
                row["VolumeId"] for row in rows if left_out & {(t["Key"], t["Value"]) for t in row.get("Tags", [])}
            ]
        copied = {"CopyTagsFromSource": "volume"} if job.schedule["CopyTags"] else {}
        answer = ec2.create_snapshots(
            InstanceSpecification=specification, Description=said, **copied, **tag_specification(tags)
        )
        return [row["SnapshotId"] for row in answer["Snapshots"]]

    def _surplus(self) -> list[tuple[Policy, str]]:
        """The snapshots that their schedule keeps no longer: too many of a volume, or too old."""
        found: list[tuple[Policy, str]] = []
        now = self.clock.now()
        for policy in [one for one in list(self.policies.values()) if one.state == "ENABLED"]:
            for schedule in policy.details["Schedules"]:
                kept = self._kept(policy, schedule.get("Name", "Default Schedule"))
                for volume_id, rows in kept.items():
                    rows.sort(key=lambda one: one.start_time)
                    count = schedule["RetainRule"].get("Count")
                    if count:
                        found += [(policy, one.id) for one in rows[:-count]]
                        continue
                    # The last one of a volume that is gone is left to people.
                    aged = rows if volume_id in self.ec2.volumes else rows[:-1]
                    found += [(policy, one.id) for one in aged if _expired(one, now)]
        return found

    def _kept(self, policy: Policy, schedule: str) -> dict[str, list[Any]]:
        """The completed snapshots of a schedule, by volume."""
        rows: dict[str, list[Any]] = {}
        for one in list(self.ec2.snapshots.values()):
            tags = {tag["key"]: tag["value"] for tag in one.get_tags()}
            if one.status == "completed" and tags.get(BY) == policy.id and tags.get(SCHEDULE) == schedule:
                rows.setdefault(one.volume.id, []).append(one)
        return rows


def _expired(snapshot: Any, now: datetime) -> bool:
    tags = {tag["key"]: tag["value"] for tag in snapshot.get_tags()}
    until = tags.get(EXPIRES)
    return until is not None and datetime.fromisoformat(until.replace("Z", "+00:00")).astimezone(UTC) <= now


def tags_to_copy(volume: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a volume that are its owner's."""
    return {tag["Key"]: tag["Value"] for tag in volume.get("Tags", []) if not tag["Key"].startswith("aws:")}


def tag_specification(tags: Mapping[str, str]) -> dict[str, Any]:
    """The parameter that tags snapshots as they are made; nothing without tags."""
    rows = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"TagSpecifications": [{"ResourceType": "snapshot", "Tags": rows}]} if rows else {}
