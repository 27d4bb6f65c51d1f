# SPDX-License-Identifier: GPL-3.0-or-later
"""SSM's tiers: a secret of more than 4 KB is refused as a standard parameter, and one of more than 8 KB as any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.ssm.models import SimpleSystemManagerBackend

from sandbox import parameters


@pytest.fixture
def ssm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    # Set once more, so that it is as it was afterwards.
    monkeypatch.setattr(SimpleSystemManagerBackend, "put_parameter", SimpleSystemManagerBackend.put_parameter)
    parameters.close_gaps()
    with mock_aws():
        yield boto3.client("ssm", region_name="ap-northeast-1")


def put(ssm: Any, size: int, **more: Any) -> str:
    """The tier, or the words of a refusal."""
    try:
        ssm.put_parameter(Name="/spotcache/s", Value="x" * size, Type="SecureString", **more)
    except ClientError as error:
        return "{Code}: {Message}".format(**error.response["Error"])
    [row] = ssm.describe_parameters()["Parameters"]
    return str(row["Tier"])


@pytest.mark.parametrize(
    ("size", "tier", "words"),
    [
        (4096, None, "Standard"),
        (
            4097,
            None,
            "ValidationException: Standard tier parameters support a maximum parameter value of 4096 characters",
        ),
        (4097, "Standard", "upgrade the parameter to use the advanced-parameter tier"),
        (4096, "Intelligent-Tiering", "Standard"),
        (4097, "Intelligent-Tiering", "Advanced"),
        (8192, "Advanced", "Advanced"),
        (8193, "Intelligent-Tiering", "a maximum parameter value of 8192 characters"),
    ],
)
def test_a_tier_holds_so_much(ssm: Any, size: int, tier: str | None, words: str) -> None:
    assert words in put(ssm, size, **({"Tier": tier} if tier else {}))


def test_an_advanced_parameter_stays_one(ssm: Any) -> None:
    assert put(ssm, 5000, Tier="Intelligent-Tiering") == "Advanced"
    assert put(ssm, 10, Overwrite=True, Tier="Intelligent-Tiering") == "Advanced"
    assert "can't downgrade" in put(ssm, 10, Overwrite=True, Tier="Standard")
