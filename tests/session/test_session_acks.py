"""XEP-0198 through transfers: scripts by hand, then random histories of an honest client and an honest node.

In a history (see :mod:`honest_counters`) they talk through one session after the other, each driven as the relay drives
it: transfers are ordered, forged ones come along, connections break, and the client resumes.
"""

from __future__ import annotations

from typing import Final

import pytest
from forged import FORGERIES
from histories import histories
from honest_counters import SM
from session_histories import FOR_GOOD, History
from session_script import (
    AUTH,
    BIND_FEATURES,
    CLIENT_HEADER,
    ENABLE,
    ENABLED,
    END,
    FEATURES,
    HELLO,
    HELLO_WAITED,
    JID,
    NEWS,
    NODE_HEADER,
    PING,
    SEE_OTHER_HOST,
    SUCCESS,
    SUPPORT,
    Script,
    answer,
    iq,
    last_question,
)

from cxfr_proxy.session.commands import (
    Ended,
    Forged,
    NodeLost,
    Outcome,
    Reason,
    Resumable,
    Shifted,
    Side,
    Transferred,
)
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.session import State
from cxfr_proxy.xmpp.stream_management import Resumption

R: Final = f"<r xmlns='{SM}'/>"
FORGED: Final = "<iq type='set' id='f' from='m@x'><query xmlns='urn:xmpp:cxfr'/></iq>"


def a(h: int) -> str:
    return f"<a xmlns='{SM}' h='{h}'/>"


def edited(h: int) -> str:
    """As the proxy writes it: with every declaration that it needs, and that the stream has."""
    return f'<a xmlns="{SM}" xmlns:stream="http://etherx.jabber.org/streams" h="{h}"/>'


def knowing(*, wrap: bool = False) -> Script:
    """A client that can resume and is known to support the request; its first stanza has said so."""
    s = Script(wrap=wrap).bind(stream_management=True).client(SUPPORT, R).node(a(1))
    return s.expect(s.session.stream_management, "stream management").forget()


# --- asked


def test_a_client_that_is_known_to_know_is_asked_and_counts_are_translated() -> None:
    s = knowing().node(NEWS).client_gets(NEWS).order().client_gets(iq())
    s.client(a(1)).node_gets(a(1)).client(a(2)).node_gets(edited(1)).node(NEWS).client_gets(NEWS)
    s.client(HELLO, answer(), HELLO, a(3)).node_gets(HELLO, HELLO, edited(2))
    s.node(a(1), a(2), a(3)).client_gets(a(1), edited(3), edited(4))


def test_one_who_is_not_known_to_know_is_cut() -> None:
    s = Script().bind(stream_management=True).order().nobody_gets_anything().output_ended(Side.CLIENT, Side.NODE)
    s.expect(s.reported(Transferred).tried == ((Rung.CUT, Outcome.MOVED),), "the cut")


@pytest.mark.parametrize("refusal", [True, False])
def test_one_who_does_not_go_is_cut_behind_its_last_acknowledgement(refusal: bool) -> None:
    s = knowing().order().forget()
    s = s.client(answer("error")) if refusal else s.tick()
    s.node_gets(R, END).client(HELLO).nobody_gets_anything()
    s.node(NEWS, a(1), END).client_gets(edited(2) if refusal else a(1)).output_ended(Side.CLIENT, Side.NODE)
    s.client_ends().is_over()
    outcome = Outcome.REFUSED if refusal else Outcome.SILENT
    s.expect(s.reported(Transferred).tried == ((Rung.CXFR, outcome), (Rung.CUT, Outcome.MOVED)), "both rungs")
    s.expect(s.reported(Ended).late == 0, "nothing late: the client knows what was not acknowledged")


def test_the_stream_ends_on_the_node_when_a_client_leaves_that_was_asked() -> None:
    knowing().order().forget().client_ends().node_gets(END)


def test_it_ends_there_too_when_the_proxy_gives_it_up() -> None:
    knowing().order().forget().stop().node_gets(END).is_over(at_once=True)


def test_it_stays_when_the_client_has_an_id_of_the_proxys_own() -> None:
    s = Script(wrap=True).bind(stream_management=True)
    resumable = s.reported(Resumable)
    s.expect(resumable.node_id == "sm1", "the node's id").expect(resumable.stream_management_id == "t1", "our own")
    s.expect(b'id="t1"' in s.sent[Side.CLIENT], "that the client has it").expect(b"sm1" not in s.sent[Side.CLIENT], "")
    s.client(SUPPORT).order().forget().client_ends().node_gets().output_ended(Side.CLIENT, Side.NODE)


def test_a_stream_without_a_shift_stays_and_is_given_up_as_it_is() -> None:
    Script().bind(stream_management=True).client_ends().node_gets()
    Script().bind(stream_management=True).stop().node_gets()


# --- cut


def test_where_nobody_could_resume_it_the_nodes_stream_is_ended_first() -> None:
    s = Script().bind(stream_management=True).order(FOR_GOOD).node_gets(R, END).client_gets()
    s.client(HELLO).nobody_gets_anything().node(NEWS, a(0), END).client_gets(a(0))
    s.output_ended(Side.CLIENT, Side.NODE).client_ends().is_over()


def test_the_last_ping_counts_where_the_node_counts_already() -> None:
    """From ``<enable/>`` on, though it has not yet said so: its count is the ping's, not that of a stanza behind it."""
    s = Script(asks=True).bind().client(ENABLE).order().client_gets(iq()).client(answer("error")).forget()
    question = last_question(s.session)
    assert question is not None
    assert question.ping is not None
    s.node(ENABLED).client(HELLO).node(f"<iq type='result' id='{question.ping}'/>").node_gets(R, END).forget()
    s.node(a(1), END)
    s.expect(a(1).encode() in s.sent[Side.CLIENT], "that its answer was taken, and nothing behind it")


def test_the_last_ping_stands_in_front_of_what_came_behind_the_answer_in_one_chunk() -> None:
    s = Script(asks=True).bind().client(ENABLE).order().client_gets(iq()).client(answer("error"), HELLO).forget()
    question = last_question(s.session)
    assert question is not None
    s.node(ENABLED, f"<iq type='result' id='{question.ping}'/>").node_gets(R, END).node(a(1), END)
    s.expect(a(1).encode() in s.sent[Side.CLIENT], "that nobody has taken what came behind the answer")


@pytest.mark.parametrize("refuses", [True, False])
def test_what_came_behind_the_last_ping_is_answered_where_the_node_does_not_count(refuses: bool) -> None:
    s = Script(asks=True).bind().client(ENABLE).order().client_gets(iq()).client(answer("error"), HELLO).forget()
    refusal = f"<failed xmlns='{SM}'/>" if refuses else ""
    s.node(refusal, END).client_gets(refusal, HELLO_WAITED, SEE_OTHER_HOST, END)


def test_a_node_that_does_not_end_is_not_waited_for_long() -> None:
    s = Script().bind(stream_management=True).order(FOR_GOOD).forget().tick().nobody_gets_anything()
    s.output_ended(Side.CLIENT, Side.NODE)


# --- the node is gone


def test_what_a_dead_node_had_acknowledged_is_what_it_is() -> None:
    s = Script().bind(stream_management=True).client(HELLO, HELLO, R).node(NEWS, a(1)).client(HELLO).forget()
    s.node_ends().reports(NodeLost(Reason.NODE_LOST)).client(R).client_gets(a(1))
    s.client(PING, R, a(1)).client_gets(a(1)).node_gets()
    s.order(Order(Trigger.NODE_LOST)).client_gets().output_ended(Side.CLIENT, Side.NODE)


def test_a_client_may_ask_with_a_prefix_how_far_a_dead_node_was() -> None:
    s = Script().bind(stream_management=True).client(HELLO, R).node(a(1)).node_ends().forget()
    s.client("<r xmlns='urn:other'/>").client_gets().client(f"<x:r xmlns:x='{SM}'/>").client_gets(a(1))


def test_a_node_that_is_dead_may_have_acknowledged_with_a_prefix() -> None:
    s = Script().bind(stream_management=True).client(HELLO, HELLO).node(a(1), f"<x:a xmlns:x='{SM}' h='2'/>")
    s.node_ends().forget().client(R).client_gets(a(2))


def test_a_dead_node_that_had_acknowledged_nothing() -> None:
    Script().bind(stream_management=True).client(HELLO).node_ends().forget().client(R).client_gets(a(0))


def test_a_dead_node_of_a_resumed_stream_had_got_as_far_as_it_said() -> None:
    s = resumed(Script(), h=7).node_ends().forget().client(R).client_gets(a(7))
    s.expect(s.session.full_jid is None, "that nobody knows whose it is")


def test_when_nobody_knows_how_far_it_got_nobody_says() -> None:
    s = Script().bind(stream_management=True).client(HELLO).node(a(1)[:9]).node(a(1)[9:]).node_ends().forget()
    s.client(R).client_gets()


def test_without_counting_stanzas_are_answered_as_ever() -> None:
    s = Script().bind().client(ENABLE).node_ends().forget().client(PING, R)
    s.expect(b"recipient-unavailable" in s.sent[Side.CLIENT], "an answer")


# --- forged ones


def ping(to: str | None = JID) -> str:
    """Return the ping that a client gets in the place of a forged one; its id is this script's first."""
    return (
        "<iq xmlns='jabber:client' type='get' id=\"urn:xmpp:cxfr:t1\" from=\"example.org\""
        + (f' to="{to}"' if to else "")
        + "><ping xmlns='urn:xmpp:ping'/></iq>"
    )


def forged_at(s: Script, forged: str = FORGED) -> Script:
    """A forged one comes among others: the ping is in its place, and its sender is answered at once."""
    s.node(NEWS, forged.format(to=JID, host="evil.example", id="f"), NEWS).client_gets(NEWS, ping(), NEWS)
    reply = s.sent[Side.NODE].rpartition(b"<iq")[2]
    return s.expect(b"not-allowed" in reply, "the refusal").reports(Forged(), shifted(s)).forget()


def shifted(s: Script) -> Shifted:
    counters = s.session._parts.accounting.management.counters
    assert counters is not None
    return Shifted(counters)


@pytest.mark.parametrize("pong", [answer(), answer("error"), answer().replace(" to='example.org'", "")])
@pytest.mark.parametrize("forged", [FORGED, *FORGERIES.values()], ids=["with a sender", *FORGERIES])
def test_a_forged_transfer_leaves_no_trace_in_the_counts(forged: str, pong: str) -> None:
    s = forged_at(Script().bind(stream_management=True), forged)
    s.client(HELLO, a(1), pong, HELLO, a(3)).node_gets(HELLO, a(1), R, HELLO, a(3))
    s.node(a(1), a(2), a(3), NEWS).client_gets(edited(0), a(2), a(3), NEWS).is_in(State.BOUND)
    s.expect(s.session.can_be_resumed, "that its stream can be resumed, by whoever gets it")
    s.client_ends().node_gets()


def test_a_client_that_is_lost_before_it_has_answered_leaves_no_stream_to_be_resumed() -> None:
    forged_at(Script().bind(stream_management=True)).client_ends().node_gets(END)


def test_a_client_that_does_not_answer_has_its_counts_translated() -> None:
    s = forged_at(Script().bind(stream_management=True)).client(HELLO, a(3)).node_gets(HELLO, a(3))
    s.node(a(1), a(2)).client_gets(edited(0), edited(1)).client_ends().node_gets(END)


def test_as_many_answers_are_taken_as_there_were_replies() -> None:
    s = Script().bind(stream_management=True).node(FORGED, FORGED).client_gets(ping(), ping()).forget()
    s.client(answer(), answer("error"), answer()).node_gets(R, R, answer()).node(a(3)).client_gets(a(3))
    s.expect(s.session.can_be_resumed, "equal counts")


def test_one_that_cannot_be_answered_is_replaced_too_and_the_answer_is_the_nodes() -> None:
    for forged in ("<iq type='set' id='f'><x:query y='urn:xmpp:cxfr'/></iq>", FORGED.replace("'set'", "'other'")):
        s = Script().bind(stream_management=True).node(forged, NEWS).client_gets(ping(), NEWS)
        s.client(answer(), a(2)).node_gets(answer(), a(2)).node(a(1)).client_gets(a(1))
        s.expect(s.session.can_be_resumed, "equal counts")


def test_a_forged_transfer_while_the_stream_is_being_ended_is_only_kept_back() -> None:
    s = Script().bind(stream_management=True).order(FOR_GOOD).forget()
    s.node(FORGED).nobody_gets_anything()


def test_a_forged_transfer_and_a_real_one() -> None:
    s = knowing().node(FORGED).order().forget()
    s.client(answer(number=2), answer(number=1)).node_gets(R).is_in(State.TRANSFERRING)
    s.node(a(2)).client_gets(edited(3)).client(a(2)).node_gets(edited(1))


def test_a_forged_transfer_between_the_requests_to_count_and_their_answers() -> None:
    """The node, which counts the client's already, has one more of them; its own it does not count yet."""
    s = Script().bind().client(ENABLE).node(FORGED, ENABLED).client_gets(ping(), ENABLED).forget()
    s.client(HELLO).node_gets(HELLO).node(NEWS, a(1), a(2)).client_gets(NEWS, edited(0), edited(1))
    s.client(a(1), answer()).node_gets(a(1), R).node(a(3)).client_gets(a(3))


def test_a_forged_transfer_where_nobody_counts_is_only_kept_back() -> None:
    s = Script().bind().node(FORGED).client_gets()
    s.client(answer()).expect(s.sent[Side.NODE].endswith(answer().encode()), "an answer to nothing is the node's")


def test_a_forged_transfer_for_who_has_resumed_and_has_no_name() -> None:
    s = resumed(Script(), h=7).forget().node(FORGED).client_gets(ping(None)).forget()
    s.client(answer()).node_gets(R).node(a(8)).client_gets(a(8))
    s.expect(s.session.can_be_resumed, "equal counts")


def test_an_answer_to_somebody_else_is_the_nodes_and_counted_by_both() -> None:
    s = knowing().order().forget().client(answer(number=9)).node_gets(answer(number=9))
    s.client(answer("result", to="somebody@example.org")).node_gets(answer("result", to="somebody@example.org"))
    s.node(a(3)).client_gets(a(3))


def test_a_stanza_that_cannot_be_read_is_counted_as_what_it_is() -> None:
    s = Script().bind(stream_management=True).node("<x:message/>", "<x:other/>", NEWS).client_gets(NEWS)
    s.client(a(0), a(1)).node_gets(edited(1), edited(2))


def test_others_are_not_looked_at_because_of_it() -> None:
    s = Script(cut_through=True).bind(stream_management=True).node(FORGED).forget()
    long = f"<message from='a@b'><body>{'x' * 20_000}</body></message>"
    s.node(long[:15_000]).node(long[15_000:]).client_gets(long).is_in(State.BOUND)


# --- resuming


def resumed(s: Script, *, h: int, previd: str = "sm1", client_h: int = 0) -> Script:
    s.node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER).node(NODE_HEADER, BIND_FEATURES)
    s.client(f"<resume xmlns='{SM}' previd='{previd}' h='{client_h}'/>")
    return s.node(f"<resumed xmlns='{SM}' previd='sm1' h='{h}'/>")


def test_a_stream_with_a_shift_is_resumed_with_it_where_it_is_known() -> None:
    old = knowing(wrap=True).node(NEWS).order().client(answer(number=2)).client_ends()
    resumable = old.reported(Resumable)
    known = {"t1": Resumption(JID, "node1", "sm1", resumable.counters)}
    s = resumed(Script(resumable=known, wrap=True), h=1, previd="t1", client_h=2)
    s.expect(b'h="1"' in s.sent[Side.NODE], "what the node counts").expect(
        b'h="2"' in s.sent[Side.CLIENT], "the client"
    )
    s.expect(b'previd="sm1"' in s.sent[Side.NODE], "its id").expect(b'previd="t1"' in s.sent[Side.CLIENT], "its id")
    s.expect(s.session.full_jid == JID, "whose it is").forget()
    s.client(a(3)).node_gets(edited(2)).node(a(2)).client_gets(edited(3))


# --- histories

HISTORIES: Final = 1_000


def test_a_thousand_histories_without_a_wrong_count() -> None:
    resumed = ended = asked = 0
    for history in histories(History, HISTORIES, range(40, 250)):
        resumed += history.resumed
        ended += history.ended
        asked += sum(i.startswith("urn:xmpp:cxfr") for i in history.client.received)
    assert min(resumed, ended, asked) > HISTORIES / 4, "they were too dull to prove anything"
