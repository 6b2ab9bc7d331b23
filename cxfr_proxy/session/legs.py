"""The two legs of a session. Each knows its lane, its headers, and the state of each of its directions.

A leg decides nothing and sends nothing. Its properties say what it is, and its methods take it from one state to
another (:mod:`.tables`). A node leg is a value: while the client lives, another node's leg can take its place.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.session.commands import Side
from cxfr_proxy.session.tables import INCOMING, OUTGOING, READABLE, WRITABLE, Incoming, Outgoing, follow
from cxfr_proxy.xmpp.framing.framer import ANY_DEPTH
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.header import StreamHeader

_READ: Final = Incoming.READ
_HELD: Final = Incoming.HELD
_OVER: Final = frozenset((Incoming.ENDED, Incoming.FAILED, Incoming.GONE))
_NEW: Final = Outgoing.NEW
_OPEN: Final = Outgoing.OPEN
_CLIENT_READABLE: Final = READABLE[Side.CLIENT]
_NODE_READABLE: Final = READABLE[Side.NODE]

IDENTITY_LOOKS: Final = 32
"""Elements of a bound client that are searched for its capabilities. As a rule its first presence has them, and a few
requests come before that."""


class ClientLeg:
    """The client's side, and what the client has shown of itself.

    ``tls`` is independent of all states: it says whether the client is on TLS, which a session never changes. ``shown``
    is the header that the client has got; ``None``: none yet. ``caps`` (``node#ver`` of XEP-0115), ``refusal`` (the
    words in which it has refused a request) and ``knows_cxfr`` are ``None`` while nothing is known.
    """

    __slots__ = (
        "caps",
        "header",
        "incoming",
        "knows_cxfr",
        "lane",
        "looks_left",
        "outgoing",
        "refusal",
        "shown",
        "tls",
        "wanted",
        "writable",
    )

    def __init__(self, header: StreamHeader, lane: Lane, *, tls: bool, shown: StreamHeader | None, held: bool) -> None:
        self.lane = lane
        self.header = header
        self.shown = shown
        self.tls = tls
        self.incoming = _HELD if held else _READ
        self.wanted = not held
        """Whether its bytes are taken from its socket now. Follows from ``incoming``, and is asked at every turn."""
        self.outgoing = _NEW if shown is None else _OPEN
        self.writable = True
        """Whether something may be written to it. Follows from ``outgoing``, and is asked at every turn."""
        self.caps: str | None = None
        self.refusal: str | None = None
        self.knows_cxfr: bool | None = None
        self.looks_left = IDENTITY_LOOKS

    @property
    def over(self) -> bool:
        """The client's stream has ended or failed: what comes behind it is dropped."""
        return self.incoming in _OVER

    @property
    def done(self) -> bool:
        """The client has ended its stream, or is gone: closing its connection destroys nothing."""
        return self.incoming in (Incoming.ENDED, Incoming.GONE)

    @property
    def held(self) -> bool:
        return self.incoming is _HELD

    def receive(self, incoming: Incoming) -> None:
        """Go on to that state of what comes in."""
        self.incoming = follow(INCOMING, self.incoming, incoming)
        self.wanted = incoming in _CLIENT_READABLE

    def _write(self, outgoing: Outgoing) -> None:
        """Go on to that state of what is written."""
        self.outgoing = follow(OUTGOING, self.outgoing, outgoing)
        self.writable = outgoing in WRITABLE

    def hold(self, hold: bool) -> None:
        """Have the client's bytes wait, or no longer. Does nothing once there are none that could be read."""
        # A stream that has ended or failed is read to drop what comes, and so is never held.
        if self.incoming is (_READ if hold else _HELD):
            self.receive(_HELD if hold else _READ)

    def begin(self, header: StreamHeader) -> None:
        """Note the header of the stream that the client begins."""
        self.header = header

    def show(self, header: StreamHeader) -> None:
        """Note the header that the client gets."""
        self.shown = header
        if self.writable:
            self._write(_OPEN)

    def restart(self) -> None:
        """Begin anew in both directions."""
        self.lane.restart()
        self._write(_NEW)

    def close_output(self) -> None:
        self._write(Outgoing.CLOSED)

    def come_into_use(self, *, max_element_bytes: int) -> None:
        """Keep of the headers only what matters once the stream is bound: their form."""
        self.lane.limit_elements(max_element_bytes)
        self.header = self.header.in_use
        if self.shown is not None:
            self.shown = self.shown.in_use

    # --- what it shows of itself

    def look(self, caps: str | None) -> None:
        """Count a look at one of the client's elements, and note the capabilities found in it, which end the search."""
        self.caps = caps if caps is not None else self.caps
        self.looks_left = 0 if self.caps is not None else self.looks_left - 1

    def show_support(self, knows_cxfr: bool) -> None:
        """Note whether the client knows the connection transfer."""
        self.knows_cxfr = knows_cxfr

    def refuse(self, words: str | None) -> None:
        """Note the words in which the client has refused a request."""
        self.refusal = words


def node_lane(*, max_element_bytes: int) -> Lane:
    """Return a lane for a node's bytes until the stream is in use; elements may be longer then."""
    return Lane(max_element_bytes=max_element_bytes, max_depth=ANY_DEPTH)


class NodeLeg:
    """The node's side.

    ``name`` is the node's. ``header`` is the node's own; ``None``: it has sent none yet. ``opened_by`` is the header
    that the node's stream was opened with, the client's as a rule.
    """

    __slots__ = ("header", "incoming", "lane", "name", "opened_by", "outgoing", "wanted", "writable")

    def __init__(self, name: str, opened_by: StreamHeader, lane: Lane) -> None:
        self.name = name
        self.opened_by = opened_by
        self.header: StreamHeader | None = None
        self.lane = lane
        self.incoming = _READ
        self.wanted = True
        """Whether its bytes are taken from its socket now. Follows from ``incoming``, and is asked at every turn."""
        self.outgoing = _NEW
        self.writable = True
        """Whether something may be written to it. Follows from ``outgoing``, and is asked at every turn."""

    def receive(self, incoming: Incoming) -> None:
        """Go on to that state of what comes in."""
        self.incoming = follow(INCOMING, self.incoming, incoming)
        self.wanted = incoming in _NODE_READABLE

    def _write(self, outgoing: Outgoing) -> None:
        """Go on to that state of what is written."""
        self.outgoing = follow(OUTGOING, self.outgoing, outgoing)
        self.writable = outgoing in WRITABLE

    def open(self, header: StreamHeader) -> None:
        """Note the header that begins the node's stream."""
        self.opened_by = header
        if self.writable:
            self._write(_OPEN)

    def greet(self, header: StreamHeader) -> None:
        """Note the header that the node has sent."""
        self.header = header

    def restart(self) -> None:
        """Begin anew in both directions. Between ``<success/>`` and our next header there is no stream that could be
        ended."""
        self.lane.restart()
        self._write(_NEW)

    def end_stream(self) -> bytes:
        """End the node's stream and return the bytes that do so; empty if none has begun."""
        end = self.opened_by.end if self.outgoing is Outgoing.OPEN else b""
        self._write(Outgoing.ENDED)
        return end

    def close_output(self) -> bool:
        """End the output; return whether the stream had been ended in good order before."""
        ended = self.outgoing is Outgoing.ENDED
        self._write(Outgoing.CLOSED)
        return ended

    def come_into_use(self, *, max_held_bytes: int) -> None:
        """Allow elements of any length from now on: longer ones than that are cut through."""
        self.lane.limit_elements(None)
        self.lane.hold_at_most(max_held_bytes)
        self.opened_by = self.opened_by.in_use
        if self.header is not None:
            self.header = self.header.in_use
