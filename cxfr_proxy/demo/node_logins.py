"""A demo node's logins: SASL PLAIN and EXTERNAL, and SASL2 with everything in one element."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape

from cxfr_proxy.demo.node_resumption import RESUME_FAILED, enable, replay, resumable, resume
from cxfr_proxy.demo.stream import ElementHandler, NodeStream
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element, child, qualified


def _login(stream: NodeStream, response: str | None) -> bool:
    """Log in by SASL PLAIN (RFC 4616). An authorization identity is ignored."""
    try:
        _, user, password = base64.b64decode(response or "", validate=True).decode().split("\0")
    except (binascii.Error, ValueError):
        return False
    check = stream.service.offers.check_password
    if not user or (check is not None and not check(user, password)):
        return False
    stream.user = f"{user}@{stream.domain}"
    return True


def _auth(stream: NodeStream, element: Element) -> None:
    """Ask a client that has sent no initial response for it (RFC 6120 section 6.4.2)."""
    if element.get("mechanism") == "EXTERNAL" and stream.service.external:
        stream.user = base64.b64decode(element.text or "").decode()
        _answer_login(stream, True)
    elif element.get("mechanism") == "PLAIN" and not element.text:
        stream.connection.write(f"<challenge xmlns='{names.SASL}'/>".encode())
    else:
        _answer_login(stream, element.get("mechanism") == "PLAIN" and _login(stream, element.text))


def _response(stream: NodeStream, element: Element) -> None:
    _answer_login(stream, _login(stream, element.text))


def _answer_login(stream: NodeStream, accepted: bool) -> None:
    if accepted:
        stream.connection.write(f"<success xmlns='{names.SASL}'/>".encode())
        stream.connection.restart()
    else:
        stream.connection.write(f"<failure xmlns='{names.SASL}'><not-authorized/></failure>".encode())


def _authenticate(stream: NodeStream, element: Element) -> None:
    """Log in by SASL2 (XEP-0388) with Bind 2 (XEP-0386) and stream management inline; there is no restart."""
    if element.get("mechanism") != "PLAIN" or not _login(
        stream, element.findtext(qualified(names.SASL2, "initial-response"))
    ):
        stream.connection.write(
            f"<failure xmlns='{names.SASL2}'><not-authorized xmlns='{names.SASL}'/></failure>".encode()
        )
        return
    inner = ""
    request = child(element, names.SM, "resume")
    bind = child(element, names.BIND2, "bind")
    session = resumable(stream, request) if request is not None else None
    if request is not None and session is not None:
        inner = resume(stream, session, request)
    elif request is not None:
        inner = RESUME_FAILED
    if stream.session is None and bind is not None and not stream.over:
        inner += _bind2(stream, bind)
    if stream.over:
        return  # the resumption had a wrong h
    stream.connection.write(
        f"<success xmlns='{names.SASL2}'><authorization-identifier>{escape(stream.jid())}"
        f"</authorization-identifier>{inner}</success>".encode()
    )
    if session is None:
        stream.connection.write(stream.features())
    else:
        replay(stream, session)
        stream.go_live()


def _bind2(stream: NodeStream, bind: Element) -> str:
    tag = bind.findtext(qualified(names.BIND2, "tag"))
    stream.bind(f"{tag}~{stream.cluster.serial()}" if tag else None)
    request = child(bind, names.SM, "enable")
    enabled = enable(stream, request) if request is not None else ""
    return f"<bound xmlns='{names.BIND2}'>{enabled}</bound>"


HANDLERS: Final[Mapping[str, ElementHandler]] = {
    qualified(names.SASL, "auth"): _auth,
    qualified(names.SASL, "response"): _response,
    qualified(names.SASL2, "authenticate"): _authenticate,
}
