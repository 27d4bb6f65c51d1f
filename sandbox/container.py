"""Containers that behave as EC2 hosts: systemd, sshd, their own Docker engine, block devices that come and go.

They are not privileged. Some machines cannot grant every capability, and a host needs only those listed here. What a
host gets instead of a kernel of its own is described in ``image/rootfs/usr/local/lib/sandbox/kernel-settings``.

The parameters have one source, `host_settings`. The sandbox passes them to the Docker SDK; a playbook reads them with
``python -m sandbox.container --vars`` and passes them to `community.docker.docker_container`, whose names they carry.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors
import docker.utils

from sandbox.imds import mac_of

CAPABILITIES: Final = (
    "SYS_ADMIN",
    "NET_ADMIN",
    "SYS_PTRACE",
    "NET_RAW",
    "MKNOD",
    "SYS_CHROOT",
    "SETFCAP",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SYS_NICE",
    "SYS_TIME",
    "SYSLOG",
    "DAC_READ_SEARCH",
    "LINUX_IMMUTABLE",
    "IPC_LOCK",
)
INIT: Final = "/lib/systemd/systemd"
CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
DOCKER_DATA: Final = "/var/lib/docker"


class HostError(RuntimeError):
    """A host cannot be made, reached or removed; the message says why."""


@dataclass(frozen=True)
class Result:
    """What a command in a host did."""

    code: int
    stdout: bytes
    stderr: bytes


def host_settings(*, cloud_init: bool = True) -> dict[str, Any]:
    """Return what makes a container a host, under the names of `community.docker.docker_container`.

    Args:
        cloud_init: False for a host without a metadata service: it would wait for one in vain for 20 seconds.
    """
    return {
        # PID 1's arguments stand in for the kernel's command line, where cloud-init looks for its switch.
        "command": [INIT] if cloud_init else [INIT, "cloud-init=disabled"],
        "capabilities": list(CAPABILITIES),
        "security_opts": ["seccomp=unconfined", "apparmor=unconfined"],
        "tmpfs": ["/run:exec,mode=755", "/run/lock", "/tmp:exec,mode=1777"],
        # With cgroup v1 and v2 alike: systemd makes its groups below the container's own, writable only this way.
        "volumes": [f"{CGROUP_ROOT}:{CGROUP_ROOT}:rw"],
        "cgroupns_mode": "host",
        # All loop devices: volumes come and go, and no rule can be added to what systemd has already started.
        "device_cgroup_rules": ["b 7:* rmw"],
        "env": {"container": "docker"},
        "stop_signal": "SIGRTMIN+3",
        "stop_timeout": 20,
    }


def create_host(
    client: Any,
    *,
    name: str,
    image: str,
    network: str,
    ip: str | None,
    dns: Sequence[str],
    labels: Mapping[str, str],
    docker_dir: Path | None,
    hostname: str,
    search: Sequence[str] = (),
    cloud_init: bool = True,
) -> Any:
    """Create a host and return its container, not started: whatever answers it at boot can learn its address first.

    Args:
        client: a Docker SDK client.
        name: the container's name.
        image: a tag from `sandbox.image.ensure`, or a committed one.
        network: name of the Docker network.
        ip: its address there, or None for the next free one.
        dns: the VPC's resolvers.
        labels: set on the container and on its volume, so that cleaning up can find both.
        docker_dir: directory of this machine for the host's own engine; None for a volume that goes with the host.
        hostname: the first label of the host's name.
        search: domains in which the host looks up short names; the first is the host's own.
        cloud_init: see `host_settings`.

    Raises:
        HostError: the engine refused.
    """
    settings = host_settings(cloud_init=cloud_init)
    api = client.api
    if docker_dir is None:
        source = f"{name}-docker"
        client.volumes.create(source, labels=dict(labels))
    else:
        docker_dir.mkdir(parents=True, exist_ok=True)
        source = str(docker_dir)
    host_config = api.create_host_config(
        network_mode=network,
        cap_add=settings["capabilities"],
        security_opt=settings["security_opts"],
        tmpfs=dict(entry.partition(":")[::2] for entry in settings["tmpfs"]),
        binds=[*settings["volumes"], f"{source}:{DOCKER_DATA}"],
        device_cgroup_rules=settings["device_cgroup_rules"],
        dns=list(dns) or None,
        dns_search=list(search) or None,
    )
    # The engine would hide the resolvers behind one of its own; the host's boot puts these in its place.
    names = {"SANDBOX_NAME": name, "SANDBOX_NAMESERVERS": " ".join(dns), "SANDBOX_SEARCH": " ".join(search)}
    # The SDK knows no argument for it.
    host_config["CgroupnsMode"] = settings["cgroupns_mode"]
    try:
        created = api.create_container(
            image,
            name=name,
            hostname=hostname,
            command=settings["command"],
            environment=settings["env"] | names,
            labels=dict(labels),
            stop_signal=settings["stop_signal"],
            host_config=host_config,
            networking_config=api.create_networking_config({network: endpoint(api, ip)}),
        )
        return client.containers.get(created["Id"])
    except docker.errors.APIError as error:
        if docker_dir is None:
            # Refused when another host of this name has it.
            with contextlib.suppress(docker.errors.APIError):
                _remove_volume(client, source)
        raise HostError(f"host {name} cannot be created: {error.explanation or error}") from error


def endpoint(api: Any, ip: str | None) -> Any:
    """A container's place in a network, with the hardware address that goes with its IP address."""
    if ip is None or docker.utils.version_lt(api.api_version, "1.44"):
        return api.create_endpoint_config(ipv4_address=ip)
    # Older engines make the hardware address from the other one, newer ones at random.
    return api.create_endpoint_config(ipv4_address=ip, mac_address=mac_of(ip))


def read_file(container: Any, path: str) -> bytes:
    """Return a file of a host, which need not run.

    Raises:
        HostError: there is none.
    """
    try:
        stream, _ = container.get_archive(path)
    except docker.errors.NotFound as error:
        raise HostError(f"host {container.name} has no {path}") from error
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        content = archive.extractfile(archive.getmembers()[0])
        return content.read() if content is not None else b""


def write_files(container: Any, files: Mapping[str, bytes]) -> None:
    """Put files into a host, by their absolute paths, readable to all. The host need not run."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode, member.mtime = len(content), 0o644, int(time.time())
            archive.addfile(member, io.BytesIO(content))
    container.put_archive("/", buffer.getvalue())


def exec_in(
    container: Any,
    argv: Sequence[str],
    input: bytes | None = None,  # noqa: A002 - the name subprocess gives it
    timeout: float = 60,
) -> Result:
    """Run a command in a host and return its result, whatever its exit code.

    It enters the host's namespaces and its cgroup through the engine's own client, so it is killed with the host.

    Args:
        container: the host's container or its id or name.
        argv: the command; no shell is involved.
        input: bytes for its standard input, which is empty otherwise.
        timeout: seconds.

    Raises:
        HostError: the command did not end in time.
    """
    target = container if isinstance(container, str) else container.id
    command = ["docker", "exec", "-i", target, *argv]
    try:
        done = subprocess.run(command, input=input or b"", capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{argv[0]} in host {target[:12]} did not end within {timeout:g} s") from error
    return Result(done.returncode, done.stdout, done.stderr)


def host_pid(container: Any) -> int:
    """Return the machine's process id of a host's init.

    Raises:
        HostError: the host does not run.
    """
    container.reload()
    pid = int(container.attrs["State"]["Pid"])
    if pid == 0:
        raise HostError(f"host {container.name} does not run ({container.status})")
    return pid


def create_interface(client: Any, *, name: str, image: str, network: str, ip: str, labels: Mapping[str, str]) -> Any:
    """Start a container that is nothing but a network interface, as AWS's services have them in a subnet.

    Args:
        client: a Docker SDK client.
        name: the container's name.
        image: any image with `sleep`.
        network: name of the Docker network.
        ip: its address there.
        labels: so that cleaning up can find it.
    """
    api = client.api
    created = api.create_container(
        image,
        name=name,
        entrypoint=["sleep"],
        command=["infinity"],
        labels=dict(labels),
        host_config=api.create_host_config(network_mode=network, init=True),
        networking_config=api.create_networking_config({network: endpoint(api, ip)}),
    )
    started = client.containers.get(created["Id"])
    started.start()
    return started


def remove_host(client: Any, container: Any) -> None:
    """Remove a host, its own volume and the cgroups it leaves behind. A host that is gone already is no error.

    A directory given as `docker_dir` is not removed: it belongs to whoever made it.
    """
    identifiers = [container.id, *_nested(container)]
    with contextlib.suppress(docker.errors.NotFound):
        container.remove(force=True, v=True)
    _remove_volume(client, f"{container.name}-docker")
    for identifier in identifiers:
        remove_cgroups(identifier)


def _nested(container: Any) -> list[str]:
    """Return the ids of the containers of a host's own engine.

    Their cgroups are not below the host's: that engine sees the machine's tree and makes them beside it.
    """
    mounts = container.attrs.get("Mounts", [])
    sources = [Path(mount["Source"]) for mount in mounts if mount.get("Destination") == DOCKER_DATA]
    return [path.name for source in sources for path in (source / "containers").glob("*") if path.is_dir()]


def _remove_volume(client: Any, name: str) -> None:
    with contextlib.suppress(docker.errors.NotFound):
        client.volumes.get(name).remove(force=True)


def remove_cgroups(identifier: str, root: Path = CGROUP_ROOT) -> int:
    """Remove the empty cgroups of a container that is gone and those below them, and return how many.

    The engine removes only the one it made, and cannot while there are others below it.
    """
    removed = 0
    for directory in _cgroups_of(identifier, root):
        for path, _, _ in os.walk(directory, topdown=False):
            # Not empty: something still runs there, so it is not ours to remove.
            with contextlib.suppress(OSError):
                os.rmdir(path)
                removed += 1
    return removed


def _cgroups_of(identifier: str, root: Path) -> list[Path]:
    """Return the container's own cgroup in every hierarchy, for either of the engine's cgroup drivers."""
    names = (f"docker/{identifier}", f"system.slice/docker-{identifier}.scope")
    hierarchies = [root, *(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    found = {(tree / name).resolve() for tree in hierarchies for name in names if (tree / name).is_dir()}
    return sorted(found)


def main(argv: Sequence[str]) -> int:
    """Print the settings of a host as JSON for a playbook."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.container", description=main.__doc__)
    parser.add_argument("--vars", action="store_true", required=True, help="print the settings")
    parser.add_argument("--cloud-init", action="store_true", help="for a host with a metadata service")
    options = parser.parse_args(argv)
    print(json.dumps(host_settings(cloud_init=options.cloud_init), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
