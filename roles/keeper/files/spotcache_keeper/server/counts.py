"""How much a database holds, as the server and its files tell it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DatabaseCount:
    """Keys of one database, and how many of them have a time to live."""

    keys: int
    expires: int


Databases = Mapping[int, DatabaseCount]
