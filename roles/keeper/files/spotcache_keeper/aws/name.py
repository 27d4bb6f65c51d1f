"""The name by which clients find Redis, pointed to this host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from xml.sax.saxutils import escape

from spotcache_keeper.aws.clients import AwsError
from spotcache_keeper.aws.imds import Answer, ImdsError
from spotcache_keeper.errors import KeeperError

# Route 53's API of this date (API reference, ChangeResourceRecordSets).
_VERSION = "2013-04-01"
_NAMESPACE = "https://route53.amazonaws.com/doc/2013-04-01/"


class Metadata(Protocol):
    """What says this host's address."""

    def get(self, path: str) -> Answer | None:
        """One value; None when there is none."""


class Rest(Protocol):
    """What sends signed requests."""

    def rest(self, service: str, action: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """One action of a service."""


@dataclass(frozen=True)
class Name:
    """The name that clients use.

    Attributes:
        zone: id of its private zone; no name is moved without one.
        name: itself.
        ttl: how long clients may remember it; seconds.
    """

    zone: str | None
    name: str | None
    ttl: int


def point_here(name: Name, imds: Metadata, aws: Rest) -> str:
    """Point the name to this host; without a name nothing happens.

    Returns:
        This host's address; empty without a name.

    Raises:
        KeeperError: the address is not known, or Route 53 does not take it.
    """
    if not name.zone or not name.name:
        return ""
    doing = f"pointing {name.name} to this host"
    try:
        address = imds.get("local-ipv4")
    except ImdsError as error:
        raise KeeperError(f"{doing}: {error}") from error
    if address is None:
        raise KeeperError(f"{doing}: the metadata service does not say its address")
    body = change_of(name.name, address.text, name.ttl).encode()
    try:
        aws.rest(
            "route53",
            "ChangeResourceRecordSets",
            "POST",
            f"/{_VERSION}/hostedzone/{name.zone.rpartition('/')[2]}/rrset",
            body,
            {"Content-Type": "text/xml"},
        )
    except AwsError as error:
        raise AwsError(f"{doing}: {error}", error.code) from error
    return address.text


def change_of(name: str, address: str, ttl: int) -> str:
    """The request that has a name point to an address; `ttl` in seconds."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ChangeResourceRecordSetsRequest xmlns="{_NAMESPACE}"><ChangeBatch>'
        "<Changes><Change><Action>UPSERT</Action><ResourceRecordSet>"
        f"<Name>{escape(name)}</Name><Type>A</Type><TTL>{ttl}</TTL>"
        f"<ResourceRecords><ResourceRecord><Value>{escape(address)}</Value></ResourceRecord></ResourceRecords>"
        "</ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
    )
