"""The real world behind the records: hosts, disks, filters and signals of one sandbox.

`Cloud` is the `Machine` of moto_gaps: it is told what the API decided and makes it so with Docker, loop devices and
iptables. A tick every half second looks after what nobody calls for: Auto Scaling, security groups, hosts that died.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ipaddress
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import docker
from docker.errors import APIError, NotFound
from moto.autoscaling.models import autoscaling_backends
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import StateReason
from moto.sts.models import sts_backends

from sandbox import container, firewall, imds, pool, resolver
from sandbox.moto_gaps import tend
from sandbox.paths import LABEL, Home
from sandbox.scaling import Hooks
from sandbox.shell import ToolFailed, run, succeeds

log = logging.getLogger("sandbox")

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
class Weather:
    """What the outside does to capacity: zones that are down, Spot pools that are empty, pools interrupted lately."""

    zones_down: set[str] = field(default_factory=set)
    no_spot: set[tuple[str, str]] = field(default_factory=set)
    interrupted: dict[tuple[str, str], float] = field(default_factory=dict)
    refused: dict[str, set[str]] = field(default_factory=dict)  # groups that get nothing, and in which zones


def text_of(value: Any) -> str:
    """Moto keeps key material as bytes or text, whichever way it came."""
    return value.decode() if isinstance(value, bytes) else str(value or "")


def vpc_bridge(vpc_id: str) -> str:
    """Name of a VPC's bridge: at most 15 characters, as the kernel wants it."""
    return f"sc{vpc_id[-11:]}"


def link_name(volume_id: str) -> str:
    """Name below /dev/disk/by-id that an EBS volume has on Nitro instances, whatever the order of attachment."""
    return f"nvme-Amazon_Elastic_Block_Store_{volume_id.replace('-', '')}"


class Cloud:
    """Everything real of one sandbox."""

    snapshot_seconds = 1.0
    snapshot_result = "succeeded"  # of the next snapshot; those after it succeed again

    def __init__(self, home: Home, account: str, region: str, api_port: int) -> None:
        self.home = home
        self.account, self.region, self.api_port = account, region, api_port
        self.docker = docker.from_env(timeout=120)
        self.pool = pool.Pool(home)
        self.images: dict[str, str] = {}
        self.signals: dict[str, Signals] = {}
        self.weather = Weather()
        self.minors: dict[str, int] = {}
        self.disks: dict[str, dict[str, str]] = {}
        self.rules: dict[str, str] = {}
        self.hung: set[str] = set()
        self.networks: dict[str, str] = {}
        self.on_vpc: list[Callable[[str, str, str], None]] = []
        self.on_event: list[Callable[[str, str, dict[str, Any], list[str]], None]] = []
        self.on_tick: list[Callable[[], None]] = []
        self.hooks = Hooks(self.tell)
        self.workers = ThreadPoolExecutor(16, thread_name_prefix="host")
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
        network = self.network(instance.vpc_id)
        image = self.images.get(instance.image_id)
        if image is None:
            raise ToolFailed(f"image {instance.image_id} is not one of this sandbox's: {', '.join(self.images)}")
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
            hostname=f"ip-{instance.private_ip.replace('.', '-')}",
        )
        host.start()
        self.filter(instance)
        for device, block in instance.get_block_device_mapping:
            if device not in ROOT_DEVICES:
                self._plug(instance, self.ec2.get_volume(block.volume_id), device)
        with self.lock:
            if instance.state == "pending":
                instance._state.name, instance._state.code = "running", 16
        log.info("%s runs as %s after %.2f s", instance.id, host.name, time.monotonic() - begun)

    def shut_down(self, instance: Any, gone: Callable[[], None]) -> None:
        """End an instance as the API does: the host shuts down, its disks are let go, the record ends."""
        self.workers.submit(self._guarded, self._end, instance, gone)

    def _end(self, instance: Any, gone: Callable[[], None]) -> None:
        host = self.host(instance.id)
        if host is not None:
            if instance.id in self.hung:
                self.thaw(instance.id)
            else:
                host.stop(timeout=GRACE_S)
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
        self._remove(instance, self.host(instance.id))
        instance.terminate()

    def lose(self, instance_id: str, reason: str = "Server.SpotInstanceTermination") -> None:
        """The host is gone at once, with every byte it had not yet written to its volumes."""
        instance = self.ec2.get_instance(instance_id)
        self.weather.interrupted[(instance.placement.zone, instance.instance_type)] = time.monotonic()
        instance._state.name, instance._state.code = "shutting-down", 32
        host = self.host(instance_id)
        kept: list[str] = []
        for volume_id in self.disks.get(instance_id, {}):
            # What the host's kernel still holds in memory would reach the disk when the kernel, which is ours, lets go.
            self.pool.clone(self.pool.file(volume_id), self.pool.file(f"{volume_id}.kept"))
            kept.append(volume_id)
        if host is not None:
            try:
                host.kill()
            except APIError:
                log.info("%s was not running", instance_id)
        self._remove(instance, host)
        for volume_id in kept:
            os.replace(self.pool.file(f"{volume_id}.kept"), self.pool.file(volume_id))
        instance.state_reason = StateReason(f"{reason}: instance lost", reason)
        instance.terminate()
        log.info("%s is lost", instance_id)

    def stop(self, instance: Any) -> None:
        """StopInstances."""
        if (host := self.host(instance.id)) is not None:
            host.stop(timeout=GRACE_S)

    def start(self, instance: Any) -> None:
        """StartInstances: the host comes back with its disks."""
        if (host := self.host(instance.id)) is not None:
            host.start()
            self.rules.pop(instance.id, None)
            self.filter(instance)

    def reboot(self, instance: Any) -> None:
        """RebootInstances."""
        if (host := self.host(instance.id)) is not None:
            host.restart(timeout=GRACE_S)
            self.rules.pop(instance.id, None)
            self.filter(instance)

    def hang(self, instance_id: str) -> None:
        """The host neither runs nor answers, yet the API calls it running."""
        host = self.host(instance_id)
        if host is None:
            raise ToolFailed(f"{instance_id} has no host")
        pid = container.host_pid(host)
        for chain in ("INPUT", "OUTPUT", "FORWARD"):
            run("nsenter", "-t", str(pid), "-n", "iptables", "-w", "-I", chain, "-j", "DROP")
        host.pause()
        self.hung.add(instance_id)

    def thaw(self, instance_id: str) -> None:
        """Undo `hang`, or let a hung host die."""
        if (host := self.host(instance_id)) is not None:
            host.unpause()
            pid = container.host_pid(host)
            for chain in ("INPUT", "OUTPUT", "FORWARD"):
                run("nsenter", "-t", str(pid), "-n", "iptables", "-w", "-D", chain, "-j", "DROP", check=False)
        self.hung.discard(instance_id)

    # -- disks ---------------------------------------------------------------------------------------------------------

    def attach(self, volume: Any, instance: Any, device: str) -> None:
        """AttachVolume: the device node is there when the call returns."""
        if device not in ROOT_DEVICES and instance.state == "running" and self.host(instance.id) is not None:
            self._plug(instance, volume, device)

    def _plug(self, instance: Any, volume: Any, device: str) -> None:
        with self.lock:
            minor = self.pool.loop_up(self.pool.ensure(volume.id, int(volume.size)))
            self.minors[volume.id] = minor
            disks = self.disks.setdefault(instance.id, {})
            used = set(disks.values())
            node = next(f"nvme{n}n1" for n in range(1, 27) if f"nvme{n}n1" not in used)
            disks[volume.id] = node
        links = [f"disk/by-id/{link_name(volume.id)}", device.removeprefix("/dev/")]
        self._inside(instance.id, "sandbox-volumes", "attach", node, "7", str(minor), *links)

    def _inside(self, instance_id: str, *argv: str) -> None:
        host = self.host(instance_id)
        if host is not None:
            pid = container.host_pid(host)
            # With the host's own /proc: without its pid namespace mknod cannot set the node's mode.
            run("nsenter", "-t", str(pid), "-m", "-p", "--", *argv)

    def detach(self, volume: Any, instance: Any) -> None:
        """DetachVolume: the node is gone when the call returns; a file system still mounted is torn off."""
        node = self.disks.get(instance.id, {}).pop(volume.id, None)
        if node is not None:
            self._inside(instance.id, "sandbox-volumes", "detach", node)
            self._release(volume.id)

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
        """The Docker network of a VPC, made at its first use, with metadata service and resolver beside it."""
        with self.lock:
            if vpc_id in self.networks:
                return self.networks[vpc_id]
            cidr = ipaddress.ip_network(self.ec2.get_vpc(vpc_id).cidr_block)
            gateway, resolver = str(cidr[1]), str(cidr[2])
            name, bridge = self.home.prefix + vpc_id, vpc_bridge(vpc_id)
            ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=str(cidr), gateway=gateway)])
            self.docker.networks.create(
                name,
                driver="bridge",
                ipam=ipam,
                labels=self.home.labels(vpc=vpc_id),
                options={"com.docker.network.bridge.name": bridge},
            )
            run("ip", "address", "add", f"{resolver}/{cidr.prefixlen}", "dev", bridge)
            for act in self.on_vpc:
                act(bridge, gateway, resolver)
            self.networks[vpc_id] = name
            return name

    def resolver_of(self, vpc_id: str) -> str:
        """The VPC's resolver: its base address plus two."""
        return str(ipaddress.ip_network(self.ec2.get_vpc(vpc_id).cidr_block)[2])

    def filter(self, instance: Any) -> None:
        """Make the host's packet filter what its security groups say."""
        host = self.host(instance.id)
        if host is None or host.status != "running" or instance.id in self.hung:
            return
        members: dict[str, list[str]] = {}
        for other in self.instances():
            for group in other.security_groups:
                members.setdefault(group.id, []).append(other.private_ip)
        groups = [self.ec2.get_security_group_from_id(group.id) for group in instance.security_groups]
        text = firewall.rules(groups_of(groups), members, vpc_cidr=self.ec2.get_vpc(instance.vpc_id).cidr_block)
        if self.rules.get(instance.id) != text:
            firewall.apply(container.host_pid(host), text)
            self.rules[instance.id] = text

    def instances(self, *states: str) -> list[Any]:
        """Instances in the states given; by default those that exist."""
        wanted = states or ("pending", "running", "stopped", "shutting-down")
        return [i for r in list(self.ec2.reservations.values()) for i in r.instances if i.state in wanted]

    # -- capacity ------------------------------------------------------------------------------------------------------

    def capacity(self, zone: str, instance_type: str, market: str) -> bool:
        """Whether a pool has anything to give."""
        if zone in self.weather.zones_down:
            return False
        return market != "spot" or not self.weather.no_spot & {(zone, instance_type), (zone, "*")}

    def scored(self, pools: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Pools in the order a capacity-optimised choice takes them: those interrupted lately last."""
        return sorted(pools, key=lambda p: self.weather.interrupted.get(p, 0.0))

    def fail_zone(self, zone: str) -> list[str]:
        """A zone is lost: its hosts are gone and it gives no new ones. Returns the instances lost."""
        self.weather.zones_down.add(zone)
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
        self.tell("aws.ec2", "EC2 Spot Instance Interruption Warning", detail, [self._odd_arn(instance_id)])
        return due

    def tell(self, source: str, kind: str, detail: dict[str, Any], resources: list[str]) -> None:
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
        return zone in self.weather.refused.get(group_name, set())

    def _interrupt(self, instance_id: str) -> None:
        instance = self.ec2.get_instance(instance_id)
        if instance.state != "running":
            return
        self.weather.interrupted[(instance.placement.zone, instance.instance_type)] = time.monotonic()
        instance.disable_api_termination = False
        self.ec2.terminate_instances([instance_id])

    def rebalance(self, instance_id: str) -> datetime:
        """A rebalance recommendation."""
        self.ec2.get_instance(instance_id)
        now = datetime.now(UTC).replace(microsecond=0)
        self.signals.setdefault(instance_id, Signals()).rebalance_time = now
        detail = {"instance-id": instance_id}
        self.tell("aws.ec2", "EC2 Instance Rebalance Recommendation", detail, [self._odd_arn(instance_id)])
        return now

    def view(self, address: str) -> imds.InstanceView | None:
        """What the metadata service knows of the host with this address."""
        # A host that shuts down goes on asking until it is gone: it needs its credentials for its last save.
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
            credentials=(lambda: self._credentials(role, instance.id)) if role else None,
            target_lifecycle_state=target_of(state),
            spot_action=signals.action,
            spot_time=signals.action_time,
            rebalance_time=signals.rebalance_time,
            fault=signals.fault,
        )

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
        for vpc_id in [v for v in self.networks if v not in self.ec2.vpcs]:
            self._drop_network(vpc_id)
        for act in self.on_tick:
            act()

    def _drop_network(self, vpc_id: str) -> None:
        name = self.networks.pop(vpc_id)
        imds.remove_rules(f"{self.home.comment}/{vpc_bridge(vpc_id)}")
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


def groups_of(groups: list[Any]) -> list[firewall.Group]:
    """Moto's security groups in the firewall's own words."""
    return [
        firewall.Group(id=g.id, ingress=tuple(map(_rule, g.ingress_rules)), egress=tuple(map(_rule, g.egress_rules)))
        for g in groups
        if g is not None
    ]


def _rule(rule: Any) -> firewall.Rule:
    cidr, group = rule.ip_range.get("CidrIp"), rule.source_group.get("GroupId")
    return firewall.Rule(
        protocol=str(rule.ip_protocol),
        from_port=rule.from_port,
        to_port=rule.to_port,
        cidrs=(cidr,) if cidr else (),
        groups=(group,) if group else (),
    )
