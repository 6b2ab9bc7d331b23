"""A demo node's answers to stanzas: an echo, a router among its nodes, and the IQs that clients send as they log in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from cxfr_proxy.demo.account import Numbered
from cxfr_proxy.demo.cluster import NodeSession
from cxfr_proxy.demo.stream import ElementHandler, NodeStream
from cxfr_proxy.demo.wire import IQ_TAG, MESSAGE_TAG, PRESENCE_TAG
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StanzaCondition, StreamCondition
from cxfr_proxy.xmpp.stanza import Element, child, qualified

CAPS: Final = "http://jabber.org/protocol/caps"
"""XEP-0115."""


def _csi(stream: NodeStream, element: Element) -> None:
    """Accept XEP-0352: nothing is held back here that could be."""


def _message(stream: NodeStream, element: Element) -> None:
    session = _bound_session(stream)
    if session is None:
        return
    body = element.findtext(qualified(names.CLIENT, "body"))
    numbered = Numbered.parse(body)
    if numbered is not None and element.get("type") != "error":
        session.record.received.append(numbered)
    if element.get("to") == f"echo.{stream.domain}":
        stream.deliver(
            f"<message from='echo.{stream.domain}' to={quoteattr(session.full_jid)} type='chat'"
            f" id={quoteattr(element.get('id', ''))}><body>{escape(body or '')}</body></message>".encode()
        )
    else:
        _route(stream, element)


def _route(stream: NodeStream, element: Element) -> None:
    """Deliver to everybody online at that JID, on any node; else send it back as an error."""
    to = element.get("to")
    element.set("from", stream.jid())
    targets = stream.cluster.find(to) if to else []
    if not targets:
        _refuse(stream, element)
        return
    data = stanza.serialize(element)
    for target in targets:
        target.deliver(data)


def _refuse(stream: NodeStream, element: Element) -> None:
    element.set("from", stream.jid())
    reply = stanza.error_reply(element, StanzaCondition.SERVICE_UNAVAILABLE, "cancel", "nobody here does that")
    if reply is not None:
        stream.deliver(reply)


def _presence(stream: NodeStream, element: Element) -> None:
    """Make the session available (RFC 6121 section 4.2), and note the software behind it (XEP-0115).

    Nobody has a roster here, so nothing else is of interest.
    """
    if element.get("type") is None and element.get("to") is None:
        stream.go_live()
    caps = child(element, CAPS, "c")
    if caps is None or not stream.service.offers.asks_capabilities:
        return
    node = f"{caps.get('node', '')}#{caps.get('ver', '')}"
    stream.deliver(
        f"<iq type='get' id='caps-{stream.cluster.serial()}' from='{stream.domain}' to={quoteattr(stream.jid())}>"
        f"<query xmlns='{names.DISCO_INFO}' node={quoteattr(node)}/></iq>".encode()
    )


def _iq(stream: NodeStream, element: Element) -> None:
    kind, to = element.get("type"), element.get("to")
    if kind == "set" and stream.session is None and child(element, names.BIND, "bind") is not None:
        _iq_bind(stream, element)
        return
    session = _bound_session(stream)
    if session is None:
        return
    if to is not None and to not in (stream.domain, session.bare_jid):
        _route(stream, element)
    elif kind in ("result", "error"):
        session.record.replies[element.get("id", "")] = kind
    else:
        _iq_request(stream, element)


def _iq_request(stream: NodeStream, element: Element) -> None:
    payload = str(element[0].tag) if len(element) else ""
    if payload in (qualified(names.SESSION, "session"), qualified(names.PING, "ping")):
        _result(stream, element, "")
    elif payload == qualified(names.DISCO_INFO, "query"):
        features = "".join(f"<feature var='{var}'/>" for var in (names.DISCO_INFO, names.PING))
        _result(
            stream,
            element,
            f"<query xmlns='{names.DISCO_INFO}'><identity category='server' type='im' "
            f"name='{escape(stream.service.node)}'/>{features}</query>",
        )
    else:
        _refuse(stream, element)


def _iq_bind(stream: NodeStream, element: Element) -> None:
    stream.bind(element.findtext(f"{qualified(names.BIND, 'bind')}/{qualified(names.BIND, 'resource')}"))
    _result(stream, element, f"<bind xmlns='{names.BIND}'><jid>{escape(stream.jid())}</jid></bind>")


def _result(stream: NodeStream, element: Element, payload: str) -> None:
    sender = f" from={quoteattr(element.get('to', ''))}" if element.get("to") else ""
    stream.deliver(
        f"<iq type='result' id={quoteattr(element.get('id', ''))} to={quoteattr(stream.jid())}{sender}>"
        f"{payload}</iq>".encode()
    )


def _bound_session(stream: NodeStream) -> NodeSession | None:
    if stream.session is None:
        stream.end(StreamCondition.NOT_AUTHORIZED, "bind a resource first")
    return stream.session


HANDLERS: Final[Mapping[str, ElementHandler]] = {
    qualified(names.CSI, "active"): _csi,
    qualified(names.CSI, "inactive"): _csi,
    MESSAGE_TAG: _message,
    PRESENCE_TAG: _presence,
    IQ_TAG: _iq,
}
