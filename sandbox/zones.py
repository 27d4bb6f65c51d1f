"""Private hosted zones: which VPCs ask them, and that there is such a VPC at all."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moto.ec2.models import ec2_backends
from moto.route53.exceptions import InvalidInput, InvalidVPCId
from moto.route53.models import Route53Backend

from sandbox import resolver


def close_gaps() -> None:
    """Have moto's Route 53 look for the VPC. Call it once."""
    create, associate = Route53Backend.create_hosted_zone, Route53Backend.associate_vpc_with_hosted_zone

    def check(backend: Any, vpc_id: str | None, region: str | None) -> None:
        if vpc_id not in ec2_backends[backend.account_id][region or "us-east-1"].vpcs:
            raise NoSuchVpc

    def create_hosted_zone(
        backend: Any,
        name: str,
        private_zone: bool,
        *args: Any,
        vpcid: str | None = None,
        vpcregion: str | None = None,
        **kwargs: Any,
    ) -> Any:
        if private_zone:
            if not vpcid or not vpcregion:
                raise InvalidInput(
                    "When you're creating a private hosted zone (when you specify true for PrivateZone), you must also "
                    "specify values for VPCId and VPCRegion."
                )
            check(backend, vpcid, vpcregion)
        return create(backend, name, private_zone, *args, vpcid=vpcid, vpcregion=vpcregion, **kwargs)

    def associate_vpc_with_hosted_zone(backend: Any, zone_id: str, vpcid: str, vpcregion: str) -> Any:
        check(backend, vpcid, vpcregion)
        return associate(backend, zone_id, vpcid, vpcregion)

    Route53Backend.create_hosted_zone = create_hosted_zone
    Route53Backend.associate_vpc_with_hosted_zone = associate_vpc_with_hosted_zone


class NoSuchVpc(InvalidVPCId):
    """The VPC is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.message = (
            "The VPC ID that you specified either isn't a valid ID or the current account is not authorized to access "
            "this VPC."
        )


def of_vpc(zones: Iterable[Any], vpc: Any, region: str) -> list[resolver.Zone]:
    """The private zones that a VPC's resolver answers.

    They are those associated with it, and none unless both its DNS attributes are on (Route 53 Developer Guide,
    "Considerations when working with a private hosted zone").

    Args:
        zones: moto's records of hosted zones.
        vpc: moto's record of the VPC.
        region: the VPC's.
    """
    if not (vpc.enable_dns_support and vpc.enable_dns_hostnames):
        return []
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
        for zone in zones
        if zone.private_zone
        and any(one.get("vpc_id") == vpc.id and one.get("vpc_region") == region for one in list(zone.vpcs))
    ]
