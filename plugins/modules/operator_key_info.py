#!/usr/bin/python
"""The operator's SSH key: its public half, and how ssh is told to use it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: operator_key_info
short_description: The public half of the operator's SSH key
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Finds the public half of the key with which hosts are logged in to, and whether ssh will have the private half. A
    private half without a passphrase is not needed; it may be in an agent, where AWX keeps a Machine credential.
  - Runs on the control node. Nothing of a private half is read beyond what C(ssh-keygen) derives from it.
options:
  public_key:
    description: >-
      The public half, as text or as the name of a file. Empty means that of O(private_key_file), else the only key in
      the agent.
    type: str
    default: ''
  private_key_file:
    description: >-
      The private half. Empty means C(~/.ssh/id_ed25519) or C(~/.ssh/id_rsa) where they are there, else the agent.
    type: path
    default: ''
extends_documentation_fragment:
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: Find the operator's key
  spotcache.redis.operator_key_info:
    public_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8m... me@example.com
"""

RETURN = r"""
public_key:
  description: Type and key, without a comment.
  returned: success
  type: str
  sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8m...
private_key_file:
  description: The private half's file; empty when only an agent has it.
  returned: success
  type: str
source:
  description: Where the public half comes from.
  returned: success
  type: str
  sample: the agent
"""

import base64
import binascii
import os
import struct
from collections.abc import Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.validation import check_type_path
from ansible_collections.spotcache.redis.plugins.module_utils import programs

# What EC2 imports, and with which bits of RSA.
TYPES = ("ssh-ed25519", "ssh-rsa")
DEFAULTS = ("~/.ssh/id_ed25519", "~/.ssh/id_rsa")
MAKES_ONE = "`ssh-keygen -t ed25519 -f FILE` makes one"


class Unusable(Exception):
    """Why there is no key, in a sentence for a person."""


def run(argv: Sequence[str]) -> tuple[int, str, str]:
    """A command that asks nobody anything; a missing program is one that fails."""
    environment = {**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
    try:
        done = programs.run(argv, environment=environment)
    except OSError as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr.strip()


def parsed(line: str, what: str) -> str:
    """Type and key of a line of a public key file.

    Raises:
        Unusable: it is no such line, or of a type that EC2 does not import.
    """
    words = line.split()
    if len(words) < 2 or "PRIVATE KEY" in line:
        raise Unusable(f"{what} is no public key: it should be one line such as 'ssh-ed25519 AAAA... me@example.com'")
    kind, text = words[0], words[1]
    try:
        blob = base64.b64decode(text, validate=True)
        length = struct.unpack(">I", blob[:4])[0]
        inside = blob[4 : 4 + length].decode("ascii")
    except (binascii.Error, struct.error, UnicodeDecodeError) as error:
        raise Unusable(f"{what} is no public key: what follows '{kind}' is damaged") from error
    if inside != kind:
        raise Unusable(f"{what} is no public key: it says '{kind}', and what follows is '{inside}'")
    if kind not in TYPES:
        raise Unusable(f"{what} is of the type {kind}, and EC2 takes {' and '.join(TYPES)} only; {MAKES_ONE}")
    return f"{kind} {text}"


def in_agent() -> list[str]:
    """Public keys of the agent, those that EC2 takes; empty without an agent."""
    code, out, _error = run(["ssh-add", "-L"])
    return [" ".join(line.split()[:2]) for line in out.splitlines() if line.startswith(TYPES)] if code == 0 else []


def readable(path: str, name: str) -> str:
    """A small file's text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(65536)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Unusable(f"{name} is '{path}', which cannot be read: {reason}") from error


def given(value: str) -> str:
    """The public key of the option, which is text or a file."""
    name = "spot_host_ssh_public_key"
    if len(value.split()) >= 2 and not os.path.exists(check_type_path(value)):
        return parsed(value, name)
    path = check_type_path(value)
    return parsed(readable(path, name), f"{name} ({path})")


def half_of(path: str) -> str:
    """The public half of a private key's file: derived, or from the file beside it when there is a passphrase."""
    name = "spot_host_ssh_private_key_file"
    if not os.path.isfile(path):
        raise Unusable(
            f"{name} is '{path}', and there is no such file: name the private key, or leave it out to use an agent's; "
            f"{MAKES_ONE}"
        )
    code, out, error = run(["ssh-keygen", "-y", "-P", "", "-f", path])
    if code == 0:
        return parsed(out, f"{name} ({path})")
    if os.path.isfile(f"{path}.pub"):
        return parsed(readable(f"{path}.pub", name), f"{path}.pub")
    raise Unusable(
        f"{name} is '{path}', and its public half cannot be derived ({error.splitlines()[-1] if error else code}). "
        f"With a passphrase it is read from {path}.pub, which is not there: give it as spot_host_ssh_public_key"
    )


def encrypted(path: str) -> bool:
    """Whether a private key asks for a passphrase."""
    return run(["ssh-keygen", "-y", "-P", "", "-f", path])[0] != 0


def find(public_key: str, private_key_file: str) -> dict[str, Any]:
    """The module's result.

    Raises:
        Unusable: there is no key, or nobody has its private half.
    """
    path = private_key_file
    if not path and not public_key:
        path = next((full for full in map(check_type_path, DEFAULTS) if os.path.isfile(full)), "")
    agent = in_agent()
    if public_key:
        found, source = given(public_key), "spot_host_ssh_public_key"
        if path and half_of(path) != found:
            raise Unusable(
                f"spot_host_ssh_public_key is not the public half of spot_host_ssh_private_key_file ('{path}'): "
                "give one of them"
            )
    elif path:
        found, source = half_of(path), path
    elif not agent:
        raise Unusable(
            "There is no SSH key to log in with: neither spot_host_ssh_private_key_file nor spot_host_ssh_public_key "
            f"is set, {' and '.join(DEFAULTS)} are not there, and no agent has one; {MAKES_ONE}"
        )
    elif len(agent) > 1:
        raise Unusable(
            f"The SSH agent has {len(agent)} keys, and spot_host_ssh_public_key does not say which one to use: give it "
            "the line of `ssh-add -L`, or a file that holds it"
        )
    else:
        found, source = agent[0], "the agent"
    if found not in agent and (not path or encrypted(path)):
        raise Unusable(
            f"Nobody has the private half of the key of {source}: "
            f"{'it has a passphrase, and' if path else 'spot_host_ssh_private_key_file is not set, and'} "
            "no SSH agent holds it. Add it to one with `ssh-add`"
        )
    return {"public_key": found, "private_key_file": path, "source": source}


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "public_key": {"type": "str", "default": "", "no_log": False},
            "private_key_file": {"type": "path", "default": "", "no_log": False},
        },
        supports_check_mode=True,
    )
    try:
        found = find(module.params["public_key"].strip(), module.params["private_key_file"].strip())
    except Unusable as error:
        module.fail_json(msg=f"{error}.")
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
