"""What AWX refuses of a schedule's rule and of a survey, so that it is told before anything is sent there."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

ENVIRONMENT = re.compile(r"^[a-z][a-z0-9-]{0,30}$")
FIRST = re.compile(r"^\d{8}T\d{6}$")
START = re.compile(r"(DTSTART(?:;[^:]+)?:\d+T\d+Z?)")
NAIVE = re.compile(r"DTSTART:\d+T\d+(?: |$)")
RULES = re.compile(r"(RULE:\S*)")
NUMBERED_DAY = re.compile(r"BYDAY[:=]\d+[a-zA-Z]{2}")
COUNT = re.compile(r"COUNT=(\d+)")
COUNT_MAX = 999
FREQUENCY = re.compile(r"FREQ=(YEARLY|MONTHLY|WEEKLY|DAILY|HOURLY|MINUTELY|SECONDLY)(;|$)")
# The type of an answer, and of its default.
ANSWERS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "textarea": (str,),
    "password": (str,),
    "multiplechoice": (str,),
    "multiselect": (str, list),
    "integer": (int,),
    "float": (int, float),
}
EVENTS = ("started", "success", "error", "approvals")


def rrule_problems(text: str) -> Iterator[str]:
    """What AWX 24.6.1 refuses of a schedule's rrule (SchedulePreviewSerializer in awx/api/serializers.py).

    Args:
        text: start and rules, as `DTSTART;TZID=Asia/Tokyo:20260101T030000 RRULE:FREQ=DAILY;INTERVAL=1`.
    """
    starts, rules = START.findall(text), RULES.findall(text)
    if len(starts) != 1:
        yield f"it has {len(starts)} DTSTART, and one is wanted"
    if NAIVE.search(text):
        yield "its DTSTART has no time zone"
    if not rules:
        yield "it has no RRULE"
    for word in ("EXDATE", "RDATE"):
        if f"{word}:" in text.upper():
            yield f"{word} is not allowed"
    for rule in rules:
        if "INTERVAL" not in rule.upper():
            yield "INTERVAL is missing"
        if "SECONDLY" in rule.upper():
            yield "SECONDLY is not allowed"
        if NUMBERED_DAY.search(rule):
            yield "BYDAY has a number before the day: use BYSETPOS or BYMONTHDAY"
        if "COUNT=" in rule and "UNTIL=" in rule:
            yield "it has both COUNT and UNTIL"
        counted = COUNT.search(rule)
        if counted and int(counted[1]) > COUNT_MAX:
            yield f"COUNT is more than {COUNT_MAX}"
        if not FREQUENCY.search(rule):
            yield "FREQ is none of YEARLY, MONTHLY, WEEKLY, DAILY, HOURLY and MINUTELY"


def survey_problems(survey: Mapping[str, Any]) -> Iterator[str]:
    """What AWX 24.6.1 refuses of a survey (JobTemplateSurveySpec in awx/api/views/__init__.py)."""
    for key, kind in (("name", str), ("description", str), ("spec", list)):
        if not isinstance(survey.get(key), kind):
            yield f"{key} is missing or of another type"
    questions = survey.get("spec") or []
    if not questions:
        yield "it asks nothing"
    variables = [question.get("variable") for question in questions]
    for variable in {name for name in variables if variables.count(name) > 1}:
        yield f"{variable} is asked twice"
    for question in questions:
        for problem in question_problems(question):
            yield f"{question.get('variable')}: {problem}"


def question_problems(question: Mapping[str, Any]) -> Iterator[str]:
    """What AWX refuses of one question."""
    for key, kind in (("type", str), ("question_name", str), ("variable", str), ("required", bool)):
        if not isinstance(question.get(key), kind):
            yield f"{key} is missing or of another type"
    asked = str(question.get("type"))
    if asked not in ANSWERS:
        yield f"type {asked} is none of {', '.join(ANSWERS)}"
        return
    default = question.get("default", "")
    if default != "" and (not isinstance(default, ANSWERS[asked]) or isinstance(default, bool)):
        yield f"default {default!r} is no {asked}"
    for key in ("min", "max"):
        if question.get(key) is not None and not isinstance(question[key], int):
            yield f"{key} is no integer"
    if asked in ("multiplechoice", "multiselect"):
        yield from choice_problems(question, default)
    if isinstance(default, str) and default.startswith("$encrypted$"):
        yield "default is AWX's own word"


def choice_problems(question: Mapping[str, Any], default: object) -> Iterator[str]:
    """What AWX refuses of a question with choices."""
    choices = question.get("choices")
    if not choices:
        yield "choices are missing"
        return
    defaults = default.splitlines() if isinstance(default, str) else list(default) if isinstance(default, list) else []
    if question["type"] == "multiplechoice" and len(defaults) > 1:
        yield "it has more than one default"
    strange = [one for one in defaults if one not in choices]
    if strange:
        yield f"default {strange[0]!r} is none of its choices"


def unanswered(survey: Mapping[str, Any], answers: Mapping[str, Any]) -> Iterator[str]:
    """Which answers of a schedule its template's survey does not take, and which it lacks."""
    asked = {question["variable"]: question for question in survey.get("spec") or []}
    for name in answers:
        if name not in asked:
            yield f"answers name {name}, which the survey does not ask"
    for name, question in asked.items():
        if question.get("required") and name not in answers:
            yield f"answers lack {name}, which the survey requires"
        choices = question.get("choices")
        if name in answers and choices and answers[name] not in choices:
            yield f"the answer {answers[name]!r} to {name} is none of {', '.join(choices)}"


def problems(inputs: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about the inputs of the role awx; `surveys` and `verbs` are what its templates have."""
    if inputs["awx_state"] == "present" and not inputs["awx_execution_environment_image"]:
        yield (
            "awx_execution_environment_image is empty: name the image that ansible-builder made of "
            "execution-environment.yml, for example registry.example.com/spotcache-ee:1."
        )
    yield from environment_problems(inputs["awx_environments"])
    try:
        ZoneInfo(str(inputs["awx_time_zone"]))
    except (ZoneInfoNotFoundError, ValueError):
        yield f"awx_time_zone is '{inputs['awx_time_zone']}': use an IANA name such as Asia/Tokyo."
        return
    for one in inputs["awx_schedules"]:
        for problem in schedule_problems(one, inputs):
            yield f"awx_schedules has '{one['name']}': {problem}."


def environment_problems(environments: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Sentences about awx_environments."""
    if not environments:
        yield "awx_environments is empty: name one, for example {name: stg, inventory: inventories/stg/hosts.yml}."
    names = [str(one["name"]) for one in environments]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"awx_environments names {name} twice."
    for name in names:
        if not ENVIRONMENT.match(name):
            yield f"awx_environments names '{name}': use small letters, digits and hyphens, a letter first, as in stg."


def schedule_problems(one: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with one of awx_schedules."""
    verbs: Sequence[str] = inputs["verbs"]
    if one["template"] not in verbs:
        yield f"template '{one['template']}' is none of {', '.join(verbs)}"
    if not FIRST.match(str(one["first"])):
        yield f"first is '{one['first']}': write a time as 20260101T030000"
        return
    yield from rrule_problems(f"DTSTART;TZID={inputs['awx_time_zone']}:{one['first']} RRULE:{one['rule']}")
    yield from unanswered(inputs["surveys"].get(one["template"], {}), one.get("answers") or {})
