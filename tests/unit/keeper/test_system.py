# SPDX-License-Identifier: GPL-3.0-or-later
"""Files, the lock and commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.system.commands import Completed, run_command
from spotcache_keeper.system.files import exchange, write_atomically
from spotcache_keeper.system.lock import is_held, only_run

from tests.unit.keeper.examples import NOON


def test_an_exchange_swaps_two_directories(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "two").exists()
    assert (tmp_path / "two" / "one").exists()
    with pytest.raises(KeeperError, match="cannot be exchanged: No such file"):
        exchange(tmp_path / "one", tmp_path / "three")


def test_a_file_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")
    write_atomically(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


def test_two_runs_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    assert not is_held(path)
    with only_run(path, "restore", 1, NOON):
        assert is_held(path)
        message = f"another run of the keeper is at work: restore, process {os.getpid()}, since 2026-11-22T12:00:00Z"
        with pytest.raises(KeeperError) as caught, only_run(path, "backup", 0.2, NOON):
            pass
        assert message in str(caught.value)
    assert not is_held(path)
    with only_run(path, "backup", 0, NOON):
        pass


def test_a_missing_or_endless_program_is_an_error_for_people() -> None:
    with pytest.raises(KeeperError, match="no-such-program is not installed on this host"):
        run_command(["no-such-program"], timeout=1)
    with pytest.raises(KeeperError, match=r"`sleep 5 \.\.\.` did not end within 0 s"):
        run_command(["sleep", "5"], timeout=0.1)
    assert Completed(3, "", "").complaint == "exit code 3"
