# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of how AWX runs spotcache, and of what configures it: the suite `awx`."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it runs whole playbooks."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.plays)
