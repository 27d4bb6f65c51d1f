"""What hosts and nodes have: memory and processors, as EC2's and ElastiCache's documentation say."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from dataclasses import dataclass

from spotcache_cost.errors import CostError

# What the role redis leaves to the system, and which part of the rest it gives to data: redis_maxmemory: auto.
_SYSTEM_GIB, _DATA_SHARE = 0.25, 0.6
# What ElastiCache keeps back for backups and failover: its parameter reserved-memory-percent, 25.
_NODE_SHARE = 0.75


@dataclass(frozen=True)
class Kind:
    """A type of host or node.

    Attributes:
        name: AWS's.
        vcpus: how many.
        gib: memory that it is sold with.
        architecture: of its processor.
    """

    name: str
    vcpus: int
    gib: float
    architecture: str = "x86_64"

    @property
    def data_gib(self) -> float:
        """How much data it holds: of a host what the role redis gives Redis, of a node what is not reserved."""
        if self.name.startswith("cache."):
            return self.gib * _NODE_SHARE
        return max((self.gib - _SYSTEM_GIB) * _DATA_SHARE, 0.0625)


_SIZES = {"nano": 0.5, "micro": 1.0, "small": 2.0, "medium": 4.0}
_NODES = {"micro": 0.5, "small": 1.37, "medium": 3.09}
KINDS = {
    **{
        f"{family}.{size}": Kind(f"{family}.{size}", 2, gib, "arm64" if family == "t4g" else "x86_64")
        for family in ("t3", "t3a", "t4g")
        for size, gib in _SIZES.items()
    },
    **{
        f"cache.{family}.{size}": Kind(f"cache.{family}.{size}", 2, gib, "arm64" if family == "t4g" else "x86_64")
        for family in ("t3", "t4g")
        for size, gib in _NODES.items()
    },
}


def kind(name: str) -> Kind:
    """A type by its name.

    Raises:
        CostError: it is not known here.
    """
    if name not in KINDS:
        raise CostError(f"The type {name!r} is not known here: the types are {', '.join(KINDS)}.")
    return KINDS[name]
