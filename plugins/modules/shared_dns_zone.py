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
  - Each environment stands in a tag of the zone with its VPC, from before it has a name there until it is destroyed.
    With O(state=absent) the last one deletes the zone; an earlier one takes its VPC out, unless another environment is
    in the same VPC. A VPC that somebody deleted by hand keeps no zone alive; its environment does, until C(destroy).
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
  environment:
    description: Who needs the zone. A zone has room for about forty, since Route 53 keeps fifty tags.
    type: str
    required: true
  vpc_id:
    description: The environment's VPC. Needed with O(state=present); else the zone says which one it was.
    type: str
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
    description: Shows which VPCs ask the zone, and which environments need it.
    support: full
"""

EXAMPLES = r"""
- name: Have a VPC ask the zone that all environments share
  spotcache.redis.shared_dns_zone:
    name: spotcache.internal
    environment: stg
    vpc_id: vpc-0123456789abcdef0

- name: Take an environment out, and delete the zone after the last one
  spotcache.redis.shared_dns_zone:
    name: spotcache.internal
    environment: stg
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
from ansible_collections.spotcache.redis.plugins.module_utils.shared_zone import SHARED, SHARED_BY, needed_by


class Zones:
    """The private zones of one name in an account."""

    def __init__(self, route53: Any, name: str) -> None:
        self.route53, self.name = route53, name.rstrip(".")

    def found(self) -> Iterator[dict[str, Any]]:
        """Each with C(id), C(vpcs), whether it is ours, and the VPC of each environment that needs it."""
        for page in self.route53.get_paginator("list_hosted_zones").paginate():
            for zone in page["HostedZones"]:
                if zone["Name"].rstrip(".") != self.name or not zone["Config"].get("PrivateZone"):
                    continue
                short = zone["Id"].rpartition("/")[2]
                tags = self.tags(short)
                vpcs = self.route53.get_hosted_zone(Id=short)["VPCs"]
                yield {
                    "id": short,
                    "ours": SHARED in tags,
                    "vpcs": sorted(one["VPCId"] for one in vpcs),
                    "environments": needed_by(tags),
                }

    def tags(self, zone_id: str) -> dict[str, str]:
        """The tags of a zone."""
        found = self.route53.list_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id)
        return {tag["Key"]: tag["Value"] for tag in found["ResourceTagSet"]["Tags"]}

    def tag(self, zone_id: str, tags: dict[str, str]) -> None:
        """Add tags to a zone."""
        rows = [{"Key": key, "Value": value} for key, value in tags.items()]
        self.route53.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id, AddTags=rows)

    def names(self, zone_id: str) -> list[str]:
        """What stands in a zone beside what makes it a zone."""
        pages = self.route53.get_paginator("list_resource_record_sets").paginate(HostedZoneId=zone_id)
        rows = [row for page in pages for row in page["ResourceRecordSets"]]
        return [row["Name"].rstrip(".") for row in rows if row["Type"] not in ("NS", "SOA")]


def ensure_present(module: AnsibleAWSModule, zones: Zones) -> dict[str, Any]:
    """The task's result for state=present."""
    params = module.params
    vpc = {"VPCId": params["vpc_id"], "VPCRegion": module.region}
    own = {f"{SHARED_BY}{params['environment']}": params["vpc_id"]}
    found = list(zones.found())
    # The zone that the VPC asks already comes first: it cannot ask two of one name.
    zone = next((one for one in found if params["vpc_id"] in one["vpcs"]), None)
    if zone and not zone["ours"]:
        return _result(zone, _state(zone), _state(zone))
    zone = zone or next((one for one in found if one["ours"]), None)
    if zone is None and found:
        raise Trouble(
            f"There is a private zone {zones.name}, {found[0]['id']}, that somebody else has made, and the VPC "
            f"{params['vpc_id']} does not ask it. Associate them, with aws route53 associate-vpc-with-hosted-zone "
            f"--hosted-zone-id {found[0]['id']} --vpc VPCRegion={module.region},VPCId={params['vpc_id']}, or give "
            "network_dns_zone another name."
        )
    before = _state(zone)
    after = {
        "asked_by": sorted({*before["asked_by"], params["vpc_id"]}),
        "needed_by": {**before["needed_by"], params["environment"]: params["vpc_id"]},
    }
    if module.check_mode or before == after:
        return _result(zone, before, after)
    if zone is None:
        made = zones.route53.create_hosted_zone(
            Name=zones.name,
            CallerReference=str(uuid.uuid4()),
            HostedZoneConfig={"PrivateZone": True, "Comment": "Redis of environments that share this zone"},
            VPC=vpc,
        )["HostedZone"]["Id"].rpartition("/")[2]
        zones.tag(made, {**{str(key): str(value) for key, value in params["tags"].items()}, SHARED: "dns", **own})
        return _result({"id": made, "ours": True}, before, after)
    # First it says that it needs the zone, so that nobody deletes it meanwhile.
    zones.tag(zone["id"], own)
    if params["vpc_id"] not in zone["vpcs"]:
        zones.route53.associate_vpc_with_hosted_zone(HostedZoneId=zone["id"], VPC=vpc)
    return _result(zone, before, after)


def ensure_absent(module: AnsibleAWSModule, zones: Zones) -> dict[str, Any]:
    """The task's result for state=absent."""
    environment = module.params["environment"]
    zone = next((one for one in zones.found() if one["ours"] and environment in one["environments"]), None)
    if zone is None:
        return _result(None, _state(None), _state(None))
    before = _state(zone)
    if not module.check_mode:
        keys = [f"{SHARED_BY}{environment}"]
        zones.route53.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone["id"], RemoveTagKeys=keys)
        # Who else needs it is asked now, after its own tag is gone: of two that leave at once one sees that it is last.
        others = needed_by(zones.tags(zone["id"]))
    else:
        others = {one: vpc for one, vpc in before["needed_by"].items() if one != environment}
    if others:
        vpc = before["needed_by"][environment]
        leaves = vpc in zone["vpcs"] and vpc not in others.values() and len(zone["vpcs"]) > 1
        if leaves and not module.check_mode:
            zones.route53.disassociate_vpc_from_hosted_zone(
                HostedZoneId=zone["id"], VPC={"VPCId": vpc, "VPCRegion": module.region}
            )
        asked = [one for one in zone["vpcs"] if not (leaves and one == vpc)]
        return _result(zone, before, {"asked_by": asked, "needed_by": others})
    left = zones.names(zone["id"])
    if left:
        module.warn(f"The zone {zones.name}, {zone['id']}, stays, and is billed: it has {', '.join(sorted(left))}.")
        return _result(zone, before, {"asked_by": zone["vpcs"], "needed_by": {}})
    if not module.check_mode:
        _unless_gone(lambda: zones.route53.delete_hosted_zone(Id=zone["id"]))
    return _result(None, before, _state(None))


def _state(zone: dict[str, Any] | None) -> dict[str, Any]:
    """What is compared and shown of a zone."""
    return {"asked_by": zone["vpcs"], "needed_by": zone["environments"]} if zone else {"asked_by": [], "needed_by": {}}


def _unless_gone(delete: Any) -> None:
    """One that another environment has deleted meanwhile is no error; one that has got a name again stays."""
    try:
        delete()
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchHostedZone", "HostedZoneNotEmpty"):
            raise


def _result(zone: dict[str, Any] | None, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {
        "changed": before != after,
        "zone_id": zone["id"] if zone else "",
        "managed": bool(zone and zone["ours"]),
        "diff": {"before": before, "after": after},
    }


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleAWSModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str", "required": True},
            "environment": {"type": "str", "required": True},
            "vpc_id": {"type": "str"},
            "tags": {"type": "dict", "default": {}},
        },
        required_if=[("state", "present", ["vpc_id"])],
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
