"""One connection by HTTP/1.1: requests, bodies, answers, and answers that go on. The protocol is h11's to know."""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Final

import h11
import trio

from cxfr_proxy.admin.http.exchange import EVENT_STREAM, EventStream, HttpAnswer, HttpProblem, PageRequest, said
from cxfr_proxy.admin.http.tls_stream import TlsStream
from cxfr_proxy.events import emit
from cxfr_proxy.net.proxy_protocol import address_of, peer_of
from cxfr_proxy.net.tls_failures import TlsFailure, failure_of
from cxfr_proxy.spellings import address_range
from cxfr_proxy.tasks import Task, start_once

MAX_HEAD_BYTES: Final = 8192
"""Most bytes of a request's head, as with other servers; a scrape's has some 400."""
REQUEST_SECONDS: Final = 10.0
"""From its first byte, or from connecting, to a complete head; as long again for a body, and before for TLS."""
ANSWER_SECONDS: Final = 10.0
"""For taking a piece of an answer."""
PIECE_BYTES: Final = 65_536
"""Of an answer: all sessions of a large proxy are megabytes, and there are networks that take minutes for those."""
_LINGER_SECONDS: Final = 1.0
"""For a client that was answered in the middle of its request to read the answer, before a reset destroys it."""
_LINGER_BYTES: Final = 262_144
"""And how much of what it sends meanwhile is read for that."""
_TWO_LENGTHS: Final = (b"content-length", b"transfer-encoding")
"""Headers of which a request has one: with both, it is an attempt to smuggle another one past a reverse proxy (RFC 9112
section 6.1)."""
_ALWAYS: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))

_log = logging.getLogger(__name__)

GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""The client has gone, or does not take what it is sent."""


class HttpConnection(trio.abc.AsyncResource):
    """One connection; also the :class:`~.exchange.BodySource` of its requests, and the :class:`~.exchange.EventSink` of
    its answers. ``stream`` is closed with it."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.life = trio.CancelScope()
        self.address = _address(stream)
        self.origin = address_range(self.address)
        """The client's address, or of IPv6 its network: connections of one origin are counted together."""
        self.is_known = False
        """Whether somebody who has a token gives an order by it now, or watches."""
        self.lacks_tls = False
        """Whether it speaks HTTP without TLS, where TLS is spoken."""
        self._is_doubtful = False
        """Whether somebody in between may have read another end of the last request than we have."""
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head_only = False
        self._body = bytearray()
        self._head = b""
        """Of an answer that goes on, until its first piece."""

    async def aclose(self) -> None:
        await self._stream.aclose()

    # --- TLS

    async def begin(self, context: ssl.SSLContext | None) -> bool:
        """Begin TLS; without a ``context`` there is none. Return whether there may be requests."""
        if context is None:
            return True
        assert isinstance(self._stream, trio.SocketStream), "TLS is on sockets"
        starts_tls: bool | None = None
        with trio.move_on_after(REQUEST_SECONDS):
            stream = self._stream = TlsStream(self._stream)
            starts_tls = await stream.starts_tls()
            if starts_tls:
                return await self._shake_hands(stream, context)
            self.lacks_tls = True
            return starts_tls is not None
        if starts_tls:
            self._tls_failed(TlsFailure.TIMEOUT)
        return False

    async def _shake_hands(self, stream: TlsStream, context: ssl.SSLContext) -> bool:
        try:
            await stream.start_tls(context)
        except OSError as exc:
            self._tls_failed(failure_of(exc))
            return False
        return True

    def _tls_failed(self, failure: TlsFailure) -> None:
        emit(_log, "http-denied", client=self.address, reason=f"TLS handshake failed: {failure}")

    # --- requests

    async def next_request(self, patience: float) -> PageRequest | HttpAnswer | None:
        """Return the next request, which has to begin within ``patience`` seconds; ``None``: there are no more.

        An answer instead: what came is no request, or took too long.
        """
        self.is_known = False
        self._head_only = False
        self._body.clear()
        begun = bool(self._http.trailing_data[0])  # it may have come with the one before
        with trio.move_on_after(REQUEST_SECONDS if begun else patience) as waiting:
            try:
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    data = await self._stream.receive_some(MAX_HEAD_BYTES)
                    if data and not begun:
                        begun = True
                        waiting.deadline = min(waiting.deadline, trio.current_time() + REQUEST_SECONDS)
                    self._http.receive_data(bytes(data))
                if not isinstance(event, h11.Request):
                    return None
                self._head_only = event.method == b"HEAD"
                self._note_body(self._http.next_event())  # its end, if it has no body
            except h11.RemoteProtocolError as exc:
                return said(HTTPStatus(exc.error_status_hint))
            names = {name for name, _ in event.headers}
            self._is_doubtful = names.issuperset(_TWO_LENGTHS)
            return said(HTTPStatus.BAD_REQUEST) if self._is_doubtful else self._request(event)
        return said(HTTPStatus.REQUEST_TIMEOUT) if begun else None

    def _request(self, event: h11.Request) -> PageRequest:
        # Repeated ones are one list (RFC 9110 section 5.3): two Authorization headers are then no token at all.
        headers: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return PageRequest(event.method.decode("ascii"), event.target.decode("latin-1"), headers, self.address, self)

    def _note_body(self, event: object) -> None:
        if isinstance(event, h11.Data):
            self._body += event.data

    async def read_body(self, max_bytes: int) -> bytes:
        """Return the body of the last request; see :class:`~.exchange.BodySource`."""
        self.is_known = True  # nobody else's is read
        try:
            with trio.fail_after(REQUEST_SECONDS):
                if self._http.they_are_waiting_for_100_continue:
                    await self._stream.send_all(self._write(h11.InformationalResponse(status_code=100, headers=[])))
                while self._http.their_state is h11.SEND_BODY:
                    if (event := self._http.next_event()) is h11.NEED_DATA:
                        self._http.receive_data(bytes(await self._stream.receive_some(MAX_HEAD_BYTES)))
                    self._note_body(event)
                    if len(self._body) > max_bytes:
                        raise HttpProblem(
                            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected a body of at most {max_bytes} bytes"
                        )
        except trio.TooSlowError as exc:
            raise HttpProblem(HTTPStatus.REQUEST_TIMEOUT, f"no complete body within {REQUEST_SECONDS:g} s") from exc
        except h11.RemoteProtocolError as exc:
            raise HttpProblem(HTTPStatus(exc.error_status_hint), "this is no body that could be understood") from exc
        return bytes(self._body)

    # --- answers

    async def say(self, what: HttpAnswer) -> bool:
        """Send an answer. Return whether another request may follow."""
        own = {name.lower() for name, _ in what.headers}
        headers = [
            ("Content-Type", what.content_type),
            ("Content-Length", str(len(what.body))),
            *(each for each in _ALWAYS if each[0].lower() not in own),
            *what.headers,
            *((("Connection", "close"),) if self._is_last else ()),
        ]
        sent = self._write(h11.Response(status_code=what.status, headers=headers, reason=what.status.phrase))
        if not self._head_only:
            sent += self._write(h11.Data(data=what.body))
        sent += self._write(h11.EndOfMessage())
        await self._send_all(sent)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return True
        await self._linger()
        return False

    @property
    def _is_last(self) -> bool:
        """Whether nothing can follow: there is more of this request, somebody does not wait for its answer, or nothing
        is answered that way."""
        unread = self._http.their_state is not h11.DONE or bool(self._http.trailing_data[0])
        return unread or self.lacks_tls or self._is_doubtful

    async def stream(self, what: EventStream) -> None:
        """Send an answer that goes on, until its end or the client's. It is the last one on this connection."""
        self.is_known = True
        headers = [("Content-Type", EVENT_STREAM), *_ALWAYS, ("Connection", "close")]
        # It goes out with the first piece: nothing is awaited until the stream counts as one that is open.
        self._head = self._write(h11.Response(status_code=HTTPStatus.OK, headers=headers, reason=HTTPStatus.OK.phrase))
        async with trio.open_nursery() as nursery:
            start_once(nursery, Task.HTTP, partial(self._until_gone, nursery.cancel_scope))
            try:
                await what.send_to(self)
                await self._send_all(self._head + self._write(h11.EndOfMessage()))
            except GONE:
                pass
            nursery.cancel_scope.cancel()

    async def send(self, data: bytes) -> None:
        """Send a piece of an answer that goes on; see :class:`~.exchange.EventSink`."""
        head, self._head = self._head, b""
        await self._send_all(head + self._write(h11.Data(data=data)))

    async def _until_gone(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when the client closes; or sends anything, which no client does that waits for events."""
        with suppress(*GONE):
            await self._stream.receive_some(1)
        scope.cancel()

    def _write(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    async def _send_all(self, data: bytes) -> None:
        with memoryview(data) as view:
            for at in range(0, len(data), PIECE_BYTES):
                with trio.fail_after(ANSWER_SECONDS):
                    await self._stream.send_all(view[at : at + PIECE_BYTES])

    async def _linger(self) -> None:
        left = _LINGER_BYTES
        with trio.move_on_after(_LINGER_SECONDS):
            await self._stream.send_eof()
            while left > 0 and (data := await self._stream.receive_some(MAX_HEAD_BYTES)):
                left -= len(data)


def _address(stream: trio.abc.Stream) -> str:
    """Return the address of the far end; empty where it has none."""
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        return address_of(peer_of(stream.socket.getpeername()))
    except OSError:
        return ""  # it has gone already
