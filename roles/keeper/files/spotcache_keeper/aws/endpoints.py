"""Where AWS's services are: names by region, and those that a network with IPv6 alone reaches.

The plain names of most services have IPv4 addresses only (Amazon EC2 Developer Guide, "Amazon EC2 service endpoints").
The dual-stack names have both. They are written out here because the distribution's SDK is older than some of them.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from dataclasses import dataclass

# Which names are used: the plain ones; dual-stack ones for everything but S3, which a gateway endpoint of the VPC gives
# over IPv4; or dual-stack ones for everything.
DUALSTACK = ("none", "services", "all")
# Whose plain name is dual-stack (Amazon SNS Developer Guide, "Connect to Amazon SNS using Dual-stack endpoints").
_BOTH = frozenset({"sns"})


@dataclass(frozen=True)
class _Partition:
    """One of AWS's separate worlds.

    Attributes:
        domain: of plain names.
        dualstack: of dual-stack names.
        route53: plain and dual-stack name of Route 53, of which each partition has one.
        route53_region: what its requests are signed for.
    """

    domain: str
    dualstack: str
    route53: tuple[str, str]
    route53_region: str


_AWS = _Partition("amazonaws.com", "api.aws", ("route53.amazonaws.com", "route53.global.api.aws"), "us-east-1")
_OTHERS = {
    "cn-": _Partition(
        "amazonaws.com.cn",
        "api.amazonwebservices.com.cn",
        ("route53.amazonaws.com.cn", "route53.global.api.amazonwebservices.com.cn"),
        "cn-northwest-1",
    ),
    "us-gov-": _Partition(
        "amazonaws.com", "api.aws", ("route53.us-gov.amazonaws.com", "route53.us-gov.api.aws"), "us-gov-west-1"
    ),
}


@dataclass(frozen=True)
class Endpoint:
    """Where a service is.

    Attributes:
        url: its address.
        region: what its requests are signed for.
    """

    url: str
    region: str


def endpoint(service: str, region: str, dualstack: str = "none") -> Endpoint:
    """Where a service of AWS is.

    Args:
        service: as the SDK calls it, such as `ec2`.
        region: AWS region.
        dualstack: one of `DUALSTACK`.
    """
    partition = next((found for prefix, found in _OTHERS.items() if region.startswith(prefix)), _AWS)
    both = dualstack == "all" or (dualstack == "services" and service != "s3")
    if service == "route53":
        return Endpoint(f"https://{partition.route53[both]}", partition.route53_region)
    if service == "s3":
        return Endpoint(f"https://s3.{'dualstack.' if both else ''}{region}.{partition.domain}", region)
    domain = partition.dualstack if both and service not in _BOTH else partition.domain
    return Endpoint(f"https://{service}.{region}.{domain}", region)
