# SPDX-License-Identifier: GPL-3.0-or-later
"""The verification application in one container of this machine, and a bucket: all that batches need."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dev.sample_app.laravel import image
from dev.sandboxes import Sandbox
from dev.work import Failed

PATH = "/srv/app"


class BatchApp:
    """The application's container."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.name = f"{sandbox.name}-php"
        self.report = folder / "report.json"

    @contextlib.contextmanager
    def running(self) -> Iterator[BatchApp]:
        """Up, and whatever happens, down. The container carries the sandbox's mark, so that cleaning up finds it."""
        tag = image.ensure(progress=lambda line: print(f"    {line}", flush=True))
        self._docker("rm", "-f", self.name)
        label = f"spotcache-sandbox={self.sandbox.name}"
        if self._docker("run", "-d", "--name", self.name, "--label", label, tag, "verify", "php").returncode:
            raise Failed(f"the container {self.name} does not start")
        try:
            self.bucket()
            yield self
        finally:
            self._docker("rm", "-f", self.name)

    def bucket(self) -> str:
        """The environment's bucket, made when it is missing."""
        s3 = self.sandbox.client("s3")
        name = f"spotcache-{self.sandbox.name}-backups"
        if name not in [one["Name"] for one in s3.list_buckets()["Buckets"]]:
            place = {"LocationConstraint": self.sandbox.state["region"]}
            s3.create_bucket(Bucket=name, CreateBucketConfiguration=place, ObjectLockEnabledForBucket=True)
            # As `provision` makes it, and takes it for its own afterwards.
            s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": [{"Key": "spotcache:managed", "Value": "true"}]})
        return name

    def application(self, *batches: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The application as the role takes it."""
        one = {"name": "shop", "hosts": ["localhost"], "place": "container", "container": self.name, "path": PATH}
        return {**one, "batches": list(batches), **more}

    def variables(self, *applications: dict[str, Any], **more: Any) -> list[str]:
        """Arguments of ansible-playbook."""
        told = {
            "laravel_batch_applications": list(applications),
            "laravel_batch_report": str(self.report),
            "laravel_batch_directory": str(self.folder / "state"),
            **more,
        }
        return ["-e", json.dumps(told)]

    def artisan(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The bare command."""
        return self._docker("exec", "-u", "www-data", "-w", PATH, self.name, "php", "artisan", *words)

    def last(self) -> dict[str, Any]:
        """The last report."""
        told: dict[str, Any] = json.loads(self.report.read_text())
        return told

    def _docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
