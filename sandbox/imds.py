"""The instance metadata service of every host, IMDSv2 as EC2 has it.

One server answers all hosts and knows them by their source address. The network's bridge sends what a host addresses to
169.254.169.254 here (`install_dnat`) and lets nothing link-local leave the machine.

Nothing in this file knows where an instance's data come from: `lookup` turns an address into an `InstanceView`.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import enum
import json
import logging
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Final

from sandbox.resolver import internal_suffix
from sandbox.shell import run, succeeds

LOG = logging.getLogger(__name__)

ADDRESS: Final = "169.254.169.254"
RESOLVER_ADDRESS: Final = "169.254.169.253"
# What the names of iptables chains that the sandbox makes on this machine begin with.
CHAIN_PREFIX: Final = "SPOTCACHE-"
MAX_TTL: Final = 21600
TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"
TTL_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
# cloud-init asks for dated versions; all of them have the same content here.
VERSIONS: Final = ("1.0", "2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "2021-07-15", "2022-09-24", "latest")
_VERSION: Final = re.compile(r"^(?:1\.0|20\d\d-\d\d-\d\d|latest)$")
_USUAL_TTL: Final = 64

_REASONS: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
}
_BODY: Final = """\
<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
\t"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{code} - {reason}</title>
 </head>
 <body>
  <h1>{code} - {reason}</h1>
 </body>
</html>
"""


@dataclass(frozen=True)
class MaintenanceEvent:
    """A scheduled event of an instance, such as a reboot of the machine below it. Times are UTC."""

    identifier: str
    code: str
    description: str
    not_before: datetime
    not_after: datetime
    state: str = "active"


@dataclass(frozen=True)
class InstanceView:
    """Everything the metadata service says about one instance, at one moment.

    Attributes:
        private_dns: full private name; made from address and region when not given.
        mac: of its only network interface; that of the host's container when not given.
        security_groups: (id, name) pairs.
        public_key: one line as in authorized_keys; empty without a key pair.
        user_data: the bytes given at launch.
        life_cycle: ``on-demand`` or ``spot``.
        tags_enabled: whether tags are shown at all.
        http_endpoint: ``enabled`` or ``disabled``.
        http_tokens: ``required`` or ``optional``.
        hop_limit: how many network hops a token may travel, 1 to 64.
        role_name: name of the role in the instance profile; empty without a profile.
        credentials: returns the document with the role's temporary credentials; called at every request for it, so
            that they are fresh.
        block_devices: beside the root, as ``{"ebs1": "sdf"}``.
        spot_action: ``terminate``, ``stop`` or ``hibernate`` once interruption is announced, at `spot_time`.
        rebalance_time: when a rebalance recommendation was given.
        target_lifecycle_state: what its Auto Scaling group wants it to be; empty until first set.
        fault: one of `Fault`'s values, or empty.
        fault_seconds: how much longer every answer takes with `Fault.SLOW`.
    """

    instance_id: str
    image_id: str
    instance_type: str
    account_id: str
    region: str
    zone: str
    private_ip: str
    launch_time: datetime
    private_dns: str = ""
    mac: str = ""
    vpc_id: str = ""
    vpc_cidr: str = ""
    subnet_id: str = ""
    subnet_cidr: str = ""
    zone_id: str = ""
    interface_id: str = ""
    reservation_id: str = ""
    public_ip: str = ""
    ipv6_addresses: tuple[str, ...] = ()
    architecture: str = "x86_64"
    security_groups: tuple[tuple[str, str], ...] = ()
    key_name: str = ""
    public_key: str = ""
    user_data: bytes = field(default=b"", repr=False)
    life_cycle: str = "on-demand"
    tags: Mapping[str, str] = field(default_factory=dict)
    tags_enabled: bool = False
    http_endpoint: str = "enabled"
    http_tokens: str = "required"
    hop_limit: int = 1
    profile_arn: str = ""
    profile_id: str = ""
    role_name: str = ""
    credentials: Callable[[], Mapping[str, str]] | None = field(default=None, repr=False)
    block_devices: Mapping[str, str] = field(default_factory=dict)
    spot_action: str = ""
    spot_time: datetime | None = None
    rebalance_time: datetime | None = None
    maintenance: tuple[MaintenanceEvent, ...] = ()
    target_lifecycle_state: str = ""
    fault: str = ""
    fault_seconds: float = 5.0

    @property
    def hostname(self) -> str:
        """The full private name."""
        return self.private_dns or f"ip-{self.private_ip.replace('.', '-')}.{internal_suffix(self.region)}"

    @property
    def hardware_address(self) -> str:
        """The network interface's address."""
        return self.mac or mac_of(self.private_ip)


Lookup = Callable[[str], InstanceView | None]
# A leaf's text; one that costs something to make is a function.
Leaf = str | bytes | Callable[[], str]
Tree = Mapping[str, "Leaf | Tree"]


class Fault(enum.Enum):
    """What can be wrong with an instance's metadata service on command."""

    DOWN = "down"  # connections are cut without an answer
    SLOW = "slow"  # every answer takes some seconds more
    UNAUTHORIZED = "401"  # every request, with a token or without, is refused; no tokens are given
    GARBAGE = "garbage"  # every answer is 200 with a body that is nothing


def mac_of(address: str) -> str:
    """Return the hardware address that a host with this IPv4 address has: locally administered, as EC2's are."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def timestamp(moment: datetime) -> str:
    """Return a time as the service writes it: UTC, seconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def metadata_tree(view: InstanceView) -> Tree:
    """Return the whole tree below ``/latest/`` for one instance. What does not apply to it is not in the tree."""
    tree: dict[str, Leaf | Tree] = {
        "dynamic": {"instance-identity": {"document": identity_document(view)}},
        "meta-data": _meta_data(view),
    }
    if view.user_data:
        tree["user-data"] = view.user_data
    return tree


def identity_document(view: InstanceView) -> str:
    """Return the instance identity document, unsigned."""
    document = {
        "accountId": view.account_id,
        "architecture": view.architecture,
        "availabilityZone": view.zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "imageId": view.image_id,
        "instanceId": view.instance_id,
        "instanceType": view.instance_type,
        "kernelId": None,
        "marketplaceProductCodes": None,
        "pendingTime": timestamp(view.launch_time),
        "privateIp": view.private_ip,
        "ramdiskId": None,
        "region": view.region,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)


def _meta_data(view: InstanceView) -> Tree:
    names = "\n".join(name for _, name in view.security_groups)
    tree: dict[str, Leaf | Tree] = {
        "ami-id": view.image_id,
        "ami-launch-index": "0",
        "ami-manifest-path": "(unknown)",
        "block-device-mapping": {"ami": "/dev/xvda", "root": "/dev/xvda", **view.block_devices},
        "events": {"maintenance": {"history": "[]", "scheduled": _maintenance(view.maintenance)}},
        "hostname": view.hostname,
        "instance-action": "none",
        "instance-id": view.instance_id,
        "instance-life-cycle": view.life_cycle,
        "instance-type": view.instance_type,
        "local-hostname": view.hostname,
        "local-ipv4": view.private_ip,
        "mac": view.hardware_address,
        "network": {"interfaces": {"macs": {view.hardware_address: _interface(view)}}},
        "placement": {
            "availability-zone": view.zone,
            **({"availability-zone-id": view.zone_id} if view.zone_id else {}),
            "region": view.region,
        },
        "profile": "default-hvm",
        "reservation-id": view.reservation_id,
        "security-groups": names,
        "services": {"domain": "amazonaws.com", "partition": "aws"},
        "system": "nitro",
    }
    if view.public_ip:
        tree["public-ipv4"] = view.public_ip
    if view.ipv6_addresses:
        tree["ipv6"] = view.ipv6_addresses[0]
    if view.public_key:
        # The only listing that is not a plain one; see `_listing`.
        tree["public-keys"] = {"0": {"openssh-key": view.public_key.strip() + "\n"}}
    if view.tags_enabled:
        tree["tags"] = {"instance": dict(view.tags)}
    if view.profile_arn:
        tree["iam"] = {"info": _profile(view)}
    credentials = view.credentials
    if view.role_name and credentials is not None:
        role = {view.role_name: lambda: json.dumps(dict(credentials()), indent=2)}
        tree["iam"] = {**_directory(tree.get("iam", {})), "security-credentials": role}
    if view.target_lifecycle_state:
        tree["autoscaling"] = {"target-lifecycle-state": view.target_lifecycle_state}
    if view.spot_action and view.spot_time:
        notice = {"action": view.spot_action, "time": timestamp(view.spot_time)}
        spot: dict[str, Leaf | Tree] = {"instance-action": json.dumps(notice)}
        if view.spot_action == "terminate":
            spot["termination-time"] = timestamp(view.spot_time)
        tree["spot"] = spot
    if view.rebalance_time:
        recommendation = json.dumps({"noticeTime": timestamp(view.rebalance_time)})
        tree["events"] = {**_directory(tree["events"]), "recommendations": {"rebalance": recommendation}}
    return tree


def _directory(node: Leaf | Tree) -> Tree:
    assert isinstance(node, Mapping)
    return node


def _interface(view: InstanceView) -> Tree:
    leaves = {
        "device-number": "0",
        "interface-id": view.interface_id,
        "ipv6s": "\n".join(view.ipv6_addresses),
        "local-hostname": view.hostname,
        "local-ipv4s": view.private_ip,
        "mac": view.hardware_address,
        "owner-id": view.account_id,
        "public-ipv4s": view.public_ip,
        "security-group-ids": "\n".join(identifier for identifier, _ in view.security_groups),
        "security-groups": "\n".join(name for _, name in view.security_groups),
        "subnet-id": view.subnet_id,
        "subnet-ipv4-cidr-block": view.subnet_cidr,
        "vpc-id": view.vpc_id,
        "vpc-ipv4-cidr-block": view.vpc_cidr,
        "vpc-ipv4-cidr-blocks": view.vpc_cidr,
    }
    return {name: value for name, value in leaves.items() if value}


def _maintenance(events: Sequence[MaintenanceEvent]) -> str:
    # This one service writes times in this form.
    form = "%d %b %Y %H:%M:%S GMT"
    return json.dumps(
        [
            {
                "NotBefore": event.not_before.astimezone(UTC).strftime(form),
                "Code": event.code,
                "Description": event.description,
                "EventId": event.identifier,
                "NotAfter": event.not_after.astimezone(UTC).strftime(form),
                "State": event.state,
            }
            for event in events
        ]
    )


def _profile(view: InstanceView) -> str:
    info = {
        "Code": "Success",
        "LastUpdated": timestamp(view.launch_time),
        "InstanceProfileArn": view.profile_arn,
        "InstanceProfileId": view.profile_id,
    }
    return json.dumps(info, indent=2)


def read_path(view: InstanceView, path: str) -> bytes | None:
    """Return what a GET of a path answers, a value or a directory's listing; None for what is not there."""
    parts = [part for part in path.partition("?")[0].split("/") if part]
    if not parts:
        return "\n".join(VERSIONS).encode()
    if not _VERSION.match(parts[0]):
        return None
    node: Leaf | Tree = metadata_tree(view)
    for index, part in enumerate(parts[1:]):
        if not isinstance(node, Mapping):
            return None
        # A tag's key may hold a slash; the rest of the path is then the key.
        rest = "/".join(parts[index + 1 :])
        if rest in node and parts[2:4] == ["tags", "instance"]:
            node = node[rest]
            break
        if part not in node:
            return None
        node = node[part]
    if isinstance(node, Mapping):
        return _listing(parts, node, view).encode()
    value = node() if callable(node) else node
    return value.encode() if isinstance(value, str) else value


def _listing(parts: Sequence[str], node: Tree, view: InstanceView) -> str:
    if list(parts[1:]) == ["meta-data", "public-keys"]:
        return f"0={view.key_name}"
    return "\n".join(name + ("/" if isinstance(child, Mapping) else "") for name, child in sorted(node.items()))


class Tokens:
    """Session tokens: each belongs to one instance and ends after its time to live. For use by several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float]] = {}

    def issue(self, owner: str, ttl: int) -> str:
        """Return a new token of an owner (an instance id) for `ttl` seconds."""
        token = secrets.token_urlsafe(40) + "=="
        now = self._clock()
        with self._lock:
            self._known = {known: entry for known, entry in self._known.items() if entry[1] > now}
            self._known[token] = (owner, now + ttl)
        return token

    def remaining(self, owner: str, token: str) -> int:
        """Return the seconds a token is still good for in this owner's hands; 0 when it is not good at all."""
        with self._lock:
            known_owner, ends = self._known.get(token, ("", 0.0))
        left = ends - self._clock()
        return max(1, int(left)) if known_owner == owner and left > 0 else 0


def parse_ttl(text: str | None) -> int | None:
    """Return a token's time to live in seconds from its header; None for one outside 1 to 21600 or none at all."""
    if text is None or not re.fullmatch(r"\d{1,5}", text.strip()):
        return None
    ttl = int(text)
    return ttl if 1 <= ttl <= MAX_TTL else None


class Server:
    """The service for all hosts of a network.

    Args:
        address: address to bind, usually the gateway of the hosts' network.
        port: 0 for any free one; `port` then says which.
        lookup: called with the caller's address at every request.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, address: str, port: int, lookup: Lookup) -> None:
        self.lookup = lookup
        self.tokens = Tokens()
        self._server = _Listener((address, port), _Handler)
        self._server.service = self
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="imds", daemon=True, args=(0.2,))

    def start(self) -> None:
        """Begin to answer, in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the address."""
        self._server.shutdown()
        self._server.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    service: Server

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base class's
        LOG.warning("metadata service: a request was not finished", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    # Head and body in one packet.
    wbufsize = -1
    timeout = 60

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        # Only what was asked and by whom: answers and tokens are secrets.
        LOG.debug("metadata service: %s " + format, self.client_address[0], *args)

    def version_string(self) -> str:
        return self.server_version

    def do_GET(self) -> None:
        view = self._caller()
        if view is None:
            return
        token = self.headers.get(TOKEN_HEADER)
        left = self.server.service.tokens.remaining(view.instance_id, token.strip()) if token is not None else 0
        if left == 0 and (token is not None or view.http_tokens == "required"):
            self._refuse(401)
            return
        body = read_path(view, self.path)
        if body is None:
            self._refuse(404)
            return
        self._answer(200, body, "text/plain", {TTL_HEADER: str(left)} if left else {})

    def do_PUT(self) -> None:
        # A body is allowed and means nothing; left unread it would be taken for the next request.
        with contextlib.suppress(ValueError):
            self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 65536))
        view = self._caller()
        if view is None:
            return
        if re.fullmatch(r"/+latest/+api/+token/*", self.path.partition("?")[0]) is None:
            self._refuse(405)
            return
        if self.headers.get("X-Forwarded-For") is not None:
            # An open proxy on the host must not hand out the host's credentials.
            self._refuse(403)
            return
        ttl = parse_ttl(self.headers.get(TTL_HEADER))
        if ttl is None:
            self._refuse(400)
            return
        token = self.server.service.tokens.issue(view.instance_id, ttl)
        # Until the next request on this connection: packets that are sent again must not live longer either.
        self._set_hops(max(1, min(view.hop_limit, 64)))
        self._answer(200, token.encode(), "text/plain", {TTL_HEADER: str(ttl)})

    def _other(self) -> None:
        if self._caller() is not None:
            self.close_connection = True
            self._refuse(405)

    do_POST = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = _other  # noqa: N815 - the base class's names

    def _caller(self) -> InstanceView | None:
        """Return who asks. Where there is nothing more to do for this request, answer it and return None."""
        self._set_hops(_USUAL_TTL)
        view = self.server.service.lookup(self.client_address[0])
        if view is None:
            self._refuse(404)
            return None
        if view.fault and not self._survives(Fault(view.fault), view.fault_seconds):
            return None
        if view.http_endpoint != "enabled":
            self._refuse(403)
            return None
        return view

    def _set_hops(self, hops: int) -> None:
        """Set how many network hops this connection's packets travel from now on."""
        self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)

    def _survives(self, fault: Fault, seconds: float) -> bool:
        if fault is Fault.SLOW:
            time.sleep(seconds)
            return True
        if fault is Fault.DOWN:
            self.close_connection = True
        elif fault is Fault.UNAUTHORIZED:
            self._refuse(401)
        else:
            self._answer(200, b"\x00\xff{]garbage\r\n", "application/octet-stream", {})
        return False

    def _refuse(self, code: int) -> None:
        body = _BODY.format(code=code, reason=_REASONS[code]).encode()
        self._answer(code, body, "text/html", {})

    def _answer(self, code: int, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def dnat_rules(bridge: str, gateway: str, port: int, comment: str) -> list[tuple[str, ...]]:
    """Return the iptables rules that bring a network's hosts to the service, as (table, chain, match and target...).

    Each is to be inserted before all others of its chain.
    """
    return [
        _redirect(bridge, ADDRESS, "tcp", 80, gateway, port, comment),
        _accept(bridge, gateway, "tcp", port, comment),
        # On a cloud machine the real service answers at this address; no host may ever reach that.
        ("filter", "DOCKER-USER", "-i", bridge, "-d", "169.254.0.0/16", *_mark(comment), "-j", "REJECT"),
    ]


def resolver_rules(bridge: str, gateway: str, port: int, comment: str) -> list[tuple[str, ...]]:
    """Return the rules that bring DNS to gateway:port, asked at the gateway or at the resolver's link-local address."""
    rules = []
    for protocol in ("udp", "tcp"):
        rules.append(_redirect(bridge, RESOLVER_ADDRESS, protocol, 53, gateway, port, comment))
        rules.append(_redirect(bridge, gateway, protocol, 53, gateway, port, comment))
        rules.append(_accept(bridge, gateway, protocol, port, comment))
    return rules


def _mark(comment: str) -> tuple[str, ...]:
    return ("-m", "comment", "--comment", comment)


def _redirect(
    bridge: str, address: str, protocol: str, asked: int, gateway: str, port: int, comment: str
) -> tuple[str, ...]:
    match = ("-i", bridge, "-d", f"{address}/32", "-p", protocol, "-m", protocol, "--dport", str(asked))
    return ("nat", "PREROUTING", *match, *_mark(comment), "-j", "DNAT", "--to-destination", f"{gateway}:{port}")


def _accept(bridge: str, gateway: str, protocol: str, port: int, comment: str) -> tuple[str, ...]:
    # A machine's own firewall may let nothing in from a bridge it does not know.
    match = ("-i", bridge, "-d", f"{gateway}/32", "-p", protocol, "-m", protocol, "--dport", str(port))
    return ("filter", "INPUT", *match, *_mark(comment), "-j", "ACCEPT")


def install_dnat(bridge: str, gateway: str, port: int, comment: str) -> None:
    """Bring what the hosts behind a bridge send to 169.254.169.254 to gateway:port. Doing it again changes nothing.

    Args:
        bridge: name of the Docker network's bridge.
        gateway: the machine's address on it.
        port: the service's.
        comment: mark of every rule, by which `remove_rules` finds them; slashes part it into levels.

    Raises:
        ToolFailed: iptables refused.
    """
    install_rules(dnat_rules(bridge, gateway, port, comment))


def install_resolver_dnat(bridge: str, gateway: str, port: int, comment: str) -> None:
    """Bring what the hosts behind a bridge ask at 169.254.169.253 or the gateway, port 53, to gateway:port.

    Raises:
        ToolFailed: iptables refused.
    """
    install_rules(resolver_rules(bridge, gateway, port, comment))


def install_rules(rules: Sequence[tuple[str, ...]], tool: str = "iptables") -> None:
    """Insert rules, each first in its chain, that are not there yet; each is (table, chain, match and target...)."""
    for table, chain, *rest in rules:
        command = [tool, "-w", "10", "-t", table]
        if not succeeds([*command, "-C", chain, *rest]):
            run(*command, "-I", chain, *rest)


def remove_rules(comment: str) -> int:
    """Remove every rule whose comment is this one or begins with it and a slash, and return how many.

    Chains of the sandbox's own in which such a rule stands go with it.

    Raises:
        ToolFailed: iptables refused.
    """
    removed = 0
    for tool in ("iptables", "ip6tables") if Path("/proc/net/if_inet6").exists() else ("iptables",):
        for table in ("nat", "filter", "mangle", "raw"):
            command = [tool, "-w", "10", "-t", table]
            own: set[str] = set()
            for line in run(*command, "-S").splitlines():
                words = shlex.split(line)
                if words[0] != "-A" or not _is_marked(words, comment):
                    continue
                removed += 1
                if words[1].startswith(CHAIN_PREFIX):
                    own.add(words[1])
                else:
                    run(*command, "-D", *words[1:])
            for chain in sorted(own):
                run(*command, "-F", chain)
                run(*command, "-X", chain)
    return removed


def _is_marked(words: Sequence[str], comment: str) -> bool:
    return any(
        option == "--comment" and (value == comment or value.startswith(comment + "/"))
        for option, value in pairwise(words)
    )
