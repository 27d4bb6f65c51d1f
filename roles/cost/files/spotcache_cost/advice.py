"""Which way to take: what each of them would mean for what is asked for, and the cheapest that will do."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spotcache_cost import words
from spotcache_cost.drills import KILL, NOTICE, NOTICE_SECONDS, Drill, Drills
from spotcache_cost.environments import ZONE_SHARES
from spotcache_cost.errors import CostError
from spotcache_cost.habits import Habits
from spotcache_cost.hours import MONTH
from spotcache_cost.kinds import KINDS
from spotcache_cost.model import EC2, EC2_SPOT, ELASTICACHE, FARGATE, FARGATE_SPOT, SERVERLESS, estimate
from spotcache_cost.prices import Prices
from spotcache_cost.ways import Asked, Row, rows

LOSSES = ("nothing", "minutes", "everything")
OPERATORS = ("team", "nobody")
# So much dearer may a managed one be, in USD a month, before work of one's own is worth it: an hour of anybody's time
# costs more.
_NEAR_USD = 2.0


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What is asked of it, beside size and hours.

    Attributes:
        may_lose: how much of the data may be lost at worst, one of `LOSSES`.
        operator: who looks after it, one of `OPERATORS`.
        tls: clients must be able to connect by TLS.
        failover: another one must be ready at any time.
        growth: of the data in a year, in percent.
    """

    may_lose: str = "minutes"
    operator: str = "team"
    tls: bool = False
    failover: bool = False
    growth: float = 0.0


@dataclass(frozen=True)
class Choice:
    """A way, judged.

    Attributes:
        row: what it is and costs.
        against: why it will not do; empty when it will.
        risk: what is to be expected of it.
        zones: what it costs with a DNS zone of its own, with a shared one, and with one that is paid for anyway. Empty
            where it needs none.
    """

    row: Row
    against: tuple[str, ...]
    risk: str
    zones: tuple[float, ...] = ()

    @property
    def will_do(self) -> bool:
        """Whether it meets what is asked for."""
        return not self.against


def _against(row: Row, demands: Demands) -> Iterator[str]:
    way = row.estimate.setup.way
    own = way in (EC2, EC2_SPOT)
    if own or way in (FARGATE, FARGATE_SPOT):
        if demands.failover:
            yield "there is one host, and the next one is launched when it is lost"
        if demands.tls and not own:
            yield "its Redis speaks without TLS, inside the VPC"
        if demands.operator == "nobody":
            yield "somebody has to look after it"
    if own and demands.may_lose == "nothing":
        yield "a host that ends without a notice takes what was written since the last save along"
    if way in (FARGATE, FARGATE_SPOT) and demands.may_lose != "everything":
        yield "a task keeps nothing when it ends"
    if way == ELASTICACHE:
        if demands.may_lose == "nothing":
            yield "a node that is replaced begins with its daily backup, or with nothing"
        if demands.may_lose == "minutes" and row.estimate.setup.nodes < 2:
            yield "a single node that is replaced begins with a backup of the day, or with nothing"
    if way == SERVERLESS and demands.may_lose == "nothing":
        yield "it is replicated, and promises no write"


def _felt(measured: Drill | None, more: str = "") -> str:
    """How long there is no service."""
    return (
        f"{measured.outage_s:.0f} s without service{more}"
        if measured
        else "no drill has measured how long without service"
    )


def _own_risk(row: Row, measured: Drills, interval: str) -> str:
    """Of a host of one's own."""
    unnoticed = measured.measured.get(KILL)
    lost = (
        f"{_felt(unnoticed)} when it ends without a notice, and at worst what was written since the last backup "
        f"({interval}) or save is lost"
    )
    if unnoticed:
        lost += f": {unnoticed.oldest_lost_s:.0f} s of it in the drill"
    kind = KINDS.get(row.estimate.setup.type)
    if kind is not None and kind.gib <= 1:
        lost += f"; {kind.name} has {kind.gib:g} GiB for Docker, Redis and its fork, and provision warns of that"
    if row.estimate.setup.way == EC2:
        return lost
    noticed = measured.measured.get(NOTICE)
    taken = (
        f"EC2 takes back {row.band} % of these hosts a month"
        if row.band
        else "how often EC2 takes such hosts back is not known"
    )
    gone = f"{noticed.lost} writes lost" if noticed and noticed.lost else "nothing lost"
    return f"{taken}: {_felt(noticed, f', {NOTICE_SECONDS:.0f} of them the notice')}, and {gone}; {lost}"


def _risk(row: Row, measured: Drills, interval: str) -> str:
    setup = row.estimate.setup
    if setup.way in (EC2, EC2_SPOT):
        return _own_risk(row, measured, interval)
    said = measured.documented[f"{setup.way}_replicated" if setup.nodes > 1 else setup.way]
    grows = "; what it grows to is billed, so set a maximum" if setup.way == SERVERLESS else ""
    return f"{said.felt}; lost at worst: {said.lost}{grows}"


def sources(choices: Sequence[Choice], measured: Drills) -> Iterator[str]:
    """Where what is said of risks comes from, of which day it is, one line each."""
    ways = {one.row.estimate.setup.way for one in choices}
    if ways & {EC2, EC2_SPOT}:
        for drill in measured.measured.values():
            yield f"Measured in {drill.where} on {drill.date}, {drill.runs} runs: {drill.source}."
    seen = {
        said.source: said.date for way, said in measured.documented.items() if way.removesuffix("_replicated") in ways
    }
    yield from (f"Not measured here, read on {day}: {source}." for source, day in seen.items())


def judge(asked: Asked, demands: Demands, prices: Prices, habits: Habits | None, measured: Drills) -> list[Choice]:
    """Every way, those that will do first, and among them the cheapest first.

    Raises:
        CostError: a demand is none, or nothing fits.
    """
    if demands.may_lose not in LOSSES:
        raise CostError(f"may_lose is {demands.may_lose!r}. Give one of {', '.join(LOSSES)}.")
    if demands.operator not in OPERATORS:
        raise CostError(f"operator is {demands.operator!r}. Give one of {', '.join(OPERATORS)}.")
    if not -100 < demands.growth <= 1000:
        raise CostError(f"growth is {demands.growth:g}. Give percent a year, for example 30.")
    grown = replace(asked, data_gib=asked.data_gib * (1 + max(demands.growth, 0.0) / 100))
    runs_always = grown.options.hours >= MONTH - 1
    found = []
    for row in rows(grown, prices, habits):
        setup = row.estimate.setup
        if setup.way == SERVERLESS and setup.data_gib < grown.data_gib:
            # The floor stands in the table to compare, and holds less than is asked for.
            continue
        if row.key.endswith(("_working", "_lean")) if runs_always else row.key == "ec2_spot_always":
            continue
        judged = row
        if setup.way == ELASTICACHE and (demands.failover or demands.may_lose == "minutes"):
            judged = replace(row, estimate=estimate(replace(setup, nodes=2), prices))
        if demands.tls and judged.provided:
            judged = replace(judged, inventory={**judged.inventory, "redis_tls": True})
        risk = _risk(judged, measured, grown.options.keeper_backup_interval)
        zones = _zones(judged, grown.options.zone_shares or ZONE_SHARES, prices) if judged.estimate.setup.zones else ()
        found.append(Choice(judged, tuple(_against(judged, demands)), risk, zones))
    return sorted(found, key=lambda one: (not one.will_do, one.row.estimate.usd))


def _zones(row: Row, shares: float, prices: Prices) -> tuple[float, ...]:
    """USD a month with a zone of its own, with one that so many environments share, and with one that is there."""
    return tuple(estimate(replace(row.estimate.setup, zones=part), prices).usd for part in (1.0, 1 / shares, 0.0))


def _inventory(variables: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in variables.items()]


def text(choices: Sequence[Choice], amount: Any, measured: Drills, shares: float = ZONE_SHARES) -> list[str]:
    """The ranking, for a person.

    Args:
        choices: as `judge` ranks them.
        amount: what an amount of dollars is called.
        measured: what risks were said by.
        shares: environments that share a zone.
    """
    good = [one for one in choices if one.will_do]
    if not good:
        lines = ["Nothing that was compared does all of that. What stands against each:"]
        return lines + [f"  {words.name(one.row)}: {'; '.join(one.against)}" for one in choices]
    best = good[0]
    lines = [f"Take {words.name(best.row)}: {amount(best.row.estimate.usd)} a month."]
    near = next(
        (one for one in good if not one.row.provided and one.row.estimate.usd - best.row.estimate.usd < _NEAR_USD), None
    )
    if best.row.provided and near is not None:
        more = near.row.estimate.usd - best.row.estimate.usd
        same = " Its engine is the one of hosts of Debian 13 (redis_engine: valkey)."
        lines.append(
            f"Think about {words.name(near.row)} all the same: it costs {amount(more)} a month more, and nobody has to "
            f"look after it.{same if near.row.values.get('engine') == 'valkey' else ''}"
        )
    if best.zones:
        own, shared, anyway = map(amount, best.zones)
        lines.append(
            f"Of that the DNS zone is a choice: {own} with one of its own, {shared} with one that {shares:g} "
            f"environments share (network_dns_zone_shared: true), {anyway} with one that is paid for anyway."
        )
    if not best.row.provided:
        lines.append("spotcache does not set that up: make it with AWS's console or your own Terraform.")
    lines.append("")
    for number, one in enumerate(good, start=1):
        lines.append(f"{number}. {words.name(one.row)}: {amount(one.row.estimate.usd)} a month")
        lines.append(f"   {one.risk}.")
    bad = [one for one in choices if not one.will_do]
    if bad:
        lines += ["", "Will not do:"]
        lines += [f"   {words.name(one.row)}, {amount(one.row.estimate.usd)}: {'; '.join(one.against)}." for one in bad]
    lines += ["", *sources(good, measured)]
    if best.row.provided:
        lines += ["", "For the inventory:", *(f"   {line}" for line in _inventory(best.row.inventory))]
    return lines
