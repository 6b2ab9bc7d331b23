"""A relay in front of a node that writes down every byte: the witness of what a node said and was told.

It stands between the proxy and one node and behaves like the node's own address as far as it can: it passes on half
closes, and when the node refuses connections it refuses them too, until the node accepts again, on the same port.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from real.programs import HOST, background, free_port
from real.wire import Chunk, Recording

_POLL_SECONDS: Final = 0.05
_READ_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Unsealed:
    """TLS on both sides of a tap: ``node`` is the context in which it takes connections as the node does, and
    ``program`` that in which it makes them as the program that connects. ``name``: whose certificate the node has to
    show."""

    node: ssl.SSLContext
    program: ssl.SSLContext
    name: str


class Tap:
    """``connections`` holds a recording of each connection that reached the node, in the order of their opening."""

    def __init__(
        self, node_port: int, *, node_host: str = HOST, port: int | None = None, tls: Unsealed | None = None
    ) -> None:
        self._tls = tls
        self.node_host = node_host
        self.node_port = node_port
        self.host = HOST
        self.port = port if port is not None else free_port()
        self.connections: list[Recording] = []
        self.refused = 0
        self._open: list[tuple[trio.SocketStream, trio.SocketStream]] = []

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def open_connections(self) -> list[Recording]:
        return [connection for connection in self.connections if connection.is_open]

    @property
    def carried(self) -> int:
        """How many connections it carries now."""
        return len(self._open)

    def reset(self) -> int:
        """Reset all connections on both sides; return how many."""
        count = self.carried
        for _ in range(count):
            self.reset_one(0)
        return count

    def reset_one(self, place: int) -> None:
        """Reset the connection at that place, in the order of their opening."""
        for stream in self._open.pop(place):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and relay until cancelled."""
        listener = self._listen()
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                with listener:
                    await self._accept_until_refused(listener, nursery)
                await self._until_node_accepts()
                listener = self._listen()

    def _listen(self) -> trio.socket.SocketType:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, self.port))
        sock.listen(512)
        return trio.socket.from_stdlib_socket(sock)

    async def _accept_until_refused(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            near, _ = await listener.accept()
            try:
                far = await trio.open_tcp_stream(self.node_host, self.node_port)
            except OSError:
                self.refused += 1
                # The nearest to a refusal that an accepted connection can get: a reset.
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.close()
                return
            except BaseException:
                near.close()
                raise
            nursery.start_soon(self._relay, trio.SocketStream(near), far)

    async def _until_node_accepts(self) -> None:
        while True:
            try:
                stream = await trio.open_tcp_stream(self.node_host, self.node_port)
            except OSError:
                await trio.sleep(_POLL_SECONDS)
                continue
            await stream.aclose()
            return

    async def _relay(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        recording = Recording(opened_at=time.monotonic())
        self.connections.append(recording)
        self._open.append((near, far))
        try:
            async with near, far, trio.open_nursery() as nursery:
                if self._tls is None:
                    nursery.start_soon(_carry, near, far, recording.up_chunks)
                    nursery.start_soon(_carry, far, near, recording.down_chunks)
                else:
                    inner = trio.SSLStream(near, self._tls.node, server_side=True, https_compatible=True)
                    name = self._tls.name
                    outer = trio.SSLStream(far, self._tls.program, server_hostname=name, https_compatible=True)
                    over = nursery.cancel_scope
                    nursery.start_soon(_carry_unsealed, inner, outer, recording.up_chunks, over)
                    nursery.start_soon(_carry_unsealed, outer, inner, recording.down_chunks, over)
        finally:
            self._open = [each for each in self._open if each != (near, far)]
            recording.closed_at = time.monotonic()


async def _carry_unsealed(
    source: trio.abc.Stream, sink: trio.abc.Stream, chunks: list[Chunk], over: trio.CancelScope
) -> None:
    """Carry one direction until either side is gone, which ends both: TLS knows no half of a connection."""
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await source.receive_some(_READ_BYTES):
            chunks.append(Chunk(time.monotonic(), bytes(data)))
            await sink.send_all(data)
    over.cancel()


async def _carry(source: trio.SocketStream, sink: trio.SocketStream, chunks: list[Chunk]) -> None:
    """Carry one direction to its end. The source's bytes are recorded even when the sink is gone."""
    sink_is_there = True
    while True:
        try:
            data = await source.receive_some(_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if data:
            chunks.append(Chunk(time.monotonic(), bytes(data)))
        try:
            if sink_is_there and data:
                await sink.send_all(data)
            elif sink_is_there:
                await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            sink_is_there = False
        if not data:
            return


@asynccontextmanager
async def open_tap(node_port: int, *, node_host: str = HOST, tls: Unsealed | None = None) -> AsyncIterator[Tap]:
    """A listening tap; its connections are cut at the end."""
    tap = Tap(node_port, node_host=node_host, tls=tls)
    async with background(tap.run):
        yield tap


@asynccontextmanager
async def open_silence() -> AsyncIterator[int]:
    """The port of a server that accepts and never says a word."""

    async def hold(stream: trio.SocketStream) -> None:
        async with stream:
            while await stream.receive_some():
                pass

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, hold, 0, host=HOST))
            ports.append(listener.socket.getsockname()[1])
            task_status.started()

    ports: list[int] = []
    async with background(serve):
        yield ports[0]
