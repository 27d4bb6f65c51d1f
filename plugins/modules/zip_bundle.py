#!/usr/bin/python
"""A zip archive that follows from its content alone."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: zip_bundle
short_description: A zip archive that follows from its content alone
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Packs files into a zip archive for AWS Lambda. The same files give the same bytes on every machine, at any time, so
    that a function is updated only when its code has changed.
options:
  path:
    description: The archive. Its directory is made when it is missing.
    type: path
    required: true
  files:
    description: Name in the archive and file on this machine, for each member.
    type: dict
    required: true
attributes:
  check_mode:
    description: Says whether the archive would change.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Pack a function
  spotcache.redis.zip_bundle:
    path: build/function.zip
    files:
      function.py: files/function.py
"""

RETURN = r"""
sha256:
  description: The archive's SHA-256 in Base64, as AWS Lambda tells it.
  returned: always
  type: str
"""

import base64
import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

# The earliest that the format knows.
MOMENT = (1980, 1, 1, 0, 0, 0)


def bundle(files: Mapping[str, bytes]) -> bytes:
    """The archive. Stored and not compressed: compressors differ from machine to machine."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, MOMENT)
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            archive.writestr(member, files[name])
    return out.getvalue()


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "required": True}, "files": {"type": "dict", "required": True}},
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    try:
        content = bundle({name: Path(source).read_bytes() for name, source in module.params["files"].items()})
        changed = not path.is_file() or path.read_bytes() != content
        if changed and not module.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(path.name + ".new")
            fresh.write_bytes(content)
            os.replace(fresh, path)
    except OSError as error:
        module.fail_json(msg=f"The archive {path} cannot be made: {error}")
    module.exit_json(changed=changed, sha256=base64.b64encode(hashlib.sha256(content).digest()).decode())


if __name__ == "__main__":
    main()
