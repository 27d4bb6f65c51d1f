# SPDX-License-Identifier: GPL-3.0-or-later
"""What a verb needs, and what of it is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from dev.setup import paths
from dev.setup.machine import Machine

# What is installed: what a playbook runs with, or that and all that tests and the sandbox need.
RUNS, DEVELOPS = "requirements.txt", "requirements-dev.txt"


@dataclass(frozen=True)
class Tool:
    """Something from Debian: a program on the path (or a file) and the packages that may bring it, best first."""

    program: str
    packages: tuple[str, ...]

    def present(self, path: str) -> bool:
        """Whether it is on this machine."""
        return (
            Path(self.program).exists()
            if self.program.startswith("/")
            else shutil.which(self.program, path=path) is not None
        )


SSH = Tool("ssh", ("openssh-client",))
GIT = Tool("git", ("git",))
# The program alone cannot sign: its agent holds the keys.
GPG = (Tool("gpg", ("gnupg",)), Tool("gpg-agent", ("gnupg",)))
# redis-tools alone: Debian's redis-server is the same binary as its redis-check-rdb, and its package would start a
# daemon now and at every boot.
REDIS = (Tool("redis-cli", ("redis-tools",)), Tool("redis-check-rdb", ("redis-tools",)))
QEMU = Tool("qemu-system-x86_64", ("qemu-system-x86",))
# Without it ansible-test leaves the shell scripts out, and says no more than that.
SHELL = (Tool("shellcheck", ("shellcheck",)),)
# The parser that Laravel reads its .env with: what the module writes is read back by it.
PHP = (Tool("php", ("php-cli",)), Tool("/usr/share/php/Dotenv/autoload.php", ("php-vlucas-phpdotenv",)))
SANDBOX = (
    SSH,
    *REDIS,
    Tool("dockerd", ("docker.io",)),
    # Debian 13 and newer pack the client apart from the daemon.
    Tool("docker", ("docker-cli", "docker.io")),
    Tool("iptables", ("iptables",)),
    Tool("ip", ("iproute2",)),
    Tool("losetup", ("mount", "util-linux")),
    Tool("nsenter", ("util-linux",)),
    Tool("mkfs.xfs", ("xfsprogs",)),
    Tool("mkfs.ext4", ("e2fsprogs",)),
    Tool("mmdebstrap", ("mmdebstrap",)),
    Tool("/usr/share/keyrings/debian-archive-keyring.gpg", ("debian-archive-keyring",)),
)


@dataclass(frozen=True)
class Need:
    """What must be there before a verb runs."""

    tools: tuple[Tool, ...] = ()
    # Which file of pins the virtual environment is made from; empty for none.
    python: str = DEVELOPS
    sandbox: bool = False
    # The image of a Laravel application, which rehearsals take along.
    laravel: bool = False


NOTHING = Need(python="")
AWS = Need(tools=(SSH,), python=RUNS)
CHECK = Need(tools=(*REDIS, *PHP, *GPG))
SANITY = Need(tools=SHELL)
HOSTS = Need(tools=SANDBOX, sandbox=True)
MACHINES = Need(tools=(*SANDBOX, QEMU), sandbox=True)
REHEARSAL = Need(tools=SANDBOX, sandbox=True, laravel=True)
EVERYTHING = Need(tools=(*SANDBOX, *PHP, *GPG, *SHELL), sandbox=True, laravel=True)


def fingerprint(pins: str) -> str:
    """What the virtual environment was made from: pins, Python, and the place (scripts in it name their own path)."""
    made_by = repr(sys.version_info[:2]).encode()
    parts = [pins.encode(), (paths.ROOT / pins).read_bytes(), made_by, str(paths.VENV).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def venv_ready(pins: str) -> bool:
    """Whether the virtual environment is complete and made from today's pins; what tests need has all that runs."""
    if not paths.STAMP.is_file() or not os.access(paths.VENV / "bin" / "python", os.X_OK):
        return False
    return paths.STAMP.read_text() in {fingerprint(pins), fingerprint(DEVELOPS)}


def missing_tools(need: Need, machine: Machine) -> list[Tool]:
    """What apt has to bring."""
    wanted = list(need.tools)
    if need.python and not venv_ready(need.python) and importlib.util.find_spec("ensurepip") is None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        wanted.append(Tool(f"/usr/lib/{version}/ensurepip/__init__.py", (f"{version}-venv",)))
    return [tool for tool in wanted if not tool.present(machine.path)]
