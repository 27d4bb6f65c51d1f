"""Telling people, by the environment's topic."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from spotcache_keeper.aws.clients import AwsError
from spotcache_keeper.aws.signed import Signed

Level = Literal["info", "good", "warning", "error"]
_VERSION = "2010-03-31"


@dataclass(frozen=True)
class Message:
    """One message. Within `window` seconds nobody is told twice what has the same `key`."""

    title: str
    text: str
    level: Level
    key: str
    window: int = 86400
    fields: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """As it goes to the topic."""
        return json.dumps(
            {
                "text": self.text,
                "title": self.title,
                "level": self.level,
                "key": self.key,
                "window": self.window,
                "fields": dict(self.fields),
            }
        )


def publish(aws: Signed, topic: str | None, message: Message) -> None:
    """Tell people; without a topic nobody is told.

    Raises:
        AwsError: the topic does not take it.
    """
    if not topic:
        return
    try:
        aws.query("sns", _VERSION, "Publish", TopicArn=topic, Message=message.to_json())
    except AwsError as error:
        gone = error.code in ("NotFound", "NotFoundException")
        why = f"the topic {topic} does not exist; provision makes it" if gone else str(error)
        raise AwsError(f"people were not told ({message.title}): {why}", error.code) from error
