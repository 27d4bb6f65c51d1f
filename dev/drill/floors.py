# SPDX-License-Identifier: GPL-3.0-or-later
"""The least that a backup and a restore can take on this machine: the server's own tools, nothing around them."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dev.sandboxes import Host, Sandbox
from dev.work import Failed

TIMES = 3
# On the host, as root. The engine's client and its check as the host's own: a container's start would count else.
TOOLS = """
set -eu
export DEBIAN_FRONTEND=noninteractive
server=$(docker inspect --format '{{index .Config.Cmd 0}}' spotcache-redis)
engine=${server%-server}
command -v $engine-check-rdb || { apt-get -q update; apt-get -q install -y --no-install-recommends $engine-tools; } >&2
mkdir -p /srv/redis/floor
# Debian's server is the binary of its check under another name; the name alone decides what it does.
ln -sf "$(readlink -f "$(command -v $engine-check-rdb)")" /srv/redis/floor/$server
echo $engine >/srv/redis/floor/engine
""".strip()

SAVE = """
import json, subprocess, sys, time
import boto3
keeper = json.load(open("/etc/spotcache/keeper.json"))
password = open("/etc/spotcache/keeper-password").read().strip()
engine = open("/srv/redis/floor/engine").read().strip()
import os
os.environ["REDISCLI_AUTH"] = password
def cli(*words):
    return subprocess.run(
        [engine + "-cli", "-h", keeper["redis_host"], "-p", str(keeper["redis_port"]),
         "--user", keeper["redis_username"], *words],
        check=True, capture_output=True, text=True,
    ).stdout
def busy():
    return "rdb_bgsave_in_progress:1" in cli("INFO", "persistence")
while busy():
    time.sleep(0.1)
s3 = boto3.client(
    "s3", region_name=keeper["region"],
)
def only_new(params, **_):
    params["headers"]["If-None-Match"] = "*"
for operation in ("PutObject", "CompleteMultipartUpload"):
    s3.meta.events.register("before-call.s3." + operation, only_new)
rdb = keeper["redis_directory"] + "/" + keeper["dbfilename"]
begun = time.monotonic()
assert "Background saving started" in cli("BGSAVE")
while busy():
    time.sleep(0.02)
backed_up = time.monotonic()
subprocess.run([engine + "-check-rdb", rdb], check=True, capture_output=True)
checked = time.monotonic()
key = keeper["prefix"] + keeper["environment"] + "/backups/floor/" + str(time.time_ns())
s3.upload_file(rdb, keeper["bucket"], key)
done = time.monotonic()
print(json.dumps({"bgsave": backed_up - begun, "check": checked - backed_up, "upload": done - checked,
                  "all": done - begun, "bytes": os.path.getsize(rdb)}))
"""

LOAD = """
import glob, os, shutil, socket, subprocess, time, json
keeper = json.load(open("/etc/spotcache/keeper.json"))
folder = "/srv/redis/floor"
engine = open(folder + "/engine").read().strip()
shutil.copy(keeper["redis_directory"] + "/" + keeper["dbfilename"], folder + "/dump.rdb")
begun = time.monotonic()
server = subprocess.Popen(
    [folder + "/" + engine + "-server", "--port", "6391", "--bind", "127.0.0.1", "--dir", folder, "--save", "",
     "--appendonly", "no", "--protected-mode", "no", "--daemonize", "no"],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
while True:
    try:
        with socket.create_connection(("127.0.0.1", 6391), timeout=5) as line:
            line.sendall(b"PING\\r\\n")
            if line.recv(100).startswith(b"+PONG"):
                break
    except OSError:
        pass
    assert server.poll() is None, "the server ended"
    time.sleep(0.02)
done = time.monotonic()
server.kill()
server.wait()
os.remove(folder + "/dump.rdb")
print(json.dumps({"all": done - begun}))
"""


def program(sandbox: Sandbox, host: Host, text: str) -> dict[str, float]:
    """Run a Python program on the host; what it prints."""
    # Quoted to the shell as a whole: the programs have no single quotes.
    done = sandbox.on_host(host, f"python3 - <<'END'\n{text}\nEND\n", timeout=300)
    if done.returncode:
        raise Failed(f"a floor could not be measured on {host.id}: {done.stdout}{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def answers(ip: str, seconds: float = 60) -> None:
    """Wait until an SSH server greets."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((ip, 22), timeout=1) as line:
                if line.recv(20).startswith(b"SSH-"):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise Failed(f"the bare instance at {ip} did not answer within {seconds:.0f} s")


def open_group(sandbox: Sandbox, host: Host) -> str:
    """A security group in which SSH is open to this machine, as a host's own is to the connect endpoint alone."""
    ec2 = sandbox.client("ec2")
    vpc = ec2.describe_instances(InstanceIds=[host.id])["Reservations"][0]["Instances"][0]["VpcId"]
    group = ec2.create_security_group(GroupName="floor", Description="bare instances", VpcId=vpc)["GroupId"]
    access = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": sandbox.state["cidr"]}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[access])
    return str(group)


def bare_start(sandbox: Sandbox, host: Host, group: str) -> float:
    """Seconds from asking EC2 for an instance of the plain image until its SSH server greets."""
    ec2 = sandbox.client("ec2")
    like = ec2.describe_instances(InstanceIds=[host.id])["Reservations"][0]["Instances"][0]
    begun = time.monotonic()
    made = ec2.run_instances(
        ImageId=sandbox.state["images"]["debian"],
        InstanceType=like["InstanceType"],
        SubnetId=like["SubnetId"],
        SecurityGroupIds=[group],
        MinCount=1,
        MaxCount=1,
    )["Instances"][0]
    try:
        answers(made["PrivateIpAddress"])
        return time.monotonic() - begun
    finally:
        ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def summary(
    backups: Sequence[Mapping[str, float]], loads: Sequence[Mapping[str, float]], starts: Sequence[float]
) -> dict[str, Any]:
    """The floors, as medians, and what they were made of."""
    start, load = statistics.median(starts), statistics.median(one["all"] for one in loads)
    return {
        "backup_s": round(statistics.median(one["all"] for one in backups), 3),
        "restore_s": round(start + load, 3),
        "instance_start_s": round(start, 3),
        "load_s": round(load, 3),
        "rdb_bytes": backups[-1]["bytes"],
        "backups": [{name: round(value, 3) for name, value in one.items()} for one in backups],
        "loads_s": [round(one["all"], 3) for one in loads],
        "starts_s": [round(one, 3) for one in starts],
    }


def forget_uploads(sandbox: Sandbox) -> None:
    """Delete what was uploaded, which no host may."""
    s3, bucket = sandbox.client("s3"), f"spotcache-{sandbox.name}-backups"
    for one in s3.list_object_versions(Bucket=bucket, Prefix="sandbox/backups/floor/").get("Versions", []):
        s3.delete_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])


def measure(sandbox: Sandbox, host: Host) -> dict[str, Any]:
    """Measure each a few times, one after the other: they share this machine with nothing of ours."""
    done = sandbox.on_host(host, TOOLS, timeout=300)
    if done.returncode:
        raise Failed(f"Redis' tools could not be installed on {host.id}: {done.stdout}{done.stderr}")
    backups = [program(sandbox, host, SAVE) for _ in range(TIMES)]
    forget_uploads(sandbox)
    loads = [program(sandbox, host, LOAD) for _ in range(TIMES)]
    group = open_group(sandbox, host)
    starts = [bare_start(sandbox, host, group) for _ in range(TIMES)]
    sandbox.on_host(host, "rm -rf /srv/redis/floor")
    return summary(backups, loads, starts)
