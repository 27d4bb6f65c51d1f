"""Packs a Python package of the control node into one executable file and copies it to the host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

# The earliest that the format knows. A file's own times would make every checkout another archive.
MOMENT = (1980, 1, 1, 0, 0, 0)
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

    Nothing is compressed: what zlib makes of the same bytes differs between its releases.

    Args:
        package: directory of the package.
        entry_point: `module:function`; what the function returns is the exit code.
        interpreter: what follows `#!`.
    """
    module, function = entry_point.split(":")
    archive = io.BytesIO()
    archive.write(f"#!{interpreter}\n".encode())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        main = MAIN.format(module=module, function=function).encode()
        for name, data in {"__main__.py": main, **members(package)}.items():
            member = zipfile.ZipInfo(name, MOMENT)
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            packed.writestr(member, data)
    return archive.getvalue()


class ActionModule(ActionBase):
    """The action behind the module `zipapp`; copying, check mode and diff are those of ansible.builtin.copy."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Pack, see whether the host has it, and copy it when not."""
        super().run(tmp, task_vars)
        _, wanted = self.validate_argument_spec(
            argument_spec={
                "src": {"type": "str", "required": True},
                "dest": {"type": "path", "required": True},
                "main": {"type": "str", "required": True},
                "interpreter": {"type": "str", "default": "/usr/bin/python3"},
                "owner": {"type": "str", "default": "root"},
                "group": {"type": "str", "default": "root"},
                "mode": {"type": "str", "default": "0755"},
            }
        )
        if not ENTRY_POINT.fullmatch(wanted["main"]):
            raise AnsibleActionFail(f"main is {wanted['main']!r}: write it as package.module:function")
        if not re.fullmatch(r"0?[0-7]{3,4}", wanted["mode"]):
            raise AnsibleActionFail(f"mode is {wanted['mode']!r}: write it in octal digits and quotes, such as '0755'")
        try:
            package = Path(self._find_needle("files", wanted["src"]))
        except AnsibleError as error:
            raise AnsibleActionFail(f"src {wanted['src']!r} is not on the control node: {error}") from error
        if not (package / "__init__.py").is_file():
            raise AnsibleActionFail(f"src {package} is not a Python package: it has no __init__.py")
        data = pack(package, wanted["main"], wanted["interpreter"])
        try:
            if self._is_there(data, wanted, task_vars or {}):
                return {"changed": False, "dest": wanted["dest"], "sha256": hashlib.sha256(data).hexdigest()}
            result = self._copy(data, wanted, task_vars)
        finally:
            # Ansible gives plugins no other way to the directory of its own making.
            self._remove_tmp_path(self._connection._shell.tmpdir)  # noqa: SLF001
        return {**result, "sha256": hashlib.sha256(data).hexdigest()}

    def _is_there(self, data: bytes, wanted: dict[str, Any], task_vars: dict[str, Any]) -> bool:
        """Whether the host has this very file: one question, where copy would ask two."""
        found = self._execute_remote_stat(wanted["dest"], all_vars=task_vars, follow=False, checksum=True)
        return bool(
            found.get("isreg")
            and found.get("checksum") == hashlib.sha1(data, usedforsecurity=False).hexdigest()
            and int(found.get("mode", "0"), 8) == int(wanted["mode"], 8)
            and found.get("pw_name") == wanted["owner"]
            and found.get("gr_name") == wanted["group"]
        )

    def _copy(self, data: bytes, wanted: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Hand the archive to ansible.builtin.copy."""
        directory = tempfile.mkdtemp(dir=constants.DEFAULT_LOCAL_TMP)
        try:
            # The name shows up in diffs.
            source = Path(directory) / os.path.basename(wanted["dest"])
            source.write_bytes(data)
            task = self._task.copy()
            task.args = {"src": str(source), **{key: wanted[key] for key in ("dest", "owner", "group", "mode")}}
            copy = self._shared_loader_obj.action_loader.get(
                "ansible.legacy.copy",
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            result: dict[str, Any] = copy.run(task_vars=task_vars)
        finally:
            shutil.rmtree(directory)
        return result
