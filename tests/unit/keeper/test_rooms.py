# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's rooms: each knows only those below it."""

from __future__ import annotations

import ast
from pathlib import Path

from dev.work import ROOT

KEEPER = ROOT / "roles" / "keeper" / "files" / "spotcache_keeper"
# From the ground up. A module that stands alone is a room of its own.
FLOORS = (
    {"errors", "interruption"},
    {"system"},
    {"aws"},
    {"server", "lease", "config"},
    {"stores", "outside"},
    {"context"},
    {"backup"},
    {"node"},
    {"overview"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """`spotcache_keeper.aws.imds` is in `aws`."""
    return module.split(".")[1]


def is_module(name: str) -> bool:
    """Whether a name is a module's, and not that of something in one."""
    return KEEPER.parent.joinpath(*name.split(".")).with_suffix(".py").is_file()


def arrows() -> set[tuple[str, str]]:
    """From which module to which the keeper's imports go."""
    found = set()
    for path in KEEPER.rglob("*.py"):
        own = ".".join(("spotcache_keeper", *path.relative_to(KEEPER).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spotcache_keeper"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                exact = [
                    name for name in names if (KEEPER.parent / Path(*name.split("."))).with_suffix(".py").is_file()
                ]
                found |= {(own, target) for target in exact or [node.module or ""]}
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in KEEPER.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set(FLOOR)


def test_no_arrow_leads_up_and_none_across() -> None:
    up = [
        f"{source} -> {target}"
        for source, target in sorted(arrows())
        if "." in target and room_of(source) != room_of(target) and FLOOR[room_of(target)] >= FLOOR[room_of(source)]
    ]
    assert up == []


def test_no_circle_within_a_room() -> None:
    inside: dict[str, set[str]] = {}
    for source, target in arrows():
        inside.setdefault(source, set()).add(target)
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way, module))}"
        if module not in done:
            for target in sorted(inside.get(module, ())):
                visit(target, (*way, module))
            done.add(module)

    for module in sorted(inside):
        visit(module, ())


def test_no_room_is_crowded() -> None:
    crowded = {
        folder.name: count for folder in [KEEPER, *KEEPER.iterdir()] if (count := len(list(folder.glob("*.py")))) > 10
    }
    assert crowded == {}
