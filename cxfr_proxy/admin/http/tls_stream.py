"""A connection over TLS, as a stream of trio's.

TLS is on the socket, as clients' is (:mod:`cxfr_proxy.net.transport`): it is closed in good order, and a peer that only
changes its keys is cut (:mod:`cxfr_proxy.net.tls_watch`).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from cxfr_proxy.net.client_hello import is_handshake
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.transport import RECORD_BYTES, PlainTransport

KEEPALIVE_SECONDS: Final = 30.0
"""For the other end's system to answer, with or without TLS: a phone that changes its network has gone without a word,
and its stream, of which few may be open, would stay for a quarter of an hour."""


class TlsStream(trio.abc.HalfCloseableStream):
    """The connection that ``plain`` was, which is closed with this one."""

    def __init__(self, plain: trio.SocketStream) -> None:
        self._plain = plain
        # Out of trio's socket: the transport is one itself.
        sock = socket.socket(fileno=plain.socket.detach())
        self._endpoint = Endpoint(PlainTransport.adopt(sock, KEEPALIVE_SECONDS))
        self._ended = False

    async def starts_tls(self) -> bool | None:
        """Return whether the client begins TLS; ``None``: it has gone without a word. Raises
        ``trio.BrokenResourceError``."""
        with _broken():
            first = await self._endpoint.peek()
        return is_handshake(first) if first else None

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Shake hands. Raises ``OSError``; ``ssl.SSLError`` is one."""
        await self._endpoint.start_tls(context, server_side=True)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._ended:  # TLS that both sides have closed can't be read again: Python raises ValueError
            await trio.lowlevel.checkpoint()
            return b""
        with _broken():
            data = await self._endpoint.receive_some(min(max_bytes or RECORD_BYTES, RECORD_BYTES))
        self._ended = not data
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with _broken():
            await self._endpoint.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Close TLS and the connection in this direction; what comes in can be read to its end."""
        self._endpoint.end_output()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._endpoint.close()
        await self._plain.aclose()


@contextmanager
def _broken() -> Iterator[None]:
    # Of a stream that is read while it is written, both ends may have to wait for the same: a peer that changes its
    # keys and does not read has that coming.
    try:
        yield
    except (OSError, trio.BusyResourceError) as exc:
        raise trio.BrokenResourceError from exc
