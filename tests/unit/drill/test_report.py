"""What a drill's report says, and its picture."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from spotcache_drill import cli, report, svg

# 2026-11-22T07:00:00Z, when the host is hit by the fault.
T = 1795330800.0
SVG = "{http://www.w3.org/2000/svg}"


def journal(*lines: tuple[float, str], kept: dict[str, Any] | None = None) -> str:
    rows = [json.dumps({"__REALTIME_TIMESTAMP": str(int((T + at) * 1e6)), "MESSAGE": text}) for at, text in lines]
    return "\n".join([*rows, "---", json.dumps(kept) if kept is not None else ""])


ENDING = {
    "seen": "2026-11-22T07:00:01Z",
    "due": "2026-11-22T07:00:20Z",
    "backup": {"seconds": {"bgsave": 1.0, "check": 0.5, "s3": 1.5, "ebs": 0.2}},
}
OLD_WORDS = journal(
    (-90.0, "final backup of an earlier life: 1 keys, verified; on the volume, S3"),
    (1.0, "writes are held back; 19 s are left"),
    (1.1, "Spot notice: EC2 will terminate this host at 2026-11-22T07:00:20Z; 19 s are left"),
    (
        6.0,
        "final backup 20261122T070001Z-abcdef: 5 keys, 1 MiB, verified; on the volume, S3, EBS snapshot s; 14 s",
    ),
    kept=ENDING,
)
NEW_WORDS = journal(
    (24.0, "/etc/spotcache/keeper-password was fetched from /spotcache/stg/host/keeper-password"),
    (30.0, "restored: 5 keys from final backup 20261122T070001Z-abcdef (S3), last written ...; nothing was lost"),
    kept={
        "last_boot": {"what": "restored", "created": "2026-11-22T07:00:01Z", "source": "S3", "seconds": {"name": 2.0}}
    },
)


def kept(**more: Any) -> dict[str, Any]:
    """A client's record, as client.json has it."""
    return {
        "host": "i-1",
        "keys_written": 110,
        "keys_acknowledged": 100,
        "refused_at": T + 0.9,
        "last_write_before": T + 0.88,
        "outage_s": 30.6,
        "services": [
            {"address": "10.0.0.1", "host": "i-1", "first_read": T - 5, "first_write": T - 5},
            {"address": "10.0.0.2", "host": "i-2", "first_read": T + 31.0, "first_write": T + 31.5},
        ],
        "host_gone": T + 20.3,
        "hosts": [
            {"id": "i-1", "address": "10.0.0.1", "states": {"running": T - 5}, "gone_at": T + 20.3},
            {"id": "i-2", "address": "10.0.0.2", "states": {"pending": T + 20.5, "running": T + 21}, "gone_at": None},
        ],
        "addresses": [{"address": "10.0.0.1", "at": T - 5}, {"address": "10.0.0.2", "at": T + 30.5}],
        "final": {"record": {"off_host": True}, "at": T + 6.4},
        # One from before the client wrote, one meanwhile, the final one, and one of the next host.
        "backups": [
            {"id": "20261122T065000Z-000000", "at": T - 5},
            {"id": "20261122T065958Z-111111", "at": T - 0.5},
            {"id": "20261122T070001Z-abcdef", "at": T + 6.4},
        ],
        "missing": [],
        "altered": [],
        "trouble": {},
        "last_error": "",
        "ended": "",
        **more,
    }


def settings(**more: Any) -> dict[str, Any]:
    return {
        "kind": "notice",
        "notice": True,
        "until": "successor",
        "injected": T,
        "old_words": OLD_WORDS,
        "new_words": NEW_WORDS,
        **more,
    }


def test_a_notice() -> None:
    one = report.run_of(settings(), kept())
    assert [(event["name"], round(event["at"] - T, 2)) for event in one["timeline"]] == [
        ("notice published", 0.0),
        ("writes fenced", 0.9),
        ("notice seen", 1.0),
        ("backup verified", 4.5),
        ("off the host", 6.0),
        # At the announced time, although EC2 was seen to end it a little later.
        ("host gone", 20.0),
        ("new host", 20.5),
        ("restored", 28.0),
        ("DNS moved", 30.5),
        ("first read", 31.0),
        ("first write", 31.5),
    ]
    figures = (
        "notice_to_seen_s",
        "seen_to_safe_s",
        "gone_to_serving_s",
        "acknowledged_lost",
        "oldest_lost_s",
        "outage_s",
    )
    assert [one[name] for name in figures] == [1.0, 5.0, 11.0, 0, 0.0, 30.6]
    assert one["values_equal"]
    assert one["problems"] == []
    assert (one["host"], one["successor"]) == ("i-1", "i-2")
    # What an earlier end said is left out.
    assert [(row["host"], row["line"].split()[0]) for row in one["said"]] == [
        ("i-1", "writes"),
        ("i-1", "Spot"),
        ("i-1", "final"),
        ("i-2", "/etc/spotcache/keeper-password"),
        ("i-2", "restored:"),
    ]


def test_a_host_that_said_nothing_any_more_is_told_from_outside() -> None:
    one = report.run_of(settings(old_words="", new_words=""), kept())
    names = [event["name"] for event in one["timeline"]]
    assert "backup verified" not in names
    assert "restored" not in names
    # By the first write that was held back, and by the record in S3.
    assert one["notice_to_seen_s"] == 0.9
    assert one["seen_to_safe_s"] == 5.5
    # Without the announced time it is EC2's.
    assert one["gone_to_serving_s"] == 10.7


def test_words_of_an_earlier_end_are_not_this_ones() -> None:
    earlier = {**ENDING, "seen": "2026-11-22T06:00:00Z", "due": "2026-11-22T06:02:00Z"}
    one = report.run_of(settings(old_words=journal(kept=earlier)), kept())
    assert one["gone_to_serving_s"] == 10.7


def test_a_loss_despite_a_notice_is_a_fault() -> None:
    one = report.run_of(settings(), kept(missing=[[98, T + 0.5], [99, T + 0.8]], altered=[3]))
    assert one["acknowledged_lost"] == 3
    assert one["oldest_lost_s"] == 19.5
    assert not one["values_equal"]
    assert one["problems"] == [
        "1 keys have another value than the one that was acknowledged",
        "3 acknowledged writes were lost although there was a notice",
    ]
    assert report.report_of([one])["verdict"] == "NOT passed"


def test_without_a_notice_only_what_is_older_than_the_backup_must_be_there() -> None:
    asked = settings(kind="kill", notice=False, old_words="")
    one = report.run_of(
        asked, kept(missing=[[98, T - 1.5], [99, T + 2.0]], refused_at=T + 2.4, last_write_before=T + 2.3)
    )
    assert (one["notice_to_seen_s"], one["seen_to_safe_s"]) == (None, None)
    assert (one["acknowledged_lost"], one["lost_older_than_backup"]) == (2, 0)
    # The last acknowledged write is the earliest moment at which the host can have been gone.
    assert one["oldest_lost_s"] == 3.8
    assert one["gone_to_serving_s"] == 28.7
    assert one["problems"] == []
    assert one["timeline"][0]["name"] == "interruption"
    # Also when an older backup was restored than there is: it is the newest that counts.
    older = report.run_of(asked, kept(missing=[[1, T - 2.5]], last_write_before=T + 2.3))
    assert older["problems"] == ["1 writes were lost that are older than the newest verified backup"]


def test_a_successor_with_the_address_of_the_host_before_needs_no_move() -> None:
    same = kept(addresses=kept()["addresses"][:1])
    same["services"][1]["address"] = same["hosts"][1]["address"] = "10.0.0.1"
    names = [event["name"] for event in report.run_of(settings(), same)["timeline"]]
    assert "DNS moved" not in names
    assert {"new host", "first read"} <= set(names)


def test_a_recommendation_costs_nothing() -> None:
    one = report.run_of(
        settings(
            kind="rebalance", notice=False, until="backup", new_words="", old_words=journal((0.8, "EC2 recommends a"))
        ),
        kept(services=kept()["services"][:1], host_gone=None, hosts=kept()["hosts"][:1], outage_s=0.02, final=None),
    )
    assert one["gone_to_serving_s"] is None
    assert (one["acknowledged_lost"], one["outage_s"]) == (0, 0.02)
    assert one["successor"] is None
    assert [event["name"] for event in one["timeline"]] == ["interruption", "notice seen"]


def test_a_service_that_never_came_back_is_a_fault() -> None:
    one = report.run_of(
        settings(new_words=""),
        kept(
            services=kept()["services"][:1], missing=None, altered=None, outage_s=None, ended="in vain", last_error="no"
        ),
    )
    assert one["acknowledged_lost"] is None
    assert not one["values_equal"]
    assert one["problems"] == [
        "in vain; the client's last error: no",
        "the acknowledged keys could not be read back: no",
    ]
    assert "Acknowledged writes lost: unknown" in report.as_text(one)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [({}, "it answered, and named none"), ({"poll_instances": "ClientError: denied"}, "ClientError: denied")],
)
def test_what_ec2_did_not_show_is_a_fault_and_no_figure(trouble: dict[str, str], said: str) -> None:
    blind = kept(hosts=[], host_gone=None, trouble=trouble, missing=[[98, T + 0.5]], services=kept()["services"])
    one = report.run_of(settings(kind="kill", notice=False, old_words=""), blind)
    assert (one["gone_to_serving_s"], one["oldest_lost_s"]) == (None, None)
    text = report.as_text(one)
    assert "Acknowledged writes lost: 1 of 100\n" in text
    assert (
        f"Problem: EC2 showed no instance of the environment, so that nothing is known of when it was gone: {said}"
        in text
    )
    assert text.endswith("Verdict: NOT passed")


def test_the_table() -> None:
    text = report.as_text(report.run_of(settings(), kept(missing=[[98, T + 0.5]])))
    assert re.search(r"^off the host +\+6\.0 s  07:00:06\.000  keeper$", text, re.MULTILINE)
    assert "Acknowledged writes lost: 1 of 100, the oldest 19.5 s before the host was gone" in text
    assert "Seconds without service: 30.6" in text
    assert text.endswith("Verdict: NOT passed")


def test_medians_leave_out_what_a_run_does_not_have() -> None:
    found = report.medians([{"outage_s": 3.0}, {"outage_s": 1.0}, {"outage_s": None}])
    assert found["outage_s"] == 2.0
    assert found["notice_to_seen_s"] is None


@pytest.mark.parametrize("text", ["", "no json\n---\n{", '{"MESSAGE": "x"}', "[]\n---\n[1]"])
def test_words_that_are_none_are_left_out(text: str) -> None:
    assert report.words_of(text) == report.Words()


def test_the_picture_shows_every_event_and_can_be_read_aloud() -> None:
    one = report.run_of(settings(), kept())
    text = svg.picture(one)
    assert text == svg.picture(json.loads(json.dumps(one)))
    root = ET.fromstring(text)
    assert root.get("role") == "img"
    titles = [root.find(f"{SVG}title"), root.find(f"{SVG}desc")]
    assert [one.get("id") for one in titles if one is not None] == str(root.get("aria-labelledby")).split()
    words = [item.text for item in root.iter(f"{SVG}text")]
    assert {event["name"] for event in one["timeline"]} <= set(words)
    assert "+6.0 s" in words
    points = [(float(str(dot.get("cx"))), float(str(dot.get("cy")))) for dot in root.iter(f"{SVG}circle")]
    # One row each, from left to right in time, all inside the picture.
    assert len(points) == len(one["timeline"])
    assert points == sorted(points)
    assert all(0 < x < 960 for x, _ in points)
    bars = {
        str(title.text).split(":")[0]
        for bar in root.iter(f"{SVG}rect")
        if (title := bar.find(f"{SVG}title")) is not None
    }
    assert bars == {"last backup", "next host", "boot and restore"}


def test_names_in_the_picture_are_text_and_not_markup() -> None:
    one = report.run_of(settings(kind="<kill & go>"), kept())
    assert "<kill" not in svg.picture(one)
    ET.fromstring(svg.picture(one))


@pytest.mark.parametrize(("seconds", "step"), [(3, 0.5), (20, 2), (40, 5), (600, 60), (100_000, 1800)])
def test_the_axis_has_at_most_ten_marks(seconds: float, step: float) -> None:
    assert svg.step_for(seconds) == step


def test_the_report_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "client.json").write_text(json.dumps(kept()))
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(settings(folder=str(tmp_path)))))
    assert cli.main(["report"]) == 0
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["verdict"] == "passed"
    assert [run["kind"] for run in written["runs"]] == ["notice"]
    assert (tmp_path / "timeline.svg").read_text().startswith("<svg ")
    assert "Verdict: passed" in capsys.readouterr().out
