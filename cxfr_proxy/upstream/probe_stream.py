"""A stream of the proxy's own to a node, without a user: to ask for TLS, or to see that the node answers.

It is opened as a client opens one (RFC 6120 section 4.2) and read element by element. Any other answer than the one
asked for is the node's fault, and becomes a :class:`NodeError`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from cxfr_proxy.config.table import Limits
from cxfr_proxy.errors import DomainRefused, NodeError
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.framing.framer import StreamEnd, StreamFault, StreamStart, WholeElement
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening import usual_header
from cxfr_proxy.xmpp.opening.header import StreamHeader, read_header

_STARTTLS: Final = f"<starttls xmlns='{names.TLS}'/>".encode()
_ABOUT_THE_DOMAIN: Final = (
    StreamCondition.HOST_UNKNOWN,
    StreamCondition.HOST_GONE,
    StreamCondition.IMPROPER_ADDRESSING,
)
_CLOSE_SECONDS: Final = 1.0
"""Seconds that a node may take to end its side: a round trip. Only its log depends on it."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """The greeting of a node to a client that has not logged in."""

    header: StreamHeader
    features: bytes
    """As it wrote them; the prefixes in them are the header's."""
    parsed: stanza.Element
    """The same."""

    @property
    def portable(self) -> bytes | None:
        """The features, if they mean the same behind any header of the usual form; otherwise ``None``."""
        if self.header.prefix != "stream":
            return None
        try:
            stanza.parse(self.features, usual_header.CONTEXT)
        except stanza.MalformedElement:
            return None
        return self.features


class ProbeStream:
    """Speaks on ``endpoint``, which the caller closes. ``lane`` is the one to read by; ``None``: one of its own."""

    def __init__(self, endpoint: Endpoint, limits: Limits, lane: Lane | None = None) -> None:
        self._endpoint = endpoint
        self._lane = lane or Lane(max_element_bytes=limits.max_element_down, max_depth=limits.max_depth)

    async def open(self, domain: str, opening: bytes | None = None) -> Greeting:
        """Open the stream, by that header of ours if there is one, and return what the node greets it with.

        Raises :class:`NodeError`, also where the answer is a stream error, and ``OSError``.
        """
        await self._endpoint.send_all(opening or stanza.stream_header(to=domain, from_=None, stream_id=None))
        raw = await self._read(StreamStart)
        try:
            header = read_header(raw, NodeError)
        except NodeError as exc:
            raise _fault(exc.text) from exc
        raw, features = await self._element(header)
        name = stanza.name_of(features)
        if name == (names.STREAM, "error"):
            condition = stanza.stream_condition(features)
            text = f"the node answered {domain} by the stream error {condition}"
            if condition in _ABOUT_THE_DOMAIN:
                raise DomainRefused(StreamCondition.REMOTE_CONNECTION_FAILED, text)
            raise _fault(text)
        if name != (names.STREAM, "features"):
            raise _fault("the node sent no stream features")
        return Greeting(header, raw, features)

    async def ask_for_tls(self, domain: str) -> None:
        """Return when the node expects the handshake (RFC 6120 section 5.4). Raises as :meth:`open` does."""
        greeting = await self.open(domain)
        if stanza.child(greeting.parsed, names.TLS, "starttls") is None:
            raise _fault("the node does not offer STARTTLS")
        answer = await self.ask(_STARTTLS, greeting.header)
        if stanza.name_of(answer) != (names.TLS, "proceed"):
            raise _fault("the node refused STARTTLS")
        # Anybody on the path may have written them (RFC 6120 section 5.4.3.3).
        if self._lane.take_unread():
            raise _fault("the node sent plain bytes behind <proceed/>")

    async def ask(self, request: bytes, header: StreamHeader) -> stanza.Element:
        """Send this (nothing, if it is empty), and return the next element of the node's, whose header that was.

        Raises as :meth:`open` does.
        """
        await self._endpoint.send_all(request)
        _, answer = await self._element(header)
        return answer

    async def close(self) -> None:
        """End the stream and let the node end its side too; otherwise it would report a lost client. Raises only
        ``OSError``."""
        await self._endpoint.send_all(stanza.STREAM_END)
        with trio.move_on_after(_CLOSE_SECONDS), suppress(NodeError):
            await self._read(StreamEnd)

    async def _element(self, header: StreamHeader) -> tuple[bytes, stanza.Element]:
        raw = await self._read(WholeElement)
        try:
            return raw, stanza.parse(raw, header.context)
        except stanza.MalformedElement as exc:
            raise _fault("the node used a prefix that its stream does not declare") from exc

    async def _read(self, kind: type[StreamStart | WholeElement | StreamEnd]) -> bytes:
        while True:
            piece = self._lane.next()
            if piece is None:
                data = await self._endpoint.receive_some()
                if not data:
                    raise _fault("the node closed the connection") from EOFError()
                self._lane.feed(data)
            elif isinstance(piece.event, kind):
                return piece.data
            elif isinstance(piece.event, StreamFault):
                raise _fault(f"the node's stream can't be read: {piece.event.text}")
            elif piece.event is not None:
                raise _fault("the node ended the stream at once")


def _fault(text: str) -> NodeError:
    return NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, text)
