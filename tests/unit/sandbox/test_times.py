"""AWS's own times in the sandbox: what is new is not known at once, calls are throttled, an image's moment is later."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.awsrequest import HeadersDict
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.parsers import create_parser
from botocore.retries.standard import ThrottledRetryableChecker
from spotcache_keeper.aws.signed import Key, Objects, Signed

from dev.work import ROOT, tool
from sandbox.cloud import Cloud
from sandbox.iam import listed
from sandbox.times import SLOW, Chance, Times, Unseen, named, refusal, seen_of

REGION = "ap-northeast-1"

# The patches are for the life of a process: they get one of their own, with AWS's records and no real hosts.
SERVER = r"""
import json, sys, threading
import sandbox.server  # sets what moto reads at import
from moto import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.authorization import ActionAuthenticatorMixin
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from sandbox import dlm
from sandbox.moto_gaps import Gaps
from sandbox.scaling import Clock
from sandbox.times import Slowness, Times

times = Times(**{key: tuple(one) if isinstance(one, list) else one for key, one in json.loads(sys.argv[1]).items()})
exempt = set()
slowness = Slowness(times, "seed", lambda: exempt)

class Machine:
    snapshot_seconds, snapshot_result, hooks = 0.0, "succeeded", None
    disk = "with secrets"
    baked = {}
    def __init__(self):
        self.times = times
    def takes(self, what, span):
        return slowness.chance.between(what, span)
    def later(self, seconds, act, about):
        threading.Timer(seconds, act).start()
    def capacity(self, *_):
        return True
    def launch(self, instance):
        instance._state.name, instance._state.code = "running", 16
    def bake(self, instance, image):
        pass
    def __getattr__(self, name):
        return lambda *_: None

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
account = DEFAULT_ACCOUNT_ID
ec2_backends[account]["ap-northeast-1"]
Gaps(Machine()).close()
dlm.register(Clock())
slowness.close_gaps()
iam = iam_backends[account]["aws"]
def user(name, policy):
    iam.create_user(region_name="ap-northeast-1", user_name=name, path="/", tags=None)
    iam.put_user_policy(name, name, json.dumps(policy))
    key = iam.create_access_key(name)
    return [key.access_key_id, key.secret_access_key]
def allow(*actions):
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
users = {"operator": user("operator", allow("*")), "owner": user("owner", allow("*"))}
users["reader"] = user("reader", allow("s3:GetObject", "s3:PutObject"))
exempt.add(users["owner"][0])
settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
ActionAuthenticatorMixin.request_count = 0
print(json.dumps({"endpoint": "http://127.0.0.1:%d" % server.get_host_and_port()[1], "users": users}), flush=True)
sys.stdin.read()
"""


class Account:
    """A small AWS with times of its own."""

    def __init__(self, **times: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, json.dumps(times)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.state = json.loads(self.process.stdout.readline())

    def client(self, service: str, user: str = "operator", /, **config: Any) -> Any:
        access, secret = self.state["users"][user]
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.state["endpoint"],
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            config=Config(s3={"addressing_style": "path"}, **config),
        )

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def late() -> Iterator[Account]:
    """Everything new stays unknown for half a minute to most looks."""
    account = Account(unseen=[30, 30], iam=[30, 30], image_point=[1.5, 1.5], image_ready=[0.5, 0.5], throttled=0.0)
    yield account
    account.close()


@pytest.fixture(scope="module")
def busy() -> Iterator[Account]:
    """One call in five is throttled."""
    account = Account(unseen=[0, 0], iam=[0, 0], throttled=0.2)
    yield account
    account.close()


def codes(ask: Any, times: int = 12) -> set[str]:
    """What several tries come to: codes of errors, and `seen`."""
    found = set()
    for _ in range(times):
        try:
            found.add("seen" if ask() else "absent")
        except ClientError as error:
            found.add(error.response["Error"]["Code"])
    return found


# --- chance


def test_what_happens_follows_from_the_seed_whatever_else_runs_beside_it() -> None:
    one, other, different = Chance("a"), Chance("a"), Chance("b")
    lengths = [one.between("snap 1", (0, 1)) for _ in range(5)]
    for number in range(20):
        other.between("something else", (0, 1))
        if number % 4 == 0:
            assert other.between("snap 1", (0, 1)) == lengths[number // 4]
    assert [different.between("snap 1", (0, 1)) for _ in range(5)] != lengths


def test_a_new_object_is_missed_by_some_looks_and_then_by_none() -> None:
    now = [0.0]
    unseen = Unseen(Times(unseen=(2, 2)), Chance("a"), clock=lambda: now[0])
    for name, kind in (("vol-1", "vol"), ("vpc-1", "vpc")):
        unseen.born(name, kind)
    looks = [unseen.missed("vol-1") for _ in range(40)]
    assert set(looks) == {True, False}
    # A network's parts stay seen, EC2's volumes and instances come and go.
    network = [unseen.missed("vpc-1") for _ in range(40)]
    assert network == sorted(network, reverse=True)
    assert looks != sorted(looks, reverse=True)
    now[0] = 2.0
    assert not any(unseen.missed("vol-1") for _ in range(40))
    assert not unseen.missed("vol-of-old")


def test_ids_in_filters_and_tags_name_nothing() -> None:
    data = {
        "VolumeId.1": ["vol-0123456789abcdef0"],
        "InstanceId": "i-0123456789abcdef0",
        "Filter.1.Value.1": ["vol-1123456789abcdef0"],
        "TagSpecification.1.Tag.1.Value": ["snap-0123456789abcdef0"],
        "Description": "vol-0123456789abcdef0 and more",
    }
    assert sorted(named(data)) == ["i-0123456789abcdef0", "vol-0123456789abcdef0"]


def test_a_reservation_is_shown_without_what_is_missed_and_stays_whole_itself() -> None:
    instances = [SimpleNamespace(id="i-1"), SimpleNamespace(id="i-2")]
    reservation = SimpleNamespace(id="r-1", instances=instances)
    [shown] = seen_of([reservation], lambda name: name == "i-2")
    assert [one.id for one in shown.instances] == ["i-1"]
    assert len(reservation.instances) == 2
    assert seen_of([reservation], lambda name: name.startswith("i-")) == []


def test_slow_is_as_on_aws_and_slower_than_the_rehearsals_everywhere() -> None:
    assert SLOW.launch == (40.0, 60.0)
    assert SLOW.end == (30.0, 150.0)
    assert SLOW.plug == (10.0, 20.0)
    quick = replace(Times(), throttled=SLOW.throttled)
    for name in ("unseen", "iam", "launch", "end", "plug", "image_point", "image_ready", "snapshot"):
        assert getattr(SLOW, name)[1] > getattr(quick, name)[1]


# --- what is new


def test_a_volume_is_unknown_by_its_id_and_absent_from_lists(late: Account) -> None:
    ec2, owner = late.client("ec2"), late.client("ec2", "owner")
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"]
    assert codes(lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"]) == {"InvalidVolume.NotFound", "seen"}
    listed = [{"Name": "volume-id", "Values": [volume]}]
    assert codes(lambda: ec2.describe_volumes(Filters=listed)["Volumes"]) == {"absent", "seen"}
    # Whoever looks on sees what is.
    assert codes(lambda: owner.describe_volumes(VolumeIds=[volume])["Volumes"]) == {"seen"}
    # Neither can it be changed before it is known.
    assert "InvalidVolume.NotFound" in codes(lambda: ec2.modify_volume(VolumeId=volume, Size=2))


def test_a_role_and_a_profile_are_unknown_to_iam_and_to_others(late: Account) -> None:
    iam, ec2 = late.client("iam"), late.client("ec2")
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}
    # Once seen it stays seen: it is the first looks that may miss it.
    roles = [f"late-{number}" for number in range(6)]
    for role in roles:
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
    assert set.union(*(codes(lambda role=role: iam.get_role(RoleName=role), 1) for role in roles)) >= {"NoSuchEntity"}
    iam.create_instance_profile(InstanceProfileName="late")
    image = ec2.register_image(Name="late", RootDeviceName="/dev/xvda")["ImageId"]
    asked = {"ImageId": image, "MinCount": 1, "MaxCount": 1, "IamInstanceProfile": {"Name": "late"}}
    assert {"InvalidAMIID.NotFound", "InvalidParameterValue"} & codes(lambda: ec2.run_instances(**asked))


def archive() -> bytes:
    """A function's code."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as files:
        files.writestr("f.py", "def handle(event, context):\n    return 1\n")
    return packed.getvalue()


def handed(account: Account, service: str, number: int, user: str = "operator") -> Any:
    """Make a role and hand it to a service: what it answers."""
    name = f"{service}-{number}-{user}"
    allow = {"Effect": "Allow", "Principal": {"Service": f"{service}.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    role = account.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    client = account.client(service, user)
    if service == "lambda":
        code = {"ZipFile": archive()}
        return client.create_function(FunctionName=name, Runtime="python3.12", Role=role, Handler="f.handle", Code=code)
    if service == "dlm":
        schedule = {"Name": "all", "CreateRule": {"Interval": 24, "IntervalUnit": "HOURS"}, "RetainRule": {"Count": 1}}
        details = {"ResourceTypes": ["VOLUME"], "TargetTags": [{"Key": "a", "Value": "b"}], "Schedules": [schedule]}
        return client.create_lifecycle_policy(
            ExecutionRoleArn=role, Description=name, State="ENABLED", PolicyDetails=details
        )
    return client.create_experiment_template(
        description=name,
        roleArn=role,
        stopConditions=[{"source": "none"}],
        targets={},
        actions={"wait": {"actionId": "aws:fis:wait"}},
    )


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("lambda", "InvalidParameterValueException"),
        ("dlm", "InvalidRequestException"),
        ("fis", "ValidationException"),
    ],
)
def test_a_service_refuses_a_role_that_it_does_not_know_yet(late: Account, service: str, code: str) -> None:
    # Some looks see it, and then it stays seen; whoever looks on sees it always.
    found = set.union(*(codes(lambda number=number: handed(late, service, number), 1) for number in range(8)))
    assert found == {code, "seen"}
    assert codes(lambda: handed(late, service, 9, "owner"), 1) == {"seen"}


def test_a_function_its_queue_and_an_experiment_are_refused_a_new_role_as_well(late: Account) -> None:
    functions, begin = late.client("lambda"), late.client("fis").start_experiment
    late.client("sqs", "owner").create_queue(QueueName="fed")
    queue = f"arn:aws:sqs:{REGION}:123456789012:fed"
    tries, feeds, starts = [], [], []
    for number in range(10, 18):
        made = handed(late, "lambda", number, "owner")
        asked = {"FunctionName": made["FunctionName"], "Role": made["Role"]}
        tries.append(codes(lambda asked=asked: functions.update_function_configuration(**asked), 1))
        fed = {"FunctionName": made["FunctionName"], "EventSourceArn": queue}
        feeds.append(codes(lambda fed=fed: functions.create_event_source_mapping(**fed), 1))
        template = handed(late, "fis", number, "owner")["experimentTemplate"]["id"]
        starts.append(codes(lambda template=template: begin(experimentTemplateId=template), 1))
    invalid = "InvalidParameterValueException"
    for found, code in ((tries, invalid), (feeds, invalid), (starts, "ValidationException")):
        assert set.union(*found) == {code, "seen"}


def test_an_image_is_of_a_moment_after_the_answer_and_names_its_snapshot_only_then(late: Account) -> None:
    ec2, owner = late.client("ec2"), late.client("ec2", "owner")
    source = owner.register_image(Name="source", RootDeviceName="/dev/xvda")["ImageId"]
    instance = owner.run_instances(ImageId=source, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    owner.describe_instances(InstanceIds=[instance])
    image = owner.create_image(InstanceId=instance, Name="made")["ImageId"]
    [described] = owner.describe_images(ImageIds=[image])["Images"]
    assert (described["State"], described["BlockDeviceMappings"]) == ("pending", [])
    deadline = time.monotonic() + 30
    while not described["BlockDeviceMappings"] and time.monotonic() < deadline:
        time.sleep(0.1)
        [described] = owner.describe_images(ImageIds=[image])["Images"]
    snapshot = described["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    assert owner.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    while described["State"] != "available" and time.monotonic() < deadline:
        time.sleep(0.1)
        [described] = owner.describe_images(ImageIds=[image])["Images"]
    assert described["State"] == "available"
    assert "InvalidAMIID.NotFound" in codes(lambda: ec2.describe_images(ImageIds=[image])["Images"])


def test_a_missing_object_is_denied_to_whoever_may_not_list(late: Account) -> None:
    operator, reader = late.client("s3"), late.client("s3", "reader")
    operator.create_bucket(Bucket="late", CreateBucketConfiguration={"LocationConstraint": REGION})
    operator.put_object(Bucket="late", Key="there", Body=b"x")
    assert reader.get_object(Bucket="late", Key="there")["Body"].read() == b"x"
    for who, get, head in ((operator, "NoSuchKey", "404"), (reader, "AccessDenied", "403")):
        assert codes(lambda who=who: who.get_object(Bucket="late", Key="missing"), 1) == {get}
        assert codes(lambda who=who: who.head_object(Bucket="late", Key="missing"), 1) == {head}


# --- throttling


def test_calls_are_throttled_in_each_services_words_and_the_sdk_carries_it(busy: Account) -> None:
    once: dict[str, Any] = {"retries": {"total_max_attempts": 1}}
    for service, ask, code in (
        ("ec2", "describe_vpcs", "RequestLimitExceeded"),
        ("iam", "list_roles", "Throttling"),
        ("s3", "list_buckets", "SlowDown"),
        ("ssm", "describe_parameters", "ThrottlingException"),
        ("lambda", "list_functions", "TooManyRequestsException"),
        ("dlm", "get_lifecycle_policies", "ThrottlingException"),
        ("fis", "list_experiments", "ThrottlingException"),
        ("events", "list_rules", "ThrottlingException"),
        ("sqs", "list_queues", "RequestThrottled"),
        ("sns", "list_topics", "Throttled"),
    ):
        assert code in codes(getattr(busy.client(service, "operator", **once), ask), 60)
        assert codes(getattr(busy.client(service, "owner", **once), ask), 60) <= {"seen"}
    ec2 = busy.client("ec2", retries={"mode": "standard", "total_max_attempts": 10})
    assert codes(ec2.describe_vpcs, 10) == {"seen"}


def test_requests_signed_by_hand_are_sent_again(busy: Account) -> None:
    busy.client("s3", "owner").create_bucket(Bucket="lease", CreateBucketConfiguration={"LocationConstraint": REGION})
    access, secret = busy.state["users"]["operator"]
    waited: list[float] = []
    signed = Signed(
        REGION, busy.state["endpoint"], lambda: Key(access, secret, None, time.time() + 3600), sleep=waited.append
    )
    objects = Objects(signed, "lease")
    etag = objects.put("lease.json", {"number": 0}, new=True)
    for number in range(1, 15):
        etag = objects.put("lease.json", {"number": number}, etag=etag)
        found = objects.get("lease.json")
        assert found is not None
        assert found.data == {"number": number}
    assert waited
    assert max(waited) < 2


def asked_for() -> set[str]:
    """The services that somebody here asks, by the name in a signature."""
    documents = [json.loads(path.read_text()) for path in sorted((ROOT / "docs" / "iam").glob("*.json"))]
    actions = [one for document in documents for s in document["Statement"] for one in listed(s["Action"])]
    # Tunnels and sessions are no calls, keys are used by others, and CloudWatch is among the differences from AWS.
    beside = {"ec2-instance-connect", "ssmmessages", "kms", "cloudwatch"}
    return {action.partition(":")[0] for action in actions} - beside | {"sts"}


@pytest.mark.parametrize("service", sorted(asked_for()))
def test_every_service_is_busy_in_words_that_the_sdk_tries_again(service: str) -> None:
    """As botocore reads the answer, by the protocol that it speaks with the service."""
    model = botocore.session.get_session().get_service_model(service)
    environ = {"REQUEST_METHOD": "POST", **({"HTTP_X_AMZ_TARGET": "x"} if model.protocol == "json" else {})}
    said = refusal(service, environ)
    assert said is not None
    status, headers, body = said
    answer = {"status_code": int(status[:3]), "headers": HeadersDict(headers), "body": body}
    error = create_parser(model.protocol).parse(answer, None)["Error"]
    assert status.startswith("429 ") or error["Code"] in ThrottledRetryableChecker._THROTTLED_ERROR_CODES
    shapes = [model.shape_for(name) for name in model.shape_names if "hrottl" in name or name.startswith("TooManyReq")]
    own = {one.metadata.get("error", {}).get("code", one.name) for one in shapes if one.metadata.get("exception")}
    own -= {"EC2ThrottledException", "KMSThrottling", "KmsThrottled"}  # somebody else is busy
    # Where the model has the service's own word, it is used.
    assert not own or error["Code"] in own or service == "route53"


def test_what_cannot_be_refused_in_its_own_words_is_not() -> None:
    assert refusal("monitoring", {"HTTP_SMITHY_PROTOCOL": "rpc-v2-cbor"}) is None
    assert refusal("unheard-of", {}) is None


# --- what the roles make of it


def play(folder: Path, account: Account, tasks: list[Any], variables: dict[str, Any]) -> str:
    """Run tasks of the roles against an account; what was said."""
    given = {"ansible_python_interpreter": sys.executable, **variables}
    play = {"hosts": "localhost", "gather_facts": False, "connection": "local", "vars": given, "tasks": tasks}
    (folder / "play.yml").write_text(json.dumps([play]))
    access, secret = account.state["users"]["operator"]
    done = subprocess.run(
        [tool("ansible-playbook"), str(folder / "play.yml")],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": account.state["endpoint"],
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.plays
def test_what_is_handed_a_new_role_is_asked_again_until_the_service_knows_it(tmp_path: Path) -> None:
    # Longer than any test: the looks alone decide, by the seed, however busy the machine is.
    account = Account(iam=[600, 600], unseen=[0, 0], throttled=0.0)
    try:
        have = {"ansible.builtin.include_role": {"name": "spotcache.redis.keeper", "tasks_from": "lifecycle"}}
        said = play(tmp_path, account, [have], {"keeper_environment": "stg", "keeper_region": REGION})
        # By the seed, the first look of Data Lifecycle Manager misses the role.
        assert "FAILED - RETRYING: [localhost]: Ensure the lifecycle policy" in said
        assert len(account.client("dlm", "owner").get_lifecycle_policies()["Policies"]) == 1
    finally:
        account.close()


@pytest.mark.plays
def test_an_image_is_waited_for_until_its_snapshots_stand(tmp_path: Path) -> None:
    """What is put back afterwards is in no image; that EC2 does not know the image at first ends nothing."""
    account = Account(unseen=[2, 2], image_point=[3, 3], image_ready=[600, 600], throttled=0.01)
    try:
        ec2 = account.client("ec2", "owner")
        source = ec2.register_image(Name="source", RootDeviceName="/dev/xvda")["ImageId"]
        instance = ec2.run_instances(ImageId=source, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
        # A configured host is minutes old, and everybody knows it; only its image is new.
        time.sleep(2.1)
        variables = {
            "spot_host_environment": "stg",
            "spot_host_region": REGION,
            "spot_host_fingerprint": "0123456789abcdef",
            "spot_host_result": {"instance_id": instance},
        }
        make = {"ansible.builtin.import_role": {"name": "spotcache.redis.spot_host", "tasks_from": "image"}}
        play(tmp_path, account, [make], variables)
        [image] = [one for one in ec2.describe_images(Owners=["self"])["Images"] if one["ImageId"] != source]
        about = {"Name": "description", "Values": [f"Created by CreateImage({instance})*"]}
        assert len(ec2.describe_snapshots(OwnerIds=["self"], Filters=[about])["Snapshots"]) == 1
        # It is not waited for until it can be used: the host is without its secrets meanwhile.
        assert image["State"] == "pending"
    finally:
        account.close()


def test_a_volume_that_a_host_comes_up_with_is_plugged_once(tmp_path: Path) -> None:
    """AttachVolume's own time may come while the host is brought up with what is attached to it."""
    cloud = object.__new__(Cloud)
    cloud.lock, cloud.disks = threading.RLock(), {}
    cloud.pool = SimpleNamespace(ensure=lambda volume, _size: tmp_path / volume)  # type: ignore[assignment]
    plugged: list[tuple[str, str]] = []
    cloud._insert = lambda _host, volume, _file, node, _device: plugged.append((volume, node))  # type: ignore[method-assign, assignment]
    host = SimpleNamespace(id="i-1", state="running")
    for volume in ("vol-1", "vol-2", "vol-1"):
        cloud._plug(host, SimpleNamespace(id=volume, size=1), "/dev/sdf")
    assert plugged == [("vol-1", "nvme1n1"), ("vol-2", "nvme2n1")]
