#!/usr/bin/python
"""Keys of a .env file, and everything else in it left alone."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: dotenv
short_description: Set, remove and read keys of a .env file as Laravel reads it
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Sets keys in a C(.env) file and keeps everything else byte for byte - comments, order, other keys, line ends and
    duplicates. Of several entries with one name the last is set, since it is the one that counts.
  - What it writes is what phpdotenv 4 to 5.8 and Laravel's C(env()) give back, whatever the characters. A key that
    already gives the wanted value is left as it is written.
  - A file that phpdotenv refuses, or of which it would silently lose a part, is refused with the line, and so is a
    value that cannot be written.
  - The file is replaced in one step, with its owner, group, mode, ACL and SELinux context. With a password in it others
    may not read it, and the user that PHP runs as always can.
options:
  path:
    description: The file. A symbolic link is followed.
    type: path
    required: true
  values:
    description:
      - Keys to set. Text, a whole number, a boolean or C(null); the last three are what C(env()) gives for them.
      - Shown in diffs, unless the name is that of a secret, such as C(APP_KEY).
    type: dict
    default: {}
  secrets:
    description: Keys to set whose values are never shown.
    type: dict
    default: {}
  keys:
    description: Keys to remove; with O(state=present) besides what is set.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(present) sets O(values) and O(secrets); with neither the file is only read.
      - V(absent) removes O(keys), every entry of theirs, and nothing else.
      - V(restored) puts back what was there before the last change, from the file's backup.
    type: str
    choices: [present, absent, restored]
    default: present
  return:
    description:
      - V(values) returns what C(env()) gives for every key of the file, secrets included. Such a task needs
        C(no_log).
    type: str
    choices: [names, values]
    default: names
  reader:
    description:
      - User that PHP runs as, by name, or as C(uid:gid) where the name means nothing on this host, as for a directory
        that is mounted into a container. It must be able to read the file, before and afterwards.
    type: str
    default: www-data
  grammar:
    description:
      - What the application's phpdotenv reads that versions 4 to 5.4 do not, as M(spotcache.redis.laravel_app) finds
        out.
      - With V(multiline) a line within a value that goes over lines does not begin another one; with V(unicode) names
        may have other letters than ASCII's; with V(comments) no comment begins a value.
    type: list
    elements: str
    default: []
  dest:
    description: Write the result there and leave O(path) as it is, to try it first. Nothing is kept as a backup then.
    type: path
  before:
    description:
      - For O(state=restored), what RV(before) was when the file was changed, so that its owner, group, mode, ACL and
        SELinux context come back as well. Without it they are the backup's.
    type: dict
    default: {}
  backup:
    description: Keep the file as it was before a change, beside it, as C(.env.backup).
    type: bool
    default: true
attributes:
  check_mode:
    description: Reports what would be changed.
    support: full
  diff_mode:
    description: Shows the keys that change, and no secret.
    support: full
"""

EXAMPLES = r"""
- name: Let the application use Redis
  spotcache.redis.dotenv:
    path: /srv/app/.env
    values: {SESSION_DRIVER: redis, REDIS_HOST: 10.0.0.4, REDIS_PORT: 6379}
    secrets: {REDIS_PASSWORD: "{{ redis_password }}"}

- name: Remove a key
  spotcache.redis.dotenv:
    path: /srv/app/.env
    state: absent
    keys: [REDIS_URL]

- name: Read what the application reads
  spotcache.redis.dotenv:
    path: /srv/app/.env
    return: values
  register: app_env
  no_log: true
"""

RETURN = r"""
names:
  description: The keys of the file, after the change.
  returned: success
  type: list
  elements: str
keys_set:
  description: The keys that were set, or would be in check mode.
  returned: success
  type: list
  elements: str
keys_removed:
  description: The keys that were removed, or would be in check mode.
  returned: success
  type: list
  elements: str
parsed:
  description: What C(env()) gives for every key.
  returned: with O(return=values)
  type: dict
file:
  description: The file itself, without symbolic links.
  returned: success
  type: str
written:
  description: The file that was written, without symbolic links. Empty when nothing was.
  returned: success
  type: str
backup_file:
  description: Where the file as it was before is kept. Empty when nothing is.
  returned: success
  type: str
attributes:
  description: Mode, owner and group of the file, after the change.
  returned: success
  type: str
before:
  description: Owner, group, mode, ACL and SELinux context of the file, before the change.
  returned: success
  type: dict
"""

import grp
import os
import pwd
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import dotenv_text, file_attributes
from ansible_collections.spotcache.redis.plugins.module_utils.file_attributes import Attributes

LIMIT = 2**20
HIDDEN = "(not shown)"


class Refused(Exception):
    """A sentence for the person: what is wrong, and the fix."""


@dataclass(frozen=True)
class Reader:
    """The user that PHP runs as."""

    text: str
    uid: int
    gids: tuple[int, ...]
    known: bool

    def may(self, owner: Attributes, bit: int) -> bool:
        """Whether a permission (4 to read, 1 to go through a directory) is this user's."""
        return owner.permits(self.uid, self.gids, bit)


def find_reader(text: str) -> Reader:
    """The user of that name, or of those numbers.

    Raises:
        Refused: there is none.
    """
    numbers = re.fullmatch(r"(\d+):(\d+)", text)
    if numbers:
        return Reader(text, int(numbers[1]), (int(numbers[2]),), known=False)
    try:
        user = pwd.getpwnam(text)
    except KeyError:
        raise Refused(
            f'reader is "{text}", and this host has no such user: name the user that php-fpm runs as.'
        ) from None
    groups = {user.pw_gid} | {group.gr_gid for group in grp.getgrall() if text in group.gr_mem}
    return Reader(text, user.pw_uid, (user.pw_gid, *sorted(groups - {user.pw_gid})), known=True)


def check_readable(path: str, reader: Reader) -> None:
    """Laravel silently ignores a file that it cannot read, and runs with its defaults.

    Raises:
        Refused: the reader cannot read it.
    """
    attributes = Attributes.of(path)
    if not reader.may(attributes, 4):
        raise Refused(
            f"{path} (mode {attributes.mode:04o}, uid {attributes.uid}, gid {attributes.gid}) cannot be read by "
            f"{reader.text}, so the application ignores it: chgrp {reader.gids[0]} {path} && chmod 0640 {path}."
        )
    folder = os.path.dirname(path)
    while True:
        if not reader.may(Attributes.of(folder), 1):
            raise Refused(
                f"{reader.text} cannot go through the directory {folder}, so the application ignores {path}: "
                f"chmod o+x {folder}, or give it to a group of {reader.text}'s."
            )
        # A mounted directory's way up is not the container's.
        if folder == "/" or not reader.known:
            return
        folder = os.path.dirname(folder)


def safe(attributes: Attributes, reader: Reader) -> Attributes:
    """The same without others' permissions, and still readable by the reader."""
    closed = attributes.closed()
    if reader.may(closed, 4):
        return closed
    if closed.acl:
        raise Refused(
            f"the file has an ACL, by which {reader.text} cannot read it once others may not, and it is to have a "
            f"secret in it: setfacl -m u:{reader.uid}:r, and run it again."
        )
    return replace(closed, mode=closed.mode | 0o040, gid=reader.gids[0])


def mounted_alone(path: str) -> bool:
    """Whether the file itself is a mount, as `docker run -v .env:/srv/app/.env` makes it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as handle:
        points = [line.split()[4] for line in handle]
    return path in (re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), point) for point in points)


def read(path: str) -> bytes:
    """The file's bytes.

    Raises:
        Refused: there is no such file, or not one of this kind.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read(LIMIT + 1)
    except FileNotFoundError:
        raise Refused(
            f"{path} does not exist: deploy the application first, or copy its .env.example there and make its "
            "key (php artisan key:generate), or correct the path."
        ) from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > LIMIT:
        raise Refused(f"{path} is longer than 1 MiB, which is no .env file: correct the path.")
    return data


def write(path: str, data: bytes, attributes: Attributes) -> None:
    """Replace the file in one step.

    Raises:
        Refused: it cannot be written.
    """
    try:
        file_attributes.replace(path, data, attributes)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}. It is as it was.") from None


def grammar_of(params: dict[str, Any]) -> dotenv_text.Grammar:
    """By which grammar the application reads the file.

    Raises:
        Refused: it is none of those that are known.
    """
    known = [one.name for one in fields(dotenv_text.Grammar)]
    for name in params["grammar"]:
        if name not in known:
            raise Refused(f'grammar has "{name}", which is unknown: use {", ".join(known)}.')
    return dotenv_text.Grammar(**dict.fromkeys(params["grammar"], True))


def has_secret(text: str, grammar: dotenv_text.Grammar) -> bool:
    """Whether a key with a secret's name has a value."""
    return any(
        dotenv_text.SECRET_NAME.search(name) and value not in (None, "", "null")
        for name, value in dotenv_text.load(dotenv_text.parse(text, grammar)).items()
    )


def shown(text: str, names: list[str], open_names: set[str], grammar: dotenv_text.Grammar) -> str:
    """The keys that change, one a line, for a person; nothing of the rest of the file, comments included."""
    known = dotenv_text.load(dotenv_text.parse(text, grammar))
    return "".join(
        f"{name}={dotenv_text.written(dotenv_text.env(known[name])) if name in open_names else HIDDEN}\n"
        for name in names
        if name in known
    )


def difference(path: str, texts: tuple[str, str], names: list[str], params: dict[str, Any]) -> dict[str, str]:
    """What a person sees of a change."""
    open_names = {name for name in params["values"] if not dotenv_text.SECRET_NAME.search(name)}
    before, after = (shown(text, names, open_names, grammar_of(params)) for text in texts)
    # Two secrets look alike; that one takes the other's place must show.
    changed = [name for name in names if name not in open_names and f"{name}={HIDDEN}\n" in after]
    for name in changed:
        after = after.replace(f"{name}={HIDDEN}\n", f"{name}={HIDDEN[:-1]}, new)\n")
    return {"before_header": path, "after_header": path, "before": before, "after": after}


def changed_attributes(path: str, old: Attributes, new: Attributes) -> dict[str, str]:
    """Owner and mode before and after."""

    def line(one: Attributes) -> str:
        return f"mode {one.mode:04o}, uid {one.uid}, gid {one.gid}{', with an ACL' if one.acl else ''}\n"

    return {
        "before_header": f"{path} (permissions)",
        "after_header": f"{path} (permissions)",
        "before": line(old),
        "after": line(new),
    }


def edit(params: dict[str, Any], text: str, path: str) -> dotenv_text.Merged:
    """The text as it should be.

    Raises:
        Refused: what is there, or what is wanted, cannot be.
    """
    values = {**params["values"], **params["secrets"]}
    try:
        return dotenv_text.merge(text, values, params["keys"], grammar_of(params))
    except dotenv_text.Misread as error:
        raise Refused(f"{path}: {error}. Correct that line first; nothing was changed.") from None
    except dotenv_text.Unwritable as error:
        raise Refused(f"{path}: {error}. Nothing was changed.") from None


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the parameters ask for.

    Raises:
        Refused: with a sentence for the person.
    """
    params = module.params
    check_together(params)
    path, reader = os.path.realpath(params["path"]), find_reader(params["reader"])
    backup = f"{path}.backup"
    data = read(path)
    text = dotenv_text.decode(data)
    if params["state"] == "restored":
        if not os.path.exists(backup):
            raise Refused(f"{backup} does not exist: there was no change that could be taken back.")
        goal = read(backup)
        attributes = Attributes.unpacked(params["before"]) if params["before"] else Attributes.of(backup)
        merged = dotenv_text.Merged(dotenv_text.decode(goal))
        names: list[str] = []
    else:
        merged = edit(params, text, path)
        check_readable(path, reader)
        attributes = Attributes.of(path)
        if params["state"] == "present" and wanted(params) and has_secret(merged.text, grammar_of(params)):
            attributes = safe(attributes, reader)
        goal, names = dotenv_text.encode(merged.text), [*merged.set, *merged.removed]
        for doubt in dotenv_text.doubts(dotenv_text.parse(merged.text, grammar_of(params)), merged.text):
            module.warn(f"{path}: {doubt}.")
    old = Attributes.of(path)
    target = os.path.realpath(params["dest"]) if params["dest"] else path
    changed = not matches(target, goal, attributes)
    if changed and mounted_alone(path):
        raise Refused(
            f"{path} is mounted as a single file: what replaces it would be invisible on one side until the container "
            "starts anew. Mount its directory, and let the application's .env be a symbolic link into it."
        )
    kept = backup if changed and params["backup"] and target == path and params["state"] != "restored" else ""
    if changed and not module.check_mode:
        if kept:
            write(backup, data, attributes)
        if read(path) != data:
            raise Refused(f"{path} was changed by somebody else at the same moment: run it again.")
        write(target, goal, attributes)
    result: dict[str, Any] = {
        "changed": changed,
        "file": path,
        "names": names_of(merged.text, grammar_of(params)),
        "keys_set": merged.set,
        "keys_removed": merged.removed,
        "written": target if changed else "",
        "backup_file": kept,
        "attributes": str(attributes),
        "before": old.packed(),
        "diff": [difference(path, (text, merged.text), names, params)] if names else [],
    }
    if attributes != old:
        result["diff"].append(changed_attributes(path, old, attributes))
    if params["return"] == "values":
        known = dotenv_text.load(dotenv_text.parse(merged.text, grammar_of(params)))
        result["parsed"] = {name: dotenv_text.env(value) for name, value in known.items()}
    return result


def names_of(text: str, grammar: dotenv_text.Grammar) -> list[str]:
    """The keys of a text; none when it is one of the files that cannot be read, as a backup may be."""
    try:
        return sorted({entry.name for entry in dotenv_text.parse(text, grammar)})
    except dotenv_text.Misread:
        return []


def matches(path: str, data: bytes, attributes: Attributes) -> bool:
    """Whether a file is what it should be."""
    return os.path.exists(path) and read(path) == data and Attributes.of(path) == attributes


def wanted(params: dict[str, Any]) -> bool:
    """Whether anything is to be set."""
    return bool(params["values"] or params["secrets"])


def check_together(params: dict[str, Any]) -> None:
    """Parameters that do not go together.

    Raises:
        Refused: with the two.
    """
    both = sorted(set(params["values"]) & set(params["secrets"]))
    if both:
        raise Refused(f"{both[0]} stands in values and in secrets: leave it in one of them.")
    if params["state"] == "absent" and (wanted(params) or not params["keys"]):
        raise Refused("state is absent: name the keys to remove in keys, and leave values and secrets out.")
    if set(params["keys"]) & {*params["values"], *params["secrets"]}:
        raise Refused("a key stands in keys, and in values or secrets as well: leave it in one of them.")
    if params["state"] == "restored" and (wanted(params) or params["keys"] or params["dest"]):
        raise Refused("state is restored, which goes with path alone.")


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "values": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "state": {"type": "str", "choices": ["present", "absent", "restored"], "default": "present"},
            "return": {"type": "str", "choices": ["names", "values"], "default": "names"},
            "reader": {"type": "str", "default": "www-data"},
            "grammar": {"type": "list", "elements": "str", "default": []},
            "dest": {"type": "path"},
            "before": {"type": "dict", "default": {}},
            "backup": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except Refused as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['path']}: {error.strerror}.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
