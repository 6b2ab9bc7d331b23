"""Pings to silent web clients: when they are due, and when a client is given up."""

from __future__ import annotations

from typing import cast

import trio
from trio.testing import MockClock

from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.relay.pings import Pings

SECONDS = 45.0


class Client:
    """A live session, as far as pings are concerned. ``answers``: by a pong, at once."""

    def __init__(self, *, number: int = 1, on_websocket: bool = True, answers: bool = True) -> None:
        self.id = number
        self.last_active = 0.0
        self.awaits_pong = False
        self.websocket = self if on_websocket else None
        self.pings: list[float] = []
        self.lost: list[float] = []
        self._answers = answers

    def ping(self) -> None:
        self.pings.append(trio.current_time())
        self.awaits_pong = not self._answers

    def lose_client(self) -> None:
        self.lost.append(trio.current_time())

    @property
    def live(self) -> LiveSession:
        return cast("LiveSession", self)


async def watched(nursery: trio.Nursery, *clients: Client, seconds: float = SECONDS) -> Pings:
    pings = Pings(seconds)
    for client in clients:
        pings.watch(client.live)
    nursery.start_soon(pings.run)
    return pings


async def test_a_silent_client_is_pinged_as_long_as_it_answers(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client = Client()
    await watched(nursery, client)
    await trio.sleep(3 * SECONDS + 1)
    assert client.pings == [SECONDS, 2 * SECONDS, 3 * SECONDS]
    assert not client.lost


async def test_one_that_does_not_answer_is_lost_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    client = Client(answers=False)
    await watched(nursery, client)
    await trio.sleep(10 * SECONDS)
    assert client.pings == [SECONDS]
    assert client.lost == [2 * SECONDS]


async def test_one_on_whose_connection_something_passes_is_not_pinged(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client = Client()
    await watched(nursery, client)
    for _ in range(20):
        await trio.sleep(SECONDS / 3)
        client.last_active = trio.current_time()
    assert not client.pings
    silent_since = client.last_active
    await trio.sleep(SECONDS + 1)
    assert client.pings == [silent_since + SECONDS]


async def test_who_is_not_pinged(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    tcp, gone, staying = Client(number=1, on_websocket=False), Client(number=2), Client(number=3)
    pings = await watched(nursery, tcp, gone, staying)
    pings.forget(gone.live)
    pings.forget(tcp.live)
    await trio.sleep(SECONDS + 1)
    assert (len(tcp.pings), len(gone.pings), len(staying.pings)) == (0, 0, 1)


async def test_no_pings_where_none_are_wanted(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    client = Client(answers=False)
    await watched(nursery, client, seconds=0.0)
    await trio.sleep(10 * SECONDS)
    assert not client.pings
    assert not client.lost


async def test_a_connection_that_the_session_has_given_back_is_left_alone(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client = Client()
    await watched(nursery, client)
    client.websocket = None
    await trio.sleep(3 * SECONDS)
    assert not client.pings
