"""A request and its answer, as the pages and the API see them: nothing of sockets, or of how HTTP is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from cxfr_proxy.admin.rows.codec import encode
from cxfr_proxy.errors import CxfrProxyError

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
PROBLEM: Final = "application/problem+json"

ExtraHeaders = tuple[tuple[str, str], ...]


class BodySource(Protocol):
    """Reads the body of a request."""

    async def read_body(self, max_bytes: int) -> bytes:
        """Return the whole body; empty: there is none. Raises :class:`HttpProblem` for one that is longer, malformed,
        or does not come in time. It is called once at most."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request. ``target`` is as it was sent: a path with or without a query, or a whole URL (RFC 9112 section 3.2.2).

    ``headers`` by their names in lower case; of several with one name the values are joined by commas. ``address`` is
    the client's, empty if it has none.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    address: str
    body: BodySource

    @property
    def path(self) -> str:
        path, _, _ = self.target.partition("?")
        scheme, slashes, rest = path.partition("://")
        if slashes and scheme.lower() in ("http", "https"):
            _, slash, path = rest.partition("/")
            return slash + path
        return path

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str:
        """Return the value of a header; empty if there is none of that name (in lower case)."""
        return self.headers.get(name, "")

    def accepts(self, content_type: str) -> bool:
        """Return whether ``Accept`` names that type. ``*/*`` names none: it is what programs send that do not care."""
        return any(each.partition(";")[0].strip().lower() == content_type for each in self.header("accept").split(","))


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer to a request; ``headers`` are beside those that each answer has."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: ExtraHeaders = ()


class EventSink(Protocol):
    """The connection that an answer is written to while it is made."""

    async def send(self, data: bytes) -> None:
        """Send a piece of the answer. Raises ``trio.TooSlowError`` where it is not taken in time."""


class EventStream(ABC):
    """An answer that goes on: server-sent events, with status 200."""

    @abstractmethod
    async def send_to(self, sink: EventSink) -> None:
        """Send all there is to say, until it has an end. Cancelled when the client goes away."""


class HttpProblem(CxfrProxyError):
    """A request that is answered with an error: an object of RFC 9457.

    ``detail`` is a sentence for people. It repeats of a request only what :class:`~cxfr_proxy.errors.ConfigError` does.
    """

    def __init__(self, status: HTTPStatus, detail: str, *headers: tuple[str, str], notes: tuple[str, ...] = ()) -> None:
        super().__init__(f"{status.value}: {detail}")
        self.status = status
        self.detail = detail
        self.headers = headers
        self.notes = notes

    def as_object(self) -> Mapping[str, object]:
        """Return its JSON object."""
        title, status = self.status.phrase, self.status.value
        more = {"notes": list(self.notes)} if self.notes else {}
        return {"type": "about:blank", "title": title, "status": status, "detail": self.detail, **more}

    def as_answer(self) -> HttpAnswer:
        return HttpAnswer(self.status, encode(self.as_object()) + b"\n", PROBLEM, self.headers)


def said(status: HTTPStatus, text: str = "", *headers: tuple[str, str]) -> HttpAnswer:
    """Return a line of plain text, the status's own words by default."""
    return HttpAnswer(status, f"{text or status.phrase}\n".encode(), headers=headers)


def json_answer(value: object) -> HttpAnswer:
    return HttpAnswer(HTTPStatus.OK, encode(value) + b"\n", JSON)
