"""The pages by HTTP: whether the proxy lives, whether it is ready, and its metrics.

They can only be read and change nothing, so everybody who can connect may ask. The answers hold only words of this
program's own and names of nodes: no secret, and no client's name or address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Protocol

from cxfr_proxy.admin.metrics.exposition import Exposition


class PageSource(Protocol):
    """Knows the facts on the pages."""

    def unready(self) -> str | None:
        """Return in a sentence why no client should be sent here now; ``None``: they may be."""

    async def metrics(self, accept: str) -> Exposition:
        """Return the page in a format that ``accept`` allows, the request's header of that name."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer to a request. ``allow``: the methods that may be used, if the method was wrong."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    allow: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    help: str
    answer: Callable[[PageSource, str], Awaitable[HttpAnswer]]
    """Gets the request's ``Accept`` header as its second argument."""


def said(status: HTTPStatus, text: str = "") -> HttpAnswer:
    """Return a line of plain text, the status's own words by default."""
    return HttpAnswer(status, f"{text or status.phrase}\n".encode())


async def _alive(source: PageSource, accept: str) -> HttpAnswer:
    return said(HTTPStatus.OK)


async def _ready(source: PageSource, accept: str) -> HttpAnswer:
    reason = source.unready()
    return said(HTTPStatus.OK) if reason is None else said(HTTPStatus.SERVICE_UNAVAILABLE, reason)


async def _metrics(source: PageSource, accept: str) -> HttpAnswer:
    exposition = await source.metrics(accept)
    return HttpAnswer(HTTPStatus.OK, exposition.body, exposition.content_type)


PAGES: Final[Mapping[str, Page]] = MappingProxyType(
    {
        "/livez": Page("200 as long as the proxy does anything at all", _alive),
        "/readyz": Page("200 if clients should be sent here, else 503 and why not", _ready),
        "/metrics": Page("for Prometheus", _metrics),
    }
)
_NOT_FOUND: Final = "There is only:\n" + "\n".join(f"{path}  {page.help}" for path, page in PAGES.items())
_METHODS: Final = ("GET", "HEAD")


async def answer(source: PageSource, method: str, target: str, accept: str = "") -> HttpAnswer:
    """Return the answer to one request; to HEAD the same as to GET, for the server to send without its body.

    ``target`` as it was sent: a path with or without a query, which means nothing here, or a whole URL (RFC 9112
    section 3.2.2).
    """
    page = PAGES.get(_path(target))
    if page is None:
        return said(HTTPStatus.NOT_FOUND, _NOT_FOUND)
    if method not in _METHODS:
        refusal = HTTPStatus.METHOD_NOT_ALLOWED
        return HttpAnswer(refusal, f"{refusal.phrase}\n".encode(), allow=", ".join(_METHODS))
    return await page.answer(source, accept)


def _path(target: str) -> str:
    path, _, _ = target.partition("?")
    scheme, slashes, rest = path.partition("://")
    if slashes and scheme.lower() == "http":
        _, slash, path = rest.partition("/")
        return slash + path
    return path
