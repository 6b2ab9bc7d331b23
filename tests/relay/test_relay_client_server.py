"""A client's connection is closed and counted down: once, whatever happens and whoever has it."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing
from certificates import served
from relay_tools import no_leak, until
from session_fakes import FakeListener

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.config.table import Config, Limits, Route, StartTls
from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.transport import PlainTransport
from cxfr_proxy.relay import client_server
from cxfr_proxy.relay.client_server import ClientServer
from cxfr_proxy.relay.connection_rules import ConnectionRules
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.session.commands import Event, Upgrade
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.upstream.router import ReachedNode, Router
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.login import Login

HEADER = (
    b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='example.org'"
    b" version='1.0'>"
)
NODE = NodeSpec("node1", Address("127.0.0.1", 5222))


class OneNode:
    """A router to one node, whose far ends it has."""

    def __init__(self, cluster: Cluster) -> None:
        self._node = cluster.get("node1")
        self.far: list[socket.socket] = []
        self.open = trio.Event()
        """It is reached then."""
        self.open.set()

    async def reach(
        self, header: StreamHeader, login: Login, waiting: Endpoint, arrival: Arrival, silent: Collection[str] = ()
    ) -> ReachedNode:
        if not self.open.is_set():
            await waiting.waits.in_trio(self.open.wait)
        near, far = socket.socketpair()
        self.far.append(far)
        return ReachedNode(self._node, Endpoint(PlainTransport.adopt(near)), len(self.far))

    def takes_sessions(self, node: str) -> bool:
        return False

    def is_elsewhere(self, login: Login, domain: str, node: str) -> bool:
        return False


class Counting(FakeListener):
    """Notes what is counted with each change."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.counted: list[tuple[int, int]] = []

    def changed(self) -> None:
        self.counted.append(self._world.counted)


class World:
    """A server of clients, of which a test has the far ends."""

    def __init__(self, nursery: trio.Nursery, pump: Pump, limits: Limits) -> None:
        config = Config(starttls=StartTls.OFF, route=Route.CONNECT, limits=limits)
        cluster = Cluster([NODE])
        self.router = OneNode(cluster)
        self.listener = Counting(self)
        self.registry = Registry(self.listener, redirect_window=60.0)
        self.limit = ConnectionLimit(10)
        self._nursery = nursery
        self.pump = pump
        self.server = ClientServer(
            config,
            rules=ConnectionRules(config, cluster, served(domains=("example.org",))),
            router=cast("Router", self.router),
            registry=self.registry,
            pump=pump,
            limit=self.limit,
            watcher=self,
        )
        self.server.tasks = nursery
        self.over: list[int] = []

    def session_event(self, live: LiveSession, event: Event) -> None:
        self.registry.note(live, event, trio.current_time())

    def session_over(self, live: LiveSession) -> None:
        self.over.append(live.id)

    def connect(self) -> socket.socket:
        near, far = socket.socketpair()
        far.send(HEADER)  # first: a client that is refused is hung up on at once
        self.limit.enter()
        self.server.serve(near, "")
        return far

    @property
    def counted(self) -> tuple[int, int]:
        """Connections, and places that are taken."""
        return self.registry.connections, self.limit.taken


@asynccontextmanager
async def world(limits: Limits | None = None) -> AsyncIterator[World]:
    pump = Pump(write_stall_timeout=30.0)
    async with trio.open_nursery() as services:
        services.start_soon(pump.run)
        async with trio.open_nursery() as clients:
            it = World(clients, pump, limits or Limits())
            yield it
            clients.cancel_scope.cancel()
        services.cancel_scope.cancel()
    pump.close()
    assert it.counted == (0, 0)
    for far in it.router.far:
        if far.fileno() >= 0:
            await ends(far)


async def ends(far: socket.socket) -> None:
    """The connection is closed."""
    far.setblocking(False)
    while True:
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(far)
        with contextlib.suppress(ConnectionResetError):  # what it had sent was not read
            if far.recv(65_536):
                continue
        far.close()
        return


async def test_a_session_has_the_duties_of_its_connection() -> None:
    with no_leak():
        async with world() as it:
            far = it.connect()
            await until(lambda: it.router.far)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert it.counted == (1, 1)
            far.close()
            it.router.far[0].close()
            await until(lambda: not list(it.registry))
            assert it.counted == (0, 0)


async def test_what_came_before_the_connection_was_accepted_is_read_at_once() -> None:
    with no_leak():
        async with world() as it:
            far = it.connect()
            assert [live.id for live in it.registry] == [1], "nobody has asked epoll yet"
            far.close()


async def test_what_comes_right_behind_the_handshake_is_read_at_once() -> None:
    """As a header does with TLS 1.3."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    comes, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(comes, goes)
    with no_leak():
        async with world() as it:
            near, far = socket.socketpair()
            number = near.fileno()
            far.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            far.send(goes.read())
            it.limit.enter()
            it.server.serve(near, "")
            comes.write(far.recv(65_536))
            client.do_handshake()
            client.write(HEADER)
            reported: list[int] = []
            serve = it.pump.on_ready

            def on_ready(fd: int, events: int) -> None:
                if fd == number and not list(it.registry):
                    reported.append(fd)
                serve(fd, events)

            it.pump.on_ready = on_ready  # type: ignore[method-assign]
            far.send(goes.read())
            await until(lambda: list(it.registry))
            assert reported == [number]
            far.close()


@pytest.mark.parametrize("where", ["session", "registry"])
async def test_a_fault_where_a_session_begins(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On either side of the line at which the duties pass on."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    with no_leak():
        async with world() as it:
            if where == "session":
                monkeypatch.setattr(client_server, "Session", fail)
            else:
                monkeypatch.setattr(it.registry, "add", fail)
            await ends(it.connect())
            assert it.counted == (0, 0)
            assert not list(it.registry)
    assert [record.msg for record in caplog.records if record.levelno >= logging.ERROR] == ["fault"]


async def test_one_that_ends_by_a_fault_is_over_although_it_has_not_said_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it reports first is not taken, and nothing follows."""

    def fail(*_: object) -> None:
        raise RuntimeError

    with no_leak():
        async with world() as it:
            far = it.connect()
            await until(lambda: list(it.registry))
            (live,) = it.registry
            monkeypatch.setattr(it, "session_event", fail)
            live.stop()
            await ends(far)
            assert (it.over, it.counted) == ([live.id], (0, 0))
    assert [record.msg for record in caplog.records if record.levelno >= logging.ERROR] == ["fault"]


async def test_cancelled_while_its_node_is_reached() -> None:
    with no_leak():
        async with world() as it:
            it.router.open = trio.Event()
            far = it.connect()
            await until(lambda: it.counted == (1, 1))
            await trio.testing.wait_all_tasks_blocked(0.01)
        await ends(far)


async def test_a_client_that_leaves_before_it_has_a_node() -> None:
    with no_leak():
        async with world() as it:
            near, far = socket.socketpair()
            far.close()
            it.limit.enter()
            it.server.serve(near, "")
            await until(lambda: it.counted == (0, 0))


async def test_a_connection_that_comes_back_is_counted_all_the_time() -> None:
    with no_leak():
        async with world() as it:
            far = it.connect()
            await until(lambda: list(it.registry))
            (live,) = it.registry
            seen = it.listener.counted
            seen.clear()
            assert isinstance(live, LiveSession)
            it.server._pump.drive(live, lambda now: [Upgrade()])
            assert not list(it.registry), "the session is over"
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert it.counted == (1, 1)
            far.shutdown(socket.SHUT_WR)
            await ends(far)
            await until(lambda: it.counted == (0, 0))
            assert set(seen) <= {(1, 1), (0, 1)}, "counted down once, and its place given when it is closed"


async def test_no_more_than_may_be_of_one_address() -> None:
    with no_leak():
        async with world(Limits(connections_per_address=1)) as it:
            first = it.connect()
            await until(lambda: it.counted == (1, 1))
            await ends(it.connect())
            assert it.counted == (1, 1)
            first.close()
