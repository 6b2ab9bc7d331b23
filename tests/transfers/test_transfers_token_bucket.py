"""The token bucket against its promise, by whole histories."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cxfr_proxy.transfers.token_bucket import TokenBucket

rates = st.floats(0.01, 10_000)
bursts = st.floats(1, 100)
starts = st.floats(0, 1e7)
steps = st.lists(st.floats(0, 5) | st.just(0.0), max_size=200)


def test_a_bucket_starts_full_and_fills_at_its_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.delay(100.0) == 0.5
    assert not bucket.take(100.25)
    assert bucket.delay(100.25) == 0.25
    assert bucket.take(100.5)
    assert not bucket.take(100.5)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


@given(rates, bursts, starts, steps)
def test_no_window_sees_more_than_burst_and_rate(rate: float, burst: float, start: float, steps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst), start, []
    for step in steps:
        now += step
        if bucket.take(now):
            taken.append(now)
    for first, begin in enumerate(taken):
        for count, end in enumerate(taken[first:], start=1):
            assert count <= burst + rate * (end - begin) + 1e-3  # 1e-3: a clock of 1e7 s and 10,000/s has that ulp


@given(rates, bursts, starts, st.integers(1, 200))
def test_who_waits_as_told_gets_a_token_and_no_earlier(rate: float, burst: float, now: float, count: int) -> None:
    bucket, start = TokenBucket(rate, burst), now
    for _ in range(count):
        delay = bucket.delay(now)
        if delay:
            assert not bucket.take(now)
        now += delay
        assert bucket.delay(now) == 0
        assert bucket.take(now)
    # The other bound: nobody is kept waiting longer than the rate asks for.
    assert now - start <= max(0, count - math.floor(burst)) / rate + count * 1e-8


def test_a_delay_too_small_for_the_clock_is_no_endless_wait() -> None:
    bucket, now = TokenBucket(rate=1e12, burst=1), 1e9
    assert bucket.take(now)
    delay = bucket.delay(now)
    assert bucket.take(now + delay)


def test_a_delay_that_rounding_made_too_short_is_made_good() -> None:
    bucket, now = TokenBucket(rate=0.1, burst=1), 1.2000000000000002
    assert bucket.take(0.1)
    due = 0.1 + 1 / 0.1
    assert now + (due - now) < due, "the premise: the plain difference falls short"
    assert bucket.take(now + bucket.delay(now))


@given(rates, rates, bursts, starts, st.floats(0, 5), st.floats(0, 5))
def test_a_new_rate_counts_from_its_instant_on(
    old: float, new: float, burst: float, start: float, before: float, after: float
) -> None:
    assume(burst == round(burst) or abs(burst - round(burst)) > 1e-6)  # else rounding decides about one more token
    bucket = TokenBucket(old, burst)
    while bucket.take(start):
        pass
    lacking = math.ceil(burst - math.floor(burst)) and burst - math.floor(burst)
    changed = start + before
    bucket.set_rate(new, changed)
    end = changed + after
    count = sum(bucket.take(end) for _ in range(101))
    # The oracle counts tokens forward from what the emptied bucket still held.
    held = min(burst, lacking + (changed - start) * old)
    held = min(burst, held + (end - changed) * new)
    assert abs(count - math.floor(held)) <= (0 if abs(held - round(held)) > 1e-3 else 1)


def test_what_is_there_survives_a_new_rate() -> None:
    bucket = TokenBucket(rate=1, burst=2)
    assert bucket.take(0.0)
    assert bucket.take(0.0)
    bucket.set_rate(100, 0.5)
    assert bucket.rate == 100
    assert bucket.delay(0.5) == pytest.approx(0.005)
    fresh = TokenBucket(rate=1, burst=1)
    fresh.set_rate(5, 10.0)
    assert fresh.take(10.0)


def test_rate_0_is_a_pause() -> None:
    bucket = TokenBucket(rate=0, burst=1)
    assert bucket.take(5.0)
    assert bucket.delay(5.0) == math.inf
    assert not bucket.take(1e9)
    bucket.set_rate(10, 2e9)
    assert bucket.delay(2e9) == pytest.approx(0.1)
    bucket.set_rate(0, 2e9)
    assert bucket.delay(3e9) == math.inf


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    bucket.set_rate(2, 50.0)
    assert not bucket.take(100.25)
    assert bucket.take(100.5)


@pytest.mark.parametrize("rate", [-1, math.inf, math.nan])
def test_rates_that_are_none(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        TokenBucket(rate, 1)
    bucket = TokenBucket(1, 1)
    with pytest.raises(ValueError, match="rate"):
        bucket.set_rate(rate, 0.0)
    assert bucket.rate == 1


@pytest.mark.parametrize("burst", [0, 0.99, -1, math.inf, math.nan])
def test_bursts_that_no_token_fits_in(burst: float) -> None:
    with pytest.raises(ValueError, match="burst"):
        TokenBucket(1, burst)


def test_a_bucket_that_becomes_smaller_keeps_what_fits() -> None:
    bucket = TokenBucket(rate=1, burst=10)
    bucket.set_rate(2, 0.0, burst=3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    bucket.set_rate(2, 0.0, burst=10)
    assert bucket.delay(0.0) == 0.5
    assert [bucket.take(5.0) for _ in range(11)] == [True] * 10 + [False]
    with pytest.raises(ValueError, match="burst"):
        bucket.set_rate(2, 5.0, burst=0.5)
