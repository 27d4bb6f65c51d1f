# SPDX-License-Identifier: GPL-3.0-or-later
"""Today's prices: what AWS is asked, and which of its answers is taken; they have the shapes of botocore's models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber
from spotcache_cost import cli, live, prices
from spotcache_cost.errors import CostError

NOW = datetime(2026, 12, 24, 9, tzinfo=UTC)
REGION = "ap-northeast-1"


def product(usage: str, *usd: float, begins: tuple[float, ...] = (), more: Mapping[str, str] | None = None) -> str:
    """A product as the Price List has it: a JSON text."""
    steps = begins or (0.0,) * len(usd)
    dimensions = {
        f"SKU.T.{number}": {
            "unit": "Hrs",
            "beginRange": f"{begin:g}",
            "endRange": "Inf",
            "description": "",
            "appliesTo": [],
            "rateCode": f"SKU.T.{number}",
            "pricePerUnit": {"USD": f"{one:.10f}"},
        }
        for number, (one, begin) in enumerate(zip(usd, steps, strict=True))
    }
    return json.dumps(
        {
            "product": {"sku": "SKU", "productFamily": "x", "attributes": {"usagetype": usage, **(more or {})}},
            "serviceCode": "x",
            "terms": {"OnDemand": {"SKU.T": {"sku": "SKU", "priceDimensions": dimensions, "termAttributes": {}}}},
            "version": "20261220000000",
            "publicationDate": "2026-12-20T10:00:00Z",
        }
    )


def client(service: str) -> Any:
    return boto3.client(service, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")


class Aws:
    """Clients whose answers are given; the Price List answers each question by the usage type that it asks for."""

    def __init__(self, known: Mapping[str, list[str]], spot: list[dict[str, Any]] | None = None) -> None:
        self.pricing, self.ec2 = client("pricing"), client("ec2")
        self.stubs = Stubber(self.pricing), Stubber(self.ec2)
        for key, one in live.wanted().items():
            expected = {"ServiceCode": one.service, "Filters": live.filters(one, REGION)}
            self.stubs[0].add_response(
                "get_products", {"FormatVersion": "aws_v1", "PriceList": known.get(key, [])}, expected
            )
        asked = {"StartTime": NOW, "InstanceTypes": ANY, "ProductDescriptions": ["Linux/UNIX"]}
        self.stubs[1].add_response("describe_spot_price_history", {"SpotPriceHistory": spot or []}, asked)
        for stub in self.stubs:
            stub.activate()

    def __call__(self, service: str, region: str) -> Any:
        assert (service, region) in {("pricing", "us-east-1"), ("ec2", REGION)}
        return self.pricing if service == "pricing" else self.ec2


def spot(zone: str, usd: str, hour: int = 8, kind: str = "t3.micro") -> dict[str, Any]:
    return {
        "AvailabilityZone": f"{REGION}{zone}",
        "InstanceType": kind,
        "ProductDescription": "Linux/UNIX",
        "SpotPrice": usd,
        "Timestamp": datetime(2026, 12, 24, hour, tzinfo=UTC),
    }


DATA = json.loads(prices.SNAPSHOT.read_text())


def test_todays_prices_take_the_place_of_those_that_were() -> None:
    known = {
        "ec2/t3.micro": [product("APN1-BoxUsage:t3.micro", 0.0140)],
        "ebs/gp3": [product("APN1-EBS:VolumeUsage.gp3", 0.096)],
        "route53/zone": [product("HostedZone", 0.5, 0.1, begins=(0, 25))],
        "kms/key": [product("ap-northeast-1-KMS-Keys", 1.0)],
        "ecr/storage": [product("APN1-TimedStorage-ByteHrs", 0.10)],
    }
    done = live.renew(DATA, REGION, Aws(known, [spot("a", "0.0050"), spot("c", "0.0040"), spot("c", "0.0090", 7)]), NOW)
    assert done.changed["ec2/t3.micro"] == (0.0136, 0.014)
    assert done.changed["ecr/storage"] == (None, 0.1)
    assert done.changed["ec2_spot/t3.micro"] == (0.0044, 0.0045)
    assert {"ebs/gp3", "route53/zone", "kms/key"}.isdisjoint(done.changed)
    book = prices.from_data(json.loads(live.text_of(done.data)))
    price = book.of(REGION)["ec2/t3.micro"]
    assert (price.usd, price.source, str(price.date)) == (0.014, f"AWS Price List, AmazonEC2, {REGION}", "2026-12-20")
    assert book.of(REGION)["ec2_spot/t3.micro"].spread == (0.004, 0.005)
    assert str(book.date) == "2026-12-24"
    # What AWS did not give stays, with the source that it had.
    assert "fargate/vcpu" in done.kept
    assert book.of(REGION)["fargate/vcpu"] == prices.load().of(REGION)["fargate/vcpu"]
    assert book.of("us-east-1") == prices.load().of("us-east-1")


def test_what_stands_beside_a_price_is_none() -> None:
    one = live.wanted()["elasticache/valkey/cache.t4g.micro"]
    node = product("APN1-NodeUsage:cache.t4g.micro", 0.0, 0.02)
    others = [
        product(f"APN1-{name}-NodeUsage:cache.t4g.micro", usd)
        for name, usd in (("ExtendedSupportYr1_Yr2", 0.032), ("SyncDurability", 0.004), ("Outpost", 0.01))
    ]
    assert live.chosen([*others, node], one) == (0.02, "2026-12-20")
    assert live.chosen([product("NodeUsage:cache.t4g.micro", 0.016)], one) == (0.016, "2026-12-20")
    assert live.chosen(others, one) is None
    assert live.chosen([product("APN1-NodeUsage:cache.t4g.micro", 0.0)], one) is None
    # Two prices for one thing are none.
    assert live.chosen([node, product("APN1-NodeUsage:cache.t4g.micro", 0.03)], one) is None


def test_the_first_step_counts_and_free_ones_do_not() -> None:
    one = live.wanted()["s3/storage"]
    stepped = product("APN1-TimedStorage-ByteHrs", 0.023, 0.025, 0.024, begins=(512000, 0, 51200))
    assert live.chosen([stepped], one) == (0.025, "2026-12-20")
    assert live.chosen([product("APN1-TimedStorage-ByteHrs", 0.0, 0.285, begins=(0, 25))], one) == (0.285, "2026-12-20")


def test_a_region_of_which_aws_has_nothing() -> None:
    with pytest.raises(CostError, match="AWS gives no price for mars-1"):
        live.renew(DATA, "mars-1", lambda service, region: Nothing(), NOW)


class Nothing:
    """AWS that knows nothing."""

    def get_paginator(self, _name: str) -> Any:
        return self

    def paginate(self, **_arguments: Any) -> list[dict[str, Any]]:
        return [{"PriceList": [], "SpotPriceHistory": []}]


def test_the_file_is_written_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prices.json"
    path.write_text(prices.SNAPSHOT.read_text())

    class Once(Nothing):
        def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
            wanted = [one["Value"] for one in arguments.get("Filters", []) if one["Field"] == "usagetype"]
            found = [product("APN1-EBS:VolumeUsage.gp3", 0.2)] if wanted == ["EBS:VolumeUsage.gp3"] else []
            return [{"PriceList": found, "SpotPriceHistory": []}]

    cli.update(path, REGION, lambda service, region: Once())
    said = capsys.readouterr().out
    assert "ebs/gp3: 0.096 -> 0.2" in said
    assert "1 prices of ap-northeast-1 moved." in said
    assert prices.load(path).of(REGION)["ebs/gp3"].usd == 0.2


def test_a_refusal_is_said_with_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(prices.SNAPSHOT.read_text())
    pricing = client("pricing")
    stub = Stubber(pricing)
    stub.add_client_error("get_products", "AccessDeniedException", "no")
    stub.activate()
    with pytest.raises(CostError, match=r"pricing:GetProducts and ec2:DescribeSpotPriceHistory"):
        cli.update(path, REGION, lambda service, region: pricing)
    assert path.read_text() == prices.SNAPSHOT.read_text()


@pytest.mark.parametrize("path", [prices.SNAPSHOT, prices.NOTE], ids=lambda path: path.name)
def test_a_renewal_changes_only_the_lines_that_moved(path: Path) -> None:
    assert live.text_of(json.loads(path.read_text())) == path.read_text()
