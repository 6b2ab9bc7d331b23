"""A demo node's half of XEP-0198: sessions that outlive their stream, and what is acknowledged on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import quoteattr

from cxfr_proxy.demo.cluster import NodeSession
from cxfr_proxy.demo.stream import ElementHandler, NodeStream
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.stanza import Element, qualified

RESUME_FAILED: Final = f"<failed xmlns='{names.SM}'><item-not-found xmlns='{names.STANZA_ERRORS}'/></failed>"


def _enable(stream: NodeStream, element: Element) -> None:
    if stream.session is None or stream.session.counters is not None or not stream.service.offers.stream_management:
        stream.connection.write(
            f"<failed xmlns='{names.SM}'><unexpected-request xmlns='{names.STANZA_ERRORS}'/></failed>".encode()
        )
        return
    stream.connection.write(enable(stream, element).encode())


def enable(stream: NodeStream, request: Element) -> str:
    """Count from here on. Return ``<enabled/>``."""
    assert stream.session is not None
    lasting = request.get("resume") in ("true", "1")
    counters = stream.cluster.enable(stream.session, resumable=lasting)
    by = f" id='{counters.sm_id}' resume='true'" if lasting else ""
    location = stream.service.offers.sm_location
    where = f" location={quoteattr(location)}" if lasting and location is not None else ""
    return f"<enabled xmlns='{names.SM}'{by}{where}/>"


def _resume(stream: NodeStream, element: Element) -> None:
    if stream.user is None:
        stream.end(StreamCondition.NOT_AUTHORIZED, "log in first")
        return
    session = resumable(stream, element)
    if session is None:
        stream.connection.write(RESUME_FAILED.encode())
        return
    resumed = resume(stream, session, element)
    if not stream.over:
        stream.connection.write(resumed.encode())
        replay(stream, session)
        stream.go_live()


def resumable(stream: NodeStream, element: Element) -> NodeSession | None:
    """Return the session that ``<resume/>`` names; ``None``: this stream can't resume it."""
    if stream.session is not None or stream.user is None:
        return None
    return stream.cluster.resumable(element.get("previd", ""), stream.user, stream.service.node)


def resume(stream: NodeStream, session: NodeSession, element: Element) -> str:
    """Take the session over. Return ``<resumed/>``. If ``h`` is impossible, this stream ends, and nothing is taken
    over."""
    assert session.counters is not None
    if not _acknowledged(stream, session, element.get("h")):
        return ""
    stream.cluster.resume(session, stream.service.node, stream)
    stream.session = session
    stream.connection.opened()
    counters = session.counters
    return f"<resumed xmlns='{names.SM}' h='{counters.received}' previd='{counters.sm_id}'/>"


def replay(stream: NodeStream, session: NodeSession | None) -> None:
    """Send again what the client of a resumed session has not acknowledged."""
    if session is not None and session.counters is not None:
        for data, numbered in session.counters.unacknowledged:
            stream.connection.write(data, numbered)


def _acknowledged(stream: NodeStream, session: NodeSession, h: str | None) -> bool:
    counters = session.counters
    assert counters is not None
    value = int(h) if h is not None and h.isdecimal() else -1
    if value >= 0 and counters.acknowledge(value):
        return True
    stream.end_with(
        f"<stream:error><undefined-condition xmlns='{names.STREAM_ERRORS}'/>"
        f"<handled-count-too-high xmlns='{names.SM}' h={quoteattr(h or '')} send-count='{counters.sent}'/>"
        "</stream:error></stream:stream>".encode()
    )
    return False


def _ack(stream: NodeStream, element: Element) -> None:
    if stream.session is not None and stream.session.counters is not None:
        _acknowledged(stream, stream.session, element.get("h"))


def _ack_request(stream: NodeStream, element: Element) -> None:
    if stream.session is not None and stream.session.counters is not None:
        stream.connection.write(f"<a xmlns='{names.SM}' h='{stream.session.counters.received}'/>".encode())


HANDLERS: Final[Mapping[str, ElementHandler]] = {
    qualified(names.SM, "enable"): _enable,
    qualified(names.SM, "resume"): _resume,
    qualified(names.SM, "a"): _ack,
    qualified(names.SM, "r"): _ack_request,
}
