"""The command line: `spotcache-keeper backup|restore|list|status|guard|boot|watch [--json]`.

JSON goes to standard output; one line for a person goes to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage
or configuration, 3 refused, 4 nothing to restore from, 5 this host
does not serve.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spotcache_keeper.backup.create import BackupResult, backup
from spotcache_keeper.backup.entitlement import entitlement
from spotcache_keeper.backup.restore import Request, RestoreResult, restore
from spotcache_keeper.backup.serving import read_serving
from spotcache_keeper.backup.switch_data import recover
from spotcache_keeper.config import DEFAULT_PATH, load_config
from spotcache_keeper.context import Context, build_context
from spotcache_keeper.errors import InterruptedRunError, KeeperError, RefusedError
from spotcache_keeper.node.acquire import Acquirer
from spotcache_keeper.node.boot import Boot
from spotcache_keeper.node.crash import note_crash
from spotcache_keeper.node.data_volume import Disks
from spotcache_keeper.node.journal import Lines
from spotcache_keeper.node.renew import LeaseHolder
from spotcache_keeper.node.watch import EarlyBackup, Watch, system_is_stopping
from spotcache_keeper.outside import build_outside
from spotcache_keeper.overview import listing_table, make_listing, make_status, status_table
from spotcache_keeper.stores.local import mib
from spotcache_keeper.system.commands import run_command
from spotcache_keeper.system.lock import only_run
from spotcache_keeper.system.state import BOOT, begin_anew, save_end, save_state
from spotcache_keeper.system.times import to_text

REASONS = ("manual", "timer", "final", "rebalance")


def make_parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    parser = argparse.ArgumentParser(
        prog="spotcache-keeper",
        description="Backs up this host's Redis, off the host and verified, and restores it.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused since newer data would be "
        "overwritten, 4 nothing to restore from, 5 this host does not serve.",
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, metavar="FILE", help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
        sub.add_argument("--verbose", "-v", action="store_true", help="say every step")
        return sub

    sub = command("backup", "Take a verified backup and copy it to S3 and into an EBS snapshot.")
    sub.add_argument(
        "--reason", choices=REASONS, default="manual", help="written into the backup; default: %(default)s"
    )
    sub.add_argument("--no-snapshot", action="store_true", help="ask for no EBS snapshot")
    sub = command("restore", "Put a backup in the place of what Redis holds.")
    sub.add_argument(
        "--from",
        dest="wanted",
        metavar="ID|TIME|newest",
        help="a backup's id, an EBS snapshot's id, or a time (the newest backup at or before it; UTC unless it has a "
        "zone); default: the newest verified backup",
    )
    sub.add_argument("--force", action="store_true", help="replace newer data too; it is backed up first")
    sub.add_argument(
        "--fallback", action="store_true", help="take the next older good backup when the wanted one is damaged"
    )
    sub.add_argument("--expect-environment", metavar="ENV", help="refuse to work on another environment's host")
    command("list", "List every backup there is to restore from.")
    command("status", "Say how Redis, its backups and the keeper itself are.")
    command("guard", "Keep clients out of Redis until this host proves that it holds the lease.")
    command("boot", "Become the host that serves: restore the best there is, start Redis, move the DNS name.")
    command("watch", "Watch for the end of this host, and back up before it comes; runs until it is stopped.")
    return parser


def main(arguments: Sequence[str] | None = None, build: Callable[..., Context] = build_context) -> int:
    """Run one command.

    Args:
        arguments: the command line, sys.argv's by default.
        build: puts the host's parts together.

    Returns:
        The exit code.
    """
    options = make_parser().parse_args(arguments)
    # What the keeper writes is nobody else's business.
    os.umask(0o077)
    context: Context | None = None
    try:
        _listen_to_signals()
        context = build(load_config(options.config), _log if options.verbose else lambda _step: None)
        return _run(options, context)
    except KeeperError as error:
        return _fail(options, context, str(error), error.exit_code)
    except InterruptedRunError as error:
        return _fail(options, context, f"stopped by {error}; nothing half done is left behind", 1)
    except OSError as error:
        return _fail(options, context, f"the system refuses: {error}", 1)


def _run(options: argparse.Namespace, context: Context) -> int:
    """Run the command that was asked for."""
    if options.command == "list":
        listing = make_listing(context)
        if options.json:
            _print_json("list", context, ok=not listing.unreadable, changed=False, **listing.to_json())
        else:
            print(listing_table(listing, context.now()))
        _log(f"{len(listing.sources)} sources" + "".join(f"; {reason}" for reason in listing.unreadable.values()))
        return 1 if listing.unreadable else 0
    if options.command == "status":
        status = make_status(context)
        if options.json:
            _print_json("status", context, ok=True, changed=False, **status)
        else:
            print(status_table(status, context.now()))
        return 0
    if options.command == "guard":
        context.guard.prepare()
        note_crash(context)
        return 0
    if options.command == "boot":
        return _boot(options, context)
    if options.command == "watch":
        return _watch(options, context)
    if options.command == "restore":
        return _restore(options, context)
    with only_run(context.lock_path, options.command, context.config.timeouts.lock, context.now()):
        recover(context)
        return _backup(options, context)


def _backup(options: argparse.Namespace, context: Context) -> int:
    """`backup`."""
    directory = context.config.state_directory
    result = backup(context, options.reason, snapshot=not options.no_snapshot)
    problem = "; ".join(result.problems)
    at = to_text(context.now())
    save_state(
        directory,
        last_backup={**result.to_json(), "at": at, "warnings": context.warnings},
    )
    save_end(directory, "backup", problem or None, at)
    if options.json:
        _print_json("backup", context, ok=not problem, changed=True, error=problem or None, **result.to_json())
    _warn(context)
    _log(backup_line(result))
    return 1 if problem else 0


def _boot(options: argparse.Namespace, context: Context) -> int:
    """`boot`."""
    directory = context.config.state_directory
    _begin_anew(context)
    outside = build_outside(context.config)
    say = Lines(context, _log, BOOT)
    boot = Boot(context, outside, say, Acquirer(context, outside, say), Disks(context, outside))
    with only_run(directory / "boot.lock", "boot", context.config.timeouts.lock, context.now()):
        try:
            result = boot.run()
        except (KeeperError, OSError) as error:
            say(f"Redis does not serve: {error}")
            boot.notify_failure(str(error))
            raise
    save_state(directory, BOOT, last_boot={**asdict(result), "at": to_text(context.now())})
    if options.json:
        _print_json("boot", context, ok=not result.problems, changed=result.what != "served already", **asdict(result))
    _warn(context)
    return 0


def _begin_anew(context: Context) -> None:
    """Forget another host's past, as soon as the metadata service says who this one is."""
    identity = context.machine.identity()
    if identity.zone:
        begin_anew(context.config.state_directory, identity.instance_id)


def _watch(options: argparse.Namespace, context: Context) -> int:
    """`watch`: one line for each thing that happens."""
    # A pipe, since a signal may come at any moment, and must not interrupt a final backup.
    told, tell = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: os.write(tell, b"."))
    _begin_anew(context)
    outside = build_outside(context.config)
    early = [sys.executable, "-I", sys.argv[0], "--config", str(options.config), "backup", "--reason", "rebalance"]
    lease = LeaseHolder(context, outside)
    watch = Watch(context, outside, _log, EarlyBackup(early), lease, boot_again)
    keeping = threading.Thread(target=lease.run, name="lease", daemon=True)
    context.guard.prepare()
    keeping.start()
    _log(f"watching for the end of {context.machine.identity().instance_id}")
    pause = 0.0
    while not select.select([told], [], [], pause)[0]:
        pause = watch.step()
    lease.stop()
    # What it is sending may open the gate once more.
    keeping.join(timeout=15.0)
    if system_is_stopping(run_command):
        watch.shut_down()
    return 0


def boot_again() -> None:
    """Have systemd run the boot once more; that it cannot is in the journal."""
    done = run_command(["systemctl", "restart", "--no-block", "spotcache-boot.service"], timeout=30)
    if done.returncode:
        _log(f"the boot could not be started again: {done.complaint}")


def _restore(options: argparse.Namespace, context: Context) -> int:
    """`restore`."""
    directory = context.config.state_directory
    request = Request(options.wanted, options.force, options.fallback, options.expect_environment)
    with only_run(context.lock_path, "restore", context.config.timeouts.lock, context.now()):
        recover(context)
        _wait_for_lease(context)
        result = restore(context, request)
        at = to_text(context.now())
        if result.changed:
            save_state(directory, last_restore={**result.to_json(), "at": at, "warnings": context.warnings})
            _back_up_restored(context, result.manifest.id)
    # Not under the lock: a boot that has not come to its end needs it, and it is the boot that lets clients in then.
    _wait_for_clients(context)
    save_end(directory, "restore", None, at)
    if options.json:
        _print_json("restore", context, ok=True, changed=result.changed, error=None, **result.to_json())
    _warn(context)
    _log(restore_line(result))
    return 0


def _wait_for_lease(context: Context) -> None:
    """Wait until the watcher has the lease, which it takes when that of a host that is gone has ended.

    Raises:
        RefusedError: another host serves.
        KeeperError: S3 does not say who does, and nothing else keeps this host from serving beside another one.
    """
    if context.leases is None:
        return
    me = context.machine.identity().instance_id
    deadline = context.clock() + context.config.timeouts.lease + context.config.timeouts.lease / 3 + 10
    while True:
        try:
            held = context.leases.lease()
        except KeeperError as error:
            if context.config.boots and not context.guard.holds:
                raise
            # Nobody gets in before the lease is proved, whatever is restored; without a boot a person says who serves.
            context.warnings.append(f"who serves could not be read: {error}")
            return
        if held is None or held.lease.host == me:
            return
        if context.clock() >= deadline:
            raise RefusedError(
                f"{held.lease.host} serves {context.config.environment} (term {held.lease.term}), and not this host: "
                "restore there, or end that host first"
            )
        context.sleep(2.0)


def _wait_for_clients(context: Context) -> None:
    """Wait until the watcher lets clients in, or the boot that comes to its end now.

    Raises:
        KeeperError: they do not.
    """
    if context.leases is None or not context.guard.holds:
        return
    me = context.machine.identity().instance_id
    deadline = context.clock() + context.config.timeouts.lease + context.config.timeouts.lock
    while (served := read_serving(context, me)) is None or served.boot != context.boot_id:
        if context.clock() >= deadline:
            raise KeeperError(
                "the backup was restored, but clients are not let in: on the host, "
                "`journalctl -u spotcache-watch -u spotcache-boot` says why"
            )
        context.sleep(0.5)


def _back_up_restored(context: Context, restored_from: str) -> None:
    """Have a backup of what was restored: the newest one would be what it was put in the place of.

    Raises:
        KeeperError: there is none off the host.
    """
    try:
        result = backup(context, "restored", snapshot=False, prune=False, restored_from=restored_from)
        problem = "; ".join(result.problems)
        # Whoever took over while it was copied has not seen it; whoever does from now on will.
        entitlement(context)
    except KeeperError as error:
        problem = str(error)
    if problem:
        raise KeeperError(
            "the backup was restored, but what Redis holds now is not backed up, and a host that replaces this one "
            f"would restore what was there before: {problem}. Run `spotcache-keeper backup`"
        )


def backup_line(result: BackupResult) -> str:
    """A backup for a person."""
    manifest = result.manifest
    places = ", ".join(["on the volume", *result.places])
    line = f"backed up {manifest.id}: {manifest.keys:,} keys, {mib(manifest.rdb_bytes)}, verified; {places}"
    return line + "".join(f"; BUT {problem}" for problem in result.problems)


def restore_line(result: RestoreResult) -> str:
    """A restore for a person."""
    manifest = result.manifest
    if not result.changed:
        return f"backup {manifest.id} is in place already, and unchanged since: nothing was done"
    loaded = result.loaded
    line = (
        f"restored {manifest.id} of {to_text(manifest.created)} from {result.source.snapshot_id or result.source.where}"
    )
    if loaded is not None:
        line += f": {loaded.keys:,} of {manifest.keys:,} keys loaded" + (
            f", {loaded.expired:,} had expired" if loaded.expired else ""
        )
    if result.backed_up_before:
        line += f"; what was there before is backup {result.backed_up_before}"
    if result.parked:
        line += f"; what was there before lies in {result.parked}"
    return line


def _fail(options: argparse.Namespace, context: Context | None, message: str, code: int) -> int:
    """Report a failure, and remember it for `status`."""
    if context is not None and options.command in ("backup", "restore"):
        try:
            save_end(context.config.state_directory, options.command, message, to_text(context.now()))
        except KeeperError as second:
            message = f"{message} (and {second})"
    if options.json:
        _print_json(options.command, context, ok=False, changed=False, error=message, exit_code=code)
    if context is not None:
        _warn(context)
    _log(f"spotcache-keeper {options.command}: {message}")
    return code


def _print_json(command: str, context: Context | None, **parts: Any) -> None:
    """The result for a program."""
    warnings = context.warnings if context is not None else []
    print(json.dumps({"command": command, **parts, "warnings": warnings}, indent=2), flush=True)


def _warn(context: Context) -> None:
    """The warnings for a person."""
    for warning in context.warnings:
        _log(f"note: {warning}")


def _log(line: str) -> None:
    """One line for a person."""
    print(line, file=sys.stderr, flush=True)


def _listen_to_signals() -> None:
    """Let a run that is told to stop clean up behind itself."""

    def stop(number: int, _frame: object) -> None:
        raise InterruptedRunError(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
