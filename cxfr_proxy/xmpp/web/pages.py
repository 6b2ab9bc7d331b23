"""The pages besides the WebSocket: a word on what this is, and host-meta (XEP-0156), by which clients find it.

Both forms of host-meta may be read by pages of any origin, or web clients could not find their server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from http import HTTPStatus
from typing import Final
from xml.sax.saxutils import quoteattr

from msgspec import Struct

from cxfr_proxy.xmpp.web.request import HttpRequest, RequestRefused, response

_WEBSOCKET: Final = "urn:xmpp:alt-connections:websocket"
_ANY_ORIGIN: Final = ("Access-Control-Allow-Origin", "*")
_METHODS: Final = ("GET", "HEAD")


class WebPage(Struct, frozen=True):
    """A page: its content, and the headers besides those that each answer has."""

    body: bytes
    headers: tuple[tuple[str, str], ...]


def pages(websocket_path: str, host_meta: Sequence[str]) -> dict[str, WebPage]:
    """Return all pages by their paths. ``host_meta``: the WebSocket URLs to announce; empty: no host-meta."""
    found = {"/": _welcome(websocket_path)}
    if host_meta:
        found["/.well-known/host-meta"] = _xrd(host_meta)
        found["/.well-known/host-meta.json"] = _jrd(host_meta)
    return found


def answer(request: HttpRequest, known: Mapping[str, WebPage]) -> bytes:
    """Return the answer with the page that is asked for. Raises :class:`~.request.RequestRefused`."""
    page = known.get(request.path)
    if page is None:
        raise RequestRefused(HTTPStatus.NOT_FOUND, "There is no such page.")
    if request.method not in _METHODS:
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "It can be read only.", ("Allow", ", ".join(_METHODS)))
    return response(HTTPStatus.OK, page.body, *page.headers, head_only=request.method == "HEAD")


def _welcome(websocket_path: str) -> WebPage:
    text = (
        "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>XMPP</title>\n"
        "<p>This port is for XMPP clients, such as chat programs. There is nothing to see here in a browser; "
        f"web clients connect by WebSocket (RFC 7395) to <code>{escape(websocket_path)}</code>.\n</html>\n"
    )
    return WebPage(text.encode(), (("Content-Type", "text/html; charset=utf-8"),))


def _xrd(urls: Sequence[str]) -> WebPage:
    links = "".join(f"  <Link rel={quoteattr(_WEBSOCKET)} href={quoteattr(url)}/>\n" for url in urls)
    text = f"<?xml version='1.0' encoding='utf-8'?>\n<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>\n{links}</XRD>\n"
    return WebPage(text.encode(), (("Content-Type", "application/xrd+xml; charset=utf-8"), _ANY_ORIGIN))


def _jrd(urls: Sequence[str]) -> WebPage:
    links = [{"rel": _WEBSOCKET, "href": url} for url in urls]
    return WebPage(json.dumps({"links": links}).encode() + b"\n", (("Content-Type", "application/json"), _ANY_ORIGIN))
