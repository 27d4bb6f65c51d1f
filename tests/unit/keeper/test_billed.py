# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper's habits ask of AWS that is billed, counted as the sandbox counts, and roles/cost's table of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from spotcache_cost import habits
from spotcache_keeper.aws.imds import Imds
from spotcache_keeper.aws.signed import Objects, Signed, role_credentials
from spotcache_keeper.backup import retain
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


def test_a_backup_and_what_each_one_that_is_kept_adds(world: World) -> None:
    found, looked = [], []
    for number in range(3):
        world.host.fill(str(number))
        counted()
        world.host.backup("timer")
        found.append(counted())
        # The function that gives up older ones looks at each, as often as backups are taken by default.
        retain.prune({world.host.s3: Policy(24, 7, 4)}, world.outside.leases, world.host.context().now(), [])
        looked.append(counted())
    more = {key: looked[2][key] - looked[1][key] for key in looked[2] if looked[2][key] != looked[1][key]}
    compare("kept", more)
    assert found[1] == found[2]
    compare("backup", {key: found[2][key] + looked[2][key] - 3 * more.get(key, 0) for key in found[2]})


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
