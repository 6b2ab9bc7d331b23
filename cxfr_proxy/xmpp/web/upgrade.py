"""Whether a request may become a WebSocket for XMPP: RFC 6455 section 4.2 and RFC 7395 section 3.1.

Extensions are offered by every browser (``permessage-deflate``) and never accepted: compressed messages have no bytes
that could be passed on, and compression beside secrets tells of them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection
from http import HTTPStatus
from typing import Final

from cxfr_proxy.xmpp.web.request import HttpRequest, RequestRefused, head

SUBPROTOCOL: Final = "xmpp"
VERSION: Final = "13"
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 section 1.3: what a server that knows the protocol puts behind the client's key."""
_KEY_BYTES: Final = 16
_UPGRADE: Final = ("Upgrade", "websocket")


def accept(request: HttpRequest, origins: Collection[str]) -> bytes:
    """Return the answer with which the request becomes a WebSocket. Raises :class:`~.request.RequestRefused`.

    ``origins``: those of the pages that may connect, in lower case; empty: any.
    """
    if request.method != "GET":
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "A WebSocket begins with GET.", ("Allow", "GET"))
    if "websocket" not in map(str.lower, request.tokens("upgrade")) or request.version < "1.1":
        text = "This is an XMPP WebSocket (RFC 7395), and the request does not ask for one."
        raise RequestRefused(HTTPStatus.UPGRADE_REQUIRED, text, _UPGRADE)
    if "upgrade" not in map(str.lower, request.tokens("connection")):
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "Expected 'Connection: Upgrade'.")
    if request.has_body:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "Expected no body in the request for a WebSocket.")
    if request.values("sec-websocket-version") != [VERSION]:
        text = f"Expected 'Sec-WebSocket-Version: {VERSION}'."
        raise RequestRefused(HTTPStatus.UPGRADE_REQUIRED, text, _UPGRADE, ("Sec-WebSocket-Version", VERSION))
    accepted = _answer_to(request)
    if SUBPROTOCOL not in request.tokens("sec-websocket-protocol"):
        raise RequestRefused(HTTPStatus.BAD_REQUEST, f"Expected 'Sec-WebSocket-Protocol: {SUBPROTOCOL}' (RFC 7395).")
    _check_origin(request, origins)
    return head(
        HTTPStatus.SWITCHING_PROTOCOLS,
        _UPGRADE,
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accepted),
        ("Sec-WebSocket-Protocol", SUBPROTOCOL),
    )


def _answer_to(request: HttpRequest) -> str:
    """Return what proves that the key was read (RFC 6455 section 4.2.2)."""
    try:
        (key,) = request.values("sec-websocket-key")
        good = len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except ValueError:  # several or none; no Base64
        good = False
    if not good:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "Expected one Sec-WebSocket-Key of 16 bytes in Base64.")
    return base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()).decode("ascii")


def _check_origin(request: HttpRequest, origins: Collection[str]) -> None:
    """A program that is no browser says no origin, or any that it likes: a list holds back other people's pages, not
    programs."""
    said = request.values("origin")
    if origins and said and (len(said) > 1 or said[0].lower() not in origins):
        raise RequestRefused(HTTPStatus.FORBIDDEN, "Pages of this origin may not connect.")
