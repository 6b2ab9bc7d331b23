"""The open pages: whether the proxy lives, whether it is ready, and its metrics.

They can only be read and change nothing, so everybody who can connect may ask. The answers hold only words of this
program's own and names of nodes: no secret, and no client's name or address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, Protocol

from cxfr_proxy.admin.http.exchange import HttpAnswer, PageRequest, said
from cxfr_proxy.admin.metrics.exposition import Exposition

READING: Final = ("GET", "HEAD")
"""The methods that change nothing."""


class PageSource(Protocol):
    """Knows the facts on the pages."""

    def unready(self) -> str | None:
        """Return in a sentence why no client should be sent here now; ``None``: they may be."""

    async def metrics(self, accept: str) -> Exposition:
        """Return the page in a format that ``accept`` allows, the request's header of that name."""


@dataclass(frozen=True, slots=True)
class Page:
    help: str
    answer: Callable[[PageSource, PageRequest], Awaitable[HttpAnswer]]


async def _alive(source: PageSource, request: PageRequest) -> HttpAnswer:
    return said(HTTPStatus.OK)


async def _ready(source: PageSource, request: PageRequest) -> HttpAnswer:
    reason = source.unready()
    return said(HTTPStatus.OK) if reason is None else said(HTTPStatus.SERVICE_UNAVAILABLE, reason)


async def _metrics(source: PageSource, request: PageRequest) -> HttpAnswer:
    exposition = await source.metrics(request.header("accept"))
    return HttpAnswer(HTTPStatus.OK, exposition.body, exposition.content_type)


PAGES: Final[Mapping[str, Page]] = MappingProxyType(
    {
        "/livez": Page("200 as long as the proxy does anything at all", _alive),
        "/readyz": Page("200 if clients should be sent here, else 503 and why not", _ready),
        "/metrics": Page("for Prometheus", _metrics),
    }
)
