"""Clients that do not do as they are asked: each has an end, and a time by which it has come.

They are asked by the IQ; nobody but time helps. The node ends its stream when the proxy does, as nodes do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from session_script import (
    ELSEWHERE,
    END,
    HELLO,
    HELLO_WAITED,
    HURRIED,
    NEWS,
    PING,
    PING_WAITED,
    SEE_OTHER_HOST,
    Script,
    answer,
    iq,
    stream_error,
)

from cxfr_proxy.config.table import Timeouts
from cxfr_proxy.session.commands import Ended, Outcome, Reason, Side, Transferred, Warned
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.session.session import State

LARGE = f"<message to='romeo@example.org' id='m'><body>{'x' * 200_000}</body></message>"
CONFLICT = stream_error("conflict", text="replaced by a new connection")
MOVED = (Rung.CXFR, Outcome.MOVED)
TOLD = (Rung.SEE_OTHER_HOST, Outcome.MOVED)
TIMES = Timeouts()


@dataclass(frozen=True)
class Case:
    """Its reaction once it was asked; the rungs, each with its outcome; how its session ends, within that time.

    ``condition`` as in :class:`Ended`.
    """

    does: Callable[[Script], object]
    tried: tuple[tuple[Rung, Outcome], ...]
    seconds: float = 0.0
    condition: str | None = None


def uploads(s: Script) -> Script:
    """A stanza is under way all the time, and none of the proxy's words is heard."""
    for _ in range(3):
        s.client(LARGE[-100_000:], LARGE[:100_000])
    return s


CLOSES = TIMES.see_other_host_timeout
CASES = {
    "says nothing": Case(lambda s: None, ((Rung.CXFR, Outcome.SILENT), TOLD), TIMES.cxfr_timeout + CLOSES),
    "says yes and stays": Case(
        lambda s: s.wait(9.9).client(answer()), ((Rung.CXFR, Outcome.STAYED), TOLD), 2 * TIMES.cxfr_timeout + CLOSES
    ),
    "says no": Case(lambda s: s.client(answer("error")), ((Rung.CXFR, Outcome.REFUSED), TOLD), CLOSES),
    "closes": Case(lambda s: s.client(END), (MOVED,)),
    "says yes and closes": Case(lambda s: s.client(answer(), END), (MOVED,)),
    "is gone": Case(lambda s: s.client_ends().node_ends(), (MOVED,)),
    "is back before it has left": Case(lambda s: s.node(CONFLICT, END), (MOVED,), CLOSES, "conflict"),
    "says yes and is back before it has left": Case(
        lambda s: s.client(answer()).node(NEWS, CONFLICT, END), (MOVED,), CLOSES, "conflict"
    ),
    "uploads": Case(uploads, ((Rung.CXFR, Outcome.SILENT), TOLD), TIMES.cxfr_timeout + CLOSES),
    "says yes and uploads": Case(
        lambda s: uploads(s.client(LARGE[100_000:], answer(), LARGE[:100_000])),
        ((Rung.CXFR, Outcome.STAYED), TOLD),
        TIMES.cxfr_timeout + CLOSES,
    ),
}


def ask(name: str) -> Script:
    s = Script().bind()
    if "uploads" in name:
        s.client(LARGE[:100_000])
    return s.order().client_gets(iq()).forget()


def rest(s: Script) -> Script:
    """Time goes by, and the node does what nodes do, until it is over."""
    for _ in range(10):
        if s.session.state is State.CLOSED:
            return s
        if s.session.node_lost and s.session.wants(Side.NODE):
            s.node(END).node_ends()
        elif s.session.deadline is not None:
            s.tick()
    return s.is_over()


@pytest.mark.parametrize("name", CASES)
def test_each_has_its_end(name: str) -> None:
    case, s = CASES[name], ask(name)
    case.does(s)
    rest(s)
    assert s.reported(Transferred).tried == case.tried
    ended = s.reported(Ended)
    assert (ended.reason, ended.condition) == (Reason.TRANSFERRED, case.condition)
    assert s.now - 100.0 <= case.seconds
    s.expect(not any(isinstance(event, Warned) for event in s.events), "nothing for an operator to look at")


@pytest.mark.parametrize("name", CASES)
def test_none_outlives_a_deadline_by_more_than_its_closing(name: str) -> None:
    case, s = CASES[name], ask(name)
    case.does(s)
    began = s.now
    rest(s.order(HURRIED))
    assert s.reported(Transferred).tried[-1][1] is Outcome.MOVED
    assert s.now - began <= TIMES.node_close_timeout + CLOSES


def test_the_conflict_is_the_clients_to_know_as_it_came() -> None:
    s = ask("").client(answer()).node(NEWS, CONFLICT, END).client_gets(NEWS, CONFLICT, END).node_gets(END)
    assert s.reported(Transferred).tried == (MOVED,), "at once: it has moved"
    s.client(END).client_ends().is_over()


@pytest.mark.parametrize("part", [1, 100_000, len(LARGE) - 1])
def test_nothing_of_a_stanza_in_the_middle_goes_to_a_node_that_is_being_closed(part: int) -> None:
    """It is answered when it is there in whole, as what comes behind it."""
    s = Script().bind().client(HELLO, LARGE[:part]).node_gets(HELLO).order(HURRIED).node_gets(END)
    s.client(LARGE[part:], PING).client_gets(HELLO_WAITED, PING_WAITED).node_gets()
    s.node(END).client_gets(SEE_OTHER_HOST, END)


def test_one_that_is_never_whole_did_not_arrive_and_is_not_counted() -> None:
    s = Script().bind().client(LARGE[:100_000]).order(ELSEWHERE).tick().forget().node(END).node_ends()
    s.client_gets(SEE_OTHER_HOST, END).client(LARGE[100_000:-1]).client_ends().is_over()
    assert s.reported(Ended).late == 0
    s = Script().bind().client(LARGE[:100_000]).order(ELSEWHERE).tick().forget().node(END).node_ends()
    s.client(LARGE[100_000:]).client_ends().is_over()
    assert s.reported(Ended).late == 1, "it was, and could not be answered any more"
