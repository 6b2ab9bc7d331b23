"""The tables of a session: every row is walked here by a scene, so none is a row that never happens; and the page that
is drawn from them is what it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from honest_counters import SM
from session_script import (
    AUTH,
    BIND,
    CLIENT_HEADER,
    ELSEWHERE,
    ENABLE,
    ENABLED,
    END,
    FEATURES,
    HELLO,
    HURRIED,
    NODE_HEADER,
    SM_FEATURES,
    SUCCESS,
    Script,
    answer,
    refusal,
    stream_error,
)

import cxfr_proxy
from cxfr_proxy.session import (
    chart,
    closing,
    ending,
    exchange,
    legs,
    node_end,
    node_owes,
    opening,
    stand_in,
    tables,
    transfer,
)
from cxfr_proxy.session.commands import EarlyLogin, Side
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import NODE_REACTIONS, TRANSITIONS, NodeDid, State, Transition, Where, follow
from cxfr_proxy.xmpp.opening.header import SHOWN
from cxfr_proxy.xmpp.opening.login import UNKNOWN

S = TypeVar("S")
Scene = Callable[[], Script]

EARLY: Final = EarlyLogin(UNKNOWN, bind_by=160.0, changes_left=1, shown=SHOWN)
DEAD: Final = Order(Trigger.NODE_DOWN, node_dead=True)
GONE: Final = stream_error("system-shutdown")
TO_ANOTHER: Final = stream_error("see-other-host", "node2.example.org")
LONG: Final = f"<message><body>{'x' * 20_000}"


def in_use() -> Script:
    return Script(trust_node_redirects=True).bind(stream_management=True)


def resuming() -> Script:
    s = in_use().client(f"<a xmlns='{SM}' h='0'/>").migrate().dialled()
    return s.node(f"<a xmlns='{SM}' h='0'/>")


def resumed() -> Script:
    return resuming().node(f"<resumed xmlns='{SM}' previd='sm1' h='0'/>")


def kept() -> Script:
    """The proxy has asked the node to count, and keeps what it sends it."""
    s = Script(stands_in=True).bind(features=SM_FEATURES).client("<presence/>")
    return s.node(ENABLED)


def handed_over() -> Script:
    return kept().client(ENABLE)


def shown_by_the_proxy() -> Script:
    return Script(early_login=EARLY, behind=AUTH)


WHERE: Final[dict[Where, Scene]] = {
    Where.NEGOTIATING: lambda: Script(trust_node_redirects=True),
    Where.BOUND: in_use,
    Where.TRANSFERRING: lambda: Script(trust_node_redirects=True).bind().order(),
    Where.RESUMING: resuming,
    Where.ENDING_NODE: lambda: in_use().client(END),
    # The client is gone, and the node, which keeps the session, is waited for.
    Where.CLOSING: lambda: in_use().client_ends(),
}
DID: Final[dict[NodeDid, Callable[[Script], Script]]] = {
    NodeDid.GO_AWAY: lambda s: s.node(header(s), GONE),
    NodeDid.REDIRECT: lambda s: s.node(header(s), TO_ANOTHER),
    NodeDid.FAIL: lambda s: s.node(header(s), stream_error("conflict")),
    NodeDid.END_STREAM: lambda s: s.node(header(s), END),
    NodeDid.HANG_UP: lambda s: s.node_ends(),
    NodeDid.BREAK: lambda s: s.node(header(s), "</message>"),
    NodeDid.DIE: lambda s: s.order(DEAD),
    NodeDid.REFUSE: lambda s: s.node(f"<failed xmlns='{SM}'/>"),
}


def header(s: Script) -> str:
    return NODE_HEADER if s.session.state is State.NEGOTIATING else ""


def node_scene(did: NodeDid, where: Where) -> Script:
    if (did, where) == (NodeDid.DIE, Where.TRANSFERRING):
        return in_use().order(DEAD)
    return DID[did](WHERE[where]())


SCENES: Final[list[Scene]] = [
    # The session as a whole, each direction.
    lambda: Script().stop(),
    lambda: Script().client(END).client_ends(),
    lambda: Script().client(CLIENT_HEADER.replace("example.org", "elsewhere.org")).client_ends(),
    lambda: Script().wait(61).client_ends(),
    lambda: in_use().stop(),
    lambda: in_use().client(END).node(END).client_ends(),
    lambda: in_use().client("</message>").client_ends(),
    lambda: in_use().client_ends().node_ends(),
    lambda: Script().bind().order().recall().tick(),
    lambda: Script().bind().order().stop(),
    lambda: Script().bind().order().client_ends(),
    lambda: Script().bind().client(END).stop(),
    lambda: Script().node(NODE_HEADER, FEATURES).client(AUTH).wait(61),
    lambda: Script().node(NODE_HEADER, FEATURES).client(AUTH).stop(),
    lambda: Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).stop(),
    lambda: Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client_ends(),
    lambda: Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(END),
    lambda: Script().bind().order(HURRIED).node(END).client_ends(),
    # What a client sees while it logs in.
    lambda: shown_by_the_proxy().node(NODE_HEADER, FEATURES, SUCCESS),
    lambda: shown_by_the_proxy().node(NODE_HEADER, SUCCESS),
    # A rung, and those behind it.
    lambda: Script().bind().order().client(answer()).tick(),
    lambda: Script().bind().order().client(refusal()),
    lambda: Script(cut_through=True).bind().node(LONG).order().node("</body></message>"),
    lambda: Script(cut_through=True).bind().node(LONG).order().recall(),
    lambda: Script(cut_through=True).bind().node(LONG).order().order(HURRIED),
    # The last question.
    lambda: Script().bind().order(HURRIED).node_ends(),
    # The node's leg, exchanged; and a node that is dead.
    lambda: resumed(),
    lambda: resumed().node(HELLO).client(BIND).client(END),
    # XEP-0198 that the proxy speaks, and a connection to the node that breaks.
    lambda: handed_over(),
    lambda: kept().node_ends().dialled(node="node1").node_ends(),
    lambda: kept().migrate().node_ends(),
    lambda: kept().migrate().dialled().node_ends(),
    lambda: in_use().order(DEAD),
    lambda: in_use().stall(Side.CLIENT),
    lambda: in_use().order(ELSEWHERE),
]


STEPS: Final[dict[str, tables.Table[Any]]] = {
    "incoming": tables.INCOMING,
    "outgoing": tables.OUTGOING,
    "features": tables.FEATURES,
    "asking": tables.ASKING,
    "question": tables.QUESTION,
    "exchanging": tables.EXCHANGING,
    "standing in": tables.STANDING_IN,
}
"""The states of the parts."""


class Walked:
    """Every row that was taken."""

    def __init__(self) -> None:
        self.steps: set[tuple[object, object]] = set()
        self.transitions: set[tuple[State, Transition]] = set()
        self.reactions: set[tuple[NodeDid, Where]] = set()


@pytest.fixture(scope="module")
def walked() -> Walked:
    it = Walked()

    def following(table: tables.Table[tables.S], before: tables.S, after: tables.S) -> tables.S:
        it.steps.add((before, after))
        return follow(table, before, after)

    go = Parts.go

    def going(parts: Parts, transition: Transition) -> None:
        it.transitions.add((parts.state, transition))
        go(parts, transition)

    class Reactions(dict[tuple[NodeDid, Where], tables.Reaction]):
        def __getitem__(self, row: tuple[NodeDid, Where]) -> tables.Reaction:
            it.reactions.add(row)
            return super().__getitem__(row)

    with pytest.MonkeyPatch.context() as patch:
        for module in (closing, exchange, legs, opening, stand_in, transfer):
            patch.setattr(module, "follow", following)
        patch.setattr(Parts, "go", going)
        patch.setattr(node_end, "NODE_REACTIONS", Reactions(NODE_REACTIONS))
        for scene in SCENES:
            scene()
        for did, where in NODE_REACTIONS:
            node_scene(did, where)
    return it


@pytest.mark.parametrize("name", STEPS)
def test_every_step_of_a_part_is_walked(walked: Walked, name: str) -> None:
    table = STEPS[name]
    rows = {(before, after) for before, afters in table.items() for after in afters}
    assert rows - walked.steps == set()


def test_every_transition_of_the_session_is_walked(walked: Walked) -> None:
    assert TRANSITIONS.keys() - walked.transitions == set()


def test_every_reaction_to_the_node_is_walked(walked: Walked) -> None:
    assert NODE_REACTIONS.keys() - walked.reactions == set()


def test_there_is_no_other_way() -> None:
    with pytest.raises(AssertionError, match="no way"):
        follow(tables.INCOMING, tables.Incoming.GONE, tables.Incoming.READ)
    with pytest.raises(AssertionError, match="no way"):
        Script().session._parts.go(Transition.STAYS)


def test_whatever_a_table_is_asked_by_hashes_by_identity() -> None:
    """An enumeration's own hash is a function in Python, and a login makes some seventy look-ups."""
    keys: list[object] = []
    for table in (*STEPS.values(), node_owes._COUNTS):
        for before, afters in table.items():
            keys += [before, *afters]
    keys += [key for row in (*TRANSITIONS, *NODE_REACTIONS) for key in row]
    assert {type(key) for key in keys if type(key).__hash__ is not object.__hash__} == set()


def test_a_session_that_is_closed_is_somewhere_too() -> None:
    """No act of its node has a consequence then."""
    parts = Script().stop().session._parts
    assert NODE_REACTIONS[NodeDid.HANG_UP, parts.where] is tables.Reaction.FINISH
    ending.finish_if_over(parts)
    assert parts.take() == []


def test_the_page_is_what_the_tables_say() -> None:
    page = Path(cxfr_proxy.__file__).parents[1] / "docs" / "session-states.md"
    assert page.read_text("utf-8") == chart.render_markdown(), "make docs"
