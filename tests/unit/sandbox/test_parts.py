# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the sandbox that decide something without touching the machine."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox import __main__ as command
from sandbox import paths, server
from sandbox.moto_gaps import merged_mappings, template_tags, wanted_markets
from sandbox.paths import Home
from sandbox.server import allow_many_hosts, free_cidr
from sandbox.shell import ToolFailed


def test_request_mappings_win_over_the_templates_and_text_becomes_typed() -> None:
    template = [
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": "8", "DeleteOnTermination": "false", "VolumeType": "gp3"}}
    ]
    request = [{"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-1"}}, {"DeviceName": "/dev/sdg", "Ebs": {}}]
    merged = merged_mappings(template, request)
    assert [m["DeviceName"] for m in merged] == ["/dev/sdf", "/dev/sdg"]
    assert merged[0]["Ebs"] == {
        "VolumeSize": 8,
        "DeleteOnTermination": False,
        "VolumeType": "gp3",
        "SnapshotId": "snap-1",
    }


def test_template_tags_are_told_apart_by_what_they_are_for() -> None:
    data = {
        "TagSpecifications": [
            {"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "1"}]},
            {"ResourceType": "instance", "Tags": [{"Key": "b", "Value": "2"}]},
        ]
    }
    assert template_tags(data, "volume") == {"a": "1"}
    assert template_tags({}, "instance") == {}


@pytest.mark.parametrize(
    ("distribution", "have", "market"),
    [
        ({"OnDemandPercentageAboveBaseCapacity": 0}, 0, "spot"),
        ({"OnDemandPercentageAboveBaseCapacity": 100}, 0, "on-demand"),
        ({"OnDemandBaseCapacity": 1, "OnDemandPercentageAboveBaseCapacity": 0}, 0, "on-demand"),
        ({"OnDemandBaseCapacity": 1, "OnDemandPercentageAboveBaseCapacity": 0}, 1, "spot"),
    ],
)
def test_a_group_buys_where_its_policy_says(distribution: dict[str, int], have: int, market: str) -> None:
    version = SimpleNamespace(data={"InstanceType": "t3.small"})
    group = SimpleNamespace(
        mixed_instances_policy={
            "InstancesDistribution": distribution,
            "LaunchTemplate": {"Overrides": [{"InstanceType": "t3.small"}, {"InstanceType": "t3a.small"}]},
        },
        ec2_launch_template=SimpleNamespace(get_version=lambda _: version),
        launch_template_version="$Latest",
        instance_states=[object()] * have,
    )
    assert wanted_markets(group) == (market, ["t3.small", "t3a.small"])


def test_the_vpc_gets_a_network_that_nothing_else_uses() -> None:
    assert free_cidr([]) == "10.77.0.0/16"
    assert free_cidr(["10.77.3.0/24", "10.78.0.0/15", "192.168.0.0/16", "10.255.255.53"]) == "10.80.0.0/16"
    with pytest.raises(ToolFailed, match="every 10"):
        free_cidr(["10.0.0.0/8"])


def test_two_sandboxes_that_come_up_at_once_get_networks_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(server, "ROOT", tmp_path)
    monkeypatch.setattr(server, "run", lambda *_: "[]")
    docker = SimpleNamespace(networks=SimpleNamespace(list=list))
    homes = [Home(f"t-{number}") for number in range(8)]
    for home in homes:
        home.directory.mkdir()

    def slow() -> list[str]:
        found = server.networks_in_use(docker)
        time.sleep(0.02)
        return found

    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(lambda home: server.reserve_cidr(home, slow), homes))
    assert len(set(chosen)) == 8
    # One that comes up again after it was killed has no claim against itself.
    assert server.reserve_cidr(homes[0], slow) == chosen[0]


@pytest.mark.parametrize("name", ["", "Demo", "1a", "a" * 16, "a b", "../etc"])
def test_a_sandbox_cannot_be_named_so_that_it_cannot_be_found_again(name: str) -> None:
    with pytest.raises(ValueError, match="starting with a letter"):
        Home(name)


def test_everything_a_sandbox_makes_carries_its_name() -> None:
    home = Home("demo")
    marks: list[Any] = [home.directory.name, home.labels()["spotcache-sandbox"], home.comment.split("/")[-1]]
    assert marks == ["demo"] * 3
    assert home.labels(instance="i-1")["spotcache-sandbox.instance"] == "i-1"


def test_a_machine_has_room_for_many_hosts_and_a_higher_limit_stays(tmp_path: Path) -> None:
    limit = tmp_path / "max_user_instances"
    for before, after in (("128", "1024"), ("8192", "8192")):
        limit.write_text(f"{before}\n")
        allow_many_hosts(limit)
        assert limit.read_text().strip() == after
    allow_many_hosts(tmp_path / "missing")


def test_nobody_may_do_everything_without_its_being_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []

    def up(home: Home, asked: Any) -> int:
        begun.append(asked.operator_policy)
        return 0

    monkeypatch.setattr(command, "up", up)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for verb in ("up", "serve"):
        with pytest.raises(SystemExit, match="--operator-policy everything"):
            command.main([verb, "mine"])
    assert begun == []
    assert command.main(["up", "mine", "--operator-policy", "everything"]) == 0
    assert begun == [["everything"]]
    (tmp_path / "few.json").write_text('{"Statement": []}')
    assert server.read_policies(["everything"]) == {"everything": server.FULL_ACCESS}
    assert server.read_policies([str(tmp_path / "few.json")]) == {"few": {"Statement": []}}
