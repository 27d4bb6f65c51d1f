"""The image of a sandbox host: Debian with systemd, sshd and cloud-init, built from packages.

Two variants: ``debian`` is what a freshly launched instance looks like; ``debian-docker`` is the same with Docker's
engine, for those who want a host that is past its installation. No registry is involved: mmdebstrap makes the root
file system from the Debian mirror this machine itself uses.

An image's tag is a hash of everything that goes into it, so `ensure` costs nothing once it is built, and a changed file
below ``image/`` makes a new one. The packages (slow) and the files (quick) are hashed apart.

``python -m sandbox.image [debian|debian-docker [RELEASE]]`` builds what is missing and prints the tag.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import docker
import docker.errors

# Debian's releases that a host may have, each with the name of its suite.
RELEASES: Final = {"12": "bookworm", "13": "trixie"}
VARIANTS: Final = ("debian", "debian-docker")
REPOSITORY: Final = "spotcache-sandbox"
LABEL: Final = "spotcache-sandbox-image"
ASSETS: Final = Path(__file__).parent / "image"

CLOUD_IMAGE: Final = Path(__file__).parent / "debian-cloud-image.txt"
# What a container has of Debian's cloud image, each with its reason. What a role needs beyond it, the role installs.
PACKAGES: Final = {
    "apt-utils": "apt asks questions of packages before it unpacks them",
    "ca-certificates": "TLS",
    "cloud-init": "user data, keys and names, as on EC2",
    "curl": "people and tests ask the metadata service",
    "dbus": "systemctl and hostnamectl",
    "e2fsprogs": "the data volume's filesystem",
    "iproute2": "facts of the network",
    "iptables": "Docker's rules",
    "iputils-ping": "tests of the network",
    "kmod": "Docker asks for modules",
    "netbase": "names of protocols and services",
    "openssh-server": "the way in",
    "procps": "sysctl",
    "python3": "Ansible and the keeper",
    "python3-apt": "Ansible's apt module",
    "sudo": "the way to root",
    "systemd": "units",
    "systemd-sysv": "systemd as PID 1",
    "tzdata": "times of day in facts",
}
# What a virtual machine has of it beyond that.
GUEST_PACKAGES: Final = {
    "apparmor": "Docker confines containers with it",
    "libnss-myhostname": "the host's own name",
    "libpam-systemd": "sessions, as a person has them",
    "linux-image-cloud-amd64": "the kernel",
    "qemu-guest-agent": "not Debian's: how the sandbox runs a command on a host, past its network",
    "systemd-resolved": "the resolver",
    "udev": "device nodes and their links",
    "zstd": "packs the kernel's first file system",
}
DOCKER_PACKAGES: Final = ("docker.io", "python3-requests")
# The client, which Debian 13 packs apart from the engine; to be had only there.
DOCKER_CLIENT: Final = "docker-cli"

# Settings of this machine's apt without which the same mirror may not work from inside a host.
APT_KEYS: Final = re.compile(
    r"^Acquire::(?:https?::(?:Proxy(?:::.*)?|CAInfo|CaPath|Verify-Peer|Verify-Host)|Check-Valid-Until|Check-Date|Retries)$",
    re.IGNORECASE,
)
# Package descriptions in other languages are of no use in a host and a third of an update's download.
APT_OWN: Final = {"Acquire::Languages": "none"}

Progress = Callable[[str], None]


class ImageError(RuntimeError):
    """The image cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class AptSource:
    """One archive a host takes packages from."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """Everything of this machine that goes into an image, and the suite that it is of."""

    suite: str
    sources: str
    apt_conf: str
    certificates: Mapping[str, bytes]


def parse_sources(text: str, *, deb822: bool) -> list[AptSource]:
    """Read apt's source list in either of its two formats; only enabled binary archives are returned."""
    return list(_parse_deb822(text) if deb822 else _parse_one_line(text))


def _parse_one_line(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = re.match(r"^\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match:
            yield AptSource(match[1], (match[2],), tuple(match[3].split()))


def _parse_deb822(text: str) -> Iterator[AptSource]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in " \t" and key:
                fields[key] += " " + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            yield AptSource(uri, tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split()))


def cloud_image_packages(path: Path = CLOUD_IMAGE) -> list[str]:
    """Return the packages that Debian's cloud image is made of."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def chosen_release(environment: Mapping[str, str] = os.environ) -> str:
    """Return which Debian this machine's sandboxes have: SPOTCACHE_DEBIAN, else 13.

    Raises:
        ImageError: it names another one.
    """
    release = environment.get("SPOTCACHE_DEBIAN") or "13"
    if release not in RELEASES:
        raise ImageError(f"SPOTCACHE_DEBIAN is {release!r}: use {' or '.join(RELEASES)}")
    return release


def default_sources(suite: str) -> str:
    """Return the deb822 text of Debian's own archives."""
    return "\n".join(
        f"Types: deb\nURIs: http://deb.debian.org/{archive}\nSuites: {suites}\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        for archive, suites in (("debian", f"{suite} {suite}-updates"), ("debian-security", f"{suite}-security"))
    )


def debian_sources(sources: Sequence[AptSource], suite: str) -> str:
    """Return the deb822 text of those sources that carry Debian's own suites, or Debian's defaults if too few do.

    A source counts when it is plain http(s) and names one of the release's suites. The updates and security suites need
    not be there, but the main one must.
    """
    wanted = (suite, f"{suite}-updates", f"{suite}-security", f"{suite}/updates")
    stanzas = []
    main_found = False
    for source in sources:
        suites = [one for one in source.suites if one in wanted]
        if not suites or "main" not in source.components or not source.uri.startswith(("http://", "https://")):
            continue
        main_found = main_found or suite in suites
        stanzas.append(
            f"Types: deb\nURIs: {source.uri}\nSuites: {' '.join(suites)}\nComponents: main\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        )
    return "\n".join(stanzas) if main_found else default_sources(suite)


def apt_settings(dump: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings a host's apt needs on this network.

    `dump` is what `apt-config dump` prints. Proxies in the environment count where apt has none of its own. A proxy on
    this machine's loopback is left out: a host cannot reach it.
    """
    settings: dict[str, str] = {}
    for line in dump.splitlines():
        match = re.match(r'^(\S+) "(.*)";$', line)
        if match and APT_KEYS.match(match[1]) and match[2]:
            settings[match[1]] = match[2]
    for scheme in ("http", "https"):
        proxy = environment.get(f"{scheme}_proxy") or environment.get(f"{scheme.upper()}_PROXY")
        if proxy and not any(key.lower() == f"acquire::{scheme}::proxy" for key in settings):
            settings[f"Acquire::{scheme}::Proxy"] = proxy
    return {key: value for key, value in settings.items() if not _on_loopback(value)} | APT_OWN


def _on_loopback(value: str) -> bool:
    host = urlsplit(value).hostname if "://" in value else None
    return host is not None and (host == "localhost" or host == "::1" or host.startswith("127."))


def apt_conf(settings: Mapping[str, str]) -> str:
    """Return apt.conf text for these settings."""
    return "".join(f'{key} "{value}";\n' for key, value in sorted(settings.items()))


def digest(*parts: bytes | str) -> str:
    """Return a short hash of the parts; their borders count."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()[:12]


def base_tag(inputs: Inputs) -> str:
    """Return the tag of the image that holds only the packages."""
    return f"{REPOSITORY}/base:{digest('1', inputs.sources, inputs.apt_conf, *PACKAGES)}"


def variant_tag(variant: str, inputs: Inputs, assets: Sequence[tuple[str, int, bytes]]) -> str:
    """Return the tag of a variant. `assets` are (path, mode, content) of the files that go in."""
    parts: list[bytes | str] = [base_tag(inputs)]
    for path, mode, content in assets:
        parts += [path, oct(mode), content]
    for name in sorted(inputs.certificates):
        parts += [name, inputs.certificates[name]]
    if variant == "debian-docker":
        parts += (*DOCKER_PACKAGES, DOCKER_CLIENT)
    return f"{REPOSITORY}/{variant}:{digest(*parts)}"


def dockerfile(variant: str, parent: str) -> str:
    """Return the build steps of a variant on top of its parent image."""
    if variant == "debian-docker":
        # Started at boot by its own unit; nothing may run while the image is built.
        return (
            f"FROM {parent}\n"
            "RUN printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d"
            " && export DEBIAN_FRONTEND=noninteractive"
            " && apt-get -qq update"
            f" && apt-get -qq install -y --no-install-recommends {' '.join(DOCKER_PACKAGES)}"
            f" $(apt-cache --names-only search '^{DOCKER_CLIENT}$' | cut -d ' ' -f 1) >/dev/null"
            " && apt-get clean && rm /usr/sbin/policy-rc.d\n"
        )
    return f"FROM {parent}\nCOPY rootfs/ /\nCOPY configure /tmp/configure\nRUN /tmp/configure && rm /tmp/configure\n"


def read_assets(root: Path = ASSETS) -> list[tuple[str, int, bytes]]:
    """Return (path below `root`, mode, content) of every file that goes into an image, in a fixed order."""
    return [
        # A checkout's umask must not make another image.
        (str(path.relative_to(root)), 0o755 if path.stat().st_mode & 0o100 else 0o644, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def read_inputs(suite: str, etc: Path = Path("/etc"), environment: Mapping[str, str] | None = None) -> Inputs:
    """Read this machine's apt sources and settings and its own certificate authorities."""
    sources: list[AptSource] = []
    if f"VERSION_CODENAME={suite}" in _read_text(etc / "os-release"):
        for path in (etc / "apt/sources.list", *sorted((etc / "apt/sources.list.d").glob("*"))):
            if path.suffix in (".list", ".sources") and path.is_file():
                sources += parse_sources(_read_text(path), deb822=path.suffix == ".sources")
    dump = ""
    if shutil.which("apt-config"):
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False, timeout=60).stdout
    authorities = Path("/usr/local/share/ca-certificates")
    certificates = {path.name: path.read_bytes() for path in sorted(authorities.rglob("*.crt")) if path.is_file()}
    settings = apt_settings(dump, os.environ if environment is None else environment)
    return Inputs(suite, debian_sources(sources, suite), apt_conf(settings), certificates)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def build_context(steps: str, assets: Sequence[tuple[str, int, bytes]], certificates: Mapping[str, bytes]) -> bytes:
    """Return the tar archive a build is made from. Owners and times are fixed, so equal inputs give equal archives."""
    files = [("Dockerfile", 0o644, steps.encode()), *assets]
    files += [(f"rootfs/usr/local/share/ca-certificates/{name}", 0o644, data) for name, data in certificates.items()]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode, content in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@contextmanager
def machine_lock() -> Iterator[None]:
    """Let one process of this machine build at a time; the others then find the finished image."""
    path = Path(tempfile.gettempdir()) / f"{REPOSITORY}-image-{os.getuid()}.lock"
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def exists(client: Any, tag: str) -> bool:
    """Whether the engine has an image of this tag."""
    try:
        client.images.get(tag)
    except docker.errors.ImageNotFound:
        return False
    return True


def bootstrap(inputs: Inputs, packages: Iterable[str], root: Path, about: str, progress: Progress) -> None:
    """Make a root file system from packages, as a tar archive.

    Args:
        inputs: what of this machine goes into it.
        packages: their names; what they need comes with them.
        root: the archive.
        about: the image's name, for what is said.
        progress: called with one line for each long step.

    Raises:
        ImageError: mmdebstrap is missing or failed.
    """
    if not shutil.which("mmdebstrap"):
        raise ImageError("mmdebstrap is missing: apt-get install mmdebstrap (on Ubuntu also debian-archive-keyring)")
    names = list(packages)
    sources = root.parent / "debian.sources"
    sources.write_text(inputs.sources, encoding="utf-8")
    conf = root.parent / "apt.conf"
    conf.write_text(inputs.apt_conf, encoding="utf-8")
    # A proxy's password is for root only, as apt's own files with a password are.
    mode = "0600" if "@" in inputs.apt_conf else "0644"
    argv = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--skip=cleanup/apt/lists",
        f"--include={','.join(names)}",
        f"--aptopt={conf}",
        # Half of the packages' size, and nobody reads it in a host.
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--customize-hook=rm -f $1/etc/apt/sources.list",
        f"--customize-hook=copy-in {sources} /etc/apt/sources.list.d",
        f"--customize-hook=chmod {mode} $1/etc/apt/apt.conf.d/99mmdebstrap",
        inputs.suite,
        str(root),
        str(sources),
    ]
    progress(f"{about}: {len(names)} packages and what they need, from {_first_uri(inputs.sources)}")
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    tail: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        tail = [*tail[-19:], line.rstrip()]
        if line.startswith("I: ") and "automatically" not in line:
            progress(f"{about}: {line[3:].strip()}")
    if process.wait() != 0:
        raise ImageError("mmdebstrap failed:\n" + "\n".join(tail))


def _build_base(client: Any, tag: str, inputs: Inputs, progress: Progress) -> None:
    """Make the root file system from packages and import it.

    Raises:
        ImageError: mmdebstrap is missing or failed.
    """
    with tempfile.TemporaryDirectory(prefix="spotcache-image-", dir="/var/tmp") as work:
        root = Path(work) / "root.tar"
        bootstrap(inputs, PACKAGES, root, tag, progress)
        progress(f"{tag}: importing {root.stat().st_size // 2**20} MiB")
        repository, _, version = tag.rpartition(":")
        changes = [
            'CMD ["/lib/systemd/systemd"]',
            "ENV container=docker",
            f"LABEL {LABEL}=base",
        ]
        client.api.import_image_from_file(str(root), repository=repository, tag=version, changes=changes)


def _first_uri(sources: str) -> str:
    match = re.search(r"^URIs: (\S+)", sources, re.MULTILINE)
    uri = urlsplit(match[1]) if match else None
    # Without user and password, should the mirror want them.
    return f"{uri.scheme}://{uri.hostname}{uri.path}" if uri else "Debian"


def build(client: Any, tag: str, context: bytes, progress: Progress) -> None:
    """Run a build with the engine's own builder, which needs no extra component.

    Raises:
        ImageError: a step failed; the message holds the last lines it printed.
    """
    tail: list[str] = []
    for event in client.api.build(
        fileobj=io.BytesIO(context),
        custom_context=True,
        tag=tag,
        rm=True,
        forcerm=True,
        decode=True,
        labels={LABEL: tag.rpartition("/")[2]},
        # The machine's own resolver and proxies work here; those of a container's network may not.
        network_mode="host",
    ):
        text = str(event.get("error") or event.get("stream") or "").strip()
        if text:
            tail = [*tail[-19:], text]
        if "error" in event:
            raise ImageError(f"building {tag} failed:\n" + "\n".join(tail))
        if text.startswith("Step "):
            progress(f"{tag}: {text.splitlines()[0][:100]}")


def ensure(
    variant: str = "debian", *, release: str = "", client: Any = None, progress: Progress = lambda _: None
) -> str:
    """Return the tag of a variant's image, built if this machine does not have it yet.

    Args:
        variant: one of `VARIANTS`.
        release: one of `RELEASES`; empty for this machine's choice.
        client: a Docker SDK client; made from the environment when not given.
        progress: called with one line for each long step.

    Raises:
        ImageError: unknown variant or release, or the image cannot be built.
    """
    if release and release not in RELEASES:
        raise ImageError(f"unknown release {release!r}: one of {', '.join(RELEASES)}")
    if variant not in VARIANTS:
        raise ImageError(f"unknown image variant {variant!r}: one of {', '.join(VARIANTS)}")
    engine = client if client is not None else docker.from_env(timeout=600)
    inputs = read_inputs(RELEASES[release or chosen_release()])
    assets = read_assets()
    tag = variant_tag(variant, inputs, assets)
    if exists(engine, tag):
        return tag
    with machine_lock():
        base, plain = base_tag(inputs), variant_tag("debian", inputs, assets)
        if not exists(engine, base):
            _build_base(engine, base, inputs, progress)
        if not exists(engine, plain):
            build(engine, plain, build_context(dockerfile("debian", base), assets, inputs.certificates), progress)
        if not exists(engine, tag):
            build(engine, tag, build_context(dockerfile(variant, plain), [], {}), progress)
    return tag


def main(argv: Sequence[str]) -> int:
    """Print the tag of the variant and release named in `argv`; progress and errors go to standard error."""
    variant, release = [*argv, *("debian", "")[len(argv) :]][:2]
    try:
        print(ensure(variant, release=release, progress=lambda line: print(line, file=sys.stderr, flush=True)))
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
