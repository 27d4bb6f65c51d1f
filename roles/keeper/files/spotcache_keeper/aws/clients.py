"""Clients for AWS, and its errors in words: above all, which action was denied."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spotcache_keeper.aws.endpoints import Endpoint, endpoint
from spotcache_keeper.errors import DamagedError, KeeperError

# What S3 calls an operation and what IAM calls the permission for it differ
# (Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3").
_S3_ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden"})
_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "AuthFailure",
        "SignatureDoesNotMatch",
    }
)


class AwsError(KeeperError):
    """AWS refused a call.

    Attributes:
        code: AWS's own code, such as `NoSuchKey`; empty when AWS was not reached.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


def make_client(
    service: str, region: str, endpoint_url: str | None, dualstack: str = "none", read_timeout: int = 60
) -> Any:
    """A client of one service; credentials come from the host's instance profile.

    Args:
        service: as the SDK calls it.
        region: AWS region.
        endpoint_url: address of all services, for an endpoint of one's own.
        dualstack: which of AWS's names are used, see `endpoints`.
        read_timeout: seconds that it may be silent.

    Raises:
        AwsError: the SDK does not know the service or the region.
    """
    # Imported here: it takes a fifth of a second, and `--help` or a wrong option need none of it.
    import boto3
    from botocore.config import Config as ClientConfig

    options: dict[str, Any] = {
        "connect_timeout": 5,
        "read_timeout": read_timeout,
        "retries": {"mode": "standard", "max_attempts": 4},
    }
    if endpoint_url:
        # An endpoint of one's own rarely has a name for every bucket.
        options["s3"] = {"addressing_style": "path"}
        place = Endpoint(endpoint_url, region)
    else:
        place = endpoint(service, region, dualstack)
    if service == "s3" and not endpoint_url:
        # Left to the SDK: with an address given it would no longer use S3's name for the bucket.
        options["s3"] = {"use_dualstack_endpoint": dualstack == "all", "us_east_1_regional_endpoint": "regional"}
    with aws_errors(f"using AWS in {region}"):
        return boto3.session.Session(region_name=place.region).client(
            service, endpoint_url=endpoint_url if service == "s3" else place.url, config=ClientConfig(**options)
        )


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn the SDK's errors into ours: `doing` says what was tried, such as `writing s3://bucket/key`.

    Raises:
        AwsError: AWS refused or was not reached.
        DamagedError: what was read does not match its checksum in S3.
    """
    from botocore import exceptions as sdk

    try:
        yield
    except sdk.ClientError as error:
        raise _refusal(error, doing) from error
    except (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError) as error:
        raise AwsError(
            f"{doing}: there are no AWS credentials; the host has no instance profile, or no metadata service"
        ) from error
    except sdk.BotoCoreError as error:
        if type(error).__name__ in ("FlexibleChecksumError", "IncompleteReadError", "ResponseStreamingError"):
            raise DamagedError(f"{doing}: {error}") from error
        raise AwsError(f"{doing}: {error}") from error


def _refusal(error: Any, doing: str) -> AwsError:
    """AWS's own answer, in words."""
    answer = error.response.get("Error", {})
    code, text = str(answer.get("Code", "")), str(answer.get("Message", ""))
    if code in _DENIED:
        action = _S3_ACTIONS.get(error.operation_name, f"ec2:{error.operation_name}")
        return AwsError(f"{doing}: AWS denies {action}; add it to the policy of the host's instance profile", code)
    if code in _CREDENTIALS:
        return AwsError(f"{doing}: AWS does not accept the host's credentials ({code}: {text})", code)
    if code == "NoSuchBucket":
        return AwsError(f"{doing}: the bucket does not exist; provision makes it", code)
    return AwsError(f"{doing}: {code}: {text}" if text else f"{doing}: {code}", code)
