"""The sandbox's command line: python -m sandbox VERB ..."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from sandbox.paths import UNLIMITED, Home, known
from sandbox.verbs import add_verbs

UP_PATIENCE_S = 600  # the first `up` builds the host image


def control(home: Home, verb: str, **body: Any) -> dict[str, Any]:
    """Send one verb to a running sandbox. Raises SystemExit with a sentence when it refuses or is not there."""
    try:
        state = json.loads(home.state.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(f"sandbox {home.name} is not up: start it with `python -m sandbox up {home.name}`") from error
    request = urllib.request.Request(
        f"{state['control']}/{verb}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {state['control_token']}"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            result: dict[str, Any] = json.load(answer)
            return result
    except urllib.error.HTTPError as error:
        raise SystemExit(f"sandbox {home.name}: {json.load(error)['error']}") from error
    except urllib.error.URLError as error:
        raise SystemExit(
            f"sandbox {home.name} does not answer ({error.reason}): `python -m sandbox down {home.name}` removes it"
        ) from error


def up(home: Home, asked: argparse.Namespace) -> int:
    """Start a sandbox in the background and wait until it is ready; a running one is left as it is."""
    from sandbox.cleanup import process_of, remove

    if process_of(home) is not None:
        print(f"sandbox {home.name} is up already")
        return 0
    if home.directory.exists():
        remove(home)
    home.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [sys.executable, "-m", "sandbox", "serve", home.name, "--port", str(asked.port), "--seed", asked.seed]
    argv += ["--slow"] if asked.slow else []
    argv += ["--machines"] if asked.machines else []
    if asked.snapshot_seconds is not None:
        argv += ["--snapshot-seconds", str(asked.snapshot_seconds)]
    for file in asked.operator_policy:
        argv += ["--operator-policy", file if file == UNLIMITED else str(Path(file).resolve())]
    for file in asked.policy:
        argv += ["--policy", str(Path(file).resolve())]
    with open(home.log, "ab") as log:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    shown = 0
    deadline = time.monotonic() + UP_PATIENCE_S
    while time.monotonic() < deadline:
        text = home.log.read_text(encoding="utf-8", errors="replace")
        print(text[shown:], end="", flush=True)
        shown = len(text)
        if home.state.exists():
            return 0
        if child.poll() is not None:
            print(f"sandbox {home.name} did not start; its log is {home.log}", file=sys.stderr)
            return 1
        time.sleep(0.1)
    print(f"sandbox {home.name} was not ready within {UP_PATIENCE_S} s; its log is {home.log}", file=sys.stderr)
    return 1


def shown(home: Home, *, everything: bool) -> str:
    """What the account of a running sandbox pays for, a line each, and all of it together."""
    import boto3

    from sandbox.paid import inventory, month

    state = json.loads(home.state.read_text())

    def client(service: str) -> Any:
        return boto3.client(
            service,
            region_name=state["region"],
            endpoint_url=state["endpoint"],
            aws_access_key_id=state["owner"]["access_key_id"],
            aws_secret_access_key=state["owner"]["secret_access_key"],
        )

    things = [one for one in inventory(client) if one.paid or everything]
    prices = {one: "unknown" if one.usd_month is None else f"{one.usd_month:.2f}" for one in things}
    lines = [f"{prices[one]:>9}  {one.kind} {one.id}{f' ({one.note})' if one.note else ''}" for one in things]
    return "\n".join([*lines, f"{month(things):>9.2f}  USD a month, {len(things)} things"])


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m sandbox", description="EC2 on this machine, from Docker and moto.")
    verbs = top.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text)
        # One name for all: several sandboxes can run side by side.
        default = os.environ.get("SPOTCACHE_SANDBOX", "demo")
        if name in ("up", "down", "serve", "status"):
            sub.add_argument("name", nargs="?", default=default)
        elif name not in ("clean", "list"):
            sub.add_argument("--name", default=default)
        return sub

    for name, text in (("up", "start a sandbox"), ("serve", "run a sandbox in the foreground")):
        sub = verb(name, text)
        sub.add_argument(
            "--operator-policy",
            action="append",
            default=[],
            metavar="FILE|everything",
            help="IAM policy (JSON file) of the operator, several by several, or the word `everything`",
        )
        sub.add_argument(
            "--policy",
            action="append",
            default=[],
            help="a managed policy (JSON file, NAME.json) that the account's administrator has made before",
        )
        sub.add_argument("--port", type=int, default=0, help="port of the AWS API; default: any free one")
        sub.add_argument("--snapshot-seconds", type=float, help="how long EBS snapshots are pending; default: 1")
        sub.add_argument("--slow", action="store_true", help="take AWS's own times, minutes where AWS takes minutes")
        sub.add_argument(
            "--machines",
            action="store_true",
            help="hosts are virtual machines, not containers; slow without KVM",
        )
        sub.add_argument("--seed", default="", help="what chance follows from; default: another one each time")
    verb("down", "stop a sandbox and remove all it made")
    verb("status", "show hosts and faults")
    verb("paid", "show what the account pays for, and with --all what else there is in it").add_argument(
        "--all", action="store_true", help="also what costs nothing while it lies idle"
    )
    verb("list", "show the sandboxes of this machine")
    verb("clean", "remove every sandbox of this machine, also after a crash")
    notice = verb("spot-notice", "send a Spot interruption notice")
    notice.add_argument("instance")
    notice.add_argument("--in", dest="seconds", type=float, default=120.0, help="seconds until the instance is ended")
    for name, text in (
        ("rebalance", "send a rebalance recommendation"),
        ("kill", "lose a host at once"),
        ("hang", "freeze a host"),
        ("thaw", "undo hang"),
    ):
        verb(name, text).add_argument("instance")
    verb("fail-zone", "lose a zone").add_argument("zone")
    verb("restore-zone", "undo fail-zone").add_argument("zone")
    for name, text in (("no-spot-capacity", "empty a Spot pool"), ("spot-capacity", "undo no-spot-capacity")):
        sub = verb(name, text)
        sub.add_argument("zone")
        sub.add_argument("type", help="instance type, or '*'")
    fault = verb("imds-fault", "make a host's metadata service fail")
    fault.add_argument("instance")
    fault.add_argument("fault", choices=["", "down", "slow", "401", "garbage"])
    verb("calls", "count the calls that AWS bills one by one").add_argument(
        "--reset", action="store_true", help="and begin anew"
    )
    verb("snapshot-seconds", "how long further EBS snapshots are pending").add_argument("seconds", type=float)
    add_verbs(verb)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit code."""
    asked = parser().parse_args(argv)
    if os.geteuid() != 0:
        raise SystemExit("the sandbox makes block devices and networks: run it as root, e.g. with sudo")
    if asked.verb == "list":
        for home in known():
            print(home.name)
        return 0
    if asked.verb == "clean":
        from sandbox.cleanup import remove_all

        for name in remove_all():
            print(f"removed sandbox {name}")
        return 0
    try:
        home = Home(asked.name)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if asked.verb in ("up", "serve") and not asked.operator_policy:
        raise SystemExit(
            "say what the operator may do: --operator-policy FILE, several by several, "
            f"or --operator-policy {UNLIMITED}"
        )
    if asked.verb == "up":
        return up(home, asked)
    if asked.verb == "serve":
        from sandbox.server import serve

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        for noisy in ("werkzeug", "botocore", "urllib3"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        return serve(
            home,
            asked.operator_policy,
            asked.policy,
            asked.port,
            asked.snapshot_seconds,
            slow=asked.slow,
            seed=asked.seed,
            machines=asked.machines,
        )
    if asked.verb == "down":
        from sandbox.cleanup import remove

        remove(home)
        return 0
    if asked.verb == "paid":
        print(shown(home, everything=asked.all))
        return 0
    body = {k: v for k, v in vars(asked).items() if k not in ("verb", "name")}
    if "seconds" in body and asked.verb == "spot-notice":
        body["in"] = body.pop("seconds")
    print(json.dumps(control(home, asked.verb, **body), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
