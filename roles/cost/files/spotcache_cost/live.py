"""Today's prices, from AWS's Price List and the history of Spot prices, into a file of prices.

A price that AWS does not give, or gives twice, stays as it was, and that is said: nothing is ever set to nothing.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spotcache_cost.errors import CostError
from spotcache_cost.kinds import KINDS

Client = Callable[[str, str], Any]
# Where the Price List is asked: it has few endpoints, and each knows all regions.
PRICING_REGION = "us-east-1"


class Quote(NamedTuple):
    """A price in USD, and the day of the list that has it; empty where the list does not say."""

    usd: float
    day: str


@dataclass(frozen=True)
class Wanted:
    """Where a price stands in the Price List.

    Attributes:
        service: its service code.
        usage: the usage type without the region's prefix.
        more: further attributes that the product must have.
        everywhere: it has no region.
        unit: of the price.
    """

    service: str
    usage: str
    unit: str
    more: Mapping[str, str] = field(default_factory=dict)
    everywhere: bool = False


_HOST = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "operation": "RunInstances",
}
_ENGINES = {"redis": "Redis", "valkey": "Valkey"}
_USAGES = {
    "fargate/vcpu": Wanted("AmazonECS", "Fargate-vCPU-Hours:perCPU", "vCPU-h"),
    "fargate/gb": Wanted("AmazonECS", "Fargate-GB-Hours", "GB-h"),
    "fargate_arm/vcpu": Wanted("AmazonECS", "Fargate-ARM-vCPU-Hours:perCPU", "vCPU-h"),
    "fargate_arm/gb": Wanted("AmazonECS", "Fargate-ARM-GB-Hours", "GB-h"),
    "serverless/valkey/storage": Wanted("AmazonElastiCache", "CachedData:Valkey", "GB-h"),
    "serverless/valkey/ecpu": Wanted("AmazonElastiCache", "ElastiCacheProcessingUnits:Valkey", "ECPU"),
    "serverless/redis/storage": Wanted("AmazonElastiCache", "CachedData:Redis", "GB-h"),
    "serverless/redis/ecpu": Wanted("AmazonElastiCache", "ElastiCacheProcessingUnits:Redis", "ECPU"),
    "ebs/gp3": Wanted("AmazonEC2", "EBS:VolumeUsage.gp3", "GB-month"),
    "ebs/snapshot": Wanted("AmazonEC2", "EBS:SnapshotUsage", "GB-month"),
    "s3/storage": Wanted("AmazonS3", "TimedStorage-ByteHrs", "GB-month"),
    "s3/write": Wanted("AmazonS3", "Requests-Tier1", "request"),
    "s3/read": Wanted("AmazonS3", "Requests-Tier2", "request"),
    "route53/zone": Wanted("AmazonRoute53", "HostedZone", "zone-month", everywhere=True),
    "route53/query": Wanted("AmazonRoute53", "DNS-Queries", "query", everywhere=True),
    "cloudwatch/alarm": Wanted("AmazonCloudWatch", "CW:AlarmMonitorUsage", "alarm-month"),
    "logs/ingest": Wanted("AmazonCloudWatch", "DataProcessing-Bytes", "GB"),
    "logs/storage": Wanted("AmazonCloudWatch", "TimedStorage-ByteHrs", "GB-month"),
    "lambda/request": Wanted("AWSLambda", "Request", "request"),
    "lambda/gb_second": Wanted("AWSLambda", "Lambda-GB-Second", "GB-s"),
    "sqs/request": Wanted("AWSQueueService", "Requests-Tier1", "request"),
    "dynamodb/write": Wanted("AmazonDynamoDB", "WriteRequestUnits", "request unit"),
    "dynamodb/read": Wanted("AmazonDynamoDB", "ReadRequestUnits", "request unit"),
    "kms/key": Wanted("awskms", "KMS-Keys", "key-month"),
    "kms/request": Wanted("awskms", "KMS-Requests", "request"),
    "ecr/storage": Wanted("AmazonECR", "TimedStorage-ByteHrs", "GB-month"),
    "vpc/ipv4": Wanted("AmazonVPC", "PublicIPv4:InUseAddress", "address-h"),
    "vpc/nat": Wanted("AmazonEC2", "NatGateway-Hours", "gateway-h"),
    "vpc/nat_traffic": Wanted("AmazonEC2", "NatGateway-Bytes", "GB"),
    "vpc/endpoint": Wanted("AmazonVPC", "VpcEndpoint-Hours", "endpoint-zone-h"),
    "transfer/zone": Wanted("AWSDataTransfer", "DataTransfer-Regional-Bytes", "GB and direction"),
    "credits/t3": Wanted("AmazonEC2", "CPUCredits:t3", "vCPU-h"),
    "credits/t3a": Wanted("AmazonEC2", "CPUCredits:t3a", "vCPU-h"),
    "credits/t4g": Wanted("AmazonEC2", "CPUCredits:t4g", "vCPU-h"),
}
# Of what the Price List has nothing, and the snapshot keeps what it has.
ELSEWHERE = {"fargate_spot": "Fargate's Spot prices", "ssm": "advanced parameters", "transfer/internet": "traffic out"}


def wanted() -> dict[str, Wanted]:
    """Every price that the model may ask for and the Price List has, by its key."""
    found = dict(_USAGES)
    for name in KINDS:
        if name.startswith("cache."):
            for engine, called in _ENGINES.items():
                more = {"instanceType": name, "cacheEngine": called}
                found[f"elasticache/{engine}/{name}"] = Wanted("AmazonElastiCache", f"NodeUsage:{name}", "node-h", more)
        else:
            more = {**_HOST, "instanceType": name}
            found[f"ec2/{name}"] = Wanted("AmazonEC2", f"BoxUsage:{name}", "h", more)
    return found


def filters(one: Wanted, region: str) -> list[dict[str, str]]:
    """What GetProducts is asked with; a usage type has a prefix that differs by region and service."""
    asked = dict(one.more) if one.everywhere else {"regionCode": region, **one.more}
    rows = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in asked.items()]
    return [*rows, {"Type": "CONTAINS", "Field": "usagetype", "Value": one.usage}]


def _amounts(item: Mapping[str, Any]) -> Iterator[float]:
    """What one product costs on demand: the first step of its price that is not nothing."""
    for term in item["terms"].get("OnDemand", {}).values():
        steps = []
        for dimension in term["priceDimensions"].values():
            usd = float(dimension["pricePerUnit"].get("USD", 0))
            # A free step, or the hours that a reservation pays, stand beside the price itself.
            if usd > 0:
                steps.append((float(dimension.get("beginRange", 0)), usd))
        if steps:
            yield min(steps)[1]


def chosen(items: list[str], one: Wanted) -> Quote | None:
    """The one price among what GetProducts gives, and the day of the list; None where there is none or more than one.

    Args:
        items: each a JSON text, as the service gives them.
        one: what was asked for.
    """
    # Extended support, outposts, durability and the like have usage types that end alike, behind words of their own.
    exact = re.compile(rf"([A-Z]{{2,4}}\d?-|[a-z]{{2}}-[a-z]+-\d-)?{re.escape(one.usage)}")
    found: dict[float, str] = {}
    for text in items:
        item = json.loads(text)
        if exact.fullmatch(item["product"]["attributes"].get("usagetype", "")):
            for usd in _amounts(item):
                found[usd] = str(item.get("publicationDate", ""))[:10]
    return Quote(*found.popitem()) if len(found) == 1 else None


def products(client: Any, one: Wanted, region: str) -> list[str]:
    """All pages of an answer."""
    found: list[str] = []
    for page in client.get_paginator("get_products").paginate(ServiceCode=one.service, Filters=filters(one, region)):
        found += page["PriceList"]
    return found


def spot(client: Any, kinds: list[str], now: datetime.datetime) -> dict[str, dict[str, float]]:
    """What a Spot host of each type costs an hour now, by zone."""
    pages = client.get_paginator("describe_spot_price_history").paginate(
        StartTime=now, InstanceTypes=kinds, ProductDescriptions=["Linux/UNIX"]
    )
    newest: dict[tuple[str, str], tuple[Any, float]] = {}
    for page in pages:
        for row in page["SpotPriceHistory"]:
            at = (row["InstanceType"], row.get("AvailabilityZoneId") or row["AvailabilityZone"])
            if at not in newest or row["Timestamp"] > newest[at][0]:
                newest[at] = (row["Timestamp"], float(row["SpotPrice"]))
    found: dict[str, dict[str, float]] = {}
    for (kind, zone), (_when, usd) in sorted(newest.items()):
        found.setdefault(kind, {})[zone] = usd
    return found


@dataclass
class Renewal:
    """What became of a renewal.

    Attributes:
        data: the file as it is now.
        changed: keys with their price before, where there was one, and now.
        kept: keys of which AWS gave no single price.
    """

    data: dict[str, Any]
    changed: dict[str, tuple[float | None, float]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)


def renew(data: Mapping[str, Any], region: str, client: Client, now: datetime.datetime) -> Renewal:
    """A file of prices with today's of one region.

    Args:
        data: the file's JSON.
        region: whose prices are asked for.
        client: makes the SDK's client of a service in a region.
        now: this moment.

    Raises:
        CostError: AWS gives no price at all.
    """
    done = Renewal(json.loads(json.dumps(data)))
    part = done.data["regions"].setdefault(region, {"name": region, "prices": {}})
    rows, sources = part["prices"], done.data["sources"]

    def put(key: str, source: str, row: dict[str, Any]) -> None:
        before = rows.get(key, {}).get("usd")
        if before != row["usd"]:
            done.changed[key] = (before, row["usd"])
        rows[key] = {**row, "source": source}

    pricing = client("pricing", PRICING_REGION)
    for key, one in wanted().items():
        found = chosen(products(pricing, one, region), one)
        if found is None:
            done.kept.append(key)
            continue
        source = f"list-{one.service}-{region}"
        sources[source] = {
            "what": f"AWS Price List, {one.service}, {region}",
            "date": found.day or now.date().isoformat(),
        }
        put(key, source, {"usd": found.usd, "unit": one.unit})
    hosts = [name for name in KINDS if not name.startswith("cache.")]
    for kind, zones in spot(client("ec2", region), hosts, now).items():
        sources[f"spot-{region}"] = {"what": f"EC2's history of Spot prices, {region}", "date": now.date().isoformat()}
        mean = round(sum(zones.values()) / len(zones), 6)
        put(f"ec2_spot/{kind}", f"spot-{region}", {"usd": mean, "unit": "h", "zones": zones})
    if not any(row["source"].startswith(("list-", "spot-")) for row in rows.values()):
        raise CostError(f"AWS gives no price for {region}: is that a region's name, such as ap-northeast-1?")
    part["prices"] = dict(sorted(rows.items()))
    used = {row["source"] for one in done.data["regions"].values() for row in one["prices"].values()}
    used |= {row["source"] for row in done.data["currencies"].values()} | {done.data["interruptions"]["source"]}
    done.data["sources"] = {name: row for name, row in sources.items() if name in used}
    done.data["date"] = now.date().isoformat()
    return done


def text_of(data: Mapping[str, Any]) -> str:
    """The file's text: one price a line, so that a comparison shows what moved."""

    def flat(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    def block(rows: Mapping[str, Any], depth: int) -> str:
        pad = "  " * depth
        return "{\n" + ",\n".join(f"{pad}{flat(key)}: {flat(row)}" for key, row in rows.items()) + f"\n{pad[2:]}}}"

    regions = ",\n".join(
        f'    {flat(region)}: {{\n      "name": {flat(part["name"])},\n'
        f'      "prices": {block(part["prices"], 4)}\n    }}'
        for region, part in data["regions"].items()
    )
    interruptions = (
        f'{{\n    "source": {flat(data["interruptions"]["source"])},\n'
        f'    "regions": {block(data["interruptions"]["regions"], 3)}\n  }}'
    )
    return (
        f'{{\n  "note": {flat(data["note"])},\n  "date": {flat(data["date"])},\n'
        f'  "currencies": {block(data["currencies"], 2)},\n  "sources": {block(data["sources"], 2)},\n'
        f'  "interruptions": {interruptions},\n  "regions": {{\n{regions}\n  }}\n}}\n'
    )
