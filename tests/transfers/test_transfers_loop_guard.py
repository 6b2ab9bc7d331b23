"""Clients that are not sent home a second time."""

from __future__ import annotations

import pytest

from cxfr_proxy.cluster.members import PlacementBasis
from cxfr_proxy.transfers import loop_guard
from cxfr_proxy.transfers.loop_guard import ON_ITS_WAY_SECONDS, LoopGuard

JID = "juliet@example.org/balcony"
OTHER = "juliet@example.org/chamber"
NODES: PlacementBasis = frozenset({("a", 0, 1, ()), ("b", 0, 1, ())})
MORE: PlacementBasis = NODES | {("c", 0, 1, ())}


def test_a_client_is_not_moved_twice_within_the_window() -> None:
    guard = LoopGuard(60.0)
    assert not guard.returned(JID, 0.0)
    guard.about_to_be_asked(JID, 0.0)
    assert guard.returned(JID, 1.0)
    assert guard.returned(JID, 59.0)  # and once more, by itself
    assert not guard.returned(JID, 60.0)


def test_one_of_the_user_s_clients_is_taken_for_it() -> None:
    guard = LoopGuard(60.0)
    guard.about_to_be_asked(JID, 0.0)
    assert guard.returned(OTHER, 100.0)
    assert not guard.returned(OTHER, 101.0)
    guard.about_to_be_asked(JID, 200.0)
    guard.about_to_be_asked(OTHER, 200.0)
    assert [guard.returned(f"juliet@example.org/{number}", 201.0) for number in range(3)] == [True, True, False]
    guard.about_to_be_asked(JID, 300.0)
    assert not guard.returned(OTHER, 300.0 + ON_ITS_WAY_SECONDS)
    assert not guard.returned("romeo@example.org/orchard", 301.0)


def test_who_came_back_wrong_stays_until_the_nodes_change() -> None:
    guard = LoopGuard(60.0)
    assert guard.lets(JID, NODES, 0.0)
    guard.about_to_be_asked(JID, 0.0)
    assert guard.returned(JID, 1.0)
    assert guard.lets(OTHER, NODES, 2.0)
    guard.landed_wrong(JID, NODES)
    assert not guard.lets(JID, NODES, 10_000.0)
    assert not guard.lets(OTHER, MORE, 59.0)
    assert guard.lets(OTHER, MORE, 60.0)
    assert guard.lets("romeo@example.org/orchard", NODES, 2.0)


def test_who_came_back_right_is_forgiven() -> None:
    guard = LoopGuard(60.0)
    guard.about_to_be_asked(JID, 0.0)
    guard.returned(JID, 1.0)
    guard.landed_wrong(JID, NODES)
    guard.about_to_be_asked(JID, 100.0)
    assert guard.returned(JID, 101.0)
    assert guard.lets(JID, NODES, 200.0)


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_guard, "REMEMBERED", 2)
    guard = LoopGuard(60.0)
    for number in range(3):
        guard.about_to_be_asked(f"user{number}@h/r", 0.0)
        guard.landed_wrong(f"user{number}@h/r", NODES)
    assert [guard.lets(f"user{number}@h/r", NODES, 1.0) for number in range(3)] == [True, False, False]
    assert [guard.returned(f"user{number}@h/r", 1.0) for number in range(3)] == [False, True, True]
