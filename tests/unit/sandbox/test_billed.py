# SPDX-License-Identifier: GPL-3.0-or-later
"""Which calls are counted as billed, and as what."""

from __future__ import annotations

import pytest

from sandbox.billed import Calls, key_of


@pytest.mark.parametrize(
    ("service", "method", "host", "path", "query", "target", "key"),
    [
        ("s3", "PUT", "127.0.0.1:5000", "/bucket/a/lease.json", "", "", "s3/write"),
        ("s3", "POST", "127.0.0.1:5000", "/bucket/a", "uploads", "", "s3/write"),
        ("s3", "GET", "127.0.0.1:5000", "/bucket/a/lease.json", "", "", "s3/read"),
        ("s3", "HEAD", "127.0.0.1:5000", "/bucket/a", "", "", "s3/read"),
        ("s3", "GET", "127.0.0.1:5000", "/bucket", "list-type=2&prefix=a", "", "s3/write"),
        ("s3", "GET", "127.0.0.1:5000", "/", "", "", "s3/write"),
        ("s3", "GET", "127.0.0.1:5000", "/bucket/", "versioning", "", "s3/read"),
        ("s3", "HEAD", "127.0.0.1:5000", "/bucket", "", "", "s3/read"),
        ("s3", "GET", "bucket.s3.ap-northeast-1.amazonaws.com", "/a", "", "", "s3/read"),
        ("s3", "GET", "bucket.s3.ap-northeast-1.amazonaws.com", "/", "list-type=2", "", "s3/write"),
        ("s3", "GET", "s3.ap-northeast-1.amazonaws.com", "/bucket/a", "", "", "s3/read"),
        ("s3", "DELETE", "127.0.0.1:5000", "/bucket/a", "", "", ""),
        ("s3", "POST", "127.0.0.1:5000", "/bucket", "delete", "", ""),
        ("sqs", "POST", "sqs", "/", "", "AmazonSQS.ReceiveMessage", "sqs/request"),
        ("ssm", "POST", "ssm", "/", "", "AmazonSSM.GetParameters", "kms/request"),
        ("ssm", "POST", "ssm", "/", "", "AmazonSSM.DescribeParameters", ""),
        ("dynamodb", "POST", "d", "/", "", "DynamoDB_20120810.PutItem", "dynamodb/write"),
        ("dynamodb", "POST", "d", "/", "", "DynamoDB_20120810.Query", "dynamodb/read"),
        ("dynamodb", "POST", "d", "/", "", "DynamoDB_20120810.DescribeTable", ""),
        ("lambda", "POST", "l", "/2015-03-31/functions/one/invocations", "", "", "lambda/request"),
        ("ec2", "POST", "ec2", "/", "", "", ""),
    ],
)
def test_what_a_call_is_billed_as(
    service: str, method: str, host: str, path: str, query: str, target: str, key: str
) -> None:
    assert key_of(service, method, host, path, query, target) == key


def test_calls_are_counted_by_who_made_them() -> None:
    calls = Calls(lambda: {"AKIAOPERATOR": "operator"})
    for access, method in (("AKIAOPERATOR", "GET"), ("ASIAHOST", "PUT"), ("ASIAHOST", "PUT"), ("ASIAHOST", "DELETE")):
        scope = f"AWS4-HMAC-SHA256 Credential={access}/20261130/ap-northeast-1/s3/aws4_request, SignedHeaders=host"
        environ = {"HTTP_AUTHORIZATION": scope, "REQUEST_METHOD": method, "PATH_INFO": "/bucket/key"}
        calls.note({**environ, "HTTP_HOST": "127.0.0.1:5000"})
    calls.note({"REQUEST_METHOD": "GET", "PATH_INFO": "/"})
    assert calls.taken(reset=True) == {"operator": {"s3/read": 1}, "roles": {"s3/write": 2}}
    assert calls.taken() == {}
