# SPDX-License-Identifier: GPL-3.0-or-later
"""One list of versions: requirements.txt, collections/requirements.yml and galaxy.yml may not drift apart."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
WANTED = {
    row["name"]: row["version"]
    for row in yaml.safe_load((ROOT / "collections/requirements.yml").read_text())["collections"]
}
PINS = [
    Requirement(line)
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]


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


@pytest.mark.parametrize("pin", PINS, ids=str)
def test_every_requirement_is_pinned_exactly(pin: Requirement) -> None:
    specifiers = list(pin.specifier)
    assert [one.operator for one in specifiers] == ["=="]
    assert "*" not in specifiers[0].version


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_each_python_gets_exactly_one_ansible(version: str) -> None:
    ansible = [pin for pin in PINS if pin.name == "ansible"]
    fitting = [pin for pin in ansible if pin.marker is None or pin.marker.evaluate({"python_version": version})]
    assert len(fitting) == 1


@pytest.mark.parametrize("pin", [pin for pin in PINS if pin.marker is None or pin.marker.evaluate()], ids=str)
def test_what_is_installed_is_what_is_pinned(pin: Requirement) -> None:
    assert Version(importlib.metadata.version(pin.name)) in pin.specifier
