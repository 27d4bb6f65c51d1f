"""What the watcher and a boot need beside the parts of a backup: notices, other hosts, people."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spotcache_keeper.aws.clients import make_client
from spotcache_keeper.aws.imds import Imds
from spotcache_keeper.aws.notify import Message, publish
from spotcache_keeper.aws.signed import Objects, Signed, role_credentials
from spotcache_keeper.config import Config
from spotcache_keeper.lease import Leases, LeaseStore

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class Outside:
    """The ways out of one host.

    Attributes:
        imds: the metadata service.
        aws: signs single actions.
        leases: the lease and the final records.
        topic: by which people are told; None tells nobody.
        client: makes one of the SDK's clients; the watcher does without.
        boot_id: names this run of the host's kernel.
    """

    imds: Imds
    aws: Signed
    leases: Leases
    topic: str | None
    client: Callable[[str], Any]
    boot_id: str = ""

    def notify(self, message: Message) -> None:
        """Tell people.

        Raises:
            AwsError: the topic does not take it.
        """
        publish(self.aws, self.topic, message)


def build_outside(config: Config) -> Outside:
    """Those of a real host."""
    imds = Imds(config.metadata_url)
    aws = Signed(config.region, config.endpoint_url, lambda: role_credentials(imds), dualstack=config.dualstack)
    return Outside(
        imds=imds,
        aws=aws,
        leases=LeaseStore(Objects(aws, config.bucket), config.shared_prefix),
        topic=config.topic_arn,
        client=lambda service: make_client(service, config.region, config.endpoint_url, config.dualstack),
        boot_id=boot_id(),
    )


def boot_id(path: Path = _BOOT_ID) -> str:
    """Names this run of the kernel; empty where it has no name."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
