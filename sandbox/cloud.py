"""The real world behind the records: hosts, disks, filters and signals of one sandbox.

`Cloud` is the `Machine` of moto_gaps: it is told what the API decided and makes it so with Docker, loop devices and
iptables. A tick every half second looks after what nobody calls for: Auto Scaling, security groups, hosts that died.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, NotFound
from moto.autoscaling.models import autoscaling_backends
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import StateReason
from moto.sts.models import sts_backends

from sandbox import container, firewall, iam, image, imds, names, pool, resolver, vpc
from sandbox.moto_gaps import tend
from sandbox.paths import LABEL, Home
from sandbox.scaling import Hooks
from sandbox.shell import ToolFailed, run, succeeds
from sandbox.times import Chance, Span, Times

log = logging.getLogger("sandbox")

# Where Debian's programs look for the authorities that they trust, and for the settings of apt.
AUTHORITY = "/usr/local/share/ca-certificates/spotcache-sandbox.crt"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
HASHED = "/etc/ssl/certs"
APT_CONF = "/etc/apt/apt.conf.d/99mmdebstrap"
ROOT_DEVICES = ("/dev/xvda", "/dev/sda1")
TICK_S = 0.5
GRACE_S = 20  # how long a host may take to shut down before it is cut off


@dataclass
class Signals:
    """What IMDS tells one instance beyond its records."""

    action: str = ""
    action_time: datetime | None = None
    rebalance_time: datetime | None = None
    fault: str = ""


@dataclass
class Faults:
    """What the outside does to capacity: zones that are down, Spot pools that are empty, pools interrupted lately."""

    zones_down: set[str] = field(default_factory=set)
    no_spot: set[tuple[str, str]] = field(default_factory=set)
    interrupted: dict[tuple[str, str], float] = field(default_factory=dict)
    refused: dict[str, set[str]] = field(default_factory=dict)  # groups that get nothing, and in which zones


def text_of(value: Any) -> str:
    """Moto keeps key material as bytes or text, whichever way it came."""
    return value.decode() if isinstance(value, bytes) else str(value or "")


def link_name(volume_id: str) -> str:
    """Name below /dev/disk/by-id that an EBS volume has on Nitro instances, whatever the order of attachment."""
    return f"nvme-Amazon_Elastic_Block_Store_{volume_id.replace('-', '')}"


class Cloud:
    """Everything real of one sandbox."""

    hooks_of_filter = firewall.HOOKS
    snapshot_seconds = 1.0
    snapshot_result = "succeeded"  # of the next snapshot; those after it succeed again

    def __init__(self, home: Home, account: str, region: str, api_port: int) -> None:
        self.home = home
        self.account, self.region, self.api_port = account, region, api_port
        self.docker = docker.from_env(timeout=120)
        self.pool = pool.Pool(home)
        self.times, self.chance = Times(), Chance("")
        self.images: dict[str, str] = {}
        self.signals: dict[str, Signals] = {}
        self.faults = Faults()
        self.minors: dict[str, int] = {}
        self.disks: dict[str, dict[str, str]] = {}
        self.rules: dict[str, tuple[str, str]] = {}
        self.hung: set[str] = set()
        self.networks: dict[str, str] = {}
        self.edges: dict[str, vpc.Edge] = {}
        self.certificate, self.certificate_hash = b"", ""  # whom hosts trust beside the world's authorities
        self.on_vpc: list[Callable[[vpc.Edge, str], None]] = []
        self.on_event: list[Callable[[str, str, dict[str, Any], list[str]], None]] = []
        self.on_tick: list[Callable[[], None]] = []
        self.hooks = Hooks(self.put_event)
        self.workers = ThreadPoolExecutor(32, thread_name_prefix="host")
        self.lock = threading.RLock()
        self.stopping = threading.Event()

    @property
    def ec2(self) -> Any:
        """Moto's EC2 records."""
        return ec2_backends[self.account][self.region]

    @property
    def groups(self) -> Any:
        """Moto's Auto Scaling records."""
        return autoscaling_backends[self.account][self.region]

    # -- time -------------------------------------------------------------------------------------------------------

    def takes(self, what: str, span: Span) -> float:
        """How many seconds something takes this time."""
        return self.chance.between(what, span)

    def later(self, seconds: float, act: Callable[[], None], about: str) -> None:
        """Do something after a while, unless the sandbox is stopped before."""

        def run_later() -> None:
            if self.stopping.wait(seconds):
                return
            try:
                act()
            except Exception:
                # Nobody waits for this thread: what it says in the log is all that is ever heard of it.
                log.exception("%s failed", about)

        self.workers.submit(run_later)

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def name_of(self, instance_id: str) -> str:
        """Name of the container that is this instance."""
        return self.home.prefix + instance_id

    def host(self, instance_id: str) -> Any:
        """The container of an instance, or None."""
        try:
            return self.docker.containers.get(self.name_of(instance_id))
        except NotFound:
            return None

    def launch(self, instance: Any) -> None:
        """Give a pending instance its host, in the background as AWS does."""
        self.signals[instance.id] = Signals()
        self.workers.submit(self._guarded, self._boot, instance)

    def _guarded(self, act: Callable[..., None], instance: Any, *rest: Any) -> None:
        try:
            act(instance, *rest)
        except Exception as error:
            log.exception("%s of %s failed", act.__name__, instance.id)
            if act == self._boot:
                instance.state_reason = StateReason(f"Server.InternalError: {error}", "Server.InternalError")
                self._gone(instance)

    def _boot(self, instance: Any) -> None:
        begun = time.monotonic()
        if self.stopping.wait(self.takes("launch", self.times.launch)) or instance.state != "pending":
            return
        network = self.network(instance.vpc_id)
        image = self.images.get(instance.image_id)
        if image is None:
            raise ToolFailed(f"image {instance.image_id} is not one of this sandbox's: {', '.join(self.images)}")
        host = self._make(instance, network, image)
        self.follow(instance.vpc_id)
        host.start()
        self._connect(instance)
        for device, block in instance.get_block_device_mapping:
            if device not in ROOT_DEVICES:
                self._plug(instance, self.ec2.get_volume(block.volume_id), device)
        self._go(instance)
        with self.lock:
            if instance.state == "pending":
                instance._state.name, instance._state.code = "running", 16
        log.info("%s runs as %s after %.2f s", instance.id, host.name, time.monotonic() - begun)

    def _make(self, instance: Any, network: str, image: str) -> Any:
        """The container that is an instance, not started."""
        baked = self.pool.file(instance.image_id)
        docker_dir = self.pool.docker_disk(instance.id, baked if baked.exists() else None)
        host = container.create_host(
            self.docker,
            name=self.name_of(instance.id),
            image=image,
            network=network,
            ip=instance.private_ip,
            dns=[self.resolver_of(instance.vpc_id)],
            search=[resolver.internal_suffix(self.region)],
            labels=self.home.labels(instance=instance.id),
            docker_dir=docker_dir,
            hostname=self.hostname_of(instance),
        )
        self._furnish(host)
        return host

    @staticmethod
    def hostname_of(instance: Any) -> str:
        """The first label of an instance's name."""
        return f"ip-{instance.private_ip.replace('.', '-')}"

    def _go(self, instance: Any) -> None:
        """The host has everything it starts with; a container runs already."""

    def _halt(self, instance: Any, host: Any) -> None:  # noqa: ARG002 - machines need it
        """Have a host shut down, and cut it off when it takes too long."""
        host.stop(timeout=GRACE_S)

    def _furnish(self, host: Any) -> None:
        """Have a host trust the sandbox's authority, and take packages straight from where AWS's hosts do.

        An image that was made of a host has this already.
        """
        bundle = container.read_file(host, BUNDLE)
        files = {AUTHORITY: self.certificate, APT_CONF: image.apt_conf(image.APT_OWN).encode()}
        if self.certificate not in bundle:
            files |= {BUNDLE: bundle + self.certificate, f"{HASHED}/{self.certificate_hash}.0": self.certificate}
        container.write_files(host, files)

    def _connect(self, instance: Any) -> None:
        """What the outside gives a host when its kernel comes up: IPv6 addresses, and its security groups' filter."""
        host = self.host(instance.id)
        if host is not None and host.status == "running":
            networks = vpc.networks_6(self.ec2.get_vpc(instance.vpc_id))
            vpc.give_ipv6(container.host_pid(host), vpc.addresses_6(instance), networks)
        self.rules.pop(instance.id, None)
        self.filter(instance)

    def shut_down(self, instance: Any, gone: Callable[[], None]) -> None:
        """End an instance as the API does: the host shuts down, its disks are let go, the record ends."""
        self.workers.submit(self._guarded, self._end, instance, gone)

    def _end(self, instance: Any, gone: Callable[[], None]) -> None:
        due = time.monotonic() + self.takes("end", self.times.end)
        host = self.host(instance.id)
        if host is not None:
            if instance.id in self.hung:
                self.thaw(instance.id)
            else:
                self._halt(instance, host)
        self.stopping.wait(max(0.0, due - time.monotonic()))
        self._remove(instance, host)
        gone()

    def _remove(self, instance: Any, host: Any) -> None:
        if host is not None:
            container.remove_host(self.docker, host)
        self.pool.drop_docker_disk(instance.id)
        for volume_id in list(self.disks.pop(instance.id, {})):
            self._release(volume_id)
        self.rules.pop(instance.id, None)

    def _gone(self, instance: Any) -> None:
        instance._state.name, instance._state.code = "shutting-down", 32
        self._remove(instance, self.host(instance.id))
        instance.terminate()

    def lose(self, instance_id: str, reason: str = "Server.SpotInstanceTermination") -> None:
        """The host is gone at once, with every byte it had not yet written to its volumes."""
        instance = self.ec2.get_instance(instance_id)
        self.faults.interrupted[(instance.placement.zone, instance.instance_type)] = time.monotonic()
        instance._state.name, instance._state.code = "shutting-down", 32
        host = self.host(instance_id)
        with self._kept(instance_id):
            if host is not None:
                try:
                    host.kill()
                except APIError:
                    log.info("%s was not running", instance_id)
            self._remove(instance, host)
        instance.state_reason = StateReason(f"{reason}: instance lost", reason)
        log.info("%s is lost", instance_id)
        if (seconds := self.takes("end", self.times.end)) > 0:
            # Its volumes are attached to it until EC2 calls it terminated.
            self.later(seconds, instance.terminate, f"the end of {instance_id}")
        else:
            instance.terminate()

    @contextlib.contextmanager
    def _kept(self, instance_id: str) -> Iterator[None]:
        """The volumes of a host keep the bytes they have now, whatever is written to them meanwhile.

        What the host's kernel still holds in memory would reach the disk when the kernel, which is ours, lets go.
        """
        kept = list(self.disks.get(instance_id, {}))
        for volume_id in kept:
            self.pool.clone(self.pool.file(volume_id), self.pool.file(f"{volume_id}.kept"))
        yield
        for volume_id in kept:
            os.replace(self.pool.file(f"{volume_id}.kept"), self.pool.file(volume_id))

    def stop(self, instance: Any) -> None:
        """StopInstances."""
        if (host := self.host(instance.id)) is not None:
            self._halt(instance, host)

    def start(self, instance: Any) -> None:
        """StartInstances: the host comes back with its disks."""
        if (host := self.host(instance.id)) is not None:
            host.start()
            self._connect(instance)

    def reboot(self, instance: Any) -> None:
        """RebootInstances."""
        if (host := self.host(instance.id)) is not None:
            host.restart(timeout=GRACE_S)
            self._connect(instance)

    def hang(self, instance_id: str) -> None:
        """The host neither runs nor answers, yet the API calls it running."""
        host = self.host(instance_id)
        if host is None:
            raise ToolFailed(f"{instance_id} has no host")
        pid = container.host_pid(host)
        for tool, chain in itertools.product(("iptables", "ip6tables"), ("INPUT", "OUTPUT", "FORWARD")):
            run("nsenter", "-t", str(pid), "-n", tool, "-w", "-I", chain, "-j", "DROP")
        host.pause()
        self.hung.add(instance_id)

    def thaw(self, instance_id: str) -> None:
        """Undo `hang`, or let a hung host die."""
        if (host := self.host(instance_id)) is not None:
            host.unpause()
            pid = container.host_pid(host)
            for tool, chain in itertools.product(("iptables", "ip6tables"), ("INPUT", "OUTPUT", "FORWARD")):
                run("nsenter", "-t", str(pid), "-n", tool, "-w", "-D", chain, "-j", "DROP", check=False)
        self.hung.discard(instance_id)

    # -- disks ---------------------------------------------------------------------------------------------------------

    def attach(self, volume: Any, instance: Any, device: str) -> None:
        """AttachVolume, when its time has come: the host gets the device's node."""
        if device not in ROOT_DEVICES and instance.state == "running" and self.host(instance.id) is not None:
            self._plug(instance, volume, device)

    def _plug(self, instance: Any, volume: Any, device: str) -> None:
        with self.lock:
            disks = self.disks.setdefault(instance.id, {})
            if volume.id in disks:
                # A host that comes up has its volumes at once, and EC2's own word on the attachment comes after that.
                return
            used = set(disks.values())
            node = next(f"nvme{n}n1" for n in range(1, 27) if f"nvme{n}n1" not in used)
            disks[volume.id] = node
            file = self.pool.ensure(volume.id, int(volume.size))
        self._insert(instance, volume.id, file, node, device)

    def _insert(self, instance: Any, volume_id: str, file: Path, node: str, device: str) -> None:
        """Give a host the device of a volume."""
        with self.lock:
            minor = self.minors[volume_id] = self.pool.loop_up(file)
        links = [f"disk/by-id/{link_name(volume_id)}", device.removeprefix("/dev/")]
        self._inside(instance.id, "sandbox-volumes", "attach", node, "7", str(minor), *links)

    def _eject(self, instance: Any, volume_id: str, node: str) -> None:
        """Take it away."""
        self._inside(instance.id, "sandbox-volumes", "detach", node)
        self._release(volume_id)

    def _inside(self, instance_id: str, *argv: str) -> None:
        host = self.host(instance_id)
        if host is not None:
            pid = container.host_pid(host)
            # With the host's own /proc: without its pid namespace mknod cannot set the node's mode.
            run("nsenter", "-t", str(pid), "-m", "-p", "--", *argv)

    def detach(self, volume: Any, instance: Any) -> None:
        """DetachVolume, when its time has come: the node goes; a file system still mounted is torn off."""
        node = self.disks.get(instance.id, {}).pop(volume.id, None)
        if node is not None:
            self._eject(instance, volume.id, node)

    def _release(self, volume_id: str) -> None:
        minor = self.minors.pop(volume_id, None)
        if minor is not None:
            self.pool.loop_down(minor)

    def fill(self, volume: Any, snapshot_id: str) -> None:
        """A volume made from a snapshot has the snapshot's bytes."""
        source = self.pool.file(snapshot_id)
        if source.exists():
            self.pool.clone(source, self.pool.file(volume.id), int(volume.size))

    def copy(self, volume: Any, snapshot: Any) -> None:
        """CreateSnapshot: the bytes on the volume at this moment, not what a host still holds in memory."""
        source = self.pool.file(volume.id)
        if source.exists():
            self.pool.clone(source, self.pool.file(snapshot.id))

    def forget(self, object_id: str) -> None:
        """A volume, snapshot or image was deleted."""
        self.pool.forget(object_id)
        image = self.images.pop(object_id, None) if object_id.startswith("ami-") else None
        if image is not None and image.startswith(f"{LABEL}/ami:"):
            self.docker.images.remove(image, force=True)

    def bake(self, instance: Any, image: Any) -> None:
        """CreateImage: the host's root and its /var/lib/docker, committed."""
        host = self.host(instance.id)
        if host is None:
            raise ToolFailed(f"{instance.id} has no host to make an image of")
        # The labels of the host must not pass to the image: they say which containers are hosts.
        host.commit(repository=f"{LABEL}/ami", tag=image.id, changes=[f"LABEL {LABEL}.image={self.home.name}"])
        run("sync", "-f", str(self.home.hosts / instance.id / "docker"))
        self.pool.clone(self.pool.file(f"docker-{instance.id}"), self.pool.file(image.id))
        self.images[image.id] = f"{LABEL}/ami:{image.id}"

    # -- networks ------------------------------------------------------------------------------------------------------

    def network(self, vpc_id: str) -> str:
        """The Docker network of a VPC, made at its first use, with what answers its hosts beside it."""
        with self.lock:
            if vpc_id in self.networks:
                return self.networks[vpc_id]
            cidr = ipaddress.ip_network(self.ec2.get_vpc(vpc_id).cidr_block)
            resolver = str(cidr[2])
            edge = vpc.Edge(vpc_id, str(cidr), f"{self.home.comment}/{vpc.bridge_of(vpc_id)}")
            name = self.home.prefix + vpc_id
            ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=str(cidr), gateway=edge.gateway)])
            self.docker.networks.create(
                name,
                driver="bridge",
                ipam=ipam,
                labels=self.home.labels(vpc=vpc_id),
                options={"com.docker.network.bridge.name": edge.bridge},
            )
            run("ip", "address", "add", f"{resolver}/{cidr.prefixlen}", "dev", edge.bridge)
            edge.open()
            for act in self.on_vpc:
                act(edge, resolver)
            self.networks[vpc_id], self.edges[vpc_id] = name, edge
            return name

    def follow(self, vpc_id: str) -> None:
        """Let the hosts of a VPC reach what their route tables give them, and nothing else."""
        if (edge := self.edges.get(vpc_id)) is not None:
            edge.follow(vpc.networks_6(self.ec2.get_vpc(vpc_id)), vpc.Vpcs(self.ec2).guests(vpc_id))

    def resolver_of(self, vpc_id: str) -> str:
        """The VPC's resolver: its base address plus two."""
        return str(ipaddress.ip_network(self.ec2.get_vpc(vpc_id).cidr_block)[2])

    def filter(self, instance: Any) -> None:
        """Make the host's packet filter what its security groups say."""
        host = self.host(instance.id)
        if host is None or host.status != "running" or instance.id in self.hung:
            return
        members = self.members()
        found = [self.ec2.get_security_group_from_id(group.id) for group in instance.security_groups]
        groups, cidr = self.groups_of(found), self.ec2.get_vpc(instance.vpc_id).cidr_block
        texts = (
            firewall.rules(groups, members, vpc_cidr=cidr),
            firewall.rules(groups, members, vpc_cidr=cidr, version=6),
        )
        if self.rules.get(instance.id) != texts:
            for text, tool in zip(texts, ("iptables", "ip6tables"), strict=True):
                firewall.apply(container.host_pid(host), text, tool, self.hooks_of_filter)
            self.rules[instance.id] = texts

    def groups_of(self, groups: list[Any]) -> list[firewall.Group]:
        """Moto's security groups in the firewall's own words."""
        return [
            firewall.Group(
                id=group.id,
                ingress=tuple(map(self._rule, group.ingress_rules)),
                egress=tuple(map(self._rule, group.egress_rules)),
            )
            for group in groups
            if group is not None
        ]

    def _rule(self, rule: Any) -> firewall.Rule:
        networks = [rule.ip_range.get("CidrIp"), rule.ip_range.get("CidrIpv6"), *self._prefixes(rule.prefix_list_id)]
        group = rule.source_group.get("GroupId")
        return firewall.Rule(
            protocol=str(rule.ip_protocol),
            from_port=rule.from_port,
            to_port=rule.to_port,
            cidrs=tuple(network for network in networks if network),
            groups=(group,) if group else (),
        )

    def _prefixes(self, list_id: str | None) -> list[str]:
        """The networks of a prefix list; S3's are where S3 is here."""
        found = self.ec2.managed_prefix_lists.get(list_id) if list_id else None
        if found is None:
            return []
        if str(found.prefix_list_name).endswith(".s3"):
            return [names.S3_NETWORK]
        return [str(entry["Cidr"]) for entry in found.entries.get(found.version) or []]

    def members(self) -> dict[str, list[str]]:
        """Addresses of the members of each security group: hosts, and interfaces of services."""
        members: dict[str, list[str]] = {}
        for one in self.instances():
            for group in one.security_groups:
                members.setdefault(group.id, []).extend((one.private_ip, *vpc.addresses_6(one)))
        for interface in list(self.ec2.enis.values()):
            if interface.instance is None:
                for group in interface.group_set:
                    addresses = (interface.private_ip_address, *interface.ipv6_addresses)
                    members.setdefault(group.id, []).extend(addresses)
        return members

    def instances(self, *states: str) -> list[Any]:
        """Instances in the states given; by default those that exist."""
        wanted = states or ("pending", "running", "stopped", "shutting-down")
        return [i for r in list(self.ec2.reservations.values()) for i in r.instances if i.state in wanted]

    # -- capacity ------------------------------------------------------------------------------------------------------

    def capacity(self, zone: str, instance_type: str, market: str) -> bool:
        """Whether a pool has anything to give."""
        if zone in self.faults.zones_down:
            return False
        return market != "spot" or not self.faults.no_spot & {(zone, instance_type), (zone, "*")}

    def scored(self, pools: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Pools in the order a capacity-optimised choice takes them: those interrupted lately last."""
        return sorted(pools, key=lambda p: self.faults.interrupted.get(p, 0.0))

    def fail_zone(self, zone: str) -> list[str]:
        """A zone is lost: its hosts are gone and it gives no new ones. Returns the instances lost."""
        self.faults.zones_down.add(zone)
        lost = [i.id for i in self.instances("pending", "running") if i.placement.zone == zone]
        for instance_id in lost:
            self.lose(instance_id, "Server.InternalError")
        return lost

    # -- signals -------------------------------------------------------------------------------------------------------

    def notice(self, instance_id: str, seconds: float, action: str = "terminate") -> datetime:
        """The Spot interruption notice: visible at once, fixed in time, and carried out at that time."""
        self.ec2.get_instance(instance_id)
        due = datetime.now(UTC) + timedelta(seconds=seconds)
        # The notice is to the second; rounding up never promises less time than there is.
        if due.microsecond:
            due = due.replace(microsecond=0) + timedelta(seconds=1)
        signals = self.signals.setdefault(instance_id, Signals())
        signals.action, signals.action_time = action, due
        timer = threading.Timer((due - datetime.now(UTC)).total_seconds(), self._interrupt, (instance_id,))
        timer.daemon = True
        timer.start()
        log.info("%s: notice, to be ended at %s", instance_id, due)
        detail = {"instance-id": instance_id, "instance-action": action}
        self.put_event("aws.ec2", "EC2 Spot Instance Interruption Warning", detail, [self._odd_arn(instance_id)])
        return due

    def put_event(self, source: str, kind: str, detail: dict[str, Any], resources: list[str]) -> None:
        """An event of an AWS service, for EventBridge."""
        for act in self.on_event:
            act(source, kind, detail, resources)

    def _odd_arn(self, instance_id: str) -> str:
        # The ARN of Spot's events has the zone in the region's place and no account.
        return f"arn:aws:ec2:{self.ec2.get_instance(instance_id).placement.zone}:instance/{instance_id}"

    def at_risk(self, instance: Any) -> str:
        """Whether EC2 has announced the end of an instance: empty, `rebalance` or `notice`."""
        signals = self.signals.get(instance.id, Signals())
        return "notice" if signals.action_time else "rebalance" if signals.rebalance_time else ""

    def refuses(self, group_name: str, zone: str) -> bool:
        """Whether a group gets no instance in a zone, as a fault that was injected on purpose."""
        return zone in self.faults.refused.get(group_name, set())

    def _interrupt(self, instance_id: str) -> None:
        instance = self.ec2.get_instance(instance_id)
        if instance.state != "running":
            return
        self.faults.interrupted[(instance.placement.zone, instance.instance_type)] = time.monotonic()
        instance.disable_api_termination = False
        self.ec2.terminate_instances([instance_id])

    def rebalance(self, instance_id: str) -> datetime:
        """A rebalance recommendation."""
        self.ec2.get_instance(instance_id)
        now = datetime.now(UTC).replace(microsecond=0)
        self.signals.setdefault(instance_id, Signals()).rebalance_time = now
        detail = {"instance-id": instance_id}
        self.put_event("aws.ec2", "EC2 Instance Rebalance Recommendation", detail, [self._odd_arn(instance_id)])
        return now

    def view(self, address: str) -> imds.InstanceView | None:
        """What the metadata service knows of the host with this address."""
        # A host that shuts down goes on asking until it is gone: it needs its credentials for its last backup.
        states = ("running", "pending", "shutting-down", "stopping", "stopped")
        found = (i for state in states for i in self.instances(state) if i.private_ip == address)
        instance = next(found, None)
        return self.view_of(instance) if instance is not None else None

    def view_of(self, instance: Any) -> imds.InstanceView:
        """The metadata of one instance."""
        association = self.ec2.iam_instance_profile_associations.get(instance.id)
        profile = association.iam_instance_profile if association else None
        role = profile.roles[0] if profile and profile.roles else None
        signals = self.signals.setdefault(instance.id, Signals())
        state = next(
            (s for g in self.groups.autoscaling_groups.values() for s in g.instance_states if s.instance is instance),
            None,
        )
        key = self.ec2.key_pairs.get(instance.key_name) if instance.key_name else None
        options = instance.metadata_options
        return imds.InstanceView(
            instance_id=instance.id,
            account_id=self.account,
            region=self.region,
            zone=instance.placement.zone,
            instance_type=instance.instance_type,
            image_id=instance.image_id,
            life_cycle="spot" if instance.lifecycle == "spot" else "on-demand",
            private_ip=instance.private_ip,
            vpc_id=instance.vpc_id or "",
            vpc_cidr=self.ec2.get_vpc(instance.vpc_id).cidr_block,
            subnet_id=instance.subnet_id or "",
            public_ip=instance.public_ip or "",
            ipv6_addresses=vpc.addresses_6(instance),
            security_groups=tuple((g.id, g.name) for g in instance.security_groups),
            public_key=text_of(key.material_public) if key else "",
            key_name=instance.key_name or "",
            tags={t["key"]: t["value"] for t in instance.get_tags()},
            tags_enabled=options.instance_metadata_tags == "enabled",
            http_tokens=options.http_tokens or "optional",
            hop_limit=int(options.http_put_response_hop_limit or 1),
            http_endpoint=options.http_endpoint or "enabled",
            user_data=instance.user_data.decode().encode() if instance.user_data else b"",
            launch_time=instance.launch_time,
            profile_arn=profile.arn if profile else "",
            profile_id=profile.id if profile else "",
            role_name=role.name if role else "",
            credentials=(lambda: self._credentials(role, instance.id)) if role and self._assumes(role) else None,
            target_lifecycle_state=target_of(state),
            spot_action=signals.action,
            spot_time=signals.action_time,
            rebalance_time=signals.rebalance_time,
            fault=signals.fault,
        )

    def _assumes(self, role: Any) -> bool:
        return iam.trusts(role, "ec2.amazonaws.com", {})

    def _credentials(self, role: Any, instance_id: str) -> dict[str, str]:
        assumed = sts_backends[self.account]["aws"].assume_role(
            region_name=self.region,
            role_session_name=instance_id,
            role_arn=role.arn,
            policy="",
            duration=6 * 3600,
            external_id="",
        )
        expires = datetime.now(UTC) + timedelta(hours=6)
        return {
            "Code": "Success",
            "LastUpdated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Type": "AWS-HMAC",
            "AccessKeyId": assumed.access_key_id,
            "SecretAccessKey": assumed.secret_access_key,
            "Token": assumed.session_token,
            "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    # -- the tick ------------------------------------------------------------------------------------------------------

    def run_ticks(self) -> None:
        """Look after the sandbox until it is stopped."""
        while not self.stopping.wait(TICK_S):
            try:
                self.tick()
            except Exception:
                log.exception("tick")

    def tick(self) -> None:
        """One look at everything."""
        alive = {c.name for c in self.docker.containers.list(filters={"label": f"{LABEL}={self.home.name}"})}
        for instance in self.instances("running"):
            if self.name_of(instance.id) not in alive:
                log.info("%s: its host ended by itself", instance.id)
                self.lose(instance.id, "Client.InstanceInitiatedShutdown")
            else:
                self.filter(instance)
        for group in list(self.groups.autoscaling_groups.values()):
            tend(group, self)
        for vpc_id in list(self.networks):
            if vpc_id in self.ec2.vpcs:
                self.follow(vpc_id)
            else:
                self._drop_network(vpc_id)
        for act in self.on_tick:
            act()

    def _drop_network(self, vpc_id: str) -> None:
        name, edge = self.networks.pop(vpc_id), self.edges.pop(vpc_id)
        imds.remove_rules(edge.comment)
        edge.close()
        try:
            self.docker.networks.get(name).remove()
        except (NotFound, APIError) as error:
            log.info("network %s: %s", name, error)

    def reachable(self, instance_id: str, port: int = 22) -> bool:
        """Whether a port of the host answers inside its own network (not through its packet filter)."""
        host = self.host(instance_id)
        if host is None or host.status != "running":
            return False
        pid = str(container.host_pid(host))
        return succeeds(["nsenter", "-t", pid, "-n", "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"])


def target_of(state: Any) -> str:
    """The state that Auto Scaling brings an instance to; empty outside of a group."""
    if state is None:
        return ""
    ending = state.instance.state != "running" or state.lifecycle_state.startswith("Terminating")
    return "Terminated" if ending else "InService"
