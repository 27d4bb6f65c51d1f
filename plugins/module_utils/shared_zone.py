"""How a private DNS zone says that environments share it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping

# The tag of a zone that we have made, and the one of each environment that needs it, whose value is its VPC.
SHARED = "spotcache:shared"
SHARED_BY = "spotcache:shared-by:"


def needed_by(tags: Mapping[str, str]) -> dict[str, str]:
    """The VPC of each environment that a zone's tags name."""
    return {key.removeprefix(SHARED_BY): vpc for key, vpc in tags.items() if key.startswith(SHARED_BY)}
