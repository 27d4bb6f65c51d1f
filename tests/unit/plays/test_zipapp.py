"""The action `zipapp`: the same bytes each time, a file that runs, check mode and idempotence."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.spotcache.redis.plugins.action.zipapp import members, pack

ROOT = Path(__file__).resolve().parents[3]
KEEPER = ROOT / "roles/keeper/files/spotcache_keeper"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    made = tmp_path / "greeter"
    (made / "inner").mkdir(parents=True)
    (made / "__init__.py").write_text('"""Greets."""\n')
    (made / "cli.py").write_text(
        "from greeter.inner.text import TEXT\n\n\ndef main():\n    print(TEXT)\n    return 7\n"
    )
    (made / "inner" / "__init__.py").write_text("")
    (made / "inner" / "text.py").write_text('TEXT = "hello"\n')
    return made


def test_the_same_files_give_the_same_bytes(package: Path, tmp_path: Path) -> None:
    first = pack(package, "greeter.cli:main", "/usr/bin/python3")
    copy = tmp_path / "elsewhere" / "greeter"
    shutil.copytree(package, copy)
    for number, path in enumerate(copy.rglob("*")):
        os.utime(path, (1_000_000_000 + number, 1_000_000_000 + number))
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "cli.cpython-311.pyc").write_bytes(b"x")
    (copy / "inner" / "text.pyc").write_bytes(b"x")
    assert pack(copy, "greeter.cli:main", "/usr/bin/python3") == first
    (copy / "inner" / "text.py").write_text('TEXT = "bye"\n')
    assert pack(copy, "greeter.cli:main", "/usr/bin/python3") != first


def test_names_are_in_order_and_below_the_packages_own(package: Path) -> None:
    assert list(members(package)) == [
        "greeter/__init__.py",
        "greeter/cli.py",
        "greeter/inner/__init__.py",
        "greeter/inner/text.py",
    ]


def test_the_file_runs(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "greet"
    path.write_bytes(pack(package, "greeter.cli:main", f"{sys.executable} -I"))
    path.chmod(0o755)
    done = subprocess.run([str(path)], capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stdout) == (7, "hello\n")
    assert zipfile.ZipFile(path).testzip() is None


def test_the_keeper_runs_from_one_file(tmp_path: Path) -> None:
    path = tmp_path / "spotcache-keeper"
    path.write_bytes(pack(KEEPER, "spotcache_keeper.cli:main", f"{sys.executable} -I"))
    path.chmod(0o755)
    done = subprocess.run([str(path), "--help"], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0
    assert "Backs up this host's Redis" in done.stdout
    done = subprocess.run(
        [str(path), "--config", "/nonexistent", "backup"], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 2
    assert "/nonexistent cannot be read" in done.stderr


def test_the_action_is_idempotent_and_honest_in_check_mode(package: Path, tmp_path: Path) -> None:
    dest = tmp_path / "greet"
    wanted = {
        "src": str(package),
        "main": "greeter.cli:main",
        "dest": str(dest),
        "uid": os.getuid(),
        "gid": os.getgid(),
    }
    bad = {**wanted, "main": "greeter"}
    missing = {**wanted, "src": str(tmp_path / "nothing")}

    def step(name: str, what: dict[str, object], **more: object) -> dict[str, object]:
        return {"name": name, "spotcache.redis.zipapp": what, "register": name, **more}

    tasks = [
        step("check_first", wanted, check_mode=True),
        {"name": "Look", "ansible.builtin.stat": {"path": str(dest)}, "register": "unwritten"},
        step("first", wanted),
        step("check_again", wanted, check_mode=True),
        step("again", wanted),
        {"name": "Loosen", "ansible.builtin.file": {"path": str(dest), "mode": "0777"}},
        step("mode", wanted),
        step("bad", bad, ignore_errors=True),
        step("missing", missing, ignore_errors=True),
        {
            "name": "Tell",
            "ansible.builtin.copy": {
                "dest": str(tmp_path / "told.json"),
                "content": "{{ {'changed': {'check_first': check_first.changed, 'first': first.changed, "
                "'check_again': check_again.changed, 'again': again.changed, 'mode': mode.changed}, "
                "'written_in_check_mode': unwritten.stat.exists, 'sha': [first.sha256, again.sha256] | unique "
                "| length, 'bad': bad.msg, 'missing': missing.msg} | to_json }}",
            },
        },
    ]
    (tmp_path / "play.json").write_text(
        json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}])
    )
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "--diff",
            "-i",
            "localhost,",
            str(tmp_path / "play.json"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["changed"] == {"check_first": True, "first": True, "check_again": False, "again": False, "mode": True}
    assert told["written_in_check_mode"] is False
    assert told["sha"] == 1
    assert "main is 'greeter': write it as package.module:function" in told["bad"]
    assert "nothing' is not on the control node" in told["missing"]
    assert dest.stat().st_mode & 0o777 == 0o755
    assert dest.read_bytes() == pack(package, "greeter.cli:main", "/usr/bin/python3")
