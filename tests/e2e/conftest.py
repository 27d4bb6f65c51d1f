# SPDX-License-Identifier: GPL-3.0-or-later
"""Sandboxes for the tests, brought up once for all that can share them.

Every name starts with `t-`, so that cleaning up after the tests touches no sandbox of a person's own.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.sandboxes import Sandbox
from rehearsal.work import BUILD, ROOT
from tests.watched import Watched

LOGS = BUILD / "test" / "e2e"
HERE = Path(__file__).parent
# Two runs of pytest may go on side by side, each with sandboxes of its own.
JOB = os.environ.get("SPOTCACHE_TEST_JOB", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it needs a sandbox."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A running, empty sandbox. What a test makes in it, it takes away again."""
    with Sandbox(f"t-shared{JOB}", LOGS / f"shared{JOB}").running() as running:
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
    """The shared sandbox, provisioned. Tests may save and restore, but leave Redis as they found it."""
    Path(sandbox.state["redis_password_file"]).write_text(password)
    watched.play(sandbox, "provision", "--diff")
    return sandbox


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox whose hosts come back by themselves. Its operator may do what the documents say, and no more."""
    names = ("operator-policy", "operator-people-policy", "operator-drill-policy")
    texts = [json.loads((ROOT / "docs" / "iam" / f"{name}.json").read_text()) for name in names]
    policy = tmp_path_factory.mktemp("policy") / "operator.json"
    policy.write_text(json.dumps({**texts[0], "Statement": [one for text in texts for one in text["Statement"]]}))
    with Sandbox(f"t-baked{JOB}", LOGS / f"baked{JOB}").running("--operator-policy", str(policy)) as running:
        running.play("provision", "-e", "spot_host_bake=true", log="provision")
        yield running
