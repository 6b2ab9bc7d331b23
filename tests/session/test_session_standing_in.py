"""The proxy speaks XEP-0198 with the node in the place of a client that does not, and the client sees none of it; and
sessions whose connection to the node breaks, which go on by it.

Random histories of both kinds of clients are in :mod:`test_session_exchange`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from honest_counters import SM
from session_script import (
    ACTIVE,
    AUTH,
    BIND,
    BIND_RESULT,
    CLIENT_HEADER,
    ELSEWHERE,
    ENABLE,
    ENABLED,
    END,
    FEATURES,
    HELLO_WAITED,
    HURRIED,
    INACTIVE,
    JID,
    NODE_HEADER,
    SM_FEATURES,
    SUCCESS,
    Script,
    iq,
    stream_error,
)

from cxfr_proxy.config.table import Timeouts
from cxfr_proxy.session.commands import (
    Asked,
    Awakened,
    Dial,
    Ended,
    MigrationFailed,
    NodeChanged,
    NodeLost,
    NodeRegained,
    Outcome,
    Reason,
    Resumable,
    Side,
    Transferred,
)
from cxfr_proxy.session.exchanging import STEP_SECONDS
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.replay import ASK_EVERY, FORGIVEN_SECONDS, MOST_BREAKS
from cxfr_proxy.session.standing_in import CHANCE_SECONDS
from cxfr_proxy.session.tables import State
from cxfr_proxy.xmpp.stream_management import Resumption

R: Final = f"<r xmlns='{SM}'/>"
ASKS: Final = f"<enable xmlns='{SM}' resume='true' max='60'/>"
COUNTS: Final = f"<enabled xmlns='{SM}' id='sm9' resume='true' max='60'/>"
PRESENCE: Final = "<presence/>"
REFUSED: Final = f"<failed xmlns='{SM}'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
DEAD: Final = Order(Trigger.NODE_DOWN, node_dead=True)


def a(h: int) -> str:
    return f"<a xmlns='{SM}' h='{h}'/>"


def resume(h: int, previd: str = "sm9") -> str:
    return f"<resume xmlns='{SM}' h='{h}' previd=\"{previd}\"/>"


def resumed(h: int, previd: str = "sm9") -> str:
    return f"<resumed xmlns='{SM}' h='{h}' previd='{previd}'/>"


def news(number: int) -> str:
    return f"<message from='romeo@example.org' id='n{number}'/>"


def hello(number: int) -> str:
    return f"<message to='romeo@example.org' id='h{number}'/>"


def bound(**options: object) -> Script:
    return Script(stands_in=True, **options).bind(features=SM_FEATURES)  # type: ignore[arg-type]


def asked() -> Script:
    return bound().client(PRESENCE).node_gets(ASKS, PRESENCE)


def counting(**options: object) -> Script:
    """The proxy counts; the client's presence is the first stanza that does."""
    return bound(**options).client(PRESENCE).node(COUNTS).client_gets().forget()


def in_use() -> Script:
    """A presence and two stanzas up, of which one is acknowledged, and two down."""
    return counting().node(news(1), a(1), news(2)).client(hello(1), hello(2)).forget()


def its_own() -> Script:
    """A client with XEP-0198 of its own: two stanzas each way, one of each acknowledged."""
    s = bound().client(ENABLE).node(ENABLED.replace("sm1", "sm9")).node(news(1), news(2))
    return s.client(a(1), hello(1), hello(2)).node(a(1)).forget()


def broken() -> Script:
    return in_use().node_ends().nobody_gets_anything().is_in(State.BOUND).reports()


# --- who counts


def test_the_proxy_asks_once_the_client_has_not() -> None:
    s = asked().node(COUNTS).nobody_gets_anything().reports()
    s.node(news(1), R).client_gets(news(1)).node_gets(a(1)).client(hello(1)).node_gets(hello(1))
    s.node(a(2), news(2), R, news(3)).client_gets(news(2), news(3)).node_gets(a(2))
    s.expect(not s.session.stream_management, "the client to have none").expect(s.session.resumable_id is None, "none")


def test_stanzas_that_came_before_the_answer_do_not_count() -> None:
    asked().node(news(1), COUNTS, news(2), R).client_gets(news(1), news(2)).node_gets(a(1))


def test_a_client_that_asks_counts_itself() -> None:
    s = bound().client(ENABLE, PRESENCE).node_gets(ENABLE, PRESENCE).node(ENABLED, news(1), R)
    s.client_gets(ENABLED, news(1), R).client(a(1)).node_gets(a(1)).wait(60).nobody_gets_anything()
    s.expect(s.session.deadline is None, "nothing to be waited for")


def test_a_client_without_presence_has_a_while_to_ask() -> None:
    s = bound().client(hello(1)).node_gets(hello(1))
    s.expect(s.session.deadline == s.now + CHANCE_SECONDS, "a deadline").tick().node_gets(ASKS)
    s.node(COUNTS).client(hello(2)).node_gets(hello(2)).node(a(1), R).client_gets().node_gets(a(0))


@pytest.mark.parametrize(
    "scene",
    [
        lambda: Script(stands_in=True).bind(),
        lambda: Script().bind(features=SM_FEATURES),
        lambda: Script(stands_in=True, node="guarded").bind(features=SM_FEATURES),
    ],
    ids=["the node does not offer it", "it is not set", "the proxy can't log in there"],
)
def test_otherwise_nobody_counts(scene: Callable[[], Script]) -> None:
    s = scene().client(PRESENCE).node_gets(PRESENCE).wait(60).nobody_gets_anything()
    s.node(R).client_gets(R)
    s.expect(not s.session.can_migrate, "it to be moved otherwise").node_ends().reports(NodeLost(Reason.NODE_LOST))


def test_a_node_that_refuses_is_left_alone() -> None:
    s = asked().node(REFUSED).nobody_gets_anything().client(hello(1)).node_gets(hello(1)).node(R).client_gets(R)
    s.expect(not s.session.can_migrate, "it to be moved otherwise")


def test_a_node_that_gives_no_id_is_answered_and_nothing_else() -> None:
    s = asked().node(f"<enabled xmlns='{SM}'/>", news(1), R).client_gets(news(1)).node_gets(a(1))
    s.expect(not s.session.can_migrate, "it to be moved otherwise").node_ends().reports(NodeLost(Reason.NODE_LOST))


def test_a_client_that_may_still_ask_is_moved_as_ever() -> None:
    bound().order().client_gets(iq()).client(PRESENCE).node_gets(ASKS, PRESENCE)


def test_sessions_that_pass_unseen_stay_so() -> None:
    s = counting()
    s.expect(s.session.fast == [s.session._parts.client.lane, s.session._parts.node.lane], "both lanes to be fast")


# --- what is kept


def test_the_node_is_asked_now_and_then() -> None:
    s = counting().client(*map(hello, range(ASK_EVERY - 2))).forget().client(hello(8)).node_gets(hello(8), R)
    s.node(a(ASK_EVERY)).client(*map(hello, range(ASK_EVERY - 1))).forget().client(hello(9)).node_gets(hello(9), R)


def test_a_node_that_acknowledges_nothing_stops_the_client_and_ends_the_session() -> None:
    long = f"<message to='romeo@example.org'><body>{'x' * 3_000}</body></message>"
    s = counting(max_unacknowledged=10_000).client(long).node_gets(long, R).client(long).node_gets(long, R)
    s.client(long).expect(s.session.wants(Side.CLIENT), "it to be read").client(long)
    s.expect(not s.session.wants(Side.CLIENT), "it to be held").node_gets(long, R, long, R)
    s.node(a(1)).expect(not s.session.wants(Side.CLIENT), "it to be held").wait(20)
    s.node(a(2)).expect(s.session.wants(Side.CLIENT), "it to be read").client(long)
    s.expect(not s.session.wants(Side.CLIENT), "it to be held").node_gets(long, R)
    stall = s.timeouts.write_stall_timeout
    s.expect(s.session.deadline == s.now + stall, "a deadline").tick().node_gets(a(0), END).is_over(at_once=True)
    s.expect(s.reported(Ended).reason is Reason.STALLED, "the reason")


def test_one_long_stanza_is_held_back_alone() -> None:
    long = f"<message to='romeo@example.org'><body>{'x' * 8_000}</body></message>"
    s = counting(max_unacknowledged=5_000).client(long).expect(True, "")
    s.expect(not s.session.wants(Side.CLIENT), "it to be held").node(a(2))
    s.expect(s.session.wants(Side.CLIENT), "it to be read").expect(s.session.deadline is None, "no deadline")


def test_a_node_that_counts_what_was_never_sent_is_not_relied_on() -> None:
    s = in_use().node(a(4)).client(hello(3)).node_gets(hello(3)).client_gets().node(R).node_gets(a(2))
    s.expect(not s.session.can_migrate, "it to be moved otherwise").node_ends().reports(NodeLost(Reason.NODE_LOST))


# --- moves


def test_a_session_is_taken_to_another_node() -> None:
    s = in_use().migrate().nobody_gets_anything().dialled().node_gets(R).node(news(3), R, a(3)).client_gets(news(3))
    s.node_gets(a(3), resume(3)).node(resumed(3)).nobody_gets_anything()
    order = replace(ELSEWHERE, migrates=True)
    over = Transferred(order, ((Rung.MIGRATE, Outcome.MOVED),), 0.0, "node1", 0.0)
    s.reports(Asked(Rung.MIGRATE, order, first=True), NodeChanged("node1", "node2"), over)
    s.client(hello(3)).node_gets(hello(3)).node(news(4), R, a(4)).client_gets(news(4)).node_gets(a(4))


def test_the_old_nodes_last_words_are_not_for_the_client() -> None:
    s = in_use().migrate().dialled().node(a(2)).node_gets(R).client_gets()
    s.node(a(3), news(3), stream_error("conflict"), END).node_gets(resume(2)).node(resumed(3), news(3))
    s.client_gets(news(3)).is_in(State.BOUND)


def test_clients_are_told_to_move_where_that_is_not_possible() -> None:
    s = in_use().migrate().not_dialled().client_gets(iq()).is_in(State.TRANSFERRING)
    s.node(R).node_gets(a(2)).client(hello(3)).node_gets(hello(3))


# --- a connection that breaks


def test_a_broken_connection_is_replaced() -> None:
    s = broken().expect(not s_wants_client(broken()), "the client to be held")
    s.dialled(node="node1").node_gets(resume(2)).node(resumed(2)).node_gets(hello(2), R).client_gets()
    s.reports(NodeRegained(0.0)).expect(s.session.deadline is None, "no deadline")
    s.node(news(3), R, a(3)).client_gets(news(3)).node_gets(a(3)).client(hello(3)).node_gets(hello(3))


def s_wants_client(s: Script) -> bool:
    return s.session.wants(Side.CLIENT)


def test_what_the_node_had_not_sent_in_whole_comes_again() -> None:
    s = in_use().node(news(3)[:20]).node_ends().client_gets().dialled(node="node1")
    s.node_gets(resume(2)).node(resumed(3), news(3)).client_gets(news(3)).node_gets()


def test_a_client_with_counts_of_its_own_notices_nothing_either() -> None:
    s = its_own().client(hello(3)[:10]).node_ends().nobody_gets_anything().dialled(node="node1").node_gets(resume(1))
    s.node(resumed(1), news(2), news(3), R).client_gets(news(3), R).node_gets(hello(2), R).client(hello(3)[10:], a(3))
    s.node_gets(hello(3), a(3)).node(a(3)).client_gets(a(3))
    counters = s.session._parts.accounting.management.counters
    s.reports(Resumable("sm9", "sm9", counters), NodeRegained(0.0))


def test_the_node_is_told_again_that_nobody_looks() -> None:
    s = in_use().client(INACTIVE).node_ends().forget().dialled(node="node1").node(resumed(3))
    s.node_gets(resume(2), INACTIVE).client(ACTIVE).node_gets(ACTIVE).reports(NodeRegained(0.0), Awakened())


@pytest.mark.parametrize("scene", [in_use, its_own])
@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (lambda s: s.not_dialled(), "it can't be reached"),
        (lambda s: s.tick(), "it takes too long to log in"),
        (lambda s: s.dialled(node="node1").node(REFUSED), "it does not resume the session"),
        (lambda s: s.dialled(node="node1").node(resumed(9)), "it does not resume the session"),
        (lambda s: s.dialled(node="node1").node(resumed(0)), "it does not resume the session"),
        (lambda s: s.dialled(node="node1").wait(STEP_SECONDS), "it does not resume the session"),
        (lambda s: s.order(DEAD), "there was no time to take it up again"),
        (lambda s: s.order(HURRIED), "there was no time to take it up again"),
    ],
    ids=["refused", "slow", "forgotten", "more than was sent", "less than was handled", "silent", "dead", "hurried"],
)
def test_a_session_that_the_node_has_not_got_is_lost(
    scene: Callable[[], Script], happens: Callable[[Script], Script], why: str
) -> None:
    s = happens(scene().node_ends()).client_gets().is_in(State.BOUND)
    s.expect(s.reported(MigrationFailed) == MigrationFailed("node1", why), why)
    s.expect(s.reported(NodeLost).reason is Reason.NODE_LOST, "a node that is lost")
    s.expect(not s.spare and not s.dialling, "nothing left over").expect(s.session.deadline is None, "no deadline")
    s.expect(s_wants_client(s) and s.session.node_lost, "the client to be read")
    s.client("<message to='romeo@example.org' id='m'/>")
    s.client_gets(*(() if s.session.stream_management else (HELLO_WAITED,)))


def test_orders_that_have_time_wait_until_it_is_decided() -> None:
    s = broken().order().nobody_gets_anything().dialled(node="node1").node(resumed(3)).is_in(State.BOUND)
    s.reports(NodeRegained(0.0)).order().client_gets(iq())


def test_a_connection_that_breaks_again_is_replaced_again() -> None:
    s = broken().dialled(node="node1").node_gets(resume(2)).node_ends().is_in(State.BOUND).dialled(node="node1")
    s.node_gets(resume(2)).node(resumed(2)).node_gets(hello(2), R).reports(NodeRegained(0.0))


def test_a_connection_that_breaks_all_the_time_is_given_up() -> None:
    s = in_use()
    for _ in range(MOST_BREAKS):
        s.node_ends().dialled(node="node1").node(resumed(3))
    s.node_ends().expect(s.events[-1] == NodeLost(Reason.NODE_LOST), "a node that is lost")


def test_breaks_are_forgiven_in_time() -> None:
    s = in_use()
    for _ in range(3 * MOST_BREAKS):
        s.node_ends().dialled(node="node1").node(resumed(3)).wait(FORGIVEN_SECONDS)
    s.is_in(State.BOUND).client(hello(3)).expect(s.sent[Side.NODE].endswith(hello(3).encode()), "it to go on")


def test_a_connection_that_breaks_while_stanzas_come_again_is_replaced() -> None:
    s = (
        its_own()
        .node(news(3))
        .forget()
        .node_ends()
        .dialled(node="node1")
        .node_gets(resume(1))
        .node(resumed(1), news(2))
    )
    s.client_gets().node_gets(hello(2), R).node_ends().dialled(node="node1").node_gets(resume(1))
    s.node(resumed(2), news(2), news(3), news(4)).client_gets(news(4)).node_gets()


@pytest.mark.parametrize("settling", [False, True])
@pytest.mark.parametrize("scene", [in_use, its_own])
def test_a_session_that_is_being_moved_goes_to_the_other_node(scene: Callable[[], Script], settling: bool) -> None:
    h = 2 if scene is in_use else 1
    s = scene().migrate()
    if settling:
        s.dialled().node_gets(R).node_ends()
    else:
        s.node_ends().nobody_gets_anything().dialled()
    s.node_gets(resume(h)).node(resumed(h)).node_gets(hello(2), R).is_in(State.BOUND)
    s.expect(s.session.node == "node2", "the other node")
    s.expect(s.reported(Transferred).tried == ((Rung.MIGRATE, Outcome.MOVED),), "it to be there")


def test_a_client_that_has_the_beginning_of_a_stanza_cannot_go_on() -> None:
    s = Script(stands_in=True, cut_through=True).bind(features=SM_FEATURES).client(PRESENCE).node(COUNTS)
    s.node(f"<message><body>{'x' * 12_000}").node_ends().is_over(at_once=True)


@pytest.mark.parametrize("way", [lambda s: s.node(stream_error("system-shutdown"), END), lambda s: s.node(END)])
def test_a_node_that_ends_its_stream_is_not_called_again(way: Callable[[Script], Script]) -> None:
    s = way(in_use())
    s.expect(not any(isinstance(command, Dial) for command in s.commands), "no dial")


def test_a_client_that_is_being_asked_to_move_is_not_kept() -> None:
    in_use().order().node_ends().expect(not in_use().dialling, "no dial").client(END).client_ends().is_over()


# --- the end


def test_a_client_that_leaves_gets_what_it_is_owed_and_nothing_twice() -> None:
    s = in_use().client(END)
    s.node_gets(a(3), END).node(news(3), END).client_gets(END).client_ends().is_over()


def test_the_last_acknowledgement_stands_behind_the_answer() -> None:
    s = counting(asks=True).client(END).node_gets(ping(1)).node(news(1)).client_gets(news(1))
    s.node(pong(1), news(2)).node_gets(a(3), END).client_gets(news(2))
    s.node(news(3), R, news(4), END).client_gets(END).node_gets().client_ends().is_over()


def ping(number: int) -> str:
    attributes = f"xmlns='jabber:client' type='get' id=\"urn:xmpp:cxfr:t{number}\" to=\"example.org\""
    return f"<iq {attributes}><ping xmlns='urn:xmpp:ping'/></iq>"


def pong(number: int) -> str:
    return f"<iq type='result' id='urn:xmpp:cxfr:t{number}'/>"


def test_the_end_of_a_client_that_is_gone_says_what_it_has_got() -> None:
    in_use().client_ends().node_gets(a(2), END).node(news(3), END).node_ends().is_over()


def test_a_stanza_that_is_cut_through_is_acknowledged_with_the_end() -> None:
    s = Script(stands_in=True, cut_through=True).bind(features=SM_FEATURES).client(PRESENCE).node(COUNTS).forget()
    long = f"<message><body>{'x' * 12_000}", "</body></message>"
    s.node(news(1)).node(long[0]).client(END).node_gets(a(2), END).client_gets(news(1), long[0])
    s.node(long[1], news(2)).client_gets(long[1]).node(long[0]).node(long[1], END).client_gets(END)


def test_a_proxy_that_stops_leaves_no_session_behind() -> None:
    in_use().stop().node_gets(a(2), END).is_over(at_once=True)
    asked().stop().node_gets(END).is_over(at_once=True)


def test_a_session_that_is_to_be_resumed_leaves_nothing_behind_in_the_proxy() -> None:
    s = broken().stop().is_over(at_once=True)
    s.expect(not s.spare and not s.dialling, "nothing left over")


def test_a_client_that_is_cut_is_sent_off_in_good_order() -> None:
    s = in_use().order(HURRIED)
    s.node_gets(a(3), END)


# --- a client that asks late


def handed_over() -> Script:
    """Three stanzas up came before, of which one is acknowledged, and two down."""
    s = in_use().client(ENABLE).node_gets(a(2)).client_gets(f"<enabled xmlns='{SM}' id='t1' resume='true'/>")
    counters = s.session._parts.accounting.management.counters
    return s.reports(Resumable("t1", "sm9", counters))


def edited(h: int) -> str:
    return f'<a xmlns="{SM}" xmlns:stream="http://etherx.jabber.org/streams" h="{h}"/>'


def test_a_client_that_asks_late_gets_it_from_the_proxy() -> None:
    s = handed_over().client(hello(3), R).node_gets(hello(3), R)
    s.node(a(2)).client_gets(edited(0)).node(a(4), news(3), R).client_gets(edited(1), news(3), R)
    s.client(a(1), hello(4)).node_gets(edited(3), hello(4)).node(a(5)).client_gets(edited(2))
    s.expect(s.session.resumable_id == "t1", "an id").expect(s.session.can_be_resumed, "it to be resumable")


def test_what_came_before_and_did_not_arrive_is_not_its_clients_any_more() -> None:
    """As with a client that asks late without a proxy."""
    s = handed_over().client(hello(3))
    counters = s.session._parts.accounting.management.counters
    later = Script(stands_in=True, resumable={"t1": Resumption(JID, "node1", "sm9", counters)})
    later.node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER)
    later.node(NODE_HEADER, SM_FEATURES).client(f"<resume xmlns='{SM}' h='0' previd='t1'/>").forget()
    later.node(resumed(2)).expect(b'h="0"' in later.sent[Side.CLIENT], "nothing of the client's").client(hello(3))
    later.node_gets(hello(3)).node(a(3)).expect(b'h="1"' in later.sent[Side.CLIENT][-20:], "one")


def test_it_can_be_moved_and_its_connection_may_break() -> None:
    s = handed_over().client(hello(3)).node(news(3)).forget().node_ends().dialled(node="node1").node_gets(resume(2))
    s.node(resumed(2), news(3), news(4)).client_gets(news(4)).node_gets(hello(2), hello(3), R)
    s.node(a(4)).client_gets(edited(1)).client(a(2)).node_gets(edited(4)).wait(3).forget()
    s.migrate().dialled().node_gets(R).node(a(4)).node_gets(resume(4)).node(resumed(4)).client(hello(4))
    s.node_gets(hello(4)).expect(s.session.node == "node2", "the other node")


def test_it_can_be_resumed_by_its_client_later() -> None:
    s = handed_over().client(hello(3)).node(news(3), news(4)).client(a(1)).forget()
    s.client_ends().node_gets().output_ended(Side.CLIENT, Side.NODE)
    counters = s.session._parts.accounting.management.counters
    later = Script(stands_in=True, resumable={"t1": Resumption(JID, "node1", "sm9", counters)})
    later.node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER)
    later.node(NODE_HEADER, SM_FEATURES).forget().client(f"<resume xmlns='{SM}' h='1' previd='t1'/>")
    later.expect(b'h="3"' in later.sent[Side.NODE] and b'previd="sm9"' in later.sent[Side.NODE], "the node's count")
    later.forget().node(resumed(4), news(4)).expect(b'h="1"' in later.sent[Side.CLIENT], "the client's count")


def test_one_that_does_not_want_to_resume_gets_no_id() -> None:
    s = in_use().client(f"<enable xmlns='{SM}'/>").client_gets(f"<enabled xmlns='{SM}'/>").node_gets(a(2))
    s.expect(s.session.resumable_id is None, "no id").client_ends().node_gets(END)


def test_one_that_asks_while_the_node_has_not_answered_waits_for_it() -> None:
    s = asked().client(ENABLE, hello(1)).node_gets(hello(1)).client_gets().node(news(1), COUNTS, news(2), R)
    s.client_gets(news(1), f"<enabled xmlns='{SM}' id='t1' resume='true'/>", news(2), R).node_gets(a(0))
    s.node(a(1)).client_gets(edited(0)).client(a(1)).node_gets(a(1)).node(a(2)).client_gets(edited(1))


def test_one_whose_node_does_not_count_is_told_so() -> None:
    s = asked().client(ENABLE).node(REFUSED).client_gets(REFUSED).node_gets()
    s.expect(not s.session.stream_management, "nobody to count").client(hello(1)).node_gets(hello(1))


def test_the_answer_waits_for_a_boundary() -> None:
    s = Script(stands_in=True, cut_through=True).bind(features=SM_FEATURES).client(PRESENCE).node(COUNTS).forget()
    long = f"<message><body>{'x' * 12_000}", "</body></message>"
    s.node(long[0]).client(ENABLE).client_gets(long[0]).node_gets().node(long[1], news(1))
    s.client_gets(long[1], news(1), f"<enabled xmlns='{SM}' id='t1' resume='true'/>").node_gets(a(2))


@pytest.mark.parametrize("word", [ENABLE.replace("sm:3", "sm:2"), f"<resume xmlns='{SM}' previd='x' h='0'/>"])
def test_other_words_are_refused(word: str) -> None:
    namespace = "urn:xmpp:sm:2" if "sm:2" in word else SM
    s = in_use().client(word).client_gets(REFUSED.replace(SM, namespace)).node_gets()
    s.client(R, a(1), "<r xmlns='else'/>").client_gets().node_gets("<r xmlns='else'/>")


def test_a_client_that_has_sent_much_before_the_node_counts_is_read_again() -> None:
    s = Script(stands_in=True, max_unacknowledged=10_000)
    s.node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER).node(NODE_HEADER, SM_FEATURES)
    long = f"<message to='romeo@example.org'><body>{'x' * 6_000}</body></message>"
    s.client(BIND, ENABLE, long, long).node(BIND_RESULT).expect(not s_wants_client(s), "it to be held").forget()
    s.node(ENABLED).node_gets(R).node(a(2)).expect(s_wants_client(s), "it to be read")


@pytest.mark.parametrize("scene", [in_use, its_own])
def test_a_connection_that_breaks_during_its_login_is_made_again(scene: Callable[[], Script]) -> None:
    s = scene().node_ends().forget()
    due = s.session.deadline
    for _ in range(MOST_BREAKS - 1):
        s.not_dialled(broke=True).nobody_gets_anything().reports().expect(s.dialling, "another attempt")
    s.expect(s.session.deadline == due and not s_wants_client(s), "the same time for all of them, and the client held")
    s.dialled(node="node1").node(resumed(3 if scene is in_use else 2))
    s.expect(s.reported(NodeRegained).seconds == 0.0, "the session again")


def test_a_connection_that_breaks_during_each_login_is_given_up() -> None:
    s = broken()
    for _ in range(MOST_BREAKS):
        s.expect(s.dialling, "an attempt").not_dialled(broke=True)
    s.expect(s.reported(MigrationFailed).why == "it can't be reached", "why").expect(not s.dialling, "no other one")
    s.expect(s.events[-1] == NodeLost(Reason.NODE_LOST), "a node that is lost").order().client_gets(iq())


def test_all_attempts_together_have_the_time_of_one() -> None:
    s = broken().not_dialled(broke=True).wait(Timeouts().migrate_timeout).is_in(State.BOUND)
    s.expect(s.reported(MigrationFailed).why == "it takes too long to log in", "why").expect(not s.dialling, "no dial")


def test_a_move_whose_login_breaks_goes_down_the_ladder_at_once() -> None:
    s = in_use().migrate().not_dialled(broke=True).client_gets(iq()).is_in(State.TRANSFERRING)
    s.expect(not s.dialling, "no other attempt")


def prefixed(h: int) -> str:
    return f"<x:a xmlns:x='{SM}' h='{h}'/>"


def test_a_client_may_acknowledge_with_a_prefix() -> None:
    s = bound().client(ENABLE).node(ENABLED.replace("sm1", "sm9")).node(news(1), news(2)).client(prefixed(2)).forget()
    s.node_ends().dialled(node="node1").node_gets(resume(2)).node(resumed(0), news(3)).client_gets(news(3))


def test_what_another_namespace_calls_an_acknowledgement_is_none() -> None:
    s = its_own().client("<a xmlns='urn:other' h='2'/>").forget()
    s.node_ends().dialled(node="node1").node_gets(resume(1))


def test_a_node_may_acknowledge_with_a_prefix() -> None:
    s = counting(max_unacknowledged=300)
    for number in range(1, 9):
        s.client(hello(number)).node(prefixed(number + 1))
    s.expect(s_wants_client(s), "the client to be read")


def test_what_another_namespace_calls_a_request_asks_no_node() -> None:
    s = counting()
    for number in range(1, 9):
        s.client(hello(number), "<r xmlns='urn:other'/>")
    s.expect(s.sent[Side.NODE].count(R.encode()) == 1, "one request, the proxy's own")


def test_a_stanza_with_a_prefix_that_is_cut_through_is_acknowledged_with_the_end() -> None:
    s = Script(stands_in=True, cut_through=True).bind(features=SM_FEATURES).client(PRESENCE).node(COUNTS).forget()
    long = f"<c:message xmlns:c='jabber:client'><c:body>{'x' * 12_000}", "</c:body></c:message>"
    s.node(long[0]).client(END).node_gets(a(1), END).node(long[1], END).client_gets(long[0], long[1], END)


def test_what_came_with_the_end_of_a_long_forged_transfer_is_not_acknowledged() -> None:
    """The session is over, so the client does not get it."""
    s = Script(stands_in=True, cut_through=True).bind(features=SM_FEATURES).client(PRESENCE).node(COUNTS).forget()
    s.node(f"<iq type='set' from='m@x' id='f'><query xmlns='urn:xmpp:cxfr'>{'x' * 12_000}")
    s.node("</query></iq>", news(1), news(2)).node_gets(a(1), END)


@pytest.mark.parametrize("kind", ["message", "presence"])
def test_a_long_stanza_with_a_prefix_ends_nothing(kind: str) -> None:
    s = Script(cut_through=True).bind().forget()
    long = f"<c:{kind} xmlns:c='jabber:client' type='result'>{'x' * 12_000}", f"</c:{kind}>"
    s.node(long[0]).node(long[1]).client_gets(*long).is_in(State.BOUND)
