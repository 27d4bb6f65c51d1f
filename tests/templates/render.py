"""A role's templates rendered as Ansible does, without a host: the role's defaults, its vars, facts and a scenario."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]

# What a host of the type t3.small says of itself.
FACTS: dict[str, Any] = {
    "memtotal_mb": 1906,
    "distribution": "Debian",
    "distribution_release": "bookworm",
    "distribution_major_version": "12",
    "default_ipv4": {"address": "10.20.0.5"},
}


def templar(role: str, scenario: Mapping[str, Any], facts: Mapping[str, Any] = FACTS) -> Templar:
    """A templar that knows what the role knows when its templates are rendered."""
    loader = DataLoader()
    directory = ROOT / "roles" / role
    loader.set_basedir(str(directory))
    variables: dict[str, Any] = {}
    for name in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(directory / name), trusted_as_template=True)
        if name.startswith("defaults"):
            variables |= scenario
    variables |= {"ansible_facts": dict(facts), "role_path": str(directory)}
    # Where the lookups of a role look for its files.
    variables["ansible_search_path"] = [str(directory)]
    return Templar(loader=loader, variables=variables)


def render(role: str, template: str, scenario: Mapping[str, Any], facts: Mapping[str, Any] = FACTS) -> str:
    """The text of a role's template. What is undefined is an error."""
    expression = "{{ lookup('ansible.builtin.template', name) }}"
    made = templar(role, scenario, facts)
    made.available_variables = {**made.available_variables, "name": template}
    return str(made.template(trust_as_template(expression)))


def value(role: str, name: str, scenario: Mapping[str, Any], facts: Mapping[str, Any] = FACTS) -> Any:
    """The value of one of a role's variables."""
    return templar(role, scenario, facts).template(trust_as_template("{{ " + name + " }}"))
