# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook many times over, without starting anew each time: for tests that run a playbook again and again.

One process loads Ansible, boto and their models once, and forks for every run and, within it, for every module of the
collections for AWS, which then runs as it is instead of being packed, sent and started. What playbooks and modules do
is the same; the second in which each module starts is not spent.

    python -m dev.swift PLAYBOOK ...      one run, with ansible-playbook's arguments

Without arguments it reads one JSON object a line, ``{"arguments": [...], "environment": {...}, "log": path, "cwd":
path}``, and answers each with one, ``{"code": n}``. Several runs at once take several such programs: dev.program.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import json
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

from dev import kept

ROOT = Path(__file__).resolve().parent.parent
PACKED = ("amazon.aws.", "community.aws.", "spotcache.redis.", "awx.awx.")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SERVICES = (
    *("autoscaling", "cloudwatch", "dlm", "dynamodb", "ec2", "events", "iam", "lambda", "logs", "route53", "s3"),
    *("sns", "sqs", "ssm", "sts"),
)


def run_here(name: str, arguments: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """A module's answer, from a fork of this process, as Ansible gets it from a connection."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
                os.environ.update(environment)
                code = _main_of(name, arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(), err.read().decode()
    return {
        "rc": os.waitstatus_to_exitcode(status),
        "stdout": stdout,
        "stdout_lines": stdout.splitlines(),
        "stderr": stderr,
        "stderr_lines": stderr.splitlines(),
    }


def _main_of(name: str, arguments: dict[str, Any]) -> int:
    from ansible.module_utils._internal._ansiballz import _loader
    from ansible.module_utils.testing import patch_module_args

    namespace, collection, module = name.split(".")
    program = importlib.import_module(f"ansible_collections.{namespace}.{collection}.plugins.modules.{module}")
    with patch_module_args(arguments):
        try:
            program.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        except Exception as error:
            # What Ansible makes of a module that broke: a result that has no message yet.
            try:
                _loader._handle_exception(error, "legacy")
            except SystemExit as ended:
                return int(ended.code or 0)
    return 0


def patch() -> None:
    """Let Ansible run AWS's modules in forks of itself, which do nothing again that this process has done."""
    import botocore.loaders
    import botocore.session
    from ansible import constants
    from ansible.plugins.action import ActionBase

    # How often it looks for a task's answer, instead of a thousand times a second: runs share their cores with others.
    constants.DEFAULT_INTERNAL_POLL_INTERVAL = 0.005

    kept.keep_code()
    kept.keep_client_classes()
    kept.keep_vars_files()
    botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)
    original = ActionBase._execute_module

    def execute(
        action: Any,
        module_name: Any = None,
        module_args: Any = None,
        tmp: Any = None,
        task_vars: Any = None,
        **more: Any,
    ) -> Any:
        name = module_name or action._task.resolved_action or action._task.action
        here = action._connection.transport == "local" and not action._task.become
        if not here or not name.startswith(PACKED) or more.get("wrap_async") or action._task.async_val:
            return original(action, module_name, module_args, tmp, task_vars, **more)
        arguments = action._task.args if module_args is None else module_args
        action._update_module_args(name, arguments, task_vars or {})
        environment: dict[str, str] = {}
        action._compute_environment_string(environment)
        told = run_here(name, dict(arguments), {key: str(value) for key, value in environment.items()})
        answer = action._parse_returned_data(told, "legacy")
        if hasattr(answer, "as_result_dict"):  # since ansible-core 2.21
            answer.remove_internal_keys()
            return answer.as_result_dict(for_round_trip=True)
        from ansible.vars.clean import remove_internal_keys

        remove_internal_keys(answer)
        return answer

    ActionBase._execute_module = execute


def named_modules() -> set[str]:
    """Of AWS's and our own modules those that playbooks and roles call, by the names that Python imports them by."""
    called = re.compile(rf"^\s*(?:- )?({'|'.join(map(re.escape, PACKED))})(\w+):", re.MULTILINE)
    files = [path for folder in ("playbooks", "roles") for path in (ROOT / folder).rglob("*.yml")]
    return {
        f"ansible_collections.{match[1]}plugins.modules.{match[2]}"
        for path in files
        for match in called.finditer(path.read_text())
    }


def warm() -> None:
    """Have in memory what every run needs."""
    import boto3
    from ansible.cli.playbook import PlaybookCLI  # noqa: F401 - its import configures Ansible
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader()
    kept.compile_all()
    for name in sorted(named_modules()):
        # Collections' modules are compiled anew by every process that imports them.
        importlib.import_module(name)
    session = boto3.session.Session(region_name="us-east-1")
    for service in SERVICES:
        client = session.client(service, aws_access_key_id="x", aws_secret_access_key="x")
        client.can_paginate(next(iter(client.meta.method_to_api_mapping)))  # reads how answers are paged


def call_oneself(name: str) -> None:
    """Give this process another command line: a run is known by it, and is dead when no such process is there."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = name.encode()[: end - start - 1]
    ctypes.memmove(start, text + bytes(end - start - len(text)), end - start)


def run(arguments: list[str], environment: dict[str, str], log: Path, cwd: Path) -> int:
    """One run of ansible-playbook, in a session of its own; it ends with this program."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        os.setsid()
        os.chdir(cwd)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        call_oneself("ansible-playbook")
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(environment)
        into = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(into, descriptor)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        from ansible.cli.playbook import PlaybookCLI

        code = PlaybookCLI(["ansible-playbook", *arguments]).run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 250
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    """Run what is asked for, one after the other."""
    # Every run configures the collections' loader anew.
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    # In this order: what loads the models for the first time must keep them.
    patch()
    warm()
    # What is in memory by now stays: no fork needs to look through it, and thereby copy it.
    gc.collect()
    gc.freeze()
    if sys.argv[1:]:
        from ansible.cli.playbook import PlaybookCLI

        arguments = ["ansible-playbook", *sys.argv[1:]]
        call_oneself(arguments[0])
        return int(PlaybookCLI(arguments).run())
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        code = run(asked["arguments"], asked["environment"], Path(asked["log"]), Path(asked["cwd"]))
        answers.write(json.dumps({"code": code}) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
