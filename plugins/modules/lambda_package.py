#!/usr/bin/python
"""A zip of a Lambda function's code whose bytes follow from the code alone."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: lambda_package
short_description: A zip of a Lambda function's code whose bytes follow from the code alone
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Packs Python files for M(amazon.aws.lambda) to upload. The same files always make the same bytes, whenever and
    wherever they are packed, so that Lambda's own checksum tells whether the function has changed.
  - The zip is not a resource but a step towards one. It is therefore written in check mode as well, and never reported
    as a change.
options:
  src:
    description: Folder with the Python files. Its own name becomes the package's name in the zip.
    type: path
  files:
    description: Name in the zip and file on this machine, for each member; instead of O(src).
    type: dict
  dest:
    description: The zip to write. Its folder is made where it is missing.
    type: path
    required: true
extends_documentation_fragment:
  - spotcache.redis.attributes.no_diff
attributes:
  check_mode:
    description: There is nothing to change but the zip.
    support: partial
    details: It is written all the same, since later tasks compare it.
"""

EXAMPLES = r"""
- name: Pack a folder
  spotcache.redis.lambda_package:
    src: "{{ role_path }}/files/spotcache_notify"
    dest: /tmp/spotcache_notify.zip

- name: Pack single files
  spotcache.redis.lambda_package:
    files:
      function.py: "{{ role_path }}/files/function.py"
    dest: /tmp/function.zip
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
import os
from collections.abc import Mapping
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils.archive import stored


def files_of(folder: Path) -> dict[str, str]:
    """The Python files of a folder, by their names in the zip."""
    return {f"{folder.name}/{path.relative_to(folder).as_posix()}": str(path) for path in folder.rglob("*.py")}


def packed(files: Mapping[str, str]) -> bytes:
    """The zip of these files, in the order of their names.

    Raises:
        OSError: one cannot be read.
    """
    return stored({name: Path(files[name]).read_bytes() for name in sorted(files)})


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={"src": {"type": "path"}, "files": {"type": "dict"}, "dest": {"type": "path", "required": True}},
        mutually_exclusive=[("src", "files")],
        required_one_of=[("src", "files")],
        supports_check_mode=True,
    )
    source, target = module.params["src"], Path(module.params["dest"])
    files = files_of(Path(source)) if source else module.params["files"]
    if not files:
        module.fail_json(msg=f"{source or 'files'} holds no Python file: there is no function to pack.")
    try:
        content = packed(files)
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}")
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
