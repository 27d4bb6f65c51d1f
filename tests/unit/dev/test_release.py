# SPDX-License-Identifier: GPL-3.0-or-later
"""./spotcache release: what it refuses, what it makes, and what may not be in an archive."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import release, sanity
from dev.work import ROOT, Failed

GOOD = release.Checkout(
    version="0.2.0",
    line=4,
    released=("0.1.0", "0.1.0-rc.1"),
    fragments=("changelogs/fragments/one.yml",),
    tags=frozenset({"v0.1.0"}),
    here=frozenset(),
)
TAGGED = dataclasses.replace(
    GOOD, released=("0.2.0", "0.1.0"), fragments=(), tags=frozenset({"v0.1.0", "v0.2.0"}), here=frozenset({"v0.2.0"})
)
# Put together here, so that nothing that looks for secrets finds one.
PRIVATE_KEY = b"-----BEGIN OPENSSH " + b"PRIVATE KEY-----\n" + b"b3BlbnNzaC1rZXktdjEA" * 4
ACCESS_KEY = b"aws_access_key_id = AK" + b"IA" + b"ABCDEFGH12345678"
SLACK = b"https://hooks.slack" + b".com/services/T0ABCDEFGH/B0ABCDEFGH/" + b"abcdefghij" * 3
VERSION = "99.0.0"
ARCHIVE = f"spotcache-redis-{VERSION}.tar.gz"


def refused(asked: str = "0.2.0", check: bool = False, tagged: bool = False, **changed: Any) -> list[str]:
    """What is said about a checkout that is good but for this."""
    checkout = dataclasses.replace(TAGGED if tagged else GOOD, **changed)
    return release.refusals(release.Wanted(asked, check=check, tagged=tagged), checkout)


def test_a_good_checkout_is_not_refused() -> None:
    assert refused() == refused(tagged=True) == []


@pytest.mark.parametrize("version", ["0.2", "v0.2.0", "0.2.0.1", "0.02.0", "next", ""])
def test_what_is_no_semantic_version_is_refused(version: str) -> None:
    [sentence] = refused(version)
    assert sentence.startswith(f"{version} is no semantic version: write three numbers, as in 0.2.0")


@pytest.mark.parametrize(
    ("version", "last"),
    [("0.2.0", "0.10.0"), ("0.2.0-rc.1", "0.2.0"), ("0.2.0-rc.2", "0.2.0-rc.10"), ("0.2.0+two", "0.2.0")],
)
def test_a_version_that_is_not_newer_than_the_last_is_refused(version: str, last: str) -> None:
    [sentence] = refused(version, version=version, released=("0.1.0", last))
    assert sentence.startswith(f"{version} is not newer than {last}, the last release in changelogs/changelog.yaml:")


@pytest.mark.parametrize(("version", "last"), [("0.10.0", "0.9.0"), ("0.2.0", "0.2.0-rc.1"), ("0.2.0", "0.2.0")])
def test_a_newer_version_is_taken_and_the_last_one_while_it_has_no_tag(version: str, last: str) -> None:
    assert refused(version, version=version, released=("0.1.0", last)) == []
    assert refused(version, version=version, released=()) == []


def test_the_last_release_is_the_newest_and_not_the_last_by_name() -> None:
    assert refused(version="0.2.0", released=("0.9.0", "0.10.0"))[0].startswith("0.2.0 is not newer than 0.10.0,")


def test_what_is_not_committed_is_refused_but_for_a_look() -> None:
    [sentence] = refused(changed=("README.md", "a", "b", "c"))
    assert sentence.startswith("The checkout has what is not committed (README.md, a, b and 1 more): commit")
    assert refused(check=True, changed=("README.md",)) == []
    assert len(refused(tagged=True, changed=("README.md",))) == 1


@pytest.mark.parametrize("tagged", [False, True])
def test_another_version_in_galaxy_yml_is_refused_with_the_line_to_change(tagged: bool) -> None:
    [sentence] = refused(tagged=tagged, version="0.1.0", line=7)
    assert sentence == (
        "galaxy.yml says 0.1.0 in line 7, and 0.2.0 is to be released: make that line `version: 0.2.0`, and commit it."
    )


def test_a_tag_that_is_there_is_refused() -> None:
    [sentence] = refused(tags=frozenset({"v0.2.0"}))
    assert sentence.startswith("The tag v0.2.0 is there already: take a newer version")


def test_a_release_without_a_fragment_is_refused() -> None:
    [sentence] = refused(fragments=())
    assert sentence.startswith("changelogs/fragments has no fragment, so 0.2.0 would have no notes: say in a file")


def test_everything_is_said_at_once() -> None:
    assert len(refused(version="0.1.0", changed=("a",), fragments=(), tags=frozenset({"v0.2.0"}))) == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"here": frozenset({"v0.1.0"})}, "The commit that is checked out has no tag v0.2.0: git switch"),
        ({"released": ("0.1.0",)}, "The last release in changelogs/changelog.yaml is 0.1.0, and the tag says 0.2.0:"),
        ({"fragments": ("changelogs/fragments/x.yml",)}, "Fragments are left (changelogs/fragments/x.yml), which"),
    ],
)
def test_a_tag_whose_commit_is_no_release_is_refused(changed: dict[str, Any], said: str) -> None:
    [sentence] = refused(tagged=True, **changed)
    assert sentence.startswith(said)


def git(root: Path, *arguments: str) -> None:
    """Run git as somebody whose settings are nobody's."""
    who = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, env={**os.environ, **who, **own})


def write(root: Path, name: str, text: str) -> None:
    """Write a file, and the folders above it."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkout with what decides whether there can be a release."""
    root = tmp_path / "checkout"
    write(root, "galaxy.yml", f"---\nname: redis\nversion: {VERSION}\n")
    write(root, "CHANGELOG.md", "# Notes\n")
    write(root, "changelogs/changelog.yaml", "releases:\n  0.1.0: {}\n")
    write(root, "changelogs/fragments/one.yml", "bugfixes:\n  - one - mended.\n")
    write(root, "changelogs/fragments/.gitkeep", "")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "one")
    return root


def test_a_checkout_is_read(small: Path) -> None:
    git(small, "tag", "v0.1.0")
    git(small, "commit", "--quiet", "--allow-empty", "-m", "two")
    git(small, "tag", "v0.1.1")
    write(small, "changelogs/fragments/untracked.yml", "")
    assert release.look(small) == release.Checkout(
        version=VERSION,
        line=3,
        released=("0.1.0",),
        fragments=("changelogs/fragments/one.yml",),
        tags=frozenset({"v0.1.0", "v0.1.1"}),
        here=frozenset({"v0.1.1"}),
        changed=("changelogs/fragments/untracked.yml",),
    )


def test_only_what_git_tracks_is_copied(small: Path, tmp_path: Path) -> None:
    write(small, "inventories/stg/vault.yml", "x")
    write(small, "CHANGELOG.md", "changed\n")
    (small / "changelogs/fragments/one.yml").unlink()
    release.copy_tracked(small, tmp_path / "copy")
    found = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert found == {"galaxy.yml", "CHANGELOG.md", "changelogs/changelog.yaml", "changelogs/fragments/.gitkeep"}
    assert (tmp_path / "copy" / "CHANGELOG.md").read_text() == "changed\n"


def state(root: Path) -> dict[str, bytes]:
    """Every file of a checkout but git's own."""
    files = [path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def pack(archive: Path, files: dict[str, bytes]) -> Path:
    """An archive of these files."""
    with tarfile.open(archive, "w:gz") as opened:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return archive


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The tools of Ansible do what they do at once; what they pack can be changed."""
    packed = {"README.md": b"", "MANIFEST.json": b""}

    def write_changelog(copy: Path, version: str, released: tuple[str, ...]) -> None:
        assert sorted(released) == ["0.1.0"]
        write(copy, "CHANGELOG.md", f"# Notes\n\n## v{version}\n\n* one \\- mended\\.\n")
        write(copy, "changelogs/changelog.yaml", f"releases:\n  0.1.0: {{}}\n  {version}: {{}}\n")
        (copy / "changelogs/fragments/one.yml").unlink()

    monkeypatch.setattr(release, "write_changelog", write_changelog)
    monkeypatch.setattr(sanity, "built", lambda source, into: pack(into / ARCHIVE, packed))
    monkeypatch.setattr(release, "try_installed", lambda *_: [])
    return packed


def test_a_release_leaves_the_changelog_the_archive_its_checksum_and_what_is_left_to_do(
    small: Path, quick: dict[str, bytes]
) -> None:
    said = release.release(release.Wanted(VERSION), small, small / "build")
    folder = small / "build" / "release" / VERSION
    assert {path.name for path in folder.iterdir()} == {ARCHIVE, "SHA256SUMS", "NOTES.md"}
    assert subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder).returncode == 0
    assert (folder / "NOTES.md").read_text() == "* one \\- mended\\.\n"
    assert f"## v{VERSION}" in (small / "CHANGELOG.md").read_text()
    assert list(yaml.safe_load((small / "changelogs/changelog.yaml").read_text())["releases"]) == ["0.1.0", VERSION]
    assert [path.name for path in (small / "changelogs/fragments").iterdir()] == [".gitkeep"]
    places = [
        said.index(step)
        for step in (
            f"git tag --annotate v{VERSION}",
            f"git push origin HEAD v{VERSION}",
            f"ansible-galaxy collection publish build/release/{VERSION}/{ARCHIVE}",
            "~/.ansible/galaxy_token",
        )
    ]
    assert places == sorted(places)


def test_what_was_tagged_is_built_without_another_changelog(small: Path, quick: dict[str, bytes]) -> None:
    release.release(release.Wanted(VERSION), small, small / "build")
    shutil.rmtree(small / "build")
    git(small, "add", "--all")
    git(small, "commit", "--quiet", "-m", "release")
    with pytest.raises(Failed, match=f"has no tag v{VERSION}"):
        release.release(release.Wanted(VERSION, tagged=True), small, small / "build")
    git(small, "tag", f"v{VERSION}")
    before = state(small)
    said = release.release(release.Wanted(VERSION, tagged=True), small, small / "build")
    assert (small / "build" / "release" / VERSION / ARCHIVE).exists()
    shutil.rmtree(small / "build")
    assert state(small) == before
    assert "git tag" not in said
    assert "ansible-galaxy collection publish" in said


def test_a_look_changes_nothing(small: Path, quick: dict[str, bytes]) -> None:
    before = state(small)
    said = release.release(release.Wanted(VERSION, check=True), small, small / "build")
    assert said.endswith(f"{VERSION} can be released; nothing has been changed.")
    assert state(small) == before


@pytest.mark.parametrize("check", [True, False])
def test_a_file_that_does_not_belong_stops_it_and_nothing_is_changed(
    small: Path, quick: dict[str, bytes], check: bool
) -> None:
    quick["tests/unit/test_one.py"] = b""
    before = state(small)
    with pytest.raises(Failed, match=r"^tests/unit/test_one\.py is in the archive: name it in build_ignore"):
        release.release(release.Wanted(VERSION, check=check), small, small / "build")
    assert state(small) == before


def test_what_is_refused_is_refused_before_anything_is_done(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(release, "copy_tracked", lambda *_: pytest.fail("something was done"))
    monkeypatch.setattr(release, "release", functools.partial(release.release, root=small, build=small / "build"))
    before = state(small)
    assert release.main(["99.0.1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("There is no release, and nothing has been changed.\ngalaxy.yml says 99.0.0 in line 3")
    assert state(small) == before


@pytest.mark.parametrize(
    "name",
    [
        "dev/release.py",
        "tests/unit/test_one.py",
        "sandbox/imds.py",
        "molecule/shared/volume.yml",
        "inventories/sandbox/hosts.yml",
        "inventories/ours/hosts.yml",
        "spotcache",
        "galaxy.yml",
        "new_folder/file",
    ],
)
def test_what_users_do_not_need_is_not_in_an_archive(name: str) -> None:
    [sentence] = release.strangers({name: b"", "README.md": b""}, [])
    assert sentence.startswith(f"{name} is in the archive: name it in build_ignore of galaxy.yml")


@pytest.mark.parametrize("pattern", ["docs/draft", "docs/draft/one.md", "**/one.md", "docs/*"])
def test_what_galaxy_yml_leaves_out_is_not_in_an_archive(pattern: str) -> None:
    [sentence] = release.strangers({"docs/draft/one.md": b"", "README.md": b""}, [pattern])
    assert sentence.startswith("docs/draft/one.md is in the archive, and build_ignore")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("inventories/stg/group_vars/all/vault.yml", b"", "its name"),
        ("roles/redis/files/id_ed25519", b"", "its name"),
        ("roles/redis/files/server.key", b"", "its name"),
        ("roles/laravel_env/files/.env", b"", "its name"),
        ("docs/galaxy_token", b"", "its name"),
        ("docs/one.md", b"see\n" + PRIVATE_KEY, "a private key"),
        ("docs/one.md", ACCESS_KEY, "an AWS access key"),
        ("docs/one.md", SLACK, "the address of a Slack webhook"),
        ("docs/one.md", b"$ANSIBLE_VAULT;1.1;AES256\n", "a file of Ansible Vault"),
        ("docs/one.md", b"gh" + b"p_" + b"a1" * 18, "a token of GitHub's"),
        ("docs/one.md", b"xox" + b"b-" + b"0123456789-" * 3, "a token of Slack's"),
    ],
)
def test_what_looks_like_a_secret_is_not_in_an_archive(name: str, content: bytes, what: str) -> None:
    assert release.strangers({name: content}, []) == [
        f"{name} looks like a secret ({what}): take it out, and replace it where it is in use."
    ]


def test_what_only_speaks_of_secrets_may_be_in_an_archive() -> None:
    example = (
        b"AKIA" + b"IOSFODNN7EXAMPLE, -----BEGIN " + b"PRIVATE KEY----- and https://hooks.slack.com/services/T0/B0"
    )
    names = ["inventories/stg/group_vars/all/vault.yml.example", "plugins/modules/secret_file.py", "docs/one.md"]
    assert release.strangers(dict.fromkeys(names, example), []) == []


def test_an_archive_that_says_another_version_is_told() -> None:
    manifest = {"collection_info": {"version": "0.1.0"}}
    assert release.disagreements("0.2.0", manifest, ["0.1.0", "0.1.1"], "spotcache-redis-0.1.2.tar.gz") == [
        "In the archive MANIFEST.json says 0.1.0, not 0.2.0.",
        "In the archive changelogs/changelog.yaml says 0.1.1, not 0.2.0.",
        "In the archive the archive's name says 0.1.2, not 0.2.0.",
    ]


def test_a_module_that_is_not_found_is_told() -> None:
    assert release.missing("module", {"artisan", "lease"}, {"artisan", "more"}) == [
        "The installed collection lacks the module lease, which the sources have."
    ]


def test_notes_are_what_the_changelog_says_of_one_version() -> None:
    text = (
        '# Notes\n\n**Topics**\n\n- <a href="#v0-2-0">v0\\.2\\.0</a>\n\n<a id="v0-2-0"></a>\n## v0\\.2\\.0\n\n'
        '<a id="bugfixes"></a>\n### Bugfixes\n\n* two\n\n<a id="v0-1-0"></a>\n## v0\\.1\\.0\n\n* one\n'
    )
    assert release.notes(text, "0.2.0") == "### Bugfixes\n\n* two\n"
    assert release.notes(text, "0.1.0") == "* one\n"
    with pytest.raises(Failed, match=r"CHANGELOG\.md has nothing about 0\.3\.0"):
        release.notes(text, "0.3.0")


@pytest.fixture
def keyring(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A key of gpg's that has no passphrase; its socket wants a short path."""
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    make = ["gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "release@example.com", "ed25519"]
    subprocess.run(make, check=True, capture_output=True)
    yield "release@example.com"
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], capture_output=True)


def test_the_checksum_is_signed_on_demand(small: Path, quick: dict[str, bytes], keyring: str) -> None:
    said = release.release(release.Wanted(VERSION, sign=keyring), small, small / "build")
    folder = small / "build" / "release" / VERSION
    verify = ["gpg", "--batch", "--verify", "SHA256SUMS.asc", "SHA256SUMS"]
    assert subprocess.run(verify, cwd=folder, capture_output=True).returncode == 0
    assert "SHA256SUMS.asc" in said
    write(folder, "SHA256SUMS", "another\n")
    assert subprocess.run(verify, cwd=folder, capture_output=True).returncode != 0


def test_a_key_that_gpg_does_not_have_is_refused(small: Path, quick: dict[str, bytes], keyring: str) -> None:
    before = state(small)
    with pytest.raises(Failed, match=r"^gpg has no secret key nobody@example\.com: "):
        release.release(release.Wanted(VERSION, sign="nobody@example.com"), small, small / "build")
    assert state(small) == before


def test_the_collection_can_be_released(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The whole of it, with the real tools: what is here, as a version that there is not yet."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in (*release.BELONGS, "galaxy.yml", "sandbox/differences.md", "tests/unit/dev/test_release.py"):
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, target)
    galaxy = yaml.safe_load((root / "galaxy.yml").read_text())
    write(root, "galaxy.yml", yaml.safe_dump({**galaxy, "version": VERSION}, sort_keys=False))
    write(root, "changelogs/fragments/of_the_test.yml", "bugfixes:\n  - release - of the test.\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "one")
    write(root, "inventories/stg/group_vars/all/vault.yml", "not tracked")
    before = state(root)
    said = release.release(release.Wanted(VERSION, check=True), root, root / "build")
    assert state(root) == before
    assert f"{VERSION} can be released; nothing has been changed." in said
    printed = capfd.readouterr().out
    for kind, count in {kind: len(names) for kind, names in release.sources(ROOT).items()}.items():
        assert count > 10
        assert f"Installed by itself, it has {count} of {count}: {kind}\n" in printed


def test_the_workflow_tests_first_builds_from_the_tag_and_has_no_secret_in_a_command_line() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    tests = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]["steps"]
    steps = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert [step.get("run", "") for step in tests] == steps["test"]
    assert jobs["release"]["needs"] == "test"
    assert './spotcache release "${TAG#v}" --tagged' in steps["release"]
    assert "ansible-galaxy collection publish" in steps["release"][-1]
    assert not [line for lines in steps.values() for line in lines if "${{" in line]
