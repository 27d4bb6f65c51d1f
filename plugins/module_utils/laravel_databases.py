"""The databases of one Redis shared out among an environment's applications, so that no clearing hits a neighbour."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# A Redis has sixteen of them unless its configuration says more.
LAST = 15


@dataclass(frozen=True)
class Claim:
    """The database that one Redis connection of an application wants."""

    group: str
    connection: str
    # The key of the .env that decides it; empty where it is written into the application's configuration.
    key: str
    # caches, which are cleared by emptying the whole database, or the name of what must outlive that.
    kind: str
    # The variable that can say another number; empty: none can.
    option: str
    current: int
    given: int | None
    # Whether the application has its data there already.
    in_place: bool
    # Host and port.
    place: str


@dataclass
class Shares:
    """Numbers by application and connection, and what cannot be."""

    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    words: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def share_out(claims: Iterable[Claim]) -> Shares:
    """Give every connection a database.

    What is said or written into an application's code counts first, then what has its data there already; the rest
    keeps its number where that is free, and takes the lowest free one elsewhere. Two may share one only when they are
    of the same application and of the same kind. Nothing that is in place is ever moved unasked: that would lose sight
    of its data.
    """
    shares = Shares()
    taken: dict[tuple[str, int], Claim] = {}
    by_key: dict[tuple[str, str], int] = {}
    order = sorted(claims, key=lambda one: (_rank(one), one.current, one.kind != "caches"))
    for claim in order:
        number = claim.current if claim.given is None else claim.given
        if not claim.key and claim.given not in (None, claim.current):
            shares.problems.append(
                f"{claim.group}: {claim.option} is {claim.given}, and the database of its Redis connection "
                f"{claim.connection} is {claim.current}, written into config/database.php: let it come from the .env "
                "there, by env()."
            )
            continue
        settled = by_key.get((claim.group, claim.key)) if claim.key else None
        if settled is not None:
            number = settled
        other = taken.get((claim.place, number))
        if other is not None and not _together(claim, other):
            free = [one for one in range(LAST + 1) if (claim.place, one) not in taken]
            if _rank(claim) < 2 or settled is not None or not free:
                shares.problems.append(_clash(claim, other, number, free))
                continue
            shares.words.setdefault(claim.group, []).append(
                f"database {number} has the {other.kind} of {other.group}: its {claim.kind} take {free[0]}."
            )
            number = free[0]
        taken.setdefault((claim.place, number), claim)
        if claim.key:
            by_key[(claim.group, claim.key)] = number
        shares.numbers.setdefault(claim.group, {})[claim.connection] = number
    return shares


def _rank(claim: Claim) -> int:
    """Who comes first."""
    if claim.given is not None or not claim.key:
        return 0
    return 1 if claim.in_place else 2


def _together(one: Claim, other: Claim) -> bool:
    """Whether two may share a database."""
    return one.group == other.group and (one.kind == "caches") == (other.kind == "caches")


def _clash(claim: Claim, other: Claim, number: int, free: list[int]) -> str:
    """What to say of two that may not share a database."""
    if claim.key and claim.key == other.key and claim.group == other.group:
        return (
            f"{claim.group}: its Redis connections {other.connection} ({other.kind}) and {claim.connection} "
            f"({claim.kind}) both take their database from {claim.key}, and Laravel clears a cache by emptying its "
            "whole database: give one of them a key of its own in config/database.php."
        )
    # Caches are made again; what else there is, is not.
    lower = next(
        (one for one in sorted((claim, other), key=lambda one: one.kind != "caches") if one.option and one.key), None
    )
    number_free = str(free[0]) if free else "one of another Redis"
    mend = (
        f"say {lower.option}: {number_free} for {lower.group}, whose {lower.kind} then begin empty"
        if lower
        else "give one of them a database of its own in config/database.php"
    )
    return (
        f"the {claim.kind} of {claim.group} (connection {claim.connection}) and the {other.kind} of {other.group} "
        f"(connection {other.connection}) share database {number} of {claim.place}, and Laravel clears a cache by "
        f"emptying its whole database: {mend}."
    )
