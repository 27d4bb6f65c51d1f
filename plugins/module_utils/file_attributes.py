"""Files replaced in one step that keep their owner, group, mode, ACL and SELinux context."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import dataclasses
import errno
import grp
import os
import pwd
import stat
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ACL = "system.posix_acl_access"
CONTEXT = "security.selinux"
# What the kernel says where there is no such attribute, or no filesystem that could have one.
ABSENT = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTSUP)
# Tags of an ACL's entries, from linux/posix_acl.h.
USER, GROUP_OBJECT, GROUP, MASK, OTHER = 0x02, 0x04, 0x08, 0x10, 0x20


@dataclass(frozen=True)
class Attributes:
    """Whose a file is and who may do what with it."""

    mode: int
    uid: int
    gid: int
    # The kernel's own bytes; empty where a file has none.
    acl: bytes = b""
    context: bytes = b""

    @classmethod
    def of(cls, path: str) -> Attributes:
        """As they are."""
        status = os.stat(path)
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, _read(path, ACL), _read(path, CONTEXT))

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Attributes:
        """What `packed` has made of them."""
        acl, context = (base64.b64decode(str(packed[name])) for name in ("acl", "context"))
        return cls(int(packed["mode"]), int(packed["uid"]), int(packed["gid"]), acl, context)

    def packed(self) -> dict[str, Any]:
        """The same as text and numbers, for a later task."""
        acl, context = (base64.b64encode(one).decode() for one in (self.acl, self.context))
        return {"mode": self.mode, "uid": self.uid, "gid": self.gid, "acl": acl, "context": context}

    def closed(self) -> Attributes:
        """The same without any permission for others."""
        return dataclasses.replace(self, mode=self.mode & ~0o007)

    def permits(self, uid: int, gids: tuple[int, ...], bit: int) -> bool:
        """Whether a permission (4 to read, 2 to write, 1 to go through a directory) is somebody's."""
        if uid == 0:
            return True
        if self.uid == uid:
            return bool(self.mode & bit << 6)
        entries = list(_entries(self.acl))
        # Where there is an ACL, the group's bits of the mode are its mask.
        mask = bit & self.mode >> 3
        for tag, permissions, number in entries:
            if tag == USER and number == uid:
                return bool(permissions & mask)
        groups = [(self.gid, permissions) for tag, permissions, _number in entries if tag == GROUP_OBJECT]
        groups += [(number, permissions) for tag, permissions, number in entries if tag == GROUP]
        if not entries:
            groups = [(self.gid, self.mode >> 3 & 7)]
        own = [permissions for number, permissions in groups if number in gids]
        return any(permissions & mask for permissions in own) if own else bool(self.mode & bit)

    def __str__(self) -> str:
        return f"{self.mode:04o} {_name(self.uid, pwd.getpwuid)}:{_name(self.gid, grp.getgrgid)}" + (
            " with an ACL" if self.acl else ""
        )


def _name(number: int, look_up: object) -> str:
    try:
        return str(look_up(number)[0])  # type: ignore[operator]
    except KeyError:
        return str(number)


def _read(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno in ABSENT:
            return b""
        raise


def _entries(acl: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, permissions and number of each entry, behind four bytes of the format's version."""
    yield from struct.iter_unpack("<HHI", acl[4:])


def replace(path: str, data: bytes, attributes: Attributes) -> None:
    """Write a file in one step; nobody ever sees half of it, or sees it with other permissions.

    Raises:
        OSError: it cannot be written, or not be given to its owner; it is as it was then.
    """
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".spotcache-new-")
    try:
        with os.fdopen(handle, "wb") as stream:
            number = stream.fileno()
            os.fchown(number, attributes.uid, attributes.gid)
            if attributes.acl:
                os.setxattr(number, ACL, attributes.acl)
            # After the ACL, whose mask it is as well.
            os.fchmod(number, attributes.mode)
            if attributes.context and attributes.context != _read(temporary, CONTEXT):
                os.setxattr(number, CONTEXT, attributes.context)
            stream.write(data)
            stream.flush()
            os.fsync(number)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    folder_handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folder_handle)
    finally:
        os.close(folder_handle)
