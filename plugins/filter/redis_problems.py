"""What is wrong with the inputs of the role redis, before anything is changed."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: redis_problems
short_description: Say what is wrong with the inputs of the role redis
version_added: 0.1.0
author: The spotcache team (@spotcache)
description:
  - Returns a sentence for each problem; each names the variable, its value and the fix. Secrets are never in them.
positional: _input
options:
  _input:
    description: The role's public variables by name.
    type: dict
    required: true
  memory_mb:
    description: Memory of the host in MiB; V(0) when it is not known yet, and nothing is compared with it.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Refuse inputs that cannot work
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join(' ') }}"
  vars:
    problems: "{{ {'redis_port': 0} | spotcache.redis.redis_problems }}"
"""

RETURN = r"""
_value:
  description: The sentences; empty when all is well.
  type: list
  elements: str
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from ansible_collections.spotcache.redis.plugins.module_utils import engines
from ansible_collections.spotcache.redis.plugins.module_utils.redis_conf import SECRET, arguments_of, parse_size

Inputs = Mapping[str, Any]
MEBIBYTE = 2**20

PROFILES = ("cache", "queue", "session")
POLICIES = (
    "noeviction",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
)
# Directives that have a variable of their own, or that the container decides.
OWNED = {
    "bind": "use redis_bind",
    "port": "use redis_port",
    "protected-mode": "use redis_protected_mode",
    "save": "use redis_save",
    "dbfilename": "use redis_dbfilename",
    "maxmemory": "use redis_maxmemory",
    "maxmemory-policy": "use redis_maxmemory_policy",
    "appendonly": "use redis_appendonly",
    "requirepass": "use redis_password",
    "user": "use redis_users",
    "aclfile": "it is written from redis_users",
    "include": "write its directives into redis_settings",
    "dir": "the data directory is /srv/redis/redis on the host",
    "appenddirname": "the data directory's layout is fixed",
    "daemonize": "the container runs the server in the foreground",
    "supervised": "the container runs the server in the foreground",
    "logfile": "the server's log is the container's, see 'docker logs spotcache-redis'",
    **dict.fromkeys(("tls-port", "tls-cert-file", "tls-key-file", "tls-ca-cert-file"), "use redis_tls"),
    **dict.fromkeys(("tls-auth-clients", "tls-protocols"), "redis_tls decides it"),
    "pidfile": "the container needs none",
}
# Users that are there anyway.
RESERVED = {
    "default": "which redis_default_user lets in",
    "health": "which belongs to the health check",
    "keeper": "which belongs to the keeper",
}
TLS_TEXTS = ("redis_tls_certificate", "redis_tls_private_key", "redis_tls_ca")
SECRET_SETTINGS = SECRET - {"requirepass", "user"}
MINIMUM = 16
MAXIMUM = 512


def password_problem(name: str, value: Any) -> str:
    """What is wrong with a password, without the password."""
    text = "" if value is None else str(value)
    advice = "set it to 16 or more characters; 'openssl rand -hex 24' makes a good one, and ansible-vault keeps it safe"
    if not text:
        return f"{name} is empty: {advice}."
    if text == "0":
        return f"{name} is 0, which Laravel takes for no password and never sends: {advice}."
    # YAML reads 0123... to the base of 8, and 1e5 as a number: the text that was meant is lost.
    if isinstance(value, int | float | date):
        return f"{name} is read as a number or a date and not as text, so put a letter into it: {advice}."
    if re.search(r"\s|[\x00-\x1f\x7f]", text):
        return f"{name} contains a blank, a line break or a control character: {advice}."
    if len(text) < MINIMUM:
        return f"{name} has only {len(text)} characters: {advice}."
    if len(text) > MAXIMUM:
        return f"{name} has {len(text)} characters, and Redis takes at most {MAXIMUM}: {advice}."
    return ""


def _password(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    yield password_problem("redis_password", inputs.get("redis_password"))


def _profile(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    value = inputs.get("redis_profile")
    if value not in PROFILES:
        yield f'redis_profile is "{value}": choose one of {", ".join(PROFILES)}.'


def _network(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    port = inputs.get("redis_port")
    if not _is_integer(port) or not 1 <= int(str(port)) <= 65535:
        yield f"redis_port is {port}: choose a number from 1 to 65535; 6379 is Redis' own."
    addresses = [str(address) for address in inputs.get("redis_bind") or []]
    for address in addresses:
        if not _is_address(address):
            yield (
                f'redis_bind contains "{address}", which is no address: write addresses of the host, "*" for all IPv4 '
                'and "-::*" for all IPv6 ones, or leave the list empty for loopback and the host\'s own address.'
            )
    wide = [address for address in addresses if address.lstrip("-") in ("*", "0.0.0.0", "::", "::*")]
    if wide and not inputs.get("redis_protected_mode", True) and not inputs.get("redis_password"):
        yield (
            f"redis_bind is {', '.join(wide)} with redis_protected_mode=false and no redis_password, "
            "which is an open Redis: set redis_password."
        )


def _is_integer(value: Any) -> bool:
    return not isinstance(value, bool) and bool(re.fullmatch(r"\d+", str(value)))


def _is_address(text: str) -> bool:
    bare = text.removeprefix("-")
    if bare in ("*", "::*"):
        return True
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return False
    return True


def _persistence(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    for entry in inputs.get("redis_save") or []:
        words = str(entry).split()
        if not words or len(words) % 2 or not all(re.fullmatch(r"[1-9]\d*", word) for word in words):
            yield (
                f'redis_save contains "{entry}", which is no save policy: write "seconds changes", for example "900 1" '
                "(save after 900 seconds if at least one key changed)."
            )
    name = str(inputs.get("redis_dbfilename") or "")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        yield f'redis_dbfilename is "{name}": write a plain file name such as dump.rdb.'


def _memory(inputs: Inputs, memory_mb: int) -> Iterator[str]:
    value = str(inputs.get("redis_maxmemory"))
    size = parse_size(value)
    host = memory_mb * MEBIBYTE
    room = "Redis needs up to as much again while it saves, so half of the host's memory is a good value"
    if value != "auto":
        if not size:
            yield f'redis_maxmemory is "{value}": write a size such as 512mb, or auto. {room}.'
        elif host and size > host:
            yield f"redis_maxmemory is {value}, the host has {memory_mb}mb: choose less, auto or a larger host. {room}."
    limit_text = str(inputs.get("redis_memory_limit"))
    limit = parse_size(limit_text)
    if limit_text not in ("auto", "0"):
        if not limit:
            yield f'redis_memory_limit is "{limit_text}": write a size such as 1gb, 0 for none, or auto.'
        elif size and value != "auto" and limit <= size:
            yield f"redis_memory_limit is {limit_text} and redis_maxmemory {value}: the limit must be above it. {room}."
    policy = inputs.get("redis_maxmemory_policy")
    if policy and policy not in POLICIES:
        yield f'redis_maxmemory_policy is "{policy}": choose one of {", ".join(POLICIES)}, or leave it to the profile.'


def _settings(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    for name, value in (inputs.get("redis_settings") or {}).items():
        directive = str(name).lower()
        if directive in OWNED:
            yield f"redis_settings contains {name}: {OWNED[directive]}."
        elif directive in SECRET:
            yield f"redis_settings contains {name}, which is a secret: put it into redis_secret_settings."
        else:
            yield from _lines("redis_settings", str(name), value)
    for name, value in (inputs.get("redis_secret_settings") or {}).items():
        directive = str(name).lower()
        if directive in OWNED:
            yield f"redis_secret_settings contains {name}: {OWNED[directive]}."
        elif directive not in SECRET_SETTINGS:
            yield f"redis_secret_settings contains {name}: only {', '.join(sorted(SECRET_SETTINGS))} belong there."
        else:
            yield from _lines("redis_secret_settings", str(name), value)


def _lines(variable: str, name: str, value: Any) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        yield f'{variable} contains "{name}", which is no name of a directive.'
    if isinstance(value, Mapping):
        yield f"{variable}: {name} is a mapping: write text, a number, a boolean, or a list of lines."
    elif any(re.search(r"[\r\n\x00]", line) for line in arguments_of(value)):
        yield f"{variable}: {name} contains a line break: write a list for a directive with several lines."


def _users(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    own = str(inputs.get("redis_username") or "")
    yield from _name("redis_username", own)
    seen: set[str] = {own}
    for user in inputs.get("redis_users") or []:
        name = str(user.get("name") or "")
        yield from _name("redis_users", name)
        if name and name == own:
            yield f"redis_users contains the user {name}, which redis_username names already: take it out there."
        elif name in seen:
            yield f"redis_users contains the user {name} twice."
        seen.add(name)
        yield password_problem(f"redis_users: the password of {name}", user.get("password"))
        yield from _rules(name, user)


def _name(variable: str, name: str) -> Iterator[str]:
    if name in RESERVED:
        yield f'{variable} names the user "{name}", {RESERVED[name]}: choose another name.'
    elif not re.fullmatch(r"[A-Za-z0-9_.@-]+", name):
        yield f'{variable} has the name "{name}": use letters, digits and _ . @ - only.'


def _rules(name: str, user: Inputs) -> Iterator[str]:
    patterns = user.get("keys", [])
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        yield f"redis_users: keys of {name} is no list: write the patterns as a list, such as ['shop:*']."
        patterns = []
    for pattern in map(str, patterns):
        # Printable, and nothing that the file's own reading or the check's would take for something else.
        if not re.fullmatch(r"[!-~]+", pattern) or re.search(r"""["'\\]""", pattern) or pattern[0] in "~%&":
            yield (
                f'redis_users: keys of {name} has "{pattern}", which is no pattern: write one such as shop:* with '
                "neither blanks nor quotes in it, and without a leading ~, % or &."
            )
    words = str(user.get("commands") or "").split()
    if not all(re.fullmatch(r"[+-]@?[A-Za-z][A-Za-z0-9_.-]*(\|[A-Za-z0-9_-]+)?", word) for word in words):
        # It may be a password by mistake, so it is not shown.
        yield (
            f"redis_users: commands of {name} has a word that neither gives nor takes a command: write words such as "
            "-@write, +flushdb or +config|get; a password stands in password, patterns in keys."
        )


def _tls(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    if not _is_true(inputs.get("redis_tls")):
        return
    texts = {name: str(inputs.get(name) or "") for name in TLS_TEXTS}
    missing = [name for name, text in texts.items() if not text.strip()]
    if len(missing) == len(texts) and _is_true(inputs.get("redis_tls_pending")):
        return
    if missing:
        yield (
            f"redis_tls is true, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} empty: give a "
            "certificate, its private key and its authority's certificate as PEM, or leave all three to the playbooks."
        )
        return
    yield from _certificate(*texts.values())


def _certificate(certificate: str, private_key: str, authority: str) -> Iterator[str]:
    """What is wrong with a certificate, in whose sentences no key stands."""
    # Ansible itself brings it.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    def loaded(variable: str, what: str, load: Callable[[bytes], Any], text: str) -> Any:
        try:
            return load(text.encode())
        except (ValueError, TypeError, IndexError):
            broken.append(f"{variable} is no {what} as PEM (-----BEGIN ...): give the whole text of the file.")

    broken: list[str] = []
    chain = loaded("redis_tls_certificate", "certificate", x509.load_pem_x509_certificates, certificate)
    key = loaded(
        "redis_tls_private_key",
        "private key without a passphrase",
        lambda data: serialization.load_pem_private_key(data, password=None),
        private_key,
    )
    trusted = loaded("redis_tls_ca", "certificate", x509.load_pem_x509_certificates, authority)
    if broken:
        yield from broken
        return
    plain = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if chain[0].public_key().public_bytes(*plain) != key.public_key().public_bytes(*plain):
        yield "redis_tls_private_key is not the key of redis_tls_certificate: give the two that belong together."
    end = chain[0].not_valid_after_utc
    if end <= datetime.now(UTC):
        yield f"redis_tls_certificate ended on {end:%Y-%m-%d}: renew it, and give the new one."
    if not any(_is_of(chain[-1], one) for one in trusted):
        yield (
            "redis_tls_certificate is not of the authority in redis_tls_ca: give that authority's certificate, and "
            "below the server's own in redis_tls_certificate those between the two."
        )


def _is_of(certificate: Any, authority: Any) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return bool(certificate == authority)
    return True


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "yes", "on", "1")


def _engine(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    engine = str(inputs.get("redis_engine") or "")
    if engine and engine not in engines.NAMES:
        yield f'redis_engine is "{engine}": choose redis or valkey, or leave it empty to keep what is there.'
        return
    release = str(inputs.get("redis_host_release") or "")
    packages = engines.PACKAGES.get(release, {})
    if engine and inputs.get("redis_image_source") == "build" and packages and engine not in packages:
        yield (
            f'redis_engine is "{engine}", redis_image_source is "build", and Debian {release} has no package '
            f"{engine}-server: choose redis_engine: redis, a host of Debian 13 (spot_host_debian_release), or an image "
            f"of {engines.NAMES[engine]} (redis_image_source: pull or load)."
        )


def _image(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    source, image = inputs.get("redis_image_source"), str(inputs.get("redis_image") or "")
    fixed = re.search(r"@sha256:[0-9a-f]{64}$|:[A-Za-z0-9_][A-Za-z0-9_.-]*$", image)
    if source in ("pull", "load") and not image:
        yield f'redis_image is empty, and redis_image_source is "{source}": name the image, with a tag or a digest.'
    elif image and not fixed:
        yield f'redis_image is "{image}": add a tag or a digest, such as redis:7.2, so that every host gets the same.'
    if source == "load" and not inputs.get("redis_image_archive"):
        yield 'redis_image_archive is empty, and redis_image_source is "load": name the file that "docker save" wrote.'
    version = str(inputs.get("redis_package_version") or "")
    if version and not re.fullmatch(r"[0-9][A-Za-z0-9.+:~-]*", version):
        yield f'redis_package_version is "{version}": write a version as apt shows it, such as 5:7.0.15-1~deb12u5.'


def _volume(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    volume = str(inputs.get("redis_volume_id") or "")
    if volume and not re.fullmatch(r"vol-[0-9a-f]{8,17}", volume):
        yield f'redis_volume_id is "{volume}": write the id of an EBS volume, such as vol-0123456789abcdef0.'


def _numbers(inputs: Inputs, _memory_mb: int) -> Iterator[str]:
    names = ("redis_stop_timeout", "redis_start_timeout", "redis_health_interval", "redis_log_max_files")
    for name in names:
        value = inputs.get(name)
        if not _is_integer(value) or int(str(value)) < 1:
            yield f"{name} is {value}: write a whole number of at least 1."
    size = str(inputs.get("redis_log_max_size"))
    if not re.fullmatch(r"[1-9]\d*[kmg]?", size):
        yield f'redis_log_max_size is "{size}": write a size such as 10m.'


CHECKS: tuple[Callable[[Inputs, int], Iterator[str]], ...] = (
    _password,
    _profile,
    _network,
    _persistence,
    _memory,
    _settings,
    _users,
    _tls,
    _engine,
    _image,
    _volume,
    _numbers,
)


def redis_problems(value: Inputs, memory_mb: int = 0) -> list[str]:
    """A sentence for each problem."""
    return [sentence for check in CHECKS for sentence in check(value, int(memory_mb)) if sentence]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"redis_problems": redis_problems}
