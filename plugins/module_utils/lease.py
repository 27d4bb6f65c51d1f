"""Who runs here, and whose turn it is: the part of the lease that knows nothing of S3."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import getpass
import json
import os
import re
import socket
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

UTC = timezone.utc  # noqa: UP017 - the control node's Python may be older than datetime.UTC
PLAYBOOK = re.compile(r"^ansible-playbook(-?[0-9.]+)?$")


@dataclass(frozen=True)
class Owner:
    """A run of ansible-playbook. Its process is known only on the machine (and in the container) it runs in."""

    user: str
    host: str
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    started: str = ""
    token: str = ""
    # What a server such as AWX calls the run. Its container is gone with it, and nobody can look for a process there.
    job: str = ""

    def is_same_run(self, other: Owner) -> bool:
        """Whether both mean the same run."""
        if self.pid and other.pid:
            mine = (self.boot, self.namespace, self.pid, self.started)
            return mine == (other.boot, other.namespace, other.pid, other.started)
        return bool(self.token) and self.token == other.token

    def describe(self) -> str:
        """For people."""
        if self.job:
            return f"{self.job} ({self.user}@{self.host})"
        process = f" (ansible-playbook, process {self.pid})" if self.pid else ""
        return f"{self.user}@{self.host}{process}"


@dataclass(frozen=True)
class Record:
    """What the object in S3 says."""

    owner: Owner
    purpose: str
    since: datetime
    until: datetime

    def to_json(self) -> str:
        """The object's text."""
        fields = {
            "format": 1,
            "purpose": self.purpose,
            "since": stamp(self.since),
            "until": stamp(self.until),
            "owner": asdict(self.owner),
        }
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read an object's text; ValueError when it is none of ours."""
        try:
            fields = json.loads(text)
            owner = {name: kind(fields["owner"][name]) for name, kind in _OWNER_FIELDS.items()}
            owner["job"] = str(fields["owner"].get("job", ""))
            return cls(
                owner=Owner(**owner),
                purpose=str(fields["purpose"]),
                since=moment(fields["since"]),
                until=moment(fields["until"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a lease: {error!r}") from error


_OWNER_FIELDS: dict[str, type[Any]] = {
    "user": str,
    "host": str,
    "boot": str,
    "namespace": str,
    "pid": int,
    "started": str,
    "token": str,
}


def stamp(when: datetime) -> str:
    """A moment as text, in UTC."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """The reverse of `stamp`."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def renewed(owner: Owner, purpose: str, now: datetime, ttl: int, before: Record | None = None) -> Record:
    """The record that `owner` writes now; a renewal keeps the time since when."""
    since = before.since if before and before.owner.is_same_run(owner) else now
    return Record(owner=owner, purpose=purpose, since=since, until=now + timedelta(seconds=ttl))


def _stat(pid: int, proc: Path) -> tuple[str, int, str] | None:
    """State, parent and start time of a process, or None when it cannot be read."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), fields[19]


def _arguments(pid: int, proc: Path) -> tuple[str, ...]:
    try:
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="replace") for part in raw.split(b"\0") if part)


def _is_playbook(arguments: tuple[str, ...]) -> bool:
    if any(PLAYBOOK.match(Path(argument).name) for argument in arguments[:2]):
        return True
    return arguments[1:4] == ("-m", "ansible", "playbook")


def playbook_process(start: int, proc: Path = Path("/proc")) -> tuple[int, str]:
    """Process id and start time of the ansible-playbook above process `start`; (0, "") when there is none.

    Its workers are forks with the same command line, so the last of an unbroken row is the run itself.
    """
    found = (0, "")
    arguments: tuple[str, ...] = ()
    pid = start
    # In a container ansible-playbook may be process 1 itself.
    while pid > 0:
        stat = _stat(pid, proc)
        if stat is None:
            break
        own = _arguments(pid, proc)
        if found[0] and own != arguments:
            break
        if found[0] or _is_playbook(own):
            found, arguments = (pid, stat[2]), own
        pid = stat[1]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def this_run(token: str = "", proc: Path = Path("/proc"), start: int | None = None, job: str = "") -> Owner:
    """The run that asks."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    try:
        namespace = os.readlink(proc / "self" / "ns" / "pid")
    except OSError:
        namespace = ""
    pid, started = playbook_process(os.getppid() if start is None else start, proc)
    boot = _text(proc / "sys" / "kernel" / "random" / "boot_id")
    if not (boot and namespace):
        pid, started = 0, ""
    return Owner(user, socket.gethostname(), boot, namespace, pid, started, token, job)


def is_gone(owner: Owner, here: Owner, proc: Path = Path("/proc")) -> bool:
    """Whether `owner` ran on this machine (and in this container) and its process has ended. Doubt means no."""
    if not owner.pid or (owner.boot, owner.namespace) != (here.boot, here.namespace) or not here.boot:
        return False
    stat = _stat(owner.pid, proc)
    if stat is not None:
        return stat[0] in "ZX" or stat[2] != owner.started
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def verdict(record: Record | None, here: Owner, now: datetime, proc: Path = Path("/proc")) -> str:
    """`free`, `mine`, `expired`, `dead` (its process is gone) or `held`."""
    if record is None:
        return "free"
    if record.owner.is_same_run(here):
        return "mine"
    if record.until <= now:
        return "expired"
    return "dead" if is_gone(record.owner, here, proc) else "held"


def refusal(record: Record, now: datetime, where: str) -> str:
    """What a person is told when somebody else's run holds the lease."""
    minutes = max(0, int((now - record.since).total_seconds() // 60))
    died = (
        "A job that was cancelled holds it no longer than until then"
        if record.owner.job
        else f"If it has died, run again on {record.owner.host}, where that is noticed at once, or after "
        f"{stamp(record.until)}"
    )
    return (
        f"Another run holds the lease of this environment: {record.purpose} by {record.owner.describe()}, "
        f"since {stamp(record.since)} ({minutes} min ago), until {stamp(record.until)} unless it renews it. "
        f"Nothing was changed. Wait for that run to end. {died}; to take the lease by force, delete {where}."
    )
