# SPDX-License-Identifier: GPL-3.0-or-later
"""One list of versions: what is chosen, what is written from it, and the collections' ranges may not drift apart."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
WANTED = {
    row["name"]: row["version"]
    for row in yaml.safe_load((ROOT / "collections/requirements.yml").read_text())["collections"]
}


def pins_of(name: str) -> list[Requirement]:
    """The requirements in one of the files, without comments, hashes and references to other files."""
    lines = (ROOT / name).read_text().splitlines()
    named = [line.removesuffix("\\").strip() for line in lines if line[:1].isalnum()]
    return [Requirement(line) for line in named]


# What is chosen, and what uv has written from it, with all that these need in their turn.
CHOSEN = {"requirements.txt": pins_of("requirements.in")}
CHOSEN["requirements-dev.txt"] = CHOSEN["requirements.txt"] + pins_of("requirements-dev.in")
WRITTEN = {name: pins_of(name) for name in CHOSEN}
PINS = WRITTEN["requirements-dev.txt"]


def installed_collection(name: str) -> Version:
    """The version that Ansible's community package brings."""
    spec = importlib.util.find_spec("ansible")
    assert spec is not None
    assert spec.origin is not None
    manifest = Path(spec.origin).parents[1] / "ansible_collections" / Path(*name.split(".")) / "MANIFEST.json"
    return Version(json.loads(manifest.read_text())["collection_info"]["version"])


@pytest.mark.parametrize("name", sorted(WANTED))
def test_installed_ansible_brings_the_collections_in_the_named_range(name: str) -> None:
    assert installed_collection(name) in SpecifierSet(WANTED[name])


def test_the_installed_collection_asks_for_the_same_ranges_as_the_checkout() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert galaxy["dependencies"] == WANTED


def test_every_module_that_is_called_belongs_to_a_named_collection() -> None:
    called = set()
    for folder in ("roles", "playbooks", "molecule"):
        for source in (ROOT / folder).rglob("*.yml"):
            called |= set(
                re.findall(r"\b((?:amazon|community|ansible)\.[a-z]+)\.[a-z0-9_]+:\s*(?:\n|$)", source.read_text())
            )
    assert called - {"ansible.builtin"} <= WANTED.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_every_requirement_is_pinned_exactly_and_has_a_hash(name: str) -> None:
    for pin in WRITTEN[name]:
        assert [one.operator for one in pin.specifier] == ["=="], pin
        assert "*" not in next(iter(pin.specifier)).version, pin
    entries = re.split(r"^(?=\w)", (ROOT / name).read_text(), flags=re.M)
    assert [entry.split()[0] for entry in entries if entry and "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_what_was_chosen(name: str) -> None:
    written = {(canonicalize_name(pin.name), str(pin.specifier)) for pin in WRITTEN[name]}
    assert {(canonicalize_name(pin.name), str(pin.specifier)) for pin in CHOSEN[name]} - written == set()
    assert ("-r requirements.in" in (ROOT / name.replace(".txt", ".in")).read_text()) is ("dev" in name)


def test_tests_run_with_what_users_run_with() -> None:
    run, tested = ({(pin.name, str(pin.specifier)) for pin in pins} for pins in (WRITTEN["requirements.txt"], PINS))
    assert run <= tested


def imported(path: Path) -> set[str]:
    """The top names of all modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_what_runs_imports_nothing_that_only_tests_have() -> None:
    files = [path for folder in ("plugins", "roles") for path in (ROOT / folder).rglob("*.py")]
    own = {path.name for path in (ROOT / "roles").glob("*/files/*") if path.is_dir()} | {"ansible_collections"}
    foreign = set().union(*(imported(path) for path in files)) - set(sys.stdlib_module_names) - own
    assert foreign == {"ansible", "boto3", "botocore", "cryptography", "redis", "rich", "websockets"}
    assert foreign <= {pin.name for pin in WRITTEN["requirements.txt"]}


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_each_python_gets_exactly_one_ansible(version: str) -> None:
    python = {"python_version": version, "python_full_version": f"{version}.0"}
    ansible = [pin for pin in PINS if pin.name == "ansible"]
    fitting = [pin for pin in ansible if pin.marker is None or pin.marker.evaluate(python)]
    assert len(fitting) == 1


@pytest.mark.parametrize("pin", [pin for pin in PINS if pin.marker is None or pin.marker.evaluate()], ids=str)
def test_what_is_installed_is_what_is_pinned(pin: Requirement) -> None:
    assert Version(importlib.metadata.version(pin.name)) in pin.specifier


def test_every_module_that_takes_a_region_is_in_the_group_for_module_defaults() -> None:
    groups = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["action_groups"]
    documented = {path.stem: path.read_text() for path in (ROOT / "plugins/modules").glob("*.py")}
    taking = {name for name, text in documented.items() if "amazon.aws.region.modules" in text}
    assert set(groups["aws"]) == taking
