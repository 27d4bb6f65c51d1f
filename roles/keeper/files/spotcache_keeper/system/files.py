"""Files that are there whole or not at all, and what else the standard library leaves out."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spotcache_keeper.errors import KeeperError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_BLOCK = 1024 * 1024


def sync(path: Path) -> None:
    """Bring a file, or a directory's entries, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Put a text file in place by rename, on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def replace_secret(path: Path, new: Path) -> None:
    """Put `new` in the place of a secret file, and overwrite what was there.

    The blocks of a file that nobody names any more would be in every later image of the disk.
    """
    old = os.open(path, os.O_WRONLY) if path.exists() else None
    try:
        new.replace(path)
        sync(path.parent)
        if old is not None:
            os.write(old, bytes(os.fstat(old).st_size))
            os.fsync(old)
    finally:
        if old is not None:
            os.close(old)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object in a file, or None when the file is missing or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def exchange(one: Path, other: Path) -> None:
    """Swap two paths in one step: at no moment is either missing.

    renameat2(2) with RENAME_EXCHANGE; ext4, xfs, btrfs and tmpfs have it.

    Raises:
        KeeperError: the filesystem cannot, or a path is missing.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise KeeperError(f"{one} and {other} cannot be exchanged: {os.strerror(number)}")
    for parent in sorted({one.parent, other.parent}):
        sync(parent)


@contextmanager
def readable_errors(doing: str) -> Iterator[None]:
    """Turn the operating system's errors into ours: `doing` says what could not be done."""
    try:
        yield
    except OSError as error:
        raise KeeperError(
            f"{doing}: {error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
        ) from error
