# SPDX-License-Identifier: GPL-3.0-or-later
"""The generated pages."""

from __future__ import annotations

from pathlib import Path

from dev import reference

SPECS = {
    "main": {
        "short_description": "One thing",
        "description": ["First.", "Second."],
        "options": {
            "thing_kind": {"type": "str", "default": "a", "choices": ["a", "b"], "description": "Which | kind."},
            "thing_list": {"type": "list", "elements": "dict", "required": True, "options": {"name": {"type": "str"}}},
            "thing_none": {"type": "bool", "default": False},
        },
    }
}


def test_a_roles_page_shows_every_option() -> None:
    page = reference.role_page("thing", SPECS, "roles/thing/meta/argument_specs.yml")
    assert "| `thing_kind` | str | `a` | Which \\| kind.<br>One of `a`, `b`. |" in page
    assert "| `thing_list` | list of dict | **required** |  |" in page
    assert "| `thing_list.name` | str |  |  |" in page
    assert "| `thing_none` | bool | `false` |  |" in page
    assert "First.\n\nSecond." in page


def test_a_plugins_page_is_read_without_running_it(tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "modules"
    folder.mkdir(parents=True)
    (folder / "thing.py").write_text(
        'raise SystemExit("never run")\n'
        'DOCUMENTATION = """\nshort_description: A thing\noptions:\n'
        '  name: {type: str, required: true, description: Its name.}\n"""\n'
        'EXAMPLES = """\n- spotcache.redis.thing:\n    name: x\n"""\n'
        'RETURN = """\nid: {type: str, returned: always, description: Its id.}\n"""\n'
    )
    page = reference.plugin_pages(tmp_path)["module-thing.md"]
    assert "# Module spotcache.redis.thing" in page
    assert "| `name` | str | **required** | Its name. |" in page
    assert "| `id` | str | always | Its id. |" in page
    assert "- spotcache.redis.thing:" in page


def test_drift_names_what_is_stale_missing_and_too_many(tmp_path: Path) -> None:
    for name, text in {"same.md": "1", "stale.md": "old", "too-many.md": "x"}.items():
        (tmp_path / name).write_text(text)
    assert reference.drift({"same.md": "1", "stale.md": "new", "missing.md": "x"}, tmp_path) == [
        "missing.md",
        "stale.md",
        "too-many.md",
    ]


def test_a_plugins_page_has_the_options_of_fragments_and_its_own_words_for_them(tmp_path: Path) -> None:
    (tmp_path / "plugins" / "modules").mkdir(parents=True)
    (tmp_path / "plugins" / "doc_fragments").mkdir()
    (tmp_path / "plugins" / "doc_fragments" / "place.py").write_text(
        'class ModuleDocFragment:\n    PARTS = """\noptions:\n'
        "  room: {type: str, required: true, description: Any room.}\n"
        '  floor: {type: int, default: 0, description: Which floor.}\n"""\n'
    )
    (tmp_path / "plugins" / "modules" / "thing.py").write_text(
        'DOCUMENTATION = """\nextends_documentation_fragment: [amazon.aws.boto3, spotcache.redis.place.parts]\n'
        'options:\n  room: {description: The thing\'s room.}\n  name: {type: str, description: Its name.}\n"""\n'
    )
    page = reference.plugin_pages(tmp_path)["module-thing.md"]
    assert "| `room` | str | **required** | The thing's room. |" in page
    assert "| `floor` | int | `0` | Which floor. |" in page
    assert "| `name` | str |  | Its name. |" in page
