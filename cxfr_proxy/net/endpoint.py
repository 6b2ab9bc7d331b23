"""One connection before its session has it: a transport, read and written by code that waits (:mod:`.waits`)."""

from __future__ import annotations

import contextlib
import select
import ssl
from functools import partial
from typing import Final

from cxfr_proxy.net.client_hello import server_name
from cxfr_proxy.net.transport import RECORD_BYTES, Bytes, PlainTransport, TlsTransport, Transport, Verdict
from cxfr_proxy.net.waits import TRIO, Waits
from cxfr_proxy.spellings import dns_name

_WAIT_READABLE: Final = Verdict.WAIT_READABLE
_WAIT_WRITABLE: Final = Verdict.WAIT_WRITABLE

MAX_DISCARDED: Final = 65_536
"""Most bytes to throw away. Nothing should come behind ``<starttls/>``; some clients send a few bytes there, none so
many."""


class Endpoint:
    """Reads and writes ``transport``; :meth:`start_tls` replaces it by another one.

    Its owner closes it by :meth:`close`, or passes ``transport`` on to a new owner.

    Every method that waits may be cancelled; after a cancelled :meth:`send_all` or :meth:`start_tls` the connection is
    in an unknown state and can only be closed. ``OSError`` (``ssl.SSLError`` is one) means that it is broken.
    """

    def __init__(self, transport: Transport, waits: Waits = TRIO) -> None:
        self.transport = transport
        self.waits = waits

    async def peek(self, most: int = 1, *, at_once: bool = False) -> bytes:
        """Return the first bytes, left unread; empty at the end of the stream. Before TLS only.

        ``at_once``: they may have arrived already."""
        plain = self._plain()
        return await self.waits.call(plain, partial(plain.peek_now, most), _WAIT_READABLE, at_once=at_once)

    async def skip(self, count: int) -> None:
        """Throw so many bytes away that :meth:`peek` has shown. Before TLS only; always a checkpoint."""
        while count:
            read = partial(self._plain().read_now, count)
            count -= len(await self.waits.call(self.transport, read, _WAIT_READABLE, at_once=True))

    async def server_name(self, hello: bytes = b"") -> bytes | None:
        """Return the name that the ClientHello asks for, left unread; ``None`` if it has none, or came in several
        pieces.

        Before TLS only. ``hello``: it was peeked at already.
        """
        return server_name(hello or await self.peek(RECORD_BYTES, at_once=True))

    def has_hung_up(self) -> bool:
        """Return whether the peer will send nothing more than what has arrived."""
        poll = select.poll()
        poll.register(self.transport, select.POLLRDHUP)
        return bool(poll.poll(0))

    async def receive_some(self, most: int = RECORD_BYTES, *, at_once: bool = False) -> bytes:
        """Receive at most so many bytes; empty at the end of the stream. ``at_once``: they may have arrived already."""
        read = partial(self.transport.read_now, most)
        try:
            return await self.waits.call(self.transport, read, _WAIT_READABLE, at_once=at_once)
        except ssl.SSLZeroReturnError:
            return b""  # raised instead of an empty read once we have ended TLS, too

    async def send_all(self, data: Bytes) -> None:
        """Send all of it, as fast as the peer takes it. A checkpoint, unless there is no data."""
        view = memoryview(data)
        while view:
            sent = await self.waits.call(self.transport, partial(self.transport.write_now, view), _WAIT_WRITABLE)
            view = view[sent:]

    def discard_received(self) -> bool:
        """Throw away what has arrived and was not read, :data:`MAX_DISCARDED` bytes at most. Before TLS only.

        Return false if there may be more. Anybody on the path may have written what comes behind ``<starttls/>``
        (RFC 6120 section 5.4.3.3).
        """
        plain, left = self._plain(), MAX_DISCARDED
        with contextlib.suppress(BlockingIOError):  # nothing more has arrived
            while left > 0:
                received = len(plain.read_now(min(left, RECORD_BYTES)))
                if not received:
                    return True
                left -= received
            return False
        return True

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        client_address: str | None = None,
    ) -> None:
        """Shake hands; afterwards :attr:`transport` is one over TLS. ``client_address``: what the client is called, if
        not by the address of the other end.

        Raises ``ssl.SSLError`` and other ``OSError``, and ``ValueError`` for a ``server_hostname`` that can't be one.
        """
        if server_hostname is not None:
            # Checked here: SSLSocket checks it after it has taken the descriptor over, raises, and leaves that open.
            server_hostname = dns_name(server_hostname)
        plain = self._plain()
        tls = TlsTransport.over(plain, context, server_side=server_side, server_hostname=server_hostname)
        self.waits.goes_on(plain, tls)
        if client_address is not None:
            tls.client_address = client_address
        self.transport = tls
        # At once: a client speaks first, and a server has seen the first bytes already.
        await self.waits.call(tls, tls.do_handshake, _WAIT_READABLE, at_once=True)

    def end_output(self) -> None:
        """Half-close the connection, TLS first. Nothing can be sent any more, and it can be read to its end."""
        self.transport.end_output()

    def close(self) -> None:
        """End the stream in good order, as far as it can be done without waiting, and close the connection."""
        self.transport.end_output()  # a TLS peer that sees no close_notify has to assume a truncation attack
        self.transport.close()

    def _plain(self) -> PlainTransport:
        assert isinstance(self.transport, PlainTransport), "it was called before TLS begins"
        return self.transport
