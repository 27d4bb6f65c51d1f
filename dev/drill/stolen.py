# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill with stolen credentials in a sandbox: nothing is interrupted, so there are no times and no floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dev import keys, permissions
from dev.sandboxes import Sandbox
from dev.work import Failed, Journal, table


def rehearse(sandbox: Sandbox, journal: Journal, folder: Path, count: int) -> dict[str, Any]:
    """Provision, load that many keys, have everything tried, and compare every value afterwards; the report."""
    with journal.step("Sandbox up"):
        sandbox.up(*permissions.also("drill"))
    with journal.step("Provision"):
        sandbox.play("provision", log="provision")
    host = sandbox.host()
    with journal.step(f"Load {count:,} keys, and read every one"):
        sandbox.load(host, count)
        before = sandbox.fingerprint(host)
    with journal.step("Try all that the host's credentials might allow, and restore"):
        chosen = {"drill_kind": "stolen", "drill_confirm": "sandbox", "drill_folder": str(folder)}
        code, _ = sandbox.attempt("drill", "-e", json.dumps(chosen), log="drill")
        written = folder / "report.json"
        if not written.exists():
            raise Failed(f"the drill came to no report (exit {code}); its log is {sandbox.logs / 'drill.log'}")
        report: dict[str, Any] = json.loads(written.read_text())
    with journal.step("Read every key again"):
        different = keys.differences(before, sandbox.fingerprint(sandbox.host()))
    report["runs"][0]["values_equal"] = bool(before) and not different
    report["runs"][0]["problems"] += different
    if different:
        report["verdict"] = "failed"
    return report


def as_text(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    [one] = report["runs"]
    head = ["try", "permission", "AWS says"]
    rows = [[row["what"], row["action"], row["answer"]] for row in one["tries"]]
    equal = "equal" if one["values_equal"] else "NOT equal"
    lines = [table(head, rows), "", f"Restored {one['backup']}: every value is {equal}."]
    return "\n".join([*lines, *(f"Problem: {text}" for text in one["problems"]), f"Verdict: {report['verdict']}"])
