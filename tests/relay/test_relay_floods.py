"""Clients and nodes that send without end: what is read of it at once, and at all. Nothing here depends on how fast
anybody is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import trio
from engines import using
from relay_tools import transport_pair, until
from relay_twins import Deaf, Jumpy, Story
from trio.testing import MockClock

from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.transport import PlainTransport
from cxfr_proxy.relay import engine
from cxfr_proxy.relay.connection import ClientConnection, ConnectionContext
from cxfr_proxy.relay.connection_rules import ConnectionRules
from cxfr_proxy.relay.openings import PumpWaits
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.session.commands import Side
from cxfr_proxy.session.session import Session
from cxfr_proxy.xmpp.framing.framer import MAX_EVENTS_PER_SCAN

FLOOD = b"<x/>" * 40 * MAX_EVENTS_PER_SCAN
STANZA = b"<message><body>hello</body></message>"


def flood(there: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            there.send(data)


async def test_who_is_refused_is_not_listened_to_without_end(mock_clock: MockClock) -> None:
    """The clock stands still, so it is not the time that ends it."""
    there, here = transport_pair()
    endpoint = Endpoint(here)
    shared = ConnectionContext(*[cast("ConnectionRules", None)] * 3)  # type: ignore[arg-type]
    connection = ClientConnection(shared, endpoint, Arrival("", None), cast("PumpWaits", None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection._part, b"</stream:stream>")

        def is_over() -> bool:
            flood(there, bytes(65_536))
            return not nursery.child_tasks

        await until(is_over)
    endpoint.close()
    there.close()


# --- in the pump


class Party:
    """A session in a pump, and the far ends of its sockets."""

    def __init__(self, pump: Pump, number: int) -> None:
        self.client, near = socket.socketpair()
        self.node, beyond = socket.socketpair()
        for sock in (self.client, near, self.node, beyond):
            sock.setblocking(False)
        self.told: list[tuple[object, ...]] = []
        session = Jumpy(Story(()), self.told)
        pump.relay(
            cast("Session", session),
            PlainTransport.adopt(near),
            PlainTransport.adopt(beyond),
            session_id=number,
            arrival=Arrival("", None),
            listener=Deaf(),
        ).start()

    @property
    def looked_at(self) -> int:
        return len(self.told)

    def sends(self, side: Side, data: bytes) -> None:
        assert (self.node if side is Side.NODE else self.client).send(data) == len(data)

    def gets(self, side: Side) -> bytes:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := (self.node if side is Side.NODE else self.client).recv(1 << 20):
                data += more
        return data

    def close(self) -> None:
        self.client.close()
        self.node.close()


@contextmanager
def party_of(which: str, count: int, *, costly_seconds: float = 1e9) -> Iterator[tuple[Pump, list[Party]]]:
    """A pump that has no time: each part of a turn serves one leg."""
    with using(engine.ENGINE, which):
        pump = Pump(write_stall_timeout=30, share_seconds=0.0, costly_seconds=costly_seconds)
    parties = [Party(pump, number) for number in range(count)]
    try:
        yield pump, parties
    finally:
        for live in list(pump._sessions.values()):
            pump.discard(live)
        pump.close()
        for party in parties:
            party.close()


both_engines = pytest.mark.parametrize("which", engine.ENGINE.names)
both_sides = pytest.mark.parametrize("side", list(Side))


@both_engines
@both_sides
async def test_a_turn_looks_at_so_much_of_a_flood(which: str, side: Side) -> None:
    with party_of(which, 1) as (pump, [flooder]):
        flooder.sends(side, FLOOD)
        arrived, turns = b"", 0
        while len(arrived) < len(FLOOD):
            before = flooder.looked_at
            pump._turn()
            looked_at = flooder.looked_at - before
            assert 0 < looked_at <= 2 * MAX_EVENTS_PER_SCAN, "once where it is read, once where it is behind"
            arrived, turns = arrived + flooder.gets(side.other), turns + 1
        assert arrived == FLOOD
        assert turns <= 40


@both_engines
@both_sides
async def test_however_many_flood_the_others_are_served_first(which: str, side: Side) -> None:
    with party_of(which, 21) as (pump, [quiet, *flooders]):
        for flooder in flooders:
            flooder.sends(side, FLOOD)
        quiet.sends(side, STANZA)
        turns = 0
        while not quiet.gets(side.other):  # each is met for the first time
            pump._turn()
            turns += 1
            assert turns <= 21, "nobody is passed over while somebody is served twice"
        for _ in range(21):
            pump._turn()
        before = [flooder.looked_at for flooder in flooders]
        for _ in range(100):
            quiet.sends(side, STANZA)
            pump._turn()
            assert quiet.gets(side.other) == STANZA, "it waits for none of those who are behind"
        assert all(len(flooder.gets(side.other)) < len(FLOOD) for flooder in flooders), "they are behind"
        gained = [flooder.looked_at - then for flooder, then in zip(flooders, before, strict=True)]
        assert gained == [5 * MAX_EVENTS_PER_SCAN] * 20, "and have a share together"


@both_engines
async def test_who_is_dear_waits_for_the_others(which: str) -> None:
    """Each chunk wants but one look, and that is seen to have cost much."""
    chunk = b"<x/><message>" + b"y" * (16_384 - 23) + b"</message>"
    with party_of(which, 6, costly_seconds=-1.0) as (pump, [quiet, *dear]):
        for each in dear:
            each.sends(Side.CLIENT, chunk * 5)
        for _ in range(6):
            pump._turn()
        arrived = [b""] * 5
        for turn in range(10):
            quiet.sends(Side.CLIENT, STANZA)
            pump._turn()
            assert quiet.gets(Side.NODE) == STANZA, turn
            arrived = [data + each.gets(Side.NODE) for data, each in zip(arrived, dear, strict=True)]
        assert sum(map(len, arrived)) < 25 * len(chunk), "they are not done yet"
        for _ in range(60):
            pump._turn()
            arrived = [data + each.gets(Side.NODE) for data, each in zip(arrived, dear, strict=True)]
        assert arrived == [chunk * 5] * 5


@both_engines
async def test_what_goes_to_one_side_at_once_is_one_write(which: str) -> None:
    """A flood is not made dearer by a system call for each of its elements."""
    with party_of(which, 1) as (pump, [flooder]):
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with first, second:
            first.setblocking(False)
            (live,) = pump._sessions.values()
            leg = live.legs[Side.NODE]
            plain, leg.transport = leg.transport, PlainTransport.adopt(first)
            flooder.sends(Side.CLIENT, b"<x/>" * 10)
            pump._turn()
            leg.transport.close()
            leg.transport = plain
            assert second.recv(1000) == b"<x/>" * 10
