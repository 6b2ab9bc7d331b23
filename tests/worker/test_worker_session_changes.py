"""A worker's reports of the sessions that it has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from cxfr_proxy.transfers.relayed import Relayed
from cxfr_proxy.worker.session_changes import SessionChanges


def session(number: int) -> Relayed:
    known = SimpleNamespace(full_jid=None, node="node1")
    found = SimpleNamespace(id=number, session=known, client_address="192.0.2.1", client_port=1, opened=0.5)
    return cast("Relayed", found)


def test_it_is_called_in_pieces() -> None:
    roll = SessionChanges()
    sessions = [session(number) for number in range(250)]
    for each in sessions:
        roll.note(each)
    roll.note_end(sessions[0])
    called = list(roll.call(1.0))
    assert [(len(each.present), each.over) for each in called] == [(100, (0,)), (100, ()), (49, ())]
    assert not any(each.resumed for piece in called for each in piece.present)
    assert {each.seconds for piece in called for each in piece.present} == {0.5}
    assert not list(roll.call(2.0)), "each thing once"
    for each in sessions:
        roll.note_end(each)
    assert [len(each.over) for each in roll.call(3.0)] == [100, 100, 50]
    assert not list(SessionChanges().call(1.0))


def test_whether_a_session_was_there_before() -> None:
    """Once: it is news only when it is bound."""
    roll = SessionChanges()
    first, second = session(1), session(2)
    roll.note(first)
    roll.note(second, resumed=True)
    roll.note(second)
    (both,) = roll.call(1.0)
    roll.note(second)
    (again,) = roll.call(2.0)
    assert [(each.session, each.resumed) for each in both.present] == [(1, False), (2, True)]
    assert [(each.session, each.resumed) for each in again.present] == [(2, False)]
