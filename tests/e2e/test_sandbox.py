# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox behaves as EC2 does where the roles depend on it: disks, losses, capacity, filters, clean-up."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from botocore.exceptions import ClientError

from dev.sandboxes import Host, Sandbox
from dev.work import Failed
from tests.e2e.conftest import LOGS
from tests.pace import contention

T = TypeVar("T")
TYPES = ["t3.small", "t3a.small"]


class Account:
    """A VPC, a launch template and a group of one in a sandbox, made with boto3 alone."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.state = sandbox.state
        self.ec2, self.groups, self.ssm = (sandbox.client(s) for s in ("ec2", "autoscaling", "ssm"))
        vpc = self.ec2.create_vpc(CidrBlock=self.state["cidr"])["Vpc"]["VpcId"]
        second = self.state["cidr"].split(".")[1]
        self.subnets = [
            self.ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.{second}.{16 * n}.0/20", AvailabilityZone=zone)["Subnet"]
            for n, zone in enumerate(self.state["zones"][:2])
        ]
        self.sg = self.ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc)["GroupId"]
        self.open(22, self.state["cidr"])
        with open(f"{self.state['ssh_key']}.pub", encoding="ascii") as key:
            self.ec2.import_key_pair(KeyName="k", PublicKeyMaterial=key.read().encode())
        iam = sandbox.client("iam")
        trust = (
            '{"Version":"2012-10-17","Statement":[{"Effect":"Allow",'
            '"Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}'
        )
        iam.create_role(RoleName="r", AssumeRolePolicyDocument=trust)
        iam.create_instance_profile(InstanceProfileName="p")
        iam.add_role_to_instance_profile(InstanceProfileName="p", RoleName="r")
        tags = [{"Key": "spotcache:environment", "Value": "sandbox"}]
        data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "VolumeType": "gp3", "DeleteOnTermination": False}}
        template = self.ec2.create_launch_template(
            LaunchTemplateName="t",
            LaunchTemplateData={
                "ImageId": self.state["images"]["debian"],
                "InstanceType": TYPES[0],
                "KeyName": "k",
                "SecurityGroupIds": [self.sg],
                "IamInstanceProfile": {"Name": "p"},
                "UserData": base64.b64encode(b"#!/bin/sh\ndate > /root/user-data-ran\n").decode(),
                "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
                "BlockDeviceMappings": [data],
                "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
            },
        )["LaunchTemplate"]["LaunchTemplateId"]
        self.asked = time.monotonic()
        self.groups.create_auto_scaling_group(
            AutoScalingGroupName="a",
            MinSize=0,
            MaxSize=1,
            DesiredCapacity=1,
            VPCZoneIdentifier=",".join(s["SubnetId"] for s in self.subnets),
            MixedInstancesPolicy={
                "LaunchTemplate": {
                    "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "$Latest"},
                    "Overrides": [{"InstanceType": kind} for kind in TYPES],
                },
                "InstancesDistribution": {
                    "OnDemandPercentageAboveBaseCapacity": 0,
                    "SpotAllocationStrategy": "price-capacity-optimized",
                },
            },
        )

    def open(self, port: int, cidr: str) -> None:
        """Let a network in on a port."""
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": cidr}]}
        self.ec2.authorize_security_group_ingress(GroupId=self.sg, IpPermissions=[rule])

    def close(self, port: int, cidr: str) -> None:
        """Take that back."""
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": cidr}]}
        self.ec2.revoke_security_group_ingress(GroupId=self.sg, IpPermissions=[rule])

    def ready(self, not_id: str = "") -> Host:
        """The group's host, once it lets its operator in."""

        def found() -> Host | None:
            for host in self.sandbox.hosts():
                if host.id != not_id and self.sandbox.on_host(host, "true").returncode == 0:
                    return host
            return None

        return wait(found, 30, "a host that lets its operator in")

    def attached(self, volume: str) -> bool:
        """Whether a host has a volume, and not only will have it."""
        found = self.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"]
        return bool(found) and found[0]["State"] == "attached"

    def volume(self, host: Host) -> Any:
        """The data volume of a host."""
        where = [{"Name": "attachment.instance-id", "Values": [host.id]}, {"Name": "size", "Values": ["1"]}]
        return self.ec2.describe_volumes(Filters=where)["Volumes"][0]

    def run(self, host: Host, script: str) -> str:
        """Run a script on a host; it must end well."""
        done = self.sandbox.on_host(host, f"set -e\n{script}")
        assert done.returncode == 0, done.stderr
        return done.stdout


def wait(look: Callable[[], T | None], patience: float, what: str) -> T:
    """Look again and again until there is something."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.1)
    raise Failed(f"waited {patience:.0f} s in vain for {what}")


def answers(address: str, port: int) -> bool:
    """Whether something takes a connection there."""
    try:
        socket.create_connection((address, port), 0.7).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with Sandbox("t-parts", LOGS / "parts").running("--snapshot-seconds", "2") as running:
        yield Account(running)


@pytest.fixture
def host(account: Account) -> Host:
    return account.ready()


def test_a_host_is_reachable_within_five_seconds_and_is_what_its_template_says(account: Account) -> None:
    address = wait(lambda: next(iter(account.sandbox.hosts()), None), 10, "a running instance").ip
    wait(lambda: answers(address, 22) or None, 10, "sshd")
    took = time.monotonic() - account.asked
    assert took <= 5 * contention()
    host = account.ready()
    row = account.ec2.describe_instances(InstanceIds=[host.id])["Reservations"][0]["Instances"][0]
    assert (row["InstanceLifecycle"], row["InstanceType"]) == ("spot", TYPES[0])
    assert row["MetadataOptions"]["HttpTokens"] == "required"
    assert row["IamInstanceProfile"]["Arn"].endswith("/p")
    account.run(host, "cloud-init status --wait; test -s /root/user-data-ran; systemctl is-system-running")


def test_a_new_volume_is_blank_and_found_by_its_id(account: Account, host: Host) -> None:
    volume = account.volume(host)["VolumeId"].replace("-", "")
    link = f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume}"
    text = account.run(host, f"readlink -f {link}; blkid -p {link} || echo blank; blockdev --getsize64 {link}")
    assert text.split() == ["/dev/nvme1n1", "blank", str(1024**3)]


def test_a_snapshot_is_a_point_in_time_and_pending_for_a_while(account: Account, host: Host) -> None:
    volume = account.volume(host)
    account.run(
        host,
        "mkfs.ext4 -q /dev/nvme1n1; mkdir -p /d; mount /dev/nvme1n1 /d; echo old > /d/synced; sync; "
        "echo new > /d/unsynced",
    )
    taken = account.ec2.create_snapshot(VolumeId=volume["VolumeId"])
    account.run(host, "echo changed > /d/synced; sync")
    assert taken["State"] == "pending"
    calls: tuple[Callable[[], object], ...] = (
        lambda: account.ec2.create_snapshot(VolumeId=volume["VolumeId"]),
        lambda: account.ec2.create_volume(SnapshotId=taken["SnapshotId"], AvailabilityZone=host.zone),
    )
    for call in calls:
        with pytest.raises(ClientError, match=r"SnapshotCreationPerVolumeRateExceeded|IncorrectState"):
            call()
    account.ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[taken["SnapshotId"]], WaiterConfig={"Delay": 1})
    other = next(z for z in account.state["zones"] if z != host.zone)
    elsewhere = account.ec2.create_volume(SnapshotId=taken["SnapshotId"], AvailabilityZone=other)["VolumeId"]
    with pytest.raises(ClientError, match="ZoneMismatch"):
        account.ec2.attach_volume(VolumeId=elsewhere, InstanceId=host.id, Device="/dev/sdg")
    here = account.ec2.create_volume(SnapshotId=taken["SnapshotId"], AvailabilityZone=host.zone)["VolumeId"]
    account.ec2.attach_volume(VolumeId=here, InstanceId=host.id, Device="/dev/sdg")
    wait(lambda: account.attached(here) or None, 30, "the volume")
    text = account.run(host, "mkdir -p /e; mount -o ro /dev/nvme2n1 /e; cat /e/synced; cat /e/unsynced || echo none")
    assert text.split() == ["old", "none"]
    account.run(host, "umount /e")
    account.ec2.detach_volume(VolumeId=here)
    account.ec2.get_waiter("volume_available").wait(VolumeIds=[here], WaiterConfig={"Delay": 1})
    account.run(host, "! test -e /dev/nvme2n1")


def test_security_groups_filter_and_follow_their_rules(account: Account, host: Host) -> None:
    account.run(host, "systemd-run -q --unit listener python3 -m http.server 8000")
    account.run(host, "for n in $(seq 50); do curl -s -o /dev/null localhost:8000 && exit; sleep 0.1; done; exit 1")
    assert not answers(host.ip, 8000)
    account.open(8000, account.state["cidr"])
    wait(lambda: answers(host.ip, 8000) or None, 5, "the opened port")
    account.close(8000, account.state["cidr"])
    wait(lambda: True if not answers(host.ip, 8000) else None, 5, "the closed port")


def test_commands_over_ssm_really_run(account: Account, host: Host) -> None:
    sent = account.ssm.send_command(
        Targets=[{"Key": "tag:spotcache:environment", "Values": ["sandbox"]}],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["hostname -I", "exit 3"]},
    )["Command"]["CommandId"]

    def done() -> Any:
        found = account.ssm.list_command_invocations(CommandId=sent)["CommandInvocations"]
        return found if found and all(i["Status"] not in ("Pending", "InProgress") for i in found) else None

    (invocation,) = wait(done, 10, "the command")
    answer = account.ssm.get_command_invocation(CommandId=sent, InstanceId=invocation["InstanceId"])
    assert (answer["Status"], answer["ResponseCode"]) == ("Failed", 3)
    assert answer["StandardOutputContent"].split()[0] == host.ip


def test_metadata_announces_the_interruption_and_it_comes(account: Account, host: Host) -> None:
    account.sandbox.verb("spot-notice", host.id, "--in", "4")
    ask = (
        'T=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" 169.254.169.254/latest/api/token);'
        ' curl -sf -H "X-aws-ec2-metadata-token: $T" 169.254.169.254/latest/meta-data/spot/instance-action'
    )
    assert '"action": "terminate"' in account.run(host, ask)
    successor = account.ready(not_id=host.id)
    assert successor.zone != host.zone
    row = account.ec2.describe_instances(InstanceIds=[host.id])["Reservations"][0]["Instances"][0]
    assert row["State"]["Name"] in ("shutting-down", "terminated")


def test_a_lost_host_takes_with_it_what_it_had_not_written(account: Account, host: Host) -> None:
    volume = account.volume(host)["VolumeId"]
    account.run(
        host,
        "mkfs.ext4 -q /dev/nvme1n1; mkdir -p /d; mount /dev/nvme1n1 /d; echo kept > /d/kept; sync; echo lost > /d/lost",
    )
    account.sandbox.verb("kill", host.id)
    successor = account.ready(not_id=host.id)
    assert account.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available"
    account.sandbox.verb("no-spot-capacity", successor.zone, "*")
    account.sandbox.verb("kill", successor.id)
    back = account.ready(not_id=successor.id)
    account.sandbox.verb("spot-capacity", successor.zone, "*")
    assert back.zone == host.zone
    account.ec2.attach_volume(VolumeId=volume, InstanceId=back.id, Device="/dev/sdh")
    wait(lambda: account.attached(volume) or None, 30, "the volume")
    text = account.run(back, "mkdir -p /d; mount /dev/nvme2n1 /d; cat /d/kept; cat /d/lost || echo gone")
    assert text.split() == ["kept", "gone"]


def test_an_image_of_a_host_has_its_files_and_its_docker_data(account: Account, host: Host) -> None:
    account.run(host, "echo baked > /etc/baked; mkdir -p /var/lib/docker/x; echo layer > /var/lib/docker/x/layer; sync")
    loop = "while :; do date +%s.%N > /etc/tick.new; mv /etc/tick.new /etc/tick; sleep 0.1; done"
    account.run(host, f"echo '{loop}' > /root/tick; systemd-run -q --unit tick sh /root/tick")
    image = account.ec2.create_image(InstanceId=host.id, Name="baked")["ImageId"]
    answered = time.time()
    [described] = account.ec2.describe_images(ImageIds=[image])["Images"]
    assert (described["State"], described["BlockDeviceMappings"]) == ("pending", [])
    with pytest.raises(ClientError, match=r"InvalidAMIID\.Unavailable"):
        account.ec2.run_instances(ImageId=image, InstanceType=TYPES[0], MinCount=1, MaxCount=1)
    account.ec2.get_waiter("image_available").wait(ImageIds=[image], WaiterConfig={"Delay": 1})
    asked = {"ImageId": image, "InstanceType": TYPES[0], "KeyName": "k", "MinCount": 1, "MaxCount": 1}
    subnet = next(s["SubnetId"] for s in account.subnets if s["AvailabilityZone"] == host.zone)
    made = account.ec2.run_instances(**asked, SubnetId=subnet, SecurityGroupIds=[account.sg])["Instances"][0]
    copy = Host(made["InstanceId"], host.zone, made["PrivateIpAddress"])
    wait(lambda: True if account.sandbox.on_host(copy, "true").returncode == 0 else None, 20, "the copy")
    text = account.run(copy, "cat /etc/baked /var/lib/docker/x/layer; cat /etc/machine-id")
    assert text.split()[:2] == ["baked", "layer"]
    # Of a moment after the answer: what a host writes in between is in the image.
    assert float(account.run(copy, "cat /etc/tick")) > answered
    account.ec2.terminate_instances(InstanceIds=[copy.id])
    account.ec2.deregister_image(ImageId=image)


def test_without_spot_capacity_the_group_says_why_and_waits(account: Account, host: Host) -> None:
    for zone in account.state["zones"][:2]:
        account.sandbox.verb("no-spot-capacity", zone, "*")
    account.sandbox.verb("kill", host.id)

    def refused() -> Any:
        log = account.groups.describe_scaling_activities(AutoScalingGroupName="a")["Activities"]
        return log[0] if log[0]["StatusCode"] == "Failed" else None

    assert "no spot capacity" in wait(refused, 10, "a refusal")["StatusMessage"]
    assert not account.sandbox.hosts()
    for zone in account.state["zones"][:2]:
        account.sandbox.verb("spot-capacity", zone, "*")
    account.ready()


def test_a_hung_host_answers_no_more_and_a_lost_zone_gives_nothing(account: Account, host: Host) -> None:
    account.sandbox.verb("hang", host.id)
    assert not answers(host.ip, 22)
    assert account.sandbox.host() == host
    account.sandbox.verb("fail-zone", host.zone)
    assert account.ready(not_id=host.id).zone != host.zone
    account.sandbox.verb("restore-zone", host.zone)


def test_nothing_is_left_after_a_crash_of_the_sandbox_itself() -> None:
    with Sandbox("t-crash", LOGS / "crash").running() as running:
        account = Account(running)
        account.run(account.ready(), "mkfs.ext4 -q /dev/nvme1n1; mkdir /d; mount /dev/nvme1n1 /d; touch /d/x")
        os.kill(account.state["pid"], signal.SIGKILL)
    traces = {
        "containers": ["docker", "ps", "-aq", "--filter", "label=spotcache-sandbox=t-crash"],
        "networks": ["docker", "network", "ls", "-q", "--filter", "label=spotcache-sandbox=t-crash"],
        "volumes": ["docker", "volume", "ls", "-q", "--filter", "label=spotcache-sandbox=t-crash"],
        "loop devices": [
            "sh",
            "-c",
            "losetup --list --noheadings -O BACK-FILE | grep -E 't-crash|^/(vol|docker)-' || true",
        ],
        "mounts": ["sh", "-c", "grep t-crash /proc/self/mountinfo || true"],
        "rules": ["sh", "-c", "(iptables-save; ip6tables-save) | grep t-crash || true"],
        "files": ["sh", "-c", "ls -d /var/lib/spotcache-sandbox/t-crash* 2>/dev/null || true"],
    }
    left = {what: subprocess.run(how, capture_output=True, text=True).stdout.strip() for what, how in traces.items()}
    assert left == dict.fromkeys(traces, "")
