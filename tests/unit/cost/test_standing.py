# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is of an environment, what it is to it, and what a month comes to: in moto, and Cost Explorer stubbed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws
from spotcache_cost import cli, habits, prices, standing
from spotcache_cost.environments import Options, options
from spotcache_cost.errors import CostError
from spotcache_cost.model import Setup

from tests.templates.render import value

REGION = "ap-northeast-1"
BUCKET = "spotcache-t-backups"
BOOK = prices.load()
WHERE = standing.Where("stg", REGION, BUCKET, "", "stg.spotcache.internal")
TODAY = date(2026, 12, 24)


def tagged(kind: str, *more: tuple[str, str], environment: str = "stg") -> list[dict[str, Any]]:
    named = [("spotcache:environment", environment), *more]
    tags = [{"Key": key, "Value": text} for key, text in named]
    return [{"ResourceType": kind, "Tags": tags}]


def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION)


@pytest.fixture(scope="module")
def account() -> Iterator[dict[str, str]]:
    """An environment with a host, what it needs, and what nobody needs; and another one whose name begins alike."""
    ids: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        ec2, s3 = client("ec2"), client("s3")
        image = ec2.register_image(Name="host", RootDeviceName="/dev/xvda")["ImageId"]
        host = ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.micro",
            InstanceMarketOptions={"MarketType": "spot"},
            BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "DeleteOnTermination": True}}],
            TagSpecifications=[*tagged("instance"), *tagged("volume")],
        )["Instances"][0]
        ids["host"], zone = host["InstanceId"], host["Placement"]["AvailabilityZone"]
        for name, size, more in (
            ("data", 8, ()),
            ("idle", 20, ()),
            ("superseded", 10, (("spotcache:superseded-since", "2026-12-20T00:00:00Z"),)),
        ):
            made = ec2.create_volume(
                AvailabilityZone=zone, Size=size, VolumeType="gp3", TagSpecifications=tagged("volume", *more)
            )
            ids[name] = made["VolumeId"]
        ec2.attach_volume(VolumeId=ids["data"], InstanceId=ids["host"], Device="/dev/sdf")
        other = ec2.create_volume(
            AvailabilityZone=zone, Size=99, TagSpecifications=tagged("volume", environment="stg2")
        )
        ids["other"] = other["VolumeId"]
        for name, more in (("backup", (("spotcache:backup", "20261224T000000Z-abcdef"),)), ("lost", ())):
            made = ec2.create_snapshot(VolumeId=ids["data"], TagSpecifications=tagged("snapshot", *more))
            ids[name] = made["SnapshotId"]
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        for number in range(3):
            s3.put_object(Bucket=BUCKET, Key=f"stg/backups/2026122{number}T0/dump.rdb", Body=b"x" * 2**20)
        s3.put_object(Bucket=BUCKET, Key="stg2/backups/20261220T0/dump.rdb", Body=b"x" * 2**20)
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        for name in ("stg.spotcache.internal", "stg2.spotcache.internal"):
            client("route53").create_hosted_zone(
                Name=name,
                CallerReference=name,
                HostedZoneConfig={"PrivateZone": True},
                VPC={"VPCRegion": REGION, "VPCId": vpc},
            )
        logs = client("logs")
        logs.create_log_group(logGroupName="/aws/lambda/spotcache-stg-fallback-controller")
        logs.put_retention_policy(logGroupName="/aws/lambda/spotcache-stg-fallback-controller", retentionInDays=30)
        logs.create_log_group(logGroupName="/aws/lambda/spotcache-stg-apcu")
        logs.create_log_group(logGroupName="/aws/lambda/spotcache-stg-retention")
        logs.put_retention_policy(logGroupName="/aws/lambda/spotcache-stg-retention", retentionInDays=30)
        logs.create_log_group(logGroupName="/aws/lambda/spotcache-stg2-apcu")
        client("ssm").put_parameter(Name="/spotcache/stg/host/redis-secrets", Value="x", Type="String", Tier="Advanced")
        client("sns").create_topic(Name="spotcache-stg")
        yield ids


def states(found: standing.Standing) -> dict[str, str]:
    return {one.id: one.state for one in found.things}


def test_what_there_is_and_what_it_is_to_the_environment(account: dict[str, str]) -> None:
    found = standing.look(WHERE, client, BOOK)
    assert found.unseen == []
    known = states(found)
    assert known[account["host"]] == "in use"
    assert known[account["data"]] == "in use"
    assert known[account["idle"]] == "idle"
    assert known[account["superseded"]] == "superseded"
    assert known[account["backup"]] == "in use"
    assert known[account["lost"]] == "forgotten"
    assert known["/aws/lambda/spotcache-stg-apcu"] == "forgotten"
    assert known["/aws/lambda/spotcache-stg-fallback-controller"] == "in use"
    assert known["/aws/lambda/spotcache-stg-retention"] == "in use"
    assert known["/spotcache/stg/host/redis-secrets"] == "in use"
    assert account["other"] not in known
    assert not any("stg2" in name for name in known)
    assert (found.type, found.spot, found.backups, found.scheduled) == ("t3.micro", True, 3, False)
    usd = {one.id: one.usd for one in found.things}
    assert usd[account["host"]] == pytest.approx(0.0044 * 730)
    assert usd[account["idle"]] == pytest.approx(20 * 0.096)
    # A backup's snapshot is as large as the newest backup, one of which nothing is known as its volume.
    assert usd[account["backup"]] == pytest.approx(2**20 / 2**30 * 0.05)
    assert usd[account["lost"]] == pytest.approx(8 * 0.05)
    assert sum(one.kind == "DNS zone" for one in found.things) == 1
    assert {one.id for one in found.wasted()} == {
        account["idle"],
        account["superseded"],
        account["lost"],
        "/aws/lambda/spotcache-stg-apcu",
    }


def test_the_forecast_counts_nothing_twice(account: dict[str, str]) -> None:
    found = standing.look(WHERE, client, BOOK)
    wanted = Setup(way="ec2_spot", region=REGION, type="t3.small")
    cast = standing.forecast(found, wanted, Options(), BOOK, habits.load())
    roots = [one for one in found.things if one.kind == "root volume"]
    assert roots
    there = sum(one.usd or 0 for one in found.things if one.kind not in ("host", "root volume", "log group"))
    assert cast.there == pytest.approx(there)
    by_item = {line.item: line.amount or 0 for line in cast.model.lines}
    assert cast.model.setup.type == "t3.micro"
    beside = ("data volume", "backups", "snapshots", "zone", "superseded")
    assert cast.running == pytest.approx(
        sum(usd for item, usd in by_item.items() if not any(word in item for word in beside) or "traffic" in item)
    )
    # Hours that nothing keeps do not count.
    hours = {"schedule_start": "09:00", "schedule_stop": "20:00"}
    assert standing.forecast(found, wanted, options(hours), BOOK, habits.load()).usd == pytest.approx(cast.usd)
    found.scheduled = True
    assert standing.forecast(found, wanted, options(hours), BOOK, habits.load()).usd < cast.usd - 2


def test_a_shared_zone_is_paid_by_those_that_are_named_in_it(account: dict[str, str]) -> None:
    route53 = client("route53")
    zone = next(
        one["Id"] for one in route53.list_hosted_zones()["HostedZones"] if one["Name"] == "stg.spotcache.internal."
    )
    for environment in ("stg", "dev"):
        record = {
            "Name": f"redis.{environment}.stg.spotcache.internal",
            "Type": "A",
            "TTL": 10,
            "ResourceRecords": [{"Value": "10.0.0.5"}],
        }
        change = {"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}
        route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=change)
    found = standing.look(replace(WHERE, shares_zone=True), client, BOOK)
    assert [(one.usd, one.note) for one in found.things if one.kind == "DNS zone"] == [
        (0.25, "stg.spotcache.internal, shared by 2 environments")
    ]


def test_older_versions_of_backups_are_paid_as_well(account: dict[str, str]) -> None:
    s3 = client("s3")
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    key = "stg/backups/20261221T0/dump.rdb"
    before = next(one for one in standing.look(WHERE, client, BOOK).things if one.kind == "objects")
    for _ in range(2):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x" * 2**20)
    after = next(one for one in standing.look(WHERE, client, BOOK).things if one.kind == "objects")
    assert after.usd == pytest.approx((before.usd or 0) + 2 * 2**20 / 2**30 * 0.025)
    assert after.note == "3 backups, 0.00 GiB, 2 older versions in it"


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "environment": "stg",
        "region": REGION,
        "bucket": BUCKET,
        "prefix": "",
        "zone": "stg.spotcache.internal",
        "way": "ec2_spot",
        "types": ["t3.small", "t3a.small"],
        "variables": {"spotcache_notify": "slack"},
        "prices": "",
        "currency": "USD",
        "rate": "",
        "rate_date": "",
        "budget": "0",
        "explorer": False,
        "topic": False,
        "folder": str(folder),
        **changes,
    }


def test_above_the_budget_people_are_warned_and_below_it_told(account: dict[str, str], tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []

    def listening(service: str) -> Any:
        made = client(service)
        if service == "sns":
            made.meta.events.register("provide-client-params.sns.Publish", lambda params, **_: sent.append(params))
        return made

    said = cli.stands(settings(tmp_path, budget="3.5", topic=True), listening, TODAY)
    assert "That is above cost_budget, 3.50 USD." in said
    assert sent[0]["TopicArn"].endswith(":spotcache-stg")
    message = json.loads(sent[0]["Message"])
    assert message["level"] == "warning"
    assert "above 3.50 USD" in message["title"]
    assert account["superseded"] in message["text"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["above_budget"] is True
    said = cli.stands(settings(tmp_path, budget="300", topic=True), listening, TODAY)
    assert not any("above" in line for line in said)
    assert json.loads(sent[1]["Message"])["level"] == "info"


@pytest.mark.parametrize(
    ("given", "tells"),
    [
        ({"spotcache_notify": "slack", "awx_job_id": 7}, True),
        ({"spotcache_notify": "email", "tower_job_id": "7"}, True),
        ({"spotcache_notify": "slack"}, False),
        ({"spotcache_notify": "none", "awx_job_id": 7}, False),
        ({"awx_job_id": 7}, False),
    ],
)
def test_a_job_of_awx_tells_people_where_they_are_told_at_all(given: dict[str, Any], tells: bool) -> None:
    assert value("cost", "cost_notify", given) is tells
    schedules = value("awx", "awx_schedules", {})
    [weekly] = [one for one in schedules if one["template"] == "cost"]
    assert "FREQ=WEEKLY" in weekly["rule"]


def test_without_a_topic_it_says_what_to_do(account: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CostError, match=r"People were not told: .*set cost_notify to false"):
        cli.stands(settings(tmp_path, environment="none", topic=True), client, TODAY)


def test_what_may_not_be_seen_is_said_and_the_rest_is_told(account: dict[str, str]) -> None:
    def denied(service: str) -> Any:
        made = client(service)
        if service == "cloudwatch":
            stub = Stubber(made)
            stub.add_client_error("describe_alarms", "AccessDenied", "no")
            stub.activate()
        return made

    found = standing.look(WHERE, denied, BOOK)
    assert [one.partition(":")[0] for one in found.unseen] == ["alarms"]
    assert found.type == "t3.micro"


def explorer(pages: list[dict[str, Any]]) -> Any:
    made = client("ce")
    stub = Stubber(made)
    asked: dict[str, Any] = {
        "TimePeriod": {"Start": "2026-12-01", "End": "2026-12-24"},
        "Granularity": "MONTHLY",
        "Metrics": ["UnblendedCost"],
        "Filter": {"Tags": {"Key": "spotcache:environment", "Values": ["stg"]}},
        "GroupBy": [{"Type": "DIMENSION", "Key": "USAGE_TYPE"}],
    }
    for number, page in enumerate(pages):
        stub.add_response("get_cost_and_usage", page, {**asked, **({"NextPageToken": "more"} if number else {})})
    stub.activate()
    return made


def group(key: str, usd: str) -> dict[str, Any]:
    return {"Keys": [key], "Metrics": {"UnblendedCost": {"Amount": usd, "Unit": "USD"}}}


def test_cost_explorer_is_asked_by_the_tag_and_to_its_last_page(account: dict[str, str], tmp_path: Path) -> None:
    period = {"Start": "2026-12-01", "End": "2026-12-24"}
    pages: list[dict[str, Any]] = [
        {"ResultsByTime": [{"TimePeriod": period, "Groups": [group("APN1-SpotUsage:t3.micro", "2.5")]}]},
        {"ResultsByTime": [{"TimePeriod": period, "Groups": [group("APN1-EBS:VolumeUsage.gp3", "0.75")]}]},
    ]
    pages[0]["NextPageToken"] = "more"

    def asked(service: str) -> Any:
        return explorer(pages) if service == "ce" else client(service)

    said = cli.stands(settings(tmp_path, explorer=True), asked, TODAY)
    assert "Cost Explorer has 3.25 USD of this month for what carries the tag." in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"types": ["m9.huge"]}, "There is no price of any of spot_host_instance_types, m9.huge"),
        ({"region": "mars-1"}, "There are no prices of the region mars-1"),
        ({"rate": "0", "currency": "JPY"}, "cost_rate is 0"),
        ({"rate": "much"}, "cost_rate is 'much'"),
        ({"budget": "-1"}, "cost_budget is -1"),
        ({"variables": {"keeper_keep_count": "many"}}, "keeper_keep_count is 'many'"),
        ({"variables": {"keeper_backup_interval": "7min"}}, "keeper_backup_interval is '7min'"),
    ],
)
def test_what_cannot_be_gets_a_sentence(
    account: dict[str, str], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(CostError, match=said):
        cli.stands(settings(tmp_path, **changes), client, TODAY)


def test_the_program_reads_its_settings_from_its_input(
    account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(settings(tmp_path))))
    assert cli.main(["stands"]) == 0
    assert "Forecast: " in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(settings(tmp_path, region="mars-1"))))
    assert cli.main(["stands"]) == 2
    assert capsys.readouterr().err.startswith("spotcache cost: There are no prices")
