"""Options of modules that keep something in S3."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """Options of modules that keep something in S3."""

    DOCUMENTATION = r"""
options:
  bucket:
    description: S3 bucket.
    type: str
    required: true
"""

    PREFIX = r"""
options:
  prefix:
    description: What the keys in the bucket begin with, with a slash at its end.
    type: str
    required: true
"""
