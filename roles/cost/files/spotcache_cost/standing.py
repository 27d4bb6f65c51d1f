"""What there is of an environment in an account, by its tags and names, and what each thing costs while it is there."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from spotcache_cost.environments import Options, ec2
from spotcache_cost.errors import CostError
from spotcache_cost.habits import Habits
from spotcache_cost.hours import MONTH
from spotcache_cost.model import EC2, EC2_SPOT, Estimate, Setup, estimate
from spotcache_cost.prices import Price, Prices

Client = Callable[[str], Any]
TAG, SUPERSEDED, BACKUP = "spotcache:environment", "spotcache:superseded-since", "spotcache:backup"
_GIB = 2**30
# What a thing is to the environment.
USED, AT_NIGHT, IDLE, GIVEN_UP, FORGOTTEN = "in use", "kept at night", "idle", "superseded", "forgotten"


@dataclass(frozen=True)
class Thing:
    """Something that is paid.

    Attributes:
        kind: AWS's word for it.
        id: AWS's id or name.
        state: what it is to the environment.
        usd: a month, for as long as it is there; None where no price is known.
        note: what that comes from.
    """

    kind: str
    id: str
    state: str
    usd: float | None
    note: str = ""


@dataclass
class Standing:
    """An environment as it stands.

    Attributes:
        things: what is there.
        unseen: what could not be looked at, and why.
        type: of the host that runs; empty without one.
        spot: whether that one is on Spot.
        data_gib: size of the newest backup; 0 without one.
        backups: in S3.
        roots: volumes that end with their hosts. The data volume is made to stay.
        scheduled: whether its group has working hours; None where that could not be seen.
        billed: USD that Cost Explorer has of this month, by usage type; None where it was not asked.
    """

    things: list[Thing] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    type: str = ""
    spot: bool = True
    data_gib: float = 0.0
    backups: int = 0
    roots: set[str] = field(default_factory=set)
    scheduled: bool | None = None
    billed: dict[str, float] | None = None

    def wasted(self) -> list[Thing]:
        """What nobody needs."""
        return [one for one in self.things if one.state in (IDLE, GIVEN_UP, FORGOTTEN)]


@dataclass(frozen=True)
class Where:
    """Which environment, and where its parts are.

    Attributes:
        environment: its name.
        region: AWS's.
        bucket: of the backups; empty without one.
        prefix: of its keys, before the environment's name.
        zone: name of its DNS zone; empty without one.
        shares_zone: other environments have names in it as well.
    """

    environment: str
    region: str
    bucket: str = ""
    prefix: str = ""
    zone: str = ""
    shares_zone: bool = False

    @property
    def name(self) -> str:
        """What everything of it is called, or begins with."""
        return f"spotcache-{self.environment}"


def look(where: Where, client: Client, prices: Prices) -> Standing:
    """What there is. What may not be looked at is said, and the rest is told all the same.

    Raises:
        CostError: there are no prices of the region, or no credentials.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    book = prices.of(where.region)
    found = Standing()
    parts: Sequence[tuple[str, Callable[[Where, Client, Mapping[str, Price], Standing], None]]] = (
        ("hosts", _hosts),
        ("working hours", _schedule),
        ("backups in S3", _objects),
        ("volumes", _volumes),
        ("EBS snapshots", _snapshots),
        ("addresses and endpoints", _network),
        ("DNS zones", _zones),
        ("alarms", _alarms),
        ("logs", _logs),
        ("parameters", _parameters),
    )
    for what, part in parts:
        try:
            part(where, client, book, found)
        except NoCredentialsError as error:
            raise CostError("There are no AWS credentials: name a profile with AWS_PROFILE, or log in.") from error
        except (BotoCoreError, ClientError) as error:
            found.unseen.append(f"{what}: {error}")
    return found


def _pages(client: Any, action: str, key: str, **arguments: Any) -> Iterator[Any]:
    for page in client.get_paginator(action).paginate(**arguments):
        yield from page.get(key) or []


def _own(where: Where) -> list[dict[str, Any]]:
    return [{"Name": f"tag:{TAG}", "Values": [where.environment]}]


def _tags(row: Mapping[str, Any]) -> dict[str, str]:
    return {one["Key"]: one["Value"] for one in row.get("Tags") or []}


def _usd(book: Mapping[str, Price], key: str, quantity: float) -> float | None:
    price = book.get(key)
    return None if price is None else price.usd * quantity


def _hosts(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    for reservation in _pages(client("ec2"), "describe_instances", "Reservations", Filters=_own(where)):
        for one in reservation["Instances"]:
            if one["State"]["Name"] in ("terminated", "shutting-down"):
                continue
            market = EC2_SPOT if one.get("InstanceLifecycle") == "spot" else EC2
            found.type, found.spot = one["InstanceType"], market == EC2_SPOT
            found.roots |= {
                mapping["Ebs"]["VolumeId"]
                for mapping in one.get("BlockDeviceMappings") or []
                if mapping.get("Ebs", {}).get("DeleteOnTermination")
            }
            usd = _usd(book, f"{market}/{found.type}", MONTH)
            note = f"{found.type} {'on Spot' if found.spot else 'on demand'}, if it ran the whole month"
            found.things.append(Thing("host", one["InstanceId"], USED, usd, note))


def _schedule(where: Where, client: Client, _book: Mapping[str, Price], found: Standing) -> None:
    asked = {"AutoScalingGroupName": where.name}
    rows = _pages(client("autoscaling"), "describe_scheduled_actions", "ScheduledUpdateGroupActions", **asked)
    found.scheduled = next(iter(rows), None) is not None


def _objects(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    if not where.bucket:
        return
    below = f"{where.prefix}{where.environment}/"
    s3 = client("s3")
    rows = list(_pages(s3, "list_objects_v2", "Contents", Bucket=where.bucket, Prefix=below))
    versions = _pages(s3, "list_object_versions", "Versions", Bucket=where.bucket, Prefix=f"{below}backups/")
    # What was overwritten or deleted by hand is kept for as long as the bucket keeps older versions.
    older = [one["Size"] for one in versions if not one["IsLatest"]]
    dumps = sorted((row for row in rows if row["Key"].endswith("/dump.rdb")), key=lambda row: str(row["Key"]))
    found.backups = len(dumps)
    found.data_gib = dumps[-1]["Size"] / _GIB if dumps else 0.0
    gib = (sum(row["Size"] for row in rows) + sum(older)) / _GIB
    note = f"{len(dumps)} backups, {gib:.2f} GiB" + (f", {len(older)} older versions in it" if older else "")
    found.things.append(Thing("objects", f"s3://{where.bucket}/{below}", USED, _usd(book, "s3/storage", gib), note))


def _volumes(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    runs = any(one.kind == "host" for one in found.things)
    for one in _pages(client("ec2"), "describe_volumes", "Volumes", Filters=_own(where)):
        since = _tags(one).get(SUPERSEDED, "")
        state = USED if one["State"] == "in-use" else GIVEN_UP if since else IDLE if runs else AT_NIGHT
        note = f"{one['Size']} GiB" + (f", another one is in its place since {since}" if since else "")
        kind = "root volume" if one["VolumeId"] in found.roots else "volume"
        found.things.append(Thing(kind, one["VolumeId"], state, _usd(book, "ebs/gp3", one["Size"]), note))


def _snapshots(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    service = client("ec2")
    images = {
        mapping["Ebs"]["SnapshotId"]
        for image in _pages(service, "describe_images", "Images", Owners=["self"], Filters=_own(where))
        for mapping in image.get("BlockDeviceMappings") or []
        if "SnapshotId" in mapping.get("Ebs", {})
    }
    for one in _pages(service, "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=_own(where)):
        tags = _tags(one)
        if one["SnapshotId"] in images:
            state, gib, note = USED, float(one["VolumeSize"]), "of an image; at most"
        elif BACKUP in tags or any(name.startswith("aws:dlm:") for name in tags):
            # EBS bills changed blocks, of which its API does not tell: of a backup they are as many as its file has.
            state, note = USED, "as many changed blocks as the newest backup has bytes"
            gib = found.data_gib or float(one["VolumeSize"])
        else:
            state, gib, note = FORGOTTEN, float(one["VolumeSize"]), "neither of a backup nor of an image; at most"
        usd = _usd(book, "ebs/snapshot", gib)
        found.things.append(Thing("EBS snapshot", one["SnapshotId"], state, usd, f"{note}: {gib:.2f} GiB"))


def _network(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    service = client("ec2")
    for one in _pages(service, "describe_vpc_endpoints", "VpcEndpoints", Filters=_own(where)):
        if one["VpcEndpointType"] == "Interface" and one["State"].lower() not in ("deleted", "deleting"):
            usd = _usd(book, "vpc/endpoint", len(one.get("SubnetIds") or []) * MONTH)
            found.things.append(Thing("VPC endpoint", one["VpcEndpointId"], USED, usd, one["ServiceName"]))


def _zones(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    service = client("route53")
    for one in _pages(service, "list_hosted_zones", "HostedZones") if where.zone else ():
        if one["Name"].rstrip(".") != where.zone or not one.get("Config", {}).get("PrivateZone"):
            continue
        zone = one["Id"].rpartition("/")[2]
        share, note = 1.0, where.zone
        if where.shares_zone:
            rows = _pages(service, "list_resource_record_sets", "ResourceRecordSets", HostedZoneId=zone)
            names = [row["Name"].rstrip(".") for row in rows if row["Type"] not in ("NS", "SOA")]
            if f"redis.{where.environment}.{where.zone}" not in names:
                # Another VPC's, or one that is not used yet.
                continue
            share = 1 / sum(name.startswith("redis.") for name in names)
            note = f"{where.zone}, shared by {1 / share:.0f} environments"
        found.things.append(Thing("DNS zone", zone, USED, _usd(book, "route53/zone", share), note))


def _alarms(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    for one in _pages(client("cloudwatch"), "describe_alarms", "MetricAlarms", AlarmNamePrefix=where.name):
        if _is_own(one["AlarmName"], where):
            found.things.append(Thing("alarm", one["AlarmName"], USED, _usd(book, "cloudwatch/alarm", 1)))


def _logs(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    begin = f"/aws/lambda/{where.name}"
    for one in _pages(client("logs"), "describe_log_groups", "logGroups", logGroupNamePrefix=begin):
        if not _is_own(one["logGroupName"].removeprefix("/aws/lambda/"), where):
            continue
        gib, kept = one.get("storedBytes", 0) / _GIB, one.get("retentionInDays")
        note = f"{gib:.3f} GiB, kept for {kept} days" if kept else f"{gib:.3f} GiB, kept for ever: it only grows"
        usd = _usd(book, "logs/storage", gib)
        found.things.append(Thing("log group", one["logGroupName"], USED if kept else FORGOTTEN, usd, note))


def _is_own(name: str, where: Where) -> bool:
    """Whether a name is this environment's and not that of one whose name begins alike."""
    parts = ("", "-fallback-controller", "-notify", "-apcu", "-people", "-on-demand", "-retention")
    return any(name.startswith(f"{where.name}{part}") for part in parts[1:]) or name == where.name


def _parameters(where: Where, client: Client, book: Mapping[str, Price], found: Standing) -> None:
    below = [{"Key": "Name", "Option": "BeginsWith", "Values": [f"/spotcache/{where.environment}/"]}]
    for one in _pages(client("ssm"), "describe_parameters", "Parameters", ParameterFilters=below):
        if one.get("Tier") == "Advanced":
            found.things.append(Thing("parameter", one["Name"], USED, _usd(book, "ssm/advanced", 1), "advanced"))


def explorer(where: Where, client: Client, today: date) -> dict[str, float]:
    """What Cost Explorer has of this month for what carries the environment's tag, USD by usage type.

    The tag must be activated as a cost allocation tag; each question is billed 0.01 USD by AWS.

    Raises:
        CostError: it is not to be asked.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    first = today.replace(day=1)
    period = {"Start": first.isoformat(), "End": max(today, first + timedelta(days=1)).isoformat()}
    found: dict[str, float] = {}
    asked: dict[str, Any] = {
        "TimePeriod": period,
        "Granularity": "MONTHLY",
        "Metrics": ["UnblendedCost"],
        "Filter": {"Tags": {"Key": TAG, "Values": [where.environment]}},
        "GroupBy": [{"Type": "DIMENSION", "Key": "USAGE_TYPE"}],
    }
    try:
        service = client("ce")
        while True:
            answer = service.get_cost_and_usage(**asked)
            for part in answer["ResultsByTime"]:
                for group in part["Groups"]:
                    usd = float(group["Metrics"]["UnblendedCost"]["Amount"])
                    found[group["Keys"][0]] = found.get(group["Keys"][0], 0.0) + usd
            if not answer.get("NextPageToken"):
                return found
            asked["NextPageToken"] = answer["NextPageToken"]
    except (BotoCoreError, ClientError) as error:
        raise CostError(
            f"Cost Explorer does not answer: {error}. It needs ce:GetCostAndUsage (docs/iam/operator-cost-policy.json) "
            "and the tag spotcache:environment activated as a cost allocation tag; or set cost_explorer to false."
        ) from error


@dataclass(frozen=True)
class Forecast:
    """What a month like this costs.

    Attributes:
        there: USD of what is there, without the host.
        running: USD of the host in its hours, its root volume, and what it asks for.
        model: what `running` comes from.
    """

    there: float
    running: float
    model: Estimate

    @property
    def usd(self) -> float:
        """Both together."""
        return self.there + self.running


def forecast(found: Standing, wanted: Setup, chosen: Options, prices: Prices, habits: Habits | None) -> Forecast:
    """What a month costs if it goes on like this.

    Args:
        found: what there is.
        wanted: way, region and type by the inventory.
        chosen: the inventory's variables.
        prices: to reckon with.
        habits: how many calls what happens makes.

    Raises:
        CostError: the inventory's type is not known.
    """
    setup = replace(wanted, type=found.type or wanted.type)
    if found.scheduled is False:
        # What the inventory says of hours has not been made so.
        chosen = replace(chosen, schedule_start="", schedule_stop="")
    band = prices.band(setup.region, setup.type) if setup.way == EC2_SPOT else ""
    done = estimate(ec2(setup, chosen, band=band, habits=habits), prices)
    # What is there is counted where it is seen; the rest is what a running host has and asks for.
    groups, beside = ("compute", "requests", "network", "other"), ("DNS queries", "root volume, while the host runs")
    lines = [line for line in done.lines if line.group in groups or line.item in beside]
    running = sum(line.amount or 0.0 for line in lines if line.item != "CloudWatch alarms")
    setup = done.setup
    night = setup.hours / MONTH if chosen.spotcache_return_volume else 1.0
    there = sum(
        (one.usd or 0.0) * (night if one.kind == "volume" and one.state == USED else 1.0)
        for one in found.things
        if one.kind not in ("host", "root volume", "log group")
    )
    return Forecast(there, running, done)


def message(where: Where, found: Standing, cast: Forecast, amount: Callable[[float], str], budget: float) -> str:
    """What people are told, as the role notify reads it."""
    above = budget > 0 and cast.usd > budget
    title = f"{where.environment}: {amount(cast.usd)} a month" + (f", above {amount(budget)}" if above else "")
    wasted = found.wasted()
    lines = [f"What is there costs {amount(cast.there)}, the host in its hours {amount(cast.running)}."]
    if wasted:
        usd = sum(one.usd or 0.0 for one in wasted)
        lines.append(
            f"{amount(usd)} of it for what nobody needs: {', '.join(f'{one.id} ({one.state})' for one in wasted)}."
        )
    if found.unseen:
        lines.append(f"Not looked at: {'; '.join(found.unseen)}.")
    return json.dumps(
        {
            "title": title,
            "text": " ".join(lines),
            "level": "warning" if above else "info",
            "key": f"cost/{title}",
            # A week, in which nobody is told the same twice.
            "window": 6 * 86400,
            "fields": {"Forecast": amount(cast.usd), **({"Budget": amount(budget)} if budget > 0 else {})},
        }
    )


def publish(where: Where, client: Client, text: str) -> str:
    """Tell people by the environment's topic; a line that says so.

    Raises:
        CostError: there is no topic, or it does not take it.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        caller = client("sts").get_caller_identity()
        partition = caller["Arn"].split(":")[1]
        topic = f"arn:{partition}:sns:{where.region}:{caller['Account']}:{where.name}"
        client("sns").publish(TopicArn=topic, Message=text)
    except (BotoCoreError, ClientError) as error:
        raise CostError(
            f"People were not told: {error}. It needs a topic, which provision makes where spotcache_notify is not "
            "none, and sns:Publish (docs/iam/operator-cost-policy.json); or set cost_notify to false."
        ) from error
    return f"Told by {topic}."


def told(where: Where, found: Standing, cast: Forecast, amount: Callable[[float], str], budget: float) -> list[str]:
    """The same for whoever runs the playbook: every thing, and what it comes to."""
    rows = [
        f"{'unknown' if one.usd is None else f'{one.usd:.2f}':>9}  {one.state:<13}  {one.kind} {one.id}"
        + (f" ({one.note})" if one.note else "")
        for one in sorted(found.things, key=lambda one: -(one.usd or 0.0))
    ]
    lines = [f"{where.environment} in {where.region}, USD a month:", *rows, ""]
    lines += [f"Not looked at: {one}." for one in found.unseen]
    hours = cast.model.setup.hours
    lines.append(
        f"Forecast: {amount(cast.usd)} a month: {amount(cast.there)} for what is there, and {amount(cast.running)} for "
        f"a {cast.model.setup.type} in {hours:.0f} hours with what it asks for."
    )
    if wasted := found.wasted():
        usd = sum(one.usd or 0.0 for one in wasted)
        lines.append(f"{amount(usd)} of it is for what nobody needs: {', '.join(one.id for one in wasted)}.")
    if found.billed is not None:
        lines.append(f"Cost Explorer has {amount(sum(found.billed.values()))} of this month for what carries the tag.")
    if budget > 0 and cast.usd > budget:
        lines.append(f"That is above cost_budget, {amount(budget)}.")
    return lines


def as_json(where: Where, found: Standing, cast: Forecast, budget: float, today: date) -> dict[str, Any]:
    """What report.json holds of an environment."""
    return {
        "made": today.isoformat(),
        "environment": where.environment,
        "region": where.region,
        "things": [vars(one) for one in found.things],
        "unseen": found.unseen,
        "billed": found.billed,
        "forecast": {"usd": round(cast.usd, 4), "there": round(cast.there, 4), "running": round(cast.running, 4)},
        "budget": budget,
        "above_budget": budget > 0 and cast.usd > budget,
    }
