"""Bad input to the playbooks: a sentence with the variable, the value and the fix, and nothing changed in AWS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest
import yaml
from ansible_collections.spotcache.redis.plugins.module_utils import lease
from botocore.exceptions import ClientError
from spotcache_keeper.server.counts import DatabaseCount
from spotcache_keeper.stores.manifest import Manifest

from dev import kills
from dev.ports import Port
from dev.work import ROOT

pytestmark = pytest.mark.plays

REGION = "ap-northeast-1"
BUCKET = "spotcache-t-backups"
PASSWORD = "correct-horse-battery-staple"
# moto's server, with decisions about permissions as IAM makes them.
SERVER = """
import sys
from types import SimpleNamespace
from sandbox.iam import close_gaps
from sandbox.instance_connect import InstanceConnect
from moto.server import main
close_gaps()
InstanceConnect(SimpleNamespace()).close_gaps()
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


@dataclass(frozen=True)
class Aws:
    """An empty account on this machine, with users."""

    endpoint: str
    keys: dict[str, tuple[str, str]]
    image: str
    folder: Path
    ansible: kills.Ansible

    def client(self, service: str, user: str = "root") -> Any:
        key, secret = self.keys[user]
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=botocore.config.Config(s3={"addressing_style": "path"}),
        )

    def made(self) -> set[str]:
        """Everything that a playbook makes."""
        ec2, iam = self.client("ec2"), self.client("iam")
        found = {one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if not one["IsDefault"]}
        found |= {one["KeyName"] for one in ec2.describe_key_pairs()["KeyPairs"]}
        found |= {one["LaunchTemplateName"] for one in ec2.describe_launch_templates()["LaunchTemplates"]}
        found |= {
            one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"] if one["GroupName"] != "default"
        }
        found |= {one["InstanceId"] for r in ec2.describe_instances()["Reservations"] for one in r["Instances"]}
        found |= {one["RoleName"] for one in iam.list_roles()["Roles"] if "aws-service-role" not in one["Path"]}
        found |= {one["Name"] for one in self.client("s3").list_buckets()["Buckets"]}
        return found | {one["Id"] for one in self.client("route53").list_hosted_zones()["HostedZones"]}

    def variables(self, user: str = "operator") -> dict[str, Any]:
        """What an inventory says."""
        key, secret = self.keys[user]
        return {
            "spotcache_environment": "t",
            "spotcache_region": REGION,
            "spotcache_bucket": BUCKET,
            "spotcache_aws_environment": {
                "AWS_REGION": REGION,
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_MAX_ATTEMPTS": "1",
            },
            "spot_host_image_id": self.image,
            "spot_host_ssh_private_key_file": str(self.folder / "id"),
            "redis_password": PASSWORD,
            # moto does not know Data Lifecycle Manager.
            "spotcache_lifecycle_snapshots": False,
        }

    def play(self, playbook: str, variables: dict[str, Any], *arguments: str) -> tuple[int, str]:
        """Run a playbook; exit code, and what it said, on one line."""
        inventory = self.folder / f"{time.monotonic_ns()}.yml"
        localhost = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        text = {"all": {"hosts": {"localhost": {**localhost, **variables}}, "children": {"spotcache_redis": {}}}}
        inventory.write_text(yaml.safe_dump(text))
        log = inventory.with_suffix(".log")
        code = self.ansible.run([playbook, "-i", str(inventory), *arguments], log)
        return code, " ".join(log.read_text(errors="replace").split())


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    folder = tmp_path_factory.mktemp("inputs")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "id"], check=True)
    ansible = kills.Ansible(folder)
    port = Port()
    dummy = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "MOTO_IAM_LOAD_MANAGED_POLICIES": "false"}
    log = (folder / "moto.log").open("wb")
    # Whatever a test before this one has set for its own servers.
    images = {"MOTO_EC2_LOAD_DEFAULT_AMIS": "true"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        cwd=ROOT,
        env={**os.environ, **dummy, **images},
        stdout=log,
        stderr=log,
    ) as server:
        try:
            ansible.start(1)
            yield populated(f"http://127.0.0.1:{port}", folder, ansible)
        finally:
            ansible.close()
            server.send_signal(signal.SIGKILL)


def populated(endpoint: str, folder: Path, ansible: kills.Ansible) -> Aws:
    """Users, and from then on every call must be allowed."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    open_aws = Aws(endpoint, {"root": ("x", "x")}, "", folder, ansible)
    documents = [
        json.loads((ROOT / "docs" / "iam" / f"{name}.json").read_text())
        for name in ("operator-policy", "operator-roles-policy", "operator-automation-policy")
    ]
    policy = {**documents[0], "Statement": [one for document in documents for one in document["Statement"]]}
    lacking = {"ec2:CreateVpc", "events:PutRule", "iam:PutRolePolicy", "s3:PutLifecycleConfiguration"}
    without = {**policy, "Statement": [drop(statement, lacking) for statement in policy["Statement"]]}
    anything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam, keys = open_aws.client("iam"), {}
    plain = {**policy, "Statement": [one for document in documents[:2] for one in document["Statement"]]}
    # What every environment needs of the third policy: its function for retention.
    retaining = {"LookAtWhatTells", "HandRolesToFunctions", "Functions", "LogsOfFunctions", "Rules"}
    more = [one for one in documents[2]["Statement"] if one["Sid"] in retaining]
    bare = {**policy, "Statement": [*plain["Statement"], *more]}
    users = {"root": anything, "operator": policy, "weak": without, "plain": plain, "bare": bare}
    users["blind"] = {**policy, "Statement": [drop(statement, {"s3:GetObject"}) for statement in policy["Statement"]]}
    # Allowed everything, part of it from the office's addresses alone.
    office = {"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}
    there = {"Effect": "Allow", "Action": sorted(lacking), "Resource": "*", "Condition": office}
    users["office"] = {**policy, "Statement": [*without["Statement"], there]}
    ssm = json.loads((ROOT / "docs" / "iam" / "operator-ssm-policy.json").read_text())
    users["sessions"] = {**policy, "Statement": [*policy["Statement"], *ssm["Statement"]]}
    for user, document in users.items():
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName=user, PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        keys[user] = (key["AccessKeyId"], key["SecretAccessKey"])
    boundary = (ROOT / "docs" / "iam" / "spotcache-boundary.json").read_text()
    iam.create_policy(PolicyName="spotcache-boundary", PolicyDocument=boundary)
    images = open_aws.client("ec2").describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}])
    request = urllib.request.Request(
        f"{endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=5).close()
    return Aws(endpoint, keys, images["Images"][0]["ImageId"], folder, ansible)


def drop(statement: dict[str, Any], actions: set[str]) -> dict[str, Any]:
    """A statement without some of its actions."""
    listed = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    return {**statement, "Action": [action for action in listed if action not in actions]}


# The roles' own inputs: one run of Ansible for all of them.

NETWORK: dict[str, Any] = {"network_environment": "t", "network_region": REGION}
WEBHOOK = "https://hooks.slack.com/services/T0/B0/nobody-may-read-this"
NOTIFY: dict[str, Any] = {"notify_environment": "t", "notify_region": REGION}
CONTROLLER: dict[str, Any] = {"fallback_controller_environment": "t", "fallback_controller_region": REGION}
HOST: dict[str, Any] = {
    "spot_host_environment": "t",
    "spot_host_region": REGION,
    "spot_host_bucket": BUCKET,
    "spot_host_instance_types": ["t3.small"],
}
REDIS: dict[str, Any] = {"redis_password": PASSWORD, "redis_host_memory_mb": 2048}
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "network as it comes": ("network", {}, ["accepted"]),
    "name": ("network", {"network_environment": "Stg_1"}, ["network_environment is 'Stg_1'", "for example stg"]),
    "zone outside the region": (
        "network",
        {"network_zones": [f"{REGION}a", "us-east-1b"]},
        ["network_zones names us-east-1b", f"the region {REGION} does not have", f"{REGION}c"],
    ),
    "one zone": ("network", {"network_zones": [f"{REGION}a"]}, ["network_zones is", "at least two different zones"]),
    "everybody": (
        "network",
        {"network_redis_client_cidrs": ["10.0.0.0/8", "0.0.0.0/0"]},
        ["network_redis_client_cidrs names 0.0.0.0/0", "network_allow_public_redis: true"],
    ),
    "everybody by IPv6": (
        "network",
        {"network_redis_client_cidrs": ["::/0"]},
        ["network_redis_client_cidrs names ::/0"],
    ),
    "a public range": (
        "network",
        {"network_redis_client_cidrs": ["203.0.113.0/24"]},
        ["network_redis_client_cidrs names 203.0.113.0/24", "public internet"],
    ),
    "a public range that is meant": (
        "network",
        {"network_redis_client_cidrs": ["0.0.0.0/0"], "network_allow_public_redis": True},
        ["accepted"],
    ),
    "no range at all": (
        "network",
        {"network_redis_client_cidrs": ["10.0.0/8"]},
        ["'10.0.0/8' is no address range", "write it as"],
    ),
    "SSH for everybody": (
        "network",
        {"network_ssh_cidrs": ["0.0.0.0/0"]},
        ["network_ssh_cidrs names 0.0.0.0/0", "VPN"],
    ),
    "VPC range too small": (
        "network",
        {"network_cidr": "10.0.0.0/28"},
        ["network_cidr is '10.0.0.0/28'", "/16 to /24"],
    ),
    "VPC range off its start": (
        "network",
        {"network_cidr": "10.0.7.0/16"},
        ["network_cidr is '10.0.7.0/16'", "starts at its first address"],
    ),
    "VPC without subnets": (
        "network",
        {"network_vpc_id": "vpc-1", "network_egress": "existing"},
        ["network_vpc_id is 'vpc-1'", "give both"],
    ),
    "existing way of no VPC": ("network", {"network_egress": "existing"}, ["network_egress is 'existing'", "ipv6"]),
    "NAT gateway": (
        "network",
        {"network_egress": "nat"},
        ["network_egress", "existing, ipv6, public_ipv4, none", "nat"],
    ),
    "host as it comes": ("spot_host", {}, ["accepted"]),
    "unknown type": (
        "spot_host",
        {"spot_host_instance_types": ["t3.small", "t9.huge"]},
        ["spot_host_instance_types names t9.huge", f"{REGION} does not have", "such as t3.small"],
    ),
    "mixed architectures": (
        "spot_host",
        {"spot_host_instance_types": ["t3.small", "t4g.small"]},
        ["spot_host_instance_types is", "one processor architecture"],
    ),
    "types before Nitro, and bare metal": (
        "spot_host",
        {"spot_host_instance_types": ["t3.small", "t2.small", "m5.metal"]},
        ["spot_host_instance_types names t2.small, m5.metal", "types before Nitro", "such as t3.small"],
    ),
    "no type": ("spot_host", {"spot_host_instance_types": []}, ["spot_host_instance_types is empty", "[t3.small]"]),
    "price": ("spot_host", {"spot_host_max_price": "a lot"}, ["spot_host_max_price is 'a lot'", "USD per hour"]),
    "market": ("spot_host", {"spot_host_market": "black"}, ["spot_host_market", "spot, on_demand", "black"]),
    "volume": (
        "spot_host",
        {"spot_host_data_volume_size_gb": 0},
        ["spot_host_data_volume_size_gb is 0", "between 1 and 16384"],
    ),
    "image": (
        "spot_host",
        {"spot_host_image_id": "ami-0123456789abcdef0"},
        ["spot_host_image_id is 'ami-0123456789abcdef0'", "no such image", "for x86_64"],
    ),
    "an image of the other architecture": (
        "spot_host",
        {"spot_host_instance_types": ["t4g.small", "t4g.medium"]},
        ["no such image", "for arm64", "fits spot_host_instance_types"],
    ),
    "release": (
        "spot_host",
        {"spot_host_debian_release": 11},
        ["spot_host_debian_release", "12, 13", "11"],
    ),
    "Debian 13, which this region does not have": (
        "spot_host",
        {"spot_host_image_id": "", "spot_host_debian_release": 13},
        ["spot_host_image_id is ''", "official image of Debian 13", f"{REGION} has no such image"],
    ),
    "key": (
        "spot_host",
        {"spot_host_ssh_private_key_file": "/nowhere/id"},
        ["spot_host_ssh_private_key_file is '/nowhere/id'", "no such file", "ssh-keygen -t ed25519"],
    ),
    "no host to jump through": (
        "spot_host",
        {"spot_host_connection": "jump"},
        ["spot_host_jump_host is empty", "admin@bastion"],
    ),
    "a public key that nobody has the other half of": (
        "spot_host",
        {"spot_host_ssh_private_key_file": "", "spot_host_ssh_public_key": "ssh-ed25519 AAAA me"},
        ["spot_host_ssh_public_key is no public key"],
    ),
    "no program that opens tunnels": (
        "spot_host",
        {"spot_host__python": "/usr/bin/false"},
        ["spot_host_connection is 'eice'", "/usr/bin/false -m pip install boto3 websockets"],
    ),
    "an endpoint that must be there, in a VPC that is not": (
        "network",
        {"network_instance_connect_endpoint": "existing"},
        ["network_instance_connect_endpoint is 'existing'", "has none yet"],
    ),
    "SSM without an agent": (
        "spot_host",
        {"spot_host_connection": "ssm", "spot_host_image_id": ""},
        ["spot_host_connection is 'ssm'", "the SSM agent", "spot_host_image_id", "choose spot_host_connection 'eice'"],
    ),
    "bucket": ("spot_host", {"spot_host_bucket": "Not_A_Bucket"}, ["spot_host_bucket is 'Not_A_Bucket'"]),
    "Redis as it comes": ("redis", {}, ["accepted"]),
    "no password": ("redis", {"redis_password": ""}, ["redis_password"]),
    "password 0": ("redis", {"redis_password": "0"}, ["redis_password"]),
    "short password": ("redis", {"redis_password": "short"}, ["redis_password", "16"]),
    "maxmemory above the host's": (
        "redis",
        {"redis_maxmemory": "64gb"},
        ["redis_maxmemory", "64gb"],
    ),
    "save policy": ("redis", {"redis_save": ["often"]}, ["redis_save", "often"]),
    "Slack": ("notify", {"notify_to": "slack", "notify_slack_webhook": WEBHOOK}, ["accepted"]),
    "Slack's address": (
        "notify",
        {"notify_to": "slack", "notify_slack_webhook": "hooks.slack.com/x"},
        ["notify_slack_webhook is no address"],
    ),
    "a relay in public": (
        "notify",
        {"notify_to": "slack", "notify_slack_webhook": "http://example.com/x"},
        ["if it is a private one"],
    ),
    "no address": ("notify", {"notify_to": "slack"}, ["SSM has no parameter /spotcache/t/slack-webhook"]),
    "nobody to mail to": ("notify", {"notify_to": "email"}, ["give at least one address"]),
    "no address of a person's": (
        "notify",
        {"notify_to": "slack", "notify_slack_webhook": WEBHOOK, "notify_email_addresses": ["ops"]},
        ["notify_email_addresses is ['ops']"],
    ),
    "environment of messages": ("notify", {"notify_environment": "Stg"}, ["notify_environment is 'Stg'"]),
    "what looks after it": ("fallback_controller", {"fallback_controller_superseded_days": 0}, ["accepted"]),
    "volumes kept for days of the command line": (
        "fallback_controller",
        {"fallback_controller_superseded_days": "3"},
        ["accepted"],
    ),
    "volumes kept less than no time": (
        "fallback_controller",
        {"fallback_controller_superseded_days": -1},
        ["fallback_controller_superseded_days is -1", "or 0 to keep the volumes"],
    ),
    "volumes kept a while": (
        "fallback_controller",
        {"fallback_controller_superseded_days": "a week"},
        ["fallback_controller_superseded_days", "a week"],
    ),
    "a small type is allowed": ("spot_host", {"spot_host_instance_types": ["t3.micro"]}, ["accepted"]),
}


@pytest.fixture(scope="module")
def said(aws: Aws) -> tuple[dict[str, str], str, set[str]]:
    """What the roles say to each case, all they print, and what was made meanwhile."""
    before = aws.made()
    result = aws.folder / "said.json"
    tasks: list[dict[str, Any]] = []
    for name, (role, variables, _) in CASES.items():
        base = {
            "network": NETWORK,
            "spot_host": HOST,
            "redis": REDIS,
            "notify": NOTIFY,
            "fallback_controller": CONTROLLER,
        }[role]
        tasks.append(
            {
                "block": [
                    {
                        "ansible.builtin.include_role": {"name": f"spotcache.redis.{role}", "tasks_from": "preflight"},
                        "vars": {**base, **variables},
                    },
                    {"ansible.builtin.set_fact": {"said": "{{ said | default({}) | combine({name: 'accepted'}) }}"}},
                ],
                "rescue": [
                    {
                        "ansible.builtin.set_fact": {
                            "said": "{{ said | default({}) | combine({name: ansible_failed_result.msg}) }}"
                        }
                    }
                ],
                "vars": {"name": name},
            }
        )
    tasks.append({"ansible.builtin.copy": {"dest": str(result), "content": "{{ said | to_json }}", "mode": "0600"}})
    playbook = aws.folder / "cases.yml"
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "environment": "{{ spotcache_aws_environment }}",
        "tasks": tasks,
    }
    playbook.write_text(yaml.safe_dump([play], sort_keys=False))
    code, text = aws.play(str(playbook), aws.variables())
    assert code == 0, text[-3000:]
    return json.loads(result.read_text()), text, aws.made() - before


@pytest.mark.parametrize("case", CASES)
def test_the_roles_say_what_is_wrong(said: tuple[dict[str, str], str, set[str]], case: str) -> None:
    answer = " ".join(said[0][case].split())
    for part in CASES[case][2]:
        assert part in answer


def test_a_small_type_is_warned_about(said: tuple[dict[str, str], str, set[str]]) -> None:
    assert "WARNING: t3.micro of spot_host_instance_types is known to run out of memory" in said[1]


def test_and_nothing_was_made(said: tuple[dict[str, str], str, set[str]]) -> None:
    assert said[2] == set()


# Whole playbooks.

SHOP = {"name": "shop", "hosts": "localhost", "path": "/srv/shop"}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"spotcache_region": ""}, ["spotcache_region is not set", "-i inventories/stg"]),
        ({"spotcache_backend": "heroku"}, ["spotcache_backend is 'heroku', which is unknown", "ec2, ec2_spot"]),
        (
            {"notify_to": "slack", "spot_host_bake": False},
            ["notify_to is what the playbooks give a role: set spotcache_notify", "set spotcache_launch_from_image"],
        ),
        ({"redis_password": "0"}, ["redis_password", "16"]),
        (
            {"redis_tls": True, "network_dns_zone": ""},
            ["certificate_names is []", "give at least one DNS name such as redis.stg.example.com"],
        ),
        (
            {"redis_tls": True, "redis_tls_certificate": "mine"},
            ["redis_tls_private_key and redis_tls_ca are empty", "or leave all three to the playbooks"],
        ),
        (
            {"network_egress": "none", "spot_host_image_id": "", "spotcache_notify": "slack"},
            [
                "network_egress is 'none': the host reaches S3 and nothing else",
                "spotcache_launch_from_image is true, but a host launched from an image fetches its secrets from SSM",
                "spot_host_image_id is empty",
                "spotcache_notify is 'slack'",
                "choose network_egress: ipv6",
            ],
        ),
        (
            {"redis_users": [{"name": f"user{i}", "password": "p" * 64, "keys": ["app:*"]} for i in range(99)]},
            [
                "redis_users or redis_secret_settings make a file of",
                "holds no more than 8192",
                "Nothing was changed",
            ],
        ),
        (
            {"laravel_env_applications": [{**SHOP, "hosts": "wbe"}]},
            ['laravel_env_applications, shop: hosts is "wbe"', "name a group or a host that is there"],
        ),
        (
            {"laravel_env_applications": [{**SHOP, "path": "srv/shop"}]},
            ['laravel_env_applications, shop: path is "srv/shop"', "beginning with /"],
        ),
    ],
    ids=lambda value: next(iter(value.items()), "")[1] or "empty" if isinstance(value, dict) else "",
)
def test_provision_refuses(aws: Aws, change: dict[str, Any], parts: list[str]) -> None:
    before = aws.made()
    code, text = aws.play("playbooks/provision.yml", {**aws.variables(), **change})
    assert code != 0
    for part in parts:
        assert part in text
    assert aws.made() == before


def test_missing_credentials_are_named(aws: Aws) -> None:
    variables = aws.variables()
    variables["spotcache_aws_environment"] = {"AWS_REGION": REGION, "AWS_ENDPOINT_URL": aws.endpoint}
    code, text = aws.play("playbooks/provision.yml", variables)
    assert code != 0
    assert "There are no AWS credentials: set AWS_PROFILE" in text


def test_missing_permissions_are_named_before_anything_is_made(aws: Aws) -> None:
    before = aws.made()
    code, text = aws.play("playbooks/provision.yml", aws.variables("weak"))
    assert code != 0
    assert "user/weak lack ec2:CreateVpc, events:PutRule, iam:PutRolePolicy, s3:PutLifecycleConfiguration" in text
    assert (
        "operator-roles-policy.json and that of docs/iam/operator-automation-policy.json; nothing was changed" in text
    )
    assert aws.made() == before


def test_working_hours_need_permissions_of_their_own(aws: Aws) -> None:
    code, text = aws.play("playbooks/schedule.yml", aws.variables("plain"))
    assert code != 0
    assert (
        "user/plain lack autoscaling:DeleteScheduledAction, autoscaling:DescribeScheduledActions, "
        "autoscaling:PutScheduledUpdateGroupAction"
    ) in text, text[-2000:]
    assert "and that of docs/iam/operator-automation-policy.json; nothing was changed" in text
    # With them it is only the group that there is not.
    code, text = aws.play("playbooks/schedule.yml", aws.variables())
    assert code != 0
    assert "There is no Auto Scaling group called spotcache-t" in text, text[-2000:]


def test_removing_what_is_no_longer_wanted_needs_permissions_too(aws: Aws) -> None:
    """An inventory that tells nobody has no queues; what there is of them is removed."""
    iam, role = aws.client("iam"), "spotcache-t-notify"
    nothing = {"spotcache_launch_from_image": False, "spotcache_lifecycle_snapshots": False}
    bare = {**aws.variables("bare"), **nothing, "spot_host_instance_types": []}
    code, text = aws.play("playbooks/provision.yml", bare)
    assert code != 0
    assert "spot_host_instance_types is empty" in text, text[-2000:]
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": []}))
    try:
        before = aws.made()
        code, text = aws.play("playbooks/provision.yml", {**bare, "spot_host_instance_types": ["t3.small"]})
        assert code != 0
        assert re.search(r"user/bare lack .*sns:DeleteTopic.*sqs:DeleteQueue", text), text[-2000:]
        assert "and that of docs/iam/operator-automation-policy.json; nothing was changed" in text
        assert aws.made() == before
    finally:
        iam.delete_role(RoleName=role)


def test_what_is_missing_is_only_said_where_that_is_wanted(aws: Aws) -> None:
    for check, said in (("warn", "user/weak are denied or may be"), ("skip", "")):
        more = {"spotcache_permissions_check": check, "spot_host_instance_types": []}
        code, text = aws.play("playbooks/provision.yml", {**aws.variables("weak"), **more})
        assert code != 0
        assert "spot_host_instance_types is empty" in text, text[-2000:]
        assert said in text
        assert "lack ec2:CreateVpc" not in text
    code, text = aws.play("playbooks/provision.yml", {**aws.variables("weak"), "spotcache_permissions_check": "maybe"})
    assert code != 0
    assert "spotcache_permissions_check is 'maybe'. Use enforce" in text


def test_what_is_allowed_from_certain_addresses_alone_is_a_warning(aws: Aws) -> None:
    """From where AWS sees the requests come cannot be asked: IAM's simulator would say that nothing allows them."""
    code, text = aws.play("playbooks/provision.yml", {**aws.variables("office"), "spot_host_instance_types": []})
    assert code != 0
    assert "spot_host_instance_types is empty" in text, text[-2000:]
    assert "user/office are denied or may be, and this run goes on: ec2:CreateVpc, events:PutRule" in text


def test_sessions_need_a_permission_of_their_own(aws: Aws) -> None:
    ssm = {**aws.variables(), "spot_host_connection": "ssm"}
    before = aws.made()
    code, text = aws.play("playbooks/provision.yml", ssm)
    assert code != 0
    assert "user/operator lack ssm:StartSession" in text, text[-2000:]
    assert "operator-roles-policy.json and docs/iam/operator-ssm-policy.json" in text
    assert aws.made() == before
    # With the policy that is named it is enough, and the next check says its own.
    code, text = aws.play(
        "playbooks/provision.yml", {**ssm, **aws.variables("sessions"), "spot_host_instance_types": []}
    )
    assert "spot_host_instance_types is empty" in text, text[-2000:]


def test_a_boundary_that_is_not_there_is_named_before_anything_is_made(aws: Aws) -> None:
    before = aws.made()
    # Who may look at every policy: to others, one that is not there and one that they may not see are the same.
    code, text = aws.play(
        "playbooks/provision.yml", {**aws.variables("root"), "spotcache_permissions_boundary": "other"}
    )
    assert code != 0
    assert "There is no policy arn:aws:iam::123456789012:policy/other, the permissions boundary of every role" in text
    assert "or set that to '' to make roles without; nothing was changed" in text
    assert aws.made() == before


def test_the_operators_policies_are_enough(aws: Aws) -> None:
    more: dict[str, Any] = {"laravel_env_driver": "redis", "laravel_env_applications": [SHOP]}
    more |= {"spotcache_notify": "slack", "spotcache_return_volume": True}
    more |= {"notify_slack_webhook": WEBHOOK, "notify_email_addresses": ["ops@example.com"]}
    code, text = aws.play("playbooks/provision.yml", {**aws.variables(), **more}, "--check", "--diff")
    assert code == 0, text[-3000:]
    assert WEBHOOK not in text
    assert "There is no host yet" in text
    assert "There is no Redis yet that applications could be brought to" in text
    assert aws.made() == set()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "laravel_env_redis_host is empty, and applications are to use Redis: provision the environment first"),
        (
            {"spotcache_redis_address": "redis.example:6379"},
            '_redis_host is "redis.example:6379", which has a port',
        ),
        ({"laravel_env_applications": []}, ""),
    ],
)
def test_applications_without_a_redis_to_go_to(aws: Aws, change: dict[str, Any], said: str) -> None:
    applications = {"laravel_env_driver": "redis", "laravel_env_applications": [SHOP], **change}
    code, text = aws.play("playbooks/laravel_env.yml", {**aws.variables(), **applications})
    assert (code != 0) is bool(said)
    assert said in text
    assert "WARNING" not in text


def test_applications_go_to_an_on_demand_fallback_too(aws: Aws) -> None:
    groups, name = aws.client("autoscaling"), "spotcache-t-on-demand"
    tag = {"Key": "spotcache:environment", "Value": "t", "PropagateAtLaunch": True}
    groups.create_launch_configuration(LaunchConfigurationName=name, ImageId=aws.image, InstanceType="t3.small")
    groups.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchConfigurationName=name,
        MinSize=1,
        MaxSize=1,
        AvailabilityZones=[f"{REGION}a"],
        Tags=[tag],
    )
    try:
        applications = {"laravel_env_driver": "redis", "laravel_env_applications": [SHOP], "network_dns_zone": ""}
        _, text = aws.play("playbooks/laravel_env.yml", {**aws.variables(), **applications}, "-vv")
        [host] = [
            one
            for row in aws.client("ec2").describe_instances()["Reservations"]
            for one in row["Instances"]
            if one["State"]["Name"] == "running"
        ]
        assert "laravel_env_redis_host is empty" not in text
        assert f"spotcache__redis_address: {host['PrivateIpAddress']}" in text
    finally:
        groups.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)
        groups.delete_launch_configuration(LaunchConfigurationName=name)


def test_destroy_must_be_meant(aws: Aws) -> None:
    code, text = aws.play("playbooks/destroy.yml", aws.variables(), "-e", "destroy_confirm=other")
    assert code != 0
    assert "Nothing was destroyed: destroy_confirm is 'other'" in text
    assert "-e destroy_confirm=t" in text


def test_a_drill_interrupts_nothing_that_is_not_meant_or_not_there(aws: Aws) -> None:
    before = aws.made()
    code, text = aws.play("playbooks/drill.yml", aws.variables("root"), "-e", "drill_confirm=stg")
    assert code != 0
    assert "drill_confirm is 'stg'" in text
    assert "-e drill_confirm=t" in text
    code, text = aws.play("playbooks/drill.yml", aws.variables("root"), "-e", "drill_confirm=t")
    assert code != 0
    assert f"no host of t runs in {REGION}" in text
    # It needs more than provision does, and its own document says what.
    code, text = aws.play("playbooks/drill.yml", aws.variables(), "-e", "drill_confirm=t")
    assert code != 0
    assert "user/operator lack fis:CreateExperimentTemplate" in text
    assert "docs/iam/operator-drill-policy.json" in text
    assert "nothing was changed" in text
    assert aws.made() == before


def test_a_drill_can_be_looked_at_on_an_empty_account(aws: Aws) -> None:
    code, text = aws.play("playbooks/drill.yml", aws.variables("root"), "--check")
    assert code == 0, text[-3000:]
    assert "There is no host yet that could be interrupted" in text
    assert PASSWORD not in text


def test_a_second_run_is_refused_while_one_runs(aws: Aws) -> None:
    s3, where = aws.client("s3"), {"LocationConstraint": REGION}
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where, ObjectLockEnabledForBucket=True)
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": [{"Key": "spotcache:managed", "Value": "true"}]})
    other = lease.Owner("alice", "laptop", "another boot", "pid:[1]", 4711, "100")
    now = datetime.now(UTC)
    record = lease.renewed(other, "provision", now, 600)
    s3.put_object(Bucket=BUCKET, Key="t/locks/environment.json", Body=record.to_json().encode())
    before = aws.made()
    code, text = aws.play("playbooks/provision.yml", aws.variables("root"))
    assert code != 0
    assert "Another run holds the lease of this environment: provision by alice@laptop" in text
    assert aws.made() == before
    held = s3.get_object(Bucket=BUCKET, Key="t/locks/environment.json")["Body"].read()
    assert json.loads(held)["owner"]["user"] == "alice"


def known_hosts_play(
    aws: Aws, folder: Path, *, keep: bool, bucket: str = BUCKET, user: str = "operator"
) -> tuple[int, str]:
    """What a control node that keeps nothing does before it connects, and after ssh has met the host i-1."""
    role = {"name": "spotcache.redis.spot_host"}
    met = f"i-1 {' '.join((aws.folder / 'id.pub').read_text().split()[:2])}"
    file = str(folder / "known_hosts")
    steps: list[dict[str, Any]] = [
        {"ansible.builtin.include_role": {**role, "tasks_from": "known_find"}},
        {"ansible.builtin.lineinfile": {"path": file, "line": met, "create": True, "mode": "0644"}},
        {"ansible.builtin.include_role": {**role, "tasks_from": "known_keep"}},
    ]
    tasks = [{"name": f"Step {number}", **step} for number, step in enumerate(steps if keep else steps[:1])]
    variables = {
        "spot_host_region": REGION,
        "spot_host_bucket": bucket,
        "spot_host_known_hosts_object": "t/control/known_hosts",
        "spot_host_known_hosts_file": file,
        "spot_host_result": {"instance_id": "i-1"},
    }
    play = folder / "play.json"
    about = {"name": "Connect", "hosts": "localhost", "gather_facts": False, "tasks": tasks}
    play.write_text(json.dumps([{**about, "environment": "{{ spotcache_aws_environment }}"}]))
    return aws.play(str(play), {**aws.variables(user), **variables})


def test_a_control_node_that_keeps_nothing_knows_the_host_again(aws: Aws, tmp_path: Path) -> None:
    s3, there = aws.client("s3"), {"Bucket": BUCKET, "Key": "t/control/known_hosts"}
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    kept = []
    for name in ("first", "second"):
        # A job's own folder, each time a fresh one.
        (tmp_path / name).mkdir()
        code, text = known_hosts_play(aws, tmp_path / name, keep=True)
        assert code == 0, text[-3000:]
        answer = s3.get_object(**there)
        kept.append((answer["LastModified"], answer["Body"].read()))
        # That ssh meets the host is the test's own change, and the second job finds it done.
        assert ("changed=1" if name == "first" else "changed=0") in text
    assert kept[0][1].startswith(b"i-1 ssh-ed25519 ")
    assert kept[0] == kept[1]
    # Who may not read them would take any host for a new one.
    code, text = known_hosts_play(aws, tmp_path, keep=False, user="blind")
    s3.delete_object(**there)
    assert code != 0
    assert re.search("Forbidden|AccessDenied|Failed to get|not authorized", text), text[-2000:]


def test_a_host_is_met_for_the_first_time_where_there_is_no_bucket_yet(aws: Aws, tmp_path: Path) -> None:
    code, text = known_hosts_play(aws, tmp_path, keep=False, bucket="spotcache-t-nothing")
    assert code == 0, text[-3000:]
    assert "changed=0" in text


BACKUP = "20261122T001503Z-3f9a1c"


@pytest.fixture
def stored(aws: Aws) -> Iterator[Callable[..., None]]:
    """Puts a backup into the environment's bucket."""
    s3 = aws.client("s3")
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})

    def put(version: str, **more: Any) -> None:
        created, keys = datetime(2026, 11, 22, 0, 15, 3, tzinfo=UTC), {0: DatabaseCount(7, 0)}
        made = Manifest(BACKUP, "t", created, "timer", version, 4, "0" * 64, keys, "i-1", f"{REGION}a", True, **more)
        for name, body in (("dump.rdb", b"dump"), ("manifest.json", made.to_json().encode())):
            s3.put_object(Bucket=BUCKET, Key=f"t/backups/{BACKUP}/{name}", Body=body)

    yield put
    for name in ("dump.rdb", "manifest.json"):
        s3.delete_object(Bucket=BUCKET, Key=f"t/backups/{BACKUP}/{name}")


def test_without_a_host_what_lies_in_s3_is_listed_from_here(aws: Aws, stored: Callable[..., None]) -> None:
    stored("7.4.0")
    code, said = aws.play("playbooks/restore.yml", aws.variables(), "--tags", "list")
    assert code == 0, said[-3000:]
    assert "No host runs; this is what lies in S3 and EBS." in said
    assert re.search(rf"{BACKUP} [^e]* s3 complete yes 7 ", said), said[-2000:]
    assert aws.play("playbooks/restore.yml", aws.variables(), "--tags", "list", "--check")[0] == 0


def test_an_engine_that_cannot_read_the_backups_is_refused_before_anything_is_made(
    aws: Aws, stored: Callable[..., None]
) -> None:
    # As manifests were before there was Valkey.
    stored("8.0.2")
    before, variables = aws.made(), {**aws.variables(), "redis_engine": "valkey"}
    code, said = aws.play("playbooks/provision.yml", variables)
    assert code != 0
    assert 'redis_engine is "valkey", and the newest backup, ' in said, said[-2000:]
    assert f"{BACKUP}, has RDB version 12 (Redis 8.0.2 wrote it), which Valkey cannot read" in said
    assert "Nothing was changed. Keep redis_engine: redis. " in said
    assert aws.made() == before
    # Whoever begins with nothing restores none of it.
    _code, said = aws.play("playbooks/provision.yml", variables, "--check", "-e", "provision_empty=true")
    assert "has RDB version" not in said
    assert "Find the bucket]" in said, said[-2000:]


def test_of_a_bucket_that_others_use_only_the_environments_own_is_deleted(aws: Aws) -> None:
    """Also where others have more in it than one answer of S3 lists, and sort before it."""
    s3, bucket = aws.client("s3"), "spotcache-shared-backups"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    others = {f"a/{number:04}" for number in range(1000)} | {"teams/t/backups/1", "t-2/backups/1", "tt"}
    own = {"t/backups/1/dump.rdb", "t/backups/1/manifest.json", "t/locks/x"}
    for key in others | own:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    variables = {**aws.variables(), "spotcache_bucket": bucket, "destroy_confirm": "t", "destroy_backups": True}
    code, said = aws.play("playbooks/destroy.yml", variables, "-e", "destroy_last_backup=false")
    assert code == 0, said
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    assert {entry["Key"] for page in pages for entry in page.get("Contents", [])} == others


@pytest.fixture
def ensure(aws: Aws, tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs what makes the bucket, and nothing else; the buckets that a test makes are gone afterwards."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "environment": "{{ spotcache_aws_environment }}",
        "tasks": [{"include_role": {"name": "spotcache.redis.keeper", "tasks_from": "bucket"}}],
    }
    (tmp_path / "bucket.yml").write_text(yaml.safe_dump([play]))

    def run(bucket: str, **more: Any) -> tuple[int, str]:
        given = {"keeper_environment": "t", "keeper_region": REGION, "keeper_bucket": bucket, **more}
        return aws.play(str(tmp_path / "bucket.yml"), {**aws.variables(), **given})

    s3 = aws.client("s3")
    before = {one["Name"] for one in s3.list_buckets()["Buckets"]}
    yield run
    for name in {one["Name"] for one in s3.list_buckets()["Buckets"]} - before:
        for one in s3.list_object_versions(Bucket=name).get("Versions", []):
            s3.delete_object(Bucket=name, Key=one["Key"], VersionId=one["VersionId"], BypassGovernanceRetention=True)
        s3.delete_bucket(Bucket=name)


def test_a_bucket_is_made_that_loses_nothing(aws: Aws, ensure: Callable[..., tuple[int, str]]) -> None:
    s3, bucket = aws.client("s3"), "spotcache-made"
    code, said = ensure(bucket, keeper_lock_days=0)
    assert code != 0
    assert "Say in keeper_unlocked_because, in a sentence, why that is wanted" in said
    assert bucket not in {one["Name"] for one in s3.list_buckets()["Buckets"]}
    code, said = ensure(bucket)
    assert code == 0, said
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    [owner] = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert owner == {"ObjectOwnership": "BucketOwnerEnforced"}
    rules = {one["ID"]: one for one in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert rules["spotcache-unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert rules["spotcache-older-versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 14}
    assert rules["spotcache-older-versions"]["Expiration"] == {"ExpiredObjectDeleteMarker": True}
    # What somebody has added to the policy stays.
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    assert [one["Sid"] for one in policy["Statement"]] == ["SpotcacheOnlyByTls"]
    audit = {"Sid": "Audit", "Effect": "Deny", "Principal": "*", "Action": "s3:PutBucketWebsite", "Resource": "*"}
    policy["Statement"].insert(0, {**audit, "Resource": f"arn:aws:s3:::{bucket}"})
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    code, said = ensure(bucket)
    assert code == 0, said
    assert "changed=0" in said, said
    assert json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"]) == policy


def test_a_bucket_of_somebody_elses_is_looked_at_and_not_changed(
    aws: Aws, ensure: Callable[..., tuple[int, str]]
) -> None:
    s3, bucket = aws.client("s3"), "spotcache-theirs"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "team", "Value": "shop"}]})
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    code, said = ensure(bucket)
    assert code != 0
    assert f"The bucket {bucket} was not made here, and is not changed. It lacks: Object Lock" in said, said
    assert "refuses whoever asks without TLS" in said
    assert "put-bucket-versioning)" not in said
    with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
        s3.get_bucket_policy(Bucket=bucket)
    # Of one that was made here it is said how it gets Object Lock: no module gives that to a bucket that is there.
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "spotcache:environment", "Value": "t"}]})
    code, said = ensure(bucket)
    assert code != 0
    assert "aws s3api put-object-lock-configuration --bucket spotcache-theirs" in said, said
    code, said = ensure(bucket, keeper_lock_days=0, keeper_unlocked_because="nothing in it is worth anything")
    assert code == 0, said
    assert json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"][0]["Sid"] == "SpotcacheOnlyByTls"


@pytest.fixture
def theirs(aws: Aws) -> Iterator[dict[str, Any]]:
    """Somebody else's VPC, as EC2 makes one: it asks no private zones."""
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.8.{number}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"]
        for number, zone in enumerate("ac")
    ]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    main = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "association.main", "Values": ["true"]}]
    [table] = ec2.describe_route_tables(Filters=main)["RouteTables"]
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    yield {"network_vpc_id": vpc, "network_subnet_ids": [one["SubnetId"] for one in subnets]}
    for subnet in subnets:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)
    ec2.delete_vpc(VpcId=vpc)


def test_an_existing_vpc_that_asks_no_private_zones_is_refused(aws: Aws, theirs: dict[str, Any]) -> None:
    given = {**aws.variables(), **theirs, "network_egress": "public_ipv4"}
    code, said = aws.play("playbooks/provision.yml", given, "--check")
    assert code != 0, said
    assert "network_dns_zone is 'spotcache.internal'" in said, said
    assert f"aws ec2 modify-vpc-attribute --vpc-id {theirs['network_vpc_id']} --enable-dns-support" in said, said
