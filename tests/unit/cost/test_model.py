# SPDX-License-Identifier: GPL-3.0-or-later
"""What is billed, at which price: the model, the snapshot of prices, and the note's table."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from spotcache_cost import habits, hours, model, prices, ways
from spotcache_cost.environments import LEAN, ZONE_SHARES, Options, ec2, options
from spotcache_cost.errors import CostError
from spotcache_cost.kinds import KINDS
from spotcache_cost.model import Setup, estimate
from spotcache_keeper.stores.retention import Kept, Policy, given_up

ROOT = Path(__file__).resolve().parents[3]
BOOK = prices.load()
TOKYO = BOOK.of("ap-northeast-1")
# The figures of the note that the project began with, JPY a month.
NOTE = {"elasticache": 4039, "fargate": 4795, "fargate_spot": 1785, "ec2_bare": 1058, "ec2_spot_bare": 317}


def lines(setup: Setup) -> dict[str, model.Line]:
    return {line.item: line for line in estimate(setup, BOOK).lines}


def test_the_notes_table_comes_out_within_one_percent() -> None:
    book = prices.load(prices.NOTE)
    found = {row.key: row.estimate.usd * book.rates["JPY"].per_usd for row in ways.note(book)}
    assert found.keys() == NOTE.keys()
    for key, jpy in NOTE.items():
        assert found[key] == pytest.approx(jpy, rel=0.01), key


def test_the_notes_table_today_moved_by_the_rate_and_the_spot_prices_alone() -> None:
    then, now = prices.load(prices.NOTE), BOOK
    dollars = [(a.estimate.usd, b.estimate.usd, a.key) for a, b in zip(ways.note(then), ways.note(now), strict=True)]
    assert [key for before, after, key in dollars if before != pytest.approx(after)] == [
        "fargate_spot",
        "ec2_spot_bare",
    ]


def test_every_price_has_a_source_and_none_is_nothing() -> None:
    for region, found in BOOK.regions.items():
        for key, price in found.items():
            assert 0 < price.usd < 10, (region, key)
            assert price.source, (region, key)
            assert price.unit, (region, key)
            low, high = price.spread
            assert low <= price.usd <= high, (region, key)
    assert all(one.date is None or one.date <= BOOK.date for found in BOOK.regions.values() for one in found.values())


def test_every_line_is_its_quantity_times_its_price() -> None:
    setup = ec2(
        Setup(way="ec2_spot", type="t3.small", data_gib=0.5, requests_per_second=5),
        Options(spotcache_notify="slack", network_egress="public_ipv4"),
        band="10-15",
        habits=habits.load(),
    )
    done = estimate(setup, BOOK)
    assert done.usd == pytest.approx(sum(line.quantity * (line.price or 0) for line in done.lines))
    assert sum(done.group(group) for group in model.GROUPS) == pytest.approx(done.usd)
    assert done.unknown == ()


def test_a_host_that_always_runs() -> None:
    found = lines(ec2(Setup(way="ec2_spot", type="t3.small", data_gib=0.5), Options(), habits=habits.load()))
    assert found["host, t3.small on Spot"].amount == pytest.approx(0.0093 * 730)
    assert found["root volume, while the host runs"].amount == pytest.approx(8 * 0.096)
    assert found["data volume"].amount == pytest.approx(8 * 0.096)
    # 24 of the last six hours, seven days' and four weeks' less what is among them, and for EBS what else there is.
    assert found["backups in S3"].quantity == pytest.approx(33 * 0.5)
    assert found["EBS snapshots of backups"].quantity == pytest.approx(34 * 0.5)
    assert found["private DNS zone"].amount == 0.5
    assert "public IPv4 addresses" not in found
    assert "CloudWatch alarms" not in found


def test_at_night_a_volume_costs_unless_it_is_given_back() -> None:
    week: dict[str, Any] = {"schedule_start": "09:00", "schedule_stop": "20:00"}
    setup = Setup(way="ec2_spot", type="t3.micro")
    kept = lines(ec2(setup, options(week)))
    given_back = lines(ec2(setup, options(week | {"spotcache_return_volume": True})))
    assert kept["data volume"].amount == pytest.approx(0.768)
    assert given_back["data volume, while the host runs"].amount == pytest.approx(0.768 * 55 / 168)
    assert kept["root volume, while the host runs"].amount == pytest.approx(0.768 * 55 / 168)
    assert kept["host, t3.micro on Spot"].quantity == pytest.approx(730 * 55 / 168)


def test_lost_hosts_leave_volumes_that_are_paid_for_a_while() -> None:
    setup = Setup(way="ec2_spot", type="t3.micro")
    found = lines(ec2(setup, Options(), band=">20"))
    assert found["superseded data volumes"].quantity == pytest.approx(8 * 0.25 * 7 * 24 / 730)
    assert "superseded data volumes" not in lines(ec2(replace(setup, way="ec2"), Options()))


def test_serverless_has_a_floor() -> None:
    assert lines(Setup(way="elasticache_serverless", data_gib=0.01))["stored data"].amount == pytest.approx(7.373)
    assert lines(Setup(way="elasticache_serverless", data_gib=0.35))["stored data"].amount == pytest.approx(25.8055)


def test_extended_support_makes_a_node_dearer() -> None:
    node = Setup(way="elasticache", type="cache.t3.small", engine="redis", extended_support=True)
    assert estimate(node, BOOK).usd == pytest.approx(2.6 * 0.052 * 730)


def test_a_node_costs_at_night_too() -> None:
    node = Setup(way="elasticache", type="cache.t4g.micro", hours=100)
    assert estimate(node, BOOK).usd == pytest.approx(0.02 * 730)


def test_what_apcu_answers_crosses_no_zone() -> None:
    setup = Setup(way="ec2_spot", type="t3.micro", requests_per_second=100, request_kib=4)
    crossing = 100 * 3600 * 730 * 4 / 1024**2 * 0.5 * 2 * 0.01
    assert lines(setup)["traffic between zones"].amount == pytest.approx(crossing)
    assert model.apcu_saves(replace(setup, apcu_share=0.8), BOOK) == pytest.approx(crossing * 0.8)


def test_everything_else_that_is_billed_has_a_line() -> None:
    setup = Setup(
        way="ec2_spot",
        type="t4g.small",
        surplus_vcpu_hours=10,
        keys=1,
        advanced_parameters=2,
        nat_gateways=1,
        nat_gib=3,
        endpoints=2,
        internet_gib=5,
        alarms=1,
        addresses=1,
        calls={"kms/request": 1000, "dynamodb/write": 1e6, "dynamodb/read": 1e6, "sqs/request": 1e6},
    )
    found = {item: round(line.amount or 0, 4) for item, line in lines(setup).items()}
    assert found == {
        "host, t4g.small on Spot": 7.6409,
        "CPU credits beyond the baseline": 0.4,
        "KMS requests": 0.003,
        "DynamoDB writes": 0.715,
        "DynamoDB reads": 0.1425,
        "SQS requests": 0.4,
        "public IPv4 addresses": 3.65,
        "NAT gateways": 45.26,
        "traffic through NAT gateways": 0.186,
        "interface endpoints": 20.44,
        "traffic to the internet": 0.57,
        "CloudWatch alarms": 0.1,
        "advanced parameters": 0.1,
        "KMS keys": 1.0,
    }


def test_a_price_that_is_missing_is_unknown_and_not_nothing() -> None:
    done = estimate(Setup(way="ec2_spot", type="t3.micro", registry_gib=1), BOOK)
    assert done.unknown == ("images in ECR",)
    asked = Setup(way="elasticache_serverless", requests_per_second=10)
    assert estimate(asked, BOOK).unknown == ("processing units (ECPU)",)
    assert estimate(replace(asked, region="us-east-1"), BOOK).unknown == ("traffic between zones",)


@given(
    data=st.floats(0.01, 0.4),
    week=st.floats(1, 167),
    volume=st.integers(1, 500),
    kept=st.integers(1, 200),
    more=st.sampled_from(["data_gib", "hours", "volume", "kept", "requests"]),
)
def test_more_of_anything_never_costs_less(data: float, week: float, volume: int, kept: int, more: str) -> None:
    def usd(factor: dict[str, float]) -> float:
        chosen = Options(
            hours_a_week=week * factor.get("hours", 1),
            spot_host_data_volume_size_gb=volume * factor.get("volume", 1),
            keeper_keep_count=int(kept * factor.get("kept", 1)),
        )
        base = Setup(
            way="ec2_spot",
            type="t3.micro",
            data_gib=data * factor.get("data_gib", 1),
            requests_per_second=1 * factor.get("requests", 1),
        )
        return estimate(ec2(base, chosen, band="5-10", habits=habits.load()), BOOK).usd

    assert usd({more: 1.005 if more == "hours" else 1.1}) >= usd({}) - 1e-9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"way": "ec3"}, "The way 'ec3' is not known"),
        ({"region": "mars-1"}, "There are no prices of the region mars-1"),
        ({"type": "t9.micro"}, "The type 't9.micro' is not known here"),
        ({"type": "cache.t3.micro"}, "is none of the way ec2_spot"),
        (
            {"type": "t3a.small"},
            "no price of ec2_spot/t3a.small was found in ap-northeast-1; there are prices of t3.medium",
        ),
        ({"hours": 731}, "731 hours a month cannot be"),
        ({"hours": 0}, "0 hours a month cannot be"),
        ({"data_gib": 2}, "2 GiB of data do not fit. A t3.micro gives about 0.45 GiB"),
        ({"data_gib": -1}, "data_gib is -1"),
        ({"volume_gib": float("nan")}, "volume_gib is nan"),
        ({"apcu_share": 1.5}, "apcu_share is 1.5"),
        ({"engine": "memcached"}, "The engine 'memcached' is not known"),
        ({"way": "fargate", "type": "2"}, "is no Fargate task"),
        ({"calls": {"s3/put": 1}}, "There is no such billable call as s3/put"),
    ],
)
def test_what_cannot_be_is_refused_by_a_sentence(changes: dict[str, Any], said: str) -> None:
    good = Setup(way="ec2_spot", type="t3.micro")
    with pytest.raises(CostError, match=said.replace("(", r"\(")):
        estimate(replace(good, **changes), BOOK)


@pytest.mark.parametrize(
    ("start", "stop", "days", "found"),
    [
        ("09:00", "20:00", ["mon", "tue", "wed", "thu", "fri"], 55),
        ("22:00", "06:00", ["mon"], 8),
        ("09:30", "10:00", ["sat", "sat"], 0.5),
        ("00:00", "24:00", list(hours.DAYS), 168),
        ("09:00", "09:00", ["mon"], 24),
    ],
)
def test_hours_of_a_schedule(start: str, stop: str, days: list[str], found: float) -> None:
    assert hours.of_schedule(start, stop, days) == pytest.approx(found)


@pytest.mark.parametrize(
    ("start", "stop", "days"),
    [("9", "20:00", ["mon"]), ("09:00", "25:00", ["mon"]), ("09:00", "20:00", []), ("09:00", "20:00", ["montag"])],
)
def test_a_schedule_that_is_none(start: str, stop: str, days: list[str]) -> None:
    with pytest.raises(CostError, match="schedule_"):
        hours.of_schedule(start, stop, days)


@pytest.mark.parametrize("week", [0, -1, 169, float("nan")])
def test_hours_beyond_a_week(week: float) -> None:
    with pytest.raises(CostError, match="a week has 168"):
        hours.of_week(week)


def test_old_prices_are_said_to_be_old() -> None:
    assert BOOK.age_words(BOOK.date + timedelta(days=90)) == ""
    assert "days old" in BOOK.age_words(BOOK.date + timedelta(days=91))


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_of_nothing(rate: float) -> None:
    with pytest.raises(CostError, match="cost_rate is"):
        prices.rate(BOOK, "JPY", rate)


def test_rates() -> None:
    assert prices.rate(BOOK, "usd").per_usd == 1
    assert prices.rate(BOOK, "JPY").date == date(2026, 10, 30)
    assert prices.rate(BOOK, "EUR", 0.9, "2026-11-01").date == date(2026, 11, 1)
    with pytest.raises(CostError, match="There is no rate for EUR"):
        prices.rate(BOOK, "EUR")
    with pytest.raises(CostError, match="cost_rate_date is yesterday"):
        prices.rate(BOOK, "EUR", 0.9, "yesterday")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    with pytest.raises(CostError, match="cannot be read"):
        prices.load(path)
    path.write_text("{}")
    with pytest.raises(CostError, match="no file of prices"):
        prices.load(path)


def test_the_defaults_are_those_of_the_roles() -> None:
    root = Path(__file__).resolve().parents[3]
    given: dict[str, Any] = {}
    for role in (root / "roles").iterdir():
        path = role / "defaults/main.yml"
        given |= yaml.safe_load(path.read_text()) if path.exists() else {}
    # What an inventory says once for a role that has a name of its own for it.
    toggles = yaml.safe_load((root / "playbooks/vars/common.yml").read_text())["spotcache__toggles"]
    given |= {name: given[role_name] for name, role_name in toggles.items()}
    own = {name: value for name, value in vars(Options()).items() if name not in ("zone_shares", "hours_a_week")}
    # What is no plain value there: the way out, and hours, of which an environment has none at first.
    differing = {
        name for name, value in own.items() if given[name] != (list(value) if isinstance(value, tuple) else value)
    }
    assert differing <= {"network_egress", "schedule_start", "schedule_stop", "schedule_days", "spotcache_notify"}
    assert set(LEAN) <= set(own)


def lean(zone_shares: float = ZONE_SHARES, **more: Any) -> float:
    base = Setup(way="ec2_spot", type="t3.micro", data_gib=0.35, requests_per_second=1)
    chosen = replace(options({**LEAN, **more}), zone_shares=zone_shares)
    return estimate(ec2(base, chosen, band=BOOK.band("ap-northeast-1", "t3.micro"), habits=habits.load()), BOOK).usd


def test_what_a_lean_host_costs_is_what_the_pages_say() -> None:
    page = (ROOT / "docs/costs.md").read_text()
    floor, node = (
        estimate(one, BOOK).usd
        for one in (
            Setup(way="elasticache_serverless"),
            Setup(way="elasticache", type="cache.t3.small", engine="redis"),
        )
    )
    assert f"| together | {lean():.2f} |" in page
    for name, shares in (
        ("its own", 1),
        ("shared by two environments", 2),
        ("shared by three", 3),
        ("shared by four", 4),
        ("paid for anyway", 0),
    ):
        usd = lean(shares)
        row = f"| {name} | {usd:.2f} | {usd / floor:.0%} | {usd / node:.1%} |"
        assert row.replace("%", " %") in page
    assert lean(1) == pytest.approx(lean(network_dns_zone_shared=False))
    # What it is meant to cost, and with which zone it does.
    assert lean(0) <= min(2.00, 0.3 * floor, 0.05 * node)
    assert lean(4) <= min(2.00, 0.3 * floor)
    assert lean(3) <= 0.3 * floor
    english, japanese = ((ROOT / name).read_text() for name in ("README.md", "README.ja.md"))
    for usd in (lean(1), lean(4), lean(0)):
        assert f" {usd:.2f}" in english.partition("In the lean row")[2].partition("\n\n")[0]
        assert f" {usd:.2f} 米ドル" in japanese.partition("節約設定の行では")[2].partition("\n\n")[0]
    # The variables are those of the page.
    told = page.partition('"Lean" in the table')[2].partition("A t3.micro holds")[0].replace("\n", " ")
    assert all(f"`{name}: {json.dumps(LEAN[name])}`" in told for name in LEAN if not name.startswith("schedule_"))
    # The host alone, of the type that holds 1 GiB of data.
    small = Setup(way="ec2_spot", type="t3.small", hours=hours.of_week(55))
    assert estimate(small, BOOK).group("compute") > 2.00


@pytest.mark.parametrize(
    "chosen",
    [
        Options(),
        Options(hours_a_week=55),
        Options(hours_a_week=55, keeper_keep_count=4, keeper_keep_days=2, keeper_keep_weeks=0),
        Options(keeper_spared_hours=0, keeper_lock_days=0, keeper_keep_count=8),
        Options(hours_a_week=40, keeper_backup_interval="1h", keeper_keep_count=12, keeper_keep_days=1),
    ],
)
def test_as_many_backups_are_paid_as_the_keepers_own_retention_keeps(chosen: Options) -> None:
    """The planner that gives backups up, run for seven weeks; the last two are looked at."""
    running, day = chosen.week
    every = {"15min": 1, "1h": 4}[chosen.keeper_backup_interval]
    policy = Policy(
        chosen.keeper_keep_count,
        chosen.keeper_keep_days,
        chosen.keeper_keep_weeks,
        int(chosen.keeper_spared_hours),
        chosen.keeper_lock_days,
    )
    monday, items, held = datetime(2026, 9, 7, tzinfo=UTC), [], []
    for quarter in range(7 * 7 * 96):
        now = monday + timedelta(minutes=15 * quarter)
        hour = quarter % 96 / 4
        if now.weekday() < running and hour < day and quarter % every == 0:
            items.append(Kept(str(quarter), now, good=True, term=1, received=now, whole=True))
        gone = {one.key for one in given_up(items, now=now, policy=policy)}
        items = [one for one in items if one.key not in gone]
        if quarter >= 5 * 7 * 96:
            held.append(len(items))
    per_hour = 4 / every
    paid = chosen.kept(policy.count, per_hour, policy.days, policy.weeks) + chosen.locked
    assert paid == pytest.approx(sum(held) / len(held), rel=0.07)


def test_locked_backups_and_the_function_that_gives_others_up_have_lines() -> None:
    base = Setup(way="ec2_spot", type="t3.micro", data_gib=0.4)
    found = lines(ec2(base, Options(), habits=habits.load()))
    assert found["backups in S3 that are locked"].amount == pytest.approx(14 * 0.4 * 0.025)
    unlocked = lines(ec2(base, options({"keeper_lock_days": 0}), habits=habits.load()))
    assert "backups in S3 that are locked" not in unlocked
    # Four looks an hour, by day and by night, each of which reads every backup.
    seldom = lines(ec2(base, options({"keeper_retention_minutes": 60}), habits=habits.load()))
    looks = 730 * 3
    assert found["functions called"].quantity - seldom["functions called"].quantity == pytest.approx(looks)
    item = "functions' memory and time"
    assert found[item].quantity - seldom[item].quantity == pytest.approx(looks * 2 * 0.25)
    assert found["logs written"].quantity > seldom["logs written"].quantity
    assert found["S3 GET, HEAD"].quantity - seldom["S3 GET, HEAD"].quantity == pytest.approx(looks * (1 + 47 + 14))


def test_snapshots_of_the_timers_backups_are_spared_however_few_are_kept() -> None:
    base = Setup(way="ec2_spot", type="t3.micro", data_gib=0.4)
    one = {"keeper_keep_snapshot_count": 1}
    spared = lines(ec2(base, options(one)))["EBS snapshots of backups"]
    assert spared.quantity == pytest.approx((24 + 1) * 0.4)
    without = lines(ec2(base, options({**one, "keeper_timer_snapshots": False})))["EBS snapshots of backups"]
    assert without.quantity == pytest.approx((1 + 1) * 0.4)


def test_what_the_page_says_of_habits_is_the_table() -> None:
    page = (ROOT / "docs/costs.md").read_text()
    counted = habits.load()
    working = Options(hours_a_week=55)
    kept = round(working.kept(24, 4, 7, 4) + working.locked)
    assert f"{kept} kept" in page
    for found in (counted.day(11, 4, kept), counted.night(13, 4, kept, round(working.locked))):
        assert f"| {found['s3/write']:,.0f} | {found['s3/read']:,.0f} |" in page
    for act, words in (
        ("idle", "its lease"),
        ("end", "its final backup"),
        ("begin", "next one"),
        ("restore", "asks for"),
    ):
        calls = counted.counts[act]
        assert f"{words} | {calls['s3/write']:.0f} | {calls['s3/read']:.0f} |" in page, act
    lease = sum(BOOK.of("ap-northeast-1")[key].usd * calls for key, calls in counted.counts["idle"].items()) * 730
    assert f"always runs is {lease:.2f} a month" in page


def test_a_longer_lease_and_a_slower_clock_cost_less() -> None:
    base: dict[str, Any] = {"keeper_timeouts": {}, "fallback_controller_look_minutes": 1}
    dear = lean(**base)
    saved = dear - lean(**{**base, "keeper_timeouts": {"lease": 270}})
    assert saved == pytest.approx(239 * (120 - 40) * (4.7e-6 + 0.37e-6), rel=0.01)
    assert dear - lean(**{**base, "fallback_controller_look_minutes": 5}) == pytest.approx(0.8 * 0.2075, rel=0.02)


def test_types_hold_what_the_role_redis_gives_them() -> None:
    # redis_maxmemory: auto is six tenths of what is left beside 256 MB.
    assert KINDS["t3.micro"].data_gib == pytest.approx((1024 - 256) * 0.6 / 1024)
    assert KINDS["cache.t4g.micro"].data_gib == pytest.approx(0.375)
