"""What goes wrong, as a sentence for a person."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class CostError(Exception):
    """What was asked for cannot be answered: which value, and what to do."""
