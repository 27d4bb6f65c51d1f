# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/reference/: the options of every role and plugin, from meta/argument_specs.yml and the plugins' documentation.

Without an argument it writes the pages; with --check it says which of them are not what it would write.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dev.work import ROOT

PAGES = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `./spotcache docs` from {source}; change it there. -->"
# What the names of this collection begin with.
OWN = "spotcache.redis."
KINDS = {
    "modules": "module",
    "action": "action",
    "filter": "filter",
    "lookup": "lookup",
    "inventory": "inventory",
    "callback": "callback",
}


def paragraphs(text: object) -> str:
    """A description as Markdown; Ansible allows one string or a list of paragraphs."""
    parts = text if isinstance(text, list) else [text] if text else []
    return "\n\n".join(" ".join(str(part).split()) for part in parts)


def cell(text: object) -> str:
    """Text that is safe inside a table's cell."""
    return paragraphs(text).replace("\n\n", "<br>").replace("|", "\\|")


def literal(value: object) -> str:
    """A default or a choice as a person would write it in YAML, on one line."""
    dumped = (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
        .strip()
        .removesuffix("\n...")
        .strip()
    )
    return f"`{dumped}`".replace("|", "\\|")


def option_rows(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One row for each option, those inside a dictionary below it."""
    rows = []
    for name, spec in options.items():
        kind = spec.get("type", "str") + (f" of {spec['elements']}" if spec.get("elements") else "")
        default = "**required**" if spec.get("required") else literal(spec["default"]) if "default" in spec else ""
        text = cell(spec.get("description"))
        if spec.get("choices"):
            text += (
                ("<br>" if text else "") + "One of " + ", ".join(literal(choice) for choice in spec["choices"]) + "."
            )
        rows.append(f"| `{prefix}{name}` | {kind} | {default} | {text} |")
        rows += option_rows(spec.get("options") or spec.get("suboptions") or {}, f"{prefix}{name}.")
    return rows


def option_table(options: Mapping[str, Any]) -> str:
    """A table of options."""
    if not options:
        return "No options.\n"
    return "\n".join(["| option | type | default | what it does |", "|---|---|---|---|", *option_rows(options)]) + "\n"


def role_page(name: str, specs: Mapping[str, Any], source: str) -> str:
    """The page of one role."""
    parts = [NOTE.format(source=source), f"# Role {name}\n"]
    for entry, spec in specs.items():
        if entry != "main" or len(specs) > 1:
            parts.append(f"## Entry point `{entry}`\n")
        parts += [f"{paragraphs(spec.get(key))}\n" for key in ("short_description", "description") if spec.get(key)]
        parts.append(option_table(spec.get("options") or {}))
    return "\n".join(parts)


def constants(source: str, inside: str = "") -> dict[str, str]:
    """The strings of a plugin's module, or of a class inside it, read without running it."""
    found = {}
    body: Sequence[ast.stmt] = ast.parse(source).body
    if inside:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == inside)
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.update({target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)})
    return found


def with_fragments(documentation: dict[str, Any], fragments: Path) -> dict[str, Any]:
    """A documentation with the options of those fragments of ours that it names; what it says itself comes first."""
    options = documentation.get("options") or {}
    for name in documentation.get("extends_documentation_fragment") or []:
        if not name.startswith(OWN):
            continue
        file, _dot, part = name.removeprefix(OWN).partition(".")
        texts = constants((fragments / f"{file}.py").read_text(), inside="ModuleDocFragment")
        given = yaml.safe_load(texts[part.upper() or "DOCUMENTATION"]).get("options") or {}
        options = {
            **{option: {**spec, **options.get(option, {})} for option, spec in given.items()},
            **{option: spec for option, spec in options.items() if option not in given},
        }
    return {**documentation, "options": options}


def returned_rows(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One row for each returned value."""
    rows = []
    for name, spec in values.items():
        rows.append(
            f"| `{prefix}{name}` | {spec.get('type', '')} | {spec.get('returned', '')} "
            f"| {cell(spec.get('description'))} |"
        )
        rows += returned_rows(spec.get("contains") or {}, f"{prefix}{name}.")
    return rows


def plugin_page(
    kind: str, name: str, documentation: Mapping[str, Any], examples: str, returned: Mapping[str, Any], source: str
) -> str:
    """The page of one plugin."""
    parts = [NOTE.format(source=source), f"# {kind.capitalize()} spotcache.redis.{name}\n"]
    parts += [
        f"{paragraphs(documentation.get(key))}\n"
        for key in ("short_description", "description")
        if documentation.get(key)
    ]
    parts.append(option_table(documentation.get("options") or {}))
    if documentation.get("notes"):
        parts.append("## Notes\n\n" + "\n".join(f"- {paragraphs(note)}" for note in documentation["notes"]) + "\n")
    if examples.strip():
        parts.append(f"## Examples\n\n```yaml\n{examples.strip()}\n```\n")
    if returned:
        parts.append(
            "## Returned\n\n"
            + "\n".join(["| value | type | when | what it is |", "|---|---|---|---|", *returned_rows(returned)])
            + "\n"
        )
    return "\n".join(parts)


def role_pages(root: Path) -> dict[str, str]:
    """A page for each role that declares its options."""
    pages = {}
    for spec in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        name = spec.parent.parent.name
        pages[f"role-{name}.md"] = role_page(
            name, yaml.safe_load(spec.read_text())["argument_specs"], str(spec.relative_to(root))
        )
    return pages


def plugin_pages(root: Path) -> dict[str, str]:
    """A page for each plugin that documents itself, in its source or in a YAML file beside it."""
    pages = {}
    for folder, kind in KINDS.items():
        for source in sorted((root / "plugins" / folder).glob("*.py")):
            texts = constants(source.read_text())
            name = source.stem
            beside = source.with_suffix(".yml")
            if "DOCUMENTATION" in texts:
                whole = {"DOCUMENTATION": yaml.safe_load(texts["DOCUMENTATION"]), "EXAMPLES": texts.get("EXAMPLES", "")}
                whole["RETURN"] = yaml.safe_load(texts.get("RETURN", "")) or {}
            elif beside.exists():
                whole = yaml.safe_load(beside.read_text())
            else:
                continue
            page = plugin_page(
                kind,
                name,
                with_fragments(whole["DOCUMENTATION"], root / "plugins" / "doc_fragments"),
                whole.get("EXAMPLES") or "",
                whole.get("RETURN") or {},
                str(source.relative_to(root)),
            )
            pages[f"{kind}-{name}.md"] = page
    return pages


def playbook_page(root: Path) -> str:
    """The playbooks, each with the comment that opens it."""
    parts = [NOTE.format(source="the comments that open playbooks/*.yml"), "# Playbooks\n"]
    for playbook in sorted((root / "playbooks").glob("[!_]*.yml")):
        lines = [line for line in playbook.read_text().splitlines() if line != "---"]
        comment = []
        for line in lines:
            if not line.startswith("#"):
                break
            comment.append(line.removeprefix("#").removeprefix(" "))
        parts += [f"## {playbook.stem}\n", "\n".join(comment).strip() + "\n"]
    return "\n".join(parts)


def index(pages: Mapping[str, str]) -> str:
    """The page that lists the pages."""
    titles = {
        name: next(line for line in page.splitlines() if line.startswith("# ")).removeprefix("# ")
        for name, page in pages.items()
    }
    rows = [f"- [{title}]({name})" for name, title in sorted(titles.items())]
    return "\n".join([NOTE.format(source="roles, plugins and playbooks"), "# Reference\n", *rows]) + "\n"


def render(root: Path = ROOT) -> dict[str, str]:
    """Every page by its file name."""
    pages = {"playbooks.md": playbook_page(root), **role_pages(root), **plugin_pages(root)}
    return {"README.md": index(pages), **pages}


def drift(pages: Mapping[str, str], folder: Path) -> list[str]:
    """The files that are missing, too many, or not as they should be."""
    there = {path.name: path.read_text() for path in folder.glob("*.md")} if folder.is_dir() else {}
    return sorted(name for name in pages.keys() | there.keys() if pages.get(name) != there.get(name))


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or check them."""
    pages = render()
    stale = drift(pages, PAGES)
    if "--check" in arguments:
        for name in stale:
            print(f"docs/reference/{name} is not what the sources say: run ./spotcache docs and commit the result.")
        return 1 if stale else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in pages:
            (PAGES / name).write_text(pages[name])
        else:
            (PAGES / name).unlink()
        print(f"docs/reference/{name}: {'written' if name in pages else 'removed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
