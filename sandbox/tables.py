"""Fields of DynamoDB's answers that AWS always gives and moto does not."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import uuid
from typing import Any

from moto.dynamodb.models.table import Table


def close_gaps() -> None:
    """Give moto what it lacks."""
    original = Table.describe

    def describe(table: Any, base_key: str = "TableDescription") -> dict[str, Any]:
        answer: dict[str, Any] = original(table, base_key)
        answer[base_key].setdefault("TableId", str(uuid.uuid5(uuid.NAMESPACE_URL, table.table_arn)))
        return answer

    Table.describe = describe
