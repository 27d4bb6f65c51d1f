#!/usr/bin/python
"""A Python program of several files as one executable file on the host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# The work is done on the control node, by the action plugin of the same name; this file is its documentation.
from __future__ import annotations

DOCUMENTATION = r"""
---
module: zipapp
short_description: Install a Python package as one executable file
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Packs a Python package of the control node into one executable archive, as Python's own C(zipapp) does, and copies
    it to the host in one transfer.
  - The same files give the same bytes, on every control node and at any time, so nothing changes unless the program
    does.
options:
  src:
    description: Directory of the package on the control node. A relative path is looked for in the role's C(files).
    type: str
    required: true
  dest:
    description: The file on the host.
    type: path
    required: true
  main:
    description: What is run, as C(package.module:function). What the function returns is the exit code.
    type: str
    required: true
  interpreter:
    description: What follows C(#!) in the file's first line.
    type: str
    default: /usr/bin/python3
  uid:
    description: Owner.
    type: int
    default: 0
  gid:
    description: Group.
    type: int
    default: 0
  mode:
    description: Permissions in four octal digits.
    type: str
    default: '0755'
seealso:
  - module: spotcache.redis.host_files
attributes:
  check_mode:
    description: Says whether the file would change.
    support: full
  diff_mode:
    description: Shows the owner, the permissions and the size.
    support: partial
"""

EXAMPLES = r"""
- name: Install the keeper
  spotcache.redis.zipapp:
    src: spotcache_keeper
    main: spotcache_keeper.cli:main
    dest: /usr/local/sbin/spotcache-keeper
"""

RETURN = r"""
dest:
  description: The file on the host.
  returned: success
  type: str
sha256:
  description: SHA-256 of the file, in hexadecimal.
  returned: success
  type: str
"""
