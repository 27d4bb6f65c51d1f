"""The command line of `./spotcache cost`."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from spotcache_cost import advice, drills, habits, live, prices, report, standing, svg, ways, words
from spotcache_cost.environments import ZONE_SHARES, Options, ec2, options
from spotcache_cost.errors import CostError
from spotcache_cost.hours import of_week
from spotcache_cost.kinds import KINDS
from spotcache_cost.model import WAYS, Setup, estimate

FOLDER = Path("build/cost")
DESCRIPTION = """What a Redis costs a month, each way to have it, before anything is bought. With -i INVENTORY what an
environment costs as it stands. Amounts are USD without tax and free tier."""


def default_currency(environment: Mapping[str, str]) -> str:
    """Yen where the locale is Japanese, else dollars."""
    for name in ("LC_ALL", "LC_MONETARY", "LANG"):
        if environment.get(name):
            return "JPY" if environment[name].lower().startswith("ja") else "USD"
    return "USD"


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="./spotcache cost", description=DESCRIPTION)
    what = made.add_argument_group("the environment")
    what.add_argument("--region", default="ap-northeast-1", help="AWS region (default: ap-northeast-1)")
    what.add_argument("--data-gib", type=float, help="data in Redis' memory (default: 0.35)")
    what.add_argument("--hours-a-week", type=float, help="in which it runs (default: always, and 55 beside it)")
    what.add_argument("--requests-per-second", type=float, help="to Redis, on average (default: 1)")
    what.add_argument("--request-kib", type=float, default=1.0, help="that one carries with its answer (default: 1)")
    what.add_argument("--other-zone", type=float, default=0.5, help="part of them from another zone (default: 0.5)")
    what.add_argument("--apcu-share", type=float, default=0.0, help="part of them that APCu answers (default: 0)")
    what.add_argument(
        "--zone-shares",
        type=float,
        help="environments that share the DNS zone, 0: paid anyway (default: 3, where lean)",
    )
    what.add_argument("--type", help="one type alone, line by line; with --way")
    what.add_argument("--way", default="ec2_spot", choices=WAYS, help="of --type (default: ec2_spot)")
    told = made.add_argument_group("the answer")
    told.add_argument(
        "--json", action="store_true", help=f"write {FOLDER}/report.json, with every line, price and source"
    )
    told.add_argument("--svg", action="store_true", help=f"write {FOLDER}/report.svg")
    told.add_argument("--markdown", choices=words.LANGUAGES, help="print the table for a README")
    told.add_argument("--note", action="store_true", help="the table that the project began with, then and now")
    told.add_argument(
        "--currency", help="three letters, as cost_currency (default: JPY with a Japanese locale, else USD)"
    )
    told.add_argument("--rate", type=float, help="what one USD is in it, as cost_rate")
    told.add_argument("--rate-date", default="", help="of which day that is")
    told.add_argument(
        "--prices", type=Path, default=prices.SNAPSHOT, help="a file of prices (default: the project's own)"
    )
    told.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    told.add_argument("--update-prices", action="store_true", help="fetch today's of --region with AWS credentials")
    how = made.add_argument_group("advice")
    how.add_argument(
        "--advise", action="store_true", help="which way to take; asks on a terminal for what is not given"
    )
    how.add_argument("--drills", type=Path, default=drills.SNAPSHOT, help="a file of what drills measured")
    how.add_argument(
        "--update-drills", type=Path, nargs="+", metavar="REPORT", help="write reports of drills into that file"
    )
    how.add_argument("--may-lose", choices=advice.LOSSES, help="how much of the data may be lost at worst")
    how.add_argument("--operator", choices=advice.OPERATORS, help="who looks after it")
    how.add_argument("--tls", choices=("yes", "no"), help="clients must connect by TLS")
    how.add_argument("--failover", choices=("yes", "no"), help="another one must be ready at any time")
    how.add_argument("--growth", type=float, help="of the data, percent a year")
    return made


# What is asked on a terminal: option, question, and what is taken when nothing is said.
QUESTIONS: Sequence[tuple[str, str, str]] = (
    ("data_gib", "GiB of data in Redis", "0.35"),
    ("may_lose", "How much may be lost at worst: nothing, minutes, everything", "minutes"),
    ("hours_a_week", "Hours a week in which it runs (168: always)", "168"),
    ("requests_per_second", "Requests a second, on average", "1"),
    ("operator", "Who looks after it: team, nobody", "team"),
    ("tls", "Must clients connect by TLS: yes, no", "no"),
    ("failover", "Must another one be ready at any time: yes, no", "no"),
    ("growth", "Growth of the data, percent a year", "0"),
)
_NUMBERS = ("data_gib", "hours_a_week", "requests_per_second", "growth")


def ask(asked: argparse.Namespace, answer: Callable[[str], str] | None) -> None:
    """Fill in what was not given: by asking, or with what is usual.

    Raises:
        CostError: an answer is no number.
    """
    for name, question, usual in QUESTIONS:
        if getattr(asked, name) is not None:
            continue
        said = (answer(f"{question} [{usual}]: ").strip() if answer else "") or usual
        if name in _NUMBERS:
            try:
                setattr(asked, name, float(said))
            except ValueError:
                raise CostError(f"{question}: {said!r} is no number.") from None
        elif name in ("tls", "failover") and said not in ("yes", "no"):
            raise CostError(f"{question}: {said!r} is neither.")
        else:
            setattr(asked, name, said)


def asked_of(given: argparse.Namespace) -> ways.Asked:
    """The environment that the options describe.

    Raises:
        CostError: one of them cannot be.
    """
    data = 0.35 if given.data_gib is None else given.data_gib
    if not 0 < data < 1e6:
        raise CostError(f"--data-gib is {data:g}. Give GiB of data, for example 0.35.")
    if given.zone_shares is not None and not 0 <= given.zone_shares < 1e6:
        raise CostError(f"--zone-shares is {given.zone_shares:g}. Give how many environments share the zone.")
    zone: dict[str, Any] = (
        {} if given.zone_shares is None else {"network_dns_zone_shared": True, "zone_shares": given.zone_shares}
    )
    week = given.hours_a_week or 0.0
    if given.hours_a_week is not None:
        of_week(week)
    return ways.Asked(
        region=given.region,
        data_gib=data,
        requests_per_second=1.0 if given.requests_per_second is None else given.requests_per_second,
        request_kib=given.request_kib,
        other_zone=given.other_zone,
        apcu_share=given.apcu_share,
        options=Options(hours_a_week=week, **zone),
    )


def _one(given: argparse.Namespace, found: prices.Prices) -> list[ways.Row]:
    """The one type that was asked for."""
    asked = asked_of(given)
    setup: Setup = asked.setup(given.way, type=given.type)
    band = ""
    if given.way in ("ec2", "ec2_spot"):
        band = found.band(given.region, given.type) if given.way == "ec2_spot" else ""
        setup = ec2(setup, asked.options, band=band, habits=habits.load())
    done = estimate(setup, found)
    always = setup.hours > 729
    key = {"elasticache_serverless": "serverless", "ec2": "ec2_always"}.get(given.way, given.way)
    key = ("ec2_spot_always" if always else "ec2_spot_working") if key == "ec2_spot" else key
    gib = f"{KINDS[given.type].gib:g}" if given.type in KINDS else given.type
    return [ways.Row(key, {"type": given.type, "gib": gib, "engine": setup.engine}, done, band)]


def _lines(rows: Sequence[ways.Row], rate: prices.Rate) -> None:
    """Every line of a row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, side in (
        ("what", "left"),
        ("a month", "right"),
        ("unit", "left"),
        ("USD a unit", "right"),
        ("USD", "right"),
        ("price of", "left"),
    ):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for line in rows[0].estimate.lines:
        cells = [line.item, f"{line.quantity:,.2f}", line.unit]
        cells.append("unknown" if line.price is None else f"{line.price:.10f}".rstrip("0"))
        cells.append("unknown" if line.amount is None else f"{line.amount:.4f}")
        table.add_row(*cells, line.date.isoformat() if line.date else "undated")
    table.add_row(
        words.name(rows[0]), "", "", "", f"{rows[0].estimate.usd:.4f}", svg.amount(rows[0].estimate.usd, rate)
    )
    Console().print(table)


def _note() -> None:
    """The project's first table, then and now."""
    then, now = prices.load(prices.NOTE), prices.load()
    for title, book in (("Spring 2021", then), ("Today", now)):
        rate = book.rates["JPY"]
        print(f"{title}: 730 hours, {rate.per_usd:g} JPY to the dollar, the bare host, task or node")
        for row in ways.note(book):
            print(f"  {words.name(row):<50} {row.estimate.usd * rate.per_usd:>8,.0f} JPY")


def update(path: Path, region: str, client: live.Client) -> None:
    """Write today's prices of a region into a file, and say what moved.

    Raises:
        CostError: AWS does not give them, or the file is none.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    prices.load(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    try:
        done = live.renew(data, region, client, datetime.datetime.now(datetime.UTC))
    except (BotoCoreError, ClientError) as error:
        raise CostError(
            f"AWS does not give its prices: {error}. They need credentials that may call pricing:GetProducts and "
            "ec2:DescribeSpotPriceHistory: docs/iam/operator-cost-policy.json."
        ) from error
    prices.from_data(done.data)
    try:
        path.write_text(live.text_of(done.data), encoding="utf-8")
    except OSError as error:
        raise CostError(f"{path} cannot be written: {error.strerror}. Name another file with --prices.") from error
    for key, (before, now) in done.changed.items():
        print(f"{key}: {'new' if before is None else f'{before:.10g}'} -> {now:.10g}")
    print(f"{len(done.changed)} prices of {region} moved.")
    if done.kept:
        print(f"AWS's list has no single price of these, which stay as they were: {', '.join(done.kept)}.")
    print(f"Not in AWS's list, and as they were: {', '.join(live.ELSEWHERE.values())}.")


def sdk(service: str, region: str) -> Any:
    """The SDK's client."""
    import boto3

    return boto3.client(service, region_name=region)


def run(given: argparse.Namespace, today: date, answer: Callable[[str], str] | None) -> None:
    """Do what was asked for.

    Raises:
        CostError: it cannot be.
    """
    if given.note:
        _note()
        return
    if given.update_prices:
        update(given.prices, given.region, sdk)
        return
    if given.update_drills:
        drills.update(given.drills, given.update_drills)
        return
    found = prices.load(given.prices)
    currency = given.currency or default_currency(os.environ)
    rate = prices.rate(found, currency, given.rate, given.rate_date)
    if given.advise:
        ask(given, answer)
        demands = advice.Demands(
            may_lose=given.may_lose,
            operator=given.operator,
            tls=given.tls == "yes",
            failover=given.failover == "yes",
            growth=given.growth,
        )
        asked = asked_of(given)
        if given.hours_a_week >= 168:
            asked = replace(asked, options=replace(asked.options, hours_a_week=0))
        measured = drills.load(given.drills)
        choices = advice.judge(asked, demands, found, habits.load(), measured)
        shares = asked.options.zone_shares or ZONE_SHARES
        print("\n".join(advice.text(choices, lambda usd: svg.amount(usd, rate), measured, shares)))
        if old := found.age_words(today):
            print(f"\n{old}")
        return
    rows = _one(given, found) if given.type else ways.rows(asked_of(given), found, habits.load())
    if given.json:
        given.folder.mkdir(parents=True, exist_ok=True)
        data = report.as_json(rows, found, rate, today)
        (given.folder / "report.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        print(given.folder / "report.json")
    if given.svg:
        given.folder.mkdir(parents=True, exist_ok=True)
        (given.folder / "report.svg").write_text(svg.picture(rows, rate), encoding="utf-8")
        print(given.folder / "report.svg")
    if given.markdown:
        print(report.markdown(rows, rate, given.markdown), end="")
    if not (given.json or given.svg or given.markdown):
        if given.type:
            _lines(rows, rate)
            for said in report.remarks(rows, found, rate, today):
                print(said)
        else:
            report.show(rows, found, rate, today)


def stands(settings: Mapping[str, Any], client: Callable[[str], Any], today: date) -> list[str]:
    """What an environment costs as it stands; what people are told goes to its topic where that is wanted.

    Args:
        settings: environment, region, bucket, prefix, zone, way, types, variables (of the inventory), prices, currency,
            rate, rate_date, budget, explorer, topic, folder.
        client: makes the SDK's client of a service.
        today: for the report.

    Raises:
        CostError: which setting, and what to do.
    """
    found_prices = prices.load(Path(settings["prices"]) if settings["prices"] else prices.SNAPSHOT)
    chosen = options(settings["variables"])
    where = standing.Where(
        str(settings["environment"]),
        str(settings["region"]),
        bucket=str(settings["bucket"]),
        prefix=str(settings["prefix"]),
        zone=str(settings["zone"]),
        shares_zone=chosen.network_dns_zone_shared,
    )
    given = str(settings["rate"])
    try:
        per_usd, budget = float(given) if given else None, float(settings["budget"] or 0)
    except ValueError:
        raise CostError(
            f"cost_rate is {given!r} and cost_budget is {settings['budget']!r}. Give numbers, or leave them out."
        ) from None
    if budget < 0:
        raise CostError(f"cost_budget is {budget:g}. Give USD a month, or 0 for none.")
    rate = prices.rate(
        found_prices, settings["currency"] or default_currency(os.environ), per_usd, str(settings["rate_date"])
    )

    def amount(usd: float) -> str:
        return svg.amount(usd, rate)

    kinds = [str(one) for one in settings["types"]]
    known = [one for one in kinds if f"{settings['way']}/{one}" in found_prices.of(where.region)]
    if not known:
        raise CostError(
            f"There is no price of any of spot_host_instance_types, {', '.join(kinds) or '(none)'}, in {where.region}: "
            "./spotcache cost --update-prices fetches it."
        )
    found = standing.look(where, client, found_prices)
    if found.type and f"{settings['way']}/{found.type}" not in found_prices.of(where.region):
        found.type = ""
    if settings["explorer"]:
        found.billed = standing.explorer(where, client, today)
    wanted = Setup(way=str(settings["way"]), region=where.region, type=known[0], requests_per_second=1.0)
    cast = standing.forecast(found, wanted, chosen, found_prices, habits.load())
    folder = Path(settings["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    report_of = standing.as_json(where, found, cast, budget, today)
    (folder / "report.json").write_text(json.dumps(report_of, indent=2, ensure_ascii=False) + "\n")
    lines = standing.told(where, found, cast, amount, budget)
    if settings["topic"]:
        lines.append(standing.publish(where, client, standing.message(where, found, cast, amount, budget)))
    old = found_prices.age_words(today)
    return [*lines, *([old] if old else []), f"Report: {folder / 'report.json'}"]


def _stands() -> int:
    """`stands`, with its settings as JSON on standard input, as the role gives them."""
    settings = json.load(sys.stdin)
    try:
        print("\n".join(stands(settings, lambda service: sdk(service, settings["region"]), date.today())))
    except CostError as error:
        print(f"spotcache cost: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: Sequence[str]) -> int:
    """Say it, or say why not."""
    if list(arguments[:1]) == ["stands"]:
        return _stands()
    given = parser().parse_args(arguments)
    answer = input if given.advise and sys.stdin.isatty() else None
    try:
        run(given, date.today(), answer)
    except CostError as error:
        print(f"spotcache cost: {error}", file=sys.stderr)
        return 2
    return 0
