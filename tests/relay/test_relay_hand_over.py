"""A session takes over what epoll was told of a socket by the opening that has waited for it.

No look is costly here, however slow the machine is: a leg that is behind is taken out of epoll and put back.
"""

from __future__ import annotations

import math
import os
import select
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
from engines import using
from pump_world import RESET, Pair, Passing, World, plain_pair, read, world, write
from relay_tools import no_leak, transport_pair, until

from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.transport import PlainTransport, Transport, Verdict
from cxfr_proxy.relay import engine
from cxfr_proxy.relay.openings import PumpWaits
from cxfr_proxy.relay.poller import IN, OUT
from cxfr_proxy.session.commands import SessionCommand, Side

both_engines = pytest.mark.parametrize("which", engine.ENGINE.names)


class Held(Passing):
    """Wants nothing of its client before the node has spoken."""

    def __init__(self) -> None:
        super().__init__(is_fast=False)
        self.greeted = False

    def wants(self, side: Side) -> bool:
        return (side is Side.NODE or self.greeted) and super().wants(side)

    def receive(self, side: Side, data: bytes, now: float) -> list[SessionCommand]:
        self.greeted = self.greeted or side is Side.NODE
        return super().receive(side, data, now)


class Noted:
    """An epoll, and what it was told."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self.fileno, self.poll, self.close = epoll.fileno, epoll.poll, epoll.close
        self.told: list[tuple[str, int, int]] = []

    def register(self, fd: int, events: int) -> None:
        self.told.append(("register", fd, events))
        self._epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        self.told.append(("modify", fd, events))
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        self.told.append(("unregister", fd, 0))
        self._epoll.unregister(fd)


def noted(it: World) -> Noted:
    it.pump._poller._epoll = epoll = Noted(it.pump._poller._epoll)  # type: ignore[assignment]
    return epoll


async def begun(
    it: World, pair: Pair, session: Passing, reach: Callable[[PumpWaits], Awaitable[Transport]] | None = None
) -> None:
    """A session begins when its client has spoken; ``reach`` gets it another node than the pair's."""

    async def open_it(waits: PumpWaits) -> None:
        assert await Endpoint(pair.inner[0], waits).receive_some() == b"hello"
        node = pair.inner[1] if reach is None else await reach(waits)
        assert isinstance(node, PlainTransport)
        it.session(session, pair.inner[0], node)

    it.pump.openings.begin(open_it)
    await write(pair.client, b"hello")
    await until(lambda: it.running)


@both_engines
async def test_epoll_is_told_once_of_a_client(which: str) -> None:
    with no_leak(), using(engine.ENGINE, which):
        async with world(costly_seconds=math.inf) as it:
            with plain_pair() as pair:
                epoll, number = noted(it), pair.inner[0].fileno()
                await begun(it, pair, Held())
                await write(pair.node, b"greeting")
                assert await read(pair.client, 8) == b"greeting"
                await write(pair.client, b"answer")
                assert await read(pair.node, 6) == b"answer"
                assert [each for each in epoll.told if each[1] == number] == [("register", number, IN)]


@both_engines
@pytest.mark.parametrize("does", ["sends", "ends", "resets"])
async def test_a_client_that_is_not_heard_yet_is_reported_once(which: str, does: str) -> None:
    """Else the pump would spin. Nothing is lost by that, neither bytes nor the end."""
    with no_leak(), using(engine.ENGINE, which):
        async with world(costly_seconds=math.inf) as it:
            with plain_pair() as pair:
                number, session = pair.inner[0].fileno(), Held()
                await begun(it, pair, session)
                reported: list[int] = []
                serve = it.pump.on_ready

                def on_ready(fd: int, events: int) -> None:
                    reported.append(fd)
                    serve(fd, events)

                it.pump.on_ready = on_ready  # type: ignore[method-assign]
                if does == "sends":
                    await write(pair.client, b"early")
                elif does == "ends":
                    pair.client.shutdown(socket.SHUT_WR)
                else:
                    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    pair.client.close()
                await until(lambda: number in reported)
                for _ in range(10):
                    await trio.lowlevel.checkpoint()
                assert reported == [number]
                await write(pair.node, b"greeting")
                if does == "sends":
                    assert await read(pair.node, 5) == b"early"
                else:
                    await until(lambda: session.called == ["eof CLIENT"])


@both_engines
async def test_a_node_that_was_waited_for_is_watched_for_what_its_session_wants(which: str) -> None:
    with no_leak(), using(engine.ENGINE, which):
        async with world(costly_seconds=math.inf) as it:
            with plain_pair() as pair:
                epoll, number = noted(it), pair.inner[1].fileno()

                async def reach(waits: PumpWaits) -> Transport:
                    await waits.ready(pair.inner[1], Verdict.WAIT_WRITABLE)
                    return pair.inner[1]

                await begun(it, pair, Held(), reach)
                await write(pair.node, b"greeting")
                assert await read(pair.client, 8) == b"greeting"
                await write(pair.client, b"answer")
                assert await read(pair.node, 6) == b"answer"
                told = [each for each in epoll.told if each[1] == number]
                assert told == [("register", number, OUT), ("modify", number, IN)]


@both_engines
async def test_a_number_that_a_node_s_socket_has_from_one_that_was_closed(which: str) -> None:
    """Epoll has forgotten that one, and hears of this one."""
    with no_leak(), using(engine.ENGINE, which):
        async with world(costly_seconds=math.inf) as it:
            with plain_pair() as pair:

                async def reach(waits: PumpWaits) -> Transport:
                    far, first = transport_pair()
                    await waits.ready(first, Verdict.WAIT_WRITABLE)
                    number, other = first.fileno(), pair.inner[1].detach()
                    first.close()
                    far.close()
                    os.dup2(other, number)
                    os.close(other)
                    return PlainTransport.adopt(socket.socket(fileno=number))

                await begun(it, pair, Held(), reach)
                await write(pair.node, b"greeting")
                assert await read(pair.client, 8) == b"greeting"
