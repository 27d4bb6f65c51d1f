# SPDX-License-Identifier: GPL-3.0-or-later
"""EBS snapshots and volumes, also those that EC2 does not know yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ClientError
from spotcache_keeper.aws.machine import LinuxMachine
from spotcache_keeper.aws.volumes import Volumes
from spotcache_keeper.errors import DamagedError, KeeperError
from spotcache_keeper.stores.ebs import EbsStore
from spotcache_keeper.stores.snapshots import source_of
from spotcache_keeper.system.commands import run_command

from tests.unit.keeper.examples import MANIFEST
from tests.unit.keeper.support import FakeMachine


def test_a_snapshot_is_known_by_its_tags() -> None:
    tags = [
        {"Key": "spotcache:environment", "Value": "stg"},
        {"Key": "spotcache:backup", "Value": MANIFEST.id},
        {"Key": "spotcache:verified", "Value": "true"},
        {"Key": "spotcache:keys", "Value": "11"},
    ]
    described = {"SnapshotId": "snap-1", "State": "completed", "Tags": tags}
    found = source_of(described, "stg")
    assert found is not None
    assert (found.usable, found.keys, found.bytes) == (True, 11, None)
    pending = source_of({**described, "State": "pending", "Progress": "40%"}, "stg")
    assert pending is not None
    assert (pending.state, pending.note, pending.usable) == ("pending", "40% done", False)
    foreign = source_of(described, "prod")
    assert foreign is not None
    assert (foreign.state, foreign.usable) == ("foreign", False)
    assert source_of({**described, "Tags": tags[:1]}, "stg") is None
    unverified = source_of({**described, "Tags": tags[:2]}, "stg")
    assert unverified is not None
    assert not unverified.usable


class Ec2:
    """EC2 whose volumes are what a test says."""

    def __init__(self, states: list[str | None], devices: Sequence[str] = ()) -> None:
        self.states = states
        self.devices = devices

    def describe_volumes(self, **arguments: Any) -> Any:
        if "Filters" in arguments:
            rows = [{"VolumeId": "vol-2", "Attachments": [{"Device": device}]} for device in self.devices]
            return {"Volumes": rows}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {"Volumes": [] if state is None else [{"State": state, "Attachments": []}]}

    def attach_volume(self, **arguments: Any) -> None:
        self.attached = arguments["Device"]


def ebs(client: Ec2, timeout: float = 0.2) -> EbsStore:
    return EbsStore(
        lambda: client,
        "stg",
        Path("/srv/redis"),
        Path("/srv/redis/backups"),
        LinuxMachine(run_command),
        timeout,
        sleep=lambda _seconds: None,
    )


def volumes(client: Ec2) -> Volumes:
    return Volumes(lambda: client, timeout=0.2, sleep=lambda _seconds: None)


def test_waiting_for_a_volume() -> None:
    volumes(Ec2(["creating", "creating", "available"])).wait("vol-1", "available")
    with pytest.raises(KeeperError, match="vol-1 came to nothing: EC2 says error"):
        volumes(Ec2(["creating", "error"])).wait("vol-1", "available")
    with pytest.raises(KeeperError, match="it does not exist"):
        volumes(Ec2([None])).wait("vol-1", "available")
    with pytest.raises(KeeperError, match="vol-1 is still creating after 0 s instead of available"):
        volumes(Ec2(["creating"])).wait("vol-1", "available")


def test_a_free_device_name_is_taken() -> None:
    client = Ec2(["in-use"], ["/dev/xvda", "/dev/sdf", "/dev/sdh"])
    ebs(client)._attach("vol-1", "i-1")
    assert client.attached == "/dev/sdg"
    with pytest.raises(KeeperError, match="i-1 has no free device name between /dev/sdf and /dev/sdp"):
        ebs(Ec2(["in-use"], [f"/dev/sd{letter}" for letter in "fghijklmnop"]))._attach("vol-1", "i-1")


class NewToEc2(Ec2):
    """EC2 that does not know a new volume at the first looks, and now and then misses it later."""

    def __init__(self, misses: list[bool]) -> None:
        super().__init__(["available"])
        self.misses = misses
        self.volumes: dict[str, str] = {}

    def look(self, volume: str) -> None:
        if volume not in self.volumes or (self.misses and self.misses.pop(0)):
            answer = {"Error": {"Code": "InvalidVolume.NotFound", "Message": f"{volume} does not exist."}}
            raise ClientError(answer, "DescribeVolumes")

    def create_volume(self, **_arguments: Any) -> Any:
        self.volumes["vol-1"] = "available"
        return {"VolumeId": "vol-1"}

    def describe_volumes(self, **arguments: Any) -> Any:
        if "Filters" in arguments:
            return {"Volumes": []}
        self.look("vol-1")
        attached = [{"InstanceId": "i-1"}] if self.volumes["vol-1"] == "in-use" else []
        return {"Volumes": [{"State": self.volumes["vol-1"], "Attachments": attached}]}

    def attach_volume(self, **_arguments: Any) -> None:
        self.look("vol-1")
        self.volumes["vol-1"] = "in-use"

    def detach_volume(self, **_arguments: Any) -> None:
        self.look("vol-1")
        self.volumes["vol-1"] = "available"

    def delete_volume(self, **_arguments: Any) -> None:
        self.look("vol-1")
        del self.volumes["vol-1"]


@pytest.mark.parametrize("usable", [True, False], ids=["read", "that cannot be mounted"])
@pytest.mark.parametrize("seed", range(8))
def test_a_volume_that_ec2_does_not_know_yet_is_used_and_not_left_behind(seed: int, usable: bool) -> None:
    chance = Random(seed)
    client = NewToEc2([True, True, *(chance.random() < 0.6 for _ in range(30))])
    machine = FakeMachine(Path("/nowhere"))

    @contextmanager
    def mounted(_device: Path) -> Iterator[Path]:
        if not usable:
            raise DamagedError("no filesystem")
        yield Path("/mounted")

    machine.wait_for_volume = lambda *_: Path("/dev/x")  # type: ignore[method-assign]
    machine.mounted = mounted  # type: ignore[method-assign, assignment]
    store = EbsStore(
        lambda: client, "stg", Path("/srv/redis"), Path("/srv/redis/backups"), machine, 5, sleep=lambda _seconds: None
    )
    if usable:
        with store.opened("snap-1") as path:
            assert path == Path("/mounted")
    else:
        with pytest.raises(DamagedError, match="no filesystem"), store.opened("snap-1"):
            pass
    # It is paid for as long as it is there.
    assert client.volumes == {}
