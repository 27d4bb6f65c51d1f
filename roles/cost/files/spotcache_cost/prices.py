"""Prices with their unit, source and date, as they stand in a file that is dated as a whole.

A price that is not in the file is unknown, never nothing.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from spotcache_cost.errors import CostError

DATA = Path(__file__).parent / "data"
SNAPSHOT = DATA / "prices.json"
# The prices of the table that the project began with.
NOTE = DATA / "prices-2021.json"
# Spot prices move within weeks, lists within years: after so many days a snapshot is said to be old.
OLD_DAYS = 90


@dataclass(frozen=True)
class Price:
    """One price.

    Attributes:
        usd: for one unit.
        unit: of what.
        source: where it was read.
        date: of which day it is; None where its source has none.
        zones: what single Availability Zones ask, where they differ.
    """

    usd: float
    unit: str
    source: str
    date: date | None = None
    zones: Mapping[str, float] = field(default_factory=dict)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest price of any zone."""
        found = list(self.zones.values()) or [self.usd]
        return min(found), max(found)


@dataclass(frozen=True)
class Rate:
    """What a dollar is in another currency."""

    currency: str
    per_usd: float
    source: str
    date: date | None = None


DOLLARS = Rate("USD", 1.0, "AWS's own currency")


@dataclass(frozen=True)
class Prices:
    """A file of prices.

    Attributes:
        date: when it was made.
        regions: by region, a price by its key such as `ec2_spot/t3.micro`.
        names: of the regions, for people.
        rates: of currencies.
        interruptions: how many of a hundred Spot hosts of a type EC2 takes back in a month, by region and type, as the
            Spot Instance Advisor has it.
        interruptions_source: where that was read, with its date.
    """

    date: date
    regions: Mapping[str, Mapping[str, Price]]
    names: Mapping[str, str]
    rates: Mapping[str, Rate]
    interruptions: Mapping[str, Mapping[str, str]]
    interruptions_source: str = ""

    def of(self, region: str) -> Mapping[str, Price]:
        """The prices of a region.

        Raises:
            CostError: there are none.
        """
        if region not in self.regions:
            known = ", ".join(sorted(self.regions))
            raise CostError(
                f"There are no prices of the region {region or '(none)'}: name one of {known}, or fetch them with "
                f"./spotcache cost --update-prices --region {region or 'REGION'}."
            )
        return self.regions[region]

    def types(self, region: str, begin: str) -> list[str]:
        """What there are prices of below a key such as `ec2_spot/`."""
        return sorted(key.removeprefix(begin) for key in self.of(region) if key.startswith(begin))

    def band(self, region: str, kind: str) -> str:
        """How many of a hundred Spot hosts of this type are taken back in a month; empty where it is not known."""
        return self.interruptions.get(region, {}).get(kind, "")

    def age_words(self, today: datetime.date) -> str:
        """A sentence when the file is old; empty while it is not."""
        days = (today - self.date).days
        if days <= OLD_DAYS:
            return ""
        return (
            f"These prices are of {self.date}, {days} days old: ./spotcache cost --update-prices fetches today's with "
            "AWS credentials that may call pricing:GetProducts."
        )


def _day(text: Any) -> date | None:
    return date.fromisoformat(str(text)) if text else None


def from_data(data: Mapping[str, Any]) -> Prices:
    """Prices as the JSON of a file says them.

    Raises:
        CostError: it says something else.
    """
    try:
        sources = {name: (str(one["what"]), _day(one["date"])) for name, one in data["sources"].items()}

        def price(row: Mapping[str, Any]) -> Price:
            what, day = sources[row["source"]]
            return Price(
                float(row["usd"]), str(row["unit"]), what, _day(row.get("date")) or day, row.get("zones") or {}
            )

        regions = {
            region: {key: price(row) for key, row in part["prices"].items()} for region, part in data["regions"].items()
        }
        rates = {}
        for currency, row in data["currencies"].items():
            what, day = sources[row["source"]]
            rates[currency] = Rate(currency, float(row["rate"]), what, _day(row.get("date")) or day)
        told, when = sources[data["interruptions"]["source"]]
        return Prices(
            date=date.fromisoformat(data["date"]),
            regions=regions,
            names={region: str(part["name"]) for region, part in data["regions"].items()},
            rates=rates,
            interruptions=data["interruptions"]["regions"],
            interruptions_source=f"{told}, {when}",
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CostError(
            f"This is no file of prices: {type(error).__name__} {error}. Take a copy of {SNAPSHOT}."
        ) from error


def load(path: Path = SNAPSHOT) -> Prices:
    """The prices of a file.

    Raises:
        CostError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CostError(f"The prices in {path} cannot be read: {error}.") from error
    return from_data(data)


def rate(prices: Prices, currency: str, per_usd: float | None = None, day: str = "") -> Rate:
    """What to multiply dollars by.

    Args:
        prices: that know rates of their own.
        currency: by its three letters.
        per_usd: a rate of one's own; None for the one of the file.
        day: of which day a rate of one's own is, as YYYY-MM-DD.

    Raises:
        CostError: there is no rate, or it is none.
    """
    name = currency.upper()
    if per_usd is None:
        if name == "USD":
            return DOLLARS
        if name not in prices.rates:
            raise CostError(f"There is no rate for {currency}: give cost_rate, what one USD is in it, and its date.")
        return prices.rates[name]
    if not 0 < per_usd < 1e6:
        raise CostError(f"cost_rate is {per_usd:g}. Give what one USD is in {name}, for example 157.25.")
    try:
        return Rate(name, per_usd, "given", _day(day))
    except ValueError:
        raise CostError(f"cost_rate_date is {day}. Give a day as YYYY-MM-DD.") from None
