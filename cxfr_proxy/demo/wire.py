"""The wire that the demo's node and clients share: XML in, bytes out, over any trio stream.

Node and clients are witnesses of what the proxy forwards, so they read streams with lxml's pull parser and *not* with
:mod:`cxfr_proxy.xmpp.framing`: a fault in the proxy's framing must not be able to hide in its own mirror.

Two rules make the witness strict:

- Restricted XML (comments, processing instructions, a document type: RFC 6120 section 11.1) is reported as
  :class:`Malformed`, so a proxy that lets it through is seen. (lxml falls silent at an undeclared entity and complains
  only when more bytes come; the element that held it is never reported.)
- While a stream opens it is parsed tag by tag, so that a stream restart that arrived in one read with the element
  before it still falls on the right byte. Once bound, whole reads are parsed.

Writing never blocks the caller: :meth:`Connection.write` queues, and one task per connection sends. ``on_written``
reports what was handed to the kernel, because the accounting judges by what really left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio
from lxml import etree

from cxfr_proxy.demo.account import Numbered
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element, qualified

MAX_READ_BYTES: Final = 65536
STREAM_TAG: Final = qualified(names.STREAM, "stream")
ERROR_TAG: Final = qualified(names.STREAM, "error")
FEATURES_TAG: Final = qualified(names.STREAM, "features")
MESSAGE_TAG: Final = qualified(names.CLIENT, "message")
PRESENCE_TAG: Final = qualified(names.CLIENT, "presence")
IQ_TAG: Final = qualified(names.CLIENT, "iq")
STANZA_TAGS: Final = frozenset((MESSAGE_TAG, PRESENCE_TAG, IQ_TAG))
"""The stanzas that XEP-0198 counts."""
GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""Exceptions of a transport whose connection is over. trio promises the first two. TLS over memory lets an
``OSError`` through that is not even its own where others leave errors with OpenSSL
(:mod:`cxfr_proxy.net.tls_errors`)."""


class HostPort(NamedTuple):
    """Where to dial: a host name or IP address without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_port: int = 5222) -> HostPort:
        """Read ``host``, ``host:port``, ``[ipv6]`` or ``[ipv6]:port``. Raises :class:`ValueError`."""
        host, bracket, rest = text.rpartition("]")
        if bracket:
            return cls(host.removeprefix("["), int(rest.removeprefix(":")) if rest else default_port)
        name, _, port = text.partition(":")
        return cls(name, int(port) if port else default_port)


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A stream was opened (RFC 6120 section 4.7); ``None`` where the attribute was absent."""

    to: str | None
    from_: str | None
    stream_id: str | None


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """``</stream:stream>``."""


@dataclass(frozen=True, slots=True)
class EndOfFile:
    """The bytes ended, by FIN, reset or a local close: nobody here acts on the difference."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """The peer sent what no XMPP stream may hold; nothing follows."""

    reason: str


StreamEvent = StreamOpened | Element | StreamClosed | EndOfFile | Malformed


class StreamParser:
    """Bytes of one XML document to stream events."""

    def __init__(self) -> None:
        self._parser: etree.XMLPullParser = etree.XMLPullParser(
            events=("start", "end", "comment", "pi"),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            dtd_validation=False,
            huge_tree=False,
        )
        self._depth = 0

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Parse the next bytes. Everything that stood before a fault comes out first, then one :class:`Malformed`."""
        return list(self.read(data))

    def read(self, data: bytes) -> Iterator[StreamEvent]:
        """Do the same, event by event. An element is part of its stream, and written as it was, until the next is asked
        for; taken out, it would get a prefix for what was its default namespace."""
        fault: Malformed | None = None
        try:
            self._parser.feed(data)
        except etree.XMLSyntaxError as exc:
            fault = Malformed(str(exc))
        try:
            for event, element in self._parser.read_events():
                item = self._take(event, element)
                if item is not None:
                    yield item
        except etree.XMLSyntaxError as exc:  # lxml repeats the fault of feed() once its events are used up
            fault = fault or Malformed(str(exc))
        if fault is not None:
            yield fault

    def _take(self, event: str, element: Element) -> StreamEvent | None:
        if event == "start":
            self._depth += 1
            return _header(element) if self._depth == 1 else None
        if event != "end":
            return Malformed(f"restricted XML: {event}")
        self._depth -= 1
        if self._depth == 0:
            return StreamClosed()
        if self._depth > 1:
            return None
        _forget_older(element)
        return element


def _header(root: Element) -> StreamOpened | Malformed:
    if root.getroottree().docinfo.doctype:
        return Malformed("restricted XML: document type")
    if root.tag != STREAM_TAG:
        return Malformed("not a stream header")
    return StreamOpened(root.get("to"), root.get("from"), root.get("id"))


def _forget_older(element: Element) -> None:
    """Drop the stanzas before this one, or the document grows for ever.

    Never the newest: libxml2 may still be appending text behind it.
    """
    root = element.getparent()
    while root is not None and element.getprevious() is not None:
        del root[0]


class Connection:
    """One stream of XML over one transport, which :meth:`close` closes.

    :meth:`write_forever` has to run in a task for anything to leave. ``on_written`` is called with the number of each
    numbered message once the transport has taken it.
    """

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.transport = transport
        self.on_written: Callable[[Numbered], None] = lambda numbered: None
        self.broken = False
        self._parser = StreamParser()
        self._tag_by_tag = True
        self._unparsed = b""
        self._events: deque[StreamEvent] = deque()
        self._queue: list[tuple[bytes, Numbered | None]] = []
        self._sending = False
        self._wake = trio.Event()
        self._idle = trio.lowlevel.ParkingLot()

    async def read(self) -> StreamEvent:
        """Return the next event; :class:`EndOfFile` again and again once the bytes have ended."""
        while not self._events:
            if self._unparsed:
                self._parse_some()
                continue
            try:
                self._unparsed = bytes(await self.transport.receive_some(MAX_READ_BYTES))
            except GONE:
                self._unparsed = b""
            if not self._unparsed:
                return EndOfFile()
        return self._events.popleft()

    def _parse_some(self) -> None:
        cut = self._unparsed.find(b">") + 1 if self._tag_by_tag else 0
        piece, self._unparsed = (self._unparsed[:cut], self._unparsed[cut:]) if cut else (self._unparsed, b"")
        self._events.extend(self._parser.feed(piece))

    def restart(self) -> None:
        """Expect a new stream to begin with the peer's next bytes (RFC 6120 section 4.3.3)."""
        self._parser = StreamParser()

    def opened(self) -> None:
        """Expect no more restarts."""
        self._tag_by_tag = False

    def upgrade(self, transport: trio.abc.Stream) -> None:
        """Go on over this transport, which wraps the former one (STARTTLS); what came before it is thrown away."""
        self.transport = transport
        self._unparsed = b""
        self._events.clear()
        self.restart()

    def write(self, data: bytes, numbered: Numbered | None = None) -> None:
        """Queue bytes; silently dropped once the transport has broken."""
        if not self.broken:
            self._queue.append((data, numbered))
            self._wake.set()

    async def write_forever(self) -> None:
        """Send what is queued, until the transport breaks or the task is cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                self._sending = True
                while self._queue:
                    await self._send_queue()
                self._sending = False
                self._idle.unpark_all()
        except GONE:
            pass
        finally:
            self.broken = True
            self._idle.unpark_all()

    async def _send_queue(self) -> None:
        batch, self._queue = self._queue, []
        await self.transport.send_all(b"".join([data for data, _ in batch]))
        for _, numbered in batch:
            if numbered is not None:
                self.on_written(numbered)

    async def flush(self) -> None:
        """Wait until everything queued has left, or never will."""
        while (self._queue or self._sending) and not self.broken:
            await self._idle.park()

    async def half_close(self) -> None:
        """Send FIN, and go on reading: closing with unread bytes would reset, and a reset destroys what was just
        sent."""
        transport = self.transport
        raw = transport.transport_stream if isinstance(transport, trio.SSLStream) else transport
        if isinstance(raw, trio.SocketStream):
            try:
                await raw.send_eof()
            except GONE:
                return

    async def close_politely(self) -> None:
        """Close with TLS's ``close_notify`` where there is TLS; for a peer that has sent its last byte."""
        try:
            await self.transport.aclose()
        except GONE:
            return

    async def close(self) -> None:
        """Close at once, whatever is under way."""
        self.broken = True
        await trio.aclose_forcefully(self.transport)
