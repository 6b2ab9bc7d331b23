"""The young generations are looked at as sessions come, also while as many go."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from cxfr_proxy.gc_policy import SESSIONS, Turns


@pytest.fixture
def looked_at() -> Iterator[Counter[int]]:
    """How often, by generation."""
    counts: Counter[int] = Counter()

    def count(phase: str, info: dict[str, int]) -> None:
        counts[info["generation"]] += phase == "stop"

    gc.callbacks.append(count)
    yield counts
    gc.callbacks.remove(count)


def test_as_many_go_as_come(looked_at: Counter[int]) -> None:
    """Python alone would not look: it counts what is made less what is freed."""
    sessions = [[[number] for number in range(50)] for _ in range(2000)]
    gc.collect()
    looked_at.clear()
    for index in range(len(sessions)):
        sessions[index] = [[number] for number in range(50)]
    assert looked_at.total() < 5
    turns = Turns()
    looked_at.clear()
    for index in range(len(sessions)):
        sessions[index] = [[number] for number in range(50)]
        turns.session_comes()
    assert looked_at[1] == pytest.approx(len(sessions) / SESSIONS, abs=1)


def test_where_it_is_switched_off_it_stays_so(looked_at: Counter[int]) -> None:
    turns = Turns()
    gc.disable()
    try:
        for _ in range(2 * SESSIONS):
            turns.session_comes()
    finally:
        gc.enable()
    assert not looked_at
