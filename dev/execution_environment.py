# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment of execution-environment.yml as an image of this machine, without a registry.

It is what ansible-builder makes of that file, on a Debian that mmdebstrap has made (sandbox/image.py) in the place of
Debian's own image, with Python packages that pip has fetched here before and the collections of this environment, since
Galaxy may not be reached. The tag is a hash of all that goes in, so that a second time costs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import yaml

from dev.work import ROOT, Failed, tool
from sandbox import image

SOURCE = ROOT / "execution-environment.yml"
CACHE = ROOT / ".cache" / "execution-environment"
REPOSITORY = "spotcache-execution-environment"
# Python of Debian 13, which the base is.
RELEASE, PYTHON = "13", "313"
# What ansible-builder installs besides: in a stage of its own, and last of all.
BUILDER = ("bindep", "pyyaml", "packaging", "setuptools", "wheel", "dumb-init==1.2.5")
GLIBC = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_5", "manylinux1")


def definition(path: Path = SOURCE) -> dict[str, Any]:
    """The shipped definition."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def packages(shipped: Mapping[str, Any]) -> list[str]:
    """The Python packages that an image needs, as pip names them."""
    needs = shipped["dependencies"]
    return [needs["ansible_core"]["package_pip"], needs["ansible_runner"]["package_pip"], *needs["python"], *BUILDER]


def fetch(shipped: Mapping[str, Any], folder: Path) -> None:
    """Fetch the packages with all that they need, for the image's Python. Raises Failed."""
    machine = platform.machine()
    platforms = [word for name in GLIBC for word in ("--platform", f"{name}_{machine}")]
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", PYTHON, "--abi", f"cp{PYTHON}", "--abi", "abi3", "--abi", "none", *platforms]
    done = subprocess.run(
        [*command, "--platform", "any", "-d", str(folder), *packages(shipped)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise Failed(f"pip could not fetch what the execution environment needs:\n{done.stderr[-3000:]}")


def gather(folder: Path) -> None:
    """Copy the collections of collections/requirements.yml from where this Python has them, in Ansible's layout."""
    spec = importlib.util.find_spec("ansible")
    assert spec is not None
    assert spec.origin is not None
    for row in yaml.safe_load((ROOT / "collections" / "requirements.yml").read_text())["collections"]:
        name = Path(*row["name"].split("."))
        left_out = shutil.ignore_patterns("tests", "docs", "__pycache__")
        shutil.copytree(Path(spec.origin).parents[1] / "ansible_collections" / name, folder / name, ignore=left_out)


def offline(shipped: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The definition with packages and collections of a folder brought along; nothing else of it is changed."""
    steps = dict(shipped["additional_build_steps"])
    first = ["COPY _build/wheels /opt/wheels", "ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/wheels"]
    last = ["COPY _build/collections /usr/share/ansible/collections/ansible_collections"]
    return {
        **shipped,
        "dependencies": {name: value for name, value in shipped["dependencies"].items() if name != "galaxy"},
        "additional_build_files": [{"src": str(folder / name), "dest": name} for name in ("wheels", "collections")],
        "additional_build_steps": {**steps, "prepend_base": [*first, *steps["prepend_base"]], "append_final": last},
    }


def create(source: Path, context: Path) -> None:
    """Have ansible-builder write what an image is built from. Raises Failed."""
    done = subprocess.run(
        [tool("ansible-builder"), "create", "-f", str(source), "-c", str(context), "--output-filename", "Dockerfile"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise Failed(f"ansible-builder create -f {source} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One at a time on this machine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure() -> str:
    """The tag of the image, which is built when this machine does not have it. Raises Failed, ImageError."""
    shipped, base = definition(), image.ensure("debian", release=RELEASE)
    tag = f"{REPOSITORY}:{image.digest(SOURCE.read_bytes(), Path(__file__).read_bytes(), base)}"
    client = docker.from_env(timeout=600)
    with alone():
        if image.exists(client, tag):
            return tag
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            folder = Path(made)
            (folder / "wheels").mkdir()
            fetch(shipped, folder / "wheels")
            gather(folder / "collections")
            (folder / "definition.yml").write_text(yaml.safe_dump(offline(shipped, folder), sort_keys=False))
            create(folder / "definition.yml", folder / "context")
            build(folder / "context", tag, base)
            shutil.rmtree(folder / "context")
    return tag


def build(context: Path, tag: str, base: str) -> None:
    """Build the image, with the network of this machine for Debian's packages. Raises Failed."""
    command = [
        "docker",
        "build",
        "-q",
        "--network",
        "host",
        "--build-arg",
        f"EE_BASE_IMAGE={base}",
        "-t",
        tag,
        str(context),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        # Without buildx, which Debian packs apart.
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    if done.returncode:
        raise Failed(f"the execution environment could not be built:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


if __name__ == "__main__":
    print(ensure())
