"""Long-running programs of a Laravel application: which there are, who would start them anew, and which Redis they use.

Whoever runs on keeps the configuration that was there when it started. What a process is, is read from /proc, as root.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# Commands of artisan that run on. Those that hold somebody's job in hand are never killed.
PATIENT = ("queue:work", "queue:listen", "horizon")
RUNNING_ON = (*PATIENT, "schedule:work", "octane:start", "reverb:start", "pulse:check", "pulse:work", "serve")
# Parts of the ones above, and never anybody's own.
PARTS = (
    "horizon:supervisor",
    "horizon:work",
    "octane:swoole",
    "octane:roadrunner",
    "octane:frankenphp",
    "schedule:run",
)
# First programs of a container that do nothing but look after another one.
INITS = ("tini", "dumb-init", "docker-init", "catatonit", "sh", "bash", "dash")


@dataclass(frozen=True)
class Process:
    """What /proc tells of one."""

    pid: int
    # The same as it is called in its own container.
    inner: int
    parent: int
    arguments: tuple[str, ...]
    directory: str
    # Of the namespace of process ids: the same for all that a host, or a container, sees as its own.
    namespace: str
    user: int
    # Ticks after the machine's start.
    started: int
    unit: str
    environment: Mapping[str, str]

    @property
    def program(self) -> str:
        """The name of what was called."""
        return os.path.basename(self.arguments[0]) if self.arguments else ""


@dataclass(frozen=True)
class Keeper:
    """Who starts a process anew: `systemd`, `supervisor`, `container`, or nobody."""

    kind: str = ""
    name: str = ""

    def __str__(self) -> str:
        return (f"{self.kind} ({self.name})" if self.name else self.kind) or "nobody"


@dataclass(frozen=True)
class Parent:
    """One that runs on, without those that it has started itself."""

    command: str
    process: Process
    keeper: Keeper

    def __str__(self) -> str:
        return f"{self.command} (process {self.process.pid})"


def read_processes() -> dict[int, Process]:
    """All that this host sees. One that ends meanwhile is left out."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = _read(int(name))
            except (OSError, ValueError, IndexError, TypeError):
                continue
    return found


def _read(pid: int) -> Process:
    def content(name: str) -> bytes:
        with open(f"/proc/{pid}/{name}", "rb") as handle:
            return handle.read()

    # The name in brackets may hold blanks and brackets itself.
    fields = content("stat").decode(errors="replace").rpartition(")")[2].split()
    environment = {}
    for one in content("environ").decode(errors="replace").split("\0"):
        name, equals, value = one.partition("=")
        if equals:
            environment[name] = value
    arguments = content("cmdline").decode(errors="replace").rstrip("\0").split("\0")
    return Process(
        pid=pid,
        inner=int(re.search(r"^NSpid:.*\t(\d+)$", content("status").decode(errors="replace"), re.M)[1]),  # type: ignore[index]
        parent=int(fields[1]),
        arguments=tuple(one for one in arguments if one),
        directory=os.readlink(f"/proc/{pid}/cwd"),
        namespace=os.readlink(f"/proc/{pid}/ns/pid"),
        user=os.stat(f"/proc/{pid}").st_uid,
        started=int(fields[19]),
        unit=unit_of(content("cgroup").decode(errors="replace")),
        environment=environment,
    )


def unit_of(cgroup: str) -> str:
    """The service of systemd's that a process belongs to; empty for a login, a container or none."""
    path = next(
        (line.split(":", 2)[2] for line in cgroup.splitlines() if line.startswith(("0::", "1:name=systemd:"))), ""
    )
    last = next((part for part in reversed(path.split("/")) if part.endswith((".service", ".scope"))), "")
    own = last.endswith(".service") and not re.match(
        r"(docker|containerd|ssh|sshd|cron|user@\d+|getty.*)\.service$", last
    )
    return last if own else ""


def command_of(process: Process, path: str, real: str) -> str:
    """The command of the application at a path that a process runs: artisan's, or a server's own; empty if none."""
    arguments = process.arguments
    at = next((index for index, one in enumerate(arguments) if os.path.basename(one) == "artisan"), None)
    # A release of before, which a deployment has left behind, is the application as well.
    places = {path, real}
    releases = os.path.dirname(real) if path != real else ""
    here = process.directory.removesuffix(" (deleted)")
    if at is not None and at <= 8 and len(arguments) > at + 1:
        script = os.path.dirname(arguments[at])
        where = script if script.startswith("/") else os.path.normpath(os.path.join(here, script))
        if where in places or (releases and os.path.dirname(where) == releases):
            return next((one for one in arguments[at + 1 :] if not one.startswith("-")), "")
    if process.program in ("frankenphp", "rr") and (here in places or here in {f"{one}/public" for one in places}):
        return process.program
    return ""


def parents(
    processes: Mapping[int, Process], path: str, real: str, namespace: str, init: int, restarted: bool
) -> list[Parent]:
    """Those of an application that run on and were started by none of its own.

    Args:
        processes: what there is.
        path: the application's directory, as its processes see it.
        real: the same without symbolic links.
        namespace: that of the host or the container that it lives in.
        init: the first process of that container; 0 on a host.
        restarted: whether that container is started anew when it ends.
    """
    commands = {
        process.pid: command
        for process in processes.values()
        if process.namespace == namespace and (command := command_of(process, path, real))
    }
    running = {pid for pid, command in commands.items() if command in (*RUNNING_ON, "frankenphp", "rr")}
    found = []
    for pid in sorted(running):
        above = _above(processes, pid)
        if not any(one in running for one in above):
            found.append(Parent(commands[pid], processes[pid], _keeper(processes, pid, above, init, restarted)))
    return found


def family(processes: Mapping[int, Process], pid: int) -> list[int]:
    """A process and all that came from it."""
    return [pid, *(one for one in processes if pid in _above(processes, one))]


def _above(processes: Mapping[int, Process], pid: int) -> list[int]:
    found: list[int] = []
    current = processes.get(pid)
    while current and current.parent in processes and current.parent not in found:
        found.append(current.parent)
        current = processes[current.parent]
    return found


def _keeper(processes: Mapping[int, Process], pid: int, above: Sequence[int], init: int, restarted: bool) -> Keeper:
    chain = [processes[one] for one in above]
    if any("supervisord" in " ".join(one.arguments[:3]) for one in chain):
        return Keeper("supervisor")
    if processes[pid].unit:
        return Keeper("systemd", processes[pid].unit)
    # A container lives as long as its first process, directly or behind a small one that only looks after it.
    led = pid == init or (processes[pid].parent == init and init in processes and processes[init].program in INITS)
    return Keeper("container") if init and led and restarted else Keeper()


def supervised(status: str) -> dict[int, str]:
    """Names by process, from `supervisorctl status`."""
    found = {}
    for line in status.splitlines():
        match = re.match(r"(\S+)\s+RUNNING\s+pid (\d+),", line)
        if match:
            found[int(match[2])] = match[1]
    return found


def endpoints(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Addresses and ports that processes have a TCP connection to."""
    found: set[tuple[str, int]] = set()
    for pid in pids:
        try:
            sockets = {_link(pid, name) for name in os.listdir(f"/proc/{pid}/fd")}
            for table in ("tcp", "tcp6"):
                with open(f"/proc/{pid}/net/{table}", encoding="ascii") as handle:
                    found |= {far for inode, far in established(handle.read()) if f"socket:[{inode}]" in sockets}
        except OSError:
            continue
    return found


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{name}")
    except OSError:
        return ""


def established(table: str) -> list[tuple[str, tuple[str, int]]]:
    """Inode and far end of each connection that stands, from /proc/<pid>/net/tcp or tcp6."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01":
            address, _colon, port = fields[2].partition(":")
            found.append((fields[9], (_address(address), int(port, 16))))
    return found


def _address(text: str) -> str:
    """An address as the kernel prints it: words of 32 bits in the machine's own order."""
    raw = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    if len(raw) == 16 and raw.startswith(b"\0" * 10 + b"\xff\xff"):
        raw = raw[12:]
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
