# SPDX-License-Identifier: GPL-3.0-or-later
"""Web hosts in a sandbox: an Auto Scaling group whose hosts run nginx and php-fpm with APCu in containers.

One host is made by hand and turned into an image, so that twenty of them cost no more than their boots.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dev.sandboxes import Host, Sandbox
from dev.work import Failed

GROUP = "shop-web"
TAG = {"Key": "Role", "Value": "web"}
PATIENCE_S = 240
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}

RUN_CONTAINERS = """
set -eu
docker network create web >/dev/null
docker run -d --name php --network web --restart always {image} verify php >/dev/null
docker run -d --name nginx --network web --restart always -e PHP_HOST=php {image} verify nginx >/dev/null
"""


def until(true: Callable[[], bool], what: str, patience: float = PATIENCE_S) -> None:
    """Wait for something, and not for ever."""
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not happen within {patience:.0f} s")
        time.sleep(0.5)


class WebFleet:
    """The group of web hosts, and what a test or a bench does with it."""

    def __init__(self, sandbox: Sandbox, image: str) -> None:
        self.sandbox = sandbox
        self.image = image
        self.ec2: Any = sandbox.client("ec2")
        self.autoscaling: Any = sandbox.client("autoscaling")

    def up(self, count: int) -> None:
        """Make the network, the image and the group."""
        self._network()
        iam: Any = self.sandbox.client("iam")
        iam.create_role(RoleName=GROUP, AssumeRolePolicyDocument=json.dumps(TRUST))
        iam.create_instance_profile(InstanceProfileName=GROUP)
        iam.add_role_to_instance_profile(InstanceProfileName=GROUP, RoleName=GROUP)
        self._template(self._image())
        self.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=GROUP,
            LaunchTemplate={"LaunchTemplateName": GROUP, "Version": "$Latest"},
            MinSize=0,
            MaxSize=count,
            DesiredCapacity=count,
            VPCZoneIdentifier=self.subnet,
        )
        self.wait(count)

    def resize(self, count: int) -> None:
        """Have another number of hosts."""
        self.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=GROUP, DesiredCapacity=count, MaxSize=max(count, 1)
        )
        self.wait(count)

    def wait(self, count: int) -> None:
        """Wait until as many hosts run, and every nginx on them answers."""
        until(lambda: len(self.hosts()) == count, f"a fleet of {count} hosts")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._wait_for_page, self.hosts()))

    def hosts(self) -> list[Host]:
        """The group's running hosts."""
        filters = [
            {"Name": "tag:Role", "Values": ["web"]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
        return sorted(
            (Host(one["InstanceId"], one["Placement"]["AvailabilityZone"], one["PrivateIpAddress"]) for one in found),
            key=lambda host: host.id,
        )

    def container_of(self, host: Host) -> str:
        """The host's name as this machine's Docker knows it."""
        found = [name for name in self.sandbox.containers() if name.endswith(host.id)]
        if not found:
            raise Failed(f"{host.id} is gone")
        return found[0]

    def shell(self, host: Host, script: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a script on a host as root, without SSH."""
        argv = ["docker", "exec", "-i", self.container_of(host), "sh", "-s"]
        return subprocess.run(argv, input=script, capture_output=True, text=True, timeout=timeout)

    def page(self, host: Host, path: str) -> str:
        """A page, as a client of the web server gets it."""
        done = self.shell(host, f"docker exec nginx curl -s -m 10 'http://localhost/{path}'")
        return done.stdout

    def _wait_for_page(self, host: Host) -> None:
        check = "docker exec nginx curl -sf -m 5 localhost/apcu-put/ready/yes"
        until(lambda: self.shell(host, check).returncode == 0, f"nginx and php-fpm on {host.id}")

    def _network(self) -> None:
        state = self.sandbox.state
        vpc = self.ec2.create_vpc(CidrBlock=state["cidr"])["Vpc"]["VpcId"]
        self.ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
        block = state["cidr"].replace(".0.0/16", ".0.0/20")
        made = self.ec2.create_subnet(VpcId=vpc, CidrBlock=block, AvailabilityZone=state["zones"][0])
        self.subnet = made["Subnet"]["SubnetId"]

    def _image(self) -> str:
        """An image of a host on which the containers run."""
        made = self.ec2.run_instances(
            ImageId=self.sandbox.state["images"]["debian_docker"],
            InstanceType="t3.small",
            MinCount=1,
            MaxCount=1,
            SubnetId=self.subnet,
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Role", "Value": "builder"}]}],
        )
        builder = made["Instances"][0]["InstanceId"]
        host = Host(builder, "", "")
        until(lambda: any(name.endswith(builder) for name in self.sandbox.containers()), "the builder's boot")
        until(lambda: self.shell(host, "docker info >/dev/null 2>&1").returncode == 0, "the builder's engine")
        self._load(self.container_of(host))
        done = self.shell(host, RUN_CONTAINERS.format(image=self.image), timeout=300)
        if done.returncode:
            raise Failed(f"the containers do not run on {builder}: {done.stdout}{done.stderr}")
        self._wait_for_page(host)
        image = self.ec2.create_image(InstanceId=builder, Name="shop-web")["ImageId"]
        until(
            lambda: self.ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available", "the hosts' image"
        )
        self.ec2.terminate_instances(InstanceIds=[builder])
        return str(image)

    def _load(self, container: str) -> None:
        """Give the builder's engine the application's image."""
        with subprocess.Popen(["docker", "save", self.image], stdout=subprocess.PIPE) as saved:
            argv: Sequence[str] = ["docker", "exec", "-i", container, "docker", "load"]
            loaded = subprocess.run(argv, stdin=saved.stdout, capture_output=True, text=True, timeout=300)
        if loaded.returncode or saved.returncode:
            raise Failed(f"the image {self.image} cannot be loaded into {container}: {loaded.stderr}")

    def _template(self, image: str) -> None:
        self.ec2.create_launch_template(
            LaunchTemplateName=GROUP,
            LaunchTemplateData={
                "ImageId": image,
                "InstanceType": "t3.small",
                "IamInstanceProfile": {"Name": GROUP},
                "TagSpecifications": [{"ResourceType": "instance", "Tags": [TAG]}],
            },
        )
