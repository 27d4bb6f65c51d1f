# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills against a sandbox, by the playbook alone: nothing here knows better than the report."""

from __future__ import annotations

import json
import os
import pwd
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from botocore.exceptions import ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry
from spotcache_keeper.stores.manifest import Manifest

from dev import keys
from dev.drill import runs as drill
from dev.sample_app.slack import Slack
from dev.sample_app.web_fleet import until
from dev.sandboxes import PORT, Host, Sandbox
from dev.work import BUILD

FOLDER = BUILD / "test" / "e2e" / "drill"
KEYS = 20_000
NOTICE_S = 10.0


@pytest.fixture(scope="module")
def place(baked: Sandbox) -> Sandbox:
    """The sandbox, with notices that are as short as a test."""
    baked.verb("fis-scale", str(NOTICE_S / 120), "--name", baked.name)
    return baked


def left_of_fis(place: Sandbox) -> list[str]:
    """What a drill made in the account."""
    templates = place.client("fis").list_experiment_templates()["experimentTemplates"]
    roles = [role["RoleName"] for role in place.client("iam").list_roles()["Roles"] if "drill" in role["RoleName"]]
    return [template["id"] for template in templates] + roles


def run(place: Sandbox, name: str, **chosen: Any) -> tuple[int, str, dict[str, Any]]:
    """One run of the playbook: exit code, what it said, and its report."""
    folder = FOLDER / name
    variables = {
        "drill_confirm": "sandbox",
        "drill_folder": str(folder),
        "drill_poll_seconds": 0.25,
        "drill_patience": 90,
        "drill_lead_seconds": 1.5,
        **chosen,
    }
    (folder / "report.json").unlink(missing_ok=True)
    code, play = place.attempt("drill", "-e", json.dumps(variables), log=name)
    report = folder / "report.json"
    return code, " ".join(play.text.split()), json.loads(report.read_text()) if report.exists() else {}


def speaks_tls_alone(place: Sandbox, host: Host) -> None:
    """Whoever writes to a host does so over TLS: in the clear nobody is let in."""
    login: Any = {"username": keys.USERNAME, "password": place.password}
    in_the_clear = redis.Redis(host=host.ip, port=PORT, **login, retry=Retry(NoBackoff(), 0), socket_timeout=5)
    with in_the_clear, pytest.raises(redis.ConnectionError):
        in_the_clear.ping()
    # Not because nobody answers there.
    with place.connect_as_keeper(host) as client:
        assert client.config_get("port", "tls-port") == {"port": "0", "tls-port": str(PORT)}


def refused(place: Sandbox, name: str, **chosen: Any) -> str:
    """What a refused drill says; the host must not notice it, and nothing may be left."""
    host = place.host()
    code, said, report = run(place, name, **chosen)
    assert code != 0
    assert report == {}
    assert left_of_fis(place) == []
    assert place.host() == host
    return said


def test_bad_inputs_are_refused_before_anything_is_changed(place: Sandbox) -> None:
    assert "drill_confirm is 'stg'" in refused(place, "confirm", drill_confirm="stg")
    assert "value of drill_kind must be one of" in refused(place, "kind", drill_kind="flood")
    assert "drill_kind is 'zone_lost', for which AWS FIS has no action" in refused(
        place, "zone", drill_kind="zone_lost"
    )
    assert "drill_client_host is 'web1', which no inventory" in refused(place, "client", drill_client_host="web1")


@contextmanager
def backups_aside(place: Sandbox) -> Iterator[None]:
    """Nothing in S3 to come back to, whatever other tests have backed up: without its manifest a backup is none."""
    s3, bucket = place.client("s3"), f"spotcache-{place.name}-backups"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="sandbox/backups/")
    names = [one["Key"] for page in pages for one in page.get("Contents", []) if one["Key"].endswith("/manifest.json")]
    aside = {name: s3.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}
    for name in aside:
        s3.delete_object(Bucket=bucket, Key=name)
    try:
        yield
    finally:
        for name, body in aside.items():
            s3.put_object(Bucket=bucket, Key=name, Body=body)


def test_without_a_backup_or_an_image_nothing_is_interrupted(place: Sandbox) -> None:
    with backups_aside(place):
        assert "there is no verified backup of sandbox in S3" in refused(place, "backup")
    ec2 = place.client("ec2")
    mark = [{"Name": "tag-key", "Values": ["spotcache:fingerprint"]}]
    [image] = ec2.describe_images(Owners=["self"], Filters=mark)["Images"]
    tags = [tag for tag in image["Tags"] if tag["Key"] == "spotcache:fingerprint"]
    # An image without the mark is not one of the configured host.
    ec2.delete_tags(Resources=[image["ImageId"]], Tags=tags)
    try:
        assert "has no image of its host" in refused(place, "image")
    finally:
        ec2.create_tags(Resources=[image["ImageId"]], Tags=tags)


def test_a_client_that_does_not_get_through_strikes_nothing(
    place: Sandbox, filled: dict[int, keys.DatabasePrint]
) -> None:
    said = refused(place, "port", drill_redis_port=6390)
    assert "does not reach port 6390 of" in said
    assert "(directly: " in said
    assert "through ssh to the host: " in said
    assert "-e drill_client_host=NAME" in said


@pytest.fixture(scope="module")
def filled(place: Sandbox) -> dict[int, keys.DatabasePrint]:
    """What Redis holds before the drills."""
    host = place.host()
    place.load(host, KEYS)
    assert place.on_host(host, "spotcache-keeper backup --json").returncode == 0
    return place.fingerprint(host)


def test_check_mode_interrupts_nothing(place: Sandbox, filled: dict[int, keys.DatabasePrint]) -> None:
    host = place.host()
    code, play = place.attempt("drill", "--check", log="check")
    assert code == 0
    assert f"The host {host.id} would be interrupted now (notice)" in " ".join(play.text.split())
    assert place.host() == host


def test_a_restore_brings_back_every_value(place: Sandbox, filled: dict[int, keys.DatabasePrint]) -> None:
    host = place.host()
    speaks_tls_alone(place, host)
    backed_up = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    with place.connect(host, max(filled)) as client:
        client.flushdb()
        client.set("written", "after the backup")
    assert len(keys.differences(filled, place.fingerprint(host))) == 1
    place.play("restore", "-e", json.dumps({"restore_from": backed_up, "restore_force": True}), log="restore")
    assert place.host() == host
    assert keys.differences(filled, place.fingerprint(host)) == []
    # The Redis that was started on the backup, too.
    speaks_tls_alone(place, host)
    # What a forced restore replaced was backed up; the hosts that the drills bring come back to what is there now.
    assert place.on_host(host, "spotcache-keeper backup --json").returncode == 0


def forge(place: Sandbox, number: int) -> list[str]:
    """Backups as a thief writes them: whole, called verified, of a term that no host has reached; their keys."""
    s3, bucket = place.client("s3"), f"spotcache-{place.name}-backups"
    made, now = [], datetime.now(UTC)
    for one in range(number):
        backup = f"{now + timedelta(seconds=one):%Y%m%dT%H%M%SZ}-{one:06x}"
        manifest = Manifest(
            backup, "sandbox", now, "timer", "7.0.15", 3, "0" * 64, {}, "i-0", "a", verified=True, term=10**6
        )
        for name, body in (("dump.rdb", b"rdb"), ("manifest.json", manifest.to_json().encode())):
            made.append(f"sandbox/backups/{backup}/{name}")
            s3.put_object(Bucket=bucket, Key=made[-1], Body=body)
    return made


def test_with_a_hosts_credentials_no_backup_is_lost(place: Sandbox, filled: dict[int, keys.DatabasePrint]) -> None:
    host = place.host()
    code, said, report = run(place, "stolen", drill_kind="stolen")
    assert code == 0, said[-3000:]
    [one] = report["runs"]
    assert report["verdict"] == "passed"
    assert len(one["tries"]) > 35
    assert [row for row in one["tries"] if not row["refused"]] == []
    assert {row["answer"] for row in one["tries"]} == {
        "AccessDenied",
        "AccessDeniedException",
        "PreconditionFailed",
        "UnauthorizedOperation",
    }
    assert keys.differences(filled, place.fingerprint(host)) == []
    # What it may do is add. However much of it is called newer, nothing of what was there goes.
    s3, bucket = place.client("s3"), f"spotcache-{place.name}-backups"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="sandbox/backups/")
    before = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
    forged = forge(place, 60)
    try:
        answer = place.client("lambda").invoke(FunctionName="spotcache-sandbox-retention", Payload="{}")
        assert json.loads(answer["Payload"].read()) == {"s3": [], "ebs": []}
        after = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="sandbox/backups/")
        assert before <= {entry["Key"] for page in after for entry in page.get("Contents", [])}
        # The first of the day is locked, for the owner of everything as well.
        first = min(name for name in before if name.endswith("/manifest.json"))
        held = s3.head_object(Bucket=bucket, Key=first)
        assert held["ObjectLockMode"] == "GOVERNANCE"
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.delete_object(Bucket=bucket, Key=first, VersionId=held["VersionId"])
    finally:
        for name in forged:
            version = s3.head_object(Bucket=bucket, Key=name)["VersionId"]
            s3.delete_object(Bucket=bucket, Key=name, VersionId=version, BypassGovernanceRetention=True)


def test_a_host_that_may_delete_is_found_out(place: Sandbox, filled: dict[int, keys.DatabasePrint]) -> None:
    iam, role = place.client("iam"), "spotcache-sandbox"
    statement = {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName=role, PolicyName="too-much", PolicyDocument=document)
    boundary = iam.get_role(RoleName=role)["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"]
    # The boundary alone would refuse it.
    iam.delete_role_permissions_boundary(RoleName=role)
    try:
        code, said, report = run(place, "stolen-more", drill_kind="stolen")
    finally:
        iam.put_role_permissions_boundary(RoleName=role, PermissionsBoundary=boundary)
        iam.delete_role_policy(RoleName=role, PolicyName="too-much")
    assert code != 0
    assert report["verdict"] == "failed"
    # What is deleted is not there any more, and what is not there may be added.
    assert {row["what"] for row in report["runs"][0]["tries"] if not row["refused"]} == {
        "delete it",
        "write it where there is none",
    }
    assert "with the credentials of the host one can delete it" in said
    assert keys.differences(filled, place.fingerprint(place.host())) == []


def are_told(people: Slack, words: str) -> None:
    """What a host says reaches people by way of queues and functions."""
    until(lambda: people.count(words) > 0, f"that people are told of {words}", 60)


def test_with_a_notice_by_fis(place: Sandbox, filled: dict[int, keys.DatabasePrint], people: Slack) -> None:
    old = place.host()
    speaks_tls_alone(place, old)
    code, said, report = run(place, "notice")
    assert code == 0, said[-3000:]
    [one] = report["runs"]
    assert report["verdict"] == "passed"
    assert (one["host"], one["successor"]) == (old.id, place.host().id)
    assert one["acknowledged_lost"] == 0
    assert one["keys_acknowledged"] > 100
    assert 0 <= one["notice_to_seen_s"] <= 5
    assert 0 < one["seen_to_safe_s"] < NOTICE_S
    # The host goes on to live for as long as was announced, and nobody can write meanwhile.
    assert one["outage_s"] > NOTICE_S - one["notice_to_seen_s"] - 2
    assert one["gone_to_serving_s"] > 0
    names = [event["name"] for event in one["timeline"]]
    assert set(names) == {
        "notice published",
        "notice seen",
        "writes fenced",
        "backup verified",
        "off the host",
        "host gone",
        "new host",
        "restored",
        "DNS moved",
        "first read",
        "first write",
    }
    picture = Path(FOLDER / "notice" / "timeline.svg").read_text()
    assert old.id in "".join(ET.fromstring(picture).itertext())
    # Neither a role nor a template stays, none of the client's keys, and nothing that holds the password.
    assert left_of_fis(place) == []
    homes = {Path.home(), Path(pwd.getpwuid(os.getuid()).pw_dir)}
    jobs = [file for home in homes for file in home.glob(".ansible_async/*")]
    jobs += list(Path(tempfile.gettempdir()).glob("spotcache-drill-*/*"))
    assert [file for file in jobs if place.password in file.read_text(errors="replace")] == []
    speaks_tls_alone(place, place.host())
    assert keys.differences(filled, place.fingerprint(place.host())) == []
    are_told(people, str(one["successor"]))


def test_an_instance_that_fis_terminates_is_measured_through_the_host(
    place: Sandbox, filled: dict[int, keys.DatabasePrint]
) -> None:
    """As on AWS from a laptop: what ends the host shuts it down in good order, and the client comes by ssh."""
    old = place.host()
    code, said, report = run(place, "terminate", drill_kind="kill", drill_client_ways=["ssh"])
    assert code == 0, said[-3000:]
    [one] = report["runs"]
    assert "The client writes through ssh to the host" in said
    assert (one["host"], one["successor"]) == (old.id, place.host().id)
    # The final backup of a shutdown has everything.
    assert one["acknowledged_lost"] == 0
    assert one["keys_acknowledged"] > 0
    assert left_of_fis(place) == []
    assert keys.differences(filled, place.fingerprint(place.host())) == []


def test_without_a_notice(place: Sandbox, filled: dict[int, keys.DatabasePrint]) -> None:
    code, said, report = run(place, "kill", drill_kind="kill", drill_command=[*drill.INJECT, "kill"])
    assert code == 0, said[-3000:]
    [one] = report["runs"]
    assert (one["notice_to_seen_s"], one["seen_to_safe_s"]) == (None, None)
    # What was written after the backup is lost, and counted; what is older is there.
    assert one["acknowledged_lost"] > 0
    assert one["lost_older_than_backup"] == 0
    assert one["oldest_lost_s"] > 0
    assert keys.differences(filled, place.fingerprint(place.host())) == []


def test_a_host_that_ends_while_it_restores_is_followed_by_another(
    place: Sandbox, filled: dict[int, keys.DatabasePrint]
) -> None:
    assert place.on_host(place.host(), "spotcache-keeper backup --json --no-snapshot").returncode == 0
    chosen = {"drill_second_command": [*drill.INJECT, "kill"], "drill_second_lead_seconds": 0.5}
    code, said, report = run(place, "evicted", drill_kind="evicted_restoring", **chosen)
    assert code == 0, said[-3000:]
    [one] = report["runs"]
    assert one["acknowledged_lost"] == 0
    client = json.loads((FOLDER / "evicted" / "client.json").read_text())
    assert len(client["hosts"]) == 3
    assert client["hosts"][1]["gone_at"] is not None
    assert left_of_fis(place) == []
    assert keys.differences(filled, place.fingerprint(place.host())) == []


def test_a_recommendation_brings_an_early_backup_and_nothing_else(
    place: Sandbox, filled: dict[int, keys.DatabasePrint]
) -> None:
    host = place.host()
    code, said, report = run(
        place,
        "rebalance",
        drill_kind="rebalance",
        drill_command=[*drill.INJECT, "rebalance"],
        drill_client_ways=["ssh"],
    )
    assert code == 0, said[-3000:]
    [one] = report["runs"]
    assert "The client writes through ssh to the host" in said
    assert one["acknowledged_lost"] == 0
    assert one["keys_acknowledged"] > 100
    assert place.host() == host


def test_without_spot_capacity_by_fis_a_host_on_demand_stands_in(
    place: Sandbox, filled: dict[int, keys.DatabasePrint]
) -> None:
    code, said, report = run(
        place, "capacity", drill_kind="no_capacity", drill_capacity_seconds=43200, drill_patience=180
    )
    assert code == 0, said[-3000:]
    [one] = report["runs"]
    assert one["acknowledged_lost"] == 0
    assert not place.is_spot(one["successor"])
    assert left_of_fis(place) == []
    # With the drill its fault is over: Spot succeeds, and the on-demand fallback hands over what it has.
    host = place.spot_host()
    assert keys.differences(filled, place.fingerprint(host)) == []
