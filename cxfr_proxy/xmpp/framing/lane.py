"""One direction of a session: bytes that may go out now, and bytes that are held back until an element is whole.

A lane owns the framer of one incoming stream and the bytes behind its last boundary. Only complete elements leave it.
So a party that dies in the middle of one leaves the other's stream whole, and behind everything that was sent there is
a boundary where something may be injected. The exception: an element longer than ``max_held_bytes`` is *cut through*,
passed on as it comes; until it ends there is no boundary and :attr:`Lane.cutting` is true. How it began is kept in
:attr:`Lane.cut_head`.

A lane is read in one of two ways:

* scanning, for the hot path: :meth:`Lane.scan` turns a chunk into what may go out. If the framer reported events,
  :meth:`Lane.pieces` splits that output at them. If they were many, the rest is left :attr:`Lane.unread`.
* stepwise, while each element counts: :meth:`Lane.feed`, then :meth:`Lane.next` until it answers ``None``. Nothing is
  read beyond the element returned, so the reader may change its mind after each: restart the stream, hold, or go over
  to scanning with :meth:`Lane.take_unread`. Nothing is cut through, and of an element that was being cut through the
  rest comes in one piece.

A reader may change from each way to the other anywhere. White space in front of a stream's header is dropped: it
belongs to the stream before, from a client that ends its lines. In front of a header, and of an element that is read
stepwise, white space may be as long as an element: otherwise a client that sends nothing else would never have to log
in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing.framer import (
    Framer,
    FramerEvent,
    StreamFault,
    StreamStart,
    WholeElement,
    behind_header,
    behind_usual_header,
    is_native,
    new_framer,
)
from cxfr_proxy.xmpp.names import StreamCondition

_SPACE: Final = b" \t\r\n"
_NOT_BEGUN: Final = new_framer(max_element_bytes=None, max_depth=1)
"""The framer of all lanes whose stream has no byte yet. It is never fed, and nothing about it is changed: most streams
begin with a usual header, and so never need a framer that reads headers, which takes longer to make than to use."""
_HEAD_BYTES: Final = 8192
"""Bytes kept of the beginning of an element that is cut through: a start tag holds addresses of at most 3071 bytes
each, an id and some words."""


class Piece(Struct, frozen=True, gc=False):
    """Bytes of a stream in order, with what the framer reported about them.

    ``event`` is ``None`` for bytes that pass unseen: while scanning, any number of whole usual elements; while
    stepping, white space. ``whole`` is false if the beginning of a reported element was cut through before. ``last``:
    while stepping, nothing that was fed is left behind it, so :meth:`Lane.next` need not be asked (it may be all the
    same). ``note`` is left to the next reader by one that has put it back.
    """

    event: FramerEvent | None
    data: bytes
    whole: bool = True
    last: bool = False
    note: object = None


class Lane:
    """One direction of a session; see the module. ``max_held_bytes`` ``None``: nothing is cut through, and the framer's
    own limit is the bound."""

    __slots__ = (
        "_acks",
        "_again",
        "_every",
        "_framer",
        "_max_depth",
        "_max_element_bytes",
        "_reached",
        "_spaces",
        "cut_head",
        "max_held",
        "opened",
        "unread",
    )

    def __init__(self, *, max_element_bytes: int | None, max_depth: int, max_held_bytes: int | None = None) -> None:
        self._max_depth = max_depth
        self._max_element_bytes = max_element_bytes
        self.max_held = max_held_bytes
        self.unread = b""
        """Bytes that were fed, or given to :meth:`scan`, and are still to be read."""
        self._again: Piece | None = None
        self._reached: int | None = None
        self._every = self._acks = False
        self.cut_head = b""
        self._framer = _NOT_BEGUN
        self.opened = False
        self._spaces = 0

    def restart(self) -> None:
        """Begin a new stream (RFC 6120 section 4.3.3). Bytes that were fed and not read yet belong to it."""
        self._framer = _NOT_BEGUN
        self.opened = False
        self._spaces = 0

    def report_every(self, every: bool) -> None:
        """Set whether scanning reports each element from here on, or only what wants a look."""
        if every is not self._every:
            self._every = every
            if self._framer is not _NOT_BEGUN:
                self._framer.every = every

    def report_acks(self, acks: bool) -> None:
        """Set whether scanning reports each ``<a/>`` and ``<r/>`` (XEP-0198) from here on."""
        if acks is not self._acks:
            self._acks = acks
            if self._framer is not _NOT_BEGUN:
                self._framer.acks = acks

    def limit_elements(self, max_bytes: int | None) -> None:
        """Let elements be this long from here on; ``None``: any length."""
        self._max_element_bytes = max_bytes
        if self._framer is not _NOT_BEGUN:
            self._framer.max_element_bytes = max_bytes

    def hold_at_most(self, max_bytes: int | None) -> None:
        """Cut longer elements through from here on; ``None``: none."""
        self.max_held = max_bytes

    @property
    def stanzas(self) -> int:
        """How many of the stream's complete elements were stanzas; see :class:`~.events.WholeElement`."""
        return self._framer.stanzas

    @property
    def stanzas_dealt_with(self) -> int:
        """How many of these were dealt with: those up to the element that :meth:`pieces` has just yielded. Scanning is
        further."""
        return self._framer.stanzas if self._reached is None else self._reached

    @property
    def ack(self) -> bytes | None:
        """See :attr:`cxfr_proxy.xmpp.framing.framer.Framer.ack`."""
        return self._framer.ack

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished element is kept here, and how much was fed but not read."""
        return len(self._framer.held) + len(self.unread)

    @property
    def _released(self) -> int:
        """The stream offset of what has not gone out yet."""
        return self._framer.position - len(self._framer.held)

    @property
    def cutting(self) -> bool:
        """Whether a part of an element that has not ended has gone out."""
        return self._released > self._framer.boundary

    # --- scanning

    @property
    def scanner(self) -> Framer | None:
        """The framer that reads the stream now, if it is the native engine and no event of it waits; ``None``
        otherwise.

        C code that feeds it, instead of calling :meth:`scan`, passes the chunk to :meth:`scanned`, or does the same.
        """
        return self._framer if is_native(self._framer) and not self._framer.events else None

    def scan(self, data: bytes) -> bytes:
        """Return the bytes that may go out now. If :attr:`has_events` is true afterwards, they have to go through
        :meth:`pieces`.

        If there is something :attr:`unread` afterwards, those bytes have to be scanned before any others;
        :meth:`take_unread` gives them.
        """
        framer = self._framer
        boundary = framer.scan(data)
        # If it has stopped early, then behind its last event.
        used = boundary if framer.events and framer.events[-1].end == framer.position else len(data)
        return self.scanned(data, boundary, used)

    def scanned(self, data: bytes, boundary: int, used: int) -> bytes:
        """Return the same as :meth:`scan`, after the framer has read ``used`` bytes of ``data`` and answered
        ``boundary``."""
        framer = self._framer
        if used < len(data):
            data, self.unread = data[:used], data[used:]
        # Everything before the last boundary may go; behind what was held of the element that ends first.
        if boundary:
            held, framer.held = framer.held, data[boundary:]
            return bytes(held) + data[:boundary] if held else data[:boundary]
        if self._released - len(data) > framer.boundary:
            # The element is being cut through. Nothing is held then, unless it was read stepwise in between.
            held, framer.held = framer.held, b""
            return bytes(held) + data
        return self._hold(data)

    def _keep(self, data: bytes) -> None:
        framer = self._framer
        if not framer.held:
            framer.held = data
        else:
            # A bytearray grows in place: an element that trickles in would otherwise be copied with each chunk.
            if isinstance(framer.held, bytes):
                framer.held = bytearray(framer.held)
            framer.held += data

    def _hold(self, data: bytes) -> bytes:
        framer = self._framer
        self._keep(data)
        if self.max_held is None or len(framer.held) <= self.max_held:
            return b""
        ready, framer.held = bytes(framer.held), b""
        self.cut_head = ready[:_HEAD_BYTES]
        return ready

    @property
    def has_events(self) -> bool:
        """Whether the last scan met something to look at."""
        return bool(self._framer.events)

    def pieces(self, ready: bytes) -> Iterator[Piece]:
        """Split what the last :meth:`scan` returned at the events in it."""
        # Events count from the stream's first byte; ready begins at base.
        base = at = self._released - len(ready)
        events, self._framer.events = self._framer.events, []
        for event in events:
            start = max(event.start, base)
            self._reached = None
            if start > at:
                yield Piece(None, ready[at - base : start - base])
            # A fault inside an element that is cut through has its offset at the last boundary, in front of what went
            # out.
            end = max(event.end, start)
            if isinstance(event, WholeElement):
                self._reached = event.stanzas
            yield Piece(event, ready[start - base : end - base], whole=event.start >= base)
            if isinstance(event, StreamFault):
                return  # the fault is in what comes next, which must not go out
            at = end
        self._reached = None
        if at < self._released:
            yield Piece(None, ready[at - base :])

    # --- stepwise

    def feed(self, data: bytes) -> None:
        """Take bytes for :meth:`next` to read."""
        self.unread = self.unread + data if self.unread else data

    def next(self) -> Piece | None:
        """Return the next element, end, fault, or white space; ``None`` when more bytes are needed for one."""
        if self._again is not None:
            piece, self._again = self._again, None
            return piece
        framer, unread = self._framer, self.unread
        if not framer.events:
            if not unread:
                return None
            if framer is _NOT_BEGUN:
                return self._begin(unread)
            at = framer.position
            used = framer.step(unread)
            self.unread = rest = unread[used:]
            if framer.events and not framer.held:
                event = framer.events[0]
                if event.start == at and isinstance(event, WholeElement):
                    # Nearly always: it has come in one piece, and all of that piece is it.
                    framer.events.clear()
                    self._spaces = 0
                    return Piece(event, unread[:used], True, not rest)
            self._keep(unread[:used])
        return self._next_of_held()

    def _begin(self, unread: bytes) -> Piece | None:
        """Return what a new stream begins with, as :meth:`next` does: a usual header at a glance."""
        framer = behind_usual_header(unread, max_element_bytes=self._max_element_bytes, max_depth=self._max_depth)
        if framer is not None:
            end = framer.boundary
            self.unread = rest = unread[end:]
            self._go_on_with(framer)
            return Piece(StreamStart(0, end), unread[:end], True, not rest)
        stream = unread.lstrip(_SPACE)
        if stream is unread:
            self._read_header()
        else:
            self.unread = stream
            self._count_spaces(len(unread) - len(stream))
        return self.next()

    def _next_of_held(self) -> Piece | None:
        """Return the next piece of what the framer has read, and the lane has kept."""
        framer = self._framer
        if not framer.events:
            spaces = self._release(framer.boundary, None)
            if spaces is not None:
                self._count_spaces(len(spaces.data))
            return spaces
        self._spaces = 0
        event = framer.events[0]
        if event.start > self._released:
            return self._release(event.start, None)  # white space before it
        del framer.events[0]
        if isinstance(event, StreamStart):
            self._go_behind_header(event)
        return self._release(event.end, event)

    def _count_spaces(self, count: int) -> None:
        self._spaces += count
        limit = self._max_element_bytes
        if limit is not None and self._spaces > limit:
            framer = self._framer if self._framer is not _NOT_BEGUN else self._read_header()
            at = framer.boundary
            text = f"more than {limit} bytes of white space"
            framer.events.append(StreamFault(at, at, StreamCondition.POLICY_VIOLATION, text))

    def put_back(self, piece: Piece, note: object = None) -> None:
        """Have :meth:`next` return this piece once more, for another reader, with that note."""
        self._again = Piece(piece.event, piece.data, piece.whole, note=note)  # not the last: more may be fed before

    def _read_header(self) -> Framer:
        """Have a framer read whatever the stream begins with."""
        self._framer = new_framer(max_element_bytes=self._max_element_bytes, max_depth=self._max_depth)
        return self._framer

    def _go_behind_header(self, header: StreamStart) -> None:
        before = self._framer
        tag = stanza.tag_name(bytes(before.held[: header.end]))
        framer = behind_header(before, tag, max_depth=self._max_depth)
        framer.held = before.held
        self._go_on_with(framer)

    def _go_on_with(self, framer: Framer) -> None:
        """Have that framer read the stream, of which the header is read."""
        framer.every, framer.acks = self._every, self._acks
        self._framer = framer
        self._spaces = 0
        self.opened = True

    def _release(self, end: int, event: FramerEvent | None) -> Piece | None:
        released = self._released
        if end <= released and event is None:
            return None  # nothing yet, or the rest of what is being cut through
        held, size = self._framer.held, max(0, end - released)
        self._framer.held = bytes(held[size:])
        return Piece(event, bytes(held[:size]), whole=event is None or event.start >= released)

    def skip(self, data: bytes) -> bool:
        """Drop ``data`` if it comes next; return whether it did."""
        if self._again is not None or not self.unread.startswith(data):
            return False
        self.unread = self.unread[len(data) :]
        return True

    def take_unread(self) -> bytes:
        """Return bytes that were fed and not read; the caller feeds them to :meth:`scan`, or drops them."""
        unread, self.unread = self.unread, b""
        return unread
