#!/usr/bin/python
"""Directories and small files that belong together, in one task."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_files
short_description: Write directories and small files that belong together
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Makes every directory and file of a list what it should be. What M(ansible.builtin.file) and M(ansible.builtin.copy)
    do in a task for each, this does in one, which counts on a fresh host.
  - A file is replaced in one step, so that nobody ever reads half of it or reads it with another mode.
options:
  expected:
    description:
      - Directories and files, in the order in which they are made. Directories above one are made too, with mode 0755.
      - Not meant for files with secrets, since the arguments of a module may be logged.
    required: true
extends_documentation_fragment:
  - spotcache.redis.files
attributes:
  check_mode:
    description: Reports what would be written.
    support: full
  diff_mode:
    description: Shows the text of files.
    support: full
"""

EXAMPLES = r"""
- name: Write the settings of the kernel
  spotcache.redis.host_files:
    expected:
      - {path: /srv/redis, mode: "0755"}
      - {path: /etc/sysctl.d/60-example.conf, text: "vm.overcommit_memory = 1\n", mode: "0644"}
"""

RETURN = r"""
written:
  description: The paths that were made or corrected, or would be in check mode.
  returned: success
  type: list
  elements: str
"""

import contextlib
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils.host_state import (
    EXPECTED,
    content,
    describe,
    differs,
    read,
    replace_file,
)


def write_directory(path: str, mode: int, uid: int, gid: int) -> None:
    """Make a directory, or correct its owner and mode."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def write_file(path: str, data: bytes, mode: int, uid: int, gid: int) -> None:
    """Replace a file in one step."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    replace_file(path, data, mode, uid, gid)


def difference(expected: dict[str, Any]) -> dict[str, Any]:
    """What a person sees of a path before and after."""
    path, found = expected["path"], describe(expected["path"])
    before = {key: found[key] for key in ("mode", "uid", "gid") if key in found}
    after = {key: expected[key] for key in ("mode", "uid", "gid")}
    attributes = {"before": f"{before or 'absent'}\n", "after": f"{after}\n"}
    if expected["base64"] is not None:
        attributes["after"] = f"{after}, {len(content(expected) or b'')} bytes\n"
    if expected["text"] is None:
        return {**attributes, "before_header": path, "after_header": path}
    data = read(path) if found["exists"] else None
    text = {"before": (data or b"").decode("utf-8", "replace"), "after": expected["text"]}
    return {**(attributes if text["before"] == text["after"] else text), "before_header": path, "after_header": path}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={"expected": {"type": "list", "elements": "dict", "required": True, "options": EXPECTED}},
        supports_check_mode=True,
    )
    differing = [expected for expected in module.params["expected"] if differs(expected)]
    shown = [difference(expected) for expected in differing]
    for expected in [] if module.check_mode else differing:
        path, owner = expected["path"], (expected["uid"], expected["gid"])
        try:
            mode = int(expected["mode"], 8)
            data = content(expected)
            if data is None:
                write_directory(path, mode, *owner)
            else:
                write_file(path, data, mode, *owner)
        except (OSError, ValueError) as error:
            module.fail_json(msg=f"{path} cannot be written: {error}")
    module.exit_json(changed=bool(differing), written=[expected["path"] for expected in differing], diff=shown)


if __name__ == "__main__":
    main()
