"""The function that tells Slack: which messages count, that it makes the role's own check, what is sent."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.modules import lambda_package

ROOT = Path(__file__).parents[3]
FILE = ROOT / "roles/apcu/files/spotcache_apcu.py"
COMMAND = "0f1d2c3b-0000-4000-8000-000000000001"
SETTINGS = {
    "name": "stg",
    "group": "shop-web",
    "tags": {},
    "wanted": 0,
    "expect": {"cleared": True},
    "count": 1,
    "limit": 15,
    "meanings": {"22": "the web server answered with an error"},
    "marker": " localhost/apcu.php",
    "slack_parameter": "/spotcache/slack",
}


@pytest.fixture(scope="module")
def function() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("spotcache_apcu", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["spotcache_apcu"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["spotcache_apcu"]


class Aws:
    """Systems Manager, EC2 and Auto Scaling, written down."""

    def __init__(self) -> None:
        self.lines = ["set -e", "docker exec nginx curl -sf -m 5 localhost/apcu.php"]
        self.members = {"i-1": "running", "i-2": "running"}
        self.desired = 2
        self.said = {"i-1": ("Success", 0, '{"cleared": true}'), "i-2": ("Success", 0, '{"cleared": true}')}
        self.address = "https://slack.example/secret"

    def __call__(self, _: str) -> Aws:
        return self

    def get_paginator(self, name: str) -> Any:
        aws = self

        class Pages:
            def paginate(self, **asked: Any) -> list[dict[str, Any]]:
                if name == "describe_instances":
                    ids = asked["Filters"][0]["Values"]
                    listed = [{"InstanceId": i, "State": {"Name": aws.members[i]}} for i in ids]
                    return [{"Reservations": [{"Instances": listed}]}]
                return [{"CommandInvocations": [{"InstanceId": i, "Status": s[0]}]} for i, s in aws.said.items()]

        return Pages()

    def describe_auto_scaling_groups(self, **_: Any) -> dict[str, Any]:
        listed = [{"InstanceId": i, "LifecycleState": "InService"} for i in self.members]
        return {"AutoScalingGroups": [{"DesiredCapacity": self.desired, "Instances": listed}]}

    def list_commands(self, **_: Any) -> dict[str, Any]:
        return {"Commands": [{"Parameters": {"commands": self.lines}}]}

    def get_command_invocation(self, **asked: Any) -> dict[str, Any]:
        status, code, out = self.said[asked["InstanceId"]]
        return {
            "Status": status,
            "ResponseCode": code,
            "StandardOutputContent": out,
            "StandardErrorContent": "",
        }

    def get_parameter(self, **asked: Any) -> dict[str, Any]:
        assert asked == {"Name": "/spotcache/slack", "WithDecryption": True}
        return {"Parameter": {"Value": self.address}}


def from_eventbridge(status: str = "Success") -> str:
    return json.dumps({"detail-type": "EC2 Command", "detail": {"command-id": COMMAND, "status": status}})


def event(*messages: str) -> dict[str, Any]:
    return {"Records": [{"Sns": {"Message": message}} for message in messages]}


def handle(function: ModuleType, aws: Aws, *messages: str, **settings: Any) -> tuple[list[Any], list[tuple[str, str]]]:
    sent: list[tuple[str, str]] = []
    read = function.Settings.read({"SPOTCACHE_APCU": json.dumps({**SETTINGS, **settings})})
    found = function.handle(event(*messages), read, aws, lambda address, text: sent.append((address, text)))
    return found, sent


def test_a_good_clear_is_told(function: ModuleType) -> None:
    found, sent = handle(function, Aws(), from_eventbridge())
    assert [one["ok"] for one in found] == [True]
    ((address, text),) = sent
    assert address == "https://slack.example/secret"
    assert ":white_check_mark: APCu is cleared (stg): 2 of 2 hosts of the Auto Scaling group shop-web" in text
    assert COMMAND in text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("Failed", 22, ""), "i-2 ended with Failed, exit code 22: the web server answered with an error"),
        (("Success", 0, '{"cleared": false}'), "i-2 answered cleared false"),
        (("Success", 0, "<b>&</b>"), "i-2 answered with something that is no JSON: &lt;b&gt;&amp;&lt;/b&gt;"),
        (("TimedOut", -1, ""), "i-2 did not end within 15 s"),
    ],
)
def test_a_bad_host_is_named(function: ModuleType, said: tuple[str, int, str], expected: str) -> None:
    aws = Aws()
    aws.said["i-2"] = said
    # Systems Manager calls the whole command a success in some of these cases; the check does not.
    found, sent = handle(function, aws, from_eventbridge())
    assert not found[0]["ok"]
    assert ":x: APCu is NOT cleared everywhere (stg): 1 of 2 hosts" in sent[0][1]
    assert expected in sent[0][1]


def test_a_run_that_left_hosts_out_is_no_success(function: ModuleType) -> None:
    aws = Aws()
    del aws.said["i-2"]
    assert "i-2 was not asked" in handle(function, aws, from_eventbridge())[1][0][1]
    aws.members = {"i-1": "terminated"}
    assert "nobody was asked" in handle(function, aws, from_eventbridge())[1][0][1]
    short = Aws()
    short.desired = 3
    assert "2 of 3 hosts" in handle(function, short, from_eventbridge())[1][0][1]


def test_terminated_hosts_are_not_counted(function: ModuleType) -> None:
    aws = Aws()
    aws.members["i-2"] = "terminated"
    aws.said["i-2"] = ("Failed", -1, "")
    aws.desired = 1
    assert handle(function, aws, from_eventbridge())[0][0]["ok"]


def test_the_same_command_told_twice_is_checked_once(function: ModuleType) -> None:
    from_ssm = json.dumps({"commandId": COMMAND, "status": "Timed Out", "documentName": "AWS-RunShellScript"})
    assert function.command_of(from_ssm) == COMMAND  # spelled with a space by one of them
    found, sent = handle(function, Aws(), from_ssm, from_eventbridge())
    assert (len(found), len(sent)) == (1, 1)


@pytest.mark.parametrize(
    "message", ["", "hello", "[]", "3", '{"detail": 1}', from_eventbridge("InProgress"), '{"status": "Success"}']
)
def test_other_messages_are_left_alone(function: ModuleType, message: str) -> None:
    assert handle(function, Aws(), message) == ([], [])


def test_other_commands_are_left_alone(function: ModuleType) -> None:
    aws = Aws()
    aws.lines = ["uptime"]
    assert handle(function, aws, from_eventbridge()) == ([], [])


def test_without_slack_it_only_checks(function: ModuleType) -> None:
    found, sent = handle(function, Aws(), from_eventbridge(), slack_parameter="")
    assert (len(found), sent) == (1, [])


def test_slack_gets_json_and_an_error_is_not_swallowed(function: ModuleType) -> None:
    bodies: list[Any] = []

    class Slack(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if len(bodies) == 1 else 429)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Slack) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/hook"
        function.post(address, "héllo")
        with pytest.raises(OSError, match="429"):
            function.post(address, "again")
        server.shutdown()
    assert bodies[0] == {"text": "héllo"}
    with pytest.raises(ValueError, match="no https address") as refused:
        function.post("http://elsewhere/secret", "x")
    assert "secret" not in str(refused.value)


# The archive


def test_the_archive_follows_from_its_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "spotcache_apcu.py": str(FILE),
        "ansible_collections/spotcache/redis/plugins/module_utils/fleet.py": str(
            ROOT / "plugins/module_utils/fleet.py"
        ),
    }
    path = tmp_path / "deep" / "function.zip"

    def run(**more: Any) -> dict[str, Any]:
        with patch_module_args({"dest": str(path), "files": files, **more}), pytest.raises(SystemExit):
            lambda_package.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    # A step towards a function, and no change itself: check mode needs it to compare.
    first = run(_ansible_check_mode=True)
    assert first["changed"] is False
    content = path.read_bytes()
    path.unlink()
    assert run()["sha256"] == first["sha256"]
    assert path.read_bytes() == content
    with zipfile.ZipFile(BytesIO(path.read_bytes())) as archive:
        assert sorted(archive.namelist()) == sorted(files)
        archive.extractall(tmp_path / "out")
    # The function finds its check in the archive, without Ansible.
    code = (
        "import sys; sys.path = [p for p in sys.path if 'collections' not in p]; "
        f"sys.path.insert(0, {str(tmp_path / 'out')!r}); import spotcache_apcu; "
        "print(spotcache_apcu.rules.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().startswith(str(tmp_path / "out"))
    assert "/nowhere cannot be read" in run(files={"x": "/nowhere"})["msg"]
    assert "mutually exclusive" in run(src=str(tmp_path))["msg"]
