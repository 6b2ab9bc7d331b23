"""Telling a client to move: the ladder as it is climbed, the answers, and the order of closing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from session_script import (
    AUTH,
    BIND_FEATURES,
    CLIENT_HEADER,
    DOMAIN,
    ELSEWHERE,
    END,
    FEATURES,
    HELLO,
    HELLO_WAITED,
    HURRIED,
    JID,
    NEWS,
    NODE_HEADER,
    PING,
    PING_WAITED,
    RESET,
    SEE_OTHER_HOST,
    SUCCESS,
    Script,
    answer,
    iq,
    refusal,
    stream_error,
)

from cxfr_proxy.session.commands import (
    Answered,
    Asked,
    Close,
    Ended,
    EndOutput,
    NodeLost,
    Outcome,
    Reason,
    Redirect,
    Redirected,
    Send,
    Side,
    Transferred,
)
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.session import State

LONG = f"<message from='romeo@example.org'><body>{'x' * 20_000}</body></message>"
SUPPORT = (
    "<iq type='result' id='d'><query xmlns='http://jabber.org/protocol/disco#info'>"
    "<feature var='urn:xmpp:cxfr'/></query></iq>"
)


def rungs(s: Script) -> list[tuple[Rung, Outcome]]:
    return list(s.reported(Transferred).tried)


# --- the request and its answers


def test_the_client_accepts_and_leaves() -> None:
    s = Script().bind().order().client_gets(iq()).node_gets().is_in(State.TRANSFERRING)
    s.reports(Asked(Rung.CXFR, ELSEWHERE, first=True)).expect(s.session.rung is Rung.CXFR, "the rung")
    s.wait(2).client(HELLO, answer(), HELLO).node_gets(HELLO, HELLO).node(NEWS).client_gets(NEWS)
    s.client(END).node_gets(END).node(NEWS, END).client_gets(NEWS, END).is_over()
    s.reports(
        Redirected(),
        Transferred(ELSEWHERE, ((Rung.CXFR, Outcome.MOVED),), 2.0, "node1"),
        Ended(Reason.TRANSFERRED, None, 0, 0),
    )


def test_the_client_says_nothing_and_leaves() -> None:
    s = Script().bind().order().forget().client_ends().node_gets(END).node(END).node_ends().is_over()
    assert rungs(s) == [(Rung.CXFR, Outcome.MOVED)]


def test_a_client_that_leaves_without_a_word_when_asked_was_transferred() -> None:
    s = Script().bind().order().client_ends().node(END).node_ends().is_over()
    s.expect(s.reported(Ended).reason is Reason.TRANSFERRED, "its reason")


def test_the_client_accepts_and_stays() -> None:
    s = Script().bind().order().forget().wait(9).client(answer()).wait(9).client_gets().node_gets()
    s.wait(1).node_gets(END).reports(
        Redirected(),
        Answered(Rung.CXFR, ELSEWHERE, Outcome.STAYED),
        Asked(Rung.SEE_OTHER_HOST, ELSEWHERE, first=False),
        Redirected(),
    )
    s.node(END).client_gets(SEE_OTHER_HOST, END).client_ends().is_over()
    assert rungs(s) == [(Rung.CXFR, Outcome.STAYED), (Rung.SEE_OTHER_HOST, Outcome.MOVED)]


ON_WEBSOCKET = replace(ELSEWHERE, url="wss://node2.example.org:5443/ws")


@pytest.mark.parametrize("no", [refusal(), None])
def test_on_websocket_the_end_of_the_stream_names_the_url(no: str | None) -> None:
    """In the place of a stream error: the request names host and port of the same URL."""
    s = Script().bind().order(ON_WEBSOCKET).client_gets(iq())
    s = s.client(no) if no is not None else s.tick()
    s.node_gets(END).node(NEWS, END).client_gets(NEWS, END).client(END).client_ends().is_over()
    said = [each for each in s.commands if isinstance(each, Redirect | EndOutput | Send)]
    at = said.index(Redirect("wss://node2.example.org:5443/ws"))
    assert said[at + 1 : at + 3] == [Send(Side.CLIENT, END.encode()), EndOutput(Side.CLIENT)]
    assert rungs(s)[-1] == (Rung.SEE_OTHER_HOST, Outcome.MOVED)
    s.expect(s.events.count(Redirected()) == 1, "one report that it is sent elsewhere")


def test_on_websocket_a_client_in_the_clear_is_sent_nowhere() -> None:
    """Anybody on the way could have written the URL."""
    s = Script(tls=False).bind().order(ON_WEBSOCKET).client_gets(iq(server=DOMAIN)).client(refusal())
    s.node_gets(END).node(END).client_gets(RESET, END).client(END).client_ends().is_over()
    s.expect(not any(isinstance(each, Redirect) for each in s.commands), "no URL")
    s.expect(Redirected() not in s.events, "no report")


def test_on_websocket_a_client_that_answers_yes_is_told_no_url() -> None:
    """Its stream ends by its own word, and it has read where to go."""
    s = Script().bind().order(ON_WEBSOCKET).client(answer()).client(END).node(END).client_ends().is_over()
    s.expect(not any(isinstance(each, Redirect) for each in s.commands), "no URL")


def test_answering_again_gives_no_more_time() -> None:
    Script().bind().order().client(answer()).forget().wait(9).client(answer()).wait(1).node_gets(END)


def test_the_client_says_nothing_and_stays() -> None:
    s = Script().bind().order().forget().wait(9.9).node_gets().tick().node_gets(END).node(END)
    s.client_gets(SEE_OTHER_HOST, END).client(END).client_ends().is_over()
    assert rungs(s) == [(Rung.CXFR, Outcome.SILENT), (Rung.SEE_OTHER_HOST, Outcome.MOVED)]


REFUSALS = [
    answer("error", payload="<error type='cancel'><service-unavailable xmlns='x'/></error>"),
    answer("error", to="Example.ORG"),
    answer("error").replace("<iq ", f"<iq from='{JID}' "),
    answer("error").replace("<iq ", "<iq from='Juliet@Example.org' "),
    answer("error").replace("urn:xmpp:cxfr", "urn:xmpp&#58;cxfr"),
    answer("error").replace(" to='example.org'", ""),
    answer("error", payload="<query xmlns='urn:xmpp:cxfr'><domain>a</domain></query><error type='wait'/>"),
    answer("error").replace("<iq ", '<iq  xmlns="jabber:client"\n').replace("'", '"'),
    answer("error").replace("></iq>", "/>"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_any_error_with_that_id_means_no(refusal: str) -> None:
    s = Script().bind().order().forget().client(refusal).node_gets(END).node(END).client_gets(SEE_OTHER_HOST, END)
    s.client_ends()
    assert rungs(s) == [(Rung.CXFR, Outcome.REFUSED), (Rung.SEE_OTHER_HOST, Outcome.MOVED)]


@pytest.mark.parametrize(
    "result", [answer(), answer(to="EXAMPLE.org"), answer(payload="<query xmlns='urn:xmpp:cxfr'><domain/></query>")]
)
def test_any_result_with_that_id_means_yes(result: str) -> None:
    s = Script().bind().order().forget().client(result).nobody_gets_anything().tick()
    s.expect(Answered(Rung.CXFR, ELSEWHERE, Outcome.STAYED) in s.events, "that it stayed")


def test_answers_that_answer_nothing() -> None:
    other = "<iq type='result' id='other' to='example.org'/>"
    asking = "<iq type='get' id='urn:xmpp:cxfr:t1' to='example.org'><query xmlns='urn:xmpp:cxfr'/></iq>"
    talk = "<message><body>urn:xmpp:cxfr:t1</body></message>"
    s = Script().bind().order().forget().client(other, asking, talk).node_gets(other, asking, talk)
    # With an id that was never asked, or for somebody else, or in another's name: it is no answer to this.
    strange = (
        answer("error", 7),
        answer("error", to="mallory@example.org/x"),
        answer("error", to="example.org/x"),
        answer("error", to=JID),
        answer("error").replace("<iq ", "<iq from='mallory@example.org/x' "),
        answer("error").replace("<iq ", f"<iq from='{JID}2' "),
        answer("error").replace("<iq ", "<message ").replace("</iq>", "</message>"),
    )
    for each in strange:
        s.client(each).node_gets(each).is_in(State.TRANSFERRING)
    s.expect(s.session.rung is Rung.CXFR, "still the same rung")


def test_an_answer_to_nothing_is_the_node_s() -> None:
    Script().bind().client(answer(), answer("error")).node_gets(answer(), answer("error"))


def test_an_answer_between_other_stanzas_at_every_cut() -> None:
    chunk = HELLO + answer("error") + PING
    for at in range(1, len(chunk)):
        s = Script().bind().order().forget().client(chunk[:at]).client(chunk[at:]).node_gets(HELLO, END)
        s.client_gets(PING_WAITED).node(END).client_gets(SEE_OTHER_HOST, END)


def test_a_late_answer_is_not_the_node_s_to_see() -> None:
    Script().bind().order().forget().tick().client(answer(), HELLO).node_gets(END).client_gets(HELLO_WAITED)


def test_a_client_half_through_a_stanza_when_the_order_comes() -> None:
    for at in range(1, len(HELLO)):
        Script().bind().client(PING, HELLO[:at]).order().forget().client(HELLO[at:], answer()).node_gets(HELLO)


def test_a_client_known_to_support_it_is_asked_and_another_is_not() -> None:
    Script(try_unknown=False).bind().client(SUPPORT).node_gets(SUPPORT).order().client_gets(iq())
    Script(try_unknown=False).bind().order().client_gets().node_gets(END)


def test_a_client_that_has_refused_is_not_asked_by_another_order() -> None:
    s = Script().bind().order().client(answer("error")).forget().order().order(HURRIED)
    s.nobody_gets_anything().reports()


# --- the place of the request


def test_the_request_stands_between_two_stanzas_whatever_traffic_there_is() -> None:
    traffic = NEWS * 3
    for at in range(1, len(traffic)):
        s = Script().bind().node(traffic[:at]).order().node(traffic[at:])
        whole = at // len(NEWS) * len(NEWS)
        s.client_gets(traffic[:whole], iq(), traffic[whole:])


def test_the_request_waits_for_the_end_of_what_is_cut_through() -> None:
    s = Script(cut_through=True).bind().node(LONG[:15_000]).client_gets(LONG[:15_000]).order().client_gets()
    s.node(LONG[15_000:18_000]).client_gets(LONG[15_000:18_000]).is_in(State.TRANSFERRING)
    s.node(LONG[18_000:], NEWS, NEWS[:9]).client_gets(LONG[18_000:], NEWS, iq())
    s.node(NEWS[9:]).client_gets(NEWS).client(answer()).node_gets()


def test_the_time_for_the_answer_is_over_before_the_request_could_be_sent() -> None:
    s = Script(cut_through=True).bind().node(LONG[:15_000]).order().forget().tick().node_gets(END)
    s.node(LONG[15_000:], END).client_gets(LONG[15_000:], SEE_OTHER_HOST, END)


def test_a_node_that_never_ends_what_is_cut_through() -> None:
    s = Script(cut_through=True).bind().node(LONG[:15_000]).order(HURRIED).forget().tick().client_gets()
    s.output_ended(Side.CLIENT, Side.NODE).tick().is_over(at_once=True)


def test_nothing_is_injected_before_bind() -> None:
    s = Script().node(NODE_HEADER, FEATURES).forget().order().order(HURRIED).nobody_gets_anything()
    s.client(AUTH).node(SUCCESS).client(CLIENT_HEADER).node(NODE_HEADER, BIND_FEATURES).forget().order()
    s.nobody_gets_anything().is_in(State.NEGOTIATING).reports()


def test_what_a_request_can_t_be_written_for_goes_down_the_ladder() -> None:
    header, jid = CLIENT_HEADER.replace("example.org", "a..b"), "x@a..b/c"
    s = Script(header=header).node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(header)
    s.node(NODE_HEADER, BIND_FEATURES).client("<iq type='set' id='b'/>")
    s.node(f"<iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>{jid}</jid></bind></iq>")
    s.forget().order().client_gets().node_gets(END)


def test_a_client_without_tls_is_told_its_domain_and_never_redirected() -> None:
    Script(tls=False).bind().order().client_gets(iq(server="example.org")).tick().node(END).client_gets(RESET, END)


def test_where_no_address_is_known_the_domain_is_told() -> None:
    order = Order(Trigger.NODE_LOST)
    Script().bind().order(order).client_gets(iq(server="example.org")).tick().node(END).client_gets(RESET, END)


@pytest.mark.parametrize("leave", ["result", "close", "lost"])
def test_who_goes_where_it_was_asked_to_go_is_reported_once_as_redirected(leave: str) -> None:
    s = Script().bind().order().forget()
    s.expect(Redirected() not in s.events, "nothing while it may still refuse")
    if leave == "result":
        s.client(answer()).reports(Redirected()).client(answer(), END)
    else:
        s.client(END) if leave == "close" else s.client_ends()
    s.node(END)
    s.expect(s.events.count(Redirected()) == 1, "one report")


def test_who_is_told_by_a_stream_error_is_redirected_whatever_it_does() -> None:
    s = Script().bind().order().client(answer("error")).node(END)
    s.expect(s.events.count(Redirected()) == 1, "one report")


@pytest.mark.parametrize(
    ("script", "order"),
    [(Script(tls=False), ELSEWHERE), (Script(), replace(ELSEWHERE, server=None)), (Script(tls=False), HURRIED)],
)
def test_who_is_told_its_domain_is_not_redirected(script: Script, order: Order) -> None:
    script.bind().order(order).client(answer(), END).node(END).client_ends().is_over()
    script.expect(Redirected() not in script.events, "no report")


# --- the order of closing


def test_the_node_is_closed_first_and_what_it_still_sends_goes_down() -> None:
    s = Script().bind().order(HURRIED).node_gets(END).client_gets().is_in(State.TRANSFERRING)
    s.node(NEWS, NEWS[:9]).client_gets(NEWS).client(HELLO, "<presence/>", PING).client_gets(HELLO_WAITED, PING_WAITED)
    s.node(NEWS[9:]).client_gets(NEWS)
    s.node(NEWS, END).client_gets(NEWS, SEE_OTHER_HOST, END).output_ended(Side.NODE, Side.CLIENT)
    s.is_in(State.CLOSING).client(HELLO).client_gets().node_gets().client(END).client_ends().is_over()
    assert s.reported(Ended) == Ended(Reason.TRANSFERRED, None, 1, 0)
    assert rungs(s) == [(Rung.SEE_OTHER_HOST, Outcome.MOVED)]


def test_the_stream_s_end_at_every_cut() -> None:
    chunk = NEWS + END
    for at in range(1, len(chunk)):
        s = Script().bind().order(HURRIED).forget().node(chunk[:at]).node(chunk[at:])
        s.client_gets(NEWS, SEE_OTHER_HOST, END)


@pytest.mark.parametrize("left", ["", NEWS[:9]])
def test_a_node_that_closes_its_connection_without_its_stream(left: str) -> None:
    Script().bind().order(HURRIED).forget().node(NEWS, left).node_ends().client_gets(NEWS, SEE_OTHER_HOST, END)


def test_a_node_that_never_closes() -> None:
    s = Script().bind().order(HURRIED).node_gets(END).node(NEWS, NEWS[:9]).client_gets(NEWS).wait(4.9).client_gets()
    s.tick().client_gets(SEE_OTHER_HOST, END).client_ends().is_in(State.CLOSING)
    s.node(NEWS[9:]).tick().is_over(at_once=True)
    s.expect(s.reported(Ended).undelivered > 0, "that what came too late is counted")


@pytest.mark.parametrize("condition", ["system-shutdown", "reset", "see-other-host", "conflict"])
def test_a_node_that_answers_the_closing_with_an_error(condition: str) -> None:
    s = Script().bind().order(HURRIED).forget().node(NEWS, stream_error(condition), END)
    s.client_gets(NEWS, SEE_OTHER_HOST, END).client_ends().is_over()


def test_a_node_that_breaks_its_stream_while_it_closes() -> None:
    Script().bind().order(HURRIED).forget().node(NEWS, "<a></b>").client_gets(NEWS, SEE_OTHER_HOST, END)


def test_a_client_that_never_leaves() -> None:
    s = Script().bind().order(HURRIED).node(END).node_ends().forget().wait(4.9).is_not_over().tick()
    s.is_over(at_once=True)
    assert rungs(s) == [(Rung.SEE_OTHER_HOST, Outcome.MOVED)]


def test_a_client_that_leaves_while_the_node_is_being_closed() -> None:
    s = Script().bind().order(HURRIED).forget().client(END).client_gets().node(NEWS, END).is_over()
    s.expect(s.sent[Side.CLIENT].endswith(END.encode()), "the end")
    s = Script().bind().order(HURRIED).forget().client_ends().client_gets().node_gets().node(END).is_over()
    assert rungs(s) == [(Rung.SEE_OTHER_HOST, Outcome.MOVED)]


def test_a_client_that_breaks_its_stream_while_asked() -> None:
    s = Script().bind().order().forget().client("<a></b>").node_gets(END).output_ended(Side.CLIENT, Side.NODE)
    s.client_ends().node_ends().is_over()


# --- stream management


@pytest.mark.parametrize("order", [ELSEWHERE, HURRIED, Order(Trigger.NODE_LOST)])
def test_with_stream_management_both_legs_are_cut(order: Order) -> None:
    s = Script().bind(stream_management=True).order(order).nobody_gets_anything().is_in(State.CLOSING)
    s.output_ended(Side.CLIENT, Side.NODE)
    s.client(HELLO).node(NEWS).nobody_gets_anything().client_ends().node_ends().is_over()
    s.expect(s.reported(Ended).late == 0, "nothing late: the client knows what was not acknowledged")
    assert rungs(s) == [(Rung.CUT, Outcome.MOVED)]


def test_a_cut_waits_for_nobody_for_long() -> None:
    Script().bind(stream_management=True).order().tick().is_over(at_once=True)


def test_stream_management_that_comes_on_while_asked() -> None:
    s = Script().bind().order().node("<enabled xmlns='urn:xmpp:sm:3' id='sm1' resume='true'/>").forget().tick()
    s.nobody_gets_anything().output_ended(Side.CLIENT, Side.NODE)
    s.client_ends()
    assert rungs(s) == [(Rung.CXFR, Outcome.SILENT), (Rung.CUT, Outcome.MOVED)]


def test_stream_management_without_resumption_is_asked_and_not_cut() -> None:
    enabled = "<enabled xmlns='urn:xmpp:sm:3'/>"
    s = Script().bind().client("<enable xmlns='urn:xmpp:sm:3'/>").node(enabled).forget().order().client_gets(iq())
    s.client(answer("error")).node_gets("<r xmlns='urn:xmpp:sm:3'/>", END)
    s.node(NEWS, END).client_gets(SEE_OTHER_HOST, END)


# --- hurry


def test_an_order_that_hurries_asks_no_more() -> None:
    s = Script().bind().order().client_gets(iq()).order(HURRIED).node_gets(END).node(END)
    s.client_gets(SEE_OTHER_HOST, END).client_ends()
    assert rungs(s) == [(Rung.CXFR, Outcome.SILENT), (Rung.SEE_OTHER_HOST, Outcome.MOVED)]


def test_an_order_that_does_not_hurry_changes_nothing() -> None:
    s = Script().bind().order().forget().order().nobody_gets_anything().reports()
    due = s.session.deadline
    s.wait(1).order()
    assert s.session.deadline == due


@pytest.mark.parametrize("end", ["client", "node", "order"])
def test_an_order_for_a_session_that_is_ending(end: str) -> None:
    s = Script().bind()
    s = s.client(END) if end == "client" else s.node(END) if end == "node" else s.order(HURRIED)
    s.forget().order().order(HURRIED).nobody_gets_anything().reports()


# --- the node goes while the client is asked


@pytest.mark.parametrize("condition", ["system-shutdown", "reset", "see-other-host"])
def test_a_node_that_goes_away_while_the_client_is_asked(condition: str) -> None:
    s = Script().bind().order().forget().node(NEWS, stream_error(condition), END).client_gets(NEWS).node_gets(END)
    s.is_in(State.TRANSFERRING).reports().client(HELLO).client_gets(HELLO_WAITED)
    s.tick().client_gets(SEE_OTHER_HOST, END).client_ends().is_over()


@pytest.mark.parametrize("left", ["", NEWS[:9]])
def test_a_node_that_dies_while_the_client_is_asked(left: str) -> None:
    s = Script().bind().order().forget().node(NEWS, left).node_ends().client_gets(NEWS).node_gets().reports()
    s.client(HELLO, answer("error")).client_gets(HELLO_WAITED, SEE_OTHER_HOST, END).client_ends().is_over()


def test_a_node_that_closes_while_the_client_is_asked() -> None:
    s = Script().bind().order().forget().node(NEWS, END).client_gets(NEWS).node_gets(END)
    s.client(answer()).wait(9.9).client_gets().tick().client_gets(SEE_OTHER_HOST, END)


def test_a_node_that_has_gone_before_the_order() -> None:
    s = Script().bind().node(NEWS, NEWS[:9]).node_ends().forget().order(Order(Trigger.NODE_LOST, server=None))
    s.client_gets(iq(server="example.org")).client(HELLO).client_gets(HELLO_WAITED)
    s.client(answer()).client(END).client_gets(END).client_ends().is_over()
    assert rungs(s) == [(Rung.CXFR, Outcome.MOVED)]


def test_the_error_of_a_node_that_goes_is_held_back_and_replaced() -> None:
    s = Script().bind().node(stream_error("system-shutdown", "", "bye"), END).client_gets()
    s.reports(NodeLost(Reason.NODE_SHUTDOWN)).node_gets(END)
    s.order(HURRIED).client_gets(SEE_OTHER_HOST, END).client(END).client_ends().is_over()
    s.expect(s.reported(Ended).reason is Reason.TRANSFERRED, "its reason")


# --- the client goes in each state


@pytest.mark.parametrize("leave", ["end", "eof", "end and eof"])
@pytest.mark.parametrize("scene", ["negotiating", "bound", "node lost", "asked", "node closing", "closing", "cut"])
def test_the_client_leaves_in_each_state(scene: str, leave: str) -> None:
    s = Script()
    match scene:
        case "negotiating":
            s.node(NODE_HEADER, FEATURES)
        case "bound":
            s.bind()
        case "node lost":
            s.bind().node_ends()
        case "asked":
            s.bind().order()
        case "node closing":
            s.bind().order(HURRIED)
        case "closing":
            s.bind().order(HURRIED).node(END)
        case "cut":
            s.bind(stream_management=True).order()
    if "end" in leave:
        s.client(END)
    if "eof" in leave and s.session.wants(Side.CLIENT):
        s.client_ends()
    if s.session.wants(Side.NODE):
        s.node(NEWS).node(END).node_ends()
    s.is_over() if "eof" in leave or scene != "cut" else s.is_in(s.session.state)
    while s.session.deadline is not None:
        s.tick()
    s.is_in(State.CLOSED)
    assert sum(isinstance(command, Close) for command in s.commands) == 1
