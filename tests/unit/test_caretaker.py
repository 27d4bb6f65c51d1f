# SPDX-License-Identifier: GPL-3.0-or-later
"""What the caretaker decides: when a host on demand stands in, and which volume need not be paid any longer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from spotcache_caretaker.decide import Group, at_rest, failing, group_of, stand_in, to_return

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NONE, WANTED, SERVING = Group(0, False, 0), Group(1, False, 0), Group(1, True, 1)


@pytest.mark.parametrize(
    ("spot", "standby", "failed", "hosts"),
    [
        (WANTED, NONE, True, 1),  # no capacity: it comes
        (WANTED, NONE, False, 0),  # a Spot host is on its way: nothing yet
        (WANTED, SERVING, True, 1),  # still no capacity: it stays
        (WANTED, SERVING, False, 1),  # a Spot host boots: it stays until that one serves
        (SERVING, SERVING, False, 0),  # it serves: it goes
        (SERVING, NONE, True, 0),  # a second one could not be had while the first serves
        (NONE, SERVING, True, 0),  # evening
        (NONE, NONE, True, 0),
    ],
)
def test_when_a_host_on_demand_stands_in(spot: Group, standby: Group, failed: bool, hosts: int) -> None:
    assert stand_in(spot, standby, failed) == hosts


@pytest.mark.parametrize(
    ("state", "health", "serves"),
    [
        ("InService", "Healthy", True),
        ("InService", "HEALTHY", True),
        ("InService", "Unhealthy", False),
        ("Pending:Wait", "Healthy", False),
        ("Terminating:Wait", "Healthy", False),
    ],
)
def test_which_host_serves(state: str, health: str, serves: bool) -> None:
    described = {"DesiredCapacity": 1, "Instances": [{"LifecycleState": state, "HealthStatus": health}]}
    assert group_of(described) == Group(1, serves, 1)


def activity(code: str, minutes: int, text: str = "Launching a new EC2 instance", **more: Any) -> dict[str, Any]:
    return {"StatusCode": code, "StartTime": NOW - timedelta(minutes=minutes), "Description": text, **more}


def test_the_newest_launch_counts_and_not_for_ever() -> None:
    failed, good, end = (
        activity("Failed", 2),
        activity("Successful", 3),
        activity("Successful", 1, "Terminating EC2 instance: i-1"),
    )
    assert failing([failed, good], NOW)
    assert failing([end, failed, good], NOW)
    assert not failing([activity("InProgress", 1), failed], NOW)
    assert not failing([good, activity("Failed", 5)], NOW)
    assert not failing([activity("Failed", 61)], NOW)
    assert not failing([], NOW)
    assert not failing([end], NOW)


def test_rest_begins_with_the_last_hosts_end() -> None:
    ends = [activity("Successful", m, "Terminating EC2 instance: i-1") for m in (90, 30, 60)]
    assert at_rest([NONE, NONE], [activity("Successful", 1), *ends]) == NOW - timedelta(minutes=30)
    assert at_rest([NONE, NONE], [activity("Successful", 1)]) is None
    assert at_rest([NONE, WANTED], ends) is None
    assert at_rest([Group(0, False, 1)], ends) is None


VOLUME = {"VolumeId": "vol-1", "State": "available"}
SNAPSHOT = {
    "SnapshotId": "snap-1",
    "VolumeId": "vol-1",
    "State": "completed",
    "StartTime": NOW,
    "Tags": [{"Key": "spotcache:verified", "Value": "true"}],
}


def test_a_volume_that_a_verified_snapshot_holds_is_given_back() -> None:
    older = {**SNAPSHOT, "SnapshotId": "snap-0", "StartTime": NOW - timedelta(minutes=1)}
    found = to_return([VOLUME], [older, SNAPSHOT], NOW - timedelta(minutes=2))
    assert found == [("vol-1", "snap-1")]


@pytest.mark.parametrize(
    ("volume", "snapshot"),
    [
        ({"State": "in-use"}, {}),
        ({"Attachments": [{"InstanceId": "i-1"}]}, {}),
        ({}, {"State": "pending"}),
        ({}, {"State": "error"}),
        ({}, {"VolumeId": "vol-2"}),
        ({}, {"Tags": []}),
        ({}, {"Tags": [{"Key": "spotcache:verified", "Value": "false"}]}),
        ({}, {"StartTime": NOW - timedelta(minutes=3)}),
    ],
)
def test_any_doubt_keeps_the_volume(volume: dict[str, Any], snapshot: dict[str, Any]) -> None:
    assert to_return([{**VOLUME, **volume}], [{**SNAPSHOT, **snapshot}], NOW - timedelta(minutes=2)) == []
