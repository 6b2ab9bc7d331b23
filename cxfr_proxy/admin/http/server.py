"""The HTTP server: sockets, limits and times around :mod:`.pages`. The protocol is h11's to know.

A monitoring system needs an answer above all while the proxy is in trouble, and others who can reach the port may be a
part of that trouble. So:

- A connection costs little. A request has a limit in bytes and, once it has begun, in time. No body is read. An answer
  that is not taken in time ends the connection.
- The number of connections is limited, in all and for each address, and yet a new one always finds a place: the one
  that has waited the longest without asking for anything is closed for it or, where all ask, the oldest. Neither a peer
  that holds connections open nor one that asks without end keeps a health check out.
- One request at a time. A client that sends more without waiting for the answer (pipelining, which no client in use
  does) gets one answer, and that is the end of the connection.
- What is no HTTP is answered with a 400, or with what h11 thinks fits better, and is the end of the connection. A
  defect is logged, and answered with a 500 that says nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import Final, NoReturn

import h11
import trio

from cxfr_proxy.admin.http.pages import HttpAnswer, PageSource, answer, said
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.events import emit
from cxfr_proxy.net.inherited import InheritedSocket
from cxfr_proxy.net.listen import bind, serve_streams
from cxfr_proxy.tasks import Task, isolated

MAX_HEAD_BYTES: Final = 8192
"""Most bytes of a request's head, as with other servers; a scrape's has some 400."""
MAX_CONNECTIONS: Final = 32
"""A few watchers with a connection each; their descriptors are among those that the proxy keeps for itself."""
MAX_OF_ONE_ADDRESS: Final = 16
"""Half of them: several programs may watch from one machine, and others have to find room."""
REQUEST_SECONDS: Final = 10.0
"""From its first byte, or from connecting, to a complete request."""
IDLE_SECONDS: Final = 75.0
"""Between two requests on a connection: a scrape a minute, the longest usual interval, can keep its own."""
ANSWER_SECONDS: Final = 10.0
"""For making an answer, and for taking it: as long as Prometheus waits for one."""
_LINGER_SECONDS: Final = 1.0
"""For a client that was answered in the middle of its request to read the answer, before a reset destroys it."""
_LINGER_BYTES: Final = 262_144
"""And how much of what it sends meanwhile is read for that."""

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)

_log = logging.getLogger(__name__)


async def serve_http(
    address: ListenAddress,
    source: PageSource,
    inherited: Sequence[InheritedSocket] = (),
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Answer requests until cancelled; ``started`` once there can be some. ``inherited``: the address' sockets; none:
    it is bound. Raises :class:`ConfigError`."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each.listening)) for each in inherited]
    listeners = listeners or bind([address])
    for listener in listeners:
        host, port = listener.socket.getsockname()[:2]
        emit(_log, "http-listening", address=host, port=port)
    task_status.started()
    await serve_streams(Task.HTTP, HttpServer(source).serve, listeners)


class HttpServer:
    """Serves all connections; :meth:`serve` serves one of them."""

    def __init__(self, source: PageSource) -> None:
        self._source = source
        self._open: dict[_HttpConnection, None] = {}
        """All that may stay, oldest first."""
        self._waiting: dict[_HttpConnection, None] = {}
        """Those of them that have not asked for anything yet, or again; longest first."""

    @property
    def connections(self) -> int:
        return len(self._open)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve a connection and close it. Nothing but cancellation leaves here as an exception."""
        connection = _HttpConnection(stream)
        async with stream:
            self._make_room(connection.address)
            self._open[connection] = None
            try:
                with isolated(Task.HTTP, _GONE), connection.life:
                    await self._converse(connection)
            except _GONE:
                pass  # nobody is there to be told, or reads it
            finally:
                self._open.pop(connection, None)

    def _make_room(self, address: str) -> None:
        """End a connection, if one more from that address would be too many."""
        own = [each for each in self._open if address and each.address == address]
        if len(own) >= MAX_OF_ONE_ADDRESS:
            self._end_one_of(own)
        elif len(self._open) >= MAX_CONNECTIONS:
            self._end_one_of(self._open)

    def _end_one_of(self, connections: Collection[_HttpConnection]) -> None:
        waiting = (each for each in self._waiting if each in connections)
        ended = next(waiting, None) or next(iter(connections))
        self._waiting.pop(ended, None)
        del self._open[ended]
        ended.life.cancel()

    async def _converse(self, connection: _HttpConnection) -> None:
        patience = REQUEST_SECONDS
        while True:
            if connection in self._open:  # else it has to make room
                self._waiting[connection] = None
            try:
                request = await connection.next_request(patience)
            finally:
                self._waiting.pop(connection, None)
            if request is None:
                return
            found = request if isinstance(request, HttpAnswer) else await self._answer(request)
            if not await connection.say(found):
                return
            patience = IDLE_SECONDS

    async def _answer(self, request: h11.Request) -> HttpAnswer:
        accept = b",".join(value for name, value in request.headers if name == b"accept")
        method, target = request.method.decode("ascii"), request.target.decode("latin-1")
        try:
            with isolated(Task.HTTP, (trio.TooSlowError,)), trio.fail_after(ANSWER_SECONDS):
                return await answer(self._source, method, target, accept.decode("latin-1"))
        except trio.TooSlowError:
            return said(HTTPStatus.SERVICE_UNAVAILABLE, "too many are asking")
        return said(HTTPStatus.INTERNAL_SERVER_ERROR)


class _HttpConnection:
    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.life = trio.CancelScope()
        self.address = _address(stream)
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head_only = False

    async def next_request(self, patience: float) -> h11.Request | HttpAnswer | None:
        """Return the next request, which has to begin within ``patience`` seconds; ``None``: there are no more.

        An answer instead: what came is no request, or took too long.
        """
        self._head_only = False
        begun = bool(self._http.trailing_data[0])
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
                self._http.next_event()  # its end, if it has no body
            except h11.RemoteProtocolError as exc:
                return said(HTTPStatus(exc.error_status_hint))
            return event
        return said(HTTPStatus.REQUEST_TIMEOUT) if begun else None

    async def say(self, what: HttpAnswer) -> bool:
        """Send an answer. Return whether another request may follow."""
        last = self._http.their_state is not h11.DONE or bool(self._http.trailing_data[0])
        headers = [
            ("Content-Type", what.content_type),
            ("Content-Length", str(len(what.body))),
            ("Cache-Control", "no-store"),
            *((("Allow", what.allow),) if what.allow is not None else ()),
            *((("Connection", "close"),) if last else ()),
        ]
        sent = self._send(h11.Response(status_code=what.status, headers=headers, reason=what.status.phrase))
        if not self._head_only:
            sent += self._send(h11.Data(data=what.body))
        sent += self._send(h11.EndOfMessage())
        with trio.fail_after(ANSWER_SECONDS):
            await self._stream.send_all(sent)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return True
        await self._linger()
        return False

    def _send(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

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
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""  # it has gone already
