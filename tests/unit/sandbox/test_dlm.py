# SPDX-License-Identifier: GPL-3.0-or-later
"""Data Lifecycle Manager of the sandbox: asked over HTTP, by the product's own module, and left to its clock."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.modules import dlm_policy as module
from botocore.exceptions import ClientError
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.server import ThreadedMotoServer

from sandbox.dlm import AwsCron, Lifecycle, dlm_backends, last_due
from sandbox.scaling import Clock

ACCOUNT, REGION = "123456789012", "eu-north-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/second-net"
TRUST = {"Effect": "Allow", "Principal": {"Service": "dlm.amazonaws.com"}, "Action": "sts:AssumeRole"}
SCHEDULE: dict[str, Any] = {
    "Name": "daily",
    "CopyTags": True,
    "TagsToAdd": [{"Key": "by", "Value": "dlm"}],
    "CreateRule": {"Interval": 24, "IntervalUnit": "HOURS", "Times": ["18:00"]},
    "RetainRule": {"Count": 2},
}
DETAILS: dict[str, Any] = {
    "ResourceTypes": ["VOLUME"],
    "TargetTags": [{"Key": "spotcache:environment", "Value": "stg"}],
    "Schedules": [SCHEDULE],
}
WORDS = {"ExecutionRoleArn": ROLE, "Description": "second net", "State": "ENABLED", "Tags": {"Name": "net"}}


class Place:
    """A server with the service, its clock, and what acts."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.clock = Clock()
        self.events: list[dict[str, Any]] = []
        self.lifecycle = Lifecycle(
            ACCOUNT, REGION, self.clock, self.endpoint, lambda source, kind, detail, about: self.events.append(detail)
        )
        self.dlm, self.ec2, self.iam = (self.client(service) for service in ("dlm", "ec2", "iam"))
        self.iam.create_role(RoleName="second-net", AssumeRolePolicyDocument=json.dumps({"Statement": [TRUST]}))

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )

    def volume(self, **tags: str) -> str:
        rows = [{"Key": key.replace("_", ":"), "Value": value} for key, value in tags.items()]
        made = self.ec2.create_volume(
            AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": rows}]
        )
        return str(made["VolumeId"])

    def make(self, **details: Any) -> str:
        return str(self.dlm.create_lifecycle_policy(**WORDS, PolicyDetails={**DETAILS, **details})["PolicyId"])

    def go(self, hours: float) -> None:
        self.clock.move(self.clock.now() + timedelta(hours=hours))
        self.lifecycle.catch_up()

    def snapshots(self) -> list[dict[str, Any]]:
        """What there is, without what images of moto's own bring."""
        rows = self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
        return [row for row in rows if row["VolumeId"] in ec2_backends[ACCOUNT][REGION].volumes]


@pytest.fixture
def place() -> Iterator[Place]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield Place(server.get_host_and_port()[1])
    server.stop()
    dlm_backends[ACCOUNT][REGION].policies.clear()
    for volume in list(ec2_backends[ACCOUNT][REGION].volumes):
        ec2_backends[ACCOUNT][REGION].delete_volume(volume)
    ec2_backends[ACCOUNT][REGION].snapshots.clear()
    iam_backends[ACCOUNT]["aws"].roles.clear()


def tags(row: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in row["Tags"]}


def test_what_has_the_tags_is_kept_when_it_is_due_and_nothing_else(place: Place) -> None:
    mine, other = place.volume(spotcache_environment="stg", role="data"), place.volume(spotcache_environment="dev")
    foreign = place.ec2.create_snapshot(VolumeId=mine)["SnapshotId"]
    policy = place.make()
    place.lifecycle.catch_up()
    assert [row["SnapshotId"] for row in place.snapshots()] == [foreign]
    for _day in range(4):
        place.go(24)
    rows = [row for row in place.snapshots() if row["SnapshotId"] != foreign]
    assert {row["VolumeId"] for row in rows} == {mine}
    assert len(rows) == 2, "two are kept, and somebody else's is not counted"
    assert foreign in {row["SnapshotId"] for row in place.snapshots()}
    assert tags(rows[0]) == {
        "spotcache:environment": "stg",
        "role": "data",
        "by": "dlm",
        "dlm:managed": "true",
        "aws:dlm:lifecycle-policy-id": policy,
        "aws:dlm:lifecycle-schedule-name": "daily",
    }
    assert other not in {row["VolumeId"] for row in place.snapshots()}


def test_two_policies_of_a_volume_do_not_count_each_others(place: Place) -> None:
    place.volume(spotcache_environment="stg")
    place.make()
    place.make()
    for _day in range(3):
        place.go(24)
    assert len(place.snapshots()) == 4


def test_a_policy_that_is_off_or_deleted_does_nothing_and_deletes_nothing(place: Place) -> None:
    place.volume(spotcache_environment="stg")
    policy = place.make()
    place.go(24)
    assert len(place.snapshots()) == 1
    place.dlm.update_lifecycle_policy(PolicyId=policy, State="DISABLED")
    place.go(24)
    assert len(place.snapshots()) == 1
    place.dlm.update_lifecycle_policy(PolicyId=policy, State="ENABLED")
    place.lifecycle.catch_up()
    assert len(place.snapshots()) == 1, "what came due while it was off is not made up for"
    place.go(24)
    assert len(place.snapshots()) == 2
    place.dlm.delete_lifecycle_policy(PolicyId=policy)
    place.go(24)
    assert len(place.snapshots()) == 2


def test_snapshots_of_an_age_go_at_that_age(place: Place) -> None:
    place.volume(spotcache_environment="stg")
    retain = {"Interval": 3, "IntervalUnit": "DAYS"}
    place.make(Schedules=[{**SCHEDULE, "RetainRule": retain}])
    counts = []
    for _day in range(6):
        place.go(24)
        counts.append(len(place.snapshots()))
    assert counts == [1, 2, 3, 3, 3, 3]
    until = datetime.fromisoformat(tags(place.snapshots()[-1])["aws:dlm:expirationTime"].replace("Z", "+00:00"))
    assert timedelta(days=2, hours=23) < until - place.clock.now() <= timedelta(days=3)


def refusing(code: str, calls: list[str]) -> Any:
    class Client:
        def describe_volumes(self, **_given: Any) -> Any:
            calls.append(code)
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "DescribeVolumes")

    return lambda policy: Client()


def test_a_role_that_may_not_stops_the_policy_and_tells(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.volume(spotcache_environment="stg")
    policy, calls = place.make(), list[str]()
    monkeypatch.setattr(place.lifecycle, "_client", refusing("UnauthorizedOperation", calls))
    place.go(24)
    found = place.dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]
    assert found["State"] == "ERROR"
    assert found["StatusMessage"] == "Role provided does not have sufficient permissions"
    assert [event["cause"] for event in place.events] == [found["StatusMessage"]]
    place.go(24)
    assert len(calls) == 1, "a policy in error does nothing until somebody enables it again"


def test_what_ec2_refuses_for_the_moment_is_asked_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.volume(spotcache_environment="stg")
    place.make()
    calls: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(place.lifecycle, "_client", refusing("SnapshotCreationPerVolumeRateExceeded", calls))
        place.go(24)
    assert len(calls) == 1
    [job] = place.lifecycle.jobs
    job.not_before = 0.0
    place.lifecycle.catch_up()
    assert len(place.snapshots()) == 1
    assert place.lifecycle.jobs == []


def test_a_role_that_lets_dlm_in_no_more_stops_the_policy(place: Place) -> None:
    place.volume(spotcache_environment="stg")
    policy = place.make()
    other = {**TRUST, "Principal": {"Service": "ec2.amazonaws.com"}}
    place.iam.update_assume_role_policy(
        RoleName="second-net", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [other]})
    )
    place.go(24)
    assert place.dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]["State"] == "ERROR"
    assert place.snapshots() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("TargetTags"), "TargetTags is required"),
        (lambda d: d.update(TargetTags=[{"Key": "a=b", "Value": "c"}]), "a=b is no tag key"),
        (lambda d: d.update(PolicyType="IMAGE_MANAGEMENT"), "no policies of type IMAGE_MANAGEMENT"),
        (lambda d: d.update(Parameters={"ExcludeBootVolume": True}), "Parameters are for policies of instances"),
        (lambda d: d["Schedules"][0].update(Name="ä"), "Schedules\\[0\\].Name is 'ä'"),
        (lambda d: d["Schedules"][0]["CreateRule"].update(Interval=5), "Interval is 5: use one of 1, 2, 3"),
        (lambda d: d["Schedules"][0]["CreateRule"].update(Times=["24:00"]), "'24:00', which does not match"),
        (lambda d: d["Schedules"][0]["CreateRule"].update(CronExpression="cron(0 18 * * ? *)"), "either CronExpr"),
        (lambda d: d["Schedules"][0].update(RetainRule={}), "a CreateRule and a RetainRule"),
        (lambda d: d["Schedules"][0].update(RetainRule={"Count": 1001}), "Count is 1001: its max is 1000"),
        (lambda d: d["Schedules"][0].update(RetainRule={"Count": 1, "Interval": 1, "IntervalUnit": "DAYS"}), "either"),
        (lambda d: d["Schedules"][0].update(VariableTags=[{"Key": "i", "Value": "$(timestamp)"}]), "of instances"),
        (lambda d: d["Schedules"].extend([SCHEDULE] * 4), "its max is 4"),
        (lambda d: d["Schedules"][0].update(ShareRules=[{"TargetAccounts": ["1" * 12]}]), "no ShareRules"),
    ],
)
def test_what_aws_refuses_is_refused(place: Place, change: Any, said: str) -> None:
    details = copy.deepcopy(DETAILS)
    change(details)
    with pytest.raises(ClientError, match=said) as caught:
        place.dlm.create_lifecycle_policy(**WORDS, PolicyDetails=details)
    assert caught.value.response["Error"]["Code"] == "InvalidRequestException"
    assert place.dlm.get_lifecycle_policies()["Policies"] == []


def test_the_role_is_there_and_lets_dlm_in(place: Place) -> None:
    place.iam.create_role(RoleName="host", AssumeRolePolicyDocument=json.dumps({"Statement": []}))
    for role in ("nobody", "host"):
        words = {**WORDS, "ExecutionRoleArn": f"arn:aws:iam::{ACCOUNT}:role/{role}"}
        with pytest.raises(ClientError, match=f"role/{role} cannot be assumed by Amazon Data Lifecycle Manager"):
            place.dlm.create_lifecycle_policy(**words, PolicyDetails=DETAILS)


def test_policies_are_found_by_what_they_have(place: Place) -> None:
    policy = place.make()
    find = place.dlm.get_lifecycle_policies
    fitting: list[dict[str, Any]] = [
        {},
        {"PolicyIds": [policy]},
        {"State": "ENABLED"},
        {"ResourceTypes": ["VOLUME"]},
        {"TargetTags": ["spotcache:environment=stg"]},
        {"TagsToAdd": ["by=dlm"]},
    ]
    other: list[dict[str, Any]] = [{"State": "ERROR"}, {"ResourceTypes": ["INSTANCE"]}, {"TargetTags": ["a=b"]}]
    for given in fitting:
        assert [row["PolicyId"] for row in find(**given)["Policies"]] == [policy], given
    for given in other:
        assert find(**given)["Policies"] == [], given
    for ask, given in ((find, {"PolicyIds": ["policy-0"]}), (place.dlm.get_lifecycle_policy, {"PolicyId": "policy-0"})):
        with pytest.raises(ClientError) as caught:
            ask(**given)
        assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
    arn = place.dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]["PolicyArn"]
    place.dlm.tag_resource(ResourceArn=arn, Tags={"more": "1"})
    place.dlm.untag_resource(ResourceArn=arn, TagKeys=["Name"])
    assert place.dlm.list_tags_for_resource(ResourceArn=arn)["Tags"] == {"more": "1"}


def test_the_products_module_makes_changes_and_removes_one(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(AnsibleAWSModule, "client", lambda self, service: place.client(service))
    given: dict[str, Any] = {"name": "net", "region": REGION, "role_arn": ROLE}
    given |= {"target_tags": {"spotcache:environment": "stg"}}
    given |= {"resource": "instance", "boot_volumes": False, "tags": {"spotcache:environment": "stg"}}

    def run(**more: Any) -> dict[str, Any]:
        with patch_module_args({**given, **more}), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert not answer.get("failed"), answer
        return answer

    assert run(_ansible_check_mode=True)["changed"]
    assert place.dlm.get_lifecycle_policies()["Policies"] == []
    made = run()
    assert made["changed"]
    assert not run()["changed"]
    assert not run(_ansible_check_mode=True)["changed"]
    assert run(keep=3)["diff"]["before"]["keep"] == 7
    found = place.dlm.get_lifecycle_policy(PolicyId=made["policy_id"])["Policy"]
    assert found["PolicyDetails"]["Schedules"][0]["RetainRule"] == {"Count": 3}
    assert found["PolicyDetails"]["Parameters"] == {"ExcludeBootVolume": True}
    assert run(state="absent")["changed"]
    assert not run(state="absent")["changed"]


@pytest.mark.parametrize(
    ("rule", "since", "now", "due"),
    [
        ({"Interval": 24, "Times": ["18:00"]}, "2026-11-28T17:00", "2026-11-28T17:59", None),
        ({"Interval": 24, "Times": ["18:00"]}, "2026-11-28T17:00", "2026-11-28T18:00", "2026-11-28T18:00"),
        ({"Interval": 24, "Times": ["18:00"]}, "2026-11-28T18:00", "2026-11-29T17:59", None),
        ({"Interval": 12, "Times": ["18:00"]}, "2026-11-28T18:00", "2026-11-29T06:30", "2026-11-29T06:00"),
        ({"Interval": 1, "Times": ["00:30"]}, "2026-11-28T17:00", "2026-11-28T20:00", "2026-11-28T19:30"),
        ({"CronExpression": "cron(0 18 ? * MON-FRI *)"}, "2026-11-27T12:00", "2026-11-29T23:00", "2026-11-27T18:00"),
        ({"CronExpression": "cron(0 18 ? * 1 *)"}, "2026-11-27T12:00", "2026-11-29T23:00", "2026-11-29T18:00"),
        ({"CronExpression": "cron(0 18 ? * 1 2027)"}, "2026-11-27T12:00", "2026-11-29T23:00", None),
    ],
)
def test_when_a_schedule_is_due(rule: dict[str, Any], since: str, now: str, due: str | None) -> None:
    def moment(text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)

    assert last_due(rule, moment(since), moment(now)) == (moment(due) if due else None)


@pytest.mark.parametrize("text", ["cron(0 18 * * * *)", "cron(* 18 ? * * *)", "cron(0 18 ? * 6L *)", "0 18 * * *"])
def test_a_cron_expression_that_aws_or_this_sandbox_has_not_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        AwsCron(text)
