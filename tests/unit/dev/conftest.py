# SPDX-License-Identifier: GPL-3.0-or-later
"""A fresh checkout for the tests of set-up."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.setup import paths


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh checkout in a temporary folder, on a machine that never had a sandbox."""
    for name, path in {"ROOT": ".", "VENV": ".venv", "CACHE": ".cache", "STAMP": ".venv/.spotcache"}.items():
        monkeypatch.setattr(paths, name, tmp_path / path)
    monkeypatch.setattr(paths, "SANDBOX_STATE", tmp_path / "state")
    for pins in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / pins).write_text("ansible==1\n")
    return tmp_path
