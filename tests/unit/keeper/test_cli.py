"""The keeper's command line: exit codes, JSON on standard output, one line for a person on standard error."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from spotcache_keeper import cli
from spotcache_keeper.config import Config
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.system.lock import only_run
from spotcache_keeper.system.times import utc_now

from dev.keeper_json import KEEPER_JSON
from tests.unit.keeper.support import PASSWORD, TestHost, flip_bit, restore_until_killed


@pytest.fixture
def host(tmp_path: Path) -> Iterator[TestHost]:
    made = TestHost(tmp_path / "host")
    (made.directory / "keeper.json").write_text(json.dumps({**KEEPER_JSON, "bucket": "backups"}))
    made.start()
    yield made
    made.engine.kill()


@pytest.fixture
def keeper(host: TestHost, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, Any, str]]]:
    """Runs a command; gives its exit code, what it printed (decoded if JSON) and what it told a person."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}

    def build(config: Config, report: Callable[[str], None]) -> Context:
        assert config.environment == "stg"
        return host.context(report=report)

    def run(*arguments: str) -> tuple[int, Any, str]:
        code = cli.main(["--config", str(host.directory / "keeper.json"), *arguments], build)
        printed = capsys.readouterr()
        assert PASSWORD not in printed.out + printed.err
        return code, json.loads(printed.out) if "--json" in arguments else printed.out, printed.err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_backup_and_its_restore(host: TestHost, keeper: Callable[..., tuple[int, Any, str]]) -> None:
    host.fill("one", keys=4)
    code, result, said = keeper("backup", "--json", "--reason", "timer")
    assert code == 0
    assert {key: result[key] for key in ("command", "ok", "changed", "error", "keys", "verified", "reason")} == {
        "command": "backup",
        "ok": True,
        "changed": True,
        "error": None,
        "keys": 60,
        "verified": True,
        "reason": "timer",
    }
    assert result["databases"]["15"] == {"keys": 20, "expires": 3}
    assert said == f"backed up {result['id']}: 60 keys, 0.0 MiB, verified; on the volume, S3\n"
    with host.client() as client:
        client.flushall()
    code, restored, said = keeper("restore", "--json", "--expect-environment", "stg")
    assert code == 0
    assert (restored["changed"], restored["id"], restored["source"]) == (True, result["id"], "volume")
    assert (restored["keys_loaded"], restored["keys_expired"], restored["databases_compared"]) == (60, 0, True)
    assert f"restored {result['id']} of {result['created']} from volume: 60 of 60 keys loaded" in said
    code, again, said = keeper("restore", "--json")
    # What was restored is backed up, as the newest there is now; the one that it came from is in place as well.
    newest = max(source["id"] for source in keeper("list", "--json")[1]["sources"])
    assert (code, again["changed"], again["id"]) == (0, False, newest)
    assert newest > result["id"]
    code, again, _ = keeper("restore", "--json", "--from", result["id"])
    assert (code, again["changed"], again["id"]) == (0, False, result["id"])
    assert "is in place already" in said
    code, status, _ = keeper("status", "--json")
    assert (code, status["last_backup"]["id"], status["last_restore"]["id"]) == (0, result["id"], result["id"])
    assert status["last_error"] is None
    assert "Last restore" in keeper("status")[1]


def test_every_step_is_told_when_asked(host: TestHost, keeper: Callable[..., tuple[int, Any, str]]) -> None:
    assert "checking the RDB" in keeper("backup", "--verbose")[2]
    assert "checking the RDB" not in keeper("backup")[2]


def test_a_refusal_and_an_error_have_their_codes_and_are_remembered(
    host: TestHost, keeper: Callable[..., tuple[int, Any, str]]
) -> None:
    assert keeper("restore", "--json")[:2] == (
        4,
        {
            "command": "restore",
            "ok": False,
            "changed": False,
            "error": "there is no backup of this environment on the volume, in S3 or in an EBS snapshot",
            "exit_code": 4,
            "warnings": [],
        },
    )
    host.fill("one", keys=4)
    backed_up = keeper("backup", "--json")[1]["id"]
    # Another command's success does not hide what went wrong.
    assert keeper("status", "--json")[1]["last_error"]["command"] == "restore"
    host.fill("two", keys=4)
    code, _, said = keeper("restore")
    assert code == 3
    assert "Use --force" in said
    flip_bit(host.rdb(backed_up), 200)
    code, answer, said = keeper("restore", "--force", "--json")
    assert (code, answer["exit_code"]) == (1, 1)
    assert len(said.splitlines()) == 2
    assert keeper("restore", "--from", "soon")[0] == 2
    assert keeper("restore", "--expect-environment", "prod")[0] == 2
    error = keeper("status", "--json")[1]["last_error"]
    assert (error["command"], "'prod'" in error["message"]) == ("restore", True)


def test_a_copy_that_failed_is_no_success(
    host: TestHost, keeper: Callable[..., tuple[int, Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: Any) -> str:
        raise KeeperError("writing s3://backups/x: AWS denies s3:PutObject")

    monkeypatch.setattr(host.s3, "put", fails, raising=False)
    code, result, said = keeper("backup", "--json")
    assert (code, result["ok"], result["stored"]["s3"], result["verified"]) == (1, False, None, True)
    assert "s3:PutObject" in result["error"]
    assert "on the volume; BUT not copied to S3: writing" in said
    assert keeper("status", "--json")[1]["last_error"]["message"] == result["error"]
    monkeypatch.undo()
    assert keeper("backup")[0] == 0
    assert keeper("status", "--json")[1]["last_error"] is None


def test_list_for_people_and_programs(host: TestHost, keeper: Callable[..., tuple[int, Any, str]]) -> None:
    assert keeper("list")[:2] == (0, "There is no backup of stg yet.\n")
    backed_up = keeper("backup", "--json")[1]["id"]
    code, listing, _ = keeper("list", "--json")
    assert code == 0
    assert listing["unreadable"] == {}
    assert [(row["id"], row["where"], row["note"]) for row in listing["sources"]] == [(backed_up, "volume", "")]
    assert backed_up in keeper("list")[1].splitlines()[1]


def test_a_place_that_cannot_be_listed_is_named(
    host: TestHost, keeper: Callable[..., tuple[int, Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Any:
        raise KeeperError("listing s3://backups/: AWS denies s3:ListBucket")

    keeper("backup")
    monkeypatch.setattr(host.s3, "sources", fails, raising=False)
    code, listing, said = keeper("list", "--json")
    assert (code, listing["ok"], len(listing["sources"])) == (1, False, 1)
    assert listing["unreadable"] == {"s3": "listing s3://backups/: AWS denies s3:ListBucket"}
    assert "s3:ListBucket" in said


def test_a_second_run_says_who_is_at_work(host: TestHost, keeper: Callable[..., tuple[int, Any, str]]) -> None:
    with only_run(host.context().lock_path, "restore", 1, utc_now()):
        code, _, said = keeper("backup")
        assert code == 1
        assert "another run of the keeper is at work: restore, process" in said
        assert "restore, process" in keeper("status", "--json")[1]["running"]
    assert keeper("backup")[0] == 0


def test_an_interrupted_restore_is_ended_by_the_next_command(
    host: TestHost, keeper: Callable[..., tuple[int, Any, str]]
) -> None:
    host.fill("one", keys=2)
    first = keeper("backup", "--json")[1]["id"]
    host.fill("two", keys=2)
    keeper("backup")
    count = 0
    while keeper("status", "--json")[1]["interrupted_restore"] is None:
        assert restore_until_killed(host, first, count)
        count += 1
    code, result, said = keeper("backup", "--json")
    assert code == 0
    assert any(f"an interrupted restore of {first}" in warning for warning in result["warnings"])
    assert f"note: an interrupted restore of {first}" in said


def test_a_signal_ends_a_run_cleanly(
    host: TestHost, keeper: Callable[..., tuple[int, Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_arguments: Any, **_named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(host.engine, "check_rdb", terminated)
    code, result, said = keeper("backup", "--json")
    assert (code, result["error"]) == (1, "stopped by SIGTERM; nothing half done is left behind")
    assert "stopped by SIGTERM" in said
    assert list(host.backups.iterdir()) == []


def test_a_wrong_configuration_is_named(host: TestHost, keeper: Callable[..., tuple[int, Any, str]]) -> None:
    (host.directory / "keeper.json").write_text('{"environment": 5}')
    code, result, said = keeper("backup", "--json")
    assert (code, result["exit_code"]) == (2, 2)
    assert "'region' is missing" in said


@pytest.mark.parametrize("arguments", [[], ["sing"], ["backup", "--reason", "fun"], ["restore", "--to", "x"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: spotcache-keeper" in capsys.readouterr().err
