# SPDX-License-Identifier: GPL-3.0-or-later
"""The role certificate against moto: what is made, kept, renewed in time, and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography import x509
from moto.server import ThreadedMotoServer

from dev.work import ROOT, tool

pytestmark = pytest.mark.plays

NAME = "redis.stg.spotcache.internal"
PARAMETER = "/spotcache/stg/tls/authority"
Play = Callable[..., tuple[int, str, dict[str, str]]]


@pytest.fixture
def aws() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "ap-northeast-1"}
    try:
        yield {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        server.stop()


def kept(aws: dict[str, str]) -> dict[str, str]:
    """What SSM keeps."""
    client = boto3.client(
        "ssm",
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        region_name=aws["AWS_REGION"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    try:
        parameter = client.get_parameter(Name=PARAMETER, WithDecryption=True)["Parameter"]
    except client.exceptions.ParameterNotFound:
        return {}
    assert parameter["Type"] == "SecureString"
    found: dict[str, str] = json.loads(parameter["Value"])
    return found


@pytest.fixture
def play(tmp_path: Path, aws: dict[str, str]) -> Play:
    """Run entry points of the role; the exit code, all that was said, and the last result."""
    result = tmp_path / "result.json"

    def run(*entries: str, arguments: tuple[str, ...] = (), **given: Any) -> tuple[int, str, dict[str, str]]:
        variables = {"certificate_environment": "stg", "certificate_region": aws["AWS_REGION"]}
        roles = [
            {"ansible.builtin.include_role": {"name": "spotcache.redis.certificate", "tasks_from": entry}}
            for entry in entries
        ]
        show = {
            "ansible.builtin.copy": {
                "content": "{{ certificate_result | to_json }}",
                "dest": str(result),
                "mode": "0600",
            },
            "check_mode": False,
            "no_log": True,
            "when": "certificate_result is defined",
        }
        written = {
            "hosts": "localhost",
            "gather_facts": False,
            "environment": aws,
            "vars": {**variables, "certificate_names": [NAME], **given},
            "tasks": [*roles, show],
        }
        (tmp_path / "play.json").write_text(json.dumps([written]))
        done = subprocess.run(
            [
                tool("ansible-playbook"),
                "-i",
                "localhost,",
                "-c",
                "local",
                "-v",
                "--diff",
                *arguments,
                tmp_path / "play.json",
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
        )
        text = json.loads(result.read_text()) if result.exists() else {}
        return done.returncode, done.stdout + done.stderr, text

    return run


def loaded(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def days(pem: str) -> float:
    """How long a certificate is still good for."""
    return (loaded(pem).not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400


def test_it_is_made_once_renewed_in_time_and_removed(play: Play, aws: dict[str, str]) -> None:
    code, said, _ = play("main", arguments=("--check",))
    assert (code, kept(aws)) == (0, {}), said

    code, said, made = play("main", certificate_days=70)
    assert code == 0, said
    first = kept(aws)
    assert made == {name: first[key] for name, key in FACTS.items()}
    assert "PRIVATE KEY" not in said
    certificate = loaded(first["certificate"])
    certificate.verify_directly_issued_by(loaded(first["authority"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME, "localhost"]
    assert 69 < days(first["certificate"]) <= 70

    code, said, _ = play("main", certificate_days=70)
    assert (code, kept(aws), "changed=0" in said) == (0, first, True), said

    # Within the days of renewal: another certificate and key, of the same authority.
    code, said, _ = play("main", certificate_renew_days=71, certificate_days=397)
    renewed = kept(aws)
    assert code == 0, said
    assert {name: renewed[name] == first[name] for name in first} == {
        "authority": True,
        "authority_key": True,
        "certificate": False,
        "private_key": False,
    }
    assert days(renewed["certificate"]) > 396

    code, said, _ = play("main", certificate_renew_authority=True)
    again = kept(aws)
    assert code == 0, said
    assert [name for name in again if again[name] == renewed[name]] == []
    loaded(again["certificate"]).verify_directly_issued_by(loaded(again["authority"]))

    code, said, found = play("find")
    assert (code, found["ca"], found["private_key"]) == (0, again["authority"], ""), said
    code, said, _ = play("destroy")
    assert (code, kept(aws)) == (0, {}), said


FACTS = {"certificate": "certificate", "private_key": "private_key", "ca": "authority"}


def test_without_a_name_there_is_no_certificate(play: Play) -> None:
    code, said, _ = play("preflight", certificate_names=[])
    assert code == 2
    assert "give at least one DNS name" in " ".join(said.split())
