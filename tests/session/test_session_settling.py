"""The question before a node's stream is ended: of the node what it still owes, of the client what it has got."""

from __future__ import annotations

from typing import Final

import pytest
from session_script import ELSEWHERE, END, HELLO, HELLO_WAITED, HURRIED, NEWS, SEE_OTHER_HOST, Script, answer

from cxfr_proxy.session.commands import Side
from cxfr_proxy.session.ladder import Order, Trigger

R: Final = "<r xmlns='urn:xmpp:sm:3'/>"
FOR_GOOD: Final = Order(Trigger.DRAIN, target="node2", resumes=False)
FORGED: Final = "<iq type='set' id='f' from='m@x'><query xmlns='urn:xmpp:cxfr'><server>evil</server></query></iq>"
LONG: Final = f"<message from='romeo@example.org'><body>{'x' * 20_000}</body></message>"


def a(h: int) -> str:
    return f"<a xmlns='urn:xmpp:sm:3' h='{h}'/>"


def ping(number: int = 1) -> str:
    return (
        f"<iq xmlns='jabber:client' type='get' id=\"urn:xmpp:cxfr:t{number}\" to=\"example.org\">"
        "<ping xmlns='urn:xmpp:ping'/></iq>"
    )


# --- without XEP-0198: the node is asked


def pinged() -> Script:
    return Script(asks=True).bind().order(HURRIED).client_gets().node_gets(ping())


@pytest.mark.parametrize("kind", ["result", "error"])
def test_the_nodes_stream_is_ended_behind_its_answer(kind: str) -> None:
    """It may say anything: what it owed came before. The client sees nothing of it."""
    s = pinged().node(NEWS, answer(kind), NEWS).client_gets(NEWS, NEWS).node_gets(END)
    s.node(END).client_gets(SEE_OTHER_HOST, END)


def test_what_the_client_sends_behind_the_ping_is_answered() -> None:
    s = pinged().client(HELLO).node_gets().client_gets(HELLO_WAITED)
    s.node(answer()).node_gets(END).client(HELLO).client_gets(HELLO_WAITED)


@pytest.mark.parametrize("stream_management", [False, True])
def test_a_prefix_makes_no_difference(stream_management: bool) -> None:
    """It would go to the node, which counts it, behind others that did not."""
    s = asked() if stream_management else pinged()
    s.client("<c:message xmlns:c='jabber:client' to='romeo@example.org' id='m1'><c:body>hello</c:body></c:message>")
    s.node_gets()
    s.expect((b"wait" in s.sent[Side.CLIENT]) is not stream_management, "an answer where nothing else tells")


def test_an_answer_to_another_ping_is_the_clients() -> None:
    other = answer(number=7)
    pinged().node(other).client_gets(other).node_gets()


def test_a_node_that_does_not_answer_is_not_waited_for_long() -> None:
    pinged().tick().node_gets(END).tick().client_gets(SEE_OTHER_HOST, END)


@pytest.mark.parametrize("ending", [END, "<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"])
def test_a_node_that_ends_instead(ending: str) -> None:
    whole = ending if ending == END else f"{ending}</stream:error>"
    pinged().node(NEWS, whole).client_gets(NEWS, SEE_OTHER_HOST, END)


def test_a_node_that_dies_instead() -> None:
    pinged().node_ends().client_gets(SEE_OTHER_HOST, END)


def test_a_client_that_leaves_meanwhile() -> None:
    s = pinged().client(END).node_gets(END).node(NEWS, answer(), END).client_gets(NEWS, END).client_ends().is_over()
    s.expect(s.session.transfer_under_way is None, "that it is over")


# --- with XEP-0198: the client is asked


def asked() -> Script:
    s = Script(asks=True).bind(stream_management=True).node(NEWS).client_gets(NEWS).order(FOR_GOOD)
    return s.client_gets(R).node_gets()


def asked_about_long_ones() -> Script:
    s = Script(asks=True, cut_through=True).bind(stream_management=True).node(NEWS).client_gets(NEWS)
    return s.order(FOR_GOOD).client_gets(R).node_gets()


def test_what_the_client_has_not_got_is_left_to_the_node() -> None:
    """The node knows by the count, and treats it as undelivered; had the client got it, it would come twice."""
    s = asked().node(NEWS, R, NEWS).client_gets(R).client(a(1)).node_gets(a(1), R, END)
    s.node(NEWS, a(0), END).client_gets(a(0)).output_ended(Side.CLIENT, Side.NODE)


def test_an_earlier_acknowledgement_is_not_the_last_word() -> None:
    s = asked().client(a(0)).node_gets(a(0)).client(a(1)).node_gets(a(1), R, END)
    s.expect(s.session.fast[Side.NODE] is None, "that stanzas are looked at")


@pytest.mark.parametrize(
    "word", [a(2), "<a xmlns='urn:xmpp:sm:3'/>", "<a xmlns='urn:xmpp:sm:3' h='x'/>", "<a xmlns='urn:other' h='2'/>"]
)
def test_a_count_that_is_too_high_is_one_and_one_that_is_none_is_not(word: str) -> None:
    """Counters are shaky in the wild; to judge them is the node's business."""
    asked().client(word).node_gets(word, *([R, END] if word == a(2) else []))


def test_what_the_client_sends_meanwhile_stays_unacknowledged() -> None:
    asked().client(HELLO).nobody_gets_anything().client(a(1)).node_gets(a(1), R, END)


def test_a_client_that_does_not_answer_gets_all_that_was_withheld() -> None:
    s = asked().node(NEWS, NEWS).client_gets().tick().client_gets(NEWS, NEWS).node_gets(R, END)
    s.node(NEWS, a(0), END).client_gets(NEWS, a(0))


@pytest.mark.parametrize("ends", [True, False])
def test_a_node_that_goes_meanwhile_loses_nothing(ends: bool) -> None:
    s = asked().node(NEWS)
    (s.node(END) if ends else s.node_ends()).client_gets(NEWS)


def test_a_client_that_leaves_meanwhile_still_gets_what_there_is() -> None:
    asked().node(NEWS).client(END).node_gets(R, END).node(NEWS, a(0), END).client_gets(a(0), NEWS, NEWS, END)


def test_what_is_forged_is_not_released_either() -> None:
    s = asked().node(FORGED, NEWS).nobody_gets_anything()
    s.tick().client_gets(NEWS).expect(b"evil" not in s.sent[Side.CLIENT], "nothing forged")


def test_no_more_is_withheld_than_may_be_held() -> None:
    """A stranger can send the client as much as it likes: then the node is not read, until it is known what becomes of
    all that."""
    s, many = asked(), [NEWS] * (10_000 // len(NEWS) + 1)
    s.node(*many[:-1]).expect(s.session.wants(Side.NODE), "that there is room")
    s.node(many[-1]).expect(not s.session.wants(Side.NODE), "that there is none").nobody_gets_anything()
    s.tick().client_gets(*many).expect(s.session.wants(Side.NODE), "that there is room again")
    answered = asked().node(*many).client(a(1)).node_gets(a(1), R, END)
    answered.expect(answered.session.wants(Side.NODE), "what the node still has to say").node(END).client_gets()


def test_what_is_cut_through_is_withheld_in_its_order() -> None:
    """Or it would stand in front of what came before it, and that in the middle of it."""
    s = asked_about_long_ones().node(NEWS).node(LONG[:9_000]).node(LONG[9_000:15_000]).client_gets()
    s.tick().client_gets(NEWS, LONG[:15_000]).node(LONG[15_000:]).client_gets(LONG[15_000:])


def test_what_is_cut_through_is_left_to_the_node() -> None:
    """The client has got nothing of it, so its stream ends in good order."""
    s = Script(asks=True).bind().client("<enable xmlns='urn:xmpp:sm:3'/>").node("<enabled xmlns='urn:xmpp:sm:3'/>")
    s.forget().order(HURRIED).client_gets(R).node(LONG[:15_000]).client_gets().client(a(0)).node_gets(a(0), R, END)
    s.node(LONG[15_000:17_000]).client_gets().node_ends().client_gets(SEE_OTHER_HOST, END)


def test_counts_that_differ_are_translated_in_the_last_word() -> None:
    """The request was one stanza more for the client."""
    s = Script(asks=True).bind(stream_management=True)
    s.client(
        "<iq type='result' id='d'><query xmlns='http://jabber.org/protocol/disco#info'>"
        "<feature var='urn:xmpp:cxfr'/></query></iq>"
    )
    s.order(ELSEWHERE).forget().client(answer("error")).client_gets(R).client(a(0)).node_gets(a(0)).client(a(1))
    s.expect(s.sent[Side.NODE].endswith(f"{R}{END}".encode()), "the end").expect(
        b'h="0"' in s.sent[Side.NODE].split(b"</iq>")[-1], "the node's count"
    )


def test_in_the_middle_of_an_element_nobody_is_asked() -> None:
    s = Script(asks=True, cut_through=True).bind(stream_management=True).node(LONG[:15_000]).forget()
    s.order(FOR_GOOD).node_gets(R, END).client_gets()
