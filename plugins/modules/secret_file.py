#!/usr/bin/python
"""A secret that is made on the host and known there alone."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: secret_file
short_description: Make a random secret on the host, and tell its SHA-256
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Writes 64 random hexadecimal digits into a file that only root may read, unless it holds a secret already.
  - The secret itself is never returned. Its SHA-256 is what a Redis ACL needs to know of a password.
options:
  path:
    description: The file. Directories above it are made with mode 0755.
    type: path
    required: true
  known_elsewhere:
    description: Secrets that others know. A file that holds one of them gets another secret.
    type: list
    elements: str
    default: []
  renew:
    description: Make another secret in any case.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports whether a secret would be made. Its SHA-256 is then that of another one.
    support: full
  diff_mode:
    description: There is nothing that may be shown.
    support: none
"""

EXAMPLES = r"""
- name: Ensure the keeper's password
  spotcache.redis.secret_file:
    path: /etc/spotcache/keeper-password
  register: secret

- name: Show what an ACL says of it
  ansible.builtin.debug:
    msg: "user keeper on #{{ secret.sha256 }} +ping"
"""

RETURN = r"""
sha256:
  description: SHA-256 of the secret, in hexadecimal digits.
  returned: success
  type: str
"""

import hashlib
import os
import secrets
import stat

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils.host_state import replace_file

MODE = 0o600


def present(path: str) -> str:
    """The secret that is there; empty without one."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            return handle.read().strip()
    except FileNotFoundError:
        return ""


def is_tight(path: str) -> bool:
    """Whether the file is root's (this process' user's) alone."""
    status = os.stat(path)
    return (stat.S_IMODE(status.st_mode), status.st_uid) == (MODE, os.geteuid())


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True, "no_log": False},
            "known_elsewhere": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "renew": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    try:
        secret = present(path)
        changed = not secret or module.params["renew"] or secret in module.params["known_elsewhere"]
        if changed:
            secret = secrets.token_hex(32)
        changed = changed or not is_tight(path)
        if changed and not module.check_mode:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            replace_file(path, f"{secret}\n".encode("utf-8", "surrogateescape"), MODE, os.geteuid(), os.getegid())
    except OSError as error:
        module.fail_json(msg=f"{path} cannot be read or written: {error}")
    digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
    module.exit_json(changed=changed, sha256=digest)


if __name__ == "__main__":
    main()
