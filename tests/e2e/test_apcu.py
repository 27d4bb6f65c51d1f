# SPDX-License-Identifier: GPL-3.0-or-later
"""APCu of the real application, cleared on every web host through Systems Manager, or a failure that names the host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dev import permissions
from dev.sample_app.laravel import image
from dev.sample_app.web_fleet import GROUP, WebFleet, until
from dev.sandboxes import COLOR, Sandbox
from dev.work import BUILD
from sandbox.iam import permits
from tests.e2e.conftest import JOB

LOGS = BUILD / "test" / "e2e" / f"apcu{JOB}"
REPORT = LOGS / "report.json"
HOSTS = 3


@pytest.fixture(scope="module")
def fleet() -> Iterator[WebFleet]:
    with Sandbox(f"t-apcu{JOB}", LOGS, swift=True).running(*permissions.also("apcu")) as sandbox:
        made = WebFleet(sandbox, image.ensure())
        made.up(HOSTS)
        yield made


def clear(fleet: WebFleet, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    REPORT.unlink(missing_ok=True)
    wanted = arguments or ("-e", f"apcu_group={GROUP}")
    code, play = fleet.sandbox.attempt("cache_clear", *wanted, "-e", f"apcu_report={REPORT}")
    told: dict[str, Any] = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    # Ansible breaks long lines; a sentence is looked for without its breaks.
    return code, " ".join(COLOR.sub("", play.text).split()), told


def fill(fleet: WebFleet) -> None:
    for host in fleet.hosts():
        assert json.loads(fleet.page(host, "apcu-put/color/blue")) == {"stored": True}
        assert json.loads(fleet.page(host, "apcu-get/color")) == {"value": "blue"}


def colors(fleet: WebFleet) -> list[Any]:
    return [json.loads(fleet.page(host, "apcu-get/color"))["value"] for host in fleet.hosts()]


def test_every_host_is_cleared_and_only_a_full_cache_is_a_change(fleet: WebFleet) -> None:
    fill(fleet)
    checked, text, told = clear(fleet, "-e", f"apcu_group={GROUP}", "--check")
    assert (checked, told) == (0, {})
    assert "not asked (check mode)" in text
    assert colors(fleet) == ["blue"] * HOSTS
    code, text, told = clear(fleet)
    assert code == 0, text
    assert (told["wanted"], told["answered"]) == (HOSTS, HOSTS)
    assert all(one["answers"][0]["before"] >= 1 for one in told["hosts"])
    assert "changed=1" in text
    assert colors(fleet) == [False] * HOSTS
    code, text, _ = clear(fleet, "-e", '{"apcu_tags": {"Role": "web"}}')
    assert code == 0
    assert "changed=0" in text


def test_a_host_whose_php_is_down_is_named_and_the_others_are_cleared(fleet: WebFleet) -> None:
    fill(fleet)
    broken, *others = fleet.hosts()
    fleet.shell(broken, "docker stop -t 1 php")
    try:
        code, text, told = clear(fleet)
    finally:
        fleet.shell(broken, "docker start php")
    assert code == 2
    assert told["answered"] == HOSTS - 1
    assert "APCu is not cleared everywhere." in text
    assert f"{HOSTS - 1} of {HOSTS} hosts of the Auto Scaling group {GROUP} answered well: {broken.id} ended" in text
    for host in others:
        assert json.loads(fleet.page(host, "apcu-get/color")) == {"value": False}
    until(lambda: fleet.page(broken, "apcu-put/ready/yes").startswith("{"), "php back again", 30)


def test_a_slow_host_is_named(fleet: WebFleet) -> None:
    slow = fleet.hosts()[-1]
    fleet.shell(slow, "docker pause php")
    try:
        code, text, _ = clear(fleet, "-e", f"apcu_group={GROUP}", "-e", "apcu_timeout=2")
    finally:
        fleet.shell(slow, "docker unpause php")
    assert code == 2
    assert f"{slow.id} ended with Failed, exit code 28: no answer within 2 s" in text


def test_a_container_that_is_not_there_is_named(fleet: WebFleet) -> None:
    code, text, _ = clear(fleet, "-e", f"apcu_group={GROUP}", "-e", '{"apcu_containers": ["web-server"]}')
    assert code == 2
    assert "No such container: web-server" in text


def test_a_page_that_is_not_there_is_no_success(fleet: WebFleet) -> None:
    # curl without -f would call it one.
    code, text, _ = clear(fleet, "-e", f"apcu_group={GROUP}", "-e", "apcu_url=localhost/no-such.php")
    assert code == 2
    assert "exit code 22: the web server answered with an error" in text


def test_a_host_that_hangs_is_named_and_not_waited_for(fleet: WebFleet) -> None:
    hung = fleet.hosts()[0]
    fleet.sandbox.verb("hang", "--name", fleet.sandbox.name, hung.id)
    try:
        code, text, told = clear(fleet)
    finally:
        fleet.sandbox.verb("thaw", "--name", fleet.sandbox.name, hung.id)
    assert code == 2
    assert f"{hung.id} has lost its connection to Systems Manager" in text
    assert told["seconds"] < 30


def test_terminated_hosts_are_not_counted(fleet: WebFleet) -> None:
    fleet.resize(HOSTS - 1)
    code, text, told = clear(fleet)
    assert code == 0, text
    assert (told["wanted"], told["answered"]) == (HOSTS - 1, HOSTS - 1)


def test_an_empty_fleet_is_a_failure(fleet: WebFleet) -> None:
    for arguments, expected in (
        (("-e", "apcu_group=nobody"), "There is no Auto Scaling group called nobody"),
        (("-e", '{"apcu_tags": {"Role": "nobody"}}'), "No running instance carries the tag Role=nobody"),
        (("-e", "apcu_group="), "give exactly one of them"),
    ):
        code, text, told = clear(fleet, *arguments)
        assert code == 2
        assert expected in text
        assert not told.get("hosts")


def logs_of_functions(fleet: WebFleet) -> list[Any]:
    found = fleet.sandbox.client("logs").describe_log_groups(logGroupNamePrefix="/aws/lambda/")
    return list(found["logGroups"])


def told_of_ended_commands_and_logged_for_a_month(fleet: WebFleet) -> None:
    topics = fleet.sandbox.client("sns")
    [topic] = [one["TopicArn"] for one in topics.list_topics()["Topics"] if one["TopicArn"].endswith("-apcu")]
    policy = json.loads(topics.get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"])
    assert permits(policy, "events.amazonaws.com", "sns:Publish", {})
    assert not permits(policy, "ssm.amazonaws.com", "sns:Publish", {"aws:SourceAccount": "999999999999"})
    [log] = logs_of_functions(fleet)
    assert log["retentionInDays"] == 30
    # The policies of docs/iam let nobody make a role without it.
    role = fleet.sandbox.client("iam").get_role(RoleName=log["logGroupName"].rpartition("/")[2])["Role"]
    assert role["PermissionsBoundary"]["PermissionsBoundaryArn"].endswith(":policy/spotcache-boundary")


def test_the_function_for_slack_is_deployed_once(fleet: WebFleet) -> None:
    play = LOGS / "notify.yml"
    role = {
        "apcu_environment": "{{ spotcache_environment }}",
        "apcu_region": "{{ spotcache_region }}",
        "apcu_group": GROUP,
        "apcu_slack_parameter": "/spotcache/slack",
        "apcu_build_directory": str(LOGS / "function"),
    }
    for entry, changes in (("notify", True), ("notify", False), ("notify_absent", True), ("notify_absent", False)):
        task = {"ansible.builtin.include_role": {"name": "spotcache.redis.apcu", "tasks_from": entry}, "vars": role}
        environment = "{{ spotcache_aws_environment }}"
        play.write_text(
            json.dumps([{"hosts": "localhost", "gather_facts": False, "environment": environment, "tasks": [task]}])
        )
        done = fleet.sandbox.play(str(play), log=entry)
        assert (done.changed > 0) is changes, done.text
        if (entry, changes) == ("notify", True):
            told_of_ended_commands_and_logged_for_a_month(fleet)
    assert logs_of_functions(fleet) == []
