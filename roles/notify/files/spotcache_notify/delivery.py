# SPDX-License-Identifier: GPL-3.0-or-later
"""Getting a message out once: what to do when Slack is slow, busy or gone, and how not to say a thing twice."""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from spotcache_notify.messages import Message

TIMEOUT_S = 20.0  # Slack answers in well under a second; a slow answer is waited for, since asking again would double
RETRY_MIN_S, RETRY_MAX_S = 5, 900
STALE_S = 600  # a claim whose holder was not heard of for so long is free
IN_FLIGHT_S = 30


class Later(Exception):
    """The message could not be delivered now. `seconds`: when to try again, None: the sooner the fewer tries so far."""

    def __init__(self, why: str, seconds: int | None = None) -> None:
        super().__init__(why)
        self.seconds = seconds


@dataclass(frozen=True)
class Claim:
    """What is remembered of a message: who sends it, whether it was sent, and since when."""

    owner: str
    sent: bool
    at: float


class Memory(Protocol):
    """Where claims are kept."""

    def claim(self, key: str, mine: Claim, replace: Callable[[Claim], bool], keep_s: int) -> Claim | None:
        """Put a claim where there is none, or one that may be replaced; otherwise hand back what stands there."""

    def sent(self, key: str, mine: Claim, keep_s: int) -> None:
        """Remember that the message went out."""


def backoff(tries: int, jitter: Callable[[], float] = random.random) -> int:
    """Seconds until the next try, after so many."""
    return int(min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(max(tries, 1) - 1, 20)) * (0.8 + 0.4 * jitter()))


def deliver(
    message: Message, owner: str, memory: Memory, send: Callable[[Message], None], now: Callable[[], float] = time.time
) -> bool:
    """Send a message unless it was sent before; False when it was.

    Raises Later, with the claim kept for this owner, when it must be tried again.
    """
    begun = now()
    mine = Claim(owner, False, begun)

    def free(other: Claim) -> bool:
        if other.sent:
            return begun - other.at >= message.window
        # One's own claim, from a try that failed, or one that nobody has worked on for long.
        return other.owner == owner or begun - other.at >= STALE_S

    keep = message.window + STALE_S
    standing = memory.claim(message.key, mine, free, keep)
    if standing is not None:
        if standing.sent:
            return False
        raise Later("the same message is on its way", IN_FLIGHT_S)
    send(message)
    memory.sent(message.key, Claim(owner, True, now()), keep)
    return True


def post(url: str, body: dict[str, Any], timeout: float = TIMEOUT_S) -> None:
    """Post to an incoming webhook. Raises Later; neither an error nor a log ever holds the address."""
    if not is_address(url):
        raise Later("the stored webhook is no http(s) address: store the right one and wait, nothing is lost")
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json; charset=utf-8"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            answer.read(1000)
            return
    except urllib.error.HTTPError as error:
        seconds = retry_after(error.headers.get("Retry-After")) if error.code in (429, 503) else None
        what = f"Slack answered {error.code}"
        if error.code in (400, 403, 404, 410):
            what += " (is the webhook still valid?)"
            seconds = RETRY_MAX_S
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        what, seconds = f"Slack cannot be reached ({type(reason).__name__})", None
    # Outside of the handlers: a chained exception would carry the address into the log.
    raise Later(what, seconds)


def is_address(url: str) -> bool:
    """Whether it is an address that can be posted to."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not set(url) & set(" \t\r\n")


def retry_after(text: str | None) -> int | None:
    """The seconds that Slack asks to wait, as far as it says a number."""
    try:
        seconds = int(float(text or ""))
    except ValueError:
        return None
    return max(1, min(seconds + 1, RETRY_MAX_S))
