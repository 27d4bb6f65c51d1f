#!/usr/bin/python
"""A configuration that the server itself has checked, put in place of the one before."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_config
short_description: Write redis.conf and its secrets, checked by the server first
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Lets the C(redis-server) of an image read the configuration, and writes it only when every directive is accepted. A
    configuration that the server refuses never replaces one that works.
  - The check happens only when something is to be written. The text goes in through standard input, and the server is
    told to listen on a socket that cannot be made. When that is what it complains about, it has accepted everything
    before; it serves nobody and never gets as far as reading data.
  - The open part and the secrets are two files. The open one is shown in diffs, the secrets never are.
options:
  directory:
    description: Directory of C(redis.conf) and C(secrets.conf). It is made when it is missing.
    type: path
    required: true
  config:
    description: Text of C(redis.conf). Its C(include) lines are left out of the check.
    type: str
    required: true
  secrets:
    description: Text of C(secrets.conf).
    type: str
    required: true
  image:
    description: Image whose C(redis-server) checks. In check mode an image that is not there yet is no error.
    type: str
    required: true
  uid:
    description: User that the server runs as. Only it reads the secrets.
    type: int
    required: true
  gid:
    description: Group that the server runs as.
    type: int
    required: true
attributes:
  check_mode:
    description: Checks the configuration, and reports what would be written.
    support: full
  diff_mode:
    description: Shows C(redis.conf), never C(secrets.conf).
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration
  spotcache.redis.redis_config:
    directory: /etc/spotcache/redis
    config: "{{ lookup('ansible.builtin.template', 'redis.conf.j2') }}"
    secrets: "{{ lookup('ansible.builtin.template', 'secrets.conf.j2') }}"
    image: redis:7.2
    uid: 6379
    gid: 6379
"""

RETURN = r"""
checked:
  description:
    - Whether a server has read the configuration. It has not when nothing differs, or in check mode without the image.
  returned: success
  type: bool
written:
  description: The files that were written, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [redis.conf]
"""

import os
import stat
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import redis_conf
from ansible_collections.spotcache.redis.plugins.module_utils.docker_engine import Engine, EngineError, reason
from ansible_collections.spotcache.redis.plugins.module_utils.host_state import replace_file
from ansible_collections.spotcache.redis.plugins.module_utils.programs import run

SENTINEL = "/spotcache-sentinel/none"
# The last words count, so these win over what the configuration says.
SERVER_ARGUMENTS = ["-", "--port", "0", "--unixsocket", SENTINEL]
ORIGINS = {"user": "redis_acl_users"}


@dataclass(frozen=True)
class Target:
    """One of the two files."""

    path: str
    text: str
    mode: int
    uid: int
    gid: int

    def present(self) -> str:
        """The text that is there now."""
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
                return handle.read()
        except FileNotFoundError:
            return ""

    def differs(self) -> bool:
        """Whether text, owner or mode is not as wanted."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        return self.attributes(status) != (self.mode, self.uid, self.gid) or self.present() != self.text

    def attributes(self, status: os.stat_result) -> tuple[int, int, int]:
        """Mode, owner and group of what is there."""
        return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid

    def write(self) -> None:
        """Replace the file."""
        replace_file(self.path, self.text.encode("utf-8", "surrogateescape"), self.mode, self.uid, self.gid)


def without_includes(text: str) -> str:
    """The configuration with its include lines blanked, so that the numbers of the lines stay."""
    lines = text.splitlines()
    return "\n".join("" if line.split(maxsplit=1)[:1] == ["include"] else line for line in lines) + "\n"


def check_command(image: str, directory: str, uid: int, gid: int) -> list[str]:
    """How to let an image's server read a configuration, with nothing around it that it could touch."""
    options = ["--rm", "--interactive", "--pull", "never", "--network", "none", "--log-driver", "none"]
    # Owned outright: older engines give a tmpfs the mode of the image's directory, and that one is for its owner only.
    data = f"/data:uid={uid},gid={gid},mode=0700"
    options += ["--read-only", "--cap-drop", "ALL", "--user", f"{uid}:{gid}", "--tmpfs", data]
    if os.path.isdir(directory):
        # A directive may name a file beside the configuration, such as a certificate.
        options += ["--volume", f"{directory}:/etc/redis:ro"]
    return ["docker", "run", *options, "--entrypoint", "redis-server", image, *SERVER_ARGUMENTS]


def verdict(output: str, code: int) -> str:
    """Empty when the server accepted everything, else why not."""
    if "Failed opening Unix socket" in output:
        return ""
    error = redis_conf.config_error(output)
    if not error:
        why = reason(output.splitlines()) or "it said nothing"
        return (
            f"the image's redis-server ended with {code} when it read the configuration: {why}. Nothing was replaced."
        )
    name = error["directive"]
    variable = ORIGINS.get(name, "redis_secret_settings" if name in redis_conf.SECRET else "redis_settings")
    why = f" ({error['reason']})" if error["reason"] else ""
    where = f", line {error['line']} of the configuration" if error["line"] else ""
    return (
        f"Redis does not accept '{error['text']}'{why}{where}: "
        f"correct or remove {name} in {variable}. Nothing was replaced."
    )


def ensure_directory(path: str, gid: int) -> bool:
    """Make the directory, or correct its owner and mode; whether there was anything to do."""
    made = not os.path.isdir(path)
    if made:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.mkdir(path, 0o700)
    status = os.stat(path)
    if (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o750, 0, gid):
        return made
    os.chown(path, 0, gid)
    # The server must find its files; others have no business there.
    os.chmod(path, 0o750)  # noqa: S103
    return True


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "config": {"type": "str", "required": True},
            "secrets": {"type": "str", "required": True, "no_log": True},
            "image": {"type": "str", "required": True},
            "uid": {"type": "int", "required": True},
            "gid": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    uid, gid = params["uid"], params["gid"]
    targets = (
        Target(os.path.join(params["directory"], "redis.conf"), params["config"], 0o640, 0, gid),
        Target(os.path.join(params["directory"], "secrets.conf"), params["secrets"], 0o400, uid, gid),
    )
    differing = [target for target in targets if target.differs()]
    checked = bool(differing) and (not module.check_mode or has_image(params["image"]))
    if checked:
        text = without_includes(params["config"]) + params["secrets"]
        command = check_command(params["image"], params["directory"], uid, gid)
        done = run(command, text.encode("utf-8", "surrogateescape"))
        why = verdict(done.stdout + done.stderr, done.returncode)
        if why:
            module.fail_json(msg=why)
    before = targets[0].present()
    changed = bool(differing)
    try:
        if not module.check_mode:
            changed = ensure_directory(params["directory"], gid) or changed
            for target in differing:
                target.write()
    except OSError as error:
        module.fail_json(msg=f"{params['directory']} cannot be written: {error}")
    module.exit_json(
        changed=changed,
        checked=checked,
        written=[os.path.basename(target.path) for target in differing],
        diff={
            "before": before,
            "after": params["config"],
            "before_header": targets[0].path,
            "after_header": targets[0].path,
        },
    )


def has_image(name: str) -> bool:
    """Whether the engine answers and has an image."""
    try:
        return Engine().image(name) is not None
    except EngineError:
        return False


if __name__ == "__main__":
    main()
