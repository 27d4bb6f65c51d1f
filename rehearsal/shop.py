# SPDX-License-Identifier: GPL-3.0-or-later
"""A Laravel application and the people who use it: what a loss of Redis must not show to them."""

from __future__ import annotations

import base64
import http.cookiejar
import json
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.work import Failed


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Failed(f"docker {' '.join(words[:2])} failed: {done.stderr.strip()}")
    return done.stdout


def free_port() -> int:
    """A port of this machine's loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Shop:
    """The verification application in a container of this machine, which is a client of the environment's Redis."""

    image: str
    folder: Path
    # The sandbox's own mark, so that taking the sandbox down takes the application away too.
    sandbox: str
    port: int = field(default_factory=free_port)

    @property
    def container(self) -> str:
        """The container's name."""
        return f"{self.sandbox}-shop"

    @property
    def env(self) -> Path:
        """Its .env, in the directory that is mounted."""
        return self.folder / "shop-env" / ".env"

    @property
    def variables(self) -> dict[str, Any]:
        """What an inventory says about it."""
        application = {"name": "shop", "hosts": "localhost", "place": "container", "path": "/srv/app"}
        application |= {"container": self.container, "env_file": str(self.env)}
        return {"laravel_env_applications": [application], "laravel_env_driver": "redis"}

    def start(self) -> None:
        """On files, as an application is before there is a Redis."""
        self.stop()
        self.env.parent.mkdir(parents=True, exist_ok=True)
        self.env.parent.chmod(0o755)
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.env.write_text(f"# The shop's own line.\nAPP_NAME=Verify\nAPP_KEY=base64:{key}\n")
        self.env.chmod(0o644)
        run = ["run", "-d", "--rm", "--name", self.container, "--label", f"spotcache-sandbox={self.sandbox}"]
        # The machine's own network: it stands at the VPC's gateway.
        run += ["--network", "host", "-e", f"PORT={self.port}", "-v", f"{self.env.parent}:/srv/env", self.image]
        _docker(*run, "sh", "-c", "ln -sf /srv/env/.env /srv/app/.env; exec verify web")
        deadline = time.monotonic() + 30
        while True:
            try:
                Person("nobody", self).ask("/")
                return
            except Failed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def stop(self) -> None:
        """Away with it."""
        subprocess.run(["docker", "rm", "-f", self.container], capture_output=True, timeout=60)

    def artisan(self, *words: str) -> str:
        """Run an artisan command as the application's user."""
        return _docker("exec", "-u", "www-data", self.container, "php", "artisan", *words)


@dataclass
class Person:
    """Somebody with a browser: keeps cookies, and knows who they are and how often they have been there."""

    name: str
    shop: Shop
    visits: int = 0
    jar: http.cookiejar.CookieJar = field(default_factory=http.cookiejar.CookieJar)

    def ask(self, path: str) -> dict[str, Any]:
        """One request, with whatever cookies there are."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.jar)
        )
        try:
            with opener.open(f"http://127.0.0.1:{self.shop.port}{path}", timeout=20) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except (OSError, ValueError) as error:
            raise Failed(f"the shop does not answer {path}: {error}") from None

    def visit(self) -> list[str]:
        """Count once more, and say what is not as this person left it. Nothing means that the session is alive."""
        found = self.ask(f"/counter?owner={self.name}")
        self.visits += 1
        problems = []
        if found["owner"] != self.name:
            problems.append(f"{self.name} was answered from the session of {found['owner'] or 'nobody'}")
        # The number is what tells: without its data Redis keeps the cookie's id and counts from one.
        if found["n"] != self.visits:
            problems.append(f"{self.name} was counted as visit {found['n']}, and it was {self.visits}")
        return problems
