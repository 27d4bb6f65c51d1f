# SPDX-License-Identifier: GPL-3.0-or-later
"""One sandbox whose hosts are virtual machines, of the release that SPOTCACHE_DEBIAN names; see dev/vm.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.sandboxes import Sandbox
from dev.vm import FILESYSTEMS, FOLDER, name_of
from sandbox.image import chosen_release

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it needs a sandbox."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def filesystem() -> str:
    """Of the data volume: each release has another one."""
    return FILESYSTEMS[chosen_release()]


@pytest.fixture(scope="session")
def place(filesystem: str) -> Iterator[Sandbox]:
    """A sandbox with a network and a bare host: nothing has been put on it yet."""
    release = chosen_release()
    with Sandbox(name_of(release), FOLDER / release, swift=True).running("--machines") as running:
        running.given = {"redis_volume_filesystem": filesystem}
        # What stands in AWS only; the plays for the host find none.
        running.play("provision", "--limit", "localhost", log="1-network-and-host")
        yield running
