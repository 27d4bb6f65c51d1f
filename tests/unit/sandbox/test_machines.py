# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual machines as hosts, as far as they decide something without one: command lines, conversations, names."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dev import suites, vm
from dev.work import ROOT
from sandbox import guest_image, image, qemu

ADDRESS = qemu.Address(
    ipv4="10.77.3.4/16",
    gateway="10.77.0.1",
    dns="10.77.0.2",
    search="ap-northeast-1.compute.internal",
    ipv6=("2001:db8:4d00::5",),
    networks_6=("2001:db8:4d00::/56",),
    router_6="fe80::1",
)


def command(**given: Any) -> list[str]:
    usual: dict[str, Any] = {
        "name": "i-0123456789abcdef0",
        "instance_type": "t3.small",
        "mac": "02:42:0a:4d:03:04",
        "address": ADDRESS,
        "root": Path("/pool/root.img"),
        "kernel": Path("/guest/vmlinuz"),
        "initrd": Path("/guest/initrd.img"),
        "root_label": "root",
        "sockets": qemu.Sockets(Path("/hosts/i-0")),
        "kvm": False,
        "processors": 2,
        "memory_mib": 2048,
    }
    return qemu.command(**(usual | given))


def test_a_machine_waits_until_its_disks_are_there_and_says_that_it_is_amazons() -> None:
    words = command()
    assert "-S" in words
    bios = [words[at + 1] for at, word in enumerate(words) if word == "-smbios"]
    # By these cloud-init knows EC2: the vendor, and a UUID that begins with ec2 and is the serial number as well.
    uuid = qemu.identity("i-0123456789abcdef0")
    assert uuid.startswith("ec2")
    assert [len(part) for part in uuid.split("-")] == [8, 4, 4, 4, 12]
    assert bios[1] == f"type=1,manufacturer=Amazon EC2,product=t3.small,serial={uuid},uuid={uuid}"
    assert "tcg,thread=multi" in words
    assert {"kvm", "host"} <= set(command(kvm=True))


def test_the_guest_is_told_its_network_and_writes_it_down(tmp_path: Path) -> None:
    append = command()[command().index("-append") + 1]
    for words in (ADDRESS.words(), replace(ADDRESS, ipv6=()).words()):
        (tmp_path / "cmdline").write_text(" ".join(["root=LABEL=root", *words]))
        script = (guest_image.ASSETS / "rootfs/usr/local/lib/sandbox/network").read_text()
        script = script.replace("/proc/cmdline", str(tmp_path / "cmdline"))
        script = script.replace("/run/systemd/network", str(tmp_path / "made"))
        subprocess.run(["sh", "-c", script], check=True)
        made = (tmp_path / "made" / "10-sandbox.network").read_text().splitlines()
        assert {"Address=10.77.3.4/16", "Gateway=10.77.0.1", "DNS=10.77.0.2"} <= set(made)
        six = {"Address=2001:db8:4d00::5/128", "Gateway=fe80::1", "Destination=2001:db8:4d00::/56"}
        assert six & set(made) == (six if words == ADDRESS.words() else set())
    assert all(word in append.split() for word in ADDRESS.words())


@contextmanager
def answering(
    path: Path, answer: Callable[[dict[str, Any]], list[dict[str, Any]]], hello: bytes = b""
) -> Iterator[None]:
    """Somebody at a socket who answers each message."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        link, _ = listener.accept()
        with link, link.makefile("rb") as lines:
            link.sendall(hello)
            for line in lines:
                for one in answer(json.loads(line.rpartition(b"\xff")[2])):
                    link.sendall(json.dumps(one).encode() + b"\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.close()
        thread.join(10)


def test_a_command_in_a_guest_comes_back_with_what_it_said(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    states = iter([{"exited": False}, {"exited": True, "exitcode": 3, "out-data": base64.b64encode(b"said").decode()}])

    def agent(message: dict[str, Any]) -> list[dict[str, Any]]:
        asked.append(message)
        if message["execute"] == "guest-sync-delimited":
            # First what an earlier conversation had asked for.
            return [{"return": {"pid": 7}}, {"return": message["arguments"]["id"]}]
        return [{"return": {"pid": 42} if message["execute"] == "guest-exec" else next(states)}]

    sockets = qemu.Sockets(tmp_path)
    with answering(sockets.agent, agent):
        assert qemu.execute(sockets, ["/bin/sh", "-s"], b"exit 3") == (3, b"said", b"")
    given = next(one["arguments"] for one in asked if one["execute"] == "guest-exec")
    assert (given["path"], given["arg"], base64.b64decode(given["input-data"])) == ("/bin/sh", ["-s"], b"exit 3")


def test_a_disk_is_gone_only_when_the_guest_has_let_go_of_it(tmp_path: Path) -> None:
    lets_go = True
    done: list[str] = []

    def monitor(message: dict[str, Any]) -> list[dict[str, Any]]:
        done.append(message["execute"])
        event = {"event": "DEVICE_DELETED", "data": {"device": "nvme-vol1", "path": "/machine"}}
        other = {"event": "DEVICE_DELETED", "data": {"path": "/machine/other"}}
        return [{"return": {}}, other, *([event] if lets_go and message["execute"] == "device_del" else [])]

    sockets = qemu.Sockets(tmp_path)
    with answering(sockets.monitor, monitor, b'{"QMP": {}}\n'):
        qemu.unplug(sockets, "vol1", timeout=5)
    assert done == ["qmp_capabilities", "device_del", "blockdev-del"]
    lets_go = False
    sockets.monitor.unlink()
    with (
        answering(sockets.monitor, monitor, b'{"QMP": {}}\n'),
        pytest.raises(qemu.MachineError, match="does not let go of vol1"),
    ):
        qemu.unplug(sockets, "vol1", timeout=0.3)
    assert done[-1] == "device_del"


def test_a_refusal_of_qemu_is_told_in_its_words(tmp_path: Path) -> None:
    def monitor(message: dict[str, Any]) -> list[dict[str, Any]]:
        wrong = {"error": {"class": "GenericError", "desc": "Bus 'slot9' not found"}}
        return [wrong if message["execute"] == "device_add" else {"return": {}}]

    sockets = qemu.Sockets(tmp_path)
    with (
        answering(sockets.monitor, monitor, b'{"QMP": {}}\n'),
        pytest.raises(qemu.MachineError, match="refused device_add: Bus 'slot9' not found"),
    ):
        qemu.plug(sockets, 9, tmp_path / "disk", "vol1")


def test_kvm_counts_only_when_it_runs_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, program = tmp_path / "kvm", tmp_path / "qemu"
    code = tmp_path / "code"
    program.write_text(f"#!/bin/sh\nexit $(cat {code})\n")
    program.chmod(0o755)
    monkeypatch.setattr(qemu, "PROGRAM", str(program))
    code.write_text("0")
    assert not qemu.kvm_works(tmp_path / "vmlinuz", device)
    device.touch()
    assert qemu.kvm_works(tmp_path / "vmlinuz", device)
    code.write_text("1")
    assert not qemu.kvm_works(tmp_path / "vmlinuz", device)


def test_a_changed_file_makes_another_disk_and_keeps_the_packages() -> None:
    inputs = image.Inputs("trixie", "deb", "conf", {})
    assets = guest_image.read_assets()
    assert {path for path, _, _ in assets} >= {*guest_image.SHARED, "configure"}
    changed = [(path, mode, data + b"\n") for path, mode, data in assets]
    assert guest_image.folder_name(inputs, assets).startswith("trixie-")
    assert guest_image.folder_name(inputs, assets) != guest_image.folder_name(inputs, changed)
    assert guest_image.base_name(inputs) == guest_image.base_name(replace(inputs, certificates={"own.crt": b"x"}))


def test_a_machine_has_nothing_that_debians_cloud_image_lacks_but_its_agent() -> None:
    beside = {"linux-image-cloud-amd64", "udev", "qemu-guest-agent"}
    assert set(image.GUEST_PACKAGES) - beside <= set(image.cloud_image_packages())


def test_the_suite_is_no_part_of_the_tests_and_tells_each_scenario(tmp_path: Path) -> None:
    every = [word for jobs in suites.e2e_jobs() for job in jobs for word in job.command]
    assert not [word for word in [*every, *suites.unit_folders()] if "tests/vm" in word]
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite><testcase name='test_a_backup' time='1.5'/><testcase name='test_b' time='2'><failure/>"
        "</testcase></testsuite></testsuites>"
    )
    assert vm.scenarios(report) == [("a backup", 1.5, "ok"), ("b", 2.0, "FAILED")]
    assert [vm.side_by_side(2, memory) for memory in (4.0, 7.8, 15.6, 64.0)] == [1, 1, 2, 2]
    scenarios = (ROOT / "tests" / "vm" / "test_machine.py").read_text()
    assert all(name in scenarios for names in vm.LEFT_OUT.values() for name in names)
    # What a person asks for comes last, and so counts.
    assert list(vm.job_of("12", ["-k", "reboot"]).command)[-2:] == ["-k", "reboot"]
    assert vm.job_of("12", ["-k", "reboot"]).environment[0] == ("SPOTCACHE_DEBIAN", "12")
