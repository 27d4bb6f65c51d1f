"""A restore killed with SIGKILL at every step: whichever command comes next finds the old data or the new, whole."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from spotcache_keeper.backup.switch_data import read_journal, recover, work_directory
from spotcache_keeper.errors import InterruptedRunError, KeeperError
from spotcache_keeper.overview import make_status

from tests.unit.keeper.support import TestHost, restore_until_killed


@pytest.fixture(params=[False, True], ids=["rdb", "append-only"])
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TestHost]:
    made = TestHost(tmp_path / "host", appendonly=request.param)
    made.start()
    yield made
    made.engine.kill()
    made.engine.remove_scratch()


def test_a_killed_restore_loses_nothing(host: TestHost) -> None:
    host.fill("one", keys=4)
    first, one = host.backup().manifest.id, host.content()
    host.fill("two", keys=4)
    second, two = host.backup().manifest.id, host.content()
    killed = 0
    held, wanted = second, first
    while restore_until_killed(host, wanted, killed):
        # A backup that comes next must not back up something half done, a restore that comes next must get through.
        if killed % 2:
            assert host.backup(prune=False).manifest.keys == len(host.content())
        else:
            assert host.restore(wanted, force=True)[0].manifest.id == wanted
            assert host.content() == (one if wanted == first else two)
        content = host.content()
        assert content in (one, two)
        held, wanted = (first, second) if content == one else (second, first)
        assert not work_directory(host.context()).exists()
        assert {path.name for path in host.backups.iterdir()} == set(host.context().volume.ids())
        killed += 1
    assert host.content() == (two if held == first else one)
    assert killed >= 14


def kill_after_exchange(host: TestHost, backup_id: str) -> None:
    """Kill a restore right after the directories were exchanged: Redis is stopped then."""
    assert restore_until_killed(host, backup_id, 1, only="exchange")
    journal = read_journal(host.context())
    assert journal is not None
    assert host.redis_directory.stat().st_ino == journal.new_inode


def test_a_restore_killed_after_the_exchange_is_completed(host: TestHost) -> None:
    host.fill("one", keys=4)
    first, one = host.backup().manifest.id, host.content()
    host.fill("two", keys=4)
    host.backup()
    kill_after_exchange(host, first)
    assert make_status(host.context())["interrupted_restore"] == first
    # Clients wrote to what the killed run put in place: that must not be undone.
    host.start()
    with host.client() as client:
        client.set("written", "since")
    context = host.context()
    recover(context)
    assert {key for key in host.content() if key not in one} == {"0/written"}
    assert any("was completed" in warning for warning in context.warnings)
    assert make_status(host.context())["interrupted_restore"] is None


def test_a_restore_told_to_stop_puts_everything_back(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.fill("one", keys=4)
    first = host.backup().manifest.id
    host.fill("two", keys=4)
    host.backup()
    before = host.content()
    for step in ("putting the backup in place", "starting Redis", "comparing what Redis loaded"):

        def interrupt(said: str, step: str = step) -> None:
            if said == step:
                raise InterruptedRunError("SIGTERM")

        real = host.context
        monkeypatch.setattr(host, "context", lambda interrupt=interrupt, real=real: real(report=interrupt))
        with pytest.raises(InterruptedRunError):
            host.restore(first, force=True)
        monkeypatch.setattr(host, "context", real)
        assert host.content() == before
        assert not work_directory(host.context()).exists()


def test_an_exchange_that_redis_does_not_start_with_is_undone(host: TestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.fill("one", keys=4)
    first = host.backup().manifest.id
    host.fill("two", keys=4)
    host.backup()
    two = host.content()
    kill_after_exchange(host, first)
    real, tries = host.engine.start, []

    def fails_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise KeeperError("docker cannot start it")
        real()

    monkeypatch.setattr(host.engine, "start", fails_once)
    context = host.context()
    recover(context)
    assert any("was undone, since Redis does not start with it: docker cannot" in line for line in context.warnings)
    assert host.content() == two


def test_a_container_started_by_something_else_is_not_pulled_apart(
    host: TestHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.fill("one", keys=4)
    first = host.backup().manifest.id
    host.fill("two", keys=4)
    host.backup()
    before = host.content()
    monkeypatch.setattr(host.engine, "stop", lambda _timeout: None)
    with pytest.raises(KeeperError, match="was started by something else during the restore"):
        host.restore(first, force=True)
    assert host.content() == before
