"""Whether SSM keeps a parameter, without its value."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.modules import ssm_parameter_info as module
from botocore.stub import Stubber

NAME = "/spotcache/stg/slack-webhook"


@pytest.mark.parametrize("kind", ["SecureString", ""])
def test_it_says_whether_there_is_one_and_never_what_it_is(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = boto3.client("ssm", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    monkeypatch.setattr(AnsibleAWSModule, "client", lambda self, service: {"ssm": client}[service])
    asked = {"Name": NAME, "WithDecryption": False}
    with Stubber(client) as ssm, patch_module_args({"name": NAME, "region": "us-east-1"}):
        if kind:
            ssm.add_response("get_parameter", {"Parameter": {"Type": kind, "Value": "SECRET"}}, asked)
        else:
            ssm.add_client_error("get_parameter", "ParameterNotFound", "none", 400, expected_params=asked)
        with pytest.raises(SystemExit):
            module.main()
        ssm.assert_no_pending_responses()
    said = capsys.readouterr().out
    answer: dict[str, Any] = json.loads(said)
    assert (answer["exists"], answer["type"], answer["changed"]) == (bool(kind), kind, False)
    assert "SECRET" not in said
