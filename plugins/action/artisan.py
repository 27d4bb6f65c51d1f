"""Shows an artisan command's lines while it runs."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import binascii
import re
import shlex
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.spotcache.redis.plugins.module_utils.lease import this_run

LAST_LINES = 15
LINE_LENGTH = 400
CHUNK = 65536
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
    head, _, body = text.strip().partition("\n")
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


class ActionModule(ActionBase):
    """Ansible's entry point."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start it by the module, then watch its log."""
        super().run(tmp, task_vars)
        arguments = {**self._task.args, "by": this_run().describe()}
        result: dict[str, Any] = self._execute_module(
            module_name="spotcache.redis.artisan", module_args=arguments, task_vars=task_vars
        )
        if result.get("failed") or "pid" not in result:
            return result
        title = f"{arguments['application']} {arguments['command']}"
        lines = Lines(lambda line: Display().display(f"  {title} | {line}"), list(arguments.get("hidden") or []))
        return self.follow(result, int(arguments.get("timeout", 3600)), lines, title)

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
