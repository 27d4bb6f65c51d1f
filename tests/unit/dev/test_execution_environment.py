# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment's definition: ansible-builder takes it, and its versions are those that are tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from dev import execution_environment as made
from dev.work import ROOT, Failed

# Debian 13's Python, by whose markers requirements.txt chooses.
PYTHON = {"python_full_version": "3.13.5", "python_version": "3.13"}


def pins() -> dict[str, Version]:
    """What requirements.txt and requirements-dev.txt choose for the image's Python."""
    found = {}
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if re.match(r"[a-z0-9]", line):
                one = Requirement(line.removesuffix("\\").strip())
                if one.marker is None or one.marker.evaluate(PYTHON):
                    found[one.name] = Version(str(one.specifier).removeprefix("=="))
    return found


def test_the_versions_are_those_that_are_tested() -> None:
    needs, chosen = made.definition()["dependencies"], pins()
    named = [needs["ansible_core"]["package_pip"], needs["ansible_runner"]["package_pip"], *needs["python"]]
    for text in named:
        one = Requirement(text)
        assert one.specifier == f"=={chosen[one.name]}", text
    direct = {
        Requirement(line).name for line in (ROOT / "requirements.in").read_text().splitlines() if line[:1].isalpha()
    }
    # Ansible's community package is ansible-core and the collections, which come by themselves; no playbook has tables.
    assert {Requirement(text).name for text in needs["python"]} == direct - {"ansible", "rich"}


def test_ansible_builder_takes_it(tmp_path: Path) -> None:
    made.create(made.SOURCE, tmp_path / "context")
    steps = (tmp_path / "context" / "Dockerfile").read_text()
    assert 'ARG EE_BASE_IMAGE="docker.io/library/debian:13-slim"' in steps
    # Whatever starts in it can be ended, and ansible's processes are waited for.
    assert 'ENTRYPOINT ["/opt/builder/bin/entrypoint", "dumb-init"]' in steps
    assert "openssh-client" in (tmp_path / "context" / "_build" / "bindep.txt").read_text()


def test_ansible_builder_is_asked_in_earnest(tmp_path: Path) -> None:
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump({**made.definition(), "unknown": True}))
    with pytest.raises(Failed, match="unknown"):
        made.create(tmp_path / "wrong.yml", tmp_path / "context")


def test_what_the_tests_build_differs_by_where_packages_come_from_alone() -> None:
    shipped = made.definition()
    ours = made.offline(shipped, Path("/somewhere"))
    assert {name for name in ours if ours[name] != shipped.get(name)} == {
        "additional_build_files",
        "additional_build_steps",
        "dependencies",
    }
    assert {**ours["dependencies"], "galaxy": "collections/requirements.yml"} == shipped["dependencies"]
    first = shipped["additional_build_steps"]["prepend_base"]
    assert ours["additional_build_steps"]["prepend_base"][-len(first) :] == first


def test_the_collections_own_needs_are_met_by_the_versions_that_are_tested() -> None:
    needs = yaml.safe_load((ROOT / "meta" / "execution-environment.yml").read_text())["dependencies"]
    chosen, lines = pins(), (ROOT / needs["python"]).read_text().split()
    assert {Requirement(line).name for line in lines} == {"boto3", "botocore", "cryptography", "redis", "websockets"}
    for one in map(Requirement, lines):
        assert chosen[one.name] in one.specifier
    assert (ROOT / needs["system"]).is_file()
