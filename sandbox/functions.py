"""Lambda functions of a sandbox, really run: the zip that was uploaded, as a process, with its role's credentials.

moto keeps the records (functions, versions, policies, event source mappings); it would run a handler only in a
container image that has to be fetched. Here the handler runs in a process of this machine, which stays warm between
invocations as AWS's do, as a user of its own without any rights: it sees its code, Python and the API, and none of the
sandbox's state.

One server for all services, and not a second emulator for Lambda, SNS and EventBridge beside moto: ARNs, the account's
number, roles and their policies mean the same everywhere, a function that asks EC2 sees the sandbox's real hosts, what
its role may not do is refused, and `up` starts nothing more.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import select
import shutil
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from moto.core.exceptions import JsonRESTError
from moto.iam.models import iam_backends
from moto.logs.models import logs_backends
from moto.sts.models import sts_backends

from sandbox import iam

log = logging.getLogger("sandbox")

IDLE_S = 120.0  # how long a process waits warm for the next invocation
LIFE_S = 900.0  # no process outlives its credentials
USER = 61051  # whom functions run as; nobody else on the machine has this number
TASK = "/mnt/task"  # where a function finds its code
RESERVED = ("AWS_", "_HANDLER", "LAMBDA_", "PATH")

# What Lambda's Python has beside the standard library: the SDK and what it needs.
SDK = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")
# The Lambda runtime: one JSON line in for each event, one out for each result.
RUNTIME = r"""
import importlib, importlib.machinery, json, os, sys, time, traceback
sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
packages, site = sys.argv[1].split(os.pathsep), sys.argv[2]
class Sdk:
    def find_spec(name, path=None, target=None):
        if path is None and name in packages:
            return importlib.machinery.PathFinder.find_spec(name, [site], target)
sys.meta_path.append(Sdk)
answers = os.fdopen(int(sys.argv[3]), "w", encoding="utf-8")
class Context:
    function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
    memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
    log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
    log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
    invoked_function_arn = sys.argv[4]
    def __init__(self, request, seconds):
        self.aws_request_id = request
        self.deadline = time.monotonic() + seconds
    def get_remaining_time_in_millis(self):
        return max(0, int(1000 * (self.deadline - time.monotonic())))
def told(error):
    return {"errorMessage": str(error), "errorType": type(error).__name__,
            "stackTrace": traceback.format_tb(error.__traceback__)}
handler, broken = None, None
try:
    module, _, name = os.environ["_HANDLER"].rpartition(".")
    handler = getattr(importlib.import_module(module.replace("/", ".")), name)
except BaseException as error:
    broken = told(error)
for line in sys.stdin:
    job = json.loads(line)
    try:
        result = {"error": broken} if broken else {
            "payload": json.loads(json.dumps(handler(job["event"], Context(job["request"], job["seconds"]))))}
    except BaseException as error:
        traceback.print_exc()
        result = {"error": told(error)}
    sys.stdout.flush()
    sys.stderr.flush()
    answers.write(json.dumps(result) + "\n")
    answers.flush()
"""


# A view of the machine for one function, in a mount namespace of its own: its code, and Python where its directories
# are closed to others. $1 user, $2 code, $3 how many pairs of a closed directory and what of it is needed; the pairs;
# the command.
VIEW = r"""
set -eu
user=$1 code=$2 pairs=$3
shift 3
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/task /mnt/kept
mount --bind "$code" /mnt/task
kept=0
while [ "$kept" -lt "$pairs" ]; do
  closed=$1 needed=$2
  shift 2
  mkdir "/mnt/kept/$kept"
  mount --bind "$needed" "/mnt/kept/$kept"
  set -- "$@" "$closed" "$needed"
  kept=$((kept + 1))
done
words=$(($# - 2 * pairs))
number=0
while [ "$number" -lt "$words" ]; do
  set -- "$@" "$1"
  shift
  number=$((number + 1))
done
kept=0
while [ "$kept" -lt "$pairs" ]; do
  closed=$1 needed=$2
  shift 2
  if [ ! -e "$closed/.view" ]; then
    mount -t tmpfs -o mode=755 tmpfs "$closed"
    : >"$closed/.view"
  fi
  mkdir -p "$needed"
  mount --bind "/mnt/kept/$kept" "$needed"
  kept=$((kept + 1))
done
cd /mnt/task
exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --bounding-set=-all -- "$@"
"""


def closed_ancestors(paths: list[Path]) -> list[tuple[Path, Path]]:
    """Of paths that others cannot reach, the outermost directory that keeps them out, and the path."""
    found = []
    for path in dict.fromkeys(paths):
        outer = [one for one in reversed(path.parents) if not one.stat().st_mode & 0o001]
        if outer:
            found.append((outer[0], path))
    return found


def confined(code: Path, command: list[str]) -> list[str]:
    """The command line that runs a command as `USER`, with `code` at `TASK`."""
    pairs = closed_ancestors([Path(sys.prefix), Path(sys.base_prefix)])
    words = [str(word) for pair in pairs for word in pair]
    view = ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", VIEW, "view"]
    return [*view, str(USER), str(code), str(len(pairs)), *words, *command]


def command_of(arn: str) -> list[str]:
    """The command line of a function's process, which sees of this checkout's packages no more than Lambda has."""
    isolated = [sys.executable, "-I", "-S", "-B", "-u", "-c", RUNTIME]
    return [*isolated, os.pathsep.join(SDK), str(Path(boto3.__file__).parents[1]), arn]


def check_runtime(name: str) -> None:
    """See that Lambda has a runtime, and that it is one that is run here.

    Raises:
        JsonRESTError: it has not, in Lambda's words, or it is not.
    """
    known = botocore.session.get_session().get_service_model("lambda").shape_for("Runtime").enum
    if name not in known:
        raise JsonRESTError(
            "InvalidParameterValueException",
            f"Value {name} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "
            f"[{', '.join(known)}] or be a valid ARN",
        )
    if not name.startswith("python"):
        raise JsonRESTError("InvalidParameterValueException", f"This sandbox runs Python, and no {name}")


@dataclass(frozen=True)
class Outcome:
    """What an invocation came to."""

    payload: Any
    failed: bool
    request: str


class Worker:
    """One warm process of one version of one function."""

    def __init__(self, argv: list[str], environment: dict[str, str], root: Path, answers: tuple[int, int]) -> None:
        reading, writing = answers
        self.born = self.used = time.monotonic()
        self.process = subprocess.Popen(
            [*argv[:-1], str(writing), argv[-1]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=root,
            pass_fds=(writing,),
        )
        os.close(writing)
        self.answers = reading
        self.lines: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self.lines.append(line.rstrip("\n"))

    def run(self, event: Any, request: str, seconds: float) -> dict[str, Any] | None:
        """The handler's answer, or None when there was none in time or the process ended."""
        self.used = time.monotonic()
        if self.process.stdin is None:
            return None
        deadline = self.used + seconds
        try:
            self.process.stdin.write(json.dumps({"event": event, "request": request, "seconds": seconds}) + "\n")
            self.process.stdin.flush()
        except OSError:
            return None
        said = b""
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.answers, 65536) if ready else b""
            if not chunk:
                return None
            said += chunk
        self.used = time.monotonic()
        answer: dict[str, Any] = json.loads(said)
        return answer

    def end(self) -> None:
        """End the process and wait for it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(OSError):
            os.close(self.answers)


class Functions:
    """Runs the functions of one sandbox. `function` is always moto's own record."""

    def __init__(self, directory: Path, account: str, region: str, endpoint: str) -> None:
        self.directory = directory
        self.account, self.region, self.endpoint = account, region, endpoint
        self.idle: dict[str, list[Worker]] = {}
        self.lock = threading.Lock()

    def invoke(self, function: Any, event: Any) -> Outcome:
        """Run the handler once and wait for it."""
        request = str(uuid.uuid4())
        key = f"{function.function_name}/{function.code_sha_256}/{hash_of(function)}"
        try:
            worker = self._warm(key) or self._start(function)
        except (PermissionError, zipfile.BadZipFile) as error:
            self._write(function, request, [f"{type(error).__name__}: {error}"])
            return Outcome({"errorMessage": str(error), "errorType": type(error).__name__}, True, request)
        seconds = float(function.timeout or 3)
        said = len(worker.lines)
        answer = worker.run(event, request, seconds)
        if answer is None:
            lost = worker.process.poll() is not None
            worker.end()
            kind = "Runtime.ExitError" if lost else "Sandbox.Timedout"
            words = "exited" if lost else f"timed out after {seconds:.2f} seconds"
            answer = {"error": {"errorType": kind, "errorMessage": f"{request} Error: Runtime {words}"}}
            self._write(function, request, [*worker.lines[said:], answer["error"]["errorMessage"]])
        else:
            # The pipe of what it printed is read beside: what was printed is there before the answer, or just after.
            time.sleep(0.01)
            self._write(function, request, worker.lines[said:])
            with self.lock:
                self.idle.setdefault(key, []).append(worker)
        if "error" in answer:
            return Outcome(answer["error"], True, request)
        return Outcome(answer["payload"], False, request)

    def _warm(self, key: str) -> Worker | None:
        with self.lock:
            workers = self.idle.get(key, [])
            return workers.pop() if workers else None

    def tidy(self) -> None:
        """End processes that nothing has asked for in a while."""
        now = time.monotonic()
        with self.lock:
            old = [
                (key, worker)
                for key, workers in self.idle.items()
                for worker in workers
                if now - worker.used > IDLE_S or now - worker.born > LIFE_S
            ]
            for key, worker in old:
                self.idle[key].remove(worker)
        for _key, worker in old:
            worker.end()

    def close(self) -> None:
        """End every process."""
        with self.lock:
            workers = [worker for some in self.idle.values() for worker in some]
            self.idle.clear()
        for worker in workers:
            worker.end()

    def _start(self, function: Any) -> Worker:
        root = self._unpacked(function)
        name = function.function_name
        environment = {
            key: value for key, value in function.environment_vars.items() if not key.startswith(RESERVED)
        } | {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "_HANDLER": function.handler,
            "LAMBDA_TASK_ROOT": TASK,
            "HOME": TASK,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.run_time}",
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": str(function.version),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_LAMBDA_LOG_GROUP_NAME": function.logs_group_name,
            "AWS_LAMBDA_LOG_STREAM_NAME": stream_of(function),
            **self._credentials(function),
        }
        return Worker(confined(root, command_of(function.function_arn)), environment, root, os.pipe())

    def _unpacked(self, function: Any) -> Path:
        root: Path = self.directory / function.function_name / function.code_digest.removeprefix("sha256:")[:24]
        with self.lock:
            if not root.is_dir():
                part = root.with_name(f"{root.name}.part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True, mode=0o700)
                with zipfile.ZipFile(io.BytesIO(function.code_bytes)) as archive:
                    archive.extractall(part)
                for path in (part, *part.rglob("*")):
                    path.chmod(0o755 if path.is_dir() else 0o644)
                part.rename(root)
        return root

    def _credentials(self, function: Any) -> dict[str, str]:
        role = role_of(self.account, function.role)
        about = {"aws:SourceAccount": self.account, "aws:SourceArn": function.function_arn}
        if role is None or not iam.trusts(role, "lambda.amazonaws.com", about):
            raise PermissionError(f"The role {function.role} cannot be assumed by Lambda.")
        assumed = sts_backends[self.account]["aws"].assume_role(
            region_name=self.region,
            role_session_name=function.function_name,
            role_arn=role.arn,
            policy="",
            duration=3600,
            external_id="",
        )
        return {
            "AWS_ACCESS_KEY_ID": assumed.access_key_id,
            "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
            "AWS_SESSION_TOKEN": assumed.session_token,
        }

    def _write(self, function: Any, request: str, lines: list[str]) -> None:
        """What the function said, to CloudWatch Logs, where its role lets it."""
        named = {"logGroupName": function.logs_group_name, "logStreamName": stream_of(function)}
        logs = logs_backends[self.account][self.region]
        there = function.logs_group_name in logs.groups
        for action in (*(() if there else ("logs:CreateLogGroup",)), "logs:CreateLogStream", "logs:PutLogEvents"):
            if not iam.role_may(self.account, self.region, function.role, action, named):
                log.warning("function %s cannot log: its role may not %s", function.function_name, action)
                return
        stream = stream_of(function)
        now = int(time.time() * 1000)
        whole = [f"START RequestId: {request}", *lines, f"END RequestId: {request}"]
        logs.ensure_log_group(function.logs_group_name)
        if stream not in logs.groups[function.logs_group_name].streams:
            logs.create_log_stream(function.logs_group_name, stream)
        entries = [{"timestamp": now, "message": line} for line in whole if line]
        logs.put_log_events(function.logs_group_name, stream, entries)


def role_of(account: str, arn: str) -> Any:
    """Moto's record of a role, or None."""
    name = arn.rsplit("/", 1)[-1]
    return next((role for role in iam_backends[account]["aws"].get_roles() if role.name == name), None)


def hash_of(function: Any) -> str:
    """What makes a warm process out of date besides its code."""
    parts = [function.handler, function.role, function.timeout, sorted(function.environment_vars.items())]
    return str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(parts)))


def stream_of(function: Any) -> str:
    """Name of the log stream: one a day."""
    return f"{datetime.now(UTC):%Y/%m/%d}/[{function.version}]sandbox"
