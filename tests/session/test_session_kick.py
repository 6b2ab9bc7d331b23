"""A session that an operator ends: in good order, wherever it is."""

from __future__ import annotations

import pytest
from session_script import END, HELLO, NEWS, PING, Script, stream_error

from cxfr_proxy.session.commands import Ended, Outcome, Reason, Side, Transferred
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.session.session import State

KICKED = stream_error("policy-violation", text="ended by an operator")


def is_kicked(s: Script) -> None:
    s.is_over()
    ended = s.reported(Ended)
    s.expect((ended.reason, ended.condition) == (Reason.KICKED, "policy-violation"), "that it was kicked")


@pytest.mark.parametrize("stream_management", [False, True])
def test_nothing_of_the_nodes_is_lost(stream_management: bool) -> None:
    """With XEP-0198 the client says what it has, and the node is told; without, the node sends all it has."""
    s = Script().bind(stream_management=stream_management).client(HELLO).node_gets(HELLO).forget().kick()
    s.expect(s.session.state is State.CLOSING, "an end in good order")
    s.expect(END.encode() in s.sent[Side.NODE], "the end of the node's stream")
    if not stream_management:
        s.node(NEWS).client_gets(NEWS)
    s.node(END).expect(s.sent[Side.CLIENT].endswith((KICKED + END).encode()), "the farewell")
    s.client(END).node_ends().client_ends()
    is_kicked(s)


def test_a_client_that_sends_on_is_answered() -> None:
    s = Script(asks=True).bind().kick().client(PING)
    s.expect(b"recipient-unavailable" in s.sent[Side.CLIENT], "that the client may send it again")


def test_a_kick_while_it_is_asked_ends_the_transfer() -> None:
    s = Script().bind().order().forget().kick().node(END).client(END).node_ends().client_ends()
    s.expect(s.reported(Transferred).tried == ((Rung.CXFR, Outcome.CUT_OFF),), "that it did not move")
    is_kicked(s)


def test_a_kick_in_the_opening() -> None:
    s = Script().kick()
    s.expect(s.sent[Side.CLIENT].endswith((KICKED + END).encode()), "the farewell, behind a header")
    s.client(END).client_ends().node_ends()
    is_kicked(s)


def test_a_kick_while_it_is_taken_to_another_node() -> None:
    s = Script(wrap=True).bind(stream_management=True).migrate().forget().kick()
    s.expect(s.sent[Side.CLIENT].endswith((KICKED + END).encode()), "the farewell")
    s.client(END).client_ends().node_ends()
    is_kicked(s)


def test_another_kick_changes_nothing() -> None:
    s = Script(asks=True).bind().kick().forget().kick().nobody_gets_anything()
    s.stop().forget().kick().nobody_gets_anything()


def test_a_stream_that_ends_already_is_left_to_end() -> None:
    s = Script().bind().client(END).forget().kick().nobody_gets_anything().node(END).node_ends().client_ends()
    s.is_over().expect(s.reported(Ended).reason is Reason.CLIENT_CLOSED, "its own reason")
