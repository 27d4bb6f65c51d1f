"""SSM's parameters: how much each tier holds, and that one which is advanced stays so.

Sizes and sentences: AWS Systems Manager User Guide, "Managing parameter tiers".
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import functools
import inspect
from typing import Any, Final

from moto.ssm.exceptions import ValidationException
from moto.ssm.models import SimpleSystemManagerBackend

LIMITS: Final = {"Standard": 4096, "Advanced": 8192}
BY_ITSELF: Final = "Intelligent-Tiering"


def tier_of(size: int, asked: str | None, before: str | None) -> str:
    """The tier of a parameter that is put.

    Args:
        size: of its value, in characters.
        asked: what the request says.
        before: the tier of the parameter that is there; None for a new one.

    Raises:
        ValidationException: the value does not fit, or the parameter would be downgraded.
    """
    if asked == "Standard" and before == "Advanced":
        raise ValidationException(
            "This parameter uses the advanced-parameter tier. You can't downgrade a parameter from the "
            "advanced-parameter tier to the standard-parameter tier. If necessary, you can delete the advanced "
            "parameter and recreate it as a standard parameter."
        )
    large = size > LIMITS["Standard"] or before == "Advanced"
    tier = ("Advanced" if large else "Standard") if asked == BY_ITSELF else asked or before or "Standard"
    if size > LIMITS[tier]:
        more = (
            " To create a larger parameter value, upgrade the parameter to use the advanced-parameter tier."
            if tier == "Standard"
            else ""
        )
        raise ValidationException(
            f"{tier} tier parameters support a maximum parameter value of {LIMITS[tier]} characters.{more}"
        )
    return tier


def close_gaps() -> None:
    """Have moto's PutParameter go by the tiers."""
    put = SimpleSystemManagerBackend.put_parameter
    signature = inspect.signature(put)

    @functools.wraps(put)
    def put_parameter(*args: Any, **kwargs: Any) -> Any:
        asked = signature.bind(*args, **kwargs)
        backend, name = asked.arguments["self"], asked.arguments["name"]
        there = backend.get_parameter(name)
        tier = tier_of(len(asked.arguments["value"] or ""), asked.arguments.get("tier"), there.tier if there else None)
        asked.arguments["tier"] = tier
        return put(*asked.args, **asked.kwargs)

    SimpleSystemManagerBackend.put_parameter = put_parameter
