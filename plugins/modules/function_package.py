#!/usr/bin/python
"""A zip of a function's code whose bytes follow from the code alone."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: function_package
short_description: A zip of a function's code whose bytes follow from the code alone
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Packs the Python files of a folder, for M(amazon.aws.lambda) to upload. The same files always make the same bytes,
    whenever and wherever they are packed, so that Lambda's own checksum tells whether the function has changed.
  - The zip is not a resource but a step towards one. It is therefore written in check mode as well, and never reported
    as a change.
options:
  src:
    description: Folder with the Python files. Its own name becomes the package's name in the zip.
    type: path
    required: true
  dest:
    description: The zip to write. Its folder is made where it is missing.
    type: path
    required: true
attributes:
  check_mode:
    description: Writes the zip all the same, since later tasks compare it.
    support: partial
"""

EXAMPLES = r"""
- name: Pack the function
  spotcache.redis.function_package:
    src: "{{ role_path }}/files/spotcache_notify"
    dest: "{{ lookup('ansible.builtin.env', 'PWD') }}/build/spotcache_notify.zip"
"""

RETURN = r"""
path:
  description: The zip.
  returned: always
  type: str
sha256:
  description: Its checksum in base64, as Lambda gives it.
  returned: always
  type: str
"""

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

EPOCH = (1980, 1, 1, 0, 0, 0)


def packed(folder: Path) -> bytes:
    """The zip of a folder's Python files."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path in sorted(folder.rglob("*.py")):
            entry = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}", EPOCH)
            entry.compress_type = zipfile.ZIP_STORED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, path.read_bytes())
    return data.getvalue()


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={"src": {"type": "path", "required": True}, "dest": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    source, target = Path(module.params["src"]), Path(module.params["dest"])
    if not any(source.rglob("*.py")):
        module.fail_json(msg=f"{source} holds no Python file: there is no function to pack.")
    content = packed(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        part.write_bytes(content)
        os.replace(part, target)
    except OSError as error:
        module.fail_json(msg=f"{target} cannot be written: {error.strerror}")
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    module.exit_json(changed=False, path=str(target), sha256=digest)


if __name__ == "__main__":
    main()
