"""EC2 Instance Connect Endpoints beside moto, whose minutes pass only while somebody sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import instance_connect as shared
from moto import mock_aws
from moto.ec2.models import EC2Backend

from sandbox import dependents
from sandbox.instance_connect import InstanceConnect


class Time:
    """EC2's minutes, without waiting for them: what was begun is done when somebody has slept long enough."""

    def __init__(self, connect: InstanceConnect) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Any, Any]] = []
        self.takes, self.fails = 100.0, ""
        connect._later = self.later  # type: ignore[method-assign]

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for one in [row for row in self.due if row[0] <= self.now]:
            self.due.remove(one)
            one[1](one[2])

    def later(self, act: Any, endpoint: Any) -> None:
        def outcome(one: Any) -> None:
            act(one)
            if self.fails:
                one.state, one.message = self.fails, "no address is free"

        self.due.append((self.now + self.takes, outcome, endpoint))


def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[InstanceConnect]:
    """A mocked AWS that has them."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    deletions = "delete_security_group delete_subnet delete_vpc delete_nat_gateway detach_internet_gateway"
    for name in deletions.split():
        monkeypatch.setattr(EC2Backend, name, getattr(EC2Backend, name))
    with mock_aws():
        made = InstanceConnect(SimpleNamespace())  # type: ignore[arg-type]
        made.close_gaps()
        dependents.close_gaps()
        for name in ("plug", "unplug"):
            monkeypatch.setattr(made, name, lambda endpoint: None)
        clock = Time(made)
        made.clock = clock  # type: ignore[attr-defined]
        monkeypatch.setattr(shared, "time", clock)
        yield made
