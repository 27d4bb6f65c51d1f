# SPDX-License-Identifier: GPL-3.0-or-later
"""The role redis goes on only where the data volume, and no other with its label, is mounted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dev.work import ROOT, tool

NAME = "Check that the data volume and no other is mounted"


@pytest.mark.parametrize(("mounts", "code"), [(["259:5"], 0), (["259:5", "259:6"], 2), (["259:6"], 2), ([], 2)])
def test_another_volume_with_the_same_label_is_noticed(tmp_path: Path, mounts: list[str], code: int) -> None:
    tasks = yaml.safe_load((ROOT / "roles" / "redis" / "tasks" / "main.yml").read_text())
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {
            "redis_volume_id": "vol-1",
            "redis__volume": {"number": "259:5", "device": "/dev/nvme1n1"},
            "redis__mounts": mounts,
            "redis__mountpoint": "/srv/redis",
        },
        "tasks": [task for task in tasks if task["name"] == NAME],
    }
    (tmp_path / "play.json").write_text(json.dumps([play]))
    done = subprocess.run(
        [tool("ansible-playbook"), "-i", "localhost,", "-c", "local", str(tmp_path / "play.json")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
    )
    assert done.returncode == code, done.stdout
    assert "ok=1" in done.stdout or "/srv/redis is not where /dev/nvme1n1 (redis_volume_id vol-1) is" in " ".join(
        done.stdout.split()
    )
