"""From a policy document to questions for IAM's policy simulator."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CONTEXT_TYPES = {"Bool": "boolean", "NumericEquals": "numeric"}


@dataclass(frozen=True)
class Question:
    """May the principal do these actions to these resources, in a request that says this?"""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    context: tuple[dict[str, Any], ...]


def as_list(value: Any) -> list[str]:
    """IAM's "one or many" as many."""
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def example(pattern: str, samples: dict[str, str], account: str, partition: str = "aws") -> str:
    """A resource that a pattern means: the given sample, else the account's number and the name for each star."""
    if pattern != "*" and pattern in samples:
        return samples[pattern]
    parts = pattern.split(":", 5)
    if pattern == "*" or len(parts) < 6:
        return pattern
    parts[1] = partition
    if parts[4] == "*":
        parts[4] = account
    parts[5] = parts[5].replace("*", samples.get("*", "example"))
    # A region is never left open: an ARN with a star in it would ask for all of them.
    if parts[3] == "*":
        parts[3] = samples.get("region", "us-east-1")
    return ":".join(parts)


def context_entries(conditions: dict[str, Any], samples: dict[str, str]) -> tuple[dict[str, Any], ...]:
    """Request context that fulfils a statement's conditions."""
    entries: list[dict[str, Any]] = []
    named = {key for operator, keys in conditions.items() if operator != "Null" for key in keys}
    for operator, keys in conditions.items():
        kind = CONTEXT_TYPES.get(operator.removesuffix("IfExists"), "string")
        for key, values in keys.items():
            if operator == "Null":
                # Only that the request says something of it, where it is to.
                if as_list(values) == ["false"] and key not in named:
                    value = samples.get(key, samples.get("*", "example"))
                    entries.append({"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"})
                continue
            filled = [samples.get(value, value).replace("*", samples.get("*", "example")) for value in as_list(values)]
            if operator.startswith("ForA"):
                # ForAllValues, ForAnyValue: the request holds a list.
                entries.append({"ContextKeyName": key, "ContextKeyValues": filled, "ContextKeyType": "stringList"})
            else:
                entries.append({"ContextKeyName": key, "ContextKeyValues": filled[:1], "ContextKeyType": kind})
    return tuple(entries)


def circumstances(region: str, temporary: bool) -> tuple[dict[str, Any], ...]:
    """What every request of these credentials says besides, so far as it is known: the simulator knows none of it.

    Temporary credentials are taken to be of a session with multi-factor authentication, since none can tell; keys of a
    user's own never are. From which address AWS sees the request come is not known here.
    """
    entries = [("aws:RequestedRegion", region, "string"), ("aws:SecureTransport", "true", "boolean")]
    if temporary:
        entries.append(("aws:MultiFactorAuthPresent", "true", "boolean"))
    return tuple(
        {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": kind} for key, value, kind in entries
    )


def questions(
    policy: dict[str, Any],
    samples: dict[str, str],
    account: str,
    partition: str = "aws",
    always: tuple[dict[str, Any], ...] = (),
) -> list[Question]:
    """One question for each thing that a policy document allows, asked with what is always so."""
    statements = policy["Statement"]
    asked = []
    for statement in statements if isinstance(statements, list) else [statements]:
        if statement.get("Effect") != "Allow" or "Action" not in statement:
            continue
        asked.append(
            Question(
                actions=tuple(action for action in as_list(statement["Action"]) if "*" not in action),
                resources=tuple(
                    example(item, samples, account, partition) for item in as_list(statement.get("Resource", "*"))
                ),
                context=(*context_entries(statement.get("Condition") or {}, samples), *always),
            )
        )
    return asked


def principal(arn: str) -> str:
    """Whose policies decide: a user's or a role's ARN for that of the caller; empty when they cannot be simulated."""
    if re.fullmatch(r"arn:[^:]+:iam::\d+:(user|role)/.+", arn):
        return arn
    session = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.+", arn)
    return f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}" if session else ""


# What only AWS sees of a request: from where it comes, and how long ago a second factor was shown.
UNKNOWN_KEYS = {
    "aws:multifactorauthage": "aws:MultiFactorAuthAge",
    "aws:sourceip": "aws:SourceIp",
    "aws:sourcevpc": "aws:SourceVpc",
    "aws:sourcevpce": "aws:SourceVpce",
    "aws:vpcsourceip": "aws:VpcSourceIp",
}
# How the decision about what depends on such a thing begins.
DEPENDS = "depends on "


def is_uncertain(decision: str) -> bool:
    """Whether a request may be allowed although the simulator did not allow it."""
    return decision.startswith(("explicitDeny", DEPENDS))


def refused(answers: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Action, resource and decision of what the simulator did not allow.

    A permission that is tied to something which only AWS sees comes out as one that nothing gives; the simulator names
    what it was not told (MissingContextValues in IAM's API reference).
    """
    for answer in answers:
        if answer.get("EvalDecision") == "allowed":
            continue
        limits = answer.get("OrganizationsDecisionDetail") or {}
        by = "by the organisation" if limits.get("AllowedByOrganizations") is False else ""
        decision = " ".join(filter(None, [str(answer.get("EvalDecision", "implicitDeny")), by]))
        missing = {UNKNOWN_KEYS.get(str(key).lower(), "") for key in answer.get("MissingContextValues") or []} - {""}
        if missing and not by and decision == "implicitDeny":
            decision = DEPENDS + ", ".join(sorted(missing))
        yield {
            "action": str(answer["EvalActionName"]),
            "resource": str(answer.get("EvalResourceName", "*")),
            "decision": decision,
        }
