# SPDX-License-Identifier: GPL-3.0-or-later
"""A sandbox as its user sees it: bring it up, run playbooks against it, lose hosts, ask its AWS what there is."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import boto3
import botocore.config
import redis

from dev import keys, permissions
from dev.program import POOL
from dev.tls import Secure, redis_client, secured
from dev.work import ROOT, Failed, stream, tail, tool
from sandbox import qemu
from sandbox.paid import Thing, paid

STATES = Path("/var/lib/spotcache-sandbox")
INVENTORY = ROOT / "inventories" / "sandbox"
# Where Redis is, whichever host it is on.
PORT = 6379
REDIS_NAME = "redis.sandbox.spotcache.internal"
RECAP = re.compile(
    r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+)\s+"
    r"unreachable=(?P<unreachable>\d+)\s+failed=(?P<failed>\d+)",
    re.MULTILINE,
)
ON_HOST = re.compile(r"^[a-z]+: \[i-[0-9a-f]+[ \]]")
COLOR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Part:
    """One play of a playbook, as it went by."""

    name: str
    started: float
    seconds: float = 0.0
    on_host: bool = False


@dataclass(frozen=True)
class Play:
    """What a run of a playbook came to."""

    text: str
    seconds: float
    plays: Sequence[Part] = ()

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Ansible's closing numbers for each host."""
        rows = RECAP.finditer(COLOR.sub("", self.text).rpartition("PLAY RECAP")[2])
        return {
            row["host"]: {key: int(value) for key, value in row.groupdict().items() if key != "host"} for row in rows
        }

    @property
    def changed(self) -> int:
        """Changes over all hosts."""
        if not self.recap:
            raise Failed("a playbook ended without a recap")
        return sum(row["changed"] for row in self.recap.values())


@dataclass(frozen=True)
class Host:
    """The instance that runs Redis."""

    id: str
    zone: str
    ip: str


@dataclass
class Progress:
    """Reads Ansible's output as it comes: tells a person which play runs, and notes how long each one took."""

    show: Callable[[str], None]
    plays: list[Part] = field(default_factory=list)
    told: bool = True

    def line(self, text: str) -> None:
        """Take one line."""
        plain = COLOR.sub("", text)
        if plain.startswith("PLAY "):
            self.end()
        if plain.startswith("PLAY ["):
            self.plays.append(Part(plain.removeprefix("PLAY [").partition("]")[0], time.monotonic()))
            self.told = False
        elif plain.startswith("TASK [") and not self.told:
            # Only now: plays whose every task is left out by a tag do nothing.
            self.show(f"    {self.plays[-1].name}")
            self.told = True
        elif self.plays and ON_HOST.match(plain):
            self.plays[-1].on_host = True

    def end(self) -> None:
        """The play that ran has ended."""
        if self.plays and not self.plays[-1].seconds:
            self.plays[-1].seconds = time.monotonic() - self.plays[-1].started


@dataclass
class Sandbox:
    """One named sandbox."""

    name: str
    logs: Path
    # Variables that every playbook is given.
    given: dict[str, Any] = field(default_factory=dict)
    show: Callable[[str], None] = field(default=lambda text: print(text, flush=True))
    # Whether playbooks are run with AWS's modules in memory: the same runs, in half the time.
    swift: bool = False

    @property
    def state(self) -> dict[str, Any]:
        """What the running sandbox says about itself."""
        return cast("dict[str, Any]", json.loads((STATES / self.name / "state.json").read_text()))

    @property
    def environment(self) -> dict[str, str]:
        """What makes inventories/sandbox mean this sandbox."""
        return {"SPOTCACHE_SANDBOX": self.name, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}

    @property
    def password(self) -> str:
        """The Redis password that inventories/sandbox uses."""
        return Path(self.state["redis_password_file"]).read_text().strip()

    def verb(self, *words: str) -> str:
        """A verb of the sandbox's own command line."""
        command = [sys.executable, "-m", "sandbox", *words]
        code, text = stream(command, self.logs / f"sandbox-{words[0]}.log", environment=self.environment)
        if code:
            raise Failed(f"python -m sandbox {' '.join(words)} failed:\n{text.strip()}")
        return text

    def up(self, *options: str) -> None:
        """Start anew; what an earlier run of this name left is removed first.

        The operator may do what docs/iam has attached for provision to destroy, and what `permissions.also` adds.
        """
        self.verb("down", self.name)
        self.verb("up", self.name, *permissions.documented(), *options)

    def down(self) -> None:
        """Stop it and remove all it made."""
        self.verb("down", self.name)

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[Sandbox]:
        """Up, and whatever happens, down."""
        try:
            self.up(*options)
            yield self
        finally:
            self.down()

    def attempt(
        self,
        playbook: str,
        *arguments: str,
        log: str | None = None,
        environment: Mapping[str, str] | None = None,
        command: str = "",
        cwd: Path = ROOT,
    ) -> tuple[int, Play]:
        """Run a playbook (a name such as provision, a path, or a collection's playbook) and hand back how it ended."""
        target = f"playbooks/{playbook}.yml" if re.fullmatch(r"[a-z_]+", playbook) else playbook
        started, progress = time.monotonic(), Progress(self.show)
        given = ["-e", json.dumps(self.given)] if self.given else []
        words = [target, "-i", str(INVENTORY), *given, *arguments]
        into = self.logs / f"{log or Path(playbook).stem}.log"
        told = {**self.environment, **(environment or {})}
        if self.swift and not command:
            code, text = POOL.run(words, told, into, show=progress.line, cwd=cwd)
        else:
            program = tool(command or "ansible-playbook")
            code, text = stream([program, *words], into, show=progress.line, environment=told, cwd=cwd)
        progress.end()
        return code, Play(text, time.monotonic() - started, progress.plays)

    def play(self, playbook: str, *arguments: str, log: str | None = None, command: str = "") -> Play:
        """Run a playbook that must work."""
        code, done = self.attempt(playbook, *arguments, log=log, command=command)
        if code:
            path = self.logs / f"{log or Path(playbook).stem}.log"
            raise Failed(f"{playbook} failed (exit {code}); the whole log is {path}, its end:\n{tail(path, 60)}")
        return done

    def client(self, service: str) -> Any:
        """An AWS client for this sandbox, as the account's owner: a test may look at what no operator needs to."""
        state = self.state
        return boto3.client(
            service,
            region_name=state["region"],
            endpoint_url=state["endpoint"],
            aws_access_key_id=state["owner"]["access_key_id"],
            aws_secret_access_key=state["owner"]["secret_access_key"],
            config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}),
        )

    def hosts(self) -> list[Host]:
        """The running instances of the environment."""
        filters = [
            {"Name": "tag:spotcache:environment", "Values": ["sandbox"]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
        pages = self.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
        return [Host(one["InstanceId"], one["Placement"]["AvailabilityZone"], one["PrivateIpAddress"]) for one in found]

    def host(self) -> Host:
        """The one instance that should be running."""
        found = self.hosts()
        if len(found) != 1:
            raise Failed(
                f"exactly one host was expected, and there are {len(found)}: {', '.join(one.id for one in found)}"
            )
        return found[0]

    def lose_host(self, patience: float = 60) -> tuple[Host, Host]:
        """Lose the host as if its hardware were gone, and wait for the one that the group brings."""
        lost = self.host()
        self.verb("kill", lost.id)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            others = [one for one in self.hosts() if one.id != lost.id]
            if others:
                return lost, others[0]
            time.sleep(0.2)
        raise Failed(f"{lost.id} was lost, and the Auto Scaling group brought no other host within {patience:.0f} s")

    def address_of_name(self) -> str:
        """Where clients are sent: the address that the name of Redis has; empty before there is one."""
        route53 = self.client("route53")
        for zone in route53.list_hosted_zones()["HostedZones"]:
            for record in route53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]:
                if record["Type"] == "A" and record["Name"].startswith("redis."):
                    return str(record["ResourceRecords"][0]["Value"])
        return ""

    @property
    def secure(self) -> Secure | None:
        """How clients speak TLS with Redis, where its playbooks are given `redis_tls`; None in the clear.

        The authority is what SSM has for the hosts: the file for people is one for all sandboxes of a checkout.
        """
        if not self.given.get("redis_tls"):
            return None
        found = self.client("ssm").get_parameter(Name="/spotcache/sandbox/host/redis-tls-ca", WithDecryption=True)
        return secured(found["Parameter"]["Value"], REDIS_NAME)

    def connect(self, host: Host, database: int = 0, login: tuple[str, str] | None = None, **options: Any) -> Any:
        """A client of the Redis on a host: an application, or who else a user and a password are given of."""
        username, password = login or (keys.USERNAME, self.password)
        usual = {"socket_timeout": 2, "socket_connect_timeout": 2, "decode_responses": True}
        who = {"username": username, "password": password, "db": database}
        return redis_client(host.ip, PORT, self.secure, **who, **{**usual, **options})

    def load(self, host: Host, count: int) -> None:
        """So many keys into the Redis on a host."""
        pieces = keys.load_commands(count, int(time.time() * 1000))
        keys.load(host.ip, PORT, self.password, pieces, self.secure)

    def fingerprint(self, host: Host, but: Collection[int] = ()) -> dict[int, keys.DatabasePrint]:
        """What the Redis on a host holds, but for databases that are in use meanwhile."""
        return keys.fingerprint(host.ip, PORT, self.password, but, self.secure)

    def connect_as_keeper(self, host: Host) -> Any:
        """A client that may ask the server on a host for its settings, which no application may."""
        done = self.on_host(host, "cat /etc/spotcache/keeper-password")
        return self.connect(host, login=("keeper", done.stdout.strip()))

    def successor(self, lost: Host, patience: float = 300) -> Host:
        """The host that serves in another one's place, by itself: clients are sent to it, and it answers."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for host in self.hosts():
                with contextlib.suppress(redis.RedisError, OSError):
                    if host.id != lost.id and self.address_of_name() == host.ip and self.connect(host).ping():
                        return host
            time.sleep(0.2)
        raise Failed(f"{lost.id} was lost, and no other host served within {patience:.0f} s")

    def is_spot(self, instance_id: str) -> bool:
        """On which market an instance was bought, also one that has ended."""
        [found] = self.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"]
        return bool(found.get("InstanceLifecycle") == "spot")

    def spot_host(self, patience: float = 300) -> Host:
        """The one Spot host that serves, once there is no fallback for it any more."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            found = self.hosts()
            if len(found) == 1 and self.is_spot(found[0].id) and self.address_of_name() == found[0].ip:
                with contextlib.suppress(redis.RedisError, OSError):
                    if self.connect(found[0]).ping():
                        return found[0]
            time.sleep(0.5)
        raise Failed(f"no Spot host alone served within {patience:.0f} s: there are {self.hosts()}")

    def on_host(self, host: Host, command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a host, as root; past its network, which is the product's own affair."""
        if self.state["machines"]:
            sockets = qemu.Sockets(STATES / self.name / "hosts" / host.id)
            code, *said = qemu.execute(sockets, ["/bin/sh", "-s"], command.encode(), timeout)
            out, err = (one.decode(errors="replace") for one in said)
            return subprocess.CompletedProcess(command, code, out, err)
        return subprocess.run(
            ["docker", "exec", "-i", f"sc-{self.name}-{host.id}", "sh", "-s"],
            input=command,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def resources(self) -> set[tuple[str, str]]:
        """Everything in this AWS account, by kind and id: compared before and after, it shows what was left."""
        ec2, found = self.client("ec2"), set()
        own = {"OwnerIds": ["self"]}
        questions: list[tuple[str, str, str, dict[str, Any]]] = [
            ("volume", "describe_volumes", "Volumes/VolumeId", {}),
            ("snapshot", "describe_snapshots", "Snapshots/SnapshotId", own),
            ("image", "describe_images", "Images/ImageId", {"Owners": ["self"]}),
            ("launch template", "describe_launch_templates", "LaunchTemplates/LaunchTemplateId", {}),
            ("key pair", "describe_key_pairs", "KeyPairs/KeyName", {}),
            ("security group", "describe_security_groups", "SecurityGroups/GroupId", {}),
            ("VPC", "describe_vpcs", "Vpcs/VpcId", {}),
            ("subnet", "describe_subnets", "Subnets/SubnetId", {}),
            ("route table", "describe_route_tables", "RouteTables/RouteTableId", {}),
            ("internet gateway", "describe_internet_gateways", "InternetGateways/InternetGatewayId", {}),
            ("address", "describe_addresses", "Addresses/AllocationId", {}),
            (
                "EC2 Instance Connect Endpoint",
                "describe_instance_connect_endpoints",
                "InstanceConnectEndpoints/InstanceConnectEndpointId",
                {
                    "Filters": [
                        {"Name": "state", "Values": ["create-complete", "create-in-progress", "delete-in-progress"]}
                    ]
                },
            ),
            ("network interface", "describe_network_interfaces", "NetworkInterfaces/NetworkInterfaceId", {}),
        ]
        for kind, method, path, arguments in questions:
            rows, key = path.split("/")
            found |= {(kind, row[key]) for row in getattr(ec2, method)(**arguments)[rows]}
        found |= {("instance", one.id) for one in self.hosts()}
        groups = self.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        found |= {("Auto Scaling group", row["AutoScalingGroupName"]) for row in groups}
        iam = self.client("iam")
        found |= {("role", row["RoleName"]) for row in iam.list_roles()["Roles"]}
        found |= {
            ("instance profile", row["InstanceProfileName"]) for row in iam.list_instance_profiles()["InstanceProfiles"]
        }
        policies = self.client("dlm").get_lifecycle_policies()["Policies"]
        found |= {("lifecycle policy", row["PolicyId"]) for row in policies}
        found |= {("bucket", row["Name"]) for row in self.client("s3").list_buckets()["Buckets"]}
        found |= {("DNS zone", row["Id"]) for row in self.client("route53").list_hosted_zones()["HostedZones"]}
        return found

    def paid(self) -> list[Thing]:
        """What the account pays for now; empty when nothing is left that costs anything."""
        return paid(self.client)

    def containers(self) -> list[str]:
        """The names of this sandbox's hosts as Docker knows them."""
        command = ["docker", "ps", "-a", "--filter", f"label=spotcache-sandbox={self.name}", "--format", "{{.Names}}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
