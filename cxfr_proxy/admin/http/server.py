"""The HTTP server: how many connections there are, and which of them makes room.

A monitoring system needs an answer above all while the proxy is in trouble, and others who can reach the port may be a
part of that trouble. So:

- A connection costs little. A request has a limit in bytes and, once it has begun, in time. A body is read only for
  somebody who has a token, and within limits. An answer that is not taken in time ends the connection.
- The number of connections is limited, in all and for each address (of IPv6, each /64), and yet a new one always finds
  a place: the one that has waited the longest without asking for anything is closed for it or, where all ask, the
  oldest. Neither a peer that holds connections open nor one that asks without end keeps a health check out. Orders, and
  streams, of those who have a token go last: no stranger ends them.
- With a certificate TLS is spoken, and nothing else. A request without it gets a 400 that says so.
- One request at a time. A client that sends more without waiting for the answer (pipelining, which no client in use
  does) gets one answer, and that is the end of the connection.
- What is no HTTP is answered with a 400, or with what h11 thinks fits better, and is the end of the connection. A
  defect is logged, and answered with a 500 that says nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from itertools import chain
from typing import Final, NoReturn

import trio

from cxfr_proxy.admin.http.certificate import HttpCertificate
from cxfr_proxy.admin.http.connection import GONE, REQUEST_SECONDS, HttpConnection
from cxfr_proxy.admin.http.exchange import EventStream, HttpAnswer, PageRequest, said
from cxfr_proxy.admin.http.site import Site
from cxfr_proxy.admin.http.tls_stream import KEEPALIVE_SECONDS
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.events import emit
from cxfr_proxy.net.inherited import InheritedSocket
from cxfr_proxy.net.listen import bind, serve_streams, tune_accepted
from cxfr_proxy.tasks import Task, isolated

MAX_CONNECTIONS: Final = 32
"""A few watchers with a connection each; their descriptors are among those that the proxy keeps for itself."""
MAX_OF_ONE_ADDRESS: Final = 16
"""Half of them: several programs may watch from one machine, and others have to find room."""
IDLE_SECONDS: Final = 75.0
"""Between two requests on a connection: a scrape a minute, the longest usual interval, can keep its own."""

_LACKS_TLS: Final = said(HTTPStatus.BAD_REQUEST, "TLS is spoken here: ask by https://")

_log = logging.getLogger(__name__)


def http_listeners(address: ListenAddress, inherited: Sequence[InheritedSocket] = ()) -> list[trio.SocketListener]:
    """Return those of the address: the ``inherited`` ones; if there are none, it is bound. Raises
    :class:`ConfigError`."""
    taken = [trio.SocketListener(trio.socket.from_stdlib_socket(each.listening)) for each in inherited]
    listeners = taken or bind([address])
    tune_accepted(listeners, KEEPALIVE_SECONDS)
    return listeners


async def serve_http(
    listeners: Sequence[trio.SocketListener],
    site: Site,
    certificate: HttpCertificate,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Answer requests until cancelled; ``started`` once there can be some."""
    for listener in listeners:
        host, port = listener.socket.getsockname()[:2]
        emit(_log, "http-listening", address=host, port=port, tls=certificate.context is not None)
    task_status.started()
    await serve_streams(Task.HTTP, HttpServer(site, certificate).serve, listeners)


class HttpServer:
    """Serves all connections; :meth:`serve` serves one of them."""

    def __init__(self, site: Site, certificate: HttpCertificate) -> None:
        self._site = site
        self._certificate = certificate
        self._open: dict[HttpConnection, None] = {}
        """All that may stay, oldest first."""
        self._waiting: dict[HttpConnection, None] = {}
        """Those of them that have not asked for anything yet, or again; longest first."""

    @property
    def connections(self) -> int:
        return len(self._open)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve a connection and close it. Nothing but cancellation leaves here as an exception."""
        connection = HttpConnection(stream)
        async with connection:
            self._make_room(connection.origin)
            self._open[connection] = None
            try:
                with isolated(Task.HTTP, GONE), connection.life:
                    await self._converse(connection)
            except GONE:
                pass  # nobody is there to be told, or reads it
            finally:
                self._open.pop(connection, None)

    def _make_room(self, origin: str) -> None:
        """End a connection, if one more from there would be too many."""
        own = [each for each in self._open if origin and each.origin == origin]
        if len(own) >= MAX_OF_ONE_ADDRESS:
            self._end_one_of(own)
        elif len(self._open) >= MAX_CONNECTIONS:
            self._end_one_of(self._open)

    def _end_one_of(self, connections: Collection[HttpConnection]) -> None:
        waiting = (each for each in self._waiting if each in connections)
        of_strangers = (each for each in connections if not each.is_known)
        ended = next(chain(waiting, of_strangers, connections))
        self._waiting.pop(ended, None)
        del self._open[ended]
        ended.life.cancel()

    async def _converse(self, connection: HttpConnection) -> None:
        patience = REQUEST_SECONDS
        with self._in_waiting(connection):
            if not await connection.begin(self._certificate.context):
                return None
        while True:
            with self._in_waiting(connection):
                request = await connection.next_request(patience)
            if request is None:
                return None
            if connection.lacks_tls:
                request = _LACKS_TLS
            found = request if isinstance(request, HttpAnswer) else await self._answer(request)
            if isinstance(found, EventStream):
                return await connection.stream(found)
            if not await connection.say(found):
                return None
            patience = IDLE_SECONDS

    @contextmanager
    def _in_waiting(self, connection: HttpConnection) -> Iterator[None]:
        """Count it among those that ask for nothing, for the duration of the block."""
        if connection in self._open:  # else it has to make room
            self._waiting[connection] = None
        try:
            yield
        finally:
            self._waiting.pop(connection, None)

    async def _answer(self, request: PageRequest) -> HttpAnswer | EventStream:
        with isolated(Task.HTTP, GONE):
            return await self._site.answer(request)
        return said(HTTPStatus.INTERNAL_SERVER_ERROR)
