# SPDX-License-Identifier: GPL-3.0-or-later
"""The host roles on hosts with a kernel of their own. Each test goes on with the host that the one before has left."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from typing import Any

import redis

from dev.sandboxes import Host, Sandbox
from sandbox.qemu import MachineError
from tests.writer import Writer, held, until

# Without KVM a machine boots in a minute, and two that do so at once take their time.
PATIENCE_S = 600.0


def said(place: Sandbox, host: Host, command: str) -> str:
    """What a command says that must work."""
    done = place.on_host(host, command)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def goes_down(place: Sandbox, host: Host, command: str) -> None:
    """Ask a machine to go; its agent may be gone before it answers."""
    with suppress(MachineError):
        said(place, host, f"systemctl --no-block {command}")


def boot_of(place: Sandbox, host: Host) -> str | None:
    """Which run of the kernel it is; None while no agent answers."""
    try:
        return place.on_host(host, "cat /proc/sys/kernel/random/boot_id", timeout=10).stdout.strip() or None
    except MachineError:
        return None


def assert_healthy(place: Sandbox, host: Host, filesystem: str) -> None:
    """Nothing failed on the host or was forbidden, and it runs Redis as a host of AWS does."""
    assert said(place, host, "systemctl --failed --plain --no-legend") == ""
    # grep counts to 0 and ends with 1.
    assert said(place, host, "journalctl -k --no-pager | grep -c 'apparmor=.DENIED' || true") == "0"
    engine = said(place, host, "docker info --format '{{.CgroupDriver}} {{.CgroupVersion}}'")
    assert engine == "systemd 2"
    assert said(place, host, "docker inspect --format '{{.AppArmorProfile}}' spotcache-redis") == "docker-default"
    kind, source = said(place, host, "findmnt --noheadings --output FSTYPE,SOURCE /srv/redis").split()
    assert kind == filesystem
    volume = said(place, host, f"ls -l /dev/disk/by-id | grep Amazon_Elastic_Block_Store | grep {source[5:]}$")
    assert f"nvme-Amazon_Elastic_Block_Store_{lease(place)['volume'].replace('-', '')}" in volume


def stored(place: Sandbox, key: str) -> bytes:
    """An object of the environment."""
    return bytes(place.client("s3").get_object(Bucket=f"spotcache-{place.name}-backups", Key=key)["Body"].read())


def lease(place: Sandbox) -> dict[str, Any]:
    """Who serves, and on which volume."""
    return dict(json.loads(stored(place, "sandbox/keeper/lease.json")))


def newest_backup(place: Sandbox, reason: str, host: Host) -> dict[str, Any]:
    """The manifest of a host's newest backup in S3, whose bytes are there and are what it says."""
    s3, prefix = place.client("s3"), "sandbox/backups/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=f"spotcache-{place.name}-backups", Prefix=prefix)
    keys = [row["Key"] for page in pages for row in page.get("Contents", []) if row["Key"].endswith("/manifest.json")]
    manifests = [dict(json.loads(stored(place, key))) for key in keys]
    mine = [one for one in manifests if (one["reason"], one["host"]) == (reason, host.id)]
    there = [(one["id"], one["reason"], one["host"]) for one in manifests]
    assert mine, f"no {reason} backup of {host.id} among {there}"
    found = max(mine, key=lambda one: str(one["id"]))
    rdb = stored(place, f"{prefix}{found['id']}/dump.rdb")
    assert found["verified"]
    assert {"bytes": len(rdb), "sha256": hashlib.sha256(rdb).hexdigest()} == found["rdb"]
    return found


def silent(place: Sandbox, host: Host) -> bool | None:
    """True once a host's Redis does not answer."""
    try:
        place.connect(host).ping()
    except (redis.RedisError, OSError):
        return True
    return None


def last_boot(place: Sandbox, host: Host) -> dict[str, Any]:
    """What a host's keeper says of how it came up."""
    return dict(json.loads(said(place, host, "spotcache-keeper status --json"))["boot"])


def test_check_mode_foresees_everything_on_a_bare_host(place: Sandbox) -> None:
    place.play("provision", "--check", "--diff", log="2-check-mode")
    # ls ends badly for each that is not there, as none may be.
    assert said(place, place.host(), "ls -d /srv/redis /etc/spotcache /usr/bin/docker 2>/dev/null || true") == ""


def test_a_bare_host_is_brought_to_what_the_inventory_says(place: Sandbox, filesystem: str) -> None:
    place.play("provision", log="3-provision")
    assert place.connect(place.host()).ping()
    assert_healthy(place, place.host(), filesystem)


def test_a_second_run_changes_nothing(place: Sandbox) -> None:
    assert place.play("provision", log="4-second-run").changed == 0


def test_a_backup_is_verified_and_off_the_host(place: Sandbox) -> None:
    host = place.host()
    with Writer(place.connect(host), "backup") as writer:
        time.sleep(3)
    done = json.loads(said(place, host, "spotcache-keeper backup --json"))
    found = newest_backup(place, "manual", host)
    assert found["id"] == done["id"]
    assert len(writer.acknowledged) > 20
    assert found["keys"] == place.connect(host).dbsize()


def test_a_reboot_loses_nothing_and_ends_by_itself(place: Sandbox, filesystem: str) -> None:
    host, boot = place.host(), boot_of(place, place.host())
    client = place.connect(host)
    there = client.dbsize()
    with Writer(client, "reboot") as writer:
        time.sleep(5)
        begun = time.monotonic()
        goes_down(place, host, "reboot")
        until(lambda: silent(place, host), PATIENCE_S, "the end of Redis")
        written, seconds = len(writer.acknowledged), time.monotonic() - begun
        until(lambda: None if boot_of(place, host) in (None, boot) else True, PATIENCE_S, "another boot")
        until(lambda: True if len(writer.acknowledged) > written + 20 else None, PATIENCE_S, "writes after the reboot")
        print(f"reboot to no Redis {seconds:.1f} s, to writes again {time.monotonic() - begun:.1f} s")
    final = newest_backup(place, "final", host)
    # What was sent and not acknowledged may be there as well: one write, which was held back.
    assert there + written <= final["keys"] <= there + written + 2
    assert held(place.connect(host), list(writer.acknowledged)) == writer.acknowledged
    until(lambda: True if lease(place)["host"] == host.id and not lease(place)["released"] else None, 120, "the lease")
    assert_healthy(place, host, filesystem)


def test_a_host_that_is_switched_off_has_backed_up_and_the_next_one_serves(place: Sandbox, filesystem: str) -> None:
    old = place.host()
    there = place.connect(old).dbsize()
    with Writer(place.connect(old), "poweroff") as writer:
        time.sleep(5)
        begun = time.monotonic()
        goes_down(place, old, "poweroff")
        until(lambda: silent(place, old), PATIENCE_S, "the end of Redis")
        seconds = time.monotonic() - begun
        new = place.successor(old, PATIENCE_S)
        print(f"poweroff to no Redis {seconds:.1f} s, to the next host {time.monotonic() - begun:.1f} s")
    final = newest_backup(place, "final", old)
    assert there + len(writer.acknowledged) <= final["keys"] <= there + len(writer.acknowledged) + 2
    assert held(place.connect(new), list(writer.acknowledged)) == writer.acknowledged
    assert last_boot(place, new)["last_boot"]["lost"] == ""
    assert_healthy(place, new, filesystem)


def test_after_a_spot_notice_nothing_is_lost(place: Sandbox, filesystem: str) -> None:
    old = place.host()
    with Writer(place.connect(old), "notice") as writer:
        time.sleep(5)
        begun = time.monotonic()
        place.verb("spot-notice", "--name", place.name, "--in", "120", old.id)
        new = place.successor(old, PATIENCE_S)
        print(f"notice to serving {time.monotonic() - begun:.1f} s, of which 120 s are the notice")
    assert len(writer.acknowledged) > 20
    newest_backup(place, "final", old)
    assert held(place.connect(new), list(writer.acknowledged)) == writer.acknowledged
    status = last_boot(place, new)
    assert (status["last_boot"]["lost"], status["last_boot"]["before"]) == ("", old.id)
    assert_healthy(place, new, filesystem)


def test_after_a_power_cut_the_next_host_takes_over_the_volume(place: Sandbox, filesystem: str) -> None:
    old = place.spot_host(PATIENCE_S)
    others = [zone for zone in place.state["zones"] if zone != old.zone]
    for zone in others:
        place.verb("no-spot-capacity", "--name", place.name, zone, "*")
    volume = lease(place)["volume"]
    with Writer(place.connect(old), "kept") as writer:
        time.sleep(5)
    said(place, old, "spotcache-keeper backup --json")
    with Writer(place.connect(old), "cut"):
        time.sleep(3)
        begun = time.monotonic()
        place.verb("kill", "--name", place.name, old.id)
        new = place.successor(old, PATIENCE_S)
        print(f"power cut to serving {time.monotonic() - begun:.1f} s")
    for zone in others:
        place.verb("spot-capacity", "--name", place.name, zone, "*")
    assert new.zone == old.zone
    # Redis serves a moment before the boot writes down on which volume.
    assert until(lambda: lease(place)["volume"] or None, PATIENCE_S, "the lease names the volume") == volume
    assert held(place.connect(new), list(writer.acknowledged)) == writer.acknowledged
    assert any(f"took over the volume {volume}" in one["line"] for one in last_boot(place, new)["lines"])
    assert_healthy(place, new, filesystem)

    # It is this machine's own now: at its next boot it is found and mounted as any other.
    boot = boot_of(place, new)
    goes_down(place, new, "reboot")
    until(lambda: None if boot_of(place, new) in (None, boot) else True, PATIENCE_S, "another boot")
    until(lambda: None if silent(place, new) else True, PATIENCE_S, "Redis after the reboot")
    assert lease(place)["volume"] == volume
    assert held(place.connect(new), list(writer.acknowledged)) == writer.acknowledged
    assert_healthy(place, new, filesystem)
