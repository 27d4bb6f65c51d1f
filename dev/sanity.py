# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as its reviewers look at it, by the tools that they use, on what its archive holds.

    python -m dev.sanity sanity        ansible-test sanity, of the ansible-core that is installed here
    python -m dev.sanity docs          antsibull-docs: whether the documentation of plugins and roles can be rendered
    python -m dev.sanity changelog     antsibull-changelog: the fragments, and whether CHANGELOG.md says what they say

Each works on a copy of its own, outside of any repository. There are no lists of findings to ignore.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from dev.work import ROOT, Failed, tool

# Where ansible-test keeps what it installs for its tests, which is not to lie about in anybody's home.
HOME = ROOT / ".cache" / "ansible-test"
COLLECTION = Path("ansible_collections", "spotcache", "redis")
# ansible-test fetches pip's installer from a place of its own, where Python has one with it.
BOOTSTRAP = "import ensurepip\n\nensurepip.bootstrap()\n"


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program that is to have nothing of the checkout in its settings."""
    kept = {name: value for name, value in os.environ.items() if name not in ("ANSIBLE_CONFIG", "PYTHONPATH")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {**kept, "PATH": path, **(more or {})}


def run(command: Sequence[str], folder: Path, more: Mapping[str, str] | None = None) -> int:
    """Run a program there, with nothing of the checkout in its settings; its exit code."""
    return subprocess.run(command, cwd=folder, env=environment(more), stdin=subprocess.DEVNULL).returncode


def built(source: Path, into: Path) -> Path:
    """Build the collection's archive from its sources."""
    if run([tool("ansible-galaxy"), "collection", "build", "--output-path", str(into), str(source)], into):
        raise Failed("The collection cannot be built: the lines above say why.")
    return next(into.glob("*.tar.gz"))


def dependencies() -> Path:
    """The namespaces of the collections that this Python environment has."""
    found = importlib.util.find_spec("ansible_collections")
    places = list(found.submodule_search_locations or []) if found else []
    return next(Path(place) for place in places if (Path(place) / "amazon").is_dir())


@contextlib.contextmanager
def installed() -> Iterator[Path]:
    """The collection as its archive has it, where it would be installed, with what it depends on beside it."""
    with tempfile.TemporaryDirectory(prefix="spotcache-sanity-") as name:
        root = Path(name)
        try:
            archive = built(ROOT, root)
        except Failed as failed:
            raise SystemExit(str(failed)) from failed
        place = root / COLLECTION
        place.mkdir(parents=True)
        # Our own archive. Python's own unpacking has another signature on Debian 12 than later.
        if run(["tar", "--extract", "--file", str(archive), "--directory", str(place)], root):
            raise SystemExit("The collection's archive cannot be unpacked: the lines above say why.")
        for namespace in dependencies().iterdir():
            if namespace.name in ("amazon", "ansible", "community"):
                (root / "ansible_collections" / namespace.name).symlink_to(namespace)
        yield place


def bootstrap_name(source: str) -> str:
    """The file that ansible-test takes for pip's installer when it is there, from its source.

    Raises:
        ValueError: the source does not say which pip it wants.
    """
    wanted = re.search(r"\bpip='([0-9.]+)'", source)
    if wanted is None:
        raise ValueError("ansible-test no longer says which pip it installs: see its python_requirements.py.")
    return f"get_pip_{wanted[1].replace('.', '_')}.py"


def sanity(place: Path) -> int:
    """ansible-test's sanity tests, all that run without a container."""
    spec = importlib.util.find_spec("ansible_test")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    requirements = Path(spec.submodule_search_locations[0]) / "_internal" / "python_requirements.py"
    cache = HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / bootstrap_name(requirements.read_text())).write_text(BOOTSTRAP)
    # Which package index there is stands in the settings of pip's user.
    settings = os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))
    command = [tool("ansible-test"), "sanity", "--color", "no", "--python", f"3.{sys.version_info.minor}"]
    return run(command, place, {"HOME": str(HOME), "XDG_CONFIG_HOME": settings})


def docs(place: Path) -> int:
    """antsibull-docs, references to other collections included."""
    # What a repository does not track is left out when it is copied, and .venv is below ours.
    above = os.pathsep.join(str(folder) for folder in dependencies().resolve().parents[1:-1])
    lint = [tool("antsibull-docs"), "lint-collection-docs", "--plugin-docs"]
    references = ["--validate-collection-refs", "dependent", "--disallow-unknown-collection-refs"]
    return run([*lint, *references, str(place)], place, {"GIT_CEILING_DIRECTORIES": above})


def changelog(place: Path) -> int:
    """The fragments; and CHANGELOG.md written anew from changelog.yaml is the one that there is."""
    # In an archive MANIFEST.json takes its place, which antsibull-changelog does not read.
    shutil.copy(ROOT / "galaxy.yml", place)
    if run([tool("antsibull-changelog"), "lint"], place):
        return 1
    before = (place / "CHANGELOG.md").read_text()
    if run([tool("antsibull-changelog"), "generate"], place):
        return 1
    if (place / "CHANGELOG.md").read_text() != before:
        print("CHANGELOG.md is not what changelogs/changelog.yaml says: antsibull-changelog generate writes it.")
        return 1
    return 0


CHECKS: dict[str, Callable[[Path], int]] = {"sanity": sanity, "docs": docs, "changelog": changelog}


def main(arguments: Sequence[str]) -> int:
    """Run the checks that are named, or all."""
    unknown = [name for name in arguments if name not in CHECKS]
    if unknown:
        print(f"There is no check {unknown[0]}: the checks are {', '.join(CHECKS)}.", file=sys.stderr)
        return 2
    code = 0
    for name in arguments or CHECKS:
        with installed() as place:
            code = max(code, CHECKS[name](place))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
