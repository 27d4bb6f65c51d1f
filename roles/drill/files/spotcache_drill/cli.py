"""The command line: `check` sees how the client gets through, `run` is that client, `report` tells what it came to.

Settings come as JSON on standard input, since one of them is a password, which no process list may show. Exit code 1
and a sentence on standard error when it does not work; a drill that went badly is no such case: its report says so.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spotcache_drill.client import Accounts, Client, Loss, Names, Target, loss, read_back, remove
from spotcache_drill.observer import Observer, Place, Seen
from spotcache_drill.record import record
from spotcache_drill.report import as_text, report_of, run_of
from spotcache_drill.svg import picture
from spotcache_drill.way import connector, secured
from spotcache_drill.wire import RedisError

_FIRST_SECONDS = 60.0
# A way may be shut for a moment: sshd (OpenSSH 9.8 and newer, PerSourcePenalties in sshd_config) shuts out an address
# from which connections broke off, for 15 seconds at least, and all that come through an endpoint come from one.
_WAY_SECONDS, _WAY_PAUSE = 25.0, 2.0


class Failed(Exception):
    """A sentence for the person: the drill cannot begin."""


def read_fault(path: Path, mark: str) -> dict[str, Any] | None:
    """What was noted of the interruption; None before it.

    Raises:
        Failed: there is none, and there will be none.
    """
    try:
        fault = dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if fault.get("stop") or fault.get("mark") != mark:
        raise Failed("nothing was interrupted: the drill was broken off")
    return fault


def is_over(until: str, fault: dict[str, Any], accounts: Accounts, seen: Seen) -> bool:
    """Whether what the drill waits for has come: another host's service, or a backup.

    A service that began after the last strike is another host's: the one that was hit by the fault served before.
    """
    last = float(fault["last"])
    if until == "backup":
        return any(at >= last for at in list(seen.backups.values()))
    service = accounts.services[-1] if accounts.services else None
    return service is not None and service.first_write is not None and service.first_write >= last


def wait(question: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is so; False when the time is over."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def place_of(settings: dict[str, Any]) -> Place:
    """What is looked at."""
    return Place(
        settings["environment"], settings["bucket"], settings["prefix"], settings["dns_name"], settings["host"]
    )


def check(settings: dict[str, Any], client_of: Callable[[str], Any], patience: float = _WAY_SECONDS) -> dict[str, Any]:
    """See that the name leads to the host, and by which way its Redis is reached. Changes nothing.

    Args:
        settings: as the role gives them; `ways` are tried in their order, each with a `name` and a `command`.
        client_of: makes an AWS client for a service.
        patience: seconds for which they are tried again.

    Returns:
        The `command` of the way that works, its name (`by`), and the `seconds` that a connection takes.

    Raises:
        Failed: the name leads elsewhere, or no way does; with what to do.
    """
    observer = Observer(place_of(settings), client_of, settings["poll"])
    observer.poll_instances()
    if settings["dns_name"]:
        observer.poll_name()
    target, host = observer.target(), settings["host"]
    if target.host != host:
        leads = f"leads to {target.address}" if target.address else "has no record"
        raise Failed(
            f"clients are not sent to {host}, which serves: in Route 53 {settings['dns_name'] or 'its address'} "
            f"{leads}. Run provision, which moves the name"
        )
    deadline = time.monotonic() + patience
    while True:
        refused = []
        for way in settings["ways"]:
            connect = connector(
                settings["port"],
                (settings["username"], settings["password"]),
                settings["database"],
                settings["timeout"],
                shlex.split(way["command"]),
                secured(settings["tls_ca"], settings["dns_name"]),
            )
            began = time.monotonic()
            try:
                connect(target).close()
            except RedisError as error:
                raise Failed(f"Redis at {target.address} refuses the client: {error}") from error
            except OSError as error:
                refused.append(f"{way['name']}: {error}")
            else:
                return {"command": way["command"], "by": way["name"], "seconds": round(time.monotonic() - began, 2)}
        if time.monotonic() + _WAY_PAUSE > deadline:
            break
        time.sleep(_WAY_PAUSE)
    raise Failed(
        f"the drill's client does not reach port {settings['port']} of {target.address} ({'; '.join(refused)}). Run "
        "the drill on a machine that is let in (network_redis_client_cidrs, or the clients' security group), or name "
        "a host of the inventory that is: -e drill_client_host=NAME"
    )


def run(settings: dict[str, Any], client_of: Callable[[str], Any]) -> dict[str, Any]:
    """Write and look until the drill is over; the record of it.

    Args:
        settings: as `roles/drill/tasks/client.yml` gives them.
        client_of: makes an AWS client for a service.

    Raises:
        Failed: Redis could not be written to, or nothing was interrupted.
    """
    folder = Path(settings["folder"])
    make_room(folder)
    observer = Observer(place_of(settings), client_of, settings["poll"])
    observer.start()
    names = Names(settings["mark"])
    connect = connector(
        settings["port"],
        (settings["username"], settings["password"]),
        settings["database"],
        settings["timeout"],
        shlex.split(settings["command"]),
        secured(settings["tls_ca"], settings["dns_name"]),
    )
    client = Client(names, observer.target, connect, settings["pause"])
    thread = threading.Thread(target=client.run, daemon=True)
    thread.start()
    try:
        if not wait(lambda: bool(client.accounts.acknowledged), _FIRST_SECONDS):
            where = observer.target().address or "nowhere (no DNS record)"
            raise Failed(
                f"no write was acknowledged within {_FIRST_SECONDS:.0f} s at {where}, port {settings['port']}: "
                f"{client.accounts.error or 'nobody answers'}. Nothing was interrupted"
            )
        (folder / "ready").write_text(f"{settings['mark']}\n", encoding="utf-8")
        fault_file = folder / "fault.json"
        if not wait(lambda: read_fault(fault_file, settings["mark"]) is not None, settings["patience"]):
            raise Failed(f"nothing was interrupted within {settings['patience']:.0f} s: the drill was broken off")
        fault = read_fault(fault_file, settings["mark"]) or {}
        over = wait(lambda: is_over(settings["until"], fault, client.accounts, observer.seen), settings["patience"])
        if over:
            time.sleep(settings["settle"])
    except Failed:
        client.stopped.set()
        thread.join(30)
        clean(client, connect, observer)
        raise
    finally:
        client.stopped.set()
        thread.join(30)
        observer.stop()
    ended = "" if over else f"{settings['until']} was waited for in vain for {settings['patience']:.0f} s"
    lost = settle(client, connect, observer)
    return record(settings["host"], client.accounts, observer.seen, lost, float(fault["at"]), ended)


def make_room(folder: Path) -> None:
    """A folder in which nothing is left of an earlier drill."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ready", "fault.json", "client.json", "report.json", "timeline.svg"):
        (folder / name).unlink(missing_ok=True)


def settle(client: Client, connect: Callable[[Target], Any], observer: Observer) -> Loss | None:
    """Read every acknowledged key back and take all keys away; None when Redis does not let itself be read."""
    accounts, names = client.accounts, client.names
    for _attempt in range(5):
        try:
            connection = connect(observer.target())
            try:
                found = read_back(connection, names, accounts.acknowledged)
                remove(connection, names, range(accounts.written))
            finally:
                connection.close()
        except (OSError, RedisError) as error:
            accounts.error = f"reading back: {error}"
            time.sleep(1.0)
        else:
            return loss(names, accounts.acknowledged, found)
    return None


def clean(client: Client, connect: Callable[[Target], Any], observer: Observer) -> None:
    """Take the keys away, where that is possible; otherwise they vanish by themselves after a day."""
    with suppress(OSError, RedisError):
        connection = connect(observer.target())
        try:
            remove(connection, client.names, range(client.accounts.written))
        finally:
            connection.close()


def write_report(settings: dict[str, Any]) -> str:
    """Write report.json and the picture; returns the report for a person."""
    folder = Path(settings["folder"])
    kept = json.loads((folder / "client.json").read_text(encoding="utf-8"))
    one = run_of(settings, kept)
    report = report_of([one])
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "timeline.svg").write_text(picture(one), encoding="utf-8")
    return as_text(one)


def aws_client(region: str) -> Callable[[str], Any]:
    """Makes AWS clients: addresses and credentials come from the environment, as with every AWS program."""
    import boto3
    import botocore.config

    config = botocore.config.Config(
        connect_timeout=3, read_timeout=5, retries={"max_attempts": 2}, s3={"addressing_style": "path"}
    )
    clients: dict[str, Any] = {}
    lock = threading.Lock()

    def client(service: str) -> Any:
        with lock:
            if service not in clients:
                clients[service] = boto3.client(service, region_name=region, config=config)
            return clients[service]

    return client


def main(arguments: Sequence[str]) -> int:
    """Entry point."""
    if list(arguments) not in (["check"], ["run"], ["report"]):
        print("usage: python -m spotcache_drill check|run|report < settings.json", file=sys.stderr)
        return 2
    settings = json.load(sys.stdin)
    try:
        if list(arguments) == ["check"]:
            print(json.dumps(check(settings, aws_client(settings["region"]))))
        elif list(arguments) == ["run"]:
            kept = run(settings, aws_client(settings["region"]))
            output = Path(settings["folder"]) / "client.json"
            output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        else:
            print(write_report(settings))
    except (Failed, OSError, LookupError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0
