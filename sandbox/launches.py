"""What EC2 refuses to launch: a type that the image or the zone does not fit, and user data that is too long."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import base64
from typing import Any, Final

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

USER_DATA_BYTES: Final = 16384  # before it is encoded


def check(region: str, image: Any, instance_type: str, user_data: Any) -> None:
    """See that a type, an image and user data fit each other.

    Args:
        region: in which is launched.
        image: moto's record of the image.
        instance_type: such as t3.small.
        user_data: encoded in base64, as the API takes it, or None.

    Raises:
        EC2ClientError: they do not, in EC2's own words.
    """
    if instance_type not in INSTANCE_TYPES or not zones_of(region, instance_type):
        raise EC2ClientError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    supported = INSTANCE_TYPES[instance_type]["ProcessorInfo"]["SupportedArchitectures"]
    architecture = image.architecture or "i386"  # RegisterImage's default
    if architecture not in supported:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"The architecture '{','.join(supported)}' of the specified instance type does not match the architecture "
            f"'{architecture}' of the specified AMI. Specify an instance type and an AMI that have matching "
            "architectures, and try again. You can use 'describe-instance-types' or 'describe-images' to discover the "
            "architecture of the instance type or AMI.",
        )
    if user_data is not None and len(base64.b64decode(str(user_data))) > USER_DATA_BYTES:
        raise EC2ClientError("InvalidParameterValue", f"User data is limited to {USER_DATA_BYTES} bytes")


def check_zone(region: str, zone: str, instance_type: str) -> None:
    """See that a zone offers a type, by what DescribeInstanceTypeOfferings says.

    Raises:
        EC2ClientError: it does not.
    """
    offered = zones_of(region, instance_type)
    if zone not in offered:
        raise EC2ClientError(
            "Unsupported",
            f"Your requested instance type ({instance_type}) is not supported in your requested Availability Zone "
            f"({zone}). Please retry your request by not specifying an Availability Zone or choosing "
            f"{', '.join(offered)}.",
        )


def zones_of(region: str, instance_type: str) -> list[str]:
    """The zones of a region that offer a type."""
    offerings = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, [])
    return sorted(one["Location"] for one in offerings if one["InstanceType"] == instance_type)
