# SPDX-License-Identifier: GPL-3.0-or-later
"""The host: its name, its volumes, what is mounted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from spotcache_keeper.aws.machine import Identity, LinuxMachine, metadata
from spotcache_keeper.errors import DamagedError, KeeperError
from spotcache_keeper.system.commands import Completed, run_command

from tests.unit.keeper.examples import Docker


@pytest.fixture
def imds() -> Iterator[tuple[str, list[str]]]:
    """A metadata service that insists on version 2; gives its address and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, code: int, body: str = "") -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_PUT(self) -> None:
            self.answer(200 if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60" else 400, "token")

        def do_GET(self) -> None:
            known = {
                "/latest/meta-data/instance-id": "i-0abc",
                "/latest/meta-data/placement/availability-zone": "ap-northeast-1c\n",
            }
            if self.headers["X-aws-ec2-metadata-token"] != "token":
                self.answer(401)
            else:
                self.answer(200 if self.path in known else 404, known.get(self.path, ""))

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_who_the_host_is(imds: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds[0] + "/")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert LinuxMachine(run_command).identity() == Identity("i-0abc", "ap-northeast-1c")
    assert imds[1][0] == "PUT /latest/api/token"
    with pytest.raises(OSError, match="404"):
        metadata("no/such/value")


def test_a_silent_metadata_service_leaves_the_hosts_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    identity = LinuxMachine(run_command).identity()
    assert (identity.instance_id, identity.zone) == (os.uname().nodename, "")


def test_the_data_volume_is_known_by_its_link_never_by_its_name(tmp_path: Path) -> None:
    prefix = "nvme-Amazon_Elastic_Block_Store_vol"
    (tmp_path / f"{prefix}0aaaaaaaaaaaaaaa1").symlink_to("/dev/zero")
    (tmp_path / f"{prefix}0bbbbbbbbbbbbbbb2").symlink_to("/dev/null")
    (tmp_path / f"{prefix}0ccccccccccccccc3").symlink_to("/dev/gone")
    (tmp_path / f"{prefix}0ddddddddddddddd4_1").symlink_to("/dev/full")
    machine = LinuxMachine(run_command, links=tmp_path)

    def mounted_from(device: str) -> Any:
        return SimpleNamespace(stat=lambda: SimpleNamespace(st_dev=os.stat(device).st_rdev))

    assert machine.volume_id(mounted_from("/dev/null")) == "vol-0bbbbbbbbbbbbbbb2"
    assert machine.volume_id(mounted_from("/dev/full")) == "vol-0ddddddddddddddd4"
    with pytest.raises(KeeperError, match=r"is not on an EBS volume: none of .*; set ebs_snapshots to false"):
        machine.volume_id(mounted_from("/dev/urandom"))


def test_an_attached_volume_is_waited_for_by_its_link(tmp_path: Path) -> None:
    machine = LinuxMachine(run_command, links=tmp_path)
    link = tmp_path / "nvme-Amazon_Elastic_Block_Store_vol0123"
    timer = threading.Timer(0.3, lambda: link.symlink_to("/dev/null"))
    timer.start()
    assert machine.wait_for_volume("vol-0123", 5) == Path("/dev/null")
    with pytest.raises(KeeperError, match=r"vol-0456 is attached, but .*0456 did not appear within 0 s"):
        machine.wait_for_volume("vol-0456", 0.1)


@pytest.mark.parametrize(
    ("kind", "options"), [("ext4", "ro,nodev,nosuid,noexec"), ("xfs", "ro,nodev,nosuid,noexec,nouuid")]
)
def test_a_copy_is_mounted_read_only_and_always_unmounted(tmp_path: Path, kind: str, options: str) -> None:
    commands = Docker([("blkid", Completed(0, kind + "\n", ""))])
    machine = LinuxMachine(commands, mounts=tmp_path / "mounts")
    path = tmp_path / "mounts" / "nvme2n1"

    def use() -> None:
        with machine.mounted(Path("/dev/nvme2n1")) as mounted:
            assert mounted == path
            assert commands.asked[-1] == ["mount", "-t", kind, "-o", options, "/dev/nvme2n1", str(path)]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert commands.asked[-1] == ["umount", str(path)]
    assert list((tmp_path / "mounts").iterdir()) == []


def test_a_copy_without_a_filesystem_is_damaged(tmp_path: Path) -> None:
    for answers, message in (
        ([("blkid", Completed(2, "", ""))], "holds no filesystem"),
        (
            [("blkid", Completed(0, "ext4", "")), ("mount", Completed(32, "", "wrong fs type"))],
            "cannot be mounted: wrong fs",
        ),
    ):
        with (
            pytest.raises(DamagedError, match=message),
            LinuxMachine(Docker(answers), mounts=tmp_path).mounted(Path("/dev/x")),
        ):
            pass


def test_what_a_killed_run_left_mounted_is_unmounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvme2n1").mkdir()
    (tmp_path / "nvme3n1").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "nvme3n1")
    commands = Docker([])
    LinuxMachine(commands, mounts=tmp_path).unmount_left_overs()
    assert commands.asked == [["umount", str(tmp_path / "nvme3n1")]]
