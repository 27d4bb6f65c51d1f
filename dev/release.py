# SPDX-License-Identifier: GPL-3.0-or-later
"""A release of the collection: its changelog, its archive, and the checks that both must pass. It publishes nothing.

What git tracks is copied first; the changelog is written, and the archive built and tried, in that copy. The checkout
gets the changelog, and build/release/VERSION/ the archive, when all of it was good. docs/release.md has the whole way.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from ansible.utils.version import SemanticVersion

from dev import sanity
from dev.work import BUILD, ROOT, Failed, tool

CHANGELOG, RELEASES = "CHANGELOG.md", "changelogs/changelog.yaml"
FRAGMENTS = "changelogs/fragments"
SUMS, SIGNATURE, NOTES = "SHA256SUMS", "SHA256SUMS.asc", "NOTES.md"

# What an archive may have. A list of what belongs, and not only galaxy.yml's of what does not: a new folder is then
# in no release before somebody has decided where it goes.
BELONGS = (
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.ja.md",
    "README.md",
    "SECURITY.md",
    "changelogs",
    "collections/requirements.yml",
    "docs",
    # Each by its name: an inventory of somebody's own is nobody else's business.
    "inventories/awx",
    "inventories/dev",
    "inventories/prod",
    "inventories/stg",
    "meta",
    "playbooks",
    "plugins",
    "roles",
)
SECRET_NAME = re.compile(
    r"\.env(\..+)?|\.netrc|\.pgpass|\.vault.*|vault\.ya?ml|vault[-_]?pass.*|credentials|galaxy_token|"
    r"id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|key|p12|pfx|jks|kdbx|ppk)"
)
SECRET_TEXT = {
    "a private key": re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}"),
    # Those of AWS's own documentation end in EXAMPLE.
    "an AWS access key": re.compile(rb"\bA[KS]IA(?![A-Z0-9]{9}EXAMPLE)[A-Z0-9]{16}\b"),
    "the address of a Slack webhook": re.compile(rb"hooks\.slack\.com/services/T\w{8,}/B\w{8,}/\w{20,}"),
    "a token of Slack's": re.compile(rb"\bxox[abpr]-[0-9A-Za-z-]{20,}"),
    "a token of GitHub's": re.compile(rb"\bgh[opsu]_[0-9A-Za-z]{36}"),
    # Encrypted, and yet whoever has it may guess at its password for as long as they like.
    "a file of Ansible Vault": re.compile(rb"\A\$ANSIBLE_VAULT;"),
}


@dataclass(frozen=True)
class Checkout:
    """What a checkout says about releases."""

    # galaxy.yml's version, and the line it stands in.
    version: str
    line: int
    released: tuple[str, ...]
    fragments: tuple[str, ...]
    tags: frozenset[str]
    # The tags of the commit that is checked out.
    here: frozenset[str]
    # What is not committed.
    changed: tuple[str, ...] = ()

    @property
    def last(self) -> str | None:
        """The newest release of the changelog."""
        return max(self.released, key=SemanticVersion, default=None)


@dataclass(frozen=True)
class Wanted:
    """What a person asks for."""

    version: str
    check: bool = False
    tagged: bool = False
    sign: str = ""

    @property
    def tag(self) -> str:
        """The name of the version in git."""
        return f"v{self.version}"


def git(root: Path, *arguments: str) -> str:
    """What git answers about a checkout. Raises Failed."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Failed(f"git {arguments[0]} does not work in {root}: {done.stderr.strip()}")
    return done.stdout


def look(root: Path) -> Checkout:
    """Read all that decides whether there can be a release. Raises Failed."""
    galaxy = (root / "galaxy.yml").read_text()
    lines = [number for number, line in enumerate(galaxy.splitlines(), 1) if line.startswith("version:")]
    if len(lines) != 1:
        raise Failed(f"galaxy.yml has {len(lines)} lines that begin with `version:`: leave one, as `version: 0.1.0`.")
    releases = yaml.safe_load((root / RELEASES).read_text()) or {}
    tracked = git(root, "ls-files", "-z", "--", FRAGMENTS).split("\0")
    return Checkout(
        version=str(yaml.safe_load(galaxy)["version"]),
        line=lines[0],
        released=tuple(releases.get("releases") or {}),
        fragments=tuple(name for name in tracked if name.endswith((".yml", ".yaml")) and (root / name).exists()),
        tags=frozenset(git(root, "tag", "--list").split()),
        here=frozenset(git(root, "tag", "--points-at", "HEAD").split()),
        changed=tuple(line[3:] for line in git(root, "status", "--porcelain").splitlines()),
    )


def is_semantic(version: str) -> bool:
    """Whether semver.org has such a version."""
    try:
        SemanticVersion(version)
    except ValueError:
        return False
    # Of an empty one it makes a version without numbers.
    return bool(version)


def some(names: Sequence[str]) -> str:
    """A few names of many."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def refusals(wanted: Wanted, checkout: Checkout) -> list[str]:
    """Why there can be no such release, each as a sentence that says what to do."""
    version, tag, last = wanted.version, wanted.tag, checkout.last
    if not is_semantic(version):
        return [f"{version} is no semantic version: write three numbers, as in 0.2.0, or 0.2.0-rc.1 before it; no v."]
    found = []
    if checkout.changed and not wanted.check:
        found.append(
            f"The checkout has what is not committed ({some(checkout.changed)}): commit or remove it; "
            "--check looks without that."
        )
    if checkout.version != version:
        found.append(
            f"galaxy.yml says {checkout.version} in line {checkout.line}, and {version} is to be released: "
            f"make that line `version: {version}`, and commit it."
        )
    if wanted.tagged:
        return found + refusals_of_tagged(wanted, checkout)
    if tag in checkout.tags:
        found.append(f"The tag {tag} is there already: take a newer version, or build what it holds with --tagged.")
    # The last one may still be added to while it is not tagged.
    if last and version != last and not SemanticVersion(version) > SemanticVersion(last):
        found.append(f"{version} is not newer than {last}, the last release in {RELEASES}: take a newer version.")
    if not checkout.fragments:
        found.append(
            f"{FRAGMENTS} has no fragment, so {version} would have no notes: say in a file there what a user notices "
            "(CONTRIBUTING.md), and commit it."
        )
    return found


def refusals_of_tagged(wanted: Wanted, checkout: Checkout) -> list[str]:
    """Why what is checked out is not what its tag says."""
    found = []
    if wanted.tag not in checkout.here:
        found.append(f"The commit that is checked out has no tag {wanted.tag}: git switch --detach {wanted.tag} first.")
    if checkout.last != wanted.version:
        found.append(
            f"The last release in {RELEASES} is {checkout.last}, and the tag says {wanted.version}: run "
            f"./spotcache release {wanted.version}, commit the changelog, and tag that commit."
        )
    if checkout.fragments:
        found.append(
            f"Fragments are left ({some(checkout.fragments)}), which the changelog of {wanted.version} lacks: run "
            f"./spotcache release {wanted.version}, commit the changelog, and tag that commit."
        )
    return found


def copy_tracked(root: Path, to: Path) -> None:
    """Copy what git tracks, as it is now: nothing that only lies about gets into an archive."""
    for name in git(root, "ls-files", "-z").rstrip("\0").split("\0"):
        source, target = root / name, to / name
        # One that is deleted and not committed; --check alone comes this far with such a one.
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def write_changelog(copy: Path, version: str, released: Iterable[str]) -> None:
    """Have antsibull-changelog make the release of the fragments. Raises Failed."""
    # What stands there of a version that is not published yet stays, and the fragments are added.
    existing = ["--update-existing"] if version in released else []
    # It looks at the fragments first, as its lint does.
    if sanity.run([tool("antsibull-changelog"), "release", "--version", version, *existing], copy):
        raise Failed(f"antsibull-changelog could not write the release {version}: the lines above say why.")


def notes(changelog: str, version: str) -> str:
    """What CHANGELOG.md says about one version, as a text of its own.

    Raises:
        Failed: it has no such version.
    """
    text = re.sub(r'^<a id="[^"]*"></a>\n', "", changelog, flags=re.MULTILINE)
    for section in re.split(r"^(?=## v)", text, flags=re.MULTILINE)[1:]:
        head, _, rest = section.partition("\n")
        # Markdown's own characters are escaped there.
        if head.replace("\\", "") == f"## v{version}":
            return rest.strip() + "\n"
    raise Failed(f"{CHANGELOG} has nothing about {version}: antsibull-changelog generate writes it.")


def is_below(name: str, folder: str) -> bool:
    """Whether a path is that one or lies below it."""
    return PurePosixPath(name).is_relative_to(folder)


def is_ignored(name: str, patterns: Iterable[str]) -> bool:
    """Whether galaxy.yml keeps a path, or a folder above it, out of the archive."""
    path = PurePosixPath(name)
    above = [str(one) for one in (path, *path.parents) if one.name]
    return any(fnmatch.fnmatch(one, pattern) for pattern in patterns for one in above)


def secret(name: str, content: bytes) -> str:
    """What of a file looks like a secret; empty for nothing."""
    if SECRET_NAME.fullmatch(PurePosixPath(name).name):
        return "its name"
    return next((what for what, pattern in SECRET_TEXT.items() if pattern.search(content)), "")


def strangers(files: Mapping[str, bytes], ignored: Sequence[str]) -> list[str]:
    """What an archive must not have, each as a sentence."""
    found = []
    for name, content in sorted(files.items()):
        if not any(is_below(name, folder) for folder in BELONGS):
            found.append(
                f"{name} is in the archive: name it in build_ignore of galaxy.yml, or in BELONGS of dev/release.py "
                "if users need it."
            )
        elif is_ignored(name, ignored):
            found.append(f"{name} is in the archive, and build_ignore of galaxy.yml leaves it out.")
        looks = secret(name, content)
        if looks:
            found.append(f"{name} looks like a secret ({looks}): take it out, and replace it where it is in use.")
    return found


def content(archive: Path) -> dict[str, bytes]:
    """The files of an archive. What else it has but folders counts as an empty file."""
    found = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            if not member.isdir():
                stream = opened.extractfile(member) if member.isfile() else None
                found[member.name] = stream.read() if stream else b""
    return found


def listed(place: Path, kind: str) -> set[str]:
    """What ansible-doc finds of a kind in the collection that is installed there. Raises Failed."""
    command = [tool("ansible-doc"), "--list", "--json", "--type", kind, "spotcache.redis"]
    done = subprocess.run(
        command,
        cwd=place,
        env=sanity.environment({"ANSIBLE_COLLECTIONS_PATH": str(place)}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failed(f"ansible-doc cannot list each {kind} of the installed collection: {done.stderr.strip()}")
    return {name.removeprefix("spotcache.redis.") for name in json.loads(done.stdout)}


def sources(copy: Path) -> dict[str, set[str]]:
    """What the sources have of each kind that ansible-doc is asked for."""
    return {
        "module": {path.stem for path in (copy / "plugins" / "modules").glob("[!_]*.py")},
        "role": {path.name for path in (copy / "roles").iterdir() if path.is_dir()},
    }


def missing(kind: str, there: set[str], found: set[str]) -> list[str]:
    """What was not found of a kind, as a sentence."""
    lost = sorted(there - found)
    return [f"The installed collection lacks the {kind} {', '.join(lost)}, which the sources have."] if lost else []


def disagreements(version: str, manifest: Mapping[str, Any], released: Iterable[str], archive: str) -> list[str]:
    """Where the installed collection says another version."""
    places = {
        "MANIFEST.json": str(manifest["collection_info"]["version"]),
        RELEASES: max(released, key=SemanticVersion, default="none"),
        "the archive's name": archive.removeprefix("spotcache-redis-").removesuffix(".tar.gz"),
    }
    return [f"In the archive {place} says {said}, not {version}." for place, said in places.items() if said != version]


def try_installed(archive: Path, place: Path, copy: Path, version: str) -> list[str]:
    """Install an archive by itself, from nowhere but its file; what is wrong with it then. Raises Failed."""
    install = [tool("ansible-galaxy"), "collection", "install", "--offline", "--no-deps"]
    install += ["--collections-path", str(place), str(archive)]
    if sanity.run(install, place, {"ANSIBLE_COLLECTIONS_PATH": str(place)}):
        raise Failed("The archive cannot be installed: the lines above say why.")
    home = place / sanity.COLLECTION
    manifest = json.loads((home / "MANIFEST.json").read_text())
    released = (yaml.safe_load((home / RELEASES).read_text()) or {}).get("releases") or {}
    found = disagreements(version, manifest, released, archive.name)
    for kind, there in sources(copy).items():
        lists = listed(place, kind)
        print(f"Installed by itself, it has {len(there & lists)} of {len(there)}: {kind}", flush=True)
        found += missing(kind, there, lists)
    return found


def has_key(key: str) -> bool:
    """Whether gpg can sign with that key."""
    return not subprocess.run(
        ["gpg", "--batch", "--list-secret-keys", key], capture_output=True, stdin=subprocess.DEVNULL
    ).returncode


def write_sums(folder: Path, archive: str) -> None:
    """Write the checksum as sha256sum --check reads it."""
    digest = hashlib.sha256((folder / archive).read_bytes()).hexdigest()
    (folder / SUMS).write_text(f"{digest}  {archive}\n")


def sign(folder: Path, key: str) -> None:
    """Sign the checksums, and check that. Raises Failed."""
    signed = ["gpg", "--yes", "--local-user", key, "--detach-sign", "--armor", "--output", SIGNATURE, SUMS]
    # gpg asks for the key's passphrase by itself, in a terminal or a window of its own.
    for command in (signed, ["gpg", "--batch", "--verify", SIGNATURE, SUMS]):
        if subprocess.run(command, cwd=folder).returncode:
            raise Failed(f"{SUMS} could not be signed with {key}: the lines above say why.")


def next_steps(wanted: Wanted, folder: str, archive: str) -> str:
    """What is left for a person to do."""
    tag = wanted.tag
    files = [archive, SUMS, *([SIGNATURE] if wanted.sign else [])]
    assets = " ".join(f"{folder}/{name}" for name in files)
    tagging = [
        f"git add --all changelogs {CHANGELOG} && git commit -m 'Release {wanted.version}'",
        f"git tag --annotate {tag} -m 'spotcache.redis {wanted.version}'",
        f"git push origin HEAD {tag}",
    ]
    publishing = [
        f"gh release create {tag} --verify-tag --title {tag} --notes-file {folder}/{NOTES} {assets}",
        f"ansible-galaxy collection publish {folder}/{archive}",
    ]
    token = (
        "The token of galaxy.ansible.com is read from ~/.ansible/galaxy_token (a line `token: ...`, mode 0600); to\n"
        "the workflow it is the secret GALAXY_TOKEN. In a command line others on the machine could read it."
    )
    paragraphs = [
        "Where .github/workflows/release.yml does not do it, which the tag starts:",
        "\n".join(f"  {step}" for step in publishing),
        token,
    ]
    if not wanted.tagged:
        paragraphs[:0] = ["Look at git diff, and then:", "\n".join(f"  {step}" for step in tagging)]
    return "\n\n".join(paragraphs)


def hand_back(copy: Path, root: Path) -> None:
    """Give the checkout the changelog that was written in the copy, and take the fragments away that it used up."""
    for name in (CHANGELOG, RELEASES):
        shutil.copyfile(copy / name, root / name)
    for fragment in (root / FRAGMENTS).glob("*.y*ml"):
        if not (copy / FRAGMENTS / fragment.name).exists():
            fragment.unlink()


def release(wanted: Wanted, root: Path = ROOT, build: Path = BUILD) -> str:
    """Make a release, or only try it; what is to be said at the end.

    Raises:
        Failed: it cannot be; then nothing is changed.
    """
    checkout = look(root)
    problems = refusals(wanted, checkout)
    if wanted.sign and not has_key(wanted.sign):
        problems.append(f"gpg has no secret key {wanted.sign}: gpg --list-secret-keys shows those that it has.")
    if problems:
        raise Failed("\n".join(problems))
    with tempfile.TemporaryDirectory(prefix="spotcache-release-") as name:
        temporary = Path(name)
        copy, place, result = temporary / "source" / sanity.COLLECTION, temporary / "installed", temporary / "result"
        for folder in (copy, place, result):
            folder.mkdir(parents=True)
        copy_tracked(root, copy)
        if not wanted.tagged:
            write_changelog(copy, wanted.version, checkout.released)
        archive = sanity.built(copy, result)
        files = content(archive)
        ignored = yaml.safe_load((copy / "galaxy.yml").read_text()).get("build_ignore") or []
        problems = strangers(files, ignored) + try_installed(archive, place, copy, wanted.version)
        if problems:
            raise Failed("\n".join(problems))
        (result / NOTES).write_text(notes((copy / CHANGELOG).read_text(), wanted.version))
        write_sums(result, archive.name)
        if wanted.sign:
            sign(result, wanted.sign)
        whole = f"{archive.name}: {len(files)} files, {archive.stat().st_size // 1024} KiB"
        if wanted.check:
            return f"{whole}. {wanted.version} can be released; nothing has been changed."
        target = build / "release" / wanted.version
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(result, target)
        if not wanted.tagged:
            hand_back(copy, root)
    told = str(target.relative_to(root)) if target.is_relative_to(root) else str(target)
    return f"{whole}, in {told}.\n\n{next_steps(wanted, told, archive.name)}"


def asked(arguments: Sequence[str]) -> Wanted:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="./spotcache release", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", metavar="VERSION", help="as galaxy.yml says it, without a v")
    parser.add_argument("--check", action="store_true", help="try all of it in a copy, and change nothing")
    parser.add_argument(
        "--tagged", action="store_true", help="build what the tag vVERSION holds, whose changelog is written already"
    )
    parser.add_argument("--sign", metavar="KEYID", default="", help="sign the checksums with this key of gpg's")
    return Wanted(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str]) -> int:
    """Make the release that is asked for."""
    try:
        print(release(asked(arguments)))
    except Failed as failed:
        print(f"There is no release, and nothing has been changed.\n{failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
