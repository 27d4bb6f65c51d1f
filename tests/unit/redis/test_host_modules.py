"""host_info, host_files, data_volume_info, redis_config and secret_file: what they see and what they write."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import json
import os
import socketserver
import struct
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.spotcache.redis.plugins.module_utils import docker_engine, host_state
from ansible_collections.spotcache.redis.plugins.module_utils.docker_engine import Engine, EngineError
from ansible_collections.spotcache.redis.plugins.modules import (
    data_volume_info,
    host_files,
    host_info,
    rdb_check,
    redis_config,
    secret_file,
)

from tests.unit.module_support import ModuleFailed, run_module

Capture = pytest.CaptureFixture[str]
OWNER = {"uid": os.getuid(), "gid": os.getgid()}
LABELS = ["spotcache-data", "spotcache"]

ANSWERS: dict[str, Any] = {
    "/info": {"ServerVersion": "20.10.24", "LiveRestoreEnabled": True, "ContainersRunning": 2},
    "/images/redis:1/json": {"Id": "sha256:1"},
    "/containers/one/json": {
        "Id": "c1",
        "Image": "sha256:1",
        "Config": {"Image": "redis:1", "Env": ["PASSWORD=x"], "Cmd": ["valkey-server", "--requirepass", "OPEN"]},
        "State": {"Running": True, "Restarting": False, "StartedAt": "2026-11-22T00:00:00Z"},
    },
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(ANSWERS.get(self.path, {"message": "none"})).encode()
        self.send_response(200 if self.path in ANSWERS else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class UnixServer(socketserver.ThreadingUnixStreamServer):
    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("local", 0)


@pytest.fixture
def engine_socket(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "engine.sock")
    with UnixServer(path, Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield path
        server.shutdown()


def test_the_engine_is_asked_and_secrets_stay_there(engine_socket: str) -> None:
    found = host_info.ask(Engine(engine_socket), ["redis:1", "redis:2"], ["one", "two"])
    assert found["images"] == {"redis:1": "sha256:1"}
    assert found["containers"]["one"]["image"] == "redis:1"
    assert (found["answers"], found["live_restore"], found["running"]) == (True, True, 2)
    assert found["containers"]["one"]["redis_engine"] == "valkey"
    assert "PASSWORD" not in str(found)
    assert "OPEN" not in str(found)
    assert "two" not in found["containers"]


def test_no_engine_is_no_error(tmp_path: Path) -> None:
    found = host_info.ask(Engine(str(tmp_path / "none.sock")), ["redis:1"], ["one"])
    assert found["answers"] is False
    assert "does not answer at" in found["reason"]
    with pytest.raises(EngineError):
        docker_engine.Engine(str(tmp_path / "none.sock")).info()


def test_a_host_is_described(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "file"
    file.write_text("text\n")
    file.chmod(0o640)
    (tmp_path / "link").symlink_to(file)
    paths = [str(tmp_path), str(file), str(tmp_path / "link"), str(tmp_path / "none")]
    found = run_module(host_info.main, capsys, paths=paths, contents=[*paths, "/proc/sys/kernel/ostype"])
    assert [found["paths"][path].get("type") for path in paths] == ["directory", "file", "link", None]
    assert found["paths"][str(file)]["mode"] == "0640"
    assert found["contents"] == {paths[1]: "text\n", paths[2]: "text\n", "/proc/sys/kernel/ostype": "Linux\n"}
    assert found["engine"]["answers"] is False
    assert found["changed"] is False


def test_packages_that_are_installed(capsys: Capture) -> None:
    found = run_module(host_info.main, capsys, packages=["base-files", "no-such-package"])
    assert list(found["packages"]) in (["base-files"], [])  # not every machine has dpkg


def test_files_are_written_once_and_seen_as_expected(tmp_path: Path, capsys: Capture) -> None:
    directory, file = str(tmp_path / "a/b"), str(tmp_path / "a/b/file")
    expected = [{"path": directory, "mode": "0750", **OWNER}, {"path": file, "text": "one\n", "mode": "0600", **OWNER}]
    assert run_module(host_info.main, capsys, expected=expected)["differing"] == [directory, file]

    predicted = run_module(host_files.main, capsys, check=True, diff=True, expected=expected)
    assert predicted["written"] == [directory, file]
    assert predicted["diff"][1]["after"] == "one\n"
    assert not Path(directory).exists()

    assert run_module(host_files.main, capsys, expected=expected)["changed"] is True
    assert (Path(file).read_text(), Path(file).stat().st_mode & 0o777) == ("one\n", 0o600)
    assert Path(directory).stat().st_mode & 0o777 == 0o750
    assert run_module(host_files.main, capsys, expected=expected)["changed"] is False
    assert run_module(host_info.main, capsys, expected=expected)["differing"] == []

    Path(file).chmod(0o644)
    corrected = run_module(host_files.main, capsys, diff=True, expected=expected)
    assert corrected["written"] == [file]
    assert "0644" in corrected["diff"][0]["before"]
    assert [path.name for path in Path(directory).iterdir()] == ["file"]


@pytest.mark.parametrize(("mode", "left"), [(0o600, b"\0\0\0\0\0\0\0"), (0o755, b"secret\n")])
def test_what_a_secret_was_is_not_left_in_free_blocks(tmp_path: Path, mode: int, left: bytes) -> None:
    path = tmp_path / "file"
    path.write_text("secret\n")
    path.chmod(mode)
    # Who holds the old file open sees what stands in its blocks.
    with path.open("rb") as old:
        host_state.replace_file(str(path), b"new\n", 0o600, *OWNER.values())
        assert old.read() == left
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new\n", 0o600)
    # What has another name is somebody's.
    os.link(path, tmp_path / "other")
    host_state.replace_file(str(path), b"newer\n", 0o600, *OWNER.values())
    assert (tmp_path / "other").read_bytes() == b"new\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file/below")
    with pytest.raises(ModuleFailed, match="file/below cannot be written"):
        run_module(host_files.main, capsys, expected=[{"path": below, "text": "x", "mode": "0600", **OWNER}])


@pytest.mark.parametrize(
    ("code", "found", "signatures", "zero", "expected"),
    [
        (2, {}, "", True, ("blank", "nothing")),
        (2, {}, "", False, ("foreign", "data of an unknown kind")),
        (2, {}, "0x1fe dos", True, ("foreign", "a signature that is not understood")),
        (8, {}, "", False, ("foreign", "signatures of more than one kind")),
        (0, {"PTTYPE": "gpt"}, "gpt", False, ("foreign", "a partition table (gpt)")),
        (0, {"TYPE": "ext4", "LABEL": "spotcache-data", "USAGE": "filesystem"}, "x", False, ("ours", "spotcache-data")),
        (0, {"TYPE": "xfs", "LABEL": "spotcache", "USAGE": "filesystem"}, "x", False, ("ours", "(xfs)")),
        (0, {"TYPE": "ext4", "LABEL": "photos", "USAGE": "filesystem"}, "x", False, ("foreign", 'labelled "photos"')),
        (0, {"TYPE": "ext4", "USAGE": "filesystem"}, "x", False, ("foreign", "without a label")),
        (0, {"TYPE": "vfat", "LABEL": "spotcache", "USAGE": "filesystem"}, "x", False, ("foreign", "vfat")),
        (0, {"TYPE": "LVM2_member", "USAGE": "raid"}, "x", False, ("foreign", "signature of kind raid (LVM2_member)")),
        (1, {}, "", True, ("foreign", "a signature that is not understood")),
    ],
)
def test_what_a_device_carries(
    code: int, found: dict[str, str], signatures: str, zero: bool, expected: tuple[str, str]
) -> None:
    state, carries = data_volume_info.judge(code, found, signatures, zero, LABELS)
    assert state == expected[0]
    assert expected[1] in carries


def test_only_zeros_are_nothing(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.write_bytes(bytes(2**20))
    assert data_volume_info.is_zero(str(device))
    device.write_bytes(bytes(2**20 - 1) + b"x")
    assert not data_volume_info.is_zero(str(device))
    device.write_bytes(b"")
    assert not data_volume_info.is_zero(str(device))


def test_sizes_of_filesystems_are_read_from_their_superblocks(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.write_bytes(b"XFSB" + struct.pack(">IQ", 4096, 1000) + bytes(4096))
    assert data_volume_info.filesystem_bytes(str(device), "xfs") == 4096 * 1000
    block = bytearray(4096)
    block[1028:1032], block[1048:1052] = struct.pack("<I", 500), struct.pack("<I", 2)
    block[1080:1082], block[1120:1124], block[1360:1364] = b"\x53\xef", struct.pack("<I", 0x80), struct.pack("<I", 1)
    device.write_bytes(block)
    assert data_volume_info.filesystem_bytes(str(device), "ext4") == (2**32 + 500) * 4096
    assert data_volume_info.filesystem_bytes(str(device), "btrfs") == 0


def test_mounts_and_fstab_are_read_as_the_kernel_writes_them() -> None:
    table = (
        "36 35 98:0 / /srv/redis rw,noatime - ext4 /dev/nvme1n1 rw\n"
        "37 35 7:3 / /srv/with\\040blank rw shared:1 - xfs /dev/loop3 rw\n"
        "38 36 7:4 / /srv/redis rw - xfs /dev/loop4 rw\n"
    )
    assert data_volume_info.mounts_at("/srv/redis", table) == [("98:0", "/dev/nvme1n1"), ("7:4", "/dev/loop4")]
    assert data_volume_info.mounts_at("/srv/with blank", table) == [("7:3", "/dev/loop3")]
    fstab = "# LABEL=no /srv/redis ext4\nLABEL=spotcache-data\t/srv/redis  ext4 defaults 0 0\n"
    assert data_volume_info.fstab_line("/srv/redis", fstab) == "LABEL=spotcache-data /srv/redis ext4 defaults 0 0"
    assert data_volume_info.fstab_line("/srv", fstab) == ""


def test_the_link_of_a_volume() -> None:
    assert data_volume_info.link_of("vol-0abc").endswith("nvme-Amazon_Elastic_Block_Store_vol0abc")


def test_files_that_a_mount_would_hide(tmp_path: Path) -> None:
    assert data_volume_info.files_below(str(tmp_path / "none")) == []
    (tmp_path / "redis").mkdir()
    assert data_volume_info.files_below(str(tmp_path)) == []
    (tmp_path / "redis/dump.rdb").write_text("")
    assert data_volume_info.files_below(str(tmp_path)) == [str(tmp_path / "redis/dump.rdb")]


def test_a_volume_that_is_not_there(capsys: Capture) -> None:
    found = run_module(
        data_volume_info.main, capsys, volume_id="vol-00000000", labels=LABELS, mountpoint="/srv/redis", wait=0
    )
    assert (found["state"], found["device"]) == ("missing", "")


def rdb(path: Path, magic: str, writer: str = "", version: str = "") -> str:
    """A file that begins as an RDB does."""
    field = b"\xfa" + bytes([len(writer)]) + writer.encode() + bytes([len(version)]) + version.encode()
    path.write_bytes(magic.encode() + (field if writer else b"") + b"\xfa\x0aredis-bits\xc0\x40")
    return str(path)


def test_an_rdb_says_which_server_wrote_it(tmp_path: Path, capsys: Capture) -> None:
    files = {
        rdb(tmp_path / "a.rdb", "REDIS0012", "redis-ver", "8.0.2"): (12, "redis", "8.0.2"),
        rdb(tmp_path / "b.rdb", "REDIS0011", "valkey-ver", "8.1.1"): (11, "valkey", "8.1.1"),
        rdb(tmp_path / "c.rdb", "VALKEY080", "valkey-ver", "9.0.0"): (80, "valkey", "9.0.0"),
        rdb(tmp_path / "d.rdb", "REDIS0010"): (10, "", ""),
    }
    rdb(tmp_path / "e.rdb", "SQLite format 3")
    (tmp_path / "f.rdb").mkdir()
    patterns = [f"{tmp_path}/*.rdb", f"{tmp_path}/none/*"]
    found = run_module(host_info.main, capsys, databases=patterns)["databases"]
    assert {path: tuple(one.values()) for path, one in found.items()} == files


# What the images' own checks say of nine bytes: of a version that they know, only that the file ends.
SAID = {True: "[offset 9] Unexpected EOF reading RDB file", False: "[offset 9] Can't handle RDB format version 12"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """rdb_check with a Valkey that reads up to version 11 as the image's; what it was asked."""
    seen: list[tuple[str, bytes]] = []

    def run(argv: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        mount = argv[argv.index("--mount") + 1]
        data = Path(mount.split("source=")[1].split(",")[0]).read_bytes()
        seen.append((argv[argv.index("--entrypoint") + 1], data))
        known = data.startswith(b"REDIS") and int(data[5:9]) <= 11
        said = SAID[True] if known else SAID[False].replace("12", data[-3:].decode())
        return subprocess.CompletedProcess(argv, 1, said, "")

    monkeypatch.setattr(rdb_check, "run", run)
    return seen


def test_data_that_an_images_server_cannot_read_is_not_given_to_it(
    asked: list[tuple[str, bytes]], tmp_path: Path, capsys: Capture
) -> None:
    old = rdb(tmp_path / "old.rdb", "REDIS0011", "redis-ver", "7.2.4")
    same = rdb(tmp_path / "same.rdb", "REDIS0011", "valkey-ver", "8.1.1")
    new = rdb(tmp_path / "new.rdb", "REDIS0012", "redis-ver", "8.0.2")
    text = str(tmp_path / "text")
    Path(text).write_text("*1\r\n")
    wanted: dict[str, Any] = {"image": "valkey:8", "engine": "valkey"}
    found = run_module(rdb_check.main, capsys, paths=[old, same, text], **wanted)
    assert (found["changed"], found["checked"]) == (False, [old, same])
    # A few bytes tell, and each version once.
    assert asked == [("valkey-check-rdb", b"REDIS0011")]
    with pytest.raises(ModuleFailed) as failed:
        run_module(rdb_check.main, capsys, paths=[old, new], **wanted)
    said = str(failed.value)
    assert f"redis_engine is valkey here, and {new} has RDB version 12 (Redis 8.0.2 wrote it)" in said
    assert "Keep redis_engine: redis" in said
    assert "provision_empty=true" in said


def test_a_check_that_could_not_run_is_no_leave_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    none = subprocess.CompletedProcess([], 127, "", "valkey-check-rdb: executable file not found in $PATH")
    monkeypatch.setattr(rdb_check, "run", lambda *_words, **_options: none)
    path = rdb(tmp_path / "dump.rdb", "REDIS0011")
    with pytest.raises(
        ModuleFailed, match=r"cannot be told: valkey-check-rdb of redis:1 could not be run: .*not found"
    ):
        run_module(rdb_check.main, capsys, paths=[path], image="redis:1", engine="valkey")


DIGEST = "0123abcd" * 8
USERS = f"user default off -@all\nuser joe on #{DIGEST} ~* +get\n"


@pytest.fixture
def config_args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """redis_config with this machine's own redis-server as the image's, and the test's user as root."""
    server = ["redis-server", *redis_config.SERVER_ARGUMENTS]
    monkeypatch.setattr(redis_config, "check_command", lambda *_: server)
    monkeypatch.setattr(redis_config, "has_image", lambda _: True)
    monkeypatch.setattr(redis_config, "ensure_directory", lambda path, _: Path(path).mkdir(exist_ok=True))
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    monkeypatch.setattr(
        redis_config.Target, "attributes", lambda self, status: (status.st_mode & 0o777, self.uid, self.gid)
    )
    return {
        "directory": str(tmp_path / "etc"),
        "config": "port 7000\naclfile /etc/redis/users.acl\ninclude /etc/redis/secrets.conf\n",
        "secrets": "masterauth the-secret-itself\n",
        "users": USERS,
        "image": "redis:1",
        **OWNER,
    }


def test_a_checked_configuration_is_written(config_args: dict[str, Any], capsys: Capture) -> None:
    predicted = run_module(redis_config.main, capsys, check=True, diff=True, **config_args)
    assert (predicted["changed"], predicted["written"]) == (True, ["redis.conf", "secrets.conf", "users.acl"])
    assert not Path(config_args["directory"]).exists()

    written = run_module(redis_config.main, capsys, diff=True, **config_args)
    assert written["checked"] is True
    assert "the-secret-itself" not in str(written)
    assert [one["after"] for one in written["diff"]] == [config_args["config"], "user default\nuser joe\n"]
    assert "0123abcd" not in str(written)
    secrets = Path(config_args["directory"]) / "secrets.conf"
    assert (secrets.read_text(), secrets.stat().st_mode & 0o777) == ("masterauth the-secret-itself\n", 0o400)
    users = secrets.with_name("users.acl")
    assert (users.read_text(), users.stat().st_mode & 0o777) == (USERS, 0o400)

    again = run_module(redis_config.main, capsys, **config_args)
    assert (again["changed"], again["checked"], again["written"]) == (False, False, [])

    more = config_args | {"users": USERS.replace("+get", "+set") + "user new on nopass +ping\n"}
    [_config, shown] = run_module(redis_config.main, capsys, check=True, diff=True, **more)["diff"]
    assert (shown["before"], shown["after"]) == (
        "user default\nuser joe\n",
        "user default\nuser joe (changed)\nuser new\n",
    )


def test_a_refused_configuration_replaces_nothing(config_args: dict[str, Any], capsys: Capture) -> None:
    run_module(redis_config.main, capsys, **config_args)
    bad = config_args | {"config": "port 7000\nmax-clients 5\n"}
    for check in (True, False):
        with pytest.raises(ModuleFailed, match="Redis does not accept 'max-clients 5'"):
            run_module(redis_config.main, capsys, check=check, **bad)
    assert (Path(config_args["directory"]) / "redis.conf").read_text() == config_args["config"]
    with pytest.raises(ModuleFailed, match=r"correct or remove user in redis_users") as failure:
        run_module(redis_config.main, capsys, **config_args | {"users": USERS + f"user jack on #{DIGEST} ~* nothing\n"})
    assert "0123abcd" not in str(failure.value)


def test_the_check_can_touch_nothing() -> None:
    argv = redis_config.check_command("valkey", "redis:1", "/nowhere", 999, 999)
    assert argv[:2] == ["docker", "run"]
    assert argv[argv.index("--entrypoint") + 1] == "valkey-server"
    for word in ("--rm", "none", "--read-only", "ALL", "999:999", "never"):
        assert word in argv


def test_a_secret_is_made_once_and_told_by_its_hash(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "etc/keeper-password"
    predicted = run_module(secret_file.main, capsys, check=True, path=str(path))
    assert (predicted["changed"], path.exists()) == (True, False)
    made = run_module(secret_file.main, capsys, path=str(path))
    secret = path.read_text().strip()
    assert (made["changed"], len(secret), path.stat().st_mode & 0o777) == (True, 64, 0o600)
    assert made["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in str(made)
    again = run_module(secret_file.main, capsys, path=str(path), known_elsewhere=["another"])
    assert (again["changed"], again["sha256"]) == (False, made["sha256"])


def test_another_secret_is_made_when_others_know_it_or_on_request(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "keeper-password"
    path.write_text("the password of all\n")
    path.chmod(0o600)
    run_module(secret_file.main, capsys, path=str(path), known_elsewhere=["the password of all"])
    secret = path.read_text()
    assert secret != "the password of all\n"
    run_module(secret_file.main, capsys, path=str(path), renew=True)
    assert path.read_text() != secret


def test_a_secret_that_others_may_read_is_closed(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "keeper-password"
    path.write_text("kept\n")
    path.chmod(0o644)
    assert run_module(secret_file.main, capsys, path=str(path))["changed"] is True
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("kept\n", 0o600)
