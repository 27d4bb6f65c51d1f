# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that ends while somebody waits to log in to it is not waited for: the one in its place is found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dev import kills

pytestmark = pytest.mark.plays

PLAY = """
- hosts: localhost
  gather_facts: false
  environment: "{{ aws }}"
  tasks:
    - ansible.builtin.include_role:
        name: spotcache.redis.spot_host
        tasks_from: find
    - ansible.builtin.copy:
        content: "{{ {'result': spot_host_result, 'group': groups.spotcache_redis | default([])} | to_json }}"
        dest: "{{ found }}"
        mode: "0600"
"""
# Nobody can log in to a host of the list, and each ends at the first try. To the others everybody can.
SSH = """#!{python}
import json, pathlib, sys
import boto3
ending = pathlib.Path({ending!r})
hosts = json.loads(ending.read_text())
[host] = [word.partition("=")[2] for word in sys.argv if "HostKeyAlias=" in word]
if host not in hosts:
    sys.exit(0)
boto3.client("ec2", region_name={region!r}, endpoint_url={endpoint!r}, aws_access_key_id={keys[0]!r},
             aws_secret_access_key={keys[1]!r}).terminate_instances(InstanceIds=[host])
print("Connection refused", file=sys.stderr)
sys.exit(255)
"""


class Group:
    """Hosts of an environment, in the order in which they were launched."""

    def __init__(self, stage: kills.Stage) -> None:
        self.stage, self.account = stage, stage.empty
        self.ec2 = self.account.client("ec2")
        self.ending = stage.folder / "ending.json"
        (stage.folder / "bin" / "ssh").write_text(
            SSH.format(
                python=sys.executable,
                ending=str(self.ending),
                region=kills.REGION,
                endpoint=self.account.endpoint,
                keys=self.account.owner,
            )
        )
        (stage.folder / "find.yml").write_text(PLAY)

    def launch(self) -> str:
        """One more."""
        tags = {"spotcache:environment": "t", "aws:autoscaling:groupName": "spotcache-t"}
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        [made] = self.ec2.run_instances(
            ImageId=self.stage.image(self.account),
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": listed}],
        )["Instances"]
        return str(made["InstanceId"])

    def find(self, ending: list[str]) -> tuple[int, str, dict[str, Any]]:
        """Find the host while some of them end; exit code, what was said, and what was found."""
        self.ending.write_text(json.dumps(ending))
        found, log = self.stage.folder / "found.json", self.stage.folder / "find.log"
        found.unlink(missing_ok=True)
        given = {
            "ansible_python_interpreter": sys.executable,
            "found": str(found),
            "aws": self.stage.variables(self.account)["spotcache_aws_environment"],
            "spot_host_environment": "t",
            "spot_host_region": kills.REGION,
            "spot_host_connection": "ssh",
            "spot_host_ssh_private_key_file": str(self.stage.folder / "id"),
            "spot_host_known_hosts_file": str(self.stage.folder / "known_hosts"),
            "spot_host_wait_timeout": 300,
            "spot_host__turn_s": 1,
        }
        words = [str(self.stage.folder / "find.yml"), "-i", "localhost,", "-c", "local", "-e", json.dumps(given)]
        code = self.stage.ansible.run(words, log)
        return code, " ".join(log.read_text().split()), json.loads(found.read_text()) if found.exists() else {}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    with kills.staged(tmp_path_factory.mktemp("found"), side_by_side=1) as stage:
        yield Group(stage)


def test_the_host_that_serves_in_its_place_is_found(group: Group) -> None:
    serving, leaving = group.launch(), group.launch()
    code, said, found = group.find([leaving])
    assert code == 0, said[-3000:]
    assert found["result"]["instance_id"] == serving
    # What has ended is no host of this run.
    assert found["group"] == [serving]


def test_hosts_that_end_over_and_over_are_looked_for_three_times(group: Group) -> None:
    hosts = [group.launch() for _ in range(4)]
    code, said, _ = group.find(hosts)
    assert code != 0
    assert f"The host {hosts[1]} ended (terminated) while this run waited for it" in said
    assert hosts[0] in {one["InstanceId"] for r in running(group) for one in r["Instances"]}


def running(group: Group) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = group.ec2.describe_instances(
        Filters=[{"Name": "instance-state-name", "Values": ["running"]}]
    )["Reservations"]
    return rows
