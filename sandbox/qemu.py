"""qemu as this sandbox uses it: its command line, its two sockets, and whether this machine's KVM runs a kernel.

Both sockets speak JSON, a line each: the machine protocol (QMP) with which devices come and go, and the protocol of the
agent inside the guest (qemu's own ``qemu-ga``), which runs commands there.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = "qemu-system-x86_64"
SLOTS: Final = 8  # as many volumes may be attached at once
AGENT: Final = "org.qemu.guest_agent.0"
# Without hardware's help: with AES instructions, each of which is one step for qemu, and without wide vectors.
PLAIN_CPU: Final = "Westmere"


class MachineError(RuntimeError):
    """A virtual machine does not do what it is told; the message says what."""


@dataclass(frozen=True)
class Sockets:
    """Where one machine's files stand: a folder below the sandbox's."""

    folder: Path

    @property
    def monitor(self) -> Path:
        """QMP's socket."""
        return self.folder / "qmp"

    @property
    def agent(self) -> Path:
        """The guest agent's socket."""
        return self.folder / "agent"

    @property
    def console(self) -> Path:
        """What the kernel and systemd say."""
        return self.folder / "console.log"


@dataclass(frozen=True)
class Address:
    """A guest's place in its network, with which it is told what DHCP would tell it."""

    ipv4: str
    gateway: str
    dns: str
    search: str
    ipv6: tuple[str, ...] = ()
    networks_6: tuple[str, ...] = ()
    router_6: str = ""

    def words(self) -> list[str]:
        """The same as words of a kernel's command line; see the guest's /usr/local/lib/sandbox/network."""
        six = bool(self.ipv6)
        lists = {
            "address": [self.ipv4, *(f"{one}/128" for one in self.ipv6)],
            "gateway": [self.gateway, *([self.router_6] if six else [])],
            "dns": [self.dns],
            "search": [self.search],
            "network6": list(self.networks_6) if six else [],
        }
        return [f"sandbox.{name}={','.join(values)}" for name, values in lists.items() if values]


def identity(instance_id: str) -> str:
    """The UUID of an instance's DMI data, which on EC2 begins with ec2."""
    text = "ec2" + hashlib.sha256(instance_id.encode()).hexdigest()[3:32]
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def command(
    *,
    name: str,
    instance_type: str,
    mac: str,
    address: Address,
    root: Path,
    kernel: Path,
    initrd: Path,
    root_label: str,
    sockets: Sockets,
    kvm: bool,
    processors: int,
    memory_mib: int,
) -> list[str]:
    """Return the command line of a machine that waits, with its root disk alone, until it is told to run."""
    uuid = identity(name)
    append = [
        f"root=LABEL={root_label}",
        "ro",
        "console=ttyS0,115200",
        "nvme_core.io_timeout=4294967295",
        # Without KVM they cost and guard nothing.
        *([] if kvm else ["mitigations=off"]),
        *address.words(),
    ]
    slots = [f"pcie-root-port,id=slot{number},chassis={number},slot={number}" for number in range(1, SLOTS + 1)]
    devices = [
        f"nvme,id=root,drive=root,serial=vol{uuid.replace('-', '')[:17]}",
        f"virtio-net-pci,netdev=net,mac={mac},romfile=",
        "virtio-rng-pci",
        "virtio-serial-pci",
        f"virtserialport,chardev=agent,name={AGENT}",
        *slots,
    ]
    return [
        PROGRAM,
        *("-name", name, "-nodefaults", "-no-user-config", "-display", "none", "-S"),
        *("-machine", "q35", "-accel", "kvm" if kvm else "tcg,thread=multi"),
        *("-cpu", "host" if kvm else PLAIN_CPU, "-smp", str(processors), "-m", str(memory_mib)),
        *("-smbios", "type=0,vendor=Amazon EC2,version=1.0"),
        *("-smbios", f"type=1,manufacturer=Amazon EC2,product={instance_type},serial={uuid},uuid={uuid}"),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-append", " ".join(append)),
        *("-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no"),
        # What the guest has flushed need not survive this machine's own end.
        *("-blockdev", json.dumps(disk("root", root))),
        *("-chardev", f"socket,id=agent,path={sockets.agent},server=on,wait=off"),
        *itertools.chain.from_iterable(("-device", one) for one in devices),
        *("-chardev", f"socket,id=qmp,path={sockets.monitor},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
        *("-serial", f"file:{sockets.console}"),
    ]


def disk(node: str, file: Path) -> dict[str, Any]:
    """A file as a disk, for -blockdev and blockdev-add."""
    return {
        "driver": "raw",
        "node-name": node,
        "discard": "unmap",
        "cache": {"no-flush": True},
        "file": {"driver": "file", "filename": str(file), "cache": {"no-flush": True}, "discard": "unmap"},
    }


@dataclass
class Wire:
    """One connection to either of the sockets.

    Raises:
        MachineError: nobody answers there, or not in time.
    """

    link: socket.socket
    about: str
    buffer: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        try:
            self.link.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise MachineError(f"{self.about} took no message: {error}") from error

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the next message."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            self.link.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                chunk = self.link.recv(65536)
            except TimeoutError as error:
                raise MachineError(f"{self.about} did not answer within {timeout:g} s") from error
            except OSError as error:
                raise MachineError(f"{self.about} hung up: {error}") from error
            if not chunk:
                raise MachineError(f"{self.about} hung up")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        # The agent marks the first answer of a connection with a byte that is not in any JSON.
        message: dict[str, Any] = json.loads(line.rpartition(b"\xff")[2])
        return message

    def ask(self, what: str, arguments: Mapping[str, Any] | None = None, timeout: float = 30) -> Any:
        """Have a command carried out and return its result; events that come meanwhile are kept."""
        self.send({"execute": what} | ({"arguments": dict(arguments)} if arguments else {}))
        deadline = time.monotonic() + timeout
        while True:
            answer = self.receive(max(0.01, deadline - time.monotonic()))
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise MachineError(f"{self.about} refused {what}: {answer['error'].get('desc', answer['error'])}")
            elif "return" in answer:
                return answer["return"]

    def wait_for(self, event: str, timeout: float, **data: Any) -> bool:
        """Whether an event with these data comes in time, or has come already."""
        deadline = time.monotonic() + timeout
        while True:
            for one in self.events:
                if one["event"] == event and data.items() <= one.get("data", {}).items():
                    return True
            try:
                answer = self.receive(max(0.01, deadline - time.monotonic()))
            except MachineError:
                return False
            if "event" in answer:
                self.events.append(answer)


@contextlib.contextmanager
def connected(path: Path, about: str, timeout: float) -> Iterator[Wire]:
    """A connection to a socket, which may only be about to appear.

    Raises:
        MachineError: nobody listened in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(str(path))
            break
        except OSError as error:
            link.close()
            if time.monotonic() > deadline:
                raise MachineError(f"{about} does not listen at {path}: {error}") from error
            time.sleep(0.05)
    with link:
        yield Wire(link, about)


@contextlib.contextmanager
def monitor(sockets: Sockets, timeout: float = 20) -> Iterator[Wire]:
    """A machine's QMP. One at a time: qemu lets whoever comes later wait.

    Raises:
        MachineError: nobody listened in time.
    """
    with connected(sockets.monitor, f"the machine of {sockets.folder.name}", timeout) as wire:
        wire.receive(timeout)
        wire.ask("qmp_capabilities")
        yield wire


def plug(sockets: Sockets, slot: int, file: Path, serial: str) -> None:
    """Give a machine, running or not, a disk that is a file."""
    with monitor(sockets) as wire:
        wire.ask("blockdev-add", disk(serial, file))
        device = {"driver": "nvme", "id": f"nvme-{serial}", "drive": serial, "serial": serial, "bus": f"slot{slot}"}
        wire.ask("device_add", device)


def unplug(sockets: Sockets, serial: str, timeout: float = 60) -> None:
    """Take a disk away; a guest that does not let go of it in time keeps it.

    Raises:
        MachineError: it keeps it.
    """
    with monitor(sockets) as wire:
        wire.ask("device_del", {"id": f"nvme-{serial}"})
        if not wire.wait_for("DEVICE_DELETED", timeout, device=f"nvme-{serial}"):
            raise MachineError(f"{wire.about} does not let go of {serial}")
        wire.ask("blockdev-del", {"node-name": serial})


def execute(sockets: Sockets, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> tuple[int, bytes, bytes]:
    """Run a command in a guest, as root, and return its exit code and what it said.

    Raises:
        MachineError: the agent does not answer, or the command did not end in time.
    """
    deadline = time.monotonic() + timeout
    about = f"the agent in {sockets.folder.name}"
    with connected(sockets.agent, about, 5) as wire:
        _synchronise(wire, timeout)
        given = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if stdin:
            given["input-data"] = base64.b64encode(stdin).decode()
        pid = wire.ask("guest-exec", given)["pid"]
        while True:
            done = wire.ask("guest-exec-status", {"pid": pid})
            if done["exited"]:
                out, err = (base64.b64decode(done.get(name, "")) for name in ("out-data", "err-data"))
                return int(done.get("exitcode", -int(done.get("signal", 1)))), out, err
            if time.monotonic() > deadline:
                raise MachineError(f"{argv[0]} in {sockets.folder.name} did not end within {timeout:g} s")
            time.sleep(0.2)


def _synchronise(wire: Wire, timeout: float) -> None:
    """Have the agent's attention: what an earlier, broken conversation left is dropped."""
    number = int.from_bytes(os.urandom(4), "big")
    # The byte makes the agent's parser begin anew.
    wire.link.sendall(b"\xff")
    wire.send({"execute": "guest-sync-delimited", "arguments": {"id": number}})
    deadline = time.monotonic() + timeout
    while wire.receive(max(0.01, deadline - time.monotonic())).get("return") != number:
        pass


def kvm_works(kernel: Path, device: Path = Path("/dev/kvm"), patience_s: float = 20) -> bool:
    """Whether KVM of this machine runs a kernel: where virtual machines are nested it may be there and not.

    The kernel finds no root, and its panic ends the machine. One that cannot run it stops, or does nothing.
    """
    if not os.access(device, os.R_OK | os.W_OK) or shutil.which(PROGRAM) is None:
        return False
    with tempfile.TemporaryDirectory(prefix="spotcache-kvm-") as work:
        sockets = Sockets(Path(work))
        argv = [
            *(PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "512", "-kernel", str(kernel)),
            *("-append", "panic=-1", "-qmp", f"unix:{sockets.monitor},server=on,wait=off"),
        ]
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return _ran(child, sockets, time.monotonic() + patience_s)
        finally:
            child.kill()
            child.wait()


def _ran(child: subprocess.Popen[bytes], sockets: Sockets, deadline: float) -> bool:
    while time.monotonic() < deadline:
        if child.poll() is not None:
            return child.returncode == 0
        try:
            with monitor(sockets, 1) as wire:
                if wire.ask("query-status", timeout=1)["status"] not in ("running", "shutdown", "prelaunch"):
                    return False
        except MachineError:
            # It has not come that far, or has just ended.
            pass
        time.sleep(0.2)
    return False
