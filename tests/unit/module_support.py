# SPDX-License-Identifier: GPL-3.0-or-later
"""Running a module as Ansible does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args


class ModuleFailed(Exception):
    """A module called fail_json; the text is its message."""


def run_module(
    main: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    *,
    check: bool = False,
    diff: bool = False,
    **args: Any,
) -> dict[str, Any]:
    """What a module returns.

    Raises:
        ModuleFailed: it failed.
    """
    capsys.readouterr()
    with (
        patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": diff}),
        pytest.raises(SystemExit),
    ):
        main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    if answer.get("failed"):
        raise ModuleFailed(answer["msg"])
    return answer
