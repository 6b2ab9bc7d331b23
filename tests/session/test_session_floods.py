"""Sides that send much that wants a look: how much of it is looked at in one call, and that the rest is not lost."""

from __future__ import annotations

import pytest
from session_script import CLIENT_HEADER, FEATURES, NODE_HEADER, Script

from cxfr_proxy.session.commands import Send, SessionCommand, Side
from cxfr_proxy.session.tables import Intake, State
from cxfr_proxy.xmpp.framing.framer import MAX_EVENTS_PER_SCAN

FLOOD = b"".join(b"<x n='%d'/>" % n for n in range(5 * MAX_EVENTS_PER_SCAN))


def bound() -> Script:
    it = Script()
    it.bind()
    return it.forget()


def sent(commands: list[SessionCommand], side: Side) -> bytes:
    return b"".join(each.data for each in commands if isinstance(each, Send) and each.side is side)


def bring(it: Script, side: Side, data: bytes) -> list[SessionCommand]:
    """One chunk, once, as the relay brings it."""
    session = it.session
    lane = session.fast[side]
    if lane is None:
        return session.receive(side, data, it.now)
    ready = lane.scan(data)
    assert lane.has_events
    return session.receive_scanned(side, ready, it.now)


def all_of(it: Script, side: Side, data: bytes) -> tuple[bytes, int]:
    """Return what of it arrives at the other side, and in how many calls. None of them may look at more than it
    should."""
    session, arrived, calls = it.session, sent(bring(it, side, data), side.other), 1
    while session.intake(side) is Intake.BEHIND:
        assert arrived.count(b"/>") <= calls * MAX_EVENTS_PER_SCAN
        arrived, calls = arrived + sent(session.read_on(side, it.now), side.other), calls + 1
    return arrived, calls


@pytest.mark.parametrize("side", list(Side))
def test_once_bound(side: Side) -> None:
    assert all_of(bound(), side, FLOOD) == (FLOOD, 5)


@pytest.mark.parametrize("side", list(Side))
def test_while_it_is_moved(side: Side) -> None:
    it = bound().order()
    assert it.session.state is State.TRANSFERRING
    assert all_of(it, side, FLOOD) == (FLOOD, 5)


def test_an_order_in_the_middle_of_it() -> None:
    """Bytes that were looked at and bytes that were not are kept apart: the rest is read as the new state has it."""
    it = bound()
    first = sent(bring(it, Side.CLIENT, FLOOD), Side.NODE)
    it.order()
    rest = b""
    while it.session.intake(Side.CLIENT) is Intake.BEHIND:
        rest += sent(it.session.read_on(Side.CLIENT, it.now), Side.NODE)
    assert first + rest == FLOOD


def test_a_node_while_nobody_is_bound() -> None:
    it = Script()
    it.node(NODE_HEADER, FEATURES).forget()
    assert all_of(it, Side.NODE, FLOOD) == (FLOOD, 5)


def test_a_client_while_nobody_is_bound() -> None:
    it = Script()
    it.node(NODE_HEADER, FEATURES).forget()
    assert all_of(it, Side.CLIENT, FLOOD) == (FLOOD, 5)


def test_a_client_that_waits_is_not_behind() -> None:
    """Bytes behind a login are read when the node has answered, and no sooner."""
    it = Script()
    it.node(NODE_HEADER, FEATURES).forget()
    login = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>"
    assert sent(bring(it, Side.CLIENT, login + CLIENT_HEADER.encode()), Side.NODE) == login
    assert it.session.intake(Side.CLIENT) is not Intake.BEHIND


def test_who_is_over_is_not_behind() -> None:
    it = bound()
    bring(it, Side.CLIENT, b"<x/>" * MAX_EVENTS_PER_SCAN + b"</stream:stream>" + FLOOD)
    assert it.session.intake(Side.CLIENT) is Intake.BEHIND
    it.session.read_on(Side.CLIENT, it.now)
    assert it.session.intake(Side.CLIENT) is not Intake.BEHIND
