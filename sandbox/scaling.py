"""Auto Scaling's lifecycle hooks and scheduled actions: moto records them, here they act."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import AutoScalingBackend, FakeScheduledAction
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import EmptyResult

log = logging.getLogger("sandbox")

LAUNCHING, TERMINATING = "autoscaling:EC2_INSTANCE_LAUNCHING", "autoscaling:EC2_INSTANCE_TERMINATING"
NAMES = {
    "month": ["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
ACTIONS_PER_GROUP = 125
HEARTBEAT_S = (30, 7200)


# -- the clock and cron ------------------------------------------------------------------------------------------------


class Clock:
    """The time by which schedules go: the machine's, moved forward when a test asks for it."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        """The sandbox's time."""
        return datetime.now(UTC) + self.ahead

    def move(self, to: datetime) -> None:
        """Go forward to a time; time never runs backwards.

        Raises ValueError for a time that has passed.
        """
        now = self.now()
        by = to - now
        if by < timedelta():
            raise ValueError(f"{to.isoformat()} has passed: it is {now.isoformat()} in this sandbox")
        self.ahead += by


class Cron:
    """A five-field cron expression, as Auto Scaling takes it."""

    def __init__(self, text: str) -> None:
        parts = text.split()
        if len(parts) != len(FIELDS):
            raise ValueError(f"{text!r} has {len(parts)} fields instead of 5")
        self.sets = [_numbers(part, *field) for part, field in zip(parts, FIELDS, strict=True)]
        self.free_day, self.free_weekday = parts[2] == "*", parts[4] == "*"

    def matches(self, when: datetime) -> bool:
        """Whether the minute of a local time is one of the expression's."""
        minute, hour, day, month, weekday = self.sets
        if when.minute not in minute or when.hour not in hour or when.month not in month:
            return False
        on_day, on_weekday = when.day in day, when.isoweekday() % 7 in weekday
        if self.free_day or self.free_weekday:
            return on_day and on_weekday
        return on_day or on_weekday


def _numbers(text: str, name: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        span, _, step = part.partition("/")
        if span == "*":
            first, last = low, high
        else:
            begin, _, end = span.partition("-")
            first = _number(begin, name)
            last = _number(end, name) if end else high if step else first
        if not low <= first <= last <= high:
            raise ValueError(f"{part!r} is no {name}")
        found |= set(range(first, last + 1, int(step or 1)))
    return {number % 7 for number in found} if name == "weekday" else found


def _number(text: str, name: str) -> int:
    names = NAMES.get(name, [])
    return names.index(text) if text in names else int(text)


# -- lifecycle hooks ---------------------------------------------------------------------------------------------------


@dataclass
class Wait:
    """One hook that holds one instance."""

    token: str
    transition: str
    timeout: float
    default: str
    deadline: float
    last: float
    result: str = ""


class Hooks:
    """Who holds which instance of a group, and for how long."""

    def __init__(self, tell: Callable[[str, str, dict[str, Any], list[str]], None]) -> None:
        self.put_event = tell
        self.waits: dict[tuple[str, str], Wait] = {}

    def close_gaps(self) -> None:
        """Give moto what it lacks."""
        hooks = self

        def known(response: Any) -> Wait:
            name, group = response._get_param("LifecycleHookName"), response._get_param("AutoScalingGroupName")
            token, instance = response._get_param("LifecycleActionToken"), response._get_param("InstanceId")
            for (waiting, hook), wait in hooks.waits.items():
                if hook == f"{group}/{name}" and (waiting == instance or wait.token == token) and not wait.result:
                    return wait
            raise ValidationError(f"No active Lifecycle Action found with instance ID {instance or token}")

        def complete_lifecycle_action(response: Any) -> Any:
            wait, result = known(response), response._get_param("LifecycleActionResult")
            if result not in ("CONTINUE", "ABANDON"):
                raise ValidationError(f"Invalid lifecycle action result {result}: use CONTINUE or ABANDON")
            wait.result = result
            return EmptyResult()

        def record_lifecycle_action_heartbeat(response: Any) -> Any:
            wait = known(response)
            wait.deadline = min(time.monotonic() + wait.timeout, wait.last)
            return EmptyResult()

        def put_lifecycle_hook(response: Any) -> Any:
            backend, name = response.autoscaling_backend, response._get_param("LifecycleHookName")
            group = response._get_param("AutoScalingGroupName")
            if group not in backend.autoscaling_groups:
                raise ValidationError(f"AutoScalingGroup name not found - AutoScalingGroup '{group}' not found")
            before = backend.lifecycle_hooks.get(f"{group}_{name}")
            timeout = response._get_int_param("HeartbeatTimeout")
            if timeout is not None and not HEARTBEAT_S[0] <= timeout <= HEARTBEAT_S[1]:
                raise ValidationError(
                    f"Heartbeat timeout must be between {HEARTBEAT_S[0]} and {HEARTBEAT_S[1]} seconds, inclusive"
                )
            hook = backend.create_lifecycle_hook(
                name=name,
                as_name=group,
                transition=response._get_param("LifecycleTransition")
                or (before.lifecycle_transition if before else None),
                timeout=timeout or (before.heartbeat_timeout if before else None),
                result=response._get_param("DefaultResult") or (before.default_result if before else None),
            )
            hook.role_arn = response._get_param("RoleARN")
            hook.notification_target_arn = response._get_param("NotificationTargetARN")
            hook.global_timeout = min(172800, 100 * hook.heartbeat_timeout)
            return EmptyResult()

        AutoScalingResponse.complete_lifecycle_action = complete_lifecycle_action
        AutoScalingResponse.record_lifecycle_action_heartbeat = record_lifecycle_action_heartbeat
        AutoScalingResponse.put_lifecycle_hook = put_lifecycle_hook

    def hold(self, group: Any, state: Any, transition: str) -> bool:
        """Begin to hold an instance; False when no hook of the group wants to."""
        found = [
            hook
            for hook in group.autoscaling_backend.describe_lifecycle_hooks(group.name)
            if hook.lifecycle_transition == transition
        ]
        now = time.monotonic()
        for hook in found:
            wait = Wait(
                str(uuid.uuid4()),
                transition,
                float(hook.heartbeat_timeout),
                hook.default_result,
                now + hook.heartbeat_timeout,
                now + hook.global_timeout,
            )
            self.waits[(state.instance.id, f"{group.name}/{hook.name}")] = wait
            launching = transition == LAUNCHING
            self.put_event(
                "aws.autoscaling",
                f"EC2 Instance-{'launch' if launching else 'terminate'} Lifecycle Action",
                {
                    "LifecycleActionToken": wait.token,
                    "AutoScalingGroupName": group.name,
                    "LifecycleHookName": hook.name,
                    "EC2InstanceId": state.instance.id,
                    "LifecycleTransition": transition,
                    "Origin": "EC2" if launching else "AutoScalingGroup",
                    "Destination": "AutoScalingGroup" if launching else "EC2",
                },
                [group.arn],
            )
        return bool(found)

    def verdict(self, group: Any, state: Any) -> str:
        """What the hooks that hold an instance have come to: empty while one of them waits."""
        mine = {key: wait for key, wait in self.waits.items() if key[0] == state.instance.id}
        now, results = time.monotonic(), set()
        for wait in mine.values():
            if not wait.result and now >= wait.deadline:
                log.info("%s: hook of %s timed out", state.instance.id, group.name)
                wait.result = wait.default
            results.add(wait.result)
        if "" in results and "ABANDON" not in results:
            return ""
        for key in mine:
            self.waits.pop(key, None)
        return "ABANDON" if "ABANDON" in results else "CONTINUE"

    def forget(self, instance_id: str) -> None:
        """The instance is gone: nothing holds it any more."""
        for key in [key for key in self.waits if key[0] == instance_id]:
            self.waits.pop(key, None)


# -- scheduled actions -------------------------------------------------------------------------------------------------


class Schedules:
    """Scheduled actions of the groups, carried out when their time comes."""

    def __init__(self, backend: Callable[[], Any], clock: Clock) -> None:
        self.backend, self.clock = backend, clock
        self.seen = clock.now()
        self.lock = threading.Lock()

    def close_gaps(self) -> None:
        """Give moto what it lacks."""
        schedules = self

        def put(backend: Any, **given: Any) -> Any:
            name, group = given["scheduled_action_name"], given["name"]
            if group not in backend.autoscaling_groups:
                raise ValidationError(f"AutoScalingGroup name not found - no such group: {group}")
            sizes = {key: given[key] for key in ("desired_capacity", "max_size", "min_size")}
            sizes = {key: None if value in (None, "") else int(value) for key, value in sizes.items()}
            action = FakeScheduledAction(
                group,
                scheduled_action_name=name,
                start_time=given["start_time"],
                end_time=given["end_time"],
                recurrence=given["recurrence"],
                time_zone=given["timezone"],
                **sizes,
            )
            schedules.check(backend, action)
            backend.scheduled_actions[f"{group}/{name}"] = action
            return action

        def delete(backend: Any, auto_scaling_group_name: str, scheduled_action_name: str) -> None:
            if backend.scheduled_actions.pop(f"{auto_scaling_group_name}/{scheduled_action_name}", None) is None:
                raise ValidationError("Scheduled action name not found")

        AutoScalingBackend.put_scheduled_update_group_action = put
        AutoScalingBackend.delete_scheduled_action = delete

    def check(self, backend: Any, action: Any) -> None:
        """Refuse what AWS refuses."""
        others = [
            other
            for other in backend.scheduled_actions.values()
            if other.auto_scaling_group_name == action.auto_scaling_group_name
            and other.scheduled_action_name != action.scheduled_action_name
        ]
        if len(others) >= ACTIONS_PER_GROUP:
            raise ValidationError(f"A group can have up to {ACTIONS_PER_GROUP} scheduled actions.")
        try:
            ZoneInfo(action.time_zone or "UTC")
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValidationError(f"Invalid time zone: {action.time_zone}") from error
        try:
            cron = Cron(action.recurrence) if action.recurrence else None
        except ValueError as error:
            raise ValidationError(f"Given recurrence string: {action.recurrence} is invalid: {error}") from error
        start = moment(action.start_time)
        if start is None and cron is None:
            raise ValidationError("At least one of StartTime or Recurrence must be specified")
        if start is not None and start < self.clock.now() - timedelta(seconds=60):
            raise ValidationError("Given start time is in the past")
        if start is not None and any(moment(other.start_time) == start for other in others):
            raise ValidationError("Scheduled actions of a group must have unique start times")

    def tick(self) -> None:
        """Carry out what has become due since the last look, in its order."""
        with self.lock:
            since, now = self.seen, self.clock.now()
            self.seen = now
        due: list[tuple[datetime, Any]] = []
        for action in list(self.backend().scheduled_actions.values()):
            due += [(when, action) for when in times(action, since, now)]
        for _when, action in sorted(due, key=lambda pair: pair[0]):
            self.fire(action)

    def fire(self, action: Any) -> None:
        """Carry out one action now."""
        backend = self.backend()
        group = backend.autoscaling_groups.get(action.auto_scaling_group_name)
        if not action.recurrence:
            backend.scheduled_actions.pop(f"{action.auto_scaling_group_name}/{action.scheduled_action_name}", None)
        if group is None:
            return
        low = group.min_size if action.min_size is None else action.min_size
        high = group.max_size if action.max_size is None else action.max_size
        wanted = group.desired_capacity if action.desired_capacity is None else action.desired_capacity
        group.min_size, group.max_size = low, max(low, high)
        group.desired_capacity = min(max(wanted, low), group.max_size)
        log.info("scheduled action %s: %s wants %d", action.scheduled_action_name, group.name, group.desired_capacity)

    def find(self, group: str, name: str) -> Any:
        """An action by name. Raises KeyError."""
        return self.backend().scheduled_actions[f"{group}/{name}"]


def moment(value: Any) -> datetime | None:
    """A time in any of the forms in which moto hands it on."""
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromisoformat(str(value).replace("Z", "+00:00")).astimezone(UTC)


def times(action: Any, since: datetime, now: datetime) -> list[datetime]:
    """When an action was due in the span after `since` until `now`."""
    start, end = moment(action.start_time), moment(action.end_time)
    if not action.recurrence:
        return [start] if start is not None and since < start <= now else []
    cron, zone = Cron(action.recurrence), ZoneInfo(action.time_zone or "UTC")
    when = since.replace(second=0, microsecond=0) + timedelta(minutes=1)
    found = []
    while when <= now:
        inside = (start is None or when >= start) and (end is None or when < end)
        if inside and cron.matches(when.astimezone(zone)):
            found.append(when)
        when += timedelta(minutes=1)
    return found
