"""The image of a host: when it counts as begun, and that one which may have been begun too late is refused."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import yaml
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami
from moto.server import ThreadedMotoServer

from dev.work import ROOT, tool

REGION = "ap-northeast-1"
# What EC2 does with each host's image, how many seconds there are, and a part of the refusal.
CASES: dict[str, tuple[str, float, str]] = {
    "a snapshot shows, and the image never names it": ("shows", 150, ""),
    "the image names a snapshot of which EC2 writes something else": ("names", 75, ""),
    "nothing shows": ("nothing", 45, "did not show in time"),
    "it shows when the host may have its secrets back": ("at once", -1, "did not show in time"),
}
PLAY = """
- hosts: cases
  gather_facts: false
  tasks:
    - name: Try
      block:
        - name: Make the image
          ansible.builtin.include_role: {name: image}
          vars:
            spot_host_image_until: "{{ now().timestamp() + seconds }}"
        - name: Keep that there is one
          ansible.builtin.copy: {content: made, dest: "{{ folder }}/{{ number }}", mode: "0644"}
      rescue:
        - name: Keep why not
          ansible.builtin.copy:
            content: "{{ ansible_failed_result.msg }}"
            dest: "{{ folder }}/{{ number }}"
            mode: "0644"
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """An EC2 and a host for each case: the endpoint, and the instances by case."""
    behaviour: dict[str, str] = {}
    make, mappings = EC2Backend.create_image, Ami.block_device_mappings.fget

    def create_image(backend: Any, instance_id: str, name: str, description: str, tag_specifications: Any) -> Any:
        image = make(backend, instance_id, name, description, [])
        image.state, kind, snapshot = "pending", behaviour[instance_id], image.ebs_snapshot
        image.names = kind == "names"
        if kind == "names":
            return image
        snapshot.description = f"Created by CreateImage({instance_id}) for {image.id}"
        if kind != "at once":
            del backend.snapshots[snapshot.id]
        if kind == "shows":
            threading.Timer(4, backend.snapshots.__setitem__, (snapshot.id, snapshot)).start()
        return image

    def named(image: Any) -> list[dict[str, Any]]:
        return list(mappings(image)) if getattr(image, "names", True) else []

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(variable, "testing")
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        patch.setattr(EC2Backend, "create_image", create_image)
        patch.setattr(Ami, "block_device_mappings", property(named))
        server.start()
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        ec2 = boto3.client("ec2", region_name=REGION, endpoint_url=endpoint)
        image = ec2.register_image(Name="debian", RootDeviceName="/dev/xvda")["ImageId"]
        made = ec2.run_instances(ImageId=image, MinCount=len(CASES), MaxCount=len(CASES))["Instances"]
        ids = {case: one["InstanceId"] for case, one in zip(CASES, made, strict=True)}
        behaviour.update({ids[case]: kind for case, (kind, _, _) in CASES.items()})
        yield endpoint, ids
        server.stop()


@pytest.fixture(scope="module")
def said(hosts: tuple[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each case; one run of Ansible for all of them."""
    endpoint, ids = hosts
    folder = tmp_path_factory.mktemp("image")
    role = folder / "roles" / "image"
    (role / "tasks").mkdir(parents=True)
    for name in ("defaults", "vars", "files", "templates"):
        (role / name).symlink_to(ROOT / "roles" / "spot_host" / name)
    (role / "tasks" / "main.yml").symlink_to(ROOT / "roles" / "spot_host" / "tasks" / "image.yml")
    (folder / "play.yml").write_text(PLAY)
    cases = {
        f"case{number}": {
            "number": number,
            "seconds": seconds,
            "spot_host_result": {"instance_id": ids[case]},
            "spot_host_environment": f"t{number}",
        }
        for number, (case, (_, seconds, _)) in enumerate(CASES.items())
    }
    common = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "spot_host_region": REGION,
        "spot_host_fingerprint": "0123456789abcdef",
        "folder": str(folder),
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"cases": {"vars": common, "hosts": cases}}))
    done = subprocess.run(
        [tool("ansible-playbook"), str(folder / "play.yml"), "-i", str(folder / "hosts.yml")],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STRATEGY": "free",
            "AWS_ENDPOINT_URL": endpoint,
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    found = {case: folder / str(number) for number, case in enumerate(CASES)}
    assert all(path.exists() for path in found.values()), done.stdout + done.stderr
    return {case: path.read_text() for case, path in found.items()}


@pytest.mark.plays
@pytest.mark.parametrize("case", CASES)
def test_an_image_counts_when_its_snapshot_was_begun_in_time(case: str, said: dict[str, str]) -> None:
    refusal = CASES[case][2]
    assert (refusal in said[case]) if refusal else (said[case] == "made"), said[case]
