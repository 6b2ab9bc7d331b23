"""Demo nodes that run, and a client that says exactly what a test tells it to."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import (
    Connection,
    HostPort,
    StreamEvent,
    StreamOpened,
)
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element, serialize

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='localhost'>"
)
PATIENCE_SECONDS = 60  # only a test that fails waits for so long


def plain(user: str, password: str = "secret") -> str:
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


async def until(condition: Callable[[], bool]) -> None:
    """Let the sockets work until it holds. Fails, with the condition's source line, after ``PATIENCE_SECONDS``."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens beyond sockets, in no task of ours
            await trio.sleep(0.002)


@asynccontextmanager
async def running(*nodes: DemoNode) -> AsyncIterator[trio.Nursery]:
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for node in nodes:
                await nursery.start(node.serve)
            yield nursery
            nursery.cancel_scope.cancel()


class Raw:
    """A connection on which a test writes bytes and reads events."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.connection = Connection(transport)

    async def send(self, text: str | bytes) -> None:
        await self.connection.transport.send_all(text.encode() if isinstance(text, str) else text)

    async def read(self) -> StreamEvent:
        return await self.connection.read()

    async def element(self) -> Element:
        incoming = await self.read()
        assert isinstance(incoming, Element), incoming
        return incoming

    async def xml(self) -> str:
        return serialize(await self.element()).decode()

    async def open(self) -> str:
        """A stream header, its answer and the features."""
        await self.send(HEADER)
        assert isinstance(await self.read(), StreamOpened)
        return await self.xml()

    async def log_in(self, user: str = "romeo", resource: str = "r") -> str:
        await self.open()
        await self.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{plain(user)}</auth>")
        assert "success" in await self.xml()
        self.connection.restart()
        await self.open()
        if not resource:
            return ""
        await self.send(f"<iq type='set' id='b'><bind xmlns='{names.BIND}'><resource>{resource}</resource></bind></iq>")
        assert f"{user}@localhost/{resource}" in await self.xml()
        return f"{user}@localhost/{resource}"

    async def enable(self) -> str:
        await self.send(f"<enable xmlns='{names.SM}' resume='true'/>")
        sm_id = (await self.element()).get("id")
        assert sm_id
        return sm_id

    async def close(self) -> None:
        await self.connection.close()


async def connect(address: HostPort | None, tls: ssl.SSLContext | None = None) -> Raw:
    assert address is not None
    stream: trio.abc.Stream = await trio.open_tcp_stream(*address)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname="localhost")
    return Raw(stream)


@asynccontextmanager
async def connected(node: DemoNode) -> AsyncIterator[Raw]:
    raw = await connect(node.address)
    try:
        yield raw
    finally:
        await raw.close()
