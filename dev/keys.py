# SPDX-License-Identifier: GPL-3.0-or-later
"""A million keys into a Redis, and a fingerprint of every key and value in it.

Loading speaks RESP by hand, because a client library would take ten times as long. The fingerprint is taken inside the
server by a read-only script, a page of keys at a time, so that values need not travel; it does not depend on the order
in which a server happens to keep things.
"""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import redis

from dev.tls import Secure, redis_client

KINDS = ("string", "hash", "list", "set", "zset")
# Share of the keys, in percent, that each database gets; Laravel too keeps cache, sessions and queues apart.
DATABASES = {0: 55, 1: 30, 3: 10, 9: 5}
CHUNK = 1 << 20
DAY_MS = 24 * 3600 * 1000


def command(*words: bytes) -> bytes:
    """One command as RESP."""
    return b"*%d\r\n%s" % (len(words), b"".join([b"$%d\r\n%s\r\n" % (len(word), word) for word in words]))


def values(dice: random.Random) -> list[bytes]:
    """A few thousand values such as an application keeps: mostly short, some empty, numbers, binary, or long."""
    pool = "鍵と値 – clé, valeur ".encode() * 200 + dice.randbytes(64 * 1024)
    found = []
    for size in dice.choices((0, 8, 40, 90, 160, 9000), (1, 10, 30, 40, 18.9, 0.1), k=4999):
        start = dice.randrange(len(pool) - 9000)
        found.append(b"%d" % dice.getrandbits(40) if size == 8 else pool[start : start + size])
    return found


def key_commands(kind: str, key: bytes, number: int, some: list[bytes]) -> bytes:
    """The command that makes one key; one collection in some 500 is large, so that every encoding occurs."""
    value = some[number % len(some)]
    if kind == "string":
        return b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value)
    many = 600 if number % 503 == 0 else 1 + number % 6
    members = [b"%d:%s" % (member, some[(number + member) % len(some)][:40]) for member in range(many)]
    if kind == "list":
        return command(b"RPUSH", key, *members)
    if kind == "set":
        # Every other one holds numbers only, which Redis keeps in a way of its own.
        return command(b"SADD", key, *(members if number % 20 > 9 else [b"%d" % member for member in range(many)]))
    if kind == "zset":
        pairs = [word for score, member in enumerate(members) for word in (b"%.1f" % (score * 1.5), member)]
        return command(b"ZADD", key, *pairs)
    return command(
        b"HSET", key, *(word for field, member in enumerate(members) for word in (b"field%d" % field, member))
    )


def load_commands(count: int, now_ms: int, seed: int = 1) -> Iterator[bytes]:
    """RESP for `count` keys over DATABASES, in pieces of about a megabyte.

    Every third key lives one to thirty days, the rest for ever.
    """
    dice = random.Random(seed)
    some = values(dice)
    pieces: list[bytes] = []
    size = 0
    made = 0
    last = list(DATABASES)[-1]
    for database, share in DATABASES.items():
        pieces.append(command(b"SELECT", b"%d" % database))
        here = count - made if database == last else count * share // 100
        for number in range(here):
            kind = KINDS[max(0, number % 10 - 5)]
            key = b"app:%s:%d:%d" % (kind.encode(), database, number)
            piece = key_commands(kind, key, number + made, some)
            if number % 3 == 0:
                piece += command(b"PEXPIREAT", key, b"%d" % (now_ms + DAY_MS + number * 104_729 % (29 * DAY_MS)))
            pieces.append(piece)
            size += len(piece)
            if size > CHUNK:
                yield b"".join(pieces)
                pieces, size = [], 0
        made += here
    yield b"".join(pieces)


class LoadError(Exception):
    """Redis refused a key."""


@dataclass
class Replies:
    """Counts the one-line replies of a pipelined connection and keeps the first error."""

    seen: int = 0
    error: str = ""
    rest: bytes = b""

    def feed(self, data: bytes) -> None:
        """Take what came from the socket."""
        lines = (self.rest + data).split(b"\r\n")
        self.rest = lines.pop()
        self.seen += len(lines)
        if not self.error and b"-" in data:
            self.error = next((line.decode(errors="replace") for line in lines if line.startswith(b"-")), "")


# The user that applications log in as: what the role redis calls it by default.
USERNAME = "app"


def load(host: str, port: int, password: str, pieces: Iterable[bytes], secure: Secure | None = None) -> None:
    """Send the pieces, reading replies on the way, and see every command answered without an error."""
    replies, where = Replies(), f"Redis at {host}:{port}"
    end = b"spotcache-loaded"
    tail = b""
    try:
        with (
            socket.create_connection((host, port), timeout=120) as opened,
            secure(opened) if secure else opened as connection,
        ):
            connection.sendall(command(b"AUTH", USERNAME.encode(), password.encode()))
            # By one thread: OpenSSL lets no two use a connection at once. Each piece has a reply of its own, which is
            # waited for; what else is not read yet the server keeps.
            for piece in filter(None, pieces):
                connection.sendall(piece)
                replies.feed(connection.recv(CHUNK))
                if replies.error:
                    break
            connection.sendall(command(b"ECHO", end))
            while not replies.error and end not in tail and (data := connection.recv(CHUNK)):
                replies.feed(data)
                tail = (tail + data)[-2 * len(end) - 16 :]
    except TimeoutError as error:
        raise LoadError(f"{where} stopped answering while keys were loaded.") from error
    if replies.error:
        raise LoadError(f"{where} refused a key: {replies.error}")
    if end not in tail:
        raise LoadError(f"{where} closed the connection while keys were loaded.")


# One page of keys: the next cursor, then a digest for each key over kind, expiry, name and value. Collections without
# an order of their own are sorted; every part carries its length, so that no two values can run into the same text.
PAGE_SCRIPT = """
local page = redis.call('SCAN', ARGV[1], 'COUNT', ARGV[2])
local out = {page[1]}
local function packed(parts)
  for i = 1, #parts do parts[i] = #parts[i] .. ':' .. parts[i] end
  return parts
end
local function sorted(parts)
  table.sort(parts)
  return parts
end
local function pairs_of(flat)
  local parts = {}
  for i = 1, #flat, 2 do parts[#parts + 1] = #flat[i] .. ':' .. flat[i] .. '=' .. #flat[i + 1] .. ':' .. flat[i + 1] end
  return parts
end
for i, key in ipairs(page[2]) do
  local kind = redis.call('TYPE', key)['ok']
  local value
  if kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'list' then value = table.concat(packed(redis.call('LRANGE', key, 0, -1)))
  elseif kind == 'set' then value = table.concat(sorted(packed(redis.call('SMEMBERS', key))))
  elseif kind == 'hash' then value = table.concat(sorted(pairs_of(redis.call('HGETALL', key))))
  elseif kind == 'zset' then value = table.concat(pairs_of(redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')))
  else return redis.error_reply('the fingerprint does not know the kind ' .. kind .. ' of key ' .. key) end
  local expires = redis.call('PEXPIRETIME', key)
  local whole = kind .. '|' .. expires .. '|' .. #key .. ':' .. key .. value
  out[#out + 1] = redis.sha1hex(whole) .. (expires >= 0 and 'T' or '-')
end
return {out[1], table.concat(out, '', 2)}
"""
DIGEST = 41  # 40 hexadecimal digits and the mark that says whether the key has an expiry


@dataclass(frozen=True)
class DatabasePrint:
    """What one database holds."""

    keys: int
    expiring: int
    digests: bytes
    """Every key's digest, sorted: the same for the same keys, values and expiries, in whatever order they are kept."""

    @property
    def short(self) -> str:
        """A name for the content, to show."""
        return hashlib.sha256(self.digests).hexdigest()[:12]


def database_print(client: redis.Redis, page: int = 4000) -> DatabasePrint:
    """The fingerprint of the database that the client is connected to."""
    script = client.script_load(PAGE_SCRIPT)
    digests: set[bytes] = set()
    cursor = b"0"
    while True:
        # A server that rehashes meanwhile may show a key twice; the set takes it once.
        cursor, text = client.evalsha(script, 0, cursor, page)
        digests.update([text[at : at + DIGEST] for at in range(0, len(text), DIGEST)])
        if cursor == b"0":
            break
    ordered = b"".join(sorted(digests))
    return DatabasePrint(len(digests), ordered.count(b"T"), ordered)


def fingerprint(
    host: str, port: int, password: str, but: Collection[int] = (), secure: Secure | None = None
) -> dict[int, DatabasePrint]:
    """The fingerprint of every database that holds a key, but for those that are in use meanwhile."""

    def connect(database: int = 0) -> redis.Redis:
        login = {"username": USERNAME, "password": password}
        return redis_client(host, port, secure, **login, db=database, socket_timeout=120)

    with connect() as client:
        numbers = sorted({int(name.removeprefix("db")) for name in client.info("keyspace")} - set(but))
    found = {}
    for number in numbers:
        with connect(number) as client:
            found[number] = database_print(client)
    return found


def differences(before: dict[int, DatabasePrint], after: dict[int, DatabasePrint]) -> list[str]:
    """What is not equal, in sentences; nothing when all is."""
    said = []
    for number in sorted(before.keys() | after.keys()):
        old, new = before.get(number), after.get(number)
        if old is None or new is None:
            said.append(f"database {number} exists only {'after' if old is None else 'before'} the restore")
        elif old.digests != new.digests:
            gone = split(old.digests) - split(new.digests)
            came = split(new.digests) - split(old.digests)
            said.append(
                f"database {number}: {len(gone)} of {old.keys} keys are missing or altered, "
                f"{len(came)} of {new.keys} were not there before"
            )
    return said


def split(digests: bytes) -> set[bytes]:
    """The single digests."""
    return {digests[at : at + DIGEST] for at in range(0, len(digests), DIGEST)}
