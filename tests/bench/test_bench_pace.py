"""How the bench judges a drain's rate."""

from __future__ import annotations

import math

import pytest

from bench.pace import pace_of, pace_panels


def told_exactly(count: int, rate: float) -> list[float]:
    """By plan: half a second's worth at once, and then one every 1/rate seconds."""
    burst = int(rate / 2)
    return [max(0.0, (index - burst) / rate) for index in range(count)]


def test_a_drain_by_plan_is_exact() -> None:
    pace = pace_of(told_exactly(1_000, 100.0), 100.0)
    assert pace.held == pytest.approx(100.0)
    assert max(pace.behind, pace.ahead) == pytest.approx(0.0)
    assert (pace.least, pace.most) == (100, 100)
    assert pace.first == 150


def test_a_drain_that_is_too_slow_is_behind_and_shows_its_own_rate() -> None:
    pace = pace_of([index / 50 for index in range(500)], 100.0)
    assert pace.held == pytest.approx(50.0)
    # The last one was told at 9.98 s; by plan it was due at (499 - 50) / 100.
    assert pace.behind == pytest.approx(9.98 - 4.49)
    assert pace.ahead == 0.0


def test_more_than_the_burst_at_once_is_ahead() -> None:
    pace = pace_of([0.0] * 100 + [2.0, 3.0], 100.0)
    assert pace.ahead == pytest.approx(0.49)


def test_one_late_client_is_found_among_many() -> None:
    told = told_exactly(1_000, 100.0)
    told[700] += 0.25
    assert pace_of(sorted(told), 100.0).behind == pytest.approx(0.01, abs=0.001)
    told[700:] = [at + 0.25 for at in told[700:]]
    assert pace_of(sorted(told), 100.0).behind == pytest.approx(0.25, abs=0.011)


def test_too_few_clients_for_a_rate() -> None:
    pace = pace_of([0.0, 0.1], 100.0)
    assert math.isnan(pace.held)
    assert pace.first == 2


def test_the_plot_has_every_client() -> None:
    so_far, in_seconds = pace_panels(told_exactly(420, 100.0), 100.0)
    seconds, clients = so_far.series["proxy"][-1]
    assert seconds == pytest.approx(3.69)
    assert clients == 420.0
    assert in_seconds.series["proxy"] == [(0.0, 150.0), (1.0, 100.0), (2.0, 100.0), (3.0, 100.0)]
    assert pace_panels([], 100.0) == []
