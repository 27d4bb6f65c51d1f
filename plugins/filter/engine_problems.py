"""Whether the server that an environment is to have reads its backups, before there is a host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: engine_problems
short_description: Say which backups the server that is asked for cannot read
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns a sentence for each backup that the server would not read; each names the variable, its value and the fix.
positional: _input
options:
  _input:
    description: The backups as M(spotcache.redis.backup_server_info) returns them, the newest first.
    type: list
    elements: dict
    required: true
  engine:
    description: What C(redis_engine) says; empty where it says nothing, which keeps the engine of the newest backup.
    type: str
    default: ''
  release:
    description: Release of Debian whose package the server is; empty where it is another one.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Refuse an engine that cannot read what there is
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join(' ') }}"
  vars:
    problems: "{{ written.backups | spotcache.redis.engine_problems(engine='valkey', release='13') }}"
"""

RETURN = r"""
_value:
  description: The sentences; empty when all is well.
  type: list
  elements: str
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import engines


def engine_problems(value: Sequence[Mapping[str, Any]], engine: str = "", release: str = "") -> list[str]:
    """A sentence for each backup that is not read."""
    if not value:
        return []
    wanted = engine or str(value[0]["redis_engine"])
    package = engines.PACKAGES.get(str(release), {}).get(wanted)
    name = engines.NAMES.get(wanted, wanted)
    server = f"{name} {package.version}, which Debian {release} has," if package else name
    said = f'redis_engine is "{engine}"' if engine else f"redis_engine is empty, which keeps {name}"
    problems = []
    for backup in value:
        wrote = engines.Written(int(backup["rdb_version"]), backup["redis_engine"], backup["server_version"])
        if wanted in engines.NAMES and not engines.reads(wanted, wrote.rdb, package.rdb if package else 0):
            newest = backup is value[0]
            which = "the newest backup" if newest else "the backup that is to be restored"
            fix = engines.way_round(wanted, wrote) if newest else engines.another(wanted, wrote)
            problems.append(
                f"{said}, and {which}, {backup['id']}, has RDB version {wrote.rdb} ({wrote.writer} wrote it), which "
                f"{server} cannot read. Nothing was changed. {fix}"
            )
    return problems


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"engine_problems": engine_problems}
