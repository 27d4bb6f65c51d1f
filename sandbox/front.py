"""AWS's services and Debian's mirrors as the hosts of a VPC find them: under their own names, over HTTPS.

What hosts send to the sandbox's addresses outside of the VPC (see `names`) arrives here. The name that was asked for
decides: a service of AWS is moto's, in the same process; a mirror is the one that this machine itself takes packages
from; nothing else is there.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import http.client
import logging
import re
import shutil
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from sandbox import names
from sandbox.authority import Authority, Contexts
from sandbox.image import AptSource, parse_sources, read_inputs
from sandbox.resolver import Answer, Record

LOG = logging.getLogger(__name__)

# Debian's own mirrors, and the one that its images for EC2 name.
DEBIAN_MIRRORS: Final = ("deb.debian.org", "security.debian.org", "cdn-aws.deb.debian.org")
_PASSED_ON: Final = ("Range", "If-Range", "If-Modified-Since", "User-Agent", "Cache-Control")
_PASSED_BACK: Final = ("Content-Type", "Content-Length", "Content-Range", "Last-Modified", "ETag", "Accept-Ranges")
_SCOPE: Final = re.compile(r"Credential=[^/,\s]+/\d{8}/([a-z0-9-]+)/")
_TTL: Final = 60
_SECONDS: Final = 60.0

Start = Callable[..., Any]
Environ = dict[str, Any]


class Mirrors:
    """The mirrors of packages that exist for hosts, passed on to those that this machine takes its own from.

    Args:
        sources: this machine's sources of Debian's packages.
        opener: asks a mirror, by this machine's proxies.
    """

    def __init__(self, sources: Sequence[AptSource], opener: urllib.request.OpenerDirector) -> None:
        self._own = {host for source in sources if (host := urlsplit(source.uri).hostname)}
        self._bases = {
            "debian-security" if any("security" in suite or "/" in suite for suite in source.suites) else "debian": (
                source.uri.rstrip("/")
            )
            for source in sources
        }
        self._opener = opener

    @classmethod
    def of_this_machine(cls, suite: str) -> Mirrors:
        """Those that apt uses here, with apt's proxies."""
        sources = parse_sources(read_inputs(suite).sources, deb822=True)
        dump = ""
        if shutil.which("apt-config"):
            done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False, timeout=60)
            dump = done.stdout
        found = proxies(dump)
        handler = urllib.request.ProxyHandler(found) if found else urllib.request.ProxyHandler()
        return cls(sources, urllib.request.build_opener(handler))

    def has(self, host: str) -> bool:
        """Whether a name is that of a mirror."""
        return host in DEBIAN_MIRRORS or host in self._own

    def url(self, scheme: str, host: str, path: str) -> str:
        """What this machine asks for a host's request."""
        if host in self._own:
            return f"{scheme}://{host}{path}"
        archive, _, rest = path.lstrip("/").partition("/")
        base = self._bases.get(archive)
        return f"{base}/{rest}" if base else f"http://{host}{path}"

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Pass one request on, and its answer back as it comes."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _plain(start, "405 Method Not Allowed", "a mirror is only read")
        path = environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ["PATH_INFO"]
        url = self.url(environ["wsgi.url_scheme"], _host(environ), urlsplit(path).path)
        given = {name: environ.get("HTTP_" + name.upper().replace("-", "_")) for name in _PASSED_ON}
        headers = {name: value for name, value in given.items() if value}
        request = urllib.request.Request(url, headers=headers, method=environ["REQUEST_METHOD"])
        try:
            answer = self._opener.open(request, timeout=_SECONDS)
        except urllib.error.HTTPError as error:
            answer = error
        except OSError as error:
            LOG.warning("mirror %s: %s", url, error)
            return _plain(start, "504 Gateway Timeout", f"{url}: {error}")
        back = [(name, answer.headers[name]) for name in _PASSED_BACK if answer.headers.get(name)]
        start(f"{answer.status} {http.client.responses.get(answer.status, 'Unknown')}", back)
        return _body(answer)


def proxies(dump: str) -> dict[str, str]:
    """Return the proxies, by scheme, in what `apt-config dump` prints."""
    found = re.findall(r'^Acquire::(https?)::Proxy "(.+)";$', dump, re.MULTILINE | re.IGNORECASE)
    return {scheme.lower(): url for scheme, url in found if url.upper() != "DIRECT"}


def _body(answer: Any) -> Iterator[bytes]:
    with answer:
        while chunk := answer.read(65536):
            yield chunk


def _host(environ: Environ) -> str:
    return str(environ.get("HTTP_HOST", "")).rpartition("@")[2].split(":")[0].rstrip(".").lower()


def _plain(start: Start, status: str, text: str) -> list[bytes]:
    body = f"{text}\n".encode()
    start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class Front:
    """Everything that a host reaches outside of its VPC.

    Args:
        region: whose names there are.
        authority: whom the hosts trust.
        mirrors: of packages.
        directory: the sandbox's own.
        aws: answers what is asked of a service; moto where not given.
    """

    def __init__(self, region: str, authority: Authority, mirrors: Mirrors, directory: Path, aws: Any = None) -> None:
        self.region = region
        self._mirrors = mirrors
        self._aws = aws if aws is not None else DomainDispatcherApplication(create_backend_app)
        self._contexts = Contexts(authority, self.certified, directory)

    def certified(self, name: str) -> list[str]:
        """The names that a certificate has which is shown for a name; empty where nothing has that name."""
        if self._mirrors.has(name):
            return [name]
        for parent, service in names.table(self.region).items():
            # As S3's: a bucket's name with a dot in it is not covered.
            if service.buckets and (name == parent or name.endswith(f".{parent}")):
                return [parent, f"*.{parent}"]
        return [name] if names.lookup(name, self.region) is not None else []

    def answer(self, name: str, rdtype: str) -> Answer:
        """What the resolver says of a name outside of the VPC. There are no others than these."""
        service = names.lookup(name, self.region)
        if service is not None:
            return _records(name, rdtype, service.ipv4_address, service.ipv6_address)
        if self._mirrors.has(name):
            return _records(name, rdtype, names.MIRROR, names.MIRROR_6)
        above = any(known.endswith(f".{name}") for known in (*names.table(self.region), *DEBIAN_MIRRORS))
        return Answer(name.rpartition(".")[2] or name, above)

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Answer one request (WSGI)."""
        host = _host(environ)
        if self._mirrors.has(host):
            return self._mirrors(environ, start)
        service = names.lookup(host, self.region)
        if service is None or environ["PATH_INFO"].startswith("/moto-api"):
            return _plain(start, "421 Misdirected Request", f"{host or 'nobody'} is not here")
        if "HTTP_AUTHORIZATION" not in environ and "X-Amz-Credential=" not in environ.get("QUERY_STRING", ""):
            return _refusal(start, "MissingAuthenticationToken", "Request is missing Authentication Token")
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        wanted = service.signing_region or self.region
        if scope is not None and scope[1] != wanted:
            return _refusal(
                start,
                "SignatureDoesNotMatch",
                f"Credential should be scoped to a valid region: {wanted}, not {scope[1]}",
            )
        answer: Iterable[bytes] = self._aws(environ, start)
        return answer

    def listen(self, address: str, *, tls: bool) -> int:
        """Answer at an address of this machine, over HTTPS or HTTP, and return the port.

        Raises:
            OSError: the address cannot be bound.
        """
        server = make_server(address, 0, self, threaded=True, request_handler=_Handler)
        if tls:
            # The handshake belongs to the request's own thread: one that hangs must keep nobody else waiting.
            server.socket = self._contexts.server.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            server.ssl_context = self._contexts.server
        _start(server)
        return int(server.server_address[1])


def _start(server: BaseWSGIServer) -> None:
    threading.Thread(target=server.serve_forever, daemon=True, name="front").start()


class _Handler(MotoRequestHandler):
    """Ends a connection whose handshake fails or that goes away, instead of telling the log a story."""

    def handle(self) -> None:
        try:
            super().handle()
        except (TimeoutError, ssl.SSLError, ConnectionError) as error:
            LOG.info("front: %s: %s", self.client_address[0], error)


def _records(name: str, rdtype: str, ipv4: str, ipv6: str) -> Answer:
    found = [Record(name, kind, _TTL, address) for kind, address in (("A", ipv4), ("AAAA", ipv6)) if address]
    return Answer(name.partition(".")[2], True, tuple(one for one in found if rdtype in (one.rdtype, "ANY")))


def _refusal(start: Start, code: str, text: str) -> list[bytes]:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error>"
    body = f"<ErrorResponse>{error}</ErrorResponse>".encode()
    start("403 Forbidden", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]
