"""What `provision` sets up, and what stands in its place, as setups for the model: the defaults of the roles."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spotcache_cost.errors import CostError
from spotcache_cost.habits import LEASE_SECONDS, Habits
from spotcache_cost.hours import MONTH, of_schedule, of_week
from spotcache_cost.model import EC2, EC2_SPOT, ELASTICACHE, FARGATE, FARGATE_SPOT, SERVERLESS, Setup

# How many hosts of a hundred EC2 takes back in a month, by the Advisor's band: the middle of it. Where the Advisor
# does not say, the middle of all bands.
_LOSSES = {"<5": 2.5, "5-10": 7.5, "10-15": 12.5, "15-20": 17.5, ">20": 25.0, "": 12.5}
# Of the fallback controller's function: memory in GB. How long a call takes on AWS is not known; it is taken as this.
_FUNCTION_GB, _FUNCTION_SECONDS = 0.25, 1.0
# What Lambda and the function write of a call, with what CloudWatch adds for each event.
_LOG_GIB = 500 / 2**30
_MINUTES = MONTH * 60
# Lambda asks the queue of messages all the time: five at once, each for twenty seconds.
_POLLS_A_MINUTE = 15
_MINUTES_BETWEEN = {"5min": 5, "10min": 10, "15min": 15, "20min": 20, "30min": 30}
_BACKUPS_PER_HOUR = {name: 60 / minutes for name, minutes in _MINUTES_BETWEEN.items()} | {
    f"{hours}h": 1 / hours for hours in (1, 2, 3, 4, 6, 8, 12, 24)
}


def losses(band: str, hours: float) -> float:
    """Hosts that are lost a month, of one that runs so many hours."""
    return _LOSSES.get(band, _LOSSES[""]) / 100 * hours / MONTH


@dataclass(frozen=True, kw_only=True)
class Options:
    """An inventory's variables that cost something, under their own names; the defaults are those of the roles.

    What the variables mean is in docs/reference. Two are none of an inventory: `zone_shares`, among how many
    environments the price of the zone is shared, 0 where the zone is paid for something else anyway; and
    `hours_a_week`, in the place of a schedule.
    """

    spot_host_data_volume_size_gb: float = 8
    spotcache_launch_from_image: bool = True
    spot_host_bake_keep: int = 2
    spot_host_public_ipv4: str = "absent"
    keeper_backup_interval: str = "15min"
    keeper_keep_count: int = 24
    keeper_keep_snapshot_count: int = 0
    keeper_keep_days: int = 7
    keeper_keep_weeks: int = 4
    keeper_ebs_snapshots: bool = True
    spotcache_lifecycle_snapshots: bool = True
    keeper_lifecycle_keep: int = 3
    keeper_dns_ttl: float = 10
    network_dns_zone: str = "spotcache.internal"
    network_egress: str = "ipv6"
    spotcache_on_demand_fallback: bool = True
    spotcache_return_volume: bool = False
    spotcache_superseded_days: float = 7
    fallback_controller_look_minutes: int = 1
    keeper_timeouts: Mapping[str, Any] = field(default_factory=dict)
    spotcache_notify: str = "none"
    schedule_start: str = ""
    schedule_stop: str = ""
    schedule_days: tuple[str, ...] = ("mon", "tue", "wed", "thu", "fri")
    zone_shares: float = 1
    hours_a_week: float = 0

    @property
    def kept(self) -> int:
        """Backups that retention keeps at the most, in one place."""
        return self.keeper_keep_count + self.keeper_keep_days + self.keeper_keep_weeks

    @property
    def hours(self) -> float:
        """Hours a month by the schedule."""
        if self.hours_a_week:
            return of_week(self.hours_a_week)
        if not (self.schedule_start and self.schedule_stop):
            return MONTH
        return of_week(of_schedule(self.schedule_start, self.schedule_stop, self.schedule_days))


def options(variables: Mapping[str, Any]) -> Options:
    """Of an inventory's variables those that cost something.

    Raises:
        CostError: one of them is of another kind.
    """
    chosen: dict[str, Any] = {}
    for name, default in vars(Options()).items():
        if name not in variables or variables[name] is None:
            continue
        value = variables[name]
        try:
            if isinstance(default, Mapping):
                chosen[name] = {str(key): float(part) for key, part in value.items()}
            elif isinstance(default, bool):
                chosen[name] = str(value).lower() in ("true", "yes", "on", "1")
            elif isinstance(default, int | float):
                chosen[name] = type(default)(value)
            else:
                chosen[name] = tuple(map(str, value)) if isinstance(default, tuple) else str(value)
        except (TypeError, ValueError, AttributeError):
            example = default if default != {} else '{"lease": 90}'
            raise CostError(f"{name} is {value!r}. Give what it holds, for example {example}.") from None
    return Options(**chosen)


def ec2(wanted: Setup, chosen: Options, *, band: str = "", habits: Habits | None = None, shared: bool = False) -> Setup:
    """An environment on EC2, as `provision` sets it up.

    Args:
        wanted: way, region, type, data and requests.
        chosen: the inventory's variables.
        band: how often EC2 takes back Spot hosts of this type.
        habits: how many calls what happens makes.
        shared: whether a zone of the account is there already and costs nothing more.

    Raises:
        CostError: a variable is something else.
    """
    if wanted.way not in (EC2, EC2_SPOT):
        raise CostError(f"The way {wanted.way} is none on EC2.")
    if chosen.keeper_backup_interval not in _BACKUPS_PER_HOUR:
        known = ", ".join(_BACKUPS_PER_HOUR)
        raise CostError(f"keeper_backup_interval is {chosen.keeper_backup_interval!r}. Give one of {known}.")
    spot = wanted.way == EC2_SPOT
    looks = chosen.spotcache_launch_from_image and (
        (spot and chosen.spotcache_on_demand_fallback)
        or chosen.spotcache_return_volume
        or chosen.spotcache_superseded_days > 0
    )
    looked = _MINUTES / max(chosen.fallback_controller_look_minutes, 1) if looks else 0.0
    tells = chosen.spotcache_notify != "none"
    zone = 0.0 if shared or not chosen.network_dns_zone or not chosen.zone_shares else 1 / chosen.zone_shares
    return _replaced(
        wanted,
        hours=chosen.hours,
        root_gib=8.0,
        volume_gib=chosen.spot_host_data_volume_size_gb,
        volume_at_night=not chosen.spotcache_return_volume,
        losses=losses(band, chosen.hours) if spot else 0.0,
        superseded_days=chosen.spotcache_superseded_days or 30.4,
        backups=chosen.kept,
        snapshots=(chosen.keeper_keep_snapshot_count or chosen.kept) if chosen.keeper_ebs_snapshots else 0,
        lifecycle_snapshots=chosen.keeper_lifecycle_keep if chosen.spotcache_lifecycle_snapshots else 0,
        backups_per_hour=_BACKUPS_PER_HOUR[chosen.keeper_backup_interval],
        images=chosen.spot_host_bake_keep if chosen.spotcache_launch_from_image else 0,
        zones=zone,
        name_seconds=chosen.keeper_dns_ttl,
        resolvers=1 if chosen.network_dns_zone else 0,
        alarms=1 if tells else 0,
        log_gib=looked * _LOG_GIB,
        function_gb_seconds=looked * _FUNCTION_GB * _FUNCTION_SECONDS,
        addresses=1 if chosen.network_egress == "public_ipv4" or chosen.spot_host_public_ipv4 == "present" else 0,
        calls={
            "lambda/request": looked,
            "sqs/request": _POLLS_A_MINUTE * _MINUTES if tells else 0.0,
        },
        habits=habits,
        lease_seconds=chosen.keeper_timeouts.get("lease", LEASE_SECONDS),
    )


def _replaced(setup: Setup, **changes: Any) -> Setup:
    return Setup(**{**vars(setup), **changes})


def managed(wanted: Setup) -> Setup:
    """ElastiCache or Fargate, which have nothing beside them but, for a Fargate task, a way to fetch its image."""
    if wanted.way in (ELASTICACHE, SERVERLESS):
        return wanted
    if wanted.way not in (FARGATE, FARGATE_SPOT):
        raise CostError(f"The way {wanted.way} is on EC2.")
    return _replaced(wanted, addresses=1)


# The same environment with what costs nothing in promises: a small data volume that is given back at night, fewer
# backups, one image, no second kind of snapshots.
LEAN: Mapping[str, Any] = {
    "spot_host_data_volume_size_gb": 2,
    "spot_host_bake_keep": 1,
    "keeper_keep_count": 8,
    # S3 has every one; a volume that is given back needs one.
    "keeper_keep_snapshot_count": 1,
    "keeper_keep_days": 5,
    "keeper_keep_weeks": 2,
    "spotcache_lifecycle_snapshots": False,
    # A host that hangs while EC2 still calls it running is followed after so long, instead of after 90 seconds.
    "keeper_timeouts": {"lease": 270},
    "fallback_controller_look_minutes": 5,
    "spotcache_return_volume": True,
    "schedule_start": "09:00",
    "schedule_stop": "20:00",
    "schedule_days": ("mon", "tue", "wed", "thu", "fri"),
}
