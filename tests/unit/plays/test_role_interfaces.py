"""Every role's declared interface: defaults, argument_specs and comments say the same."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.utils.display import Display

ROOT = Path(__file__).resolve().parents[3]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if (path / "tasks/main.yml").is_file())
# Names that tell of a secret; those that only say where one is, or how to treat one, do not.
SECRET = re.compile(
    r"(password|secret|token|private_key|passphrase|api_key|webhook)(s?$|_(?!file|path|name|arn|id|logging|parameter))"
)
# `secrets` names them and holds none.
NO_SECRETS = {"redis_secure_logging", "secrets"}


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


@parametrize
def test_an_entry_point_is_a_file_of_tasks(role: Path) -> None:
    assert [name for name in entry_points(role) if not (role / "tasks" / f"{name}.yml").is_file()] == []


# What crosses roles.

PLAYBOOKS = ROOT / "playbooks"
NAMES = "|".join(role.name for role in ROLES)


def texts(*folders: Path) -> Iterator[tuple[Path, str]]:
    """What Ansible reads below some folders; programs that hosts run are none of it."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".yml", ".j2", ".example"} and "files" not in path.relative_to(folder).parts:
                yield path, path.read_text(encoding="utf-8")


def trespasses(owner: str, text: str) -> list[str]:
    """The internals of other roles that a text reads: their variables with two underscores, and their files."""
    variables = re.findall(rf"\b({NAMES})(__\w+)", text)
    paths = re.findall(rf"(?:\broles|role_path[^\n]*?\.\.)(/)({NAMES})\b", text)
    climbs = re.findall(r"(?:role_path|playbook_dir)[^\n]*?/\.\./roles\S*", text)
    found = [f"{role}{rest}" for role, rest in variables if role != owner]
    return found + [f"roles/{role}" for _, role in paths if role != owner] + climbs


@parametrize
def test_a_role_keeps_out_of_the_others_internals(role: Path) -> None:
    found = {str(path.relative_to(ROOT)): trespasses(role.name, text) for path, text in texts(role)}
    assert {name: what for name, what in found.items() if what} == {}


def test_playbooks_and_inventories_keep_out_of_roles_internals() -> None:
    found = {
        str(path.relative_to(ROOT)): trespasses("", text)
        for path, text in texts(PLAYBOOKS, *(ROOT / "inventories").iterdir())
    }
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x: '{{ redis__uid }}'", ["redis__uid"]),
        ("x: '{{ keeper__program }}'", []),
        ("x: \"{{ lookup('ansible.builtin.file', role_path ~ '/../redis/defaults/main.yml') }}\"", ["roles/redis"]),
        ("x: \"{{ lookup('ansible.builtin.file', role_path ~ '/../keeper/defaults/main.yml') }}\"", []),
        ("x: \"{{ playbook_dir ~ '/../roles/' ~ name }}\"", ["playbook_dir ~ '/../roles/'"]),
        ('x: "{{ role_path }}/../../plugins/module_utils/fleet.py"', []),
    ],
)
def test_a_look_into_another_roles_internals_is_seen(text: str, what: list[str]) -> None:
    assert trespasses("keeper", text) == what


def test_a_default_that_a_playbook_knows_is_the_roles_own() -> None:
    known = {name: value for role in ROLES for name, value in defaults(role).items() if not is_expression(value)}
    said = re.compile(rf"\b((?:{NAMES})_\w+) \| default\(('[^']*'|true|false|[\d.]+|\[\])\)")
    found = [
        (path, name, yaml.safe_load(value))
        for path, text in texts(PLAYBOOKS)
        for name, value in said.findall(text)
        if name in known
    ]
    assert len(found) > 10
    assert [(str(path), name) for path, name, value in found if value != known[name]] == []


def test_what_an_environment_has_is_by_default_what_its_role_has() -> None:
    common, given = (read(PLAYBOOKS / "vars" / f"{name}.yml") for name in ("common", "roles"))
    known = {name: value for role in ROLES for name, value in defaults(role).items()}
    said = re.compile(r"\b(spotcache_[a-z]\w*) \| default\(([^)]*)\)")
    for toggle, taken in common["spotcache__toggles"].items():
        (decided,) = re.findall(r"^{{ (spotcache__\w+) }}$", given[taken])
        assert [(name, yaml.safe_load(value)) for name, value in said.findall(common[decided])] == [
            (toggle, known[taken])
        ]
        # Nobody reads the role's name for it but the role.
        assert [str(path) for path, text in texts(PLAYBOOKS) if re.search(rf"\b{taken}\b", text)] == [
            str(PLAYBOOKS / "vars" / "common.yml"),
            str(PLAYBOOKS / "vars" / "roles.yml"),
        ]


def test_what_roles_are_given_is_said_once() -> None:
    given = read(PLAYBOOKS / "vars" / "roles.yml")
    options_of = {name: role.name for role in ROLES for name in options(role)}
    assert [name for name in given if name not in options_of and not name.startswith("spotcache__")] == []
    again = {
        f"{path.relative_to(PLAYBOOKS)}: {name}"
        for path, text in texts(PLAYBOOKS)
        for name in re.findall(r"^ +(\w+):", text, re.M)
        if name in given
    }
    # Before anybody knows where Redis is, what else is said of the applications can be checked. What is removed is more
    # than what there is by today's inventory.
    assert again == {"tasks/ec2/absent.yml: keeper_fetched", "tasks/laravel_env_inputs.yml: laravel_env_redis_host"}
    # What every role is given by the same name.
    about = re.compile(rf"(?:{NAMES})_(?:environment|region|bucket|bucket_prefix)")
    missing = [name for name in options_of if about.fullmatch(name) and name not in given]
    assert missing == []


def test_ansible_has_nothing_to_warn_of_in_what_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    # A merged mapping whose keys are said once more, for one: each run would show that to its user.
    found: list[str] = []
    monkeypatch.setattr(Display, "_warning", lambda _self, warning, **_more: found.append(str(warning)))
    folders = ("roles", "playbooks", "inventories", "molecule")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.yml") if "files" not in path.parts]
    for path in files:
        DataLoader().load_from_file(str(path))
    assert len(files) > 100
    assert found == []


def test_a_playbook_that_gives_up_does_so_in_one_place() -> None:
    including = {
        name: sorted(
            str(path.relative_to(PLAYBOOKS))
            for path, text in texts(PLAYBOOKS)
            if re.search(rf"(?:include|import)_tasks:(?:\n +file:)? (?:tasks/)?{name}\.yml", text)
        )
        for name in ("give_up", "lease", "release")
    }
    assert including["give_up"] == ["tasks/held.yml"]
    assert including["lease"] == [
        "tasks/cloud.yml",
        "tasks/destroy_ready.yml",
        "tasks/drill.yml",
        "tasks/restore_ready.yml",
    ]
    assert including["release"] == ["_clients.yml", "tasks/destroy.yml", "tasks/drill.yml", "tasks/give_up.yml"]
    # From the first play that holds the lease to the one that releases it, whatever runs can give it back.
    plays = {name: read(PLAYBOOKS / name) for name in ("_host.yml", "_next_host.yml", "_clients.yml", "restore.yml")}
    bare = [
        f"{name}: {task['name']}"
        for name, listed in plays.items()
        for play in listed
        for task in play.get("tasks") or []
        if "list" not in play.get("tags", []) and task.get("ansible.builtin.include_tasks") != "tasks/held.yml"
    ]
    assert bare == [
        "_host.yml: Check what can be known beforehand",
        "_clients.yml: Release the lease",
        "_clients.yml: Show what there is now",
    ]
