# SPDX-License-Identifier: GPL-3.0-or-later
"""The real phpdotenv in one long-lived PHP process: packages php-cli and php-vlucas-phpdotenv."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

SCRIPT: Final = Path(__file__).with_name("phpdotenv.php")


def _unpack(packed: dict[str, Any]) -> Any:
    return base64.b64decode(packed["text"]) if "text" in packed else packed["value"]


class Answer:
    """What the parser made of a file; texts are bytes."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.error: str | None = answer["error"]
        self.dotenv: dict[str, Any] = {name: _unpack(value) for name, value in answer["dotenv"].items()}
        self.env: dict[str, Any] = {name: _unpack(value) for name, value in answer["env"].items()}


class PhpDotenv:
    """Ask it as often as wanted: a question costs well under a millisecond."""

    def __init__(self) -> None:
        if shutil.which("php") is None:
            raise RuntimeError("php is missing: apt-get install php-cli php-vlucas-phpdotenv")
        self._directory = tempfile.TemporaryDirectory(prefix="spotcache-dotenv-")
        # Without this shell's environment: ${NAME} means what the file says.
        self._process = subprocess.Popen(
            ["php", str(SCRIPT), self._directory.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()
        self._directory.cleanup()

    def read(self, data: bytes) -> Answer:
        """What it makes of a file's bytes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(base64.b64encode(data) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the PHP process has ended")
        return Answer(json.loads(line))
