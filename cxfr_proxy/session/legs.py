"""The two legs of a session. Each knows its lane, its headers, and how far each of its directions is.

A leg decides nothing and sends nothing: it says what it is, and its methods are the ways from one state to another
(:mod:`.tables`). A node leg is a value: while the client lives, another node's can be put in its place.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.session.commands import Side
from cxfr_proxy.session.tables import INCOMING, OUTGOING, READABLE, WRITABLE, Incoming, Outgoing, follow
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.header import StreamHeader

IDENTITY_LOOKS: Final = 32
"""Elements of a bound client that are looked at for its capabilities. Its first presence has them as a rule, behind a
few requests."""
_ANY_DEPTH: Final = 2**31 - 1
"""From the node: what it lets pass may be a stranger's, and must not end its recipient's stream."""


class ClientLeg:
    """The client's side, and what the client has shown of itself.

    ``tls`` is independent of all states: whether the client is on TLS now, which a session never changes. ``shown`` is
    the header that the client has got; ``None``: none yet. ``caps`` (``node#ver`` of XEP-0115), ``refusal`` (the words
    in which it has refused a request) and ``knows_cxfr`` are ``None`` where nothing is known.
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
    )

    def __init__(self, header: StreamHeader, lane: Lane, *, tls: bool, shown: StreamHeader | None, held: bool) -> None:
        self.lane = lane
        self.header = header
        self.shown = shown
        self.tls = tls
        self.incoming = Incoming.HELD if held else Incoming.READ
        self.outgoing = Outgoing.NEW if shown is None else Outgoing.OPEN
        self.caps: str | None = None
        self.refusal: str | None = None
        self.knows_cxfr: bool | None = None
        self.looks_left = IDENTITY_LOOKS

    @property
    def wanted(self) -> bool:
        """Whether its bytes are taken from its socket now."""
        return self.incoming in READABLE[Side.CLIENT]

    @property
    def over(self) -> bool:
        """Its stream has ended or failed: what it brings is dropped."""
        return self.incoming in (Incoming.ENDED, Incoming.FAILED, Incoming.GONE)

    @property
    def done(self) -> bool:
        """It has said its last word, or is gone: closing its connection destroys nothing."""
        return self.incoming in (Incoming.ENDED, Incoming.GONE)

    @property
    def held(self) -> bool:
        return self.incoming is Incoming.HELD

    @property
    def writable(self) -> bool:
        return self.outgoing in WRITABLE

    def receive(self, incoming: Incoming) -> None:
        """Go on to that state of what comes in."""
        self.incoming = follow(INCOMING, self.incoming, incoming)

    def hold(self, hold: bool) -> None:
        """Let what it brings wait, or no longer; nothing where it brings nothing that could be read."""
        if self.incoming in (Incoming.READ, Incoming.HELD):
            self.receive(Incoming.HELD if hold else Incoming.READ)

    def begin(self, header: StreamHeader) -> None:
        """It begins a stream by that header."""
        self.header = header

    def show(self, header: StreamHeader) -> None:
        """It gets that header."""
        self.shown = header
        if self.writable:
            self.outgoing = follow(OUTGOING, self.outgoing, Outgoing.OPEN)

    def restart(self) -> None:
        """Both directions begin anew."""
        self.lane.restart()
        self.outgoing = follow(OUTGOING, self.outgoing, Outgoing.NEW)

    def close_output(self) -> None:
        self.outgoing = follow(OUTGOING, self.outgoing, Outgoing.CLOSED)

    def come_into_use(self, *, max_element_bytes: int) -> None:
        """It is bound: only the form of its headers matters from here on."""
        self.lane.limit_elements(max_element_bytes)
        self.header = self.header.in_use
        if self.shown is not None:
            self.shown = self.shown.in_use

    # --- what it shows of itself

    def look(self, caps: str | None) -> None:
        """One of its elements was looked at, and had these capabilities, if any: the search is over once some had."""
        self.caps = caps if caps is not None else self.caps
        self.looks_left = 0 if self.caps is not None else self.looks_left - 1

    def show_support(self, knows_cxfr: bool) -> None:
        """It has shown whether it knows the connection transfer."""
        self.knows_cxfr = knows_cxfr

    def refuse(self, words: str | None) -> None:
        """It has refused a request in these words."""
        self.refusal = words


def node_lane(*, max_element_bytes: int) -> Lane:
    """Return a lane for the bytes of a node, which may be longer than that once the stream is in use."""
    return Lane(max_element_bytes=max_element_bytes, max_depth=_ANY_DEPTH)


class NodeLeg:
    """The node's side.

    ``name`` is the node's. ``header`` is the node's own; ``None``: it has sent none yet. ``opened_by`` is the header
    that the node's stream was opened with, the client's as a rule.
    """

    __slots__ = ("header", "incoming", "lane", "name", "opened_by", "outgoing")

    def __init__(self, name: str, opened_by: StreamHeader, lane: Lane) -> None:
        self.name = name
        self.opened_by = opened_by
        self.header: StreamHeader | None = None
        self.lane = lane
        self.incoming = Incoming.READ
        self.outgoing = Outgoing.NEW

    @property
    def wanted(self) -> bool:
        """Whether its bytes are taken from its socket now."""
        return self.incoming in READABLE[Side.NODE]

    @property
    def writable(self) -> bool:
        return self.outgoing in WRITABLE

    def receive(self, incoming: Incoming) -> None:
        """Go on to that state of what comes in."""
        self.incoming = follow(INCOMING, self.incoming, incoming)

    def open(self, header: StreamHeader) -> None:
        """Its stream begins by that header of ours."""
        self.opened_by = header
        if self.writable:
            self.outgoing = follow(OUTGOING, self.outgoing, Outgoing.OPEN)

    def greet(self, header: StreamHeader) -> None:
        """It has sent that header."""
        self.header = header

    def restart(self) -> None:
        """Both directions begin anew: between ``<success/>`` and our next header there is no stream to end."""
        self.lane.restart()
        self.outgoing = follow(OUTGOING, self.outgoing, Outgoing.NEW)

    def end_stream(self) -> bytes:
        """Return what ends its stream, which is over with that; empty where none has begun."""
        end = self.opened_by.end if self.outgoing is Outgoing.OPEN else b""
        self.outgoing = follow(OUTGOING, self.outgoing, Outgoing.ENDED)
        return end

    def close_output(self) -> bool:
        """End its output; return whether its stream had been ended in good order."""
        ended = self.outgoing is Outgoing.ENDED
        self.outgoing = follow(OUTGOING, self.outgoing, Outgoing.CLOSED)
        return ended

    def come_into_use(self, *, max_held_bytes: int) -> None:
        """It is bound: its elements may be of any length, and longer ones are cut through."""
        self.lane.limit_elements(None)
        self.lane.hold_at_most(max_held_bytes)
        self.opened_by = self.opened_by.in_use
        if self.header is not None:
            self.header = self.header.in_use
