"""What `provision` sets up, and what stands in its place, as setups for the model: the defaults of the roles."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spotcache_cost.errors import CostError
from spotcache_cost.habits import LEASE_SECONDS, Habits
from spotcache_cost.hours import MONTH, WEEK, WEEKS, of_schedule, of_week
from spotcache_cost.model import EC2, EC2_SPOT, ELASTICACHE, FARGATE, FARGATE_SPOT, SERVERLESS, Setup

# How many hosts of a hundred EC2 takes back in a month, by the Advisor's band: the middle of it. Where the Advisor
# does not say, the middle of all bands.
_LOSSES = {"<5": 2.5, "5-10": 7.5, "10-15": 12.5, "15-20": 17.5, ">20": 25.0, "": 12.5}
# Memory of the functions, in GB. How long a call takes on AWS is not known. It is taken as this; the one that gives up
# backups reads what is known of each.
_FUNCTION_GB, _LOOK_SECONDS, _RETENTION_SECONDS = 0.25, 1.0, 2.0
# How many environments share a zone where nobody says: those that inventories has.
ZONE_SHARES = 3
# What Lambda and the function write of a call, with what CloudWatch adds for each event.
_LOG_GIB = 500 / 2**30
_MINUTES = MONTH * 60
# A week is looked at in so many moments.
_STEPS = 336
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
    environments the price of a shared zone is divided, 0 where it is paid for something else anyway; and
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
    keeper_spared_hours: float = 6
    keeper_lock_days: int = 14
    keeper_retention_minutes: int = 15
    keeper_ebs_snapshots: bool = True
    keeper_timer_snapshots: bool = True
    spotcache_lifecycle_snapshots: bool = True
    keeper_lifecycle_keep: int = 3
    keeper_dns_ttl: float = 10
    network_dns_zone: str = "spotcache.internal"
    network_dns_zone_shared: bool = False
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
    zone_shares: float = ZONE_SHARES
    hours_a_week: float = 0

    @property
    def week(self) -> tuple[float, float]:
        """Days a week on which it runs, and hours on each; of a mere number of hours as few days as a week's work."""
        if not self.hours_a_week and self.schedule_start and self.schedule_stop:
            days = len(set(self.schedule_days))
            return days, of_schedule(self.schedule_start, self.schedule_stop, self.schedule_days) / days
        hours = self.hours / WEEKS
        days = 5 if hours <= 5 * 24 * 0.75 else 7
        return days, hours / days

    @property
    def zones(self) -> float:
        """Private DNS zones that are paid for it, or which part of one."""
        if not self.network_dns_zone or (self.network_dns_zone_shared and not self.zone_shares):
            return 0.0
        return 1 / self.zone_shares if self.network_dns_zone_shared else 1.0

    @property
    def locked(self) -> float:
        """Backups in S3 that are the first of their day, and locked, on average."""
        return self.keeper_lock_days * self.week[0] / 7

    def kept(self, count: int, per_hour: float, days: int, weeks: int) -> float:
        """Backups that retention leaves in one place, on average, without those that are locked.

        The newest, or all of the last hours; and of earlier days and weeks one each, the latest of which is among them.

        Args:
            count: of the newest.
            per_hour: that are taken.
            days: of which one each is kept.
            weeks: likewise.
        """
        running, hours = self.week
        newest = _newest(count, per_hour, self.keeper_spared_hours, int(running), hours)
        return newest + max(days * running / 7 - 1, 0.0) + max(weeks - 1, 0)

    @property
    def hours(self) -> float:
        """Hours a month by the schedule."""
        if self.hours_a_week:
            return of_week(self.hours_a_week)
        if not (self.schedule_start and self.schedule_stop):
            return MONTH
        return of_week(of_schedule(self.schedule_start, self.schedule_stop, self.schedule_days))


def _newest(count: int, per_hour: float, spared_hours: float, days: int, hours: float) -> float:
    """How many are kept of the newest, on average of all hours of a week: so many, or what the last hours brought."""
    runs = [(24.0 * day, 24.0 * day + hours) for day in range(-7, 7) if day % 7 < days]
    total = 0.0
    for number in range(_STEPS):
        at = WEEK * number / _STEPS
        spent = sum(max(0.0, min(end, at) - max(begin, at - spared_hours)) for begin, end in runs)
        total += max(count, spent * per_hour)
    return total / _STEPS


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
    # A function gives up backups, by day and by night.
    retained = _MINUTES / max(chosen.keeper_retention_minutes, 1)
    tells = chosen.spotcache_notify != "none"
    per_hour = _BACKUPS_PER_HOUR[chosen.keeper_backup_interval]
    days, weeks = chosen.keeper_keep_days, chosen.keeper_keep_weeks
    fewer = chosen.keeper_keep_snapshot_count
    snapshots = chosen.kept(
        fewer or chosen.keeper_keep_count,
        # Otherwise a host's last one alone, which one that always runs does not take.
        per_hour if chosen.keeper_timer_snapshots else 0.0,
        *((0, 0) if fewer else (days, weeks)),
    )
    return _replaced(
        wanted,
        hours=chosen.hours,
        root_gib=8.0,
        volume_gib=chosen.spot_host_data_volume_size_gb,
        volume_at_night=not chosen.spotcache_return_volume,
        losses=losses(band, chosen.hours) if spot else 0.0,
        superseded_days=chosen.spotcache_superseded_days or 30.4,
        backups=chosen.kept(chosen.keeper_keep_count, per_hour, days, weeks),
        locked=chosen.locked,
        lock_per_month=chosen.week[0] * WEEKS if chosen.keeper_lock_days else 0.0,
        snapshots=snapshots if chosen.keeper_ebs_snapshots else 0.0,
        lifecycle_snapshots=chosen.keeper_lifecycle_keep if chosen.spotcache_lifecycle_snapshots else 0,
        backups_per_hour=per_hour,
        retentions=retained,
        images=chosen.spot_host_bake_keep if chosen.spotcache_launch_from_image else 0,
        zones=0.0 if shared else chosen.zones,
        name_seconds=chosen.keeper_dns_ttl,
        resolvers=1 if chosen.network_dns_zone else 0,
        alarms=1 if tells else 0,
        log_gib=(looked + retained) * _LOG_GIB,
        function_gb_seconds=(looked * _LOOK_SECONDS + retained * _RETENTION_SECONDS) * _FUNCTION_GB,
        addresses=1 if chosen.network_egress == "public_ipv4" or chosen.spot_host_public_ipv4 == "present" else 0,
        calls={
            "lambda/request": looked + retained,
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
# backups, one image, no second kind of snapshots, and a zone that environments share.
LEAN: Mapping[str, Any] = {
    "spot_host_data_volume_size_gb": 2,
    "spot_host_bake_keep": 1,
    # Beside these everything stays for keeper_spared_hours, and the first of each day for keeper_lock_days.
    "keeper_keep_count": 4,
    "keeper_keep_days": 2,
    "keeper_keep_weeks": 0,
    # S3 has every one; a volume that is given back needs its last.
    "keeper_keep_snapshot_count": 1,
    "keeper_timer_snapshots": False,
    "keeper_retention_minutes": 60,
    "spotcache_lifecycle_snapshots": False,
    # A host that hangs while EC2 still calls it running is followed after so long, instead of after 90 seconds.
    "keeper_timeouts": {"lease": 270},
    "fallback_controller_look_minutes": 10,
    "network_dns_zone_shared": True,
    "spotcache_return_volume": True,
    "schedule_start": "09:00",
    "schedule_stop": "20:00",
    "schedule_days": ("mon", "tue", "wed", "thu", "fri"),
}
