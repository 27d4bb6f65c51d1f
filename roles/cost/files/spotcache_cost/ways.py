"""The ways to have a Redis, beside each other: rows of the table, each with its estimate and its risk."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from spotcache_cost.environments import LEAN, Options, ec2, managed
from spotcache_cost.errors import CostError
from spotcache_cost.habits import Habits
from spotcache_cost.hours import MONTH
from spotcache_cost.kinds import KINDS, Kind
from spotcache_cost.model import (
    EC2,
    EC2_SPOT,
    ELASTICACHE,
    FARGATE,
    FARGATE_SPOT,
    PROVIDED,
    SERVERLESS,
    SERVERLESS_FLOOR,
    Estimate,
    Setup,
    estimate,
)
from spotcache_cost.prices import Prices

WORKING_HOURS: Mapping[str, Any] = {key: LEAN[key] for key in ("schedule_start", "schedule_stop", "schedule_days")}
# vCPU/GB that Fargate has, the smaller ones.
_TASKS = ("0.25/0.5", "0.25/1", "0.25/2", "0.5/2", "0.5/3", "0.5/4", "1/4", "1/6", "1/8", "2/12", "2/16")


@dataclass(frozen=True)
class Row:
    """One way.

    Attributes:
        key: of its name, see `text`.
        values: that its name is made of.
        estimate: what it costs.
        band: how many of a hundred hosts EC2 takes back in a month; empty where none can be taken or it is not known.
        inventory: the variables that make an environment so.
    """

    key: str
    values: Mapping[str, str]
    estimate: Estimate
    band: str = ""
    inventory: Mapping[str, Any] = field(default_factory=dict)

    @property
    def provided(self) -> bool:
        """Whether `provision` sets it up."""
        return self.estimate.setup.way in PROVIDED


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is known of an environment before it is there.

    Attributes:
        region: AWS's name of it.
        data_gib: in Redis' memory.
        requests_per_second: on average, while it runs.
        request_kib: that a request and its answer carry.
        other_zone: which part of them comes from another zone.
        apcu_share: which part of them APCu answers.
        options: of the inventory.
    """

    region: str = "ap-northeast-1"
    data_gib: float = 0.35
    requests_per_second: float = 1.0
    request_kib: float = 1.0
    other_zone: float = 0.5
    apcu_share: float = 0.0
    options: Options = field(default_factory=Options)

    def setup(self, way: str, **more: Any) -> Setup:
        """The part of a setup that all ways share."""
        return Setup(
            way=way,
            region=self.region,
            data_gib=self.data_gib,
            requests_per_second=self.requests_per_second,
            request_kib=self.request_kib,
            other_zone=self.other_zone,
            apcu_share=self.apcu_share,
            **more,
        )


def fitting(prices: Prices, region: str, begin: str, data_gib: float, architecture: str = "") -> list[Kind]:
    """Types with a price that hold so much data, the cheapest first."""
    there = [KINDS[name] for name in prices.types(region, begin) if name in KINDS]
    if begin in (f"{EC2}/", f"{EC2_SPOT}/"):
        # The engine and the keeper leave too little of half a GiB to say anything for it.
        there = [one for one in there if one.gib >= 1]
    fit = [one for one in there if one.data_gib >= data_gib and architecture in ("", one.architecture)]
    return sorted(fit, key=lambda one: prices.of(region)[f"{begin}{one.name}"].usd)


def _hosts(prices: Prices, asked: Asked, way: str) -> Iterator[tuple[Kind, Sequence[str]]]:
    """Types, with the ways to run them that are worth a row: of Intel's the two smallest, of Graviton the smallest."""
    begin = f"{way}/"
    intel = [
        one for one in fitting(prices, asked.region, begin, asked.data_gib, "x86_64") if one.name.startswith("t3.")
    ]
    if way == EC2:
        yield from ((one, ("always",)) for one in intel[:1])
        return
    yield from zip(intel, (("always", "working", "lean"), ("always", "working")), strict=False)
    yield from ((one, ("always",)) for one in fitting(prices, asked.region, begin, asked.data_gib, "arm64")[:1])


def hours_of(chosen: Options) -> Mapping[str, Any]:
    """The variables of the hours that an inventory says, or of a usual week."""
    if chosen.hours_a_week:
        return {"hours_a_week": chosen.hours_a_week}
    if chosen.schedule_start and chosen.schedule_stop:
        return {name: getattr(chosen, name) for name in WORKING_HOURS}
    return WORKING_HOURS


def on_ec2(asked: Asked, prices: Prices, habits: Habits | None) -> Iterator[Row]:
    """What `provision` sets up: always, in working hours, and lean."""
    always = replace(asked.options, schedule_start="", schedule_stop="", hours_a_week=0)
    working = hours_of(asked.options)
    variants: list[tuple[str, Mapping[str, Any]]] = [
        ("always", {}),
        ("working", working),
        ("lean", {name: value for name, value in LEAN.items() if name not in WORKING_HOURS} | dict(working)),
    ]
    for way in (EC2_SPOT, EC2):
        for one, wanted in _hosts(prices, asked, way):
            for key, variables in variants:
                if key not in wanted:
                    continue
                band = prices.band(asked.region, one.name) if way == EC2_SPOT else ""
                chosen = replace(always, **variables)
                setup = ec2(asked.setup(way, type=one.name), chosen, band=band, habits=habits)
                inventory = {"spotcache_backend": way, "spot_host_instance_types": [one.name]} | {
                    name: list(value) if isinstance(value, tuple) else value
                    for name, value in variables.items()
                    if name != "hours_a_week"
                }
                values = {"type": one.name, "gib": f"{one.gib:g}"}
                yield Row(f"{way}_{key}", values, estimate(setup, prices), band, inventory)


def elsewhere(asked: Asked, prices: Prices) -> Iterator[Row]:
    """What AWS manages, and what runs in a container of its own."""
    for engine in ("valkey", "redis"):
        floor = SERVERLESS_FLOOR[engine]
        if f"serverless/{engine}/storage" in prices.of(asked.region):
            setup = managed(asked.setup(SERVERLESS, engine=engine))
            yield Row(
                "serverless", {"engine": engine, "gib": f"{max(floor, asked.data_gib):g}"}, estimate(setup, prices)
            )
            if asked.data_gib > floor and engine == "valkey":
                smallest = replace(setup, data_gib=floor)
                yield Row("serverless", {"engine": engine, "gib": f"{floor:g}"}, estimate(smallest, prices))
    for engine in ("valkey", "redis"):
        fit = fitting(prices, asked.region, f"elasticache/{engine}/", asked.data_gib)
        # Of Redis also the node that everybody knows the price of.
        known = [one for one in fit[1:] if engine == "redis" and one.name == "cache.t3.small"]
        for one in [*fit[:1], *known]:
            setup = managed(asked.setup(ELASTICACHE, engine=engine, type=one.name))
            values = {"engine": engine, "type": one.name, "gib": f"{one.gib:g}"}
            yield Row("elasticache", values, estimate(setup, prices))
    for way in (FARGATE, FARGATE_SPOT):
        if f"{way}/vcpu" not in prices.of(asked.region):
            continue
        for size in _TASKS:
            try:
                setup = managed(asked.setup(way, type=size))
                yield Row(way, {"type": size}, estimate(setup, prices))
            except CostError:
                # The data does not fit: the next size.
                continue
            break


def rows(asked: Asked, prices: Prices, habits: Habits | None) -> list[Row]:
    """All ways, the cheapest first.

    Raises:
        CostError: none fits, or something cannot be.
    """
    found = [*on_ec2(asked, prices, habits), *elsewhere(asked, prices)]
    if not found:
        raise CostError(f"Nothing that there is a price of holds {asked.data_gib:g} GiB of data in {asked.region}.")
    return sorted(found, key=lambda row: row.estimate.usd)


# The five rows of the table that the project began with.
NOTE_ROWS: Sequence[tuple[str, str, str]] = (
    ("elasticache", ELASTICACHE, "cache.t3.small"),
    ("fargate", FARGATE, "1/2"),
    ("fargate_spot", FARGATE_SPOT, "1/2"),
    ("ec2_bare", EC2, "t3.micro"),
    ("ec2_spot_bare", EC2_SPOT, "t3.micro"),
)


def note(prices: Prices, region: str = "ap-northeast-1") -> list[Row]:
    """The note's table: compute alone, 730 hours, nothing beside it."""
    found = []
    for key, way, kind in NOTE_ROWS:
        setup = Setup(way=way, region=region, type=kind, engine="redis", hours=MONTH)
        values = {"type": kind, "engine": "redis", "gib": f"{KINDS[kind].gib:g}" if kind in KINDS else ""}
        found.append(Row(key, values, estimate(setup, prices)))
    return found
