# SPDX-License-Identifier: GPL-3.0-or-later
"""Ids and moments, as people and files write them."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotcache_keeper.errors import ConfigError
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

from tests.unit.keeper.examples import NOON


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
