# SPDX-License-Identifier: GPL-3.0-or-later
"""A Laravel application and the people who use it: what a loss of Redis must not show to them."""

from __future__ import annotations

import base64
import contextlib
import http.cookiejar
import ipaddress
import json
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.ports import Port
from dev.work import Failed

# The application's host in an inventory of its own.
HOST = "shop-web"
# Those of its caches and its sessions; nothing else is in them.
DATABASES = (14, 15)


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Failed(f"docker {' '.join(words[:2])} failed: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Shop:
    """The verification application in a container of this machine, which is a client of the environment's Redis."""

    image: str
    folder: Path
    # The sandbox's own mark, so that taking the sandbox down takes the application away too.
    sandbox: str
    # The network of the VPC whose resolver knows the name of Redis; empty: the machine's own names.
    network: str = ""
    port: int = field(default_factory=Port)

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
        application: dict[str, Any] = {"name": "shop", "hosts": HOST, "place": "container", "path": "/srv/app"}
        application |= {"container": self.container, "env_file": str(self.env)}
        application |= dict(zip(("database", "session_database"), DATABASES, strict=True))
        # Never run before: a restore has to take its data for lost.
        batch = {"command": "batch:slow", "arguments": ["--steps=1", "--pause=0"], "timeout": 60}
        batches = {"name": "shop", "hosts": HOST, "place": "container", "path": "/srv/app", "container": self.container}
        return {
            "laravel_env_applications": [application],
            "laravel_env_driver": "redis",
            "laravel_batch_applications": [{**batches, "batches": [batch]}],
            "laravel_batch_directory": str(self.folder / "shop-batch"),
            "laravel_batch_report": str(self.batch_report),
        }

    @property
    def batch_report(self) -> Path:
        """Where a playbook tells of its batches."""
        return self.folder / "shop-batch.json"

    def batches(self) -> dict[str, str]:
        """The batches of the last run and what has become of them."""
        if not self.batch_report.exists():
            return {}
        return {str(one["id"]): str(one["state"]) for one in json.loads(self.batch_report.read_text())["runs"]}

    @property
    def inventory(self) -> Path:
        """An inventory with the application and its host, which is this machine; it stands beside the environment's."""
        path = self.folder / "shop.json"
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        path.write_text(json.dumps({"all": {"hosts": {HOST: host}, "vars": self.variables}}))
        return path

    def start(self) -> None:
        """On files, as an application is before there is a Redis."""
        self.stop()
        self.batch_report.unlink(missing_ok=True)
        self.env.parent.mkdir(parents=True, exist_ok=True)
        self.env.parent.chmod(0o755)
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.env.write_text(f"# The shop's own line.\nAPP_NAME=Verify\nAPP_KEY=base64:{key}\n")
        self.env.chmod(0o644)
        run = ["run", "-d", "--rm", "--name", self.container, "--label", f"spotcache-sandbox={self.sandbox}"]
        # The machine's own network: it stands at the VPC's gateway.
        if self.network:
            run += ["--dns", str(ipaddress.ip_network(self.network)[2])]
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

    def open(self) -> list[str]:
        """Start it, and have somebody come while all is on files. Returns what is wrong."""
        self.start()
        found = Person("early", self).ask("/diag?quiet=1")
        drivers = {name: found[name] for name in ("method", "batch", "session") if found[name] != "file"}
        return [f"the application begins with {drivers} and not on files"] if drivers else []

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


@dataclass
class Watch:
    """Somebody who keeps asking for as long as the shop is watched: no answer may ever come from another's session."""

    person: Person
    pause: float = 1.0
    asked: int = 0
    failed: int = 0
    strangers: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[Watch]:
        """Ask beside whatever is done meanwhile. Without Redis there is an error, and that is all there may be."""
        over = threading.Event()

        def ask() -> None:
            while not over.wait(self.pause):
                self.asked += 1
                try:
                    owner = self.person.ask(f"/counter?owner={self.person.name}")["owner"]
                except Failed:
                    self.failed += 1
                else:
                    if owner != self.person.name:
                        self.strangers.append(str(owner))

        beside = threading.Thread(target=ask, daemon=True)
        beside.start()
        try:
            yield self
        finally:
            over.set()
            beside.join(30)


@dataclass
class Customers:
    """People with sessions, and what lies in the caches: made before a loss, and looked for after it."""

    shop: Shop
    run: str = ""
    value: str = ""

    def __post_init__(self) -> None:
        # Two of them: one alone could not be taken for another.
        self.people = [Person(name, self.shop) for name in ("ann", "bob")]

    def come(self) -> list[str]:
        """Count up twice each, and fill the caches. Returns what is wrong."""
        wrong = [problem for _ in range(2) for one in self.people for problem in one.visit()]
        self.run = str(json.loads(self.shop.artisan("batch:warm"))["run"])
        self.value = str(self.people[0].ask("/method/price")["value"])
        return wrong

    def come_back(self) -> list[str]:
        """Count on, and find the caches as they were. Returns what is wrong."""
        wrong = [problem for one in self.people for problem in one.visit()]
        item = self.people[1].ask("/batch/7")["value"] or {}
        if item.get("run") != self.run:
            wrong.append("the batch cache does not hold what the batch put there")
        found = self.people[1].ask("/method/price")
        if (found["hit"], found["value"]) != (True, self.value):
            wrong.append("the method cache does not hold what was put there")
        return wrong
