"""A turn reads several legs, then asks their sessions, then carries out: what of it a session can notice, and what
not."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
from engines import using
from pump_world import ORDER, STALL_SECONDS, Pair, Passing
from relay_twins import Deaf, Step, Story, tell

from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.transport import PlainTransport
from cxfr_proxy.relay import engine
from cxfr_proxy.relay.hearing import TOGETHER
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.relay.poller import IN
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.session.commands import Event, Forged, Report, Send, SessionCommand, Side
from cxfr_proxy.session.session import Session


@pytest.fixture(params=engine.ENGINE.names, autouse=True)
def which(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(engine.ENGINE, request.param):
        yield request.param


@dataclass
class Noting(Passing):
    """Notes what it hears, and how much of anything was sent to any far end by then."""

    is_fast: bool = False
    name: int = 0
    reports: bool = False
    world: Several | None = None
    heard: list[tuple[Side, bytes]] = field(default_factory=list)

    def receive(self, side: Side, data: bytes, now: float) -> list[SessionCommand]:
        assert self.world is not None
        self.world.asked.append((self.name, self.world.arrived()))
        self.heard.append((side, data))
        report: list[SessionCommand] = [Report(Forged())] if self.reports else []
        return [*report, *super().receive(side, data, now)]


class Several(Deaf):
    """Sessions in one pump, whose turns are called one by one."""

    def __init__(self, sessions: Sequence[Noting], pairs: Sequence[Pair]) -> None:
        self.pump = Pump(write_stall_timeout=STALL_SECONDS)
        self.sessions, self.pairs = sessions, pairs
        self.asked: list[tuple[int, int]] = []
        self.over: list[int] = []
        self.lives: list[LiveSession] = []
        for number, (session, pair) in enumerate(zip(sessions, pairs, strict=True)):
            session.name, session.world = number, self
            arrival = Arrival("127.0.0.1", 50000)
            live = self.pump.relay(
                cast("Session", session), *pair.inner, session_id=number, arrival=arrival, listener=self
            )
            self.lives.append(live)
            live.start()

    def turn(self) -> None:
        self.pump._turn()

    def arrived(self) -> int:
        """How many of all far ends have something to read."""
        return sum(has_bytes(end) for pair in self.pairs for end in (pair.client, pair.node))

    def session_event(self, live: LiveSession, event: Event) -> None:
        """Let another session go."""
        for other in self.lives:
            if other is not live:
                self.pump.discard(other)

    def session_over(self, live: LiveSession) -> None:
        self.over.append(live.id)


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    """Connected without a network: what one end has sent has arrived."""
    (client, inner_client), (node, inner_node) = socket.socketpair(), socket.socketpair()
    with client, node:
        client.setblocking(False)
        node.setblocking(False)
        yield Pair(client, node, (PlainTransport.adopt(inner_client), PlainTransport.adopt(inner_node)))


def has_bytes(end: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(end.recv(1, socket.MSG_PEEK))
    return False


@contextlib.contextmanager
def several(*sessions: Noting) -> Iterator[Several]:
    with contextlib.ExitStack() as stack:
        it = Several(sessions, [stack.enter_context(pair()) for _ in sessions])
        try:
            yield it
        finally:
            for live in it.lives:
                if live.id not in it.over:
                    it.pump.discard(live)
            it.pump.close()


async def test_several_are_read_and_asked_before_anything_is_sent() -> None:
    with several(Noting(), Noting(), Noting()) as it:
        for pair in it.pairs:
            pair.client.send(b"<a/>")
        it.turn()
        assert sorted(it.asked) == [(0, 0), (1, 0), (2, 0)]
        assert it.arrived() == 3


async def test_they_are_not_too_many() -> None:
    count = 2 * TOGETHER + 3
    with several(*(Noting() for _ in range(count))) as it:
        for pair in it.pairs:
            pair.client.send(b"<a/>")
        while len(it.asked) < count:
            it.turn()
        assert it.arrived() == count
        together = [len(list(group)) for _, group in itertools.groupby(sent for _, sent in it.asked)]
        assert max(together) <= TOGETHER


async def test_a_session_hears_one_thing_at_a_time() -> None:
    """What follows from the first is out before it is asked about the second."""
    with several(Noting()) as it:
        it.pairs[0].client.send(b"<a/>")
        it.pairs[0].node.send(b"<b/>")
        it.turn()
        assert sorted(it.sessions[0].heard) == [(Side.CLIENT, b"<a/>"), (Side.NODE, b"<b/>")]
        assert [sent for _, sent in it.asked] == [0, 1], "the first is on its way by then"


@pytest.mark.parametrize("side", list(Side))
async def test_an_end_comes_behind_what_was_read_before(side: Side) -> None:
    with several(Noting(), Noting()) as it:
        end = (it.pairs[0].client, it.pairs[0].node)[side]
        end.send(b"<a/>")
        end.shutdown(socket.SHUT_WR)
        it.turn()
        it.turn()
        assert it.sessions[0].heard == [(side, b"<a/>")]
        assert it.sessions[0].called == [f"eof {side.name}"]
        assert (it.pairs[0].node, it.pairs[0].client)[side].recv(9) == b"<a/>"


async def test_a_fault_ends_one_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with several(Noting(), Noting(fault=RuntimeError("a defect")), Noting()) as it:
        for pair in it.pairs:
            pair.client.send(b"<a/>")
        it.turn()
        assert it.over == [1]
        assert [has_bytes(pair.node) for pair in (it.pairs[0], it.pairs[2])] == [True, True]
        assert [live.driven for live in it.lives] == [False, False, False]


async def test_one_that_another_has_ended_does_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    """It was asked already, and its answer is not carried out: it has no connections any more."""
    with several(Noting(reports=True), Noting(reports=True)) as it:
        for pair in it.pairs:
            pair.client.send(b"<a/>")
        it.turn()
        assert len(it.asked) == 2
        assert len(it.over) == 1, "the first one has ended the second"
        (ended,) = it.over
        assert it.pairs[1 - ended].node.recv(9) == b"<a/>"
        assert it.pairs[ended].node.recv(9) == b""
    assert caplog.records == []


async def test_an_order_comes_behind_what_was_read_before() -> None:
    with several(Noting(on_transfer=[Send(Side.NODE, b"<b/>")])) as it:
        live = it.lives[0]
        it.pairs[0].client.send(b"<a/>")
        it.pump._serve(live.legs[Side.CLIENT], IN)
        assert live.unheard
        live.transfer(ORDER)
        assert it.pairs[0].node.recv(99) == b"<a/><b/>"


@pytest.mark.parametrize("node_says", [b"<message><body>it begins", b"<message><body>urn:xmpp:cxfr</body></message>"])
async def test_a_leg_that_is_scanned_is_not_scanned_before_its_session_has_heard_of_the_other(
    which: str, node_says: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What is heard of one leg may be that the other one is to be read in another way from here on."""
    steps = (
        Step("write", Side.CLIENT, b"<slow/>"),
        Step("write", Side.CLIENT, b"<slower/>", together=True),
        Step("write", Side.NODE, node_says),
        Step("write", Side.NODE, b"</body></message>"),
    )
    seen, _ = tell(Story(steps[: 4 - node_says.endswith(b">")]), which)
    assert caplog.records == []
    assert seen.received[Side.NODE] == b"<slow/><slower/>"
    assert seen.received[Side.CLIENT] == node_says + b"</body></message>" * (not node_says.endswith(b">"))
