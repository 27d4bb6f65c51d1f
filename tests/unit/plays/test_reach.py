"""Whether and how a host is reached: choices that cannot reach it are refused, and ssh's options tell no secret."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.work import ROOT, tool

VPC = {"network_vpc_id": "vpc-0123456789abcdef0", "network_subnet_ids": ["subnet-1", "subnet-2"]}
PUBLIC = ["203.0.113.7/32"]
SSH = {"spot_host_connection": "ssh"}
# The variables of an inventory, and parts of the refusal; none where there is no refusal.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "as it comes": ({}, []),
    "own VPC, ssh": (
        SSH,
        ["spot_host_connection is 'ssh'", "not routed from here", "spot_host_connection: eice", "VPN"],
    ),
    "own VPC, ssh, routed": ({**SSH, "spot_host_ssh_routed": True}, []),
    "own VPC, ssh, public address, nobody let in": ({**SSH, "network_egress": "public_ipv4"}, ["203.0.113.7/32"]),
    "own VPC, ssh, public address, a private range": (
        {**SSH, "network_egress": "public_ipv4", "network_ssh_cidrs": ["10.1.0.0/16"]},
        ["name the public range from which you come in network_ssh_cidrs"],
    ),
    "own VPC, ssh, public address": ({**SSH, "network_egress": "public_ipv4", "network_ssh_cidrs": PUBLIC}, []),
    "own VPC, ssh, IPv6, a public range": ({**SSH, "network_ssh_cidrs": PUBLIC}, ["network_egress: public_ipv4"]),
    "existing VPC, ssh": ({**SSH, **VPC}, []),
    "existing VPC, ssh, not routed": ({**SSH, **VPC, "spot_host_ssh_routed": False}, ["not routed from here"]),
    "ssh, port closed": (
        {**SSH, **VPC, "network_ssh_cidrs": []},
        ["network_ssh_cidrs is empty, which closes port 22", "you come"],
    ),
    "jump, port closed": (
        {**VPC, "spot_host_connection": "jump", "network_ssh_cidrs": []},
        ["spot_host_connection is 'jump'", "the host to jump through comes"],
    ),
    "own VPC, jump": (
        {"spot_host_connection": "jump"},
        ["spot_host_connection is 'jump'", "the VPC is made here", "network_vpc_id", "spot_host_ssh_routed: true"],
    ),
    "own VPC, jump, routed": ({"spot_host_connection": "jump", "spot_host_ssh_routed": True}, []),
    "existing VPC, jump": ({**VPC, "spot_host_connection": "jump"}, []),
    "eice, port closed to all others": ({"network_ssh_cidrs": []}, []),
    "eice without an endpoint": (
        {"network_instance_connect_endpoint": "absent"},
        ["spot_host_connection is 'eice'", "network_instance_connect_endpoint is 'absent'"],
    ),
    "eice without a way out": ({"network_egress": "none"}, []),
    "ssm without a way out": (
        {"spot_host_connection": "ssm", "network_egress": "none"},
        ["cannot reach Session Manager", "spot_host_connection: eice"],
    ),
    "ssm over IPv6": ({"spot_host_connection": "ssm"}, []),
}
SECRET = {
    "AWS_ACCESS_KEY_ID": "AKIDOPEN",
    "AWS_SECRET_ACCESS_KEY": "nobody-may-read-this",
    "AWS_SESSION_TOKEN": "nor-this",
}
HOST: dict[str, Any] = {
    "spot_host_environment": "t",
    "spot_host_region": "ap-northeast-1",
    "spot_host_known_hosts_file": "/tmp/a b/known_hosts",
    "spot_host_result": {"instance_id": "i-1", "private_ip": "10.9.0.5", "public_ip": "203.0.113.9", "vpc_id": "vpc-1"},
    "spot_host__endpoint": {"id": "eice-1", "dns_name": "eice-1.example"},
    "spot_host__key": {"public_key": "ssh-ed25519 AAAA", "private_key_file": "/home/me/id"},
}
WAYS: dict[str, dict[str, Any]] = {
    "eice with a profile": {"spot_host_aws_environment": {"AWS_PROFILE": "stg one", "AWS_REGION": "ap-northeast-1"}},
    "eice with keys": {
        "spot_host_aws_environment": {**SECRET, "AWS_PROFILE": "other", "AWS_ENDPOINT_URL": "http://127.0.0.1:1/50%"}
    },
    "eice with an agent": {"spot_host__key": {"public_key": "ssh-ed25519 AAAA", "private_key_file": ""}},
    "eice with another account's keys": {
        "spot_host_aws_environment": {**SECRET, "AWS_ACCESS_KEY_ID": "AKIDOTHER", "AWS_SECRET_ACCESS_KEY": "other"}
    },
    "ssm with keys": {"spot_host_connection": "ssm", "spot_host_aws_environment": SECRET},
    "ssh": SSH,
    "ssh, public": {**SSH, "spot_host_ssh_routed": False},
    "jump": {"spot_host_connection": "jump", "spot_host_jump_host": "admin@bastion"},
}
PLAY = """
- hosts: cases
  gather_facts: false
  vars_files: [{root}/playbooks/vars/common.yml]
  tasks:
    - name: Try
      block:
        - name: Check
          ansible.builtin.include_tasks: {root}/playbooks/tasks/ec2/reach.yml
        - name: Keep
          ansible.builtin.copy: {{content: accepted, dest: "{folder}/{{{{ number }}}}", mode: "0644"}}
      rescue:
        - name: Keep
          ansible.builtin.copy:
            content: "{{{{ ansible_failed_result.msg }}}}"
            dest: "{folder}/{{{{ number }}}}"
            mode: "0644"

- hosts: ways
  gather_facts: false
  roles:
    - role: ways
"""
WAY = """
- name: Keep
  ansible.builtin.copy:
    content: "{{ {'options': spot_host__ssh_options, 'address': spot_host__address, 'identity': spot_host__identity,
                  'control_path': spot_host__control_path, 'credentials': spot_host__credentials,
                  'credentials_file': spot_host__credentials_file} | to_json }}"
    dest: "{{ folder }}/{{ number }}"
    mode: "0644"
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each case; one run of Ansible for all of them."""
    folder = tmp_path_factory.mktemp("reach")
    # Where the playbooks' variables look for the roles' defaults, beside the playbook.
    for name in ("roles", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "playbooks" / "roles" / "ways" / "tasks").mkdir(parents=True)
    role = folder / "playbooks" / "roles" / "ways"
    for name in ("defaults", "vars", "files"):
        (role / name).symlink_to(ROOT / "roles" / "spot_host" / name)
    (role / "tasks" / "main.yml").write_text(WAY)
    play = folder / "playbooks" / "play.yml"
    play.write_text(PLAY.format(root=ROOT, folder=folder))
    common = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    environment = {"spotcache_environment": "t", "spotcache_region": "ap-northeast-1", "spotcache_bucket": "b"}
    cases = {f"case{n}": {**environment, **one[0], "number": f"c{n}"} for n, one in enumerate(CASES.values())}
    ways = {f"way{n}": {**HOST, **one, "number": f"w{n}", "folder": str(folder)} for n, one in enumerate(WAYS.values())}
    inventory = folder / "hosts.yml"
    children = {"cases": {"hosts": cases}, "ways": {"hosts": ways}}
    inventory.write_text(yaml.safe_dump({"all": {"vars": common, "children": children}}))
    done = subprocess.run(
        [tool("ansible-playbook"), str(play), "-i", str(inventory)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "3.3.3270" in done.stdout
    names = {**{f"c{n}": name for n, name in enumerate(CASES)}, **{f"w{n}": name for n, name in enumerate(WAYS)}}
    return {name: " ".join((folder / number).read_text().split()) for number, name in names.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_choice_that_cannot_reach_the_host_is_refused_with_the_fix(said: dict[str, str], case: str) -> None:
    parts = CASES[case][1]
    if parts:
        assert [part for part in parts if part not in said[case]] == [], said[case]
    else:
        assert said[case] == "accepted"


def way(said: dict[str, str], name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said[name])
    return found


def proxy(found: dict[str, Any]) -> list[str]:
    """The words of the ProxyCommand, as the shell that ssh starts reads them."""
    [line] = [one for one in found["options"] if one.startswith("ProxyCommand=")]
    return shlex.split(line.removeprefix("ProxyCommand="))


def test_the_way_through_an_endpoint(said: dict[str, str]) -> None:
    found = way(said, "eice with a profile")
    words = proxy(found)
    assert words[:3] == ["env", "AWS_PROFILE=stg one", "AWS_REGION=ap-northeast-1"]
    assert Path(words[4]).name == "spotcache_tunnel.py"
    assert Path(words[4]).is_file()
    assert words[5:] == [
        *("--region", "ap-northeast-1", "--endpoint-id", "eice-1", "--dns-name", "eice-1.example"),
        *("--address", "10.9.0.5", "--port", "%p"),
    ]
    assert (found["address"], found["identity"]) == ("10.9.0.5", "/home/me/id")


@pytest.mark.parametrize("name", ["eice with keys", "ssm with keys"])
def test_keys_of_an_inventory_stand_in_no_argument(said: dict[str, str], name: str) -> None:
    found = way(said, name)
    assert not [value for value in SECRET.values() if value in json.dumps(found["options"])]
    words = proxy(found)
    assert f"AWS_SHARED_CREDENTIALS_FILE={found['credentials_file']}" in words
    # What stands in the process' own environment would count more than the file, and so would a profile.
    assert [words[n + 1] for n, word in enumerate(words) if word == "-u"] == [
        *SECRET,
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
    ]
    assert not [word for word in words if word.startswith("AWS_PROFILE=")]
    assert [f"{key.lower()} = {value}" in found["credentials"] for key, value in SECRET.items()] == [True] * 3


def test_accounts_with_environments_of_the_same_name_do_not_share_a_file(said: dict[str, str]) -> None:
    files = [way(said, name)["credentials_file"] for name in ("eice with keys", "eice with another account's keys")]
    assert len(set(files)) == 2
    assert [file.startswith("/tmp/a b/spotcache-t-") for file in files] == [True] * 2


def test_a_percent_sign_is_not_sshs(said: dict[str, str]) -> None:
    assert "AWS_ENDPOINT_URL=http://127.0.0.1:1/50%%" in proxy(way(said, "eice with keys"))


def test_an_agents_key_is_offered_alone(said: dict[str, str]) -> None:
    found = way(said, "eice with an agent")
    assert found["identity"].startswith("/tmp/a b/spotcache-t-")
    assert found["identity"].endswith(".pub")
    assert "IdentitiesOnly=yes" in found["options"]


def test_a_connection_is_kept_for_its_own_way_alone(said: dict[str, str]) -> None:
    # The next run may come by another way, and take the one before down.
    paths = {name: str(way(said, name)["control_path"]) for name in ("eice with keys", "ssm with keys", "ssh", "jump")}
    assert len(set(paths.values())) == len(paths)
    # A Unix socket's path has room for 107 characters, and ssh writes 17 more while it makes it.
    assert all(len(path.replace("%(directory)s", "")) <= 40 for path in paths.values())


def test_the_other_ways(said: dict[str, str]) -> None:
    assert way(said, "ssh")["address"] == "10.9.0.5"
    assert way(said, "ssh, public")["address"] == "203.0.113.9"
    assert "ProxyJump=admin@bastion" in way(said, "jump")["options"]
    words = proxy(way(said, "ssm with keys"))
    assert words[words.index("aws") :] == [
        *("aws", "ssm", "start-session", "--region", "ap-northeast-1", "--document-name", "AWS-StartSSHSession"),
        *("--target", "%h", "--parameters", "portNumber=%p"),
    ]
    assert way(said, "ssm with keys")["address"] == "i-1"
