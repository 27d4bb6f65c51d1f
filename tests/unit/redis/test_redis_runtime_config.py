"""redis_runtime_config against a real redis-server."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import redis_conf
from ansible_collections.spotcache.redis.plugins.module_utils.redis_wire import Connection, RedisError
from ansible_collections.spotcache.redis.plugins.modules import redis_runtime_config

from dev.ports import Port
from tests.unit.module_support import ModuleFailed, run_module
from tests.unit.redis.support import Server, redis_server

Live = Callable[..., dict[str, Any]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture
def live(server: Server, capsys: pytest.CaptureFixture[str]) -> Live:
    """Run the module for the server; `secrets` is written to its file first."""

    def run(
        text: str = "", *, secrets: str | None = None, check: bool = False, diff: bool = False, **options: Any
    ) -> dict[str, Any]:
        args = {"config": server.base + text, "timeout": 5, **options}
        if secrets is not None:
            (server.directory / "secrets.conf").write_text(secrets)
            args["secrets_file"] = str(server.directory / "secrets.conf")
        return run_module(redis_runtime_config.main, capsys, check=check, diff=diff, **args)

    return run


def test_nothing_differs(server: Server, live: Live) -> None:
    server.start("maxmemory 100mb\nsave 900 1 300 10\nnotify-keyspace-events KEA\n")
    result = live("maxmemory 104857600\nsave 900 1\nsave 300 10\nnotify-keyspace-events AKE\n")
    assert (result["changed"], result["applied"], result["restart_required"]) == (False, [], [])
    assert result["version"].count(".") == 2


def test_dynamic_settings_are_set_and_static_ones_named(server: Server, live: Live) -> None:
    server.start()
    text = "maxmemory 64mb\nmaxmemory-policy allkeys-lru\ndatabases 20\nlazyfree-lazy-expire yes\n"
    predicted = live(text, check=True, diff=True)
    assert predicted["applied"] == ["lazyfree-lazy-expire", "maxmemory", "maxmemory-policy"]
    assert predicted["restart_required"] == ["databases"]
    assert "maxmemory 0\n" in predicted["diff"]["before"]
    assert "maxmemory 64mb\n" in predicted["diff"]["after"]
    assert server.connect().settings()["maxmemory"] == "0"

    result = live(text)
    assert (result["applied"], result["restart_required"]) == (predicted["applied"], predicted["restart_required"])
    assert server.connect().settings()["maxmemory"] == str(64 * 2**20)
    again = live(text)
    assert (again["changed"], again["restart_required"]) == (False, ["databases"])


def test_the_static_settings_are_those_that_the_server_calls_so(server: Server) -> None:
    server.start()
    connection = server.connect()
    settings = connection.settings()
    refused = set()
    for name, value in settings.items():
        try:
            # To what it is already, so that nothing changes.
            connection.command("CONFIG", "SET", name, value)
        except RedisError as error:
            if "immutable" in str(error) or "protected" in str(error):
                refused.add(name)
    assert refused == redis_runtime_config.STATIC & set(settings)


def test_a_refused_value_sets_back_what_was_set(server: Server, live: Live) -> None:
    server.start("timeout 5\n")
    with pytest.raises(ModuleFailed, match="Redis refuses maxmemory-policy = sometimes"):
        live("timeout 9\nmaxmemory-policy sometimes\n")
    assert server.connect().settings()["timeout"] == "5"


def test_a_new_password_is_set_live_and_never_shown(server: Server, live: Live, tmp_path: Path) -> None:
    server.start(secrets='requirepass "old p\\"assword-16"\n')
    known_good = tmp_path / "known_good"
    first = live(secrets='requirepass "old p\\"assword-16"\n', last_known_good_dir=str(known_good))
    assert (first["changed"], first["recorded"], first["applied"]) == (True, True, [])
    assert (known_good / "secrets.conf").stat().st_mode & 0o777 == 0o600
    assert known_good.stat().st_mode & 0o777 == 0o700

    result = live(secrets="requirepass brand-new-password\n", last_known_good_dir=str(known_good), diff=True)
    assert result["applied"] == ["requirepass"]
    assert "brand-new-password" not in str(result)
    assert "old p" not in str(result)
    assert result["diff"]["after"] == "requirepass (secret)\n"
    assert server.connect("brand-new-password").command("PING") == "PONG"
    assert live(secrets="requirepass brand-new-password\n", last_known_good_dir=str(known_good))["changed"] is False


def test_an_unknown_password_is_said_so(server: Server, live: Live) -> None:
    server.start(secrets="requirepass somebody-elses-password\n")
    with pytest.raises(ModuleFailed, match="accepts neither the new password nor the last one") as failure:
        live(secrets="requirepass the-password-of-ours\n", timeout=1)
    assert "the-password-of-ours" not in str(failure.value)


def test_users_come_change_and_go(server: Server, live: Live, tmp_path: Path) -> None:
    server.start()
    known_good = str(tmp_path / "known_good")
    one = "user one on nopass ~a:* +get\nuser health on nopass -@all +ping\n"
    assert live(one, last_known_good_dir=known_good)["users"] == ["health", "one"]
    assert live(one, last_known_good_dir=known_good)["users"] == []
    connection = server.connect()
    connection.command("ACL", "SETUSER", "byhand", "on")
    two = "user one on nopass ~b:* +get\nuser two on nopass +ping\n"
    assert live(two, last_known_good_dir=known_good)["users"] == ["health", "one", "two"]
    # Only users that the configuration had before are removed.
    assert sorted(connection.command("ACL", "USERS")) == ["byhand", "default", "one", "two"]
    assert "~b:*" in str(connection.command("ACL", "GETUSER", "one"))


def test_a_refused_rule_is_said_so(server: Server, live: Live) -> None:
    server.start()
    with pytest.raises(ModuleFailed, match="refuses the rules of the user one"):
        live("user one on nopass +@nosuchcategory\n")


def test_append_only_is_complete_when_the_module_ends(server: Server, live: Live) -> None:
    server.start('save ""\n')
    connection = server.connect()
    connection.command("SET", "key", "value")
    assert live('save ""\nappendonly yes\n')["applied"] == ["appendonly"]
    server.stop()
    server.start('save ""\nappendonly yes\n')
    assert server.connect().command("GET", "key") == "value"


def test_without_append_only_the_dump_is_complete(server: Server, live: Live) -> None:
    server.start('save ""\nappendonly yes\n')
    server.connect().command("SET", "key", "value")
    assert live('save ""\nappendonly no\n')["applied"] == ["appendonly"]
    server.stop()
    server.start('save ""\n')
    assert server.connect().command("GET", "key") == "value"


def test_saving_on_request(server: Server, live: Live) -> None:
    server.start('save ""\n')
    server.connect().command("SET", "key", "value")
    assert live('save ""\n', save=True, check=True)["saved"] is False
    assert not (server.directory / "dump.rdb").exists()
    assert live('save ""\n', save=True)["saved"] is True
    assert (server.directory / "dump.rdb").exists()


def test_a_save_that_never_ends_is_not_waited_for_for_ever(
    server: Server, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Microseconds that Redis lets pass after each key.
    server.start('save ""\nrdb-key-save-delay 10000000\n')
    server.connect().command("MSET", "a", "1", "b", "2")
    monkeypatch.setattr(redis_runtime_config, "CHILD_LIMIT", 0.5)
    with pytest.raises(ModuleFailed, match=r"The save did not end within 0 s"):
        live('save ""\nrdb-key-save-delay 10000000\n', save=True)


def test_a_directive_that_is_gone_needs_a_restart_when_no_default_is_known(
    server: Server, live: Live, tmp_path: Path
) -> None:
    server.start("maxclients 100\n")
    known_good = str(tmp_path / "known_good")
    live("maxclients 100\n", last_known_good_dir=known_good)
    result = live("", last_known_good_dir=known_good)
    assert (result["restart_required"], result["recorded"]) == (["maxclients"], False)
    assert live("", last_known_good_dir=known_good, just_started=True)["recorded"] is True


def test_what_only_a_start_reads_needs_a_restart(server: Server, live: Live, tmp_path: Path) -> None:
    server.start()
    known_good = str(tmp_path / "known_good")
    live("", last_known_good_dir=known_good)
    assert live('rename-command FLUSHALL ""\n', last_known_good_dir=known_good)["restart_required"] == [
        "rename-command"
    ]


def test_the_port_moves_live(server: Server, live: Live, tmp_path: Path) -> None:
    server.start()
    known_good = str(tmp_path / "known_good")
    live(last_known_good_dir=known_good)
    port = Port()
    assert live(f"port {port}\n", last_known_good_dir=known_good)["applied"] == ["port"]
    assert Connection("127.0.0.1", port).command("PING") == "PONG"


def test_nobody_answers(server: Server, live: Live) -> None:
    with pytest.raises(ModuleFailed, match=f"does not answer at 127.0.0.1:{server.port} within 1 s"):
        live(timeout=1)


def test_a_broken_file_is_named(server: Server, live: Live) -> None:
    with pytest.raises(ModuleFailed, match="line 5: a quote is not closed"):
        live('proc-title-template "x\n')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("127.0.0.1", 6379)),
        ("port 7000\nbind 10.0.0.5 -::1\n", ("10.0.0.5", 7000)),
        ("bind -::1 10.0.0.5 127.0.0.1\n", ("127.0.0.1", 6379)),
        ("bind * -::*\n", ("127.0.0.1", 6379)),
        ("bind ::\n", ("::1", 6379)),
        ("port 0\n", None),
    ],
)
def test_where_a_server_listens(text: str, expected: tuple[str, int] | None) -> None:
    assert redis_runtime_config.endpoint(redis_conf.parse(text)) == expected
