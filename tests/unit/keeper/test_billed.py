# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper's habits ask of AWS that is billed, counted as the sandbox counts, and roles/cost's table of it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from spotcache_cost import habits
from spotcache_fallback_controller.handler import FallbackController
from spotcache_keeper.aws.imds import Imds
from spotcache_keeper.aws.signed import Objects, Signed, role_credentials
from spotcache_keeper.backup import retain
from spotcache_keeper.backup.create import backup
from spotcache_keeper.backup.switch_data import recover
from spotcache_keeper.lease import LeaseStore
from spotcache_keeper.node.renew import LeaseHolder
from spotcache_keeper.stores.retention import Policy

from sandbox.billed import Calls, count
from tests.unit.keeper.support import REGION
from tests.unit.keeper.test_boot import NewHost, lost, record
from tests.unit.keeper.watch_support import World, made_world, moto_server

TABLE = habits.load().counts
CALLS = Calls()


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    end = count(CALLS)
    with moto_server() as endpoint:
        yield endpoint
    end()


@pytest.fixture
def world(tmp_path: Path, moto: str) -> Iterator[World]:
    with made_world(tmp_path / "host", moto) as made:
        yield made


def counted() -> dict[str, int]:
    """What was billed since the last look."""
    return CALLS.taken(reset=True).get("roles", {})


def compare(act: str, found: Mapping[str, float]) -> None:
    """Within a tenth of what the table says, and nothing that it does not know."""
    wanted = TABLE[act]
    said = f"write into requests.json, {act}: {json.dumps(found)}"
    assert found.keys() == wanted.keys(), said
    for key, calls in found.items():
        assert calls == pytest.approx(wanted[key], rel=0.1), said


def hour(world: World) -> dict[str, int]:
    """The lease's renewals of an hour, from ten minutes of it on simulated time."""
    world.watch()
    # More patient than a host, for a machine that is busy with other tests: what is counted are calls, not their times.
    imds = Imds(world.imds.url, timeout=30)
    aws = Signed(REGION, world.endpoint, lambda: role_credentials(imds), timeout=60)
    leases = LeaseStore(Objects(aws, "backups"), world.host.config.shared_prefix)
    outside = replace(world.outside, imds=imds, aws=aws, leases=leases)
    context = world.host.context(clock=lambda: world.clock, guard=world.guard, leases=leases, boot_id=outside.boot_id)
    holder = LeaseHolder(context, outside)
    holder.renew()
    assert world.guard.open_until is not None, holder.trouble
    counted()
    until = world.clock + 600
    while (due := world.clock + holder.pause()) <= until:
        world.clock = due
        assert holder.proved, "the lease was over before it was renewed"
        holder.renew()
        assert holder.trouble == ""
    return {key: calls * 6 for key, calls in counted().items()}


def test_an_idle_hour(world: World) -> None:
    world.host.fill("one")
    compare("idle", hour(world))


def lock_the_bucket(world: World) -> None:
    """Make the bucket once more, as the role keeper makes one."""
    s3 = world.client("s3")
    s3.delete_bucket(Bucket="backups")
    s3.create_bucket(
        Bucket="backups", CreateBucketConfiguration={"LocationConstraint": REGION}, ObjectLockEnabledForBucket=True
    )


def backed_up(world: World) -> dict[str, int]:
    """What a backup by the timer is billed on a host that has the lease, as every host has."""
    counted()
    context = world.host.context(leases=world.outside.leases, boot_id=world.outside.boot_id)
    recover(context)
    assert backup(context, "timer").problems == []
    return counted()


def looked(world: World, policy: Policy) -> dict[str, int]:
    """What the function that gives up backups is billed, once."""
    counted()
    warnings: list[str] = []
    retain.prune({world.host.s3: policy}, world.outside.leases, world.host.context().now(), warnings)
    assert warnings == []
    return counted()


def less(more: Mapping[str, int], fewer: Mapping[str, int]) -> dict[str, int]:
    """What the one has beyond the other."""
    return {key: more[key] - fewer.get(key, 0) for key in more if more[key] != fewer.get(key, 0)}


def test_a_backup_and_a_look_of_what_gives_backups_up(world: World) -> None:
    lock_the_bucket(world)
    hour(world)
    all_of_them = Policy(24, 7, 4)
    taken, looks = [], []
    for number in range(3):
        world.host.fill(str(number))
        taken.append(backed_up(world))
        looks.append(looked(world, all_of_them))
    assert taken[1] == taken[2]
    compare("backup", taken[2])
    kept = less(looks[2], looks[1])
    compare("kept", kept)
    compare("look", less(looks[2], {key: 3 * calls for key, calls in kept.items()}))
    gone = looked(world, Policy(2, 0))
    assert len(world.host.s3.ids()) == 2
    compare("given_up", less(gone, looks[2]))
    # Today's first is locked once, and looked at each time.
    locks = replace(all_of_them, first_days=14)
    fewer, locking, again = looked(world, all_of_them), looked(world, locks), looked(world, locks)
    compare("lock", less(locking, again))
    compare("locked", less(again, fewer))


def test_the_end_of_a_host(world: World) -> None:
    world.host.fill("one")
    world.host.backup("timer")
    hour(world)
    world.imds.notice()
    watch = world.watch()
    counted()
    watch.step()
    assert watch.drain is not None
    assert watch.drain.over
    compare("end", counted())


def test_the_begin_of_the_next_host(world: World) -> None:
    world.host.fill("one")
    final = world.host.backup("final").manifest.id
    lease, _ = lost(world, zone="ap-northeast-1c")
    record(world, lease, final)
    new = NewHost(world)
    counted()
    assert new.boot().run().what == "restored"
    compare("begin", counted())


def test_a_restore(world: World) -> None:
    world.host.fill("one")
    kept = world.host.backup("timer").manifest.id
    world.host.fill("two")
    # From S3, as on a host that has it no more.
    shutil.rmtree(world.host.backups / kept)
    counted()
    world.host.restore(kept, force=True)
    compare("restore", counted())


def test_a_day_of_working_hours_the_night_and_the_morning_after_it(world: World) -> None:
    """Together, as they follow each other: what acts add up to is what really happens. The day is a short one."""
    lock_the_bucket(world)
    policy = Policy(24, 7, 4, first_days=14)
    world.host.fill("today")
    hours, per_hour = 1, 4
    found = Counter(hour(world))
    for _ in range(hours * per_hour):
        found += Counter(backed_up(world))
        found += Counter(looked(world, policy))
    world.imds.notice()
    watch = world.watch()
    counted()
    watch.step()
    assert watch.drain is not None
    assert watch.drain.over
    found += Counter(counted())
    table = habits.load()
    there = len(world.host.s3.ids())
    night = Counter[str]()
    for _ in range(13):
        night += Counter(looked(world, policy))
    lease, _ = lost(world, zone="ap-northeast-1c")
    record(world, lease, max(world.host.s3.ids()))
    new = NewHost(world)
    counted()
    assert new.boot().run().what == "restored"
    found += Counter(counted())
    # While it fills; the evening's own backup is in the act of the end.
    wanted = table.day(hours, per_hour, (1 + per_hour) / 2)
    assert found.keys() == wanted.keys()
    for key, calls in wanted.items():
        assert found[key] == pytest.approx(calls, rel=0.1), (key, dict(found), wanted)
    wanted = table.night(13, 1, there, 1)
    assert night.keys() == wanted.keys()
    for key, calls in wanted.items():
        assert night[key] == pytest.approx(calls, rel=0.1), (key, dict(night), wanted)


def test_the_fallback_controller_asks_s3_nothing_at_night(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each minute of every night, with a volume that is kept: a list and five objects would cost 0.19 USD a month."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", world.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    world.host.fill("one")
    world.host.backup("final")
    ec2 = world.client("ec2")
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "spotcache:environment", "Value": world.host.environment}]}]
    ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8, TagSpecifications=tags)
    scaling = world.client("autoscaling")
    image = ec2.register_image(Name="host", RootDeviceName="/dev/xvda")["ImageId"]
    scaling.create_launch_configuration(LaunchConfigurationName="t", ImageId=image, InstanceType="t3.micro")
    scaling.create_auto_scaling_group(
        AutoScalingGroupName="spotcache-t",
        LaunchConfigurationName="t",
        MinSize=0,
        MaxSize=1,
        DesiredCapacity=0,
        AvailabilityZones=[f"{REGION}a"],
    )
    controller = FallbackController(
        {
            "SPOTCACHE_ENVIRONMENT": world.host.environment,
            "GROUP": "spotcache-t",
            "FALLBACK_GROUP": "spotcache-t-on-demand",
            "FALLBACK": "true",
            "RETURN_VOLUME": "false",
            "SUPERSEDED_DAYS": "7",
            "BUCKET": "backups",
            "PREFIX": "",
        }
    )
    counted()
    assert controller.reconcile()["superseded"] == []
    assert counted() == {}
