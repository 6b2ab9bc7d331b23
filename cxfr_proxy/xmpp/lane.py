"""One direction of a session: what may go out now, and what is held back until it is whole.

A lane owns the framer of one incoming stream and the bytes behind its last boundary. Only complete elements leave it.
So a party that dies in the middle of one leaves the other's stream whole, and behind everything that was sent there is
a boundary where something may be injected. The exception: an element longer than ``max_held_bytes`` is *cut through*,
passed on as it comes; until it ends there is no boundary and :attr:`Lane.cutting` is true.

A lane is read in one of two ways:

* scanning, for the hot path: :meth:`Lane.scan` turns a chunk into what may go out. If the framer had something to note,
  :meth:`Lane.pieces` splits that output at what was noted.
* stepwise, while each element counts: :meth:`Lane.feed`, then :meth:`Lane.next` until it answers ``None``. Nothing is
  read beyond the element returned, so the reader may change its mind after each: restart the stream, hold, or go over
  to scanning with :meth:`Lane.take_unread`. Nothing is cut through, and of an element that was being cut through the
  rest comes in one piece.

One may go over from each way to the other anywhere. White space in front of a stream's header is dropped: it belongs to
the stream before, from a client that ends its lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing import Failure, Framer, Header, Note, behind_header, new_framer

_SPACE: Final = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a stream in order, with what was noted about them.

    ``note`` is ``None`` for what passes unnoticed: while scanning any number of whole usual elements, while stepping
    white space. ``whole`` is false where the beginning of a noted element was cut through before.
    """

    note: Note | None
    data: bytes
    whole: bool = True


class Lane:
    """See the module. ``max_held_bytes`` ``None``: nothing is cut through, the framer's own limit is the bound."""

    __slots__ = (
        "_acks",
        "_begun",
        "_every",
        "_framer",
        "_held",
        "_max_depth",
        "_max_element_bytes",
        "_released",
        "_unread",
        "cutting",
        "max_held",
        "opened",
    )

    def __init__(self, *, max_element_bytes: int | None, max_depth: int, max_held_bytes: int | None = None) -> None:
        self._max_depth = max_depth
        self._max_element_bytes = max_element_bytes
        self.max_held = max_held_bytes
        self._unread = b""
        self._every = self._acks = False
        self.restart()

    def restart(self) -> None:
        """What is read next is a new stream (RFC 6120 section 4.3.3); what was fed and not yet read belongs to it."""
        self._framer: Framer = new_framer(max_element_bytes=self._max_element_bytes, max_depth=self._max_depth)
        self._held: bytes | bytearray = b""
        self._released = 0
        self.opened = False
        self.cutting = False
        unread, self._unread, self._begun = self._unread, b"", False
        self.feed(unread)

    def note_every(self, every: bool) -> None:
        """Whether scanning notes each element from here on, or only what wants a look."""
        self._every = self._framer.every = every

    def note_acks(self, acks: bool) -> None:
        """Whether scanning notes each ``<a/>`` (XEP-0198) from here on."""
        self._acks = self._framer.acks = acks

    def limit_elements(self, max_bytes: int | None) -> None:
        """From here on elements may be this long; ``None``: any length."""
        self._max_element_bytes = max_bytes
        self._framer.max_element_bytes = max_bytes

    @property
    def stanzas(self) -> int:
        """How many of the stream's complete elements were stanzas; see :class:`~cxfr_proxy.xmpp.notes.Element`."""
        return self._framer.stanzas

    @property
    def ack(self) -> bytes | None:
        """See :attr:`cxfr_proxy.xmpp.framing.Framer.ack`."""
        return self._framer.ack

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished element is kept here, and how much was fed but not read."""
        return len(self._held) + len(self._unread)

    # --- scanning

    def scan(self, data: bytes) -> bytes:
        """What may go out now. If :attr:`noted` is true after it, what it returned has to go through :meth:`pieces`."""
        boundary = self._framer.scan(data)
        if self.cutting:
            ready = self._scan_cutting(data, boundary)
        elif not boundary:
            ready = self._hold(data)
        elif boundary == len(data):
            ready = bytes(self._held) + data if self._held else data
            self._held = b""
        else:
            ready = bytes(self._held) + data[:boundary]
            self._held = data[boundary:]
        self._released += len(ready)
        return ready

    def _hold(self, data: bytes) -> bytes:
        if self._held:
            # A growing array: an element that trickles in must not be copied once a chunk.
            if isinstance(self._held, bytes):
                self._held = bytearray(self._held)
            self._held += data
        else:
            self._held = data
        if self.max_held is None or len(self._held) <= self.max_held:
            return b""
        ready, self._held = bytes(self._held), b""
        self.cutting = True
        return ready

    def _scan_cutting(self, data: bytes, boundary: int) -> bytes:
        # Nothing is held then, unless it was read stepwise in between.
        held, self._held = bytes(self._held), b""
        if not boundary:
            return held + data
        self.cutting = False
        self._held = data[boundary:]
        return held + data[:boundary]

    @property
    def noted(self) -> bool:
        """Whether the last scan met something to look at."""
        return bool(self._framer.notes)

    def pieces(self, ready: bytes) -> Iterator[Piece]:
        """Split what the last :meth:`scan` returned at what it noted."""
        base = at = self._released - len(ready)
        notes, self._framer.notes = self._framer.notes, []
        for note in notes:
            start = max(note.start, base)
            if start > at:
                yield Piece(None, ready[at - base : start - base])
            # A failure inside an element that is cut through lies behind what has gone out.
            end = max(note.end, start)
            yield Piece(note, ready[start - base : end - base], whole=note.start >= base)
            if isinstance(note, Failure):
                return  # what comes next is at fault
            at = end
        if at < self._released:
            yield Piece(None, ready[at - base :])

    # --- stepwise

    def feed(self, data: bytes) -> None:
        """Bytes for :meth:`next` to read."""
        if not self._begun:
            data = data.lstrip(_SPACE)
            self._begun = bool(data)
        self._unread = self._unread + data if self._unread else data

    def next(self) -> Piece | None:
        """The next element, end, failure, or white space; ``None`` when more bytes are needed for one."""
        framer = self._framer
        if not framer.notes:
            used = framer.step(self._unread)
            self._held = bytes(self._held) + self._unread[:used]
            self._unread = self._unread[used:]
        if not framer.notes:
            return self._release(framer.boundary, None)
        note = framer.notes[0]
        if note.start > self._released:
            return self._release(note.start, None)  # white space before it
        del framer.notes[0]
        if isinstance(note, Header):
            tag = stanza.tag_name(bytes(self._held[: note.end]))
            self._framer = behind_header(framer, tag, max_depth=self._max_depth)
            self._framer.every, self._framer.acks = self._every, self._acks
            self.opened = True
        return self._release(note.end, note)

    def _release(self, end: int, note: Note | None) -> Piece | None:
        size = end - self._released
        if size > 0:
            self.cutting = False
        elif note is None:
            return None  # nothing yet, or the rest of what is being cut through
        size = max(size, 0)
        data, self._held = bytes(self._held[:size]), self._held[size:]
        whole = note is None or note.start >= self._released
        self._released += size
        return Piece(note, data, whole)

    def skip(self, data: bytes) -> bool:
        """Drop ``data`` if it is what comes next; whether it was."""
        if not self._unread.startswith(data):
            return False
        self._unread = self._unread[len(data) :]
        return True

    def take_unread(self) -> bytes:
        """What was fed and not yet read; the caller feeds it to :meth:`scan`, or drops it."""
        unread, self._unread = self._unread, b""
        return unread
