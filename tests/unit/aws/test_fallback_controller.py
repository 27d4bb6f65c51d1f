# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fallback controller decides: when an on-demand host comes, and which volume need not be paid any longer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from spotcache_fallback_controller.decide import (
    SUPERSEDED,
    Backup,
    Group,
    Superseded,
    at_rest,
    backup_of,
    failing,
    fallback_hosts,
    group_of,
    serves_by,
    superseded,
    to_return,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
NONE, WANTED, SERVING = Group(0, False, 0), Group(1, False, 0), Group(1, True, 1)


@pytest.mark.parametrize(
    ("spot", "fallback", "failed", "serves", "hosts"),
    [
        (WANTED, NONE, True, False, 1),  # no capacity: it comes
        (WANTED, NONE, False, False, 0),  # a Spot host is on its way: nothing yet
        (WANTED, SERVING, True, False, 1),  # still no capacity: it stays
        (WANTED, SERVING, False, False, 1),  # a Spot host boots: it stays until that one serves
        (
            SERVING,
            SERVING,
            False,
            False,
            1,
        ),  # InService, and it says nothing: it may be unable to boot
        (SERVING, SERVING, False, True, 0),  # it serves, or could: it goes
        (SERVING, NONE, True, False, 0),  # a second one could not be had while the first is there
        (NONE, SERVING, True, False, 0),  # evening
        (NONE, NONE, True, False, 0),
    ],
)
def test_when_an_on_demand_host_takes_its_place(
    spot: Group, fallback: Group, failed: bool, serves: bool, hosts: int
) -> None:
    assert fallback_hosts(spot, fallback, failed, serves) == hosts


@pytest.mark.parametrize(
    ("changes", "age", "serves"),
    [
        ({}, 10.0, True),
        ({"host": "i-on-demand"}, 10.0, False),
        ({}, 95.0, False),  # nobody has renewed it
        ({"volume": ""}, 10.0, False),  # it has the lease, and its boot is not over
        ({"released": True}, 10.0, False),
        ({"seconds": None}, 10.0, False),
    ],
)
def test_whether_a_spot_host_says_that_it_serves(changes: dict[str, Any], age: float, serves: bool) -> None:
    lease = {"host": "i-spot", "volume": "vol-1", "seconds": 90, "released": False} | changes
    assert serves_by(lease, age, ["i-spot"]) is serves


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
    instance = {"InstanceId": "i-1", "LifecycleState": state, "HealthStatus": health}
    described = {"DesiredCapacity": 1, "Instances": [instance]}
    assert group_of(described) == Group(1, serves, 1, ("i-1",) if serves else ())


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


TERM = timedelta(days=7)


def days(number: float) -> datetime:
    return NOW - timedelta(days=number)


def volume(name: str, born: float, state: str = "available", since: str = "") -> dict[str, Any]:
    tags = [{"Key": SUPERSEDED, "Value": since}] if since else []
    return {"VolumeId": name, "State": state, "CreateTime": days(born), "Tags": tags}


def snapshot(of: str, taken: float, **more: Any) -> dict[str, Any]:
    return {**SNAPSHOT, "SnapshotId": f"snap-{of}-{taken}", "VolumeId": of, "StartTime": days(taken), **more}


def test_a_volume_is_superseded_when_another_one_in_use_has_a_younger_verified_snapshot() -> None:
    lost, blank, used = volume("vol-lost", 30), volume("vol-blank", 2), volume("vol-used", 3, "in-use")
    before, after = snapshot("vol-lost", 3.1), snapshot("vol-used", 1)
    assert superseded([lost, blank, used], [before, after], NOW, TERM) == Superseded(["vol-lost", "vol-blank"], [], [])
    # What was backed up from it last is younger than anything of the other one: it is the better one.
    assert superseded([lost, used], [snapshot("vol-lost", 0.5), after], NOW, TERM).marked == []
    # Younger than the blank volume is none.
    assert superseded([blank, used], [snapshot("vol-used", 2.5)], NOW, TERM).marked == []
    for doubtful in (snapshot("vol-used", 1, State="pending"), snapshot("vol-used", 1, Tags=[])):
        assert superseded([lost, used], [before, doubtful], NOW, TERM).marked == []
    # At night no volume is in use: the newest of them holds the data.
    assert superseded([lost, {**used, "State": "available"}], [before, after], NOW, TERM).marked == []


def test_a_backup_in_s3_supersedes_as_well() -> None:
    """A host without a way to EC2 has no snapshots, and each loss of it would leave a volume that is paid for ever."""
    attached = {"Attachments": [{"InstanceId": "i-2"}]}
    lost, used = volume("vol-lost", 30), {**volume("vol-used", 3, "in-use"), **attached}

    def marked(*backups: Backup, snapshots: list[dict[str, Any]] | None = None) -> list[str]:
        return superseded([lost, used], snapshots or [], NOW, TERM, backups).marked

    assert marked(Backup("i-2", days(1))) == ["vol-lost"]
    # Of the host that was lost, or older than what is known of its volume: the volume may hold more.
    assert marked(Backup("i-1", days(1))) == []
    assert marked(Backup("i-2", days(31))) == []
    assert marked(Backup("i-2", days(1)), snapshots=[snapshot("vol-lost", 0.5)]) == []
    # In the night no host runs: the backup is the volume's own.
    alone = volume("vol-lost", 30)
    assert superseded([alone], [], NOW, TERM, [Backup("i-2", days(1))]).marked == []


def test_at_the_end_of_its_term_a_backup_must_be_younger_than_its_beginning() -> None:
    lost = volume("vol-lost", 30, since=days(8).isoformat())
    for created, over in ((7.9, ["vol-lost"]), (8.1, [])):
        # At a weekend, when no host runs.
        assert superseded([lost], [], NOW, TERM, [Backup("i-2", days(created))]).over == over
    young = volume("vol-lost", 30, since=days(6).isoformat())
    assert superseded([young], [], NOW, TERM, [Backup("i-2", days(1))]) == Superseded([], [], [])


def test_backups_are_asked_for_only_where_they_decide() -> None:
    asked: list[str] = []

    class Listed:
        def __iter__(self) -> Iterator[Backup]:
            asked.append("S3")
            return iter([Backup("i-2", days(1))])

    # The night of a volume that is kept: nothing runs, so that nothing can be in its place.
    lost = volume("vol-lost", 30)
    used = {**volume("vol-used", 3, "in-use"), "Attachments": [{"InstanceId": "i-2"}]}
    assert superseded([lost], [], NOW, TERM, Listed()).marked == []
    # One whose term has begun, and is not over.
    marked = volume("vol-lost", 30, since=days(2).isoformat())
    assert superseded([marked, used], [], NOW, TERM, Listed()) == Superseded([], [], [])
    assert asked == []
    assert superseded([lost, used], [], NOW, TERM, Listed()).marked == ["vol-lost"]
    assert asked == ["S3"]


GOOD = {"verified": True, "environment": "stg", "created": "2026-11-22T12:00:00Z", "host": "i-2"}


@pytest.mark.parametrize(
    "manifest",
    [
        {**GOOD, "verified": False},
        {**GOOD, "verified": "true"},
        {**GOOD, "environment": "prod"},
        {**GOOD, "created": "yesterday"},
        {**GOOD, "created": "2026-11-22T12:00:00"},
        {**GOOD, "host": ""},
        {key: value for key, value in GOOD.items() if key != "created"},
        [],
    ],
)
def test_only_a_verified_backup_of_the_environment_counts(manifest: Any) -> None:
    assert backup_of(GOOD, "stg") == Backup("i-2", NOW)
    assert backup_of(manifest, "stg") is None


def test_a_superseded_volume_goes_after_its_term_and_not_before() -> None:
    used, taken = volume("vol-used", 30, "in-use"), [snapshot("vol-lost", 20), snapshot("vol-used", 0.1)]
    for since, over in ((7, ["vol-lost"]), (6.9, [])):
        lost = volume("vol-lost", 30, since=days(since).isoformat())
        assert superseded([lost, used], taken, NOW, TERM) == Superseded([], [], over)
    old = volume("vol-lost", 30, since=days(8).isoformat())
    # Also at a weekend, when no host runs; but not once the other one's snapshots are gone.
    assert superseded([old, {**used, "State": "available"}], taken, NOW, TERM).over == ["vol-lost"]
    assert superseded([old, used], [taken[0], snapshot("vol-used", 21)], NOW, TERM) == Superseded([], [], [])
    assert superseded([old], taken[:1], NOW, TERM) == Superseded([], [], [])


def test_the_term_ends_when_a_host_uses_the_volume_again() -> None:
    again = volume("vol-1", 30, "in-use", days(8).isoformat())
    assert superseded([again], [snapshot("vol-1", 1)], NOW, TERM) == Superseded([], ["vol-1"], [])
    attached = {**volume("vol-1", 30, "available", days(8).isoformat()), "Attachments": [{"InstanceId": "i-1"}]}
    assert superseded([attached], [snapshot("vol-2", 1)], NOW, TERM) == Superseded([], ["vol-1"], [])


@pytest.mark.parametrize("since", ["soon", "2026-11-01", "2026-11-01T00:00:00", days(9).isoformat()])
def test_a_term_that_nobody_can_vouch_for_begins_anew(since: str) -> None:
    # Used again and lost again between two looks: its own snapshot is younger than the mark.
    lost, used = volume("vol-lost", 30, since=since), volume("vol-used", 1, "in-use")
    found = superseded([lost, used], [snapshot("vol-lost", 2), snapshot("vol-used", 0.5)], NOW, TERM)
    assert found == Superseded(["vol-lost"], [], [])


@pytest.mark.parametrize("state", ["creating", "deleting", "deleted", "error"])
def test_a_volume_in_any_other_state_is_left_alone(state: str) -> None:
    lost, used = volume("vol-lost", 30, state, days(9).isoformat()), volume("vol-used", 30, "in-use")
    assert superseded([lost, used], [snapshot("vol-used", 1)], NOW, TERM) == Superseded([], [], [])
