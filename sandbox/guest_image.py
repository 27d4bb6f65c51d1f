"""The disk of a virtual machine that is a sandbox host: Debian with a kernel of its own, built from packages.

It is what `sandbox.image` makes for containers, and what a machine needs beyond that; the same mirrors, the same first
boot. The result stands in .cache/guest of the checkout, in a folder named by a hash of everything that goes into it:
``root.img``, a file system without partitions, and beside it the kernel and its first file system, which qemu starts.

``python -m sandbox.guest_image [RELEASE]`` builds what is missing and prints the folder.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox import image
from sandbox.image import GUEST_PACKAGES, Inputs, Progress
from sandbox.shell import ToolFailed, run

CACHE: Final = Path(__file__).parent.parent / ".cache" / "guest"
ASSETS: Final = Path(__file__).parent / "guest"
# What containers have for their first boot, and machines as well.
SHARED: Final = (
    "rootfs/etc/cloud/cloud.cfg.d/90_sandbox.cfg",
    "rootfs/etc/cloud/ds-identify.cfg",
    "rootfs/etc/systemd/system/cloud-init-local.service.d/sandbox.conf",
    "rootfs/etc/systemd/system/ssh.service.d/sandbox.conf",
    # No DHCP server answers: EC2's own data source would wait for one before it asks the metadata service.
    "rootfs/usr/lib/python3/dist-packages/cloudinit/sources/DataSourceSandbox.py",
)
LABEL: Final = "cloudimg-rootfs"
DISK_GIB: Final = 8  # as Debian's cloud image has it


@dataclass(frozen=True)
class Guest:
    """What qemu starts a machine with."""

    folder: Path

    @property
    def root(self) -> Path:
        """The disk's file system."""
        return self.folder / "root.img"

    @property
    def kernel(self) -> Path:
        """The kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The kernel's first file system."""
        return self.folder / "initrd.img"


def base_name(inputs: Inputs) -> str:
    """Name of the archive that holds only the packages."""
    return f"base-{image.digest('1', inputs.sources, inputs.apt_conf, *image.PACKAGES, *GUEST_PACKAGES)}.tar"


def folder_name(inputs: Inputs, assets: Sequence[tuple[str, int, bytes]]) -> str:
    """Name of a finished disk's folder; `assets` are (path, mode, content) of the files that go in."""
    parts: list[bytes | str] = [base_name(inputs), str(DISK_GIB)]
    for path, mode, content in assets:
        parts += [path, oct(mode), content]
    for name in sorted(inputs.certificates):
        parts += [name, inputs.certificates[name]]
    return f"{inputs.suite}-{image.digest(*parts)}"


def read_assets() -> list[tuple[str, int, bytes]]:
    """Return (path, mode, content) of every file that goes in, in a fixed order."""
    shared = [one for one in image.read_assets() if one[0] in SHARED]
    return [*shared, *image.read_assets(ASSETS)]


def ensure(release: str = "", *, progress: Progress = lambda _: None, cache: Path = CACHE) -> Guest:
    """Return a release's disk, built if this machine does not have it yet.

    Args:
        release: one of `image.RELEASES`; empty for this machine's choice.
        progress: called with one line for each long step.
        cache: where it is kept.

    Raises:
        ImageError: unknown release, or the disk cannot be built.
    """
    if release and release not in image.RELEASES:
        raise image.ImageError(f"unknown release {release!r}: one of {', '.join(image.RELEASES)}")
    inputs = image.read_inputs(image.RELEASES[release or image.chosen_release()])
    assets = read_assets()
    guest = Guest(cache / folder_name(inputs, assets))
    if guest.folder.is_dir():
        return guest
    with image.machine_lock():
        if not guest.folder.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            base = cache / base_name(inputs)
            if not base.exists():
                _bootstrap(inputs, base, progress)
            _build(guest, inputs, assets, base, progress)
    return guest


def _bootstrap(inputs: Inputs, base: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory(prefix="making-", dir=base.parent) as work:
        root = Path(work) / "root.tar"
        image.bootstrap(inputs, [*image.PACKAGES, *GUEST_PACKAGES], root, base.stem, progress)
        os.replace(root, base)


def _build(
    guest: Guest, inputs: Inputs, assets: Sequence[tuple[str, int, bytes]], base: Path, progress: Progress
) -> None:
    """Make the disk beside where it will stand; it appears there in one step."""
    progress(f"{guest.folder.name}: writing the disk")
    with tempfile.TemporaryDirectory(prefix="making-", dir=guest.folder.parent) as work:
        root, made = Path(work) / "root", Guest(Path(work) / "made")
        root.mkdir()
        made.folder.mkdir(mode=0o755)
        try:
            run(
                "tar",
                "--numeric-owner",
                "--xattrs",
                "--xattrs-include=*",
                "-xpf",
                str(base),
                "-C",
                str(root),
                timeout=300,
            )
            _put(root, assets, inputs)
            [kernel], [initrd] = (sorted((root / "boot").glob(one)) for one in ("vmlinuz-*", "initrd.img-*"))
            shutil.copy(kernel, made.kernel)
            shutil.copy(initrd, made.initrd)
            with made.root.open("wb") as disk:
                disk.truncate(DISK_GIB * 1024**3)
            options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
            run("mkfs.ext4", "-q", "-F", "-L", LABEL, "-E", options, "-d", str(root), str(made.root), timeout=300)
        except ToolFailed as error:
            raise image.ImageError(str(error)) from error
        os.replace(made.folder, guest.folder)


def _put(root: Path, assets: Sequence[tuple[str, int, bytes]], inputs: Inputs) -> None:
    files = [(path.removeprefix("rootfs"), mode, data) for path, mode, data in assets if path.startswith("rootfs/")]
    files += [(f"/usr/local/share/ca-certificates/{n}", 0o644, data) for n, data in inputs.certificates.items()]
    files += [("/tmp/configure", mode, data) for path, mode, data in assets if path == "configure"]
    for path, mode, data in files:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        target.write_bytes(data)
        target.chmod(mode)
    run("chroot", str(root), "/tmp/configure", timeout=300)
    (root / "tmp" / "configure").unlink()


def main(argv: Sequence[str]) -> int:
    """Print the folder of the release named in `argv`; progress and errors go to standard error."""
    try:
        say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
        print(ensure(*argv[:1], progress=say).folder)
    except image.ImageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
