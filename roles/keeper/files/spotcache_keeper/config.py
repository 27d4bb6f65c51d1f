"""The keeper's configuration: one JSON file, checked as a whole before anything is done."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from spotcache_keeper.aws.endpoints import DUALSTACK
from spotcache_keeper.aws.name import Name
from spotcache_keeper.errors import ConfigError

DEFAULT_PATH = Path("/etc/spotcache/keeper.json")


@dataclass(frozen=True)
class Timeouts:
    """How long each kind of step may take, in seconds.

    Attributes:
        lock: waiting for another run of the keeper to end.
        answer: Redis to answer one command.
        backup: a background save, from asking until it is seen finished.
        check: the server's own check of one RDB.
        start: Redis to load its data and answer after a start.
        stop: Redis to write its last save before Docker kills it.
        volume: EC2 to make, attach or detach an EBS volume.
        lease: how long the right to serve the environment lasts unless it is renewed.
        handover: a host that boots waits for the last words of the one before, once EC2 ends that.
        drain: a final backup may take where nothing says when the host ends.
    """

    lock: int
    answer: int
    backup: int
    check: int
    start: int
    stop: int
    volume: int
    lease: int
    handover: int
    drain: int


# Where image-secrets.sh keeps what no image may hold while one is made: minutes, in which the host may be told to end.
ASIDE = Path("/run/spotcache-image/files")


@dataclass(frozen=True)
class Secret:
    """A file that no image holds: a host that boots fetches it.

    Attributes:
        path: of the file.
        parameter: name of the SSM parameter with its text.
        mode: of the file.
        uid: of its owner.
        gid: of its group.
    """

    path: Path
    parameter: str
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Config:
    """What one host's keeper works with. Nothing here has a default: the role that writes the file says all of it.

    Attributes:
        environment: name of the environment; backups of another one are never restored.
        region: AWS region.
        bucket: S3 bucket for the backups.
        volume_path: mount point of the data volume.
        require_mount: refuse to work while nothing is mounted there.
        redis_directory: Redis' own directory, on the data volume.
        container: name of Redis' container.
        image: Redis' image, used where the container does not exist to ask.
        endpoint_url: address of the AWS services, for a VPC endpoint; AWS's own names without one.
        dualstack: which of those names are used, see `endpoints`: none, services or all.
        prefix: put before `<environment>/backups/` in the bucket.
        state_directory: the keeper's own files.
        redis_host: address Redis listens on.
        redis_port: its TCP port.
        redis_tls_ca: the authority's certificate where Redis speaks TLS alone; without it, it speaks in the clear.
        redis_username: ACL user; the default user without one.
        redis_password_file: a file that holds the password and nothing else; no password without one.
        dbfilename: name of the RDB file in `redis_directory`.
        appendonly: whether redis.conf switches the append-only file on.
        appendfilename: its base name.
        appenddirname: its directory (Redis 7).
        ebs_snapshots: whether each backup also asks for an EBS snapshot of the data volume.
        keep_local_count: verified backups kept on the data volume.
        metadata_url: address of the instance metadata service; EC2's own without one.
        watch_seconds: how often it is asked.
        guard: whether the kernel keeps clients out while this host cannot prove that it holds the lease.
        boots: whether a host that boots becomes the one that serves by itself.
        topic_arn: the SNS topic by which people are told; nobody is without one.
        hook: the Auto Scaling group's hook on termination, which waits for the final backup; none waits without one.
        dns_zone_id: the private zone with the name that clients use; no name is moved without one.
        dns_name: that name.
        dns_ttl: how long clients may remember it; seconds.
        allow_empty: a host that boots and finds nothing to restore begins with nothing.
        data_device: the device name under which EC2 attaches the data volume.
        volume_filesystem: made on a blank data volume: ext4 or xfs.
        volume_labels: the label of each filesystem, by its type.
        mount_options: of each filesystem, by its type, as in /etc/fstab.
        redis_uid: owner of Redis' directory.
        redis_gid: its group.
        secrets: what a host that boots fetches.
        address: of the host this was written on: an image of it names it in `address_files`.
        address_files: where a host that boots puts its own address in the place of that one.
        timeouts: see `Timeouts`.
    """

    environment: str
    region: str
    bucket: str
    volume_path: Path
    redis_directory: Path
    container: str
    image: str
    endpoint_url: str | None
    dualstack: str
    prefix: str
    require_mount: bool
    state_directory: Path
    redis_host: str
    redis_port: int
    redis_tls_ca: Path | None
    redis_username: str | None
    redis_password_file: Path | None
    dbfilename: str
    appendonly: bool
    appendfilename: str
    appenddirname: str
    ebs_snapshots: bool
    keep_local_count: int
    metadata_url: str | None
    watch_seconds: int
    guard: bool
    boots: bool
    topic_arn: str | None
    hook: str | None
    dns_zone_id: str | None
    dns_name: str | None
    dns_ttl: int
    allow_empty: bool
    data_device: str
    volume_labels: Mapping[str, str]
    volume_filesystem: str
    mount_options: Mapping[str, str]
    redis_uid: int
    redis_gid: int
    secrets: tuple[Secret, ...]
    address: str | None
    address_files: tuple[Path, ...]
    timeouts: Timeouts

    @property
    def name(self) -> Name:
        """The name that clients use."""
        return Name(self.dns_zone_id, self.dns_name, self.dns_ttl)

    @property
    def shared_prefix(self) -> str:
        """What the keys begin with by which this environment's hosts tell each other whose turn it is."""
        return f"{self.prefix}{self.environment}/keeper/"

    @property
    def backups_directory(self) -> Path:
        """Where the backups lie on the data volume."""
        return self.volume_path / "backups"

    @property
    def s3_prefix(self) -> str:
        """What every key of this environment's backups begins with."""
        return f"{self.prefix}{self.environment}/backups/"

    def password(self) -> str | None:
        """Redis' password, or None when the configuration names no file.

        Raises:
            ConfigError: the file is missing, empty, or readable by everyone.
        """
        path = self.redis_password_file
        if path is None:
            return None
        try:
            mode, text = _mode_and_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"redis_password_file {path} cannot be read: {error}") from error
        if mode & stat.S_IRWXO:
            raise ConfigError(
                f"redis_password_file {path} is open to every user (mode {mode & 0o777:04o}): chmod 600 it"
            )
        if not text:
            raise ConfigError(f"redis_password_file {path} is empty; write Redis' password into it")
        return text


def _mode_and_text(path: Path) -> tuple[int, str]:
    """Mode and text of a secret file, wherever it is just now.

    What was put aside counts first: it is put there whole, before the file itself is overwritten, and removed when
    that is back.

    Raises:
        OSError: it is in neither place, or cannot be read.
        UnicodeDecodeError: it is no text.
    """
    try:
        found = ASIDE / path.relative_to("/")
        return found.stat().st_mode, found.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        return path.stat().st_mode, path.read_text(encoding="utf-8").rstrip("\n")


# What a value must look like, and how to say so. Keys without an entry only need the right type.
_PATTERNS: dict[str, tuple[str, str]] = {
    "environment": (r"[a-z][a-z0-9-]{0,31}", "a lower-case name such as stg"),
    "region": (r"[a-z]{2}(-[a-z]+)+-\d", "an AWS region such as ap-northeast-1"),
    "bucket": (r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "the name of an S3 bucket"),
    "prefix": (r"[A-Za-z0-9!_.*'()/-]{0,200}", "the beginning of an S3 key"),
    "endpoint_url": (r"https?://[^\s/]+(/\S*)?", "an http or https address"),
    "dualstack": ("|".join(DUALSTACK), "none, services or all"),
    "metadata_url": (r"http://[^\s/]+", "an http address without a path"),
    "topic_arn": (r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]+", "the ARN of an SNS topic"),
    "address": (r"[0-9.]+", "an IPv4 address"),
    "volume_filesystem": (r"ext4|xfs", "ext4 or xfs"),
    "data_device": (r"/dev/[a-z0-9]+", "a device name such as /dev/sdf"),
    "container": (r"[A-Za-z0-9][A-Za-z0-9_.-]+", "the name of a container"),
    "image": (r"[A-Za-z0-9][\w.:/@-]*", "a Docker image"),
    "redis_host": (r"[A-Za-z0-9_.:-]+", "a host name or address"),
    "dbfilename": (r"[^/\s]+", "a file name without a directory"),
    "appendfilename": (r"[^/\s]+", "a file name without a directory"),
    "appenddirname": (r"[^/\s]+", "a directory's own name"),
}
_MINIMA = {
    "redis_port": 1,
    "keep_local_count": 1,
    "watch_seconds": 1,
    "dns_ttl": 1,
    "redis_uid": 0,
    "redis_gid": 0,
}
# What a filesystem takes as its label.
_LABEL_CHARACTERS = {"ext4": 16, "xfs": 12}
_PATHS = frozenset({"volume_path", "redis_directory", "state_directory", "redis_password_file", "redis_tls_ca"})
_NUMBERS = frozenset(_MINIMA)
_BY_FILESYSTEM = ("volume_labels", "mount_options")
_FLAGS = frozenset({"allow_empty", "appendonly", "boots", "ebs_snapshots", "guard", "require_mount"})
_OPTIONAL = frozenset(
    {
        "endpoint_url",
        "redis_tls_ca",
        "redis_username",
        "redis_password_file",
        "metadata_url",
        "topic_arn",
        "hook",
        "dns_zone_id",
        "dns_name",
        "address",
    }
)


def parse_config(data: object, origin: str) -> Config:
    """The configuration in a decoded JSON document.

    Args:
        data: the decoded document.
        origin: where it came from, for the messages.

    Raises:
        ConfigError: names the key, its value and what it must be.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{origin}: must hold one JSON object, not {type(data).__name__}")
    known = {item.name for item in fields(Config)}
    if unknown := sorted(set(data) - known):
        raise ConfigError(f"{origin}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    if missing := [
        item.name
        for item in fields(Config)
        if item.name not in data or (data[item.name] in (None, "") and item.name not in _OPTIONAL | {"prefix"})
    ]:
        raise ConfigError(f"{origin}: {missing[0]!r} is missing; the keeper role writes every key (provision)")
    values: dict[str, Any] = {
        key: None if value is None and key in _OPTIONAL else _value(key, value, origin)
        for key, value in data.items()
        if key not in ("timeouts", "secrets", "address_files", *_BY_FILESYSTEM)
    }
    values["timeouts"] = _timeouts(data["timeouts"], origin)
    values["secrets"] = _secrets(data["secrets"], origin)
    values |= {key: _by_filesystem(key, data[key], origin) for key in _BY_FILESYSTEM}
    files = data["address_files"]
    if not isinstance(files, list) or not all(isinstance(name, str) and name.startswith("/") for name in files):
        raise ConfigError(f"{origin}: address_files must be a list of absolute paths")
    values["address_files"] = tuple(Path(name) for name in files)
    config = Config(**values)
    if config.volume_path not in config.redis_directory.parents:
        raise ConfigError(
            f"{origin}: redis_directory {config.redis_directory} must lie below volume_path {config.volume_path}: "
            "a backup is a hard link, which cannot leave its filesystem"
        )
    return config


def load_config(path: Path) -> Config:
    """The configuration in a file.

    Raises:
        ConfigError: the file is missing, is no JSON, or holds a wrong value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; the keeper role writes it (provision)") from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    return parse_config(data, str(path))


def _value(key: str, value: object, origin: str) -> object:
    """One checked value, in the type that `Config` wants."""

    def wrong(what: str) -> ConfigError:
        return ConfigError(f"{origin}: {key} is {value!r}; it must be {what}")

    if key in _FLAGS:
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if key in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int) or value < _MINIMA[key]:
            raise wrong(f"a whole number of at least {_MINIMA[key]}")
        if key == "redis_port" and value > 65535:
            raise wrong("a TCP port, at most 65535")
        return value
    if not isinstance(value, str):
        raise wrong("a text")
    if key in _PATHS:
        if not value.startswith("/"):
            raise wrong("an absolute path")
        return Path(value)
    if key in _PATTERNS:
        pattern, what = _PATTERNS[key]
        if not re.fullmatch(pattern, value):
            raise wrong(what)
    return value


def _by_filesystem(key: str, data: object, origin: str) -> dict[str, str]:
    """The checked texts of one key, one for each filesystem."""
    if not isinstance(data, Mapping) or set(data) != set(_LABEL_CHARACTERS):
        raise ConfigError(f"{origin}: {key} must be an object with {' and '.join(sorted(_LABEL_CHARACTERS))}")
    for kind, text in data.items():
        most = _LABEL_CHARACTERS[kind]
        pattern = rf"[A-Za-z0-9_-]{{1,{most}}}" if key == "volume_labels" else r"\S+"
        what = f"a label of at most {most} characters" if key == "volume_labels" else "mount options without blanks"
        if not isinstance(text, str) or not re.fullmatch(pattern, text):
            raise ConfigError(f"{origin}: {key}.{kind} is {text!r}; it must be {what}")
    return dict(data)


def _secrets(data: object, origin: str) -> tuple[Secret, ...]:
    """The checked secrets."""
    wrong = ConfigError(f"{origin}: secrets must be a list of objects with path, parameter, mode, uid and gid")
    if not isinstance(data, list):
        raise wrong
    found = []
    for item in data:
        try:
            secret = Secret(
                Path(item["path"]), str(item["parameter"]), int(item["mode"], 8), int(item["uid"]), int(item["gid"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise wrong from error
        if not secret.path.is_absolute() or not secret.parameter.startswith("/"):
            raise ConfigError(f"{origin}: secrets: {item['path']!r} and {item['parameter']!r} must begin with a slash")
        found.append(secret)
    return tuple(found)


def _timeouts(data: object, origin: str) -> Timeouts:
    """The checked timeouts."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{origin}: timeouts must be an object of seconds")
    known = {item.name for item in fields(Timeouts)}
    if missing := sorted(known - set(data)):
        raise ConfigError(f"{origin}: timeouts.{missing[0]} is missing; the keeper role writes every key (provision)")
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{origin}: unknown timeout {key!r}; known are {', '.join(sorted(known))}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"{origin}: timeouts.{key} is {value!r}; it must be a whole number of seconds, at least 1"
            )
    return Timeouts(**data)
