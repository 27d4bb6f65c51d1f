# SPDX-License-Identifier: GPL-3.0-or-later
"""The building of Redis' image beside another apt, and alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dev.work import ROOT

# No image, no engine, and packages that cannot be fetched.
APT = """#!/bin/sh
echo "$*" >>"$ASKED"
case $* in *install*) echo 'E: Unable to fetch some archives'; exit 100 ;; esac
"""


@pytest.mark.parametrize(("words", "updates"), [(["--ahead"], 0), ([], 1)])
def test_the_lists_are_fetched_only_where_no_other_apt_does(tmp_path: Path, words: list[str], updates: int) -> None:
    script = (ROOT / "roles" / "redis" / "files" / "build-image.sh").read_text()
    for place in ("/var/cache/", "/run/"):
        assert place in script
        script = script.replace(place, f"{tmp_path}/")
    asked = tmp_path / "asked"
    for name, text in {"apt-get": APT, "docker": "#!/bin/sh\nexit 1\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-s", "--", *words, "redis:1"],
        input=script,
        capture_output=True,
        text=True,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "ASKED": str(asked),
            "DOCKERFILE": "",
            "REDIS_ID": "1:1",
            "ENGINE": "valkey",
        },
    )
    assert done.returncode == 1
    assert "Unable to fetch" in done.stderr
    assert "install valkey-server valkey-tools" in asked.read_text()
    assert sum(" update" in line for line in asked.read_text().splitlines()) == updates
    assert not (tmp_path / "spotcache-image").exists()
