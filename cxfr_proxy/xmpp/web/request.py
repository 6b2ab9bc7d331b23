"""One HTTP request, read within limits, and the answers to it. The grammar is h11's to know.

A connection has one request and no second one: browsers keep none of these connections for later, and what follows a
request for a WebSocket is no HTTP. So each answer says ``Connection: close``, and requests that were sent along behind
the first one get none.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import h11
from msgspec import Struct

from cxfr_proxy.errors import ClientError

MAX_HEAD_BYTES: Final = 8192
"""Bytes of a head that is not complete yet, as of other servers. A browser's has some 600, and those of balancers in
front add a few hundred."""
MAX_HEADERS: Final = 64
"""Browsers send some 15, and each balancer in front adds about 5."""

Headers = tuple[tuple[str, str], ...]


class HttpRequest(Struct, frozen=True):
    """A request's head. Names of headers are in lower case; values are as they came, one Latin-1 character a byte.

    ``path`` is without the query, which means nothing here.
    """

    method: str
    path: str
    version: str
    headers: Headers

    @property
    def has_body(self) -> bool:
        """Whether there is one, or may be (RFC 9112 section 6.3)."""
        return any(length != "0" for length in self.values("content-length")) or bool(self.values("transfer-encoding"))

    def values(self, name: str) -> list[str]:
        """Return the values of all headers of that name, in their order."""
        return [value for each, value in self.headers if each == name]

    def tokens(self, name: str) -> list[str]:
        """Return the members of the list that all headers of that name make (RFC 9110 section 5.6.1)."""
        return [token for value in self.values(name) for part in value.split(",") if (token := part.strip())]


class RequestRefused(ClientError):
    """A request is answered with an error. ``condition`` is ``http-`` and the status; ``text`` is all of the body."""

    def __init__(self, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(f"http-{status.value}", text)
        self.status = status
        self.headers = headers


class RequestReader:
    """Reads a connection's one request."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    @property
    def rest(self) -> bytes:
        """The bytes that have come behind the request."""
        return self._http.trailing_data[0]

    def receive(self, data: bytes) -> HttpRequest | None:
        """Read on; ``None``: the request is not complete. Raises :class:`RequestRefused`.

        Once it has returned a request, or raised, it is not called again.
        """
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as exc:
            status = HTTPStatus(exc.error_status_hint)
            raise RequestRefused(status, _WHY.get(status, "This is no HTTP request that could be understood.")) from exc
        if event is h11.NEED_DATA:
            return None
        assert isinstance(event, h11.Request), "nothing else comes first"
        if len(event.headers) > MAX_HEADERS:
            raise RequestRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"More than {MAX_HEADERS} headers.")
        return HttpRequest(
            method=event.method.decode("ascii"),
            path=_path(event.target.decode("ascii")),
            version=event.http_version.decode("ascii"),
            headers=tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers),
        )


_WHY: Final = {HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "The headers are too long."}


def _path(target: str) -> str:
    """Return the path of a target, which may be a whole URL (RFC 9112 section 3.2.2)."""
    path = target.partition("?")[0]
    scheme, slashes, rest = path.partition("://")
    if slashes and scheme.lower() in ("http", "https"):
        _, slash, path = rest.partition("/")
        return slash + path
    return path


# --- answers


def response(status: HTTPStatus, body: bytes, *headers: tuple[str, str], head_only: bool = False) -> bytes:
    """Return the answer that ends a connection. ``head_only``: without its body, to HEAD."""
    last = (("Content-Length", str(len(body))), ("Connection", "close"))
    return head(status, *headers, *last) + (b"" if head_only else body)


def head(status: HTTPStatus, *headers: tuple[str, str]) -> bytes:
    """Return an answer's head. Headers are of the proxy's own making: nothing of the request's stands in them."""
    return "".join(f"{line}\r\n" for line in (*_head_lines(status, headers), "")).encode("ascii")


def _head_lines(status: HTTPStatus, headers: Headers) -> Iterator[str]:
    yield f"HTTP/1.1 {status.value} {status.phrase}"
    for name, value in headers:
        yield f"{name}: {value}"


TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
