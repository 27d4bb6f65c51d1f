"""Rows as a table of text, for people."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
name: text_table
short_description: Rows as a table of text
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns the lines of a table, with a head and a rule below it, each column as wide as its widest cell.
  - Columns that hold nothing but numbers are set to the right.
options:
  _input:
    description: Rows, each a list with one cell for each column.
    type: list
    elements: list
    required: true
  head:
    description: The columns' names.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ [['web-1', 3], ['web-2', 12]] | spotcache.redis.text_table(['host', 'entries']) }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

NUMBER = re.compile(r"^-?[0-9][0-9.,]*$")


def text_table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> list[str]:
    """Lines of text."""
    cells = [[" ".join(str("" if cell is None else cell).split()) for cell in row] for row in rows]
    for row in cells:
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells where the head has {len(head)}: {row}")
    widths = [max(len(row[column]) for row in [list(head), *cells]) for column in range(len(head))]
    right = [
        bool(cells) and all(NUMBER.match(row[column]) or not row[column] for row in cells)
        for column in range(len(head))
    ]

    def line(row: Sequence[str]) -> str:
        set_cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(set_cells).rstrip()

    return [line(list(head)), "  ".join("-" * width for width in widths), *(line(row) for row in cells)]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"text_table": text_table}
