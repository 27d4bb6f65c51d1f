"""The endpoint of a VPC: one, made with its tags, never another's, gone only when EC2 no longer shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.spotcache.redis.plugins.modules import instance_connect_endpoint as module
from ansible_collections.spotcache.redis.plugins.modules import instance_connect_endpoint_info as info_module

from tests.unit.aws.instance_connect_support import Time, endpoints

REGION, NAME = "ap-northeast-1", "spotcache-t"
TAGS = {"spotcache:environment": "t"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    for connect in endpoints(monkeypatch):
        yield connect.clock  # type: ignore[attr-defined]


@pytest.fixture
def ec2(clock: Time) -> Any:
    return boto3.client("ec2", region_name=REGION)


@pytest.fixture
def place(ec2: Any) -> dict[str, Any]:
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/20")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="e", Description="e")["GroupId"]
    return {"name": NAME, "vpc_id": vpc, "subnet_id": subnet, "security_group_ids": [group], "tags": TAGS}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    def act(parameters: dict[str, Any], main: Callable[[], None] = module.main, **more: Any) -> dict[str, Any]:
        with patch_module_args({**parameters, "region": REGION, **more}), pytest.raises(SystemExit):
            main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return act


Run = Callable[..., dict[str, Any]]


def rows(ec2: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ec2.describe_instance_connect_endpoints()["InstanceConnectEndpoints"]
    return found


def test_it_is_made_with_its_tags_and_then_nothing_changes(ec2: Any, place: dict[str, Any], run: Run) -> None:
    made = run(place)
    assert (made["changed"], made["endpoint"]["state"], made["endpoint"]["usable"]) == (True, "create-complete", True)
    assert made["endpoint"]["tags"] == {**TAGS, "Name": NAME}
    assert made["endpoint"]["managed"]
    assert made["diff"]["before"] == {}
    assert made["diff"]["after"]["subnet_id"] == place["subnet_id"]
    again = run(place)
    assert (again["changed"], again["endpoint"]) == (False, made["endpoint"])
    assert len(rows(ec2)) == 1
    looked = run({"vpc_id": place["vpc_id"], "name": NAME}, info_module.main)
    assert looked["endpoint"] == made["endpoint"]


def test_check_mode_makes_and_deletes_nothing(ec2: Any, place: dict[str, Any], run: Run) -> None:
    assert run(place, _ansible_check_mode=True)["changed"]
    assert rows(ec2) == []
    run(place)
    assert run({**place, "state": "absent"}, _ansible_check_mode=True)["changed"]
    assert [row["State"] for row in rows(ec2)] == ["create-complete"]


def test_not_waited_for_it_is_still_being_made(ec2: Any, clock: Time, place: dict[str, Any], run: Run) -> None:
    made = run(place, wait=False)
    assert (made["endpoint"]["state"], made["endpoint"]["usable"], clock.now) == ("create-in-progress", False, 0)
    assert not run(place, wait=False)["changed"]


def test_other_groups_and_tags_are_taken_up(ec2: Any, place: dict[str, Any], run: Run) -> None:
    run(place)
    other = ec2.create_security_group(VpcId=place["vpc_id"], GroupName="f", Description="f")["GroupId"]
    ec2.create_tags(Resources=[rows(ec2)[0]["InstanceConnectEndpointId"]], Tags=[{"Key": "of", "Value": "others"}])
    changed = run(place, security_group_ids=[other], tags={**TAGS, "team": "a"}, subnet_id="subnet-of-another-zone")
    assert changed["changed"]
    assert changed["endpoint"]["security_group_ids"] == [other]
    assert changed["endpoint"]["tags"] == {**TAGS, "team": "a", "Name": NAME, "of": "others"}
    # It stays in its subnet: tunnels go through it.
    assert changed["endpoint"]["subnet_id"] == place["subnet_id"]
    assert not run(place, security_group_ids=[other])["changed"]


def test_somebody_elses_is_used_and_never_touched(ec2: Any, place: dict[str, Any], run: Run) -> None:
    group = ec2.create_security_group(VpcId=place["vpc_id"], GroupName="theirs", Description="t")["GroupId"]
    ec2.create_instance_connect_endpoint(SubnetId=place["subnet_id"], SecurityGroupIds=[group])
    before = rows(ec2)
    used = run(place)
    assert not used["changed"]
    assert not used["endpoint"]["managed"]
    assert used["endpoint"]["security_group_ids"] == [group]
    assert not run({**place, "state": "absent"})["changed"]
    assert rows(ec2) == before


def test_it_is_gone_only_when_ec2_no_longer_shows_it(ec2: Any, clock: Time, place: dict[str, Any], run: Run) -> None:
    run(place)
    begun = clock.now
    assert run({**place, "state": "absent"})["changed"]
    assert clock.now - begun >= clock.takes
    assert [row["State"] for row in rows(ec2)] == ["delete-complete"]
    # What is still shown is no endpoint any more: neither to delete nor in the way of the next one.
    assert not run({**place, "state": "absent"})["changed"]
    assert run(place)["endpoint"]["state"] == "create-complete"


def test_one_that_is_leaving_is_waited_for(ec2: Any, place: dict[str, Any], run: Run) -> None:
    first = run(place)["endpoint"]["id"]
    run({**place, "state": "absent"}, wait=False)
    assert [row["State"] for row in rows(ec2)] == ["delete-in-progress"]
    second = run(place)
    assert second["changed"]
    assert second["endpoint"]["id"] != first
    assert second["endpoint"]["usable"]


def test_one_that_could_not_be_made_makes_room(ec2: Any, clock: Time, place: dict[str, Any], run: Run) -> None:
    clock.fails = "create-failed"
    failed = run(place)
    assert failed["failed"]
    assert "could not make eice-" in failed["msg"]
    assert "no address is free" in failed["msg"]
    clock.fails = ""
    assert run(place)["endpoint"]["usable"]
    assert sorted(row["State"] for row in rows(ec2) if row["State"] != "delete-complete") == ["create-complete"]


def test_waiting_has_an_end(ec2: Any, clock: Time, place: dict[str, Any], run: Run) -> None:
    clock.takes = 10_000
    failed = run(place, wait_timeout=60)
    assert "was not ready within 60 s" in failed["msg"]
    assert clock.now <= 60
    assert "was not deleted within 60 s" in run({**place, "state": "absent"}, wait_timeout=60)["msg"]


def test_its_group_stays_as_long_as_it(ec2: Any, place: dict[str, Any], run: Run) -> None:
    run(place)
    with pytest.raises(ec2.exceptions.ClientError, match="DependencyViolation"):
        ec2.delete_security_group(GroupId=place["security_group_ids"][0])
    with pytest.raises(ec2.exceptions.ClientError, match="DependencyViolation"):
        ec2.delete_subnet(SubnetId=place["subnet_id"])
    run({**place, "state": "absent"})
    ec2.delete_security_group(GroupId=place["security_group_ids"][0])
    ec2.delete_subnet(SubnetId=place["subnet_id"])


def test_groups_that_name_each_other_cannot_be_deleted(ec2: Any, place: dict[str, Any]) -> None:
    [group] = place["security_group_ids"]
    other = ec2.create_security_group(VpcId=place["vpc_id"], GroupName="o", Description="o")["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=[rule])
    with pytest.raises(ec2.exceptions.ClientError, match="DependencyViolation"):
        ec2.delete_security_group(GroupId=group)
    ec2.delete_security_group(GroupId=other)
    ec2.delete_security_group(GroupId=group)


def test_its_address_is_nobody_elses(ec2: Any) -> None:
    image = "ami-0123456789abcdef0"
    for _ in range(8):
        vpc = ec2.create_vpc(CidrBlock="10.9.0.0/24")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/28")["Subnet"]["SubnetId"]
        before = ec2.run_instances(ImageId=image, MinCount=4, MaxCount=4, SubnetId=subnet)["Instances"]
        [group] = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["SecurityGroups"]
        made = ec2.create_instance_connect_endpoint(SubnetId=subnet, SecurityGroupIds=[group["GroupId"]])
        [interface] = made["InstanceConnectEndpoint"]["NetworkInterfaceIds"]
        own = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"][0][
            "PrivateIpAddress"
        ]
        after = ec2.run_instances(ImageId=image, MinCount=4, MaxCount=4, SubnetId=subnet)["Instances"]
        # The first four and the last are AWS's own.
        assert 4 <= int(own.rpartition(".")[2]) < 15
        assert own not in {one["PrivateIpAddress"] for one in (*before, *after)}
