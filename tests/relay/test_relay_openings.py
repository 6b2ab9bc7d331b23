"""Coroutines that the pump carries on without a trio task: what wakes them, what ends them, and that one is one."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from relay_tools import no_leak, transport_pair, until
from trio.testing import MockClock
from waiting import PATIENCE_SECONDS

from cxfr_proxy.demo.certificate import make_certificate
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.transport import PlainTransport
from cxfr_proxy.relay.openings import GivenUp, PumpWaits
from cxfr_proxy.relay.pump import Pump


class World:
    """A pump, and what its coroutines have said."""

    def __init__(self, pump: Pump) -> None:
        self.openings = pump.openings
        self.said: list[object] = []
        self.far: list[socket.socket] = []

    def endpoint(self, waits: PumpWaits) -> Endpoint:
        there, here = transport_pair()
        self.far.append(there)
        return Endpoint(here, waits)

    async def echo(self, waits: PumpWaits) -> None:
        """Say what comes in, until the end; and what has ended it."""
        endpoint = self.endpoint(waits)
        try:
            while data := await endpoint.receive_some():
                self.said.append(data)
        except BaseException as exc:
            self.said.append(type(exc))
            raise
        finally:
            endpoint.close()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    pump = Pump(write_stall_timeout=30.0)
    with no_leak():
        async with trio.open_nursery() as services:
            services.start_soon(pump.run)
            async with trio.open_nursery() as clients:
                pump.openings.tasks = clients
                it = World(pump)
                yield it
                clients.start_soon(pump.keep)
                await trio.testing.wait_all_tasks_blocked()
                clients.cancel_scope.cancel()
            services.cancel_scope.cancel()
        assert not pump.openings
        pump.close()
        for far in it.far:
            far.close()


async def test_it_goes_on_where_its_socket_can_be_read() -> None:
    async with world() as it:
        it.openings.begin(it.echo)
        it.openings.begin(it.echo)
        for number in (0, 1, 0):
            it.far[number].send(b"%d" % number)
            expected = len(it.said) + 1
            await until(lambda expected=expected: len(it.said) == expected)  # type: ignore[misc]
        assert it.said == [b"0", b"1", b"0"]
        it.far[1].close()
        await until(lambda: len(it.openings) == 1)


async def test_a_peer_that_does_not_read_is_waited_for() -> None:
    async with world() as it:
        data = bytes(16 << 20)  # a socket that is not read takes nearly 4 MB

        async def send(waits: PumpWaits) -> None:
            endpoint = it.endpoint(waits)
            await endpoint.send_all(data)
            endpoint.close()

        it.openings.begin(send)
        assert len(it.openings) == 1
        got = 0
        it.far[0].setblocking(False)
        while got < len(data):
            await trio.lowlevel.wait_readable(it.far[0])
            got += len(it.far[0].recv(1 << 20))
        await until(lambda: not it.openings)


async def test_tls_begins_where_the_other_side_waits_for_the_first_byte(tmp_path: Path) -> None:
    """As with a node: nothing comes from a TLS server before the client has spoken."""
    certificate = make_certificate(tmp_path, "localhost")
    async with world() as it:

        async def shake_hands(waits: PumpWaits) -> None:
            endpoint = it.endpoint(waits)
            context = certificate.client_context()
            await endpoint.start_tls(context, server_side=False, server_hostname="localhost")
            it.said.append(endpoint.transport.version())
            endpoint.close()

        it.openings.begin(shake_hands)
        server = Endpoint(PlainTransport.adopt(it.far.pop()))
        with trio.fail_after(PATIENCE_SECONDS):
            await server.start_tls(certificate.server_context(), server_side=True)
        await until(lambda: not it.openings)
        assert it.said == ["TLSv1.3"]
        server.close()


async def test_a_flood_is_read_a_piece_a_turn() -> None:
    """Between two pieces of one peer everybody else is served."""
    async with world() as it:
        it.openings.begin(it.echo)
        it.openings.begin(it.echo)
        it.far[0].send(b"a" * 40_000)
        it.far[1].send(b"b")
        await until(lambda: len(it.said) >= 4)
        assert b"b" in it.said[:3]


async def test_its_deadline(mock_clock: MockClock) -> None:
    async with world() as it:

        async def limited(waits: PumpWaits) -> None:
            waits.deadline = trio.current_time() + 5
            waits.deadline = trio.current_time() + 20  # put off
            await it.echo(waits)

        async def lifted(waits: PumpWaits) -> None:
            waits.deadline = trio.current_time() + 5
            waits.settle()
            await it.echo(waits)

        it.openings.begin(limited)
        it.openings.begin(lifted)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10)
        await trio.testing.wait_all_tasks_blocked()
        assert it.said == []
        mock_clock.jump(11)
        await until(lambda: it.said == [trio.TooSlowError])
        assert len(it.openings) == 1


async def test_the_time(mock_clock: MockClock) -> None:
    """It is that of the turn, or of when one goes on without a turn."""
    async with world() as it:

        async def serve(waits: PumpWaits) -> None:
            endpoint = it.endpoint(waits)
            it.said.append(waits.now - began)
            await endpoint.receive_some()
            it.said.append(waits.now - began)
            await waits.in_trio(partial(trio.sleep, 10))
            it.said.append(waits.now - began)
            endpoint.close()

        mock_clock.jump(5)
        began = trio.current_time()
        it.openings.begin(serve)
        mock_clock.jump(7)
        it.far[0].send(b"x")
        await until(lambda: len(it.said) == 2)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(11)
        await until(lambda: not it.openings)
        assert it.said == [0, 7, 18]


async def test_a_limit_within(mock_clock: MockClock) -> None:
    async with world() as it:

        async def serve(waits: PumpWaits) -> None:
            endpoint = it.endpoint(waits)
            with pytest.raises(trio.TooSlowError), waits.time_limit(5):
                await endpoint.receive_some()
            it.said.append(waits.deadline)
            endpoint.close()

        it.openings.begin(serve)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(6)
        await until(lambda: it.said == [math.inf])


async def test_the_proxy_stops() -> None:
    """Those that may be given up are, wherever they wait, and those that come later; the others end by themselves."""
    async with world() as it:

        async def serve(waits: PumpWaits, *, may: bool) -> None:
            waits.may_be_given_up = may
            await it.echo(waits)

        it.openings.begin(lambda waits: serve(waits, may=True))
        it.openings.begin(lambda waits: serve(waits, may=False))
        it.openings.stop()
        assert it.said == [GivenUp]
        assert len(it.openings) == 1
        it.openings.begin(lambda waits: waiting(waits, it))
        assert it.said == [GivenUp, "stopping"]


async def waiting(waits: PumpWaits, it: World) -> None:
    it.said.append("stopping" if waits.stopping else "not stopping")


@pytest.mark.parametrize("fault", [None, RuntimeError])
async def test_what_needs_a_task(fault: type[Exception] | None) -> None:
    async with world() as it:
        open_it = trio.Event()

        async def in_task() -> str:
            await open_it.wait()
            if fault is not None:
                raise fault
            return "done"

        async def serve(waits: PumpWaits) -> None:
            endpoint = it.endpoint(waits)
            try:
                it.said.append(await waits.in_trio(in_task))
            except RuntimeError:
                it.said.append(fault)
            it.said.append(await endpoint.receive_some())
            endpoint.close()

        it.openings.begin(serve)
        it.far[0].send(b"x")  # nobody waits for that now
        await trio.testing.wait_all_tasks_blocked()
        assert it.said == []
        open_it.set()
        await until(lambda: it.said == [fault or "done", b"x"])


async def test_closed_while_a_task_does_its_part() -> None:
    """Nobody waits for that task any more."""
    async with world() as it:

        async def in_task() -> None:
            try:
                await trio.sleep_forever()
            finally:
                it.said.append("cancelled")

        async def serve(waits: PumpWaits) -> None:
            await waits.in_trio(in_task)

        opening = it.openings.begin(serve)
        await trio.testing.wait_all_tasks_blocked()
        it.openings.close(opening)
        it.openings.close(opening)
        await until(lambda: it.said == ["cancelled"])


async def test_given_up_while_a_task_does_its_part() -> None:
    async with world() as it:

        async def in_task() -> None:
            try:
                await trio.sleep_forever()
            finally:
                it.said.append("cancelled")

        async def serve(waits: PumpWaits) -> None:
            waits.may_be_given_up = True
            try:
                await waits.in_trio(in_task)
            finally:
                it.said.append("over")

        it.openings.begin(serve)
        await trio.testing.wait_all_tasks_blocked()
        it.openings.stop()
        await until(lambda: not it.openings)
        assert it.said == ["cancelled", "over"]


async def test_all_end_with_the_task_that_keeps_them() -> None:
    """Wherever they are: at a socket, in a task, or not begun."""
    async with world() as it:

        async def in_task(waits: PumpWaits) -> None:
            endpoint = it.endpoint(waits)
            try:
                await waits.in_trio(trio.sleep_forever)
            finally:
                it.said.append("closed")
                endpoint.close()

        it.openings.begin(it.echo)
        it.openings.begin(in_task)
        await trio.testing.wait_all_tasks_blocked()
        it.openings.begin(it.echo, at_once=False)
        it.openings.close_all()
        assert not it.openings
        assert sorted(it.said, key=str) == [GeneratorExit, GeneratorExit, "closed"]


async def test_it_does_not_begin_within_what_has_begun_it() -> None:
    async with world() as it:
        it.openings.begin(it.echo, at_once=False)
        assert it.far == []
        await until(lambda: len(it.far) == 1)


@pytest.mark.parametrize("what", ["fault", "trio"])
async def test_a_fault_ends_one_alone(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """To await trio is one: there is no task."""
    async with world() as it:

        async def serve(waits: PumpWaits) -> None:
            endpoint = it.endpoint(waits)
            try:
                await endpoint.receive_some()
                if what == "fault":
                    raise RuntimeError
                await trio.lowlevel.cancel_shielded_checkpoint()
            finally:
                endpoint.close()

        it.openings.begin(it.echo)
        it.openings.begin(serve)
        it.far[1].send(b"x")
        await until(lambda: len(it.openings) == 1)
        it.far[0].send(b"y")
        await until(lambda: it.said == [b"y"])
    assert [record.msg for record in caplog.records if record.levelno >= logging.ERROR] == ["fault"]


async def test_a_number_that_another_socket_gets() -> None:
    """One socket was closed, and the next one has its number: it is watched all the same."""
    async with world() as it:

        async def serve(waits: PumpWaits) -> None:
            for _ in range(3):
                endpoint = it.endpoint(waits)
                it.said.append(await endpoint.receive_some())
                endpoint.close()

        it.openings.begin(serve)
        for number in range(3):
            await until(lambda number=number: len(it.far) == number + 1)  # type: ignore[misc]
            it.far[number].send(b"%d" % number)
        await until(lambda: it.said == [b"0", b"1", b"2"])
