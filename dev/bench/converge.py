# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the host part of provision takes, against a raw shell script over SSH that does the same.

Each round loses the host, so that the group brings a fresh one: by turns Ansible and the shell script make a Redis of
it. The shell script gets the files that Ansible wrote on another host, and does the rest as a person would type it.
Then provision runs again where nothing changes. Writes build/bench/converge.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dev.sandboxes import Host, Play, Sandbox
from dev.work import BUILD, ROOT, Failed, Journal, end_on_sigterm, table

RESULT = BUILD / "bench" / "converge.json"
# Each host is new, and an earlier one may have backed up already: these are to start empty.
# Bare hosts are what is measured here, and no image; both sides go by plain SSH.
ASKED = {
    "provision_empty": "true",
    "spotcache_launch_from_image": "false",
    "spot_host_connection": "ssh",
    "spot_host_ssh_routed": "true",
}
EMPTY = tuple(word for name, value in ASKED.items() for word in ("-e", f"{name}={value}"))
GOALS = {"fresh_ratio": 1.6, "second_seconds": 7.5}

# Everything that the roles write, except what the shell script makes itself.
REFERENCE = """
set -eu
cd /
tar -c $(for path in etc/docker/daemon.json etc/spotcache etc/sysctl.d/60-spotcache-redis.conf \
    etc/tmpfiles.d/spotcache-redis.conf usr/local/sbin/spotcache-keeper etc/systemd/system/spotcache-*; do
    [ -e "$path" ] && echo "$path"; done)
"""

# What a person who knows the job would type. Packages and files are those of the reference host.
SCRIPT = """
set -eu
export DEBIAN_FRONTEND=noninteractive
tar -C / -xf {payload}
sed -i 's/{reference_ip}/{ip}/g' /etc/spotcache/redis/redis.conf
apt-get -qq update
apt-get -qq -y --no-install-recommends install {packages} >/dev/null
systemctl enable --now docker
sysctl -q -p /etc/sysctl.d/60-spotcache-redis.conf
systemd-tmpfiles --create spotcache-redis.conf
mkfs.ext4 -q -L spotcache-data -m 1 {device}
mkdir -p /srv/redis
echo 'LABEL=spotcache-data /srv/redis ext4 defaults,noatime,nofail 0 0' >>/etc/fstab
mount /srv/redis
install -d -o {uid} -g {gid} -m 0700 /srv/redis/redis
export ENGINE={engine} REDIS_ID={uid}:{gid}
DOCKERFILE=$(cat {folder}/Dockerfile) sh {folder}/build-image.sh spotcache-redis:bench >/dev/null
docker run -d --name spotcache-redis --network host --user {uid}:{gid} --read-only --cap-drop ALL \
    --security-opt no-new-privileges:true --tmpfs /tmp:size=64m --restart unless-stopped --stop-timeout 120 \
    --mount type=bind,source=/srv/redis/redis,target=/data \
    --mount type=bind,source=/etc/spotcache/redis,target=/etc/redis,readonly \
    --health-cmd '{engine}-cli --user health --pass x --no-auth-warning -e ping' --health-interval 30s \
    --log-opt max-size=10m --log-opt max-file=3 \
    spotcache-redis:bench {engine}-server /etc/redis/redis.conf >/dev/null
until docker exec spotcache-redis {engine}-cli --user health --pass x --no-auth-warning -e ping >/dev/null 2>&1; do
    sleep 0.1
done
systemctl daemon-reload
systemctl enable --now spotcache-backup.timer spotcache-watch.service
systemctl enable spotcache-boot.service
test ! -x /usr/local/sbin/spotcache-keeper || spotcache-keeper status --json >/dev/null
"""


def ssh_command(sandbox: Sandbox, host: Host) -> list[str]:
    """SSH as a person with a fast set-up uses it: one connection for all."""
    options = {
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "ControlMaster": "auto",
        "ControlPath": f"{sandbox.logs}/{host.id}.sock",
        "ControlPersist": "30s",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-i", sandbox.state["ssh_key"], *words, f"debian@{host.ip}"]


def over_ssh(sandbox: Sandbox, host: Host, command: str, data: bytes = b"") -> bytes:
    """Run a command on a host with something on its standard input."""
    done = subprocess.run([*ssh_command(sandbox, host), command], input=data, capture_output=True, timeout=600)
    if done.returncode:
        raise Failed(f"on {host.id}: {command[:60]} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout


def wait_until_it_answers(sandbox: Sandbox, host: Host) -> None:
    """Booting is not what is measured here."""
    deadline = time.monotonic() + 60
    while sandbox.on_host(host, "cloud-init status --wait >/dev/null; true").returncode:
        if time.monotonic() > deadline:
            raise Failed(f"{host.id} does not answer over SSH")
        time.sleep(0.2)


def manual_packages(sandbox: Sandbox, host: Host) -> set[str]:
    """The packages that somebody asked for by name."""
    return set(over_ssh(sandbox, host, "apt-mark showmanual").decode().split())


@dataclass(frozen=True)
class Reference:
    """What Ansible has made of a host, for the shell script to do the same."""

    host: Host
    payload: bytes
    packages: set[str]
    # User and group of Redis' files.
    owner: tuple[str, str]
    # The server, by which its programs are called.
    engine: str


def read_reference(sandbox: Sandbox, host: Host) -> Reference:
    """Look at a host that provision has just made."""
    uid, gid = over_ssh(sandbox, host, "sudo stat -c '%u %g' /srv/redis/redis").decode().split()
    payload = over_ssh(sandbox, host, "sudo sh -s", REFERENCE.encode())
    server = over_ssh(sandbox, host, "sudo docker inspect --format '{{index .Config.Cmd 0}}' spotcache-redis").decode()
    engine = server.strip().removesuffix("-server")
    return Reference(host, payload, manual_packages(sandbox, host), (uid, gid), engine)


def shell_seconds(sandbox: Sandbox, host: Host, reference: Reference) -> float:
    """The floor: the same host by a shell script."""
    role = ROOT / "roles" / "redis" / "files"
    device = f"$(ls /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{data_volume(sandbox, host).replace('-', '')})"
    folder = "/var/tmp"
    script = SCRIPT.format(
        payload=f"{folder}/payload.tar",
        folder=folder,
        reference_ip=reference.host.ip.replace(".", "\\."),
        ip=host.ip,
        packages=" ".join(sorted(reference.packages - manual_packages(sandbox, host))),
        uid=reference.owner[0],
        gid=reference.owner[1],
        engine=reference.engine,
        device=device,
    )
    started = time.monotonic()
    over_ssh(sandbox, host, f"cat >{folder}/payload.tar", reference.payload)
    for name in ("Dockerfile", "build-image.sh"):
        over_ssh(sandbox, host, f"cat >{folder}/{name}", (role / name).read_bytes())
    over_ssh(sandbox, host, "sudo sh -s", script.encode())
    return time.monotonic() - started


def data_volume(sandbox: Sandbox, host: Host) -> str:
    """The id of the volume that is not the root's."""
    filters = [{"Name": "attachment.instance-id", "Values": [host.id]}]
    volumes = sandbox.client("ec2").describe_volumes(Filters=filters)["Volumes"]
    found = [one["VolumeId"] for one in volumes for at in one["Attachments"] if at["Device"] == "/dev/sdf"]
    if len(found) != 1:
        raise Failed(f"{host.id} has {len(found)} data volumes at /dev/sdf instead of one")
    return str(found[0])


def host_part(play: Play) -> float:
    """The seconds of a run's plays on the host."""
    return sum(one.seconds for one in play.plays if one.on_host)


def bench(sandbox: Sandbox, rounds: int) -> dict[str, Any]:
    """The rounds."""
    journal = Journal()
    with journal.step("Sandbox up"):
        sandbox.up()
    with journal.step("Provision"):
        ansible = [host_part(sandbox.play("provision", *EMPTY, log="provision-1"))]
    reference = read_reference(sandbox, sandbox.host())
    shell: list[float] = []
    for number in range(1, rounds + 1):
        with journal.step(f"Round {number} of {rounds}: shell on a fresh host"):
            _, fresh = sandbox.lose_host()
            wait_until_it_answers(sandbox, fresh)
            shell.append(shell_seconds(sandbox, fresh, reference))
        if number < rounds:
            with journal.step(f"Round {number + 1} of {rounds}: provision on a fresh host"):
                _, fresh = sandbox.lose_host()
                wait_until_it_answers(sandbox, fresh)
                ansible.append(host_part(sandbox.play("provision", *EMPTY, log=f"provision-{number + 1}")))
    with journal.step("Provision a last fresh host, then again where nothing changes"):
        sandbox.lose_host()
        sandbox.play("provision", *EMPTY, log="provision-last")
        again = [sandbox.play("provision", *EMPTY, log=f"again-{number}") for number in range(1, 4)]
    if any(play.changed for play in again):
        raise Failed("provision changed something on a host where nothing had to change")
    return {
        "fresh_ratio": round(statistics.median(ansible) / statistics.median(shell), 2),
        "second_seconds": round(statistics.median(host_part(play) for play in again), 2),
        "second_seconds_with_aws": round(statistics.median(play.seconds for play in again), 2),
        "goals": GOALS,
        "fresh_ansible": [round(value, 2) for value in ansible],
        "fresh_shell": [round(value, 2) for value in shell],
        "second": [round(host_part(play), 2) for play in again],
    }


def main(arguments: Sequence[str]) -> int:
    """The command line of this bench."""
    parser = argparse.ArgumentParser(prog="./spotcache bench converge", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how many fresh hosts each way (default 3)")
    asked = parser.parse_args(arguments)
    end_on_sigterm()
    try:
        with Sandbox("bench-converge", BUILD / "bench" / "logs").running() as sandbox:
            result = bench(sandbox, asked.rounds)
    except Failed as error:
        print(f"bench converge: {error}", file=sys.stderr)
        return 1
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    rows = [[name, f"{result[name]}", f"at most {goal}"] for name, goal in GOALS.items()]
    print(f"\n{table(['host part of provision', 'measured', 'goal'], rows)}\n{RESULT}", flush=True)
    return 0 if all(float(result[name]) <= goal for name, goal in GOALS.items()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
