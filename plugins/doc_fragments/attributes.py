"""What modules support, for those that have nothing else to say of it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """What modules support, for those that have nothing else to say of it."""

    # Modules that only look.
    READ_ONLY = r"""
attributes:
  check_mode:
    description: Reads only, so it works the same in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

    # Modules that change something which is no text.
    NO_DIFF = r"""
attributes:
  diff_mode:
    description: There is nothing to show.
    support: none
"""
