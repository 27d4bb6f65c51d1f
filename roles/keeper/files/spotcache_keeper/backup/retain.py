"""What gives up older backups off the host: a function in AWS, since a host may add backups and take none away.

Lambda calls `handle` every now and then. It is the keeper's own retention, under a role of its own: whoever has stolen
a host's credentials reaches neither. What hosts say (ids, terms, takeovers) is believed as far as `spared` lets it.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from spotcache_keeper.aws.imds import Imds
from spotcache_keeper.aws.signed import Objects, Signed, role_credentials
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.lease import Leases, LeaseStore, Takeover
from spotcache_keeper.stores.base import Pruned, Retention
from spotcache_keeper.stores.retention import Policy
from spotcache_keeper.stores.s3 import S3Store
from spotcache_keeper.stores.snapshots import Snapshots
from spotcache_keeper.stores.source import Source
from spotcache_keeper.system.times import utc_now


class UnsettledError(KeeperError):
    """What is good is not known at this moment."""


def takeovers_of(leases: Leases, listed: Sequence[Source]) -> tuple[Takeover, ...]:
    """How the environment changed hands, once that is settled.

    Args:
        leases: of the environment.
        listed: its backups; each has the term of the lease under which it was made.

    Raises:
        UnsettledError: the host that took over last has not looked for backups yet, or the lease is not to be seen.
        KeeperError: S3 does not say.
    """
    held = leases.lease()
    if held is None:
        if any(source.term for source in listed):
            raise UnsettledError("there is no lease to be seen, though backups were made under one")
        return ()
    for takeover in held.lease.history:
        if takeover.term == held.lease.term and not takeover.looked:
            raise UnsettledError(f"{takeover.host} is taking over (term {takeover.term}) and has not looked yet")
    return held.lease.history


def prune(stores: Mapping[Pruned, Policy], leases: Leases, now: datetime, warnings: list[str]) -> dict[str, list[str]]:
    """Apply retention to each place; what fails is a warning, and tried again the next time.

    Returns:
        What was given up, by place.
    """
    pruned: dict[str, list[str]] = {}
    for store, policy in stores.items():
        pruned[store.name] = []
        retention = Retention(now, policy, takeovers=lambda listed: takeovers_of(leases, listed))
        try:
            for name in store.prune(retention):
                pruned[store.name].append(name)
        except KeeperError as error:
            warnings.append(f"older backups were not pruned ({store.name}): {error}")
    return pruned


def build(variables: Mapping[str, str], s3: Any, ec2: Any) -> tuple[dict[Pruned, Policy], Leases]:
    """The places of an environment with what is kept in each, and its lease, from the function's variables."""
    environment, bucket = variables["SPOTCACHE_ENVIRONMENT"], variables["BUCKET"]
    prefix = f"{variables['PREFIX']}{environment}/"
    policy = Policy(
        int(variables["KEEP_COUNT"]),
        int(variables["KEEP_DAYS"]),
        int(variables["KEEP_WEEKS"]),
        spared_hours=int(variables["SPARED_HOURS"]),
        first_days=int(variables["LOCK_DAYS"]),
    )
    # A snapshot costs twice what a copy in S3 does, and there each day's first backup stays.
    snapshots = Policy(policy.count, policy.days, policy.weeks, policy.spared_hours)
    if fewer := int(variables["KEEP_SNAPSHOT_COUNT"]):
        snapshots = Policy(fewer, 0, 0, policy.spared_hours)
    stores: dict[Pruned, Policy] = {
        S3Store(lambda: s3, bucket, f"{prefix}backups/", environment): policy,
        Snapshots(lambda: ec2, environment): snapshots,
    }
    # Lambda gives its role's credentials in the environment, where they are looked for first.
    signed = Signed(
        variables["AWS_REGION"], variables.get("AWS_ENDPOINT_URL"), lambda: role_credentials(Imds()), timeout=20
    )
    return stores, LeaseStore(Objects(signed, bucket), f"{prefix}keeper/")


def handle(event: dict[str, Any], context: Any) -> dict[str, list[str]]:  # noqa: ARG001 - Lambda passes them
    """Give up what retention gives up, once."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=3, read_timeout=20, retries={"max_attempts": 4, "mode": "standard"})
    warnings: list[str] = []
    stores, leases = build(os.environ, boto3.client("s3", config=config), boto3.client("ec2", config=config))
    pruned = prune(stores, leases, utc_now(), warnings)
    for warning in warnings:
        print(json.dumps({"message": warning, "level": "warning"}))
    for store, gone in pruned.items():
        if gone:
            print(json.dumps({"message": "older backups were given up", "where": store, "backups": gone}))
    return pruned
