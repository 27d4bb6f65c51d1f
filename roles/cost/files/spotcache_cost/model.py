"""From what an environment is to what AWS bills for it in a month, line by line. Nothing here asks anybody anything.

Amounts are USD without tax and free tier. A GB is AWS's, 2^30 bytes, which it bills as such.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from spotcache_cost.errors import CostError
from spotcache_cost.habits import LEASE_SECONDS, Habits
from spotcache_cost.hours import MONTH
from spotcache_cost.kinds import kind
from spotcache_cost.prices import Price, Prices

EC2_SPOT, EC2 = "ec2_spot", "ec2"
FARGATE, FARGATE_SPOT = "fargate", "fargate_spot"
ELASTICACHE, SERVERLESS = "elasticache", "elasticache_serverless"
WAYS = (EC2_SPOT, EC2, FARGATE, FARGATE_SPOT, ELASTICACHE, SERVERLESS)
# What ./spotcache provision sets up: spotcache_backend.
PROVIDED = (EC2_SPOT, EC2)
ENGINES = ("redis", "valkey")
# What serverless bills at least, in GB.
SERVERLESS_FLOOR = {"valkey": 0.1, "redis": 1.0}
# So much more does a node cost at the most whose engine is past its end, as a part of its price.
_EXTENDED_SUPPORT = 1.6
_KIB_IN_GIB = 1024**2
_HOURS_A_DAY = 24


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is paid for.

    Attributes:
        way: one of `WAYS`.
        region: AWS's name of it.
        type: of the host or node; for Fargate the task as VCPU/GB, such as 1/2; for serverless nothing.
        engine: of ElastiCache, one of `ENGINES`.
        hours: a month that it runs; ElastiCache is never switched off.
        nodes: of ElastiCache.
        architecture: of a Fargate task.
        extended_support: the node's engine is past its end.
        data_gib: data in Redis' memory.
        rdb_share: size of a backup as a part of that.
        daily_change_gib: what changes a day on the data volume beside the backups, for AWS's own daily snapshots.
        requests_per_second: to Redis while it runs, on average.
        request_kib: that a request and its answer carry together.
        other_zone: which part of the requests comes from another zone than Redis'.
        apcu_share: which part of the requests APCu answers on the web servers.
        root_gib: root volume, which ends with its host.
        volume_gib: data volume.
        volume_at_night: it is kept while no host runs.
        losses: of hosts a month.
        superseded_days: for which a volume that a lost host left is kept.
        backups: kept in S3, on average, without those that are locked.
        locked: kept in S3 for as long as they are locked: the first of each day.
        lock_per_month: how many of them are locked in a month.
        snapshots: of backups, kept in EBS, on average.
        lifecycle_snapshots: of AWS's own lifecycle policy, kept in EBS.
        backups_per_hour: while it runs.
        retentions: how often a month the function looks that gives up backups.
        images: kept, from which hosts are launched.
        image_gib: written on a root volume when it was made an image, at the first.
        image_change_gib: what each further image adds.
        zones: private DNS zones, or a part of one that several environments share.
        name_seconds: for which a name is remembered, and so asked for anew.
        resolvers: that ask for it: one in each zone with web servers.
        alarms: of CloudWatch.
        log_gib: that functions write a month; kept for a month.
        function_gb_seconds: of functions a month.
        advanced_parameters: in Parameter Store.
        keys: in KMS, of one's own.
        addresses: public IPv4 ones, while it runs.
        nat_gateways: that exist for this alone.
        nat_gib: through them.
        endpoints: interface endpoints, times their zones.
        internet_gib: to the internet, beyond the 100 that cost nothing.
        registry_gib: images in ECR. Its price was found nowhere in print, so that it is unknown.
        surplus_vcpu_hours: above the baseline of a burstable host with unlimited credits.
        calls: billable calls a month beside those of `habits`, by key of their price.
        habits: how many calls what happens makes; None for none.
        lease_seconds: keeper_timeouts.lease: a third of it is how often the lease is renewed.
    """

    way: str
    region: str = "ap-northeast-1"
    type: str = ""
    engine: str = "valkey"
    hours: float = MONTH
    nodes: int = 1
    architecture: str = "x86_64"
    extended_support: bool = False
    data_gib: float = 0.0
    rdb_share: float = 1.0
    daily_change_gib: float = 0.0
    requests_per_second: float = 0.0
    request_kib: float = 1.0
    other_zone: float = 0.5
    apcu_share: float = 0.0
    root_gib: float = 0.0
    volume_gib: float = 0.0
    volume_at_night: bool = True
    losses: float = 0.0
    superseded_days: float = 7.0
    backups: float = 0.0
    locked: float = 0.0
    lock_per_month: float = 0.0
    snapshots: float = 0.0
    lifecycle_snapshots: int = 0
    backups_per_hour: float = 0.0
    retentions: float = 0.0
    images: int = 0
    image_gib: float = 2.5
    image_change_gib: float = 0.5
    zones: float = 0.0
    name_seconds: float = 10.0
    resolvers: int = 0
    alarms: int = 0
    log_gib: float = 0.0
    function_gb_seconds: float = 0.0
    advanced_parameters: int = 0
    keys: int = 0
    addresses: int = 0
    nat_gateways: int = 0
    nat_gib: float = 0.0
    endpoints: int = 0
    internet_gib: float = 0.0
    registry_gib: float = 0.0
    surplus_vcpu_hours: float = 0.0
    calls: Mapping[str, float] = field(default_factory=dict)
    habits: Habits | None = None
    lease_seconds: float = LEASE_SECONDS


@dataclass(frozen=True)
class Line:
    """One thing that is billed.

    Attributes:
        group: what it belongs to: compute, disks, backups, names, requests, network, other.
        item: what it is, for a person.
        quantity: how much a month.
        unit: of that.
        price: of one unit in USD; None where it is not known.
        amount: USD a month; None where the price is not known.
        source: of the price.
        date: of the price; None where its source has none.
    """

    group: str
    item: str
    quantity: float
    unit: str
    price: float | None
    amount: float | None
    source: str = ""
    date: date | None = None


@dataclass(frozen=True)
class Estimate:
    """What a setup costs a month.

    Attributes:
        setup: whose it is.
        lines: what is billed, without what costs nothing.
    """

    setup: Setup
    lines: tuple[Line, ...]

    @property
    def usd(self) -> float:
        """The sum of what is known, a month."""
        return sum(line.amount or 0.0 for line in self.lines)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What is billed as well, at a price that was not found."""
        return tuple(line.item for line in self.lines if line.amount is None)

    def group(self, name: str) -> float:
        """The sum of one group."""
        return sum(line.amount or 0.0 for line in self.lines if line.group == name)


GROUPS = ("compute", "disks", "backups", "names", "requests", "network", "other")


def check(setup: Setup, prices: Prices) -> None:
    """Refuse what cannot be.

    Raises:
        CostError: which value, and what to do.
    """
    if setup.way not in WAYS:
        raise CostError(f"The way {setup.way!r} is not known: the ways are {', '.join(WAYS)}.")
    prices.of(setup.region)
    if not 0 < setup.hours <= MONTH + 1e-9:
        raise CostError(f"{setup.hours:g} hours a month cannot be: a month has {MONTH:g}.")
    if setup.engine not in ENGINES:
        raise CostError(f"The engine {setup.engine!r} is not known: the engines are {', '.join(ENGINES)}.")
    numbers = {name: value for name, value in vars(setup).items() if isinstance(value, int | float)}
    for name, value in numbers.items():
        if not 0 <= value < 1e9:
            raise CostError(f"{name} is {value:g}. Give a number that is not negative.")
    if setup.lease_seconds < 30:
        raise CostError(f"keeper_timeouts.lease is {setup.lease_seconds:g}. Give seconds, at least 30.")
    for name in ("other_zone", "apcu_share"):
        if numbers[name] > 1:
            raise CostError(f"{name} is {numbers[name]:g}. It is a part: give 0 to 1.")
    if setup.way == SERVERLESS:
        return
    if setup.way in (FARGATE, FARGATE_SPOT):
        room, what = task(setup.type)[1] * 0.6, f"A task of {setup.type} (vCPU/GB)"
    else:
        known, what = kind(setup.type), f"A {setup.type}"
        if (setup.way == ELASTICACHE) != setup.type.startswith("cache."):
            raise CostError(f"The type {setup.type!r} is none of the way {setup.way}.")
        room = known.data_gib
    if setup.data_gib > room + 1e-9:
        raise CostError(
            f"{setup.data_gib:g} GiB of data do not fit. {what} gives about {room:.2f} GiB to data, and the rest to "
            "the system and to saving it: take a larger type."
        )


def task(text: str) -> tuple[float, float]:
    """A Fargate task's vCPUs and GB.

    Raises:
        CostError: it is none.
    """
    vcpu, _slash, gb = text.partition("/")
    try:
        found = float(vcpu), float(gb)
    except ValueError:
        found = (0.0, 0.0)
    if min(found) <= 0:
        raise CostError(f"The type {text!r} is no Fargate task: give it as VCPU/GB, for example 0.25/0.5.")
    return found


class _Bill:
    """Makes lines with the prices of a region."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = prices

    def line(self, group: str, item: str, key: str, quantity: float, times: float = 1.0) -> Line:
        """One line; `times` is what the price is multiplied with."""
        price = self._prices.get(key)
        if price is None:
            return Line(group, item, quantity, "", None, None, f"no price of {key} was found")
        usd = price.usd * times
        return Line(group, item, quantity, price.unit, usd, usd * quantity, price.source, price.date)


def estimate(setup: Setup, prices: Prices) -> Estimate:
    """What a setup costs a month.

    Raises:
        CostError: it cannot be, or there is no price of what it runs on.
    """
    check(setup, prices)
    bill = _Bill(prices.of(setup.region))
    lines = [line for line in _lines(setup, bill) if line.quantity > 0]
    for line in lines:
        if line.group == "compute" and line.amount is None:
            begin = "" if setup.way in (FARGATE, FARGATE_SPOT, SERVERLESS) else _key(setup).rpartition("/")[0] + "/"
            there = ", ".join(prices.types(setup.region, begin)) if begin else ""
            raise CostError(
                f"{line.source} in {setup.region}"
                + (f"; there are prices of {there}" if there else "")
                + ". Fetch it with ./spotcache cost --update-prices, or take another."
            )
    return Estimate(setup, tuple(lines))


def _key(setup: Setup) -> str:
    """The key of what a host or node costs."""
    if setup.way == ELASTICACHE:
        return f"elasticache/{setup.engine}/{setup.type}"
    return f"{setup.way}/{setup.type}"


def _lines(setup: Setup, bill: _Bill) -> Iterator[Line]:
    yield from _compute(setup, bill)
    if setup.way in (EC2_SPOT, EC2):
        yield from _disks(setup, bill)
    yield from _backups(setup, bill)
    yield from _names(setup, bill)
    yield from _requests(setup, bill)
    yield from _network(setup, bill)
    yield bill.line("other", "CloudWatch alarms", "cloudwatch/alarm", setup.alarms)
    yield bill.line("other", "logs written", "logs/ingest", setup.log_gib)
    yield bill.line("other", "logs kept", "logs/storage", setup.log_gib)
    yield bill.line("other", "functions' memory and time", "lambda/gb_second", setup.function_gb_seconds)
    yield bill.line("other", "advanced parameters", "ssm/advanced", setup.advanced_parameters)
    yield bill.line("other", "KMS keys", "kms/key", setup.keys)
    yield bill.line("other", "images in ECR", "ecr/storage", setup.registry_gib)


def _compute(setup: Setup, bill: _Bill) -> Iterator[Line]:
    hours = setup.hours
    if setup.way in (EC2, EC2_SPOT):
        market = "on Spot" if setup.way == EC2_SPOT else "on demand"
        yield bill.line("compute", f"host, {setup.type} {market}", _key(setup), hours)
        family = setup.type.partition(".")[0]
        yield bill.line("compute", "CPU credits beyond the baseline", f"credits/{family}", setup.surplus_vcpu_hours)
    elif setup.way in (FARGATE, FARGATE_SPOT):
        vcpu, gb = task(setup.type)
        begin = setup.way + ("_arm" if setup.architecture == "arm64" else "")
        yield bill.line("compute", "task, processors", f"{begin}/vcpu", vcpu * hours)
        yield bill.line("compute", "task, memory", f"{begin}/gb", gb * hours)
    elif setup.way == ELASTICACHE:
        # A node cannot be stopped, only deleted.
        yield bill.line("compute", f"node, {setup.type}", _key(setup), MONTH * setup.nodes)
        if setup.extended_support:
            what = "Extended Support, at the most"
            yield bill.line("compute", what, _key(setup), MONTH * setup.nodes, _EXTENDED_SUPPORT)
    else:
        stored = max(setup.data_gib, SERVERLESS_FLOOR[setup.engine])
        yield bill.line("compute", "stored data", f"serverless/{setup.engine}/storage", stored * MONTH)
        asked = setup.requests_per_second * (1 - setup.apcu_share) * setup.hours * 3600
        units = asked * max(setup.request_kib, 1.0)
        yield bill.line("requests", "processing units (ECPU)", f"serverless/{setup.engine}/ecpu", units)


def _disks(setup: Setup, bill: _Bill) -> Iterator[Line]:
    running = setup.hours / MONTH
    yield bill.line("disks", "root volume, while the host runs", "ebs/gp3", setup.root_gib * running)
    kept = 1.0 if setup.volume_at_night else running
    item = "data volume" if setup.volume_at_night else "data volume, while the host runs"
    yield bill.line("disks", item, "ebs/gp3", setup.volume_gib * kept)
    left = setup.losses * setup.superseded_days * _HOURS_A_DAY / MONTH
    yield bill.line("disks", "superseded data volumes", "ebs/gp3", setup.volume_gib * left)
    images = setup.image_gib + (setup.images - 1) * setup.image_change_gib if setup.images else 0.0
    yield bill.line("disks", "snapshots of the host's images", "ebs/snapshot", images)


def _backups(setup: Setup, bill: _Bill) -> Iterator[Line]:
    rdb = setup.data_gib * setup.rdb_share
    # A backup is a whole file written anew, so that each snapshot has it as changed blocks; the first one holds what
    # else lies on the volume, which is about another one.
    held = (setup.snapshots + 1) * rdb if setup.snapshots else 0.0
    yield bill.line("backups", "EBS snapshots of backups", "ebs/snapshot", held)
    daily = setup.lifecycle_snapshots * (setup.daily_change_gib + rdb)
    yield bill.line("backups", "EBS snapshots by AWS's lifecycle policy", "ebs/snapshot", daily)
    yield bill.line("backups", "backups in S3", "s3/storage", setup.backups * rdb)
    yield bill.line("backups", "backups in S3 that are locked", "s3/storage", setup.locked * rdb)


def _names(setup: Setup, bill: _Bill) -> Iterator[Line]:
    yield bill.line("names", "private DNS zone", "route53/zone", setup.zones)
    # A name is asked for when it is needed and not remembered any more.
    wanted = setup.requests_per_second * 3600
    asked = min(3600 / max(setup.name_seconds, 1.0), wanted) * setup.hours * setup.resolvers
    yield bill.line("names", "DNS queries", "route53/query", asked)


# What a billable call is called, by the key of its price.
CALLS = {
    "s3/write": "S3 PUT, COPY, POST, LIST",
    "s3/read": "S3 GET, HEAD",
    "lambda/request": "functions called",
    "sqs/request": "SQS requests",
    "dynamodb/write": "DynamoDB writes",
    "dynamodb/read": "DynamoDB reads",
    "kms/request": "KMS requests",
}


def _requests(setup: Setup, bill: _Bill) -> Iterator[Line]:
    calls = dict(setup.calls)
    if setup.habits is not None:
        done = setup.habits.month(
            hours=setup.hours,
            backups=setup.hours * setup.backups_per_hour,
            kept=setup.backups + setup.locked,
            firsts=setup.locked,
            locks=setup.lock_per_month,
            retentions=setup.retentions,
            losses=setup.losses,
            lease_seconds=setup.lease_seconds,
        )
        for key, count in done.items():
            calls[key] = calls.get(key, 0.0) + count
    unknown = sorted(set(calls) - set(CALLS))
    if unknown:
        raise CostError(f"There is no such billable call as {', '.join(unknown)}: there are {', '.join(CALLS)}.")
    for key, item in CALLS.items():
        yield bill.line("requests", item, key, calls.get(key, 0.0))


def _network(setup: Setup, bill: _Bill) -> Iterator[Line]:
    yield bill.line("network", "public IPv4 addresses", "vpc/ipv4", setup.addresses * setup.hours)
    yield bill.line("network", "NAT gateways", "vpc/nat", setup.nat_gateways * MONTH)
    yield bill.line("network", "traffic through NAT gateways", "vpc/nat_traffic", setup.nat_gib)
    yield bill.line("network", "interface endpoints", "vpc/endpoint", setup.endpoints * MONTH)
    asked = setup.requests_per_second * (1 - setup.apcu_share) * setup.hours * 3600
    crossing = asked * setup.request_kib / _KIB_IN_GIB * setup.other_zone
    # Between two of one's own hosts AWS charges what leaves the one and what enters the other; for ElastiCache only
    # the side of the web server.
    sides = 1 if setup.way in (ELASTICACHE, SERVERLESS) else 2
    yield bill.line("network", "traffic between zones", "transfer/zone", crossing * sides)
    yield bill.line("network", "traffic to the internet", "transfer/internet", setup.internet_gib)


def apcu_saves(setup: Setup, prices: Prices) -> float:
    """What the share of requests that APCu answers saves a month, in USD."""
    return estimate(replace(setup, apcu_share=0.0), prices).usd - estimate(setup, prices).usd
