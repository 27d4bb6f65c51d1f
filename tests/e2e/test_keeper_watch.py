# SPDX-License-Identifier: GPL-3.0-or-later
"""A host goes, and the next one serves by itself: no playbook runs in here after the first provision."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dev.sandboxes import Host, Sandbox
from tests.writer import Writer, held, until

GROUP = "spotcache-sandbox"


@pytest.fixture
def place(baked: Sandbox) -> Sandbox:
    return baked


def noted(place: Sandbox, name: str) -> dict[str, Any]:
    """What hosts tell each other in S3."""
    body = place.client("s3").get_object(Bucket=f"spotcache-{place.name}-backups", Key=f"sandbox/keeper/{name}.json")
    return dict(json.loads(body["Body"].read()))


def lease(place: Sandbox) -> dict[str, Any]:
    """Who serves."""
    return noted(place, "lease")


def resize(place: Sandbox, low: int, wanted: int, high: int) -> None:
    """How many hosts the group keeps."""
    groups = place.client("autoscaling")
    [group] = groups.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
    policy = group["MixedInstancesPolicy"]
    # Both its name and its id are described, and only one of them may be given.
    policy["LaunchTemplate"]["LaunchTemplateSpecification"].pop("LaunchTemplateId", None)
    groups.update_auto_scaling_group(
        AutoScalingGroupName=GROUP, MinSize=low, DesiredCapacity=wanted, MaxSize=high, MixedInstancesPolicy=policy
    )


def test_the_image_holds_no_secret(place: Sandbox) -> None:
    images = place.client("ec2").describe_images(Owners=["self"], Filters=[{"Name": "state", "Values": ["available"]}])
    [image] = [
        image
        for image in images["Images"]
        if any(tag["Key"] == "spotcache:fingerprint" for tag in image.get("Tags", []))
    ]
    folders = "/etc /root /home /var/lib/spotcache"
    command = f"! grep -rqs -F '{place.password}' {folders} && ! grep -rqs 'PRIVATE KEY' {folders}"
    command += " && ls /etc/ssh/*_key 2>/dev/null | wc -l"
    done = subprocess.run(
        ["docker", "run", "--rm", "--entrypoint", "sh", f"spotcache-sandbox/ami:{image['ImageId']}", "-c", command],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
    # The host that it was made from has everything back.
    assert place.on_host(place.host(), "spotcache-keeper backup --json").returncode == 0


def test_the_second_net_takes_the_data_volume_once_a_day_and_no_other(place: Sandbox) -> None:
    dlm, ec2 = place.client("dlm"), place.client("ec2")
    [policy] = dlm.get_lifecycle_policies()["Policies"]
    mine = [{"Name": "tag:aws:dlm:lifecycle-policy-id", "Values": [policy["PolicyId"]]}]

    def taken() -> dict[str, str]:
        found = ec2.describe_snapshots(OwnerIds=["self"], Filters=mine)["Snapshots"]
        return {row["SnapshotId"]: row["VolumeId"] for row in found}

    # It may have been the policy's hour since this sandbox came up.
    before = taken()
    place.verb("clock", "--name", place.name, "--seconds", "86400")
    # A volume that was kept just before is asked for again.
    now = until(lambda: found if (found := taken()) != before else None, 40, "a snapshot")
    assert [volume for key, volume in now.items() if key not in before] == [lease(place)["volume"]]
    found = dlm.get_lifecycle_policy(PolicyId=policy["PolicyId"])["Policy"]
    assert (found["State"], found["StatusMessage"]) == ("ENABLED", "ENABLED")


def test_with_a_notice_nothing_acknowledged_is_lost(place: Sandbox) -> None:
    old = place.host()
    with Writer(place.connect(old), "notice") as writer:
        time.sleep(2)
        begun = time.monotonic()
        place.verb("spot-notice", "--in", "20", old.id)
        new = place.successor(old)
        print(f"notice to serving: {time.monotonic() - begun:.1f} s, of which 20 s are the notice")
    assert len(writer.acknowledged) > 200
    client = place.connect(new)
    assert held(client, list(writer.acknowledged)) == writer.acknowledged
    assert client.set("after", "the host changed")
    assert lease(place)["host"] == new.id
    status = json.loads(place.on_host(new, "spotcache-keeper status --json").stdout)
    assert status["boot"]["last_boot"]["lost"] == ""
    assert status["boot"]["last_boot"]["before"] == old.id


def test_without_a_notice_nothing_older_than_the_last_backup_is_lost(place: Sandbox) -> None:
    old = place.host()
    with Writer(place.connect(old), "before") as before:
        time.sleep(1)
    assert place.on_host(old, "spotcache-keeper backup --json").returncode == 0
    with Writer(place.connect(old), "after"):
        time.sleep(1)
        begun = time.monotonic()
        place.verb("kill", old.id)
        # The lease is held by the dead host: it gave nothing back.
        assert lease(place)["host"] == old.id
        new = place.successor(old)
        print(f"kill to serving: {time.monotonic() - begun:.1f} s")
    assert held(place.connect(new), list(before.acknowledged)) == before.acknowledged
    status = json.loads(place.on_host(new, "spotcache-keeper status --json").stdout)
    assert status["boot"]["last_boot"]["lost"]


def test_the_volume_of_a_lost_host_is_taken_over_in_its_zone(place: Sandbox) -> None:
    old = place.host()
    others = [zone for zone in place.state["zones"] if zone != old.zone]
    for zone in others:
        place.verb("no-spot-capacity", zone, "*")
    volume = lease(place)["volume"]
    with Writer(place.connect(old), "kept") as writer:
        time.sleep(1)
    assert place.on_host(old, "spotcache-keeper backup --json").returncode == 0
    place.verb("kill", old.id)
    new = place.successor(old)
    for zone in others:
        place.verb("spot-capacity", zone, "*")
    assert new.zone == old.zone
    assert lease(place)["volume"] == volume
    assert held(place.connect(new), list(writer.acknowledged)) == writer.acknowledged
    status = json.loads(place.on_host(new, "spotcache-keeper status --json").stdout)
    assert any(f"took over the volume {volume}" in line["line"] for line in status["boot"]["lines"])


def test_an_evening_and_a_morning(place: Sandbox) -> None:
    """The group ends its host, whose hook waits for the final backup and for nothing else."""
    old = place.host()
    with Writer(place.connect(old), "evening") as writer:
        time.sleep(1)
        resize(place, 0, 0, 1)
        begun = time.monotonic()
        until(lambda: True if not place.hosts() else None, 90, "the end of the host")
        print(f"end of the day: {time.monotonic() - begun:.1f} s")
    assert len(writer.acknowledged) > 100
    resize(place, 1, 1, 1)
    new = place.successor(old)
    assert held(place.connect(new), list(writer.acknowledged)) == writer.acknowledged


def test_a_host_that_somebody_ends_backs_up_while_it_shuts_down(place: Sandbox) -> None:
    old = place.host()
    with Writer(place.connect(old), "ended") as writer:
        time.sleep(1)
        place.client("ec2").terminate_instances(InstanceIds=[old.id])
        new = place.successor(old)
    assert held(place.connect(new), list(writer.acknowledged)) == writer.acknowledged
    status = json.loads(place.on_host(new, "spotcache-keeper status --json").stdout)
    assert status["boot"]["last_boot"]["lost"] == ""


def test_of_two_hosts_that_boot_at_once_one_serves(place: Sandbox) -> None:
    old = place.host()
    assert place.on_host(old, "spotcache-keeper backup --json").returncode == 0
    resize(place, 1, 2, 2)
    until(lambda: place.hosts() if len(place.hosts()) == 2 else None, 60, "a second host")
    place.verb("kill", old.id)
    until(lambda: place.hosts() if len(place.hosts()) == 2 else None, 60, "a third host")
    new = place.successor(old)
    time.sleep(10)
    serving = []
    for host in place.hosts():
        with suppress(redis.RedisError, OSError):
            if place.connect(host).ping():
                serving.append(host.id)
    assert serving == [new.id]
    assert lease(place)["host"] == new.id
    [waiting] = [host for host in place.hosts() if host.id != new.id]
    said = place.on_host(waiting, "journalctl -u spotcache-boot --no-pager").stdout
    assert f"waiting: {new.id} serves this environment" in said
    # One host again, for whoever comes next; the one that waits has nothing to back up.
    place.client("autoscaling").terminate_instance_in_auto_scaling_group(
        InstanceId=waiting.id, ShouldDecrementDesiredCapacity=True
    )
    until(lambda: True if place.hosts() == [new] else None, 60, "one host")
    resize(place, 1, 1, 1)


def test_a_redis_that_dies_between_the_fence_and_its_fork_leaves_nothing_complete(place: Sandbox) -> None:
    old = place.host()
    assert place.on_host(old, "spotcache-keeper backup --json").returncode == 0
    with Writer(place.connect(old), "unsaved") as writer:
        time.sleep(1)
    assert len(writer.acknowledged) > 20
    # One that stands still can neither fork nor answer; the fence is the kernel's, and needs it for nothing.
    signalled = "kill -{} $(docker inspect --format '{{{{.State.Pid}}}}' spotcache-redis)"
    do(place, old, signalled.format("STOP"))
    place.verb("spot-notice", "--in", "40", old.id)
    fenced = "! nft list set inet spotcache serving | grep -q elements"
    until(lambda: True if place.on_host(old, fenced).returncode == 0 else None, 30, "the fence")
    do(place, old, signalled.format("KILL"))
    new = place.successor(old)
    final = noted(place, f"final/{old.id}")
    assert (final["fenced"], final["complete"]) == (True, False)
    status = json.loads(place.on_host(new, "spotcache-keeper status --json").stdout)
    assert status["boot"]["last_boot"]["before"] == old.id
    # Begun anew with what was on its disk, it was backed up; that is not all, and nobody takes it for that.
    assert status["boot"]["last_boot"]["lost"]
    assert held(place.connect(new), list(writer.acknowledged)) != writer.acknowledged


# --- one writer


class Clients:
    """Somebody who writes to every host all the time, and notes when which one has acknowledged."""

    def __init__(self, place: Sandbox, hosts: list[Host]) -> None:
        self.acknowledged: dict[str, list[float]] = {host.id: [] for host in hosts}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(place, host)) for host in hosts]

    def __enter__(self) -> Clients:  # noqa: PYI034 - typing.Self came with Python 3.11
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, place: Sandbox, host: Host) -> None:
        client = place.connect(host, socket_timeout=0.5, socket_connect_timeout=0.5, retry=NO_RETRY)
        while not self._stop.is_set():
            with suppress(redis.RedisError):
                if client.set("who", host.id):
                    self.acknowledged[host.id].append(time.monotonic())
            time.sleep(0.02)


NO_RETRY = Retry(NoBackoff(), 0)
# Sessions with the host's own clients stay; nothing that the host begins gets out.
DROP = "for one in iptables ip6tables; do $one -{} OUTPUT -p tcp -m multiport ! --sports 22,6379 -j DROP; done"
# What keeps a host from renewing its lease, and what ends that; on the host, or done to it from outside.
CAUSES = {
    "the keeper stands still": (
        "systemctl kill --kill-whom=all --signal=STOP spotcache-watch",
        "systemctl kill --kill-whom=all --signal=CONT spotcache-watch",
    ),
    "the way to AWS is cut": (DROP.format("I"), DROP.format("D")),
    "the machine stands still": ("pause", "unpause"),
}


def do(place: Sandbox, host: Host, what: str) -> None:
    """Something on a host, or with the whole of it."""
    if what in ("pause", "unpause"):
        subprocess.run(["docker", what, f"sc-{place.name}-{host.id}"], check=True, capture_output=True)
        return
    done = place.on_host(host, what)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cause", CAUSES)
def test_a_host_that_cannot_prove_its_lease_stops_before_another_one_serves(place: Sandbox, cause: str) -> None:
    old = place.host()
    shorten = (
        'sed -i \'s/"lease": [0-9]*/"lease": 20/\' /etc/spotcache/keeper.json && systemctl restart spotcache-watch'
    )
    do(place, old, shorten)
    until(lambda: True if lease(place)["seconds"] == 20 else None, 30, "a lease of 20 s")
    assert place.on_host(old, "spotcache-keeper backup --json").returncode == 0
    resize(place, 1, 2, 2)
    hosts = until(lambda: found if len(found := place.hosts()) == 2 else None, 60, "a second host")
    [new] = [host for host in hosts if host.id != old.id]
    waits = "journalctl -u spotcache-boot --no-pager | grep -q 'serves this environment'"
    until(lambda: True if place.on_host(new, waits).returncode == 0 else None, 60, "the second host to wait")
    begin, end = CAUSES[cause]
    with Clients(place, hosts) as clients:
        time.sleep(1)
        do(place, old, begin)
        until(lambda: True if clients.acknowledged[new.id] else None, 60, "the second host to serve")
        do(place, old, end)
        time.sleep(8)
    before, after = clients.acknowledged[old.id], clients.acknowledged[new.id]
    assert len(before) > 20
    assert len(after) > 20
    # Not one write was acknowledged by the old host once the new one had acknowledged its first.
    assert max(before) < min(after), f"{max(before) - min(after):.2f} s"
    assert lease(place)["host"] == new.id
    # It boots again, and waits like any other; it knows that its own data counts for nothing.
    until(lambda: True if place.on_host(old, waits).returncode == 0 else None, 60, "the old host to wait")
    assert place.on_host(old, "spotcache-keeper backup --reason timer").returncode == 5
    place.client("autoscaling").terminate_instance_in_auto_scaling_group(
        InstanceId=old.id, ShouldDecrementDesiredCapacity=True
    )
    until(lambda: True if place.hosts() == [new] else None, 90, "one host")
    resize(place, 1, 1, 1)


def test_redis_itself_does_not_reach_the_metadata_service(place: Sandbox) -> None:
    host = place.host()
    ask = "curl -s -o /dev/null --max-time 3 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "
    ask += "http://169.254.169.254/latest/api/token"
    assert place.on_host(host, ask).returncode == 0
    assert place.on_host(host, f"setpriv --reuid 6379 --clear-groups {ask}").returncode == 7
