"""A client made by hand: it says and reads bytes, so that a test can say which.

Trio and ``ssl`` only. Logs in with SASL PLAIN; keeps everything it read since the last stream restart.
"""

from __future__ import annotations

import base64
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from waiting import PATIENCE_SECONDS

from real.programs import DOMAIN, HOST, PASSWORD
from real.wire import Chunk, Recording


class RawClient:
    """``received`` is what came since the last header this client sent; ``recording`` is everything, inside TLS."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.received = b""
        self.recording = Recording(opened_at=time.monotonic())
        self._stream = stream

    async def send(self, data: str) -> None:
        self.recording.up_chunks.append(Chunk(time.monotonic(), data.encode()))
        await self._stream.send_all(data.encode())

    async def read_until(self, pattern: bytes, *, seconds: float = PATIENCE_SECONDS) -> re.Match[bytes]:
        """Read until the regular expression is found in ``received``. Raises ``AssertionError`` at the stream's end."""
        with trio.move_on_after(seconds):
            while (match := re.search(pattern, self.received, re.DOTALL)) is None:
                data = await self._receive()
                assert data, f"the stream ended before {pattern!r}: {self.received!r}"
                self.received += data
            return match
        raise AssertionError(f"not within {seconds} s: {pattern!r} in {self.received!r}")

    async def read_to_end(self, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Read until the other side ends the connection."""
        with trio.fail_after(seconds):
            while data := await self._receive():
                self.received += data

    async def _receive(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(65536))
        except trio.BrokenResourceError:  # TLS without close_notify, or a reset
            data = b""
        if data:
            self.recording.down_chunks.append(Chunk(time.monotonic(), data))
        else:
            self.recording.closed_at = time.monotonic()
        return data

    async def open(self, domain: str = DOMAIN) -> None:
        """Send a header, forget what was read, and wait for the features."""
        self.received = b""
        await self.send(
            f"<?xml version='1.0'?><stream:stream xmlns='jabber:client' to='{domain}' version='1.0' "
            "xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        await self.read_until(rb"<stream:features.*(?:</stream:features>|<stream:features\s*/>)")

    async def login(self, user: str, *, resource: str = "r", domain: str = DOMAIN) -> str:
        """Authenticate, bind, send presence; the full JID."""
        await self.open(domain)
        secret = base64.b64encode(f"\0{user}\0{PASSWORD}".encode()).decode()
        await self.send(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>")
        await self.read_until(rb"<success[^>]*(?:/>|</success>)")
        return await self.login_behind_success(user, resource=resource, domain=domain)

    async def login_behind_success(self, user: str, *, resource: str = "r", domain: str = DOMAIN) -> str:
        """The step of :meth:`login` once the user is authenticated."""
        await self.open(domain)
        await self.send(
            "<iq type='set' id='bind1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"
            f"<resource>{resource}</resource></bind></iq>"
        )
        jid = await self.read_until(rb"<jid>([^<]+)</jid>.*</iq>")
        await self.send(f"<presence id='{user}-here'/>")
        # Servers send one's own presence back: from here on messages to this resource are delivered.
        await self.read_until(f"<presence[^>]*{user}-here[^>]*>".encode())
        return jid[1].decode()


@asynccontextmanager
async def open_raw(
    port: int, *, starttls: bool = False, domain: str = DOMAIN, source: str | None = None
) -> AsyncIterator[RawClient]:
    """Connect with TLS, from the first byte or by STARTTLS; certificates are not verified. ``source`` is the client's
    own address; ``None``: any."""
    tcp = await trio.open_tcp_stream(HOST, port, local_address=source)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        if starttls:
            before = RawClient(tcp)
            await before.open(domain)
            await before.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            await before.read_until(rb"<proceed[^>]*/>")
        yield RawClient(trio.SSLStream(tcp, context, server_hostname=domain, https_compatible=True))
    finally:
        with trio.CancelScope(shield=True):  # closing a TCP stream does not block
            await tcp.aclose()
