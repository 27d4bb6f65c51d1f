#!/usr/bin/python
"""The hours in which the host of an Auto Scaling group runs."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: autoscaling_schedule
short_description: The hours in which the host of an Auto Scaling group runs
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Gives an Auto Scaling group of one the scheduled actions that start its host in the morning and end it in the
    evening, in a time zone of its own, with days off and holidays.
  - Auto Scaling knows no holidays. The morning's action is therefore divided into spans that leave them out.
  - Scheduled actions whose names do not begin with C(spotcache-) are left alone.
options:
  name:
    description: Name of the group.
    type: str
    required: true
  state:
    description:
      - V(present) gives the group its hours.
      - V(absent) takes them away. The host stays as it is.
    type: str
    choices: [present, absent]
    default: present
  time_zone:
    description: Time zone (IANA) of all times here.
    type: str
    default: Asia/Tokyo
  start:
    description:
      - When the host is started, as HH:MM. AWS may be up to two minutes late.
      - Minutes since midnight are taken as well, which is what YAML makes of 20:00 without quotes.
    type: str
    default: '09:00'
  stop:
    description: When the host is ended, in the same form as O(start), and later on the same day.
    type: str
    default: '20:00'
  days:
    description: Days on which it runs, of mon, tue, wed, thu, fri, sat and sun.
    type: list
    elements: str
    default: [mon, tue, wed, thu, fri]
  holidays:
    description: Days on which it does not, as YYYY-MM-DD. Those that have passed are ignored.
    type: list
    elements: str
    default: []
  now:
    description:
      - What to do at once, besides the hours.
      - V(keep) leaves out today's end, so that the host runs through the night. It ends on the next evening, or, when
        the next day is free, at its O(start).
      - V(start) starts the host. Outside of its hours it ends at the next O(stop).
      - V(stop) ends the host until the next morning.
    type: str
    choices: [none, keep, start, stop]
    default: none
  only_stop:
    description: Whether the group is only ever ended, for a group that something else starts.
    type: bool
    default: false
  must_exist:
    description: Whether it is an error that there is no such group.
    type: bool
    default: true
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Says what would change and changes nothing.
    support: full
  diff_mode:
    description: Shows the actions and the sizes before and after.
    support: full
"""

EXAMPLES = r"""
- name: Office hours, without New Year
  spotcache.redis.autoscaling_schedule:
    name: spotcache-stg
    holidays: ['2026-12-31', '2027-01-01']

- name: Keep on tonight
  spotcache.redis.autoscaling_schedule:
    name: spotcache-stg
    now: keep
"""

RETURN = r"""
next_start:
  description: When the host is started next by its hours, empty for never.
  returned: for O(state=present)
  type: str
  sample: '2026-11-24T09:00:00+09:00'
next_stop:
  description: When it is ended next.
  returned: for O(state=present)
  type: str
actions:
  description: The scheduled actions.
  returned: for O(state=present)
  type: list
  elements: dict
"""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble, finish

PREFIX = "spotcache-"
ONCE = f"{PREFIX}stop-once-"
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
CLOCK = re.compile(r"^([01]\d|2[0-3]):[0-5]\d$")
ACTIONS_MAX = 125
MINUTES_A_DAY = 24 * 60
DAY = timedelta(days=1)
AHEAD = 400  # days in which the next start is looked for


def clock_of(name: str, text: str) -> time:
    """A time of day, of HH:MM or of minutes since midnight: YAML reads 20:00 as a number to the base of 60.

    Raises Trouble when it is neither.
    """
    if CLOCK.match(text):
        return time.fromisoformat(text)
    if text.isdecimal() and int(text) < MINUTES_A_DAY:
        return time(*divmod(int(text), 60))
    raise Trouble(f"{name} is '{text}': give hours and minutes in quotes, for example '09:00'.")


class Hours:
    """Working days and hours, in one time zone."""

    def __init__(self, params: dict[str, Any]) -> None:
        start, stop = (clock_of(name, params[name]) for name in ("start", "stop"))
        if start >= stop:
            raise Trouble(f"start ({start:%H:%M}) must come before stop ({stop:%H:%M}) on the same day.")
        strange = [day for day in params["days"] if day not in DAYS]
        if strange or not params["days"]:
            raise Trouble(
                f"days is {params['days']}: name at least one of {', '.join(DAYS)}, for example [mon, tue, wed]."
            )
        try:
            self.zone = ZoneInfo(params["time_zone"])
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise Trouble(
                f"time_zone '{params['time_zone']}' is not known on this machine: use an IANA name such as Asia/Tokyo "
                "(and install the package tzdata where even that is not known)."
            ) from error
        try:
            self.holidays = {date.fromisoformat(str(day)) for day in params["holidays"]}
        except ValueError as error:
            raise Trouble(f"holidays: {error}. Give days as YYYY-MM-DD, for example '2027-01-01'.") from error
        self.zone_name = params["time_zone"]
        self.start, self.stop = start, stop
        self.days = {DAYS.index(day) for day in params["days"]}

    def working(self, day: date) -> bool:
        """Whether the host runs on a day."""
        return day.isoweekday() % 7 in self.days and day not in self.holidays

    def at(self, day: date, when: time) -> datetime:
        """A time of a day."""
        return datetime.combine(day, when, self.zone)

    def inside(self, now: datetime) -> bool:
        """Whether it is a time at which the host runs by its hours."""
        return self.working(now.date()) and self.start <= now.time() < self.stop

    def next(self, when: time, now: datetime) -> datetime | None:
        """The next time of day on a working day."""
        days = (now.date() + n * DAY for n in range(AHEAD))
        return next((self.at(d, when) for d in days if self.working(d) and self.at(d, when) > now), None)

    def cron(self, when: time) -> str:
        """The recurrence of a time of day on the days of the week."""
        return f"{when.minute} {when.hour} * * {','.join(map(str, sorted(self.days)))}"


def spans(left_out: set[date], today: date) -> list[tuple[date | None, date | None]]:
    """The time from today on without some days, as pairs of first day and day after the last; None is without end."""
    found: list[tuple[date | None, date | None]] = []
    begin: date | None = None
    for day in sorted(one for one in left_out if one >= today):
        if day > (begin or today):
            found.append((begin, day))
        begin = day + DAY
    return [*found, (begin, None)]


def recurring(hours: Hours, kind: str, left_out: set[date], today: date) -> dict[str, dict[str, Any]]:
    """The actions that start or stop the host each day but some, by name."""
    size = 1 if kind == "start" else 0
    actions = {}
    for begin, end in spans(left_out, today):
        # The span is part of the name: AWS changes the start time of what recurs, so that it cannot be compared.
        name = PREFIX + kind + (f"-from-{begin:%Y%m%d}" if begin else "") + (f"-until-{end:%Y%m%d}" if end else "")
        actions[name] = {
            "MinSize": size,
            "MaxSize": 1,
            "DesiredCapacity": size,
            "Recurrence": hours.cron(hours.start if kind == "start" else hours.stop),
            "TimeZone": hours.zone_name,
            **({"StartTime": hours.at(begin, time()).astimezone(UTC)} if begin else {}),
            **({"EndTime": hours.at(end, time()).astimezone(UTC)} if end else {}),
        }
    return actions


def once(when: datetime) -> dict[str, dict[str, Any]]:
    """An action that ends the host once."""
    moment = when.astimezone(UTC)
    return {
        f"{ONCE}{moment:%Y%m%dT%H%M}": {"MinSize": 0, "MaxSize": 1, "DesiredCapacity": 0, "StartTime": moment},
    }


def plan(hours: Hours, now: datetime, what: str, have: set[str], only_stop: bool = False) -> dict[str, dict[str, Any]]:
    """All actions that the group should have.

    `have` names the actions that it has: a night that was kept before, or an end ordered for later, stays ordered.
    Raises Trouble when the evening that is to be left out has passed.
    """
    today, tomorrow = now.date(), now.date() + DAY
    kept = any(name.startswith(f"{PREFIX}stop-from-{tomorrow:%Y%m%d}") for name in have)
    extra: dict[str, dict[str, Any]] = {}
    if what != "stop":
        for name in have:
            if name.startswith(ONCE):
                when = datetime.strptime(name.removeprefix(ONCE), "%Y%m%dT%H%M").replace(tzinfo=UTC)
                extra |= once(when) if when > now else {}
    if what == "keep":
        if hours.working(today) and now.time() >= hours.stop:
            raise Trouble(f"It is {now:%H:%M}, and the host was ended at {hours.stop:%H:%M}: start it instead.")
        kept = True
        extra = {} if hours.working(tomorrow) else once(hours.at(tomorrow, hours.start))
    if what == "start" and not hours.inside(now):
        day = today if now.time() < hours.stop else tomorrow
        extra = {} if hours.working(day) else once(hours.at(day, hours.stop))
    mornings = {} if only_stop else recurring(hours, "start", hours.holidays, today)
    evenings = recurring(hours, "stop", {today} if kept and what != "stop" else set(), today)
    return {**mornings, **evenings, **extra}


def described(action: dict[str, Any]) -> dict[str, Any]:
    """An action as AWS describes it, in the form of a plan."""
    keys = ("MinSize", "MaxSize", "DesiredCapacity", "Recurrence", "TimeZone", "StartTime", "EndTime")
    return {key: action[key] for key in keys if action.get(key) is not None}


def same(have: dict[str, Any], want: dict[str, Any]) -> bool:
    """Whether an action is as planned; the start of what recurs is AWS's to change."""
    keys = set(have) | set(want)
    if want.get("Recurrence"):
        keys.discard("StartTime")
    return all(have.get(key) == want.get(key) for key in keys)


def shown(actions: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Actions for people and JSON."""
    rows = []
    for name, action in sorted(actions.items()):
        plain = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in action.items()}
        rows.append({"name": name, **plain})
    return rows


class Group:
    """The group called `name`."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def sizes(self) -> list[int] | None:
        """Minimum, desired and maximum size, or None without a group."""
        found = self.client.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        return [int(found[0][key]) for key in ("MinSize", "DesiredCapacity", "MaxSize")] if found else None

    def actions(self) -> dict[str, dict[str, Any]]:
        """The group's scheduled actions that are ours."""
        pages = self.client.get_paginator("describe_scheduled_actions").paginate(AutoScalingGroupName=self.name)
        rows = [row for page in pages for row in page["ScheduledUpdateGroupActions"]]
        return {r["ScheduledActionName"]: described(r) for r in rows if r["ScheduledActionName"].startswith(PREFIX)}

    def change(self, have: dict[str, dict[str, Any]], want: dict[str, dict[str, Any]], now: datetime) -> None:
        """Make the actions what they should be."""
        for name in sorted(set(have) - set(want)):
            self.client.delete_scheduled_action(AutoScalingGroupName=self.name, ScheduledActionName=name)
        for name, action in want.items():
            if name in have and same(have[name], action):
                continue
            sent = {k: v for k, v in action.items() if k != "StartTime" or v > now}
            self.client.put_scheduled_update_group_action(
                AutoScalingGroupName=self.name, ScheduledActionName=name, **sent
            )

    def resize(self, low: int, desired: int, high: int) -> None:
        """Change the sizes."""
        self.client.update_auto_scaling_group(
            AutoScalingGroupName=self.name, MinSize=low, DesiredCapacity=desired, MaxSize=high
        )


def text_of(when: datetime | None) -> str:
    """A time as text."""
    return when.isoformat() if when else ""


def next_stop(hours: Hours, actions: dict[str, dict[str, Any]], now: datetime) -> datetime | None:
    """When the host is ended next, by its hours or once."""
    kept = not any(
        name.startswith(f"{PREFIX}stop") and not name.startswith(ONCE) and action.get("StartTime", now) <= now
        for name, action in actions.items()
    )
    after = hours.at(now.date() + DAY, time()) if kept else now
    single = [a["StartTime"] for name, a in actions.items() if name.startswith(ONCE) and a["StartTime"] > now]
    found = [when for when in (hours.next(hours.stop, after), *single) if when]
    return min(found).astimezone(hours.zone) if found else None


def ensure_present(module: AnsibleAWSModule, group: Group) -> dict[str, Any]:
    """The task's result for state=present."""
    params = module.params
    hours = Hours(params)
    now = datetime.now(UTC).astimezone(hours.zone)
    sizes = group.sizes()
    if sizes is None and params["must_exist"] and not module.check_mode:
        raise Trouble(f"There is no Auto Scaling group called {group.name}: provision the environment first.")
    if sizes is None and not params["must_exist"]:
        return {"changed": False, "actions": [], "next_start": "", "next_stop": ""}
    have = group.actions() if sizes else {}
    want = plan(hours, now, params["now"], set(have), params["only_stop"])
    if len(want) > ACTIONS_MAX:
        raise Trouble(f"holidays names too many days: Auto Scaling has {ACTIONS_MAX} actions for a group at most.")
    wanted_sizes = {"start": [1, 1, 1], "stop": [0, 0, 1]}.get(params["now"], sizes)
    if params["only_stop"] and params["now"] == "start":
        wanted_sizes = sizes
    planned = set(have) != set(want) or not all(same(have[name], want[name]) for name in want)
    if not module.check_mode:
        if planned:
            group.change(have, want, now)
        if wanted_sizes and wanted_sizes != sizes:
            group.resize(*wanted_sizes)
    return {
        "changed": planned or wanted_sizes != sizes,
        "actions": shown(want),
        "next_start": "" if params["only_stop"] else text_of(hours.next(hours.start, now)),
        "next_stop": text_of(next_stop(hours, want, now)),
        "diff": {
            "before": {"sizes": sizes or [], "actions": shown(have)},
            "after": {"sizes": wanted_sizes or [], "actions": shown(want)},
        },
    }


def ensure_absent(module: AnsibleAWSModule, group: Group) -> dict[str, Any]:
    """The task's result for state=absent."""
    have = group.actions() if group.sizes() else {}
    if have and not module.check_mode:
        group.change(have, {}, datetime.now(UTC))
    return {"changed": bool(have), "diff": {"before": {"actions": shown(have)}, "after": {"actions": []}}}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "time_zone": {"type": "str", "default": "Asia/Tokyo"},
            "start": {"type": "str", "default": "09:00"},
            "stop": {"type": "str", "default": "20:00"},
            "days": {
                "type": "list",
                "elements": "str",
                "default": ["mon", "tue", "wed", "thu", "fri"],
            },
            "holidays": {"type": "list", "elements": "str", "default": []},
            "now": {"type": "str", "choices": ["none", "keep", "start", "stop"], "default": "none"},
            "only_stop": {"type": "bool", "default": False},
            "must_exist": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    group = Group(module.client("autoscaling"), module.params["name"])
    ensure = ensure_present if module.params["state"] == "present" else ensure_absent
    finish(module, lambda: ensure(module, group), f"The hours of {group.name} cannot be managed")


if __name__ == "__main__":
    main()
