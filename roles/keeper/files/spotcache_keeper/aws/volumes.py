"""EBS volumes as EC2 has them: looked at, waited for, attached, detached, deleted."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.aws.settle import known
from spotcache_keeper.errors import KeeperError

GONE = frozenset({"InvalidVolume.NotFound", "InvalidSnapshot.NotFound"})


@dataclass
class Volumes:
    """EC2's calls about volumes.

    Attributes:
        client: makes or gives the SDK's client.
        timeout: seconds that a change of state may take.
        sleep: waits that many seconds.
    """

    client: Callable[[], Any]
    timeout: float
    sleep: Callable[[float], None] = time.sleep

    def described(self, volume_id: str) -> dict[str, Any] | None:
        """A volume in EC2's words, None when it is gone; one that EC2 does not know yet is not.

        Raises:
            AwsError: EC2 does not say.
        """

        def ask() -> list[dict[str, Any]]:
            with aws_errors(f"looking at {volume_id}"):
                return list(self.client().describe_volumes(VolumeIds=[volume_id])["Volumes"])

        try:
            volumes = known(ask, self.sleep)
        except AwsError as error:
            if error.code in GONE:
                return None
            raise
        return volumes[0] if volumes else None

    def attached_to(self, instance_id: str) -> dict[str, str]:
        """The ids of an instance's volumes, by the device names under which they are attached.

        Raises:
            AwsError: EC2 does not say.
        """
        with aws_errors(f"listing the volumes of {instance_id}"):
            volumes = self.client().describe_volumes(
                Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}]
            )["Volumes"]
        return {
            str(attachment["Device"]): str(volume["VolumeId"])
            for volume in volumes
            for attachment in volume.get("Attachments", [])
        }

    def attach(self, volume_id: str, instance_id: str, device: str) -> None:
        """Attach a volume, and wait until it is."""
        self.change("attaching", volume_id, "attach_volume", InstanceId=instance_id, Device=device)
        self.wait(volume_id, "in-use")

    def change(self, doing: str, volume_id: str, operation: str, **arguments: str) -> None:
        """One call that changes a volume; `doing` says what, such as `attaching`.

        Raises:
            AwsError: EC2 refuses.
        """

        def ask() -> None:
            with aws_errors(f"{doing} {volume_id}"):
                getattr(self.client(), operation)(VolumeId=volume_id, **arguments)

        known(ask, self.sleep)

    def wait(self, volume_id: str, wanted: str) -> None:
        """Wait until a volume is in a state.

        Raises:
            KeeperError: it never will be, or is not in time.
        """
        deadline = time.monotonic() + self.timeout
        while True:
            volume = self.described(volume_id)
            state = volume["State"] if volume is not None else None
            if state == wanted:
                return
            if state in (None, "error"):
                raise KeeperError(
                    f"{volume_id} came to nothing: EC2 says {state or 'it does not exist'} "
                    "(an encryption key that the host may not use?)"
                )
            if time.monotonic() >= deadline:
                raise KeeperError(f"{volume_id} is still {state} after {self.timeout:.0f} s instead of {wanted}")
            self.sleep(1.0)

    def discard(self, volume_id: str) -> None:
        """Detach and delete a volume, which is paid for as long as it is there; one that is gone already is fine."""
        volume = self.described(volume_id)
        if volume is None:
            return
        for attachment in volume.get("Attachments", []):
            self.change("detaching", volume_id, "detach_volume", InstanceId=attachment["InstanceId"])
        if volume["State"] != "deleting":
            self.wait(volume_id, "available")
            try:
                self.change("deleting", volume_id, "delete_volume")
            except AwsError as error:
                if error.code not in GONE:
                    raise
