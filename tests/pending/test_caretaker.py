# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's hours, its stand-in on demand and its volume at night, in a sandbox whose functions really run."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rehearsal.sandboxes import Play, Sandbox
from tests.e2e.conftest import LOGS
from tests.e2e.test_sandbox import TYPES, wait

PLAYBOOK = """
- name: The host's caretaker and hours
  hosts: localhost
  gather_facts: false
  environment: "{{ spotcache_aws_environment }}"
  vars:
    caretaker_environment: "{{ spotcache_environment }}"
    caretaker_region: "{{ spotcache_region }}"
    schedule_environment: "{{ spotcache_environment }}"
    schedule_region: "{{ spotcache_region }}"
  tasks:
    - name: Do it
      ansible.builtin.include_role:
        name: "spotcache.redis.{{ which }}"
        tasks_from: "{{ entry | default('main') }}"
"""
SPOT, STANDBY = "spotcache-sandbox", "spotcache-sandbox-on-demand"


class House:
    """A group of one Spot host, as the host's role makes it, and the roles that look after it."""

    def __init__(self, sandbox: Sandbox, playbook: Path) -> None:
        self.sandbox, self.playbook = sandbox, playbook
        self.ec2, self.groups = sandbox.client("ec2"), sandbox.client("autoscaling")
        state = sandbox.state
        vpc = self.ec2.create_vpc(CidrBlock=state["cidr"])["Vpc"]["VpcId"]
        second = state["cidr"].split(".")[1]
        self.zones = state["zones"][:2]
        self.subnets = [
            self.ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.{second}.{16 * n}.0/20", AvailabilityZone=zone)["Subnet"][
                "SubnetId"
            ]
            for n, zone in enumerate(self.zones)
        ]
        tags = [{"Key": "spotcache:environment", "Value": "sandbox"}]
        data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "VolumeType": "gp3", "DeleteOnTermination": False}}
        self.ec2.create_launch_template(
            LaunchTemplateName=SPOT,
            LaunchTemplateData={
                "ImageId": state["images"]["debian"],
                "InstanceType": TYPES[0],
                "BlockDeviceMappings": [data],
                "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
            },
        )
        self.groups.create_auto_scaling_group(
            AutoScalingGroupName=SPOT,
            MinSize=1,
            MaxSize=1,
            DesiredCapacity=1,
            VPCZoneIdentifier=",".join(self.subnets),
            MixedInstancesPolicy={
                "LaunchTemplate": {
                    "LaunchTemplateSpecification": {"LaunchTemplateName": SPOT, "Version": "$Latest"},
                    "Overrides": [{"InstanceType": TYPES[0]}],
                },
                "InstancesDistribution": {"OnDemandPercentageAboveBaseCapacity": 0},
            },
        )

    def play(self, which: str, *words: str, **variables: Any) -> Play:
        """Run a role."""
        given = {"which": which, "caretaker_subnet_ids": self.subnets, **variables}
        return self.sandbox.play(
            str(self.playbook), *words, "-e", json.dumps(given), log=f"{which}-{uuid.uuid4().hex[:6]}"
        )

    def verb(self, verb: str, *words: str) -> None:
        """A verb of the sandbox."""
        self.sandbox.verb(verb, "--name", self.sandbox.name, *words)

    def serving(self, group: str) -> list[str]:
        """The hosts of a group that are in service."""
        found = self.groups.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
        rows = found[0]["Instances"] if found else []
        return [row["InstanceId"] for row in rows if row["LifecycleState"] == "InService"]

    def until(self, spot: int, standby: int, patience: float = 60) -> None:
        """Wait until so many hosts serve."""
        wait(
            lambda: (len(self.serving(SPOT)), len(self.serving(STANDBY))) == (spot, standby) or None,
            patience,
            f"{spot} Spot hosts and {standby} on demand",
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    playbook = tmp_path_factory.mktemp("play") / "caretaker.yml"
    playbook.write_text(PLAYBOOK)
    with Sandbox("t-caretaker", LOGS / "caretaker").running("--snapshot-seconds", "0.5") as running:
        yield House(running, playbook)


def test_check_mode_then_made_then_unchanged(house: House) -> None:
    house.until(1, 0)
    assert house.play("caretaker", "--check").changed > 0
    assert house.sandbox.client("lambda").list_functions()["Functions"] == []
    assert house.play("caretaker").changed > 0
    assert house.play("caretaker").changed == 0
    assert house.play("caretaker", "--check").changed == 0


def test_without_spot_capacity_a_host_on_demand_stands_in_and_goes_again(house: House) -> None:
    house.until(1, 0)
    for zone in house.zones:
        house.verb("no-spot-capacity", zone, TYPES[0])
    lost = house.serving(SPOT)[0]
    house.verb("kill", lost)
    house.until(0, 1)
    row = house.ec2.describe_instances(InstanceIds=house.serving(STANDBY))["Reservations"][0]["Instances"][0]
    assert "InstanceLifecycle" not in row
    assert {"Key": "spotcache:environment", "Value": "sandbox"} in row["Tags"]
    # Converging meanwhile leaves it alone.
    assert house.play("caretaker").changed == 0
    assert len(house.serving(STANDBY)) == 1
    for zone in house.zones:
        house.verb("spot-capacity", zone, TYPES[0])
    house.until(1, 0)


def test_the_evening_ends_both_and_the_morning_brings_a_spot_host(house: House) -> None:
    assert house.play("schedule", "--check").changed > 0
    assert house.play("schedule").changed > 0
    assert house.play("schedule").changed == 0
    assert house.play("schedule", "--check").changed == 0
    actions = house.groups.describe_scheduled_actions()["ScheduledUpdateGroupActions"]
    assert sorted(
        (a["AutoScalingGroupName"], a["ScheduledActionName"], a["Recurrence"], a["TimeZone"]) for a in actions
    ) == [
        (SPOT, "spotcache-start", "0 9 * * 1,2,3,4,5", "Asia/Tokyo"),
        (SPOT, "spotcache-stop", "0 20 * * 1,2,3,4,5", "Asia/Tokyo"),
        (STANDBY, "spotcache-stop", "0 20 * * 1,2,3,4,5", "Asia/Tokyo"),
    ]
    house.groups.set_desired_capacity(AutoScalingGroupName=STANDBY, DesiredCapacity=1)
    for group in (SPOT, STANDBY):
        house.verb("fire", group, "spotcache-stop")
    house.until(0, 0)
    house.verb("fire", SPOT, "spotcache-start")
    house.until(1, 0)


def test_now(house: House) -> None:
    house.until(1, 0)
    assert house.play("schedule", schedule_do="stop").changed > 0
    house.until(0, 0)
    assert house.play("schedule", schedule_do="stop").changed == 0
    assert house.play("schedule", schedule_do="start").changed > 0
    house.until(1, 0)


def test_the_volume_is_given_back_once_a_verified_snapshot_holds_it(house: House) -> None:
    house.until(1, 0)
    assert house.play("caretaker", caretaker_return_volume=True).changed > 0
    hook = {"AutoScalingGroupName": SPOT, "LifecycleHookName": "save"}
    house.groups.put_lifecycle_hook(
        **hook,
        LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
        HeartbeatTimeout=60,
        DefaultResult="CONTINUE",
    )
    host = house.serving(SPOT)[0]
    attached = [{"Name": "attachment.instance-id", "Values": [host]}, {"Name": "size", "Values": ["1"]}]
    volume = house.ec2.describe_volumes(Filters=attached)["Volumes"][0]["VolumeId"]
    others = {v["VolumeId"] for v in house.ec2.describe_volumes()["Volumes"]} - {volume}
    house.verb("fire", SPOT, "spotcache-stop")
    waiting = wait(lambda: None if house.serving(SPOT) else True, 20, "the end to begin")
    assert waiting
    # What the keeper does while the hook holds the host.
    tags = [{"Key": "spotcache:environment", "Value": "sandbox"}, {"Key": "spotcache:verified", "Value": "true"}]
    house.ec2.create_snapshot(VolumeId=volume, TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}])
    house.groups.complete_lifecycle_action(**hook, InstanceId=host, LifecycleActionResult="CONTINUE")
    house.until(0, 0)

    def gone() -> bool | None:
        # As its rule does every five minutes: when the last event came, the volume may still have been attached.
        house.sandbox.client("lambda").invoke(FunctionName=f"{SPOT}-caretaker", Payload=b"{}")
        return True if volume not in {v["VolumeId"] for v in house.ec2.describe_volumes()["Volumes"]} else None

    wait(gone, 40, "the volume to be given back")
    # Volumes without such a snapshot stay.
    kept = {v["VolumeId"] for v in house.ec2.describe_volumes(Filters=[{"Name": "size", "Values": ["1"]}])["Volumes"]}
    assert kept == others & kept
    assert kept


def test_what_was_made_is_taken_away(house: House) -> None:
    for role in ("schedule", "caretaker"):
        assert house.play(role, entry="destroy").changed > 0
        assert house.play(role, entry="destroy").changed == 0
    groups = house.groups.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert [group["AutoScalingGroupName"] for group in groups] == [SPOT]
    assert house.groups.describe_scheduled_actions()["ScheduledUpdateGroupActions"] == []
    assert house.sandbox.client("events").list_rules()["Rules"] == []
    assert house.sandbox.client("lambda").list_functions()["Functions"] == []
