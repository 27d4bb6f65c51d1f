#!/usr/bin/python
"""A private DNS zone that several environments share."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: shared_dns_zone
short_description: A private DNS zone that several environments share
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Has a VPC ask a private DNS zone that other VPCs may ask as well, since Route 53 bills each zone. The zone is made
    where there is none.
  - A zone that somebody else has made, and that the VPC asks, is as good, and is never changed or deleted.
  - With O(state=absent) the last environment whose name is in the zone deletes it. Earlier ones only have their VPC ask
    it no longer, where O(vpc_leaves).
  - The module amazon.aws.route53_zone knows a zone by all VPCs that ask it, and would make a second one.
options:
  state:
    description: Whether the VPC is to ask it.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Name of the zone.
    type: str
    required: true
  vpc_id:
    description: The VPC.
    type: str
    required: true
  vpc_leaves:
    description: With O(state=absent), whether nobody else in the VPC needs the zone.
    type: bool
    default: false
  tags:
    description: Tags of a zone that is made, besides C(spotcache:shared), by which it is known.
    type: dict
    default: {}
extends_documentation_fragment:
  - amazon.aws.common.modules
  - amazon.aws.region.modules
  - amazon.aws.boto3
attributes:
  check_mode:
    description: Says whether something would be changed.
    support: full
  diff_mode:
    description: Shows who asks the zone.
    support: full
"""

EXAMPLES = r"""
- name: Have a VPC ask the zone that all environments share
  spotcache.redis.shared_dns_zone:
    name: spotcache.internal
    vpc_id: vpc-0123456789abcdef0

- name: Delete it after its last environment
  spotcache.redis.shared_dns_zone:
    name: spotcache.internal
    vpc_id: vpc-0123456789abcdef0
    vpc_leaves: true
    state: absent
"""

RETURN = r"""
zone_id:
  description: The zone's id; empty when there is none, or in check mode before there is one.
  returned: always
  type: str
managed:
  description: Whether the zone is ours, so that it is deleted after its last environment.
  returned: always
  type: bool
"""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

# AnsibleAWSModule says so when it is missing.
with contextlib.suppress(ImportError):
    from botocore.exceptions import ClientError

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule
from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble, finish

SHARED = "spotcache:shared"


class Zones:
    """The private zones of one name in an account."""

    def __init__(self, route53: Any, name: str) -> None:
        self.route53, self.name = route53, name.rstrip(".")

    def found(self) -> Iterator[dict[str, Any]]:
        """Each with C(id), C(vpcs) and whether it is ours."""
        for page in self.route53.get_paginator("list_hosted_zones").paginate():
            for zone in page["HostedZones"]:
                if zone["Name"].rstrip(".") != self.name or not zone["Config"].get("PrivateZone"):
                    continue
                short = zone["Id"].rpartition("/")[2]
                tags = self.route53.list_tags_for_resource(ResourceType="hostedzone", ResourceId=short)
                keys = {tag["Key"] for tag in tags["ResourceTagSet"]["Tags"]}
                vpcs = self.route53.get_hosted_zone(Id=short)["VPCs"]
                yield {"id": short, "ours": SHARED in keys, "vpcs": sorted(one["VPCId"] for one in vpcs)}

    def names(self, zone_id: str) -> list[str]:
        """What stands in a zone beside what makes it a zone."""
        pages = self.route53.get_paginator("list_resource_record_sets").paginate(HostedZoneId=zone_id)
        rows = [row for page in pages for row in page["ResourceRecordSets"]]
        return [row["Name"].rstrip(".") for row in rows if row["Type"] not in ("NS", "SOA")]


def ensure_present(module: AnsibleAWSModule, zones: Zones) -> dict[str, Any]:
    """The task's result for state=present."""
    params = module.params
    vpc = {"VPCId": params["vpc_id"], "VPCRegion": module.region}
    found = list(zones.found())
    asked = next((one for one in found if params["vpc_id"] in one["vpcs"]), None)
    if asked:
        return _result(asked, asked["vpcs"], asked["vpcs"])
    ours = next((one for one in found if one["ours"]), None)
    if ours is None and found:
        raise Trouble(
            f"There is a private zone {zones.name}, {found[0]['id']}, that somebody else has made, and the VPC "
            f"{params['vpc_id']} does not ask it. Associate them, with aws route53 associate-vpc-with-hosted-zone "
            f"--hosted-zone-id {found[0]['id']} --vpc VPCRegion={module.region},VPCId={params['vpc_id']}, or give "
            "network_dns_zone another name."
        )
    before = ours["vpcs"] if ours else []
    after = sorted([*before, params["vpc_id"]])
    if module.check_mode:
        return _result(ours, before, after)
    if ours:
        zones.route53.associate_vpc_with_hosted_zone(HostedZoneId=ours["id"], VPC=vpc)
        return _result(ours, before, after)
    made = zones.route53.create_hosted_zone(
        Name=zones.name,
        CallerReference=str(uuid.uuid4()),
        HostedZoneConfig={"PrivateZone": True, "Comment": "Redis of environments that share this zone"},
        VPC=vpc,
    )["HostedZone"]["Id"].rpartition("/")[2]
    tags = {**{str(key): str(value) for key, value in params["tags"].items()}, SHARED: "dns"}
    zones.route53.change_tags_for_resource(
        ResourceType="hostedzone",
        ResourceId=made,
        AddTags=[{"Key": key, "Value": value} for key, value in tags.items()],
    )
    return _result({"id": made, "ours": True}, before, after)


def ensure_absent(module: AnsibleAWSModule, zones: Zones) -> dict[str, Any]:
    """The task's result for state=absent."""
    params = module.params
    asked = next((one for one in zones.found() if one["ours"] and params["vpc_id"] in one["vpcs"]), None)
    if asked is None:
        return _result(None, [], [])
    left = zones.names(asked["id"])
    others = [one for one in asked["vpcs"] if one != params["vpc_id"]]
    if not left:
        after: list[str] = []
        if not module.check_mode:
            _unless_gone(lambda: zones.route53.delete_hosted_zone(Id=asked["id"]))
    elif params["vpc_leaves"] and others:
        after = others
        if not module.check_mode:
            vpc = {"VPCId": params["vpc_id"], "VPCRegion": module.region}
            zones.route53.disassociate_vpc_from_hosted_zone(HostedZoneId=asked["id"], VPC=vpc)
    else:
        after = asked["vpcs"]
        if params["vpc_leaves"]:
            module.warn(
                f"The zone {zones.name}, {asked['id']}, stays, and is billed: it has {', '.join(sorted(left))}."
            )
    return _result(asked if after else None, asked["vpcs"], after)


def _unless_gone(delete: Any) -> None:
    """One that another environment has deleted meanwhile is no error; one that has got a name again stays."""
    try:
        delete()
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchHostedZone", "HostedZoneNotEmpty"):
            raise


def _result(zone: dict[str, Any] | None, before: list[str], after: list[str]) -> dict[str, Any]:
    return {
        "changed": before != after,
        "zone_id": zone["id"] if zone else "",
        "managed": bool(zone and zone["ours"]),
        "diff": {"before": {"asked_by": before}, "after": {"asked_by": after}},
    }


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str", "required": True},
            "vpc_id": {"type": "str", "required": True},
            "vpc_leaves": {"type": "bool", "default": False},
            "tags": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    ensure = ensure_present if module.params["state"] == "present" else ensure_absent
    finish(
        module,
        lambda: ensure(module, Zones(module.client("route53"), module.params["name"])),
        f"The private zone {module.params['name']} cannot be managed",
    )


if __name__ == "__main__":
    main()
