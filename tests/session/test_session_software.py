"""A session gets to know its client's software, tells it to move accordingly, and learns from it for others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from session_script import (
    CLIENT_HEADER,
    ELSEWHERE,
    ENABLE,
    ENABLED,
    END,
    FEATURES,
    HELLO,
    HURRIED,
    JID,
    NODE_HEADER,
    SEE_OTHER_HOST,
    Script,
    answer,
    iq,
    refusal,
)

from cxfr_proxy.config.values import CLIENTS
from cxfr_proxy.session.client_software import SILENCES, SILENCES_BEHIND_YES, ClientSoftware, Software
from cxfr_proxy.session.commands import Answered, Asked, Learned, Outcome, Redirected, Side, Transferred
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.session.legs import IDENTITY_LOOKS
from cxfr_proxy.session.tables import State

CAPS = "https://a.example#v="
SLIXMPP = "http://slixmpp.com/ver/1.8.5#v="
QXMPP = "https://github.com/qxmpp-project/qxmpp#v="
ASKED = Asked(Rung.CXFR, ELSEWHERE, first=True)
BEHIND_IT = replace(ELSEWHERE, resumes=False)
SEE_OWN_DOMAIN = SEE_OTHER_HOST.replace("node2.example.org:5222", "example.org")
PRESENCE = "<presence><show>away</show></presence>"


def presence(caps: str = CAPS) -> str:
    node, _, ver = caps.partition("#")
    return f"<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='{node}' ver='{ver}'/></presence>"


def disco(node: str) -> str:
    return (
        f"<iq type='result' id='d' to='example.org'><query xmlns='http://jabber.org/protocol/disco#info' node='{node}'>"
        "<feature var='urn:xmpp:cxfr'/></query></iq>"
    )


def met(client_software: ClientSoftware | None = None, caps: str = CAPS, *, sm: bool = False) -> Script:
    """A client in use that has said what it is."""
    return Script(client_software=client_software).bind(stream_management=sm).client(presence(caps)).forget()


def knowing(knows_cxfr: bool) -> ClientSoftware:
    client_software = ClientSoftware()
    client_software.learn(CAPS, knows_cxfr)
    return client_software


def looked_at(s: Script) -> bool:
    """Whether an element that passes is noted."""
    before = len(s.commands)
    s.client(HELLO)
    return len(s.commands) > before


def rung_of(s: Script) -> Rung:
    return s.reported(Asked).rung


# --- getting to know it


def test_resource_and_capabilities() -> None:
    s = Script().bind()
    s.expect(s.session.software == Software(resource="balcony"), "the resource of the JID")
    s.client(presence()).node_gets(presence())
    s.expect(s.session.software == Software(CAPS, "balcony"), "what the presence says")
    s.expect(not looked_at(s), "the rest to pass unseen")


def test_the_user_agent_of_a_login_in_one_flight() -> None:
    """SASL2 with Bind 2, and the first presence right behind it."""
    authenticate = (
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AGEAYg==</initial-response>"
        "<user-agent id='1'><software>xmpp.js</software></user-agent><bind xmlns='urn:xmpp:bind:0'/></authenticate>"
    )
    success = (
        "<success xmlns='urn:xmpp:sasl:2'>"
        f"<authorization-identifier>{JID}</authorization-identifier><bound xmlns='urn:xmpp:bind:0'/></success>"
    )
    s = Script().node(NODE_HEADER, FEATURES).client(authenticate, presence()).node(success)
    s.node_gets(CLIENT_HEADER, authenticate, presence())
    s.expect(s.session.software == Software(CAPS, "balcony", "xmpp.js"), "all three traits")
    s.expect(not looked_at(s), "the rest to pass unseen")


def test_every_byte_passes_while_it_is_looked_at() -> None:
    """White space, other elements, acks of a stream that was left alone, and what is cut anywhere."""
    said = f" <r xmlns='urn:xmpp:sm:3'/>\n{HELLO}<a  xmlns='urn:xmpp:sm:3' h='1' />{PRESENCE} {presence()}{HELLO}"
    for cut in range(len(said)):
        s = Script().bind(stream_management=True)
        s.client(said[:cut]).client(said[cut:]).node_gets(said)
        s.expect(s.session.software.caps == CAPS, "them to be found")


def test_a_client_that_does_not_say_it_is_not_listened_to_for_ever() -> None:
    s = Script().bind()
    for _ in range(IDENTITY_LOOKS - 1):
        s.client(PRESENCE)
    s.expect(looked_at(s), f"{IDENTITY_LOOKS} elements to be looked at")
    s.client(presence())
    s.expect(not looked_at(s), "it to be over")
    s.expect(s.session.software.caps is None, "none")


def test_presence_that_cannot_be_read_is_the_nodes_to_judge() -> None:
    bad = "<presence><q:c xml='http://jabber.org/protocol/caps'/></presence>"
    s = Script().bind().client(bad).node_gets(bad)
    s.client(presence()).expect(s.session.software.caps == CAPS, "the next one to be read")


def test_it_is_got_to_know_while_it_is_moved() -> None:
    s = Script().bind().order().client(presence())
    s.expect(s.session.software.caps == CAPS, "them to be found")


# --- learning


def test_an_answer_is_learned_for_all_of_the_kind() -> None:
    s = met().order().reports(ASKED)
    s.client(answer()).reports(Redirected(), Learned(CAPS, True))
    s = met().order().reports(ASKED)
    s.client(refusal()).reports(
        Learned(CAPS, False),
        Answered(Rung.CXFR, ELSEWHERE, Outcome.REFUSED),
        Asked(Rung.SEE_OTHER_HOST, ELSEWHERE, first=False),
        Redirected(),
    )


def test_both_ways_of_never_having_heard_of_it_are_learned() -> None:
    for condition in ("service-unavailable", "feature-not-implemented"):
        assert met().order().client(refusal(condition)).reported(Learned) == Learned(CAPS, False)


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("resource-constraint", "wait"),
        ("unexpected-request", "wait"),
        ("not-acceptable", "modify"),
        ("not-allowed", "auth"),
    ],
)
def test_who_refuses_this_request_alone_is_asked_the_next_time(condition: str, kind: str) -> None:
    """And so are all others of its kind: the plugin, say, after five moves in a row."""
    s = met().order().recall().client(refusal(condition, kind)).is_in(State.BOUND)
    s.expect(not any(isinstance(event, Learned) for event in s.events), "nothing to be learned")
    s.forget().order().client_gets(iq(2))


@pytest.mark.parametrize("knows_cxfr", [None, True])
def test_silence_is_told(knows_cxfr: bool | None) -> None:
    met(ClientSoftware() if knows_cxfr is None else knowing(knows_cxfr)).order().tick().reports(
        ASKED,
        Learned(CAPS, None),
        Answered(Rung.CXFR, ELSEWHERE, Outcome.SILENT),
        Asked(Rung.SEE_OTHER_HOST, ELSEWHERE, first=False),
        Redirected(),
    )


def test_who_leaves_properly_without_an_answer_has_understood() -> None:
    s = met().order().client(END)
    s.expect(s.reported(Learned) == Learned(CAPS, True), "a yes")


@pytest.mark.parametrize(
    "how", ["lost", "hurried", "stayed", "stopped", "closed before", "asked late", "told otherwise"]
)
def test_what_is_no_answer(how: str) -> None:
    s = met()
    match how:
        case "lost":
            s.order().client_ends()
        case "hurried":
            s.order().order(HURRIED)
        case "stayed":
            s.order().client(answer()).tick()
        case "stopped":
            s.order().stop()
        case "told otherwise":
            s.order(HURRIED).client(END)
        case "closed before":
            s.client(END)
        case "asked late":  # there was no boundary to ask it at
            s = Script(max_element_down=1000, cut_through=True).bind().client(presence())
            s.node(f"<message><body>{'x' * 5000}").order().tick()
    s.expect(
        [event for event in s.events if event in (Learned(CAPS, None), Learned(CAPS, False))] == [], "no word of it"
    )
    s.expect(how == "stayed" or not any(isinstance(event, Learned) for event in s.events), "nothing to be learned")


def test_a_feature_in_service_discovery_is_learned_for_these_capabilities_only() -> None:
    met().client(disco(CAPS)).reports(Learned(CAPS, True)).order().reports(ASKED)
    s = met(sm=True).client(disco("https://a.example#other")).reports().order(BEHIND_IT)
    s.expect(s.session.rung is Rung.CXFR, "the session itself to have shown it")


def test_what_is_known_is_not_told_again() -> None:
    met(knowing(True)).client(disco(CAPS)).reports().order().client(answer()).reports(ASKED, Redirected())


def test_nothing_is_learned_of_who_has_not_said_what_he_is() -> None:
    s = Script().bind().order().client(refusal())
    s.expect(not any(isinstance(event, Learned) for event in s.events), "nothing to be learned")


# --- what follows from it


def test_the_next_of_that_software_is_not_asked() -> None:
    s = met(knowing(False)).order()
    s.expect(s.session.rung is Rung.SEE_OTHER_HOST, "the way that follows")


def test_silence_of_some_spares_the_next_the_wait() -> None:
    client_software = ClientSoftware()
    for _ in range(SILENCES):
        learned = met(client_software).order().tick().reported(Learned)
        client_software.learn(learned.caps, learned.knows_cxfr)
    s = met(client_software).order()
    s.expect(s.session.rung is Rung.SEE_OTHER_HOST, "it not to be asked")


def test_a_lie_does_not_make_silent_software_wait_for_ever() -> None:
    client_software = knowing(True)
    for _ in range(SILENCES_BEHIND_YES):
        s = met(client_software).order().tick()
        s.expect(s.reported(Learned).knows_cxfr is None, "the silence")
        client_software.learn(CAPS, None)
    met(client_software).order().client_gets()


def test_a_client_that_can_resume_is_asked_if_its_like_know_the_request() -> None:
    assert rung_of(met(sm=True).order()) is Rung.CUT
    assert rung_of(met(knowing(True), sm=True).order()) is Rung.CXFR


def test_the_operators_lists() -> None:
    allowed = ClientSoftware(allow=[CLIENTS.parse("resource=balc")])
    assert rung_of(met(allowed, sm=True).order()) is Rung.CXFR
    denied = ClientSoftware(deny=[CLIENTS.parse("domain=example.org")])
    assert rung_of(met(denied).client(disco(CAPS)).order()) is Rung.SEE_OTHER_HOST


def test_slixmpp_is_redirected_to_its_own_domain() -> None:
    """Which is no redirect to remember: it comes back to where it was."""
    s = met(caps=SLIXMPP, sm=True).order(BEHIND_IT).node_gets("<r xmlns='urn:xmpp:sm:3'/>", END)
    s.node(END).client_gets(SEE_OWN_DOMAIN, END)
    s.expect(Redirected() not in s.events, "no redirect")
    assert rung_of(met(caps=SLIXMPP, sm=True).order()) is Rung.CUT  # it can be resumed over there
    for tls in (True, False):
        s = Script(tls=tls).bind().client(presence(SLIXMPP)).forget()
        s.order(replace(HURRIED, server=None)).node(END).client_gets(SEE_OWN_DOMAIN, END)


def test_slixmpp_is_known_by_its_refusal() -> None:
    """Before it has said what it is, or if it never does."""
    s = Script().bind().order(replace(ELSEWHERE, server=None)).forget()
    s.client(refusal(text="No handlers registered for this request.")).node(END).client_gets(SEE_OWN_DOMAIN, END)
    s = Script().bind().order(replace(ELSEWHERE, server=None)).forget()
    s.client(refusal(text="What?")).node(END)
    assert b"<reset" in s.sent[Side.CLIENT]


@pytest.mark.parametrize("trigger", [Trigger.WRONG_NODE, Trigger.REBALANCE, Trigger.DRAIN, Trigger.MOVE])
def test_who_would_stay_down_and_says_no_stays_where_nothing_forces_it(trigger: Trigger) -> None:
    """Its software has come out while it was asked."""
    order = replace(ELSEWHERE, trigger=trigger)
    s = Script().bind().order(order).client(presence("http://mcabber.com/caps#v=")).client(refusal())
    if order.forced:
        s.is_in(State.TRANSFERRING)
    else:
        s.is_in(State.BOUND)
        assert list(s.reported(Transferred).tried) == [(Rung.CXFR, Outcome.REFUSED)]


def test_a_mark_in_the_capabilities_says_that_it_knows() -> None:
    """Without any answer that this proxy has seen, or with one of others that don't."""
    marked = "http://slixmpp.com/ver/1.17.0+xep-0051#v="
    assert rung_of(met(caps=marked, sm=True).order()) is Rung.CXFR
    assert rung_of(met(caps=marked.replace("+", "-"), sm=True).order()) is Rung.CUT
    learned = ClientSoftware()
    learned.learn(marked, False)
    assert rung_of(met(learned, caps=marked, sm=True).order()) is Rung.CUT


def test_qxmpp_is_cut_although_it_cannot_resume() -> None:
    """Behind all that its node still has for it; what it says meanwhile is answered."""
    s = met(caps=QXMPP).order(HURRIED).node_gets(END).client_gets()
    s.node(HELLO, END).client_gets(HELLO).output_ended(Side.CLIENT, Side.NODE).is_in(State.CLOSING)
    s.client_ends().node_ends().is_over()
    assert list(s.reported(Transferred).tried) == [(Rung.CUT, Outcome.MOVED)]


def test_a_stream_that_is_asked_is_counted_as_ever() -> None:
    """Having been looked at leaves nothing behind: the counts of XEP-0198 are right."""
    s = Script().bind().client(ENABLE).node(ENABLED).client(presence(), HELLO).client(disco(CAPS)).forget()
    s.order().client_gets(iq()).client(answer(), "<a xmlns='urn:xmpp:sm:3' h='1'/>")
    s.expect(s.sent[Side.NODE].endswith(b'h="0"/>'), "the node to hear of its own stanzas only")
