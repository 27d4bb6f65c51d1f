"""The control verbs for what happens by itself on AWS: time, schedules, events, mail, faults of services."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line needs none of what the server does
    from sandbox.cloud import Cloud
    from sandbox.dlm import Lifecycle
    from sandbox.events import Bus
    from sandbox.fis import Fis
    from sandbox.scaling import Clock, Schedules


class Verbs:
    """Carries out the verbs inside the sandbox's process."""

    def __init__(
        self, cloud: Cloud, bus: Bus, clock: Clock, schedules: Schedules, fis: Fis, lifecycle: Lifecycle
    ) -> None:
        self.cloud, self.bus, self.clock, self.schedules, self.fis = cloud, bus, clock, schedules, fis
        self.lifecycle = lifecycle

    def command(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """Carry out one verb. Raises KeyError for an unknown verb or argument, ValueError for a value that is none."""
        act = getattr(self, f"verb_{verb.replace('-', '_')}", None)
        if act is None:
            raise KeyError(f"unknown verb {verb}")
        answer: dict[str, Any] = act(body)
        return answer

    def verb_clock(self, body: dict[str, Any]) -> dict[str, Any]:
        """Move the clock of schedules; what became due in between is done, in its order, before this returns."""
        from sandbox.scaling import moment

        to = moment(body.get("to"))
        if to is not None:
            self.clock.move(to)
        elif body.get("seconds"):
            self.clock.move(self.clock.now() + timedelta(seconds=float(body["seconds"])))
        self.schedules.tick()
        self.lifecycle.catch_up()
        return {"time": self.clock.now().isoformat()}

    def verb_fire(self, body: dict[str, Any]) -> dict[str, Any]:
        """Carry out a scheduled action of a group now."""
        self.schedules.fire(self.schedules.find(body["group"], body["action"]))
        group = self.cloud.groups.autoscaling_groups[body["group"]]
        return {"min": group.min_size, "max": group.max_size, "desired": group.desired_capacity}

    def verb_events(self, body: dict[str, Any]) -> dict[str, Any]:
        """What AWS's services have told EventBridge, the oldest first."""
        return {"events": [e for e in self.bus.happened if body.get("kind") in (None, "", e["detail-type"])]}

    def verb_put_event(self, body: dict[str, Any]) -> dict[str, Any]:
        """Put a whole event on the bus, also one of AWS's own; the same one twice arrives twice."""
        self.bus.put(body["event"])
        return {"id": body["event"]["id"]}

    def verb_mail(self, body: dict[str, Any]) -> dict[str, Any]:
        """What topics have mailed, to anybody or to one address."""
        mails = [mail for mail in self.bus.mails if body.get("to") in (None, "", mail.to)]
        return {"mail": [dataclasses.asdict(mail) for mail in mails]}

    def verb_fis_scale(self, body: dict[str, Any]) -> dict[str, Any]:
        """By how much FIS's durations, and the notice it sends, are shortened: 1 is as on AWS."""
        self.fis.scale = float(body["factor"])
        return {"factor": self.fis.scale}

    def verb_retry_seconds(self, body: dict[str, Any]) -> dict[str, Any]:
        """How long Lambda waits before it tries an asynchronous invocation again (AWS: 60)."""
        self.bus.retry_seconds = float(body["seconds"])
        return {"seconds": self.bus.retry_seconds}

    def verb_snapshot_result(self, body: dict[str, Any]) -> dict[str, Any]:
        """How the next EBS snapshot ends."""
        self.cloud.snapshot_result = body["result"]
        return {"result": self.cloud.snapshot_result}


def add_verbs(verb: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The grammar of these verbs; `verb` adds one to the command line."""
    clock = verb("clock", "show the clock of schedules, or move it forward")
    clock.add_argument("--to", help="a time such as 2026-11-23T09:00:00+09:00")
    clock.add_argument("--seconds", type=float, help="by how many seconds")
    fire = verb("fire", "carry out a scheduled action of a group now")
    fire.add_argument("group")
    fire.add_argument("action")
    verb("events", "show what EventBridge was told").add_argument("--kind", help="only this detail-type")
    verb("mail", "show what topics have mailed").add_argument("--to", help="only what went to this address")
    verb("fis-scale", "shorten the durations of FIS").add_argument("factor", type=float, help="1 is as on AWS")
    verb("retry-seconds", "how long Lambda waits before it tries again").add_argument("seconds", type=float)
    verb("snapshot-result", "how the next EBS snapshot ends").add_argument("result", choices=["succeeded", "failed"])
