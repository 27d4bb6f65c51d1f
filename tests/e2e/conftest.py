# SPDX-License-Identifier: GPL-3.0-or-later
"""Sandboxes for the tests, brought up once for all that can share them.

Every name starts with `t-`, so that cleaning up after the tests touches no sandbox of a person's own.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import kept, permissions
from dev.sample_app.slack import Slack
from dev.sandboxes import Sandbox
from dev.work import BUILD
from tests.watched import Watched

LOGS = BUILD / "test" / "e2e"
HERE = Path(__file__).parent
# Two runs of pytest may go on side by side, each with sandboxes of its own.
# Tests ask AWS by clients of their own, each of a class that would be built anew.
kept.keep_client_classes()
JOB = os.environ.get("SPOTCACHE_TEST_JOB", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it needs a sandbox."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def network_of(sandbox: Sandbox, third: int) -> dict[str, object]:
    """Settings of one of several networks in a sandbox, and who may connect to Redis there."""
    cidr = f"10.{sandbox.state['cidr'].split('.')[1]}.{third}.0/20"
    return {"network_cidr": cidr, "network_redis_client_cidrs": [cidr]}


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A running, empty sandbox, whose hosts get public addresses. What a test makes in it, it takes away again."""
    with Sandbox(f"t-shared{JOB}", LOGS / f"shared{JOB}", swift=True).running() as running:
        running.given = {"network_egress": "public_ipv4", **network_of(running, 0)}
        yield running


@pytest.fixture(scope="session")
def password() -> str:
    """The shared sandbox's password for Redis, with what careless templates and shells trip over."""
    return f"{secrets.token_urlsafe(20)}'$\\{secrets.token_hex(3)}"


@pytest.fixture(scope="session")
def watched() -> Watched:
    """What was seen of the shared sandbox's playbooks."""
    return Watched()


@pytest.fixture(scope="session")
def provisioned(sandbox: Sandbox, password: str, watched: Watched) -> Sandbox:
    """The shared sandbox, provisioned. Tests may back up and restore, but leave Redis as they found it."""
    Path(sandbox.state["redis_password_file"]).write_text(password)
    # What other users of this machine see of it is looked at with the very program that a person runs.
    watched.play(sandbox, "provision", "--diff", command="ansible-playbook")
    return sandbox


@pytest.fixture(scope="session")
def people() -> Iterator[Slack]:
    """Who is told what becomes of the hosts that are lost."""
    slack = Slack()
    yield slack
    slack.down()


@pytest.fixture(scope="session")
def baked(people: Slack) -> Iterator[Sandbox]:
    """A provisioned sandbox whose host may be lost: the next one comes back by itself. Its operator may drill.

    Its Redis speaks TLS alone, so that losses, restores and drills are seen to go well with it.
    """
    with Sandbox(f"t-baked{JOB}", LOGS / f"baked{JOB}", swift=True).running(*permissions.also("drill")) as running:
        running.given = {"redis_tls": True, **people.variables}
        running.play("provision", log="provision")
        yield running
