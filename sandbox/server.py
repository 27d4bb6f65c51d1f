"""The process of one sandbox: moto's server, metadata service, resolver, hosts and the control interface."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# moto reads these at import.
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")

import docker
from moto import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.authorization import ActionAuthenticatorMixin
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.iam.models import iam_backends
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.route53.models import route53_backends

from sandbox import image, imds, resolver, tables
from sandbox.cloud import Cloud, Signals, vpc_bridge
from sandbox.events import Bus
from sandbox.fis import Fis
from sandbox.functions import Functions
from sandbox.moto_gaps import Gaps
from sandbox.paths import ROOT, Home, known
from sandbox.scaling import Clock, Schedules
from sandbox.shell import ToolFailed, run
from sandbox.ssm import Ssm
from sandbox.verbs import Verbs

log = logging.getLogger("sandbox")

REGION = "ap-northeast-1"
DEBIAN_OWNER = "136693071363"  # the account that publishes Debian's own AMIs
IMDS_PORT = 8169
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
WATCHERS = 1024
FULL_ACCESS = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def free_cidr(taken: list[str]) -> str:
    """The first 10.x.0.0/16 (x from 77) that overlaps none of the networks given, as CIDR text."""
    used = [ipaddress.ip_network(t, strict=False) for t in taken]
    for second in [*range(77, 255), *range(1, 77)]:
        candidate = ipaddress.ip_network(f"10.{second}.0.0/16")
        if not any(candidate.overlaps(other) for other in used if other.version == 4):
            return str(candidate)
    raise ToolFailed("every 10.x.0.0/16 is in use on this machine: the sandbox finds no network for its VPC")


def allow_many_hosts(limit: Path = INOTIFY) -> None:
    """Raise what a kernel gives all systemds of a machine together: each takes six or so, and hangs without."""
    with contextlib.suppress(OSError):  # not there, or not ours to raise: a few hosts can do with what there is
        if int(limit.read_text()) < WATCHERS:
            limit.write_text(f"{WATCHERS}\n")


def networks_in_use(client: Any) -> list[str]:
    """Networks that the machine routes, that Docker holds, or that another sandbox has reserved."""
    routes = [r["dst"] for r in json.loads(run("ip", "-json", "-4", "route") or "[]") if r["dst"] != "default"]
    pools = [
        c["Subnet"]
        for n in client.networks.list()
        for c in (n.attrs.get("IPAM", {}).get("Config") or [])
        if c.get("Subnet")
    ]
    reserved = []
    for home in known():
        with contextlib.suppress(FileNotFoundError):  # it has not come that far, or is going
            reserved.append(home.cidr.read_text().strip())
    nameservers = [
        line.split()[1] for line in Path("/etc/resolv.conf").read_text().splitlines() if line.startswith("nameserver")
    ]
    return [*routes, *pools, *reserved, *(n for n in nameservers if ":" not in n)]


def reserve_cidr(home: Home, in_use: Callable[[], list[str]]) -> str:
    """Choose the network of a sandbox and note it; of two that come up at once each gets its own.

    Docker learns of it only with the first host, and would then refuse the second sandbox's.
    """
    with open(ROOT / "network.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home.cidr.unlink(missing_ok=True)  # of a run that was killed
        cidr = free_cidr(in_use())
        home.cidr.write_text(f"{cidr}\n", encoding="ascii")
        return cidr


class Server:
    """One running sandbox."""

    def __init__(
        self, home: Home, operator_policy: dict[str, Any], port: int = 0, snapshot_seconds: float = 1.0
    ) -> None:
        self.home = home
        self.operator_policy = operator_policy
        self.account = DEFAULT_ACCOUNT_ID
        self.port = port
        self.snapshot_seconds = snapshot_seconds
        self.token = secrets.token_urlsafe(24)
        self.servers: list[Any] = []

    def start(self) -> dict[str, Any]:
        """Bring everything up and return the state that is written to state.json."""
        self.home.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        tag = image.ensure("debian", progress=log.info)
        docker_tag = image.ensure("debian-docker", progress=log.info)
        client = docker.from_env(timeout=120)
        allow_many_hosts()
        cidr = reserve_cidr(self.home, lambda: networks_in_use(client))
        api = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        api.start()
        self.port = api.get_host_and_port()[1]
        ec2 = ec2_backends[self.account][REGION]
        self.cloud = Cloud(self.home, self.account, REGION, self.port)
        self.cloud.snapshot_seconds = self.snapshot_seconds
        self.cloud.pool.open()
        self.cloud.images = {
            self._ami(ec2, f"debian-{image.chosen_release()}-amd64-20261101-2000", tag): tag,
            self._ami(ec2, f"spotcache-debian-{image.chosen_release()}-docker-20261101", docker_tag): docker_tag,
        }
        bare, with_docker = self.cloud.images
        self.cloud.on_vpc.append(self._serve_vpc)
        Gaps(self.cloud).close()
        ssm = Ssm(self.cloud)
        ssm.close_gaps()
        ssm.listen()
        self._happenings()
        operator = self._user("operator", self.operator_policy)
        # Looks on beside the operator, for whom the least permissions are to suffice.
        owner = self._user("owner", FULL_ACCESS)
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        ActionAuthenticatorMixin.request_count = 0
        self._secrets()
        control = self._control()
        gateway = str(ipaddress.ip_network(cidr)[1])
        state = {
            "name": self.home.name,
            "pid": os.getpid(),
            "log": str(self.home.log),
            "account": self.account,
            "region": REGION,
            "zones": [z.name for z in ec2.describe_availability_zones()],
            "cidr": cidr,
            "endpoint": f"http://127.0.0.1:{self.port}",
            "host_endpoint": f"http://{gateway}:{self.port}",
            "control": f"http://127.0.0.1:{control.server_address[1]}",
            "control_token": self.token,
            "images": {"debian": bare, "debian_docker": with_docker},
            "ssh_key": str(self.home.ssh_key),
            "redis_password_file": str(self.home.redis_password),
            "operator": operator,
            "owner": owner,
        }
        threading.Thread(target=self.cloud.run_ticks, daemon=True, name="tick").start()
        return state

    def _happenings(self) -> None:
        """Events and who is told of them, functions, schedules, experiments."""
        endpoint = f"http://127.0.0.1:{self.port}"
        functions = Functions(self.home.directory / "functions", self.account, REGION, endpoint)
        bus = Bus(self.account, REGION, functions)
        clock = Clock()
        schedules = Schedules(lambda: self.cloud.groups, clock)
        fis = Fis(self.cloud, bus)
        for part in (bus, self.cloud.hooks, schedules, fis):
            part.close_gaps()
        tables.close_gaps()
        self.cloud.on_event.append(bus.tell)
        self.cloud.on_tick += [schedules.tick, lambda: bus.tick(clock.now().timestamp())]
        self.bus = bus
        self.more = Verbs(self.cloud, bus, clock, schedules, fis)
        bus.start()

    def _ami(self, ec2: Any, name: str, tag: str) -> str:
        # The id follows from the content, so that a second sandbox of the same image names it alike.
        ami_id = f"ami-{abs(hash_of(name + tag)):017x}"[:21]
        ec2.amis[ami_id] = Ami(
            ec2,
            ami_id,
            owner_id=DEBIAN_OWNER,
            public=True,
            name=name,
            description="Debian (sandbox)",
            virtualization_type="hvm",
            architecture="x86_64",
            root_device_name="/dev/xvda",
            root_device_type="ebs",
            hypervisor="xen",
            state="available",
        )
        return ami_id

    def _user(self, name: str, policy: dict[str, Any]) -> dict[str, str]:
        iam = iam_backends[self.account]["aws"]
        iam.create_user(region_name=REGION, user_name=name, path="/", tags=None)
        iam.put_user_policy(name, name, json.dumps(policy))
        key = iam.create_access_key(name)
        return {"access_key_id": key.access_key_id, "secret_access_key": key.secret_access_key}

    def _secrets(self) -> None:
        self.home.ssh_key.parent.mkdir(mode=0o700, exist_ok=True)
        if not self.home.ssh_key.exists():
            quiet = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"sandbox-{self.home.name}"]
            subprocess.run([*quiet, "-f", str(self.home.ssh_key)], check=True)
        if not self.home.redis_password.exists():
            descriptor = os.open(self.home.redis_password, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(24))

    def _serve_vpc(self, bridge: str, gateway: str, address: str) -> None:
        """Metadata service, resolver and AWS's API inside a new VPC."""
        metadata = imds.Server(gateway, IMDS_PORT, self.cloud.view)
        metadata.start()
        imds.install_dnat(bridge, gateway, IMDS_PORT, f"{self.home.comment}/{bridge}")
        cidr = next(v.cidr_block for v in self.cloud.ec2.vpcs.values() if vpc_bridge(v.id) == bridge)
        dns = resolver.Server(address, 53, resolver.vpc_lookup(self._zones, REGION, cidr))
        dns.start()
        api = ThreadedMotoServer(gateway, self.port, verbose=False)
        api.start()
        self.servers += [metadata, dns, api]

    def _zones(self) -> list[resolver.Zone]:
        """Route 53's private zones and what stands in them."""
        return [
            resolver.Zone(
                zone.name.rstrip("."),
                tuple(
                    resolver.Record(r.name.rstrip("."), r.type, int(r.ttl or 60), str(value))
                    for r in list(zone.rrsets)
                    for value in (r.records or [])
                    if r.type not in ("NS", "SOA")
                ),
            )
            for zone in list(route53_backends[self.account]["aws"].zones.values())
            if zone.private_zone
        ]

    # -- control -------------------------------------------------------------------------------------------------------

    def command(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """Carry out one verb of the control interface.

        Raises KeyError for an unknown verb or a missing argument, moto's errors or ToolFailed for unknown instances.
        """
        cloud = self.cloud
        if verb == "status":
            return {"instances": [self._status(i) for i in cloud.instances()], "weather": self._weather()}
        if verb == "spot-notice":
            due = cloud.notice(body["instance"], float(body.get("in", 120)), body.get("action", "terminate"))
            return {"time": due.isoformat()}
        if verb == "rebalance":
            return {"time": cloud.rebalance(body["instance"]).isoformat()}
        if verb == "kill":
            cloud.lose(body["instance"])
            return {"killed": body["instance"]}
        if verb == "hang":
            cloud.hang(body["instance"])
            return {"hung": body["instance"]}
        if verb == "thaw":
            cloud.thaw(body["instance"])
            return {"thawed": body["instance"]}
        if verb == "fail-zone":
            self._check_zone(body["zone"])
            return {"lost": cloud.fail_zone(body["zone"])}
        if verb == "restore-zone":
            cloud.weather.zones_down.discard(body["zone"])
            return self._weather()
        if verb in ("no-spot-capacity", "spot-capacity"):
            self._check_zone(body["zone"])
            pool = (body["zone"], body["type"])
            (cloud.weather.no_spot.add if verb == "no-spot-capacity" else cloud.weather.no_spot.discard)(pool)
            return self._weather()
        if verb == "imds-fault":
            cloud.signals.setdefault(body["instance"], Signals()).fault = body["fault"]
            return {"fault": body["fault"]}
        if verb == "snapshot-seconds":
            cloud.snapshot_seconds = float(body["seconds"])
            return {"seconds": cloud.snapshot_seconds}
        return self.more.command(verb, body)

    def _check_zone(self, zone: str) -> None:
        zones = [z.name for z in self.cloud.ec2.describe_availability_zones()]
        if zone not in zones:
            raise ToolFailed(f"zone {zone} is not in {REGION}: use one of {', '.join(zones)}")

    def _weather(self) -> dict[str, Any]:
        weather = self.cloud.weather
        return {"zones_down": sorted(weather.zones_down), "no_spot_capacity": sorted(map(list, weather.no_spot))}

    def _status(self, instance: Any) -> dict[str, Any]:
        signals = self.cloud.signals.get(instance.id, Signals())
        return {
            "id": instance.id,
            "state": instance.state,
            "zone": instance.placement.zone,
            "type": instance.instance_type,
            "market": instance.lifecycle or "on-demand",
            "ip": instance.private_ip,
            "host": self.cloud.name_of(instance.id),
            "volumes": self.cloud.disks.get(instance.id, {}),
            "notice": signals.action_time.isoformat() if signals.action_time else None,
            "hung": instance.id in self.cloud.hung,
        }

    def _control(self) -> ThreadingHTTPServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            """JSON over loopback HTTP: POST /VERB."""

            def do_POST(self) -> None:
                if not secrets.compare_digest(self.headers.get("Authorization", ""), f"Bearer {server.token}"):
                    return self._answer(401, {"error": "the token of state.json is missing or wrong"})
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                try:
                    self._answer(200, server.command(self.path.strip("/"), body))
                except Exception as error:
                    log.exception("control %s", self.path)
                    self._answer(400, {"error": f"{type(error).__name__}: {error}"})

            def _answer(self, code: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
                log.debug(format, *args)

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever, daemon=True, name="control").start()
        return http


def hash_of(text: str) -> int:
    """A number that follows from a text alone (Python's own hash changes from run to run)."""
    import hashlib

    return int(hashlib.sha256(text.encode()).hexdigest()[:17], 16)


def serve(home: Home, policy_file: str | None, port: int, snapshot_seconds: float) -> int:
    """Run a sandbox in this process until it is told to end."""
    home.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(home.lock, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.error("sandbox %s runs already", home.name)
            return 1
        policy = json.loads(Path(policy_file).read_text(encoding="utf-8")) if policy_file else FULL_ACCESS
        server = Server(home, policy, port, snapshot_seconds)
        state = server.start()
        done = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: done.set())
        fresh = home.state.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=2)
        os.replace(fresh, home.state)
        log.info("sandbox %s is up", home.name)
        done.wait()
        server.cloud.stopping.set()
        server.bus.close()
    return 0
