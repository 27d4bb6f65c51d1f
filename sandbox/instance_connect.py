"""EC2 Instance Connect Endpoints: their records, which moto lacks, and tunnels with real packets.

An endpoint is a container with nothing but a network interface in its subnet, at that interface's address, behind the
security groups of that interface. A tunnel's connection begins there: the host sees the endpoint's address, and the
rules of both sides decide. Whoever opens a tunnel is known by the signature in its query, and asked for the permission
ec2-instance-connect:OpenTunnel.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from moto.core.responses import ActionResult
from moto.ec2 import utils
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.responses import EC2Response
from moto.ec2.utils import add_tag_specification, random_id
from moto.iam.access_control import CreateAccessKeyFailure, create_access_key
from moto.iam.models import iam_backends
from moto.utilities.utils import filter_resources
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from sandbox import container, firewall, iam
from sandbox.cloud import Cloud

log = logging.getLogger("sandbox")

PREFIX = "eice"
KIND = "instance-connect-endpoint"
ACTION = "ec2-instance-connect:OpenTunnel"
PORTS = (22, 3389)  # no others are carried, since June 2023
LONGEST_S = 3600
TUNNELS = 20  # at a time through one endpoint
CONNECT_S = 10.0
CHUNK = 65_000
ALIVE = ("create-in-progress", "create-complete", "update-in-progress", "update-complete", "delete-in-progress")
# Connects inside the endpoint's network and hands the socket back.
DIAL = """
import socket, sys
parent = socket.socket(fileno=int(sys.argv[1]))
peer = socket.create_connection((sys.argv[2], int(sys.argv[3])), float(sys.argv[4]))
peer.settimeout(None)
socket.send_fds(parent, [b"+"], [peer.fileno()])
"""


class Refused(Exception):
    """No tunnel: the status and the code of the answer, and why."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Endpoint(TaggedEC2Resource):
    """One endpoint as EC2 keeps it."""

    def __init__(self, backend: Any, subnet: Any, groups: list[str], tags: Mapping[str, str]) -> None:
        self.id = random_id(PREFIX)
        self.ec2_backend, self.subnet, self.groups = backend, subnet, groups
        self.state, self.message = "create-in-progress", ""
        self.created = datetime.now(UTC)
        self.vpc_id, self.subnet_id = subnet.vpc_id, subnet.id
        # From the subnet itself: moto would take any at random, one of a host's or the router's as well.
        address = subnet.get_available_subnet_ip(instance=self)
        self.interface = backend.create_network_interface(
            subnet, address, group_ids=groups, description=f"EC2 Instance Connect Endpoint {self.id}"
        )
        self.add_tags(dict(tags))

    @property
    def arn(self) -> str:
        """Its ARN."""
        return iam.arn_of(KIND, self.id, self.ec2_backend.account_id, self.ec2_backend.region_name)

    @property
    def address(self) -> str:
        """Of its network interface."""
        return str(self.interface.private_ip_address)

    def described(self) -> dict[str, Any]:
        """The shape of DescribeInstanceConnectEndpoints."""
        zone = f"{self.id[-8:]}.ec2-{KIND}.{self.ec2_backend.region_name}.amazonaws.com"
        return {
            "OwnerId": self.ec2_backend.account_id,
            "InstanceConnectEndpointId": self.id,
            "InstanceConnectEndpointArn": self.arn,
            "State": self.state,
            "StateMessage": self.message,
            "DnsName": f"{self.id}.{zone}",
            "FipsDnsName": f"{self.id}.fips.{zone}",
            "NetworkInterfaceIds": [self.interface.id],
            "VpcId": self.vpc_id,
            "AvailabilityZone": self.subnet.availability_zone,
            "CreatedAt": self.created,
            "SubnetId": self.subnet_id,
            "PreserveClientIp": False,
            "SecurityGroupIds": self.groups,
            "IpAddressType": "ipv4",
            "Tags": [{"Key": tag["key"], "Value": tag["value"]} for tag in self.get_tags()],
        }


def signer(path: str, host: str, account: str, partition: str = "aws", now: datetime | None = None) -> Any:
    """Who signed the query of a request: moto's access key.

    Args:
        path: the request's path with its query.
        host: its Host header.

    Raises:
        Refused: unsigned, signed by nobody known, too late, or changed since.
    """
    parts = urlsplit(path)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    given = query.pop("X-Amz-Signature", "")
    scope = query.get("X-Amz-Credential", "").split("/")
    if not given or len(scope) != 5:
        raise Refused(HTTPStatus.FORBIDDEN, "MissingAuthenticationToken", "the request carries no signature")
    key_id, _day, region, service, _end = scope
    try:
        token = query.get("X-Amz-Security-Token")
        headers = {"X-Amz-Security-Token": token} if token else {}
        key = create_access_key(account_id=account, partition=partition, access_key_id=key_id, headers=headers)
    except CreateAccessKeyFailure as error:
        raise Refused(HTTPStatus.FORBIDDEN, "UnrecognizedClientException", "the access key is not known") from error
    signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    expires = int(query["X-Amz-Expires"])
    if (now or datetime.now(UTC)) > signed_at + timedelta(seconds=expires):
        raise Refused(HTTPStatus.FORBIDDEN, "ExpiredTokenException", "the signature has expired")
    request = AWSRequest("GET", f"http://{host}{parts.path}?{urlencode(query)}", headers={"host": host})
    request.context["timestamp"] = query["X-Amz-Date"]
    auth = SigV4QueryAuth(key.create_credentials(), service, region, expires=expires)
    wanted = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    if service != "ec2-instance-connect" or not hmac.compare_digest(wanted, given):
        raise Refused(HTTPStatus.FORBIDDEN, "InvalidSignatureException", "the signature does not match the request")
    return key


class InstanceConnect:
    """All endpoints of one sandbox, and the tunnels through them."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.endpoints: dict[str, Endpoint] = {}
        self.seconds = 1.0  # that making and deleting one takes
        self.tunnels: dict[str, int] = {}
        self.rules: dict[str, str] = {}
        self.server: Any = None
        self.lock = threading.Lock()

    # -- records -------------------------------------------------------------------------------------------------------

    def close_gaps(self) -> None:
        """Give moto's EC2 what it lacks."""
        here = self
        utils.EC2_RESOURCE_TO_PREFIX[KIND] = PREFIX
        utils.EC2_PREFIX_TO_RESOURCE[PREFIX] = KIND

        def create(response: Any) -> Any:
            made = here.create(
                response.ec2_backend,
                response._get_param("SubnetId"),
                response._get_param("SecurityGroupIds", []) or [],
                add_tag_specification(response._get_param("TagSpecifications", [])),
                response._get_bool_param("PreserveClientIp", False),
            )
            return ActionResult({"InstanceConnectEndpoint": made.described(), "ClientToken": ""})

        def describe(response: Any) -> Any:
            wanted = response._get_param("InstanceConnectEndpointIds", []) or []
            found = [here.get(one) for one in wanted] if wanted else list(here.endpoints.values())
            pairs = (
                ("instance-connect-endpoint-id", "id"),
                ("state", "state"),
                ("subnet-id", "subnet_id"),
                ("vpc-id", "vpc_id"),
            )
            filters = response._filters_from_querystring()
            chosen = filter_resources(found, filters, pairs) if filters else found
            return ActionResult({"InstanceConnectEndpoints": [one.described() for one in chosen]})

        def modify(response: Any) -> Any:
            endpoint = here.get(response._get_param("InstanceConnectEndpointId"))
            if response._get_bool_param("PreserveClientIp", False):
                raise unsupported()
            groups = response._get_param("SecurityGroupIds", []) or []
            if groups:
                endpoint.groups = groups
                endpoint.interface._group_set = [endpoint.ec2_backend.get_security_group_from_id(g) for g in groups]
            endpoint.state = "update-complete"
            return ActionResult({"Return": True})

        def delete(response: Any) -> Any:
            endpoint = here.get(response._get_param("InstanceConnectEndpointId"))
            here.delete(endpoint)
            return ActionResult({"InstanceConnectEndpoint": endpoint.described()})

        for name, function in {"create": create, "modify": modify, "delete": delete}.items():
            setattr(EC2Response, f"{name}_instance_connect_endpoint", function)
        EC2Response.describe_instance_connect_endpoints = describe

    def get(self, endpoint_id: str) -> Endpoint:
        """An endpoint by its id."""
        if endpoint_id not in self.endpoints:
            raise EC2ClientError(
                "InvalidInstanceConnectEndpointId.NotFound",
                f"The instanceConnectEndpoint ID '{endpoint_id}' does not exist",
            )
        return self.endpoints[endpoint_id]

    def create(
        self, backend: Any, subnet_id: str, groups: list[str], tags: Mapping[str, str], preserve: bool
    ) -> Endpoint:
        """CreateInstanceConnectEndpoint: in progress for a while, then complete."""
        if preserve:
            raise unsupported()
        subnet = backend.get_subnet(subnet_id)
        with self.lock:
            if any(one.vpc_id == subnet.vpc_id and one.state in ALIVE for one in self.endpoints.values()):
                raise EC2ClientError(
                    "ResourceLimitExceeded",
                    f"The maximum number of EC2 Instance Connect Endpoints for {subnet.vpc_id} has been reached.",
                )
            if not groups:
                groups = [backend.get_security_group_from_name("default", subnet.vpc_id).id]
            endpoint = Endpoint(backend, subnet, groups, tags)
            self.endpoints[endpoint.id] = endpoint
        self._later(self._made, endpoint)
        return endpoint

    def delete(self, endpoint: Endpoint) -> None:
        """DeleteInstanceConnectEndpoint: its network interface stays for a while."""
        if endpoint.state in ("delete-in-progress", "delete-complete"):
            return
        endpoint.state = "delete-in-progress"
        self._later(self._deleted, endpoint)

    def _later(self, act: Callable[[Endpoint], None], endpoint: Endpoint) -> None:
        timer = threading.Timer(self.seconds, act, (endpoint,))
        timer.daemon = True
        timer.start()

    def _made(self, endpoint: Endpoint) -> None:
        try:
            self.plug(endpoint)
        except Exception as error:
            log.exception("endpoint %s", endpoint.id)
            endpoint.state, endpoint.message = "create-failed", str(error)
            return
        if endpoint.state == "create-in-progress":
            endpoint.state = "create-complete"

    def _deleted(self, endpoint: Endpoint) -> None:
        self.unplug(endpoint)
        endpoint.interface.delete()
        endpoint.state = "delete-complete"
        self._later(self._forgotten, endpoint)

    def _forgotten(self, endpoint: Endpoint) -> None:
        del self.endpoints[endpoint.id]

    # -- the interface -------------------------------------------------------------------------------------------------

    def name_of(self, endpoint: Endpoint) -> str:
        """Name of the container that is this endpoint's network interface."""
        return f"{self.cloud.home.prefix}{endpoint.id}"

    def plug(self, endpoint: Endpoint) -> None:
        """Give an endpoint its place in the network."""
        network = self.cloud.network(endpoint.vpc_id)
        container.create_interface(
            self.cloud.docker,
            name=self.name_of(endpoint),
            image=next(iter(self.cloud.images.values())),
            network=network,
            ip=endpoint.address,
            labels=self.cloud.home.labels(endpoint=endpoint.id),
        )
        self.filter(endpoint)

    def unplug(self, endpoint: Endpoint) -> None:
        """Take it away."""
        self.rules.pop(endpoint.id, None)
        found = self.cloud.docker.containers.list(all=True, filters={"name": f"^{self.name_of(endpoint)}$"})
        for one in found:
            container.remove_host(self.cloud.docker, one)

    def pid(self, endpoint: Endpoint) -> int:
        """A process in the endpoint's network."""
        return container.host_pid(self.cloud.docker.containers.get(self.name_of(endpoint)))

    def filter(self, endpoint: Endpoint) -> None:
        """Let its packet filter be what its security groups say."""
        backend = endpoint.ec2_backend
        groups = [backend.get_security_group_from_id(group) for group in endpoint.groups]
        cidr = backend.get_vpc(endpoint.vpc_id).cidr_block
        text = firewall.rules(self.cloud.groups_of(groups), self.cloud.members(), vpc_cidr=cidr)
        if self.rules.get(endpoint.id) != text:
            firewall.apply(self.pid(endpoint), text)
            self.rules[endpoint.id] = text

    def tick(self) -> None:
        """Security groups change at any time."""
        for endpoint in list(self.endpoints.values()):
            if endpoint.state in ("create-complete", "update-complete"):
                self.filter(endpoint)

    # -- tunnels -------------------------------------------------------------------------------------------------------

    def listen(self) -> int:
        """Open the port on loopback that tunnels are opened at. Returns the port."""
        self.server = serve(
            self.carry,
            "127.0.0.1",
            0,
            process_request=self.answer,
            compression=None,
            max_size=None,
            ping_interval=None,
            logger=logging.getLogger("sandbox.tunnels"),
        )
        threading.Thread(target=self.server.serve_forever, daemon=True, name="tunnels").start()
        return int(self.server.socket.getsockname()[1])

    def answer(self, connection: Any, request: Any) -> Any:
        """Refuse what is not signed or not allowed."""
        try:
            connection.asked = self.allowed(request.path, request.headers.get("Host", ""))
        except Refused as refused:
            return connection.respond(refused.status, json.dumps({"ErrorCode": refused.code, "Message": str(refused)}))
        return None

    def allowed(self, path: str, host: str) -> tuple[Endpoint, str, int, int]:
        """Endpoint, address, port and longest time of a tunnel that may be opened.

        Raises Refused.
        """
        parts = urlsplit(path)
        if parts.path != "/openTunnel":
            raise Refused(HTTPStatus.NOT_FOUND, "UnknownOperationException", f"{parts.path} is nothing here")
        key = signer(path, host, self.cloud.account)
        query = dict(parse_qsl(parts.query))
        endpoint = self.endpoints.get(query.get("instanceConnectEndpointId", ""))
        if endpoint is None or endpoint.state not in ("create-complete", "update-complete"):
            raise Refused(
                HTTPStatus.BAD_REQUEST, "InvalidParameter", "the specified InstanceConnectEndpoint is not valid"
            )
        address, port = query.get("privateIpAddress", ""), int(query.get("remotePort", "22"))
        seconds = int(query.get("maxTunnelDuration", str(LONGEST_S)))
        context = {
            "ec2-instance-connect:remotePort": str(port),
            "ec2-instance-connect:privateIpAddress": address,
            "ec2-instance-connect:maxTunnelDuration": str(seconds),
        }
        tags = {tag["key"]: tag["value"] for tag in endpoint.get_tags()}
        policies = iam.documents_of(iam_backends[self.cloud.account]["aws"], key.arn)
        if iam.decide(policies, ACTION, iam.Target(endpoint.arn, tags, context=context), {}) != "allowed":
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "AccessDenied",
                f"User: {key.arn} is not authorized to perform: {ACTION} on resource: {endpoint.arn}",
            )
        network = ipaddress.ip_network(endpoint.ec2_backend.get_vpc(endpoint.vpc_id).cidr_block)
        if port not in PORTS or not 1 <= seconds <= LONGEST_S or ipaddress.ip_address(address) not in network:
            raise Refused(HTTPStatus.BAD_REQUEST, "InvalidParameter", "port, address or duration is not valid")
        if self.tunnels.get(endpoint.id, 0) >= TUNNELS:
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "LimitExceeded", f"{TUNNELS} tunnels are open already")
        return endpoint, address, port, seconds

    def dial(self, endpoint: Endpoint, address: str, port: int) -> socket.socket:
        """A connection that begins at the endpoint's interface. Raises OSError when nobody lets it through."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            enter = ["nsenter", "-t", str(self.pid(endpoint)), "-n", sys.executable, "-I", "-c", DIAL]
            words = [str(theirs.fileno()), address, str(port), str(CONNECT_S)]
            done = subprocess.run(
                [*enter, *words], pass_fds=[theirs.fileno()], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no connection")
            _byte, descriptors, _flags, _from = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptors[0])

    def carry(self, connection: Any) -> None:
        """Join a tunnel with its host until one of them ends, or its time is over."""
        endpoint, address, port, seconds = connection.asked
        try:
            peer = self.dial(endpoint, address, port)
        except OSError as error:
            log.info("tunnel of %s to %s:%s: %s", endpoint.id, address, port, error)
            connection.close(1011, "Unable to connect to target")
            return
        with self.lock:
            self.tunnels[endpoint.id] = self.tunnels.get(endpoint.id, 0) + 1
        over = threading.Timer(seconds, connection.close, (1001, "Tunnel duration exceeded"))
        over.daemon = True
        over.start()

        def down() -> None:
            with contextlib.suppress(OSError, ConnectionClosed):
                while chunk := peer.recv(CHUNK):
                    connection.send(chunk)
            connection.close()

        threading.Thread(target=down, daemon=True).start()
        try:
            with contextlib.suppress(OSError, ConnectionClosed):
                for message in connection:
                    peer.sendall(message if isinstance(message, bytes) else message.encode())
        finally:
            over.cancel()
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()
            with self.lock:
                self.tunnels[endpoint.id] -= 1


def unsupported() -> EC2ClientError:
    """A tunnel cannot begin at an address of the client's here."""
    return EC2ClientError("UnsupportedOperation", "PreserveClientIp is not known to this sandbox")
