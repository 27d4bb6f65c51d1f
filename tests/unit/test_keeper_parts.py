"""The keeper's parts one by one: configuration, ids, RDB headers, manifests, sources, retention, the host."""

# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

import io
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from spotcache_keeper.aws.clients import AwsError, aws_errors
from spotcache_keeper.aws.machine import Identity, LinuxMachine, metadata
from spotcache_keeper.aws.settle import SETTLES_AFTER, found, known
from spotcache_keeper.aws.volumes import Volumes
from spotcache_keeper.backup.current_data import Present, verdict_on
from spotcache_keeper.backup.switch_data import compare
from spotcache_keeper.config import load_config, parse_config
from spotcache_keeper.errors import ConfigError, DamagedError, KeeperError, NoSourceError, NoUsableCopyError
from spotcache_keeper.overview import table
from spotcache_keeper.server.client import DatabaseCount, parse_info
from spotcache_keeper.server.container import SCRATCH_NAME, DockerEngine
from spotcache_keeper.server.rdb import databases_of, read_counts, read_length
from spotcache_keeper.stores.ebs import EbsStore, source_of
from spotcache_keeper.stores.manifest import Manifest, parse_manifest
from spotcache_keeper.stores.retention import Kept, Policy, given_up
from spotcache_keeper.stores.source import BEFORE_RESTORE, Source, State, Wanted, choose, parse_wanted, same_backup
from spotcache_keeper.system.commands import Completed, run_command
from spotcache_keeper.system.files import exchange, write_atomically
from spotcache_keeper.system.lock import is_held, only_run
from spotcache_keeper.system.times import (
    UTC,
    age_text,
    created_of,
    from_text,
    is_id,
    new_id,
    next_moment,
    parse_moment,
    to_text,
)

from tests.unit.keeper_support import KEEPER_JSON, FakeMachine

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


# --- configuration


def test_what_follows_from_a_configuration() -> None:
    config = parse_config(KEEPER_JSON, "test")
    assert str(config.backups_directory) == "/srv/redis/backups"
    assert config.s3_prefix == "stg/backups/"
    assert config.password() is None


@pytest.mark.parametrize("key", sorted(KEEPER_JSON))
def test_the_program_has_no_defaults_of_its_own(key: str) -> None:
    """What the roles say and what the program believes cannot differ: it believes nothing that it was not told."""
    with pytest.raises(ConfigError, match=f"test: '{key}' is missing; the keeper role writes every key"):
        parse_config({name: value for name, value in KEEPER_JSON.items() if name != key}, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "Stg"}, "test: environment is 'Stg'; it must be a lower-case name such as stg"),
        ({"environment": None}, "'environment' is missing"),
        ({"region": "tokyo"}, "region is 'tokyo'; it must be an AWS region such as ap-northeast-1"),
        ({"bucket": "B"}, "bucket is 'B'"),
        ({"endpoint_url": "10.0.0.1:5000"}, "endpoint_url is '10.0.0.1:5000'; it must be an http or https address"),
        ({"redis_port": "6379"}, "redis_port is '6379'; it must be a whole number"),
        ({"redis_port": 70000}, "a TCP port, at most 65535"),
        ({"keep_count": 0}, "keep_count is 0; it must be a whole number of at least 1"),
        ({"keep_days": True}, "keep_days is True"),
        ({"appendonly": "yes"}, "appendonly is 'yes'; it must be true or false"),
        ({"volume_path": "srv/redis"}, "volume_path is 'srv/redis'; it must be an absolute path"),
        ({"redis_directory": "/var/redis"}, "redis_directory /var/redis must lie below volume_path /srv/redis"),
        ({"dbfilename": "../dump.rdb"}, "a file name without a directory"),
        ({"container": 5}, "container is 5; it must be a text"),
        ({"buckett": "x"}, "unknown key 'buckett'; known are address, address_files, allow_empty, "),
        ({"volume_labels": {"ext4": "data"}}, "volume_labels must be an object with ext4 and xfs"),
        (
            {"volume_labels": {"ext4": "spotcache-data", "xfs": "spotcache-data"}},
            "volume_labels.xfs is 'spotcache-data'; it must be a label of at most 12 characters",
        ),
        ({"mount_options": {"ext4": "a b", "xfs": "nouuid"}}, "mount_options.ext4 is 'a b'; it must be mount options"),
        (
            {"timeouts": {**KEEPER_JSON["timeouts"], "stop": 0}},
            "timeouts.stop is 0; it must be a whole number of seconds, at least 1",
        ),
        ({"timeouts": {"stop": 5}}, "timeouts.answer is missing"),
        ({"timeouts": {**KEEPER_JSON["timeouts"], "sleep": 5}}, "unknown timeout 'sleep'; known are answer, backup"),
        ({"timeouts": 5}, "timeouts must be an object"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**KEEPER_JSON, **change}, "test")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_configuration_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "keeper.json"
    with pytest.raises(ConfigError, match=r"keeper\.json cannot be read: .*the keeper role writes it"):
        load_config(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"keeper\.json is not JSON"):
        load_config(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="must hold one JSON object, not list"):
        load_config(path)


def test_the_password_file_must_be_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "password"
    config = parse_config({**KEEPER_JSON, "redis_password_file": str(path)}, "test")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.password()
    path.write_text(" pass word\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"is open to every user \(mode 0644\): chmod 600 it"):
        config.password()
    path.chmod(0o600)
    assert config.password() == " pass word"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        config.password()


# --- ids and moments


@given(st.datetimes(datetime(2001, 1, 1), datetime(2999, 1, 1)))
def test_an_id_tells_when_it_was_made(naive: datetime) -> None:
    moment = naive.replace(tzinfo=UTC, microsecond=0)
    made = new_id(moment)
    assert is_id(made)
    assert created_of(made) == moment
    assert from_text(to_text(moment)) == moment


def test_what_is_no_id() -> None:
    for text in ("", "20261122T001503Z", "20261322T001503Z-3f9a1c", "20261122T001503Z-3F9A1C", "../x"):
        assert not is_id(text)
    with pytest.raises(ValueError, match="is not a backup's id"):
        created_of("nonsense")


def test_a_clock_that_went_back_does_not_turn_the_order_round() -> None:
    ahead = NOON + timedelta(minutes=10)
    assert next_moment(NOON, None) == NOON
    assert next_moment(NOON, NOON - timedelta(seconds=1)) == NOON
    assert next_moment(NOON, NOON) == NOON + timedelta(seconds=1)
    assert next_moment(NOON, ahead) == ahead + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T12:00", NOON),
        ("2026-11-22 12:00:00Z", NOON),
        ("2026-11-22T21:00+09:00", NOON),
        ("2026-11-22 21:00:00 +0900", NOON),
        ("2026-11-22T12:00:00.5Z", NOON),
    ],
)
def test_moments_as_people_write_them(text: str, expected: datetime) -> None:
    assert parse_moment(text) == expected


@pytest.mark.parametrize("text", ["2026-11-22", "12:00", "2026-13-22T12:00", "2026-11-22T25:00", "now"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a date and time"):
        parse_moment(text)


def test_ages() -> None:
    assert [age_text(seconds) for seconds in (-5, 59, 60, 3600 * 3 + 1200, 86400 * 6 + 3600 * 4)] == [
        "0s",
        "59s",
        "1m",
        "3h 20m",
        "6d 4h",
    ]


# --- RDB headers


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_lengths_as_an_rdb_writes_them(number: int) -> None:
    if number < 1 << 6:
        data = bytes([number])
    elif number < 1 << 14:
        data = bytes([0x40 | number >> 8, number & 0xFF])
    elif number < 1 << 32:
        data = b"\x80" + struct.pack(">I", number)
    else:
        data = b"\x81" + struct.pack(">Q", number)
    assert read_length(io.BytesIO(data)) == number
    for cut in range(len(data)):
        with pytest.raises(DamagedError, match="ends within"):
            read_length(io.BytesIO(data[:cut]))


def test_other_bytes_are_no_length() -> None:
    with pytest.raises(DamagedError, match="byte 0xc0 where a database's size should stand"):
        read_length(io.BytesIO(b"\xc0"))
    with pytest.raises(DamagedError, match="has fe at offset 1, not a database's size"):
        read_counts(io.BytesIO(b"\x00\xfe\x01\x02"), 1)


REPORT = """\
[offset 0] Checking RDB file /check.rdb
[offset 27] AUX FIELD redis-ver = '7.0.15'
[offset 3] Selecting DB ID 0
[offset 9] Selecting DB ID 12
[offset 40] Checksum OK
[offset 40] \\o/ RDB looks OK! \\o/
[info] 20003 keys read
[info] 1 expires
[info] 0 already expired
"""


def test_counts_come_from_the_databases_own_headers(tmp_path: Path) -> None:
    path = tmp_path / "dump.rdb"
    path.write_bytes(b"\0\0\0" + b"\xfb\x03\x01" + b"\0\0\0" + b"\xfb\x80" + struct.pack(">I", 20000) + b"\x00")
    assert databases_of(path, Completed(0, REPORT, "")) == {0: DatabaseCount(3, 1), 12: DatabaseCount(20000, 0)}
    with pytest.raises(DamagedError, match="claim 20003 keys, but redis-check-rdb read 20002"):
        databases_of(path, Completed(0, REPORT.replace("20003", "20002"), ""))
    with pytest.raises(DamagedError, match="did not count the keys"):
        databases_of(path, Completed(0, "", ""))
    with pytest.raises(DamagedError, match="refuses the RDB: RDB CRC error"):
        databases_of(path, Completed(1, REPORT.replace("[offset 40] Checksum OK", "[offset 40] RDB CRC error"), ""))


# --- manifests

MANIFEST = Manifest(
    id="20261122T120000Z-3f9a1c",
    environment="stg",
    created=NOON,
    reason="timer",
    redis_version="7.0.15",
    rdb_bytes=1234,
    rdb_sha256="ab" * 32,
    databases={0: DatabaseCount(10, 3), 5: DatabaseCount(1, 0)},
    host="i-0123456789abcdef0",
    zone="ap-northeast-1a",
    verified=True,
)


def test_a_manifest_survives_its_file() -> None:
    assert parse_manifest(MANIFEST.to_json()) == MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("rdb"), "lacks or misstates 'rdb'"),
        (lambda data: data.update(schema=2), "has schema 2; this keeper reads 1"),
        (lambda data: data.update(id="x"), "id 'x' is no backup's id"),
        (lambda data: data.update(keys=12), "databases hold 11 keys, but it says 12"),
        (lambda data: data["rdb"].update(bytes=-1), "a count: -1"),
        (lambda data: data["rdb"].update(bytes=True), "a count: True"),
        (lambda data: data["rdb"].update(sha256="no"), "SHA-256 'no' is none"),
        (lambda data: data.update(created="yesterday"), "lacks or misstates"),
        (lambda data: data.update(databases=[]), "lacks or misstates"),
    ],
)
def test_a_manifest_that_is_wrong(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    data = json.loads(MANIFEST.to_json())
    change(data)
    with pytest.raises(DamagedError) as caught:
        parse_manifest(json.dumps(data))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{"])
def test_what_is_no_manifest_at_all(text: str) -> None:
    with pytest.raises(DamagedError, match=r"not (JSON|a JSON object)"):
        parse_manifest(text)


def test_every_flipped_bit_of_a_manifest_is_an_error_or_changes_it() -> None:
    good = MANIFEST.to_json().encode()
    for position in range(len(good)):
        altered = bytearray(good)
        altered[position] ^= 0x08
        try:
            parsed = parse_manifest(bytes(altered))
        except DamagedError:
            continue
        # Blanks between the values are the one thing that may differ.
        assert parsed != MANIFEST or good[position : position + 1].isspace() or bytes(altered).split() == good.split()


# --- choosing a source


NEARNESS = {"volume": 0, "s3": 1, "ebs": 2}


def source(hours: int, where: str = "s3", *, state: State = "complete", **more: Any) -> Source:
    """A backup made some hours after noon."""
    created = NOON + timedelta(hours=hours)
    usable = state == "complete"
    snapshot = {"snapshot_id": f"snap-{hours:08x}"} if where == "ebs" else {}
    values = {"verified": usable, "environment": "stg", **snapshot, **more}
    return Source(f"{created:%Y%m%dT%H%M%SZ}-{hours:06x}", created, where, NEARNESS[where], state=state, **values)


def test_the_newest_verified_backup_and_its_nearest_copy_come_first() -> None:
    sources = [
        source(1, "ebs"),
        source(1, "volume"),
        source(2, "ebs"),
        source(2),
        source(3, state="incomplete"),
        source(1),
    ]
    chosen = choose(sources, Wanted())
    assert [(item.id, item.where) for item in chosen] == [
        (source(2).id, "s3"),
        (source(2).id, "ebs"),
        (source(1).id, "volume"),
        (source(1).id, "s3"),
        (source(1).id, "ebs"),
    ]
    assert [item.where for item in same_backup(chosen)] == ["s3", "ebs"]


def test_a_time_takes_the_newest_at_or_before_it() -> None:
    sources = [source(1), source(2), source(3)]
    assert choose(sources, Wanted(moment=NOON + timedelta(hours=2)))[0].id == source(2).id
    assert choose(sources, Wanted(moment=NOON + timedelta(hours=2, minutes=59)))[0].id == source(2).id
    with pytest.raises(NoSourceError, match=f"at or before 2026-11-22T12:59:59Z; the oldest is {source(1).id}"):
        choose(sources, Wanted(moment=NOON + timedelta(minutes=59, seconds=59)))


def test_a_backup_left_on_purpose_is_not_the_newest() -> None:
    left = source(3, reason=BEFORE_RESTORE)
    assert choose([left, source(1), source(2)], Wanted())[0].id == source(2).id
    assert choose([left], Wanted())[0] == left
    assert choose([left, source(1)], Wanted(backup_id=left.id))[0] == left


def test_a_chosen_snapshot_comes_before_nearer_copies() -> None:
    sources = [source(2), source(2, "volume"), source(2, "ebs"), source(1)]
    chosen = choose(sources, Wanted(snapshot_id="snap-00000002"))
    assert [item.where for item in chosen] == ["ebs", "volume", "s3", "s3"]


@pytest.mark.parametrize(
    ("sources", "wanted", "kind", "message"),
    [
        ([], Wanted(), NoSourceError, "there is no backup of this environment"),
        ([source(1)], Wanted(backup_id="20200101T000000Z-000000"), NoSourceError, f"the newest is {source(1).id}"),
        ([], Wanted(backup_id="20200101T000000Z-000000"), NoSourceError, "there is none at all"),
        ([source(1)], Wanted(snapshot_id="snap-1"), NoSourceError, "there is no EBS snapshot snap-1"),
        ([source(1, "ebs", state="pending")], Wanted(), KeeperError, "still pending: try again once it is completed"),
        ([source(1, state="incomplete")], Wanted(backup_id=source(1).id), NoUsableCopyError, "its upload never ended"),
        ([source(1, state="foreign", environment="prod")], Wanted(backup_id=source(1).id), ConfigError, "'prod'"),
        ([source(1, verified=False)], Wanted(), NoUsableCopyError, "it was never verified"),
    ],
)
def test_sources_that_cannot_be_taken(
    sources: list[Source], wanted: Wanted, kind: type[KeeperError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        choose(sources, wanted)
    assert message in str(caught.value)
    assert type(caught.value) is kind


@given(
    st.lists(
        st.builds(
            source,
            st.integers(0, 30),
            st.sampled_from(["volume", "s3", "ebs"]),
            state=st.sampled_from(["complete", "pending", "incomplete", "damaged", "foreign", "error"]),
        ),
        max_size=12,
    )
)
def test_only_usable_backups_are_ever_chosen_and_the_newest_of_them(sources: list[Source]) -> None:
    usable = [item for item in sources if item.usable]
    try:
        chosen = choose(sources, Wanted())
    except KeeperError:
        assert not usable
        return
    assert chosen[0].created == max(item.created for item in usable)
    assert sorted(chosen, key=repr) == sorted(usable, key=repr)


def test_the_meaning_of_from() -> None:
    assert parse_wanted(None) == parse_wanted("newest") == Wanted()
    assert parse_wanted("20261122T120000Z-3f9a1c") == Wanted(backup_id="20261122T120000Z-3f9a1c")
    assert parse_wanted("snap-0123") == Wanted(snapshot_id="snap-0123")
    assert parse_wanted("2026-11-22T12:00Z") == Wanted(moment=NOON)
    with pytest.raises(ConfigError, match="--from 'latest' is none of: newest,"):
        parse_wanted("latest")


# --- retention

ITEMS = st.lists(
    st.builds(Kept, st.uuids().map(str), st.integers(0, 2000).map(lambda h: NOON - timedelta(hours=h)), st.booleans()),
    max_size=40,
)


@given(ITEMS, st.integers(1, 50), st.integers(0, 60), st.integers(0, 9), st.integers(0, 3))
def test_retention_keeps_what_it_promises(items: list[Kept], count: int, days: int, weeks: int, named: int) -> None:
    policy = Policy(count, days, weeks)
    referred = frozenset(item.key for item in items[:named])
    gone = given_up(items, now=NOON, policy=policy, referred=referred)
    left = [item for item in items if item not in gone]
    good = sorted((item for item in items if item.good), key=lambda item: (item.created, item.key), reverse=True)
    assert all(item in left for item in good[:count])
    assert all(item in left for item in items if item.key in referred)
    for number in range(days):
        day = (NOON - timedelta(days=number)).date()
        of_day = [item for item in good if item.created.date() == day]
        assert of_day[:1] == [] or of_day[0] in left
    for number in range(weeks):
        week = (NOON - timedelta(weeks=number)).isocalendar()[:2]
        of_week = [item for item in good if item.created.isocalendar()[:2] == week]
        assert of_week[:1] == [] or of_week[0] in left
    if good:
        assert all(item in left for item in items if item.created > good[0].created)
        # No more than promised: the count, one a day, one a week, and what is referred to.
        kept = [item for item in left if item.good]
        assert len(kept) <= count + days + 1 + weeks + 1 + len(referred)
    else:
        assert gone == []
    assert gone == sorted(gone, key=lambda item: (item.created, item.key))
    # Asked again, it gives up nothing more.
    assert given_up(left, now=NOON, policy=policy, referred=referred) == []


def test_retention_of_a_month_of_quarter_hours() -> None:
    items = [Kept(str(number), NOON - timedelta(minutes=15 * number), good=True) for number in range(30 * 96)]
    gone = given_up(items, now=NOON, policy=Policy(24, 7, 4))
    left = [item for item in items if item not in set(gone)]
    # 24 newest, the last of each earlier day of 7, the last of each week of 4 that is none of these.
    assert len(left) == 24 + 7 + 3
    assert left[:24] == items[:24]
    assert all(item.created.strftime("%H:%M") == "23:45" for item in left[24:])


# --- what a restore may replace


def info(**more: Any) -> Any:
    """INFO of a server with ten keys."""
    base = {
        "redis_version": "7.0.15",
        "db0": {"keys": 10, "expires": 2},
        "rdb_changes_since_last_save": 0,
        "rdb_saves": 1,
        "rdb_last_bgsave_status": "ok",
        "rdb_last_load_keys_loaded": 10,
        "rdb_last_load_keys_expired": 0,
    }
    return parse_info({**base, **more})


def test_what_a_restore_may_replace() -> None:
    backup = source(1, keys=10)

    def verdict(state: Any, held: str | None, hours: float | None, *, settled: bool) -> str:
        as_of = None if hours is None else NOON + timedelta(hours=hours)
        return verdict_on(Present("running", state, held, as_of, settled), backup)[0]

    assert verdict(info(), backup.id, 1, settled=True) == "in-place"
    assert verdict(info(), None, 0.9, settled=True) == "free"
    assert verdict(info(), None, 1.1, settled=True) == "newer"
    assert verdict(info(), backup.id, 1, settled=False) == "newer"
    assert verdict(info(db0={"keys": 0, "expires": 0}), backup.id, 1, settled=True) == "free"
    assert verdict(info(db0={"keys": 0, "expires": 0}), None, 5, settled=False) == "free"
    assert verdict(None, None, None, settled=False) == "free"
    assert verdict(None, None, 0.5, settled=False) == "free"
    assert verdict(None, None, 1.5, settled=False) == "newer"
    assert verdict(None, backup.id, 1.5, settled=False) == "free"


def test_loaded_data_is_compared_with_the_manifest() -> None:
    backed_up = {0: DatabaseCount(10, 2), 4: DatabaseCount(5, 5)}
    manifest = Manifest(**{**MANIFEST.__dict__, "databases": backed_up})
    four = {"keys": 5, "expires": 5}
    good = info(db4=four, rdb_last_load_keys_loaded=15)
    assert (compare(manifest, good).keys, compare(manifest, good).compared) == (15, True)
    expired = info(
        db0={"keys": 8, "expires": 0},
        db4=four,
        rdb_last_load_keys_loaded=14,
        rdb_last_load_keys_expired=1,
        expired_keys=1,
    )
    assert (compare(manifest, expired).keys, compare(manifest, expired).expired) == (14, 1)
    written = info(db0={"keys": 99, "expires": 0}, rdb_last_load_keys_loaded=15, rdb_changes_since_last_save=3)
    assert compare(manifest, written).compared is False
    old = {"redis_version": "6.2", "db0": {"keys": 10, "expires": 0}, "db4": {"keys": 1, "expires": 1}}
    assert compare(manifest, parse_info(old)).expired == 4
    for wrong, message in (
        (info(db4=four, rdb_last_load_keys_loaded=14), "loaded 14 keys and left out 0 expired ones; the backup has 15"),
        (info(rdb_last_load_keys_loaded=15), "holds 10 keys; the backup has 15, and only 0 expired"),
        (
            info(db0={"keys": 7, "expires": 0}, db4=four, rdb_last_load_keys_loaded=12, rdb_last_load_keys_expired=3),
            "database 0 holds 7 keys; the backup has 10, of which 2 may have expired",
        ),
        (
            info(db0={"keys": 11, "expires": 0}, db4={"keys": 4, "expires": 4}, rdb_last_load_keys_loaded=15),
            "database 0 holds 11 keys",
        ),
    ):
        with pytest.raises(KeeperError) as caught:
            compare(manifest, wrong)
        assert message in str(caught.value)


# --- files and the lock


def test_an_exchange_swaps_two_directories(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "two").exists()
    assert (tmp_path / "two" / "one").exists()
    with pytest.raises(KeeperError, match="cannot be exchanged: No such file"):
        exchange(tmp_path / "one", tmp_path / "three")


def test_a_file_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")
    write_atomically(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


def test_two_runs_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    assert not is_held(path)
    with only_run(path, "restore", 1, NOON):
        assert is_held(path)
        message = f"another run of the keeper is at work: restore, process {os.getpid()}, since 2026-11-22T12:00:00Z"
        with pytest.raises(KeeperError) as caught, only_run(path, "backup", 0.2, NOON):
            pass
        assert message in str(caught.value)
    assert not is_held(path)
    with only_run(path, "backup", 0, NOON):
        pass


# --- Docker


class Docker:
    """A docker command that answers as told and remembers what it was asked."""

    def __init__(self, answers: Sequence[tuple[str, Completed]]) -> None:
        self._answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, argv: Sequence[str], *, timeout: float) -> Completed:  # noqa: ARG002
        self.asked.append(list(argv))
        text = " ".join(argv)
        return next((answer for begin, answer in self._answers if text.startswith(begin)), Completed(0, "", ""))


RUNNING = Completed(0, '{"Status":"running","ExitCode":0}\tsha256:abc\n', "")


def test_the_state_of_the_container() -> None:
    state = DockerEngine(Docker([("docker container inspect", RUNNING)]), "r", "i").state()
    assert state is not None
    assert (state.running, state.image) == (True, "sha256:abc")
    missing = Completed(1, "", "Error: No such container: r")
    assert DockerEngine(Docker([("docker container inspect", missing)]), "r", "i").state() is None
    down = Completed(1, "", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
    with pytest.raises(KeeperError, match="docker cannot say how r is: Cannot connect"):
        DockerEngine(Docker([("docker container inspect", down)]), "r", "i").state()
    with pytest.raises(KeeperError, match="something unexpected"):
        DockerEngine(Docker([("docker container inspect", Completed(0, "{}", ""))]), "r", "i").state()


def test_a_check_runs_apart_from_redis_with_its_own_image(tmp_path: Path) -> None:
    rdb = tmp_path / "dump.rdb"
    rdb.touch()
    docker = Docker([("docker container inspect", RUNNING), ("docker run", Completed(0, "fine", ""))])
    assert DockerEngine(docker, "r", "i").check_rdb(rdb, timeout=5).stdout == "fine"
    command = " ".join(docker.asked[-1])
    assert command.startswith("docker run --rm --pull never --network none --read-only --cap-drop ALL")
    assert f"--user {os.getuid()}:{os.getgid()}" in command
    assert f"source={rdb},target=/check.rdb,readonly" in command
    assert command.endswith("--entrypoint redis-check-rdb sha256:abc /check.rdb")


def test_without_a_container_the_configured_image_is_used(tmp_path: Path) -> None:
    missing = Completed(1, "", "Error: No such container: r")
    docker = Docker([("docker container inspect", missing)])
    DockerEngine(docker, "r", "my/image:1").check_rdb(tmp_path, timeout=5)
    assert docker.asked[-1][-2] == "my/image:1"


@pytest.mark.parametrize("code", [125, 126, 127, 137])
def test_a_check_that_could_not_run_says_nothing_about_the_file(tmp_path: Path, code: int) -> None:
    refused = Completed(code, "", "docker: Error response from daemon: No such image: my/image:1.")
    docker = Docker([("docker container inspect", RUNNING), ("docker run", refused)])
    with pytest.raises(KeeperError, match=r"could not be run: .*No such image: my/image:1") as caught:
        DockerEngine(docker, "r", "i").check_rdb(tmp_path, timeout=5)
    assert not isinstance(caught.value, DamagedError)


def test_a_scratch_server_is_removed_whatever_happens(tmp_path: Path) -> None:
    docker = Docker([("docker container inspect", RUNNING)])
    engine = DockerEngine(docker, "r", "i")

    def use() -> None:
        with engine.scratch(tmp_path, ["--appendonly", "no"]) as socket:
            assert socket == tmp_path / "keeper.sock"
            started = " ".join(docker.asked[-1])
            assert f"--name {SCRATCH_NAME} --pull never --network none" in started
            assert started.endswith("--port 0 --unixsocket /data/keeper.sock --appendonly no")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert docker.asked[-1] == ["docker", "rm", "--force", SCRATCH_NAME]


def test_docker_that_refuses_is_quoted() -> None:
    no = Completed(1, "", "Error response from daemon: no")
    engine = DockerEngine(Docker([("docker start", no), ("docker stop", no), ("docker rm", no)]), "r", "i")
    for call, words in (
        (engine.start, "cannot start r"),
        (lambda: engine.stop(5), "cannot stop r"),
        (engine.remove_scratch, "cannot remove"),
    ):
        with pytest.raises(KeeperError, match=words + ".*: Error response from daemon: no"):
            call()


def test_a_missing_or_endless_program_is_an_error_for_people() -> None:
    with pytest.raises(KeeperError, match="no-such-program is not installed on this host"):
        run_command(["no-such-program"], timeout=1)
    with pytest.raises(KeeperError, match=r"`sleep 5 \.\.\.` did not end within 0 s"):
        run_command(["sleep", "5"], timeout=0.1)
    assert Completed(3, "", "").complaint == "exit code 3"


# --- the host


@pytest.fixture
def imds() -> Iterator[tuple[str, list[str]]]:
    """A metadata service that insists on version 2; gives its address and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, code: int, body: str = "") -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_PUT(self) -> None:
            self.answer(200 if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60" else 400, "token")

        def do_GET(self) -> None:
            known = {
                "/latest/meta-data/instance-id": "i-0abc",
                "/latest/meta-data/placement/availability-zone": "ap-northeast-1c\n",
            }
            if self.headers["X-aws-ec2-metadata-token"] != "token":
                self.answer(401)
            else:
                self.answer(200 if self.path in known else 404, known.get(self.path, ""))

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_who_the_host_is(imds: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds[0] + "/")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert LinuxMachine(run_command).identity() == Identity("i-0abc", "ap-northeast-1c")
    assert imds[1][0] == "PUT /latest/api/token"
    with pytest.raises(OSError, match="404"):
        metadata("no/such/value")


def test_a_silent_metadata_service_leaves_the_hosts_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    identity = LinuxMachine(run_command).identity()
    assert (identity.instance_id, identity.zone) == (os.uname().nodename, "")


def test_the_data_volume_is_known_by_its_link_never_by_its_name(tmp_path: Path) -> None:
    prefix = "nvme-Amazon_Elastic_Block_Store_vol"
    (tmp_path / f"{prefix}0aaaaaaaaaaaaaaa1").symlink_to("/dev/zero")
    (tmp_path / f"{prefix}0bbbbbbbbbbbbbbb2").symlink_to("/dev/null")
    (tmp_path / f"{prefix}0ccccccccccccccc3").symlink_to("/dev/gone")
    (tmp_path / f"{prefix}0ddddddddddddddd4_1").symlink_to("/dev/full")
    machine = LinuxMachine(run_command, links=tmp_path)

    def mounted_from(device: str) -> Any:
        return SimpleNamespace(stat=lambda: SimpleNamespace(st_dev=os.stat(device).st_rdev))

    assert machine.volume_id(mounted_from("/dev/null")) == "vol-0bbbbbbbbbbbbbbb2"
    assert machine.volume_id(mounted_from("/dev/full")) == "vol-0ddddddddddddddd4"
    with pytest.raises(KeeperError, match=r"is not on an EBS volume: none of .*; set ebs_snapshots to false"):
        machine.volume_id(mounted_from("/dev/urandom"))


def test_an_attached_volume_is_waited_for_by_its_link(tmp_path: Path) -> None:
    machine = LinuxMachine(run_command, links=tmp_path)
    link = tmp_path / "nvme-Amazon_Elastic_Block_Store_vol0123"
    timer = threading.Timer(0.3, lambda: link.symlink_to("/dev/null"))
    timer.start()
    assert machine.wait_for_volume("vol-0123", 5) == Path("/dev/null")
    with pytest.raises(KeeperError, match=r"vol-0456 is attached, but .*0456 did not appear within 0 s"):
        machine.wait_for_volume("vol-0456", 0.1)


@pytest.mark.parametrize(
    ("kind", "options"), [("ext4", "ro,nodev,nosuid,noexec"), ("xfs", "ro,nodev,nosuid,noexec,nouuid")]
)
def test_a_copy_is_mounted_read_only_and_always_unmounted(tmp_path: Path, kind: str, options: str) -> None:
    commands = Docker([("blkid", Completed(0, kind + "\n", ""))])
    machine = LinuxMachine(commands, mounts=tmp_path / "mounts")
    path = tmp_path / "mounts" / "nvme2n1"

    def use() -> None:
        with machine.mounted(Path("/dev/nvme2n1")) as mounted:
            assert mounted == path
            assert commands.asked[-1] == ["mount", "-t", kind, "-o", options, "/dev/nvme2n1", str(path)]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert commands.asked[-1] == ["umount", str(path)]
    assert list((tmp_path / "mounts").iterdir()) == []


def test_a_copy_without_a_filesystem_is_damaged(tmp_path: Path) -> None:
    for answers, message in (
        ([("blkid", Completed(2, "", ""))], "holds no filesystem"),
        (
            [("blkid", Completed(0, "ext4", "")), ("mount", Completed(32, "", "wrong fs type"))],
            "cannot be mounted: wrong fs",
        ),
    ):
        with (
            pytest.raises(DamagedError, match=message),
            LinuxMachine(Docker(answers), mounts=tmp_path).mounted(Path("/dev/x")),
        ):
            pass


def test_what_a_killed_run_left_mounted_is_unmounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvme2n1").mkdir()
    (tmp_path / "nvme3n1").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "nvme3n1")
    commands = Docker([])
    LinuxMachine(commands, mounts=tmp_path).unmount_left_overs()
    assert commands.asked == [["umount", str(tmp_path / "nvme3n1")]]


# --- AWS in words


@pytest.mark.parametrize(
    ("operation", "code", "words"),
    [
        ("UploadPart", "AccessDenied", "AWS denies s3:PutObject; add it to the policy of the host's instance profile"),
        ("HeadObject", "403", "AWS denies s3:GetObject"),
        ("ListObjectsV2", "AccessDenied", "AWS denies s3:ListBucket"),
        ("CreateSnapshot", "UnauthorizedOperation", "AWS denies ec2:CreateSnapshot"),
        ("PutObject", "NoSuchBucket", "the bucket does not exist; provision makes it"),
        ("GetObject", "ExpiredToken", "AWS does not accept the host's credentials (ExpiredToken"),
        ("GetObject", "SlowDown", "SlowDown: text"),
    ],
)
def test_refusals_of_aws(operation: str, code: str, words: str) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(AwsError) as caught, aws_errors("doing it"):
        raise ClientError({"Error": {"Code": code, "Message": "text"}}, operation)
    assert str(caught.value).startswith("doing it: ")
    assert words in str(caught.value)
    assert caught.value.code == code


def test_aws_that_is_not_reached() -> None:
    from botocore import exceptions

    with (
        pytest.raises(AwsError, match="there are no AWS credentials; the host has no instance profile"),
        aws_errors("x"),
    ):
        raise exceptions.NoCredentialsError
    with pytest.raises(AwsError, match="Could not connect to the endpoint URL"), aws_errors("x"):
        raise exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9")


def test_a_snapshot_is_known_by_its_tags() -> None:
    tags = [
        {"Key": "spotcache:environment", "Value": "stg"},
        {"Key": "spotcache:backup", "Value": MANIFEST.id},
        {"Key": "spotcache:verified", "Value": "true"},
        {"Key": "spotcache:keys", "Value": "11"},
    ]
    described = {"SnapshotId": "snap-1", "State": "completed", "Tags": tags}
    found = source_of(described, "stg")
    assert found is not None
    assert (found.usable, found.keys, found.bytes) == (True, 11, None)
    pending = source_of({**described, "State": "pending", "Progress": "40%"}, "stg")
    assert pending is not None
    assert (pending.state, pending.note, pending.usable) == ("pending", "40% done", False)
    foreign = source_of(described, "prod")
    assert foreign is not None
    assert (foreign.state, foreign.usable) == ("foreign", False)
    assert source_of({**described, "Tags": tags[:1]}, "stg") is None
    unverified = source_of({**described, "Tags": tags[:2]}, "stg")
    assert unverified is not None
    assert not unverified.usable


class Ec2:
    """EC2 whose volumes are what a test says."""

    def __init__(self, states: list[str | None], devices: Sequence[str] = ()) -> None:
        self.states = states
        self.devices = devices

    def describe_volumes(self, **arguments: Any) -> Any:
        if "Filters" in arguments:
            rows = [{"VolumeId": "vol-2", "Attachments": [{"Device": device}]} for device in self.devices]
            return {"Volumes": rows}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {"Volumes": [] if state is None else [{"State": state, "Attachments": []}]}

    def attach_volume(self, **arguments: Any) -> None:
        self.attached = arguments["Device"]


def ebs(client: Ec2, timeout: float = 0.2) -> EbsStore:
    return EbsStore(
        lambda: client,
        "stg",
        Path("/srv/redis"),
        Path("/srv/redis/backups"),
        LinuxMachine(run_command),
        timeout,
        sleep=lambda _seconds: None,
    )


def volumes(client: Ec2) -> Volumes:
    return Volumes(lambda: client, timeout=0.2, sleep=lambda _seconds: None)


def test_waiting_for_a_volume() -> None:
    volumes(Ec2(["creating", "creating", "available"])).wait("vol-1", "available")
    with pytest.raises(KeeperError, match="vol-1 came to nothing: EC2 says error"):
        volumes(Ec2(["creating", "error"])).wait("vol-1", "available")
    with pytest.raises(KeeperError, match="it does not exist"):
        volumes(Ec2([None])).wait("vol-1", "available")
    with pytest.raises(KeeperError, match="vol-1 is still creating after 0 s instead of available"):
        volumes(Ec2(["creating"])).wait("vol-1", "available")


def test_a_free_device_name_is_taken() -> None:
    client = Ec2(["in-use"], ["/dev/xvda", "/dev/sdf", "/dev/sdh"])
    ebs(client)._attach("vol-1", "i-1")
    assert client.attached == "/dev/sdg"
    with pytest.raises(KeeperError, match="i-1 has no free device name between /dev/sdf and /dev/sdp"):
        ebs(Ec2(["in-use"], [f"/dev/sd{letter}" for letter in "fghijklmnop"]))._attach("vol-1", "i-1")


# --- what AWS does not know yet


class NewToEc2(Ec2):
    """EC2 that does not know a new volume at the first looks, and now and then misses it later."""

    def __init__(self, misses: list[bool]) -> None:
        super().__init__(["available"])
        self.misses = misses
        self.volumes: dict[str, str] = {}

    def look(self, volume: str) -> None:
        if volume not in self.volumes or (self.misses and self.misses.pop(0)):
            answer = {"Error": {"Code": "InvalidVolume.NotFound", "Message": f"{volume} does not exist."}}
            raise ClientError(answer, "DescribeVolumes")

    def create_volume(self, **_arguments: Any) -> Any:
        self.volumes["vol-1"] = "available"
        return {"VolumeId": "vol-1"}

    def describe_volumes(self, **arguments: Any) -> Any:
        if "Filters" in arguments:
            return {"Volumes": []}
        self.look("vol-1")
        attached = [{"InstanceId": "i-1"}] if self.volumes["vol-1"] == "in-use" else []
        return {"Volumes": [{"State": self.volumes["vol-1"], "Attachments": attached}]}

    def attach_volume(self, **_arguments: Any) -> None:
        self.look("vol-1")
        self.volumes["vol-1"] = "in-use"

    def detach_volume(self, **_arguments: Any) -> None:
        self.look("vol-1")
        self.volumes["vol-1"] = "available"

    def delete_volume(self, **_arguments: Any) -> None:
        self.look("vol-1")
        del self.volumes["vol-1"]


@pytest.mark.parametrize("usable", [True, False], ids=["read", "that cannot be mounted"])
@pytest.mark.parametrize("seed", range(8))
def test_a_volume_that_ec2_does_not_know_yet_is_used_and_not_left_behind(seed: int, usable: bool) -> None:
    chance = Random(seed)
    client = NewToEc2([True, True, *(chance.random() < 0.6 for _ in range(30))])
    machine = FakeMachine(Path("/nowhere"))

    @contextmanager
    def mounted(_device: Path) -> Iterator[Path]:
        if not usable:
            raise DamagedError("no filesystem")
        yield Path("/mounted")

    machine.wait_for_volume = lambda *_: Path("/dev/x")  # type: ignore[method-assign]
    machine.mounted = mounted  # type: ignore[method-assign, assignment]
    store = EbsStore(
        lambda: client, "stg", Path("/srv/redis"), Path("/srv/redis/backups"), machine, 5, sleep=lambda _seconds: None
    )
    if usable:
        with store.opened("snap-1") as path:
            assert path == Path("/mounted")
    else:
        with pytest.raises(DamagedError, match="no filesystem"), store.opened("snap-1"):
            pass
    # It is paid for as long as it is there.
    assert client.volumes == {}


def test_not_found_is_believed_in_the_end_and_a_denial_at_once() -> None:
    waited: list[float] = []

    def ask(code: str) -> str:
        raise AwsError("no", code)

    with pytest.raises(AwsError):
        known(lambda: ask("InvalidVolume.NotFound"), waited.append)
    assert SETTLES_AFTER <= sum(waited) < SETTLES_AFTER + 5
    waited.clear()
    with pytest.raises(AwsError):
        known(lambda: ask("UnauthorizedOperation"), waited.append)
    assert waited == []
    answers = ["", "", "vol-1"]
    assert found(lambda: answers.pop(0), waited.append) == "vol-1"
    assert len(waited) == 2


# --- tables


def test_a_table_is_aligned() -> None:
    text = table(("NAME", "KEYS", "NOTE"), [("a", "1,000", ""), ("long name", "2", "x")], right=(1,))
    assert text.splitlines() == ["NAME        KEYS  NOTE", "a          1,000", "long name      2  x"]
