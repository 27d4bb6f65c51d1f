# SPDX-License-Identifier: GPL-3.0-or-later
"""Where set-up keeps what it makes."""

from __future__ import annotations

from pathlib import Path

from sandbox.paths import ROOT as SANDBOX_STATE

__all__ = ["CACHE", "ROOT", "SANDBOX_STATE", "STAMP", "VENV", "program"]

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
CACHE = ROOT / ".cache"
# Says what the virtual environment was made from, once it is complete.
STAMP = VENV / ".spotcache"


def program(name: str) -> str:
    """The path of a program in the virtual environment, whether it is there yet or not."""
    return str(VENV / "bin" / name)
