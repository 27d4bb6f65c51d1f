# SPDX-License-Identifier: GPL-3.0-or-later
"""What every unit test shares."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: the path of a Unix socket has room for 107 characters, and a test's name takes 30."""
    return tmp_path_factory.mktemp("t")
