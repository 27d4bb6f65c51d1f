"""AWS's own names: which a resolver knows in a region, and which of them have IPv6 addresses.

The names are botocore's: its endpoint rules are evaluated for every service it knows, once plain and once with
`use_dualstack_endpoint`. What the rules say of the second kind has IPv4 and IPv6 addresses, what they say only of the
first kind IPv4 addresses (Amazon EC2 Developer Guide, "Amazon EC2 service endpoints": IPv4 traffic only). Which plain
names have both all the same is in no rule; see `PLAIN_WITH_IPV6`.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import botocore.session
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import EndpointProviderError

# Services whose guides call the plain regional name dual-stack:
# https://docs.aws.amazon.com/sns/latest/dg/sns-dual-stack.html
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dual-stack.html
PLAIN_WITH_IPV6: Final = frozenset({"sns", "sqs"})
# Domains of which AWS's names are part; what no rule names in them does not exist.
DOMAINS: Final = ("amazonaws.com", "api.aws", "amazonaws.com.cn", "api.amazonwebservices.com.cn")

# Addresses of the ranges that are kept for documentation (RFC 5737, RFC 3849): nothing real is ever behind them.
S3_NETWORK: Final = "198.51.100.0/24"
PUBLIC_NETWORK: Final = "203.0.113.0/24"
PUBLIC_NETWORK_6: Final = "2001:db8:ff00::/40"
_S3, _S3_6 = "198.51.100.10", "2001:db8:ff00::53"
_SERVICE, _SERVICE_6 = "203.0.113.10", "2001:db8:ff00::10"
_MAKING: Final = threading.Lock()
MIRROR, MIRROR_6 = "203.0.113.80", "2001:db8:ff00::80"


@dataclass(frozen=True)
class Service:
    """What stands behind a name.

    Attributes:
        service: botocore's name of it.
        ipv6: whether the name has an IPv6 address beside its IPv4 one.
        signing_region: the only region that it takes signatures for; empty for that of the name.
        buckets: whether every name below this one exists too, as those of S3's buckets do.
    """

    service: str
    ipv6: bool
    signing_region: str = ""
    buckets: bool = False

    @property
    def ipv4_address(self) -> str:
        """Its address in the sandbox."""
        return _S3 if self.service == "s3" else _SERVICE

    @property
    def ipv6_address(self) -> str:
        """Its IPv6 address in the sandbox; empty where it has none."""
        if not self.ipv6:
            return ""
        return _S3_6 if self.service == "s3" else _SERVICE_6


def endpoint(service: str, region: str, *, dualstack: bool) -> tuple[str, str]:
    """Name of a service's endpoint by botocore's rules, and the region it wants signatures for (empty: its own).

    Raises:
        EndpointProviderError: the service has none there.
        UnknownServiceError: there is no such service.
    """
    found = _provider(service).resolve_endpoint(Region=region, UseDualStack=dualstack, UseFIPS=False)
    regions = [scheme.get("signingRegion", "") for scheme in found.properties.get("authSchemes", [])]
    signing = next((one for one in regions if one and one != region), "")
    return urlsplit(found.url).hostname or "", signing


@lru_cache(maxsize=1)
def _loader() -> Any:
    return botocore.session.Session().get_component("data_loader")


def _provider(service: str) -> EndpointProvider:
    rules = _loader().load_service_model(service, "endpoint-rule-set-1")
    return EndpointProvider(rules, _loader().load_data("partitions"))


def table(region: str) -> dict[str, Service]:
    """All names of AWS's services in a region, with what stands behind each.

    Made once; that takes most of a second, in which others who ask wait.
    """
    with _MAKING:
        return _table(region)


@lru_cache(maxsize=8)
def _table(region: str) -> dict[str, Service]:
    found: dict[str, Service] = {}
    for service in _loader().list_available_services("endpoint-rule-set-1"):
        for dualstack in (True, False):
            try:
                name, signing = endpoint(service, region, dualstack=dualstack)
            except EndpointProviderError:
                continue
            # Several services may share a name; what one of them says of IPv6 holds for it.
            known = found.get(name)
            ipv6 = dualstack or service in PLAIN_WITH_IPV6 or (known is not None and known.ipv6)
            if known is None or service == name.partition(".")[0] or ipv6 != known.ipv6:
                found[name] = Service(service, ipv6, signing, buckets=service == "s3")
    return found


def lookup(name: str, region: str) -> Service | None:
    """What stands behind a name of AWS, in lower case and without a final dot; None where there is no such name."""
    names = table(region)
    if name in names:
        return names[name]
    for parent, service in names.items():
        if service.buckets and name.endswith(f".{parent}"):
            return service
    return None


def is_of_aws(name: str) -> bool:
    """Whether a name lies in one of AWS's domains."""
    return any(name == domain or name.endswith(f".{domain}") for domain in DOMAINS)
