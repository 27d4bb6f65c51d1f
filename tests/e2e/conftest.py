# SPDX-License-Identifier: GPL-3.0-or-later
"""Sandboxes for the tests, brought up once for all that can share them.

Every name starts with `t-`, so that cleaning up after the tests touches no sandbox of a person's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.sandboxes import Sandbox
from rehearsal.work import BUILD

LOGS = BUILD / "test" / "e2e"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it needs a sandbox. Files that share one run in one process, two processes side by side."""
    here = [item for item in items if HERE in item.path.parents]
    sharing = {item.path for item in here if {"sandbox", "provisioned"} & set(getattr(item, "fixturenames", ()))}
    for item in here:
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.xdist_group("shared" if item.path in sharing else item.path.stem))


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
