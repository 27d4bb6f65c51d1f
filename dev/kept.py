# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible and botocore work out again in each of their forks, worked out once: for tests.

Every task has a process of its own, which compiles the templates that it meets; every module has one, which builds the
class of its client; and the files of a play's C(vars_files) are parsed before each task. None of this depends on the
run, and together it is about a third of what a playbook costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import jinja2
import yaml

ROOT = Path(__file__).resolve().parent.parent
# Where an expression stands without braces.
EXPRESSIONS = {"when", "that", "until", "failed_when", "changed_when"}
# What the code of a template depends on beside its text.
SETTINGS = (
    *("block_start_string", "block_end_string", "variable_start_string", "variable_end_string"),
    *("comment_start_string", "comment_end_string", "line_statement_prefix", "line_comment_prefix"),
    *("trim_blocks", "lstrip_blocks", "newline_sequence", "keep_trailing_newline"),
)


def keep_code() -> None:
    """Have the code of every template and expression that this process has compiled at hand in its forks."""
    from ansible._internal._templating import _jinja_bits as bits
    from jinja2.environment import TemplateExpression

    environment = bits.AnsibleEnvironment
    compile_template, compile_expression = environment.compile, environment.compile_expression
    codes: dict[tuple[Any, ...], CodeType] = {}

    def key_of(kind: str, self: Any, source: str) -> tuple[Any, ...]:
        context = bits._TemplateCompileContext.current(optional=True)
        settings = tuple(getattr(self, name) for name in SETTINGS)
        return kind, str(source), context and context.escape_backslashes, settings

    def template(self: Any, source: Any, name: Any = None, filename: Any = None, *rest: Any, **more: Any) -> Any:
        if not isinstance(source, str) or name or filename or rest or more or self._debuggable_template_source:
            return compile_template(self, source, name, filename, *rest, **more)
        key = key_of("template", self, source)
        if key not in codes:
            codes[key] = compile_template(self, source)
        return codes[key]

    def expression(self: Any, source: str, undefined_to_none: bool = True) -> Any:
        if self._debuggable_template_source:
            return compile_expression(self, source, undefined_to_none)
        key = key_of("expression", self, source)
        if key in codes:
            made = self.template_class.from_code(self, codes[key], self.make_globals(None), None)
            return TemplateExpression(made, undefined_to_none)
        compiled: list[CodeType] = []

        def noted(text: str, filename: str) -> CodeType:
            compiled.append(type(self)._compile(self, text, filename))
            return compiled[0]

        self._compile = noted
        try:
            answer = compile_expression(self, source, undefined_to_none)
        finally:
            del self._compile
        codes[key] = compiled[0]
        return answer

    environment.compile, environment.compile_expression = template, expression


def texts(value: Any, expression: bool = False) -> Iterator[tuple[str, bool]]:
    """The templates in what was read from YAML, and whether each is an expression without braces."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from texts(one, name in EXPRESSIONS)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one, expression)
    elif isinstance(value, str) and (expression or "{{" in value or "{%" in value):
        yield value, expression


class Reader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as Ansible does, but for values that are no templates: it has nothing for them."""


Reader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


def documents() -> Iterable[Any]:
    """What stands in the YAML that playbooks run."""
    for folder in ("playbooks", "roles", "inventories"):
        for path in sorted((ROOT / folder).rglob("*.yml")):
            if "molecule" not in path.parts:
                yield from yaml.load_all(path.read_text(), Loader=Reader)


def compile_all() -> None:
    """Compile every template of playbooks, roles and inventories. One that cannot be is left to who runs it."""
    from ansible._internal._templating._engine import TemplateEngine, TemplateOptions
    from ansible._internal._templating._jinja_bits import _TemplateCompileContext

    environment = TemplateEngine().environment
    with _TemplateCompileContext(escape_backslashes=TemplateOptions.DEFAULT.escape_backslashes):
        for text, expression in {one for document in documents() for one in texts(document)}:
            with contextlib.suppress(jinja2.TemplateSyntaxError):
                if expression:
                    environment.compile_expression(text, False)
                else:
                    environment.from_string(text)


def keep_client_classes() -> None:
    """Build the class of a service's client once. It depends on the service alone, and clients do not write to it."""
    from botocore.client import ClientCreator

    build = ClientCreator._create_client_class
    classes: dict[tuple[str, str], Any] = {}

    def create(self: Any, service_name: str, service_model: Any) -> Any:
        key = (service_name, service_model.api_version)
        if key not in classes:
            classes[key] = build(self, service_name, service_model)
        return classes[key]

    ClientCreator._create_client_class = create


def keep_vars_files() -> None:
    """Parse the playbooks' own files of variables once in a run. No playbook writes to them."""
    from ansible.parsing.dataloader import DataLoader

    load = DataLoader.load_from_file
    ours = str(ROOT / "playbooks" / "vars")

    def load_from_file(self: Any, file_name: str, cache: str = "all", **more: Any) -> Any:
        fixed = cache == "vaulted" and self.path_dwim(file_name).startswith(ours)
        return load(self, file_name, cache="all" if fixed else cache, **more)

    DataLoader.load_from_file = load_from_file
