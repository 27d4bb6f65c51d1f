"""Which calls AWS bills one by one, counted as they come: by whom, and by what they cost.

The keys are those of roles/cost's prices. A refused call counts as on AWS: a 412 or 404 of S3 is billed like any other
request.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from moto.server import DomainDispatcherApplication

_SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/[^/]+/([^/]+)/aws4_request")
# Actions of a bucket that are lists, by the parameter that says so; S3 bills a list like a write.
_LISTS = frozenset({"list-type", "versions", "uploads", "prefix", "marker", "delimiter", "max-keys"})
# Other questions about a bucket.
_ABOUT_A_BUCKET = frozenset(
    {"acl", "encryption", "lifecycle", "location", "logging", "notification", "object-lock", "ownershipControls"}
    | {"policy", "policyStatus", "publicAccessBlock", "replication", "requestPayment", "tagging", "versioning"}
)
_DYNAMO_WRITES = frozenset({"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"})
_DYNAMO_READS = frozenset({"GetItem", "Query", "Scan", "BatchGetItem", "TransactGetItems"})


def _s3(method: str, host: str, path: str, query: Mapping[str, Any]) -> str:
    """S3's two classes of requests; DELETE costs nothing."""
    if method == "DELETE" or (method == "POST" and "delete" in query):
        return ""
    if method in ("PUT", "POST"):
        return "s3/write"
    parts = path.strip("/").split("/")
    in_host = not re.match(r"(s3[.-]|localhost|127\.|\d)", host)
    key = path.strip("/") if in_host else "/".join(parts[1:])
    if key or method == "HEAD":
        return "s3/read"
    lists = bool(_LISTS & set(query)) or not set(query) & _ABOUT_A_BUCKET
    return "s3/write" if lists else "s3/read"


def key_of(service: str, method: str, host: str, path: str, query: str, target: str) -> str:
    """What a call is billed as, by the key of its price; empty where calls of this kind cost nothing.

    Args:
        service: that it is signed for.
        method: HTTP's.
        host: that it was sent to: a bucket's name may be in front.
        path: of the request.
        query: what follows it.
        target: the header X-Amz-Target of the services that speak JSON.
    """
    action = target.rpartition(".")[2]
    if service == "s3":
        return _s3(method, host, path, parse_qs(query, keep_blank_values=True))
    if service == "sqs":
        return "sqs/request"
    if service == "kms":
        return "kms/request"
    if service == "ssm":
        # A SecureString is decrypted by KMS, who bills that; everything kept for hosts is one.
        return "kms/request" if action.startswith("GetParameter") or action == "PutParameter" else ""
    if service == "dynamodb":
        return "dynamodb/write" if action in _DYNAMO_WRITES else "dynamodb/read" if action in _DYNAMO_READS else ""
    if service == "lambda":
        return "lambda/request" if path.endswith("/invocations") else ""
    return ""


class Calls:
    """Billed calls since the beginning, or since they were last set to nothing.

    Args:
        names: who an access key is; all others are roles, of hosts and functions.
    """

    def __init__(self, names: Callable[[], Mapping[str, str]] = dict) -> None:
        self._names = names
        self._lock = threading.Lock()
        self._found: Counter[tuple[str, str]] = Counter()

    def note(self, environ: Mapping[str, Any]) -> None:
        """Count a request (WSGI), where it is billed."""
        scope = _SCOPE.search(str(environ.get("HTTP_AUTHORIZATION", "")))
        if scope is None:
            return
        key = key_of(
            scope[2],
            str(environ["REQUEST_METHOD"]),
            str(environ.get("HTTP_HOST", "")),
            str(environ.get("PATH_INFO", "")),
            str(environ.get("QUERY_STRING", "")),
            str(environ.get("HTTP_X_AMZ_TARGET", "")),
        )
        if key:
            with self._lock:
                self._found[self._names().get(scope[1], "roles"), key] += 1

    def taken(self, *, reset: bool = False) -> dict[str, dict[str, int]]:
        """How many there were, by who and key."""
        with self._lock:
            found: dict[str, dict[str, int]] = {}
            for (who, key), count in sorted(self._found.items()):
                found.setdefault(who, {})[key] = count
            if reset:
                self._found.clear()
            return found


def count(calls: Calls) -> Callable[[], None]:
    """Have every request to moto counted; gives what ends it."""
    serve = DomainDispatcherApplication.__call__

    def call(application: Any, environ: dict[str, Any], start: Any) -> Any:
        calls.note(environ)
        return serve(application, environ, start)

    DomainDispatcherApplication.__call__ = call

    def end() -> None:
        DomainDispatcherApplication.__call__ = serve

    return end
