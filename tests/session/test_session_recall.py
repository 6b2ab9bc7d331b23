"""An order that is taken back while the client is being asked: it may still go, and if it does not, it stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from session_script import (
    ELSEWHERE,
    ENABLE,
    ENABLED,
    END,
    HELLO,
    HURRIED,
    NEWS,
    PING,
    SEE_OTHER_HOST,
    Script,
    answer,
    iq,
    refusal,
)

from cxfr_proxy.session.commands import Answered, Asked, Learned, Outcome, Redirected, Side, Transferred
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.session.session import State

SM = "urn:xmpp:sm:3"
SUPPORT = (
    "<iq type='result' id='d'><query xmlns='http://jabber.org/protocol/disco#info'>"
    "<feature var='urn:xmpp:cxfr'/></query></iq>"
)
LONG = f"<message from='romeo@example.org'><body>{'x' * 20_000}</body></message>"


def recalled() -> Script:
    return Script().bind().order().recall().forget().nobody_gets_anything()


def stays(s: Script, outcome: Outcome) -> Script:
    """It is in use as before, and looked at no more than before."""
    s.nobody_gets_anything().is_in(State.BOUND).expect(s.session.deadline is None, "nothing to be due")
    s.expect(s.session.rung is None and s.session.transfer_under_way is None, "no transfer")
    s.expect(s.session.fast[Side.NODE] is not None and s.session.fast[Side.CLIENT] is not None, "the fast lanes")
    s.expect(s.reported(Transferred).tried == ((Rung.CXFR, outcome),), "its end")
    s.expect(not any(isinstance(event, Answered) for event in s.events), "that nothing follows")
    return s.client(HELLO).node(NEWS).node_gets(HELLO).client_gets(NEWS)


@pytest.mark.parametrize(
    ("does", "outcome"),
    [
        (lambda s: s.client(answer("error")), Outcome.REFUSED),
        (lambda s: s.tick(), Outcome.SILENT),
        (lambda s: s.client(answer()).tick(), Outcome.STAYED),
    ],
)
def test_who_does_not_go_stays(does: Callable[[Script], Script], outcome: Outcome) -> None:
    stays(does(recalled()), outcome)


@pytest.mark.parametrize("accepts", [True, False])
def test_who_goes_goes(accepts: bool) -> None:
    s = recalled()
    if accepts:
        s.client(answer())
    s.client(END).node(END).is_over()
    s.expect(s.reported(Transferred).tried == ((Rung.CXFR, Outcome.MOVED),), "its end")


def test_an_answer_in_the_middle_of_traffic() -> None:
    chunk = HELLO + answer("error") + PING
    for at in range(1, len(chunk)):
        recalled().client(chunk[:at]).client(chunk[at:]).node_gets(HELLO, PING).client_gets().is_in(State.BOUND)


def test_who_was_recalled_after_having_accepted_has_as_long_as_ever() -> None:
    s = Script().bind().order().wait(5).client(answer()).recall().forget().wait(9.9)
    s.expect(s.session.rung is Rung.CXFR, "that it is waited for")
    stays(s.tick(), Outcome.STAYED)


def test_a_question_that_could_not_be_put_is_not_put() -> None:
    s = Script(cut_through=True).bind().node(LONG[:15_000]).order().recall().is_in(State.BOUND).forget()
    s.node(LONG[15_000:]).client_gets(LONG[15_000:])
    s.expect(not any(isinstance(event, Learned) for event in s.events), "nothing to be learned")
    s.expect(s.reported(Transferred).tried == ((Rung.CXFR, Outcome.SILENT),), "its end")


def test_what_is_beyond_the_question_goes_on() -> None:
    for s in (Script().bind().order(HURRIED), Script().bind().order().client(answer("error"))):
        s.forget().recall().nobody_gets_anything().node(END).client_gets(SEE_OTHER_HOST, END)


def test_without_an_order_there_is_nothing_to_recall() -> None:
    Script().recall().bind().recall().nobody_gets_anything().is_in(State.BOUND).reports()


@pytest.mark.parametrize("first", ["recalled", "lost"])
def test_nobody_stays_without_a_node(first: str) -> None:
    s = Script().bind().order()
    s = s.recall().node_ends() if first == "recalled" else s.node_ends().recall()
    s.forget().client(answer("error")).client_gets(SEE_OTHER_HOST, END)


def test_an_order_that_hurries_counts() -> None:
    recalled().order(HURRIED).node_gets(END).node(END).client_gets(SEE_OTHER_HOST, END)


def test_the_next_order_begins_over() -> None:
    recalled().tick().order().client_gets(iq(2))
    s = recalled().client(refusal()).order().node_gets(END).node(END).client_gets(SEE_OTHER_HOST, END)
    s.expect(s.events.count(Asked(Rung.SEE_OTHER_HOST, ELSEWHERE, first=True)) == 1, "a transfer of its own")


def test_a_late_answer_is_for_the_node_which_counts_it_too() -> None:
    s = Script().bind(stream_management=True).client(SUPPORT).order().recall().tick().forget()
    s.client(answer(), HELLO).node_gets(answer(), HELLO).is_in(State.BOUND)
    s.node(f"<a xmlns='{SM}' h='3'/>").client_gets(f"<a xmlns='{SM}' h='3'/>")
    s.expect(Redirected() not in s.events, "no redirect: it has come too late")


def test_counts_stay_right() -> None:
    s = Script().bind().client(ENABLE).node(ENABLED).client(SUPPORT).order().recall().client(answer("error")).forget()
    s.is_in(State.BOUND).client(HELLO, f"<a xmlns='{SM}' h='1'/>")
    s.expect(b'h="0"' in s.sent[Side.NODE], "the node's count").forget()
    s.node(f"<a xmlns='{SM}' h='2'/>")
    s.expect(b'h="3"' in s.sent[Side.CLIENT], "the client's count").forget()
    s.client_ends().node_gets(END)
