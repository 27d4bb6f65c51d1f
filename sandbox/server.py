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
from moto.ec2.models import ec2_backends, vpcs
from moto.ec2.models.amis import Ami
from moto.iam.models import iam_backends
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.route53.models import route53_backends

from sandbox import image, imds, names, parameters, resolver, tables, vpc, zones
from sandbox.authority import Authority
from sandbox.billed import Calls, count
from sandbox.cloud import Cloud, Signals
from sandbox.dlm import Lifecycle
from sandbox.events import Bus
from sandbox.fis import Fis
from sandbox.front import Front, Mirrors
from sandbox.functions import Functions
from sandbox.instance_connect import InstanceConnect
from sandbox.machines import Machines
from sandbox.moto_gaps import Gaps
from sandbox.paths import ROOT, UNLIMITED, Home, known
from sandbox.scaling import Clock, Schedules
from sandbox.shell import ToolFailed, run
from sandbox.ssm import Ssm
from sandbox.times import SLOW, Slowness, Times
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
        self,
        home: Home,
        operator_policies: dict[str, dict[str, Any]],
        policies: dict[str, dict[str, Any]],
        port: int = 0,
        snapshot_seconds: float | None = None,
        times: Times | None = None,
        seed: str = "",
        *,
        machines: bool = False,
    ) -> None:
        self.home, self.machines = home, machines
        self.operator_policies, self.policies = operator_policies, policies
        self.account = DEFAULT_ACCOUNT_ID
        self.port = port
        self.times, self.seed = times or Times(), seed or secrets.token_hex(4)
        self.snapshot_seconds = self.times.snapshot[0] if snapshot_seconds is None else snapshot_seconds
        self.exempt: set[str] = set()
        # Whose access key is whose; all others are roles'.
        self.known: dict[str, str] = {}
        self.calls = Calls(lambda: self.known)
        self.token = secrets.token_urlsafe(24)

    def start(self) -> dict[str, Any]:
        """Bring everything up and return the state that is written to state.json."""
        self.home.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        tag = image.ensure("debian", progress=log.info)
        # What a machine starts from is its disk; there is none with Docker's engine on it.
        docker_tag = "" if self.machines else image.ensure("debian-docker", progress=log.info)
        client = docker.from_env(timeout=120)
        allow_many_hosts()
        vpc.check_ipv6()
        cidr = reserve_cidr(self.home, lambda: networks_in_use(client))
        close_moto_api()
        api = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        api.start()
        self.port = api.get_host_and_port()[1]
        ec2 = ec2_backends[self.account][REGION]
        self.cloud = (Machines if self.machines else Cloud)(self.home, self.account, REGION, self.port)
        self.cloud.snapshot_seconds = self.snapshot_seconds
        slowness = Slowness(self.times, self.seed, lambda: self.exempt)
        self.cloud.times, self.cloud.chance = self.times, slowness.chance
        log.info("AWS's times follow from the seed %s (--seed %s has them again)", self.seed, self.seed)
        self.cloud.pool.open()
        tags = {f"debian-{image.chosen_release()}-amd64-20261101-2000": tag}
        if docker_tag:
            tags[f"spotcache-debian-{image.chosen_release()}-docker-20261101"] = docker_tag
        self.cloud.images = {self._ami(ec2, name, one): one for name, one in tags.items()}
        self._outside(cidr)
        self.cloud.on_vpc.append(self._serve_vpc)
        Gaps(self.cloud).close()
        ssm = Ssm(self.cloud)
        ssm.close_gaps()
        parameters.close_gaps()
        ssm.listen()
        self.connect = InstanceConnect(self.cloud)
        self.connect.close_gaps()
        self.cloud.on_tick.append(self.connect.tick)
        tunnels = self.connect.listen()
        self._event_sources()
        for name, document in self.policies.items():
            self._policy(name, document)
        slowness.close_gaps()
        count(self.calls)
        operator = self._user("operator", self.operator_policies)
        # Looks on beside the operator, for whom the least permissions are to suffice, and sees what is, at once.
        owner = self._user("owner", {"owner": FULL_ACCESS})
        self.exempt.add(owner["access_key_id"])
        self.known |= {operator["access_key_id"]: "operator", owner["access_key_id"]: "owner"}
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        ActionAuthenticatorMixin.request_count = 0
        self._secrets()
        control = self._control()
        state = {
            "name": self.home.name,
            "pid": os.getpid(),
            "log": str(self.home.log),
            "account": self.account,
            "region": REGION,
            "zones": [z.name for z in ec2.describe_availability_zones()],
            "cidr": cidr,
            "endpoint": f"http://127.0.0.1:{self.port}",
            # Where EC2 Instance Connect Endpoints are reached: the SDK's AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT.
            "tunnels": f"http://127.0.0.1:{tunnels}",
            "authority": str(self.home.authority),
            "control": f"http://127.0.0.1:{control.server_address[1]}",
            "control_token": self.token,
            "seed": self.seed,
            "images": dict(zip(("debian", "debian_docker"), self.cloud.images, strict=False)),
            "machines": self.machines,
            "ssh_key": str(self.home.ssh_key),
            "redis_password_file": str(self.home.redis_password),
            "operator": operator,
            "owner": owner,
        }
        threading.Thread(target=self.cloud.run_ticks, daemon=True, name="tick").start()
        return state

    def _event_sources(self) -> None:
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
        zones.close_gaps()
        lifecycle = Lifecycle(self.account, REGION, clock, endpoint, bus.put_event)
        self.cloud.on_event.append(bus.put_event)
        self.cloud.on_tick += [schedules.tick, lambda: bus.tick(clock.now().timestamp()), lifecycle.tick]
        self.bus = bus
        self.more = Verbs(self.cloud, bus, clock, schedules, fis, lifecycle)
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

    def _policy(self, name: str, document: dict[str, Any]) -> str:
        """Have a managed policy, as the account's administrator makes one; its ARN."""
        iam = iam_backends[self.account]["aws"]
        return str(iam.create_policy("", "/", json.dumps(document), name, []).arn)

    def _user(self, name: str, policies: dict[str, dict[str, Any]]) -> dict[str, str]:
        iam = iam_backends[self.account]["aws"]
        iam.create_user(region_name=REGION, user_name=name, path="/", tags=None)
        for policy, document in policies.items():
            iam.attach_user_policy(self._policy(policy, document), name)
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

    def _outside(self, cidr: str) -> None:
        """What there is for hosts beyond their VPC: AWS's services, mirrors of packages, and whom to trust there."""
        # Ready before the first host asks: a resolver that takes seconds is asked again.
        threading.Thread(target=names.table, args=(REGION,), daemon=True, name="names").start()
        authority = Authority(self.home.name)
        self.home.authority.write_bytes(authority.pem)
        hashed = run("openssl", "x509", "-noout", "-subject_hash", "-in", str(self.home.authority))
        self.cloud.certificate, self.cloud.certificate_hash = authority.pem, hashed
        mirrors = Mirrors.of_this_machine(image.RELEASES[image.chosen_release()])
        self.front = Front(REGION, authority, mirrors, self.home.directory)
        vpcs.random_ipv6_cidr = vpc.ipv6_networks(cidr)

    def _serve_vpc(self, edge: vpc.Edge, address: str) -> None:
        """Metadata service, resolver and AWS's API inside a new VPC."""
        metadata = imds.Server(edge.gateway, IMDS_PORT, self.cloud.view)
        metadata.start()
        imds.install_dnat(edge.bridge, edge.gateway, IMDS_PORT, edge.comment)
        lookup = resolver.vpc_lookup(lambda: self._zones(edge.vpc_id), REGION, edge.cidr, self.front.answer)
        dns = resolver.Server(address, 53, lookup)
        dns.start()
        imds.install_rules(imds.resolver_rules(edge.bridge, address, 53, edge.comment))
        ports = [self.front.listen(at, tls=tls) for at in (edge.gateway, edge.gateway_6) for tls in (True, False)]
        edge.serve(*ports)
        edge.closing += [metadata.stop, dns.stop]

    def _zones(self, vpc_id: str) -> list[resolver.Zone]:
        """Route 53's private zones that a VPC asks, and what stands in them."""
        hosted = list(route53_backends[self.account]["aws"].zones.values())
        return zones.of_vpc(hosted, self._resolved(vpc_id), REGION)

    def _resolved(self, vpc_id: str) -> Any:
        """A VPC whose resolver answers at all."""
        record = self.cloud.ec2.vpcs[vpc_id]
        if not record.enable_dns_support:
            raise resolver.Silent
        return record

    # -- control -------------------------------------------------------------------------------------------------------

    def command(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """Carry out one verb of the control interface.

        Raises KeyError for an unknown verb or a missing argument, moto's errors or ToolFailed for unknown instances.
        """
        cloud = self.cloud
        if verb == "status":
            return {"instances": [self._status(i) for i in cloud.instances()], "faults": self._faults()}
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
            cloud.faults.zones_down.discard(body["zone"])
            return self._faults()
        if verb in ("no-spot-capacity", "spot-capacity"):
            self._check_zone(body["zone"])
            pool = (body["zone"], body["type"])
            (cloud.faults.no_spot.add if verb == "no-spot-capacity" else cloud.faults.no_spot.discard)(pool)
            return self._faults()
        if verb == "imds-fault":
            cloud.signals.setdefault(body["instance"], Signals()).fault = body["fault"]
            return {"fault": body["fault"]}
        if verb == "calls":
            return {"calls": self.calls.taken(reset=bool(body.get("reset")))}
        if verb == "snapshot-seconds":
            cloud.snapshot_seconds = float(body["seconds"])
            return {"seconds": cloud.snapshot_seconds}
        return self.more.command(verb, body)

    def _check_zone(self, zone: str) -> None:
        zones = [z.name for z in self.cloud.ec2.describe_availability_zones()]
        if zone not in zones:
            raise ToolFailed(f"zone {zone} is not in {REGION}: use one of {', '.join(zones)}")

    def _faults(self) -> dict[str, Any]:
        faults = self.cloud.faults
        return {"zones_down": sorted(faults.zones_down), "no_spot_capacity": sorted(map(list, faults.no_spot))}

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


def close_moto_api() -> None:
    """Let moto's own interface answer nobody: it shows every secret of the account to whoever asks."""
    answer = DomainDispatcherApplication.__call__

    def call(app: Any, environ: dict[str, Any], start_response: Any) -> Any:
        if str(environ.get("PATH_INFO", "")).lstrip("/").startswith("moto-api"):
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"not here"]
        return answer(app, environ, start_response)

    DomainDispatcherApplication.__call__ = call


def hash_of(text: str) -> int:
    """A number that follows from a text alone (Python's own hash changes from run to run)."""
    import hashlib

    return int(hashlib.sha256(text.encode()).hexdigest()[:17], 16)


def read_policies(files: list[str]) -> dict[str, dict[str, Any]]:
    """Policy documents by their files' names without the ending; `everything` is no file."""
    return {
        Path(file).stem: FULL_ACCESS if file == UNLIMITED else json.loads(Path(file).read_text(encoding="utf-8"))
        for file in files
    }


def serve(
    home: Home,
    operator_policies: list[str],
    policies: list[str],
    port: int,
    snapshot_seconds: float | None,
    *,
    slow: bool = False,
    seed: str = "",
    machines: bool = False,
) -> int:
    """Run a sandbox in this process until it is told to end."""
    home.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(home.lock, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.error("sandbox %s runs already", home.name)
            return 1
        may = read_policies(operator_policies)
        times = SLOW if slow else Times()
        server = Server(home, may, read_policies(policies), port, snapshot_seconds, times, seed, machines=machines)
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
