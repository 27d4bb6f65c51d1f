# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator of a rehearsal may do: the documents that docs/iam/README.md has a person attach, and no others.

Only the standard library: the front door asks as well, before there is anything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

IAM = Path(__file__).resolve().parent.parent / "docs" / "iam"
# For provision to destroy, with whatever the shipped inventories have on.
ATTACHED = ("operator-policy", "operator-roles-policy", "operator-automation-policy")
# What the account's administrator has made before.
BOUNDARY = IAM / "spotcache-boundary.json"


def also(*names: str) -> list[str]:
    """A sandbox's options that give its operator a further document, by its short name, such as `drill`."""
    return _options(f"operator-{name}-policy" for name in names)


def documented() -> list[str]:
    """A sandbox's options that give its operator what is attached for provision to destroy, and the boundary."""
    return [*_options(ATTACHED), "--policy", str(BOUNDARY)]


def _options(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--operator-policy", str(IAM / f"{name}.json"))]
