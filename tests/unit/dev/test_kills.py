# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that is killed at any moment leaves nothing that is paid, once the environment has been destroyed.

The moments are chosen anew by every run, and a failure says by which seed. So few of them are what a run of all tests
has time for: SPOTCACHE_KILLS=20 is the full proof, SPOTCACHE_KILLS=all takes every moment there is, and
SPOTCACHE_KILLS_SEED repeats a choice.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from dev import kills


def test_the_moments_follow_from_the_seed_and_all_are_all() -> None:
    assert kills.chosen(50, 20, 7) == kills.chosen(50, 20, 7) != kills.chosen(50, 20, 8)
    assert len(set(kills.chosen(50, 20, 7))) == 20
    assert kills.chosen(3, 20, 7) == kills.chosen(3, None, 7) == [1, 2, 3]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kills.Stage]:
    with kills.staged(tmp_path_factory.mktemp("kills"), side_by_side=1) as one:
        yield one


@pytest.mark.plays
@pytest.mark.parametrize("playbook", kills.PLAYBOOKS)
def test_a_killed_run_leaves_nothing_that_is_paid(playbook: str, stage: kills.Stage) -> None:
    asked = os.environ.get("SPOTCACHE_KILLS", "2")
    seed = int(os.environ.get("SPOTCACHE_KILLS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"SPOTCACHE_KILLS_SEED={seed}")
    found = kills.kills(stage, playbook, None if asked == "all" else int(asked), seed, print)
    wrong = [f"{moment}: {what}" for moment, what in found if what]
    assert not wrong, f"SPOTCACHE_KILLS_SEED={seed}\n" + "\n".join(wrong)
    assert found
