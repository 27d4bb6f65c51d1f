# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are cut off at any moment, and what `destroy` makes of what they leave.

A playbook runs against AWS on paper. At chosen calls that change something the records are forked as they are at that
moment: that is what is left of a run that was killed there. In each fork `destroy` then runs to its end, and the
account is looked through for everything that is paid, and for everything else that was not there before.

    python -m dev.kills [--moments 20|all] [--seed N] [provision] [restore] [destroy]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import yaml

from dev import permissions
from dev.program import Program
from dev.work import ROOT, Failed
from sandbox.paid import Thing, inventory, month

REGION = "ap-northeast-1"
ENVIRONMENT = "t"
BUCKET = "spotcache-t-backups"
PLAYBOOKS = ("provision", "restore", "destroy")
LEFT_ON_PURPOSE = ("bucket", "snapshot")
# Fewer changes would be a sign that a playbook did not do its work.
FEWEST = 20
# What the host would say, which is nowhere on paper: the plays on it are left out.
HOST_SAYS = {"spotcache__bake": True, "keeper_fingerprint": "0123456789abcdef", "keeper_scrubbed_until": 0}
# Nor does a host say what it has restored, and with that a restore's last play ends.
NOTHING_ON_PAPER = "has no attribute 'keeper_result'"


@dataclass(frozen=True)
class Account:
    """An AWS account on paper, at one moment."""

    port: int
    keys: tuple[str, str]
    # Whoever looks what there is; before anybody is asked for permissions, any words do.
    owner: tuple[str, str] = ("owner", "owner")

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, service: str) -> Any:
        """An AWS client."""
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.owner[0],
            aws_secret_access_key=self.owner[1],
            config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def ask(self, command: str) -> Any:
        """Ask the paper itself."""
        request = urllib.request.Request(f"{self.endpoint}/_paper/{command}", data=b"", method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def fork(self) -> Account:
        """The same records once more."""
        return replace(self, port=self.ask("fork")["port"])

    def things(self) -> set[tuple[str, str]]:
        """Everything there is, by kind and id."""
        return {(one.kind, one.id) for one in inventory(self.client)}


@dataclass
class Ansible:
    """Programs that run playbooks; each runs one at a time."""

    folder: Path
    programs: list[Program] = field(default_factory=list)
    free: list[Program] = field(default_factory=list)
    lock: threading.Condition = field(default_factory=threading.Condition)

    def start(self, count: int) -> None:
        """Start as many as shall run side by side."""
        for number in range(count):
            home = self.folder / f"home-{number}"
            home.mkdir()
            environment = {
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_LOCALHOST_WARNING": "false",
                "HOME": str(home),
                # Nothing answers behind the addresses on paper, and the play asks whether somebody does.
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            }
            program = Program.start(environment, home / "stderr")
            self.programs.append(program)
            self.free.append(program)

    def close(self) -> None:
        """End them."""
        for program in self.programs:
            program.close()

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Run a playbook; its exit code."""
        with self.lock:
            self.lock.wait_for(lambda: bool(self.free))
            program = self.free.pop()
        try:
            return program.run(arguments, {"AWS_EC2_METADATA_DISABLED": "true"}, log)
        finally:
            with self.lock:
                self.free.append(program)
                self.lock.notify()


@dataclass(frozen=True)
class Moment:
    """One kill."""

    playbook: str
    number: int
    action: str

    def __str__(self) -> str:
        return f"{self.playbook} killed after its change {self.number} ({self.action})"


IMAGE: list[str] = []


@dataclass
class Stage:
    """What all kills share: an account with an operator, and Ansible."""

    folder: Path
    ansible: Ansible
    empty: Account
    before: set[tuple[str, str]] = field(default_factory=set)
    provisioned: list[Account] = field(default_factory=list)

    def variables(self, account: Account) -> dict[str, Any]:
        """What an inventory says; everything that makes something is on."""
        key, secret = account.keys
        return {
            "spotcache_environment": ENVIRONMENT,
            "spotcache_region": REGION,
            "spotcache_bucket": BUCKET,
            "spotcache_aws_environment": {
                "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ENDPOINT_URL": account.endpoint,
                "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_MAX_ATTEMPTS": "2",
            },
            "spot_host_image_id": self.image(account),
            "spot_host_ssh_private_key_file": str(self.folder / "id"),
            "spot_host_known_hosts_file": str(self.folder / "known_hosts"),
            "redis_password": "correct-horse-battery-staple",
            "spotcache_notify": "slack",
            "notify_slack_webhook": "https://hooks.slack.com/services/T0/B0/nobody",
            "notify_email_addresses": ["ops@example.com"],
            "notify_build_directory": str(self.folder / "build"),
            "fallback_controller_build_directory": str(self.folder / "build"),
            "spotcache_return_volume": True,
        }

    @staticmethod
    def image(account: Account) -> str:
        """An image to launch from: the same one of every account on paper."""
        # Asked once: the answer has hundreds of images, and takes seconds to write and to read.
        if not IMAGE:
            filters = [{"Name": "architecture", "Values": ["x86_64"]}]
            images = account.client("ec2").describe_images(Filters=filters)["Images"]
            IMAGE.append(str(min(one["ImageId"] for one in images if one["OwnerId"] != "123456789012")))
        return IMAGE[0]

    def play(self, account: Account, playbook: str, log: str, **more: Any) -> tuple[int, str]:
        """Run the part of a playbook that is on the control node; exit code and what it said."""
        inventory_file = self.folder / f"{log}.yml"
        localhost = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {"localhost": {**localhost, **self.variables(account)}}
        inventory_file.write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": {"spotcache_redis": {}}}}))
        said = self.folder / f"{log}.log"
        given = json.dumps({**HOST_SAYS, **more})
        code = self.ansible.run(
            [f"playbooks/{playbook}.yml", "-i", str(inventory_file), "--limit", "localhost", "-e", given], said
        )
        return code, said.read_text(errors="replace")

    def destroy(self, account: Account, log: str) -> str:
        """Destroy, from whatever there is; empty when all is well, else what is wrong."""
        options = {"destroy_confirm": ENVIRONMENT, "destroy_last_backup": False}
        code, said = self.play(account, "destroy", log, **options)
        if code:
            return f"destroy failed:\n{said[-3000:]}"
        left = [one for one in inventory(account.client) if (one.kind, one.id) not in self.before]
        wrong = [one for one in left if not allowed(account, one)]
        if wrong:
            return f"left, at {month(wrong):.2f} USD a month: " + "; ".join(f"{one.kind} {one.id}" for one in wrong)
        kept = [one for one in left if one.kind == "snapshot"]
        if kept and f"{len(kept)} EBS snapshot" not in " ".join(said.split()):
            return "destroy does not tell of the snapshots that it keeps"
        return ""


def allowed(account: Account, thing: Thing) -> bool:
    """Whether it may be left: the bucket with the backups, and snapshots that hold one."""
    if thing.kind != "snapshot":
        return thing.kind in LEFT_ON_PURPOSE
    found = account.client("ec2").describe_snapshots(SnapshotIds=[thing.id])["Snapshots"][0]
    return any(tag["Key"] == "spotcache:backup" for tag in found.get("Tags") or [])


@contextlib.contextmanager
def staged(folder: Path, side_by_side: int = 2) -> Iterator[Stage]:
    """An empty account with an operator under the documented policies, and Ansible ready to run."""
    (folder / "bin").mkdir()
    for name in ("ssh",):
        (folder / "bin" / name).write_text("#!/bin/sh\nexit 0\n")
        (folder / "bin" / name).chmod(0o755)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "id"], check=True)
    environment = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "MOTO_IAM_LOAD_MANAGED_POLICIES": "false"}
    ansible = Ansible(folder)
    with subprocess.Popen(
        [sys.executable, "-m", "dev.paper"],
        cwd=ROOT,
        env={**os.environ, **environment, "MOTO_EC2_LOAD_DEFAULT_AMIS": "true"},
        stdout=subprocess.PIPE,
        stderr=(folder / "paper.log").open("w"),
        text=True,
    ) as paper:
        try:
            ansible.start(side_by_side)
            assert paper.stdout is not None
            account = peopled(Account(int(paper.stdout.readline()), ("", "")))
            yield Stage(folder, ansible, account, account.things())
        finally:
            ansible.close()
            paper.kill()


def peopled(account: Account) -> Account:
    """The account with its owner, and with an operator who may do what the documents give one; nobody else may."""
    iam = account.client("iam")
    boundary = permissions.BOUNDARY
    iam.create_policy(PolicyName=boundary.stem, PolicyDocument=boundary.read_text(encoding="utf-8"))
    anything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    documents = {name: (permissions.IAM / f"{name}.json").read_text(encoding="utf-8") for name in permissions.ATTACHED}

    def user(name: str, policies: Mapping[str, str]) -> tuple[str, str]:
        iam.create_user(UserName=name)
        for policy, document in policies.items():
            made = iam.create_policy(PolicyName=policy, PolicyDocument=document)["Policy"]["Arn"]
            iam.attach_user_policy(UserName=name, PolicyArn=made)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    there = replace(account, keys=user("operator", documents), owner=user("owner", {"all": json.dumps(anything)}))
    there.ask("authorize")
    return there


def secrets_left(account: Account) -> None:
    """What the host's part of a provision leaves in SSM."""
    for name in ("redis-secrets", "redis-users", "keeper-password"):
        account.client("ssm").put_parameter(
            Name=f"/spotcache/{ENVIRONMENT}/host/{name}", Value="x", Type="SecureString", Overwrite=True
        )


def backups_left(account: Account, volume: str, backups: int = 4) -> None:
    """What a host's life leaves: backups in S3, and a snapshot of its volume with each."""
    s3, ec2 = account.client("s3"), account.client("ec2")
    for number in range(backups):
        backup = f"20261128T1200{number:02}Z-0000{number:02}"
        for part in ("dump.rdb", "manifest.json"):
            s3.put_object(Bucket=BUCKET, Key=f"{ENVIRONMENT}/backups/{backup}/{part}", Body=b"x" * 1000)
        tags = {"spotcache:environment": ENVIRONMENT, "spotcache:backup": backup, "spotcache:verified": "true"}
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        ec2.create_snapshot(VolumeId=volume, TagSpecifications=[{"ResourceType": "snapshot", "Tags": listed}])


def chosen(count: int, wanted: int | None, seed: int) -> list[int]:
    """Which of so many moments; all of them for None."""
    everything = range(1, count + 1)
    return sorted(everything if wanted is None else random.Random(seed).sample(everything, min(wanted, count)))


def begun(stage: Stage, playbook: str) -> tuple[Account, dict[str, Any]]:
    """The account as it is when a playbook begins, and what the playbook is given."""
    account = stage.empty.fork()
    ec2 = account.client("ec2")
    if playbook == "provision":
        return account, {}
    if playbook == "restore":
        # After a destroy: the bucket and some snapshots.
        s3, where = account.client("s3"), {"LocationConstraint": REGION}
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where, ObjectLockEnabledForBucket=True)
        s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": [{"Key": "spotcache:managed", "Value": "true"}]})
        volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8)["VolumeId"]
        backups_left(account, volume)
        ec2.delete_volume(VolumeId=volume)
        return account, {"restore_from": ""}
    if stage.provisioned:
        account = stage.provisioned[0].fork()
        ec2 = account.client("ec2")
    else:
        code, said = stage.play(account, "provision", f"{playbook}-before")
        if code:
            raise Failed(f"provision failed:\n{said[-3000:]}")
    filters = [{"Name": "tag:spotcache:environment", "Values": [ENVIRONMENT]}]
    secrets_left(account)
    backups_left(account, ec2.describe_volumes(Filters=filters)["Volumes"][-1]["VolumeId"])
    return account, {"destroy_confirm": ENVIRONMENT, "destroy_last_backup": False}


def kills(
    stage: Stage, playbook: str, wanted: int | None, seed: int, show: Callable[[str], None]
) -> list[tuple[Moment, str]]:
    """Kill a playbook at some of its moments, destroy, and say of each what is wrong; empty for nothing."""
    start, given = begun(stage, playbook)
    account = start.fork()
    account.ask("record")
    code, said = stage.play(account, playbook, f"{playbook}-whole", **given)
    # On paper there is nothing on the host that could be restored, and the restore says so at its end.
    if code and not (playbook == "restore" and NOTHING_ON_PAPER in " ".join(said.split())):
        raise Failed(f"{playbook} failed:\n{said[-3000:]}")
    every = account.ask("recorded")
    if len(every) < FEWEST:
        raise Failed(f"{playbook} changed only {len(every)} things:\n{said[-3000:]}")
    if playbook == "provision":
        # A run of its own for those who come after would find nothing else.
        stage.provisioned.append(account)
    moments = set(chosen(len(every), wanted, seed))
    forks = [fork for fork in every if fork["moment"] in moments]
    for fork in every:
        if fork["moment"] not in moments:
            os.kill(fork["pid"], signal.SIGKILL)
    show(f"{playbook}: {len(every)} changes, killed after {len(forks)} of them; seed {seed}")

    def one(fork: dict[str, Any]) -> tuple[Moment, str]:
        moment = Moment(playbook, fork["moment"], fork["action"])
        killed = replace(account, port=fork["port"])
        wrong = stage.destroy(killed, f"{playbook}-{moment.number}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(fork["pid"], signal.SIGKILL)
        show(f"  {'FAILED' if wrong else 'ok    '} {moment}{': ' + wrong if wrong else ''}")
        return moment, wrong

    with ThreadPoolExecutor(len(stage.ansible.programs)) as pool:
        return list(pool.map(one, forks))


def main(arguments: Sequence[str]) -> int:
    """Kill what is asked for, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("playbook", nargs="*", default=list(PLAYBOOKS), help="which; default: all three")
    parser.add_argument("--moments", default="20", help="how many of each, or all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="chooses the moments")
    parser.add_argument("--folder", type=Path, help="where inventories and logs go; default: a temporary one")
    asked = parser.parse_args(arguments)
    wanted = None if asked.moments == "all" else int(asked.moments)
    with contextlib.ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        folder.mkdir(parents=True, exist_ok=True)
        stage = stack.enter_context(staged(folder))
        found = [
            row
            for name in asked.playbook
            for row in kills(stage, name, wanted, asked.seed, functools.partial(print, flush=True))
        ]
    wrong = [row for row in found if row[1]]
    print(f"{len(found)} kills, {len(wrong)} that destroy could not mend")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
