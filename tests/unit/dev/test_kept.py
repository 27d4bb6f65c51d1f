# SPDX-License-Identifier: GPL-3.0-or-later
"""What is worked out once for many forks is the same as what each would have worked out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from dev import kept
from dev.work import ROOT

# In a process of its own, since it changes Ansible: each template twice, with other variables, the second from memory.
PROGRAM = r"""
import json, sys
from dev import kept
if sys.argv[1] == "kept":
    kept.keep_code()
from ansible._internal._datatag._tags import TrustedAsTemplate
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
from ansible._internal._templating._engine import TemplateEngine, TemplateOptions
said = []
for number in (1, 2):
    engine = TemplateEngine(variables={"x": number, "names": ["a", "b"]})
    loop = "{% for one in names %}{{ one }}{{ x }}{% endfor %}"
    for text in ("{{ x + 1 }}", "x + 1", r"{{ 'a\\b' }}", loop, "{{ absent | default(x) }}"):
        trusted = TrustedAsTemplate().tag(text)
        for escape in (True, False):
            said.append(engine.template(trusted, options=TemplateOptions(escape_backslashes=escape)))
        if "{" not in text:
            said.append(engine.evaluate_expression(trusted))
    said.append(engine.evaluate_conditional(TrustedAsTemplate().tag("x == 2 and names | length == 2")))
    try:
        engine.template(TrustedAsTemplate().tag("{{ x | no_such_filter }}"))
    except Exception as error:
        said.append(type(error).__name__)
print(json.dumps(said))
"""


def answers(which: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, which], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    found: list[object] = json.loads(done.stdout)
    return found


def test_code_that_was_kept_says_the_same() -> None:
    told = answers("kept")
    assert told == answers("not")
    # The variables are those of each turn, and a text in braces is another one than the same without.
    assert 2 in told
    assert 3 in told
    assert "x + 1" in told


def test_templates_are_found_wherever_they_stand() -> None:
    tasks = [{"name": "One of {{ n }}", "when": ["a", "b is {{ c }}"], "vars": {"x": "plain", "y": ["{% if a %}"]}}]
    expressions = {("a", True), ("b is {{ c }}", True)}
    assert set(kept.texts(tasks)) == {*expressions, ("One of {{ n }}", False), ("{% if a %}", False)}


def test_clients_of_a_service_share_their_class_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    kept.keep_client_classes()
    one, two = (boto3.client("sqs", region_name=region) for region in ("eu-west-1", "us-west-2"))
    assert type(one) is type(two)
    assert (one.meta.region_name, two.meta.region_name) == ("eu-west-1", "us-west-2")
    assert type(boto3.client("sns", region_name="eu-west-1")) is not type(one)


def test_only_the_playbooks_own_files_are_parsed_once(tmp_path: Path) -> None:
    program = """
import json, sys
from dev import kept
kept.keep_vars_files()
from pathlib import Path
from ansible.parsing.dataloader import DataLoader
path, loader = Path(sys.argv[1]), DataLoader()
path.write_text("a: 1")
before = loader.load_from_file(str(path), cache="vaulted", unsafe=True)
path.write_text("a: 2")
after = loader.load_from_file(str(path), cache="vaulted", unsafe=True)
ours = str(kept.ROOT / "playbooks" / "vars" / "common.yml")
one, two = (loader.load_from_file(ours, cache="vaulted", unsafe=True) for _ in range(2))
print(json.dumps([before, after, one is two]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "vars.yml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [{"a": 1}, {"a": 2}, True]
