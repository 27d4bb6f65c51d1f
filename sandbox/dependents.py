"""What EC2 does not delete while something else needs it: subnets, gateways, VPCs, security groups.

What can be deleted all the same leaves routes that lead nowhere. moto deletes most of them without a look. An order of
deletions that works only here would fail on AWS, at the end of everything, with what is left still paid for.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any

from moto.ec2.exceptions import DependencyViolationError
from moto.ec2.models import EC2Backend
from moto.ec2.models.route_tables import Route


def close_gaps() -> None:
    """Have moto's EC2 refuse as AWS does. Call it once."""
    delete_group, delete_subnet = EC2Backend.delete_security_group, EC2Backend.delete_subnet
    delete_vpc, detach_gateway = EC2Backend.delete_vpc, EC2Backend.detach_internet_gateway
    delete_nat = EC2Backend.delete_nat_gateway

    def delete_security_group(backend: Any, name: str | None = None, group_id: str | None = None) -> Any:
        group = backend.get_security_group_from_id(group_id) if group_id else None
        used = any(group in eni.group_set for eni in backend.enis.values()) if group is not None else False
        if used or referring(backend, group_id):
            raise DependencyViolationError(f"resource {group_id} has a dependent object")
        return delete_group(backend, name, group_id)

    def delete_subnet_unless_used(backend: Any, subnet_id: str) -> Any:
        if any(eni.subnet.id == subnet_id for eni in backend.enis.values()):
            raise DependencyViolationError(f"The subnet '{subnet_id}' has dependencies and cannot be deleted.")
        return delete_subnet(backend, subnet_id)

    def detach_internet_gateway(backend: Any, internet_gateway_id: str, vpc_id: str) -> None:
        gateway = backend.internet_gateways.get(internet_gateway_id)
        attached = gateway is not None and gateway.vpc is not None and gateway.vpc.id == vpc_id
        if attached and any(eni.public_ip for eni in backend.enis.values() if eni.subnet.vpc_id == vpc_id):
            raise DependencyViolationError(
                f"Network {vpc_id} has some mapped public address(es). "
                "Please unmap those public address(es) before detaching the gateway."
            )
        detach_gateway(backend, internet_gateway_id, vpc_id)

    def delete_vpc_unless_used(backend: Any, vpc_id: str) -> Any:
        # Before moto begins: it would have deleted the main route table by the time it refuses.
        if in_vpc(backend, vpc_id):
            raise DependencyViolationError(f"The vpc '{vpc_id}' has dependencies and cannot be deleted.")
        return delete_vpc(backend, vpc_id)

    def delete_nat_gateway(backend: Any, nat_gateway_id: str) -> Any:
        # The interface goes with its gateway, and the address is free again.
        gateway = delete_nat(backend, nat_gateway_id)
        for address in backend.addresses:
            if address.eni is gateway._eni:
                address.eni, address.association_id = None, None
        backend.enis.pop(gateway._eni.id, None)
        return gateway

    EC2Backend.delete_security_group = delete_security_group
    EC2Backend.delete_subnet = delete_subnet_unless_used
    EC2Backend.detach_internet_gateway = detach_internet_gateway
    EC2Backend.delete_vpc = delete_vpc_unless_used
    EC2Backend.delete_nat_gateway = delete_nat_gateway
    Route.state = property(lambda route: "blackhole" if leads_nowhere(route) else "active")


def in_vpc(backend: Any, vpc_id: str) -> list[str]:
    """What has to be deleted or detached before a VPC is: all but its default group and its main route table."""
    subnets = [one.id for zone in backend.subnets.values() for one in zone.values() if one.vpc_id == vpc_id]
    groups = [one.id for one in backend.groups.get(vpc_id, {}).values() if one.name != "default"]
    gateways = [one.id for one in backend.internet_gateways.values() if one.vpc is not None and one.vpc.id == vpc_id]
    outward = [one.id for one in backend.egress_only_internet_gateways.values() if one.vpc_id == vpc_id]
    endpoints = [one.id for one in backend.vpc_end_points.values() if one.vpc_id == vpc_id and one.state != "deleted"]
    tables = [
        one.id for one in backend.route_tables.values() if one.vpc_id == vpc_id and one.main_association_id is None
    ]
    return [*subnets, *groups, *gateways, *outward, *endpoints, *tables]


def leads_nowhere(route: Any) -> bool:
    """Whether a route's gateway is gone, or is an internet gateway that is not attached to the table's VPC."""
    backend = route.route_table.ec2_backend
    if route.nat_gateway is not None:
        return bool(route.nat_gateway.state == "deleted")
    if route.egress_only_igw is not None:
        return route.egress_only_igw.id not in backend.egress_only_internet_gateways
    if not (route.gateway_id or "").startswith("igw-"):
        return False
    attached = route.gateway.vpc if route.gateway_id in backend.internet_gateways else None
    return attached is None or attached.id != route.route_table.vpc_id


def referring(backend: Any, group_id: str | None) -> list[str]:
    """Other security groups whose rules name this one."""
    others = [one for groups in backend.groups.values() for one in groups.values() if one.id != group_id]
    return [
        one.id
        for one in others
        if any(rule.source_group.get("GroupId") == group_id for rule in [*one.ingress_rules, *one.egress_rules])
    ]
