"""Batches of two applications with nearly everything set, and what a restore has lost."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "backups-of-several"
ALL = ["shop/prices", "shop/batch:warm", "blog/batch:warm"]


def states() -> dict[str, str]:
    """How each batch of the last run went."""
    told = json.loads(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "report.json").read_text())
    return {one["id"]: one["state"] for one in told["runs"]}


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, Any]]:
    """The variables that name a bucket; S3 is moto."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        told = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        s3 = boto3.client("s3", region_name="us-east-1", endpoint_url=told["AWS_ENDPOINT_URL"], **keys)
        s3.create_bucket(Bucket=BUCKET)
        yield {"laravel_batch_bucket": BUCKET, "laravel_batch_aws_environment": told}
    finally:
        server.stop()


def test_all_run_in_their_order(host: Any, converge: Callable[..., Any]) -> None:
    assert converge().code == 0
    assert list(states().items()) == [(one, "done") for one in ALL]
    assert len(host.file("/srv/batch-state").listdir()) == len(ALL)
    assert not host.file("/var/lib/spotcache-batch").exists


def test_only_what_a_restore_has_lost_runs_again(converge: Callable[..., Any], bucket: dict[str, Any]) -> None:
    def again(**variables: Any) -> dict[str, str]:
        run = converge(laravel_batch_when="data_lost", **bucket, **variables)
        assert run.code == 0, run.why
        return states()

    # Of what is not known to have run nobody can say that it was not lost.
    assert set(again().values()) == {"done"}
    assert set(again().values()) == {"left out"}
    restored = {"created": "2020-01-01T00:00:00Z", "changed": True}
    run = converge(scenario_entry_point="record_loss", laravel_batch_restored=restored, **bucket)
    assert run.code == 0, run.why
    assert again(laravel_batch_only=["blog"]) == {**dict.fromkeys(ALL, "left out"), "blog/batch:warm": "done"}


def test_what_was_lost_is_known_by_a_bucket_alone(converge: Callable[..., Any]) -> None:
    run = converge(laravel_batch_when="data_lost")
    assert run.code != 0
    assert "laravel_batch_bucket is ''" in run.why
    assert "batch_when=data_lost a bucket" in run.why


def test_a_time_limit_and_a_hidden_text(host: Any, converge: Callable[..., Any]) -> None:
    batch = {"command": "batch:slow", "arguments": ["--steps=100", "--pause=0.5"], "timeout": 2}
    bad = {"command": "batch:warm", "arguments": ["--items=1", "--shown-to-nobody"], "name": "telling"}
    one = {"name": "shop", "hosts": "web", "path": "/srv/app", "batches": [bad]}
    run = converge(laravel_batch_applications=[one])
    assert run.code != 0
    assert 'The "--********" option does not exist' in run.why
    run = converge(laravel_batch_applications=[{**one, "batches": [batch]}])
    assert run.code != 0
    assert "shop batch:slow was ended after its 2 s" in run.why
    assert host.run("pgrep --exact php").rc != 0
