#!/usr/bin/python
"""Which block device an EBS volume is, and what is on it."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
---
module: data_volume_info
short_description: Find an EBS volume on a host and say what is on it
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Finds the block device by the volume's own id, by the link that the system makes for it, and never by the order in
    which devices came.
  - Says whether the device is blank, carries the filesystem looked for (by its label), or something else. Blank means
    that neither C(blkid) nor C(wipefs) knows anything on it I(and) that its first mebibyte is all zeros; data
    without a known signature is not taken for nothing.
  - Nothing is changed. It runs in check mode as well.
options:
  volume_id:
    description: The EBS volume's id.
    type: str
    required: true
  labels:
    description: Labels that the filesystem looked for may have. An XFS takes no more than 12 characters.
    type: list
    elements: str
    required: true
  mountpoint:
    description: Where it is to be mounted.
    type: path
    required: true
  wait:
    description: Seconds to wait for the device to appear. A volume that was just attached takes a moment.
    type: int
    default: 60
extends_documentation_fragment:
  - spotcache.redis.attributes.read_only
"""

EXAMPLES = r"""
- name: Look at the data volume
  spotcache.redis.data_volume_info:
    volume_id: vol-0123456789abcdef0
    labels: [spotcache-data, spotcache]
    mountpoint: /srv/redis
  register: volume
"""

RETURN = r"""
state:
  description: V(missing), V(blank), V(ours) or V(foreign).
  returned: always
  type: str
link:
  description: The link looked for.
  returned: always
  type: str
  sample: /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0
device:
  description: The device behind the link; empty when it is missing.
  returned: always
  type: str
  sample: /dev/nvme1n1
carries:
  description: What is on the device, for people.
  returned: always
  type: str
  sample: an ext4 filesystem labelled "old-data"
fstype:
  description: Type of the filesystem; empty without one.
  returned: always
  type: str
label:
  description: Label of the filesystem; empty without one.
  returned: always
  type: str
uuid:
  description: UUID of the filesystem; empty without one.
  returned: always
  type: str
number:
  description: The device's number as the kernel's table of mounts has it, such as V(259:1); empty when it is missing.
  returned: always
  type: str
mounted:
  description: Whether this device is mounted at O(mountpoint).
  returned: always
  type: bool
occupied_by:
  description: What else is mounted at O(mountpoint); empty when nothing is.
  returned: always
  type: str
in_fstab:
  description: The line of C(/etc/fstab) for O(mountpoint); empty without one.
  returned: always
  type: str
namesakes:
  description: Other devices with one of the labels.
  returned: always
  type: list
  elements: str
hidden_files:
  description: Files below O(mountpoint) that a mount would hide. At most ten are named.
  returned: always
  type: list
  elements: str
grown:
  description: Whether the device has become larger than its filesystem (an ext4 or XFS).
  returned: always
  type: bool
"""

import os
import re
import stat
import struct
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.spotcache.redis.plugins.module_utils import programs

BY_ID = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_"
MEBIBYTE = 2**20


def link_of(volume_id: str) -> str:
    """The link that udev makes for a volume: its id without the dash."""
    return BY_ID + volume_id.replace("-", "", 1)


def wait_for(link: str, seconds: float) -> str:
    """The block device behind a link, as soon as there is one; empty if there is none in time."""
    end = time.monotonic() + seconds
    while True:
        device = os.path.realpath(link)
        try:
            if os.path.lexists(link) and stat.S_ISBLK(os.stat(device).st_mode):
                return device
        except OSError:
            pass  # the link stands before the device does
        if time.monotonic() >= end:
            return ""
        time.sleep(0.2)


def run(*argv: str) -> programs.Done:
    """Run a command of util-linux in a language that can be read back."""
    return programs.run(argv, environment={**os.environ, "LC_ALL": "C"}, timeout=120)


def fields(output: str) -> dict[str, str]:
    """`NAME=value` lines as a mapping."""
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def is_zero(device: str, size: int = MEBIBYTE) -> bool:
    """Whether a device begins with nothing but zeros."""
    with open(device, "rb") as handle:
        data = handle.read(size)
    return len(data) == size and not data.strip(b"\0")


def judge(code: int, found: dict[str, str], signatures: str, zero: bool, labels: list[str]) -> tuple[str, str]:
    """What a device carries: blank, ours or foreign, and the same in words.

    Args:
        code: exit code of `blkid -p`: 0 something, 2 nothing, 8 more than one thing.
        found: what it printed.
        signatures: what `wipefs` lists.
        zero: whether the beginning is all zeros.
        labels: the labels that our own filesystem may have.
    """
    if code == 8:
        return "foreign", "signatures of more than one kind"
    if found.get("PTTYPE") and not found.get("TYPE"):
        return "foreign", f"a partition table ({found['PTTYPE']})"
    if found.get("TYPE"):
        if found.get("LABEL") in labels and found["TYPE"] in ("ext4", "xfs"):
            return "ours", f'a filesystem ({found["TYPE"]}) labelled "{found["LABEL"]}"'
        named = f' labelled "{found["LABEL"]}"' if found.get("LABEL") else " without a label"
        kind = (
            "a filesystem"
            if found.get("USAGE", "filesystem") == "filesystem"
            else f"a signature of kind {found['USAGE']}"
        )
        return "foreign", f"{kind} ({found['TYPE']}){named}"
    if code == 2 and not signatures.strip():
        return ("blank", "nothing") if zero else ("foreign", "data of an unknown kind")
    return "foreign", "a signature that is not understood"


def filesystem_bytes(device: str, fstype: str) -> int:
    """How large a filesystem says it is, read from its superblock; 0 when that cannot be told."""
    with open(device, "rb") as handle:
        block = handle.read(4096)
    if fstype == "xfs" and block[:4] == b"XFSB":
        size, count = struct.unpack(">IQ", block[4:16])
        return int(size * count)
    if fstype == "ext4" and block[1080:1082] == b"\x53\xef":
        low, log_size = struct.unpack("<I", block[1028:1032])[0], struct.unpack("<I", block[1048:1052])[0]
        has_high = struct.unpack("<I", block[1120:1124])[0] & 0x80
        high = struct.unpack("<I", block[1360:1364])[0] if has_high else 0
        return int((high << 32 | low) * (1024 << log_size))
    return 0


def device_bytes(device: str) -> int:
    """How large a block device is."""
    with open(device, "rb") as handle:
        return handle.seek(0, os.SEEK_END)


def mounts_at(mountpoint: str, table: str) -> list[tuple[str, str]]:
    """(device number, source) of what is mounted at a place, from the kernel's table (`/proc/self/mountinfo`)."""
    found = []
    for line in table.splitlines():
        left, _hyphen, right = line.partition(" - ")
        words = left.split()
        if len(words) > 4 and unescape(words[4]) == mountpoint:
            found.append((words[2], unescape(right.split()[1])))
    return found


def unescape(text: str) -> str:
    """A path as the kernel's tables write it (`\\040` is a blank)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def fstab_line(mountpoint: str, table: str) -> str:
    """The line of fstab for a mount point."""
    for line in table.splitlines():
        words = line.split()
        if len(words) > 2 and not words[0].startswith("#") and unescape(words[1]) == mountpoint:
            return " ".join(words)
    return ""


def files_below(directory: str, limit: int = 10) -> list[str]:
    """Some of the files in a directory's tree."""
    found: list[str] = []
    for folder, _folders, names in os.walk(directory):
        found += [os.path.join(folder, name) for name in sorted(names)]
        if len(found) >= limit:
            break
    return found[:limit]


def text_of(path: str) -> str:
    """A file's text; empty without the file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


def look(device: str, labels: list[str], mountpoint: str) -> dict[str, Any]:
    """Everything about a device and its mount point."""
    probe = run("blkid", "-p", "-o", "export", device)
    found = fields(probe.stdout)
    signatures = run("wipefs", "--noheadings", device).stdout
    state, carries = judge(probe.returncode, found, signatures, is_zero(device), labels)
    number = os.stat(device).st_rdev
    mine = f"{os.major(number)}:{os.minor(number)}"
    mounts = mounts_at(mountpoint, text_of("/proc/self/mountinfo"))
    # The last one mounted is the one that is seen.
    mounted = bool(mounts) and mounts[-1][0] == mine
    others = [
        other for label in labels for other in run("blkid", "-o", "device", "-t", f"LABEL={label}").stdout.split()
    ]
    fstype = found.get("TYPE", "")
    return {
        "state": state,
        "carries": carries,
        "fstype": fstype,
        "label": found.get("LABEL", ""),
        "uuid": found.get("UUID", ""),
        "number": mine,
        "mounted": mounted,
        "occupied_by": "" if mounted or not mounts else mounts[-1][1],
        "in_fstab": fstab_line(mountpoint, text_of("/etc/fstab")),
        "namesakes": sorted(other for other in others if os.path.exists(other) and os.stat(other).st_rdev != number),
        "hidden_files": [] if mounts else files_below(mountpoint),
        # A filesystem may leave a little of its device unused.
        "grown": state == "ours" and 0 < filesystem_bytes(device, fstype) < device_bytes(device) - 16 * MEBIBYTE,
    }


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "volume_id": {"type": "str", "required": True},
            "labels": {"type": "list", "elements": "str", "required": True},
            "mountpoint": {"type": "path", "required": True},
            "wait": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    link = link_of(module.params["volume_id"])
    # In check mode a volume that is not there yet would be attached by then; nobody waits for it.
    device = wait_for(link, 0 if module.check_mode else module.params["wait"])
    result: dict[str, Any] = {
        "state": "missing",
        "carries": "",
        "fstype": "",
        "label": "",
        "uuid": "",
        "number": "",
        "mounted": False,
        "occupied_by": "",
        "in_fstab": "",
        "namesakes": [],
        "hidden_files": [],
        "grown": False,
    }
    try:
        if device:
            result = look(device, module.params["labels"], module.params["mountpoint"])
    except (OSError, programs.TimeoutExpired) as error:
        module.fail_json(msg=f"{device} ({module.params['volume_id']}) cannot be read: {error}")
    module.exit_json(changed=False, link=link, device=device, **result)


if __name__ == "__main__":
    main()
