"""Joins standard input and output with a host's port 22 through an EC2 Instance Connect Endpoint: a ProxyCommand.

The AWS CLI's second version has `aws ec2-instance-connect open-tunnel` for it, and is in no package index. What it says
to the endpoint is said here as well: a WebSocket to /openTunnel, whose query is signed (Signature Version 4, service
ec2-instance-connect) with whatever credentials botocore finds, and which carries the bytes in binary messages. A tunnel
lives for an hour at the longest. Facts: awscli/customizations/ec2instanceconnect of the AWS CLI, EC2's user guide.

Nothing secret stands in the arguments. The address follows botocore's own settings for the service's endpoint, else it
is the endpoint's DNS name.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

SERVICE = "ec2-instance-connect"
VALID_S = 60  # for how long the signature opens a tunnel
MESSAGE_BYTES = 65_000  # of one binary message at the most
OPEN_S = 20  # for the endpoint's answer; it is told nothing of the host before the tunnel stands


class Trouble(Exception):
    """Why there is no tunnel, in a sentence for a person."""


def tunnel_url(base: str, endpoint_id: str, address: str, port: int) -> str:
    """Where a tunnel is opened, not signed yet. `base` is http(s)://host[:port] or a bare DNS name."""
    parts = urlsplit(base if "://" in base else f"https://{base}")
    scheme = {"http": "ws", "https": "wss"}[parts.scheme]
    query = {"instanceConnectEndpointId": endpoint_id, "remotePort": port, "privateIpAddress": address}
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/openTunnel?{urlencode(query)}"


def signed(url: str, credentials: Any, region: str) -> str:
    """The URL with a signature in its query, good for a minute."""
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest("GET", url, headers={"host": urlsplit(url).netloc})
    SigV4QueryAuth(credentials, SERVICE, region, expires=VALID_S).add_auth(request)
    return str(request.url)


def prepared(options: argparse.Namespace) -> str:
    """The signed URL, with the credentials and the endpoint that botocore is told of."""
    try:
        import botocore.session
        from botocore.configprovider import ConfiguredEndpointProvider
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise Trouble(f"{sys.executable} has no botocore ({error}): install boto3 beside ansible-core.") from error
    session = botocore.session.get_session()
    try:
        configured = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), SERVICE).provide()
        credentials = session.get_credentials()
        if credentials is None:
            raise Trouble(
                "There are no AWS credentials: set AWS_PROFILE, or name a profile in spotcache_aws_environment."
            )
        frozen = credentials.get_frozen_credentials()
    except BotoCoreError as error:
        raise Trouble(f"The AWS credentials cannot be had: {error}") from error
    url = tunnel_url(configured or options.dns_name, options.endpoint_id, options.address, options.port)
    return signed(url, frozen, options.region)


def refusal(status: int, body: bytes) -> str:
    """What an endpoint says that opens no tunnel."""
    text = body.decode(errors="replace").strip()
    with contextlib.suppress(ValueError, AttributeError):
        said = json.loads(text)
        text = said.get("Message") or said.get("message") or text
    hint = " The AWS credentials need ec2-instance-connect:OpenTunnel." if status in (401, 403) else ""
    return f"The EC2 Instance Connect Endpoint opens no tunnel (HTTP {status}): {text or 'it gives no reason'}.{hint}"


def join(url: str, read: Callable[[], bytes], write: Callable[[bytes], object]) -> None:
    """Carry bytes both ways until one side ends. `read` gives b"" at the end.

    Raises:
        Trouble: there is no tunnel, or it broke.
    """
    try:
        from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
        from websockets.sync.client import connect
    except ImportError as error:
        raise Trouble(
            f"{sys.executable} has no websockets ({error}): install the Python package websockets there."
        ) from error
    with contextlib.ExitStack() as stack:
        try:
            # ssh compresses and asks for signs of life by itself.
            opened = connect(url, compression=None, max_size=None, ping_interval=None, open_timeout=OPEN_S)
            tunnel = stack.enter_context(opened)
        except InvalidStatus as error:
            raise Trouble(refusal(error.response.status_code, bytes(error.response.body or b""))) from error
        except (OSError, WebSocketException) as error:
            where = urlsplit(url).netloc
            raise Trouble(f"The EC2 Instance Connect Endpoint at {where} cannot be reached: {error}.") from error

        def up() -> None:
            with contextlib.suppress(ConnectionClosed):
                while chunk := read():
                    tunnel.send(chunk)
                tunnel.close()

        threading.Thread(target=up, daemon=True).start()
        try:
            for message in tunnel:
                write(message if isinstance(message, bytes) else message.encode())
        except ConnectionClosed as error:
            reason = error.rcvd.reason if error.rcvd else ""
            raise Trouble(
                f"The EC2 Instance Connect Endpoint closed the tunnel: {reason or 'it gives no reason'}. "
                "Port 22 of the host's security group must be open to the endpoint's group."
            ) from error


def write_all(data: bytes) -> None:
    """All of it to standard output."""
    while data:
        data = data[os.write(1, data) :]


def main(argv: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="spotcache_tunnel", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--region", required=True)
    parser.add_argument("--endpoint-id", required=True, help="eice-...")
    parser.add_argument("--dns-name", required=True, help="of the endpoint")
    parser.add_argument("--address", required=True, help="the host's private IPv4 address")
    parser.add_argument("--port", type=int, default=22)
    options = parser.parse_args(argv)
    try:
        join(prepared(options), lambda: os.read(0, MESSAGE_BYTES), write_all)
    except Trouble as trouble:
        # ssh shows it above its own words.
        print(trouble, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # The thread that reads standard input may wait there for ever.
    os._exit(code)
