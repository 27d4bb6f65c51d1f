# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWS refuses, in words; and what it does not know yet."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.aws.settle import SETTLES_AFTER, found, known


@pytest.mark.parametrize(
    ("operation", "code", "words"),
    [
        ("UploadPart", "AccessDenied", "AWS denies s3:PutObject; add it to the policy of the host's instance profile"),
        ("HeadObject", "403", "AWS denies s3:GetObject"),
        ("ListObjectsV2", "AccessDenied", "AWS denies s3:ListBucket"),
        ("CreateSnapshot", "UnauthorizedOperation", "AWS denies ec2:CreateSnapshot"),
        ("PutObject", "NoSuchBucket", "the bucket does not exist; provision makes it"),
        ("GetObject", "ExpiredToken", "AWS does not accept the host's credentials (ExpiredToken"),
        ("GetObject", "SlowDown", "SlowDown: text"),
    ],
)
def test_refusals_of_aws(operation: str, code: str, words: str) -> None:
    with pytest.raises(AwsError) as caught, aws_errors("doing it"):
        raise ClientError({"Error": {"Code": code, "Message": "text"}}, operation)
    assert str(caught.value).startswith("doing it: ")
    assert words in str(caught.value)
    assert caught.value.code == code


def test_aws_that_is_not_reached() -> None:
    from botocore import exceptions

    with (
        pytest.raises(AwsError, match="there are no AWS credentials; the host has no instance profile"),
        aws_errors("x"),
    ):
        raise exceptions.NoCredentialsError
    with pytest.raises(AwsError, match="Could not connect to the endpoint URL"), aws_errors("x"):
        raise exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9")


def test_not_found_is_believed_in_the_end_and_a_denial_at_once() -> None:
    waited: list[float] = []

    def ask(code: str) -> str:
        raise AwsError("no", code)

    with pytest.raises(AwsError):
        known(lambda: ask("InvalidVolume.NotFound"), waited.append)
    assert SETTLES_AFTER <= sum(waited) < SETTLES_AFTER + 5
    waited.clear()
    with pytest.raises(AwsError):
        known(lambda: ask("UnauthorizedOperation"), waited.append)
    assert waited == []
    answers = ["", "", "vol-1"]
    assert found(lambda: answers.pop(0), waited.append) == "vol-1"
    assert len(waited) == 2
