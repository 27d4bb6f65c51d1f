# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate before Redis: what the kernel is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from spotcache_keeper.errors import KeeperError
from spotcache_keeper.system.commands import Completed
from spotcache_keeper.system.guard import KernelGuard, NoGuard


class Nft:
    """nft: what it was told, and how it ends."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.told: list[list[str]] = []

    def __call__(self, argv: Sequence[str], *, timeout: float) -> Completed:
        assert timeout <= 10
        assert argv[0] == "nft"
        self.told.append(argv[1].split("; ") if len(argv) == 2 else list(argv[1:]))
        return Completed(self.code, "", "Error: Operation not permitted\n" if self.code else "")


def guard_of(nft: Nft, clock: float = 1000.0) -> KernelGuard:
    return KernelGuard(nft, 6390, 999, clock=lambda: clock, time_of_day=lambda: 1_700_000_000.4)


def test_it_is_opened_in_one_transaction_until_a_moment_and_no_longer() -> None:
    nft = Nft()
    guard_of(nft).open(1030.5)
    [statements] = nft.told
    # What is there already keeps its time-out: deleted and added, it begins anew.
    assert statements[-3:] == [
        "add element inet spotcache serving { 6390 }",
        "delete element inet spotcache serving { 6390 }",
        "add element inet spotcache serving { 6390 timeout 30s }",
    ]
    # Told too late, the time-out would count from then: the rules name the end as well.
    assert "add rule inet spotcache input tcp dport 6390 meta time >= 1700000030 reject with tcp reset" in statements
    assert any(line.startswith("add rule inet spotcache output tcp sport 6390") for line in statements)
    assert statements.index("flush chain inet spotcache input") < statements.index(
        "add rule inet spotcache input tcp dport 6390 tcp dport != @serving reject with tcp reset"
    )


@pytest.mark.parametrize(
    ("standstill", "last"),
    [
        (0.5, "add element inet spotcache serving { 6390 timeout 30s }"),
        (10.0, "add element inet spotcache serving { 6390 timeout 20s }"),
        (35.0, "flush set inet spotcache serving"),
    ],
)
def test_a_kernel_that_was_told_late_is_told_again(standstill: float, last: str) -> None:
    # Its time of day says nothing of it: that was set back meanwhile.
    nft = Nft()
    guard = KernelGuard(
        nft, 6390, 999, clock=lambda: 1000.0 + (standstill if nft.told else 0.0), time_of_day=lambda: 1_700_000_000.4
    )
    guard.open(1030.0)
    assert nft.told[-1][-1] == last


def test_redis_never_reaches_the_metadata_service() -> None:
    nft = Nft()
    guard_of(nft).open(1030.0)
    rules = [line for line in nft.told[0] if "skuid 999" in line]
    assert [line.split()[-2:] for line in rules] == [["169.254.169.254", "reject"], ["fd00:ec2::254", "reject"]]
    # Before everything that lets through.
    assert nft.told[0].index(rules[1]) < nft.told[0].index("add rule inet spotcache output oif lo accept")


@pytest.mark.parametrize("until", [1000.9, 1000.0, 10.0])
def test_a_moment_that_is_over_closes_it(until: float) -> None:
    nft = Nft()
    guard_of(nft).open(until)
    assert nft.told[0][-1] == "flush set inet spotcache serving"
    assert "add rule inet spotcache input tcp dport 6390 meta time >= 0 reject with tcp reset" in nft.told[0]


def test_a_gate_that_is_there_stays_as_it_is() -> None:
    nft = Nft()
    guard_of(nft).prepare()
    assert nft.told == [["list", "table", "inet", "spotcache"]]


def test_a_kernel_that_does_not_take_it_is_said() -> None:
    with pytest.raises(KeeperError, match=r"Operation not permitted.*set keeper_guard to false"):
        guard_of(Nft(1)).open(1030.0)


def test_without_a_gate_nothing_is_proof() -> None:
    assert KernelGuard.holds
    assert not NoGuard.holds
