"""The module dotenv on real files: owners, modes, backups, check mode, diffs, refusals."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils.file_attributes import Attributes
from ansible_collections.spotcache.redis.plugins.modules import dotenv as module

PHP = module.Reader("www-data", 33, (33,), known=True)
SECRET = "p@ss w0rd#1"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    own = module.Reader("me", os.getuid(), (os.getgid(),), known=False)
    monkeypatch.setattr(module, "find_reader", lambda _: own)

    def call(check: bool = False, **parameters: Any) -> dict[str, Any]:
        arguments = {"path": str(tmp_path / ".env"), "_ansible_check_mode": check, "_ansible_diff": True, **parameters}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


@pytest.fixture
def env(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_bytes(b"# mine\r\nAPP_KEY=base64:abc=\r\nREDIS_HOST=old # c\r\n")
    path.chmod(0o640)
    return path


def test_check_change_again(run: Run, env: Path) -> None:
    before = env.read_bytes()
    wanted = {"values": {"REDIS_HOST": "new", "REDIS_PORT": 6379}, "secrets": {"REDIS_PASSWORD": SECRET}}
    planned = run(check=True, **wanted)
    assert planned["changed"]
    assert env.read_bytes() == before
    assert os.listdir(env.parent) == [".env"]

    done = run(**wanted)
    assert done["changed"]
    assert done["keys_set"] == planned["keys_set"] == ["REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD"]
    assert done["names"] == ["APP_KEY", "REDIS_HOST", "REDIS_PASSWORD", "REDIS_PORT"]
    assert env.read_bytes() == (
        b'# mine\r\nAPP_KEY=base64:abc=\r\nREDIS_HOST=new # c\r\nREDIS_PORT=6379\r\nREDIS_PASSWORD="p@ss w0rd#1"\r\n'
    )
    backup = Path(done["backup_file"])
    assert backup.name == ".env.backup"
    assert backup.read_bytes() == before
    assert [stat.S_IMODE(path.stat().st_mode) for path in (env, backup)] == [0o640, 0o640]
    for check in (True, False):
        again = run(check=check, **wanted)
        assert not again["changed"]
        assert again["backup_file"] == ""
    assert sorted(os.listdir(env.parent)) == [".env", ".env.backup"]


def test_no_secret_is_shown(run: Run, env: Path) -> None:
    run(secrets={"REDIS_PASSWORD": "first-secret"})
    for check in (True, False):
        shown = run(check=check, secrets={"REDIS_PASSWORD": SECRET}, values={"REDIS_HOST": "new", "APP_KEY": "other!"})
        text = json.dumps({**shown, "invocation": None})
        for secret in (SECRET, "first-secret", "other!", "base64:abc"):
            assert secret not in text
        assert shown["diff"][0]["before"] == "REDIS_HOST=old\nAPP_KEY=(not shown)\nREDIS_PASSWORD=(not shown)\n"
        after = "REDIS_HOST=new\nAPP_KEY=(not shown, new)\nREDIS_PASSWORD=(not shown, new)\n"
        assert shown["diff"][0]["after"] == after
        assert SECRET not in json.dumps(shown.get("invocation"))


def test_absent_and_restored(run: Run, env: Path) -> None:
    before = env.read_bytes()
    assert run(check=True, state="absent", keys=["APP_KEY", "NONE"])["changed"]
    gone = run(state="absent", keys=["APP_KEY", "NONE"])
    assert gone["keys_removed"] == ["APP_KEY"]
    assert env.read_bytes() == b"# mine\r\nREDIS_HOST=old # c\r\n"
    assert not run(state="absent", keys=["APP_KEY"])["changed"]
    assert run(check=True, state="restored")["changed"]
    assert env.read_bytes() != before
    assert run(state="restored")["changed"]
    assert env.read_bytes() == before
    assert not run(state="restored")["changed"]


def test_restoring_replaces_a_file_that_does_not_parse(run: Run, env: Path) -> None:
    before = env.read_bytes()
    run(values={"A": "1"})
    env.write_text("A=two words\n")
    assert run(state="restored")["changed"]
    assert env.read_bytes() == before


def test_reading(run: Run, env: Path) -> None:
    env.write_text("A=null\nB='x y'\nC=\"${B}!\"\nD=(true)\n")
    assert "values" not in run()
    answer = run(**{"return": "values"})
    assert not answer["changed"]
    assert answer["parsed"] == {"A": None, "B": "x y", "C": "x y!", "D": True}


def test_a_try_leaves_the_file_alone(run: Run, env: Path, tmp_path: Path) -> None:
    before = env.read_bytes()
    dest = tmp_path / ".env.try"
    assert run(dest=str(dest), values={"REDIS_HOST": "new"})["written"] == str(dest)
    assert b"REDIS_HOST=new" in dest.read_bytes()
    assert env.read_bytes() == before
    assert stat.S_IMODE(dest.stat().st_mode) == 0o640
    assert not run(dest=str(dest), values={"REDIS_HOST": "new"})["changed"]
    assert sorted(os.listdir(tmp_path)) == [".env", ".env.try"]


def test_a_symbolic_link_stays_one(run: Run, env: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(env)
    done = run(path=str(tmp_path / "link"), values={"REDIS_HOST": "new"})
    assert (tmp_path / "link").is_symlink()
    assert done["written"] == str(env)
    assert b"REDIS_HOST=new" in env.read_bytes()


def test_others_lose_their_permissions_once_there_is_a_password(run: Run, env: Path) -> None:
    env.chmod(0o644)
    assert run(check=True, secrets={"REDIS_PASSWORD": SECRET})["diff"][1]["after"].startswith("mode 0640")
    run(secrets={"REDIS_PASSWORD": SECRET})
    assert [stat.S_IMODE(path.stat().st_mode) for path in (env, env.with_name(".env.backup"))] == [0o640, 0o640]
    env.chmod(0o644)
    # Although no key changes.
    assert run(secrets={"REDIS_PASSWORD": SECRET})["changed"]
    assert stat.S_IMODE(env.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Attributes(0o644, 0, 0), Attributes(0o640, 0, 33)),
        (Attributes(0o664, 1000, 1000), Attributes(0o660, 1000, 33)),
        (Attributes(0o640, 1000, 33), Attributes(0o640, 1000, 33)),
        (Attributes(0o604, 33, 0), Attributes(0o600, 33, 0)),
        (Attributes(0o600, 33, 33), Attributes(0o600, 33, 33)),
    ],
)
def test_php_can_always_read_it(before: Attributes, after: Attributes) -> None:
    assert module.safe(before, PHP) == after
    assert PHP.may(after, 4)


def test_a_file_that_php_cannot_read_is_refused(env: Path) -> None:
    env.chmod(0o600)
    with pytest.raises(module.Refused, match=r"cannot be read by www-data, so the application ignores it: chgrp 33 "):
        module.check_readable(str(env), PHP)
    env.chmod(0o644)
    env.parent.chmod(0o700)
    with pytest.raises(module.Refused, match=rf"cannot go through the directory {env.parent},"):
        module.check_readable(str(env), PHP)
    # In a container only the mounted directory counts, not the way to it.
    for folder in (env.parent, env):
        folder.chmod(0o755)
    env.parent.parent.chmod(0o700)
    module.check_readable(str(env), module.Reader("33:33", 33, (33,), known=False))


@pytest.mark.parametrize(
    ("content", "parameters", "message"),
    [
        (b"A=1\nB=two words\n", {"values": {"A": "2"}}, "line 2 (B) has text after a blank"),
        (b"A=1\n", {"secrets": {"REDIS_PASSWORD": "0"}}, "the value of REDIS_PASSWORD is a lone zero"),
        (b"A=1\n", {"values": {"B": "a\0b"}}, "the value of B contains a NUL"),
        (b"A=1\n", {"values": {"B": "1"}, "secrets": {"B": "1"}}, "B stands in values and in secrets"),
        (b"A=1\n", {"state": "absent"}, "name the keys to remove"),
        (b"A=1\n", {"state": "absent", "keys": ["A"], "values": {"A": "1"}}, "leave values and secrets out"),
        (b"A=1\n", {"keys": ["A"], "values": {"A": "1"}}, "leave it in one of them"),
        (b"A=1\n", {"grammar": ["modern"]}, 'grammar has "modern", which is unknown: use multiline, unicode, comments'),
        (b"A=1\n", {"state": "restored"}, "there was no change"),
        (b"A=1\n", {"state": "restored", "values": {"A": "1"}}, "goes with path alone"),
        (b"#" * 2**21, {"values": {"A": "1"}}, "longer than 1 MiB"),
        (None, {"values": {"A": "1"}}, "does not exist: deploy the application first"),
    ],
)
def test_refusals_change_nothing(
    run: Run, tmp_path: Path, content: bytes | None, parameters: dict[str, Any], message: str
) -> None:
    path = tmp_path / ".env"
    if content is not None:
        path.write_bytes(content)
    for check in (True, False):
        answer = run(check=check, **parameters)
        assert answer["failed"]
        assert message in answer["msg"]
        assert answer["msg"].endswith(".")
    assert os.listdir(tmp_path) == ([] if content is None else [".env"])
    assert content is None or path.read_bytes() == content


def test_an_unknown_reader_is_named(capsys: pytest.CaptureFixture[str], env: Path) -> None:
    with patch_module_args({"path": str(env), "reader": "no-such-user"}), pytest.raises(SystemExit):
        module.main()
    assert 'reader is "no-such-user", and this host has no such user' in json.loads(capsys.readouterr().out)["msg"]
    assert module.find_reader("1000:1001") == module.Reader("1000:1001", 1000, (1001,), known=False)
    assert module.find_reader("root").uid == 0


def test_a_file_mounted_alone_is_refused(run: Run, env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not module.mounted_alone(str(env))
    assert module.mounted_alone("/proc")
    monkeypatch.setattr(module, "mounted_alone", lambda path: path == str(env))
    assert "is mounted as a single file" in run(values={"REDIS_HOST": "new"})["msg"]
    assert not run(values={"REDIS_HOST": "old"})["changed"]


def test_a_file_that_changes_meanwhile_is_left_alone(run: Run, env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module.write

    def meddle(path: str, data: bytes, attributes: Attributes) -> None:
        write(path, data, attributes)
        env.write_text("SOMEBODY=else\n")

    monkeypatch.setattr(module, "write", meddle)
    assert "changed by somebody else" in run(values={"REDIS_HOST": "new"})["msg"]
    assert env.read_text() == "SOMEBODY=else\n"


def test_a_full_disk_leaves_the_file(run: Run, env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = env.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device. It is as it was." in run(values={"REDIS_HOST": "new"})["msg"]
    assert env.read_bytes() == before
    assert os.listdir(env.parent) == [".env"]


def test_doubts_are_warnings(run: Run, env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr("ansible.module_utils.basic.AnsibleModule.warn", lambda self, text, **_: warned.append(text))
    env.write_text("COLOR=#fff\n")
    run(values={"A": "1"})
    assert warned == [f"{env}: line 1 (COLOR) is read only as far as its #: quote the value."]
