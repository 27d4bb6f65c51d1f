# SPDX-License-Identifier: GPL-3.0-or-later
"""The role laravel_env against the real Laravel, php-fpm and Redis."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.spotcache.redis.plugins.modules import laravel_app
from moto.server import ThreadedMotoServer

from dev.program import POOL
from dev.sample_app.laravel import image
from dev.sample_app.shop import Person, Shop
from dev.sandboxes import Play
from dev.work import ROOT
from tests.unit.laravel.support import LAYOUTS, configuration
from tests.unit.redis import certificates
from tests.unit.redis.certificates import Authority

PREFIX = "t-laravel"
# Every character that has ever gone wrong in a .env.
PASSWORD = "p@ss \"w'0rd#1\\ a$b${HOME} ☃="
OTHER_PASSWORD = "another # one, with ${HOME} and 'quotes'"
CONFIG = "/srv/app/bootstrap/cache/config.php"
KEY = "base64:" + "A" * 43 + "="
ENV = (
    f"# mine, and it stays\r\nAPP_NAME=Verify\r\nAPP_KEY={KEY}\r\nMETHOD_CACHE_DRIVER=file # for now\r\nOTHER='x y'\r\n"
)


def docker(*words: str, check: bool = True, stdin: str | None = None) -> str:
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


def wait_for(what: str, *words: str) -> None:
    deadline = time.monotonic() + 120
    while subprocess.run(["docker", *words], capture_output=True, timeout=30).returncode:
        assert time.monotonic() < deadline, f"{what} does not come up"
        time.sleep(0.2)


@dataclass(frozen=True)
class Server:
    """A Redis in a container of its own."""

    name: str
    port: int
    password: str

    @property
    def variables(self) -> dict[str, Any]:
        """What an environment says about it."""
        there: dict[str, Any] = {"laravel_env_redis_host": self.name, "laravel_env_redis_port": self.port}
        return {**there, "laravel_env_redis_password": self.password}

    def start(self, image: str) -> None:
        """Start it, with a password that neither a process list nor Docker's own records show."""
        escaped = self.password.replace("\\", "\\\\").replace('"', '\\"')
        settings = f'port {self.port}\nrequirepass "{escaped}"\nprotected-mode no\nsave ""\ndir /tmp\ndaemonize yes\n'
        docker("run", "-d", "-i", "--rm", "--name", self.name, "--network", PREFIX, image, "sh", "-c", "sleep infinity")
        docker("exec", "-i", self.name, "sh", "-c", "umask 077; cat > /tmp/redis.conf", stdin=settings)
        self.serve()

    def serve(self) -> None:
        """Run the server in its container."""
        docker("exec", self.name, "redis-server", "/tmp/redis.conf")
        wait_for(self.name, "exec", self.name, "redis-cli", "-p", str(self.port), "ping")

    def cli(self, *words: str) -> str:
        """Ask it."""
        password = ["-e", f"REDISCLI_AUTH={self.password}"]
        return docker("exec", *password, self.name, "redis-cli", "-p", str(self.port), *words)


@dataclass(frozen=True)
class World:
    """The network, the image and the two Redis that all tests here share."""

    image: str
    # The newest Laravel that Debian has.
    newest: str
    redis: Server = Server(f"{PREFIX}-redis", 6379, PASSWORD)
    moved: Server = Server(f"{PREFIX}-moved", 6390, OTHER_PASSWORD)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    built = World(image.ensure("12"), image.ensure("13"))
    remove()
    try:
        docker("network", "create", "--label", f"spotcache-sandbox={PREFIX}", PREFIX)
        built.redis.start(built.image)
        built.moved.start(built.image)
        yield built
    finally:
        remove()


def remove() -> None:
    for name in docker("ps", "-aq", "--filter", f"name=^{PREFIX}").split():
        docker("rm", "-f", "-v", name, check=False)
    docker("network", "rm", PREFIX, check=False)


@dataclass
class App:
    """One application in a container of its own, whose .env lies in a mounted directory."""

    world: World
    folder: Path
    name: str = f"{PREFIX}-web"
    # One of the skeletons in dev/sample_app/laravel/layouts; empty: stores for methods and batches.
    layout: str = ""
    # Whether supervisor keeps a queue worker and schedule:work beside it.
    workers: bool = False

    @property
    def env(self) -> Path:
        return self.folder / "env" / ".env"

    def start(self, env: str = ENV) -> None:
        self.env.parent.mkdir(mode=0o755, exist_ok=True)
        self.folder.chmod(0o755)
        self.env.write_bytes(env.encode())
        self.env.chmod(0o644)
        start = "ln -sf /srv/env/.env /srv/app/.env; exec verify web"
        mount = f"{self.env.parent}:/srv/env"
        docker(
            "run",
            "-d",
            "--rm",
            "--name",
            self.name,
            "--network",
            PREFIX,
            "-v",
            mount,
            "-e",
            f"LAYOUT={self.layout}",
            "-e",
            f"WORKERS={'yes' if self.workers else ''}",
            self.world.newest if self.layout else self.world.image,
            "sh",
            "-c",
            start,
        )
        wait_for(self.name, "exec", self.name, "curl", "-sf", "-m", "5", "localhost/diag")

    def get(self, path: str, *options: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            docker("exec", self.name, "curl", "-s", "-m", "20", *options, f"localhost{path}")
        )
        return answer

    def count(self) -> int:
        return int(self.get("/counter", "-b", "/tmp/jar", "-c", "/tmp/jar")["n"])

    def artisan(self, *words: str) -> str:
        return docker("exec", "-u", "www-data", self.name, "php", "artisan", *words)

    def shell(self, text: str) -> str:
        return docker("exec", self.name, "sh", "-ec", text)

    def supervised(self) -> dict[str, str]:
        """What supervisor keeps, and the numbers of the processes. It calls one RUNNING that has lived for a second."""
        deadline = time.monotonic() + 60
        while True:
            # With one that is still starting, its own exit code is another.
            told = docker("exec", self.name, "supervisorctl", "status", check=False)
            lines = [line.split() for line in told.splitlines()]
            if lines and all(line[1] == "RUNNING" for line in lines):
                break
            assert time.monotonic() < deadline, lines
            time.sleep(0.2)
        return {line[0]: line[3] for line in lines}

    def play(self, *arguments: str, **variables: Any) -> tuple[int, Play]:
        """Run the role, as one of the environment stg."""
        application = {"name": "shop", "place": "container", "path": "/srv/app", "container": self.name}
        application |= {"env_file": str(self.env), **variables.pop("application", {})}
        given = {
            "laravel_env_environment": "stg",
            **self.world.redis.variables,
            "laravel_env_applications": [application],
            "laravel_env_timeout": 2,
            **variables,
        }
        return run_role(self.folder, given, *arguments)


def run_role(folder: Path, variables: dict[str, Any], *arguments: str, tasks_from: str = "main") -> tuple[int, Play]:
    host = variables.pop("host", {"ansible_connection": "local", "ansible_python_interpreter": sys.executable})
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": {"here": host}}}))
    (folder / "vars.json").write_text(json.dumps(variables))
    role = {"name": "spotcache.redis.laravel_env", "tasks_from": tasks_from}
    task = {"name": "Use the role", "ansible.builtin.import_role": role}
    play = {"hosts": "all", "gather_facts": False, "environment": variables.pop("environment", {}), "tasks": [task]}
    (folder / "play.json").write_text(json.dumps([play]))
    words = ["play.json", "-i", "inventory.json", "-e", "@vars.json", *arguments]
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": "/usr/bin:/bin:/usr/sbin",
    }
    environment |= {"HOME": str(folder), "LANG": "C.UTF-8", "ANSIBLE_INVENTORY": "inventory.json"}
    code, text = POOL.run(words, environment, folder / "run.log", cwd=folder)
    for secret in (PASSWORD, json.dumps(PASSWORD)[1:-1], "a$b${HOME}", OTHER_PASSWORD, "another # one", KEY):
        assert secret not in text
    return code, Play(text, 0)


def said(play: Play) -> str:
    """The output with its line breaks undone."""
    return re.sub(r"\s+", " ", play.text)


@pytest.fixture
def app(world: World, tmp_path: Path) -> Iterator[App]:
    made = App(world, tmp_path)
    try:
        made.start()
        yield made
    finally:
        docker("rm", "-f", made.name, check=False)


def test_check_apply_again(app: App) -> None:
    code, planned = app.play("--check", "--diff")
    assert code == 0, planned.text
    assert planned.changed == 1
    assert "+SESSION_DRIVER=redis" in planned.text
    assert "REDIS_PASSWORD=(not shown, new)" in planned.text
    assert app.env.read_bytes().decode() == ENV

    code, done = app.play("--diff")
    assert code == 0, done.text
    assert done.changed == 1
    found = app.get("/diag")
    assert (found["method"], found["batch"], found["session"]) == ("redis", "redis", "redis")
    assert [one["ping"] for one in found["connections"].values()] == ["true", "true"]
    assert [app.count(), app.count()] == [1, 2]
    warmed = json.loads(app.artisan("batch:warm"))
    assert app.get("/batch/1")["value"] == {"i": 1, "run": warmed["run"]}
    written = app.env.read_bytes().decode()
    assert written.startswith(ENV.replace("METHOD_CACHE_DRIVER=file # for now", "METHOD_CACHE_DRIVER=redis # for now"))
    assert written.count("\n") == written.count("\r\n")
    assert oct(app.env.stat().st_mode & 0o777) == "0o640"
    assert sorted(path.name for path in app.env.parent.iterdir()) == [".env", ".env.backup"]

    for arguments in ((), ("--check",)):
        code, again = app.play(*arguments)
        assert code == 0, again.text
        assert again.changed == 0
    assert app.env.read_bytes().decode() == written
    assert app.count() == 3
    assert app.shell("ls /srv/app/storage/framework | grep spotcache || true") == ""


def test_a_moved_redis_is_followed_where_the_configuration_is_cached(app: App) -> None:
    assert app.play()[0] == 0
    app.artisan("config:cache")
    # By whoever deploys, who is not who serves.
    app.shell(
        f"chown deploy:deploy {CONFIG}; chmod 0664 {CONFIG}; sleep 3; curl -s localhost/diag; curl -s localhost/diag"
    )
    assert app.get("/diag")["cached"] is True
    code, done = app.play(**app.world.moved.variables)
    assert code == 0, done.text
    assert done.changed == 2
    found = app.get("/diag")
    assert found["cached"] is True
    there = [(one["host"], str(one["port"]), one["ping"]) for one in found["connections"].values()]
    assert there == [(app.world.moved.name, str(app.world.moved.port), "true")] * 2
    assert app.shell(f"stat -c %a:%U:%G {CONFIG}").strip() == "664:deploy:deploy"
    assert app.shell(f"stat -c %a:%U {CONFIG}.backup").strip() == "600:root"
    assert app.play(**app.world.moved.variables)[1].changed == 0
    # A cache that is older than the .env is made anew, although the .env is right.
    app.shell(f"sed -i s/{app.world.moved.name}/{app.world.redis.name}/ /srv/app/bootstrap/cache/config.php")
    app.shell("php -r 'touch(\"/srv/app/bootstrap/cache/config.php\");'")
    code, done = app.play(**app.world.moved.variables)
    assert code == 0, done.text
    assert done.changed == 1


def test_a_stock_skeleton_goes_to_redis_and_back_with_all_that_runs_on(world: World, tmp_path: Path) -> None:
    app = App(world, tmp_path, layout="skeleton", workers=True)
    try:
        # REDIS_DB is where the skeleton's own default has its caches.
        app.start(
            f"APP_NAME=Verify\nAPP_KEY={KEY}\nREDIS_DB=1\nREDIS_URL=redis://nowhere:1/5\nREDIS_USERNAME=left-over\n"
        )
        # Whoever deploys is not who serves.
        app.shell(f"chown deploy:deploy {CONFIG.rpartition('/')[0]}; runuser -u deploy -- php artisan config:cache")
        app.shell(f"chmod 0664 {CONFIG}")
        assert app.count() == 1
        app.artisan("job:send", "1", "5")
        running = app.supervised()
        code, planned = app.play("--check")
        assert code == 0, planned.text
        assert "the default store: database -> redis (CACHE_STORE)." in said(planned)
        assert "REDIS_URL is removed: what it says goes into the keys for host, port and password." in said(planned)
        assert "queue:work (process " in said(planned)
        assert app.supervised() == running
        # Two lines of an inventory say all of it: its name, and where it is.
        code, done = app.play()
        assert code == 0, done.text
        assert set(app.supervised().values()).isdisjoint(running.values())
        assert app.shell(f"stat -c %a:%U:%G {CONFIG}").strip() == "664:deploy:deploy"
        found = app.get("/stores")
        assert (found["default"], found["session"]) == ("redis", "redis")
        app.artisan("job:send", "6", "10")
        assert [app.count(), app.count()] == [1, 2]
        app.artisan("cache:clear")
        assert app.count() == 3
        assert app.play()[1].changed == 0
        # Redis goes, and comes back elsewhere with what was in it.
        world.redis.cli("save")
        docker("cp", f"{world.redis.name}:/tmp/dump.rdb", str(tmp_path / "dump.rdb"))
        docker("pause", world.redis.name)
        try:
            # The worker may hang on a Redis that takes connections and says nothing; the site does not wait for it.
            code, done = app.play("-e", "laravel_env_fallback=file", laravel_env_patience=3)
            assert code == 0, done.text
            # Each within the client's 20 s, and a Redis that never answers is waited for for a minute.
            assert app.count() == 1
            assert app.get("/stores") == {"default": "file", "session": "file"}
            app.artisan("job:send", "11", "15")
            world.moved.cli("shutdown", "nosave")
            docker("cp", str(tmp_path / "dump.rdb"), f"{world.moved.name}:/tmp/dump.rdb")
            world.moved.serve()
            code, done = app.play(**world.moved.variables, laravel_env_patience=3)
            assert code == 0, done.text
        finally:
            docker("unpause", world.redis.name)
        assert app.get("/stores") == found
        # The session that was there before the loss; the one of meanwhile was in a file.
        assert app.count() == 4
        app.artisan("job:send", "16", "20")
        wait_for("the last job", "exec", app.name, "grep", "-q", "^20 redis$", "storage/logs/jobs")
        jobs = [line.split() for line in app.shell("cat storage/logs/jobs").splitlines()]
        assert sorted(int(number) for number, _store in jobs) == list(range(1, 21))
        assert app.play(**world.moved.variables)[1].changed == 0
    finally:
        docker("rm", "-f", app.name, check=False)
        world.moved.cli("flushall")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_plans_are_tried_with_is_what_applications_say(world: World, tmp_path: Path, layout: str) -> None:
    app = App(world, tmp_path, layout="" if layout == "stores" else layout)
    try:
        app.start(f"APP_NAME=Verify\nAPP_KEY={KEY}\n")
        application = laravel_app.Application("/srv/app", "www-data", "php", app.name, "auto", 2)
        told, known = laravel_app.describe(application), configuration(layout)
        assert {name: told[name] for name in known} == known
    finally:
        docker("rm", "-f", app.name, check=False)


@pytest.fixture(scope="module")
def encrypted(world: World) -> Authority:
    """Whose certificates a Redis shows that speaks TLS alone and knows no user but `app`; it goes with the world."""
    authority, name = Authority(), f"{PREFIX}-encrypted"
    issued = authority.issue()
    alias = ["--network", PREFIX, "--network-alias", certificates.NAME]
    docker("run", "-d", "-i", "--rm", "--name", name, *alias, world.image, "sh", "-c", "sleep infinity")
    files = {
        "tls.crt": issued.certificate,
        "tls.key": issued.private_key,
        "ca.crt": issued.authority,
        "users.acl": "user default off\n"
        "user app on >correct-horse-battery ~* &* +@all -@admin -@dangerous +flushdb +info\n",
        "redis.conf": "port 0\ntls-port 6379\ntls-auth-clients no\ntls-cert-file /tmp/tls.crt\n"
        "tls-key-file /tmp/tls.key\ntls-ca-cert-file /tmp/ca.crt\naclfile /tmp/users.acl\n"
        'protected-mode no\nsave ""\ndir /tmp\ndaemonize yes\n',
    }
    for file, text in files.items():
        docker("exec", "-i", name, "sh", "-c", f"umask 077; cat > /tmp/{file}", stdin=text)
    docker("exec", name, "redis-server", "/tmp/redis.conf")
    return authority


@pytest.mark.parametrize(("layout", "client"), [("", "phpredis"), ("", "predis"), ("skeleton", "phpredis")])
def test_over_tls_with_a_user_of_its_own(
    world: World, encrypted: Authority, tmp_path: Path, layout: str, client: str
) -> None:
    app = App(world, tmp_path, layout=layout)
    given = {
        "laravel_env_redis_host": certificates.NAME,
        "laravel_env_redis_username": "app",
        "laravel_env_redis_password": "correct-horse-battery",
        "laravel_env_redis_tls": True,
    }
    try:
        app.start(f"APP_NAME=Verify\nAPP_KEY={KEY}\nREDIS_CLIENT={client}\n")
        before = app.env.read_bytes()
        # PHP does not know the authority yet, and believes nobody.
        code, done = app.play(**given)
        assert code != 0
        assert "certificate verify failed" in said(done) or "Unable to connect" in said(done), done.text
        assert app.env.read_bytes() == before
        docker("exec", "-i", app.name, "sh", "-c", "cat > /etc/spotcache-ca.crt", stdin=encrypted.pem)
        app.shell("for one in /etc/php/*/*/conf.d; do echo openssl.cafile=/etc/spotcache-ca.crt > $one/99-ca.ini; done")
        app.shell("pkill -USR2 -o php-fpm; sleep 1")
        code, done = app.play(**given)
        assert code == 0, done.text
        assert [app.count(), app.count()] == [1, 2]
        assert app.play(**given)[1].changed == 0
    finally:
        docker("rm", "-f", app.name, check=False)


def test_what_only_php_fpm_gets_wrong_is_taken_back(app: App) -> None:
    assert app.play()[0] == 0
    before = app.env.read_bytes()
    # php-fpm alone has this variable, so artisan finds nothing wrong; a cached configuration ignores it.
    app.shell("echo 'env[BATCH_CACHE_DRIVER] = array' >> /etc/php/8.2/fpm/pool.d/www.conf")
    app.shell("pkill -USR2 -o php-fpm; sleep 1")
    code, done = app.play(**app.world.moved.variables)
    assert code != 0
    assert "php-fpm uses the driver 'array' for the store batch, not 'redis'" in said(done)
    assert "BATCH_CACHE_DRIVER stands in the environment" in said(done)
    assert f"Put back: {app.env} (0640 root:www-data). It answers, and uses what it used before." in said(done)
    assert app.env.read_bytes() == before

    # And with a cache, which php-fpm is not allowed to read once it is made anew.
    app.shell("sed -i /BATCH_CACHE_DRIVER/d /etc/php/8.2/fpm/pool.d/www.conf")
    app.shell("echo 'php_admin_value[open_basedir] = /srv/app/public' >> /etc/php/8.2/fpm/pool.d/www.conf")
    app.artisan("config:cache")
    app.shell(f"chown deploy:deploy {CONFIG}; chmod 0664 {CONFIG}")
    cached = app.shell(f"cat {CONFIG}")
    app.shell("pkill -USR2 -o php-fpm; sleep 1")
    code, done = app.play(**app.world.moved.variables)
    assert code != 0
    assert "open_basedir" in said(done) or "No input file specified" in said(done)
    assert app.env.read_bytes() == before
    assert app.shell(f"cat {CONFIG}") == cached
    assert f"{CONFIG} (0664 " in said(done)
    assert "It is not as it was" in said(done), done.text
    assert app.shell(f"stat -c %a:%U:%G {CONFIG}").strip() == "664:deploy:deploy"
    # As soon as php-fpm may read again, it serves what it served before.
    app.shell("sed -i /open_basedir/d /etc/php/8.2/fpm/pool.d/www.conf; pkill -USR2 -o php-fpm; sleep 1")
    assert app.get("/diag")["connections"]["default"]["host"] == app.world.redis.name


def test_a_wrong_password_never_reaches_the_application(app: App) -> None:
    before = app.env.read_bytes()
    code, done = app.play(laravel_env_redis_password="not-the-right-one-1")
    assert code != 0
    assert "WRONGPASS invalid username-password pair" in said(done)
    assert "Its .env is as it was." in said(done)
    assert "not-the-right-one-1" not in done.text
    assert app.env.read_bytes() == before
    assert [path.name for path in app.env.parent.iterdir()] == [".env"]
    assert app.get("/diag")["method"] == "file"


def test_on_files_while_redis_is_gone_and_back(app: App) -> None:
    assert app.play()[0] == 0
    first = app.get("/diag")
    docker("pause", app.world.redis.name)
    try:
        code, done = app.play("-e", "laravel_env_fallback=file")
        assert code == 0, done.text
        found = app.get("/diag?quiet=1")
        assert (found["method"], found["batch"], found["session"]) == ("file", "file", "file")
        assert app.count() == 1
        assert app.play("-e", "laravel_env_fallback=file")[1].changed == 0
        # Back too early: the old Redis accepts and never answers.
        before = app.env.read_bytes()
        code, done = app.play(laravel_env_timeout=1)
        assert code != 0
        assert "read error on connection" in said(done)
        assert app.env.read_bytes() == before
    finally:
        docker("unpause", app.world.redis.name)
    assert app.play()[0] == 0
    assert app.get("/diag") == first


def test_a_worker_that_belongs_to_nobody_is_named_before_anything_is_changed(app: App) -> None:
    # Its default store is one that moves with the change.
    app.env.write_bytes(ENV.replace("OTHER=", "CACHE_DRIVER=method\r\nOTHER=").encode())
    docker("exec", "-d", "-u", "www-data", app.name, "php", "artisan", "queue:work", "--sleep=1")
    before = app.env.read_bytes()
    code, done = app.play()
    assert code != 0
    assert "queue:work (process " in said(done)
    assert "belongs to nobody who would start it anew" in said(done)
    assert app.env.read_bytes() == before
    # Elsewhere, where no run reaches it, one is told by the cache, where that was before the change.
    code, done = app.play(application={"workers": True, "leave": ["queue:work"]})
    assert code == 0, done.text
    wait_for("the worker's end", "exec", app.name, "sh", "-c", "! pgrep -f queue[:]work")


def test_an_application_on_the_host_itself(app: App) -> None:
    # The container is the host here: plain file, user by name, socket of Debian's pool.
    app.shell(
        "rm /srv/app/.env; cp /srv/env/.env /srv/app/.env; chown root:root /srv/app/.env; chmod 644 /srv/app/.env"
    )
    host = {"ansible_connection": "community.docker.docker", "ansible_host": app.name}
    host |= {"ansible_python_interpreter": "/usr/bin/python3"}
    variables = {"application": {"place": "host", "container": "", "env_file": ""}, "host": host}
    code, done = app.play(**variables)
    assert code == 0, done.text
    assert app.shell("stat -c %a:%U:%G /srv/app/.env").strip() == "640:root:www-data"
    assert app.get("/diag")["session"] == "redis"
    variables = {"application": {"place": "host", "container": "", "env_file": ""}, "host": host}
    assert app.play(**variables)[1].changed == 0


def test_two_applications_one_after_the_other(app: App, tmp_path: Path) -> None:
    other = App(app.world, tmp_path / "other", f"{PREFIX}-other")
    other.folder.mkdir()
    try:
        other.start(ENV.replace("Verify", "Other"))
        common = {"place": "container", "path": "/srv/app"}
        applications = [
            {"name": "shop", "container": app.name, "env_file": str(app.env), **common},
            {"name": "other", "container": other.name, "env_file": str(other.env), **common},
        ]
        applications[1] |= {"drivers": {"batch": "file"}}  # type: ignore[dict-item]
        code, done = app.play(laravel_env_applications=applications)
        assert code == 0, done.text
        assert other.get("/diag")["batch"] == "file"
        assert other.get("/diag")["connections"]["session"]["database"] == "3"
        assert app.play(laravel_env_applications=applications)[1].changed == 0
    finally:
        docker("rm", "-f", other.name, check=False)


def test_people_stay_who_they_are_while_redis_moves(world: World, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    shop = Shop(world.image, tmp_path, PREFIX)

    def follow(server: Server) -> Play:
        inspect = ["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", server.name]
        there = {**server.variables, "laravel_env_redis_host": docker(*inspect).strip()}
        given = {"laravel_env_environment": "sandbox", **shop.variables, **there}
        given["laravel_env_applications"][0]["hosts"] = "here"
        code, done = run_role(tmp_path, given)
        assert code == 0, done.text
        return done

    try:
        shop.start()
        assert Person("early", shop).visit() == []
        follow(world.redis)
        people = [Person(name, shop) for name in ("ann", "bob")]
        for _ in range(2):
            assert [one.visit() for one in people] == [[], []]
        run = json.loads(shop.artisan("batch:warm"))["run"]
        value = people[0].ask("/method/price")["value"]
        world.redis.cli("save")
        dump = tmp_path / "dump.rdb"
        docker("cp", f"{world.redis.name}:/tmp/dump.rdb", str(dump))
        world.moved.cli("shutdown", "nosave")
        docker("cp", str(dump), f"{world.moved.name}:/tmp/dump.rdb")
        world.moved.serve()
        follow(world.moved)
        world.redis.cli("flushall")
        assert [one.visit() for one in people] == [[], []]
        assert people[1].ask("/batch/7")["value"]["run"] == run
        assert people[1].ask("/method/price") == {"key": "price", "hit": True, "value": value}
        assert follow(world.moved).changed == 0
        # What these people would say if the data had not come along.
        world.moved.cli("flushall")
        assert people[0].visit() == ["ann was counted as visit 1, and it was 4"]
    finally:
        shop.stop()


def test_parameters_for_a_container_of_ecs(tmp_path: Path) -> None:
    account = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        account["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
        shop: dict[str, Any] = {
            "name": "shop",
            "place": "ssm",
            "parameter_path": "/stg/shop",
            "layout": "stores",
            "values": {"NOTHING": ""},
        }
        common: dict[str, Any] = {"laravel_env_environment": "stg", "laravel_env_redis_host": "10.0.0.4"}
        common |= {"laravel_env_redis_password": PASSWORD, "environment": account}

        def run(*arguments: str, **more: Any) -> Play:
            given = {**common, "laravel_env_applications": [{**shop, **more}]}
            code, done = run_role(tmp_path, given, *arguments, tasks_from="parameters")
            assert code == 0, done.text
            return done

        def stored() -> dict[str, tuple[str, str]]:
            client = boto3.client(
                "ssm",
                endpoint_url=account["AWS_ENDPOINT_URL"],
                region_name="us-east-1",
                aws_access_key_id="testing",
                aws_secret_access_key="testing",
            )
            pages = client.get_paginator("get_parameters_by_path").paginate(Path="/stg/shop", WithDecryption=True)
            return {one["Name"]: (one["Type"], one["Value"]) for page in pages for one in page["Parameters"]}

        assert run("--check").changed > 0
        assert stored() == {}
        assert run("--diff").changed > 0
        found = stored()
        assert found["/stg/shop/SESSION_REDIS_PASSWORD"] == ("SecureString", PASSWORD)
        assert found["/stg/shop/SESSION_DRIVER"] == ("String", "redis")
        assert found["/stg/shop/NOTHING"] == ("String", "(empty)")
        # All the others stay as they are.
        assert run(values={}, remove=["NOTHING"]).changed == 1
        assert "/stg/shop/NOTHING" not in stored()
    finally:
        server.stop()


# One of each kind: that the sentences are right is shown without a container, with the modules that say them.
@pytest.mark.parametrize(
    ("spoil", "variables", "message"),
    [
        ("", {"application": {"container": "t-laravel-none"}}, "The container t-laravel-none is not there"),
        ("rm /srv/env/.env", {}, ".env does not exist: deploy the application first"),
        ("", {"laravel_env_driver": "reddis"}, "value of laravel_env_driver must be one of"),
        ("", {"application": {"fpm": "127.0.0.1:1"}}, "php-fpm does not answer at 127.0.0.1:1"),
        (
            "sed -i \"s|env('REDIS_URL')|'redis://elsewhere'|\" /srv/app/config/database.php",
            {},
            "the Redis connection default has a URL that is written into config/database.php",
        ),
    ],
)
def test_bad_input_changes_nothing(app: App, spoil: str, variables: dict[str, Any], message: str) -> None:
    app.shell(spoil or "true")
    before = app.env.read_bytes() if app.env.exists() else None
    code, done = app.play(**variables)
    assert code != 0
    assert message in said(done).replace('\\"', '"')
    assert (app.env.read_bytes() if app.env.exists() else None) == before
    assert done.changed == 0


def test_a_file_mounted_alone_is_refused(app: App) -> None:
    docker("rm", "-f", app.name)
    mount = f"{app.env}:/srv/app/.env"
    docker("run", "-d", "--rm", "--name", app.name, "--network", PREFIX, "-v", mount, app.world.image, "verify", "web")
    code, done = app.play()
    assert code != 0
    assert "mounted into the container t-laravel-web as a single file" in said(done)
    assert app.env.read_bytes().decode() == ENV
