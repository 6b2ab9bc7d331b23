"""A session's life without a transfer: opening, use, and every way it can end."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from session_script import (
    AUTH,
    BIND,
    BIND_FEATURES,
    BIND_RESULT,
    CLIENT_HEADER,
    ELSEWHERE,
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
    PING_WAITED,
    SUCCESS,
    Script,
    iq,
    stream_error,
)

from cxfr_proxy.session.commands import (
    BoundTo,
    Ended,
    EndOutput,
    Forged,
    NodeLost,
    Outcome,
    Reason,
    Resumable,
    Side,
    Transferred,
    Upgrade,
    Warned,
)
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.session.tables import TRANSITIONS, State
from cxfr_proxy.xmpp.stream_management import Counters, Flow, Resumption

SASL2 = "xmlns='urn:xmpp:sasl:2'"
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
TIMED_OUT = stream_error("connection-timeout", text="the login took too long")
GONE = stream_error("remote-connection-failed", text="the server went away, try again")


def own_header(number: int = 1) -> str:
    """The header the session writes where the node has sent none."""
    return (
        "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
        f'version=\'1.0\' from="example.org" id="t{number}" xml:lang="en">'
    )


# --- opening


def resumable(*, origin: int) -> Resumable:
    """Counted on both sides from behind so many stanzas."""
    return Resumable("sm1", "sm1", Counters(Flow(origin), Flow(origin)))


def test_the_usual_opening() -> None:
    s = Script().node_gets(CLIENT_HEADER).client_gets()
    s.node(NODE_HEADER, FEATURES).client_gets(NODE_HEADER, FEATURES)
    s.client(AUTH).node_gets(AUTH)
    s.node(SUCCESS).client_gets(SUCCESS)
    s.client(CLIENT_HEADER).node_gets(CLIENT_HEADER)
    s.node(NODE_HEADER, BIND_FEATURES).client_gets(NODE_HEADER, BIND_FEATURES)
    s.client(BIND).node_gets(BIND).is_in(State.NEGOTIATING)
    s.node(BIND_RESULT).client_gets(BIND_RESULT).is_in(State.BOUND)
    s.reports(BoundTo(JID))
    s.expect(s.session.full_jid == JID, "the JID").expect(s.session.deadline is None, "no deadline")
    s.client(ENABLE).node(ENABLED).client_gets(ENABLED).reports(resumable(origin=1))


UP = [AUTH, CLIENT_HEADER, BIND, HELLO]
DOWN = [NODE_HEADER + FEATURES, SUCCESS, NODE_HEADER + BIND_FEATURES, BIND_RESULT, NEWS]


def test_the_usual_opening_one_byte_at_a_time() -> None:
    s = Script()
    for down, up in itertools.zip_longest(DOWN, UP, fillvalue=""):
        for byte in down:
            s.node(byte)
        for byte in up:
            s.client(byte)
    s.node_gets(CLIENT_HEADER, *UP).client_gets(*DOWN).is_in(State.BOUND)


def test_a_client_that_says_everything_at_once_is_held_where_the_answer_decides() -> None:
    s = Script(behind=AUTH + CLIENT_HEADER + BIND + HELLO).node_gets(CLIENT_HEADER, AUTH)
    s.expect(not s.session.wants(Side.CLIENT), "the client to be held")
    s.node(NODE_HEADER, FEATURES).node_gets()
    s.node(SUCCESS).node_gets(CLIENT_HEADER, BIND, HELLO)
    s.expect(s.session.wants(Side.CLIENT), "the client to be read")
    s.node(NODE_HEADER, BIND_FEATURES, BIND_RESULT, NEWS).is_in(State.BOUND)
    s.client_gets(NODE_HEADER, FEATURES, SUCCESS, NODE_HEADER, BIND_FEATURES, BIND_RESULT, NEWS)


def test_a_newline_behind_auth_does_not_spoil_the_next_stream() -> None:
    s = Script(behind=AUTH + "\n").node(NODE_HEADER, FEATURES, SUCCESS).forget()
    s.client(CLIENT_HEADER, BIND).node_gets(CLIENT_HEADER, BIND)


def test_several_steps_of_sasl() -> None:
    challenge = "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>cg==</challenge>"
    response = "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>cA==</response>"
    failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"
    s = Script().node(NODE_HEADER, FEATURES).forget()
    auth = AUTH.replace("PLAIN", "X-STEPS")
    s.client(auth, response, response).node_gets(auth)
    s.node(challenge).node_gets(response)
    s.node(challenge).node_gets(response)
    s.node(failure).client_gets(challenge, challenge, failure).node_gets()
    s.client(AUTH).node_gets(AUTH).node(SUCCESS).client(CLIENT_HEADER).node_gets(CLIENT_HEADER)


def test_a_refused_mechanism_is_answered_and_holds_nothing() -> None:
    s = Script().node(NODE_HEADER, FEATURES).forget()
    external = AUTH.replace("PLAIN", "EXTERNAL")
    s.client(external, AUTH).node_gets(AUTH)
    s.client_gets("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><invalid-mechanism/></failure>")


def test_sasl2_with_bind2_binds_at_once_and_its_features_follow() -> None:
    authenticate = (
        f"<authenticate {SASL2} mechanism='PLAIN'><initial-response>AGEAYg==</initial-response></authenticate>"
    )
    success = (
        f"<success {SASL2}><authorization-identifier>{JID}</authorization-identifier>"
        "<bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3' id='sm1' resume='true'/></bound></success>"
    )
    features = f"<stream:features>{STARTTLS}<ver xmlns='urn:xmpp:features:rosterver'/></stream:features>"
    s = Script(behind=authenticate + HELLO).node_gets(CLIENT_HEADER, authenticate)
    s.node(NODE_HEADER, success, features, NEWS).is_in(State.BOUND).reports(BoundTo(JID), resumable(origin=0))
    s.node_gets(HELLO)
    got = s.sent[Side.CLIENT].decode()
    s.expect(got.startswith(NODE_HEADER + success), "success").expect(got.endswith(NEWS), "news")
    s.expect("starttls" not in got, "features rewritten").expect("rosterver" in got, "features passed")


@pytest.mark.parametrize("known", [True, False])
def test_resumption(known: bool) -> None:
    s = (
        Script(resumable={"sm1": Resumption(JID, "node1", "sm1")} if known else {})
        .node(NODE_HEADER, FEATURES)
        .client(AUTH)
        .node(SUCCESS)
    )
    s.client(CLIENT_HEADER).node(NODE_HEADER, BIND_FEATURES).forget()
    resume, resumed = (f"<{name} xmlns='urn:xmpp:sm:3' h='1' previd='sm1'/>" for name in ("resume", "resumed"))
    s.client(resume).node_gets(resume).node(resumed, NEWS).client_gets(resumed, NEWS).is_in(State.BOUND)
    s.reports(BoundTo(JID if known else None, resumed=True), resumable(origin=-1))
    s.expect(s.session.stream_management, "stream management")


def test_an_optional_starttls_gives_the_client_back() -> None:
    s = Script(tls=False, offer_starttls=True).node(NODE_HEADER, FEATURES).forget()
    s.client(STARTTLS, "<<< junk").node_gets(END).is_over(Upgrade)
    s.reports(Ended(Reason.STARTTLS, None, 0, 0)).client_gets()


def test_a_starttls_that_was_not_offered() -> None:
    s = Script().bind().client(STARTTLS).node_gets(END)
    s.client_gets(stream_error("policy-violation", text="TLS was not offered"), END)


def test_compression_is_refused() -> None:
    s = Script().bind().client("<compress xmlns='http://jabber.org/protocol/compress'/>").node_gets()
    s.client_gets("<failure xmlns='http://jabber.org/protocol/compress'><setup-failed/></failure>")


def test_the_domain_may_not_change_at_a_restart() -> None:
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).forget()
    s.client(CLIENT_HEADER.replace("example.org", "elsewhere.org")).node_gets()
    text = "the domain changed at the stream's restart"
    s.client_gets(own_header(), stream_error("host-unknown", text=text), END)


@pytest.mark.parametrize("again", ["EXAMPLE.org", "example.org."])
def test_the_domain_may_be_spelt_in_another_way_at_a_restart(again: str) -> None:
    header = CLIENT_HEADER.replace("example.org", again)
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).forget()
    s.client(header).node_gets(header).client_gets()


@pytest.mark.parametrize("together", [True, False])
def test_a_client_that_sends_its_header_twice_means_one_stream(together: bool) -> None:
    # QXmpp does on direct TLS.
    s = Script(behind=CLIENT_HEADER) if together else Script().client(CLIENT_HEADER)
    s.expect(s.sent[Side.NODE].count(b"<stream:stream") == 1, "one header").forget()
    s.node(NODE_HEADER, FEATURES).client_gets(NODE_HEADER, FEATURES).client("<auth/>").node_gets("<auth/>")
    s.client(CLIENT_HEADER)
    s.expect(b"<restricted-xml " in s.sent[Side.CLIENT], "not later, though").output_ended(Side.CLIENT, Side.NODE)


def test_a_huge_element_before_bind() -> None:
    s = Script().node(NODE_HEADER, FEATURES).forget().client("<auth>" + "x" * 9000)
    s.client_gets(stream_error("policy-violation", text="element longer than 8192 bytes"), END)
    s.node_gets(END).node(END).node_ends().client_ends().is_over()


def test_larger_elements_are_welcome_once_bound() -> None:
    large = f"<message>{'x' * 200_000}</message>"
    Script().bind().client(large).node_gets(large).is_in(State.BOUND)


def test_the_login_takes_too_long() -> None:
    s = Script().node(NODE_HEADER, FEATURES).forget()
    s.wait(59.9).client_gets().wait(0.1).client_gets(TIMED_OUT, END).node_gets(END)
    s.client_ends().node(END).node_ends()
    s.expect(s.reported(Ended).reason is Reason.TIMED_OUT, "its reason")


def test_a_login_that_took_too_long_ends_when_the_client_has_heard_of_it() -> None:
    s = Script().node(NODE_HEADER, FEATURES).wait(60).node(END).node_ends().is_not_over()
    s.client_ends().is_over()


def test_the_login_takes_too_long_before_the_node_said_anything() -> None:
    Script().wait(60).client_gets(own_header(), TIMED_OUT, END)


# --- use


def test_stanzas_pass_both_ways_and_white_space_too() -> None:
    s = Script().bind().client(HELLO, " ").node_gets(HELLO, " ").node(NEWS, "\n").client_gets(NEWS, "\n")
    s.client(HELLO[:10]).node_gets().client(HELLO[10:], PING).node_gets(HELLO, PING)
    s.node(NEWS[:-1]).client_gets().node(NEWS[-1:]).client_gets(NEWS).reports()


FORGED = "<iq type='set' id='x' from='mallory@example.org' to='a@b/c'><query xmlns='urn:xmpp:cxfr'>%s</query></iq>"
NOT_ALLOWED = (
    "<iq xmlns='jabber:client' type='error' id=\"x\" from=\"a@b/c\" to=\"mallory@example.org\"><error type='cancel'>"
    "<not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
    "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>only the server may move a connection</text>"
    "</error></iq>"
)


@pytest.mark.parametrize("payload", ["", "<domain>a</domain><server>b</server>", "<x/>"])
def test_a_forged_transfer_is_answered_and_not_delivered(payload: str) -> None:
    s = Script().bind().node(NEWS, FORGED % payload, NEWS)
    s.client_gets(NEWS, NEWS).node_gets(NOT_ALLOWED).reports(Forged())


def test_a_forged_transfer_at_every_cut() -> None:
    forged = FORGED % ""
    for at in range(1, len(forged)):
        Script().bind().node(forged[:at]).node(forged[at:]).client_gets().node_gets(NOT_ALLOWED)


def test_a_forged_transfer_while_one_is_running() -> None:
    Script().bind().order().client_gets(iq()).node(FORGED % "").client_gets().node_gets(NOT_ALLOWED)


def test_talk_about_the_namespace_is_untouched() -> None:
    talk = "<message><body>urn:xmpp:cxfr</body></message>"
    result = "<iq type='result' id='1'><query xmlns='urn:xmpp:cxfr'/></iq>"
    s = Script().bind().node(talk, result).client_gets(talk, result)
    s.client(talk, FORGED % "").node_gets(talk, FORGED % "").reports()


def test_a_forged_transfer_with_a_prefix() -> None:
    forged = (FORGED % "").replace("<iq ", "<c:iq xmlns:c='jabber:client' ").replace("</iq>", "</c:iq>")
    Script().bind().node(forged).client_gets().node_gets(NOT_ALLOWED)


def test_a_forged_transfer_too_long_to_be_held() -> None:
    # Its head has gone down before anybody knew; its end never does.
    forged = FORGED.replace("</iq>", "%s</iq>") % ("", "x" * 12_000)
    s = Script(cut_through=True).bind().node(forged[:11_000])
    s.client_gets(forged[:11_000]).node(forged[11_000:]).client_gets().is_over(at_once=True)


def test_one_that_names_itself_at_its_end() -> None:
    forged = f"<iq type='set'><x>{'x' * 12_000}</x><query xmlns='urn:xmpp:cxfr'/></iq>"
    s = Script(cut_through=True).bind().node(forged[:11_000]).forget()
    s.node(forged[11_000:]).client_gets().is_over(at_once=True)
    s.expect(Forged() in s.events, "a report")


# --- the ends


def test_the_client_closes() -> None:
    s = Script().bind().client(HELLO, END).node_gets(HELLO, END).client_gets().is_in(State.CLOSING)
    s.node(NEWS, END).client_gets(NEWS, END).output_ended(Side.CLIENT, Side.NODE)
    s.is_over().reports(Ended(Reason.CLIENT_CLOSED, None, 0, 0))


def test_the_client_closes_and_the_node_does_not() -> None:
    s = Script().bind().client(END).node(NEWS).client_gets(NEWS).wait(4.9).client_gets()
    s.tick().client_gets(END).node(NEWS).tick().is_over(at_once=True)
    s.expect(s.reported(Ended).undelivered == len(NEWS), "what came too late to be counted")


def test_the_client_is_lost() -> None:
    s = Script().bind().client_ends().node_gets(END).node(NEWS).client_gets().node(END).is_over()
    s.reports(Ended(Reason.CLIENT_LOST, None, 0, len(NEWS)))


def test_a_client_with_stream_management_is_lost_and_may_come_back() -> None:
    s = Script().bind(stream_management=True).client_ends().node_gets().output_ended(Side.CLIENT, Side.NODE)
    s.node_ends().is_over()


def test_the_client_is_lost_in_the_middle_of_a_stanza() -> None:
    Script().bind().client(HELLO[:20]).client_ends().node_gets(END)


@pytest.mark.parametrize(
    ("bytes_", "condition"),
    [
        ("<message></iq>", "not-well-formed"),
        ("<!-- -->", "restricted-xml"),
        ("text", "bad-format"),
        ("<x:y/>", "bad-namespace-prefix"),
        ("<message>" + "<a>" * 70, "policy-violation"),
    ],
)
def test_the_client_breaks_its_stream(bytes_: str, condition: str) -> None:
    s = Script().bind().client(HELLO, bytes_).node_gets(HELLO, END)
    s.expect(f"<{condition} ".encode() in s.sent[Side.CLIENT], condition)
    s.node(NEWS, END).node_ends().is_not_over()  # its last words have to arrive
    s.client("more").client_ends().is_over()
    s.expect(s.reported(Ended).reason is Reason.CLIENT_FAULT, "its reason")
    s.expect(s.reported(Ended).condition == condition, "its condition")


def test_the_node_closes() -> None:
    s = Script().bind().node(NEWS, END).client_gets(NEWS, END).node_gets(END).is_in(State.CLOSING)
    s.client(HELLO).client_gets().client_ends().is_over().reports(Ended(Reason.NODE_CLOSED, None, 1, 0))


def test_the_node_closes_and_the_client_answers_as_it_should() -> None:
    s = Script().bind().node(END).forget().client(END).client_ends().is_over()
    s.reports(Ended(Reason.NODE_CLOSED, None, 0, 0))


def test_the_node_closes_and_the_client_does_not() -> None:
    Script().bind().node(END).node_ends().client_gets(END).tick().is_over(at_once=True)


def test_another_error_of_the_node_s_is_the_client_s_to_know() -> None:
    conflict = stream_error("conflict")
    s = Script().bind().node(NEWS, conflict, END).client_gets(NEWS, conflict, END).node_gets(END)
    s.client_ends().is_over().reports(Ended(Reason.NODE_CLOSED, "conflict", 0, 0))


@pytest.mark.parametrize("condition", ["system-shutdown", "reset", "see-other-host"])
def test_a_node_that_goes_away_is_not_the_client_s_end(condition: str) -> None:
    s = Script().bind().node(NEWS, stream_error(condition, "10.0.0.1" if "host" in condition else ""), END)
    s.client_gets(NEWS).node_gets(END).is_in(State.BOUND)
    s.expect(s.session.node_lost, "the node to be lost")
    redirected = condition == "see-other-host"
    s.reports(NodeLost(Reason.NODE_REDIRECTED if redirected else Reason.NODE_SHUTDOWN))
    s.client(HELLO, PING, "<presence/>").client_gets(HELLO_WAITED, PING_WAITED).node_gets()


def test_a_node_that_dies_in_the_middle_of_a_stanza_leaves_the_client_s_stream_whole() -> None:
    s = Script().bind().node(NEWS, NEWS[:20]).node_ends().client_gets(NEWS).is_in(State.BOUND)
    s.reports(NodeLost(Reason.NODE_LOST)).client(HELLO).client_gets(HELLO_WAITED)


def test_a_node_that_dies_while_an_element_is_cut_through() -> None:
    long = f"<message>{'x' * 12_000}"
    Script(cut_through=True).bind().node(long).client_gets(long).node_ends().is_over(at_once=True)


def test_the_node_breaks_its_stream() -> None:
    s = Script().bind().node(NEWS, "<message></iq>").client_gets(NEWS).node_gets(END).is_in(State.BOUND)
    s.expect(isinstance(s.events[-2], Warned), "a warning").expect(s.session.node_lost, "the node to be lost")


@pytest.mark.parametrize("last", ["<a></b>", stream_error("system-shutdown")])
def test_the_node_s_last_word_when_the_client_has_gone(last: str) -> None:
    Script().bind().client_ends().node(last).is_over()


def test_output_is_ended_once() -> None:
    s = Script().bind().node_ends().client(END).client_ends().is_over()
    assert [each.side for each in s.commands if isinstance(each, EndOutput)].count(Side.NODE) == 1


def test_a_client_without_a_node_closes() -> None:
    Script().bind().node_ends().client(END).client_gets(END).is_over()


@pytest.mark.parametrize("said", ["", NODE_HEADER, NODE_HEADER + FEATURES])
def test_the_node_goes_before_bind(said: str) -> None:
    s = Script()
    if said:
        s.node(said)
    s.node_ends().client_gets(said or own_header(), GONE, END).is_in(State.CLOSING)
    s.client(AUTH).client_ends().is_over()
    s.expect(s.reported(Ended).reason is Reason.NODE_LOST, "its reason")


def test_the_node_goes_between_success_and_its_next_header() -> None:
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).forget()
    s.node_ends().client_gets(own_header(), GONE, END)


def test_a_redirection_before_bind_is_not_followed_round_the_proxy() -> None:
    s = Script().node(NODE_HEADER, stream_error("see-other-host", "10.0.0.1"), END)
    s.client_gets(NODE_HEADER, stream_error("reset", text="reconnect"), END)


def test_the_client_leaves_while_the_node_answers_its_login() -> None:
    authenticate = f"<authenticate {SASL2} mechanism='PLAIN'/>"
    success = f"<success {SASL2}><authorization-identifier>{JID}</authorization-identifier></success>"
    Script(behind=authenticate).node(NODE_HEADER, FEATURES).client_ends().node(success, NEWS, END).is_over()


def test_the_client_leaves_before_success() -> None:
    s = Script(behind=AUTH).node(NODE_HEADER, FEATURES).client_ends().forget().node(SUCCESS).node(END)
    s.node_ends().is_over()
    s.expect(not any(isinstance(event, Warned) for event in s.events), "no warning about the node")


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("parts", [[NODE_HEADER, FEATURES, END], [NODE_HEADER + FEATURES + END]])
def test_the_client_closes_before_the_node_has_sent_a_header(parts: list[str], restarted: bool) -> None:
    # Whatever header it gets, it gets one, and only one.
    s = Script(behind="" if restarted else END)
    if restarted:
        s.node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER, END)
    for part in parts:
        s.node(part)
    s.is_over().expect(s.sent[Side.CLIENT].endswith(END.encode()), "the end")
    s.expect(not any(isinstance(event, Warned) for event in s.events), "no fault of the node's")


def test_words_of_the_proxy_s_own_use_the_prefix_of_the_header_the_client_got() -> None:
    header = NODE_HEADER.replace("xmlns:stream", "xmlns:s").replace("stream:stream", "s:stream")
    s = Script().node(header).client("<x:y/>")
    s.expect(s.sent[Side.CLIENT].endswith(b"</s:error></s:stream>"), "the node's prefix")


def test_the_client_s_prefix_ends_the_node_s_stream() -> None:
    header = CLIENT_HEADER.replace("xmlns:stream", "xmlns:s").replace("stream:stream", "s:stream")
    Script(header=header).node_gets(header).client("</s:stream>").node_gets("</s:stream>")


@pytest.mark.parametrize("side", list(Side))
def test_a_side_that_does_not_read_is_given_up(side: Side) -> None:
    Script().bind().stall(side).is_over(at_once=True).reports(Ended(Reason.STALLED, None, 0, 0))


def test_stopping_waits_for_nobody() -> None:
    Script().bind().stop().is_over(at_once=True).reports(Ended(Reason.STOPPED, None, 0, 0)).stop().stall(Side.NODE)


# --- the table

N, B, T, CG, CD = State.NEGOTIATING, State.BOUND, State.TRANSFERRING, State.CLOSING, State.CLOSED
WAYS: dict[tuple[State, State], Callable[[], Script]] = {
    (N, B): lambda: Script().bind(),
    (N, CG): lambda: Script().client(END),
    (N, CD): lambda: Script().stop(),
    (B, T): lambda: Script().bind().order(),
    (B, CG): lambda: Script().bind().client(END),
    (B, CD): lambda: Script().bind().stop(),
    (T, B): lambda: Script().bind().order().recall().tick(),
    (T, CG): lambda: Script().bind().order().client_ends(),
    (T, CD): lambda: Script().bind().order().stop(),
    (CG, CD): lambda: Script().bind().client(END).node(END),
}


def test_each_move_of_the_table_can_be_made_and_is_made_here() -> None:
    assert set(WAYS) == {(before, after) for (before, _), after in TRANSITIONS.items() if after is not before}
    for move, way in WAYS.items():
        assert way().moves[-1] == move


def test_a_session_that_is_over_does_nothing_any_more() -> None:
    s = Script().bind().stop().forget()
    for side in Side:
        assert not s.session.wants(side)
        assert not s.session.receive(side, b"<iq/>", s.now)
        assert not s.session.eof(side, s.now)
    s.order(ELSEWHERE).wait(1000).stop().nobody_gets_anything().reports()
    s.expect(s.session.deadline is None, "no deadline").expect(iq() not in str(s.sent), "no request")


# --- what a review found


def test_a_client_that_ends_its_stream_and_half_closes_gets_the_node_s_last_words() -> None:
    s = Script().bind().client("<iq type='get' id='1'/>", END).client_ends().forget()
    s.node("<iq type='result' id='1'/>", END).client_gets("<iq type='result' id='1'/>", END).node_ends().is_over()
    assert s.reported(Ended).undelivered == 0


def test_a_slow_reader_is_waited_for_while_its_stream_is_closed() -> None:
    s = Script().bind().node(END).node_ends()
    session = s.session
    begun = session.deadline
    assert begun is not None
    assert session.due(backlogged=False) == begun
    late = session.due(backlogged=True)
    assert late is not None
    assert late > begun + 30, "but not for ever"
    session.caught_up(Side.CLIENT, begun + 20)
    assert session.deadline == begun + 20 + 5, "what the client is given begins when it has read"
    session.caught_up(Side.CLIENT, late - 1)
    assert session.due(backlogged=True) == session.deadline == late - 1 + 5, "not before there is something to do"


def test_deadlines_are_not_moved_while_nothing_is_being_closed() -> None:
    s = Script().bind().order()
    before = s.session.deadline
    s.session.caught_up(Side.CLIENT, 1e6)
    assert s.session.deadline == before == s.session.due(backlogged=True)


@pytest.mark.parametrize("deep", [65, 200])
def test_a_stranger_s_deep_stanza_does_not_end_the_stream_of_its_victim(deep: int) -> None:
    stanza = f"<message>{'<x>' * deep}{'</x>' * deep}</message>"
    Script().bind().node(stanza).client_gets(stanza).is_in(State.BOUND)


def test_a_watched_stanza_that_can_not_be_read_is_kept_back_alone() -> None:
    stanza = f"<iq>{'<x>' * 300}urn:xmpp:cxfr{'</x>' * 300}</iq>"
    s = Script().bind().node(stanza, "<message/>").client_gets("<message/>").is_in(State.BOUND)
    s.reports(Forged())


def test_a_session_that_is_stopped_while_asked_was_cut_off() -> None:
    s = Script().bind().order().stop().is_over(at_once=True)
    assert s.reported(Transferred).tried == ((Rung.CXFR, Outcome.CUT_OFF),)


@pytest.mark.parametrize(
    "ends",
    [
        lambda s: s.client_ends(),
        lambda s: s.client("</stream:stream>"),
        lambda s: s.client(CLIENT_HEADER.replace("example.org", "elsewhere.org")),
        lambda s: s.wait(61),
        lambda s: s.node("<stream:error/>"),
        lambda s: s.node_ends(),
    ],
    ids=["lost", "an end", "another domain", "time", "node's fault", "node's end"],
)
def test_between_two_streams_no_stream_is_ended(ends: Callable[[Script], object]) -> None:
    # RFC 6120 section 6.4.6: behind <success/> both are over without a closing tag.
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).forget()
    ends(s)
    s.node_gets()


@pytest.mark.parametrize("bound", [True, False])
def test_an_end_behind_a_fault_comes_too_late(bound: bool) -> None:
    """Be it in the same chunk."""
    s = Script().bind() if bound else Script().node(NODE_HEADER, FEATURES).forget()
    s.client("<x:y/>", END).node_gets(END)
    s.client_gets(stream_error("bad-namespace-prefix", text="an element uses an undeclared prefix"), END)
    s.node(END).node_ends().client_ends().is_over()
    assert s.reported(Ended).reason is Reason.CLIENT_FAULT
