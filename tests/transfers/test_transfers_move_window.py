"""How many sessions are on their way to other nodes at once: a window that grows and shrinks by how long clients are
held."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from statistics import median

import pytest

from cxfr_proxy.session.commands import (
    Answered,
    Asked,
    BoundTo,
    Ended,
    Event,
    MigrationFailed,
    Outcome,
    Reason,
    Transferred,
)
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.transfers.move_window import QUICK_SECONDS, SLOW_SECONDS, MoveWindow, WindowState, sum_of

MOST = 8
ORDER = Order(Trigger.DRAIN, target="b", migrates=True)
BEGINS = Asked(Rung.MIGRATE, ORDER, first=True)
QUICK, TOO_LONG, SLOW = QUICK_SECONDS / 4, QUICK_SECONDS * 2, SLOW_SECONDS * 2


def moved(held: float | None, rung: Rung = Rung.MIGRATE, outcome: Outcome = Outcome.MOVED) -> Transferred:
    return Transferred(ORDER, ((rung, outcome),), 0.1, "a", held)


FAILED = MigrationFailed("b", "it does not resume the session")


def filled(window: MoveWindow, ends: Iterable[Event]) -> MoveWindow:
    """Keep the window full, and end a move in turn by each of these."""
    last = 0
    for first, event in enumerate(ends, start=1):
        while window.has_room():
            last += 1
            window.note(last, BEGINS)
        assert window.note(first, event)
    return window


def grown() -> MoveWindow:
    """Return one that has become as large as it can, with nothing under way."""
    window = filled(MoveWindow(MOST), [moved(QUICK)] * 500)
    for number in range(500, 500 + 2 * MOST):
        window.note(number, moved(QUICK))
    assert (window.size, window.under_way) == (MOST, 0)
    return window


def test_one_at_a_time_at_first() -> None:
    window = MoveWindow(MOST)
    assert window.has_room()
    assert not window.has_room(coming=1)
    assert not window.note(1, BEGINS)
    assert not window.has_room()
    assert window.has_room(hurried=True)
    assert window.note(1, moved(QUICK))
    assert window.has_room()


def test_it_grows_while_clients_are_held_for_short_times() -> None:
    assert filled(MoveWindow(MOST), [moved(QUICK)] * 15).size == 1
    assert filled(MoveWindow(MOST), [moved(QUICK)] * 16).size == 2
    assert filled(MoveWindow(MOST), [moved(QUICK)] * 10_000).size == MOST


def test_it_does_not_grow_while_it_is_not_used() -> None:
    window = MoveWindow(MOST)
    for number in range(16):
        window.note(number, BEGINS)
        window.note(number, moved(QUICK))
    assert window.size == 2
    for number in range(1000):
        window.note(number, BEGINS)
        window.note(number, moved(QUICK))
    assert window.size == 2


def test_it_shrinks_as_slowly_where_that_takes_longer() -> None:
    window = filled(grown(), [moved(TOO_LONG)] * 17)
    assert window.size == MOST - 2
    assert filled(window, []).size == MOST - 2


@pytest.mark.parametrize(
    "end",
    [
        moved(SLOW),
        FAILED,
    ],
)
def test_it_is_halved_where_that_takes_much_longer_or_fails(end: Event) -> None:
    window = grown()
    for number in range(MOST):
        window.note(number, BEGINS)
    assert window.note(0, end)
    assert window.size == MOST // 2
    # The others that were under way are no reason to do it again; those that begin now are.
    for number in range(1, MOST):
        window.note(number, end)
    assert window.size == MOST // 2
    window.note(100, BEGINS)
    window.note(100, end)
    assert window.size == MOST // 4


def test_one_is_always_under_way() -> None:
    window = filled(MoveWindow(MOST), [FAILED, moved(SLOW), moved(TOO_LONG)] * 100)
    assert window.size == 1


@pytest.mark.parametrize(
    "end",
    [
        moved(None, outcome=Outcome.CUT_OFF),
        moved(None, outcome=Outcome.STAYED),
        Answered(Rung.MIGRATE, ORDER, Outcome.STAYED),
        Answered(Rung.MIGRATE, ORDER, Outcome.SILENT),
        Asked(Rung.CUT, ORDER, first=False),
        MigrationFailed(None, "the client does not say what it has got"),
    ],
)
def test_what_clients_and_operators_do_says_nothing_of_the_nodes(end: Event) -> None:
    window = grown()
    assert filled(window, [end] * 100).size == MOST
    assert window.mean_held == QUICK


def test_a_session_that_is_over_is_not_on_its_way_whatever_it_has_reported() -> None:
    window = MoveWindow(MOST)
    window.note(1, BEGINS)
    assert window.forget(1)
    assert not window.forget(1)
    assert (window.has_room(), window.size) == (True, 1)


def test_what_else_sessions_report_is_no_move() -> None:
    window = MoveWindow(MOST)
    others: list[Event] = [
        BoundTo("juliet@example.org/r"),
        Asked(Rung.CXFR, ORDER, first=True),
        Answered(Rung.CXFR, ORDER, Outcome.REFUSED),
        moved(None, Rung.CUT),
        Ended(Reason.TRANSFERRED, None, 0, 0),
    ]
    assert not any(window.note(1, event) for event in others)
    assert (window.under_way, window.size, window.mean_held) == (0, 1, None)


def test_a_node_far_away_is_quick_if_it_is_as_quick_as_it_can_be() -> None:
    assert filled(MoveWindow(MOST), [moved(0.2), moved(0.3)] * 500).size == MOST
    assert filled(MoveWindow(MOST), [moved(0.2)] * 500 + [moved(0.5)] * 5 + [moved(0.2)] * 2).size == MOST - 1


def test_the_shortest_time_is_that_of_late() -> None:
    window = filled(MoveWindow(MOST), [moved(0.001)] * 10 + [moved(0.1)] * 64)
    assert window.size == 1
    assert filled(window, [moved(0.1)] * 500).size == MOST


def test_operators_are_shown_a_mean_of_late() -> None:
    window = filled(MoveWindow(MOST), [moved(0.001)] * 100)
    assert window.mean_held == pytest.approx(0.001)
    filled(window, [moved(0.003)] * 200)
    assert window.mean_held == pytest.approx(0.003, rel=0.01)


def test_the_state_of_several_processes_is_that_of_the_slowest() -> None:
    states = [WindowState(), WindowState(2, 3, paced=True, held_seconds=0.002), WindowState(1, 1, False, 0.0041)]
    assert sum_of(states) == WindowState(3, 4, paced=True, held_seconds=0.0041)
    assert sum_of(states).reason == "4 at a time: their clients are held for 4.1 ms"
    assert sum_of([]) == WindowState()
    assert [state.reason for state in (WindowState(), states[2], WindowState(1, 1, paced=True))] == [None] * 3


# --- a cluster by a simulated clock


def drained(sessions: int, held: Callable[[int], float], login: Callable[[int], float]) -> tuple[list[float], float]:
    """Move so many by a window. A move takes ``login`` and ``held`` seconds, with so many others under way. Return for
    how long each client was held, and how many moved in a second."""
    window, now, begun, over = MoveWindow(MOST), 0.0, 0, 0
    under_way: list[tuple[float, int, float]] = []
    times: list[float] = []
    while over < sessions:
        while window.has_room() and begun < sessions:
            window.note(begun, BEGINS)
            took = held(window.under_way)
            heapq.heappush(under_way, (now + login(window.under_way) + took, begun, took))
            begun += 1
        now, number, took = heapq.heappop(under_way)
        window.note(number, moved(took))
        times.append(took)
        over += 1
    return times, sessions / now


def test_a_machine_that_is_busy_with_the_moves_comes_to_rest_where_clients_are_held_shortly() -> None:
    chance = random.Random(1)
    # Two cores: more than two at once only wait for each other, and some wait for something else now and then.
    times, rate = drained(
        3000,
        held=lambda at_once: 0.0008 * max(1, at_once) * chance.lognormvariate(0, 0.6),
        login=lambda at_once: 0.005 * max(1, at_once / 2) * chance.lognormvariate(0, 0.3),
    )
    assert median(times) < 0.005
    assert sorted(times)[-30] < 0.05
    assert rate > 150


def test_one_with_time_for_all_of_them_is_used_in_full() -> None:
    chance = random.Random(2)
    times, rate = drained(
        3000,
        held=lambda _: 0.001 * chance.lognormvariate(0, 0.4),
        login=lambda _: 0.02 * chance.lognormvariate(0, 0.2),
    )
    assert median(times) < 0.002
    assert rate > 0.8 * MOST / 0.022


def test_a_node_far_away_is_used_in_full_as_well() -> None:
    chance = random.Random(3)
    _, rate = drained(1000, held=lambda _: 0.2 + 0.01 * chance.random(), login=lambda _: 0.4)
    assert rate > 0.7 * MOST / 0.6
