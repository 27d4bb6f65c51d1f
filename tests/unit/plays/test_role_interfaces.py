"""Every role's declared interface: defaults, argument_specs and comments say the same."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if (path / "tasks/main.yml").is_file())
# Names that tell of a secret; those that only say where one is, or how to treat one, do not.
SECRET = re.compile(
    r"(password|secret|token|private_key|passphrase|api_key|webhook)(s?$|_(?!file|path|name|arn|id|logging|parameter))"
)
NO_SECRETS = {"redis_secure_logging"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def defaults(role: Path) -> dict[str, Any]:
    return read(role / "defaults/main.yml") or {}


def entry_points(role: Path) -> dict[str, dict[str, Any]]:
    specs = read(role / "meta/argument_specs.yml")
    assert specs, f"{role.name} has no meta/argument_specs.yml"
    found: dict[str, dict[str, Any]] = specs["argument_specs"]
    return found


def options(role: Path) -> dict[str, dict[str, Any]]:
    """The options of all entry points by name."""
    return {
        name: option for spec in entry_points(role).values() for name, option in (spec.get("options") or {}).items()
    }


def is_expression(value: Any) -> bool:
    """Whether a default is made of other variables."""
    return "{{" in str(value)


def parametrize(function: Any) -> Any:
    return pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)(function)


def test_there_are_roles() -> None:
    assert {"docker", "redis"} <= {role.name for role in ROLES}


@parametrize
def test_every_entry_point_is_a_task_file(role: Path) -> None:
    # Ansible checks no argument of an entry point whose name it does not find.
    assert [entry for entry in entry_points(role) if not (role / "tasks" / f"{entry}.yml").is_file()] == []


@parametrize
def test_defaults_and_options_are_the_same_variables(role: Path) -> None:
    required = {name for name, option in options(role).items() if option.get("required")}
    given = defaults(role)
    # What must be given may be empty, so that the role says what is missing, or taken from another variable.
    assert [name for name in required & set(given) if given[name] and not is_expression(given[name])] == []
    assert set(given) - required == set(options(role)) - required


@parametrize
def test_default_values_are_the_same(role: Path) -> None:
    given = defaults(role)
    differing = {
        f"{entry}: {name}": (given.get(name), option.get("default"))
        for entry, spec in entry_points(role).items()
        for name, option in (spec.get("options") or {}).items()
        if given.get(name) != option.get("default")
        # What is derived from other variables is told in the description.
        and not (is_expression(given.get(name)) and "default" not in option)
        and not option.get("required")
    }
    assert differing == {}


@parametrize
def test_every_option_has_a_type_and_a_description(role: Path) -> None:
    assert [
        name for name, option in options(role).items() if not (option.get("type") and option.get("description"))
    ] == []
    for entry, spec in entry_points(role).items():
        assert spec.get("short_description"), f"{role.name}: entry point {entry} has no short_description"


def as_list(value: Any) -> list[Any]:
    """A list's items are each one of the choices."""
    return value if isinstance(value, list) else [value]


@parametrize
def test_defaults_are_among_the_choices(role: Path) -> None:
    wrong = [
        name
        for name, option in options(role).items()
        if option.get("choices")
        and "default" in option
        and not is_expression(option["default"])
        and not set(as_list(option["default"])) <= set(option["choices"])
    ]
    assert wrong == []


@parametrize
def test_defaults_have_a_comment_above_them(role: Path) -> None:
    path = role / "defaults/main.yml"
    paragraphs = path.read_text(encoding="utf-8").removeprefix("---\n").split("\n\n") if path.is_file() else []
    assert [text.split(":")[0] for text in paragraphs if text.strip() and not text.lstrip().startswith("#")] == []


@parametrize
def test_public_names_begin_with_the_role(role: Path) -> None:
    shared = {"spotcache_environment", "spotcache_region", "spotcache_bucket", "spotcache_aws_environment"}
    wrong = [name for name in options(role) if not re.match(rf"{role.name}_[a-z]", name) and name not in shared]
    assert wrong == []


@parametrize
def test_secrets_are_declared_as_such(role: Path) -> None:
    def undeclared(found: dict[str, dict[str, Any]]) -> list[str]:
        names = [
            name
            for name, option in found.items()
            if SECRET.search(name) and option.get("type") != "bool" and not option.get("no_log")
        ]
        return names + [name for option in found.values() for name in undeclared(option.get("options") or {})]

    assert [name for name in undeclared(options(role)) if name not in NO_SECRETS] == []


@parametrize
def test_a_role_has_its_papers(role: Path) -> None:
    assert (role / "README.md").is_file()
    info = read(role / "meta/main.yml")["galaxy_info"]
    assert info["license"] == "GPL-3.0-or-later"
    assert info["min_ansible_version"] == "2.19"


@parametrize
def test_a_role_includes_no_other_role(role: Path) -> None:
    for path in (role / "tasks").glob("*.yml"):
        assert not re.search(r"(include|import)_role:", path.read_text(encoding="utf-8")), f"{path} includes a role"


@parametrize
def test_a_task_file_is_short_and_says_what_it_does(role: Path) -> None:
    for path in sorted((role / "tasks").glob("*.yml")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 90, f"{path} is too long for one verb"


@parametrize
def test_no_default_writes_where_the_run_was_started_or_the_collection_lies(role: Path) -> None:
    text = (role / "defaults/main.yml").read_text() if defaults(role) else ""
    assert re.findall(r"^\w+: .*(?:'PWD'|playbook_dir|role_path).*$", text, re.M) == []
