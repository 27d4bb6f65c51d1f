# SPDX-License-Identifier: GPL-3.0-or-later
"""A zone that environments share: one for several VPCs, never another's, and gone with its last name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils.shared_zone import SHARED_BY
from ansible_collections.spotcache.redis.plugins.modules import shared_dns_zone as module
from moto import mock_aws

REGION, NAME = "ap-northeast-1", "spotcache.internal"


@pytest.fixture
def route53(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield boto3.client("route53", region_name=REGION)


@pytest.fixture
def run(route53: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def call(environment: str, vpc: str | None = None, **more: Any) -> dict[str, Any]:
        given = {"name": NAME, "environment": environment, "region": REGION, "tags": {"team": "web"}}
        given |= {"vpc_id": vpc} if vpc else {}
        with patch_module_args({**given, **more}), pytest.raises(SystemExit):
            module.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return call


def asking(route53: Any) -> list[list[str]]:
    """The VPCs of each zone that is paid."""
    ids = [zone["Id"] for zone in route53.list_hosted_zones()["HostedZones"]]
    return [sorted(one["VPCId"] for one in route53.get_hosted_zone(Id=zone)["VPCs"]) for zone in ids]


def record(route53: Any, zone: str, environment: str, action: str = "UPSERT") -> None:
    name = f"redis.{environment}.{NAME}"
    row = {"Name": name, "Type": "A", "TTL": 10, "ResourceRecords": [{"Value": "10.0.0.5"}]}
    change = {"Changes": [{"Action": action, "ResourceRecordSet": row}]}
    route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=change)


def test_one_zone_is_paid_for_several_vpcs(route53: Any, run: Callable[..., dict[str, Any]]) -> None:
    would = run("one", "vpc-1", _ansible_check_mode=True)
    assert (would["changed"], would["zone_id"], asking(route53)) == (True, "", [])
    made = run("one", "vpc-1")
    assert (made["changed"], made["managed"]) == (True, True)
    assert run("two", "vpc-2")["zone_id"] == made["zone_id"]
    assert asking(route53) == [["vpc-1", "vpc-2"]]
    assert run("one", "vpc-1")["changed"] is run("two", "vpc-2")["changed"] is False
    tags = route53.list_tags_for_resource(ResourceType="hostedzone", ResourceId=made["zone_id"])
    assert {"Key": "team", "Value": "web"} in tags["ResourceTagSet"]["Tags"]
    assert run("one")["msg"] == "state is present but all of the following are missing: vpc_id"


def test_the_last_environment_deletes_it(route53: Any, run: Callable[..., dict[str, Any]]) -> None:
    zone = run("one", "vpc-1")["zone_id"]
    run("two", "vpc-2")
    run("three", "vpc-2")
    record(route53, zone, "one")
    record(route53, zone, "one", "DELETE")
    would = run("one", state="absent", _ansible_check_mode=True)
    assert (would["changed"], would["diff"]["after"]["asked_by"], len(asking(route53)[0])) == (True, ["vpc-2"], 2)
    # No name is left in it, and yet two others are about to have theirs.
    assert run("one", state="absent")["changed"] is True
    assert asking(route53) == [["vpc-2"]]
    assert run("one", state="absent")["changed"] is False
    # The other environment of that VPC asks the zone still.
    assert run("two", state="absent")["changed"] is True
    assert asking(route53) == [["vpc-2"]]
    assert run("three", state="absent", _ansible_check_mode=True)["changed"] is True
    assert run("three", state="absent")["changed"] is True
    assert asking(route53) == []
    assert run("three", state="absent")["changed"] is False


def test_a_zone_with_names_stays_and_is_said_to_be_billed(route53: Any, run: Callable[..., dict[str, Any]]) -> None:
    zone = run("one", "vpc-1")["zone_id"]
    record(route53, zone, "somebodys")
    stays = run("one", state="absent")
    assert "redis.somebodys.spotcache.internal" in stays["warnings"][0]
    assert asking(route53) == [["vpc-1"]]
    # Who comes back finds it.
    assert run("one", "vpc-1")["zone_id"] == zone


def test_two_that_leave_at_once_leave_no_zone(
    route53: Any, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = run("one", "vpc-1")["zone_id"]
    run("two", "vpc-2")
    found = module.Zones.found

    def found_late(self: module.Zones) -> Any:
        zones = list(found(self))
        key = f"{SHARED_BY}two"
        route53.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone, RemoveTagKeys=[key])
        return iter(zones)

    monkeypatch.setattr(module.Zones, "found", found_late)
    assert run("one", state="absent")["changed"] is True
    assert asking(route53) == []


def test_a_zone_of_somebody_else_is_used_and_never_changed(route53: Any, run: Callable[..., dict[str, Any]]) -> None:
    route53.create_hosted_zone(
        Name=NAME,
        CallerReference="theirs",
        HostedZoneConfig={"PrivateZone": True},
        VPC={"VPCRegion": REGION, "VPCId": "vpc-1"},
    )
    theirs = run("one", "vpc-1")
    assert (theirs["changed"], theirs["managed"]) == (False, False)
    assert run("one", state="absent")["changed"] is False
    assert asking(route53) == [["vpc-1"]]
    said = run("two", "vpc-2")["msg"]
    assert "somebody else has made, and the VPC vpc-2 does not ask it" in said
    assert "give network_dns_zone another name" in said
