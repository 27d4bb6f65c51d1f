#!/usr/bin/python
"""Whether the server of an image reads the data that is there."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: rdb_check
short_description: Ask the server of an image whether it reads the data that is there
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Fails where an RDB is of a version that the image's own server cannot read, with a sentence that says which server
    wrote it. What another server goes on to write is not asked for, so a running one has to save first.
  - Only the first bytes of a file are shown to the image's C(redis-check-rdb) or C(valkey-check-rdb), in a container
    without a network. It takes a moment, however much data there is.
  - Nothing is changed. It runs in check mode as well, where an image that is not there yet is no error.
options:
  paths:
    description: The files, as M(spotcache.redis.host_info) names them. Those that are no RDB are left out.
    type: list
    elements: path
    required: true
  image:
    description: Image whose server is to read them.
    type: str
    required: true
  engine:
    description: Which server the image has.
    type: str
    choices: [redis, valkey]
    required: true
extends_documentation_fragment:
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: Check that the new image reads what the old one wrote
  spotcache.redis.rdb_check:
    paths: [/srv/redis/redis/dump.rdb]
    image: valkey/valkey:8.1
    engine: valkey
"""

RETURN = r"""
checked:
  description: The files that the server reads.
  returned: success
  type: list
  elements: str
"""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import engines
from ansible_collections.spotcache.redis.plugins.module_utils.docker_engine import Engine, EngineError
from ansible_collections.spotcache.redis.plugins.module_utils.programs import TimeoutExpired, run

# Codes of `docker run` itself: nothing was asked.
NOT_RUN = (125, 126, 127)
# Valkey 9 says the second and the third of what it would not load; who does not know Valkey 9's own says the last.
UNREADABLE = ("Can't handle RDB format version", "Foreign RDB version", "Future RDB version", "Wrong signature trying")
MAGIC_BYTES = 9
ENOUGH_BYTES = 256
WAIT_SECONDS = 120.0


def check_command(engine: str, image: str, path: str) -> list[str]:
    """How to have an image's own check look at a file, with nothing around it that it could touch."""
    options = [
        "--rm",
        "--pull",
        "never",
        "--network",
        "none",
        "--log-driver",
        "none",
        "--read-only",
        "--cap-drop",
        "ALL",
    ]
    mount = f"type=bind,source={path},target=/check.rdb,readonly"
    return ["docker", "run", *options, "--mount", mount, "--entrypoint", f"{engine}-check-rdb", image, "/check.rdb"]


def is_unreadable(output: str) -> bool:
    """Whether a check says that its server does not know the version. That the file ends early is no matter here."""
    return any(words in output for words in UNREADABLE)


def sentence(path: str, wrote: engines.Written, engine: str, image: str) -> str:
    """Why the data is not given to this server, and what to do."""
    found = f"redis_engine is {engine} here, and {path} has RDB version {wrote.rdb} ({wrote.writer} wrote it)"
    return (
        f"{found}, which {engines.NAMES[engine]} of {image} cannot read. Nothing was changed: the data stays with the "
        f"server that wrote it. {engines.way_round(engine, wrote)}"
    )


def problem(path: str, wrote: engines.Written, magic: bytes, engine: str, image: str) -> str:
    """What is wrong with one file; empty when the server reads it.

    Raises:
        OSError: the check could not be run.
    """
    # The host's own temporary directory may be one that the engine does not see.
    with tempfile.NamedTemporaryFile(dir="/run", prefix="spotcache-rdb-") as handle:
        handle.write(magic)
        handle.flush()
        os.chmod(handle.name, 0o644)
        done = run(check_command(engine, image, handle.name), timeout=WAIT_SECONDS)
    if done.returncode in NOT_RUN:
        raise OSError(f"{engine}-check-rdb of {image} could not be run: {done.stderr.strip()}")
    return sentence(path, wrote, engine, image) if is_unreadable(done.stdout + done.stderr) else ""


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True},
            "image": {"type": "str", "required": True},
            "engine": {"type": "str", "choices": [engines.REDIS, engines.VALKEY], "required": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    found: dict[bytes, tuple[str, engines.Written]] = {}
    checked = []
    try:
        for path in asked["paths"]:
            with open(path, "rb") as handle:
                beginning = handle.read(ENOUGH_BYTES)
            wrote = engines.written(beginning)
            if wrote.rdb:
                checked.append(path)
                found.setdefault(beginning[:MAGIC_BYTES], (path, wrote))
        if found and not (module.check_mode and Engine().image(asked["image"]) is None):
            for magic, (path, wrote) in found.items():
                why = problem(path, wrote, magic, asked["engine"], asked["image"])
                if why:
                    module.fail_json(msg=why)
    except (OSError, EngineError, TimeoutExpired) as error:
        module.fail_json(msg=f"Whether {asked['image']} reads the data that is there cannot be told: {error}")
    module.exit_json(changed=False, checked=checked)


if __name__ == "__main__":
    main()
