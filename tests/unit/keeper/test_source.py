# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backup a restore takes, and from where."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotcache_keeper.errors import ConfigError, KeeperError, NoSourceError, NoUsableCopyError
from spotcache_keeper.stores.source import BEFORE_RESTORE, Source, Wanted, choose, parse_wanted, same_backup

from tests.unit.keeper.examples import NOON, source


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
