"""The parts that the tests of the relay share: certificates, peers on loopback, descriptors to count, and waiting."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from pathlib import Path

import trio
import trio.testing

from cxfr_proxy.net.connection_limit import open_descriptors
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.tls import development_certificate
from cxfr_proxy.net.transport import PlainTransport, TlsTransport

PATIENCE_SECONDS = 60.0


async def until(condition: Callable[[], object]) -> None:
    """Let all tasks and sockets work until it holds, whatever clock trio has."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        await trio.lowlevel.checkpoint()  # not wait_all_tasks_blocked(): something may go on all the time


async def settled() -> None:
    """Nothing moves any more: all tasks wait, and go on waiting for a few rounds of the sockets."""
    await trio.testing.wait_all_tasks_blocked(0.03)


@contextmanager
def no_leak() -> Iterator[None]:
    """Fails where the block leaves a descriptor open."""
    before = open_descriptors()
    yield
    # Fewer, where garbage of an earlier test was collected meanwhile.
    assert open_descriptors() <= before, "a descriptor stayed open"


@lru_cache
def pem(*domains: str) -> bytes:
    """A certificate that is its own authority, and its key; made once per run."""
    return development_certificate(domains)


def write_pem(directory: Path, *domains: str) -> Path:
    path = directory / f"{domains[0].replace('*', 'any')}.pem"
    path.write_bytes(pem(*domains))
    return path


def server_context(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def client_context(trusted: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(trusted))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection on loopback, non-blocking: here, there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = socket.create_connection(listening.getsockname())
        there, _ = listening.accept()
    here.setblocking(False)
    there.setblocking(False)
    return here, there


def transport_pair() -> tuple[socket.socket, PlainTransport]:
    """The same, and the proxy's end is a transport: there, here."""
    here, there = tcp_pair()
    return there, PlainTransport.adopt(here)


def endpoint_on(stream: trio.SocketStream) -> Endpoint:
    """The socket of a stream of trio's, taken over."""
    return Endpoint(PlainTransport.adopt(socket.socket(fileno=stream.socket.detach())))


def server_transport(sock: socket.socket, context: ssl.SSLContext) -> TlsTransport:
    """The proxy's end of a TLS connection, whose handshake is still to be made."""
    return TlsTransport.over(PlainTransport.adopt(sock), context, server_side=True)


Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def peer(handler: Handler, *, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve connections with ``handler`` on a free port of loopback."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        yield int(listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def shake_hands(client: ssl.SSLSocket, server: ssl.SSLSocket) -> None:
    """Both sides of a handshake, whichever is ready."""
    waiting = [client, server]
    while waiting:
        for sock in list(waiting):
            try:
                sock.do_handshake()
                waiting.remove(sock)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
        await trio.lowlevel.checkpoint()
