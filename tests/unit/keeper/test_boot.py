"""A host that boots: whose turn it is, where its data comes from, and what people are told."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from spotcache_keeper.aws.clients import AwsError
from spotcache_keeper.aws.signed import ConflictError
from spotcache_keeper.config import Secret
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError, UnreadableError
from spotcache_keeper.interruption import SPOT, Interruption
from spotcache_keeper.lease import FinalRecord, Lease, LeaseStore
from spotcache_keeper.node import boot as boot_module
from spotcache_keeper.node import data_volume as disks_module
from spotcache_keeper.node.acquire import Acquirer, Predecessor
from spotcache_keeper.node.boot import Boot, BootResult
from spotcache_keeper.node.data_volume import Disks
from spotcache_keeper.node.drain import begin
from spotcache_keeper.node.journal import Lines
from spotcache_keeper.overview import make_status, status_table
from spotcache_keeper.stores.s3 import S3Store
from spotcache_keeper.system.commands import Completed
from spotcache_keeper.system.state import BOOT, CRASH, SERVING, begin_anew, recall, save_state

from dev.keeper_json import KEEPER_JSON
from tests.unit.keeper.support import ZONE, FakeMachine, TestHost, replace_bytes
from tests.unit.keeper.watch_support import HOST, World, made_world, moto_server

OTHER_ZONE = "ap-northeast-1c"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def world(tmp_path: Path, moto: str) -> Iterator[World]:
    with made_world(tmp_path / "host", moto) as made:
        yield made


@dataclass
class NewHost:
    """A host in moto's EC2 that boots in the place of the one that was lost.

    EBS volumes are directories: the mounted one is `volume` of the host, the others lie beside it under their ids.
    """

    world: World
    zone: str = ZONE
    blank: str = ""
    mounted: str = ""
    instance: str = ""
    commands: list[list[str]] = field(default_factory=list)
    boot_id: str = "boot-of-the-new-host"
    # The filesystem of the volumes that have one.
    kind: str = "ext4"

    def __post_init__(self) -> None:
        ec2 = self.world.client("ec2")
        self.instance = launch(self.world, self.zone)
        self.blank = ec2.create_volume(AvailabilityZone=self.zone, Size=8, VolumeType="gp3")["VolumeId"]
        ec2.attach_volume(VolumeId=self.blank, InstanceId=self.instance, Device="/dev/sdf")
        machine = self.host.machine
        machine.instance_id, machine.zone, machine.mounted_volume = self.instance, self.zone, False
        machine.volume_id = lambda path: self.mounted  # type: ignore[method-assign]
        self.host.config = replace(
            self.host.config, timeouts=replace(self.host.config.timeouts, handover=2), dns_name="redis.stg.example"
        )

    @property
    def host(self) -> TestHost:
        return self.world.host

    def aside(self, volume: str) -> Path:
        """Where an unmounted volume's content is."""
        return self.host.directory / volume

    def run(self, argv: Sequence[str], *, timeout: float) -> Completed:  # noqa: ARG002
        """blkid, mkfs, mount and umount."""
        self.commands.append(list(argv))
        volume = Path(argv[-1]).name
        if argv[0] == "blkid":
            known = self.aside(volume).exists()
            label = KEEPER_JSON["volume_labels"][self.kind]
            return Completed(0 if known else 2, f"LABEL={label}\nTYPE={self.kind}\n" if known else "", "")
        if argv[0].startswith("mkfs"):
            assert not self.aside(volume).exists()
            self.aside(volume).mkdir()
        elif argv[0] == "mount":
            volume = Path(argv[-2]).name
            if self.host.volume_path.exists():
                self.host.volume_path.rmdir()
            self.aside(volume).rename(self.host.volume_path)
            self.mounted, self.host.machine.mounted_volume = volume, True
        elif argv[0] == "umount":
            self.host.volume_path.rename(self.aside(self.mounted))
            self.mounted, self.host.machine.mounted_volume = "", False
        return Completed(0, "", "")

    def boot(self, **config: Any) -> Boot:
        self.host.config = replace(self.host.config, **config)
        outside = replace(self.world.outside, boot_id=self.boot_id)
        context = self.host.context(sleep=lambda _s: time.sleep(0.05), leases=outside.leases, guard=self.world.guard)
        say = Lines(context, self.world.said.append, BOOT)
        disks = Disks(context, outside, self.run, self.host.directory / "fstab", sleep=lambda _s: None)
        return Boot(context, outside, say, Acquirer(context, outside, say), disks)


def launch(world: World, zone: str) -> str:
    """An instance."""
    ec2 = world.client("ec2")
    image = ec2.register_image(Name=f"host-{time.monotonic_ns()}", RootDeviceName="/dev/xvda")["ImageId"]
    run = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, Placement={"AvailabilityZone": zone})
    return str(run["Instances"][0]["InstanceId"])


def lost(world: World, *, zone: str = ZONE, terminate: bool = True, clean: bool = False) -> tuple[Lease, str]:
    """Lose the host of the world: its Redis is gone, its volume stays; gives its lease and the volume."""
    ec2 = world.client("ec2")
    before = launch(world, zone)
    volume = ec2.create_volume(AvailabilityZone=zone, Size=8, VolumeType="gp3")["VolumeId"]
    if clean:
        world.host.engine.stop(5)
    else:
        world.host.engine.kill()
    world.host.volume_path.rename(world.host.directory / volume)
    lease = Lease(before, zone=zone, volume=volume)
    world.outside.leases.write_lease(lease, world.outside.leases.lease())
    if terminate:
        ec2.terminate_instances(InstanceIds=[before])
    return lease, volume


def record(world: World, lease: Lease, backup: str, *, complete: bool = True) -> None:
    """What the lost host left."""
    world.outside.leases.write_final(
        FinalRecord(
            lease.host,
            zone=lease.zone,
            volume=lease.volume,
            backup=backup,
            complete=complete,
            off_host=True,
            term=lease.term,
            fenced=True,
        )
    )


# --- where the data comes from


def test_a_kept_volume_in_the_same_zone_is_taken_over(world: World) -> None:
    world.host.fill("one")
    one = world.host.content()
    final = world.host.backup("final").manifest.id
    # As Redis does when it is stopped: other bytes than those of the backup, with the same data.
    time.sleep(1.1)
    with world.host.client() as client:
        client.save()
    lease, volume = lost(world)
    record(world, lease, final)
    # It did not come to S3, or somebody removed it there.
    world.host.s3.remove(final)
    new = NewHost(world)
    result = new.boot().run()
    assert (result.what, result.source, result.lost, result.before) == (
        "restored",
        f"final backup {final} (the kept volume)",
        "",
        lease.host,
    )
    assert world.host.content() == one
    assert new.mounted == volume
    attached = world.client("ec2").describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"][0]
    assert (attached["InstanceId"], attached["Device"]) == (new.instance, "/dev/sdf")
    # The one it came with is left to be had by whoever wants it: a host deletes no data volume.
    assert world.client("ec2").describe_volumes(VolumeIds=[new.blank])["Volumes"][0]["State"] == "available"
    held = world.outside.leases.lease()
    assert held is not None
    assert (held.lease.host, held.lease.volume) == (new.instance, volume)
    assert "LABEL=spotcache-data" in (world.host.directory / "fstab").read_text()
    [message] = world.told()
    assert (message["level"], message["fields"]["Lost"]) == ("good", "nothing")
    assert "Redis is back" in message["title"]
    status = make_status(world.host.context())
    assert "took over the volume" in status_table(status, world.host.context().now())
    assert status["last_restore"]["id"] == final
    # One such folder for each host would fill the volume in the end.
    assert list(world.host.directory.rglob("replaced-*")) == []


@contextmanager
def world_with_append_only_file(directory: Path, moto: str) -> Iterator[World]:
    """A world whose Redis writes everything to its append-only file as well."""
    with made_world(directory, moto) as world:
        world.host.engine.kill()
        world.host.appendonly = True
        shutil.rmtree(world.host.directory)
        world.host.redis_directory.mkdir(parents=True)
        config = world.host.config
        world.host.__post_init__()
        world.host.config = replace(config, appendonly=True)
        world.host.s3 = S3Store(lambda: world.client("s3"), "backups", world.host.config.s3_prefix, "stg")
        world.host.start()
        yield world


@pytest.mark.parametrize("appendonly", [False, True])
def test_files_that_another_server_could_read_are_not_passed_over_for_an_older_backup(
    tmp_path: Path, moto: str, appendonly: bool
) -> None:
    made = world_with_append_only_file if appendonly else made_world
    with made(tmp_path / "host", moto) as world:
        world.host.fill("one", keys=5)
        world.host.backup()
        time.sleep(1.1)
        world.host.fill("two", keys=5)
        with world.host.client() as client:
            if appendonly:
                # What it begins with is an RDB.
                client.bgrewriteaof()
                while client.info("persistence")["aof_rewrite_in_progress"]:
                    time.sleep(0.05)
            else:
                client.save()
        time.sleep(1.2)
        _lease, volume = lost(world)
        name = "appendonlydir/*.base.rdb" if appendonly else "dump.rdb"
        [path] = (world.host.directory / volume / "redis").glob(name)
        replace_bytes(path, b"REDIS0099" + path.read_bytes()[9:])
        new = NewHost(world)
        with pytest.raises(
            UnreadableError, match=r"RDB version 99, which this host's server cannot read: (Redis|Valkey) "
        ):
            new.boot().run()
        state = world.host.engine.state()
        assert state is not None
        assert not state.running
        assert path.name in [found.name for found in world.host.redis_directory.rglob("*.rdb")]


def test_the_append_only_file_of_a_kept_volume_is_newer_than_every_backup(tmp_path: Path, moto: str) -> None:
    with world_with_append_only_file(tmp_path / "host", moto) as world:
        world.host.fill("one", keys=5)
        world.host.backup()
        time.sleep(1.1)
        with world.host.client() as client:
            client.set("since", "the backup")
        time.sleep(1.2)
        content = world.host.content()
        lost(world)
        result = NewHost(world).boot().run()
        assert result.what == "took over the volume"
        assert "append-only file" in result.source
        assert "last second" in result.lost
        assert world.host.content() == content
        [message] = world.told()
        assert message["level"] == "warning"


def test_a_volume_is_not_waited_for_when_the_complete_final_backup_is_in_s3(world: World) -> None:
    world.host.fill("one")
    one = world.host.content()
    final = world.host.backup("final").manifest.id
    lease, volume = lost(world, terminate=False)
    # EC2 lets go of it only when the old host has ended.
    world.client("ec2").attach_volume(VolumeId=volume, InstanceId=lease.host, Device="/dev/sdf")
    record(world, lease, final)
    new = NewHost(world)
    result = new.boot(timeouts=replace(world.host.config.timeouts, volume=30, handover=2)).run()
    assert (result.source, result.lost, result.before) == (f"final backup {final} (S3)", "", lease.host)
    assert world.host.content() == one
    assert new.mounted == new.blank
    # Not even tried: what cannot be had in time would give way to S3 as well, after that time.
    assert not [line for line in world.said if "taken over" in line]
    [attachment] = world.client("ec2").describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"]
    assert attachment["InstanceId"] == lease.host


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_kept_volume_is_found_again_at_every_further_boot(world: World, kind: str) -> None:
    world.host.fill("kept")
    world.host.backup()
    lost(world)
    new = NewHost(world, kind=kind)
    fstab = world.host.directory / "fstab"
    config = world.host.config
    fstab.write_text(f"UUID=1 / ext4 defaults 0 1\nLABEL=other {config.volume_path} vfat defaults 0 0\n")
    # Whoever had them before: on Debian 999 is a group that others are in.
    world.host.machine.owners = (999, 999)
    new.boot().run()
    options = config.mount_options[kind]
    assert fstab.read_text() == (
        f"UUID=1 / ext4 defaults 0 1\nLABEL={config.volume_labels[kind]} {config.volume_path} {kind} {options} 0 0\n"
    )
    (mount,) = (argv for argv in new.commands if argv[0] == "mount")
    assert mount[1:3] == ["-t", kind]
    assert ("nouuid" in mount[4].split(",")) == (kind == "xfs")
    given = world.host.machine.given
    assert given[str(config.redis_directory)] == (6379, 6379)
    assert given[str(config.redis_directory / "dump.rdb")] == (6379, 6379)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_blank_volume_gets_the_filesystem_that_was_chosen(world: World, kind: str) -> None:
    lost(world)
    new = NewHost(world, zone=OTHER_ZONE, kind=kind)
    new.boot(volume_filesystem=kind, allow_empty=True).run()
    label = world.host.config.volume_labels[kind]
    (made,) = (argv for argv in new.commands if argv[0].startswith("mkfs"))
    assert made[:3] == [f"mkfs.{kind}", "-L", label]
    assert f"LABEL={label} " in (world.host.directory / "fstab").read_text()


def test_a_volume_in_another_zone_is_left_and_the_final_backup_comes_from_s3(world: World) -> None:
    world.host.fill("one")
    one = world.host.content()
    final = world.host.backup("final").manifest.id
    lease, volume = lost(world, zone=OTHER_ZONE)
    record(world, lease, final)
    new = NewHost(world)
    result = new.boot().run()
    assert (result.source, result.lost) == (f"final backup {final} (S3)", "")
    assert world.host.content() == one
    assert new.mounted == new.blank
    assert ["mkfs.ext4", "-L", "spotcache-data", f"/dev/{new.blank}"] in new.commands
    assert world.client("ec2").describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available"
    # The timer may back up here now: this is the environment's data.
    assert world.host.backup("timer").manifest.keys == 900


def test_a_volume_that_cannot_be_used_gives_way_to_the_hosts_own(world: World) -> None:
    world.host.fill("one")
    world.host.backup()
    _, volume = lost(world)
    shutil.rmtree(world.host.directory / volume)
    new = NewHost(world)
    result = new.boot().run()
    assert result.source.endswith("(S3)")
    assert new.mounted == new.blank
    assert [line for line in world.said if "holds no filesystem" in line]
    assert world.client("ec2").describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available"


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_bad_source_is_set_aside_and_the_next_one_tried(world: World, damage: str) -> None:
    world.host.fill("one")
    one = world.host.content()
    first = world.host.backup().manifest.id
    world.host.fill("two")
    second = world.host.backup().manifest.id
    s3 = world.client("s3")
    key = f"stg/backups/{second}/dump.rdb"
    body = bytearray(s3.get_object(Bucket="backups", Key=key)["Body"].read())
    body[len(body) // 2] ^= 1
    s3.put_object(Bucket="backups", Key=key, Body=bytes(body if damage == "flipped" else body[:-100]))
    _, volume = lost(world, zone=OTHER_ZONE)
    result = NewHost(world).boot().run()
    assert any(f"{volume} of the host before is in {OTHER_ZONE}" in line for line in world.said)
    assert result.backup == first
    assert "what was written after" in result.lost
    assert world.host.content() == one
    [message] = world.told()
    assert message["level"] == "warning"
    assert message["fields"]["Lost"] == result.lost
    # Nothing is deleted or overwritten because of that.
    assert {source.id for source in world.host.s3.sources()} == {first, second}


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_copy_in_s3_gives_way_to_that_on_the_volume_that_was_not_waited_for(
    world: World, damage: str
) -> None:
    world.host.fill("one")
    one = world.host.content()
    world.host.backup()
    world.host.fill("two")
    two = world.host.content()
    final = world.host.backup("final").manifest.id
    lease, volume = lost(world)
    record(world, lease, final)
    s3 = world.client("s3")
    key = f"stg/backups/{final}/dump.rdb"
    body = bytearray(s3.get_object(Bucket="backups", Key=key)["Body"].read())
    body[len(body) // 2] ^= 1
    s3.put_object(Bucket="backups", Key=key, Body=bytes(body if damage == "flipped" else body[:-50]))
    new = NewHost(world)
    result = new.boot().run()
    assert (result.source, result.lost) == (f"final backup {final} (the kept volume)", "")
    assert new.mounted == volume
    assert world.host.content() == two != one


@pytest.mark.parametrize("final", [False, True])
def test_a_backup_that_a_newer_server_made_is_not_passed_over(world: World, final: bool) -> None:
    world.host.fill("one")
    world.host.backup()
    world.host.fill("two")
    newest = world.host.backup("final" if final else "manual").manifest.id
    lease, _volume = lost(world, zone=ZONE if final else OTHER_ZONE)
    if final:
        record(world, lease, newest)
    s3, folder = world.client("s3"), f"stg/backups/{newest}"

    def stored(name: str) -> bytes:
        return bytes(s3.get_object(Bucket="backups", Key=f"{folder}/{name}")["Body"].read())

    before = stored("dump.rdb")
    rdb = b"REDIS0099" + before[9:]
    manifest = stored("manifest.json").replace(
        hashlib.sha256(before).hexdigest().encode(), hashlib.sha256(rdb).hexdigest().encode()
    )
    for name, body in (("dump.rdb", rdb), ("manifest.json", manifest)):
        s3.put_object(Bucket="backups", Key=f"{folder}/{name}", Body=body)
    new = NewHost(world)
    with pytest.raises(
        KeeperError, match=r"RDB version 99, which this host's server cannot read: .*redis_engine: (redis|valkey)"
    ):
        new.boot().run()
    # Nothing else is tried: whatever there is, is older. And an older one is nothing that anybody asked for.
    assert [line for line in world.said if "cannot be used" in line or "took over" in line] == []
    state = world.host.engine.state()
    assert state is not None
    assert not state.running


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_with_damaged_backups_only_redis_stays_down_unless_that_is_allowed(world: World, damage: str) -> None:
    world.host.fill("one")
    backup = world.host.backup().manifest.id
    lost(world, zone=OTHER_ZONE)
    s3, key = world.client("s3"), f"stg/backups/{backup}/dump.rdb"
    body = bytearray(s3.get_object(Bucket="backups", Key=key)["Body"].read())
    body[len(body) // 2] ^= 1
    s3.put_object(Bucket="backups", Key=key, Body=bytes(body if damage == "flipped" else body[:-50]))
    new = NewHost(world)
    with pytest.raises(KeeperError, match=rf"{backup}.*Redis is not started.*keeper_allow_empty"):
        new.boot().run()
    result = new.boot(allow_empty=True).run()
    assert result.what == "began empty"
    assert backup in " ".join(result.skipped)
    assert world.host.content() == {}


def test_with_nothing_to_restore_redis_stays_down_unless_that_is_allowed(world: World) -> None:
    lost(world, zone=OTHER_ZONE)
    new = NewHost(world)
    boot = new.boot()
    with pytest.raises(KeeperError, match=r"Redis is not started.*keeper_allow_empty"):
        boot.run()
    assert world.host.engine.state() is not None
    assert not world.host.engine.state().running  # type: ignore[union-attr]
    boot.notify_failure("there is no backup")
    # Started again, as systemd does, with the permission.
    result = new.boot(allow_empty=True).run()
    assert result.what == "began empty"
    assert "everything" in result.lost
    assert [message["level"] for message in world.told()] == ["error", "warning"]
    assert world.host.backup("timer").manifest.keys == 0


def test_a_host_that_serves_already_goes_on(world: World) -> None:
    world.host.fill("one")
    world.host.backup()
    new = NewHost(world)
    new.mounted, world.host.machine.mounted_volume = new.blank, True
    result = new.boot().run()
    assert result.what == "served already"
    assert new.commands == []
    assert world.told() == []


def test_a_host_that_was_only_started_anew_goes_on_with_its_own_data(world: World) -> None:
    world.host.fill("one")
    world.host.backup()
    one = world.host.content()
    new = NewHost(world)
    new.mounted, world.host.machine.mounted_volume = new.blank, True
    world.outside.leases.write_lease(Lease(new.instance, volume=new.blank), None)
    world.host.engine.kill()
    assert new.boot().run().lost == ""
    assert world.host.content() == one


def crashed(world: World) -> NewHost:
    """A host that went down without a shutdown; the engine has started its Redis again."""
    world.host.fill("one")
    world.host.backup()
    new = NewHost(world)
    new.mounted, world.host.machine.mounted_volume = new.blank, True
    world.outside.leases.write_lease(Lease(new.instance, volume=new.blank, term=2), None)
    directory = world.host.config.state_directory
    save_state(directory, SERVING, host=new.instance, term=2, boot="an earlier boot", run="")
    save_state(directory, CRASH, boot="an earlier boot", since="2026-11-22T00:15:00Z")
    return new


def test_what_a_crash_took_is_told_although_redis_served_already(world: World) -> None:
    result = crashed(world).boot().run()
    assert (result.what, result.before) == ("served already", "")
    [message] = world.told()
    assert (message["level"], message["fields"]["Lost"]) == (
        "warning",
        "what was written after 2026-11-22T00:15:00Z",
    )


@pytest.mark.parametrize("mine", [True, False], ids=["of the host before", "of an earlier host"])
def test_what_a_crash_took_of_the_host_before_is_told_from_its_volume(world: World, mine: bool) -> None:
    """It went down, began with what was on its disk, and saved that when it was ended before anybody was told."""
    world.host.fill("one")
    with world.host.client() as client:
        client.save()
    lease, volume = lost(world)
    note = {"host": lease.host if mine else "i-0", "boot": "earlier", "since": "2026-11-22T00:15:00Z"}
    noted = world.host.directory / volume / "crashed.json"
    noted.write_text(json.dumps(note))
    result = NewHost(world).boot().run()
    assert result.what == "took over the volume"
    if mine:
        assert result.lost == "what was written after 2026-11-22T00:15:00Z"
    else:
        assert result.lost == f"what was written after {result.created}"
    # From here on it stands in the lease, until people were told.
    assert not (world.host.volume_path / "crashed.json").exists()


def test_what_a_crash_took_is_told_by_the_boot_after_one_that_was_killed(world: World) -> None:
    new = crashed(world)

    class Kill(BaseException):
        pass

    def killed(_result: BootResult) -> None:
        raise Kill

    boot = new.boot()
    setattr(boot, "_move_name", killed)  # noqa: B010 - a method of this one only
    with pytest.raises(Kill):
        boot.run()
    assert world.guard.open_until is not None
    assert world.told() == []
    assert new.boot().run().what == "served already"
    [message] = world.told()
    assert message["fields"]["Lost"] == "what was written after 2026-11-22T00:15:00Z"
    # Nobody tells it again.
    held = world.outside.leases.lease()
    assert held is not None
    assert held.lease.lost == ""


# --- secrets and the name


def test_secrets_are_fetched_at_every_boot_and_belong_to_whom_they_should(world: World) -> None:
    world.client("ssm").put_parameter(Name="/spotcache/stg/redis", Value="requirepass x\n", Type="SecureString")
    path = world.host.directory / "etc" / "secrets.conf"
    world.host.fill("one")
    world.host.backup()
    lost(world)
    new = NewHost(world)
    secret = Secret(path, "/spotcache/stg/redis", 0o400, 999, 999)
    new.boot(secrets=(secret,)).run()
    assert path.read_text() == "requirepass x\n"
    assert path.stat().st_mode & 0o777 == 0o400
    assert world.host.machine.given[str(path.with_name(".secrets.conf.new"))] == (999, 999)
    assert "requirepass" not in "".join(world.said)
    # One that was not is not written anew: each file that is dropped leaves its blocks for later images.
    with path.open() as old:
        new.boot(secrets=(secret,)).run()
        assert os.fstat(old.fileno()).st_ino == path.stat().st_ino
        # A password that was changed meanwhile is taken up by the next boot, and the old one is in no block any more.
        world.client("ssm").put_parameter(
            Name="/spotcache/stg/redis", Value="requirepass y\n", Type="SecureString", Overwrite=True
        )
        new.boot(secrets=(secret,)).run()
        assert path.read_text() == "requirepass y\n"
        assert set(old.read()) == {"\0"}
    # Without SSM a host goes on with what it has; without either it does not.
    world.client("ssm").delete_parameter(Name="/spotcache/stg/redis")
    new.boot(secrets=(secret,)).run()
    assert path.read_text() == "requirepass y\n"
    path.unlink()
    with pytest.raises(KeeperError, match="/spotcache/stg/redis"):
        new.boot(secrets=(secret,)).run()


def test_the_name_moves_and_that_it_could_not_is_told(world: World) -> None:
    route53 = world.client("route53")
    zone = route53.create_hosted_zone(Name="stg.example", CallerReference="x")["HostedZone"]["Id"].split("/")[-1]
    world.host.fill("one")
    world.host.backup()
    lost(world)
    new = NewHost(world)
    new.boot(dns_zone_id=zone).run()
    records = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    found = next(entry for entry in records if entry["Type"] == "A")
    assert (found["Name"], found["TTL"], found["ResourceRecords"]) == (
        "redis.stg.example.",
        10,
        [{"Value": "10.0.0.7"}],
    )
    result = new.boot(dns_zone_id="ZNOTHING").run()
    assert any("clients are not sent here" in problem for problem in result.problems)


# --- whose turn it is


def acquirer_of(world: World, host: str, **timeouts: int) -> tuple[Acquirer, list[str]]:
    """A host that boots: another one, or the world's own again."""
    machine = FakeMachine(world.host.directory)
    machine.instance_id = host
    config = replace(
        world.host.config,
        timeouts=replace(world.host.config.timeouts, **timeouts),
        # No two hosts write the same files.
        state_directory=world.host.config.state_directory if host == HOST else world.host.directory / host,
    )
    context: Context = world.host.context(machine=machine, config=config, sleep=lambda _s: time.sleep(0.05))
    said: list[str] = []
    return Acquirer(context, world.outside, said.append), said


def in_background(acquirer: Acquirer) -> tuple[threading.Thread, list[Predecessor]]:
    """Acquire the lease in a thread."""
    got: list[Predecessor] = []
    thread = threading.Thread(target=lambda: got.append(acquirer.acquire()), daemon=True)
    thread.start()
    return thread, got


def test_of_two_hosts_that_boot_at_once_one_serves(world: World) -> None:
    world.host.fill("one")
    lost(world)
    hosts = [launch(world, ZONE) for _ in range(2)]
    acquirers = [acquirer_of(world, host) for host in hosts]
    threads = [in_background(acquirer) for acquirer, _ in acquirers]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(
        " serves this environment" in line for _, said in acquirers for line in said
    ):
        time.sleep(0.05)
    winners = [bool(got) for _, got in threads]
    assert sorted(winners) == [False, True]
    winner, loser = hosts[winners.index(True)], winners.index(False)
    held = world.outside.leases.lease()
    assert held is not None
    assert held.lease.host == winner
    assert any(f"waiting: {winner} serves this environment" in line for line in acquirers[loser][1])
    # When that one is lost as well, the other serves.
    world.client("ec2").terminate_instances(InstanceIds=[winner])
    threads[loser][0].join(30)
    before = threads[loser][1][0].lease
    assert before is not None
    assert before.host == winner


def test_a_dead_hosts_lease_is_taken_at_once(world: World) -> None:
    lease, _ = lost(world)
    acquirer, said = acquirer_of(world, launch(world, ZONE))
    begun = time.monotonic()
    before = acquirer.acquire()
    assert time.monotonic() - begun < 2
    assert before.lease is not None
    assert before.lease.host == lease.host
    assert said == []


def test_what_a_dead_host_had_waited_for_is_waited_for_by_the_next_one(world: World) -> None:
    """It was lost before it served: a host further back may still go by its own lease."""
    lease, _ = lost(world, terminate=False)
    leases = world.outside.leases
    begun = time.monotonic()
    leases.write_lease(replace(lease, outlast=4), leases.lease())
    acquirer, said = acquirer_of(world, launch(world, ZONE))
    world.client("ec2").terminate_instances(InstanceIds=[lease.host])
    assert acquirer.state_of(lease.host) == "terminated"
    acquirer.acquire()
    assert 2.5 < time.monotonic() - begun < 8
    assert "may still go by it" in said[-1]
    held = leases.lease()
    assert held is not None
    assert held.lease.outlast > 0


def test_what_a_host_waited_for_stands_in_its_lease_until_it_serves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.host.fill("one")
    world.host.backup("final")
    lease, _ = lost(world)
    leases = world.outside.leases
    leases.write_lease(replace(lease, outlast=3), leases.lease())
    written: list[Lease] = []
    write = LeaseStore.write_lease

    def watched(store: LeaseStore, lease: Lease, over: Any) -> None:
        written.append(lease)
        write(store, lease, over)

    monkeypatch.setattr(LeaseStore, "write_lease", watched)
    NewHost(world).boot().run()
    assert len(written) > 1
    # The one that says on which volume the data is lets clients in.
    assert [bool(one.outlast) for one in written] == [not one.volume for one in written]


def test_a_hung_hosts_lease_ends(world: World) -> None:
    lease, _ = lost(world, terminate=False)
    leases = world.outside.leases
    # The lease runs from here on, and S3's clock has whole seconds.
    begun = time.monotonic()
    leases.write_lease(replace(lease, seconds=3), leases.lease())
    acquirer, said = acquirer_of(world, launch(world, ZONE))
    assert acquirer.acquire().lease is not None
    assert 2 < time.monotonic() - begun < 7
    assert len(said) == 1


def test_when_ec2_does_not_say_only_the_end_of_the_lease_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lost(world)
    leases = world.outside.leases
    held = leases.lease()
    assert held is not None
    begun = time.monotonic()
    leases.write_lease(replace(held.lease, seconds=3), held)
    acquirer, said = acquirer_of(world, launch(world, ZONE))
    monkeypatch.setattr(acquirer, "state_of", lambda _host: "")
    acquirer.acquire()
    assert time.monotonic() - begun > 2
    assert "since EC2 does not say how it is" in said[0]


def test_a_host_that_ec2_does_not_find_may_still_serve(world: World) -> None:
    """EC2 may not know a new host yet, or miss an old one in an answer: two hosts would take writes."""
    held = world.outside.leases.lease()
    begun = time.monotonic()
    world.outside.leases.write_lease(Lease("i-0123456789abcdef0", zone=ZONE, seconds=3), held)
    acquirer, said = acquirer_of(world, launch(world, ZONE))
    assert acquirer.acquire().lease is not None
    assert time.monotonic() - begun > 2
    assert "since EC2 does not say how it is" in said[0]


def test_the_last_words_of_a_host_that_is_being_ended_are_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.host.fill("one")
    final = world.host.backup("final").manifest.id
    lease, _ = lost(world, terminate=False)
    acquirer, said = acquirer_of(world, launch(world, ZONE), handover=60)
    monkeypatch.setattr(acquirer, "state_of", lambda _host: "shutting-down")
    thread, got = in_background(acquirer)
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        time.sleep(0.05)
    assert said
    assert not got
    record(world, lease, final)
    thread.join(30)
    assert got[0].final is not None
    assert got[0].final.backup == final
    assert said == [f"waiting for the last words of {lease.host}, which EC2 ends"]


def test_last_words_that_never_come_are_waited_for_with_a_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, _ = lost(world, terminate=False)
    leases = world.outside.leases
    begun = time.monotonic()
    leases.write_lease(replace(lease, seconds=6), leases.lease())
    acquirer, said = acquirer_of(world, launch(world, ZONE), handover=1)
    monkeypatch.setattr(acquirer, "state_of", lambda _host: "shutting-down")
    before = acquirer.acquire()
    # The lease is taken after a second, so that the old host cannot renew it; what it may still go by is waited for.
    assert 5 <= time.monotonic() - begun < 9
    assert "may still go by it" in said[-1]
    assert before.final is None


def test_a_record_that_was_taken_back_counts_for_nothing(world: World) -> None:
    lease, _ = lost(world, terminate=False)
    world.outside.leases.write_final(FinalRecord(lease.host, withdrawn=True, off_host=True))
    acquirer, said = acquirer_of(world, launch(world, ZONE))
    thread, got = in_background(acquirer)
    deadline = time.monotonic() + 30
    while not said and time.monotonic() < deadline:
        time.sleep(0.05)
    assert said
    assert not got
    world.client("ec2").terminate_instances(InstanceIds=[lease.host])
    thread.join(30)
    assert got[0].final is None


def test_a_host_that_is_being_ended_waits_and_does_not_begin_to_serve(world: World) -> None:
    watch = world.watch()
    drain = begin(world.host.context(), world.outside, Interruption(SPOT, "x"), world.host.context().now())
    watch.drainer.checkpoint(drain)
    acquirer, said = acquirer_of(world, drain.host)
    thread, got = in_background(acquirer)
    thread.join(0.5)
    assert got == []
    assert said == ["waiting: this host is being ended itself (spot) and does not begin to serve"]
    assert watch.drainer.withdraw(drain, "the notice was taken back")
    thread.join(10)
    assert len(got) == 1


def test_a_shutdown_that_is_over_holds_up_no_boot(world: World) -> None:
    """Neither the watcher nor Redis had to do anything: a mount that failed keeps both of them from running."""
    watch = world.watch()
    watch.step()
    watch.shut_down()
    final = world.final
    assert final is not None
    assert final.off_host
    world.host.engine.stop(5)
    acquirer, said = acquirer_of(world, HOST)
    acquirer.outside = replace(acquirer.outside, boot_id="boot-2")
    thread, got = in_background(acquirer)
    thread.join(20)
    assert (len(got), said) == (1, [])
    # Nobody may take over because of a record of a host that serves again.
    again = world.final
    assert again is not None
    assert (again.withdrawn, again.off_host, again.complete) == (True, False, False)


def test_a_shutdown_is_taken_back_without_a_redis_and_beside_a_boot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.outside.leases.write_lease(Lease(HOST, zone=ZONE), None)
    watch = world.watch()
    watch.step()
    watch.shut_down()
    world.host.engine.stop(5)
    # The boot of this host writes the lease at the same moment.
    write, conflicts = LeaseStore.write_lease, [True]

    def beside(leases: LeaseStore, lease: Lease, over: Any) -> Any:
        if conflicts:
            conflicts.clear()
            raise ConflictError("changed meanwhile")
        return write(leases, lease, over)

    monkeypatch.setattr(LeaseStore, "write_lease", beside)
    world.said.clear()
    again = world.watch(boot_id="boot-2")
    assert again.drain is None
    world.line("the host was only started anew: this host goes on")
    held = world.outside.leases.lease()
    assert held is not None
    assert not held.lease.released


def test_a_shutdown_that_could_not_be_taken_back_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = world.watch()
    watch.step()
    watch.shut_down()
    with monkeypatch.context() as patch:

        def away(leases: LeaseStore) -> Any:
            raise AwsError("S3 is away")

        patch.setattr(LeaseStore, "lease", away)
        again = world.watch(boot_id="boot-2")
        assert again.drain is None
    world.clock += 60
    again.step()
    taken_back = world.final
    assert taken_back is not None
    assert taken_back.withdrawn


def test_an_end_is_taken_back_record_first_and_lease_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host that begins to wait in between must not read of a complete final backup in a lease that is held."""
    world.outside.leases.write_lease(Lease(HOST, zone=ZONE), None)
    watch = world.watch()
    watch.step()
    world.imds.notice()
    watch.step()
    assert world.final is not None
    assert world.final.off_host
    written: list[str] = []

    def watched(name: str) -> None:
        write = getattr(LeaseStore, name)

        def noted(leases: LeaseStore, *arguments: Any) -> Any:
            written.append(name)
            return write(leases, *arguments)

        monkeypatch.setattr(LeaseStore, name, noted)

    watched("write_final")
    watched("write_lease")
    assert watch.drain is not None
    assert watch.drainer.withdraw(watch.drain, "the notice was taken back")
    assert written[:2] == ["write_final", "write_lease"]


def test_a_host_that_waits_has_nothing_to_backup_when_its_own_notice_comes(world: World) -> None:
    world.outside.leases.write_lease(Lease("i-another"), None)
    world.host.engine.stop(5)
    world.host.machine.mounted_volume = False
    world.imds.notice()
    watch = world.watch()
    watch.step()
    assert watch.drain is not None
    assert watch.drain.over
    world.line("there is nothing to back up: i-another serves stg")
    assert [message["level"] for message in world.told()] == ["info"]


def test_who_cannot_read_the_lease_does_not_serve(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.client("s3").delete_bucket(Bucket="backups")
    acquirer, _ = acquirer_of(world, launch(world, ZONE))
    with pytest.raises(KeeperError, match="NoSuchBucket"):
        acquirer.acquire()


# --- killed


def boot_until_killed(new: NewHost, count: int) -> bool:
    """A boot in a process that is killed with SIGKILL at moment `count`; False when it was over before that."""
    state = new.host.directory / "mounted"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            reached = 0

            def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
                def call(*arguments: Any, **named: Any) -> Any:
                    nonlocal reached
                    result = None
                    for run in (lambda: None, lambda: function(*arguments, **named)):
                        if reached == count:
                            state.write_text(new.mounted)
                            os.kill(os.getpid(), signal.SIGKILL)
                        reached += 1
                        result = run()
                    return result

                return call

            for owner, name in (
                (Acquirer, "acquire"),
                (Disks, "change_to"),
                (Disks, "_must"),
                (disks_module.Disks, "_save_state"),
                (boot_module, "restore"),
                (Boot, "_let_clients_in"),
                (boot_module, "note_serving"),
                (Boot, "_move_name"),
                (LeaseStore, "write_lease"),
                (Boot, "_notify"),
            ):
                setattr(owner, name, wrapped(getattr(owner, name)))
            new.boot().run()
            state.write_text(new.mounted)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    new.mounted = state.read_text()
    new.host.machine.mounted_volume = bool(new.mounted)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.mark.parametrize("zone", [ZONE, OTHER_ZONE], ids=["kept volume", "from S3"])
def test_a_boot_killed_at_every_step_serves_when_started_again(world: World, tmp_path: Path, zone: str) -> None:
    world.host.fill("one", keys=3)
    one = world.host.content()
    final = world.host.backup("final").manifest.id
    killed = 0
    kept = tmp_path / "kept"
    world.host.engine.stop(5)
    shutil.copytree(world.host.volume_path, kept)
    while True:
        if world.host.volume_path.exists():
            shutil.rmtree(world.host.volume_path)
        shutil.copytree(kept, world.host.volume_path)
        lease, _ = lost(world, zone=zone)
        record(world, lease, final)
        new = NewHost(world)
        was_killed = boot_until_killed(new, killed)
        result: BootResult = new.boot().run()
        assert result.lost == "" or result.what == "served already", (killed, result)
        assert world.told(), killed
        assert world.host.content() == one, killed
        held = world.outside.leases.lease()
        assert held is not None
        assert (held.lease.host, held.lease.volume) == (new.instance, new.mounted)
        world.host.engine.stop(5)
        world.host.machine.mounted_volume = False
        if not was_killed:
            break
        killed += 1
    assert killed >= 14


# --- what an image brings along


def test_an_image_names_no_other_hosts_address(world: World) -> None:
    conf = world.host.directory / "redis.conf.copy"
    conf.write_text("bind 127.0.0.1 10.0.0.9\n# 10.0.0.99 and 110.0.0.9 are others\n")
    conf.chmod(0o640)
    world.host.fill("one")
    world.host.backup()
    lost(world)
    NewHost(world).boot(address="10.0.0.9", address_files=(conf, Path("/nowhere/file"))).run()
    assert conf.read_text() == "bind 127.0.0.1 10.0.0.7\n# 10.0.0.99 and 110.0.0.9 are others\n"
    assert conf.stat().st_mode & 0o777 == 0o640


def test_an_image_brings_no_other_hosts_past(world: World) -> None:
    directory = world.host.config.state_directory
    begin_anew(directory, "i-first")
    save_state(directory, last_error={"at": "x"})
    begin_anew(directory, "i-first")
    assert recall(directory)
    begin_anew(directory, "i-second")
    assert not recall(directory)


def test_the_volume_of_a_host_that_runs_is_not_waited_for(world: World) -> None:
    """It lost its lease, and EC2 does not end it: its volume would be waited for in vain."""
    new = NewHost(world)
    ec2 = world.client("ec2")
    held = ec2.create_volume(AvailabilityZone=ZONE, Size=8, VolumeType="gp3")["VolumeId"]
    runs = launch(world, ZONE)
    ec2.attach_volume(VolumeId=held, InstanceId=runs, Device="/dev/sdf")
    assert new.boot().disks.kept(held) == f"the volume {held} of the host before stays with {runs}, which runs"
    ec2.terminate_instances(InstanceIds=[runs])
    assert new.boot().disks.kept(held) == ""
