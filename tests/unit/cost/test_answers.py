# SPDX-License-Identifier: GPL-3.0-or-later
"""What ./spotcache cost answers: table, report, picture, Markdown, advice, and sentences for what cannot be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from spotcache_cost import advice, cli, drills, habits, prices, report, svg, ways, words
from spotcache_cost.environments import Options
from spotcache_cost.errors import CostError
from spotcache_cost.model import PROVIDED

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "roles" / "cost" / "files" / "spotcache_cost"
BOOK = prices.load()
YEN = BOOK.rates["JPY"]
ROWS = ways.rows(ways.Asked(), BOOK, habits.load())


def run(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **environment},
    )


def test_the_table_answers_at_once() -> None:
    began = time.process_time()
    found = ways.rows(ways.Asked(), BOOK, habits.load())
    # The processor's time, which other work on the machine does not lengthen.
    assert time.process_time() - began < 0.5
    assert [row.estimate.usd for row in found] == sorted(row.estimate.usd for row in found)


def test_the_program_prints_the_table() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    for row in ROWS:
        assert words.name(row) in done.stdout
        assert f"{row.estimate.usd:.2f}" in done.stdout


def test_a_japanese_locale_has_yen() -> None:
    assert "JPY" in run(LC_ALL="ja_JP.UTF-8").stdout
    assert "JPY" not in run().stdout
    assert (
        "One USD is 0.9 EUR (given of 2026-11-01)."
        in run("--currency", "eur", "--rate", "0.9", "--rate-date", "2026-11-01").stdout
    )


def test_the_report_has_every_line_with_its_price_source_and_date(tmp_path: Path) -> None:
    assert run("--json", "--svg", folder=tmp_path).returncode == 0
    data = json.loads((tmp_path / "build/cost/report.json").read_text())
    assert len(data["rows"]) == len(ROWS)
    for row in data["rows"]:
        assert row["usd"] == pytest.approx(sum(line["amount"] or 0 for line in row["lines"]), abs=1e-3)
        assert all(line["source"] for line in row["lines"])
        assert row["provided"] is (row["way"] in PROVIDED)
    assert ET.fromstring((tmp_path / "build/cost/report.svg").read_text()).tag.endswith("svg")


def test_the_picture_has_a_bar_as_long_as_its_row_is_dear() -> None:
    root = ET.fromstring(svg.picture(ROWS, YEN))
    name = "{http://www.w3.org/2000/svg}"
    assert all(f"{row.estimate.usd * YEN.per_usd:,.0f} JPY" in root.find(f"{name}desc").text for row in ROWS)  # type: ignore[union-attr,operator]
    bars: dict[str, float] = {}
    for bar in root.iter(f"{name}rect"):
        if bar.get("height") == "17":
            bars[bar.get("y", "")] = bars.get(bar.get("y", ""), 0.0) + float(bar.get("width", "0"))
    lengths = list(bars.values())
    assert len(lengths) == len(ROWS)
    most = max(row.estimate.usd for row in ROWS)
    for length, row in zip(lengths, ROWS, strict=True):
        assert length / max(lengths) == pytest.approx(row.estimate.usd / most, abs=0.001)


@pytest.mark.parametrize(("page", "language"), [("README.md", "en"), ("README.ja.md", "ja")])
def test_the_readmes_table_is_the_programs(page: str, language: str) -> None:
    text = (ROOT / page).read_text()
    assert report.markdown(ROWS, YEN, language) in text, (
        f"write what `./spotcache cost --currency JPY --markdown {language}` prints into {page}"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--region", "mars-1"], "There are no prices of the region mars-1: name one of ap-northeast-1, us-east-1"),
        (["--type", "t9.micro"], "The type 't9.micro' is not known here"),
        (["--currency", "JPY", "--rate", "0"], "cost_rate is 0."),
        (["--hours-a-week", "169"], "169 hours a week cannot be"),
        (["--type", "t3.micro", "--data-gib", "3"], "3 GiB of data do not fit"),
        (["--data-gib", "0"], "--data-gib is 0."),
        (["--requests-per-second", "-1"], "requests_per_second is -1."),
        (["--zone-shares", "-1"], "--zone-shares is -1."),
        (["--prices", "nowhere.json"], "nowhere.json cannot be read"),
        (["--advise", "--drills", "nowhere.json"], "What drills measured cannot be read in nowhere.json"),
        (["--update-drills", "nowhere.json"], "nowhere.json is no report of a drill"),
    ],
)
def test_what_cannot_be_gets_a_sentence(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_old_prices_are_said_to_be_old() -> None:
    said = report.remarks(ROWS, BOOK, YEN, date(2027, 6, 1))
    assert re.search(r"These prices are of \S+, \d+ days old", said[-1])
    assert not any("days old" in one for one in report.remarks(ROWS, BOOK, YEN, BOOK.date))


DAY = date(2026, 11, 30)
MEASURED = drills.Drills(
    {
        "notice": drills.Drill(130.0, 10.0, 0, 0.0, 3, "a sandbox", DAY, "./spotcache drill --kind notice --runs 3"),
        "kill": drills.Drill(90.0, 90.0, 7, 12.0, 3, "a sandbox", DAY, "./spotcache drill --kind kill --runs 3"),
    },
    drills.load().documented,
)


def judged(asked: ways.Asked | None = None, **demands: Any) -> list[advice.Choice]:
    return advice.judge(asked or ways.Asked(), advice.Demands(**demands), BOOK, habits.load(), MEASURED)


def said(choices: list[advice.Choice]) -> str:
    return "\n".join(advice.text(choices, lambda usd: f"{usd:.2f} USD", MEASURED))


def test_a_team_that_can_refill_a_cache_takes_spot() -> None:
    asked = ways.Asked(options=Options(hours_a_week=55))
    text = said(judged(asked))
    assert text.startswith("Take this, t3.micro Spot, working hours, lean: ")
    assert (
        "EC2 takes back 15-20 % of these hosts a month: 130 s without service, 120 of them the notice, and nothing lost"
        in text
    )
    assert "90 s without service when it ends without a notice" in text
    assert "what was written since the last backup (15min) or save is lost: 12 s of it in the drill" in text
    assert "Measured in a sandbox on 2026-11-30, 3 runs: ./spotcache drill --kind kill --runs 3." in text
    assert "Not measured here, read on 2026-11-30: ElastiCache's documentation" in text
    # What the role spot_host warns of is said before anybody takes it.
    assert "t3.micro has 1 GiB for Docker, Redis and its fork, and provision warns of that" in text
    assert '   spotcache_backend: "ec2_spot"' in text
    assert '   spot_host_instance_types: ["t3.micro"]' in text
    assert "   spotcache_return_volume: true" in text
    assert "   network_dns_zone_shared: true" in text
    best = judged(asked)[0]
    own, shared, anyway = best.zones
    assert own - shared == pytest.approx(0.5 * 2 / 3)
    assert shared - anyway == pytest.approx(0.5 / 3)
    assert best.row.estimate.usd == pytest.approx(shared)
    assert (
        f"Of that the DNS zone is a choice: {own:.2f} USD with one of its own, {shared:.2f} USD with one that 3 "
        f"environments share (network_dns_zone_shared: true), {anyway:.2f} USD with one that is paid for anyway."
    ) in text


@pytest.mark.parametrize(
    ("demands", "taken"),
    [
        ({"operator": "nobody"}, "ElastiCache serverless Valkey"),
        ({"failover": True}, "ElastiCache serverless Valkey"),
    ],
)
def test_it_says_take_elasticache_when_that_is_right(demands: dict[str, Any], taken: str) -> None:
    asked = ways.Asked(data_gib=0.1)
    text = said(judged(asked, **demands))
    assert text.startswith(f"Take {taken}")
    assert "spotcache does not set that up" in text
    assert "For the inventory" not in text
    assert "this, t3.micro Spot" in text.partition("Will not do:")[2]


def test_a_host_of_ours_speaks_tls_where_that_is_asked() -> None:
    text = said(judged(ways.Asked(options=Options(hours_a_week=55)), tls=True))
    assert text.startswith("Take this, t3.micro Spot, working hours, lean: ")
    assert "   redis_tls: true" in text
    assert "redis_tls" not in said(judged(ways.Asked(options=Options(hours_a_week=55))))
    assert "its Redis speaks without TLS" in text.partition("Will not do:")[2]


def test_a_little_data_all_day_may_as_well_be_serverless() -> None:
    assert "Think about ElastiCache serverless Valkey" in said(judged(ways.Asked(data_gib=0.1)))
    assert "Think about" not in said(judged(ways.Asked(data_gib=0.4)))


def test_no_host_of_half_a_gib_is_advised() -> None:
    assert not any(".nano" in words.name(row) for row in ways.rows(ways.Asked(data_gib=0.05), BOOK, habits.load()))


def test_two_nodes_are_compared_where_one_would_lose_a_day() -> None:
    node = next(one for one in judged(may_lose="minutes") if one.row.estimate.setup.way == "elasticache")
    assert node.row.estimate.setup.nodes == 2
    node = next(one for one in judged(may_lose="everything") if one.row.estimate.setup.way == "elasticache")
    assert node.row.estimate.setup.nodes == 1


def test_nothing_does_what_nothing_can() -> None:
    assert said(judged(may_lose="nothing")).startswith("Nothing that was compared does all of that.")


def test_growth_takes_a_larger_host() -> None:
    best = judged(ways.Asked(data_gib=0.4), growth=100.0)[0]
    assert best.row.estimate.setup.type == "t3.small"


def test_what_is_not_given_is_asked_and_what_is_given_is_not() -> None:
    given = cli.parser().parse_args(["--advise", "--data-gib", "0.2", "--tls", "no"])
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        return "40" if "Hours" in question else ""

    cli.ask(given, answer)
    assert len(questions) == len(cli.QUESTIONS) - 2
    assert (given.data_gib, given.hours_a_week, given.may_lose) == (0.2, 40.0, "minutes")


@pytest.mark.parametrize(
    ("about", "answered", "word"), [("GiB", "much", "is no number"), ("TLS", "maybe", "is neither")]
)
def test_an_answer_that_is_none(about: str, answered: str, word: str) -> None:
    given = cli.parser().parse_args(["--advise"])
    with pytest.raises(CostError, match=word):
        cli.ask(given, lambda question: answered if about in question else "")


def report_of(kind: str, **more: Any) -> dict[str, Any]:
    """As ./spotcache drill leaves it."""
    run = {
        "kind": kind,
        "values_equal": True,
        "acknowledged_lost": 0 if kind == "notice" else 5,
        "oldest_lost_s": 0.0 if kind == "notice" else 9.0,
        "injected_at": 1796083200.0,
        "gone_to_serving_s": 11.0,
    }
    runs = [{**run, "outage_s": outage} for outage in (131.0, 140.0, 129.0)]
    return {"runs": runs, "verdict": "passed", "floors": {}, "size_mb": 200, "notice_s": 120.0, **more}


def test_drills_write_the_file_that_the_advice_shows(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(drills.SNAPSHOT.read_text())
    for kind in ("notice", "kill"):
        (tmp_path / f"{kind}.json").write_text(json.dumps(report_of(kind)))
    done = run("--drills", "mine.json", "--update-drills", "notice.json", "kill.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert drills.load(tmp_path / "mine.json").measured == {
        "notice": drills.Drill(
            131.0,
            11.0,
            0,
            0.0,
            3,
            "a sandbox",
            date(2026, 12, 1),
            "./spotcache drill --kind notice --runs 3 --size-mb 200 --notice 120",
        ),
        "kill": drills.Drill(
            131.0,
            11.0,
            5,
            9.0,
            3,
            "a sandbox",
            date(2026, 12, 1),
            "./spotcache drill --kind kill --runs 3 --size-mb 200",
        ),
    }
    text = run("--advise", "--drills", "mine.json", folder=tmp_path).stdout
    assert "131 s without service, 120 of them the notice" in text
    assert "9 s of it in the drill" in text
    # What a drill on AWS itself leaves has no floors.
    aws = {key: value for key, value in report_of("kill").items() if key == "runs"}
    (tmp_path / "kill.json").write_text(json.dumps(aws))
    run("--drills", "mine.json", "--update-drills", "kill.json", folder=tmp_path)
    assert drills.load(tmp_path / "mine.json").measured["kill"].where == "AWS"


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (report_of("notice", notice_s=16.0), "its notice was 16 s, and AWS gives 120"),
        (report_of("zone_lost"), "has zone_lost. Give reports of"),
        (report_of("kill", runs=[]), "has no drill"),
        (report_of("kill", runs=[{**report_of("kill")["runs"][0], "values_equal": False}]), "data was not equal"),
        ({}, "is no report of a drill: KeyError 'runs'"),
    ],
)
def test_a_drill_that_measured_nothing_is_not_taken(tmp_path: Path, report: dict[str, Any], said: str) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(drills.SNAPSHOT.read_text())
    (tmp_path / "report.json").write_text(json.dumps(report))
    done = run("--drills", "mine.json", "--update-drills", "report.json", folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert mine.read_text() == drills.SNAPSHOT.read_text()


def test_the_projects_own_file_of_drills_says_what_the_advice_needs() -> None:
    book = drills.load()
    assert set(book.measured) == {"notice", "kill"}
    for drill in book.measured.values():
        assert drill.runs >= 1
        assert drill.outage_s >= drill.serving_s > 0
        assert drill.source.startswith("./spotcache drill")
        assert drill.date <= date.today()
    elsewhere = {"elasticache", "elasticache_replicated", "elasticache_serverless", "fargate", "fargate_spot"}
    assert set(book.documented) == elsewhere
    assert all("docs.aws.amazon.com/" in one.source for one in book.documented.values())
    assert f"{book.measured['notice'].outage_s:.0f} s without service" in run("--advise").stdout


def test_inventory_lines_are_variables_that_there_are() -> None:
    declared = "".join(path.read_text() for path in (ROOT / "roles").glob("*/defaults/main.yml"))
    declared += (ROOT / "inventories/stg/group_vars/all/main.yml").read_text()
    toggles = yaml.safe_load((ROOT / "playbooks/vars/common.yml").read_text())["spotcache__toggles"]
    declared += "".join(f"{name}:\n" for name in toggles)
    named = {name for row in ROWS for name in row.inventory}
    assert "spot_host_instance_types" in named
    assert [name for name in named if not re.search(rf"(?m)^{name}:", declared)] == []
