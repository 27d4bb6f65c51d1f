# SPDX-License-Identifier: GPL-3.0-or-later
"""A zone that environments share: one for several VPCs, never another's, and gone with its last name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
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
    def call(vpc: str, **more: Any) -> dict[str, Any]:
        given = {"name": NAME, "vpc_id": vpc, "region": REGION, "tags": {"team": "web"}, **more}
        with patch_module_args(given), pytest.raises(SystemExit):
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
    would = run("vpc-1", _ansible_check_mode=True)
    assert (would["changed"], would["zone_id"], asking(route53)) == (True, "", [])
    made = run("vpc-1")
    assert (made["changed"], made["managed"]) == (True, True)
    assert run("vpc-2")["zone_id"] == made["zone_id"]
    assert asking(route53) == [["vpc-1", "vpc-2"]]
    assert run("vpc-1")["changed"] is run("vpc-2")["changed"] is False
    tags = route53.list_tags_for_resource(ResourceType="hostedzone", ResourceId=made["zone_id"])
    assert {"Key": "team", "Value": "web"} in tags["ResourceTagSet"]["Tags"]


def test_the_last_name_takes_it_along(route53: Any, run: Callable[..., dict[str, Any]]) -> None:
    zone = run("vpc-1")["zone_id"]
    run("vpc-2")
    for environment in ("one", "two"):
        record(route53, zone, environment)
    record(route53, zone, "one", "DELETE")
    # In a VPC of several environments the others ask it still; one that goes asks no more.
    assert run("vpc-1", state="absent")["changed"] is False
    assert run("vpc-1", state="absent", vpc_leaves=True)["changed"] is True
    assert asking(route53) == [["vpc-2"]]
    stays = run("vpc-2", state="absent", vpc_leaves=True)
    assert stays["changed"] is False
    assert "redis.two.spotcache.internal" in stays["warnings"][0]
    record(route53, zone, "two", "DELETE")
    assert run("vpc-2", state="absent", vpc_leaves=True)["changed"] is True
    assert asking(route53) == []
    assert run("vpc-2", state="absent", vpc_leaves=True)["changed"] is False


def test_a_zone_of_somebody_else_is_used_and_never_changed(route53: Any, run: Callable[..., dict[str, Any]]) -> None:
    route53.create_hosted_zone(
        Name=NAME,
        CallerReference="theirs",
        HostedZoneConfig={"PrivateZone": True},
        VPC={"VPCRegion": REGION, "VPCId": "vpc-1"},
    )
    theirs = run("vpc-1")
    assert (theirs["changed"], theirs["managed"]) == (False, False)
    assert run("vpc-1", state="absent", vpc_leaves=True)["changed"] is False
    assert asking(route53) == [["vpc-1"]]
    said = run("vpc-2")["msg"]
    assert "somebody else has made, and the VPC vpc-2 does not ask it" in said
    assert "give network_dns_zone another name" in said
