"""Rows as data, as Markdown and as a table for a terminal."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from spotcache_cost import words
from spotcache_cost.model import GROUPS, Line
from spotcache_cost.prices import Prices, Rate
from spotcache_cost.svg import amount
from spotcache_cost.ways import Row

# The table's columns, by the groups that each adds up.
COLUMNS: Mapping[str, Sequence[str]] = {
    "compute": ("compute",),
    "disks": ("disks",),
    "backups": ("backups",),
    "rest": ("names", "requests", "network", "other"),
}


def _line(line: Line) -> dict[str, Any]:
    return {**vars(line), "date": line.date.isoformat() if line.date else None}


def as_json(rows: Sequence[Row], prices: Prices, rate: Rate, today: date) -> dict[str, Any]:
    """What build/cost/report.json holds."""
    return {
        "made": today.isoformat(),
        "prices": {"date": prices.date.isoformat(), "old": prices.age_words(today)},
        "currency": {
            "name": rate.currency,
            "per_usd": rate.per_usd,
            "source": rate.source,
            "date": rate.date.isoformat() if rate.date else None,
        },
        "rows": [
            {
                "name": words.name(row),
                "way": row.estimate.setup.way,
                "type": row.estimate.setup.type,
                "hours": row.estimate.setup.hours,
                "provided": row.provided,
                "usd": round(row.estimate.usd, 4),
                "amount": round(row.estimate.usd * rate.per_usd, 2),
                "groups": {group: round(row.estimate.group(group), 4) for group in GROUPS},
                "unknown": list(row.estimate.unknown),
                "interrupted_percent_a_month": row.band,
                "inventory": dict(row.inventory),
                "lines": [_line(line) for line in row.estimate.lines],
            }
            for row in rows
        ],
    }


def _cells(row: Row) -> list[str]:
    sums = [sum(row.estimate.group(group) for group in groups) for groups in COLUMNS.values()]
    return [f"{value:.2f}" if value >= 0.005 else "–" for value in sums]


def _sum(row: Row) -> str:
    return f"{row.estimate.usd:.2f}" + ("+" if row.estimate.unknown else "")


def markdown(rows: Sequence[Row], rate: Rate, language: str = "en") -> str:
    """A table for a README: dollars by their parts, and the sum in the currency as well."""
    head = ["", *(words.column(key, language) for key in COLUMNS), words.column("usd", language), rate.currency]
    body = [
        [
            words.name(row, language),
            *_cells(row),
            _sum(row),
            f"{row.estimate.usd * rate.per_usd:,.0f}",
        ]
        for row in rows
    ]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines).replace("|  |", "| |") + "\n"


def show(rows: Sequence[Row], prices: Prices, rate: Rate, today: date) -> None:
    """The table in a terminal.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    # Narrower it could not be read: a terminal that is breaks the lines by itself.
    console.width = max(console.width, 100)
    table = Table(title="What a Redis costs a month", title_justify="left", box=None, pad_edge=False)
    table.add_column("way", no_wrap=True)
    for key in COLUMNS:
        table.add_column(words.column(key), justify="right")
    table.add_column("USD", justify="right", style="bold")
    if rate.currency != "USD":
        table.add_column(rate.currency, justify="right")
    table.add_column("taken back", justify="right")
    for row in rows:
        cells = [words.name(row), *_cells(row), _sum(row)]
        if rate.currency != "USD":
            cells.append(amount(row.estimate.usd, rate).split()[0])
        cells.append(f"{row.band} %" if row.band else "–")
        table.add_row(*cells)
    console.print(table)
    for said in remarks(rows, prices, rate, today):
        console.print(said, soft_wrap=True, highlight=False)


def remarks(rows: Sequence[Row], prices: Prices, rate: Rate, today: date) -> list[str]:
    """What has to be said below the table."""
    said = [
        f"USD a month without tax and free tier; prices of {prices.date} and before, each with its source in --json."
    ]
    if rate.currency != "USD":
        when = f" of {rate.date}" if rate.date else ""
        said.append(f"One USD is {rate.per_usd:g} {rate.currency} ({rate.source}{when}).")
    if any(row.band for row in rows):
        said.append(
            "taken back: of a hundred Spot hosts of the type EC2 ends so many in a month "
            f"({prices.interruptions_source})."
        )
    unknown = sorted({item for row in rows for item in row.estimate.unknown})
    if unknown:
        said.append(f"+ billed as well, at a price that was found nowhere in print: {', '.join(unknown)}.")
    if any(not row.provided for row in rows):
        said.append("spotcache sets up what is called `this`; the others are there to compare.")
    old = prices.age_words(today)
    return [*said, old] if old else said
