# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests through the sandbox that have not yet passed as a whole on a quiet machine.

They belong to what is still being built and are run by name:
`pytest tests/pending`. One that has passed moves to tests/e2e, where every run of the tests includes it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import provisioned, sandbox

__all__ = ["provisioned", "sandbox"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it needs a sandbox."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
