"""One story, told to the relay loop in C and to the one in Python; everybody must have seen the same.

A story is a list of steps: a far end writes, reads, ends its output, or is gone; after each the pump has two turns. The
session in between (:class:`Jumpy`) passes everything on, and does what some elements tell it to: it reads
stepwise or lets be scanned, answers, stops reading, closes, or fails. The sockets are connected without a network, so
that the same happens each time.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, cast

from engines import using
from relay_tools import server_transport
from websocket_client import CLOSE, OPEN, PING, Browser, closing, fragments, masked, text

from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.transport import PlainTransport, TlsTransport, Transport
from cxfr_proxy.relay import engine
from cxfr_proxy.relay.live_session import LiveSession, ReturnedConnection
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.relay.websocket_transport import WebSocketTransport
from cxfr_proxy.session.commands import (
    Awakened,
    Close,
    Dial,
    EndOutput,
    Event,
    Forged,
    Report,
    Send,
    SessionCommand,
    Side,
)
from cxfr_proxy.session.ladder import Order
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.tables import Intake
from cxfr_proxy.xmpp.framing.framer import ANY_DEPTH, Framer, WholeElement
from cxfr_proxy.xmpp.framing.lane import Lane, Piece

STREAM: Final = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
)
"""What a client over WebSocket is told first."""
HEADER: Final = b"<s:s xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>"
FULL: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True, slots=True)
class Step:
    """An act of the far end of that side. ``data`` is what it writes, ``size`` how much it reads. ``together``: the
    next one follows before the pump has a turn."""

    what: Literal["write", "read", "end", "go"]
    side: Side
    data: bytes = b""
    size: int = 0
    together: bool = False


@dataclass(frozen=True, slots=True)
class Story:
    """``max_held`` and ``max_element`` as of :class:`Lane`, of both. ``tls``: the client's leg has it. ``websocket``:
    the same, and what the client writes is frames. ``buffer``: the bytes that each socket takes. ``hasty``: a turn has
    no time, and every look is dear."""

    steps: Sequence[Step]
    max_held: int | None = None
    max_element: int | None = None
    tls: bool = False
    websocket: bool = False
    buffer: int = 4096
    hasty: bool = False


@dataclass
class Seen:
    """The bytes that came out at the far ends, whether they saw the end of it, and what the session was told."""

    received: dict[Side, bytearray] = field(default_factory=lambda: {side: bytearray() for side in Side})
    ended: set[Side] = field(default_factory=set)
    told: list[tuple[object, ...]] = field(default_factory=list)


class Jumpy:
    """A session that passes everything on, and does what elements tell it."""

    def __init__(self, story: Story, told: list[tuple[object, ...]]) -> None:
        self._story = story
        self.lanes = [self._lane(story, side) for side in Side]
        self.fast: list[Lane | None] = list(self.lanes)
        self.told = told
        self.ended: set[Side] = set()
        self.held: set[Side] = set()
        self._out: list[SessionCommand] = []

    def _lane(self, story: Story, side: Side) -> Lane:
        max_depth = 8 if side is Side.CLIENT else ANY_DEPTH
        lane = Lane(max_element_bytes=story.max_element, max_depth=max_depth, max_held_bytes=story.max_held)
        lane.feed(HEADER)
        while lane.next() is not None:
            pass
        assert lane.opened
        return lane

    def restart(self, side: Side) -> None:
        """Another stream begins on that side."""
        self.lanes[side] = self.fast[side] = self._lane(self._story, side)

    def intake(self, side: Side) -> Intake:
        if not self.wants(side):
            return Intake.NOTHING
        return Intake.BEHIND if self.lanes[side].unread else Intake.BYTES

    def wants(self, side: Side) -> bool:
        return side not in self.ended and side not in self.held

    def due(self, *, backlogged: bool) -> float | None:
        return None

    def caught_up(self, side: Side, now: float) -> None:
        self.told.append(("caught up", side))

    def start(self, now: float) -> list[SessionCommand]:
        return []

    def transfer(self, order: Order, now: float) -> list[SessionCommand]:
        self.told.append(("transfer", order.trigger))
        return [Send(Side.CLIENT, b"<move/>"), Report(Awakened())]

    def stop(self, now: float) -> list[SessionCommand]:
        self.told.append(("stop",))
        return [Close(at_once=True)]

    def eof(self, side: Side, now: float) -> list[SessionCommand]:
        self.told.append(("eof", side))
        self.ended.add(side)
        self._out.append(EndOutput(side.other))
        if len(self.ended) == 2:
            self._out.append(Close())
        return self._take()

    def client_at_fault(self, condition: str, text: str, now: float) -> list[SessionCommand]:
        self.told.append(("at fault", condition))
        return [Send(Side.CLIENT, b"<stream:error/></stream:stream>"), EndOutput(Side.CLIENT), EndOutput(Side.NODE)]

    def receive(self, side: Side, data: bytes, now: float) -> list[SessionCommand]:
        self.lanes[side].feed(data)
        return self.read_on(side, now)

    def read_on(self, side: Side, now: float) -> list[SessionCommand]:
        self._step(side)
        return self._take()

    def receive_scanned(self, side: Side, ready: bytes, now: float) -> list[SessionCommand]:
        for piece in self.lanes[side].pieces(ready):
            self._on(side, piece)
        return self._take()

    def _step(self, side: Side) -> None:
        lane = self.lanes[side]
        while self.fast[side] is None and (piece := lane.next()) is not None:
            self._on(side, piece)
        if self.fast[side] is not None and (unread := lane.take_unread()):
            for piece in lane.pieces(lane.scan(unread)):
                self._on(side, piece)

    def _take(self) -> list[SessionCommand]:
        out, self._out = self._out, []
        return out

    def _on(self, side: Side, piece: Piece) -> None:
        if piece.data:
            self._out.append(Send(side.other, piece.data))
        if piece.event is None:
            return
        self.told.append((type(piece.event).__name__, side, piece.event.start, piece.event.end, piece.whole))
        if isinstance(piece.event, WholeElement):
            self._obey(side, piece.event.name)
        else:
            self._out.append(Close())

    def _obey(self, side: Side, name: str) -> None:
        match name:
            case "slow" | "quick":
                self.fast[side] = self.lanes[side] if name == "quick" else None
            case "slower" | "quicker":
                self.fast[side.other] = self.lanes[side.other] if name == "quicker" else None
                self._step(side.other)
            case "echo":
                self._out.append(Send(side, b"<message from='proxy'/>"))
            case "report":
                self._out += [Report(Forged()), Send(side, b"<reported/>")]
            case "hold":
                self.held.add(side.other)
            case "free":
                self.held.clear()
            case "heed":
                for lane in self.lanes:
                    lane.report_acks(True)
            case "end":
                self._out.append(EndOutput(side.other))
            case "close" | "cut":
                self._out.append(Close(at_once=name == "cut"))
            case "fault":
                raise RuntimeError("as wished")


ORDERS: Final = ("slow", "quick", "slower", "quicker", "echo", "hold", "free", "heed", "end", "close", "cut", "fault")


class Deaf:
    """A listener that does nothing."""

    def session_event(self, live: LiveSession, event: Event) -> None:
        """It is reported to nobody."""

    def session_returned(self, live: LiveSession, returned: ReturnedConnection) -> None:
        """Nobody takes it."""

    def session_dials(self, live: LiveSession, dial: Dial) -> None:
        raise AssertionError("no session here wants another node")

    def session_forgoes(self, live: LiveSession) -> None:
        raise AssertionError("nor has it asked for one")

    def session_over(self, live: LiveSession) -> None:
        """Nobody asks."""


class Told:
    """One telling: a pump with one session in it, and the far ends of its sockets. ``client``: far and near, if not
    those that there are for stories."""

    def __init__(
        self,
        story: Story,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
        client: tuple[socket.socket, socket.socket] | None = None,
    ) -> None:
        self.seen = Seen()
        self.hasty = story.hasty
        self.pump = (
            Pump(write_stall_timeout=30, share_seconds=0.0, costly_seconds=-1.0)
            if story.hasty
            else Pump(write_stall_timeout=30, share_seconds=math.inf, costly_seconds=math.inf)
        )
        pairs = [client or socket.socketpair(), socket.socketpair()]
        for sock in (sock for pair in pairs for sock in pair):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, story.buffer)
        self.far = [pair[0] for pair in pairs]
        client_end: Transport
        if story.tls and contexts is not None:
            self.far[Side.CLIENT], client_end = secured(pairs[Side.CLIENT], *contexts)
        else:
            client_end = PlainTransport.adopt(pairs[Side.CLIENT][1])
        if story.websocket:
            client_end = upgraded(client_end)
        self.session = Jumpy(story, self.seen.told)
        self.live: LiveSession = self.pump.relay(
            cast("Session", self.session),
            client_end,
            PlainTransport.adopt(pairs[Side.NODE][1]),
            session_id=1,
            arrival=Arrival("", None),
            listener=Deaf(),
        )
        self.live.start()

    def tell(self, step: Step) -> None:
        far = self.far[step.side]
        match step.what:
            case "write":
                with contextlib.suppress(*FULL, OSError):
                    far.send(step.data)  # what doesn't fit is not said
            case "read":
                self._read(step.side, step.size)
            case "end":
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(far, socket.SHUT_WR)
            case "go":
                far.close()
        for _ in range(0 if step.together else 2):
            self.pump._turn()

    def _read(self, side: Side, size: int) -> int:
        try:
            data = self.far[side].recv(size)
        except FULL:
            return 0
        except OSError:
            data = b""
        if not data:
            self.seen.ended.add(side)
        self.seen.received[side] += data
        return len(data)

    def finish(self) -> Seen:
        """Everything that is under way arrives."""
        idle, enough = 0, 30 if self.hasty else 3
        while idle < enough:
            moved = sum(self._read(side, 65_536) for side in Side if self.far[side].fileno() >= 0)
            self.pump._turn()
            idle = 0 if moved else idle + 1
        self.seen.told += [("counted", lane.stanzas, lane.ack) for lane in self.session.lanes]
        self.seen.told.append(("read", *self.pump.received()))
        self.pump.discard(self.live)
        self.pump.close()
        for far in self.far:
            far.close()
        return self.seen


def scanner() -> Framer:
    """In the middle of a stream."""
    found = Jumpy(Story(()), []).lanes[Side.NODE].scanner
    assert found is not None
    return found


def secured(
    pair: tuple[socket.socket, socket.socket], client: ssl.SSLContext, server: ssl.SSLContext
) -> tuple[socket.socket, TlsTransport]:
    far = client.wrap_socket(pair[0], server_hostname="example.org", do_handshake_on_connect=False)
    near = server_transport(pair[1], server)
    waiting = [far, near]
    while waiting:
        for sock in tuple(waiting):
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sock.do_handshake()
                waiting.remove(sock)
    return far, near


def upgraded(inner: Transport) -> WebSocketTransport:
    """Behind ``<open/>``, and the header that answers it."""
    near = WebSocketTransport(inner, received=text(OPEN), max_message_bytes=100_000, max_depth=8)
    assert near.read_now(4096).startswith(b"<?xml")
    assert near.write_now(STREAM) == len(STREAM)
    return near


def tell(
    story: Story, which: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
) -> tuple[Seen, dict[Side, float]]:
    """Return everything that was seen, with that engine, and when the switchboard heard each side last. Inside of
    trio."""
    with using(engine.ENGINE, which):
        told = Told(story, contexts)
    for step in story.steps:
        told.tell(step)
    board = told.pump._poller._board
    heard = {leg.side: board.heard(leg.fd) if board is not None and leg.fd >= 0 else 0.0 for leg in told.live.legs}
    return told.finish(), heard


def understood(seen: Seen, story: Story) -> Seen:
    """The same, with what a browser makes of its frames in their place: they may be cut elsewhere, and an element that
    is cut through declares what it may not need."""
    if story.websocket:
        browser = Browser()
        browser.receive(bytes(seen.received[Side.CLIENT]))
        heard = browser.heard
        said = "\n".join((*heard.messages, heard.unfinished)).replace(DECLARED, "")
        seen.received[Side.CLIENT] = bytearray(f"{said}{heard.pongs}{heard.close_code}".encode())
    return seen


def difference(story: Story, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None) -> str | None:
    """``None``: the engines did the same."""
    native, python = (understood(tell(story, which, contexts)[0], story) for which in ("native", "python"))
    return None if native == python else f"native: {native}\npython: {python}"


# --- stories

DECLARED: Final = ' xmlns:stream="http://etherx.jabber.org/streams"'
STANZAS: Final = (
    b"<message to='a@b'><body>" + b"word " * 60 + b"</body></message>",
    b"<message to='c@d'><body>" + "wört ".encode() * 9 + b"</body></message>",
    b"<presence/>",
    b"<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>",
    b"<iq><x>" + b"y" * 5000 + b"</x></iq>",
    b"<r xmlns='urn:xmpp:sm:3'/>",
    b"<a xmlns='urn:xmpp:sm:3' h='1'/>",
    b"<message><body>urn:xmpp:cxfr</body></message>",
    b" ",
    b"\n",
)
FAULTS: Final = (b"</s:s>", b"<!-- -->", b"text", b"\0", b"<a></b>", b"\xff")


def random_story(chance: random.Random, *, websocket: bool = False) -> Story:
    said = {side: _said(chance) for side in Side}
    if websocket:
        said[Side.CLIENT] = _framed(chance, said[Side.CLIENT])
    steps: list[Step] = []
    whole = chance.random() < 0.3  # elements come whole
    for _ in range(chance.randint(1, 60)):
        side = chance.choice(list(Side))
        if chance.random() < 0.65:
            pending = said[side]
            size = chance.choice((1, 7, 60, 900, 9000, 60_000))
            if whole:
                size = pending.find(b">", size) + 1
            steps.append(Step("write", side, pending[:size]))
            said[side] = pending[size:]
        else:
            steps.append(Step("read", side, size=chance.choice((1, 100, 5000, 65_536))))
        if chance.random() < 0.01:
            steps.append(Step(chance.choice(("end", "go")), side))
    if chance.random() < 0.5:
        steps = [replace(step, together=chance.random() < 0.3) for step in steps]
    tls = chance.random() < 0.2
    return Story(
        tuple(steps),
        max_held=chance.choice((None, None, 50, 3000)),
        max_element=chance.choice((None, None, None, 400)),
        tls=tls,
        websocket=websocket,
        buffer=chance.choice((4096, 4096, 150_000)),
        hasty=not tls and chance.random() < 0.3,  # the loops share out TLS legs differently
    )


def _said(chance: random.Random) -> bytes:
    parts: list[bytes] = []
    rare = chance.choice((0.0, 0.02, 0.2))
    for _ in range(chance.choice((1, 10, 60, 200))):
        parts.append(chance.choice(STANZAS))
        if chance.random() < rare / 10:
            parts.append(b"<x/>" * chance.choice((60, 70, 300)))
        if chance.random() < rare:
            parts.append(f"<{chance.choice(ORDERS)}/>".encode())
        if chance.random() < rare / 10:
            parts.append(chance.choice(FAULTS))
    return b"".join(parts)


def _framed(chance: random.Random, stream: bytes) -> bytes:
    """A message for each element; some are in fragments, and some frames are of other kinds, or wrong."""
    lane, frames = Lane(max_element_bytes=None, max_depth=8), []
    lane.feed(HEADER + stream)
    while (piece := lane.next()) is not None:
        if not isinstance(piece.event, WholeElement):
            continue
        frames.append(fragments(piece.data, chance.choice((7, 1000)) if chance.random() < 0.1 else 1 << 20))
        if chance.random() < 0.05:
            frames.append(masked(PING, b"ping"))
        if chance.random() < 0.01:
            frames.append(chance.choice((text(b"no element"), text(CLOSE), closing(), masked(3), text(b"<a/><b/>"))))
    return b"".join(frames)


def compare(
    seeds: Iterable[int], contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None, *, websocket: bool = False
) -> list[str]:
    """What differed, with the seed of each story. Inside of trio."""
    stories = ((seed, random_story(random.Random(seed), websocket=websocket)) for seed in seeds)
    found = ((seed, difference(story, contexts)) for seed, story in stories)
    return [f"seed {seed}: {what}" for seed, what in found if what is not None]
