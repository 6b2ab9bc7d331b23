"""A session's node leg is exchanged for another node's, while stanzas flow both ways and the client notices nothing.

Scripts by hand, step by step and with everything that can go wrong at each; then random histories of an honest client
and of honest nodes that share their sessions, in which nothing may be missing, come twice or be counted wrongly.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from exchange_histories import CutLegs, Exchanges, StandIns
from histories import histories
from honest_counters import SM
from lxml import etree
from session_script import (
    ACTIVE,
    AUTH,
    BIND_FEATURES,
    CLIENT_HEADER,
    DOMAIN,
    ELSEWHERE,
    END,
    FEATURES,
    HELLO,
    HURRIED,
    INACTIVE,
    NEWS,
    NODE_HEADER,
    SUCCESS,
    SUPPORT,
    Script,
    answer,
    iq,
    stream_error,
)

from cxfr_proxy.config.values import ClientMatch, Trait
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.session.commands import (
    Answered,
    Asked,
    Awakened,
    Dial,
    Ended,
    Event,
    Forgo,
    MigrationFailed,
    NodeChanged,
    NodeLost,
    Outcome,
    Reason,
    Resumable,
    Shifted,
    Side,
    Transferred,
)
from cxfr_proxy.session.exchanging import STEP_SECONDS
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.tables import State

R: Final = f"<r xmlns='{SM}'/>"
CHANGED: Final = NodeChanged("node1", "node2")


def a(h: int) -> str:
    return f"<a xmlns='{SM}' h='{h}'/>"


def resume(h: int) -> str:
    return f"<resume xmlns='{SM}' h='{h}' previd=\"sm1\"/>"


def resumed(h: int) -> str:
    return f"<resumed xmlns='{SM}' h='{h}' previd='sm1'/>"


def migration(node: str = "node2") -> Order:
    return replace(ELSEWHERE, target=node, migrates=True)


def is_resumed(s: Script, *before: Event, node: str = "node2") -> Script:
    """The last that was reported is that the session was resumed there."""
    resumable = Resumable("sm1", "sm1", s.session._parts.accounting.management.counters)
    source = "node1" if node == "node2" else "node2"
    over = Transferred(migration(node), ((Rung.MIGRATE, Outcome.MOVED),), 0.0, source, held_seconds=0.0)
    asked = Asked(Rung.MIGRATE, migration(node), first=True)
    return s.reports(*((asked, *before) if before else ()), resumable, over)


def news(number: int) -> str:
    return f"<message from='romeo@example.org' id='n{number}'/>"


def hello(number: int) -> str:
    return f"<message to='romeo@example.org' id='h{number}'/>"


def in_use(*, software: ClientSoftware | None = None) -> Script:
    """Two stanzas each way; the client has acknowledged one of its."""
    s = Script(client_software=software).bind(stream_management=True)
    s.node(news(1), news(2)).client(a(1), hello(1), hello(2))
    return s.forget()


def settling() -> Script:
    """The old node was asked how far it is."""
    return in_use().migrate().nobody_gets_anything().dialled().node_gets(R).client_gets()


def resuming() -> Script:
    """The new node was asked for the session. The old one's answer has reached the client."""
    s = settling().node(a(2)).client_gets(a(2)).node_gets(resume(1))
    return s.reports(Asked(Rung.MIGRATE, migration(), first=True), CHANGED)


# --- step by step


def test_a_leg_is_exchanged_and_the_client_goes_on() -> None:
    s = resuming().node(resumed(2), news(2), news(3)).client_gets(news(3))
    is_resumed(s).is_in(State.BOUND)
    s.client(hello(3), a(3)).node_gets(hello(3), a(3)).node(news(4)).client_gets(news(4))
    s.expect(s.session.node == "node2", "the other node").expect(s.session.deadline is None, "no deadline")
    s.expect(s.session.fast == [s.session._parts.client.lane, s.session._parts.node.lane], "both lanes to be fast")


def test_while_the_new_node_is_dialled_everything_goes_on() -> None:
    s = in_use().migrate().client(hello(3)).node_gets(hello(3)).node(news(3)).client_gets(news(3))
    s.client(a(3)).node_gets(a(3)).dialled().node_gets(R)
    s.node(news(4), a(3)).client_gets(news(4), a(3)).node_gets(resume(3))
    s.node(resumed(3), news(4), news(5)).client_gets(news(5))


def test_what_the_old_node_says_behind_its_answer_comes_from_the_new_one() -> None:
    s = settling().node(a(2), news(3), stream_error("conflict"), END).client_gets(a(2)).node_gets(resume(1))
    s.node(resumed(2), news(2), news(3)).client_gets(news(3)).is_in(State.BOUND)


def test_an_answer_to_an_older_question_does_not_count() -> None:
    s = settling().node(a(1)).client_gets(a(1)).node_gets().node(news(3), a(2)).client_gets(news(3), a(2))
    s.node_gets(resume(1)).node(resumed(2), news(2), news(3), news(4)).client_gets(news(4))


def test_the_client_is_held_at_a_boundary_and_what_it_had_begun_goes_to_the_new_node() -> None:
    whole = hello(3)
    s = in_use().migrate().client(whole[:20]).nobody_gets_anything().dialled()
    s.expect(not s.session.wants(Side.CLIENT), "the client to be held")
    s.node_gets(R).node(a(2)).node_gets(resume(1)).node(resumed(2), news(2))
    s.expect(s.session.wants(Side.CLIENT), "the client to be read").client(whole[20:]).node_gets(whole)


def test_a_client_that_has_said_nothing_yet_is_asked_what_it_has() -> None:
    s = Script().bind(stream_management=True).node(NEWS).client_gets(NEWS).migrate().client_gets(R)
    s.client(a(1)).node_gets(a(1)).dialled().node_gets(R).node(a(0)).node_gets(resume(1)).node(resumed(0))
    is_resumed(s, CHANGED)


def test_nothing_is_sent_again_where_the_client_has_acknowledged_all() -> None:
    s = in_use().client(a(2)).forget().migrate().dialled().node(a(2)).node_gets(R, resume(2))
    is_resumed(s.node(resumed(2)), CHANGED).node(news(3)).client_gets(a(2), news(3))


def test_a_long_stanza_that_is_sent_again_is_dropped_in_all_its_pieces() -> None:
    long = f"<message from='romeo@example.org'><body>{'x' * 30_000}</body></message>"
    s = Script(cut_through=True).bind(stream_management=True).node(news(1)).client(a(1))
    for at in range(0, len(long), 9_000):
        s.node(long[at : at + 9_000])
    s.forget().migrate().dialled().node(a(0)).node_gets(R, resume(1)).client_gets(a(0)).node(resumed(0))
    for at in range(0, len(long), 9_000):
        s.node(long[at : at + 9_000]).client_gets()
    is_resumed(s, CHANGED).node(news(3)).client_gets(news(3))


def test_stanzas_that_the_proxy_has_put_in_and_taken_out_still_count() -> None:
    s = Script().bind(stream_management=True).client(SUPPORT, R).node(a(1)).node(news(1)).order().recall()
    s.client(a(1), answer("error"), a(2)).is_in(State.BOUND).forget()
    # The client has got a stanza more than the node has sent, and the node one less than the client has sent.
    s.migrate().dialled().node_gets(R).node(a(1)).node_gets(resume(1))
    s.node(resumed(1), news(2)).client_gets(*edited_by_one(a(1)), news(2))
    s.client(a(3)).node_gets(*edited_by_one(a(3), -1)).client(hello(1)).node(a(2)).node_gets(hello(1))
    s.client_gets(*edited_by_one(a(2)))


def edited_by_one(ack: str, change: int = 1) -> list[str]:
    h = int(etree.fromstring(ack).get("h", "")) + change
    return [f'<a xmlns="{SM}" xmlns:stream="http://etherx.jabber.org/streams" h="{h}"/>']


def test_the_new_node_is_told_that_nobody_looks() -> None:
    s = in_use().client(INACTIVE).forget().migrate().dialled().node(a(2)).node(resumed(2), news(2))
    is_resumed(s, CHANGED).node_gets(R, resume(1), INACTIVE).client(ACTIVE).node_gets(ACTIVE).reports(Awakened())


def test_the_proxy_logs_in_as_the_user_of_whom_the_node_has_spoken_in_the_client_s_language() -> None:
    """Texts of the node's are in the language of the header, which the client will not send again."""
    header = CLIENT_HEADER.replace(" to=", " from='somebody-else@example.org' xml:lang='tlh' to=")
    s = Script(header=header).bind(stream_management=True, header=header).migrate().dialled().client(a(0))
    s.node(a(0)).node(resumed(0)).migrate("node1")
    first, again = (command for command in s.commands if isinstance(command, Dial))
    for dial, node in ((first, "node2"), (again, "node1")):
        assert (dial.node, dial.user) == (node, "juliet@example.org")
        opening = etree.fromstring(dial.header.raw + b"</stream:stream>")
        assert dict(opening.attrib) == {
            "from": "juliet@example.org",
            "to": DOMAIN,
            "version": "1.0",
            "{http://www.w3.org/XML/1998/namespace}lang": "tlh",
        }


def test_a_leg_can_be_exchanged_again_and_back() -> None:
    s = resuming().node(resumed(2), news(2)).client(a(2)).forget().migrate("node1").dialled(node="node1")
    s.node(a(2)).node_gets(R, resume(2)).node(resumed(2), news(3)).client_gets(a(2), news(3))
    is_resumed(s, NodeChanged("node2", "node1"), node="node1")


# --- what can go wrong, while the old leg is in its place

OTHER_PREFIXES: Final = NODE_HEADER.replace("xmlns:", "xmlns:x='y' xmlns:")
STUCK: Final[dict[str, tuple[Callable[[Script], Script], MigrationFailed, Outcome]]] = {
    "refused": (lambda s: s.not_dialled(), MigrationFailed("node2", "it can't be reached"), Outcome.REFUSED),
    "slow": (lambda s: s.tick(), MigrationFailed("node2", "it takes too long to log in"), Outcome.SILENT),
    "prefixes": (
        lambda s: s.dialled(header=OTHER_PREFIXES),
        MigrationFailed("node2", "its stream has other prefixes than the client's"),
        Outcome.REFUSED,
    ),
    "old node": (
        lambda s: s.dialled().wait(STEP_SECONDS),
        MigrationFailed("node1", "it does not say how far it is"),
        Outcome.SILENT,
    ),
}
KNOWING: Final = ClientSoftware(allow=[ClientMatch(Trait.DOMAIN, DOMAIN)])


@pytest.mark.parametrize("what", STUCK)
def test_the_client_is_asked_where_its_session_cannot_be_taken_there(what: str) -> None:
    happens, failed, outcome = STUCK[what]
    order = migration()
    s = happens(in_use(software=KNOWING).migrate())
    assert [event for event in s.events if isinstance(event, (Asked, MigrationFailed, Answered))] == [
        Asked(Rung.MIGRATE, order, first=True),
        failed,
        Answered(Rung.MIGRATE, order, outcome),
        Asked(Rung.CXFR, order, first=False),
    ]
    s.expect(not s.spare, "nothing left over").client_gets(iq()).is_in(State.TRANSFERRING).forget()
    s.client(hello(3)).node_gets(hello(3)).node(news(3)).client_gets(news(3))
    s.expect(s.session.node == "node1", "the old node").client(answer("error"), END)
    s.expect(s.reported(Transferred).tried[0][0] is Rung.MIGRATE, "all that was tried")
    s.expect(s.reported(Transferred).not_taken == failed.why, "why the first rung did not work")


@pytest.mark.parametrize("what", STUCK)
def test_a_client_that_knows_no_request_is_cut(what: str) -> None:
    s = STUCK[what][0](in_use().migrate()).output_ended(Side.CLIENT, Side.NODE)
    tried = (Rung.MIGRATE, STUCK[what][2]), (Rung.CUT, Outcome.MOVED)
    s.expect(s.reported(Transferred).tried == tried, f"{tried}").client_gets()


@pytest.mark.parametrize("what", STUCK)
def test_a_client_that_nothing_forces_and_that_would_not_come_back_stays(what: str) -> None:
    s = Script().bind(stream_management=True, jid="juliet@example.org/mcabber.1").node(news(1)).client(a(1))
    order = replace(migration(), trigger=Trigger.REBALANCE)
    s = STUCK[what][0](s.order(order).forget()).is_in(State.BOUND)
    s.expect(s.reported(Transferred).tried == ((Rung.MIGRATE, STUCK[what][2]),), "nothing more to be tried")
    s.forget().client(hello(3)).node_gets(hello(3)).node(news(3)).client_gets(news(3))


@pytest.mark.parametrize("step", [lambda: in_use().migrate(), lambda: in_use().migrate().dialled()])
def test_nobody_notices_a_move_that_is_recalled(step: Callable[[], Script]) -> None:
    s = step().recall().is_in(State.BOUND).forget()
    s.expect(not s.spare and not s.dialling, "nothing left over").expect(s.session.deadline is None, "no deadline")
    s.client(hello(3)).node_gets(hello(3)).node(a(3), news(3)).client_gets(a(3), news(3))
    s.expect(s.session.node == "node1", "the old node")


def test_a_move_that_is_recalled_too_late_goes_on() -> None:
    resuming().recall().node(resumed(2), news(2)).is_in(State.BOUND)


@pytest.mark.parametrize("step", [lambda: in_use().migrate(), lambda: in_use().migrate().dialled()])
def test_when_time_is_up_the_client_is_cut(step: Callable[[], Script]) -> None:
    s = step().order(HURRIED).output_ended(Side.CLIENT, Side.NODE)
    s.expect(not s.spare and not s.dialling, "nothing left over")


def test_a_hurried_order_does_not_wait_for_another_node() -> None:
    in_use().order(replace(migration(), hurried=True)).output_ended(Side.CLIENT, Side.NODE)


def test_the_whole_move_has_a_deadline_and_each_step() -> None:
    s = in_use().migrate()
    s.expect(s.session.deadline == s.now + s.timeouts.migrate_timeout, "the one for all")
    s.wait(s.timeouts.migrate_timeout - 0.5).dialled()
    s.expect(s.session.deadline == s.now + 0.5, "what is left of it")
    s.node(a(2))
    s.expect(s.session.deadline == s.now + STEP_SECONDS, "the time for a step: there is no way back")


def test_it_is_told_how_long_the_client_was_not_read() -> None:
    """Neither the dial before that counts, nor what is sent again behind it."""
    s = in_use().migrate().wait(1.0).dialled()
    s.expect(not s.session.wants(Side.CLIENT), "the client to be held").wait(0.25).node(a(2)).wait(0.125).node(
        resumed(2)
    )
    over = s.reported(Transferred)
    s.expect((over.seconds, over.held_seconds) == (1.375, 0.375), f"the times of {over}")


def test_a_client_that_has_acknowledged_nothing_is_waited_for() -> None:
    s = Script().bind(stream_management=True).migrate().dialled().client_gets(R).node_gets()
    s.client(HELLO).node_gets(HELLO).client(a(0)).node_gets(a(0), R).node(a(1)).node_gets(resume(0))


def test_the_old_node_is_asked_behind_what_comes_with_the_client_s_acknowledgement() -> None:
    """It would say how far it is without that, and the client is not read any more."""
    s = Script().bind(stream_management=True).node(news(1)).migrate().dialled().forget()
    s.client(a(1), hello(1)).node_gets(a(1), hello(1), R).node(a(1)).client_gets(a(1)).node_gets(resume(1))


def test_a_client_that_does_not_say_what_it_has_is_told_to_move() -> None:
    s = Script().bind(stream_management=True).migrate().dialled().tick()
    failed = MigrationFailed(None, "the client does not say what it has got")
    s.expect(s.reported(MigrationFailed) == failed, "the reason, and that it is no node's")
    s.output_ended(Side.CLIENT, Side.NODE)
    s.expect(s.reported(Transferred).not_taken == failed.why, "the reason")


@pytest.mark.parametrize("end", ["refusal", "end of stream", "hang-up", "garbage", "stream error", "silence"])
def test_a_node_that_does_not_resume_is_one_to_which_nothing_can_be_taken_however_it_says_so(end: str) -> None:
    s = resuming()
    match end:
        case "refusal":
            s.node("<failed xmlns='urn:xmpp:sm:3'/>")
        case "end of stream":
            s.node(END)
        case "hang-up":
            s.node_ends()
        case "garbage":
            s.node("<a></b>")
        case "stream error":
            s.node(stream_error("system-shutdown"))
        case "silence":
            s.wait(STEP_SECONDS)
    s.expect(s.reported(MigrationFailed) == MigrationFailed("node2", "it does not resume the session"), "the reason")
    s.expect(isinstance(s.events[-1], NodeLost), "a node that is lost")


def test_a_connection_that_comes_too_late_is_closed() -> None:
    s = in_use().migrate().tick().dialled()
    s.expect(isinstance(s.commands[-1], Forgo), "it to be closed")


@pytest.mark.parametrize("begin", [lambda: in_use().migrate().dialled(), settling], ids=["dialled", "settling"])
@pytest.mark.parametrize("shutdown", [True, False])
def test_an_old_node_that_goes_away_is_lost_as_ever(begin: Callable[[], Script], shutdown: bool) -> None:
    s = begin()
    s = s.node(stream_error("system-shutdown"), END) if shutdown else s.node_ends()
    reason = Reason.NODE_SHUTDOWN if shutdown else Reason.NODE_LOST
    s.client_gets().is_in(State.BOUND).expect(s.events[-1] == NodeLost(reason), "a node that is lost")
    s.expect(s.reported(Transferred).tried == ((Rung.MIGRATE, Outcome.CUT_OFF),), "nothing else to be tried")
    s.expect(not s.spare, "nothing left over").expect(s.session.wants(Side.CLIENT), "the client to be read")


def test_a_client_that_leaves_leaves() -> None:
    s = in_use().migrate().client(END)
    s.node_gets(R, END).node(a(2), END).client_gets(a(2), END).client_ends().is_over()
    s.expect(s.reported(Ended).reason is Reason.CLIENT_CLOSED, "the client's end")


@pytest.mark.parametrize("step", [settling, resuming])
def test_a_proxy_that_stops_leaves_nothing_behind(step: Callable[[], Script]) -> None:
    s = step().stop().is_over(at_once=True)
    s.expect(not s.spare, "nothing left over")
    s.expect(s.reported(Transferred).tried == ((Rung.MIGRATE, Outcome.CUT_OFF),), "an end of the transfer")


# --- what can go wrong once the legs are exchanged

LOST: Final[dict[str, Callable[[Script], Script]]] = {
    "it hasn't got it": lambda s: s.node(f"<failed xmlns='{SM}'/>"),
    "it knows less than was handled": lambda s: s.node(resumed(1)),
    "a stream error": lambda s: s.node(stream_error("undefined-condition"), END),
    "its end": lambda s: s.node(END),
    "the connection's end": lambda s: s.node_ends(),
    "no answer": lambda s: s.wait(STEP_SECONDS),
    "garbage": lambda s: s.node("</message>"),
}


@pytest.mark.parametrize("what", LOST.values(), ids=list(LOST))
def test_a_node_that_does_not_resume_the_session_is_lost(what: Callable[[Script], Script]) -> None:
    s = what(resuming())
    lost = s.reported(NodeLost).reason
    s.expect(lost in (Reason.NODE_LOST, Reason.NODE_CLOSED, Reason.NODE_FAULT), "a node that is lost").client_gets()
    s.expect(s.session.node_lost, "no node").expect(s.session.wants(Side.CLIENT), "the client to be read")
    s.order().is_in(State.CLOSING).output_ended(Side.CLIENT, Side.NODE)


def test_a_session_that_is_being_resumed_takes_no_order() -> None:
    s = resuming().order().nobody_gets_anything().is_in(State.TRANSFERRING).node(resumed(2), news(2))
    is_resumed(s).is_in(State.BOUND).order().output_ended(Side.CLIENT, Side.NODE)


def test_what_is_sent_again_is_dropped_also_for_a_client_that_leaves() -> None:
    resuming().node(resumed(2)).client(END).node_gets(R, END).node(news(2), news(3), END).client_gets(news(3), END)


# --- who can't be helped so


def resumed_by_itself() -> Script:
    """The client has resumed a session of which this proxy has seen nothing."""
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER)
    s.node(NODE_HEADER, BIND_FEATURES).client(resume(0)).node(resumed(0)).client(a(0))
    return s.expect(s.session.resumable_id == "sm1", "a session that can be resumed").forget()


@pytest.mark.parametrize(
    ("scene", "rung"),
    [
        (lambda: Script().bind(), Rung.CXFR),
        (lambda: Script().bind(stream_management=True).node_ends(), Rung.CUT),
        (lambda: resumed_by_itself(), Rung.CUT),
    ],
    ids=["without XEP-0198", "without a node", "nobody has said whose it is"],
)
def test_others_are_told_to_move(scene: Callable[[], Script], rung: Rung) -> None:
    s = scene().migrate()
    s.expect(s.reported(Asked).rung is rung, f"{rung}")


@pytest.mark.parametrize(
    "scene",
    [lambda: Script(), lambda: Script().bind(stream_management=True).migrate()],
    ids=["not bound", "under way"],
)
def test_others_go_on_as_they_are(scene: Callable[[], Script]) -> None:
    s = scene().forget()
    before = len(s.commands)
    s.migrate()
    s.expect(len(s.commands) == before, "no command")


@pytest.mark.parametrize(
    "kept_back",
    [
        pytest.param("<iq type='set' id='f' from='m@x'><query xmlns='urn:xmpp:cxfr'/></iq>", id="forged"),
        pytest.param("<c:message from='m@x'/>", id="unreadable"),
    ],
)
def test_what_a_node_sends_again_to_a_client_that_was_kicked_meanwhile_shifts_no_count(kept_back: str) -> None:
    """It is in no place that the client, which will resume, could acknowledge."""
    s = resuming().kick().forget().node(resumed(2), news(2), kept_back)
    s.expect(not any(isinstance(event, Shifted) for event in s.events), "counts as they were")


# --- histories

HISTORIES: Final = int(os.environ.get("CXFR_HISTORIES", "300"))
"""More of them are told by hand (docs/migration.md)."""
KINDS: Final[tuple[type[Exchanges], ...]] = (Exchanges, CutLegs, StandIns)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_hundreds_of_histories_without_a_loss_a_double_or_a_wrong_count(kind: type[Exchanges]) -> None:
    happened: Counter[str] = Counter()
    for history in histories(kind, HISTORIES // len(KINDS), range(60, 300)):
        happened.update(history.happened())
    dull = [what for what in kind.LIVELY if happened[what] < HISTORIES / len(KINDS) / 4]
    assert not dull, f"they were too dull to prove anything: {happened}"
