# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role awx declares: options that modules have, what AWX takes, and variables that there are."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import yaml
from ansible.plugins.loader import fragment_loader
from ansible.utils.plugin_docs import get_docstring
from ansible_collections.spotcache.redis.plugins.module_utils import awx_rules

from dev.awx_collection import ensure
from dev.work import ROOT
from tests.templates.render import value

STG: dict[str, Any] = {
    "name": "stg",
    "inventory": "inventories/stg/hosts.yml",
    "credentials": ["aws"],
    "secrets": {"redis_password": "correct-horse-battery-staple", "host_key": "a key"},
}
SLACK: dict[str, Any] = {
    "name": "slack",
    "notification_type": "slack",
    "notification_configuration": {"token": "t", "channels": ["#ops"]},
}
SCENARIO: dict[str, Any] = {
    "awx_execution_environment_image": "registry.example.com/ee:1",
    "awx_environments": [STG],
    "awx_notifications": [SLACK],
    "awx__environment": STG,
}
LISTS = ("own", "galaxy", "notifications", "project", "credentials", "inventory", "templates", "workflow", "schedules")


def declared() -> list[dict[str, Any]]:
    """Every object of a server with one environment."""
    return [one for name in LISTS for one in value("awx", f"awx__{name}", SCENARIO)]


def options_of(kind: str) -> dict[str, Any]:
    """The options of a module of awx.awx, as its documentation has them."""
    path = ensure() / "plugins" / "modules" / f"{kind}.py"
    documentation, _, _, _ = get_docstring(str(path), fragment_loader, collection_name="awx.awx")
    found: dict[str, Any] = documentation["options"]
    return found


def text_of_type(given: Any) -> set[str]:
    """The types of options that take a value."""
    names = {bool: {"bool"}, str: {"str", "path"}, int: {"int", "float"}, list: {"list"}, dict: {"dict"}}
    # Ansible's own texts and lists are such as well, and so is a truth a number.
    return next(found for kind, found in names.items() if isinstance(given, kind))


def test_every_option_is_one_of_its_module() -> None:
    """With its type and its choices, and every option that must be given."""
    for one in declared():
        known, given = options_of(one["kind"]), one["options"]
        assert set(given) <= set(known), (one["kind"], set(given) - set(known))
        for name, option in known.items():
            assert not option.get("required") or name in given, (one["kind"], name)
        for name, said in given.items():
            assert known[name].get("type", "str") in text_of_type(said), (one["kind"], name, said)
            assert "choices" not in known[name] or said in known[name]["choices"], (one["kind"], name, said)


def test_names_are_there_once() -> None:
    named = [(one["kind"], one["options"]["name"]) for one in declared() if "name" in one["options"]]
    repeated = {one for one in named if named.count(one) > 1}
    # The organisation is given its credential for collections once that can be.
    assert repeated == {("organization", "spotcache")}


def test_playbooks_are_there_and_every_one_has_a_template() -> None:
    named = {one["options"]["playbook"] for one in declared() if one["kind"] == "job_template"}
    there = {f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("[!_]*.yml")}
    # AWX is not configured by itself.
    assert named == there - {"playbooks/awx.yml"}


def test_awx_takes_every_survey() -> None:
    for name, survey in value("awx", "awx__surveys", SCENARIO).items():
        assert list(awx_rules.survey_problems(survey)) == [], name


def specified() -> dict[str, dict[str, Any]]:
    """Every variable of every role."""
    found: dict[str, dict[str, Any]] = {}
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            found |= entry.get("options", {})
    return found


TYPES = {"text": {"str"}, "integer": {"int"}, "multiplechoice": {"str", "bool", "int"}}


@pytest.mark.parametrize("name", sorted(value("awx", "awx__questions", SCENARIO)))
def test_every_question_is_about_a_variable_that_there_is(name: str) -> None:
    question = value("awx", "awx__questions", SCENARIO)[name]
    specification = specified().get(name)
    if specification is None:
        # One of a playbook's own, which it reads and, where it has choices other than yes and no, compares.
        text = "\n".join(path.read_text() for path in (ROOT / "playbooks").rglob("*.yml"))
        uses = re.findall(rf"^(?!\s*#).*\b{name}\b.*$", text, re.MULTILINE)
        assert uses, name
        if question.get("choices") in (["false", "true"], ["true", "false"]):
            assert any(re.search(rf"{name} \| default\((true|false)\) \| bool", use) for use in uses)
            usual = {re.search(rf"{name} \| default\((true|false)\)", use) for use in uses}
            assert {found[1] for found in usual if found} == {question["default"]}
        return
    assert specification["type"] in TYPES[question["type"]]
    if "choices" in specification:
        assert set(question["choices"]) <= set(specification["choices"])
    if "default" in question:
        assert question["default"] == specification["default"]


def test_the_kinds_of_a_drill_are_those_that_fis_has() -> None:
    kinds = value("drill", "drill__kinds", {"drill_environment": "stg", "drill_region": "ap-northeast-1"})
    asked = value("awx", "awx__questions", SCENARIO)["drill_kind"]["choices"]
    assert asked == [name for name, kind in kinds.items() if kind["actions"]]


def test_awx_takes_every_schedule() -> None:
    found = [one["options"] for one in declared() if one["kind"] == "schedule"]
    assert len(found) == 3
    for one in found:
        assert list(awx_rules.rrule_problems(one["rrule"])) == [], one["name"]
        assert one["extra_data"] == {}
        # By the library that AWX reads them with.
        read = importlib.import_module("dateutil.rrule").rrulestr(one["rrule"].replace(" ", "\n"))
        assert (read[1] - read[0]).days == (1 if "night" in one["name"] else 7)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("DTSTART:20260101T030000Z RRULE:FREQ=DAILY;INTERVAL=1", ""),
        ("DTSTART;TZID=Asia/Tokyo:20260101T030000 RRULE:FREQ=MONTHLY;INTERVAL=1;BYMONTHDAY=1,15", ""),
        ("RRULE:FREQ=DAILY;INTERVAL=1", "0 DTSTART"),
        ("DTSTART:20260101T030000 RRULE:FREQ=DAILY;INTERVAL=1", "no time zone"),
        ("DTSTART:20260101T030000Z", "no RRULE"),
        ("DTSTART:20260101T030000Z RRULE:FREQ=DAILY", "INTERVAL is missing"),
        ("DTSTART:20260101T030000Z RRULE:FREQ=SECONDLY;INTERVAL=9", "SECONDLY"),
        ("DTSTART:20260101T030000Z RRULE:FREQ=MONTHLY;INTERVAL=1;BYDAY=2MO", "number before the day"),
        ("DTSTART:20260101T030000Z RRULE:FREQ=DAILY;INTERVAL=1;COUNT=5;UNTIL=20270101T000000Z", "both COUNT and UNTIL"),
        ("DTSTART:20260101T030000Z RRULE:FREQ=DAILY;INTERVAL=1;COUNT=1000", "more than 999"),
        ("DTSTART:20260101T030000Z RRULE:FREQ=DAILY;INTERVAL=1 EXDATE:20260102T030000Z", "EXDATE is not"),
        ("DTSTART:20260101T030000Z RRULE:FREQ=OFTEN;INTERVAL=1", "FREQ is none of YEARLY"),
    ],
)
def test_a_rule_that_awx_refuses_is_told(rule: str, said: str) -> None:
    found = list(awx_rules.rrule_problems(rule))
    assert (said in "; ".join(found)) if said else found == []


def question(**change: Any) -> dict[str, Any]:
    """A survey of one question."""
    one = {"question_name": "Which?", "type": "text", "variable": "x", "required": False}
    return {"name": "", "description": "", "spec": [{**one, **change}]}


@pytest.mark.parametrize(
    ("survey", "said"),
    [
        (question(), ""),
        ({"name": "", "spec": [{}]}, "description is missing"),
        ({"name": "", "description": "", "spec": []}, "asks nothing"),
        (question(type="date"), "type date is none of"),
        (question(required="no"), "required is missing or of another type"),
        (question(type="integer", default="two"), "default 'two' is no integer"),
        (question(type="integer", default=2, min="1"), "min is no integer"),
        (question(type="multiplechoice"), "choices are missing"),
        (question(type="multiplechoice", choices=["a"], default="b"), "none of its choices"),
        (question(type="multiplechoice", choices=["a", "b"], default="a\nb"), "more than one default"),
        ({**question(), "spec": question()["spec"] * 2}, "asked twice"),
    ],
)
def test_a_survey_that_awx_refuses_is_told(survey: dict[str, Any], said: str) -> None:
    found = list(awx_rules.survey_problems(survey))
    assert (said in "; ".join(found)) if said else found == []


def inputs(**change: Any) -> dict[str, Any]:
    """What the role gives its check."""
    names = ("awx_state", "awx_execution_environment_image", "awx_environments", "awx_time_zone", "awx_schedules")
    found = {name: value("awx", name, SCENARIO) for name in names}
    verbs = [one["name"] for one in value("awx", "awx__verbs", SCENARIO)]
    return {**found, "surveys": value("awx", "awx__surveys", SCENARIO), "verbs": verbs, **change}


def schedule(**change: Any) -> dict[str, Any]:
    """A schedule that somebody wants."""
    return {"name": "n", "template": "backup", "first": "20260101T030000", "rule": "FREQ=DAILY;INTERVAL=1", **change}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"awx_execution_environment_image": ""}, "awx_execution_environment_image is empty"),
        ({"awx_execution_environment_image": "", "awx_state": "absent"}, ""),
        ({"awx_environments": []}, "awx_environments is empty"),
        ({"awx_environments": [STG, STG]}, "awx_environments names stg twice"),
        ({"awx_environments": [{**STG, "name": "Stg 1"}]}, "awx_environments names 'Stg 1'"),
        ({"awx_time_zone": "Asia/Edo"}, "awx_time_zone is 'Asia/Edo'"),
        ({"awx_schedules": [schedule(template="snapshot")]}, "template 'snapshot' is none of provision"),
        ({"awx_schedules": [schedule(first="03:00")]}, "first is '03:00': write a time as 20260101T030000"),
        ({"awx_schedules": [schedule(rule="FREQ=DAILY")]}, "INTERVAL is missing"),
        ({"awx_schedules": [schedule(template="drill")]}, "answers lack drill_confirm, which the survey requires"),
        (
            {"awx_schedules": [schedule(answers={"keep": 1})]},
            "answers name keep, which the survey does not ask",
        ),
        (
            {"awx_schedules": [schedule(template="schedule", answers={"schedule_do": "nap"})]},
            "the answer 'nap' to schedule_do is none of apply, keep, start, stop",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_sent(change: dict[str, Any], said: str) -> None:
    found = list(awx_rules.problems(inputs(**change)))
    assert (said in " ".join(found)) if said else found == []


def test_the_modules_are_those_that_the_action_names() -> None:
    documentation, _, _, _ = get_docstring(str(ROOT / "plugins" / "modules" / "controller_object.py"), fragment_loader)
    kinds = documentation["options"]["kind"]["choices"]
    action = (ROOT / "plugins" / "action" / "controller_object.py").read_text()
    assert kinds == re.findall(r'^    "([a-z_]+)",$', action, re.MULTILINE)
    assert {one["kind"] for one in declared()} == set(kinds)
