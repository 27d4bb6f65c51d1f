"""Packs a Python package of the control node into one executable file and copies it to the host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.spotcache.redis.plugins.module_utils.archive import stored

ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
MAIN = """\
import sys

from {module} import {function}

sys.exit({function}())
"""


def members(package: Path) -> dict[str, bytes]:
    """What goes into the archive: every file of a package below its own name, but nothing that Python makes by itself.

    Args:
        package: directory of the package.

    Returns:
        The bytes by name, in the order of names.
    """
    found = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
    }
    return dict(sorted(found.items()))


def pack(package: Path, entry_point: str, interpreter: str) -> bytes:
    """An executable archive. The same files give the same bytes, on every machine and at any time.

    Args:
        package: directory of the package.
        entry_point: `module:function`; what the function returns is the exit code.
        interpreter: what follows `#!`.
    """
    module, function = entry_point.split(":")
    main = MAIN.format(module=module, function=function).encode()
    return f"#!{interpreter}\n".encode() + stored({"__main__.py": main, **members(package)})


class ActionModule(ActionBase):
    """The action behind the module `zipapp`; writing, check mode and diff are those of spotcache.redis.host_files."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Pack, see whether the host has it, and copy it when not."""
        super().run(tmp, task_vars)
        _result, wanted = self.validate_argument_spec(
            argument_spec={
                "src": {"type": "str", "required": True},
                "dest": {"type": "path", "required": True},
                "main": {"type": "str", "required": True},
                "interpreter": {"type": "str", "default": "/usr/bin/python3"},
                "uid": {"type": "int", "default": 0},
                "gid": {"type": "int", "default": 0},
                "mode": {"type": "str", "default": "0755"},
            }
        )
        if not ENTRY_POINT.fullmatch(wanted["main"]):
            raise AnsibleActionFail(f"main is {wanted['main']!r}: write it as package.module:function")
        if not re.fullmatch(r"[0-7]{4}", wanted["mode"]):
            raise AnsibleActionFail(f"mode is {wanted['mode']!r}: write four octal digits in quotes, such as '0755'")
        try:
            package = Path(self._find_needle("files", wanted["src"]))
        except AnsibleError as error:
            raise AnsibleActionFail(f"src {wanted['src']!r} is not on the control node: {error}") from error
        if not (package / "__init__.py").is_file():
            raise AnsibleActionFail(f"src {package} is not a Python package: it has no __init__.py")
        data = pack(package, wanted["main"], wanted["interpreter"])
        told = {"dest": wanted["dest"], "sha256": hashlib.sha256(data).hexdigest()}
        try:
            if self._is_there(data, wanted, task_vars or {}):
                return {"changed": False, **told}
            result = self._write(data, wanted, task_vars)
        finally:
            # Ansible gives plugins no other way to the directory of its own making.
            self._remove_tmp_path(self._connection._shell.tmpdir)  # noqa: SLF001
        return {**{key: value for key, value in result.items() if key not in ("written", "invocation")}, **told}

    def _is_there(self, data: bytes, wanted: dict[str, Any], task_vars: dict[str, Any]) -> bool:
        """Whether the host has this very file. The archive itself is sent only when it has not."""
        found = self._execute_remote_stat(wanted["dest"], all_vars=task_vars, follow=False, checksum=True)
        return bool(
            found.get("isreg")
            and found.get("checksum") == hashlib.sha1(data, usedforsecurity=False).hexdigest()
            and int(found.get("mode", "0"), 8) == int(wanted["mode"], 8)
            and found.get("uid") == wanted["uid"]
            and found.get("gid") == wanted["gid"]
        )

    def _write(self, data: bytes, wanted: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Have the host write it; with the module's arguments it takes one connection, where a copy would take five."""
        file = {"path": wanted["dest"], "base64": base64.b64encode(data).decode()}
        owner = {key: wanted[key] for key in ("mode", "uid", "gid")}
        result: dict[str, Any] = self._execute_module(
            module_name="spotcache.redis.host_files", module_args={"expected": [{**file, **owner}]}, task_vars=task_vars
        )
        return result
