"""The EC2 Instance Connect Endpoint of a VPC: EC2 allows one, which may be ours or somebody else's."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils.ensure import Trouble
from ansible_collections.spotcache.redis.plugins.module_utils.questions import tags_of

# A change of its groups does not interrupt it, and neither does one that failed.
USABLE = ("create-complete", "update-in-progress", "update-complete", "update-failed")
LEAVING = "delete-in-progress"
GONE = "delete-complete"
BROKEN = ("create-failed", "delete-failed")
PAUSES_S = (1, 2, 3, 5)  # between two looks; AWS takes minutes


def find(ec2: Any, vpc_id: str) -> dict[str, Any] | None:
    """The VPC's endpoint as EC2 describes it, in whatever state; one that is gone but still shown is none."""
    pages = ec2.get_paginator("describe_instance_connect_endpoints").paginate(
        Filters=[{"Name": "vpc-id", "Values": [vpc_id]}]
    )
    there = [row for page in pages for row in page["InstanceConnectEndpoints"] if row["State"] != GONE]
    # The one that stays, where another is leaving.
    return min(there, key=lambda row: row["State"] == LEAVING, default=None)


def described(record: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """What a task returns of it; empty without one. Ours is the one that carries our name."""
    if record is None:
        return {}
    return {
        "id": record["InstanceConnectEndpointId"],
        "state": record["State"],
        "state_message": record.get("StateMessage") or "",
        "usable": record["State"] in USABLE,
        "dns_name": record.get("DnsName") or "",
        "subnet_id": record.get("SubnetId") or "",
        "zone": record.get("AvailabilityZone") or "",
        "security_group_ids": sorted(record.get("SecurityGroupIds") or []),
        "preserve_client_ip": bool(record.get("PreserveClientIp")),
        "tags": tags_of(record),
        "managed": is_ours(record, name),
    }


def is_ours(record: Mapping[str, Any], name: str) -> bool:
    """Whether it carries our name."""
    return tags_of(record).get("Name") == name


def wait_until(look: Callable[[], bool], seconds: float, what: str) -> None:
    """Look until it is so. Raises Trouble after `seconds`."""
    deadline = time.monotonic() + seconds
    turn = 0
    while not look():
        pause = PAUSES_S[min(turn, len(PAUSES_S) - 1)]
        if time.monotonic() + pause > deadline:
            raise Trouble(f"{what} within {seconds:.0f} s. AWS usually takes a few minutes: run it again.")
        time.sleep(pause)
        turn += 1
