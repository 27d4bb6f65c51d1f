"""redis_runtime_config against a real redis-server."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import redis_conf
from ansible_collections.spotcache.redis.plugins.module_utils.redis_wire import Connection, RedisError
from ansible_collections.spotcache.redis.plugins.modules import redis_runtime_config

from dev.ports import Port
from tests.unit.module_support import ModuleFailed, run_module
from tests.unit.redis.certificates import Authority, Issued
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
    about = server.connect().info("server")
    engine = "valkey" if "valkey_version" in about else "redis"
    assert (result["engine"], result["version"]) == (engine, about[f"{engine}_version"])


def test_dynamic_settings_are_set_and_static_ones_named(server: Server, live: Live) -> None:
    server.start()
    text = "maxmemory 64mb\nmaxmemory-policy allkeys-lru\ndatabases 20\ntimeout 300\n"
    predicted = live(text, check=True, diff=True)
    assert predicted["applied"] == ["maxmemory", "maxmemory-policy", "timeout"]
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


KEEPER = "-@all +ping +info +bgsave +config|get +config|set +acl|load"


def hashed(password: str) -> str:
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


@pytest.fixture
def on_host(server: Server, live: Live, tmp_path: Path) -> Live:
    """Write users and the keeper's password as on a host, and run the module with them."""
    users, password = tmp_path / "users.acl", tmp_path / "password"

    def run(text: str, secret: str = "the-keepers-own-one", *, started: bool = False, **options: Any) -> dict[str, Any]:
        users.write_text(f"user default off -@all\nuser keeper on {hashed(secret)} {KEEPER}\n{text}")
        password.write_text(f"{secret}\n")
        if started:
            server.start(f"aclfile {users}\n")
        return live(
            f"aclfile {users}\n",
            users_file=str(users),
            username="keeper",
            password_file=str(password),
            last_known_good_dir=str(tmp_path / "known_good"),
            just_started=started,
            **options,
        )

    return run


def let_in(server: Server, name: str, password: str) -> bool:
    try:
        Connection("127.0.0.1", server.port).command("AUTH", name, password)
    except RedisError:
        return False
    return True


def test_users_come_change_and_go(server: Server, on_host: Live, tmp_path: Path) -> None:
    one = f"user one on {hashed('first')} ~a:* +get\nuser gone on nopass +ping\n"
    begun = on_host(one, started=True)
    assert (begun["users"], begun["recorded"]) == ([], True)
    assert (tmp_path / "known_good/users.acl").stat().st_mode & 0o777 == 0o600
    assert on_host(one)["changed"] is False

    two = f"user one on {hashed('second')} ~a:* +get\nuser two on {hashed('third')} +ping\n"
    result = on_host(two, diff=True)
    assert result["users"] == ["gone", "one", "two"]
    assert hashed("second") not in str(result)
    found = [let_in(server, *who) for who in (("one", "first"), ("one", "second"), ("two", "third"), ("gone", "x"))]
    assert found == [False, True, True, False]
    assert on_host(two)["changed"] is False


def test_a_new_password_of_the_keepers_is_taken_up(server: Server, on_host: Live) -> None:
    on_host("", started=True)
    assert on_host("", "another-of-the-keepers")["users"] == ["keeper"]
    assert (let_in(server, "keeper", "the-keepers-own-one"), let_in(server, "keeper", "another-of-the-keepers")) == (
        False,
        True,
    )


def test_a_refused_rule_changes_no_user(server: Server, on_host: Live) -> None:
    on_host("user one on nopass +ping\n", started=True)
    with pytest.raises(ModuleFailed, match=r"Redis refuses its users: .*nosuchcategory"):
        on_host("user two on nopass +ping\nuser one on nopass +@nosuchcategory\n")
    assert (let_in(server, "one", "x"), let_in(server, "two", "x")) == (True, False)


def test_a_server_that_had_one_password_for_all_is_started_anew(server: Server, live: Live, on_host: Live) -> None:
    server.start(secrets="requirepass the-password-of-all\n")
    known_good = str(server.directory / "known_good")
    live(secrets="requirepass the-password-of-all\n", last_known_good_dir=known_good)
    result = on_host("", secrets="\n")
    assert result["restart_required"] == ["aclfile", "requirepass"]
    # Until then nobody is let in who was not before.
    assert (let_in(server, "default", "x"), let_in(server, "default", "the-password-of-all")) == (False, True)


def test_certificates_are_loaded_anew_without_a_restart(server: Server, live: Live, tmp_path: Path) -> None:
    folder, known_good = tmp_path / "tls", str(tmp_path / "known_good")
    folder.mkdir()
    text = (
        f"port 0\ntls-port {server.port}\ntls-auth-clients no\ntls-cert-file {folder}/tls.crt\n"
        f"tls-key-file {folder}/tls.key\ntls-ca-cert-file {folder}/ca.crt\n"
    )

    def put(issued: Issued) -> None:
        for name, content in zip(
            ("ca.crt", "tls.crt", "tls.key"), (issued.authority, issued.certificate, issued.private_key), strict=True
        ):
            (folder / name).write_text(content)

    def presented() -> str:
        return ssl.get_server_certificate(("127.0.0.1", server.port))

    def run(**options: Any) -> dict[str, Any]:
        return live(text, tls_directory=str(folder), last_known_good_dir=known_good, **options)

    first, second = Authority().issue(), Authority().issue()
    put(first)
    server.start(text)
    assert run(just_started=True)["recorded"] is True
    assert run()["changed"] is False
    started = server.process
    # Of another authority: until they are loaded the server is known by the one before.
    put(second)
    assert (run(check=True)["certificates"], presented()) == (True, first.certificate)
    assert (run()["certificates"], presented()) == (True, second.certificate)
    assert run()["changed"] is False
    assert server.process is started
    put(Issued(first.certificate, second.private_key, second.authority))
    with pytest.raises(ModuleFailed, match="Redis refuses its certificates"):
        run()
    assert presented() == second.certificate


def test_where_there_is_no_tls_no_certificate_is_loaded(server: Server, live: Live, tmp_path: Path) -> None:
    # As when a configuration is put back: the folder is named, for what is put back may be one with TLS.
    server.start()
    assert live(f"port {server.port}\n", tls_directory=str(tmp_path))["certificates"] is False


def test_a_server_of_a_strange_authority_is_not_believed(server: Server, live: Live, tmp_path: Path) -> None:
    server.start_with_tls(Authority().issue())
    (tmp_path / "ca.crt").write_text(Authority().pem)
    text = f"port 0\ntls-port {server.port}\n"
    with pytest.raises(ModuleFailed, match="certificate verify failed"):
        live(text, tls_directory=str(tmp_path), timeout=1)


def test_turning_tls_on_needs_a_restart(server: Server, live: Live, tmp_path: Path) -> None:
    server.start()
    known_good = str(tmp_path / "known_good")
    live(last_known_good_dir=known_good)
    result = live(
        f"port 0\ntls-port {server.port}\ntls-auth-clients no\ntimeout 7\n",
        tls_directory=str(tmp_path),
        last_known_good_dir=known_good,
    )
    assert (result["applied"], result["restart_required"]) == (["timeout"], ["port", "tls-auth-clients", "tls-port"])
    assert server.connect().command("PING") == "PONG"


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
        ("", ("127.0.0.1", 6379, False)),
        ("port 7000\nbind 10.0.0.5 -::1\n", ("10.0.0.5", 7000, False)),
        ("bind -::1 10.0.0.5 127.0.0.1\n", ("127.0.0.1", 6379, False)),
        ("bind * -::*\n", ("127.0.0.1", 6379, False)),
        ("bind ::\n", ("::1", 6379, False)),
        ("port 0\n", None),
        ("port 0\ntls-port 7001\n", ("127.0.0.1", 7001, True)),
    ],
)
def test_where_a_server_listens(text: str, expected: tuple[str, int, bool] | None) -> None:
    assert redis_runtime_config.endpoint(redis_conf.parse(text)) == expected
