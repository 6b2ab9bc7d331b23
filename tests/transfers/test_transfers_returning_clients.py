"""Clients that are expected back, and the nodes to which they are led."""

from __future__ import annotations

import pytest

from cxfr_proxy.transfers import returning_clients as module
from cxfr_proxy.transfers.returning_clients import ReturningClients

ROMEO, JULIET, NURSE = "romeo@example.org", "juliet@example.org", "nurse@example.org"
HERE, THERE = "192.0.2.1", "198.51.100.7"


def of(*leavers: tuple[str | None, str]) -> ReturningClients:
    """Users who have left that address, each with a node, for ten seconds."""
    expected = ReturningClients()
    for user, node in leavers:
        expected.leaves(user, HERE, node, at=0.0, seconds=10.0)
    return expected


def guesses(expected: ReturningClients, address: str = HERE) -> list[str]:
    """Where clients without a name would be led, one after the other."""
    return list(iter(lambda: expected.node_for(None, address, 1.0) or "", ""))


def test_by_name() -> None:
    expected = of((ROMEO, "a"), (JULIET, "b"))
    assert [expected.node_for(user, THERE, 1.0) for user in (ROMEO, "JULIET@example.org", NURSE)] == ["a", "b", None]
    assert expected.node_for(ROMEO, HERE, 9.9) == "a"
    assert expected.node_for(ROMEO, HERE, 10.0) is None


def test_by_address_once_for_each_the_last_first() -> None:
    assert guesses(of((ROMEO, "a"), (JULIET, "b"), (None, "c"))) == ["c", "b", "a"]
    assert guesses(of((ROMEO, "a")), THERE) == []
    assert of((ROMEO, "a")).node_for(None, HERE, 10.0) is None


def test_by_address_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_ADDRESS", 2)
    assert guesses(of((ROMEO, "a"), (JULIET, "b"), (NURSE, "c"))) == ["c", "b"]


def test_who_is_back_elsewhere_is_not_guessed_any_more() -> None:
    expected = of((ROMEO, "a"), (JULIET, "b"), (NURSE, "c"))
    expected.is_back(JULIET, HERE, None)
    expected.is_back(ROMEO, THERE, None)
    assert guesses(expected) == ["c", "a"]
    assert expected.node_for(JULIET, HERE, 1.0) == "b", "another of her clients may be on its way"


def test_who_was_taken_for_another_gives_him_back() -> None:
    expected = of((ROMEO, "a"), (JULIET, "b"))
    assert expected.node_for(None, HERE, 1.0) == "b"
    expected.is_back(ROMEO, HERE, "b")
    assert guesses(expected) == ["b"]


def test_who_was_rightly_guessed_takes_nobody_else_s_place() -> None:
    expected = of((ROMEO, "a"), (JULIET, "a"))
    assert expected.node_for(None, HERE, 1.0) == "a"
    expected.is_back(ROMEO, HERE, "a")
    assert guesses(expected) == ["a"]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("targets", ["bbbbbbbbbb", "ababababab"])
def test_as_many_as_have_left_are_led(targets: str, order: int) -> None:
    """One after the other; with one target each is led right, with two at least to one of them."""
    leavers = [(f"user{number}@h", node) for number, node in enumerate(targets)]
    expected = of(*leavers)
    for user, _ in leavers[::order]:
        node = expected.node_for(None, HERE, 1.0)
        assert node is not None
        expected.is_back(user, HERE, node)
    assert guesses(expected) == []


def test_a_stranger_who_was_taken_for_somebody() -> None:
    """A user who was not expected has no place to give back; the expected one has lost theirs."""
    expected = of((ROMEO, "a"))
    assert expected.node_for(None, HERE, 1.0) == "a"
    expected.is_back(NURSE, HERE, "a")
    assert guesses(expected) == []


def test_who_stays_is_not_expected() -> None:
    expected = of((ROMEO, "a"), (JULIET, "b"))
    expected.stays(JULIET, HERE, "b")
    assert guesses(expected) == ["a"]
    assert expected.node_for(JULIET, HERE, 1.0) is None
    expected.stays(None, HERE, "a")
    expected.stays(ROMEO, THERE, "a")
    assert expected.node_for(ROMEO, HERE, 1.0) == "a"


def test_who_was_lost_instead_is_led_to_his_session() -> None:
    expected = of((ROMEO, "b"), (ROMEO, "a"))  # to be sent to b, and then lost on a
    expected.stays(ROMEO, HERE, "b")
    assert expected.node_for(ROMEO, HERE, 1.0) == "a"
    assert guesses(expected) == ["a"]


def test_of_two_clients_the_one_that_is_back_was_sent_there() -> None:
    expected = of((ROMEO, "b"), (ROMEO, "a"))
    expected.is_back(ROMEO, HERE, "b")
    assert guesses(expected) == ["a"]


def test_what_is_told_late_does_not_undo_what_came_since() -> None:
    expected = of((ROMEO, "a"))
    expected.leaves(ROMEO, HERE, "b", at=-1.0, seconds=100.0)
    assert expected.node_for(ROMEO, HERE, 1.0) == "a"


def test_one_of_whom_nobody_knows_the_name() -> None:
    expected = of((None, "a"), (ROMEO, "b"))
    expected.stays(None, HERE, "a")
    assert guesses(expected) == ["b"]
