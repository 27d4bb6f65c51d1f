#!/usr/bin/python
"""A configuration that the server itself has checked, put in place of the one before."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_config
short_description: Write redis.conf, its secrets and its users, checked by the server first
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Lets the server of an image (C(redis-server) or C(valkey-server)) read the configuration, and writes it only when
    every directive is accepted. A configuration that the server refuses never replaces one that works.
  - The check happens only when something is to be written. The text goes in through standard input, and the server is
    told to listen on a socket that cannot be made. When that is what it complains about, it has accepted everything
    before; it serves nobody and never gets as far as reading data.
  - The open part, the secrets and the users are a file each. The open one is shown in diffs. Of the users a diff names
    those that come, go or change, and shows no rule and no hash; the secrets it never shows.
options:
  directory:
    description: Directory of C(redis.conf), C(secrets.conf) and C(users.acl). It is made when it is missing.
    type: path
    required: true
  config:
    description: Text of C(redis.conf). Its C(include) and C(aclfile) lines are left out of the check.
    type: str
    required: true
  secrets:
    description: Text of C(secrets.conf).
    type: str
    required: true
  users:
    description:
      - Text of C(users.acl), a line for each user, with passwords as SHA-256. Without it there is no such file.
      - Commands and categories that the server does not know are found when it loads the file, not before.
    type: str
  tls:
    description:
      - Texts of C(ca.crt), C(tls.crt) and C(tls.key), which a configuration with a C(tls-port) names. Without it there
        are no such files.
    type: dict
    suboptions:
      authority:
        description: Certificate of the authority, as PEM.
        type: str
        required: true
      certificate:
        description: Certificate of the server, as PEM, with those between it and the authority.
        type: str
        required: true
      private_key:
        description: Private key of the server, as PEM.
        type: str
        required: true
  image:
    description: Image whose server checks. In check mode an image that is not there yet is no error.
    type: str
    required: true
  engine:
    description: Which server the image has.
    type: str
    choices: [redis, valkey]
    default: redis
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
    description: Shows C(redis.conf) and the names of users, never C(secrets.conf).
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration
  spotcache.redis.redis_config:
    directory: /etc/spotcache/redis
    config: "{{ lookup('ansible.builtin.template', 'redis.conf.j2') }}"
    secrets: "{{ lookup('ansible.builtin.template', 'secrets.conf.j2') }}"
    users: "{{ lookup('ansible.builtin.template', 'users.acl.j2') }}"
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
  description: The files that were written or removed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [redis.conf]
"""

import os
import stat
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import engines, redis_conf
from ansible_collections.spotcache.redis.plugins.module_utils.docker_engine import Engine, EngineError, reason
from ansible_collections.spotcache.redis.plugins.module_utils.host_state import replace_file
from ansible_collections.spotcache.redis.plugins.module_utils.programs import run

SENTINEL = "/spotcache-sentinel/none"
# The last words count, so these win over what the configuration says.
SERVER_ARGUMENTS = ["-", "--port", "0", "--unixsocket", SENTINEL]
# Of the engine's own client: the image has no such program.
NO_PROGRAM = 127
ORIGINS = {"user": "redis_users"}
# Name, which of the texts it has, mode, and whether it is the server's own (else root's).
TLS_FILES = (
    ("ca.crt", "authority", 0o640, False),
    ("tls.crt", "certificate", 0o640, False),
    ("tls.key", "private_key", 0o400, True),
)
# What the check reads from standard input, or what would lead it to files of the running server.
ELSEWHERE = (["include"], ["aclfile"])


@dataclass(frozen=True)
class Target:
    """One of the files."""

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
    """The configuration without what names its other files; the lines are blanked, so that their numbers stay."""
    lines = text.splitlines()
    return "\n".join("" if line.split(maxsplit=1)[:1] in ELSEWHERE else line for line in lines) + "\n"


def check_command(engine: str, image: str, directory: str, uid: int, gid: int) -> list[str]:
    """How to let an image's server read a configuration, with nothing around it that it could touch."""
    options = ["--rm", "--interactive", "--pull", "never", "--network", "none", "--log-driver", "none"]
    # Owned outright: older engines give a tmpfs the mode of the image's directory, and that one is for its owner only.
    data = f"/data:uid={uid},gid={gid},mode=0700"
    options += ["--read-only", "--cap-drop", "ALL", "--user", f"{uid}:{gid}", "--tmpfs", data]
    if os.path.isdir(directory):
        # A directive may name a file beside the configuration, such as a certificate.
        options += ["--volume", f"{directory}:/etc/redis:ro"]
    return ["docker", "run", *options, "--entrypoint", f"{engine}-server", image, *SERVER_ARGUMENTS]


def without_tls(text: str) -> list[str]:
    """What keeps a server from looking for certificates, which it does for a port: new ones are not there yet."""
    return ["--tls-port", "0"] if "tls-port" in redis_conf.parse(text) else []


def verdict(output: str, code: int, engine: str = engines.REDIS) -> str:
    """Empty when the server accepted everything, else why not."""
    name = engines.NAMES[engine]
    if "Failed opening Unix socket" in output:
        return ""
    if code == NO_PROGRAM:
        return (
            f"the image has no {engine}-server, and redis_engine is {engine} here: name an image of {name} "
            f"(redis_image), or set redis_engine to {engines.other(engine)}. Nothing was replaced."
        )
    error = redis_conf.config_error(output)
    if not error:
        why = reason(output.splitlines()) or "it said nothing"
        return (
            f"the image's {engine}-server ended with {code} when it read the configuration: {why}. "
            "Nothing was replaced."
        )
    directive = error["directive"]
    variable = ORIGINS.get(directive, "redis_secret_settings" if directive in redis_conf.SECRET else "redis_settings")
    why = f" ({error['reason']})" if error["reason"] else ""
    where = f", line {error['line']} of the configuration" if error["line"] else ""
    return (
        f"{name} does not accept '{error['text']}'{why}{where}: "
        f"correct or remove {directive} in {variable}. Nothing was replaced."
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
            "users": {"type": "str", "no_log": True},
            "tls": {
                "type": "dict",
                "options": {
                    "authority": {"type": "str", "required": True},
                    "certificate": {"type": "str", "required": True},
                    "private_key": {"type": "str", "required": True, "no_log": True},
                },
            },
            "image": {"type": "str", "required": True},
            "engine": {"type": "str", "choices": [engines.REDIS, engines.VALKEY], "default": engines.REDIS},
            "uid": {"type": "int", "required": True},
            "gid": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    uid, gid = params["uid"], params["gid"]
    targets = [
        Target(os.path.join(params["directory"], "redis.conf"), params["config"], 0o640, 0, gid),
        Target(os.path.join(params["directory"], "secrets.conf"), params["secrets"], 0o400, uid, gid),
    ]
    users = params["users"] or ""
    if users:
        targets.append(Target(os.path.join(params["directory"], "users.acl"), users, 0o400, uid, gid))
    # The container's user reads what is its group's; clients on this host are root.
    tls = params["tls"] or {}
    targets[1:1] = [
        Target(os.path.join(params["directory"], name), f"{tls[part].strip()}\n", mode, uid if own else 0, gid)
        for name, part, mode, own in TLS_FILES
        if tls
    ]
    gone = [
        path
        for name, *_rest in TLS_FILES
        if not tls and os.path.exists(path := os.path.join(params["directory"], name))
    ]
    differing = [target for target in targets if target.differs()]
    checked = bool(differing) and (not module.check_mode or has_image(params["image"]))
    if checked:
        # A line of users.acl is a directive as well; all releases check those, and not all of them the file.
        text = without_includes(params["config"]) + params["secrets"] + users
        command = check_command(params["engine"], params["image"], params["directory"], uid, gid)
        command += without_tls(text)
        done = run(command, text.encode("utf-8", "surrogateescape"))
        why = verdict(done.stdout + done.stderr, done.returncode, params["engine"])
        if why:
            module.fail_json(msg=why)
    before = targets[0].present()
    users_before = targets[-1].present() if users else ""
    changed = bool(differing or gone)
    try:
        if not module.check_mode:
            changed = ensure_directory(params["directory"], gid) or changed
            for target in differing:
                target.write()
            for path in gone:
                os.unlink(path)
    except OSError as error:
        module.fail_json(msg=f"{params['directory']} cannot be written: {error}")
    module.exit_json(
        changed=changed,
        checked=checked,
        written=[os.path.basename(path) for path in (*(target.path for target in differing), *gone)],
        diff=[
            shown(targets[0].path, before, params["config"]),
            *([shown(targets[-1].path, *redis_conf.users_shown(users_before, users))] if users_before != users else []),
        ],
    )


def shown(path: str, before: str, after: str) -> dict[str, str]:
    """A file in a diff."""
    return {"before": before, "after": after, "before_header": path, "after_header": path}


def has_image(name: str) -> bool:
    """Whether the engine answers and has an image."""
    try:
        return Engine().image(name) is not None
    except EngineError:
        return False


if __name__ == "__main__":
    main()
