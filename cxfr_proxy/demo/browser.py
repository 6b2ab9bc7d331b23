"""How web clients connect: a stream on a WebSocket (RFC 7395) of trio-websocket's, which shares nothing with the proxy.

The client's bytes are cut into messages here, and messages are put together again for it, so the client itself is the
same as any other. The witness is as strict as a browser's parser: each message is one element, complete by itself.
"""

from __future__ import annotations

import contextlib
from typing import Final, cast
from xml.sax.saxutils import quoteattr

import trio
import trio_websocket
from lxml import etree

from cxfr_proxy.demo.wire import Malformed, StreamClosed, StreamOpened, StreamParser
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.stanza import STREAM_END, Element, qualified

RawStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
PATH: Final = "/xmpp-websocket"
_FRAMING: Final = "urn:ietf:params:xml:ns:xmpp-framing"
_OPEN: Final = qualified(_FRAMING, "open")
_CLOSE: Final = qualified(_FRAMING, "close")
_NO_ELEMENT: Final = b"<?message not-one-element?>"
"""The reading of a message that is not one element with a namespace: nothing that a stream may hold."""
_MAX_MESSAGE_BYTES: Final = 1 << 24
_MAX_MESSAGES: Final = 64
"""Messages that wait to be read: with the one of the library's default, each costs two more turns of the event loop."""


class _Outlet(trio.abc.Stream):
    """The connection beneath. Frames that are sent while it :attr:`holds <held>` go out together, as a browser's do:
    a node that stops between two of them would have taken in the one and not answered the other."""

    def __init__(self, raw: RawStream) -> None:
        self._raw = raw
        self._turn = trio.Lock()  # a close frame may be sent while what was held is
        self.held: bytearray | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._raw.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.held is None:
            async with self._turn:
                await self._raw.send_all(data)
        else:
            self.held += data
            await trio.lowlevel.checkpoint()

    async def release(self) -> None:
        """Send what was held."""
        held, self.held = self.held, None
        async with self._turn:
            await self._raw.send_all(held or b"")

    async def wait_send_all_might_not_block(self) -> None:
        await self._raw.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._raw.aclose()


class BrowserStream(trio.abc.Stream):
    """One stream; made by :meth:`open`. ``see_other_uri`` is where the peer has sent the client by closing it."""

    def __init__(self, socket: trio_websocket.WebSocketConnection, raw: _Outlet) -> None:
        self._socket = socket
        self._raw = raw
        self._writing = StreamParser()
        self._ended = False
        self.see_other_uri: str | None = None

    @classmethod
    async def open(cls, nursery: trio.Nursery, raw: RawStream, host: str) -> BrowserStream:
        """Ask the peer at the other end of ``raw`` for a WebSocket. The tasks that it needs go into the nursery.

        Raises ``trio.BrokenResourceError`` where it is refused.
        """
        outlet = _Outlet(raw)
        try:
            socket = await trio_websocket.wrap_client_stream(
                nursery,
                cast("RawStream", outlet),  # it is asked for no more than an outlet has
                host,
                PATH,
                subprotocols=["xmpp"],
                message_queue_size=_MAX_MESSAGES,
                max_message_size=_MAX_MESSAGE_BYTES,
            )
        except (trio_websocket.HandshakeError, trio_websocket.ConnectionClosed) as exc:
            await trio.aclose_forcefully(raw)
            raise trio.BrokenResourceError(f"no WebSocket: {exc!r}") from exc
        return cls(socket, outlet)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return one message as a piece of a stream, however long; empty at the end."""
        try:
            message = await self._socket.get_message()
        except trio_websocket.ConnectionClosed:
            return b""
        return self._piece(message) if isinstance(message, str) else _NO_ELEMENT

    def _piece(self, message: str) -> bytes:
        try:
            element = etree.fromstring(message)
        except (etree.XMLSyntaxError, ValueError):  # several elements, none, or an undeclared prefix
            return _NO_ELEMENT
        if element.tag == _OPEN:
            return stanza.stream_header(to=element.get("to"), from_=element.get("from"), stream_id=element.get("id"))
        if element.tag == _CLOSE:
            self.see_other_uri = element.get("see-other-uri")
            return STREAM_END
        return message.encode() if etree.QName(element).namespace else _NO_ELEMENT

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send each element as a message. A header stands at the beginning of ``data`` or nowhere.

        Behind the end of the stream, or of the connection, it goes nowhere, as in a browser: there may be messages that
        were not read yet.
        """
        data = bytes(data)
        if data.startswith(b"<?xml"):
            self._writing = StreamParser()
        self._raw.held = bytearray()
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            for event in self._writing.read(data):
                if self._ended:
                    break
                self._ended = isinstance(event, StreamClosed)
                await self._socket.send_message(_message(event))
        await self._raw.release()

    async def wait_send_all_might_not_block(self) -> None:
        """Writers are made to wait by :meth:`send_all`."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close with a close frame, and wait for the peer's."""
        try:
            await self._socket.aclose()
        finally:
            await trio.aclose_forcefully(self._raw)


def _message(event: object) -> str:
    match event:
        case StreamOpened(to, from_):
            named = f" from={quoteattr(from_)}" if from_ is not None else ""
            return f"<open xmlns='{_FRAMING}' to={quoteattr(to or '')}{named} version='1.0'/>"
        case StreamClosed():
            return f"<close xmlns='{_FRAMING}'/>"
        case Malformed(reason):
            raise ValueError(f"a client would write what is no stream: {reason}")
        case _:
            assert isinstance(event, Element)
            return etree.tostring(event, encoding="unicode", with_tail=False)
