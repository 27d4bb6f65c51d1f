# SPDX-License-Identifier: GPL-3.0-or-later
"""Sandboxes for the tests, brought up once for all that can share them.

Every name starts with `t-`, so that cleaning up after the tests touches no sandbox of a person's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.sandboxes import Sandbox
from rehearsal.work import BUILD, ROOT

LOGS = BUILD / "test" / "e2e"
HERE = Path(__file__).parent
# Session fixtures, and the process that all tests with one of them run in.
SHARED = {"sandbox": "shared", "provisioned": "shared", "baked": "baked"}


# Before xdist's own, which reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it needs a sandbox. Files that share one run in one process, two processes side by side."""
    here = [item for item in items if HERE in item.path.parents]
    groups = {item.path: SHARED[name] for item in here for name in getattr(item, "fixturenames", ()) if name in SHARED}
    for item in here:
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.xdist_group(groups.get(item.path, item.path.stem)))


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A running, empty sandbox. What a test makes in it, it takes away again."""
    with Sandbox("t-shared", LOGS / "shared").running() as running:
        yield running


@pytest.fixture(scope="session")
def provisioned(sandbox: Sandbox) -> Sandbox:
    """The shared sandbox, provisioned. Tests may save and restore, but leave Redis as they found it."""
    sandbox.play("provision", log="provision")
    return sandbox


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox whose hosts come back by themselves. Its operator may do what the documents say, and no more."""
    names = ("operator-policy", "operator-people-policy", "operator-drill-policy")
    texts = [json.loads((ROOT / "docs" / "iam" / f"{name}.json").read_text()) for name in names]
    policy = tmp_path_factory.mktemp("policy") / "operator.json"
    policy.write_text(json.dumps({**texts[0], "Statement": [one for text in texts for one in text["Statement"]]}))
    with Sandbox("t-baked", LOGS / "baked").running("--operator-policy", str(policy)) as running:
        running.play("provision", "-e", "spot_host_bake=true", log="provision")
        yield running
