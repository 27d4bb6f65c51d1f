"""Files that are replaced and stay what they were in owner, group, mode, ACL and SELinux context: as root."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.module_utils import file_attributes
from ansible_collections.spotcache.redis.plugins.module_utils.file_attributes import ACL, CONTEXT, Attributes
from ansible_collections.spotcache.redis.plugins.modules import dotenv
from ansible_collections.spotcache.redis.plugins.modules import laravel_app as module

DEPLOY, PHP, NOBODY = 1234, 33, 0xFFFFFFFF
# u::rw- u:33:r-- g::r-- m::r-- o::---
LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [(1, 6, NOBODY), (2, 4, PHP), (4, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)]
)
LABEL = b"system_u:object_r:httpd_sys_rw_content_t:s0\0"


def dressed(path: Path, text: str, mode: int = 0o664, gid: int = DEPLOY) -> Path:
    """A file as somebody who deploys has left it."""
    path.write_text(text)
    os.chown(path, DEPLOY, gid)
    path.chmod(mode)
    return path


@pytest.fixture
def env(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return dressed(tmp_path / ".env", "A=1\n", 0o644)


def test_everything_about_a_file_stays(tmp_path: Path) -> None:
    path = dressed(tmp_path / "config.php", "old")
    os.setxattr(path, ACL, LIST)
    os.setxattr(path, CONTEXT, LABEL)
    before = Attributes.of(str(path))
    assert (before.mode, before.uid, before.gid, before.acl, before.context) == (0o640, DEPLOY, DEPLOY, LIST, LABEL)
    file_attributes.replace(str(path), b"new", before)
    assert path.read_text() == "new"
    assert Attributes.of(str(path)) == before
    assert [one.name for one in tmp_path.iterdir()] == ["config.php"]


def test_a_file_that_cannot_be_given_away_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dressed(tmp_path / "config.php", "old")

    def refuse(*_args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(PermissionError):
        file_attributes.replace(str(path), b"new", Attributes.of(str(path)))
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["config.php"]


@pytest.mark.parametrize(
    ("attributes", "uid", "gids", "readable"),
    [
        (Attributes(0o640, DEPLOY, PHP), PHP, (PHP,), True),
        (Attributes(0o640, DEPLOY, DEPLOY), PHP, (PHP,), False),
        (Attributes(0o640, DEPLOY, DEPLOY, LIST), PHP, (PHP,), True),
        # The mask takes from everybody but the owner and the others.
        (Attributes(0o600, DEPLOY, DEPLOY, LIST), PHP, (PHP,), False),
        (Attributes(0o640, DEPLOY, DEPLOY, LIST), 77, (77,), False),
        (Attributes(0o640, DEPLOY, DEPLOY, LIST), 77, (DEPLOY,), True),
        (Attributes(0o604, DEPLOY, DEPLOY), 77, (DEPLOY,), False),
    ],
)
def test_who_can_read_it(attributes: Attributes, uid: int, gids: tuple[int, ...], readable: bool) -> None:
    assert attributes.permits(uid, gids, 4) is readable


def test_an_env_keeps_them_in_a_change_and_comes_back_as_it_was(env: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(**parameters: Any) -> dict[str, Any]:
        with patch_module_args({"path": str(env), **parameters}), pytest.raises(SystemExit):
            dotenv.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    os.setxattr(env, CONTEXT, LABEL)
    before = Attributes.of(str(env))
    php = {"reader": f"{PHP}:{PHP}"}
    changed = run(secrets={"REDIS_PASSWORD": "x"}, **php)
    assert changed["changed"]
    # A password has come in: others may not read it any more, and PHP still can.
    assert Attributes.of(str(env)) == Attributes(0o640, DEPLOY, PHP, b"", LABEL)
    assert Attributes.of(f"{env}.backup").mode == 0o640
    result = run(state="restored", before=changed["before"], **php)
    assert (env.read_text(), Attributes.of(str(env))) == ("A=1\n", before)
    assert result["attributes"] == f"0644 {DEPLOY}:{DEPLOY}"


def test_an_acl_decides_who_reads_an_env(env: Path) -> None:
    os.setxattr(env, ACL, LIST)
    reader = dotenv.find_reader(f"{PHP}:{PHP}")
    dotenv.check_readable(str(env), reader)
    assert dotenv.safe(Attributes.of(str(env)), reader) == Attributes.of(str(env))
    other = dotenv.find_reader("77:77")
    with pytest.raises(dotenv.Refused, match="setfacl -m u:77:r"):
        dotenv.safe(Attributes.of(str(env)), other)


def test_a_cached_configuration_keeps_them_and_comes_back_as_it_was(tmp_path: Path) -> None:
    application = module.Application(str(tmp_path), "root", "php", "", "none", 1)
    config = dressed(tmp_path / "config.php", "old")
    before = Attributes.of(str(config))
    rebuilt = {"cache_file": str(config), "content": "bmV3"}
    made = module.put_in_place(application, rebuilt)
    assert (made["changed"], made["config_backup"]) == (True, f"{config}.backup")
    assert Attributes.of(f"{config}.backup") == Attributes(0o600, 0, 0)
    assert (config.read_text(), Attributes.of(str(config))) == ("new", before)
    assert module.put_in_place(application, rebuilt) == {"changed": False}
    back = made["config_before"]
    assert module.put_back(application, str(config), back) == (True, f"{config} (0664 {DEPLOY}:{DEPLOY})")
    assert (config.read_text(), Attributes.of(str(config))) == ("old", before)
    assert module.put_back(application, str(config), back) == (False, "")
