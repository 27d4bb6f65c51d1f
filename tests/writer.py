# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that writes all the time and remembers what was acknowledged, and waiting for what will come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis

Found = TypeVar("Found")


def until(question: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """Ask again and again until there is an answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(redis.RedisError, OSError):
            if (answer := question()) is not None:
                return answer
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


@dataclass
class Writer:
    """Writes numbered keys and notes which ones were acknowledged."""

    client: Any
    mark: str
    acknowledged: dict[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Writer:  # noqa: PYI034 - typing.Self came with Python 3.11
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop.set()
        self.thread.join()

    def _run(self) -> None:
        number = 0
        while not self.stop.is_set():
            key, value = f"{self.mark}:{number}", f"value {number}"
            with suppress(redis.RedisError):
                if self.client.set(key, value):
                    self.acknowledged[key] = value
            number += 1
            time.sleep(0.002)


def held(client: Any, keys: list[str]) -> dict[str, str]:
    """What a Redis holds of some keys."""
    return dict(zip(keys, client.mget(keys), strict=True)) if keys else {}
