# SPDX-License-Identifier: GPL-3.0-or-later
"""The hours of a host: which scheduled actions they become, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import boto3
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble
from ansible_collections.spotcache.redis.plugins.modules import autoscaling_schedule as module
from moto import mock_aws

from sandbox.scaling import times

TOKYO = ZoneInfo("Asia/Tokyo")
DEFAULTS: dict[str, Any] = {
    "time_zone": "Asia/Tokyo",
    "start": "09:00",
    "stop": "20:00",
    "days": ["mon", "tue", "wed", "thu", "fri"],
    "holidays": [],
}


def hours(**more: Any) -> module.Hours:
    return module.Hours({**DEFAULTS, **more})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=TOKYO)


def walk(actions: dict[str, dict[str, Any]], since: datetime, days: int) -> list[str]:
    """What the actions do, day by day, as Auto Scaling carries them out."""

    class Action:
        def __init__(self, given: dict[str, Any]) -> None:
            self.start_time, self.end_time = given.get("StartTime"), given.get("EndTime")
            self.recurrence, self.time_zone = given.get("Recurrence"), given.get("TimeZone")

    found = [
        (when, action["DesiredCapacity"])
        for action in actions.values()
        for when in times(Action(action), since, since + timedelta(days=days))
    ]
    return [f"{when.astimezone(TOKYO):%a %d %H:%M} {size}" for when, size in sorted(found)]


def test_a_week_of_office_hours() -> None:
    now = at("2026-11-23T00:00")
    assert walk(module.plan(hours(), now, "none", set()), now, 7) == [
        f"{day} {time}" for day in ("Mon 23", "Tue 24", "Wed 25", "Thu 26", "Fri 27") for time in ("09:00 1", "20:00 0")
    ]


def test_holidays_have_no_morning() -> None:
    now = at("2026-12-28T00:00")
    off = ["2026-12-30", "2026-12-31", "2027-01-01", "2020-01-01"]
    actions = module.plan(hours(holidays=off), now, "none", set())
    mornings = [step for step in walk(actions, now, 10) if step.endswith("1")]
    assert mornings == ["Mon 28 09:00 1", "Tue 29 09:00 1", "Mon 04 09:00 1", "Tue 05 09:00 1", "Wed 06 09:00 1"]
    assert sorted(actions) == ["spotcache-start-from-20270102", "spotcache-start-until-20261230", "spotcache-stop"]


def test_a_holiday_today_leaves_out_today() -> None:
    now = at("2026-11-23T08:00")
    actions = module.plan(hours(holidays=["2026-11-23"]), now, "none", set())
    assert walk(actions, now, 2)[0] == "Mon 23 20:00 0"
    assert "spotcache-start-from-20261124" in actions


def test_spans_leave_out_runs_of_days() -> None:
    today = date(2026, 1, 1)
    assert module.spans(set(), today) == [(None, None)]
    assert module.spans({date(2025, 1, 1)}, today) == [(None, None)]
    assert module.spans({today, date(2026, 1, 2)}, today) == [(date(2026, 1, 3), None)]
    assert module.spans({date(2026, 1, 3), date(2026, 1, 4)}, today) == [
        (None, date(2026, 1, 3)),
        (date(2026, 1, 5), None),
    ]


def test_a_night_that_is_kept_ends_on_the_next_evening() -> None:
    now = at("2026-11-24T18:00")
    actions = module.plan(hours(), now, "keep", set())
    assert walk(actions, now, 2)[:3] == ["Wed 25 09:00 1", "Wed 25 20:00 0", "Thu 26 09:00 1"]
    # The next run of the playbook, on the same evening, does not forget it.
    assert module.plan(hours(), now + timedelta(hours=4), "none", set(actions)) == actions
    # And on the next day it is over.
    later = module.plan(hours(), at("2026-11-25T10:00"), "none", set(actions))
    assert sorted(later) == ["spotcache-start", "spotcache-stop"]


def test_a_friday_night_that_is_kept_ends_on_saturday_morning() -> None:
    now = at("2026-11-27T18:00")
    actions = module.plan(hours(), now, "keep", set())
    assert walk(actions, now, 3) == ["Sat 28 09:00 0", "Mon 30 09:00 1"]
    assert module.plan(hours(), now + timedelta(hours=1), "none", set(actions)) == actions


def test_an_evening_that_has_passed_cannot_be_kept() -> None:
    with pytest.raises(Trouble, match="start it instead"):
        module.plan(hours(), at("2026-11-24T21:00"), "keep", set())


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-11-24T07:00", "Tue 24 20:00 0"),
        ("2026-11-24T21:00", "Wed 25 20:00 0"),
        ("2026-11-28T10:00", "Sat 28 20:00 0"),
        ("2026-11-28T21:00", "Sun 29 20:00 0"),
        ("2026-11-27T21:00", "Sat 28 20:00 0"),
        ("2026-11-24T12:00", "Tue 24 20:00 0"),
    ],
)
def test_a_host_started_by_hand_ends_on_the_next_evening(now: str, end: str) -> None:
    moment = at(now)
    actions = module.plan(hours(), moment, "start", set())
    assert next(step for step in walk(actions, moment, 5) if step.endswith("0")) == end


def test_stopping_forgets_what_was_ordered() -> None:
    now = at("2026-11-27T18:00")
    kept = set(module.plan(hours(), now, "keep", set()))
    assert sorted(module.plan(hours(), now, "stop", kept)) == ["spotcache-start", "spotcache-stop"]


def test_a_group_that_is_only_stopped_has_no_morning() -> None:
    assert list(module.plan(hours(), at("2026-11-24T12:00"), "none", set(), only_stop=True)) == ["spotcache-stop"]


def test_what_comes_next() -> None:
    office, now = hours(), at("2026-11-27T18:00")
    assert office.next(office.start, now) == at("2026-11-30T09:00")
    plain = module.plan(office, now, "none", set())
    assert module.next_stop(office, plain, now) == at("2026-11-27T20:00")
    kept = module.plan(office, now, "keep", set())
    assert module.next_stop(office, kept, now) == at("2026-11-28T09:00")


def test_what_yaml_makes_of_a_time_is_that_time() -> None:
    """AWX hands a survey's answer on as text, of which YAML makes a number again."""
    answers = yaml.safe_load("{start: 9:05, stop: 20:00}")
    assert answers == {"start": 545, "stop": 1200}
    read = hours(**{name: str(value) for name, value in answers.items()})
    assert (read.start, read.stop) == (hours(start="09:05").start, hours(stop="20:00").stop)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"start": "9:00"}, "'09:00'"),
        ({"stop": "1440"}, "in quotes"),
        ({"stop": "-5"}, "in quotes"),
        ({"stop": "72000"}, "in quotes"),
        ({"start": "20:00", "stop": "09:00"}, "must come before"),
        ({"days": []}, "name at least one"),
        ({"days": ["mon", "Tuesday"]}, "name at least one"),
        ({"time_zone": "Asia/Edo"}, "tzdata"),
        ({"holidays": ["1.1.2027"]}, "YYYY-MM-DD"),
    ],
)
def test_bad_hours_are_told(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(Trouble, match=words):
        hours(**wrong)


NAME = "spotcache-stg"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls(2026, 11, 27, 9, tzinfo=UTC).astimezone(tz)

    monkeypatch.setattr(module, "datetime", Clock)
    with mock_aws():
        client = boto3.client("autoscaling", region_name="us-east-1")
        client.create_launch_configuration(LaunchConfigurationName="l", ImageId="ami-1", InstanceType="t3.small")
        client.create_auto_scaling_group(
            AutoScalingGroupName=NAME,
            MinSize=1,
            MaxSize=1,
            DesiredCapacity=1,
            LaunchConfigurationName="l",
            AvailabilityZones=["us-east-1a"],
        )
        yield client


def run(capsys: pytest.CaptureFixture[str], **more: Any) -> dict[str, Any]:
    with patch_module_args({"name": NAME, **more}), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def sizes(scaling: Any) -> list[int]:
    group = scaling.describe_auto_scaling_groups()["AutoScalingGroups"][0]
    return [group["MinSize"], group["DesiredCapacity"], group["MaxSize"]]


def names(scaling: Any) -> list[str]:
    rows = scaling.describe_scheduled_actions(AutoScalingGroupName=NAME)["ScheduledUpdateGroupActions"]
    return sorted(row["ScheduledActionName"] for row in rows)


def test_give_again_change_take(scaling: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scaling.put_scheduled_update_group_action(
        AutoScalingGroupName=NAME, ScheduledActionName="theirs", Recurrence="0 0 * * *", MinSize=0
    )
    assert run(capsys, _ansible_check_mode=True)["changed"]
    assert names(scaling) == ["theirs"]
    given = run(capsys)
    assert given["changed"]
    assert (given["next_start"], given["next_stop"]) == ("2026-11-30T09:00:00+09:00", "2026-11-27T20:00:00+09:00")
    assert names(scaling) == ["spotcache-start", "spotcache-stop", "theirs"]
    assert sizes(scaling) == [1, 1, 1]
    for check in (True, False):
        assert not run(capsys, _ansible_check_mode=check)["changed"]
    changed = run(capsys, start="08:30", holidays=["2026-12-31"])
    assert changed["changed"]
    assert names(scaling) == [
        "spotcache-start-from-20270101",
        "spotcache-start-until-20261231",
        "spotcache-stop",
        "theirs",
    ]
    assert not run(capsys, start="08:30", holidays=["2026-12-31"])["changed"]
    assert run(capsys, state="absent", _ansible_check_mode=True)["changed"]
    assert run(capsys, state="absent")["changed"]
    assert not run(capsys, state="absent")["changed"]
    assert names(scaling) == ["theirs"]


def test_now(scaling: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys)
    assert run(capsys, now="stop", _ansible_check_mode=True)["changed"]
    assert sizes(scaling) == [1, 1, 1]
    assert run(capsys, now="stop")["diff"]["after"]["sizes"] == [0, 0, 1]
    assert sizes(scaling) == [0, 0, 1]
    assert not run(capsys, now="stop")["changed"]
    assert not run(capsys)["changed"]
    assert run(capsys, now="start")["changed"]
    assert sizes(scaling) == [1, 1, 1]
    assert run(capsys, now="keep")["next_stop"] == "2026-11-28T09:00:00+09:00"
    assert not run(capsys, now="keep")["changed"]


def test_without_a_group(scaling: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "provision" in run(capsys, name="nothing")["msg"]
    assert run(capsys, name="nothing", _ansible_check_mode=True)["changed"]
    assert not run(capsys, name="nothing", must_exist=False)["changed"]
    assert not run(capsys, name="nothing", state="absent")["changed"]
