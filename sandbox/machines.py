"""Virtual machines as EC2 hosts: a kernel, a udev, a systemd of their own, NVMe disks, an end of their own.

A machine's container is its place and its life: the network namespace that a host's container has, with qemu as its
only process. Inside, the namespace's wire and the machine's tap are ports of one bridge, so that the guest has the
instance's hardware and IP addresses and its packets travel as a container's do. The programs are this machine's own,
read-only.

Everything else is `Cloud`'s: what the API decides is carried out here with qemu where it was with a container.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import docker
from docker.errors import APIError

from sandbox import container, firewall, guest_image, image, imds, pool, qemu, resolver, vpc
from sandbox.cloud import APT_CONF, AUTHORITY, BUNDLE, HASHED, Cloud
from sandbox.paths import Home
from sandbox.shell import ToolFailed, run, succeeds

log = logging.getLogger("sandbox")

WIRE: Final = "wire"
TAP: Final = "tap0"
# How long a machine may take to shut down, with a processor that is no more than a program.
GRACE_S: Final = 240.0
# Those of the smallest types that anybody runs a Redis on (t3.small), whatever the instance's type.
PROCESSORS, MEMORY_MIB = 2, 2048
# Makes the bridge, then becomes qemu. The container's interface has another hardware address: the first is the guest's.
SCRIPT: Final = f"""
set -e
ip link set eth0 down
ip address flush dev eth0
ip link set eth0 name {WIRE}
ip link set {WIRE} address "$1"
ip tuntap add {TAP} mode tap
ip link add bridge0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
# No addresses of its own: who has IPv6 is the guest. Where the kernel has no IPv6, there is nothing to switch off.
for one in {WIRE} {TAP} bridge0; do
    ip link set $one addrgenmode none 2>/dev/null || true
done
ip link set {WIRE} master bridge0
ip link set {TAP} master bridge0
ip link set {WIRE} up
ip link set {TAP} up
ip link set bridge0 up
shift
exec "$@"
"""


class Machines(Cloud):
    """Everything real of one sandbox whose hosts are virtual machines."""

    # A bridge's packets are told apart by the port they come in at.
    hooks_of_filter = (
        (firewall.CHAIN_IN, "PREROUTING", f"-m physdev --physdev-in {WIRE}"),
        (firewall.CHAIN_OUT, "PREROUTING", f"-m physdev --physdev-in {TAP}"),
    )

    def __init__(self, home: Home, account: str, region: str, api_port: int) -> None:
        super().__init__(home, account, region, api_port)
        check_machine()
        self.guest = guest_image.ensure(progress=log.info)
        self.kvm = qemu.kvm_works(self.guest.kernel)
        self.gates: dict[str, threading.Lock] = {}
        log.info("hosts are virtual machines, %s", "with KVM" if self.kvm else "without KVM: all takes longer")

    def sockets(self, instance_id: str) -> qemu.Sockets:
        """Where a machine's sockets stand."""
        return qemu.Sockets(self.home.hosts / instance_id)

    def root(self, instance_id: str) -> Path:
        """The file that is a machine's root disk."""
        return self.pool.file(f"root-{instance_id}")

    def _gate(self, instance_id: str) -> threading.Lock:
        with self.lock:
            return self.gates.setdefault(instance_id, threading.Lock())

    def _make(self, instance: Any, network: str, tag: str) -> Any:
        base = self.pool.file("guest-base")
        with self.lock:
            if not base.exists():
                run("cp", "--sparse=always", str(self.guest.root), f"{base}.new", timeout=300)
                os.replace(f"{base}.new", base)
        baked = self.pool.file(instance.image_id)
        self.pool.clone(baked if baked.exists() else base, self.root(instance.id))
        sockets = self.sockets(instance.id)
        sockets.folder.mkdir(parents=True, exist_ok=True)
        self._trust(instance.id)
        argv = qemu.command(
            name=instance.id,
            instance_type=instance.instance_type,
            mac=imds.mac_of(instance.private_ip),
            address=self.address(instance),
            root=self.root(instance.id),
            kernel=self.guest.kernel,
            initrd=self.guest.initrd,
            root_label=guest_image.LABEL,
            sockets=sockets,
            kvm=self.kvm,
            processors=PROCESSORS,
            memory_mib=MEMORY_MIB,
        )
        return create(
            self.docker,
            name=self.name_of(instance.id),
            image=tag,
            network=network,
            ip=instance.private_ip,
            labels=self.home.labels(instance=instance.id),
            argv=argv,
            folders=[self.guest.folder, self.home.pool, sockets.folder],
            kvm=self.kvm,
        )

    def address(self, instance: Any) -> qemu.Address:
        """What DHCP and router advertisements would tell an instance."""
        cidr = ipaddress.ip_network(self.ec2.get_vpc(instance.vpc_id).cidr_block)
        return qemu.Address(
            ipv4=f"{instance.private_ip}/{cidr.prefixlen}",
            gateway=str(cidr[1]),
            dns=self.resolver_of(instance.vpc_id),
            search=resolver.internal_suffix(self.region),
            ipv6=vpc.addresses_6(instance),
            networks_6=tuple(vpc.networks_6(self.ec2.get_vpc(instance.vpc_id))),
            router_6=vpc.ROUTER,
        )

    def _trust(self, instance_id: str) -> None:
        """Write what `_furnish` writes into a container, before the machine's first start."""
        with mounted(self.root(instance_id), self.sockets(instance_id).folder / "root") as root:
            bundle = Path(f"{root}{BUNDLE}").read_bytes()
            files = {AUTHORITY: self.certificate, APT_CONF: image.apt_conf(image.APT_OWN).encode()}
            if self.certificate not in bundle:
                files |= {BUNDLE: bundle + self.certificate, f"{HASHED}/{self.certificate_hash}.0": self.certificate}
            for path, content in files.items():
                target = Path(f"{root}{path}")
                target.write_bytes(content)
                target.chmod(0o644)

    def _connect(self, instance: Any) -> None:
        self.rules.pop(instance.id, None)
        self.filter(instance)

    def _go(self, instance: Any) -> None:
        with self._gate(instance.id), qemu.monitor(self.sockets(instance.id)) as wire:
            wire.ask("cont")

    def _halt(self, instance: Any, host: Any) -> None:
        host.reload()
        if host.status != "running":
            return
        begun = time.monotonic()
        with (
            contextlib.suppress(qemu.MachineError),
            self._gate(instance.id),
            qemu.monitor(self.sockets(instance.id)) as wire,
        ):
            wire.ask("system_powerdown")
        while host.status == "running" and time.monotonic() - begun < GRACE_S and not self.stopping.is_set():
            time.sleep(0.2)
            host.reload()
        if host.status == "running":
            log.info("%s did not shut down within %.0f s and is cut off", instance.id, GRACE_S)
            with contextlib.suppress(APIError):
                host.kill()

    def start(self, instance: Any) -> None:
        """StartInstances: a new start of qemu, with the disks that the instance has."""
        if (host := self.host(instance.id)) is not None:
            host.start()
            self._connect(instance)
            for volume_id, node in list(self.disks.get(instance.id, {}).items()):
                self._insert(instance, volume_id, self.pool.file(volume_id), node, "")
            self._go(instance)

    def reboot(self, instance: Any) -> None:
        """RebootInstances."""
        if (host := self.host(instance.id)) is not None:
            self._halt(instance, host)
            self.start(instance)

    def _remove(self, instance: Any, host: Any) -> None:
        super()._remove(instance, host)
        self.root(instance.id).unlink(missing_ok=True)
        shutil.rmtree(self.sockets(instance.id).folder, ignore_errors=True)
        self.gates.pop(instance.id, None)

    @contextlib.contextmanager
    def _kept(self, instance_id: str) -> Iterator[None]:
        # What the guest's kernel holds in memory is gone with the guest.
        yield

    def _insert(self, instance: Any, volume_id: str, file: Path, node: str, device: str) -> None:
        slot = int(node.removeprefix("nvme").partition("n")[0])
        with self._gate(instance.id):
            qemu.plug(self.sockets(instance.id), slot, file, volume_id.replace("-", ""))

    def _eject(self, instance: Any, volume_id: str, node: str) -> None:
        if (host := self.host(instance.id)) is not None and host.status == "running":
            with self._gate(instance.id):
                qemu.unplug(self.sockets(instance.id), volume_id.replace("-", ""))

    def bake(self, instance: Any, image: Any) -> None:
        """CreateImage: the bytes on the root disk at this moment."""
        if self.host(instance.id) is None:
            raise ToolFailed(f"{instance.id} has no host to make an image of")
        self.pool.clone(self.root(instance.id), self.pool.file(image.id))
        self.images[image.id] = self.images[instance.image_id]

    def reachable(self, instance_id: str, port: int = 22) -> bool:
        """Whether a port of the host answers inside the host."""
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
        with contextlib.suppress(qemu.MachineError):
            return qemu.execute(self.sockets(instance_id), ["/bin/bash", "-c", script], timeout=20)[0] == 0
        return False


def check_machine() -> None:
    """See that this machine can have virtual machines as hosts.

    Raises:
        ToolFailed: it cannot; the message says what is missing.
    """
    if shutil.which(qemu.PROGRAM) is None:
        raise ToolFailed(f"{qemu.PROGRAM} is missing: apt-get install qemu-system-x86")
    # Security groups are rules of iptables, which sees a bridge's packets only with this.
    bridge = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not bridge.exists() and not (succeeds(["modprobe", "br_netfilter"]) and bridge.exists()):
        raise ToolFailed("this machine's kernel has no br_netfilter, which security groups of virtual machines need")


@contextlib.contextmanager
def mounted(file: Path, point: Path) -> Iterator[Path]:
    """A disk's file system, for a moment.

    Raises:
        ToolFailed: it cannot be mounted.
    """
    point.mkdir(exist_ok=True)
    with pool.loop_lock():
        run("mount", "-o", "loop,noatime", str(file), str(point))
    try:
        yield point
    finally:
        run("umount", str(point))
        point.rmdir()


def create(
    client: Any,
    *,
    name: str,
    image: str,
    network: str,
    ip: str,
    labels: dict[str, str],
    argv: list[str],
    folders: list[Path],
    kvm: bool,
) -> Any:
    """Create a machine's container, not started.

    Args:
        client: a Docker SDK client.
        name: the container's name.
        image: any image whose /bin and /lib are links into /usr.
        network: name of the Docker network.
        ip: the instance's address there.
        labels: so that cleaning up can find it.
        argv: qemu's command line.
        folders: those of this machine that qemu reads and writes.
        kvm: whether it uses KVM.

    Raises:
        HostError: the engine refused.
    """
    api = client.api
    # Distinct from every hardware address that an instance has.
    own = "02:5c:" + imds.mac_of(ip)[6:]
    devices = ["/dev/net/tun:/dev/net/tun:rwm", *(["/dev/kvm:/dev/kvm:rwm"] if kvm else [])]
    host_config = api.create_host_config(
        network_mode=network,
        cap_add=["NET_ADMIN"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        binds=["/usr:/usr:ro", *(f"{folder}:{folder}" for folder in folders)],
        devices=devices,
    )
    try:
        created = api.create_container(
            image,
            name=name,
            entrypoint=["/bin/sh", "-c", SCRIPT, "machine"],
            command=[own, *argv],
            labels=labels,
            host_config=host_config,
            networking_config=api.create_networking_config({network: container.endpoint(api, ip)}),
        )
        return client.containers.get(created["Id"])
    except docker.errors.APIError as error:
        raise container.HostError(f"machine {name} cannot be created: {error.explanation or error}") from error
