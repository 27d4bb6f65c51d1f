"""The instance metadata service, version 2: what it says about this host, and what it announces.

Light on purpose: the watcher asks every second or two for as long as the host lives.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from spotcache_keeper.interruption import GROUP, REBALANCE, SPOT, Interruption, Kind
from spotcache_keeper.system.times import from_text, to_text, utc_now

DEFAULT_URL = "http://169.254.169.254"
SPOT_ACTION = "spot/instance-action"
RECOMMENDATION = "events/recommendations/rebalance"
TARGET_STATE = "autoscaling/target-lifecycle-state"
ACTIONS = frozenset({"terminate", "stop", "hibernate"})
_ENDING = frozenset({"Terminated", "Stopped", "Hibernated"})
# How long a token is asked for, and how much of it must be left to use it again; seconds.
_TTL = 21600
_SPARE = 60
_LARGEST = 65536


class ImdsError(OSError):
    """The metadata service does not answer, or not as it should; says how."""


@dataclass(frozen=True)
class Answer:
    """One value, and the service's own time: the host's clock may be off, and notices count by AWS's."""

    text: str
    at: datetime


class Imds:
    """A client of the service, with one token for many questions.

    Args:
        url: address of the service; by default that of EC2, or of AWS_EC2_METADATA_SERVICE_ENDPOINT as the SDK has it.
        timeout: seconds for each request.
        clock: a monotonic clock, in seconds.
        ttl: for how many seconds a token is asked for.
    """

    def __init__(
        self,
        url: str | None = None,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        ttl: int = _TTL,
    ) -> None:
        self.url = (url or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_URL).rstrip("/")
        self._timeout = timeout
        self._clock = clock
        self._ttl = ttl
        self._token = ""
        self._token_until = 0.0
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()

    def get(self, path: str) -> Answer | None:
        """One value below `/latest/meta-data/`; None when there is none (404).

        Raises:
            ImdsError: no answer, or one that is none.
        """
        # One connection and one token for all threads: the watch asks it, and so does whoever signs a request.
        with self._lock:
            return self._get(path)

    def _get(self, path: str) -> Answer | None:
        """`get`, by one thread at a time."""
        for again in (True, False):
            token = self._valid_token()
            status, text, at = self._ask("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": token})
            if status == 200:
                return Answer(text.strip(), at)
            if status == 404:
                return None
            self._token = ""
            if status != 401 or not again:
                break
        if status == 401:
            raise ImdsError(f"the metadata service refuses its own token for {path} (401)")
        raise ImdsError(f"the metadata service answers {status} for {path}")

    def _valid_token(self) -> str:
        """The token, asked for anew before it ends."""
        if self._token and self._clock() < self._token_until - min(_SPARE, self._ttl / 4):
            return self._token
        begun = self._clock()
        wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(self._ttl)}
        status, text, _headers = self._ask("PUT", "/latest/api/token", wanted)
        token = text.strip()
        if status != 200:
            raise ImdsError(f"the metadata service answers {status} instead of giving a token")
        if not token or len(token) > 1024 or not token.isascii() or not token.isprintable():
            raise ImdsError("the metadata service gives garbage instead of a token")
        self._token, self._token_until = token, begun + self._ttl
        return token

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str, datetime]:
        """One request on the connection that is kept open; a connection that the service has closed is made anew."""
        for fresh in (self._connection is None, True):
            if self._connection is None:
                parts = urlsplit(self.url)
                self._connection = http.client.HTTPConnection(
                    parts.hostname or "", parts.port or 80, timeout=self._timeout
                )
            try:
                self._connection.request(method, path, headers=headers)
                answer = self._connection.getresponse()
                body = answer.read(_LARGEST)
                if answer.will_close or not answer.isclosed():
                    self._close()
                return answer.status, body.decode("utf-8", "replace"), _date(answer.headers.get("Date"))
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
                self._close()
                if fresh:
                    raise ImdsError(f"the metadata service breaks off: {error}") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._close()
                raise ImdsError(f"the metadata service at {self.url} does not answer: {_words(error)}") from error
        raise AssertionError("the second try returns or raises")

    def _close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None


def _words(error: Exception) -> str:
    """An error's text, or its name where it has none."""
    return str(error) or type(error).__name__


def _date(header: str | None) -> datetime:
    """The service's own time; the host's where it says none."""
    if header:
        with contextlib.suppress(ValueError, TypeError):
            moment = parsedate_to_datetime(header)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return utc_now()


@dataclass(frozen=True)
class Announced:
    """What the service announces at one moment.

    Attributes:
        at: the moment, by the service's clock.
        interruptions: all of them, the most urgent first.
    """

    at: datetime
    interruptions: tuple[Interruption, ...] = ()

    @property
    def ends_host(self) -> bool:
        """Whether one of them ends the host."""
        return any(interruption.kind.ends_host for interruption in self.interruptions)

    @property
    def hook_waits(self) -> bool:
        """Whether Auto Scaling waits for the host."""
        return any(interruption.kind.has_hook for interruption in self.interruptions)


def parse_action(text: str) -> Interruption:
    """The body of `spot/instance-action`.

    Raises:
        ImdsError: it is something else.
    """
    try:
        data = json.loads(text)
        action, due = str(data["action"]), from_text(str(data["time"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ImdsError(f"the metadata service gives garbage instead of a Spot notice: {text[:80]!r}") from error
    if action not in ACTIONS:
        raise ImdsError(f"the metadata service announces a Spot action that is none: {action!r}")
    return Interruption(SPOT, to_text(due), due, action)


def parse_target(text: str) -> Interruption | None:
    """The body of `autoscaling/target-lifecycle-state`; None for a state that ends no host."""
    return Interruption(GROUP, text) if text in _ENDING else None


def parse_rebalance(text: str) -> Interruption:
    """The body of `events/recommendations/rebalance`: its `noticeTime`.

    Raises:
        ImdsError: it is something else.
    """
    try:
        notice = str(json.loads(text)["noticeTime"])
        from_text(notice)
    except (ValueError, KeyError, TypeError) as error:
        raise ImdsError(f"the metadata service gives garbage instead of a recommendation: {text[:80]!r}") from error
    return Interruption(REBALANCE, notice)


# Where interruptions are announced, the most urgent first.
SOURCES: tuple[tuple[str, Kind, Callable[[str], Interruption | None]], ...] = (
    (SPOT_ACTION, SPOT, parse_action),
    (TARGET_STATE, GROUP, parse_target),
    (RECOMMENDATION, REBALANCE, parse_rebalance),
)


def poll(imds: Imds) -> Announced:
    """Everything that is announced now; a mere warning is not asked for where the end is known.

    Garbage in one place, or no answer, hides nothing that another one has said.

    Raises:
        ImdsError: nothing can be known at the moment.
    """
    wrong: ImdsError | None = None
    found: list[Interruption] = []
    at = utc_now()
    for path, kind, parse in SOURCES:
        if not kind.ends_host and any(interruption.kind.ends_host for interruption in found):
            continue
        try:
            answer = imds.get(path)
        except ImdsError:
            if found:
                break
            raise
        if answer is None:
            continue
        at = answer.at
        try:
            interruption = parse(answer.text)
        except ImdsError as error:
            wrong = wrong or error
            continue
        if interruption is not None:
            found.append(interruption)
    if wrong is not None and not found:
        raise wrong
    return Announced(at, tuple(found))
