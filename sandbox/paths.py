"""Where a sandbox keeps its things, and the marks by which they are found again after a crash."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/var/lib/spotcache-sandbox")
LABEL = "spotcache-sandbox"
# Instead of a policy's file: an operator whom nothing holds back.
UNLIMITED = "everything"
NAME = re.compile(r"^[a-z][a-z0-9-]{0,14}$")


@dataclass(frozen=True)
class Home:
    """The directory of one sandbox and everything whose name is derived from the sandbox's name."""

    name: str

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise ValueError(
                f"sandbox name {self.name!r}: use 1 to 15 of a-z, 0-9 and '-', starting with a letter, e.g. 'demo'"
            )

    @property
    def directory(self) -> Path:
        """All files of the sandbox."""
        return ROOT / self.name

    @property
    def state(self) -> Path:
        """What users of the sandbox need to know, as JSON; it exists once the sandbox is ready."""
        return self.directory / "state.json"

    @property
    def log(self) -> Path:
        """What the sandbox's process says."""
        return self.directory / "sandbox.log"

    @property
    def lock(self) -> Path:
        """Held by the sandbox's process for as long as it lives."""
        return ROOT / f"{self.name}.lock"

    @property
    def cidr(self) -> Path:
        """The network that its VPCs may have, from the moment on in which it was chosen."""
        return self.directory / "cidr"

    @property
    def pool_image(self) -> Path:
        """The file that holds the pool."""
        return self.directory / "pool.img"

    @property
    def pool(self) -> Path:
        """Where the pool is mounted."""
        return self.directory / "pool"

    @property
    def hosts(self) -> Path:
        """One directory for each host."""
        return self.directory / "hosts"

    @property
    def ssh_key(self) -> Path:
        """The operator's private key."""
        return self.directory / "ssh" / "id_ed25519"

    @property
    def redis_password(self) -> Path:
        """File with the password of the sandbox environment's Redis."""
        return self.directory / "redis-password"

    @property
    def authority(self) -> Path:
        """The certificate of the authority that the sandbox's services are vouched for by."""
        return self.directory / "authority.pem"

    @property
    def comment(self) -> str:
        """The comment that every iptables rule of this sandbox carries."""
        return f"{LABEL}/{self.name}"

    @property
    def prefix(self) -> str:
        """Prefix of the names of Docker containers and networks."""
        return f"sc-{self.name}-"

    def labels(self, **more: str) -> dict[str, str]:
        """Docker labels: the sandbox's own and, with a prefix, those given."""
        return {LABEL: self.name, **{f"{LABEL}.{key}": value for key, value in more.items()}}


def known() -> list[Home]:
    """Every sandbox that left a directory on this machine."""
    if not ROOT.is_dir():
        return []
    return [Home(path.name) for path in sorted(ROOT.iterdir()) if path.is_dir() and NAME.match(path.name)]
