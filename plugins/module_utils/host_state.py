"""Files and directories as they are and as they should be."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from typing import Any

LIMIT = 2**20


def read(path: str) -> bytes | None:
    """A file's bytes, or None when it cannot be read or is too long."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(LIMIT + 1)
    except OSError:
        return None
    return data if len(data) <= LIMIT else None


def describe(path: str) -> dict[str, Any]:
    """What stands at a path."""
    try:
        status = os.lstat(path)
    except OSError:
        return {"exists": False}
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    found: dict[str, Any] = {
        "exists": True,
        "type": kinds.get(stat.S_IFMT(status.st_mode), "other"),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
    data = read(path) if found["type"] == "file" else None
    if data is not None:
        found["sha256"] = hashlib.sha256(data).hexdigest()
    return found


def content(expected: Mapping[str, Any]) -> bytes | None:
    """What a file should hold; None for a directory."""
    if expected["base64"] is not None:
        return base64.b64decode(expected["base64"])
    return None if expected["text"] is None else expected["text"].encode("utf-8", "surrogateescape")


def differs(expected: Mapping[str, Any]) -> bool:
    """Whether a path is missing or not what it should be."""
    found = describe(expected["path"])
    if not found["exists"] or any(found[key] != expected[key] for key in ("mode", "uid", "gid")):
        return True
    data = content(expected)
    if data is None:
        return bool(found["type"] != "directory")
    return found.get("sha256") != hashlib.sha256(data).hexdigest()


def replace_file(path: str, data: bytes, mode: int, uid: int, gid: int) -> None:
    """Put a file in place in one step: nobody ever sees half of it, or sees it with another mode.

    What was there is overwritten when it was closed to other users, and so may have held a secret: an image of the disk
    would hold the blocks of a file that nobody names any more.

    Raises:
        OSError: it cannot be written.
    """
    before = overwritable(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fchown(stream.fileno(), uid, gid)
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        # Another name of it may be in use.
        if before is not None and os.fstat(before).st_nlink == 0:
            os.write(before, bytes(os.fstat(before).st_size))
            os.fsync(before)
    finally:
        if before is not None:
            os.close(before)


def overwritable(path: str) -> int | None:
    """A file that is closed to other users, opened to be overwritten; None for anything else."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_mode & stat.S_IRWXO:
        return None
    return os.open(path, os.O_WRONLY | os.O_NOFOLLOW)


# The options of one expected path, for the modules that take a list of them.
EXPECTED: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "text": {"type": "str"},
    # No secret, but a module's arguments go to the host's journal, which has no use for these bytes.
    "base64": {"type": "str", "no_log": True},
    "mode": {"type": "str", "required": True},
    "uid": {"type": "int", "default": 0},
    "gid": {"type": "int", "default": 0},
}
