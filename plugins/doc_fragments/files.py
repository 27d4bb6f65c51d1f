"""Options of modules that know what directories and files should be."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations


class ModuleDocFragment:
    """Options of modules that know what directories and files should be."""

    DOCUMENTATION = r"""
options:
  expected:
    description: Directories and files as they should be.
    type: list
    elements: dict
    suboptions:
      path:
        description: Path.
        type: path
        required: true
      text:
        description: Text of a file. Without it a directory is meant.
        type: str
      base64:
        description: The bytes of a file that is no text, in Base64, instead of O(expected[].text).
        type: str
      mode:
        description: Permissions in four octal digits.
        type: str
        required: true
      uid:
        description: Owner.
        type: int
        default: 0
      gid:
        description: Group.
        type: int
        default: 0
"""
