"""Whether this host may back up for its environment, and in which term."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from dataclasses import dataclass

from spotcache_keeper.backup.serving import read_serving
from spotcache_keeper.context import Context
from spotcache_keeper.errors import KeeperError, NotServingError
from spotcache_keeper.lease import Takeover


class SupersededError(NotServingError):
    """Another host serves the environment."""


@dataclass(frozen=True)
class Entitlement:
    """What a backup that is taken now is judged by.

    Attributes:
        term: written into it.
        takeovers: how the environment changed hands so far, the newest last.
        holds: this host is known to hold the lease, as far as S3 says at this moment.
    """

    term: int = 0
    takeovers: tuple[Takeover, ...] = ()
    holds: bool = True


def entitlement(ctx: Context, *, by_hand: bool = False, final: bool = False) -> Entitlement:
    """This host's at this moment.

    Args:
        ctx: the host's parts.
        by_hand: a person asks. Then a host that was superseded is backed up as well, as what it is: of its old term.
        final: the host ends, and says itself what it leaves. Any other backup ends with the lease that it gave back.

    Raises:
        SupersededError: another host serves.
        KeeperError: S3 does not say who serves, and this host has not served since it booted.
    """
    if ctx.leases is None:
        return Entitlement()
    served = read_serving(ctx)
    try:
        held = ctx.leases.lease()
    except KeeperError as error:
        if ctx.config.boots and (served is None or served.boot != ctx.boot_id):
            raise
        # Redis on a host that does not boot by the keeper is started by a person, and is what it serves.
        term = served.term if served is not None else 0
        ctx.warnings.append(f"who serves could not be read, the backup is that of term {term}: {error}")
        return Entitlement(term, holds=False)
    if held is None:
        return Entitlement()
    if held.lease.host == ctx.machine.identity().instance_id:
        started = served is not None and served.boot != ctx.boot_id and ctx.config.boots
        unfinished = ctx.config.boots and held.lease.before and (served is None or served.term != held.lease.term)
        if started or unfinished:
            # What Redis holds now is what lay on the disk, and would pass for younger than it is.
            raise NotServingError(
                "this host has not begun to serve: its boot is under way, and nothing is to be backed up"
            )
        if held.lease.released and not final and not by_hand:
            raise NotServingError("this host has given its lease back: its final backup is the last one")
        return Entitlement(held.lease.term, held.lease.history)
    why = f"{held.lease.host} serves {ctx.config.environment} (term {held.lease.term}), and not this host"
    if not by_hand:
        raise SupersededError(f"{why}: what is here is no backup of the environment")
    ctx.warnings.append(f"{why}: this backup does not count as the newest, and is restored only when asked for")
    return Entitlement(served.term if served is not None else 0, held.lease.history, holds=False)


def latest_term(ctx: Context) -> int:
    """The latest term of which there is a trace off the lease: in backups, and in what this host has noted.

    Should the lease be lost, terms go on from there: what was made before it was lost must not count as newer.

    Raises:
        KeeperError: S3 does not say.
    """
    served = read_serving(ctx)
    terms = [served.term if served is not None else 0]
    for store in ctx.off_host:
        try:
            terms += [source.term for source in store.sources()]
        except KeeperError:
            if store.at_once:
                raise
    return max(terms)


def takeovers(ctx: Context) -> tuple[Takeover, ...]:
    """How the environment changed hands, whoever serves.

    Raises:
        KeeperError: S3 does not say.
    """
    held = ctx.leases.lease() if ctx.leases is not None else None
    return held.lease.history if held is not None else ()
