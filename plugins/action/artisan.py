"""Shows an artisan command's lines while it runs."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Imported once, by the process that forks a worker for each task.
with contextlib.suppress(ImportError):
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.spotcache.redis.plugins.module_utils.lease import this_run
from ansible_collections.spotcache.redis.plugins.modules.batch_ledger import entry
from ansible_collections.spotcache.redis.plugins.modules.lease import Held, Lease, explain

LAST_LINES = 15
LINE_LENGTH = 400
CHUNK = 65536
LEASE_SLACK_S = 120  # what starting and ending a command may take
POLL_S = (0.1, 2.0)  # the first wait, and the longest
PATIENCE_S = 60  # for a connection that breaks, and for an end that is due
ENDS = re.compile(r"[\r\n]+")


def look(log: str, out: str, pid: int, offset: int) -> str:
    """A shell command: life and exit code (looked up first, so that no line comes after it), then new output."""
    log, out = shlex.quote(log), shlex.quote(out)
    return (
        f"e=$(cat {out} 2>/dev/null); kill -0 {pid} 2>/dev/null && a=alive || a=gone; "
        f'echo "$a $e"; tail -c +{offset + 1} {log} | head -c {CHUNK} | base64 -w 0; echo'
    )


def seen(text: str) -> tuple[bool, tuple[int, float] | None, bytes]:
    """Whether it lives, exit code and end if it has ended, and new output. Raises ValueError for anything else."""
    head, _newline, body = text.strip().partition("\n")
    words = head.split()
    if not words or words[0] not in ("alive", "gone"):
        raise ValueError(f"no answer: {text[:200]}")
    ended = (int(words[1]), float(words[2].rstrip("N.") or 0)) if len(words) == 3 else None
    try:
        return words[0] == "alive", ended, base64.b64decode(body.strip(), validate=True)
    except binascii.Error as error:
        raise ValueError(f"no answer: {body[:200]}") from error


class Lines:
    """Output as lines, without what is to be hidden."""

    def __init__(self, show: Callable[[str], None], hidden: list[str]) -> None:
        self.show = show
        self.hidden = sorted((text for text in hidden if text), key=len, reverse=True)
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.rest = b""
        self.offset = 0

    def mask(self, text: str) -> str:
        """A text without secrets."""
        for secret in self.hidden:
            text = text.replace(secret, "********")
        return text

    def feed(self, more: bytes, end: bool = False) -> None:
        """Take new output; a line without its end waits for it."""
        self.offset += len(more)
        text = self.rest + more
        cut = len(text) if end else max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        self.rest = text[cut:]
        for line in ENDS.split(text[:cut].decode(errors="replace")):
            plain = self.mask("".join(c if c.isprintable() else " " for c in line).rstrip())[:LINE_LENGTH]
            if plain:
                self.last.append(plain)
                self.show(plain)


def note(client: Any, shared: Mapping[str, Any], told: dict[str, Any]) -> None:
    """Write into the ledger that the command's data is there. Without that it is merely run once more than needed."""
    run = {"id": shared["id"], "started": told["started"], "ended": told["ended"]}
    name, record = entry({"run": run, "loss": None})
    body = (json.dumps(record, sort_keys=True) + "\n").encode()
    try:
        client.put_object(
            Bucket=shared["bucket"], Key=shared["ledger"] + name, Body=body, ContentType="application/json"
        )
    except (ClientError, BotoCoreError) as error:
        told["warnings"] = [f"That {shared['id']} went well could not be noted in the ledger: {error}"]


class Trouble(Exception):
    """A sentence for the person."""


@contextlib.contextmanager
def leased(shared: Mapping[str, Any], purpose: str, ttl: int) -> Iterator[Any]:
    """Hold the lease that keeps other control nodes away; hands out the client. Without a bucket there is none."""
    if not shared.get("bucket"):
        yield None
        return
    # This worker is a process of its own: what stands in its environment goes nowhere else.
    os.environ.update({str(key): str(value) for key, value in (shared.get("environment") or {}).items()})
    try:
        client = boto3.client("s3", region_name=shared.get("region") or None)
    except (BotoCoreError, ValueError) as error:
        raise Trouble(f"S3 cannot be reached for the lease of a batch: {error}") from error
    lease, here = Lease(client, shared["bucket"], shared["lease"], ttl), this_run()
    try:
        lease.take(here, purpose)
    except Held as held:
        raise Trouble(str(held)) from held
    except (ClientError, BotoCoreError) as error:
        raise Trouble(f"{explain(error, lease)}: {error}") from error
    try:
        yield client
    finally:
        # It runs out by itself where it cannot be given back.
        with contextlib.suppress(ClientError, BotoCoreError):
            lease.release(here)


class ActionModule(ActionBase):
    """Ansible's entry point."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start it by the module, then watch its log."""
        super().run(tmp, task_vars)
        arguments = {**self._task.args, "by": this_run().describe()}
        # None of it is the host's business, least of all the credentials.
        shared = arguments.pop("shared", None) or {}
        if arguments.get("state") == "checked" or self._task.check_mode:
            return self.start(arguments, task_vars)
        title = f"{arguments['application']} {arguments['command']}"
        limit = int(arguments.get("timeout", 3600))
        try:
            with leased(shared, f"the batch {shared.get('id', title)}", limit + LEASE_SLACK_S) as client:
                result = self.start(arguments, task_vars)
                if result.get("failed") or "pid" not in result:
                    return result
                lines = Lines(
                    lambda line: Display().display(f"  {title} | {line}"), list(arguments.get("hidden") or [])
                )
                told = self.follow(result, limit, lines, title)
                if client and told["code"] == 0:
                    note(client, shared, told)
                return told
        except Trouble as trouble:
            return {"failed": True, "msg": str(trouble)}

    def start(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The module on the host."""
        result: dict[str, Any] = self._execute_module(
            module_name="spotcache.redis.artisan", module_args=arguments, task_vars=task_vars
        )
        return result

    def follow(self, started: dict[str, Any], limit: int, lines: Lines, title: str) -> dict[str, Any]:
        """Show lines until there is an exit code."""
        begun = broken = time.monotonic()
        pause, gone, trouble = POLL_S[0], 0, ""
        told = {"changed": True, "started": started["started"], "log": started["log"]}
        while True:
            try:
                command = look(started["log"], started["exit"], int(started["pid"]), lines.offset)
                alive, ended, more = seen(self._low_level_execute_command(command)["stdout"])
            except (AnsibleConnectionFailure, ValueError) as error:
                trouble = str(error)
                if time.monotonic() - broken > PATIENCE_S:
                    break
                time.sleep(POLL_S[1])
                continue
            broken = time.monotonic()
            lines.feed(more)
            if len(more) == CHUNK:
                continue
            if ended:
                lines.feed(b"", end=True)
                return {**told, **self.verdict(ended, limit, lines, title, float(started["started"]))}
            gone = 0 if alive else gone + 1
            if gone > 2:
                trouble = "it was killed from outside, or the host restarted"
                break
            if time.monotonic() - begun > limit + PATIENCE_S:
                trouble = f"it goes on although its {limit} s are over"
                break
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_S[1])
        return {
            **told,
            "failed": True,
            "code": -1,
            "seconds": round(time.monotonic() - begun, 3),
            "ended": float(started["started"]) + time.monotonic() - begun,
            "lines": list(lines.last),
            "msg": f"{title} has no exit code: {trouble}. Its log on the host is {started['log']}.",
        }

    @staticmethod
    def verdict(ended: tuple[int, float], limit: int, lines: Lines, title: str, started: float) -> dict[str, Any]:
        """The result of a command that has ended."""
        code, when = ended
        last = list(lines.last)
        result: dict[str, Any] = {"code": code, "ended": when, "seconds": round(when - started, 3), "lines": last}
        if code:
            why = f"was ended after its {limit} s" if code in (124, 137) else f"ended with exit code {code}"
            said = f": {last[-1]}" if last else ""
            result |= {"failed": True, "msg": f"{title} {why}{said}"}
        return result
