#!/usr/bin/python
"""What a host has of a list of things, in one look."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_info
short_description: See what a host has of files, packages, images and containers
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Looks at many things of a host at once. A role asks it first and then skips every step that has nothing to do, so
    that a host where nothing changes costs one look instead of one task for each thing.
  - Nothing is changed, and what is missing is reported as missing, never an error. It runs in check mode as well.
options:
  paths:
    description: Paths to describe. A symbolic link is described itself, not what it points at.
    type: list
    elements: path
    default: []
  expected:
    description:
      - Files and directories to compare with what they should be. Those that are not so are returned in RV(differing).
      - Not meant for files with secrets, since the arguments of a module may be logged.
    default: []
  contents:
    description:
      - Files to return the text of, up to one mebibyte each. Meant for what is no secret.
      - Works for files of the kernel below C(/proc) and C(/sys) too.
    type: list
    elements: path
    default: []
  databases:
    description:
      - Files with data of Redis to describe, as patterns such as V(/srv/redis/redis/*.rdb). Of those that are no RDB
        nothing is said.
    type: list
    elements: str
    default: []
  packages:
    description: Debian packages to return the installed versions of.
    type: list
    elements: str
    default: []
  engine:
    description: Whether to ask the Docker engine.
    type: bool
    default: false
  images:
    description: Images to look for, by name, digest or id. Only with O(engine).
    type: list
    elements: str
    default: []
  containers:
    description: Containers to look for, by name. Only with O(engine).
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - spotcache.redis.files
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: See what is there
  spotcache.redis.host_info:
    paths: [/etc/docker/daemon.json]
    contents: [/etc/docker/daemon.json, /proc/sys/vm/overcommit_memory]
    packages: [docker.io]
    engine: true
    containers: [spotcache-redis]
  register: host
"""

RETURN = r"""
paths:
  description: For each path what it is. Only C(exists) is always there.
  returned: always
  type: dict
  contains:
    exists:
      description: Whether there is something.
      type: bool
    type:
      description: V(file), V(directory), V(link) or V(other).
      type: str
    mode:
      description: Permissions in four octal digits.
      type: str
    uid:
      description: Owner.
      type: int
    gid:
      description: Group.
      type: int
    sha256:
      description: Of a regular file of up to one mebibyte.
      type: str
  sample:
    /etc/docker/daemon.json: {exists: true, type: file, mode: "0644", uid: 0, gid: 0, sha256: 44136fa3}
distribution:
  description: What the host runs, as its C(/etc/os-release) says.
  returned: always
  type: dict
  contains:
    id:
      description: Small letters, such as V(debian) or V(ubuntu).
      type: str
    version:
      description: Such as V(12) or V(24.04).
      type: str
    release:
      description: Its code name, such as V(bookworm).
      type: str
differing:
  description: Those of O(expected) that are missing or not as expected.
  returned: always
  type: list
  elements: str
contents:
  description: Text of each file that could be read.
  returned: always
  type: dict
  sample:
    /proc/sys/vm/overcommit_memory: "0\n"
packages:
  description: Version of each package that is installed; the others are left out.
  returned: always
  type: dict
  sample:
    docker.io: 20.10.24+dfsg1-1+deb12u1
engine:
  description: The Docker engine.
  returned: always
  type: dict
  contains:
    answers:
      description: Whether it could be asked.
      type: bool
    reason:
      description: Why not.
      type: str
    version:
      description: Its version.
      type: str
    live_restore:
      description: Whether containers survive its restart.
      type: bool
    running:
      description: How many containers run.
      type: int
    images:
      description: Id of each image that is there; the others are left out.
      type: dict
    containers:
      description:
        - Of each container that is there id, image, image_id, running, restarting, started_at and redis_engine
          (V(redis) or V(valkey), by its command); the others are left out.
      type: dict
databases:
  description: For each file of O(databases) that is an RDB what its first bytes say.
  returned: always
  type: dict
  contains:
    rdb_version:
      description: Version of the format.
      type: int
    redis_engine:
      description: Which server wrote it, V(redis) or V(valkey); empty where it does not say.
      type: str
    server_version:
      description: That server's version; empty where it does not say.
      type: str
"""

import glob
from typing import Any

from ansible.module_utils import distro
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import engines
from ansible_collections.spotcache.redis.plugins.module_utils.docker_engine import Engine, EngineError
from ansible_collections.spotcache.redis.plugins.module_utils.host_state import EXPECTED, describe, differs, read
from ansible_collections.spotcache.redis.plugins.module_utils.programs import TimeoutExpired, run


def texts(paths: list[str]) -> dict[str, str]:
    """The text of each file that can be read."""
    found = {path: read(path) for path in paths}
    return {path: data.decode("utf-8", "replace") for path, data in found.items() if data is not None}


def databases(patterns: list[str]) -> dict[str, dict[str, Any]]:
    """What each RDB says of itself."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(path for pattern in patterns for path in glob.glob(pattern)):
        try:
            with open(path, "rb") as handle:
                wrote = engines.written(handle.read(256))
        except OSError:
            continue
        if wrote.rdb:
            found[path] = {"rdb_version": wrote.rdb, "redis_engine": wrote.engine, "server_version": wrote.version}
    return found


def versions(packages: list[str]) -> dict[str, str]:
    """The version of each package that is installed whole."""
    if not packages:
        return {}
    argv = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}|${Package}|${Version}\n", *packages]
    try:
        done = run(argv, timeout=60)
    except (OSError, TimeoutExpired):
        return {}
    rows = [line.split("|") for line in done.stdout.splitlines()]
    # "ii" is installed; the third letter is blank unless something is wrong.
    return {name: version for status, name, version in rows if status.startswith("ii") and not status[2:].strip()}


def ask(engine: Engine, images: list[str], containers: list[str]) -> dict[str, Any]:
    """What the engine has."""
    try:
        info = engine.info()
        found_images = {name: engine.image(name) for name in images}
        found_containers = {name: engine.container(name) for name in containers}
    except EngineError as error:
        return {
            "answers": False,
            "reason": str(error),
            "running": 0,
            "live_restore": False,
            "images": {},
            "containers": {},
        }
    return {
        "answers": True,
        "version": info.get("ServerVersion", ""),
        "live_restore": bool(info.get("LiveRestoreEnabled")),
        "running": int(info.get("ContainersRunning") or 0),
        "images": {name: image["Id"] for name, image in found_images.items() if image},
        "containers": {name: summary(container) for name, container in found_containers.items() if container},
    }


def summary(container: dict[str, Any]) -> dict[str, Any]:
    """What counts of a container. Its environment and its command are left out: they may hold what a log must not."""
    state = container["State"]
    return {
        "id": container["Id"],
        "image": container["Config"]["Image"],
        "image_id": container["Image"],
        "running": bool(state["Running"]),
        "restarting": bool(state["Restarting"]),
        "started_at": state["StartedAt"],
        "redis_engine": engines.engine_of(container["Config"].get("Cmd")),
    }


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": []},
            "expected": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": EXPECTED,
            },
            "contents": {"type": "list", "elements": "path", "default": []},
            "databases": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "engine": {"type": "bool", "default": False},
            "images": {"type": "list", "elements": "str", "default": []},
            "containers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    nothing = {
        "answers": False,
        "reason": "not asked",
        "running": 0,
        "live_restore": False,
        "images": {},
        "containers": {},
    }
    module.exit_json(
        changed=False,
        paths={path: describe(path) for path in wanted["paths"]},
        distribution={"id": distro.id(), "version": distro.version(), "release": distro.codename()},
        differing=[expected["path"] for expected in wanted["expected"] if differs(expected)],
        contents=texts(wanted["contents"]),
        databases=databases(wanted["databases"]),
        packages=versions(wanted["packages"]),
        engine=ask(Engine(), wanted["images"], wanted["containers"]) if wanted["engine"] else nothing,
    )


if __name__ == "__main__":
    main()
