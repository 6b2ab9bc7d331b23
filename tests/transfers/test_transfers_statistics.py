"""Counts for as long as the proxy lives."""

from __future__ import annotations

import copy
import random

import pytest

from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.statistics import (
    BUCKETS,
    Durations,
    PastTransfer,
    Totals,
    TransferKind,
    TransferStatistics,
    TriedRung,
)

REFUSED = TriedRung(Rung.CXFR, Outcome.REFUSED)
RESET = TriedRung(Rung.RESET, Outcome.MOVED)
MOVED = TriedRung(Rung.CXFR, Outcome.MOVED)


def over(node: str, *tried: TriedRung, software: str = "other", seconds: float = 1.0) -> PastTransfer:
    return PastTransfer(node, Trigger.DRAIN, software, tried, seconds)


def test_a_transfer_counts_once_and_each_rung_that_was_tried() -> None:
    statistics = TransferStatistics()
    statistics.add(over("a", REFUSED, RESET))
    statistics.add(over("a", REFUSED, RESET))
    statistics.add(over("b", MOVED, software="Gajim"))
    assert list(statistics.transfers()) == [
        ("a", TransferKind(Trigger.DRAIN, "other", Rung.RESET, Outcome.MOVED), 2),
        ("b", TransferKind(Trigger.DRAIN, "Gajim", Rung.CXFR, Outcome.MOVED), 1),
    ]
    assert statistics.attempts == {("other", REFUSED): 2, ("other", RESET): 2, ("Gajim", MOVED): 1}
    assert statistics.tried_on("a") == {REFUSED: 2, RESET: 2}
    assert statistics.tried_on("nowhere") == {}
    assert {rung: sum(each.counts) for rung, each in statistics.durations.items()} == {Rung.RESET: 2, Rung.CXFR: 1}


def test_nodes_without_transfers_for_the_longest_time_are_forgotten() -> None:
    statistics = TransferStatistics(nodes=2)
    for name in ("a", "b", "a", "c"):
        statistics.add(over(name, MOVED))
    assert {node: count for node, _, count in statistics.transfers()} == {"a": 2, "c": 1}
    assert (statistics.tried_on("a"), statistics.tried_on("b")) == ({MOVED: 2}, {})
    assert statistics.attempts == {("other", MOVED): 4}, "these are not by node"


def test_durations_fall_where_they_belong() -> None:
    """Held against counting them one by one."""
    rng = random.Random(5)
    given = [*BUCKETS, 0.0, 1e9, *(rng.uniform(0, 70) for _ in range(1000))]
    durations = Durations()
    for seconds in given:
        durations.add(seconds)
    for index, bound in enumerate(BUCKETS):
        assert sum(durations.counts[: index + 1]) == sum(seconds <= bound for seconds in given)
    assert sum(durations.counts) == len(given)
    assert durations.seconds == pytest.approx(sum(given))


def test_totals_are_summed_up() -> None:
    one = Totals([1, 0, 2, 0], 2, 3, {"stalled": 1}, {"host-unknown": 4}, {"aborted": 5})
    other = Totals([10, 0, 0, 3], 20, 30, {"stalled": 1, "stopped": 2}, {}, {"other": 6, "aborted": 1})
    for each in (one, other):
        each.count_login("tcp", 0.2501, tls=True)
        each.count_failed_handshake("timeout")
        each.received = [1, 2]
    before = copy.deepcopy(other)
    one.include(other)
    assert one == Totals(
        [11, 2, 2, 3],
        22,
        33,
        {"stalled": 2, "stopped": 2},
        {"host-unknown": 4},
        {"aborted": 6, "other": 6},
        login_seconds=Durations([0, 2, *[0] * 9], 0.5),
        failed_handshakes={"timeout": 2},
        received=[2, 4],
    )
    assert other == before, "only one changes"


def test_sums_of_workers_are_the_same_in_any_order() -> None:
    rng = random.Random(6)
    parts = [Totals() for _ in range(20)]
    for each in parts:
        for _ in range(50):
            each.count_login("tcp", rng.uniform(0, 5), tls=True)
    sums = set()
    for _ in range(20):
        rng.shuffle(parts)
        total = Totals()
        for each in parts:
            total.include(each)
        sums.add(total.login_seconds.seconds)
    assert len(sums) == 1
