"""AWS Fault Injection Service in a sandbox: experiments that really interrupt, end and refuse instances.

moto records templates and experiments; here they act. Durations are shortened by `scale`, so that a rehearsal of a
two-minute notice need not take two minutes; the notice itself always names the true time of the end.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.fis.models import Experiment, FISBackend, fis_backends

from sandbox import iam
from sandbox.cloud import Cloud
from sandbox.events import Bus
from sandbox.functions import role_of

log = logging.getLogger("sandbox")

INTERRUPT = "aws:ec2:send-spot-instance-interruptions"
TERMINATE = "aws:ec2:terminate-instances"
NO_CAPACITY = "aws:ec2:asg-insufficient-instance-capacity-error"
# For each action: the name of its target, the target's type, and what the role must be allowed to do to it.
ACTIONS = {
    INTERRUPT: ("SpotInstances", "aws:ec2:spot-instance", "ec2:SendSpotInstanceInterruptions"),
    TERMINATE: ("Instances", "aws:ec2:instance", "ec2:TerminateInstances"),
    NO_CAPACITY: ("AutoScalingGroups", "aws:ec2:autoscaling-group", "ec2:InjectApiError"),
}
# What the role must be allowed to see besides ("AWS FIS actions reference" and "Example: Use condition keys for
# ec2:InjectApiError" in the user guide). Which targets there are, AWS finds out by its own role for FIS.
LOOKS = {TERMINATE: "ec2:DescribeInstances", NO_CAPACITY: "autoscaling:DescribeAutoScalingGroups"}
NOTICE_S = 120.0  # AWS gives a Spot instance two minutes
DURATION = re.compile(r"^PT(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?$")
SPOT_TARGETS_MAX = 5


class Refused(JsonRESTError):
    """A request that AWS does not accept."""

    code = 400

    def __init__(self, message: str) -> None:
        super().__init__("ValidationException", message)


def duration(text: str) -> timedelta:
    """An ISO 8601 duration of hours, minutes and seconds. Raises ValueError."""
    match = DURATION.match(text or "")
    if match is None:
        raise ValueError(f"{text!r} is no duration such as PT2M")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


class Fis:
    """Experiments of one sandbox."""

    def __init__(self, cloud: Cloud, bus: Bus) -> None:
        self.cloud, self.bus = cloud, bus
        self.scale = 1.0

    def close_gaps(self) -> None:
        """Give moto what it lacks."""
        fis = self
        create, start, stop = (
            FISBackend.create_experiment_template,
            FISBackend.start_experiment,
            FISBackend.stop_experiment,
        )

        def create_experiment_template(backend: Any, **given: Any) -> Any:
            fis.check(given)
            return create(backend, **given)

        def start_experiment(backend: Any, **given: Any) -> Any:
            answer = start(backend, **given)
            experiment = backend.experiments[answer["id"]]
            if not getattr(experiment, "begun", False):
                experiment.begun = True
                fis.begin(experiment)
            return experiment.to_dict(tags=answer.get("tags"))

        def stop_experiment(backend: Any, id: str) -> Any:  # noqa: A002 - moto names it
            answer = stop(backend, id)
            experiment = backend.experiments[id]
            halt = getattr(experiment, "halt", None)
            if halt is not None:
                halt.set()
            return answer

        def synced(experiment: Any) -> str:
            return str(experiment.status)

        FISBackend.create_experiment_template = create_experiment_template
        FISBackend.start_experiment = start_experiment
        FISBackend.stop_experiment = stop_experiment
        # moto moves the state on by counting how often it is asked.
        Experiment.status = property(lambda one: one._status, lambda one, value: setattr(one, "_status", value))
        Experiment._sync_state = synced

    def check(self, template: dict[str, Any]) -> None:
        """Refuse a template that AWS would refuse."""
        targets = template.get("targets") or {}
        if not template.get("stopConditions") and not template.get("stop_conditions"):
            raise Refused("stopConditions is required; use [{'source': 'none'}] for none")
        for name, action in (template.get("actions") or {}).items():
            kind = action.get("actionId", "")
            if kind not in ACTIONS:
                raise Refused(f"Action {name}: {kind} is none of {', '.join(ACTIONS)}")
            key, resource, _permission = ACTIONS[kind]
            target = targets.get((action.get("targets") or {}).get(key, ""))
            if target is None or target.get("resourceType") != resource:
                raise Refused(f"Action {name}: {kind} needs the target {key} of type {resource}")
            if bool(target.get("resourceArns")) == bool(target.get("resourceTags")):
                raise Refused(f"Target {action['targets'][key]}: give either resourceArns or resourceTags")
            self._check_parameters(name, kind, action.get("parameters") or {})

    def _check_parameters(self, name: str, kind: str, parameters: dict[str, str]) -> None:
        field = {INTERRUPT: "durationBeforeInterruption", NO_CAPACITY: "duration"}.get(kind)
        if field is None:
            return
        try:
            length = duration(parameters.get(field, ""))
        except ValueError as error:
            raise Refused(f"Action {name}: {field}: {error}") from error
        if kind == INTERRUPT and not timedelta(minutes=2) <= length <= timedelta(minutes=15):
            raise Refused(f"Action {name}: {field} must be between PT2M and PT15M")
        if kind == NO_CAPACITY and not parameters.get("availabilityZoneIdentifiers"):
            raise Refused(f"Action {name}: availabilityZoneIdentifiers is required")

    # -- running -------------------------------------------------------------------------------------------------------

    def begin(self, experiment: Any) -> None:
        """Start an experiment in the background, as AWS does."""
        experiment.status = "initiating"
        experiment.halt = threading.Event()
        threading.Thread(target=self._run, args=(experiment,), daemon=True, name="fis").start()

    def _run(self, experiment: Any) -> None:
        try:
            self._refuse(experiment)
            plan = [(action, self.resolve(experiment, action)) for action in experiment.actions.values()]
            for action, found in plan:
                self._permit(experiment, action, found)
            experiment.status = "running"
            # Without startAfter, which no template here has, AWS begins all actions at once.
            with ThreadPoolExecutor(len(plan)) as pool:
                for done in [pool.submit(self._carry_out, experiment, action, found) for action, found in plan]:
                    done.result()
            self._end(experiment, "stopped" if experiment.halt.is_set() else "completed", "")
        except Exception as error:
            log.exception("experiment %s", experiment.id)
            self._end(experiment, "failed", str(error))

    def _carry_out(self, experiment: Any, action: dict[str, Any], found: list[Any]) -> None:
        action["startTime"] = time.time()
        action["state"] = {"status": "running", "reason": "Action is running."}
        self._act(experiment, action, found)
        ended = "stopped" if experiment.halt.is_set() else "completed"
        action["endTime"] = time.time()
        action["state"] = {"status": ended, "reason": f"Action {ended}."}

    def _end(self, experiment: Any, status: str, reason: str) -> None:
        experiment.end_time = time.time()
        if reason:
            experiment.STATUS_REASONS = {**Experiment.STATUS_REASONS, status: reason}
        experiment.status = status

    def _refuse(self, experiment: Any) -> None:
        role = role_of(self.cloud.account, experiment.role_arn)
        about = {"aws:SourceAccount": self.cloud.account, "aws:SourceArn": experiment.arn}
        if role is None or not iam.trusts(role, "fis.amazonaws.com", about):
            raise PermissionError(f"FIS cannot assume the role {experiment.role_arn}")

    def _permit(self, experiment: Any, action: dict[str, Any], found: list[Any]) -> None:
        """The experiment's role must be allowed to do this to what was found."""
        kind = action["actionId"]
        permission = ACTIONS[kind][2]
        look = LOOKS.get(kind)
        if look and not self.bus.role_may(experiment.role_arn, look, {}, {}):
            raise PermissionError(f"the experiment's role may not {look}")
        if kind == NO_CAPACITY:
            parameters: dict[str, Any] = {}
            context: dict[str, Any] = {"ec2:FisActionId": [kind], "ec2:FisTargetArns": [one.arn for one in found]}
        else:
            parameters, context = {"InstanceIds": [one.id for one in found]}, {}
        if not self.bus.role_may(experiment.role_arn, permission, parameters, context):
            raise PermissionError(f"the experiment's role may not {permission}")

    def resolve(self, experiment: Any, action: dict[str, Any]) -> list[Any]:
        """The instances or groups of an action's target. Raises LookupError when there is none."""
        key, resource, _permission = ACTIONS[action["actionId"]]
        name = action["targets"][key]
        target = experiment.targets[name]
        candidates = self._groups() if resource == "aws:ec2:autoscaling-group" else self._instances(resource)
        found = [one for arn, tags, one in candidates if _wanted(target, arn, tags)]
        for rule in target.get("filters") or []:
            found = [one for one in found if _at(one, rule["path"]) in rule["values"]]
        mode = target.get("selectionMode", "ALL")
        share = re.match(r"^(COUNT|PERCENT)\((\d+)\)$", mode)
        if share:
            number = int(share[2]) if share[1] == "COUNT" else len(found) * int(share[2]) // 100
            found = random.sample(found, min(number, len(found)))
        if not found:
            raise LookupError(f"Target resolution returned empty set for {name}")
        if action["actionId"] == INTERRUPT and len(found) > SPOT_TARGETS_MAX:
            raise LookupError(f"{name} has {len(found)} targets; {SPOT_TARGETS_MAX} are the most for {INTERRUPT}")
        return found

    def _instances(self, resource: str) -> list[tuple[str, dict[str, str], Any]]:
        spot = resource == "aws:ec2:spot-instance"
        return [
            (
                f"arn:aws:ec2:{self.cloud.region}:{self.cloud.account}:instance/{one.id}",
                {tag["key"]: tag["value"] for tag in one.get_tags()},
                one,
            )
            for one in self.cloud.instances("running")
            if not spot or one.lifecycle == "spot"
        ]

    def _groups(self) -> list[tuple[str, dict[str, str], Any]]:
        return [
            (group.arn, {tag["Key"]: tag["Value"] for tag in group.tags or []}, group)
            for group in self.cloud.groups.autoscaling_groups.values()
        ]

    def _act(self, experiment: Any, action: dict[str, Any], found: list[Any]) -> None:
        kind, parameters = action["actionId"], action.get("parameters") or {}
        if kind == TERMINATE:
            self.cloud.ec2.terminate_instances([one.id for one in found])
            return
        if kind == INTERRUPT:
            total = duration(parameters["durationBeforeInterruption"]).total_seconds() * self.scale
            warning = min(NOTICE_S * self.scale, total)
            for one in found:
                self.cloud.rebalance(one.id)
            if experiment.halt.wait(total - warning):
                return
            for one in found:
                self.cloud.notice(one.id, warning)
            self._until(experiment, lambda: all(one.state != "running" for one in found), warning + 60)
            return
        length = duration(parameters["duration"]).total_seconds() * self.scale
        zones = {zone.strip() for zone in parameters["availabilityZoneIdentifiers"].split(",")}
        refused = self.cloud.faults.refused
        for group in found:
            refused[group.name] = zones
        experiment.halt.wait(length)
        for group in found:
            refused.pop(group.name, None)

    def _until(self, experiment: Any, done: Callable[[], bool], patience: float) -> None:
        deadline = time.monotonic() + patience
        while not done() and time.monotonic() < deadline and not experiment.halt.wait(0.2):
            pass

    def experiments(self) -> list[dict[str, Any]]:
        """All experiments, for the control interface."""
        backend = fis_backends[self.cloud.account][self.cloud.region]
        return [{"id": one.id, "status": one.status} for one in backend.experiments.values()]


def _wanted(target: dict[str, Any], arn: str, tags: dict[str, str]) -> bool:
    if target.get("resourceArns"):
        return arn in target["resourceArns"]
    return all(tags.get(key) == value for key, value in (target.get("resourceTags") or {}).items())


def _at(instance: Any, path: str) -> str:
    values = {
        "State.Name": lambda: instance.state,
        "Placement.AvailabilityZone": lambda: instance.placement.zone,
        "VpcId": lambda: instance.vpc_id,
        "SubnetId": lambda: instance.subnet_id,
        "InstanceType": lambda: instance.instance_type,
    }
    if path not in values:
        raise LookupError(f"the filter {path} is none of {', '.join(values)}")
    return str(values[path]())


iam.TAGS["fis"] = lambda here, arn: fis_backends[here.account][here.region].tagger.get_tag_dict_for_resource(arn)
