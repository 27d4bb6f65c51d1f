"""What the Docker engine's daemon.json becomes, and what the engine must do about it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: docker_daemon
short_description: Merge settings into Docker's daemon.json
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Merges settings into the text of an existing daemon.json. What others wrote there stays, mappings are merged
    key by key, and V(null) removes a key.
  - Says which keys change, and which of them the engine reads only when it starts.
positional: _input
options:
  _input:
    description: Text of the existing file; empty when there is none.
    type: str
    required: true
  settings:
    description: Settings to merge.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: See what would become of daemon.json
  ansible.builtin.debug:
    msg: "{{ '{\"debug\": true}' | spotcache.redis.docker_daemon({'live-restore': true}) }}"
"""

RETURN = r"""
_value:
  description:
    - C(text) is the new file, C(differing) the keys that change, C(restart) those of them that need a restart of the
      engine, and C(problem) a sentence when the existing file cannot be understood (empty otherwise).
  type: dict
"""

import json
from collections.abc import Mapping
from typing import Any

# What the engine takes up from a changed file when it is told to (SIGHUP); everything else needs a restart.
RELOADABLE = frozenset(
    (
        "allow-nondistributable-artifacts",
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    )
)


def merged(existing: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The existing mapping with the settings merged in; None removes a key."""
    result = dict(existing)
    for key, value in settings.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            present = result.get(key)
            result[key] = merged(present if isinstance(present, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def docker_daemon(text: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What daemon.json becomes, see RETURN."""
    try:
        existing = json.loads(text) if text.strip() else {}
        if not isinstance(existing, dict):
            raise ValueError("it holds no mapping")
    except ValueError as error:
        problem = f"/etc/docker/daemon.json is not valid JSON ({error}): correct it, or remove it to start afresh"
        return {"text": text, "differing": [], "restart": [], "problem": problem}
    wanted = merged(existing, settings)
    changed = sorted(key for key in {*existing, *wanted} if existing.get(key) != wanted.get(key))
    return {
        "text": json.dumps(wanted, indent=2, sort_keys=True) + "\n" if changed else text,
        "differing": changed,
        "restart": [key for key in changed if key not in RELOADABLE],
        "problem": "",
    }


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"docker_daemon": docker_daemon}
