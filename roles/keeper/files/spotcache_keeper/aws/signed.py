"""AWS without the SDK's clients: small objects in S3, written on condition, and single actions.

With the SDK's signatures but without its clients: one of them takes as much memory as all of the watcher may have, and
those of the distribution are too old for conditional writes.
"""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from spotcache_keeper.aws.clients import AwsError
from spotcache_keeper.aws.endpoints import endpoint
from spotcache_keeper.aws.imds import Imds, ImdsError
from spotcache_keeper.system.times import from_text, utc_now

_TIMEOUT = 10.0
_LARGEST = 1024 * 1024
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
# What AWS says when there are too many calls; it has done nothing then. The SDK's retry modes have the same list.
_THROTTLED = frozenset(
    {"SlowDown", "RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "ThrottledException"}
)
_PAUSES = (0.1, 0.3, 0.9)


class ConflictError(AwsError):
    """The object is not what the condition says: somebody else was faster."""


@dataclass(frozen=True)
class Key:
    """Credentials of the host's role."""

    access: str
    secret: str
    token: str | None
    until: float


def role_credentials(imds: Imds, clock: Callable[[], float] = time.time) -> Key:
    """The credentials of the instance profile, or those in the environment.

    Raises:
        AwsError: there are none.
    """
    access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if access and secret:
        return Key(access, secret, os.environ.get("AWS_SESSION_TOKEN") or None, clock() + 3600)
    try:
        role = imds.get("iam/security-credentials/")
        found = imds.get(f"iam/security-credentials/{role.text.splitlines()[0]}") if role and role.text else None
    except ImdsError as error:
        raise AwsError(f"there are no AWS credentials: {error}") from error
    if found is None:
        raise AwsError("there are no AWS credentials; the host has no instance profile")
    try:
        data = json.loads(found.text)
        until = from_text(str(data["Expiration"])).timestamp()
        return Key(str(data["AccessKeyId"]), str(data["SecretAccessKey"]), str(data["Token"]), until)
    except (ValueError, KeyError, TypeError) as error:
        raise AwsError("the metadata service gives garbage instead of credentials") from error


@dataclass(frozen=True)
class Found:
    """An object.

    Attributes:
        data: its JSON object; empty when it is none.
        etag: what a conditional write names it by.
        age: seconds since it was written, by S3's own clock.
    """

    data: Mapping[str, Any]
    etag: str
    age: float


class Signed:
    """Requests signed as AWS wants them.

    Args:
        region: AWS region.
        endpoint_url: address of all services, for an endpoint of one's own.
        credentials: gives the credentials to sign with.
        timeout: seconds for each request.
        sleep: waits that many seconds.
        dualstack: which of AWS's names are used, see `endpoints`.
    """

    def __init__(
        self,
        region: str,
        endpoint_url: str | None,
        credentials: Callable[[], Key],
        timeout: float = _TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
        dualstack: str = "none",
    ) -> None:
        self.region = region
        self._dualstack = dualstack
        self._endpoint = endpoint_url.rstrip("/") if endpoint_url else None
        self._credentials = credentials
        self._timeout = timeout
        self._sleep = sleep
        self._key: Key | None = None

    def url(self, service: str) -> str:
        """Where a service is."""
        return self._endpoint or endpoint(service, self.region, self._dualstack).url

    def query(self, service: str, version: str, action: str, **parameters: str) -> bytes:
        """One action of a service that speaks AWS's query protocol.

        Raises:
            AwsError: it refuses or is not reached.
        """
        body = urlencode({"Action": action, "Version": version, **parameters}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.rest(service, action, "POST", "/", body, headers)

    def rest(self, service: str, action: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """One action of a service, by its path.

        Raises:
            AwsError: it refuses or is not reached.
        """
        status, _headers, answer = self.request(service, method, f"{self.url(service)}{path}", body, headers)
        if status != 200:
            code, text = _code(answer) or str(status), _MESSAGE.search(answer.decode("utf-8", "replace"))
            if status == 403 and code not in ("InvalidClientTokenId", "ExpiredToken", "SignatureDoesNotMatch"):
                raise AwsError(
                    f"AWS denies {service}:{action}; add it to the policy of the host's instance profile", code
                )
            raise AwsError(f"{service}:{action}: {code}" + (f": {text.group(1)}" if text else ""), code)
        return answer

    def request(
        self, service: str, method: str, url: str, body: bytes, extra: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One signed request, sent again when AWS says that there are too many.

        Raises:
            AwsError: the service is not reached.
        """
        for pause in _PAUSES:
            answer = self._request(service, method, url, body, extra)
            if answer[0] not in (400, 429, 503) or _code(answer[2]) not in _THROTTLED:
                return answer
            # Not all hosts at the same moment.
            self._sleep(pause * (0.5 + random.random()))
        return self._request(service, method, url, body, extra)

    def _request(
        self, service: str, method: str, url: str, body: bytes, extra: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One signed request; credentials that are no longer taken are asked for anew, once."""
        for again in (True, False):
            headers = self._sign(service, method, url, body, extra)
            parts = urlsplit(url)
            connection: http.client.HTTPConnection
            if parts.scheme == "https":
                connection = http.client.HTTPSConnection(
                    parts.hostname or "", parts.port or 443, timeout=self._timeout, context=ssl.create_default_context()
                )
            else:
                connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=self._timeout)
            try:
                connection.request(method, parts.path, body=body or None, headers=headers)
                answer = connection.getresponse()
                content = answer.read(_LARGEST)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = str(error) or type(error).__name__
                raise AwsError(f"{service} at {parts.netloc} is not reached: {why}") from error
            finally:
                connection.close()
            if again and answer.status in (400, 403) and _code(content) in ("ExpiredToken", "InvalidAccessKeyId"):
                self._key = None
                continue
            return answer.status, answer.headers, content
        raise AssertionError("the second try returns or raises")

    def _sign(self, service: str, method: str, url: str, body: bytes, extra: Mapping[str, str]) -> dict[str, str]:
        """The headers of a request, signed."""
        # Imported here: what only backs up has no need of it.
        from botocore.auth import S3SigV4Auth, SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        if self._key is None or time.time() > self._key.until - 300:
            self._key = self._credentials()
        request = AWSRequest(method=method, url=url, data=body, headers=dict(extra))
        if service == "s3":
            request.headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
        region = self.region if self._endpoint else endpoint(service, self.region, self._dualstack).region
        credentials = Credentials(self._key.access, self._key.secret, self._key.token)
        (S3SigV4Auth if service == "s3" else SigV4Auth)(credentials, service, region).add_auth(request)
        return dict(request.headers.items())


class Objects:
    """JSON objects of a bucket.

    Args:
        aws: signs the requests.
        bucket: its name.
        clock: the present moment, for a service that does not say its own.
    """

    def __init__(self, aws: Signed, bucket: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._aws = aws
        self._bucket = bucket
        self._clock = clock
        self._denied: set[str] = set()

    def get(self, key: str) -> Found | None:
        """An object, or None when there is none.

        Raises:
            AwsError: S3 refuses or is not reached.
        """
        status, headers, body = self._request("GET", key, b"", {})
        if status == 404 and _code(body) != "NoSuchBucket":
            return None
        if status == 403 and _code(body) == "AccessDenied":
            # What S3 says of an object that is not there, to whoever may not list the whole bucket.
            self._denied.add(key)
            return None
        self._denied.discard(key)
        if status != 200:
            raise self._refused("reading", key, status, body)
        data: Any = None
        with contextlib.suppress(ValueError):
            data = json.loads(body)
        return Found(data if isinstance(data, dict) else {}, headers.get("ETag", ""), self._age(headers))

    def put(self, key: str, data: Mapping[str, Any], *, etag: str | None = None, new: bool = False) -> str:
        """Write an object: over the one with that ETag, only where none is (`new`), or whatever is there.

        Returns:
            Its ETag.

        Raises:
            ConflictError: the condition does not hold.
            AwsError: S3 refuses or is not reached.
        """
        body = (json.dumps(data, indent=2) + "\n").encode()
        extra = {"Content-Type": "application/json", "x-amz-server-side-encryption": "AES256"}
        if new:
            extra["If-None-Match"] = "*"
        elif etag is not None:
            extra["If-Match"] = etag
        status, headers, answer = self._request("PUT", key, body, extra)
        if new and status == 412 and key in self._denied:
            raise self._refused("reading", key, 403, b"")
        if status in (409, 412) or (etag is not None and status == 404):
            raise ConflictError(f"writing s3://{self._bucket}/{key}: it was changed by somebody else")
        if status != 200:
            raise self._refused("writing", key, status, answer)
        return headers.get("ETag", "")

    def _request(
        self, method: str, key: str, body: bytes, extra: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request for an object."""
        try:
            return self._aws.request("s3", method, f"{self._aws.url('s3')}/{self._bucket}/{quote(key)}", body, extra)
        except AwsError as error:
            raise AwsError(f"s3://{self._bucket}/{key}: {error}", error.code) from error

    def _age(self, headers: http.client.HTTPMessage) -> float:
        """Seconds between the writing and now, both by S3's clock: the host's may be off."""
        try:
            written = parsedate_to_datetime(headers["Last-Modified"])
            now = parsedate_to_datetime(headers["Date"]) if headers.get("Date") else self._clock()
            return max(0.0, (now - written).total_seconds())
        except (TypeError, ValueError):
            return 0.0

    def _refused(self, doing: str, key: str, status: int, body: bytes) -> AwsError:
        """S3's refusal, in words."""
        code = _code(body) or str(status)
        if code == "AccessDenied" or status == 403:
            action = "s3:PutObject" if doing == "writing" else "s3:GetObject"
            return AwsError(
                f"{doing} s3://{self._bucket}/{key}: AWS denies {action}; add it to the policy of the host's instance "
                "profile",
                code,
            )
        return AwsError(f"{doing} s3://{self._bucket}/{key}: {code}", code)


def _code(body: bytes) -> str:
    """S3's own code in an answer."""
    match = _CODE.search(body.decode("utf-8", "replace"))
    return match.group(1) if match else ""
