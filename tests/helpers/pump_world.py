"""A pump that runs, with real sockets on loopback, and a session that only passes bytes on.

``Passing`` is the whole of a session: what comes in goes out on the other side, an end is passed on, two ends are the
end. It reads in both ways: *fast*, through a lane without asking, and *asked*, by commands.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from relay_tools import client_context, server_context, server_transport, settled, shake_hands, transport_pair

from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.transport import PlainTransport, TlsTransport
from cxfr_proxy.relay.live_session import LiveSession, ReturnedConnection
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.relay.turns import COSTLY_SECONDS
from cxfr_proxy.session.commands import Close, Dial, EndOutput, Event, Send, SessionCommand, Side
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.tables import Intake

STALL_SECONDS = 30.0
RESET = b"\x01\0\0\0\0\0\0\0"  # struct linger: on, no time
ORDER = Order(Trigger.DRAIN)
Bytes = bytes | bytearray
NearEnd = PlainTransport | TlsTransport


class OpenLane:
    """A lane without framing."""

    has_events = False
    scanner = None

    def scan(self, data: bytes) -> bytes:
        return data


@dataclass
class Passing:
    """A session that decides nothing. ``on_transfer`` is what :meth:`transfer` answers."""

    is_fast: bool = True
    on_transfer: list[SessionCommand] = field(default_factory=list)
    fault: Exception | None = None
    deadline: float | None = None
    domain: str = "example.org"

    def __post_init__(self) -> None:
        lane = OpenLane() if self.is_fast else None
        self.fast = [lane, lane]
        self.called: list[str] = []
        self.called_up: list[Side] = []
        self.ended: set[Side] = set()

    def intake(self, side: Side) -> Intake:
        return Intake.BYTES if self.wants(side) else Intake.NOTHING

    def wants(self, side: Side) -> bool:
        return side not in self.ended

    def due(self, *, backlogged: bool) -> float | None:
        return self.deadline

    def caught_up(self, side: Side, now: float) -> None:
        self.called_up.append(side)

    def start(self, now: float) -> list[SessionCommand]:
        return []

    def receive(self, side: Side, data: bytes, now: float) -> list[SessionCommand]:
        if self.fault is not None:
            raise self.fault
        return [Send(side.other, data)]

    def eof(self, side: Side, now: float) -> list[SessionCommand]:
        self.called.append(f"eof {side.name}")
        self.ended.add(side)
        return [EndOutput(side.other), *([Close()] if len(self.ended) == 2 else [])]

    def stalled(self, side: Side, now: float) -> list[SessionCommand]:
        self.called.append(f"stalled {side.name}")
        return [Close(at_once=True)]

    def tick(self, now: float) -> list[SessionCommand]:
        if self.deadline is None or now < self.deadline:
            return []
        self.called.append("tick")
        return [Close(at_once=True)]

    def transfer(self, order: Order, now: float) -> list[SessionCommand]:
        if self.fault is not None:
            raise self.fault
        return self.on_transfer

    def stop(self, now: float) -> list[SessionCommand]:
        self.called.append("stop")
        return [Close(at_once=True)]


class World:
    """A running pump, and sessions in it with the far ends of their sockets."""

    def __init__(self, pump: Pump, nursery: trio.Nursery) -> None:
        self.pump = pump
        self.nursery = nursery
        self.running = 0
        self.returned: list[LiveSession] = []
        self._ids = itertools.count(1)

    def session(
        self, session: Passing, client: NearEnd, node: NearEnd, *, buffer_bytes: int | None = None
    ) -> LiveSession:
        if buffer_bytes is not None:
            for sock in (client, node):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
                # Else a peer whose window is closed is probed with some more bytes, and a full buffer is not full.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        live = self.pump.relay(
            cast("Session", session),
            client,
            node,
            session_id=next(self._ids),
            arrival=Arrival("127.0.0.1", 50000),
            listener=self,
        )
        self.running += 1
        live.start()
        self.nursery.start_soon(self.pump.keep)
        return live

    def session_event(self, live: LiveSession, event: Event) -> None:
        """These sessions report nothing, but where a test has one that does."""

    def session_returned(self, live: LiveSession, returned: ReturnedConnection) -> None:
        self.returned.append(live)

    def session_dials(self, live: LiveSession, dial: Dial) -> None:
        raise AssertionError("no session here wants another node")

    def session_forgoes(self, live: LiveSession) -> None:
        raise AssertionError("nor has it asked for one")

    def session_over(self, live: LiveSession) -> None:
        self.running -= 1


@asynccontextmanager
async def world(*, costly_seconds: float = COSTLY_SECONDS) -> AsyncIterator[World]:
    """Sessions are cancelled before the pump, as the proxy does when it stops in good order."""
    pump = Pump(write_stall_timeout=STALL_SECONDS, costly_seconds=costly_seconds)
    async with trio.open_nursery() as services:
        services.start_soon(pump.run)
        async with trio.open_nursery() as sessions:
            yield World(pump, sessions)
            sessions.cancel_scope.cancel()
        services.cancel_scope.cancel()
    pump.close()


@dataclass
class Pair:
    """The parts of one session that a test holds: the far ends of its two connections."""

    client: socket.socket
    node: socket.socket
    inner: tuple[NearEnd, NearEnd]


@contextlib.contextmanager
def plain_pair() -> Iterator[Pair]:
    client, inner_client = transport_pair()
    node, inner_node = transport_pair()
    with client, node:
        yield Pair(client, node, (inner_client, inner_node))


@asynccontextmanager
async def tls_pair(certificate: Path) -> AsyncIterator[Pair]:
    """TLS on the client's leg."""
    with plain_pair() as plain:
        client = client_context(certificate).wrap_socket(
            plain.client, server_hostname="example.org", do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        inner = server_transport(plain.inner[0], server_context(certificate))
        await shake_hands(client, inner)
        with client:
            yield Pair(client, plain.node, (inner, plain.inner[1]))


async def read(sock: socket.socket, count: int | None = None) -> bytes:
    """So many bytes, or all until the end."""
    received = bytearray()
    while count is None or len(received) < count:
        try:
            data = sock.recv(65_536)
        except (BlockingIOError, ssl.SSLWantReadError):
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(sock)
            continue
        if not data:
            assert count is None, f"ended after {len(received)} of {count} bytes"
            break
        received += data
        await trio.lowlevel.checkpoint()
    return bytes(received)


async def write(sock: socket.socket, data: Bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view[:65_536]) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            with trio.fail_after(60):
                await trio.lowlevel.wait_writable(sock)


def write_until_full(sock: socket.socket) -> int:
    """How much more fits."""
    total = 0
    with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
        while True:
            total += sock.send(b"x" * 16_384)
    return total


async def flood(sock: socket.socket) -> int:
    """Write until nothing goes on any more; how much was taken."""
    total, more = 0, 1
    while more:
        more = write_until_full(sock)
        total += more
        await settled()
    return total


BOTH_WAYS = pytest.mark.parametrize("is_fast", [True, False], ids=["fast", "asked"])
DATA = random.Random(1).randbytes(3_000_000)
