"""What EC2 and Auto Scaling do and moto does not: closed here, so that no role has to know about it.

moto keeps the records of the API; this module makes them behave (launch templates apply whole, groups launch Spot
instances across zones and types, snapshots are pending for a while) and tells a `Machine` whenever something must
happen to real hosts and real disks. It knows nothing of Docker.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
import copy
import itertools
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from moto.autoscaling.exceptions import AutoscalingClientError
from moto.autoscaling.models import (
    ASG_NAME_TAG,
    AutoScalingBackend,
    FakeAutoScalingGroup,
    InstanceState,
    TerminateInstanceActivity,
)
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult, EmptyResult
from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError, InvalidLaunchTemplateVersionNotFound, VolumeInUseError
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance
from moto.ec2.models.launch_templates import LaunchTemplate, LaunchTemplateVersion
from moto.ec2.models.subnets import Subnet
from moto.ec2.responses.elastic_block_store import ElasticBlockStore
from moto.ec2.responses.launch_templates import LaunchTemplates

from sandbox import dependents, iam, launches
from sandbox.scaling import LAUNCHING, TERMINATING
from sandbox.times import Span, Times

SNAPSHOT_INTERVAL_S = 15  # EBS: one CreateSnapshot per 15 s and volume
DELETING = "Delete in progress"  # the status of a group that is being deleted; others have none
SNAPSHOT_PENDING_MAX = 5  # EBS: five pending snapshots per volume


class Machine(Protocol):
    """What the records ask of the real world. `instance`, `volume`, `snapshot`, `image` are moto's own objects."""

    snapshot_seconds: float
    snapshot_result: str
    hooks: Any
    times: Times

    def takes(self, what: str, span: Span) -> float:
        """How many seconds something takes this time."""

    def later(self, seconds: float, act: Callable[[], None], about: str) -> None:
        """Do something after a while."""

    def launch(self, instance: Any) -> None:
        """Boot a host for a pending instance."""

    def shut_down(self, instance: Any, gone: Callable[[], None]) -> None:
        """End a host, then call `gone`."""

    def stop(self, instance: Any) -> None:
        """StopInstances."""

    def start(self, instance: Any) -> None:
        """StartInstances."""

    def reboot(self, instance: Any) -> None:
        """RebootInstances."""

    def attach(self, volume: Any, instance: Any, device: str) -> None:
        """AttachVolume."""

    def detach(self, volume: Any, instance: Any) -> None:
        """DetachVolume."""

    def fill(self, volume: Any, snapshot_id: str) -> None:
        """Give a new volume the bytes of a snapshot."""

    def copy(self, volume: Any, snapshot: Any) -> None:
        """Keep the bytes that a volume has now."""

    def forget(self, object_id: str) -> None:
        """A volume, snapshot or image was deleted."""

    def bake(self, instance: Any, image: Any) -> None:
        """CreateImage."""

    def capacity(self, zone: str, instance_type: str, market: str) -> bool:
        """Whether a pool of zone, type and market has an instance to give."""

    def refuses(self, group_name: str, zone: str) -> bool:
        """Whether a group gets no instance in a zone."""

    def at_risk(self, instance: Any) -> str:
        """Whether the end of an instance was announced: empty, `rebalance` or `notice`."""

    def put_event(self, source: str, kind: str, detail: dict[str, Any], resources: list[str]) -> None:
        """An event for EventBridge."""

    def scored(self, pools: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Pools (zone, type) in the order in which a launch tries them."""


def truth(value: Any) -> bool:
    """A query parameter's boolean: moto hands on 'false' as text, which Python takes for true."""
    return value if isinstance(value, bool) else str(value).lower() == "true"


def merged_mappings(template: list[dict[str, Any]], request: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Block device mappings of a template with those of the request over them, by device name, values typed."""
    merged: dict[str, dict[str, Any]] = {}
    for mapping in [*template, *request]:
        ebs = dict(mapping.get("Ebs") or {})
        if ebs.get("VolumeSize") is not None:
            ebs["VolumeSize"] = int(ebs["VolumeSize"])
        for key in ("DeleteOnTermination", "Encrypted"):
            if key in ebs:
                ebs[key] = truth(ebs[key])
        merged[mapping["DeviceName"]] = {
            **mapping,
            "Ebs": {**merged.get(mapping["DeviceName"], {}).get("Ebs", {}), **ebs},
        }
    return list(merged.values())


def template_tags(data: dict[str, Any], kind: str) -> dict[str, str]:
    """Tags that a launch template gives to what it launches; kind is `instance` or `volume`."""
    tags: dict[str, str] = {}
    for specification in data.get("TagSpecifications") or []:
        if specification.get("ResourceType") == kind:
            tags.update({tag["Key"]: tag["Value"] for tag in specification.get("Tags", [])})
    return tags


def wanted_markets(group: Any) -> tuple[str, list[str]]:
    """Which market ('spot' or 'on-demand') a group's next instance is bought on, and its types in order of choice."""
    policy = group.mixed_instances_policy or {}
    data = group.ec2_launch_template.get_version(group.launch_template_version).data
    overrides = [
        o["InstanceType"] for o in policy.get("LaunchTemplate", {}).get("Overrides", []) if o.get("InstanceType")
    ]
    types = overrides or [data.get("InstanceType", "t3.small")]
    if not policy:
        return ("spot" if data.get("InstanceMarketOptions") else "on-demand"), types
    distribution = policy.get("InstancesDistribution", {})
    base = int(distribution.get("OnDemandBaseCapacity") or 0)
    percent = int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100))
    have = len(group.instance_states)
    return ("on-demand" if have < base or percent >= 100 else "spot"), types


class Gaps:
    """Patches moto's EC2 and Auto Scaling classes for the life of this process."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.snapshots_asked: dict[str, float] = {}

    def close(self) -> None:
        """Install every patch. Call it once, when the backends exist: making one takes snapshots under its own lock."""
        self._instances()
        self._volumes()
        self._images()
        self._templates()
        self._filters()
        dependents.close_gaps()
        iam.close_gaps()
        self._groups()

    def _instances(self) -> None:
        machine = self.machine
        original, begin = EC2Backend.run_instances, Instance.__init__

        def begin_pending(instance: Any, *args: Any, **kwargs: Any) -> None:
            begin(instance, *args, **kwargs)
            instance._state.name, instance._state.code = "pending", 0
            for nic in instance.nics.values():
                # The interface that a launch makes goes with its instance.
                nic.delete_on_termination = True
            if kwargs.get("instance_market_options"):
                instance.lifecycle = "spot"

        def run_instances(
            backend: Any, image_id: str, count: int, user_data: Any, security_group_names: list[str], **kwargs: Any
        ) -> Any:
            data: dict[str, Any] = {}
            if kwargs.get("launch_template"):
                data = backend._get_template_from_args(kwargs["launch_template"]).data
            image_id = image_id or data.get("ImageId") or ""
            if kwargs.get("is_instance_type_default") and data.get("InstanceType"):
                kwargs.update(instance_type=data["InstanceType"], is_instance_type_default=False)
            for nic in data.get("NetworkInterfaces") or []:
                kwargs["security_group_ids"] = kwargs.get("security_group_ids") or nic.get("Groups") or []
                if nic.get("AssociatePublicIpAddress") is not None:
                    kwargs["associate_public_ip"] = truth(nic["AssociatePublicIpAddress"])
                if nic.get("Ipv6AddressCount") is not None:
                    kwargs["ipv6_address_count"] = int(nic["Ipv6AddressCount"])
            kwargs["metadata_options"] = {
                **(data.get("MetadataOptions") or {}),
                **(kwargs.get("metadata_options") or {}),
            }
            market = kwargs.get("instance_market_options") or (data.get("InstanceMarketOptions") or {}).get(
                "MarketType"
            )
            kwargs["instance_market_options"] = "spot" if market == "spot" else {}
            if user_data is None and data.get("UserData"):
                user_data = as_user_data(data["UserData"])
            images = backend.describe_images(ami_ids=[image_id])
            if images[0].state != "available":
                raise EC2ClientError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available")
            root = {"DeviceName": images[0].root_device_name, "Ebs": {"VolumeSize": 8, "DeleteOnTermination": True}}
            mappings = merged_mappings(
                [root, *(data.get("BlockDeviceMappings") or [])], kwargs.get("block_device_mappings") or []
            )
            kwargs["block_device_mappings"] = mappings
            launches.check(backend.region_name, images[0], kwargs["instance_type"], as_user_data(user_data))
            subnet = backend.get_subnet(kwargs["subnet_id"]) if kwargs.get("subnet_id") else None
            zone = subnet.availability_zone if subnet else kwargs.get("placement") or f"{backend.region_name}a"
            launches.check_zone(backend.region_name, zone, kwargs["instance_type"])
            kind = "spot" if kwargs["instance_market_options"] else "on-demand"
            if not machine.capacity(zone, kwargs["instance_type"], kind):
                raise EC2ClientError(
                    "InsufficientInstanceCapacity",
                    f"There is no {kind} capacity available for {kwargs['instance_type']} in {zone}.",
                )
            tags = kwargs.setdefault("tags", {})
            tags["volume"] = {**template_tags(data, "volume"), **tags.get("volume", {})}
            reservation = original(backend, image_id, count, user_data, security_group_names, **kwargs)
            profile = data.get("IamInstanceProfile") or {}
            asked = kwargs.get("iam_instance_profile_name") or kwargs.get("iam_instance_profile_arn")
            for instance in reservation.instances:
                instance.user_data = user_data
                if profile and not asked:
                    backend.associate_iam_instance_profile(
                        instance_id=instance.id,
                        iam_instance_profile_name=profile.get("Name"),
                        iam_instance_profile_arn=profile.get("Arn"),
                    )
                machine.launch(instance)
            return reservation

        def terminate_instances(backend: Any, instance_ids: list[str]) -> list[tuple[Any, Any]]:
            if not instance_ids:
                raise EC2ClientError("InvalidParameterCombination", "No instances specified")
            answers = []
            for instance in backend.get_multi_instances_by_id(instance_ids):
                if instance.disable_api_termination is True:
                    raise EC2ClientError(
                        "OperationNotPermitted", f"The instance '{instance.id}' may not be terminated."
                    )
                before = type(instance._state)(instance._state.name, instance._state.code)
                answers.append((instance, before))
                if before.name in ("shutting-down", "terminated"):
                    continue
                instance._state.name, instance._state.code = "shutting-down", 32
                machine.shut_down(instance, instance.terminate)
            return answers

        def then(name: str, act: Callable[[Any], None]) -> None:
            before = getattr(EC2Backend, name)

            def patched(backend: Any, instance_ids: list[str]) -> Any:
                answer = before(backend, instance_ids)
                for instance in backend.get_multi_instances_by_id(instance_ids):
                    act(instance)
                return answer

            setattr(EC2Backend, name, patched)

        Instance.__init__ = begin_pending
        EC2Backend.run_instances = run_instances
        EC2Backend.terminate_instances = terminate_instances
        then("stop_instances", machine.stop)
        then("start_instances", machine.start)
        then("reboot_instances", machine.reboot)

    def _volumes(self) -> None:
        machine = self.machine
        create, delete = EC2Backend.create_volume, EC2Backend.delete_volume
        attach, detach = EC2Backend.attach_volume, EC2Backend.detach_volume
        snap, unsnap = EC2Backend.create_snapshot, EC2Backend.delete_snapshot

        def create_volume(backend: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("size") is not None:
                kwargs["size"] = int(kwargs["size"])
            source = backend.snapshots.get(kwargs.get("snapshot_id") or "")
            if source is not None and source.status != "completed":
                raise EC2ClientError("IncorrectState", f"Snapshot '{source.id}' is in invalid state - {source.status}")
            volume = create(backend, *args, **kwargs)
            # AWS answers these fields always, and the modules read them.
            volume.snapshot_id = volume.snapshot_id or ""
            volume.multi_attach_enabled = bool(volume.multi_attach_enabled)
            if volume.snapshot_id:
                machine.fill(volume, volume.snapshot_id)
            return volume

        def delete_volume(backend: Any, volume_id: str) -> Any:
            volume = delete(backend, volume_id)
            machine.forget(volume_id)
            return volume

        def attach_volume(
            backend: Any, volume_id: str, instance_id: str, device_path: str, delete_on_termination: bool = False
        ) -> Any:
            volume, instance = backend.get_volume(volume_id), backend.get_instance(instance_id)
            if volume.attachment:
                raise VolumeInUseError(volume_id, volume.attachment.instance.id)
            if volume.availability_zone != instance.placement.zone:
                raise EC2ClientError(
                    "InvalidVolume.ZoneMismatch",
                    f"The volume '{volume_id}' is not in the same availability zone as instance '{instance_id}'",
                )
            answer = attach(backend, volume_id, instance_id, device_path, truth(delete_on_termination))
            answer.status = "attaching"

            def done() -> None:
                if volume.attachment is answer and answer.status == "attaching":
                    machine.attach(volume, instance, device_path)
                    answer.status = "attached"

            machine.later(machine.takes("plug", machine.times.plug), done, f"attaching {volume_id}")
            return answer

        def detach_volume(backend: Any, volume_id: str, instance_id: str, device_path: str) -> Any:
            volume = backend.get_volume(volume_id)
            attachment = volume.attachment
            if attachment is None:
                return detach(backend, volume_id, instance_id, device_path)
            instance = attachment.instance
            if instance.state in ("shutting-down", "terminated"):
                # The end of the instance itself, which has taken its time.
                machine.detach(volume, instance)
                return detach(backend, volume_id, instance.id, device_path)
            if attachment.status == "detaching":
                return attachment
            attachment.status = "detaching"

            def done() -> None:
                if volume.attachment is attachment:
                    machine.detach(volume, instance)
                    detach(backend, volume_id, instance.id, device_path)

            machine.later(machine.takes("plug", machine.times.plug), done, f"detaching {volume_id}")
            return attachment

        def create_snapshot(backend: Any, volume_id: str, *args: Any, **kwargs: Any) -> Any:
            if not kwargs.get("from_ami"):
                self._snapshot_limits(backend, volume_id)
            snapshot = snap(backend, volume_id, *args, **kwargs)
            machine.copy(snapshot.volume, snapshot)
            if not kwargs.get("from_ami"):
                snapshot.status = "pending" if machine.snapshot_seconds > 0 else "completed"
                timer = threading.Timer(machine.snapshot_seconds, finish, (backend, snapshot, datetime.now(UTC)))
                timer.daemon = True
                timer.start()
            return snapshot

        def finish(backend: Any, snapshot: Any, begun: datetime) -> None:
            result, machine.snapshot_result = machine.snapshot_result, "succeeded"
            snapshot.status = "completed" if result == "succeeded" else "error"
            arn = f"arn:aws:ec2::{backend.region_name}:snapshot/{snapshot.id}"
            detail = {
                "event": "createSnapshot",
                "result": result,
                "cause": "" if result == "succeeded" else "an internal error occurred",
                "request-id": "",
                "snapshot_id": arn,
                "source": f"arn:aws:ec2::{backend.region_name}:volume/{snapshot.volume.id}",
                "startTime": begun.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "endTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            machine.put_event("aws.ec2", "EBS Snapshot Notification", detail, [arn])

        def delete_snapshot(backend: Any, snapshot_id: str) -> Any:
            answer = unsnap(backend, snapshot_id)
            machine.forget(snapshot_id)
            return answer

        snap_all = ElasticBlockStore.create_snapshots

        def create_snapshots(response: Any) -> Any:
            answer = snap_all(response)
            if response._get_param("CopyTagsFromSource") == "volume":
                for snapshot in answer.result["Snapshots"]:
                    own = {tag["key"] for tag in snapshot.get_tags()}
                    rows = [tag for tag in snapshot.volume.get_tags() if not tag["key"].startswith("aws:")]
                    snapshot.add_tags({tag["key"]: tag["value"] for tag in rows if tag["key"] not in own})
            return answer

        def snapshots_of(
            backend: Any, instance_spec: dict[str, Any], description: str, tags: dict[str, str]
        ) -> list[Any]:
            instance = backend.get_instance(instance_spec["InstanceId"])
            left_out = set(instance_spec.get("ExcludeDataVolumeIds") or [])
            bootless = truth(instance_spec.get("ExcludeBootVolume", False))
            volumes = [
                block.volume_id
                for device, block in instance.get_block_device_mapping
                if block.volume_id not in left_out and not (bootless and device == instance.root_device_name)
            ]
            for volume_id in volumes:
                backend.get_volume(volume_id)
            snapshots = [backend.create_snapshot(volume_id, description=description) for volume_id in volumes]
            for snapshot in snapshots:
                snapshot.add_tags(tags)
            return snapshots

        EC2Backend.create_snapshots = snapshots_of
        ElasticBlockStore.create_snapshots = create_snapshots
        EC2Backend.create_volume = create_volume
        EC2Backend.delete_volume = delete_volume
        EC2Backend.attach_volume = attach_volume
        EC2Backend.detach_volume = detach_volume
        EC2Backend.create_snapshot = create_snapshot
        EC2Backend.delete_snapshot = delete_snapshot

    def _snapshot_limits(self, backend: Any, volume_id: str) -> None:
        now = time.monotonic()
        if now - self.snapshots_asked.get(volume_id, -SNAPSHOT_INTERVAL_S) < SNAPSHOT_INTERVAL_S:
            raise EC2ClientError(
                "SnapshotCreationPerVolumeRateExceeded",
                f"The maximum per volume CreateSnapshot request rate has been exceeded for {volume_id}.",
            )
        pending = [s for s in backend.snapshots.values() if s.volume.id == volume_id and s.status == "pending"]
        if len(pending) >= SNAPSHOT_PENDING_MAX:
            raise EC2ClientError(
                "ConcurrentSnapshotLimitExceeded", "Maximum allowed in-progress snapshots for a single volume exceeded."
            )
        self.snapshots_asked[volume_id] = now

    def _images(self) -> None:
        machine = self.machine
        original, remove = EC2Backend.create_image, EC2Backend.deregister_image

        def create_image(
            backend: Any, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
        ) -> Any:
            on_image = [s for s in tag_specifications if s["ResourceType"] == "image"]
            on_snapshot = [s for s in tag_specifications if s["ResourceType"] == "snapshot"]
            image = original(backend, instance_id, name, description, on_image)
            for specification in on_snapshot:
                image.ebs_snapshot.add_tags({tag["Key"]: tag["Value"] for tag in specification["Tags"]})
            source = backend.get_instance(instance_id)
            image.root_device_name = source.root_device_name
            # CreateImage answers first. What is on the disks at the moment of its snapshots, which comes later, is in
            # the image. AWS does not promise that it names them before it is available.
            image.state, image.names_snapshots = "pending", False
            image.ebs_snapshot.description = f"Created by CreateImage({instance_id}) for {image.id}"
            backend.snapshots.pop(image.ebs_snapshot.id)

            def snap() -> None:
                if image.id not in backend.amis:
                    return
                try:
                    if source.state not in ("running", "stopped"):
                        raise RuntimeError(f"{instance_id} is {source.state}")
                    machine.bake(source, image)
                except Exception:
                    image.state = "failed"
                    raise
                image.ebs_snapshot.status = "pending"
                backend.snapshots[image.ebs_snapshot.id] = image.ebs_snapshot
                machine.later(machine.takes("image", machine.times.image_ready), finish, f"image {image.id}")

            def finish() -> None:
                image.ebs_snapshot.status = "completed"
                image.state, image.names_snapshots = "available", True

            machine.later(machine.takes("image", machine.times.image_point), snap, f"image {image.id}")
            return image

        mappings = Ami.block_device_mappings.fget

        def block_device_mappings(image: Any) -> list[dict[str, Any]]:
            return mappings(image) if getattr(image, "names_snapshots", True) else []

        def deregister_image(backend: Any, ami_id: str) -> Any:
            answer = remove(backend, ami_id)
            machine.forget(ami_id)
            return answer

        Ami.block_device_mappings = property(block_device_mappings)
        EC2Backend.create_image = create_image
        EC2Backend.deregister_image = deregister_image

    def _templates(self) -> None:
        original = EC2Backend.create_launch_template

        def create_launch_template(
            backend: Any, name: str, description: str, template_data: dict[str, Any], tag_spec: dict[str, Any]
        ) -> Any:
            # Tags of the template itself are no part of its data; left there, the next comparison finds a difference.
            specifications = template_data.get("TagSpecifications") or []
            kept = [s for s in specifications if s.get("ResourceType") != "launch-template"]
            if kept:
                template_data["TagSpecifications"] = kept
            else:
                template_data.pop("TagSpecifications", None)
            if template_data.get("UserData") is None:
                template_data.pop("UserData", None)
            return original(backend, name, description, template_data, tag_spec)

        def create_version(template: Any, data: dict[str, Any], description: str) -> Any:
            # A number that was deleted does not come again.
            template.numbers = getattr(template, "numbers", 0) + 1
            version = LaunchTemplateVersion(template, template.numbers, data, description)
            template.versions.append(version)
            return version

        def get_version(template: Any, number: Any) -> Any:
            if str(number).lower() == "$latest":
                return template.latest_version()
            wanted = template.default_version_number if str(number).lower() == "$default" else number
            for version in template.versions:
                if str(version.number) == str(wanted):
                    return version
            raise InvalidLaunchTemplateVersionNotFound(template_id=template.id, version=number)

        def delete_launch_template_versions(response: Any) -> Any:
            backend, name = response.ec2_backend, response._get_param("LaunchTemplateName")
            template_id = response._get_param("LaunchTemplateId") or backend.launch_template_name_to_ids.get(name)
            template = backend.get_launch_template(template_id)
            good, bad = [], []
            for number in response._get_param("Versions", []):
                row = {
                    "LaunchTemplateId": template.id,
                    "LaunchTemplateName": template.name,
                    "VersionNumber": int(number),
                }
                found = [version for version in template.versions if str(version.number) == str(number)]
                if found and not template.is_default(found[0]):
                    template.versions.remove(found[0])
                    good.append(row)
                    continue
                code = "unexpectedError" if found else "launchTemplateVersionDoesNotExist"
                bad.append({**row, "ResponseError": {"Code": code, "Message": f"Version {number} cannot be deleted"}})
            return ActionResult(
                {
                    "SuccessfullyDeletedLaunchTemplateVersions": good,
                    "UnsuccessfullyDeletedLaunchTemplateVersions": bad,
                }
            )

        EC2Backend.create_launch_template = create_launch_template
        LaunchTemplate.create_version = create_version
        LaunchTemplate.get_version = get_version
        LaunchTemplate.default_version = lambda template: template.get_version("$Default")
        LaunchTemplates.delete_launch_template_versions = delete_launch_template_versions
        LaunchTemplateVersion.user_data = property(lambda version: as_user_data(version.data.get("UserData")))

    def _filters(self) -> None:
        subnet = Subnet.get_filter_value

        fields = {
            "ipv6-cidr-block-association.ipv6-cidr-block": lambda row: row["ipv6CidrBlock"],
            "ipv6-cidr-block-association.association-id": lambda row: row["associationId"],
            "ipv6-cidr-block-association.state": lambda row: row["ipv6CidrBlockState"]["State"],
        }

        def subnet_filter(one: Any, name: str, method: str | None = None) -> Any:
            if name in fields:
                return [fields[name](row) for row in one.ipv6_cidr_block_associations.values()]
            return subnet(one, name, method)

        def associations(one: Any) -> list[dict[str, Any]]:
            # The answer has the state in lower case, which moto's own list lacks.
            return [
                {**row, "ipv6CidrBlockState": {"state": row["ipv6CidrBlockState"]["State"]}}
                for row in one.ipv6_cidr_block_associations.values()
                if row["ipv6CidrBlockState"]["State"] == "associated"
            ]

        Subnet.get_filter_value = subnet_filter
        Subnet.ipv6_cidr_block_association_set = property(associations)

    def _groups(self) -> None:
        def set_desired_capacity(group: Any, new_capacity: int | None) -> None:
            group.desired_capacity = group.min_size if new_capacity is None else new_capacity

        def notify_terminate_instances(backend: Any, instance_ids: list[str]) -> None:
            """The groups' own loop sees the loss."""

        def disable_metrics_collection(response: Any) -> Any:
            group = response.autoscaling_backend.autoscaling_groups[response._get_param("AutoScalingGroupName")]
            gone = set(response._get_param("Metrics", []))
            group.metrics = [metric for metric in group.metrics if gone and metric not in gone]
            return EmptyResult()

        def describe_scaling_activities(response: Any) -> Any:
            name = response._get_param("AutoScalingGroupName")
            groups = response.autoscaling_backend.autoscaling_groups
            found = [
                activity
                for group in ([groups[name]] if name in groups else groups.values() if not name else [])
                for activity in getattr(group, "activities", [])
            ]
            return ActionResult({"Activities": found})

        update = FakeAutoScalingGroup.update
        respond = AutoScalingResponse.update_auto_scaling_group

        def update_group(group: Any, *args: Any, **kwargs: Any) -> None:
            kept = copy.deepcopy(kwargs.get("mixed_instances_policy") or group.mixed_instances_policy)
            specification = (kept or {}).get("LaunchTemplate", {}).get("LaunchTemplateSpecification", {})
            if specification.get("LaunchTemplateId"):
                # moto notes both, and takes only one of them.
                specification.pop("LaunchTemplateName", None)
            update(group, *args, **{**kwargs, "mixed_instances_policy": kept})

        def update_auto_scaling_group(response: Any) -> Any:
            answer = respond(response)
            group = response.autoscaling_backend.autoscaling_groups[response._get_param("AutoScalingGroupName")]
            if response._get_param("CapacityRebalance") is not None:
                group.capacity_rebalance = response._get_bool_param("CapacityRebalance", False)
            if response._get_param("DefaultCooldown") is not None:
                group.default_cooldown = response._get_int_param("DefaultCooldown")
            if response._get_param("TerminationPolicies"):
                group.termination_policies = response._get_param("TerminationPolicies")
            return answer

        create = AutoScalingBackend.create_auto_scaling_group

        def create_auto_scaling_group(backend: Any, *args: Any, **kwargs: Any) -> Any:
            name = kwargs.get("name") or args[0]
            if (before := backend.autoscaling_groups.get(name)) is not None:
                pending = " and is pending deletion" if getattr(before, "status", None) else ""
                raise AutoscalingClientError(
                    "AlreadyExists",
                    f"AutoScalingGroup by this name already exists - A group with the name {name} already "
                    f"exists{pending}",
                )
            group = create(backend, *args, **kwargs)
            template = group.ec2_launch_template
            data = template.get_version(group.launch_template_version).data if template else {}
            if group.mixed_instances_policy and data.get("InstanceMarketOptions"):
                backend.autoscaling_groups.pop(group.name)
                raise AutoscalingClientError(
                    "ValidationError",
                    "You cannot use a launch template that is set to request Spot Instances (InstanceMarketOptions) "
                    "when you configure an Auto Scaling group with a mixed instances policy.",
                )
            return group

        def terminate_instance(backend: Any, instance_id: str, should_decrement: bool) -> Any:
            state = next(
                s
                for g in backend.autoscaling_groups.values()
                for s in g.instance_states
                if s.instance.id == instance_id
            )
            group = state.instance.autoscaling_group
            size = group.desired_capacity
            if should_decrement:
                group.desired_capacity -= 1
            if not state.lifecycle_state.startswith("Terminating"):
                retire(group, state, self.machine)
            return TerminateInstanceActivity(state.instance, size)

        def delete_auto_scaling_group(response: Any) -> Any:
            backend, name = response.autoscaling_backend, response._get_param("AutoScalingGroupName")
            group = backend.autoscaling_groups.get(name)
            if group is None:
                raise AutoscalingClientError(
                    "ValidationError", f"AutoScalingGroup name not found - AutoScalingGroup '{name}' not found"
                )
            if not response._get_bool_param("ForceDelete", False):
                if group.instance_states:
                    raise AutoscalingClientError(
                        "ResourceInUse",
                        "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance "
                        "request(s) still in the group.",
                    )
                if (group.desired_capacity or 0) > 0 and time.monotonic() >= getattr(group, "not_before", 0.0):
                    raise AutoscalingClientError(
                        "ScalingActivityInProgress",
                        "You cannot delete an AutoScalingGroup while there are scaling activities in progress for that "
                        "group.",
                    )
            for kept in (backend.lifecycle_hooks, backend.scheduled_actions):
                for key in [k for k, one in kept.items() if one.auto_scaling_group_name == name]:
                    kept.pop(key)
            group.status = DELETING
            _leave(group, self.machine)
            return EmptyResult()

        FakeAutoScalingGroup.set_desired_capacity = set_desired_capacity
        FakeAutoScalingGroup.update = update_group
        AutoScalingBackend.notify_terminate_instances = notify_terminate_instances
        AutoScalingBackend.create_auto_scaling_group = create_auto_scaling_group
        AutoScalingBackend.terminate_instance = terminate_instance
        AutoScalingResponse.disable_metrics_collection = disable_metrics_collection
        AutoScalingResponse.delete_auto_scaling_group = delete_auto_scaling_group
        AutoScalingResponse.describe_scaling_activities = describe_scaling_activities
        AutoScalingResponse.update_auto_scaling_group = update_auto_scaling_group


def as_user_data(value: Any) -> Base64EncodedString | None:
    """User data in the one type moto's records expect; it arrives base64 encoded from every API."""
    if value is None or isinstance(value, Base64EncodedString):
        return value
    if isinstance(value, bytes):
        return Base64EncodedString(base64.b64encode(value).decode("ascii"))
    return Base64EncodedString(str(value))


def _activity(
    group: Any, machine: Machine, code: str, event: str, description: str, cause: str, instance: Any = None, **more: Any
) -> None:
    log = group.__dict__.setdefault("activities", [])
    now = datetime.now(UTC)
    record = {
        "ActivityId": str(uuid.uuid4()),
        "AutoScalingGroupName": group.name,
        "Description": description,
        "Cause": cause,
        "StartTime": more.get("begun", now),
        "EndTime": now,
        "StatusCode": code,
        "StatusMessage": more.get("message", ""),
        "Progress": 100,
        "Details": "{}",
    }
    log.insert(0, record)
    del log[100:]
    detail = {key: value for key, value in record.items() if key != "Progress"}
    detail |= {
        "StartTime": record["StartTime"].isoformat(),
        "EndTime": now.isoformat(),
        "RequestId": record["ActivityId"],
    }
    detail["Details"] = {"Availability Zone": instance.placement.zone} if instance is not None else {}
    detail["EC2InstanceId"] = instance.id if instance is not None else ""
    arns = [f"arn:aws:ec2:{group.region}:{group.account_id}:instance/{instance.id}"] if instance is not None else []
    machine.put_event("aws.autoscaling", event, detail, [group.arn, *arns])


def tend(group: Any, machine: Machine) -> None:
    """One look of Auto Scaling at one group: forget what died, launch what is missing, end what is too much."""
    if getattr(group, "status", None) == DELETING:
        _leave(group, machine)
        return
    for state in list(group.instance_states):
        _look(group, state, machine)
    serving = [s for s in group.instance_states if not s.lifecycle_state.startswith("Terminating")]
    wanted = group.desired_capacity or 0
    # With capacity rebalancing the successor of an instance at risk comes first.
    leaving = [s for s in serving if machine.at_risk(s.instance)] if group.capacity_rebalance and wanted else []
    for state in leaving:
        safe = sum(s.lifecycle_state == "InService" and s not in leaving for s in serving)
        if safe >= wanted or machine.at_risk(state.instance) == "notice":
            retire(group, state, machine)
            serving.remove(state)
    wanted += sum(state in serving for state in leaving)
    missing = wanted - len(serving)
    if missing > 0 and time.monotonic() >= getattr(group, "not_before", 0.0):
        _launch(group, machine)
    elif missing < 0:
        for state in [s for s in serving if not s.protected_from_scale_in][:-missing]:
            retire(group, state, machine)


def retire(group: Any, state: Any, machine: Machine) -> None:
    """Auto Scaling ends an instance: at once, or when the group's hooks let it."""
    state.retired = datetime.now(UTC)
    if machine.hooks.hold(group, state, TERMINATING):
        state.lifecycle_state = "Terminating:Wait"
    else:
        state.lifecycle_state = "Terminating"
        group.ec2_backend.terminate_instances([state.instance.id])


def _leave(group: Any, machine: Machine) -> None:
    """A group that is being deleted: its instances end, whatever its hooks say, and it goes with the last of them."""
    for state in list(group.instance_states):
        if state.instance.state == "terminated":
            _ended(group, state, machine, "the group was deleted")
        elif state.instance.state != "shutting-down":
            state.retired, state.lifecycle_state = datetime.now(UTC), "Terminating"
            group.ec2_backend.terminate_instances([state.instance.id])
    if not group.instance_states:
        group.autoscaling_backend.autoscaling_groups.pop(group.name, None)


def _ended(group: Any, state: Any, machine: Machine, cause: str) -> None:
    group.instance_states.remove(state)
    machine.hooks.forget(state.instance.id)
    _activity(
        group,
        machine,
        "Successful",
        "EC2 Instance Terminate Successful",
        f"Terminating EC2 instance: {state.instance.id}",
        cause,
        state.instance,
        begun=getattr(state, "retired", datetime.now(UTC)),
    )


def _look(group: Any, state: Any, machine: Machine) -> None:
    name = state.instance.state
    if name in ("shutting-down", "terminated", "stopped"):
        cause = f"an instance was taken out of service in response to an EC2 health check that found it {name}"
        _ended(group, state, machine, cause)
    elif state.lifecycle_state == "Pending" and name == "running":
        if machine.hooks.hold(group, state, LAUNCHING):
            state.lifecycle_state = "Pending:Wait"
        else:
            _in_service(group, state, machine)
    elif state.lifecycle_state.endswith(":Wait"):
        verdict = machine.hooks.verdict(group, state)
        if verdict == "CONTINUE" and state.lifecycle_state == "Pending:Wait":
            _in_service(group, state, machine)
        elif verdict:
            state.lifecycle_state = "Terminating:Proceed"
            group.ec2_backend.terminate_instances([state.instance.id])


def _in_service(group: Any, state: Any, machine: Machine) -> None:
    state.lifecycle_state = "InService"
    group.delay = 1.0
    _activity(
        group,
        machine,
        "Successful",
        "EC2 Instance Launch Successful",
        f"Launching a new EC2 instance: {state.instance.id}",
        "capacity was below what is desired",
        state.instance,
    )


def _launch(group: Any, machine: Machine) -> None:
    market, types = wanted_markets(group)
    subnets = {
        subnet.availability_zone: subnet.id
        for subnet in group.ec2_backend.describe_subnets(subnet_ids=(group.vpc_zone_identifier or "").split(","))
    }
    pools = [(zone, kind) for kind, zone in itertools.product(types, subnets)]
    refusal = "no subnet"
    for zone, instance_type in machine.scored(pools):
        if machine.refuses(group.name, zone):
            refusal = f"There is no capacity available for {instance_type} in {zone}."
            continue
        tags = {**group.get_propagated_tags(), ASG_NAME_TAG: group.name}
        template = {
            "LaunchTemplateId": group.ec2_launch_template.id,
            "Version": str(group.ec2_launch_template.get_version(group.launch_template_version).number),
        }
        try:
            reservation = group.ec2_backend.run_instances(
                "",
                1,
                None,
                [],
                instance_type=instance_type,
                is_instance_type_default=False,
                tags={"instance": tags},
                launch_template=template,
                subnet_id=subnets[zone],
                associate_public_ip=None,
                instance_market_options="spot" if market == "spot" else None,
            )
        except EC2ClientError as error:
            refusal = error.message
            continue
        for instance in reservation.instances:
            instance.autoscaling_group = group
            group.instance_states.append(
                InstanceState(instance, "Pending", protected_from_scale_in=group.new_instances_protected_from_scale_in)
            )
        group.not_before = 0.0
        return
    # AWS tries again by itself, ever more slowly.
    delay = min(30.0, 2 * getattr(group, "delay", 1.0))
    group.delay, group.not_before = delay, time.monotonic() + delay
    _activity(
        group,
        machine,
        "Failed",
        "EC2 Instance Launch Unsuccessful",
        "Launching a new EC2 instance",
        "capacity was below what is desired",
        message=refusal,
    )
