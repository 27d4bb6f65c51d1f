"""Asking AWS many things at once, and comparing what it answers."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WORKERS = 8


def ask_all(questions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The answers to several questions, asked at the same time. What one of them raises is raised here."""
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        asked = {name: pool.submit(question) for name, question in questions.items()}
        return {name: answer.result() for name, answer in asked.items()}


def tags_of(record: Mapping[str, Any]) -> dict[str, str]:
    """AWS's list of tags as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in record.get("Tags") or []}


def has_tags(record: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether all wanted tags are there; others do no harm."""
    present = tags_of(record)
    return all(present.get(key) == value for key, value in wanted.items())


def only(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The one record; None when there is none, or when there are several and it is not known which is meant."""
    return records[0] if len(records) == 1 else None
