# SPDX-License-Identifier: GPL-3.0-or-later
"""From what arrives in the queue to what a person reads. Nothing here talks to anybody."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

HOUR = 3600
DAY = 24 * HOUR
COLOURS = {"info": "#2f6db5", "good": "#2e8b57", "warning": "#e0a100", "error": "#c0392b"}
IDS = re.compile(
    r"\b(?:i|vol|snap|subnet|sg|lt|ami|eni)-[0-9a-f]+\b|\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\d{4}-\d\d-\d\dT[\d:.Z+-]+"
)
TEXT_LIMIT = 2500


@dataclass(frozen=True)
class Message:
    """One message for notifier. `key` says what it is about: within `window` seconds nobody is told the same twice."""

    title: str
    text: str
    level: str = "info"
    key: str = ""
    window: int = DAY
    # What must belong to the environment for the message to be its business: ("instance" or "snapshot", id).
    about: tuple[str, str] | None = None
    fields: dict[str, str] = field(default_factory=dict)


def local_time(when: str, zone: str) -> str:
    """A time for people, in their own zone; UTC where the zone is not known."""
    try:
        moment = datetime.fromisoformat(when.replace("Z", "+00:00"))
    except ValueError:
        return when
    try:
        return moment.astimezone(ZoneInfo(zone)).strftime("%H:%M:%S %Z")
    except (ZoneInfoNotFoundError, ValueError):
        return moment.astimezone(UTC).strftime("%H:%M:%S UTC")


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parsed(body: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a message of the queue holds: an AWS event or else {}, and the SNS notification around it or else {}."""
    try:
        outer = json.loads(body)
    except ValueError:
        return {}, {"Message": body}
    if not isinstance(outer, dict):
        return {}, {"Message": body}
    if "detail-type" in outer:
        return outer, {}
    if outer.get("Type") == "Notification" or "Message" in outer:
        try:
            inner = json.loads(outer.get("Message", ""))
        except ValueError:
            return {}, outer
        return (inner, {}) if isinstance(inner, dict) and "detail-type" in inner else ({}, outer)
    return {}, {"Message": body}


def read(body: str, environment: str, zone: str) -> Message:
    """The message for people that a message of the queue stands for."""
    event, notice = parsed(body)
    return of_event(event, environment, zone) if event else of_notice(notice, environment)


def of_event(event: dict[str, Any], environment: str, zone: str) -> Message:
    """An event of AWS's."""
    detail, kind = event.get("detail") or {}, str(event["detail-type"])
    when = local_time(str(event.get("time", "")), zone)
    instance = str(detail.get("instance-id") or detail.get("EC2InstanceId") or "")
    about = ("instance", instance) if instance and kind.startswith("EC2 ") and "instance-id" in detail else None
    if kind == "EC2 Spot Instance Interruption Warning":
        return Message(
            f"{environment}: Spot interruption notice",
            f"{when}: EC2 takes back {instance} in about two minutes ({detail.get('instance-action', 'terminate')}). "
            "The host backs up by itself, and a successor restores.",
            "warning",
            f"notice/{instance}",
            about=about,
        )
    if kind == "EC2 Instance Rebalance Recommendation":
        return Message(
            f"{environment}: Spot host at risk",
            f"{when}: EC2 expects to take back {instance} sooner or later. The host makes an early backup; nothing "
            "else happens yet, and often nothing follows.",
            "info",
            f"rebalance/{instance}",
            6 * HOUR,
            about,
        )
    if kind == "EC2 Instance Launch Successful":
        zone_name = (detail.get("Details") or {}).get("Availability Zone", "")
        where = f" in {zone_name}" if zone_name else ""
        return Message(
            f"{environment}: new host",
            f"{when}: {instance} was launched{where} by {detail.get('AutoScalingGroupName')}.",
            "good",
            f"launched/{instance}",
        )
    if kind == "EC2 Instance Launch Unsuccessful":
        group, why = str(detail.get("AutoScalingGroupName", "")), str(detail.get("StatusMessage") or "no reason given")
        return Message(
            f"{environment}: no host could be launched",
            f"{when}: {group} tried and failed: {why} Auto Scaling tries again by itself.",
            "error",
            # Auto Scaling tries again and again: once an hour is enough to know.
            f"no-launch/{group}/{digest(IDS.sub('', why))}",
            HOUR,
        )
    if kind == "EBS Snapshot Notification":
        return _snapshot(detail, environment, when)
    words = json.dumps(detail, sort_keys=True)[:TEXT_LIMIT]
    return Message(f"{environment}: {kind}", f"{when}: {words}", "info", f"event/{event.get('id', digest(words))}")


def _snapshot(detail: dict[str, Any], environment: str, when: str) -> Message:
    snapshot = str(detail.get("snapshot_id", "")).rsplit("/", 1)[-1]
    volume = str(detail.get("source", "")).rsplit("/", 1)[-1]
    good = detail.get("result") == "succeeded"
    cause = f": {detail['cause']}" if detail.get("cause") else ""
    return Message(
        f"{environment}: EBS snapshot {'completed' if good else 'failed'}",
        f"{when}: {snapshot} of {volume} {'is complete' if good else 'failed' + cause}."
        + ("" if good else " The backups in S3 do not depend on it."),
        "good" if good else "error",
        f"snapshot/{snapshot}/{detail.get('result')}",
        about=("snapshot", snapshot),
    )


def of_notice(notice: dict[str, Any], environment: str) -> Message:
    """A message published to the environment's topic: the keeper's JSON, or anybody's plain text."""
    text, subject = str(notice.get("Message", "")), str(notice.get("Subject") or "")
    unique = f"message/{notice.get('MessageId') or digest(text)}"
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if isinstance(told, dict) and told.get("AlarmName") and told.get("NewStateValue"):
        return _alarm(told, environment, unique)
    if not isinstance(told, dict) or not told.get("text"):
        return Message(f"{environment}: {subject or 'message'}", text[:TEXT_LIMIT], "info", unique)
    level = str(told.get("level", "info"))
    return Message(
        str(told.get("title") or f"{environment}: {subject or told.get('event', 'message')}"),
        str(told["text"])[:TEXT_LIMIT],
        level if level in COLOURS else "info",
        str(told.get("key") or unique),
        int(told.get("window") or DAY),
        fields={str(name): str(value) for name, value in (told.get("fields") or {}).items()},
    )


def _alarm(alarm: dict[str, Any], environment: str, unique: str) -> Message:
    """What CloudWatch publishes when an alarm changes its state."""
    raised = alarm["NewStateValue"] == "ALARM"
    about = str(alarm.get("AlarmDescription") or alarm["AlarmName"])
    return Message(
        f"{environment}: alarm {alarm['AlarmName']} is {'raised' if raised else 'over'}",
        f"{about}. {alarm.get('NewStateReason') or ''}".strip()[:TEXT_LIMIT],
        "error" if raised else "good",
        unique,
    )


def escaped(text: str) -> str:
    """Text that Slack shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def for_slack(message: Message) -> dict[str, Any]:
    """The body of an incoming webhook's request."""
    rows = [{"title": escaped(name), "value": escaped(value), "short": True} for name, value in message.fields.items()]
    return {
        "text": f"*{escaped(message.title)}*",
        "attachments": [
            {
                "color": COLOURS[message.level],
                "fallback": escaped(f"{message.title}: {message.text}"),
                "text": escaped(message.text),
                **({"fields": rows} if rows else {}),
            }
        ],
    }


def for_mail(message: Message) -> tuple[str, str]:
    """Subject and text of a mail. A subject of SNS's is ASCII, one line, shorter than 100 characters."""
    subject = "".join(c for c in message.title if " " <= c <= "~")[:99] or "spotcache"
    rows = [f"{name}: {value}" for name, value in message.fields.items()]
    return subject, "\n".join([message.text, *([""] if rows else []), *rows])
