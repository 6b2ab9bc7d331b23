"""A connection from its first byte of HTTP until it is a WebSocket, or has got its one answer.

The counterpart of :mod:`cxfr_proxy.xmpp.opening.client_opening` for HTTP: bytes in, a step out. Nothing of a request is
ever repeated in an answer or in the log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Final

from msgspec import Struct

from cxfr_proxy.errors import NodeError, RemoteError
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.web import pages, upgrade
from cxfr_proxy.xmpp.web.pages import WebPage
from cxfr_proxy.xmpp.web.request import TEXT, Headers, HttpRequest, RequestReader, RequestRefused, response

_STATUS: Final = {
    StreamCondition.CONNECTION_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    StreamCondition.SYSTEM_SHUTDOWN: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""How errors that are not HTTP's own are told."""


class WebRules(Struct, frozen=True, kw_only=True):
    """The rules for all requests. ``origins``: of the pages that may connect, in lower case; empty: any."""

    websocket_path: str
    origins: Collection[str] = ()
    pages: Mapping[str, WebPage]


class WebSocketAsked(Struct, frozen=True):
    """The request may become a WebSocket; ``reply`` makes it one. ``early`` has come behind it, for the WebSocket."""

    request: HttpRequest
    reply: bytes
    early: bytes


class PageServed(Struct, frozen=True, gc=False):
    """Send this, and close."""

    reply: bytes


def is_http(first: int) -> bool:
    """Return whether HTTP begins with that byte: a method is in capitals (RFC 9110 section 9.1), and no XML stream
    begins with a letter."""
    return ord("A") <= first <= ord("Z")


class WebOpening:
    """One connection's request."""

    __slots__ = ("_head_only", "_reader", "_rules")

    def __init__(self, rules: WebRules) -> None:
        self._rules = rules
        self._reader = RequestReader()
        self._head_only = False

    def receive(self, data: bytes) -> WebSocketAsked | PageServed | None:
        """Read on, and return what follows; ``None``: the request is not complete. Raises
        :class:`~.request.RequestRefused`; :meth:`refuse` says what to send then."""
        request = self._reader.receive(data)
        if request is None:
            return None
        rules, self._head_only = self._rules, request.method == "HEAD"
        if request.path == rules.websocket_path:
            return WebSocketAsked(request, upgrade.accept(request, rules.origins), self._reader.rest)
        return PageServed(pages.answer(request, rules.pages))

    def refuse(self, error: RemoteError) -> bytes:
        """Return the last bytes for a client that is refused."""
        status = HTTPStatus.BAD_REQUEST
        headers: Headers = ()
        if isinstance(error, RequestRefused):
            status, headers = error.status, error.headers
        elif isinstance(error, NodeError):
            status = HTTPStatus.SERVICE_UNAVAILABLE
        else:
            status = _STATUS.get(StreamCondition(error.condition), status)
        return response(status, f"{error.text}\n".encode(), TEXT, *headers, head_only=self._head_only)
