# SPDX-License-Identifier: GPL-3.0-or-later
"""What the notifying function says, and when: its pure parts."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.modules.lambda_package import files_of, packed
from spotcache_notify import delivery
from spotcache_notify.delivery import Claim, Later, backoff, deliver, post, retry_after
from spotcache_notify.messages import Message, for_mail, for_slack, local_time, read


def event(kind: str, **detail: Any) -> str:
    return json.dumps({"detail-type": kind, "id": "e-1", "time": "2026-11-22T03:04:05Z", "detail": detail})


def notice(message: Any, **more: Any) -> str:
    text = message if isinstance(message, str) else json.dumps(message)
    return json.dumps({"Type": "Notification", "MessageId": "m-1", "Message": text, **more})


def tell(body: str) -> Message:
    return read(body, "stg", "Asia/Tokyo")


def test_a_spot_notice() -> None:
    told = tell(event("EC2 Spot Instance Interruption Warning", **{"instance-id": "i-1", "instance-action": "stop"}))
    assert (told.level, told.key, told.about) == ("warning", "notice/i-1", ("instance", "i-1"))
    assert told.title == "stg: Spot interruption notice"
    assert told.text.startswith("12:04:05 JST: EC2 takes back i-1 in about two minutes (stop).")


def test_an_alarm() -> None:
    raised = {"AlarmName": "a-dead", "AlarmDescription": "Messages wait", "NewStateValue": "ALARM"}
    told = tell(notice({**raised, "NewStateReason": "1 was greater than 0"}))
    assert (told.title, told.text, told.level) == (
        "stg: alarm a-dead is raised",
        "Messages wait. 1 was greater than 0",
        "error",
    )
    assert tell(notice({**raised, "NewStateValue": "OK"})).title == "stg: alarm a-dead is over"


def test_a_rebalance_recommendation() -> None:
    told = tell(event("EC2 Instance Rebalance Recommendation", **{"instance-id": "i-1"}))
    assert (told.level, told.key, told.about) == ("info", "rebalance/i-1", ("instance", "i-1"))


def test_launches() -> None:
    where = {"Availability Zone": "ap-northeast-1a"}
    good = tell(event("EC2 Instance Launch Successful", EC2InstanceId="i-1", AutoScalingGroupName="g", Details=where))
    assert "i-1 was launched in ap-northeast-1a by g." in good.text
    # The pattern of the rule has chosen the group already: nobody need be asked whose it is.
    assert good.about is None
    bad = [
        tell(event("EC2 Instance Launch Unsuccessful", AutoScalingGroupName="g", StatusMessage=f"No capacity for {i}."))
        for i in ("i-0a", "i-0b", "r5.large")
    ]
    assert bad[0].level == "error"
    assert bad[0].key == bad[1].key
    assert bad[0].key != bad[2].key
    assert bad[0].window == 3600


@pytest.mark.parametrize(("result", "level", "word"), [("succeeded", "good", "complete"), ("failed", "error", "S3")])
def test_snapshots(result: str, level: str, word: str) -> None:
    arn = "arn:aws:ec2::ap-northeast-1:"
    told = tell(
        event(
            "EBS Snapshot Notification", result=result, snapshot_id=f"{arn}snapshot/snap-1", source=f"{arn}volume/vol-1"
        )
    )
    assert (told.level, told.about) == (level, ("snapshot", "snap-1"))
    assert "snap-1 of vol-1" in told.text
    assert word in told.text


def test_other_events_are_shown_as_they_are() -> None:
    assert tell(event("Something New", a=1)).text == '12:04:05 JST: {"a": 1}'


def test_messages_of_the_host() -> None:
    told = tell(
        notice({"text": "backed-up", "title": "t", "level": "warning", "key": "k", "window": 60, "fields": {"n": 1}})
    )
    assert told == Message("t", "backed-up", "warning", "k", 60, None, {"n": "1"})
    assert tell(notice({"text": "x", "level": "loud"})).level == "info"
    assert tell(notice({"text": "x"}, Subject="s")).title == "stg: s"
    assert tell(notice({"text": "x"})).key == "message/m-1"


def test_anything_else_is_told_as_text() -> None:
    assert tell(notice("disk full", Subject="cron")).text == "disk full"
    assert tell(notice("disk full", Subject="cron")).title == "stg: cron"
    assert tell("not json").text == "not json"
    assert tell("[1]").text == "[1]"
    assert tell(notice({"no": "text"})).text == '{"no": "text"}'
    assert tell("not json").key == tell("not json").key != tell("other").key


def test_an_event_published_to_the_topic_is_an_event() -> None:
    inner = event("EC2 Instance Rebalance Recommendation", **{"instance-id": "i-1"})
    assert tell(notice(inner)) == tell(inner)


def test_times() -> None:
    assert local_time("2026-11-22T15:00:00Z", "Asia/Tokyo") == "00:00:00 JST"
    assert local_time("2026-11-22T15:00:00Z", "Asia/Edo") == "15:00:00 UTC"
    assert local_time("soon", "UTC") == "soon"


def test_slack_shows_text_as_it_is() -> None:
    body = for_slack(Message("a<b>", "x & <!channel>", "error", fields={"k": "<v>"}))
    assert body["text"] == "*a&lt;b&gt;*"
    assert body["attachments"][0]["text"] == "x &amp; &lt;!channel&gt;"
    assert body["attachments"][0]["fields"] == [{"title": "k", "value": "&lt;v&gt;", "short": True}]


def test_a_mails_subject_is_one_short_line_of_ascii() -> None:
    subject, text = for_mail(Message("stg: 復旧\nback " + "x" * 200, "body", fields={"keys": "3"}))
    assert subject.startswith("stg: back xx")
    assert len(subject) == 99
    assert text == "body\n\nkeys: 3"
    assert for_mail(Message("復旧", "body")) == ("spotcache", "body")


class Memory:
    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}
        self.kept: list[int] = []

    def claim(self, key: str, mine: Claim, replace: Callable[[Claim], bool], keep_s: int) -> Claim | None:
        standing = self.claims.get(key)
        if standing is not None and not replace(standing):
            return standing
        self.claims[key] = mine
        self.kept.append(keep_s)
        return None

    def sent(self, key: str, mine: Claim, keep_s: int) -> None:
        self.claims[key] = mine
        self.kept.append(keep_s)


def test_a_message_goes_out_once_within_its_window() -> None:
    memory, out = Memory(), list[Message]()
    message = Message("t", "x", key="k", window=100)

    def at(now: float, owner: str) -> bool:
        return deliver(message, owner, memory, out.append, lambda: now)

    assert at(0, "a")
    assert not at(1, "a")
    assert not at(99, "b")
    assert at(101, "b")
    assert len(out) == 2
    # Remembered for longer than it counts, and then forgotten.
    assert set(memory.kept) == {100 + delivery.STALE_S}


def test_while_one_tries_another_waits_and_the_first_may_try_again() -> None:
    memory, out = Memory(), list[Message]()
    message = Message("t", "x", key="k")

    def refuse(message: Message) -> None:
        raise Later("busy", 7)

    with pytest.raises(Later) as busy:
        deliver(message, "a", memory, refuse, lambda: 0)
    assert busy.value.seconds == 7
    with pytest.raises(Later, match="on its way"):
        deliver(message, "b", memory, out.append, lambda: 1)
    assert deliver(message, "a", memory, out.append, lambda: 8)
    assert not deliver(message, "b", memory, out.append, lambda: 9)
    assert len(out) == 1


def test_a_claim_whose_holder_is_gone_becomes_free() -> None:
    memory, out = Memory(), list[Message]()
    memory.claims["k"] = Claim("gone", False, 0)
    assert deliver(Message("t", "x", key="k"), "b", memory, out.append, lambda: delivery.STALE_S)
    assert len(out) == 1


def test_pauses_grow_and_end() -> None:
    pauses = [backoff(n, lambda: 0.5) for n in range(1, 12)]
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == delivery.RETRY_MAX_S
    assert pauses == sorted(pauses)
    assert backoff(10**6, lambda: 1) <= delivery.RETRY_MAX_S * 1.2


@pytest.mark.parametrize(
    ("text", "seconds"), [("3", 4), ("0.2", 1), ("99999", 900), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
def test_what_slack_asks_to_wait(text: str | None, seconds: int | None) -> None:
    assert retry_after(text) == seconds


@pytest.fixture
def web() -> Iterator[Any]:
    """A web server that gives the answer it is told to."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server: Any = self.server
            server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if server.code:
                self.send_response(server.code)
                for name, value in server.more.items():
                    self.send_header(name, value)
                self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
            pass

    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.bodies, server.code, server.more = [], 200, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_post(web: Any) -> None:
    post(f"http://127.0.0.1:{web.server_port}/services/SECRET", {"text": "復旧"})
    assert web.bodies == [{"text": "復旧"}]


@pytest.mark.parametrize(
    ("code", "more", "seconds", "words"),
    [
        (429, {"Retry-After": "30"}, 31, "429"),
        (429, {}, None, "429"),
        (500, {}, None, "500"),
        (404, {}, 900, "webhook still valid"),
        (0, {}, None, "cannot be reached"),
    ],
)
def test_a_post_that_fails_says_when_to_come_again_and_never_the_address(
    web: Any, code: int, more: dict[str, str], seconds: int | None, words: str
) -> None:
    web.code, web.more = code, more
    with pytest.raises(Later) as later:
        post(f"http://127.0.0.1:{web.server_port}/services/SECRET", {"text": "x"})
    assert later.value.seconds == seconds
    assert words in str(later.value)
    assert later.value.__cause__ is None
    assert later.value.__context__ is None
    assert "SECRET" not in str(later.value)


@pytest.mark.parametrize(
    "url", ["", "SECRET", "ftp://h/SECRET", "http:///SECRET", "http://[SECRET", "https://h/a SECRET"]
)
def test_what_is_no_address_is_not_shown(url: str) -> None:
    with pytest.raises(Later) as later:
        post(url, {})
    assert "SECRET" not in str(later.value)


def test_the_same_code_makes_the_same_package(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        code = tmp_path / folder / "package"
        code.mkdir(parents=True)
        (code / "__init__.py").write_text("")
        (code / "it.py").write_text("x = 1\n")
        (code / "notes.txt").write_text(folder)
    first, second = (packed(files_of(tmp_path / folder / "package")) for folder in ("one", "two"))
    assert first == second
    (tmp_path / "two" / "package" / "it.py").write_text("x = 2\n")
    assert packed(files_of(tmp_path / "two" / "package")) != first
    assert len(base64.b64encode(hashlib.sha256(first).digest())) == 44
