"""The operator's key: from a file, from text, from an agent; and a sentence for each that will not do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.modules import operator_key_info as module


def made(folder: Path, name: str, *more: str, kind: str = "ed25519", passphrase: str = "") -> Path:
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "me@example.com", "-f", str(folder / name), *more]
    subprocess.run(words, check=True)
    return folder / name


def half(path: Path) -> str:
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


class Person:
    """A home, and an agent on request."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def asks(self, **options: str) -> dict[str, Any]:
        with patch_module_args(dict(options)), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return answer

    def adds(self, path: Path, passphrase: str = "") -> None:
        """To the agent; a program answers for the person."""
        answer = self.folder / "answer"
        answer.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
        answer.chmod(0o700)
        environment = {**os.environ, "SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-q", str(path)], check=True, env=environment)


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Person:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Person(tmp_path, capsys)


@pytest.fixture
def agent(person: Person, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = person.folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # it says where it listens once it does
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield
        process.terminate()


def test_the_private_key_at_its_usual_place(person: Person) -> None:
    path = made(person.folder / ".ssh", "id_ed25519")
    answer = person.asks()
    # Before ansible-core 2.22 modules tell their arguments as well.
    answer.pop("invocation", None)
    assert answer == {
        "changed": False,
        "public_key": half(path),
        "private_key_file": str(path),
        "source": str(path),
    }


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_private_key_that_is_named(person: Person, kind: str) -> None:
    path = made(person.folder, "mine", kind=kind)
    Path(f"{path}.pub").rename(person.folder / "elsewhere.pub")
    found = person.asks(private_key_file="~/mine")
    assert found["public_key"] == " ".join((person.folder / "elsewhere.pub").read_text().split()[:2])
    assert found["private_key_file"] == str(path)


@pytest.mark.usefixtures("agent")
def test_the_only_key_of_an_agent_as_awx_has_it(person: Person) -> None:
    path = made(person.folder, "machine")
    person.adds(path)
    found = person.asks()
    assert (found["public_key"], found["private_key_file"], found["source"]) == (half(path), "", "the agent")


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("as_file", [True, False])
def test_a_public_key_alone_says_which_of_an_agents(person: Person, as_file: bool) -> None:
    first, second = made(person.folder, "one"), made(person.folder, "two", kind="rsa")
    person.adds(first)
    person.adds(second)
    assert "has 2 keys, and spot_host_ssh_public_key does not say which" in person.asks()["msg"]
    asked = "~/two.pub" if as_file else Path(f"{second}.pub").read_text()
    found = person.asks(public_key=asked)
    assert (found["public_key"], found["private_key_file"]) == (half(second), "")


@pytest.mark.usefixtures("agent")
def test_a_passphrase_is_for_the_agent_only(person: Person) -> None:
    path = made(person.folder, "safe", passphrase="a long one")
    refused = person.asks(private_key_file=str(path))["msg"]
    assert "it has a passphrase" in refused
    assert "ssh-add" in refused
    person.adds(path, "a long one")
    assert person.asks(private_key_file=str(path))["public_key"] == half(path)
    Path(f"{path}.pub").unlink()
    assert "give it as spot_host_ssh_public_key" in person.asks(private_key_file=str(path))["msg"]


ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJVZmQ5bO0TTnQhCl8v2sGfcXk8F2D1kYq2cN8b3dA1e"
BAD: dict[str, tuple[dict[str, str], list[str]]] = {
    "nothing": ({}, ["no SSH key to log in with", "spot_host_ssh_private_key_file", "ssh-keygen -t ed25519"]),
    "no such file": ({"private_key_file": "/nowhere/id"}, ["is '/nowhere/id'", "no such file"]),
    "no such public file": ({"public_key": "~/nowhere.pub"}, ["nowhere.pub', which cannot be read", "No such file"]),
    "no agent": ({"public_key": ED25519}, ["Nobody has the private half", "no SSH agent holds it"]),
    "a word": ({"public_key": "ssh-ed25519 me@example.com"}, ["what follows 'ssh-ed25519' is damaged"]),
    "another's type": (
        {"public_key": ED25519.replace("ssh-ed25519", "ssh-rsa")},
        ["says 'ssh-rsa', and what follows is 'ssh-ed25519'"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_will_not_do_gets_a_sentence(person: Person, case: str) -> None:
    options, words = BAD[case]
    said = person.asks(**options)["msg"]
    assert [word for word in words if word not in said] == [], said


def test_ec2_takes_no_other_types(person: Person) -> None:
    path = made(person.folder, "other", kind="ecdsa")
    assert "EC2 takes ssh-ed25519 and ssh-rsa only" in person.asks(private_key_file=str(path))["msg"]


def test_a_private_half_in_the_public_ones_place(person: Person) -> None:
    path = made(person.folder, "mine")
    assert "is no public key" in person.asks(public_key=str(path))["msg"]
    assert "PRIVATE" not in person.asks(public_key=str(path))["msg"]


def test_two_halves_of_different_keys(person: Person) -> None:
    one, two = made(person.folder, "one"), made(person.folder, "two")
    refused = person.asks(private_key_file=str(one), public_key=f"{two}.pub")["msg"]
    assert "is not the public half" in refused
    assert person.asks(private_key_file=str(one), public_key=f"{one}.pub")["public_key"] == half(one)
