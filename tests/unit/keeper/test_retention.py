# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups are kept, and which are given up."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from spotcache_keeper.stores.retention import Kept, Policy, given_up

from tests.unit.keeper.examples import NOON

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
