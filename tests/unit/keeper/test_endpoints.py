"""The names by which a host asks AWS are those that botocore's own rules give, in every partition."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from typing import Any, ClassVar

import pytest
from spotcache_keeper.aws.clients import make_client
from spotcache_keeper.aws.endpoints import DUALSTACK, endpoint
from spotcache_keeper.aws.signed import Key, Signed

from sandbox import names

REGIONS = (
    "ap-northeast-1",
    "us-east-1",
    "eu-central-2",
    "mx-central-1",
    "cn-north-1",
    "cn-northwest-1",
    "us-gov-west-1",
    "us-gov-east-1",
)
# What the keeper asks: see make_client and query in it.
SERVICES = ("ec2", "ssm", "autoscaling", "route53", "sns", "s3")


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("dualstack", DUALSTACK)
def test_a_name_is_the_one_that_botocore_knows(service: str, region: str, dualstack: str) -> None:
    # S3 stays at the gateway endpoint's name; SNS documents its plain name as having both kinds of addresses.
    both = dualstack == "all" or (dualstack == "services" and service != "s3")
    name, signing = names.endpoint(service, region, dualstack=both and service != "sns")
    found = endpoint(service, region, dualstack)
    assert found.url == f"https://{name}"
    assert found.region == (signing or region)


@pytest.mark.parametrize("service", [service for service in SERVICES if service != "s3"])
def test_by_ipv6_alone_every_service_is_reached(service: str) -> None:
    name = endpoint(service, "ap-northeast-1", "services").url.removeprefix("https://")
    known = names.lookup(name, "ap-northeast-1")
    assert known is not None
    assert known.ipv6


def signed_for(client: Any, operation: str, **arguments: Any) -> tuple[str, str]:
    """Where a client sends a request, and the region that its signature is for."""
    seen: list[tuple[str, str]] = []

    def look(request: Any, **_more: Any) -> None:
        scope = request.headers["Authorization"].decode().split("Credential=")[1].split("/")
        seen.append((request.url.split("/")[2], scope[2]))

    client.meta.events.register("before-send", look)
    client.meta.events.register("before-send", lambda **_more: _Answer())
    getattr(client, operation)(**arguments)
    return seen[0]


class _Answer:
    """What the wire would have given."""

    status_code = 200
    headers: ClassVar[dict[str, str]] = {}
    content = b"<a/>"
    raw = None
    text = "<a/>"
    url = ""


def test_the_sdk_and_the_hand_sign_for_the_same_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = make_client("route53", "ap-northeast-1", None, "services")
    assert signed_for(client, "list_hosted_zones") == ("route53.global.api.aws", "us-east-1")
    by_hand = Signed(
        "ap-northeast-1", None, lambda: Key("AKIDEXAMPLE", "secret", None, float("inf")), dualstack="services"
    )
    headers = by_hand._sign("route53", "GET", f"{by_hand.url('route53')}/2013-04-01/hostedzone", b"", {})
    assert "/us-east-1/route53/aws4_request" in headers["Authorization"]
    ec2 = make_client("ec2", "ap-northeast-1", None, "services")
    assert signed_for(ec2, "describe_volumes") == ("ec2.ap-northeast-1.api.aws", "ap-northeast-1")
    s3 = make_client("s3", "ap-northeast-1", None, "services")
    place = signed_for(s3, "list_objects_v2", Bucket="backups")
    assert place == ("backups.s3.ap-northeast-1.amazonaws.com", "ap-northeast-1")
    everything = make_client("s3", "cn-north-1", None, "all")
    place = signed_for(everything, "list_objects_v2", Bucket="backups")
    assert place == ("backups.s3.dualstack.cn-north-1.amazonaws.com.cn", "cn-north-1")


def test_an_endpoint_of_ones_own_is_for_all_services() -> None:
    aws = Signed("cn-north-1", "http://127.0.0.1:9/", lambda: Key("a", "s", None, float("inf")), dualstack="all")
    assert aws.url("route53") == aws.url("ec2") == "http://127.0.0.1:9"
    assert make_client("route53", "cn-north-1", "http://127.0.0.1:9", "all").meta.region_name == "cn-north-1"
