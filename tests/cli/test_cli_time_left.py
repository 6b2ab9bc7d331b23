"""How long something still takes."""

from __future__ import annotations

from cxfr_proxy.cli.time_left import WINDOW_SECONDS, TimeLeft


def test_it_follows_the_speed() -> None:
    it = TimeLeft()
    assert it.note(100.0, 1000) is None
    assert it.note(101.0, 900) is None  # too soon to say
    assert it.note(110.0, 500) == 10.0
    assert it.note(120.0, 0) == 0.0


def test_nothing_is_said_where_nothing_moves() -> None:
    it = TimeLeft()
    for second in range(10):
        assert it.note(float(second), 70) is None
    assert it.note(12.0, 80) is None  # peers have reported more


def test_only_the_last_while_counts() -> None:
    """A hundred at once in the beginning, and then one a second."""
    it = TimeLeft()
    it.note(0.0, 1100)
    it.note(1.0, 1000)
    left: float | None = None
    for second in range(2, 100):
        left = it.note(float(second), 1001 - second)
    assert left == 902.0
    assert it.note(99.0 + WINDOW_SECONDS, 902) is None
