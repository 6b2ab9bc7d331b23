"""The relay loop with real sockets on loopback, and a session that only passes bytes on.

Each test runs as the pump is meant to be used, ``relay()`` and then ``run()`` in a task.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from pump_world import (
    BOTH_WAYS,
    DATA,
    ORDER,
    RESET,
    STALL_SECONDS,
    Pair,
    Passing,
    World,
    flood,
    plain_pair,
    read,
    tls_pair,
    world,
    write,
    write_until_full,
)
from relay_tools import no_leak, settled, until, write_pem

from cxfr_proxy.relay.live_session import NODE_BYTES, LiveSession
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.session.commands import Close, Drop, EndOutput, Send, Side, Upgrade


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_pem(tmp_path, "example.org")


# --- bytes and ends


@BOTH_WAYS
async def test_bytes_both_ways(is_fast: bool) -> None:
    async with world() as it:
        with plain_pair() as pair:
            it.session(Passing(is_fast), *pair.inner)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, pair.client, DATA)
                nursery.start_soon(write, pair.node, DATA[::-1])
                assert await read(pair.node, len(DATA)) == DATA
                assert await read(pair.client, len(DATA)) == DATA[::-1]


@BOTH_WAYS
@pytest.mark.parametrize("first", list(Side))
async def test_half_close(is_fast: bool, first: Side) -> None:
    """If one side ends, the other can go on answering."""
    with no_leak():
        async with world() as it:
            with plain_pair() as pair:
                session = Passing(is_fast)
                it.session(session, *pair.inner)
                one, other = (pair.client, pair.node) if first is Side.CLIENT else (pair.node, pair.client)
                await write(one, b"last words")
                one.shutdown(socket.SHUT_WR)
                assert await read(other) == b"last words"
                await write(other, DATA)
                other.shutdown(socket.SHUT_WR)
                assert await read(one) == DATA
                await until(lambda: not it.running)
                assert session.called == [f"eof {first.name}", f"eof {first.other.name}"]


@BOTH_WAYS
@pytest.mark.parametrize("side", list(Side))
async def test_a_reset_is_an_end(is_fast: bool, side: Side) -> None:
    with no_leak():
        async with world() as it:
            with plain_pair() as pair:
                session = Passing(is_fast)
                it.session(session, *pair.inner)
                one, other = (pair.client, pair.node) if side is Side.CLIENT else (pair.node, pair.client)
                await write(one, b"x")
                assert await read(other, 1) == b"x"
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.close()
                assert await read(other) == b""
                other.close()
                await until(lambda: not it.running)


async def test_the_farewell_arrives_behind_a_backlog() -> None:
    """The node has ended while the client has not read: every byte comes, then what was sent last, then the end."""
    async with world() as it:
        with plain_pair() as pair:
            session = Passing(on_transfer=[Send(Side.CLIENT, b"farewell"), EndOutput(Side.CLIENT), Close()])
            live = it.session(session, *pair.inner, buffer_bytes=4096)
            sent = await flood(pair.node)
            pair.node.close()
            await settled()
            assert live.legs[Side.CLIENT].unsent
            live.transfer(ORDER)
            received = await read(pair.client)
            assert received.endswith(b"farewell")
            assert set(received[:-8]) == {ord("x")}
            # Close() may leave behind what the node's socket still held: that is the session's decision
            assert len(received) - 8 <= sent
            await until(lambda: not it.running)


async def test_close_at_once_does_not_wait() -> None:
    async with world() as it:
        with plain_pair() as pair:
            live = it.session(Passing(on_transfer=[Close(at_once=True)]), *pair.inner, buffer_bytes=4096)
            await flood(pair.node)
            live.transfer(ORDER)
            await until(lambda: not it.running)


async def test_a_socket_is_given_back_for_starttls() -> None:
    async with world() as it:
        with plain_pair() as pair:
            live = it.session(Passing(on_transfer=[Upgrade()]), *pair.inner)
            await write(pair.client, b"x")
            assert await read(pair.node, 1) == b"x"
            live.transfer(ORDER)
            assert await read(pair.node) == b""
            await until(lambda: not it.running)
            assert live.returned is not None
            assert live.returned.transport is pair.inner[0]
            await write(pair.client, b"plain")
            assert await read(pair.inner[0], 5) == b"plain"
            pair.inner[0].close()


async def test_what_a_client_has_not_taken_goes_back_with_its_socket() -> None:
    async with world() as it:
        with plain_pair() as pair:
            session = Passing(on_transfer=[Send(Side.CLIENT, b"the last"), Upgrade()])
            live = it.session(session, *pair.inner, buffer_bytes=4096)
            await flood(pair.node)
            assert live.legs[Side.CLIENT].unsent
            live.transfer(ORDER)
            assert it.returned == [live]
            assert live.returned is not None
            assert live.returned.unsent.endswith(b"xthe last")
            live.returned.transport.close()


# --- back-pressure


@BOTH_WAYS
async def test_a_client_that_does_not_read_stops_its_node(is_fast: bool) -> None:
    """One buffer is kept for it, whatever the node would like to send; then it goes on where it was."""
    async with world() as it:
        with plain_pair() as pair:
            session = Passing(is_fast)
            live = it.session(session, *pair.inner, buffer_bytes=4096)
            sent = await flood(pair.node)
            client = live.legs[Side.CLIENT]
            assert 0 < len(client.unsent) <= NODE_BYTES
            pair.node.shutdown(socket.SHUT_WR)
            await settled()
            assert 0 < len(client.unsent) <= NODE_BYTES
            # The other direction goes on.
            await write(pair.client, b"up")
            assert await read(pair.node, 2) == b"up"
            assert await read(pair.client) == b"x" * sent
            assert set(session.called_up) == {Side.CLIENT}, "it is told"


@BOTH_WAYS
async def test_a_client_that_never_reads_ends_its_session(is_fast: bool, mock_clock: trio.testing.MockClock) -> None:
    with no_leak():
        async with world() as it:
            with plain_pair() as pair:
                session = Passing(is_fast)
                it.session(session, *pair.inner, buffer_bytes=4096)
                await flood(pair.node)
                mock_clock.jump(STALL_SECONDS - 1)
                await settled()
                assert session.called == []
                mock_clock.jump(2)
                await until(lambda: not it.running)
                assert session.called == ["stalled CLIENT"]


@BOTH_WAYS
async def test_a_slow_client_is_not_a_stalled_one(is_fast: bool, mock_clock: trio.testing.MockClock) -> None:
    async with world() as it:
        with plain_pair() as pair:
            session = Passing(is_fast)
            live = it.session(session, *pair.inner, buffer_bytes=4096)
            await flood(pair.node)
            for _ in range(4):
                mock_clock.jump(STALL_SECONDS - 1)
                since = live.legs[Side.CLIENT].stuck_since
                while live.legs[Side.CLIENT].stuck_since == since:
                    await read(pair.client, 1)
                    await settled()
            assert session.called == []


async def test_a_slow_client_over_tls_is_not_a_stalled_one(
    certificate: Path, mock_clock: trio.testing.MockClock
) -> None:
    """A long element, of which something is read all the time, but not all of it within the time."""
    async with world() as it, tls_pair(certificate) as pair:
        session = Passing(on_transfer=[Send(Side.CLIENT, DATA)])
        live = it.session(session, *pair.inner, buffer_bytes=4096)
        live.transfer(ORDER)
        received = 0
        while received < len(DATA) and not session.called:
            mock_clock.jump(STALL_SECONDS / 20)
            received += len(await read(pair.client, 16_384))
            await settled()
            if trio.current_time() > 3 * STALL_SECONDS:
                break
        assert session.called == []


class Closed(Passing):
    """A session that is over, as :meth:`Session.due` has it."""

    def due(self, *, backlogged: bool) -> float | None:
        return 2 * STALL_SECONDS if backlogged else None


async def test_what_is_left_of_a_session_goes_out_to_a_slow_reader_but_not_for_ever(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with world() as it:
        with plain_pair() as pair:
            session = Closed(on_transfer=[Send(Side.CLIENT, DATA), Close()])
            live = it.session(session, *pair.inner, buffer_bytes=4096)
            live.transfer(ORDER)
            for _ in range(2):
                mock_clock.jump(STALL_SECONDS - 5)
                since = live.legs[Side.CLIENT].stuck_since
                while live.legs[Side.CLIENT].stuck_since == since:
                    await read(pair.client, 1)
                    await settled()
            assert it.running
            mock_clock.jump(STALL_SECONDS - 5)
            for _ in range(100):  # settled() would wait for ever for a timer that rings again and again
                await trio.lowlevel.checkpoint()
            assert not it.running


async def test_a_closing_session_is_closed_although_nobody_reads(mock_clock: trio.testing.MockClock) -> None:
    with no_leak():
        async with world() as it:
            with plain_pair() as pair:
                session = Passing(on_transfer=[Send(Side.CLIENT, b"farewell"), Close()])
                live = it.session(session, *pair.inner, buffer_bytes=4096)
                await flood(pair.node)
                live.transfer(ORDER)
                await settled()
                assert it.running
                mock_clock.jump(STALL_SECONDS + 1)
                await until(lambda: not it.running)


async def test_the_sessions_deadline(mock_clock: trio.testing.MockClock) -> None:
    async with world() as it:
        with plain_pair() as pair:
            session = Passing(deadline=5.0)
            it.session(session, *pair.inner)
            await settled()
            mock_clock.jump(4)
            await settled()
            assert session.called == []
            mock_clock.jump(2)
            await until(lambda: not it.running)
            assert session.called == ["tick"]


# --- faults and cancellation


@pytest.mark.parametrize("fault", [ValueError("x"), AssertionError("x"), OSError("x")])
async def test_a_fault_ends_one_session(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with no_leak():
        async with world() as it:
            with plain_pair() as good, plain_pair() as bad:
                it.session(Passing(), *good.inner)
                it.session(Passing(is_fast=False, fault=fault), *bad.inner)
                await write(bad.client, b"x")
                assert await read(bad.client) == b""
                assert await read(bad.node) == b""
                await write(good.client, b"x")
                assert await read(good.node, 1) == b"x"
                assert it.running == 1
    assert "fault" in caplog.text
    caplog.clear()


async def test_a_fault_in_an_order_does_not_reach_who_gave_it() -> None:
    """The mover gives orders to thousands: one session's defect must not end the others, nor the mover."""
    with no_leak():
        async with world() as it:
            with plain_pair() as pair:
                live = it.session(Passing(fault=AssertionError("a defect")), *pair.inner)
                await settled()
                live.transfer(ORDER)
                await until(lambda: not it.running)


State = Callable[["World", LiveSession, "Pair"], Awaitable[None]]


async def starting(it: World, live: LiveSession, pair: Pair) -> None:
    """Nothing has happened yet."""


async def idle(it: World, live: LiveSession, pair: Pair) -> None:
    await settled()


async def blocked(it: World, live: LiveSession, pair: Pair) -> None:
    await flood(pair.node)


async def half_closed(it: World, live: LiveSession, pair: Pair) -> None:
    pair.client.shutdown(socket.SHUT_WR)
    await settled()


async def farewell_under_way(it: World, live: LiveSession, pair: Pair) -> None:
    await flood(pair.node)
    live.transfer(ORDER)
    await settled()
    assert it.running


@pytest.mark.parametrize("state", [starting, idle, blocked, half_closed, farewell_under_way])
@pytest.mark.parametrize("first", ["sessions", "pump"])
async def test_cancelled(state: State, first: str) -> None:
    """Every socket is closed, whatever the session was doing, and whoever is cancelled first: when everything is
    cancelled at once, nobody says in which order."""
    with plain_pair() as pair:
        try:
            pump = Pump(write_stall_timeout=STALL_SECONDS)
            async with trio.open_nursery() as outer:
                async with trio.open_nursery() as inner:
                    sessions, services = (inner, outer) if first == "sessions" else (outer, inner)
                    it = World(pump, sessions)
                    services.start_soon(pump.run)
                    session = Passing(on_transfer=[Send(Side.CLIENT, b"farewell"), Close()])
                    live = it.session(session, *pair.inner, buffer_bytes=4096)
                    await state(it, live, pair)
                    inner.cancel_scope.cancel()
                outer.cancel_scope.cancel()
            pump.close()
            assert all(sock.fileno() < 0 for sock in pair.inner)
        finally:
            for sock in pair.inner:
                sock.close()


async def test_one_task_keeps_all_sessions() -> None:
    """The first call stays until none is left, whoever came while it waited; the others return at once."""
    async with world() as it:
        with plain_pair() as one, plain_pair() as two:
            first, _ = it.session(Passing(), *one.inner), it.session(Passing(), *two.inner)
            await settled()
            with trio.fail_after(60):
                await it.pump.keep()
            assert len(it.nursery.child_tasks) == 1
            first.stop()
            await settled()
            assert len(it.nursery.child_tasks) == 1
            for live in list(it.pump._sessions.values()):
                live.stop()
            await until(lambda: not it.nursery.child_tasks)
        with plain_pair() as three:
            it.session(Passing(), *three.inner)
            await settled()
            assert len(it.nursery.child_tasks) == 1, "the next one keeps again"
    assert not it.running


async def test_who_hears_of_the_end_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the pump goes on."""

    class Failing(World):
        def session_over(self, live: LiveSession) -> None:
            raise RuntimeError("at the end")

    async with world() as it:
        with plain_pair() as one, plain_pair() as two:
            live = it.session(Passing(), *one.inner)
            live.listener = Failing(it.pump, it.nursery)
            live.stop()
            it.session(Passing(), *two.inner)
            await write(two.client, b"x")
            assert await read(two.node, 1) == b"x"
    assert [record.msg for record in caplog.records] == ["fault"]


# --- many


async def test_many_sessions_cut_anywhere() -> None:
    """200 at once, random bytes both ways; a third cut, a third reset, a third ended in good order. Exactly those bytes
    arrive that were sent, from the beginning, and whole where nobody cut."""
    rng = random.Random(7)
    with no_leak():
        async with world() as it:

            async def one(seed: int) -> None:
                dice = random.Random(seed)
                up, down = dice.randbytes(dice.randrange(60_000)), dice.randbytes(dice.randrange(60_000))
                how = seed % 3
                with plain_pair() as pair:
                    it.session(Passing(bool(seed % 2)), *pair.inner)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(play, pair.node, down, b"" if how else up, random.Random(seed + 1000))
                        if how:
                            cut = dice.randrange(len(up) + 1)
                            await write_in_pieces(pair.client, up[:cut], dice)
                            if how == 1:
                                pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                            pair.client.close()
                        else:
                            await write_in_pieces(pair.client, up, dice)
                            pair.client.shutdown(socket.SHUT_WR)
                            assert await read(pair.client) == down

            async def play(node: socket.socket, down: bytes, up: bytes, dice: random.Random) -> None:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def send() -> None:
                        with contextlib.suppress(ConnectionError):
                            await write_in_pieces(node, down, dice)
                            node.shutdown(socket.SHUT_WR)

                    with contextlib.suppress(ConnectionError):
                        received = await read(node)
                        assert not up or received == up

            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(one, rng.randrange(1_000_000) * 3 + number % 3)
            await until(lambda: not it.running)


async def write_in_pieces(sock: socket.socket, data: bytes, dice: random.Random) -> None:
    while data:
        size = dice.randrange(1, 20_000)
        await write(sock, data[:size])
        data = data[size:]
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_flood_does_not_starve_the_others(certificate: Path, tls: bool) -> None:
    """While one session carries all it can, the others' bytes get through, and other tasks run."""
    async with world() as it, tls_pair(certificate) as encrypted:
        with plain_pair() as plain, plain_pair() as quiet:
            loud = encrypted if tls else plain
            it.session(Passing(), *encrypted.inner)
            it.session(Passing(), *plain.inner)
            it.session(Passing(), *quiet.inner)
            carried = 0

            async def shout() -> None:
                while True:
                    await write(loud.client, b"x" * 200_000)
                    await trio.lowlevel.checkpoint()

            async def swallow() -> None:
                nonlocal carried
                while True:
                    carried += len(await read(loud.node, 1))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(shout)
                nursery.start_soon(swallow)
                while carried < 1_000_000:
                    await trio.lowlevel.checkpoint()
                before = carried
                with trio.fail_after(60):
                    for _ in range(20):
                        await write(quiet.client, b"ping")
                        assert await read(quiet.node, 4) == b"ping"
                # A round trip of the quiet one costs no more than a few turns of the loud one.
                assert carried - before < 20 * 2_000_000
                nursery.cancel_scope.cancel()


# --- one side is given up


@pytest.mark.parametrize("is_fast", [True, False])
async def test_a_side_that_is_dropped_holds_up_nothing(is_fast: bool) -> None:
    """A node that has stopped reading: what it has not taken goes with it, and the client is read again."""
    with no_leak(), plain_pair() as pair:
        async with world() as it:
            session = Passing(is_fast=is_fast, on_transfer=[Drop(Side.NODE), Send(Side.CLIENT, b"news")])
            live = it.session(session, *pair.inner, buffer_bytes=4096)
            write_until_full(pair.client)
            await settled()
            assert live.legs[Side.NODE].unsent
            session.ended.add(Side.NODE)
            live.transfer(ORDER)
            assert await read(pair.client, 4) == b"news"
            pair.client.setblocking(False)
            await write(pair.client, b"x" * 1_000_000)
            assert live.last_active > 0.0
            pair.client.shutdown(socket.SHUT_WR)
            await until(lambda: not it.running)
        assert session.called == ["eof CLIENT"]
        while pair.node.recv(65_536):
            pass  # what it had taken, and then its end
